/* body.c - the JSON of a request to parameters. Knows no sockets and no model, so that any bytes can be tried on it.
 *
 * FIELDS has a row for every field that means something. One that is null counts as not given. A field that would change the
 * answer, and that this version cannot serve, is refused unless it asks for what happens anyway; all others are ignored,
 * as clients send many that concern only accounting. */
#include "server/server_internal.h"
#include <math.h>
#include <openssl/sha.h>
#include <string.h>

#define STOPS_MAX 64u /* the engine's */
#define STOP_IDS_MAX 1024u
#define BIASES_MAX 4096u
#define ALTERNATIVES_MAX 20
#define COMPLETION_TOKENS 16 /* OpenAI's default for completions */

struct field {
    unsigned apis;
    const char *name;
    bool (*read)(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal);
    size_t offset; /* in struct body */
    double low, high;
};

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

static bool no_memory(struct refusal *refusal)
{
    return refuse(refusal, 503, "", "there is no memory for the request now: try again later");
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

/* A text, or an array of them. */
static bool read_stop(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > STOPS_MAX) return refuse(refusal, 400, field->name, "stop has %zu texts: at most 64", count);
    const char **texts = mem_zero(count, sizeof *texts);
    if (!texts) return no_memory(refusal);
    mem_free((void *)(uintptr_t)body->request.stop);
    body->request.stop = texts;
    body->request.stop_count = count;
    for (size_t i = 0; i < count; i++) {
        texts[i] = json_string_value(json_is_array(value) ? json_array_get(value, i) : value);
        if (!texts[i] || !texts[i][0])
            return refuse(refusal, 400, field->name, "stop must be a string or an array of strings, none empty");
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

static bool read_stop_ids(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count > STOP_IDS_MAX)
        return refuse(refusal, 400, field->name, "%s must be an array of at most %u token ids", field->name,
                      STOP_IDS_MAX);
    uint32_t *ids = mem_zero(count, sizeof *ids);
    if (!ids) return no_memory(refusal);
    body->request.stop_ids = ids;
    body->request.stop_id_count = count;
    for (size_t i = 0; i < count; i++)
        if (!token_id(json_array_get(value, i), &ids[i]))
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
    if (!bias) return no_memory(refusal);
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

static bool read_stream_options(const struct field *field, const json_t *value, struct body *body,
                                struct refusal *refusal)
{
    const json_t *usage = json_object_get(value, "include_usage");
    if (!json_is_object(value) || (usage && !json_is_boolean(usage) && !json_is_null(usage)))
        return refuse(refusal, 400, field->name, "stream_options must be an object; include_usage is true or false");
    body->include_usage = json_is_true(usage);
    return true;
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

/* Nothing, or what happens anyway: false, the number `low`, something empty, {"type": "text"}, "none", "auto". */
static bool read_unsupported(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    (void)body;
    const char *text =
        json_is_object(value) ? json_string_value(json_object_get(value, "type")) : json_string_value(value);
    bool harmless =
        json_is_false(value) || (json_is_number(value) && json_number_value(value) == field->low) ||
        (json_is_array(value) && !json_array_size(value)) || (json_is_object(value) && !json_object_size(value)) ||
        (text && (!*text || strcmp(text, "text") == 0 || strcmp(text, "none") == 0 || strcmp(text, "auto") == 0));
    return harmless ||
           refuse(refusal, 400, field->name, "%s is not supported by this version: leave it out", field->name);
}

/* ---- the table ---------------------------------------------------------------------------------------------------- */

#define BOTH (API_COMPLETIONS | API_CHAT)
#define AT(member) offsetof(struct body, member)
#define TOKENS_MAX 1073741824.0

/* Of two names for one thing the later row wins. */
/* clang-format off */
static const struct field FIELDS[] = {
    {BOTH, "model", read_text, AT(model), 0, 0},
    {API_COMPLETIONS, "prompt", read_json, AT(prompt), 0, 0},
    {API_CHAT, "messages", read_json, AT(messages), 0, 0},
    {BOTH, "stream", read_flag, AT(stream), 0, 0},
    {BOTH, "stream_options", read_stream_options, 0, 0, 0},
    {BOTH, "max_tokens", read_whole, AT(request.max_tokens), 1, TOKENS_MAX},
    {API_CHAT, "max_completion_tokens", read_whole, AT(request.max_tokens), 1, TOKENS_MAX},
    {BOTH, "temperature", read_real, AT(request.sampling.temperature), 0, 100},
    {BOTH, "top_p", read_real, AT(request.sampling.top_p), 0, 1},
    {BOTH, "top_k", read_whole, AT(request.sampling.top_k), -1, TOKENS_MAX},
    {BOTH, "min_p", read_real, AT(request.sampling.min_p), 0, 1},
    {BOTH, "typical_p", read_real, AT(request.sampling.typical_p), 0, 1},
    {BOTH, "repetition_penalty", read_real, AT(request.sampling.repetition_penalty), 0, 100},
    {BOTH, "frequency_penalty", read_real, AT(request.sampling.frequency_penalty), -2, 2},
    {BOTH, "presence_penalty", read_real, AT(request.sampling.presence_penalty), -2, 2},
    {BOTH, "seed", read_seed, 0, 0, 0},
    {BOTH, "logit_bias", read_bias, 0, -100, 100},
    {BOTH, "stop", read_stop, 0, 0, 0},
    {BOTH, "stop_token_ids", read_stop_ids, 0, 0, 0},
    {BOTH, "ignore_eos", read_flag, AT(request.ignore_eos), 0, 0},
    {API_COMPLETIONS, "logprobs", read_logprob_count, AT(alternatives), 0, ALTERNATIVES_MAX},
    {API_CHAT, "logprobs", read_flag, AT(logprobs), 0, 0},
    {API_CHAT, "top_logprobs", read_whole, AT(alternatives), 0, ALTERNATIVES_MAX},
    {BOTH, "cache_salt", read_salt, 0, 0, 0},
    {BOTH, "n", read_whole, AT(request.n), 1, ANSWERS_MAX},
    {BOTH, "priority", read_priority, 0, 0, 0},
    {BOTH, "min_tokens", read_whole, AT(request.min_tokens), 0, TOKENS_MAX},
    {BOTH, "best_of", read_unsupported, 0, 1, 0},
    {BOTH, "use_beam_search", read_unsupported, 0, 0, 0},
    {BOTH, "echo", read_unsupported, 0, 0, 0},
    {BOTH, "suffix", read_unsupported, 0, 0, 0},
    {BOTH, "bad_words", read_unsupported, 0, 0, 0},
    {BOTH, "allowed_token_ids", read_unsupported, 0, 0, 0},
    {BOTH, "prompt_logprobs", read_unsupported, 0, 0, 0},
    {BOTH, "return_token_ids", read_unsupported, 0, 0, 0},
    {BOTH, "response_format", read_unsupported, 0, 0, 0},
    {BOTH, "structured_outputs", read_unsupported, 0, 0, 0},
    {BOTH, "guided_json", read_unsupported, 0, 0, 0},
    {BOTH, "guided_regex", read_unsupported, 0, 0, 0},
    {BOTH, "guided_choice", read_unsupported, 0, 0, 0},
    {BOTH, "guided_grammar", read_unsupported, 0, 0, 0},
    {API_CHAT, "tools", read_unsupported, 0, 0, 0},
    {API_CHAT, "tool_choice", read_unsupported, 0, 0, 0},
    {API_CHAT, "functions", read_unsupported, 0, 0, 0},
    {API_CHAT, "function_call", read_unsupported, 0, 0, 0},
    {API_CHAT, "audio", read_unsupported, 0, 0, 0},
    {API_CHAT, "continue_final_message", read_unsupported, 0, 0, 0},
    {API_CHAT, "chat_template", read_unsupported, 0, 0, 0},
    {API_CHAT, "chat_template_kwargs", read_unsupported, 0, 0, 0},
};
/* clang-format on */

static bool read_fields(struct body *body, unsigned api, struct refusal *refusal)
{
    for (size_t i = 0; i < ARRAY_COUNT(FIELDS); i++) {
        const struct field *field = &FIELDS[i];
        const json_t *value = field->apis & api ? json_object_get(body->json, field->name) : NULL;
        if (value && !json_is_null(value) && !field->read(field, value, body, refusal)) return false;
    }
    return true;
}

/* What fields say of each other. */
static bool check(struct body *body, unsigned api, struct refusal *refusal)
{
    if (api == API_COMPLETIONS && !body->prompt)
        return refuse(refusal, 400, "prompt", "prompt is missing: a string, or an array of token ids");
    if (api == API_CHAT && !json_is_array(body->messages))
        return refuse(refusal, 400, "messages", "messages must be an array of {\"role\", \"content\"}");
    if (api == API_CHAT && body->alternatives && !body->logprobs)
        return refuse(refusal, 400, "top_logprobs", "top_logprobs needs logprobs: true");
    if (!body->stream && json_is_object(json_object_get(body->json, "stream_options")))
        return refuse(refusal, 400, "stream_options", "stream_options needs stream: true");
    if (body->logprobs) body->request.logprobs = body->alternatives ? body->alternatives : 1;
    return true;
}

bool body_parse(const char *bytes, size_t count, unsigned api, struct body *out, struct refusal *refusal)
{
    json_error_t error;
    *out = (struct body){.request = {.n = 1, .sampling.temperature = 1}};
    if (api == API_COMPLETIONS) out->request.max_tokens = COMPLETION_TOKENS;
    out->json = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, &error);
    if (!out->json)
        return refuse(refusal, 400, "", "the body is no valid JSON: line %d, column %d: %s", error.line, error.column,
                      error.text);
    if (!json_is_object(out->json)) return refuse(refusal, 400, "", "the body must be a JSON object");
    return read_fields(out, api, refusal) && check(out, api, refusal);
}

void body_release(struct body *body)
{
    mem_free((void *)(uintptr_t)body->request.stop);
    mem_free((void *)(uintptr_t)body->request.stop_ids);
    mem_free((void *)(uintptr_t)body->request.sampling.bias);
    json_decref(body->json);
    *body = (struct body){0};
}
