/* test_engine_grammar.c - answers that have to satisfy a structure: they do, whenever they end with "stop"; they are the same alone, in
 * a batch, with drafts, preempted, as one of several; where they end; and what is refused. On a tiny model with a token for
 * every byte, which says nothing of sense. */
#include "engine/engine_internal.h"
#include "scratch.h"
#include "tiny_gguf.h"
#include <jansson.h>
#include <math.h>

#define KINDS 9u
#define TOKENS 60u
#define END (TINY_GGUF_VOCABULARY - 1) /* <|im_end|> */
#define NEWLINE 10u                    /* the token of that byte */

static struct scratch scratch;
static struct kvasir_model *model;

static int load(void **state)
{
    (void)state;
    struct buffer file;
    struct kvasir_error error;
    buffer_init(&file, 0);
    tiny_gguf_write(&file);
    scratch_init(&scratch);
    scratch_write(&scratch, "tiny.gguf", file.data, file.length);
    buffer_release(&file);
    const struct kvasir_model_options options = {.threads = 2};
    return kvasir_model_open(scratch_path(&scratch, "tiny.gguf"), &options, &model, &error) != KVASIR_OK;
}

static int unload(void **state)
{
    (void)state;
    kvasir_model_close(model);
    scratch_release(&scratch);
    return 0;
}

/* ---- requests ----------------------------------------------------------------------------------------------------------- */

static const struct {
    enum kvasir_structure kind;
    const char *text;
} STRUCTURES[KINDS] = {
    {KVASIR_JSON_SCHEMA, "{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":3,\"maximum\":40},\"b\":{\"enum\":["
                         "\"x\",\"yy\"]},\"c\":{\"type\":"
                         "\"array\",\"items\":{\"type\":\"boolean\"},\"maxItems\":4}},\"required\":[\"a\",\"c\"]}"},
    {KVASIR_JSON_SCHEMA, "{\"type\":\"string\",\"maxLength\":12}"},
    {KVASIR_JSON_OBJECT, NULL},
    {KVASIR_REGEX, "(the|on){2,9} [a-f]{3,8}\\.?"},
    {KVASIR_CHOICE, "[\"then\",\"the one\",\"in\"]"},
    {KVASIR_GRAMMAR, "root ::= \"(\" (root \",\")* [0-9]{1,3} \")\""},
    {KVASIR_JSON_SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1},\"maxItems\":5}"},
    {KVASIR_REGEX, "((the )+in ){1,30}"},
    {KVASIR_ANY_TEXT, NULL},
};

struct answer {
    uint32_t tokens[TOKENS], count;
    enum kvasir_finish finish;
    struct buffer text;
};

/* Prompts that repeat themselves, so that there is something to draft. */
static struct kvasir_request make_request(uint32_t kind, uint32_t prompt[80])
{
    for (uint32_t i = 0; i < 80; i++) prompt[i] = i % 11 < 6 ? 256 + i % 7 : ' ' + (i * (kind + 3)) % 60;
    struct kvasir_request request = {.prompt = prompt,
                                     .prompt_count = 20 + 7 * kind,
                                     .max_tokens = TOKENS,
                                     .structure = STRUCTURES[kind].kind,
                                     .structure_text = STRUCTURES[kind].text,
                                     .structure_bytes = STRUCTURES[kind].text ? strlen(STRUCTURES[kind].text) : 0};
    if (kind % 3)
        request.sampling =
            (struct kvasir_sampling){.temperature = 1.5f, .top_p = 0.98f, .seed = kind + 1, .has_seed = true};
    return request;
}

static void run(struct kvasir_engine *engine, const uint64_t *ids, uint32_t count, struct answer *answers,
                uint32_t per_request)
{
    while (kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t event_count;
        assert_int_equal(kvasir_engine_step(engine, &events, &event_count, NULL), KVASIR_OK);
        for (size_t e = 0; e < event_count; e++) {
            uint32_t r = 0;
            while (r < count && ids[r] != events[e].id) r++;
            assert_true(r < count);
            struct answer *answer = &answers[r * per_request + events[e].index];
            for (size_t t = 0; t < events[e].token_count; t++) answer->tokens[answer->count++] = events[e].tokens[t].id;
            buffer_append(&answer->text, events[e].text, events[e].text_bytes);
            answer->finish = events[e].finish;
        }
    }
}

