/* store_internal.h - what the files of the store share, and what a test's own store must have: its functions, the form of a blob,
 * the index of a folder. */
#ifndef KV_STORE_INTERNAL_H
#define KV_STORE_INTERNAL_H
#include "kv/store.h"
#include <pthread.h>

/* ---- a kind of store --------------------------------------------------------------------------------------------- */

struct store_kind {
    void (*close)(struct store *store);
    void (*have)(struct store *store, const struct store_key *keys, uint32_t count, bool *out);
    enum status (*put)(struct store *store, const struct store_key *key, const void *data, uint64_t bytes);
    enum status (*get)(struct store *store, const struct store_key *key, void *data, uint64_t bytes);
    void (*remove)(struct store *store, const struct store_key *key);
    void (*stats)(struct store *store, struct store_stats *out);
};
struct store { /* the first member of each kind's own struct */
    const struct store_kind *kind;
};

/* ---- a blob (store_blob.c) --------------------------------------------------------------------------------------- */

/* What lies in a file or under a server's key: a head, then `stored_bytes`. Numbers are little-endian. */
struct blob_head {
    char magic[8];
    uint32_t version, form; /* enum blob_form */
    unsigned char key[STORE_KEY_BYTES];
    uint64_t raw_bytes, stored_bytes;
    unsigned char payload_sum[16], head_sum[16]; /* XXH3-128, canonical; the latter of all before it */
};
enum blob_form { BLOB_RAW, BLOB_ZSTD };
#define BLOB_HEAD_BYTES sizeof(struct blob_head)

/* Memory for one blob on its way in or out, kept for the next one. */
struct blob_work {
    unsigned char *bytes; /* [capacity] */
    uint64_t capacity;
    void *compressor, *decompressor; /* zstd's; made when first needed */
    struct blob_work *next;
};
struct blob_works {
    pthread_mutex_t lock;
    struct blob_work *idle;
};
void blob_works_init(struct blob_works *works);
void blob_works_release(struct blob_works *works);
struct blob_work *blob_work_take(struct blob_works *works); /* NULL: no memory */
void blob_work_give(struct blob_works *works, struct blob_work *work);
bool blob_work_reserve(struct blob_work *work, uint64_t bytes);

/* Makes the blob of `data` in work->bytes, *out_bytes long. ST_NOMEM */
MUST_CHECK enum status blob_encode(struct blob_work *work, const struct store_key *key, const void *data,
                                   uint64_t bytes, uint64_t *out_bytes);
/* The data of the blob in work->bytes[0…blob_bytes), which must be `key`'s and of `bytes`. ST_INVALID: damaged. ST_NOMEM */
MUST_CHECK enum status blob_decode(struct blob_work *work, uint64_t blob_bytes, const struct store_key *key, void *data,
                                   uint64_t bytes);
/* A head that can be believed: it has its checksum, and its numbers agree with each other. [BLOB_HEAD_BYTES] */
bool blob_head_read(const unsigned char *bytes, struct blob_head *out);
/* As blob_decode, whatever the data's length, which is not wanted. */
MUST_CHECK enum status blob_check(struct blob_work *work, uint64_t blob_bytes, const struct store_key *key);
/* No blob of so much data is longer. */
static inline uint64_t blob_bytes_max(uint64_t bytes)
{
    return BLOB_HEAD_BYTES + bytes;
}

/* ---- a folder's index (store_index.c): keys in the order of use. One thread at a time. ------------------------------ */

#define ENTRY_NONE UINT32_MAX
struct entry {
    struct store_key key;
    uint64_t bytes;        /* on disk */
    uint64_t used_ns;      /* wall clock */
    uint64_t touched_ns;   /* the file's time, as far as it is known */
    uint32_t newer, older; /* by use; older: also links free entries */
    uint32_t next;         /* of the same bucket */
    uint32_t seen;         /* the number of the last listing that found it */
};
struct blob_index {
    struct entry *entries; /* [capacity] */
    uint32_t *buckets;     /* [bucket_count], a power of two */
    uint32_t capacity, bucket_count, used, count, free, newest, oldest;
    uint64_t bytes;
};
void blob_index_init(struct blob_index *index);
void blob_index_release(struct blob_index *index);
uint32_t blob_index_find(const struct blob_index *index, const struct store_key *key);
/* A new newest entry; ENTRY_NONE: no memory. */
uint32_t blob_index_add(struct blob_index *index, const struct store_key *key, uint64_t bytes);
void blob_index_use(struct blob_index *index, uint32_t entry); /* now the newest */
void blob_index_drop(struct blob_index *index, uint32_t entry);

/* ---- a folder's files, as they are (store_folder.c) -------------------------------------------------------------------- */

struct blob_works *folder_works(struct store *store);
/* The blob of `key`, checked, into `work`. ST_NOT_FOUND. ST_INVALID: it was damaged, and is removed. ST_IO, ST_NOMEM */
MUST_CHECK enum status folder_read_blob(struct store *store, const struct store_key *key, struct blob_work *work,
                                        uint64_t *out_bytes);
/* As store_put, of the blob in `work`, which was checked. *out_new: it was not there. */
MUST_CHECK enum status folder_write_blob(struct store *store, const struct store_key *key, const struct blob_work *work,
                                         uint64_t bytes, bool *out_new);

/* ---- leaving alone what fails --------------------------------------------------------------------------------------- */

struct backoff {
    double until_s, pause_s; /* clock_seconds */
};
bool backoff_waits(const struct backoff *backoff);
void backoff_failed(struct backoff *backoff);
void backoff_done(struct backoff *backoff);

#endif
