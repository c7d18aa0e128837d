/* measure.h - how the commands that measure give their reports. */
#ifndef CLI_MEASURE_H
#define CLI_MEASURE_H
#include "cli/cli.h"
#include "eval/eval.h"

/* What --output names. */
enum eval_output report_kind(const struct options *options);
/* Prints the report if `status` is ST_OK, with one newline at its end, and releases it; returns the first failure. */
MUST_CHECK enum status report_print(enum status status, struct buffer *report, struct error *error);

#endif
