/* test_sampler.c - the sampler against its definition: a plain one here sorts the whole vocabulary in doubles. Both are
 * given the same random number, so they must choose the same token; and frequencies are compared with probabilities. */
#include "engine/sampler.h"
#include "support.h"
#include <float.h>
#include <math.h>

/* ---- the definition ---------------------------------------------------------------------------------------------- */

struct item {
    double key, p;
    uint32_t id;
};

static int by_key(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static void normalise(struct item *items, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += items[i].p;
    for (uint32_t i = 0; i < count; i++) items[i].p /= sum;
}

/* The shortest beginning by key whose probability reaches p. */
static uint32_t reach(struct item *items, uint32_t count, double p)
{
    double sum = 0;
    uint32_t kept = 0;
    qsort(items, count, sizeof *items, by_key);
    while (kept < count && sum < p) sum += items[kept++].p;
    normalise(items, kept);
    return kept;
}

/* The distribution after all filters; returns how many tokens are left, by id. */
static uint32_t define(const struct kvasir_sampling *s, const float *logits, uint32_t count, struct item *items)
{
    double best = -INFINITY, most = 0, entropy = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++)
        if ((double)logits[i] > best) best = (double)logits[i];
    for (uint32_t i = 0; i < count; i++) {
        if (!(logits[i] > -INFINITY)) continue;
        items[kept++] = (struct item){(double)logits[i], exp(((double)logits[i] - best) / (double)s->temperature), i};
    }
    qsort(items, kept, sizeof *items, by_key);
    if (s->top_k && s->top_k < kept) kept = s->top_k;
    normalise(items, kept);
    if (s->typical_p > 0 && s->typical_p < 1) {
        for (uint32_t i = 0; i < kept; i++)
            if (items[i].p > 0) entropy -= items[i].p * log(items[i].p);
        for (uint32_t i = 0; i < kept; i++) items[i].key = -fabs(-log(items[i].p) - entropy);
        kept = reach(items, kept, (double)s->typical_p);
    }
    if (s->top_p > 0 && s->top_p < 1) {
        for (uint32_t i = 0; i < kept; i++) items[i].key = items[i].p;
        kept = reach(items, kept, (double)s->top_p);
    }
    for (uint32_t i = 0; i < kept; i++) most = fmax(most, items[i].p);
    uint32_t left = 0;
    for (uint32_t i = 0; i < kept; i++)
        if (items[i].p >= (double)s->min_p * most) items[left++] = items[i];
    normalise(items, left);
    qsort(items, left, sizeof *items, by_id);
    return left;
}

static uint32_t draw(const struct item *items, uint32_t count, double unit)
{
    double sum = 0;
    for (uint32_t i = 0; i + 1 < count; i++) {
        sum += items[i].p;
        if (sum > unit) return items[i].id;
    }
    return items[count - 1].id;
}

/* ---- against the definition -------------------------------------------------------------------------------------- */

static float normal(struct random *random)
{
    double a = random_unit(random) + 1e-300, b = random_unit(random);
    return (float)(sqrt(-2 * log(a)) * cos(2 * 3.14159265358979 * b));
}

static struct kvasir_sampling random_settings(struct random *random, uint32_t vocabulary)
{
    struct kvasir_sampling s = {.temperature = (float)(0.1 + 2 * random_unit(random))};
    if (random_below(random, 2))
        s.top_k = 1 + (uint32_t)random_below(random, random_below(random, 2) ? 300 : vocabulary);
    if (random_below(random, 2)) s.top_p = (float)random_unit(random);
    if (random_below(random, 2)) s.min_p = (float)(random_unit(random) * random_unit(random));
    if (random_below(random, 3) == 0) s.typical_p = (float)random_unit(random);
    return s;
}

