/* reply.h - one request being answered, as the files that write answers see it: reply.c moves bytes and updates, and an API is
 * a row (struct api) that says how its prompts are read, and in what frames its answers go out (struct framing). */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H
#include "server/connection.h"
#include "server/tools.h"

#define PROMPTS_MAX 64u  /* of one request for answers */
#define INPUTS_MAX 2048u /* of one request for embeddings */

struct prompts {
    struct prompt {
        uint32_t *ids; /* the library's */
        size_t count;
        const json_t *text; /* borrowed from the body; NULL: it was not given as one */
    } * items;              /* owned */
    uint32_t count;
};
void prompts_release(struct prompts *prompts);
/* body->prompt, which came from the field `name`: a text, token ids, or an array of either, at most `high`. */
MUST_CHECK bool prompts_read(const struct server *server, const struct body *body, const char *name, uint32_t high,
                             struct prompts *out, struct refusal *refusal);
/* body->messages, by the chat template. */
MUST_CHECK bool prompts_render(const struct server *server, const struct body *body, struct prompts *out,
                               struct refusal *refusal);
/* Each to its last body->truncate_prompt_tokens. */
void prompts_truncate(const struct body *body, struct prompts *prompts);

/* Log-probabilities so far unsent, as the inside of JSON arrays; those of completions are four arrays side by side. */
struct logprobs {
    struct buffer tokens, values, tops, offsets;
};

/* One answer to one prompt. */
struct choice {
    struct reply *reply;
    uint32_t index;
    uint64_t id;               /* in the engine's queue, the same for all answers to a prompt */
    bool prompt_is_counted;    /* in the usage, with this one */
    struct buffer text;        /* unsent */
    struct tool_parser *tools; /* takes the calls out of the text, or NULL */
    size_t offset;             /* of the next token in the text, of completions with logprobs */
    struct logprobs logprobs;
    struct buffer prompt_logprobs, prompt_ids, token_ids; /* insides of JSON arrays; token_ids: unsent */
    struct buffer embedding;                              /* floats */
    struct response_writer *writer;                       /* of /v1/responses, or NULL */
    uint64_t prompt_tokens, output_tokens;                /* so far */
    bool enough;                                          /* more is not wanted: it ends as if by itself */
    uint32_t prompt_done;
    double told_s; /* clock_seconds: its last tokens came; 0 = none yet, or their time says nothing */
    enum kvasir_finish finish;
};

struct reply {
    struct server *server;
    const struct api *api;
    struct body body;                     /* without its prompt, which was submitted */
    struct reply *before, *after;         /* in server->replies */
    struct evhttp_request *http;          /* NULL: there is no client any more */
    struct evhttp_connection *connection; /* of it */
    struct connection *client;            /* the same, as connection.h knows it */
    bool ended;                           /* all is handed to evhttp */
    bool held;                            /* in the queue: too much is unsent */
    double began_s;                       /* the request's first byte came */
    double sent_s;                        /* when something was last written */
    char id[64];
    int64_t created;
    struct usage usage;
    uint32_t unfinished, count;
    uint32_t held_answers; /* what it adds to server->answers and server->prompt_tokens */
    uint64_t held_tokens;
    struct choice choices[]; /* [count] */
};

/* How answers are written. What goes into a stream is whole server-sent events; appending nothing sends nothing. */
struct framing {
    bool (*start)(struct choice *choice,
                  const struct prompt *prompt); /* before it is submitted; false: no memory. Or NULL */
    void (*take)(struct choice *choice, const struct kvasir_event *event); /* keeps what is to be written */
    bool (*failed)(const struct choice *choice);                           /* … for which there was no memory */
    void (*whole)(struct reply *reply, struct buffer *out);
    void (*open)(struct reply *reply, struct buffer *out);    /* before the first token */
    void (*piece)(struct choice *choice, struct buffer *out); /* what is unsent, which then is sent */
    void (*close)(struct choice *choice, struct buffer *out); /* the end of one answer */
    void (*last)(struct reply *reply, struct buffer *out);    /* … and of all */
    void (*fail)(struct reply *reply, const struct refusal *refusal, struct buffer *out);
};

