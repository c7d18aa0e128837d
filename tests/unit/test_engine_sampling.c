/* test_engine_sampling.c - what a request may say about the choice of its tokens, through the engine: min_tokens, allowed
 * ids, bad words, seeds; the same in any company and on several threads; and the log-probabilities of a prompt. */
#include "engine_byte_model.h"
#include <math.h>

#define EOS (TINY_GGUF_VOCABULARY - 1)
#define TOKENS 200u

struct result {
    uint32_t tokens[TOKENS], count;
    char text[4 * TOKENS];
    size_t text_bytes;
    enum kvasir_finish finish;
};

static void take_event(const struct kvasir_event *event, struct result *out)
{
    for (size_t t = 0; t < event->token_count; t++) {
        assert_true(out->count < TOKENS);
        out->tokens[out->count++] = event->tokens[t].id;
    }
    assert_true(out->text_bytes + event->text_bytes < sizeof out->text);
    memcpy(out->text + out->text_bytes, event->text, event->text_bytes);
    out->text_bytes += event->text_bytes;
    out->finish = event->finish;
}

/* All requests together in one engine. */
static void run_requests(struct kvasir_engine *engine, const struct kvasir_request *requests, uint32_t count,
                         struct result *out)
{
    uint64_t ids[16];
    assert_true(count <= ARRAY_COUNT(ids));
    memset(out, 0, count * sizeof *out);
    for (uint32_t r = 0; r < count; r++) {
        struct kvasir_error error = {0};
        if (kvasir_engine_submit(engine, &requests[r], &ids[r], &error) != KVASIR_OK) fail_msg("%s", error.text);
    }
    while (kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t event_count;
        assert_int_equal(kvasir_engine_step(engine, &events, &event_count, NULL), KVASIR_OK);
        for (size_t e = 0; e < event_count; e++)
            for (uint32_t r = 0; r < count; r++)
                if (ids[r] == events[e].id) take_event(&events[e], &out[r]);
    }
}

static void run_alone_on(struct kvasir_model *of, const struct kvasir_request *request, struct result *out)
{
    struct kvasir_engine *engine = open_engine(of, (struct kvasir_engine_options){0});
    run_requests(engine, request, 1, out);
    kvasir_engine_close(engine);
}

static const uint32_t prompt[] = {72, 101, 108, 108, 111, 32};

static struct kvasir_request base(void)
{
    return (struct kvasir_request){.prompt = prompt,
                                   .prompt_count = ARRAY_COUNT(prompt),
                                   .max_tokens = 40,
                                   .sampling = {.temperature = 1, .seed = 3, .has_seed = true}};
}

/* ---- min_tokens ---------------------------------------------------------------------------------------------------- */

static void test_min_tokens(void **state)
{
    (void)state;
    const struct kvasir_logit_bias sure[] = {{EOS, 1000}}, sure_stop[] = {{65, 1000}};
    const uint32_t stop_ids[] = {65, 66};
    struct kvasir_request request = base();
    struct result result;
    request.sampling.bias = sure;
    request.sampling.bias_count = 1;
    run_alone_on(bytes, &request, &result);
    assert_int_equal(result.count, 0);
    request.min_tokens = 7;
    run_alone_on(bytes, &request, &result);
    assert_int_equal(result.count, 7);
    assert_int_equal(result.finish, KVASIR_STOP);
    for (uint32_t t = 0; t < 7; t++) assert_false(model_token_ends(bytes, result.tokens[t]));
    request.sampling.bias = sure_stop; /* stop tokens wait too */
    request.stop_ids = stop_ids;
    request.stop_id_count = 2;
    request.ignore_eos = true;
    run_alone_on(bytes, &request, &result);
    assert_int_equal(result.count, 7);
    assert_int_equal(result.finish, KVASIR_STOP);
    for (uint32_t t = 0; t < 7; t++) assert_true(result.tokens[t] != 65 && result.tokens[t] != 66);
    request.min_tokens = request.max_tokens = 5;
    run_alone_on(bytes, &request, &result);
    assert_int_equal(result.count, 5);
    assert_int_equal(result.finish, KVASIR_LENGTH);
}

