/* jinja.h - what the files of the template interpreter share: values, strings that know which of their bytes are the
 * user's, the tree a template is compiled to, and `struct jinja`, the state of one compilation or one rendering.
 *
 * Reference: Jinja 3.1 as transformers sets it up (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls,
 * generation), and Python's own str, repr and operators, which Jinja inherits.
 *
 * Invariants
 * - Values, strings, dicts and frames live in the arena of their compilation or rendering and are never freed singly.
 *   Strings and lists are immutable once another value can see them; namespaces, frames and cyclers are what changes.
 * - Every loop over outside data pays steps (jinja_charge), every allocation too: steps bound time and memory together.
 * - Every recursion passes jinja_enter / jinja_leave.
 * - A failure leaves by longjmp to the one setjmp in template.c. Nothing between owns anything outside the arena, so
 *   nothing leaks; a status from each of some three hundred small operations would hide what they do.
 * - Text is well-formed UTF-8; lengths and indexes that templates see are code points, as in Python. */
#ifndef TEXT_JINJA_H
#define TEXT_JINJA_H
#include "text/text.h"
#include <setjmp.h>
#include <string.h>

struct jinja;

/* ---- values -------------------------------------------------------------------------------------------------------- */

enum value_kind {
    VALUE_ABSENT, /* an argument that was not given, an iterator's end: templates never see it */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_VIEW, /* dict.keys(), .values(), .items() */
    VALUE_RANGE,
    VALUE_ITERATOR, /* what Python gives as a generator: can be read once, has no length */
    VALUE_NAMESPACE,
    VALUE_MACRO,
    VALUE_METHOD,   /* a method bound to its object */
    VALUE_FUNCTION, /* a global: range, dict, namespace, raise_exception … */
    VALUE_LOOP,     /* `loop` of a for statement */
    VALUE_CYCLER,
    VALUE_JOINER,
};

struct string {
    const char *data;
    uint32_t bytes, chars; /* equal: ASCII */
    uint32_t span_count;
    bool markup;                    /* came from `safe` or `escape`: + and % escape what they join to it */
    const struct text_range *spans; /* the user's bytes: ascending, merged */
    /* A string built here has room behind it, which the next + can fill without a copy, so that a template which gathers its
     * output in a variable takes linear time. The
     * fields below are the owner's: how much of that room, and of the array that the spans of such sums share, is in use. */
    struct string *owner;
    const struct text_range *tail_spans;
    uint32_t used, capacity, span_used, span_capacity;
};

struct undefined {
    const char *hint;  /* the message, or NULL: made from the next two */
    const char *owner; /* type of the object that lacks it, NULL for a variable */
    const struct string *name;
};

struct value {
    enum value_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct string *string;
        const struct undefined *undefined;
        struct list *list; /* LIST, TUPLE */
        struct dict *dict; /* DICT, NAMESPACE */
        const struct view *view;
        const struct range *range;
        struct sequence *iterator;
        const struct macro *macro;
        const struct method *method;
        const struct builtin *function;
        struct loop *loop;
        struct cycler *cycler;
        struct joiner *joiner;
    };
};

struct list {
    struct value *items;
    uint32_t count, capacity;
    bool group; /* groupby's tuple: .grouper and .list */
};

struct dict_entry {
    struct value key, value;
    uint64_t hash;
};
struct dict { /* keeps insertion order, as Python's does */
    struct dict_entry *entries;
    uint32_t count, capacity;
    uint32_t *index; /* entry + 1, 0 = free; NULL while the dict is small */
    uint32_t index_size;
};

enum view_kind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };
struct view {
    const struct dict *dict;
    enum view_kind kind;
};
struct range {
    int64_t start, step, count, stop;
};
struct sequence { /* items made ahead, given out once */
    struct list *items;
    uint32_t next;
    const char *type;
};
struct method {
    struct value self;
    const struct builtin *builtin;
};
struct cycler {
    const struct list *items;
    uint32_t next;
};
struct joiner {
    struct value separator;
    bool used;
};

/* A position in anything that can be iterated. */
struct iterator {
    struct value source;
    uint32_t at;   /* items given */
    size_t offset; /* VALUE_STRING: byte of the next character */
};

/* ---- calls --------------------------------------------------------------------------------------------------------- */

struct keyword {
    const struct string *name;
    struct value value;
};
struct call {
    struct value *positional;
    struct keyword *named;
    uint32_t count, named_count;
};

