/*
 * What the loaders share: the job of one boot_load(), the plan of what goes where, and the parsers
 * of the image formats.
 *
 * A loader works in three steps. It parses the image with one of the readers below, which validate
 * everything they hand out. It plans: every piece that will lie in guest memory is named, placed
 * and checked against RAM and against all other pieces. Only then does it write, so a refused image
 * has not touched the guest.
 */
#ifndef BOOT_PRIV_H
#define BOOT_PRIV_H

#include <asm/bootparam.h> // lab 05
#include <elf.h>           // lab 03
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/num.h"
#include "hv/boot/boot.h"
#include "hv/x86/flat_modes.h" // lab 03
#include "hv/x86/paging.h"     // lab 03

// lab 03 {
/* Borrowed memory; {NULL, 0} when there is none. */
struct bytes {
    const uint8_t *data;
    size_t size;
};

/* --- plan.c: what goes where in guest memory --- */

#define PLAN_PIECES_MAX 64

struct plan_piece {
    const char *what; /* static text for messages: "the initrd" */
    uint64_t gpa;
    uint64_t size;     /* bytes of guest memory it takes */
    struct bytes data; /* what is copied to its start; the rest is zeroed; outlives the plan */
    bool reserved;     /* nothing is written: memory that other pieces may use, the initrd not */
};

struct plan {
    const struct mem *mem;            /* borrowed */
    const struct boot_layout *layout; /* borrowed */
    struct plan_piece pieces[PLAN_PIECES_MAX];
    unsigned count;
    uint64_t scratch_next; /* first free byte of the layout's scratch area */
    uint8_t *gift;         /* pages that plan_write() may move, or NULL */
    size_t gift_size;      /* bytes */
};

void plan_init(struct plan *plan, const struct mem *mem, const struct boot_layout *layout);

/* A piece at a fixed address. -E2BIG: not all RAM; -ENOEXEC: overlaps another piece or the scratch
 * area, or there are too many. `size` >= data.size. */
int plan_add(struct plan *plan, const char *what, uint64_t gpa, struct bytes data, uint64_t size,
             struct error *err) HV_MUST_CHECK;

/* Memory that the image needs to itself once it runs. Pieces may lie in it. -E2BIG, -ENOEXEC. */
int plan_reserve(struct plan *plan, const char *what, uint64_t gpa, uint64_t size,
                 struct error *err) HV_MUST_CHECK;

/* A piece wherever there is room, as high as possible below `limit`, never below 1 MiB; *gpa is
 * page-aligned. To be called when all fixed pieces are in. -E2BIG. */
int plan_add_high(struct plan *plan, const char *what, struct bytes data, uint64_t limit,
                  uint64_t *gpa, struct error *err) HV_MUST_CHECK;

/* Room in the scratch area that the caller fills itself; nothing is written to it. -E2BIG. */
int plan_take_scratch(struct plan *plan, const char *what, uint64_t size, uint64_t align,
                      uint64_t *gpa, struct error *err) HV_MUST_CHECK;

/* A piece in the scratch area. Its bytes may still change until plan_write(): structures that hold
 * each other's addresses are placed first and filled then. -E2BIG. */
int plan_add_scratch(struct plan *plan, const char *what, struct bytes data, uint64_t align,
                     uint64_t *gpa, struct error *err) HV_MUST_CHECK;

/* Brings every piece into guest memory: copies it, or moves its pages if it lies in plan->gift. */
int plan_write(const struct plan *plan, struct error *err) HV_MUST_CHECK;
// }

/* --- one boot_load() --- */

struct boot_job {
    const struct mem *mem; /* borrowed, as all pointers here */
    const struct boot_request *req;
    const struct log *log;
    struct error *err;
    struct boot_entry entry; /* the result, while it is made */
    // lab 03 {
    struct bytes image; /* the request's kernel, unpacked */
    struct plan plan;
    // }
    const char *cmdline; /* never NULL */ // lab 05
};

