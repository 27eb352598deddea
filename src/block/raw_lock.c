/*
 * Locks on images, in the way of QEMU's, so that qemu-img and QEMU itself notice us and we them.
 *
 * Nothing is locked that has content. Single bytes far inside the file stand for what a user of it
 * does (from byte 100 on) and for what it cannot bear that others do (from 200 on). Each user holds
 * shared locks on its bytes, and looks whether somebody holds the opposite ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "block/raw_priv.h"
#include "hv/base/todo.h"

#define USES 100
#define EXCLUDES 200
#define BITS 4
#define TRIES 50
#define NAP_NS 20000000 /* between two of them */

enum {
    READ = 1 << 0, /* a consistent view of the content */
    WRITE = 1 << 1,
    RESIZE = 1 << 3,
};

static int set_lock(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

static bool is_locked_by_others(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static int try_lock(int fd, bool read_only)
{
    /* EXERCISE 8.4: what we do to the image, and what we cannot bear. Who only reads uses READ, who
     * writes uses READ, WRITE and RESIZE; both exclude others' WRITE and RESIZE. For each bit i
     * that we use there is a shared lock on byte USES + i, for each that we exclude one on EXCLUDES
     * + i (set_lock()). Who uses what somebody else excludes, or excludes what somebody else uses,
     * is refused (is_locked_by_others()). Of two that come at the same moment at least one must
     * notice: what does that say about the order? -EBUSY: somebody else has it, also where
     * set_lock() says -EAGAIN or -EACCES. A file system without locks (-EINVAL, -ENOLCK) is no
     * error; others are. */
    // SOLUTION 8.4
    const unsigned uses = read_only ? READ : READ | WRITE | RESIZE;
    const unsigned excludes = WRITE | RESIZE;

    /* First say what we do, then look: of two that come at once, at least one sees the other. */
    for (unsigned i = 0; i < BITS; i++) {
        int rc = uses & 1U << i ? set_lock(fd, USES + (off_t)i) : 0;
        if (rc == 0 && (excludes & 1U << i))
            rc = set_lock(fd, EXCLUDES + (off_t)i);
        if (rc == -EAGAIN || rc == -EACCES)
            return -EBUSY;
        if (rc < 0)
            return rc == -EINVAL || rc == -ENOLCK ? 0 : rc; /* a file system without locks */
    }
    for (unsigned i = 0; i < BITS; i++) {
        if ((uses & 1U << i) && is_locked_by_others(fd, EXCLUDES + (off_t)i))
            return -EBUSY;
        if ((excludes & 1U << i) && is_locked_by_others(fd, USES + (off_t)i))
            return -EBUSY;
    }
    return 0;
    // ELSE
    // if (set_lock(fd, USES) < 0 && is_locked_by_others(fd, EXCLUDES))
    //     return -EBUSY;
    // return todo("8.4");
    // END 8.4
}

/* The kernel closes the file of a process that was killed a little after the process is gone, if
 * requests were on their way: whoever starts again at once must not be told that it is in use. */
int raw_lock(int fd, bool read_only)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    int rc = try_lock(fd, read_only);

    for (unsigned i = 1; rc == -EBUSY && i < TRIES; i++) {
        (void)nanosleep(&nap, NULL); /* a signal only shortens it */
        rc = try_lock(fd, read_only);
    }
    return rc;
}