#define BUILTIN_PARAMETERS_MAX 6
/* A filter, a test, a method or a global function. `fixed` gets its arguments bound by the names in `parameters` (absent
 * ones are VALUE_ABSENT); `variadic` gets the call as it was written. `self` is the filtered, tested or owning value. */
struct builtin {
    const char *name;
    struct value (*fixed)(struct jinja *j, struct value self, const struct value *arguments);
    struct value (*variadic)(struct jinja *j, struct value self, const struct call *call);
    const char *parameters; /* "width first blank"; a '/' first: positional only */
    uint32_t required;
    bool mutates; /* the sandbox hides it */
};

/* ---- tree ---------------------------------------------------------------------------------------------------------- */

enum node_kind {
    NODE_CONSTANT,  /* constant */
    NODE_NAME,      /* name */
    NODE_TUPLE,     /* items */
    NODE_LIST,      /* items */
    NODE_DICT,      /* items: key, value, key, value … */
    NODE_ATTRIBUTE, /* left . constant (a string) */
    NODE_ITEM,      /* left [ right ] */
    NODE_SLICE,     /* left [ items[0] : items[1] : items[2] ], NULL where absent */
    NODE_CALL,      /* left ( arguments ) */
    NODE_FILTER,    /* left | builtin ( arguments ); left NULL in a filter or set block: the block's text */
    NODE_TEST,      /* left is builtin ( arguments ) */
    NODE_NOT,       /* left */
    NODE_NEGATE,
    NODE_PLUS,
    NODE_BINARY,  /* left operator right */
    NODE_CONCAT,  /* items joined by ~ */
    NODE_COMPARE, /* items[0] operators[0] items[1] … */
    NODE_AND,     /* left, right */
    NODE_OR,
    NODE_CONDITION, /* right if left else third (NULL: undefined) */

    NODE_DATA,         /* constant */
    NODE_OUTPUT,       /* left */
    NODE_IF,           /* left, body, other */
    NODE_FOR,          /* target in left if right: body, else other; flag: recursive */
    NODE_SET,          /* target = left */
    NODE_SET_BLOCK,    /* target, left: filters or NULL, body */
    NODE_MACRO,        /* signature, body */
    NODE_CALL_BLOCK,   /* left: the call; signature, body: its caller */
    NODE_FILTER_BLOCK, /* left, body */
    NODE_WITH,         /* items: target, value, target, value …; body */
    NODE_SCOPE,        /* body: block, generation */
    NODE_BREAK,
    NODE_CONTINUE,

    NODE_NAMESPACE_TARGET, /* name . constant, as the target of a set */
};

enum operator{
    OPERATOR_ADD,
    OPERATOR_SUB,
    OPERATOR_MUL,
    OPERATOR_DIV,
    OPERATOR_FLOORDIV,
    OPERATOR_MOD,
    OPERATOR_POW,
    OPERATOR_EQ,
    OPERATOR_NE,
    OPERATOR_LT,
    OPERATOR_LE,
    OPERATOR_GT,
    OPERATOR_GE,
    OPERATOR_IN,
    OPERATOR_NOT_IN,
};

struct arguments {
    struct node **positional;
    const struct string **names; /* of `named` */
    struct node **named;
    struct node *star, *star_star; /* *args, **kwargs; NULL */
    uint32_t count, named_count;
};

struct signature {             /* of a macro, or of a call block's caller */
    const struct string *name; /* NULL: caller */
    uint32_t *parameters;      /* names */
    struct node **defaults;    /* NULL where there is none */
    uint32_t count;
    bool uses_caller, uses_kwargs, uses_varargs, explicit_caller;
    struct signature *outer; /* of the function around this one, while parsing */
};

struct node {
    enum node_kind kind;
    enum operator operator; /* NODE_BINARY */
    uint32_t position;      /* byte of the source, for errors */
    uint32_t name;
    uint32_t count; /* items */
    bool flag;
    struct value constant;
    struct node **items;
    uint8_t *operators; /* NODE_COMPARE: count - 1 */
    struct node *left, *right, *third, *target;
    struct node *body, *other; /* first statement of a list chained by next */
    struct node *next;
    const struct arguments *arguments;
    struct signature *signature;
    const struct builtin *builtin; /* NULL: unknown, fails when it is reached */
};

struct template
{
    struct arena arena;
    char *source; /* newlines normalised; positions are bytes of it */
    uint32_t source_bytes;
    const struct node *body;
    const struct string **names; /* interned; a name is an index here */
    uint32_t name_count;
    uint32_t name_caller, name_kwargs, name_varargs, name_loop;
};

/* ---- scopes -------------------------------------------------------------------------------------------------------- */

