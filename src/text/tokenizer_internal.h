/* tokenizer_internal.h - what the tokenizer's files share: the opened tokenizer, and the state of one encoding.
 *
 * Terms of this folder: a spelling is a token's text as the vocabulary has it; a special token is one that is found in
 * the text by its spelling before anything else (control, unknown and user-defined tokens); a fragment is text between
 * special tokens; a word is a part of a fragment inside which pieces merge; a symbol is a piece of a word while it merges.
 *
 * Invariants
 * - After tokenizer_open nothing changes: all look-ups are safe from many threads.
 * - A merge never makes a token whose text, given out again, would not be the bytes it was made from (TRAIT_TEXT):
 *   so control tokens never come from text that was not matched as a special token, and detokenize(tokenize(x)) = x. */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H
#include "text/merge.h"
#include "text/pretokenizer.h"
#include "text/vocabulary.h"

#define SPACE_MARK "\xE2\x96\x81" /* U+2581, which spells a space in SentencePiece's vocabularies */
#define SPACE_MARK_BYTES 3u

/* Special tokens with longer spellings are not looked for in text. */
#define SPECIAL_BYTES_MAX 1024u

enum tokenizer_algorithm {
    TOKENIZER_BYTES, /* merges by rank, over bytes written in GPT-2's byte alphabet */
    TOKENIZER_PLAIN, /* merges by rank, over characters, spaces as U+2581 (gemma4, SentencePiece's in tokenizer.json) */
    TOKENIZER_SCORES /* SentencePiece: any two pieces whose join is a token merge, the highest score first */
};

enum {
    TRAIT_END = 1,    /* ends a generation */
    TRAIT_TEXT = 2,   /* may come out of merges */
    TRAIT_LSTRIP = 4, /* as a special token, takes the white space before it */
    TRAIT_RSTRIP = 8  /* … after it */
};

struct tokenizer {
    enum tokenizer_algorithm algorithm;
    uint32_t count; /* tokens; the vocabulary may hold more: spellings that only merges pass through */
    struct vocabulary vocabulary;
    uint8_t *kinds, *traits;           /* [count] */
    uint32_t *scores;                  /* [count], TOKENIZER_SCORES: merge_key_of_score */
    uint32_t longest;                  /* bytes of the longest spelling */
    struct merge_table merges;         /* TOKENIZER_BYTES, TOKENIZER_PLAIN */
    struct pretokenizer *pretokenizer; /* the same */
    bool word_is_token;
    bool line_is_token;          /* TOKENIZER_PLAIN: a run of line breaks, likewise */
    bool mark_is_space;          /* U+2581 in a text is the space that it spells, not itself */
    bool normalizes, compatible; /* texts to Unicode's NFC, or NFKC, before they are cut */
    uint32_t byte_ids[256];      /* the token of each byte, or TOKEN_NONE */
    uint32_t space_id;           /* the token that spells U+2581 alone, or TOKEN_NONE */
    bool joins[256][256];        /* some token holds a character that ends with the first byte, and then one that
                                     begins with the second; U+2581 counts as the space it spells. TOKENIZER_BYTES: unused */
    uint32_t bos, eos, unknown;
    bool adds_bos, adds_eos;
    bool adds_space;         /* one before the text and after each special token */
    bool adds_space_first;   /* but not after special tokens */
    bool adds_space_missing; /* but not where there is one */
    uint32_t *specials;      /* special tokens, by spelling (bytes ascending) */
    uint32_t special_count;
    uint32_t special_begin[257]; /* specials whose first byte is b: [special_begin[b], special_begin[b + 1]) */
    bool special_first[2][256];  /* a special token begins with this byte; [0]: one that is found without parsing */
};

/* ---- tokenizer_special.c ---- */

/* Finds the tokens that end a generation by their spelling and corrects kinds that conversions got wrong; `keys` are
 * the ids that the metadata names as ends (TOKEN_NONE where there is none). */
void tokenizer_mark_ends(struct tokenizer *tokenizer, const uint32_t *keys, size_t key_count);
/* Lists the special tokens. Kinds and traits are final. */
MUST_CHECK enum status tokenizer_list_specials(struct tokenizer *tokenizer, struct error *error);

struct special_match {
    size_t begin, end;             /* of the spelling */
    size_t taken_begin, taken_end; /* with the white space that the token takes */
    uint32_t id;
};
/* The special tokens in a text, ascending: longer spellings first, then the lower id, then from left to right, none
 * overlapping another. Control tokens are found where `parse` is set and no literal range is touched. *out is owned by the
 * caller (mem_free), NULL when there are none. */
MUST_CHECK enum status tokenizer_find_specials(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                               const struct text_range *literal, size_t literal_count, bool parse,
                                               struct special_match **out, size_t *count, struct error *error);

/* ---- one encoding ---- */

/* Words that were merged already: most of a text is words that it had before. Direct-mapped. */
#define WORD_CACHE_BYTES_MAX 16u
#define WORD_CACHE_IDS_MAX 6u
#define WORD_CACHE_ENTRIES 4096u
struct word_cache_entry {
    char text[WORD_CACHE_BYTES_MAX]; /* zeros after the word's end */
    uint32_t ids[WORD_CACHE_IDS_MAX];
    uint8_t bytes, count; /* bytes 0: empty */
};

struct encoding {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    struct error *error;
    bool spaced;      /* a space comes before the fragment */
    const char *text; /* the fragment; where `spelled`, its bytes as the vocabulary spells them */
    struct buffer spelled;
    struct merge_work work;
    struct word_cache_entry *cache; /* NULL: none (a short text, or no memory for it) */
};

MUST_CHECK enum status encoding_push(struct encoding *encoding, uint32_t id);
/* One byte that no token holds together with its neighbours: its own token, else SentencePiece's unknown token, else
 * nothing (some byte-level vocabularies lack bytes that their training text never had: such a byte is lost). */
MUST_CHECK enum status encoding_push_byte(struct encoding *encoding, unsigned char byte);
/* The end of the part of text[begin, end) that begins at `begin`: nothing merges across it. */
size_t encoding_part(const struct encoding *encoding, size_t begin, size_t end);
/* Encodes [begin, end) of the fragment by `encode`, or from the cache when the same bytes were encoded before. */
MUST_CHECK enum status encoding_cached(struct encoding *encoding, size_t begin, size_t end,
                                       enum status (*encode)(void *encoding, size_t begin, size_t end));
/* The tokens of a fragment. */
MUST_CHECK enum status encode_bpe(struct encoding *encoding, const char *text, size_t bytes);
MUST_CHECK enum status encode_spm(struct encoding *encoding, const char *text, size_t bytes);

/* ---- tokenizer_bpe.c ---- */

/* GPT-2's alphabet: the code point that stands for a byte, and back (-1: none does). */
uint32_t byte_alphabet_encode(unsigned char byte);
int byte_alphabet_decode(uint32_t code_point);
MUST_CHECK enum status tokenizer_read_merges(struct tokenizer *tokenizer, const struct format *format,
                                             struct error *error);

static inline bool tokenizer_may_merge_into(const struct tokenizer *tokenizer, uint32_t id)
{
    return id >= tokenizer->count || tokenizer->traits[id] & TRAIT_TEXT;
}

#endif
