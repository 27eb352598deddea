/*
 * --disk FILE[,PART…].
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/device_options.h"
#include "cli/props.h"
#include "hv/virtio/blk.h"

static int set_format(void *ctx, const char *value, struct error *err)
{
    struct disk_options *d = ctx;

    if (value != NULL && strcmp(value, "raw") == 0)
        d->format = DISK_RAW;
    else if (value != NULL && strcmp(value, "qcow2") == 0)
        d->format = DISK_QCOW2;
    else
        return error_set(err, -EINVAL, "give raw or qcow2");
    return 0;
}

static int set_readonly(void *ctx, const char *value, struct error *err)
{
    return prop_on_off(value, &((struct disk_options *)ctx)->read_only, err);
}

static int set_direct(void *ctx, const char *value, struct error *err)
{
    return prop_on_off(value, &((struct disk_options *)ctx)->direct, err);
}

static int set_backing(void *ctx, const char *value, struct error *err)
{
    return prop_on_off(value, &((struct disk_options *)ctx)->backing, err);
}

static int set_aio(void *ctx, const char *value, struct error *err)
{
    struct disk_options *d = ctx;

    d->no_uring = value != NULL && strcmp(value, "threads") == 0;
    if (!d->no_uring && (value == NULL || strcmp(value, "io_uring") != 0))
        return error_set(err, -EINVAL, "give io_uring or threads");
    return 0;
}

static int set_queues(void *ctx, const char *value, struct error *err)
{
    uint64_t n;
    int rc = prop_number(value, 1, VIRTIO_BLK_QUEUES_MAX, &n, err);

    if (rc == 0)
        ((struct disk_options *)ctx)->queues = (unsigned)n;
    return rc;
}

static int set_serial(void *ctx, const char *value, struct error *err)
{
    struct disk_options *d = ctx;
    int rc = prop_text(value, &d->serial, err);

    if (rc == 0 && strlen(value) > VIRTIO_BLK_SERIAL_MAX)
        return error_set(err, -EINVAL, "at most %d characters", VIRTIO_BLK_SERIAL_MAX);
    return rc;
}

static int set_iops(void *ctx, const char *value, struct error *err)
{
    return prop_number(value, 0, UINT32_MAX, &((struct disk_options *)ctx)->iops, err);
}

static int set_bps(void *ctx, const char *value, struct error *err)
{
    return prop_size(value, &((struct disk_options *)ctx)->bps, err);
}

static int set_event_idx(void *ctx, const char *value, struct error *err)
{
    return prop_on_off(value, &((struct disk_options *)ctx)->event_idx, err);
}

static const struct prop_rule rules[] = {
    {"format", "format=raw|qcow2", set_format},
    {"readonly", "readonly", set_readonly},
    {"direct", "direct=on|off", set_direct},
    {"aio", "aio=io_uring|threads", set_aio},
    {"backing", "backing=on|off", set_backing},
    {"queues", "queues=N", set_queues},
    {"serial", "serial=TEXT", set_serial},
    {"iops", "iops=N", set_iops},
    {"bps", "bps=SIZE", set_bps},
    {"event-idx", "event-idx=on|off", set_event_idx},
    {0},
};

int disk_options_parse(const char *value, struct disk_options *out, struct error *err)
{
    *out = (struct disk_options){.queues = 1, .event_idx = true};
    int rc = props_parse(value, rules, out, &out->path, &out->text, err);
    if (rc == 0 && *out->path == '\0') {
        disk_options_fini(out);
        return error_set(err, -EINVAL, "give a file name first");
    }
    return rc;
}

void disk_options_fini(struct disk_options *d)
{
    free(d->text);
    d->text = NULL;
}
