/* kernel.h - arithmetic: number formats, packed weights, matmul, attention over spans, norm, rope, activations.
 *
 * One table of functions (`struct kernel`), filled once per instruction set and chosen at run time. A kernel sees spans
 * of memory: no blocks, no sequences, no threads (the caller splits rows, heads or tokens over its pool).
 *
 * Determinism (for one table): every output is a function of its own inputs only - never of the number of tokens in
 * the call, of how rows are split over threads, or of how a prompt is chunked:
 * - a token's activations are quantised from its own row;
 * - (with tile_matmul a token's rows are multiplied in tiles or not: the caller says which by what the token is, always alike)
 * - an output element is one chain: exact int32 over a scale group, then f = fma(dot, scale, f), k ascending, the same
 *   in the one-token kernel and in every tile; threads split rows, never k;
 * - attention: lanes are keys, d ascending; softmax state is folded at fixed absolute positions (SEGMENT keys), ascending.
 * Tables of different instruction sets may differ in rounding; each is within the stated bounds of `ref`. */
#ifndef KERNEL_KERNEL_H
#define KERNEL_KERNEL_H
#include "base/base.h"
#include "kernel/peak.h" /* what bounds a machine: multiply-add and read loops */

/* ---- number formats ------------------------------------------------------------------------------------------------ */

/* Element formats of weights, then those of the cache alone. The quantised ones of weights are ggml's, as specified by
 * gguf files (ggml-quants). */
enum number_format {
    NF_F32,
    NF_F16,
    NF_BF16,
    NF_Q4_0,
    NF_Q4_1,
    NF_Q5_0,
    NF_Q5_1,
    NF_Q8_0,
    NF_Q2_K,
    NF_Q3_K,
    NF_Q4_K,
    NF_Q5_K,
    NF_Q6_K,
    NF_IQ4_NL,
    NF_IQ4_XS,
    NF_COUNT, /* of the formats that weights may have */
    NF_FP8_E4M3,
    NF_FP8_E5M2,
    NF_INT8,
    NF_INT4,
    NF_CACHE_END /* after the formats of the cache alone */
};
struct number_format_info {
    const char *name;        /* "f32", "q4_K", as gguf files spell it; "fp8_e4m3", "int8" */
    uint32_t block_elements; /* elements a block: 1, 32 or 256; a row is a whole number of blocks */
    uint32_t block_bytes;    /* blocks are of weights: both are 0 for a format of the cache alone */
};
const struct number_format_info *number_format_info(enum number_format format);
/* Bytes of `elements` in file layout; 0 when not a whole number of blocks or when the product does not fit. */
uint64_t number_format_bytes(enum number_format format, uint64_t elements);
/* `count` elements (whole blocks) from file layout to f32. `source` need not be aligned. */
void number_format_decode(enum number_format format, const void *source, float *out, uint64_t count);
float f16_to_f32(uint16_t value);
uint16_t f16_from_f32(float value); /* round to nearest even */

/* ---- packed weights -------------------------------------------------------------------------------------------------- */

/* A weight matrix W [rows, columns] in the layout that this table's matmul reads: rows interleaved by 16 (the last tile
 * padded with zero rows), at about the file's bit width; not requantised. Tied to the table that packed it. */
struct kernel_matrix {
    enum number_format format;
    uint32_t rows, columns;
    uint64_t bytes;
    void *data; /* 64-byte aligned, owned; released by kernel_matrix_release */
};
struct kernel;
/* Packs `source` (file layout, rows * number_format_bytes(columns) bytes, any alignment). ST_NOMEM on no memory. */
MUST_CHECK enum status kernel_matrix_pack(const struct kernel *kernel, enum number_format format, const void *source,
                                          uint32_t rows, uint32_t columns, struct pool *pool,
                                          struct kernel_matrix *out);
