/* rows.c - queries, keys and values of one layer made ready and written to the cache: norm and rotation, and what small
 * number formats need so that little is lost.
 *
 * int8, and int4 for V, have one scale a row, so a few large elements cost all others their precision. What is done about it
 * leaves attention's result as it is:
 *
 * - Rows are turned by a Hadamard transform H, orthonormal and its own inverse, which spreads large elements over all (Ashkboos
 *   et al., "QuaRot", arXiv:2404.00456): q.k = (Hq).(Hk), and the weighted sum of Hv is H times that of v.
 * - K in int4 and fp8_e4m3 has a scale and a minimum or a middle for every channel of 32 tokens (KIVI, Liu et al.,
 *   arXiv:2402.02750), for which neither this nor what follows is needed, but which are known only when the 32 are there: until then a group is open, its rows exact.
 * - Some families (Qwen2) add a bias b to their keys that is many times larger than what tells keys apart. At position p it
 *   comes as R(p) b, rotated by rope. Stored is k - R(p0) b, p0 being the first position of the key's group of 16: known from
 *   weights and position alone, so it takes no bytes and no later token changes it. A query adds back, to all scores of a group,
 *       q . R(p0) b = sum over pairs i of (q1 b1 + q2 b2) cos(p0 f_i) + (q2 b1 - q1 b2) sin(p0 f_i),
 *   a product of a vector of the query's and one of the group's: struct kernel_offset. The few pairs that turn by more than half a
 *   radian a token would be elsewhere by the end of a group: for them p0 is the key's own position. Queries of prompts that go
 *   through tiles add R(p0) b to the keys themselves, from the same tables. */
#include "run_internal.h"
#include <math.h>
#include <string.h>

/* Rows that want turning. K in int4 has scales a channel, for which turning is wrong; the floats' errors follow the size of each
 * element, so that turning gains nothing. */
static bool turned(enum number_format format, bool keys)
{
    return format == NF_INT8 || (format == NF_INT4 && !keys);
}

/* Keys that are stored less their bias. */
static bool unbiased(enum number_format format)
{
    return format == NF_INT8 || format == NF_FP8_E5M2;
}

/* ---- offsets ----------------------------------------------------------------------------------------------------- */

/* A pair that turns by more than this (radians a token) is not still enough for a group. */
#define FAST_FREQUENCY 0.5f

/* Of the table of groups: cosines, sines, and a one for the elements that rope leaves alone. */
uint32_t rows_group_dims(const struct model_config *c)
{
    return c->rope_dimensions + (c->rope_dimensions < c->head_dim);
}

uint32_t rows_fast_pairs(const struct model_config *c, uint32_t kind)
{
    uint32_t pairs = 0;
    while (pairs < KERNEL_OFFSET_KEY_DIMS / 2 && pairs < c->rope_dimensions / 2 &&
           c->rope_frequencies[kind][pairs] > FAST_FREQUENCY)
        pairs++;
    return pairs;
}

uint32_t rows_offset_dims(const struct model_run *run)
{
    return run->treatment.group_dims + 2 * run->treatment.fast_pairs;
}

void *rows_exact(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    const struct model_config *c = &run->model->config;
    uint64_t index = (uint64_t)(tile - run->tiles) * c->kv_heads + head;
    return run->exact + index * kernel_k_exact_bytes(c->head_dim);
}

void rows_treatment(const struct model_run *run, struct row_treatment *out)
{
    const struct model_config *c = &run->model->config;
    enum number_format k, v;
    kv_seq_formats(run->entries[0].seq, run->layer, &k, &v);
    *out = (struct row_treatment){.turn_k = turned(k, true),
                                  .turn_v = turned(v, false),
                                  .closes = kernel_k_closes(k),
                                  .offset = unbiased(k) && run->model->layers[run->layer].k.bias != NULL,
                                  .k_format = k,
                                  .v_format = v,
                                  .group_dims = rows_group_dims(c),
                                  .fast_pairs = rows_fast_pairs(c, c->sliding[run->layer])};
}

