/* haystack.c - see haystack.h. A haystack is a sequence of units (a sentence, a line, a list), each turned into tokens by itself: so a
 * unit's place is known to the token, and the text can be cut to a length. */
#include "eval/haystack.h"
#include "eval/haystack_words.h"
#include <stdio.h>
#include <string.h>

#define UNIT_BYTES 1024u
#define NO_ITEM UINT32_MAX
/* Of prose: tokens for one of each kind of needle. */
#define PROSE_UNIT_TOKENS 1024u

static const struct {
    const char *name;
    enum haystack_family family;
} TASKS[TASK_COUNT] = {
    [TASK_SINGLE] = {"single", HAYSTACK_PROSE},
    [TASK_MULTI_VALUE] = {"multi-value", HAYSTACK_PROSE},
    [TASK_MULTI_QUERY] = {"multi-query", HAYSTACK_PROSE},
    [TASK_VARIABLES] = {"variables", HAYSTACK_PROSE},
    [TASK_MULTI_KEY] = {"multi-key", HAYSTACK_KEYS},
    [TASK_WORDS] = {"words", HAYSTACK_WORDS},
    [TASK_CODE] = {"code", HAYSTACK_CODE},
};

const char *haystack_task_name(enum haystack_task task)
{
    return TASKS[task].name;
}

unsigned haystack_family_tasks(enum haystack_family family)
{
    unsigned tasks = 0;
    for (unsigned t = 0; t < TASK_COUNT; t++)
        if (TASKS[t].family == family) tasks |= 1u << t;
    return tasks;
}

/* ---- a haystack in the making ------------------------------------------------------------------------------------ */

struct unit {
    uint32_t *ids;
    uint32_t count;
    uint32_t item; /* whose first needle it is, or NO_ITEM */
    uint32_t next; /* the needle that must come later, or NO_ITEM: of a chain */
};

struct list {
    struct unit *units;
    uint32_t count, capacity;
    uint64_t tokens;
};

struct maker {
    const struct kvasir_model *model;
    struct random random;
    struct arena *arena;
    struct list needles, filler;
    struct haystack_item *items;
    uint32_t item_count, item_capacity;
    uint32_t length, reserve;         /* reserve: of the longest question with its answer */
    uint32_t numbers[10000 / 32 + 1]; /* names X1234, f_1234 that are taken, by bit */
    unsigned char names[WORDS_ADJECTIVES * WORDS_NOUNS];
};

static enum status no_memory(struct error *error)
{
    return error_set(error, ST_NOMEM, "not enough memory for a text of questions");
}

static uint32_t below(struct maker *m, uint32_t limit)
{
    return (uint32_t)random_below(&m->random, limit);
}

/* `array`, of `size` bytes an element, with room for one more than `count`; in the arena, so the old one stays until the end. */
static void *grown(struct maker *m, void *array, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity) return array;
    uint32_t wanted = *capacity ? *capacity * 2 : 64;
    void *larger = arena_alloc(m->arena, wanted * size);
    if (!larger) return NULL;
    if (count) memcpy(larger, array, count * size);
    *capacity = wanted;
    return larger;
}

/* Tokens of a text, in the arena. */
static enum status encode(struct maker *m, const char *text, unsigned flags, uint32_t **out, uint32_t *count,
                          struct error *error)
{
    uint32_t *ids = NULL;
    size_t found = 0;
    int status =
        kvasir_tokenize(m->model, text, strlen(text), flags, &ids, &found, (struct kvasir_error *)(void *)error);
    if (status != KVASIR_OK) return (enum status)status;
    *out = arena_alloc(m->arena, (found + 1) * sizeof **out);
    if (*out && found) memcpy(*out, ids, found * sizeof **out);
    *count = (uint32_t)found;
    kvasir_free(ids);
    return *out ? ST_OK : no_memory(error);
}

static enum status add_unit(struct maker *m, struct list *list, const char *text, unsigned flags, uint32_t item,
                            struct error *error)
{
    void *units = grown(m, list->units, list->count, &list->capacity, sizeof *list->units);
    if (!units) return no_memory(error);
    list->units = units;
    struct unit *unit = &list->units[list->count];
    *unit = (struct unit){.item = item, .next = NO_ITEM};
    enum status status = encode(m, text, flags, &unit->ids, &unit->count, error);
    if (status != ST_OK) return status;
    list->count++;
    list->tokens += unit->count;
    return ST_OK;
}

