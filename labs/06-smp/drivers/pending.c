/*
 * A pause that comes while an exit is being served.
 *
 * The last vCPU's guest reads, in PIECES pieces, of which KVM hands over each at the entry after
 * the one before was answered; then it would go on. All others compute.
 *
 * args: kicked PIECES   the pause has kicked everybody before the first piece is served
 *       unkicked PIECES the world is paused, and the vCPU sees that before its kick has come
 */
#include "fake_smp.h"

#define CPUS 2
#define READER (CPUS - 1)

static struct machine *machine;
static bool hold_kick;
static int pieces, handed_over;
static _Atomic int reading, paused, answered, ran_on, completed, went_on;

static bool was_answered(const struct kvm_run *run)
{
    uint64_t ones;

    memcpy(&ones, run->mmio.data, sizeof(ones));
    return ones == ~0ULL; /* nobody is there: a bus says ones */
}

static void hand_over(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = 0xd0000000 + 8U * (unsigned)handed_over;
    run->mmio.len = 8;
    run->mmio.is_write = 0;
    memset(run->mmio.data, 0x5a, 8);
    handed_over++;
}

static void wait_for_pause(void)
{
    double end = seconds_now() + 2 * patience;

    while (atomic_load(&machine->world) != WORLD_PAUSE && seconds_now() < end)
        sleep_ms(1);
    if (!hold_kick)
        (void)reaches(&paused, 1, 2000);
}

/* As KVM does it: first what is left of the access before, then the look at immediate_exit. */
static int enter(unsigned cpu, struct kvm_run *run)
{
    if (cpu != READER)
        return compute(run);
    bool out = wants_out(run);
    if (handed_over > 0 && handed_over <= pieces) {
        answered += was_answered(run);
        ran_on += !out && handed_over == pieces;
    }
    if (handed_over < pieces) {
        hand_over(run);
        if (handed_over == 1) {
            reading = 1;
            wait_for_pause();
        }
        return 0;
    }
    if (handed_over == pieces) {
        handed_over++;
        completed = 1;
    } else if (!out) {
        went_on += atomic_load(&machine->world) == WORLD_RUN;
        ran_on += atomic_load(&machine->world) == WORLD_PAUSE;
    }
    return compute(run);
}

int pthread_kill(pthread_t thread, int signal)
{
    if (hold_kick && machine->cpus[0].started && pthread_equal(thread, machine->cpus[0].thread))
        (void)reaches(&completed, 1, 700);
    return REAL(pthread_kill)(thread, signal);
}

static void play(int argc, char **argv)
{
    if (argc < 3)
        return;
    hold_kick = strcmp(argv[1], "unkicked") == 0;
    pieces = (int)number(argv[2]);
    machine = fake_machine(CPUS);
    if (machine == NULL || !fake_start(machine))
        return;
    (void)reaches(&reading, 1, 2000);
    stage = "world_set(WORLD_PAUSE)";
    world_set(machine, WORLD_PAUSE);
    paused = 1;
    report_int("parked", become_parked(machine, 1500));
    report_int("handed_over", handed_over < pieces ? handed_over : pieces);
    report_int("answered", answered);
    report_int("completed", completed);
    report_int("ran_on", ran_on);
    hold_kick = false;
    world_set(machine, WORLD_RUN);
    report_int("went_on", reaches(&went_on, 1, 1000));
    stage = "machine_destroy()";
    machine_destroy(machine);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
