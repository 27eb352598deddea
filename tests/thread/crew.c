#include "thread/crew.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void crew_fail(const char *file, int line, const char *condition)
{
    (void)fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    _Exit(1); /* the other threads still use what exit() would clean up */
}

static void *run_member(void *arg)
{
    const struct crew_member *member = arg;

    member->fn(member->ctx, member->index);
    return NULL;
}

void crew_start(struct crew *crew, unsigned n, crew_fn *fn, void *ctx)
{
    for (unsigned i = 0; i < n; i++) {
        CHECK(crew->count < CREW_MAX);
        struct crew_member *member = &crew->members[crew->count++];
        *member = (struct crew_member){.fn = fn, .ctx = ctx, .index = i};
        CHECK(pthread_create(&member->thread, NULL, run_member, member) == 0);
    }
}

void crew_join(struct crew *crew)
{
    for (unsigned i = 0; i < crew->count; i++)
        CHECK(pthread_join(crew->members[i].thread, NULL) == 0);
    crew->count = 0;
}
