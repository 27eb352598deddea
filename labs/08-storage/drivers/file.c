/*
 * A raw file (exercises 8.3, 8.4 and 8.5).
 *
 *   file PATH HEX           a file with this content
 *   show PATH, part PATH OFFSET LEN   its content
 *   cut PATH SIZE           makes it shorter
 *   perform r|w PATH OFFSET DONE LEN …   raw_perform(); of a write, memory holds 0, 1, 2, …
 *   lock SLOT PATH ro|rw    opens it and asks raw_lock()
 *   unlock SLOT
 *   held PATH               bytes on which there are locks
 *   foreign SLOT PATH BYTE  somebody else's exclusive lock on one byte
 *   refuse ERRNO            locking fails with it, from now on (0: no longer)
 *   race PATH ro|rw ro|rw   the second one comes right before the first one looks around
 *   ring PATH               a channel over io_uring
 *   sub ID OP OFFSET LEN …  submits a request to it
 *   twist ID RES            the kernel is not asked about ID (before `sub`); RES is its answer
 *   late ID OP OFFSET LEN   is submitted when the eventfd is read, or when the loop has ended
 *   commit, no_room N       the next N io_uring_submit() submit nothing
 *   loop MAX KERNEL         waits for KERNEL answers, then runs the loop until there were MAX
 *                           done(), for some seconds at most
 *   memory ID               what its memory holds
 *   and those of calls.h
 */
#include <dlfcn.h>
#include <liburing.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "block/raw_priv.h"
#include "calls.h"
#include "hv/base/num.h"

#define SLOTS 8
#define IDS 600
#define PIECES 40

/* --- locks --- */

static int refusal;
static const char *race_path;
static bool race_read_only;
static int race_result, race_fd = -1;

static int plain_open(const char *path, bool read_only)
{
    return open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
}

int fcntl(int fd, int cmd, ...)
{
    va_list ap;

    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (refusal != 0 && (cmd == F_OFD_SETLK || cmd == F_OFD_SETLKW)) {
        errno = refusal;
        return -1;
    }
    if (race_path != NULL && cmd == F_OFD_GETLK) {
        const char *path = race_path;
        race_path = NULL;
        race_fd = plain_open(path, race_read_only);
        race_result = raw_lock(race_fd, race_read_only);
    }
    return (int)syscall(SYS_fcntl, fd, cmd, arg);
}

int fcntl64(int fd, int cmd, ...) __attribute__((alias("fcntl")));

/* raw_lock() tries for a second before it gives up: a second in which nothing happens here. */
int nanosleep(const struct timespec *wanted, struct timespec *left)
{
    (void)wanted;
    (void)left;
    return 0;
}

static int slots[SLOTS] = {-1, -1, -1, -1, -1, -1, -1, -1};

static void do_lock(char *rest)
{
    unsigned slot = (unsigned)take_number(&rest) % SLOTS;
    const char *path = strsep(&rest, " ");
    bool read_only = strcmp(rest, "ro") == 0;

    slots[slot] = plain_open(path, read_only);
    int rc = slots[slot] < 0 ? -EBADF : raw_lock(slots[slot], read_only);
    report_int("rc", rc);
    if (rc < 0 && slots[slot] >= 0) {
        (void)close(slots[slot]);
        slots[slot] = -1;
    }
}

static void do_held(const char *path)
{
    int fd = plain_open(path, false);
    char text[16];
    bool any = false;

    report_name("held");
    report_raw("[");
    for (off_t byte = 0; byte < 320; byte++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
        if (syscall(SYS_fcntl, fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK) {
            (void)snprintf(text, sizeof(text), "%s%d", any ? ", " : "",
                           (int)byte * (lock.l_type == F_WRLCK ? -1 : 1));
            report_raw(text);
            any = true;
        }
    }
    report_raw("]");
    (void)close(fd);
}

static void do_foreign(char *rest)
{
    unsigned slot = (unsigned)take_number(&rest) % SLOTS;
    const char *path = strsep(&rest, " ");
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)number(rest), .l_len = 1};

    slots[slot] = plain_open(path, false);
    report_int("rc", syscall(SYS_fcntl, slots[slot], F_OFD_SETLK, &lock));
}

