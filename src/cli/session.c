/* session.c - one model, one engine, one request at a time: what run and chat share. The text is written to standard
 * output between two steps of the engine; Ctrl-C is looked at there too. */
#include "cli/cli.h"
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define TEMPLATE_BYTES_MAX (16u << 20)

/* What a chat uses where nothing was given: small models repeat themselves when greedy. */
static const struct {
    float temperature, top_p, min_p;
    uint32_t top_k;
} CHAT_SAMPLING = {.temperature = 0.7f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f};

enum status template_read(const char *path, struct buffer *out, struct error *error)
{
    buffer_init(out, 0);
    if (!path) return ST_OK;
    enum status status = file_read(path, TEMPLATE_BYTES_MAX, out, error);
    if (status != ST_OK || (out->length && !memchr(out->data, 0, out->length))) return status;
    const char *what = out->length ? "holds a zero byte" : "is empty";
    buffer_release(out);
    return error_set(error, ST_INVALID, "%s: %s, so it is no chat template", path, what);
}

enum status model_load(const struct options *options, struct kvasir_model **out, struct error *error)
{
    struct buffer path, template;
    enum status status = template_read(options->template_file, &template, error);
    if (status != ST_OK) return status;
    status = model_locate(options, &path, error);
    if (status != ST_OK) {
        buffer_release(&template);
        return status;
    }
    struct progress progress;
    progress_begin(&progress, options, "loading");
    struct kvasir_model_options model_options = {.threads = (uint32_t)options->threads,
                                                 .isa = options->isa,
                                                 .rope_frequencies = options->rope_frequencies,
                                                 .progress = progress_update,
                                                 .progress_data = &progress,
                                                 .chat_template = template.data};
    struct kvasir_error reason;
    if (kvasir_model_open(path.data, &model_options, out, &reason) != KVASIR_OK) status = library_error(&reason, error);
    progress_end(&progress);
    buffer_release(&path);
    buffer_release(&template);
    return status;
}

static enum status engine_open(struct session *session, struct error *error)
{
    session->cache.engine.max_sequences = 1;
    struct kvasir_error reason;
    if (kvasir_engine_open(session->model, &session->cache.engine, &session->engine, &reason) == KVASIR_OK)
        return ST_OK;
    return library_error(&reason, error);
}

static void event_write(void *data, const char *json, size_t bytes)
{
    struct session *session = data;
    struct error *error = &session->events_error; /* told when the answer ends */
    if (error->status == ST_OK) error->status = file_writer_put(&session->events, json, bytes, error);
    if (error->status == ST_OK) error->status = file_writer_put(&session->events, "\n", 1, error);
}

static enum status cache_prepare(struct session *session, struct error *error)
{
    const struct options *options = session->options;
    struct kvasir_error reason;
    if (options->kv_events) {
        enum status status = file_writer_open_stream(options->kv_events, &session->events, error);
        if (status != ST_OK) return status;
        kvasir_engine_kv_events(session->engine, event_write, session);
    }
    if (options->kv_load &&
        kvasir_seq_load(session->engine, options->kv_load, 0, &session->loaded, &reason) != KVASIR_OK)
        return library_error(&reason, error);
    return ST_OK;
}

static enum status bad_words_read(struct session *session, struct error *error)
{
    const struct text_list *texts = &session->options->bad_words;
    struct kvasir_error reason;
    if (!texts->count || kvasir_tokenize_bad_words(session->model, texts->items, texts->count, &session->bad_words,
                                                   &session->bad_word_count, &reason) == KVASIR_OK)
        return ST_OK;
    return library_error(&reason, error);
}

enum status session_open(struct session *session, const struct options *options, struct error *error)
{
    *session = (struct session){.options = options};
    enum status status = cache_options_read(options, &session->cache, error);
    if (status == ST_OK) status = source_values(options, &session->values, error);
    if (status == ST_OK) status = structure_read(options, &session->structure, error);
    if (status == ST_OK) status = model_load(options, &session->model, error);
    if (status == ST_OK) kvasir_model_info(session->model, &session->info);
    if (status == ST_OK) status = bad_words_read(session, error);
    if (status == ST_OK) status = engine_open(session, error);
    if (status == ST_OK) status = cache_prepare(session, error);
    if (status != ST_OK) session_close(session);
    return status;
}

void session_close(struct session *session)
{
    kvasir_seq_close(session->loaded);
    if (session->engine) kvasir_engine_close(session->engine);
    struct error ignored; /* what could not be written was told */
    if (session->events.path && file_writer_close(&session->events, true, &ignored) != ST_OK) session->events.fd = -1;
    if (session->model) kvasir_model_close(session->model);
    free(session->values); /* jansson's */
    kvasir_free(session->bad_words);
    buffer_release(&session->structure.text);
    cache_options_release(&session->cache);
    *session = (struct session){0};
}

