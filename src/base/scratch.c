/* scratch.c - files without a name: memory on a disk that vanishes with the process. */
#include "base/base_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where the file system knows no files without a name: one whose name goes at once. */
static int open_named(const char *folder)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/scratch-XXXXXX", folder);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) unlink(path);
    return fd;
}

enum status file_scratch_open(const char *folder, struct file_scratch *out, struct error *error)
{
    out->fd = fault_now(FAULT_WRITE) ? (errno = ENOSPC, -1) : open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (out->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) out->fd = open_named(folder);
    if (out->fd >= 0) return ST_OK;
    return error_set(error, ST_IO, "%s: cannot make a scratch file there: %s", folder, strerror(errno));
}

bool file_scratch_write(const struct file_scratch *file, uint64_t offset, const void *bytes, uint64_t count)
{
    for (uint64_t done = 0; done < count;) {
        ssize_t put = fault_now(FAULT_WRITE)
                          ? (errno = ENOSPC, -1)
                          : pwrite(file->fd, (const char *)bytes + done, count - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        done += (uint64_t)put;
    }
    return true;
}

bool file_scratch_read(const struct file_scratch *file, uint64_t offset, const struct iovec *parts, uint32_t count,
                       bool wait)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) bytes += parts[i].iov_len;
    if (fault_now(FAULT_READ)) return false;
    ssize_t got;
    do got = preadv2(file->fd, parts, (int)count, (off_t)offset, wait ? 0 : RWF_NOWAIT);
    while (got < 0 && errno == EINTR);
    return got >= 0 && (uint64_t)got == bytes;
}

void file_scratch_expect(const struct file_scratch *file, uint64_t offset, uint64_t count)
{
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)count, POSIX_FADV_WILLNEED);
}

void file_scratch_empty(const struct file_scratch *file)
{
    (void)!ftruncate(file->fd, 0);
}

void file_scratch_close(struct file_scratch *file)
{
    if (file->fd >= 0) close(file->fd);
    file->fd = -1;
}
