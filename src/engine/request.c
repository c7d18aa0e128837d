/* request.c - one request: checked and copied when submitted, then fed one row of logits a token until it ends; with
 * prompt_logprobs also one for every prompt token, in order, each once.
 *
 * It ends with "stop" at an end token (unless ignore_eos), a stop token, a stop text, where its grammar is complete, or where no
 * token is allowed; with "length" at max_tokens, when the context is full, or where no token would go on in its grammar. The end or stop token itself is neither in the tokens nor in the text; tokens that spell a
 * stop text are in the tokens. Text comes in whole characters, and what could become a stop text waits, so text may lag
 * behind tokens. This file knows nothing of batches. */
#include "engine/engine_internal.h"
#include <string.h>

#define LOGPROBS_MAX 128u
#define STOP_IDS_MAX 1024u

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static enum status check_ids(const uint32_t *ids, size_t count, uint32_t vocabulary, const char *what,
                             struct error *error)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= vocabulary)
            return error_set(error, ST_INVALID, "%s %zu is token %u: the vocabulary ends at %u", what, i, ids[i],
                             vocabulary - 1);
    return ST_OK;
}

static enum status check(const struct kvasir_engine *engine, const struct kvasir_request *wanted, struct error *error)
{
    uint32_t vocabulary = model_config(engine->model->model)->vocabulary, context = engine->plan.context;
    if (!wanted->prompt_count || !wanted->prompt) return error_set(error, ST_INVALID, "the prompt has no tokens");
    if (wanted->prompt_count >= context)
        return error_set(error, ST_LIMIT,
                         "the prompt has %zu tokens: the context of %u leaves room for at most %u and an answer",
                         wanted->prompt_count, context, context - 1);
    if (wanted->logprobs > LOGPROBS_MAX)
        return error_set(error, ST_INVALID, "logprobs is %u: must be 0 to %u", wanted->logprobs, LOGPROBS_MAX);
    if (wanted->prompt_logprobs > LOGPROBS_MAX)
        return error_set(error, ST_INVALID, "prompt_logprobs is %u: must be 0 to %u", wanted->prompt_logprobs,
                         LOGPROBS_MAX);
    if (wanted->max_tokens && wanted->min_tokens > wanted->max_tokens)
        return error_set(error, ST_INVALID, "min_tokens is %u: must be 0 to max_tokens, which is %u",
                         wanted->min_tokens, wanted->max_tokens);
    if (wanted->stop_id_count > STOP_IDS_MAX)
        return error_set(error, ST_INVALID, "%zu stop tokens: at most %u", wanted->stop_id_count, STOP_IDS_MAX);
    if (wanted->stop_count && !engine->model->tokenizer)
        return error_set(error, ST_UNSUPPORTED, "stop texts need a tokenizer: %s", engine->model->tokenizer_error.text);
    enum status status = check_ids(wanted->prompt, wanted->prompt_count, vocabulary, "prompt token", error);
    if (status == ST_OK) status = check_ids(wanted->stop_ids, wanted->stop_id_count, vocabulary, "stop token", error);
    if (status == ST_OK) status = embedding_check(wanted, error);
    if (status == ST_OK) status = retrieval_check_request(&engine->plan, wanted, error);
    if (status == ST_OK) status = sampling_check(&wanted->sampling, vocabulary, error);
    return status;
}

/* A seed for a request that has none: different each time, not secret. */
static uint64_t fresh_seed(const struct request *request)
{
    struct random random;
    random_seed(&random, (uint64_t)(clock_seconds() * 1e9) ^ (uint64_t)(uintptr_t)request * 0x9e3779b97f4a7c15u);
    return random_next(&random);
}

void *copy_of(const void *source, size_t count, size_t size, bool *failed)
{
    if (!count) return NULL;
    void *copy = mem_alloc(count * size);
    if (copy)
        memcpy(copy, source, count * size);
    else
        *failed = true;
    return copy;
}

