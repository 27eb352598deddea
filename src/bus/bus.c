/*
 * The bus: from an address to a device's register.
 *
 * The windows are kept sorted and never overlap, so one binary search finds the window of an
 * address, or the gap it lies in. An access is cut into pieces, each of which lies wholly in one
 * window or wholly in one gap, and is of a size that the device takes.
 *
 * The lock is held for the search alone, never while a device runs: a device may therefore move
 * windows of the bus it is reached through (a PCI configuration write does). The price: an access
 * that had found its window may reach the device for a moment after bus_unmap() returned.
 */
#include "hv/bus/bus.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

/* A stretch of the bus that one device answers, or (dev == NULL) that nobody does. */
struct piece {
    struct device *dev;
    uint64_t offset; /* in the device's register space */
    unsigned size;   /* bytes */
};

void bus_init(struct bus *bus, uint64_t limit)
{
    pthread_rwlockattr_t attr;

    memset(bus, 0, sizeof(*bus));
    bus->limit = limit;
    /* Lookups never stop coming while vCPUs run: without this preference a change of the windows
     * could wait for ever. Lookups do not nest, so it cannot deadlock. */
    (void)pthread_rwlockattr_init(&attr); /* none of these four can fail on Linux */
    (void)pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    (void)pthread_rwlock_init(&bus->lock, &attr);
    (void)pthread_rwlockattr_destroy(&attr);
}

void bus_fini(struct bus *bus)
{
    (void)pthread_rwlock_destroy(&bus->lock); /* fails only for a held lock: a bug of ours */
}

/* The index of the first window that ends after `addr`: the one that holds addr, else the next one
 * above it, else count. */
static unsigned window_at_or_after_locked(const struct bus *bus, uint64_t addr)
{
    unsigned low = 0, high = bus->count;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        const struct bus_window *w = &bus->windows[mid];

        /* w->base + w->size may be 2^64: compare the last byte. */
        if (w->base + (w->size - 1) < addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int insert_locked(struct bus *bus, const struct bus_window *window)
{
    unsigned at = window_at_or_after_locked(bus, window->base);

    if (at < bus->count && bus->windows[at].base <= window->base + (window->size - 1))
        return -EEXIST;
    if (bus->count == BUS_WINDOWS_MAX)
        return -ENOSPC;
    memmove(&bus->windows[at + 1], &bus->windows[at], (bus->count - at) * sizeof(bus->windows[0]));
    bus->windows[at] = *window;
    bus->count++;
    return 0;
}

int bus_map(struct bus *bus, uint64_t base, uint64_t size, struct device *dev, uint64_t offset)
{
    if (size == 0 || base > bus->limit || size - 1 > bus->limit - base)
        return -EINVAL;
    if (size - 1 > UINT64_MAX - offset)
        return -EINVAL;

    struct bus_window window = {.base = base, .size = size, .dev = dev, .offset = offset};
    pthread_rwlock_wrlock(&bus->lock);
    int err = insert_locked(bus, &window);
    pthread_rwlock_unlock(&bus->lock);
    return err;
}

static int remove_locked(struct bus *bus, uint64_t base)
{
    unsigned at = window_at_or_after_locked(bus, base);

    if (at == bus->count || bus->windows[at].base != base)
        return -ENOENT;
    bus->count--;
    memmove(&bus->windows[at], &bus->windows[at + 1], (bus->count - at) * sizeof(bus->windows[0]));
    return 0;
}

int bus_unmap(struct bus *bus, uint64_t base)
{
    pthread_rwlock_wrlock(&bus->lock);
    int err = remove_locked(bus, base);
    pthread_rwlock_unlock(&bus->lock);
    return err;
}

/* Bytes that remain of `size` when at most `most` (> 0) fit. */
static unsigned clip(unsigned size, uint64_t most)
{
    return size < most ? size : (unsigned)most;
}

/* What answers at `addr`, and for how many of the next `size` bytes. */
static struct piece find_locked(const struct bus *bus, uint64_t addr, unsigned size)
{
    unsigned at = window_at_or_after_locked(bus, addr);

    if (at == bus->count)
        return (struct piece){.size = size};

    const struct bus_window *w = &bus->windows[at];
    if (addr < w->base)
        return (struct piece){.size = clip(size, w->base - addr)};
    return (struct piece){
        .dev = w->dev,
        .offset = w->offset + (addr - w->base),
        .size = clip(size, w->size - (addr - w->base)),
    };
}

/* Devices take 1, 2, 4 or 8 bytes, up to their widest register. */
static unsigned access_size(const struct device *dev, unsigned size)
{
    unsigned n = dev->ops->max_access;

    while (n > size)
        n /= 2;
    return n;
}

/* The next piece of an access, with a size that its device takes. */
static struct piece next_piece(struct bus *bus, uint64_t addr, unsigned size)
{
    pthread_rwlock_rdlock(&bus->lock);
    struct piece piece = find_locked(bus, addr, size);
    pthread_rwlock_unlock(&bus->lock);
    if (piece.dev)
        piece.size = access_size(piece.dev, piece.size);
    return piece;
}

/* How many of the access's bytes lie on the bus: an access may cross its last address. */
static unsigned size_within_limit(const struct bus *bus, uint64_t addr, unsigned size)
{
    if (addr > bus->limit)
        return 0;
    return size - 1 > bus->limit - addr ? (unsigned)(bus->limit - addr) + 1 : size;
}

static void count_unclaimed(struct bus *bus, unsigned bytes)
{
    /* A statistic: nothing is ordered by it. */
    atomic_fetch_add_explicit(&bus->unclaimed, bytes, memory_order_relaxed);
}

void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned size)
{
    assert(size >= 1 && size <= 8);
    uint8_t *out = data;
    unsigned inside = size_within_limit(bus, addr, size);

    for (unsigned done = 0; done < inside;) {
        struct piece piece = next_piece(bus, addr + done, inside - done);
        uint64_t value = UINT64_MAX; /* what an undriven bus floats to */

        if (piece.dev)
            value = dev_read(piece.dev, piece.offset, piece.size);
        else
            count_unclaimed(bus, piece.size);
        memcpy(out + done, &value, piece.size);
        done += piece.size;
    }
    if (inside < size) {
        memset(out + inside, 0xff, size - inside);
        count_unclaimed(bus, size - inside);
    }
}

void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned size)
{
    assert(size >= 1 && size <= 8);
    const uint8_t *in = data;
    unsigned inside = size_within_limit(bus, addr, size);

    for (unsigned done = 0; done < inside;) {
        struct piece piece = next_piece(bus, addr + done, inside - done);
        uint64_t value = 0;

        memcpy(&value, in + done, piece.size);
        if (piece.dev)
            dev_write(piece.dev, piece.offset, piece.size, value);
        else
            count_unclaimed(bus, piece.size);
        done += piece.size;
    }
    if (inside < size)
        count_unclaimed(bus, size - inside);
}

struct device *bus_find(struct bus *bus, uint64_t addr)
{
    if (addr > bus->limit)
        return NULL;

    pthread_rwlock_rdlock(&bus->lock);
    struct piece piece = find_locked(bus, addr, 1);
    pthread_rwlock_unlock(&bus->lock);
    return piece.dev;
}
