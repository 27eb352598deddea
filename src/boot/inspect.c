/*
 * `hv inspect`: what an image is, for a person, in 80 columns.
 *
 * Everything printed comes from the readers that the loaders use, so what is said here is what a
 * boot would find. Numbers that mean addresses are hexadecimal, sizes are rounded for reading.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "boot/boot_priv.h"

#define VALUE_WIDTH 60 /* with the label before it, a line has at most 80 columns */

/* "  label         text" */
static void line(FILE *out, const char *label, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void line(FILE *out, const char *label, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fprintf(out, "  %-15s ", label);
    vfprintf(out, fmt, args);
    fputc('\n', out);
    va_end(args);
}

/* "1.5 MiB", "2 MiB". Returns buf, of SIZE_TEXT_MAX bytes. */
static const char *round_size(uint64_t bytes, char *buf)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = (double)bytes;
    unsigned unit = 0;

    for (; n >= 1023.95 && unit + 1 < ARRAY_LEN(units); unit++)
        n /= 1024;
    bool is_whole = n == (double)(uint64_t)n;
    snprintf(buf, SIZE_TEXT_MAX, "%.*f %s", is_whole ? 0 : 1, n, units[unit]);
    return buf;
}

/* A flag word as names: "KERNEL_64 EFI_KEXEC", broken into lines under the label. */
struct flag {
    uint32_t bit;
    const char *name;
};

static void print_flags(FILE *out, const char *label, uint32_t value, const struct flag *flags,
                        size_t count)
{
    size_t used = 0;

    fprintf(out, "  %-15s 0x%x", label, value);
    for (size_t i = 0; i < count; i++) {
        if ((value & flags[i].bit) == 0)
            continue;
        if (used + strlen(flags[i].name) > VALUE_WIDTH - 12) {
            fprintf(out, "\n  %-15s", "");
            used = 0;
        }
        used += (size_t)fprintf(out, " %s", flags[i].name);
    }
    fputc('\n', out);
}

/* --- ELF --- */

static void print_segments(const struct elf_image *elf, FILE *out)
{
    fprintf(out, "    %-5s %-18s %-12s %10s %10s %s\n", "type", "virtual", "physical", "file",
            "memory", "flags");
    for (unsigned i = 0; i < elf->count; i++) {
        const Elf64_Phdr ph = elf_segment(elf, i);
        char file[SIZE_TEXT_MAX], memory[SIZE_TEXT_MAX];

        if (ph.p_type != PT_LOAD && ph.p_type != PT_NOTE)
            continue;
        fprintf(out, "    %-5s 0x%-16" PRIx64 " 0x%-10" PRIx64 " %10s %10s %c%c%c\n",
                ph.p_type == PT_LOAD ? "LOAD" : "NOTE", ph.p_vaddr, ph.p_paddr,
                round_size(ph.p_filesz, file), round_size(ph.p_memsz, memory),
                ph.p_flags & PF_R ? 'r' : '-', ph.p_flags & PF_W ? 'w' : '-',
                ph.p_flags & PF_X ? 'x' : '-');
    }
}

static void print_elf(const char *label, const struct elf_image *elf, FILE *out)
{
    line(out, label, "ELF%d for %s, entry 0x%" PRIx64, elf->is_64 ? 64 : 32,
         elf->is_64 ? "x86-64" : "i386", elf->entry);
    print_segments(elf, out);
}

static void print_pvh(bool has_pvh, uint32_t entry, FILE *out)
{
    if (has_pvh)
        line(out, "PVH entry", "0x%x", entry);
    else
        line(out, "PVH entry", "none");
}

/* --- multiboot --- */

static void print_multiboot(const struct multiboot_header *h, FILE *out)
{
    static const struct flag flags[] = {
        {MULTIBOOT_PAGE_ALIGN, "PAGE_ALIGN"},
        {MULTIBOOT_MEMORY_INFO, "MEMORY_INFO"},
        {MULTIBOOT_VIDEO_MODE, "VIDEO_MODE"},
        {MULTIBOOT_ADDRESSES, "ADDRESSES"},
    };

    line(out, "multiboot", "version 1 header at offset 0x%x", h->offset);
    print_flags(out, "  flags", h->flags, flags, ARRAY_LEN(flags));
    if (h->flags & MULTIBOOT_ADDRESSES)
        line(out, "  addresses", "load 0x%x, data end 0x%x, bss end 0x%x, entry 0x%x", h->load_addr,
             h->load_end_addr, h->bss_end_addr, h->entry_addr);
}

/* --- bzImage --- */

static void print_setup_header(const struct linux_image *image, FILE *out)
{
    static const struct flag flags[] = {
        {XLF_KERNEL_64, "KERNEL_64"},
        {XLF_CAN_BE_LOADED_ABOVE_4G, "CAN_BE_LOADED_ABOVE_4G"},
        {XLF_EFI_HANDOVER_32, "EFI_HANDOVER_32"},
        {XLF_EFI_HANDOVER_64, "EFI_HANDOVER_64"},
        {XLF_EFI_KEXEC, "EFI_KEXEC"},
        {XLF_5LEVEL, "5LEVEL"},
        {XLF_5LEVEL_ENABLED, "5LEVEL_ENABLED"},
    };
    const struct setup_header *h = &image->header;
    char text[SIZE_TEXT_MAX];

    line(out, "version", "%.*s", VALUE_WIDTH,
         image->version_text[0] != 0 ? image->version_text : "not given");
    line(out, "protocol", "%d.%02d, %s entry", h->version >> 8, h->version & 0xff,
         h->xloadflags & XLF_KERNEL_64 ? "64-bit" : "32-bit");
    print_flags(out, "xloadflags", h->xloadflags, flags, ARRAY_LEN(flags));
    line(out, "runs at", "0x%" PRIx64 " (pref_address), needs %s (init_size)",
         (uint64_t)h->pref_address, round_size(h->init_size, text));
    if (h->relocatable_kernel)
        line(out, "relocatable", "by multiples of %s", round_size(h->kernel_alignment, text));
    line(out, "initrd", "below 0x%" PRIx64, (uint64_t)h->initrd_addr_max + 1);
    line(out, "command line", "at most %u characters", h->cmdline_size);
}

