/* test_template.c - chat templates: 468 cases whose outcome Python's jinja2 gave (data/template/generate.py), which bytes of the
 * output are the user's, hostile templates, bounds, and failing memory. */
#include "format/format.h"
#include "support.h"
#include "text/text.h"
#include <time.h>

static json_t *load(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, JSON_ALLOW_NUL, &error);
    if (!json) fail_msg("%s: %s", text, error.text);
    return json;
}

static enum status run(const char *source, size_t bytes, json_t *variables, const struct template_limits *limits,
                       struct template_rendering *out, struct error *error)
{
    struct template *t;
    enum status status = template_compile(source, bytes, &t, error);
    memset(out, 0, sizeof *out);
    if (status != ST_OK) return status;
    status = template_render(t, variables, limits, out, error);
    template_release(t);
    return status;
}

/* ---- what Python makes of it -------------------------------------------------------------------------------------------------- */

static bool agrees(size_t index, const char *source, size_t bytes, json_t *variables, const json_t *expected)
{
    struct template_rendering out;
    struct error error = {0};
    enum status status = run(source, bytes, variables, NULL, &out, &error);
    const char *text = out.text.data ? out.text.data : "", *wanted = expected ? json_string_value(expected) : NULL;
    size_t length = expected ? json_string_length(expected) : 0;
    bool same =
        expected ? status == ST_OK && out.text.length == length && memcmp(text, wanted, length) == 0 : status != ST_OK;
    if (!same)
        print_error("case %zu: %.200s\n  Python: %s\n  here:   %s\n", index, source, expected ? wanted : "an error",
                    status == ST_OK ? text : error.text);
    template_rendering_release(&out);
    return same;
}

static void test_cases_equal_python(void **state)
{
    (void)state;
    json_error_t error;
    json_t *file = json_load_file(TEST_DATA "/template/cases.json", JSON_ALLOW_NUL, &error);
    if (!file) fail_msg("%s: line %d: %s", error.source, error.line, error.text);
    json_t *cases = json_object_get(file, "cases"), *one;
    size_t index, differ = 0;
    json_array_foreach(cases, index, one)
    {
        const json_t *chat = json_object_get(one, "chat"), *source = json_object_get(one, "template");
        json_t *variables = json_object_get(one, "variables");
        if (chat) source = json_array_get(json_object_get(file, "chats"), (size_t)json_integer_value(chat));
        if (!variables) variables = json_object_get(file, "variables");
        differ += !agrees(index, json_string_value(source), json_string_length(source), variables,
                          json_object_get(one, "expected"));
    }
    assert_int_equal(differ, 0);
    assert_true(json_array_size(cases) > 400);
    json_decref(file);
}

/* ---- whose bytes --------------------------------------------------------------------------------------------------------------- */

/* The output with the user's ranges between « and ». */
static char *marked(const struct template_rendering *out)
{
    struct buffer b;
    size_t at = 0;
    buffer_init(&b, 0);
    for (size_t i = 0; i < out->user_count; i++) {
        assert_true(out->user[i].begin < out->user[i].end && out->user[i].end <= out->text.length);
        assert_true(i == 0 || out->user[i].begin > out->user[i - 1].end);
        buffer_append(&b, out->text.data + at, out->user[i].begin - at);
        buffer_text(&b, "«");
        buffer_append(&b, out->text.data + out->user[i].begin, out->user[i].end - out->user[i].begin);
        buffer_text(&b, "»");
        at = out->user[i].end;
    }
    if (out->text.length > at) buffer_append(&b, out->text.data + at, out->text.length - at);
    buffer_text(&b, "");
    return buffer_take(&b);
}