static void test_same_choice_as_the_definition(void **state)
{
    (void)state;
    struct random random, stream;
    uint32_t cases = test_count(600, 20000), different = 0;
    random_seed(&random, 7);
    for (uint32_t c = 0; c < cases; c++) {
        uint32_t vocabulary = 1 + (uint32_t)random_below(&random, c % 10 ? 700 : 20000);
        struct sampler sampler;
        struct item *items = malloc(vocabulary * sizeof *items);
        float *logits = malloc(vocabulary * sizeof *logits);
        double spread = 0.5 + 6 * random_unit(&random);
        bool ties = random_below(&random, 4) == 0;
        for (uint32_t i = 0; i < vocabulary; i++) {
            logits[i] = (float)spread * normal(&random);
            if (ties) logits[i] = roundf(logits[i]);
            if (random_below(&random, 50) == 0) logits[i] = -INFINITY;
        }
        logits[random_below(&random, vocabulary)] = 1;
        assert_int_equal(sampler_init(&sampler, vocabulary, NULL), ST_OK);
        struct kvasir_sampling s = random_settings(&random, vocabulary);
        uint32_t left = define(&s, logits, vocabulary, items), token = 0;
        random_seed(&stream, c);
        for (int i = 0; i < 20; i++) {
            struct random same = stream;
            uint32_t expected = draw(items, left, random_unit(&same));
            different += sampler_pick(&sampler, &s, NULL, &stream, logits, &token, 1, 1) != expected;
            assert_memory_equal(&stream, &same, sizeof stream); /* one number a token, no more */
        }
        sampler_release(&sampler);
        free(items);
        free(logits);
    }
    /* Floats against doubles: where a sum comes within rounding of its target one more or one less is kept. */
    print_message("%u of %u choices differ\n", different, cases * 20);
    assert_true(different <= cases * 20 / 500);
}

/* Pearson's chi-square of the counts against the probabilities of the definition. */
static void check_frequencies(const struct kvasir_sampling *s, const float *logits, uint32_t vocabulary)
{
    struct sampler sampler;
    struct random random;
    struct item items[64];
    uint32_t counts[64] = {0}, draws = test_count(20000, 1000000), token = 0;
    assert_int_equal(sampler_init(&sampler, vocabulary, NULL), ST_OK);
    uint32_t left = define(s, logits, vocabulary, items), cells = 0;
    random_seed(&random, 11);
    for (uint32_t i = 0; i < draws; i++) counts[sampler_pick(&sampler, s, NULL, &random, logits, &token, 1, 1)]++;
    double chi = 0, rest = 0, rest_count = 0;
    for (uint32_t i = 0; i < left; i++) {
        double expected = items[i].p * draws, got = counts[items[i].id];
        counts[items[i].id] = 0;
        if (expected < 5) { /* rare ones are one cell */
            rest += expected;
            rest_count += got;
            continue;
        }
        chi += (got - expected) * (got - expected) / expected;
        cells++;
    }
    if (rest > 0) chi += (rest_count - rest) * (rest_count - rest) / rest;
    for (uint32_t i = 0; i < vocabulary; i++) assert_int_equal(counts[i], 0); /* nothing that was filtered */
    /* A chi-square variable has mean `cells` and variance 2 cells: five deviations. */
    assert_true(chi < cells + 5 * sqrt(2.0 * cells) + 10);
    sampler_release(&sampler);
}

static void test_frequencies(void **state)
{
    (void)state;
    float logits[40];
    struct random random;
    random_seed(&random, 3);
    for (int i = 0; i < 40; i++) logits[i] = 2 * normal(&random);
    const struct kvasir_sampling settings[] = {
        {.temperature = 1},
        {.temperature = 0.5f},
        {.temperature = 1, .top_k = 7},
        {.temperature = 1, .top_p = 0.8f},
        {.temperature = 1.5f, .min_p = 0.1f},
        {.temperature = 1, .typical_p = 0.6f},
        {.temperature = 0.8f, .top_k = 20, .top_p = 0.9f, .min_p = 0.02f, .typical_p = 0.95f},
    };
    for (size_t i = 0; i < ARRAY_COUNT(settings); i++) check_frequencies(&settings[i], logits, 40);
}

/* ---- greedy, bias, penalties -------------------------------------------------------------------------------------- */

static uint32_t pick(const struct kvasir_sampling *s, const float *logits, uint32_t vocabulary, const uint32_t *tokens,
                     uint32_t count, uint32_t prompt_count)
{
    struct sampler sampler;
    struct random random;
    random_seed(&random, 1);
    assert_int_equal(sampler_init(&sampler, vocabulary, NULL), ST_OK);
    uint32_t id = sampler_pick(&sampler, s, NULL, &random, logits, tokens, count, prompt_count);
    for (uint32_t i = 0; i < vocabulary; i++) assert_int_equal(sampler.counts[i], 0);
    sampler_release(&sampler);
    return id;
}

