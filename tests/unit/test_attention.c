/* test_attention.c - attention of every instruction set this machine runs, over rows in every format: against an attention in
 * double precision over the rows as they are decoded, and against themselves, bit for bit, however a prompt is chunked, spans are cut and segments are shared
 * out.
 *
 * Every slot that was not written holds 0xFF bytes, a NaN in each cache format that has one, and each span is an allocation of
 * its own size: one number read from the wrong place makes the result a NaN, or asan speak. */
#include "kernel/kernel.h"
#include "support.h"

#include <math.h>
#include <string.h>

struct shape {
    enum number_format k_format, v_format;
    uint32_t head_dim, value_dim, group, keys, window;
    float softcap;
    uint32_t span_tokens, sinks, group_dims, key_dims; /* _dims: of the offsets */
};

/* One KV head of one sequence with all its queries. */
struct scene {
    struct shape shape;
    float *q, *k, *v;            /* [keys, group * head_dim], [keys, head_dim], [keys, value_dim] */
    float *k_read, *v_read;      /* the same rows, as the cache has them */
    float *offset_basis;         /* [group_dims + key_dims, head_dim] */
    float *offset_q;             /* [keys, group * (group_dims + key_dims)]: q . offset_basis */
    uint32_t *order;             /* [keys / 16 + 1] of the groups in offset_rows and offset_keys */
    float *offset_rows;          /* [keys / 16 + 1, group_dims] */
    float *offset_groups;        /* [keys / 1024 + 1, group_dims, 64]; NULL where the groups are in another order */
    float *offset_keys;          /* [keys / 16 + 1, key_dims, 16] */
    uint32_t key_begin, key_end; /* of calls */
    struct kernel_span *spans;
    uint32_t span_count;
};

static bool brief; /* kernel_attend.brief */

static uint64_t seed;

static float uniform(void) /* [-1, 1) */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed >> 11) / (double)(1ull << 52) - 1.0);
}

static float *random_rows(uint64_t count, float size)
{
    float *rows = malloc(count * sizeof *rows + 1);
    assert_non_null(rows);
    for (uint64_t i = 0; i < count; i++) rows[i] = size * (uniform() + uniform());
    return rows;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint16_t unwritten_word = 0xFFFF;

static void fill_unwritten(void *memory, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) ((uint8_t *)memory)[i] = (uint8_t)(unwritten_word >> i % 2 * 8);
}

static void *unwritten(uint64_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(memory);
    fill_unwritten(memory, bytes);
    return memory;
}

/* Closes all pairs of groups of K. */
static void scene_close_k(struct scene *scene, const struct kernel *kernel)
{
    const struct shape *s = &scene->shape;
    void *exact = unwritten(2 * kernel_k_group_bytes(NF_F16, s->head_dim)), *none = unwritten(64);
    for (uint32_t at = 0; at < s->keys; at += KERNEL_CLOSED_TOKENS) {
        const struct kernel_span *span = &scene->spans[at / s->span_tokens];
        uint64_t group = (at - span->position) / KERNEL_GROUP_TOKENS;
        kernel->kv_write(NF_F16, NF_F16, exact, none, 0, KERNEL_CLOSED_TOKENS, scene->k + (uint64_t)at * s->head_dim,
                         s->head_dim, s->head_dim, none, 0, 0);
        kernel->k_close(s->k_format,
                        (char *)(uintptr_t)span->k + group * kernel_k_group_bytes(s->k_format, s->head_dim), exact,
                        s->head_dim);
    }
    free(exact);
    free(none);
}

/* Writes the rows of all keys into spans, in runs of changing length. */
static void scene_write(struct scene *scene, const struct kernel *kernel)
{
    const struct shape *s = &scene->shape;
    uint32_t run = 1;
    for (uint32_t at = 0, some; at < s->keys; at += some) {
        struct kernel_span *span = &scene->spans[at / s->span_tokens];
        uint32_t slot = at - span->position;
        some = smaller(smaller(run, s->keys - at), s->span_tokens - slot);
        kernel->kv_write(s->k_format, s->v_format, (void *)(uintptr_t)span->k, (void *)(uintptr_t)span->v, slot, some,
                         scene->k + (uint64_t)at * s->head_dim, s->head_dim, s->head_dim,
                         scene->v + (uint64_t)at * s->value_dim, s->value_dim, s->value_dim);
        span->count = slot + some;
        run = run % 37 + 1;
    }
    if (kernel_k_closes(s->k_format)) scene_close_k(scene, kernel);
}

static void scene_read(struct scene *scene)
{
    const struct shape *s = &scene->shape;
    for (uint32_t at = 0; at < s->keys; at++) {
        const struct kernel_span *span = &scene->spans[at / s->span_tokens];
        kernel_k_row_decode(s->k_format, span->k, at - span->position, s->head_dim,
                            scene->k_read + (uint64_t)at * s->head_dim);
        kernel_v_row_decode(s->v_format, span->v, at - span->position, s->value_dim,
                            scene->v_read + (uint64_t)at * s->value_dim);
    }
}

/* K that is closed in pairs of groups: its last rows are of tokens that no query sees. */
static uint32_t closed_keys(const struct shape *s)
{
    return (s->keys + KERNEL_CLOSED_TOKENS - 1) / KERNEL_CLOSED_TOKENS * KERNEL_CLOSED_TOKENS;
}

/* Whether the tables of offsets are in another order than the keys: of every other shape. */
static bool ordered(const struct shape *s)
{
    return s->group % 2 == 1;
}

static void make_offset_queries(struct scene *scene)
{
    const struct shape *s = &scene->shape;
    const uint32_t dims = s->group_dims + s->key_dims, rows = s->keys * s->group;
    scene->offset_basis =
        random_rows((uint64_t)dims * s->head_dim, 0.7f / sqrtf((float)s->head_dim)); /* scores: see below */
    scene->offset_q = random_rows((uint64_t)rows * dims, 0);
    for (uint64_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < dims; i++) {
            double sum = 0;
            for (uint32_t d = 0; d < s->head_dim; d++)
                sum += (double)scene->q[row * s->head_dim + d] * (double)scene->offset_basis[i * s->head_dim + d];
            scene->offset_q[row * dims + i] = (float)sum;
        }
}

