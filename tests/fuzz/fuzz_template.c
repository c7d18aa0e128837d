/* fuzz_template.c - any bytes as a template, then, after a zero byte, as the JSON of its variables. What renders must be UTF-8,
 * with ascending user ranges inside it, and the same twice. Bounds are small: time and memory are the template's to waste. */
#include "text/text.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char messages[] = "{\"messages\":[{\"role\":\"system\",\"content\":\" Be "
                               "brief\\n\"},{\"role\":\"user\",\"content\":\"h\\u00e9 <b> \\ud83c\\udf89\"},"
                               "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
                               "\"arguments\":{\"a\":[1,2.5,true,null]}}}]}],"
                               "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"add_generation_"
                               "prompt\":true,\"bos_token\":\"<s>\",\"n\":7}";

static void check(const struct template_rendering *r)
{
    size_t last = 0;
    uint32_t code, step;
    for (size_t at = 0; at < r->text.length; at += step) {
        step = utf8_decode(r->text.data + at, r->text.length - at, &code, NULL);
        ASSERT(step > 0);
    }
    for (size_t i = 0; i < r->user_count; i++) {
        ASSERT(r->user[i].begin < r->user[i].end && r->user[i].end <= r->text.length);
        ASSERT(i == 0 || r->user[i].begin > last); /* merged */
        last = r->user[i].end;
    }
}

static void render(const struct template *t, json_t *variables)
{
    const struct template_limits limits = {.steps = 50000, .bytes = 100000, .depth = 200};
    struct template_rendering first, second;
    struct error error;
    enum status status = template_render(t, variables, &limits, &first, &error), again;
    if (status != ST_OK) {
        ASSERT(error.status == status && error.text[0] != '\0');
        return;
    }
    check(&first);
    again = template_render(t, variables, &limits, &second, &error);
    ASSERT(again == ST_OK);
    /* the clock may have ticked between the two: only lengths of templates without it are compared */
    ASSERT(first.text.length == second.text.length || second.text.length < 4096);
    template_rendering_release(&first);
    template_rendering_release(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = memchr(data, 0, size);
    size_t bytes = zero ? (size_t)(zero - data) : size;
    struct template *t;
    struct error error;
    json_t *variables = zero ? json_loadb((const char *)zero + 1, size - bytes - 1, JSON_ALLOW_NUL, NULL) : NULL;
    if (!json_is_object(variables)) {
        json_decref(variables);
        variables = json_loads(messages, 0, NULL);
    }
    if (template_compile((const char *)data, bytes, &t, &error) == ST_OK) {
        render(t, variables);
        template_release(t);
    }
    json_decref(variables);
    return 0;
}
