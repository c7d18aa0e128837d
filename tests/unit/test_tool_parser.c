/* test_tool_parser.c - calls of tools in an answer's text: what is one in each format, what stays text, and that the pieces a
 * text comes in do not matter. */
#include "server/server_internal.h"
#include "server/tools.h"
#include "support.h"
#include <stdlib.h>

struct sample {
    const char *format, *text;
    const char *expected; /* content, then " | name arguments" for each call */
};
#define CALL(inside) "<tool_call>\n" inside "\n</tool_call>"
#define F "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"
#define L "{\"name\": \"f\", \"parameters\": {\"a\": 1}}"
static const struct sample SAMPLES[] = {
    {"hermes", "", ""},
    {"hermes", "no call", "no call"},
    {"hermes", "spaces stay  \n", "spaces stay  \n"},
    {"hermes", CALL(F), " | f {\"a\": 1}"},
    {"hermes", "Let me see.\n\n" CALL(F), "Let me see. | f {\"a\": 1}"},
    {"hermes", CALL(F) "\n" CALL("{\"arguments\":{},\"name\":\"g\"}") "\n", " | f {\"a\": 1} | g {}"},
    {"hermes", "<tool_call>" F, " | f {\"a\": 1}"},
    {"hermes", CALL(F) "\nafter", "after | f {\"a\": 1}"},
    {"hermes", CALL("{\"name\":\"f\",\"arguments\":{\"x\":\"}</tool_call>\\\"{\",\"y\":[{\"arguments\":{}}]}}"),
     " | f {\"x\":\"}</tool_call>\\\"{\",\"y\":[{\"arguments\":{}}]}"},
    {"hermes", CALL("{\"name\":\"\\u0066\",\"arguments\":{}}"), " | f {}"},
    {"hermes", CALL("{\"id\":{\"name\":\"g\",\"arguments\":{\"no\":1}},\"name\":\"f\",\"arguments\":{}}"), " | f {}"},
    /* What is none stays text, to the byte. */
    {"hermes", " " CALL("{\"name\": \"h\", \"arguments\": {}}"), " " CALL("{\"name\": \"h\", \"arguments\": {}}")},
    {"hermes", CALL("{\"name\": \"f\", \"arguments\": \"a\"}"), CALL("{\"name\": \"f\", \"arguments\": \"a\"}")},
    {"hermes", CALL("{\"name\": \"f\"}"), CALL("{\"name\": \"f\"}")},
    {"hermes", CALL("{\"arguments\": {}}"), CALL("{\"arguments\": {}}")},
    {"hermes", CALL("not JSON"), CALL("not JSON")},
    {"hermes", CALL("[1]"), CALL("[1]")},
    {"hermes", CALL("{\"name\": f, \"arguments\": {}}"), CALL("{\"name\": f, \"arguments\": {}}")},
    {"hermes", CALL("{\"name\": \"f\", \"arguments\": {\"a\": }}"),
     CALL("{\"name\": \"f\", \"arguments\": {\"a\": }}")},
    {"hermes", CALL("{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}"),
     CALL("{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}")},
    {"hermes", CALL("{\"name\": \"f\", \"arguments\": {]}"), CALL("{\"name\": \"f\", \"arguments\": {]}")},
    {"hermes", CALL("{\"name\": \"f\nf\", \"arguments\": {}}"), CALL("{\"name\": \"f\nf\", \"arguments\": {}}")},
    {"hermes", "<tool_call>{\"name\": \"f\", \"argum", "<tool_call>{\"name\": \"f\", \"argum"},
    {"hermes", "a <tool_cal", "a <tool_cal"},
    {"hermes", "<tool_call>oops " CALL(F), "<tool_call>oops | f {\"a\": 1}"},
    {"hermes", "<tool_call>{\"name\": " CALL(F), "<tool_call>{\"name\":  | f {\"a\": 1}"},
    {"hermes", "<tool_call>{\"name\": \"" CALL(F), "<tool_call>{\"name\": \"<tool_call>\n" F "\n</tool_call>"},
    {"hermes", F, " | f {\"a\": 1}"},
    {"hermes", "so: " F, "so: " F},
    {"hermes", L, L},
    {"hermes", "<<tool_call><tool_call>" F, "<<tool_call> | f {\"a\": 1}"},
    {"llama3_json", L, " | f {\"a\": 1}"},
    {"llama3_json", "\n " L "\n", " | f {\"a\": 1}"},
    {"llama3_json", "<|python_tag|>" L "; {\"name\": \"g\", \"parameters\": {}}", " | f {\"a\": 1} | g {}"},
    {"llama3_json", "Sure: <|python_tag|>" L, "Sure: | f {\"a\": 1}"},
    {"llama3_json", "Sure: " L, "Sure: " L},
    {"llama3_json", "{\"name\": \"Bob\", \"age\": 3}", "{\"name\": \"Bob\", \"age\": 3}"},
    {"llama3_json", "{\"answer\": 42} is it", "{\"answer\": 42} is it"},
    {"llama3_json", "<|python_tag|>f.call(a=1)", "<|python_tag|>f.call(a=1)"},
    {"llama3_json", F, F},
};

