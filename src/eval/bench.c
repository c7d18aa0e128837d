/* bench.c - tokens per second as a caller of the library has them: prefill from empty, and decode at a depth.
 *
 *   ppN     N prompt tokens, others in every repetition so that no prefix is shared; timed from submit to the first token
 *           (in passes of max_batched_tokens, the last one with logits and a greedy pick): N / seconds
 *   tgN@D   a prompt of D tokens (at least 1), untimed, filled from the prefix cache where that can be; then N decode steps,
 *           each a pass and a greedy pick, timed from the first token to the last: N / seconds
 *
 * One untimed run before each test, of at most WARM_UP tokens, touches weights and working memory. Nothing is timed but
 * kvasir_engine_step. With a roofline, the machine is measured just before and just after each test. */
#include "eval/bench_internal.h"
#include <math.h>
#include <stdio.h>

#define WARM_UP_PREFILL 512u
#define WARM_UP_DECODE 4u
#define TESTS_MAX 1024u
#define REPETITIONS_MAX 1000u

/* ---- the list of tests ------------------------------------------------------------------------------------------- */

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void list_tests(struct bench *bench)
{
    const struct eval_bench_options *o = bench->options;
    static const uint32_t no_depth;
    const uint32_t *depths = o->depth_count ? o->depth : &no_depth;
    size_t depth_count = o->depth_count ? o->depth_count : 1;
    for (size_t i = 0; i < o->prompt_count; i++) {
        if (!o->prompt[i]) continue;
        struct bench_test *test = &bench->tests[bench->test_count++];
        *test = (struct bench_test){.prompt = o->prompt[i], .generate = 1};
        snprintf(test->name, sizeof test->name, "pp%u", o->prompt[i]);
    }
    for (size_t i = 0; i < o->generate_count; i++)
        for (size_t d = 0; d < depth_count && o->generate[i]; d++) {
            struct bench_test *test = &bench->tests[bench->test_count++];
            *test = (struct bench_test){.decode = true, .prompt = most(depths[d], 1), .generate = o->generate[i] + 1};
            if (depths[d])
                snprintf(test->name, sizeof test->name, "tg%u@%u", o->generate[i], depths[d]);
            else
                snprintf(test->name, sizeof test->name, "tg%u", o->generate[i]);
        }
}

static enum status check(const struct eval_bench_options *o, struct error *error)
{
    uint64_t tests = o->prompt_count + o->generate_count * (uint64_t)most((uint32_t)o->depth_count, 1);
    if (tests > TESTS_MAX || o->depth_count > TESTS_MAX)
        return error_set(error, ST_LIMIT, "%llu tests: at most %u", (unsigned long long)tests, TESTS_MAX);
    if (o->repetitions < 1 || o->repetitions > REPETITIONS_MAX)
        return error_set(error, ST_INVALID, "%u repetitions: must be 1 to %u", o->repetitions, REPETITIONS_MAX);
    const uint32_t *lists[] = {o->prompt, o->generate, o->depth};
    const size_t counts[] = {o->prompt_count, o->generate_count, o->depth_count};
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++)
        for (size_t j = 0; j < counts[i]; j++)
            if (lists[i][j] > 1u << 28)
                return error_set(error, ST_INVALID, "a test of %u tokens: at most %u", lists[i][j], 1u << 28);
    if (o->roofline && o->cache.kv_policy)
        return error_set(error, ST_INVALID, "a roofline counts the keys of no KV policy: leave out one of the two");
    if (o->roofline && o->cache.no_kv_cache)
        return error_set(error, ST_INVALID, "a roofline is of decoding with a KV cache: leave out one of the two");
    return ST_OK;
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

/* Seconds from submit to the first token, and from there to the last. */
static enum status run_once(struct bench *bench, uint32_t prompt, uint32_t generate, uint64_t seed, double *prefill_s,
                            double *decode_s, struct error *error)
{
    struct random random;
    random_seed(&random, seed);
    for (uint32_t i = 0; i < prompt; i++) bench->prompt[i] = (uint32_t)random_below(&random, bench->vocabulary);
    const struct kvasir_request request = {
        .prompt = bench->prompt, .prompt_count = prompt, .max_tokens = generate, .ignore_eos = true};
    struct kvasir_error *public_error = (struct kvasir_error *)(void *)error;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    double first = 0, begin = clock_seconds();
    int status = kvasir_engine_submit(bench->engine, &request, &id, public_error);
    while (status == KVASIR_OK && kvasir_engine_busy(bench->engine)) {
        status = kvasir_engine_step(bench->engine, &events, &count, public_error);
        if (first == 0 && count && events[0].token_count) first = clock_seconds();
    }
    *prefill_s = first - begin;
    *decode_s = clock_seconds() - first;
    return (enum status)status;
}

static void summarise(struct bench_test *test, const double *rates, uint32_t count)
{
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < count; i++) sum += rates[i];
    test->mean = sum / count;
    for (uint32_t i = 0; i < count; i++) squares += (rates[i] - test->mean) * (rates[i] - test->mean);
    test->deviation = count > 1 ? sqrt(squares / (count - 1)) : 0;
}

