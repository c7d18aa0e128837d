/* tokenize.c - /tokenize and /detokenize, in vLLM's form: what the model reads of a prompt or of messages, and the text of
 * tokens. */
#include "server/reply.h"

static void write_texts(const struct server *server, const struct prompt *prompt, struct buffer *out)
{
    struct buffer spelling;
    buffer_init(&spelling, 0);
    for (size_t i = 0; i < prompt->count; i++) {
        spelling.length = 0;
        json_token_bytes(server->model, prompt->ids[i], &spelling);
        buffer_text(out, i ? "," : "");
        json_out_text(out, spelling.data, spelling.length);
    }
    out->failed |= spelling.failed;
    buffer_release(&spelling);
}

static void write_tokens(const struct server *server, const struct body *body, const struct prompt *prompt,
                         struct buffer *out)
{
    struct kvasir_engine_stats stats;
    kvasir_async_stats(server->async, &stats);
    buffer_printf(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":", prompt->count, stats.context);
    json_out_ids(out, prompt->ids, prompt->count);
    buffer_text(out, ",\"token_strs\":");
    if (!body->return_token_texts) {
        buffer_text(out, "null}");
        return;
    }
    buffer_text(out, "[");
    write_texts(server, prompt, out);
    buffer_text(out, "]}");
}

static bool read_prompt(const struct server *server, const struct body *body, struct prompts *out,
                        struct refusal *refusal)
{
    if (body->messages) return prompts_render(server, body, out, refusal);
    return prompts_read(server, body, "prompt", 1, out, refusal);
}

void tokenize_answer(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct body body = {0};
    struct prompts prompts = {0};
    struct refusal refusal;
    struct buffer json;
    buffer_init(&json, 0);
    if (reply_read_body(server, http, API_TOKENIZE, &body, &refusal) &&
        read_prompt(server, &body, &prompts, &refusal)) {
        write_tokens(server, &body, &prompts.items[0], &json);
        reply_json(http, 200, &json);
    } else {
        reply_refuse(http, &refusal);
    }
    prompts_release(&prompts);
    body_release(&body);
}

void detokenize_answer(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct body body = {0};
    struct refusal refusal;
    struct kvasir_error error;
    struct buffer json;
    char *text = NULL;
    size_t bytes = 0;
    buffer_init(&json, 0);
    bool read = reply_read_body(server, http, API_DETOKENIZE, &body, &refusal);
    if (read && kvasir_detokenize(server->model, body.tokens.items, body.tokens.count, KVASIR_SHOW_CONTROL, &text,
                                  &bytes, &error) != KVASIR_OK)
        read = refuse_library(&refusal, "tokens", &error);
    if (read) {
        buffer_text(&json, "{\"prompt\":");
        json_out_text(&json, text, bytes);
        buffer_text(&json, "}");
        reply_json(http, 200, &json);
    } else {
        reply_refuse(http, &refusal);
    }
    kvasir_free(text);
    body_release(&body);
}
