/*
 * A set of cluster numbers: hashed, with open addressing, never more than half full.
 *
 * It holds the clusters of the file that are tables, so that data is never written over them,
 * whatever an L2 entry or a reference count says.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2_priv.h"

#define ROOM_FIRST 64        /* a power of two */
#define COUNT_MAX (8U << 20) /* more than the tables that any honest image has */

/* Multiplicative hashing: neighbours spread all over the table. */
static size_t place_of(const struct qcow2_set *s, uint64_t number)
{
    return (size_t)((number * 0x9e3779b97f4a7c15U) >> 20) & (s->room - 1);
}

/* Where the number is, or the free place that it would get. */
static size_t look_up(const struct qcow2_set *s, uint64_t number)
{
    size_t at = place_of(s, number);

    while (s->numbers[at] != 0 && s->numbers[at] != number + 1)
        at = (at + 1) & (s->room - 1);
    return at;
}

static int make_room(struct qcow2_set *s)
{
    struct qcow2_set more = {.room = s->room ? 2 * s->room : ROOM_FIRST, .count = s->count};

    more.numbers = calloc(more.room, sizeof(*more.numbers));
    if (more.numbers == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < s->room; i++)
        if (s->numbers[i] != 0)
            more.numbers[look_up(&more, s->numbers[i] - 1)] = s->numbers[i];
    free(s->numbers);
    *s = more;
    return 0;
}

int qcow2_set_add(struct qcow2_set *s, uint64_t number)
{
    if (s->count == COUNT_MAX || (2 * (s->count + 1) > s->room && make_room(s) < 0))
        return -ENOMEM;
    size_t at = look_up(s, number);
    if (s->numbers[at] != 0)
        return -EEXIST;
    s->numbers[at] = number + 1;
    s->count++;
    return 0;
}

bool qcow2_set_has(const struct qcow2_set *s, uint64_t number)
{
    return s->room > 0 && s->numbers[look_up(s, number)] != 0;
}

void qcow2_set_remove(struct qcow2_set *s, uint64_t number)
{
    if (!qcow2_set_has(s, number))
        return;
    size_t hole = look_up(s, number);
    s->numbers[hole] = 0;
    s->count--;
    /* Those behind it, up to the next free place, might have stepped over it. */
    for (size_t at = (hole + 1) & (s->room - 1); s->numbers[at] != 0;
         at = (at + 1) & (s->room - 1)) {
        uint64_t moved = s->numbers[at];
        s->numbers[at] = 0;
        s->numbers[look_up(s, moved - 1)] = moved;
    }
}

void qcow2_set_fini(struct qcow2_set *s)
{
    free(s->numbers);
    *s = (struct qcow2_set){0};
}