/* "aaaa…": the stop text "aaa" ends it once it lies behind the first min_tokens tokens. */
static void test_min_tokens_and_stop_texts(void **state)
{
    (void)state;
    const uint32_t allowed[] = {'a'};
    const char *const stop[] = {"aaa"};
    struct kvasir_request request = base();
    struct result result;
    request.sampling.allowed_ids = allowed;
    request.sampling.allowed_id_count = 1;
    request.stop = stop;
    request.stop_count = 1;
    for (uint32_t least = 0; least < 9; least++) {
        request.min_tokens = least;
        run_alone_on(bytes, &request, &result);
        assert_int_equal(result.finish, KVASIR_STOP);
        assert_int_equal(result.count, least + 3);
        assert_int_equal(result.text_bytes, least);
    }
    request.min_tokens = 38; /* too late: the text that was held is given out */
    run_alone_on(bytes, &request, &result);
    assert_int_equal(result.finish, KVASIR_LENGTH);
    assert_int_equal(result.text_bytes, 40);
}

/* ---- allowed ids, bad words ------------------------------------------------------------------------------------------ */

static void test_allowed_ids(void **state)
{
    (void)state;
    const uint32_t digits[] = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '9'};
    struct kvasir_request request = base();
    struct result result;
    uint32_t seen = 0;
    request.sampling.allowed_ids = digits;
    request.sampling.allowed_id_count = ARRAY_COUNT(digits);
    for (int hot = 0; hot < 2; hot++) {
        request.sampling.temperature = (float)hot * 5;
        run_alone_on(bytes, &request, &result);
        assert_int_equal(result.count, 40); /* no end token is among them */
        for (uint32_t t = 0; t < 40; t++) assert_true(result.tokens[t] >= '0' && result.tokens[t] <= '9');
        for (uint32_t t = 0; t < 40; t++) seen |= 1u << (result.tokens[t] - '0');
    }
    assert_int_equal(seen, 0x3ff);
}

/* Forbids what a greedy answer said, one word after the other: it stays the same up to there, and never says it. */
static void test_bad_words(void **state)
{
    (void)state;
    struct kvasir_request request = base();
    struct kvasir_bad_word words[8];
    uint32_t ids[8][3];
    struct result before, after;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    request.sampling.bad_words = words;
    for (uint32_t w = 0; w < 8; w++) {
        uint32_t length = 1 + w % 3, at = 5 + 3 * w;
        run_alone_on(bytes, &request, &before);
        memcpy(ids[w], before.tokens + at, sizeof ids[w]);
        words[w] = (struct kvasir_bad_word){ids[w], length};
        request.sampling.bad_word_count = w + 1;
        run_alone_on(bytes, &request, &after);
        uint32_t first = 0;
        while (memcmp(before.tokens + first, ids[w], length * sizeof *ids[w]) != 0) first++;
        assert_memory_equal(before.tokens, after.tokens, (first + length - 1) * sizeof *ids[w]);
        assert_int_equal(after.count, 40);
        for (uint32_t i = 0; i <= w; i++)
            for (uint32_t t = 0; t + words[i].count <= after.count; t++)
                assert_memory_not_equal(after.tokens + t, ids[i], words[i].count * sizeof *ids[i]);
    }
}

/* The prompt does not begin a bad word, and where nothing may follow the answer ends. */
static void test_nothing_left(void **state)
{
    (void)state;
    const uint32_t space = ' ', twice[] = {' ', ' '};
    const struct kvasir_bad_word word = {twice, 2};
    struct kvasir_request request = base();
    struct result result;
    request.sampling.allowed_ids = &space;
    request.sampling.allowed_id_count = 1;
    request.sampling.bad_words = &word;
    request.sampling.bad_word_count = 1;
    request.min_tokens = 10;
    run_alone_on(bytes, &request, &result);
    assert_int_equal(result.count, 1);
    assert_int_equal(result.finish, KVASIR_STOP);
    assert_string_equal(result.text, " ");
}

static void check_word(const struct kvasir_bad_word *word, const char *text)
{
    char *got;
    size_t count;
    assert_int_equal(kvasir_detokenize(bytes, word->ids, word->count, KVASIR_SHOW_CONTROL, &got, &count, NULL),
                     KVASIR_OK);
    assert_int_equal(count, strlen(text));
    assert_memory_equal(got, text, count);
    kvasir_free(got);
}

