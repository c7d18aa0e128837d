/* field.c - the kinds of fields: how each is read and described. Numbers have the ranges of their rows. */
#include "server/field.h"
#include "server/tools.h"
#include <math.h>
#include <openssl/sha.h>
#include <string.h>

#define BIASES_MAX 4096u

static void *at(struct body *body, const struct field *field)
{
    return (char *)body + field->offset;
}

/* ---- readers of values -------------------------------------------------------------------------------------------- */

static bool read_real(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= field->low && number <= field->high))
        return refuse(refusal, 400, field->name, "%s must be a number from %g to %g", field->name, field->low,
                      field->high);
    *(float *)at(body, field) = (float)number;
    return true;
}

/* A negative number, where that is allowed, means 0. */
static bool read_whole(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || (double)number < field->low || (double)number > field->high)
        return refuse(refusal, 400, field->name, "%s must be a whole number from %.0f to %.0f", field->name, field->low,
                      field->high);
    *(uint32_t *)at(body, field) = number < 0 ? 0 : (uint32_t)number;
    return true;
}

static bool read_flag(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_boolean(value)) return refuse(refusal, 400, field->name, "%s must be true or false", field->name);
    *(bool *)at(body, field) = json_is_true(value);
    return true;
}

static bool read_text(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_string(value)) return refuse(refusal, 400, field->name, "%s must be a string", field->name);
    *(const char **)at(body, field) = json_string_value(value);
    return true;
}

/* Its form is the API's business. */
static bool read_json(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    (void)refusal;
    *(const json_t **)at(body, field) = value;
    return true;
}

/* Lower is sooner. */
static bool read_priority(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < INT32_MIN || number > INT32_MAX)
        return refuse(refusal, 400, field->name, "priority must be a whole number of 32 bits");
    body->request.priority = (int32_t)number;
    return true;
}

static bool read_seed(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_integer(value)) return refuse(refusal, 400, field->name, "seed must be a whole number of 64 bits");
    body->request.sampling.seed = (uint64_t)json_integer_value(value);
    body->request.sampling.has_seed = true;
    return true;
}

static bool read_texts(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    struct texts *out = at(body, field);
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > (size_t)field->high)
        return refuse(refusal, 400, field->name, "%s has %zu texts: at most %.0f", field->name, count, field->high);
    out->items = mem_zero(count, sizeof *out->items);
    if (!out->items) return refuse_no_memory(refusal, "request");
    out->count = count;
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_is_array(value) ? json_array_get(value, i) : value);
        if (!text || !text[0])
            return refuse(refusal, 400, field->name, "%s must be a string or an array of strings, none empty",
                          field->name);
        out->items[i] = text;
    }
    return true;
}

static bool token_id(const json_t *value, uint32_t *out)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= UINT32_MAX) return false;
    *out = (uint32_t)id;
    return true;
}

static bool read_ids(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    struct ids *out = at(body, field);
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count < (size_t)field->low || count > (size_t)field->high)
        return refuse(refusal, 400, field->name, "%s must be an array of %.0f to %.0f token ids", field->name,
                      field->low, field->high);
    out->items = mem_zero(count, sizeof *out->items);
    if (!out->items) return refuse_no_memory(refusal, "request");
    out->count = count;
    for (size_t i = 0; i < count; i++)
        if (!token_id(json_array_get(value, i), &out->items[i]))
            return refuse(refusal, 400, field->name, "%s[%zu] is no token id", field->name, i);
    return true;
}

/* The whole of `text` as a token id. */
static bool key_id(const char *text, uint32_t *out)
{
    uint64_t id = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || p - text > 9) return false;
        id = id * 10 + (uint64_t)(*p - '0');
    }
    if (!*text || id >= UINT32_MAX) return false;
    *out = (uint32_t)id;
    return true;
}

/* {"token id": bias}; OpenAI says that -100 and 100 ban a token and choose it alone: as a logit's bias they do. */
static bool read_bias(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    size_t count = json_object_size(value);
    if (!json_is_object(value) || count > BIASES_MAX)
        return refuse(refusal, 400, field->name, "logit_bias must be an object of at most %u token ids", BIASES_MAX);
    struct kvasir_logit_bias *bias = mem_zero(count, sizeof *bias);
    if (!bias) return refuse_no_memory(refusal, "request");
    body->request.sampling.bias = bias;
    body->request.sampling.bias_count = count;
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        double number = json_number_value(item);
        if (!key_id(key, &bias->id)) return refuse(refusal, 400, field->name, "logit_bias: a key is no token id");
        if (!json_is_number(item) || !(number >= field->low && number <= field->high))
            return refuse(refusal, 400, field->name, "logit_bias of token %u must be a number from %g to %g", bias->id,
                          field->low, field->high);
        bias++->bias = (float)number;
    }
    return true;
}