static uint64_t seed_random(void)
{
    uint32_t seed = 0; /* short enough to be typed again */
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = (uint32_t)(clock_seconds() * 1e9);
    return seed;
}

/* The library takes 0 for "off"; here it asks for the smallest set, the best token alone. */
static float mass(double probability)
{
    return probability > 0 ? (float)probability : FLT_MIN;
}

void request_prepare(const struct session *session, bool chatting, struct kvasir_request *out)
{
    const struct options *options = session->options;
    int64_t window = options->penalty_window;
    *out = (struct kvasir_request){
        .max_tokens = options->max_tokens > 0 ? (uint32_t)options->max_tokens : 0,
        .min_tokens = (uint32_t)options->min_tokens,
        .stop = options->stop.items,
        .stop_count = options->stop.count,
        .stop_ids = options->stop_ids.items,
        .stop_id_count = options->stop_ids.count,
        .ignore_eos = options->ignore_eos,
        .structure = session->structure.kind,
        .structure_text = session->structure.text.data,
        .structure_bytes = session->structure.text.length,
        .logprobs = (uint32_t)options->logprobs,
        .prompt_logprobs = chatting ? 0 : (uint32_t)options->prompt_logprobs, /* a chat's turns come from the cache */
        .show_control = options->show_control,
        .sampling = {.temperature = (float)options->temperature,
                     .top_k = options->top_k > 0 ? (uint32_t)options->top_k : 0,
                     .top_p = mass(options->top_p),
                     .min_p = (float)options->min_p,
                     .typical_p = mass(options->typical_p),
                     .repetition_penalty = window == 0 ? 1 : (float)options->repetition_penalty,
                     .frequency_penalty = (float)options->frequency_penalty,
                     .presence_penalty = (float)options->presence_penalty,
                     .penalty_window = window > 0 ? (uint32_t)window : 0,
                     .bias = options->bias.items,
                     .bias_count = options->bias.count,
                     .allowed_ids = options->allowed_ids.items,
                     .allowed_id_count = options->allowed_ids.count,
                     .bad_words = session->bad_words,
                     .bad_word_count = session->bad_word_count,
                     .has_seed = true,
                     .seed = options->seed >= 0 ? (uint64_t)options->seed : seed_random()},
    };
    if (!chatting) return;
    if (!options_given(options, "temp")) out->sampling.temperature = CHAT_SAMPLING.temperature;
    if (!options_given(options, "top-k")) out->sampling.top_k = CHAT_SAMPLING.top_k;
    if (!options_given(options, "top-p")) out->sampling.top_p = CHAT_SAMPLING.top_p;
    if (!options_given(options, "min-p")) out->sampling.min_p = CHAT_SAMPLING.min_p;
}

/* `items` with room for `more` of `size` bytes behind `count`; NULL when there is none, and `items` stays. */
static void *grow(void *items, size_t count, size_t more, size_t *capacity, size_t size)
{
    if (*capacity && count + more <= *capacity) return items;
    size_t wanted = (count + more) * 2 + 16;
    void *grown = mem_resize(items, wanted * size);
    if (grown) *capacity = wanted;
    return grown;
}

static bool tokens_append(struct told_tokens *list, const struct kvasir_token *tokens, size_t count)
{
    size_t more = 0;
    for (size_t i = 0; i < count; i++) more += tokens[i].top_count;
    struct kvasir_token *items = grow(list->items, list->count, count, &list->capacity, sizeof *items);
    if (items) list->items = items;
    struct kvasir_logprob *tops = grow(list->tops, list->top_count, more, &list->top_capacity, sizeof *tops);
    if (tops) list->tops = tops;
    if (!items || !tops) return false;
    for (size_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < tokens[i].top_count; j++) tops[list->top_count++] = tokens[i].top[j];
        items[list->count] = tokens[i];
        items[list->count++].top = NULL;
    }
    return true;
}

static bool embedding_keep(struct answer *answer, const struct kvasir_event *event)
{
    if (!event->embedding_count) return true;
    answer->embedding = mem_alloc(event->embedding_count * sizeof *answer->embedding);
    if (!answer->embedding) return false;
    memcpy(answer->embedding, event->embedding, event->embedding_count * sizeof *answer->embedding);
    answer->embedding_count = event->embedding_count;
    return true;
}

static enum status answer_append(struct answer *answer, const struct kvasir_event *event, struct error *error)
{
    buffer_append(&answer->text, event->text, event->text_bytes);
    bool all = tokens_append(&answer->tokens, event->tokens, event->token_count) &&
               tokens_append(&answer->prompt, event->prompt_logprobs, event->prompt_logprob_count) &&
               embedding_keep(answer, event);
    if (all && !answer->text.failed) return ST_OK;
    return error_set(error, ST_NOMEM, "not enough memory for the answer");
}

