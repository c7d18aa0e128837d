/* bench_internal.h - the tests of a benchmark, shared by bench.c, which runs them, and bench_report.c. */
#ifndef EVAL_BENCH_INTERNAL_H
#define EVAL_BENCH_INTERNAL_H
#include "eval/roofline.h"

struct bench_test {
    char name[48];
    bool decode;
    uint32_t prompt, generate;             /* tokens; a prefill test has generate = 1 */
    double budget;                         /* of a test with retrieval that reads a share; 0: another */
    uint32_t recall_tokens;                /* of one that looks up so many tokens; 0: another */
    double rows_read;                      /* of a test with retrieval */
    uint64_t kv_bytes, kv_bytes_offloaded; /* of a synthetic depth: in memory, on the disk */
    double mean, deviation;                /* tokens per second, over the repetitions */
    double attention_ms;                   /* of a decode test, for a token */
    struct roofline_cell cell;             /* only with a roofline */
};

struct bench {
    const struct eval_bench_options *options;
    struct kvasir_engine *engine;
    struct roofline roofline; /* all zero without one */
    struct bench_test *tests;
    uint32_t test_count, vocabulary;
    uint32_t computed;         /* tokens of each depth; 0: all */
    uint32_t *prompt;          /* [longest prompt] */
    double *rates;             /* [repetitions] */
    struct bench_depth *depth; /* with `computed` */
};

/* Of one run, in seconds: from submit to the first token; from there to the last, and how much of that attention took. */
struct bench_times {
    double prefill, decode, attention;
};

/* What retrieval reads in any case, the rest of a budget is recalled. */
#define BENCH_INITIAL_TOKENS 64u
#define BENCH_LOCAL_TOKENS 128u
#define BENCH_COMPUTED_MIN 256u /* tokens that are a text */
static inline bool bench_retrieves(const struct bench_test *test)
{
    return test->budget > 0 || test->recall_tokens;
}
/* Of the tokens between the first and the local ones, the share that makes the test's budget. */
double bench_topk(const struct bench_test *test);

/* ---- bench_depth.c: depths of which only the beginning is computed -------------------------------------------------- */

/* Room for so many tokens; computes the beginning. bench->depth is set, and to be closed, whatever is returned. */
MUST_CHECK enum status bench_depth_open(struct bench *bench, struct kvasir_model *model, uint32_t context,
                                        struct error *error);
void bench_depth_close(struct bench_depth *depth); /* NULL is allowed */
/* Decodes `generate` tokens after the test's depth, which stays as it is. */
MUST_CHECK enum status bench_depth_decode(struct bench_depth *depth, struct bench_test *test, uint32_t generate,
                                          struct bench_times *out, struct error *error);
void bench_depth_tally(const struct bench_depth *depth, struct model_attention_tally *out);

MUST_CHECK enum status bench_report(const struct bench *bench, enum eval_output output, struct buffer *out,
                                    struct error *error);

#endif
