/* grammar.c - the store of grammars, and a grammar as others see it: shared by reference, used by one thread at a time. */
#include "grammar/machine.h"
#include <pthread.h>
#include <string.h>

#define KEPT_MAX 32u                /* grammars that are kept though nobody uses them */
#define KEPT_BYTES_MAX (64u << 20)  /* of them; what is remembered of one counts in full */
#define USED_BYTES_MAX (256u << 20) /* of those that are used, without what is remembered */

struct grammar {
    struct grammar_store *store;
    enum grammar_kind kind;
    char *text;
    size_t text_bytes;
    struct automaton automaton;
    uint64_t bytes;

    /* Under the store's lock. */
    struct grammar *next; /* in store->grammars, the latest used first */
    uint32_t references;  /* beside the store's own */

    pthread_mutex_t lock;
    struct machine machine; /* under the lock */
};

struct grammar_store {
    const struct tokenizer *tokenizer;
    pthread_mutex_t lock;
    struct vocabulary_trie vocabulary;
    bool has_vocabulary;
    struct grammar *grammars;
    uint64_t used_bytes;
};

/* ---- the store ---------------------------------------------------------------------------------------------------------- */

enum status grammar_store_open(const struct tokenizer *tokenizer, struct grammar_store **out)
{
    struct grammar_store *store = *out = mem_zero(1, sizeof *store);
    if (!store) return ST_NOMEM;
    store->tokenizer = tokenizer;
    pthread_mutex_init(&store->lock, NULL);
    return ST_OK;
}

static void grammar_free(struct grammar *grammar)
{
    machine_release(&grammar->machine);
    automaton_release(&grammar->automaton);
    pthread_mutex_destroy(&grammar->lock);
    mem_free(grammar->text);
    mem_free(grammar);
}

void grammar_store_close(struct grammar_store *store)
{
    if (!store) return;
    for (struct grammar *g = store->grammars, *next; g; g = next) {
        ASSERT(!g->references);
        next = g->next;
        grammar_free(g);
    }
    vocabulary_trie_release(&store->vocabulary);
    pthread_mutex_destroy(&store->lock);
    mem_free(store);
}

/* The unused ones beyond the limits go, those that were not used for longest. */
static void trim(struct grammar_store *store)
{
    uint64_t bytes = 0;
    uint32_t count = 0;
    for (struct grammar **at = &store->grammars; *at;) {
        struct grammar *g = *at;
        if (!g->references) {
            bytes += g->bytes + machine_bytes(&g->machine);
            count++;
        }
        if (g->references || (count <= KEPT_MAX && bytes <= KEPT_BYTES_MAX)) {
            at = &g->next;
            continue;
        }
        *at = g->next;
        grammar_free(g);
    }
}

static struct grammar *find(struct grammar_store *store, enum grammar_kind kind, const char *text, size_t bytes)
{
    struct grammar **at = &store->grammars;
    while (*at && ((*at)->kind != kind || (*at)->text_bytes != bytes || memcmp((*at)->text, text, bytes) != 0))
        at = &(*at)->next;
    struct grammar *found = *at;
    if (!found) return NULL;
    *at = found->next;
    found->next = store->grammars;
    return store->grammars = found;
}

/* ---- compiling ---------------------------------------------------------------------------------------------------------- */

static enum status compile(enum grammar_kind kind, const char *text, size_t bytes, struct automaton *out,
                           struct error *error)
{
    struct builder builder;
    struct error own;
    build_init(&builder, error ? error : &own);
    uint32_t root = kind == GRAMMAR_GBNF ? gbnf_build(&builder, text, bytes) : build_rule(&builder, "the root", 8);
    struct fragment fragment = {0};
    if (kind == GRAMMAR_JSON_SCHEMA) fragment = schema_build(&builder, text, bytes);
    if (kind == GRAMMAR_JSON_OBJECT) fragment = schema_build_object(&builder);
    if (kind == GRAMMAR_REGEX) fragment = regex_build(&builder, text, bytes, false);
    if (kind == GRAMMAR_CHOICE) fragment = choice_build(&builder, text, bytes);
    if (kind == GRAMMAR_JSON_CALLS) fragment = calls_build(&builder, text, bytes);
    if (kind != GRAMMAR_GBNF) build_define(&builder, root, fragment);
    enum status status = build_finish(&builder, root, out);
    build_release(&builder);
    return status;
}

