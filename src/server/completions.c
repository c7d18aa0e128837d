/* completions.c - /v1/completions: prompts are texts or token ids, one or several; the answer continues them. */
#include "server/reply.h"
#include <math.h>

static bool prompts(const struct server *server, struct body *body, struct prompts *out, struct refusal *refusal)
{
    return prompts_read(server, body, "prompt", PROMPTS_MAX, out, refusal);
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

static void write_top(const struct kvasir_model *model, uint32_t id, float logprob, bool more, struct buffer *out)
{
    struct buffer spelling;
    buffer_init(&spelling, 0);
    json_token_bytes(model, id, &spelling);
    buffer_text(out, more ? "," : "");
    json_out_text(out, spelling.data, spelling.length);
    buffer_text(out, ":");
    json_out_real(out, logprob);
    out->failed |= spelling.failed;
    buffer_release(&spelling);
}

/* {"tokens": […], "token_logprobs": […], "top_logprobs": [{token: logprob}, …], "text_offset": […]}, side by side. The
 * token itself is among its alternatives, as one more where it has to be. The
 * first token of an echoed prompt has no log-probability (NAN): null. */
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
    buffer_printf(&out->tops, isnan(token->logprob) ? "%snull" : "%s{", comma);
    uint32_t shown = token->top_count < alternatives ? token->top_count : alternatives;
    bool own = isnan(token->logprob);
    for (uint32_t i = 0; i < shown; i++) {
        own |= token->top[i].id == token->id;
        write_top(model, token->top[i].id, token->top[i].logprob, i > 0, &out->tops);
    }
    if (!own) write_top(model, token->id, token->logprob, shown > 0, &out->tops);
    buffer_text(&out->tops, isnan(token->logprob) ? "" : "}");
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

static const struct choice_format FORMAT = {.object = "text_completion",
                                            .chunk_object = "text_completion",
                                            .prompt_inside = true,
                                            .closing = "\"text\":\"\",\"logprobs\":null",
                                            .whole = inside,
                                            .delta = inside,
                                            .logprob = logprob};
const struct api COMPLETIONS = {.path = "/v1/completions",
                                .bit = API_COMPLETIONS,
                                .id_prefix = "cmpl-",
                                .param = "prompt",
                                .answers_max = ANSWERS_MAX,
                                .prompts = prompts,
                                .framing = &CHOICES,
                                .format = &FORMAT};
