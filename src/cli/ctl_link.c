/*
 * hv ctl's connection to a machine.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/ctl.h"
#include "hv/base/fd.h"
#include "hv/control/control.h"

#define GREETING_S 10 /* a machine greets at once; something else may never say a word */

/* --- connecting --- */

static int explain_connect(const char *path, int rc, struct error *err)
{
    struct stat st;

    switch (rc) {
    case -ENOENT:
        return error_set(err, rc, "%s: there is no such socket; `hv run --control PATH` makes one",
                         path);
    case -ECONNREFUSED:
        if (stat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
            return error_set(err, rc, "%s is no socket", path);
        return error_set(err, rc, "%s: nobody listens there any more; its machine has ended", path);
    case -EACCES:
        return error_set(err, rc, "%s: only the user who started the machine may control it", path);
    default:
        return error_sys(err, rc, "%s", path);
    }
}

static int open_socket(const char *path, struct error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (*path == '\0' || strlen(path) >= sizeof(addr.sun_path))
        return error_set(err, -ENAMETOOLONG, "a socket's name has 1 to %zu characters",
                         sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_sys(err, -errno, "socket");
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int rc = explain_connect(path, -errno, err);
        fd_close(&fd);
        return rc;
    }
    return fd;
}

static void set_patience(int fd, unsigned seconds)
{
    const struct timeval limit = {.tv_sec = seconds};

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)); /* else it waits */
}

static int hear_greeting(struct ctl_link *l, const char *path, struct error *err)
{
    json_t *greeting = NULL;
    json_int_t protocol = 0;

    if (ctl_receive(l, &greeting, err) < 0 || !json_is_object(json_object_get(greeting, "hv"))) {
        const json_t *refusal = json_object_get(json_object_get(greeting, "error"), "desc");
        int rc = refusal != NULL
                     ? error_set(err, -EBUSY, "%s: %s", path, json_string_value(refusal))
                     : error_set(err, -EPROTO, "%s: what listens there is no control socket of hv",
                                 path);
        json_decref(greeting);
        return rc;
    }
    protocol = json_integer_value(json_object_get(json_object_get(greeting, "hv"), "protocol"));
    json_decref(greeting);
    if (protocol != CONTROL_PROTOCOL)
        return error_set(err, -EPROTO, "%s: the machine speaks protocol %lld, and this hv %d", path,
                         (long long)protocol, CONTROL_PROTOCOL);
    return 0;
}

int ctl_connect(const char *path, struct ctl_link *out, struct error *err)
{
    int fd = open_socket(path, err);

    *out = (struct ctl_link){.out = fd};
    if (fd < 0)
        return fd;
    out->in = fdopen(fd, "r");
    if (out->in == NULL) {
        fd_close(&fd);
        return error_set(err, -ENOMEM, "no memory for a connection");
    }
    set_patience(fd, GREETING_S);
    int rc = hear_greeting(out, path, err);
    if (rc < 0)
        ctl_disconnect(out);
    else
        set_patience(fd, 0);
    return rc;
}

void ctl_disconnect(struct ctl_link *l)
{
    if (l->in != NULL)
        (void)fclose(l->in); /* nothing was written through it */
    free(l->line);
    *l = (struct ctl_link){.out = -1};
}

/* --- talking --- */

int ctl_send(struct ctl_link *l, const char *name, json_t *args, struct error *err)
{
    json_t *request = json_pack("{s:s, s:O*}", "execute", name, "arguments", args);
    char *line = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;

    json_decref(request);
    if (line == NULL)
        return error_set(err, -ENOMEM, "no memory for a request");
    size_t len = strlen(line);
    line[len] = '\n'; /* in place of its end */
    int rc = fd_write_full(l->out, line, len + 1);
    free(line);
    return rc < 0 ? error_sys(err, rc, "the machine does not listen any more") : 0;
}

int ctl_receive(struct ctl_link *l, json_t **out, struct error *err)
{
    ssize_t len = getline(&l->line, &l->room, l->in);
    json_error_t why;

    if (len <= 0)
        return error_set(err, -ENODATA, "the machine hung up without an answer");
    json_t *object = json_loadb(l->line, (size_t)len, 0, &why);
    if (object == NULL)
        return error_set(err, -EPROTO, "the machine answered something that is no JSON");
    *out = object;
    return 0;
}
