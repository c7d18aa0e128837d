/* pretokenizer.c - runs the passes of a pre-tokenizer type one inside the other; PCRE2 for the patterns that have no
 * hand-written pass.
 *
 * PCRE2's effort is bounded (match, depth and heap limits): a text that passes them is refused with ST_LIMIT. The
 * patterns of the table of types need no backtracking beyond one run of characters, so that no real text does. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pretokenizer_internal.h"
#include <pcre2.h>
#include <string.h>

#define MATCH_LIMIT 100000000u
#define FOREIGN_MATCH_LIMIT 200000u /* of a file's own patterns */
#define DEPTH_LIMIT 1000000u
#define HEAP_LIMIT_KIB 262144u

struct pretokenizer {
    struct pretokenizer_traits traits;
    struct pass passes[PASSES_MAX];
    pcre2_code *patterns[PASSES_MAX]; /* of the passes that are patterns */
    bool any_pattern, foreign;
};

/* One call of pretokenizer_split. */
struct splitting {
    const struct pretokenizer *pretokenizer;
    const char *text;
    const char *clean; /* for PCRE2: well-formed, the same places; NULL when no pass needs it */
    char *clean_owned;
    pcre2_match_data *match;
    pcre2_match_context *context;
    enum status (*word)(void *data, size_t begin, size_t end);
    void *data;
    struct error *error;
};

