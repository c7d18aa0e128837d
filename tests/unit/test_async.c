/* test_async.c - the asynchronous engine on a tiny checkpoint: whatever several threads submit, cancel and hold at random, an
 * answer has the tokens that the synchronous engine gives; readers that are slow, requests that are refused, memory that
 * runs out, queues that close early. */
#include "engine/async_internal.h"
#include "engine_requests.h"
#include <poll.h>
#include <time.h>

#define WAIT_MS 60000

static struct answer alone[REQUESTS];

static struct kvasir_async *open_async(struct kvasir_engine_options options)
{
    struct kvasir_async *async;
    struct kvasir_error error = {0};
    if (!options.context) options.context = 256;
    if (kvasir_async_open(model, &options, &async, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return async;
}

static struct kvasir_queue *open_queue(struct kvasir_async *async)
{
    struct kvasir_queue *queue;
    assert_int_equal(kvasir_queue_open(async, &queue, NULL), KVASIR_OK);
    return queue;
}

static uint64_t submit(struct kvasir_queue *queue, uint32_t index, uint32_t max_tokens, void *data)
{
    uint32_t prompt[128];
    uint64_t id;
    struct kvasir_request request;
    make_request(index, prompt, &request);
    if (max_tokens) request.max_tokens = max_tokens;
    assert_int_equal(kvasir_queue_submit(queue, &request, data, &id, NULL), KVASIR_OK);
    memset(prompt, 0xff, sizeof prompt); /* submit copied it */
    return id;
}

/* Whether something is to be taken within `ms`. */
static bool ready(const struct kvasir_queue *queue, int ms)
{
    struct pollfd wait = {.fd = kvasir_queue_fd(queue), .events = POLLIN};
    return poll(&wait, 1, ms) == 1;
}

static void take(struct kvasir_queue *queue, struct kvasir_update *out)
{
    if (!ready(queue, WAIT_MS)) fail_msg("no update within a minute");
    assert_true(kvasir_queue_take(queue, out));
}

static enum kvasir_finish take_all(struct kvasir_queue *queue, uint32_t *tokens, uint32_t *count)
{
    struct kvasir_update update;
    do {
        take(queue, &update);
        for (size_t i = 0; i < update.event.token_count; i++) tokens[(*count)++] = update.event.tokens[i].id;
    } while (update.event.finish == KVASIR_RUNNING);
    return update.event.finish;
}

/* ---- many threads ---------------------------------------------------------------------------------------------------- */

#define THREADS 4u
#define AT_ONCE 8u

struct slot {
    bool busy, held;
    bool doomed, cancelled; /* is to be cancelled some time; was */
    uint64_t id;
    uint32_t index;
    struct answer answer;
};

struct client {
    struct kvasir_async *async;
    uint32_t seed, requests, ended, complete;
    const char *failure; /* cmocka's asserts belong to the main thread */
};

static void take_update(struct client *client, const struct kvasir_update *update)
{
    struct slot *slot = update->data;
    const struct kvasir_event *event = &update->event;
    const struct answer *expected = &alone[slot->index];
    if (!slot->busy || event->id != slot->id) client->failure = "an update of another request";
    if (slot->held) client->failure = "an update of a request that is held";
    for (size_t i = 0; i < event->token_count && !client->failure; i++) {
        uint32_t at = slot->answer.count++;
        if (at >= ANSWER || event->tokens[i].id != expected->tokens[at]) client->failure = "another token than alone";
        if (at == 0 && event->tokens[i].logprob != expected->first.logprob) client->failure = "another logprob";
        if (event->tokens[i].top_count != 2 || event->tokens[i].top[0].logprob < event->tokens[i].top[1].logprob)
            client->failure = "alternatives are lost";
    }
    if (event->finish == KVASIR_RUNNING) return;
    bool complete = event->finish == KVASIR_LENGTH && slot->answer.count == ANSWER;
    if (!complete && (event->finish != KVASIR_CANCELLED_BY_CALLER || !slot->cancelled)) client->failure = "a wrong end";
    if (complete && update->timings.output_tokens != ANSWER) client->failure = "timings are missing";
    client->complete += complete;
    client->ended++;
    slot->busy = false;
}

static void client_act(struct client *client, struct kvasir_queue *queue, struct random *random, struct slot *slots)
{
    struct slot *slot = &slots[random_below(random, AT_ONCE)];
    uint64_t what = random_below(random, 10);
    if (!slot->busy && client->requests) {
        *slot = (struct slot){
            .busy = true, .doomed = random_below(random, 3) == 0, .index = (uint32_t)random_below(random, REQUESTS)};
        uint32_t prompt[128];
        struct kvasir_request request;
        make_request(slot->index, prompt, &request);
        request.unread_bytes_max = random_below(random, 2) * random_below(random, 4000);
        if (kvasir_queue_submit(queue, &request, slot, &slot->id, NULL) != KVASIR_OK) client->failure = "submit";
        client->requests--;
    } else if (slot->busy && slot->doomed && what < 2) {
        slot->cancelled = true;
        if (kvasir_queue_cancel(queue, slot->id) != KVASIR_OK) client->failure = "cancel";
    } else if (slot->busy && (slot->held || what < 5)) {
        slot->held = !slot->held;
        if (kvasir_queue_hold(queue, slot->id, slot->held) != KVASIR_OK) client->failure = "hold";
    }
}

static void *client_main(void *data)
{
    struct client *client = data;
    struct slot slots[AT_ONCE] = {0};
    struct random random;
    struct kvasir_queue *queue;
    struct kvasir_engine_stats stats;
    uint32_t wanted = client->requests, idle = 0;
    random_seed(&random, client->seed);
    if (kvasir_queue_open(client->async, &queue, NULL) != KVASIR_OK) {
        client->failure = "queue";
        return NULL;
    }
    while (client->ended < wanted && !client->failure) {
        client_act(client, queue, &random, slots);
        kvasir_async_stats(client->async, &stats);
        if (stats.kv_bytes_used > stats.kv_bytes_budget) client->failure = "over the budget";
        struct kvasir_update update;
        idle = ready(queue, 1) ? 0 : idle + 1;
        if (idle > WAIT_MS) client->failure = "nothing comes";
        if (random_below(&random, 3) && kvasir_queue_take(queue, &update)) take_update(client, &update);
    }
    kvasir_queue_close(queue);
    return NULL;
}

static void test_many_threads(void **state)
{
    (void)state;
    const struct kvasir_engine_options options[] = {
        {.kv_cache_bytes = 8u << 20, .max_sequences = 5},
        {.kv_cache_bytes = 1, .max_batched_tokens = 33, .swap_bytes = 8u << 20}, /* set below: blocks are scarce */
    };
    for (size_t o = 0; o < ARRAY_COUNT(options); o++) {
        struct kvasir_engine_options chosen = options[o];
        if (chosen.kv_cache_bytes == 1) {
            struct kvasir_async *probe = open_async((struct kvasir_engine_options){0});
            struct kvasir_engine_stats stats;
            kvasir_async_stats(probe, &stats);
            chosen.kv_cache_bytes = stats.kv_bytes_per_request;
            kvasir_async_close(probe);
        }
        struct kvasir_async *async = open_async(chosen);
        struct client clients[THREADS];
        pthread_t threads[THREADS];
        uint32_t complete = 0;
        for (uint32_t i = 0; i < THREADS; i++) {
            clients[i] = (struct client){.async = async, .seed = i, .requests = test_count(12, 200)};
            assert_int_equal(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
        }
        for (uint32_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        for (uint32_t i = 0; i < THREADS; i++) {
            if (clients[i].failure) fail_msg("thread %u: %s", i, clients[i].failure);
            complete += clients[i].complete;
        }
        assert_true(complete > 0);
        kvasir_async_close(async);
    }
}

/* ---- between two steps -------------------------------------------------------------------------------------------------- */

struct look {
    char *json;
    size_t bytes;
    int status;
};

static void look(void *data, struct kvasir_engine *engine)
{
    struct look *look = data;
    look->status = kvasir_engine_kv_snapshot(engine, 0, &look->json, &look->bytes, NULL);
}

/* ---- readers -------------------------------------------------------------------------------------------------------- */

static uint32_t unfinished(struct kvasir_async *async)
{
    struct kvasir_engine_stats stats;
    kvasir_async_stats(async, &stats);
    return stats.running + stats.waiting;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

/* Nobody reads until the engine is done; then all comes, in pieces of bounded size, each request in its turn. */
static void test_slow_reader(void **state)
{
    (void)state;
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    uint32_t counts[2] = {0}, updates = 0, ends = 0;
    uint64_t last = 0;
    for (uint32_t i = 0; i < 2; i++) submit(queue, 0, 200, &counts[i]);
    struct look first = {0};
    kvasir_async_call(async, look, &first); /* the engine has them */
    kvasir_free(first.json);
    while (unfinished(async)) nap();
    for (updates = 0; ends < 2; updates++) {
        struct kvasir_update update;
        take(queue, &update);
        assert_true(update.event.id != last); /* two tokens and two alternatives each: more than one update */
        last = update.event.id;
        size_t entries = update.event.token_count * 3;
        assert_true(entries <= SEGMENT_ENTRIES_MAX && update.event.text_bytes <= SEGMENT_TEXT_MAX);
        const size_t step = (1 + DRAFT_TOKENS_MAX) * 3; /* what one may give is not parted */
        assert_true(entries + step > SEGMENT_ENTRIES_MAX || update.event.finish != KVASIR_RUNNING);
        *(uint32_t *)update.data += (uint32_t)update.event.token_count;
        ends += update.event.finish != KVASIR_RUNNING;
    }
    assert_int_equal(counts[0], 200);
    assert_int_equal(counts[1], 200);
    assert_false(ready(queue, 0));
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

/* An answer that is not read stands still when so much of it waits: it costs no more memory, no time, and no place that another one
 * wants. When it is read it goes on, with the tokens it would have had; cancelled, or with its queue closed, it ends at once. */
static void test_unread_answers_stand_still(void **state)
{
    (void)state;
    enum { UNREAD = 3, LENGTH = 200, BYTES = 3000 };
    const size_t one_step = sizeof(struct segment) + 3000; /* a new segment may begin with it */
    struct kvasir_async *async =
        open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20, .max_sequences = UNREAD});
    struct kvasir_queue *queue = open_queue(async), *other = open_queue(async), *third = open_queue(async);
    uint32_t prompt[128], tokens[LENGTH], count = 0;
    uint64_t ids[UNREAD], waits;
    struct kvasir_request request;
    struct kvasir_engine_stats stats;
    make_request(0, prompt, &request);
    request.max_tokens = LENGTH;
    request.unread_bytes_max = BYTES;
    struct kvasir_queue *queues[UNREAD] = {queue, queue, third};
    for (uint32_t i = 0; i < UNREAD; i++)
        assert_int_equal(kvasir_queue_submit(queues[i], &request, NULL, &ids[i], NULL), KVASIR_OK);
    do {
        nap();
        kvasir_async_stats(async, &stats);
    } while (stats.paused < UNREAD);
    assert_true(stats.running == 0 && stats.waiting == 0);
    for (const struct ticket *ticket = queue->tickets; ticket; ticket = ticket->after)
        assert_true(ticket->bytes > BYTES && ticket->bytes < BYTES + one_step);
    uint64_t steps = stats.steps;
    for (int i = 0; i < 20; i++) nap();
    kvasir_async_stats(async, &stats);
    assert_int_equal(stats.steps, steps);

    submit(other, 1, 0, NULL); /* has a place, though there is none */
    assert_int_equal(take_all(other, tokens, &count), KVASIR_LENGTH);
    assert_memory_equal(tokens, alone[1].tokens, ANSWER * sizeof *tokens);

    assert_int_equal(kvasir_queue_hold(queue, ids[1], true), KVASIR_OK);
    count = 0;
    assert_int_equal(take_all(queue, tokens, &count), KVASIR_LENGTH);
    assert_int_equal(count, LENGTH);
    assert_memory_equal(tokens, alone[0].tokens, ANSWER * sizeof *tokens);
    assert_int_equal(kvasir_queue_cancel(queue, ids[1]), KVASIR_OK);
    assert_int_equal(kvasir_queue_hold(queue, ids[1], false), KVASIR_OK);
    count = 0;
    assert_int_equal(take_all(queue, tokens, &count), KVASIR_CANCELLED_BY_CALLER);
    assert_true(count < LENGTH);
    kvasir_queue_close(third);
    do {
        nap();
        kvasir_async_stats(async, &stats);
    } while (stats.paused);
    assert_int_equal(stats.kv_bytes_used, 0);

    assert_int_equal(kvasir_queue_submit(queue, &request, NULL, &waits, NULL), KVASIR_OK);
    do {
        nap();
        kvasir_async_stats(async, &stats);
    } while (!stats.paused);
    kvasir_queue_close(queue);
    kvasir_queue_close(other);
    kvasir_async_close(async);
}

static void test_hold(void **state)
{
    (void)state;
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    uint64_t held = submit(queue, 0, 0, NULL);
    assert_int_equal(kvasir_queue_hold(queue, held, true), KVASIR_OK);
    submit(queue, 2, 0, &held);
    uint32_t tokens[ANSWER * 2], count = 0;
    struct kvasir_update update;
    do {
        take(queue, &update);
        assert_ptr_equal(update.data, &held); /* only of the other one */
    } while (update.event.finish == KVASIR_RUNNING);
    while (unfinished(async)) nap();
    assert_false(ready(queue, 0));
    assert_int_equal(kvasir_queue_hold(queue, held, false), KVASIR_OK);
    assert_int_equal(take_all(queue, tokens, &count), KVASIR_LENGTH);
    assert_int_equal(count, ANSWER);
    assert_memory_equal(tokens, alone[0].tokens, ANSWER * sizeof *tokens);
    assert_int_equal(kvasir_queue_hold(queue, held, true), KVASIR_NOT_FOUND);
    assert_int_equal(kvasir_queue_cancel(queue, held), KVASIR_NOT_FOUND);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

/* Several answers to one prompt, held and cancelled by one id, told apart by their index; the first has the prompt's
 * log-probabilities. */
static void test_several_answers(void **state)
{
    (void)state;
    enum { N = 3 };
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    uint32_t prompt[128], counts[N] = {0}, prompt_logprobs = 0, ends = 0;
    uint64_t id, cancelled;
    struct kvasir_request request;
    make_request(1, prompt, &request);
    request.n = N;
    request.prompt_logprobs = 2;
    assert_int_equal(kvasir_queue_submit(queue, &request, counts, &id, NULL), KVASIR_OK);
    assert_int_equal(kvasir_queue_submit(queue, &request, NULL, &cancelled, NULL), KVASIR_OK);
    assert_int_equal(kvasir_queue_hold(queue, id, true), KVASIR_OK);
    assert_int_equal(kvasir_queue_cancel(queue, cancelled), KVASIR_OK);
    struct kvasir_update update;
    while (ends < N) {
        take(queue, &update);
        assert_null(update.data);
        ends += update.event.finish != KVASIR_RUNNING;
    }
    assert_int_equal(kvasir_queue_hold(queue, id, false), KVASIR_OK);
    for (ends = 0; ends < N;) {
        take(queue, &update);
        const struct kvasir_event *event = &update.event;
        assert_int_equal(event->id, id);
        assert_true(event->index < N);
        for (size_t i = 0; i < event->token_count && event->index == 0; i++)
            assert_int_equal(event->tokens[i].id, alone[1].tokens[counts[0] + i]);
        counts[event->index] += (uint32_t)event->token_count;
        assert_true(!event->prompt_logprob_count || event->index == 0);
        for (size_t i = 0; i < event->prompt_logprob_count; i++) {
            assert_int_equal(event->prompt_logprobs[i].id, prompt[++prompt_logprobs]);
            assert_int_equal(event->prompt_logprobs[i].top_count, 2);
        }
        ends += event->finish == KVASIR_LENGTH;
        if (event->finish != KVASIR_RUNNING) assert_int_equal(update.timings.output_tokens, ANSWER);
    }
    for (uint32_t i = 0; i < N; i++) assert_int_equal(counts[i], ANSWER);
    assert_int_equal(prompt_logprobs, request.prompt_count - 1);
    assert_false(ready(queue, 0));
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

/* ---- refusals, ends --------------------------------------------------------------------------------------------------- */

static void test_refused_at_once(void **state)
{
    (void)state;
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    struct kvasir_error error;
    uint32_t ids[300] = {0};
    uint64_t id = 1;
    ids[0] = UINT32_MAX;
    struct kvasir_request request = {.prompt = ids, .prompt_count = 4, .max_tokens = 4};
    assert_int_equal(kvasir_queue_submit(queue, &request, NULL, &id, &error), KVASIR_INVALID);
    assert_non_null(strstr(error.text, "prompt token 0"));
    assert_int_equal(id, 0);
    ids[0] = 0;
    request.prompt_count = 300;
    assert_int_equal(kvasir_queue_submit(queue, &request, NULL, &id, &error), KVASIR_LIMIT);
    assert_false(ready(queue, 0));
    request.prompt_count = 4;
    request.ignore_eos = true;
    request.max_tokens = 0;
    uint32_t accepted = 0;
    int status = KVASIR_OK;
    while (accepted < TICKETS_MAX + 100 && status == KVASIR_OK) {
        status = kvasir_queue_submit(queue, &request, NULL, &id, &error);
        accepted += status == KVASIR_OK;
    }
    assert_int_equal(status, KVASIR_FULL);
    assert_true(accepted >= TICKETS_MAX);
    kvasir_queue_close(queue); /* with all of them */
    queue = open_queue(async);
    for (uint32_t tries = 0; (status = kvasir_queue_submit(queue, &request, NULL, &id, &error)) == KVASIR_FULL;
         tries++) {
        assert_true(tries < WAIT_MS / 2);
        nap();
    }
    assert_int_equal(kvasir_queue_cancel(queue, id), KVASIR_OK);
    submit(queue, 1, 0, NULL);
    struct kvasir_update update;
    do take(queue, &update);
    while (update.event.finish == KVASIR_RUNNING || update.event.id == id);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

/* A cancelled request, waiting or running, is gone after the next step. */
static void test_cancel(void **state)
{
    (void)state;
    struct kvasir_async *async =
        open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20, .max_sequences = 1});
    struct kvasir_queue *queue = open_queue(async);
    uint64_t running = submit(queue, 0, 250, &running), waiting = submit(queue, 1, 250, &waiting);
    struct kvasir_update update;
    do take(queue, &update);
    while (!update.event.token_count);
    assert_ptr_equal(update.data, &running);
    assert_int_equal(kvasir_queue_cancel(queue, waiting), KVASIR_OK);
    assert_int_equal(kvasir_queue_cancel(queue, running), KVASIR_OK);
    for (uint32_t ends = 0; ends < 2;) {
        take(queue, &update);
        if (update.event.finish == KVASIR_RUNNING) continue;
        assert_int_equal(update.event.finish, KVASIR_CANCELLED_BY_CALLER);
        ends++;
    }
    while (unfinished(async)) nap();
    struct kvasir_engine_stats stats;
    kvasir_async_stats(async, &stats);
    assert_int_equal(stats.kv_blocks_used, 0);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

static void test_close_while_running(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < test_count(6, 60); round++) {
        struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
        struct kvasir_queue *queue = open_queue(async), *other = open_queue(async);
        for (uint32_t i = 0; i < REQUESTS; i++) submit(i % 2 ? queue : other, i, 0, NULL);
        struct kvasir_update update;
        uint32_t ends = 0; /* a late reader gets each answer in one piece */
        for (uint32_t i = 0; i < round && ends < REQUESTS / 2; i++) {
            take(queue, &update);
            ends += update.event.finish != KVASIR_RUNNING;
        }
        kvasir_queue_close(other);
        kvasir_queue_close(queue);
        kvasir_async_close(async);
    }
}

static void test_call(void **state)
{
    (void)state;
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    struct look idle = {0}, busy = {0};
    kvasir_async_call(async, look, &idle);
    submit(queue, 4, 150, NULL);
    struct kvasir_update update;
    take(queue, &update);
    kvasir_async_call(async, look, &busy);
    assert_int_equal(idle.status, KVASIR_OK);
    assert_int_equal(busy.status, KVASIR_OK);
    assert_null(strstr(idle.json, "\"owner\""));
    assert_non_null(strstr(busy.json, "\"owner\""));
    kvasir_free(idle.json);
    kvasir_free(busy.json);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

static double process_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Nothing to do costs nothing. */
static void test_idle_sleeps(void **state)
{
    (void)state;
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    uint32_t tokens[ANSWER], count = 0;
    submit(queue, 0, 0, NULL);
    assert_int_equal(take_all(queue, tokens, &count), KVASIR_LENGTH);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* the crew's short spin */
    double before = process_seconds();
    assert_false(ready(queue, 300));
    assert_true(process_seconds() - before < 0.1);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

/* The nth allocation fails, for every n: the request is refused, or ends with an error, or is whole; never half, and never
 * without an end. */
static void test_memory_runs_out(void **state)
{
    (void)state;
    struct kvasir_async *async = open_async((struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    struct kvasir_queue *queue = open_queue(async);
    uint32_t refused = 0, errors = 0, whole = 0, prompt[128];
    struct kvasir_request request;
    make_request(0, prompt, &request);
    for (uint32_t n = 1; n <= 80; n++) {
        uint32_t tokens[ANSWER], count = 0;
        uint64_t id;
        fault_arm(FAULT_ALLOC, n);
        int status = kvasir_queue_submit(queue, &request, NULL, &id, NULL);
        enum kvasir_finish finish = status == KVASIR_OK ? take_all(queue, tokens, &count) : KVASIR_ERROR;
        while (unfinished(async)) nap();
        fault_arm(FAULT_NONE, 0);
        refused += status == KVASIR_NOMEM;
        errors += status == KVASIR_OK && finish == KVASIR_ERROR;
        whole += finish == KVASIR_LENGTH;
        if (finish != KVASIR_LENGTH) continue;
        assert_int_equal(count, ANSWER);
        assert_memory_equal(tokens, alone[0].tokens, sizeof tokens);
    }
    assert_true(refused && errors && whole);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

static int setup_alone(void **state)
{
    setup(state);
    run_alone(alone);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_unread_answers_stand_still),
        cmocka_unit_test(test_several_answers),
        cmocka_unit_test(test_refused_at_once),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_close_while_running),
        cmocka_unit_test(test_call),
        cmocka_unit_test(test_idle_sleeps),
        cmocka_unit_test(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, setup_alone, teardown);
}
