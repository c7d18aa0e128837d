/* option_table.c - the two tables of options.h: every command and every option, with all that is said about them
 * anywhere. Names that llama.cpp and vLLM users have in their fingers are aliases. No code. */
#include "cli/options.h"

#define AT(field) offsetof(struct options, field)
#define EVALUATES_TEXT (FOR(EVAL_NLL) | FOR(EVAL_KL) | FOR(EVAL_HEADS))
#define BENCHES (FOR(BENCH) | FOR(BENCH_THROUGHPUT))
#define SERVES (FOR(SERVE) | FOR(BENCH_THROUGHPUT)) /* many requests */
#define ASKS_SERVER (FOR(PS) | FOR(STOP) | FOR(CACHE_STAT) | FOR(CACHE_LS) | FOR(CACHE_PIN) | FOR(CACHE_DROP))
#define LOOKS_AFTER_FOLDER (FOR(CACHE_STAT) | FOR(CACHE_LS) | FOR(CACHE_VERIFY) | FOR(CACHE_EXPORT) | FOR(CACHE_IMPORT))
#define ANY_MODEL                                                                                                      \
    (FOR(RUN) | FOR(INSPECT) | FOR(TOKENIZE) | FOR(DETOKENIZE) | FOR(EMBED) | FOR(RENDER) | EVALUATES_TEXT | BENCHES | \
     FOR(EVAL_RETRIEVAL) | FOR(SERVE))
#define GENERATES (FOR(RUN) | FOR(EMBED) | EVALUATES_TEXT | FOR(EVAL_RETRIEVAL) | BENCHES | FOR(SERVE))
#define RETRIEVES (FOR(RUN) | SERVES)
#define READS_TEXT (FOR(RUN) | FOR(TOKENIZE) | FOR(EMBED) | EVALUATES_TEXT)
#define IDS_MAX 4294967294.0
#define TOKENS_MAX 1073741824.0

