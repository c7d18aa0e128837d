/* options.h - the command line as data: one table of commands, one of options. Parsing, --help, the manual pages and the
 * bash completion are all made from these rows, so they cannot disagree.
 *
 * Rules
 * - The order of weight is: command line, environment, --config's file, the row's default. The default is text in the row,
 *   parsed like any value: what --help says is what is used. Every option of `serve` has a variable, KVASIR_ and its name;
 *   other commands read those that their rows name. Some rows also name the variable of a published design, of the same meaning,
 *   which weighs less than ours.
 * - A number is the whole text, within the row's range. Nothing is guessed from a prefix of an option's name.
 * - An argument's text is borrowed from argv or the environment; lists are owned by struct options.
 * - Only options_parse reads the environment. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H
#include "base/base.h"
#include "kvasir.h"

enum command_id {
    COMMAND_RUN,
    COMMAND_INSPECT,
    COMMAND_TOKENIZE,
    COMMAND_DETOKENIZE,
    COMMAND_EMBED,
    COMMAND_RENDER,
    COMMAND_EVAL_NLL,
    COMMAND_EVAL_KL,
    COMMAND_EVAL_HEADS,
    COMMAND_EVAL_RETRIEVAL,
    COMMAND_BENCH,
    COMMAND_BENCH_THROUGHPUT,
    COMMAND_SERVE,
    COMMAND_PS,
    COMMAND_STOP,
    COMMAND_CACHE_STAT,
    COMMAND_CACHE_LS,
    COMMAND_CACHE_PIN,
    COMMAND_CACHE_DROP,
    COMMAND_CACHE_VERIFY,
    COMMAND_CACHE_EXPORT,
    COMMAND_CACHE_IMPORT,
    COMMAND_COMPLETION,
    COMMAND_HELP,
    COMMAND_VERSION,
    COMMAND_COUNT,
};
#define FOR(command) (1u << COMMAND_##command)

/* What the arguments that are no options mean. */
enum arguments { ARGUMENTS_NONE, ARGUMENTS_MODEL, ARGUMENTS_MODEL_TEXT, ARGUMENTS_MODEL_REST, ARGUMENTS_REST };

struct command {
    const char *name; /* as typed: "run", "eval nll" */
    enum arguments arguments;
    const char *synopsis; /* after the name */
    const char *summary;  /* one line, no full stop */
    const char *text;     /* paragraphs, separated by \n\n */
    const char *examples; /* lines "command\tmeaning", or NULL */
};
extern const struct command COMMANDS[COMMAND_COUNT];

enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char * */
    OPTION_FILE,   /* const char *; the completion offers files */
    OPTION_CHOICE, /* const char *, one of the row's choices */
    OPTION_WHOLE,  /* int64_t */
    OPTION_REAL,   /* double */
    OPTION_TOKENS, /* int64_t, also written 32K (of 1024 tokens) */
    OPTION_SIZE,   /* uint64_t bytes, written 512MiB, 2GiB, 1500MB … */
    OPTION_TEXTS,  /* struct text_list; repeatable */
    OPTION_IDS,    /* const char *: token ids, or @FILE; the ids are checked here, read later */
    OPTION_VALUES, /* struct text_list, KEY=JSON; checked here; repeatable */
    OPTION_WHOLES, /* struct id_list; by commas, repeatable */
    OPTION_REALS,  /* struct real_list; by commas, repeatable */
    OPTION_BIASES, /* struct bias_list, ID=BIAS; by commas, repeatable */
};

struct text_list {
    const char **items;
    size_t count;
};
struct id_list {
    uint32_t *items;
    size_t count;
};
struct real_list {
    double *items;
    size_t count;
};
struct bias_list {
    struct kvasir_logit_bias *items;
    size_t count;
};

struct option_row {
    unsigned commands; /* FOR(…) | FOR(…) */
    char letter;       /* 0 = none */
    const char *name;  /* without dashes */
    enum option_kind kind;
    const char *argument; /* its name in the help */
    const char *help;
    const char *group;
    const char *aliases;     /* with their dashes, separated by blanks */
    const char *fallback;    /* the default, or NULL: zero, off, none */
    const char *unset;       /* what happens without it, for the help where `fallback` does not say it */
    const char *choices;     /* "text|json" */
    const char *environment; /* the variable that gives it, or NULL */
    const char *published;   /* one of another program, or NULL */
    const char *member;      /* of a list by commas in that one, which turns the option `on`; NULL: it is the value */
    const char *exclusive;   /* rows of one such name exclude each other */
    double low, high;        /* the range of numbers (of each number in a list) */
    size_t offset;           /* of the value in struct options */
};
extern const struct option_row OPTION_ROWS[];
extern const size_t OPTION_ROW_COUNT;
#define OPTION_ROWS_MAX 192

