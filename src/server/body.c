/* body.c - the JSON of a request to parameters. Knows no sockets and no model, so that any bytes can be tried on it.
 *
 * FIELDS has a row for every field that means something. One that is null counts as not given. A field that would change the
 * answer, and that this version cannot serve, is refused unless it asks for what happens anyway; all others are ignored,
 * as clients send many that concern only accounting. */
#include "server/field.h"
#include "server/structure.h"
#include "server/tools.h"
#include <string.h>

#define ALTERNATIVES_MAX 20
#define COMPLETION_TOKENS 16 /* OpenAI's default for completions */

/* ---- the table ---------------------------------------------------------------------------------------------------- */

#define ANSWERS (API_COMPLETIONS | API_CHAT)
#define SAMPLES (ANSWERS | API_RESPONSES)
#define MESSAGES (API_CHAT | API_TOKENIZE)
#define ALL (SAMPLES | API_EMBEDDINGS | API_TOKENIZE | API_DETOKENIZE)
#define AT(member) offsetof(struct body, member)
#define TOKENS_MAX 1073741824.0
#define STOPS_MAX 64 /* the engine's, as the two below */
#define STOP_IDS_MAX 1024
#define BAD_WORDS_MAX 1024
#define VOCABULARY_MAX 4194304 /* more than any */

