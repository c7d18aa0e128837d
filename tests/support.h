/* support.h - what every test program shares: cmocka with its required includes, seeded counts, model paths. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* needs all of the above */

#define TEST_SKIPPED 77 /* ctest's SKIP_RETURN_CODE */

/* The count a test runs: `quick` by default, `full` when ./test.sh full asked for the large counts. */
static inline uint32_t test_count(uint32_t quick, uint32_t full)
{
    const char *mode = getenv("KVASIR_TEST_COUNT");
    return mode && strcmp(mode, "full") == 0 ? full : quick;
}

/* The thread sanitizer runs ten times slower: a test leaves out what cannot show it anything new. */
#ifdef __SANITIZE_THREAD__
#define TEST_THREAD_SANITIZED 1
#else
#define TEST_THREAD_SANITIZED 0
#endif

/* Path of a fetched model ("smollm2", "qwen2", "gemma3") in `path`; false when it is not there: say so and return 77. */
static inline int test_model_path(const char *name, char *path, size_t bytes)
{
    const char *home = getenv("KVASIR_HOME"), *cache = getenv("XDG_CACHE_HOME"), *user = getenv("HOME");
    if (home && *home)
        snprintf(path, bytes, "%s/models/%s.gguf", home, name);
    else if (cache && *cache)
        snprintf(path, bytes, "%s/kvasir/models/%s.gguf", cache, name);
    else
        snprintf(path, bytes, "%s/.cache/kvasir/models/%s.gguf", user ? user : "", name);
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}
#endif
