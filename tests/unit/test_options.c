/* test_options.c - the command line: every row of the table, values, ranges, environment, and JSON text. The program's
 * sources are no library, so those under test are compiled in here. */
#include "cli/config_file.c"
#include "cli/option_table.c"
#include "cli/options.c"
#include "support.h"
#include <jansson.h>

static const char *variable_name, *variable_value;
static const char *const *more_variables; /* names and values in turn, NULL at the end; or NULL */

static const char *environment(const char *name)
{
    for (const char *const *p = more_variables; p && *p; p += 2)
        if (strcmp(p[0], name) == 0) return p[1];
    return variable_name && strcmp(name, variable_name) == 0 ? variable_value : NULL;
}

/* Parses the words of `line` (separated by single blanks; ~ stands for a blank in a word) into `out`. */
static enum status parse(const char *line, struct options *out, struct error *error)
{
    static char text[1024]; /* options borrow from it */
    char *words[40] = {"kvasir"};
    int count = 1;
    assert_true(strlen(line) < sizeof text);
    memcpy(text, line, strlen(line) + 1);
    for (char *word = text; word && *word;) {
        char *end = strchr(word, ' ');
        if (end) *end++ = 0;
        for (char *p = word; *p; p++)
            if (*p == '~') *p = ' ';
        words[count++] = word;
        word = end;
    }
    return options_parse(count, words, environment, out, error);
}

static void refused(const char *line, const char *says)
{
    struct options options;
    struct error error;
    assert_int_equal(parse(line, &options, &error), ST_INVALID);
    if (!strstr(error.text, says)) fail_msg("'%s' says '%s', not '%s'", line, error.text, says);
    options_release(&options);
}

static void test_defaults(void **state)
{
    (void)state;
    struct options options;
    struct error error;
    assert_int_equal(parse("run", &options, &error), ST_OK);
    assert_int_equal(options.command, COMMAND_RUN);
    assert_string_equal(options.model, "smollm2");
    assert_false(options.model_chosen);
    assert_null(options.prompt);
    assert_int_equal(options.max_tokens, -1);
    assert_int_equal(options.seed, -1);
    assert_true(options.temperature == 0 && options.top_p == 1 && options.repetition_penalty == 1);
    assert_string_equal(options.output, "text");
    assert_false(options_given(&options, "temp"));
    options_release(&options);
    assert_int_equal(parse("bench", &options, &error), ST_OK);
    assert_string_equal(options.output, "md");
    assert_int_equal(options.bench_prompt.count, 1);
    assert_int_equal(options.bench_prompt.items[0], 512);
    options_release(&options);
}

static void test_every_spelling(void **state)
{
    (void)state;
    static const char *const spellings[] = {
        "-c 99", "-c99", "-c=99", "--context 99", "--context=99", "--ctx-size 99", "--max-model-len=99"};
    struct options options;
    struct error error;
    for (size_t i = 0; i < ARRAY_COUNT(spellings); i++) {
        char line[64];
        snprintf(line, sizeof line, "run %s", spellings[i]);
        assert_int_equal(parse(line, &options, &error), ST_OK);
        assert_int_equal(options.context, 99);
        assert_true(options_given(&options, "context"));
        options_release(&options);
    }
    assert_int_equal(parse("run -ctk f32 -ctv=f16 -sys hi -ub 7 -r x -sp", &options, &error), ST_OK);
    assert_string_equal(options.cache_type_k, "f32");
    assert_string_equal(options.cache_type_v, "f16");
    assert_string_equal(options.system, "hi");
    assert_int_equal(options.max_batched_tokens, 7);
    assert_string_equal(options.stop.items[0], "x");
    assert_true(options.show_control);
    options_release(&options);
}