/* Completions: how many alternatives. */
static bool read_logprob_count(const struct field *field, const json_t *value, struct body *body,
                               struct refusal *refusal)
{
    body->logprobs = true;
    return read_whole(field, value, body, refusal);
}

static bool read_prompt_logprobs(const struct field *field, const json_t *value, struct body *body,
                                 struct refusal *refusal)
{
    body->prompt_logprobs = true;
    return read_whole(field, value, body, refusal);
}

static bool read_length_penalty(const struct field *field, const json_t *value, struct body *body,
                                struct refusal *refusal)
{
    body->request.has_length_penalty = true;
    return read_real(field, value, body, refusal);
}

static bool read_stream_options(const struct field *field, const json_t *value, struct body *body,
                                struct refusal *refusal)
{
    const struct {
        const char *name;
        bool *out;
    } flags[] = {{"include_usage", &body->include_usage}, {"continuous_usage_stats", &body->continuous_usage}};
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        const json_t *flag = json_object_get(value, flags[i].name);
        if (!json_is_object(value) || (flag && !json_is_boolean(flag) && !json_is_null(flag)))
            return refuse(refusal, 400, field->name, "stream_options must be an object; %s is true or false",
                          flags[i].name);
        *flags[i].out = json_is_true(flag);
    }
    body->continuous_usage &= body->include_usage;
    return true;
}

static bool read_prompt_text(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_string(value)) return refuse(refusal, 400, field->name, "%s must be a string", field->name);
    return read_json(field, value, body, refusal);
}

static bool read_object(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_object(value)) return refuse(refusal, 400, field->name, "%s must be an object", field->name);
    return read_json(field, value, body, refusal);
}

static bool read_messages(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_array(value))
        return refuse(refusal, 400, field->name, "%s must be an array of {\"role\", \"content\"}", field->name);
    return read_json(field, value, body, refusal);
}

static bool read_encoding(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    body->base64 = strcmp(text, "base64") == 0;
    return body->base64 || strcmp(text, "float") == 0 ||
           refuse(refusal, 400, field->name, "%s must be \"float\" or \"base64\"", field->name);
}

/* Only who knows the text can share prefixes with those who sent it: 64 bits of its SHA-256, and never the common salt. */
static bool read_salt(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    size_t bytes = json_string_length(value);
    if (!json_is_string(value) || !bytes || bytes > 1024)
        return refuse(refusal, 400, field->name, "cache_salt must be a string of 1 to 1024 bytes");
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)json_string_value(value), bytes, digest);
    memcpy(&body->request.cache_salt, digest, sizeof body->request.cache_salt);
    body->request.cache_salt |= 1;
    body->request.tenant = body->request.cache_salt; /* who shares a cache shares a turn */
    return true;
}

/* The one thing that is not there without it: log-probabilities. */
static bool read_include(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *name = json_string_value(json_array_get(value, i));
        if (name && strcmp(name, "message.output_text.logprobs") == 0) body->logprobs = true;
    }
    return json_is_array(value) || refuse(refusal, 400, field->name, "%s must be an array of strings", field->name);
}

static bool retrieval_mode(const json_t *value, enum kvasir_retrieval_mode *out)
{
    static const char *const NAMES[] = {
        [KVASIR_RETRIEVAL_OFF] = "off", [KVASIR_RETRIEVAL_ON] = "on", [KVASIR_RETRIEVAL_AUTO] = "auto"};
    for (size_t i = KVASIR_RETRIEVAL_OFF; i < ARRAY_COUNT(NAMES) && json_is_string(value); i++) {
        if (strcmp(json_string_value(value), NAMES[i]) != 0) continue;
        *out = (enum kvasir_retrieval_mode)i;
        return true;
    }
    return false;
}

