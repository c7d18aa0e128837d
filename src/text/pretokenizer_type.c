/* pretokenizer_type.c - the table of pre-tokenizer types: the names that GGUF files carry in tokenizer.ggml.pre, and the
 * passes of each.
 *
 * The patterns are those which the models' authors published in their tokenizer.json files; names and passes are those
 * that GGUF files were converted for. Types are grouped by what they do, not by who uses them. */
#include "text/pretokenizer_internal.h"
#include <string.h>

/* ---- sets ---- */

static bool is_number(struct character character)
{
    return character.kind == CHARACTER_NUMBER;
}

static bool is_digit(struct character character)
{
    return character.code_point >= '0' && character.code_point <= '9';
}

static bool is_letter(struct character character)
{
    return character.kind == CHARACTER_LETTER;
}

static bool is_punctuation(struct character character)
{
    return character.kind == CHARACTER_PUNCTUATION;
}

static bool is_line_break(struct character character)
{
    return character.code_point == '\n' || character.code_point == '\r';
}

/* [\p{P}$+<=>^~|] */
static bool is_mark_of_default(struct character character)
{
    return is_punctuation(character) ||
           (character.code_point < 0x80 && character.kind == CHARACTER_SYMBOL && character.code_point != '`');
}

/* [\p{P}$+<=>^~|`] */
static bool is_mark_of_falcon(struct character character)
{
    return is_punctuation(character) || (character.code_point < 0x80 && character.kind == CHARACTER_SYMBOL);
}

struct range {
    uint32_t first, last;
};

static bool in_ranges(uint32_t code_point, const struct range *ranges, size_t count)
{
    size_t begin = 0;
    while (begin < count) {
        size_t middle = begin + (count - begin) / 2;
        if (code_point > ranges[middle].last)
            begin = middle + 1;
        else if (code_point < ranges[middle].first)
            count = middle;
        else
            return true;
    }
    return false;
}

