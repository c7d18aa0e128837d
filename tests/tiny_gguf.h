/* tiny_gguf.h - a whole small model in one GGUF file, for tests that need weights, a tokenizer and a chat template together:
 * llama, 2 layers, q8_0 of seeded random values, every byte a token, some merges, ChatML. What it says is nonsense. */
#ifndef TESTS_TINY_GGUF_H
#define TESTS_TINY_GGUF_H
#include "gguf_writer.h"
#include "kernel/kernel.h"
#include "support.h"

#define TINY_GGUF_EMBEDDING 32u
#define TINY_GGUF_HEAD 16u
#define TINY_GGUF_WIDE 64u
#define TINY_GGUF_LAYERS 2u
#define TINY_GGUF_CONTEXT 256u

static const char *const TINY_GGUF_MERGES[] = {"h e", "t he", "\xc4\xa0 the", "i n", "o n", "\xc4\xa0 i", "e r"};
static const char *const TINY_GGUF_CONTROLS[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
#define TINY_GGUF_VOCABULARY (256u + 7u + 3u)

/* GPT-2's printable spelling of a byte. */
static inline size_t tiny_gguf_byte(uint32_t byte, char out[4])
{
    uint32_t code = byte, moved = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (!itself && b == byte) code = moved;
        moved += !itself;
    }
    return utf8_encode(code, out);
}

static inline void tiny_gguf_vocabulary(struct buffer *out)
{
    char text[16];
    gguf_key_array(out, "tokenizer.ggml.tokens", GGUF_TEXT, TINY_GGUF_VOCABULARY);
    for (uint32_t b = 0; b < 256; b++) gguf_text_bytes(out, text, tiny_gguf_byte(b, text));
    for (size_t i = 0; i < ARRAY_COUNT(TINY_GGUF_MERGES); i++) {
        const char *space = strchr(TINY_GGUF_MERGES[i], ' ');
        snprintf(text, sizeof text, "%.*s%s", (int)(space - TINY_GGUF_MERGES[i]), TINY_GGUF_MERGES[i], space + 1);
        gguf_text(out, text);
    }
    for (size_t i = 0; i < ARRAY_COUNT(TINY_GGUF_CONTROLS); i++) gguf_text(out, TINY_GGUF_CONTROLS[i]);
    gguf_key_array(out, "tokenizer.ggml.token_type", GGUF_I32, TINY_GGUF_VOCABULARY);
    for (uint32_t i = 0; i < TINY_GGUF_VOCABULARY; i++) gguf_u32(out, i < TINY_GGUF_VOCABULARY - 3 ? 1 : 3);
    gguf_key_array(out, "tokenizer.ggml.merges", GGUF_TEXT, ARRAY_COUNT(TINY_GGUF_MERGES));
    for (size_t i = 0; i < ARRAY_COUNT(TINY_GGUF_MERGES); i++) gguf_text(out, TINY_GGUF_MERGES[i]);
}

struct tiny_gguf_tensor {
    char name[40];
    uint32_t rows, columns; /* rows 0: an f32 vector of ones */
};