static struct scene scene_open(const struct shape *shape, const struct kernel *kernel)
{
    struct scene scene = {.shape = *shape};
    const struct shape *s = &scene.shape;
    if (kernel_k_closes(s->k_format) && s->span_tokens % KERNEL_CLOSED_TOKENS) scene.shape.span_tokens += 16;
    seed = 7;
    scene.q = random_rows((uint64_t)s->keys * s->group * s->head_dim, 6);
    scene.k = random_rows((uint64_t)closed_keys(s) * s->head_dim, 1);
    scene.v = random_rows((uint64_t)s->keys * s->value_dim, 1);
    scene.k_read = random_rows((uint64_t)s->keys * s->head_dim, 1);
    scene.v_read = random_rows((uint64_t)s->keys * s->value_dim, 1);
    make_offset_queries(&scene);
    const uint32_t groups = s->keys / 16 + 1;
    scene.order = calloc(groups, sizeof *scene.order);
    assert_non_null(scene.order);
    for (uint32_t g = 0; g < groups; g++) scene.order[g] = ordered(s) ? groups - 1 - g : g;
    scene.offset_rows = random_rows((uint64_t)groups * s->group_dims, 1);
    if (!ordered(s)) scene.offset_groups = random_rows((uint64_t)(s->keys / 1024 + 1) * s->group_dims * 64, 1);
    for (uint64_t i = 0; i < (uint64_t)groups * s->group_dims && !ordered(s); i++) {
        const uint64_t g = i / s->group_dims, d = i % s->group_dims;
        scene.offset_groups[(g / 64 * s->group_dims + d) * 64 + g % 64] = scene.offset_rows[i];
    }
    scene.offset_keys = random_rows((uint64_t)groups * s->key_dims * 16, 1);
    for (uint32_t key = s->keys; key < s->keys / 16 * 16 + 16; key++) /* that are not there */
        for (uint32_t i = 0; i < s->key_dims; i++)
            scene.offset_keys[(scene.order[key / 16] * s->key_dims + i) * 16 + key % 16] = NAN;
    scene.span_count = (s->keys + s->span_tokens - 1) / s->span_tokens;
    scene.spans = calloc(scene.span_count, sizeof *scene.spans);
    assert_non_null(scene.spans);
    for (uint32_t i = 0; i < scene.span_count; i++) {
        uint64_t span_groups = s->span_tokens / KERNEL_GROUP_TOKENS;
        scene.spans[i].position = i * s->span_tokens;
        scene.spans[i].k = unwritten(span_groups * kernel_k_group_bytes(s->k_format, s->head_dim));
        scene.spans[i].v = unwritten(span_groups * kernel_v_group_bytes(s->v_format, s->value_dim));
    }
    scene_write(&scene, kernel);
    scene_read(&scene);
    return scene;
}

static void scene_close(struct scene *scene)
{
    for (uint32_t i = 0; i < scene->span_count; i++) {
        free((void *)(uintptr_t)scene->spans[i].k);
        free((void *)(uintptr_t)scene->spans[i].v);
    }
    free(scene->spans);
    free(scene->q);
    free(scene->k);
    free(scene->v);
    free(scene->k_read);
    free(scene->offset_basis);
    free(scene->offset_q);
    free(scene->order);
    free(scene->offset_rows);
    free(scene->offset_groups);
    free(scene->offset_keys);
    free(scene->v_read);
}

/* How the segments of a call are shared out. */
enum split { WHOLE, BY_SEGMENT };

static struct kernel_attend scene_attend(const struct scene *scene, uint32_t position, uint32_t tokens, float *out)
{
    const struct shape *s = &scene->shape;
    uint32_t offset_dims = s->group_dims + s->key_dims;
    uint64_t q_stride = (uint64_t)s->group * s->head_dim, out_stride = (uint64_t)s->group * s->value_dim;
    return (struct kernel_attend){
        .k_format = s->k_format,
        .v_format = s->v_format,
        .head_dim = s->head_dim,
        .value_dim = s->value_dim,
        .group = s->group,
        .tokens = tokens,
        .position = position,
        .window = s->window,
        .sinks = s->sinks,
        .key_begin = scene->key_begin,
        .key_end = scene->key_end,
        .brief = brief,
        .offset = {.q = offset_dims ? scene->offset_q + (uint64_t)position * s->group * offset_dims : NULL,
                   .q_token_stride = (uint64_t)s->group * offset_dims,
                   .group_dims = s->group_dims,
                   .key_dims = s->key_dims,
                   .groups = s->group_dims ? scene->offset_groups : NULL,
                   .rows = s->group_dims ? scene->offset_rows : NULL,
                   .keys = s->key_dims ? scene->offset_keys : NULL,
                   .order = ordered(s) ? scene->order : NULL,
                   .basis = scene->offset_basis},
        .scale = 1.0f / sqrtf((float)s->head_dim),
        .softcap = s->softcap,
        .q = scene->q + position * q_stride,
        .q_token_stride = q_stride,
        .spans = scene->spans,
        .span_count = scene->span_count,
        .out = out + position * out_stride,
        .out_token_stride = out_stride};
}

/* The spans that the queries see a key of, as the cache has them: a window leaves out those before it, but the sinks'. */
static uint32_t scene_spans(const struct scene *scene, uint32_t position, uint32_t tokens, struct kernel_span *out)
{
    const struct shape *s = &scene->shape;
    uint32_t first = s->window && position + 1 > s->window ? position + 1 - s->window : 0, count = 0;
    uint32_t end = position + tokens;
    if (scene->key_end && scene->key_end < end) end = scene->key_end;
    for (uint32_t i = 0; i * s->span_tokens < end; i++) {
        const uint32_t span_end = scene->spans[i].position + s->span_tokens;
        if ((scene->spans[i].position < s->sinks || span_end > first) && span_end > scene->key_begin)
            out[count++] = scene->spans[i];
    }
    assert_true(end <= first || end <= scene->key_begin || out[count - 1].position + out[count - 1].count >= end);
    return count;
}

/* The state of `tokens` queries from `position` on; `attend` becomes the call. */
static float *scene_state(const struct scene *scene, const struct kernel *kernel, uint32_t position, uint32_t tokens,
                          enum split split, float *out, struct kernel_attend *attend)
{
    *attend = scene_attend(scene, position, tokens, out);
    struct kernel_span spans[200];
    assert_true(scene->span_count <= ARRAY_COUNT(spans));
    attend->span_count = scene_spans(scene, position, tokens, spans);
    attend->spans = spans;
    uint64_t state_bytes = kernel_attend_state_floats(attend) * sizeof(float);
    float *state = malloc(state_bytes), *next = malloc(state_bytes);
    float *scratch = aligned_alloc(64, kernel_attend_scratch_floats(attend) * sizeof(float));
    assert_true(state && next && scratch);
    fill_unwritten(state, state_bytes);
    fill_unwritten(scratch, kernel_attend_scratch_floats(attend) * sizeof(float));
    uint32_t segments = (position + tokens - 1) / KERNEL_SEGMENT_TOKENS + 1;
    kernel->attend(attend, 0, split == WHOLE ? segments : 1, state, scratch);
    for (uint32_t i = 1; split == BY_SEGMENT && i < segments; i++) {
        kernel->attend(attend, i, i + 1, next, scratch);
        kernel->attend_fold(attend, state, next);
    }
    attend->spans = NULL;
    free(next);
    free(scratch);
    return state;
}

