/*
 * Saved state of devices, for round-trip tests and for hostile ones.
 */
#ifndef SUPPORT_DEV_STATE_H
#define SUPPORT_DEV_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "hv/bus/device.h"

#define DEV_STATE_MAX 1024

struct dev_state {
    uint8_t body[DEV_STATE_MAX]; /* of the device's one section */
    size_t len;
};

void dev_state_take(struct device *dev, struct dev_state *state);
int dev_state_give(struct device *dev, const struct dev_state *state); /* as dev_load() */

/* What `from` saved, loaded into `to`: a device of the same kind and name. */
void dev_state_copy(struct device *from, struct device *to);

/* Loads damaged copies of what `dev` saves. A truncated or overlong state must be refused and
 * change nothing; one with other bytes must be refused with -EINVAL and change nothing, or be
 * accepted and saved again as a state that loads. Ends with the device as it was. */
void dev_state_attack(struct device *dev);

#endif
