/* schema_text.c - strings of JSON Schema: lengths, patterns, formats. */
#include "grammar/schema.h"
#include <string.h>

/* ---- one character --------------------------------------------------------------------------------------------------------------- */

static struct fragment hex(struct schema *s, const char *first, const char *second, const char *third, const char *last)
{
    const char *const digits[] = {first, second, third, last};
    struct fragment out = build_empty(s->builder);
    for (size_t i = 0; i < ARRAY_COUNT(digits); i++) {
        struct byte_set set = {{0}};
        for (const char *p = digits[i]; *p; p++) byte_set_put(&set, (unsigned char)*p, (unsigned char)*p);
        out = build_then(s->builder, out, build_byte_set(s->builder, &set));
    }
    return out;
}

#define HEX "0123456789abcdefABCDEF"

/* After \u: no U+0000, which many programs refuse, and surrogates in pairs only. */
static struct fragment unicode_escape(struct schema *s)
{
    struct builder *b = s->builder;
    struct fragment out = hex(s, "123456789abcefABCEF", HEX, HEX, HEX);
    out = build_either(b, out, hex(s, "dD", "01234567", HEX, HEX));
    out = build_either(b, out, hex(s, "0", "123456789abcdefABCDEF", HEX, HEX));
    out = build_either(b, out, hex(s, "0", "0", "123456789abcdefABCDEF", HEX));
    out = build_either(b, out, hex(s, "0", "0", "0", "123456789abcdefABCDEF"));
    struct fragment low = build_then(b, schema_text(s, "\\u"), hex(s, "dD", "cdefCDEF", HEX, HEX));
    return build_either(b, out, build_then(b, hex(s, "dD", "89abAB", HEX, HEX), low));
}

/* A character as it is, or by any escape. */
static struct fragment character(struct schema *s)
{
    struct code_set plain = {0};
    struct byte_set letters = {{0}};
    struct builder *b = s->builder;
    code_set_put(b, &plain, 0x20, '"' - 1);
    code_set_put(b, &plain, '"' + 1, '\\' - 1);
    code_set_put(b, &plain, '\\' + 1, CODE_MAX);
    for (const char *p = "\"\\/bfnrt"; *p; p++) byte_set_put(&letters, (unsigned char)*p, (unsigned char)*p);
    struct fragment escape = build_then(b, schema_text(s, "u"), unicode_escape(s));
    escape = build_either(b, build_byte_set(b, &letters), escape);
    return build_either(b, build_characters(b, &plain, false), build_then(b, schema_text(s, "\\"), escape));
}

static struct fragment in_quotes(struct schema *s, struct fragment inside)
{
    return build_then(s->builder, schema_text(s, "\""), build_then(s->builder, inside, schema_text(s, "\"")));
}

/* ---- formats ------------------------------------------------------------------------------------------------------------------------ */

#define DATE                                                                                                         \
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:" \
    "0[1-9]|1[0-9]|2[0-8]))|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)"
#define TIME "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define CLOCK "T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|[0-9]{1,6}S)"
#define DAYS "(?:[0-9]{1,6}Y(?:[0-9]{1,6}M(?:[0-9]{1,6}D)?)?|[0-9]{1,6}M(?:[0-9]{1,6}D)?|[0-9]{1,6}D)"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST LABEL "(?:\\." LABEL "){0,2}"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define IPV4 BYTE "(?:\\." BYTE "){3}"
#define GROUP "[0-9a-fA-F]{1,4}"
#define IPV6                                                                                                      \
    "(?:" GROUP ":){7}" GROUP "|(?:" GROUP ":){1,7}:|(?:" GROUP ":){1,6}:" GROUP "|(?:" GROUP ":){1,5}(?::" GROUP \
    "){1,2}|(?:" GROUP ":){1,4}(?::" GROUP "){1,3}|(?:" GROUP ":){1,3}(?::" GROUP "){1,4}|(?:" GROUP              \
    ":){1,2}(?::" GROUP "){1,5}|" GROUP ":(?::" GROUP "){1,6}|:(?::" GROUP "){1,7}|::"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,31}"
#define URI_CHARACTER "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

#define EMAIL ATOM "(?:\\." ATOM ")?@" LABEL "(?:\\." LABEL "){1,2}"
#define URI                                                                          \
    "[A-Za-z][A-Za-z0-9+.-]{0,31}://" HOST "(?::[1-9][0-9]{0,3})?(?:/" URI_CHARACTER \
    "{0,40}){0,8}(?:\\?(?:" URI_CHARACTER "|[/?]){0,200})?(?:#(?:" URI_CHARACTER "|[/?]){0,60})?"
#define POINTER "(?:/(?:[^~/]|~[01])*)*"
#define BASE64(symbol) "(?:" symbol "{4})*(?:" symbol "{2}==|" symbol "{3}=)?"

/* None is longer than what is usually asked for beside it: 255 characters of an email, 2083 of a URI. What has a wider form (iri, …)
 * gets the narrower one. */
