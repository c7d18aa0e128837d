/* hugging_face.c - a Hugging Face folder: config.json, tokenizer, chat template, and model.safetensors or its shards.
 *
 * File names that come out of the folder's own JSON may only name files of the folder. Pickled weights (pytorch_model.bin) are never read. */
#include "format/format_internal.h"
#include <stdio.h>
#include <string.h>

#define CONFIG_VALUES_MAX (1u << 20)
#define INDEX_VALUES_MAX (2u * FORMAT_TENSORS_MAX + 64)
#define INDEX_BYTES_MAX FORMAT_HEADER_BYTES_MAX

/* FOLDER/NAME; owned by the caller, NULL when there is no memory. */
static char *path_in(const char *folder, const char *name)
{
    struct buffer path;
    buffer_init(&path, 0);
    buffer_printf(&path, "%s/%s", folder, name);
    return buffer_take(&path);
}

static enum status no_memory(const char *folder, struct error *error)
{
    return error_set(error, ST_NOMEM, "%s: not enough memory to open it", folder);
}

/* ---- the chat template: chat_template.jinja, else tokenizer_config.json's ---- */

static enum status template_from_file(struct format *format, const char *path, struct error *error)
{
    struct buffer text;
    enum status status = file_read(path, FORMAT_CONFIG_BYTES_MAX, &text, error);
    if (status != ST_OK) return status;
    status = format_set_text(format, "tokenizer.chat_template", text.data, text.length, error);
    buffer_release(&text);
    return status;
}

/* A text, or a list of {"name", "template"}, of which "default" is taken. NULL: there is none. */
static const json_t *template_of(const json_t *config)
{
    const json_t *found = json_object_get(config, "chat_template");
    if (json_is_string(found)) return found;
    size_t i;
    const json_t *item;
    json_array_foreach(found, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0) return json_object_get(item, "template");
    }
    return NULL;
}

static enum status template_from_config(struct format *format, const char *path, struct error *error)
{
    json_t *config;
    enum status status = json_read_file(path, FORMAT_CONFIG_BYTES_MAX, CONFIG_VALUES_MAX, &config, error);
    if (status != ST_OK) return status;
    const json_t *text = template_of(config);
    if (json_is_string(text))
        status = format_set_text(format, "tokenizer.chat_template", json_string_value(text), json_string_length(text),
                                 error);
    json_decref(config);
    return status;
}

static enum status read_template(struct format *format, const char *folder, struct error *error)
{
    char *file = path_in(folder, "chat_template.jinja"), *config = path_in(folder, "tokenizer_config.json");
    enum status status = ST_OK;
    if (!file || !config)
        status = no_memory(folder, error);
    else if (file_exists(file))
        status = template_from_file(format, file, error);
    else if (file_exists(config))
        status = template_from_config(format, config, error);
    mem_free(file);
    mem_free(config);
    return status;
}

/* ---- the tokenizer: tokenizer.json, and two files that say more of it ---- */

/* A file of the folder; *out is NULL when it is not there. */
static enum status read_optional(const char *folder, const char *name, uint64_t bytes_max, uint64_t values_max,
                                 json_t **out, struct error *error)
{
    *out = NULL;
    char *path = path_in(folder, name);
    if (!path) return no_memory(folder, error);
    enum status status = file_exists(path) ? json_read_file(path, bytes_max, values_max, out, error) : ST_OK;
    mem_free(path);
    return status;
}

static enum status read_tokenizer(struct format *format, const char *folder, struct error *error)
{
    json_t *root = NULL, *config = NULL, *generation = NULL;
    enum status status =
        read_optional(folder, "tokenizer.json", FORMAT_TOKENIZER_BYTES_MAX, FORMAT_TOKENIZER_VALUES_MAX, &root, error);
    if (status == ST_OK && root)
        status =
            read_optional(folder, "tokenizer_config.json", FORMAT_CONFIG_BYTES_MAX, CONFIG_VALUES_MAX, &config, error);
    if (status == ST_OK && root)
        status = read_optional(folder, "generation_config.json", FORMAT_CONFIG_BYTES_MAX, CONFIG_VALUES_MAX,
                               &generation, error);
    if (status == ST_OK && root) {
        status = hugging_face_tokenizer(format, root, config, generation, error);
        if (status != ST_OK) error_prefix(error, "%s/tokenizer.json", folder);
    }
    json_decref(root);
    json_decref(config);
    json_decref(generation);
    return status;
}

/* ---- weights ---- */

static enum status read_weights(struct format *format, const char *folder, const char *name, bool sandwich_norms,
                                uint32_t *part, struct error *error)
{
    char *path = path_in(folder, name);
    if (!path) return no_memory(folder, error);
    enum status status = format_part_add(format, path, part, error);
    if (status == ST_OK) {
        status = safetensors_read(format, *part, sandwich_norms, error);
        if (status != ST_OK) error_prefix(error, "%s", path);
    }
    mem_free(path);
    return status;
}

/* A plain file name: no folder, nothing hidden, nothing but safetensors. */
static bool shard_name_valid(const char *name)
{
    const char *suffix = ".safetensors";
    size_t bytes = strlen(name), wanted = strlen(suffix);
    return format_name_valid(name, bytes, FORMAT_NAME_BYTES_MAX) && !strchr(name, '/') && !strchr(name, '\\') &&
           name[0] != '.' && bytes > wanted && strcmp(name + bytes - wanted, suffix) == 0;
}

