/* jinja_parser.c - statements: lexemes to the tree of a template. Expressions are in jinja_expression.c. */
#include "text/jinja_parser.h"

/* ---- lexemes --------------------------------------------------------------------------------------------------------------- */

const struct lexed *jinja_peek(const struct parser *p, uint32_t ahead)
{
    uint32_t at = p->at + ahead;
    return &p->lexed[at < p->count ? at : p->count];
}

bool jinja_at(const struct parser *p, enum lexeme lexeme)
{
    return jinja_peek(p, 0)->lexeme == lexeme;
}

bool jinja_at_name(const struct parser *p, const char *name)
{
    return jinja_at(p, LEX_NAME) && jinja_string_is(jinja_peek(p, 0)->value.string, name);
}

const struct lexed *jinja_take(struct parser *p)
{
    const struct lexed *token = jinja_peek(p, 0);
    if (p->at < p->count) p->at++;
    jinja_charge(p->j, 1);
    return token;
}

bool jinja_skip(struct parser *p, enum lexeme lexeme)
{
    if (!jinja_at(p, lexeme)) return false;
    jinja_take(p);
    return true;
}

bool jinja_skip_name(struct parser *p, const char *name)
{
    if (!jinja_at_name(p, name)) return false;
    jinja_take(p);
    return true;
}

_Noreturn void jinja_unexpected(struct parser *p, const char *expected)
{
    const struct lexed *token = jinja_peek(p, 0);
    p->j->position = token->position;
    if (token->lexeme == LEX_END) jinja_fail(p->j, ST_INVALID, "unexpected end of template, expected %s", expected);
    if (token->lexeme == LEX_NAME)
        jinja_fail(p->j, ST_INVALID, "expected %s, got '%.*s'", expected,
                   token->value.string->bytes < 60 ? (int)token->value.string->bytes : 60, token->value.string->data);
    jinja_fail(p->j, ST_INVALID, "expected %s, got '%.1s'", expected,
               token->position < p->t->source_bytes ? p->t->source + token->position : "");
}

const struct lexed *jinja_expect(struct parser *p, enum lexeme lexeme, const char *what)
{
    if (!jinja_at(p, lexeme)) jinja_unexpected(p, what);
    return jinja_take(p);
}

struct node *jinja_node(struct parser *p, enum node_kind kind, uint32_t position)
{
    struct node *node = jinja_alloc(p->j, sizeof *node);
    node->kind = kind;
    node->position = position;
    return node;
}

void jinja_node_put(struct parser *p, struct node *node, uint32_t *capacity, struct node *item)
{
    node->items = jinja_grow(p->j, node->items, node->count, capacity, sizeof *node->items);
    node->items[node->count++] = item;
}

uint32_t jinja_intern(struct parser *p, const struct string *name)
{
    const struct value *known = jinja_dict_find(p->j, p->known, name);
    if (known) return (uint32_t)known->integer;
    p->t->names = jinja_grow(p->j, p->t->names, p->t->name_count, &p->name_capacity, sizeof *p->t->names);
    p->t->names[p->t->name_count] = name;
    jinja_dict_set(p->j, p->known, jinja_of_string(name), jinja_int(p->t->name_count));
    return p->t->name_count++;
}

/* ---- bodies ----------------------------------------------------------------------------------------------------------------- */

static struct node *parse_statement(struct parser *p);

static bool at_end_word(const struct parser *p, const char *words)
{
    if (!jinja_at(p, LEX_NAME)) return false;
    const struct string *name = jinja_peek(p, 0)->value.string;
    for (const char *at = words; *at;) {
        size_t bytes = strcspn(at, " ");
        if (bytes == name->bytes && memcmp(at, name->data, bytes) == 0) return true;
        at += bytes + (at[bytes] == ' ');
    }
    return false;
}

