/* base.h - what every room stands on: status codes, memory, buffers, files, threads, clock, random, CPU features, log.
 *
 * Rules
 * - A function that can fail for a reason outside the program returns `enum status` and must be checked. Functions
 *   that deal with outside bytes also fill a `struct error` (may be NULL) with one line: what, where, what to do.
 * - Memory comes from mem_*, files from file_*: so that tests can fail the Nth of either (fault_arm).
 * - Programmer errors are ASSERTs; they stay on in release builds.
 * - Only base reads the machine; only the cli reads the environment.
 * This room knows nothing of models or tokens. */
#ifndef BASE_BASE_H
#define BASE_BASE_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first) __attribute__((format(printf, format_index, first)))
#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- status and errors ---------------------------------------------------------------------------------------- */

/* The same numbers as enum kvasir_status in kvasir.h. */
enum status {
    ST_OK = 0,
    ST_NOMEM,       /* memory could not be had */
    ST_IO,          /* the operating system refused a read, write, open … */
    ST_INVALID,     /* input breaks its format, or an argument its range */
    ST_UNSUPPORTED, /* well-formed, but not something Kvasir does (named in the error) */
    ST_FULL,        /* no room now: free something, then retry (flow control, not a failure) */
    ST_NOT_FOUND,
    ST_LIMIT, /* a stated limit was passed (context length, steps, bytes) */
    ST_CANCELLED,
};

struct error {
    enum status status;
    char text[500]; /* one line, no newline at the end; control characters from outside bytes are replaced by '?' */
};

/* Fills `error` (may be NULL) and returns `status`, so that one can `return error_set(error, ST_INVALID, "…")`. */
enum status error_set(struct error *error, enum status status, const char *format, ...) PRINTF_LIKE(3, 4);
/* Puts "context: " before the text already there. */
void error_prefix(struct error *error, const char *format, ...) PRINTF_LIKE(2, 3);
const char *status_name(enum status status);

#define ASSERT(condition) ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))
_Noreturn void assert_failed(const char *condition, const char *file, int line);

/* ---- checked arithmetic: false when the result does not fit ------------------------------------------------------ */

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

void *mem_alloc(size_t bytes);                     /* NULL when there is none; 0 bytes is allowed */
void *mem_zero(size_t count, size_t size);         /* zeroed; the product is checked */
void *mem_resize(void *block, size_t bytes);       /* as realloc: on failure NULL and `block` stays */
void *mem_aligned(size_t alignment, size_t bytes); /* released by mem_free */
void mem_free(void *block);
char *mem_strndup(const char *text, size_t bytes); /* zero-terminated copy */
/* Anonymous pages for large buffers; huge pages where allowed. NULL when there is none. */
void *mem_map(size_t bytes);
/* The same, of which only the pages that are written become real memory; no other promise of memory is taken. */
void *mem_map_reserve(size_t bytes);
void mem_unmap(void *block, size_t bytes);
/* Bytes that this process may still take: the machine's available memory, or a smaller cgroup limit's rest. */
uint64_t mem_available_bytes(void);

/* Arena: many small allocations with one lifetime. */
struct arena {
    struct arena_chunk *last; /* private */
};
void arena_init(struct arena *arena);
void *arena_alloc(struct arena *arena, size_t bytes); /* 16-byte aligned, NULL when there is none */
char *arena_strndup(struct arena *arena, const char *text, size_t bytes);
void arena_release(struct arena *arena);

/* Growing bytes with a stated maximum. After the first failure `failed` stays set and appends do nothing, so that
 * a caller may check once, at the end. `data` is always zero-terminated once something was appended. */
