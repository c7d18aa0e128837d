/* sampler.c - what is allowed, bias, penalties, temperature, top-k, typical-p, top-p, min-p, draw; in that order, each
 * filter on the distribution that the one before it left, renormalised.
 *
 * Nothing sorts the vocabulary. Every filter keeps a beginning of one order (key descending, ties by ascending id): the
 * last kept candidate is found by a weighted quickselect within the range of keys where it must lie, then one pass drops
 * those behind it, so candidates stay in the order of their ids and the draw walks them in that order. Weights are floats
 * relative to the best (which has 1), sums are doubles. The result is a function of the logits, the settings and the one
 * random number alone. */
#include "engine/sampler.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sampler_candidate {
    float key, weight;
    uint32_t id;
};

#define TOP_HEAP_MAX 256u /* up to here a heap over one pass beats selecting among all */

/* ---- working memory ---------------------------------------------------------------------------------------------- */

enum status sampler_init(struct sampler *sampler, uint32_t vocabulary, struct error *error)
{
    uint64_t row = round_up(vocabulary * sizeof(float), 64);
    uint64_t list = round_up(vocabulary * sizeof(struct sampler_candidate), 64);
    *sampler = (struct sampler){.vocabulary = vocabulary, .memory_bytes = 2 * row + 2 * list};
    unsigned char *memory = sampler->memory = mem_map_reserve(sampler->memory_bytes);
    if (!memory) return error_set(error, ST_NOMEM, "not enough memory to sample from %u tokens", vocabulary);
    sampler->logits = (void *)memory;
    sampler->counts = (void *)(memory + row);
    sampler->kept = (void *)(memory + 2 * row);
    sampler->sorted = (void *)(memory + 2 * row + list);
    return ST_OK;
}

void sampler_release(struct sampler *sampler)
{
    mem_unmap(sampler->memory, sampler->memory_bytes);
    *sampler = (struct sampler){0};
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

enum status sampling_check(const struct kvasir_sampling *s, uint32_t vocabulary, struct error *error)
{
    const struct {
        const char *name;
        float value, least, most;
    } ranges[] = {
        {"temperature", s->temperature, 0, 100},
        {"top_p", s->top_p, 0, 1},
        {"min_p", s->min_p, 0, 1},
        {"typical_p", s->typical_p, 0, 1},
        {"repetition_penalty", s->repetition_penalty, 0, 100},
        {"frequency_penalty", s->frequency_penalty, -100, 100},
        {"presence_penalty", s->presence_penalty, -100, 100},
    };
    for (size_t i = 0; i < ARRAY_COUNT(ranges); i++)
        if (!(ranges[i].value >= ranges[i].least && ranges[i].value <= ranges[i].most))
            return error_set(error, ST_INVALID, "%s is %g: must be a number from %g to %g", ranges[i].name,
                             (double)ranges[i].value, (double)ranges[i].least, (double)ranges[i].most);
    if (s->bias_count > vocabulary || (s->bias_count && !s->bias))
        return error_set(error, ST_INVALID, "logit_bias has %zu entries: must be at most %u", s->bias_count,
                         vocabulary);
    for (size_t i = 0; i < s->bias_count; i++) {
        float bias = s->bias[i].bias;
        if (s->bias[i].id >= vocabulary)
            return error_set(error, ST_INVALID, "logit_bias names token %u: the vocabulary ends at %u", s->bias[i].id,
                             vocabulary - 1);
        if (isnan(bias) || bias > 1e6f || (bias < -1e6f && bias != -INFINITY))
            return error_set(error, ST_INVALID,
                             "logit_bias of token %u is %g: must be a number from -1e6 to 1e6, or -inf to forbid it",
                             s->bias[i].id, (double)bias);
    }
    return ST_OK;
}

/* ---- what is allowed, bias and penalties ------------------------------------------------------------------------- */

static bool changes_logits(const struct kvasir_sampling *s)
{
    bool repetition = s->repetition_penalty != 0 && s->repetition_penalty != 1;
    return s->bias_count || repetition || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

/* Keskar et al. 2019: a token that occurred is made less likely once, whichever sign its logit has. */
static void penalise_repetition(struct sampler *sampler, float penalty, const uint32_t *tokens, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (sampler->counts[tokens[i]]++) continue;
        float *logit = &sampler->logits[tokens[i]];
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    }
    for (uint32_t i = 0; i < count; i++) sampler->counts[tokens[i]] = 0;
}

static void penalise_frequency(struct sampler *sampler, const struct kvasir_sampling *s, const uint32_t *tokens,
                               uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) sampler->counts[tokens[i]]++;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t times = sampler->counts[tokens[i]];
        if (times) sampler->logits[tokens[i]] -= s->frequency_penalty * (float)times + s->presence_penalty;
        sampler->counts[tokens[i]] = 0;
    }
}

