/*
 * world_set() and the kick, at the two moments that differ.
 *
 * args: before CPUS    each vCPU has looked at the world and has not yet entered: the signal comes
 *                      and goes, then KVM looks at immediate_exit
 *       during CPUS    each vCPU sleeps in KVM_RUN, where only a signal reaches it
 *       some CPUS N    only N threads could be made
 */
#include <signal.h>

#include "fake_smp.h"

static struct machine *machine;
static bool in_window; /* the mode is "before" */
static _Atomic int entered, kicked, seen, interrupted;
static _Atomic int kills, flag_first, strangers;
static int creations_left = -1; /* -1: as many as anybody likes */

static int enter(unsigned cpu, struct kvm_run *run)
{
    (void)cpu;
    entered++;
    if (!in_window) {
        interrupted += wait_for_signal((int)(2500 * patience)) < 0;
        return -EINTR;
    }
    (void)reaches(&kicked, 1, 3000);
    seen += wants_out(run);
    return -EINTR;
}

static int cpu_of(pthread_t thread)
{
    for (unsigned i = 0; machine != NULL && i < machine->cfg.cpus; i++)
        if (machine->cpus[i].started && pthread_equal(machine->cpus[i].thread, thread))
            return (int)i;
    return -1;
}

int pthread_kill(pthread_t thread, int signal)
{
    int cpu = cpu_of(thread);

    if (cpu < 0) {
        strangers++;
        return ESRCH;
    }
    kills++;
    flag_first += wants_out(fake[cpu].run);
    return REAL(pthread_kill)(thread, signal);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    if (creations_left == 0)
        return EAGAIN;
    if (creations_left > 0)
        creations_left--;
    return REAL(pthread_create)(thread, attr, fn, arg);
}

static void play(int argc, char **argv)
{
    unsigned cpus = (unsigned)number(argv[2]);
    int threads = argc > 3 ? (int)number(argv[3]) : (int)cpus;
    struct error err = {0};

    machine = fake_machine(cpus);
    if (machine == NULL)
        return;
    in_window = strcmp(argv[1], "before") == 0;
    creations_left = argc > 3 ? threads : -1;
    int rc = machine_start(machine, &err);
    report_int("start", rc);
    (void)reaches(&entered, threads, 2000);
    report_int("entered", entered);
    stage = "world_set(WORLD_STOP)";
    world_set(machine, WORLD_STOP);
    kicked = 1;
    report_int("kills", kills);
    report_int("flag_first", flag_first);
    report_int("strangers", strangers);
    (void)reaches(in_window ? &seen : &interrupted, threads, 2700);
    report_int("seen", seen);
    report_int("interrupted", interrupted);
    stage = "machine_destroy()";
    machine_destroy(machine);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
