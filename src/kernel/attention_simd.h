/* attention_simd.h - the cache's rows and attention over them, written once in the vector operations of simd_*.h.
 * attention_avx2.c, attention_avx512vnni.c and so on each include it, with ATTEND_NAME(function) giving the names of their table.
 *
 * Queries go through a segment in tiles of at most ATTEND_TILE_ROWS rows (token, head), so that a decoded token's whole
 * GQA group meets each K and V row while it is in a register:
 *   scores  lanes are keys: acc[row][16 keys] = fma(q[row][d], K[d][16 keys], acc), d ascending
 *   softmax one row at a time, in base 2 (log2(e) is in the query's scale): maximum, exp2, sum
 *   values  lanes are value columns: acc[row][columns] = fma(p[row][key], V[key][columns], acc), keys ascending
 * Then the tile's partial is folded into the state. Every element of acc is one chain whose order depends on the key
 * positions alone, so the number of rows in a tile, its other rows and the spans leave no trace in the result. That is
 * the way of a cache in f32; narrower ones are read in fixed point (attention_fixed.h).
 *
 * Keys that a row may not see: a whole group is skipped where no row of the tile sees it; in the groups at the edges
 * the scores are computed lane by lane with the others and then replaced by -inf (what an unwritten K slot holds
 * stays in its lane and is dropped); V rows outside a row's keys are never multiplied, not even by zero, since they
 * may hold NaN. */
#include "kernel/attention_internal.h"
#include "kernel/attention_write.h"
#include "kernel/kernel_internal.h"
#include "kernel/simd_math.h"

#include <math.h>
#include <string.h>

#define GROUP_VECTORS (KERNEL_GROUP_TOKENS / SIMD_LANES) /* vectors that hold a key group's lanes */
#define SCORE_GROUPS (2 / GROUP_VECTORS)                 /* key groups that a score tile takes at once */
#define PREFETCH_BYTES 4096u                             /* how far ahead of its use a row is asked for */
#define VALUE_CHUNK_BYTES 65536u /* V rows that all parts and columns of a tile pass over before the next ones */

/* Into the second cache: the first one's few miss buffers, asked for as many lines, halve the bandwidth. */
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)

/* Calls tile(N, ...) with a constant N, so that its accumulators are registers. */
#if SIMD_TILE_ROWS == 12
#define ROWS_SWITCH_MORE(tile, ...) \
    case 7:                         \
        tile(7, __VA_ARGS__);       \
        break;                      \
    case 8:                         \
        tile(8, __VA_ARGS__);       \
        break;                      \
    case 9:                         \
        tile(9, __VA_ARGS__);       \
        break;                      \
    case 10:                        \
        tile(10, __VA_ARGS__);      \
        break;                      \
    case 11:                        \
        tile(11, __VA_ARGS__);      \
        break;                      \
    case 12:                        \
        tile(12, __VA_ARGS__);      \
        break;
#else
#define ROWS_SWITCH_MORE(tile, ...)
#endif
#define ROWS_SWITCH(rows, tile, ...)        \
    switch (rows) {                         \
    case 1:                                 \
        tile(1, __VA_ARGS__);               \
        break;                              \
    case 2:                                 \
        tile(2, __VA_ARGS__);               \
        break;                              \
    case 3:                                 \
        tile(3, __VA_ARGS__);               \
        break;                              \
    case 4:                                 \
        tile(4, __VA_ARGS__);               \
        break;                              \
    case 5:                                 \
        tile(5, __VA_ARGS__);               \
        break;                              \
    case 6:                                 \
        tile(6, __VA_ARGS__);               \
        break;                              \
        ROWS_SWITCH_MORE(tile, __VA_ARGS__) \
    default:                                \
        ASSERT(!"rows of a tile");          \
    }

/* ---- writing ----------------------------------------------------------------------------------------------------- */

SIMD_INLINE void store_f16_saturated(uint16_t *out, simd a)
{
    simd_store_f16(out, simd_max(simd_set(-KERNEL_F16_MAX), simd_min(simd_set(KERNEL_F16_MAX), a)));
}

static void f16_from_row(const float *row, uint32_t count, uint16_t *out)
{
    uint32_t i = 0;
    for (; i + SIMD_LANES <= count; i += SIMD_LANES) store_f16_saturated(out + i, simd_load(row + i));
    if (i == count) return;
    uint16_t lanes[SIMD_LANES];
    store_f16_saturated(lanes, simd_load_first(row + i, count - i));
    memcpy(out + i, lanes, (count - i) * sizeof *lanes);
}

static void bf16_from_row(const float *row, uint32_t count, uint16_t *out)
{
    for (uint32_t i = 0; i < count; i++) out[i] = bf16_from_f32(row[i]);
}

