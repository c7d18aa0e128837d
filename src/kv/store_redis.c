/* store_redis.c - blobs under keys of a server that speaks Redis' protocol. One connection, one call at a time. Whatever goes wrong
 * between us ends the connection, so that no late answer is taken for another one's. */
#include "kv/store_internal.h"
#include "kv/store_wire.h"
#include <stdio.h>
#include <string.h>

#define PREFIX "kvasir:1:" /* the number is the blobs' version */
#define NAME_BYTES (sizeof PREFIX - 1 + 2 * STORE_KEY_BYTES)
#define PIPELINED 512u /* commands that are sent before their answers are read: those fit the sockets' buffers */
#define BYTES_PER_S ((double)(8u << 20))

struct redis {
    struct store store;
    struct blob_works works;
    pthread_mutex_t lock; /* of the connection */
    struct wire wire;
    pthread_mutex_t counting; /* of what follows; taken after `lock` */
    struct backoff calling, writing;
    struct store_stats stats;
};

static struct redis *redis_of(struct store *store)
{
    return (struct redis *)store;
}

/* ---- being there, or not --------------------------------------------------------------------------------------------- */

static bool waits(struct redis *redis, const struct backoff *backoff)
{
    pthread_mutex_lock(&redis->counting);
    bool waiting = backoff_waits(backoff);
    pthread_mutex_unlock(&redis->counting);
    return waiting;
}

/* What came of a call on the connection. Said once for an outage. */
static void settle(struct redis *redis, enum status status, const struct error *error)
{
    bool trouble = status == ST_IO || status == ST_INVALID || status == ST_NOMEM;
    pthread_mutex_lock(&redis->counting);
    bool was_well = redis->calling.pause_s == 0;
    if (trouble)
        backoff_failed(&redis->calling);
    else
        backoff_done(&redis->calling);
    pthread_mutex_unlock(&redis->counting);
    if (trouble) wire_hang_up(&redis->wire);
    if (trouble && was_well) log_line(LOG_WARNING, "%s; going on without it", error->text);
    if (!trouble && !was_well) log_line(LOG_WARNING, "%s: is back", redis->wire.name);
}

static enum status begin(struct redis *redis, uint64_t bytes, struct error *error)
{
    return wire_begin(&redis->wire, STORE_PATIENCE_S + (double)bytes / BYTES_PER_S, error);
}

/* ---- commands -------------------------------------------------------------------------------------------------------- */

static struct wire_command command_on(const char *verb, const struct store_key *key, char name[NAME_BYTES + 1])
{
    memcpy(name, PREFIX, sizeof PREFIX - 1);
    store_key_text(key, name + sizeof PREFIX - 1);
    return (struct wire_command){.count = 2, .words = {verb, name}, .lengths = {strlen(verb), NAME_BYTES}};
}

static enum status unexpected(struct redis *redis, const redisReply *reply, struct error *error)
{
    bool said = reply->type == REDIS_REPLY_ERROR || reply->type == REDIS_REPLY_STATUS;
    return error_set(error, ST_IO, "%s: %.200s", redis->wire.name, said ? reply->str : "an answer to something else");
}

static enum status send_on(struct redis *redis, const char *verb, const struct store_key *key, struct error *error)
{
    char name[NAME_BYTES + 1];
    struct wire_command command = command_on(verb, key, name);
    return wire_send(&redis->wire, &command, error);
}

static enum status receive_number(struct redis *redis, long long *out, struct error *error)
{
    redisReply *reply = NULL;
    enum status status = wire_receive(&redis->wire, 0, &reply, error);
    if (status == ST_OK && reply->type != REDIS_REPLY_INTEGER) status = unexpected(redis, reply, error);
    if (status == ST_OK) *out = reply->integer;
    freeReplyObject(reply);
    return status;
}

/* TOUCH counts the keys that are there, and is a use of each. */
static enum status ask_for(struct redis *redis, const struct store_key *keys, uint32_t count, bool *out,
                           struct error *error)
{
    long long number = 0;
    enum status status = ST_OK;
    for (uint32_t i = 0; i < count && status == ST_OK; i++) status = send_on(redis, "TOUCH", &keys[i], error);
    for (uint32_t i = 0; i < count && status == ST_OK; i++) {
        status = receive_number(redis, &number, error);
        out[i] = status == ST_OK && number == 1;
    }
    return status;
}

static enum status forget(struct redis *redis, const struct store_key *key, struct error *error)
{
    long long number;
    enum status status = send_on(redis, "DEL", key, error);
    return status == ST_OK ? receive_number(redis, &number, error) : status;
}

