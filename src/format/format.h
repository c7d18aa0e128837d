/* format.h - model files: hostile bytes in, checked tensors and metadata out.
 *
 * Reads GGUF v2/v3 (one file or a split -00001-of-000NN set) and Hugging Face folders (config.json + *.safetensors, one
 * or sharded by model.safetensors.index.json). Both come out in GGUF's vocabulary: metadata keys as "llama.block_count",
 * tensor names as "blk.0.attn_q.weight", shapes outermost first. Every length, offset, type, alignment and product is
 * checked before use; after format_open every tensor's data lies wholly inside its file. The files stay mapped and every
 * pointer handed out is borrowed until format_close. This room does not know how tensors are used.
 *
 * Sources: the GGUF specification (ggml repository, docs/gguf.md); the safetensors format description (huggingface). */
#ifndef FORMAT_FORMAT_H
#define FORMAT_FORMAT_H
#include "base/base.h"
#include "kernel/kernel.h"

#define FORMAT_DIMENSIONS_MAX 4

struct format; /* an opened model */

enum format_kind { FORMAT_GGUF, FORMAT_HUGGING_FACE };

struct format_tensor {
    const char *name;
    enum number_format format;
    uint32_t dimensions;                   /* 1…4 */
    uint64_t shape[FORMAT_DIMENSIONS_MAX]; /* outermost first: a matrix is [rows, columns]; unused = 1 */
    uint64_t elements;
    const void *data; /* borrowed, file layout, maybe unaligned */
    uint64_t bytes;
};

/* Opens `path`: a .gguf file (any part of a split set: the others are found beside it), or a Hugging Face folder, or a
 * file of such a folder. A tensor format that Kvasir does not know is an error that names the tensor and the format,
 * unless `vocabulary_only`, when tensors are not read at all (metadata only). */
MUST_CHECK enum status format_open(const char *path, bool vocabulary_only, struct format **out, struct error *error);
void format_close(struct format *format);
enum format_kind format_kind(const struct format *format);
const char *format_path(const struct format *format);
uint64_t format_file_bytes(const struct format *format); /* all parts */

/* ---- tensors ---- */
uint32_t format_tensor_count(const struct format *format);
const struct format_tensor *format_tensor_at(const struct format *format, uint32_t index);
const struct format_tensor *format_tensor_find(const struct format *format, const char *name); /* NULL: not there */
/* The tensor's pages are not needed again soon (it was packed elsewhere). */
void format_tensor_drop(const struct format *format, const struct format_tensor *tensor);

/* ---- metadata ---- */
/* Values keep their file's type; a getter converts losslessly (any integer type to u64, any float to double) or
 * answers ST_NOT_FOUND (no such key) / ST_INVALID (wrong type or out of range; the error names the key). A key that
 * begins with '.' stands for "<general.architecture><key>": ".block_count" is "llama.block_count". get_double also takes
 * integers that a double holds exactly. */
MUST_CHECK enum status format_get_u64(const struct format *format, const char *key, uint64_t *out, struct error *error);
MUST_CHECK enum status format_get_i64(const struct format *format, const char *key, int64_t *out, struct error *error);
MUST_CHECK enum status format_get_double(const struct format *format, const char *key, double *out,
                                         struct error *error);
MUST_CHECK enum status format_get_bool(const struct format *format, const char *key, bool *out, struct error *error);
/* Bytes may hold zeros; `text` is also zero-terminated. Borrowed. */
MUST_CHECK enum status format_get_text(const struct format *format, const char *key, const char **text, size_t *bytes,
                                       struct error *error);
/* Arrays: the count, then items by index (each call is O(1), some 15 ns). Arrays of arrays are refused when opened. A text
 * item is NOT zero-terminated. get_array_i64 gives the items of a bool array as 0 and 1. */
MUST_CHECK enum status format_get_array(const struct format *format, const char *key, uint64_t *count,
                                        struct error *error);
MUST_CHECK enum status format_get_array_text(const struct format *format, const char *key, uint64_t index,
                                             const char **text, size_t *bytes, struct error *error);