size_t request_list_ends(const struct kvasir_model *model, const struct kvasir_request *wanted, uint32_t *out)
{
    size_t count = 0;
    for (size_t i = 0; i < wanted->stop_id_count; i++, count++)
        if (out) out[count] = wanted->stop_ids[i];
    for (uint32_t id = 0; id < model_config(model->model)->vocabulary && !wanted->ignore_eos; id++) {
        if (!model_token_ends(model, id)) continue;
        if (out) out[count] = id;
        count++;
    }
    return count;
}

static enum status open_grammar(const struct kvasir_model *model, enum kvasir_structure structure, const char *text,
                                size_t bytes, struct grammar **out, struct error *error)
{
    *out = NULL;
    if (structure == KVASIR_ANY_TEXT) return ST_OK;
    if (structure < KVASIR_ANY_TEXT || structure > KVASIR_JSON_CALLS)
        return error_set(error, ST_INVALID, "there is no structure %d", (int)structure);
    if (!model->tokenizer)
        return error_set(error, ST_UNSUPPORTED, "a structure needs a tokenizer: %s", model->tokenizer_error.text);
    return grammar_open(model->grammars, (enum grammar_kind)structure, text ? text : "", text ? bytes : 0, out, error);
}

int kvasir_structure_check(struct kvasir_model *model, enum kvasir_structure structure, const char *text, size_t bytes,
                           struct kvasir_error *error)
{
    struct grammar *grammar;
    enum status status = open_grammar(model, structure, text, bytes, &grammar, private_error(error));
    if (status == ST_OK) grammar_close(grammar);
    return (int)status;
}

static enum status constrain(struct request *r, const struct kvasir_request *wanted, struct error *error)
{
    enum kvasir_structure structure = wanted->pooling ? KVASIR_ANY_TEXT : wanted->structure;
    bool ends_matter = wanted->min_tokens || structure;
    size_t count = ends_matter ? request_list_ends(r->model, wanted, NULL) : 0;
    uint32_t *ends = count ? mem_alloc(count * sizeof *ends) : NULL;
    if (count && !ends) return error_set(error, ST_NOMEM, "not enough memory for a request");
    if (count) request_list_ends(r->model, wanted, ends);
    struct grammar *grammar;
    enum status status =
        open_grammar(r->model, structure, wanted->structure_text, wanted->structure_bytes, &grammar, error);
    if (status == ST_OK)
        status = constraint_init(&r->constraint, &wanted->sampling, model_config(r->model->model)->vocabulary, ends,
                                 count, wanted->min_tokens, grammar, error);
    mem_free(ends);
    return status;
}

static void copy_all(struct request *r, const struct kvasir_request *wanted, bool *failed)
{
    r->prompt_count = r->count = r->capacity = (uint32_t)wanted->prompt_count;
    r->tokens = copy_of(wanted->prompt, wanted->prompt_count, sizeof *r->tokens, failed);
    r->bias = copy_of(wanted->sampling.bias, wanted->sampling.bias_count, sizeof *r->bias, failed);
    r->stop_ids = copy_of(wanted->stop_ids, wanted->stop_id_count, sizeof *r->stop_ids, failed);
    r->stop_id_count = wanted->stop_id_count;
    r->logprobs = wanted->logprobs;
    if (r->logprobs && !(r->top = mem_alloc((1 + DRAFT_TOKENS_MAX) * r->logprobs * sizeof *r->top))) *failed = true;
    r->prompt_logprobs = r->index ? 0 : wanted->prompt_logprobs; /* of one answer: the others share the prompt */
    if (r->prompt_logprobs) {
        r->prompt_tokens = mem_alloc(PROMPT_ROWS_MAX * sizeof *r->prompt_tokens);
        r->prompt_top = mem_alloc(PROMPT_ROWS_MAX * r->prompt_logprobs * sizeof *r->prompt_top);
        if (!r->prompt_tokens || !r->prompt_top) *failed = true;
    }
    if (embedding_init(&r->embedding, wanted, model_config(r->model->model)->embedding) != ST_OK) *failed = true;
    r->sampling = wanted->sampling;
    r->sampling.bias = r->bias;
    r->sampling.allowed_ids = NULL; /* these two are the constraint's */
    r->sampling.bad_words = NULL;
    r->min_tokens = wanted->min_tokens;
    r->ignore_eos = wanted->ignore_eos;
    r->cache_salt = wanted->cache_salt;
    r->priority = wanted->priority;
    r->tenant_id = wanted->tenant;
}

