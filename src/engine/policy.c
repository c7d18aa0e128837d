/* policy.c - selective caching: which tokens each layer and KV head keeps, as JSON (docs/kv-policy.md):
 *
 *   {"default": REACH, "layers": {"3": {REACH…, "heads": {"1": REACH}}}}
 *   REACH: {"kind": "full"} | {"kind": "sliding", "window": N} | {"kind": "sinks", "sinks": N, "window": N}
 *
 * The text may come from anywhere: every member is checked, and what is not known is refused, by its place. A policy is
 * the most that a head keeps: where the model itself slides a window over a layer, the smaller window holds. */
#include "engine/engine_internal.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define TOKENS_MAX (1 << 30)

struct policy {
    const struct model_config *config;
    struct kv_layer *layers;
    struct kv_reach *heads;
    struct error *error;
};

static enum status refuse(const struct policy *policy, const char *where, const char *why)
{
    return error_set(policy->error, ST_INVALID, "KV policy: %s: %s", where, why);
}

/* A member of 1…TOKENS_MAX tokens, which must be there if `wanted`, and else must not. */
static enum status read_tokens(const struct policy *policy, const char *where, const json_t *object, const char *key,
                               bool wanted, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_integer_value(value);
    char why[80];
    snprintf(why, sizeof why, wanted ? "\"%s\" must be a whole number of tokens, 1 to %d" : "this kind has no \"%s\"",
             key, TOKENS_MAX);
    if (wanted ? !json_is_integer(value) || number < 1 || number > TOKENS_MAX : value != NULL)
        return refuse(policy, where, why);
    *out = wanted ? (uint32_t)number : 0;
    return ST_OK;
}

static enum status read_reach(const struct policy *policy, const char *where, const json_t *object, bool with_heads,
                              struct kv_reach *out)
{
    static const struct {
        const char *name;
        enum kv_layer_kind kind;
    } kinds[] = {{"full", KV_FULL}, {"sliding", KV_SLIDING}, {"sinks", KV_SINKS}};
    const char *name = json_string_value(json_object_get(object, "kind"));
    size_t k = 0, known = 0;
    const char *const members[] = {"kind", "window", "sinks", "heads"};
    for (size_t i = 0; i < ARRAY_COUNT(members) - !with_heads; i++)
        known += json_object_get(object, members[i]) != NULL;
    if (!json_is_object(object) || known != json_object_size(object))
        return refuse(policy, where,
                      with_heads ? "must be an object of \"kind\", \"window\", \"sinks\", \"heads\""
                                 : "must be an object of \"kind\", \"window\", \"sinks\"");
    while (name && k < ARRAY_COUNT(kinds) && strcmp(kinds[k].name, name) != 0) k++;
    if (!name || k == ARRAY_COUNT(kinds))
        return refuse(policy, where, "\"kind\" must be \"full\", \"sliding\" or \"sinks\"");
    *out = (struct kv_reach){.kind = kinds[k].kind};
    enum status status = read_tokens(policy, where, object, "window", out->kind != KV_FULL, &out->window);
    if (status == ST_OK) status = read_tokens(policy, where, object, "sinks", out->kind == KV_SINKS, &out->sinks);
    return status;
}

/* An index below `count`, spelled as it is printed. */
static enum status read_index(const struct policy *policy, const char *where, const char *key, uint32_t count,
                              const char *what, uint32_t *out)
{
    char spelled[16], why[80];
    uint64_t value = 0;
    for (const char *at = key; *at >= '0' && *at <= '9' && value < count; at++)
        value = value * 10 + (uint32_t)(*at - '0');
    snprintf(spelled, sizeof spelled, "%llu", (unsigned long long)value);
    snprintf(why, sizeof why, "is no %s of this model, which has 0 to %u", what, count - 1);
    if (value >= count || strcmp(spelled, key) != 0) return refuse(policy, where, why);
    *out = (uint32_t)value;
    return ST_OK;
}

static struct kv_reach *layer_heads(const struct policy *policy, uint32_t layer)
{
    return policy->heads + (uint64_t)layer * policy->config->kv_heads;
}

