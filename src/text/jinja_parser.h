/* jinja_parser.h - what the two files of the parser share: the reader of lexemes and makers of nodes. */
#ifndef TEXT_JINJA_PARSER_H
#define TEXT_JINJA_PARSER_H
#include "text/jinja.h"

/* Left-associative operators make a tree as deep as they are many; evaluation's depth bound would stop it anyway. */
#define JINJA_CHAIN_MAX 400

struct parser {
    struct jinja *j;
    struct template *t;
    const struct lexed *lexed; /* ended by LEX_END at `count` */
    uint32_t count, at;
    struct dict *known; /* name -> index in t->names */
    uint32_t name_capacity;
    uint32_t
        chain; /* operators strung together in this expression: they nest in the tree without nesting in the text */
    uint32_t loops;              /* for statements around this place, in this function */
    struct signature *signature; /* of the function around it */
    bool soft;                   /* directly in an if: unknown filters and tests fail only when they are reached */
    struct node **unknown;       /* the others */
    uint32_t unknown_count, unknown_capacity;
};

const struct lexed *jinja_peek(const struct parser *p, uint32_t ahead);
bool jinja_at(const struct parser *p, enum lexeme lexeme);
bool jinja_at_name(const struct parser *p, const char *name);
const struct lexed *jinja_take(struct parser *p);
bool jinja_skip(struct parser *p, enum lexeme lexeme);
bool jinja_skip_name(struct parser *p, const char *name);
const struct lexed *jinja_expect(struct parser *p, enum lexeme lexeme, const char *what);
_Noreturn void jinja_unexpected(struct parser *p, const char *expected);
struct node *jinja_node(struct parser *p, enum node_kind kind, uint32_t position);
void jinja_node_put(struct parser *p, struct node *node, uint32_t *capacity, struct node *item);
uint32_t jinja_intern(struct parser *p, const struct string *name);

enum tuple_kind {
    TUPLE_CONDITION,   /* a, b: each may be an inline if */
    TUPLE_PLAIN,       /* none may */
    TUPLE_FOR,         /* as PLAIN, and `recursive` ends it */
    TUPLE_PARENTHESES, /* may be empty */
};
struct node *jinja_parse_tuple(struct parser *p, enum tuple_kind kind);
struct node *jinja_parse_expression(struct parser *p);
/* `| a | b(c)` after `left` (NULL: of a block); `inline_first`: the first has no bar. */
struct node *jinja_parse_filters(struct parser *p, struct node *left, bool inline_first);
/* Fails at the first unknown filter or test recorded since `from`. */
void jinja_check_unknown(struct parser *p, uint32_t from);

#endif