static struct kvasir_engine *open_engine(struct kvasir_engine_options options)
{
    struct kvasir_engine *engine;
    struct kvasir_error error = {0};
    options.context = 160;
    if (kvasir_engine_open(model, &options, &engine, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return engine;
}

static uint64_t submit(struct kvasir_engine *engine, const struct kvasir_request *request)
{
    uint64_t id;
    struct kvasir_error error = {0};
    if (kvasir_engine_submit(engine, request, &id, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return id;
}

static void forget(struct answer *answers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) buffer_release(&answers[i].text);
}

/* What ended with "stop" is complete; all else is the beginning of something that is. */
static void check_structure(uint32_t kind, const struct answer *answer)
{
    struct grammar *grammar;
    bool matches = true;
    const char *text = STRUCTURES[kind].text ? STRUCTURES[kind].text : "";
    if (STRUCTURES[kind].kind == KVASIR_ANY_TEXT) return;
    assert_int_equal(
        grammar_open(model->grammars, (enum grammar_kind)STRUCTURES[kind].kind, text, strlen(text), &grammar, NULL),
        ST_OK);
    assert_int_equal(grammar_match(grammar, answer->text.data, answer->text.length, &matches), ST_OK);
    grammar_close(grammar);
    if (answer->finish == KVASIR_STOP && !matches) fail_msg("%s: '%s'", text, answer->text.data);
    if (answer->finish == KVASIR_LENGTH) assert_int_equal(answer->count, TOKENS);
    bool json = STRUCTURES[kind].kind == KVASIR_JSON_SCHEMA || STRUCTURES[kind].kind == KVASIR_JSON_OBJECT;
    json_t *parsed = json_loadb(answer->text.data, answer->text.length, JSON_DECODE_ANY, NULL);
    if (json && answer->finish == KVASIR_STOP && !parsed) fail_msg("no JSON: '%s'", answer->text.data);
    json_decref(parsed);
}

static void check_same(const struct answer *one, const struct answer *other)
{
    assert_int_equal(one->count, other->count);
    assert_memory_equal(one->tokens, other->tokens, one->count * sizeof *one->tokens);
    assert_int_equal(one->finish, other->finish);
    assert_int_equal(one->text.length, other->text.length);
}

static void run_alone(struct answer answers[KINDS])
{
    memset(answers, 0, KINDS * sizeof *answers);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){.no_drafts = true});
        uint32_t prompt[80];
        const struct kvasir_request request = make_request(kind, prompt);
        uint64_t id = submit(engine, &request);
        run(engine, &id, 1, &answers[kind], 1);
        kvasir_engine_close(engine);
    }
}

/* ---- the same answers ------------------------------------------------------------------------------------------------------ */

static struct kvasir_engine_stats check_together(struct kvasir_engine_options options, bool urgent,
                                                 const struct answer expected[KINDS])
{
    struct answer answers[KINDS] = {0};
    struct kvasir_engine *engine = open_engine(options);
    struct kvasir_engine_stats stats;
    uint64_t ids[KINDS];
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        uint32_t prompt[80];
        struct kvasir_request request = make_request(kind, prompt);
        if (urgent) request.priority = -(int32_t)kind; /* it makes the earlier ones give way */
        ids[kind] = submit(engine, &request);
        const struct kvasir_event *events;
        size_t count;
        for (int step = 0; step < 5 && urgent; step++) {
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            for (size_t e = 0; e < count; e++) {
                uint32_t r = (uint32_t)(events[e].id - ids[0]);
                for (size_t t = 0; t < events[e].token_count; t++)
                    answers[r].tokens[answers[r].count++] = events[e].tokens[t].id;
                buffer_append(&answers[r].text, events[e].text, events[e].text_bytes);
                answers[r].finish = events[e].finish;
            }
        }
    }
    run(engine, ids, KINDS, answers, 1);
    for (uint32_t kind = 0; kind < KINDS; kind++) check_same(&answers[kind], &expected[kind]);
    kvasir_engine_stats(engine, &stats);
    kvasir_engine_close(engine);
    forget(answers, KINDS);
    return stats;
}

static void test_same(void **state)
{
    (void)state;
    struct answer expected[KINDS];
    uint32_t stopped = 0;
    run_alone(expected);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        check_structure(kind, &expected[kind]);
        stopped += expected[kind].finish == KVASIR_STOP;
    }
    assert_true(stopped > 3);
    check_together((struct kvasir_engine_options){.no_drafts = true}, false, expected);
    struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){0});
    uint64_t least = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    const struct kvasir_engine_options tight = {.kv_cache_bytes = least, .block_size = 16, .max_batched_tokens = 32};
    struct kvasir_engine_stats stats = check_together(tight, true, expected);
    assert_true(stats.preemptions > 0);
    struct kvasir_engine_options swapping = tight;
    swapping.swap_bytes = 4 * least;
    stats = check_together(swapping, true, expected);
    assert_true(stats.preemptions > 0);
    forget(expected, KINDS);
}

