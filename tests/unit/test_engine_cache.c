/* test_engine_cache.c - what an engine's KV cache is told to keep, and tells: salts, sequences, pins, files, policies, snapshots and
 * events; requests have the same tokens whatever is kept. */
#include "engine_requests.h"
#include "scratch.h"
#include <jansson.h>

static const char POLICY[] = "{\"about\": [1], \"default\": {\"kind\": \"sinks\", \"sinks\": 4, \"window\": 24},"
                             " \"layers\": {\"0\": {\"kind\": \"sliding\", \"window\": 5},"
                             " \"5\": {\"heads\": {\"1\": {\"kind\": \"full\"}}}, \"6\": {\"kind\": \"full\"}}}";

/* Tokens of request `index` under `salt` that come from the cache. */
static uint32_t cached_tokens(struct kvasir_engine *engine, uint32_t index, uint64_t salt)
{
    uint32_t prompt[128];
    struct kvasir_request request;
    struct kvasir_timings timings;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    make_request(index, prompt, &request);
    request.cache_salt = salt;
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    while (kvasir_engine_busy(engine)) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_timings(engine, id, &timings), KVASIR_OK);
    return timings.cached_tokens;
}

static void test_salt(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    assert_int_equal(cached_tokens(engine, 4, 7), 0);
    assert_int_equal(cached_tokens(engine, 4, 8), 0);
    assert_int_equal(cached_tokens(engine, 4, 0), 0);
    assert_int_equal(cached_tokens(engine, 4, 7), 79);
    assert_int_equal(cached_tokens(engine, 4, 8), 79);
    kvasir_engine_close(engine);
}

/* ---- what callers keep ------------------------------------------------------------------------------------------------- */

static struct kvasir_seq_info info_of(const struct kvasir_seq *seq)
{
    struct kvasir_seq_info info;
    kvasir_seq_info(seq, &info);
    return info;
}

static uint64_t bytes_used(const struct kvasir_engine *engine)
{
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(engine, &stats);
    return stats.kv_bytes_used;
}

/* Requests 4 and 5 share 70 of their 80 tokens. */
static void test_sequence(void **state)
{
    (void)state;
    struct answer alone[REQUESTS], answers[REQUESTS];
    uint32_t prompt[128];
    struct kvasir_request request;
    struct kvasir_seq *seq, *fork;
    run_alone(alone);
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.max_batched_tokens = 33});
    make_request(4, prompt, &request);
    assert_int_equal(kvasir_seq_open(engine, prompt, 75, 0, &seq, NULL), KVASIR_OK);
    check_rules(engine);
    struct kvasir_seq_info info = info_of(seq);
    assert_int_equal(info.tokens, 75);
    assert_int_equal(info.cached, 0);
    assert_true(info.bytes == bytes_used(engine) && info.bytes > 0 && info.blocks > 0);
    assert_int_equal(cached_tokens(engine, 4, 0), 75); /* the last block of it is partial */
    assert_int_equal(cached_tokens(engine, 5, 0), 70);
    assert_int_equal(cached_tokens(engine, 4, 1), 0);
    run_all(engine, 1, answers);
    check_same(alone, answers);
    assert_int_equal(kvasir_seq_fork(seq, &fork, NULL), KVASIR_OK);
    assert_int_equal(bytes_used(engine), info.bytes); /* nothing was copied */
    kvasir_seq_close(seq);
    assert_int_equal(bytes_used(engine), info.bytes);
    assert_int_equal(info_of(fork).tokens, 75);
    assert_int_equal(kvasir_seq_open(engine, prompt, 80, 0, &seq, NULL), KVASIR_OK);
    assert_int_equal(info_of(seq).cached, 80); /* a request has run them */
    assert_int_equal(kvasir_seq_truncate(seq, 40, NULL), KVASIR_OK);
    assert_int_equal(info_of(seq).tokens, 40);
    assert_true(info_of(seq).blocks < info.blocks);
    check_rules(engine);
    kvasir_seq_close(fork);
    assert_int_equal(bytes_used(engine), info_of(seq).bytes);
    run_all(engine, 1, answers);
    check_same(alone, answers);
    kvasir_seq_close(seq);
    assert_int_equal(bytes_used(engine), 0);
    kvasir_engine_close(engine);
}

