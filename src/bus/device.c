/*
 * The calls into a device: each takes the device's lock and keeps the promises that the ops rely
 * on, so that no device has to check them again.
 */
#include "hv/bus/device.h"

#include <assert.h>
#include <errno.h>

/* The bits that an access of `size` bytes carries. */
static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
}

void dev_init(struct device *dev, const struct dev_ops *ops, const char *name)
{
    dev->ops = ops;
    dev->name = name;
    /* A mutex with default attributes: on Linux this allocates nothing and cannot fail. */
    (void)pthread_mutex_init(&dev->lock, NULL);
}

void dev_fini(struct device *dev)
{
    (void)pthread_mutex_destroy(&dev->lock); /* fails only for a locked mutex: a bug of ours */
}

void dev_lock(struct device *dev)
{
    int err = pthread_mutex_lock(&dev->lock);
    assert(err == 0);
    (void)err;
}

void dev_unlock(struct device *dev)
{
    int err = pthread_mutex_unlock(&dev->lock);
    assert(err == 0);
    (void)err;
}

uint64_t dev_read(struct device *dev, uint64_t offset, unsigned size)
{
    assert(size <= dev->ops->max_access);
    dev_lock(dev);
    uint64_t value = dev->ops->read(dev, offset, size);
    dev_unlock(dev);
    return value & size_mask(size);
}

void dev_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    assert(size <= dev->ops->max_access);
    dev_lock(dev);
    dev->ops->write(dev, offset, size, value & size_mask(size));
    dev_unlock(dev);
}

int dev_save(struct device *dev, struct codec_writer *w)
{
    codec_begin(w, dev->name, dev->ops->version);
    dev_lock(dev);
    dev->ops->save(dev, w);
    dev_unlock(dev);
    return codec_end(w);
}

int dev_load(struct device *dev, struct codec_reader *r)
{
    uint32_t version;
    int err = codec_enter(r, dev->name, &version);
    if (err)
        return err;
    if (version != dev->ops->version)
        return -ENOTSUP;
    dev_lock(dev);
    err = dev->ops->load(dev, r);
    dev_unlock(dev);
    return err;
}

void dev_destroy(struct device *dev)
{
    if (dev)
        dev->ops->destroy(dev);
}
