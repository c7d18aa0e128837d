/* run.c - one prompt, one answer. The prompt is read before the model is opened, so that a wrong file name costs nothing. */
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct prompt {
    struct buffer text;
    struct id_list ids; /* from mem_*, or the library's (ids_owned) */
    uint32_t *library_ids;
    bool is_ids, standard_input;
};

static void prompt_release(struct prompt *prompt)
{
    buffer_release(&prompt->text);
    mem_free(prompt->ids.items);
    kvasir_free(prompt->library_ids);
}

static enum status prompt_read(const struct options *options, struct prompt *out, struct error *error)
{
    *out = (struct prompt){.is_ids = options->prompt_ids != NULL};
    if (out->is_ids) return source_ids("--prompt-ids", options->prompt_ids, &out->ids, error);
    return source_text(options, &out->text, &out->standard_input, error);
}

/* [{"role":"system",…},{"role":"user",…}]; bytes that are no UTF-8 become U+FFFD, JSON cannot hold them. */
static void messages_write(const char *system, const char *text, size_t bytes, struct buffer *out)
{
    buffer_text(out, "[");
    if (system) {
        buffer_text(out, "{\"role\":\"system\",\"content\":");
        json_out_text(out, system, strlen(system));
        buffer_text(out, "},");
    }
    buffer_text(out, "{\"role\":\"user\",\"content\":");
    json_out_text(out, text, bytes);
    buffer_text(out, "}]");
}

static enum status chat_ids(const struct session *session, const struct prompt *prompt, uint32_t **ids, size_t *count,
                            struct error *error)
{
    size_t bytes = prompt->text.length;
    /* `echo question | kvasir run`: the newline is the shell's, not part of the question. */
    if (prompt->standard_input && bytes && prompt->text.data[bytes - 1] == '\n') bytes--;
    if (!bytes) return error_set(error, ST_INVALID, "the prompt is empty");
    struct buffer messages;
    buffer_init(&messages, 0);
    messages_write(session->options->system, prompt->text.data, bytes, &messages);
    struct kvasir_chat chat = {.messages = messages.data, .values = session->values};
    struct kvasir_error reason;
    enum status status = ST_OK;
    if (messages.failed)
        status = error_set(error, ST_NOMEM, "not enough memory for the prompt");
    else if (kvasir_chat_tokenize(session->model, &chat, ids, count, &reason) != KVASIR_OK)
        status = library_error(&reason, error);
    buffer_release(&messages);
    return status;
}

static enum status prompt_tokenize(const struct session *session, struct prompt *prompt, struct error *error)
{
    const struct options *options = session->options;
    if (prompt->is_ids) return ST_OK;
    if (!options->raw) {
        /* A template that is there but cannot be used is an error; only where there is none the prompt is raw. */
        enum status status = chat_ids(session, prompt, &prompt->library_ids, &prompt->ids.count, error);
        if (status != ST_NOT_FOUND || session->info.chat_template) return status;
        if (options->system)
            return error_set(error, ST_INVALID, "%s has no chat template: --system has no place", options->model);
    }
    unsigned flags =
        (options->no_special ? 0 : KVASIR_ADD_SPECIAL) | (options->no_parse_special ? 0 : KVASIR_PARSE_SPECIAL);
    struct kvasir_error reason;
    if (kvasir_tokenize(session->model, prompt->text.data, prompt->text.length, flags, &prompt->library_ids,
                        &prompt->ids.count, &reason) != KVASIR_OK)
        return library_error(&reason, error);
    return ST_OK;
}

static void logprobs_write(const struct told_tokens *tokens, struct buffer *out)
{
    const struct kvasir_logprob *top = tokens->tops;
    buffer_text(out, "[");
    for (size_t i = 0; i < tokens->count; i++) {
        const struct kvasir_token *token = &tokens->items[i];
        buffer_printf(out, "%s{\"id\":%u,\"logprob\":", i ? "," : "", token->id);
        json_out_real(out, token->logprob);
        buffer_text(out, ",\"top\":[");
        for (uint32_t j = 0; j < token->top_count; j++, top++) {
            buffer_printf(out, "%s[%u,", j ? "," : "", top->id);
            json_out_real(out, top->logprob);
            buffer_text(out, "]");
        }
        buffer_text(out, "]}");
    }
    buffer_text(out, "]");
}

static void number_write(struct buffer *out, const char *before, double value)
{
    buffer_text(out, before);
    json_out_real(out, value);
}