/* Attention of `tokens` queries from `position` on, into their place of `out` [keys, group * value_dim]. */
static void scene_run(const struct scene *scene, const struct kernel *kernel, uint32_t position, uint32_t tokens,
                      enum split split, float *out)
{
    struct kernel_attend attend;
    float *state = scene_state(scene, kernel, position, tokens, split, out, &attend);
    kernel->attend_finish(&attend, state);
    free(state);
}

static bool sees(const struct scene *scene, uint32_t position, uint32_t key)
{
    const struct shape *s = &scene->shape;
    if (key < scene->key_begin || (scene->key_end && key >= scene->key_end)) return false;
    return key <= position && (!s->window || key + s->window > position || key < s->sinks);
}

static double score_exact(const struct scene *scene, uint32_t position, uint32_t head, uint32_t key)
{
    const struct shape *s = &scene->shape;
    const float *q = scene->q + ((uint64_t)position * s->group + head) * s->head_dim;
    double dot = 0;
    for (uint32_t d = 0; d < s->head_dim; d++) dot += (double)q[d] * scene->k_read[(uint64_t)key * s->head_dim + d];
    const float *c = scene->offset_q + ((uint64_t)position * s->group + head) * (s->group_dims + s->key_dims);
    for (uint32_t i = 0; i < s->group_dims; i++)
        dot += (double)c[i] * scene->offset_rows[scene->order[key / 16] * s->group_dims + i];
    for (uint32_t i = 0; i < s->key_dims; i++)
        dot += (double)c[s->group_dims + i] *
               scene->offset_keys[(scene->order[key / 16] * s->key_dims + i) * 16 + key % 16];
    dot /= sqrt(s->head_dim);
    return s->softcap > 0 ? s->softcap * tanh(dot / s->softcap) : dot;
}

/* One query of the scene in double precision. */
static void attend_exact(const struct scene *scene, uint32_t position, uint32_t head, double *out)
{
    const struct shape *s = &scene->shape;
    double *scores = malloc((position + 1) * sizeof *scores), top = -INFINITY, sum = 0;
    assert_non_null(scores);
    for (uint32_t key = 0; key <= position; key++) {
        scores[key] = sees(scene, position, key) ? score_exact(scene, position, head, key) : -INFINITY;
        if (scores[key] > top) top = scores[key];
    }
    for (uint32_t d = 0; d < s->value_dim; d++) out[d] = 0;
    for (uint32_t key = 0; key <= position; key++) {
        double p = scores[key] > -INFINITY ? exp(scores[key] - top) : 0;
        sum += p;
        for (uint32_t d = 0; d < s->value_dim && p > 0; d++)
            out[d] += p * scene->v_read[(uint64_t)key * s->value_dim + d];
    }
    for (uint32_t d = 0; d < s->value_dim; d++) out[d] /= sum;
    free(scores);
}

/* Stated bounds: no output differs from exact arithmetic over the cached rows by more than this; values are within 2,
 * scores within about 30. A cache narrower than f32 is read in 16-bit fixed point, whose errors are of the size of those
 * that f16 made when the rows were written; in bf16 a score is rounded to 1/128 of a power of 2, and values to 8 bits. */
#define FLOAT_ERROR_MAX 1.2e-5
#define FIXED_ERROR_MAX 4e-3
#define BRIEF_ERROR_MAX 3e-2

static double error_max(const struct shape *shape, const struct kernel *kernel)
{
    bool floats = shape->k_format == NF_F32 && shape->v_format == NF_F32;
    if (floats || strcmp(kernel->name, "ref") == 0) return FLOAT_ERROR_MAX;
    return brief ? BRIEF_ERROR_MAX : FIXED_ERROR_MAX;
}

static void expect_exact(const struct scene *scene, const struct kernel *kernel, const float *out, uint32_t step)
{
    const struct shape *s = &scene->shape;
    double exact[256], worst = 0;
    for (uint32_t position = 0; position < s->keys; position += position + step < s->keys ? step : s->keys)
        for (uint32_t head = 0; head < s->group; head++) {
            attend_exact(scene, position, head, exact);
            const float *row = out + ((uint64_t)position * s->group + head) * s->value_dim;
            for (uint32_t d = 0; d < s->value_dim; d++) {
                double error = fabs(row[d] - exact[d]);
                if (isnan(exact[d])) /* no key is seen */
                    assert_true(isnan(row[d]));
                else if (!(error <= error_max(s, kernel)))
                    fail_msg("%s: dim %u/%u group %u window %u sinks %u softcap %g formats %d/%d: position %u head %u "
                             "column %u "
                             "is %.9g, not %.9g",
                             kernel->name, s->head_dim, s->value_dim, s->group, s->window, s->sinks, s->softcap,
                             s->k_format, s->v_format, position, head, d, row[d], exact[d]);
                if (error > worst) worst = error;
            }
        }
    if (getenv("KVASIR_TEST_VERBOSE"))
        print_message("%-10s dim %3u/%3u group %2u keys %4u window %4u softcap %2g: worst %.2g\n", kernel->name,
                      s->head_dim, s->value_dim, s->group, s->keys, s->window, s->softcap, worst);
}

static void expect_same(const struct kernel *kernel, const float *a, const float *b, uint64_t count, const char *what,
                        uint32_t detail)
{
    for (uint64_t i = 0; i < count; i++)
        if (memcmp(a + i, b + i, sizeof *a))
            fail_msg("%s: %s %u changes element %llu: %.9g, %.9g", kernel->name, what, detail, (unsigned long long)i,
                     a[i], b[i]);
}

static uint64_t out_count(const struct shape *s)
{
    return (uint64_t)s->keys * s->group * s->value_dim;
}

static float *out_open(const struct shape *s)
{
    float *out = unwritten(out_count(s) * sizeof *out);
    return out;
}

