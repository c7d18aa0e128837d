/* store_folder.c - blobs as files: FOLDER/kvasir-blobs/ab/abcd….kvb, named after their keys in hexadecimal.
 *
 * A file is written under a temporary name, which its writer locks, and renamed when it is whole; then nobody changes it. There
 * is no fsync: what a loss of power tears is found by its checksums. So a process may be killed at any moment, and what it
 * leaves is either a blob or a temporary file that the next listing removes, since nobody locks it.
 *
 * What is there is known from a listing and from what this process wrote and removed since. Others may have added files: found
 * by looking for one when asked for it; or removed some: a miss. Before this process has written a sixteenth of the limit it
 * lists again. Of all processes the last to list knows all but what the others wrote since: less than a sixteenth each, for else
 * one of them would have listed later.
 *
 * The lock is held over the index and single calls on names, never over what reads or writes a blob or lists a folder. */
#include "kv/store_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUBFOLDER "kvasir-blobs"
#define ENDING ".kvb"
#define NAME_BYTES (2 * STORE_KEY_BYTES + sizeof ENDING - 1)
#define FANOUT 256u
#define FILE_UNIT 4096u
#define LISTING_SHARE 16u
#define RESERVE_SHARE 32u /* of a disk, that stays free, but no more than: */
#define RESERVE_BYTES_MAX ((uint64_t)128 << 20)
#define TOUCH_NS 60000000000u /* a file's time need not be nearer to its last use */
#define MERGE_AT_ONCE 1024u   /* entries, between two moments in which others get the lock */

struct folder {
    struct store store;
    char *path; /* of the subfolder */
    uint64_t bytes_max;
    struct blob_works works;
    pthread_mutex_t listing; /* one at a time; taken before `lock` */
    pthread_mutex_t lock;    /* of all that follows */
    struct blob_index index;
    uint64_t writing_bytes;  /* room taken for what is being written */
    uint64_t unlisted_bytes; /* written since the last listing */
    uint32_t listings;
    bool made[FANOUT]; /* folders known to be there */
    struct backoff writing;
    struct store_stats stats;
};

static struct folder *folder_of(struct store *store)
{
    return (struct folder *)store;
}

static uint64_t bytes_on_disk(uint64_t file_bytes)
{
    return round_up(file_bytes, FILE_UNIT);
}

/* ---- names ----------------------------------------------------------------------------------------------------------- */

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The key that a name begins with; false: it is no name of ours. */
static bool key_of(const char *name, struct store_key *out)
{
    for (uint32_t i = 0; i < STORE_KEY_BYTES; i++) {
        int high = digit(name[2 * i]), low = high < 0 ? -1 : digit(name[2 * i + 1]);
        if (low < 0) return false;
        out->bytes[i] = (unsigned char)(high << 4 | low);
    }
    return strncmp(name + 2 * STORE_KEY_BYTES, ENDING, sizeof ENDING - 1) == 0;
}

/* NULL: no memory. */
static char *path_of(const struct folder *folder, const struct store_key *key)
{
    char name[STORE_KEY_TEXT_BYTES];
    struct buffer path;
    store_key_text(key, name);
    buffer_init(&path, 0);
    buffer_printf(&path, "%s/%.2s/%s" ENDING, folder->path, name, name);
    return buffer_take(&path);
}

/* ---- eviction, with the lock held -------------------------------------------------------------------------------------- */

static void evict_oldest(struct folder *folder)
{
    char *path = path_of(folder, &folder->index.entries[folder->index.oldest].key);
    if (path && file_remove(path)) folder->stats.evicted++;
    mem_free(path);
    blob_index_drop(&folder->index, folder->index.oldest);
}

static void shrink_to(struct folder *folder, uint64_t bytes)
{
    while (folder->index.count && folder->index.bytes + folder->writing_bytes > bytes) evict_oldest(folder);
}

/* ---- listing --------------------------------------------------------------------------------------------------------- */

