/*
 * The plan of a boot: which bytes go where in guest memory, before any of them do.
 *
 * A loader adds its pieces: those whose address the image dictates first, then those that may lie
 * anywhere (initrd, modules), which go as high as they can, and small structures into the scratch
 * area below 640 KiB. Adding checks that a piece lies in RAM as the memory map has it and meets no
 * other piece. Writing comes last and in one go.
 *
 * Left out: moving pieces that are in already, and finding the best fit. A machine has a handful of
 * pieces and plenty of room.
 */
#include <errno.h>
#include <inttypes.h>

#include "boot/boot_priv.h"
#include "hv/mem/donate.h"

#define HIGH_FLOOR MIB /* below it: firmware's memory, holes, scratch */

void plan_init(struct plan *plan, const struct mem *mem, const struct boot_layout *layout)
{
    *plan = (struct plan){.mem = mem, .layout = layout, .scratch_next = layout->scratch};
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    /* Neither wraps around: pieces and ranges were checked when they came in. */
    return a < b + b_size && b < a + a_size;
}

/* True if all of [gpa, gpa + size) is RAM in the memory map, which is sorted. Neighbouring ranges
 * count as one. */
static bool is_ram(const struct boot_layout *layout, uint64_t gpa, uint64_t size)
{
    uint64_t end;

    if (__builtin_add_overflow(gpa, size, &end))
        return false;
    for (unsigned i = 0; i < layout->count && gpa < end; i++) {
        const struct boot_range *r = &layout->ranges[i];
        if (r->type == BOOT_RANGE_RAM && gpa >= r->gpa && gpa - r->gpa < r->size)
            gpa = r->gpa + r->size;
    }
    return gpa >= end;
}

static bool overlaps_scratch(const struct boot_layout *layout, uint64_t gpa, uint64_t size)
{
    return overlaps(gpa, size, layout->scratch, layout->scratch_end - layout->scratch);
}

static int push(struct plan *plan, struct plan_piece piece, struct error *err)
{
    if (plan->count == PLAN_PIECES_MAX)
        return error_set(err, -ENOEXEC, "more than %d pieces to load", PLAN_PIECES_MAX);
    plan->pieces[plan->count++] = piece;
    return 0;
}

static int check_free(const struct plan *plan, uint64_t gpa, uint64_t size, struct error *err)
{
    if (!is_ram(plan->layout, gpa, size))
        return error_set(err, -E2BIG,
                         "0x%" PRIx64 " bytes at 0x%" PRIx64 " are not all in the guest's RAM",
                         size, gpa);
    if (overlaps_scratch(plan->layout, gpa, size))
        return error_set(err, -ENOEXEC,
                         "0x%" PRIx64 " bytes at 0x%" PRIx64
                         " overlap the loader's own memory at 0x%" PRIx64 "-0x%" PRIx64,
                         size, gpa, plan->layout->scratch, plan->layout->scratch_end);
    return 0;
}

int plan_add(struct plan *plan, const char *what, uint64_t gpa, struct bytes data, uint64_t size,
             struct error *err)
{
    struct plan_piece piece = {.what = what, .gpa = gpa, .size = size, .data = data};
    int rc;

    if (size == 0)
        return 0;
    rc = check_free(plan, gpa, size, err);
    if (rc < 0)
        return error_prefix(err, rc, "%s", what);
    for (unsigned i = 0; i < plan->count; i++) {
        const struct plan_piece *other = &plan->pieces[i];
        if (!other->reserved && overlaps(gpa, size, other->gpa, other->size))
            return error_set(err, -ENOEXEC, "%s at 0x%" PRIx64 " overlaps %s at 0x%" PRIx64, what,
                             gpa, other->what, other->gpa);
    }
    return push(plan, piece, err);
}

int plan_reserve(struct plan *plan, const char *what, uint64_t gpa, uint64_t size,
                 struct error *err)
{
    struct plan_piece piece = {.what = what, .gpa = gpa, .size = size, .reserved = true};
    int rc;

    if (size == 0)
        return 0;
    rc = check_free(plan, gpa, size, err);
    if (rc < 0)
        return error_prefix(err, rc, "%s", what);
    return push(plan, piece, err);
}

/* The start of something that [gpa, gpa + size) meets, or false when it is free. */
static bool find_obstacle(const struct plan *plan, uint64_t gpa, uint64_t size, uint64_t *start)
{
    const struct boot_layout *layout = plan->layout;

    for (unsigned i = 0; i < plan->count; i++) {
        const struct plan_piece *p = &plan->pieces[i];
        if (overlaps(gpa, size, p->gpa, p->size)) {
            *start = p->gpa;
            return true;
        }
    }
    for (unsigned i = 0; i < layout->count; i++) {
        const struct boot_range *r = &layout->ranges[i];
        if (r->type != BOOT_RANGE_RAM && overlaps(gpa, size, r->gpa, r->size)) {
            *start = r->gpa;
            return true;
        }
    }
    return false;
}

