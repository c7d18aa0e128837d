/* jinja_eval.c - the value of an expression. */
#include "text/jinja.h"

static struct value eval_list(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct list *list = jinja_list_new(j, node->count);
    for (uint32_t i = 0; i < node->count; i++) jinja_list_put(j, list, jinja_eval(j, node->items[i], frame));
    return jinja_of_list(list, node->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE);
}

static struct value eval_dict(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct dict *dict = jinja_dict_new(j);
    for (uint32_t i = 0; i + 1 < node->count; i += 2) {
        struct value key = jinja_eval(j, node->items[i], frame);
        jinja_dict_set(j, dict, key, jinja_eval(j, node->items[i + 1], frame));
    }
    return jinja_of_dict(dict);
}

static struct value eval_slice(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value object = jinja_eval(j, node->left, frame), bounds[3];
    for (int i = 0; i < 3; i++)
        bounds[i] = node->items[i] ? jinja_eval(j, node->items[i], frame) : (struct value){.kind = VALUE_ABSENT};
    return jinja_get_slice(j, object, bounds);
}

static struct value eval_concat(struct jinja *j, const struct node *node, struct frame *frame)
{
    const struct string *text = jinja_to_string(j, jinja_eval(j, node->items[0], frame));
    for (uint32_t i = 1; i < node->count; i++)
        text = jinja_string_append(j, text, jinja_to_string(j, jinja_eval(j, node->items[i], frame)));
    return jinja_of_string(jinja_string_plain(j, text));
}

static bool compare(struct jinja *j, enum operator operator, struct value a, struct value b)
{
    switch (operator) {
    case OPERATOR_EQ:
        return jinja_equal(j, a, b);
    case OPERATOR_NE:
        return !jinja_equal(j, a, b);
    case OPERATOR_IN:
        return jinja_contains(j, b, a);
    case OPERATOR_NOT_IN:
        return !jinja_contains(j, b, a);
    default:
        return jinja_ordered(j, operator, a, b);
    }
}