struct binding {
    uint32_t name;
    struct value value;
};
struct frame { /* variables of one scope; a name that is not here is looked up in the parent, then in the globals */
    struct frame *parent;
    struct binding *bindings;
    uint32_t count, capacity;
};

struct macro {
    const struct signature *signature;
    const struct node *body;
    struct frame *frame; /* where it was defined */
};

struct loop {
    struct iterator iterator;
    const struct node *node; /* the for statement */
    struct frame *frame;     /* its variables, `loop` among them */
    struct frame *outer;
    struct value before, current, after; /* after: ABSENT unless peeked */
    struct value changed;
    bool peeked;
    uint32_t index0, depth0;
    int64_t length; /* -1: not known */
};

/* ---- one compilation or rendering ------------------------------------------------------------------------------------ */

struct jinja {
    struct arena *arena;
    const struct template *template;
    jmp_buf escape;
    struct error *error;
    enum status status;
    bool renders; /* not compiles */
    uint64_t steps, steps_max;
    size_t bytes_max; /* of one string, and of the whole output */
    uint32_t depth, depth_max;
    uint32_t position;      /* of the node being evaluated */
    struct value *globals;  /* by name */
    struct builder *output; /* where statements print */
};

#define JINJA_RANGE_MAX 100000

/* jinja_bounds.c: memory, steps, failure. */
void *jinja_alloc(struct jinja *j, size_t bytes); /* zeroed */
void *jinja_array(struct jinja *j, size_t count, size_t size);
/* Room for one more item in an array of `count`: doubles it in the arena. */
void *jinja_grow(struct jinja *j, void *items, uint32_t count, uint32_t *capacity, size_t size);
void jinja_charge(struct jinja *j, uint64_t steps);
void jinja_enter(struct jinja *j);
void jinja_leave(struct jinja *j);
_Noreturn void jinja_fail(struct jinja *j, enum status status, const char *format, ...) PRINTF_LIKE(3, 4);
/* As jinja_fail, but without "line L, column C: " before the text: raise_exception. */
_Noreturn void jinja_raise(struct jinja *j, const struct string *text);

/* jinja_string.c: strings and what the user wrote of them. */
struct builder { /* appends into the arena; `user` says whose the bytes put next are */
    struct jinja *j;
    char *data;
    size_t bytes, capacity;
    struct text_range *spans;
    uint32_t span_count, span_capacity;
    bool user;
};
void jinja_builder_init(struct builder *b, struct jinja *j);
void jinja_put(struct builder *b, const void *data, size_t bytes);
void jinja_put_text(struct builder *b, const char *text);
void jinja_put_char(struct builder *b, char c, size_t count);
void jinja_put_code_point(struct builder *b, uint32_t code_point);
void jinja_put_string(struct builder *b, const struct string *s);
void jinja_put_part(struct builder *b, const struct string *s, size_t begin, size_t end);
/* Everything from `begin` on is the user's if anything there is. */
void jinja_put_spread(struct builder *b, size_t begin);
struct value jinja_built(struct builder *b);

/* Walks code points. */
struct cursor {
    const struct string *s;
    size_t at;
    uint32_t span;
    uint32_t code_point; /* the one just read */
    size_t begin;        /* its first byte */
    bool user;
};
void jinja_cursor_init(struct cursor *c, const struct string *s);
bool jinja_cursor_next(struct cursor *c);

const struct string *jinja_string_new(struct jinja *j, const char *data, size_t bytes, bool user); /* borrows data */
struct value jinja_text(struct jinja *j, const char *text);                                        /* copies */
const struct string *jinja_string_part(struct jinja *j, const struct string *s, size_t begin, size_t end);
size_t jinja_string_offset(struct jinja *j, const struct string *s, int64_t index); /* byte of a code point */
struct value jinja_string_slice(struct jinja *j, const struct string *s, int64_t start, int64_t step, int64_t count);
const struct string *jinja_string_append(struct jinja *j, const struct string *a, const struct string *b); /* a + b */
const struct string *jinja_string_plain(struct jinja *j, const struct string *s); /* without the mark of Markup */
bool jinja_string_is(const struct string *s, const char *text);
bool jinja_string_equal(const struct string *a, const struct string *b);
int jinja_string_compare(const struct string *a, const struct string *b);
/* First occurrence of `part` in bytes [begin, end), or SIZE_MAX. */
size_t jinja_string_find(struct jinja *j, const struct string *s, const struct string *part, size_t begin, size_t end);
size_t jinja_string_find_last(struct jinja *j, const struct string *s, const struct string *part, size_t begin,
                              size_t end);
