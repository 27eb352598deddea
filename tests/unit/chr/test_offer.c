#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "hv/chr/stream.h"
#include "support/fake_front.h"
#include "support/tmp.h"

#define BIG (4 * CHR_OUTPUT_MAX)

static struct loop *loop;
static struct chr *chr;
static int out[2]; /* a pipe: the back end has out[1] */
static uint8_t big[BIG], got[BIG];
static unsigned fds_before, writable;

static void on_writable(void *ctx)
{
    cr_assert_eq(ctx, &writable);
    writable++;
}

static void setup(void)
{
    const struct chr_front front = {.writable = on_writable, .ctx = &writable};

    signal(SIGPIPE, SIG_IGN);
    fds_before = count_open_fds();
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    for (size_t i = 0; i < BIG; i++)
        big[i] = (uint8_t)(i * 7 + i / 256);
    cr_assert_eq(chr_fds_create(loop, -1, out[1], NULL, NULL, &chr), 0);
    chr_attach(chr, &front);
    loop_settle(loop);
}

static void teardown(void)
{
    chr_destroy(chr);
    loop_destroy(loop);
    fd_close(&out[0]);
    fd_close(&out[1]);
    cr_assert_eq(count_open_fds(), fds_before);
}

TestSuite(chr_offer, .init = setup, .fini = teardown, .timeout = 60);

/* Reads up to `len` bytes that are there now. */
static size_t take(uint8_t *to, size_t len)
{
    struct pollfd p = {.fd = out[0], .events = POLLIN};
    size_t done = 0;
    ssize_t n = 0;

    while (done < len && poll(&p, 1, 0) > 0 && (n = read(out[0], to + done, len - done)) > 0)
        done += (size_t)n;
    cr_assert_geq(n, 0);
    return done;
}

Test(chr_offer, what_fits_is_taken_whole)
{
    cr_assert_eq(chr_offer(chr, "hello", 5), 5);
    loop_settle(loop);
    cr_assert_eq(take(got, 16), 5);
    cr_assert_eq(memcmp(got, "hello", 5), 0);
    cr_assert_eq(writable, 0);
    cr_assert_eq(chr_offer(chr, big, 0), 0);
}

Test(chr_offer, a_full_back_end_takes_nothing_and_does_not_wait)
{
    size_t taken = chr_offer(chr, big, BIG);
    uint64_t begin = now_ns();

    cr_assert_geq(taken, CHR_OUTPUT_MAX);
    cr_assert_lt(taken, BIG);
    cr_assert_eq(chr_offer(chr, big, BIG), 0);
    cr_assert_lt(now_ns() - begin, CHR_STALL_MS * UINT64_C(1000000) / 2);
    loop_settle(loop);
    cr_assert_eq(writable, 0);
    cr_assert_eq(atomic_load(&chr->dropped), 0);
    (void)take(got, BIG); /* so that destroying it need not wait */
}

Test(chr_offer, nothing_is_lost_by_a_device_that_waits_for_room)
{
    size_t sent = chr_offer(chr, big, BIG), came = 0;
    unsigned heard = 0;

    while (came < BIG) {
        if (writable > heard) {
            heard = writable;
            sent += chr_offer(chr, big + sent, BIG - sent);
        }
        came += take(got + came, 5000);
        loop_settle(loop);
    }
    cr_assert_geq(writable, 2);
    cr_assert_leq(writable, 16, "told for every byte: %u times", writable);
    cr_assert_arr_eq(got, big, BIG);
}

Test(chr_offer, the_end_of_output_frees_the_device)
{
    cr_assert_lt(chr_offer(chr, big, BIG), BIG);
    fd_close(&out[0]);
    loop_settle(loop);
    cr_assert_eq(writable, 1);
    cr_assert_eq(chr_error(chr), -EPIPE);
    cr_assert_eq(chr_offer(chr, big, BIG), BIG);
    cr_assert_geq(atomic_load(&chr->dropped), BIG);
}

Test(chr_offer, back_ends_that_never_wait_take_everything)
{
    struct chr *mem;
    size_t len;

    cr_assert_eq(chr_mem_create(4, &mem), 0);
    cr_assert_eq(chr_offer(mem, "hello", 5), 5);
    cr_assert_str_eq(chr_mem_output(mem, &len), "hell");
    cr_assert_eq(len, 4);
    cr_assert_eq(atomic_load(&mem->dropped), 1);
    chr_destroy(mem);
}