static json_t *two_tools(void)
{
    json_t *tools = json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
                               "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]",
                               0, NULL);
    assert_non_null(tools);
    return tools;
}

static void write_calls(struct tool_parser *parser, struct buffer *out)
{
    for (uint32_t i = 0; i < tool_parser_count(parser); i++) {
        const struct tool_call *call = tool_parser_call(parser, i);
        buffer_printf(out, " | %s %s", call->name.data, call->arguments.data ? call->arguments.data : "");
    }
}

/* The text in pieces of `step` bytes; 0: whole. */
static char *parsed(const struct sample *sample, const json_t *tools, bool eager, bool one_call, size_t step)
{
    struct buffer out;
    buffer_init(&out, 0);
    struct tool_parser *parser = tool_parser_open(tool_format_find(sample->format), tools, eager, one_call);
    size_t bytes = strlen(sample->text);
    for (size_t at = 0; at < bytes; at += step ? step : bytes)
        tool_parser_put(parser, sample->text + at, step && step < bytes - at ? step : bytes - at, &out);
    tool_parser_finish(parser, &out);
    assert_false(tool_parser_failed(parser));
    write_calls(parser, &out);
    tool_parser_close(parser);
    buffer_text(&out, "");
    assert_false(out.failed);
    return buffer_take(&out);
}

static void test_samples(void **state)
{
    (void)state;
    json_t *tools = two_tools();
    for (size_t i = 0; i < ARRAY_COUNT(SAMPLES); i++)
        for (size_t step = 0; step < 20; step++) {
            char *text = parsed(&SAMPLES[i], tools, false, false, step);
            assert_string_equal(text ? text : "", SAMPLES[i].expected);
            mem_free(text);
        }
    json_decref(tools);
}

/* Whole calls are the same for who wants them early; only what turns out to be broken is not taken back. */
static void test_eager(void **state)
{
    (void)state;
    json_t *tools = two_tools();
    const struct sample broken = {"hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": x}} end", NULL};
    for (size_t i = 0; i < ARRAY_COUNT(SAMPLES); i++)
        for (size_t step = 1; step < 20 && strstr(SAMPLES[i].expected, " | "); step++) {
            char *text = parsed(&SAMPLES[i], tools, true, false, step);
            assert_string_equal(text, SAMPLES[i].expected);
            mem_free(text);
        }
    char *text = parsed(&broken, tools, true, false, 1);
    assert_string_equal(text, "x}} end | f {\"a\": ");
    mem_free(text);
    json_decref(tools);
}

static void test_arguments_come_in_pieces(void **state)
{
    (void)state;
    json_t *tools = two_tools();
    struct buffer content;
    buffer_init(&content, 0);
    struct tool_parser *parser = tool_parser_open(tool_format_find("hermes"), tools, true, false);
    static const char *const PIECES[] = {"<tool_call>{\"name\": \"f\", \"argu", "ments\": {\"city\": \"Par", "is\"}",
                                         "}"};
    static const char *const SEEN[] = {NULL, "{\"city\": \"Par", "{\"city\": \"Paris\"}", "{\"city\": \"Paris\"}"};
    for (size_t i = 0; i < ARRAY_COUNT(PIECES); i++) {
        tool_parser_put(parser, PIECES[i], strlen(PIECES[i]), &content);
        assert_int_equal(tool_parser_count(parser), SEEN[i] != NULL);
        if (SEEN[i]) assert_string_equal(tool_parser_call(parser, 0)->arguments.data, SEEN[i]);
    }
    assert_int_equal(content.length, 0);
    tool_parser_close(parser);
    buffer_release(&content);
    json_decref(tools);
}

static void test_one_call(void **state)
{
    (void)state;
    json_t *tools = two_tools();
    char *text = parsed(&(struct sample){"hermes", "first" CALL(F) CALL(F) " more", NULL}, tools, false, true, 3);
    assert_string_equal(text, "first | f {\"a\": 1}");
    mem_free(text);
    json_decref(tools);
}