/* What is kept is not evicted, and requests run beside it. */
/* Where K closes in groups of 32, a sequence has the whole groups, and saves and loads them. */
static void test_closing_sequence(void **state)
{
    (void)state;
    uint32_t prompt[128];
    struct kvasir_request request;
    struct kvasir_seq *seq;
    struct scratch scratch;
    scratch_init(&scratch);
    make_request(4, prompt, &request);
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.kv_cache_dtype = "int4"});
    assert_int_equal(kvasir_seq_open(engine, prompt, 75, 0, &seq, NULL), KVASIR_OK);
    assert_int_equal(info_of(seq).tokens, 64);
    assert_int_equal(kvasir_seq_save(seq, scratch_path(&scratch, "seq"), NULL), KVASIR_OK);
    kvasir_seq_close(seq);
    assert_int_equal(kvasir_seq_load(engine, scratch_path(&scratch, "seq"), 0, &seq, NULL), KVASIR_OK);
    assert_int_equal(info_of(seq).tokens, 64);
    check_rules(engine);
    kvasir_seq_close(seq);
    kvasir_engine_close(engine);
    scratch_release(&scratch);
}

static void test_kept_beside_requests(void **state)
{
    (void)state;
    struct kvasir_engine_options options = {.context = 140, .block_size = 16, .max_batched_tokens = 32};
    struct kvasir_engine *engine = open_engine(model, options);
    uint64_t needed = kv_bytes_needed(&engine->plan.kv, 80, 32);
    options.kv_cache_bytes = engine->plan.request_bytes + needed;
    kvasir_engine_close(engine);
    engine = open_engine(model, options);
    struct answer alone[REQUESTS], answers[REQUESTS];
    uint32_t prompt[128];
    struct kvasir_request request;
    struct kvasir_seq *seq, *second;
    struct kvasir_error error = {0};
    run_alone(alone);
    make_request(4, prompt, &request);
    assert_int_equal(kvasir_seq_open(engine, prompt, 80, 0, &seq, NULL), KVASIR_OK);
    run_all(engine, 0, answers);
    check_same(alone, answers);
    assert_int_equal(cached_tokens(engine, 4, 0), 79);
    make_request(3, prompt, &request);
    assert_int_equal(kvasir_seq_open(engine, prompt, 80, 0, &second, &error), KVASIR_LIMIT);
    assert_non_null(strstr(error.text, "KV cache to keep"));
    assert_null(second);
    assert_int_equal(kvasir_engine_pin(engine, "x", prompt, 80, 0, &error), KVASIR_LIMIT);
    kvasir_seq_close(seq);
    assert_int_equal(kvasir_seq_open(engine, prompt, 80, 0, &second, &error), KVASIR_OK);
    kvasir_seq_close(second);
    kvasir_engine_close(engine);
}

static void refuse_sequence(struct kvasir_engine *engine, const uint32_t *ids, size_t count, int status,
                            const char *why)
{
    struct kvasir_seq *seq;
    struct kvasir_error error = {0};
    assert_int_equal(kvasir_seq_open(engine, ids, count, 0, &seq, &error), status);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    assert_null(seq);
    assert_int_equal(kvasir_engine_pin(engine, "x", ids, count, 0, &error), status);
}

static void test_refused_sequences(void **state)
{
    (void)state;
    uint32_t prompt[128] = {0};
    const uint32_t outside[] = {1, 512};
    struct kvasir_seq *seq;
    struct kvasir_error error = {0};
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.context = 64});
    refuse_sequence(engine, prompt, 0, KVASIR_INVALID, "no tokens");
    refuse_sequence(engine, outside, 2, KVASIR_INVALID, "token 1 of the sequence is 512");
    refuse_sequence(engine, prompt, 65, KVASIR_LIMIT, "the context is 64");
    assert_int_equal(kvasir_engine_pin(engine, "", prompt, 3, 0, &error), KVASIR_INVALID);
    assert_int_equal(kvasir_seq_open(engine, prompt, 64, 0, &seq, NULL), KVASIR_OK);
    assert_int_equal(kvasir_seq_truncate(seq, 0, &error), KVASIR_INVALID);
    assert_int_equal(kvasir_seq_truncate(seq, 65, &error), KVASIR_INVALID);
    kvasir_seq_close(seq);
    kvasir_seq_close(NULL);
    kvasir_engine_close(engine);
    engine = open_engine(model, (struct kvasir_engine_options){.no_kv_cache = true});
    refuse_sequence(engine, prompt, 3, KVASIR_UNSUPPORTED, "without a KV cache");
    kvasir_engine_close(engine);
}

