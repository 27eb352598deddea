/*
 * boot_load(): from a request to a loaded guest, by way of one loader.
 *
 * This file knows the protocols' names and calls the loader. Each loader is a file of its own.
 */
#include "hv/boot/boot.h"

#include <errno.h>
#include <string.h>

#include "boot/boot_priv.h"

static const struct {
    const char *name;
    int (*load)(struct boot_job *job);
    // lab 05 {
    const char *cmdline; /* the default; NULL: this protocol passes neither that nor an initrd */
    // }
} protocols[] = {
    [BOOT_AUTO] = {.name = "auto"}, // lab 05
    [BOOT_FLAT] = {.name = "flat", .load = flat_load},
    [BOOT_ELF] = {.name = "elf", .load = elf_load}, // lab 03
    // lab 05 {
    [BOOT_MULTIBOOT] = {.name = "multiboot", .load = multiboot_load, .cmdline = ""},
    [BOOT_PVH] = {.name = "pvh", .load = pvh_load, .cmdline = BOOT_CMDLINE_DEFAULT},
    [BOOT_LINUX] = {.name = "linux", .load = linux_load, .cmdline = BOOT_CMDLINE_DEFAULT},
    [BOOT_LINUX_UNPACKED] = {.name = "linux-unpacked",
                             .load = linux_load_unpacked,
                             .cmdline = BOOT_CMDLINE_DEFAULT},
    // }
};

const char *boot_protocol_name(enum boot_protocol protocol)
{
    return (unsigned)protocol < ARRAY_LEN(protocols) ? protocols[protocol].name : NULL;
}

int boot_protocol_parse(const char *text, enum boot_protocol *out)
{
    for (unsigned i = 0; i < ARRAY_LEN(protocols); i++) {
        if (i == BOOT_LINUX_UNPACKED) /* no option's name, and the last */ // lab 05
            break;                                                         // lab 05
        if (strcmp(text, protocols[i].name) == 0) {
            *out = (enum boot_protocol)i;
            return 0;
        }
    }
    return -EINVAL;
}

// lab 05 {
/* --- what an image may be, and what comes with it --- */

struct bytes job_initrd(const struct boot_job *job)
{
    return (struct bytes){job->req->initrd, job->req->initrd == NULL ? 0 : job->req->initrd_size};
}

struct bytes job_cmdline(const struct boot_job *job)
{
    return (struct bytes){(const uint8_t *)job->cmdline, strlen(job->cmdline) + 1};
}

/* For protocols without a way to pass them: an initrd is an error, a command line a warning. */
static int refuse_extras(const struct boot_job *job)
{
    const char *name = boot_protocol_name(job->entry.protocol);

    if (job_initrd(job).size > 0)
        return error_set(job->err, -ENOTSUP, "the %s protocol cannot pass an initrd", name);
    if (job->cmdline[0] != '\0')
        log_msg(job->log, LOG_WARN, "%s: the %s protocol cannot pass a command line; it is lost",
                job->req->kernel_name, name);
    return 0;
}

/* Debian ships xen.gz. */
int image_unwrap(struct bytes file, struct unpacked *unpacked, struct bytes *image,
                 struct error *err)
{
    int rc;

    if (!compression_is_supported(compression_detect(file))) {
        *image = file;
        return 0;
    }
    rc = unpack(file, UNPACK_MAX, unpacked, err);
    if (rc == 0)
        *image = unpacked_bytes(unpacked);
    return rc;
}

/* BOOT_AUTO becomes a protocol; says so when the user might have expected another one. */
static int resolve(const struct boot_job *job, enum boot_protocol *protocol)
{
    struct image_facts facts;
    int rc;

    if (*protocol != BOOT_AUTO)
        return 0;
    rc = facts_read(job->image, &facts, job->err);
    if (rc == 0)
        rc = facts_choose(&facts, protocol, job->err);
    if (rc < 0)
        return rc;
    if (facts.type == IMAGE_BZIMAGE && *protocol == BOOT_LINUX)
        log_msg(job->log, LOG_INFO, "%s is started as it is: %s", job->req->kernel_name,
                linux_why_not_unpack(&facts.bzimage));
    return 0;
}
// }

static int load_image(struct boot_job *job)
{
    enum boot_protocol protocol = job->req->protocol;

    // lab 05 {
    int rc = resolve(job, &protocol);
    if (rc < 0)
        return rc;
    // }
    if (boot_protocol_name(protocol) == NULL)
        return error_set(job->err, -EINVAL, "no boot protocol has the number %d", (int)protocol);
    job->entry.protocol = protocol;
    // lab 05 {
    const char *cmdline = protocols[protocol].cmdline;
    job->cmdline = job->req->cmdline;
    if (job->cmdline == NULL)
        job->cmdline = cmdline != NULL ? cmdline : "";
    rc = cmdline == NULL ? refuse_extras(job) : 0;
    if (rc < 0)
        return rc;
    // }
    return protocols[protocol].load(job);
}

int boot_load(const struct mem *mem, const struct boot_request *req, const struct log *log,
              struct boot_entry *entry, struct error *err)
{
    struct boot_job job = {.mem = mem, .req = req, .log = log, .err = err};
    int rc = 0;

    job.image = (struct bytes){req->kernel, req->kernel_size}; // lab 03
    plan_init(&job.plan, mem, &req->layout);                   // lab 03
    // lab 05 {
    struct unpacked unpacked = {0};
    if (req->protocol != BOOT_FLAT) /* raw bytes mean nothing to us */
        rc = image_unwrap(job.image, &unpacked, &job.image, err);
    // }
    if (rc == 0)
        rc = load_image(&job);
    unpacked_fini(&unpacked); // lab 05
    if (rc < 0)
        return error_prefix(err, rc, "%s", req->kernel_name);
    *entry = job.entry;
    return 0;
}
