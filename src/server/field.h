/* field.h - one field of a request's body: a row says its name, which APIs have it, and its kind; a kind says how it is read, and
 * describes itself as a JSON schema, so that what is parsed and what is documented are one table. */
#ifndef SERVER_FIELD_H
#define SERVER_FIELD_H
#include "server/server_internal.h"

struct field {
    unsigned apis; /* API_… | API_… */
    const char *name;
    const struct field_kind *kind;
    size_t offset; /* in struct body */
    double low, high;
};
struct field_kind {
    bool (*read)(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal);
    const char *schema; /* inside of a JSON schema's braces */
    bool ranged;        /* low and high bound the number */
};
/* clang-format off */
extern const struct field_kind FIELD_REAL, /* float */
    FIELD_WHOLE,                           /* uint32_t; a negative number, where that is allowed, means 0 */
    FIELD_FLAG,                            /* bool */
    FIELD_TEXT,                            /* const char *, borrowed */
    FIELD_TEXTS,                           /* struct texts: a text or an array of them, `high` at most */
    FIELD_IDS,                             /* struct ids, `low` to `high` of them */
    FIELD_OBJECT,                          /* const json_t *, borrowed, as of the last line's first ones: their form is the API's business */
    FIELD_RETRIEVAL,                       /* of the request: retrieval, retrieval_topk */
    FIELD_UNSUPPORTED,                     /* refused, unless it asks for what happens anyway */
    FIELD_PRIORITY, FIELD_SEED, FIELD_BIAS, FIELD_LOGPROBS, FIELD_PROMPT_LOGPROBS, FIELD_LENGTH_PENALTY, FIELD_STREAM_OPTIONS,
    FIELD_SALT, FIELD_ENCODING, FIELD_PROMPT, FIELD_PROMPT_TEXT, FIELD_MESSAGES, FIELD_ITEMS, FIELD_FLAT_TOOLS, FIELD_INCLUDE, FIELD_RESPONSE_TEXT, FIELD_TOOLS, FIELD_TOOL_CHOICE, FIELD_PARALLEL_CALLS,
    FIELD_RESPONSE_FORMAT, FIELD_STRUCTURED_OUTPUTS, FIELD_GUIDED_JSON, FIELD_GUIDED_REGEX, FIELD_GUIDED_CHOICE,
    FIELD_GUIDED_GRAMMAR; /* structure.c */
/* clang-format on */

#endif
