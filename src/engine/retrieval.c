/* retrieval.c - retrieval attention's settings: from what an engine was opened with and a request asks for to what one token
 * reads.
 *
 * "on" is the published design (openGauss DataVec, "look up instead of compute"): fixed numbers of initial and local tokens, and a
 * share of what lies between them. "auto" reads a share of all tokens instead, the fixed ones included, so that a token's cost does
 * not depend on how the share was divided; its numbers are measured (docs/retrieval.md). What is stated counts in both modes.
 *
 * What a token reads follows from its position, its prompt's length and the settings alone. From the first position that leaves
 * something out on every later one does: what is left out only grows. */
#include "engine/engine_internal.h"
#include <math.h>

/* What is not stated, by mode. A change of `auto` changes answers: docs/retrieval.md has the ablations. */
static const struct engine_retrieval defaults[] = {
    [KVASIR_RETRIEVAL_ON] = {.initial_tokens = 1024,
                             .local_tokens = 7192,
                             .topk = 0.2,
                             .dense_boundary = 32768,
                             .offload_boundary = 65536,
                             .dense_layers = 0},
    [KVASIR_RETRIEVAL_AUTO] = {.initial_tokens = 64,
                               .local_tokens = 512,
                               .budget = 0.2,
                               .budget_tokens = 2048,
                               .dense_boundary = 8192,
                               .offload_boundary = 65536,
                               .dense_layers = 0},
};

static bool looks_up(enum kvasir_retrieval_mode mode)
{
    return mode == KVASIR_RETRIEVAL_ON || mode == KVASIR_RETRIEVAL_AUTO;
}

static uint32_t stated_or(uint32_t stated, uint32_t otherwise)
{
    return stated == KVASIR_RETRIEVAL_NONE ? 0 : stated ? stated : otherwise;
}

void engine_retrieval_init(const struct kvasir_retrieval *stated, enum kvasir_retrieval_mode mode,
                           struct engine_retrieval *out)
{
    ASSERT(looks_up(mode));
    const struct engine_retrieval *d = &defaults[mode];
    *out = (struct engine_retrieval){.initial_tokens = stated_or(stated->initial_tokens, d->initial_tokens),
                                     .local_tokens = stated_or(stated->local_tokens, d->local_tokens),
                                     .topk = stated->topk > 0 ? stated->topk : d->topk,
                                     .budget = d->budget,
                                     .budget_tokens = d->budget_tokens,
                                     .dense_boundary = stated_or(stated->dense_boundary, d->dense_boundary),
                                     .offload_boundary = stated_or(stated->offload_boundary, d->offload_boundary),
                                     .dense_layers = stated_or(stated->dense_layers, d->dense_layers)};
    if (!stated->offload_boundary && out->offload_boundary < out->dense_boundary)
        out->offload_boundary = out->dense_boundary;
}

bool engine_retrieval_at(const struct engine_retrieval *retrieval, uint32_t position, struct model_retrieval *out)
{
    uint32_t tokens = position + 1, fixed = retrieval->initial_tokens + retrieval->local_tokens;
    uint32_t between = tokens > fixed ? tokens - fixed : 0;
    double read =
        retrieval->budget * tokens > retrieval->budget_tokens ? retrieval->budget * tokens : retrieval->budget_tokens;
    double wanted = retrieval->topk > 0 ? retrieval->topk * between : read > fixed ? read - fixed : 0;
    uint32_t recalled = wanted < between ? (uint32_t)ceil(wanted) : between;
    *out = (struct model_retrieval){.initial_tokens = retrieval->initial_tokens,
                                    .local_tokens = retrieval->local_tokens,
                                    .recall_tokens = recalled,
                                    .dense_layers = retrieval->dense_layers};
    return recalled < between;
}

/* ---- checks ------------------------------------------------------------------------------------------------------- */

static enum status check_share(const char *what, double topk, struct error *error)
{
    if (topk >= 0 && topk <= 1) return ST_OK;
    return error_set(error, ST_INVALID, "%s is %g: must be a share from 0 to 1", what, topk);
}

static enum status check_mode(enum kvasir_retrieval_mode mode, struct error *error)
{
    if (mode >= KVASIR_RETRIEVAL_DEFAULT && mode <= KVASIR_RETRIEVAL_AUTO) return ST_OK;
    return error_set(error, ST_INVALID, "there is no retrieval mode %d", (int)mode);
}

