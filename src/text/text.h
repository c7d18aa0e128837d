/* text.h - between text and token ids: tokenizers, streaming detokenizer, chat templates. Knows vocabularies, not models.
 *
 * Sources: byte-level BPE (Radford et al. 2019, GPT-2), SentencePiece BPE with byte fallback (Kudo, Richardson 2018),
 * GGUF tokenizer metadata (tokenizer.ggml.*), Hugging Face's tokenizer.json, Jinja2's template language as transformers sets it up
 * (trim_blocks, lstrip_blocks, loop controls, tojson, strftime_now, raise_exception, generation). */
#ifndef TEXT_TEXT_H
#define TEXT_TEXT_H
#include "base/base.h"
#include "format/format.h"
#include <jansson.h>

/* ---- tokenizer ---------------------------------------------------------------------------------------------------------- */

struct tokenizer; /* immutable after open: many threads may use one */

#define TOKEN_NONE UINT32_MAX

enum token_kind { TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };

/* Reads tokenizer.ggml.{model,pre,tokens,scores,token_type,merges,*_token_id,add_*} and tokenizer.kvasir.* (format.h) from the metadata. Hostile bytes:
 * every id, length and merge is checked. ST_UNSUPPORTED names a tokenizer model or pre-tokenizer that is not known;
 * ST_NOT_FOUND: the file has no tokenizer. */
MUST_CHECK enum status tokenizer_open(const struct format *format, struct tokenizer **out, struct error *error);
void tokenizer_close(struct tokenizer *tokenizer);

uint32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer);
uint32_t tokenizer_bos(const struct tokenizer *tokenizer); /* TOKEN_NONE when there is none; so are the next */
uint32_t tokenizer_eos(const struct tokenizer *tokenizer);
bool tokenizer_adds_bos(const struct tokenizer *tokenizer);
/* Ends a generation: eos, eot, eom and the model family's end-of-turn control tokens (<|im_end|>, <end_of_turn>, …). */
bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id);
enum token_kind tokenizer_kind(const struct tokenizer *tokenizer, uint32_t id);
/* The vocabulary's own spelling of a token ("Ġthe", "▁the", "<0x0A>"); borrowed. */
const char *tokenizer_spelling(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes);
/* The id of that spelling, or TOKEN_NONE. */
uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *spelling, size_t bytes);

enum {
    TOKENIZE_ADD_SPECIAL = 1,  /* the model's BOS / EOS, where the vocabulary says so */
    TOKENIZE_PARSE_SPECIAL = 2 /* spellings of control tokens in the text become those tokens */
};
/* A range of bytes that came from the user: control tokens spelled there, wholly or partly, stay text. */
struct text_range {
    size_t begin, end;
};
struct token_list {
    uint32_t *ids; /* owned; token_list_release */
    size_t count, capacity;
};
/* Appends to `out` (zero-initialised or reused). `text` may hold any bytes, zeros and invalid UTF-8 included; `literal`
 * ranges ascend and do not overlap. Time is O(n log n) for any input. */
MUST_CHECK enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                        const struct text_range *literal, size_t literal_count, unsigned flags,
                                        struct token_list *out, struct error *error);
void token_list_release(struct token_list *list);

/* Detokenizer: a stream of ids becomes a stream of bytes that never splits a UTF-8 character; bytes that cannot become a
 * character are given out as they are (so that detokenize(tokenize(x)) = x for any bytes). */
struct detokenizer {
    const struct tokenizer *tokenizer;
    bool show_control; /* control tokens by their spelling; else nothing */
    bool first;        /* nothing was put yet: SentencePiece's leading space is dropped where the vocabulary adds one */
    unsigned held;     /* bytes kept back, at the start of `pending` */
    char pending[8];
};
void detokenizer_init(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, bool show_control);
void detokenizer_put(struct detokenizer *detokenizer, uint32_t id, struct buffer *out);
void detokenizer_finish(struct detokenizer *detokenizer, struct buffer *out); /* gives out what is still held */

/* ---- chat templates ------------------------------------------------------------------------------------------------------ */

struct template; /* compiled; immutable */

/* Bounds of one rendering; the defaults are generous for real templates (see template.c). */
struct template_limits {
    uint64_t steps;
    uint64_t bytes;
    uint32_t depth;
};
extern const struct template_limits TEMPLATE_LIMITS_DEFAULT;

/* The error names line and column. */
MUST_CHECK enum status template_compile(const char *source, size_t bytes, struct template **out, struct error *error);
void template_release(struct template *template);

struct template_rendering {
    struct buffer text;
    struct text_range *user; /* owned: ranges of `text` that came from strings marked as the user's */
    size_t user_count;
};
/* `variables`: a JSON object, the template's globals (messages, tools, add_generation_prompt, bos_token, …); keys that the
 * template reads but that are not there are undefined, as in Jinja. Strings inside `messages`, `tools` and `documents` are the user's:
 * what they contribute to the text is reported in `user`. raise_exception(text) gives ST_INVALID with that text. */
MUST_CHECK enum status template_render(const struct template *template, json_t *variables,
                                       const struct template_limits *limits, struct template_rendering *out,
                                       struct error *error);
void template_rendering_release(struct template_rendering *rendering);

#endif
