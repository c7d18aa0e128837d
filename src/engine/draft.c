/* draft.c - prompt lookup: what may come next, from what came before.
 *
 * Answers repeat their prompts: names, quotations, code that is edited. The last tokens are looked for further up, and what
 * followed them there is a draft (Saxena 2023, Prompt Lookup Decoding; Yang et al. 2023, Inference with Reference). A pass over the
 * next token and its draft gives a row of logits for each; tokens are taken from them one after the other as if each had had
 * a pass of its own, as long as what is sampled is what was drafted. The rows being the same bits as in passes of their own, an
 * answer has the same tokens with drafts and without, greedy or sampled. There is no second model, and a wrong draft costs time only. */
#include "engine/engine_internal.h"

#define MATCH_MIN 2u /* tokens in common before a draft */
#define MATCH_MAX 8u /* more do not make it better */

uint32_t draft_find(const uint32_t *tokens, uint32_t count, uint32_t most, uint32_t *out)
{
    uint32_t best = MATCH_MIN - 1, from = 0;
    if (count < MATCH_MIN + 1) return 0;
    for (uint32_t end = count - 1; end >= MATCH_MIN && best < MATCH_MAX; end--) { /* of equal ones the latest */
        uint32_t match = 0;
        while (match < end && match < MATCH_MAX && tokens[end - 1 - match] == tokens[count - 1 - match]) match++;
        if (match <= best) continue;
        best = match;
        from = end;
    }
    uint32_t drafted = 0;
    for (; from && drafted < most && from + drafted < count; drafted++) out[drafted] = tokens[from + drafted];
    return drafted;
}

/* ---- whether it pays --------------------------------------------------------------------------------------------- */

#define CHANCE_FIRST 0.5  /* that a drafted token is right, before any was verified */
#define CHANCE_FADE 0.15  /* weight of the newest verification */
#define CHANCE_DRIFT 0.01 /* back to the first guess, with every draft that was not tried */
#define GAIN_MIN 1.05     /* of tokens a second, for drafts to be tried */

void draft_init(struct draft *draft)
{
    *draft = (struct draft){.chance = CHANCE_FIRST};
}

uint32_t draft_worthwhile(struct draft *draft, const struct cost *cost, double tokens, uint32_t rows, uint32_t most)
{
    double before = tokens / cost_rows_seconds(cost, rows), best = before * GAIN_MIN, right = 1;
    uint32_t count = 0;
    for (uint32_t d = 1; d <= most; d++) {
        right *= draft->chance;
        tokens += right;
        double rate = tokens / cost_rows_seconds(cost, rows + d);
        if (rate <= best) continue;
        best = rate;
        count = d;
    }
    if (!count) draft->chance += CHANCE_DRIFT * (CHANCE_FIRST - draft->chance);
    return count;
}

void draft_verified(struct draft *draft, uint32_t drafted, uint32_t right)
{
    for (uint32_t i = 0; i < right; i++) draft->chance += CHANCE_FADE * (1 - draft->chance);
    if (right < drafted) draft->chance -= CHANCE_FADE * draft->chance;
    draft->drafted += drafted;
    draft->right += right;
}