static enum status open_answer(const struct kvasir_engine *engine, const struct kvasir_request *wanted, uint32_t index,
                               struct request **out, struct error *error)
{
    enum status status;
    struct request *r = mem_zero(1, sizeof *r);
    if (!r) return error_set(error, ST_NOMEM, "not enough memory for a request");
    bool failed = false;
    r->model = engine->model;
    r->index = index;
    copy_all(r, wanted, &failed);
    status = failed ? error_set(error, ST_NOMEM, "not enough memory for a request")
                    : stopper_init(&r->stopper, wanted->stop, wanted->stop_count, error);
    r->stopper.include = wanted->include_stop;
    if (status == ST_OK) status = constrain(r, wanted, error);
    if (status != ST_OK) {
        request_close(r);
        return status;
    }
    uint32_t room = engine->plan.context - r->prompt_count;
    r->count_max = r->prompt_count + (wanted->max_tokens && wanted->max_tokens < room ? wanted->max_tokens : room);
    if (wanted->pooling) r->count_max = r->prompt_count; /* no room is kept for an answer */
    retrieval_prepare(&engine->plan, wanted, r);
    /* Who shares prompts' rows must get the same bits. */
    const bool tiles = engine->plan.kv.share_prefixes && model_has_tiles(engine->model->model);
    r->own_from = tiles ? r->prompt_count : r->sparse_from;
    random_seed(&r->random, wanted->sampling.has_seed ? wanted->sampling.seed + index : fresh_seed(r));
    draft_init(&r->draft);
    if (engine->model->tokenizer) detokenizer_init(&r->detokenizer, engine->model->tokenizer, wanted->show_control);
    r->submitted_s = clock_seconds();
    *out = r;
    return ST_OK;
}

enum status request_open(const struct kvasir_engine *engine, const struct kvasir_request *wanted, struct request **out,
                         struct error *error)
{
    *out = NULL;
    uint32_t n = wanted->n ? wanted->n : 1;
    enum status status = check(engine, wanted, error);
    if (status == ST_OK && n > REQUEST_ANSWERS_MAX)
        status = error_set(error, ST_INVALID, "n is %u: must be 1 to %u", n, REQUEST_ANSWERS_MAX);
    struct request *leader = NULL, **end = &leader;
    struct group *group = NULL;
    if (status == ST_OK) status = group_open(engine, wanted, &group, error);
    if (group) n = group->capacity;
    for (uint32_t i = 0; i < n && status == ST_OK; i++) {
        status = open_answer(engine, wanted, i, end, error);
        if (status != ST_OK) break;
        if (group) group_join(group, *end);
        bool follows = i && !(group && group->beams); /* a beam waits for its parent instead */
        if (follows) (*end)->leader = leader;
        leader->followers += follows;
        end = &(*end)->next_answer;
    }
    group_release(group); /* it is the requests' now */
    *out = leader;
    if (status == ST_OK) return ST_OK;
    request_close_all(*out);
    *out = NULL;
    return status;
}

void request_close_all(struct request *leader)
{
    for (struct request *r = leader, *next; r; r = next) {
        next = r->next_answer;
        request_close(r);
    }
}

void request_close(struct request *request)
{
    if (!request) return;
    mem_free(request->tokens);
    mem_free(request->bias);
    mem_free(request->stop_ids);
    mem_free(request->top);
    mem_free(request->prompt_tokens);
    mem_free(request->prompt_top);
    embedding_release(&request->embedding);
    constraint_release(&request->constraint);
    stopper_release(&request->stopper);
    buffer_release(&request->piece);
    buffer_release(&request->text);
    mem_free(request->kept);
    mem_free(request->kept_tops);
    group_release(request->group);
    mem_free(request);
}

