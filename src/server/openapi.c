/* openapi.c - /openapi.json: what the server answers, as an OpenAPI 3.1 document. Paths come from the table of routes and fields from the
 * table that parses them, so that neither can be out of date; what is said here is what those tables do not know: the meaning of a
 * path, what it needs, and the shape of its answer.
 *
 * Specification: https://spec.openapis.org/oas/v3.1.0 */
#include "server/reply.h"
#include <string.h>

struct description {
    const char *path;
    enum evhttp_cmd_type command;
    const char *summary;
    unsigned body;        /* API_…, or 0 */
    const char *required; /* fields: what a JSON schema says of it */
    /* Its fields that are always there, the inside of an array; all have the type they have in OpenAI's API. NULL: plain text. */
    const char *answer;
    bool streams;
    const char *properties; /* of a body that is not of an API_…, as a JSON schema has them */
    int status;             /* of the answer; 0 = 200 */
};
/* clang-format off */
static const struct description DESCRIPTIONS[] = {
    {"/health", EVHTTP_REQ_GET, "Is the server there?", .answer = "\"status\""},
    {"/kv", EVHTTP_REQ_GET, "Every block of the KV cache", .answer = "\"stats\",\"blocks\""},
    {"/kv/stats", EVHTTP_REQ_GET, "Figures of the KV cache", .answer = "\"context\",\"block_size\""},
    {"/kv/pins", EVHTTP_REQ_GET, "The prefixes that are pinned", .answer = "\"pins\""},
    {"/kv/pins", EVHTTP_REQ_POST, "Pin a prefix by a name, or unpin it", .required = "\"required\":[\"name\"]", .answer = "\"pins\"",
     .properties = "{\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":128},\"prompt\":{\"type\":\"string\"},"
                   "\"messages\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"unpin\":{\"type\":\"boolean\"}}"},
    {"/requests", EVHTTP_REQ_GET, "What runs and waits", .answer = "\"requests\",\"draining\""},
    {"/drain", EVHTTP_REQ_POST, "Let answers end, then stop the server", .answer = "\"status\"", .status = 202},
    {"/metrics", EVHTTP_REQ_GET, "Figures for Prometheus", .answer = NULL},
    {"/version", EVHTTP_REQ_GET, "The server's version", .answer = "\"version\""},
    {"/openapi.json", EVHTTP_REQ_GET, "This document", .answer = "\"openapi\",\"paths\""},
    {"/v1/models", EVHTTP_REQ_GET, "The model that is served", .answer = "\"object\",\"data\""},
    {"/v1/models/", EVHTTP_REQ_GET, "The same, by its name", .answer = "\"id\",\"object\",\"max_model_len\""},
    {"/v1/chat/completions", EVHTTP_REQ_POST, "Answer a chat", .body = API_CHAT, .required = "\"required\":[\"messages\"]",
     .answer = "\"id\",\"object\",\"created\",\"model\",\"choices\",\"usage\"", .streams = true},
    {"/v1/completions", EVHTTP_REQ_POST, "Continue a text", .body = API_COMPLETIONS, .required = "\"required\":[\"prompt\"]",
     .answer = "\"id\",\"object\",\"created\",\"model\",\"choices\",\"usage\"", .streams = true},
    {"/v1/responses", EVHTTP_REQ_POST, "Answer items with items", .body = API_RESPONSES, .required = "\"required\":[\"input\"]",
     .answer = "\"id\",\"object\",\"created_at\",\"model\",\"status\",\"output\",\"usage\"", .streams = true},
    {"/v1/embeddings", EVHTTP_REQ_POST, "A vector for every text", .body = API_EMBEDDINGS, .required = "\"required\":[\"input\"]",
     .answer = "\"object\",\"data\",\"model\",\"usage\""},
    {"/tokenize", EVHTTP_REQ_POST, "The tokens of a text, or of messages", .body = API_TOKENIZE,
     .required = "\"oneOf\":[{\"required\":[\"prompt\"]},{\"required\":[\"messages\"]}]",
     .answer = "\"count\",\"max_model_len\",\"tokens\",\"token_strs\""},
    {"/detokenize", EVHTTP_REQ_POST, "The text of tokens", .body = API_DETOKENIZE, .required = "\"required\":[\"tokens\"]", .answer = "\"prompt\""},
};
/* clang-format on */

