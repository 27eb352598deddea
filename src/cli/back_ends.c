/*
 * What the guest's ports are connected to.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h> // lab 04
#include <unistd.h>

#include "cli/cli.h"
#include "cli/session.h"
#include "hv/base/num.h"
#include "hv/chr/stream.h" // lab 04

// lab 04 {
static bool is_regular_file(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

static int open_pty(struct session *s, unsigned port, struct chr **out)
{
    char path[128];
    int rc = chr_pty_create(s->loop, path, sizeof(path), out);

    if (rc == 0)
        log_msg(&s->log, LOG_INFO, "serial port %u is at %s", port, path);
    return rc;
}
// }

static int open_stdout(struct session *s, struct chr **out)
{
    if (!is_regular_file(STDOUT_FILENO)) /* a file is always ready: it needs no queue */ // lab 04
        return chr_fds_create(s->loop, -1, STDOUT_FILENO, NULL, NULL, out);              // lab 04
    return chr_fd_create(STDOUT_FILENO, out);
}

static int open_by_name(struct session *s, const char *spec, unsigned port, struct chr **out)
{
    // lab 04 {
    if (strcmp(spec, "stdio") == 0)
        return chr_fds_create(s->loop, STDIN_FILENO, STDOUT_FILENO, on_escape, s, out);
    if (strcmp(spec, "pty") == 0)
        return open_pty(s, port, out);
    // }
    if (strcmp(spec, "none") == 0)
        return chr_null_create(out);
    return open_stdout(s, out);
}

static int open_back_end(struct session *s, const char *spec, unsigned port, struct chr **out,
                         struct error *err)
{
    const char file[] = "file:";                                                  // lab 02
    if (strncmp(spec, file, strlen(file)) == 0)                                   // lab 02
        return chr_file_create(spec + strlen(file), s->opt.file_limit, out, err); // lab 02
    int rc = open_by_name(s, spec, port, out);

    return rc < 0 ? error_sys(err, rc, "cannot be opened") : 0;
}

int open_back_ends(struct session *s, struct error *err)
{
    // lab 02 {
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++) {
        const char *spec = s->opt.serial[i];
        int rc = spec != NULL ? open_back_end(s, spec, i, &s->serial[i], err) : 0;
        if (rc < 0)
            return error_prefix(err, rc, "--serial %s", spec);
    }
    // }
    // lab 09 {
    for (unsigned i = 0; i < s->opt.console_count; i++) {
        const char *spec = s->opt.consoles[i].spec;
        int rc = open_back_end(s, spec, i, &s->consoles[i], err);
        if (rc < 0)
            return error_prefix(err, rc, "--console %s", spec);
    }
    // }
    int rc = open_back_end(s, s->opt.debug, 0, &s->debug, err);
    return rc < 0 ? error_prefix(err, rc, "--debug-port %s", s->opt.debug) : 0;
}

static void flush(struct chr *chr, int *rc)
{
    if (chr == NULL)
        return;
    chr_flush(chr);
    *rc = *rc < 0 ? *rc : chr_error(chr);
}

int flush_back_ends(struct session *s)
{
    int rc = 0;

    // lab 02 {
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        flush(s->serial[i], &rc);
    // }
    for (unsigned i = 0; i < s->opt.console_count; i++) // lab 09
        flush(s->consoles[i], &rc);                     // lab 09
    flush(s->debug, &rc);
    return rc;
}

void close_back_ends(struct session *s)
{
    // lab 02 {
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        chr_destroy(s->serial[i]);
    // }
    for (unsigned i = 0; i < s->opt.console_count; i++) // lab 09
        chr_destroy(s->consoles[i]);                    // lab 09
    chr_destroy(s->debug);
}
