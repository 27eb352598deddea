/*
 * An aligned number in guest memory is read and written whole, whoever else is changing it.
 */
#include "hv/mem/mem.h"
#include "thread/crew.h"

#define WRITERS 2
#define READERS 2
#define ROUNDS 500000
#define PATTERN 0x0000000100000001ULL /* both halves of every value are the same */

static struct mem mem;

static void write_numbers(void *ctx, unsigned index)
{
    (void)ctx;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        CHECK(mem_write_u64(&mem, 64, PATTERN * (i * WRITERS + index)) == 0);
        CHECK(mem_write_u16(&mem, 96, (uint16_t)(0x101 * (i & 0xff))) == 0);
    }
}

static void read_numbers(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t wide;
        uint16_t narrow;
        CHECK(mem_read_u64(&mem, 64, &wide) == 0);
        CHECK(wide >> 32 == (wide & 0xffffffff));
        CHECK(mem_read_u16(&mem, 96, &narrow) == 0);
        CHECK(narrow >> 8 == (narrow & 0xff));
    }
}

int main(void)
{
    struct crew crew = {0};

    mem_init(&mem);
    CHECK(mem_add(&mem, 0, MEM_PAGE_SIZE, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    crew_start(&crew, WRITERS, write_numbers, NULL);
    crew_start(&crew, READERS, read_numbers, NULL);
    crew_join(&crew);
    mem_fini(&mem);
    return 0;
}