static const char *kind_name(enum grammar_kind kind)
{
    static const char *const names[] = {"no grammar", "JSON schema", "JSON object", "regex",
                                        "choice",     "grammar",     "calls"};
    return names[kind];
}

static enum status make(struct grammar_store *store, enum grammar_kind kind, const char *text, size_t bytes,
                        struct grammar **out, struct error *error)
{
    struct grammar *g = mem_zero(1, sizeof *g);
    if (!g) return error_set(error, ST_NOMEM, "not enough memory for a grammar");
    pthread_mutex_init(&g->lock, NULL);
    g->store = store;
    g->kind = kind;
    g->text = mem_strndup(text, bytes);
    g->text_bytes = bytes;
    enum status status = g->text ? compile(kind, text, bytes, &g->automaton, error)
                                 : error_set(error, ST_NOMEM, "not enough memory for a grammar");
    uint32_t words = (tokenizer_vocabulary_size(store->tokenizer) + 63) / 64;
    if (status == ST_OK && machine_init(&g->machine, &g->automaton, words) != ST_OK)
        status = error_set(error, ST_NOMEM, "not enough memory for a grammar");
    if (status == ST_OK && !g->machine.start) status = error_set(error, ST_LIMIT, "there are too many ways to begin");
    if (status != ST_OK) {
        if (status != ST_NOMEM) error_prefix(error, "%s", kind_name(kind));
        grammar_free(g);
        return status;
    }
    g->bytes = sizeof *g + bytes + automaton_bytes(&g->automaton) + machine_fixed_bytes(&g->machine);
    *out = g;
    return ST_OK;
}

static enum status open_locked(struct grammar_store *store, enum grammar_kind kind, const char *text, size_t bytes,
                               struct grammar **out, struct error *error)
{
    enum status status = ST_OK;
    if (!store->has_vocabulary) {
        if (vocabulary_trie_init(&store->vocabulary, store->tokenizer) != ST_OK)
            return error_set(error, ST_NOMEM, "not enough memory for a grammar");
        store->has_vocabulary = true;
    }
    struct grammar *g = find(store, kind, text, bytes);
    if (!g) {
        status = make(store, kind, text, bytes, &g, error);
        if (status != ST_OK) return status;
        g->next = store->grammars;
        store->grammars = g;
    }
    if (!g->references && store->used_bytes + g->bytes > USED_BYTES_MAX)
        status = error_set(error, ST_FULL, "the grammars of waiting requests take %u MiB already: try again later",
                           USED_BYTES_MAX >> 20);
    if (status == ST_OK && g->references++ == 0) store->used_bytes += g->bytes;
    if (status == ST_OK) *out = g;
    trim(store);
    return status;
}

enum status grammar_open(struct grammar_store *store, enum grammar_kind kind, const char *text, size_t bytes,
                         struct grammar **out, struct error *error)
{
    *out = NULL;
    if (bytes > GRAMMAR_SOURCE_BYTES_MAX)
        return error_set(error, ST_LIMIT, "%s: %zu bytes, at most %u", kind_name(kind), bytes,
                         GRAMMAR_SOURCE_BYTES_MAX);
    pthread_mutex_lock(&store->lock);
    enum status status = open_locked(store, kind, text, bytes, out, error);
    pthread_mutex_unlock(&store->lock);
    return status;
}