/* Of much white space only the end may be the call's, so that no byte is looked at for ever. */
static void test_much_white_space(void **state)
{
    (void)state;
    json_t *tools = two_tools();
    char text[1000 + sizeof CALL(F)], expected[1000];
    memset(text, '\n', 1000);
    memcpy(text + 1000, CALL(F), sizeof CALL(F));
    snprintf(expected, sizeof expected, "%.*s | f {\"a\": 1}", 1000 - 256, text);
    for (size_t step = 0; step < 1000; step = step * 2 + 1) {
        char *found = parsed(&(struct sample){"hermes", text, NULL}, tools, false, false, step);
        assert_string_equal(found, expected);
        mem_free(found);
    }
    json_decref(tools);
}

static void test_formats(void **state)
{
    (void)state;
    assert_ptr_equal(tool_format_of_template("… <tool_call> …"), tool_format_find("hermes"));
    assert_ptr_equal(tool_format_of_template("{\"name\": f, \"parameters\": dictionary}"),
                     tool_format_find("llama3_json"));
    assert_null(tool_format_of_template("<tool_call>\n<function=f>"));
    assert_null(tool_format_of_template("{{ messages }}"));
    assert_null(tool_format_of_template(NULL));
    assert_null(tool_format_find("none"));
}

static void check_tools(const char *text, bool right)
{
    struct refusal refusal = {0};
    json_t *tools = json_loads(text, 0, NULL);
    assert_non_null(tools);
    assert_int_equal(tools_check(tools, &refusal), right);
    if (!right) assert_string_equal(refusal.param, "tools");
    json_decref(tools);
}

static void test_definitions(void **state)
{
    (void)state;
    check_tools("[]", true);
    check_tools("[{\"type\":\"function\",\"function\":{\"name\":\"a-B.c_9\",\"parameters\":{}}}]", true);
    check_tools("{}", false);
    check_tools("[1]", false);
    check_tools("[{\"type\":\"web_search\"}]", false);
    check_tools("[{\"type\":\"function\",\"function\":{}}]", false);
    check_tools("[{\"type\":\"function\",\"function\":{\"name\":\"\"}}]", false);
    check_tools("[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]", false);
    check_tools("[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":1}}]", false);
}

static void check_schema(const char *tools, const char *name, const char *answer, const char *expected)
{
    json_t *json = json_loads(tools, 0, NULL), *schema = answer ? json_loads(answer, 0, NULL) : NULL;
    char *text = tools_schema(json, name, tool_format_find("hermes"), schema);
    assert_string_equal(text, expected);
    free(text);
    json_decref(schema);
    json_decref(json);
}

#define NAMED(name, place)                                                                                            \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"" name "\"},\"arguments\":{\"$ref\":\"#/$defs/" place \
    "\"}},\"required\":[\"name\",\"arguments\"],\"additionalProperties\":false}"
#define EMPTY "{\"type\":\"object\",\"additionalProperties\":false}"

/* A function's parameters were a document of their own: what they refer to moves with them. */
static void test_schemas(void **state)
{
    (void)state;
    const char *tools = "[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":\"g\",\"parameters\":"
                        "{\"properties\":{\"a\":{\"items\":[{\"$ref\":\"#/$defs/x\"}]},\"b\":{\"$ref\":\"#\"}}}}}]";
    check_schema(tools, "f", NULL, "{\"anyOf\":[" NAMED("f", "tool0") "],\"$defs\":{\"tool0\":" EMPTY "}}");
    check_schema(
        tools, NULL, NULL,
        "{\"anyOf\":[" NAMED("f", "tool0") "," NAMED(
            "g", "tool1") "],\"$defs\":{\"tool0\":" EMPTY
                          ",\"tool1\":{\"properties\":{\"a\":{\"items\":[{\"$ref\":\"#/$defs/tool1/$defs/x\"}]},"
                          "\"b\":{\"$ref\":\"#/$defs/tool1\"}},\"type\":\"object\"}}}");
    check_schema(tools, "f", "{\"$defs\":{\"y\":{}},\"items\":{\"$ref\":\"#/$defs/y\"}}",
                 "{\"anyOf\":[{\"$ref\":\"#/$defs/answer\"}," NAMED(
                     "f", "tool0") "],\"$defs\":{\"answer\":{\"$defs\":{\"y\":{}},"
                                   "\"items\":{\"$ref\":\"#/$defs/answer/$defs/y\"}},\"tool0\":" EMPTY "}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_eager),
        cmocka_unit_test(test_arguments_come_in_pieces),
        cmocka_unit_test(test_one_call),
        cmocka_unit_test(test_much_white_space),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_definitions),
        cmocka_unit_test(test_schemas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