/* An API is a row: what it reads and writes. */
struct api {
    const char *path;
    unsigned bit;
    const char *id_prefix,
        *param;           /* id_prefix: with what parts it from the rest; param: the field that prompts come from */
    uint32_t answers_max; /* to one request */
    bool (*prompts)(const struct server *server, struct body *body, struct prompts *out, struct refusal *refusal);
    const struct framing *framing;
    const struct choice_format *format; /* of CHOICES */
};
extern const struct api COMPLETIONS, CHAT, EMBEDDINGS, RESPONSES;

/* ---- choices.c: the frame of completions and chats: {"id", "object", "choices": […], "usage"} ------------------------------- */

extern const struct framing CHOICES;
struct choice_format {
    const char *object, *chunk_object;
    const char *opening; /* inside of the first chunk's choice, or NULL */
    const char *closing; /* inside of the last one's */
    bool prompt_inside;  /* what is told of the prompt stands in every choice, else once */
    /* Inside of a choice: the text and logprobs that are unsent, in a whole reply or in a chunk. */
    void (*whole)(const struct choice *choice, struct buffer *out);
    void (*delta)(const struct choice *choice, struct buffer *out);
    /* Inside of a chunk's choice: the next piece of a tool call, which then is sent; false: there is none. NULL: never. */
    bool (*call_delta)(struct choice *choice, struct buffer *out);
    /* Adds a token to the choice's log-probabilities. */
    void (*logprob)(const struct kvasir_model *model, uint32_t alternatives, const struct kvasir_token *token,
                    struct choice *choice);
};
void choice_take(struct choice *choice, const struct kvasir_event *event); /* text, calls, log-probabilities, ids */
/* "call_…", unique to the answer. */
void choice_call_id(const struct choice *choice, uint32_t call, struct buffer *out);

/* ---- chat.c, responses.c --------------------------------------------------------------------------------------------------- */

/* Appends {"token", "logprob", "bytes", "top_logprobs"} to choice->logprobs.tokens. */
void chat_logprob(const struct kvasir_model *model, uint32_t alternatives, const struct kvasir_token *token,
                  struct choice *choice);
void response_writer_close(struct response_writer *writer); /* NULL is allowed */

/* ---- reply.c ------------------------------------------------------------------------------------------------------------- */

/* The request's body, for the model that is served. The caller releases `body` either way. */
MUST_CHECK bool reply_read_body(const struct server *server, struct evhttp_request *http, unsigned api,
                                struct body *body, struct refusal *refusal);
/* Reads the body, submits and begins the reply; whatever is wrong is answered. */
void reply_begin(struct server *server, struct evhttp_request *http, const struct api *api);
void reply_update(const struct kvasir_update *update);
void reply_keep_alive(struct reply *reply, double now_s); /* a comment in a stream that was silent for long */
/* Ends it with an error, as well as that still can be told, and cancels what it waits for. */
void reply_fail(struct reply *reply, const struct refusal *refusal);
void reply_free(struct reply *reply);
/* An object: "id", "route", "key", "phase", "age_s", "answers", "prompt_tokens", "prompt_done", "output_tokens". */
void reply_describe(const struct reply *reply, struct buffer *out);
void reply_refuse(struct evhttp_request *http, const struct refusal *refusal);
void reply_no_memory(struct evhttp_request *http);                             /* answers 503 */
void reply_json(struct evhttp_request *http, int status, struct buffer *json); /* releases it */
/* The same for any text that is no error. */
void reply_text(struct evhttp_request *http, const char *type, struct buffer *text);

/* ---- tokenize.c: routes that only need the tokenizer ------------------------------------------------------------------------ */

void tokenize_answer(struct server *server, struct evhttp_request *http, const struct api *api);
void detokenize_answer(struct server *server, struct evhttp_request *http, const struct api *api);

/* ---- openapi.c: /openapi.json ----------------------------------------------------------------------------------------------- */

/* Appends the document: an object. */
void openapi_write(const struct server *server, struct buffer *out);
void openapi_answer(struct server *server, struct evhttp_request *http, const struct api *api);

#endif