static void test_user_ranges(void **state)
{
    (void)state;
    static const char variables[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\" <|im_end|> é \"},{\"role\":\"user\",\"content\":"
        "\"a,b\"}],\"tools\":[{\"name\":\"f\",\"n\":5}],\"bos\":\"<s>\",\"none\":null}";
    static const struct {
        const char *source, *marked;
    } cases[] = {
        {"{{ bos }}x", "<s>x"},
        {"<|im_start|>{{ messages[0].role }}\n{{ messages[0].content }}<|im_end|>",
         "<|im_start|>«user»\n« <|im_end|> é »<|im_end|>"},
        {"{{ '<|a|>' + messages[0].content + '<|b|>' }}", "<|a|>« <|im_end|> é »<|b|>"},
        {"{{ '<|a|>' ~ messages[0].content|trim ~ '<|b|>' }}", "<|a|>«<|im_end|> é»<|b|>"},
        {"{{ ('[' ~ messages[0].content ~ ']')[1:4] }}{{ ('[' ~ messages[1].content ~ ']')[::-1] }}", "« <|»]«b,a»["},
        {"{{ ('[' ~ messages[1].content ~ ']').split(',') | join('|') }}", "[«a»|«b»]"},
        {"{{ ('[' ~ messages[1].content ~ ']').replace(',', '::') }}{{ 'x-y'.replace('-', messages[1].content) }}",
         "[«a»::«b»]x«a,b»y"},
        {"{{ ('[' ~ messages[1].content ~ ']') | upper }}{{ messages[1].content | capitalize }}", "[«A,B»]«A,b»"},
        {"{{ messages[1] | tojson }}{{ {'k': bos} | tojson }}",
         "«{\"role\": \"user\", \"content\": \"a,b\"}»{\"k\": \"<s>\"}"},
        {"{{ [bos, messages[1].content] }}{{ [bos] }}", "«['<s>', 'a,b']»['<s>']"},
        {"{{ tools[0].n }}{{ tools[0].n * 2 }}{{ tools[0].name * 2 }}{{ tools | length }}", "510«ff»1"},
        {"{% for key in tools[0] %}{{ key }};{% endfor %}", "«name»;«n»;"},
        {"{% set x %}<{{ messages[1].content }}>{% endset %}{{ x }}{{ x | length }}", "<«a,b»>5"},
        {"{% macro m(t) %}[{{ t }}]{% endmacro %}{{ m(messages[1].content) }}{{ m('q') }}", "[«a,b»][q]"},
        {"{% set ns = namespace(o='') %}{% for m in messages %}{% set ns.o = ns.o ~ '<' ~ m.content|trim ~ '>' %}{% "
         "endfor %}{{ ns.o }}",
         "<«<|im_end|> é»><«a,b»>"},
        {"{{ '%s|%5s' % (messages[1].content, 'x') }}{{ '{}={:>5}'.format('k', messages[1].content) }}",
         "«a,b»|    xk=  «a,b»"},
        {"{{ messages | map(attribute='content') | join('; ') }}", "« <|im_end|> é »; «a,b»"},
        {"{% for c in messages[1].content %}{{ c }}.{% endfor %}", "«a».«,».«b»."},
        {"{{ (messages[1].content ~ '\\n-') | indent(2) }}{{ messages[1].content | center(5) }}", "«a,b»\n  - «a,b» "},
        {"{{ messages[0].content | escape }}", "« &lt;|im_end|&gt; é »"},
        {"{{ dict(a=messages[1].content).a }}{{ (messages | first).role }}{{ messages[0].content.split('|')[1] }}",
         "«a,buserim_end»"},
    };
    json_t *json = load(variables);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct template_rendering out;
        struct error error = {0};
        enum status status = run(cases[i].source, strlen(cases[i].source), json, NULL, &out, &error);
        if (status != ST_OK) fail_msg("%s: %s", cases[i].source, error.text);
        char *text = marked(&out);
        if (strcmp(text, cases[i].marked) != 0)
            fail_msg("%s\n  gives  %s\n  wanted %s", cases[i].source, text, cases[i].marked);
        mem_free(text);
        template_rendering_release(&out);
    }
    json_decref(json);
}

/* ---- bounds ---------------------------------------------------------------------------------------------------------------------- */

struct hostile {
    const char *before, *repeated, *after;
    size_t times; /* of `repeated` */
    bool may_pass;
};

