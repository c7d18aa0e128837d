/* beam.c - beam search: the answers of a group grown together, the beam_width likeliest kept at every token.
 *
 * Semantics are those of Hugging Face transformers' generate(num_beams), do_sample=False (their step, in this file's words):
 *   - every live beam's row gives candidates: its tokens' log-probabilities added to the beam's sum. Ordered by sum, then by the
 *     beam's rank, then by token, so that the result is defined;
 *   - of the best beam_width candidates those that end become hypotheses (sum / (tokens, the end token too)^length_penalty),
 *     of which the beam_width best are kept;
 *   - the best beam_width candidates that do not end are the next live beams;
 *   - it is over when there are beam_width hypotheses and the best live beam, scored as if it ended now, is no better than the
 *     worst of them (early_stopping: whatever the live beams are), or at max_tokens, where every candidate ends.
 *
 * A beam is a request of the scheduler's. When its row has come it is settled, and waits until all live beams of its group
 * are; then the first child of a beam goes on in its place, the others on forks of its sequence, in the requests that have
 * no child. Where there is no room for a fork it waits like any request and finds the prefix in the cache. A settled beam needs
 * nothing but its candidates: if nobody else can run it gives up its place and blocks (scheduler.c), so a group ends
 * however few of its beams fit. */
#include "engine/engine_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static bool samples(const struct kvasir_sampling *s)
{
    return s->temperature != 0 || s->bias_count || (s->repetition_penalty != 0 && s->repetition_penalty != 1) ||
           s->frequency_penalty != 0 || s->presence_penalty != 0;
}

enum status beams_check(const struct kvasir_engine *engine, const struct kvasir_request *wanted, struct error *error)
{
    uint32_t n = wanted->n ? wanted->n : 1;
    if (wanted->beam_width < n || wanted->beam_width > BEAM_WIDTH_MAX)
        return error_set(error, ST_INVALID, "beam_width is %u: must be n, which is %u, to %u", wanted->beam_width, n,
                         BEAM_WIDTH_MAX);
    if (wanted->best_of) return error_set(error, ST_INVALID, "best_of is of samples: leave it 0 with beam_width");
    if (samples(&wanted->sampling))
        return error_set(error, ST_INVALID,
                         "beam search takes the model's own distribution: leave temperature, bias and "
                         "penalties 0 with beam_width");
    if (wanted->stop_count)
        return error_set(error, ST_INVALID, "beam search ends at tokens: give stop_ids rather than stop texts");
    if (engine->plan.kv.one_layer_at_a_time)
        return error_set(error, ST_UNSUPPORTED, "beam search needs the KV cache: open the engine without no_kv_cache");
    return ST_OK;
}

enum status beams_open(const struct kvasir_model *model, const struct kvasir_request *wanted, struct beams **out)
{
    struct beams *beams = *out = mem_zero(1, sizeof *beams);
    if (!beams) return ST_NOMEM;
    beams->width = wanted->beam_width;
    beams->live = 1;
    beams->early_stopping = wanted->early_stopping;
    beams->end_count = request_list_ends(model, wanted, NULL);
    beams->ends = beams->end_count ? mem_alloc(beams->end_count * sizeof *beams->ends) : NULL;
    if (beams->end_count && !beams->ends) return ST_NOMEM;
    if (beams->ends) request_list_ends(model, wanted, beams->ends);
    return ST_OK;
}

void beams_close(struct beams *beams)
{
    if (beams) mem_free(beams->ends);
    mem_free(beams);
}

void beams_join(struct beams *beams, struct request *request)
{
    beams->ranks[request->index] = request;
    request->settled = request->index > 0; /* until it has a parent */
}

/* ---- candidates of one beam ---------------------------------------------------------------------------------------- */

static void forbid(float *row, uint32_t vocabulary, const uint64_t *allowed)
{
    for (uint32_t id = 0; allowed && id < vocabulary; id++)
        if (!(allowed[id / 64] >> id % 64 & 1)) row[id] = -INFINITY;
}

/* Appends the best of the row that are possible. */
static void add_best(const struct beams *beams, struct beam_candidates *out, const float *row, uint32_t vocabulary,
                     double log_sum, bool ends)
{
    struct kvasir_logprob best[BEAM_WIDTH_MAX];
    uint32_t count = logits_top(row, vocabulary, beams->width, best);
    for (uint32_t i = 0; i < count && best[i].logprob > -INFINITY; i++)
        out->items[out->count++] = (struct beam_candidate){
            .id = best[i].id, .logprob = logits_logprob(best[i].logprob, log_sum), .ends = ends};
}

