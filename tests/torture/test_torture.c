/* test_torture.c - fails every single allocation, and every single read, of a whole journey: open, inspect, tokenize, chat,
 * engine, several requests, nll, close. Each time there must be no crash, no leak (under asan), one clear error line, and
 * a step that failed for lack of memory must go on when tried again, with the same tokens. */
#include "eval/eval.h"
#include "scratch.h"
#include "tiny_gguf.h"

#define TOKENS 12u
#define REQUESTS 3u

struct journey {
    char path[600];
    uint32_t tokens[REQUESTS][TOKENS], counts[REQUESTS];
    bool broken[REQUESTS]; /* ended with KVASIR_ERROR */
    struct kvasir_error error;
};

static void check_error(const struct journey *journey, int status)
{
    if (!journey->error.text[0]) fail_msg("status %d without a word", status);
    assert_null(strchr(journey->error.text, '\n'));
    assert_int_equal(journey->error.status, status);
}

/* ---- legs of the journey: each KVASIR_OK, or the status and its error ------------------------------------------------ */

static int steps(struct kvasir_engine *engine, const uint64_t ids[REQUESTS], struct journey *journey)
{
    int failures = 0;
    while (kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t count;
        int status = kvasir_engine_step(engine, &events, &count, &journey->error);
        if (status != KVASIR_OK) {
            check_error(journey, status);
            assert_int_equal(status, KVASIR_NOMEM);
            assert_int_equal(++failures, 1); /* one call fails, so the second try works */
        }
        for (size_t e = 0; e < count; e++)
            for (uint32_t r = 0; r < REQUESTS; r++) {
                if (events[e].id != ids[r]) continue;
                if (events[e].finish == KVASIR_ERROR) journey->broken[r] = true;
                for (size_t t = 0; t < events[e].token_count; t++)
                    journey->tokens[r][journey->counts[r]++] = events[e].tokens[t].id;
            }
    }
    return KVASIR_OK;
}

static int generate(struct kvasir_model *model, const uint32_t *ids, size_t count, struct journey *journey)
{
    static const char *const stops[] = {"never said", "the end"};
    static const char schema[] =
        "{\"prefixItems\":[{\"enum\":[1,\"the\"]},{\"type\":\"integer\",\"minimum\":5},{\"type\":\"object\","
        "\"properties\":{\"in\":{\"pattern\":\"^[a-z]{20}$\"}},\"required\":[\"in\"]}],\"minItems\":3}";
    const struct kvasir_logit_bias bias[] = {{3, -1}};
    struct kvasir_engine *engine;
    struct kvasir_model_info info;
    uint64_t request_ids[REQUESTS];
    kvasir_model_info(model, &info);
    int status =
        kvasir_engine_open(model,
                           &(struct kvasir_engine_options){.context = 128,
                                                           .max_batched_tokens = 24,
                                                           .swap_bytes = 1 << 20,
                                                           .retrieval = {.mode = KVASIR_RETRIEVAL_ON,
                                                                         .initial_tokens = KVASIR_RETRIEVAL_NONE,
                                                                         .local_tokens = 1,
                                                                         .dense_boundary = 1}},
                           &engine, &journey->error);
    for (uint32_t r = 0; r < REQUESTS && status == KVASIR_OK; r++) {
        const struct kvasir_request request = {.prompt = ids,
                                               .prompt_count = count - r,
                                               .max_tokens = TOKENS,
                                               .ignore_eos = true,
                                               .retrieval = r == 2 ? KVASIR_RETRIEVAL_OFF : KVASIR_RETRIEVAL_DEFAULT,
                                               .min_tokens = r,
                                               .structure = r == 2 && info.has_tokenizer ? KVASIR_JSON_SCHEMA : 0,
                                               .structure_text = schema,
                                               .structure_bytes = strlen(schema),
                                               .logprobs = 2 * r,
                                               .prompt_logprobs = r == 1,
                                               .stop = stops,
                                               .stop_count = info.has_tokenizer ? 2 : 0,
                                               .stop_ids = &(uint32_t){7},
                                               .stop_id_count = r == 1,
                                               .sampling = {.temperature = (float)r,
                                                            .top_k = 500,
                                                            .seed = r,
                                                            .has_seed = true,
                                                            .bad_words = &(struct kvasir_bad_word){ids, 2},
                                                            .bad_word_count = r == 1,
                                                            .bias = bias,
                                                            .bias_count = r == 2}};
        status = kvasir_engine_submit(engine, &request, &request_ids[r], &journey->error);
    }
    if (status == KVASIR_OK) status = steps(engine, request_ids, journey);
    kvasir_engine_close(engine);
    return status;
}

static int make_prompt(struct kvasir_model *model, uint32_t **ids, size_t *count, struct journey *journey)
{
    const struct kvasir_chat chat = {
        .messages =
            "[{\"role\":\"user\",\"content\":\"the inner one <|im_end|> is there on the hill, then it is gone\"}]"};
    const char *const bad[] = {"the", "inner"};
    struct kvasir_bad_word *words;
    uint32_t *plain;
    size_t plain_count, bytes, word_count;
    char *text;
    int status =
        kvasir_tokenize(model, "the other \xff\xf0 one", 15, KVASIR_ADD_SPECIAL, &plain, &plain_count, &journey->error);
    if (status != KVASIR_OK) return status;
    status = kvasir_detokenize(model, plain, plain_count, KVASIR_SHOW_CONTROL, &text, &bytes, &journey->error);
    kvasir_free(plain);
    kvasir_free(text);
    if (status == KVASIR_OK) status = kvasir_tokenize_bad_words(model, bad, 2, &words, &word_count, &journey->error);
    if (status != KVASIR_OK) return status;
    kvasir_free(words);
    return kvasir_chat_tokenize(model, &chat, ids, count, &journey->error);
}

