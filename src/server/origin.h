/* origin.h - which websites may talk to the server through a visitor's browser: none, unless named.
 *
 * Two attacks on a server without keys, often on loopback, are met. DNS rebinding: a website's name is made to point here, and
 * its script asks "its own" server; so the Host header must be an address, localhost, what the server was bound to by name, or
 * allowed. Cross-site requests: a browser says in the Origin header whose script asks; it must be the server's own page or
 * allowed (https://fetch.spec.whatwg.org/#cors-protocol). Programs that are no browsers send no Origin. */
#ifndef SERVER_ORIGIN_H
#define SERVER_ORIGIN_H
#include "base/base.h"

/* Lists are separated by commas, each text perhaps itself a list, or one as vLLM has it: ["a","b"]; "*" allows all. Hosts: "name", "name:port", "*.domain". */
struct name_list {
    const char *const *items; /* [count], borrowed */
    size_t count;
};
/* May a request name this host (the Host header's value)? `bound`: what the server listens on, as configured. */
bool origin_host_is_allowed(const struct name_list *allowed, const char *bound, const char *host);
/* May a script of this origin (scheme, name and perhaps port) ask a server addressed as `host`? */
bool origin_is_allowed(const struct name_list *allowed, const char *host, const char *origin);

#endif
