/*
 * For programs that ThreadSanitizer watches: threads that start together, and checks.
 *
 * Criterion does not start under ThreadSanitizer, so each program here is a plain main() that
 * returns 0, or ends at the first check that fails. Nobody sleeps: whoever waits, waits for another
 * thread, and tests/run ends what hangs.
 */
#ifndef THREAD_CREW_H
#define THREAD_CREW_H

#include <pthread.h>

#define CREW_MAX 8

/* Ends the program when `condition` does not hold. Any thread. */
#define CHECK(condition) ((condition) ? (void)0 : crew_fail(__FILE__, __LINE__, #condition))

_Noreturn void crew_fail(const char *file, int line, const char *condition);

/* One thread's part: `index` counts from 0 within its crew_start(). */
typedef void crew_fn(void *ctx, unsigned index);

struct crew {
    struct crew_member {
        crew_fn *fn;
        void *ctx; /* borrowed */
        unsigned index;
        pthread_t thread;
    } members[CREW_MAX];
    unsigned count;
};

/* Adds `n` threads that run `fn`. Zero-initialise the crew first. */
void crew_start(struct crew *crew, unsigned n, crew_fn *fn, void *ctx);

/* Waits until all have returned; the crew can be used again. */
void crew_join(struct crew *crew);

#endif