static void test_greedy(void **state)
{
    (void)state;
    const struct kvasir_sampling greedy = {0}, first = {.temperature = 3, .top_k = 1};
    const float ties[] = {1, 3, 2, 3}, nan_first[] = {NAN, -5, NAN, -4}, nothing[] = {-INFINITY, NAN, -INFINITY};
    const float infinite[] = {0, INFINITY, 5, INFINITY}, low[] = {-FLT_MAX, -INFINITY, -FLT_MAX / 2};
    assert_int_equal(pick(&greedy, ties, 4, NULL, 0, 0), 1);
    assert_int_equal(pick(&first, ties, 4, NULL, 0, 0), 1);
    assert_int_equal(pick(&greedy, nan_first, 4, NULL, 0, 0), 3);
    assert_int_equal(pick(&first, nan_first, 4, NULL, 0, 0), 3);
    assert_int_equal(pick(&greedy, nothing, 3, NULL, 0, 0), 0);
    assert_int_equal(pick(&first, nothing, 3, NULL, 0, 0), 0);
    assert_int_equal(pick(&greedy, infinite, 4, NULL, 0, 0), 1);
    assert_int_equal(pick(&first, infinite, 4, NULL, 0, 0), 1);
    assert_int_equal(pick(&first, low, 3, NULL, 0, 0), 2);
    const struct kvasir_sampling cold = {.temperature = FLT_MIN, .top_p = 0.999f, .typical_p = 0.999f, .min_p = 1e-9f};
    assert_int_equal(pick(&cold, low, 3, NULL, 0, 0), 2);
    /* Without top-k and typical-p there is no list of all tokens. */
    const struct kvasir_sampling all[] = {{.temperature = FLT_MIN},
                                          {.temperature = FLT_MIN, .top_p = 0.5f},
                                          {.temperature = FLT_MIN, .min_p = 0.5f},
                                          {.temperature = FLT_MIN, .top_p = 0.999f, .min_p = 1e-9f}};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        assert_int_equal(pick(&all[i], nan_first, 4, NULL, 0, 0), 3);
        assert_int_equal(pick(&all[i], nothing, 3, NULL, 0, 0), 0);
        assert_int_equal(pick(&all[i], low, 3, NULL, 0, 0), 2);
        uint32_t id = pick(&all[i], infinite, 4, NULL, 0, 0); /* either of the two */
        assert_true(id == 1 || id == 3);
    }
}

static void test_bias_and_penalties(void **state)
{
    (void)state;
    const float logits[] = {2, 1, -1, 0};
    const struct kvasir_logit_bias up[] = {{2, 3.5f}}, forbid[] = {{0, -INFINITY}};
    const uint32_t tokens[] = {0, 0, 1}; /* the first is the prompt */
    struct kvasir_sampling s = {.bias = up, .bias_count = 1};
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 1), 2);
    s = (struct kvasir_sampling){.bias = forbid, .bias_count = 1};
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 1), 1);
    /* 2 / 2.5 = 0.8, 1 / 2.5 = 0.4: token 0 stays best */
    s = (struct kvasir_sampling){.repetition_penalty = 2.5f};
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 1), 0);
    s.penalty_window = 1; /* only token 1 */
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 1), 0);
    const float close[] = {2, 1.9f, -1, 0};
    s = (struct kvasir_sampling){.repetition_penalty = 2, .penalty_window = 1};
    assert_int_equal(pick(&s, close, 4, tokens, 2, 1), 1); /* token 0 is the last one */
    const float negative[] = {-1, -1.5f};
    s = (struct kvasir_sampling){.repetition_penalty = 2};
    assert_int_equal(pick(&s, negative, 2, tokens, 1, 1), 1); /* -1 * 2 */
    /* Generated: 0 and 1, once each; the prompt's 0 does not count. */
    s = (struct kvasir_sampling){.frequency_penalty = 1.5f};
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 1), 0); /* 0.5, -0.5, -1, 0 */
    assert_int_equal(pick(&s, logits, 4, tokens, 2, 0), 1); /* -1 (0 came twice), 1, -1, 0 */
    s = (struct kvasir_sampling){.presence_penalty = 2.5f};
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 1), 3); /* -0.5, -1.5, -1, 0 */
    s.presence_penalty = -2.5f;
    assert_int_equal(pick(&s, logits, 4, tokens, 3, 2), 1); /* only 1 was generated: 3.5 */
}