/* The tables of one kind of layers, up to the group of position `last`. */
static void extend_table(struct model_run *run, uint32_t kind, uint32_t last)
{
    const struct model_config *c = &run->model->config;
    uint32_t half = c->rope_dimensions / 2, dims = rows_group_dims(c);
    const float factor = rope_factor(c, kind);
    const uint32_t fast = rows_fast_pairs(c, kind);
    for (uint32_t *g = &run->offset_groups[kind]; *g <= last / KERNEL_GROUP_TOKENS; ++*g) {
        float *row = run->offset_rows[kind] + (uint64_t)*g * dims;
        float *column = run->offset_table[kind] +
                        (uint64_t)(*g / KERNEL_SEGMENT_GROUPS) * dims * KERNEL_SEGMENT_GROUPS +
                        *g % KERNEL_SEGMENT_GROUPS;
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)(*g * KERNEL_GROUP_TOKENS) * c->rope_frequencies[kind][i];
            row[i] = cosf(angle) * factor;
            row[half + i] = sinf(angle) * factor;
        }
        if (dims > 2 * half) row[2 * half] = 1;
        for (uint32_t i = 0; i < dims; i++) column[(uint64_t)i * KERNEL_SEGMENT_GROUPS] = row[i];
        float *keys = run->key_table[kind] + (uint64_t)*g * 2 * fast * KERNEL_GROUP_TOKENS;
        for (uint32_t i = 0; i < fast; i++)
            for (uint32_t key = 0; key < KERNEL_GROUP_TOKENS; key++) {
                float angle = (float)(*g * KERNEL_GROUP_TOKENS + key) * c->rope_frequencies[kind][i];
                keys[i * KERNEL_GROUP_TOKENS + key] = cosf(angle) * factor;
                keys[(fast + i) * KERNEL_GROUP_TOKENS + key] = sinf(angle) * factor;
            }
    }
}

void rows_begin(struct model_run *run)
{
    const struct model_config *c = &run->model->config;
    uint32_t last = 0;
    for (uint32_t e = 0; e < run->entry_count; e++) {
        uint32_t own = kv_seq_count(run->entries[e].seq) + run->entries[e].count - 1;
        if (own > last) last = own;
    }
    for (run->layer = 0; run->layer < c->layers; run->layer++) {
        struct row_treatment treatment;
        rows_treatment(run, &treatment);
        if (treatment.offset) extend_table(run, c->sliding[run->layer], last);
    }
}

/* What the key at `position` is stored less: R(p0) bias, [head_dim]. */
static void stored_bias(const struct model_run *run, const float *bias, uint32_t position, float *out)
{
    const struct model_config *c = &run->model->config;
    uint32_t kind = c->sliding[run->layer], half = c->rope_dimensions / 2, dims = run->treatment.group_dims;
    uint32_t fast = run->treatment.fast_pairs, group = position / KERNEL_GROUP_TOKENS;
    const float *row = run->offset_rows[kind] + (uint64_t)group * dims;
    const float *key =
        run->key_table[kind] + (uint64_t)group * 2 * fast * KERNEL_GROUP_TOKENS + position % KERNEL_GROUP_TOKENS;
    uint32_t step = c->rope_neighbours ? 2 : 1, apart = c->rope_neighbours ? 1 : half;
    memcpy(out, bias, c->head_dim * sizeof *out);
    for (uint32_t i = 0, a = 0; i < half; i++, a += step) {
        uint32_t b = a + apart;
        float cosine = i < fast ? key[i * KERNEL_GROUP_TOKENS] : row[i];
        float sine = i < fast ? key[(fast + i) * KERNEL_GROUP_TOKENS] : row[half + i];
        out[a] = bias[a] * cosine - bias[b] * sine;
        out[b] = bias[b] * cosine + bias[a] * sine;
    }
}

/* What keys of a KV head were stored less, and queries meet, for each 1 in the tables: what query_offset() has as products with q. */
static void offset_basis(const struct model_run *run, uint32_t head)
{
    const struct model_config *c = &run->model->config;
    const float *bias = run->model->layers[run->layer].k.bias + (uint64_t)head * c->head_dim;
    const uint32_t half = c->rope_dimensions / 2, fast = run->treatment.fast_pairs, dims = rows_offset_dims(run);
    const uint32_t step = c->rope_neighbours ? 2 : 1, apart = c->rope_neighbours ? 1 : half;
    float *out = run->offset_basis + (uint64_t)head * dims * c->head_dim;
    memset(out, 0, (uint64_t)dims * c->head_dim * sizeof *out);
    for (uint32_t i = 0, a = 0; i < half; i++, a += step) {
        const uint32_t b = a + apart;
        float *cosine = out + (uint64_t)(i < fast ? run->treatment.group_dims + i : i) * c->head_dim,
              *sine = cosine + (uint64_t)(i < fast ? fast : half) * c->head_dim;
        cosine[a] = bias[a];
        cosine[b] = bias[b];
        sine[a] = -bias[b];
        sine[b] = bias[a];
    }
    for (uint32_t d = c->rope_dimensions; d < c->head_dim; d++) out[(uint64_t)2 * half * c->head_dim + d] = bias[d];
    for (uint32_t i = 0; run->treatment.turn_k && i < dims; i++)
        run->model->kernel->hadamard(out + (uint64_t)i * c->head_dim, c->head_dim);
}