/* ST_FULL: the server understood, and does not want it (no memory, read-only …). */
static enum status set(struct redis *redis, const struct store_key *key, const struct blob_work *work,
                       uint64_t blob_bytes, struct error *error)
{
    char name[NAME_BYTES + 1];
    redisReply *reply = NULL;
    struct wire_command command = command_on("SET", key, name);
    command.words[command.count] = (const char *)work->bytes;
    command.lengths[command.count++] = blob_bytes;
    enum status status = wire_send(&redis->wire, &command, error);
    if (status == ST_OK) status = wire_receive(&redis->wire, 0, &reply, error);
    if (status == ST_OK && reply->type != REDIS_REPLY_STATUS)
        status = reply->type == REDIS_REPLY_ERROR
                     ? error_set(error, ST_FULL, "%s: %.200s", redis->wire.name, reply->str)
                     : unexpected(redis, reply, error);
    freeReplyObject(reply);
    return status;
}

/* The value into `work`. ST_NOT_FOUND: there is none. ST_LIMIT: it is no blob of so much data. GETRANGE: so that the server does not
 * send more than that and a byte. */
static enum status fetch(struct redis *redis, const struct store_key *key, struct blob_work *work, uint64_t bytes_max,
                         uint64_t *out_bytes, struct error *error)
{
    char name[NAME_BYTES + 1], last[24];
    redisReply *reply = NULL;
    struct wire_command command = command_on("GETRANGE", key, name);
    command.words[2] = "0";
    command.lengths[2] = 1;
    command.words[3] = last;
    command.lengths[3] = (size_t)snprintf(last, sizeof last, "%llu", (unsigned long long)bytes_max);
    command.count = 4;
    enum status status = wire_send(&redis->wire, &command, error);
    if (status == ST_OK) status = wire_receive(&redis->wire, bytes_max + 1, &reply, error);
    if (status != ST_OK) return status;
    if (reply->type == REDIS_REPLY_STRING && reply->len == 0)
        status = ST_NOT_FOUND;
    else if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) == 0)
        status = ST_LIMIT;
    else if (reply->type != REDIS_REPLY_STRING)
        status = unexpected(redis, reply, error);
    else if (reply->len > bytes_max)
        status = ST_LIMIT;
    else if (!blob_work_reserve(work, bytes_max))
        status = error_set(error, ST_NOMEM, "%s: not enough memory for its answer", redis->wire.name);
    if (status == ST_OK) {
        memcpy(work->bytes, reply->str, reply->len);
        *out_bytes = reply->len;
    }
    freeReplyObject(reply);
    return status;
}

/* ---- the kind's functions -------------------------------------------------------------------------------------------- */

static void count_failure(struct redis *redis)
{
    pthread_mutex_lock(&redis->counting);
    redis->stats.failed++;
    pthread_mutex_unlock(&redis->counting);
}

static void redis_have(struct store *store, const struct store_key *keys, uint32_t count, bool *out)
{
    struct redis *redis = redis_of(store);
    struct error error;
    memset(out, 0, count * sizeof *out);
    pthread_mutex_lock(&redis->lock);
    enum status status = waits(redis, &redis->calling) ? ST_CANCELLED : begin(redis, 0, &error);
    for (uint32_t done = 0; done < count && status == ST_OK; done += PIPELINED)
        status = ask_for(redis, keys + done, count - done < PIPELINED ? count - done : PIPELINED, out + done, &error);
    if (status != ST_CANCELLED) settle(redis, status, &error);
    pthread_mutex_unlock(&redis->lock);
    if (status != ST_OK) count_failure(redis);
}

static enum status put_blob(struct redis *redis, const struct store_key *key, struct blob_work *work, const void *data,
                            uint64_t bytes, struct error *error)
{
    bool there = false;
    uint64_t blob_bytes;
    enum status status = begin(redis, bytes, error);
    if (status == ST_OK) status = ask_for(redis, key, 1, &there, error);
    if (status != ST_OK || there) return status;
    status = blob_encode(work, key, data, bytes, &blob_bytes);
    if (status != ST_OK) return error_set(error, status, "%s: not enough memory to store", redis->wire.name);
    status = set(redis, key, work, blob_bytes, error);
    pthread_mutex_lock(&redis->counting);
    bool was_well = redis->writing.pause_s == 0;
    if (status == ST_OK) {
        redis->stats.puts++;
        redis->stats.bytes_written += blob_bytes;
        backoff_done(&redis->writing);
    } else if (status == ST_FULL) {
        backoff_failed(&redis->writing);
    }
    pthread_mutex_unlock(&redis->counting);
    if (status == ST_FULL && was_well) log_line(LOG_WARNING, "%s; nothing is stored there for now", error->text);
    return status;
}

