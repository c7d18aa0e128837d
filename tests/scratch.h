/* scratch.h - a temporary folder for tests that need files, removed with all that is in it. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H
#include "support.h"
#include <dirent.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
    char folder[256], path[600]; /* path: the last answer of scratch_path */
};

static inline void scratch_init(struct scratch *scratch)
{
    const char *base = getenv("TMPDIR");
    snprintf(scratch->folder, sizeof scratch->folder, "%s/kvasir-test-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(scratch->folder));
}

/* FOLDER/NAME, until the next call. */
static inline const char *scratch_path(struct scratch *scratch, const char *name)
{
    snprintf(scratch->path, sizeof scratch->path, "%s/%s", scratch->folder, name);
    return scratch->path;
}

static inline void scratch_write(struct scratch *scratch, const char *name, const void *bytes, size_t count)
{
    FILE *file = fopen(scratch_path(scratch, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static inline int scratch_remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info, (void)type, (void)walk;
    return remove(path);
}

static inline void scratch_release(struct scratch *scratch)
{
    assert_int_equal(nftw(scratch->folder, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* This process' descriptor of a file there that has no name (file_scratch_open). */
static inline int scratch_nameless(const struct scratch *scratch)
{
    char link[600], path[64];
    int found = -1;
    DIR *all = opendir("/proc/self/fd");
    assert_non_null(all);
    for (const struct dirent *one; (one = readdir(all));) {
        snprintf(path, sizeof path, "/proc/self/fd/%.20s", one->d_name);
        ssize_t length = readlink(path, link, sizeof link - 1);
        if (length <= 0) continue;
        link[length] = 0;
        if (strncmp(link, scratch->folder, strlen(scratch->folder)) == 0) found = atoi(one->d_name);
    }
    closedir(all);
    assert_true(found >= 0);
    return found;
}
#endif
