/*
 * interrupt_gate() of guest/lib/idt.c, compiled for the host.
 *
 * args: HANDLER SELECTOR for each case
 */
#include "fake_guest.h"
#include "observe.h"

#include "../guest/lib/idt.c"

const char vector_stubs[1];

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        struct gate gate = interrupt_gate(number(argv[i]), (uint16_t)number(argv[i + 1]));

        report_case();
        report_hex("bytes", &gate, sizeof(gate));
    }
    return report_end();
}
