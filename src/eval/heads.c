/* heads.c - which KV heads need the whole past: each is limited to sinks and a window, alone, and what that does to the model's
 * distributions over a text is measured (kl.c). The heads that matter most stay full, the others are limited, in a KV
 * policy whose own loss is measured on the same text.
 *
 * DuoAttention (Xiao et al. 2024, arXiv:2410.10819) finds these heads by training a gate per head against the full model's
 * outputs; a head's own divergence asks the same question of it directly, with forward passes only: one for each head, and
 * one for every HEADS_AT_ONCE of them for the full model. That losses of heads add up is assumed for their order alone. */
#include "eval/eval_internal.h"
#include <stdlib.h>

#define HEADS_AT_ONCE KL_CACHES_MAX

struct head {
    uint32_t layer, head;
    double kl;
    bool full;
};

struct heads {
    struct kvasir_model *model;
    const struct eval_heads_options *options;
    struct head *list; /* [count], worst loss first once measured */
    uint32_t count, kept;
    struct kl_summary loss; /* of the policy that keeps `kept` */
    uint32_t context;
    uint64_t bytes, bytes_with_policy; /* of one sequence of `context` tokens */
    double done, share;                /* progress: of all passes, those done and those that run now */
};

/* ---- policies ---------------------------------------------------------------------------------------------------- */

static json_t *limited(const struct heads *heads)
{
    return json_pack("{s:s, s:I, s:I}", "kind", "sinks", "sinks", (json_int_t)heads->options->sinks, "window",
                     (json_int_t)heads->options->window);
}

/* {"layers": {"3": {"heads": {"1": {…}}}}} of all heads whose `full` is not set; `about` is taken, and may be NULL. */
static char *policy_text(const struct heads *heads, json_t *about)
{
    char key[16];
    json_t *root = json_pack("{s:{s:s}, s:{}}", "default", "kind", "full", "layers"),
           *layers = json_object_get(root, "layers");
    bool failed = !root;
    for (uint32_t i = 0; i < heads->count; i++) {
        const struct head *head = &heads->list[i];
        if (head->full) continue;
        snprintf(key, sizeof key, "%u", head->layer);
        json_t *layer = json_object_get(layers, key);
        if (!layer && json_object_set_new(layers, key, json_pack("{s:{}}", "heads")) != 0) failed = true;
        layer = json_object_get(layers, key);
        snprintf(key, sizeof key, "%u", head->head);
        if (json_object_set_new(json_object_get(layer, "heads"), key, limited(heads)) != 0) failed = true;
    }
    if (about && json_object_set_new(root, "about", about) != 0) failed = true;
    char *text = failed ? NULL : json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(6) | JSON_SORT_KEYS);
    json_decref(root);
    return text;
}

static enum status no_memory(struct error *error)
{
    return error_set(error, ST_NOMEM, "not enough memory to measure heads");
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static void progress(void *data, double fraction)
{
    struct heads *heads = data;
    const struct eval_text *text = &heads->options->text;
    if (text->progress) text->progress(text->progress_data, heads->done + heads->share * fraction);
}

/* What `count` policies cost, against a cache of the same format that keeps all. The share of the progress is theirs. */
static enum status measure(struct heads *heads, char *const *policies, uint32_t count, double share,
                           struct kl_summary *out, struct error *error)
{
    struct kvasir_engine_options caches[KL_CACHES_MAX];
    struct eval_text text = heads->options->text;
    for (uint32_t i = 0; i < count; i++) {
        if (!policies[i]) return no_memory(error);
        caches[i] = text.cache;
        caches[i].kv_policy = policies[i];
    }
    text.progress = progress;
    text.progress_data = heads;
    heads->share = share;
    enum status status = kl_measure(heads->model, &text, caches, count, out, error);
    heads->done += share;
    return status;
}

/* Of each head alone. */
static enum status measure_heads(struct heads *heads, double share, struct error *error)
{
    enum status status = ST_OK;
    for (uint32_t i = 0; i < heads->count; i++) heads->list[i].full = true;
    for (uint32_t begin = 0, count; begin < heads->count && status == ST_OK; begin += count) {
        char *policies[HEADS_AT_ONCE];
        struct kl_summary losses[HEADS_AT_ONCE];
        count = heads->count - begin < HEADS_AT_ONCE ? heads->count - begin : HEADS_AT_ONCE;
        for (uint32_t i = 0; i < count; i++) {
            heads->list[begin + i].full = false;
            policies[i] = policy_text(heads, NULL);
            heads->list[begin + i].full = true;
        }
        status = measure(heads, policies, count, share * count / heads->count, losses, error);
        for (uint32_t i = 0; i < count; i++) {
            heads->list[begin + i].kl = status == ST_OK ? losses[i].mean : 0;
            free(policies[i]);
        }
    }
    return status;
}

static int worst_first(const void *a, const void *b)
{
    const struct head *x = a, *y = b;
    if (x->kl != y->kl) return x->kl > y->kl ? -1 : 1;
    return x->layer != y->layer ? (x->layer < y->layer ? -1 : 1) : (x->head > y->head) - (x->head < y->head);
}

/* The first `kept` of the list stay full. */
static enum status measure_kept(struct heads *heads, uint32_t kept, double share, struct error *error)
{
    heads->kept = kept;
    for (uint32_t i = 0; i < heads->count; i++) heads->list[i].full = i < kept;
    char *policy = policy_text(heads, NULL);
    enum status status = measure(heads, &policy, 1, share, &heads->loss, error);
    free(policy);
    return status;
}

/* The fewest full heads within the stated loss, if losses fall with every head that is kept; it is within it in any case. */
static enum status choose_by_loss(struct heads *heads, double share, struct error *error)
{
    uint32_t steps = 1, low = 0, high = heads->count; /* high is within it: nothing is limited */
    while (heads->count >> steps) steps++;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        enum status status = measure_kept(heads, middle, share / (steps + 1), error);
        if (status != ST_OK) return status;
        if (heads->loss.mean <= heads->options->loss)
            high = middle;
        else
            low = middle + 1;
    }
    return heads->kept == high ? ST_OK : measure_kept(heads, high, share / (steps + 1), error);
}