#define TABLES 7u
/* A table; NULL where this machine cannot run it. The last one again, as it computes tokens of prompts. */
static const struct kernel *table(uint32_t index)
{
    static const char *const names[TABLES] = {"ref", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", "amx"};
    const struct kernel *kernel = NULL;
    brief = index == TABLES - 1;
    return kernel_select(names[index], &kernel, NULL) == ST_OK ? kernel : NULL;
}
#define EACH_TABLE(kernel)                                              \
    for (uint32_t table_index = 0; table_index < TABLES; table_index++) \
        for (const struct kernel *kernel = table(table_index); kernel; kernel = NULL)

/* ref is slow: unless the counts are to be full it runs every sixth of a long row of cases. */
#define CASE_STEP (table_index ? 1 : test_count(6, 1))

/* Chunk by chunk as a prompt is prefilled: rows are there only up to the chunk's end. */
static void run_chunks(const struct shape *shape, const struct kernel *kernel, uint32_t chunk, float *out)
{
    struct scene scene = scene_open(shape, kernel);
    for (uint32_t at = 0; at < shape->keys; at += chunk)
        scene_run(&scene, kernel, at, smaller(chunk, shape->keys - at), WHOLE, out);
    scene_close(&scene);
}

static void test_exact(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {
        {NF_F32, NF_F32, 64, 64, 7, 130, 0, 0, 64, 0, 0, 0},    {NF_F16, NF_F16, 64, 64, 7, 300, 0, 0, 32, 0, 0, 0},
        {NF_F16, NF_F16, 64, 64, 3, 257, 0, 0, 16, 0, 0, 0},    {NF_F16, NF_F16, 256, 256, 4, 200, 50, 0, 64, 0, 0, 0},
        {NF_F16, NF_F32, 128, 128, 4, 100, 0, 0, 128, 0, 0, 0}, {NF_F32, NF_F16, 80, 80, 1, 90, 0, 30, 16, 0, 0, 0},
        {NF_F16, NF_F16, 96, 96, 2, 75, 0, 0, 48, 0, 0, 0},     {NF_F16, NF_F16, 112, 112, 5, 75, 17, 5, 32, 0, 0, 0},
        {NF_F32, NF_F32, 16, 16, 1, 75, 1, 0, 16, 0, 0, 0},     {NF_F16, NF_F16, 32, 32, 8, 75, 16, 0, 16, 0, 0, 0},
        {NF_F16, NF_F16, 20, 13, 3, 75, 0, 50, 32, 0, 0, 0},    {NF_F32, NF_F32, 7, 3, 2, 75, 33, 0, 32, 0, 0, 0},
        {NF_F16, NF_F16, 192, 128, 16, 60, 0, 0, 32, 0, 0, 0},  {NF_F16, NF_F32, 1, 1, 1, 40, 0, 0, 16, 0, 0, 0},
        {NF_F16, NF_F16, 64, 40, 71, 33, 0, 0, 16, 0, 0, 0},    {NF_F32, NF_F16, 40, 72, 13, 50, 20, 0, 16, 0, 0, 0},
    };
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i++) {
        struct scene scene = scene_open(&shapes[i], kernel);
        float *out = out_open(&shapes[i]);
        scene_run(&scene, kernel, 0, shapes[i].keys, WHOLE, out);
        expect_exact(&scene, kernel, out, 1);
        free(out);
        scene_close(&scene);
    }
}

static const enum number_format cache_formats[] = {NF_F32, NF_F16, NF_BF16, NF_FP8_E4M3, NF_FP8_E5M2, NF_INT8, NF_INT4};

/* Every format of K with every format of V, in shapes that change from one to the next: odd dimensions, windows, sinks. */
static void test_exact_in_all_formats(void **unused)
{
    (void)unused;
    static const uint32_t dims[][2] = {{64, 64}, {80, 80}, {65, 33}, {96, 112}, {7, 3}, {18, 66}, {3, 128}, {1, 17}};
    static const uint32_t seen[][3] = {{0, 0, 0},   {1, 0, 0},   {33, 5, 0},
                                       {50, 17, 0}, {16, 70, 0}, {20, 4, 0}}; /* window, sinks */
    static const uint32_t groups[] = {7, 1, 3, 16, 2}, offsets[] = {0, 64, 0, 5}, keyed[] = {0, 4, 3};
    uint32_t at = 0;
    for (uint32_t k = 0; k < ARRAY_COUNT(cache_formats); k++)
        for (uint32_t v = 0; v < ARRAY_COUNT(cache_formats); v++)
            for (uint32_t i = 0; i < test_count(2, 24); i++, at++) {
                const uint32_t *dim = dims[at % ARRAY_COUNT(dims)], *limits = seen[at % ARRAY_COUNT(seen)];
                const struct shape shape = {cache_formats[k], cache_formats[v], dim[0],          dim[1],
                                            groups[at % 5],   90 + at % 7,      limits[0],       at % 4 == 3 ? 20 : 0,
                                            16 + at % 3 * 16, limits[1],        offsets[at % 4], keyed[at % 3]};
                EACH_TABLE(kernel)
                {
                    struct scene scene = scene_open(&shape, kernel);
                    float *out = out_open(&shape);
                    scene_run(&scene, kernel, 0, shape.keys, WHOLE, out);
                    expect_exact(&scene, kernel, out, 1);
                    free(out);
                    scene_close(&scene);
                }
            }
}