/* The best `width` of the beam that end and the best that do not: the best of all beams are among them. */
void beam_settle(struct request *r, struct sampler *sampler, const uint64_t *allowed, const float *logits)
{
    const struct beams *beams = r->group->beams;
    uint32_t vocabulary = sampler->vocabulary;
    double log_sum = logits_log_sum(logits, vocabulary);
    struct beam_candidates *out = &r->group->beams->candidates[r->index];
    float *row = sampler->logits;
    out->count = 0;
    memcpy(row, logits, vocabulary * sizeof *row);
    forbid(row, vocabulary, allowed);
    for (size_t i = 0; i < beams->end_count; i++) row[beams->ends[i]] = -INFINITY;
    add_best(beams, out, row, vocabulary, log_sum, false);
    for (uint32_t id = 0; id < vocabulary; id++) row[id] = -INFINITY;
    for (size_t i = 0; i < beams->end_count; i++) row[beams->ends[i]] = logits[beams->ends[i]];
    forbid(row, vocabulary, allowed);
    add_best(beams, out, row, vocabulary, log_sum, true);
    struct kvasir_token token = {.id = 0};
    if (r->logprobs) logits_describe(logits, vocabulary, r->logprobs, r->top, &token);
    r->row_tops = token.top_count;
    r->settled = true;
}

/* ---- hypotheses ---------------------------------------------------------------------------------------------------- */

static struct kvasir_token token_of(const struct request *r, const struct beam_candidate *candidate)
{
    return (struct kvasir_token){
        .id = candidate->id, .logprob = r->logprobs ? candidate->logprob : 0, .top_count = r->row_tops};
}

static void put_text(const struct request *r, const struct hypothesis *h, struct buffer *out)
{
    struct detokenizer detokenizer = r->detokenizer; /* nothing was put into it */
    if (!detokenizer.tokenizer) return;
    for (uint32_t i = 0; i < h->count; i++) put_token(&detokenizer, h->tokens[i].id, out);
    detokenizer_finish(&detokenizer, out);
}

/* The beam's tokens, and those of `more` unless it is NULL or ends, as a hypothesis. */
static enum status conclude(struct request *r, const struct beam_candidate *more, enum kvasir_finish finish)
{
    struct group *group = r->group;
    uint32_t count = r->count - r->prompt_count, scored = count + (more != NULL);
    bool failed = false, appended = more && !more->ends;
    size_t row = r->logprobs * sizeof *r->top;
    struct hypothesis h = {.score = group_mean(group, r->score + (more ? (double)more->logprob : 0), scored),
                           .order = group->beams->concluded++,
                           .finish = finish,
                           .count = count + appended};
    if (!group_accepts(group, &h)) return ST_OK;
    buffer_init(&h.text, 0);
    h.tokens = copy_of(r->kept, h.count, sizeof *h.tokens, &failed);
    h.tops = copy_of(r->kept_tops, row ? h.count : 0, row, &failed);
    if (!failed && appended) h.tokens[count] = token_of(r, more);
    if (!failed && appended && row) memcpy(h.tops + (size_t)count * r->logprobs, r->top, row);
    if (!failed) put_text(r, &h, &h.text);
    if (!failed && !h.text.failed) {
        group_insert(group, &h);
        return ST_OK;
    }
    hypothesis_release(&h);
    return ST_NOMEM;
}

/* All requests of the group end; step.c retires them. */
static void end_all(struct group *group, enum kvasir_finish finish)
{
    group->beams->done = true;
    for (uint32_t i = 0; i < group->count && finish == KVASIR_ERROR; i++) group->hypotheses[i].finish = finish;
    for (uint32_t i = 0; i < group->beams->width; i++) group->beams->ranks[i]->finish = finish;
}

void beam_conclude(struct request *r)
{
    struct beams *beams = r->group->beams;
    for (uint32_t i = 0; i < beams->live && !beams->done; i++)
        if (beams->ranks[i] == r)
            beams->done = conclude(r, NULL, r->finish) != ST_OK; /* no memory: empty, as the rest */
}

/* ---- one token on -------------------------------------------------------------------------------------------------- */

struct choice {
    double sum;
    uint32_t rank;
    struct beam_candidate candidate;
};

static int compare(const void *left, const void *right)
{
    const struct choice *a = left, *b = right;
    if (a->sum != b->sum) return a->sum > b->sum ? -1 : 1;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return a->candidate.id < b->candidate.id ? -1 : a->candidate.id > b->candidate.id;
}

static uint32_t list_choices(const struct beams *beams, struct choice *out)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < beams->live; rank++) {
        const struct request *r = beams->ranks[rank];
        const struct beam_candidates *from = &beams->candidates[r->index];
        for (uint32_t i = 0; i < from->count; i++)
            out[count++] = (struct choice){r->score + (double)from->items[i].logprob, rank, from->items[i]};
    }
    qsort(out, count, sizeof *out, compare);
    return count;
}

/* Candidates that end, and beams for which no token is allowed. */
static enum status conclude_some(struct group *group, const struct choice *choices, uint32_t count, bool last)
{
    const struct beams *beams = group->beams;
    enum status status = ST_OK;
    for (uint32_t rank = 0; rank < beams->live && status == ST_OK; rank++)
        if (!beams->candidates[beams->ranks[rank]->index].count)
            status = conclude(beams->ranks[rank], NULL, constraint_finish(&beams->ranks[rank]->constraint));
    for (uint32_t i = 0; i < count && i < beams->width && status == ST_OK; i++) {
        const struct beam_candidate *candidate = &choices[i].candidate;
        if (!candidate->ends && !last) continue;
        status = conclude(beams->ranks[choices[i].rank], candidate, candidate->ends ? KVASIR_STOP : KVASIR_LENGTH);
    }
    return status;
}

