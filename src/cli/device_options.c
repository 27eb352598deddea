/*
 * --console BACKEND[,name=NAME] and --vsock PATH[,cid=N].
 */
#include "cli/device_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/props.h"
#include "hv/virtio/console.h"
#include "hv/virtio/vsock.h"

static int set_name(void *ctx, const char *value, struct error *err)
{
    struct console_options *c = ctx;
    int rc = prop_text(value, &c->name, err);

    if (rc == 0 && strlen(value) > VIRTIO_CONSOLE_NAME_MAX)
        return error_set(err, -EINVAL, "at most %d characters", VIRTIO_CONSOLE_NAME_MAX);
    return rc;
}

int console_options_parse(const char *value, struct console_options *out, struct error *err)
{
    static const struct prop_rule rules[] = {{"name", "name=NAME", set_name}, {0}};

    *out = (struct console_options){0};
    return props_parse(value, rules, out, &out->spec, &out->text, err);
}

static int set_cid(void *ctx, const char *value, struct error *err)
{
    return prop_number(value, VIRTIO_VSOCK_CID_MIN, VIRTIO_VSOCK_CID_MAX,
                       &((struct vsock_options *)ctx)->cid, err);
}

int vsock_options_parse(const char *value, struct vsock_options *out, struct error *err)
{
    static const struct prop_rule rules[] = {{"cid", "cid=N", set_cid}, {0}};

    *out = (struct vsock_options){.cid = VIRTIO_VSOCK_CID_MIN};
    int rc = props_parse(value, rules, out, &out->path, &out->text, err);
    if (rc == 0 && *out->path == '\0') {
        free(out->text);
        *out = (struct vsock_options){0};
        return error_set(err, -EINVAL, "give the path of a socket first");
    }
    return rc;
}
