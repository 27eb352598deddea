/*
 * The world of a machine: running, paused or stopped.
 *
 * It takes two to bring a vCPU out of the guest: whoever wants it out says so in machine.world and
 * kicks the vCPU; the vCPU looks at machine.world before each entry. What makes it hard is the
 * moment between that look and the entry.
 */
#include <signal.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "machine_priv.h"

#define KICK_SIGNAL SIGUSR1

/* The signal only has to end KVM_RUN; it needs a handler so as not to end the process. */
static void on_kick(int signal)
{
    (void)signal;
}

/* Brings a vCPU out of the guest, if it is there. */
static void kick(struct cpu *cpu)
{
    /* EXERCISE 6.5: whatever this vCPU's thread is doing at this moment, it must come out of
     * KVM_RUN, or not stay in it. A signal ends a KVM_RUN that is under way; to a thread that is
     * just about to call it, it happens too early and is forgotten. immediate_exit in the run
     * structure makes KVM_RUN return before it enters the guest (KVM API §5); KVM looks at it once,
     * at the beginning. The thread reads the structure at the same time: store atomically. A vCPU
     * that has no thread (`started`) cannot be signalled; a thread that has ended is no error. */
    // SOLUTION 6.5
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (cpu->started)
        (void)pthread_kill(cpu->thread, KICK_SIGNAL); /* ESRCH: it has ended, which is as good */
    // ELSE
    // (void)todo("6.5");
    // if (cpu->started)
    //     (void)pthread_kill(cpu->thread, KICK_SIGNAL);
    // BEFORE
    // if (cpu->started)
    //     (void)pthread_kill(cpu->thread, KICK_SIGNAL);
    // END 6.5
}

/* machine_end() stops the world without a lock, so to look and then to store would undo its work
 * now and then. */
static void set_unless_stopped(struct machine *m, enum world world)
{
    int now = atomic_load(&m->world);

    while (now != WORLD_STOP && !atomic_compare_exchange_weak(&m->world, &now, (int)world)) {
    }
}

/* Stopped is for good: a pause or resume that comes too late changes nothing, but the vCPUs are
 * kicked all the same, because machine_end() leaves that to whoever waits for them. */
void world_set(struct machine *m, enum world world)
{
    pthread_mutex_lock(&m->world_lock);
    set_unless_stopped(m, world);
    for (unsigned i = 0; world != WORLD_RUN && m->cpus != NULL && i < m->cfg.cpus; i++)
        if (m->cpus[i].vcpu.run != NULL)
            kick(&m->cpus[i]);
    pthread_cond_broadcast(&m->world_change);
    pthread_mutex_unlock(&m->world_lock);
}

void machine_pause(struct machine *m)
{
    /* EXERCISE 6.7: tell the world to pause, then sleep until every vCPU that has a thread is
     * parked. A vCPU's `parked` may be looked at under world_lock only, and world_change is
     * signalled whenever one of them changes; a wait on it can end without a cause. */
    // SOLUTION 6.7
    world_set(m, WORLD_PAUSE);
    pthread_mutex_lock(&m->world_lock);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        while (m->cpus[i].started && !m->cpus[i].parked)
            pthread_cond_wait(&m->world_change, &m->world_lock);
    pthread_mutex_unlock(&m->world_lock);
    // ELSE
    // (void)todo("6.7");
    // world_set(m, WORLD_PAUSE);
    // BEFORE
    // world_set(m, WORLD_PAUSE);
    // pthread_mutex_lock(&m->world_lock);
    // while (m->cpus[0].started && !m->cpus[0].parked)
    //     pthread_cond_wait(&m->world_change, &m->world_lock);
    // pthread_mutex_unlock(&m->world_lock);
    // END 6.7
}

void machine_resume(struct machine *m)
{
    bool held = false;

    held = holds_any(m); // lab 10
    if (!held)
        world_set(m, WORLD_RUN);
}

bool machine_is_paused(const struct machine *m)
{
    return atomic_load(&m->world) == WORLD_PAUSE;
}

/* --- the vCPU's side --- */

// lab 06 {
/* Makes the vCPU's state whole: as it is between two instructions. */
static void complete_pending_io(struct cpu *cpu)
{
    /* EXERCISE 6.8: KVM finishes an access of the guest's at the entry after the exit; until then
     * the state is half-way through an instruction, and whoever looks or saves sees that (KVM API
     * §5, the note after KVM_EXIT_MMIO). Have it finished, without letting the guest go on to its
     * next instruction. An access that KVM hands over in pieces exits once for each; all of them
     * belong to the instruction. cpu_run_once() enters and has the exit served. */
    // SOLUTION 6.8
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    while (cpu_run_once(cpu)) {
        /* The rest of an access that KVM hands over in pieces, or the end of a single step. */
    }
    // ELSE
    // (void)todo("6.8");
    // END 6.8
}
// }

