/*
 * Breakpoints and watchpoints: int3 in the guest's memory, and addresses in debug registers.
 *
 * An int3 is planted at the physical address that the virtual one has at that moment. Should the
 * guest put something else there later, our byte is gone, and is not put back when the breakpoint
 * goes: only an int3 is ever replaced.
 */
#include <errno.h>
#include <string.h>

#include "control/gdb_priv.h"
#include "hv/base/num.h"

/* --- int3 --- */

static void plant(const struct mem *mem, struct gdb_break *b)
{
    const uint8_t int3 = GDB_INT3;

    b->planted = mem_rom_write(mem, b->pa, &int3, 1) == 0;
}

static bool shares_byte(const struct gdb_traps *t, const struct gdb_break *b)
{
    for (unsigned i = 0; i < t->break_count; i++)
        if (&t->breaks[i] != b && t->breaks[i].planted && t->breaks[i].pa == b->pa)
            return true;
    return false;
}

static void unplant(const struct gdb_traps *t, const struct mem *mem, struct gdb_break *b)
{
    uint8_t now;

    if (!b->planted)
        return;
    b->planted = false;
    if (shares_byte(t, b))
        return;
    if (mem_read(mem, b->pa, &now, 1) == 0 && now == GDB_INT3)
        (void)!mem_rom_write(mem, b->pa, &b->instead, 1); /* it could be read, so it is there */
}

static struct gdb_break *find_break(struct gdb_traps *t, uint64_t va)
{
    for (unsigned i = 0; i < t->break_count; i++)
        if (t->breaks[i].va == va)
            return &t->breaks[i];
    return NULL;
}

static int add_int3(struct gdb_traps *t, const struct gdb_target *target,
                    const struct kvm_sregs *sregs, uint64_t va)
{
    struct gdb_break b = {.va = va};

    if (find_break(t, va) != NULL)
        return 0;
    if (t->break_count == GDB_BREAKS_MAX)
        return -ENOSPC;
    int rc = gdb_translate(target->mem, sregs, va, &b.pa);
    if (rc == 0)
        rc = gdb_read_physical(t, target->mem, b.pa, &b.instead, 1);
    if (rc < 0)
        return rc;
    plant(target->mem, &b);
    t->breaks[t->break_count++] = b;
    return 0;
}

static void remove_int3(struct gdb_traps *t, const struct gdb_target *target, uint64_t va)
{
    struct gdb_break *b = find_break(t, va);

    if (b == NULL)
        return;
    unplant(t, target->mem, b);
    *b = t->breaks[--t->break_count];
}

void gdb_traps_lift(struct gdb_traps *t, const struct gdb_target *target, uint64_t va, bool lift)
{
    struct gdb_break *b = find_break(t, va);

    if (b == NULL)
        return;
    if (lift)
        unplant(t, target->mem, b);
    else
        plant(target->mem, b);
}

/* --- debug registers --- */

/* The largest naturally aligned piece at the front of [va, va + len): SDM 3B §17.2.5. */
static uint8_t front_piece(uint64_t va, uint64_t len)
{
    uint8_t n = 8;

    while (va % n != 0 || n > len)
        n /= 2;
    return n;
}

static unsigned count_pieces(uint64_t va, uint64_t len)
{
    unsigned n = 0;

    for (uint8_t piece; len > 0 && n <= DEBUG_SLOTS; n++, va += piece, len -= piece)
        piece = front_piece(va, len);
    return n;
}

static unsigned free_slots(const struct gdb_traps *t)
{
    unsigned n = 0;

    for (unsigned i = 0; i < DEBUG_SLOTS; i++)
        n += t->slots[i].len == 0;
    return n;
}

static bool covers(const struct gdb_traps *t, unsigned slot, enum gdb_trap_type type, uint64_t va,
                   uint64_t len)
{
    const struct debug_slot *s = &t->slots[slot];

    return s->len != 0 && t->slot_types[slot] == type && s->addr >= va && s->addr - va < len;
}