/* Each expects a fresh job and fills job->entry. */
int flat_load(struct boot_job *job) HV_MUST_CHECK;
int elf_load(struct boot_job *job) HV_MUST_CHECK; // lab 03
// lab 05 {
int multiboot_load(struct boot_job *job) HV_MUST_CHECK;
int pvh_load(struct boot_job *job) HV_MUST_CHECK;
int linux_load(struct boot_job *job) HV_MUST_CHECK;
int linux_load_unpacked(struct boot_job *job) HV_MUST_CHECK;

/* The request's initrd and command line; the latter with its terminating 0. */
struct bytes job_initrd(const struct boot_job *job);
struct bytes job_cmdline(const struct boot_job *job);
// }

// lab 03 {
/* --- entry.c: the state the first instruction runs in --- */

/* Takes the stack and the GDT from scratch, writes the GDT, fills job->entry for a start at
 * `rip`. */
int enter_protected(struct boot_job *job, uint64_t rip) HV_MUST_CHECK;

/* The same, and takes all that is left of scratch for page tables that map the low 4 GiB to
 * themselves. `tables` may be extended by the caller with page_map(). */
int enter_long(struct boot_job *job, uint64_t rip, struct page_builder *tables) HV_MUST_CHECK;

#define IDENTITY_END (4 * GIB)
// }

// lab 05 {
/* --- payload.c: unpacking --- */

enum compression {
    COMPRESSION_NONE, /* not one that is known */
    COMPRESSION_GZIP,
    COMPRESSION_XZ,
    COMPRESSION_LZ4, /* the legacy frame, as Linux uses it */
    COMPRESSION_ZSTD,
    COMPRESSION_BZIP2, /* recognised, but not unpacked: this one and the next two */
    COMPRESSION_LZMA,
    COMPRESSION_LZO,
};

#define UNPACK_MAX GIB /* bytes; no kernel is larger, and a bomb ends here */

/* Unpacked bytes. Owned; unpacked_fini() gives them back to the host. */
struct unpacked {
    uint8_t *data; /* NULL while empty */
    size_t size;
    size_t room; /* bytes of address space behind `data` */
};

enum compression compression_detect(struct bytes in);
const char *compression_name(enum compression compression);
bool compression_is_supported(enum compression compression);

/* Unpacks the one stream that `in` starts with; bytes after its end are ignored, except for LZ4,
 * which has no end mark: there they must be more blocks. -ENOTSUP: not a supported compression;
 * -ENOEXEC: damaged or cut short; -E2BIG: more than `max` bytes come out; -ENOMEM. */
int unpack(struct bytes in, size_t max, struct unpacked *out, struct error *err) HV_MUST_CHECK;
void unpacked_fini(struct unpacked *unpacked);
struct bytes unpacked_bytes(const struct unpacked *unpacked);
// }

// lab 03 {
/* --- elf_image.c: reading ELF --- */

#define ELF_SEGMENTS_MAX 64 /* bounds the work that a hostile file can ask for */

struct elf_image {
    struct bytes file;
    bool is_64;
    uint64_t entry;
    uint64_t table; /* offset of the program headers */
    unsigned count; /* how many */
};

bool elf_is(struct bytes file);

/* Validates the header and every program header, so that what the functions below hand out lies in
 * the file and does not wrap around. -ENOEXEC. */
int elf_open(struct bytes file, struct elf_image *out, struct error *err) HV_MUST_CHECK;

/* Program header `i`, in the 64-bit form for both classes. */
Elf64_Phdr elf_segment(const struct elf_image *elf, unsigned i);
/* Its bytes in the file. Only PT_LOAD and PT_NOTE have been checked to have any. */
struct bytes elf_segment_bytes(const struct elf_image *elf, const Elf64_Phdr *ph);
bool elf_is_loaded(const Elf64_Phdr *ph); /* PT_LOAD, and not empty */

/* True if a loaded segment has a byte at this physical address. */
bool elf_has_physical(const struct elf_image *elf, uint64_t pa);
/* The physical address that a loaded segment gives to a virtual one; false when none does. */
bool elf_to_physical(const struct elf_image *elf, uint64_t va, uint64_t *pa);

/* The descriptor of the first note with this owner and type; false when there is none. */
bool elf_find_note(const struct elf_image *elf, const char *owner, uint32_t type,
                   struct bytes *desc);