static struct value eval_compare(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value left = jinja_eval(j, node->items[0], frame);
    for (uint32_t i = 1; i < node->count; i++) {
        struct value right = jinja_eval(j, node->items[i], frame);
        j->position = node->position;
        if (!compare(j, node->operators[i - 1], left, right)) return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct value eval_condition(struct jinja *j, const struct node *node, struct frame *frame)
{
    if (jinja_truth(jinja_eval(j, node->left, frame))) return jinja_eval(j, node->right, frame);
    if (node->third) return jinja_eval(j, node->third, frame);
    return jinja_undefined(j, "the inline if-expression evaluated to false and no else section was defined");
}

/* ---- calls ------------------------------------------------------------------------------------------------------------------ */

static void put_keyword(struct jinja *j, struct call *call, uint32_t *capacity, const struct string *name,
                        struct value v)
{
    for (uint32_t i = 0; i < call->named_count; i++)
        if (jinja_string_equal(call->named[i].name, name))
            jinja_fail(j, ST_INVALID, "a keyword argument is given twice");
    jinja_charge(j, 1 + call->named_count / 4);
    call->named = jinja_grow(j, call->named, call->named_count, capacity, sizeof *call->named);
    call->named[call->named_count++] = (struct keyword){name, v};
}

static void put_star_star(struct jinja *j, struct call *call, uint32_t *capacity, struct value v)
{
    if (v.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, v);
    if (v.kind != VALUE_DICT)
        jinja_fail(j, ST_INVALID, "the argument after ** must be a mapping, not %s", jinja_type_name(v));
    for (uint32_t i = 0; i < v.dict->count; i++) {
        if (v.dict->entries[i].key.kind != VALUE_STRING) jinja_fail(j, ST_INVALID, "keywords must be strings");
        put_keyword(j, call, capacity, v.dict->entries[i].key.string, v.dict->entries[i].value);
    }
}

static struct call eval_arguments(struct jinja *j, const struct arguments *a, struct frame *frame,
                                  const struct value *caller)
{
    static const struct string name_caller = {.data = "caller", .bytes = 6, .chars = 6};
    struct call call = {0};
    uint32_t capacity = 0, named_capacity = 0;
    struct iterator it;
    struct value item;
    for (uint32_t i = 0; a && i < a->count; i++) {
        call.positional = jinja_grow(j, call.positional, call.count, &capacity, sizeof *call.positional);
        call.positional[call.count++] = jinja_eval(j, a->positional[i], frame);
    }
    if (a && a->star) {
        for (jinja_iterate(j, jinja_eval(j, a->star, frame), &it); jinja_next(j, &it, &item);) {
            call.positional = jinja_grow(j, call.positional, call.count, &capacity, sizeof *call.positional);
            call.positional[call.count++] = item;
        }
    }
    for (uint32_t i = 0; a && i < a->named_count; i++)
        put_keyword(j, &call, &named_capacity, a->names[i], jinja_eval(j, a->named[i], frame));
    if (caller) put_keyword(j, &call, &named_capacity, &name_caller, *caller);
    if (a && a->star_star) put_star_star(j, &call, &named_capacity, jinja_eval(j, a->star_star, frame));
    return call;
}

struct value jinja_call_node(struct jinja *j, const struct node *node, struct frame *frame, const struct value *caller)
{
    struct value callee = jinja_eval(j, node->left, frame);
    struct call call = eval_arguments(j, node->arguments, frame, caller);
    j->position = node->position;
    return jinja_call_value(j, callee, &call);
}

struct value jinja_filter_node(struct jinja *j, const struct node *node, struct value self, struct frame *frame)
{
    if (node->left) {
        jinja_enter(j);
        bool chained = node->left->kind == NODE_FILTER;
        self = chained ? jinja_filter_node(j, node->left, self, frame) : jinja_eval(j, node->left, frame);
        jinja_leave(j);
    }
    jinja_charge(j, 1);
    if (!node->builtin) {
        j->position = node->position;
        jinja_fail(j, ST_INVALID, "no filter named '%.100s'", node->constant.string->data);
    }
    struct call call = eval_arguments(j, node->arguments, frame, NULL);
    j->position = node->position;
    return jinja_call_builtin(j, node->builtin, self, &call);
}

static struct value eval_test(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value self = jinja_eval(j, node->left, frame);
    struct call call = eval_arguments(j, node->arguments, frame, NULL);
    j->position = node->position;
    if (!node->builtin) jinja_fail(j, ST_INVALID, "no test named '%.100s'", node->constant.string->data);
    return jinja_call_builtin(j, node->builtin, self, &call);
}

/* ---- all -------------------------------------------------------------------------------------------------------------------- */

static struct value eval_plus(struct jinja *j, struct value v)
{
    if (v.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, v);
    if (!jinja_is_number(v)) jinja_fail(j, ST_INVALID, "bad operand type for unary +: '%s'", jinja_type_name(v));
    return v.kind == VALUE_BOOL ? jinja_int(v.boolean) : v;
}

static struct value eval_binary(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value left = jinja_eval(j, node->left, frame), right = jinja_eval(j, node->right, frame);
    j->position = node->position;
    return jinja_arithmetic(j, node->operator, left, right);
}

static struct value eval_lookup(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value object = jinja_eval(j, node->left, frame);
    if (node->kind == NODE_ATTRIBUTE) {
        j->position = node->position;
        return jinja_get_attribute(j, object, node->constant.string);
    }
    struct value key = jinja_eval(j, node->right, frame);
    j->position = node->position;
    return jinja_get_item(j, object, key);
}

static struct value eval_node(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value left;
    switch (node->kind) {
    case NODE_CONSTANT:
        return node->constant;
    case NODE_NAME:
        return jinja_frame_get(j, frame, node->name);
    case NODE_TUPLE:
    case NODE_LIST:
        return eval_list(j, node, frame);
    case NODE_DICT:
        return eval_dict(j, node, frame);
    case NODE_ATTRIBUTE:
    case NODE_ITEM:
        return eval_lookup(j, node, frame);
    case NODE_SLICE:
        return eval_slice(j, node, frame);
    case NODE_CALL:
        return jinja_call_node(j, node, frame, NULL);
    case NODE_FILTER:
        return jinja_filter_node(j, node, jinja_none(), frame);
    case NODE_TEST:
        return eval_test(j, node, frame);
    case NODE_NOT:
        return jinja_bool(!jinja_truth(jinja_eval(j, node->left, frame)));
    case NODE_NEGATE:
        return jinja_negate(j, jinja_eval(j, node->left, frame));
    case NODE_PLUS:
        return eval_plus(j, jinja_eval(j, node->left, frame));
    case NODE_BINARY:
        return eval_binary(j, node, frame);
    case NODE_CONCAT:
        return eval_concat(j, node, frame);
    case NODE_COMPARE:
        return eval_compare(j, node, frame);
    case NODE_AND:
        left = jinja_eval(j, node->left, frame);
        return jinja_truth(left) ? jinja_eval(j, node->right, frame) : left;
    case NODE_OR:
        left = jinja_eval(j, node->left, frame);
        return jinja_truth(left) ? left : jinja_eval(j, node->right, frame);
    default:
        ASSERT(node->kind == NODE_CONDITION);
        return eval_condition(j, node, frame);
    }
}

struct value jinja_eval(struct jinja *j, const struct node *node, struct frame *frame)
{
    jinja_charge(j, 1);
    if (node->kind == NODE_CONSTANT) return node->constant;
    jinja_enter(j);
    j->position = node->position;
    struct value v = eval_node(j, node, frame);
    jinja_leave(j);
    return v;
}
