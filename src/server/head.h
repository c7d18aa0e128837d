/* head.h - the head of an HTTP/1 request (request line and header fields), checked before libevent parses it.
 *
 * Stricter than RFC 9112 allows to be, wherever two parsers could read one message in two ways (request smuggling): lines end
 * in CRLF; no space before a colon, no folded lines; Content-Length at most once, in digits; Transfer-Encoding at most once,
 * "chunked" alone, never beside Content-Length nor in HTTP/1.0; Host once (HTTP/1.0: at most once); no body where libevent
 * would not read it. No sockets: fuzzed by tests/fuzz/fuzz_http_head.c. */
#ifndef SERVER_HEAD_H
#define SERVER_HEAD_H
#include "server/server_internal.h"

#define HEAD_BYTES_MAX (32u << 10)
#define HEAD_FIELDS_MAX 100u

/* Bytes of the head at the beginning of `data`, its closing empty line included; 0: it is not all there. *checked: bytes that
 * were looked at before (0 at first), so that a head that comes byte by byte is read once. False: it is not going to be a
 * head, or is too long. */
MUST_CHECK bool head_find(const char *data, size_t bytes, size_t *checked, size_t *out, struct refusal *refusal);
/* The head of `bytes` bytes that head_find found; a body that says to be longer than `body_max` is refused, too. */
MUST_CHECK bool head_check(const char *data, size_t bytes, uint64_t body_max, struct refusal *refusal);

#endif