const struct string *jinja_string_escape(struct jinja *j, const struct string *s); /* HTML */

/* jinja_unicode.c: Python's classes of characters. */
bool jinja_is_space(uint32_t c);
bool jinja_is_line_end(uint32_t c);
bool jinja_is_alpha(uint32_t c);
bool jinja_is_decimal(uint32_t c);
bool jinja_is_digit(uint32_t c);
bool jinja_is_numeric(uint32_t c);
bool jinja_is_upper(uint32_t c);
bool jinja_is_lower(uint32_t c);
bool jinja_is_cased(uint32_t c);
bool jinja_is_printable(uint32_t c);
bool jinja_is_word(uint32_t c);
/* Full case mapping: up to three code points; their count. */
uint32_t jinja_to_upper(uint32_t c, uint32_t out[3]);
uint32_t jinja_to_lower(uint32_t c, uint32_t out[3]);
uint32_t jinja_to_title(uint32_t c, uint32_t out[3]);
uint32_t jinja_to_folded(uint32_t c, uint32_t out[3]); /* casefold() */

/* jinja_number.c */
#define JINJA_FLOAT_TEXT_BYTES 40
void jinja_float_text(double value, char out[JINJA_FLOAT_TEXT_BYTES]); /* repr() */
bool jinja_parse_int(const struct string *s, int64_t base, int64_t *out, bool *overflow);
bool jinja_parse_float(const struct string *s, double *out);
struct value jinja_arithmetic(struct jinja *j, enum operator operator, struct value a, struct value b);
struct value jinja_negate(struct jinja *j, struct value a);
bool jinja_is_number(struct value v); /* bool, int, float */
double jinja_real(struct value v);    /* of a number */

/* jinja_value.c: making, comparing. */
struct value jinja_undefined(struct jinja *j, const char *hint);
struct value jinja_undefined_name(struct jinja *j, const char *owner, const struct string *name);
_Noreturn void jinja_fail_undefined(struct jinja *j, struct value v);
struct value jinja_none(void);
struct value jinja_bool(bool boolean);
struct value jinja_int(int64_t integer);
struct value jinja_float(double real);
struct value jinja_of_string(const struct string *s);
struct value jinja_of_list(struct list *list, enum value_kind kind);
struct value jinja_of_dict(struct dict *dict);
struct list *jinja_list_new(struct jinja *j, uint32_t capacity);
void jinja_list_put(struct jinja *j, struct list *list, struct value v);
struct value jinja_pair(struct jinja *j, struct value a, struct value b);
struct value jinja_iterator_of(struct jinja *j, struct list *items, const char *type);
const char *jinja_type_name(struct value v); /* Python's */
bool jinja_truth(struct value v);
bool jinja_equal(struct jinja *j, struct value a, struct value b);
bool jinja_ordered(struct jinja *j, enum operator operator, struct value a, struct value b); /* < <= > >= */
bool jinja_contains(struct jinja *j, struct value container, struct value item);
bool jinja_has_length(struct value v);
int64_t jinja_length(struct jinja *j, struct value v);
bool jinja_iterable(struct value v);
void jinja_iterate(struct jinja *j, struct value source, struct iterator *it);
bool jinja_next(struct jinja *j, struct iterator *it, struct value *out);
struct list *jinja_to_list(struct jinja *j, struct value source);
int64_t jinja_to_int(struct jinja *j, struct value v, const char *what); /* an index or count; fails on others */
struct value jinja_from_json(struct jinja *j, const json_t *json, bool user);

/* jinja_dict.c */
struct dict *jinja_dict_new(struct jinja *j);
void jinja_dict_set(struct jinja *j, struct dict *dict, struct value key, struct value value);
const struct value *jinja_dict_get(struct jinja *j, const struct dict *dict, struct value key);
bool jinja_hashable(struct value key);
const struct value *jinja_dict_find(struct jinja *j, const struct dict *dict, const struct string *key);
void jinja_dict_update(struct jinja *j, struct dict *dict, struct value source); /* dict(source) */

/* jinja_print.c: str(), repr() */
void jinja_put_str(struct builder *b, struct value v);
void jinja_put_repr(struct builder *b, struct value v);
const struct string *jinja_to_string(struct jinja *j, struct value v); /* str(); a string is given back as it is */
/* jinja_json.c: json.dumps */
struct value jinja_to_json(struct jinja *j, struct value v, const struct value *arguments);

/* jinja_format.c */
struct value jinja_percent(struct jinja *j, const struct string *format, struct value arguments);
struct value jinja_brace(struct jinja *j, const struct string *format, const struct call *call);

