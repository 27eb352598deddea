/*
 * The bus: from an address to a device's register.
 *
 * The windows are sorted and never overlap, so an address lies in one of them or in the gap before
 * one. An access is cut into pieces, each of which lies wholly in one window or wholly in one gap,
 * and is of a size that the device takes.
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

#include "hv/base/todo.h"

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
    /* EXERCISE 2.3: the search that every access of every guest goes through: make it a binary one.
     * bus->windows has bus->count entries, sorted by base, none empty, none overlapping. A window's
     * last byte may be the last one that 64 bits can name: base + size is 2^64 then, which is 0. */
    // SOLUTION 2.3
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
    // ELSE
    // (void)todo("2.3");
    // return bus->count;
    // BEFORE
    // unsigned at = 0;
    //
    // while (at < bus->count && bus->windows[at].base + (bus->windows[at].size - 1) < addr)
    //     at++;
    // return at;
    // END 2.3
}

/* bus_map(), with what it refuses. */
static int insert_locked(struct bus *bus, const struct bus_window *window)
{
    /* EXERCISE 2.4: put the window into bus->windows, which stays sorted by base, or refuse it and
     * change nothing. -EINVAL: it is empty, or does not lie wholly at or below bus->limit, or its
     * registers, from window->offset on, would run past 2^64. -EEXIST: it has an address in common
     * with another window. -ENOSPC: there are BUS_WINDOWS_MAX already. All numbers may be as large
     * as 64 bits allow: no sum of two of them is safe before you know that it fits. */
    // SOLUTION 2.4
    if (window->size == 0 || window->base > bus->limit ||
        window->size - 1 > bus->limit - window->base)
        return -EINVAL;
    if (window->size - 1 > UINT64_MAX - window->offset)
        return -EINVAL;

    unsigned at = window_at_or_after_locked(bus, window->base);
    if (at < bus->count && bus->windows[at].base <= window->base + (window->size - 1))
        return -EEXIST;
    if (bus->count == BUS_WINDOWS_MAX)
        return -ENOSPC;
    memmove(&bus->windows[at + 1], &bus->windows[at], (bus->count - at) * sizeof(bus->windows[0]));
    bus->windows[at] = *window;
    bus->count++;
    return 0;
    // ELSE
    // return todo("2.4");
    // BEFORE
    // /* The board names its few windows in ascending order, and they do not overlap. */
    // bus->windows[bus->count++] = *window;
    // return 0;
    // END 2.4
}

int bus_map(struct bus *bus, uint64_t base, uint64_t size, struct device *dev, uint64_t offset)
{
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

/* EXERCISE 2.5: piece_at_locked(): what answers at `addr`, and for how many of the next `size` (1
 * to 8) bytes. In a window: its device, and the offset in the device's register space, which begins
 * with window.offset. In a gap: no device. Either way the piece ends where the window or the gap
 * ends. A device's piece has also to be of a size that devices take: 1, 2, 4 or 8 bytes, and at
 * most ops->max_access. The rest of the access is somebody else's call. */
// SOLUTION 2.5
/* Bytes that remain of `size` when at most `most` (> 0) fit. */
static unsigned clip(unsigned size, uint64_t most)
{
    return size < most ? size : (unsigned)most;
}

/* Devices take 1, 2, 4 or 8 bytes, up to their widest register. */
static unsigned access_size(const struct device *dev, unsigned size)
{
    unsigned n = dev->ops->max_access;

    while (n > size)
        n /= 2;
    return n;
}

static struct piece piece_at_locked(const struct bus *bus, uint64_t addr, unsigned size)
{
    unsigned at = window_at_or_after_locked(bus, addr);

    if (at == bus->count)
        return (struct piece){.size = size};

    const struct bus_window *w = &bus->windows[at];
    if (addr < w->base)
        return (struct piece){.size = clip(size, w->base - addr)};

    uint64_t inside = addr - w->base;
    return (struct piece){
        .dev = w->dev,
        .offset = w->offset + inside,
        .size = access_size(w->dev, clip(size, w->size - inside)),
    };
}
// ELSE
// static struct piece piece_at_locked(const struct bus *bus, uint64_t addr, unsigned size)
// {
//     (void)todo("2.5");
//     (void)window_at_or_after_locked(bus, addr);
//     return (struct piece){.size = size};
// }
// BEFORE
// /* Every access is taken apart into bytes. */
// static struct piece piece_at_locked(const struct bus *bus, uint64_t addr, unsigned size)
// {
//     unsigned at = window_at_or_after_locked(bus, addr);
//     const struct bus_window *w = &bus->windows[at];
//
//     if (at == bus->count || addr < w->base)
//         return (struct piece){.size = 1};
//     return (struct piece){.dev = w->dev, .offset = w->offset + (addr - w->base), .size = 1};
// }
// END 2.5

/* What answers first of an access, and for how many of its bytes. */
static struct piece next_piece(struct bus *bus, uint64_t addr, unsigned size)
{
    pthread_rwlock_rdlock(&bus->lock);
    struct piece piece = piece_at_locked(bus, addr, size);
    pthread_rwlock_unlock(&bus->lock);
    return piece;
}

/* EXERCISE 2.6: bus_read() and bus_write(): one access of 1 to 8 bytes, carried out piece by piece,
 * next_piece() after next_piece(), with dev_read() and dev_write(). `data` are the guest's bytes,
 * the one at the lowest address first. Bytes that no device answers read as 0xff, writes to them
 * vanish, and either way they are counted in bus->unclaimed, which several threads add to. So it is
 * with bytes beyond bus->limit: behind the last address comes nothing, not address 0. */
// SOLUTION 2.6
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
// ELSE
// void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned size)
// {
//     (void)todo("2.6");
//     memset(data, 0xff, size);
// }
//
// void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned size)
// {
//     (void)todo("2.6");
// }
// BEFORE
// void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned size)
// {
//     uint8_t *out = data;
//
//     for (unsigned i = 0; i < size; i++) {
//         struct piece piece = next_piece(bus, addr + i, 1);
//         out[i] = piece.dev ? (uint8_t)dev_read(piece.dev, piece.offset, 1) : 0xff;
//     }
// }
//
// void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned size)
// {
//     const uint8_t *in = data;
//
//     for (unsigned i = 0; i < size; i++) {
//         struct piece piece = next_piece(bus, addr + i, 1);
//         if (piece.dev)
//             dev_write(piece.dev, piece.offset, 1, in[i]);
//     }
// }
// END 2.6

struct device *bus_find(struct bus *bus, uint64_t addr)
{
    return addr > bus->limit ? NULL : next_piece(bus, addr, 1).dev;
}
