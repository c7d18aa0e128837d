/* http.c - the server: its address, its event loop, its routes, and how it stops.
 *
 *          server_run                 first signal                     no reply left, or a second past the limit
 *   open ──────────────▶ serving ──────────────────▶ draining ───────────────────────────────────────────────▶ stopped
 *                           └──────────────────────────────────── second signal ─────────────────────────────────┘
 *
 * The address is taken when the server is opened, before a model is loaded, so that a port in use costs no waiting; but
 * it listens only once it can answer. */
#include "server/access.h"
#include "server/admin.h"
#include "server/head.h"
#include "server/metrics.h"
#include "server/reply.h"
#include "server/tls.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 512
#define SEND_BUFFER_BYTES (32 << 10) /* the system's, of a connection */
#define UPDATES_MAX 256              /* taken before the loop looks at its sockets again */

/* ---- the address ------------------------------------------------------------------------------------------------------ */

static enum status set_url(struct server *server, struct error *error)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(server->socket, (struct sockaddr *)&address, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&address, bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return error_set(error, ST_IO, "the server's address cannot be read: %s", strerror(errno));
    bool wide = address.ss_family == AF_INET6;
    snprintf(server->url, sizeof server->url, "http%s://%s%.200s%s:%s", server->tls ? "s" : "", wide ? "[" : "", host,
             wide ? "]" : "", port);
    return ST_OK;
}

/* What is set here is inherited by connections. Small pieces go out at once; what a client has not read waits with us. */
static void set_options(int socket)
{
    const int one = 1, bytes = SEND_BUFFER_BYTES;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static enum status take_address(struct server *server, struct error *error)
{
    const char *host = server->config.host;
    char port[8];
    snprintf(port, sizeof port, "%u", server->config.port);
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    int failed = getaddrinfo(host, port, &wanted, &found);
    if (failed) return error_set(error, ST_IO, "--host %s: %s", host, gai_strerror(failed));
    server->socket = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    enum status status = ST_OK;
    if (server->socket >= 0) set_options(server->socket);
    if (server->socket < 0 || bind(server->socket, found->ai_addr, found->ai_addrlen) != 0)
        status = errno == EADDRINUSE
                     ? error_set(error, ST_IO, "port %s of %s is in use: choose another with --port", port, host)
                     : error_set(error, ST_IO, "cannot serve on %s, port %s: %s", host, port, strerror(errno));
    freeaddrinfo(found);
    return status;
}

#define DESCRIPTORS_BESIDE 192 /* connections: files, events, those over the limit */

/* One for each connection; where the system does not give them, fewer connections are accepted. */
static void reserve_descriptors(struct server *server)
{
    uint32_t *most = &server->config.connections_max;
    uint64_t given = process_descriptors((uint64_t)*most + DESCRIPTORS_BESIDE);
    if (given >= (uint64_t)*most + DESCRIPTORS_BESIDE) return;
    *most = given > DESCRIPTORS_BESIDE + 1 ? (uint32_t)given - DESCRIPTORS_BESIDE : 1;
    log_line(LOG_WARNING, "only %llu descriptors (ulimit -n): %u connections instead of --max-connections",
             (unsigned long long)given, *most);
}

/* Who listens to others without keys is told. */
static void warn_if_open(const struct server *server)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    if (server->auth.count || getsockname(server->socket, (struct sockaddr *)&address, &bytes) != 0) return;
    const struct in6_addr *wide = &((const struct sockaddr_in6 *)&address)->sin6_addr;
    uint32_t narrow = ntohl(((const struct sockaddr_in *)&address)->sin_addr.s_addr);
    bool loopback = address.ss_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(wide) : narrow >> 24 == 127;
    if (!loopback)
        log_line(LOG_WARNING, "no API keys: whoever reaches %s may use the model (--api-key-file)", server->url);
}

enum status server_open(const struct server_config *config, struct server **out, struct error *error)
{
    *out = NULL;
    struct server *server = mem_zero(1, sizeof *server);
    if (!server) return error_set(error, ST_NOMEM, "not enough memory for a server");
    server->config = *config;
    server->socket = -1;
    server->metrics = metrics_open();
    enum status status = server->metrics ? auth_init(&server->auth, config, error)
                                         : error_set(error, ST_NOMEM, "not enough memory for a server");
    if (status == ST_OK && !metrics_prefix_is_valid(config->metrics_prefix))
        status = error_set(error, ST_INVALID, "--metrics-prefix %s: letters, digits, '_' and ':' only",
                           config->metrics_prefix);
    if (status == ST_OK) reserve_descriptors(server);
    if (status == ST_OK && config->tls_key && !config->tls_cert)
        status = error_set(error, ST_INVALID, "--tls-key needs --tls-cert");
    if (status == ST_OK && config->tls_cert) status = tls_open(config->tls_cert, config->tls_key, &server->tls, error);
    if (status == ST_OK) status = take_address(server, error);
    if (status == ST_OK) status = set_url(server, error);
    if (status == ST_OK) warn_if_open(server);
    if (status != ST_OK) {
        server_close(server);
        return status;
    }
    *out = server;
    return ST_OK;
}

