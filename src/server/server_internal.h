/* server_internal.h - shared by the server's files only; grouped by file. */
#ifndef SERVER_SERVER_INTERNAL_H
#define SERVER_SERVER_INTERNAL_H
#include "server/server.h"
#include <event2/event.h>
#include <event2/http.h>
#include <jansson.h>

/* ---- refusals: an error as the client gets it ----------------------------------------------------------------------- */

struct refusal {
    int status;       /* of HTTP */
    const char *code; /* for programs, or NULL */
    char param[64];   /* the field that is wrong, or "" */
    char message[500];
};
/* Fills it and returns false, so that one can `return refuse(…)`. */
bool refuse(struct refusal *out, int status, const char *param, const char *format, ...) PRINTF_LIKE(4, 5);
/* What the library would not do: the fault of the field `param`, or of the server. */
bool refuse_library(struct refusal *out, const char *param, const struct kvasir_error *error);

/* ---- body.c: the JSON of a request to parameters; no sockets, no model ------------------------------------------------- */

enum { API_COMPLETIONS = 1, API_CHAT = 2 };

struct body {
    json_t *json;                  /* owned; all that is borrowed below is its */
    const char *model;             /* or NULL */
    const json_t *prompt;          /* of completions: a text, ids, or an array of either */
    const json_t *messages;        /* of a chat: an array */
    bool stream, include_usage;    /* usage in the stream's last chunk */
    bool logprobs;                 /* wanted; request.logprobs is then at least 1 */
    uint32_t alternatives;         /* to be shown for each token */
    struct kvasir_request request; /* without prompt; its arrays are owned by the body */
};
/* `api` is one of API_*. False: the refusal says which field is wrong. The caller releases `out` either way. */
MUST_CHECK bool body_parse(const char *bytes, size_t count, unsigned api, struct body *out, struct refusal *refusal);
void body_release(struct body *body);

/* ---- completions.c, chat.c: the two APIs -------------------------------------------------------------------------------- */

#define PROMPTS_MAX 64u
#define ANSWERS_MAX 128u /* to all prompts of one request */

struct prompts {
    struct {
        uint32_t *ids; /* the library's */
        size_t count;
    } items[PROMPTS_MAX];
    uint32_t count;
};

/* Log-probabilities so far unsent, as the inside of JSON arrays; those of completions are four arrays side by side. */
struct logprobs {
    struct buffer tokens, values, tops, offsets;
};

/* One answer to one prompt. */
struct choice {
    struct reply *reply;
    uint32_t index;
    uint64_t id;            /* in the engine's queue, the same for all answers to a prompt */
    bool prompt_is_counted; /* in the usage, with this one */
    struct buffer text;     /* unsent */
    size_t offset;          /* of the next token in the text, of completions with logprobs */
    struct logprobs logprobs;
    enum kvasir_finish finish;
    struct kvasir_timings timings;
};

/* An API is a row: what it reads and writes. */
struct api {
    const char *path;
    unsigned bit;
    const char *id_prefix, *object, *chunk_object;
    const char *opening; /* inside of the first chunk's choice, or NULL */
    const char *closing; /* inside of the last one's */
    bool (*prompts)(const struct kvasir_model *model, const struct body *body, struct prompts *out,
                    struct refusal *refusal);
    /* Inside of a choice: the text and logprobs that are unsent, in a whole reply or in a chunk. */
    void (*whole)(const struct choice *choice, struct buffer *out);
    void (*delta)(const struct choice *choice, struct buffer *out);
    /* Adds a token to the choice's log-probabilities. */
    void (*logprob)(const struct kvasir_model *model, uint32_t alternatives, const struct kvasir_token *token,
                    struct choice *choice);
};
extern const struct api COMPLETIONS, CHAT;

/* ---- json.c: pieces of JSON that several replies have ---------------------------------------------------------------------- */

void json_error(const struct refusal *refusal, struct buffer *out);
struct usage {
    uint64_t prompt, cached, output;
};
void json_usage(const struct usage *usage, struct buffer *out);
/* The bytes of one token, control tokens by their spelling. Fails into out->failed. */
void json_token_bytes(const struct kvasir_model *model, uint32_t id, struct buffer *out);
void json_finish(enum kvasir_finish finish, struct buffer *out); /* "stop", "length", null while running */

/* ---- reply.c: one request being answered ------------------------------------------------------------------------------------- */

/* Reads the body, submits and begins the reply; whatever is wrong is answered. */
void reply_begin(struct server *server, struct evhttp_request *http, const struct api *api);
void reply_update(const struct kvasir_update *update);
/* Ends it with an error, as well as that still can be told, and cancels what it waits for. */
void reply_fail(struct reply *reply, const struct refusal *refusal);
struct reply *reply_next(struct reply *reply); /* in server->replies */
void reply_free(struct reply *reply);
void reply_refuse(struct evhttp_request *http, const struct refusal *refusal);
void reply_json(struct evhttp_request *http, int status, struct buffer *json); /* releases it */

/* ---- http.c: the server -------------------------------------------------------------------------------------------------------- */

struct server {
    struct server_config config;
    char url[300];
    int socket; /* bound; -1 once evhttp has it */
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *listener; /* NULL while draining */
    struct event *signals[2], *updates, *drain;
    struct kvasir_model *model;
    struct kvasir_async *async;
    struct kvasir_queue *queue;
    struct reply *replies;               /* all that have a client to answer or an answer to wait for */
    struct random random;                /* of ids */
    int64_t started;                     /* seconds since 1970 */
    bool draining, stopped, interrupted; /* by a signal; its limit is over; by a second signal */
};
#define READ_TIMEOUT_S 60   /* of a connection on which a request is awaited, or its rest */
#define WRITE_TIMEOUT_S 120 /* of a client that reads nothing at all */

void server_reply_gone(struct server *server); /* one reply less: perhaps the last one */

#endif