static enum status json_write(const struct session *session, const struct kvasir_request *request,
                              const struct answer *answer, struct error *error)
{
    const struct kvasir_timings *timings = &answer->timings;
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, "{\"prompt_ids\":");
    json_out_ids(&out, request->prompt, request->prompt_count);
    buffer_text(&out, ",\"token_ids\":[");
    for (size_t i = 0; i < answer->tokens.count; i++)
        buffer_printf(&out, "%s%u", i ? "," : "", answer->tokens.items[i].id);
    buffer_text(&out, "],\"text\":");
    json_out_text(&out, answer->text.data, answer->text.length);
    buffer_printf(&out, ",\"finish_reason\":\"%s\",\"logprobs\":", kvasir_finish_name(answer->finish));
    if (request->logprobs)
        logprobs_write(&answer->tokens, &out);
    else
        buffer_text(&out, "[]");
    if (request->prompt_logprobs) {
        buffer_text(&out, ",\"prompt_logprobs\":");
        logprobs_write(&answer->prompt, &out);
    }
    number_write(&out, ",\"timings\":{\"load_s\":", session->info.load_s);
    number_write(&out, ",\"ttft_s\":", timings->ttft_s);
    number_write(&out, ",\"tpot_s\":", timings->tpot_s);
    number_write(&out, ",\"prefill_tokens_per_s\":", timings->prefill_tokens_per_s);
    number_write(&out, ",\"decode_tokens_per_s\":", timings->decode_tokens_per_s);
    buffer_text(&out, "}");
    if (session->cache.engine.retrieval.mode > KVASIR_RETRIEVAL_OFF)
        buffer_printf(&out, ",\"retrieval\":{\"rows_read\":%llu,\"rows_dense\":%llu}",
                      (unsigned long long)answer->rows_read, (unsigned long long)answer->rows_dense);
    buffer_printf(&out, ",\"kv\":{\"bytes_per_token\":%llu,\"bytes_used\":%llu,\"blocks_used\":%llu",
                  (unsigned long long)answer->stats.kv_bytes_per_token, (unsigned long long)timings->kv_bytes,
                  (unsigned long long)timings->kv_blocks);
    if (session->options->kv_stats) kv_report_json(&answer->stats, &answer->most, &out);
    buffer_text(&out, "}}\n");
    enum status status = out.failed ? error_set(error, ST_NOMEM, "not enough memory for the answer")
                                    : output_write(out.data, out.length, error);
    buffer_release(&out);
    return status;
}

/* A text ends with a newline, the model's or ours. */
static enum status text_end(const struct answer *answer, struct error *error)
{
    const struct buffer *text = &answer->text;
    if (text->length && text->data[text->length - 1] == '\n') return ST_OK;
    return output_write("\n", 1, error);
}

static void stats_print(const struct answer *answer)
{
    struct buffer text;
    buffer_init(&text, 0);
    kv_report_text(&answer->stats, &answer->most, &text);
    if (!text.failed) fputs(text.data, stderr);
    buffer_release(&text);
}

/* Prompt and answer: a request has run all but its last token. */
static enum status cache_save(const struct session *session, const struct kvasir_request *request,
                              const struct answer *answer, struct error *error)
{
    size_t count = request->prompt_count + answer->tokens.count;
    uint32_t *ids = mem_alloc(count * sizeof *ids);
    if (!ids) return error_set(error, ST_NOMEM, "not enough memory for %zu tokens", count);
    memcpy(ids, request->prompt, request->prompt_count * sizeof *ids);
    for (size_t i = 0; i < answer->tokens.count; i++) ids[request->prompt_count + i] = answer->tokens.items[i].id;
    struct kvasir_error reason;
    struct kvasir_seq *seq;
    enum status status = ST_OK;
    if (kvasir_seq_open(session->engine, ids, count, 0, &seq, &reason) != KVASIR_OK)
        status = library_error(&reason, error);
    else if (kvasir_seq_save(seq, session->options->kv_save, &reason) != KVASIR_OK)
        status = library_error(&reason, error);
    kvasir_seq_close(seq);
    mem_free(ids);
    return status;
}

static int answer_prompt(struct session *session, const struct prompt *prompt, struct error *error)
{
    bool json = strcmp(session->options->output, "json") == 0;
    struct kvasir_request request;
    request_prepare(session, false, &request);
    request.prompt = prompt->library_ids ? prompt->library_ids : prompt->ids.items;
    request.prompt_count = prompt->ids.count;
    struct answer answer;
    interrupt_watch(2);
    enum status status = session_answer(session, &request, !json, &answer, error);
    interrupt_unwatch();
    bool interrupted = answer.interrupted;
    struct error ignored;
    if (status == ST_OK)
        status = json ? json_write(session, &request, &answer, error) : text_end(&answer, error);
    else if (!json && answer.text.length && status != ST_CANCELLED)
        status = text_end(&answer, &ignored) == ST_OK ? status : error->status; /* the error line begins a line */
    if (status == ST_OK && session->options->kv_save) status = cache_save(session, &request, &answer, error);
    if (status == ST_OK) answer_report(session, &request, &answer);
    if (status == ST_OK && !json && session->options->kv_stats) stats_print(&answer);
    answer_release(&answer);
    return status != ST_OK ? fail(error) : interrupted ? EXIT_INTERRUPTED : EXIT_OK;
}

int run_main(const struct options *options)
{
    struct error error;
    if (options_given(options, "allowed-token-ids") && !options->allowed_ids.count)
        return fail_usage("run: --allowed-token-ids names no token");
    if (options->max_tokens == 0) return fail_usage("run: -n 0: an answer has at least one token; -1 is no limit");
    if (options->system && (options->raw || options->prompt_ids))
        return fail_usage("run: --system has no place in a raw prompt");
    bool json = strcmp(options->output, "json") == 0;
    if (!source_is_given(options)) {
        if ((options->kv_save || options->kv_load) && terminal_is(STDOUT_FILENO))
            return fail_usage("run: --kv-save and --kv-load need a prompt: a chat keeps its own cache");
        if (!json && !options->raw && terminal_is(STDOUT_FILENO)) return chat_main(options);
        return fail_usage("run: no prompt: give one as the second argument, with -p, -f or on standard input");
    }
    struct prompt prompt;
    struct session session = {0};
    enum status status = prompt_read(options, &prompt, &error);
    if (status == ST_OK) status = session_open(&session, options, &error);
    if (status == ST_OK) status = prompt_tokenize(&session, &prompt, &error);
    if (status == ST_OK && !prompt.ids.count) status = error_set(&error, ST_INVALID, "the prompt is empty");
    int result = status == ST_OK ? answer_prompt(&session, &prompt, &error) : fail(&error);
    prompt_release(&prompt);
    session_close(&session);
    return result;
}