struct buffer {
    char *data;
    size_t length, capacity, limit; /* limit: most bytes; 0 = none */
    bool failed;
};
void buffer_init(struct buffer *buffer, size_t limit);
void buffer_append(struct buffer *buffer, const void *bytes, size_t count);
void buffer_text(struct buffer *buffer, const char *text);
void buffer_printf(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
char *buffer_take(struct buffer *buffer); /* the caller owns the bytes (mem_free); NULL when failed */
void buffer_release(struct buffer *buffer);

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* A whole file mapped read-only. The bytes can change or vanish under us if another process writes the file. */
struct file_map {
    const unsigned char *data;
    uint64_t bytes;
};
MUST_CHECK enum status file_map_open(const char *path, struct file_map *out, struct error *error);
void file_map_close(struct file_map *map);
/* Tells the kernel that a range is not needed again soon (its pages are clean: they cost nothing to drop). */
void file_map_drop(const struct file_map *map, const void *begin, uint64_t bytes);
/* Reads all of `path` ("-" is stdin), at most `bytes_max`, into `out` (initialised here; released by the caller). */
MUST_CHECK enum status file_read(const char *path, uint64_t bytes_max, struct buffer *out, struct error *error);
/* Writes a file atomically: temporary name beside it, fsync, rename. Mode 0600. */
MUST_CHECK enum status file_write(const char *path, const void *bytes, size_t count, struct error *error);
/* The same, piece by piece: a whole file appears at file_writer_close(keep), or none. */
struct file_writer {
    int fd;
    char *path, *temporary; /* temporary: NULL in place */
    bool cached;            /* private */
};
MUST_CHECK enum status file_writer_open(const char *path, struct file_writer *out, struct error *error);
/* The same for what may be lost, but never be half there while the machine runs: no fsync. Whoever writes holds a lock on the temporary
 * name, so that what a killed process left can be told (file_remove_abandoned). */
MUST_CHECK enum status file_writer_open_cached(const char *path, struct file_writer *out, struct error *error);
/* The same in place, for readers who follow: what was put is there at once, and stays whatever happens. */
MUST_CHECK enum status file_writer_open_stream(const char *path, struct file_writer *out, struct error *error);
MUST_CHECK enum status file_writer_put(struct file_writer *writer, const void *bytes, uint64_t count,
                                       struct error *error);
/* Always releases the writer; without `keep`, and after a failure, nothing is left of the file. */
MUST_CHECK enum status file_writer_close(struct file_writer *writer, bool keep, struct error *error);
/* A regular file, read piece by piece. */
struct file_reader {
    int fd;
    const char *path; /* the caller's */
    uint64_t bytes;   /* of the file when it was opened */
};
MUST_CHECK enum status file_reader_open(const char *path, struct file_reader *out, struct error *error);
/* Exactly the next `count` bytes; ST_INVALID: the file ends before. */
MUST_CHECK enum status file_reader_get(struct file_reader *reader, void *out, uint64_t count, struct error *error);
void file_reader_close(struct file_reader *reader);
bool file_exists(const char *path);
bool file_is_folder(const char *path);
bool file_remove(const char *path); /* true: it is gone, and was there */
/* A temporary name that nobody writes to any more; true: it is gone. */
bool file_remove_abandoned(const char *path);
/* Bytes that may still be written where `path` lies, and how many that disk has in all; as much as can be where that is not known. */
void file_disk_bytes(const char *path, uint64_t *free_bytes, uint64_t *all_bytes);
void file_touch(const char *path); /* changed now, where that is allowed */
/* Makes the folder, mode 0700, if it is not there; what it lies in must be. One of this user's that is empty gets that mode, too.
 * `private_only`: any other must be this user's, and gets it; without, it stays as it is. */
MUST_CHECK enum status file_folder_open(const char *path, bool private_only, struct error *error);
/* Shows every regular file in a folder, in no order; `name` is borrowed. A folder that is not there has none. */
struct file_listed {
    const char *name;
    uint64_t bytes, changed_ns; /* since 1970, as clock_wall_ns */
};
MUST_CHECK enum status file_folder_list(const char *path, void (*show)(void *data, const struct file_listed *file),
                                        void *data, struct error *error);

/* A file without a name, for this process alone: memory on the disk of `folder`, which is given back when it is closed or the
 * process ends. Reads may run on many threads at once. */
struct file_scratch {
    int fd; /* -1: not open */
};
MUST_CHECK enum status file_scratch_open(const char *folder, struct file_scratch *out, struct error *error);
/* False: the disk is full, or fails; what is at `offset` is then anything. */
MUST_CHECK bool file_scratch_write(const struct file_scratch *file, uint64_t offset, const void *bytes, uint64_t count);
/* All parts, one after the other, from `offset` on. False: they cannot be had, or (without `wait`) not without waiting for the disk,
 * or that cannot be told here; `parts` are then anything. */
MUST_CHECK bool file_scratch_read(const struct file_scratch *file, uint64_t offset, const struct iovec *parts,
                                  uint32_t count, bool wait);
void file_scratch_expect(const struct file_scratch *file, uint64_t offset, uint64_t count); /* will be read soon */
void file_scratch_empty(const struct file_scratch *file); /* nothing of it is needed */
void file_scratch_close(struct file_scratch *file);

/* ---- faults, for the torture tests ------------------------------------------------------------------------------- */

enum fault_kind { FAULT_NONE, FAULT_ALLOC, FAULT_READ, FAULT_WRITE };
void fault_arm(enum fault_kind kind, uint64_t nth); /* the nth call from now (1 = next) fails once; 0 disarms */
uint64_t fault_count(enum fault_kind kind);         /* calls since fault_arm */

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* A fixed crew of threads. pool_run calls task(data, worker, workers) once on every worker, the caller being worker 0,
 * and returns when all are done. Idle workers spin briefly, then sleep. One pool_run at a time. */
struct pool;
MUST_CHECK enum status pool_open(uint32_t workers, struct pool **out, struct error *error); /* 1…1024 */
void pool_close(struct pool *pool);
uint32_t pool_workers(const struct pool *pool);
void pool_run(struct pool *pool, void (*task)(void *data, uint32_t worker, uint32_t workers), void *data);
/* The share [*begin, *end) of `count` items, in units of `unit`, that falls to `worker`. */
void pool_share(uint64_t count, uint64_t unit, uint32_t worker, uint32_t workers, uint64_t *begin, uint64_t *end);

/* One thread that runs tasks in order while its owner goes on. A task lies in the owner's storage, usually inside a larger
 * struct, and is not touched by the owner from put until take returns it or cancel is done. */
struct background;
struct background_task {
    void (*run)(struct background_task *task);
    _Atomic bool cancelled;       /* a long task looks at it now and then, and returns early */
    struct background_task *next; /* private */
};
MUST_CHECK enum status background_open(struct background **out, struct error *error);
void background_close(struct background *background); /* first runs what still waits; NULL is allowed */
void background_put(struct background *background, struct background_task *task);
/* A task that has run, in order, or NULL; `wait`: NULL only when none is left. */
struct background_task *background_take(struct background *background, bool wait);
/* Waits until a task has run that can be taken, none is left, or so many seconds have passed; whether there is one. */
bool background_wait(struct background *background, double seconds);
/* Takes one task back, run or not. Waits for it if it runs just now. */
void background_cancel(struct background *background, struct background_task *task);

/* ---- machine ----------------------------------------------------------------------------------------------------- */

struct cpu_features {
    bool avx2;    /* with fma, f16c, bmi2, and the operating system saving ymm */
    bool avxvnni; /* 256-bit VEX VNNI */
    bool avx512;  /* f bw vl dq, and zmm saved */
    bool avx512vnni;
    bool avx512bf16;
    bool amxbf16; /* tiles of AMX with bf16 products, VBMI, and the operating system lets this process use tiles */
};
const struct cpu_features *cpu_features(void);
uint32_t cpu_count(void); /* processors this process may use (affinity and cgroup quota) */

/* What this process takes of the machine; 0 where it cannot be known. */
struct process_usage {
    double cpu_s; /* user and system, all threads */
    uint64_t resident_bytes, virtual_bytes;
    uint32_t descriptors;
    uint64_t descriptors_max;
};
void process_usage(struct process_usage *out);
/* Asks for room for `wanted` open descriptors; how many there may be now. */
uint64_t process_descriptors(uint64_t wanted);

double clock_seconds(void);        /* monotonic */
uint64_t clock_wall_ns(void);      /* since 1970; can be set back */
double clock_thread_seconds(void); /* that this thread has run: waiting, and the time of others, do not count */

/* xoshiro256** (Blackman, Vigna 2018) seeded by splitmix64. */
struct random {
    uint64_t state[4];
};
void random_seed(struct random *random, uint64_t seed);
uint64_t random_next(struct random *random);
double random_unit(struct random *random);                    /* [0, 1) with 53 bits */
uint64_t random_below(struct random *random, uint64_t limit); /* [0, limit), unbiased; limit > 0 */

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Length of the well-formed UTF-8 character at `text` (1…4, RFC 3629: no surrogates, no overlong forms) and its code
 * point; 0 when the bytes there are not one. *incomplete (may be NULL) is set when more bytes could still make one. */
uint32_t utf8_decode(const char *text, size_t bytes, uint32_t *code_point, bool *incomplete);
uint32_t utf8_encode(uint32_t code_point, char out[4]); /* bytes written, 0 for surrogates and > 0x10FFFF */

/* ---- JSON out ---------------------------------------------------------------------------------------------------- */

/* A JSON string; bytes that are no UTF-8 become U+FFFD, one for each maximal part of a character. */
void json_out_text(struct buffer *out, const char *text, size_t bytes);
void json_out_ids(struct buffer *out, const uint32_t *ids, size_t count);
void json_out_real(struct buffer *out, double value); /* null where it is not finite */

/* ---- log: one line each on stderr, as text or as an object of JSON --------------------------------------------------
 *
 * Any thread. A line is written at once or, where stderr is a pipe that nobody empties, not at all: the log never holds up the
 * program. The next line that can be written says how many were lost. */

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
void log_set_level(enum log_level level); /* default LOG_WARNING */
void log_set_json(bool json);             /* default false */
void log_line(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

/* A line with members: log_begin, any of these, log_end. As text "kvasir: info: MESSAGE name=value …"; as JSON also time and
 * level. Names are plain words. */
struct log_members {
    struct buffer out; /* private */
    bool shown;
};
void log_begin(struct log_members *members, enum log_level level, const char *message);
void log_text(struct log_members *members, const char *name, const char *value);
void log_number(struct log_members *members, const char *name, double value);
void log_end(struct log_members *members);

#endif
