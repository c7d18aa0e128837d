/* test_throughput.c - the load on a clock that the test holds, its figures against sums made here, and the whole command on a
 * tiny model. */
#include "eval/throughput_internal.h"
#include "support.h"
#include <math.h>

static struct kvasir_model *model;

static int setup(void **state)
{
    (void)state;
    struct kvasir_error error;
    return kvasir_model_open(TEST_DATA "/tiny/llama", &(struct kvasir_model_options){.threads = 2}, &model, &error);
}

static int teardown(void **state)
{
    (void)state;
    kvasir_model_close(model);
    return 0;
}

static const uint32_t one_level[] = {5};

static struct eval_throughput_options some_load(void)
{
    return (struct eval_throughput_options){.requests = 40,
                                            .turns = 1,
                                            .prompt_tokens = "uniform:3-30",
                                            .output_tokens = "uniform:1-8",
                                            .shared_prefixes = 1,
                                            .concurrency = one_level,
                                            .concurrency_count = 1,
                                            .seed = 7};
}

/* ---- options and lengths ------------------------------------------------------------------------------------------ */

static void refuse(struct eval_throughput_options options, const char *says)
{
    struct error error = {0};
    assert_int_equal(eval_throughput_check(&options, &error), ST_INVALID);
    if (!strstr(error.text, says)) fail_msg("'%s' does not say '%s'", error.text, says);
}

static void refuse_length(const char *text)
{
    struct eval_throughput_options options = some_load();
    options.prompt_tokens = text;
    refuse(options, "is not a length");
    options = some_load();
    options.output_tokens = text;
    refuse(options, "output tokens");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const lengths[] = {"",
                                          "0",
                                          "-3",
                                          "1.5",
                                          "x",
                                          " 5",
                                          "5 ",
                                          "5,6",
                                          "1e7",
                                          "nan",
                                          "inf",
                                          "uniform:",
                                          "uniform:5",
                                          "uniform:5-",
                                          "uniform:6-5",
                                          "uniform:0-4",
                                          "uniform:1.5-4",
                                          "lognormal:5",
                                          "lognormal:5,-1",
                                          "lognormal:0,1",
                                          "exp:",
                                          "exp:0",
                                          "exp:5x",
                                          "normal:5",
                                          "uniform:1--4"};
    for (size_t i = 0; i < ARRAY_COUNT(lengths); i++) refuse_length(lengths[i]);
    struct eval_throughput_options options = some_load();
    assert_int_equal(eval_throughput_check(&options, NULL), ST_OK);
    options.requests = 0;
    refuse(options, "0 requests");
    options = some_load();
    options.turns = 41;
    refuse(options, "41 turns");
    options = some_load();
    options.shared_prefixes = 0;
    refuse(options, "0 shared prefixes");
    options = some_load();
    options.think_s = -1;
    refuse(options, "think time");
    options = some_load();
    options.concurrency_count = 0;
    refuse(options, "either a list");
    const double rates[] = {1, 0};
    options.rate = rates;
    options.rate_count = 2;
    refuse(options, "rate of 0");
    options = some_load();
    options.rate = rates;
    options.rate_count = 1;
    refuse(options, "either a list");
    options = some_load();
    options.concurrency = (const uint32_t[]){0};
    refuse(options, "concurrency of 0");
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Least, mean, median and most of 20,000 prompts of a length. */
static void lengths_of(const char *text, double out[4])
{
    struct eval_throughput_options options = some_load();
    struct load load;
    static double values[20000];
    double sum = 0;
    options.requests = ARRAY_COUNT(values);
    options.prompt_tokens = text;
    assert_int_equal(load_init(&load, &options, NULL), ST_OK);
    for (size_t i = 0; i < ARRAY_COUNT(values); i++) sum += values[i] = load.requests[i].fresh;
    load_release(&load);
    qsort(values, ARRAY_COUNT(values), sizeof *values, ascending);
    out[0] = values[0];
    out[1] = sum / ARRAY_COUNT(values);
    out[2] = values[ARRAY_COUNT(values) / 2];
    out[3] = values[ARRAY_COUNT(values) - 1];
}

static void test_lengths(void **state)
{
    (void)state;
    double of[4];
    lengths_of("125", of);
    assert_true(of[0] == 125 && of[3] == 125);
    lengths_of("uniform:50-950", of);
    assert_true(of[0] == 50 && of[3] == 950);
    assert_true(fabs(of[1] - 500) < 10 && fabs(of[2] - 500) < 15);
    lengths_of("lognormal:200,0.5", of);
    assert_true(fabs(of[2] - 200) < 6);
    assert_true(fabs(of[1] - 200 * exp(0.125)) < 6); /* the mean of that distribution */
    lengths_of("exp:100", of);
    assert_true(of[0] == 1 && fabs(of[1] - 100) < 3 && fabs(of[2] - 100 * log(2)) < 3);
    lengths_of("lognormal:1000,10", of);
    assert_true(of[0] == 1 && of[3] == 1048576); /* cut at both ends */
}

/* ---- the load on a clock of its own -------------------------------------------------------------------------------- */

/* An engine of which each step takes some time and gives a token to at most `batch` requests, the oldest first. */
struct simulation {
    struct load *load;
    struct random random;
    double now;
    uint32_t flights[200], batch, most;
};

static void simulate_step(struct simulation *s)
{
    struct load *load = s->load;
    uint32_t count = load->in_flight, kept = 0;
    s->now += 0.001 + 0.02 * random_unit(&s->random);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t request = s->flights[i];
        struct load_request *r = &load->requests[request];
        if (i < s->batch) load_delivered(load, request, 1, s->now);
        if (r->received == r->output)
            load_ended(load, request, false, s->now);
        else
            s->flights[kept++] = request;
    }
}

