/* grammar_judge.c - what the grammars of a vocabulary say, for judges in other languages (test_judges.py).
 *
 *   grammar_judge MODEL.gguf < requests > replies        a line of JSON each
 *   {"kind": 1…5, "text": …, "match": [text, …], "walks": N, "tokens": N, "seed": N}
 *   {"error": text} or {"match": [bool, …], "walks": [{"text", "ended"}, …]}   texts of walks that ended
 *
 * A walk takes one of the allowed tokens at random, until the grammar may end and a coin says so, or nothing else can follow
 * (ended), or there were so many tokens (not ended). Token sets are also compared with their definition: all of them, and none
 * else, whose bytes lead somewhere. */
#include "format/format.h"
#include "grammar/grammar.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX 4096u

struct judge {
    struct tokenizer *tokenizer;
    struct grammar_store *store;
    uint32_t vocabulary, words;
    uint64_t *set;
    struct random random;
};

static uint32_t pick(struct judge *judge, uint32_t allowed)
{
    uint64_t chosen = random_below(&judge->random, allowed);
    for (uint32_t id = 0; id < judge->vocabulary; id++)
        if (judge->set[id / 64] >> id % 64 & 1 && chosen-- == 0) return id;
    abort();
}

/* A token is allowed as likely as it is short, so that walks end: of many allowed ones the best of some is taken. */
static uint32_t pick_short(struct judge *judge, uint32_t allowed)
{
    uint32_t best = pick(judge, allowed);
    for (int i = 0; i < 2; i++) {
        size_t one, other;
        uint32_t id = pick(judge, allowed);
        tokenizer_spelling(judge->tokenizer, id, &one);
        tokenizer_spelling(judge->tokenizer, best, &other);
        if (one < other) best = id;
    }
    return best;
}

static json_t *walk(struct judge *judge, struct grammar *grammar, uint32_t most)
{
    uint32_t answer[TOKENS_MAX], count = 0;
    struct grammar_place place = {0};
    struct grammar_next next = {0};
    struct buffer text;
    struct detokenizer detokenizer;
    bool ended = false;
    buffer_init(&text, 0);
    detokenizer_init(&detokenizer, judge->tokenizer, false);
    while (count < most && count < TOKENS_MAX) {
        uint32_t allowed = 0;
        memset(judge->set, 0xff, judge->words * sizeof *judge->set);
        if (grammar_mask(grammar, &place, answer, count, judge->set, judge->words, &next) != ST_OK) abort();
        for (uint32_t i = 0; i < judge->words; i++) allowed += (uint32_t)__builtin_popcountll(judge->set[i]);
        if (next.must_end != (next.may_end && !allowed))
            fprintf(stderr, "must_end %d, allowed %u\n", next.must_end, allowed);
        ended = next.may_end && (!allowed || random_below(&judge->random, 8) == 0);
        if (ended || !allowed) break;
        answer[count] = pick_short(judge, allowed);
        detokenizer_put(&detokenizer, answer[count++], &text);
    }
    detokenizer_finish(&detokenizer, &text);
    json_t *out = json_pack("{s:o,s:b}", "text",
                            json_stringn(text.data && ended ? text.data : "", ended ? text.length : 0), "ended", ended);
    buffer_release(&text);
    return out;
}

static json_t *answer_request(struct judge *judge, const json_t *request)
{
    struct error error;
    struct grammar *grammar;
    const json_t *source = json_object_get(request, "text"), *texts = json_object_get(request, "match");
    enum grammar_kind kind = (enum grammar_kind)json_integer_value(json_object_get(request, "kind"));
    double began = clock_seconds();
    if (grammar_open(judge->store, kind, json_string_value(source), json_string_length(source), &grammar, &error) !=
        ST_OK)
        return json_pack("{s:s,s:i,s:f}", "error", error.text, "status", (int)error.status, "seconds",
                         clock_seconds() - began);
    double opened = clock_seconds();
    json_t *matches = json_array(), *walks = json_array();
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        bool matched;
        if (grammar_match(grammar, json_string_value(text), json_string_length(text), &matched) != ST_OK) abort();
        json_array_append_new(matches, json_boolean(matched));
    }
    random_seed(&judge->random, (uint64_t)json_integer_value(json_object_get(request, "seed")));
    for (json_int_t i = 0; i < json_integer_value(json_object_get(request, "walks")); i++)
        json_array_append_new(walks,
                              walk(judge, grammar, (uint32_t)json_integer_value(json_object_get(request, "tokens"))));
    grammar_close(grammar);
    return json_pack("{s:o,s:o,s:f}", "match", matches, "walks", walks, "seconds", opened - began);
}

int main(int argc, char **argv)
{
    struct format *format;
    struct error error;
    struct judge judge;
    if (argc != 2) return 2;
    if (format_open(argv[1], true, &format, &error) != ST_OK ||
        tokenizer_open(format, &judge.tokenizer, &error) != ST_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    judge.vocabulary = tokenizer_vocabulary_size(judge.tokenizer);
    judge.words = (judge.vocabulary + 63) / 64;
    judge.set = malloc(judge.words * sizeof *judge.set);
    if (!judge.set || grammar_store_open(judge.tokenizer, &judge.store) != ST_OK) return 1;
    char *line = NULL;
    size_t capacity = 0;
    for (ssize_t bytes; (bytes = getline(&line, &capacity, stdin)) > 0;) {
        json_t *request = json_loadb(line, (size_t)bytes, JSON_ALLOW_NUL, NULL),
               *reply = answer_request(&judge, request);
        json_dumpf(reply, stdout, JSON_COMPACT);
        printf("\n");
        fflush(stdout);
        json_decref(reply);
        json_decref(request);
    }
    free(line);
    free(judge.set);
    grammar_store_close(judge.store);
    tokenizer_close(judge.tokenizer);
    format_close(format);
    return 0;
}
