/*
 * machine_pause(), among vCPUs of which one is slow.
 *
 * args: slow CPUS CPU SPURIOUS  vCPU number CPU needs 200 ms to come; SPURIOUS: so many of the main
 *                               thread's waits end without a cause
 *       early CPUS              before machine_start()
 *       late CPUS               after the stop
 *       rounds CPUS N           N times, with no time in between
 */
#include "fake_smp.h"

static struct machine *machine;
static int slow_cpu = -1;
static _Atomic int entered, inside, entered_paused, entries[FAKE_CPUS];
static _Atomic int spurious;

static int enter(unsigned cpu, struct kvm_run *run)
{
    int world = atomic_load(&machine->world);

    if (entries[cpu]++ == 0)
        entered++;
    inside++;
    int rc = compute(run);
    entered_paused += computed_in_pause(machine, world, run, rc);
    if ((int)cpu == slow_cpu && atomic_load(&machine->world) == WORLD_PAUSE)
        sleep_ms(200);
    inside--;
    return rc;
}

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    if (cpu_current() == NULL && spurious > 0) {
        spurious--;
        return 0;
    }
    return REAL(pthread_cond_wait)(cond, mutex);
}

static double cpu_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int count_going_on(unsigned cpus)
{
    int before[FAKE_CPUS], n = 0;

    for (unsigned i = 0; i < cpus; i++)
        before[i] = entries[i];
    machine_resume(machine);
    for (unsigned i = 0; i < cpus; i++)
        n += reaches(&entries[i], before[i] + 1, 500);
    return n;
}

static void look_at_pause(struct machine *m)
{
    double before = cpu_ms();

    stage = "machine_pause()";
    machine_pause(m);
    report_int("inside", inside);
    report_int("parked", all_parked(m));
    report_int("paused", machine_is_paused(m));
    report_int("busy_ms", (long long)(cpu_ms() - before));
}

static void play_slow(struct machine *m, unsigned cpus)
{
    (void)reaches(&entered, (int)cpus, 2000);
    look_at_pause(m);
    slow_cpu = -1;
    stage = "a second machine_pause()";
    machine_pause(m);
    report_int("gone_on", count_going_on(cpus));
    report_int("entered_paused", entered_paused);
}

static void play_rounds(struct machine *m, unsigned cpus, int rounds)
{
    int bad = 0, stuck = 0;

    (void)reaches(&entered, (int)cpus, 2000);
    stage = "machine_pause(), after machine_resume()";
    for (int i = 0; i < rounds; i++) {
        int before = entries[(unsigned)i % cpus];
        machine_pause(m);
        bad += !all_parked(m) || inside != 0;
        machine_resume(m);
        if (i % 4 != 0) /* else the next pause meets vCPUs that have not yet woken */
            stuck += !reaches(&entries[(unsigned)i % cpus], before + 1, 300);
        if (stuck > 5)
            break;
    }
    report_int("stuck", stuck);
    report_int("bad", bad);
    report_int("entered_paused", entered_paused);
}

static void play(int argc, char **argv)
{
    const char *mode = argv[1];
    unsigned cpus = (unsigned)number(argv[2]);
    struct machine *m = machine = fake_machine(cpus);

    if (m == NULL)
        return;
    if (strcmp(mode, "slow") == 0 && argc > 4) {
        slow_cpu = (int)number(argv[3]);
        spurious = (int)number(argv[4]);
    }
    if (strcmp(mode, "early") == 0) {
        look_at_pause(m);
        if (!fake_start(m))
            return;
        report_int("parked_from_the_start", become_parked(m, 1000));
        report_int("entered_paused", entered_paused);
        report_int("gone_on", count_going_on(cpus));
    } else if (!fake_start(m)) {
        return;
    } else if (strcmp(mode, "slow") == 0) {
        play_slow(m, cpus);
    } else if (strcmp(mode, "late") == 0) {
        (void)reaches(&entered, (int)cpus, 2000);
        world_set(m, WORLD_STOP);
        look_at_pause(m);
    } else {
        play_rounds(m, cpus, (int)number(argv[3]));
    }
    stage = "machine_destroy()";
    machine_destroy(m);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
