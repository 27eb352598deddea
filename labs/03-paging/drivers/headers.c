/*
 * elf_open() on files of our making.
 *
 * args: NAME for each case
 */
#include <fcntl.h>

#include "boot/boot_priv.h"
#include "observe.h"

static void try(const char *name)
{
    static uint8_t file[65536];
    struct error err = {0};
    struct elf_image elf;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, file, sizeof(file));

    if (n < 0)
        exit(2);
    (void)close(fd);
    uint8_t *copy = malloc((size_t)n);
    if (copy == NULL)
        exit(2);
    memcpy(copy, file, (size_t)n);
    report_case();
    report_int("rc", elf_open((struct bytes){copy, (size_t)n}, &elf, &err));
    report_string("error", err.text);
    free(copy);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        try(argv[i]);
    return report_end();
}