/* Statements up to a block that begins with one of `words` ("" for the end of the template); leaves that word to be taken. */
static struct node *parse_until(struct parser *p, const char *words)
{
    struct node *first = NULL, **last = &first;
    while (!jinja_at(p, LEX_END)) {
        const struct lexed *token = jinja_take(p);
        if (token->lexeme == LEX_BLOCK_BEGIN && at_end_word(p, words)) return first;
        if (token->lexeme == LEX_DATA) {
            *last = jinja_node(p, NODE_DATA, token->position);
            (*last)->constant = token->value;
        } else if (token->lexeme == LEX_PRINT_BEGIN) {
            *last = jinja_node(p, NODE_OUTPUT, token->position);
            (*last)->left = jinja_parse_tuple(p, TUPLE_CONDITION);
            jinja_expect(p, LEX_PRINT_END, "end of print statement");
        } else {
            *last = parse_statement(p);
            jinja_expect(p, LEX_BLOCK_END, "end of statement block");
        }
        while (*last) last = &(*last)->next;
    }
    if (*words) {
        p->j->position = jinja_peek(p, 0)->position;
        jinja_fail(p->j, ST_INVALID, "unexpected end of template, looking for: %s", words);
    }
    return first;
}

static struct node *parse_body(struct parser *p, const char *words)
{
    jinja_skip(p, LEX_COLON);
    jinja_expect(p, LEX_BLOCK_END, "end of statement block");
    jinja_enter(p->j);
    struct node *body = parse_until(p, words);
    jinja_leave(p->j);
    return body;
}

/* A body whose end word is taken too. Unknown filters fail at once in it, even where it stands in an if. */
static struct node *parse_whole_body(struct parser *p, const char *words)
{
    bool soft = p->soft;
    p->soft = false;
    struct node *body = parse_body(p, words);
    jinja_take(p);
    p->soft = soft;
    return body;
}

/* The filters of a block's text: unknown ones fail at once, too. */
static struct node *parse_block_filters(struct parser *p, bool inline_first)
{
    bool soft = p->soft;
    p->soft = false;
    struct node *filters = jinja_parse_filters(p, NULL, inline_first);
    p->soft = soft;
    return filters;
}

/* A body that is a function of its own: break and continue do not reach out of it. */
static struct node *parse_function_body(struct parser *p, struct signature *s, const char *words)
{
    uint32_t loops = p->loops;
    struct signature *outer = p->signature;
    p->loops = 0;
    p->signature = s;
    s->outer = outer;
    struct node *body = parse_whole_body(p, words);
    p->loops = loops;
    p->signature = outer;
    return body;
}

/* ---- targets ------------------------------------------------------------------------------------------------------------------ */

static uint32_t parse_name(struct parser *p)
{
    const struct lexed *token = jinja_expect(p, LEX_NAME, "a name");
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < ARRAY_COUNT(constants); i++) {
        if (!jinja_string_is(token->value.string, constants[i])) continue;
        p->j->position = token->position;
        jinja_fail(p->j, ST_INVALID, "cannot assign to '%s'", constants[i]);
    }
    return jinja_intern(p, token->value.string);
}

static struct node *parse_target(struct parser *p, bool namespaces);

static struct node *parse_one_target(struct parser *p, bool namespaces)
{
    uint32_t position = jinja_peek(p, 0)->position;
    if (jinja_skip(p, LEX_LPAREN)) {
        jinja_enter(p->j);
        struct node *inner = parse_target(p, namespaces);
        jinja_leave(p->j);
        jinja_expect(p, LEX_RPAREN, "')'");
        return inner;
    }
    struct node *target = jinja_node(p, NODE_NAME, position);
    target->name = parse_name(p);
    if (namespaces && jinja_skip(p, LEX_DOT)) {
        target->kind = NODE_NAMESPACE_TARGET;
        target->constant = jinja_expect(p, LEX_NAME, "a name")->value;
    }
    return target;
}

static struct node *parse_target(struct parser *p, bool namespaces)
{
    struct node *first = parse_one_target(p, namespaces);
    if (!jinja_at(p, LEX_COMMA)) return first;
    uint32_t capacity = 0;
    struct node *tuple = jinja_node(p, NODE_TUPLE, first->position);
    jinja_node_put(p, tuple, &capacity, first);
    while (jinja_skip(p, LEX_COMMA)) {
        if (!jinja_at(p, LEX_NAME) && !jinja_at(p, LEX_LPAREN)) break;
        if (!namespaces && jinja_at_name(p, "in")) break;
        jinja_node_put(p, tuple, &capacity, parse_one_target(p, namespaces));
    }
    return tuple;
}