/* True if a loaded segment holds the text that every Linux kernel prints first. Reads it all. */
bool elf_is_linux(const struct elf_image *elf);

/* Plans every loaded segment at its physical address. -ENOEXEC, -E2BIG. */
int elf_plan(const struct elf_image *elf, struct plan *plan, struct error *err) HV_MUST_CHECK;
// }

// lab 05 {
/* --- boot.c --- */

/* The image in a compressed file, or the file itself. *unpacked, empty before, then holds the bytes
 * of *image; unpacked_fini() it. As unpack(). */
int image_unwrap(struct bytes file, struct unpacked *unpacked, struct bytes *image,
                 struct error *err) HV_MUST_CHECK;

/* --- pvh.c --- */

/* The 32-bit physical entry point from the PHYS32_ENTRY note. -ENOENT: no such note; -ENOEXEC: one
 * that points nowhere. */
int pvh_find_entry(const struct elf_image *elf, uint32_t *entry, struct error *err) HV_MUST_CHECK;

/* --- multiboot.c --- */

struct multiboot_header {
    uint32_t offset; /* in the file */
    uint32_t flags;
    /* Valid with MULTIBOOT_ADDRESSES: */
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

/* MULTIBOOT 0.6.96 §3.1.2 */
#define MULTIBOOT_PAGE_ALIGN (1U << 0)
#define MULTIBOOT_MEMORY_INFO (1U << 1)
#define MULTIBOOT_VIDEO_MODE (1U << 2)
#define MULTIBOOT_REQUIREMENTS 0xffffU /* a loader that does not know one of these must give up */
#define MULTIBOOT_ADDRESSES (1U << 16)

/* False: no header in the first 8192 bytes. */
bool multiboot_find(struct bytes file, struct multiboot_header *out);

/* --- linux_image.c: reading a bzImage --- */

#define LINUX_VERSION_TEXT_MAX 128

struct linux_image {
    struct setup_header header; /* fields that its protocol version lacks have their defaults */
    struct bytes kernel;        /* the protected-mode part */
    struct bytes payload;       /* in it: the compressed vmlinux; empty if the header names none */
    char version_text[LINUX_VERSION_TEXT_MAX]; /* printable; "" when there is none */
};

bool linux_is(struct bytes file);

/* -ENOEXEC: broken; -ENOTSUP: older than protocol 2.06 or a zImage. */
int linux_open(struct bytes file, struct linux_image *out, struct error *err) HV_MUST_CHECK;

/* How the payload is packed, and how many bytes it says it unpacks to (which nothing checks before
 * linux_unpack() does). */
enum compression linux_compression(const struct linux_image *image);
uint32_t linux_unpacked_size(const struct linux_image *image);

/* The vmlinux. As unpack(), and -ENOEXEC when the size is not the promised one. */
int linux_unpack(const struct linux_image *image, struct unpacked *out,
                 struct error *err) HV_MUST_CHECK;

/* -E2BIG: longer than the kernel takes. */
int linux_check_cmdline(const struct setup_header *h, const char *cmdline,
                        struct error *err) HV_MUST_CHECK;

/* Why auto will not unpack this kernel here, or NULL if it will. */
const char *linux_why_not_unpack(const struct linux_image *image);

/* --- detect.c --- */

enum image_type { IMAGE_OTHER, IMAGE_BZIMAGE, IMAGE_ELF };

struct image_facts {
    enum image_type type;
    struct linux_image bzimage; /* valid with IMAGE_BZIMAGE */
    struct elf_image elf;       /* valid with IMAGE_ELF */
    bool has_multiboot;
    struct multiboot_header multiboot;
    bool has_pvh;
    uint32_t pvh_entry;
    bool is_linux; /* an ELF file that is a Linux kernel */
};

/* -ENOEXEC, -ENOTSUP: nothing that is known, or a broken one. */
int facts_read(struct bytes image, struct image_facts *out, struct error *err) HV_MUST_CHECK;

/* What BOOT_AUTO means for this image. -ENOEXEC: a known format, but none of the protocols. */
int facts_choose(const struct image_facts *facts, enum boot_protocol *out,
                 struct error *err) HV_MUST_CHECK;
// }

#endif