/* A mode, or {"mode", "topk"}, each of which may be left out. */
static bool read_retrieval(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    const json_t *mode = json_is_object(value) ? json_object_get(value, "mode") : value;
    const json_t *topk = json_object_get(value, "topk");
    double share = json_number_value(topk);
    if (json_object_size(value) > (size_t)(mode && json_is_object(value)) + (topk != NULL))
        return refuse(refusal, 400, field->name, "retrieval has \"mode\" and \"topk\", and nothing else");
    if (mode && !retrieval_mode(mode, &body->request.retrieval))
        return refuse(
            refusal, 400, field->name,
            "retrieval must be \"off\", \"on\", \"auto\", or an object with such a \"mode\", a \"topk\", or both");
    if (topk && !(json_is_number(topk) && share > 0 && share <= 1))
        return refuse(refusal, 400, field->name, "retrieval's topk must be a share above 0, and at most 1");
    body->request.retrieval_topk = topk ? share : 0;
    return true;
}

/* Nothing, or what happens anyway: false, the number `low`, something empty, {"type": "text"}, "none", "disabled". */
static bool read_unsupported(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    (void)body;
    const char *text =
        json_is_object(value) ? json_string_value(json_object_get(value, "type")) : json_string_value(value);
    bool harmless =
        json_is_false(value) || (json_is_number(value) && json_number_value(value) == field->low) ||
        (json_is_array(value) && !json_array_size(value)) || (json_is_object(value) && !json_object_size(value)) ||
        (text && (!*text || strcmp(text, "text") == 0 || strcmp(text, "none") == 0 || strcmp(text, "disabled") == 0));
    return harmless ||
           refuse(refusal, 400, field->name, "%s is not supported by this version: leave it out", field->name);
}

/* ---- tools --------------------------------------------------------------------------------------------------------- */

static bool read_tools(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    (void)field;
    if (!tools_check(value, refusal)) return false;
    body->tools = json_array_size(value) ? value : NULL;
    return true;
}

/* Those of /v1/responses are checked when they are converted. */
static bool read_flat_tools(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    if (!json_is_array(value)) return refuse(refusal, 400, field->name, "tools must be an array of functions");
    body->tools = json_array_size(value) ? value : NULL;
    return true;
}

/* "none", "auto", "required", or {"type": "function", "function": {"name"}}. */
static bool read_tool_choice(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    static const char *const NAMES[] = {
        [TOOL_CHOICE_AUTO] = "auto", [TOOL_CHOICE_NONE] = "none", [TOOL_CHOICE_REQUIRED] = "required"};
    for (size_t i = 0; i < ARRAY_COUNT(NAMES) && json_is_string(value); i++) {
        if (strcmp(json_string_value(value), NAMES[i]) != 0) continue;
        body->tool_choice = (enum tool_choice)i;
        return true;
    }
    const json_t *function = json_object_get(value, "function"); /* /v1/responses has the name without it */
    body->tool_name = json_string_value(json_object_get(function ? function : value, "name"));
    body->tool_choice = TOOL_CHOICE_NAMED;
    return body->tool_name || refuse(refusal, 400, field->name,
                                     "tool_choice must be \"none\", \"auto\", \"required\" or "
                                     "{\"type\":\"function\",\"function\":{\"name\":…}}");
}

static bool read_parallel_calls(const struct field *field, const json_t *value, struct body *body,
                                struct refusal *refusal)
{
    if (!json_is_boolean(value)) return refuse(refusal, 400, field->name, "%s must be true or false", field->name);
    body->one_call = json_is_false(value);
    return true;
}

/* ---- the kinds ----------------------------------------------------------------------------------------------------- */

const struct field_kind FIELD_REAL = {read_real, "\"type\":\"number\"", true};
const struct field_kind FIELD_WHOLE = {read_whole, "\"type\":\"integer\"", true};
const struct field_kind FIELD_FLAG = {read_flag, "\"type\":\"boolean\"", false};
const struct field_kind FIELD_TEXT = {read_text, "\"type\":\"string\"", false};
const struct field_kind FIELD_UNSUPPORTED = {
    read_unsupported, "\"type\":\"null\",\"description\":\"not supported: leave it out\"", false};
const struct field_kind FIELD_PRIORITY = {read_priority,
                                          "\"type\":\"integer\",\"minimum\":-2147483648,\"maximum\":2147483647", false};