struct found {
    struct store_key key;
    uint64_t bytes, changed_ns;
};
struct listing {
    char path[4200]; /* of the folder that is listed just now */
    uint32_t fan;    /* its number */
    struct found *found;
    uint64_t count, capacity;
    bool failed;
};

static void show_file(void *data, const struct file_listed *file)
{
    struct listing *listing = data;
    struct found found = {.bytes = bytes_on_disk(file->bytes), .changed_ns = file->changed_ns};
    if (!key_of(file->name, &found.key) || found.key.bytes[0] != listing->fan) return;
    if (file->name[NAME_BYTES]) { /* a temporary name, or a stranger's */
        size_t length = strlen(file->name);
        char path[sizeof listing->path + 256];
        snprintf(path, sizeof path, "%s/%s", listing->path, file->name);
        if (strcmp(file->name + length - 4, ".tmp") == 0) file_remove_abandoned(path);
        return;
    }
    if (listing->count == listing->capacity) {
        uint64_t capacity = listing->capacity ? 2 * listing->capacity : 1024;
        struct found *larger = mem_resize(listing->found, capacity * sizeof *larger);
        if (!larger) {
            listing->failed = true;
            return;
        }
        listing->found = larger;
        listing->capacity = capacity;
    }
    listing->found[listing->count++] = found;
}

static int by_time(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return (x->changed_ns > y->changed_ns) - (x->changed_ns < y->changed_ns);
}

static bool is_there(const struct folder *folder, const struct store_key *key)
{
    char *path = path_of(folder, key);
    bool there = path && file_exists(path);
    mem_free(path);
    return there;
}

/* What is new, or was used by others since, becomes the newest. What was evicted since it was listed is not new. */
static void merge(struct folder *folder, const struct found *found)
{
    uint32_t at = blob_index_find(&folder->index, &found->key);
    if (at == ENTRY_NONE) {
        if (folder->listings > 1 && !is_there(folder, &found->key)) return;
        at = blob_index_add(&folder->index, &found->key, found->bytes);
        if (at == ENTRY_NONE) return;
        folder->index.entries[at].used_ns = found->changed_ns;
    }
    struct entry *entry = &folder->index.entries[at];
    entry->seen = folder->listings;
    entry->touched_ns = found->changed_ns;
    if (found->changed_ns <= entry->used_ns) return;
    entry->used_ns = found->changed_ns;
    blob_index_use(&folder->index, at);
}

static void drop_unseen(struct folder *folder)
{
    for (uint32_t at = folder->index.newest, older; at != ENTRY_NONE; at = older) {
        older = folder->index.entries[at].older;
        if (folder->index.entries[at].seen != folder->listings) blob_index_drop(&folder->index, at);
    }
}

static void breathe(struct folder *folder)
{
    pthread_mutex_unlock(&folder->lock);
    pthread_mutex_lock(&folder->lock);
}

/* Brings the index up to date. On failure it stays as it was. Called without the lock. */
static enum status list(struct folder *folder, struct error *error)
{
    struct listing listing = {0};
    enum status status = ST_OK;
    pthread_mutex_lock(&folder->listing);
    pthread_mutex_lock(&folder->lock);
    folder->listings++; /* what is added from now on counts as seen */
    uint64_t unlisted = folder->unlisted_bytes;
    pthread_mutex_unlock(&folder->lock);
    for (; listing.fan < FANOUT && status == ST_OK; listing.fan++) {
        snprintf(listing.path, sizeof listing.path, "%s/%02x", folder->path, listing.fan);
        status = file_folder_list(listing.path, show_file, &listing, error);
    }
    if (status == ST_OK && listing.failed)
        status = error_set(error, ST_NOMEM, "%s: not enough memory to list it", folder->path);
    if (status == ST_OK) {
        if (listing.count) qsort(listing.found, listing.count, sizeof *listing.found, by_time);
        pthread_mutex_lock(&folder->lock);
        for (uint64_t i = 0; i < listing.count; i++) {
            merge(folder, &listing.found[i]);
            if ((i + 1) % MERGE_AT_ONCE == 0) breathe(folder);
        }
        drop_unseen(folder);
        shrink_to(folder, folder->bytes_max);
        folder->unlisted_bytes -= unlisted;
        pthread_mutex_unlock(&folder->lock);
    }
    mem_free(listing.found);
    pthread_mutex_unlock(&folder->listing);
    return status;
}