static void do_race(char *rest)
{
    const char *path = strsep(&rest, " ");
    bool first_read_only = strcmp(strsep(&rest, " "), "ro") == 0;

    race_read_only = strcmp(rest, "ro") == 0;
    race_path = path;
    race_result = 1;
    int fd = plain_open(path, first_read_only);
    report_int("first", raw_lock(fd, first_read_only));
    report_int("second", race_result);
    race_path = NULL;
    (void)close(fd);
    if (race_fd >= 0)
        (void)close(race_fd);
    race_fd = -1;
}

/* --- transfers --- */

static uint8_t memory[1 << 20];

static void do_perform(char *rest)
{
    bool write = strcmp(strsep(&rest, " "), "w") == 0;
    const char *path = strsep(&rest, " ");
    struct raw_block raw = {.fd = plain_open(path, false), .align = 512};
    struct iovec iov[PIECES];
    struct block_req req = {.op = write ? BLOCK_WRITE : BLOCK_READ, .iov = iov};
    uint8_t *at = memory;

    raw.block.size = UINT64_C(1) << 40;
    req.offset = take_number(&rest);
    uint64_t done = take_number(&rest);
    for (char *word; req.iov_count < PIECES && (word = strsep(&rest, " ")) != NULL;
         req.iov_count++) {
        iov[req.iov_count] = (struct iovec){at, number(word)};
        at += number(word) + 64; /* nothing stands between the pieces */
        req.size += number(word);
    }
    size_t used = (size_t)(at - memory);
    for (size_t i = 0; i < used; i++)
        memory[i] = write ? (uint8_t)(i % 251) : 0xee;
    calls_begin();
    report_int("rc", raw_perform(&raw, &req, done));
    calls_on = false;
    report_hex("memory", memory, used);
    calls_report();
    (void)close(raw.fd);
}

/* --- the ring --- */

struct item {
    struct block_req req;
    struct iovec iov[PIECES];
    unsigned id, times;
    int result;
    uint8_t *memory;
    uint64_t bytes;
    bool is_twisted;
    int res;
};

static struct item items[IDS];
static struct loop *loop;
static struct block *block;
static struct block_channel *channel;
static struct io_uring *the_ring; /* as the learner's channel has it */
static unsigned done_count, last_count, batches, batches_empty, kernel_calls, no_room,
    consumed_late;
static char late_line[200];
static char order[1 << 15];

static void do_sub(char *rest);

static bool is_ours(unsigned long long data)
{
    return data >= (uintptr_t)items && data < (uintptr_t)(items + IDS);
}

/* What is twisted becomes a request for nothing; its answer is written over when it comes. */
int io_uring_submit(struct io_uring *ring)
{
    static int (*real)(struct io_uring *);
    struct io_uring_sq *sq = &ring->sq;

    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
    the_ring = ring;
    kernel_calls++;
    if (no_room > 0) {
        no_room--;
        return -EBUSY;
    }
    for (unsigned i = sq->sqe_head; i != sq->sqe_tail; i++) {
        struct io_uring_sqe *sqe = &sq->sqes[i & sq->ring_mask];
        if (!is_ours(sqe->user_data))
            continue;
        struct item *item =
            container_of((struct block_req *)(uintptr_t)sqe->user_data, struct item, req);
        unsigned long long data = sqe->user_data;
        if (item->is_twisted) {
            memset(sqe, 0, sizeof(*sqe));
            sqe->opcode = IORING_OP_NOP;
            sqe->user_data = data;
        }
    }
    return real(ring);
}

/* Waits until the kernel has answered `count` more, and writes over what is twisted. */
static void twist_answers(void)
{
    struct io_uring_cq *cq = &the_ring->cq;
    unsigned mask = cq->ring_mask;

    for (unsigned i = *cq->khead; i != __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE); i++) {
        struct io_uring_cqe *cqe = &cq->cqes[i & mask];
        if (!is_ours(cqe->user_data))
            continue;
        struct item *item =
            container_of((struct block_req *)(uintptr_t)cqe->user_data, struct item, req);
        if (item->is_twisted)
            cqe->res = item->res;
        item->is_twisted = false;
    }
}

static unsigned waiting(void)
{
    return the_ring == NULL
               ? 0
               : __atomic_load_n(the_ring->cq.ktail, __ATOMIC_ACQUIRE) - *the_ring->cq.khead;
}

static void wait_for_kernel(unsigned count)
{
    for (unsigned i = 0; i < 2000 && waiting() < count; i++)
        (void)usleep(500);
}