/* Of two names for one thing the later row wins. */
/* clang-format off */
static const struct field FIELDS[] = {
    {ALL, "model", &FIELD_TEXT, AT(model), 0, 0},
    {API_COMPLETIONS, "prompt", &FIELD_PROMPT, AT(prompt), 0, 0},
    {API_TOKENIZE, "prompt", &FIELD_PROMPT_TEXT, AT(prompt), 0, 0},
    {API_EMBEDDINGS, "input", &FIELD_PROMPT, AT(prompt), 0, 0},
    {API_DETOKENIZE, "tokens", &FIELD_IDS, AT(tokens), 0, TOKENS_MAX},
    {MESSAGES, "messages", &FIELD_MESSAGES, AT(messages), 0, 0},
    {API_RESPONSES, "input", &FIELD_ITEMS, AT(prompt), 0, 0},
    {API_RESPONSES, "instructions", &FIELD_TEXT, AT(instructions), 0, 0},
    {API_RESPONSES, "max_output_tokens", &FIELD_WHOLE, AT(request.max_tokens), 1, TOKENS_MAX},
    {API_RESPONSES, "tools", &FIELD_FLAT_TOOLS, 0, 0, 0},
    {API_RESPONSES, "text", &FIELD_RESPONSE_TEXT, 0, 0, 0},
    {API_RESPONSES, "include", &FIELD_INCLUDE, 0, 0, 0},
    {API_RESPONSES, "metadata", &FIELD_OBJECT, AT(metadata), 0, 0},
    {API_RESPONSES, "previous_response_id", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_RESPONSES, "conversation", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_RESPONSES, "background", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_RESPONSES, "prompt", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_RESPONSES, "truncation", &FIELD_UNSUPPORTED, 0, 0, 0},
    {MESSAGES, "chat_template", &FIELD_TEXT, AT(chat_template), 0, 0},
    {MESSAGES, "chat_template_kwargs", &FIELD_OBJECT, AT(template_values), 0, 0},
    {MESSAGES, "add_generation_prompt", &FIELD_FLAG, AT(add_generation_prompt), 0, 0},
    {MESSAGES, "continue_final_message", &FIELD_FLAG, AT(continue_final_message), 0, 0},
    {API_TOKENIZE, "add_special_tokens", &FIELD_FLAG, AT(add_special_tokens), 0, 0},
    {API_TOKENIZE, "return_token_strs", &FIELD_FLAG, AT(return_token_texts), 0, 0},
    {SAMPLES | API_EMBEDDINGS, "truncate_prompt_tokens", &FIELD_WHOLE, AT(truncate_prompt_tokens), -1, TOKENS_MAX},
    {SAMPLES, "stream", &FIELD_FLAG, AT(stream), 0, 0},
    {ANSWERS, "stream_options", &FIELD_STREAM_OPTIONS, 0, 0, 0},
    {API_COMPLETIONS, "max_tokens", &FIELD_WHOLE, AT(request.max_tokens), 0, TOKENS_MAX},
    {API_CHAT, "max_tokens", &FIELD_WHOLE, AT(request.max_tokens), 1, TOKENS_MAX},
    {API_CHAT, "max_completion_tokens", &FIELD_WHOLE, AT(request.max_tokens), 1, TOKENS_MAX},
    {SAMPLES, "min_tokens", &FIELD_WHOLE, AT(request.min_tokens), 0, TOKENS_MAX},
    {SAMPLES, "temperature", &FIELD_REAL, AT(request.sampling.temperature), 0, 100},
    {SAMPLES, "top_p", &FIELD_REAL, AT(request.sampling.top_p), 0, 1},
    {SAMPLES, "top_k", &FIELD_WHOLE, AT(request.sampling.top_k), -1, TOKENS_MAX},
    {SAMPLES, "min_p", &FIELD_REAL, AT(request.sampling.min_p), 0, 1},
    {SAMPLES, "typical_p", &FIELD_REAL, AT(request.sampling.typical_p), 0, 1},
    {SAMPLES, "repetition_penalty", &FIELD_REAL, AT(request.sampling.repetition_penalty), 0, 100},
    {SAMPLES, "frequency_penalty", &FIELD_REAL, AT(request.sampling.frequency_penalty), -2, 2},
    {SAMPLES, "presence_penalty", &FIELD_REAL, AT(request.sampling.presence_penalty), -2, 2},
    {SAMPLES, "seed", &FIELD_SEED, 0, 0, 0},
    {SAMPLES, "logit_bias", &FIELD_BIAS, 0, -100, 100},
    {SAMPLES, "allowed_token_ids", &FIELD_IDS, AT(allowed_ids), 1, VOCABULARY_MAX},
    {SAMPLES, "bad_words", &FIELD_TEXTS, AT(bad_words), 0, BAD_WORDS_MAX},
    {SAMPLES, "stop", &FIELD_TEXTS, AT(stop), 0, STOPS_MAX},
    {SAMPLES, "stop_token_ids", &FIELD_IDS, AT(stop_ids), 0, STOP_IDS_MAX},
    {SAMPLES, "include_stop_str_in_output", &FIELD_FLAG, AT(request.include_stop), 0, 0},
    {SAMPLES, "ignore_eos", &FIELD_FLAG, AT(request.ignore_eos), 0, 0},
    {SAMPLES, "skip_special_tokens", &FIELD_FLAG, AT(skip_special_tokens), 0, 0},
    {API_COMPLETIONS, "echo", &FIELD_FLAG, AT(echo), 0, 0},
    {API_COMPLETIONS, "logprobs", &FIELD_LOGPROBS, AT(alternatives), 0, ALTERNATIVES_MAX},
    {API_CHAT, "logprobs", &FIELD_FLAG, AT(logprobs), 0, 0},
    {API_CHAT | API_RESPONSES, "top_logprobs", &FIELD_WHOLE, AT(alternatives), 0, ALTERNATIVES_MAX},
    {ANSWERS, "prompt_logprobs", &FIELD_PROMPT_LOGPROBS, AT(prompt_alternatives), 0, ALTERNATIVES_MAX},
    {ANSWERS, "return_token_ids", &FIELD_FLAG, AT(token_ids), 0, 0},
    {SAMPLES | API_EMBEDDINGS, "cache_salt", &FIELD_SALT, 0, 0, 0},
    {SAMPLES | API_EMBEDDINGS, "priority", &FIELD_PRIORITY, 0, 0, 0},
    {SAMPLES, "retrieval", &FIELD_RETRIEVAL, 0, 0, 0},
    {ANSWERS, "n", &FIELD_WHOLE, AT(request.n), 1, ANSWERS_MAX},
    {ANSWERS, "best_of", &FIELD_WHOLE, AT(request.best_of), 1, ANSWERS_MAX},
    {ANSWERS, "use_beam_search", &FIELD_FLAG, AT(use_beam_search), 0, 0},
    {ANSWERS, "length_penalty", &FIELD_LENGTH_PENALTY, AT(request.length_penalty), -100, 100},
    {ANSWERS, "early_stopping", &FIELD_FLAG, AT(request.early_stopping), 0, 0},
    {API_CHAT | API_TOKENIZE, "tools", &FIELD_TOOLS, 0, 0, 0},
    {API_CHAT | API_RESPONSES, "tool_choice", &FIELD_TOOL_CHOICE, 0, 0, 0},
    {API_CHAT | API_RESPONSES, "parallel_tool_calls", &FIELD_PARALLEL_CALLS, 0, 0, 0},
    {API_EMBEDDINGS, "encoding_format", &FIELD_ENCODING, 0, 0, 0},
    {API_EMBEDDINGS, "dimensions", &FIELD_WHOLE, AT(dimensions), 1, TOKENS_MAX},
    {API_COMPLETIONS, "suffix", &FIELD_UNSUPPORTED, 0, 0, 0},
    {ANSWERS, "response_format", &FIELD_RESPONSE_FORMAT, 0, 0, 0},
    {SAMPLES, "structured_outputs", &FIELD_STRUCTURED_OUTPUTS, 0, 0, 0},
    {SAMPLES, "guided_json", &FIELD_GUIDED_JSON, 0, 0, 0},
    {SAMPLES, "guided_regex", &FIELD_GUIDED_REGEX, 0, 0, 0},
    {SAMPLES, "guided_choice", &FIELD_GUIDED_CHOICE, 0, 0, 0},
    {SAMPLES, "guided_grammar", &FIELD_GUIDED_GRAMMAR, 0, 0, 0},
    {API_CHAT, "functions", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "function_call", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "audio", &FIELD_UNSUPPORTED, 0, 0, 0},
    {API_CHAT, "modalities", &FIELD_UNSUPPORTED, 0, 0, 0},
};
/* clang-format on */

