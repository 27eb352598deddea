#include "support/scratch_dev.h"

#include <errno.h>
#include <string.h>

#include "hv/base/num.h"

static void record(struct scratch_dev *s, bool is_write, uint64_t offset, unsigned size,
                   uint64_t value)
{
    if (s->accesses < SCRATCH_LOG_MAX)
        s->log[s->accesses] = (struct scratch_access){is_write, offset, size, value};
    s->accesses++;
}

static uint64_t scratch_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct scratch_dev *s = container_of(dev, struct scratch_dev, dev);
    uint64_t value = s->junk;

    memcpy(&value, &s->mem[offset % SCRATCH_SIZE], size);
    record(s, false, offset, size, value);
    return value;
}

static void scratch_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct scratch_dev *s = container_of(dev, struct scratch_dev, dev);

    record(s, true, offset, size, value);
    memcpy(&s->mem[offset % SCRATCH_SIZE], &value, size);
}

static void scratch_save(struct device *dev, struct codec_writer *w)
{
    codec_put_bytes(w, container_of(dev, struct scratch_dev, dev)->mem, SCRATCH_SIZE);
}

/* Refuses a state whose first byte is 0xee. */
static int scratch_load(struct device *dev, struct codec_reader *r)
{
    struct scratch_dev *s = container_of(dev, struct scratch_dev, dev);
    uint8_t mem[SCRATCH_SIZE];

    codec_get_bytes(r, mem, sizeof(mem));
    int err = codec_leave(r);
    if (err)
        return err;
    if (mem[0] == 0xee)
        return -EINVAL;
    memcpy(s->mem, mem, sizeof(mem));
    return 0;
}

static void scratch_destroy(struct device *dev)
{
    container_of(dev, struct scratch_dev, dev)->destroyed++;
}

void scratch_init(struct scratch_dev *s, const char *name, unsigned max_access)
{
    memset(s, 0, sizeof(*s));
    s->ops = (struct dev_ops){
        .read = scratch_read,
        .write = scratch_write,
        .save = scratch_save,
        .load = scratch_load,
        .destroy = scratch_destroy,
        .max_access = max_access,
        .version = 3,
    };
    dev_init(&s->dev, &s->ops, name);
}

void scratch_fini(struct scratch_dev *s)
{
    dev_fini(&s->dev);
}