/* jinja_lookup.c: attributes, items, slices, as the sandbox allows them */
struct value jinja_get_attribute(struct jinja *j, struct value object, const struct string *name);
struct value jinja_get_item(struct jinja *j, struct value object, struct value key);
struct value jinja_get_slice(struct jinja *j, struct value object, const struct value bounds[3]);
/* Jinja's make_attrgetter: "a.b.0" or an index. */
struct value jinja_get_path(struct jinja *j, struct value object, struct value path, struct value fallback);

/* jinja_call.c */
struct value jinja_call_value(struct jinja *j, struct value callee, const struct call *call);
struct value jinja_call_builtin(struct jinja *j, const struct builtin *builtin, struct value self,
                                const struct call *call);
const struct builtin *jinja_builtin_find(const struct builtin *table, const struct string *name);
struct value jinja_call_macro(struct jinja *j, const struct macro *macro, const struct call *call);

/* Tables, each ended by a NULL name. */
extern const struct builtin jinja_globals[];        /* jinja_global.c */
extern const struct builtin jinja_string_methods[]; /* jinja_string_method.c */
extern const struct builtin jinja_dict_methods[];   /* jinja_method.c */
extern const struct builtin jinja_list_methods[];
extern const struct builtin jinja_tuple_methods[];
extern const struct builtin jinja_range_methods[];
extern const struct builtin jinja_cycler_methods[];
extern const struct builtin jinja_loop_methods[]; /* jinja_loop.c */
extern const struct builtin jinja_text_filters[]; /* jinja_filter_text.c */
extern const struct builtin jinja_list_filters[]; /* jinja_filter_list.c */
extern const struct builtin jinja_tests[];        /* jinja_test.c */
const struct builtin *jinja_filter_find(const struct string *name);

/* jinja_text_wrap.c */
struct value jinja_word_wrap(struct jinja *j, struct value self, const struct value *arguments);

/* jinja_eval.c, jinja_run.c, jinja_loop.c */
struct value jinja_eval(struct jinja *j, const struct node *node, struct frame *frame);
struct value jinja_filter_node(struct jinja *j, const struct node *node, struct value self, struct frame *frame);
struct value jinja_call_node(struct jinja *j, const struct node *node, struct frame *frame, const struct value *caller);
enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };
enum flow jinja_run(struct jinja *j, const struct node *statement, struct frame *frame);
struct value jinja_capture(struct jinja *j, const struct node *body, struct frame *frame); /* what body prints */
struct frame *jinja_frame_new(struct jinja *j, struct frame *parent);
struct value jinja_frame_get(struct jinja *j, const struct frame *frame, uint32_t name);
void jinja_frame_set(struct jinja *j, struct frame *frame, uint32_t name, struct value v);
void jinja_assign(struct jinja *j, const struct node *target, struct value v, struct frame *frame);
enum flow jinja_run_for(struct jinja *j, const struct node *node, struct frame *frame);
struct value jinja_loop_attribute(struct jinja *j, struct loop *loop, const struct string *name); /* ABSENT: none */
struct value jinja_loop_recurse(struct jinja *j, struct loop *loop, struct value source);

/* jinja_lexer.c, jinja_parser.c */
enum lexeme {
    LEX_DATA,
    LEX_BLOCK_BEGIN,
    LEX_BLOCK_END,
    LEX_PRINT_BEGIN,
    LEX_PRINT_END,
    LEX_NAME,
    LEX_STRING,
    LEX_INT,
    LEX_FLOAT,
    LEX_ADD,
    LEX_SUB,
    LEX_MUL,
    LEX_DIV,
    LEX_FLOORDIV,
    LEX_MOD,
    LEX_POW,
    LEX_TILDE,
    LEX_LBRACKET,
    LEX_RBRACKET,
    LEX_LPAREN,
    LEX_RPAREN,
    LEX_LBRACE,
    LEX_RBRACE,
    LEX_EQ,
    LEX_NE,
    LEX_LT,
    LEX_LE,
    LEX_GT,
    LEX_GE,
    LEX_ASSIGN,
    LEX_DOT,
    LEX_COLON,
    LEX_PIPE,
    LEX_COMMA,
    LEX_SEMICOLON,
    LEX_END,
};
struct lexed {
    enum lexeme lexeme;
    uint32_t position;
    struct value value; /* STRING for DATA, NAME, STRING; INT, FLOAT */
};
struct lexed *jinja_lex(struct jinja *j, const struct template *t, uint32_t *count);
void jinja_parse(struct jinja *j, struct template *t);

#endif
