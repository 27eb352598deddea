/*
 * What the back ends share, and nobody else sees.
 */
#ifndef HV_CHR_PRIV_H
#define HV_CHR_PRIV_H

#include "hv/chr/chr.h"

void chr_init(struct chr *chr, const struct chr_ops *ops);

/* Counts output that will never be sent. */
void chr_count_dropped(struct chr *chr, size_t bytes);

/* Remembers the first error. */
void chr_set_error(struct chr *chr, int err);

#endif
