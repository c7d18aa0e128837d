/* jinja_expression.c - expressions: lexemes to trees, with Jinja's own precedences (unary minus binds before filters do, ** is left
 * associative, ~ binds tighter than +). */
#include "text/jinja_parser.h"

static struct node *parse_or(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filter);

static struct node *branch(struct parser *p, enum node_kind kind, struct node *left, struct node *right)
{
    struct node *node = jinja_node(p, kind, left->position);
    node->left = left;
    node->right = right;
    return node;
}

/* ---- primaries --------------------------------------------------------------------------------------------------------------- */

/* A macro may use what it is not declared to take: note it for the functions around. */
static void note_special(struct parser *p, uint32_t name)
{
    for (struct signature *s = p->signature; s; s = s->outer) {
        s->uses_caller = s->uses_caller || name == p->t->name_caller;
        s->uses_kwargs = s->uses_kwargs || name == p->t->name_kwargs;
        s->uses_varargs = s->uses_varargs || name == p->t->name_varargs;
    }
}

static struct node *parse_name(struct parser *p)
{
    const struct lexed *token = jinja_take(p);
    const struct string *text = token->value.string;
    struct node *node = jinja_node(p, NODE_CONSTANT, token->position);
    if (jinja_string_is(text, "true") || jinja_string_is(text, "True"))
        node->constant = jinja_bool(true);
    else if (jinja_string_is(text, "false") || jinja_string_is(text, "False"))
        node->constant = jinja_bool(false);
    else if (jinja_string_is(text, "none") || jinja_string_is(text, "None"))
        node->constant = jinja_none();
    else {
        node->kind = NODE_NAME;
        node->name = jinja_intern(p, text);
        note_special(p, node->name);
    }
    return node;
}

static struct node *parse_string(struct parser *p)
{
    const struct lexed *token = jinja_take(p);
    struct node *node = jinja_node(p, NODE_CONSTANT, token->position);
    node->constant = token->value;
    if (!jinja_at(p, LEX_STRING)) return node;
    struct builder b;
    jinja_builder_init(&b, p->j);
    jinja_put_string(&b, token->value.string);
    while (jinja_at(p, LEX_STRING)) jinja_put_string(&b, jinja_take(p)->value.string);
    node->constant = jinja_built(&b);
    return node;
}

static struct node *parse_items(struct parser *p, enum node_kind kind, enum lexeme close)
{
    struct node *node = jinja_node(p, kind, jinja_take(p)->position);
    uint32_t capacity = 0;
    while (!jinja_at(p, close)) {
        if (node->count) jinja_expect(p, LEX_COMMA, "','");
        if (jinja_at(p, close)) break;
        jinja_node_put(p, node, &capacity, jinja_parse_expression(p));
        if (kind != NODE_DICT) continue;
        jinja_expect(p, LEX_COLON, "':'");
        jinja_node_put(p, node, &capacity, jinja_parse_expression(p));
    }
    jinja_take(p);
    return node;
}

static struct node *parse_primary(struct parser *p)
{
    struct node *node;
    switch (jinja_peek(p, 0)->lexeme) {
    case LEX_NAME:
        return parse_name(p);
    case LEX_STRING:
        return parse_string(p);
    case LEX_INT:
    case LEX_FLOAT:
        node = jinja_node(p, NODE_CONSTANT, jinja_peek(p, 0)->position);
        node->constant = jinja_take(p)->value;
        return node;
    case LEX_LPAREN:
        jinja_take(p);
        node = jinja_parse_tuple(p, TUPLE_PARENTHESES);
        jinja_expect(p, LEX_RPAREN, "')'");
        return node;
    case LEX_LBRACKET:
        return parse_items(p, NODE_LIST, LEX_RBRACKET);
    case LEX_LBRACE:
        return parse_items(p, NODE_DICT, LEX_RBRACE);
    default:
        jinja_unexpected(p, "an expression");
    }
}