/* Each row can be given by each of its names with a value of its kind, and refuses one that is not. */
static void test_every_row(void **state)
{
    (void)state;
    static const char *const good[] = {
        [OPTION_FLAG] = "",       [OPTION_TEXT] = "x",     [OPTION_FILE] = "/dev/null", [OPTION_CHOICE] = "",
        [OPTION_WHOLE] = "16",    [OPTION_REAL] = "0.5",   [OPTION_SIZE] = "1MiB",      [OPTION_TEXTS] = "x",
        [OPTION_IDS] = "1,2",     [OPTION_VALUES] = "a=1", [OPTION_WHOLES] = "1,2",     [OPTION_BIASES] = "1=2",
        [OPTION_REALS] = "0.5,1", [OPTION_TOKENS] = "16K"};
    for (size_t i = 0; i < OPTION_ROW_COUNT; i++)
        for (int command = 0; command < COMMAND_COUNT; command++) {
            const struct option_row *row = &OPTION_ROWS[i];
            if (!(row->commands & 1u << command)) continue;
            struct options options;
            struct error error;
            char line[128];
            bool flag = row->kind == OPTION_FLAG;
            const char *choices = row->choices ? row->choices : "";
            snprintf(line, sizeof line, "%s --%s%s%s%.*s", COMMANDS[command].name, row->name, flag ? "" : " ",
                     good[row->kind], (int)strcspn(choices, "|"), choices);
            if (parse(line, &options, &error) != ST_OK) fail_msg("%s: %s", line, error.text);
            assert_true(options.given[i]);
            assert_true(row->help && row->group && (flag || row->argument));
            assert_true((row->kind == OPTION_CHOICE) == (row->choices != NULL));
            options_release(&options);
            bool free_text = row->kind == OPTION_TEXT || row->kind == OPTION_FILE || row->kind == OPTION_TEXTS;
            snprintf(line, sizeof line, "%s --%s=%s", COMMANDS[command].name, row->name, "no=");
            if (!free_text) refused(line, row->name);
        }
}

static void test_names_are_unique(void **state)
{
    (void)state;
    for (int command = 0; command < COMMAND_COUNT; command++)
        for (size_t i = 0; i < OPTION_ROW_COUNT; i++) {
            const struct option_row *row = &OPTION_ROWS[i];
            if (!(row->commands & 1u << command)) continue;
            char name[64];
            int length = snprintf(name, sizeof name, "--%s", row->name);
            assert_ptr_equal(row_find((enum command_id)command, name, (size_t)length), row);
            length = snprintf(name, sizeof name, "-%c", row->letter);
            if (row->letter) assert_ptr_equal(row_find((enum command_id)command, name, (size_t)length), row);
            for (const char *p = row->aliases; p && *p;) {
                size_t bytes = strcspn(p, " ");
                assert_ptr_equal(row_find((enum command_id)command, p, bytes), row);
                p += bytes + (p[bytes] == ' ');
            }
        }
}

static void test_numbers(void **state)
{
    (void)state;
    refused("run --top-p 1.5", "0 to 1");
    refused("run --top-p -0.1", "0 to 1");
    refused("run --top-p nan", "not a number");
    refused("run --top-p 0.5x", "not a number");
    refused("run --top-p ~0.5", "not a number");
    refused("run -n 12a", "not a whole number");
    refused("run -n 1.5", "not a whole number");
    refused("run -n ~1", "not a whole number");
    refused("run -n -2", "-n");
    refused("run -n 99999999999999999999", "out of range");
    refused("run -s -2", "-s");
    refused("run --block-size 8", "16 to 128");
    refused("run --kv-cache-memory 0", "--kv-cache-memory");
    refused("run --kv-cache-memory -1", "size");
    refused("run --kv-cache-memory 2XB", "size");
    refused("run --kv-cache-memory 2GiBs", "size");
    refused("run --kv-cache-memory GiB", "size");
    refused("run --output xml", "text|json");
    refused("run --output tex", "text|json");
    refused("bench -p 1,x", "'x'");
    refused("bench -p -3", "'-3'");
    refused("run --stop-token-ids 4294967295", "4294967294");
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"100", 100},           {"100B", 100},       {"2k", 2048},          {"3M", 3145728},
                 {"1.5GiB", 1610612736}, {"2GB", 2000000000}, {"1T", 1099511627776}, {"2gib", 2147483648}};
    struct options options;
    struct error error;
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        char line[64];
        snprintf(line, sizeof line, "run --kv-cache-memory %s", sizes[i].text);
        assert_int_equal(parse(line, &options, &error), ST_OK);
        assert_int_equal(options.kv_cache_bytes, sizes[i].bytes);
        options_release(&options);
    }
    assert_int_equal(parse("run -s 9223372036854775807 --logit-bias 3=-inf,4+1.5 -l 5-2", &options, &error), ST_OK);
    assert_int_equal(options.seed, INT64_MAX);
    assert_int_equal(options.bias.count, 3);
    assert_true(options.bias.items[0].id == 3 && isinf(options.bias.items[0].bias) && options.bias.items[0].bias < 0);
    assert_true(options.bias.items[1].id == 4 && options.bias.items[1].bias == 1.5f);
    assert_true(options.bias.items[2].id == 5 && options.bias.items[2].bias == -2);
    options_release(&options);
    refused("run --logit-bias 3", "ID=BIAS");
    refused("run --logit-bias 3=", "ID=BIAS");
    refused("run --logit-bias =3", "ID=BIAS");
    refused("run --logit-bias 3=inf", "ID=BIAS");
    refused("run --logit-bias 4294967295=1", "ID=BIAS");
    refused("run --logit-bias 3=1,", "ID=BIAS");
}

