#include "support/fake_front.h"

#include <criterion/criterion.h>
#include <string.h>

#include "hv/base/fd.h"

static size_t front_room(void *ctx)
{
    return ((struct fake_front *)ctx)->room;
}

static void front_input(void *ctx, const uint8_t *data, size_t len)
{
    struct fake_front *f = ctx;

    cr_assert_leq(len, f->room, "more input than there was room for");
    cr_assert_lt(f->len + len, sizeof(f->text));
    memcpy(f->text + f->len, data, len);
    f->len += len;
    f->text[f->len] = '\0';
    f->room -= len;
}

void fake_front_attach(struct fake_front *f, struct chr *chr, size_t room)
{
    memset(f, 0, sizeof(*f));
    f->room = room;
    chr_attach(chr, &(struct chr_front){.room = front_room, .input = front_input, .ctx = f});
}

void fake_front_wait(struct fake_front *f, struct loop *loop, size_t len)
{
    uint64_t end = now_ns() + UINT64_C(10000000000);

    while (f->len < len) {
        cr_assert_lt(now_ns(), end, "%zu bytes arrived, %zu were expected", f->len, len);
        cr_assert_eq(loop_run_once(loop, 100), 0);
    }
}

void loop_settle(struct loop *loop)
{
    /* What is ready now is handled now; a watch that is always ready would show as a busy loop in
     * the tests that count. */
    for (int i = 0; i < 20; i++)
        cr_assert_eq(loop_run_once(loop, 0), 0);
}
