/* test_scheduler_sim.c - the real scheduler and the real KV cache with a fake model and a fake clock.
 *
 * The fake model's rows are hashes of all tokens before them (kv_fake.h), and its next token is a hash too: a row that is wrong,
 * or a token that is lost, repeated or taken out of turn, shows by value. The rows of answers with retrieval attention have other
 * values from their first sparse token on, which must run alone: so one that another request finds, or an exact one in their place,
 * shows too. Scenarios are random: budgets, windows, limits, swap space, tiers below RAM that are slow, full or forgetful, arrivals,
 * priorities, tenants, common prefixes, several answers, chats, cancellations, readers that pause their answers; some are run twice, as after a restart. Every request must end, each step
 * must keep its limits, and when all have ended nothing may be held. */
#include "engine/engine_internal.h"
#include "kv_requests.h"
#include "store_fake.h"

#define REQUESTS_MAX 24
#define PROMPT_MAX 200u
#define ANSWER_MAX 60u
#define CONTEXT (PROMPT_MAX + ANSWER_MAX)

struct job {
    struct request r;
    struct fake_seq fake;
    double arrival_s, cancel_s, ended_s, first_s;
    bool submitted, ended;
};

struct sim {
    struct random random;
    struct kv_config config;
    struct kv_cache *cache;
    struct scheduler scheduler;
    struct job jobs[REQUESTS_MAX];
    uint32_t job_count;
    double now, fixed_s, unit_s, noise; /* of the fake machine */
    bool pauses;                        /* some answers stand still for a while */
    bool tiles;                         /* all answers' rows are their sequences' own */
    bool chats;                         /* some requests are followed by one that goes on with prompt and answer */
    uint64_t steps, computed;
    struct fake_store store;
    struct kv_lower_tier lower;
    struct totals {
        uint64_t scenarios, steps, preemptions, swapped, deferrals, forks, cancelled, sparse, replayed, turns;
        uint64_t pauses, displaced; /* displaced: paused ones that lost their place or blocks */
        uint64_t lower_tokens, late;
    } * totals;
};

static uint32_t below(struct sim *sim, uint32_t limit)
{
    return (uint32_t)random_below(&sim->random, limit);
}

/* ---- the fake model ---------------------------------------------------------------------------------------------- */

static uint32_t next_token(uint64_t prefix)
{
    return (uint32_t)(fake_mix(prefix, 77) >> 44);
}

static struct job *job_of(struct sim *sim, const struct request *r)
{
    for (uint32_t i = 0; i < sim->job_count; i++)
        if (&sim->jobs[i].r == r) return &sim->jobs[i];
    fail_msg("a request that was never submitted is in the batch");
    return NULL;
}

static void run_batch(struct sim *sim)
{
    struct scheduler *s = &sim->scheduler;
    struct kv_seq *seqs[REQUESTS_MAX];
    struct kv_batch *batch;
    for (uint32_t i = 0; i < s->batch_count; i++) {
        struct job *job = job_of(sim, s->batch[i]);
        struct request *r = &job->r;
        seqs[i] = job->fake.seq = r->seq;
        job->fake.count = kv_seq_count(r->seq);
        assert_true(!r->paused);
        assert_true(r->planned > 0 && job->fake.count + r->planned <= r->count);
        assert_true(!r->sparse_from || r->planned == 1 || job->fake.count + r->planned <= r->sparse_from);
        assert_true(job->fake.count >= r->own_from || job->fake.count + r->planned <= r->own_from);
        bool sparse = request_is_sparse(r, job->fake.count);
        sim->totals->sparse += sparse;
        sim->totals->replayed += sparse && job->fake.count + 1 < r->count;
        memcpy(job->fake.tokens, r->tokens, r->count * sizeof *r->tokens);
        fake_hash(&job->fake, 0, r->count);
        sim->computed += r->planned;
    }
    assert_int_equal(kv_batch_pin(sim->cache, seqs, s->batch_count, &batch), ST_OK);
    for (uint32_t layer = 0; layer < sim->config.layer_count; layer++)
        for (uint32_t i = 0; i < s->batch_count; i++) {
            const struct job *job = job_of(sim, s->batch[i]);
            fake_write_layer(&job->fake, &sim->config, layer, job->r.planned);
            for (uint32_t h = 0; h < sim->config.layers[layer].kv_heads; h++)
                fake_verify_head(&job->fake, &sim->config, layer, h, job->fake.count + job->r.planned - 1);
        }
    kv_batch_unpin(batch);
    for (uint32_t i = 0; i < s->batch_count; i++) {
        struct request *r = s->batch[i];
        kv_seq_commit(r->seq, r->tokens + kv_seq_count(r->seq), r->planned);
    }
}