/* The first `width` that go on, to the front; returns how many. */
static uint32_t keep_going(const struct beams *beams, struct choice *choices, uint32_t count)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count && kept < beams->width; i++)
        if (!choices[i].candidate.ends) choices[kept++] = choices[i];
    return kept;
}

/* Whether the best live beam could still become one of the answers. */
static bool may_improve(const struct group *group, const struct choice *best, uint32_t tokens)
{
    if (group->count < group->capacity) return true;
    if (group->beams->early_stopping) return false;
    return group_mean(group, best->sum, tokens) > group->hypotheses[group->capacity - 1].score;
}

/* `r` becomes a beam with the tokens of `parent`, which has not gone on yet. */
static enum status copy_answer(struct request *r, const struct request *parent)
{
    size_t count = parent->count - parent->prompt_count;
    if (request_resize(r, parent->capacity) != ST_OK) return ST_NOMEM;
    r->count = parent->count;
    memcpy(r->tokens + r->prompt_count, parent->tokens + parent->prompt_count, count * sizeof *r->tokens);
    if (count) memcpy(r->kept, parent->kept, count * sizeof *r->kept);
    if (r->logprobs) {
        if (count) memcpy(r->kept_tops, parent->kept_tops, count * r->logprobs * sizeof *r->top);
        memcpy(r->top, parent->top, r->logprobs * sizeof *r->top);
        r->row_tops = parent->row_tops;
    }
    r->constraint.place = parent->constraint.place;
    r->score = parent->score;
    r->first_token_s = parent->first_token_s;
    r->last_token_s = parent->last_token_s;
    return ST_OK;
}

static void append(struct request *r, const struct beam_candidate *candidate)
{
    const struct kvasir_token token = token_of(r, candidate);
    r->tokens[r->count++] = candidate->id;
    group_keep(r, &token, r->top);
    r->score += (double)candidate->logprob;
    r->settled = false;
}

/* next[i]: the request of the i-th beam. Those without a child come behind, and give up their sequences. */
static void assign(const struct beams *beams, struct scheduler *scheduler, const struct choice *choices, uint32_t count,
                   struct request **next)
{
    bool kept[BEAM_WIDTH_MAX] = {false};
    uint32_t idle = count, child = 0;
    for (uint32_t i = 0; i < count; i++) {
        next[i] = kept[choices[i].rank] ? NULL : beams->ranks[choices[i].rank];
        kept[choices[i].rank] = true;
    }
    for (uint32_t rank = 0; rank < beams->width; rank++) {
        if (kept[rank]) continue;
        struct request *free = beams->ranks[rank];
        scheduler_park(scheduler, free);
        free->settled = true;
        while (child < count && next[child]) child++;
        next[child < count ? child : idle++] = free;
    }
}

static enum status go_on(struct beams *beams, struct scheduler *scheduler, const struct choice *choices, uint32_t count)
{
    struct request *next[BEAM_WIDTH_MAX];
    assign(beams, scheduler, choices, count, next);
    for (uint32_t i = 0; i < count; i++) {
        struct request *r = next[i], *parent = beams->ranks[choices[i].rank];
        if (r == parent) continue;
        if (copy_answer(r, parent) != ST_OK) return ST_NOMEM;
        if (parent->running) scheduler_fork(scheduler, parent, r); /* else, and without room, it waits */
    }
    for (uint32_t i = 0; i < count; i++) append(next[i], &choices[i].candidate);
    memcpy(beams->ranks, next, beams->width * sizeof(struct request *));
    beams->live = count;
    return ST_OK;
}

bool beams_settled(const struct group *group)
{
    const struct beams *beams = group->beams;
    for (uint32_t i = 0; beams && i < beams->live; i++)
        if (!beams->ranks[i]->settled) return false;
    return beams && !beams->done;
}

enum status beams_advance(struct group *group, struct scheduler *scheduler)
{
    struct choice choices[2 * BEAM_WIDTH_MAX * BEAM_WIDTH_MAX];
    struct beams *beams = group->beams;
    const struct request *first = beams->ranks[0];
    uint32_t tokens = first->count + 1 - first->prompt_count, count = list_choices(beams, choices);
    bool last = first->count + 1 == first->count_max;
    enum status status = conclude_some(group, choices, count, last);
    count = keep_going(beams, choices, count);
    bool over = !count || last || !may_improve(group, choices, tokens);
    if (status == ST_OK && !over) status = go_on(beams, scheduler, choices, count);
    if (status != ST_OK)
        end_all(group, KVASIR_ERROR);
    else if (over)
        end_all(group, KVASIR_STOP);
    return status;
}