static enum status read_heads(const struct policy *policy, uint32_t layer, json_t *heads)
{
    char where[100];
    const char *key;
    json_t *value;
    uint32_t head;
    snprintf(where, sizeof where, "layers.%u.heads", layer);
    if (heads && !json_is_object(heads)) return refuse(policy, where, "must be an object of heads by number");
    json_object_foreach(heads, key, value)
    {
        snprintf(where, sizeof where, "layers.%u.heads.%.20s", layer, key);
        enum status status = read_index(policy, where, key, policy->config->kv_heads, "KV head", &head);
        if (status == ST_OK) status = read_reach(policy, where, value, false, &layer_heads(policy, layer)[head]);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

/* An entry with heads need not say what the others are: as the default. */
static enum status read_layer(const struct policy *policy, const char *key, json_t *value)
{
    char where[100];
    uint32_t layer;
    struct kv_reach reach;
    json_t *heads = json_object_get(value, "heads");
    snprintf(where, sizeof where, "layers.%.20s", key);
    enum status status = read_index(policy, where, key, policy->config->layers, "layer", &layer);
    if (status != ST_OK) return status;
    if (!heads || json_object_size(value) > 1) {
        status = read_reach(policy, where, value, true, &reach);
        for (uint32_t h = 0; status == ST_OK && h < policy->config->kv_heads; h++)
            layer_heads(policy, layer)[h] = reach;
    }
    return status == ST_OK ? read_heads(policy, layer, heads) : status;
}

static enum status read_policy(const struct policy *policy, json_t *root)
{
    const char *key;
    json_t *value, *layers = json_object_get(root, "layers"), *fallback = json_object_get(root, "default");
    size_t known = (layers != NULL) + (fallback != NULL) + (json_object_get(root, "about") != NULL);
    struct kv_reach reach = {.kind = KV_FULL};
    if (!json_is_object(root) || known != json_object_size(root))
        return refuse(policy, "the whole", "must be an object of \"default\", \"layers\", \"about\"");
    if (layers && !json_is_object(layers)) return refuse(policy, "layers", "must be an object of layers by number");
    enum status status = fallback ? read_reach(policy, "default", fallback, false, &reach) : ST_OK;
    for (uint32_t i = 0; i < policy->config->layers * policy->config->kv_heads; i++) policy->heads[i] = reach;
    json_object_foreach(layers, key, value) if (status == ST_OK) status = read_layer(policy, key, value);
    return status;
}

/* What is left of `wanted` in a layer that the model has as `own`. */
static struct kv_reach narrowed(const struct kv_layer *own, struct kv_reach wanted)
{
    if (own->kind == KV_FULL) return wanted;
    bool narrower = wanted.kind != KV_FULL && wanted.window < own->window;
    return (struct kv_reach){.kind = KV_SLIDING, .window = narrower ? wanted.window : own->window};
}

/* Layers whose heads are all alike say so themselves. */
static void apply(const struct policy *policy)
{
    uint32_t count = policy->config->kv_heads;
    for (uint32_t i = 0; i < policy->config->layers; i++) {
        struct kv_layer *layer = &policy->layers[i];
        struct kv_reach *heads = layer_heads(policy, i);
        bool alike = true;
        for (uint32_t h = 0; h < count; h++) heads[h] = narrowed(layer, heads[h]);
        for (uint32_t h = 1; h < count; h++)
            alike &= heads[h].kind == heads[0].kind && heads[h].window == heads[0].window &&
                     heads[h].sinks == heads[0].sinks;
        if (alike) {
            layer->kind = heads[0].kind;
            layer->window = heads[0].window;
            layer->sinks = heads[0].sinks;
        } else {
            layer->heads = heads;
        }
    }
}

enum status engine_kv_policy(const char *json, const struct model_config *config, struct kv_layer *layers,
                             struct kv_reach *heads, struct error *error)
{
    const struct policy policy = {.config = config, .layers = layers, .heads = heads, .error = error};
    json_error_t reason;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &reason);
    if (!root && json_error_code(&reason) == json_error_out_of_memory)
        return error_set(error, ST_NOMEM, "not enough memory for the KV policy");
    if (!root)
        return error_set(error, ST_INVALID, "KV policy: line %d, column %d: %s", reason.line, reason.column,
                         reason.text);
    enum status status = read_policy(&policy, root);
    json_decref(root);
    if (status == ST_OK) apply(&policy);
    return status;
}
