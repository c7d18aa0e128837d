/* embeddings.c - /v1/embeddings: a vector for every text, pooled as the server was told, of length 1. */
#include "server/reply.h"
#include <math.h>
#include <openssl/evp.h>
#include <string.h>

static bool prompts(const struct server *server, struct body *body, struct prompts *out, struct refusal *refusal)
{
    struct kvasir_model_info info;
    kvasir_model_info(server->model, &info);
    if (body->dimensions > info.embedding_length)
        return refuse(refusal, 400, "dimensions", "dimensions must be 1 to %u, as wide as the model's rows are",
                      info.embedding_length);
    body->request.pooling = server->config.pooling;
    body->request.normalize = true;
    return prompts_read(server, body, "input", INPUTS_MAX, out, refusal);
}

/* The first so many numbers, again of length 1, as OpenAI shortens them. */
static void shorten(float *vector, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)vector[i] * (double)vector[i];
    for (size_t i = 0; i < count && sum > 0; i++) vector[i] = (float)((double)vector[i] / sqrt(sum));
}

static void take(struct choice *choice, const struct kvasir_event *event)
{
    size_t wanted = choice->reply->body.dimensions, count = event->embedding_count;
    bool shorter = wanted && wanted < count;
    if (!count) return;
    if (shorter) count = wanted;
    buffer_append(&choice->embedding, event->embedding, count * sizeof *event->embedding);
    if (shorter && !choice->embedding.failed) shorten((float *)(void *)choice->embedding.data, count);
}

static bool failed(const struct choice *choice)
{
    return choice->embedding.failed;
}

/* Little-endian floats, as clients read them. */
static void write_base64(const struct buffer *embedding, struct buffer *out)
{
    size_t bytes = (embedding->length + 2) / 3 * 4;
    unsigned char *text = mem_alloc(bytes + 1);
    if (!text) {
        out->failed = true;
        return;
    }
    EVP_EncodeBlock(text, (const unsigned char *)embedding->data, (int)embedding->length);
    buffer_text(out, "\"");
    buffer_append(out, text, bytes);
    buffer_text(out, "\"");
    mem_free(text);
}

static void write_numbers(const struct buffer *embedding, struct buffer *out)
{
    for (size_t i = 0; i < embedding->length / sizeof(float); i++) {
        float number;
        memcpy(&number, embedding->data + i * sizeof number, sizeof number);
        buffer_text(out, i ? "," : "[");
        json_out_real(out, number);
    }
    buffer_text(out, "]");
}

static void whole(struct reply *reply, struct buffer *out)
{
    buffer_text(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < reply->count; i++) {
        buffer_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "", i);
        (reply->body.base64 ? write_base64 : write_numbers)(&reply->choices[i].embedding, out);
        buffer_text(out, "}");
    }
    buffer_text(out, "],\"model\":");
    json_out_text(out, reply->server->config.model_name, strlen(reply->server->config.model_name));
    buffer_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}",
                  (unsigned long long)reply->usage.prompt, (unsigned long long)reply->usage.prompt);
}

static const struct framing FRAMING = {.take = take, .failed = failed, .whole = whole};
const struct api EMBEDDINGS = {.path = "/v1/embeddings",
                               .bit = API_EMBEDDINGS,
                               .id_prefix = "embd-",
                               .param = "input",
                               .answers_max = INPUTS_MAX,
                               .prompts = prompts,
                               .framing = &FRAMING};