static const struct hostile hostiles[] = {
    {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "", "", 0, false},
    {"{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", "", "", 0, false},
    {"{{ 'x' * 1000000000000 }}", "", "", 0, false},
    {"{{ [0] * 1000000000000 }}", "", "", 0, false},
    {"{{ (range(100000) | list) * 1000 }}", "", "", 0, false},
    {"{{ range(100001) }}", "", "", 0, false},
    {"{{ 9 ** 9 ** 9 ** 9 }}", "", "", 0, false},
    {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "", "", 0, false},
    {"{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "", "", 0, false},
    {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "", "", 0, false},
    {"{% set n = namespace() %}{% set n.a = [n] %}{{ n }}", "", "", 0, false},
    {"{% set n = namespace(a=[1]) %}{% for i in range(999) %}{% set n.a = n.a + n.a %}{% endfor %}", "", "", 0, false},
    {"{% set n = namespace(a='x') %}{% for i in range(999) %}{% set n.a = n.a ~ n.a %}{% endfor %}", "", "", 0, false},
    {"{% set n = namespace(a=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}", "", "", 0,
     false},
    {"{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a | tojson }}", "",
     "", 0, false},
    {"{{ '%1000000000s' % 1 }}", "", "", 0, false},
    {"{{ '{:1000000000}'.format(1) }}", "", "", 0, false},
    {"{{ 'x'.center(2000000000) }}", "", "", 0, false},
    {"{{ 'x' | indent(2000000000, true) }}", "", "", 0, false},
    {"{{ range(10) | slice(1000000000) | list }}", "", "", 0, false},
    {"{{ range(10) | batch(1000000000, 'x') | list }}", "", "", 0, false},
    {"{{ ('a' * 1000000).replace('', 'bbbbbbbb') }}", "", "", 0, false},
    {"{{ ('a' * 1000000).rfind('a' * 500000 ~ 'b') }}", "", "", 0, false},
    {"{{ ('<' * 1000000) | striptags }}", "", "", 0, false},
    {"{% for i in range(100000) %}{% set x = ('é' * 100000)[50000] %}{% endfor %}", "", "", 0, false},
    {"{{ range(100000) | list | tojson(indent=1000) }}", "", "", 0, false},
    {"{{ ", "(", "1", 100000, false},
    {"{{ ", "[", "", 100000, false},
    {"{{ ", "{1:", "", 100000, false},
    {"{{ ", "-", "1 }}", 100000, false},
    {"{{ ", "not ", "1 }}", 100000, false},
    {"{{ a", ".b", " }}", 100000, false},
    {"{{ a", "|upper", " }}", 100000, false},
    {"{{ 1", " + 1", " }}", 100000, false},
    {"{{ 1", " if 1 else 1", " }}", 50000, false},
    {"", "{% if 1 %}", "", 100000, false},
    {"{% if 0 %}", "{% elif 0 %}", "{% endif %}", 50000, false},
    {"{% set ", "a,", " = 1 %}", 100000, false},
    {"", "{{", "", 500000, false},
    {"", "{%", "", 500000, false},
    {"{% raw %}", "{% endra", "", 100000, false},
    {"{#", "{#", "", 500000, false},
    {"", "{", "", 1000000, true},
    {"", "{{ 1 }}", "", 10000, true},
    {"{{ '", "\\x41", "' }}", 200000, true},
};

static void test_hostile_templates_end_soon(void **state)
{
    (void)state;
    json_t *variables = load("{\"messages\":[]}");
    for (size_t i = 0; i < ARRAY_COUNT(hostiles); i++) {
        const struct hostile *h = &hostiles[i];
        struct template_rendering out;
        struct error error = {0};
        struct buffer source;
        buffer_init(&source, 0);
        buffer_text(&source, h->before);
        for (size_t k = 0; k < h->times; k++) buffer_text(&source, h->repeated);
        buffer_text(&source, h->after);
        double begin = clock_seconds();
        enum status status = run(source.data, source.length, variables, NULL, &out, &error);
        double seconds = clock_seconds() - begin;
        if (status == ST_OK && !h->may_pass) fail_msg("%.100s is not refused", source.data);
        if (status != ST_OK && (error.text[0] == '\0' || strchr(error.text, '\n')))
            fail_msg("%.100s: no message", source.data);
        if (seconds > 5)
            fail_msg("%.100s takes %.1f s", source.data, seconds); /* ~0.1 s; sanitizers and busy machines */
        template_rendering_release(&out);
        buffer_release(&source);
    }
    json_decref(variables);
}

static enum status limited(const char *source, struct template_limits limits)
{
    struct template_rendering out;
    struct error error = {0};
    json_t *variables = json_object();
    enum status status = run(source, strlen(source), variables, &limits, &out, &error);
    template_rendering_release(&out);
    json_decref(variables);
    return status;
}

static void test_limits_are_kept(void **state)
{
    (void)state;
    const char *loop = "{% for i in range(100) %}xxxxxxxxxx{% endfor %}", *nested = "{{ [[[[[[[[[[1]]]]]]]]]] }}";
    assert_int_equal(limited(loop, (struct template_limits){.steps = 5000, .bytes = 1000, .depth = 50}), ST_OK);
    assert_int_equal(limited(loop, (struct template_limits){.steps = 5000, .bytes = 999, .depth = 50}), ST_LIMIT);
    assert_int_equal(limited(loop, (struct template_limits){.steps = 100, .bytes = 1000, .depth = 50}), ST_LIMIT);
    assert_int_equal(limited(nested, (struct template_limits){.steps = 5000, .bytes = 1000, .depth = 50}), ST_OK);
    assert_int_equal(limited(nested, (struct template_limits){.steps = 5000, .bytes = 1000, .depth = 9}), ST_LIMIT);
}

/* A long conversation earns its steps and bytes: the bounds are for templates, not for people. */
static void test_long_conversations_render(void **state)
{
    (void)state;
    static const char source[] =
        "{% set ns = namespace(o='') %}{% for m in messages %}{% set ns.o = ns.o ~ '<' ~ m.role ~ '>' ~ "
        "m.content | trim ~ '\\n' %}{% endfor %}{{ ns.o }}{{ messages | tojson }}";
    struct template_rendering out;
    struct error error = {0};
    json_t *messages = json_array(), *variables = json_object();
    char *content = mem_alloc(4001);
    memset(content, 'y', 4000);
    content[4000] = '\0';
    for (int i = 0; i < 2000; i++)
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", "user", "content", content));
    json_object_set_new(variables, "messages", messages);
    if (run(source, strlen(source), variables, NULL, &out, &error) != ST_OK) fail_msg("%s", error.text);
    assert_true(out.text.length > 2 * 2000 * 4000);
    template_rendering_release(&out);
    mem_free(content);
    json_decref(variables);
}

/* ---- errors ------------------------------------------------------------------------------------------------------------------------ */

static void test_errors_name_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *source, *text;
        enum status status;
    } cases[] = {
        {"a\nb {{ x.y }}", "template, line 2, column 7: 'x' is undefined", ST_INVALID},
        {"a\r\n{% foo %}", "template, line 2, column 4: encountered unknown tag 'foo'", ST_INVALID},
        {"{{ 1 | nope }}", "template, line 1, column 8: no filter named 'nope'", ST_INVALID},
        {"{{ raise_exception('Only\ntwo: ' ~ (1 + 1)) }}", "Only?two: 2", ST_INVALID},
        {"{{ {}.append() }}", "template, line 1, column 13: 'dict object' has no attribute 'append'", ST_INVALID},
        {"{{ [].append(1) }}", "template, line 1, column 13: access to attribute 'append' of 'list' object is unsafe",
         ST_INVALID},
        {"{{ \xff }}", "template: not UTF-8", ST_INVALID},
        {"{{ '\\ud800' }}", "template, line 1, column 4: U+D800 is not a character", ST_INVALID},
        {"{{ 2 ** 64 }}", "template, line 1, column 4: an integer beyond 64 bits", ST_LIMIT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct template_rendering out;
        struct error error = {0};
        json_t *variables = json_object();
        enum status status = run(cases[i].source, strlen(cases[i].source), variables, NULL, &out, &error);
        assert_int_equal(status, cases[i].status);
        assert_string_equal(error.text, cases[i].text);
        json_decref(variables);
    }
    struct template *t;
    struct error error = {0};
    char *large = mem_zero((1u << 20) + 1, 1);
    assert_int_equal(template_compile(large, (1u << 20) + 1, &t, &error), ST_LIMIT);
    mem_free(large);
}

