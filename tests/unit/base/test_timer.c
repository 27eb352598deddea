#include <criterion/criterion.h>

#include "hv/base/fd.h"
#include "hv/base/timer.h"

static struct loop *loop;
static struct timer timer;
static unsigned fired;

static void on_fire(void *ctx)
{
    cr_assert_eq(ctx, &fired);
    fired++;
}

static void setup(void)
{
    fired = 0;
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(timer_init(&timer, loop, on_fire, &fired), 0);
}

static void teardown(void)
{
    timer_fini(&timer);
    loop_destroy(loop);
}

TestSuite(timer, .init = setup, .fini = teardown, .timeout = 30);

static void wait_for(unsigned count)
{
    while (fired < count)
        cr_assert_eq(loop_run_once(loop, -1), 0);
}

Test(timer, fires_once)
{
    timer_set(&timer, 1000);
    wait_for(1);
    cr_assert_eq(loop_run_once(loop, 5), 0);
    cr_assert_eq(fired, 1);
}

Test(timer, does_not_fire_before_its_time)
{
    uint64_t begin = now_ns();

    timer_set(&timer, 20000000);
    wait_for(1);
    cr_assert_geq(now_ns() - begin, 20000000);
}

Test(timer, zero_is_at_once)
{
    timer_set(&timer, 0);
    wait_for(1);
}

Test(timer, whole_seconds_are_kept_apart_from_the_rest)
{
    timer_set(&timer, UINT64_C(1000000000) * 3600);
    cr_assert_eq(loop_run_once(loop, 5), 0);
    cr_assert_eq(fired, 0);
    timer_set(&timer, UINT64_MAX);
    cr_assert_eq(loop_run_once(loop, 5), 0);
    cr_assert_eq(fired, 0);
}

Test(timer, a_cancelled_one_stays_silent)
{
    timer_set(&timer, 0);
    timer_cancel(&timer);
    cr_assert_eq(loop_run_once(loop, 5), 0);
    cr_assert_eq(fired, 0);
}

Test(timer, set_again_it_fires_at_the_later_time_alone)
{
    timer_set(&timer, 0);
    timer_set(&timer, UINT64_C(1000000000) * 3600);
    cr_assert_eq(loop_run_once(loop, 5), 0);
    cr_assert_eq(fired, 0);
    timer_set(&timer, 1);
    wait_for(1);
}