const struct field_kind FIELD_SEED = {read_seed, "\"type\":\"integer\"", false};
const struct field_kind FIELD_TEXTS = {read_texts,
                                       "\"anyOf\":[{\"type\":\"string\",\"minLength\":1},"
                                       "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":1}}]",
                                       false};
const struct field_kind FIELD_IDS = {read_ids, "\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}",
                                     false};
const struct field_kind FIELD_OBJECT = {read_object, "\"type\":\"object\"", false};
const struct field_kind FIELD_PROMPT = {
    read_json,
    "\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"string\"}},"
    "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"integer\",\"minimum\":0}},{\"type\":\"array\","
    "\"minItems\":1,"
    "\"items\":{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"integer\",\"minimum\":0}}}]",
    false};
const struct field_kind FIELD_PROMPT_TEXT = {read_prompt_text, "\"type\":\"string\"", false};
const struct field_kind FIELD_MESSAGES = {
    read_messages,
    "\"type\":\"array\",\"items\":{\"type\":\"object\",\"required\":[\"role\",\"content\"],\"properties\":{"
    "\"role\":{\"enum\":[\"system\",\"developer\",\"user\",\"assistant\",\"tool\"]},\"content\":{\"type\":\"string\"}}"
    "}",
    false};
const struct field_kind FIELD_ITEMS = {read_json,
                                       "\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"type\":"
                                       "\"object\",\"required\":[\"role\",\"content\"],"
                                       "\"properties\":{\"role\":{\"enum\":[\"system\",\"developer\",\"user\","
                                       "\"assistant\"]},\"content\":{\"type\":\"string\"}}}}]",
                                       false};
const struct field_kind FIELD_FLAT_TOOLS = {
    read_flat_tools,
    "\"type\":\"array\",\"maxItems\":128,\"items\":{\"type\":\"object\",\"required\":[\"type\",\"name\"],"
    "\"properties\":{"
    "\"type\":{\"const\":\"function\"},\"name\":{\"type\":\"string\"},\"description\":{\"type\":\"string\"},"
    "\"parameters\":{\"type\":\"object\"}}}",
    false};
const struct field_kind FIELD_INCLUDE = {read_include, "\"type\":\"array\",\"items\":{\"type\":\"string\"}", false};
const struct field_kind FIELD_ENCODING = {read_encoding, "\"enum\":[\"float\",\"base64\"]", false};
const struct field_kind FIELD_PROMPT_LOGPROBS = {read_prompt_logprobs, "\"type\":\"integer\"", true};
const struct field_kind FIELD_LENGTH_PENALTY = {read_length_penalty, "\"type\":\"number\"", true};
#define RETRIEVAL_MODES "{\"enum\":[\"off\",\"on\",\"auto\"]}"
const struct field_kind FIELD_RETRIEVAL = {
    read_retrieval,
    "\"anyOf\":[" RETRIEVAL_MODES ",{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
    "\"mode\":" RETRIEVAL_MODES ",\"topk\":{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":1}}}]",
    false};
const struct field_kind FIELD_BIAS = {read_bias, "\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}",
                                      false};
const struct field_kind FIELD_LOGPROBS = {read_logprob_count, "\"type\":\"integer\"", true};
const struct field_kind FIELD_STREAM_OPTIONS = {
    read_stream_options,
    "\"type\":\"object\",\"properties\":{\"include_usage\":{\"type\":\"boolean\"},"
    "\"continuous_usage_stats\":{\"type\":\"boolean\"}}",
    false};
const struct field_kind FIELD_SALT = {read_salt, "\"type\":\"string\",\"minLength\":1", false};
const struct field_kind FIELD_TOOLS = {
    read_tools,
    "\"type\":\"array\",\"maxItems\":128,\"items\":{\"type\":\"object\",\"required\":[\"type\",\"function\"],"
    "\"properties\":{\"type\":{\"const\":\"function\"},\"function\":{\"type\":\"object\",\"required\":[\"name\"],"
    "\"properties\":{\"name\":{\"type\":\"string\"},\"description\":{\"type\":\"string\"},"
    "\"parameters\":{\"type\":\"object\"}}}}}",
    false};
const struct field_kind FIELD_TOOL_CHOICE = {
    read_tool_choice, "\"anyOf\":[{\"enum\":[\"none\",\"auto\",\"required\"]},{\"type\":\"object\"}]", false};
const struct field_kind FIELD_PARALLEL_CALLS = {read_parallel_calls, "\"type\":\"boolean\"", false};
