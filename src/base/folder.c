/* folder.c - private folders: making one, listing it, and what is done to the names of files. */
#include "base/base_internal.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

bool file_remove(const char *path)
{
    return unlink(path) == 0;
}

bool file_remove_abandoned(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    bool gone = flock(fd, LOCK_EX | LOCK_NB) == 0 && unlink(path) == 0;
    close(fd);
    return gone;
}

void file_touch(const char *path)
{
    (void)utimensat(AT_FDCWD, path, NULL, 0);
}

void file_disk_bytes(const char *path, uint64_t *free_bytes, uint64_t *all_bytes)
{
    struct statvfs info;
    *free_bytes = *all_bytes = UINT64_MAX;
    if (statvfs(path, &info) != 0 || !info.f_blocks) return;
    *free_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    *all_bytes = (uint64_t)info.f_blocks * info.f_frsize;
}

static bool is_empty(const char *path)
{
    DIR *folder = opendir(path);
    uint32_t count = 0;
    while (folder && count < 3 && readdir(folder)) count++;
    if (folder) closedir(folder);
    return folder && count == 2; /* itself and the one above */
}

enum status file_folder_open(const char *path, bool private_only, struct error *error)
{
    struct stat info;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return error_set(error, ST_IO, "%s: cannot make the folder: %s", path, strerror(errno));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0 || fstat(fd, &info) != 0) {
        enum status status = error_set(error, ST_IO, "%s: cannot open the folder: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return status;
    }
    bool own = info.st_uid == geteuid(), open_to_others = (info.st_mode & 077) != 0;
    enum status status = ST_OK;
    if (private_only && !own)
        status = error_set(error, ST_IO, "%s: is another user's folder: give one of your own", path);
    else if (own && open_to_others && (private_only || is_empty(path)) && fchmod(fd, 0700) != 0)
        status = error_set(error, ST_IO, "%s: cannot be made private: %s", path, strerror(errno));
    close(fd);
    return status;
}

enum status file_folder_list(const char *path, void (*show)(void *data, const struct file_listed *file), void *data,
                             struct error *error)
{
    DIR *folder = fault_now(FAULT_READ) ? (errno = EIO, NULL) : opendir(path);
    if (!folder && errno == ENOENT) return ST_OK;
    if (!folder) return error_set(error, ST_IO, "%s: cannot list the folder: %s", path, strerror(errno));
    const struct dirent *found;
    while ((found = readdir(folder))) {
        struct stat info;
        if (found->d_name[0] == '.' || fstatat(dirfd(folder), found->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode))
            continue;
        show(data, &(struct file_listed){.name = found->d_name,
                                         .bytes = (uint64_t)info.st_size,
                                         .changed_ns = (uint64_t)info.st_mtim.tv_sec * 1000000000u +
                                                       (uint64_t)info.st_mtim.tv_nsec});
    }
    closedir(folder);
    return ST_OK;
}