/* What query `q` has with the bias of its KV head, as coefficients of the two tables: [rows_group_dims + 2 * fast]. */
static void query_offset(const struct model_config *c, uint32_t fast, const float *bias, const float *q, float *out)
{
    uint32_t half = c->rope_dimensions / 2, step = c->rope_neighbours ? 2 : 1, apart = c->rope_neighbours ? 1 : half;
    const float *q2 = q + apart, *bias2 = bias + apart;
    for (uint32_t i = 0, a = 0; i < half; i++, a += step) {
        out[i] = q[a] * bias[a] + q2[a] * bias2[a];
        out[half + i] = q2[a] * bias[a] - q[a] * bias2[a];
    }
    float *keys = out + rows_group_dims(c);
    for (uint32_t i = 0; i < fast; i++) {
        keys[i] = out[i];
        keys[fast + i] = out[half + i];
        out[i] = out[half + i] = 0;
    }
    if (c->rope_dimensions == c->head_dim) return;
    float rest = 0;
    for (uint32_t d = c->rope_dimensions; d < c->head_dim; d++) rest += q[d] * bias[d];
    out[2 * half] = rest;
}

/* ---- one tile and KV head ---------------------------------------------------------------------------------------- */

static void rotate_head(const struct model_run *run, float *head, const float *norm, uint32_t row)
{
    const struct model *model = run->model;
    const struct model_config *c = &model->config;
    uint32_t kind = c->sliding[run->layer], half = c->rope_dimensions / 2;
    if (norm) model->kernel->rms_norm(head, norm, c->norm_eps, c->head_dim, head);
    model->kernel->rope(head, run->cosines[kind] + (uint64_t)row * half, run->sines[kind] + (uint64_t)row * half,
                        c->rope_dimensions, c->rope_neighbours);
}

static void ready_queries(const struct model_run *run, uint32_t row, uint32_t head, bool brief)
{
    const struct model_config *c = &run->model->config;
    const struct layer *layer = &run->model->layers[run->layer];
    const struct row_treatment *treatment = &run->treatment;
    uint32_t group = c->heads / c->kv_heads, fast = treatment->fast_pairs, dims = rows_offset_dims(run);
    for (uint32_t h = head * group; h < (head + 1) * group; h++) {
        float *q = run->q + ((uint64_t)row * c->heads + h) * c->head_dim;
        rotate_head(run, q, layer->q_norm, row);
        if (treatment->offset && !brief)
            query_offset(c, fast, layer->k.bias + (uint64_t)head * c->head_dim, q,
                         run->offset_q + ((uint64_t)row * c->heads + h) * dims);
        if (treatment->turn_k) run->model->kernel->hadamard(q, c->head_dim);
    }
}

/* K of a format that closes groups: the tile's rows, all of one group, go exactly to the tile's own place, after what the open
 * group held; a full group is quantised into the cache. Its own tokens still read it exactly, as they would in decode. */
static void write_exact(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    const struct model_config *c = &run->model->config;
    struct kv_seq *seq = run->entries[tile->entry].seq;
    uint64_t stride = (uint64_t)c->kv_heads * c->head_dim;
    uint32_t first = tile->position % KERNEL_CLOSED_TOKENS;
    void *exact = rows_exact(run, tile, head);
    if (first) memcpy(exact, kv_seq_open_rows(seq, run->layer, head), kernel_k_exact_bytes(c->head_dim));
    run->model->kernel->kv_write(NF_F16, NF_F16, exact, NULL, first, tile->count,
                                 run->k + tile->row * stride + (uint64_t)head * c->head_dim, stride, c->head_dim, NULL,
                                 0, 0);
    if (first + tile->count == KERNEL_CLOSED_TOKENS)
        kv_seq_close_group(seq, run->layer, head, tile->position - first, exact);
}

