/* tile_amx.c - products in bf16 by tiles of AMX: 16 tokens times 16 rows of 32 columns in one instruction (tdpbf16ps), at best
 * four times the multiply-adds of VNNI, and nothing to scale afterwards.
 *
 * Weights become bf16 here, scaled, one slab of two row tiles at a time: 8 bits of a product of a quant and its scale, which as
 * a file's number is itself rounded far more coarsely. A chain is what the instruction defines: for each 32 columns, ascending,
 * the even and the odd columns' products are summed apart, then together, then to the chain, in f32; numbers too small for a
 * normal f32 are 0. ("Intel Architecture Instruction Set Extensions Programming Reference", TDPBF16PS.) It is the same for a token
 * wherever in a tile it lies, and whatever lies beside it. */
#define UNPACK_FLIP 128
#include "kernel/tile_amx.h"
#include "kernel/kernel_internal.h"
#include "kernel/unpack_avx512.h"

#include <string.h>

#define TILE_INLINE static inline __attribute__((always_inline))
/* Groups of a slab, at most. Two row tiles of 32 groups are 64 KB, which the second-level cache has ready, as they are read in the order in which
 * they lie; smaller slabs would have chains stored and loaded again more often. */
#define SLAB_GROUPS (2 * PANEL_GROUPS)
#define SLAB_UNIT 8u /* of which there is a whole number in each but the last: a block of the k-quants */
#define PAIRS (GROUP_COLUMNS / 2)

/* Weights of a slab as the instruction takes them: of each two columns, 16 rows of both. */
typedef uint32_t tile_weights[SLAB_GROUPS][PAIRS][TILE_ROWS];

/* ---- weights to bf16 ------------------------------------------------------------------------------------------------ */

/* Of panels whose bytes are quant + offset, with `words` rows of four columns to a scale. */
TILE_INLINE void brief_panel(const struct matmul_panel *panel, uint32_t groups, const uint32_t words,
                             const int32_t offset, const bool minimum, uint32_t (*out)[PAIRS][TILE_ROWS])
{
    const __m512i start = _mm512_set1_epi32(DOT_START - offset); /* the bits of DOT_ZERO - offset */
    const uint32_t halves = 8 / words;
    for (uint32_t g = 0; g < groups; g++) UNROLL
    for (uint32_t half = 0; half < halves; half++) {
        const __m512 scale = _mm512_load_ps(panel->scales[g * halves + half]);
        const __m512 base = _mm512_mul_ps(scale, _mm512_set1_ps(-DOT_ZERO)); /* exact: matmul_internal.h */
        const __m512 least = minimum ? _mm512_load_ps(panel->minima[g * halves + half]) : _mm512_setzero_ps();
        UNROLL
        for (uint32_t w = 0; w < words; w++) {
            const __m512i bytes = _mm512_load_si512(panel->quants[(g * halves + half) * words + w]);
            __m512 values[4];
            UNROLL
            for (uint32_t c = 0; c < 4; c++) {
                const __m512i quant = _mm512_dpbusd_epi32(start, bytes, _mm512_set1_epi32(1 << (8 * c)));
                values[c] = _mm512_fmadd_ps(_mm512_castsi512_ps(quant), scale, base);
                if (minimum) values[c] = _mm512_add_ps(values[c], least);
            }
            _mm512_store_si512(out[g][2 * (half * words + w)], pairs_to_bf16(values[0], values[1]));
            _mm512_store_si512(out[g][2 * (half * words + w) + 1], pairs_to_bf16(values[2], values[3]));
        }
    }
}

static void brief_weights(enum matmul_kind kind, const struct matmul_panel *panel, uint32_t groups,
                          uint32_t (*out)[PAIRS][TILE_ROWS])
{
    switch (kind) {
    case KIND_OFFSET_8:
        brief_panel(panel, groups, 8, 8, false, out);
        break;
    case KIND_OFFSET_16:
        brief_panel(panel, groups, 8, 16, false, out);
        break;
    case KIND_OFFSET_128:
        brief_panel(panel, groups, 8, 128, false, out);
        break;
    case KIND_MINIMUM_4:
    case KIND_MINIMUM_5:
        brief_panel(panel, groups, 8, 0, true, out);
        break;
    case KIND_HALF_OFFSET_4:
        brief_panel(panel, groups, 4, 4, false, out);
        break;
    case KIND_HALF_OFFSET_32:
        brief_panel(panel, groups, 4, 32, false, out);
        break;
    case KIND_HALF_MINIMUM:
        brief_panel(panel, groups, 4, 0, true, out);
        break;
    default:
        ASSERT(!"a kind that formats have");
    }
}

