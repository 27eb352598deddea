/*
 * boot_load() of an ELF file into guest memory full of rubbish, with the layout of a machine.
 *
 * args: RAM, then NAME for each case: the file. At the end LOOK GPA SIZE …: "look", and what to
 * show of the guest's memory when a file was loaded.
 */
#include <fcntl.h>

#include "hv/boot/boot.h"
#include "hv/machine/layout.h"
#include "ram.h"

static uint8_t file[1 << 20];
static uint64_t ram;
static int looks; /* index of the first address to look at, or 0 */
static struct log log_of_load;

static size_t read_file(const char *name)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, file, sizeof(file));

    if (n < 0)
        exit(2);
    (void)close(fd);
    return (size_t)n;
}

static void report_loaded(const struct mem *mem, const struct boot_entry *entry, char **argv)
{
    report_int("mode", entry->mode);
    report_u64("rip", entry->rip);
    report_u64("rsp", entry->rsp);
    report_u64("cr3", entry->cr3);
    if (entry->cr3 >= LAYOUT_SCRATCH && entry->cr3 < LAYOUT_SCRATCH_END)
        report_words("words", mem, entry->cr3, LAYOUT_SCRATCH_END - entry->cr3);
    report_name("looks");
    report_raw("[");
    for (int i = looks; looks > 0 && argv[i] != NULL && argv[i + 1] != NULL; i += 2) {
        const uint8_t *p = mem_ptr(mem, number(argv[i]), number(argv[i + 1]), false);
        char pair[3];
        report_raw(i > looks ? ", \"" : "\"");
        for (uint64_t n = 0; p != NULL && n < number(argv[i + 1]); n++) {
            (void)snprintf(pair, sizeof(pair), "%02x", p[n]);
            report_raw(pair);
        }
        report_raw("\"");
    }
    report_raw("]");
}

static void try(const char *name, char **argv)
{
    struct error err = {0};
    struct boot_entry entry = {0};
    struct mem mem;

    mem_init(&mem);
    add_ram(&mem, 0, ram);
    struct boot_request req = {.protocol = BOOT_ELF,
                               .kernel = file,
                               .kernel_size = read_file(name),
                               .kernel_name = "guest.elf"};
    layout_describe(ram, false, &req.layout);
    int rc = boot_load(&mem, &req, &log_of_load, &entry, &err);

    report_case();
    report_int("rc", rc);
    report_string("error", err.text);
    /* beside the loader's own memory, which it may use as it likes */
    report_u64("changed", count_changed(&mem, 0, LAYOUT_SCRATCH) +
                              count_changed(&mem, LAYOUT_SCRATCH_END, ram - LAYOUT_SCRATCH_END));
    if (rc == 0)
        report_loaded(&mem, &entry, argv);
    mem_fini(&mem);
}

int main(int argc, char **argv)
{
    int last = 2;

    if (argc < 3)
        return 2;
    ram = number(argv[1]);
    while (last < argc && strcmp(argv[last], "look") != 0)
        last++;
    looks = last < argc ? last + 1 : 0;
    for (int i = 2; i < last; i++)
        try(argv[i], argv);
    return report_end();
}