static void simulate(struct simulation *s)
{
    struct load *load = s->load;
    double next_s;
    while (!load_over(load)) {
        for (uint32_t request; (request = load_due(load, s->now, &next_s)) != LOAD_NONE;) {
            struct load_request *r = &load->requests[request];
            assert_int_equal(r->state, LOAD_IN_FLIGHT);
            assert_true(r->due_s <= s->now);
            assert_true(request % load->options->turns == 0 || load->requests[request - 1].state == LOAD_DONE);
            s->flights[load->in_flight - 1] = request;
        }
        assert_true(next_s > s->now);
        if (load->in_flight > s->most) s->most = load->in_flight;
        if (load->in_flight) {
            simulate_step(s);
        } else {
            assert_true(isfinite(next_s)); /* else it would wait for ever */
            s->now = next_s;
        }
    }
    assert_int_equal(load->in_flight, 0);
}

static void check_records(const struct load *load)
{
    uint64_t received = 0;
    for (uint32_t i = 0; i < load->options->requests; i++) {
        const struct load_request *r = &load->requests[i];
        assert_int_equal(r->state, LOAD_DONE);
        assert_int_equal(r->received, r->output);
        assert_true(r->due_s <= r->first_s && r->first_s <= r->last_s);
        received += r->received;
        if (i % load->options->turns == 0) continue;
        assert_true(r->due_s == r[-1].last_s + load->options->think_s);
        assert_int_equal(r->prompt, r[-1].prompt + r[-1].output + r->fresh);
    }
    assert_int_equal(received, load->received);
    assert_int_equal(received, load->output_tokens);
    assert_int_equal(load->gap_count, received - load->options->requests);
}

static void test_closed_loop(void **state)
{
    (void)state;
    for (uint32_t run = 0; run < test_count(40, 1000); run++) {
        struct random random;
        struct load load;
        random_seed(&random, run);
        struct eval_throughput_options options = some_load();
        uint32_t levels[] = {1, 1 + (uint32_t)random_below(&random, 50)};
        options.seed = run;
        options.requests = 1 + (uint32_t)random_below(&random, 150);
        options.turns = 1 + (uint32_t)random_below(&random, options.requests < 6 ? options.requests : 6);
        options.think_s = run % 2 ? 0.05 * random_unit(&random) : 0;
        options.concurrency = levels;
        options.concurrency_count = 2;
        assert_int_equal(load_init(&load, &options, NULL), ST_OK);
        for (size_t level = 0; level < 2; level++) {
            struct simulation s = {.load = &load, .random = random, .batch = 1 + run % 7};
            load_begin(&load, level);
            simulate(&s);
            check_records(&load);
            assert_true(s.most <= levels[level]);
            if (options.think_s == 0) /* as many as there can be */
                assert_int_equal(s.most, levels[level] < load.conversations ? levels[level] : load.conversations);
        }
        load_release(&load);
    }
}

