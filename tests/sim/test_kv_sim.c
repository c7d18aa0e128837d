/* test_kv_sim.c - seeded simulation of the KV cache under a fake scheduler and a fake model. The fake model writes
 * hash(all tokens up to here, layer, head) as every row's value, so a block that is wrongly shared, stale, evicted too
 * early or overwritten shows by value, whatever the policy. kv_check() runs after every operation. */
#include "kv/kv.h"
#include "support.h"

#define LAYERS 5
#define SEQS 6
#define TOKENS_MAX 400

static const struct kv_layer mixed[LAYERS] = {
    {.kind = KV_FULL, .kv_heads = 2, .head_dim = 2, .value_dim = 2, .k_format = NF_F32, .v_format = NF_F32},
    {.kind = KV_SLIDING,
     .window = 40,
     .kv_heads = 1,
     .head_dim = 2,
     .value_dim = 4,
     .k_format = NF_F32,
     .v_format = NF_F32},
    {.kind = KV_SLIDING,
     .window = 7,
     .kv_heads = 1,
     .head_dim = 2,
     .value_dim = 2,
     .k_format = NF_F32,
     .v_format = NF_F32},
    {.kind = KV_FULL, .kv_heads = 1, .head_dim = 4, .value_dim = 2, .k_format = NF_F32, .v_format = NF_F32},
    {.kind = KV_SLIDING,
     .window = 40,
     .kv_heads = 2,
     .head_dim = 2,
     .value_dim = 2,
     .k_format = NF_F32,
     .v_format = NF_F32},
};

/* kernel.h's layout of groups: K [head_dim][16], V [16][value_dim], groups one after the other. */
static void fake_write(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                       uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                       const float *v, uint64_t v_stride, uint32_t value_dim)
{
    (void)k_format, (void)v_format;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t group = (first_slot + i) / 16, lane = (first_slot + i) % 16;
        float *to_k = (float *)k_groups + group * head_dim * 16, *to_v = (float *)v_groups + group * value_dim * 16;
        for (uint32_t d = 0; d < head_dim; d++) to_k[d * 16 + lane] = k[i * k_stride + d];
        for (uint32_t d = 0; d < value_dim; d++) to_v[lane * value_dim + d] = v[i * v_stride + d];
    }
}
static const struct kernel fake = {.name = "fake", .kv_write = fake_write};

struct sim {
    struct kv_cache *cache;
    struct random random;
    struct kv_config config;
    struct sim_seq {
        struct kv_seq *seq;
        uint32_t tokens[TOKENS_MAX], count, target;
        uint64_t opened;
    } seqs[SEQS];
    uint64_t clock, cached_total, full_total;
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ b) * 0x9E3779B97F4A7C15u;
    return a ^ a >> 29;
}

/* A float that stands for a token's whole prefix, its layer, head and dimension. */
static float value_of(uint64_t prefix, uint32_t layer, uint32_t head, uint32_t d)
{
    return (float)(mix(mix(mix(prefix, layer + 1), head + 1), d + 1) >> 40);
}

static void check(struct sim *sim)
{
    struct error error = {0};
    if (kv_check(sim->cache, &error) != ST_OK) fail_msg("%s", error.text);
}

static struct sim_seq *free_slot(struct sim *sim)
{
    for (int i = 0; i < SEQS; i++)
        if (!sim->seqs[i].seq) return &sim->seqs[i];
    return NULL;
}

/* Prompts come from a few common beginnings, so that prefixes are shared, diverge, and come back after eviction. */
static void open_seq(struct sim *sim, struct sim_seq *s)
{
    uint32_t family = (uint32_t)random_below(&sim->random, 4), same = (uint32_t)random_below(&sim->random, 200);
    s->target = 1 + (uint32_t)random_below(&sim->random, TOKENS_MAX - 1);
    for (uint32_t i = 0; i < s->target; i++) { /* then runs of one token: equal blocks after different prefixes */
        bool fresh = i == 0 || i == same || i % 64 == 0;
        s->tokens[i] = i < same ? family * 1000 + i
                       : fresh  ? (uint32_t)random_below(&sim->random, 3)
                                : s->tokens[i - 1];
    }
    uint32_t cached, prompt = 1 + (uint32_t)random_below(&sim->random, s->target);
    assert_int_equal(kv_seq_open(sim->cache, s->tokens, prompt, 0, &s->seq, &cached), ST_OK);
    assert_true(cached < prompt && cached == kv_seq_count(s->seq));
    s->count = cached;
    s->opened = sim->clock++;
    sim->cached_total += cached;
}