static void forbid_others(struct sampler *sampler, const uint64_t *allowed)
{
    for (uint32_t begin = 0; begin < sampler->vocabulary; begin += 64) {
        uint64_t set = allowed[begin / 64];
        uint32_t own = sampler->vocabulary - begin < 64 ? sampler->vocabulary - begin : 64;
        if (set == UINT64_MAX) continue;
        if (!set) /* most words, where a grammar leaves few tokens */
            for (uint32_t i = 0; i < own; i++) sampler->logits[begin + i] = -INFINITY;
        for (uint32_t i = 0; i < own && set; i++)
            if (!(set >> i & 1)) sampler->logits[begin + i] = -INFINITY;
    }
}

static void change_logits(struct sampler *sampler, const struct kvasir_sampling *s, const uint64_t *allowed,
                          const float *logits, const uint32_t *tokens, uint32_t count, uint32_t prompt_count)
{
    memcpy(sampler->logits, logits, sampler->vocabulary * sizeof *logits);
    if (allowed) forbid_others(sampler, allowed);
    for (size_t i = 0; i < s->bias_count; i++) sampler->logits[s->bias[i].id] += s->bias[i].bias;
    if (s->repetition_penalty != 0 && s->repetition_penalty != 1) {
        uint32_t window = s->penalty_window && s->penalty_window < count ? s->penalty_window : count;
        penalise_repetition(sampler, s->repetition_penalty, tokens + count - window, window);
    }
    if (s->frequency_penalty != 0 || s->presence_penalty != 0)
        penalise_frequency(sampler, s, tokens + prompt_count, count - prompt_count);
}

/* ---- selecting --------------------------------------------------------------------------------------------------- */