const struct command COMMANDS[COMMAND_COUNT] = {
    [COMMAND_RUN] = {"run", ARGUMENTS_MODEL_TEXT, "[MODEL] [PROMPT]", "answer a prompt, or chat on a terminal",
                     "The prompt is the second argument, or comes from -p, -f, --prompt-ids or standard input. With "
                     "nothing given on a "
                     "terminal, a chat begins. A model with a chat template gets the prompt as a user's message; "
                     "without one, or with "
                     "--raw, the model continues the prompt itself.\n\n"
                     "The answer goes to standard output as it is made; one closing line about time and memory goes to "
                     "standard error. "
                     "An answer is greedy, thus always the same, unless --temp is given; a chat uses --temp 0.7 "
                     "--top-k 40 --top-p 0.95 "
                     "--min-p 0.05 where these are not given.\n\n"
                     "Ctrl-C stops the answer: what was written stays, and the exit status is 130.",
                     "kvasir run smollm2 \"Why is the sky blue?\"\tone answer\n"
                     "kvasir run\ta chat with the default model\n"
                     "git diff | kvasir run qwen2 --system \"Review this patch.\"\ta prompt from a pipe\n"
                     "kvasir run model.gguf --raw -p \"Once upon a time\" -n 64 --temp 0.8 -s 7\ta continuation\n"},
    [COMMAND_INSPECT] = {"inspect", ARGUMENTS_MODEL, "[MODEL]", "say what a model is and what its KV cache costs",
                         "Architecture, tensors by format, context length, and the bytes of K and V per token by kind "
                         "of layer, with the "
                         "formula and a table for 1K to 128K tokens. No weights are loaded.",
                         "kvasir inspect smollm2\ta model of the cache folder\n"},
    [COMMAND_TOKENIZE] = {"tokenize", ARGUMENTS_MODEL_TEXT, "[MODEL] [TEXT]", "turn text into token ids",
                          "The text is the second argument, or comes from -p, -f or standard input, byte for byte. "
                          "Only the file's vocabulary "
                          "is read, so the architecture need not be one that Kvasir runs. An empty text gives no ids.",
                          "kvasir tokenize smollm2 \"Hello world\"\tids and pieces\n"
                          "kvasir tokenize -m model.gguf -f book.txt --output json\t{\"ids\":[...]}\n"},
    [COMMAND_DETOKENIZE] = {"detokenize", ARGUMENTS_MODEL_REST, "[MODEL] [ID...]", "turn token ids into text",
                            "The ids are the further arguments, or come from --ids, -f or standard input: whole "
                            "numbers separated by commas or "
                            "blanks, or the JSON that tokenize prints. Out come the exact bytes, nothing else; a BOS "
                            "that tokenize put in front "
                            "is left out.",
                            "kvasir detokenize smollm2 504 3575 282\tthe text of three tokens\n"},
    [COMMAND_EMBED] = {"embed", ARGUMENTS_MODEL_TEXT, "[MODEL] [TEXT]", "turn text into an embedding",
                       "One JSON line goes to standard output: the vector that the model makes of the text, as long as "
                       "its hidden rows "
                       "are wide, and the number of tokens. It is the hidden row of the last token after the final "
                       "norm, or the mean of "
                       "all tokens' rows, divided by its Euclidean length: so the similarity of two texts is the dot "
                       "product of their "
                       "vectors.\n\n"
                       "The text is the second argument, or comes from -p, -f, --prompt-ids or standard input, byte "
                       "for byte. No chat "
                       "template is applied: what a model made for embeddings wants around a text (an instruction, an "
                       "end token) is to "
                       "be written there.",
                       "kvasir embed qwen2 \"The sky is blue.\"\t{\"embedding\":[...],\"prompt_tokens\":5}\n"
                       "kvasir embed qwen2 -f page.txt --pooling mean\tthe mean over all tokens\n"},
    [COMMAND_RENDER] =
        {"render", ARGUMENTS_MODEL, "[MODEL]", "show the prompt text a chat template gives",
         "Prints exactly the text that the model's template, or the one in --template, makes of the messages: an array "
         "of "
         "{\"role\", \"content\"}, or an object with \"messages\" and perhaps \"tools\".",
         "kvasir render qwen2 --messages chat.json\tthe model's own template\n"
         "kvasir render --template t.jinja --messages chat.json --set 'bos_token=\"<s>\"'\tany template\n"},
    [COMMAND_EVAL_NLL] =
        {"eval nll", ARGUMENTS_MODEL, "[MODEL]", "measure how well a model predicts a text",
         "The mean negative log-likelihood (natural logarithm) over all next-token predictions of the text; its "
         "exponential is the perplexity.",
         "kvasir eval nll smollm2 -f wiki.txt --output json\t{\"mean_nll\",\"tokens\"}\n"},
    [COMMAND_EVAL_KL] =
        {"eval kl", ARGUMENTS_MODEL, "[MODEL]", "measure what a KV cache format or policy costs",
         "Runs the text twice, with a KV cache of f32 that keeps all, and with that of --kv-cache-dtype and "
         "--kv-policy, and compares what the "
         "model "
         "predicts at every position: the Kullback-Leibler divergence in nats (mean and 99th percentile) and how often "
         "the "
         "most probable token is the same. Attention reads only rows that came back from the cache, as in decode.",
         "kvasir eval kl qwen2 -f wiki.txt --kv-cache-dtype f16 --output "
         "json\t{\"mean_kl\",\"p99_kl\",\"top1_agreement\",\"tokens\"}\n"},
    [COMMAND_EVAL_HEADS] =
        {"eval heads", ARGUMENTS_MODEL, "[MODEL]", "measure which heads need the whole past, and write a KV policy",
         "Limits one KV head at a time to the first tokens (--sinks) and the last ones (--window), and measures what "
         "that "
         "does to the model's predictions over the text: one pass for each head, so the text had better have a few "
         "thousand tokens. The heads that cost most keep the whole past, the others are limited; the loss of that "
         "policy "
         "on the text, and the memory it saves, are told. Then see `kvasir eval kl --kv-policy` on another text.",
         "kvasir eval heads qwen2 -f wiki.txt --keep 0.5 -o policy.json\thalf of the heads\n"
         "kvasir eval heads qwen2 -f wiki.txt --loss 0.01 -o policy.json\tas few as a mean KL of 0.01 allows\n"},
    [COMMAND_EVAL_RETRIEVAL] =
        {"eval retrieval", ARGUMENTS_MODEL, "[MODEL]", "measure what retrieval attention loses",
         "Makes long texts with many needles in them, from --seed, and asks for these, each three times from the same "
         "prefill: with dense attention, with retrieval, and with the first and last tokens alone, of the same budget. "
         "An "
         "answer is right if it is exactly the number, name or word that was asked for. Asked is only for what the "
         "last tokens "
         "alone do not hold. A task is asked until dense "
         "attention has answered --items right, or three times as many were asked.\n\n"
         "A budget is the share of the K and V rows that dense attention reads. Of a token's rows an eighth are first "
         "tokens (at most 64) and an eighth local ones, the others are recalled. The question is read densely, like "
         "any "
         "prompt; with --question sparse it, too, is run token by token with retrieval.\n\n"
         "Tasks: single (one number of each kind, in prose), multi-value (two numbers for one name), multi-query (two "
         "names asked at once), variables (which one another was assigned from), multi-key (every sentence is a "
         "needle), "
         "words (the most common word of a list), code (which number a function returns).",
         "kvasir eval retrieval qwen2 --lengths 8192,16384 --budget 0.2 --items 100\tat two lengths\n"
         "kvasir eval retrieval qwen2 --lengths 4096 --budget 0.1,0.2 --tasks single,code --plot map.svg\ttwo "
         "budgets, and a picture\n"},
    [COMMAND_BENCH] =
        {"bench", ARGUMENTS_MODEL, "[MODEL]", "measure prefill and decode speed",
         "Every value of -p is a prefill test (pp512), every pair of -n and -d a decode test (tg128, tg128@8192). Each "
         "runs "
         "once untimed, then -r times.\n\n"
         "--roofline sets every test against what this machine can do at best with the same threads and instruction "
         "set, measured just before and after it by loops that do nothing else. Prefill: seconds a token = int8 "
         "multiply-adds of the matrices / int8 peak + multiply-adds of attention / int16 peak (float matrices, and "
         "attention over a KV cache of f32, / f32 peak), but no less than reading the weights once takes. Decode: "
         "seconds a token = bytes of the weights and of the K and V rows seen / read bandwidth over a buffer of that "
         "size. The limit is 1 / seconds.\n\n"
         "--retrieval runs every decode test again with retrieval attention that reads --budget of the K and V rows "
         "(tg128@32768/20%): 64 first tokens, 128 last ones, the rest looked up. --recall-tokens fixes how many are "
         "looked "
         "up instead (tg128@32768/4096).\n\n"
         "--depth-computed is for depths that nobody waits for, also past what the model was trained for "
         "(tg128@~524288): "
         "decoding costs what it would, what the model says means nothing. With --kv-disk, --retrieval and "
         "--skip-dense most "
         "of their K and V waits in files without a name there, and memory is --kv-cache-memory.\n\n"
         "What many requests at once get is measured by `kvasir bench throughput`.",
         "kvasir bench smollm2\tpp512 and tg128\n"
         "kvasir bench qwen2 -p 0 -n 64 -d 0,8192 -r 5 --output json\tdecode, empty and at 8K tokens of context\n"
         "kvasir bench qwen2 -p 0 -n 64 -d 4096,32768 --retrieval --budget 0.1,0.2\tdense and looked up\n"
         "kvasir bench qwen2 -p 0 -d 32768,524288 --depth-computed 4096 --retrieval --recall-tokens 4096\tfar\n"
         "kvasir bench qwen2 --roofline\tas shares of what the machine can do\n"},
    [COMMAND_BENCH_THROUGHPUT] =
        {"bench throughput", ARGUMENTS_MODEL, "[MODEL]", "measure what many requests at once get",
         "Serves a load of random prompts and answers of stated lengths, once for every value of --concurrency (so "
         "many "
         "at a time) or --arrival-rate (they come when they come, as a Poisson process), and reports tokens and "
         "requests "
         "per second, time to first token (TTFT), time per output token (TPOT), time between tokens (ITL) and time to "
         "the "
         "last one, prefix hits, and use of the KV cache. The same seed gives the same load.\n\n"
         "A length is N, uniform:A-B, lognormal:MEDIAN,SIGMA or exp:MEAN, in tokens. A preset states a whole load, of "
         "which single options can be given otherwise. independent: 48 requests of 125 and 64 tokens, 16 at a time. "
         "shared-prefix: 32 requests of 40 and 64 tokens after 600 common ones, 16 at a time. conversation: 8 "
         "conversations of 4 turns of 60 and 64 tokens, 8 at a time.\n\n"
         "Ctrl-C ends it: what was measured is told, and the exit status is 130.",
         "kvasir bench throughput qwen2\t48 requests, 16 at a time\n"
         "kvasir bench throughput qwen2 --concurrency 1,4,16,64 --plot t.svg\ta picture of throughput and TTFT\n"
         "kvasir bench throughput qwen2 --preset shared-prefix --output json\t600 common tokens\n"
         "kvasir bench throughput qwen2 --arrival-rate 0.5,1,2 --prompt-tokens lognormal:200,0.8\tan open loop\n"},
    [COMMAND_SERVE] =
        {"serve", ARGUMENTS_MODEL, "[MODEL]", "serve a model over HTTP to OpenAI clients",
         "Answers POST /v1/chat/completions, /v1/completions and /v1/responses, whole or streamed, /v1/embeddings, and "
         "GET /v1/models "
         "and "
         "/health, as OpenAI's API does, /tokenize and /detokenize as vLLM does, and /metrics for Prometheus; the base "
         "URL is printed when it listens. Requests run together, and share what the KV "
         "cache holds of their prompts. A client that goes away frees what it held.\n\n"
         "Every option can also be given by a variable, KVASIR_ and its name in capitals with _ for -, or in a file "
         "(--config). The "
         "command line outweighs the variable, the variable the file.\n\n"
         "The first Ctrl-C, or SIGTERM, lets the answers that are being given end, for --drain-seconds at most; a "
         "second one ends at once, with exit status 130.",
         "kvasir serve qwen2\ton port 8000 of this machine alone\n"
         "kvasir serve model.gguf --port 9000 --max-num-seqs 16 --kv-cache-memory 2GiB\tfewer users, stated memory\n"},
    [COMMAND_PS] = {"ps", ARGUMENTS_NONE, "", "list the requests that a server is answering",
                    "By phase: queue (it waits), prefill (of its prompt so many tokens are done), decode, cancelled. A "
                    "server with API keys tells only the key named admin.",
                    "kvasir ps\tof the server on this machine\n"
                    "kvasir ps --url https://llm.example --api-key KEY -o json\tof another, as JSON\n"},
    [COMMAND_STOP] = {"stop", ARGUMENTS_NONE, "", "stop a server when its answers are given",
                      "As SIGTERM does: no new connections and requests, and what runs may end within the server's "
                      "--drain-seconds. Without API keys a server obeys its own machine only, with keys the one named "
                      "admin.",
                      "kvasir stop\tthe server on this machine\n"},
    [COMMAND_CACHE_STAT] = {"cache stat", ARGUMENTS_NONE, "", "tell what a server's KV cache, or a folder of it, holds",
                            "Memory, blocks, hits and requests of a running server. With --kv-disk, the blobs in that "
                            "folder, whether a server uses it or not.",
                            "kvasir cache stat\tof the server on this machine\n"
                            "kvasir cache stat --kv-disk /var/cache/kvasir/kv\tof a folder\n"},
    [COMMAND_CACHE_LS] =
        {"cache ls", ARGUMENTS_NONE, "", "list a server's pinned prefixes, or the blobs in a folder",
         "Of a running server, the prefixes that are pinned in its KV cache; what is not pinned stays "
         "cached, too, until room is needed. With --kv-disk, the blobs in that folder, the most "
         "recently used first.",
         "kvasir cache ls\tname, tokens and memory of each pin\n"
         "kvasir cache ls --kv-disk /var/cache/kvasir/kv -o json\tkey, size and last use of each blob\n"},
    [COMMAND_CACHE_PIN] =
        {"cache pin", ARGUMENTS_REST, "NAME [TEXT]", "keep a prefix in a server's KV cache",
         "The text, as the beginning of a prompt, or with --system as the beginning of a chat, is computed "
         "if need be, and kept until it is dropped or the server ends. A pin of the same name is replaced.",
         "kvasir cache pin handbook \"$(cat handbook.txt)\"\ta text that many prompts begin with\n"
         "kvasir cache pin support --system \"You answer customers.\"\ta system prompt\n"},
    [COMMAND_CACHE_DROP] = {"cache drop", ARGUMENTS_REST, "NAME", "let a pinned prefix go",
                            "It stays cached until room is needed.", "kvasir cache drop handbook\tby its name\n"},
    [COMMAND_CACHE_VERIFY] =
        {"cache verify", ARGUMENTS_NONE, "", "read and check every blob in a folder of the KV cache",
         "A blob that is damaged is removed, as it would be when it is first used; a server may use the folder "
         "meanwhile. "
         "Exit status 1 if there was one.",
         "kvasir cache verify --kv-disk /var/cache/kvasir/kv\tafter a crash, or a doubt about the disk\n"},
    [COMMAND_CACHE_EXPORT] =
        {"cache export", ARGUMENTS_REST, "FILE", "put all blobs of a folder of the KV cache into one file",
         "Each is checked on the way. The file is written under a temporary name and renamed when it is whole. It "
         "holds "
         "what prompts were made of: keep it as private as they are.",
         "kvasir cache export --kv-disk /var/cache/kvasir/kv kv.archive\tto be carried to another machine\n"},
    [COMMAND_CACHE_IMPORT] =
        {"cache import", ARGUMENTS_REST, "FILE", "put the blobs of an exported file into a folder of the KV cache",
         "Each is checked on the way; what is there already stays as it is, and the least recently used give way to "
         "--kv-disk-size. A server that uses the folder finds them. Checksums find damage, not lies: import only what "
         "comes from somebody who may decide what your server answers.",
         "kvasir cache import --kv-disk /var/cache/kvasir/kv kv.archive\twhat another machine has computed\n"},
    [COMMAND_COMPLETION] = {"completion", ARGUMENTS_REST, "bash|zsh", "print a completion script for a shell",
                            "Made from the same tables as the help.",
                            "source <(kvasir completion bash)\tin this bash\n"
                            "kvasir completion zsh > _kvasir\tto be put into a folder of zsh's fpath\n"},
    [COMMAND_HELP] = {"help", ARGUMENTS_REST, "[COMMAND]", "describe a command",
                      "The same as COMMAND --help. With --man, the manual page as roff source.",
                      "kvasir help run\tas kvasir run --help\n"
                      "kvasir help --man run | man -l -\tthe manual page\n"},
    [COMMAND_VERSION] = {"version", ARGUMENTS_NONE, "", "print the version", "The same as --version.", NULL},
};

