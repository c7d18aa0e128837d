/* group.c - answers that are chosen among: best_of. The requests of a group run like any others (batched, preempted, waiting
 * for a place); what they give is kept instead of reported, and when the last of them has ended, the best n come as one
 * event each. beam.c grows the answers of a group by beam search.
 *
 *   request ends ──▶ group_leave: its answer becomes a hypothesis ──▶ the last one: n events (step.c), borrowed until the
 *                                                                     next step closes that request, and the group with it
 *
 * Memory is bounded by the answers themselves: tokens, their log-probabilities, text. */
#include "engine/engine_internal.h"
#include <math.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static enum status check(const struct kvasir_engine *engine, const struct kvasir_request *wanted, struct error *error)
{
    uint32_t n = wanted->n ? wanted->n : 1;
    if (wanted->beam_width) return beams_check(engine, wanted, error);
    if (wanted->best_of && (wanted->best_of < n || wanted->best_of > REQUEST_ANSWERS_MAX))
        return error_set(error, ST_INVALID, "best_of is %u: must be n, which is %u, to %u", wanted->best_of, n,
                         REQUEST_ANSWERS_MAX);
    if (wanted->has_length_penalty && !(fabsf(wanted->length_penalty) <= 100))
        return error_set(error, ST_INVALID, "length_penalty is %g: must be -100 to 100",
                         (double)wanted->length_penalty);
    return ST_OK;
}

enum status group_open(const struct kvasir_engine *engine, const struct kvasir_request *wanted, struct group **out,
                       struct error *error)
{
    *out = NULL;
    enum status status = check(engine, wanted, error);
    uint32_t capacity = wanted->beam_width ? wanted->beam_width : wanted->best_of;
    if (status != ST_OK || (!wanted->beam_width && capacity <= 1)) return status;
    struct group *group = mem_zero(1, sizeof *group);
    if (!group) return error_set(error, ST_NOMEM, "not enough memory for a request");
    group->references = 1;
    group->hypotheses = mem_zero(capacity, sizeof *group->hypotheses);
    if (!group->hypotheses || (wanted->beam_width && beams_open(engine->model, wanted, &group->beams) != ST_OK)) {
        group_release(group);
        return error_set(error, ST_NOMEM, "not enough memory for a request");
    }
    group->n = wanted->n ? wanted->n : 1;
    group->capacity = capacity;
    group->length_penalty = wanted->has_length_penalty ? (double)wanted->length_penalty : 1;
    *out = group;
    return ST_OK;
}

void group_join(struct group *group, struct request *request)
{
    request->group = group;
    group->references++;
    group->unended++;
    if (group->beams) beams_join(group->beams, request);
}

void hypothesis_release(struct hypothesis *hypothesis)
{
    mem_free(hypothesis->tokens);
    mem_free(hypothesis->tops);
    buffer_release(&hypothesis->text);
}

void group_release(struct group *group)
{
    if (!group || --group->references) return;
    for (uint32_t i = 0; i < group->count; i++) hypothesis_release(&group->hypotheses[i]);
    mem_free(group->hypotheses);
    beams_close(group->beams);
    mem_free(group);
}

/* ---- while it runs ------------------------------------------------------------------------------------------------- */

enum status group_make_room(struct request *r, uint32_t capacity)
{
    size_t count = capacity - r->prompt_count;
    struct kvasir_token *tokens = mem_resize(r->kept, count * sizeof *tokens);
    if (!tokens) return ST_NOMEM;
    r->kept = tokens;
    if (!r->logprobs) return ST_OK;
    struct kvasir_logprob *tops = mem_resize(r->kept_tops, count * r->logprobs * sizeof *tops);
    if (!tops) return ST_NOMEM;
    r->kept_tops = tops;
    return ST_OK;
}

void group_score(struct request *r, uint32_t id, const float *logits, uint32_t vocabulary)
{
    r->score += (double)logits_logprob(logits[id], logits_log_sum(logits, vocabulary));
    r->scored++;
}

void group_keep(struct request *r, const struct kvasir_token *token, const struct kvasir_logprob *top)
{
    size_t at = r->count - r->prompt_count - 1;
    r->kept[at] = *token;
    if (r->logprobs) memcpy(r->kept_tops + at * r->logprobs, top, token->top_count * sizeof *top);
}

/* ---- the answers --------------------------------------------------------------------------------------------------- */

static bool ended_by_itself(const struct hypothesis *h)
{
    return h->finish == KVASIR_STOP || h->finish == KVASIR_LENGTH;
}

static bool better(const struct hypothesis *a, const struct hypothesis *b)
{
    if (ended_by_itself(a) != ended_by_itself(b)) return ended_by_itself(a);
    return a->score != b->score ? a->score > b->score : a->order < b->order;
}

double group_mean(const struct group *group, double sum, uint32_t tokens)
{
    return tokens ? sum / pow(tokens, group->length_penalty) : -INFINITY;
}

bool group_accepts(const struct group *group, const struct hypothesis *hypothesis)
{
    return group->count < group->capacity || better(hypothesis, &group->hypotheses[group->count - 1]);
}

void group_insert(struct group *group, const struct hypothesis *hypothesis)
{
    if (group->count == group->capacity) hypothesis_release(&group->hypotheses[--group->count]);
    uint32_t at = group->count++;
    for (; at > 0 && better(hypothesis, &group->hypotheses[at - 1]); at--)
        group->hypotheses[at] = group->hypotheses[at - 1];
    group->hypotheses[at] = *hypothesis;
}

static void take_answer(struct group *group, struct request *r)
{
    const struct hypothesis answer = {.score = group_mean(group, r->score, r->scored),
                                      .order = r->index,
                                      .finish = r->finish,
                                      .tokens = r->kept,
                                      .tops = r->kept_tops,
                                      .count = r->count - r->prompt_count,
                                      .text = r->text};
    r->kept = NULL;
    r->kept_tops = NULL;
    buffer_init(&r->text, 0);
    group_insert(group, &answer);
}

bool group_leave(struct request *r)
{
    struct group *group = r->group;
    if (group->beams)
        beam_conclude(r);
    else
        take_answer(group, r);
    group->prompt_done |= r->first_token_s > 0;
    return --group->unended == 0;
}

uint32_t group_event_share(const struct request *r)
{
    return r->group ? (r->group->n + r->group->unended - 1) / r->group->unended : 0;
}

void group_event(const struct request *last, uint32_t place, struct kvasir_event *event)
{
    const struct group *group = last->group;
    const struct hypothesis none = {.finish = last->finish};
    const struct hypothesis *h = place < group->count ? &group->hypotheses[place] : &none;
    for (uint32_t i = 0; i < h->count; i++) h->tokens[i].top = h->tops ? h->tops + (size_t)i * last->logprobs : NULL;
    *event = (struct kvasir_event){.id = last->id,
                                   .index = place,
                                   .tokens = h->tokens,
                                   .token_count = h->count,
                                   .text = h->text.data ? h->text.data : "",
                                   .text_bytes = h->text.length,
                                   .prompt_done = group->prompt_done ? last->prompt_count : 0,
                                   .prompt_count = last->prompt_count,
                                   .finish = h->finish};
}
