/*
 * Pages that go into the balloon and come out (VIRTIO 1.2 §5.5.6), and those that are reported to
 * be free (§5.5.6.7).
 *
 * A bitmap remembers what is inside. It makes a number that comes twice harmless, and it says when
 * all of a huge page is there: the host takes nothing less. Numbers that follow each other go back
 * to the host in one call.
 *
 * A page that comes out needs nothing from us: the host gives a new one when it is touched. So the
 * driver is not told to ask first (VIRTIO_BALLOON_F_MUST_TELL_HOST).
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/mem/release.h"
#include "virtio/balloon_priv.h"

#define NUMBER sizeof(__le32)
#define NUMBERS 256             /* page numbers that are copied at a time */
#define BUDGET_PAGES 1024       /* in one go: others use this thread, too */
#define BUDGET_BYTES (64 * MIB) /* reported, likewise */
#define BUDGET_CHAINS 64
#define SLICE (2 * MIB) /* reported memory is cut at multiples of this */
#define WORD_BITS 64

/* --- the bitmap --- */

static bool is_ram(const struct mem_region *r)
{
    return r->kind == MEM_RAM;
}

int balloon_pages_init(struct balloon *b)
{
    for (unsigned i = 0; i < b->mem->count; i++)
        if (is_ram(&b->mem->regions[i]))
            b->pages += b->mem->regions[i].size / VIRTIO_BALLOON_PAGE;
    b->inside = calloc(balloon_words(b) + 1, sizeof(*b->inside)); /* + 1: never of size 0 */
    return b->inside ? 0 : -ENOMEM;
}

size_t balloon_words(const struct balloon *b)
{
    return (size_t)((b->pages + WORD_BITS - 1) / WORD_BITS);
}

static bool is_inside(const struct balloon *b, uint64_t page)
{
    return b->inside[page / WORD_BITS] >> page % WORD_BITS & 1;
}

static void flip_inside(struct balloon *b, uint64_t page)
{
    b->inside[page / WORD_BITS] ^= UINT64_C(1) << page % WORD_BITS;
}

/* Where a page number points: the region, and the page's place in the bitmap. */
struct spot {
    const struct mem_region *region;
    uint64_t page;
};

/* False: there is no RAM. */
static bool find_spot(const struct balloon *b, uint32_t pfn, struct spot *out)
{
    uint64_t gpa = (uint64_t)pfn << VIRTIO_BALLOON_PFN_SHIFT, before = 0;

    for (unsigned i = 0; i < b->mem->count; i++) {
        const struct mem_region *r = &b->mem->regions[i];
        if (!is_ram(r))
            continue;
        if (gpa - r->gpa < r->size) { /* below r->gpa wraps to something large */
            *out = (struct spot){r, before + (gpa - r->gpa) / VIRTIO_BALLOON_PAGE};
            return true;
        }
        before += r->size / VIRTIO_BALLOON_PAGE;
    }
    return false;
}

/* --- giving back --- */

/* A number that follows no rule harms nobody; the log hears of the first. */
static void complain(struct balloon *b, _Atomic uint64_t *counter, uint32_t pfn, const char *what)
{
    balloon_count(counter, 1);
    if (!b->complained)
        log_msg(b->log, LOG_WARN, "%s: the driver named page 0x%x, %s; more is only counted",
                b->v.name, pfn, what);
    b->complained = true;
}

static void check_release(struct balloon *b, int rc)
{
    if (rc == 0)
        return;
    balloon_count(&b->refused, 1);
    if (!b->complained)
        log_msg(b->log, LOG_WARN, "%s: the host does not take memory back: %s", b->v.name,
                strerror(-rc));
    b->complained = true;
}

/* Pages that went in, one after the other, in one region. */
struct run {
    const struct mem_region *region; /* NULL: there are none */
    uint64_t first, count;           /* places in the bitmap */
    uint64_t gpa;                    /* of the first */
};

/* Are all of `count` pages from `first` on inside? */
static bool are_inside(const struct balloon *b, uint64_t first, uint64_t count)
{
    while (count > 0 && is_inside(b, first))
        first++, count--;
    return count == 0;
}

/* Gives back what the host can take of a run: its pages, or the huge pages that became whole. */
static void release_run(struct balloon *b, const struct run *run)
{
    if (run->region == NULL)
        return;
    uint64_t unit = mem_release_unit(run->region), pages = unit / VIRTIO_BALLOON_PAGE;
    uint64_t size = run->count * VIRTIO_BALLOON_PAGE;

    if (pages == 1) {
        check_release(b, mem_release(b->mem, run->gpa, size));
        return;
    }
    uint64_t base = run->first - (run->gpa - run->region->gpa) / VIRTIO_BALLOON_PAGE;
    for (uint64_t at = align_down(run->gpa, unit); at < run->gpa + size; at += unit)
        if (are_inside(b, base + (at - run->region->gpa) / VIRTIO_BALLOON_PAGE, pages))
            check_release(b, mem_release(b->mem, at, unit));
}

/* Adds a page to the run; where it does not fit, the run is given back and a new one begun. */
static void extend(struct balloon *b, struct run *run, uint32_t pfn, const struct spot *spot)
{
    uint64_t gpa = (uint64_t)pfn << VIRTIO_BALLOON_PFN_SHIFT;

    if (run->region == spot->region && spot->page == run->first + run->count) {
        run->count++;
    } else if (run->region == spot->region && spot->page + 1 == run->first) {
        run->first--;
        run->count++;
        run->gpa = gpa;
    } else {
        release_run(b, run);
        *run = (struct run){spot->region, spot->page, 1, gpa};
    }
}

/* --- the queues of page numbers --- */