void server_close(struct server *server)
{
    if (!server) return;
    if (server->socket >= 0) close(server->socket);
    auth_release(&server->auth);
    metrics_close(server->metrics);
    tls_close(server->tls);
    mem_free(server);
}

const char *server_url(const struct server *server)
{
    return server->url;
}

/* ---- routes ----------------------------------------------------------------------------------------------------------- */

static void health(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)server, (void)api;
    struct buffer json;
    buffer_init(&json, 0);
    buffer_text(&json, "{\"status\":\"ok\"}");
    reply_json(http, 200, &json);
}

static void version(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)server, (void)api;
    struct buffer json;
    buffer_init(&json, 0);
    buffer_printf(&json, "{\"version\":\"%s\"}", kvasir_version());
    reply_json(http, 200, &json);
}

static void write_model(const struct server *server, struct buffer *out)
{
    struct kvasir_engine_stats stats;
    kvasir_async_stats(server->async, &stats);
    buffer_text(out, "{\"id\":");
    json_out_text(out, server->config.model_name, strlen(server->config.model_name));
    buffer_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"kvasir\",\"max_model_len\":%u}",
                  (long long)server->started, stats.context);
}

static void models(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct buffer json;
    buffer_init(&json, 0);
    buffer_text(&json, "{\"object\":\"list\",\"data\":[");
    write_model(server, &json);
    buffer_text(&json, "]}");
    reply_json(http, 200, &json);
}

static void one_model(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct buffer json;
    buffer_init(&json, 0);
    write_model(server, &json);
    reply_json(http, 200, &json);
}

/* clang-format off */
static const struct route ROUTES[] = {
    {"/health", EVHTTP_REQ_GET, health, NULL},
    {"/metrics", EVHTTP_REQ_GET, metrics_reply, NULL},
    {"/kv", EVHTTP_REQ_GET, kv_view_answer, NULL},
    {"/v1/models", EVHTTP_REQ_GET, models, NULL},
    {NULL, EVHTTP_REQ_POST, reply_begin, &COMPLETIONS},
    {NULL, EVHTTP_REQ_POST, reply_begin, &CHAT},
    {NULL, EVHTTP_REQ_POST, reply_begin, &RESPONSES},
    {NULL, EVHTTP_REQ_POST, reply_begin, &EMBEDDINGS},
    {"/tokenize", EVHTTP_REQ_POST, tokenize_answer, NULL},
    {"/detokenize", EVHTTP_REQ_POST, detokenize_answer, NULL},
    {"/version", EVHTTP_REQ_GET, version, NULL},
    {"/openapi.json", EVHTTP_REQ_GET, openapi_answer, NULL},
    {"/requests", EVHTTP_REQ_GET, admin_requests, NULL},
    {"/drain", EVHTTP_REQ_POST, admin_drain, NULL},
    {"/kv/stats", EVHTTP_REQ_GET, admin_kv_stats, NULL},
    {"/kv/pins", EVHTTP_REQ_GET, admin_kv_pins, NULL},
    {"/kv/pins", EVHTTP_REQ_POST, admin_change_pins, NULL},
};
/* clang-format on */
static const struct route MODEL_ROUTE = {"/v1/models/", EVHTTP_REQ_GET, one_model, NULL};
static const struct route PAGE_ROUTE = {"/", EVHTTP_REQ_GET, page_answer, NULL};

const struct route *server_route(size_t index)
{
    return index < ARRAY_COUNT(ROUTES) ? &ROUTES[index] : index == ARRAY_COUNT(ROUTES) ? &MODEL_ROUTE : NULL;
}

const char *route_path(const struct route *route)
{
    return route->api ? route->api->path : route->path;
}

/* The routes that everybody may ask, also where API keys are asked for: nothing of the model, the cache or other requests. */
static const char *const OPEN_PATHS[] = {"/health"};

static bool is_open(const char *path)
{
    if (page_find(path)) return true; /* plain files */
    for (size_t i = 0; i < ARRAY_COUNT(OPEN_PATHS); i++)
        if (strcmp(path, OPEN_PATHS[i]) == 0) return true;
    return false;
}

/* "/v1/models/NAME", NAME perhaps with %-escapes. */
static bool is_model_path(const struct server *server, const char *path)
{
    size_t length = strlen(MODEL_ROUTE.path);
    if (strncmp(path, MODEL_ROUTE.path, length) != 0) return false;
    size_t bytes = 0;
    char *name = evhttp_uridecode(path + length, 0, &bytes);
    bool same = name && bytes == strlen(name) && strcmp(name, server->config.model_name) == 0;
    free(name); /* libevent's */
    return same;
}