/* ---- what is allowed ---------------------------------------------------------------------------------------------- */

/* A set chooses as if the logits of all others had been -inf: the same token, for the same random number. */
static void test_allowed(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 17);
    for (uint32_t c = 0; c < test_count(2000, 50000); c++) {
        enum { MOST = 300 };
        float logits[MOST], cut[MOST];
        uint64_t set[(MOST + 63) / 64] = {0};
        struct sampler sampler;
        uint32_t vocabulary = 1 + (uint32_t)random_below(&random, MOST), left = 0, token = 0;
        double share = random_unit(&random);
        for (uint32_t i = 0; i < vocabulary; i++) {
            bool in = random_unit(&random) < share;
            logits[i] = 2 * normal(&random);
            cut[i] = in ? logits[i] : -INFINITY;
            if (in) set[i / 64] |= 1ull << i % 64;
            left += in;
        }
        struct kvasir_sampling s = random_settings(&random, vocabulary);
        if (c % 3 == 0) s = (struct kvasir_sampling){0};
        if (c % 2) s.repetition_penalty = 1.5f;
        assert_int_equal(sampler_init(&sampler, vocabulary, NULL), ST_OK);
        struct random one, other;
        random_seed(&one, c);
        other = one;
        uint32_t id = sampler_pick(&sampler, &s, set, &one, logits, &token, 1, 0);
        if (left)
            assert_int_equal(id, sampler_pick(&sampler, &s, NULL, &other, cut, &token, 1, 0));
        else
            assert_int_equal(id, SAMPLER_NONE);
        if (left) assert_memory_equal(&one, &other, sizeof one);
        sampler_release(&sampler);
    }
}

/* Nothing that follows brings a forbidden token back. */
static void test_allowed_comes_first(void **state)
{
    (void)state;
    const float logits[] = {5, INFINITY, 1, NAN};
    const uint64_t set = 1u << 2 | 1u << 3, nan_only = 1u << 3;
    const struct kvasir_logit_bias up[] = {{0, 1e6f}, {1, 1e6f}};
    const uint32_t tokens[] = {0, 1, 1};
    struct sampler sampler;
    struct random random;
    random_seed(&random, 1);
    assert_int_equal(sampler_init(&sampler, 4, NULL), ST_OK);
    for (int hot = 0; hot < 2; hot++) {
        struct kvasir_sampling s = {.temperature = (float)hot * 100,
                                    .bias = up,
                                    .bias_count = 2,
                                    .repetition_penalty = 1e-3f,
                                    .frequency_penalty = -100,
                                    .presence_penalty = -100};
        for (int i = 0; i < 100; i++)
            assert_int_equal(sampler_pick(&sampler, &s, &set, &random, logits, tokens, 3, 0), 2);
        assert_int_equal(sampler_pick(&sampler, &s, &nan_only, &random, logits, tokens, 3, 0), SAMPLER_NONE);
    }
    sampler_release(&sampler);
}

/* ---- settings out of range ---------------------------------------------------------------------------------------- */

static void refuse(struct kvasir_sampling s, const char *field)
{
    struct error error = {0};
    assert_int_equal(sampling_check(&s, 10, &error), ST_INVALID);
    if (!strstr(error.text, field)) fail_msg("'%s' does not name %s", error.text, field);
}

