#include "support/dev_state.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

void dev_state_take(struct device *dev, struct dev_state *state)
{
    struct codec_writer w;
    struct codec_reader r;
    uint32_t version;

    codec_writer_init(&w);
    cr_assert_eq(dev_save(dev, &w), 0);
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, dev->name, &version), 0);
    cr_assert_eq(version, dev->ops->version);
    state->len = r.body_end - r.body_pos;
    cr_assert_leq(state->len, DEV_STATE_MAX);
    codec_get_bytes(&r, state->body, state->len);
    cr_assert_eq(codec_leave(&r), 0);
    codec_writer_fini(&w);
}

int dev_state_give(struct device *dev, const struct dev_state *state)
{
    struct codec_writer w;
    struct codec_reader r;

    codec_writer_init(&w);
    codec_begin(&w, dev->name, dev->ops->version);
    codec_put_bytes(&w, state->body, state->len);
    cr_assert_eq(codec_end(&w), 0);
    codec_reader_init(&r, w.data, w.size);
    int err = dev_load(dev, &r);
    codec_writer_fini(&w);
    return err;
}

void dev_state_copy(struct device *from, struct device *to)
{
    struct dev_state state;

    dev_state_take(from, &state);
    cr_assert_eq(dev_state_give(to, &state), 0);
}

static void assert_unchanged(struct device *dev, const struct dev_state *before)
{
    struct dev_state now;

    dev_state_take(dev, &now);
    cr_assert_eq(now.len, before->len);
    cr_assert_arr_eq(now.body, before->body, now.len, "a refused state changed the device");
}

static void attack_lengths(struct device *dev, const struct dev_state *good)
{
    struct dev_state bad = *good;

    for (bad.len = 0; bad.len < good->len; bad.len++) {
        cr_assert_eq(dev_state_give(dev, &bad), -ENODATA);
        assert_unchanged(dev, good);
    }
    bad.body[good->len] = 0;
    bad.len = good->len + 1;
    cr_assert_eq(dev_state_give(dev, &bad), -EBADMSG);
    assert_unchanged(dev, good);
}

static void attack_byte(struct device *dev, const struct dev_state *good, size_t at, uint8_t value)
{
    struct dev_state bad = *good, accepted;

    bad.body[at] = value;
    int err = dev_state_give(dev, &bad);
    if (err) {
        cr_assert_eq(err, -EINVAL);
        assert_unchanged(dev, good);
        return;
    }
    dev_state_take(dev, &accepted);
    cr_assert_eq(dev_state_give(dev, &accepted), 0, "saved a state that does not load");
    cr_assert_eq(dev_state_give(dev, good), 0);
}

void dev_state_attack(struct device *dev)
{
    struct dev_state good;

    dev_state_take(dev, &good);
    attack_lengths(dev, &good);
    for (size_t at = 0; at < good.len; at++)
        for (unsigned value = 0; value < 256; value++)
            attack_byte(dev, &good, at, (uint8_t)value);
}