/* Requests hold the whole budget: not now, but when they have ended. */
static void test_no_room_now(void **state)
{
    (void)state;
    uint32_t prompt[128];
    struct kvasir_seq *seq;
    struct kvasir_request request;
    struct kvasir_error error = {0};
    const struct kvasir_event *events;
    size_t count;
    uint64_t ids[2];
    struct kvasir_engine_options options = {
        .context = 140, .block_size = 16, .max_batched_tokens = 16, .no_drafts = true};
    struct kvasir_engine *engine = open_engine(model, options);
    options.kv_cache_bytes = engine->plan.request_bytes + kv_bytes_needed(&engine->plan.kv, 100, 16);
    kvasir_engine_close(engine);
    engine = open_engine(model, options);
    for (uint32_t r = 0; r < 2; r++) {
        make_request(3, prompt, &request);
        prompt[0] += r;
        request.prompt_count = 60; /* short when they are admitted, and then they grow */
        request.max_tokens = 75;
        assert_int_equal(kvasir_engine_submit(engine, &request, &ids[r], NULL), KVASIR_OK);
    }
    for (int i = 0; i < 50; i++) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(engine->scheduler.running_count, 2);
    prompt[0] += 2;
    assert_int_equal(kvasir_seq_open(engine, prompt, 100, 0, &seq, &error), KVASIR_FULL);
    assert_non_null(strstr(error.text, "try again"));
    check_rules(engine);
    while (kvasir_engine_busy(engine)) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(kvasir_seq_open(engine, prompt, 100, 0, &seq, &error), KVASIR_OK);
    kvasir_seq_close(seq);
    kvasir_engine_close(engine);
}

