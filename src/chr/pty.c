/*
 * A pseudo-terminal: the guest's serial port as a terminal device that another program opens.
 *
 * The slave is kept open here as well. Otherwise the master would report a hang-up, continuously,
 * from the moment one reader leaves until the next one comes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "chr/stream_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

struct chr_pty {
    struct stream stream;
    int master; /* owned; output */
    int input;  /* owned: the master again, since the loop watches a descriptor once */
    int slave;  /* owned */
};

static void close_all(struct chr_pty *p)
{
    fd_close(&p->slave);
    fd_close(&p->input);
    fd_close(&p->master);
}

static void pty_destroy(struct chr *chr)
{
    struct chr_pty *p = container_of(chr, struct chr_pty, stream.chr);

    stream_fini(&p->stream);
    close_all(p);
    free(p);
}

static const struct chr_ops pty_ops = {
    .write = stream_write,
    .offer = stream_offer,
    .resume = stream_resume,
    .flush = stream_flush,
    .destroy = pty_destroy,
};

/* Raw: without this the terminal would echo the guest's output back to the guest as input. */
static int make_raw(int fd)
{
    struct termios t;

    if (tcgetattr(fd, &t) < 0)
        return -errno;
    cfmakeraw(&t);
    return tcsetattr(fd, TCSANOW, &t) < 0 ? -errno : 0;
}

/* Opens both ends; what is open on failure, the caller closes. */
static int open_pair(struct chr_pty *p, char *name, size_t name_size)
{
    p->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (p->master < 0 || grantpt(p->master) < 0 || unlockpt(p->master) < 0)
        return -errno;
    int err = ptsname_r(p->master, name, name_size);
    if (err)
        return -err;
    p->slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (p->slave < 0)
        return -errno;
    p->input = fcntl(p->master, F_DUPFD_CLOEXEC, 0);
    if (p->input < 0)
        return -errno;
    err = fd_set_nonblock(p->master); /* ours alone, and of `input` too */
    return err ? err : make_raw(p->slave);
}

int chr_pty_create(struct loop *loop, char *path, size_t path_size, struct chr **out)
{
    struct chr_pty *p = calloc(1, sizeof(*p));
    char name[64]; /* "/dev/pts/" and a number */

    if (!p)
        return -ENOMEM;
    p->master = p->input = p->slave = -1;
    int err = open_pair(p, name, sizeof(name));
    if (err)
        goto fail;
    if (strlen(name) >= path_size) {
        err = -ERANGE;
        goto fail;
    }
    /* No stall time: that nobody reads is a pseudo-terminal's normal state. */
    err = stream_init(&p->stream, &pty_ops, loop, p->input, p->master, 0);
    if (err)
        goto fail;
    memcpy(path, name, strlen(name) + 1);
    *out = &p->stream.chr;
    return 0;
fail:
    close_all(p);
    free(p);
    return err;
}
