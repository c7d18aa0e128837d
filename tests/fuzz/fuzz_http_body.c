/* fuzz_http_body.c - any bytes as the body of a request, for each API. What is accepted lies in the ranges that server_internal.h
 * and kvasir.h state; what is refused says so in one line with a status that blames the client. */
#include "server/server_internal.h"
#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const struct body *body, unsigned api)
{
    const struct kvasir_request *request = &body->request;
    const struct kvasir_sampling *sampling = &request->sampling;
    ASSERT(api == API_DETOKENIZE ? body->tokens.items != NULL
           : api == API_CHAT     ? json_is_array(body->messages)
                                 : body->prompt || json_is_array(body->messages));
    ASSERT(!body->tools || json_is_array(body->tools));
    ASSERT(request->best_of != 1 && (!request->best_of || request->best_of >= request->n));
    ASSERT(!request->beam_width || request->beam_width >= request->n);
    ASSERT(request->prompt_logprobs <= 128 && fabsf(request->length_penalty) <= 100);
    for (size_t i = 0; i < body->bad_words.count; i++) ASSERT(body->bad_words.items[i] && body->bad_words.items[i][0]);
    ASSERT(sampling->temperature >= 0 && sampling->temperature <= 100);
    ASSERT(sampling->top_p >= 0 && sampling->top_p <= 1 && sampling->min_p >= 0 && sampling->min_p <= 1);
    ASSERT(request->n >= 1 && request->n <= ANSWERS_MAX);
    ASSERT(body->alternatives <= request->logprobs && request->logprobs <= 128);
    ASSERT(body->logprobs == (request->logprobs > 0));
    for (size_t i = 0; i < request->stop_count; i++) ASSERT(request->stop[i] && request->stop[i][0]);
    for (size_t i = 0; i < request->stop_id_count; i++) ASSERT(request->stop_ids[i] < UINT32_MAX);
    for (size_t i = 0; i < sampling->bias_count; i++)
        ASSERT(sampling->bias[i].bias >= -100 && sampling->bias[i].bias <= 100);
}

static void try_api(const char *bytes, size_t count, unsigned api)
{
    struct body body;
    struct refusal refusal = {0};
    if (body_parse(bytes, count, api, &body, &refusal))
        check_accepted(&body, api);
    else
        ASSERT(refusal.status == 400 && refusal.message[0] && memchr(refusal.message, 0, sizeof refusal.message));
    body_release(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned APIS[] = {API_COMPLETIONS, API_CHAT,       API_EMBEDDINGS,
                                    API_TOKENIZE,    API_DETOKENIZE, API_RESPONSES};
    for (size_t i = 0; i < ARRAY_COUNT(APIS); i++) try_api((const char *)data, size, APIS[i]);
    return 0;
}
