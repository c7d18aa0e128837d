/* bench.c - tokens per second as a caller of the library has them: prefill from empty, and decode at a depth.
 *
 *   ppN     N prompt tokens, others in every repetition so that no prefix is shared; timed from submit to the first token
 *           (in passes of max_batched_tokens, the last one with logits and a greedy pick): N / seconds
 *   tgN@D   a prompt of D tokens (at least 1), untimed, filled from the prefix cache where that can be; then N decode steps,
 *           each a pass and a greedy pick, timed from the first token to the last: N / seconds
 *
 *   tgN@D/B%     the same with retrieval attention that reads B % of the rows
 *   tgN@D/T      the same with retrieval attention that looks up T tokens
 *   tgN@~D…      a depth of which only the beginning is computed (bench_depth.c); timed is the pass and the pick
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
#define FIXED_TOKENS (BENCH_INITIAL_TOKENS + BENCH_LOCAL_TOKENS)

/* ---- the list of tests ------------------------------------------------------------------------------------------- */

static void add_decode(struct bench *bench, uint32_t generate, uint32_t depth, double budget, uint32_t recall_tokens)
{
    struct bench_test *test = &bench->tests[bench->test_count++];
    *test = (struct bench_test){.decode = true,
                                .prompt = most(depth, 1),
                                .generate = generate + 1,
                                .budget = budget,
                                .recall_tokens = recall_tokens};
    size_t used = (size_t)snprintf(test->name, sizeof test->name, "tg%u", generate);
    if (depth)
        used +=
            (size_t)snprintf(test->name + used, sizeof test->name - used, "@%s%u", bench->computed ? "~" : "", depth);
    if (budget > 0) snprintf(test->name + used, sizeof test->name - used, "/%g%%", 100 * budget);
    if (recall_tokens) snprintf(test->name + used, sizeof test->name - used, "/%u", recall_tokens);
}

/* Decode tests of each pair of length and depth. */
static size_t decode_variants(const struct eval_bench_options *o)
{
    return most((uint32_t)o->depth_count, 1) * (!o->skip_dense + o->budget_count + o->recall_count);
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
            if (!o->skip_dense) add_decode(bench, o->generate[i], depths[d], 0, 0);
            for (size_t b = 0; b < o->budget_count; b++) add_decode(bench, o->generate[i], depths[d], o->budgets[b], 0);
            for (size_t r = 0; r < o->recall_count; r++)
                add_decode(bench, o->generate[i], depths[d], 0, o->recall_tokens[r]);
        }
}

static uint32_t least_depth(const struct eval_bench_options *o)
{
    uint32_t depth = o->depth_count ? o->depth[0] : 0;
    for (size_t d = 1; d < o->depth_count; d++) depth = least(o->depth[d], depth);
    return depth;
}

static enum status check_depths(const struct eval_bench_options *o, struct error *error)
{
    const uint32_t depth = least_depth(o);
    for (size_t b = 0; b < o->budget_count; b++) {
        if (!(o->budgets[b] > 0 && o->budgets[b] <= 1))
            return error_set(error, ST_INVALID, "a budget of %g: must be above 0 and at most 1", o->budgets[b]);
        if (o->budgets[b] * depth < FIXED_TOKENS)
            return error_set(error, ST_INVALID,
                             "a budget of %g at a depth of %u: state a depth of at least %.0f tokens", o->budgets[b],
                             depth, FIXED_TOKENS / o->budgets[b] + 1);
    }
    for (size_t r = 0; r < o->recall_count; r++)
        if (!o->recall_tokens[r] || depth <= (uint64_t)FIXED_TOKENS + o->recall_tokens[r])
            return error_set(error, ST_INVALID,
                             "%u tokens looked up at a depth of %u: must be at least 1, and the depth more than that "
                             "and %u",
                             o->recall_tokens[r], depth, FIXED_TOKENS);
    if (o->computed && (o->computed < BENCH_COMPUTED_MIN || o->computed > depth))
        return error_set(error, ST_INVALID, "%u tokens computed of a depth of %u: must be %u to the depth", o->computed,
                         depth, BENCH_COMPUTED_MIN);
    if (o->computed && (o->cache.no_kv_cache || o->cache.kv_policy))
        return error_set(error, ST_INVALID, "a KV cache is filled with copies only if it keeps all: leave out %s",
                         o->cache.kv_policy ? "the KV policy" : "no_kv_cache");
    if (o->cache.kv_disk && !(o->computed && o->skip_dense && (o->budget_count || o->recall_count)))
        return error_set(error, ST_INVALID,
                         "rows on a disk are of synthetic depths, and only looked up: state tokens that are computed, "
                         "retrieval, and skip dense attention");
    if (o->roofline && (o->budget_count || o->recall_count || o->computed))
        return error_set(error, ST_INVALID,
                         "a roofline is of attention that reads every key of a computed text: leave out the one or "
                         "the other");
    return ST_OK;
}