static void test_lists(void **state)
{
    (void)state;
    struct options options;
    struct error error;
    assert_int_equal(parse("bench -p 1,2 -p 3 -n 0", &options, &error), ST_OK);
    assert_int_equal(options.bench_prompt.count, 3);
    assert_int_equal(options.bench_prompt.items[2], 3);
    assert_int_equal(options.bench_generate.count, 1); /* the default gives way to the first value */
    assert_int_equal(options.bench_generate.items[0], 0);
    options_release(&options);
    assert_int_equal(parse("bench throughput --arrival-rate 0.5,2e1 --arrival-rate=3", &options, &error), ST_OK);
    assert_int_equal(options.arrival_rate.count, 3);
    assert_true(options.arrival_rate.items[0] == 0.5 && options.arrival_rate.items[1] == 20);
    assert_true(options.arrival_rate.items[2] == 3);
    options_release(&options);
    refused("bench throughput --arrival-rate 1,,2", "''");
    refused("bench throughput --arrival-rate 1,", "''");
    refused("bench throughput --arrival-rate 1,0", "'0'");
    refused("bench throughput --arrival-rate 1.0000000000000000000000000000000000000000000000000000000000000000x",
            "list");
    struct id_list ids = {0};
    assert_int_equal(ids_parse("ids", " [1, 2,3]\n4 ", UINT32_MAX - 1, &ids, &error), ST_OK);
    assert_int_equal(ids.count, 4);
    assert_int_equal(ids.items[3], 4);
    mem_free(ids.items);
}

static void test_arguments(void **state)
{
    (void)state;
    struct options options;
    struct error error;
    assert_int_equal(parse("run a.gguf Why~not?", &options, &error), ST_OK);
    assert_string_equal(options.model, "a.gguf");
    assert_string_equal(options.prompt, "Why not?");
    assert_true(options.model_chosen);
    options_release(&options);
    assert_int_equal(parse("run -m a.gguf b", &options, &error), ST_OK);
    assert_string_equal(options.prompt, "b");
    options_release(&options);
    assert_int_equal(parse("run a -n 3 -- -b", &options, &error), ST_OK);
    assert_string_equal(options.prompt, "-b");
    options_release(&options);
    assert_int_equal(parse("run a -", &options, &error), ST_OK);
    assert_string_equal(options.prompt, "-");
    options_release(&options);
    assert_int_equal(parse("detokenize a 1 2", &options, &error), ST_OK);
    assert_int_equal(options.rest.count, 2);
    options_release(&options);
    assert_int_equal(parse("eval nll a", &options, &error), ST_OK);
    assert_int_equal(options.command, COMMAND_EVAL_NLL);
    options_release(&options);
    assert_int_equal(parse("bench throughput a", &options, &error), ST_OK);
    assert_int_equal(options.command, COMMAND_BENCH_THROUGHPUT);
    assert_string_equal(options.model, "a");
    options_release(&options);
    assert_int_equal(parse("bench -m throughput", &options, &error), ST_OK);
    assert_int_equal(options.command, COMMAND_BENCH);
    options_release(&options);
    refused("bench throughput --concurrency 4 --arrival-rate 2", "exclude");
    assert_int_equal(parse("run --help --nonsense", &options, &error), ST_OK);
    assert_true(options.help);
    options_release(&options);
    refused("run a b c", "unexpected argument 'c'");
    refused("run -m a b c", "unexpected argument 'c'");
    refused("inspect a b", "unexpected argument 'b'");
    refused("run a b -p c", "twice");
    refused("run -p b -f c", "exclude");
    refused("run --prompt-ids 1 -f c", "exclude");
    refused("run a b -f c", "exclude");
    refused("eval", "say what: eval nll, eval kl");
    refused("eval nul", "say what: eval nll, eval kl");
    refused("rum", "'run'");
    refused("run -n", "needs N");
    refused("run --raw=1", "takes no value");
    refused("run --temprature 1", "the nearest is --temperature");
    refused("run --temprature=1", "unknown option --temprature;");
    refused("run --messages x", "unknown option --messages");
    refused("render --set a", "KEY=JSON");
    refused("render --set a=b", "JSON");
}