static struct job *add_job(struct sim *sim, double arrival_s, uint32_t prompt, uint32_t answer);

/* The next turn of a chat, or who quotes an answer that is still given: the prompt is computed exactly, whatever the answer was. */
static void next_turn(struct sim *sim, const struct request *before)
{
    uint32_t prompt = before->count + 1 + below(sim, 9);
    if (sim->job_count == REQUESTS_MAX || prompt > PROMPT_MAX) return;
    struct request *r = &add_job(sim, sim->now, prompt, 1 + below(sim, ANSWER_MAX))->r;
    memcpy(r->tokens, before->tokens, before->count * sizeof *r->tokens);
    r->cache_salt = before->cache_salt;
    sim->totals->turns++;
}

/* The next token of a request whose last one was just computed. */
static void take(struct sim *sim, struct request *r)
{
    struct job *job = job_of(sim, r);
    assert_true(r->count < r->capacity && kv_seq_count(r->seq) == r->count);
    if (job->first_s == 0) job->first_s = sim->now;
    memcpy(job->fake.tokens, r->tokens, r->count * sizeof *r->tokens);
    fake_hash(&job->fake, 0, r->count);
    r->tokens[r->count] = next_token(job->fake.prefix[r->count - 1]) + r->index;
    r->count++;
    if (sim->chats && r->count < r->count_max && below(sim, 200) == 0) next_turn(sim, r);
}

/* ---- one step ---------------------------------------------------------------------------------------------------- */

static void check_limits(const struct sim *sim)
{
    const struct scheduler *s = &sim->scheduler;
    uint32_t prompt = 0, answers = 0;
    assert_true(s->batch_count <= s->limits.sequences && s->running_count <= s->limits.sequences);
    for (uint32_t i = 0; i < s->batch_count; i++) {
        const struct request *r = s->batch[i];
        uint32_t done = kv_seq_count(r->seq);
        bool answer = r->planned == 1 && (done + 1 == r->count || request_is_sparse(r, done));
        answers += answer;
        prompt += answer ? 0 : r->planned;
    }
    assert_true(prompt <= s->limits.prompt_tokens || prompt == 1);
    if (answers && s->limits.step_s > 0 && s->cost.unit_s > 0 && prompt > 1)
        assert_true(cost_seconds(&s->cost, s->units) <= s->limits.step_s * 1.0001);
    struct error error;
    if (kv_check(sim->cache, &error) != ST_OK) fail_msg("%s", error.text);
}

static void end(struct sim *sim, struct job *job)
{
    struct request *r = &job->r;
    fake_hash(&job->fake, 0, 0);
    scheduler_remove(&sim->scheduler, r);
    job->ended = true;
    job->ended_s = sim->now;
    memcpy(job->fake.tokens, r->tokens, r->count * sizeof *r->tokens);
    fake_hash(&job->fake, 0, r->count);
    for (uint32_t i = r->prompt_count; i < r->count; i++)
        assert_int_equal(r->tokens[i], next_token(job->fake.prefix[i - 1]) + r->index);
}