static void test_bad_words_of_texts(void **state)
{
    (void)state;
    const char *const texts[] = {"the", "  in", "<|im_end|>"}, *const empty[] = {"a", "  "};
    struct kvasir_bad_word *words;
    struct kvasir_error error = {0};
    size_t count;
    assert_int_equal(kvasir_tokenize_bad_words(bytes, texts, 3, &words, &count, &error), KVASIR_OK);
    assert_int_equal(count, 6);
    assert_int_equal(words[0].count, 1); /* "the" and " the" are tokens of their own, and so is " i" */
    assert_int_equal(words[1].count, 1);
    assert_int_equal(words[3].count, 2);
    assert_true(words[4].count > 1); /* a control token's spelling is text */
    const char *const expected[] = {"the", " the", "in", " in", "<|im_end|>", " <|im_end|>"};
    for (size_t i = 0; i < 6; i++) check_word(&words[i], expected[i]);
    kvasir_free(words);
    assert_int_equal(kvasir_tokenize_bad_words(bytes, texts, 0, &words, &count, &error), KVASIR_OK);
    assert_int_equal(count, 0);
    kvasir_free(words);
    assert_int_equal(kvasir_tokenize_bad_words(bytes, empty, 2, &words, &count, &error), KVASIR_INVALID);
    assert_non_null(strstr(error.text, "bad word 2"));
    assert_null(words);
    assert_int_equal(kvasir_tokenize_bad_words(model, texts, 1, &words, &count, &error),
                     model->tokenizer ? KVASIR_OK : model->tokenizer_error.status);
    kvasir_free(words);
}

/* ---- in company ------------------------------------------------------------------------------------------------------ */

/* Requests that use everything, and two that differ in their seed alone. */
static uint32_t make_mix(struct kvasir_request out[8])
{
    static const uint32_t letters[] = {'a', 'b', 'c', 'd', 'e', EOS}, ab[] = {'a', 'b'}, stop_ids[] = {'z', 'e'};
    static const struct kvasir_bad_word words[] = {{ab, 2}, {ab, 1}};
    static const char *const stop[] = {"ba", "q"};
    for (uint32_t i = 0; i < 8; i++) {
        struct kvasir_request request = base();
        request.prompt_count -= i % 3;
        request.sampling.seed = i % 7; /* 0 and 7 are the same */
        request.sampling.temperature = i == 4 ? 0 : 1;
        if (i % 2) request.min_tokens = 6 + i;
        if (i % 3 == 1) request.sampling.allowed_ids = letters;
        if (i % 3 == 1) request.sampling.allowed_id_count = ARRAY_COUNT(letters);
        request.sampling.bad_words = words;
        request.sampling.bad_word_count = i % 4 == 3 ? 2 : i % 2;
        request.stop_ids = stop_ids;
        request.stop_id_count = i % 4 == 2 ? 2 : 0;
        request.stop = stop;
        request.stop_count = i % 4 == 1 ? 2 : 0;
        request.logprobs = i % 2 * 3;
        out[i] = i == 7 ? out[0] : request;
    }
    return 8;
}

static void check_results(const struct result *a, const struct result *b, uint32_t count)
{
    for (uint32_t r = 0; r < count; r++) {
        assert_int_equal(a[r].count, b[r].count);
        assert_memory_equal(a[r].tokens, b[r].tokens, a[r].count * sizeof *a[r].tokens);
        assert_int_equal(a[r].text_bytes, b[r].text_bytes);
        assert_memory_equal(a[r].text, b[r].text, a[r].text_bytes);
        assert_int_equal(a[r].finish, b[r].finish);
    }
}

static void test_same_in_company(void **state)
{
    (void)state;
    struct kvasir_request requests[16];
    struct result alone[8], together[16];
    uint32_t count = make_mix(requests);
    for (uint32_t r = 0; r < count; r++) run_alone_on(bytes, &requests[r], &alone[r]);
    check_results(&alone[0], &alone[7], 1);
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){.max_sequences = 5});
    run_requests(engine, requests, count, together);
    check_results(alone, together, count);
    /* Among requests without a seed, and in another order. */
    for (uint32_t r = 0; r < count; r++) requests[8 + r] = requests[count - 1 - r];
    for (uint32_t r = 0; r < count; r++) requests[r].sampling.has_seed = false;
    run_requests(engine, requests, 16, together);
    for (uint32_t r = 0; r < count; r++) check_results(&alone[r], &together[15 - r], 1);
    /* A seed decides: another one, and another answer; none, and it is different each time. */
    requests[0].sampling.has_seed = requests[1].sampling.has_seed = true;
    requests[1] = requests[0];
    requests[1].sampling.seed = 99;
    requests[2] = requests[3] = requests[0];
    requests[2].sampling.has_seed = requests[3].sampling.has_seed = false;
    run_requests(engine, requests, 4, together);
    check_results(alone, together, 1);
    for (uint32_t r = 1; r < 4; r++)
        for (uint32_t other = 0; other < r; other++)
            assert_memory_not_equal(together[r].tokens, together[other].tokens, 40 * sizeof(uint32_t));
    kvasir_engine_close(engine);
}

