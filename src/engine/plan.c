/* plan.c - how large an engine is: context, KV budget, block size, tokens a pass.
 *
 *   need(context) = what one request of `context` tokens takes (kv_bytes_needed: whole blocks; windows held to a window)
 *   free          = available memory - MARGIN
 *
 *   budget:   as stated, within free; else free / 2, or need(context) of a stated context where that is more
 *   context:  as stated, need(context) within the stated budget or free; else the model's, shrunk until need(context) is
 *             within the budget
 *   to hold:  budget - need(context), for sequences and prefixes that callers keep: one request always fits beside them
 *
 * A budget is address space: memory follows use. Nothing is allocated here but the list of layers. */
#include "engine/engine_internal.h"
#include <string.h>

#define DEFAULT_BLOCK_TOKENS 32u
#define DEFAULT_BATCHED_TOKENS 512u
#define DEFAULT_SEQUENCES 64u
#define DEFAULT_WAITING 4096u
#define DEFAULT_DRAFT_TOKENS 8u
#define DEFAULT_AGING_S 10.0
#define WAITING_MAX 1000000u
#define SECONDS_MAX 86400.0
#define BATCHED_TOKENS_MAX 65536u
#define SEQUENCES_MAX 4096u
#define CONTEXT_MAX (1u << 30)
#define MARGIN_BYTES (256ull << 20) /* for activations, logits, requests and the rest of the machine */

/* ---- formats ----------------------------------------------------------------------------------------------------- */

/* The formats the cache stores; a later one is a row. */
static const struct {
    const char *name;
    enum number_format format;
} kv_formats[] = {{"f16", NF_F16},      {"f32", NF_F32},           {"bf16", NF_BF16},
                  {"fp8", NF_FP8_E4M3}, {"fp8_e4m3", NF_FP8_E4M3}, {"fp8_e5m2", NF_FP8_E5M2},
                  {"int8", NF_INT8},    {"q8_0", NF_INT8}, /* llama.cpp's names of 8 and 4 bits */
                  {"int4", NF_INT4},    {"q4_0", NF_INT4}};

/* What "auto" is for rows of `dim`: int8, whose error is below that of int8 activations (docs/figures.md), where a row can be
 * turned whole or in large parts, which int8 needs; else f16. */
static enum number_format automatic(uint32_t dim)
{
    return dim % 32 == 0 ? NF_INT8 : NF_F16;
}

/* *out stays as it is for "auto". */
static bool format_named(const char *name, size_t bytes, enum number_format *out)
{
    if (bytes == 4 && memcmp(name, "auto", 4) == 0) return true;
    for (size_t i = 0; i < ARRAY_COUNT(kv_formats); i++) {
        if (strlen(kv_formats[i].name) != bytes || memcmp(kv_formats[i].name, name, bytes) != 0) continue;
        *out = kv_formats[i].format;
        return true;
    }
    return false;
}

enum status engine_kv_formats(const char *text, const struct model_config *config, enum number_format *k,
                              enum number_format *v, struct error *error)
{
    if (!text) text = "auto";
    *k = automatic(config->head_dim);
    *v = automatic(config->value_dim);
    bool ok = true;
    if (!strchr(text, '=')) ok = format_named(text, strlen(text), k) && format_named(text, strlen(text), v);
    for (const char *at = text; ok && strchr(text, '=') && *at;) {
        size_t bytes = strcspn(at, ",");
        ok = bytes > 2 && at[1] == '=' && (at[0] == 'k' || at[0] == 'v') &&
             format_named(at + 2, bytes - 2, at[0] == 'k' ? k : v);
        at += bytes;
        if (*at == ',') at++;
    }
    if (ok) return ST_OK;
    return error_set(
        error, ST_INVALID,
        "KV cache format '%.60s': must be auto, f32, f16, bf16, fp8_e4m3, fp8_e5m2, int8, int4, or k=FORMAT,v=FORMAT",
        text);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

/* *failed is set, never cleared, when there is no memory to find out. */
static uint64_t need(const struct engine_plan *plan, uint32_t context, bool *failed)
{
    uint64_t bytes = kv_bytes_needed(&plan->kv, context, least(plan->max_batched_tokens, context));
    if (bytes == UINT64_MAX) *failed = true;
    return bytes;
}

/* The most tokens, in whole blocks, that `bytes` hold; at most `context`. */
static uint32_t context_within(const struct engine_plan *plan, uint32_t context, uint64_t bytes, bool *failed)
{
    uint32_t size = plan->kv.block_tokens, low = 0, high = context / size + 1; /* low blocks fit, high do not */
    if (need(plan, context, failed) <= bytes) return context;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (need(plan, middle * size, failed) <= bytes)
            low = middle;
        else
            high = middle;
    }
    return low * size;
}

