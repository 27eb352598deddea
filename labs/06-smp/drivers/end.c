/*
 * The end of a machine, brought about by several at once.
 *
 * args: race CPUS ROUNDS   each vCPU writes its number to the exit port, all in the same moment; a
 *                          machine for each round
 *       wake CPUS          another thread ends the machine while the main thread sleeps in its loop
 *       locked CPUS        the same while somebody holds world_lock
 */
#include "fake_smp.h"

#define EXIT_PORT 0xf4

static struct machine *machine;
static pthread_barrier_t all_here;
static bool racing;
static _Atomic int wrote[FAKE_CPUS], ran_on, locks, first_cpu;

static void write_exit_port(struct kvm_run *run, uint8_t value)
{
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = KVM_EXIT_IO_OUT;
    run->io.port = EXIT_PORT;
    run->io.size = 1;
    run->io.count = 1;
    run->io.data_offset = 4096;
    ((uint8_t *)run)[4096] = value;
}

static int enter(unsigned cpu, struct kvm_run *run)
{
    if (!racing)
        return compute(run);
    if (wrote[cpu]++ > 0) {
        ran_on++;
        return compute(run);
    }
    (void)pthread_barrier_wait(&all_here);
    write_exit_port(run, (uint8_t)(cpu + 1));
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    struct cpu *cpu = cpu_current();
    int rc = REAL(pthread_mutex_lock)(mutex);

    if (cpu != NULL && mutex == &machine->end_lock && locks++ == 0)
        first_cpu = (int)cpu->vcpu.id;
    return rc;
}

static void *end_it(void *arg)
{
    (void)arg;
    sleep_ms(50);
    machine_end(machine, &(struct machine_outcome){.end = MACHINE_QUIT, .value = 7});
    return NULL;
}

static bool run_to_end(struct machine_outcome *out)
{
    struct error err = {0};

    stage = "machine_run(), when the machine had been ended";
    return scene_needs(machine_run(machine, out, &err), "machine_run", &err);
}

static void play_race(unsigned cpus, int rounds)
{
    int good = 0, locked = 0, own = 0, runs_on = 0;

    racing = true;
    for (int i = 0; i < rounds; i++) {
        struct machine_outcome out = {.end = MACHINE_CRASH};
        fake_count = 0;
        memset(wrote, 0, sizeof(wrote));
        locks = 0;
        first_cpu = -1;
        ran_on = 0;
        (void)pthread_barrier_init(&all_here, NULL, cpus);
        machine = fake_machine(cpus);
        if (machine == NULL || !fake_start(machine) || !run_to_end(&out))
            return;
        locked += locks >= (int)cpus;
        good += (int)out.cpu == first_cpu;
        own += out.end == MACHINE_DEBUG_EXIT && out.value == out.cpu + 1;
        runs_on += ran_on;
        struct loop *loop = machine->cfg.loop;
        machine_destroy(machine);
        machine = NULL;
        loop_destroy(loop);
        for (unsigned k = 0; k < cpus; k++)
            (void)munmap(fake[k].run, FAKE_RUN_SIZE);
    }
    report_int("rounds", rounds);
    report_int("locked", locked);
    report_int("first_counts", good);
    report_int("own_value", own);
    report_int("ran_on", runs_on);
}

static void play_wake(unsigned cpus, bool hold)
{
    struct machine_outcome out = {.end = MACHINE_CRASH};
    struct timespec until;
    pthread_t thread;

    machine = fake_machine(cpus);
    if (machine == NULL || !fake_start(machine) || pthread_create(&thread, NULL, end_it, NULL) != 0)
        return;
    if (hold) {
        pthread_mutex_lock(&machine->world_lock);
        until = in_seconds(1.5);
        report_int("returned", pthread_timedjoin_np(thread, NULL, &until) == 0);
        report_int("stopped", atomic_load(&machine->world) == WORLD_STOP);
        pthread_mutex_unlock(&machine->world_lock);
    }
    if (!run_to_end(&out))
        return;
    report_int("end", out.end == MACHINE_QUIT);
    report_u64("value", out.value);
    machine_end(machine, &(struct machine_outcome){.end = MACHINE_CRASH, .value = 8});
    if (!run_to_end(&out))
        return;
    report_u64("value_later", out.value);
    stage = "machine_destroy()";
    machine_destroy(machine);
    machine = NULL;
}

static void play(int argc, char **argv)
{
    unsigned cpus = (unsigned)number(argv[2]);

    if (strcmp(argv[1], "race") == 0 && argc > 3)
        play_race(cpus, (int)number(argv[3]));
    else
        play_wake(cpus, strcmp(argv[1], "locked") == 0);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
