/* store_archive.c - a folder's blobs checked, and carried to another place in one file:
 *
 *   archive head | magic, version
 *   blobs        | each with its head, as in its file; least recently used first
 *   archive end  | magic, how many blobs, checksum (XXH3-128, canonical) */
#include "kv/store_internal.h"
#include <string.h>
#include <xxhash.h>

#define VERSION 1u
static const char head_magic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'A', 'R'};
static const char end_magic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'E', 'N'};

struct archive_head {
    char magic[8];
    uint32_t version, zero;
};
struct archive_end {
    char magic[8];
    uint64_t blobs;
    unsigned char checksum[16];
};
_Static_assert(sizeof(struct archive_head) == 16 && sizeof(struct archive_end) == 32, "no padding");
_Static_assert(sizeof(struct archive_end) < BLOB_HEAD_BYTES, "an end is told from a blob by its length");

static struct archive_end end_of(uint64_t blobs)
{
    XXH128_canonical_t canonical;
    struct archive_end end = {.blobs = blobs};
    memcpy(end.magic, end_magic, sizeof end_magic);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(&end, offsetof(struct archive_end, checksum)));
    memcpy(end.checksum, canonical.digest, sizeof end.checksum);
    return end;
}

static void show_progress(const struct store_work *work, uint64_t done, uint64_t total)
{
    if (work->progress && total) work->progress(work->data, (double)done / (double)total);
}

/* ---- out --------------------------------------------------------------------------------------------------------------- */

/* The next blob in order: ST_OK. ST_NOT_FOUND: there is none to take, and it is counted why. ST_NOMEM */
static enum status take_blob(struct store *store, const struct store_key *key, struct blob_work *blob,
                             struct store_work *work, uint64_t *bytes)
{
    enum status status = folder_read_blob(store, key, blob, bytes);
    if (status == ST_NOMEM) return status;
    if (status == ST_OK) {
        work->blobs++;
        work->bytes += *bytes;
        return ST_OK;
    }
    work->damaged += status == ST_INVALID;
    work->unreadable += status == ST_IO;
    return ST_NOT_FOUND;
}

/* Every blob, least recently used first, to `writer` or, where that is NULL, nowhere. */
static enum status visit(struct store *store, struct file_writer *writer, struct store_work *work, struct error *error)
{
    *work = (struct store_work){.progress = work->progress, .data = work->data};
    struct store_listed *listed = NULL;
    uint64_t count = 0, bytes = 0;
    struct blob_work *blob = blob_work_take(folder_works(store));
    enum status status = blob ? store_list(store, &listed, &count) : ST_NOMEM;
    for (uint64_t i = count; i-- && status == ST_OK; show_progress(work, count - i, count)) {
        status = take_blob(store, &listed[i].key, blob, work, &bytes);
        if (status == ST_OK && writer) status = file_writer_put(writer, blob->bytes, bytes, error);
        if (status == ST_NOT_FOUND) status = ST_OK;
    }
    if (status == ST_NOMEM) error_set(error, status, "not enough memory to read the blobs");
    if (blob) blob_work_give(folder_works(store), blob);
    mem_free(listed);
    return status;
}

enum status store_verify(struct store *store, struct store_work *work, struct error *error)
{
    return visit(store, NULL, work, error);
}

enum status store_export(struct store *store, const char *path, struct store_work *work, struct error *error)
{
    struct file_writer writer;
    struct archive_head head = {.version = VERSION};
    memcpy(head.magic, head_magic, sizeof head_magic);
    enum status status = file_writer_open(path, &writer, error);
    if (status != ST_OK) return status;
    status = file_writer_put(&writer, &head, sizeof head, error);
    if (status == ST_OK) status = visit(store, &writer, work, error);
    if (status == ST_OK) {
        struct archive_end end = end_of(work->blobs);
        status = file_writer_put(&writer, &end, sizeof end, error);
    }
    enum status closed = file_writer_close(&writer, status == ST_OK, error);
    return status == ST_OK ? closed : status;
}

/* ---- in ---------------------------------------------------------------------------------------------------------------- */

static enum status cut_off(const struct file_reader *reader, const struct store_work *work, struct error *error)
{
    return error_set(error, ST_INVALID, "%s: is damaged or was cut off after %llu blobs, which are imported",
                     reader->path, (unsigned long long)(work->blobs + work->there));
}