/* ---- the limit, with the lock held ----------------------------------------------------------------------------------- */

/* Where the disk is nearly full a new blob takes the place of two old ones, until it is not. False: there are none. */
static bool spare_disk(struct folder *folder, uint64_t bytes)
{
    uint64_t free_bytes, all_bytes, before = folder->index.bytes;
    file_disk_bytes(folder->path, &free_bytes, &all_bytes);
    uint64_t reserve = all_bytes / RESERVE_SHARE < RESERVE_BYTES_MAX ? all_bytes / RESERVE_SHARE : RESERVE_BYTES_MAX;
    if (free_bytes >= reserve + bytes) return true;
    while (folder->index.count && before - folder->index.bytes < 2 * bytes) evict_oldest(folder);
    return before > folder->index.bytes;
}

/* Takes room for a blob. ST_FULL: not even an empty folder has so much. ST_IO: the disk has not. */
static enum status make_room(struct folder *folder, uint64_t bytes)
{
    if (bytes > folder->bytes_max - folder->writing_bytes) return ST_FULL;
    if (!spare_disk(folder, bytes)) return ST_IO;
    shrink_to(folder, folder->bytes_max - bytes);
    folder->writing_bytes += bytes;
    folder->unlisted_bytes += bytes;
    return ST_OK;
}

static void note_use(struct folder *folder, uint32_t at, const char *path)
{
    struct entry *entry = &folder->index.entries[at];
    entry->used_ns = clock_wall_ns();
    blob_index_use(&folder->index, at);
    if (entry->used_ns - entry->touched_ns < TOUCH_NS) return;
    entry->touched_ns = entry->used_ns;
    file_touch(path);
}

/* A blob that was written, or found although another process wrote it: then there may be more than the limit allows. */
static void note_there(struct folder *folder, const struct store_key *key, uint64_t bytes)
{
    if (bytes > folder->bytes_max || blob_index_find(&folder->index, key) != ENTRY_NONE) return;
    uint32_t at = blob_index_add(&folder->index, key, bytes);
    if (at == ENTRY_NONE) return; /* no memory: the next listing finds it */
    struct entry *entry = &folder->index.entries[at];
    entry->used_ns = entry->touched_ns = clock_wall_ns();
    entry->seen = folder->listings;
    shrink_to(folder, folder->bytes_max);
}

static void note_gone(struct folder *folder, const struct store_key *key)
{
    uint32_t at = blob_index_find(&folder->index, key);
    if (at != ENTRY_NONE) blob_index_drop(&folder->index, at);
}

/* ---- the kind's functions -------------------------------------------------------------------------------------------- */

static void folder_have(struct store *store, const struct store_key *keys, uint32_t count, bool *out)
{
    struct folder *folder = folder_of(store);
    for (uint32_t i = 0; i < count; i++) {
        pthread_mutex_lock(&folder->lock);
        out[i] = blob_index_find(&folder->index, &keys[i]) != ENTRY_NONE;
        pthread_mutex_unlock(&folder->lock);
        if (!out[i]) out[i] = is_there(folder, &keys[i]); /* its size is not known before it is read or listed */
    }
}

