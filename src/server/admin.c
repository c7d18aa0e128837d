/* admin.c - what an operator asks a running server (`kvasir ps`, `stop`, `cache`): the requests that are being answered, the
 * KV cache's numbers, prefixes pinned by name, and to stop.
 *
 * Where API keys are asked for, only the key named "admin" may; without keys, whoever reaches the server may look, but only a
 * peer on loopback may change anything. */
#include "server/admin.h"
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

#define PINS_MAX 1024u
#define PIN_NAME_MAX 128u

static bool is_loopback(struct evhttp_request *http)
{
    char *address;
    ev_uint16_t port;
    evhttp_connection_get_peer(evhttp_request_get_connection(http), &address, &port);
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 || strncmp(address, "::ffff:127.", 11) == 0;
}

static bool may(struct server *server, struct evhttp_request *http, bool changes, struct refusal *refusal)
{
    const struct api_key *key = connection_exchange(connection_of(server, http))->key;
    if (server->auth.count ? key && strcmp(key->name, "admin") == 0 : !changes || is_loopback(http)) return true;
    return refuse(refusal, 403, "", "%s",
                  server->auth.count ? "this is for the API key that is named admin in the key file"
                                     : "without API keys this can be asked on the server's own machine only");
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

void admin_requests(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct refusal refusal;
    if (!may(server, http, false, &refusal)) {
        reply_refuse(http, &refusal);
        return;
    }
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, "{\"requests\":[");
    for (struct reply *reply = server->replies; reply; reply = reply->after) {
        if (reply != server->replies) buffer_text(&out, ",");
        reply_describe(reply, &out);
    }
    buffer_printf(&out, "],\"connections\":%u,\"draining\":%s}", server->connection_count,
                  server->draining ? "true" : "false");
    reply_json(http, 200, &out);
}

void admin_drain(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct refusal refusal;
    if (!may(server, http, true, &refusal)) {
        reply_refuse(http, &refusal);
        return;
    }
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, "{\"status\":\"draining\"}");
    evhttp_add_header(evhttp_request_get_output_headers(http), "Connection", "close");
    reply_json(http, 202, &out);
    server_drain(server);
}

/* ---- the KV cache ------------------------------------------------------------------------------------------------------ */

static void write_stats(const struct kvasir_engine_stats *s, struct buffer *out)
{
    buffer_text(out, "{");
    json_stats(s, out);
    buffer_text(out, ",\"tiers\":[");
    for (uint32_t t = 0; t < s->tier_count; t++) {
        const struct kvasir_tier_stats *tier = &s->tiers[t];
        const struct json_count of_tier[] = {{"bytes", tier->bytes},
                                             {"bytes_max", tier->bytes_max},
                                             {"blobs", tier->blobs},
                                             {"tokens", tier->tokens},
                                             {"written_blocks", tier->written_blocks},
                                             {"read_blocks", tier->read_blocks},
                                             {"read_bytes", tier->read_bytes},
                                             {"skipped_blocks", tier->skipped_blocks},
                                             {"refused_blocks", tier->refused_blocks},
                                             {"missed_blocks", tier->missed_blocks},
                                             {"bad_blocks", tier->bad_blocks}};
        buffer_printf(out, "%s{\"tier\":\"%s\",", t ? "," : "", tier->name);
        json_counts(of_tier, ARRAY_COUNT(of_tier), out);
        buffer_text(out, "}");
    }
    buffer_text(out, "]}");
}

void admin_kv_stats(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct refusal refusal;
    struct buffer out;
    if (!may(server, http, false, &refusal)) {
        reply_refuse(http, &refusal);
        return;
    }
    struct kvasir_engine_stats stats;
    kvasir_async_stats(server->async, &stats);
    buffer_init(&out, 0);
    write_stats(&stats, &out);
    reply_json(http, 200, &out);
}