static enum status measure_bytes(struct heads *heads, struct error *error)
{
    const struct kvasir_engine_options *cache = &heads->options->text.cache;
    const struct model_config *c = model_config(engine_model(heads->model));
    enum number_format k, v;
    enum status status = engine_kv_formats(cache->kv_cache_dtype, c, &k, &v, error);
    if (status != ST_OK) return status;
    struct kv_layer *layers = mem_zero(c->layers, sizeof *layers);
    struct kv_reach *reaches = mem_zero((uint64_t)c->layers * c->kv_heads, sizeof *reaches);
    char *policy = policy_text(heads, NULL);
    if (layers && reaches && policy) {
        const struct kv_config config = {
            .layers = layers, .layer_count = c->layers, .block_tokens = cache->block_size ? cache->block_size : 32};
        heads->context = c->context_length;
        model_kv_layers(c, k, v, layers);
        heads->bytes = kv_bytes_needed(&config, heads->context, 1);
        status = engine_kv_policy(policy, c, layers, reaches, error);
        if (status == ST_OK) heads->bytes_with_policy = kv_bytes_needed(&config, heads->context, 1);
    } else {
        status = no_memory(error);
    }
    free(policy);
    mem_free(layers);
    mem_free(reaches);
    return status;
}

/* ---- reports ----------------------------------------------------------------------------------------------------- */

static json_t *summary_json(const struct heads *heads)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:I}", "kept", (json_int_t)heads->kept,
                     "limited", (json_int_t)(heads->count - heads->kept), "sinks", (json_int_t)heads->options->sinks,
                     "window", (json_int_t)heads->options->window, "mean_kl", heads->loss.mean, "p99_kl",
                     heads->loss.p99, "top1_agreement", heads->loss.agreement, "tokens", (json_int_t)heads->loss.tokens,
                     "context", (json_int_t)heads->context, "bytes", (json_int_t)heads->bytes, "bytes_with_policy",
                     (json_int_t)heads->bytes_with_policy);
}

