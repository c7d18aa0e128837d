/* store_blob.c - the form of a blob: what makes it safe to read back bytes that anybody may have written.
 *
 * The payload's checksum is of the bytes as they are stored, so that zstd sees nothing that is damaged by accident; what was
 * forged, it is told how much memory there is. The head names the key: a blob under another name is found. */
#include "kv/store_internal.h"
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#define VERSION 1u
#define ZSTD_LEVEL 1
static const char magic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'B', 'L'};

_Static_assert(sizeof(struct blob_head) == 96, "the head has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blobs are little-endian");

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

void blob_works_init(struct blob_works *works)
{
    *works = (struct blob_works){0};
    ASSERT(pthread_mutex_init(&works->lock, NULL) == 0);
}

void blob_works_release(struct blob_works *works)
{
    while (works->idle) {
        struct blob_work *work = works->idle;
        works->idle = work->next;
        ZSTD_freeCCtx(work->compressor);
        ZSTD_freeDCtx(work->decompressor);
        mem_free(work->bytes);
        mem_free(work);
    }
    pthread_mutex_destroy(&works->lock);
}

struct blob_work *blob_work_take(struct blob_works *works)
{
    pthread_mutex_lock(&works->lock);
    struct blob_work *work = works->idle;
    if (work) works->idle = work->next;
    pthread_mutex_unlock(&works->lock);
    return work ? work : mem_zero(1, sizeof *work);
}

void blob_work_give(struct blob_works *works, struct blob_work *work)
{
    pthread_mutex_lock(&works->lock);
    work->next = works->idle;
    works->idle = work;
    pthread_mutex_unlock(&works->lock);
}

bool blob_work_reserve(struct blob_work *work, uint64_t bytes)
{
    if (bytes <= work->capacity) return true;
    unsigned char *larger = mem_alloc(bytes);
    if (!larger) return false;
    mem_free(work->bytes);
    work->bytes = larger;
    work->capacity = bytes;
    return true;
}

/* ---- encoding -------------------------------------------------------------------------------------------------------- */

static void sum(const void *bytes, uint64_t count, unsigned char out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, count));
    memcpy(out, canonical.digest, sizeof canonical.digest);
}

/* Less than a sixteenth saved is not worth the time of reading it back. */
static bool compress(struct blob_work *work, const void *data, uint64_t bytes, uint64_t *stored_bytes)
{
    if (!work->compressor) work->compressor = ZSTD_createCCtx();
    if (!work->compressor) return false;
    size_t stored =
        ZSTD_compressCCtx(work->compressor, work->bytes + BLOB_HEAD_BYTES, bytes - bytes / 16, data, bytes, ZSTD_LEVEL);
    *stored_bytes = stored;
    return !ZSTD_isError(stored); /* it does not fit, above all */
}

enum status blob_encode(struct blob_work *work, const struct store_key *key, const void *data, uint64_t bytes,
                        uint64_t *out_bytes)
{
    if (!blob_work_reserve(work, blob_bytes_max(bytes))) return ST_NOMEM;
    struct blob_head head = {.version = VERSION, .form = BLOB_ZSTD, .raw_bytes = bytes};
    memcpy(head.magic, magic, sizeof magic);
    memcpy(head.key, key->bytes, sizeof head.key);
    if (!compress(work, data, bytes, &head.stored_bytes)) {
        head.form = BLOB_RAW;
        head.stored_bytes = bytes;
        if (bytes) memcpy(work->bytes + BLOB_HEAD_BYTES, data, bytes);
    }
    sum(work->bytes + BLOB_HEAD_BYTES, head.stored_bytes, head.payload_sum);
    sum(&head, offsetof(struct blob_head, head_sum), head.head_sum);
    memcpy(work->bytes, &head, sizeof head);
    *out_bytes = BLOB_HEAD_BYTES + head.stored_bytes;
    return ST_OK;
}

/* ---- decoding -------------------------------------------------------------------------------------------------------- */

bool blob_head_read(const unsigned char *bytes, struct blob_head *out)
{
    unsigned char expected[16];
    memcpy(out, bytes, sizeof *out);
    sum(out, offsetof(struct blob_head, head_sum), expected);
    return memcmp(expected, out->head_sum, sizeof expected) == 0 && memcmp(out->magic, magic, sizeof magic) == 0 &&
           out->version == VERSION && out->raw_bytes <= STORE_BLOB_BYTES_MAX &&
           (out->form == BLOB_ZSTD ? out->stored_bytes <= out->raw_bytes
                                   : out->form == BLOB_RAW && out->stored_bytes == out->raw_bytes);
}

enum status blob_decode(struct blob_work *work, uint64_t blob_bytes, const struct store_key *key, void *data,
                        uint64_t bytes)
{
    struct blob_head head;
    unsigned char expected[16];
    const unsigned char *payload = work->bytes + BLOB_HEAD_BYTES;
    if (blob_bytes < BLOB_HEAD_BYTES || !blob_head_read(work->bytes, &head)) return ST_INVALID;
    if (memcmp(head.key, key->bytes, sizeof head.key) != 0 || head.raw_bytes != bytes ||
        head.stored_bytes != blob_bytes - BLOB_HEAD_BYTES)
        return ST_INVALID;
    sum(payload, head.stored_bytes, expected);
    if (memcmp(expected, head.payload_sum, sizeof expected) != 0) return ST_INVALID;
    if (head.form == BLOB_RAW) {
        if (bytes) memcpy(data, payload, bytes);
        return ST_OK;
    }
    if (!work->decompressor) work->decompressor = ZSTD_createDCtx();
    if (!work->decompressor) return ST_NOMEM;
    return ZSTD_decompressDCtx(work->decompressor, data, bytes, payload, head.stored_bytes) == bytes ? ST_OK
                                                                                                     : ST_INVALID;
}

enum status blob_check(struct blob_work *work, uint64_t blob_bytes, const struct store_key *key)
{
    struct blob_head head;
    if (blob_bytes < BLOB_HEAD_BYTES || !blob_head_read(work->bytes, &head)) return ST_INVALID;
    void *data = mem_alloc(head.raw_bytes);
    enum status status = data ? blob_decode(work, blob_bytes, key, data, head.raw_bytes) : ST_NOMEM;
    mem_free(data);
    return status;
}
