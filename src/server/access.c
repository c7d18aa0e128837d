/* access.c - see access.h. */
#include "server/access.h"
#include "server/origin.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *header(struct evhttp_request *http, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(http), name);
}

static void reply_header(struct evhttp_request *http, const char *name, const char *value)
{
    evhttp_add_header(evhttp_request_get_output_headers(http), name, value);
}

/* The client's own, where it is sane, so that its log and ours can be read side by side. It is told and logged, and is no key
 * to anything (CVE-2026-105755). */
static void give_id(struct server *server, struct evhttp_request *http, struct exchange *exchange)
{
    const char *id = header(http, "X-Request-Id");
    size_t bytes = id ? strlen(id) : 0;
    for (size_t i = 0; i < bytes; i++)
        if (id[i] <= ' ' || id[i] >= 0x7f || strchr("\"\\<>", id[i])) bytes = 0;
    if (bytes && bytes <= REQUEST_ID_MAX)
        memcpy(exchange->id, id, bytes + 1);
    else
        snprintf(exchange->id, sizeof exchange->id, "req-%016llx%016llx",
                 (unsigned long long)random_next(&server->random), (unsigned long long)random_next(&server->random));
    reply_header(http, "X-Request-Id", exchange->id);
}

/* With keys there is nothing that another website's script, which has none, could do under any name. */
static bool admit_host(const struct server *server, struct evhttp_request *http, struct refusal *refusal)
{
    const struct server_config *config = &server->config;
    const struct name_list allowed = {config->allowed_hosts, config->allowed_host_count};
    const char *host = header(http, "Host");
    if (server->auth.count || !host || origin_host_is_allowed(&allowed, config->host, host)) return true;
    return refuse(refusal, 403, "", "this server is not known as %.200s here: --allowed-hosts names it", host);
}

static bool admit_origin(const struct server *server, struct evhttp_request *http, struct refusal *refusal)
{
    const struct server_config *config = &server->config;
    const struct name_list allowed = {config->allowed_origins, config->allowed_origin_count};
    const char *host = header(http, "Host"), *origin = header(http, "Origin");
    if (!origin) return true;
    if (!origin_is_allowed(&allowed, host ? host : "", origin))
        return refuse(refusal, 403, "",
                      "websites of %.200s may not ask this server: --allowed-origins names those that may", origin);
    reply_header(http, "Access-Control-Allow-Origin", origin);
    reply_header(http, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
    reply_header(http, "Vary", "Origin");
    return true;
}

static bool is_preflight(struct evhttp_request *http)
{
    return evhttp_request_get_command(http) == EVHTTP_REQ_OPTIONS && header(http, "Origin") &&
           header(http, "Access-Control-Request-Method");
}

static bool admit_key(const struct server *server, struct evhttp_request *http, struct exchange *exchange,
                      struct refusal *refusal)
{
    exchange->key = auth_find(&server->auth, header(http, "Authorization"), header(http, "X-Api-Key"));
    if (exchange->key) return true;
    reply_header(http, "WWW-Authenticate", "Bearer realm=\"kvasir\"");
    refuse(refusal, 401, "", "an API key is needed: Authorization: Bearer KEY, with a key that this server knows");
    refusal->code = "invalid_api_key";
    return false;
}

bool access_admit(struct server *server, struct evhttp_request *http, bool open, struct exchange *exchange,
                  struct refusal *refusal)
{
    give_id(server, http, exchange);
    if (!admit_host(server, http, refusal) || !admit_origin(server, http, refusal)) return false;
    return open || !server->auth.count || is_preflight(http) || admit_key(server, http, exchange, refusal);
}

bool access_preflight(struct evhttp_request *http, const char *method)
{
    if (!is_preflight(http)) return false;
    const char *headers = header(http, "Access-Control-Request-Headers");
    reply_header(http, "Access-Control-Allow-Methods", method);
    reply_header(http, "Access-Control-Allow-Headers", headers ? headers : "Authorization, Content-Type");
    reply_header(http, "Access-Control-Max-Age", "600");
    evhttp_send_reply(http, 204, NULL, NULL);
    return true;
}