static bool before(const struct sampler_candidate *a, const struct sampler_candidate *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static void swap(struct sampler_candidate *a, struct sampler_candidate *b)
{
    struct sampler_candidate c = *a;
    *a = *b;
    *b = c;
}

/* Hoare's partition of list[begin, end) around a pivot: returns its place; those before it come first. */
static uint32_t partition(struct sampler_candidate *list, uint32_t begin, uint32_t end, uint64_t *mix)
{
    *mix = *mix * 6364136223846793005u + 1442695040888963407u; /* any fixed sequence: no input is slow for all pivots */
    swap(&list[begin], &list[begin + (*mix >> 33) % (end - begin)]);
    struct sampler_candidate pivot = list[begin];
    uint32_t low = begin + 1, high = end - 1;
    for (;;) {
        while (low <= high && before(&list[low], &pivot)) low++;
        while (low <= high && before(&pivot, &list[high])) high--;
        if (low >= high) break;
        swap(&list[low++], &list[high--]);
    }
    swap(&list[begin], &list[low - 1]);
    return low - 1;
}

/* Keys in so many ranges, ascending: the sign, the exponent and three bits more. */
#define RANGES 4096u

static uint32_t key_range(float key)
{
    uint32_t bits;
    float plain = key + 0.0f; /* -0 is 0 */
    memcpy(&bits, &plain, sizeof bits);
    return (bits >> 31 ? ~bits : bits | UINT32_C(1) << 31) >> 20;
}

static double measure(const struct sampler_candidate *candidate, bool counted)
{
    return counted ? 1 : (double)candidate->weight;
}

/* The range in which the measure of the candidates, from the greatest key down, reaches `target` (or the least that has any),
 * and the measure of those above it. */
static uint32_t find_range(const struct sampler *sampler, uint32_t count, bool counted, double target, double *above)
{
    double measures[RANGES] = {0};
    for (uint32_t i = 0; i < count; i++)
        measures[key_range(sampler->kept[i].key)] += measure(&sampler->kept[i], counted);
    uint32_t found = RANGES;
    double reached = 0;
    for (uint32_t range = RANGES; range-- > 0 && reached < target;) {
        if (!(measures[range] > 0)) continue;
        found = range;
        *above = reached;
        reached += measures[range];
    }
    return found;
}

/* Keeps the shortest beginning, in the order of keys, whose measure (each its weight, or 1 when `counted`) reaches
 * `target`, above 0; returns how many. There is at least one candidate with a measure. Selects within one range of keys only. */
static uint32_t keep_beginning(struct sampler *sampler, uint32_t count, bool counted, double target)
{
    struct sampler_candidate *list = sampler->sorted;
    uint32_t begin = 0, end = 0, kept = 0;
    double reached = 0; /* measure of what lies before list[begin] */
    uint32_t range = find_range(sampler, count, counted, target, &reached);
    for (uint32_t i = 0; i < count; i++) {
        list[end] = sampler->kept[i];
        end += key_range(sampler->kept[i].key) == range;
    }
    struct sampler_candidate last = list[0];
    uint64_t mix = 0;
    while (begin < end) { /* the last kept one lies in [begin, end), or is the one before `begin` */
        uint32_t pivot = partition(list, begin, end, &mix);
        double upper = reached;
        for (uint32_t i = begin; i < pivot; i++) upper += measure(&list[i], counted);
        double with_pivot = upper + measure(&list[pivot], counted);
        if (upper >= target && pivot > begin) {
            end = pivot;
            continue;
        }
        last = list[pivot];
        if (with_pivot >= target) break;
        reached = with_pivot;
        begin = pivot + 1;
    }
    for (uint32_t i = 0; i < count; i++)
        if (!before(&last, &sampler->kept[i])) sampler->kept[kept++] = sampler->kept[i];
    return kept;
}

static double sum_weights(const struct sampler *sampler, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += (double)sampler->kept[i].weight;
    return sum;
}

/* ---- filters: each takes and returns the number of candidates ---------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    uint32_t x = ((const struct sampler_candidate *)a)->id, y = ((const struct sampler_candidate *)b)->id;
    return (x > y) - (x < y);
}

/* Candidates by ascending id, key = logit; those at -inf can never be drawn. */
static uint32_t keep_top_k(struct sampler *sampler, const float *logits, uint32_t top_k)
{
    uint32_t count = 0;
    if (top_k > 0 && top_k <= TOP_HEAP_MAX) {
        struct kvasir_logprob top[TOP_HEAP_MAX];
        uint32_t found = logits_top(logits, sampler->vocabulary, top_k, top);
        for (uint32_t i = 0; i < found && top[i].logprob > -INFINITY; i++)
            sampler->kept[count++] = (struct sampler_candidate){.key = top[i].logprob, .id = top[i].id};
        qsort(sampler->kept, count, sizeof *sampler->kept, by_id);
        return count;
    }
    for (uint32_t i = 0; i < sampler->vocabulary; i++) {
        float logit = logit_clean(logits[i]);
        if (logit > -INFINITY) sampler->kept[count++] = (struct sampler_candidate){.key = logit, .id = i};
    }
    if (top_k > 0 && top_k < count) count = keep_beginning(sampler, count, true, top_k);
    return count;
}

/* key = (logit - best) / temperature, weight = exp(key): 1 for the best, 0 where the float ends. */
static void weigh(struct sampler *sampler, uint32_t count, float temperature)
{
    float best = -INFINITY;
    for (uint32_t i = 0; i < count; i++)
        if (sampler->kept[i].key > best) best = sampler->kept[i].key;
    for (uint32_t begin = 0; begin < count; begin += 64) {
        uint32_t own = count - begin < 64 ? count - begin : 64;
        struct sampler_candidate *list = sampler->kept + begin;
        float keys[64] = {0}, weights[64];
        for (uint32_t i = 0; i < own; i++) keys[i] = list[i].key == best ? 0 : (list[i].key - best) / temperature;
        exp_row(keys, 64, weights);
        for (uint32_t i = 0; i < own; i++) {
            list[i].key = keys[i];
            list[i].weight = weights[i];
        }
    }
}

/* Meister et al. 2022: those whose surprise -log p is nearest to the distribution's entropy, until they reach p. */
static uint32_t keep_typical(struct sampler *sampler, uint32_t count, float p)
{
    double sum = sum_weights(sampler, count), log_sum = log(sum), mean = 0;
    for (uint32_t i = 0; i < count; i++)
        if (sampler->kept[i].weight > 0) mean += (double)sampler->kept[i].weight * (double)sampler->kept[i].key;
    double entropy = log_sum - mean / sum;
    for (uint32_t i = 0; i < count; i++) {
        struct sampler_candidate *c = &sampler->kept[i];
        c->key = (float)-fabs(log_sum - (double)c->key - entropy);
    }
    return keep_beginning(sampler, count, false, (double)p * sum);
}

/* Holtzman et al. 2019; `sum`: of the distribution that the candidates are of. */
static uint32_t keep_top_p(struct sampler *sampler, uint32_t count, float p, double sum)
{
    for (uint32_t i = 0; i < count; i++) sampler->kept[i].key = sampler->kept[i].weight;
    return keep_beginning(sampler, count, false, (double)p * sum);
}

static uint32_t keep_min_p(struct sampler *sampler, uint32_t count, float p)
{
    uint32_t kept = 0;
    float most = 0;
    for (uint32_t i = 0; i < count; i++)
        if (sampler->kept[i].weight > most) most = sampler->kept[i].weight;
    for (uint32_t i = 0; i < count; i++)
        if (sampler->kept[i].weight >= p * most) sampler->kept[kept++] = sampler->kept[i];
    return kept;
}

/* ---- the whole vocabulary ---------------------------------------------------------------------------------------- */

/* Most requests draw from all tokens, or from those that top-p or min-p leave of them. Then there is no list of all: weights
 * are a row, and its sum is that of LANES sums side by side, by blocks, so that compilers use vectors and no bit depends on
 * which. */
#define LANES 16u
#define BLOCK 512u /* a multiple of LANES */

static double block_sum(const float *weights, uint32_t count)
{
    double lanes[LANES] = {0}, sum = 0;
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (uint32_t l = 0; l < LANES; l++) lanes[l] += (double)weights[i + l];
    for (uint32_t l = 0; i + l < count; l++) lanes[l] += (double)weights[i + l];
    for (uint32_t l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

/* weights[i] = e^((logit - best) / temperature), in place of the logits: 1 for the best, 0 for -inf and NaN. Their sum. */
static double weigh_row(struct sampler *sampler, const float *logits, float best, float temperature)
{
    double sum = 0;
    for (uint32_t begin = 0; begin < sampler->vocabulary; begin += BLOCK) {
        uint32_t own = sampler->vocabulary - begin < BLOCK ? sampler->vocabulary - begin : BLOCK;
        float keys[BLOCK];
        for (uint32_t i = 0; i < own; i++) {
            float logit = logits[begin + i];
            keys[i] = ((FLT_MAX < logit ? FLT_MAX : logit) - best) / temperature;
        }
        exp_row(keys, own, sampler->logits + begin);
        sum += block_sum(sampler->logits + begin, own);
    }
    return sum;
}

/* Those with at least this weight. */
static uint32_t keep_heavy(struct sampler *sampler, float least)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < sampler->vocabulary; i++) {
        float weight = sampler->logits[i];
        sampler->kept[kept] = (struct sampler_candidate){.key = weight, .weight = weight, .id = i};
        kept += weight >= least;
    }
    return kept;
}

static uint32_t draw_row(const struct sampler *sampler, double target)
{
    double reached = 0;
    uint32_t last = 0;
    for (uint32_t begin = 0; begin < sampler->vocabulary; begin += BLOCK) {
        uint32_t own = sampler->vocabulary - begin < BLOCK ? sampler->vocabulary - begin : BLOCK;
        const float *weights = sampler->logits + begin;
        double before_block = reached;
        reached += block_sum(weights, own);
        if (reached <= target && begin + own < sampler->vocabulary) continue;
        for (uint32_t i = 0; i < own; i++) {
            if (!(weights[i] > 0)) continue;
            last = begin + i;
            before_block += (double)weights[i];
            if (before_block > target) return last;
        }
    }
    return last;
}

/* ---- the pick ---------------------------------------------------------------------------------------------------- */

static uint32_t draw(const struct sampler *sampler, uint32_t count, double unit)
{
    double target = unit * sum_weights(sampler, count), reached = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!(sampler->kept[i].weight > 0)) continue;
        last = sampler->kept[i].id;
        reached += (double)sampler->kept[i].weight;
        if (reached > target) break;
    }
    return last;
}

