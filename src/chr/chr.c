/*
 * The calls into a character back end, and the accounting that all of them share.
 */
#include "hv/chr/chr.h"

#include <stdatomic.h>

#include "chr/chr_priv.h"

void chr_init(struct chr *chr, const struct chr_ops *ops)
{
    chr->ops = ops;
    chr->front = (struct chr_front){0};
    atomic_init(&chr->dropped, 0);
    atomic_init(&chr->error, 0);
}

void chr_count_dropped(struct chr *chr, size_t bytes)
{
    /* A statistic: nothing is ordered by it. */
    atomic_fetch_add_explicit(&chr->dropped, bytes, memory_order_relaxed);
}

void chr_set_error(struct chr *chr, int err)
{
    int none = 0;

    (void)atomic_compare_exchange_strong(&chr->error, &none, err); /* not the first: keep that */
}

int chr_error(const struct chr *chr)
{
    return atomic_load(&chr->error);
}

void chr_attach(struct chr *chr, const struct chr_front *front)
{
    chr->front = front ? *front : (struct chr_front){0};
    if (front)
        chr_resume(chr);
}

void chr_resume(struct chr *chr)
{
    if (chr->ops->resume)
        chr->ops->resume(chr);
}

void chr_write(struct chr *chr, const void *data, size_t len)
{
    ssize_t taken = chr_error(chr) ? 0 : chr->ops->write(chr, data, len);

    if (taken < 0) {
        chr_set_error(chr, (int)taken);
        taken = 0;
    }
    if ((size_t)taken < len)
        chr_count_dropped(chr, len - (size_t)taken);
}

size_t chr_offer(struct chr *chr, const void *data, size_t len)
{
    if (chr->ops->offer == NULL || chr_error(chr)) {
        chr_write(chr, data, len);
        return len;
    }
    ssize_t taken = chr->ops->offer(chr, data, len);
    if (taken >= 0)
        return (size_t)taken;
    chr_set_error(chr, (int)taken);
    chr_count_dropped(chr, len);
    return len;
}

void chr_flush(struct chr *chr)
{
    if (chr->ops->flush)
        chr->ops->flush(chr);
}

void chr_destroy(struct chr *chr)
{
    if (!chr)
        return;
    chr_flush(chr);
    chr->ops->destroy(chr);
}