/* A new item, which has no values yet. `room`: tokens of an answer beside those of the values. */
static enum status add_item(struct maker *m, enum haystack_task task, const char *question, uint32_t room,
                            struct error *error)
{
    void *items = grown(m, m->items, m->item_count, &m->item_capacity, sizeof *m->items);
    if (!items) return no_memory(error);
    m->items = items;
    struct haystack_item *item = &m->items[m->item_count];
    *item = (struct haystack_item){.task = task, .answer_tokens = room, .any_order = task == TASK_MULTI_VALUE};
    uint32_t *ids = NULL;
    enum status status = encode(m, question, 0, &ids, &item->question_count, error);
    item->question = ids;
    if (status == ST_OK) m->item_count++;
    return status;
}

/* One more value of the last item. */
static enum status add_value(struct maker *m, const char *value, struct error *error)
{
    struct haystack_item *item = &m->items[m->item_count - 1];
    uint32_t *ids, count;
    char spaced[64];
    snprintf(spaced, sizeof spaced, " %s", value);
    enum status status = encode(m, spaced, 0, &ids, &count, error);
    if (status != ST_OK) return status;
    char *copy = arena_strndup(m->arena, value, strlen(value));
    if (!copy) return no_memory(error);
    ASSERT(item->value_count < HAYSTACK_VALUES_MAX);
    item->values[item->value_count++] = copy;
    item->answer_tokens += count;
    if (item->question_count + item->answer_tokens > m->reserve)
        m->reserve = item->question_count + item->answer_tokens;
    return ST_OK;
}

/* ---- names and numbers --------------------------------------------------------------------------------------------- */

struct number {
    char text[8];
};

static struct number number_of(struct maker *m)
{
    struct number number;
    snprintf(number.text, sizeof number.text, "%u", 10000 + below(m, 90000));
    return number;
}

/* 1000…9999, each once; there are more of them than any haystack asks for. */
static uint32_t fresh_number(struct maker *m)
{
    for (;;) {
        uint32_t n = 1000 + below(m, 9000);
        if (m->numbers[n / 32] >> n % 32 & 1) continue;
        m->numbers[n / 32] |= 1u << n % 32;
        return n;
    }
}

struct name {
    char text[32];
};

static struct name fresh_name(struct maker *m)
{
    struct name name;
    for (;;) {
        uint32_t a = below(m, WORDS_ADJECTIVES), n = below(m, WORDS_NOUNS);
        if (m->names[a * WORDS_NOUNS + n]++) continue;
        snprintf(name.text, sizeof name.text, "%s-%s", WORDS_ADJECTIVE[a], WORDS_NOUN[n]);
        return name;
    }
}

/* ---- prose ----------------------------------------------------------------------------------------------------------- */

static void write_filler(struct maker *m, char *out)
{
    const char *who = FILLER_WHO[below(m, FILLER_WHOS)], *did = FILLER_DID[below(m, FILLER_DIDS)];
    const char *what = FILLER_WHAT[below(m, FILLER_WHATS)], *where = FILLER_WHERE[below(m, FILLER_WHERES)];
    const char *when = FILLER_WHEN[below(m, FILLER_WHENS)];
    switch (below(m, 3)) {
    case 0:
        snprintf(out, UNIT_BYTES, " %s %s %s %s %s.", who, did, what, where, when);
        return;
    case 1:
        snprintf(out, UNIT_BYTES, " It was %s that somebody %s %s %s.", when, did, what, where);
        return;
    default:
        snprintf(out, UNIT_BYTES, " %s %s %s, and nobody asked why.", who, did, what);
    }
}

static enum status add_single(struct maker *m, uint32_t kind, struct error *error)
{
    char text[UNIT_BYTES];
    struct number value = number_of(m);
    snprintf(text, sizeof text, "\nWhat is the %s to remember, mentioned in the text? The %s to remember is",
             NEEDLE_KIND[kind], NEEDLE_KIND[kind]);
    enum status status = add_item(m, TASK_SINGLE, text, 3, error);
    if (status == ST_OK) status = add_value(m, value.text, error);
    snprintf(text, sizeof text, " The %s to remember is %s.", NEEDLE_KIND[kind], value.text);
    return status == ST_OK ? add_unit(m, &m->needles, text, 0, m->item_count - 1, error) : status;
}

static enum status add_magic(struct maker *m, const char *name, const char *value, uint32_t item, struct error *error)
{
    char text[UNIT_BYTES];
    snprintf(text, sizeof text, " One of the special magic numbers for %s is: %s.", name, value);
    return add_unit(m, &m->needles, text, 0, item, error);
}

