/* matrix.c - packs weight matrices: the file's blocks, transposed by tiles of 16 rows (layout: matmul_internal.h).
 *
 * One pass from the file's bytes to the packed ones, tiles shared by the pool; no scratch copy. All tables share this
 * layout, so `kernel` only names who will read it. Loading a model is this and the clearing of pages by
 * the operating system, so blocks move in registers, four rows by four words, and the next tile's bytes are asked for
 * ahead. SSE2 only, which every x86-64 has: memory sets the pace. */
#include "kernel/matmul_internal.h"

#include <emmintrin.h>
#include <stdatomic.h>
#include <string.h>

#define UNIT_BYTES (128u << 10) /* about what a worker packs at a time */

const struct tile_format *tile_format(enum number_format format)
{
    static const struct tile_format formats[NF_COUNT] = {
        [NF_Q4_0] = {1, 0, 4, 2},    [NF_Q4_1] = {2, 0, 4, 4},   [NF_Q5_0] = {1, 0, 5, 2},
        [NF_Q5_1] = {2, 0, 5, 4},    [NF_Q8_0] = {1, 0, 8, 2},   [NF_Q2_K] = {2, 80, 20, 0},
        [NF_Q3_K] = {1, 108, 27, 0}, [NF_Q4_K] = {2, 0, 35, 4},  [NF_Q5_K] = {2, 0, 43, 4},
        [NF_Q6_K] = {1, 208, 52, 0}, [NF_IQ4_NL] = {1, 0, 4, 2}, [NF_IQ4_XS] = {2, 0, 33, 4},
    };
    return &formats[format];
}

uint64_t tile_words_at(enum number_format format, uint32_t columns)
{
    uint64_t blocks = columns / number_format_info(format)->block_elements;
    return round_up(blocks * tile_format(format)->halves * TILE_ROWS * 2, 64);
}

uint64_t tile_bytes(enum number_format format, uint32_t columns)
{
    const struct number_format_info *info = number_format_info(format);
    uint64_t blocks = columns / info->block_elements;
    if (info->block_elements == 1) return round_up(blocks * info->block_bytes * TILE_ROWS, 64);
    return tile_words_at(format, columns) + blocks * tile_format(format)->words * TILE_ROWS * 4;
}

/* Where the rows of a tile are read next. Lanes without a row read zeros and stay there. */
struct lanes {
    const uint8_t *at[TILE_ROWS];
    uint32_t rows; /* that are there */
};

static void lanes_init(struct lanes *lanes, const uint8_t *source, uint64_t row_bytes, uint32_t rows)
{
    static const uint8_t zeros[256]; /* longer than any block */
    for (uint32_t lane = 0; lane < TILE_ROWS; lane++) lanes->at[lane] = lane < rows ? source + lane * row_bytes : zeros;
    lanes->rows = rows;
}

static void lanes_advance(struct lanes *lanes, uint32_t bytes)
{
    for (uint32_t lane = 0; lane < lanes->rows; lane++) lanes->at[lane] += bytes;
}