static enum status check_ranges(const struct kvasir_engine_options *options, struct error *error)
{
    if (options->block_size && (options->block_size < 16 || options->block_size > 128 || options->block_size % 16))
        return error_set(error, ST_INVALID, "block size %u: must be a multiple of 16 from 16 to 128",
                         options->block_size);
    if (options->max_batched_tokens > BATCHED_TOKENS_MAX)
        return error_set(error, ST_INVALID, "max_batched_tokens %u: must be at most %u", options->max_batched_tokens,
                         BATCHED_TOKENS_MAX);
    if (options->max_sequences > SEQUENCES_MAX)
        return error_set(error, ST_INVALID, "max_sequences %u: must be at most %u", options->max_sequences,
                         SEQUENCES_MAX);
    if (options->max_waiting > WAITING_MAX)
        return error_set(error, ST_INVALID, "max_waiting %u: must be at most %u", options->max_waiting, WAITING_MAX);
    if (options->draft_tokens > DRAFT_TOKENS_MAX)
        return error_set(error, ST_INVALID, "draft_tokens %u: must be at most %u", options->draft_tokens,
                         DRAFT_TOKENS_MAX);
    if (!(options->max_step_s >= 0 && options->max_step_s <= SECONDS_MAX))
        return error_set(error, ST_INVALID, "max_step_s %g: must be 0 to %g seconds", options->max_step_s, SECONDS_MAX);
    if (!(options->priority_aging_s >= 0 && options->priority_aging_s <= SECONDS_MAX))
        return error_set(error, ST_INVALID, "priority_aging_s %g: must be 0 to %g seconds", options->priority_aging_s,
                         SECONDS_MAX);
    if (options->context == 1 || options->context > CONTEXT_MAX)
        return error_set(error, ST_INVALID, "a context of %u tokens: must be 2 to %u", options->context, CONTEXT_MAX);
    return ST_OK;
}

/* "needs 1234 bytes of KV cache (30 layers x 3 KV heads x (64 + 64) values = 23040 bytes a token)" */
static enum status refuse_context(const struct model *model, const struct engine_plan *plan, uint32_t context,
                                  uint64_t bytes, uint64_t available, const char *of, struct error *error)
{
    const struct model_config *c = model_config(model);
    uint64_t token_bytes = 0;
    for (uint32_t i = 0; i < plan->kv.layer_count; i++) token_bytes += kv_layer_bytes_per_token(&plan->kv.layers[i]);
    return error_set(error, ST_LIMIT,
                     "a context of %u tokens needs %llu bytes of KV cache (%u layers x %u KV heads x %u + %u values of "
                     "K + V = %llu bytes a token%s), %s is %llu bytes: state a smaller context",
                     context, (unsigned long long)bytes, c->layers, c->kv_heads, c->head_dim, c->value_dim,
                     (unsigned long long)token_bytes, c->window ? ", less where windows slide" : "", of,
                     (unsigned long long)available);
}