static void test_open_loop(void **state)
{
    (void)state;
    struct eval_throughput_options options = some_load();
    const double rates[] = {2, 200};
    struct load load, same, other;
    options.requests = 200;
    options.turns = 2;
    options.concurrency_count = 0;
    options.rate = rates;
    options.rate_count = 2;
    assert_int_equal(load_init(&load, &options, NULL), ST_OK);
    assert_int_equal(load_init(&same, &options, NULL), ST_OK);
    struct eval_throughput_options other_options = options;
    other_options.seed++;
    assert_int_equal(load_init(&other, &other_options, NULL), ST_OK);
    assert_memory_equal(load.arrivals, same.arrivals, load.conversations * sizeof *load.arrivals);
    assert_memory_equal(load.requests, same.requests, options.requests * sizeof *load.requests);
    assert_memory_not_equal(load.arrivals, other.arrivals, load.conversations * sizeof *load.arrivals);
    assert_memory_not_equal(load.requests, other.requests, options.requests * sizeof *load.requests);
    uint32_t most[2];
    for (size_t level = 0; level < 2; level++) {
        struct simulation s = {.load = &load, .batch = 200};
        random_seed(&s.random, 1);
        load_begin(&load, level);
        simulate(&s);
        check_records(&load);
        most[level] = s.most;
        for (uint32_t c = 0; c < load.conversations; c++) /* two requests each: half as many conversations a second */
            assert_true(load.requests[2 * c].due_s == load.arrivals[c] / (rates[level] / 2));
    }
    assert_true(most[0] < 10 && most[1] > 2 * most[0]); /* they come whether others have ended or not */
    double mean = load.arrivals[load.conversations - 1] / load.conversations;
    assert_true(mean > 0.7 && mean < 1.4);
    load_release(&load);
    load_release(&same);
    load_release(&other);
}

/* The turns after a failed one cannot be asked; the conversation's place is free. */
static void test_failed_turns(void **state)
{
    (void)state;
    struct eval_throughput_options options = some_load();
    struct load load;
    double next_s;
    options.requests = 7;
    options.turns = 3;
    options.concurrency = (const uint32_t[]){1};
    assert_int_equal(load_init(&load, &options, NULL), ST_OK);
    load_begin(&load, 0);
    assert_int_equal(load_due(&load, 1, &next_s), 0);
    assert_int_equal(load_due(&load, 1, &next_s), LOAD_NONE);
    assert_true(next_s == INFINITY);
    load_delivered(&load, 0, load.requests[0].output, 2);
    load_ended(&load, 0, false, 2);
    assert_int_equal(load_due(&load, 2, &next_s), 1);
    load_ended(&load, 1, true, 3);
    assert_int_equal(load.ended, 3);
    assert_int_equal(load.requests[2].state, LOAD_FAILED);
    assert_int_equal(load_due(&load, 3, &next_s), 3);
    load_ended(&load, 3, true, 4);
    assert_int_equal(load_due(&load, 4, &next_s), 6);
    load_cut(&load);
    assert_int_equal(load.requests[6].state, LOAD_CUT);
    struct throughput_level level = {0};
    assert_int_equal(figures_take(&load, 4, &level, NULL), ST_OK);
    assert_true(level.requests_done == 1 && level.requests_failed == 5 && level.requests_cut == 1);
    load_release(&load);
}

/* ---- figures -------------------------------------------------------------------------------------------------------- */

static void test_distribution(void **state)
{
    (void)state;
    double values[101], two[] = {3, 1};
    for (int i = 0; i <= 100; i++) values[i] = (i * 37) % 101;
    struct distribution d = distribution_of(values, 101);
    assert_true(d.mean == 50 && d.p50 == 50 && fabs(d.p90 - 90) < 1e-12 && fabs(d.p99 - 99) < 1e-12 && d.max == 100);
    d = distribution_of(two, 2);
    assert_true(d.mean == 2 && d.p50 == 2 && fabs(d.p90 - 2.8) < 1e-12 && d.max == 3);
    d = distribution_of(two, 1);
    assert_true(d.mean == 1 && d.p50 == 1 && d.p99 == 1 && d.max == 1);
    d = distribution_of(two, 0);
    assert_true(isnan(d.mean) && isnan(d.p50) && isnan(d.p99) && isnan(d.max));
}

