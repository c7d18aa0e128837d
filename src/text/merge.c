/* merge.c - the two ways to merge a word: a scan for short ones, a heap for long ones. Both do the same merges in the same
 * order (test_tokenizer holds one against the other). */
#include "text/merge.h"

void merge_work_release(struct merge_work *work)
{
    mem_free(work->symbols);
    mem_free(work->heap);
    memset(work, 0, sizeof *work);
}

enum status merge_work_reserve(struct merge_work *work, uint64_t count, struct error *error)
{
    if (count < work->capacity) return ST_OK;
    uint64_t capacity = count * 2 + 64;
    struct merge_symbol *symbols = mem_resize(work->symbols, capacity * sizeof *symbols);
    if (!symbols)
        return error_set(error, ST_NOMEM, "no memory to tokenize a word of %llu characters", (unsigned long long)count);
    work->symbols = symbols;
    work->capacity = (uint32_t)capacity;
    return ST_OK;
}

static void look_up(struct merge_symbol *symbols, uint32_t left, uint32_t right, uint32_t after, merge_lookup *lookup,
                    const void *data)
{
    struct merge_symbol *symbol = &symbols[left];
    const struct merge_pair pair = {symbol->id, symbols[right].id, symbol->begin, symbols[after].begin};
    symbol->key = MERGE_NONE;
    if (pair.left != SYMBOL_RAW && pair.right != SYMBOL_RAW) symbol->key = lookup(data, &pair, &symbol->merged);
}

/* ---- short words: the symbols stay packed ---- */

static void run_short(struct merge_work *work, merge_lookup *lookup, const void *data)
{
    struct merge_symbol *symbols = work->symbols;
    uint32_t count = work->count;
    for (uint32_t i = 0; i + 1 < count; i++) look_up(symbols, i, i + 1, i + 2, lookup, data);
    for (;;) {
        uint32_t best = 0, key = MERGE_NONE;
        for (uint32_t i = 0; i + 1 < count; i++)
            if (symbols[i].key < key) key = symbols[best = i].key;
        if (key == MERGE_NONE) break;
        symbols[best].id = symbols[best].merged;
        memmove(&symbols[best + 1], &symbols[best + 2], (count - best - 1) * sizeof *symbols); /* the sentinel too */
        count--;
        if (best + 1 < count) look_up(symbols, best, best + 1, best + 2, lookup, data);
        if (best) look_up(symbols, best - 1, best, best + 1, lookup, data);
    }
    work->count = count;
}

/* ---- long words: a linked list, and a heap of pairs. A heap entry is stale when its symbol's key is another now. ---- */

static enum status heap_push(struct merge_work *work, uint64_t entry, struct error *error)
{
    if (work->heap_count == work->heap_capacity) {
        size_t capacity = work->heap_capacity * 2 + 1024;
        uint64_t *heap = mem_resize(work->heap, capacity * sizeof *heap);
        if (!heap) return error_set(error, ST_NOMEM, "no memory to tokenize a long word");
        work->heap = heap;
        work->heap_capacity = capacity;
    }
    size_t at = work->heap_count++;
    for (; at && work->heap[(at - 1) / 2] > entry; at = (at - 1) / 2) work->heap[at] = work->heap[(at - 1) / 2];
    work->heap[at] = entry;
    return ST_OK;
}

static uint64_t heap_pop(struct merge_work *work)
{
    uint64_t *heap = work->heap, top = heap[0], last = heap[--work->heap_count];
    size_t at = 0;
    for (size_t child; (child = at * 2 + 1) < work->heap_count; at = child) {
        if (child + 1 < work->heap_count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* Looks up the pair that begins with `left` and queues it when it merges. */
static enum status queue_pair(struct merge_work *work, uint32_t left, merge_lookup *lookup, const void *data,
                              struct error *error)
{
    struct merge_symbol *symbols = work->symbols;
    uint32_t right = symbols[left].next;
    symbols[left].key = MERGE_NONE;
    if (right == work->count) return ST_OK;
    look_up(symbols, left, right, symbols[right].next, lookup, data);
    return symbols[left].key == MERGE_NONE ? ST_OK : heap_push(work, (uint64_t)symbols[left].key << 32 | left, error);
}

static enum status merge_first(struct merge_work *work, merge_lookup *lookup, const void *data, struct error *error)
{
    struct merge_symbol *symbols = work->symbols;
    const uint64_t entry = heap_pop(work);
    const uint32_t left = (uint32_t)entry;
    if (symbols[left].key != (uint32_t)(entry >> 32)) return ST_OK;
    const uint32_t right = symbols[left].next;
    symbols[left].id = symbols[left].merged;
    symbols[left].next = symbols[right].next;
    symbols[symbols[right].next].previous = left;
    symbols[right].key = MERGE_NONE;
    enum status status = queue_pair(work, left, lookup, data, error);
    if (status == ST_OK && left) status = queue_pair(work, symbols[left].previous, lookup, data, error);
    return status;
}

static enum status run_long(struct merge_work *work, merge_lookup *lookup, const void *data, struct error *error)
{
    struct merge_symbol *symbols = work->symbols;
    enum status status = ST_OK;
    work->heap_count = 0;
    for (uint32_t i = 0; i <= work->count; i++) {
        symbols[i].previous = i - 1;
        symbols[i].next = i + 1;
        symbols[i].key = MERGE_NONE;
    }
    for (uint32_t i = 0; i < work->count && status == ST_OK; i++) status = queue_pair(work, i, lookup, data, error);
    while (work->heap_count && status == ST_OK) status = merge_first(work, lookup, data, error);
    if (status != ST_OK) return status;
    uint32_t count = 0;
    for (uint32_t at = 0, next; at != work->count; at = next) { /* a symbol never moves to the right */
        next = symbols[at].next;
        symbols[count++] = symbols[at];
    }
    symbols[count] = symbols[work->count];
    work->count = count;
    return ST_OK;
}

enum status merge_run(struct merge_work *work, merge_lookup *lookup, const void *data, struct error *error)
{
    if (work->count > MERGE_SHORT_MAX) return run_long(work, lookup, data, error);
    run_short(work, lookup, data);
    return ST_OK;
}
