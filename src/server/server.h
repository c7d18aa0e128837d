/* server.h - an HTTP server over the asynchronous engine, speaking OpenAI's API to any of its clients.
 *
 * Routes: POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings, /tokenize, /detokenize; GET /v1/models, /v1/models/NAME,
 * /health, /version, / (a page to chat and to watch the KV cache), /kv (its blocks: kv_view.c). Errors are {"error": {"message", "type", "param", "code"}}; what a request asks for and the engine does
 * not do is refused by name.
 *
 * One thread runs one event loop: it reads, parses, tokenises and writes; the model runs on the engine's own. A client that
 * goes away is noticed at once, and its requests are cancelled. A client that reads slowly gets at most
 * SERVER_UNSENT_BYTES_MAX ahead of what it has read; the rest of its answer waits as text in the engine's queue.
 *
 * Specification: OpenAI's API reference (https://github.com/openai/openai-openapi), server-sent events (the HTML standard). */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H
#include "base/base.h"
#include "kvasir.h"

#define SERVER_UNSENT_BYTES_MAX (64u << 10)

struct server;

struct server_config {
    const char *host;       /* a name or an address; borrowed, as all below, until server_close */
    uint16_t port;          /* 0 = any that is free: server_url tells */
    double drain_s;         /* how long a stopping server waits for the answers that are being given */
    double keep_alive_s;    /* a stream that was silent for so long gets a comment */
    const char *model_name; /* that clients read and ask for */
    /* How the model writes calls of tools: "hermes", "llama3_json", "none": tools are refused, or "auto": as its chat template
     * teaches it. */
    const char *tool_call_parser;
    bool trust_chat_template;    /* a request may bring its own template, which is run within stated bounds */
    enum kvasir_pooling pooling; /* of embeddings */

    /* Who may ask: everybody, or who has one of these keys, or one of the file's (see auth.h for its form). */
    const char *const *api_keys; /* [api_key_count] */
    size_t api_key_count;
    const char *api_key_file; /* or NULL */
    bool share_cache;         /* keys find each other's prefixes */
    /* Names under which browsers may address the server, and the origins of other websites whose scripts may: see origin.h. */
    const char *const *allowed_hosts, *const *allowed_origins; /* [allowed_…_count] */
    size_t allowed_host_count, allowed_origin_count;

    const char *tls_cert, *tls_key; /* PEM files; tls_cert NULL: plain HTTP; tls_key NULL: it is in tls_cert */

    uint32_t connections_max;     /* more are answered with 503 */
    uint32_t answers_max;         /* that run or wait; more are answered with 429 */
    uint64_t body_bytes_max;      /* longer ones are answered with 413 */
    void (*stopping)(void *data); /* a stop has begun; NULL: nobody wants to know */
    void *data;
    const char *metrics_prefix; /* of the names of metrics */
    double idle_s;              /* how long a connection waits for its next request */
};
/* Takes the address, and refuses no connection of it only once server_run is called. ST_IO: one line says why not. */
MUST_CHECK enum status server_open(const struct server_config *config, struct server **out, struct error *error);
void server_close(struct server *server);            /* NULL is allowed */
const char *server_url(const struct server *server); /* "http://127.0.0.1:8000"; borrowed */
/* Serves until SIGINT or SIGTERM. The first one stops new connections and requests and lets answers end, for drain_s at
 * most: ST_OK. A second one ends at once: ST_CANCELLED. `ready` is called when connections are accepted. */
MUST_CHECK enum status server_run(struct server *server, struct kvasir_model *model, struct kvasir_async *async,
                                  void (*ready)(void *data), void *data, struct error *error);

#endif