/* Every field may be null, which means that it was not given. */
static void describe_field(const struct field *field, const char *model, struct buffer *out)
{
    if (strcmp(field->name, "model") == 0) {
        buffer_text(out, "\"model\":{\"enum\":[");
        json_out_text(out, model, strlen(model));
        buffer_text(out, ",null]}");
        return;
    }
    buffer_printf(out, "\"%s\":{\"anyOf\":[{%s", field->name, field->kind->schema);
    if (field->kind->ranged) buffer_printf(out, ",\"minimum\":%.10g,\"maximum\":%.10g", field->low, field->high);
    buffer_text(out, "},{\"type\":\"null\"}]}");
}

void body_describe(unsigned api, const char *model, struct buffer *out)
{
    const char *comma = "";
    buffer_text(out, "{");
    for (size_t i = 0; i < ARRAY_COUNT(FIELDS); i++) {
        if (!(FIELDS[i].apis & api)) continue;
        buffer_text(out, comma);
        describe_field(&FIELDS[i], model, out);
        comma = ",";
    }
    buffer_text(out, "}");
}

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
    if (body->tool_choice != TOOL_CHOICE_REQUIRED && body->tool_choice != TOOL_CHOICE_NAMED) return true;
    if (!body->tools) return refuse(refusal, 400, "tool_choice", "tool_choice needs tools");
    if (body->tool_name && !tools_have(body->tools, body->tool_name))
        return refuse(refusal, 400, "tool_choice", "tool_choice: there is no function %.64s in tools", body->tool_name);
    return true;
}

/* Is there a prompt, of the one kind that the API reads? */
static bool check_prompt(const struct body *body, unsigned api, struct refusal *refusal)
{
    if (api == API_TOKENIZE && !body->prompt == !body->messages)
        return refuse(refusal, 400, "prompt", "either prompt or messages must be given");
    if (api == API_CHAT && !body->messages)
        return refuse(refusal, 400, "messages", "messages is missing: an array of {\"role\", \"content\"}");
    if (api == API_RESPONSES && !json_is_string(body->prompt) && !json_is_array(body->prompt))
        return refuse(refusal, 400, "input", "input must be a string or an array of items");
    if (api == API_DETOKENIZE && !body->tokens.items)
        return refuse(refusal, 400, "tokens", "tokens is missing: an array of token ids");
    const char *name = api == API_EMBEDDINGS ? "input" : "prompt";
    if ((api == API_COMPLETIONS || api == API_EMBEDDINGS) && !body->prompt)
        return refuse(refusal, 400, name, "%s is missing: a string, or an array of token ids", name);
    if (body->continue_final_message && json_is_true(json_object_get(body->json, "add_generation_prompt")))
        return refuse(refusal, 400, "continue_final_message",
                      "continue_final_message and add_generation_prompt exclude each other");
    return true;
}

/* Beams are scored by the model's own probabilities, so the default temperature of the API does not count. */
static bool check_search(struct body *body, struct refusal *refusal)
{
    struct kvasir_request *request = &body->request;
    if (body->use_beam_search) {
        request->beam_width = request->best_of > request->n ? request->best_of : request->n;
        request->best_of = 0;
        if (!json_is_number(json_object_get(body->json, "temperature"))) request->sampling.temperature = 0;
        return true;
    }
    if (request->best_of && request->best_of < request->n)
        return refuse(refusal, 400, "best_of", "best_of must be n or more");
    if (request->best_of == request->n) request->best_of = 0;
    return true;
}

