#include <criterion/criterion.h>

#include "hv/base/bucket.h"

#define S UINT64_C(1000000000)

static struct bucket b;

static void setup(void)
{
    bucket_init(&b);
}

static void teardown(void)
{
    bucket_fini(&b);
}

TestSuite(bucket, .init = setup, .fini = teardown);

Test(bucket, without_a_limit_nobody_waits)
{
    bucket_spend(&b, UINT64_MAX);
    cr_assert_eq(bucket_wait(&b, 0), 0);
}

Test(bucket, tells_whether_there_is_a_limit)
{
    cr_assert_not(bucket_has_limit(&b));
    bucket_limit(&b, 1, 0, 0);
    cr_assert(bucket_has_limit(&b));
    bucket_limit(&b, 0, 0, 0);
    cr_assert_not(bucket_has_limit(&b));
}

Test(bucket, a_burst_is_free_and_then_the_rate_holds)
{
    bucket_limit(&b, 100, 50, 7 * S);
    cr_assert_eq(bucket_wait(&b, 7 * S), 0);
    bucket_spend(&b, 50);
    uint64_t wait = bucket_wait(&b, 7 * S);
    cr_assert_eq(wait, S / 100); /* one token */
    cr_assert_neq(bucket_wait(&b, 7 * S + wait - 1), 0);
    cr_assert_eq(bucket_wait(&b, 7 * S + wait), 0);
}

Test(bucket, a_large_request_goes_and_the_next_one_pays)
{
    bucket_limit(&b, 1000, 10, 0);
    bucket_spend(&b, 5010);
    cr_assert_eq(bucket_wait(&b, 0), 5 * S + S / 1000);
}

Test(bucket, over_a_long_time_the_rate_is_exact)
{
    uint64_t now = 0, spent = 0;

    bucket_limit(&b, 7, 1, now);
    while (now < 1000 * S) {
        now += bucket_wait(&b, now);
        bucket_spend(&b, 1);
        spent++;
    }
    cr_assert_geq(spent, 7000);
    cr_assert_leq(spent, 7002);
}

Test(bucket, a_rest_fills_it_no_further_than_the_burst)
{
    bucket_limit(&b, 100, 50, 0);
    cr_assert_eq(bucket_wait(&b, UINT64_MAX), 0);
    bucket_spend(&b, 50);
    cr_assert_neq(bucket_wait(&b, UINT64_MAX), 0);
}

Test(bucket, a_clock_that_stands_still_or_goes_back_does_no_harm)
{
    bucket_limit(&b, 100, 1, 5 * S);
    bucket_spend(&b, 1);
    cr_assert_eq(bucket_wait(&b, 5 * S), S / 100);
    cr_assert_eq(bucket_wait(&b, 4 * S), S / 100);
}

Test(bucket, extreme_numbers_do_not_overflow)
{
    bucket_limit(&b, UINT64_MAX, UINT64_MAX, 0);
    bucket_spend(&b, UINT64_MAX);
    bucket_spend(&b, UINT64_MAX);
    (void)bucket_wait(&b, UINT64_MAX);
    bucket_limit(&b, 1, 1, UINT64_MAX);
    bucket_spend(&b, UINT64_MAX);
    cr_assert_neq(bucket_wait(&b, UINT64_MAX), 0);
}

Test(bucket, new_limits_begin_with_a_full_bucket)
{
    bucket_limit(&b, 1, 1, 0);
    bucket_spend(&b, 1000);
    bucket_limit(&b, 1000, 0, S);
    cr_assert_eq(b.burst, 100);
    cr_assert_eq(bucket_wait(&b, S), 0);
    bucket_limit(&b, 0, 0, S);
    bucket_spend(&b, 1000);
    cr_assert_eq(bucket_wait(&b, S), 0);
}

Test(bucket, tells_its_limit_and_how_often_it_held_something_up)
{
    struct bucket_use use = {9, 9, 9};

    bucket_use(&b, &use);
    cr_assert_eq(use.rate, 0);
    cr_assert_eq(use.waits, 0);
    bucket_limit(&b, 100, 5, 0);
    cr_assert_eq(bucket_wait(&b, 0), 0);
    bucket_spend(&b, 6);
    cr_assert_gt(bucket_wait(&b, 0), 0);
    bucket_use(&b, &use);
    cr_assert_eq(use.rate, 100);
    cr_assert_eq(use.burst, 5);
    cr_assert_eq(use.waits, 1);
    bucket_limit(&b, 0, 0, S);
    (void)bucket_wait(&b, S);
    bucket_use(&b, &use);
    cr_assert_eq(use.waits, 1, "it is a counter of all its life");
}