/* ---- statements ------------------------------------------------------------------------------------------------------------------ */

static struct node *parse_if(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_IF, position);
    bool soft = p->soft;
    p->soft = true;
    node->left = jinja_parse_tuple(p, TUPLE_PLAIN);
    node->body = parse_body(p, "elif else endif");
    const struct lexed *word = jinja_take(p);
    if (jinja_string_is(word->value.string, "elif")) {
        jinja_enter(p->j);
        node->other = parse_if(p, word->position);
        jinja_leave(p->j);
    } else if (jinja_string_is(word->value.string, "else")) {
        node->other = parse_body(p, "endif");
        jinja_take(p);
    }
    p->soft = soft;
    return node;
}

static bool binds(const struct parser *p, const struct node *target, uint32_t name)
{
    if (target->kind == NODE_NAME) return target->name == name;
    for (uint32_t i = 0; i < target->count; i++)
        if (binds(p, target->items[i], name)) return true;
    return false;
}

static struct node *parse_for(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_FOR, position);
    node->target = parse_target(p, false);
    if (binds(p, node->target, p->t->name_loop))
        jinja_fail(p->j, ST_INVALID, "can't assign to special loop variable in for-loop target");
    if (!jinja_skip_name(p, "in")) jinja_unexpected(p, "'in'");
    node->left = jinja_parse_tuple(p, TUPLE_FOR);
    if (jinja_skip_name(p, "if")) node->right = jinja_parse_expression(p);
    node->flag = jinja_skip_name(p, "recursive");
    bool soft = p->soft;
    p->soft = false;
    p->loops++;
    node->body = parse_body(p, "endfor else");
    p->loops--;
    if (jinja_string_is(jinja_take(p)->value.string, "else")) {
        node->other = parse_body(p, "endfor");
        jinja_take(p);
    }
    p->soft = soft;
    return node;
}

static struct node *parse_set(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_SET, position);
    node->target = parse_target(p, true);
    if (jinja_skip(p, LEX_ASSIGN)) {
        node->left = jinja_parse_tuple(p, TUPLE_CONDITION);
        return node;
    }
    node->kind = NODE_SET_BLOCK;
    if (jinja_at(p, LEX_PIPE)) node->left = parse_block_filters(p, false);
    node->body = parse_whole_body(p, "endset");
    return node;
}

static void parse_signature(struct parser *p, struct signature *s)
{
    uint32_t capacity = 0, default_capacity = 0;
    jinja_expect(p, LEX_LPAREN, "'('");
    while (!jinja_at(p, LEX_RPAREN)) {
        if (s->count) jinja_expect(p, LEX_COMMA, "','");
        s->parameters = jinja_grow(p->j, s->parameters, s->count, &capacity, sizeof *s->parameters);
        s->defaults = jinja_grow(p->j, s->defaults, s->count, &default_capacity, sizeof *s->defaults);
        s->parameters[s->count] = parse_name(p);
        s->explicit_caller = s->explicit_caller || s->parameters[s->count] == p->t->name_caller;
        if (jinja_skip(p, LEX_ASSIGN))
            s->defaults[s->count] = jinja_parse_expression(p);
        else if (s->count && s->defaults[s->count - 1])
            jinja_fail(p->j, ST_INVALID, "non-default argument follows default argument");
        s->count++;
    }
    jinja_take(p);
}

static struct node *parse_macro(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_MACRO, position);
    struct signature *s = node->signature = jinja_alloc(p->j, sizeof *s);
    s->name = jinja_peek(p, 0)->value.string;
    node->name = parse_name(p);
    parse_signature(p, s);
    node->body = parse_function_body(p, s, "endmacro");
    return node;
}

static struct node *parse_call_block(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_CALL_BLOCK, position);
    node->signature = jinja_alloc(p->j, sizeof *node->signature);
    if (jinja_at(p, LEX_LPAREN)) parse_signature(p, node->signature);
    node->left = jinja_parse_expression(p);
    if (node->left->kind != NODE_CALL) jinja_fail(p->j, ST_INVALID, "expected a call");
    node->body = parse_function_body(p, node->signature, "endcall");
    return node;
}