static void test_long_contexts(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {
        {NF_F16, NF_F16, 16, 16, 2, 2600, 0, 0, 64, 0, 0, 0},
        {NF_F32, NF_F32, 16, 24, 3, 2100, 1030, 0, 256, 0, 0, 0},
        {NF_F16, NF_F16, 64, 64, 7, 1100, 512, 0, 32, 0, 0, 0},
        {NF_F32, NF_F16, 32, 32, 1, 3100, 2000, 20, 1024, 0, 0, 0},
        {NF_F16, NF_F16, 16, 16, 1, 2100, 1024, 0, 128, 0, 0, 0},
        {NF_INT8, NF_INT8, 64, 64, 7, 2100, 0, 0, 64, 0, 64, 4},
        {NF_INT8, NF_INT4, 20, 33, 2, 2500, 300, 0, 32, 1100, 0, 0},
        {NF_FP8_E4M3, NF_INT8, 48, 16, 3, 2300, 100, 0, 16, 4, 0, 0},
        {NF_F32, NF_F32, 16, 20, 2, 2300, 500, 0, 64, 1030, 7, 5},
        {NF_INT4, NF_BF16, 64, 16, 1, 2100, 1500, 0, 128, 600, 0, 0},
    };
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i += CASE_STEP) {
        const struct shape *s = &shapes[i];
        struct scene scene = scene_open(s, kernel);
        float *whole = out_open(s), *other = out_open(s);
        scene_run(&scene, kernel, 0, s->keys, WHOLE, whole);
        expect_exact(&scene, kernel, whole, 61);
        scene_run(&scene, kernel, 0, s->keys, BY_SEGMENT, other);
        expect_same(kernel, whole, other, out_count(s), "a split by segments of scene", i);
        run_chunks(s, kernel, 333, other);
        expect_same(kernel, whole, other, out_count(s), "chunks of 333 in scene", i);
        /* Single tokens around the segments' boundaries, their segments shared out. */
        memset(other, 0xFF, out_count(s) * sizeof *other);
        for (uint32_t at = 1000; at<s->keys; at += at % 1024> 1010 || at % 1024 < 40 ? 1 : 97) {
            uint64_t row = (uint64_t)at * s->group * s->value_dim;
            scene_run(&scene, kernel, at, 1, BY_SEGMENT, other);
            expect_same(kernel, whole + row, other + row, (uint64_t)s->group * s->value_dim, "one token at", at);
        }
        free(whole);
        free(other);
        scene_close(&scene);
    }
}

static void test_chunks_and_spans(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {
        {NF_F16, NF_F16, 64, 64, 7, 170, 0, 0, 256, 0, 0, 0},
        {NF_F32, NF_F32, 32, 48, 3, 170, 45, 0, 256, 0, 0, 0},
        {NF_F16, NF_F16, 16, 16, 1, 170, 16, 9, 256, 0, 0, 0},
        {NF_F32, NF_F16, 24, 20, 4, 170, 0, 0, 256, 0, 0, 0},
        {NF_F16, NF_F32, 16, 16, 13, 170, 1, 0, 256, 0, 0, 0},
        {NF_INT8, NF_INT8, 64, 64, 7, 170, 0, 0, 256, 0, 0, 0},
        {NF_INT4, NF_INT4, 21, 50, 3, 170, 20, 0, 256, 37, 9, 4},
        {NF_FP8_E5M2, NF_FP8_E4M3, 16, 16, 2, 170, 40, 0, 256, 3, 0, 0},
        {NF_FP8_E4M3, NF_FP8_E5M2, 33, 16, 2, 170, 40, 0, 256, 3, 3, 2},
        {NF_F32, NF_F32, 16, 16, 3, 170, 40, 9, 256, 30, 64, 8},
        {NF_BF16, NF_INT8, 16, 16, 2, 170, 0, 0, 256, 0, 0, 1},
    };
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i++) {
        struct shape shape = shapes[i];
        float *whole = out_open(&shape), *other = out_open(&shape);
        run_chunks(&shape, kernel, shape.keys, whole);
        uint32_t last = test_count(13, 40);
        for (uint32_t chunk = 1; chunk <= last; chunk += CASE_STEP) {
            run_chunks(&shape, kernel, chunk, other);
            expect_same(kernel, whole, other, out_count(&shape), "a chunk of", chunk);
        }
        for (shape.span_tokens = 16; shape.span_tokens <= 176; shape.span_tokens += 16 * CASE_STEP) {
            run_chunks(&shape, kernel, shape.keys, other);
            expect_same(kernel, whole, other, out_count(&shape), "a span of", shape.span_tokens);
        }
        free(whole);
        free(other);
    }
}

/* The state of one query over one segment. */
static float *one_segment(const struct scene *scene, const struct kernel *kernel, uint32_t position, uint32_t segment,
                          float *out, struct kernel_attend *attend)
{
    *attend = scene_attend(scene, position, 1, out);
    float *scratch = aligned_alloc(64, kernel_attend_scratch_floats(attend) * sizeof *scratch);
    float *state = malloc(kernel_attend_state_floats(attend) * sizeof *state);
    assert_true(scratch && state);
    kernel->attend(attend, segment, segment + 1, state, scratch);
    free(scratch);
    return state;
}

/* Queries of several places that see the keys before `split` together, in one segment, and the others each alone. */
static void run_resumed(const struct scene *scene, const struct kernel *kernel, uint32_t split, uint32_t position,
                        uint32_t step, float *out)
{
    enum { QUERIES = 3 };
    const uint32_t segment = split / KERNEL_SEGMENT_TOKENS;
    struct kernel_attend attend = scene_attend(scene, position, QUERIES, out);
    float *scratch = aligned_alloc(64, kernel_attend_scratch_floats(&attend) * sizeof *scratch);
    float *states = malloc(kernel_attend_state_floats(&attend) * sizeof *states);
    assert_true(scratch && states && position >= split);
    fill_unwritten(scratch, kernel_attend_scratch_floats(&attend) * sizeof *scratch);
    fill_unwritten(states, kernel_attend_state_floats(&attend) * sizeof *states);
    attend.q_token_stride *=
        step; /* their places are those of every step-th token; masks say nothing about shared keys */
    attend.offset.q_token_stride *= step;
    attend.window = attend.sinks = 0;
    attend.key_end = split;
    kernel->attend(&attend, segment, segment + 1, states, scratch);
    for (uint32_t i = 0; i < QUERIES; i++) {
        struct kernel_attend own = scene_attend(scene, position + i * step, 1, out);
        float *state = states + i * kernel_attend_state_floats(&own);
        own.key_begin = split;
        own.resume = true;
        kernel->attend(&own, segment, (position + i * step) / KERNEL_SEGMENT_TOKENS + 1, state, scratch);
    }
    attend = scene_attend(scene, position, 1, out);
    const uint64_t floats = kernel_attend_state_floats(&attend);
    for (uint32_t i = 0; i < QUERIES; i++) memcpy(out + i * floats, states + i * floats, floats * sizeof *out);
    free(scratch);
    free(states);
}