void kernel_matrix_release(struct kernel_matrix *matrix);
/* Rows [begin, end) as a matrix of their own, which borrows `matrix`'s data (it is not released). begin: a multiple of 16. */
void kernel_matrix_rows(const struct kernel_matrix *matrix, uint32_t begin, uint32_t end, struct kernel_matrix *out);

/* Activations [tokens, columns] made ready for matmul: f32 rows as given (borrowed), and, for quantised weights, int8
 * with one f32 scale per 32 elements, plus what the formats with an offset or a minimum need (sums of 32 and of 16).
 * The storage is the caller's, kernel_input_bytes() long, 64-byte aligned; kernel_input_init() lays it out. columns: any
 * for float formats (input_prepare then does nothing unless it is a multiple of 32), a multiple of 32 for quantised
 * ones. Numbers must be finite. */
struct kernel_input_group; /* 32 elements of 4 consecutive tokens; see matmul_internal.h */
struct kernel_input_halves;
struct kernel_input {
    const float *rows; /* [tokens, stride], borrowed */
    uint64_t stride;
    uint32_t tokens, columns;
    uint64_t block_groups;              /* groups from one block of 4 tokens to the next */
    struct kernel_input_group *groups;  /* [ceil(tokens / 4), columns / 32] */
    struct kernel_input_halves *halves; /* the same */
    uint16_t *brief;                    /* [tokens rounded up to 16, brief_stride] bf16, for `tile_matmul` */
    uint64_t brief_stride;
};
uint64_t kernel_input_bytes(uint32_t tokens, uint32_t columns);
void kernel_input_init(struct kernel_input *input, void *storage, const float *rows, uint64_t stride, uint32_t tokens,
                       uint32_t columns);
/* Columns [column, column + columns) of tokens [token, token + count) of `input` as an input of its own whose f32 rows
 * are elsewhere: to quantise them without keeping them. token: a multiple of KERNEL_INPUT_BLOCK; column: of 32. Borrows
 * `input`'s storage. */
#define KERNEL_INPUT_BLOCK 4u
void kernel_input_part(const struct kernel_input *input, uint32_t token, uint32_t count, uint32_t column,
                       uint32_t columns, const float *rows, uint64_t stride, struct kernel_input *out);
/* Row `token`, quantised, misses its f32 row by this: [columns] into `out`. Quantised as a row of its own and added to the
 * product, it leaves an error some hundred times smaller. columns: a multiple of 32. */
void kernel_input_residual(const struct kernel_input *input, uint32_t token, float *out);

/* Where a matmul's products go. `out` points at token 0, row 0. */
struct kernel_output {
    float *out; /* [tokens, stride]; with `sum` it is scratch for tokens before `tokens` */
    uint64_t stride;
    const float *bias; /* [rows], added to each token's products; or NULL */
    float *sum;        /* [tokens, sum_stride], to which products (with their bias) are added; or NULL */
    uint64_t sum_stride;
    uint32_t tokens; /* bias and sum are for tokens before this one; others' products go to `out` as they are */
};

/* ---- attention ---------------------------------------------------------------------------------------------------------- */