static void close_seq(struct sim_seq *s)
{
    kv_seq_close(s->seq);
    s->seq = NULL;
}

static void write_rows(struct sim_seq *s, const struct kv_layer *layer, uint32_t index, uint32_t count,
                       const uint64_t *prefix)
{
    for (uint32_t i = 0; i < count; i++) {
        float k[8], v[8];
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            for (uint32_t d = 0; d < layer->head_dim; d++)
                k[h * layer->head_dim + d] = value_of(prefix[s->count + i], index, h, d);
            for (uint32_t d = 0; d < layer->value_dim; d++)
                v[h * layer->value_dim + d] = -value_of(prefix[s->count + i], index, h, d);
        }
        kv_seq_write(s->seq, index, 0, layer->kv_heads, s->count + i, 1, k, 8, v, 8);
    }
}

/* Everything that the token at `last` may see in this layer has its own prefix's value. */
static void verify_rows(struct sim_seq *s, const struct kv_layer *layer, uint32_t index, uint32_t last,
                        const uint64_t *prefix)
{
    uint32_t begin = layer->kind == KV_SLIDING && last >= layer->window ? last - layer->window + 1 : 0;
    struct kernel_span spans[TOKENS_MAX / 16 + 2];
    for (uint32_t h = 0; h < layer->kv_heads; h++) {
        uint32_t count = kv_seq_spans(s->seq, index, h, begin, last + 1, spans), at = begin;
        assert_true(spans[0].position <= begin);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(spans[i].position + spans[i].count, i + 1 < count ? spans[i + 1].position : last + 1);
            for (; at < spans[i].position + spans[i].count; at++) {
                uint32_t slot = at - spans[i].position;
                const float *k = (const float *)spans[i].k + slot / 16 * layer->head_dim * 16;
                const float *v = (const float *)spans[i].v + slot / 16 * layer->value_dim * 16;
                for (uint32_t d = 0; d < layer->head_dim; d++)
                    assert_true(k[d * 16 + slot % 16] == value_of(prefix[at], index, h, d));
                for (uint32_t d = 0; d < layer->value_dim; d++)
                    assert_true(v[slot % 16 * layer->value_dim + d] == -value_of(prefix[at], index, h, d));
            }
        }
    }
}

static void step(struct sim *sim, struct sim_seq *s)
{
    uint32_t chunk = 1 + (uint32_t)random_below(&sim->random, random_below(&sim->random, 2) ? 2 : 70);
    if (chunk > s->target - s->count) chunk = s->target - s->count;
    while (kv_seq_reserve(s->seq, chunk) == ST_FULL) { /* preempt the youngest; at last this one itself */
        sim->full_total++;
        check(sim);
        struct sim_seq *youngest = s;
        for (int i = 0; i < SEQS; i++)
            if (sim->seqs[i].seq && sim->seqs[i].opened > youngest->opened) youngest = &sim->seqs[i];
        close_seq(youngest);
        check(sim);
        if (youngest == s) return;
    }
    check(sim);
    uint64_t prefix[TOKENS_MAX], hash = 0;
    for (uint32_t i = 0; i < s->count + chunk; i++) prefix[i] = hash = mix(hash, s->tokens[i] + 1);
    struct kv_batch *batch;
    assert_int_equal(kv_batch_pin(sim->cache, &s->seq, 1, &batch), ST_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        write_rows(s, &mixed[layer], layer, chunk, prefix);
        for (uint32_t i = 0; i < chunk; i += 1 + chunk / 3) verify_rows(s, &mixed[layer], layer, s->count + i, prefix);
    }
    kv_batch_unpin(batch);
    kv_seq_commit(s->seq, s->tokens + s->count, chunk);
    s->count += chunk;
    check(sim);
    if (s->count == s->target) close_seq(s);
}

