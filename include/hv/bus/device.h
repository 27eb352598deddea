/*
 * What every emulated device has in common.
 *
 * A device is a register file: reads and writes at an offset in its own register space, never at a
 * guest address; a device does not care where on a bus it sits. It receives what it needs (an
 * irq_line, guest memory, a back end) when it is created, and reaches nothing else.
 *
 * A concrete device starts with a `struct device`, and its ops recover it with container_of().
 *
 * Threads: the bus holds `lock` around read and write. Code that enters the device from elsewhere
 * (a character back end's input, a timer) takes it with dev_lock(). The lock guards every field of
 * the device. save and load are called with the machine stopped; the caller of
 * dev_save()/dev_load() need not hold the lock.
 */
#ifndef HV_BUS_DEVICE_H
#define HV_BUS_DEVICE_H

#include <pthread.h>
#include <stdint.h>

#include "hv/base/codec.h"
#include "hv/base/err.h"

struct device;

struct dev_ops {
    /* Both get 1, 2, 4 or 8 as `size`, at most `max_access`, and an offset for which offset + size
     * is inside the window that was mapped. A write's value has its unused high bytes cleared. */
    uint64_t (*read)(struct device *dev, uint64_t offset, unsigned size);
    void (*write)(struct device *dev, uint64_t offset, unsigned size, uint64_t value);
    /* One codec section per device, named dev->name and of this table's version; it is open when
     * these are called. save() writes its fields. load() reads them, calls codec_leave(), validates
     * every value (-EINVAL), and changes the device only when all of that went well. */
    void (*save)(struct device *dev, struct codec_writer *w);
    int (*load)(struct device *dev, struct codec_reader *r);
    void (*destroy)(struct device *dev);
    /* The widest access the registers take (1, 2, 4 or 8 bytes). The bus splits wider ones into
     * several, lowest address first, as an ISA or PCI bridge does. */
    unsigned max_access;
    uint32_t version; /* of what save() writes */
};

struct device {
    const struct dev_ops *ops;
    const char *name; /* static string: "serial0"; also the name of its saved section */
    pthread_mutex_t lock;
};

/* For concrete devices' create() and destroy(). */
void dev_init(struct device *dev, const struct dev_ops *ops, const char *name);
void dev_fini(struct device *dev);

void dev_lock(struct device *dev);
void dev_unlock(struct device *dev);

/* The only callers of ops. All but dev_destroy() take the lock. dev_load() leaves the device as it
 * was on failure: -ENOENT, -ENOTUNIQ (another section comes next), -ENOTSUP (another version),
 * -EBADMSG or -ENODATA (damaged), -EINVAL (a value that no device of ours would have saved). */
uint64_t dev_read(struct device *dev, uint64_t offset, unsigned size);
void dev_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value);
int dev_save(struct device *dev, struct codec_writer *w) HV_MUST_CHECK;
int dev_load(struct device *dev, struct codec_reader *r) HV_MUST_CHECK;
void dev_destroy(struct device *dev); /* takes NULL */

#endif
