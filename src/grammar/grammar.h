/* grammar.h - what an answer may say: a JSON Schema, a regular expression, a list of choices or a grammar, compiled to an
 * automaton over bytes; and the tokens that may come next.
 *
 * The automaton is a set of rules that call each other, with counted repetitions: a pushdown automaton. It is run for all its
 * stacks at once. They are kept as a graph that shares what they have in common and has one form for one set of stacks
 * (Tomita 1985, graph-structured stacks), so a place in an answer is one number, transitions are remembered by number and byte
 * (a DFA made as far as it is used), and so are the sets of tokens. A token set is found by walking a trie of all tokens'
 * bytes (Willard, Louf 2023, Efficient Guided Generation for LLMs; Dong et al. 2024, XGrammar).
 *
 * Everything from outside is bounded: bytes of source, nodes and rules of the automaton, its stacks' depth, the work of one
 * transition and of one token set. A source that passes a limit is refused; in an answer, what would pass one is forbidden.
 * The bounds are counted in a way that does not depend on what was remembered, so that token sets follow from the answer alone.
 *
 * Sources: JSON Schema draft 2020-12 and RFC 8259; ECMA-262's regular expressions; llama.cpp's GBNF. docs/structured-output.md
 * says what of them is supported. */
#ifndef GRAMMAR_GRAMMAR_H
#define GRAMMAR_GRAMMAR_H
#include "base/base.h"
#include "text/text.h"

#define GRAMMAR_SOURCE_BYTES_MAX (512u << 10)

enum grammar_kind {
    GRAMMAR_NONE,
    GRAMMAR_JSON_SCHEMA, /* a JSON document that satisfies the schema, which is the text */
    GRAMMAR_JSON_OBJECT, /* any JSON object; the text is ignored */
    GRAMMAR_REGEX,       /* all of the answer matches */
    GRAMMAR_CHOICE,      /* one of the texts, which are a JSON array */
    GRAMMAR_GBNF,        /* llama.cpp's grammars; the rule `root` */
    /* One to "most" (128) values that satisfy "schema", each between the texts "open" and "close", "between" lying between two; or one
     * value by itself. The text is a JSON object with these keys. */
    GRAMMAR_JSON_CALLS
};

/* ---- the store: one for a vocabulary ---------------------------------------------------------------------------------- */

/* Holds the trie of the vocabulary's tokens, made when it is first needed, and the grammars that were compiled last, so
 * that requests with one schema share its automaton and all that is remembered of it. Any thread. */
struct grammar_store;
MUST_CHECK enum status grammar_store_open(const struct tokenizer *tokenizer, struct grammar_store **out);
void grammar_store_close(struct grammar_store *store); /* every grammar of it already closed; NULL is allowed */

/* ---- grammars ------------------------------------------------------------------------------------------------------------ */

struct grammar; /* any thread */

/* Compiles, or finds what is still there. ST_INVALID: the source is broken or matches nothing. ST_UNSUPPORTED: a feature, by
 * its name and where it stands. ST_LIMIT: a bound was passed. ST_FULL: the grammars of waiting and running requests take all
 * the memory that is set aside for them. It takes at most about a tenth of a second, whatever the source. */
MUST_CHECK enum status grammar_open(struct grammar_store *store, enum grammar_kind kind, const char *text, size_t bytes,
                                    struct grammar **out, struct error *error);
void grammar_close(struct grammar *grammar); /* NULL is allowed */

/* A place in an answer; to be zeroed before the first token, and copied freely. What it remembers saves reading the answer from
 * its beginning; it is right for this grammar, and the first `count` tokens of the answer it was last used with. */
struct grammar_place {
    uint32_t count, state;
    uint64_t epoch;
};

struct grammar_next {
    bool may_end;  /* the answer satisfies the grammar */
    bool must_end; /* and nothing can follow */
};
/* What may follow the `count` tokens of `answer`. ST_NOMEM. */
MUST_CHECK enum status grammar_ends(struct grammar *grammar, struct grammar_place *place, const uint32_t *answer,
                                    uint32_t count, struct grammar_next *next);
/* The same, and the set of tokens: of the bits in set[words] those stay that may come next. Control tokens never may. */
MUST_CHECK enum status grammar_mask(struct grammar *grammar, struct grammar_place *place, const uint32_t *answer,
                                    uint32_t count, uint64_t *set, uint32_t words, struct grammar_next *next);
/* Whether the grammar accepts exactly these bytes: as by tokens, but without a vocabulary's limits. ST_NOMEM. */
MUST_CHECK enum status grammar_match(struct grammar *grammar, const char *text, size_t bytes, bool *matches);

#endif