/* The cache's rows, as the kernels keep them. Tokens go in groups of 16 ("key groups"): the group is the unit of every
 * format. A block of a multiple of 16 tokens is `groups` of K in a row, then `groups` of V in a row; where a block lies is
 * the cache's affair. K and V may have different formats:
 *
 *   NF_F32 NF_F16 NF_BF16      elements as they are
 *   NF_FP8_E5M2, NF_FP8_E4M3 of V
 *                              OCP 8-bit floats (OFP8, revision 1.0; no infinities are written) times the row's scale
 *   NF_FP8_E4M3 of K           number * scale + middle: scale and middle are two f16 of each channel, as of K in int4
 *   NF_INT8                    -127...127 times the row's scale
 *   NF_INT4 of V               one of 16 levels, near the best for Gaussian elements (S. Lloyd, "Least squares quantization in
 *                              PCM", 1982), times the row's scale: rows should have been rotated (`hadamard`)
 *   NF_INT4 of K               code * step + least, a code being 0...15: step and least are two f16 of each channel (element of
 *                              the head) for KERNEL_CLOSED_TOKENS tokens (Liu et al., "KIVI", arXiv:2402.02750: channels of K
 *                              differ more than tokens do)
 *
 * A row's scale is one f16 a token and KV head, at least as large as the row needs; that of int4 may be negative, its levels being
 * more on one side, and is, like that of fp8_e4m3, the one of several that misses the row least. Everything that is written of a row follows from
 * that row alone, and is the same in all tables. What a format cannot hold is written as its largest number; a row must be
 * finite. attention_internal.h has the layouts. A cache of f32 is read with f32 arithmetic, a narrower one in 16-bit fixed
 * point with exact sums (attention_fixed.h; `ref` always computes in f32).
 *
 * K in NF_INT4 and NF_FP8_E4M3 is not written row by row: an aligned pair of groups (an even and the next odd one) is made from all of its 32
 * tokens at once ("closed", `k_close`), whose rows lie elsewhere as f16 until then. Spans of such K begin at multiples of
 * KERNEL_CLOSED_TOKENS, and both groups of a pair of which some key is seen must be there and closed. */
#define KERNEL_GROUP_TOKENS 16u
#define KERNEL_CLOSED_TOKENS 32u /* two groups */
/* Softmax state is folded every SEGMENT absolute positions; a multiple of every block size. */
#define KERNEL_SEGMENT_TOKENS 1024u
#define KERNEL_SEGMENT_GROUPS (KERNEL_SEGMENT_TOKENS / KERNEL_GROUP_TOKENS)

bool kernel_cache_format(enum number_format format); /* whether K and V may have it */
/* Whether K rows of it are quantised a group of KERNEL_CLOSED_TOKENS at a time (k_close), not one by one (kv_write). */
bool kernel_k_closes(enum number_format format);
/* Bytes of one KV head's K rows of such a group while they are exact: key groups of NF_F16. */
uint64_t kernel_k_exact_bytes(uint32_t head_dim);
/* One group of one KV head: 16 rows with their scales. K that closes: 16 * head_dim, int4 16 * ceil(head_dim / 2), and
 * 2 * head_dim. */
uint64_t kernel_k_group_bytes(enum number_format format, uint32_t head_dim);
uint64_t kernel_v_group_bytes(enum number_format format, uint32_t value_dim);
/* Bytes of a token's K or V of one KV head, a 16th of a group, rounded up: int8 and fp8 dim + 2, int4 ceil(dim / 2) + 2, but
 * of K that closes + dim / 8 in place of + 2. */
uint64_t kernel_k_row_bytes(enum number_format format, uint32_t head_dim);
uint64_t kernel_v_row_bytes(enum number_format format, uint32_t value_dim);
/* The row in slot `slot` (slot / 16 = group, slot % 16 = lane) to f32: what attention computes with. Not fast. With K that closes
 * `k_groups` points at an even group. */
void kernel_k_row_decode(enum number_format format, const void *k_groups, uint32_t slot, uint32_t head_dim, float *out);
void kernel_v_row_decode(enum number_format format, const void *v_groups, uint32_t slot, uint32_t value_dim,
                         float *out);

/* Consecutive tokens of one KV head: `k` and `v` point at whole groups, position is a multiple of 16, `count` tokens of
 * them are written (the last group may be partly so; unwritten bytes are never used as numbers). */
struct kernel_span {
    const void *k, *v;
    uint32_t position, count;
};

/* For K that was stored less something known from the position: what is added to the q.k of a key at position p, before the
 * scale, is
 *     sum of c[i] * t(p / 16, i), i < group_dims, + sum of c[group_dims + i] * u(p, i), i < key_dims.
 * Both numbers of dimensions must be set for kernel_attend_scratch_floats, whether there are offsets or not. */