enum status request_make_room(struct request *request, uint32_t more)
{
    if (request->count + more <= request->capacity) return ST_OK;
    return request_resize(request, request->capacity < 64 ? 128 : request->capacity * 2); /* more is small */
}

enum status request_resize(struct request *request, uint32_t capacity)
{
    if (request->group && group_make_room(request, capacity) != ST_OK) return ST_NOMEM;
    uint32_t *tokens = mem_resize(request->tokens, capacity * sizeof *tokens);
    if (!tokens) return ST_NOMEM;
    request->tokens = tokens;
    request->capacity = capacity;
    return ST_OK;
}

void request_forget_news(struct request *request)
{
    if (!request->group) request->text.length = 0; /* else it is reported at the end */
    request->prompt_new = request->news_count = 0;
}

/* ---- rows of prompt tokens --------------------------------------------------------------------------------------- */

/* The row of a token tells the next token's log-probability: those of all prompt tokens but the last are wanted, which is
 * sampled from. prompt_taken says how many came already; a request that gave up its blocks runs these again without. */

uint32_t request_match_count(const struct request *r)
{
    bool mean = r->embedding.pooling == KVASIR_POOLING_MEAN;
    uint32_t taken = mean ? r->embedding.taken : r->prompt_taken;
    uint32_t count = (mean || r->prompt_logprobs) && taken + 1 < r->prompt_count ? taken + 1 : r->count;
    return r->own_from ? least(count, r->own_from + 1) : count;
}

uint32_t request_prompt_rows(const struct request *r, uint32_t first, uint32_t count)
{
    uint32_t begin = first > r->prompt_taken ? first : r->prompt_taken;
    uint32_t end = first + count < r->prompt_count ? first + count : r->prompt_count - 1;
    return r->prompt_logprobs && begin < end ? end - begin : 0;
}

uint32_t request_answered(const struct request *r, uint32_t first, uint32_t count)
{
    return first + count > r->prompt_count ? least(count, first + count - r->prompt_count) : 0;
}

uint32_t request_logits_rows(const struct request *r, uint32_t first, uint32_t count)
{
    return request_prompt_rows(r, first, count) + (first + count == r->count && !r->embedding.pooling);
}

uint32_t request_fit_rows(const struct request *r, uint32_t first, uint32_t count, uint32_t rows)
{
    if (request_prompt_rows(r, first, count) <= rows) return count;
    return (first > r->prompt_taken ? first : r->prompt_taken) + rows - first;
}

static void take_prompt_row(struct request *r, uint32_t vocabulary, const float *logits)
{
    ASSERT(r->prompt_new < PROMPT_ROWS_MAX);
    uint32_t at = r->prompt_new++;
    r->prompt_tokens[at] = (struct kvasir_token){.id = r->tokens[++r->prompt_taken]};
    logits_describe(logits, vocabulary, r->prompt_logprobs, r->prompt_top + (size_t)at * r->prompt_logprobs,
                    &r->prompt_tokens[at]);
}

/* ---- one token on ------------------------------------------------------------------------------------------------ */

static bool is_stop_id(const struct request *r, uint32_t id)
{
    for (size_t i = 0; i < r->stop_id_count; i++)
        if (r->stop_ids[i] == id) return true;
    return false;
}

/* Stop texts are looked for in the text after the first min_tokens tokens. */
static void take_piece(struct request *r)
{
    if (r->count - r->prompt_count <= r->min_tokens && r->min_tokens)
        buffer_append(&r->text, r->piece.data, r->piece.length);
    else
        stopper_put(&r->stopper, r->piece.data, r->piece.length, &r->text);
}

void put_token(struct detokenizer *detokenizer, uint32_t id, struct buffer *out)
{
    if (id < tokenizer_vocabulary_size(detokenizer->tokenizer)) /* rows beyond it are padding */
        detokenizer_put(detokenizer, id, out);
}

static void take_text(struct request *r)
{
    if (!r->detokenizer.tokenizer) return;
    r->piece.length = 0;
    put_token(&r->detokenizer, r->tokens[r->count - 1], &r->piece);
    if (r->piece.length) take_piece(r);
}

