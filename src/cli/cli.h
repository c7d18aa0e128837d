/* cli.h - what the files of the program share: errors and exit statuses, the terminal, progress, model names, reading of
 * prompts, one session of model and engine, and the commands.
 *
 * Rules
 * - Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 141 standard output was closed by its reader.
 * - An error is one line on standard error; a command that fails before its first output prints nothing to standard output.
 * - Standard output carries the answer and nothing else. */
#ifndef CLI_CLI_H
#define CLI_CLI_H
#include "base/base.h"
#include "cli/options.h"
#include "kvasir.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130, EXIT_PIPE = 141 };

/* ---- commands: each returns the exit status ---------------------------------------------------------------------------- */

int run_main(const struct options *options);
int chat_main(const struct options *options);
int tokenize_main(const struct options *options);
int detokenize_main(const struct options *options);
int embed_main(const struct options *options);
int render_main(const struct options *options);
int inspect_main(const struct options *options);
int eval_nll_main(const struct options *options);
int eval_kl_main(const struct options *options);
int eval_heads_main(const struct options *options);
int eval_retrieval_main(const struct options *options);
int serve_main(const struct options *options);
int ps_main(const struct options *options);
int stop_main(const struct options *options);
int cache_stat_main(const struct options *options);
int cache_ls_main(const struct options *options);
int cache_pin_main(const struct options *options);
int cache_drop_main(const struct options *options);
int cache_verify_main(const struct options *options);
int cache_export_main(const struct options *options);
int cache_import_main(const struct options *options);
int completion_main(const struct options *options);
int bench_main(const struct options *options);
int bench_throughput_main(const struct options *options);
int help_main(const struct options *options);

/* ---- errors ------------------------------------------------------------------------------------------------------------- */

/* Prints the line and returns the exit status that fits: nothing and EXIT_PIPE when output_write met a closed pipe. */
int fail(const struct error *error);
int fail_usage(const char *format, ...) PRINTF_LIKE(1, 2);
/* The library's error as base's, and its status. */
enum status library_error(const struct kvasir_error *from, struct error *to);

/* ---- standard output and the terminal (terminal.c) ------------------------------------------------------------------------ */

/* Bytes to standard output, at once. ST_CANCELLED: nobody reads it any more. */
MUST_CHECK enum status output_write(const char *bytes, size_t count, struct error *error);
/* The same for text that a model made: on a terminal, control characters other than newline and tab become '?', so that
 * no answer can drive the terminal. */
MUST_CHECK enum status output_write_answer(const char *bytes, size_t count, struct error *error);
bool terminal_is(int descriptor);
bool terminal_has_colour(const struct options *options, int descriptor);

/* A bar on standard error, only there if that is a terminal and only after half a second. */
struct progress {
    const char *label;
    double begin_s, drawn_s;
    bool enabled, drawn;
};
void progress_begin(struct progress *progress, const struct options *options, const char *label);
void progress_update(void *progress, double fraction); /* 0…1; as a callback, `progress` being its data */
void progress_end(struct progress *progress);          /* wipes it */

/* Ctrl-C, while watched, is counted instead of ending the program; `limit` of them end it anyway. */
void interrupt_watch(unsigned limit);
void interrupt_unwatch(void); /* back to the default */
unsigned interrupt_count(void);
void interrupt_clear(void);

/* "1.5 MiB" */
const char *bytes_text(uint64_t bytes, char out[32]);

/* ---- model names (model_name.c) --------------------------------------------------------------------------------------------- */

/* The path that options->model names: itself, or a file of the cache folder. */
MUST_CHECK enum status model_locate(const struct options *options, struct buffer *path, struct error *error);

/* ---- text in (text_source.c) -------------------------------------------------------------------------------------------------- */

bool source_is_given(
    const struct options *options); /* text or ids by option or argument, or standard input is no terminal */
/* Bytes of -p, -f, the argument or standard input. `standard_input` is set when they came from there unasked. */
MUST_CHECK enum status source_text(const struct options *options, struct buffer *out, bool *standard_input,
                                   struct error *error);
/* The ids written in `text`, or in the file it names as "@FILE". */
MUST_CHECK enum status source_ids(const char *what, const char *text, struct id_list *out, struct error *error);
/* The --set values as a JSON object (taken by the caller with free), NULL without any. */
MUST_CHECK enum status source_values(const struct options *options, char **out, struct error *error);

/* ---- the service manager (notify.c) -------------------------------------------------------------------------------------- */

void notify_send(const struct options *options, const char *state); /* "READY=1": see sd_notify(3) */

/* ---- help texts (help.c, manual.c, completion.c), all from the tables ------------------------------------------------------- */