static enum status add_multi_value(struct maker *m, struct error *error)
{
    char text[UNIT_BYTES];
    struct name name = fresh_name(m);
    snprintf(text, sizeof text,
             "\nWhat are the two special magic numbers for %s mentioned in the text? The two special magic numbers for "
             "%s mentioned in the text are:",
             name.text, name.text);
    enum status status = add_item(m, TASK_MULTI_VALUE, text, 6, error);
    for (uint32_t i = 0; i < 2 && status == ST_OK; i++) {
        struct number value = number_of(m);
        status = add_value(m, value.text, error);
        if (status == ST_OK) status = add_magic(m, name.text, value.text, i ? NO_ITEM : m->item_count - 1, error);
    }
    return status;
}

static enum status add_multi_query(struct maker *m, struct error *error)
{
    char text[UNIT_BYTES];
    struct name a = fresh_name(m), b = fresh_name(m);
    struct number of_a = number_of(m), of_b = number_of(m);
    snprintf(text, sizeof text,
             "\nWhat are the special magic numbers for %s and %s mentioned in the text? The special magic numbers for "
             "%s and %s mentioned in the text are: %s:",
             a.text, b.text, a.text, b.text, a.text);
    enum status status = add_item(m, TASK_MULTI_QUERY, text, 14, error);
    if (status == ST_OK) status = add_value(m, of_a.text, error);
    if (status == ST_OK) status = add_value(m, of_b.text, error);
    if (status == ST_OK) status = add_magic(m, a.text, of_a.text, m->item_count - 1, error);
    return status == ST_OK ? add_magic(m, b.text, of_b.text, NO_ITEM, error) : status;
}

/* A number, a variable that has it, and two that have it from the one before. Asked is where the last, or the middle one, came from. */
static enum status add_variables(struct maker *m, struct error *error)
{
    char text[UNIT_BYTES], from[16];
    uint32_t names[3], asked = 1 + below(m, 2);
    struct number value = number_of(m);
    for (uint32_t i = 0; i < 3; i++) names[i] = fresh_number(m);
    snprintf(text, sizeof text, "\nWhat is the value of VAR X%u? It was assigned from another variable: VAR X%u = VAR",
             names[asked], names[asked]);
    snprintf(from, sizeof from, "X%u", names[asked - 1]);
    enum status status = add_item(m, TASK_VARIABLES, text, 3, error);
    if (status == ST_OK) status = add_value(m, from, error);
    for (uint32_t i = 0; i < 3 && status == ST_OK; i++) {
        if (i == 0)
            snprintf(text, sizeof text, " VAR X%u = %s.", names[0], value.text);
        else
            snprintf(text, sizeof text, " VAR X%u = VAR X%u.", names[i], names[i - 1]);
        status = add_unit(m, &m->needles, text, 0, i == asked ? m->item_count - 1 : NO_ITEM, error);
        if (i < 2 && status == ST_OK) m->needles.units[m->needles.count - 1].next = m->needles.count;
    }
    return status;
}

static enum status fill_prose(struct maker *m, struct error *error)
{
    char text[UNIT_BYTES];
    uint32_t kinds[NEEDLE_KINDS], units = m->length / PROSE_UNIT_TOKENS + 1;
    for (uint32_t i = 0; i < NEEDLE_KINDS; i++) kinds[i] = i;
    enum status status = ST_OK;
    for (uint32_t i = 0; i < 3 * units && i < NEEDLE_KINDS && status == ST_OK; i++) {
        uint32_t other = i + below(m, NEEDLE_KINDS - i), kind = kinds[other];
        kinds[other] = kinds[i];
        status = add_single(m, kind, error);
    }
    for (uint32_t i = 0; i < 2 * units && status == ST_OK; i++) status = add_multi_value(m, error);
    for (uint32_t i = 0; i < 2 * units && status == ST_OK; i++) status = add_multi_query(m, error);
    for (uint32_t i = 0; i < 2 * units && status == ST_OK; i++) status = add_variables(m, error);
    if (status == ST_OK && m->needles.tokens + m->reserve > m->length) status = ST_LIMIT;
    while (status == ST_OK) {
        write_filler(m, text);
        status = add_unit(m, &m->filler, text, 0, NO_ITEM, error);
        if (m->needles.tokens + m->filler.tokens + m->reserve <= m->length) continue;
        m->filler.tokens -= m->filler.units[--m->filler.count].count;
        break;
    }
    return status;
}

/* ---- haystacks that are all needles ---------------------------------------------------------------------------------- */

static enum status add_key(struct maker *m, struct error *error)
{
    char text[UNIT_BYTES];
    struct name name = fresh_name(m);
    struct number value = number_of(m);
    snprintf(
        text, sizeof text,
        "\nWhat is the special magic number for %s mentioned in the text? The special magic number for %s mentioned "
        "in the text is:",
        name.text, name.text);
    enum status status = add_item(m, TASK_MULTI_KEY, text, 3, error);
    if (status == ST_OK) status = add_value(m, value.text, error);
    return status == ST_OK ? add_magic(m, name.text, value.text, m->item_count - 1, error) : status;
}