static enum status write_file(struct folder *folder, const struct store_key *key, const char *path,
                              const struct blob_work *work, uint64_t bytes)
{
    char fan[4200];
    struct file_writer writer;
    snprintf(fan, sizeof fan, "%s/%02x", folder->path, key->bytes[0]);
    pthread_mutex_lock(&folder->lock);
    bool made = folder->made[key->bytes[0]];
    pthread_mutex_unlock(&folder->lock);
    enum status status = made ? ST_OK : file_folder_open(fan, true, NULL);
    if (status == ST_OK) status = file_writer_open_cached(path, &writer, NULL);
    if (status == ST_OK) {
        status = file_writer_put(&writer, work->bytes, bytes, NULL);
        enum status closed = file_writer_close(&writer, status == ST_OK, NULL);
        if (status == ST_OK) status = closed;
    }
    /* Known only now, as other threads rely on it; and not after a failure: somebody may have removed it. */
    pthread_mutex_lock(&folder->lock);
    folder->made[key->bytes[0]] = status == ST_OK;
    pthread_mutex_unlock(&folder->lock);
    return status;
}

/* Lists before, where others may have filled the folder. */
static enum status take_room(struct folder *folder, uint64_t bytes)
{
    if (bytes > folder->bytes_max) return ST_FULL;
    pthread_mutex_lock(&folder->lock);
    bool stale = folder->unlisted_bytes + bytes > folder->bytes_max / LISTING_SHARE;
    pthread_mutex_unlock(&folder->lock);
    if (stale && list(folder, NULL) != ST_OK) return ST_IO;
    pthread_mutex_lock(&folder->lock);
    enum status status = make_room(folder, bytes);
    pthread_mutex_unlock(&folder->lock);
    return status;
}

static enum status put_file(struct folder *folder, const struct store_key *key, const char *path,
                            const struct blob_work *work, uint64_t file_bytes)
{
    uint64_t bytes = bytes_on_disk(file_bytes);
    enum status status = take_room(folder, bytes);
    if (status != ST_OK) return status;
    status = write_file(folder, key, path, work, file_bytes);
    pthread_mutex_lock(&folder->lock);
    folder->writing_bytes -= bytes;
    if (status == ST_OK) {
        note_there(folder, key, bytes);
        folder->stats.puts++;
        folder->stats.bytes_written += file_bytes;
        backoff_done(&folder->writing);
    }
    pthread_mutex_unlock(&folder->lock);
    return status;
}

/* Whether there is nothing to write: it is there, and was used; or the disk is left alone. */
static bool put_is_settled(struct folder *folder, const struct store_key *key, enum status *status)
{
    pthread_mutex_lock(&folder->lock);
    uint32_t at = blob_index_find(&folder->index, key);
    bool there = at != ENTRY_NONE, waits = backoff_waits(&folder->writing);
    char *path = there ? path_of(folder, key) : NULL;
    if (path) note_use(folder, at, path);
    mem_free(path);
    if (!there && waits) folder->stats.failed++;
    pthread_mutex_unlock(&folder->lock);
    *status = there ? ST_OK : ST_IO;
    return there || waits;
}

static enum status put_done(struct folder *folder, enum status status)
{
    if (status == ST_OK) return ST_OK;
    pthread_mutex_lock(&folder->lock);
    bool was_well = folder->writing.pause_s == 0;
    folder->stats.failed++;
    if (status == ST_IO) backoff_failed(&folder->writing);
    pthread_mutex_unlock(&folder->lock);
    if (status == ST_IO && was_well) log_line(LOG_WARNING, "%s: cannot be written; trying again later", folder->path);
    return status;
}

static enum status folder_put(struct store *store, const struct store_key *key, const void *data, uint64_t bytes)
{
    struct folder *folder = folder_of(store);
    uint64_t blob_bytes;
    enum status status;
    if (put_is_settled(folder, key, &status)) return status;
    char *path = path_of(folder, key);
    struct blob_work *work = blob_work_take(&folder->works);
    status = path && work ? blob_encode(work, key, data, bytes, &blob_bytes) : ST_NOMEM;
    if (status == ST_OK) status = put_file(folder, key, path, work, blob_bytes);
    if (work) blob_work_give(&folder->works, work);
    mem_free(path);
    return put_done(folder, status);
}

