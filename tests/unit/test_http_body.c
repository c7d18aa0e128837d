/* test_http_body.c - the JSON of a request to parameters: every field, its default, its null, and what is refused. What
 * fields do in an answer is tested over sockets (tests/e2e/test_server.py). */
#include "server/server_internal.h"
#include "support.h"

static struct body parsed(const char *text, unsigned api)
{
    struct body body;
    struct refusal refusal;
    if (!body_parse(text, strlen(text), api, &body, &refusal)) fail_msg("%s: %s", text, refusal.message);
    return body;
}

static void refused(const char *text, unsigned api, const char *param)
{
    struct body body;
    struct refusal refusal;
    if (body_parse(text, strlen(text), api, &body, &refusal)) fail_msg("%s is accepted", text);
    assert_int_equal(refusal.status, 400);
    assert_string_equal(refusal.param, param);
    assert_non_null(refusal.message[0] ? refusal.message : NULL);
    body_release(&body);
}

static void check_defaults(const char *text, unsigned api, uint32_t max_tokens)
{
    struct body body = parsed(text, api);
    const struct kvasir_sampling *sampling = &body.request.sampling;
    assert_true(sampling->temperature == 1 && sampling->top_p == 0 && sampling->top_k == 0 && sampling->min_p == 0);
    assert_true(sampling->typical_p == 0 && sampling->repetition_penalty == 0 && !sampling->has_seed);
    assert_true(sampling->frequency_penalty == 0 && sampling->presence_penalty == 0 && !sampling->bias_count);
    assert_int_equal(body.request.max_tokens, max_tokens);
    assert_int_equal(body.request.n, 1);
    assert_int_equal(body.request.logprobs, 0);
    assert_int_equal(body.request.cache_salt, 0);
    assert_true(!body.stream && !body.include_usage && !body.logprobs && !body.request.ignore_eos && !body.model);
    body_release(&body);
}

static void test_defaults(void **state)
{
    (void)state;
    check_defaults("{\"prompt\":\"a\"}", API_COMPLETIONS, 16);
    check_defaults("{\"messages\":[]}", API_CHAT, 0);
    check_defaults(
        "{\"prompt\":\"a\",\"temperature\":null,\"stop\":null,\"n\":null,\"max_tokens\":null,\"stream\":null,"
        "\"tools\":null,\"unheard_of\":{\"a\":1}}",
        API_COMPLETIONS, 16);
}

