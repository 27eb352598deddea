/*
 * A thread that runs an event loop, for device work that must not wait for a vCPU or the main
 * thread.
 *
 *     iothread_create(), … loop_add(iothread_loop(t), …) …, iothread_start(), … iothread_stop(),
 *     … loop_remove() …, iothread_destroy()
 *
 * Before the start and after the stop, whoever owns the thread takes its place and may change the
 * watches; in between only callbacks on the thread itself may.
 */
#ifndef HV_BASE_IOTHREAD_H
#define HV_BASE_IOTHREAD_H

#include <pthread.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"

struct iothread;

/* `name`: at most 15 characters, for top and gdb; copied. */
int iothread_create(const char *name, struct iothread **out) HV_MUST_CHECK;
struct loop *iothread_loop(const struct iothread *t); /* borrowed */
const char *iothread_name(const struct iothread *t);  /* borrowed */

/* The thread has all signals blocked. -EAGAIN: the host has no more threads. */
int iothread_start(struct iothread *t) HV_MUST_CHECK;

/* Waits until the thread has been through everything that is ready at the time of the call, once:
 * for the last requests of somebody who has stopped making any. Nothing if it does not run. Not
 * from the thread itself. */
void iothread_catch_up(struct iothread *t);

/* Ends the thread after the callback it is in, and waits for that; nothing if it does not run. Not
 * from the thread itself. */
void iothread_stop(struct iothread *t);

/* Processor time that the thread has used, ns; 0 while it does not run. Where it may be stopped. */
uint64_t iothread_cpu_ns(const struct iothread *t);

/* The same of any thread that can still be joined; 0 if it has ended. */
uint64_t thread_cpu_ns(pthread_t thread);

void iothread_destroy(struct iothread *t); /* stops; takes NULL */

#endif
