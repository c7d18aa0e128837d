/* auth.c - API keys; see auth.h. No sockets. */
#include "server/auth.h"
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define KEY_FILE_BYTES_MAX (1u << 20)

static bool is_key_byte(char c)
{
    return c > ' ' && c < 0x7f;
}

static bool name_is_valid(const char *name, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!is_key_byte(name[i]) || strchr("\"\\,", name[i])) return false;
    return bytes && bytes <= API_KEY_NAME_MAX;
}

static uint64_t salt_of(const unsigned char digest[32], uint64_t asked)
{
    static const char purpose[] = "kvasir cache salt";
    unsigned char text[sizeof purpose + 32 + sizeof asked], hash[SHA256_DIGEST_LENGTH];
    memcpy(text, purpose, sizeof purpose);
    memcpy(text + sizeof purpose, digest, 32);
    memcpy(text + sizeof purpose + 32, &asked, sizeof asked);
    SHA256(text, sizeof text, hash);
    uint64_t salt;
    memcpy(&salt, hash, sizeof salt);
    return salt | 1;
}

uint64_t auth_salt(const struct api_key *key, uint64_t asked)
{
    return asked ? salt_of(key->digest, asked) : key->salt;
}

/* `where` says which key is wrong. */
static enum status key_add(struct auth *auth, const char *text, size_t bytes, const char *name, size_t name_bytes,
                           const char *where, struct error *error)
{
    bool valid = bytes && bytes <= API_KEY_BYTES_MAX;
    for (size_t i = 0; i < bytes && valid; i++) valid = is_key_byte(text[i]);
    if (!valid)
        return error_set(error, ST_INVALID, "%s: a key is 1 to %u visible ASCII characters", where, API_KEY_BYTES_MAX);
    if (name && !name_is_valid(name, name_bytes))
        return error_set(error, ST_INVALID, "%s: a key's name is 1 to %u visible ASCII characters but \" \\ ,", where,
                         API_KEY_NAME_MAX);
    if (auth->count == API_KEYS_MAX) return error_set(error, ST_LIMIT, "%s: more than %u keys", where, API_KEYS_MAX);
    struct api_key *keys = mem_resize(auth->keys, (auth->count + 1) * sizeof *keys);
    if (!keys) return error_set(error, ST_NOMEM, "not enough memory for API keys");
    auth->keys = keys;
    struct api_key *key = &keys[auth->count++];
    *key = (struct api_key){.salt = 0};
    SHA256((const unsigned char *)text, bytes, key->digest);
    key->salt = salt_of(key->digest, 0);
    if (name)
        snprintf(key->name, sizeof key->name, "%.*s", (int)name_bytes, name);
    else
        snprintf(key->name, sizeof key->name, "key%u", auth->count);
    return ST_OK;
}

static enum status file_add(struct auth *auth, const char *path, struct error *error)
{
    struct buffer text;
    enum status status = file_read(path, KEY_FILE_BYTES_MAX, &text, error);
    struct stat about;
    if (status == ST_OK && stat(path, &about) == 0 && about.st_mode & 077)
        log_line(LOG_WARNING, "%s: others on this machine can read the API keys: chmod 600", path);
    if (status == ST_OK && strlen(text.data) != text.length)
        status = error_set(error, ST_INVALID, "%s: a zero byte in it: API keys are a text file", path);
    unsigned line = 0;
    for (const char *p = text.data; p && *p && status == ST_OK;) {
        size_t bytes = strcspn(p, "\r\n"), key = strcspn(p, " \t\r\n");
        const char *name = p + key + strspn(p + key, " \t");
        size_t name_bytes = (size_t)(p + bytes - name);
        char where[300];
        snprintf(where, sizeof where, "%.200s, line %u", path, ++line);
        if (bytes && *p != '#') status = key_add(auth, p, key, name_bytes ? name : NULL, name_bytes, where, error);
        p += bytes;
        p += *p == '\r' && p[1] == '\n';
        p += *p != 0;
    }
    if (text.data) OPENSSL_cleanse(text.data, text.length);
    buffer_release(&text);
    return status;
}

enum status auth_init(struct auth *out, const struct server_config *config, struct error *error)
{
    *out = (struct auth){.keys = NULL};
    enum status status = ST_OK;
    for (size_t i = 0; i < config->api_key_count && status == ST_OK; i++)
        status = key_add(out, config->api_keys[i], strlen(config->api_keys[i]), NULL, 0, "--api-key", error);
    if (status != ST_OK || !config->api_key_file) return status;
    status = file_add(out, config->api_key_file, error);
    if (status == ST_OK && !out->count) /* a server that was meant to have keys is not opened without */
        status = error_set(error, ST_INVALID, "%s: there is no key in it", config->api_key_file);
    return status;
}

void auth_release(struct auth *auth)
{
    mem_free(auth->keys);
    *auth = (struct auth){.keys = NULL};
}

const struct api_key *auth_find(const struct auth *auth, const char *authorization, const char *x_api_key)
{
    const char *key = x_api_key;
    if (authorization && strncasecmp(authorization, "bearer ", 7) == 0)
        key = authorization + 7 + strspn(authorization + 7, " ");
    if (!key) return NULL;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)key, strlen(key), digest);
    const struct api_key *found = NULL;
    for (uint32_t i = 0; i < auth->count; i++) /* all of them, found or not */
        if (CRYPTO_memcmp(digest, auth->keys[i].digest, sizeof digest) == 0) found = &auth->keys[i];
    return found;
}