/* The next blob and its checksums; *left: bytes of the file, without its end. */
static enum status get_blob(struct file_reader *reader, struct blob_work *blob, uint64_t *left, struct blob_head *head,
                            const struct store_work *work, struct error *error)
{
    unsigned char bytes[BLOB_HEAD_BYTES];
    if (*left < sizeof bytes) return cut_off(reader, work, error);
    enum status status = file_reader_get(reader, bytes, sizeof bytes, error);
    if (status != ST_OK) return status;
    *left -= sizeof bytes;
    if (!blob_head_read(bytes, head) || head->stored_bytes > *left) return cut_off(reader, work, error);
    if (!blob_work_reserve(blob, BLOB_HEAD_BYTES + head->stored_bytes))
        return error_set(error, ST_NOMEM, "%s: not enough memory to read it", reader->path);
    *left -= head->stored_bytes;
    memcpy(blob->bytes, bytes, sizeof bytes);
    return file_reader_get(reader, blob->bytes + BLOB_HEAD_BYTES, head->stored_bytes, error);
}

static enum status put_blob(struct store *store, const struct blob_head *head, struct blob_work *blob, const char *path,
                            struct store_work *work, struct error *error)
{
    struct store_key key;
    bool is_new;
    uint64_t bytes = BLOB_HEAD_BYTES + head->stored_bytes;
    memcpy(key.bytes, head->key, sizeof key.bytes);
    enum status status = blob_check(blob, bytes, &key);
    if (status == ST_INVALID) {
        work->damaged++;
        return ST_OK;
    }
    if (status == ST_OK) status = folder_write_blob(store, &key, blob, bytes, &is_new);
    if (status != ST_OK)
        return error_set(error, status, "%s: its blobs cannot be stored (%s); %llu were", path, status_name(status),
                         (unsigned long long)work->blobs);
    work->blobs += is_new;
    work->there += !is_new;
    work->bytes += is_new ? bytes : 0;
    return ST_OK;
}

static enum status get_all(struct store *store, struct file_reader *reader, struct blob_work *blob,
                           struct store_work *work, struct error *error)
{
    struct archive_head head;
    struct archive_end end;
    struct blob_head next;
    if (reader->bytes < sizeof head + sizeof end)
        return error_set(error, ST_INVALID, "%s: is no file of `kvasir cache export`", reader->path);
    enum status status = file_reader_get(reader, &head, sizeof head, error);
    if (status == ST_OK && (memcmp(head.magic, head_magic, sizeof head_magic) != 0 || head.zero))
        return error_set(error, ST_INVALID, "%s: is no file of `kvasir cache export`", reader->path);
    if (status == ST_OK && head.version != VERSION)
        return error_set(error, ST_UNSUPPORTED, "%s: is version %u of the format, this program reads version %u",
                         reader->path, head.version, VERSION);
    uint64_t total = reader->bytes - sizeof head - sizeof end, left = total;
    while (left && status == ST_OK) {
        status = get_blob(reader, blob, &left, &next, work, error);
        if (status == ST_OK) status = put_blob(store, &next, blob, reader->path, work, error);
        show_progress(work, total - left, total);
    }
    if (status == ST_OK) status = file_reader_get(reader, &end, sizeof end, error);
    if (status != ST_OK) return status;
    struct archive_end expected = end_of(work->blobs + work->there + work->damaged);
    if (memcmp(&end, &expected, sizeof end) != 0) return cut_off(reader, work, error);
    if (!work->damaged) return ST_OK;
    return error_set(error, ST_INVALID, "%s: %llu of its blobs are damaged; the other %llu are imported", reader->path,
                     (unsigned long long)work->damaged, (unsigned long long)(work->blobs + work->there));
}

enum status store_import(struct store *store, const char *path, struct store_work *work, struct error *error)
{
    struct file_reader reader;
    *work = (struct store_work){.progress = work->progress, .data = work->data};
    enum status status = file_reader_open(path, &reader, error);
    if (status != ST_OK) return status;
    struct blob_work *blob = blob_work_take(folder_works(store));
    status = blob ? get_all(store, &reader, blob, work, error)
                  : error_set(error, ST_NOMEM, "%s: not enough memory to read it", path);
    if (blob) blob_work_give(folder_works(store), blob);
    file_reader_close(&reader);
    return status;
}
