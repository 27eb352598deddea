/*
 * The walker on any tables and any control registers: it ends, stays inside its structures, changes
 * no guest memory, and agrees with the debugger's reader about what is mapped.
 *
 * Input: struct input, then the first bytes of guest memory; the rest is 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/mem/mem.h"
#include "hv/x86/names.h"
#include "hv/x86/paging.h"

#define RAM 0x4000
#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

struct input {
    uint64_t cr0, cr3, cr4, efer, rflags, va;
    uint8_t access, user;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem mem;
static FILE *nowhere;

static void set_up(void)
{
    mem_init(&mem);
    REQUIRE(mem_add(&mem, 0, RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    nowhere = fopen("/dev/null", "w");
    REQUIRE(nowhere != NULL);
}

static void check_shape(const struct page_walk *walk, bool paging)
{
    REQUIRE(walk->levels <= WALK_LEVELS_MAX);
    REQUIRE(walk->result <= WALK_NO_MEMORY);
    for (unsigned i = 0; i < walk->levels; i++)
        REQUIRE(walk->steps[i].table != NULL);
    if (walk->result == WALK_OK) {
        REQUIRE(walk->error_code == 0);
        REQUIRE(paging == (walk->page_size != 0));
        REQUIRE(!paging || ((walk->va ^ walk->pa) & (walk->page_size - 1)) == 0);
    }
}

/* A supervisor that reads with AC set is stopped by missing entries only, and so is the reader. */
static void check_reader(const struct kvm_sregs *sregs, uint64_t va)
{
    struct page_walk walk;
    uint8_t byte;
    bool readable;

    page_walk(&mem, sregs, 1 << 18, va, PAGE_READ, false, &walk);
    readable = walk.result == WALK_OK && walk.pa < RAM;
    REQUIRE(page_read_virtual(&mem, sregs, va, &byte, 1) == readable);
    if (readable)
        REQUIRE(byte == *(uint8_t *)mem_ptr(&mem, walk.pa, 1, false));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t before[RAM];
    const struct kvm_regs regs = {0};
    struct kvm_sregs sregs = {0};
    struct page_walk walk;
    struct input in;
    uint8_t *ram;

    if (size < sizeof(in))
        return 0;
    if (nowhere == NULL)
        set_up();
    memcpy(&in, data, sizeof(in));
    data += sizeof(in);
    size -= sizeof(in);
    memset(before, 0, sizeof(before));
    memcpy(before, data, size < RAM ? size : RAM);
    ram = mem_ptr(&mem, 0, RAM, true);
    memcpy(ram, before, RAM);

    sregs.cr0 = in.cr0;
    sregs.cr3 = in.cr3;
    sregs.cr4 = in.cr4;
    sregs.efer = in.efer;
    page_walk(&mem, &sregs, in.rflags, in.va, in.access % 3, in.user & 1, &walk);
    check_shape(&walk, in.cr0 >> 31 & 1);
    page_walk_print(&walk, nowhere);
    x86_print_regs(&regs, &sregs, nowhere);
    check_reader(&sregs, in.va);
    REQUIRE(memcmp(before, ram, RAM) == 0);
    return 0;
}
