/* completions.c - /v1/completions: prompts are texts or token ids, one or several; the answer continues them. */
#include "server/server_internal.h"
#include <string.h>

/* ---- prompts ------------------------------------------------------------------------------------------------------- */

static bool text_prompt(const struct kvasir_model *model, const json_t *text, struct prompts *out,
                        struct refusal *refusal)
{
    struct kvasir_error error;
    uint32_t **ids = &out->items[out->count].ids;
    if (kvasir_tokenize(model, json_string_value(text), json_string_length(text),
                        KVASIR_ADD_SPECIAL | KVASIR_PARSE_SPECIAL, ids, &out->items[out->count].count,
                        &error) != KVASIR_OK)
        return refuse_library(refusal, "prompt", &error);
    out->count++;
    return true;
}

static bool id_prompt(const json_t *array, struct prompts *out, struct refusal *refusal)
{
    size_t count = json_array_size(array);
    uint32_t *ids = mem_alloc(count * sizeof *ids);
    if (!ids) return refuse(refusal, 503, "", "there is no memory for the prompt now: try again later");
    out->items[out->count].ids = ids;
    out->items[out->count++].count = count;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(array, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id > UINT32_MAX)
            return refuse(refusal, 400, "prompt", "prompt: item %zu is no token id", i);
        ids[i] = (uint32_t)id;
    }
    return true;
}

static bool prompts(const struct kvasir_model *model, const struct body *body, struct prompts *out,
                    struct refusal *refusal)
{
    const json_t *prompt = body->prompt, *first = json_array_get(prompt, 0);
    if (json_is_string(prompt)) return text_prompt(model, prompt, out, refusal);
    if (!json_is_array(prompt) || !first)
        return refuse(refusal, 400, "prompt", "prompt must be a string, an array of token ids, or an array of either");
    if (json_is_integer(first)) return id_prompt(prompt, out, refusal);
    size_t count = json_array_size(prompt);
    if (count > PROMPTS_MAX)
        return refuse(refusal, 400, "prompt", "%zu prompts: at most %u in one request", count, PROMPTS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(prompt, i);
        if (json_is_string(item) ? !text_prompt(model, item, out, refusal)
            : json_is_array(item)
                ? !id_prompt(item, out, refusal)
                : !refuse(refusal, 400, "prompt", "prompt %zu is neither a string nor an array of token ids", i))
            return false;
    }
    return true;
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* {"tokens": […], "token_logprobs": […], "top_logprobs": [{token: logprob}, …], "text_offset": […]}, side by side. */
static void logprob(const struct kvasir_model *model, uint32_t alternatives, const struct kvasir_token *token,
                    struct choice *choice)
{
    struct logprobs *out = &choice->logprobs;
    struct buffer spelling;
    buffer_init(&spelling, 0);
    const char *comma = out->tokens.length ? "," : "";
    json_token_bytes(model, token->id, &spelling);
    buffer_text(&out->tokens, comma);
    json_out_text(&out->tokens, spelling.data, spelling.length);
    buffer_text(&out->values, comma);
    json_out_real(&out->values, token->logprob);
    buffer_printf(&out->offsets, "%s%zu", comma, choice->offset);
    choice->offset += spelling.length;
    buffer_printf(&out->tops, "%s{", comma);
    for (uint32_t i = 0; i < token->top_count && i < alternatives; i++) {
        spelling.length = 0;
        json_token_bytes(model, token->top[i].id, &spelling);
        buffer_text(&out->tops, i ? "," : "");
        json_out_text(&out->tops, spelling.data, spelling.length);
        buffer_text(&out->tops, ":");
        json_out_real(&out->tops, token->top[i].logprob);
    }
    buffer_text(&out->tops, "}");
    out->tokens.failed |= spelling.failed;
    buffer_release(&spelling);
}

static void inside(const struct choice *choice, struct buffer *out)
{
    const struct logprobs *logprobs = &choice->logprobs;
    buffer_text(out, "\"text\":");
    json_out_text(out, choice->text.data, choice->text.length);
    if (!logprobs->tokens.length) {
        buffer_text(out, ",\"logprobs\":null");
        return;
    }
    buffer_text(out, ",\"logprobs\":{\"tokens\":[");
    buffer_append(out, logprobs->tokens.data, logprobs->tokens.length);
    buffer_text(out, "],\"token_logprobs\":[");
    buffer_append(out, logprobs->values.data, logprobs->values.length);
    buffer_text(out, "],\"top_logprobs\":[");
    buffer_append(out, logprobs->tops.data, logprobs->tops.length);
    buffer_text(out, "],\"text_offset\":[");
    buffer_append(out, logprobs->offsets.data, logprobs->offsets.length);
    buffer_text(out, "]}");
}

const struct api COMPLETIONS = {.path = "/v1/completions",
                                .bit = API_COMPLETIONS,
                                .id_prefix = "cmpl",
                                .object = "text_completion",
                                .chunk_object = "text_completion",
                                .closing = "\"text\":\"\",\"logprobs\":null",
                                .prompts = prompts,
                                .whole = inside,
                                .delta = inside,
                                .logprob = logprob};
