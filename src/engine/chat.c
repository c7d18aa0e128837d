/* chat.c - a chat, as JSON, through the model's template to text and to token ids.
 *
 * The template sees: messages, tools (none when there are no tools), add_generation_prompt, bos_token and eos_token (the
 * spellings), and then the caller's values, which win. What the template itself writes may become control tokens; what
 * came from messages and tools may not: those ranges are tokenised as plain text. As with transformers, only the template
 * decides about the beginning-of-sequence token. */
#include "engine/engine_internal.h"
#include <string.h>

#define JSON_BYTES_MAX (64u << 20)

/* ---- the template's variables -------------------------------------------------------------------------------------- */

static enum status parse_json(const char *text, const char *what, json_t **out, struct error *error)
{
    json_error_t why;
    if (!text) return error_set(error, ST_INVALID, "%s: none are given", what);
    size_t bytes = strnlen(text, JSON_BYTES_MAX + 1);
    if (bytes > JSON_BYTES_MAX) return error_set(error, ST_LIMIT, "%s: more than %u bytes", what, JSON_BYTES_MAX);
    *out = json_loadb(text, bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (*out) return ST_OK;
    if (json_error_code(&why) == json_error_out_of_memory)
        return error_set(error, ST_NOMEM, "not enough memory for %s", what);
    return error_set(error, ST_INVALID, "%s: not JSON: line %d, column %d: %s", what, why.line, why.column, why.text);
}

static enum status parse_objects(const char *text, const char *what, json_t **out, struct error *error)
{
    enum status status = parse_json(text, what, out, error);
    if (status != ST_OK) return status;
    if (!json_is_array(*out)) return error_set(error, ST_INVALID, "%s: must be a JSON array of objects", what);
    for (size_t i = 0; i < json_array_size(*out); i++)
        if (!json_is_object(json_array_get(*out, i)))
            return error_set(error, ST_INVALID, "%s: item %zu is not an object", what, i);
    return ST_OK;
}

/* A token that the model does not have stays undefined. */
static int set_spelling(json_t *variables, const char *name, const struct tokenizer *tokenizer, uint32_t id)
{
    if (id == TOKEN_NONE) return 0;
    size_t bytes;
    const char *text = tokenizer_spelling(tokenizer, id, &bytes);
    return json_object_set_new(variables, name, json_stringn(text, bytes));
}

static enum status make_variables(const struct kvasir_model *model, const struct kvasir_chat *chat, json_t **out,
                                  struct error *error)
{
    json_t *messages = NULL, *tools = NULL, *values = NULL, *variables = *out = json_object();
    enum status status = parse_objects(chat->messages, "messages", &messages, error);
    if (status == ST_OK && chat->tools) status = parse_objects(chat->tools, "tools", &tools, error);
    if (status == ST_OK && chat->values) status = parse_json(chat->values, "template values", &values, error);
    if (status == ST_OK && values && !json_is_object(values))
        status = error_set(error, ST_INVALID, "template values: must be a JSON object");
    if (status != ST_OK) goto done;
    int failed = json_object_set(variables, "messages", messages);
    failed |= json_object_set(variables, "tools", tools ? tools : json_null());
    failed |= json_object_set_new(variables, "add_generation_prompt",
                                  json_boolean(!chat->no_generation_prompt && !chat->continue_final_message));
    if (model && model->tokenizer) {
        failed |= set_spelling(variables, "bos_token", model->tokenizer, model->bos);
        failed |= set_spelling(variables, "eos_token", model->tokenizer, model->eos);
    }
    if (values) failed |= json_object_update(variables, values);
    if (failed) status = error_set(error, ST_NOMEM, "not enough memory for a chat");
done:
    json_decref(messages);
    json_decref(tools);
    json_decref(values);
    return status;
}

/* ---- the last message goes on ------------------------------------------------------------------------------------ */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Where `part` last begins in `text`, or SIZE_MAX. */
static size_t find_last(const struct buffer *text, const char *part, size_t bytes)
{
    for (size_t at = text->length >= bytes ? text->length - bytes + 1 : 0; at-- > 0;)
        if (memcmp(text->data + at, part, bytes) == 0) return at;
    return SIZE_MAX;
}

static enum status cut_after_final_message(const json_t *messages, struct template_rendering *out, struct error *error)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *content = json_string_value(json_object_get(last, "content"));
    size_t bytes = content ? json_string_length(json_object_get(last, "content")) : 0, stripped;
    while (bytes && is_space(*content)) content++, bytes--;
    for (stripped = bytes; stripped && is_space(content[stripped - 1]);) stripped--;
    if (!stripped) return error_set(error, ST_INVALID, "messages: the last one has no text that could be continued");
    size_t at = find_last(&out->text, content, stripped);
    if (at == SIZE_MAX)
        return error_set(error, ST_INVALID,
                         "messages: the chat template does not show the last one as it is, so that "
                         "it cannot be continued");
    bool spaced = bytes <= out->text.length - at && memcmp(out->text.data + at, content, bytes) == 0;
    size_t end = at + (spaced ? bytes : stripped);
    out->text.length = end;
    out->text.data[end] = '\0';
    while (out->user_count && out->user[out->user_count - 1].begin >= end) out->user_count--;
    if (out->user_count && out->user[out->user_count - 1].end > end) out->user[out->user_count - 1].end = end;
    return ST_OK;
}

