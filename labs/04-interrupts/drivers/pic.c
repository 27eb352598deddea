/*
 * guest/lib/pic.c, compiled for the host: which words go to which port.
 *
 * args: init, or the number of an interrupt that is done, for each case
 */
#include "fake_guest.h"
#include "observe.h"

#include "../guest/lib/pic.c"

static char words[2048]; /* "[port, value], " for each write */

void outb(uint16_t port, uint8_t v)
{
    size_t n = strlen(words);

    (void)snprintf(words + n, sizeof(words) - n, "%s[%u, %u]", n > 0 ? ", " : "", port, v);
}

uint8_t inb(uint16_t port)
{
    (void)port;
    return 0xff;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        words[0] = '\0';
        if (strcmp(argv[i], "init") == 0)
            pic_init();
        else
            pic_done((unsigned)number(argv[i]));
        report_case();
        report_name("words");
        report_raw("[");
        report_raw(words);
        report_raw("]");
    }
    return report_end();
}