static void inflate(struct balloon *b, uint32_t pfn, struct run *run)
{
    struct spot spot;

    if (!find_spot(b, pfn, &spot)) {
        complain(b, &b->no_ram, pfn, "where no RAM is");
    } else if (is_inside(b, spot.page)) {
        complain(b, &b->again, pfn, "which is in the balloon already");
    } else {
        flip_inside(b, spot.page);
        balloon_count(&b->held, 1);
        balloon_count(&b->inflated, 1);
        extend(b, run, pfn, &spot);
    }
}

static void deflate(struct balloon *b, uint32_t pfn)
{
    struct spot spot;

    if (!find_spot(b, pfn, &spot)) {
        complain(b, &b->no_ram, pfn, "where no RAM is");
    } else if (!is_inside(b, spot.page)) {
        complain(b, &b->again, pfn, "which is not in the balloon");
    } else {
        flip_inside(b, spot.page);
        atomic_fetch_sub_explicit(&b->held, 1, memory_order_relaxed);
        balloon_count(&b->deflated, 1);
    }
}

/* Takes up to `max` page numbers of a chain from its byte `at` on; returns how many there were. */
static size_t take_numbers(struct balloon *b, const struct vq_chain *chain, uint64_t at, size_t max,
                           bool in)
{
    __le32 numbers[NUMBERS];
    struct run run = {.region = NULL};
    size_t n = max < NUMBERS ? max : NUMBERS;

    n = vq_chain_read(chain, at, numbers, n * NUMBER) / NUMBER;
    for (size_t i = 0; i < n; i++) {
        if (in)
            inflate(b, le32toh(numbers[i]), &run);
        else
            deflate(b, le32toh(numbers[i]));
    }
    release_run(b, &run);
    return n;
}

/* Works on a chain of page numbers. True: that is done; false: *budget is. */
static bool work_on_numbers(struct balloon *b, const struct vq_chain *chain, uint64_t *done,
                            uint64_t *budget, bool in)
{
    while (chain->out_size >= NUMBER && *done <= chain->out_size - NUMBER) {
        if (*budget == 0)
            return false;
        size_t n = take_numbers(b, chain, *done, (size_t)*budget, in);
        *done += n * NUMBER;
        *budget -= n;
    }
    if (chain->out_size % NUMBER != 0)
        balloon_count(&b->torn, 1);
    return true;
}

/* §5.5.6.7: the pages of a chain, from its byte *done on; what is split between two slices or lies
 * at an end stays. True: that is done; false: *budget is. */
static bool work_on_report(struct balloon *b, const struct vq_chain *chain, uint64_t *done,
                           uint64_t *budget)
{
    uint64_t before = 0;

    for (unsigned i = 0; i < chain->in_count; before += chain->iov[i].iov_len, i++) {
        const struct iovec *piece = &chain->iov[i];

        while (*done - before < piece->iov_len) {
            uint64_t at = *done - before, left = piece->iov_len - at;
            const struct iovec slice = {(uint8_t *)piece->iov_base + at,
                                        left < SLICE ? left : SLICE};
            if (*budget < slice.iov_len)
                return false;
            check_release(b, mem_release_piece(b->mem, &slice));
            balloon_count(&b->reported, slice.iov_len);
            *done += slice.iov_len;
            *budget -= slice.iov_len;
        }
    }
    return true;
}

/* --- chains --- */

/* Numbers are read and free pages are written, never both in one chain. */
static bool is_well_formed(const struct vq_chain *chain, bool is_report)
{
    return is_report ? chain->out_size == 0 : chain->in_size == 0;
}

static bool work(struct balloon *b, unsigned queue, const struct vq_chain *chain, uint64_t *budget,
                 bool is_report)
{
    uint64_t *done = &b->places[queue].done;

    if (is_report)
        return work_on_report(b, chain, done, budget);
    return work_on_numbers(b, chain, done, budget, queue == BALLOON_INFLATE);
}

enum result { NONE, DONE, TIRED };

/* Takes up the next chain where it was left; TIRED: it is left there again. */
static enum result serve_one(struct balloon *b, struct virtio_queue *q, uint64_t *budget,
                             bool is_report)
{
    struct iovec iov[BALLOON_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = BALLOON_PIECES};
    struct balloon_place *place = &b->places[q->index];
    uint16_t number = q->vq.next_avail;

    if (vq_pop(&q->vq, &chain) <= 0)
        return NONE;
    if (!is_well_formed(&chain, is_report)) {
        vq_break(&q->vq);
        return NONE;
    }
    if (place->of != number) /* the queue began anew meanwhile */
        place->done = 0;
    place->of = number;
    if (!work(b, q->index, &chain, budget, is_report)) {
        vq_unpop(&q->vq, 1);
        return TIRED;
    }
    vq_push(&q->vq, &chain, 0);
    *place = (struct balloon_place){.of = q->vq.next_avail};
    return DONE;
}

static void serve(struct balloon *b, struct virtio_queue *q, uint64_t budget, bool is_report)
{
    for (unsigned chains = 0;; chains++) {
        enum result result = chains < BUDGET_CHAINS ? serve_one(b, q, &budget, is_report) : TIRED;
        if (result == TIRED)
            virtio_kick(q); /* to be continued */
        if (result == TIRED || (result == NONE && !vq_unmute(&q->vq)))
            break;
    }
    virtio_publish(q);
}

void balloon_pages_serve(struct balloon *b, struct virtio_queue *q)
{
    serve(b, q, BUDGET_PAGES, false);
}

void balloon_report_serve(struct balloon *b, struct virtio_queue *q)
{
    serve(b, q, BUDGET_BYTES, true);
}