/* ---- on several threads ---------------------------------------------------------------------------------------------- */

struct crowd {
    struct request *requests[8];
    struct sampler samplers[4];
    struct result results[8];
    const float *logits; /* [8, vocabulary] */
    uint32_t count, failed;
};

static void take_share(void *data, uint32_t worker, uint32_t workers)
{
    struct crowd *crowd = data;
    for (uint32_t r = worker; r < crowd->count; r += workers) {
        struct request *request = crowd->requests[r];
        if (request->finish != KVASIR_RUNNING) continue;
        uint32_t before = request->count;
        request_forget_news(request);
        if (request_make_room(request, 1) != ST_OK) return;
        const float *row = crowd->logits + (size_t)r * TINY_GGUF_VOCABULARY;
        if (request_take(request, &crowd->samplers[worker], before - 1, 1, row) != ST_OK) return;
        take_event(&(struct kvasir_event){.tokens = request->news,
                                          .token_count = request->count - before,
                                          .text = request->text.data ? request->text.data : "",
                                          .text_bytes = request->text.length,
                                          .finish = request->finish},
                   &crowd->results[r]);
    }
}

static void run_crowd(struct kvasir_engine *engine, uint32_t threads, struct result *out)
{
    struct kvasir_request wanted[8];
    struct crowd crowd = {.count = make_mix(wanted)};
    struct pool *pool;
    struct random random;
    float *logits = calloc((size_t)crowd.count * TINY_GGUF_VOCABULARY, sizeof *logits);
    for (uint32_t r = 0; r < crowd.count; r++)
        assert_int_equal(request_open(engine, &wanted[r], &crowd.requests[r], NULL), ST_OK);
    for (uint32_t t = 0; t < threads; t++)
        assert_int_equal(sampler_init(&crowd.samplers[t], TINY_GGUF_VOCABULARY, NULL), ST_OK);
    assert_int_equal(pool_open(threads, &pool, NULL), ST_OK);
    random_seed(&random, 5);
    crowd.logits = logits;
    for (uint32_t step = 0; step < 40; step++) {
        for (size_t i = 0; i < (size_t)crowd.count * TINY_GGUF_VOCABULARY; i++)
            logits[i] = (float)(4 * random_unit(&random));
        pool_run(pool, take_share, &crowd);
    }
    pool_close(pool);
    for (uint32_t r = 0; r < crowd.count; r++) assert_true(crowd.requests[r]->finish != KVASIR_RUNNING);
    for (uint32_t r = 0; r < crowd.count; r++) request_close(crowd.requests[r]);
    for (uint32_t t = 0; t < threads; t++) sampler_release(&crowd.samplers[t]);
    memcpy(out, crowd.results, sizeof crowd.results);
    free(logits);
}

static void test_threads(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){0});
    struct result one[8], several[8];
    run_crowd(engine, 1, one);
    run_crowd(engine, 4, several);
    check_results(one, several, 8);
    kvasir_engine_close(engine);
}

/* ---- the prompt's log-probabilities ------------------------------------------------------------------------------------ */

#define TOP 3u

struct prompt_result {
    uint32_t count, answered;
    struct kvasir_token tokens[128]; /* from the second token on */
    struct kvasir_logprob top[128][TOP];
    uint32_t answer[ANSWER];
};