/* A file of options (config_file.c). */
struct config_entry {
    const char *name, *value; /* of a list: one entry each */
    unsigned line;
};
struct config {
    const char *path;
    struct config_entry *entries; /* [count] */
    size_t count;
    struct arena texts; /* theirs */
};
MUST_CHECK enum status config_read(const char *path, struct config *out, struct error *error);
void config_release(struct config *config); /* also of one that could not be read */

/* What the process was told by its surroundings. NULL where unset or empty. */
struct environment {
    const char *home, *kvasir_home, *cache_home, *state_home, *terminal, *notify_socket;
    bool no_colour;
};

struct options {
    enum command_id command;
    struct environment environment;
    struct config config;
    bool given[OPTION_ROWS_MAX]; /* by row: not only by default */
    bool help;

    const char *model;     /* from -m, the first argument, the environment or the default */
    bool model_chosen;     /* on the command line */
    struct text_list rest; /* further arguments (ids, topic) */
    const char *isa, *rope_frequencies;
    int64_t threads;

    const char *prompt, *file, *prompt_ids, *system, *template_file;
    bool raw, no_special, no_parse_special, skip_special, no_generation_prompt;
    const char *pooling;
    bool no_normalize;
    struct text_list values; /* KEY=JSON */
    const char *messages_file, *tools_file, *ids;

    int64_t max_tokens, min_tokens, logprobs, prompt_logprobs;
    struct text_list stop, bad_words, choices;
    const char *json_schema, *json_schema_file, *grammar, *grammar_file, *regex;
    bool json_object;
    struct id_list stop_ids, allowed_ids;
    bool ignore_eos, show_control;

    double temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    int64_t top_k, penalty_window, seed;
    struct bias_list bias;

    int64_t context, block_size, max_batched_tokens, max_sequences, draft_max;
    uint64_t kv_cache_bytes, swap_bytes, kv_disk_bytes;
    const char *kv_cache_dtype, *cache_type_k, *cache_type_v;
    const char *kv_policy, *kv_events, *kv_save, *kv_load, *kv_disk, *kv_remote;
    const char *retrieval;
    int64_t retrieval_initial, retrieval_local, retrieval_dense_boundary, retrieval_offload_boundary,
        retrieval_dense_layers;
    double retrieval_topk;
    bool no_kv_cache, kv_stats, kv_reserve;
    double max_step_ms;

    struct id_list bench_prompt, bench_generate, bench_depth, recall_tokens;
    int64_t repetitions, depth_computed;
    bool roofline, bench_retrieval, skip_dense;

    const char *preset, *prompt_tokens, *output_tokens, *plot;
    int64_t requests, shared_prefix, shared_prefixes, turns;
    struct id_list concurrency;
    struct real_list arrival_rate;
    double think_time;

    double keep, loss;
    int64_t sinks, window;
    const char *policy_out;

    struct id_list lengths;
    struct real_list budgets;
    int64_t items, dense_layers;
    const char *tasks, *question;

    const char *tool_call_parser;
    bool trust_chat_template;
    const char *config_path, *served_name, *host, *tls_cert, *tls_key, *tls_ca, *url, *api_key_file, *log_format,
        *log_level, *metrics_prefix;
    int64_t port, connections_max, max_waiting;
    uint64_t body_bytes_max;
    double drain_s, keep_alive_s, idle_s;
    struct text_list api_keys, allowed_hosts, allowed_origins;
    bool share_cache;

    const char *output;
    bool quiet, manual;
};

/* Parses argv[1…]; `environment` is getenv outside tests. On failure one line in `error`; on success as on failure the
 * caller releases `out`. --help stops the parsing and sets out->help. */
MUST_CHECK enum status options_parse(int argc, char *const *argv, const char *(*environment)(const char *),
                                     struct options *out, struct error *error);
void options_release(struct options *options);
/* Was the option of this long name given (not defaulted) for this command? */
bool options_given(const struct options *options, const char *name);

enum kvasir_pooling options_pooling(const struct options *options);

/* Appends the whole numbers in `text`, separated by commas or white space (brackets are allowed around them), each at
 * most `high`. `what` names them in the error. */
MUST_CHECK enum status ids_parse(const char *what, const char *text, uint32_t high, struct id_list *out,
                                 struct error *error);

#endif