static const struct {
    const char *name, *pattern;
} FORMATS[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", "P(?:[0-9]{1,6}W|" DAYS "(?:" CLOCK ")?|" CLOCK ")"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", EMAIL},
    {"idn-email", EMAIL},
    {"hostname", HOST},
    {"idn-hostname", HOST},
    {"ipv4", IPV4},
    {"ipv6", IPV6},
    {"uri", URI},
    {"uri-reference", URI},
    {"uri-template", URI},
    {"iri", URI},
    {"iri-reference", URI},
    {"json-pointer", POINTER},
    {"relative-json-pointer", "(?:0|[1-9][0-9]{0,5})(?:#|" POINTER ")"},
    {"byte", BASE64("[A-Za-z0-9+/]")},
    {"base64", BASE64("[A-Za-z0-9+/]")},
};

/* Patterns that libraries write for those who ask for something else, in what is supported here: the same texts match. */
static const struct {
    const char *pattern, *same;
} REWRITTEN[] = {
    /* Pydantic's Decimal */
    {"^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$", "^[+-]?(?:\\d+\\.?\\d*|\\.\\d+)$"},
    /* Zod's email() */
    {"^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$",
     "^(?:[A-Za-z0-9_'+-]+\\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9-]*\\.)+[A-Za-z]{2,}$"},
};

struct length {
    uint32_t least, most;
};

static struct fragment expression(struct schema *s, const char *text, size_t bytes, struct length length,
                                  const char *keyword, const struct path *path)
{
    bool failed = s->builder->status != ST_OK;
    struct error reason;
    struct error *error = s->builder->error;
    s->builder->error = &reason;
    struct fragment out = regex_build_held(s->builder, text, bytes, length.least, length.most);
    s->builder->error = error;
    if (failed || s->builder->status == ST_OK) return out;
    enum status status = s->builder->status;
    s->builder->status = ST_OK; /* to be failed anew, with the place */
    return schema_fail(s, path, status, "%s: %s", keyword, reason.text);
}

/* NULL: the format says what a string is for, not what it is like; `regex` alone is refused. */
static const char *pattern_of_format(const char *format)
{
    for (size_t i = 0; format && i < ARRAY_COUNT(FORMATS); i++)
        if (strcmp(FORMATS[i].name, format) == 0) return FORMATS[i].pattern;
    return NULL;
}

static struct fragment formatted(struct schema *s, const char *pattern, struct length length, const struct path *path)
{
    struct buffer text;
    buffer_init(&text, 0);
    buffer_printf(&text, "^(?:%s)$", pattern);
    if (text.failed) return schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
    struct fragment out = expression(s, text.data, text.length, length, "format", path);
    buffer_release(&text);
    return in_quotes(s, out);
}

/* Libraries that give a format and a pattern of all of the text (Zod) mean the same by both: then the pattern holds. */
static bool is_whole(const json_t *pattern)
{
    const char *text = json_string_value(pattern);
    size_t bytes = json_string_length(pattern);
    return bytes > 1 && text[0] == '^' && text[bytes - 1] == '$';
}

static struct fragment patterned(struct schema *s, const json_t *pattern, struct length length, const struct path *path)
{
    const char *text = json_string_value(pattern);
    size_t bytes = json_string_length(pattern);
    for (size_t i = 0; i < ARRAY_COUNT(REWRITTEN); i++) {
        if (strcmp(REWRITTEN[i].pattern, text) != 0) continue;
        text = REWRITTEN[i].same;
        bytes = strlen(text);
    }
    return in_quotes(s, expression(s, text, bytes, length, "pattern", path));
}

/* ---- strings -------------------------------------------------------------------------------------------------------------------------- */

struct fragment schema_string(struct schema *s, const json_t *json, const struct path *path)
{
    const json_t *pattern = json_object_get(json, "pattern"), *format = json_object_get(json, "format");
    const char *format_pattern = pattern_of_format(json_string_value(format));
    const struct length length = {schema_count(s, json, "minLength", 0, path),
                                  schema_count(s, json, "maxLength", REPEAT_ENDLESS, path)};
    if (format && !json_is_string(format)) return schema_fail(s, path, ST_INVALID, "format must be a string");
    if (pattern && !json_is_string(pattern)) return schema_fail(s, path, ST_INVALID, "pattern must be a string");
    if (length.most < length.least) return build_nothing(s->builder);
    if (pattern && format_pattern && !is_whole(pattern))
        return schema_fail(s, path, ST_UNSUPPORTED, "pattern beside format is supported between ^ and $");
    if (pattern) return patterned(s, pattern, length, path);
    if (format_pattern) return formatted(s, format_pattern, length, path);
    if (format && strcmp(json_string_value(format), "regex") == 0)
        return schema_fail(s, path, ST_UNSUPPORTED, "the format 'regex' is not supported");
    if (!length.least && length.most == REPEAT_ENDLESS && json) return schema_free_string(s);
    return in_quotes(s, build_repeat(s->builder, character(s), length.least, length.most));
}
