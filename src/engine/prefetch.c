/* prefetch.c - what the tiers below RAM have of the prompts that wait is read before they run.
 *
 *   waiting request ──▶ looked up ──▶ found: is reading cheaper? ──▶ read ──▶ cached: it starts on that
 *                           │ late             │ no                  │ late
 *                           └──────────────────┴─────────────────────┴────▶ it computes what is not there
 *
 * A request waits for this while it is predicted to be sooner done so: what is left to read, at the tier's measured rate, against
 * what is left to compute, at the model's. Both are known before the first request: kv measures its stores when it opens, and until
 * a pass was measured, the time of its multiply-adds at the processor's peak stands for it: less than it will be. A disk or a
 * server that stops answering is given up after a part of what it could have saved. */
#include "engine/engine_internal.h"
#include <math.h>

#define FETCHES_MAX 8u      /* of requests that wait, the first ones: for others it is too early */
#define LOOK_NOW_S 0.001    /* that the plan waits for an answer, so that nothing found costs no step */
#define PATIENCE_S 0.02     /* with a tier that does not get on, or, where that is more, */
#define LOOK_PATIENCE 0.05  /* so much of the time to compute what it may have; */
#define READ_PATIENCE 0.25  /* while it reads */
#define PATIENCE_MOST_S 2.0 /* whatever it may have */
#define WAIT_S 0.01

static double compute_s(const struct scheduler *s, uint32_t begin, uint32_t end)
{
    double unit_s = s->cost.unit_s > 0 ? s->cost.unit_s : s->limits.unit_least_s;
    if (end <= begin) return 0;
    return unit_s > 0 ? unit_s * cost_units(&s->cost, begin, end - begin) : INFINITY;
}

/* What is looked for: the prefix of these tokens, of which the last must run. */
struct prompt {
    const uint32_t *tokens;
    uint32_t count;
    uint64_t salt;
};

static struct prompt prompt_of(const struct request *r)
{
    return (struct prompt){r->tokens, request_match_count(r), r->cache_salt};
}

static void end(struct prefetch *p)
{
    if (p->fetch) {
        struct kv_fetch_info info;
        kv_fetch_info(p->fetch, &info);
        for (uint32_t t = 0; t < KV_LOWER_TIERS_MAX; t++) p->from[t] += info.from[t];
        kv_fetch_close(p->fetch);
        p->fetch = NULL;
    }
    p->done = true;
}

void prefetch_end(struct request *r)
{
    end(&r->prefetch);
}

static void begin(struct scheduler *s, const struct prompt *prompt, struct prefetch *p)
{
    enum status status = kv_fetch_open(s->kv, prompt->tokens, prompt->count, prompt->salt, &p->fetch);
    p->done = status != ST_OK || !p->fetch;
    p->evictions = kv_evictions(s->kv);
    p->moved_s = s->now;
    p->state = KV_FETCH_LOOKING;
    p->bytes_left = 0;
    if (p->fetch) kv_lower_poll(s->kv, LOOK_NOW_S);
}

/* Whether it is no longer worth waiting for. */
static bool is_late(const struct scheduler *s, const struct prompt *prompt, const struct prefetch *p,
                    const struct kv_fetch_info *info)
{
    bool looks = info->state == KV_FETCH_LOOKING;
    uint32_t there = info->arrived > info->cached ? info->arrived : info->cached;
    double gain_s = compute_s(s, there, looks ? prompt->count : info->found);
    double patience_s = (looks ? LOOK_PATIENCE : READ_PATIENCE) * gain_s;
    if (patience_s < PATIENCE_S) patience_s = PATIENCE_S;
    if (patience_s > PATIENCE_MOST_S) patience_s = PATIENCE_MOST_S;
    return info->left_s >= gain_s || s->now - p->moved_s > patience_s;
}

/* Takes the fetch on as far as it goes now. */
static void drive(struct scheduler *s, const struct prompt *prompt, struct prefetch *p)
{
    if (!p->fetch && !p->done) begin(s, prompt, p);
    for (bool again = true; p->fetch && again;) {
        struct kv_fetch_info info;
        kv_fetch_info(p->fetch, &info);
        if (info.state != p->state || info.bytes_left != p->bytes_left) p->moved_s = s->now;
        p->state = info.state;
        p->bytes_left = info.bytes_left;
        bool late = info.state != KV_FETCH_DONE && is_late(s, prompt, p, &info);
        s->fetches_late += late;
        p->late |= late;
        again = false;
        if (info.state == KV_FETCH_DONE || late) {
            end(p);
        } else if (info.state == KV_FETCH_FOUND && scheduler_has_room(s, info.bytes_left)) {
            enum status status = kv_fetch_start(p->fetch); /* ST_FULL: another one reads */
            if (status == ST_NOMEM) end(p);
            again = status == ST_OK;
        }
    }
}

void prefetch_drive(struct scheduler *s)
{
    uint32_t live = 0;
    for (uint32_t i = 0; s->limits.lower_tiers && i < s->waiting_count && live < FETCHES_MAX; i++) {
        struct request *r = s->waiting[i];
        bool runs_soon = !r->seq && !r->settled && !r->leader && !r->awaited;
        const struct prompt prompt = prompt_of(r);
        if (runs_soon || r->prefetch.fetch) drive(s, &prompt, &r->prefetch);
        live += r->prefetch.fetch != NULL;
    }
}

bool prefetch_holds_up(struct scheduler *s, struct request *r)
{
    struct prefetch *p = &r->prefetch;
    if (!s->limits.lower_tiers) return false;
    if (p->done && !p->late && p->evictions != kv_evictions(s->kv))
        p->done = false; /* it is about to start: once more */
    const struct prompt prompt = prompt_of(r);
    drive(s, &prompt, p);
    /* Where there is no room to read there is none to run: the queue stops here, as always. */
    return p->fetch && (p->state != KV_FETCH_FOUND || prefetch_reads(s));
}

bool prefetch_reads(const struct scheduler *s)
{
    for (uint32_t i = 0; i < s->waiting_count; i++)
        if (s->waiting[i]->prefetch.fetch && s->waiting[i]->prefetch.state != KV_FETCH_FOUND) return true;
    return false;
}

void prefetch_wait(struct scheduler *s)
{
    double began = clock_seconds();
    kv_lower_poll(s->kv, WAIT_S);
    s->now += clock_seconds() - began;
}

void prefetch_now(struct scheduler *s, const uint32_t *tokens, uint32_t count, uint64_t salt)
{
    const struct prompt prompt = {tokens, count, salt};
    struct prefetch p = {0};
    if (!s->limits.lower_tiers) return;
    s->now = clock_seconds();
    drive(s, &prompt, &p);
    while (p.fetch && (p.state != KV_FETCH_FOUND || prefetch_reads(s))) {
        prefetch_wait(s);
        drive(s, &prompt, &p);
    }
    end(&p);
    for (uint32_t t = 0; t < KV_LOWER_TIERS_MAX; t++) s->lower_tokens[t] += p.from[t];
}

void prefetch_used(struct scheduler *s, struct request *r, uint32_t cached)
{
    struct prefetch *p = &r->prefetch;
    for (uint32_t t = 0; t < KV_LOWER_TIERS_MAX; t++) {
        uint32_t tokens = least(p->from[t], cached);
        s->lower_tokens[t] += tokens;
        if (r->started_s == 0) r->lower_tokens += tokens;
        cached -= tokens;
        p->from[t] = 0;
    }
}
