/* index_dump.c - what faiss_compare.py needs of a real model: for one KV head of some layers what a nearest-neighbour library can index,
 * queries, the exact answer, and the answer and time of our own index.
 *
 *     index_dump MODEL FOLDER TOKENS GROUPS,... LAYER,...
 *
 * A text of TOKENS tokens is computed with an f16 cache, and questions about it are asked: queries are those of the first token of each
 * answer. More groups than the text has are copies of its keys, turned to their positions, as `kvasir bench --depth-computed` makes them; the
 * queries are turned to the last position. Files of numbers, f32, in FOLDER/LAYER-GROUPS.*:
 *     means    [groups, head_dim]            the mean of a group's 16 keys
 *     keys     [16 * groups, head_dim]       the keys, if there are at most KEYS_MAX
 *     queries  [questions, heads, head_dim]  times attention's scale
 *     exact    [questions, groups]           shares of the softmax, summed over the heads that read the KV head
 *     ours     [questions, groups]           what kernel->index_shares says
 * and on standard output a line of JSON for each: {"layer", "groups", "head_dim", "heads", "questions", "scan_s", "entry_bytes"}, scan_s: the
 * thread's time for one question, the best of REPEATS. */
#include "engine/engine.h"
#include "eval/haystack.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define QUESTIONS 8u
#define REPEATS 5u
#define CHUNK 512u
#define SINK_TOKENS 64u
#define ROOM 4096u
#define GROUP KERNEL_GROUP_TOKENS
#define KEYS_MAX (1u << 17)
#define LAYERS_MAX 256u

static void fail(const char *what)
{
    fprintf(stderr, "index_dump: %s\n", what);
    exit(1);
}

static void need(enum status status, const struct error *error)
{
    if (status != ST_OK) fail(error ? error->text : "not enough memory");
}

static float *floats(uint64_t count)
{
    float *memory = mem_aligned(64, round_up(count * sizeof(float), 64));
    if (!memory) fail("not enough memory");
    memset(memory, 0, count * sizeof *memory);
    return memory;
}

/* ---- the model's part ------------------------------------------------------------------------------------------------ */

struct source {
    struct kvasir_model *opened;
    const struct model_config *config;
    struct pool *pool;
    struct kv_cache *cache;
    struct model_run *run;
    struct kv_seq *seq;
    uint32_t count;             /* tokens */
    float *queries[LAYERS_MAX]; /* [QUESTIONS, heads, head_dim], as at position `count` */
    uint32_t question;          /* the one that is asked now */
};

/* `key`, moved by what turns() was told. */
static void turn(const struct model_config *c, const double *cosines, const double *sines, float *key)
{
    const uint32_t half = c->rope_dimensions / 2, step = c->rope_neighbours ? 2 : 1,
                   apart = c->rope_neighbours ? 1 : half;
    for (uint32_t i = 0; i < half; i++) {
        float *a = key + i * step, *b = a + apart;
        const double x = *a, y = *b;
        *a = (float)(x * cosines[i] - y * sines[i]);
        *b = (float)(y * cosines[i] + x * sines[i]);
    }
}

/* Rotations by so many positions, forwards or back. */
static void turns(const struct model_config *c, double by, double *cosines, double *sines)
{
    for (uint32_t i = 0; i < c->rope_dimensions / 2; i++) {
        cosines[i] = cos(by * c->rope_frequencies[0][i]);
        sines[i] = sin(by * c->rope_frequencies[0][i]);
    }
}

static void take_queries(void *data, const struct model_choice *choice)
{
    struct source *s = data;
    const struct model_config *c = s->config;
    const uint32_t heads = c->heads / c->kv_heads;
    double cosines[256], sines[256];
    if (choice->head || !s->queries[choice->layer]) return;
    turns(c, (double)s->count - choice->position, cosines, sines);
    for (uint32_t h = 0; h < heads; h++) {
        float *out = s->queries[choice->layer] + ((uint64_t)s->question * heads + h) * c->head_dim;
        memcpy(out, choice->attend->q + (uint64_t)h * c->head_dim, c->head_dim * sizeof *out);
        turn(c, cosines, sines, out);
        for (uint32_t d = 0; d < c->head_dim; d++) out[d] *= c->attention_scale;
    }
}