void rows_key(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t position,
              const void *k_groups, uint32_t slot, float *out)
{
    const struct model_config *c = &run->model->config;
    const struct row_treatment *treatment = &run->treatment;
    float *bias = run->bias + ((uint64_t)tile->row * c->kv_heads + head) * c->head_dim;
    kernel_k_row_decode(treatment->k_format, k_groups, slot, c->head_dim, out);
    if (treatment->turn_k) run->model->kernel->hadamard(out, c->head_dim);
    if (!treatment->offset) return;
    stored_bias(run, run->model->layers[run->layer].k.bias + (uint64_t)head * c->head_dim, position, bias);
    for (uint32_t d = 0; d < c->head_dim; d++) out[d] += bias[d];
}

void rows_write(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    const struct model_config *c = &run->model->config;
    const struct kernel *kernel = run->model->kernel;
    struct kv_seq *seq = run->entries[tile->entry].seq;
    uint64_t k_stride = (uint64_t)c->kv_heads * c->head_dim, v_stride = (uint64_t)c->kv_heads * c->value_dim;
    float *bias = run->bias + ((uint64_t)tile->row * c->kv_heads + head) * c->head_dim;
    const struct row_treatment treatment = run->treatment;
    for (uint32_t i = 0; i < tile->count; i++) {
        uint32_t row = tile->row + i, position = tile->position + i;
        float *k = run->k + row * k_stride + (uint64_t)head * c->head_dim;
        if (treatment.offset) {
            stored_bias(run, run->model->layers[run->layer].k.bias + (uint64_t)head * c->head_dim, position, bias);
            for (uint32_t d = 0; d < c->head_dim; d++) k[d] -= bias[d];
        }
        if (treatment.turn_k) kernel->hadamard(k, c->head_dim);
        if (treatment.turn_v) kernel->hadamard(run->v + row * v_stride + (uint64_t)head * c->value_dim, c->value_dim);
    }
    if (treatment.closes) write_exact(run, tile, head);
    kv_seq_write(seq, run->layer, head, head + 1, tile->position, tile->count, run->k + tile->row * k_stride, k_stride,
                 run->v + tile->row * v_stride, v_stride);
}

/* Of one tile and KV head: its queries and its keys are rotated, its K and V rows written. */
static void ready_and_write(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    const struct model_config *c = &run->model->config;
    const float *norm = run->model->layers[run->layer].k_norm;
    for (uint32_t row = tile->row; row < tile->row + tile->count; row++) {
        ready_queries(run, row, head, tile_is_brief(tile));
        rotate_head(run, run->k + ((uint64_t)row * c->kv_heads + head) * c->head_dim, norm, row);
    }
    rows_write(run, tile, head);
}

/* Whether tokens of some tile are brief. */
static bool some_brief(const struct model_run *run)
{
    bool some = false;
    for (uint32_t i = 0; i < run->row_run_count; i++) some |= run->row_runs[i].tiles;
    return some;
}

void rows_write_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    uint64_t begin, end, heads = run->model->config.kv_heads;
    pool_share(run->tile_count * heads, 1, worker, workers, &begin, &end);
    for (uint64_t unit = begin; unit < end; unit++) {
        const struct tile *tile = &run->tiles[unit / heads];
        const uint32_t head = (uint32_t)(unit % heads);
        if (tile == run->tiles && run->treatment.offset && some_brief(run)) offset_basis(run, head);
        ready_and_write(run, tile, head);
        retrieve_index(run, tile, head, &run->workers[worker]);
        retrieve_choose(run, tile, head, &run->workers[worker]);
    }
}

void rows_leave_open(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    if (run->treatment.closes && (tile->position + tile->count) % KERNEL_CLOSED_TOKENS)
        memcpy(kv_seq_open_rows(run->entries[tile->entry].seq, run->layer, head), rows_exact(run, tile, head),
               kernel_k_exact_bytes(run->model->config.head_dim));
}

void rows_finish(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    const struct model_config *c = &run->model->config;
    rows_leave_open(run, tile, head);
    if (!run->treatment.turn_v) return;
    uint32_t group = c->heads / c->kv_heads;
    for (uint32_t row = tile->row; row < tile->row + tile->count; row++)
        for (uint32_t h = head * group; h < (head + 1) * group; h++)
            run->model->kernel->hadamard(run->attended + ((uint64_t)row * c->heads + h) * c->value_dim, c->value_dim);
}