static inline uint32_t tiny_gguf_tensors(struct tiny_gguf_tensor *out)
{
    static const struct tiny_gguf_tensor layer[] = {
        {"attn_norm", 0, TINY_GGUF_EMBEDDING},
        {"attn_q", 2 * TINY_GGUF_HEAD, TINY_GGUF_EMBEDDING},
        {"attn_k", TINY_GGUF_HEAD, TINY_GGUF_EMBEDDING},
        {"attn_v", TINY_GGUF_HEAD, TINY_GGUF_EMBEDDING},
        {"attn_output", TINY_GGUF_EMBEDDING, 2 * TINY_GGUF_HEAD},
        {"ffn_norm", 0, TINY_GGUF_EMBEDDING},
        {"ffn_gate", TINY_GGUF_WIDE, TINY_GGUF_EMBEDDING},
        {"ffn_up", TINY_GGUF_WIDE, TINY_GGUF_EMBEDDING},
        {"ffn_down", TINY_GGUF_EMBEDDING, TINY_GGUF_WIDE},
    };
    uint32_t count = 0;
    out[count++] = (struct tiny_gguf_tensor){"token_embd.weight", TINY_GGUF_VOCABULARY, TINY_GGUF_EMBEDDING};
    out[count++] = (struct tiny_gguf_tensor){"output_norm.weight", 0, TINY_GGUF_EMBEDDING};
    for (uint32_t l = 0; l < TINY_GGUF_LAYERS; l++)
        for (size_t i = 0; i < ARRAY_COUNT(layer); i++, count++) {
            out[count] = layer[i];
            snprintf(out[count].name, sizeof out[count].name, "blk.%u.%.12s.weight", l, layer[i].name);
        }
    return count;
}

static inline void tiny_gguf_data(struct buffer *out, const struct tiny_gguf_tensor *tensor, struct random *random)
{
    const float one = 1;
    const uint16_t scale = f16_from_f32(0.002f);
    for (uint32_t c = 0; !tensor->rows && c < tensor->columns; c++) buffer_append(out, &one, sizeof one);
    for (uint32_t block = 0; block < tensor->rows * (tensor->columns / 32); block++) {
        int8_t quants[32];
        for (int i = 0; i < 32; i++) quants[i] = (int8_t)((int)random_below(random, 255) - 127);
        buffer_append(out, &scale, sizeof scale);
        buffer_append(out, quants, sizeof quants);
    }
}

static inline uint64_t tiny_gguf_bytes(const struct tiny_gguf_tensor *tensor)
{
    uint64_t bytes = tensor->rows ? (uint64_t)tensor->rows * (tensor->columns / 32) * 34 : tensor->columns * 4;
    return round_up(bytes, 32);
}

static inline void tiny_gguf_write(struct buffer *out)
{
    struct tiny_gguf_tensor tensors[2 + 9 * TINY_GGUF_LAYERS];
    struct random random;
    const float eps = 1e-5f;
    uint32_t count = tiny_gguf_tensors(tensors);
    uint64_t offset = 0;
    gguf_header(out, 3, count, 15);
    gguf_key_text(out, "general.architecture", "llama");
    gguf_key_text(out, "general.name", "tiny");
    gguf_key_u32(out, "llama.block_count", TINY_GGUF_LAYERS);
    gguf_key_u32(out, "llama.context_length", TINY_GGUF_CONTEXT);
    gguf_key_u32(out, "llama.embedding_length", TINY_GGUF_EMBEDDING);
    gguf_key_u32(out, "llama.feed_forward_length", TINY_GGUF_WIDE);
    gguf_key_u32(out, "llama.attention.head_count", 2);
    gguf_key_u32(out, "llama.attention.head_count_kv", 1);
    gguf_key(out, "llama.attention.layer_norm_rms_epsilon", GGUF_F32, &eps, sizeof eps);
    gguf_key_text(out, "tokenizer.ggml.model", "gpt2");
    gguf_key_u32(out, "tokenizer.ggml.eos_token_id", TINY_GGUF_VOCABULARY - 1);
    gguf_key_text(out, "tokenizer.chat_template",
                  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
    tiny_gguf_vocabulary(out);
    for (uint32_t i = 0; i < count; i++) {
        gguf_tensor(out, tensors[i].name, tensors[i].rows ? 8 : 0, tensors[i].rows, tensors[i].columns, offset);
        offset += tiny_gguf_bytes(&tensors[i]);
    }
    random_seed(&random, 42);
    for (uint32_t i = 0; i < count; i++) {
        gguf_pad(out, 32);
        tiny_gguf_data(out, &tensors[i], &random);
    }
    gguf_pad(out, 32);
}
#endif
