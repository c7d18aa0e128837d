/* test_index.c - the index for retrieval: what its entries hold, and the estimate of every instruction set this machine runs, against
 * exact shares and against each other; a single key that a head looks for is found among its neighbours; dimensions and groups of
 * heads of all kinds, entries that lie anywhere. */
#include "kernel/kernel.h"
#include "support.h"

#include <math.h>
#include <string.h>

enum { GROUPS = 75, DIM_MAX = 256, HEADS_MAX = 14, PER_BLOCK = 3 };

static float keys[GROUPS * 16][DIM_MAX], queries[HEADS_MAX * DIM_MAX];
static unsigned char *blocks[(GROUPS + PER_BLOCK - 1) / PER_BLOCK];

/* Keys that have something in common with the others of their group, as a text's have. */
static void make_keys(struct random *random, uint32_t dim)
{
    float common[DIM_MAX] = {0};
    for (uint32_t i = 0; i < GROUPS * 16; i++)
        for (uint32_t d = 0; d < dim; d++) {
            if (i % 16 == 0) common[d] = 4 * (float)random_unit(random) - 2;
            keys[i][d] = common[d] + 1.5f * ((float)random_unit(random) - 0.5f);
        }
}

static void make_queries(struct random *random, uint32_t dim, uint32_t heads)
{
    for (uint32_t i = 0; i < heads * dim; i++) queries[i] = 2 * (float)random_unit(random) - 1;
}

static void make_entries(uint32_t dim)
{
    const uint64_t bytes = kernel_index_bytes(dim);
    for (uint32_t g = 0; g < GROUPS; g++) {
        unsigned char **block = &blocks[g / PER_BLOCK];
        if (g % PER_BLOCK == 0) *block = aligned_alloc(64, (PER_BLOCK * bytes + 63) / 64 * 64);
        assert_non_null(*block);
        kernel_index_write(keys[g * 16], DIM_MAX, dim, *block, PER_BLOCK, g % PER_BLOCK);
    }
}

static void release_entries(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(blocks); i++) free(blocks[i]);
}

/* The groups' shares as `kernel` estimates them, closely or by sketches. Nothing is written behind them. */
static void estimate(const struct kernel *kernel, bool sketch, struct kernel_index index, uint32_t count, float *shares)
{
    const uint64_t floats = kernel_index_scratch_floats(&index, count), bytes = (floats + 16) * sizeof(float);
    float *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(scratch);
    scratch[floats] = shares[(count + 15) / 16 * 16] = 12345;
    (sketch ? kernel->index_sketch : kernel->index_shares)(&index, count, shares, scratch);
    assert_true(scratch[floats] == 12345 && shares[(count + 15) / 16 * 16] == 12345);
    free(scratch);
}

static void exact(const struct kernel_index *index, uint32_t count, double *shares)
{
    memset(shares, 0, count * sizeof *shares);
    for (uint32_t h = 0; h < index->group; h++) {
        double weights[GROUPS] = {0}, sum = 0;
        for (uint32_t i = 0; i < count * 16; i++) {
            double score = 0;
            for (uint32_t d = 0; d < index->head_dim; d++) score += keys[i][d] * index->q[h * index->head_dim + d];
            score *= index->scale;
            if (index->softcap > 0) score = index->softcap * tanh(score / index->softcap);
            weights[i / 16] += exp(score);
            sum += exp(score);
        }
        for (uint32_t g = 0; g < count; g++) shares[g] += weights[g] / sum;
    }
}

/* Every instruction set's shares against those of plain C. */
static void compare_sets(const struct kernel_index *index, bool sketch, uint32_t count, const float *reference)
{
    float shares[GROUPS + 32];
    for (const char *const *isa = kernel_names(); *isa; isa++) {
        const struct kernel *kernel;
        if (kernel_select(*isa, &kernel, NULL) != ST_OK) continue; /* this machine cannot run it */
        estimate(kernel, sketch, *index, count, shares);
        for (uint32_t g = 0; g < count; g++)
            if (!(fabsf(shares[g] - reference[g]) <= 0.06f * reference[g] + 1e-5f))
                fail_msg("%s, dimension %u, %u heads%s: group %u of %u has a share of %.6g, not %.6g", *isa,
                         index->head_dim, index->group, sketch ? ", a sketch" : "", g, count, shares[g], reference[g]);
    }
}

static double misplaced(const float *shares, const double *true_shares, uint32_t count)
{
    double missed = 0;
    for (uint32_t g = 0; g < count; g++) missed += fabs(shares[g] - true_shares[g]) / 2;
    return missed;
}

