/* kv_requests.h - requests of the fake model (kv_fake.h), one call after the other: what tests of the KV cache are told in. */
#ifndef TESTS_KV_REQUESTS_H
#define TESTS_KV_REQUESTS_H
#include "kv_fake.h"

#define ROWS(dim, value) .head_dim = dim, .value_dim = value, .k_format = NF_F32, .v_format = NF_F32
static const struct kv_layer full[] = {{.kind = KV_FULL, .kv_heads = 1, ROWS(2, 2)}};
/* As gemma3: five sliding layers, one full. */
static const struct kv_layer hybrid[] = {
    {.kind = KV_SLIDING, .window = 64, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_SLIDING, .window = 64, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_SLIDING, .window = 64, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_SLIDING, .window = 64, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_SLIDING, .window = 64, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_FULL, .kv_heads = 1, ROWS(2, 2)},
};

static inline struct kv_config config_of(const struct kv_layer *layers, uint32_t count, uint32_t block_tokens)
{
    return (struct kv_config){.layers = layers,
                              .layer_count = count,
                              .block_tokens = block_tokens,
                              .bytes_max = 1 << 20,
                              .protected_percent = KV_PROTECTED_PERCENT,
                              .kernel = &fake_kernel,
                              .share_prefixes = true};
}

static inline struct kv_cache *open_cache(const struct kv_config *config)
{
    struct kv_cache *cache;
    struct error error;
    if (kv_open(config, &cache, &error) != ST_OK) fail_msg("%s", error.text);
    return cache;
}

static inline struct kv_stats stats_of(const struct kv_cache *cache)
{
    struct kv_stats stats;
    struct error error;
    if (kv_check(cache, &error) != ST_OK) fail_msg("%s", error.text);
    kv_stats(cache, &stats);
    return stats;
}

/* Tokens [from, to), which no other `kind` has. */
static inline void say(struct fake_seq *s, uint32_t kind, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) s->tokens[i] = kind * FAKE_TOKENS_MAX + i;
}

/* Opens s on its first `count` tokens; returns how many were cached. */
static inline uint32_t open_fake(struct fake_seq *s, struct kv_cache *cache, uint32_t count)
{
    assert_int_equal(kv_seq_open(cache, s->tokens, count, 0, &s->seq, &s->count), ST_OK);
    fake_hash(s, 0, s->count);
    return s->count;
}

/* Computes up to `count` tokens in chunks; false when the cache is full. */
static inline bool run_to(struct fake_seq *s, struct kv_cache *cache, const struct kv_config *config, uint32_t count)
{
    while (s->count < count) {
        uint32_t chunk = count - s->count < 48 ? count - s->count : 48;
        enum status status = kv_seq_reserve(s->seq, chunk);
        if (status == ST_FULL) return false;
        assert_int_equal(status, ST_OK);
        fake_pass(s, cache, config, chunk);
    }
    return true;
}

/* A request from opening to closing; returns how many tokens were cached. */
static inline uint32_t request(struct fake_seq *s, struct kv_cache *cache, const struct kv_config *config,
                               uint32_t prompt, uint32_t count)
{
    uint32_t cached = open_fake(s, cache, prompt);
    assert_true(run_to(s, cache, config, count));
    kv_seq_close(s->seq);
    return cached;
}
#endif