/* A compiled template is not changed by a rendering: the texts in it stay what they are. */
static void test_rendering_twice_gives_the_same(void **state)
{
    (void)state;
    static const char source[] =
        "{% set x = 'abc\\n' 'd' %}{{ x + 'e' }}{{ x + 'f' }}{% set y = x ~ '1' %}{{ y ~ '2' }}{{ y ~ '3' }}{{ x }}";
    struct template *t;
    struct error error = {0};
    json_t *variables = json_object();
    assert_int_equal(template_compile(source, strlen(source), &t, &error), ST_OK);
    for (int i = 0; i < 3; i++) {
        struct template_rendering out;
        assert_int_equal(template_render(t, variables, NULL, &out, &error), ST_OK);
        assert_string_equal(out.text.data, "abc\ndeabc\ndfabc\nd12abc\nd13abc\nd");
        template_rendering_release(&out);
    }
    json_decref(variables);
    template_release(t);
}

static void test_time_of_day(void **state)
{
    (void)state;
    static const char source[] = "{{ strftime_now('%d %b %Y') }}";
    char before[64], after[64];
    struct template_rendering out;
    struct error error = {0};
    json_t *variables = json_object();
    time_t now = time(NULL);
    strftime(before, sizeof before, "%d %b %Y", localtime(&now));
    assert_int_equal(run(source, strlen(source), variables, NULL, &out, &error), ST_OK);
    now = time(NULL);
    strftime(after, sizeof after, "%d %b %Y", localtime(&now));
    assert_true(strcmp(out.text.data, before) == 0 || strcmp(out.text.data, after) == 0);
    template_rendering_release(&out);
    json_decref(variables);
}