static __m128i load_16_bytes(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

static __m128i load_word(const uint8_t *at)
{
    int32_t word;
    memcpy(&word, at, 4);
    return _mm_cvtsi32_si128(word);
}

/* `words` 32-bit words, `offset` bytes from where the lanes are: out[word][lane]. */
static void transpose_words(const struct lanes *lanes, uint32_t offset, uint32_t words, uint32_t *out)
{
    for (uint32_t lane = 0; lane < TILE_ROWS; lane += 4) {
        const uint8_t *a = lanes->at[lane] + offset, *b = lanes->at[lane + 1] + offset;
        const uint8_t *c = lanes->at[lane + 2] + offset, *d = lanes->at[lane + 3] + offset;
        __m128i *to = (__m128i *)(void *)(out + lane);
        uint32_t word = 0;
        for (; word + 4 <= words; word += 4, to += 4 * TILE_ROWS / 4, a += 16, b += 16, c += 16, d += 16) {
            __m128i ra = load_16_bytes(a), rb = load_16_bytes(b), rc = load_16_bytes(c), rd = load_16_bytes(d);
            __m128i low_ab = _mm_unpacklo_epi32(ra, rb), high_ab = _mm_unpackhi_epi32(ra, rb);
            __m128i low_cd = _mm_unpacklo_epi32(rc, rd), high_cd = _mm_unpackhi_epi32(rc, rd);
            _mm_store_si128(to, _mm_unpacklo_epi64(low_ab, low_cd));
            _mm_store_si128(to + TILE_ROWS / 4, _mm_unpackhi_epi64(low_ab, low_cd));
            _mm_store_si128(to + 2 * TILE_ROWS / 4, _mm_unpacklo_epi64(high_ab, high_cd));
            _mm_store_si128(to + 3 * TILE_ROWS / 4, _mm_unpackhi_epi64(high_ab, high_cd));
        }
        for (; word < words; word++, to += TILE_ROWS / 4, a += 4, b += 4, c += 4, d += 4)
            _mm_store_si128(to, _mm_unpacklo_epi64(_mm_unpacklo_epi32(load_word(a), load_word(b)),
                                                   _mm_unpacklo_epi32(load_word(c), load_word(d))));
    }
}

/* `halves` 16-bit numbers: out[half][lane]. */
static void transpose_halves(const struct lanes *lanes, uint32_t offset, uint32_t halves, uint16_t *out)
{
    for (uint32_t half = 0; half < halves; half++)
        for (uint32_t lane = 0; lane < TILE_ROWS; lane++)
            memcpy(&out[half * TILE_ROWS + lane], lanes->at[lane] + offset + 2 * half, 2);
}

/* The same for 8 of them, as 4 words of two. */
static void transpose_8_halves(const struct lanes *lanes, uint16_t *out)
{
    _Alignas(16) uint32_t pairs[4 * TILE_ROWS];
    transpose_words(lanes, 0, 4, pairs);
    const __m128i *from = (const __m128i *)(const void *)pairs;
    __m128i *to = (__m128i *)(void *)out;
    for (uint32_t pair = 0; pair < 4; pair++, from += 4, to += 4)
        for (uint32_t i = 0; i < 2; i++) { /* 8 lanes each: the words' low halves, then their high ones */
            __m128i x = from[2 * i], y = from[2 * i + 1];
            _mm_store_si128(to + i, _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(x, 16), 16),
                                                    _mm_srai_epi32(_mm_slli_epi32(y, 16), 16)));
            _mm_store_si128(to + 2 + i, _mm_packs_epi32(_mm_srai_epi32(x, 16), _mm_srai_epi32(y, 16)));
        }
}

static __m128i exchange(__m128i bits, uint32_t mask, int distance)
{
    __m128i differ = _mm_and_si128(_mm_xor_si128(bits, _mm_srli_epi32(bits, distance)), _mm_set1_epi32((int)mask));
    return _mm_xor_si128(bits, _mm_xor_si128(differ, _mm_slli_epi32(differ, distance)));
}

/* Q5_0's fifth bits: bit 4j + i belongs to element 4j + i; as Q5_K has them it is bit j of byte i. The five bits of a
 * bit's index turn by two places: four exchanges of two of them. */
static void fifth_bits_by_byte(uint32_t *words)
{
    __m128i *at = (__m128i *)(void *)words;
    for (uint32_t i = 0; i < TILE_ROWS / 4; i++) {
        __m128i bits = exchange(exchange(at[i], 0x0a0a0a0a, 3), 0x00cc00cc, 6);
        at[i] = exchange(exchange(bits, 0x0000f0f0, 12), 0x0000ff00, 8);
    }
}

static void pack_quants(enum number_format format, struct lanes *lanes, uint32_t columns, uint8_t *tile)
{
    const struct number_format_info *info = number_format_info(format);
    const struct tile_format fields = *tile_format(format);
    uint16_t *halves = (uint16_t *)(void *)tile;
    uint32_t *words = (uint32_t *)(void *)(tile + tile_words_at(format, columns));
    uint64_t blocks = columns / info->block_elements;
    bool fifth = format == NF_Q5_0 || format == NF_Q5_1;
    for (uint64_t b = 0; b < blocks; b++, halves += fields.halves * TILE_ROWS, words += fields.words * TILE_ROWS) {
        transpose_halves(lanes, fields.half_at, fields.halves, halves);
        transpose_words(lanes, fields.word_at, fields.words, words);
        if (fifth) fifth_bits_by_byte(words);
        lanes_advance(lanes, info->block_bytes);
    }
    memset(halves, 0, (size_t)((uint8_t *)words - blocks * fields.words * TILE_ROWS * 4 - (uint8_t *)halves));
}

static void pack_f32(struct lanes *lanes, uint32_t columns, uint8_t *tile)
{
    uint32_t *out = (uint32_t *)(void *)tile;
    for (uint32_t c = 0, count; c < columns; c += count, out += count * TILE_ROWS) {
        count = columns - c < 32 ? columns - c : 32;
        transpose_words(lanes, 0, count, out);
        lanes_advance(lanes, count * 4);
    }
}

