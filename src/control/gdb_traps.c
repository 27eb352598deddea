/*
 * Breakpoints and watchpoints: instructions planted in the guest's memory, and addresses in debug
 * registers.
 *
 * What is planted is int3, of one byte, or, where this KVM lets int3 pass unseen, an `out` to a
 * port that stands for it. The `out` has two bytes, and works only where the guest may access
 * ports: in its kernel. If the instruction at the breakpoint is shorter than that and something
 * jumps to the one behind it, that jump meets half an `out`.
 *
 * It is planted at the physical address that the virtual one has at that moment. Should the guest
 * put something else there later, our bytes are gone, and the old ones are not put back when the
 * breakpoint goes: only a planted instruction is ever replaced.
 */
#include <errno.h>
#include <string.h>

#include "control/gdb_priv.h"
#include "hv/base/num.h"

static const struct gdb_trap_code int3 = {{GDB_INT3}, 1};
static const struct gdb_trap_code out = {{0xe6, DEBUG_TRAP_PORT}, 2}; /* out %al, $port */

void gdb_traps_init(struct gdb_traps *t, const struct debug_means *means)
{
    *t = (struct gdb_traps){.code = means->int3 ? &int3 : &out};
}

/* --- planted instructions --- */

static void plant(const struct gdb_traps *t, const struct mem *mem, struct gdb_break *b)
{
    b->planted = mem_rom_write(mem, b->pa, t->code->bytes, t->code->len) == 0;
}

/* Two virtual addresses can be the same bytes. */
static bool shares_bytes(const struct gdb_traps *t, const struct gdb_break *b)
{
    for (unsigned i = 0; i < t->break_count; i++)
        if (&t->breaks[i] != b && t->breaks[i].planted && t->breaks[i].pa == b->pa)
            return true;
    return false;
}

static bool overlaps(const struct gdb_traps *t, const struct gdb_break *b)
{
    for (unsigned i = 0; i < t->break_count; i++) {
        uint64_t pa = t->breaks[i].pa;
        if (pa != b->pa && pa < b->pa + t->code->len && b->pa < pa + t->code->len)
            return true;
    }
    return false;
}

static void unplant(const struct gdb_traps *t, const struct mem *mem, struct gdb_break *b)
{
    uint8_t now[GDB_TRAP_CODE_MAX];

    if (!b->planted)
        return;
    b->planted = false;
    if (shares_bytes(t, b) || mem_read(mem, b->pa, now, t->code->len) < 0)
        return;
    if (memcmp(now, t->code->bytes, t->code->len) == 0)
        (void)!mem_rom_write(mem, b->pa, b->instead, t->code->len); /* it could be read, too */
}

static struct gdb_break *find_break(struct gdb_traps *t, uint64_t va)
{
    for (unsigned i = 0; i < t->break_count; i++)
        if (t->breaks[i].va == va)
            return &t->breaks[i];
    return NULL;
}

static int add_break(struct gdb_traps *t, const struct gdb_target *target,
                     const struct kvm_sregs *sregs, uint64_t va)
{
    struct gdb_break b = {.va = va};

    if (find_break(t, va) != NULL)
        return 0;
    if (t->break_count == GDB_BREAKS_MAX)
        return -ENOSPC;
    int rc = gdb_translate(target->mem, sregs, va, &b.pa);
    if (rc == 0 && b.pa % MEM_PAGE_SIZE + t->code->len > MEM_PAGE_SIZE)
        rc = -EFAULT; /* the rest may be anywhere */
    if (rc == 0 && overlaps(t, &b))
        rc = -EEXIST;
    if (rc == 0)
        rc = gdb_read_physical(t, target->mem, b.pa, b.instead, t->code->len);
    if (rc < 0)
        return rc;
    plant(t, target->mem, &b);
    t->breaks[t->break_count++] = b;
    return 0;
}

static void remove_break(struct gdb_traps *t, const struct gdb_target *target, uint64_t va)
{
    struct gdb_break *b = find_break(t, va);

    if (b == NULL)
        return;
    unplant(t, target->mem, b);
    *b = t->breaks[--t->break_count];
}

void gdb_traps_lift(struct gdb_traps *t, const struct mem *mem, uint64_t pa, bool lift)
{
    for (unsigned i = 0; i < t->break_count; i++) {
        if (t->breaks[i].pa != pa)
            continue;
        if (lift)
            unplant(t, mem, &t->breaks[i]);
        else
            plant(t, mem, &t->breaks[i]);
    }
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

static bool is_planted(const struct gdb_target *target, enum gdb_trap_type type)
{
    return type == GDB_SOFTWARE || (type == GDB_HARDWARE && !target->means.execute);
}

int gdb_trap_add(struct gdb_traps *t, const struct gdb_target *target,
                 const struct kvm_sregs *sregs, enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    if (is_planted(target, type))
        return add_break(t, target, sregs, va);
    switch (type) {
    case GDB_HARDWARE:
        return add_slots(t, type, DEBUG_EXECUTE, va, 1);
    case GDB_WATCH_WRITE:
        return target->means.data ? add_slots(t, type, DEBUG_WRITE, va, len) : -ENOTSUP;
    case GDB_WATCH_ACCESS:
        return target->means.data ? add_slots(t, type, DEBUG_READ_WRITE, va, len) : -ENOTSUP;
    default: /* GDB_WATCH_READ: no processor has these; gdb makes do with the one above */
        return -ENOTSUP;
    }
}

void gdb_trap_remove(struct gdb_traps *t, const struct gdb_target *target, enum gdb_trap_type type,
                     uint64_t va, uint64_t len)
{
    if (is_planted(target, type))
        remove_break(t, target, va);
    else
        remove_slots(t, type, va, type == GDB_HARDWARE ? 1 : len);
}

void gdb_traps_clear(struct gdb_traps *t, const struct gdb_target *target)
{
    while (t->break_count > 0)
        remove_break(t, target, t->breaks[0].va);
    memset(t->slots, 0, sizeof(t->slots));
}

void gdb_traps_forget_breaks(struct gdb_traps *t)
{
    t->break_count = 0;
}

enum gdb_place gdb_traps_place(const struct gdb_traps *t, const struct mem *mem,
                               const struct debug_regs *regs)
{
    uint64_t va = gdb_linear_pc(regs), pa;
    enum gdb_place place = has_slot(t, GDB_HARDWARE, va, 1) ? GDB_AT_BREAK : GDB_NOWHERE;

    if (gdb_translate(mem, &regs->sregs, va, &pa) < 0)
        return place;
    for (unsigned i = 0; i < t->break_count; i++) {
        const struct gdb_break *b = &t->breaks[i];
        if (b->planted && b->pa == pa && b->va == va)
            return GDB_AT_BREAK;
        if (b->planted && b->pa == pa)
            place = GDB_AT_ALIAS;
    }
    return place;
}

void gdb_traps_fill(const struct gdb_traps *t, struct debug_traps *traps, const uint64_t *skip)
{
    traps->int3 = t->code == &int3 && t->break_count > 0;
    memcpy(traps->slots, t->slots, sizeof(traps->slots));
    for (unsigned i = 0; skip != NULL && i < DEBUG_SLOTS; i++)
        if (traps->slots[i].access == DEBUG_EXECUTE && traps->slots[i].addr == *skip)
            traps->slots[i].len = 0;
}