void manual_write(const struct command *command, struct buffer *out); /* NULL: the program's own page */
/* "-c, --context, --ctx-size, --max-model-len": every way to write an option. */
void option_names(const struct option_row *row, const char *separator, struct buffer *out);
/* What the row says beside its help text: "(0 to 1; default 1; KVASIR_X)", or nothing. */
void option_facts(const struct option_row *row, struct buffer *out);

/* ---- the KV cache's options (cache_options.c) ----------------------------------------------------------------------------------- */

struct cache_options {
    struct kvasir_engine_options engine;
    char *dtype, *policy; /* owned; `engine` points to them */
};
MUST_CHECK enum status cache_options_read(const struct options *options, struct cache_options *out,
                                          struct error *error);
void cache_options_release(struct cache_options *options); /* also one that is all zero */

/* ---- a session: one model, one engine, one request at a time (session.c) --------------------------------------------------------- */

/* A file with a chat template: text, zero-terminated. The caller releases `out`; `path` NULL leaves it empty. */
MUST_CHECK enum status template_read(const char *path, struct buffer *out, struct error *error);
/* The model that the options name, its weights and a progress bar; the template is that of --template where it is given. */
MUST_CHECK enum status model_load(const struct options *options, struct kvasir_model **out, struct error *error);

/* structure.c: what an answer has to be; the text is the caller's to release, also after an error. */
struct structure {
    enum kvasir_structure kind;
    struct buffer text;
};
MUST_CHECK enum status structure_read(const struct options *options, struct structure *out, struct error *error);

struct session {
    const struct options *options;
    struct kvasir_model *model;
    struct kvasir_engine *engine;
    struct kvasir_model_info info;
    struct cache_options cache;
    struct file_writer events;         /* of --kv-events; path NULL: none */
    struct error events_error;         /* status ST_OK: they could be written */
    struct kvasir_seq *loaded;         /* of --kv-load, or NULL */
    char *values;                      /* owned; template variables as JSON, or NULL */
    struct kvasir_bad_word *bad_words; /* [bad_word_count] of --bad-words; owned */
    size_t bad_word_count;
    struct structure structure;
};
MUST_CHECK enum status session_open(struct session *session, const struct options *options, struct error *error);
void session_close(struct session *session);

struct told_tokens {
    struct kvasir_token *items;  /* [count]; `top` points nowhere: see `tops` */
    struct kvasir_logprob *tops; /* [top_count], all tokens' alternatives in a row */
    size_t count, capacity, top_count, top_capacity;
};

/* Text and tokens of one answer. */
struct answer {
    struct buffer text;
    struct told_tokens tokens, prompt; /* prompt: of --prompt-logprobs */
    float *embedding;                  /* [embedding_count], of a request with pooling; owned */
    size_t embedding_count;
    enum kvasir_finish finish;
    struct kvasir_timings timings;
    struct kvasir_engine_stats stats, most; /* at its end; when most of the KV cache was in use */
    uint64_t rows_read, rows_dense;         /* of retrieval attention: by this answer, and without it */
    bool interrupted;
};
/* The request that the options describe, without its prompt. Arrays are borrowed from the session and its options. With
 * `chatting`, the sampling that was not given is a chat's. */
void request_prepare(const struct session *session, bool chatting, struct kvasir_request *out);
/* Submits and runs to the end, or until Ctrl-C where that is watched; `stream` writes the text as it comes. */
MUST_CHECK enum status session_answer(struct session *session, const struct kvasir_request *request, bool stream,
                                      struct answer *out, struct error *error);
void answer_release(struct answer *answer);
/* The closing line, on standard error. */
void answer_report(const struct session *session, const struct kvasir_request *request, const struct answer *answer);
/* ---- the KV cache's statistics (kv_report.c) ------------------------------------------------------------------------------------- */

/* `now`, and `most`: when most of the cache was in use. Lines; or members, each after a comma. */
void kv_report_text(const struct kvasir_engine_stats *now, const struct kvasir_engine_stats *most, struct buffer *out);
void kv_report_json(const struct kvasir_engine_stats *now, const struct kvasir_engine_stats *most, struct buffer *out);

/* ---- line editing (line_editor.c) ---------------------------------------------------------------------------------------------------- */

struct line_editor;
enum line_result { LINE_READ, LINE_INTERRUPTED, LINE_INTERRUPTED_EMPTY, LINE_END };
MUST_CHECK enum status line_editor_open(const struct options *options, struct line_editor **out, struct error *error);
void line_editor_close(struct line_editor *editor);
/* One line without its newline; borrowed until the next call. */
enum line_result line_editor_read(struct line_editor *editor, const char *prompt, const char **line, size_t *bytes);

#endif