#define KERNEL_OFFSET_KEY_DIMS 8u
struct kernel_offset {
    const float *q; /* c of head h of token i: q + i * q_token_stride + h * (group_dims + key_dims); NULL: no offsets */
    uint64_t q_token_stride;
    uint32_t group_dims, key_dims; /* either may be 0; key_dims at most KERNEL_OFFSET_KEY_DIMS */
    /* t(g, i) = groups[(g / 64 * group_dims + i) * 64 + g % 64]: whole segments of 64 groups, lanes are groups. Numbers of
     * groups and of keys that no query sees are read but not used. NULL without group_dims. */
    const float *groups;
    /* u(p, i) = keys[(p / 16 * key_dims + i) * 16 + p % 16]: whole groups, lanes are keys. NULL without key_dims. */
    const float *keys;
    /* Where the keys are not from where they stand: those at positions 16 g ... have the numbers of group order[g] in place of g, and
     * t(g, i) is looked up in `rows`. Or NULL. */
    const uint32_t *order;
    /* t(g, i) = rows[g * group_dims + i]. Needed with `order`, and by kernel_attend.brief. */
    const float *rows;
    /* [group_dims + key_dims, head_dim] with c[i] = q . basis[i], for whoever adds to the keys what others add to scores. Needed by
     * kernel_attend.brief. */
    const float *basis;
};

/* One KV head of one sequence, read by the queries of `tokens` consecutive tokens of that sequence. */
struct kernel_attend {
    enum number_format k_format, v_format;
    uint32_t head_dim, value_dim;
    uint32_t group;    /* query heads that share this KV head */
    uint32_t tokens;   /* query tokens, consecutive positions */
    uint32_t position; /* of the first query token; token i sees keys [max(0, p+i-window+1), p+i] */
    uint32_t window;   /* 0 = all keys */
    uint32_t sinks;    /* with a window: keys [0, min(sinks, p+i+1)) are seen too (Xiao et al., arXiv:2309.17453) */
    /* Of these only keys [key_begin, key_end) are seen; key_end 0 = no bound. So that the parts of a sequence whose K has different
     * formats are calls of their own, whose states attend_fold joins. Queries that see no key are left with "no keys yet". */
    uint32_t key_begin, key_end;
    /* The call goes on with `state`, which calls of the same queries left that saw the keys of segment_begin before key_begin and
     * no others: the bits are those of one call that sees all of them. For keys that are read once for several sequences, each of
     * which then goes on alone. key_begin: a multiple of attend_unit() inside segment_begin. */
    bool resume;
    /* The queries are of tokens whose products tile_matmul makes: where the table has it, a cache narrower than f32 is read in bf16, too.
     * Rows of a token are the same whatever is computed with them, but not those that they would be without. */
    bool brief;
    float scale;    /* of q.k */
    float softcap;  /* 0 = none; else softcap * tanh(s / softcap) */
    const float *q; /* head h of token i: q + i * q_token_stride + h * head_dim (h < group) */
    uint64_t q_token_stride;
    struct kernel_offset offset;
    /* Ascending; every group that holds a key which some query sees. With sinks there may be a gap before the window. None where
     * no query sees a key. */
    const struct kernel_span *spans;
    uint32_t span_count;
    float *out; /* head h of token i: out + i * out_token_stride + h * value_dim */
    uint64_t out_token_stride;
};
/* Softmax state of one segment: per (token, head): maximum, sum, then value_dim weighted values, all f32. */
uint64_t kernel_attend_state_floats(const struct kernel_attend *attend); /* tokens * group * (2 + value_dim) */

/* ---- the index for retrieval -------------------------------------------------------------------------------------------- */

