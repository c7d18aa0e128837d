/* fuzz_kv_save.c - any bytes as a saved sequence: as they are, and with the checksums that would make them whole, so that
 * what lies behind them is reached. A sequence that is loaded has a cache in order, and goes back. */
#include "kv/kv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#define HEADER_BYTES 72u
#define BLOCK_TOKENS 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void no_write(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                     uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                     const float *v, uint64_t v_stride, uint32_t value_dim)
{
    (void)k_format, (void)v_format, (void)k_groups, (void)v_groups, (void)first_slot, (void)count, (void)k;
    (void)k_stride, (void)head_dim, (void)v, (void)v_stride, (void)value_dim;
}

static void load(struct kv_cache *cache, int file, const unsigned char *bytes, size_t size)
{
    char path[64];
    struct kv_seq *seq;
    struct error error = {0};
    ASSERT(ftruncate(file, 0) == 0 && pwrite(file, bytes, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    if (kv_seq_load(cache, path, 0, &seq, &error) == ST_OK) {
        ASSERT(kv_seq_count(seq) * sizeof(uint32_t) < size);
        kv_seq_close(seq);
    } else {
        ASSERT(!seq && error.text[0]);
    }
    if (kv_check(cache, &error) != ST_OK) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

/* The record of `bytes` at `at` gets its checksum; false: it is not there. */
static bool mend(unsigned char *file, size_t size, uint64_t *at, uint64_t bytes, uint64_t seed, uint64_t *checksum)
{
    if (*at > size || size - *at < bytes + sizeof *checksum) return false;
    *checksum = XXH3_64bits_withSeed(file + *at, bytes, seed);
    memcpy(file + *at + bytes, checksum, sizeof *checksum);
    *at += bytes + sizeof *checksum;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct kernel kernel = {.name = "none", .kv_write = no_write};
    static const struct kv_layer layer = {
        .kind = KV_FULL, .kv_heads = 1, .head_dim = 1, .value_dim = 1, .k_format = NF_F32, .v_format = NF_F32};
    const struct kv_config config = {.layers = &layer,
                                     .layer_count = 1,
                                     .block_tokens = BLOCK_TOKENS,
                                     .bytes_max = 1 << 14,
                                     .kernel = &kernel,
                                     .share_prefixes = true};
    struct kv_cache *cache;
    struct error error;
    int file = memfd_create("saved", MFD_CLOEXEC);
    unsigned char *whole = malloc(size ? size : 1);
    ASSERT(file >= 0 && whole && kv_open(&config, &cache, &error) == ST_OK);
    memcpy(whole, data, size);
    load(cache, file, whole, size);
    uint64_t at = HEADER_BYTES, seed, unused;
    if (size >= HEADER_BYTES) {
        uint32_t count;
        uint64_t file_bytes = size, block_bytes = BLOCK_TOKENS * kv_layer_bytes_per_token(&layer);
        memcpy(&count, whole + 16, sizeof count);
        memcpy(whole + 24, &file_bytes, sizeof file_bytes);
        uint64_t checksum = XXH3_64bits(whole, HEADER_BYTES - sizeof checksum);
        memcpy(whole + HEADER_BYTES - sizeof checksum, &checksum, sizeof checksum);
        if (mend(whole, size, &at, count * (uint64_t)sizeof count, checksum, &seed))
            while (mend(whole, size, &at, block_bytes, ++seed, &unused)) {
            }
        load(cache, file, whole, size);
    }
    kv_close(cache);
    close(file);
    free(whole);
    return 0;
}