void grammar_close(struct grammar *grammar)
{
    if (!grammar) return;
    struct grammar_store *store = grammar->store;
    pthread_mutex_lock(&store->lock);
    ASSERT(grammar->references > 0);
    if (--grammar->references == 0) {
        store->used_bytes -= grammar->bytes;
        trim(store);
    }
    pthread_mutex_unlock(&store->lock);
}

/* ---- a place in an answer ----------------------------------------------------------------------------------------------- */

static uint32_t take(struct machine *m, uint32_t set, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count && set; i++) set = machine_next(m, set, m->automaton->class_of[bytes[i]]);
    return set;
}

static uint32_t take_token(struct grammar *g, uint32_t set, uint32_t id, bool first)
{
    const struct vocabulary_trie *vocabulary = &g->store->vocabulary;
    if (id >= vocabulary->token_count || vocabulary->begin[id] == vocabulary->begin[id + 1]) return 0;
    const unsigned char *bytes = vocabulary->bytes + vocabulary->begin[id];
    uint32_t count = vocabulary->begin[id + 1] - vocabulary->begin[id];
    bool drop = first && vocabulary->drops_space && bytes[0] == ' ';
    return take(&g->machine, set, bytes + drop, count - drop);
}

static bool make_room(struct machine *m, struct grammar_place *place)
{
    if (machine_bytes(m) <= MEMORY_BYTES) return true;
    if (machine_compact(m, &place->state) != ST_OK) return false;
    place->epoch = m->epoch;
    return true;
}

/* Brings the place to the end of the answer. */
static enum status go_to(struct grammar *g, struct grammar_place *place, const uint32_t *answer, uint32_t count)
{
    struct machine *m = &g->machine;
    if (m->failed && machine_reset(m) != ST_OK) return ST_NOMEM;
    if (place->epoch != m->epoch || place->count > count)
        *place = (struct grammar_place){.epoch = m->epoch, .state = m->start};
    bool room = make_room(m, place);
    for (; room && place->count < count; place->count++) {
        place->state = take_token(g, place->state, answer[place->count], place->count == 0);
        room = make_room(m, place);
    }
    if (room && !m->failed) return ST_OK;
    m->failed = true; /* to be begun anew */
    *place = (struct grammar_place){0};
    return ST_NOMEM;
}

enum status grammar_ends(struct grammar *g, struct grammar_place *place, const uint32_t *answer, uint32_t count,
                         struct grammar_next *next)
{
    pthread_mutex_lock(&g->lock);
    enum status status = go_to(g, place, answer, count);
    if (status == ST_OK) *next = machine_ends(&g->machine, place->state);
    pthread_mutex_unlock(&g->lock);
    return status;
}

enum status grammar_mask(struct grammar *g, struct grammar_place *place, const uint32_t *answer, uint32_t count,
                         uint64_t *set, uint32_t words, struct grammar_next *next)
{
    pthread_mutex_lock(&g->lock);
    enum status status = go_to(g, place, answer, count);
    const uint64_t *tokens = NULL;
    if (status == ST_OK) {
        *next = machine_ends(&g->machine, place->state);
        tokens = machine_tokens(&g->machine, &g->store->vocabulary, place->state, count == 0);
        if (!tokens) status = ST_NOMEM;
    }
    for (uint32_t i = 0; tokens && i < words; i++) set[i] &= i < g->machine.mask_words ? tokens[i] : 0;
    pthread_mutex_unlock(&g->lock);
    return status;
}

enum status grammar_match(struct grammar *g, const char *text, size_t bytes, bool *matches)
{
    struct grammar_place place = {0};
    pthread_mutex_lock(&g->lock);
    enum status status = go_to(g, &place, NULL, 0);
    if (status == ST_OK) {
        uint32_t set = take(&g->machine, place.state, (const unsigned char *)text, bytes);
        *matches = machine_ends(&g->machine, set).may_end;
        if (g->machine.failed) status = ST_NOMEM;
    }
    pthread_mutex_unlock(&g->lock);
    return status;
}