static bool check_logprobs(struct body *body, unsigned api, struct refusal *refusal)
{
    struct kvasir_request *request = &body->request;
    bool one = request->n == 1 && !request->best_of && !request->beam_width;
    if (api == API_CHAT && body->alternatives && !body->logprobs)
        return refuse(refusal, 400, "top_logprobs", "top_logprobs needs logprobs: true");
    if (api == API_RESPONSES && body->alternatives) body->logprobs = true;
    if (api == API_RESPONSES && body->logprobs &&
        body->tools) /* they are of messages only, and which tokens those are is not told */
        return refuse(refusal, 400, "top_logprobs", "top_logprobs are not told where tools may be called");
    if (body->prompt_logprobs && body->stream)
        return refuse(refusal, 400, "prompt_logprobs", "prompt_logprobs are not told in a stream");
    if (body->echo && body->logprobs && !one)
        return refuse(refusal, 400, "echo",
                      "echo with logprobs is for one answer only: n, best_of and use_beam_search "
                      "are to be left out");
    if (body->logprobs) request->logprobs = body->alternatives ? body->alternatives : 1;
    if (body->prompt_logprobs) request->prompt_logprobs = body->prompt_alternatives ? body->prompt_alternatives : 1;
    if (body->echo && request->logprobs > request->prompt_logprobs) request->prompt_logprobs = request->logprobs;
    return true;
}

static bool check_length(struct body *body, unsigned api, struct refusal *refusal)
{
    if (api != API_COMPLETIONS || body->request.max_tokens) return true;
    if (!body->echo) return refuse(refusal, 400, "max_tokens", "max_tokens must be 1 or more: 0 is for echo only");
    body->request.max_tokens = 1;
    body->no_answer = true;
    return true;
}

/* What fields say of each other. */
static bool check(struct body *body, unsigned api, struct refusal *refusal)
{
    struct kvasir_request *request = &body->request;
    if (!body->stream && json_is_object(json_object_get(body->json, "stream_options")))
        return refuse(refusal, 400, "stream_options", "stream_options needs stream: true");
    if (!check_prompt(body, api, refusal) || (api == API_RESPONSES && !response_input_convert(body, refusal)) ||
        !check_tools(body, refusal) || !check_search(body, refusal) || !check_logprobs(body, api, refusal) ||
        !check_length(body, api, refusal))
        return false;
    request->stop = body->stop.items;
    request->stop_count = body->stop.count;
    request->stop_ids = body->stop_ids.items;
    request->stop_id_count = body->stop_ids.count;
    request->sampling.allowed_ids = body->allowed_ids.items;
    request->sampling.allowed_id_count = body->allowed_ids.count;
    /* Some files mark what opens a call as a control token. */
    request->show_control = body->tools || !body->skip_special_tokens;
    return true;
}

bool body_parse(const char *bytes, size_t count, unsigned api, struct body *out, struct refusal *refusal)
{
    json_error_t error;
    *out = (struct body){.add_generation_prompt = true,
                         .add_special_tokens = true,
                         .skip_special_tokens = true,
                         .request = {.n = 1, .sampling.temperature = 1}};
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
    mem_free((void *)body->stop.items);
    mem_free((void *)body->bad_words.items);
    mem_free(body->stop_ids.items);
    mem_free(body->tokens.items);
    mem_free(body->allowed_ids.items);
    mem_free((void *)(uintptr_t)body->request.sampling.bias);
    structure_release(body);
    body->stop = body->bad_words = (struct texts){0};
    body->stop_ids = body->allowed_ids = body->tokens = (struct ids){0};
    body->request.sampling.bias = NULL;
    body->request.structure_text = NULL;
}

void body_forget_prompt(struct body *body)
{
    static const char *const LONG[] = {
        "prompt",          "messages",           "input",       "chat_template", "chat_template_kwargs",
        "response_format", "structured_outputs", "guided_json", "guided_regex",  "guided_choice",
        "guided_grammar"};
    release_arrays(body);
    for (size_t i = 0; i < ARRAY_COUNT(LONG); i++) json_object_del(body->json, LONG[i]);
    json_object_del(body->converted, "messages");
    body->prompt = body->messages = body->template_values = NULL;
    body->chat_template = NULL;
}

void body_release(struct body *body)
{
    release_arrays(body);
    json_decref(body->json);
    json_decref(body->converted);
    *body = (struct body){0};
}