static void run_seed(uint64_t seed, uint32_t steps, uint64_t *cached, uint64_t *full)
{
    struct sim sim = {
        .config = {
            .layers = mixed, .layer_count = LAYERS, .block_tokens = 16, .kernel = &fake, .share_prefixes = true}};
    random_seed(&sim.random, seed);
    sim.config.block_tokens = 16u << random_below(&sim.random, 3);
    uint64_t one = kv_bytes_needed(&sim.config, TOKENS_MAX, 70);
    sim.config.bytes_max = one + random_below(&sim.random, one);
    struct error error;
    assert_int_equal(kv_open(&sim.config, &sim.cache, &error), ST_OK);
    for (uint32_t i = 0; i < steps; i++) {
        struct sim_seq *slot = free_slot(&sim), *any = &sim.seqs[random_below(&sim.random, SEQS)];
        if (slot && random_below(&sim.random, 8) == 0)
            open_seq(&sim, slot);
        else if (any->seq && random_below(&sim.random, 60) == 0)
            close_seq(any);
        else if (any->seq)
            step(&sim, any);
        check(&sim);
    }
    for (int i = 0; i < SEQS; i++) close_seq(&sim.seqs[i]);
    check(&sim);
    struct kv_stats stats;
    kv_stats(sim.cache, &stats);
    assert_int_equal(stats.blocks_used, 0);
    assert_true(stats.bytes_cached <= stats.bytes_max);
    *cached += sim.cached_total;
    *full += sim.full_total;
    kv_close(sim.cache);
}

static void test_simulation(void **state)
{
    (void)state;
    uint64_t cached = 0, full = 0;
    for (uint64_t seed = 1; seed <= test_count(12, 400); seed++) run_seed(seed, 1500, &cached, &full);
    print_message("%llu tokens shared, %llu times full\n", (unsigned long long)cached, (unsigned long long)full);
    assert_true(cached > 1000 && full > 100); /* the trace did share and did run out of room */
}

/* One sequence always fits into kv_bytes_needed, at every chunk size. */
static void test_needed_bytes_suffice(void **state)
{
    (void)state;
    for (uint32_t chunk = 1; chunk <= 130; chunk += 9) {
        struct kv_config config = {
            .layers = mixed, .layer_count = LAYERS, .block_tokens = 32, .kernel = &fake, .share_prefixes = true};
        config.bytes_max = kv_bytes_needed(&config, 391, chunk);
        struct kv_cache *cache;
        struct error error;
        assert_int_equal(kv_open(&config, &cache, &error), ST_OK);
        struct kv_seq *seq;
        uint32_t cached, tokens[391] = {0};
        assert_int_equal(kv_seq_open(cache, tokens, 391, 0, &seq, &cached), ST_OK);
        for (uint32_t at = 0; at < 391; at += chunk) {
            uint32_t count = at + chunk <= 391 ? chunk : 391 - at;
            assert_int_equal(kv_seq_reserve(seq, count), ST_OK);
            kv_seq_commit(seq, tokens + at, count);
        }
        kv_seq_close(seq);
        kv_close(cache);
    }
}

static void test_bad_configurations_are_refused(void **state)
{
    (void)state;
    struct kv_config config = {
        .layers = mixed, .layer_count = LAYERS, .block_tokens = 24, .bytes_max = 1 << 20, .kernel = &fake};
    struct kv_cache *cache;
    struct error error;
    assert_int_equal(kv_open(&config, &cache, &error), ST_INVALID);
    config.block_tokens = 16;
    config.bytes_max = 100;
    assert_int_equal(kv_open(&config, &cache, &error), ST_LIMIT);
    config.bytes_max = 1 << 20;
    for (uint64_t n = 1;; n++) { /* every allocation of kv_open fails once */
        fault_arm(FAULT_ALLOC, n);
        enum status status = kv_open(&config, &cache, &error);
        uint64_t calls = fault_count(FAULT_ALLOC);
        fault_arm(FAULT_NONE, 0);
        if (calls < n) {
            assert_int_equal(status, ST_OK);
            kv_close(cache);
            break;
        }
        assert_int_equal(status, ST_NOMEM);
        assert_null(cache);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simulation),
        cmocka_unit_test(test_needed_bytes_suffice),
        cmocka_unit_test(test_bad_configurations_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
