/*
 * main() of every driver, before the driver's own (linked with --wrap=main).
 *
 * A driver calls a learner's functions in its own process, and these could print a report and exit.
 * So a report counts only if it begins with this run's key, and only this file adds the key, after
 * the driver's main() has returned: until then descriptor 3 is no more than a file in memory. A
 * driver's exit() is such a return: it is compiled under another name (-Dexit=…), which no
 * submission can know, so that a learner's exit() is none.
 *
 * The key is not in the arguments, the environment or on any descriptor, where a constructor could
 * read it; labs/tool/drivers.py puts it into the copy of the program that runs. Left out: code that
 * searches its own process for the key, or changes what the driver remembers. No program is safe
 * from its own code; whoever goes that far has learned enough to do the exercise.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REPORT_FD 3
#define OUT_OF_THE_WAY 200 /* where descriptors of ours go */

extern int __real_main(int argc, char **argv);
extern int __wrap_main(int argc, char **argv);

static jmp_buf end;
static volatile int end_status;

static volatile const char key[] = "@@the key of this run goes here@@";

/* The kernel's write(2) itself, not a function of that name which the library may define. */
static ssize_t kernel_write(int fd, const void *data, size_t size)
{
    long rc = SYS_write;

    __asm__ volatile("syscall" : "+a"(rc) : "D"(fd), "S"(data), "d"(size) : "rcx", "r11", "memory");
    return rc;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = kernel_write(fd, data, size);
        if (n <= 0)
            return -1;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int is_same_file(int a, int b)
{
    struct stat first, second;

    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_ino == second.st_ino &&
           first.st_dev == second.st_dev;
}

static int relay(int collected, int out)
{
    char text[4096];
    ssize_t n;

    for (size_t i = 0; i < sizeof(key) - 1; i++)
        text[i] = key[i];
    if (!is_same_file(collected, REPORT_FD) || write_all(out, text, sizeof(key) - 1) < 0)
        return -1;
    for (off_t at = 0; (n = pread(collected, text, sizeof(text), at)) > 0; at += n)
        if (write_all(out, text, (size_t)n) < 0)
            return -1;
    return 0;
}

void exit(int status)
{
    end_status = status;
    longjmp(end, 1);
}

int __wrap_main(int argc, char **argv)
{
    int out = fcntl(REPORT_FD, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
    int memory = memfd_create("report", MFD_CLOEXEC);
    int collected = fcntl(memory, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);

    if (out < 0 || collected < 0 || dup2(memory, REPORT_FD) < 0)
        return 125;
    if (memory != REPORT_FD)
        (void)close(memory);
    if (setjmp(end) == 0)
        end_status = __real_main(argc, argv);
    return relay(collected, out) < 0 ? 125 : end_status;
}
