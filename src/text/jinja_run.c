/* jinja_run.c - statements and their scopes. A frame is opened by for, macro, call, filter, with, block and set blocks, not by if;
 * what is set in a frame is not seen outside. */
#include "text/jinja.h"

/* ---- frames ------------------------------------------------------------------------------------------------------------------ */

struct frame *jinja_frame_new(struct jinja *j, struct frame *parent)
{
    struct frame *frame = jinja_alloc(j, sizeof *frame);
    frame->parent = parent;
    return frame;
}

static struct binding *find_binding(const struct frame *frame, uint32_t name)
{
    for (uint32_t i = 0; i < frame->count; i++)
        if (frame->bindings[i].name == name) return &frame->bindings[i];
    return NULL;
}

struct value jinja_frame_get(struct jinja *j, const struct frame *frame, uint32_t name)
{
    for (; frame; frame = frame->parent) {
        const struct binding *binding = find_binding(frame, name);
        if (binding) return binding->value;
        jinja_charge(j, frame->count / 16);
    }
    if (j->globals[name].kind != VALUE_ABSENT) return j->globals[name];
    return jinja_undefined_name(j, NULL, j->template->names[name]);
}

void jinja_frame_set(struct jinja *j, struct frame *frame, uint32_t name, struct value v)
{
    struct binding *binding = find_binding(frame, name);
    jinja_charge(j, frame->count / 16);
    if (binding) {
        binding->value = v;
        return;
    }
    frame->bindings = jinja_grow(j, frame->bindings, frame->count, &frame->capacity, sizeof *frame->bindings);
    frame->bindings[frame->count++] = (struct binding){name, v};
}

static void assign_tuple(struct jinja *j, const struct node *target, struct value v, struct frame *frame)
{
    struct iterator it;
    struct value item;
    uint32_t count = 0;
    if (!jinja_iterable(v)) jinja_fail(j, ST_INVALID, "cannot unpack non-iterable %s object", jinja_type_name(v));
    struct value *items = jinja_array(j, target->count + 1, sizeof *items);
    for (jinja_iterate(j, v, &it); jinja_next(j, &it, &item); count++) {
        if (count == target->count) jinja_fail(j, ST_INVALID, "too many values to unpack (expected %u)", target->count);
        items[count] = item;
    }
    if (count < target->count)
        jinja_fail(j, ST_INVALID, "not enough values to unpack (expected %u, got %u)", target->count, count);
    for (uint32_t i = 0; i < count; i++) jinja_assign(j, target->items[i], items[i], frame);
}

void jinja_assign(struct jinja *j, const struct node *target, struct value v, struct frame *frame)
{
    j->position = target->position;
    if (target->kind == NODE_NAME) {
        jinja_frame_set(j, frame, target->name, v);
    } else if (target->kind == NODE_TUPLE) {
        jinja_enter(j);
        assign_tuple(j, target, v, frame);
        jinja_leave(j);
    } else {
        struct value namespace = jinja_frame_get(j, frame, target->name);
        if (namespace.kind != VALUE_NAMESPACE)
            jinja_fail(j, ST_INVALID, "cannot assign attribute on non-namespace object");
        if (target->constant.string->data[0] == '_')
            jinja_fail(j, ST_INVALID, "a namespace cannot store attributes that begin with '_'");
        jinja_dict_set(j, namespace.dict, target->constant, v);
    }
}

/* ---- statements ---------------------------------------------------------------------------------------------------------------- */

static enum flow run_body(struct jinja *j, const struct node *body, struct frame *frame)
{
    for (; body; body = body->next) {
        enum flow flow = jinja_run(j, body, frame);
        if (flow != FLOW_NEXT) return flow;
    }
    return FLOW_NEXT;
}

struct value jinja_capture(struct jinja *j, const struct node *body, struct frame *frame)
{
    struct builder b, *outer = j->output;
    jinja_builder_init(&b, j);
    j->output = &b;
    run_body(j, body, frame);
    j->output = outer;
    return jinja_built(&b);
}

static enum flow run_if(struct jinja *j, const struct node *node, struct frame *frame)
{
    while (!jinja_truth(jinja_eval(j, node->left, frame))) {
        const struct node *other = node->other; /* an elif is an if alone there */
        if (!other || other->kind != NODE_IF || other->next) return run_body(j, other, frame);
        node = other;
    }
    return run_body(j, node->body, frame);
}

static void run_set_block(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value text = jinja_capture(j, node->body, jinja_frame_new(j, frame));
    if (node->left) text = jinja_filter_node(j, node->left, text, frame);
    jinja_assign(j, node->target, text, frame);
}

static struct value macro_of(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct macro *macro = jinja_alloc(j, sizeof *macro);
    *macro = (struct macro){.signature = node->signature, .body = node->body, .frame = frame};
    return (struct value){.kind = VALUE_MACRO, .macro = macro};
}

static void run_call_block(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct value caller = macro_of(j, node, frame);
    jinja_put_str(j->output, jinja_call_node(j, node->left, frame, &caller));
}

static void run_filter_block(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct frame *inner = jinja_frame_new(j, frame);
    struct value text = jinja_capture(j, node->body, inner);
    jinja_put_str(j->output, jinja_filter_node(j, node->left, text, inner));
}

static enum flow run_with(struct jinja *j, const struct node *node, struct frame *frame)
{
    struct frame *inner = jinja_frame_new(j, frame);
    for (uint32_t i = 0; i + 1 < node->count; i += 2)
        jinja_assign(j, node->items[i], jinja_eval(j, node->items[i + 1], frame), inner);
    return run_body(j, node->body, inner);
}

static enum flow run_statement(struct jinja *j, const struct node *node, struct frame *frame)
{
    switch (node->kind) {
    case NODE_DATA:
        jinja_put_string(j->output, node->constant.string);
        break;
    case NODE_OUTPUT:
        jinja_put_str(j->output, jinja_eval(j, node->left, frame));
        break;
    case NODE_IF:
        return run_if(j, node, frame);
    case NODE_FOR:
        return jinja_run_for(j, node, frame);
    case NODE_SET:
        jinja_assign(j, node->target, jinja_eval(j, node->left, frame), frame);
        break;
    case NODE_SET_BLOCK:
        run_set_block(j, node, frame);
        break;
    case NODE_MACRO:
        jinja_frame_set(j, frame, node->name, macro_of(j, node, frame));
        break;
    case NODE_CALL_BLOCK:
        run_call_block(j, node, frame);
        break;
    case NODE_FILTER_BLOCK:
        run_filter_block(j, node, frame);
        break;
    case NODE_WITH:
        return run_with(j, node, frame);
    case NODE_SCOPE:
        return run_body(j, node->body, jinja_frame_new(j, frame));
    case NODE_BREAK:
        return FLOW_BREAK;
    default:
        ASSERT(node->kind == NODE_CONTINUE);
        return FLOW_CONTINUE;
    }
    return FLOW_NEXT;
}

enum flow jinja_run(struct jinja *j, const struct node *statement, struct frame *frame)
{
    jinja_charge(j, 1);
    jinja_enter(j);
    j->position = statement->position;
    enum flow flow = run_statement(j, statement, frame);
    jinja_leave(j);
    return flow;
}