/* ---- activations to bf16 -------------------------------------------------------------------------------------------- */

void kernel_tile_prepare_amx(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    for (uint32_t token = begin; token < end; token++) {
        const float *x = input->rows + token * input->stride;
        uint16_t *out = input->brief + token * input->brief_stride;
        for (uint32_t c = 0; c < input->columns; c += GROUP_COLUMNS)
            _mm512_storeu_si512(out + c,
                                (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + c + 16), _mm512_loadu_ps(x + c)));
    }
}

/* ---- products --------------------------------------------------------------------------------------------------------- */

typedef float tile_chains[BRIEF_TOKENS][TILE_ROWS];

struct tile_job {
    const struct kernel_input *input;
    const float *bias; /* or NULL */
    float *chains;     /* [tokens, stride] */
    uint64_t stride;
    bool sums; /* they are to be added to what is there */
    uint32_t token_begin, token_end, row_end;
    uint32_t group, groups; /* of the slab */
    bool first, last;       /* of the row's slabs */
};

/* Chains of the 16 tokens from `token`, rows from `row` on, where they wait between slabs: what they are added to they begin with. */
static float *chains_at(const struct tile_job *job, uint32_t token, uint32_t row)
{
    return job->chains + token * job->stride + row;
}
/* Whether all of a tile are wanted, so that it can lie there as it is. */
static bool tile_whole(const struct tile_job *job, uint32_t token, uint32_t row)
{
    return token >= job->token_begin && token + BRIEF_TOKENS <= job->token_end && row + TILE_ROWS <= job->row_end;
}
static __mmask16 tile_mask(const struct tile_job *job, uint32_t row)
{
    return job->row_end - row < TILE_ROWS ? (__mmask16)((1u << (job->row_end - row)) - 1) : (__mmask16)0xffff;
}

static void chains_read(const struct tile_job *job, uint32_t token, uint32_t row, tile_chains chains)
{
    const __mmask16 rows = tile_mask(job, row);
    memset(chains, 0, sizeof(tile_chains));
    for (uint32_t t = 0; t < BRIEF_TOKENS; t++)
        if (token + t >= job->token_begin && token + t < job->token_end)
            _mm512_store_ps(chains[t], _mm512_maskz_loadu_ps(rows, chains_at(job, token + t, row)));
}
/* Finished chains, or some that wait for the next slab. */
static void chains_write(const struct tile_job *job, uint32_t token, uint32_t row, tile_chains chains)
{
    const __mmask16 rows = tile_mask(job, row);
    const float *bias = job->last && job->bias ? job->bias + row : NULL;
    for (uint32_t t = 0; t < BRIEF_TOKENS; t++) {
        if (token + t < job->token_begin || token + t >= job->token_end) continue;
        __m512 chain = _mm512_load_ps(chains[t]);
        if (bias) chain = _mm512_add_ps(chain, _mm512_maskz_loadu_ps(rows, bias));
        _mm512_mask_storeu_ps(chains_at(job, token + t, row), rows, chain);
    }
}

/* One of the four: before its products, and after. */
#define CHAIN_BEGIN(number, token, row)                                       \
    do {                                                                      \
        if (job->first && !job->sums) {                                       \
            _tile_zero(number);                                               \
        } else if (tile_whole(job, token, row)) {                             \
            _tile_loadd(number, chains_at(job, token, row), job->stride * 4); \
        } else {                                                              \
            chains_read(job, token, row, chains);                             \
            _tile_loadd(number, chains, 64);                                  \
        }                                                                     \
    } while (0)
#define CHAIN_END(number, token, row)                                          \
    do {                                                                       \
        if (tile_whole(job, token, row) && !(job->last && job->bias)) {        \
            _tile_stored(number, chains_at(job, token, row), job->stride * 4); \
        } else {                                                               \
            _tile_stored(number, chains, 64);                                  \
            chains_write(job, token, row, chains);                             \
        }                                                                      \
    } while (0)

/* 16 or 32 tokens from `token` on, 16 or 32 rows. Registers 0...3 hold chains of [token tile][row tile], 4 and 5 tokens, 6 and 7
 * weights: each that is loaded is used twice. Loading is what takes longest. */