MUST_CHECK enum status format_get_array_i64(const struct format *format, const char *key, uint64_t index, int64_t *out,
                                            struct error *error);
MUST_CHECK enum status format_get_array_double(const struct format *format, const char *key, uint64_t index,
                                               double *out, struct error *error);
bool format_has(const struct format *format, const char *key);
/* Every key, for inspection: name and a printable rendering of the value (arrays shortened). */
uint32_t format_key_count(const struct format *format);
const char *format_key_at(const struct format *format, uint32_t index, struct buffer *value);

/* What a Hugging Face config.json becomes (format/hugging_face.c; <a> = general.architecture from model_type:
 * llama mistral->llama qwen2 qwen3 gemma3_text->gemma3 …; an unknown model_type keeps its name, so that model refuses it by name):
 *   <a>.block_count .context_length .embedding_length .feed_forward_length .attention.head_count .attention.head_count_kv
 *   .attention.key_length .attention.value_length .attention.layer_norm_rms_epsilon .vocab_size
 *   .rope.freq_base .rope.freq_base_swa (gemma3's local base)
 *   .rope.dimension_count .rope.scaling.{type,factor,original_context_length,attn_factor,low_freq_factor,high_freq_factor,
 *      yarn_beta_fast,yarn_beta_slow,truncate}; from rope_parameters or the older rope_scaling / rope_theta
 *      (type as config.json names it: linear yarn llama3 dynamic longrope …, absent for "default"; attn_factor as in GGUF: it
 *      multiplies yarn's own 0.1 ln(factor) + 1, so transformers' attention_factor is divided by that here); with
 *      freq_base_swa, scaling is of the full layers only
 *   .attention.sliding_window, .attention.sliding_window_pattern (bool array, one a layer, true = sliding; from layer_types)
 *   .attention.scale (gemma3: query_pre_attn_scalar^-0.5), .attn_logit_softcapping .final_logit_softcapping
 *   .attention.causal (false for bidirectional), tokenizer.ggml.{bos,eos}_token_id, tokenizer.kvasir.eos_token_ids (of a list: all, the
 *   first is the other key's), tokenizer.chat_template when the folder has one
 * What its tokenizer.json becomes (format/hugging_face_tokenizer.c), with tokenizer_config.json and generation_config.json:
 *   tokenizer.ggml.model "gpt2" (over bytes) or "sentencepiece-bpe" (merges by rank over characters), .tokens .token_type .merges
 *   .add_bos_token .add_eos_token, and for what GGUF has no key tokenizer.kvasir.*:
 *   .patterns (PCRE2's syntax, one cut inside the other), .pattern_drops (bool array: what a pattern does not match is left out)
 *   .word_is_token (ignore_merges), .token_strip (u8 array: 1 = the token takes white space before it, 2 = after it)
 *   .space: a space is put before a text, "prepend" (always), or where there is none "always" or "first" (not after special tokens)
 *   .normalization "NFC" or "NFKC"; .bos_token_id .eos_token_id (before tokenizer.ggml's), .end_token_ids
 * Tensor names: model.embed_tokens.weight -> token_embd.weight, lm_head.weight -> output.weight, model.norm.weight ->
 * output_norm.weight, model.layers.N.{self_attn.{q,k,v,o}_proj,self_attn.{q,k}_norm,mlp.{gate,up,down}_proj,input_layernorm,
 * post_attention_layernorm,pre_feedforward_layernorm,post_feedforward_layernorm} -> blk.N.{attn_q…attn_output,attn_q_norm,
 * attn_k_norm,ffn_gate…,attn_norm,ffn_norm | (gemma) post_attention_norm, ffn_norm, post_ffw_norm}. Values are not changed: unlike in GGUF,
 * llama's q/k rows are not permuted for neighbour rope and gemma's norms do not include the +1; model knows that by format_kind.
 * A tensor that the table does not have keeps its whole name. No output.weight: the head is the embedding. */
#endif