static void test_environment(void **state)
{
    (void)state;
    struct options options;
    struct error error;
    variable_name = "KVASIR_THREADS";
    variable_value = "3";
    assert_int_equal(parse("run", &options, &error), ST_OK);
    assert_int_equal(options.threads, 3);
    assert_true(options_given(&options, "threads"));
    options_release(&options);
    assert_int_equal(parse("run -t 5", &options, &error), ST_OK);
    assert_int_equal(options.threads, 5);
    options_release(&options);
    variable_value = "x";
    refused("run", "KVASIR_THREADS: 'x'");
    variable_value = "";
    assert_int_equal(parse("run", &options, &error), ST_OK);
    assert_int_equal(options.threads, 0);
    options_release(&options);
    variable_name = "KVASIR_MODEL";
    variable_value = "mine";
    assert_int_equal(parse("run", &options, &error), ST_OK);
    assert_string_equal(options.model, "mine");
    options_release(&options);
    assert_int_equal(parse("run yours", &options, &error), ST_OK);
    assert_string_equal(options.model, "yours");
    options_release(&options);
    variable_name = NULL;
}

/* The variables of the published design: numbers, K, and a plugin's name in a list. Ours outweigh them, the command line both. */
static void test_published_variables(void **state)
{
    (void)state;
    static const char *const all[] = {"VLLM_PLUGINS",
                                      "ascend_enhanced_model,ascend, retrieval",
                                      "VLLM_RETRIEVAL_INIT_TOKENS_NUM",
                                      "512",
                                      "VLLM_RETRIEVAL_LOCAL_TOKENS_NUM",
                                      "7192",
                                      "VLLM_RETRIEVAL_TOPK_PERCENT",
                                      "0.2",
                                      "VLLM_RETRIEVAL_DENSE_BOUNDARY",
                                      "32K",
                                      "VLLM_RETRIEVAL_OFFLOAD_BOUNDARY",
                                      "65536",
                                      NULL};
    static const struct {
        const char *plugins, *mode;
    } lists[] = {{"retrieval", "on"},   {"retrieval,x", "on"}, {"x,retrieval", "on"}, {" retrieval ,x", "on"},
                 {"retrievals", "off"}, {"x,,y", "off"},       {"", "off"},           {"x retrieval", "off"}};
    static const struct {
        const char *name, *value, *says;
    } bad[] = {
        {"VLLM_RETRIEVAL_TOPK_PERCENT", "20", "VLLM_RETRIEVAL_TOPK_PERCENT: '20' is not in the range 1e-06 to 1"},
        {"VLLM_RETRIEVAL_DENSE_BOUNDARY", "32X", "VLLM_RETRIEVAL_DENSE_BOUNDARY: '32X' is not a number of tokens"},
        {"VLLM_RETRIEVAL_DENSE_BOUNDARY", "32KB", "is not a number of tokens such as 32768 or 32K"},
        {"VLLM_RETRIEVAL_INIT_TOKENS_NUM", "-1", "'-1' is not in the range"},
        {"VLLM_RETRIEVAL_LOCAL_TOKENS_NUM", "99999999999999999K", "is out of range"},
        {"VLLM_RETRIEVAL_OFFLOAD_BOUNDARY", "K", "is not a number of tokens"},
        {"KVASIR_RETRIEVAL", "yes", "KVASIR_RETRIEVAL: 'yes' is not one of off|on|auto"}};
    struct options options;
    struct error error;
    for (size_t i = 0; i < 2; i++) {
        more_variables = all;
        assert_int_equal(parse(i ? "serve" : "run", &options, &error), ST_OK);
        assert_string_equal(options.retrieval, "on");
        assert_true(options.retrieval_initial == 512 && options.retrieval_local == 7192);
        assert_true(options.retrieval_topk == 0.2 && options.retrieval_dense_boundary == 32768);
        assert_int_equal(options.retrieval_offload_boundary, 65536);
        assert_false(options_given(&options, "retrieval-dense-layers"));
        options_release(&options);
        assert_int_equal(
            parse(i ? "serve --retrieval off --retrieval-topk 1" : "run --retrieval off --retrieval-topk 1", &options,
                  &error),
            ST_OK);
        assert_string_equal(options.retrieval, "off");
        assert_true(options.retrieval_topk == 1);
        options_release(&options);
        static const char *const both[] = {"KVASIR_RETRIEVAL",
                                           "auto",
                                           "VLLM_PLUGINS",
                                           "retrieval",
                                           "KVASIR_RETRIEVAL_TOPK",
                                           "0.3",
                                           "VLLM_RETRIEVAL_TOPK_PERCENT",
                                           "bad",
                                           NULL};
        more_variables = both;
        assert_int_equal(parse(i ? "serve" : "run", &options, &error), ST_OK);
        assert_string_equal(options.retrieval, "auto");
        assert_true(options.retrieval_topk == 0.3);
        options_release(&options);
        more_variables = NULL;
    }
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++) {
        variable_name = "VLLM_PLUGINS";
        variable_value = lists[i].plugins;
        assert_int_equal(parse("serve", &options, &error), ST_OK);
        assert_string_equal(options.retrieval, lists[i].mode);
        options_release(&options);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        variable_name = bad[i].name;
        variable_value = bad[i].value;
        refused("serve", bad[i].says);
        refused("run", bad[i].says);
    }
    variable_name = NULL;
}