/* A segment that is left after some keys, for all queries, and resumed for each has the state of a segment in one call. */
static void test_left_and_resumed(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {
        {NF_F16, NF_F16, 64, 64, 7, 300, 0, 0, 64, 0, 0, 0},
        {NF_INT8, NF_INT8, 64, 64, 7, 300, 0, 0, 32, 0, 65, 4},
        {NF_INT4, NF_INT4, 21, 50, 3, 300, 0, 0, 32, 37, 0, 0},
        {NF_FP8_E4M3, NF_FP8_E5M2, 16, 13, 2, 300, 290, 9, 128, 3, 9, 0},
        {NF_BF16, NF_F32, 24, 20, 13, 300, 0, 0, 256, 30, 0, 8},
        {NF_F32, NF_INT8, 24, 20, 1, 1400, 0, 0, 128, 0, 0, 0},
    };
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i++) {
        const struct shape *s = &shapes[i];
        const uint32_t unit = kernel->attend_unit(s->k_format, s->v_format), base = s->keys > 1024 ? 1024 : 0;
        assert_true(KERNEL_SEGMENT_TOKENS % unit == 0);
        assert_int_equal(kernel->attend_unit(NF_F32, NF_F32), KERNEL_SEGMENT_TOKENS);
        struct scene scene = scene_open(s, kernel);
        float *out = out_open(s), *got = out_open(s);
        for (uint32_t split = base + unit; split + 20 < s->keys; split += unit) {
            const uint32_t position = split == base + unit ? split : split + 5, step = 7;
            struct kernel_attend attend;
            run_resumed(&scene, kernel, split, position, step, got);
            for (uint32_t q = 0; q < 3; q++) {
                float *state =
                    one_segment(&scene, kernel, position + q * step, split / KERNEL_SEGMENT_TOKENS, out, &attend);
                const uint64_t floats = kernel_attend_state_floats(&attend);
                expect_same(kernel, state, got + q * floats, floats, "resuming at", split);
                free(state);
            }
        }
        free(out);
        free(got);
        scene_close(&scene);
    }
}

/* A key that a query may not see has no part in its result, whatever it holds. */
static void test_masked_keys_leave_no_trace(void **unused)
{
    (void)unused;
    const struct shape shape = {NF_F32, NF_F32, 16, 24, 3, 90, 20, 0, 32, 0, 0, 0};
    EACH_TABLE(kernel)
    {
        struct scene scene = scene_open(&shape, kernel);
        float *clean = out_open(&shape), *other = out_open(&shape);
        scene_run(&scene, kernel, 40, 9, WHOLE, clean); /* keys 21 to 48 */
        for (uint32_t key = 0; key < shape.keys; key++) {
            if (key >= 21 && key <= 48) continue;
            for (uint32_t d = 0; d < 16; d++) scene.k[key * 16 + d] = key % 2 ? NAN : INFINITY;
            for (uint32_t d = 0; d < 24; d++) scene.v[key * 24 + d] = key % 3 ? NAN : -INFINITY;
        }
        /* A row that the first queries do not see yet, or the last no longer. */
        for (uint32_t d = 0; d < 24; d++) scene.v[48 * 24 + d] = scene.v[21 * 24 + d] = NAN;
        scene_write(&scene, kernel);
        scene_run(&scene, kernel, 40, 9, WHOLE, other);
        uint64_t row = 3 * 24;
        expect_same(kernel, clean + 41 * row, other + 41 * row, 7 * row, "poison around the window of", 20);
        for (uint64_t i = 0; i < row; i++) assert_true(isnan(other[40 * row + i]) && isnan(other[48 * row + i]));
        free(clean);
        free(other);
        scene_close(&scene);
    }
}

/* Nor has what lies in slots that no token was written to, in the spans between sinks and window, or in the scratch: NaNs and
 * infinities as elements or scales, the largest numbers, zeros. */
static void test_unwritten_bytes_leave_no_trace(void **unused)
{
    (void)unused;
    static const uint16_t words[] = {0xFFFF, 0x0000, 0x7C00, 0x7BFF, 0xFC00, 0x8000, 0x7F80};
    EACH_TABLE(kernel)
    for (uint32_t f = 0; f < ARRAY_COUNT(cache_formats); f++)
        for (uint32_t i = 0; i < 2; i++) {
            const enum number_format k = cache_formats[f], v = cache_formats[(f + i) % ARRAY_COUNT(cache_formats)];
            const struct shape shape = {k, v, 20, 18, 3, 150, 40, 0, 16, i * 3, i * 5, f % 3};
            float *first = NULL;
            for (uint32_t b = 0; b < ARRAY_COUNT(words); b++) {
                unwritten_word = words[b];
                float *out = out_open(&shape);
                for (uint32_t at = 0; at < shape.keys; at += 21) { /* only rows up to the chunk's last are there */
                    struct shape part = shape;
                    part.keys = smaller(at + 21, shape.keys);
                    struct scene scene = scene_open(&part, kernel);
                    scene_run(&scene, kernel, at, part.keys - at, WHOLE, out);
                    scene_close(&scene);
                }
                for (uint64_t e = 0; e < out_count(&shape); e++) assert_true(isfinite(out[e]));
                if (first) expect_same(kernel, first, out, out_count(&shape), "an unwritten word of", words[b]);
                if (!first)
                    first = out;
                else
                    free(out);
            }
            free(first);
        }
    unwritten_word = 0xFFFF;
}

static void test_fold_of_empty_states(void **unused)
{
    (void)unused;
    const struct shape shape = {NF_F16, NF_F16, 16, 20, 3, 1100, 40, 0, 64, 0, 0, 0};
    EACH_TABLE(kernel)
    {
        struct scene scene = scene_open(&shape, kernel);
        float *out = out_open(&shape);
        struct kernel_attend attend = scene_attend(&scene, 1090, 2, out);
        uint64_t count = kernel_attend_state_floats(&attend);
        assert_int_equal(count, 2 * 3 * (2 + 20));
        float *empty = malloc(count * sizeof *empty), *full = malloc(count * sizeof *full),
              *state = malloc(count * sizeof *state);
        float *scratch = aligned_alloc(64, kernel_attend_scratch_floats(&attend) * sizeof *scratch);
        assert_true(empty && full && state && scratch);
        kernel->attend(&attend, 0, 1, empty, scratch); /* the window is past segment 0 */
        kernel->attend(&attend, 1, 2, full, scratch);
        for (uint32_t row = 0; row < 6; row++) assert_true(empty[row * 22] == -INFINITY && empty[row * 22 + 1] == 0);
        memcpy(state, empty, count * sizeof *state);
        kernel->attend_fold(&attend, state, full);
        expect_same(kernel, state, full, count, "folding into an empty state", 0);
        kernel->attend_fold(&attend, state, empty);
        expect_same(kernel, state, full, count, "folding an empty state", 1);
        kernel->attend_fold(&attend, empty, empty);
        for (uint32_t row = 0; row < 6; row++) assert_true(empty[row * 22] == -INFINITY && empty[row * 22 + 1] == 0);
        free(empty);
        free(full);
        free(state);
        free(scratch);
        free(out);
        scene_close(&scene);
    }
}