static enum status add_words(struct maker *m, struct error *error)
{
    enum { KINDS = 15, REPEATS = 10, WORDS = KINDS + REPEATS - 1 }; /* one word so often, the others once */
    const char *words[WORDS];
    char text[UNIT_BYTES];
    uint32_t first = below(m, WORDS_NOUNS);
    for (uint32_t i = 0; i < WORDS; i++) words[i] = WORDS_NOUN[(first + (i < REPEATS ? 0 : i) * 3) % WORDS_NOUNS];
    for (uint32_t i = WORDS; i-- > 1;) {
        uint32_t other = below(m, i + 1);
        const char *word = words[i];
        words[i] = words[other];
        words[other] = word;
    }
    uint32_t list = fresh_number(m);
    snprintf(text, sizeof text, "\nWhat is the most common word in list %u? The most common word in list %u is:", list,
             list);
    enum status status = add_item(m, TASK_WORDS, text, 4, error);
    if (status == ST_OK) status = add_value(m, WORDS_NOUN[first], error);
    int used = snprintf(text, sizeof text, "List %u:", list);
    for (uint32_t i = 0; i < WORDS; i++) used += snprintf(text + used, sizeof text - (size_t)used, " %s", words[i]);
    snprintf(text + used, sizeof text - (size_t)used, "\n");
    return status == ST_OK ? add_unit(m, &m->needles, text, 0, m->item_count - 1, error) : status;
}

static enum status add_code(struct maker *m, struct error *error)
{
    char text[UNIT_BYTES];
    uint32_t function = fresh_number(m);
    struct number value = number_of(m);
    snprintf(text, sizeof text, "\nassert f_%u() ==", function);
    enum status status = add_item(m, TASK_CODE, text, 3, error);
    if (status == ST_OK) status = add_value(m, value.text, error);
    snprintf(text, sizeof text, "def f_%u(): return %s\n", function, value.text);
    return status == ST_OK ? add_unit(m, &m->needles, text, 0, m->item_count - 1, error) : status;
}

/* As many as there is room for. */
static enum status fill_needles(struct maker *m, enum status (*add)(struct maker *m, struct error *error),
                                uint32_t most, struct error *error)
{
    while (m->item_count < most) {
        const struct list needles = m->needles;
        const uint32_t items = m->item_count, reserve = m->reserve;
        enum status status = add(m, error);
        if (status != ST_OK) return status;
        if (m->needles.tokens + m->reserve <= m->length) continue;
        m->needles.count = needles.count;
        m->needles.tokens = needles.tokens;
        m->item_count = items;
        m->reserve = reserve;
        return ST_OK;
    }
    return ST_OK;
}

/* ---- putting it together --------------------------------------------------------------------------------------------- */

static const struct {
    const char *head;
    enum status (*add)(struct maker *m, struct error *error); /* NULL: prose */
    uint32_t items_max; /* no more names than these are tried for: half of those there are */
} FAMILIES[HAYSTACK_FAMILIES] = {
    [HAYSTACK_PROSE] = {"Some special numbers are hidden within the following text. Make sure to memorize them. I will "
                        "quiz you about the numbers afterwards.\n",
                        NULL, 0},
    [HAYSTACK_KEYS] = {"Special magic numbers are hidden within the following text. Make sure to memorize them. I will "
                       "quiz you about the numbers afterwards.\n",
                       add_key, WORDS_ADJECTIVES *WORDS_NOUNS / 2},
    [HAYSTACK_WORDS] = {"Below are lists of words. In each list one word appears more often than the others. Memorize "
                        "it.\n",
                        add_words, 4500},
    [HAYSTACK_CODE] = {"# constants\n", add_code, 4500},
};

/* The order of the needles: random, but those of a chain in theirs. */
static uint32_t *order_needles(struct maker *m)
{
    uint32_t count = m->needles.count, *order = arena_alloc(m->arena, (count + 1) * sizeof *order * 2);
    if (!order) return NULL;
    uint32_t *place = order + count;
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    for (uint32_t i = count; i-- > 1;) {
        uint32_t other = below(m, i + 1), needle = order[i];
        order[i] = order[other];
        order[other] = needle;
    }
    for (uint32_t i = 0; i < count; i++) place[order[i]] = i;
    /* Bubble sort over a chain of three at most. */
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < count; i++) {
            uint32_t next = m->needles.units[i].next;
            if (next == NO_ITEM || place[i] < place[next]) continue;
            uint32_t p = place[i];
            place[i] = place[next];
            place[next] = p;
        }
    for (uint32_t i = 0; i < count; i++) order[place[i]] = i;
    return order;
}

