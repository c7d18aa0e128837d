/* fuzz_kv_store.c - any bytes as a blob and as an exported file: as they are, and with the checksums that would make them whole, so
 * that what lies behind them is reached. Nothing is believed that the checksums and lengths do not bear out. */
#include "kv/store_internal.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#define DATA_BYTES_MAX 65536u
#define ARCHIVE_HEAD_BYTES 16u
#define FOLDER_BYTES_MAX (1u << 17)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void sum(const void *bytes, uint64_t count, unsigned char out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, count));
    memcpy(out, canonical.digest, 16);
}

/* The head at `bytes` gets the checksums of what follows; the bytes of the blob, or 0: it does not fit. */
static uint64_t mend(unsigned char *bytes, uint64_t size)
{
    struct blob_head head;
    if (size < BLOB_HEAD_BYTES) return 0;
    memcpy(&head, bytes, sizeof head);
    if (head.stored_bytes > size - BLOB_HEAD_BYTES) return 0;
    sum(bytes + BLOB_HEAD_BYTES, head.stored_bytes, head.payload_sum);
    sum(&head, offsetof(struct blob_head, head_sum), head.head_sum);
    memcpy(bytes, &head, sizeof head);
    return BLOB_HEAD_BYTES + head.stored_bytes;
}

static void decode(struct blob_works *works, const unsigned char *bytes, uint64_t size)
{
    struct blob_work *work = blob_work_take(works);
    struct store_key key = {{0}};
    struct blob_head head = {0};
    ASSERT(work && blob_work_reserve(work, size + 1));
    memcpy(work->bytes, bytes, size);
    if (size >= BLOB_HEAD_BYTES) memcpy(&head, bytes, sizeof head);
    memcpy(key.bytes, head.key, sizeof key.bytes);
    uint64_t wanted = head.raw_bytes % DATA_BYTES_MAX;
    unsigned char *out = malloc(wanted ? wanted : 1);
    ASSERT(out);
    if (blob_decode(work, size, &key, out, wanted) == ST_OK) {
        ASSERT(head.raw_bytes == wanted && head.stored_bytes == size - BLOB_HEAD_BYTES);
        ASSERT(blob_check(work, size, &key) == ST_OK);
        key.bytes[0] ^= 1;
        ASSERT(blob_decode(work, size, &key, out, wanted) == ST_INVALID);
    }
    free(out);
    blob_work_give(works, work);
}

static char folder[] = "/tmp/kvasir-fuzz-XXXXXX";

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info, (void)type, (void)walk;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct store *open_store(void)
{
    struct store *store;
    ASSERT(mkdtemp(folder) && store_open_folder(folder, FOLDER_BYTES_MAX, &store, NULL) == ST_OK);
    atexit(remove_folder);
    log_set_level(LOG_ERROR);
    return store;
}

static void import(struct store *store, int file, const unsigned char *bytes, size_t size)
{
    char path[64];
    struct store_work work = {0};
    struct error error = {0};
    struct store_stats stats;
    ASSERT(ftruncate(file, 0) == 0 && pwrite(file, bytes, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    enum status status = store_import(store, path, &work, &error);
    ASSERT(status == ST_OK || error.text[0]);
    store_stats(store, &stats);
    ASSERT(stats.bytes <= FOLDER_BYTES_MAX);
    struct store_listed *listed;
    uint64_t count;
    ASSERT(store_list(store, &listed, &count) == ST_OK);
    for (uint64_t i = 0; i < count; i++) store_remove(store, &listed[i].key);
    mem_free(listed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct store *store;
    if (!store) store = open_store();
    struct blob_works works;
    blob_works_init(&works);
    int file = memfd_create("archive", MFD_CLOEXEC);
    unsigned char *bytes = malloc(size ? size : 1);
    ASSERT(file >= 0 && bytes);
    memcpy(bytes, data, size);
    decode(&works, bytes, size);
    import(store, file, bytes, size);
    uint64_t first =
        size >= 8 && memcmp(bytes, "KVASIRBL", 8) == 0 ? 0 : ARCHIVE_HEAD_BYTES; /* a blob, or an exported file */
    for (uint64_t at = first, blob; at < size; at += blob) {
        blob = mend(bytes + at, size - at);
        if (!blob) break;
        decode(&works, bytes + at, blob);
    }
    import(store, file, bytes, size);
    close(file);
    free(bytes);
    blob_works_release(&works);
    return 0;
}