/* The file into `work`. ST_INVALID: it cannot be a blob of so much data. */
static enum status read_file(const char *path, struct blob_work *work, uint64_t data_bytes, uint64_t *out_bytes)
{
    struct file_reader reader;
    enum status status = file_reader_open(path, &reader, NULL);
    if (status != ST_OK) return status;
    *out_bytes = reader.bytes;
    if (reader.bytes > blob_bytes_max(data_bytes))
        status = ST_INVALID;
    else if (!blob_work_reserve(work, reader.bytes))
        status = ST_NOMEM;
    else
        status = file_reader_get(&reader, work->bytes, reader.bytes, NULL);
    file_reader_close(&reader);
    return status;
}

static enum status get_file(struct folder *folder, const char *path, const struct store_key *key, void *data,
                            uint64_t bytes, uint64_t *file_bytes)
{
    if (!file_exists(path)) return ST_NOT_FOUND;
    struct blob_work *work = blob_work_take(&folder->works);
    if (!work) return ST_NOMEM;
    enum status status = read_file(path, work, bytes, file_bytes);
    if (status == ST_OK) status = blob_decode(work, *file_bytes, key, data, bytes);
    blob_work_give(&folder->works, work);
    if (status == ST_IO && !file_exists(path)) return ST_NOT_FOUND; /* evicted by another process just now */
    return status;
}

static void count_get(struct folder *folder, enum status status, const struct store_key *key, const char *path,
                      uint64_t file_bytes)
{
    struct store_stats *stats = &folder->stats;
    stats->gets++;
    if (status == ST_OK) {
        stats->hits++;
        stats->bytes_read += file_bytes;
        note_there(folder, key, bytes_on_disk(file_bytes));
        uint32_t at = blob_index_find(&folder->index, key);
        if (at != ENTRY_NONE) note_use(folder, at, path);
        return;
    }
    ++*(status == ST_NOT_FOUND ? &stats->misses : status == ST_INVALID ? &stats->damaged : &stats->failed);
    if (status == ST_INVALID) file_remove(path);
    if (status == ST_NOT_FOUND || status == ST_INVALID) note_gone(folder, key);
}

static enum status folder_get(struct store *store, const struct store_key *key, void *data, uint64_t bytes)
{
    struct folder *folder = folder_of(store);
    uint64_t file_bytes = 0;
    char *path = path_of(folder, key);
    enum status status = path ? get_file(folder, path, key, data, bytes, &file_bytes) : ST_NOMEM;
    pthread_mutex_lock(&folder->lock);
    count_get(folder, status, key, path, file_bytes);
    pthread_mutex_unlock(&folder->lock);
    mem_free(path);
    return status == ST_OK ? ST_OK : ST_NOT_FOUND;
}

static void folder_remove(struct store *store, const struct store_key *key)
{
    struct folder *folder = folder_of(store);
    char *path = path_of(folder, key);
    pthread_mutex_lock(&folder->lock);
    if (path) file_remove(path);
    note_gone(folder, key);
    pthread_mutex_unlock(&folder->lock);
    mem_free(path);
}

/* ---- for whoever looks after it -------------------------------------------------------------------------------------- */

struct blob_works *folder_works(struct store *store)
{
    return &folder_of(store)->works;
}

enum status folder_read_blob(struct store *store, const struct store_key *key, struct blob_work *work,
                             uint64_t *out_bytes)
{
    struct folder *folder = folder_of(store);
    char *path = path_of(folder, key);
    enum status status = !path ? ST_NOMEM : file_exists(path) ? ST_OK : ST_NOT_FOUND;
    if (status == ST_OK) status = read_file(path, work, STORE_BLOB_BYTES_MAX, out_bytes);
    if (status == ST_OK) status = blob_check(work, *out_bytes, key);
    if (status == ST_INVALID) folder_remove(store, key);
    mem_free(path);
    return status;
}

