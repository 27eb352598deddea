/*
 * linux_open() on files that the check made.
 *
 * args: a file for each case. "header" is the setup header as it was handed out, "kernel_at" and
 * "kernel_size" where in the file the protected-mode part was found.
 */
#include "boot/boot_priv.h"
#include "guarded.h"
#include "observe.h"

#define POISON 0xa5

static void try(const char *path)
{
    struct guarded file = guarded_read(path);
    struct linux_image image;
    struct error err = {0};

    memset(&image, POISON, sizeof(image));
    int rc = linux_open((struct bytes){file.data, file.size}, &image, &err);

    report_case();
    report_int("rc", rc);
    report_int("untouched", all_bytes_are(&image, POISON, sizeof(image)));
    report_string("error", err.text);
    if (rc == 0) {
        report_hex("header", &image.header, sizeof(image.header));
        report_int("kernel_at", image.kernel.data - file.data);
        report_u64("kernel_size", image.kernel.size);
        report_string("version", image.version_text);
    }
    guarded_free(&file);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        try(argv[i]);
    return report_end();
}