/* Whatever allocation fails, the parser says so and nothing is lost (the leak checker looks on). */
static void test_memory(void **state)
{
    (void)state;
    for (uint64_t nth = 1;; nth++) {
        struct options options;
        struct error error;
        fault_arm(FAULT_ALLOC, nth);
        enum status status =
            parse("run a b --stop c --stop d --logit-bias 1=1 --stop-token-ids 1,2 --set k=1", &options, &error);
        fault_arm(FAULT_NONE, 0);
        options_release(&options);
        if (status == ST_OK) {
            assert_true(nth > 6);
            break;
        }
        assert_int_equal(status, ST_NOMEM);
    }
}

static void json_is(const char *text, size_t bytes, const char *expected)
{
    struct buffer out;
    buffer_init(&out, 0);
    json_out_text(&out, text, bytes);
    assert_false(out.failed);
    assert_string_equal(out.data, expected);
    buffer_release(&out);
}

static void test_json_text(void **state)
{
    (void)state;
    json_is("", 0, "\"\"");
    json_is("a\"\\\n\t\x7f\0z", 8, "\"a\\\"\\\\\\n\\u0009\\u007f\\u0000z\"");
    json_is("\xc3\xa9\xf0\x9f\x99\x82", 6, "\"\xc3\xa9\xf0\x9f\x99\x82\"");
    /* One replacement for each maximal part, as Unicode recommends and Python does. */
    json_is("\xf0\x9f\x99", 3, "\"\\ufffd\"");
    json_is("\xf0\x9f\x99"
            "a",
            4, "\"\\ufffda\"");
    json_is("\xe4\xbd\xff\x80", 4, "\"\\ufffd\\ufffd\\ufffd\"");
    json_is("\xed\xa0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\"");
    json_is("\xc0\xaf", 2, "\"\\ufffd\\ufffd\"");
}

/* Any bytes become a string that a JSON parser takes. */
static void test_json_random(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 1);
    for (uint32_t i = 0; i < test_count(2000, 200000); i++) {
        char bytes[40];
        size_t count = random_below(&random, sizeof bytes);
        for (size_t j = 0; j < count; j++)
            bytes[j] = (char)(random_next(&random) | (random_below(&random, 2) ? 0x80 : 0));
        struct buffer out;
        buffer_init(&out, 0);
        json_out_text(&out, bytes, count);
        json_t *value = json_loadb(out.data, out.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_non_null(value);
        json_decref(value);
        buffer_release(&out);
    }
}

static void test_json_numbers(void **state)
{
    (void)state;
    struct buffer out;
    buffer_init(&out, 0);
    json_out_real(&out, -0.5);
    buffer_text(&out, " ");
    json_out_real(&out, NAN);
    buffer_text(&out, " ");
    json_out_real(&out, -INFINITY);
    buffer_text(&out, " ");
    json_out_ids(&out, (uint32_t[]){1, 4294967295u}, 2);
    json_out_ids(&out, NULL, 0);
    assert_string_equal(out.data, "-0.5 null null [1,4294967295][]");
    buffer_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_spelling),
        cmocka_unit_test(test_every_row),
        cmocka_unit_test(test_names_are_unique),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_published_variables),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_json_text),
        cmocka_unit_test(test_json_random),
        cmocka_unit_test(test_json_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