/* f16 or bf16. */
static void pack_halves(struct lanes *lanes, uint32_t columns, uint8_t *tile)
{
    uint16_t *out = (uint16_t *)(void *)tile;
    uint32_t c = 0;
    for (; c + 8 <= columns; c += 8, out += 8 * TILE_ROWS) {
        transpose_8_halves(lanes, out);
        lanes_advance(lanes, 16);
    }
    transpose_halves(lanes, 0, columns - c, out);
    if (columns % 2) memset(out + (columns - c) * TILE_ROWS, 0, TILE_ROWS * sizeof *out); /* up to a whole line */
}

struct pack_task {
    const struct kernel_matrix *matrix;
    const uint8_t *source;
    uint64_t tiles, tile_bytes, unit_tiles;
    _Atomic uint64_t next; /* tile that no worker has taken yet */
};

static void pack_tile(const struct pack_task *task, uint64_t tile)
{
    const struct kernel_matrix *matrix = task->matrix;
    uint64_t row = tile * TILE_ROWS, row_bytes = number_format_bytes(matrix->format, matrix->columns);
    uint8_t *out = (uint8_t *)matrix->data + tile * task->tile_bytes;
    struct lanes lanes;
    lanes_init(&lanes, task->source + row * row_bytes, row_bytes,
               matrix->rows - row < TILE_ROWS ? (uint32_t)(matrix->rows - row) : TILE_ROWS);
    if (matrix->format == NF_F32)
        pack_f32(&lanes, matrix->columns, out);
    else if (number_format_info(matrix->format)->block_elements == 1)
        pack_halves(&lanes, matrix->columns, out);
    else
        pack_quants(matrix->format, &lanes, matrix->columns, out);
}

/* Units are taken as workers come: one may be held up by pages that must be cleared or read first. */
static void pack_units(void *data, uint32_t worker, uint32_t workers)
{
    (void)worker, (void)workers;
    struct pack_task *task = data;
    for (;;) {
        uint64_t begin = atomic_fetch_add_explicit(&task->next, task->unit_tiles, memory_order_relaxed);
        if (begin >= task->tiles) return;
        uint64_t end = begin + task->unit_tiles < task->tiles ? begin + task->unit_tiles : task->tiles;
        for (uint64_t tile = begin; tile < end; tile++) pack_tile(task, tile);
    }
}

enum status kernel_matrix_pack(const struct kernel *kernel, enum number_format format, const void *source,
                               uint32_t rows, uint32_t columns, struct pool *pool, struct kernel_matrix *out)
{
    ASSERT(kernel && rows > 0 && columns > 0 && number_format_bytes(format, columns) > 0);
    uint64_t bytes;
    struct pack_task task = {.matrix = out,
                             .source = source,
                             .tiles = ((uint64_t)rows + TILE_ROWS - 1) / TILE_ROWS,
                             .tile_bytes = tile_bytes(format, columns)};
    *out = (struct kernel_matrix){.format = format, .rows = rows, .columns = columns};
    if (!checked_mul(task.tiles, task.tile_bytes, &bytes) || bytes > SIZE_MAX) return ST_NOMEM;
    out->data = mem_map((size_t)bytes);
    if (!out->data) return ST_NOMEM;
    out->bytes = bytes;
    task.unit_tiles = task.tile_bytes < UNIT_BYTES ? UNIT_BYTES / task.tile_bytes : 1;
    if (pool)
        pool_run(pool, pack_units, &task);
    else
        pack_units(&task, 0, 1);
    return ST_OK;
}

void kernel_matrix_release(struct kernel_matrix *matrix)
{
    mem_unmap(matrix->data, (size_t)matrix->bytes);
    *matrix = (struct kernel_matrix){0};
}

void kernel_matrix_rows(const struct kernel_matrix *matrix, uint32_t begin, uint32_t end, struct kernel_matrix *out)
{
    ASSERT(begin % TILE_ROWS == 0 && begin <= end && end <= matrix->rows);
    uint64_t bytes = tile_bytes(matrix->format, matrix->columns);
    *out = *matrix;
    out->rows = end - begin;
    out->data = (uint8_t *)matrix->data + begin / TILE_ROWS * bytes;
    out->bytes = (end - begin + TILE_ROWS - 1) / TILE_ROWS * bytes;
}