/* One pass over the prompt that gives all its rows of logits, and the definition of a log-probability. */
static void define_prompt(const uint32_t *ids, uint32_t count, struct prompt_result *out)
{
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.max_sequences = 128});
    uint32_t vocabulary = model_config(model->model)->vocabulary, cached;
    struct model_entry entry = {.tokens = ids, .count = count, .logits_count = count};
    struct kv_batch *pinned;
    const float *logits;
    assert_int_equal(kv_seq_open(engine->kv, ids, count, 0, &entry.seq, &cached), ST_OK);
    assert_int_equal(kv_seq_reserve(entry.seq, count), ST_OK);
    assert_int_equal(kv_batch_pin(engine->kv, &entry.seq, 1, &pinned), ST_OK);
    model_forward(engine->run, &entry, 1, &logits);
    kv_batch_unpin(pinned);
    *out = (struct prompt_result){.count = count - 1};
    for (uint32_t t = 0; t + 1 < count; t++, logits += vocabulary) {
        double sum = 0;
        for (uint32_t id = 0; id < vocabulary; id++) sum += exp((double)logits[id]);
        out->tokens[t].id = ids[t + 1];
        logits_describe(logits, vocabulary, TOP, out->top[t], &out->tokens[t]);
        assert_true(fabs((double)logits[ids[t + 1]] - log(sum) - (double)out->tokens[t].logprob) < 1e-4);
    }
    kv_seq_close(entry.seq);
    kvasir_engine_close(engine);
}

static void take_prompt(const struct kvasir_event *event, struct prompt_result *out)
{
    for (size_t t = 0; t < event->prompt_logprob_count; t++) {
        const struct kvasir_token *token = &event->prompt_logprobs[t];
        assert_int_equal(token->top_count, TOP);
        assert_int_equal(out->answered, 0);
        memcpy(out->top[out->count], token->top, sizeof out->top[0]);
        out->tokens[out->count++] = *token;
    }
    for (size_t t = 0; t < event->token_count; t++) out->answer[out->answered++] = event->tokens[t].id;
}

static void check_prompt(const struct prompt_result *expected, const struct prompt_result *got, const uint32_t *answer)
{
    assert_int_equal(got->count, expected->count);
    for (uint32_t t = 0; t < got->count; t++) {
        assert_int_equal(got->tokens[t].id, expected->tokens[t].id);
        assert_true(got->tokens[t].logprob == expected->tokens[t].logprob);
        assert_memory_equal(got->top[t], expected->top[t], sizeof got->top[t]);
    }
    assert_int_equal(got->answered, ANSWER);
    assert_memory_equal(got->answer, answer, sizeof got->answer);
}

/* All requests of the file, each `gap` steps after the one before and then more urgent than that; those that `wants` has a
 * bit for want their prompt's log-probabilities. */
static void run_prompts(struct kvasir_engine *engine, unsigned wants, uint32_t gap, struct prompt_result got[REQUESTS])
{
    uint64_t ids[REQUESTS];
    uint32_t submitted = 0;
    memset(got, 0, REQUESTS * sizeof *got);
    for (uint32_t step = 0; submitted < REQUESTS || kvasir_engine_busy(engine); step++) {
        for (; submitted < REQUESTS && step >= submitted * gap; submitted++) {
            uint32_t own[128];
            struct kvasir_request request;
            make_request(submitted, own, &request);
            request.prompt_logprobs = wants >> submitted & 1 ? TOP : 0;
            if (gap) request.priority = -(int32_t)submitted;
            assert_int_equal(kvasir_engine_submit(engine, &request, &ids[submitted], NULL), KVASIR_OK);
        }
        const struct kvasir_event *events;
        size_t count, rows = 0;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++) {
            take_prompt(&events[e], &got[events[e].id - ids[0]]);
            rows += events[e].prompt_logprob_count;
        }
        assert_true(rows <= PROMPT_ROWS_MAX && step < 2000);
    }
    for (uint32_t r = 0; r < REQUESTS; r++) {
        struct kvasir_timings timings;
        assert_int_equal(kvasir_engine_timings(engine, ids[r], &timings), KVASIR_OK);
        if (wants >> r & 1) assert_int_equal(timings.cached_tokens, 0);
    }
}

static void check_prompts(const struct prompt_result *defined, const struct answer *alone, unsigned wants,
                          const struct prompt_result *got)
{
    static const struct prompt_result nothing = {0};
    for (uint32_t r = 0; r < REQUESTS; r++)
        check_prompt(wants >> r & 1 ? &defined[r] : &nothing, &got[r], alone[r].tokens);
}

