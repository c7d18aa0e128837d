/* completions.c - /v1/completions: prompts are texts or token ids, one or several; the answer continues them. */
#include "server/reply.h"
#include <math.h>

static bool prompts(const struct server *server, struct body *body, struct prompts *out, struct refusal *refusal)
{
    return prompts_read(server, body, "prompt", PROMPTS_MAX, out, refusal);
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* {"tokens": […], "token_logprobs": […], "top_logprobs": [{token: logprob}, …], "text_offset": […]}, side by side. The
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
    for (uint32_t i = 0; i < token->top_count && i < alternatives; i++) {
        spelling.length = 0;
        json_token_bytes(model, token->top[i].id, &spelling);
        buffer_text(&out->tops, i ? "," : "");
        json_out_text(&out->tops, spelling.data, spelling.length);
        buffer_text(&out->tops, ":");
        json_out_real(&out->tops, token->top[i].logprob);
    }
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