static bool at_tuple_end(const struct parser *p, enum tuple_kind kind)
{
    return jinja_at(p, LEX_PRINT_END) || jinja_at(p, LEX_BLOCK_END) || jinja_at(p, LEX_RPAREN) ||
           (kind == TUPLE_FOR && jinja_at_name(p, "recursive"));
}

struct node *jinja_parse_tuple(struct parser *p, enum tuple_kind kind)
{
    bool with_condition = kind == TUPLE_CONDITION || kind == TUPLE_PARENTHESES, is_tuple = false;
    struct node *tuple = jinja_node(p, NODE_TUPLE, jinja_peek(p, 0)->position);
    uint32_t capacity = 0, chain = p->chain;
    for (;; p->chain = chain) {
        if (tuple->count) jinja_expect(p, LEX_COMMA, "','");
        if (at_tuple_end(p, kind)) break;
        jinja_enter(p->j);
        jinja_node_put(p, tuple, &capacity, with_condition ? jinja_parse_expression(p) : parse_or(p));
        jinja_leave(p->j);
        if (!jinja_at(p, LEX_COMMA)) break;
        is_tuple = true;
    }
    p->chain = chain;
    if (!is_tuple && tuple->count) return tuple->items[0];
    if (!is_tuple && kind != TUPLE_PARENTHESES) jinja_unexpected(p, "an expression");
    return tuple;
}

/* ---- calls and lookups ---------------------------------------------------------------------------------------------------------- */

static void put_argument(struct parser *p, struct arguments *a, uint32_t capacities[3])
{
    if (jinja_at(p, LEX_NAME) && jinja_peek(p, 1)->lexeme == LEX_ASSIGN) {
        if (a->star_star) jinja_unexpected(p, "')'");
        a->names = jinja_grow(p->j, a->names, a->named_count, &capacities[0], sizeof *a->names);
        a->named = jinja_grow(p->j, a->named, a->named_count, &capacities[1], sizeof *a->named);
        a->names[a->named_count] = jinja_take(p)->value.string;
        jinja_take(p);
        a->named[a->named_count] = jinja_parse_expression(p);
        a->named_count++;
        return;
    }
    if (a->star || a->star_star || a->named_count) jinja_unexpected(p, "a keyword argument");
    a->positional = jinja_grow(p->j, a->positional, a->count, &capacities[2], sizeof *a->positional);
    a->positional[a->count] = jinja_parse_expression(p);
    a->count++;
}

static const struct arguments *parse_arguments(struct parser *p)
{
    struct arguments *a = jinja_alloc(p->j, sizeof *a);
    uint32_t capacities[3] = {0};
    bool first = true;
    jinja_expect(p, LEX_LPAREN, "'('");
    for (; !jinja_at(p, LEX_RPAREN); first = false) {
        if (!first) jinja_expect(p, LEX_COMMA, "','");
        if (jinja_at(p, LEX_RPAREN)) break;
        if (jinja_at(p, LEX_MUL) && !a->star && !a->star_star) {
            jinja_take(p);
            a->star = jinja_parse_expression(p);
        } else if (jinja_at(p, LEX_POW) && !a->star_star) {
            jinja_take(p);
            a->star_star = jinja_parse_expression(p);
        } else {
            put_argument(p, a, capacities);
        }
    }
    jinja_take(p);
    return a;
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *node = jinja_node(p, NODE_CALL, jinja_peek(p, 0)->position);
    node->left = callee;
    node->arguments = parse_arguments(p);
    return node;
}

static bool at_subscript_end(const struct parser *p)
{
    return jinja_at(p, LEX_COLON) || jinja_at(p, LEX_RBRACKET) || jinja_at(p, LEX_COMMA);
}