static enum status report(const struct heads *heads, enum eval_output output, struct buffer *out, struct error *error)
{
    if (output == EVAL_JSON) {
        json_t *root = summary_json(heads), *list = json_array();
        for (uint32_t i = 0; i < heads->count; i++) {
            const struct head *head = &heads->list[i];
            json_t *row = json_pack("{s:I, s:I, s:f, s:b}", "layer", (json_int_t)head->layer, "head",
                                    (json_int_t)head->head, "mean_kl", head->kl, "full", head->full);
            if (json_array_append_new(list, row) != 0) json_decref(list), list = NULL;
        }
        if (json_object_set_new(root, "heads", list) != 0) json_decref(root), root = NULL;
        return report_json(root, out, error);
    }
    buffer_text(out, "mean KL when one KV head alone is limited, worst first; * stays full\n");
    for (uint32_t i = 0; i < heads->count; i++)
        buffer_printf(out, "  layer %3u head %2u  %.3e%s\n", heads->list[i].layer, heads->list[i].head,
                      heads->list[i].kl, heads->list[i].full ? " *" : "");
    buffer_printf(out, "%u of %u KV heads keep the whole past, the others %u sinks and a window of %u\n", heads->kept,
                  heads->count, heads->options->sinks, heads->options->window);
    buffer_printf(out, "mean KL %.3e, 99th percentile %.3e, same best token at %.2f %% of %llu positions\n",
                  heads->loss.mean, heads->loss.p99, 100 * heads->loss.agreement,
                  (unsigned long long)heads->loss.tokens);
    buffer_printf(out, "KV cache of %u tokens: %llu bytes instead of %llu (%.1f %%)\n", heads->context,
                  (unsigned long long)heads->bytes_with_policy, (unsigned long long)heads->bytes,
                  100 * (double)heads->bytes_with_policy / (double)heads->bytes);
    return report_done(out, error);
}

static enum status write_policy(const struct heads *heads, struct buffer *out, struct error *error)
{
    json_t *about = summary_json(heads);
    char *text = about ? policy_text(heads, about) : NULL;
    if (!text) return no_memory(error);
    buffer_text(out, text);
    buffer_text(out, "\n");
    free(text);
    return report_done(out, error);
}

/* ------------------------------------------------------------------------------------------------------------------ */

/* The heads of all layers that the model itself keeps whole. */
static enum status list_heads(struct heads *heads, struct error *error)
{
    const struct model_config *c = model_config(engine_model(heads->model));
    heads->list = mem_zero((uint64_t)c->layers * c->kv_heads, sizeof *heads->list);
    if (!heads->list) return no_memory(error);
    for (uint32_t i = 0; i < c->layers; i++)
        for (uint32_t h = 0; h < c->kv_heads && !c->sliding[i]; h++)
            heads->list[heads->count++] = (struct head){.layer = i, .head = h};
    if (heads->count) return ST_OK;
    return error_set(error, ST_UNSUPPORTED, "every layer of this model slides: there is nothing to limit");
}

static enum status check(const struct eval_heads_options *o, struct kvasir_model *model, struct error *error)
{
    if (!engine_model(model))
        return error_set(error, ST_INVALID, "the model was opened with its vocabulary only: it cannot run");
    uint32_t context = model_config(engine_model(model))->context_length;
    if (o->text.cache.context) context = o->text.cache.context;
    uint64_t longest = o->text.count < context ? o->text.count : context;
    if (!o->sinks || !o->window || o->sinks > 1u << 30 || o->window > 1u << 30)
        return error_set(error, ST_INVALID, "%u sinks and a window of %u: both must be 1 to %u", o->sinks, o->window,
                         1u << 30);
    if (o->loss < 0 || !(o->keep >= 0 && o->keep <= 1))
        return error_set(error, ST_INVALID, "keep must be 0 to 1, and loss no less than 0");
    if (longest > (uint64_t)o->sinks + o->window) return ST_OK;
    return error_set(error, ST_INVALID,
                     "%llu tokens at a time never reach past %u sinks and a window of %u: give a longer text, or less "
                     "of these",
                     (unsigned long long)longest, o->sinks, o->window);
}

enum status eval_heads(struct kvasir_model *model, const struct eval_heads_options *options, enum eval_output output,
                       struct buffer *out, struct buffer *policy, struct error *error)
{
    struct heads heads = {.model = model, .options = options};
    enum status status = check(options, model, error);
    if (status == ST_OK) status = list_heads(&heads, error);
    double each = 1.0 / (heads.count + (options->loss > 0 ? 8.0 : 1.0));
    if (status == ST_OK) status = measure_heads(&heads, each * heads.count, error);
    if (status == ST_OK) qsort(heads.list, heads.count, sizeof *heads.list, worst_first);
    uint32_t kept = (uint32_t)(options->keep * heads.count + 0.5);
    if (status == ST_OK && options->loss > 0) status = choose_by_loss(&heads, 8 * each, error);
    if (status == ST_OK && options->loss == 0) status = measure_kept(&heads, kept, each, error);
    if (status == ST_OK) status = measure_bytes(&heads, error);
    if (status == ST_OK) status = write_policy(&heads, policy, error);
    if (status == ST_OK) status = report(&heads, output, out, error);
    mem_free(heads.list);
    return status;
}