static enum status redis_put(struct store *store, const struct store_key *key, const void *data, uint64_t bytes)
{
    struct redis *redis = redis_of(store);
    struct error error;
    struct blob_work *work = blob_work_take(&redis->works);
    enum status status = work ? ST_OK : ST_NOMEM;
    if (work) {
        pthread_mutex_lock(&redis->lock);
        if (waits(redis, &redis->calling) || waits(redis, &redis->writing)) {
            status = ST_IO;
        } else {
            status = put_blob(redis, key, work, data, bytes, &error);
            settle(redis, status, &error);
        }
        pthread_mutex_unlock(&redis->lock);
        blob_work_give(&redis->works, work);
    }
    if (status != ST_OK) count_failure(redis);
    return status == ST_OK || status == ST_FULL || status == ST_NOMEM ? status : ST_IO;
}

/* ST_LIMIT, ST_CANCELLED: damaged; there is none to ask. */
static enum status get_blob(struct redis *redis, const struct store_key *key, struct blob_work *work, void *data,
                            uint64_t bytes, uint64_t *blob_bytes)
{
    struct error error;
    pthread_mutex_lock(&redis->lock);
    enum status status = waits(redis, &redis->calling) ? ST_CANCELLED : begin(redis, bytes, &error);
    if (status == ST_OK) status = fetch(redis, key, work, blob_bytes_max(bytes), blob_bytes, &error);
    if (status == ST_OK) {
        status = blob_decode(work, *blob_bytes, key, data, bytes);
        if (status == ST_NOMEM) error_set(&error, status, "%s: not enough memory to read its blobs", redis->wire.name);
        if (status == ST_INVALID) status = ST_LIMIT;
    }
    enum status call = status == ST_LIMIT ? forget(redis, key, &error) : status;
    if (call != ST_CANCELLED) settle(redis, call, &error);
    pthread_mutex_unlock(&redis->lock);
    return status;
}

static enum status redis_get(struct store *store, const struct store_key *key, void *data, uint64_t bytes)
{
    struct redis *redis = redis_of(store);
    uint64_t blob_bytes = 0;
    struct blob_work *work = blob_work_take(&redis->works);
    enum status status = work ? get_blob(redis, key, work, data, bytes, &blob_bytes) : ST_NOMEM;
    if (work) blob_work_give(&redis->works, work);
    pthread_mutex_lock(&redis->counting);
    struct store_stats *stats = &redis->stats;
    stats->gets++;
    ++*(status == ST_OK          ? &stats->hits
        : status == ST_NOT_FOUND ? &stats->misses
        : status == ST_LIMIT     ? &stats->damaged
                                 : &stats->failed);
    stats->bytes_read += status == ST_OK ? blob_bytes : 0;
    pthread_mutex_unlock(&redis->counting);
    return status == ST_OK ? ST_OK : ST_NOT_FOUND;
}

static void redis_remove(struct store *store, const struct store_key *key)
{
    struct redis *redis = redis_of(store);
    struct error error;
    pthread_mutex_lock(&redis->lock);
    enum status status = waits(redis, &redis->calling) ? ST_CANCELLED : begin(redis, 0, &error);
    if (status == ST_OK) status = forget(redis, key, &error);
    if (status != ST_CANCELLED) settle(redis, status, &error);
    pthread_mutex_unlock(&redis->lock);
    if (status != ST_OK) count_failure(redis);
}

static void redis_stats(struct store *store, struct store_stats *out)
{
    struct redis *redis = redis_of(store);
    pthread_mutex_lock(&redis->counting);
    *out = redis->stats;
    pthread_mutex_unlock(&redis->counting);
}

static void redis_close(struct store *store)
{
    struct redis *redis = redis_of(store);
    wire_release(&redis->wire);
    blob_works_release(&redis->works);
    pthread_mutex_destroy(&redis->lock);
    pthread_mutex_destroy(&redis->counting);
    mem_free(redis);
}

static const struct store_kind redis_kind = {.close = redis_close,
                                             .have = redis_have,
                                             .put = redis_put,
                                             .get = redis_get,
                                             .remove = redis_remove,
                                             .stats = redis_stats};

enum status store_open_redis(const char *url, struct store **out, struct error *error)
{
    *out = NULL;
    struct redis *redis = mem_zero(1, sizeof *redis);
    if (!redis) return error_set(error, ST_NOMEM, "not enough memory for a remote store");
    enum status status = wire_init(&redis->wire, url, error);
    if (status != ST_OK) {
        mem_free(redis);
        return status;
    }
    redis->store.kind = &redis_kind;
    blob_works_init(&redis->works);
    ASSERT(pthread_mutex_init(&redis->lock, NULL) == 0 && pthread_mutex_init(&redis->counting, NULL) == 0);
    *out = &redis->store;
    return ST_OK;
}