static void test_every_field(void **state)
{
    (void)state;
    struct body body = parsed(
        "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":7,\"temperature\":0,\"top_p\":0.5,\"top_k\":-1,\"min_p\":0."
        "25,"
        "\"typical_p\":0.75,\"repetition_penalty\":1.5,\"frequency_penalty\":-2,\"presence_penalty\":2,\"seed\":-1,"
        "\"logit_bias\":{\"12\":-100,\"4294967294\":1},\"stop\":[\"x\",\"y\"],\"stop_token_ids\":[3,4],"
        "\"ignore_eos\":true,\"logprobs\":0,\"stream\":true,\"stream_options\":{\"include_usage\":true},\"n\":3,"
        "\"priority\":-2147483648,\"min_tokens\":2,\"best_of\":4,\"echo\":false,\"bad_words\":[\"no\"],\"allowed_token_"
        "ids\":[9],\"length_penalty\":0.5,"
        "\"include_stop_str_in_output\":true,\"skip_special_tokens\":false,\"return_token_ids\":true,"
        "\"truncate_prompt_tokens\":100}",
        API_COMPLETIONS);
    const struct kvasir_request *r = &body.request;
    assert_string_equal(body.model, "m");
    assert_true(r->sampling.temperature == 0 && r->sampling.top_p == 0.5f && r->sampling.top_k == 0);
    assert_true(r->sampling.min_p == 0.25f && r->sampling.typical_p == 0.75f && r->sampling.repetition_penalty == 1.5f);
    assert_true(r->sampling.frequency_penalty == -2 && r->sampling.presence_penalty == 2);
    assert_true(r->sampling.has_seed && r->sampling.seed == UINT64_MAX && r->sampling.bias_count == 2);
    assert_true(r->sampling.bias[0].id == 12 && r->sampling.bias[0].bias == -100 &&
                r->sampling.bias[1].id == 4294967294u);
    assert_true(r->max_tokens == 7 && r->min_tokens == 2 && r->n == 3 && r->priority == INT32_MIN && r->ignore_eos);
    assert_true(r->stop_count == 2 && r->stop_id_count == 2 && r->stop_ids[1] == 4);
    assert_string_equal(r->stop[1], "y");
    assert_true(r->best_of == 4 && r->has_length_penalty && r->length_penalty == 0.5f && r->include_stop);
    assert_true(r->show_control && body.token_ids && body.truncate_prompt_tokens == 100);
    assert_true(r->sampling.allowed_id_count == 1 && r->sampling.allowed_ids[0] == 9);
    assert_true(body.bad_words.count == 1 && strcmp(body.bad_words.items[0], "no") == 0);
    assert_true(body.logprobs && body.alternatives == 0 && r->logprobs == 1 && body.stream && body.include_usage);
    body_release(&body);
    body = parsed("{\"messages\":[],\"max_tokens\":9,\"max_completion_tokens\":5,\"logprobs\":true,\"top_logprobs\":20,"
                  "\"response_format\":{\"type\":\"text\"},\"tools\":[],\"tool_choice\":\"auto\",\"stop\":\"z\"}",
                  API_CHAT);
    assert_true(body.request.max_tokens == 5 && body.request.logprobs == 20 && body.alternatives == 20);
    assert_string_equal(body.request.stop[0], "z");
    body_release(&body);
}

/* What is told of one field by another. */
static void test_together(void **state)
{
    (void)state;
    struct body body = parsed("{\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true,\"logprobs\":5}", API_COMPLETIONS);
    assert_true(body.no_answer && body.request.max_tokens == 1 && body.request.prompt_logprobs == 5);
    body_release(&body);
    body = parsed("{\"prompt\":\"a\",\"use_beam_search\":true,\"n\":2,\"best_of\":4}", API_COMPLETIONS);
    assert_true(body.request.beam_width == 4 && !body.request.best_of && body.request.sampling.temperature == 0);
    body_release(&body);
    body = parsed("{\"prompt\":\"a\",\"prompt_logprobs\":0,\"best_of\":1}", API_COMPLETIONS);
    assert_true(body.prompt_logprobs && body.request.prompt_logprobs == 1 && !body.request.best_of);
    body_release(&body);
    body = parsed("{\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\",\"dimensions\":8}", API_EMBEDDINGS);
    assert_true(json_array_size(body.prompt) == 2 && body.base64 && body.dimensions == 8);
    body_release(&body);
    body = parsed("{\"messages\":[],\"add_generation_prompt\":false,\"return_token_strs\":true}", API_TOKENIZE);
    assert_true(!body.add_generation_prompt && body.return_token_texts && body.add_special_tokens);
    body_release(&body);
}