static enum status decide(const struct model *model, const struct kvasir_engine_options *options,
                          struct engine_plan *plan, struct error *error)
{
    uint64_t available = mem_available_bytes(), budget = options->kv_cache_bytes;
    uint64_t spare = available > MARGIN_BYTES ? available - MARGIN_BYTES : 0;
    uint32_t trained = model_config(model)->context_length;
    if (budget > spare)
        return error_set(error, ST_LIMIT,
                         "a KV cache of %llu bytes is more than the %llu bytes of free memory (%llu available, %llu "
                         "left for the rest): state a smaller one",
                         (unsigned long long)budget, (unsigned long long)spare, (unsigned long long)available,
                         MARGIN_BYTES);
    if (options->swap_bytes > spare)
        return error_set(error, ST_LIMIT,
                         "a swap space of %llu bytes is more than the %llu bytes of free memory: state a smaller one",
                         (unsigned long long)options->swap_bytes, (unsigned long long)spare);
    bool failed = false;
    uint64_t within = budget ? budget : options->context ? spare : spare / 2;
    const char *of = budget ? "the stated budget" : options->context ? "free memory" : "half of free memory";
    plan->context = options->context ? options->context : context_within(plan, trained, within, &failed);
    uint32_t least_context = plan->context ? plan->context : least(trained, plan->kv.block_tokens);
    uint64_t bytes = need(plan, least_context, &failed);
    if (failed) return error_set(error, ST_NOMEM, "not enough memory for an engine");
    if (bytes > within || least_context < 2)
        return refuse_context(model, plan, least_context, bytes, within, of, error);
    if (plan->context > trained)
        log_line(LOG_WARNING, "a context of %u tokens is longer than the model was trained for (%u)", plan->context,
                 trained);
    if (plan->context < trained && !options->context)
        log_line(LOG_INFO, "context: %u of the model's %u tokens, so that its K and V fit %s (%llu bytes)",
                 plan->context, trained, of, (unsigned long long)within);
    plan->kv.bytes_max = budget ? budget : bytes > spare / 2 ? bytes : spare / 2;
    plan->kv.bytes_pinned_max = plan->kv.bytes_max - bytes;
    plan->request_bytes = bytes;
    return ST_OK;
}

enum status engine_plan_init(const struct model *model, const struct kvasir_engine_options *options,
                             struct engine_plan *out, struct error *error)
{
    static const struct kvasir_engine_options defaults;
    if (!options) options = &defaults;
    const struct model_config *c = model_config(model);
    enum number_format k, v;
    *out = (struct engine_plan){
        .kv = {.layer_count = c->layers,
               .block_tokens = options->block_size ? options->block_size : DEFAULT_BLOCK_TOKENS,
               .kernel = model_kernel(model),
               .protected_percent = KV_PROTECTED_PERCENT,
               .swap_bytes_max = options->no_kv_cache ? 0 : options->swap_bytes,
               .share_prefixes = !options->no_kv_cache,
               .one_layer_at_a_time = options->no_kv_cache},
        .max_batched_tokens = options->max_batched_tokens ? options->max_batched_tokens : DEFAULT_BATCHED_TOKENS,
        .max_sequences = options->max_sequences ? options->max_sequences : DEFAULT_SEQUENCES,
        .max_waiting = options->max_waiting ? options->max_waiting : DEFAULT_WAITING,
        .draft_tokens = options->no_drafts      ? 0
                        : options->draft_tokens ? options->draft_tokens
                                                : DEFAULT_DRAFT_TOKENS,
        .max_step_s = options->max_step_s,
        .priority_aging_s = options->priority_aging_s > 0 ? options->priority_aging_s : DEFAULT_AGING_S,
        .kv_reserve = options->kv_reserve,
        .retrieval = options->retrieval,
    };
    enum status status = check_ranges(options, error);
    if (status == ST_OK) status = retrieval_check_engine(options, error);
    if (status == ST_OK) status = engine_kv_formats(options->kv_cache_dtype, c, &k, &v, error);
    if (status != ST_OK) return status;
    struct kv_layer *layers = mem_zero(c->layers, sizeof *layers);
    out->kv.layers = layers;
    out->heads = options->kv_policy ? mem_zero((uint64_t)c->layers * c->kv_heads, sizeof *out->heads) : NULL;
    if (!layers || (options->kv_policy && !out->heads))
        status = error_set(error, ST_NOMEM, "not enough memory for an engine");
    if (status == ST_OK) model_kv_layers(c, k, v, layers);
    if (status == ST_OK && options->kv_policy)
        status = engine_kv_policy(options->kv_policy, c, layers, out->heads, error);
    if (status == ST_OK) out->indexed = retrieval_index(&options->retrieval, layers, c->layers);
    if (status == ST_OK) status = decide(model, options, out, error);
    if (status != ST_OK) {
        engine_plan_release(out);
        return status;
    }
    /* Without a cache a sequence is computed whole, in one pass, and so one after the other. */
    if (options->no_kv_cache) out->max_batched_tokens = out->context;
    if (options->no_kv_cache) out->max_sequences = 1;
    out->max_batched_tokens = least(out->max_batched_tokens, out->context);
    return ST_OK;
}

void engine_plan_release(struct engine_plan *plan)
{
    mem_free((struct kv_layer *)plan->kv.layers);
    mem_free(plan->heads);
    *plan = (struct engine_plan){0};
}