static void test_figures(void **state)
{
    (void)state;
    struct eval_throughput_options options = some_load();
    struct load load;
    double next_s;
    options.requests = 2;
    options.prompt_tokens = "10";
    options.output_tokens = "4";
    assert_int_equal(load_init(&load, &options, NULL), ST_OK);
    load_begin(&load, 0);
    for (uint32_t i = 0; i < 2; i++) assert_int_equal(load_due(&load, 1, &next_s), i);
    load_delivered(&load, 0, 1, 3);
    load_delivered(&load, 0, 2, 5); /* two tokens in one step: one gap */
    load_delivered(&load, 1, 1, 5);
    load_delivered(&load, 0, 1, 6);
    load_ended(&load, 0, false, 6);
    load_delivered(&load, 1, 3, 9);
    load_ended(&load, 1, false, 9);
    load.requests[1].cached = 5;
    struct throughput_level level = {0};
    assert_int_equal(figures_take(&load, 10, &level, NULL), ST_OK);
    assert_true(level.requests_done == 2 && level.requests_failed == 0 && level.requests_cut == 0);
    assert_true(level.seconds == 10 && level.requests_per_s == 0.2);
    assert_true(level.output_tokens_per_s == 0.8 && level.total_tokens_per_s == 2.8);
    assert_true(level.prefix_hit_rate == 0.25);
    assert_true(level.ttft_s.mean == 3 && level.ttft_s.max == 4);
    assert_true(fabs(level.tpot_s.mean - (1 + 4.0 / 3) / 2) < 1e-12);
    assert_true(fabs(level.itl_s.mean - (2 + 1 + 4) / 3.0) < 1e-12 && level.itl_s.p50 == 2 && level.itl_s.max == 4);
    assert_true(level.e2e_s.mean == 6.5);
    load_release(&load);
}

/* ---- reports --------------------------------------------------------------------------------------------------------- */

static struct throughput_level made_levels[3];

/* Figures that no clock made; one level in which nothing was measured. */
static struct throughput made_up(const struct eval_throughput_options *options)
{
    for (size_t i = 0; i < ARRAY_COUNT(made_levels); i++) {
        double *fields = (double *)(void *)&made_levels[i];
        for (size_t f = 0; f < sizeof *made_levels / sizeof *fields; f++) fields[f] = 1000 * (double)i + (double)f;
        made_levels[i].ttft_s.p50 = 0.125 * (double)(i + 1);
        made_levels[i].at = 4 - (double)i;
    }
    made_levels[2].ttft_s = distribution_of(NULL, 0);
    return (struct throughput){.options = options,
                               .model = {.isa = "ref", .threads = 2},
                               .levels = made_levels,
                               .level_count = ARRAY_COUNT(made_levels)};
}

static void report(enum eval_output output, struct buffer *out)
{
    static struct eval_throughput_options options;
    options = some_load();
    struct throughput throughput = made_up(&options);
    buffer_init(out, 0);
    assert_int_equal(throughput_report(&throughput, output, out, NULL), ST_OK);
}

/* The value of a csv column: "ttft_s_p50" is ttft_s.p50 in JSON. */
static const json_t *json_column(const json_t *level, const char *column)
{
    const json_t *value = json_object_get(level, column);
    const char *part = strrchr(column, '_');
    char whole[64];
    if (value || !part) return value;
    snprintf(whole, sizeof whole, "%.*s", (int)(part - column), column);
    return json_object_get(json_object_get(level, whole), part + 1);
}

static void test_json_and_csv(void **state)
{
    (void)state;
    struct buffer json, csv;
    report(EVAL_JSON, &json);
    report(EVAL_CSV, &csv);
    json_t *root = json_loads(json.data, 0, NULL), *levels = json_object_get(root, "levels");
    assert_int_equal(json_array_size(levels), ARRAY_COUNT(made_levels));
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "load"), "prompt_tokens")),
                        "uniform:3-30");
    char *columns[64], *rest = csv.data, *line = strsep(&rest, "\n");
    size_t count = 0;
    for (char *column; (column = strsep(&line, ","));) columns[count++] = column;
    assert_int_equal(count, sizeof *made_levels / sizeof(double)); /* every field is told */
    assert_string_equal(columns[0], "concurrency");
    for (size_t i = 0; i < ARRAY_COUNT(made_levels); i++) {
        line = strsep(&rest, "\n");
        for (size_t c = 0; c < count; c++) {
            const json_t *value = json_column(json_array_get(levels, i), columns[c]);
            const char *text = strsep(&line, ",");
            if (!value) fail_msg("%s is not in the JSON", columns[c]);
            assert_int_equal(json_is_null(value), *text == 0);
            if (*text)
                assert_true(fabs(json_number_value(value) - strtod(text, NULL)) <= 1e-8 * fabs(strtod(text, NULL)));
        }
        assert_null(line);
    }
    assert_string_equal(rest, "");
    json_decref(root);
    buffer_release(&json);
    buffer_release(&csv);
}