static void test_refused(void **state)
{
    (void)state;
    refused("", API_COMPLETIONS, "");
    refused("[]", API_COMPLETIONS, "");
    refused("{\"prompt\":\"a\",\"prompt\":\"a\"}", API_COMPLETIONS, "");
    refused("{}", API_COMPLETIONS, "prompt");
    refused("{\"prompt\":\"a\"}", API_CHAT, "messages");
    refused("{\"prompt\":\"a\",\"logit_bias\":{\"4294967295\":1}}", API_COMPLETIONS, "logit_bias");
    refused("{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}", API_COMPLETIONS, "logit_bias");
    refused("{\"prompt\":\"a\",\"n\":129}", API_COMPLETIONS, "n");
    refused("{\"prompt\":\"a\",\"priority\":2147483648}", API_COMPLETIONS, "priority");
    refused("{\"prompt\":\"a\",\"max_tokens\":0}", API_COMPLETIONS, "max_tokens");
    refused("{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", API_COMPLETIONS, "best_of");
    refused("{\"prompt\":\"a\",\"n\":2,\"echo\":true,\"logprobs\":1}", API_COMPLETIONS, "echo");
    refused("{\"prompt\":\"a\",\"stream\":true,\"prompt_logprobs\":1}", API_COMPLETIONS, "prompt_logprobs");
    refused("{\"messages\":[],\"continue_final_message\":true,\"add_generation_prompt\":true}", API_CHAT,
            "continue_final_message");
    refused("{\"prompt\":\"a\",\"messages\":[]}", API_TOKENIZE, "prompt");
    refused("{}", API_TOKENIZE, "prompt");
    refused("{\"tokens\":\"a\"}", API_DETOKENIZE, "tokens");
    refused("{}", API_EMBEDDINGS, "input");
    refused("{\"input\":\"a\",\"encoding_format\":\"hex\"}", API_EMBEDDINGS, "encoding_format");
    refused("{\"messages\":[],\"logprobs\":2}", API_CHAT, "logprobs");
    refused("{\"messages\":[],\"tool_choice\":\"required\"}", API_CHAT, "tool_choice");
    refused("{\"messages\":[],\"response_format\":{\"type\":\"json_schema\"}}", API_CHAT, "response_format");
}

static void check_retrieval(const char *value, unsigned api, enum kvasir_retrieval_mode mode, double topk)
{
    char text[200];
    snprintf(text, sizeof text, "{\"%s\":[],\"retrieval\":%s}",
             api == API_CHAT        ? "messages"
             : api == API_RESPONSES ? "input"
                                    : "prompt",
             value);
    struct body body = parsed(text, api);
    assert_int_equal(body.request.retrieval, mode);
    assert_true(body.request.retrieval_topk == topk);
    body_release(&body);
}

static void test_retrieval(void **state)
{
    (void)state;
    static const unsigned apis[] = {API_CHAT, API_COMPLETIONS, API_RESPONSES};
    for (size_t i = 0; i < ARRAY_COUNT(apis); i++) {
        check_retrieval("null", apis[i], KVASIR_RETRIEVAL_DEFAULT, 0);
        check_retrieval("\"off\"", apis[i], KVASIR_RETRIEVAL_OFF, 0);
        check_retrieval("\"on\"", apis[i], KVASIR_RETRIEVAL_ON, 0);
        check_retrieval("\"auto\"", apis[i], KVASIR_RETRIEVAL_AUTO, 0);
        check_retrieval("{}", apis[i], KVASIR_RETRIEVAL_DEFAULT, 0);
        check_retrieval("{\"topk\":0.5}", apis[i], KVASIR_RETRIEVAL_DEFAULT, 0.5);
        check_retrieval("{\"topk\":1,\"mode\":\"auto\"}", apis[i], KVASIR_RETRIEVAL_AUTO, 1);
    }
    static const char *const bad[] = {"true",
                                      "0.2",
                                      "[]",
                                      "\"\"",
                                      "\"ON\"",
                                      "\"default\"",
                                      "{\"topk\":0}",
                                      "{\"topk\":1.5}",
                                      "{\"topk\":-1}",
                                      "{\"topk\":\"0.2\"}",
                                      "{\"mode\":1}",
                                      "{\"mode\":\"on\",\"top_k\":0.2}",
                                      "{\"mode\":\"on\",\"topk\":0.2,\"x\":0}"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"prompt\":\"a\",\"retrieval\":%s}", bad[i]);
        refused(text, API_COMPLETIONS, "retrieval");
    }
}

static void check_structure(const char *field, enum kvasir_structure kind, const char *expected)
{
    char text[400];
    snprintf(text, sizeof text, "{\"messages\":[],%s}", field);
    struct body body = parsed(text, API_CHAT);
    assert_int_equal(body.request.structure, kind);
    if (expected) {
        assert_int_equal(body.request.structure_bytes, strlen(expected));
        assert_memory_equal(body.request.structure_text, expected, strlen(expected));
    }
    body_release(&body);
}

