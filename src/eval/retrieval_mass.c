/* retrieval_mass.c - how much of the attention the keys have that retrieval chose, and how many of the best groups are among them.
 *
 * The kernel itself is asked, group by group (16 keys), for the softmax state of those keys alone; so what is measured is what
 * attention would have computed, whatever the cache's format. A state's numbers are in the kernel's own base; their ratio is had by
 * folding: with one weighted value set to the sum in the state of a group and to 0 in that of all keys, the fold of both holds
 *     r = group / (all + group),   so   group / all = r / (1 - r). */
#include "eval/retrieval_internal.h"
#include <stdlib.h>
#include <string.h>

struct masses {
    const struct retrieval *r;
    uint32_t heads, groups, unit; /* unit: groups read at once: pairs where K closes */
    uint64_t stride, floats;      /* of a state: of one query head, of all */
    float *states;                /* [groups / unit][floats] */
    float *total, *pair;          /* [floats] */
    double *shares;               /* [heads][groups / unit] */
    struct ranked {
        double share;
        uint32_t unit;
    } * ranked; /* [groups / unit] sums over heads, best first */
};

static bool masses_init(struct masses *m, const struct retrieval *r, const struct model_choice *choice)
{
    const struct kernel_attend *attend = choice->attend;
    *m = (struct masses){.r = r, .heads = attend->group, .stride = 2 + (uint64_t)attend->value_dim};
    m->unit = kernel_k_closes(attend->k_format) ? KERNEL_CLOSED_TOKENS / KERNEL_GROUP_TOKENS : 1;
    m->groups = (attend->key_end + KERNEL_GROUP_TOKENS * m->unit - 1) / (KERNEL_GROUP_TOKENS * m->unit);
    m->floats = kernel_attend_state_floats(attend);
    m->states = mem_zero((m->groups + 2) * m->floats, sizeof *m->states);
    m->shares = mem_zero((uint64_t)m->heads * m->groups, sizeof *m->shares);
    m->ranked = mem_zero(m->groups, sizeof *m->ranked);
    if (!m->states || !m->shares || !m->ranked) return false;
    m->total = m->states + m->groups * m->floats;
    m->pair = m->total + m->floats;
    return true;
}

static void masses_release(struct masses *m)
{
    mem_free(m->states);
    mem_free(m->shares);
    mem_free(m->ranked);
}

/* The state of each group, and their fold. */
static void measure_groups(struct masses *m, const struct model_choice *choice)
{
    const struct kernel *kernel = model_kernel(engine_model(m->r->opened));
    struct kernel_attend attend = *choice->attend;
    const struct kernel_span *span = attend.spans;
    const uint32_t tokens = m->unit * KERNEL_GROUP_TOKENS, end = attend.key_end;
    for (uint32_t g = 0; g < m->groups; g++) {
        float *state = m->states + g * m->floats;
        attend.key_begin = g * tokens;
        attend.key_end = attend.key_begin + tokens < end ? attend.key_begin + tokens : end;
        while (span->position + span->count <= attend.key_begin) span++;
        attend.spans = span;
        attend.span_count = 1;
        const uint32_t segment = attend.key_begin / KERNEL_SEGMENT_TOKENS;
        kernel->attend(&attend, segment, segment + 1, state, choice->scratch);
        if (g == 0)
            memcpy(m->total, state, m->floats * sizeof *state);
        else
            kernel->attend_fold(&attend, m->total, state);
    }
}

/* Each group's share of each query head's softmax. */
static void measure_shares(struct masses *m, const struct model_choice *choice)
{
    const struct kernel *kernel = model_kernel(engine_model(m->r->opened));
    for (uint32_t h = 0; h < m->heads; h++) m->total[h * m->stride + 2] = 0;
    for (uint32_t g = 0; g < m->groups; g++) {
        float *state = m->states + g * m->floats;
        for (uint32_t h = 0; h < m->heads; h++) state[h * m->stride + 2] = state[h * m->stride + 1];
        memcpy(m->pair, m->total, m->floats * sizeof *m->pair);
        kernel->attend_fold(choice->attend, m->pair, state);
        m->ranked[g].unit = g;
        for (uint32_t h = 0; h < m->heads; h++) {
            const float *pair = m->pair + h * m->stride;
            double part = (double)pair[2] / (double)pair[1];
            m->shares[h * m->groups + g] = part / (1 - part);
            m->ranked[g].share += part / (1 - part);
        }
    }
}

static int best_first(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->share != y->share) return x->share > y->share ? -1 : 1;
    return x->unit < y->unit ? -1 : x->unit > y->unit;
}

/* Of the groups between the first and the local ones as many of the best as were recalled: how many were. */
static double recall(struct masses *m, const struct model_choice *choice)
{
    const uint32_t initial = choice->initial / m->unit, wanted = choice->recalled / m->unit;
    const uint32_t last = choice->group_count - choice->recalled - choice->initial; /* groups that are local */
    const uint32_t *recalled = choice->groups + choice->initial;
    /* Between: from `initial` up to the first local group, or to the end where none is. */
    const uint32_t local = last ? choice->groups[choice->initial + choice->recalled] / m->unit : m->groups;
    uint32_t found = 0;
    qsort(m->ranked + initial, local - initial, sizeof *m->ranked, best_first);
    for (uint32_t i = 0; i < wanted; i++)
        for (uint32_t c = 0; c < choice->recalled; c += m->unit)
            if (recalled[c] / m->unit == m->ranked[initial + i].unit) {
                found++;
                break;
            }
    return (double)found / wanted;
}

static void measure(struct masses *m, const struct model_choice *choice, struct retrieval_slot *slot)
{
    measure_groups(m, choice);
    measure_shares(m, choice);
    for (uint32_t h = 0; h < m->heads; h++)
        for (uint32_t i = 0; i < choice->group_count; i += m->unit)
            if (choice->groups[i] / m->unit < m->groups)
                slot->mass += m->shares[h * m->groups + choice->groups[i] / m->unit] / m->heads;
    slot->measured = true;
    slot->recalls = choice->recalled > 0;
    if (slot->recalls) slot->recall = recall(m, choice);
}

void retrieval_observe(void *data, const struct model_choice *choice)
{
    struct retrieval *r = data;
    struct masses masses;
    if (!choice->attend->key_end) return; /* nothing is closed yet */
    if (masses_init(&masses, r, choice))
        measure(&masses, choice, retrieval_slot(r, choice->entry, choice->layer, choice->head));
    else
        atomic_store(&r->observe_failed, true);
    masses_release(&masses);
}

enum status retrieval_gather(struct retrieval *r, size_t budget, struct error *error)
{
    struct retrieval_distance *d = &r->distances[budget];
    if (atomic_load(&r->observe_failed))
        return error_set(error, ST_NOMEM, "not enough memory to measure the attention's mass");
    for (uint32_t entry = 0; entry < RETRIEVAL_ROWS_MAX; entry++)
        for (uint32_t layer = 0; layer < r->config->layers; layer++)
            for (uint32_t head = 0; head < r->config->kv_heads; head++) {
                struct retrieval_slot *slot = retrieval_slot(r, entry, layer, head);
                struct retrieval_masses *of = &d->masses[layer * r->config->kv_heads + head];
                of->count += slot->measured;
                of->mass += slot->mass;
                of->recalls += slot->recalls;
                of->recall += slot->recall;
                *slot = (struct retrieval_slot){0};
            }
    return ST_OK;
}
