/* server_internal.h - shared by the server's files only; grouped by file. */
#ifndef SERVER_SERVER_INTERNAL_H
#define SERVER_SERVER_INTERNAL_H
#include "server/auth.h"
#include <event2/event.h>
#include <event2/http.h>
#include <jansson.h>
#include <openssl/types.h>

/* ---- refusals: an error as the client gets it ----------------------------------------------------------------------- */

struct refusal {
    int status;       /* of HTTP */
    const char *code; /* for programs, or NULL */
    char param[64];   /* the field that is wrong, or "" */
    char message[500];
};
/* Fills it and returns false, so that one can `return refuse(…)`. */
bool refuse(struct refusal *out, int status, const char *param, const char *format, ...) PRINTF_LIKE(4, 5);
bool refuse_no_memory(struct refusal *out, const char *what); /* "request", "prompt", …: which it would be for */
/* What the library would not do: the fault of the field `param`, or of the server. */
bool refuse_library(struct refusal *out, const char *param, const struct kvasir_error *error);
const char *refusal_reason(int status); /* "Bad Request" */

/* ---- body.c: the JSON of a request to parameters; no sockets, no model ------------------------------------------------- */

enum {
    API_COMPLETIONS = 1,
    API_CHAT = 2,
    API_EMBEDDINGS = 4,
    API_TOKENIZE = 8,
    API_DETOKENIZE = 16,
    API_RESPONSES = 32
};

#define ANSWERS_MAX 128u /* to all prompts of one request */

/* Whether the model may call tools, must, or must call this one: body.tool_name. */
enum tool_choice { TOOL_CHOICE_AUTO, TOOL_CHOICE_NONE, TOOL_CHOICE_REQUIRED, TOOL_CHOICE_NAMED };

struct texts {
    const char **items; /* owned; the texts are not */
    size_t count;
};
struct ids {
    uint32_t *items; /* owned */
    size_t count;
};

struct body {
    json_t *json;             /* owned; all that is borrowed below is its, or of `converted` */
    json_t *converted;        /* owned: messages and tools as chats have them, where the API has them otherwise */
    const char *model;        /* or NULL */
    const json_t *prompt;     /* a text, ids, or an array of either; of /v1/responses, a text or items */
    const char *instructions; /* of /v1/responses: before its items */
    const json_t *messages;   /* of a chat: an array */
    /* How messages become a prompt: the request's own template, or NULL; more of its variables, an object, or NULL. */
    const char *chat_template;
    const json_t *template_values;
    bool add_generation_prompt, continue_final_message;
    bool add_special_tokens, return_token_texts; /* of /tokenize */
    uint32_t truncate_prompt_tokens;             /* to the last so many; 0: no */
    const json_t *tools;                         /* NULL: none, or none may be called */
    enum tool_choice tool_choice;
    const char *tool_name;
    bool one_call;                                /* at most */
    bool stream, include_usage, continuous_usage; /* usage in the stream's last chunk, in every chunk */
    bool logprobs;                                /* wanted; request.logprobs is then at least 1 */
    uint32_t alternatives;                        /* to be shown for each token */
    bool prompt_logprobs;                         /* wanted, with so many alternatives */
    uint32_t prompt_alternatives;
    bool echo, no_answer; /* the text begins with the prompt; and there ends */
    bool token_ids;       /* are shown */
    bool use_beam_search;
    bool skip_special_tokens;
    struct texts stop, bad_words;
    struct ids stop_ids, allowed_ids, tokens; /* tokens: of /detokenize */
    const json_t *metadata;                   /* comes back as it is; or NULL */
    bool base64;                              /* embeddings are written so */
    uint32_t dimensions;                      /* of embeddings; 0: all */
    const char *structure_field;              /* that says what the answer has to be, or NULL */
    char *structure_text; /* what request.structure_text borrows, where it was written anew; owned */
    struct kvasir_request
        request; /* without prompt and bad words; its bias is owned by the body, as are all arrays above */
};
/* `api` is one of API_*. False: the refusal says which field is wrong. The caller releases `out` either way. */
MUST_CHECK bool body_parse(const char *bytes, size_t count, unsigned api, struct body *out, struct refusal *refusal);
/* The fields of an API as a JSON schema's properties, an object; `model`: the name that is served. */
void body_describe(unsigned api, const char *model, struct buffer *out);
/* Once it was submitted: lets go of the prompt and of what is long. */
void body_forget_prompt(struct body *body);
void body_release(struct body *body);

/* ---- response_input.c: items of /v1/responses ------------------------------------------------------------------------------ */

