/*
 * A qcow2 image in a file, through its channel and through the functions of exercises 8.9 to 8.12.
 *
 *   open PATH ro|rw         backing files are allowed, io_uring is not used
 *   close                   everything is brought to the file first; `drop`: nothing is
 *   decode ENTRY CHANGE     qcow2_entry_decode(); an image that counts as damaged is mended again
 *   alloc, unalloc HOST     qcow2_alloc(), qcow2_unalloc()
 *   hint N                  free_hint
 *   busy FIRST LAST, idle   a request is under way to these clusters of the file; none is
 *   count HOST              what is counted for a place of the file
 *   device 0|1              as if the file were a block device
 *   new OFFSET HEX          qcow2_write_new()
 *   entry OFFSET            the L2 entry, in memory, and what is counted for its place
 *   write OFFSET HEX, read OFFSET LEN, flush, zero OFFSET LEN, discard OFFSET LEN: requests
 *   commit                  qcow2_commit()
 *   broken                  the image is damaged from here on
 *   and those of calls.h
 */
#include <limits.h>
#include <time.h>

#include "block/qcow2_priv.h"
#include "calls.h"
#include "hv/base/num.h"

static struct loop *loop;
static struct block *block;
static struct block_channel *channel;
static struct qcow2 *q;
static struct qcow2_image *img;
static struct qcow2_piece busy[64];
static unsigned busy_count;
static bool is_done;
static int the_result;
static uint8_t data[1 << 20];

static void on_done(struct block_req *req, int result)
{
    (void)req;
    is_done = true;
    the_result = result;
}

static int request(enum block_op op, uint64_t offset, uint64_t size)
{
    struct iovec iov[2] = {{data, size / 1024 * 512},
                           {data + size / 1024 * 512, size - size / 1024 * 512}};
    static struct block_req req;
    static bool gave_up; /* once is enough to wait for what does not come */
    struct timespec begin, now;

    req = (struct block_req){.op = op, .offset = offset, .size = size, .done = on_done, .iov = iov};
    req.iov_count = op == BLOCK_READ || op == BLOCK_WRITE ? 2 : 0;
    is_done = false;
    block_submit(channel, &req);
    block_commit(channel);
    (void)clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        if (loop_run_once(loop, 20) < 0)
            abort();
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    } while (!is_done && now.tv_sec - begin.tv_sec < (gave_up ? 1 : 4));
    gave_up = gave_up || !is_done;
    return is_done ? the_result : 1;
}

static void leave(bool commit)
{
    if (block == NULL)
        return;
    img->busy = NULL;
    block_close(channel);
    if (!commit)
        block->read_only = true; /* nothing is brought to the file */
    block_destroy(block);
    loop_destroy(loop);
    block = NULL;
    loop = NULL;
}

static void do_open(char *rest)
{
    const char *path = strsep(&rest, " ");
    struct block_qcow2_config cfg = {
        .path = path, .read_only = strcmp(rest, "ro") == 0, .no_uring = true, .backing = true};
    struct error err = {0};

    leave(false);
    if (loop_create(&loop) < 0)
        abort();
    const struct block_channel_config ccfg = {.loop = loop};
    int rc = block_qcow2_create(&cfg, &block, &err);
    if (rc == 0)
        rc = block_open(block, &ccfg, &channel);
    report_int("rc", rc);
    report_string("error", rc < 0 ? err.text : "");
    if (rc < 0) {
        loop_destroy(loop);
        loop = NULL;
        block = NULL;
        return;
    }
    q = container_of(block, struct qcow2, block);
    img = q->images[0];
    busy_count = 0;
    calls_begin();
}

static void do_decode(char *rest)
{
    uint64_t entry = take_number(&rest);
    struct qcow2_mapping m;

    memset(&m, 0x5a, sizeof(m));
    pthread_mutex_lock(&q->lock);
    int rc = qcow2_entry_decode(img, entry, take_number(&rest), &m);
    pthread_mutex_unlock(&q->lock);
    report_int("rc", rc);
    report_bool("damaged", img->broken);
    img->broken = false;
    if (rc < 0) {
        report_bool("untouched", all_bytes_are(&m, 0x5a, sizeof(m)));
        return;
    }
    report_int("kind", m.kind);
    report_u64("place", m.place);
    report_u64("entry", m.entry);
    report_bool("copied", m.copied);
}

static uint64_t count_of(uint64_t host)
{
    uint64_t count = UINT64_MAX;

    if (qcow2_refcount(img, host >> img->h.cluster_bits, &count) < 0)
        return UINT64_MAX;
    return count;
}