static void set_work(struct bench *bench)
{
    for (uint32_t i = 0; i < bench->test_count; i++) {
        struct bench_test *test = &bench->tests[i];
        if (test->decode)
            roofline_decode(&bench->roofline, test->prompt, test->generate - 1, &test->cell);
        else
            roofline_prefill(&bench->roofline, test->prompt, &test->cell);
    }
}

/* What the machine can do now, of the test's work. */
static enum status bound_test(const struct bench *bench, struct bench_test *test, struct error *error)
{
    const struct eval_bench_options *o = bench->options;
    if (!o->roofline) return ST_OK;
    if (o->progress) o->progress(o->progress_data, "machine", 0, 1);
    return roofline_measure(&bench->roofline, &test->cell, error);
}

static enum status run_test(struct bench *bench, uint32_t index, struct error *error)
{
    struct bench_test *test = &bench->tests[index];
    uint64_t seed = (uint64_t)index * (REPETITIONS_MAX + 1); /* no two tests share prompts */
    const struct eval_bench_options *o = bench->options;
    double prefill_s, decode_s;
    uint32_t prompt = test->prompt, generate = test->generate;
    /* A decode test keeps its prompt, so the warm-up fills the cache for the timed runs. */
    if (!test->decode && prompt > WARM_UP_PREFILL) prompt = WARM_UP_PREFILL;
    if (test->decode && generate > WARM_UP_DECODE + 1) generate = WARM_UP_DECODE + 1;
    enum status status = bound_test(bench, test, error);
    if (status == ST_OK) status = run_once(bench, prompt, generate, seed, &prefill_s, &decode_s, error);
    for (uint32_t r = 0; r < o->repetitions && status == ST_OK; r++) {
        if (o->progress) o->progress(o->progress_data, test->name, r, o->repetitions);
        if (!test->decode) seed++;
        status = run_once(bench, test->prompt, test->generate, seed, &prefill_s, &decode_s, error);
        bench->rates[r] = test->decode ? (test->generate - 1) / decode_s : test->prompt / prefill_s;
    }
    if (status == ST_OK) summarise(test, bench->rates, o->repetitions);
    if (status == ST_OK) status = bound_test(bench, test, error);
    if (status == ST_OK && o->progress) o->progress(o->progress_data, test->name, o->repetitions, o->repetitions);
    return status;
}

static enum status open_engine(struct bench *bench, struct kvasir_model *model, uint32_t context, struct error *error)
{
    struct kvasir_engine_options engine = bench->options->cache;
    engine.context = context;
    engine.max_sequences = 1;
    engine.max_batched_tokens = 0;
    return (enum status)kvasir_engine_open(model, &engine, &bench->engine, (struct kvasir_error *)(void *)error);
}

enum status eval_bench(struct kvasir_model *model, const struct eval_bench_options *options, enum eval_output output,
                       struct buffer *out, struct error *error)
{
    struct bench bench = {.options = options};
    struct kvasir_model_info info;
    enum status status = check(options, error);
    if (status != ST_OK) return status;
    kvasir_model_info(model, &info);
    bench.vocabulary = info.vocabulary_size;
    bench.tests = mem_zero(options->prompt_count + options->generate_count * most((uint32_t)options->depth_count, 1),
                           sizeof *bench.tests);
    bench.rates = mem_zero(options->repetitions, sizeof *bench.rates);
    if (!bench.tests || !bench.rates) {
        status = error_set(error, ST_NOMEM, "not enough memory for a benchmark");
        goto done;
    }
    list_tests(&bench);
    uint32_t prompt = 1, context = 2;
    for (uint32_t i = 0; i < bench.test_count; i++) {
        prompt = most(prompt, bench.tests[i].prompt);
        context = most(context, bench.tests[i].prompt + bench.tests[i].generate);
    }
    bench.prompt = mem_alloc(prompt * sizeof *bench.prompt);
    if (!bench.prompt) {
        status = error_set(error, ST_NOMEM, "not enough memory for a prompt of %u tokens", prompt);
        goto done;
    }
    if (options->roofline && options->progress) options->progress(options->progress_data, "machine", 0, 1);
    if (options->roofline) status = roofline_init(&bench.roofline, model, options->cache.kv_cache_dtype, error);
    if (options->roofline && status == ST_OK) set_work(&bench);
    if (status == ST_OK) status = open_engine(&bench, model, context, error);
    for (uint32_t i = 0; i < bench.test_count && status == ST_OK; i++) status = run_test(&bench, i, error);
    if (status == ST_OK) status = bench_report(&bench, output, out, error);
done:
    kvasir_engine_close(bench.engine);
    roofline_release(&bench.roofline);
    mem_free(bench.prompt);
    mem_free(bench.rates);
    mem_free(bench.tests);
    return status;
}