/* Drafts are tried where they pay, which a test cannot wait for: every one is. */
static void test_drafts(void **state)
{
    (void)state;
    struct answer expected[KINDS];
    uint64_t accepted = 0, wrong = 0;
    run_alone(expected);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){.draft_tokens = 4});
        struct answer answer = {0};
        uint32_t prompt[80];
        const struct kvasir_request request = make_request(kind, prompt);
        uint64_t id = submit(engine, &request);
        while (kvasir_engine_busy(engine)) {
            struct cost *cost = &engine->scheduler.cost;
            for (uint32_t rows = 1; rows <= COST_ROWS; rows++) cost->rows_s[rows] = 1; /* more rows cost nothing */
            const struct kvasir_event *events;
            size_t count;
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            for (size_t e = 0; e < count; e++) {
                for (size_t t = 0; t < events[e].token_count; t++)
                    answer.tokens[answer.count++] = events[e].tokens[t].id;
                buffer_append(&answer.text, events[e].text, events[e].text_bytes);
                answer.finish = events[e].finish;
            }
        }
        check_same(&answer, &expected[kind]);
        assert_int_equal(id, 1);
        accepted += engine->accepted_tokens;
        wrong += engine->drafted_tokens - engine->accepted_tokens;
        kvasir_engine_close(engine);
        buffer_release(&answer.text);
    }
    assert_true(accepted > 10 && wrong > 10);
    forget(expected, KINDS);
}

/* Several answers are those of requests alone with the next seeds; the best of several, and beams, satisfy it too. */
static void test_several(void **state)
{
    (void)state;
    struct answer answers[3] = {0};
    struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){0});
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        uint32_t prompt[80];
        struct kvasir_request request = make_request(kind, prompt);
        request.sampling.seed = 5;
        request.sampling.has_seed = true;
        request.n = 3;
        uint64_t id = submit(engine, &request);
        run(engine, &id, 1, answers, 3);
        for (uint32_t i = 0; i < 3; i++) {
            struct answer alone = {0};
            struct kvasir_request single = request;
            single.n = 1;
            single.sampling.seed += i;
            uint64_t other = submit(engine, &single);
            run(engine, &other, 1, &alone, 1);
            check_same(&answers[i], &alone);
            check_structure(kind, &alone);
            buffer_release(&alone.text);
        }
        forget(answers, 3);
        memset(answers, 0, sizeof answers);
        request.n = 2;
        request.best_of = 4;
        id = submit(engine, &request);
        run(engine, &id, 1, answers, 3);
        for (uint32_t i = 0; i < 2; i++) check_structure(kind, &answers[i]);
        forget(answers, 3);
        memset(answers, 0, sizeof answers);
        request.best_of = 0;
        request.beam_width = 3;
        request.sampling = (struct kvasir_sampling){0};
        id = submit(engine, &request);
        run(engine, &id, 1, answers, 3);
        for (uint32_t i = 0; i < 2; i++) check_structure(kind, &answers[i]);
        forget(answers, 3);
        memset(answers, 0, sizeof answers);
    }
    kvasir_engine_close(engine);
}

/* ---- ends ------------------------------------------------------------------------------------------------------------------- */

static struct answer answer_to(const struct kvasir_request *request)
{
    struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){0});
    struct answer answer = {0};
    uint64_t id = submit(engine, request);
    run(engine, &id, 1, &answer, 1);
    kvasir_engine_close(engine);
    return answer;
}

static struct kvasir_request regex_request(uint32_t prompt[80], const char *regex)
{
    struct kvasir_request request = make_request(KINDS - 1, prompt);
    request.structure = KVASIR_REGEX;
    request.structure_text = regex;
    request.structure_bytes = strlen(regex);
    return request;
}

static void expect(const struct kvasir_request *request, const char *text, enum kvasir_finish finish)
{
    struct answer answer = answer_to(request);
    buffer_append(&answer.text, "", 1);
    assert_string_equal(answer.text.data, text);
    assert_int_equal(answer.finish, finish);
    buffer_release(&answer.text);
}