/* K rows of one group, lanes [lane, lane + count), 16 elements of d at a time: a strip's lines stay near. */
static void k_group_write(enum number_format format, char *group, uint32_t lane, uint32_t count, const float *k,
                          uint64_t k_stride, uint32_t head_dim)
{
    for (uint32_t d = 0; d < head_dim; d += 16) {
        uint32_t strip = head_dim - d < 16 ? head_dim - d : 16;
        for (uint32_t i = 0; i < count; i++) {
            const float *row = k + i * k_stride + d;
            uint64_t at = (uint64_t)d * KERNEL_GROUP_TOKENS + lane + i;
            if (format == NF_F32) {
                for (uint32_t e = 0; e < strip; e++) ((float *)group)[at + e * KERNEL_GROUP_TOKENS] = row[e];
            } else {
                uint16_t halves[16];
                (format == NF_F16 ? f16_from_row : bf16_from_row)(row, strip, halves);
                for (uint32_t e = 0; e < strip; e++) ((uint16_t *)group)[at + e * KERNEL_GROUP_TOKENS] = halves[e];
            }
        }
    }
}

/* K of the formats without a scale. */
static void k_write(enum number_format format, char *groups, uint32_t first_slot, uint32_t count, const float *k,
                    uint64_t k_stride, uint32_t head_dim)
{
    uint64_t bytes = kernel_k_group_bytes(format, head_dim);
    for (uint32_t i = 0, some; i < count; i += some) {
        uint32_t lane = (first_slot + i) % KERNEL_GROUP_TOKENS;
        some = KERNEL_GROUP_TOKENS - lane < count - i ? KERNEL_GROUP_TOKENS - lane : count - i;
        k_group_write(format, groups + (first_slot + i) / KERNEL_GROUP_TOKENS * bytes, lane, some, k + i * k_stride,
                      k_stride, head_dim);
    }
}

static void v_write(enum number_format format, char *groups, uint32_t first_slot, uint32_t count, const float *v,
                    uint64_t v_stride, uint32_t value_dim)
{
    uint64_t bytes = kernel_v_row_bytes(format, value_dim);
    for (uint32_t i = 0; i < count; i++) {
        char *row = groups + (first_slot + i) * bytes;
        if (format == NF_F32)
            memcpy(row, v + i * v_stride, bytes);
        else
            (format == NF_F16 ? f16_from_row : bf16_from_row)(v + i * v_stride, value_dim, (uint16_t *)row);
    }
}

void ATTEND_NAME(kv_write)(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                           uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                           const float *v, uint64_t v_stride, uint32_t value_dim)
{
    ASSERT(kernel_cache_format(k_format) && kernel_cache_format(v_format));
    if (cache_coded(k_format) && !kernel_k_closes(k_format))
        coded_rows_write(k_format, true, k_groups, first_slot, count, k, k_stride, head_dim);
    else if (!cache_coded(k_format))
        k_write(k_format, k_groups, first_slot, count, k, k_stride, head_dim);
    if (cache_coded(v_format))
        coded_rows_write(v_format, false, v_groups, first_slot, count, v, v_stride, value_dim);
    else
        v_write(v_format, v_groups, first_slot, count, v, v_stride, value_dim);
}

void ATTEND_NAME(k_close)(enum number_format format, void *k_groups, const void *exact_groups, uint32_t head_dim)
{
    ASSERT(kernel_k_closes(format));
    const uint16_t *even = exact_groups, *odd = even + (uint64_t)head_dim * KERNEL_GROUP_TOKENS;
    memset(k_groups, 0, 2 * kernel_k_group_bytes(format, head_dim));
    for (uint32_t d = 0; d < head_dim; d++, even += KERNEL_GROUP_TOKENS, odd += KERNEL_GROUP_TOKENS) {
        float x[KERNEL_CLOSED_TOKENS];
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
            simd_store(x + i, simd_load_f16(even + i));
            simd_store(x + KERNEL_GROUP_TOKENS + i, simd_load_f16(odd + i));
        }
        channel_close(format, x, k_groups, head_dim, d);
    }
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

/* Key groups, and for each the one whose rows are asked for while it is used: K, then V, then the next segment's K. */
struct segment {
    struct attend_groups groups;
    const char *k_ahead[KERNEL_SEGMENT_GROUPS + SCORE_GROUPS], *v_ahead[KERNEL_SEGMENT_GROUPS];
    /* Where there are offsets: the segment's table of groups; or, where they are in another order, each group's row in it. And each
     * group's part of the table of keys. Up to the last group that is seen. */
    const float *group_lanes, *group_rows[KERNEL_SEGMENT_GROUPS], *key_offsets[KERNEL_SEGMENT_GROUPS];
};

/* Up to ATTEND_TILE_ROWS query rows on their way through one segment. */
struct tile {
    const struct kernel_attend *attend;
    const struct segment *segment;
    uint32_t row, rows;                        /* first row (token * group + head), and how many */
    struct attend_keys keys[ATTEND_TILE_ROWS]; /* that each row sees */
    uint32_t group_begin, group_end;           /* key groups that any row sees */
    float *q;      /* parts of SIMD_TILE_ROWS rows or less, each [head_dim][rows of the part], times the scale */
    float *scores; /* [rows][ATTEND_SCORE_STRIDE]; then the weights p */
    float *values; /* [rows][round_up(value_dim, 16)] */
    /* where there are offsets: */
    float *offsets, *offset_q; /* [rows][KERNEL_SEGMENT_GROUPS], and like q [group_dims][rows of the part] */
    float *turned_offsets;     /* for offset_rows() */
    float *key_q;              /* [rows][KERNEL_OFFSET_KEY_DIMS] */
};