static void test_pins(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    uint32_t prompt[128];
    struct kvasir_request request;
    struct kvasir_pin pins[2];
    make_request(4, prompt, &request);
    assert_int_equal(kvasir_engine_pins(engine, pins, 2), 0);
    assert_int_equal(kvasir_engine_pin(engine, "system", prompt, 70, 0, NULL), KVASIR_OK);
    assert_int_equal(cached_tokens(engine, 4, 0), 70); /* it was run: preloaded */
    assert_int_equal(kvasir_engine_pin(engine, "b", prompt, 3, 0, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_pin(engine, "system", prompt, 75, 0, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_pins(engine, pins, 2), 2);
    assert_string_equal(pins[0].name, "b");
    assert_int_equal(pins[0].tokens, 3);
    assert_string_equal(pins[1].name, "system");
    assert_int_equal(pins[1].tokens, 75);
    assert_true(pins[1].bytes > 0);
    assert_int_equal(kvasir_engine_unpin(engine, "b"), KVASIR_OK);
    assert_int_equal(kvasir_engine_unpin(engine, "b"), KVASIR_NOT_FOUND);
    assert_int_equal(kvasir_engine_pins(engine, pins, 1), 1);
    check_rules(engine);
    kvasir_engine_close(engine);
}

/* What one engine saved another one need not run; a request on it has the same bits. */
static void test_save_and_load(void **state)
{
    (void)state;
    struct scratch scratch;
    struct answer alone[REQUESTS], answers[REQUESTS];
    uint32_t prompt[128], ids[128];
    struct kvasir_request request;
    struct kvasir_seq *seq;
    struct kvasir_error error = {0};
    scratch_init(&scratch);
    run_alone(alone);
    make_request(4, prompt, &request);
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    assert_int_equal(kvasir_seq_open(engine, prompt, 75, 0, &seq, NULL), KVASIR_OK);
    assert_int_equal(kvasir_seq_save(seq, scratch_path(&scratch, "seq"), NULL), KVASIR_OK);
    assert_int_equal(kvasir_seq_save(seq, scratch_path(&scratch, "no/such"), &error), KVASIR_IO);
    kvasir_seq_close(seq);
    kvasir_engine_close(engine);
    engine = open_engine(model, (struct kvasir_engine_options){.max_batched_tokens = 20});
    assert_int_equal(kvasir_seq_load(engine, scratch_path(&scratch, "seq"), 0, &seq, &error), KVASIR_OK);
    assert_int_equal(info_of(seq).tokens, 75);
    assert_int_equal(info_of(seq).cached, 75);
    assert_int_equal(kvasir_seq_tokens(seq, ids, 128), 75);
    assert_memory_equal(ids, prompt, 75 * sizeof *ids);
    check_rules(engine);
    assert_int_equal(cached_tokens(engine, 4, 0), 75);
    assert_int_equal(cached_tokens(engine, 4, 1), 0);
    run_all(engine, 1, answers);
    check_same(alone, answers);
    kvasir_seq_close(seq);
    assert_int_equal(kvasir_seq_load(engine, scratch_path(&scratch, "absent"), 0, &seq, &error), KVASIR_IO);
    assert_null(seq);
    assert_non_null(strstr(error.text, "absent"));
    kvasir_engine_close(engine);
    /* Of something else: another format, another policy; longer than the context. */
    const struct {
        struct kvasir_engine_options options;
        int status;
    } others[] = {{{.kv_cache_dtype = "f32"}, KVASIR_UNSUPPORTED},
                  {{.kv_policy = POLICY}, KVASIR_UNSUPPORTED},
                  {{.no_kv_cache = true}, KVASIR_UNSUPPORTED},
                  {{.context = 64}, KVASIR_LIMIT}};
    for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
        engine = open_engine(model, others[i].options);
        assert_int_equal(kvasir_seq_load(engine, scratch_path(&scratch, "seq"), 0, &seq, &error), others[i].status);
        assert_null(seq);
        assert_int_equal(bytes_used(engine), 0);
        check_rules(engine);
        kvasir_engine_close(engine);
    }
    scratch_release(&scratch);
}

/* ---- looking in -------------------------------------------------------------------------------------------------------- */

/* Columns of a snapshot's blocks, and bits of the one for the state. */
enum { GROUP, INDEX, STATE, REFERENCES, TOKENS, POSITION, OWNER, AGE, KEY, COLUMNS };
enum { CACHED = 2, PINNED = 4, PROTECTED = 16 };

static json_t *snapshot_of(const struct kvasir_engine *engine, size_t blocks_max)
{
    char *text;
    size_t bytes;
    assert_int_equal(kvasir_engine_kv_snapshot(engine, blocks_max, &text, &bytes, NULL), KVASIR_OK);
    json_t *json = json_loadb(text, bytes, 0, NULL);
    assert_non_null(json);
    kvasir_free(text);
    return json;
}

static json_int_t whole(json_t *object, const char *key)
{
    assert_true(json_is_integer(json_object_get(object, key)));
    return json_integer_value(json_object_get(object, key));
}

static json_int_t column(json_t *block, size_t index)
{
    assert_true(json_array_size(block) == COLUMNS && json_is_integer(json_array_get(block, index)));
    return json_integer_value(json_array_get(block, index));
}

static json_int_t column_state(json_t *block)
{
    return column(block, STATE);
}

/* With a limit: held blocks stay, and of the cached ones the youngest. */
static void check_limit(const struct kvasir_engine *engine, json_t *all)
{
    size_t total = json_array_size(json_object_get(all, "blocks")), held = 0, i;
    json_t *block;
    json_array_foreach(json_object_get(all, "blocks"), i, block) held += !(column_state(block) & CACHED);
    for (size_t most = held; most <= total + 1; most++) {
        json_t *few = snapshot_of(engine, most), *blocks = json_object_get(few, "blocks");
        size_t wanted = most ? most : total, kept = 0;
        json_int_t oldest = -1;
        assert_int_equal(whole(few, "blocks_in_use"), total);
        assert_int_equal(json_array_size(blocks), wanted < total ? wanted : total);
        json_array_foreach(blocks, i, block)
        {
            kept += !(column_state(block) & CACHED);
            if (column(block, AGE) > oldest) oldest = column(block, AGE);
        }
        assert_int_equal(kept, held);
        json_array_foreach(json_object_get(all, "blocks"), i, block) kept +=
            column(block, AGE) <= oldest && (column_state(block) & CACHED);
        if (oldest > 0) assert_int_equal(kept, json_array_size(blocks));
        json_decref(few);
    }
}

static void test_snapshot(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    struct kvasir_engine_stats stats;
    uint32_t prompt[128];
    struct kvasir_request request;
    const struct kvasir_event *events;
    size_t count, i;
    uint64_t id;
    cached_tokens(engine, 3, 0);
    make_request(4, prompt, &request);
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    kvasir_engine_stats(engine, &stats);
    json_t *json = snapshot_of(engine, 0), *block, *groups = json_object_get(json, "groups");
    json_t *running = json_array_get(json_object_get(json, "requests"), 0);
    assert_int_equal(whole(json, "block_size"), 32);
    assert_int_equal(json_array_size(groups), 2);
    assert_int_equal(whole(running, "id"), id);
    json_int_t used = 0, cached = 0;
    json_array_foreach(json_object_get(json, "blocks"), i, block)
    {
        json_int_t bytes = whole(json_array_get(groups, (size_t)column(block, GROUP)), "block_bytes");
        json_t *key = json_array_get(block, KEY);
        bool held = !(column_state(block) & CACHED);
        *(held ? &used : &cached) += bytes;
        assert_int_equal(column_state(block) & ~CACHED, 0);
        assert_int_equal(column(block, OWNER), held ? whole(running, "owner") : 0);
        assert_int_equal(column(block, REFERENCES), held);
        assert_int_equal(column(block, POSITION) % 32, 0);
        assert_true(held || json_is_string(key));
        assert_true(json_is_null(key) || json_string_length(key) == 16);
    }
    assert_int_equal(used, stats.kv_bytes_used);
    assert_int_equal(cached, stats.kv_bytes_cached);
    assert_true(used > 0 && cached > 0);
    check_limit(engine, json);
    json_decref(json);
    kvasir_engine_close(engine);
}

/* How many blocks' states have all bits of `bits`. */
static uint32_t blocks_with(const struct kvasir_engine *engine, json_int_t bits)
{
    json_t *json = snapshot_of(engine, 0), *block;
    uint32_t count = 0;
    size_t i;
    json_array_foreach(json_object_get(json, "blocks"), i, block) count += (column_state(block) & bits) == bits;
    json_decref(json);
    return count;
}

static void test_snapshot_states(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    uint32_t prompt[128];
    struct kvasir_request request;
    cached_tokens(engine, 4, 0);
    assert_int_equal(blocks_with(engine, PINNED), 0);
    assert_int_equal(blocks_with(engine, PROTECTED), 0);
    cached_tokens(engine, 4, 0);
    assert_true(blocks_with(engine, PROTECTED | CACHED) > 0);
    make_request(4, prompt, &request);
    assert_int_equal(kvasir_engine_pin(engine, "system", prompt, 64, 0, NULL), KVASIR_OK);
    assert_true(blocks_with(engine, PINNED) >= 2);
    assert_int_equal(blocks_with(engine, PINNED | CACHED), 0);
    kvasir_engine_close(engine);
}

struct told {
    uint32_t stored, removed, tokens;
    char first_parent[65], last_key[65];
};

static void hear(void *data, const char *line, size_t bytes)
{
    struct told *told = data;
    json_t *json = json_loadb(line, bytes, 0, NULL);
    assert_non_null(json);
    assert_null(memchr(line, '\n', bytes));
    if (strcmp(json_string_value(json_object_get(json, "event")), "stored") == 0) {
        if (!told->stored++)
            snprintf(told->first_parent, sizeof told->first_parent, "%s",
                     json_string_value(json_object_get(json, "parent")));
        if (whole(json, "group") == 0) told->tokens += (uint32_t)json_array_size(json_object_get(json, "tokens"));
        snprintf(told->last_key, sizeof told->last_key, "%s", json_string_value(json_object_get(json, "key")));
    } else {
        told->removed++;
    }
    json_decref(json);
}

static void test_events(void **state)
{
    (void)state;
    struct told told = {0}, again = {0};
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.context = 140, .block_size = 16});
    struct kvasir_engine_options small = {
        .context = 140, .block_size = 16, .kv_cache_bytes = engine->plan.request_bytes};
    kvasir_engine_kv_events(engine, hear, &told);
    cached_tokens(engine, 4, 0);
    assert_true(told.stored > 0 && told.removed == 0);
    assert_true(told.tokens >= 80 + ANSWER - 1);
    assert_int_equal(strlen(told.first_parent), 64);
    uint32_t stored = told.stored;
    kvasir_engine_kv_events(engine, NULL, NULL);
    cached_tokens(engine, 3, 0);
    assert_int_equal(told.stored, stored);
    kvasir_engine_close(engine);
    engine = open_engine(model, small); /* what does not fit is told to go */
    kvasir_engine_kv_events(engine, hear, &again);
    cached_tokens(engine, 4, 0);
    assert_string_equal(again.first_parent, told.first_parent); /* keys are the same in every cache */
    cached_tokens(engine, 3, 0);
    assert_true(again.removed > 0);
    kvasir_engine_close(engine);
}

