/*
 * Bounded output to a descriptor that may block: the policy that chr.h promises.
 *
 * Bytes pass through a ring buffer. Every put tries to empty it at once; what stays is flushed by
 * the loop, which watches for room as long as outq_flush() says so.
 *
 * Threads: any. `lock` guards every field after it.
 */
#ifndef HV_CHR_OUTQ_PRIV_H
#define HV_CHR_OUTQ_PRIV_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/chr/stream.h"

struct outq {
    struct chr *chr; /* borrowed: whose drops and errors these are */
    int fd;          /* borrowed, or == own_fd */
    int own_fd;      /* owned, or -1 */
    bool nonblock;   /* write() on fd never blocks */
    int stall_ms;    /* how long to wait without progress; 0: not at all */

    pthread_mutex_t lock;
    bool stalled; /* that long passed; nothing moved since */
    bool waiting; /* the loop knows that the ring is not empty */
    bool hungry;  /* outq_offer() took less than it was given */
    size_t head;  /* of the oldest byte in the ring */
    size_t used;
    uint8_t ring[CHR_OUTPUT_MAX];
};

void outq_init(struct outq *q, struct chr *chr, int fd, int stall_ms);
void outq_fini(struct outq *q); /* drops what is left */

/* Returns the bytes taken, or -errno. *wake: the loop has to call outq_flush(). */
ssize_t outq_put(struct outq *q, const void *data, size_t len, bool *wake);

/* The same without waiting. When it takes less than len, outq_feed() is worth calling after an
 * outq_flush(). */
ssize_t outq_offer(struct outq *q, const void *data, size_t len, bool *wake);

/* True, once, when there is room again for whom outq_offer() disappointed: half of the ring, so
 * that he does not come for every byte. */
bool outq_feed(struct outq *q);

/* Writes what can be written without waiting. True: something is left, so call again when fd is
 * writable. */
bool outq_flush(struct outq *q);

/* Waits as a put does until the ring is empty. */
void outq_finish(struct outq *q);

#endif
