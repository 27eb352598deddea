/*
 * hv inspect: what a kernel image is, and how hv could start it.
 */
#include "cli/cli.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/boot/boot.h"

static int inspect(const struct cli_command *cmd, int argc, char **argv)
{
    struct file_bytes image;
    struct error err = {0};
    int first = cli_parse(cmd, argc, argv, NULL);

    if (first < 0)
        return STATUS_USAGE;
    if (argc - first != 1) {
        complain("hv inspect takes one file");
        return STATUS_USAGE;
    }
    if (file_read_all(argv[first], GIB, &image, &err) < 0) {
        complain("%s", err.text);
        return STATUS_INPUT;
    }
    int rc = boot_inspect(image.data, image.size, argv[first], stdout);
    file_fini(&image);
    int status = cli_finish_output();
    return status == STATUS_OK && rc < 0 ? STATUS_INPUT : status;
}

const struct cli_command command_inspect = {
    .name = "inspect",
    .arguments = "KERNEL",
    .summary = "Say what a kernel image is and how it can be started",
    .groups = NULL,
    .group_count = 0,
    .run = inspect,
};