enum status folder_write_blob(struct store *store, const struct store_key *key, const struct blob_work *work,
                              uint64_t bytes, bool *out_new)
{
    struct folder *folder = folder_of(store);
    enum status status;
    *out_new = false;
    if (put_is_settled(folder, key, &status)) return status;
    char *path = path_of(folder, key);
    status = path ? put_file(folder, key, path, work, bytes) : ST_NOMEM;
    mem_free(path);
    *out_new = status == ST_OK;
    return put_done(folder, status);
}

enum status store_list(struct store *store, struct store_listed **out, uint64_t *count)
{
    struct folder *folder = folder_of(store);
    ASSERT(store->kind->have == folder_have);
    *count = 0;
    pthread_mutex_lock(&folder->lock);
    *out = mem_alloc((folder->index.count + (uint64_t)1) * sizeof **out);
    for (uint32_t at = folder->index.newest; *out && at != ENTRY_NONE; at = folder->index.entries[at].older) {
        const struct entry *entry = &folder->index.entries[at];
        (*out)[(*count)++] = (struct store_listed){.key = entry->key, .bytes = entry->bytes, .used_ns = entry->used_ns};
    }
    pthread_mutex_unlock(&folder->lock);
    return *out ? ST_OK : ST_NOMEM;
}

bool store_folder_exists(const char *path)
{
    struct buffer name;
    buffer_init(&name, 0);
    buffer_printf(&name, "%s/" SUBFOLDER, path);
    bool exists = !name.failed && file_is_folder(name.data);
    buffer_release(&name);
    return exists;
}

/* ---- the kind ---------------------------------------------------------------------------------------------------------- */

static void folder_stats(struct store *store, struct store_stats *out)
{
    struct folder *folder = folder_of(store);
    pthread_mutex_lock(&folder->lock);
    *out = folder->stats;
    out->bytes = folder->index.bytes;
    out->entries = folder->index.count;
    pthread_mutex_unlock(&folder->lock);
    out->bytes_max = folder->bytes_max;
}

static void folder_close(struct store *store)
{
    struct folder *folder = folder_of(store);
    blob_index_release(&folder->index);
    blob_works_release(&folder->works);
    pthread_mutex_destroy(&folder->lock);
    pthread_mutex_destroy(&folder->listing);
    mem_free(folder->path);
    mem_free(folder);
}

static const struct store_kind folder_kind = {.close = folder_close,
                                              .have = folder_have,
                                              .put = folder_put,
                                              .get = folder_get,
                                              .remove = folder_remove,
                                              .stats = folder_stats};

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static enum status open_folders(const char *path, struct folder *folder, struct error *error)
{
    struct buffer name;
    enum status status = file_folder_open(path, false, error);
    if (status != ST_OK) return status;
    buffer_init(&name, 4096);
    buffer_printf(&name, "%s/" SUBFOLDER, path);
    folder->path = buffer_take(&name);
    if (!folder->path) return error_set(error, ST_NOMEM, "%.100s: no memory for its name, or it is too long", path);
    return file_folder_open(folder->path, true, error);
}

enum status store_open_folder(const char *path, uint64_t bytes_max, struct store **out, struct error *error)
{
    *out = NULL;
    struct folder *folder = mem_zero(1, sizeof *folder);
    if (!folder) return error_set(error, ST_NOMEM, "%s: not enough memory to open it", path);
    folder->store.kind = &folder_kind;
    folder->bytes_max = bytes_max;
    blob_index_init(&folder->index);
    blob_works_init(&folder->works);
    ASSERT(pthread_mutex_init(&folder->lock, NULL) == 0 && pthread_mutex_init(&folder->listing, NULL) == 0);
    enum status status = open_folders(path, folder, error);
    if (status == ST_OK) status = list(folder, error);
    if (status != ST_OK) {
        folder_close(&folder->store);
        return status;
    }
    *out = &folder->store;
    return ST_OK;
}