static const char *method_name(enum evhttp_cmd_type command)
{
    switch (command) {
    case EVHTTP_REQ_GET:
        return "GET";
    case EVHTTP_REQ_POST:
        return "POST";
    case EVHTTP_REQ_HEAD:
        return "HEAD";
    case EVHTTP_REQ_PUT:
        return "PUT";
    case EVHTTP_REQ_DELETE:
        return "DELETE";
    case EVHTTP_REQ_OPTIONS:
        return "OPTIONS";
    case EVHTTP_REQ_PATCH:
        return "PATCH";
    default:
        return "";
    }
}

static bool is_method(struct evhttp_request *http, const struct route *route)
{
    enum evhttp_cmd_type command = evhttp_request_get_command(http);
    return command == route->command || (command == EVHTTP_REQ_HEAD && route->command == EVHTTP_REQ_GET);
}

/* The row of the path, and of the method if there is one. */
static const struct route *find_route(const struct server *server, struct evhttp_request *http, const char *path)
{
    const struct route *found = NULL;
    for (size_t i = 0; i < ARRAY_COUNT(ROUTES) && !(found && is_method(http, found)); i++)
        if (strcmp(path, route_path(&ROUTES[i])) == 0) found = &ROUTES[i];
    if (found) return found;
    if (page_find(path)) return &PAGE_ROUTE;
    return is_model_path(server, path) ? &MODEL_ROUTE : NULL;
}

/* Answers, or says why not. */
static bool answer(struct server *server, struct evhttp_request *http, struct exchange *exchange,
                   struct refusal *refusal)
{
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(http));
    const struct route *route = find_route(server, http, path ? path : "");
    exchange->method = method_name(evhttp_request_get_command(http));
    exchange->route = route ? route_path(route) : "";
    if (!access_admit(server, http, path && is_open(path), exchange, refusal)) return false;
    if (server->draining) {
        evhttp_add_header(evhttp_request_get_output_headers(http), "Connection", "close");
        return refuse(refusal, 503, "", "the server is stopping");
    }
    if (!route) return refuse(refusal, 404, "", "there is nothing at %.200s", path ? path : "that address");
    if (access_preflight(http, method_name(route->command))) return true;
    if (!is_method(http, route)) {
        const char *method = method_name(route->command);
        evhttp_add_header(evhttp_request_get_output_headers(http), "Allow", method);
        return refuse(refusal, 405, "", "%.200s is for %s only", path, method);
    }
    route->answer(server, http, route->api);
    return true;
}

static void on_request(struct evhttp_request *http, void *data)
{
    struct server *server = data;
    struct connection *connection = connection_answer(server, http);
    struct refusal refusal;
    if (!connection)
        refuse_no_memory(&refusal, "request");
    else if (answer(server, http, connection_exchange(connection), &refusal))
        return;
    if (!connection) evhttp_add_header(evhttp_request_get_output_headers(http), "Connection", "close");
    reply_refuse(http, &refusal);
}

void server_exchange_ended(struct server *server, const struct exchange *exchange)
{
    metrics_exchange(server->metrics, exchange);
    log_exchange(exchange);
}

/* ---- the loop --------------------------------------------------------------------------------------------------------- */

static void on_updates(evutil_socket_t fd, short what, void *data)
{
    (void)fd, (void)what;
    struct server *server = data;
    struct kvasir_update update;
    for (int i = 0; i < UPDATES_MAX && kvasir_queue_take(server->queue, &update); i++) reply_update(&update);
}

/* A client, or a proxy before it, may take a silent connection for a dead one. */
static void on_keep_alive(evutil_socket_t fd, short what, void *data)
{
    (void)fd, (void)what;
    struct server *server = data;
    double now_s = clock_seconds();
    for (struct reply *reply = server->replies; reply; reply = reply->after) reply_keep_alive(reply, now_s);
}

/* The limit is over: what still runs is told so, and gets a second to be written out. */
static void on_drain(evutil_socket_t fd, short what, void *data)
{
    (void)fd, (void)what;
    struct server *server = data;
    struct refusal refusal;
    if (server->stopped) event_base_loopbreak(server->base);
    server->stopped = true;
    refuse(&refusal, 503, "", "the server has stopped before the answer was complete");
    for (struct reply *reply = server->replies, *after; reply; reply = after) {
        after = reply->after;
        reply_fail(reply, &refusal);
    }
    event_add(server->drain, &(struct timeval){.tv_sec = 1});
}

void server_one_less(struct server *server)
{
    if (server->draining && !server->replies && !server->answering) event_base_loopbreak(server->base);
}

