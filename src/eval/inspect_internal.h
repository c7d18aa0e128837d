/* inspect_internal.h - what inspect.c found, for inspect_json.c and inspect_text.c to write. */
#ifndef EVAL_INSPECT_INTERNAL_H
#define EVAL_INSPECT_INTERNAL_H
#include "eval/eval_internal.h"
#include "format/format.h"

#define INSPECT_FORMAT_COUNT 8u
struct inspect_format {
    const char *name;
    enum number_format k, v;
};
extern const struct inspect_format INSPECT_FORMATS[INSPECT_FORMAT_COUNT];

#define INSPECT_ROWS 8u /* 1024 << row tokens: 1K…128K */
#define INSPECT_KINDS_MAX 8u
#define INSPECT_BLOCK_TOKENS 32u

struct inspect_kind {
    struct kv_layer layer; /* its shape; formats are those of the table */
    uint32_t layers;
};
struct inspect_tensors {
    uint64_t count, elements, bytes;
};

struct inspection {
    struct format *format;
    struct model_config config; /* all zero unless known */
    bool known;                 /* its metadata describes a model that Kvasir runs */
    struct error why;           /* text empty: it can run */
    struct inspect_tensors tensors[NF_COUNT];
    uint64_t parameters;
    struct inspect_kind kinds[INSPECT_KINDS_MAX];
    uint32_t kind_count;
    uint64_t bytes_per_token[INSPECT_FORMAT_COUNT]; /* all layers */
    uint64_t index_bytes_per_token;                 /* more, with retrieval attention */
    const char *policy;                             /* JSON, or NULL */
    uint64_t cached[INSPECT_FORMAT_COUNT][INSPECT_ROWS], uncached[INSPECT_FORMAT_COUNT][INSPECT_ROWS],
        with_policy[INSPECT_FORMAT_COUNT][INSPECT_ROWS];
};
uint64_t inspect_kind_bytes(const struct inspect_kind *kind, uint32_t format); /* one layer, one token */

MUST_CHECK enum status inspect_json(const struct inspection *in, struct buffer *out, struct error *error);
MUST_CHECK enum status inspect_text(const struct inspection *in, struct buffer *out, struct error *error);

#endif