static void take_followers(struct sim *sim, struct request *leader)
{
    for (uint32_t i = 0; i < sim->job_count; i++) {
        struct request *r = &sim->jobs[i].r;
        if (!sim->jobs[i].submitted || sim->jobs[i].ended || r->leader != leader) continue;
        r->leader = NULL;
        leader->followers--;
        if (!scheduler_fork(&sim->scheduler, leader, r)) continue;
        sim->totals->forks++;
        take(sim, r);
    }
}

static void step(struct sim *sim)
{
    struct scheduler *s = &sim->scheduler;
    kv_swap_poll(sim->cache, false);
    kv_lower_poll(sim->cache, 0);
    uint32_t kept = s->running_count - scheduler_active_count(s);
    assert_int_equal(scheduler_plan(s, sim->now), ST_OK);
    sim->totals->displaced += kept - (s->running_count - scheduler_active_count(s));
    check_limits(sim);
    if (scheduler_count(s) > s->paused) assert_true(s->batch_count > 0); /* every step gets on */
    if (!s->batch_count) return;
    run_batch(sim);
    double seconds = (sim->fixed_s + sim->unit_s * s->units) * (1 + sim->noise * random_unit(&sim->random));
    sim->now += seconds;
    scheduler_ran(s, seconds);
    uint32_t count = s->batch_count;
    for (uint32_t i = 0; i < count; i++) {
        struct request *r = s->batch[i];
        if (kv_seq_count(r->seq) < r->count) continue;
        if (r->followers) take_followers(sim, r);
        take(sim, r);
    }
    for (uint32_t i = 0; i < sim->job_count; i++) {
        struct job *job = &sim->jobs[i];
        if (!job->submitted || job->ended || job->r.count < job->r.count_max) continue;
        end(sim, job);
        if (sim->chats && below(sim, 6) == 0) next_turn(sim, &job->r);
    }
    sim->steps++;
}

/* ---- scenarios --------------------------------------------------------------------------------------------------- */

static struct job *add_job(struct sim *sim, double arrival_s, uint32_t prompt, uint32_t answer)
{
    struct job *job = &sim->jobs[sim->job_count];
    assert_true(sim->job_count < REQUESTS_MAX);
    memset(job, 0, sizeof *job);
    job->arrival_s = arrival_s;
    job->cancel_s = 1e30;
    job->r.id = ++sim->job_count;
    job->r.tokens = mem_zero(prompt, sizeof *job->r.tokens);
    job->r.count = job->r.prompt_count = job->r.capacity = prompt;
    job->r.count_max = prompt + answer;
    if (sim->chats && below(sim, 3) == 0)
        job->r.sparse_from = job->r.own_from = prompt + below(sim, 20);
    else if (sim->tiles)
        job->r.own_from = prompt;
    job->fake.sparse_from = job->r.own_from;
    for (uint32_t i = 0; i < prompt; i++) job->r.tokens[i] = sim->job_count * 1000 + i;
    return job;
}

static void submit_due(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->job_count; i++) {
        struct job *job = &sim->jobs[i];
        if (job->submitted || job->arrival_s > sim->now) continue;
        job->submitted = true;
        job->r.submitted_s = sim->now;
        assert_int_equal(scheduler_add(&sim->scheduler, &job->r), ST_OK);
    }
}

/* A leader goes with its followers, as kvasir_engine_cancel() has it. */
static void cancel_due(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->job_count; i++) {
        struct job *job = &sim->jobs[i];
        if (!job->submitted || job->ended || job->cancel_s > sim->now) continue;
        sim->totals->cancelled++;
        for (uint32_t f = 0; f < sim->job_count; f++)
            if (sim->jobs[f].r.leader == &job->r && sim->jobs[f].submitted && !sim->jobs[f].ended) {
                sim->jobs[f].r.leader = NULL;
                end(sim, &sim->jobs[f]);
            }
        if (job->r.leader) job->r.leader->followers--, job->r.leader = NULL;
        end(sim, job);
    }
}