static void test_markdown(void **state)
{
    (void)state;
    struct buffer out;
    report(EVAL_MARKDOWN, &out);
    const char *first = "ref, 2 threads; 40 requests of uniform:3-30 + uniform:1-8 tokens, seed 7\n\n| concurrency |";
    assert_memory_equal(out.data, first, strlen(first));
    assert_non_null(strstr(out.data, "\n| 4 | TTFT | "));
    assert_non_null(strstr(out.data, "\n| 2 | TTFT | - | - | - | - | - |\n"));
    buffer_release(&out);
}

static size_t occurrences(const char *text, const char *what)
{
    size_t count = 0;
    for (const char *p = text; (p = strstr(p, what)); p++) count++;
    return count;
}

static void test_plot(void **state)
{
    (void)state;
    struct eval_throughput_options options = some_load();
    struct throughput throughput = made_up(&options);
    for (size_t count = 0; count <= 3; count += 1 + (count == 1)) { /* 0, 1, 3 levels */
        struct buffer out;
        buffer_init(&out, 0);
        throughput.level_count = count;
        assert_int_equal(throughput_plot(&throughput, &out, NULL), ST_OK);
        assert_memory_equal(out.data, "<svg ", 5);
        assert_non_null(strstr(out.data, "prefers-color-scheme: dark"));
        assert_null(strstr(out.data, "nan"));
        assert_null(strstr(out.data, "inf"));
        assert_int_equal(occurrences(out.data, "<polyline"), count ? 3 : 0);
        assert_int_equal(occurrences(out.data, "<circle"), count == 3 ? 7 : 3 * count); /* level 2 has no TTFT */
        assert_int_equal(occurrences(out.data, "<text") + occurrences(out.data, "<title>"),
                         occurrences(out.data, "</text>") + occurrences(out.data, "</title>"));
        if (count == 3) { /* sorted by level, which falls here */
            double x[2], y;
            const char *points = strstr(out.data, "points=\"");
            assert_int_equal(sscanf(points, "points=\"%lf,%lf %lf", &x[0], &y, &x[1]), 3);
            assert_true(x[0] < x[1]);
        }
        buffer_release(&out);
    }
}

/* ---- a tiny model ----------------------------------------------------------------------------------------------------- */