static void take_token(struct request *r, uint32_t id, uint32_t vocabulary, const float *logits)
{
    ASSERT(r->count < r->capacity && r->news_count <= DRAFT_TOKENS_MAX);
    r->tokens[r->count++] = id;
    struct kvasir_logprob *top = r->logprobs ? r->top + (size_t)r->news_count * r->logprobs : NULL;
    struct kvasir_token *token = &r->news[r->news_count++];
    *token = (struct kvasir_token){.id = id};
    if (top) logits_describe(logits, vocabulary, r->logprobs, top, token);
    if (r->group) group_keep(r, token, top);
    take_text(r);
    if (r->stopper.stopped)
        request_end(r, KVASIR_STOP);
    else if (constraint_is_complete(&r->constraint, r->tokens + r->prompt_count, r->count - r->prompt_count))
        request_end(r, constraint_finish(&r->constraint));
    else if (r->count >= r->count_max)
        request_end(r, KVASIR_LENGTH);
}

static void sample(struct request *r, struct sampler *sampler, const float *logits)
{
    double now = clock_seconds();
    if (r->first_token_s == 0) r->first_token_s = now;
    r->last_token_s = now;
    const uint64_t *allowed =
        constraint_allowed(&r->constraint, r->tokens + r->prompt_count, r->count - r->prompt_count);
    if (r->group && r->group->beams) {
        beam_settle(r, sampler, allowed, logits);
        return;
    }
    uint32_t id =
        sampler_pick(sampler, &r->sampling, allowed, &r->random, logits, r->tokens, r->count, r->prompt_count);
    if (r->group && id != SAMPLER_NONE) group_score(r, id, logits, sampler->vocabulary);
    if (id == SAMPLER_NONE)
        request_end(r, constraint_finish(&r->constraint));
    else if (is_stop_id(r, id) || (!r->ignore_eos && model_token_ends(r->model, id)))
        request_end(r, KVASIR_STOP);
    else
        take_token(r, id, sampler->vocabulary, logits);
}

enum status request_take(struct request *r, struct sampler *sampler, uint32_t first, uint32_t count,
                         const float *logits)
{
    bool last = first + count == r->count;
    for (uint32_t rows = request_prompt_rows(r, first, count); rows > 0; rows--, logits += sampler->vocabulary)
        take_prompt_row(r, sampler->vocabulary, logits);
    if (last) sample(r, sampler, logits);
    if (!r->piece.failed && !r->text.failed) return ST_OK;
    r->finish = KVASIR_ERROR;
    return ST_NOMEM;
}

void request_end(struct request *r, enum kvasir_finish finish)
{
    r->finish = finish;
    if (!r->detokenizer.tokenizer) return;
    r->piece.length = 0;
    detokenizer_finish(&r->detokenizer, &r->piece);
    if (r->piece.length) take_piece(r);
    stopper_finish(&r->stopper, &r->text);
}

/* ---- timings ----------------------------------------------------------------------------------------------------- */

static double rate(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}

void request_timings(const struct request *r, struct kvasir_timings *out)
{
    uint32_t output = r->count - r->prompt_count;
    *out = (struct kvasir_timings){.prompt_tokens = r->prompt_count,
                                   .cached_tokens = r->cached_tokens,
                                   .tier_tokens = r->lower_tokens,
                                   .output_tokens = output,
                                   .kv_bytes = r->kv_bytes,
                                   .kv_blocks = r->kv_blocks};
    if (r->first_token_s == 0) return;
    out->ttft_s = r->first_token_s - r->submitted_s;
    out->prefill_s = r->first_token_s - r->started_s;
    out->decode_s = r->last_token_s - r->first_token_s;
    out->prefill_tokens_per_s = rate(r->prompt_count - r->cached_tokens, out->prefill_s);
    if (output < 2) return;
    out->tpot_s = out->decode_s / (output - 1);
    out->decode_tokens_per_s = rate(output - 1, out->decode_s);
}