static void test_structures(void **state)
{
    (void)state;
    check_structure("\"response_format\":{\"type\":\"text\"}", KVASIR_ANY_TEXT, NULL);
    check_structure("\"response_format\":{\"type\":\"json_object\"}", KVASIR_JSON_OBJECT, NULL);
    check_structure(
        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"strict\":true,\"schema\":{"
        "\"type\":\"object\",\"properties\":{\"z\":{},\"a\":{\"maximum\":0.1}}}}}",
        KVASIR_JSON_SCHEMA, "{\"type\":\"object\",\"properties\":{\"z\":{},\"a\":{\"maximum\":0.10000000000000001}}}");
    check_structure("\"structured_outputs\":{\"json\":{\"b\":1,\"a\":2}}", KVASIR_JSON_SCHEMA, "{\"b\":1,\"a\":2}");
    check_structure("\"structured_outputs\":{\"json\":\"{ }\",\"regex\":null}", KVASIR_JSON_SCHEMA, "{ }");
    check_structure("\"structured_outputs\":{\"regex\":\"a+\",\"whitespace_pattern\":\"x\"}", KVASIR_REGEX, "a+");
    check_structure("\"structured_outputs\":{\"choice\":[\"a\",\"b\"]}", KVASIR_CHOICE, "[\"a\",\"b\"]");
    check_structure("\"structured_outputs\":{\"grammar\":\"root ::= \\\"a\\\"\"}", KVASIR_GRAMMAR, "root ::= \"a\"");
    check_structure("\"structured_outputs\":{\"json_object\":true}", KVASIR_JSON_OBJECT, NULL);
    check_structure("\"structured_outputs\":{\"json_object\":false}", KVASIR_ANY_TEXT, NULL);
    check_structure("\"guided_json\":{\"const\":1}", KVASIR_JSON_SCHEMA, "{\"const\":1}");
    check_structure("\"guided_regex\":\"b\"", KVASIR_REGEX, "b");
    check_structure("\"guided_choice\":[\"a\"]", KVASIR_CHOICE, "[\"a\"]");
    check_structure("\"guided_grammar\":\"g\"", KVASIR_GRAMMAR, "g");
    refused("{\"messages\":[],\"response_format\":1}", API_CHAT, "response_format");
    refused("{\"messages\":[],\"response_format\":{\"type\":\"structural_tag\"}}", API_CHAT, "response_format");
    refused("{\"messages\":[],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":1}}}", API_CHAT,
            "response_format");
    refused("{\"messages\":[],\"structured_outputs\":{\"structural_tag\":\"x\"}}", API_CHAT, "structured_outputs");
    refused("{\"messages\":[],\"structured_outputs\":{\"regex\":\"a\",\"choice\":[\"a\"]}}", API_CHAT,
            "structured_outputs");
    refused("{\"messages\":[],\"structured_outputs\":[]}", API_CHAT, "structured_outputs");
    refused("{\"messages\":[],\"guided_regex\":1}", API_CHAT, "guided_regex");
    refused("{\"messages\":[],\"guided_choice\":\"a\"}", API_CHAT, "guided_choice");
    refused("{\"messages\":[],\"guided_json\":{},\"response_format\":{\"type\":\"json_object\"}}", API_CHAT,
            "guided_json");
}

static void test_salts(void **state)
{
    (void)state;
    struct body a = parsed("{\"prompt\":\"a\",\"cache_salt\":\"one\"}", API_COMPLETIONS);
    struct body b = parsed("{\"messages\":[],\"cache_salt\":\"one\"}", API_CHAT);
    struct body c = parsed("{\"prompt\":\"a\",\"cache_salt\":\"two\"}", API_COMPLETIONS);
    assert_true(a.request.cache_salt && a.request.cache_salt == b.request.cache_salt);
    assert_true(a.request.cache_salt != c.request.cache_salt);
    body_release(&a);
    body_release(&b);
    body_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_every_field), cmocka_unit_test(test_together),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_retrieval),   cmocka_unit_test(test_structures),
        cmocka_unit_test(test_salts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