/* Under world_lock. */
static bool must_wait(const struct cpu *cpu)
{
    int world = atomic_load(&cpu->m->world);

    return world == WORLD_PAUSE || (world == WORLD_RUN && cpu->held);
}

/* Waits for as long as the world says. False: the machine has been stopped, and the thread has to
 * end. */
static bool park(struct cpu *cpu)
{
    struct machine *m = cpu->m;

    /* EXERCISE 6.6: say that this vCPU is parked, to whoever waits for it on world_change. Sleep on
     * the same condition while it must wait; a wait can end without a cause. If the world runs
     * then, the vCPU is parked no longer, and may enter the guest again: the kick that brought it
     * here has been obeyed, immediate_exit has to go. But the next kick can come at any moment, and
     * world_set() kicks under world_lock. If the world has been stopped, the vCPU is parked for
     * ever. machine_end() stops the world without the lock: what you return and what you leave in
     * `parked` must rest on one look at it. */
    // SOLUTION 6.6
    pthread_mutex_lock(&m->world_lock);
    cpu->parked = true;
    pthread_cond_broadcast(&m->world_change);
    while (must_wait(cpu))
        pthread_cond_wait(&m->world_change, &m->world_lock);
    bool go_on = atomic_load(&m->world) == WORLD_RUN;
    cpu->parked = !go_on;
    /* Under the lock: a pause that comes after this sets it again. */
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&m->world_lock);
    return go_on;
    // ELSE
    // (void)todo("6.6");
    // return must_wait(cpu) || atomic_load(&m->world) == WORLD_RUN;
    // BEFORE
    // const struct timespec ms = {.tv_nsec = 1000000};
    // bool go_on;
    //
    // /* One CPU is asked to wait for a person now and then, so it may look again and again. */
    // for (;;) {
    //     pthread_mutex_lock(&m->world_lock);
    //     bool wait = must_wait(cpu);
    //     go_on = !wait && atomic_load(&m->world) == WORLD_RUN;
    //     cpu->parked = !go_on;
    //     pthread_cond_broadcast(&m->world_change);
    //     pthread_mutex_unlock(&m->world_lock);
    //     if (!wait)
    //         return go_on;
    //     (void)nanosleep(&ms, NULL);
    // }
    // END 6.6
}

bool world_obey(struct cpu *cpu)
{
    if (atomic_load(&cpu->m->world) == WORLD_PAUSE) // lab 06
        complete_pending_io(cpu);                   // lab 06
    return park(cpu);
}

// lab 06 {
/* Raised by an instruction of the thread itself; term.c restores the terminal at most of them. */
static const int own_faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGTRAP};
// }

void world_prepare_thread(sigset_t *old)
{
    struct sigaction sa = {.sa_handler = on_kick};

    (void)sigaction(KICK_SIGNAL, &sa, NULL); /* no SA_RESTART: whatever blocks a vCPU has to end */
    /* EXERCISE 6.3: a thread begins with the mask of the thread that makes it, so what is blocked
     * here is blocked in the vCPU's thread from its first instruction on. Two kinds of signals must
     * reach a vCPU's thread: the kick, and what the thread brings on itself by a fault
     * (`own_faults`), which blocked would end hv without a word. All others are for the main
     * thread. What was blocked before, by whoever started hv for instance, counts for nothing; *old
     * gets it, for the caller to put back. */
    // SOLUTION 6.3
    sigset_t blocked;

    sigfillset(&blocked);
    sigdelset(&blocked, KICK_SIGNAL);
    for (size_t i = 0; i < ARRAY_LEN(own_faults); i++)
        sigdelset(&blocked, own_faults[i]);
    (void)pthread_sigmask(SIG_SETMASK, &blocked, old); /* cannot fail with these arguments */
    // ELSE
    // (void)own_faults;
    // (void)todo("6.3");
    // (void)pthread_sigmask(SIG_BLOCK, NULL, old);
    // BEFORE
    // (void)pthread_sigmask(SIG_BLOCK, NULL, old); /* changes nothing, only looks */
    // END 6.3
}