static void test_prompt_logprobs(void **state)
{
    (void)state;
    const uint64_t budget = 8u << 20;
    const struct kvasir_engine_options ways[] = {
        {.kv_cache_bytes = budget},
        {.kv_cache_bytes = budget, .max_batched_tokens = 5},
        {.kv_cache_bytes = budget, .max_batched_tokens = 7, .block_size = 16},
        {.kv_cache_bytes = budget, .max_batched_tokens = 33, .max_sequences = 2},
        {.no_kv_cache = true},
    };
    static struct prompt_result defined[REQUESTS], got[REQUESTS];
    struct answer alone[REQUESTS];
    run_alone(alone);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        uint32_t own[128];
        struct kvasir_request request;
        make_request(r, own, &request);
        define_prompt(own, (uint32_t)request.prompt_count, &defined[r]);
    }
    for (size_t w = 0; w < ARRAY_COUNT(ways); w++) {
        struct kvasir_engine *engine = open_engine(model, ways[w]);
        const unsigned wants[] = {0x3f, 0x2a, 0x3f}; /* then prompts are cached, and not taken from there */
        for (size_t i = 0; i < test_count(w ? 1 : ARRAY_COUNT(wants), ARRAY_COUNT(wants)); i++) {
            run_prompts(engine, wants[i], 0, got);
            check_prompts(defined, alone, wants[i], got);
        }
        kvasir_engine_close(engine);
    }
    /* Blocks are given up in the middle of a prompt and of an answer, and computed again or swapped. */
    for (int swaps = 0; swaps < 2; swaps++) {
        struct kvasir_engine_options options = {.context = 140, .block_size = 16, .max_batched_tokens = 32};
        struct kvasir_engine *engine = open_engine(model, options);
        options.kv_cache_bytes = engine->plan.request_bytes;
        options.swap_bytes = swaps ? 64u << 20 : 0;
        kvasir_engine_close(engine);
        engine = open_engine(model, options);
        struct kvasir_engine_stats stats;
        run_prompts(engine, 0x3f, 3, got);
        kvasir_engine_stats(engine, &stats);
        assert_true(stats.preemptions > 0);
        check_prompts(defined, alone, 0x3f, got);
        kvasir_engine_close(engine);
    }
}

/* Of several answers to one prompt the first tells the prompt's; all are those of requests alone. */
static void test_prompt_logprobs_of_several_answers(void **state)
{
    (void)state;
    static struct prompt_result defined, got[3];
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.max_batched_tokens = 20});
    uint32_t own[128];
    struct kvasir_request request;
    struct result alone;
    uint64_t id;
    make_request(1, own, &request);
    define_prompt(own, (uint32_t)request.prompt_count, &defined);
    request.prompt_logprobs = TOP;
    request.n = ARRAY_COUNT(got);
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    memset(got, 0, sizeof got);
    while (kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t count;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++) take_prompt(&events[e], &got[events[e].index]);
    }
    kvasir_engine_close(engine);
    request.n = 1;
    request.prompt_logprobs = 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(got); i++) {
        run_alone_on(model, &request, &alone);
        request.sampling.seed++;
        if (i) defined.count = 0;
        check_prompt(&defined, &got[i], alone.tokens);
    }
}

/* ---- what is refused --------------------------------------------------------------------------------------------------- */

static void refuse(struct kvasir_engine *engine, const struct kvasir_request *request, const char *why)
{
    struct kvasir_error error = {0};
    uint64_t id;
    assert_int_equal(kvasir_engine_submit(engine, request, &id, &error), KVASIR_INVALID);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
}

static void test_refused(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){0});
    const uint32_t end = EOS;
    struct kvasir_request request = base();
    request.min_tokens = 41;
    refuse(engine, &request, "min_tokens is 41");
    request = base();
    request.prompt_logprobs = 129;
    refuse(engine, &request, "prompt_logprobs is 129");
    request = base();
    request.sampling.allowed_ids = &end;
    refuse(engine, &request, "allowed_ids has 0");
    request.sampling.allowed_id_count = 1;
    request.min_tokens = 1;
    refuse(engine, &request, "no token can be chosen");
    struct result result;
    request.min_tokens = 0;
    run_requests(engine, &request, 1, &result);
    assert_int_equal(result.count, 0);
    assert_int_equal(result.finish, KVASIR_STOP);
    kvasir_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_min_tokens),      cmocka_unit_test(test_min_tokens_and_stop_texts),
        cmocka_unit_test(test_allowed_ids),     cmocka_unit_test(test_bad_words),
        cmocka_unit_test(test_nothing_left),    cmocka_unit_test(test_bad_words_of_texts),
        cmocka_unit_test(test_threads),         cmocka_unit_test(test_same_in_company),
        cmocka_unit_test(test_prompt_logprobs), cmocka_unit_test(test_prompt_logprobs_of_several_answers),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