/* Rows that f16 cannot hold are written as its largest number, and attention stays finite. */
static void test_f16_saturates(void **unused)
{
    (void)unused;
    const struct shape shape = {NF_F16, NF_F16, 16, 24, 3, 90, 0, 0, 32, 0, 0, 0};
    EACH_TABLE(kernel)
    {
        struct scene large = scene_open(&shape, kernel);
        float *out = out_open(&shape);
        large.k[5 * 16 + 3] = 7e4f;
        large.v[5 * 24 + 2] = -1e9f;
        scene_write(&large, kernel);
        large.k[5 * 16 + 3] = 65504;
        large.v[5 * 24 + 2] = -65504;
        scene_run(&large, kernel, 0, shape.keys, WHOLE, out);
        const uint16_t *v = large.spans[0].v;
        assert_int_equal(v[5 * 24 + 2], 0xFBFF);
        for (uint64_t i = 0; i < out_count(&shape); i++) assert_true(isfinite(out[i]));
        free(out);
        scene_close(&large);
    }
}

/* The largest keys that formats which close can hold, in line with the query: as large as sums get. Fixed point has the widest steps in small
 * dimensions and the largest sums at powers of four. */
static void test_largest_closed_keys(void **unused)
{
    (void)unused;
    static const uint32_t dims[] = {2, 4, 16, 64, 256};
    static const enum number_format closing[] = {NF_INT4, NF_FP8_E4M3};
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(dims) * ARRAY_COUNT(closing); i++) {
        const uint32_t dim = dims[i % ARRAY_COUNT(dims)];
        const struct shape shape = {closing[i / ARRAY_COUNT(dims)], NF_INT4, dim, 24, 2, 64, 0, 0, 32, 0, 0, 0};
        struct scene scene = scene_open(&shape, kernel);
        float *out = out_open(&shape);
        for (uint32_t at = 0; at < shape.keys * dim; at++) scene.k[at] = at / dim % 2 ? -9e4f : 9e4f;
        for (uint32_t at = 0; at < shape.keys * 2 * dim; at++)
            scene.q[at] = (at / dim % 2 ? 4e-4f : -4e-4f) / sqrtf((float)dim);
        scene_write(&scene, kernel);
        scene_read(&scene);
        assert_true(scene.k_read[0] > 65000 && scene.k_read[dim] < -65000);
        scene_run(&scene, kernel, 0, shape.keys, WHOLE, out);
        expect_exact(&scene, kernel, out, 1);
        free(out);
        scene_close(&scene);
    }
}

/* Keys before `split` from `closed`, the others from `open`, which has K in f16. */
static void run_both(struct scene *closed, struct scene *open, const struct kernel *kernel, uint32_t split,
                     uint32_t position, uint32_t tokens, float *out)
{
    struct kernel_attend attend;
    closed->key_end = split;
    open->key_begin = split;
    float *state = scene_state(closed, kernel, position, tokens, WHOLE, out, &attend);
    float *rest = scene_state(open, kernel, position, tokens, WHOLE, out, &attend);
    const uint64_t stride = 2 + closed->shape.value_dim;
    for (uint32_t i = 0; i < tokens; i++) /* queries before the split see nothing of what is open */
        for (uint32_t head = 0; head < attend.group; head++) {
            const float *row = rest + (i * attend.group + head) * stride;
            assert_true((position + i < split) == (row[0] == -INFINITY));
            if (row[0] == -INFINITY) assert_true(row[1] == 0);
        }
    kernel->attend_fold(&attend, state, rest);
    kernel->attend_finish(&attend, state);
    free(state);
    free(rest);
}

/* A sequence whose last keys are not closed yet is two calls. Keys on the other side of the split are poisoned. */
static void test_closed_and_open(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {
        {NF_INT4, NF_INT4, 64, 64, 7, 150, 0, 0, 64, 0, 0, 0},
        {NF_F16, NF_F16, 64, 64, 7, 150, 0, 0, 64, 0, 9, 4},
        {NF_INT4, NF_F32, 21, 13, 2, 150, 40, 0, 32, 0, 0, 8},
        {NF_INT4, NF_INT8, 6, 18, 3, 150, 33, 20, 96, 70, 5, 1},
        {NF_F32, NF_F32, 16, 20, 3, 150, 50, 0, 32, 20, 3, 4},
        {NF_INT4, NF_BF16, 65, 33, 1, 150, 0, 0, 160, 0, 64, 4},
        {NF_F16, NF_F16, 16, 16, 2, 1100, 90, 0, 128, 33, 0, 2},
        {NF_FP8_E4M3, NF_FP8_E4M3, 64, 64, 7, 150, 0, 0, 64, 0, 0, 0},
        {NF_FP8_E4M3, NF_INT4, 23, 18, 3, 150, 33, 20, 96, 70, 5, 1},
    };
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i++)
        for (uint32_t split = 32; split <= shapes[i].keys; split += shapes[i].keys > 1000 ? 512 : 32) {
            struct shape other = shapes[i];
            if (kernel_k_closes(other.k_format)) other.k_format = NF_F16;
            struct scene closed = scene_open(&shapes[i], kernel), open = scene_open(&other, kernel);
            const struct shape *s = &closed.shape;
            memcpy(closed.k_read + (uint64_t)split * s->head_dim, open.k_read + (uint64_t)split * s->head_dim,
                   (uint64_t)(s->keys - split) * s->head_dim * sizeof(float));
            for (uint32_t key = 0; key < s->keys; key += KERNEL_GROUP_TOKENS) {
                const struct scene *at = key < split ? &open : &closed;
                const struct kernel_span *span = &at->spans[key / at->shape.span_tokens];
                const uint64_t group = (key - span->position) / KERNEL_GROUP_TOKENS;
                const uint64_t k_bytes = kernel_k_group_bytes(at->shape.k_format, s->head_dim);
                const uint64_t v_bytes = kernel_v_group_bytes(s->v_format, s->value_dim);
                fill_unwritten((char *)(uintptr_t)span->k + group * k_bytes, k_bytes);
                fill_unwritten((char *)(uintptr_t)span->v + group * v_bytes, v_bytes);
            }
            float *whole = out_open(s), *parts = out_open(s);
            run_both(&closed, &open, kernel, split, 0, s->keys, whole);
            for (uint32_t at = 0; at < s->keys; at += 41)
                run_both(&closed, &open, kernel, split, at, smaller(41, s->keys - at), parts);
            expect_same(kernel, whole, parts, out_count(s), "chunks of 41 and a split at", split);
            closed.key_end = 0;
            expect_exact(&closed, kernel, whole, s->keys > 1000 ? 17 : 1);
            free(whole);
            free(parts);
            scene_close(&closed);
            scene_close(&open);
        }
}

