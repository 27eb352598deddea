/*
 * The world of a machine: running, paused or stopped.
 *
 * Bringing a vCPU out of the guest is a hand-shake in two parts, because a signal alone could
 * arrive just before KVM_RUN and be lost: the one who wants it out sets machine.world and
 * run->immediate_exit, then sends a signal; the vCPU looks at machine.world before each entry, and
 * an entry with immediate_exit set returns at once.
 */
#include <signal.h>

#include "machine_priv.h"

#define KICK_SIGNAL SIGUSR1

/* The signal only has to end KVM_RUN; it needs a handler so as not to end the process. */
static void on_kick(int signal)
{
    (void)signal;
}

static void kick(struct cpu *cpu)
{
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (cpu->started)
        (void)pthread_kill(cpu->thread, KICK_SIGNAL); /* ESRCH: it has ended, which is as good */
}

/* Stopped is for good: a pause or resume that comes too late changes nothing, but the vCPUs are
 * kicked all the same, because machine_end() leaves that to whoever waits for them. */
void world_set(struct machine *m, enum world world)
{
    pthread_mutex_lock(&m->world_lock);
    if (atomic_load(&m->world) != WORLD_STOP)
        atomic_store(&m->world, world);
    for (unsigned i = 0; world != WORLD_RUN && m->cpus != NULL && i < m->cfg.cpus; i++)
        if (m->cpus[i].vcpu.run != NULL)
            kick(&m->cpus[i]);
    pthread_cond_broadcast(&m->world_change);
    pthread_mutex_unlock(&m->world_lock);
}

void machine_pause(struct machine *m)
{
    world_set(m, WORLD_PAUSE);
    pthread_mutex_lock(&m->world_lock);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        while (m->cpus[i].started && !m->cpus[i].parked)
            pthread_cond_wait(&m->world_change, &m->world_lock);
    pthread_mutex_unlock(&m->world_lock);
}

void machine_resume(struct machine *m)
{
    world_set(m, WORLD_RUN);
}

bool machine_is_paused(const struct machine *m)
{
    return atomic_load(&m->world) == WORLD_PAUSE;
}

/* --- the vCPU's side --- */

/* Finishes the instruction whose exit was served last: KVM completes port and memory reads at the
 * next entry, so a vCPU that parks without one would be saved half-way through an instruction. KVM
 * API §5. */
static void complete_pending_io(struct cpu *cpu)
{
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    (void)!vcpu_run(&cpu->vcpu); /* -EINTR, by design */
}

bool world_obey(struct cpu *cpu)
{
    struct machine *m = cpu->m;

    if (atomic_load(&m->world) == WORLD_PAUSE)
        complete_pending_io(cpu);
    pthread_mutex_lock(&m->world_lock);
    cpu->parked = true;
    pthread_cond_broadcast(&m->world_change);
    while (m->world == WORLD_PAUSE)
        pthread_cond_wait(&m->world_change, &m->world_lock);
    cpu->parked = m->world != WORLD_RUN;
    /* Under the lock: a pause that comes after this sets it again. */
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    bool go_on = m->world == WORLD_RUN;
    pthread_mutex_unlock(&m->world_lock);
    return go_on;
}

void world_prepare_thread(sigset_t *old)
{
    struct sigaction sa = {.sa_handler = on_kick};
    sigset_t all;

    (void)sigaction(KICK_SIGNAL, &sa, NULL); /* no SA_RESTART: KVM_RUN has to return */
    sigfillset(&all);
    sigdelset(&all, KICK_SIGNAL);
    (void)pthread_sigmask(SIG_BLOCK, &all, old); /* cannot fail with these arguments */
}
