/* settle.c - where prompts are multiplied in tiles (kernel.tile_matmul), an answer's rows are not what its tokens would have as
 * part of a prompt: they are the sequence's own (request.own_from), and nobody finds them. What a conversation goes on with is its last
 * answer, so that the next prompt would compute it again. It is done here, while the engine has nothing else to do: answers
 * that have ended are run as prompts, a few tokens a step, and cached. A prompt that comes sooner does it itself. */
#include "engine/engine_internal.h"
#include <string.h>

#define SETTLE_TOKENS 64u /* a step: a request that comes meanwhile waits for no more */

static void forget_first(struct settling *s)
{
    mem_free(s->answers[0].tokens);
    memmove(s->answers, s->answers + 1, --s->count * sizeof *s->answers);
}

void settle_later(struct kvasir_engine *engine, const struct request *r)
{
    struct settling *s = &engine->settling;
    /* Of the last token there is no row yet. */
    const uint32_t count = r->count - 1;
    const bool ended = r->finish == KVASIR_STOP || r->finish == KVASIR_LENGTH;
    if (!request_has_tiles(engine) || !ended || r->sparse_from || r->group || count <= r->prompt_count) return;
    uint32_t *tokens = mem_alloc(count * sizeof *tokens);
    if (!tokens) return; /* it will be computed when it is wanted */
    memcpy(tokens, r->tokens, count * sizeof *tokens);
    if (s->count == SETTLING_MAX) forget_first(s);
    /* Where K closes in groups, the open one's rows are not shared. */
    const uint32_t done = r->prompt_count - r->prompt_count % KERNEL_CLOSED_TOKENS;
    s->answers[s->count++] =
        (struct settling_answer){.tokens = tokens, .count = count, .done = done, .salt = r->cache_salt};
}

void settle_step(struct kvasir_engine *engine)
{
    struct settling *s = &engine->settling;
    if (!s->count) return;
    struct settling_answer *a = &s->answers[0];
    const uint32_t chunk = least(SETTLE_TOKENS, engine->plan.max_batched_tokens);
    const enum status status = sequence_extend(engine, a->tokens, a->count, a->salt, chunk, &a->done);
    /* What does not stay cached, or finds no room, is left to whoever wants it. */
    if (status != ST_OK || a->done == a->count) forget_first(s);
}

void settle_release(struct kvasir_engine *engine)
{
    while (engine->settling.count) forget_first(&engine->settling);
}
