/* openapi.c - /openapi.json: what the server answers, as an OpenAPI 3.1 document. Paths come from the table of routes and fields from the
 * table that parses them, so that neither can be out of date; what is said here is what those tables do not know: the meaning of a
 * path, what it needs, and the shape of its answer.
 *
 * Specification: https://spec.openapis.org/oas/v3.1.0 */
#include "server/reply.h"
#include <string.h>

struct description {
    const char *path, *summary;
    unsigned body;        /* API_…, or 0 */
    const char *required; /* fields: what a JSON schema says of it */
    const char *
        answer; /* its fields that are always there, the inside of an array; all have the type they have in OpenAI's API */
    bool streams;
};
static const struct description DESCRIPTIONS[] = {
    {"/health", "Is the server there?", 0, "", "\"status\"", false},
    {"/kv", "Every block of the KV cache", 0, "", "\"stats\",\"blocks\"", false},
    {"/kv/stats", "Figures of the KV cache", 0, "", "\"context\",\"block_size\"", false},
    {"/requests", "What runs and waits", 0, "", "\"requests\",\"draining\"", false},
    {"/metrics", "Figures for Prometheus", 0, "", NULL, false},
    {"/version", "The server's version", 0, "", "\"version\"", false},
    {"/openapi.json", "This document", 0, "", "\"openapi\",\"paths\"", false},
    {"/v1/models", "The model that is served", 0, "", "\"object\",\"data\"", false},
    {"/v1/models/", "The same, by its name", 0, "", "\"id\",\"object\",\"max_model_len\"", false},
    {"/v1/chat/completions", "Answer a chat", API_CHAT, "\"required\":[\"messages\"]",
     "\"id\",\"object\",\"created\",\"model\",\"choices\",\"usage\"", true},
    {"/v1/completions", "Continue a text", API_COMPLETIONS, "\"required\":[\"prompt\"]",
     "\"id\",\"object\",\"created\",\"model\",\"choices\",\"usage\"", true},
    {"/v1/responses", "Answer items with items", API_RESPONSES, "\"required\":[\"input\"]",
     "\"id\",\"object\",\"created_at\",\"model\",\"status\",\"output\",\"usage\"", true},
    {"/v1/embeddings", "A vector for every text", API_EMBEDDINGS, "\"required\":[\"input\"]",
     "\"object\",\"data\",\"model\",\"usage\"", false},
    {"/tokenize", "The tokens of a text, or of messages", API_TOKENIZE,
     "\"oneOf\":[{\"required\":[\"prompt\"]},{\"required\":[\"messages\"]}]",
     "\"count\",\"max_model_len\",\"tokens\",\"token_strs\"", false},
    {"/detokenize", "The text of tokens", API_DETOKENIZE, "\"required\":[\"tokens\"]", "\"prompt\"", false},
};

static const struct description *find_description(const char *path)
{
    for (size_t i = 0; i < ARRAY_COUNT(DESCRIPTIONS); i++)
        if (strcmp(DESCRIPTIONS[i].path, path) == 0) return &DESCRIPTIONS[i];
    return NULL;
}

static void write_body(const struct server *server, const struct description *description, struct buffer *out)
{
    buffer_printf(
        out,
        ",\"requestBody\":{\"required\":true,\"content\":{\"application/json\":{\"schema\":{\"type\":\"object\","
        "%s,\"properties\":",
        description->required);
    body_describe(description->body, server->config.model_name, out);
    buffer_text(out, "}}}}");
}

static void write_answers(const struct description *description, struct buffer *out)
{
    buffer_text(out, ",\"responses\":{\"200\":{\"description\":\"the answer\",\"content\":{");
    if (description->answer)
        buffer_printf(out, "\"application/json\":{\"schema\":{\"type\":\"object\",\"required\":[%s]}}%s",
                      description->answer, description->streams ? ",\"text/event-stream\":{}" : "");
    else
        buffer_text(out, "\"text/plain\":{}");
    buffer_text(out, "}},\"default\":{\"description\":\"a refusal\",\"content\":{\"application/json\":"
                     "{\"schema\":{\"$ref\":\"#/components/schemas/Error\"}}}}}");
}

/* A path that ends with a slash goes on with the model's name. */
static void write_route(const struct server *server, const struct route *route, struct buffer *out)
{
    const char *path = route_path(route);
    const struct description *description = find_description(path);
    bool named = strlen(path) > 1 && path[strlen(path) - 1] == '/';
    if (!description) return;
    buffer_printf(out, "\"%s%s\":{\"%s\":{\"summary\":\"%s\"", path, named ? "{model}" : "",
                  route->command == EVHTTP_REQ_GET ? "get" : "post", description->summary);
    if (named) {
        buffer_text(out,
                    ",\"parameters\":[{\"name\":\"model\",\"in\":\"path\",\"required\":true,\"schema\":{\"const\":");
        json_out_text(out, server->config.model_name, strlen(server->config.model_name));
        buffer_text(out, "}}]");
    }
    if (description->body) write_body(server, description, out);
    write_answers(description, out);
    buffer_text(out, "}}");
}

void openapi_answer(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct buffer json;
    buffer_init(&json, 0);
    buffer_printf(&json, "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"Kvasir\",\"version\":\"%s\"},\"paths\":{",
                  kvasir_version());
    const struct route *route;
    for (size_t i = 0; (route = server_route(i)) != NULL; i++) {
        size_t before = json.length;
        if (i) buffer_text(&json, ",");
        write_route(server, route, &json);
        if (i && json.length == before + 1) json.length = before; /* it is not of the API */
    }
    buffer_text(
        &json,
        "},\"security\":[{},{\"key\":[]}],\"components\":{\"securitySchemes\":{\"key\":{\"type\":\"http\",\"scheme\":"
        "\"bearer\"}},\"schemas\":{\"Error\":{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{"
        "\"error\":{\"type\":\"object\",\"required\":[\"message\",\"type\",\"param\",\"code\"],\"properties\":{"
        "\"message\":{\"type\":\"string\"},\"type\":{\"type\":\"string\"},\"param\":{\"type\":[\"string\",\"null\"]},"
        "\"code\":{\"type\":[\"string\",\"null\"]}}}}}}}}");
    reply_json(http, 200, &json);
}
