/* pretokenizer_internal.h - the passes that pre-tokenizer types are made of. */
#ifndef TEXT_PRETOKENIZER_INTERNAL_H
#define TEXT_PRETOKENIZER_INTERNAL_H
#include "text/pretokenizer.h"

#define PASSES_MAX PRETOKENIZER_PATTERNS_MAX

enum pass_kind {
    PASS_NONE,
    PASS_RUN,      /* characters of one set: [least, most] of them, with one space before where `space` */
    PASS_WORDS,    /* GPT-2's pattern */
    PASS_TERMS,    /* the pattern of GPT-4's kind: Llama 3 and Qwen 2, with their differences */
    PASS_LINES,    /* [^\n]+|\n+ */
    PASS_TRAILING, /* \s+$ */
    PASS_PATTERN,  /* any other, by PCRE2 */
};

struct pass {
    enum pass_kind kind;
    /* PASS_RUN */
    bool (*member)(struct character character);
    uint32_t least, most; /* most 0: no bound */
    bool space;
    /* PASS_TERMS */
    uint32_t digits; /* longest number; 0: no bound */
    bool marks;      /* combining marks are letters */
    /* PASS_PATTERN */
    const char *pattern;
    bool drops; /* what is not matched is no piece */
};

struct pretokenizer_type {
    const char *names; /* separated by spaces */
    struct pretokenizer_traits traits;
    struct pass passes[PASSES_MAX];
};

/* The type of that name, or NULL. */
const struct pretokenizer_type *pretokenizer_type_find(const char *name, size_t bytes);

/* The pass that does what a pattern says without PCRE2; false: there is none. */
bool pretokenizer_pass_find(const struct pretokenizer_pattern *pattern, struct pass *out);

/* The end of the piece of text[at, end) that begins at `at`; at < end. (pretokenizer_pass.c; PASS_PATTERN is
 * pretokenizer.c's.) */
size_t pass_next(const struct pass *pass, const char *text, size_t at, size_t end);

#endif
