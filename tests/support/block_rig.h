/*
 * A channel of a block, for tests: requests that are waited for.
 */
#ifndef SUPPORT_BLOCK_RIG_H
#define SUPPORT_BLOCK_RIG_H

#include "hv/block/block.h"

struct block_rig {
    struct loop *loop;
    struct block *block; /* owned */
    struct block_channel *channel;
    unsigned batches;
};

/* Takes the block over. */
void block_rig_init(struct block_rig *rig, struct block *block);
void block_rig_fini(struct block_rig *rig);

/* One request, with one buffer; returns its result. */
int block_rig_do(struct block_rig *rig, enum block_op op, uint64_t offset, void *data,
                 uint64_t size);

/* Runs the loop until *flag is set. */
void block_rig_wait(struct block_rig *rig, const bool *flag);

#endif