enum status retrieval_check_engine(const struct kvasir_engine_options *options, struct error *error)
{
    const struct kvasir_retrieval *stated = &options->retrieval;
    const struct {
        const char *what;
        uint32_t tokens;
    } counts[] = {{"initial_tokens", stated->initial_tokens},
                  {"local_tokens", stated->local_tokens},
                  {"dense_boundary", stated->dense_boundary},
                  {"offload_boundary", stated->offload_boundary}};
    enum status status = check_mode(stated->mode, error);
    if (status == ST_OK) status = check_share("retrieval topk", stated->topk, error);
    for (size_t i = 0; i < ARRAY_COUNT(counts) && status == ST_OK; i++)
        if (counts[i].tokens > RETRIEVAL_TOKENS_MAX && counts[i].tokens != KVASIR_RETRIEVAL_NONE)
            status = error_set(error, ST_INVALID, "retrieval %s is %u: must be at most %u", counts[i].what,
                               counts[i].tokens, RETRIEVAL_TOKENS_MAX);
    if (status != ST_OK || !looks_up(stated->mode)) return status;
    struct engine_retrieval retrieval;
    engine_retrieval_init(stated, stated->mode, &retrieval);
    if (!retrieval.local_tokens)
        return error_set(error, ST_INVALID, "retrieval needs local tokens: a token reads at least itself");
    if (retrieval.offload_boundary < retrieval.dense_boundary)
        return error_set(error, ST_INVALID,
                         "retrieval's offload boundary of %u tokens is below its dense boundary of %u",
                         retrieval.offload_boundary, retrieval.dense_boundary);
    if (options->no_kv_cache)
        return error_set(error, ST_UNSUPPORTED,
                         "retrieval attention needs the KV cache: open the engine without no_kv_cache");
    return ST_OK;
}

bool retrieval_index(const struct kvasir_retrieval *stated, struct kv_layer *layers, uint32_t count)
{
    bool any = false;
    for (uint32_t i = 0; i < count && looks_up(stated->mode); i++) {
        struct kv_layer *layer = &layers[i];
        layer->index = layer->kind == KV_FULL && !layer->heads;
        for (uint32_t h = 0; layer->heads && h < layer->kv_heads; h++) layer->index |= layer->heads[h].kind == KV_FULL;
        any |= layer->index;
    }
    if (looks_up(stated->mode) && !any)
        log_line(LOG_WARNING, "retrieval attention has nothing to do here: no KV head keeps every token");
    return any;
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

enum status retrieval_check_request(const struct engine_plan *plan, const struct kvasir_request *wanted,
                                    struct error *error)
{
    enum kvasir_retrieval_mode mode = wanted->retrieval;
    enum status status = check_mode(mode, error);
    if (status == ST_OK) status = check_share("retrieval_topk", wanted->retrieval_topk, error);
    if (status != ST_OK) return status;
    if (mode == KVASIR_RETRIEVAL_OFF && wanted->retrieval_topk > 0)
        return error_set(error, ST_INVALID, "retrieval_topk is %g, but retrieval is off", wanted->retrieval_topk);
    bool asked = looks_up(mode) || wanted->retrieval_topk > 0;
    if (asked && !looks_up(plan->retrieval.mode))
        return error_set(error, ST_UNSUPPORTED,
                         "retrieval attention was asked for, but the engine was opened without it: open it with "
                         "retrieval on or auto (--retrieval)");
    return ST_OK;
}

void retrieval_prepare(const struct engine_plan *plan, const struct kvasir_request *wanted, struct request *request)
{
    enum kvasir_retrieval_mode mode = wanted->retrieval ? wanted->retrieval : plan->retrieval.mode;
    if (!plan->indexed || !looks_up(mode) || wanted->pooling) return;
    struct kvasir_retrieval stated = plan->retrieval;
    struct model_retrieval ignored;
    if (wanted->retrieval_topk > 0) stated.topk = wanted->retrieval_topk;
    engine_retrieval_init(&stated, mode, &request->retrieval);
    if (request->prompt_count < request->retrieval.dense_boundary) return;
    uint32_t first = request->prompt_count, end = plan->context; /* the first sparse position is in [first, end] */
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        if (engine_retrieval_at(&request->retrieval, middle, &ignored))
            end = middle;
        else
            first = middle + 1;
    }
    request->sparse_from = first < plan->context ? first : 0;
    request->offloads = plan->offloads && request->sparse_from && !wanted->beam_width &&
                        !request->retrieval.dense_layers &&
                        request->prompt_count >= request->retrieval.offload_boundary;
}

/* ---- offloading ---------------------------------------------------------------------------------------------------- */

#define OFFLOAD_BLOCKS 32u /* a step: some milliseconds */

void retrieval_offload(struct request *r)
{
    const struct engine_retrieval *retrieval = &r->retrieval;
    const uint32_t done = kv_seq_count(r->seq);
    struct model_retrieval last;
    if (!r->offloads || !request_is_sparse(r, done) || done < retrieval->local_tokens) return;
    engine_retrieval_at(retrieval, r->count_max, &last); /* no token of the answer will recall more */
    enum status status = kv_seq_offload(r->seq, (uint32_t)round_up(retrieval->initial_tokens, KERNEL_CLOSED_TOKENS),
                                        done + 1 - retrieval->local_tokens, last.recall_tokens, OFFLOAD_BLOCKS);
    if (status != ST_IO && status != ST_LIMIT && status != ST_UNSUPPORTED) return;
    r->offloads = false;
    log_line(status == ST_IO ? LOG_WARNING : LOG_INFO, "request %llu: its K and V stay in memory: %s",
             (unsigned long long)r->id,
             status == ST_IO      ? "the disk of the folder for the KV cache is full, or fails"
             : status == ST_LIMIT ? "the folder for the KV cache has no room for more"
                                  : "heads that keep every token share their blocks with others");
}
