/*
 * The balloon device (VIRTIO 1.2 §5.5): the host asks the guest for pages, and the guest gives up
 * some that it does not need, by their numbers. What is in the balloon costs the host nothing, and
 * the guest may take it back. Beside that the guest tells of its memory when it is asked, and
 * reports what is free anyway.
 *
 * A page is VIRTIO_BALLOON_PAGE bytes, whatever the host's pages are: of huge pages only those come
 * back of which the guest has given every part.
 *
 * Threads: all queues are served by one I/O thread; the functions here may be called from any.
 */
#ifndef HV_VIRTIO_BALLOON_H
#define HV_VIRTIO_BALLOON_H

#include <linux/virtio_balloon.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_BALLOON_PAGE 4096

struct virtio_balloon_setup {
    const struct mem *mem; /* borrowed, outlives the device; all RAM is in it already */
    struct loop *loop;     /* borrowed likewise: an I/O thread's */
    const struct log *log; /* borrowed likewise; may be NULL */
    bool deflate_on_oom;   /* the guest may take pages back when it runs out of memory */
    bool reporting;        /* the guest may report free pages */
};

/* -ENOMEM, -EMFILE. */
int virtio_balloon_create(const char *name, const struct virtio_balloon_setup *setup,
                          struct virtio_dev **out) HV_MUST_CHECK;

/* The guest shall have this many pages in the balloon, at most all that it has; how far it gets is
 * its own business. */
void virtio_balloon_set_target(struct virtio_dev *v, uint64_t pages);
uint32_t virtio_balloon_target(const struct virtio_dev *v);

/* How many it says there are. */
uint32_t virtio_balloon_actual(const struct virtio_dev *v);

/* What the guest last told of its memory; tags are VIRTIO_BALLOON_S_… */
struct virtio_balloon_stats {
    uint64_t value[VIRTIO_BALLOON_S_NR];
    uint32_t known; /* a bit for each tag that the guest told */
    uint64_t at_ns; /* when, by now_ns(); 0: never, since the last reset or load */
};

void virtio_balloon_stats(const struct virtio_dev *v, struct virtio_balloon_stats *out);

/* Asks the guest once; and that long after each answer, 0: no more. */
void virtio_balloon_ask(struct virtio_dev *v);
void virtio_balloon_ask_every(struct virtio_dev *v, unsigned ms);

struct virtio_balloon_counts {
    uint64_t held;     /* pages in the balloon, as counted here */
    uint64_t inflated; /* that ever went in */
    uint64_t deflated; /* and came out */
    uint64_t reported; /* bytes reported as free, and given back */
    uint64_t no_ram;   /* page numbers where no RAM is */
    uint64_t again;    /* pages that went in twice, or came out without being there */
    uint64_t torn;     /* requests that end within a page number */
    uint64_t refused;  /* times that the host did not take memory back */
};

void virtio_balloon_counts(const struct virtio_dev *v, struct virtio_balloon_counts *out);

#endif
