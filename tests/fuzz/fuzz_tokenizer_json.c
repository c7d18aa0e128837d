/* fuzz_tokenizer_json.c - any bytes as a tokenizer.json. What is opened must encode any text or refuse it, and never make a
 * control token of text that is not to be parsed. */
#include "format/format_internal.h"
#include "text/text.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct tokenizer *tokenizer, const char *text, size_t bytes)
{
    struct token_list list = {0};
    struct buffer back;
    struct error error = {0};
    struct detokenizer detokenizer;
    buffer_init(&back, 0);
    enum status status = tokenizer_encode(tokenizer, text, bytes, NULL, 0, 0, &list, &error);
    ASSERT(status == ST_OK || error.text[0] != 0);
    detokenizer_init(&detokenizer, tokenizer, true);
    for (size_t i = 0; i < list.count; i++) {
        ASSERT(list.ids[i] < tokenizer_vocabulary_size(tokenizer));
        ASSERT(tokenizer_kind(tokenizer, list.ids[i]) != TOKEN_CONTROL);
        detokenizer_put(&detokenizer, list.ids[i], &back);
    }
    detokenizer_finish(&detokenizer, &back);
    token_list_release(&list);
    buffer_release(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "the  th\xC3\xA9 <s>\xE2\x96\x81the 12\n\n\xF0\x9F\x99\x82 e\xCC\x81 \xFF</s>  x";
    struct format *format = NULL;
    struct tokenizer *tokenizer = NULL;
    struct error error = {0};
    enum status status = format_open_tokenizer(data, size, &format, &error);
    ASSERT(status == ST_OK || error.text[0] != 0);
    if (status == ST_OK && tokenizer_open(format, &tokenizer, &error) == ST_OK) {
        check(tokenizer, text, sizeof text - 1);
        check(tokenizer, (const char *)data, size < 300 ? size : 300);
    }
    tokenizer_close(tokenizer);
    format_close(format);
    return 0;
}