/* The highest free page-aligned place below `limit`: slide down from obstacle to obstacle. Each
 * step goes down, so it ends. */
static bool find_high(const struct plan *plan, uint64_t size, uint64_t limit, uint64_t *gpa)
{
    while (limit >= HIGH_FLOOR && size <= limit - HIGH_FLOOR) {
        uint64_t candidate = align_down(limit - size, MEM_PAGE_SIZE);
        if (candidate < HIGH_FLOOR)
            return false;
        if (!find_obstacle(plan, candidate, size, &limit)) {
            *gpa = candidate;
            return is_ram(plan->layout, candidate, size);
        }
    }
    return false;
}

int plan_add_high(struct plan *plan, const char *what, struct bytes data, uint64_t limit,
                  uint64_t *gpa, struct error *err)
{
    uint64_t top = limit < plan->layout->low_end ? limit : plan->layout->low_end;
    struct plan_piece piece = {.what = what, .size = data.size, .data = data};
    int rc;

    if (!find_high(plan, data.size, top, &piece.gpa))
        return error_set(err, -E2BIG,
                         "no room for %s (%zu bytes) in the guest's RAM below 0x%" PRIx64
                         "; give it more memory",
                         what, data.size, top);
    rc = push(plan, piece, err);
    if (rc == 0)
        *gpa = piece.gpa;
    return rc;
}

int plan_take_scratch(struct plan *plan, const char *what, uint64_t size, uint64_t align,
                      uint64_t *gpa, struct error *err)
{
    uint64_t end = plan->layout->scratch_end;
    uint64_t start;

    if (align_up(plan->scratch_next, align, &start) < 0 || !range_fits(start, size, end))
        return error_set(err, -E2BIG,
                         "no room for %s (%" PRIu64
                         " bytes) in the loader's memory, which ends at 0x%" PRIx64,
                         what, size, end);
    plan->scratch_next = start + size;
    *gpa = start;
    return 0;
}

int plan_add_scratch(struct plan *plan, const char *what, struct bytes data, uint64_t align,
                     uint64_t *gpa, struct error *err)
{
    struct plan_piece piece = {.what = what, .size = data.size, .data = data};
    int rc = plan_take_scratch(plan, what, data.size, align, &piece.gpa, err);

    if (rc == 0)
        rc = push(plan, piece, err);
    if (rc == 0)
        *gpa = piece.gpa;
    return rc;
}

/* As numbers: most pieces have no bytes in common, and some have none at all. */
static bool share_bytes(struct bytes a, struct bytes b)
{
    return (uintptr_t)a.data < (uintptr_t)b.data + b.size &&
           (uintptr_t)b.data < (uintptr_t)a.data + a.size;
}

/* The piece's bytes in the gift if nobody else needs them, or NULL: two segments of a hostile ELF
 * file may be cut from the same bytes. */
static uint8_t *donation(const struct plan *plan, const struct plan_piece *p)
{
    uintptr_t at = (uintptr_t)p->data.data - (uintptr_t)plan->gift;

    if (plan->gift == NULL || !range_fits(at, p->data.size, plan->gift_size))
        return NULL;
    for (unsigned i = 0; i < plan->count; i++)
        if (&plan->pieces[i] != p && share_bytes(plan->pieces[i].data, p->data))
            return NULL;
    return plan->gift + at;
}

static int write_piece(const struct plan *plan, const struct plan_piece *p)
{
    uint8_t *gift = donation(plan, p);
    int rc = gift != NULL ? mem_donate(plan->mem, p->gpa, gift, p->data.size)
                          : mem_write(plan->mem, p->gpa, p->data.data, p->data.size);

    if (rc < 0)
        return rc;
    return mem_zero(plan->mem, p->gpa + p->data.size, p->size - p->data.size);
}

int plan_write(const struct plan *plan, struct error *err)
{
    for (unsigned i = 0; i < plan->count; i++) {
        const struct plan_piece *p = &plan->pieces[i];
        int rc = p->reserved ? 0 : write_piece(plan, p);
        if (rc < 0) /* the memory map promises RAM that the machine does not have */
            return error_set(err, -E2BIG, "%s at 0x%" PRIx64 " is outside guest memory", p->what,
                             p->gpa);
    }
    return 0;
}
