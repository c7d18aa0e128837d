/* test_openapi.c - the document of the server's API says what there is: every route of the table, and nothing else. That the server
 * answers as it says is tried over sockets (tests/e2e/test_api.py). */
#include "server/reply.h"
#include "support.h"

static json_t *read_document(void)
{
    struct server server = {.config = {.model_name = "tiny \"model\""}};
    struct buffer text;
    json_error_t error;
    buffer_init(&text, 0);
    openapi_write(&server, &text);
    assert_false(text.failed);
    json_t *document = json_loadb(text.data, text.length, JSON_REJECT_DUPLICATES, &error);
    if (!document) fail_msg("%s at byte %d", error.text, error.position);
    buffer_release(&text);
    return document;
}

static const json_t *find_operation(const json_t *paths, const struct route *route)
{
    const char *path = route_path(route), *method = route->command == EVHTTP_REQ_GET ? "get" : "post";
    bool named = strcmp(path, "/v1/models/") == 0;
    return json_object_get(json_object_get(paths, named ? "/v1/models/{model}" : path), method);
}

static void test_routes(void **state)
{
    (void)state;
    json_t *document = read_document(), *paths = json_object_get(document, "paths"), *operations;
    const struct route *route;
    const char *path;
    size_t routes = 0, described = 0;
    for (; (route = server_route(routes)) != NULL; routes++)
        if (!find_operation(paths, route)) fail_msg("%s is not in the document", route_path(route));
    json_object_foreach(paths, path, operations) described += json_object_size(operations);
    assert_int_equal(described, routes);
    json_decref(document);
}

static void test_pins_and_drain(void **state)
{
    (void)state;
    json_t *document = read_document(), *body, *responses;
    assert_int_equal(json_unpack(document, "{s:{s:{s:{s:{s:{s:{s:{s:o}}}}}}}}", "paths", "/kv/pins", "post",
                                 "requestBody", "content", "application/json", "schema", "properties", &body),
                     0);
    for (const char *const *name = (const char *const[]){"name", "prompt", "messages", "unpin", NULL}; *name; name++)
        assert_non_null(json_object_get(body, *name));
    assert_int_equal(json_object_size(body), 4);
    assert_int_equal(json_unpack(document, "{s:{s:{s:{s:o}}}}", "paths", "/drain", "post", "responses", &responses), 0);
    assert_true(json_object_get(responses, "202") && !json_object_get(responses, "200"));
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_routes), cmocka_unit_test(test_pins_and_drain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