static void test_ranges(void **state)
{
    (void)state;
    const struct kvasir_logit_bias outside[] = {{10, 1}}, nan_bias[] = {{1, NAN}}, huge[] = {{1, INFINITY}};
    const struct kvasir_logit_bias fine[] = {{9, -INFINITY}, {0, 100}};
    refuse((struct kvasir_sampling){.temperature = NAN}, "temperature");
    refuse((struct kvasir_sampling){.temperature = -0.1f}, "temperature");
    refuse((struct kvasir_sampling){.temperature = INFINITY}, "temperature");
    refuse((struct kvasir_sampling){.top_p = 1.1f}, "top_p");
    refuse((struct kvasir_sampling){.min_p = -1}, "min_p");
    refuse((struct kvasir_sampling){.typical_p = NAN}, "typical_p");
    refuse((struct kvasir_sampling){.repetition_penalty = -1}, "repetition_penalty");
    refuse((struct kvasir_sampling){.frequency_penalty = 1e9f}, "frequency_penalty");
    refuse((struct kvasir_sampling){.presence_penalty = -INFINITY}, "presence_penalty");
    refuse((struct kvasir_sampling){.bias = outside, .bias_count = 1}, "token 10");
    refuse((struct kvasir_sampling){.bias = nan_bias, .bias_count = 1}, "logit_bias");
    refuse((struct kvasir_sampling){.bias = huge, .bias_count = 1}, "logit_bias");
    refuse((struct kvasir_sampling){.bias = fine, .bias_count = 11}, "logit_bias");
    const struct kvasir_sampling good = {.temperature = 2, .top_p = 1, .bias = fine, .bias_count = 2};
    assert_int_equal(sampling_check(&good, 10, NULL), ST_OK);
}

/* ---- logprobs ------------------------------------------------------------------------------------------------------ */

static void test_top(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 5);
    for (uint32_t c = 0; c < test_count(300, 5000); c++) {
        uint32_t count = 1 + (uint32_t)random_below(&random, 400), most = (uint32_t)random_below(&random, 129);
        float logits[400];
        struct item items[400];
        struct kvasir_logprob top[128];
        for (uint32_t i = 0; i < count; i++) {
            logits[i] = roundf(3 * normal(&random));
            if (random_below(&random, 20) == 0) logits[i] = random_below(&random, 2) ? NAN : -INFINITY;
            items[i] = (struct item){.key = (double)logit_clean(logits[i]), .id = i};
        }
        qsort(items, count, sizeof *items, by_key);
        uint32_t found = logits_top(logits, count, most, top);
        assert_int_equal(found, most < count ? most : count);
        for (uint32_t i = 0; i < found; i++) {
            assert_int_equal(top[i].id, items[i].id);
            assert_true((double)top[i].logprob == items[i].key);
        }
    }
}

static void test_exp(void **state)
{
    (void)state;
    float x[64], e[64];
    const float edges[] = {0, -87, -87.01f, -1e30f, -INFINITY, NAN, -0.3465736f, -1e-30f};
    for (uint32_t c = 0; c < test_count(20000, 1000000); c++) {
        for (uint32_t i = 0; i < 64; i++)
            x[i] = -86.99f * (float)(c * 64 + i) / (float)(test_count(20000, 1000000) * 64); /* -87 gives 0 */
        exp_row(x, 64, e);
        for (uint32_t i = 0; i < 64; i++)
            if (fabs((double)e[i] / exp((double)x[i]) - 1) > 3e-7)
                fail_msg("e^%.9g = %.9g", (double)x[i], (double)e[i]);
    }
    exp_row(edges, 8, e);
    assert_true(e[0] == 1 && e[2] == 0 && e[3] == 0 && e[4] == 0 && e[5] == 0 && e[7] == 1);
}

static void test_log_sum(void **state)
{
    (void)state;
    const float logits[] = {1000, 1000, -INFINITY, NAN}, nothing[] = {-INFINITY, NAN}, infinite[] = {INFINITY, 3};
    assert_true(fabs(logits_log_sum(logits, 4) - (1000 + log(2))) < 1e-9);
    assert_true(fabsf(logits_logprob(1000, logits_log_sum(logits, 4)) + logf(2)) < 1e-6f);
    assert_true(logits_logprob(-INFINITY, logits_log_sum(logits, 4)) == -INFINITY);
    assert_true(logits_logprob(nothing[0], logits_log_sum(nothing, 2)) == -INFINITY);
    assert_true(logits_logprob(infinite[0], logits_log_sum(infinite, 2)) == 0);
    assert_true(logits_logprob(infinite[1], logits_log_sum(infinite, 2)) < -1e38f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_choice_as_the_definition),
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_bias_and_penalties),
        cmocka_unit_test(test_allowed),
        cmocka_unit_test(test_allowed_comes_first),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_top),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_log_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