/* Steps until the request's last event. */
static enum status steps_run(struct session *session, uint64_t id, bool stream, struct answer *out, struct error *error)
{
    struct progress progress;
    progress_begin(&progress, session->options, "prompt ");
    enum status status = ST_OK;
    while (status == ST_OK && out->finish == KVASIR_RUNNING && kvasir_engine_busy(session->engine)) {
        struct kvasir_error reason;
        const struct kvasir_event *events;
        size_t count;
        if (interrupt_count() && !out->interrupted) {
            out->interrupted = true;
            kvasir_engine_cancel(session->engine, id);
        }
        if (kvasir_engine_step(session->engine, &events, &count, &reason) != KVASIR_OK) {
            status = library_error(&reason, error);
            break;
        }
        struct kvasir_engine_stats stats;
        kvasir_engine_stats(session->engine, &stats);
        uint64_t offloaded = out->most.kv_bytes_offloaded;
        if (stats.kv_bytes_used >= out->most.kv_bytes_used) out->most = stats;
        out->most.kv_bytes_offloaded = offloaded > stats.kv_bytes_offloaded ? offloaded : stats.kv_bytes_offloaded;
        for (size_t i = 0; i < count && status == ST_OK; i++) {
            const struct kvasir_event *event = &events[i];
            if (event->id != id) continue;
            out->finish = event->finish;
            status = answer_append(out, event, error);
            if (event->token_count || event->finish != KVASIR_RUNNING)
                progress_end(&progress);
            else
                progress_update(&progress, (double)event->prompt_done / event->prompt_count);
            if (status == ST_OK && stream && event->text_bytes)
                status = output_write_answer(event->text, event->text_bytes, error);
        }
    }
    progress_end(&progress);
    if (status == ST_OK && (out->finish == KVASIR_ERROR || out->finish == KVASIR_RUNNING))
        status = error_set(error, ST_IO, "the engine could not finish the answer");
    return status;
}

enum status session_answer(struct session *session, const struct kvasir_request *request, bool stream,
                           struct answer *out, struct error *error)
{
    *out = (struct answer){0};
    buffer_init(&out->text, 0);
    struct kvasir_error reason;
    uint64_t id;
    struct kvasir_engine_stats before;
    kvasir_engine_stats(session->engine, &before);
    if (kvasir_engine_submit(session->engine, request, &id, &reason) != KVASIR_OK) return library_error(&reason, error);
    enum status status = steps_run(session, id, stream, out, error);
    if (status == ST_OK && kvasir_engine_timings(session->engine, id, &out->timings) != KVASIR_OK)
        status = error_set(error, ST_NOT_FOUND, "the engine has no record of the answer");
    kvasir_engine_stats(session->engine, &out->stats);
    out->rows_read = out->stats.retrieval_rows_read - before.retrieval_rows_read;
    out->rows_dense = out->stats.retrieval_rows_dense - before.retrieval_rows_dense;
    if (status == ST_OK && session->events_error.status != ST_OK) {
        *error = session->events_error;
        status = error->status;
    }
    return status;
}

void answer_release(struct answer *answer)
{
    buffer_release(&answer->text);
    mem_free(answer->tokens.items);
    mem_free(answer->tokens.tops);
    mem_free(answer->prompt.items);
    mem_free(answer->prompt.tops);
    mem_free(answer->embedding);
    *answer = (struct answer){0};
}

void answer_report(const struct session *session, const struct kvasir_request *request, const struct answer *answer)
{
    const struct kvasir_timings *timings = &answer->timings;
    if (session->options->quiet) return;
    bool colour = terminal_has_colour(session->options, STDERR_FILENO);
    char bytes[32];
    fprintf(stderr, "%s[prompt %u tokens, %u cached, %.1f tok/s, TTFT %.3f s; ", colour ? "\033[2m" : "",
            timings->prompt_tokens, timings->cached_tokens, timings->prefill_tokens_per_s, timings->ttft_s);
    fprintf(stderr, "answer %u tokens, %.1f tok/s, TPOT %.1f ms; KV %s", timings->output_tokens,
            timings->decode_tokens_per_s, timings->tpot_s * 1e3, bytes_text(timings->kv_bytes, bytes));
    if (answer->rows_dense)
        fprintf(stderr, "; retrieval read %.1f %% of rows",
                100 * (double)answer->rows_read / (double)answer->rows_dense);
    if (request->sampling.temperature > 0) fprintf(stderr, "; seed %llu", (unsigned long long)request->sampling.seed);
    fprintf(stderr, "; %s]%s\n", kvasir_finish_name(answer->finish), colour ? "\033[0m" : "");
}