/* Opens the shards in the order in which the index first names them; `opened` maps a shard's name to its part. */
static enum status read_shards(struct format *format, const char *folder, const json_t *weight_map, json_t *opened,
                               bool sandwich_norms, struct error *error)
{
    const char *tensor;
    json_t *file;
    json_object_foreach((json_t *)(uintptr_t)weight_map, tensor, file)
    {
        const char *name = json_string_value(file);
        uint32_t part;
        if (!name || !shard_name_valid(name))
            return error_set(error, ST_INVALID,
                             "%s/model.safetensors.index.json: tensor '%.100s' is said to be in '%.100s', which is not "
                             "the name of a "
                             "safetensors file of the folder",
                             folder, tensor, name ? name : "");
        if (json_object_get(opened, name)) continue;
        enum status status = read_weights(format, folder, name, sandwich_norms, &part, error);
        if (status != ST_OK) return status;
        if (json_object_set_new(opened, name, json_integer((json_int_t)part)) != 0) return no_memory(folder, error);
    }
    return ST_OK;
}

static enum status finish(struct format *format, const char *folder, struct error *error)
{
    enum status status = format_finish(format, error);
    if (status != ST_OK) error_prefix(error, "%s", folder);
    return status;
}

/* Every tensor of the index must be in the shard that it names. After finish. */
static enum status check_index(const struct format *format, const char *folder, const json_t *weight_map,
                               const json_t *opened, bool sandwich_norms, struct error *error)
{
    const char *key;
    json_t *file;
    json_object_foreach((json_t *)(uintptr_t)weight_map, key, file)
    {
        char name[FORMAT_NAME_BYTES_MAX + 1];
        hugging_face_tensor_name(sandwich_norms, key, name);
        const struct format_tensor *tensor = format_tensor_find(format, name);
        json_int_t part = json_integer_value(json_object_get(opened, json_string_value(file)));
        if (!tensor || format->tensor_parts[tensor - format->tensors] != (uint64_t)part)
            return error_set(error, ST_INVALID, "%s/model.safetensors.index.json: tensor '%.100s' is not in %.100s",
                             folder, key, json_string_value(file));
    }
    return ST_OK;
}

static enum status open_sharded(struct format *format, const char *folder, const char *index, bool sandwich_norms,
                                struct error *error)
{
    json_t *root = NULL, *opened = json_object();
    enum status status = opened ? ST_OK : no_memory(folder, error);
    if (status == ST_OK) status = json_read_file(index, INDEX_BYTES_MAX, INDEX_VALUES_MAX, &root, error);
    if (status != ST_OK) goto done;
    const json_t *weight_map = json_object_get(root, "weight_map");
    if (!json_is_object(weight_map)) {
        status = error_set(error, ST_INVALID, "%s: has no weight_map", index);
        goto done;
    }
    status = read_shards(format, folder, weight_map, opened, sandwich_norms, error);
    if (status == ST_OK) status = finish(format, folder, error);
    if (status == ST_OK) status = check_index(format, folder, weight_map, opened, sandwich_norms, error);
done:
    json_decref(root);
    json_decref(opened);
    return status;
}

static enum status open_weights(struct format *format, const char *folder, bool sandwich_norms, struct error *error)
{
    char *single = path_in(folder, "model.safetensors"), *index = path_in(folder, "model.safetensors.index.json");
    enum status status = ST_OK;
    uint32_t part;
    if (!single || !index) {
        status = no_memory(folder, error);
    } else if (file_exists(index)) {
        status = open_sharded(format, folder, index, sandwich_norms, error);
    } else if (file_exists(single)) {
        status = read_weights(format, folder, "model.safetensors", sandwich_norms, &part, error);
        if (status == ST_OK) status = finish(format, folder, error);
    } else {
        status = error_set(error, ST_NOT_FOUND,
                           "%s: the folder has neither model.safetensors nor model.safetensors.index.json", folder);
    }
    mem_free(single);
    mem_free(index);
    return status;
}

/* Without a head of its own a model can only use its embedding: config.json must not say otherwise. */
static enum status check_head(const struct format *format, const char *folder, const json_t *config,
                              struct error *error)
{
    if (format->vocabulary_only || !json_is_false(json_object_get(config, "tie_word_embeddings"))) return ST_OK;
    if (!format_tensor_find(format, "token_embd.weight") || format_tensor_find(format, "output.weight")) return ST_OK;
    return error_set(error, ST_INVALID,
                     "%s: config.json says \"tie_word_embeddings\": false, but there is no lm_head.weight", folder);
}

enum status hugging_face_open(struct format *format, const char *folder, struct error *error)
{
    json_t *config = NULL;
    const struct hugging_face_row *row = NULL;
    char *path = path_in(folder, "config.json");
    if (!path) return no_memory(folder, error);
    enum status status = json_read_file(path, FORMAT_CONFIG_BYTES_MAX, CONFIG_VALUES_MAX, &config, error);
    if (status == ST_OK) {
        status = hugging_face_config(format, config, &row, error);
        if (status != ST_OK) error_prefix(error, "%s", path);
    }
    if (status == ST_OK) status = read_tokenizer(format, folder, error);
    if (status == ST_OK) status = read_template(format, folder, error);
    if (status == ST_OK && format->vocabulary_only)
        status = finish(format, folder, error);
    else if (status == ST_OK)
        status = open_weights(format, folder, hugging_face_sandwich_norms(row), error);
    if (status == ST_OK) status = check_head(format, folder, config, error);
    json_decref(config);
    mem_free(path);
    return status;
}