/* ---- rendering ------------------------------------------------------------------------------------------------------- */

static enum status render(const struct kvasir_model *model, const struct kvasir_chat *chat,
                          struct template_rendering *out, struct error *error)
{
    struct template *own = NULL;
    json_t *variables = NULL;
    enum status status = ST_OK;
    *out = (struct template_rendering){0};
    if (chat->template_source)
        status = template_compile(chat->template_source, strlen(chat->template_source), &own, error);
    else if (!model || !model->chat_template)
        status = model ? error_set(error, model->template_error.status, "%s", model->template_error.text)
                       : error_set(error, ST_INVALID, "neither a model nor a template is given");
    if (status == ST_OK) status = make_variables(model, chat, &variables, error);
    if (status == ST_OK)
        status = template_render(own ? own : model->chat_template, variables, &TEMPLATE_LIMITS_DEFAULT, out, error);
    if (status == ST_OK && chat->continue_final_message)
        status = cut_after_final_message(json_object_get(variables, "messages"), out, error);
    json_decref(variables);
    template_release(own);
    return status;
}

int kvasir_render(const struct kvasir_model *model, const struct kvasir_chat *chat, char **text, size_t *bytes,
                  struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    struct template_rendering rendering;
    *text = NULL;
    *bytes = 0;
    enum status status = render(model, chat, &rendering, error);
    if (status == ST_OK) {
        *bytes = rendering.text.length;
        *text = buffer_take(&rendering.text);
        if (!*text) status = error_set(error, ST_NOMEM, "not enough memory for the rendered text");
    }
    template_rendering_release(&rendering);
    return (int)status;
}

int kvasir_chat_tokenize(const struct kvasir_model *model, const struct kvasir_chat *chat, uint32_t **ids,
                         size_t *count, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    struct template_rendering rendering = {0};
    struct token_list list = {0};
    *ids = NULL;
    *count = 0;
    enum status status = model_needs_tokenizer(model, error);
    if (status == ST_OK) status = render(model, chat, &rendering, error);
    if (status == ST_OK)
        status =
            tokenizer_encode(model->tokenizer, rendering.text.data ? rendering.text.data : "", rendering.text.length,
                             rendering.user, rendering.user_count, TOKENIZE_PARSE_SPECIAL, &list, error);
    template_rendering_release(&rendering);
    if (status != ST_OK) {
        token_list_release(&list);
        return (int)status;
    }
    *ids = list.ids;
    *count = list.count;
    return KVASIR_OK;
}
