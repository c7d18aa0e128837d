/* store_wire.c - a connection to a server: URL, socket, deadlines. A server may be slow, gone, or hostile: every wait ends at the
 * deadline, and what is not yet understood of its replies never grows past what was asked for. Only looking up a name takes as
 * long as the system's resolver does. */
#include "kv/store_wire.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SCHEME "redis://"
#define RECEIVE_BYTES 65536u
#define LINE_BYTES 1024u /* of what surrounds a value, and of a message */
#define DATABASE_MAX 65535u

/* ---- the URL --------------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* A part of a URL with its %XX decoded; NULL: a bad one, or no memory. */
static char *decoded(const char *text, size_t bytes)
{
    struct buffer out;
    buffer_init(&out, 0);
    buffer_append(&out, "", 0);
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < bytes ? hex_digit(text[i + 1]) : -1, low = high < 0 ? -1 : hex_digit(text[i + 2]);
            if (low < 0 || (high | low) == 0) {
                buffer_release(&out);
                return NULL;
            }
            c = (char)(high << 4 | low);
            i += 2;
        }
        buffer_append(&out, &c, 1);
    }
    return buffer_take(&out);
}

static bool whole_number(const char *text, size_t bytes, uint32_t high, uint32_t *out)
{
    *out = 0;
    if (!bytes || bytes > 5) return false;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        *out = *out * 10 + (uint32_t)(text[i] - '0');
    }
    return *out <= high;
}

static bool parse_user(struct wire *wire, const char *text, size_t bytes)
{
    const char *colon = memchr(text, ':', bytes);
    if (!colon) return false;
    if (colon > text) {
        wire->user = decoded(text, (size_t)(colon - text));
        if (!wire->user) return false;
    }
    wire->password = decoded(colon + 1, bytes - (size_t)(colon + 1 - text));
    return wire->password != NULL;
}

/* HOST, HOST:PORT, [IPV6], [IPV6]:PORT */
static bool parse_address(struct wire *wire, const char *text, size_t bytes)
{
    uint32_t port;
    const char *end = text + bytes, *host_end, *after;
    if (bytes && *text == '[') {
        host_end = memchr(++text, ']', bytes - 1);
        after = host_end ? host_end + 1 : NULL;
    } else {
        host_end = memchr(text, ':', bytes);
        if (!host_end) host_end = end;
        after = host_end;
    }
    if (!host_end || host_end == text || host_end - text > 255) return false;
    if (after < end && (*after != ':' || !whole_number(after + 1, (size_t)(end - after - 1), 65535, &port)))
        return false;
    wire->host = mem_strndup(text, (size_t)(host_end - text));
    wire->port = after < end ? mem_strndup(after + 1, (size_t)(end - after - 1)) : mem_strndup("6379", 4);
    return wire->host && wire->port;
}

static bool parse(struct wire *wire, const char *text)
{
    const char *slash = strchr(text, '/'), *end = slash ? slash : text + strlen(text);
    const char *at = end;
    while (at > text && at[-1] != '@') at--;
    if (at > text && !parse_user(wire, text, (size_t)(at - 1 - text))) return false;
    if (!parse_address(wire, at, (size_t)(end - at))) return false;
    return !slash || !slash[1] || whole_number(slash + 1, strlen(slash + 1), DATABASE_MAX, &wire->database);
}

enum status wire_init(struct wire *wire, const char *url, struct error *error)
{
    *wire = (struct wire){.socket = -1};
    if (strncmp(url, "rediss://", 9) == 0)
        return error_set(error, ST_UNSUPPORTED,
                         "rediss://…: TLS is not supported here: let a tunnel do it, and name its end");
    if (strncmp(url, SCHEME, strlen(SCHEME)) != 0 || !parse(wire, url + strlen(SCHEME))) {
        wire_release(wire); /* the URL may hold a password: it is not repeated */
        return error_set(error, ST_INVALID,
                         "not a server's URL: redis://[user:password@]host[:port][/database] is wanted");
    }
    snprintf(wire->name, sizeof wire->name, "redis://%.100s:%.5s", wire->host, wire->port);
    return ST_OK;
}

void wire_release(struct wire *wire)
{
    wire_hang_up(wire);
    mem_free(wire->host);
    mem_free(wire->port);
    mem_free(wire->user);
    mem_free(wire->password);
    *wire = (struct wire){.socket = -1};
}

/* ---- the socket ------------------------------------------------------------------------------------------------------ */

static enum status failed(struct wire *wire, const char *what, int reason, struct error *error)
{
    return error_set(error, ST_IO, "%s: %s: %s", wire->name, what, strerror(reason));
}

/* Waits until the socket is ready for `events` or the deadline; 0, or the reason. */
static int await(const struct wire *wire, short events)
{
    for (;;) {
        double left_s = wire->deadline_s - clock_seconds();
        if (left_s <= 0) return ETIMEDOUT;
        struct pollfd one = {.fd = wire->socket, .events = events};
        int ready = poll(&one, 1, (int)(left_s * 1e3) + 1);
        if (ready > 0) return 0;
        if (ready < 0 && errno != EINTR) return errno;
    }
}

static int connect_to(struct wire *wire, const struct addrinfo *address)
{
    int reason = 0, on = 1;
    socklen_t bytes = sizeof reason;
    wire->socket =
        socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->ai_protocol);
    if (wire->socket < 0) return errno;
    if (connect(wire->socket, address->ai_addr, address->ai_addrlen) != 0) {
        reason = errno == EINPROGRESS ? await(wire, POLLOUT) : errno;
        if (!reason && getsockopt(wire->socket, SOL_SOCKET, SO_ERROR, &reason, &bytes) != 0) reason = errno;
    }
    if (!reason) (void)setsockopt(wire->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (reason) wire_hang_up(wire);
    return reason;
}

