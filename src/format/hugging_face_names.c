/* hugging_face_names.c - a checkpoint's tensor names as GGUF spells them.
 *
 * A table, no rules for single models: a module that is not in it keeps its whole name, so that the model can say which
 * tensor it does not know. */
#include "format/format_internal.h"
#include <stdio.h>
#include <string.h>

/* Where a text model's modules begin, the longest first: alone, or inside a model of text and pictures. */
static const char *const prefixes[] = {"model.language_model.", "language_model.model.", "language_model.", "model."};

static const struct {
    const char *module, *name;
} outer_modules[] = {{"embed_tokens", "token_embd"}, {"norm", "output_norm"}, {"lm_head", "output"}};

static const struct {
    const char *module, *name, *sandwich; /* sandwich: where norms stand on both sides of attention and feed-forward */
} layer_modules[] = {
    {"self_attn.q_proj", "attn_q", NULL},
    {"self_attn.k_proj", "attn_k", NULL},
    {"self_attn.v_proj", "attn_v", NULL},
    {"self_attn.o_proj", "attn_output", NULL},
    {"self_attn.qkv_proj", "attn_qkv", NULL},
    {"self_attn.q_norm", "attn_q_norm", NULL},
    {"self_attn.k_norm", "attn_k_norm", NULL},
    {"mlp.gate_proj", "ffn_gate", NULL},
    {"mlp.up_proj", "ffn_up", NULL},
    {"mlp.down_proj", "ffn_down", NULL},
    {"input_layernorm", "attn_norm", NULL},
    {"post_attention_layernorm", "ffn_norm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm", NULL},
    {"post_feedforward_layernorm", "post_ffw_norm", NULL},
};

/* Whether `text` is `module`, then ".weight" or ".bias", which *rest is left at. */
static bool is_module(const char *text, const char *module, const char **rest)
{
    size_t bytes = strlen(module);
    if (strncmp(text, module, bytes) != 0) return false;
    *rest = text + bytes;
    return strcmp(*rest, ".weight") == 0 || strcmp(*rest, ".bias") == 0;
}

static const char *without_prefix(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(prefixes); i++) {
        size_t bytes = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], bytes) == 0) return name + bytes;
    }
    return name;
}

void hugging_face_tensor_name(bool sandwich_norms, const char *name, char out[FORMAT_NAME_BYTES_MAX + 1])
{
    const char *text = without_prefix(name), *rest;
    snprintf(out, FORMAT_NAME_BYTES_MAX + 1, "%s", name);
    for (size_t i = 0; i < ARRAY_COUNT(outer_modules); i++) {
        if (is_module(text, outer_modules[i].module, &rest))
            snprintf(out, FORMAT_NAME_BYTES_MAX + 1, "%s%s", outer_modules[i].name, rest);
    }
    if (strncmp(text, "layers.", 7) != 0) return;
    const char *digits = text + 7;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 7 || digits[count] != '.') return;
    for (size_t i = 0; i < ARRAY_COUNT(layer_modules); i++) {
        if (!is_module(digits + count + 1, layer_modules[i].module, &rest)) continue;
        const char *module =
            sandwich_norms && layer_modules[i].sandwich ? layer_modules[i].sandwich : layer_modules[i].name;
        snprintf(out, FORMAT_NAME_BYTES_MAX + 1, "blk.%.*s.%s%s", (int)count, digits, module, rest);
    }
}
