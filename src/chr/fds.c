/*
 * The user's terminal, or whatever else standard input and output are.
 */
#include <errno.h>
#include <stdlib.h>

#include "chr/stream_priv.h"
#include "hv/base/num.h"

static void fds_destroy(struct chr *chr)
{
    struct stream *s = container_of(chr, struct stream, chr);

    stream_fini(s);
    free(s);
}

static const struct chr_ops fds_ops = {
    .write = stream_write,
    .offer = stream_offer,
    .resume = stream_resume,
    .flush = stream_flush,
    .destroy = fds_destroy,
};

int chr_fds_create(struct loop *loop, int in_fd, int out_fd, chr_escape_fn *escape, void *ctx,
                   struct chr **out)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    int err = stream_init(s, &fds_ops, loop, in_fd, out_fd, CHR_STALL_MS);
    if (err) {
        free(s);
        return err;
    }
    stream_set_escape(s, escape, ctx);
    *out = &s->chr;
    return 0;
}