/* Calls that see keys [key_begin, key_end) alone, wherever these lie in a group. */
static void test_key_bounds(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {{NF_F16, NF_F16, 64, 64, 7, 100, 0, 0, 64, 0, 0, 0},
                                          {NF_INT4, NF_INT4, 20, 18, 2, 100, 30, 0, 32, 11, 0, 3},
                                          {NF_FP8_E4M3, NF_FP8_E4M3, 35, 20, 2, 100, 30, 0, 32, 11, 0, 3},
                                          {NF_F32, NF_F32, 16, 20, 3, 100, 30, 0, 16, 11, 4, 2},
                                          {NF_INT8, NF_INT4, 33, 7, 1, 100, 50, 0, 48, 60, 0, 0}};
    static const uint32_t bounds[][2] = {{0, 1}, {5, 0}, {3, 29}, {17, 18}, {40, 90}, {99, 0}, {64, 96}, {0, 200}};
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes) * ARRAY_COUNT(bounds); i++) {
        struct scene scene = scene_open(&shapes[i / ARRAY_COUNT(bounds)], kernel);
        float *out = out_open(&scene.shape);
        scene.key_begin = bounds[i % ARRAY_COUNT(bounds)][0];
        scene.key_end = bounds[i % ARRAY_COUNT(bounds)][1];
        scene_run(&scene, kernel, 0, scene.shape.keys, WHOLE, out);
        expect_exact(&scene, kernel, out, 1);
        free(out);
        scene_close(&scene);
    }
}

/* Every table writes the bytes that ref writes, and no others. */
static void test_write_matches_ref(void **unused)
{
    (void)unused;
    static const struct shape shapes[] = {{NF_F16, NF_F16, 64, 64, 1, 100, 0, 0, 48, 0, 0, 0},
                                          {NF_F32, NF_F16, 20, 13, 1, 70, 0, 0, 32, 0, 0, 0},
                                          {NF_F16, NF_F32, 5, 33, 1, 35, 0, 0, 16, 0, 0, 0},
                                          {NF_BF16, NF_BF16, 20, 13, 1, 70, 0, 0, 32, 0, 0, 0},
                                          {NF_FP8_E4M3, NF_FP8_E5M2, 65, 70, 1, 70, 0, 0, 32, 0, 0, 0},
                                          {NF_FP8_E5M2, NF_FP8_E4M3, 65, 70, 1, 70, 0, 0, 32, 0, 0, 0},
                                          {NF_INT8, NF_INT8, 66, 15, 1, 70, 0, 0, 32, 0, 0, 0},
                                          {NF_INT4, NF_INT4, 64, 64, 1, 70, 0, 0, 32, 0, 0, 0},
                                          {NF_INT4, NF_INT4, 7, 129, 1, 70, 0, 0, 32, 0, 0, 0}};
    const struct kernel *ref = table(0);
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i++) {
        struct scene a = scene_open(&shapes[i], ref), b = scene_open(&shapes[i], kernel);
        uint64_t groups = a.shape.span_tokens / KERNEL_GROUP_TOKENS;
        for (uint32_t span = 0; span < a.span_count; span++) {
            assert_memory_equal(a.spans[span].k, b.spans[span].k,
                                groups * kernel_k_group_bytes(shapes[i].k_format, shapes[i].head_dim));
            assert_memory_equal(a.spans[span].v, b.spans[span].v,
                                groups * kernel_v_group_bytes(shapes[i].v_format, shapes[i].value_dim));
        }
        scene_close(&a);
        scene_close(&b);
    }
}

static void test_sizes(void **unused)
{
    (void)unused;
    assert_int_equal(kernel_k_group_bytes(NF_F32, 64), 16 * 64 * 4);
    assert_int_equal(kernel_v_group_bytes(NF_F16, 80), 16 * 80 * 2);
    assert_int_equal(kernel_k_row_bytes(NF_BF16, 65), 130);
    assert_int_equal(kernel_v_row_bytes(NF_FP8_E4M3, 65), 67);
    assert_int_equal(kernel_k_row_bytes(NF_FP8_E4M3, 64), 72);
    assert_int_equal(kernel_k_row_bytes(NF_FP8_E4M3, 65), 74);
    assert_int_equal(kernel_k_group_bytes(NF_FP8_E4M3, 65), 16 * 65 + 130);
    assert_int_equal(kernel_k_row_bytes(NF_INT8, 64), 66);
    assert_int_equal(kernel_v_row_bytes(NF_INT4, 64), 34);
    assert_int_equal(kernel_v_row_bytes(NF_INT4, 65), 35);
    assert_int_equal(kernel_k_row_bytes(NF_INT4, 64), 40);
    assert_int_equal(kernel_k_row_bytes(NF_INT4, 65), 42);
    assert_int_equal(kernel_k_group_bytes(NF_INT4, 64), 16 * 40);
    assert_int_equal(kernel_k_group_bytes(NF_INT4, 65), 16 * 33 + 130);
    assert_int_equal(kernel_k_group_bytes(NF_INT8, 64), 16 * 66);
    assert_int_equal(kernel_v_group_bytes(NF_INT4, 65), 16 * 35);
    struct kernel_attend attend = {.tokens = 5, .group = 7, .head_dim = 80, .value_dim = 64};
    assert_int_equal(kernel_attend_state_floats(&attend), 5 * 7 * 66);
    assert_int_equal(kernel_attend_scratch_floats(&attend) % 16, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_write_matches_ref),
        cmocka_unit_test(test_f16_saturates),
        cmocka_unit_test(test_largest_closed_keys),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_exact_in_all_formats),
        cmocka_unit_test(test_long_contexts),
        cmocka_unit_test(test_chunks_and_spans),
        cmocka_unit_test(test_left_and_resumed),
        cmocka_unit_test(test_masked_keys_leave_no_trace),
        cmocka_unit_test(test_unwritten_bytes_leave_no_trace),
        cmocka_unit_test(test_fold_of_empty_states),
        cmocka_unit_test(test_key_bounds),
        cmocka_unit_test(test_closed_and_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
