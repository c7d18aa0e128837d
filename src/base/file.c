/* file.c - mapped, whole and atomically written files: the only place that opens one. */
#include "base/base_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_ATTEMPTS 16u
#define TRANSFER_BYTES_MAX ((size_t)1 << 30) /* the kernel moves less than 2 GiB in one call */

/* A regular file that holds something; the caller closes *fd. */
static enum status open_regular(const char *path, int *fd, struct stat *info, struct error *error)
{
    *fd = fault_now(FAULT_READ) ? (errno = EIO, -1) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return error_set(error, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    enum status status = ST_OK;
    if (fstat(*fd, info) != 0)
        status = error_set(error, ST_IO, "%s: cannot read: %s", path, strerror(errno));
    else if (S_ISDIR(info->st_mode))
        status = error_set(error, ST_IO, "%s: is a folder, not a file", path);
    else if (!S_ISREG(info->st_mode))
        status = error_set(error, ST_IO, "%s: is not a regular file", path);
    else if (info->st_size == 0)
        status = error_set(error, ST_INVALID, "%s: the file is empty", path);
    if (status != ST_OK) close(*fd);
    return status;
}

enum status file_map_open(const char *path, struct file_map *out, struct error *error)
{
    int fd;
    struct stat info;
    *out = (struct file_map){0};
    enum status status = open_regular(path, &fd, &info, error);
    if (status != ST_OK) return status;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        status = error_set(error, ST_IO, "%s: cannot map: %s", path, strerror(errno));
    else
        *out = (struct file_map){.data = data, .bytes = (uint64_t)info.st_size};
    close(fd);
    return status;
}

void file_map_close(struct file_map *map)
{
    if (map->data) munmap((void *)(uintptr_t)map->data, (size_t)map->bytes);
    *map = (struct file_map){0};
}

void file_map_drop(const struct file_map *map, const void *begin, uint64_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)begin, to = from + bytes;
    ASSERT(from >= (uintptr_t)map->data && to <= (uintptr_t)map->data + map->bytes);
    from = (uintptr_t)round_up(from, page); /* only whole pages of the range: its neighbours may be in use */
    to = to / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

enum status file_read(const char *path, uint64_t bytes_max, struct buffer *out, struct error *error)
{
    buffer_init(out, bytes_max);
    bool standard_input = strcmp(path, "-") == 0;
    int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(error, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    enum status status = ST_OK;
    char chunk[65536];
    for (;;) {
        ssize_t got = fault_now(FAULT_READ) ? (errno = EIO, -1) : read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = error_set(error, ST_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got <= 0) break;
        buffer_append(out, chunk, (size_t)got);
        if (out->failed) {
            bool large = out->limit && out->length + (size_t)got > out->limit;
            status = large
                         ? error_set(error, ST_LIMIT, "%s: larger than %llu bytes", path, (unsigned long long)bytes_max)
                         : error_set(error, ST_NOMEM, "%s: not enough memory to read it", path);
            break;
        }
    }
    if (!standard_input) close(fd);
    if (status == ST_OK && !out->data) {
        buffer_append(out, "", 0); /* so that an empty file still has zero-terminated data */
        if (out->failed) status = error_set(error, ST_NOMEM, "%s: not enough memory to read it", path);
    }
    if (status != ST_OK) buffer_release(out);
    return status;
}

/* ---- written piece by piece -------------------------------------------------------------------------------------- */

static enum status cannot_write(const char *path, int reason, struct error *error)
{
    return error_set(error, ST_IO, "%s: cannot write: %s", path, strerror(reason));
}

enum status file_writer_open(const char *path, struct file_writer *out, struct error *error)
{
    static _Atomic uint64_t serial; /* two threads may write the same file */
    struct buffer name;
    buffer_init(&name, 0);
    buffer_printf(&name, "%s.%ld.%llu.tmp", path, (long)getpid(), (unsigned long long)atomic_fetch_add(&serial, 1));
    *out = (struct file_writer){.fd = -1, .path = mem_strndup(path, strlen(path)), .temporary = buffer_take(&name)};
    enum status status = ST_OK;
    if (!out->path || !out->temporary) {
        status = error_set(error, ST_NOMEM, "%s: not enough memory to write it", path);
    } else {
        out->fd = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (out->fd < 0) status = cannot_write(path, errno, error);
    }
    if (status == ST_OK) return ST_OK;
    mem_free(out->path);
    mem_free(out->temporary);
    return status;
}

enum status file_writer_open_cached(const char *path, struct file_writer *out, struct error *error)
{
    for (uint32_t attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
        struct stat info;
        enum status status = file_writer_open(path, out, error);
        if (status != ST_OK) return status;
        out->cached = true;
        /* Where a disk has no locks nobody removes it, either. */
        bool settled = flock(out->fd, LOCK_EX) == 0 || errno != EINTR;
        if (settled && fstat(out->fd, &info) == 0 && info.st_nlink) return ST_OK;
        /* file_remove_abandoned came before the lock */
        if (file_writer_close(out, false, error) != ST_OK) return ST_IO;
    }
    return error_set(error, ST_IO, "%s: cannot write: its temporary name cannot be locked", path);
}

enum status file_writer_open_stream(const char *path, struct file_writer *out, struct error *error)
{
    *out = (struct file_writer){.fd = -1, .path = mem_strndup(path, strlen(path))};
    if (!out->path) return error_set(error, ST_NOMEM, "%s: not enough memory to write it", path);
    out->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out->fd >= 0) return ST_OK;
    enum status status = cannot_write(path, errno, error);
    mem_free(out->path);
    *out = (struct file_writer){.fd = -1};
    return status;
}

enum status file_writer_put(struct file_writer *writer, const void *bytes, uint64_t count, struct error *error)
{
    const char *from = bytes;
    while (count) {
        size_t most = count < TRANSFER_BYTES_MAX ? (size_t)count : TRANSFER_BYTES_MAX;
        ssize_t put = fault_now(FAULT_WRITE) ? (errno = ENOSPC, -1) : write(writer->fd, from, most);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return cannot_write(writer->path, errno, error);
        from += put;
        count -= (uint64_t)put;
    }
    return ST_OK;
}

enum status file_writer_close(struct file_writer *writer, bool keep, struct error *error)
{
    bool in_place = !writer->temporary, cached = writer->cached;
    int reason = 0;
    if (keep && !in_place && !cached && (fault_now(FAULT_WRITE) ? (errno = EIO, -1) : fsync(writer->fd)) != 0)
        reason = errno;
    /* Closing ends a cached one's lock, so that it is renamed before. */
    if (keep && cached && rename(writer->temporary, writer->path) != 0) reason = errno;
    if (close(writer->fd) != 0 && !reason) reason = errno;
    if (keep && !reason && !in_place && !cached && rename(writer->temporary, writer->path) != 0) reason = errno;
    if (!in_place && (!keep || reason)) {
        unlink(writer->temporary);
        if (cached && keep) unlink(writer->path);
    }
    enum status status = keep && reason ? cannot_write(writer->path, reason, error) : ST_OK;
    mem_free(writer->path);
    mem_free(writer->temporary);
    return status;
}

enum status file_write(const char *path, const void *bytes, size_t count, struct error *error)
{
    struct file_writer writer;
    enum status status = file_writer_open(path, &writer, error);
    if (status != ST_OK) return status;
    status = file_writer_put(&writer, bytes, count, error);
    enum status closed = file_writer_close(&writer, status == ST_OK, error);
    return status == ST_OK ? closed : status;
}

/* ---- read piece by piece ----------------------------------------------------------------------------------------- */

enum status file_reader_open(const char *path, struct file_reader *out, struct error *error)
{
    struct stat info;
    *out = (struct file_reader){.path = path};
    enum status status = open_regular(path, &out->fd, &info, error);
    if (status == ST_OK) out->bytes = (uint64_t)info.st_size;
    return status;
}

enum status file_reader_get(struct file_reader *reader, void *out, uint64_t count, struct error *error)
{
    for (char *to = out; count;) {
        size_t most = count < TRANSFER_BYTES_MAX ? (size_t)count : TRANSFER_BYTES_MAX;
        ssize_t got = fault_now(FAULT_READ) ? (errno = EIO, -1) : read(reader->fd, to, most);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, ST_IO, "%s: cannot read: %s", reader->path, strerror(errno));
        if (got == 0) return error_set(error, ST_INVALID, "%s: the file ends too early", reader->path);
        to += got;
        count -= (uint64_t)got;
    }
    return ST_OK;
}

void file_reader_close(struct file_reader *reader)
{
    close(reader->fd);
}

/* ------------------------------------------------------------------------------------------------------------------ */

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool file_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}
