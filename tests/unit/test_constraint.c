/* test_constraint.c - the set of tokens that may come next, against its definition; and what is refused. */
#include "engine/constraint.h"
#include "support.h"
#include <math.h>

#define VOCABULARY_MAX 200u
#define WORDS 6u

struct random_case {
    uint32_t vocabulary, min_tokens;
    uint32_t allowed[VOCABULARY_MAX], ids[WORDS][4], ends[3];
    struct kvasir_bad_word words[WORDS];
    struct kvasir_logit_bias bias[3];
    struct kvasir_sampling sampling;
    size_t end_count;
};

/* Few different ids, so that words overlap, hold each other and meet the ends. */
static void make_case(struct random *random, struct random_case *out)
{
    *out = (struct random_case){.vocabulary =
                                    1 + (uint32_t)random_below(random, random_below(random, 2) ? 5 : VOCABULARY_MAX),
                                .min_tokens = (uint32_t)random_below(random, 6)};
    uint32_t range = out->vocabulary < 5 ? out->vocabulary : 5;
    struct kvasir_sampling *s = &out->sampling;
    if (random_below(random, 2)) {
        s->allowed_ids = out->allowed;
        s->allowed_id_count = 1 + random_below(random, out->vocabulary);
        for (size_t i = 0; i < s->allowed_id_count; i++)
            out->allowed[i] = (uint32_t)random_below(random, out->vocabulary);
    }
    s->bad_words = out->words;
    s->bad_word_count = random_below(random, WORDS + 1);
    for (size_t w = 0; w < s->bad_word_count; w++) {
        out->words[w] = (struct kvasir_bad_word){out->ids[w], 1 + random_below(random, 4)};
        for (size_t t = 0; t < 4; t++) out->ids[w][t] = (uint32_t)random_below(random, range);
    }
    s->bias = out->bias;
    s->bias_count = random_below(random, 4);
    for (size_t i = 0; i < s->bias_count; i++)
        out->bias[i] =
            (struct kvasir_logit_bias){(uint32_t)random_below(random, range), random_below(random, 2) ? -INFINITY : -5};
    out->end_count = random_below(random, 4);
    for (size_t i = 0; i < out->end_count; i++) out->ends[i] = (uint32_t)random_below(random, range);
}

/* Whether `id` may follow the answer. */
static bool define(const struct random_case *c, const uint32_t *answer, uint32_t count, uint32_t id)
{
    const struct kvasir_sampling *s = &c->sampling;
    bool may = !s->allowed_ids;
    for (size_t i = 0; i < s->allowed_id_count; i++) may |= s->allowed_ids[i] == id;
    for (size_t i = 0; i < s->bias_count; i++) may &= !(s->bias[i].id == id && s->bias[i].bias == -INFINITY);
    for (size_t i = 0; i < c->end_count && count < c->min_tokens; i++) may &= c->ends[i] != id;
    for (size_t w = 0; w < s->bad_word_count; w++) {
        bool match = s->bad_words[w].count <= count + 1 && s->bad_words[w].ids[s->bad_words[w].count - 1] == id;
        for (size_t back = 1; match && back < s->bad_words[w].count; back++)
            match = answer[count - back] == s->bad_words[w].ids[s->bad_words[w].count - 1 - back];
        may &= !match;
    }
    return may;
}

static void check_set(const struct random_case *c, const uint64_t *set, const uint32_t *answer, uint32_t count)
{
    uint32_t bits = (c->vocabulary + 63) / 64 * 64;
    for (uint32_t id = 0; id < bits; id++) {
        bool expected = id < c->vocabulary && define(c, answer, count, id);
        bool got = set ? set[id / 64] >> id % 64 & 1 : id < c->vocabulary;
        if (got != expected) fail_msg("token %u after %u tokens: %d", id, count, got);
    }
}

