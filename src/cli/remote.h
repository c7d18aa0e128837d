/* remote.h - asking a running server over HTTP (libcurl), for `kvasir ps`, `stop` and `cache`. */
#ifndef CLI_REMOTE_H
#define CLI_REMOTE_H
#include "cli/cli.h"
#include <jansson.h>

/* One request to --url, with --api-key's first key. `body` NULL: GET, else POST. *json, the answer, is the caller's. An answer
 * that is an error of HTTP becomes `error`, with what the server says. */
MUST_CHECK enum status remote_ask(const struct options *options, const char *path, const json_t *body, json_t **json,
                                  struct error *error);

#endif