/* Compiles the pattern of pass `pass`. The patterns of the table of types are right. */
static enum status compile(struct pretokenizer *pretokenizer, uint32_t pass, const char *text, size_t bytes,
                           struct error *error)
{
    int code;
    PCRE2_SIZE offset;
    pcre2_code *pattern = pcre2_compile((PCRE2_SPTR)text, bytes, PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
    if (!pattern && code == PCRE2_ERROR_HEAP_FAILED)
        return error_set(error, ST_NOMEM, "no memory for the pre-tokenizer");
    if (!pattern) {
        unsigned char reason[128];
        if (pcre2_get_error_message(code, reason, sizeof reason) < 0) reason[0] = '\0';
        return error_set(error, ST_INVALID, "the pre-tokenizer's pattern '%.*s' is broken at byte %zu: %s",
                         bytes < 64 ? (int)bytes : 64, text, (size_t)offset, (const char *)reason);
    }
    (void)pcre2_jit_compile(pattern, PCRE2_JIT_COMPLETE); /* without it the interpreter runs the pattern */
    pretokenizer->passes[pass].kind = PASS_PATTERN;
    pretokenizer->patterns[pass] = pattern;
    pretokenizer->any_pattern = true;
    return ST_OK;
}

enum status pretokenizer_open(const char *name, size_t bytes, struct pretokenizer **out, struct error *error)
{
    *out = NULL;
    const struct pretokenizer_type *type = pretokenizer_type_find(name, bytes);
    if (!type)
        return error_set(error, ST_UNSUPPORTED, "the pre-tokenizer type '%.*s' is not known",
                         bytes < 64 ? (int)bytes : 64, name);
    struct pretokenizer *pretokenizer = mem_zero(1, sizeof *pretokenizer);
    if (!pretokenizer) return error_set(error, ST_NOMEM, "no memory for the pre-tokenizer");
    pretokenizer->traits = type->traits;
    memcpy(pretokenizer->passes, type->passes, sizeof pretokenizer->passes);
    enum status status = ST_OK;
    for (uint32_t i = 0; i < PASSES_MAX && status == ST_OK; i++) {
        const char *pattern = type->passes[i].pattern;
        if (type->passes[i].kind == PASS_PATTERN) status = compile(pretokenizer, i, pattern, strlen(pattern), error);
    }
    if (status == ST_OK)
        *out = pretokenizer;
    else
        pretokenizer_close(pretokenizer);
    return status;
}

enum status pretokenizer_open_patterns(const struct pretokenizer_pattern *patterns, uint32_t count,
                                       const struct pretokenizer_traits *traits, struct pretokenizer **out,
                                       struct error *error)
{
    ASSERT(count <= PASSES_MAX);
    *out = NULL;
    struct pretokenizer *pretokenizer = mem_zero(1, sizeof *pretokenizer);
    if (!pretokenizer) return error_set(error, ST_NOMEM, "no memory for the pre-tokenizer");
    pretokenizer->traits = *traits;
    pretokenizer->foreign = true;
    enum status status = ST_OK;
    for (uint32_t i = 0; i < count && status == ST_OK; i++)
        if (!pretokenizer_pass_find(&patterns[i], &pretokenizer->passes[i])) {
            pretokenizer->passes[i].drops = patterns[i].drops;
            status = compile(pretokenizer, i, patterns[i].text, patterns[i].bytes, error);
        }
    if (status == ST_OK)
        *out = pretokenizer;
    else
        pretokenizer_close(pretokenizer);
    return status;
}

void pretokenizer_close(struct pretokenizer *pretokenizer)
{
    if (!pretokenizer) return;
    for (uint32_t i = 0; i < PASSES_MAX; i++) pcre2_code_free(pretokenizer->patterns[i]);
    mem_free(pretokenizer);
}

const struct pretokenizer_traits *pretokenizer_traits(const struct pretokenizer *pretokenizer)
{
    return &pretokenizer->traits;
}

/* ---- PCRE2 ---- */

/* What PCRE2 is shown in place of a character, of the same length: control characters for stray bytes, and for what is
 * past U+FFFF or younger than PCRE2's tables (Unicode 14) a character of the same kind. No pattern
 * of the table tells the characters of one kind past U+FFFF from each other. */
static uint32_t stand_in(struct character character)
{
    if (character.bytes == 3) {
        if (character.code_point == 0xCF3) return 0xCBC;
        if (character.code_point == 0xECE) return 0xECD;
        const bool is_new =
            (character.code_point >= 0x2FFC && character.code_point <= 0x2FFF) || character.code_point == 0x31EF;
        return is_new ? 0x2FF0 : character.code_point;
    }
    if (character.bytes != 4) return character.code_point == 0xFFFD ? 1 : character.code_point;
    switch (character.kind) {
    case CHARACTER_LETTER:
        return 0x20000;
    case CHARACTER_NUMBER:
        return 0x1D7CE;
    case CHARACTER_MARK:
        return 0x1D165;
    case CHARACTER_PUNCTUATION:
        return 0x10100;
    case CHARACTER_SYMBOL:
        return 0x1F600;
    default:
        return 0xF0000;
    }
}

/* The text that patterns see: well-formed, every character in its place. */
static enum status clean_text(struct splitting *splitting, size_t bytes)
{
    splitting->clean = splitting->text;
    for (size_t at = 0; at < bytes;) {
        struct character character = character_at(splitting->text, at, bytes);
        uint32_t shown = stand_in(character);
        if (shown != character.code_point && !splitting->clean_owned) {
            splitting->clean_owned = mem_strndup(splitting->text, bytes);
            if (!splitting->clean_owned) return error_set(splitting->error, ST_NOMEM, "no memory to cut a text");
            splitting->clean = splitting->clean_owned;
        }
        if (shown != character.code_point) (void)utf8_encode(shown, splitting->clean_owned + at);
        at += character.bytes;
    }
    return ST_OK;
}

static enum status begin_patterns(struct splitting *splitting, size_t bytes)
{
    splitting->match = pcre2_match_data_create(1, NULL);
    splitting->context = pcre2_match_context_create(NULL);
    if (!splitting->match || !splitting->context)
        return error_set(splitting->error, ST_NOMEM, "no memory to cut a text");
    pcre2_set_match_limit(splitting->context, splitting->pretokenizer->foreign ? FOREIGN_MATCH_LIMIT : MATCH_LIMIT);
    pcre2_set_depth_limit(splitting->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(splitting->context, HEAP_LIMIT_KIB);
    return clean_text(splitting, bytes);
}

/* The first match in [at, end): its begin and end; both `end` when there is none. */
static enum status pattern_find(struct splitting *splitting, uint32_t pass, size_t at, size_t end, size_t *begin,
                                size_t *match_end)
{
    const pcre2_code *pattern = splitting->pretokenizer->patterns[pass];
    PCRE2_SPTR subject = (PCRE2_SPTR)splitting->clean + at;
    int code = pcre2_match(pattern, subject, end - at, 0, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, splitting->match,
                           splitting->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
        code = pcre2_match(pattern, subject, end - at, 0, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | PCRE2_NO_JIT,
                           splitting->match, splitting->context);
    *begin = *match_end = end;
    if (code == PCRE2_ERROR_NOMATCH) return ST_OK;
    if (code == PCRE2_ERROR_NOMEMORY) return error_set(splitting->error, ST_NOMEM, "no memory to cut a text");
    if (code < 0) return error_set(splitting->error, ST_LIMIT, "the text is too hard for the pattern (PCRE2 %d)", code);
    const PCRE2_SIZE *places = pcre2_get_ovector_pointer(splitting->match);
    if (places[1] <= places[0]) /* \K may put the begin behind the end */
        return error_set(splitting->error, ST_INVALID, "the pre-tokenizer's pattern matches nothing");
    *begin = at + places[0];
    *match_end = at + places[1];
    return ST_OK;
}

/* ---- passes inside passes ---- */

static enum status split(struct splitting *splitting, uint32_t pass, size_t begin, size_t end);

static enum status split_pattern(struct splitting *splitting, uint32_t pass, size_t begin, size_t end)
{
    while (begin < end) {
        size_t match, match_end;
        enum status status = pattern_find(splitting, pass, begin, end, &match, &match_end);
        if (status == ST_OK && match > begin && !splitting->pretokenizer->passes[pass].drops)
            status = split(splitting, pass + 1, begin, match);
        if (status == ST_OK && match_end > match) status = split(splitting, pass + 1, match, match_end);
        if (status != ST_OK) return status;
        begin = match_end;
    }
    return ST_OK;
}

/* Cuts [begin, end) by pass `pass` and those after it. The depth is at most PASSES_MAX. */
static enum status split(struct splitting *splitting, uint32_t pass, size_t begin, size_t end)
{
    const struct pass *passes = splitting->pretokenizer->passes;
    if (pass == PASSES_MAX || passes[pass].kind == PASS_NONE) return splitting->word(splitting->data, begin, end);
    if (passes[pass].kind == PASS_PATTERN) return split_pattern(splitting, pass, begin, end);
    while (begin < end) {
        size_t next = pass_next(&passes[pass], splitting->text, begin, end);
        enum status status = split(splitting, pass + 1, begin, next);
        if (status != ST_OK) return status;
        begin = next;
    }
    return ST_OK;
}

enum status pretokenizer_split(const struct pretokenizer *pretokenizer, const char *text, size_t bytes,
                               enum status (*word)(void *data, size_t begin, size_t end), void *data,
                               struct error *error)
{
    struct splitting splitting = {
        .pretokenizer = pretokenizer, .text = text, .word = word, .data = data, .error = error};
    enum status status = pretokenizer->any_pattern ? begin_patterns(&splitting, bytes) : ST_OK;
    if (status == ST_OK) status = split(&splitting, 0, 0, bytes);
    pcre2_match_data_free(splitting.match);
    pcre2_match_context_free(splitting.context);
    mem_free(splitting.clean_owned);
    return status;
}