static struct node *parse_subscript(struct parser *p, struct node *object)
{
    uint32_t position = jinja_take(p)->position, capacity = 0;
    struct node *node = jinja_node(p, NODE_ITEM, position), *slice = jinja_node(p, NODE_SLICE, position);
    node->left = slice->left = object;
    if (!jinja_at(p, LEX_COLON)) node->right = jinja_parse_expression(p);
    if (jinja_at(p, LEX_COLON)) {
        slice->items = jinja_array(p->j, 3, sizeof *slice->items);
        slice->items[0] = node->right;
        for (int i = 1; i < 3 && jinja_skip(p, LEX_COLON); i++)
            if (!at_subscript_end(p)) slice->items[i] = jinja_parse_expression(p);
        node = slice;
    } else if (jinja_at(p, LEX_COMMA)) {
        struct node *tuple = jinja_node(p, NODE_TUPLE, position);
        jinja_node_put(p, tuple, &capacity, node->right);
        while (jinja_skip(p, LEX_COMMA)) jinja_node_put(p, tuple, &capacity, jinja_parse_expression(p));
        node->right = tuple;
    }
    jinja_expect(p, LEX_RBRACKET, "']'");
    return node;
}

static struct node *parse_dot(struct parser *p, struct node *object)
{
    struct node *node = jinja_node(p, NODE_ATTRIBUTE, jinja_take(p)->position);
    node->left = object;
    if (jinja_at(p, LEX_NAME)) {
        node->constant = jinja_take(p)->value;
        return node;
    }
    node->kind = NODE_ITEM;
    node->right = jinja_node(p, NODE_CONSTANT, node->position);
    node->right->constant = jinja_expect(p, LEX_INT, "a name or number")->value;
    return node;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    for (;;) {
        if (jinja_at(p, LEX_DOT))
            node = parse_dot(p, node);
        else if (jinja_at(p, LEX_LBRACKET))
            node = parse_subscript(p, node);
        else if (jinja_at(p, LEX_LPAREN))
            node = parse_call(p, node);
        else
            return node;
        if (++p->chain > JINJA_CHAIN_MAX) jinja_fail(p->j, ST_LIMIT, "an expression is too long");
    }
}

/* ---- filters and tests ------------------------------------------------------------------------------------------------------------ */

static void note_unknown(struct parser *p, struct node *node)
{
    if (node->builtin || p->soft) return;
    p->unknown = jinja_grow(p->j, p->unknown, p->unknown_count, &p->unknown_capacity, sizeof *p->unknown);
    p->unknown[p->unknown_count++] = node;
}

void jinja_check_unknown(struct parser *p, uint32_t from)
{
    if (p->unknown_count <= from) return;
    const struct node *node = p->unknown[from];
    p->j->position = node->position;
    jinja_fail(p->j, ST_INVALID, "no %s named '%.100s'", node->kind == NODE_TEST ? "test" : "filter",
               node->constant.string->data);
}

/* a.b.c as one zero-terminated name */
static struct value dotted_name(struct parser *p)
{
    struct builder b;
    jinja_builder_init(&b, p->j);
    jinja_put_string(&b, jinja_expect(p, LEX_NAME, "a name")->value.string);
    while (jinja_skip(p, LEX_DOT)) {
        jinja_put_char(&b, '.', 1);
        jinja_put_string(&b, jinja_expect(p, LEX_NAME, "a name")->value.string);
    }
    jinja_put_char(&b, '\0', 1);
    return jinja_of_string(jinja_string_new(p->j, b.data, b.bytes - 1, false));
}

struct node *jinja_parse_filters(struct parser *p, struct node *left, bool inline_first)
{
    while (inline_first || jinja_skip(p, LEX_PIPE)) {
        struct node *node = jinja_node(p, NODE_FILTER, jinja_peek(p, 0)->position);
        node->left = left;
        node->constant = dotted_name(p);
        node->builtin = jinja_filter_find(node->constant.string);
        if (jinja_at(p, LEX_LPAREN)) node->arguments = parse_arguments(p);
        note_unknown(p, node);
        left = node;
        inline_first = false;
        if (++p->chain > JINJA_CHAIN_MAX) jinja_fail(p->j, ST_LIMIT, "an expression is too long");
    }
    return left;
}

