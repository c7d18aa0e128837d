/* embedding.c - an embedding of a text: its prompt is run as every prompt is, and of the hidden rows after the final norm one is
 * taken, or the mean of all.
 *
 * Rows are added in f64 by ascending position, one after the other, whatever the chunks they came in: the bits of an embedding
 * depend on the prompt alone. A request that gave up its blocks runs again what it lost, and takes no row twice. */
#include "engine/engine_internal.h"
#include <math.h>

enum status embedding_check(const struct kvasir_request *wanted, struct error *error)
{
    if (wanted->pooling == KVASIR_POOLING_NONE) return ST_OK;
    if (wanted->pooling != KVASIR_POOLING_LAST && wanted->pooling != KVASIR_POOLING_MEAN)
        return error_set(error, ST_INVALID, "pooling is %d: must be none, last or mean (0 to 2)", (int)wanted->pooling);
    if (wanted->n > 1)
        return error_set(error, ST_INVALID, "n is %u: a request with pooling gives one embedding", wanted->n);
    if (wanted->prompt_logprobs)
        return error_set(error, ST_INVALID, "prompt_logprobs is %u: must be 0 with pooling, which computes no logits",
                         wanted->prompt_logprobs);
    return ST_OK;
}

enum status embedding_init(struct embedding *embedding, const struct kvasir_request *wanted, uint32_t columns)
{
    *embedding = (struct embedding){.pooling = wanted->pooling, .normalize = wanted->normalize, .columns = columns};
    if (wanted->pooling == KVASIR_POOLING_NONE) return ST_OK;
    embedding->sum = mem_zero(columns, sizeof *embedding->sum);
    embedding->pooled = mem_zero(columns, sizeof *embedding->pooled);
    return embedding->sum && embedding->pooled ? ST_OK : ST_NOMEM;
}

void embedding_release(struct embedding *embedding)
{
    mem_free(embedding->sum);
    mem_free(embedding->pooled);
}

uint32_t request_hidden_rows(const struct request *r, uint32_t first, uint32_t count)
{
    const struct embedding *e = &r->embedding;
    if (e->pooling == KVASIR_POOLING_LAST) return first + count == r->prompt_count;
    if (e->pooling != KVASIR_POOLING_MEAN || first + count <= e->taken) return 0;
    ASSERT(first <= e->taken); /* request_match_count: no row was left out */
    return first + count - e->taken;
}

static void finish(struct embedding *e, uint32_t rows)
{
    double square = 0;
    for (uint32_t i = 0; i < e->columns; i++) {
        e->sum[i] /= rows;
        square += e->sum[i] * e->sum[i];
    }
    double length = e->normalize && square > 0 ? sqrt(square) : 1;
    for (uint32_t i = 0; i < e->columns; i++) e->pooled[i] = (float)(e->sum[i] / length);
}

void request_take_hidden(struct request *r, uint32_t count, const float *rows)
{
    struct embedding *e = &r->embedding;
    bool last = e->pooling == KVASIR_POOLING_LAST;
    for (uint32_t row = 0; row < count; row++, rows += e->columns)
        for (uint32_t i = 0; i < e->columns; i++) e->sum[i] += (double)rows[i];
    e->taken = last ? r->prompt_count : e->taken + count;
    if (e->taken < r->prompt_count) return;
    finish(e, last ? 1 : r->prompt_count);
    r->first_token_s = r->last_token_s = clock_seconds();
    request_end(r, KVASIR_STOP);
}