/* Which keys a query will attend to most, told from one entry for each key group (16 keys) of a KV head. The keys are those that a
 * query meets: rotated, with their bias, not turned. Their channels come in the order of rope's frequencies, the slowest first:
 * - What keys say, models write into the slowest channels: there each key differs from its neighbours, and one of them may be all that a
 *   head looks for. Of the first 3/8 of the channels an entry holds every key, less the group's mean, in 4 bits with one scale.
 * - Others are much alike within a group, but for the fastest, which turn many times in it: of the first 3/4 it holds the mean, in 8 bits
 *   with a scale for each third of them.
 * A key's score is estimated from both. A group promises exp(s q.k) of its greatest key and 15 times that of its mean, s being attention's
 * scale: nearly the sum over its keys, at a third of the cost. Mean and variance, or minimum and maximum, of all channels find less of
 * the attention, and lose single keys; but they lose few of those that are looked for among many times as many (docs/retrieval.md).
 * Means and how far keys spread about them are an entry's sketch, one cache line for heads of 64 channels. Of the groups of a block the sketches
 * lie one behind the other, and then the rest of the entries: index_sketch reads the former alone. */
uint64_t kernel_index_bytes(uint32_t head_dim); /* of an entry: a multiple of 16 */
/* The entry of group `group` of the per_block that lie at `block`, from the 16 keys at keys + i * stride, [head_dim] each, slowest channels
 * first. The same bytes in all tables. */
void kernel_index_write(const float *keys, uint64_t stride, uint32_t head_dim, void *block, uint32_t per_block,
                        uint32_t group);
/* Zeros in place of the entries of groups [first, per_block). */
void kernel_index_blank(void *block, uint32_t head_dim, uint32_t per_block, uint32_t first);

/* The queries of one token and KV head, against entries. */
struct kernel_index {
    const float *q; /* [group][head_dim], slowest channels first; as kernel_attend has them, but not turned */
    uint32_t group, head_dim;
    float scale, softcap;
    /* Entries of key groups 0, 1, ...: per_block of them at each of these. */
    const void *const *blocks;
    uint32_t per_block;
    const uint32_t *order; /* the groups that are looked at, [count]; NULL: 0, 1, ... */
};
/* Floats that index_shares and index_sketch need for `count` groups. */
uint64_t kernel_index_scratch_floats(const struct kernel_index *index, uint32_t count);

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

struct kernel {
    const char *name; /* "ref", "avx2", "avxvnni", "avx512", "avx512vnni", "amx" */

    /* Quantises rows [begin, end) of input->rows. Scale = max|x| / 127 over 32; quant = nearest even of
     * x * (127 / max). Four rows that begin at a multiple of 4 cost little more than one. */
    void (*input_prepare)(const struct kernel_input *input, uint32_t begin, uint32_t end);
    /* out[t * stride + r] = sum_k W[r][k] * x[t][k] for tokens [token_begin, token_end) and rows [row_begin, row_end);
     * row_begin is a multiple of 16. Quantised weights read quants, float weights read rows. The product is a chain from
     * 0; bias and sum are added to it afterwards (struct kernel_output). */
    void (*matmul)(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                   uint32_t token_end, uint32_t row_begin, uint32_t row_end, const struct kernel_output *output);
    /* Or NULL, both: the same products in another arithmetic, faster for many tokens and more precise (bf16 activations, each
     * rounded for itself; sums in f32), but with other bits: a token's rows must be computed in the one or the other. Reads the
     * bf16 rows that tile_prepare writes of rows [begin, end) of input->rows. Quantised weights only; every token has its bias
     * and sum, and products are added to a sum one by one, then the bias: there is no scratch. */
    void (*tile_prepare)(const struct kernel_input *input, uint32_t begin, uint32_t end);
    void (*tile_matmul)(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                        uint32_t token_end, uint32_t row_begin, uint32_t row_end, const struct kernel_output *output);