static struct node *parse_filter_block(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_FILTER_BLOCK, position);
    node->left = parse_block_filters(p, true);
    node->body = parse_whole_body(p, "endfilter");
    return node;
}

static struct node *parse_with(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_WITH, position);
    uint32_t capacity = 0;
    while (!jinja_at(p, LEX_BLOCK_END)) {
        if (node->count) jinja_expect(p, LEX_COMMA, "','");
        jinja_node_put(p, node, &capacity, parse_one_target(p, false));
        jinja_expect(p, LEX_ASSIGN, "'='");
        jinja_node_put(p, node, &capacity, jinja_parse_expression(p));
    }
    node->body = parse_whole_body(p, "endwith");
    return node;
}

static struct node *parse_generation(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_SCOPE, position);
    node->signature = jinja_alloc(p->j, sizeof *node->signature);
    node->body = parse_function_body(p, node->signature, "endgeneration");
    return node;
}

static struct node *parse_block(struct parser *p, uint32_t position)
{
    struct node *node = jinja_node(p, NODE_SCOPE, position);
    uint32_t name = parse_name(p);
    jinja_skip_name(p, "scoped");
    node->signature = jinja_alloc(p->j, sizeof *node->signature);
    node->body = parse_function_body(p, node->signature, "endblock");
    if (jinja_at(p, LEX_NAME) && jinja_intern(p, jinja_peek(p, 0)->value.string) == name) jinja_take(p);
    return node;
}

static struct node *parse_print(struct parser *p, uint32_t position)
{
    struct node *first = NULL, **last = &first;
    while (!jinja_at(p, LEX_BLOCK_END)) {
        if (first) jinja_expect(p, LEX_COMMA, "','");
        *last = jinja_node(p, NODE_OUTPUT, position);
        (*last)->left = jinja_parse_expression(p);
        last = &(*last)->next;
    }
    return first;
}

static struct node *parse_jump(struct parser *p, uint32_t position, bool leaves)
{
    p->j->position = position;
    if (p->loops == 0) jinja_fail(p->j, ST_INVALID, "'%s' outside loop", leaves ? "break" : "continue");
    return jinja_node(p, leaves ? NODE_BREAK : NODE_CONTINUE, position);
}

static struct node *parse_break(struct parser *p, uint32_t position)
{
    return parse_jump(p, position, true);
}

static struct node *parse_continue(struct parser *p, uint32_t position)
{
    return parse_jump(p, position, false);
}

static struct node *parse_statement(struct parser *p)
{
    static const struct {
        const char *tag;
        struct node *(*parse)(struct parser *p, uint32_t position);
    } tags[] = {
        {"if", parse_if},       {"for", parse_for},         {"set", parse_set},
        {"macro", parse_macro}, {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with},   {"block", parse_block},     {"generation", parse_generation},
        {"print", parse_print}, {"break", parse_break},     {"continue", parse_continue},
    };
    const struct lexed *word = jinja_expect(p, LEX_NAME, "a tag's name");
    for (size_t i = 0; i < ARRAY_COUNT(tags); i++)
        if (jinja_string_is(word->value.string, tags[i].tag)) return tags[i].parse(p, word->position);
    p->j->position = word->position;
    jinja_fail(p->j, ST_INVALID, "encountered unknown tag '%.*s'",
               word->value.string->bytes < 60 ? (int)word->value.string->bytes : 60, word->value.string->data);
}

static uint32_t intern_text(struct parser *p, const char *text)
{
    return jinja_intern(p, jinja_string_new(p->j, text, strlen(text), false));
}

void jinja_parse(struct jinja *j, struct template *t)
{
    struct parser p = {.j = j, .t = t};
    p.known = jinja_dict_new(j);
    p.lexed = jinja_lex(j, t, &p.count);
    t->name_loop = intern_text(&p, "loop");
    t->name_caller = intern_text(&p, "caller");
    t->name_kwargs = intern_text(&p, "kwargs");
    t->name_varargs = intern_text(&p, "varargs");
    t->body = parse_until(&p, "");
    jinja_check_unknown(&p, 0);
}
