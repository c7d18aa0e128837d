/* vocabulary_trie.h - the bytes of a vocabulary's tokens, and tries of them. Immutable once open. */
#ifndef GRAMMAR_VOCABULARY_TRIE_H
#define GRAMMAR_VOCABULARY_TRIE_H
#include "text/text.h"

#define TOKEN_BYTES_MAX 255u /* longer ones are never allowed */
#define TRIE_LEVELS 4u
extern const uint32_t TRIE_BYTES[TRIE_LEVELS]; /* the most that a token of each level has */

/* Nodes in the order of a walk that goes deep first. */
struct trie_node {
    uint32_t end;         /* the first node that is not below this one */
    uint32_t first_token; /* those that end here: tokens[first_token … next node's first_token) */
    uint8_t byte, depth;  /* depth: bytes up to here, 1…255 */
};
struct trie {
    struct trie_node *nodes; /* [count + 1] the last one is a sentinel */
    uint32_t *tokens;
    uint32_t count;
};
struct vocabulary_trie {
    uint32_t token_count;
    uint32_t *begin;      /* [token_count + 1] in bytes; none: a token that never may come */
    unsigned char *bytes; /* of all tokens */
    struct trie levels[TRIE_LEVELS];
    bool drops_space; /* the answer's text is without the space that its first token begins with */
};
MUST_CHECK enum status vocabulary_trie_init(struct vocabulary_trie *trie, const struct tokenizer *tokenizer);
/* Makes the tries of the tokens whose bytes are there; of an opened one it was done. ST_NOMEM: it is to be released all the same. */
MUST_CHECK enum status vocabulary_trie_index(struct vocabulary_trie *trie);
void vocabulary_trie_release(struct vocabulary_trie *trie);

#endif
