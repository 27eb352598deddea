/*
 * What network back ends share.
 */
#ifndef NET_PRIV_H
#define NET_PRIV_H

#include "hv/net/net.h"

/* Copies a whole frame into iov. Its size, or -EMSGSIZE if there is less room. */
ssize_t net_scatter(const struct iovec *iov, unsigned count, const void *frame, size_t size);

/* A stream over a socket that is connected already, which it takes over if it succeeds. */
int net_stream_adopt(int fd, struct net **out) HV_MUST_CHECK;

#endif