static void test_failing_memory(void **state)
{
    (void)state;
    static const char source[] =
        "{% macro m(a) %}{{ a | upper }}{{ caller() }}{% endmacro %}{% for x in messages %}{% call m(x.content) %}"
        "{{ x | tojson }}{{ loop.index ~ 'q' * 5000 }}{% endcall %}{% endfor %}";
    json_t *variables = load("{\"messages\":[{\"content\":\"hello\"},{\"content\":\"b\"}]}");
    enum status status = ST_NOMEM;
    uint64_t nth = 0;
    while (status == ST_NOMEM) {
        struct template_rendering out;
        struct error error = {0};
        fault_arm(FAULT_ALLOC, ++nth);
        status = run(source, strlen(source), variables, NULL, &out, &error);
        fault_arm(FAULT_ALLOC, 0);
        template_rendering_release(&out);
    }
    assert_int_equal(status, ST_OK);
    assert_true(nth > 4);
    json_decref(variables);
}

/* ---- the templates of fetched models -------------------------------------------------------------------------------------------------- */

static bool model_renders(const char *name, const char *variables, const char *expected)
{
    char path[1024];
    const char *source;
    size_t bytes;
    struct format *format;
    struct template_rendering out;
    struct error error = {0};
    if (!test_model_path(name, path, sizeof path)) return false;
    json_t *json = load(variables);
    if (format_open(path, true, &format, &error) != ST_OK) fail_msg("%s", error.text);
    assert_int_equal(format_get_text(format, "tokenizer.chat_template", &source, &bytes, &error), ST_OK);
    if (run(source, bytes, json, NULL, &out, &error) != ST_OK) fail_msg("%s: %s", name, error.text);
    assert_string_equal(out.text.data, expected);
    template_rendering_release(&out);
    format_close(format);
    json_decref(json);
    return true;
}

static void test_model_templates(void **state)
{
    (void)state;
    static const char hello[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"add_generation_prompt\":true}";
    bool smollm2 = model_renders(
        "smollm2", hello,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    bool qwen2 = model_renders(
        "qwen2", hello,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    if (!smollm2 && !qwen2) skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_equal_python),
        cmocka_unit_test(test_user_ranges),
        cmocka_unit_test(test_hostile_templates_end_soon),
        cmocka_unit_test(test_limits_are_kept),
        cmocka_unit_test(test_long_conversations_render),
        cmocka_unit_test(test_errors_name_the_place),
        cmocka_unit_test(test_rendering_twice_gives_the_same),
        cmocka_unit_test(test_time_of_day),
        cmocka_unit_test(test_failing_memory),
        cmocka_unit_test(test_model_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