static void test_ends(void **state)
{
    (void)state;
    uint32_t prompt[80];
    const struct kvasir_logit_bias likes_end[] = {{END, 1e5f}}, likes_a[] = {{'a', 1e5f}},
                                   hates_c[] = {{'c', -INFINITY}}, likes_newline[] = {{NEWLINE, 1e5f}};
    struct kvasir_request request = regex_request(prompt, "ab{3}(c|dd)?");
    request.sampling.bias = likes_end; /* as soon as it may end, it does */
    request.sampling.bias_count = 1;
    expect(&request, "abbb", KVASIR_STOP);
    request.min_tokens = 5; /* then it has to go on */
    request.sampling.allowed_ids = (const uint32_t[]){'a', 'b', 'c', END};
    request.sampling.allowed_id_count = 4;
    expect(&request, "abbbc", KVASIR_STOP);
    request.min_tokens = 50; /* nothing can follow: it ends all the same */
    expect(&request, "abbbc", KVASIR_STOP);
    request.min_tokens = 0;
    request.ignore_eos = true; /* there are no end tokens: it ends where it is complete */
    expect(&request, "abbbc", KVASIR_STOP);
    request.max_tokens = 2;
    expect(&request, "ab", KVASIR_LENGTH);

    request = regex_request(prompt, "abc");
    request.sampling.bias = hates_c; /* the only token that could go on is forbidden */
    request.sampling.bias_count = 1;
    expect(&request, "ab", KVASIR_LENGTH);

    request = regex_request(prompt, "a+"); /* what ends an answer is never part of it */
    request.stop_ids = &(uint32_t){'a'};
    request.stop_id_count = 1;
    uint64_t id;
    struct kvasir_error error;
    struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){0});
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, &error), KVASIR_INVALID);
    assert_non_null(strstr(error.text, "no token can be chosen: the structure"));
    kvasir_engine_close(engine);
    request = regex_request(prompt, "a+\\n?");
    request.stop_ids = &(uint32_t){NEWLINE};
    request.stop_id_count = 1;
    request.sampling.bias = likes_newline;
    request.sampling.bias_count = 1;
    expect(&request, "a", KVASIR_STOP);

    request = regex_request(prompt, "a*"); /* empty at once, or for as long as there is room */
    request.sampling.bias = likes_end;
    request.sampling.bias_count = 1;
    expect(&request, "", KVASIR_STOP);
    request.sampling.bias = likes_a;
    request.max_tokens = 5;
    expect(&request, "aaaaa", KVASIR_LENGTH);
    const char *const stop = "aa"; /* asked for, so it cuts */
    request.stop = &stop;
    request.stop_count = 1;
    expect(&request, "", KVASIR_STOP);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        enum kvasir_structure kind;
        const char *text, *reason;
        int status;
    } cases[] = {{KVASIR_JSON_SCHEMA, "{\"type\":\"array\",\"uniqueItems\":true}",
                  "at #: the keyword 'uniqueItems' is not supported", KVASIR_UNSUPPORTED},
                 {KVASIR_JSON_SCHEMA, "{", "line 1", KVASIR_INVALID},
                 {KVASIR_JSON_SCHEMA, NULL, "JSON schema", KVASIR_INVALID},
                 {KVASIR_REGEX, "a(?=b)", "regex: looking ahead", KVASIR_UNSUPPORTED},
                 {KVASIR_CHOICE, "[]", "choice: must be an array", KVASIR_INVALID},
                 {KVASIR_GRAMMAR, "root ::= x", "grammar: line 1: the rule 'x'", KVASIR_INVALID},
                 {KVASIR_REGEX, "[^\\u0000-\\u{10ffff}]", "no text can satisfy it", KVASIR_INVALID},
                 {KVASIR_JSON_CALLS, "{\"open\":\"<c>\"}", "calls: there have to be a \"schema\"", KVASIR_INVALID},
                 {(enum kvasir_structure)77, "", "there is no structure 77", KVASIR_INVALID}};
    struct kvasir_engine *engine = open_engine((struct kvasir_engine_options){0});
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint32_t prompt[80];
        uint64_t id;
        struct kvasir_error error = {0};
        struct kvasir_request request = make_request(KINDS - 1, prompt);
        request.structure = cases[i].kind;
        request.structure_text = cases[i].text;
        request.structure_bytes = cases[i].text ? strlen(cases[i].text) : 0;
        assert_int_equal(kvasir_engine_submit(engine, &request, &id, &error), cases[i].status);
        if (!strstr(error.text, cases[i].reason)) fail_msg("'%s' does not say '%s'", error.text, cases[i].reason);
    }
    kvasir_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same), cmocka_unit_test(test_drafts),  cmocka_unit_test(test_several),
        cmocka_unit_test(test_ends), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