/* Runs on the engine's thread, between two steps. */
static void write_pins(void *data, struct kvasir_engine *engine)
{
    struct buffer *out = data;
    struct kvasir_pin *pins = mem_zero(PINS_MAX, sizeof *pins);
    size_t count = pins ? kvasir_engine_pins(engine, pins, PINS_MAX) : 0;
    buffer_text(out, "{\"pins\":[");
    for (size_t i = 0; i < count && i < PINS_MAX; i++) {
        buffer_text(out, i ? ",{\"name\":" : "{\"name\":");
        json_out_text(out, pins[i].name, strlen(pins[i].name));
        buffer_printf(out, ",\"tokens\":%u,\"bytes\":%llu}", pins[i].tokens, (unsigned long long)pins[i].bytes);
    }
    buffer_text(out, "]}");
    out->failed |= !pins;
    mem_free(pins);
}

struct pinning {
    const char *name;
    bool unpin;
    uint32_t *ids;
    size_t count;
    uint64_t salt;
    int status;
    struct kvasir_error error;
};

static void pin_now(void *data, struct kvasir_engine *engine)
{
    struct pinning *p = data;
    p->status = p->unpin ? kvasir_engine_unpin(engine, p->name)
                         : kvasir_engine_pin(engine, p->name, p->ids, p->count, p->salt, &p->error);
}

/* The tokens of "prompt" (a text) or "messages". */
static bool read_tokens(const struct server *server, const json_t *json, struct pinning *out, struct refusal *refusal)
{
    const json_t *prompt = json_object_get(json, "prompt"), *messages = json_object_get(json, "messages");
    if (json_is_string(prompt)) {
        if (kvasir_tokenize(server->model, json_string_value(prompt), json_string_length(prompt),
                            KVASIR_ADD_SPECIAL | KVASIR_PARSE_SPECIAL, &out->ids, &out->count,
                            &out->error) == KVASIR_OK)
            return true;
        return refuse_library(refusal, "prompt", &out->error);
    }
    if (!json_is_array(messages)) return refuse(refusal, 400, "prompt", "prompt (a text) or messages are missing");
    char *text = json_dumps(messages, JSON_COMPACT);
    if (!text) return refuse_no_memory(refusal, "messages");
    struct kvasir_chat chat = {.messages = text, .no_generation_prompt = true};
    int status = kvasir_chat_tokenize(server->model, &chat, &out->ids, &out->count, &out->error);
    free(text); /* jansson's */
    return status == KVASIR_OK || refuse_library(refusal, "messages", &out->error);
}

/* {"name", "prompt" | "messages"}; with "unpin": true only the name. */
static bool change_pins(struct server *server, struct evhttp_request *http, const json_t *json, struct refusal *refusal)
{
    struct pinning p = {.name = json_string_value(json_object_get(json, "name"))};
    const struct api_key *key = connection_exchange(connection_of(server, http))->key;
    if (!may(server, http, true, refusal)) return false;
    if (!p.name || !*p.name || strlen(p.name) > PIN_NAME_MAX)
        return refuse(refusal, 400, "name", "name must be a text of 1 to %u bytes", PIN_NAME_MAX);
    p.unpin = json_is_true(json_object_get(json, "unpin"));
    if (!p.unpin && !read_tokens(server, json, &p, refusal)) return false;
    p.salt = key && !server->config.share_cache ? auth_salt(key, 0) : 0;
    kvasir_async_call(server->async, pin_now, &p);
    kvasir_free(p.ids);
    if (p.status == KVASIR_OK) return true;
    if (p.status == KVASIR_NOT_FOUND) return refuse(refusal, 404, "name", "there is no pin named '%.128s'", p.name);
    return refuse_library(refusal, "prompt", &p.error);
}

static void reply_pins(struct server *server, struct evhttp_request *http)
{
    struct buffer out;
    buffer_init(&out, 0);
    kvasir_async_call(server->async, write_pins, &out);
    reply_json(http, 200, &out);
}

void admin_kv_pins(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct refusal refusal;
    if (may(server, http, false, &refusal))
        reply_pins(server, http);
    else
        reply_refuse(http, &refusal);
}

void admin_change_pins(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    const char *text = (const char *)evbuffer_pullup(input, -1);
    json_error_t error;
    struct refusal refusal;
    json_t *json = json_loadb(text ? text : "", evbuffer_get_length(input), JSON_REJECT_DUPLICATES, &error);
    bool good = json_is_object(json) || refuse(&refusal, 400, "", "the body must be a JSON object");
    if (good && change_pins(server, http, json, &refusal))
        reply_pins(server, http);
    else
        reply_refuse(http, &refusal);
    json_decref(json);
}
