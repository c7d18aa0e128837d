/* settle.c - where prompts are multiplied in tiles (kernel.tile_matmul), an answer's rows are not what its tokens would have as
 * part of a prompt: they are the sequence's own (request.own_from), and nobody finds them. What a conversation goes on with is
 * its last answer, so that the next prompt would compute it again. It is done here, while no request runs: answers that have
 * ended are run as prompts, a few tokens a step, and cached (by the asynchronous engine half a second later, so that who comes
 * at once need not wait). One that a waiting prompt goes on with comes first, before that is begun; beside other requests, a
 * prompt computes it itself. */
#include "engine/engine_internal.h"
#include <string.h>

#define SETTLE_TOKENS 64u /* a step: a request that comes meanwhile waits for no more */

static void forget(struct settling *s, uint32_t index)
{
    mem_free(s->answers[index].tokens);
    memmove(s->answers + index, s->answers + index + 1, (--s->count - index) * sizeof *s->answers);
}

void settle_later(struct kvasir_engine *engine, const struct request *r)
{
    struct settling *s = &engine->settling;
    /* Of the last token there is no row yet. */
    const uint32_t count = r->count - 1;
    const bool ended = r->finish == KVASIR_STOP || r->finish == KVASIR_LENGTH;
    if (!r->own_from || !ended || r->sparse_from || r->group || count <= r->prompt_count) return;
    uint32_t *tokens = mem_alloc(count * sizeof *tokens);
    if (!tokens) return; /* it will be computed when it is wanted */
    memcpy(tokens, r->tokens, count * sizeof *tokens);
    if (s->count == SETTLING_MAX) forget(s, 0);
    /* Where K closes in groups, the open one's rows are not shared. */
    const uint32_t done = r->prompt_count - r->prompt_count % KERNEL_CLOSED_TOKENS;
    s->answers[s->count++] =
        (struct settling_answer){.tokens = tokens, .count = count, .done = done, .salt = r->cache_salt};
}

static bool is_wanted(const struct scheduler *scheduler, const struct settling_answer *a)
{
    for (uint32_t i = 0; i < scheduler->waiting_count; i++) {
        const struct request *r = scheduler->waiting[i];
        if (r->cache_salt == a->salt && r->count > a->count &&
            !memcmp(r->tokens, a->tokens, a->count * sizeof *a->tokens))
            return true;
    }
    return false;
}

/* The answer to go on with: one that is waited for, or, where nobody waits, the oldest; or none. */
static uint32_t choose(const struct kvasir_engine *engine)
{
    const struct settling *s = &engine->settling;
    if (!engine->scheduler.waiting_count) return 0;
    uint32_t index = 0;
    while (index < s->count && !is_wanted(&engine->scheduler, &s->answers[index])) index++;
    return index;
}

bool settle_step(struct kvasir_engine *engine)
{
    struct settling *s = &engine->settling;
    if (!s->count || engine->scheduler.running_count) return false;
    const uint32_t index = choose(engine), most = engine->plan.max_batched_tokens;
    if (index == s->count) return false;
    struct settling_answer *a = &s->answers[index];
    const uint32_t chunk = engine->scheduler.waiting_count ? most : least(SETTLE_TOKENS, most);
    const enum status status = sequence_extend(engine, a->tokens, a->count, a->salt, chunk, &a->done);
    /* What does not stay cached, or finds no room, is left to whoever wants it. */
    if (status != ST_OK || a->done == a->count) forget(s, index);
    return true;
}

bool settle_idle(const struct kvasir_engine *engine)
{
    return engine->settling.count && !scheduler_count(&engine->scheduler);
}

void settle_release(struct kvasir_engine *engine)
{
    while (engine->settling.count) forget(&engine->settling, 0);
}
