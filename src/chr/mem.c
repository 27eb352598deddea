/*
 * A back end in memory, for tests: what the device wrote can be looked at, and a test types.
 *
 * Typing does not queue: a test is told how much the device took and sees the device's own flow
 * control.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "chr/chr_priv.h"
#include "hv/base/num.h"

struct chr_mem {
    struct chr chr;
    pthread_mutex_t lock; /* guards len and text */
    size_t keep;
    size_t len;
    char *text; /* owned, keep + 1 bytes */
};

static ssize_t mem_write(struct chr *chr, const void *data, size_t len)
{
    struct chr_mem *m = container_of(chr, struct chr_mem, chr);

    pthread_mutex_lock(&m->lock);
    size_t n = len < m->keep - m->len ? len : m->keep - m->len;
    memcpy(m->text + m->len, data, n);
    m->len += n;
    m->text[m->len] = '\0';
    pthread_mutex_unlock(&m->lock);
    return (ssize_t)n;
}

static void mem_destroy(struct chr *chr)
{
    struct chr_mem *m = container_of(chr, struct chr_mem, chr);

    (void)pthread_mutex_destroy(&m->lock); /* fails only for a locked mutex: a bug of the test */
    free(m->text);
    free(m);
}

static const struct chr_ops mem_ops = {.write = mem_write, .destroy = mem_destroy};

int chr_mem_create(size_t keep, struct chr **out)
{
    struct chr_mem *m = calloc(1, sizeof(*m));
    char *text = calloc(1, keep + 1);

    if (!m || !text) {
        free(m);
        free(text);
        return -ENOMEM;
    }
    chr_init(&m->chr, &mem_ops);
    (void)pthread_mutex_init(&m->lock, NULL); /* cannot fail on Linux */
    m->keep = keep;
    m->text = text;
    *out = &m->chr;
    return 0;
}

const char *chr_mem_output(struct chr *chr, size_t *len)
{
    struct chr_mem *m = container_of(chr, struct chr_mem, chr);

    pthread_mutex_lock(&m->lock);
    if (len)
        *len = m->len;
    pthread_mutex_unlock(&m->lock);
    return m->text;
}

size_t chr_mem_type(struct chr *chr, const void *data, size_t len)
{
    const struct chr_front *front = &chr->front;
    const uint8_t *bytes = data;
    size_t done = 0;

    while (done < len) {
        size_t room = front->room ? front->room(front->ctx) : 0;
        size_t n = room < len - done ? room : len - done;

        if (n == 0)
            break;
        front->input(front->ctx, bytes + done, n);
        done += n;
    }
    return done;
}
