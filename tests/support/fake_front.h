/*
 * A device's side of a character back end, for tests: it takes as much input as it is told to.
 */
#ifndef SUPPORT_FAKE_FRONT_H
#define SUPPORT_FAKE_FRONT_H

#include <stddef.h>

#include "hv/base/loop.h"
#include "hv/chr/chr.h"

struct fake_front {
    size_t room; /* falls with every byte that arrives */
    char text[8192];
    size_t len;
};

/* Empties `f`, gives it `room`, and attaches it. */
void fake_front_attach(struct fake_front *f, struct chr *chr, size_t room);

/* Runs the loop until `len` bytes have arrived; fails the test after some seconds. */
void fake_front_wait(struct fake_front *f, struct loop *loop, size_t len);

/* Runs the loop until it has nothing more to do. */
void loop_settle(struct loop *loop);

#endif