SIMD_INLINE void score_tile(const uint32_t rows, const uint32_t vectors, const float *q, const char *const *k,
                            const char *const *ahead, uint32_t head_dim, float *scores)
{
    simd acc[SIMD_TILE_ROWS][2];
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_set(0);
    for (uint32_t d = 0; d < head_dim; d++) {
        simd key[2];
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++)
            key[j] = simd_load((const float *)k[j / GROUP_VECTORS] + (uint64_t)d * KERNEL_GROUP_TOKENS +
                               j % GROUP_VECTORS * SIMD_LANES);
            /* The lines [d][16 keys] of the groups ahead. */
#pragma GCC unroll 2
        for (uint32_t g = 0; g < SCORE_GROUPS; g++)
            PREFETCH(ahead[g] + (uint64_t)d * KERNEL_GROUP_TOKENS * sizeof(float));
#pragma GCC unroll 12
        for (uint32_t r = 0; r < rows; r++) {
            simd query = simd_set(q[d * rows + r]);
#pragma GCC unroll 2
            for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_fma(query, key[j], acc[r][j]);
        }
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) simd_store(scores + r * ATTEND_SCORE_STRIDE + j * SIMD_LANES, acc[r][j]);
}

#define SCORE_CASE(rows, vectors) score_tile(rows, vectors, q, k, ahead, head_dim, scores)

/* One part of a tile against 2 vectors of keys, or against a single group that is left. */
static void score_part(uint32_t rows, uint32_t groups, const float *q, const char *const *k, const char *const *ahead,
                       uint32_t head_dim, float *scores)
{
    if (groups == SCORE_GROUPS)
        ROWS_SWITCH(rows, SCORE_CASE, 2)
    else
        ROWS_SWITCH(rows, SCORE_CASE, GROUP_VECTORS)
}

/* Begin of part `part` of `parts` of `rows` rows: parts differ by one row at most. */
SIMD_INLINE uint32_t part_begin(uint32_t rows, uint32_t parts, uint32_t part)
{
    return rows * part / parts;
}

