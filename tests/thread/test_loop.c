/*
 * Wake-ups from other threads are never lost: each thread asks, wakes the loop, and waits for its
 * answer, while the loop waits without a time limit. One lost wake and all would wait for ever.
 */
#include <semaphore.h>
#include <stdatomic.h>

#include "hv/base/loop.h"
#include "thread/crew.h"

#define ASKERS 4
#define QUESTIONS 20000

static struct loop *loop;
static struct asker {
    atomic_bool asked;
    sem_t answered;
    unsigned answers; /* by the loop's thread alone */
} askers[ASKERS];
static atomic_uint done;

static void ask(void *ctx, unsigned index)
{
    struct asker *self = &askers[index];

    (void)ctx;
    for (unsigned i = 0; i < QUESTIONS; i++) {
        atomic_store(&self->asked, true);
        loop_wake(loop);
        CHECK(sem_wait(&self->answered) == 0);
    }
    atomic_fetch_add(&done, 1);
    loop_wake(loop);
}

static void answer_all(void)
{
    for (unsigned i = 0; i < ASKERS; i++) {
        if (atomic_exchange(&askers[i].asked, false)) {
            askers[i].answers++;
            CHECK(sem_post(&askers[i].answered) == 0);
        }
    }
}

int main(void)
{
    struct crew crew = {0};

    CHECK(loop_create(&loop) == 0);
    for (unsigned i = 0; i < ASKERS; i++)
        CHECK(sem_init(&askers[i].answered, 0, 0) == 0);
    crew_start(&crew, ASKERS, ask, NULL);
    while (atomic_load(&done) < ASKERS) {
        CHECK(loop_run_once(loop, -1) == 0);
        answer_all();
    }
    crew_join(&crew);
    for (unsigned i = 0; i < ASKERS; i++) {
        CHECK(askers[i].answers == QUESTIONS);
        CHECK(sem_destroy(&askers[i].answered) == 0);
    }
    loop_destroy(loop);
    return 0;
}