/* DeepSeek LLM's letters: those that have case, as its authors listed them. */
static const struct range cased[] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
    {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
    {0x376, 0x376},     {0x377, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},
    {0x388, 0x38A},     {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},
    {0x48A, 0x52F},     {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
    {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},
    {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},
    {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},
    {0x1FB6, 0x1FBC},   {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
    {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},
    {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},
    {0x2126, 0x2126},   {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},
    {0x213C, 0x213F},   {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2183},   {0x2184, 0x2184},
    {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF2},   {0x2CF3, 0x2CF3},
    {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
    {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},
    {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2},
    {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};

static bool is_cased(struct character character)
{
    return in_ranges(character.code_point, cased, ARRAY_COUNT(cased));
}

/* [!-/:-~！-／：-～‘-‟　-。] without white space, which the space before it takes */
static bool is_mark_of_deepseek(struct character character)
{
    static const struct range marks[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201F},
                                         {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
    return character.kind != CHARACTER_SPACE && in_ranges(character.code_point, marks, ARRAY_COUNT(marks));
}

/* [一-龥ࠀ-一가-퟿], as published: most of what lies between U+0800 and the last Han character is in it */
static bool is_east_asian(struct character character)
{
    return (character.code_point >= 0x800 && character.code_point <= 0x9FA5 && character.kind != CHARACTER_SPACE) ||
           (character.code_point >= 0xAC00 && character.code_point <= 0xD7FF);
}

/* ---- passes ---- */

/* clang-format off */
#define RUN(set, fewest, longest) {.kind = PASS_RUN, .member = (set), .least = (fewest), .most = (longest)}
#define SPACED_RUN(set) {.kind = PASS_RUN, .member = (set), .least = 1, .space = true}
#define WORDS {.kind = PASS_WORDS}
#define TERMS(longest) {.kind = PASS_TERMS, .digits = (longest)}
#define TERMS_WITH_MARKS(longest) {.kind = PASS_TERMS, .digits = (longest), .marks = true}
#define LINES {.kind = PASS_LINES}
#define TRAILING_SPACE {.kind = PASS_TRAILING}
#define PATTERN(text) {.kind = PASS_PATTERN, .pattern = (text)}
/* clang-format on */

#define CONTRACTION "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
/* [^\P{L}a-z] is "a letter, but not a to z". */
#define CASED_WORD(end) \
    "[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]*[^\\P{L}A-Z]+" end "|[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]+[^\\P{L}A-Z]*" end
#define MARKS_AND_SPACES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK_3                                                                                                 \
    RUN(is_number, 1, 3), PATTERN("[一-龥぀-ゟ゠-ヿ]+"),                                                     \
        PATTERN("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
                " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")

static const struct pretokenizer_type types[] = {
    {"gpt-2 phi phi-2 mpt olmo jais trillion granite-docling exaone4 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de "
     "jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert",
     {0},
     {WORDS}},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", {0}, {RUN(is_number, 1, 1), WORDS}},
    {"qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2", {0}, {TERMS(1)}},
    {"qwen35", {0}, {TERMS_WITH_MARKS(1)}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     {.word_is_token = true, .adds_bos = true},
     {TERMS(3)}},
    {"dbrx smaug-bpe chatglm-bpe", {0}, {TERMS(3)}},
    {"glm4 glm5", {.word_is_token = true}, {TERMS(3)}},
    {"minicpm5", {.word_is_token = true}, {RUN(is_number, 1, 3), TERMS(0)}},
    {"laguna", {0}, {LINES, TERMS(1)}},
    {"falcon", {0}, {RUN(is_mark_of_falcon, 1, 0), WORDS, RUN(is_digit, 3, 3)}},
    {"default", {0}, {RUN(is_mark_of_default, 1, 0), WORDS, RUN(is_number, 1, 0), RUN(is_digit, 3, 3)}},
    {"deepseek-llm",
     {0},
     {RUN(is_line_break, 1, 1), SPACED_RUN(is_cased), SPACED_RUN(is_mark_of_deepseek), TRAILING_SPACE,
      RUN(is_east_asian, 1, 0), RUN(is_number, 1, 0)}},
    {"deepseek-coder",
     {0},
     {RUN(is_line_break, 1, 1), SPACED_RUN(is_letter), SPACED_RUN(is_punctuation), RUN(is_east_asian, 1, 0),
      RUN(is_number, 1, 1)}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", {0}, {DEEPSEEK_3}},
    {"gemma4 granite-embed-multi-311m", {.adds_bos = true, .plain = true, .lines = true}, {LINES}},
    {"sarvam-moe", {.plain = true, .lines = true}, {LINES}},
    {"tekken", {.word_is_token = true, .adds_bos = true}, {PATTERN(CASED_WORD("") "|\\p{N}" MARKS_AND_SPACES)}},
    {"gpt-4o llama4 kanana2 talkie minimax-m2",
     {0},
     {PATTERN(CASED_WORD(CONTRACTION "?") "|\\p{N}{1,3}" MARKS_AND_SPACES)}},
    {"poro-chat bloom gpt3-finnish", {0}, {PATTERN(" ?[^(\\s|.,!?…。，、।۔،)]+")}},
    {"viking", {0}, {PATTERN(" ?[^(\\s|.,!?…。，、।۔،)]+"), RUN(is_number, 1, 1)}},
    {"jais-2",
     {0},
     {PATTERN(CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                          "\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|"
                          "\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s")}},
    {"bailingmoe bailingmoe2 llada-moe",
     {0},
     {PATTERN("'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
              " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+")}},
    {"seed-coder",
     {0},
     {PATTERN(CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|"
                          "\\s+(?!\\S)|\\s+")}},
};

const struct pretokenizer_type *pretokenizer_type_find(const char *name, size_t bytes)
{
    if (!bytes || memchr(name, ' ', bytes)) return NULL;
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        for (const char *word = types[i].names; *word;) {
            size_t length = strcspn(word, " ");
            if (length == bytes && memcmp(word, name, bytes) == 0) return &types[i];
            word += length + (word[length] == ' ');
        }
    }
    return NULL;
}

#define TERMS_PATTERN(numbers)                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

bool pretokenizer_pass_find(const struct pretokenizer_pattern *pattern, struct pass *out)
{
    static const struct {
        const char *pattern;
        struct pass pass;
    } passes[] = {
        {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", WORDS},
        {TERMS_PATTERN("\\p{N}"), TERMS(1)},
        {TERMS_PATTERN("\\p{N}{1,3}"), TERMS(3)},
        {"\\p{N}", RUN(is_number, 1, 1)},
        {"\\p{N}+", RUN(is_number, 1, 0)},
        {"\\p{N}{1,3}", RUN(is_number, 1, 3)},
    };
    for (size_t i = 0; i < ARRAY_COUNT(passes); i++) {
        if (pattern->drops && passes[i].pass.kind == PASS_RUN) continue;
        if (strlen(passes[i].pattern) != pattern->bytes ||
            memcmp(passes[i].pattern, pattern->text, pattern->bytes) != 0)
            continue;
        *out = passes[i].pass;
        return true;
    }
    return false;
}
