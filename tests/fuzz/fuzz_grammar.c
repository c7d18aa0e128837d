/* fuzz_grammar.c - any bytes as a schema, an expression, a choice or a grammar: refused with one line, or compiled to an automaton
 * whose token sets are their definition: all tokens, and none else, whose bytes lead somewhere. */
#include "grammar/machine.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TOKENS 512u
#define WORDS (TOKENS / 64)

static const char *const PIECES[] = {"{\"",      "\":",      "\": ",  "\",",   "\"}",
                                     "},",       "null",     "true",  "aaa",   "ab",
                                     "  ",       "\n  ",     "00",    "e\"}]", "aaaaaaaaaaaaaaaaaaaa",
                                     "\xc3\xa9", "\xe2\x82", "\\u00", "1.",    "-1",
                                     "[]",       "[{",       "(((",   "root"};

/* Bytes, and some longer tokens, in tries as those of a vocabulary. */
static void make_vocabulary(struct vocabulary_trie *out)
{
    static unsigned char bytes[4096];
    static uint32_t begin[TOKENS + 1];
    uint32_t used = 0;
    *out = (struct vocabulary_trie){.token_count = TOKENS, .begin = begin, .bytes = bytes};
    for (uint32_t id = 0; id < TOKENS; id++) {
        begin[id] = used;
        if (id < 256) bytes[used++] = (unsigned char)id;
        if (id < 256 || id - 256 >= ARRAY_COUNT(PIECES)) continue;
        size_t count = strlen(PIECES[id - 256]);
        memcpy(bytes + used, PIECES[id - 256], count);
        used += (uint32_t)count;
    }
    begin[TOKENS] = used;
    ASSERT(vocabulary_trie_index(out) == ST_OK);
}

static uint32_t after(struct machine *m, const struct vocabulary_trie *vocabulary, uint32_t set, uint32_t id)
{
    uint32_t begin = vocabulary->begin[id], end = vocabulary->begin[id + 1];
    if (begin == end) return 0;
    for (; begin < end && set; begin++) set = machine_next(m, set, m->automaton->class_of[vocabulary->bytes[begin]]);
    return set;
}

/* Some places, chosen by the input's bytes. */
static void run(const struct automaton *automaton, const struct vocabulary_trie *vocabulary, const uint8_t *data,
                size_t size)
{
    struct machine masked, plain;
    ASSERT(machine_init(&masked, automaton, WORDS) == ST_OK && machine_init(&plain, automaton, WORDS) == ST_OK);
    uint32_t set = masked.start, other = plain.start;
    for (size_t i = 0; i < 6 && set; i++) {
        const uint64_t *tokens = machine_tokens(&masked, vocabulary, set, false);
        ASSERT(tokens);
        uint32_t allowed = 0, chosen = 0, wanted = size ? data[i * 7 % size] : 0;
        bool any = false;
        for (uint32_t word = 0; word < WORDS; word++) any |= tokens[word] != 0;
        for (uint32_t id = 0; id < TOKENS && any; id++) { /* a walk that was too much work allows nothing */
            bool expected = after(&plain, vocabulary, other, id) != 0, got = tokens[id / 64] >> id % 64 & 1;
            ASSERT(!got || expected);
            if (got && (allowed++ == 0 || id <= wanted)) chosen = id;
        }
        if (!allowed) break;
        set = after(&masked, vocabulary, set, chosen);
        other = after(&plain, vocabulary, other, chosen);
        ASSERT(machine_ends(&masked, set).may_end == machine_ends(&plain, other).may_end);
    }
    machine_release(&masked);
    machine_release(&plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vocabulary_trie vocabulary;
    if (!vocabulary.token_count) make_vocabulary(&vocabulary);
    if (size < 1) return 0;
    struct builder builder;
    struct error error = {0};
    struct automaton automaton;
    const char *text = (const char *)data + 1;
    uint32_t kind = data[0] % 5;
    build_init(&builder, &error);
    uint32_t root = kind == 0 ? gbnf_build(&builder, text, size - 1) : build_rule(&builder, "root", 4);
    if (kind == 1) build_define(&builder, root, schema_build(&builder, text, size - 1));
    if (kind == 2) build_define(&builder, root, regex_build(&builder, text, size - 1, false));
    if (kind == 3) build_define(&builder, root, choice_build(&builder, text, size - 1));
    if (kind == 4) build_define(&builder, root, calls_build(&builder, text, size - 1));
    if (build_finish(&builder, root, &automaton) == ST_OK) {
        run(&automaton, &vocabulary, data, size);
        automaton_release(&automaton);
    } else {
        ASSERT(error.text[0] && !strchr(error.text, '\n'));
    }
    build_release(&builder);
    return 0;
}
