/* test_draft.c - what prompt lookup drafts, and when it is worth a try. */
#include "engine/engine_internal.h"
#include "support.h"

static void check(const uint32_t *tokens, uint32_t count, uint32_t most, const uint32_t *wanted, uint32_t wanted_count)
{
    uint32_t out[DRAFT_TOKENS_MAX];
    assert_int_equal(draft_find(tokens, count, most, out), wanted_count);
    assert_memory_equal(out, wanted, wanted_count * sizeof *out);
}

static void test_find(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {5, 1, 2, 3, 4, 9, 2, 3, 7, 8, 1, 2, 3};
    check(tokens, 13, 4, tokens + 4, 4);  /* three in common beat two later ones */
    check(tokens, 13, 16, tokens + 4, 9); /* to the end of what there is */
    check(tokens, 8, 3, tokens + 4, 3);   /* 2 3 */
    check(tokens, 12, 1, tokens + 3, 1);  /* 1 2 */
    check(tokens, 11, 4, NULL, 0);        /* 8 1 never was */
    check(tokens, 2, 4, NULL, 0);
    static const uint32_t again[] = {1, 2, 6, 1, 2, 7, 1, 2};
    check(again, 8, 1, again + 5, 1); /* of equal ones the latest */
    static const uint32_t same[] = {4, 4, 4, 4};
    check(same, 4, 8, same, 1); /* overlapping */
    check(same, 3, 8, same, 1);
    check(same, 1, 8, NULL, 0);
}

static struct cost cost_of(double fixed_s, double row_s)
{
    struct cost cost = {.fixed_s = fixed_s, .unit_s = row_s};
    for (uint32_t i = 1; i <= COST_ROWS; i++) cost_measure_rows(&cost, i, fixed_s + row_s * i);
    return cost;
}

static void test_worthwhile(void **state)
{
    (void)state;
    const struct cost memory = cost_of(0.010, 0.0005), arithmetic = cost_of(0.0, 0.002);
    struct draft draft;
    draft_init(&draft);
    assert_true(draft_worthwhile(&draft, &memory, 1, 1, 8) > 0); /* a guess that costs little */
    assert_int_equal(draft_worthwhile(&draft, &arithmetic, 16, 16, 8), 0);
    for (int i = 0; i < 50; i++) draft_verified(&draft, 4, 4);
    assert_int_equal(draft_worthwhile(&draft, &memory, 1, 1, 8), 8);
    assert_int_equal(draft_worthwhile(&draft, &arithmetic, 16, 16, 8), 0); /* never more than a row's own time */
    for (int i = 0; i < 50; i++) draft_verified(&draft, 4, 0);
    assert_int_equal(draft_worthwhile(&draft, &memory, 1, 1, 8), 0);
    uint32_t waited = 0;
    while (draft_worthwhile(&draft, &memory, 1, 1, 8) == 0 && waited < 1000) waited++;
    assert_true(waited > 5 && waited < 200); /* it is tried again some day */
    assert_int_equal(draft.right, 200);
    assert_int_equal(draft.drafted, 400);
}

static void test_cost(void **state)
{
    (void)state;
    struct cost cost = {.key_units = 0.001, .logits_units = 1};
    assert_int_equal(cost_tokens(&cost, 0, 0), 0);
    assert_int_equal(cost_tokens(&cost, -1, 0), 0);
    assert_true(cost_tokens(&cost, 1e300, 0) >= 1000000000u);
    for (uint32_t depth = 0; depth < 20000; depth += 777)
        for (uint32_t count = 1; count < 600; count += 97) {
            double units = cost_units(&cost, depth, count);
            assert_in_range(cost_tokens(&cost, units * 1.0000001, depth), count, count);
            assert_in_range(cost_tokens(&cost, units * 0.9999999, depth), count - 1, count - 1);
        }
    for (int i = 0; i < 60; i++) { /* 8 ms and 1 ms a unit */
        cost_measure(&cost, 200, 0.208);
        cost_measure(&cost, 4, 0.012);
    }
    assert_true(cost_seconds(&cost, 100) > 0.107 && cost_seconds(&cost, 100) < 0.109);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_find), cmocka_unit_test(test_worthwhile),
                                       cmocka_unit_test(test_cost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