static enum status measure_load(struct kvasir_model *model, struct buffer *out, struct error *error)
{
    const uint32_t concurrency = 2;
    const struct eval_throughput_options load = {.requests = 3,
                                                 .turns = 2,
                                                 .prompt_tokens = "4",
                                                 .output_tokens = "2",
                                                 .shared_prefixes = 1,
                                                 .concurrency = &concurrency,
                                                 .concurrency_count = 1};
    struct buffer plot;
    buffer_init(&plot, 0);
    enum status status = eval_throughput(model, &load, EVAL_JSON, out, &plot, error);
    buffer_release(&plot);
    return status;
}

static int measure(struct kvasir_model *model, const uint32_t *ids, size_t count, struct journey *journey)
{
    struct buffer out;
    struct error *error = (struct error *)(void *)&journey->error;
    uint32_t prompts[] = {8}, generates[] = {2};
    buffer_init(&out, 0);
    enum status status = eval_inspect(journey->path, NULL, EVAL_TEXT, &out, error);
    if (status == ST_OK) status = eval_inspect(journey->path, NULL, EVAL_JSON, &out, error);
    if (status == ST_OK)
        status = eval_nll(model, &(struct eval_text){.ids = ids, .count = count}, EVAL_JSON, &out, error);
    if (status == ST_OK)
        status = eval_bench(
            model,
            &(struct eval_bench_options){
                .prompt = prompts, .prompt_count = 1, .generate = generates, .generate_count = 1, .repetitions = 1},
            EVAL_JSON, &out, error);
    if (status == ST_OK) status = measure_load(model, &out, error);
    buffer_release(&out);
    return (int)status;
}

static int travel(struct journey *journey)
{
    static const uint32_t no_tokenizer[] = {5,  9,  200, 33, 17, 80, 41, 2,  9,  90,
                                            91, 92, 93,  94, 95, 96, 97, 98, 99, 100};
    struct kvasir_model *model;
    struct kvasir_model_info info;
    uint32_t *ids = NULL;
    size_t count = ARRAY_COUNT(no_tokenizer);
    journey->error = (struct kvasir_error){0};
    memset(journey->counts, 0, sizeof journey->counts);
    memset(journey->broken, 0, sizeof journey->broken);
    int status = kvasir_model_open(journey->path, &(struct kvasir_model_options){.threads = test_count(1, 2)}, &model,
                                   &journey->error);
    if (status != KVASIR_OK) return status;
    kvasir_model_info(model, &info);
    if (info.has_tokenizer) status = make_prompt(model, &ids, &count, journey);
    const uint32_t *prompt = ids ? ids : no_tokenizer;
    if (status == KVASIR_OK) status = generate(model, prompt, count, journey);
    if (status == KVASIR_OK) status = measure(model, prompt, count, journey);
    kvasir_free(ids);
    kvasir_model_close(model);
    return status;
}

/* ---- every call fails once ------------------------------------------------------------------------------------------- */

static void fail_every(struct journey *journey, enum fault_kind kind)
{
    struct journey whole = *journey;
    if (travel(&whole) != KVASIR_OK) fail_msg("%s", whole.error.text);
    fault_arm(kind, UINT64_MAX);
    assert_int_equal(travel(&whole), KVASIR_OK);
    uint64_t calls = fault_count(kind), survived = 0;
    assert_true(calls > 0);
    for (uint64_t nth = 1; nth <= calls; nth++) {
        fault_arm(kind, nth);
        int status = travel(journey);
        fault_arm(FAULT_NONE, 0);
        if (status != KVASIR_OK) {
            check_error(journey, status);
            continue;
        }
        survived++;
        for (uint32_t r = 0; r < REQUESTS; r++) {
            if (journey->broken[r]) continue;
            assert_int_equal(journey->counts[r], whole.counts[r]);
            assert_memory_equal(journey->tokens[r], whole.tokens[r], whole.counts[r] * sizeof(uint32_t));
        }
    }
    print_message("%llu calls, %llu journeys went on\n", (unsigned long long)calls, (unsigned long long)survived);
    assert_int_equal(travel(journey), KVASIR_OK);
}

static void test_gguf(void **state)
{
    (void)state;
    struct scratch scratch;
    struct journey journey = {0};
    struct buffer file;
    scratch_init(&scratch);
    buffer_init(&file, 0);
    tiny_gguf_write(&file);
    scratch_write(&scratch, "tiny.gguf", file.data, file.length);
    buffer_release(&file);
    snprintf(journey.path, sizeof journey.path, "%s", scratch_path(&scratch, "tiny.gguf"));
    fail_every(&journey, FAULT_ALLOC);
    fail_every(&journey, FAULT_READ);
    scratch_release(&scratch);
}

static void test_hugging_face(void **state)
{
    (void)state;
    struct journey journey = {0};
    snprintf(journey.path, sizeof journey.path, "%s/tiny/llama", TEST_DATA);
    fail_every(&journey, FAULT_ALLOC);
    fail_every(&journey, FAULT_READ);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_hugging_face),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