static void before_reading(void)
{
    char line[200];

    if (late_line[0] == '\0')
        return;
    strcpy(line, late_line);
    late_line[0] = '\0';
    unsigned before = waiting();
    do_sub(line);
    block_commit(channel);
    wait_for_kernel(before + 1);
}

static bool is_event(int fd)
{
    char path[40], target[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    return n > 0 && strncmp(target, "anon_inode:[eventfd]", 20) == 0;
}

int eventfd_read(int fd, eventfd_t *value)
{
    if (channel != NULL && fd != channel->bell)
        before_reading();
    return syscall(SYS_read, fd, value, sizeof(*value)) == sizeof(*value) ? 0 : -1;
}

ssize_t read(int fd, void *data, size_t size)
{
    if (channel != NULL && size == 8 && late_line[0] != '\0' && fd != channel->bell && is_event(fd))
        before_reading();
    return syscall(SYS_read, fd, data, size);
}

static void on_done(struct block_req *req, int result)
{
    struct item *item = container_of(req, struct item, req);
    char text[24];
    unsigned left = waiting();

    for (unsigned i = 0; i < left; i++) {
        unsigned at = (*the_ring->cq.khead + i) & the_ring->cq.ring_mask;
        consumed_late += the_ring->cq.cqes[at].user_data == (uintptr_t)req;
    }
    item->times++;
    item->result = result;
    done_count++;
    (void)snprintf(text, sizeof(text), "%s[%u, %d]", order[0] ? ", " : "", item->id, result);
    if (strlen(order) + strlen(text) + 1 < sizeof(order))
        strcat(order, text);
}

static void on_batch_end(void *ctx)
{
    (void)ctx;
    batches++;
    batches_empty += done_count == last_count;
    last_count = done_count;
}

static void do_ring(const char *path)
{
    const struct block_raw_config cfg = {.path = path};
    struct error err = {0};

    report_bool("uring", raw_has_uring());
    if (channel != NULL)
        block_close(channel);
    channel = NULL;
    block_destroy(block);
    block = NULL;
    loop_destroy(loop);
    if (loop_create(&loop) < 0)
        abort();
    int rc = block_raw_create(&cfg, &block, &err);
    const struct block_channel_config ccfg = {.loop = loop, .batch_end = on_batch_end};
    if (rc == 0)
        rc = block_open(block, &ccfg, &channel);
    report_int("rc", rc);
    the_ring = NULL;
}

static void do_sub(char *rest)
{
    unsigned id = (unsigned)take_number(&rest) % IDS;
    struct item *item = &items[id];
    bool twisted = item->is_twisted;

    *item = (struct item){.id = id, .is_twisted = twisted, .res = item->res};
    item->req.op = (enum block_op)take_number(&rest);
    item->req.offset = take_number(&rest);
    item->req.done = on_done;
    item->req.iov = item->iov;
    for (char *word; item->req.iov_count < PIECES && (word = strsep(&rest, " ")) != NULL;) {
        uint64_t len = number(word);
        if (item->req.op == BLOCK_READ || item->req.op == BLOCK_WRITE)
            item->iov[item->req.iov_count++] = (struct iovec){NULL, len};
        item->req.size += len;
    }
    item->memory = calloc(1, item->req.size + 1);
    uint8_t *at = item->memory;
    for (unsigned i = 0; i < item->req.iov_count; at += item->iov[i++].iov_len)
        item->iov[i].iov_base = at;
    item->bytes = item->req.iov_count > 0 ? item->req.size : 0;
    for (uint64_t i = 0; i < item->bytes; i++)
        item->memory[i] = item->req.op == BLOCK_WRITE ? (uint8_t)(i % 251 + 1 + id) : 0xee;
    block_submit(channel, &item->req);
}

static double ms_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void do_loop(char *rest)
{
    unsigned want = (unsigned)take_number(&rest);
    uint64_t kernel = take_number(&rest);
    static bool gave_up; /* once is enough to wait for what does not come */
    double end = ms_now() + (gave_up ? 50 : 4000);

    done_count = last_count = batches = batches_empty = 0;
    order[0] = '\0';
    if (the_ring != NULL && kernel > 0)
        wait_for_kernel((unsigned)kernel);
    if (the_ring != NULL)
        twist_answers();
    do {
        if (loop_run_once(loop, 0) < 0)
            abort();
        if (done_count < want)
            (void)usleep(500);
    } while (ms_now() < end && done_count < want);
    gave_up = gave_up || done_count < want;
    if (late_line[0] != '\0')
        before_reading();
    if (loop_run_once(loop, 0) < 0)
        abort();
    report_int("done", done_count);
    report_int("batches", batches);
    report_int("empty_batches", batches_empty);
    report_int("consumed_late", consumed_late);
    report_name("order");
    report_raw("[");
    report_raw(order);
    report_raw("]");
}

static bool ring_command(const char *verb, char *rest)
{
    if (strcmp(verb, "ring") == 0) {
        do_ring(rest);
        return true;
    }
    if (channel == NULL)
        return strcmp(verb, "sub") == 0 || strcmp(verb, "commit") == 0 ||
               strcmp(verb, "loop") == 0 || strcmp(verb, "twist") == 0 ||
               strcmp(verb, "late") == 0 || strcmp(verb, "no_room") == 0 ||
               strcmp(verb, "memory") == 0;
    if (strcmp(verb, "sub") == 0) {
        kernel_calls = 0;
        do_sub(rest);
        report_int("kernel_calls", kernel_calls);
    } else if (strcmp(verb, "twist") == 0) {
        struct item *item = &items[take_number(&rest) % IDS];
        *item = (struct item){.is_twisted = true};
        char *res = strsep(&rest, " ");
        item->res = atoi(res);
    } else if (strcmp(verb, "late") == 0) {
        (void)snprintf(late_line, sizeof(late_line), "%s", rest);
    } else if (strcmp(verb, "commit") == 0) {
        kernel_calls = 0;
        block_commit(channel);
        report_int("kernel_calls", kernel_calls);
    } else if (strcmp(verb, "no_room") == 0) {
        no_room = (unsigned)take_number(&rest);
    } else if (strcmp(verb, "loop") == 0) {
        do_loop(rest);
    } else if (strcmp(verb, "memory") == 0) {
        struct item *item = &items[take_number(&rest) % IDS];
        report_hex("memory", item->memory ? item->memory : memory, item->memory ? item->bytes : 0);
        report_int("times", item->times);
        report_int("result", item->result);
    } else {
        return false;
    }
    return true;
}

/* --- files --- */

static void do_file(char *rest)
{
    const char *path = strsep(&rest, " ");
    size_t size = from_hex(rest ? rest : "", script_bytes, sizeof(script_bytes));
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

    if (syscall(SYS_pwrite64, fd, script_bytes, size, 0) != (long)size)
        abort();
    (void)close(fd);
}

static void do_part(const char *path, uint64_t offset, size_t most)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long size = syscall(SYS_pread64, fd, script_bytes, most, offset);

    report_hex("bytes", script_bytes, size > 0 ? (size_t)size : 0);
    (void)close(fd);
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "file") == 0) {
        do_file(rest);
    } else if (strcmp(verb, "show") == 0) {
        do_part(rest, 0, sizeof(script_bytes));
    } else if (strcmp(verb, "part") == 0) {
        const char *path = strsep(&rest, " ");
        uint64_t offset = take_number(&rest);
        do_part(path, offset, take_number(&rest) % sizeof(script_bytes));
    } else if (strcmp(verb, "cut") == 0) {
        const char *path = strsep(&rest, " ");
        report_int("rc", truncate(path, (off_t)number(rest)));
    } else if (strcmp(verb, "perform") == 0) {
        do_perform(rest);
    } else if (strcmp(verb, "lock") == 0) {
        do_lock(rest);
    } else if (strcmp(verb, "unlock") == 0) {
        unsigned slot = (unsigned)take_number(&rest) % SLOTS;
        (void)close(slots[slot]);
        slots[slot] = -1;
    } else if (strcmp(verb, "held") == 0) {
        do_held(rest);
    } else if (strcmp(verb, "foreign") == 0) {
        do_foreign(rest);
    } else if (strcmp(verb, "refuse") == 0) {
        refusal = (int)take_number(&rest);
    } else if (strcmp(verb, "race") == 0) {
        do_race(rest);
    } else {
        return calls_command(verb, rest) || ring_command(verb, rest);
    }
    return true;
}

int main(void)
{
    return script_run(command);
}