static bool at_test_argument(const struct parser *p)
{
    switch (jinja_peek(p, 0)->lexeme) {
    case LEX_NAME:
        return !jinja_at_name(p, "else") && !jinja_at_name(p, "or") && !jinja_at_name(p, "and");
    case LEX_STRING:
    case LEX_INT:
    case LEX_FLOAT:
    case LEX_LBRACKET:
    case LEX_LBRACE:
        return true;
    default:
        return false;
    }
}

static struct node *parse_test(struct parser *p, struct node *left)
{
    struct node *node = jinja_node(p, NODE_TEST, jinja_take(p)->position);
    bool negated = jinja_skip_name(p, "not");
    node->left = left;
    node->constant = dotted_name(p);
    node->builtin = jinja_builtin_find(jinja_tests, node->constant.string);
    if (jinja_at(p, LEX_LPAREN)) {
        node->arguments = parse_arguments(p);
    } else if (at_test_argument(p)) {
        if (jinja_at_name(p, "is")) jinja_fail(p->j, ST_INVALID, "you cannot chain multiple tests with is");
        struct arguments *a = jinja_alloc(p->j, sizeof *a);
        a->positional = jinja_array(p->j, 1, sizeof *a->positional);
        a->positional[0] = parse_postfix(p, parse_primary(p));
        a->count = 1;
        node->arguments = a;
    }
    note_unknown(p, node);
    return negated ? branch(p, NODE_NOT, node, NULL) : node;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *node)
{
    for (;;) {
        if (jinja_at(p, LEX_PIPE))
            node = jinja_parse_filters(p, node, false);
        else if (jinja_at_name(p, "is"))
            node = parse_test(p, node);
        else if (jinja_at(p, LEX_LPAREN))
            node = parse_call(p, node);
        else
            return node;
        if (++p->chain > JINJA_CHAIN_MAX) jinja_fail(p->j, ST_LIMIT, "an expression is too long");
    }
}

/* ---- operators ---------------------------------------------------------------------------------------------------------------------- */

static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *node;
    jinja_enter(p->j);
    if (jinja_at(p, LEX_SUB) || jinja_at(p, LEX_ADD)) {
        const struct lexed *sign = jinja_take(p);
        node = jinja_node(p, sign->lexeme == LEX_SUB ? NODE_NEGATE : NODE_PLUS, sign->position);
        node->left = parse_unary(p, false);
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    if (with_filter) node = parse_filters_and_tests(p, node);
    jinja_leave(p->j);
    return node;
}