static enum status check(const struct eval_bench_options *o, struct error *error)
{
    uint64_t tests = o->prompt_count + o->generate_count * decode_variants(o);
    if (tests > TESTS_MAX || o->depth_count > TESTS_MAX || o->budget_count > TESTS_MAX || o->recall_count > TESTS_MAX)
        return error_set(error, ST_LIMIT, "%llu tests: at most %u", (unsigned long long)tests, TESTS_MAX);
    if (o->repetitions < 1 || o->repetitions > REPETITIONS_MAX)
        return error_set(error, ST_INVALID, "%u repetitions: must be 1 to %u", o->repetitions, REPETITIONS_MAX);
    const uint32_t *lists[] = {o->prompt, o->generate, o->depth};
    const size_t counts[] = {o->prompt_count, o->generate_count, o->depth_count};
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++)
        for (size_t j = 0; j < counts[i]; j++)
            if (lists[i][j] > 1u << 28)
                return error_set(error, ST_INVALID, "a test of %u tokens: at most %u", lists[i][j], 1u << 28);
    if (check_depths(o, error) != ST_OK) return ST_INVALID;
    if (o->roofline && o->cache.kv_policy)
        return error_set(error, ST_INVALID, "a roofline counts the keys of no KV policy: leave out one of the two");
    if (o->roofline && o->cache.no_kv_cache)
        return error_set(error, ST_INVALID, "a roofline is of decoding with a KV cache: leave out one of the two");
    return ST_OK;
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

double bench_topk(const struct bench_test *test)
{
    const double between = (double)test->prompt - FIXED_TOKENS;
    if (!bench_retrieves(test) || between <= 0) return 0;
    return (test->recall_tokens ? test->recall_tokens : test->budget * test->prompt - FIXED_TOKENS) / between;
}

/* What attention has read and taken so far. */
static struct model_attention_tally tally_of(const struct bench *bench)
{
    struct model_attention_tally tally;
    struct kvasir_engine_stats stats;
    if (bench->depth) {
        bench_depth_tally(bench->depth, &tally);
        return tally;
    }
    kvasir_engine_stats(bench->engine, &stats);
    return (struct model_attention_tally){.rows_read = stats.retrieval_rows_read,
                                          .rows_dense = stats.retrieval_rows_dense,
                                          .attention_s = stats.attention_s};
}

static enum status run_request(struct bench *bench, const struct bench_test *test, uint32_t prompt, uint32_t generate,
                               uint64_t seed, struct bench_times *out, struct error *error)
{
    struct random random;
    random_seed(&random, seed);
    for (uint32_t i = 0; i < prompt; i++) bench->prompt[i] = (uint32_t)random_below(&random, bench->vocabulary);
    const struct kvasir_request request = {.prompt = bench->prompt,
                                           .prompt_count = prompt,
                                           .max_tokens = generate,
                                           .ignore_eos = true,
                                           .retrieval =
                                               bench_retrieves(test) ? KVASIR_RETRIEVAL_ON : KVASIR_RETRIEVAL_OFF,
                                           .retrieval_topk = bench_topk(test)};
    struct kvasir_error *public_error = (struct kvasir_error *)(void *)error;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    double first = 0, attention = 0, begin = clock_seconds();
    int status = kvasir_engine_submit(bench->engine, &request, &id, public_error);
    while (status == KVASIR_OK && kvasir_engine_busy(bench->engine)) {
        status = kvasir_engine_step(bench->engine, &events, &count, public_error);
        if (first == 0 && count && events[0].token_count) {
            first = clock_seconds();
            attention = tally_of(bench).attention_s;
        }
    }
    *out = (struct bench_times){.prefill = first - begin,
                                .decode = clock_seconds() - first,
                                .attention = tally_of(bench).attention_s - attention};
    return (enum status)status;
}

