/* bench_internal.h - the tests of a benchmark, shared by bench.c, which runs them, and bench_report.c. */
#ifndef EVAL_BENCH_INTERNAL_H
#define EVAL_BENCH_INTERNAL_H
#include "eval/roofline.h"

struct bench_test {
    char name[48];
    bool decode;
    uint32_t prompt, generate; /* tokens; a prefill test has generate = 1 */
    double budget, rows_read;  /* of a test with retrieval; 0: without */
    double mean, deviation;    /* tokens per second, over the repetitions */
    struct roofline_cell cell; /* only with a roofline */
};

struct bench {
    const struct eval_bench_options *options;
    struct kvasir_engine *engine;
    struct roofline roofline; /* all zero without one */
    struct bench_test *tests;
    uint32_t test_count, vocabulary;
    uint32_t *prompt; /* [longest prompt] */
    double *rates;    /* [repetitions] */
};

MUST_CHECK enum status bench_report(const struct bench *bench, enum eval_output output, struct buffer *out,
                                    struct error *error);

#endif