/* Answers stand still and go on, as their readers please. */
static void pause_some(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->job_count && sim->pauses; i++) {
        struct job *job = &sim->jobs[i];
        if (!job->submitted || job->ended || job->first_s == 0 || below(sim, 20)) continue;
        sim->totals->pauses += !job->r.paused;
        scheduler_pause(&sim->scheduler, &job->r, !job->r.paused);
    }
}

static bool all_ended(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->job_count; i++)
        if (!sim->jobs[i].ended) return false;
    return true;
}

static void run_all(struct sim *sim)
{
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < sim->job_count; i++) tokens += sim->jobs[i].r.count_max;
    for (uint64_t limit = 200 * tokens; !all_ended(sim); limit--) {
        if (!limit) fail_msg("requests do not end");
        cancel_due(sim);
        submit_due(sim);
        pause_some(sim);
        struct scheduler *s = &sim->scheduler;
        if (scheduler_count(s) == s->paused) {
            sim->now += 0.01;
            continue;
        }
        step(sim);
    }
}

static void open_sim(struct sim *sim, const struct scheduler_limits *limits)
{
    struct error error;
    const struct cost cost = {.key_units = 1e-3 * below(sim, 5), .logits_units = 0.5};
    if (kv_open(&sim->config, &sim->cache, &error) != ST_OK) fail_msg("%s", error.text);
    assert_int_equal(scheduler_init(&sim->scheduler, sim->cache, &cost, limits), ST_OK);
    sim->job_count = 0;
    sim->now = 1000;
    sim->steps = sim->computed = 0;
    sim->fixed_s = 0.001 * below(sim, 20);
    sim->unit_s = 0.0001 * (1 + below(sim, 20));
    sim->noise = 0.3;
}

static void close_sim(struct sim *sim)
{
    struct kv_stats stats;
    struct error error;
    assert_true(scheduler_count(&sim->scheduler) == 0 && sim->scheduler.paused == 0);
    kv_swap_poll(sim->cache, true);
    kv_stats(sim->cache, &stats);
    assert_true(stats.sequences == 0 && stats.blocks_used == 0 && stats.bytes_swapped == 0);
    for (uint32_t i = 0; i < sim->scheduler.tenant_count; i++) assert_int_equal(sim->scheduler.tenants[i].requests, 0);
    if (kv_check(sim->cache, &error) != ST_OK) fail_msg("%s", error.text);
    sim->totals->scenarios++;
    sim->totals->steps += sim->steps;
    sim->totals->preemptions += sim->scheduler.preemptions;
    sim->totals->swapped += sim->scheduler.swapped;
    sim->totals->deferrals += sim->scheduler.deferrals;
    sim->totals->lower_tokens += sim->scheduler.lower_tokens[0];
    sim->totals->late += sim->scheduler.fetches_late;
    for (uint32_t i = 0; i < sim->job_count; i++) mem_free(sim->jobs[i].r.tokens);
    scheduler_release(&sim->scheduler);
    kv_close(sim->cache);
}

static void choose_config(struct sim *sim)
{
    bool windows = below(sim, 2);
    sim->config =
        config_of(windows ? hybrid : full, windows ? ARRAY_COUNT(hybrid) : ARRAY_COUNT(full), 16u << below(sim, 3));
    uint64_t one = kv_bytes_needed(&sim->config, CONTEXT, 256);
    sim->config.bytes_max = one + random_below(&sim->random, 3 * one);
    sim->config.swap_bytes_max = below(sim, 2) ? random_below(&sim->random, 4 * one) : 0;
    sim->config.share_prefixes = below(sim, 8) > 0;
    fake_store_init(&sim->store);
    sim->lower = (struct kv_lower_tier){KV_TIER_DISK, &sim->store.store};
    sim->config.lower = &sim->lower;
    sim->config.lower_count = sim->config.share_prefixes && below(sim, 2);
    sim->config.lower_queue_bytes = 1u << (12 + below(sim, 8));
    sim->config.lower_close_s = 1;
    sim->store.seed = below(sim, 1000);
    sim->store.refused = below(sim, 3) ? 0 : below(sim, 64);
    sim->store.vanished = below(sim, 3) ? 0 : below(sim, 64);
    sim->store.damaged = below(sim, 3) ? 0 : below(sim, 64);
    sim->store.blobs_max = below(sim, 4) ? 0 : below(sim, 100);
    sim->store.delay_s = below(sim, 8) ? 0 : below(sim, 8) ? 5e-5 : 0.01;
}

