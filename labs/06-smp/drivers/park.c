/*
 * A vCPU's way into its parking place and out of it, with world_set() alone.
 *
 * args: in CPUS SPURIOUS   a pause, a while, the stop; SPURIOUS: how many waits of each vCPU end
 *                          without a cause
 *       out CPUS SPURIOUS  a pause, then on; and once more, with a second pause that comes right
 *                          after vCPU 0 has let go of world_lock on its way out
 */
#include <sys/resource.h>

#include "fake_smp.h"

static struct machine *machine;
static bool slow; /* vCPU 0 takes its time */
static bool joined[FAKE_CPUS];
static _Atomic int entries[FAKE_CPUS], still_parked;
static _Atomic int entered, entered_paused, stale;
static _Atomic int spurious[FAKE_CPUS];
static _Atomic int armed, let_go, paused_again;

static int enter(unsigned cpu, struct kvm_run *run)
{
    struct machine *m = machine;
    int world = atomic_load(&m->world);

    entered += entries[cpu]++ == 0;
    stale += world == WORLD_RUN && wants_out(run);
    pthread_mutex_lock(&m->world_lock);
    still_parked += world == WORLD_RUN && m->cpus[cpu].parked;
    pthread_mutex_unlock(&m->world_lock);
    int rc = compute(run);
    entered_paused += computed_in_pause(m, world, run, rc);
    if (cpu == 0 && slow && atomic_load(&m->world) != WORLD_RUN)
        sleep_ms(100);
    return rc;
}

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    struct cpu *cpu = cpu_current();

    if (cpu != NULL && spurious[cpu->vcpu.id] > 0) {
        spurious[cpu->vcpu.id]--;
        return 0;
    }
    return REAL(pthread_cond_wait)(cond, mutex);
}

int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    struct cpu *cpu = cpu_current();
    int rc = REAL(pthread_mutex_unlock)(mutex);

    if (cpu != NULL && cpu->vcpu.id == 0 && mutex == &machine->world_lock && armed &&
        atomic_load(&machine->world) == WORLD_RUN) {
        armed = 0;
        let_go = 1;
        (void)reaches(&paused_again, 1, 1000);
    }
    return rc;
}

/* How often a thread of this process went to sleep so far. */
static long switches(void)
{
    struct rusage usage;

    (void)getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}

static int sum_of_entries(unsigned cpus)
{
    int sum = 0;

    for (unsigned i = 0; i < cpus; i++)
        sum += entries[i];
    return sum;
}

/* Waits as machine_pause() would; false when nobody said that there is something to look at. */
static bool hear_of_parking(struct machine *m)
{
    struct timespec until = in_seconds(1.5);
    unsigned i = 0;
    int rc = 0;

    pthread_mutex_lock(&m->world_lock);
    while (i < m->cfg.cpus && rc == 0) {
        if (m->cpus[i].parked)
            i++;
        else
            rc = pthread_cond_timedwait(&m->world_change, &m->world_lock, &until);
    }
    pthread_mutex_unlock(&m->world_lock);
    return rc == 0;
}

static bool was_joined(pthread_t thread)
{
    for (unsigned i = 0; i < FAKE_CPUS; i++)
        if (joined[i] && pthread_equal(thread, machine->cpus[i].thread))
            return true;
    return false;
}

/* stop_cpus() will kick and join what is joined here already. */
int pthread_join(pthread_t thread, void **value)
{
    return was_joined(thread) ? 0 : REAL(pthread_join)(thread, value);
}

int pthread_kill(pthread_t thread, int signal)
{
    return was_joined(thread) ? ESRCH : REAL(pthread_kill)(thread, signal);
}

static bool threads_are_gone(unsigned cpus)
{
    bool all = true;

    for (unsigned i = 0; i < cpus; i++) {
        struct timespec until = in_seconds(1);
        joined[i] = pthread_timedjoin_np(machine->cpus[i].thread, NULL, &until) == 0;
        all = all && joined[i];
    }
    return all;
}

static void play_in(struct machine *m, unsigned cpus)
{
    slow = true;
    world_set(m, WORLD_PAUSE);
    report_int("told", hear_of_parking(m));
    report_int("parked", become_parked(m, 1000));
    sleep_ms(20);
    int before = sum_of_entries(cpus);
    long slept = switches();
    sleep_ms(200);
    report_int("entries_parked", sum_of_entries(cpus) - before);
    report_int("wakes_parked", switches() - slept);
    report_int("entered_paused", entered_paused);
    world_set(m, WORLD_STOP);
    report_int("gone", threads_are_gone(cpus));
    report_int("parked_at_end", all_parked(m));
}

static void play_out(struct machine *m, unsigned cpus)
{
    world_set(m, WORLD_PAUSE);
    report_int("parked", become_parked(m, 1000));
    int before[FAKE_CPUS], gone_on = 0;
    for (unsigned i = 0; i < cpus; i++)
        before[i] = entries[i];
    stale = still_parked = 0;
    world_set(m, WORLD_RUN);
    for (unsigned i = 0; i < cpus; i++)
        gone_on += reaches(&entries[i], before[i] + 2, 800);
    report_int("gone_on", gone_on);
    report_int("stale", stale);
    report_int("still_parked", still_parked);
    /* and again, with a pause that follows at once */
    world_set(m, WORLD_PAUSE);
    (void)become_parked(m, 1000);
    entered_paused = 0;
    armed = 1;
    world_set(m, WORLD_RUN);
    (void)reaches(&let_go, 1, 1000);
    world_set(m, WORLD_PAUSE);
    paused_again = 1;
    report_int("let_go", let_go);
    (void)become_parked(m, 300);
    report_int("lost", entered_paused);
    world_set(m, WORLD_STOP);
}

static void play(int argc, char **argv)
{
    unsigned cpus = (unsigned)number(argv[2]);
    struct machine *m = machine = fake_machine(cpus);

    for (unsigned i = 0; argc > 3 && i < cpus; i++)
        spurious[i] = (int)number(argv[3]);
    if (m == NULL || !fake_start(m))
        return;
    (void)reaches(&entered, (int)cpus, 2000);
    report_int("entered", entered);
    if (strcmp(argv[1], "in") == 0)
        play_in(m, cpus);
    else
        play_out(m, cpus);
    stage = "machine_destroy()";
    machine_destroy(m);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
