/* kvasir.c - the model handle: file, tokenizer, chat template and weights, opened together and immutable from then on.
 *
 * A tokenizer or template that is missing or of an unknown kind does not keep a model from being opened: its error is
 * kept and given when it is needed. Loading has a crew of threads of its own, gone when it is done; each engine has
 * another. */
#include "engine/engine_internal.h"
#include <string.h>

const char *kvasir_version(void)
{
    return KVASIR_VERSION;
}

void kvasir_free(void *block)
{
    mem_free(block);
}

const struct model *engine_model(const struct kvasir_model *model)
{
    return model->model;
}

uint32_t engine_threads(const struct kvasir_model *model)
{
    return model->threads;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static enum status open_tokenizer(struct kvasir_model *model, struct error *error)
{
    enum status status = tokenizer_open(model->format, &model->tokenizer, &model->tokenizer_error);
    if (status == ST_OK && grammar_store_open(model->tokenizer, &model->grammars) != ST_OK)
        return error_set(error, ST_NOMEM, "not enough memory for a model");
    if (status == ST_OK || status == ST_NOT_FOUND || status == ST_UNSUPPORTED) return ST_OK;
    return error_set(error, status, "%s", model->tokenizer_error.text);
}

static enum status take_template(struct kvasir_model *model, const char *source, struct error *error)
{
    size_t bytes = strlen(source);
    model->template_given = mem_strndup(source, bytes);
    if (!model->template_given) return error_set(error, ST_NOMEM, "not enough memory for the chat template");
    enum status status = template_compile(source, bytes, &model->chat_template, error);
    if (status != ST_OK) error_prefix(error, "the chat template that was given");
    return status;
}

static enum status open_template(struct kvasir_model *model, const char *given, struct error *error)
{
    if (given) return take_template(model, given, error);
    const char *source;
    size_t bytes;
    enum status status =
        format_get_text(model->format, "tokenizer.chat_template", &source, &bytes, &model->template_error);
    if (status == ST_NOT_FOUND) {
        error_set(&model->template_error, ST_NOT_FOUND,
                  "the model has no chat template: give plain text, or a template");
        return ST_OK;
    }
    if (status == ST_OK) status = template_compile(source, bytes, &model->chat_template, &model->template_error);
    if (status == ST_OK) return ST_OK;
    error_prefix(&model->template_error, "the model's chat template");
    return status == ST_NOMEM ? error_set(error, status, "%s", model->template_error.text) : ST_OK;
}

static uint32_t token_from_metadata(const struct format *format, const char *key)
{
    uint64_t id;
    return format_get_u64(format, key, &id, NULL) == ST_OK && id < UINT32_MAX ? (uint32_t)id : TOKEN_NONE;
}

static enum status open_weights(struct kvasir_model *model, const struct kvasir_model_options *options,
                                struct error *error)
{
    struct pool *pool = NULL;
    const char *frequencies = options->rope_frequencies ? options->rope_frequencies : "auto";
    struct model_options model_options = {.progress = options->progress, .progress_data = options->progress_data};
    if (strcmp(frequencies, "f32") == 0)
        model_options.rope_frequencies = MODEL_ROPE_F32;
    else if (strcmp(frequencies, "bf16") == 0)
        model_options.rope_frequencies = MODEL_ROPE_BF16;
    else if (strcmp(frequencies, "auto") != 0)
        return error_set(error, ST_INVALID, "rope frequencies are auto, f32 or bf16, not '%s'", frequencies);
    enum status status = kernel_select(options->isa, &model->kernel, error);
    if (status == ST_OK) status = pool_open(model->threads, &pool, error);
    if (status == ST_OK) status = model_open(model->format, model->kernel, pool, &model_options, &model->model, error);
    pool_close(pool);
    if (status == ST_OK && model_fingerprint(model->format, model->fingerprint) != ST_OK)
        status = error_set(error, ST_NOMEM, "not enough memory for the model's fingerprint");
    return status;
}

int kvasir_model_open(const char *path, const struct kvasir_model_options *options, struct kvasir_model **out,
                      struct kvasir_error *public_error)
{
    static const struct kvasir_model_options defaults;
    struct error *error = private_error(public_error);
    double begin = clock_seconds();
    *out = NULL;
    if (!options) options = &defaults;
    if (options->threads > 1024)
        return (int)error_set(error, ST_INVALID, "%u threads: must be at most 1024", options->threads);
    struct kvasir_model *model = mem_zero(1, sizeof *model);
    if (!model) return (int)error_set(error, ST_NOMEM, "not enough memory for a model");
    model->threads = options->threads ? options->threads : cpu_count();
    enum status status = format_open(path, options->vocabulary_only, &model->format, error);
    if (status == ST_OK) status = open_tokenizer(model, error);
    if (status == ST_OK) status = open_template(model, options->chat_template, error);
    if (status == ST_OK && !options->vocabulary_only) status = open_weights(model, options, error);
    if (status != ST_OK) {
        kvasir_model_close(model);
        return (int)status;
    }
    model->bos = model->tokenizer ? tokenizer_bos(model->tokenizer)
                                  : token_from_metadata(model->format, "tokenizer.ggml.bos_token_id");
    model->eos = model->tokenizer ? tokenizer_eos(model->tokenizer)
                                  : token_from_metadata(model->format, "tokenizer.ggml.eos_token_id");
    model->load_s = clock_seconds() - begin;
    *out = model;
    return KVASIR_OK;
}

void kvasir_model_close(struct kvasir_model *model)
{
    if (!model) return;
    model_close(model->model);
    template_release(model->chat_template);
    mem_free(model->template_given);
    grammar_store_close(model->grammars);
    tokenizer_close(model->tokenizer);
    format_close(model->format);
    mem_free(model);
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static const char *text_or_null(const struct format *format, const char *key)
{
    const char *text;
    size_t bytes;
    return format_get_text(format, key, &text, &bytes, NULL) == ST_OK ? text : NULL;
}

static const char *template_source(const struct kvasir_model *model)
{
    if (!model->chat_template || model->template_given) return model->template_given;
    return text_or_null(model->format, "tokenizer.chat_template");
}

void kvasir_model_info(const struct kvasir_model *model, struct kvasir_model_info *out)
{
    uint64_t context = 0;
    if (!model->model && format_get_u64(model->format, ".context_length", &context, NULL) != ST_OK) context = 0;
    *out = (struct kvasir_model_info){
        .architecture = text_or_null(model->format, "general.architecture"),
        .name = text_or_null(model->format, "general.name"),
        .isa = model->kernel ? model->kernel->name : NULL,
        .context_length = context <= UINT32_MAX ? (uint32_t)context : UINT32_MAX,
        .threads = model->threads,
        .has_tokenizer = model->tokenizer != NULL,
        .chat_template = template_source(model),
        .adds_bos = model->tokenizer && tokenizer_adds_bos(model->tokenizer),
        .bos = model->bos,
        .eos = model->eos,
        .load_s = model->load_s,
    };
    if (model->model) {
        out->context_length = model_config(model->model)->context_length;
        out->vocabulary_size = model_config(model->model)->vocabulary;
        out->embedding_length = model_config(model->model)->embedding;
    } else if (model->tokenizer) {
        out->vocabulary_size = tokenizer_vocabulary_size(model->tokenizer);
    }
}

enum status model_needs_tokenizer(const struct kvasir_model *model, struct error *error)
{
    if (model->tokenizer) return ST_OK;
    return error_set(error, model->tokenizer_error.status, "%s", model->tokenizer_error.text);
}

bool model_token_ends(const struct kvasir_model *model, uint32_t id)
{
    return model->tokenizer ? tokenizer_is_end(model->tokenizer, id) : id == model->eos;
}