/* Turns instructions and items into messages, and the tools into those of chats; both are then in body->converted. */
MUST_CHECK bool response_input_convert(struct body *body, struct refusal *refusal);

/* ---- json.c: pieces of JSON that several replies have ---------------------------------------------------------------------- */

/* Members of an object, side by side. */
struct json_count {
    const char *name;
    uint64_t value;
};
void json_counts(const struct json_count *counts, size_t count, struct buffer *out);
void json_error(const struct refusal *refusal, struct buffer *out);
struct usage {
    uint64_t prompt, cached, output;
};
void json_usage(const struct usage *usage, struct buffer *out);
/* The bytes of one token, control tokens by their spelling. Fails into out->failed. */
void json_token_bytes(const struct kvasir_model *model, uint32_t id, struct buffer *out);
/* Members: what the engine and its KV cache tell, "bytes_…" of the cache. */
void json_stats(const struct kvasir_engine_stats *stats, struct buffer *out);
void json_finish(enum kvasir_finish finish, struct buffer *out); /* "stop", "length", null while running */

/* ---- kv_view.c: GET /kv ---------------------------------------------------------------------------------------------------------- */

struct api;
struct kv_view;
/* False: not enough memory. server->kv_view is to be closed either way. */
MUST_CHECK bool kv_view_open(struct server *server);
void kv_view_close(struct kv_view *view); /* connections first; NULL is allowed */
void kv_view_answer(struct server *server, struct evhttp_request *http, const struct api *api);
void kv_view_note(struct kv_view *view, const struct kvasir_timings *timings); /* of an answer that has ended */

/* ---- page.c: the page at / ------------------------------------------------------------------------------------------------------- */

struct page_file {
    const char *path, *type, *etag;
    const unsigned char *bytes; /* [count] */
    size_t count;
};
extern const struct page_file PAGE_FILES[]; /* [PAGE_FILE_COUNT], made by page/embed.cmake */
extern const size_t PAGE_FILE_COUNT;
const struct page_file *page_find(const char *path); /* or NULL */
/* To a path that page_find finds. */
void page_answer(struct server *server, struct evhttp_request *http, const struct api *api);

/* ---- log.c: one line for every request --------------------------------------------------------------------------------------- */

struct exchange; /* connection.h */
void log_exchange(const struct exchange *exchange);

/* ---- http.c: the server -------------------------------------------------------------------------------------------------------- */

struct tool_format;
struct reply;
struct server {
    struct server_config config;
    char url[300];
    int socket; /* bound; -1 once evhttp has it */
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *listener; /* NULL while draining */
    struct auth auth;
    SSL_CTX *tls; /* NULL: plain HTTP */
    struct metrics *metrics;
    struct connection *connections; /* all; see connection.h */
    uint32_t connection_count;
    uint32_t answering;        /* connections on which an answer is made or written */
    uint32_t answers;          /* of all replies */
    uint64_t prompt_tokens;    /* theirs, each answer's counted */
    bool listening;            /* connections are accepted */
    uint64_t incomplete_bytes; /* of requests that are not all there */
    struct event *signals[2], *updates, *drain, *keep_alive;
    struct kvasir_model *model;
    struct kvasir_async *async;
    struct kvasir_queue *queue;
    const struct tool_format *tools; /* how the model writes calls; NULL: it knows none */
    struct kv_view *kv_view;
    uint32_t kv_snapshots;               /* that it or a reply still uses */
    struct reply *replies;               /* all that have a client to answer or an answer to wait for */
    struct random random;                /* of ids */
    int64_t started;                     /* seconds since 1970 */
    bool draining, stopped, interrupted; /* by a signal; its limit is over; by a second signal */
};
/* A path that is answered. */
struct api;
struct route {
    const char *path; /* that of `api`, where that is not NULL */
    enum evhttp_cmd_type command;
    void (*answer)(struct server *server, struct evhttp_request *http, const struct api *api);
    const struct api *api;
};
const struct route *server_route(size_t index); /* NULL: there are no more */
const char *route_path(const struct route *route);

#define WRITE_TIMEOUT_S 120      /* of a client that reads nothing at all */
#define INCOMPLETE_BODIES_MAX 16 /* so many of the longest ones, in bytes, are waited for at once */

void server_drain(struct server *server);    /* no new connections and requests; ends when answers have */
void server_one_less(struct server *server); /* a reply or an answer: perhaps the last one */
/* A request was answered, or its client went away: it is logged and counted. */
void server_exchange_ended(struct server *server, const struct exchange *exchange);

#endif
