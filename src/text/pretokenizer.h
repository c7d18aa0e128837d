/* pretokenizer.h - cuts a text into the words inside which byte-level BPE merges.
 *
 * A pre-tokenizer type (tokenizer.ggml.pre) is a list of passes; each cuts the pieces of the one before: what its
 * pattern matches becomes a piece, and so does what lies between two matches. A piece's end is the text's end for the
 * pattern: a look-ahead never sees the next piece. */
#ifndef TEXT_PRETOKENIZER_H
#define TEXT_PRETOKENIZER_H
#include "text/character.h"

struct pretokenizer;

/* What a type's name says besides how to cut. */
struct pretokenizer_traits {
    bool word_is_token; /* a word that is in the vocabulary is that token, whatever the merges say */
    bool adds_bos;      /* unless the metadata says otherwise */
    bool plain;         /* no byte alphabet: spellings are text with U+2581 for a space, and bytes are <0xXX> tokens */
    bool lines;         /* a run of line breaks that is in the vocabulary is that token */
};

/* ST_UNSUPPORTED names a type that is not known. */
MUST_CHECK enum status pretokenizer_open(const char *name, size_t bytes, struct pretokenizer **out,
                                         struct error *error);
/* Of a pattern a pass (PCRE2's syntax), at most PRETOKENIZER_PATTERNS_MAX. Patterns are a file's: ST_INVALID for one that is broken,
 * and later for one that a text shows to match nothing. */
#define PRETOKENIZER_PATTERNS_MAX 6u
struct pretokenizer_pattern {
    const char *text;
    size_t bytes;
    bool drops; /* what it does not match is left out */
};
MUST_CHECK enum status pretokenizer_open_patterns(const struct pretokenizer_pattern *patterns, uint32_t count,
                                                  const struct pretokenizer_traits *traits, struct pretokenizer **out,
                                                  struct error *error);
void pretokenizer_close(struct pretokenizer *pretokenizer);
const struct pretokenizer_traits *pretokenizer_traits(const struct pretokenizer *pretokenizer);

/* Gives every word of text[0, bytes) to `word`, in order, until that answers something else than ST_OK. */
MUST_CHECK enum status pretokenizer_split(const struct pretokenizer *pretokenizer, const char *text, size_t bytes,
                                          enum status (*word)(void *data, size_t begin, size_t end), void *data,
                                          struct error *error);

#endif