void server_drain(struct server *server)
{
    if (server->draining) return;
    server->draining = true;
    evhttp_del_accept_socket(server->http, server->listener);
    server->listener = NULL;
    double limit = server->config.drain_s;
    event_add(server->drain, &(struct timeval){.tv_sec = (time_t)limit,
                                               .tv_usec = (suseconds_t)((limit - (double)(time_t)limit) * 1e6)});
    if (server->config.stopping) server->config.stopping(server->config.data);
    server_one_less(server);
}

static void on_signal(evutil_socket_t number, short what, void *data)
{
    (void)number, (void)what;
    struct server *server = data;
    if (!server->draining) {
        server_drain(server);
        return;
    }
    server->interrupted = true;
    event_base_loopbreak(server->base);
}

static bool open_http(struct server *server)
{
    server->http = evhttp_new(server->base);
    if (!server->http) return false;
    evhttp_set_max_headers_size(server->http, HEAD_BYTES_MAX);
    evhttp_set_bevcb(server->http, connection_new, server);
    evhttp_set_gencb(server->http, on_request, server);
    evhttp_set_allowed_methods(server->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT |
                                                 EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
    return true;
}

static bool open_events(struct server *server)
{
    const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        server->signals[i] = evsignal_new(server->base, numbers[i], on_signal, server);
        if (!server->signals[i] || event_add(server->signals[i], NULL) != 0) return false;
    }
    server->drain = evtimer_new(server->base, on_drain, server);
    server->updates = event_new(server->base, kvasir_queue_fd(server->queue), EV_READ | EV_PERSIST, on_updates, server);
    server->keep_alive = event_new(server->base, -1, EV_PERSIST, on_keep_alive, server);
    return server->drain && server->updates && event_add(server->updates, NULL) == 0 && server->keep_alive &&
           event_add(server->keep_alive, &(struct timeval){.tv_usec = 500000}) == 0;
}

static enum status start(struct server *server, struct error *error)
{
    struct kvasir_error reason;
    if (kvasir_queue_open(server->async, &server->queue, &reason) != KVASIR_OK)
        return error_set(error, (enum status)reason.status, "%s", reason.text);
    server->base = event_base_new();
    if (!server->base || !open_http(server) || !open_events(server) || !kv_view_open(server))
        return error_set(error, ST_NOMEM, "not enough memory for a server");
    if (listen(server->socket, BACKLOG) != 0)
        return error_set(error, ST_IO, "cannot serve on %s: %s", server->url, strerror(errno));
    server->listener = evhttp_accept_socket_with_handle(server->http, server->socket);
    if (!server->listener) return error_set(error, ST_NOMEM, "not enough memory for a server");
    server->socket = -1; /* evhttp's */
    server->listening = true;
    return ST_OK;
}

/* Connections first: their replies let go of them. Then the queue, after which nothing points to a reply. */
static void stop(struct server *server)
{
    server->listener = NULL; /* evhttp's */
    if (server->http) evhttp_free(server->http);
    connections_release(server);
    kv_view_close(server->kv_view);
    kvasir_queue_close(server->queue);
    while (server->replies) reply_free(server->replies);
    for (size_t i = 0; i < ARRAY_COUNT(server->signals); i++)
        if (server->signals[i]) event_free(server->signals[i]);
    if (server->updates) event_free(server->updates);
    if (server->drain) event_free(server->drain);
    if (server->keep_alive) event_free(server->keep_alive);
    if (server->base) event_base_free(server->base);
}

static void choose_tool_format(struct server *server)
{
    const char *name = server->config.tool_call_parser;
    struct kvasir_model_info info;
    kvasir_model_info(server->model, &info);
    server->tools = strcmp(name, "auto") == 0 ? tool_format_of_template(info.chat_template) : tool_format_find(name);
}

enum status server_run(struct server *server, struct kvasir_model *model, struct kvasir_async *async,
                       void (*ready)(void *data), void *data, struct error *error)
{
    uint64_t seed = 0;
    server->model = model;
    server->async = async;
    server->started = (int64_t)time(NULL);
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = (uint64_t)(clock_seconds() * 1e9);
    random_seed(&server->random, seed);
    choose_tool_format(server);
    /* The vocabulary is sorted for structures once, now rather than with the first request that wants one. */
    kvasir_structure_check(model, KVASIR_JSON_OBJECT, NULL, 0, NULL);
    enum status status = start(server, error);
    if (status == ST_OK) {
        ready(data);
        if (event_base_dispatch(server->base) < 0) status = error_set(error, ST_IO, "the event loop failed");
    }
    stop(server);
    if (status == ST_OK && server->interrupted) status = error_set(error, ST_CANCELLED, "stopped by a second signal");
    return status;
}
