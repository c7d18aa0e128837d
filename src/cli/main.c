/* main.c - the program `kvasir`: finds the command and runs it. Only here the process gets its exit status. */
#include "cli/cli.h"
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int version_main(const struct options *options)
{
    (void)options;
    struct error error;
    struct buffer text;
    buffer_init(&text, 0);
    buffer_printf(&text, "kvasir %s\n", kvasir_version());
    enum status status =
        text.failed ? error_set(&error, ST_NOMEM, "not enough memory") : output_write(text.data, text.length, &error);
    buffer_release(&text);
    return status == ST_OK ? EXIT_OK : fail(&error);
}

static int (*const MAINS[COMMAND_COUNT])(const struct options *) = {
    [COMMAND_RUN] = run_main,
    [COMMAND_INSPECT] = inspect_main,
    [COMMAND_TOKENIZE] = tokenize_main,
    [COMMAND_DETOKENIZE] = detokenize_main,
    [COMMAND_EMBED] = embed_main,
    [COMMAND_RENDER] = render_main,
    [COMMAND_EVAL_NLL] = eval_nll_main,
    [COMMAND_EVAL_KL] = eval_kl_main,
    [COMMAND_EVAL_HEADS] = eval_heads_main,
    [COMMAND_EVAL_RETRIEVAL] = eval_retrieval_main,
    [COMMAND_BENCH] = bench_main,
    [COMMAND_BENCH_THROUGHPUT] = bench_throughput_main,
    [COMMAND_SERVE] = serve_main,
    [COMMAND_PS] = ps_main,
    [COMMAND_STOP] = stop_main,
    [COMMAND_CACHE_STAT] = cache_stat_main,
    [COMMAND_CACHE_LS] = cache_ls_main,
    [COMMAND_CACHE_PIN] = cache_pin_main,
    [COMMAND_CACHE_DROP] = cache_drop_main,
    [COMMAND_CACHE_VERIFY] = cache_verify_main,
    [COMMAND_CACHE_EXPORT] = cache_export_main,
    [COMMAND_CACHE_IMPORT] = cache_import_main,
    [COMMAND_COMPLETION] = completion_main,
    [COMMAND_HELP] = help_main,
    [COMMAND_VERSION] = version_main,
};

static const char *environment(const char *name)
{
    return getenv(name);
}

/* A closed standard stream would give its number to the next file opened, and the answer would be written into it.
 * Standard output gets a read-only descriptor, so that writing to it still fails and is reported. */
static bool standard_streams_hold(void)
{
    static const int modes[] = {O_RDONLY, O_RDONLY, O_RDWR};
    for (int i = 0; i < 3; i++)
        if (fcntl(i, F_GETFD) < 0 && open("/dev/null", modes[i]) != i) return false;
    return true;
}

int main(int argc, char **argv)
{
    if (!standard_streams_hold()) return EXIT_FAILED;
    signal(SIGPIPE, SIG_IGN); /* output_write sees EPIPE, and the program ends in order */
    signal(SIGXFSZ, SIG_IGN); /* a limit on files (ulimit -f) is met as a full disk is */
    setlocale(LC_CTYPE, "");
    struct options options;
    struct error error;
    enum status status = options_parse(argc, argv, environment, &options, &error);
    int result = status == ST_OK        ? options.help ? help_main(&options) : MAINS[options.command](&options)
                        : status == ST_INVALID ? fail_usage("%s", error.text)
                                        : fail(&error);
    options_release(&options);
    return result;
}
