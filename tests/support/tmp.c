#include "support/tmp.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "hv/base/fd.h"

void tmp_init(struct tmp_dir *tmp)
{
    const char *base = getenv("TMPDIR");

    int n = snprintf(tmp->path, sizeof(tmp->path), "%s/hv-test-XXXXXX", base ? base : "/tmp");
    cr_assert_lt((size_t)n, sizeof(tmp->path));
    cr_assert_not_null(mkdtemp(tmp->path));
}

const char *tmp_path(struct tmp_dir *tmp, const char *name)
{
    int n = snprintf(tmp->file, sizeof(tmp->file), "%s/%s", tmp->path, name);
    cr_assert_lt((size_t)n, sizeof(tmp->file));
    return tmp->file;
}

void tmp_fini(struct tmp_dir *tmp)
{
    DIR *dir = opendir(tmp->path);
    struct dirent *entry;

    cr_assert_not_null(dir);
    while ((entry = readdir(dir)))
        (void)unlinkat(dirfd(dir), entry->d_name, 0); /* "." and ".." refuse */
    (void)closedir(dir);
    cr_assert_eq(rmdir(tmp->path), 0);
}

size_t tmp_read(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n;

    cr_assert_geq(fd, 0, "%s", path);
    while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
        len += (size_t)n;
    buf[len] = '\0';
    fd_close(&fd);
    return len;
}

unsigned count_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    cr_assert_not_null(dir);
    while (readdir(dir))
        n++;
    (void)closedir(dir);
    return n;
}