/* Every route has one. */
static const struct description *find_description(const struct route *route)
{
    for (size_t i = 0; i < ARRAY_COUNT(DESCRIPTIONS); i++)
        if (DESCRIPTIONS[i].command == route->command && strcmp(DESCRIPTIONS[i].path, route_path(route)) == 0)
            return &DESCRIPTIONS[i];
    return NULL;
}

static void write_body(const struct server *server, const struct description *description, struct buffer *out)
{
    buffer_printf(
        out,
        ",\"requestBody\":{\"required\":true,\"content\":{\"application/json\":{\"schema\":{\"type\":\"object\","
        "%s,\"properties\":",
        description->required);
    if (description->properties)
        buffer_text(out, description->properties);
    else
        body_describe(description->body, server->config.model_name, out);
    buffer_text(out, "}}}}");
}

static void write_answers(const struct description *description, struct buffer *out)
{
    buffer_printf(out, ",\"responses\":{\"%d\":{\"description\":\"the answer\",\"content\":{",
                  description->status ? description->status : 200);
    if (description->answer)
        buffer_printf(out, "\"application/json\":{\"schema\":{\"type\":\"object\",\"required\":[%s]}}%s",
                      description->answer, description->streams ? ",\"text/event-stream\":{}" : "");
    else
        buffer_text(out, "\"text/plain\":{}");
    buffer_text(out, "}},\"default\":{\"description\":\"a refusal\",\"content\":{\"application/json\":"
                     "{\"schema\":{\"$ref\":\"#/components/schemas/Error\"}}}}}");
}

/* "/v1/models/" goes on with the model's name. */
static bool is_named(const char *path)
{
    return strlen(path) > 1 && path[strlen(path) - 1] == '/';
}

static void write_operation(const struct server *server, const struct route *route, struct buffer *out)
{
    const struct description *description = find_description(route);
    ASSERT(description);
    buffer_printf(out, "\"%s\":{\"summary\":\"%s\"", route->command == EVHTTP_REQ_GET ? "get" : "post",
                  description->summary);
    if (is_named(description->path)) {
        buffer_text(out,
                    ",\"parameters\":[{\"name\":\"model\",\"in\":\"path\",\"required\":true,\"schema\":{\"const\":");
        json_out_text(out, server->config.model_name, strlen(server->config.model_name));
        buffer_text(out, "}}]");
    }
    if (description->body || description->properties) write_body(server, description, out);
    write_answers(description, out);
    buffer_text(out, "}");
}

/* The routes of one path follow each other. */
static void write_paths(const struct server *server, struct buffer *out)
{
    const struct route *route;
    const char *before = NULL;
    for (size_t i = 0; (route = server_route(i)) != NULL; i++) {
        const char *path = route_path(route);
        if (before && strcmp(before, path) == 0)
            buffer_text(out, ",");
        else
            buffer_printf(out, "%s\"%s%s\":{", before ? "}," : "", path, is_named(path) ? "{model}" : "");
        write_operation(server, route, out);
        before = path;
    }
    buffer_text(out, "}");
}

void openapi_write(const struct server *server, struct buffer *out)
{
    buffer_printf(out, "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"Kvasir\",\"version\":\"%s\"},\"paths\":{",
                  kvasir_version());
    write_paths(server, out);
    buffer_text(
        out,
        "},\"security\":[{},{\"key\":[]}],\"components\":{\"securitySchemes\":{\"key\":{\"type\":\"http\",\"scheme\":"
        "\"bearer\"}},\"schemas\":{\"Error\":{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{"
        "\"error\":{\"type\":\"object\",\"required\":[\"message\",\"type\",\"param\",\"code\"],\"properties\":{"
        "\"message\":{\"type\":\"string\"},\"type\":{\"type\":\"string\"},\"param\":{\"type\":[\"string\",\"null\"]},"
        "\"code\":{\"type\":[\"string\",\"null\"]}}}}}}}}");
}

void openapi_answer(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct buffer json;
    buffer_init(&json, 0);
    openapi_write(server, &json);
    reply_json(http, 200, &json);
}
