/*
 * boot_load(): from a request to a loaded guest, by way of one loader.
 *
 * This file knows the protocols' names, undoes compression around the whole file (Debian ships
 * xen.gz), resolves "auto", and calls the loader. Each loader is a file of its own.
 */
#include "hv/boot/boot.h"

#include <errno.h>
#include <string.h>

#include "boot/boot_priv.h"

static const struct {
    const char *name;
    int (*load)(struct boot_job *job);
    const char *default_cmdline;
} protocols[] = {
    [BOOT_AUTO] = {"auto", NULL, ""},
    [BOOT_FLAT] = {"flat", flat_load, ""},
    [BOOT_ELF] = {"elf", elf_load, ""},
    [BOOT_MULTIBOOT] = {"multiboot", multiboot_load, ""},
    [BOOT_PVH] = {"pvh", pvh_load, BOOT_CMDLINE_DEFAULT},
    [BOOT_LINUX] = {"linux", linux_load, BOOT_CMDLINE_DEFAULT},
    [BOOT_LINUX_UNPACKED] = {"linux-unpacked", linux_load_unpacked, BOOT_CMDLINE_DEFAULT},
};

const char *boot_protocol_name(enum boot_protocol protocol)
{
    return (unsigned)protocol < ARRAY_LEN(protocols) ? protocols[protocol].name : NULL;
}

int boot_protocol_parse(const char *text, enum boot_protocol *out)
{
    for (unsigned i = BOOT_AUTO; i <= BOOT_LINUX; i++) {
        if (strcmp(text, protocols[i].name) == 0) {
            *out = (enum boot_protocol)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* --- helpers for loaders --- */

int job_refuse_extras(struct boot_job *job)
{
    const char *name = boot_protocol_name(job->entry.protocol);

    if (job_initrd(job).size > 0)
        return error_set(job->err, -ENOTSUP, "the %s protocol cannot pass an initrd", name);
    if (job->cmdline[0] != '\0')
        log_msg(job->log, LOG_WARN, "%s: the %s protocol cannot pass a command line; it is lost",
                job->req->kernel_name, name);
    return 0;
}

struct bytes job_initrd(const struct boot_job *job)
{
    return (struct bytes){job->req->initrd, job->req->initrd == NULL ? 0 : job->req->initrd_size};
}

struct bytes job_cmdline(const struct boot_job *job)
{
    return (struct bytes){(const uint8_t *)job->cmdline, strlen(job->cmdline) + 1};
}

/* --- */

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

static int load_image(struct boot_job *job)
{
    enum boot_protocol protocol = job->req->protocol;
    int rc = resolve(job, &protocol);

    if (rc < 0)
        return rc;
    if (boot_protocol_name(protocol) == NULL)
        return error_set(job->err, -EINVAL, "no boot protocol has the number %d", (int)protocol);
    job->entry.protocol = protocol;
    job->cmdline = job->req->cmdline;
    if (job->cmdline == NULL)
        job->cmdline = protocols[protocol].default_cmdline;
    return protocols[protocol].load(job);
}

int boot_load(const struct mem *mem, const struct boot_request *req, const struct log *log,
              struct boot_entry *entry, struct error *err)
{
    const struct bytes file = {req->kernel, req->kernel_size};
    struct boot_job job = {.mem = mem, .req = req, .log = log, .image = file, .err = err};
    struct unpacked unpacked = {0};
    int rc = 0;

    plan_init(&job.plan, mem, &req->layout);
    if (req->protocol != BOOT_FLAT) /* raw bytes mean nothing to us */
        rc = image_unwrap(file, &unpacked, &job.image, err);
    if (rc == 0)
        rc = load_image(&job);
    unpacked_fini(&unpacked);
    if (rc < 0)
        return error_prefix(err, rc, "%s", req->kernel_name);
    *entry = job.entry;
    return 0;
}