static uint64_t entry_at(uint64_t offset)
{
    struct qcow2_slot *l2 = NULL;

    if (qcow2_l2_find(img, offset, &l2) < 0 || l2 == NULL)
        return 0;
    return qcow2_l2_entry(l2, qcow2_l2_index(img, offset));
}

static void do_new(char *rest)
{
    uint64_t offset = take_number(&rest);
    size_t len = from_hex(rest, data, sizeof(data)), half = len / 2;
    const struct iovec iov[] = {{data, half}, {data + half, len - half}, {NULL, 0}};
    struct qcow2_cursor from = {iov, 0};

    pthread_mutex_lock(&q->lock);
    report_int("rc", qcow2_write_new(q, offset, len, &from));
    pthread_mutex_unlock(&q->lock);
}

static void report_image(void)
{
    char text[32];

    if (block == NULL)
        return;
    report_u64("free_hint", img->free_hint);
    report_bool("is_broken", img->broken);
    report_name("dropped");
    report_raw("[");
    for (unsigned i = 0; i < img->dropped_count; i++) {
        (void)snprintf(text, sizeof(text), "%s%llu", i ? ", " : "",
                       (unsigned long long)img->dropped[i]);
        report_raw(text);
    }
    report_raw("]");
}

static bool request_command(const char *verb, char *rest)
{
    if (strcmp(verb, "write") == 0) {
        uint64_t offset = take_number(&rest);
        report_int("rc", request(BLOCK_WRITE, offset, from_hex(rest, data, sizeof(data))));
    } else if (strcmp(verb, "read") == 0) {
        uint64_t offset = take_number(&rest), size = take_number(&rest);
        memset(data, 0xee, size);
        report_int("rc", request(BLOCK_READ, offset, size));
        report_hex("bytes", data, size);
    } else if (strcmp(verb, "flush") == 0) {
        report_int("rc", request(BLOCK_FLUSH, 0, 0));
    } else if (strcmp(verb, "zero") == 0 || strcmp(verb, "discard") == 0) {
        uint64_t offset = take_number(&rest);
        report_int(
            "rc", request(verb[0] == 'z' ? BLOCK_ZERO : BLOCK_DISCARD, offset, take_number(&rest)));
    } else {
        return false;
    }
    return true;
}

static bool function_command(const char *verb, char *rest)
{
    if (strcmp(verb, "decode") == 0) {
        do_decode(rest);
    } else if (strcmp(verb, "alloc") == 0) {
        uint64_t host = 0;
        bool fresh = false;
        int rc = qcow2_alloc(img, &host, &fresh);
        report_int("rc", rc);
        report_u64("host", host);
        report_bool("fresh", fresh);
        report_u64("count", rc == 0 ? count_of(host) : 0);
    } else if (strcmp(verb, "unalloc") == 0) {
        qcow2_unalloc(img, take_number(&rest));
    } else if (strcmp(verb, "hint") == 0) {
        img->free_hint = take_number(&rest);
    } else if (strcmp(verb, "count") == 0) {
        report_u64("count", count_of(take_number(&rest)));
    } else if (strcmp(verb, "device") == 0) {
        img->is_device = take_number(&rest);
    } else if (strcmp(verb, "new") == 0) {
        do_new(rest);
    } else if (strcmp(verb, "entry") == 0) {
        uint64_t entry = entry_at(take_number(&rest)), place = entry & QCOW2_OFFSET;
        report_u64("entry", entry);
        report_u64("counted", place != 0 ? count_of(place) : 0);
    } else if (strcmp(verb, "commit") == 0) {
        report_int("rc", qcow2_commit(img));
    } else if (strcmp(verb, "broken") == 0) {
        img->broken = true;
    } else {
        return false;
    }
    return true;
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "open") == 0) {
        do_open(rest);
    } else if (calls_command(verb, rest)) {
        return true;
    } else if (block == NULL) {
        report_int("rc", -EBADF);
    } else if (strcmp(verb, "close") == 0 || strcmp(verb, "drop") == 0) {
        leave(verb[0] == 'c');
    } else if (strcmp(verb, "busy") == 0) {
        struct qcow2_piece *p = &busy[busy_count++ % 64];
        *p = (struct qcow2_piece){.img = img, .first = take_number(&rest), .next = img->busy};
        p->last = take_number(&rest);
        img->busy = p;
    } else if (strcmp(verb, "idle") == 0) {
        img->busy = NULL;
    } else if (!request_command(verb, rest) && !function_command(verb, rest)) {
        return false;
    }
    report_image();
    return true;
}

int main(void)
{
    return script_run(command);
}