/* *best: the token that comes next, where it is asked for. */
static void feed(struct source *s, struct kv_seq *seq, const uint32_t *tokens, uint32_t count,
                 const struct model_retrieval *retrieval, uint32_t *best)
{
    for (uint32_t done = 0, part; done < count; done += part) {
        struct kv_batch *batch;
        const float *logits;
        part = count - done < CHUNK ? count - done : CHUNK;
        const struct model_entry entry = {.seq = seq,
                                          .tokens = tokens + done,
                                          .count = part,
                                          .logits_count = best && done + part == count,
                                          .retrieval = retrieval};
        need(kv_seq_reserve(seq, part), NULL);
        need(kv_batch_pin(s->cache, &seq, 1, &batch), NULL);
        model_forward(s->run, &entry, 1, &logits);
        kv_batch_unpin(batch);
        kv_seq_commit(seq, entry.tokens, part);
        if (!entry.logits_count) continue;
        *best = 0;
        for (uint32_t i = 1; i < s->config->vocabulary; i++)
            if (logits[i] > logits[*best]) *best = i;
    }
}

static void ask(struct source *s, const struct haystack *text)
{
    static const struct model_retrieval some = {.initial_tokens = 64, .local_tokens = 128, .recall_tokens = 1024};
    if (text->item_count < QUESTIONS) fail("the text is too short for so many questions");
    for (s->question = 0; s->question < QUESTIONS; s->question++) {
        const struct haystack_item *item = &text->items[s->question];
        struct kv_seq *branch;
        uint32_t best;
        need(kv_seq_fork(s->seq, &branch), NULL);
        feed(s, branch, item->question, item->question_count, NULL, &best);
        model_run_observe(s->run, take_queries, s);
        feed(s, branch, &best, 1, &some, NULL);
        model_run_observe(s->run, NULL, NULL);
        kv_seq_close(branch);
    }
}

static void open_source(struct source *s, const char *path, uint32_t tokens, const uint32_t *wanted,
                        uint32_t wanted_count)
{
    struct error error = {0};
    struct haystack text;
    struct kv_layer kept[LAYERS_MAX];
    uint32_t cached;
    const struct kvasir_model_options options = {.threads = 2};
    if (kvasir_model_open(path, &options, &s->opened, (struct kvasir_error *)(void *)&error) != KVASIR_OK)
        fail(error.text);
    const struct model *model = engine_model(s->opened);
    s->config = model_config(model);
    if (s->config->layers > LAYERS_MAX || s->config->rope_dimensions > 512) fail("the model is too large for this");
    for (uint32_t i = 0; i < wanted_count; i++) {
        if (wanted[i] >= s->config->layers || s->config->sliding[wanted[i]])
            fail("no such layer that keeps every token");
        s->queries[wanted[i]] =
            floats((uint64_t)QUESTIONS * s->config->heads / s->config->kv_heads * s->config->head_dim);
    }
    need(pool_open(2, &s->pool, &error), &error);
    need(model_run_open(model, s->pool, CHUNK, 1, tokens + ROOM, &s->run, &error), &error);
    model_kv_layers(s->config, NF_F16, NF_F16, kept);
    for (uint32_t i = 0; i < s->config->layers; i++) kept[i].index = kept[i].kind == KV_FULL;
    struct kv_config config = {
        .layers = kept, .layer_count = s->config->layers, .block_tokens = 32, .kernel = model_kernel(model)};
    config.bytes_max = kv_bytes_needed(&config, tokens + ROOM, CHUNK);
    need(kv_open(&config, &s->cache, &error), &error);
    need(haystack_make(s->opened, HAYSTACK_PROSE, tokens, 1, &text, &error), &error);
    s->count = text.count / KERNEL_CLOSED_TOKENS * KERNEL_CLOSED_TOKENS;
    need(kv_seq_open(s->cache, NULL, 0, 0, &s->seq, &cached), NULL);
    feed(s, s->seq, text.ids, s->count, NULL, NULL);
    ask(s, &text);
    haystack_release(&text);
}

/* The text's keys of head 0, [count, head_dim]. */
static float *keys_of(const struct source *s, uint32_t layer)
{
    float *keys = floats((uint64_t)s->count * s->config->head_dim);
    struct kv_seq *seq = s->seq;
    struct kv_batch *batch;
    need(kv_batch_pin(s->cache, &seq, 1, &batch), NULL);
    for (uint32_t p = 0; p < s->count; p++) {
        const void *k, *v;
        kv_seq_group_rows(s->seq, layer, 0, p, &k, &v);
        kernel_k_row_decode(NF_F16, k, p % GROUP, s->config->head_dim, keys + (uint64_t)p * s->config->head_dim);
    }
    kv_batch_unpin(batch);
    return keys;
}

/* ---- one size -------------------------------------------------------------------------------------------------------- */

struct dump {
    const struct model_config *config;
    const struct kernel *kernel;
    const float *text; /* [text_count, head_dim] */
    uint32_t text_count, groups, heads;
    float *queries;      /* [QUESTIONS, heads, head_dim] */
    float *means, *keys; /* keys: or NULL */
    float *sums;         /* [QUESTIONS * heads, groups] log of a group's sum of exp(q.k) */
    float *exact, *ours; /* [QUESTIONS, groups] */
    unsigned char *entries;
    double scan_s;
};