static void tile_scores(const struct tile *tile)
{
    const struct kernel_attend *a = tile->attend;
    uint32_t parts = (tile->rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS, groups;
    for (uint32_t g = tile->group_begin; g < tile->group_end; g += groups) {
        groups = tile->group_end - g < SCORE_GROUPS ? tile->group_end - g : SCORE_GROUPS;
        for (uint32_t part = 0; part < parts; part++) {
            uint32_t row = part_begin(tile->rows, parts, part), rows = part_begin(tile->rows, parts, part + 1) - row;
            score_part(rows, groups, tile->q + (uint64_t)row * a->head_dim, tile->segment->groups.k + g,
                       tile->segment->k_ahead + g, a->head_dim,
                       tile->scores + row * ATTEND_SCORE_STRIDE + g * KERNEL_GROUP_TOKENS);
        }
    }
}

/* ---- offsets of scores ------------------------------------------------------------------------------------------- */

/* What q.k is multiplied with: with a softcap what tanh takes, else in base 2. */
static float score_scale(const struct kernel_attend *a)
{
    return (float)(a->softcap > 0 ? (double)a->scale / a->softcap : a->scale * SIMD_LOG2_E);
}

/* Where the coefficients of the offsets of a row are. */
static const float *offset_row(const struct kernel_attend *a, uint32_t row)
{
    const struct kernel_offset *o = &a->offset;
    return o->q + row / a->group * o->q_token_stride + (uint64_t)(row % a->group) * (o->group_dims + o->key_dims);
}

/* Those of groups of a tile's rows times the scale, in parts like the queries themselves: each [group_dims][rows]. */
static void offset_queries(const struct kernel_attend *a, uint32_t row, uint32_t rows, float *out)
{
    const float scale = score_scale(a);
    uint32_t parts = (rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t begin = part_begin(rows, parts, part), some = part_begin(rows, parts, part + 1) - begin;
        for (uint32_t r = 0; r < some; r++) {
            const float *q = offset_row(a, row + begin + r);
            for (uint32_t i = 0; i < a->offset.group_dims; i++) out[i * some + r] = q[i] * scale;
        }
        out += (uint64_t)some * a->offset.group_dims;
    }
}

/* Those of keys, of `rows` rows, times the scale. */
static void key_queries(const struct kernel_attend *a, uint32_t row, uint32_t rows, float *out)
{
    const float scale = score_scale(a);
    for (uint32_t r = 0; r < rows; r++, out += KERNEL_OFFSET_KEY_DIMS) {
        const float *q = offset_row(a, row + r) + a->offset.group_dims;
        for (uint32_t i = 0; i < a->offset.key_dims; i++) out[i] = q[i] * scale;
    }
}

/* What is added to a row's scores, of consecutive groups. */
struct row_offsets {
    const float *groups;      /* of each group; or NULL */
    const float *const *keys; /* of each group its part of the table, [key_dims][KERNEL_GROUP_TOKENS] */
    const float *key_q;       /* [key_dims] */
    uint32_t key_dims;
};

/* Those of the keys in vectors [begin, end) from group `group` on: the group's, then one chain of multiply-adds. */
SIMD_INLINE void offsets_at(const struct row_offsets *offsets, uint32_t group, const uint32_t begin, const uint32_t end,
                            simd *sums)
{
#pragma GCC unroll 8
    for (uint32_t v = begin; v < end; v++)
        sums[v] = offsets->groups ? simd_set(offsets->groups[group + v / GROUP_VECTORS]) : simd_set(0);
    for (uint32_t i = 0; i < offsets->key_dims; i++) {
        const simd q = simd_set(offsets->key_q[i]);
#pragma GCC unroll 8
        for (uint32_t v = begin; v < end; v++) {
            const float *keys = offsets->keys[group + v / GROUP_VECTORS] + i * KERNEL_GROUP_TOKENS;
            sums[v] = simd_fma(q, simd_load(keys + v % GROUP_VECTORS * SIMD_LANES), sums[v]);
        }
    }
}

/* Where the numbers of a segment's groups are. */
static void find_offsets(const struct kernel_attend *a, uint32_t index, struct segment *segment)
{
    const struct kernel_offset *o = &a->offset;
    const struct attend_range range = segment->groups.range;
    if (o->group_dims && !o->order)
        segment->group_lanes = o->groups + (uint64_t)index * o->group_dims * KERNEL_SEGMENT_GROUPS;
    for (uint32_t g = range.begin / KERNEL_GROUP_TOKENS; g * KERNEL_GROUP_TOKENS < range.end; g++) {
        const uint64_t group = attend_offset_group(a, index, g);
        if (o->group_dims && o->rows) segment->group_rows[g] = o->rows + group * o->group_dims;
        if (o->key_dims) segment->key_offsets[g] = o->keys + group * o->key_dims * KERNEL_GROUP_TOKENS;
    }
}

/* Of SIMD_LANES groups from `group` on, those from `begin` to `end`, rows to lanes: [dims, in whole vectors] into out + d * 2 * SIMD_LANES. */
static void turn_offsets(const float *const *groups, uint32_t group, uint32_t begin, uint32_t end, uint32_t dims,
                         float *out)
{
    const float *from[SIMD_LANES];
    for (uint32_t i = 0; i < SIMD_LANES; i++)
        from[i] = groups[group + i < begin ? begin : group + i < end ? group + i : end - 1];
    for (uint32_t d = 0; d < dims; d += SIMD_LANES) {
        simd rows[SIMD_LANES];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < SIMD_LANES; i++)
            rows[i] = dims - d < SIMD_LANES ? simd_load_first(from[i] + d, dims - d) : simd_load(from[i] + d);
        simd_transpose(rows);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < SIMD_LANES; i++, out += 2 * SIMD_LANES) simd_store(out, rows[i]);
    }
}

/* One chain of multiply-adds for each row and group, i ascending. Lanes are groups. */
SIMD_INLINE void offset_tile(const uint32_t rows, const uint32_t vectors, uint32_t dims, const float *q,
                             const float *lanes, uint32_t stride, float *out)
{
    simd acc[SIMD_TILE_ROWS][2];
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_set(0);
    for (uint32_t i = 0; i < dims; i++, q += rows, lanes += stride) {
        simd group[2];
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) group[j] = simd_load(lanes + j * SIMD_LANES);
#pragma GCC unroll 12
        for (uint32_t r = 0; r < rows; r++) {
            simd query = simd_set(q[r]);
#pragma GCC unroll 2
            for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_fma(query, group[j], acc[r][j]);
        }
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) simd_store(out + r * KERNEL_SEGMENT_GROUPS + j * SIMD_LANES, acc[r][j]);
}

#define OFFSET_CASE(rows, vectors) offset_tile(rows, vectors, dims, q + (uint64_t)row * dims, lanes, stride, at)

/* What is added to the scores of `all` rows, [KERNEL_SEGMENT_GROUPS] each, in the groups of the segment that hold keys which are seen,
 * and maybe some more. `q`: tiles of at most ATTEND_TILE_ROWS rows, each as offset_queries() makes it. */