static void print_payload(const struct linux_image *image, FILE *out)
{
    char packed[SIZE_TEXT_MAX], unpacked[SIZE_TEXT_MAX];

    if (image->payload.size == 0)
        line(out, "payload", "none");
    else if (linux_compression(image) == COMPRESSION_NONE)
        line(out, "payload", "%s, packed in a way hv does not know",
             round_size(image->payload.size, packed));
    else
        line(out, "payload", "%s, %s, unpacks to %s", compression_name(linux_compression(image)),
             round_size(image->payload.size, packed),
             round_size(linux_unpacked_size(image), unpacked));
}

/* Unpacks the kernel to see whether it can be started by PVH. */
static void print_inside(const struct linux_image *image, bool *has_pvh, FILE *out)
{
    struct unpacked vmlinux = {0};
    struct elf_image elf;
    struct error err = {{0}};
    uint32_t entry = 0;
    int rc;

    *has_pvh = false;
    if (!compression_is_supported(linux_compression(image)))
        return;
    rc = linux_unpack(image, &vmlinux, &err);
    if (rc == 0)
        rc = elf_open(unpacked_bytes(&vmlinux), &elf, &err);
    if (rc < 0) {
        line(out, "inside", "%s", err.text);
    } else {
        print_elf("inside", &elf, out);
        *has_pvh = pvh_find_entry(&elf, &entry, NULL) == 0;
        print_pvh(*has_pvh, entry, out);
    }
    unpacked_fini(&vmlinux);
}

/* --- */

static const char *type_text(const struct image_facts *facts)
{
    switch (facts->type) {
    case IMAGE_BZIMAGE:
        return "Linux kernel, bzImage";
    case IMAGE_ELF:
        return facts->is_linux ? "Linux kernel, ELF (vmlinux)" : "ELF executable";
    default:
        return "multiboot kernel";
    }
}

static void print_title(const char *name, const char *type, struct bytes file, FILE *out)
{
    enum compression compression = compression_detect(file);
    char text[SIZE_TEXT_MAX];

    fprintf(out, "%s: %s, %s%s%s\n", name, type, round_size(file.size, text),
            compression_is_supported(compression) ? " packed with " : "",
            compression_is_supported(compression) ? compression_name(compression) : "");
}

/* The protocols that boot_load() would accept, as option values. */
static void print_offers(const struct image_facts *facts, FILE *out)
{
    bool is_elf64 = facts->type == IMAGE_ELF && facts->elf.is_64;

    fprintf(out, "  %-15s", "--boot");
    if (facts->type == IMAGE_BZIMAGE || (is_elf64 && facts->is_linux))
        fprintf(out, " linux");
    if (facts->has_pvh)
        fprintf(out, " pvh");
    if (facts->has_multiboot)
        fprintf(out, " multiboot");
    if (is_elf64 && !facts->is_linux)
        fprintf(out, " elf");
    fprintf(out, "\n");
}

/* One line on what auto does, and why where that needs a reason. */
static void print_choice(const struct image_facts *facts, FILE *out)
{
    enum boot_protocol protocol;
    struct error err = {{0}};

    if (facts_choose(facts, &protocol, &err) < 0) {
        line(out, "--boot auto", "refuses: %s", err.text);
        return;
    }
    switch (protocol) {
    case BOOT_LINUX_UNPACKED:
        line(out, "--boot auto", "%senters it at startup_64",
             facts->type == IMAGE_BZIMAGE ? "unpacks the kernel here and " : "");
        break;
    case BOOT_LINUX:
        line(out, "--boot auto", "enters the bzImage: %s", linux_why_not_unpack(&facts->bzimage));
        break;
    default:
        line(out, "--boot auto", "%s", boot_protocol_name(protocol));
    }
}

static void print_facts(struct image_facts *facts, FILE *out)
{
    if (facts->type == IMAGE_BZIMAGE) {
        print_setup_header(&facts->bzimage, out);
        print_payload(&facts->bzimage, out);
        print_inside(&facts->bzimage, &facts->has_pvh, out);
    }
    if (facts->type == IMAGE_ELF) {
        print_elf("format", &facts->elf, out);
        print_pvh(facts->has_pvh, facts->pvh_entry, out);
    }
    if (facts->has_multiboot)
        print_multiboot(&facts->multiboot, out);
    print_offers(facts, out);
    print_choice(facts, out);
}

int boot_inspect(const uint8_t *image, size_t size, const char *name, FILE *out)
{
    const struct bytes file = {image, size};
    struct unpacked unpacked = {0};
    struct image_facts facts;
    struct error err = {{0}};
    struct bytes bytes;
    int rc = image_unwrap(file, &unpacked, &bytes, &err);

    if (rc == 0)
        rc = facts_read(bytes, &facts, &err);
    if (rc == 0) {
        print_title(name, type_text(&facts), file, out);
        print_facts(&facts, out);
    } else {
        fprintf(out, "%s: %s\n", name, err.text);
    }
    unpacked_fini(&unpacked);
    return rc == 0 ? 0 : -ENOEXEC;
}