static void slowest_first(const struct model_config *c, const float *row, float *out)
{
    const uint32_t half = c->rope_dimensions / 2, step = c->rope_neighbours ? 2 : 1,
                   apart = c->rope_neighbours ? 1 : half;
    for (uint32_t d = c->rope_dimensions; d < c->head_dim; d++) *out++ = row[d];
    for (uint32_t pair = half; pair-- > 0;) {
        *out++ = row[pair * step];
        *out++ = row[pair * step + apart];
    }
}

/* The group's keys are at their positions: [GROUP, head_dim]. */
static void add_group(struct dump *d, uint32_t group, const float *keys, float *sorted)
{
    const uint32_t dims = d->config->head_dim;
    float *mean = d->means + (uint64_t)group * dims;
    for (uint32_t i = 0; i < GROUP; i++) {
        for (uint32_t e = 0; e < dims; e++) mean[e] += keys[i * dims + e] / GROUP;
        slowest_first(d->config, keys + i * dims, sorted + i * dims);
    }
    if (d->keys) memcpy(d->keys + (uint64_t)group * GROUP * dims, keys, GROUP * dims * sizeof *keys);
    kernel_index_write(sorted, dims, dims, d->entries, d->groups, group);
    for (uint32_t q = 0; q < QUESTIONS * d->heads; q++) {
        const float *query = d->queries + (uint64_t)q * dims;
        float scores[GROUP] = {0}, top = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < GROUP; i++) {
            for (uint32_t e = 0; e < dims; e++) scores[i] += query[e] * keys[i * dims + e];
            if (scores[i] > top) top = scores[i];
        }
        for (uint32_t i = 0; i < GROUP; i++) sum += expf(scores[i] - top);
        d->sums[(uint64_t)q * d->groups + group] = top + logf(sum);
    }
}

static void add_groups(struct dump *d)
{
    const uint32_t dims = d->config->head_dim, round = d->text_count - SINK_TOKENS;
    float *keys = floats(2 * (uint64_t)GROUP * dims), *sorted = keys + GROUP * dims;
    double cosines[256], sines[256];
    uint32_t turned = UINT32_MAX; /* copy whose turns these are */
    for (uint32_t group = 0; group < d->groups; group++) {
        const uint32_t position = group * GROUP;
        const uint32_t from = position < d->text_count ? position : SINK_TOKENS + (position - SINK_TOKENS) % round;
        const uint32_t copy = position < d->text_count ? 0 : (position - SINK_TOKENS) / round;
        if (copy != turned) turns(d->config, (double)copy * round, cosines, sines);
        turned = copy;
        for (uint32_t i = 0; i < GROUP; i++) {
            memcpy(keys + i * dims, d->text + (uint64_t)(from + i) * dims, dims * sizeof *keys);
            if (copy) turn(d->config, cosines, sines, keys + i * dims);
        }
        add_group(d, group, keys, sorted);
    }
    mem_free(keys);
}

static void find_exact(struct dump *d)
{
    for (uint32_t q = 0; q < QUESTIONS * d->heads; q++) {
        const float *sums = d->sums + (uint64_t)q * d->groups;
        float *out = d->exact + (uint64_t)(q / d->heads) * d->groups, top = -INFINITY;
        double total = 0;
        for (uint32_t g = 0; g < d->groups; g++) top = fmaxf(top, sums[g]);
        for (uint32_t g = 0; g < d->groups; g++) total += exp(sums[g] - top);
        for (uint32_t g = 0; g < d->groups; g++) out[g] += (float)(exp(sums[g] - top) / total);
    }
}

static double thread_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void scan(struct dump *d)
{
    const uint32_t dims = d->config->head_dim;
    const void *block = d->entries;
    float *sorted = floats((uint64_t)d->heads * dims);
    struct kernel_index index = {
        .q = sorted, .group = d->heads, .head_dim = dims, .scale = 1, .blocks = &block, .per_block = d->groups};
    float *scratch = floats(kernel_index_scratch_floats(&index, d->groups)), *shares = floats(d->groups + GROUP);
    d->scan_s = INFINITY;
    for (uint32_t q = 0; q < QUESTIONS; q++) {
        for (uint32_t h = 0; h < d->heads; h++)
            slowest_first(d->config, d->queries + ((uint64_t)q * d->heads + h) * dims, sorted + h * dims);
        for (uint32_t r = 0; r < REPEATS; r++) {
            const double began = thread_seconds();
            d->kernel->index_shares(&index, d->groups, shares, scratch);
            d->scan_s = fmin(d->scan_s, thread_seconds() - began);
        }
        memcpy(d->ours + (uint64_t)q * d->groups, shares, d->groups * sizeof *shares);
    }
    mem_free(scratch);
    mem_free(shares);
    mem_free(sorted);
}

