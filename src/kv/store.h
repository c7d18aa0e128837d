/* store.h - blobs by key, outside of RAM: files in a private folder, or a server that speaks Redis' protocol. Knows no blocks,
 * tokens or sequences. What comes back may have been written by anybody: a blob whose head, length or checksum is wrong is
 * removed, counted, and reported as absent. Checksums (XXH3, 128 bits) find accidents, not forgeries: who may write to a folder
 * or a server may put well-formed blobs there, so both must be as private as the prompts are.
 *
 * Functions may be called from any thread, by several at a time, and block while a disk or a server works: a server at most
 * STORE_PATIENCE_S and a second for each 8 MiB that are moved (and what the system's resolver takes for its name). Nothing is
 * retried: after a failure a server is left alone for a while (1 s, doubling to 30 s), and so is a disk's writing; all that is
 * asked meanwhile fails at once. */
#ifndef KV_STORE_H
#define KV_STORE_H
#include "base/base.h"

#define STORE_KEY_BYTES 32
#define STORE_BLOB_BYTES_MAX ((uint64_t)1 << 30) /* of one blob's data */
#define STORE_PATIENCE_S 3.0

struct store;
struct store_key {
    unsigned char bytes[STORE_KEY_BYTES];
};
#define STORE_KEY_TEXT_BYTES (2 * STORE_KEY_BYTES + 1)
/* In hexadecimal; `out`, [STORE_KEY_TEXT_BYTES]. */
const char *store_key_text(const struct store_key *key, char *out);

/* A folder, made if it is not there; the blobs lie in a folder of its own in it, mode 0700, by names made of their keys; other
 * files are left alone. They take at most bytes_max (files rounded up to 4 KiB): the least recently used go first, by the times of
 * the files after a restart. So they do where the disk itself has less than 128 MiB (or a 32nd of it) left. What is there is listed now: 10,000 blobs take some 50 ms.
 * Several processes may share a folder. Each looks what the others did before it has written bytes_max / 16 more, so n of them
 * may pass the limit by n / 16 of it for a while. ST_IO: not a folder of one's own that can be written. */
MUST_CHECK enum status store_open_folder(const char *path, uint64_t bytes_max, struct store **out, struct error *error);
/* "redis://[user:password@]host[:port][/database]", special characters as %XX; ST_INVALID: no such URL. Connects when first used,
 * and again after a failure: a server that is not there is misses. Keys are "kvasir:1:" and 64 digits; how much it keeps is the
 * server's own affair (maxmemory, maxmemory-policy allkeys-lru). */
MUST_CHECK enum status store_open_redis(const char *url, struct store **out, struct error *error);
void store_close(struct store *store); /* nobody may use it any more; NULL is allowed */

/* A folder answers from RAM in a microsecond, or, for what is not known to be there, with one look (another process may have
 * stored it); a server is asked. What is there may be gone at the next moment. */
bool store_has(struct store *store, const struct store_key *key);
void store_have(struct store *store, const struct store_key *keys, uint32_t count, bool *out); /* at once, pipelined */
/* ST_OK, also when it is there already: that is a use of it. Compressed with zstd where that helps. ST_FULL: more than the limits allow. ST_IO: the
 * disk is full, the server is gone … ST_NOMEM. Then nothing was stored. */
MUST_CHECK enum status store_put(struct store *store, const struct store_key *key, const void *data, uint64_t bytes);
/* ST_NOT_FOUND: absent, damaged, not of exactly `bytes`, or cannot be read; `data` is undefined then. */
MUST_CHECK enum status store_get(struct store *store, const struct store_key *key, void *data, uint64_t bytes);
void store_remove(struct store *store, const struct store_key *key);

struct store_stats {
    uint64_t bytes, bytes_max, entries; /* of a folder, as this process knows it; 0 of a server */
    uint64_t puts;                      /* blobs written */
    uint64_t gets, hits, misses;        /* gets = hits + misses + damaged + what of `failed` were gets */
    uint64_t damaged;                   /* found not to be what was put, and removed */
    uint64_t failed;                    /* calls that a disk, a server or a lack of memory made fail */
    uint64_t evicted;                   /* blobs, by this process */
    uint64_t bytes_written, bytes_read; /* compressed, as they went */
};
void store_stats(struct store *store, struct store_stats *out);

/* ---- a folder, for whoever looks after it: also while others use it. Not for servers. ----------------------------------- */

bool store_folder_exists(const char *path); /* with blobs in it, or a place for them */

struct store_listed {
    struct store_key key;
    uint64_t bytes;   /* on disk */
    uint64_t used_ns; /* last, to a minute; since 1970 */
};
/* Its blobs, most recently used first: mem_free(*out). ST_NOMEM */
MUST_CHECK enum status store_list(struct store *store, struct store_listed **out, uint64_t *count);

struct store_work {
    void (*progress)(void *data, double fraction); /* may be NULL */
    void *data;
    /* Set anew: */
    uint64_t blobs, bytes; /* that are in order, or were written */
    uint64_t there;        /* import: that needed not be written */
    uint64_t damaged;      /* verify, export: and removed */
    uint64_t unreadable;
};
/* Reads and checks every blob. */
MUST_CHECK enum status store_verify(struct store *store, struct store_work *work, struct error *error);
/* All blobs in one file, and back. What a file holds comes from whoever made it: checksums do not say that it is true. A file that
 * was cut off or damaged gives what can be had of it, and ST_INVALID. ST_IO, ST_NOMEM: `work` tells how far it came. */
MUST_CHECK enum status store_export(struct store *store, const char *path, struct store_work *work,
                                    struct error *error);
MUST_CHECK enum status store_import(struct store *store, const char *path, struct store_work *work,
                                    struct error *error);

#endif