static json_t *serve(const struct eval_throughput_options *options)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    if (eval_throughput(model, options, EVAL_JSON, &out, NULL, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *root = json_loads(out.data, 0, NULL);
    assert_non_null(root);
    buffer_release(&out);
    return root;
}

static double figure(const json_t *root, size_t level, const char *key)
{
    const json_t *value = json_object_get(json_array_get(json_object_get(root, "levels"), level), key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static double load_figure(const json_t *root, const char *key)
{
    return json_number_value(json_object_get(json_object_get(root, "load"), key));
}

static void check_served(const json_t *root, size_t level, const struct eval_throughput_options *options)
{
    double seconds = figure(root, level, "seconds");
    assert_true(figure(root, level, "requests_done") == options->requests);
    assert_true(figure(root, level, "requests_failed") == 0 && figure(root, level, "requests_cut") == 0);
    assert_true(fabs(figure(root, level, "output_tokens_per_s") * seconds - load_figure(root, "output_tokens_total")) <
                1e-3);
    assert_true(fabs(figure(root, level, "total_tokens_per_s") * seconds - load_figure(root, "output_tokens_total") -
                     load_figure(root, "prompt_tokens_total")) < 1e-3);
    assert_true(figure(root, level, "kv_use_peak") > 0 && figure(root, level, "kv_use_peak") <= 1);
    assert_true(figure(root, level, "kv_use_mean") <= figure(root, level, "kv_use_peak"));
}

static void test_serves(void **state)
{
    (void)state;
    const uint32_t levels[] = {1, 7};
    struct eval_throughput_options options = some_load();
    options.concurrency = levels;
    options.concurrency_count = 2;
    options.engine.kv_cache_bytes = 1 << 20;
    json_t *root = serve(&options);
    for (size_t level = 0; level < 2; level++) {
        check_served(root, level, &options);
        assert_true(figure(root, level, "prefix_hit_rate") < 0.1); /* random prompts, and a new cache for each level */
    }
    json_decref(root);
    options.engine.no_kv_cache = true;
    options.engine.kv_cache_bytes = 0;
    root = serve(&options);
    assert_true(figure(root, 1, "requests_done") == options.requests);
    json_decref(root);
}

/* How many of the prefixes any conversation takes. */
static uint32_t prefixes_taken(const struct eval_throughput_options *options)
{
    struct load load;
    uint64_t taken = 0;
    assert_int_equal(load_init(&load, options, NULL), ST_OK);
    for (uint32_t c = 0; c < load.conversations; c++) taken |= (uint64_t)1 << load.prefixes[c];
    load_release(&load);
    return (uint32_t)__builtin_popcountll(taken);
}

static void test_shared_prefixes(void **state)
{
    (void)state;
    struct eval_throughput_options options = some_load();
    options.shared_prefix = 300;
    options.concurrency = (const uint32_t[]){1};
    for (uint32_t prefixes = 1; prefixes <= 8; prefixes += 7) {
        options.shared_prefixes = prefixes;
        json_t *root = serve(&options);
        check_served(root, 0, &options);
        double missed = (1 - figure(root, 0, "prefix_hit_rate")) * load_figure(root, "prompt_tokens_total");
        double own = load_figure(root, "prompt_tokens_total") - 300 * 40;
        /* One at a time each prefix is computed once, and some first tokens of the prompts behind may agree. */
        assert_true(fabs(missed - own - 300 * prefixes_taken(&options)) < 40);
        json_decref(root);
    }
}

static void test_conversations(void **state)
{
    (void)state;
    const double rates[] = {300};
    struct eval_throughput_options options = some_load();
    options.turns = 5;
    options.think_s = 0.002;
    for (int open = 0; open < 2; open++) {
        if (open) options.concurrency_count = 0;
        options.rate = rates;
        options.rate_count = (size_t)open;
        json_t *root = serve(&options);
        check_served(root, 0, &options);
        assert_true(figure(root, 0, "prefix_hit_rate") >
                    0.5); /* answers are found too: what is new are 16 tokens a turn */
        json_decref(root);
    }
}

/* The engine's queue holds 4096: what it refuses is told, and everybody else is served. */
static void test_refused_by_engine(void **state)
{
    (void)state;
    struct eval_throughput_options options = some_load();
    log_set_level(LOG_ERROR);
    options.requests = 4200;
    options.prompt_tokens = options.output_tokens = "1";
    options.concurrency = (const uint32_t[]){5000};
    json_t *root = serve(&options);
    log_set_level(LOG_WARNING);
    double failed = figure(root, 0, "requests_failed");
    assert_true(failed > 0 && failed < 200);
    assert_true(figure(root, 0, "requests_done") + failed == 4200);
    json_decref(root);
}

static bool stop_soon(void *data)
{
    return ++*(int *)data > 12;
}

static void test_stopped(void **state)
{
    (void)state;
    int asked = 0;
    struct eval_throughput_options options = some_load();
    options.concurrency = (const uint32_t[]){3, 4};
    options.concurrency_count = 2;
    options.stop = stop_soon;
    options.data = &asked;
    json_t *root = serve(&options);
    assert_int_equal(json_array_size(json_object_get(root, "levels")), 1);
    assert_true(figure(root, 0, "requests_cut") == 3);
    assert_true(figure(root, 0, "requests_done") > 0 && figure(root, 0, "requests_done") < 37);
    assert_true(figure(root, 0, "requests_failed") == 0);
    json_decref(root);
}

static void test_context_that_does_not_fit(void **state)
{
    (void)state;
    struct buffer out;
    struct error error = {0};
    struct eval_throughput_options options = some_load();
    options.engine.kv_cache_bytes = 1 << 10;
    buffer_init(&out, 0);
    assert_int_equal(eval_throughput(model, &options, EVAL_JSON, &out, NULL, &error), ST_LIMIT);
    assert_non_null(strstr(error.text, "stated budget"));
    assert_int_equal(out.length, 0);
    buffer_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_closed_loop),   cmocka_unit_test(test_open_loop),
        cmocka_unit_test(test_failed_turns),  cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_figures),       cmocka_unit_test(test_json_and_csv),
        cmocka_unit_test(test_markdown),      cmocka_unit_test(test_plot),
        cmocka_unit_test(test_serves),        cmocka_unit_test(test_shared_prefixes),
        cmocka_unit_test(test_conversations), cmocka_unit_test(test_refused_by_engine),
        cmocka_unit_test(test_stopped),       cmocka_unit_test(test_context_that_does_not_fit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