static void test_sets(void **state)
{
    (void)state;
    struct random random;
    uint32_t refused = 0, free_choices = 0, cases = test_count(2000, 100000);
    random_seed(&random, 12);
    for (uint32_t i = 0; i < cases; i++) {
        struct random_case c;
        struct constraint constraint;
        uint32_t answer[12], any = 0;
        make_case(&random, &c);
        for (uint32_t id = 0; id < c.vocabulary; id++) any += define(&c, NULL, 0, id);
        enum status status =
            constraint_init(&constraint, &c.sampling, c.vocabulary, c.ends, c.end_count, c.min_tokens, NULL, NULL);
        assert_int_equal(status, any ? ST_OK : ST_INVALID);
        refused += !any;
        if (!any) continue;
        struct random_case copied = c; /* what was given is no longer read */
        memset(c.ids, 0xff, sizeof c.ids);
        memset(c.allowed, 0xff, sizeof c.allowed);
        copied.sampling.bias = copied.bias;
        copied.sampling.allowed_ids = c.sampling.allowed_ids ? copied.allowed : NULL;
        copied.sampling.bad_words = copied.words;
        for (size_t w = 0; w < WORDS; w++) copied.words[w].ids = copied.ids[w];
        for (uint32_t t = 0; t < 12; t++)
            answer[t] = (uint32_t)random_below(&random, c.vocabulary < 5 ? c.vocabulary : 5);
        for (uint32_t ask = 0; ask < 20; ask++) { /* in any order: an answer is a function of its tokens */
            uint32_t count = ask < 12 ? ask : (uint32_t)random_below(&random, 13);
            const uint64_t *set = constraint_allowed(&constraint, answer, count);
            free_choices += !set;
            check_set(&copied, set, answer, count);
        }
        constraint_release(&constraint);
    }
    assert_true(refused > cases / 50 && free_choices > cases / 50); /* both happen */
}

static void refuse(struct kvasir_sampling sampling, const char *why)
{
    struct constraint constraint;
    struct error error = {0};
    const uint32_t end = 3;
    assert_int_equal(constraint_init(&constraint, &sampling, 10, &end, 1, 2, NULL, &error), ST_INVALID);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    assert_null(constraint.allowed);
}

static void test_refused(void **state)
{
    (void)state;
    static const uint32_t ids[BAD_WORD_TOKENS_MAX + 1] = {3, 10};
    const struct kvasir_bad_word empty = {ids, 0}, null = {NULL, 2}, outside = {ids, 2}, three = {ids, 1};
    const struct kvasir_bad_word full = {ids + 2, BAD_WORD_TOKENS_MAX + 1}, zero = {ids + 2, 1};
    const uint32_t two[] = {0, 3};
    refuse((struct kvasir_sampling){.allowed_ids = ids}, "allowed_ids has 0");
    refuse((struct kvasir_sampling){.allowed_id_count = 1}, "allowed_ids has 1");
    refuse((struct kvasir_sampling){.allowed_ids = ids, .allowed_id_count = 11}, "allowed_ids has 11");
    refuse((struct kvasir_sampling){.allowed_ids = ids, .allowed_id_count = 2}, "token 10");
    refuse((struct kvasir_sampling){.bad_words = &empty, .bad_word_count = 1}, "0 tokens");
    refuse((struct kvasir_sampling){.bad_words = &null, .bad_word_count = 1}, "bad word 0");
    refuse((struct kvasir_sampling){.bad_words = &full, .bad_word_count = 1}, "257 tokens");
    refuse((struct kvasir_sampling){.bad_words = &outside, .bad_word_count = 1}, "token 10");
    refuse((struct kvasir_sampling){.bad_words = &three, .bad_word_count = BAD_WORDS_MAX + 1}, "1025 entries");
    refuse((struct kvasir_sampling){.bad_word_count = 1}, "bad_words has 1");
    /* Token 3 alone is left, and it ends the answer. */
    refuse((struct kvasir_sampling){.allowed_ids = ids, .allowed_id_count = 1}, "min_tokens");
    refuse((struct kvasir_sampling){.allowed_ids = two, .allowed_id_count = 2, .bad_words = &zero, .bad_word_count = 1},
           "no token can be chosen");
    struct kvasir_logit_bias never[10];
    for (uint32_t i = 0; i < 10; i++) never[i] = (struct kvasir_logit_bias){i, -INFINITY};
    refuse((struct kvasir_sampling){.bias = never, .bias_count = 10}, "no token can be chosen");
    refuse((struct kvasir_sampling){.bias = never + 1, .bias_count = 9, .bad_words = &zero, .bad_word_count = 1},
           "no token can be chosen");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sets), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
