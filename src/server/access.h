/* access.h - whether a request may be answered at all: its Host and Origin (origin.h), and its API key (auth.h). */
#ifndef SERVER_ACCESS_H
#define SERVER_ACCESS_H
#include "server/connection.h"

/* Gives the exchange its id, and the reply X-Request-Id and, where a website may read it, the headers that say so. False: the
 * refusal. Host and Origin are checked for all; a key is asked for unless the route is `open`, and then in exchange->key. */
MUST_CHECK bool access_admit(struct server *server, struct evhttp_request *http, bool open, struct exchange *exchange,
                             struct refusal *refusal);
/* Is it a browser asking whether a website may ask (CORS preflight)? Then it is answered; call after access_admit. */
bool access_preflight(struct evhttp_request *http, const char *method);

#endif
