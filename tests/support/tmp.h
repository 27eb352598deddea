/*
 * A directory for one test's files, under $TMPDIR or /tmp.
 */
#ifndef SUPPORT_TMP_H
#define SUPPORT_TMP_H

#include <stddef.h>

struct tmp_dir {
    char path[128];
    char file[256]; /* the last name that tmp_path() built */
};

void tmp_init(struct tmp_dir *tmp);
void tmp_fini(struct tmp_dir *tmp); /* removes the directory and the files in it */

/* "<directory>/<name>"; valid until the next call. */
const char *tmp_path(struct tmp_dir *tmp, const char *name);

/* A file's first bytes as a string; fails the test if it cannot be read. Returns its length. */
size_t tmp_read(const char *path, char *buf, size_t size);

/* Descriptors this process has open: compare before and after. */
unsigned count_open_fds(void);

#endif
