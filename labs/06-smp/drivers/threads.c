/*
 * What the threads of a machine's vCPUs have blocked, and what their maker has afterwards.
 *
 * args: CPUS SIGNAL   SIGNAL: blocked in the maker before, and nothing else; 0: nothing
 */
#include <signal.h>

#include "fake_smp.h"

static uint64_t masks[FAKE_CPUS];
static _Atomic int entered;

static uint64_t blocked_now(void)
{
    sigset_t now;
    uint64_t bits;

    (void)pthread_sigmask(SIG_BLOCK, NULL, &now);
    memcpy(&bits, &now, sizeof(bits)); /* the kernel's 64 signals come first; bit n - 1 is n */
    return bits;
}

static int enter(unsigned cpu, struct kvm_run *run)
{
    if (masks[cpu] == 0) {
        masks[cpu] = blocked_now() | 1ULL << 63;
        entered++;
    }
    return compute(run);
}

static void play(int argc, char **argv)
{
    unsigned cpus = (unsigned)number(argv[1]);
    struct machine *m = fake_machine(cpus);
    sigset_t mine;

    if (argc < 3 || m == NULL)
        return;
    sigemptyset(&mine);
    if (number(argv[2]) != 0)
        sigaddset(&mine, (int)number(argv[2]));
    (void)pthread_sigmask(SIG_SETMASK, &mine, NULL);
    uint64_t before = blocked_now();
    if (!fake_start(m))
        return;
    report_u64("before", before);
    report_u64("after", blocked_now());
    (void)reaches(&entered, (int)cpus, 2000);
    report_int("entered", entered);
    report_name("masks");
    for (unsigned i = 0; i < cpus; i++) {
        char text[32];
        (void)snprintf(text, sizeof(text), "%s%llu", i == 0 ? "[" : ", ",
                       (unsigned long long)masks[i]);
        report_raw(text);
    }
    report_raw("]");
    stage = "machine_destroy()";
    machine_end(m, &(struct machine_outcome){.end = MACHINE_QUIT});
    machine_destroy(m);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