static enum status connect_any(struct wire *wire, struct error *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int looked_up = getaddrinfo(wire->host, wire->port, &hints, &found), reason = EHOSTUNREACH;
    if (looked_up != 0) return error_set(error, ST_IO, "%s: %s", wire->name, gai_strerror(looked_up));
    for (const struct addrinfo *address = found; address && reason; address = address->ai_next)
        reason = connect_to(wire, address);
    freeaddrinfo(found);
    return reason ? failed(wire, "cannot connect", reason, error) : ST_OK;
}

void wire_hang_up(struct wire *wire)
{
    if (wire->socket >= 0) close(wire->socket);
    if (wire->reader) redisReaderFree(wire->reader);
    wire->socket = -1;
    wire->reader = NULL;
}

/* ---- commands and replies ---------------------------------------------------------------------------------------------- */

enum status wire_send(struct wire *wire, const struct wire_command *command, struct error *error)
{
    char *bytes = NULL;
    const char *words[ARRAY_COUNT(command->words)]; /* hiredis' parameter is not const */
    memcpy(words, command->words, sizeof words);
    int length = redisFormatCommandArgv(&bytes, command->count, words, command->lengths);
    if (length < 0) return error_set(error, ST_NOMEM, "%s: not enough memory for a command", wire->name);
    int reason = 0;
    for (int sent = 0; sent < length && !reason;) {
        ssize_t put = send(wire->socket, bytes + sent, (size_t)(length - sent), MSG_NOSIGNAL);
        if (put >= 0)
            sent += (int)put;
        else if (errno == EAGAIN)
            reason = await(wire, POLLOUT);
        else if (errno != EINTR)
            reason = errno;
    }
    redisFreeCommand(bytes);
    return reason ? failed(wire, "cannot send", reason, error) : ST_OK;
}

/* A server that sends lists was not asked for one: memory for it is refused. */
static void *no_array(const redisReadTask *task, int elements)
{
    (void)task, (void)elements;
    return NULL;
}

static bool open_reader(struct wire *wire)
{
    wire->reader = redisReaderCreate();
    if (!wire->reader) return false;
    wire->functions = *wire->reader->fn;
    wire->functions.createArray = no_array;
    wire->reader->fn = &wire->functions;
    return true;
}

enum status wire_receive(struct wire *wire, uint64_t bytes_max, redisReply **out, struct error *error)
{
    char chunk[RECEIVE_BYTES];
    void *reply = NULL;
    *out = NULL;
    for (;;) {
        if (redisReaderGetReply(wire->reader, &reply) != REDIS_OK)
            return error_set(error, ST_INVALID, "%s: does not speak Redis' protocol as expected (%.100s)", wire->name,
                             wire->reader->errstr);
        if (reply) break;
        if (wire->reader->len > bytes_max + LINE_BYTES)
            return error_set(error, ST_INVALID, "%s: sends more than what was stored", wire->name);
        ssize_t got = recv(wire->socket, chunk, sizeof chunk, 0);
        int reason = got == 0 ? ECONNRESET : got < 0 && errno == EAGAIN ? await(wire, POLLIN) : got < 0 ? errno : 0;
        if (reason && reason != EINTR) return failed(wire, "no answer", reason, error);
        if (got > 0 && redisReaderFeed(wire->reader, chunk, (size_t)got) != REDIS_OK)
            return error_set(error, ST_NOMEM, "%s: not enough memory for its answer", wire->name);
    }
    *out = reply;
    return ST_OK;
}

/* ---- beginning --------------------------------------------------------------------------------------------------------- */

static enum status ask_for_ok(struct wire *wire, const struct wire_command *command, struct error *error)
{
    redisReply *reply = NULL;
    enum status status = wire_send(wire, command, error);
    if (status == ST_OK) status = wire_receive(wire, LINE_BYTES, &reply, error);
    if (status == ST_OK && reply->type != REDIS_REPLY_STATUS)
        status = error_set(error, ST_IO, "%s: refuses %s: %.200s", wire->name, command->words[0],
                           reply->type == REDIS_REPLY_ERROR ? reply->str : "no plain answer");
    freeReplyObject(reply);
    return status;
}

static enum status introduce(struct wire *wire, struct error *error)
{
    char number[16];
    enum status status = ST_OK;
    if (wire->password) {
        struct wire_command command = {.count = 2, .words = {"AUTH"}, .lengths = {4}};
        if (wire->user) {
            command.words[1] = wire->user;
            command.lengths[1] = strlen(wire->user);
            command.count = 3;
        }
        command.words[command.count - 1] = wire->password;
        command.lengths[command.count - 1] = strlen(wire->password);
        status = ask_for_ok(wire, &command, error);
    }
    if (status != ST_OK || !wire->database) return status;
    int length = snprintf(number, sizeof number, "%u", wire->database);
    return ask_for_ok(
        wire, &(struct wire_command){.count = 2, .words = {"SELECT", number}, .lengths = {6, (size_t)length}}, error);
}

/* Between two commands nothing comes, unless the server has hung up. */
static bool is_quiet(const struct wire *wire)
{
    struct pollfd one = {.fd = wire->socket, .events = POLLIN};
    return poll(&one, 1, 0) == 0;
}

enum status wire_begin(struct wire *wire, double patience_s, struct error *error)
{
    wire->deadline_s = clock_seconds() + patience_s;
    if (wire->socket >= 0 && is_quiet(wire)) return ST_OK;
    wire_hang_up(wire);
    enum status status = connect_any(wire, error);
    if (status == ST_OK && !open_reader(wire)) status = error_set(error, ST_NOMEM, "%s: no memory", wire->name);
    return status == ST_OK ? introduce(wire, error) : status;
}