static void random_jobs(struct sim *sim)
{
    uint32_t count = 2 + below(sim, 12);
    double arrival_s = sim->now;
    while (sim->job_count < count) {
        uint32_t n = below(sim, 5) ? 1 : 2 + below(sim, 3), common = below(sim, 3) ? 0 : below(sim, PROMPT_MAX);
        struct job *leader = add_job(sim, arrival_s, 1 + below(sim, PROMPT_MAX), 1 + below(sim, ANSWER_MAX));
        struct request *r = &leader->r;
        for (uint32_t i = 0; i < common && i < r->prompt_count; i++) r->tokens[i] = i;
        r->priority = (int32_t)below(sim, 3) - 1;
        r->tenant_id = below(sim, 3);
        r->cache_salt = below(sim, 4) == 0;
        if (!below(sim, 6)) leader->cancel_s = arrival_s + random_unit(&sim->random);
        for (uint32_t f = 1; f < n; f++) {
            struct job *job = add_job(sim, arrival_s, r->prompt_count, 1 + below(sim, ANSWER_MAX));
            memcpy(job->r.tokens, r->tokens, r->prompt_count * sizeof *r->tokens);
            job->r.sparse_from = r->sparse_from;
            job->fake.sparse_from = job->r.own_from = r->own_from;
            job->r.id = r->id;
            job->r.index = f;
            job->r.leader = r;
            job->r.cache_salt = r->cache_salt;
            r->followers++;
        }
        arrival_s += below(sim, 2) ? 0.2 * random_unit(&sim->random) : 0;
    }
}

static void test_random_scenarios(void **state)
{
    (void)state;
    static struct sim sim;
    struct totals totals = {0};
    sim.totals = &totals;
    sim.chats = true;
    for (uint32_t seed = 1; seed <= test_count(1500, 100000); seed++) {
        random_seed(&sim.random, seed);
        choose_config(&sim);
        sim.pauses = below(&sim, 2);
        sim.tiles = below(&sim, 2);
        const struct scheduler_limits limits = {.sequences = 1 + below(&sim, 8),
                                                .prompt_tokens = 1u << (2 + below(&sim, 7)),
                                                .step_s = below(&sim, 3) ? 0 : 0.001 * (1 + below(&sim, 50)),
                                                .aging_s = 0.5 + below(&sim, 10),
                                                .context = CONTEXT,
                                                .reserve = below(&sim, 6) == 0,
                                                .block_tokens = sim.config.block_tokens,
                                                .tile_tokens = below(&sim, 2) ? 32 : 0,
                                                .lower_tiers = sim.config.lower_count > 0,
                                                .unit_least_s = below(&sim, 2) ? 0 : 1e-5};
        const uint32_t restarts = sim.config.lower_count ? below(&sim, 2) : 0;
        struct random jobs = sim.random;
        for (uint32_t run = 0; run <= restarts; run++) {
            sim.random = jobs;
            open_sim(&sim, &limits);
            random_jobs(&sim);
            run_all(&sim);
            close_sim(&sim);
        }
        fake_store_release(&sim.store);
    }
    print_message("%llu scenarios, %llu steps: %llu preemptions, %llu swapped, %llu prefixes awaited, %llu forks, %llu "
                  "cancelled, %llu next turns; %llu sparse tokens, %llu computed again\n",
                  (unsigned long long)totals.scenarios, (unsigned long long)totals.steps,
                  (unsigned long long)totals.preemptions, (unsigned long long)totals.swapped,
                  (unsigned long long)totals.deferrals, (unsigned long long)totals.forks,
                  (unsigned long long)totals.cancelled, (unsigned long long)totals.turns,
                  (unsigned long long)totals.sparse, (unsigned long long)totals.replayed);
    print_message("%llu pauses, of which %llu lost their place or blocks\n", (unsigned long long)totals.pauses,
                  (unsigned long long)totals.displaced);
    print_message("below RAM: %llu tokens found, %llu fetches late\n", (unsigned long long)totals.lower_tokens,
                  (unsigned long long)totals.late);
    assert_true(totals.preemptions > 100 && totals.swapped > 20 && totals.deferrals > 50);
    assert_true(totals.forks > 100 && totals.cancelled > 100);
    assert_true(totals.pauses > 1000 && totals.displaced > 100);
    assert_true(totals.turns > 100 && totals.sparse > 1000 && totals.replayed > 100);
    assert_true(totals.lower_tokens > 10000 && totals.late > 0);
}

