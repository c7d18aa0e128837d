/* memory.c - the allocation shim, arenas, growing buffers, and how much memory is left. Every allocation of the program
 * passes here, so that a test can fail the Nth; nothing here aborts on "no memory". */
#include "base/base_internal.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *mem_alloc(size_t bytes)
{
    if (fault_now(FAULT_ALLOC)) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *mem_zero(size_t count, size_t size)
{
    if (fault_now(FAULT_ALLOC)) return NULL;
    return calloc(count ? count : 1, size ? size : 1);
}

void *mem_resize(void *block, size_t bytes)
{
    if (fault_now(FAULT_ALLOC)) return NULL;
    return realloc(block, bytes ? bytes : 1);
}

void *mem_aligned(size_t alignment, size_t bytes)
{
    if (fault_now(FAULT_ALLOC)) return NULL;
    void *block = NULL;
    return posix_memalign(&block, alignment, bytes ? bytes : alignment) == 0 ? block : NULL;
}

void mem_free(void *block)
{
    free(block);
}

char *mem_strndup(const char *text, size_t bytes)
{
    char *copy = mem_alloc(bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define REGION_BYTES ((size_t)64 << 20)

/* Anonymous pages from the border of a huge page on: newer systems begin there by themselves, older ones need the detour
 * over a larger block whose ends are given back. */
static unsigned char *map_pages(size_t bytes, int flags)
{
    if (bytes > SIZE_MAX - HUGE_PAGE_BYTES) return NULL;
    size_t slack = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    unsigned char *whole =
        mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (whole == MAP_FAILED) return NULL;
    size_t before = slack ? (HUGE_PAGE_BYTES - (uintptr_t)whole % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES : 0;
    unsigned char *block = whole + before;
    if (before) munmap(whole, before);
    if (slack > before) munmap(block + bytes, slack - before);
    madvise(block, bytes, MADV_HUGEPAGE); /* only a wish: fewer TLB misses where the machine allows it */
    return block;
}

static size_t whole_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return bytes > SIZE_MAX - page ? SIZE_MAX : (size_t)round_up(bytes ? bytes : 1, page);
}

/* Blocks are cut one after the other from a region, so that huge pages span their borders: weights come as hundreds of
 * blocks of a few hundred KB, which alone would get small pages only. Any block can be unmapped by itself; what is left
 * of a region when the next begins is given back. */
static struct {
    pthread_mutex_t lock;
    unsigned char *next;
    size_t left;
} region = {.lock = PTHREAD_MUTEX_INITIALIZER};

void *mem_map(size_t bytes)
{
    if (fault_now(FAULT_ALLOC)) return NULL;
    bytes = whole_pages(bytes);
    if (bytes >= REGION_BYTES) return map_pages(bytes, 0);
    pthread_mutex_lock(&region.lock);
    if (region.left < bytes) {
        unsigned char *fresh = map_pages(REGION_BYTES, 0);
        if (fresh) {
            if (region.left) munmap(region.next, region.left);
            region.next = fresh;
            region.left = REGION_BYTES;
        }
    }
    unsigned char *block = region.left >= bytes ? region.next : NULL;
    if (block) {
        region.next += bytes;
        region.left -= bytes;
    }
    pthread_mutex_unlock(&region.lock);
    return block;
}

void *mem_map_reserve(size_t bytes)
{
    return fault_now(FAULT_ALLOC) ? NULL : map_pages(whole_pages(bytes), MAP_NORESERVE);
}

void mem_unmap(void *block, size_t bytes)
{
    if (block) munmap(block, whole_pages(bytes));
}

/* One number from a small kernel file; false when it is not there or says "max". */
static bool read_number(const char *path, uint64_t *out)
{
    FILE *file = fopen(path, "r");
    if (!file) return false;
    unsigned long long value;
    bool ok = fscanf(file, "%llu", &value) == 1;
    fclose(file);
    if (ok) *out = value;
    return ok;
}

uint64_t mem_available_bytes(void)
{
    uint64_t available = UINT64_MAX, limit, used;
    FILE *file = fopen("/proc/meminfo", "r");
    if (file) {
        char line[128];
        unsigned long long kib;
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) available = (uint64_t)kib * 1024;
        fclose(file);
    }
    bool v2 = read_number("/sys/fs/cgroup/memory.max", &limit) && read_number("/sys/fs/cgroup/memory.current", &used);
    bool v1 = !v2 && read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", &limit) &&
              read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", &used);
    if (v2 || v1) {
        uint64_t rest = limit > used ? limit - used : 0;
        if (rest < available) available = rest;
    }
    return available;
}

/* ---- arena ------------------------------------------------------------------------------------------------------ */

struct arena_chunk {
    struct arena_chunk *previous;
    size_t used, capacity;
    _Alignas(16) unsigned char bytes[];
};

#define ARENA_CHUNK_BYTES (64u * 1024)

void arena_init(struct arena *arena)
{
    arena->last = NULL;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (size_t)round_up(bytes ? bytes : 1, 16);
    struct arena_chunk *chunk = arena->last;
    if (!chunk || chunk->capacity - chunk->used < bytes) {
        size_t capacity = bytes > ARENA_CHUNK_BYTES ? bytes : ARENA_CHUNK_BYTES;
        chunk = mem_aligned(16, sizeof *chunk + capacity);
        if (!chunk) return NULL;
        *chunk = (struct arena_chunk){.previous = arena->last, .capacity = capacity};
        arena->last = chunk;
    }
    void *block = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return block;
}

char *arena_strndup(struct arena *arena, const char *text, size_t bytes)
{
    char *copy = arena_alloc(arena, bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

void arena_release(struct arena *arena)
{
    while (arena->last) {
        struct arena_chunk *chunk = arena->last;
        arena->last = chunk->previous;
        mem_free(chunk);
    }
}

/* ---- buffer ----------------------------------------------------------------------------------------------------- */

void buffer_init(struct buffer *buffer, size_t limit)
{
    *buffer = (struct buffer){.limit = limit};
}

/* Makes room for `count` more bytes and the closing zero. */
static bool buffer_grow(struct buffer *buffer, size_t count)
{
    if (buffer->failed) return false;
    uint64_t need;
    if (!checked_add(buffer->length, count, &need) || need >= SIZE_MAX / 2 || (buffer->limit && need > buffer->limit)) {
        buffer->failed = true;
        return false;
    }
    if (need + 1 <= buffer->capacity) return true;
    size_t capacity = buffer->capacity ? buffer->capacity * 2 : 64;
    if (capacity < need + 1) capacity = (size_t)need + 1;
    char *data = mem_resize(buffer->data, capacity);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void buffer_append(struct buffer *buffer, const void *bytes, size_t count)
{
    if (!buffer_grow(buffer, count)) return;
    if (count) memcpy(buffer->data + buffer->length, bytes, count);
    buffer->length += count;
    buffer->data[buffer->length] = '\0';
}

void buffer_text(struct buffer *buffer, const char *text)
{
    buffer_append(buffer, text, strlen(text));
}

void buffer_printf(struct buffer *buffer, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length >= 0 && buffer_grow(buffer, (size_t)length)) {
        vsnprintf(buffer->data + buffer->length, (size_t)length + 1, format, again);
        buffer->length += (size_t)length;
    } else {
        buffer->failed = true;
    }
    va_end(again);
}

char *buffer_take(struct buffer *buffer)
{
    if (!buffer->data && !buffer->failed) buffer_append(buffer, "", 0);
    char *data = buffer->failed ? NULL : buffer->data;
    if (!data) mem_free(buffer->data);
    buffer_init(buffer, buffer->limit);
    return data;
}

void buffer_release(struct buffer *buffer)
{
    mem_free(buffer->data);
    buffer_init(buffer, buffer->limit);
}
