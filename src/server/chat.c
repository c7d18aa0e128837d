/* chat.c - /v1/chat/completions: messages become a prompt by the model's chat template; the answer is the assistant's. */
#include "server/reply.h"

/* ---- log-probabilities ----------------------------------------------------------------------------------------------- */

/* "token":…,"logprob":…,"bytes":[…] */
static void token_inside(const struct kvasir_model *model, uint32_t id, float value, struct buffer *out)
{
    struct buffer spelling;
    buffer_init(&spelling, 0);
    json_token_bytes(model, id, &spelling);
    buffer_text(out, "\"token\":");
    json_out_text(out, spelling.data, spelling.length);
    buffer_text(out, ",\"logprob\":");
    json_out_real(out, value);
    buffer_text(out, ",\"bytes\":[");
    for (size_t i = 0; i < spelling.length; i++)
        buffer_printf(out, "%s%u", i ? "," : "", (unsigned)(unsigned char)spelling.data[i]);
    buffer_text(out, "]");
    out->failed |= spelling.failed;
    buffer_release(&spelling);
}

void chat_logprob(const struct kvasir_model *model, uint32_t alternatives, const struct kvasir_token *token,
                  struct choice *choice)
{
    struct buffer *out = &choice->logprobs.tokens;
    buffer_text(out, out->length ? ",{" : "{");
    token_inside(model, token->id, token->logprob, out);
    buffer_text(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < token->top_count && i < alternatives; i++) {
        buffer_text(out, i ? ",{" : "{");
        token_inside(model, token->top[i].id, token->top[i].logprob, out);
        buffer_text(out, "}");
    }
    buffer_text(out, "]}");
}

static void logprobs_inside(const struct choice *choice, struct buffer *out)
{
    const struct buffer *tokens = &choice->logprobs.tokens;
    if (!tokens->length) {
        buffer_text(out, ",\"logprobs\":null");
        return;
    }
    buffer_text(out, ",\"logprobs\":{\"content\":[");
    buffer_append(out, tokens->data, tokens->length);
    buffer_text(out, "],\"refusal\":null}");
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static void write_call(const struct choice *choice, uint32_t index, const struct tool_call *call, struct buffer *out)
{
    buffer_text(out, "\"id\":\"");
    choice_call_id(choice, index, out);
    buffer_text(out, "\",\"type\":\"function\",\"function\":{\"name\":");
    json_out_text(out, call->name.data, call->name.length);
    buffer_text(out, ",\"arguments\":");
    /* In a stream they come in pieces of their own. */
    json_out_text(out, call->arguments.data, choice->reply->body.stream ? 0 : call->arguments.length);
    buffer_text(out, "}}");
}

static void whole(const struct choice *choice, struct buffer *out)
{
    uint32_t calls = choice->tools ? tool_parser_count(choice->tools) : 0;
    buffer_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (calls && !choice->text.length)
        buffer_text(out, "null");
    else
        json_out_text(out, choice->text.data, choice->text.length);
    buffer_text(out, calls ? ",\"refusal\":null,\"tool_calls\":[" : ",\"refusal\":null");
    for (uint32_t i = 0; i < calls; i++) {
        buffer_text(out, i ? ",{" : "{");
        write_call(choice, i, tool_parser_call(choice->tools, i), out);
    }
    buffer_text(out, calls ? "]}" : "}");
    logprobs_inside(choice, out);
}

static void delta(const struct choice *choice, struct buffer *out)
{
    buffer_text(out, "\"delta\":{");
    if (choice->text.length) {
        buffer_text(out, "\"content\":");
        json_out_text(out, choice->text.data, choice->text.length);
    }
    buffer_text(out, "}");
    logprobs_inside(choice, out);
}

/* A call's id and name first, then its arguments as they come. */
static bool call_delta(struct choice *choice, struct buffer *out)
{
    for (uint32_t i = 0; i < tool_parser_count(choice->tools); i++) {
        struct tool_call *call = tool_parser_call(choice->tools, i);
        if (call->announced && call->sent == call->arguments.length) continue;
        buffer_printf(out, "\"delta\":{\"tool_calls\":[{\"index\":%u,", i);
        if (!call->announced) {
            write_call(choice, i, call, out);
            call->announced = true;
        } else {
            buffer_text(out, "\"function\":{\"arguments\":");
            json_out_text(out, call->arguments.data + call->sent, call->arguments.length - call->sent);
            buffer_text(out, "}}");
            call->sent = call->arguments.length;
        }
        buffer_text(out, "]},\"logprobs\":null");
        return true;
    }
    return false;
}

static bool prompts(const struct server *server, struct body *body, struct prompts *out, struct refusal *refusal)
{
    return prompts_render(server, body, out, refusal);
}

static const struct choice_format FORMAT = {.object = "chat.completion",
                                            .chunk_object = "chat.completion.chunk",
                                            .opening =
                                                "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null",
                                            .closing = "\"delta\":{},\"logprobs\":null",
                                            .whole = whole,
                                            .delta = delta,
                                            .call_delta = call_delta,
                                            .logprob = chat_logprob};
const struct api CHAT = {.path = "/v1/chat/completions",
                         .bit = API_CHAT,
                         .id_prefix = "chatcmpl-",
                         .param = "messages",
                         .answers_max = ANSWERS_MAX,
                         .prompts = prompts,
                         .framing = &CHOICES,
                         .format = &FORMAT};