/* A row is read as a paragraph. */
/* clang-format off */
const struct option_row OPTION_ROWS[] = {
    /* ---- model ---- */
    {.commands = ANY_MODEL, .letter = 'm', .name = "model", .kind = OPTION_FILE, .argument = "MODEL",
     .group = "Model", .fallback = "smollm2", .environment = "KVASIR_MODEL", .offset = AT(model),
     .help = "a GGUF file, a folder with config.json and *.safetensors, or a name in the cache folder. With -m, "
             "arguments are no longer taken as MODEL"},
    {.commands = GENERATES, .letter = 't', .name = "threads", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Model", .fallback = "0", .low = 0, .high = 1024, .environment = "KVASIR_THREADS",
     .offset = AT(threads),
     .help = "threads; 0 = one for every processor. The answer does not depend on it"},
    {.commands = GENERATES, .name = "isa", .kind = OPTION_TEXT, .argument = "NAME", .group = "Model",
     .fallback = "auto", .environment = "KVASIR_ISA", .offset = AT(isa),
     .help = "instruction set of the kernels: auto, ref, avx2, avxvnni, avx512, avx512vnni, amx"},
    {.commands = GENERATES, .name = "rope-frequencies", .kind = OPTION_TEXT, .argument = "FORMAT", .group = "Model",
     .fallback = "auto", .offset = AT(rope_frequencies),
     .help = "precision of rope's frequencies: f32, bf16 (as a model cast to bf16 has them), auto: bf16 for bf16 safetensors"},

    /* ---- server ---- */
    {.commands = FOR(SERVE), .name = "config", .kind = OPTION_FILE, .argument = "FILE", .group = "Server",
     .environment = "KVASIR_CONFIG", .offset = AT(config_path),
     .help = "options from a YAML file, lines NAME: VALUE; a variable outweighs it, the command line both"},
    {.commands = FOR(SERVE), .letter = 'a', .name = "served-model-name", .kind = OPTION_TEXT, .argument = "NAME",
     .group = "Server", .aliases = "--alias", .unset = "the file's name, without folder and ending", .offset = AT(served_name),
     .help = "what clients call the model"},
    {.commands = FOR(SERVE), .name = "host", .kind = OPTION_TEXT, .argument = "ADDRESS", .group = "Server",
     .fallback = "127.0.0.1", .environment = "KVASIR_HOST", .offset = AT(host),
     .help = "where to listen; an address that others reach lets anybody there use the model"},
    {.commands = FOR(SERVE), .name = "port", .kind = OPTION_WHOLE, .argument = "N", .group = "Server",
     .fallback = "8000", .low = 0, .high = 65535, .environment = "KVASIR_PORT", .offset = AT(port),
     .help = "0 = any free one"},
    {.commands = FOR(SERVE), .name = "tls-cert", .kind = OPTION_FILE, .argument = "FILE", .group = "Server",
     .aliases = "--ssl-certfile --ssl-cert-file", .offset = AT(tls_cert),
     .help = "serve HTTPS with this certificate and its chain (PEM)"},
    {.commands = FOR(SERVE), .name = "tls-key", .kind = OPTION_FILE, .argument = "FILE", .group = "Server",
     .aliases = "--ssl-keyfile --ssl-key-file", .unset = "it is in the certificate's file", .offset = AT(tls_key),
     .help = "the certificate's private key (PEM)"},
    {.commands = FOR(SERVE), .name = "drain-seconds", .kind = OPTION_REAL, .argument = "X", .group = "Server",
     .fallback = "30", .low = 0, .high = 3600, .offset = AT(drain_s),
     .help = "how long a stopping server lets answers go on"},
    {.commands = FOR(SERVE), .name = "stream-keep-alive", .kind = OPTION_REAL, .argument = "X", .group = "Server",
     .fallback = "15", .low = 0.5, .high = 3600, .offset = AT(keep_alive_s),
     .help = "a stream that was silent for X seconds (the prompt is long, or the request waits) gets a comment, so that nobody "
             "takes it for dead"},
    {.commands = FOR(SERVE), .name = "tool-call-parser", .kind = OPTION_CHOICE, .argument = "FORMAT", .group = "Server",
     .fallback = "auto", .choices = "auto|hermes|llama3_json|none", .offset = AT(tool_call_parser),
     .help = "how the model writes calls of tools: auto (as its chat template says), hermes, llama3_json, none (tools are refused)"},
    {.commands = FOR(SERVE), .name = "trust-request-chat-template", .kind = OPTION_FLAG, .group = "Server",
     .offset = AT(trust_chat_template),
     .help = "a request may bring its own chat_template"},
    {.commands = FOR(SERVE), .name = "api-key", .kind = OPTION_TEXTS, .argument = "KEY", .group = "Server",
     .environment = "KVASIR_API_KEY", .unset = "everybody who reaches the server may use it", .offset = AT(api_keys),
     .help = "a key that clients must show; may be repeated. Others on this machine can see a command line: prefer the variable "
             "or --api-key-file"},
    {.commands = FOR(SERVE), .name = "api-key-file", .kind = OPTION_FILE, .argument = "FILE", .group = "Server",
     .offset = AT(api_key_file),
     .help = "keys, one a line, each with a name for the log after it if wanted: KEY NAME; # begins a comment"},
    {.commands = FOR(SERVE), .name = "share-cache-among-keys", .kind = OPTION_FLAG, .group = "Server",
     .offset = AT(share_cache),
     .help = "requests of different keys share cached prefixes: quicker, but one key can tell what another has asked"},
    {.commands = FOR(SERVE), .name = "allowed-hosts", .kind = OPTION_TEXTS, .argument = "NAME,...", .group = "Server",
     .unset = "addresses, localhost and the name in --host", .offset = AT(allowed_hosts),
     .help = "names under which the server may be addressed, as in llm.example.com or *.example.com; * = all. Only checked "
             "without API keys, against DNS rebinding"},
    {.commands = FOR(SERVE), .name = "allowed-origins", .kind = OPTION_TEXTS, .argument = "ORIGIN,...", .group = "Server",
     .unset = "none but the server's own page", .offset = AT(allowed_origins),
     .help = "websites whose scripts may use the server from a visitor's browser (CORS), as in https://chat.example; * = all"},
    {.commands = FOR(SERVE), .name = "max-connections", .kind = OPTION_WHOLE, .argument = "N", .group = "Server",
     .fallback = "2048", .low = 1, .high = 65536, .offset = AT(connections_max),
     .help = "open at once; more are answered with 503"},
    {.commands = FOR(SERVE), .name = "max-waiting", .kind = OPTION_WHOLE, .argument = "N", .group = "Server",
     .fallback = "1024", .low = 0, .high = 4096, .offset = AT(max_waiting),
     .help = "answers that may wait while --max-num-seqs run; more are answered with 429"},
    {.commands = FOR(SERVE), .name = "max-body-size", .kind = OPTION_SIZE, .argument = "SIZE", .group = "Server",
     .fallback = "16MiB", .low = 1024, .high = 1073741824.0, .offset = AT(body_bytes_max),
     .help = "of a request; longer ones are answered with 413"},
    {.commands = FOR(SERVE), .name = "keep-alive-seconds", .kind = OPTION_REAL, .argument = "X", .group = "Server",
     .fallback = "60", .low = 0.1, .high = 3600, .offset = AT(idle_s),
     .help = "how long a connection may wait for its next request"},
    {.commands = FOR(SERVE), .name = "metrics-prefix", .kind = OPTION_TEXT, .argument = "TEXT", .group = "Server",
     .fallback = "kvasir:", .offset = AT(metrics_prefix),
     .help = "before the names of metrics at /metrics; vllm: makes vLLM's dashboards work"},
    {.commands = FOR(SERVE), .name = "log-format", .kind = OPTION_CHOICE, .argument = "FORMAT", .group = "Server",
     .fallback = "text", .choices = "text|json", .offset = AT(log_format),
     .help = "of the lines on standard error: text, or json, an object each"},
    {.commands = FOR(SERVE), .name = "log-level", .kind = OPTION_CHOICE, .argument = "LEVEL", .group = "Server",
     .aliases = "--uvicorn-log-level", .fallback = "info", .choices = "error|warning|info|debug", .offset = AT(log_level),
     .help = "error, warning, info (a line for every request: never what is in it) or debug"},

    {.commands = ASKS_SERVER, .name = "url", .kind = OPTION_TEXT, .argument = "URL", .group = "Server",
     .fallback = "http://127.0.0.1:8000", .environment = "KVASIR_URL", .offset = AT(url),
     .help = "where the server is"},
    {.commands = ASKS_SERVER, .name = "api-key", .kind = OPTION_TEXTS, .argument = "KEY", .group = "Server",
     .environment = "KVASIR_API_KEY", .unset = "none", .offset = AT(api_keys),
     .help = "the key to show"},
    {.commands = ASKS_SERVER, .name = "tls-ca", .kind = OPTION_FILE, .argument = "FILE", .group = "Server",
     .unset = "the system's", .offset = AT(tls_ca),
     .help = "certificates to trust (PEM), where the server's own is signed by nobody known"},

    /* ---- prompt ---- */
    {.commands = READS_TEXT, .letter = 'p', .name = "prompt", .kind = OPTION_TEXT, .argument = "TEXT",
     .group = "Prompt", .exclusive = "prompt", .offset = AT(prompt),
     .help = "the text"},
    {.commands = READS_TEXT, .letter = 'f', .name = "file", .kind = OPTION_FILE, .argument = "FILE",
     .group = "Prompt", .exclusive = "prompt", .offset = AT(file),
     .help = "the text is the file's bytes, all of them; - is standard input"},
    {.commands = FOR(RUN) | FOR(EMBED) | EVALUATES_TEXT, .name = "prompt-ids", .kind = OPTION_IDS, .argument = "IDS",
     .group = "Prompt", .exclusive = "prompt", .offset = AT(prompt_ids),
     .help = "token ids instead of text, as in \"1,2,3\"; @FILE reads them from a file. Nothing is added"},
    {.commands = FOR(DETOKENIZE), .name = "ids", .kind = OPTION_IDS, .argument = "IDS", .group = "Prompt",
     .exclusive = "prompt", .offset = AT(ids),
     .help = "the ids, as in \"1,2,3\""},
    {.commands = FOR(DETOKENIZE), .letter = 'f', .name = "file", .kind = OPTION_FILE, .argument = "FILE",
     .group = "Prompt", .exclusive = "prompt", .offset = AT(file),
     .help = "a file with the ids; - is standard input"},
    {.commands = FOR(RUN) | FOR(CACHE_PIN), .name = "system", .kind = OPTION_TEXT, .argument = "TEXT", .group = "Prompt",
     .aliases = "-sys --system-prompt", .offset = AT(system),
     .help = "a system message before the user's"},
    {.commands = FOR(RUN), .name = "raw", .kind = OPTION_FLAG, .group = "Prompt", .offset = AT(raw),
     .help = "no chat template: the model continues the text. Control tokens spelled in it count as such"},
    {.commands = FOR(RENDER), .name = "messages", .kind = OPTION_FILE, .argument = "FILE", .group = "Prompt",
     .offset = AT(messages_file),
     .help = "the messages, as JSON; - is standard input"},
    {.commands = FOR(RENDER), .name = "tools", .kind = OPTION_FILE, .argument = "FILE", .group = "Prompt",
     .offset = AT(tools_file), .unset = "`tools` is none in the template",
     .help = "an array of tools, as JSON"},
    {.commands = FOR(RUN) | FOR(RENDER) | FOR(SERVE), .name = "template", .kind = OPTION_FILE, .argument = "FILE",
     .group = "Prompt", .aliases = "--chat-template --chat-template-file", .offset = AT(template_file),
     .unset = "the model's own",
     .help = "a file with a Jinja chat template, used in place of the model's own"},
    {.commands = FOR(RUN) | FOR(RENDER), .name = "set", .kind = OPTION_VALUES, .argument = "KEY=JSON",
     .group = "Prompt", .offset = AT(values),
     .help = "a value for the template, as in enable_thinking=false; may be repeated"},
    {.commands = FOR(RENDER), .name = "no-generation-prompt", .kind = OPTION_FLAG, .group = "Prompt",
     .offset = AT(no_generation_prompt),
     .help = "do not open the assistant's turn at the end"},
    {.commands = READS_TEXT | FOR(DETOKENIZE), .name = "no-special", .kind = OPTION_FLAG, .group = "Prompt",
     .aliases = "--no-bos", .offset = AT(no_special),
     .help = "the model's BOS and EOS are not added to a raw text (detokenize: were not, so none is left out)"},
    {.commands = READS_TEXT, .name = "no-parse-special", .kind = OPTION_FLAG, .group = "Prompt",
     .offset = AT(no_parse_special),
     .help = "control tokens spelled in a raw text stay text"},
    {.commands = FOR(DETOKENIZE), .name = "skip-special", .kind = OPTION_FLAG, .group = "Prompt",
     .aliases = "--skip-special-tokens", .offset = AT(skip_special),
     .help = "leave out all control tokens"},

    /* ---- embedding ---- */
    {.commands = FOR(EMBED) | FOR(SERVE), .name = "pooling", .kind = OPTION_CHOICE, .argument = "KIND", .group = "Embedding",
     .fallback = "last", .choices = "last|mean", .offset = AT(pooling),
     .help = "last (the last token's hidden row) or mean (of all tokens' rows)"},
    {.commands = FOR(EMBED), .name = "no-normalize", .kind = OPTION_FLAG, .group = "Embedding",
     .offset = AT(no_normalize),
     .help = "the vector keeps its own length"},

    /* ---- answer ---- */
    {.commands = FOR(RUN), .letter = 'n', .name = "max-tokens", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Answer", .aliases = "--n-predict --predict", .fallback = "-1", .low = -1, .high = TOKENS_MAX,
     .offset = AT(max_tokens),
     .help = "most tokens of the answer; -1 = until it ends or the context is full"},
    {.commands = FOR(RUN), .name = "min-tokens", .kind = OPTION_WHOLE, .argument = "N", .group = "Answer",
     .fallback = "0", .low = 0, .high = TOKENS_MAX, .offset = AT(min_tokens),
     .help = "no end token, stop token or stop text ends the answer before so many tokens"},
    {.commands = FOR(RUN), .name = "stop", .kind = OPTION_TEXTS, .argument = "TEXT", .group = "Answer",
     .aliases = "-r --reverse-prompt", .offset = AT(stop),
     .help = "end the answer where this text would begin; may be repeated"},
    {.commands = FOR(RUN), .name = "stop-token-ids", .kind = OPTION_WHOLES, .argument = "IDS", .group = "Answer",
     .low = 0, .high = IDS_MAX, .offset = AT(stop_ids),
     .help = "tokens that end the answer"},
    {.commands = FOR(RUN), .name = "ignore-eos", .kind = OPTION_FLAG, .group = "Answer", .offset = AT(ignore_eos),
     .help = "go on after the model's own end tokens"},
    {.commands = FOR(RUN), .name = "logprobs", .kind = OPTION_WHOLE, .argument = "N", .group = "Answer",
     .fallback = "0", .low = 0, .high = 128, .offset = AT(logprobs),
     .help = "in JSON: each token's log-probability and the N best beside it"},
    {.commands = FOR(RUN), .name = "prompt-logprobs", .kind = OPTION_WHOLE, .argument = "N", .group = "Answer",
     .fallback = "0", .low = 0, .high = 128, .offset = AT(prompt_logprobs),
     .help = "in JSON: the same for each token of the prompt but the first; the whole prompt is computed"},
    {.commands = FOR(RUN), .name = "show-control", .kind = OPTION_FLAG, .group = "Answer",
     .aliases = "-sp --special", .offset = AT(show_control),
     .help = "write control tokens by their spelling"},
    {.commands = FOR(RUN), .letter = 'j', .name = "json-schema", .kind = OPTION_TEXT, .argument = "SCHEMA",
     .group = "Answer", .offset = AT(json_schema),
     .help = "the answer is JSON that satisfies this JSON Schema"},
    {.commands = FOR(RUN), .name = "json-schema-file", .kind = OPTION_TEXT, .argument = "FILE", .group = "Answer",
     .aliases = "-jf", .offset = AT(json_schema_file), .help = "the same, from a file"},
    {.commands = FOR(RUN), .name = "json-object", .kind = OPTION_FLAG, .group = "Answer", .offset = AT(json_object),
     .help = "the answer is a JSON object"},
    {.commands = FOR(RUN), .name = "regex", .kind = OPTION_TEXT, .argument = "REGEX", .group = "Answer",
     .offset = AT(regex), .help = "all of the answer matches this regular expression (ECMA-262)"},
    {.commands = FOR(RUN), .name = "choice", .kind = OPTION_TEXTS, .argument = "TEXT", .group = "Answer",
     .offset = AT(choices), .help = "the answer is this text, or another of those given; may be repeated"},
    {.commands = FOR(RUN), .name = "grammar", .kind = OPTION_TEXT, .argument = "GRAMMAR", .group = "Answer",
     .offset = AT(grammar), .help = "the answer is a text of this grammar (GBNF)"},
    {.commands = FOR(RUN), .name = "grammar-file", .kind = OPTION_TEXT, .argument = "FILE", .group = "Answer",
     .offset = AT(grammar_file), .help = "the same, from a file"},

    /* ---- sampling ---- */
    {.commands = FOR(RUN), .name = "temp", .kind = OPTION_REAL, .argument = "X", .group = "Sampling",
     .aliases = "--temperature", .fallback = "0", .low = 0, .high = 100, .offset = AT(temperature),
     .help = "temperature; 0 = greedy, always the best token"},
    {.commands = FOR(RUN), .name = "top-k", .kind = OPTION_WHOLE, .argument = "N", .group = "Sampling",
     .fallback = "0", .low = -1, .high = TOKENS_MAX, .offset = AT(top_k),
     .help = "draw from the N best tokens; 0 or -1 = off"},
    {.commands = FOR(RUN), .name = "top-p", .kind = OPTION_REAL, .argument = "P", .group = "Sampling",
     .fallback = "1", .low = 0, .high = 1, .offset = AT(top_p),
     .help = "draw from the smallest set of best tokens whose probability reaches P; 1 = off"},
    {.commands = FOR(RUN), .name = "min-p", .kind = OPTION_REAL, .argument = "P", .group = "Sampling",
     .fallback = "0", .low = 0, .high = 1, .offset = AT(min_p),
     .help = "drop tokens less probable than P times the best; 0 = off"},
    {.commands = FOR(RUN), .name = "typical-p", .kind = OPTION_REAL, .argument = "P", .group = "Sampling",
     .aliases = "--typical", .fallback = "1", .low = 0, .high = 1, .offset = AT(typical_p),
     .help = "locally typical sampling of mass P; 1 = off"},
    {.commands = FOR(RUN), .name = "repeat-penalty", .kind = OPTION_REAL, .argument = "X", .group = "Sampling",
     .aliases = "--repetition-penalty", .fallback = "1", .low = 0, .high = 100, .offset = AT(repetition_penalty),
     .help = "make tokens of the prompt and the answer less likely again; 1 = off"},
    {.commands = FOR(RUN), .name = "repeat-last-n", .kind = OPTION_WHOLE, .argument = "N", .group = "Sampling",
     .fallback = "-1", .low = -1, .high = TOKENS_MAX, .offset = AT(penalty_window),
     .help = "how many tokens back --repeat-penalty looks; -1 = all, 0 = none"},
    {.commands = FOR(RUN), .name = "frequency-penalty", .kind = OPTION_REAL, .argument = "X", .group = "Sampling",
     .fallback = "0", .low = -2, .high = 2, .offset = AT(frequency_penalty),
     .help = "subtracted once for every time the answer has used the token"},
    {.commands = FOR(RUN), .name = "presence-penalty", .kind = OPTION_REAL, .argument = "X", .group = "Sampling",
     .fallback = "0", .low = -2, .high = 2, .offset = AT(presence_penalty),
     .help = "subtracted when the answer has used the token"},
    {.commands = FOR(RUN), .letter = 'l', .name = "logit-bias", .kind = OPTION_BIASES, .argument = "ID=BIAS",
     .group = "Sampling", .low = 0, .high = IDS_MAX, .offset = AT(bias),
     .help = "added to a token's logit; -inf forbids it; by commas, may be repeated"},
    {.commands = FOR(RUN), .name = "allowed-token-ids", .kind = OPTION_WHOLES, .argument = "IDS", .group = "Sampling",
     .low = 0, .high = IDS_MAX, .unset = "all tokens", .offset = AT(allowed_ids),
     .help = "the only tokens that may be chosen"},
    {.commands = FOR(RUN), .name = "bad-words", .kind = OPTION_TEXTS, .argument = "TEXT", .group = "Sampling",
     .offset = AT(bad_words),
     .help = "the tokens of this text, with or without a space before it, are never written in a row; may be repeated"},
    {.commands = FOR(RUN), .letter = 's', .name = "seed", .kind = OPTION_WHOLE, .argument = "N", .group = "Sampling",
     .fallback = "-1", .low = -1, .high = 9223372036854775807.0, .environment = "KVASIR_SEED", .offset = AT(seed),
     .help = "of the random draws; -1 = a new one, which the closing line tells"},

    /* ---- KV cache ---- */
    {.commands = FOR(RUN) | FOR(EMBED) | EVALUATES_TEXT | FOR(SERVE), .letter = 'c', .name = "context", .kind = OPTION_WHOLE, .argument = "N",
     .group = "KV cache", .aliases = "--ctx-size --max-model-len", .fallback = "0", .low = 0, .high = TOKENS_MAX,
     .environment = "KVASIR_CONTEXT", .offset = AT(context),
     .help = "most tokens of prompt and answer; 0 = what the model was trained for, as far as memory allows"},
    {.commands = GENERATES, .name = "kv-cache-dtype", .kind = OPTION_TEXT, .argument = "TYPE", .group = "KV cache",
     .fallback = "auto", .environment = "KVASIR_KV_CACHE_DTYPE", .offset = AT(kv_cache_dtype),
     .help = "number format of K and V: auto (int8; f16 where heads are no multiple of 32 wide), f32, f16, bf16, fp8_e4m3, fp8_e5m2, int8, int4, or k=int8,v=int4"},
    {.commands = GENERATES, .name = "cache-type-k", .kind = OPTION_TEXT, .argument = "TYPE", .group = "KV cache",
     .aliases = "-ctk", .unset = "as --kv-cache-dtype", .offset = AT(cache_type_k),
     .help = "number format of K alone"},
    {.commands = GENERATES, .name = "cache-type-v", .kind = OPTION_TEXT, .argument = "TYPE", .group = "KV cache",
     .aliases = "-ctv", .unset = "as --kv-cache-dtype", .offset = AT(cache_type_v),
     .help = "number format of V alone"},
    {.commands = GENERATES, .name = "kv-cache-memory", .kind = OPTION_SIZE, .argument = "SIZE", .group = "KV cache",
     .aliases = "--kv-cache-memory-bytes", .unset = "half of free memory, or what the stated context needs if that is more", .low = 1,
     .high = 1.0e15, .environment = "KVASIR_KV_CACHE_MEMORY", .offset = AT(kv_cache_bytes),
     .help = "budget of the KV cache, as in 512MiB or 2GiB; it is taken as it is used"},
    {.commands = FOR(RUN) | SERVES, .name = "swap-space", .kind = OPTION_SIZE, .argument = "SIZE", .group = "KV cache",
     .unset = "none", .low = 1, .high = 1.0e15, .offset = AT(swap_bytes),
     .help = "memory beside the budget, where requests that give up their blocks wait with their K and V"},
    {.commands = GENERATES, .name = "block-size", .kind = OPTION_WHOLE, .argument = "N", .group = "KV cache",
     .fallback = "32", .low = 16, .high = 128, .offset = AT(block_size),
     .help = "tokens in a block; a multiple of 16"},
    {.commands = FOR(RUN) | FOR(EMBED) | SERVES, .name = "max-num-batched-tokens", .kind = OPTION_WHOLE, .argument = "N",
     .group = "KV cache", .aliases = "-ub --ubatch-size", .fallback = "512", .low = 1, .high = 65536,
     .offset = AT(max_batched_tokens),
     .help = "prompt tokens computed in one step"},
    {.commands = SERVES, .name = "max-num-seqs", .kind = OPTION_WHOLE, .argument = "N", .group = "KV cache",
     .aliases = "-np --parallel", .fallback = "64", .low = 1, .high = 4096, .offset = AT(max_sequences),
     .help = "requests that run at once; more wait"},
    {.commands = FOR(RUN) | SERVES, .name = "draft-max", .kind = OPTION_WHOLE, .argument = "N", .group = "KV cache",
     .aliases = "--draft", .fallback = "8", .low = 0, .high = 16, .offset = AT(draft_max),
     .help = "most tokens drafted from earlier text and verified in one pass, where that is measured to pay; 0 = none. The answer is the same"},
    {.commands = SERVES, .name = "max-step-ms", .kind = OPTION_REAL, .argument = "MS", .group = "KV cache",
     .fallback = "0", .low = 0, .high = 1e6, .offset = AT(max_step_ms),
     .help = "most milliseconds, as predicted, of a step in which answers go on: prompts are cut to fit; 0 = automatic"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "kv-reserve", .kind = OPTION_FLAG, .group = "KV cache", .exclusive = "cached",
     .offset = AT(kv_reserve),
     .help = "every running request holds room for the whole context, as without paging: for comparison only"},
    {.commands = GENERATES & ~(FOR(EVAL_KL) | FOR(EVAL_HEADS) | FOR(EVAL_RETRIEVAL) | FOR(SERVE)), .name = "no-kv-cache", .kind = OPTION_FLAG, .group = "KV cache",
     .exclusive = "cached", .offset = AT(no_kv_cache),
     .help = "recompute everything for each token: slow, same tokens, for comparison"},

    {.commands = (GENERATES & ~(FOR(EVAL_HEADS) | FOR(EVAL_RETRIEVAL))) | FOR(INSPECT), .name = "kv-policy", .kind = OPTION_FILE, .argument = "FILE",
     .group = "KV cache", .unset = "as the model says", .offset = AT(kv_policy),
     .help = "selective caching: which tokens each layer and KV head keeps, as JSON; `kvasir eval heads` writes such a file"},
    {.commands = FOR(RUN) | SERVES | LOOKS_AFTER_FOLDER | FOR(BENCH), .name = "kv-disk", .kind = OPTION_FILE, .argument = "DIR", .group = "KV cache",
     .unset = "none", .offset = AT(kv_disk),
     .help = "a folder for the blocks of the KV cache, private to this user: a prompt once read is not computed again after a restart"},
    {.commands = FOR(RUN) | SERVES | FOR(CACHE_IMPORT) | FOR(BENCH), .name = "kv-disk-size", .kind = OPTION_SIZE, .argument = "SIZE", .group = "KV cache",
     .fallback = "50GiB", .low = 1, .high = 1.0e15, .offset = AT(kv_disk_bytes),
     .help = "the most that the files in --kv-disk may take; the least recently used go first. With --retrieval half is for offloading"},
    {.commands = FOR(RUN) | SERVES, .name = "kv-remote", .kind = OPTION_TEXT, .argument = "URL", .group = "KV cache",
     .unset = "none", .environment = "KVASIR_KV_REMOTE", .offset = AT(kv_remote),
     .help = "the same on a server that several machines share: redis://[user:password@]host[:port][/database]"},
    {.commands = FOR(RUN), .name = "kv-load", .kind = OPTION_FILE, .argument = "FILE", .group = "KV cache",
     .exclusive = "cached", .offset = AT(kv_load),
     .help = "begin with the K and V that --kv-save wrote: of the prompt only what comes after them is computed"},
    {.commands = FOR(RUN), .name = "kv-save", .kind = OPTION_FILE, .argument = "FILE", .group = "KV cache",
     .offset = AT(kv_save),
     .help = "after the answer, write the K and V of prompt and answer to a file, for this model and these options"},
    {.commands = FOR(RUN), .name = "kv-events", .kind = OPTION_FILE, .argument = "FILE", .group = "KV cache",
     .offset = AT(kv_events),
     .help = "a line of JSON for every block that is stored in the cache for others to share, or removed"},
    {.commands = FOR(RUN), .name = "kv-stats", .kind = OPTION_FLAG, .group = "KV cache", .offset = AT(kv_stats),
     .help = "after the answer, what the KV cache did: lookups and hits, blocks in use and cached, waste, evictions; with "
             "--output json under \"kv\". In a chat, /stats tells"},

    /* ---- retrieval attention ---- */
    {.commands = RETRIEVES, .name = "retrieval", .kind = OPTION_CHOICE, .argument = "MODE", .group = "Retrieval attention",
     .fallback = "off", .choices = "off|on|auto", .environment = "KVASIR_RETRIEVAL", .published = "VLLM_PLUGINS",
     .member = "retrieval", .offset = AT(retrieval),
     .help = "look up instead of compute: tokens of the answer to a long prompt read its first tokens, the last ones, and of those "
             "between them what an index says they attend to. Prompts are computed exactly. on: as published; auto: measured defaults"},
    {.commands = RETRIEVES, .name = "retrieval-init-tokens", .kind = OPTION_TOKENS, .argument = "N",
     .group = "Retrieval attention", .unset = "1024; auto: 64", .low = 0, .high = TOKENS_MAX,
     .environment = "KVASIR_RETRIEVAL_INIT_TOKENS", .published = "VLLM_RETRIEVAL_INIT_TOKENS_NUM",
     .offset = AT(retrieval_initial),
     .help = "first tokens that are always read"},
    {.commands = RETRIEVES, .name = "retrieval-local-tokens", .kind = OPTION_TOKENS, .argument = "N",
     .group = "Retrieval attention", .unset = "7192; auto: 512", .low = 1, .high = TOKENS_MAX,
     .environment = "KVASIR_RETRIEVAL_LOCAL_TOKENS", .published = "VLLM_RETRIEVAL_LOCAL_TOKENS_NUM",
     .offset = AT(retrieval_local),
     .help = "last tokens that are always read"},
    {.commands = RETRIEVES, .name = "retrieval-topk", .kind = OPTION_REAL, .argument = "X", .group = "Retrieval attention",
     .unset = "0.2; auto: as many as make a fifth of all tokens read, but at least 2048", .low = 1e-6, .high = 1,
     .environment = "KVASIR_RETRIEVAL_TOPK", .published = "VLLM_RETRIEVAL_TOPK_PERCENT", .offset = AT(retrieval_topk),
     .help = "share of the tokens between them that is read; 1 reads all"},
    {.commands = RETRIEVES, .name = "retrieval-dense-boundary", .kind = OPTION_TOKENS, .argument = "N",
     .group = "Retrieval attention", .unset = "32K; auto: 8K", .low = 0, .high = TOKENS_MAX,
     .environment = "KVASIR_RETRIEVAL_DENSE_BOUNDARY", .published = "VLLM_RETRIEVAL_DENSE_BOUNDARY",
     .offset = AT(retrieval_dense_boundary),
     .help = "answers to shorter prompts read everything"},
    {.commands = RETRIEVES, .name = "retrieval-offload-boundary", .kind = OPTION_TOKENS, .argument = "N",
     .group = "Retrieval attention", .unset = "64K", .low = 0, .high = TOKENS_MAX,
     .environment = "KVASIR_RETRIEVAL_OFFLOAD_BOUNDARY", .published = "VLLM_RETRIEVAL_OFFLOAD_BOUNDARY",
     .offset = AT(retrieval_offload_boundary),
     .help = "answers to prompts of so many tokens keep the K and V that they seldom read in --kv-disk"},
    {.commands = RETRIEVES, .name = "retrieval-dense-layers", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Retrieval attention", .unset = "0", .low = 0, .high = 65536,
     .environment = "KVASIR_RETRIEVAL_DENSE_LAYERS", .offset = AT(retrieval_dense_layers),
     .help = "the first N layers read everything"},

    /* ---- measurement ---- */
    {.commands = FOR(BENCH), .letter = 'p', .name = "n-prompt", .kind = OPTION_WHOLES, .argument = "N,...",
     .group = "Measurement", .fallback = "512", .low = 0, .high = TOKENS_MAX, .offset = AT(bench_prompt),
     .help = "prompt tokens of the prefill tests; 0 = none"},
    {.commands = FOR(BENCH), .letter = 'n', .name = "n-gen", .kind = OPTION_WHOLES, .argument = "N,...",
     .group = "Measurement", .fallback = "128", .low = 0, .high = TOKENS_MAX, .offset = AT(bench_generate),
     .help = "tokens of the decode tests; 0 = none"},
    {.commands = FOR(BENCH), .letter = 'd', .name = "depth", .kind = OPTION_WHOLES, .argument = "N,...",
     .group = "Measurement", .aliases = "--n-depth", .fallback = "0", .low = 0, .high = TOKENS_MAX,
     .offset = AT(bench_depth),
     .help = "tokens of context before the decode tests"},
    {.commands = FOR(BENCH), .name = "depth-computed", .kind = OPTION_WHOLE, .argument = "N", .group = "Measurement",
     .low = 0, .high = TOKENS_MAX, .unset = "all of them", .exclusive = "cached", .offset = AT(depth_computed),
     .help = "synthetic depths: of each only the first N tokens, a text, are computed; the rest of the cache is filled "
             "with copies of their rows, turned to their positions"},
    {.commands = FOR(BENCH), .letter = 'r', .name = "repetitions", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Measurement", .fallback = "3", .low = 1, .high = 10000, .offset = AT(repetitions),
     .help = "timed runs of every test"},
    {.commands = FOR(BENCH), .name = "roofline", .kind = OPTION_FLAG, .group = "Measurement", .exclusive = "cached",
     .offset = AT(roofline),
     .help = "measure this machine too (read bandwidth; int8, int16 and f32 multiply-adds per second), and give every "
             "test's limit and the share of it that was reached"},

    {.commands = FOR(BENCH_THROUGHPUT), .name = "preset", .kind = OPTION_CHOICE, .argument = "LOAD", .group = "Load",
     .fallback = "independent", .choices = "independent|shared-prefix|conversation", .offset = AT(preset),
     .help = "a load by name: independent, shared-prefix or conversation. The options below say otherwise"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "requests", .kind = OPTION_WHOLE, .argument = "N", .group = "Load",
     .aliases = "--num-prompts", .low = 1, .high = 1000000, .unset = "as the preset", .offset = AT(requests),
     .help = "requests, of all conversations together"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "concurrency", .kind = OPTION_WHOLES, .argument = "C,...",
     .group = "Load", .aliases = "--max-concurrency", .low = 1, .high = 1000000, .exclusive = "arrivals",
     .unset = "as the preset", .offset = AT(concurrency),
     .help = "conversations held at a time, each with one request at a time; by commas: one run each"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "arrival-rate", .kind = OPTION_REALS, .argument = "R,...",
     .group = "Load", .aliases = "--request-rate", .low = 1e-6, .high = 1e6, .exclusive = "arrivals",
     .unset = "--concurrency decides", .offset = AT(arrival_rate),
     .help = "instead: requests arrive at random, R in a second on the average, whether others have ended or not; by "
             "commas: one run each"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "prompt-tokens", .kind = OPTION_TEXT, .argument = "LENGTH",
     .group = "Load", .unset = "as the preset", .offset = AT(prompt_tokens),
     .help = "tokens of a request's own in its prompt"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "output-tokens", .kind = OPTION_TEXT, .argument = "LENGTH",
     .group = "Load", .unset = "as the preset", .offset = AT(output_tokens),
     .help = "tokens of an answer"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "shared-prefix", .kind = OPTION_WHOLE, .argument = "N", .group = "Load",
     .low = 0, .high = 1048576, .unset = "as the preset", .offset = AT(shared_prefix),
     .help = "tokens that begin every conversation"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "shared-prefixes", .kind = OPTION_WHOLE, .argument = "K",
     .group = "Load", .fallback = "1", .low = 1, .high = 1000000, .offset = AT(shared_prefixes),
     .help = "different ones, of which each conversation takes one"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "turns", .kind = OPTION_WHOLE, .argument = "T", .group = "Load",
     .low = 1, .high = 1000000, .unset = "as the preset", .offset = AT(turns),
     .help = "requests of a conversation: each prompt after the first is the one before, its answer and new tokens"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "think-time", .kind = OPTION_REAL, .argument = "S", .group = "Load",
     .fallback = "0", .low = 0, .high = 1e6, .offset = AT(think_time),
     .help = "seconds from an answer to the conversation's next request"},
    {.commands = FOR(BENCH_THROUGHPUT), .letter = 's', .name = "seed", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Load", .fallback = "1", .low = 0, .high = 9223372036854775807.0, .offset = AT(seed),
     .help = "of lengths, tokens and arrivals"},

    {.commands = FOR(EVAL_HEADS), .name = "keep", .kind = OPTION_REAL, .argument = "X", .group = "Measurement",
     .fallback = "0.5", .low = 0, .high = 1, .exclusive = "chosen", .offset = AT(keep),
     .help = "share of the KV heads that keep the whole past"},
    {.commands = FOR(EVAL_HEADS), .name = "loss", .kind = OPTION_REAL, .argument = "X", .group = "Measurement",
     .low = 1e-9, .high = 1000, .exclusive = "chosen", .unset = "--keep decides", .offset = AT(loss),
     .help = "instead: as few heads keep the whole past as a mean KL of X, in nats, allows"},
    {.commands = FOR(EVAL_HEADS), .name = "sinks", .kind = OPTION_WHOLE, .argument = "N", .group = "Measurement",
     .fallback = "64", .low = 1, .high = TOKENS_MAX, .offset = AT(sinks),
     .help = "first tokens that every head keeps"},
    {.commands = FOR(EVAL_HEADS), .name = "window", .kind = OPTION_WHOLE, .argument = "N", .group = "Measurement",
     .fallback = "256", .low = 1, .high = TOKENS_MAX, .offset = AT(window),
     .help = "last tokens that every head keeps"},

    {.commands = FOR(EVAL_RETRIEVAL), .name = "lengths", .kind = OPTION_WHOLES, .argument = "N,...",
     .group = "Measurement", .fallback = "8192", .low = 1, .high = TOKENS_MAX, .offset = AT(lengths),
     .help = "tokens of text, question and answer together"},
    {.commands = FOR(BENCH), .name = "retrieval", .kind = OPTION_FLAG, .group = "Measurement", .offset = AT(bench_retrieval),
     .help = "every decode test again with retrieval attention, at each --budget; nothing is drafted"},
    {.commands = FOR(BENCH), .name = "skip-dense", .kind = OPTION_FLAG, .group = "Measurement", .offset = AT(skip_dense),
     .help = "with --retrieval: not without it, too"},
    {.commands = FOR(BENCH), .name = "recall-tokens", .kind = OPTION_WHOLES, .argument = "N,...",
     .group = "Measurement", .exclusive = "read", .low = 1, .high = TOKENS_MAX, .unset = "--budget decides",
     .offset = AT(recall_tokens),
     .help = "instead of shares: so many tokens are looked up, whatever the depth"},
    {.commands = FOR(EVAL_RETRIEVAL) | FOR(BENCH), .name = "budget", .kind = OPTION_REALS, .argument = "X,...",
     .group = "Measurement", .fallback = "0.2", .low = 0, .high = 1, .exclusive = "read", .offset = AT(budgets),
     .help = "shares of the K and V rows that dense attention reads"},
    {.commands = FOR(EVAL_RETRIEVAL), .name = "items", .kind = OPTION_WHOLE, .argument = "N", .group = "Measurement",
     .fallback = "100", .low = 1, .high = 10000, .offset = AT(items),
     .help = "items of each task and length that dense attention is to answer right"},
    {.commands = FOR(EVAL_RETRIEVAL), .name = "tasks", .kind = OPTION_TEXT, .argument = "NAME,...",
     .group = "Measurement", .unset = "all", .offset = AT(tasks),
     .help = "what is asked: single, multi-value, multi-query, variables, multi-key, words, code"},
    {.commands = FOR(EVAL_RETRIEVAL), .name = "question", .kind = OPTION_CHOICE, .argument = "HOW",
     .group = "Measurement", .fallback = "dense", .choices = "dense|sparse", .offset = AT(question),
     .help = "how the question is read: dense, or sparse, token by token"},
    {.commands = FOR(EVAL_RETRIEVAL), .name = "dense-layers", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Measurement", .fallback = "0", .low = 0, .high = 1000, .offset = AT(dense_layers),
     .help = "the first so many layers read all that they keep, within the budget"},
    {.commands = FOR(EVAL_RETRIEVAL), .letter = 's', .name = "seed", .kind = OPTION_WHOLE, .argument = "N",
     .group = "Measurement", .fallback = "1", .low = 0, .high = 9223372036854775807.0, .offset = AT(seed),
     .help = "of the texts"},

    /* ---- output ---- */
    {.commands = FOR(EVAL_RETRIEVAL), .name = "plot", .kind = OPTION_FILE, .argument = "FILE", .group = "Output",
     .unset = "none", .offset = AT(plot),
     .help = "an SVG picture: which of dense attention's right answers were kept, by task, depth and length"},
    {.commands = FOR(EVAL_HEADS), .name = "output", .kind = OPTION_CHOICE, .argument = "FORMAT", .group = "Output",
     .fallback = "text", .choices = "text|json", .offset = AT(output),
     .help = "text or json"},
    {.commands = FOR(EVAL_HEADS), .letter = 'o', .name = "policy-out", .kind = OPTION_FILE, .argument = "FILE",
     .group = "Output", .offset = AT(policy_out),
     .help = "where the KV policy goes, for --kv-policy"},
    {.commands = ASKS_SERVER | LOOKS_AFTER_FOLDER | FOR(RUN) | FOR(INSPECT) | FOR(TOKENIZE) | FOR(EVAL_NLL) | FOR(EVAL_KL) | FOR(EVAL_RETRIEVAL), .letter = 'o', .name = "output",
     .kind = OPTION_CHOICE, .argument = "FORMAT", .group = "Output", .fallback = "text", .choices = "text|json",
     .offset = AT(output),
     .help = "text or json"},
    {.commands = FOR(BENCH_THROUGHPUT), .name = "plot", .kind = OPTION_FILE, .argument = "FILE", .group = "Output",
     .unset = "none", .offset = AT(plot),
     .help = "an SVG picture of throughput and TTFT against concurrency or arrival rate"},
    {.commands = BENCHES, .letter = 'o', .name = "output", .kind = OPTION_CHOICE, .argument = "FORMAT",
     .group = "Output", .fallback = "md", .choices = "md|csv|json", .offset = AT(output),
     .help = "md, csv or json"},
    {.commands = GENERATES, .letter = 'q', .name = "quiet", .kind = OPTION_FLAG, .group = "Output",
     .offset = AT(quiet),
     .help = "no closing line and no progress"},
    {.commands = FOR(PS), .letter = 'q', .name = "quiet", .kind = OPTION_FLAG, .group = "Output", .offset = AT(quiet),
     .help = "print nothing, and need no key: exit status 0 says that a server answers there"},
    {.commands = FOR(HELP), .name = "man", .kind = OPTION_FLAG, .group = "Output", .offset = AT(manual),
     .help = "the manual page, as roff source"},
    {.commands = (1u << COMMAND_COUNT) - 1, .letter = 'h', .name = "help", .kind = OPTION_FLAG, .group = "Output",
     .offset = AT(help),
     .help = "describe the command"},
};
/* clang-format on */
const size_t OPTION_ROW_COUNT = ARRAY_COUNT(OPTION_ROWS);
_Static_assert(ARRAY_COUNT(OPTION_ROWS) <= OPTION_ROWS_MAX, "struct options has room for every row");
