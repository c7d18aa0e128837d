/* auth.h - API keys: who may ask, told by "Authorization: Bearer KEY" or "X-Api-Key: KEY".
 *
 * Of a key only its SHA-256 is kept; a presented one is compared with all of them in time that depends on neither. Every key is
 * a tenant of its own, and has a cache salt of its own, so that what one key's prompts left in the KV cache cannot be noticed by
 * another's (by time: CVE-2025-46570; or as cached_tokens). No key is ever printed or logged; its name may be. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H
#include "server/server.h"

#define API_KEYS_MAX 4096u
#define API_KEY_BYTES_MAX 1024u
#define API_KEY_NAME_MAX 64u

struct api_key {
    unsigned char digest[32]; /* SHA-256 */
    char name[API_KEY_NAME_MAX + 1];
    uint64_t salt; /* of the cache, and the tenant; never 0 */
};
struct auth {
    struct api_key *keys; /* [count]; none: everybody may ask */
    uint32_t count;
};
/* The config's keys and its key file's: lines "KEY" or "KEY NAME", '#' begins a comment. ST_INVALID: the line that is no key,
 * without telling it. The caller releases `out` either way. */
MUST_CHECK enum status auth_init(struct auth *out, const struct server_config *config, struct error *error);
void auth_release(struct auth *auth);
/* The key of a request with these header values (NULL: absent), or NULL. */
const struct api_key *auth_find(const struct auth *auth, const char *authorization, const char *x_api_key);
/* The salt for a request of `key` that asked for `asked` (0: for none). */
uint64_t auth_salt(const struct api_key *key, uint64_t asked);

#endif
