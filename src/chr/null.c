/*
 * The back end that is not there: output is taken and forgotten, input never comes.
 */
#include <errno.h>
#include <stdlib.h>

#include "chr/chr_priv.h"

static ssize_t null_write(struct chr *chr, const void *data, size_t len)
{
    (void)chr;
    (void)data;
    return (ssize_t)len;
}

static void null_destroy(struct chr *chr)
{
    free(chr);
}

static const struct chr_ops null_ops = {.write = null_write, .destroy = null_destroy};

int chr_null_create(struct chr **out)
{
    struct chr *chr = malloc(sizeof(*chr));

    if (!chr)
        return -ENOMEM;
    chr_init(chr, &null_ops);
    *out = chr;
    return 0;
}
