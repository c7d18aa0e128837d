/* embed.c - one text, one embedding, as JSON. */
#include "cli/cli.h"

/* The text's tokens: the library's, to be given to kvasir_free. */
static enum status text_tokenize(const struct session *session, const struct buffer *text, uint32_t **ids,
                                 size_t *count, struct error *error)
{
    const struct options *options = session->options;
    unsigned flags =
        (options->no_special ? 0 : KVASIR_ADD_SPECIAL) | (options->no_parse_special ? 0 : KVASIR_PARSE_SPECIAL);
    struct kvasir_error reason;
    if (!text->length) return ST_OK; /* nothing, even where the model would put a BOS in front */
    if (kvasir_tokenize(session->model, text->data, text->length, flags, ids, count, &reason) == KVASIR_OK)
        return ST_OK;
    return library_error(&reason, error);
}

static enum status embedding_print(const struct answer *answer, struct error *error)
{
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, "{\"embedding\":[");
    for (size_t i = 0; i < answer->embedding_count; i++) {
        if (i) buffer_text(&out, ",");
        json_out_real(&out, (double)answer->embedding[i]);
    }
    buffer_printf(&out, "],\"prompt_tokens\":%u}\n", answer->timings.prompt_tokens);
    enum status status = out.failed ? error_set(error, ST_NOMEM, "not enough memory for the embedding")
                                    : output_write(out.data, out.length, error);
    buffer_release(&out);
    return status;
}

/* With Ctrl-C there is no embedding, and nothing is printed. */
static int embed(struct session *session, const uint32_t *ids, size_t count, struct error *error)
{
    const struct kvasir_request request = {.prompt = ids,
                                           .prompt_count = count,
                                           .pooling = options_pooling(session->options),
                                           .normalize = !session->options->no_normalize};
    struct answer answer;
    interrupt_watch(2);
    enum status status = session_answer(session, &request, false, &answer, error);
    interrupt_unwatch();
    bool interrupted = answer.finish == KVASIR_CANCELLED_BY_CALLER;
    if (status == ST_OK && !interrupted) status = embedding_print(&answer, error);
    answer_release(&answer);
    return status != ST_OK ? fail(error) : interrupted ? EXIT_INTERRUPTED : EXIT_OK;
}

int embed_main(const struct options *options)
{
    struct error error;
    if (!source_is_given(options))
        return fail_usage("embed: no text: give one as the second argument, with -p, -f or on standard input");
    struct session session = {0};
    struct buffer text = {0};
    struct id_list given = {0};
    uint32_t *ids = NULL;
    size_t count = 0;
    bool standard_input;
    enum status status = options->prompt_ids ? source_ids("--prompt-ids", options->prompt_ids, &given, &error)
                                             : source_text(options, &text, &standard_input, &error);
    if (status == ST_OK) status = session_open(&session, options, &error);
    if (status == ST_OK && !options->prompt_ids) status = text_tokenize(&session, &text, &ids, &count, &error);
    if (status == ST_OK && !count && !given.count) status = error_set(&error, ST_INVALID, "the text is empty");
    int result = status != ST_OK ? fail(&error)
                 : ids           ? embed(&session, ids, count, &error)
                                 : embed(&session, given.items, given.count, &error);
    kvasir_free(ids);
    mem_free(given.items);
    buffer_release(&text);
    session_close(&session);
    return result;
}
