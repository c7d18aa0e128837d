/* eval_internal.h - shared by eval's own files only. */
#ifndef EVAL_EVAL_INTERNAL_H
#define EVAL_EVAL_INTERNAL_H
#include "engine/engine.h"
#include "eval/eval.h"
#include <jansson.h>

/* Writes `json` (taken, NULL when it could not be built) and a newline. */
MUST_CHECK enum status report_json(json_t *json, struct buffer *out, struct error *error);
/* ST_NOMEM when the report does not hold all that was appended. */
MUST_CHECK enum status report_done(const struct buffer *out, struct error *error);

#endif