static bool filters(float p)
{
    return p > 0 && p < 1;
}

/* Greedy's choice. A row without a number, such as one of NaN, gives token 0, unless a set says what is allowed. */
static uint32_t best(const struct sampler *sampler, const float *logits, const uint64_t *allowed)
{
    uint32_t id = logits_best(logits, sampler->vocabulary);
    return allowed && !(logits[id] > -INFINITY) ? SAMPLER_NONE : id;
}

/* `first`: greedy's choice. Tokens so light that all of them together are less than half of what top-p may drop are not needed
 * to find what it keeps. */
static uint32_t pick_of_all(struct sampler *sampler, const struct kvasir_sampling *s, const float *logits,
                            uint32_t first, double unit)
{
    if (first == SAMPLER_NONE || !(logits[first] > -INFINITY)) return first; /* nothing is possible */
    double sum = weigh_row(sampler, logits, logit_clean(logits[first]), s->temperature);
    if (!filters(s->top_p) && !(s->min_p > 0)) return draw_row(sampler, unit * sum);
    float dispensable = (float)((1 - (double)s->top_p) * sum / sampler->vocabulary / 2);
    uint32_t kept = keep_heavy(sampler, filters(s->top_p) ? dispensable : s->min_p);
    if (filters(s->top_p)) kept = keep_top_p(sampler, kept, s->top_p, sum);
    if (s->min_p > 0) kept = keep_min_p(sampler, kept, s->min_p);
    return draw(sampler, kept, unit);
}

uint32_t sampler_pick(struct sampler *sampler, const struct kvasir_sampling *s, const uint64_t *allowed,
                      struct random *random, const float *logits, const uint32_t *tokens, uint32_t count,
                      uint32_t prompt_count)
{
    if (allowed || changes_logits(s)) {
        change_logits(sampler, s, allowed, logits, tokens, count, prompt_count);
        logits = sampler->logits;
    }
    if (s->temperature == 0) return best(sampler, logits, allowed);
    double unit = random_unit(random);
    if (!s->top_k && !filters(s->typical_p))
        return pick_of_all(sampler, s, logits, best(sampler, logits, allowed), unit);
    uint32_t kept = keep_top_k(sampler, logits, s->top_k);
    if (!kept) return best(sampler, logits, allowed); /* nothing is possible */
    weigh(sampler, kept, s->temperature);
    if (filters(s->typical_p)) kept = keep_typical(sampler, kept, s->typical_p);
    if (filters(s->top_p)) kept = keep_top_p(sampler, kept, s->top_p, sum_weights(sampler, kept));
    if (s->min_p > 0) kept = keep_min_p(sampler, kept, s->min_p);
    return draw(sampler, kept, unit);
}