/* gemma3: layer 5 is full, all others slide over 16 tokens; 2 KV heads. */
static void test_policy(void **state)
{
    (void)state;
    struct engine_plan plan, whole;
    assert_int_equal(engine_plan_init(model->model, &(struct kvasir_engine_options){.kv_policy = POLICY}, &plan, NULL),
                     ST_OK);
    const struct kv_layer *layers = plan.kv.layers;
    assert_true(layers[0].kind == KV_SLIDING && layers[0].window == 5);  /* narrower than the model's */
    assert_true(layers[1].kind == KV_SLIDING && layers[1].window == 16); /* the model's is narrower, and has no sinks */
    assert_true(layers[6].kind == KV_SLIDING && layers[6].window == 16 && !layers[6].heads);
    assert_true(layers[5].heads[0].kind == KV_SINKS && layers[5].heads[0].sinks == 4 &&
                layers[5].heads[0].window == 24);
    assert_true(layers[5].heads[1].kind == KV_FULL && layers[5].heads[1].window == 0);
    assert_int_equal(engine_plan_init(model->model, NULL, &whole, NULL), ST_OK);
    assert_true(kv_bytes_needed(&plan.kv, 4096, 1) < kv_bytes_needed(&whole.kv, 4096, 1) * 3 / 4);
    engine_plan_release(&plan);
    engine_plan_release(&whole);
    /* With a cache, shared or not, and without one: the same tokens, which are not those of the whole past. */
    const struct kvasir_engine_options ways[] = {{.kv_policy = POLICY, .no_kv_cache = true},
                                                 {.kv_policy = POLICY},
                                                 {.kv_policy = POLICY, .block_size = 16, .max_batched_tokens = 7}};
    struct answer wanted[REQUESTS], answers[REQUESTS];
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        struct kvasir_engine *engine = open_engine(model, ways[i]);
        run_all(engine, 1, answers);
        if (i == 0) memcpy(wanted, answers, sizeof wanted);
        check_same(wanted, answers);
        run_all(engine, 0, answers);
        check_same(wanted, answers);
        kvasir_engine_close(engine);
    }
    run_alone(answers);
    assert_true(answers[3].first.logprob != wanted[3].first.logprob);
}