    /* Writes `count` tokens' rows of one KV head into groups: k row i at k + i * k_stride goes to slot first_slot + i,
     * slots counted from the beginning of k_groups / v_groups (slot / 16 = group, slot % 16 = lane). With a k_format that closes only
     * V is written, and k_groups and k are not used: see k_close. */
    void (*kv_write)(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                     uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                     const float *v, uint64_t v_stride, uint32_t value_dim);
    /* Quantises the KERNEL_CLOSED_TOKENS rows of `exact_groups`, two adjacent K groups of NF_F16 as kv_write leaves them, into
     * the pair of groups `k_groups` (the even one) of `format`, which closes. The 16 levels of a channel in int4 lie evenly around
     * the middle of its numbers, over that part of their range (0.7 to 1, of 16 steps) which misses them least in squares; in
     * fp8_e4m3 the middle is the mean, and the scale is that of 16 which misses least. All tables write the same bytes. */
    void (*k_close)(enum number_format format, void *k_groups, const void *exact_groups, uint32_t head_dim);
    /* Attention over the keys of segments [segment_begin, segment_end) (segment = position / SEGMENT), folded in
     * ascending order into `state`, which the call initialises unless it resumes. `scratch`: kernel_attend_scratch_floats(),
     * 64-byte aligned. */
    void (*attend)(const struct kernel_attend *attend, uint32_t segment_begin, uint32_t segment_end, float *state,
                   float *scratch);
    /* Tokens at whose multiples a segment may be left and resumed (kernel_attend.resume): a divisor of KERNEL_SEGMENT_TOKENS, which
     * stands for a segment that is computed as a whole. */
    uint32_t (*attend_unit)(enum number_format k_format, enum number_format v_format);
    /* Folds `next` (the state of the segment after, or of other keys of the same queries) into `state`: the same fold as attend's
     * own, so that splitting by single segments over threads and folding ascending gives the same bits. */
    void (*attend_fold)(const struct kernel_attend *attend, float *state, const float *next);
    /* Divides by the sum and writes attend->out; no numbers for a query that saw no key. */
    void (*attend_finish)(const struct kernel_attend *attend, const float *state);

    /* What `count` key groups promise: shares[g] = the sum over the query heads of the group's share of the softmax of all
     * of them, as it is estimated. `shares` has room for `count` rounded up to 16. `scratch`: kernel_index_scratch_floats(),
     * 64-byte aligned. */
    void (*index_shares)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch);
    /* The same from the entries' sketches alone: a fifth of the bytes, to find the groups that are worth a closer look. */
    void (*index_sketch)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch);

    /* One row each, `count` elements. */
    void (*rms_norm)(const float *x, const float *weight, float eps, uint32_t count, float *out); /* in place allowed */
    /* Rotates pairs of one head by cos/sin [dim / 2]: half-split pairs (i, i + dim/2) or neighbours (2i, 2i + 1). In place. */
    void (*rope)(float *head, const float *cosines, const float *sines, uint32_t dim, bool neighbours);
    /* Orthonormal Walsh-Hadamard transform of consecutive blocks of the largest power of two that divides `count` (64: one of
     * 64; 80: five of 16; odd: nothing). In place, its own inverse. */
    void (*hadamard)(float *row, uint32_t count);
    void (*silu_mul)(const float *gate, const float *up, uint32_t count, float *out); /* gate * sigmoid(gate) * up */
    void (*gelu_mul)(const float *gate, const float *up, uint32_t count,
                     float *out);                          /* tanh approximation of gelu(gate) * up */
    void (*add)(float *x, const float *y, uint32_t count); /* x += y */
};
uint64_t kernel_attend_scratch_floats(const struct kernel_attend *attend);

/* The table named `name` (NULL or "auto": the best this machine can run). ST_NOT_FOUND names those there are;
 * ST_UNSUPPORTED when this machine cannot run it. */
MUST_CHECK enum status kernel_select(const char *name, const struct kernel **out, struct error *error);
/* All names, in ascending order of speed, for help texts and tests; NULL-terminated. */
const char *const *kernel_names(void);

#endif