static void write_file(const char *folder, uint32_t layer, uint32_t groups, const char *what, const float *numbers,
                       uint64_t count)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%u-%u.%s", folder, layer, groups, what);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(numbers, sizeof *numbers, count, file) != count || fclose(file) != 0) fail(path);
}

static void dump_size(const struct source *s, const float *text, uint32_t layer, uint32_t groups, const char *folder)
{
    const struct model_config *c = s->config;
    const uint32_t heads = c->heads / c->kv_heads, dims = c->head_dim;
    struct dump d = {.config = c,
                     .kernel = model_kernel(engine_model(s->opened)),
                     .text = text,
                     .text_count = s->count,
                     .groups = groups,
                     .heads = heads,
                     .queries = floats((uint64_t)QUESTIONS * heads * dims),
                     .means = floats((uint64_t)groups * dims),
                     .keys = groups * GROUP <= KEYS_MAX ? floats((uint64_t)groups * GROUP * dims) : NULL,
                     .sums = floats((uint64_t)QUESTIONS * heads * groups),
                     .exact = floats((uint64_t)QUESTIONS * groups),
                     .ours = floats((uint64_t)QUESTIONS * groups),
                     .entries = mem_aligned(64, round_up(groups * kernel_index_bytes(dims), 64))};
    double cosines[256], sines[256];
    if (!d.entries) fail("not enough memory");
    turns(c, (double)groups * GROUP - s->count, cosines, sines);
    memcpy(d.queries, s->queries[layer], (uint64_t)QUESTIONS * heads * dims * sizeof *d.queries);
    for (uint32_t q = 0; q < QUESTIONS * heads; q++) turn(c, cosines, sines, d.queries + (uint64_t)q * dims);
    add_groups(&d);
    find_exact(&d);
    scan(&d);
    write_file(folder, layer, groups, "means", d.means, (uint64_t)groups * dims);
    if (d.keys) write_file(folder, layer, groups, "keys", d.keys, (uint64_t)groups * GROUP * dims);
    write_file(folder, layer, groups, "queries", d.queries, (uint64_t)QUESTIONS * heads * dims);
    write_file(folder, layer, groups, "exact", d.exact, (uint64_t)QUESTIONS * groups);
    write_file(folder, layer, groups, "ours", d.ours, (uint64_t)QUESTIONS * groups);
    printf("{\"layer\": %u, \"groups\": %u, \"head_dim\": %u, \"heads\": %u, \"questions\": %u, \"scan_s\": %.9f, "
           "\"entry_bytes\": %llu}\n",
           layer, groups, dims, heads, QUESTIONS, d.scan_s, (unsigned long long)kernel_index_bytes(dims));
    float *all[] = {d.queries, d.means, d.keys, d.sums, d.exact, d.ours};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) mem_free(all[i]);
    mem_free(d.entries);
}

/* "8192,32768", at most `capacity`; how many. */
static uint32_t numbers_of(const char *text, uint32_t *out, uint32_t capacity)
{
    uint32_t count = 0;
    for (const char *at = text; *at && count < capacity; count++) {
        char *end;
        out[count] = (uint32_t)strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',')) fail("numbers with commas between them are wanted");
        at = *end ? end + 1 : end;
    }
    return count;
}

int main(int argc, char **argv)
{
    static struct source s;
    uint32_t groups[16], layers[LAYERS_MAX];
    if (argc != 6) fail("usage: index_dump MODEL FOLDER TOKENS GROUPS,... LAYER,...");
    const uint32_t group_count = numbers_of(argv[4], groups, ARRAY_COUNT(groups));
    const uint32_t layer_count = numbers_of(argv[5], layers, ARRAY_COUNT(layers));
    open_source(&s, argv[1], (uint32_t)strtoul(argv[3], NULL, 10), layers, layer_count);
    for (uint32_t l = 0; l < layer_count; l++) {
        float *text = keys_of(&s, layers[l]);
        for (uint32_t g = 0; g < group_count; g++) dump_size(&s, text, layers[l], groups[g], argv[2]);
        mem_free(text);
        mem_free(s.queries[layers[l]]);
    }
    kv_seq_close(s.seq);
    kv_close(s.cache);
    model_run_close(s.run);
    pool_close(s.pool);
    kvasir_model_close(s.opened);
    return 0;
}