static enum status run_once(struct bench *bench, struct bench_test *test, uint32_t prompt, uint32_t generate,
                            uint64_t seed, struct bench_times *out, struct error *error)
{
    if (!test->decode || !bench->depth) return run_request(bench, test, prompt, generate, seed, out, error);
    out->prefill = 0;
    return bench_depth_decode(bench->depth, test, generate - 1, out, error);
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
    struct bench_times times;
    double attention = 0;
    uint32_t prompt = test->prompt, generate = test->generate;
    /* A decode test keeps its prompt, so the warm-up fills the cache for the timed runs. */
    if (!test->decode && prompt > WARM_UP_PREFILL) prompt = WARM_UP_PREFILL;
    if (test->decode && generate > WARM_UP_DECODE + 1) generate = WARM_UP_DECODE + 1;
    enum status status = bound_test(bench, test, error);
    if (status == ST_OK) status = run_once(bench, test, prompt, generate, seed, &times, error);
    const struct model_attention_tally before = tally_of(bench);
    for (uint32_t r = 0; r < o->repetitions && status == ST_OK; r++) {
        if (o->progress) o->progress(o->progress_data, test->name, r, o->repetitions);
        if (!test->decode) seed++;
        status = run_once(bench, test, test->prompt, test->generate, seed, &times, error);
        bench->rates[r] = test->decode ? (test->generate - 1) / times.decode : test->prompt / times.prefill;
        attention += times.attention;
    }
    const struct model_attention_tally after = tally_of(bench);
    if (after.rows_dense > before.rows_dense)
        test->rows_read = (double)(after.rows_read - before.rows_read) / (double)(after.rows_dense - before.rows_dense);
    if (test->decode) test->attention_ms = 1e3 * attention / o->repetitions / (test->generate - 1);
    if (status == ST_OK) summarise(test, bench->rates, o->repetitions);
    if (status == ST_OK) status = bound_test(bench, test, error);
    if (status == ST_OK && o->progress) o->progress(o->progress_data, test->name, o->repetitions, o->repetitions);
    return status;
}

static enum status open_engine(struct bench *bench, struct kvasir_model *model, uint32_t context, struct error *error)
{
    struct kvasir_engine_options engine = bench->options->cache;
    engine.context = context;
    engine.kv_disk = NULL; /* of synthetic depths */
    engine.max_sequences = 1;
    engine.max_batched_tokens = 0;
    if (bench->options->budget_count || bench->options->recall_count) {
        engine.no_drafts = true;
        engine.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_ON,
                                                     .initial_tokens = BENCH_INITIAL_TOKENS,
                                                     .local_tokens = BENCH_LOCAL_TOKENS,
                                                     .dense_boundary = KVASIR_RETRIEVAL_NONE};
    }
    return (enum status)kvasir_engine_open(model, &engine, &bench->engine, (struct kvasir_error *)(void *)error);
}

enum status eval_bench(struct kvasir_model *model, const struct eval_bench_options *options, enum eval_output output,
                       struct buffer *out, struct error *error)
{
    struct bench bench = {.options = options,
                          .computed = options->computed / KERNEL_CLOSED_TOKENS * KERNEL_CLOSED_TOKENS};
    struct kvasir_model_info info;
    enum status status = check(options, error);
    if (status != ST_OK) return status;
    kvasir_model_info(model, &info);
    bench.vocabulary = info.vocabulary_size;
    bench.tests =
        mem_zero(options->prompt_count + options->generate_count * decode_variants(options), sizeof *bench.tests);
    bench.rates = mem_zero(options->repetitions, sizeof *bench.rates);
    if (!bench.tests || !bench.rates) {
        status = error_set(error, ST_NOMEM, "not enough memory for a benchmark");
        goto done;
    }
    list_tests(&bench);
    uint32_t prompt = 1, context = 2, depth_context = 0;
    for (uint32_t i = 0; i < bench.test_count; i++) {
        const struct bench_test *test = &bench.tests[i];
        uint32_t *whose = test->decode && bench.computed ? &depth_context : &context;
        if (whose == &context) prompt = most(prompt, test->prompt);
        *whose = most(*whose, test->prompt + test->generate);
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
    if (status == ST_OK && depth_context) status = bench_depth_open(&bench, model, depth_context, error);
    for (uint32_t i = 0; i < bench.test_count && status == ST_OK; i++) status = run_test(&bench, i, error);
    if (status == ST_OK) status = bench_report(&bench, output, out, error);
done:
    bench_depth_close(bench.depth);
    kvasir_engine_close(bench.engine);
    roofline_release(&bench.roofline);
    mem_free(bench.prompt);
    mem_free(bench.rates);
    mem_free(bench.tests);
    return status;
}
