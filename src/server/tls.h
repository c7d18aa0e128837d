/* tls.h - HTTPS: TLS 1.2 and 1.3 by OpenSSL, under the same connections. */
#ifndef SERVER_TLS_H
#define SERVER_TLS_H
#include "server/server.h"
#include <event2/event.h>
#include <openssl/types.h>

/* ST_INVALID: which file is no certificate or key, or that they do not belong together. */
MUST_CHECK enum status tls_open(const char *cert, const char *key, SSL_CTX **out, struct error *error);
void tls_close(SSL_CTX *tls); /* NULL is allowed */
/* A connection's stream, without a socket yet; `tls` NULL: plain. NULL: no memory. */
struct bufferevent *tls_stream(struct event_base *base, SSL_CTX *tls);

#endif