/* ---- what the policy promises ------------------------------------------------------------------------------------ */

static struct totals unused;

/* Room for everything, and a machine whose prompts' tokens cost a millisecond. */
static void open_wide(struct sim *sim, uint32_t sequences, double aging_s)
{
    memset(sim, 0, sizeof *sim);
    sim->totals = &unused;
    random_seed(&sim->random, 1);
    sim->config = config_of(full, ARRAY_COUNT(full), 16);
    open_sim(
        sim,
        &(struct scheduler_limits){
            .sequences = sequences, .prompt_tokens = 512, .aging_s = aging_s, .context = CONTEXT, .block_tokens = 16});
    sim->fixed_s = 0.005;
    sim->unit_s = 0.001;
    sim->noise = 0;
}

static struct sim wide;

static void test_priorities(void **state)
{
    (void)state;
    open_wide(&wide, 1, 1e6);
    struct job *late = add_job(&wide, wide.now, 20, 10), *soon = add_job(&wide, wide.now, 20, 10);
    struct job *now = add_job(&wide, wide.now + 0.02, 20, 10); /* makes way for itself */
    late->r.priority = 2;
    soon->r.priority = 1;
    now->r.priority = -1;
    run_all(&wide);
    assert_true(now->ended_s < soon->ended_s && soon->ended_s < late->ended_s);
    assert_true(wide.scheduler.preemptions > 0);
    close_sim(&wide);
}

/* Urgent requests never cease to come: the other one ends all the same, when it has grown old enough. */
static void test_nobody_starves(void **state)
{
    (void)state;
    open_wide(&wide, 1, 0.1);
    struct job *humble = add_job(&wide, wide.now, 20, 3);
    humble->r.priority = 3;
    for (uint32_t i = 0; i < REQUESTS_MAX - 1; i++) add_job(&wide, wide.now + 0.05 * i, 20, 10);
    run_all(&wide);
    assert_true(humble->ended_s < wide.jobs[REQUESTS_MAX - 1].ended_s);
    assert_true(humble->ended_s > wide.jobs[2].ended_s);
    close_sim(&wide);
}

/* One tenant submits three times as many requests, and first: the other's do not wait for all of them. */
static void test_tenants_share(void **state)
{
    (void)state;
    open_wide(&wide, 2, 1e6);
    for (uint32_t i = 0; i < 18; i++) add_job(&wide, wide.now, 40, 20)->r.tenant_id = 1;
    for (uint32_t i = 0; i < 6; i++) add_job(&wide, wide.now, 40, 20)->r.tenant_id = 2;
    run_all(&wide);
    uint32_t before = 0; /* of the first tenant's, that end before the second's last */
    double last_s = 0;
    for (uint32_t i = 18; i < 24; i++) last_s = wide.jobs[i].ended_s > last_s ? wide.jobs[i].ended_s : last_s;
    for (uint32_t i = 0; i < 18; i++) before += wide.jobs[i].ended_s <= last_s;
    assert_true(before >= 5 && before <= 8);
    close_sim(&wide);
}

