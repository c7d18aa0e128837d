/* connection.h - one client's connection, as far as libevent's evhttp does not look after it: how many there may be, how long
 * and how much a request may take to come, and who is told when a client goes away.
 *
 *            head is there, and good        body is there            answer is written
 *   ┌─ head ─────────────────────────▶ body ──────────────▶ answer ──────────────────────┐
 *   │    │                               │                    │ the client goes away      │
 *   │    └── bad, too long, too late ────┴──▶ refused ──▶ closed ◀────────────────────── │
 *   └────────────────────────────────────────────────────────────────────────────────────┘
 *
 * A head is gathered here and given to evhttp whole, when head.h has checked it. A request must be there REQUEST_S after its
 * first byte, and a second later for each REQUEST_BYTES_PER_S that came: bytes in drops do not help (slowloris). While an
 * answer is made we read on, since evhttp would not, and so would not notice a client that goes away. (An event for EV_CLOSED
 * would miss resets: libevent's epoll reports those as readable.) Whoever closes one direction only has gone away too. */
#ifndef SERVER_CONNECTION_H
#define SERVER_CONNECTION_H
#include "server/auth.h"
#include "server/server_internal.h"

#define REQUEST_S 10
#define REQUEST_BYTES_PER_S (64u << 10)
#define REQUEST_ID_MAX 128u

/* One request and its answer, for the log and the metrics. */
struct exchange {
    char id[REQUEST_ID_MAX + 1]; /* the client's, if it sent one that is sane, or ours */
    const char *method, *route;  /* of the tables; "" where there is none */
    const struct api_key *key;   /* or NULL */
    double began_s;              /* clock_seconds */
    int status;                  /* of HTTP; 499: the client went away */
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    double ttft_s; /* 0: there was no token */
    bool cut;      /* these tokens are not all: the answer was cancelled, and how many were cached is not known */
};

struct connection;
/* For evhttp_set_bevcb: `server` is a struct server *. */
struct bufferevent *connection_new(struct event_base *base, void *server);
/* Lets go of those that evhttp does not own yet; evhttp is freed already. */
void connections_release(struct server *server);
/* Of a request that evhttp has read; NULL: there was no memory to look after it. From here on it is answered. */
struct connection *connection_answer(struct server *server, struct evhttp_request *http);
struct connection *connection_of(struct server *server, struct evhttp_request *http);
struct exchange *connection_exchange(struct connection *connection);
/* While an answer is made: `gone` is called once if the client leaves before all was written, else `written`. The request is
 * evhttp's to free unless it has no connection any more when `gone` is called. */
void connection_watch(struct connection *connection, void (*gone)(void *data), void (*written)(void *data), void *data);
void connection_unwatch(struct connection *connection);

#endif
