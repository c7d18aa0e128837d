/* body.c - the JSON of a request to parameters. Knows no sockets and no model, so that any bytes can be tried on it.
 *
 * FIELDS has a row for every field that means something. One that is null counts as not given. A field that would change the
 * answer, and that this version cannot serve, is refused unless it asks for what happens anyway; all others are ignored,
 * as clients send many that concern only accounting. */
#include "server/field.h"
#include "server/tools.h"

#define ALTERNATIVES_MAX 20
#define COMPLETION_TOKENS 16 /* OpenAI's default for completions */

/* ---- the table ---------------------------------------------------------------------------------------------------- */

#define BOTH (API_COMPLETIONS | API_CHAT)
#define AT(member) offsetof(struct body, member)
#define TOKENS_MAX 1073741824.0

/* Of two names for one thing the later row wins. */
/* clang-format off */
static const struct field FIELDS[] = {
    {BOTH, "model", &FIELD_TEXT, AT(model), 0, 0},
    {API_COMPLETIONS, "prompt", &FIELD_JSON, AT(prompt), 0, 0},
    {API_CHAT, "messages", &FIELD_JSON, AT(messages), 0, 0},
    {BOTH, "stream", &FIELD_FLAG, AT(stream), 0, 0},
    {BOTH, "stream_options", &FIELD_STREAM_OPTIONS, 0, 0, 0},
    {BOTH, "max_tokens", &FIELD_WHOLE, AT(request.max_tokens), 1, TOKENS_MAX},
    {API_CHAT, "max_completion_tokens", &FIELD_WHOLE, AT(request.max_tokens), 1, TOKENS_MAX},
    {BOTH, "temperature", &FIELD_REAL, AT(request.sampling.temperature), 0, 100},
    {BOTH, "top_p", &FIELD_REAL, AT(request.sampling.top_p), 0, 1},
    {BOTH, "top_k", &FIELD_WHOLE, AT(request.sampling.top_k), -1, TOKENS_MAX},
    {BOTH, "min_p", &FIELD_REAL, AT(request.sampling.min_p), 0, 1},
    {BOTH, "typical_p", &FIELD_REAL, AT(request.sampling.typical_p), 0, 1},
    {BOTH, "repetition_penalty", &FIELD_REAL, AT(request.sampling.repetition_penalty), 0, 100},
    {BOTH, "frequency_penalty", &FIELD_REAL, AT(request.sampling.frequency_penalty), -2, 2},
    {BOTH, "presence_penalty", &FIELD_REAL, AT(request.sampling.presence_penalty), -2, 2},
    {BOTH, "seed", &FIELD_SEED, 0, 0, 0},
    {BOTH, "logit_bias", &FIELD_BIAS, 0, -100, 100},
    {BOTH, "stop", &FIELD_STOP, 0, 0, 0},
    {BOTH, "stop_token_ids", &FIELD_STOP_IDS, 0, 0, 0},
    {BOTH, "ignore_eos", &FIELD_FLAG, AT(request.ignore_eos), 0, 0},
    {API_COMPLETIONS, "logprobs", &FIELD_LOGPROBS, AT(alternatives), 0, ALTERNATIVES_MAX},
    {API_CHAT, "logprobs", &FIELD_FLAG, AT(logprobs), 0, 0},
    {API_CHAT, "top_logprobs", &FIELD_WHOLE, AT(alternatives), 0, ALTERNATIVES_MAX},
    {BOTH, "cache_salt", &FIELD_SALT, 0, 0, 0},
    {BOTH, "n", &FIELD_WHOLE, AT(request.n), 1, ANSWERS_MAX},
    {BOTH, "priority", &FIELD_PRIORITY, 0, 0, 0},
    {BOTH, "min_tokens", &FIELD_WHOLE, AT(request.min_tokens), 0, TOKENS_MAX},
    {BOTH, "best_of", &FIELD_UNSUPPORTED, 0, 1, 0},
    {BOTH, "use_beam_search", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "echo", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "suffix", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "bad_words", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "allowed_token_ids", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "prompt_logprobs", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "return_token_ids", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "response_format", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "structured_outputs", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "guided_json", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "guided_regex", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "guided_choice", &FIELD_UNSUPPORTED, 0, 0, 0},
    {BOTH, "guided_grammar", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "tools", &FIELD_TOOLS, 0, 0, 0},
    {API_CHAT, "tool_choice", &FIELD_TOOL_CHOICE, 0, 0, 0},
    {API_CHAT, "parallel_tool_calls", &FIELD_PARALLEL_CALLS, 0, 0, 0},
    {API_CHAT, "functions", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "function_call", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "audio", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "continue_final_message", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "chat_template", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "chat_template_kwargs", &FIELD_UNSUPPORTED, 0, 0, 0},
};
/* clang-format on */

static bool read_fields(struct body *body, unsigned api, struct refusal *refusal)
{
    for (size_t i = 0; i < ARRAY_COUNT(FIELDS); i++) {
        const struct field *field = &FIELDS[i];
        const json_t *value = field->apis & api ? json_object_get(body->json, field->name) : NULL;
        if (value && !json_is_null(value) && !field->kind->read(field, value, body, refusal)) return false;
    }
    return true;
}

static bool check_tools(struct body *body, struct refusal *refusal)
{
    if (body->tool_choice == TOOL_CHOICE_NONE) body->tools = NULL;
    if (body->tools) body->request.show_control = true; /* some files mark what opens a call as a control token */
    if (body->tool_choice != TOOL_CHOICE_REQUIRED && body->tool_choice != TOOL_CHOICE_NAMED) return true;
    if (!body->tools) return refuse(refusal, 400, "tool_choice", "tool_choice needs tools");
    if (body->tool_name && !tools_have(body->tools, body->tool_name))
        return refuse(refusal, 400, "tool_choice", "tool_choice: there is no function %.64s in tools", body->tool_name);
    return refuse(refusal, 400, "tool_choice",
                  "tool_choice: a call that has to be made is not supported by this version: "
                  "use \"auto\"");
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
    if (!check_tools(body, refusal)) return false;
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

static void release_arrays(struct body *body)
{
    mem_free((void *)(uintptr_t)body->request.stop);
    mem_free((void *)(uintptr_t)body->request.stop_ids);
    mem_free((void *)(uintptr_t)body->request.sampling.bias);
    body->request.stop = NULL;
    body->request.stop_ids = NULL;
    body->request.sampling.bias = NULL;
}

void body_forget_prompt(struct body *body)
{
    release_arrays(body);
    json_object_del(body->json, "prompt");
    json_object_del(body->json, "messages");
    body->prompt = body->messages = NULL;
}

void body_release(struct body *body)
{
    release_arrays(body);
    json_decref(body->json);
    *body = (struct body){0};
}