/* Twelve requests arrive together and begin alike: what they share is computed once. */
static void test_prefix_is_awaited(void **state)
{
    (void)state;
    open_wide(&wide, 12, 1e6);
    wide.scheduler.limits.prompt_tokens = 32;
    for (uint32_t i = 0; i < 12; i++) {
        struct job *job = add_job(&wide, wide.now, 180, 2);
        for (uint32_t t = 0; t < 160; t++) job->r.tokens[t] = t;
    }
    run_all(&wide);
    assert_int_equal(wide.computed, 160 + 12 * (20 + 1));
    close_sim(&wide);
}

/* A long prompt arrives while others decode: no step is much longer than twice what it was, and the prompt does not take much
 * longer than twice its time alone. */
static void test_long_prompt(void **state)
{
    (void)state;
    open_wide(&wide, 8, 1e6);
    struct job *alone = add_job(&wide, wide.now, PROMPT_MAX, 1);
    run_all(&wide);
    double alone_s = alone->ended_s - alone->arrival_s, longest_s = 0;
    for (uint32_t i = 0; i < 7; i++) add_job(&wide, wide.now, 4, 60);
    struct job *prompt = add_job(&wide, wide.now + 0.2, PROMPT_MAX, 1);
    for (uint32_t t = 0; t < PROMPT_MAX; t++) prompt->r.tokens[t] += 7;
    while (!prompt->ended) {
        double before_s = wide.now;
        submit_due(&wide);
        step(&wide);
        if (prompt->submitted && wide.now - before_s > longest_s) longest_s = wide.now - before_s;
    }
    double answers_s = wide.fixed_s + wide.unit_s * 7 * (1 + wide.scheduler.cost.logits_units + 64 * 1e-3 * 4);
    assert_true(longest_s < 2.3 * answers_s);
    assert_true(prompt->ended_s - prompt->arrival_s < 2.3 * alone_s);
    run_all(&wide);
    close_sim(&wide);
}

/* Two answers that nobody reads have all places: others, urgent or not, do not wait for them, and take no longer than alone. Then
 * they go on. */
static void test_paused_give_way(void **state)
{
    (void)state;
    open_wide(&wide, 2, 1e6);
    struct job *alone = add_job(&wide, wide.now, 40, 20);
    run_all(&wide);
    double alone_s = alone->ended_s - alone->arrival_s;
    struct job *unread[2];
    for (uint32_t i = 0; i < 2; i++) unread[i] = add_job(&wide, wide.now, 20, 30);
    while (unread[0]->first_s == 0 || unread[1]->first_s == 0) {
        submit_due(&wide);
        step(&wide);
    }
    for (uint32_t i = 0; i < 2; i++) scheduler_pause(&wide.scheduler, &unread[i]->r, true);
    const uint32_t had = unread[0]->r.count;
    for (uint32_t i = 0; i < 6; i++) {
        struct job *job = add_job(&wide, wide.now, 40, 20);
        job->r.priority = (int32_t)i - 3;
        while (!job->ended) {
            submit_due(&wide);
            step(&wide);
        }
        assert_true(job->ended_s - job->arrival_s < 1.01 * alone_s);
    }
    assert_int_equal(wide.scheduler.preemptions, 1); /* one place was enough */
    assert_true(unread[0]->r.count == had && !unread[0]->ended && !unread[1]->ended);
    for (uint32_t i = 0; i < 2; i++) scheduler_pause(&wide.scheduler, &unread[i]->r, false);
    run_all(&wide);
    close_sim(&wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_scenarios),  cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_nobody_starves),    cmocka_unit_test(test_tenants_share),
        cmocka_unit_test(test_prefix_is_awaited), cmocka_unit_test(test_long_prompt),
        cmocka_unit_test(test_paused_give_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
