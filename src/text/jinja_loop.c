/* jinja_loop.c - the for statement and its `loop`. As in Jinja, items are drawn one at a time, so that a filter sees what the body
 * set before; `loop.last` and `loop.nextitem` draw one ahead, `loop.length` all. */
#include "text/jinja.h"

/* The next item that passes the statement's filter, or ABSENT. */
static struct value draw(struct jinja *j, struct loop *loop)
{
    struct value item;
    while (jinja_next(j, &loop->iterator, &item)) {
        if (!loop->node->right) return item;
        struct frame *test = jinja_frame_new(j, loop->outer);
        jinja_assign(j, loop->node->target, item, test);
        if (jinja_truth(jinja_eval(j, loop->node->right, test))) return item;
    }
    return (struct value){.kind = VALUE_ABSENT};
}

static struct value peek(struct jinja *j, struct loop *loop)
{
    if (!loop->peeked) loop->after = draw(j, loop);
    loop->peeked = true;
    return loop->after;
}

static struct value advance(struct jinja *j, struct loop *loop)
{
    struct value item = peek(j, loop);
    loop->peeked = false;
    return item;
}

static int64_t loop_length(struct jinja *j, struct loop *loop)
{
    if (loop->length >= 0) return loop->length;
    if (!loop->node->right && loop->iterator.source.kind != VALUE_ITERATOR)
        return loop->length = jinja_length(j, loop->iterator.source);
    struct list *rest = jinja_list_new(j, 0);
    for (struct value item = advance(j, loop); item.kind != VALUE_ABSENT; item = advance(j, loop))
        jinja_list_put(j, rest, item);
    struct node *plain = jinja_alloc(j, sizeof *plain); /* what is drawn already is not filtered again */
    *plain = *loop->node;
    plain->right = NULL;
    loop->node = plain;
    jinja_iterate(j, jinja_of_list(rest, VALUE_LIST), &loop->iterator);
    return loop->length = (int64_t)loop->index0 + 1 + rest->count;
}

struct value jinja_loop_attribute(struct jinja *j, struct loop *loop, const struct string *name)
{
    if (jinja_string_is(name, "index0")) return jinja_int(loop->index0);
    if (jinja_string_is(name, "index")) return jinja_int((int64_t)loop->index0 + 1);
    if (jinja_string_is(name, "first")) return jinja_bool(loop->index0 == 0);
    if (jinja_string_is(name, "last")) return jinja_bool(peek(j, loop).kind == VALUE_ABSENT);
    if (jinja_string_is(name, "length")) return jinja_int(loop_length(j, loop));
    if (jinja_string_is(name, "revindex")) return jinja_int(loop_length(j, loop) - loop->index0);
    if (jinja_string_is(name, "revindex0")) return jinja_int(loop_length(j, loop) - loop->index0 - 1);
    if (jinja_string_is(name, "depth")) return jinja_int((int64_t)loop->depth0 + 1);
    if (jinja_string_is(name, "depth0")) return jinja_int(loop->depth0);
    if (jinja_string_is(name, "previtem"))
        return loop->index0 == 0 ? jinja_undefined(j, "there is no previous item") : loop->before;
    if (jinja_string_is(name, "nextitem")) {
        struct value next = peek(j, loop);
        return next.kind == VALUE_ABSENT ? jinja_undefined(j, "there is no next item") : next;
    }
    return (struct value){.kind = VALUE_ABSENT};
}

static struct value loop_cycle(struct jinja *j, struct value self, const struct call *call)
{
    if (call->count == 0) jinja_fail(j, ST_INVALID, "no items for cycling given");
    return call->positional[self.loop->index0 % call->count];
}

static struct value loop_changed(struct jinja *j, struct value self, const struct call *call)
{
    struct list *list = jinja_list_new(j, call->count);
    for (uint32_t i = 0; i < call->count; i++) jinja_list_put(j, list, call->positional[i]);
    struct value now = jinja_of_list(list, VALUE_TUPLE);
    if (jinja_equal(j, self.loop->changed, now)) return jinja_bool(false);
    self.loop->changed = now;
    return jinja_bool(true);
}

const struct builtin jinja_loop_methods[] = {
    {.name = "cycle", .variadic = loop_cycle},
    {.name = "changed", .variadic = loop_changed},
    {.name = NULL},
};

static enum flow run_loop(struct jinja *j, const struct node *node, struct frame *outer, struct value source,
                          uint32_t depth0)
{
    struct loop *loop = jinja_alloc(j, sizeof *loop);
    loop->node = node;
    loop->outer = outer;
    loop->frame = jinja_frame_new(j, outer);
    loop->length = -1;
    loop->depth0 = depth0;
    jinja_iterate(j, source, &loop->iterator);
    bool any = false;
    for (struct value item = advance(j, loop); item.kind != VALUE_ABSENT; item = advance(j, loop)) {
        loop->index0 += any;
        any = true;
        loop->before = loop->current;
        loop->current = item;
        loop->frame->count = 0;
        jinja_frame_set(j, loop->frame, j->template->name_loop, (struct value){.kind = VALUE_LOOP, .loop = loop});
        jinja_assign(j, node->target, item, loop->frame);
        enum flow flow = FLOW_NEXT;
        for (const struct node *s = node->body; s && flow == FLOW_NEXT; s = s->next)
            flow = jinja_run(j, s, loop->frame);
        if (flow == FLOW_BREAK) break;
    }
    if (any) return FLOW_NEXT;
    struct frame *otherwise = jinja_frame_new(j, outer);
    enum flow flow = FLOW_NEXT; /* a break there leaves the loop around this one */
    for (const struct node *s = node->other; s && flow == FLOW_NEXT; s = s->next) flow = jinja_run(j, s, otherwise);
    return flow;
}

struct value jinja_loop_recurse(struct jinja *j, struct loop *loop, struct value source)
{
    struct builder b, *outer = j->output;
    if (!loop->node->flag)
        jinja_fail(j, ST_INVALID, "the loop must have the 'recursive' marker to be called recursively");
    jinja_builder_init(&b, j);
    j->output = &b;
    run_loop(j, loop->node, loop->outer, source, loop->depth0 + 1);
    j->output = outer;
    return jinja_built(&b);
}

enum flow jinja_run_for(struct jinja *j, const struct node *node, struct frame *frame)
{
    return run_loop(j, node, frame, jinja_eval(j, node->left, frame), 0);
}