static void test_refused_policies(void **state)
{
    (void)state;
    const struct {
        const char *json, *why;
    } bad[] = {
        {"", "line 1"},
        {"[]", "the whole: must be an object"},
        {"{\"layer\": {}}", "the whole: must be an object of"},
        {"{\"default\": {\"kind\": \"full\"}, \"default\": {\"kind\": \"full\"}}", "duplicate"},
        {"{\"default\": 3}", "default: must be an object"},
        {"{\"default\": {}}", "default: \"kind\" must be"},
        {"{\"default\": {\"kind\": \"none\"}}", "default: \"kind\" must be"},
        {"{\"default\": {\"kind\": \"full\", \"window\": 3}}", "this kind has no \"window\""},
        {"{\"default\": {\"kind\": \"sliding\"}}", "\"window\" must be a whole number"},
        {"{\"default\": {\"kind\": \"sliding\", \"window\": 1.5}}", "\"window\" must be a whole number"},
        {"{\"default\": {\"kind\": \"sliding\", \"window\": 0}}", "\"window\" must be a whole number"},
        {"{\"default\": {\"kind\": \"sliding\", \"window\": 99999999999}}", "\"window\" must be a whole number"},
        {"{\"default\": {\"kind\": \"sinks\", \"window\": 3}}", "\"sinks\" must be a whole number"},
        {"{\"default\": {\"kind\": \"sliding\", \"window\": 3, \"sinks\": 4}}", "this kind has no \"sinks\""},
        {"{\"default\": {\"kind\": \"full\", \"heads\": {}}}", "default: must be an object of"},
        {"{\"layers\": []}", "layers: must be an object"},
        {"{\"layers\": {\"7\": {\"kind\": \"full\"}}}", "layers.7: is no layer of this model, which has 0 to 6"},
        {"{\"layers\": {\"01\": {\"kind\": \"full\"}}}", "layers.01: is no layer"},
        {"{\"layers\": {\"\": {\"kind\": \"full\"}}}", "is no layer"},
        {"{\"layers\": {\"-1\": {\"kind\": \"full\"}}}", "is no layer"},
        {"{\"layers\": {\"99999999999999999999999\": {\"kind\": \"full\"}}}", "is no layer"},
        {"{\"layers\": {\"1\": {}}}", "layers.1: \"kind\" must be"},
        {"{\"layers\": {\"1\": null}}", "layers.1: must be an object"},
        {"{\"layers\": {\"1\": {\"kind\": \"full\", \"size\": 3}}}", "layers.1: must be an object of"},
        {"{\"layers\": {\"1\": {\"heads\": [1]}}}", "layers.1.heads: must be an object"},
        {"{\"layers\": {\"1\": {\"heads\": {\"2\": {\"kind\": \"full\"}}}}}", "layers.1.heads.2: is no KV head"},
        {"{\"layers\": {\"1\": {\"heads\": {\"1\": {\"kind\": \"f\"}}}}}", "layers.1.heads.1: \"kind\" must be"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        refuse_engine((struct kvasir_engine_options){.kv_policy = bad[i].json}, KVASIR_INVALID, bad[i].why);
}

static void provenance(struct kvasir_model *of, struct kvasir_engine_options options, unsigned char out[KV_KEY_BYTES])
{
    struct kvasir_engine *engine = open_engine(of, options);
    memcpy(out, engine->plan.kv.provenance, KV_KEY_BYTES);
    kvasir_engine_close(engine);
}

/* All that rows depend on is in it, and nothing else. */
static void test_provenance(void **state)
{
    (void)state;
    unsigned char own[KV_KEY_BYTES], other[KV_KEY_BYTES];
    const char *dtypes[] = {"f32", "k=f32", "v=f32", "f16"};
    const struct kvasir_model_options ways[] = {{.isa = "ref"}, {.rope_frequencies = "f32"}, {.threads = 1}};
    provenance(model, (struct kvasir_engine_options){0}, own);
    provenance(model, (struct kvasir_engine_options){.kv_policy = POLICY}, other);
    assert_memory_not_equal(own, other, sizeof own);
    provenance(
        model,
        (struct kvasir_engine_options){
            .kv_cache_dtype = "int8", .context = 64, .block_size = 64, .kv_cache_bytes = 8u << 20, .max_sequences = 3},
        other);
    assert_memory_equal(own, other, sizeof own);
    for (size_t i = 0; i < ARRAY_COUNT(dtypes); i++) {
        provenance(model, (struct kvasir_engine_options){.kv_cache_dtype = dtypes[i]}, other);
        assert_memory_not_equal(own, other, sizeof own);
    }
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        struct kvasir_model *opened;
        assert_int_equal(kvasir_model_open(model_path("gemma3"), &ways[i], &opened, NULL), KVASIR_OK);
        provenance(opened, (struct kvasir_engine_options){0}, other);
        if (ways[i].threads)
            assert_memory_equal(own, other, sizeof own);
        else if (model->kernel != opened->kernel || ways[i].rope_frequencies)
            assert_memory_not_equal(own, other, sizeof own);
        kvasir_model_close(opened);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_salt),
        cmocka_unit_test(test_provenance),
        cmocka_unit_test(test_sequence),
        cmocka_unit_test(test_closing_sequence),
        cmocka_unit_test(test_kept_beside_requests),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_refused_sequences),
        cmocka_unit_test(test_no_room_now),
        cmocka_unit_test(test_policy),
        cmocka_unit_test(test_refused_policies),
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_snapshot),
        cmocka_unit_test(test_snapshot_states),
        cmocka_unit_test(test_events),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