static bool has_slot(const struct gdb_traps *t, enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    for (unsigned i = 0; i < DEBUG_SLOTS; i++)
        if (covers(t, i, type, va, len))
            return true;
    return false;
}

static void take_slot(struct gdb_traps *t, enum gdb_trap_type type, struct debug_slot slot)
{
    for (unsigned i = 0; i < DEBUG_SLOTS; i++) {
        if (t->slots[i].len == 0) {
            t->slots[i] = slot;
            t->slot_types[i] = type;
            return;
        }
    }
}

static int add_slots(struct gdb_traps *t, enum gdb_trap_type type, enum debug_access access,
                     uint64_t va, uint64_t len)
{
    if (len == 0 || !range_fits(va, len, UINT64_MAX))
        return -EINVAL;
    if (has_slot(t, type, va, len))
        return 0;
    if (count_pieces(va, len) > free_slots(t))
        return -ENOSPC;
    for (uint8_t n; len > 0; va += n, len -= n) {
        n = front_piece(va, len);
        take_slot(t, type, (struct debug_slot){.addr = va, .len = n, .access = access});
    }
    return 0;
}

static void remove_slots(struct gdb_traps *t, enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    for (unsigned i = 0; i < DEBUG_SLOTS; i++)
        if (covers(t, i, type, va, len))
            t->slots[i].len = 0;
}

/* --- both --- */

int gdb_trap_add(struct gdb_traps *t, const struct gdb_target *target,
                 const struct kvm_sregs *sregs, enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    switch (type) {
    case GDB_SOFTWARE:
        if (target->has_int3)
            return add_int3(t, target, sregs, va);
        return add_slots(t, type, DEBUG_EXECUTE, va, 1);
    case GDB_HARDWARE:
        return add_slots(t, type, DEBUG_EXECUTE, va, 1);
    case GDB_WATCH_WRITE:
        return target->has_int3 ? add_slots(t, type, DEBUG_WRITE, va, len) : -ENOTSUP;
    case GDB_WATCH_ACCESS:
        return target->has_int3 ? add_slots(t, type, DEBUG_READ_WRITE, va, len) : -ENOTSUP;
    case GDB_WATCH_READ: /* no processor has these; gdb makes do with the one above */
        return -ENOTSUP;
    }
    return -ENOTSUP;
}

void gdb_trap_remove(struct gdb_traps *t, const struct gdb_target *target, enum gdb_trap_type type,
                     uint64_t va, uint64_t len)
{
    if (type == GDB_SOFTWARE)
        remove_int3(t, target, va);
    remove_slots(t, type, va, type <= GDB_HARDWARE ? 1 : len);
}

void gdb_traps_clear(struct gdb_traps *t, const struct gdb_target *target)
{
    while (t->break_count > 0)
        remove_int3(t, target, t->breaks[0].va);
    memset(t->slots, 0, sizeof(t->slots));
}

void gdb_traps_forget_breaks(struct gdb_traps *t)
{
    t->break_count = 0;
}

bool gdb_traps_stop_at(const struct gdb_traps *t, uint64_t va)
{
    for (unsigned i = 0; i < t->break_count; i++)
        if (t->breaks[i].planted && t->breaks[i].va == va)
            return true;
    return has_slot(t, GDB_SOFTWARE, va, 1) || has_slot(t, GDB_HARDWARE, va, 1);
}

void gdb_traps_fill(const struct gdb_traps *t, struct debug_traps *out, const uint64_t *skip)
{
    for (unsigned i = 0; i < t->break_count; i++)
        out->int3 |= t->breaks[i].planted;
    memcpy(out->slots, t->slots, sizeof(out->slots));
    for (unsigned i = 0; skip != NULL && i < DEBUG_SLOTS; i++)
        if (out->slots[i].access == DEBUG_EXECUTE && out->slots[i].addr == *skip)
            out->slots[i].len = 0;
}