static void compare(struct random *random, uint32_t dim, uint32_t heads, float softcap, uint32_t count)
{
    struct kernel_index index = {.q = queries,
                                 .group = heads,
                                 .head_dim = dim,
                                 .scale = 2 / sqrtf((float)dim),
                                 .softcap = softcap,
                                 .blocks = (const void *const *)blocks,
                                 .per_block = PER_BLOCK};
    float reference[GROUPS + 32], ordered[GROUPS + 32];
    double true_shares[GROUPS];
    uint32_t order[GROUPS];
    const struct kernel *kernel;
    exact(&index, count, true_shares);
    assert_int_equal(kernel_select("ref", &kernel, NULL), ST_OK);
    estimate(kernel, true, index, count, reference);
    if (misplaced(reference, true_shares, count) > 0.6 * heads) fail_msg("dimension %u: a sketch misleads", dim);
    compare_sets(&index, true, count, reference);
    estimate(kernel, false, index, count, reference);
    if (misplaced(reference, true_shares, count) > 0.35 * heads)
        fail_msg("dimension %u: %.3f of %u heads' attention is misplaced", dim,
                 misplaced(reference, true_shares, count), heads);
    compare_sets(&index, false, count, reference);

    for (uint32_t g = 0; g < count; g++) { /* the groups in another order have the same shares */
        const uint32_t other = (uint32_t)random_below(random, g + 1);
        order[g] = order[other];
        order[other] = g;
    }
    index.order = order;
    estimate(kernel, false, index, count, ordered);
    for (uint32_t g = 0; g < count; g++) assert_true(fabsf(ordered[g] - reference[order[g]]) <= 1e-4f * ordered[g]);
    compare_sets(&index, false, count, ordered);
    estimate(kernel, true, index, count, ordered);
    compare_sets(&index, true, count, ordered);
}

static void test_estimates(void **state)
{
    (void)state;
    static const uint32_t dims[] = {8, 16, 20, 32, 64, 80, 96, 128, 256}, heads[] = {1, 2, 3, 4, 6, 7, 8, 14},
                          counts[] = {1, 15, 16, 17, GROUPS};
    struct random random;
    random_seed(&random, 5);
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++) {
        make_keys(&random, dims[d]);
        make_entries(dims[d]);
        for (size_t h = 0; h < ARRAY_COUNT(heads); h++) {
            make_queries(&random, dims[d], heads[h]);
            compare(&random, dims[d], heads[h], 0, counts[(d + h) % ARRAY_COUNT(counts)]);
            if (h % 3 == 0) compare(&random, dims[d], heads[h], 20, GROUPS);
        }
        release_entries();
    }
}

/* One key of 1,200 is what a head looks for; its group has as good as all of the head's share. */
static void test_single_key(void **state)
{
    (void)state;
    struct random random;
    float shares[GROUPS + 32];
    random_seed(&random, 9);
    make_keys(&random, 64);
    make_queries(&random, 64, 7);
    const uint32_t wanted = 611;
    for (uint32_t d = 0; d < 24; d++)
        keys[wanted][d] += 6 * queries[3 * 64 + d]; /* in the slowest channels, as models do */
    make_entries(64);
    const struct kernel_index index = {.q = queries,
                                       .group = 7,
                                       .head_dim = 64,
                                       .scale = 1,
                                       .blocks = (const void *const *)blocks,
                                       .per_block = PER_BLOCK};
    for (const char *const *isa = kernel_names(); *isa; isa++) {
        const struct kernel *kernel;
        if (kernel_select(*isa, &kernel, NULL) != ST_OK) continue;
        estimate(kernel, false, index, GROUPS, shares);
        assert_true(shares[wanted / 16] > 0.9f);
        struct kernel_index own = index;
        own.q = queries + 3 * 64;
        own.group = 1;
        estimate(kernel, true, own, GROUPS, shares);
        uint32_t before = 0;
        for (uint32_t g = 0; g < GROUPS; g++) before += shares[g] > shares[wanted / 16];
        assert_true(before < GROUPS / 4);
    }
    release_entries();
}

/* Keys that are all the same, and zeros: no division by nothing, and equal shares. */
static void test_flat(void **state)
{
    (void)state;
    struct random random;
    float shares[GROUPS + 32];
    random_seed(&random, 11);
    for (uint32_t run = 0; run < 4; run++) {
        const bool zeros = run % 2, sketch = run / 2;
        for (uint32_t i = 0; i < GROUPS * 16; i++)
            for (uint32_t d = 0; d < 64; d++) keys[i][d] = zeros ? 0 : 0.25f;
        make_queries(&random, 64, 2);
        if (zeros) memset(queries, 0, sizeof queries);
        make_entries(64);
        const struct kernel_index index = {.q = queries,
                                           .group = 2,
                                           .head_dim = 64,
                                           .scale = 0.125f,
                                           .blocks = (const void *const *)blocks,
                                           .per_block = PER_BLOCK};
        for (const char *const *isa = kernel_names(); *isa; isa++) {
            const struct kernel *kernel;
            if (kernel_select(*isa, &kernel, NULL) != ST_OK) continue;
            estimate(kernel, sketch, index, GROUPS, shares);
            for (uint32_t g = 0; g < GROUPS; g++) assert_true(fabsf(shares[g] - 2.0f / GROUPS) < 1e-4f);
        }
        release_entries();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_estimates), cmocka_unit_test(test_single_key),
                                       cmocka_unit_test(test_flat)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