TILE_INLINE void tile_block(const struct tile_job *job, const tile_weights *weights, uint32_t token, uint32_t row,
                            const bool two_tokens, const bool two_rows)
{
    _Alignas(64) tile_chains chains;
    const uint32_t next_token = token + BRIEF_TOKENS, next_row = row + TILE_ROWS;
    const uint64_t stride = job->input->brief_stride * 2;
    const uint16_t *a = job->input->brief + token * job->input->brief_stride + (uint64_t)job->group * GROUP_COLUMNS;
    const uint16_t *b = a + BRIEF_TOKENS * job->input->brief_stride;
    CHAIN_BEGIN(0, token, row);
    if (two_rows) CHAIN_BEGIN(1, token, next_row);
    if (two_tokens) CHAIN_BEGIN(2, next_token, row);
    if (two_tokens && two_rows) CHAIN_BEGIN(3, next_token, next_row);
    for (uint32_t g = 0; g < job->groups; g++, a += GROUP_COLUMNS, b += GROUP_COLUMNS) {
        _tile_loadd(4, a, stride);
        _tile_loadd(6, weights[0][g], 64);
        _tile_dpbf16ps(0, 4, 6);
        if (two_rows) {
            _tile_loadd(7, weights[1][g], 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (!two_tokens) continue;
        _tile_loadd(5, b, stride);
        _tile_dpbf16ps(2, 5, 6);
        if (two_rows) _tile_dpbf16ps(3, 5, 7);
    }
    CHAIN_END(0, token, row);
    if (two_rows) CHAIN_END(1, token, next_row);
    if (two_tokens) CHAIN_END(2, next_token, row);
    if (two_tokens && two_rows) CHAIN_END(3, next_token, next_row);
}

static void tile_tokens(const struct tile_job *job, const tile_weights *weights, uint32_t row)
{
    const bool two_rows = row + TILE_ROWS < job->row_end;
    for (uint32_t token = job->token_begin / BRIEF_TOKENS * BRIEF_TOKENS; token < job->token_end;
         token += 2 * BRIEF_TOKENS)
        if (token + BRIEF_TOKENS < job->token_end && two_rows)
            tile_block(job, weights, token, row, true, true);
        else if (token + BRIEF_TOKENS < job->token_end)
            tile_block(job, weights, token, row, true, false);
        else if (two_rows)
            tile_block(job, weights, token, row, false, true);
        else
            tile_block(job, weights, token, row, false, false);
}

/* The slab of the tile at `row`, as bf16. */
static void slab_weights(const struct kernel_matrix *weights, uint32_t row, uint32_t group, uint32_t groups,
                         tile_weights out)
{
    struct matmul_panel panel;
    const uint8_t *tile =
        (const uint8_t *)weights->data + row / TILE_ROWS * tile_bytes(weights->format, weights->columns);
    const uint32_t *words = (const uint32_t *)(tile + tile_words_at(weights->format, weights->columns));
    for (uint32_t done = 0, some; done < groups; done += some) {
        some = groups - done < PANEL_GROUPS ? groups - done : PANEL_GROUPS;
        unpack_table[weights->format]((const uint16_t *)tile, words, group + done, some, &panel);
        brief_weights(matmul_kind(weights->format), &panel, some, out + done);
    }
}

void kernel_tile_matmul_amx(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                            uint32_t token_end, uint32_t row_begin, uint32_t row_end,
                            const struct kernel_output *output)
{
    ASSERT(input->columns == weights->columns && token_end <= input->tokens && row_end <= weights->rows);
    ASSERT(row_begin % TILE_ROWS == 0 && token_end <= output->tokens);
    _Alignas(64) tile_weights unpacked[2];
    const uint32_t groups = weights->columns / GROUP_COLUMNS, slabs = (groups + SLAB_GROUPS - 1) / SLAB_GROUPS;
    const uint32_t units = (groups + SLAB_UNIT - 1) / SLAB_UNIT;
    struct tile_job job = {.input = input,
                           .bias = output->bias,
                           .chains = output->sum ? output->sum : output->out,
                           .stride = output->sum ? output->sum_stride : output->stride,
                           .sums = output->sum,
                           .token_begin = token_begin,
                           .token_end = token_end,
                           .row_end = row_end};
    _tile_loadconfig(&tile_shapes_whole);
    for (uint32_t slab = 0; slab < slabs; slab++, job.group += job.groups) {
        const uint32_t end = (slab + 1) * units / slabs * SLAB_UNIT;
        job.groups = (end < groups ? end : groups) - job.group;
        job.first = slab == 0;
        job.last = slab + 1 == slabs;
        for (uint32_t row = row_begin; row < row_end; row += 2 * TILE_ROWS) {
            slab_weights(weights, row, job.group, job.groups, unpacked[0]);
            if (row + TILE_ROWS < row_end) slab_weights(weights, row + TILE_ROWS, job.group, job.groups, unpacked[1]);
            tile_tokens(&job, (const tile_weights *)unpacked, row);
        }
    }
    _tile_release();
}