/* The operator here if it is one of `level` (0: **, 1: * / // %, 2: + -). */
static bool take_operator(struct parser *p, int level, enum operator* out)
{
    static const struct {
        enum lexeme lexeme;
        enum operator operator;
        int level;
    } table[] = {
        {LEX_POW, OPERATOR_POW, 0},           {LEX_MUL, OPERATOR_MUL, 1}, {LEX_DIV, OPERATOR_DIV, 1},
        {LEX_FLOORDIV, OPERATOR_FLOORDIV, 1}, {LEX_MOD, OPERATOR_MOD, 1}, {LEX_ADD, OPERATOR_ADD, 2},
        {LEX_SUB, OPERATOR_SUB, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(table); i++) {
        if (table[i].level != level || !jinja_skip(p, table[i].lexeme)) continue;
        *out = table[i].operator;
        return true;
    }
    return false;
}

static struct node *parse_concat(struct parser *p);

static struct node *parse_operand(struct parser *p, int level)
{
    enum operator operator;
    struct node *left = level == 0 ? parse_unary(p, true) : level == 1 ? parse_operand(p, 0) : parse_concat(p);
    while (take_operator(p, level, &operator)) {
        left = branch(p, NODE_BINARY, left,
                      level == 0   ? parse_unary(p, true)
                      : level == 1 ? parse_operand(p, 0)
                                   : parse_concat(p));
        left->operator= operator;
        if (++p->chain > JINJA_CHAIN_MAX) jinja_fail(p->j, ST_LIMIT, "an expression is too long");
    }
    return left;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_operand(p, 1);
    if (!jinja_at(p, LEX_TILDE)) return first;
    uint32_t capacity = 0;
    struct node *node = jinja_node(p, NODE_CONCAT, first->position);
    jinja_node_put(p, node, &capacity, first);
    while (jinja_skip(p, LEX_TILDE)) jinja_node_put(p, node, &capacity, parse_operand(p, 1));
    return node;
}

static bool take_comparison(struct parser *p, enum operator* out)
{
    static const struct {
        enum lexeme lexeme;
        enum operator operator;
    } table[] = {{LEX_EQ, OPERATOR_EQ}, {LEX_NE, OPERATOR_NE}, {LEX_LT, OPERATOR_LT},
                 {LEX_LE, OPERATOR_LE}, {LEX_GT, OPERATOR_GT}, {LEX_GE, OPERATOR_GE}};
    for (size_t i = 0; i < ARRAY_COUNT(table); i++)
        if (jinja_skip(p, table[i].lexeme)) return *out = table[i].operator, true;
    if (jinja_skip_name(p, "in")) return *out = OPERATOR_IN, true;
    const struct lexed *next = jinja_peek(p, 1);
    if (!jinja_at_name(p, "not") || next->lexeme != LEX_NAME || !jinja_string_is(next->value.string, "in"))
        return false;
    jinja_take(p);
    jinja_take(p);
    return *out = OPERATOR_NOT_IN, true;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *first = parse_operand(p, 2), *node = NULL;
    uint32_t capacity = 0, operator_capacity = 0;
    enum operator operator;
    while (take_comparison(p, &operator)) {
        if (!node) {
            node = jinja_node(p, NODE_COMPARE, first->position);
            jinja_node_put(p, node, &capacity, first);
        }
        node->operators = jinja_grow(p->j, node->operators, node->count - 1, &operator_capacity, 1);
        node->operators[node->count - 1] = (uint8_t) operator;
        jinja_node_put(p, node, &capacity, parse_operand(p, 2));
    }
    return node ? node : first;
}

static struct node *parse_not(struct parser *p)
{
    if (!jinja_at_name(p, "not")) return parse_compare(p);
    struct node *node = jinja_node(p, NODE_NOT, jinja_take(p)->position);
    jinja_enter(p->j);
    node->left = parse_not(p);
    jinja_leave(p->j);
    return node;
}

static struct node *parse_and(struct parser *p)
{
    struct node *left = parse_not(p);
    while (jinja_skip_name(p, "and")) {
        left = branch(p, NODE_AND, left, parse_not(p));
        if (++p->chain > JINJA_CHAIN_MAX) jinja_fail(p->j, ST_LIMIT, "an expression is too long");
    }
    return left;
}

static struct node *parse_or(struct parser *p)
{
    struct node *left = parse_and(p);
    while (jinja_skip_name(p, "or")) {
        left = branch(p, NODE_OR, left, parse_and(p));
        if (++p->chain > JINJA_CHAIN_MAX) jinja_fail(p->j, ST_LIMIT, "an expression is too long");
    }
    return left;
}

struct node *jinja_parse_expression(struct parser *p)
{
    uint32_t chain = p->chain, unknown = p->unknown_count;
    bool soft = p->soft;
    jinja_enter(p->j);
    struct node *node = parse_or(p);
    while (jinja_skip_name(p, "if")) {
        p->soft = true;
        p->unknown_count = unknown; /* in a conditional, they fail only when they are reached */
        struct node *condition = jinja_node(p, NODE_CONDITION, node->position);
        condition->right = node;
        condition->left = parse_or(p);
        if (jinja_skip_name(p, "else")) condition->third = jinja_parse_expression(p);
        node = condition;
    }
    jinja_leave(p->j);
    p->soft = soft;
    p->chain = chain;
    return node;
}