static void offset_rows(const struct kernel_attend *a, const struct segment *segment, uint32_t all, const float *q,
                        float *turned, float *out)
{
    const uint32_t dims = a->offset.group_dims, tiles = (all + ATTEND_TILE_ROWS - 1) / ATTEND_TILE_ROWS;
    const uint32_t begin = segment->groups.range.begin / KERNEL_GROUP_TOKENS,
                   end = (segment->groups.range.end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS;
    const bool turns = a->offset.order;
    const uint32_t stride = turns ? 2 * SIMD_LANES : KERNEL_SEGMENT_GROUPS;
    for (uint32_t g = begin / SIMD_LANES * SIMD_LANES, vectors; g < end; g += vectors * SIMD_LANES) {
        vectors = g + SIMD_LANES < end ? 2 : 1;
        for (uint32_t j = 0; j < vectors && turns; j++)
            turn_offsets(segment->group_rows, g + j * SIMD_LANES, begin, end, dims, turned + j * SIMD_LANES);
        const float *lanes = turns ? turned : segment->group_lanes + g;
        for (uint32_t t = 0; t < tiles; t++) {
            const uint32_t first = part_begin(all, tiles, t), tile = part_begin(all, tiles, t + 1) - first,
                           parts = (tile + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
            for (uint32_t part = 0; part < parts; part++) {
                const uint32_t row = first + part_begin(tile, parts, part),
                               rows = first + part_begin(tile, parts, part + 1) - row;
                float *at = out + (uint64_t)row * KERNEL_SEGMENT_GROUPS + g;
                if (vectors == 2)
                    ROWS_SWITCH(rows, OFFSET_CASE, 2)
                else
                    ROWS_SWITCH(rows, OFFSET_CASE, 1)
            }
        }
    }
}

/* ---- softmax ----------------------------------------------------------------------------------------------------- */

/* Turns one row's scores into weights 2^(s - maximum) and returns their sum; keys that the row does not see, between its
 * first and its last and up to the edges of vectors, get the weight 0. `offsets`: of the segment's groups, or NULL. */
static float softmax_row(const struct kernel_attend *a, const struct row_offsets *offsets, float *scores,
                         const struct attend_keys *keys, float *maximum)
{
    const struct attend_range range = attend_hull(keys);
    uint32_t begin = range.begin / SIMD_LANES * SIMD_LANES, end = (uint32_t)round_up(range.end, SIMD_LANES);
    simd none = simd_set(-INFINITY);
    for (uint32_t i = begin; offsets && i < end; i += SIMD_LANES) {
        const uint32_t v = i / SIMD_LANES % GROUP_VECTORS;
        simd sums[GROUP_VECTORS];
        offsets_at(offsets, i / KERNEL_GROUP_TOKENS, v, v + 1, sums);
        simd_store(scores + i, simd_add(simd_load(scores + i), sums[v]));
    }
    if (a->softcap > 0)
        for (uint32_t i = begin; i < end; i += SIMD_LANES)
            simd_store(scores + i,
                       simd_mul(simd_tanh(simd_load(scores + i)), simd_set((float)((double)a->softcap * SIMD_LOG2_E))));
    for (uint32_t i = begin; i < end; i += SIMD_LANES) {
        uint64_t seen = attend_bits(keys, i);
        if (~seen << (64 - SIMD_LANES)) simd_store(scores + i, simd_where_bits(seen, simd_load(scores + i), none));
    }

    simd top[4] = {none, none, none, none};
    uint32_t i = begin;
    for (; i + 4 * SIMD_LANES <= end; i += 4 * SIMD_LANES)
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) top[j] = simd_max(top[j], simd_load(scores + i + j * SIMD_LANES));
    for (; i < end; i += SIMD_LANES) top[0] = simd_max(top[0], simd_load(scores + i));
    *maximum = simd_top(simd_max(simd_max(top[0], top[1]), simd_max(top[2], top[3])));

    simd offset = simd_set(*maximum), sum = simd_set(0);
    for (i = begin; i < end; i += SIMD_LANES) {
        simd p = simd_exp2_below_160(simd_sub(simd_load(scores + i), offset));
        sum = simd_add(sum, p);
        simd_store(scores + i, p);
    }
    return simd_sum(sum);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* acc[row][columns] over keys [begin, end) of a segment, added to `values`; `partial`: the columns from `column` on are
 * fewer than a vector. */
SIMD_INLINE void value_tile(const uint32_t rows, const uint32_t vectors, const bool partial, const float *p,
                            const char *const *v, const char *const *ahead, uint32_t begin, uint32_t end,
                            uint32_t value_dim, uint32_t column, float *values, uint64_t value_stride)
{
    const uint32_t bytes = sizeof(float);
    simd acc[SIMD_TILE_ROWS][2];
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_load(values + r * value_stride + j * SIMD_LANES);
    for (uint32_t key = begin; key < end;) {
        uint32_t g = key / KERNEL_GROUP_TOKENS, group_end = (g + 1) * KERNEL_GROUP_TOKENS;
        uint64_t first = (uint64_t)(key % KERNEL_GROUP_TOKENS) * value_dim + column;
        const char *row = v[g] + first * bytes, *next = ahead[g] + first * bytes;
        if (group_end > end) group_end = end;
        for (; key < group_end; key++, row += (uint64_t)value_dim * bytes, next += (uint64_t)value_dim * bytes) {
            simd value[2];
#pragma GCC unroll 2
            for (uint32_t j = 0; j < vectors; j++)
                value[j] = partial ? simd_load_first((const float *)row, value_dim - column)
                                   : simd_load((const float *)row + j * SIMD_LANES);
            PREFETCH(next);
            if (vectors * SIMD_LANES * bytes > 64) PREFETCH(next + 64);
#pragma GCC unroll 12
            for (uint32_t r = 0; r < rows; r++) {
                simd weight = simd_set(p[r * ATTEND_SCORE_STRIDE + key]);
#pragma GCC unroll 2
                for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_fma(weight, value[j], acc[r][j]);
            }
        }
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) simd_store(values + r * value_stride + j * SIMD_LANES, acc[r][j]);
}

#define VALUE_CASE(rows, vectors, partial) \
    value_tile(rows, vectors, partial, p, v, ahead, begin, end, value_dim, column, values, value_stride)

/* All columns of `rows` rows over keys [begin, end). */
static void value_rows(uint32_t rows, const float *p, const char *const *v, const char *const *ahead, uint32_t begin,
                       uint32_t end, uint32_t value_dim, float *values, uint64_t value_stride)
{
    uint32_t column = 0;
    for (; column + 2 * SIMD_LANES <= value_dim; column += 2 * SIMD_LANES, values += 2 * SIMD_LANES)
        ROWS_SWITCH(rows, VALUE_CASE, 2, false)
    for (; column + SIMD_LANES <= value_dim; column += SIMD_LANES, values += SIMD_LANES)
        ROWS_SWITCH(rows, VALUE_CASE, 1, false)
    /* No known model has a dimension that ends within a vector: such columns go row by row, for less code. */
    for (; column < value_dim && rows; rows--, p += ATTEND_SCORE_STRIDE, values += value_stride) VALUE_CASE(1, 1, true);
}

/* Rows [row, row + rows) of a tile over keys [begin, end). */
static void part_values(const struct tile *tile, uint32_t row, uint32_t rows, uint32_t begin, uint32_t end)
{
    const struct kernel_attend *a = tile->attend;
    uint64_t value_stride = round_up(a->value_dim, 16);
    if (begin < end)
        value_rows(rows, tile->scores + row * ATTEND_SCORE_STRIDE, tile->segment->groups.v, tile->segment->v_ahead,
                   begin, end, a->value_dim, tile->values + row * value_stride, value_stride);
}

/* The weighted values of all rows over one part of their keys. Where the rows of the tile see the same keys they go together,
 * a chunk of keys at a time; at the edges, where a later token sees a key more or its window a key less, each goes alone. */
static void tile_values(const struct tile *tile, uint32_t which)
{
    const struct kernel_attend *a = tile->attend;
    uint64_t group_bytes = kernel_v_group_bytes(a->v_format, a->value_dim);
    uint32_t chunk = (uint32_t)(VALUE_CHUNK_BYTES / group_bytes + 1) * KERNEL_GROUP_TOKENS;
    uint32_t parts = (tile->rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
    uint32_t begin = 0, end = KERNEL_SEGMENT_TOKENS;
    for (uint32_t row = 0; row < tile->rows; row++) {
        struct attend_range range = tile->keys[row].part[which];
        if (range.begin > begin) begin = range.begin;
        if (range.end < end) end = range.end;
    }
    if (begin > end) begin = end;
    for (uint32_t row = 0; row < tile->rows; row++) {
        struct attend_range range = tile->keys[row].part[which];
        part_values(tile, row, 1, range.begin, range.end < begin ? range.end : begin);
    }
    for (uint32_t key = begin; key < end; key += chunk)
        for (uint32_t part = 0; part < parts; part++) {
            uint32_t row = part_begin(tile->rows, parts, part), rows = part_begin(tile->rows, parts, part + 1) - row;
            part_values(tile, row, rows, key, end - key < chunk ? end : key + chunk);
        }
    for (uint32_t row = 0; row < tile->rows; row++) {
        struct attend_range range = tile->keys[row].part[which];
        part_values(tile, row, 1, range.begin > end ? range.begin : end, range.end);
    }
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

SIMD_INLINE float exp2_of(float t)
{
    float lanes[SIMD_LANES];
    simd_store(lanes, simd_exp2(simd_set(t)));
    return lanes[0];
}

/* Folds (maximum, sum, values) into a row of the state, which may be empty; a partial without keys changes nothing. */
static void fold_row(float *row, float maximum, float sum, const float *values, uint32_t value_dim)
{
    if (maximum == -INFINITY) return;
    if (row[0] == -INFINITY) {
        row[0] = maximum;
        row[1] = sum;
        memcpy(row + 2, values, value_dim * sizeof *values);
        return;
    }
    float top = row[0] > maximum ? row[0] : maximum, old_weight = exp2_of(row[0] - top),
          weight = exp2_of(maximum - top);
    row[0] = top;
    row[1] = row[1] * old_weight + sum * weight;
    for (uint32_t d = 0; d < value_dim; d += SIMD_LANES) {
        uint32_t count = value_dim - d < SIMD_LANES ? value_dim - d : SIMD_LANES;
        simd next = simd_mul(simd_load_first(values + d, count), simd_set(weight));
        simd_store_first(row + 2 + d, count, simd_fma(simd_load_first(row + 2 + d, count), simd_set(old_weight), next));
    }
}

void ATTEND_NAME(attend_fold)(const struct kernel_attend *attend, float *state, const float *next)
{
    uint64_t rows = (uint64_t)attend->tokens * attend->group, stride = 2 + (uint64_t)attend->value_dim;
    for (uint64_t row = 0; row < rows; row++, state += stride, next += stride)
        fold_row(state, next[0], next[1], next + 2, attend->value_dim);
}

void ATTEND_NAME(attend_finish)(const struct kernel_attend *attend, const float *state)
{
    for (uint32_t token = 0; token < attend->tokens; token++)
        for (uint32_t head = 0; head < attend->group; head++, state += 2 + attend->value_dim) {
            float *out = attend->out + token * attend->out_token_stride + (uint64_t)head * attend->value_dim;
            simd sum = simd_set(state[1]);
            for (uint32_t d = 0; d < attend->value_dim; d += SIMD_LANES) {
                uint32_t count = attend->value_dim - d < SIMD_LANES ? attend->value_dim - d : SIMD_LANES;
                simd_store_first(out + d, count, simd_div(simd_load_first(state + 2 + d, count), sum));
            }
        }
}

/* ---- a segment --------------------------------------------------------------------------------------------------- */

/* The keys that the tile's rows see; false when there are none in this segment. */
static bool tile_ranges(struct tile *tile, uint32_t segment)
{
    uint32_t begin = KERNEL_SEGMENT_TOKENS, end = 0;
    for (uint32_t row = 0; row < tile->rows; row++) {
        tile->keys[row] = attend_visible(tile->attend, (tile->row + row) / tile->attend->group, segment);
        struct attend_range range = attend_hull(&tile->keys[row]);
        if (range.begin >= range.end) continue;
        if (range.begin < begin) begin = range.begin;
        if (range.end > end) end = range.end;
    }
    tile->group_begin = begin / KERNEL_GROUP_TOKENS;
    tile->group_end = (end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS;
    return begin < end;
}

/* The tile's queries, interleaved by row so that a score tile finds those of one d side by side. */
static void tile_queries(const struct tile *tile)
{
    const struct kernel_attend *a = tile->attend;
    float scale = score_scale(a);
    uint32_t parts = (tile->rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t begin = part_begin(tile->rows, parts, part), rows = part_begin(tile->rows, parts, part + 1) - begin;
        float *out = tile->q + (uint64_t)begin * a->head_dim;
        for (uint32_t r = 0; r < rows; r++) {
            uint32_t row = tile->row + begin + r;
            const float *q = a->q + row / a->group * a->q_token_stride + (uint64_t)(row % a->group) * a->head_dim;
            for (uint32_t d = 0; d < a->head_dim; d++) out[d * rows + r] = q[d] * scale;
        }
    }
}

static void tile_attend(const struct tile *tile, float *state)
{
    const struct kernel_attend *a = tile->attend;
    uint64_t value_stride = round_up(a->value_dim, 16), state_stride = 2 + (uint64_t)a->value_dim;
    float maximum[ATTEND_TILE_ROWS], sum[ATTEND_TILE_ROWS];
    tile_queries(tile);
    tile_scores(tile);
    if (tile->offsets) {
        offset_queries(a, tile->row, tile->rows, tile->offset_q);
        offset_rows(a, tile->segment, tile->rows, tile->offset_q, tile->turned_offsets, tile->offsets);
    }
    if (tile->key_q) key_queries(a, tile->row, tile->rows, tile->key_q);
    struct row_offsets offsets = {tile->offsets, tile->segment->key_offsets, tile->key_q, a->offset.key_dims};
    for (uint32_t row = 0; row < tile->rows; row++) {
        maximum[row] = -INFINITY;
        sum[row] = 0;
        struct attend_range range = attend_hull(&tile->keys[row]);
        if (range.begin < range.end)
            sum[row] = softmax_row(a, a->offset.q ? &offsets : NULL, tile->scores + row * ATTEND_SCORE_STRIDE,
                                   &tile->keys[row], &maximum[row]);
        if (offsets.groups) offsets.groups += KERNEL_SEGMENT_GROUPS;
        if (offsets.key_q) offsets.key_q += KERNEL_OFFSET_KEY_DIMS;
    }
    memset(tile->values, 0, tile->rows * value_stride * sizeof(float));
    for (uint32_t part = 0; part < ATTEND_PARTS; part++) tile_values(tile, part);
    for (uint32_t row = 0; row < tile->rows; row++)
        fold_row(state + (tile->row + row) * state_stride, maximum[row], sum[row], tile->values + row * value_stride,
                 a->value_dim);
}

/* The groups to ask for ahead: the list K, V, the next segment's K (none when `next` is NULL) is gone through in
 * order. */
static void segment_ahead(const struct kernel_attend *attend, struct segment *segment, const struct attend_groups *next)
{
    const struct attend_groups *now = &segment->groups;
    uint32_t begin = now->range.begin / KERNEL_GROUP_TOKENS, next_begin = 0;
    uint32_t end = (now->range.end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS, next_end = 0;
    if (next) {
        next_begin = next->range.begin / KERNEL_GROUP_TOKENS;
        next_end = (next->range.end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS;
    }
    /* A pass over V touches only the columns of a tile, so it is as many bytes ahead after more groups. */
    uint64_t pass_bytes = KERNEL_GROUP_TOKENS * 2 * SIMD_LANES * sizeof(float);
    uint32_t k_far =
        (uint32_t)(PREFETCH_BYTES / kernel_k_group_bytes(attend->k_format, attend->head_dim)) + SCORE_GROUPS;
    uint32_t v_far = (uint32_t)(PREFETCH_BYTES / pass_bytes) + 1;
    for (uint32_t g = begin; g < end + SCORE_GROUPS; g++) {
        uint32_t ahead = g + k_far, v = begin + (ahead > end ? ahead - end : 0);
        segment->k_ahead[g] = ahead < end ? now->k[ahead] : now->v[v < end ? v : end - 1];
    }
    for (uint32_t g = begin; g < end; g++) {
        uint32_t ahead = g + v_far, k = next_begin + (ahead > end ? ahead - end : 0);
        segment->v_ahead[g] = ahead < end ? now->v[ahead] : k < next_end ? next->k[k] : now->v[end - 1];
    }
}

/* All tiles against segment `index`; `next`: the one after it, or NULL. */
static void float_segment(const struct kernel_attend *attend, struct segment *segment, const struct attend_groups *next,
                          uint32_t index, float *state, float *scratch)
{
    struct tile tile = {.attend = attend, .segment = segment};
    tile.q = scratch;
    tile.scores = tile.q + ATTEND_TILE_ROWS * round_up(attend->head_dim, 16);
    tile.values = tile.scores + ATTEND_TILE_ROWS * ATTEND_SCORE_STRIDE;
    float *left = tile.values + ATTEND_TILE_ROWS * round_up(attend->value_dim, 16);
    if (attend->offset.q && attend->offset.key_dims) {
        tile.key_q = left;
        left += ATTEND_TILE_ROWS * KERNEL_OFFSET_KEY_DIMS;
    }
    if (attend->offset.q && attend->offset.group_dims) {
        tile.offsets = left;
        tile.offset_q = tile.offsets + ATTEND_TILE_ROWS * KERNEL_SEGMENT_GROUPS;
        tile.turned_offsets = tile.offset_q + ATTEND_TILE_ROWS * round_up(attend->offset.group_dims, 16);
    }
    uint64_t rows = (uint64_t)attend->tokens * attend->group, tiles = (rows + ATTEND_TILE_ROWS - 1) / ATTEND_TILE_ROWS;
    segment_ahead(attend, segment, next);
    if (attend->offset.q) find_offsets(attend, index, segment);
    for (uint64_t t = 0; t < tiles; t++) {
        tile.row = (uint32_t)(rows * t / tiles);
        tile.rows = (uint32_t)(rows * (t + 1) / tiles) - tile.row;
        if (tile_ranges(&tile, index)) tile_attend(&tile, state);
    }
}

#include "kernel/attention_fixed.h"

static bool attend_fixed(enum number_format k_format, enum number_format v_format)
{
    return k_format != NF_F32 || v_format != NF_F32;
}

uint32_t ATTEND_NAME(attend_unit)(enum number_format k_format, enum number_format v_format)
{
    return attend_fixed(k_format, v_format) ? CHUNK_KEYS : KERNEL_SEGMENT_TOKENS;
}

void ATTEND_NAME(attend)(const struct kernel_attend *attend, uint32_t segment_begin, uint32_t segment_end, float *state,
                         float *scratch)
{
    ASSERT(kernel_cache_format(attend->k_format) && kernel_cache_format(attend->v_format));
    const bool fixed = attend_fixed(attend->k_format, attend->v_format);
    struct segment segments[2];
    struct fixed_call call = {0};
    ASSERT(!attend->resume || (fixed && attend->key_begin % CHUNK_KEYS == 0 &&
                               attend->key_begin / KERNEL_SEGMENT_TOKENS == segment_begin));
    if (!attend->resume) attend_state_init(attend, state);
    if (fixed) fixed_open(&call, attend, scratch);
    bool some = segment_begin < segment_end && attend_segment_groups(attend, segment_begin, &segments[0].groups);
    for (uint32_t i = segment_begin; i < segment_end; i++) {
        struct segment *segment = &segments[(i - segment_begin) % 2], *next = &segments[(i + 1 - segment_begin) % 2];
        bool more = i + 1 < segment_end && attend_segment_groups(attend, i + 1, &next->groups);
        const struct attend_groups *after = more ? &next->groups : NULL;
        call.resume = attend->resume && i == segment_begin;
        if (some && fixed) fixed_segment(&call, segment, after, i, state);
        if (some && !fixed) float_segment(attend, segment, after, i, state, scratch);
        some = more;
    }
#ifdef ATTEND_TILES
    if (fixed && attend->brief) _tile_release();
#endif
}
