/* report.c - ends a report, in JSON or text; running out of memory is noticed here, once. */
#include "eval/eval_internal.h"
#include <stdlib.h>

enum status report_done(const struct buffer *out, struct error *error)
{
    return out->failed ? error_set(error, ST_NOMEM, "not enough memory for the report") : ST_OK;
}

enum status report_json(json_t *json, struct buffer *out, struct error *error)
{
    char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(json);
    if (!text) return error_set(error, ST_NOMEM, "not enough memory for the report");
    buffer_text(out, text);
    buffer_text(out, "\n");
    free(text);
    return report_done(out, error);
}