static void append(struct maker *m, const struct unit *unit, uint32_t *ids, uint32_t *count)
{
    if (unit->item != NO_ITEM) m->items[unit->item].depth = *count;
    memcpy(ids + *count, unit->ids, unit->count * sizeof *ids);
    *count += unit->count;
}

/* Needles spread evenly among the filler. */
static enum status join(struct maker *m, const struct list *head, struct haystack *out, struct error *error)
{
    const uint32_t *order = order_needles(m);
    uint32_t *ids = arena_alloc(m->arena, (head->tokens + m->needles.tokens + m->filler.tokens) * sizeof *ids);
    if (!order || !ids) return no_memory(error);
    uint32_t filler = 0, count = 0;
    append(m, &head->units[0], ids, &count);
    for (uint32_t i = 0; i < m->needles.count; i++) {
        uint32_t until = (uint32_t)(((i + random_unit(&m->random)) * m->filler.count) / m->needles.count);
        while (filler < until) append(m, &m->filler.units[filler++], ids, &count);
        append(m, &m->needles.units[order[i]], ids, &count);
    }
    while (filler < m->filler.count) append(m, &m->filler.units[filler++], ids, &count);
    for (uint32_t i = 0; i < m->item_count; i++) m->items[i].depth /= count;
    for (uint32_t i = m->item_count; i-- > 1;) {
        uint32_t other = below(m, i + 1);
        struct haystack_item item = m->items[i];
        m->items[i] = m->items[other];
        m->items[other] = item;
    }
    out->ids = ids;
    out->count = count;
    out->items = m->items;
    out->item_count = m->item_count;
    return ST_OK;
}

enum status haystack_make(const struct kvasir_model *model, enum haystack_family family, uint32_t length, uint64_t seed,
                          struct haystack *out, struct error *error)
{
    struct list head = {0};
    *out = (struct haystack){0};
    arena_init(&out->arena);
    struct maker *m = mem_zero(1, sizeof *m);
    if (!m) return no_memory(error);
    m->model = model;
    m->arena = &out->arena;
    random_seed(&m->random, seed * HAYSTACK_FAMILIES + family);
    enum status status = add_unit(m, &head, FAMILIES[family].head, KVASIR_ADD_SPECIAL, NO_ITEM, error);
    if (status == ST_OK && length <= head.tokens) status = ST_LIMIT;
    if (status == ST_OK) {
        m->length = length - (uint32_t)head.tokens;
        status = FAMILIES[family].add ? fill_needles(m, FAMILIES[family].add, FAMILIES[family].items_max, error)
                                      : fill_prose(m, error);
    }
    if (status == ST_OK && !m->item_count) status = ST_LIMIT;
    if (status == ST_OK) status = join(m, &head, out, error);
    if (status == ST_LIMIT)
        status =
            error_set(error, ST_LIMIT, "%u tokens are too few for a text with needles: state a greater length", length);
    mem_free(m);
    if (status != ST_OK) haystack_release(out);
    return status;
}

void haystack_release(struct haystack *haystack)
{
    arena_release(&haystack->arena);
    *haystack = (struct haystack){0};
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The next run of letters and digits; of an item with numbers, one that has a digit. */
static bool next_word(const struct haystack_item *item, const char *text, size_t bytes, size_t *at, size_t *begin)
{
    bool numbers = strpbrk(item->values[0], "0123456789") != NULL;
    for (;;) {
        while (*at < bytes && !is_word(text[*at])) ++*at;
        if (*at == bytes) return false;
        bool digit = false;
        for (*begin = *at; *at < bytes && is_word(text[*at]); ++*at) digit |= text[*at] >= '0' && text[*at] <= '9';
        if (digit || !numbers) return true;
    }
}

bool haystack_correct(const struct haystack_item *item, const char *answer, size_t bytes)
{
    size_t at = 0, begin;
    bool found[HAYSTACK_VALUES_MAX] = {false};
    for (uint32_t i = 0; i < item->value_count; i++) {
        if (!next_word(item, answer, bytes, &at, &begin)) return false;
        uint32_t first = item->any_order ? 0 : i, end = item->any_order ? item->value_count : i + 1, v = first;
        while (v < end && (found[v] || strlen(item->values[v]) != at - begin ||
                           memcmp(item->values[v], answer + begin, at - begin) != 0))
            v++;
        if (v == end) return false;
        found[v] = true;
    }
    return true;
}
