/*
 * A channel, and a back end that does nothing by itself (exercises 8.1 and 8.2). Each case reports
 * what has happened meanwhile, in `events`: ["seen", id], ["done", id, result], ["batch"].
 *
 *   disk SIZE ro|rw DISCARD ZERO   a block; what was there before is forgotten
 *   req ID OP OFFSET SIZE LEN …    submits a request with such pieces of memory
 *   give ID                        the back end has a request, however it got there
 *   then ID NEXT RESULT            when ID is done, the back end finishes NEXT
 *   finish ID RESULT               the back end has done it
 *   run N                          loop_run_once(), N times, without waiting
 *
 * Each request is in a page of its own, which is taken away when it is done.
 */
#include <limits.h>
#include <sys/mman.h>

#include "hv/base/num.h"
#include "hv/block/block.h"
#include "script.h"

#define IDS 600
#define PIECES 8

struct item {
    struct block_req req;
    struct iovec iov[PIECES];
    unsigned id;
};

static struct item *items[IDS];
static struct {
    unsigned next;
    int result;
} chained[IDS];
static struct loop *loop;
static struct block block;
static struct block_channel channel;
static char events[1 << 16];
static bool is_inside;

static void event(const char *what, int id, int result)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "%s[\"%s\", %d, %d]", events[0] ? ", " : "", what, id,
                   result);
    if (strlen(events) + strlen(text) + 1 < sizeof(events))
        strcat(events, text);
}

/* --- the back end --- */

static void fake_submit(struct block_channel *c, struct block_req *req)
{
    (void)c;
    event("seen", (int)container_of(req, struct item, req)->id, 0);
}

static const struct block_ops fake_ops = {.submit = fake_submit};

static void on_done(struct block_req *req, int result)
{
    struct item *item = container_of(req, struct item, req);
    unsigned id = item->id;

    event(is_inside ? "inside" : "done", (int)id, result);
    (void)mprotect(item, 4096, PROT_NONE); /* free()d, as far as anybody can tell */
    items[id] = NULL;
    if (chained[id].next != 0 && items[chained[id].next] != NULL)
        block_finish(&channel, &items[chained[id].next]->req, chained[id].result);
}

static void on_batch_end(void *ctx)
{
    event(ctx == &channel ? "batch" : "batch with another ctx", 0, 0);
}

static struct item *make(unsigned id, unsigned op, uint64_t offset, uint64_t size, char *lens)
{
    struct item *item =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (item == MAP_FAILED)
        abort();
    *item = (struct item){.id = id};
    item->req = (struct block_req){
        .op = op, .offset = offset, .size = size, .done = on_done, .iov = item->iov};
    item->req.next = (void *)0x5a5a; /* nobody may rely on it */
    for (char *word;
         lens != NULL && item->req.iov_count < PIECES && (word = strsep(&lens, " ")) != NULL;)
        item->iov[item->req.iov_count++] = (struct iovec){script_bytes, number(word)};
    items[id] = item;
    return item;
}

static void do_disk(char *rest)
{
    if (loop != NULL) {
        block_channel_fini(&channel);
        loop_destroy(loop);
    }
    if (loop_create(&loop) < 0)
        abort();
    memset(items, 0, sizeof(items));
    memset(chained, 0, sizeof(chained));
    block = (struct block){
        .ops = &fake_ops, .size = take_number(&rest), .logical_size = 512, .physical_size = 512};
    char *kind = strsep(&rest, " ");
    block.read_only = strcmp(kind, "ro") == 0;
    block.can_discard = take_number(&rest);
    block.can_zero = take_number(&rest);
    const struct block_channel_config cfg = {
        .loop = loop, .batch_end = on_batch_end, .ctx = &channel};
    report_int("rc", block_channel_init(&channel, &block, &cfg));
}

static bool command(const char *verb, char *rest)
{
    events[0] = '\0';
    if (strcmp(verb, "disk") == 0) {
        do_disk(rest);
    } else if (strcmp(verb, "req") == 0) {
        unsigned id = (unsigned)take_number(&rest), op = (unsigned)take_number(&rest);
        uint64_t offset = take_number(&rest), size = take_number(&rest);
        struct item *item = make(id % IDS, op, offset, size, rest);
        is_inside = true;
        block_submit(&channel, &item->req);
        is_inside = false;
    } else if (strcmp(verb, "give") == 0) {
        (void)make((unsigned)take_number(&rest) % IDS, BLOCK_FLUSH, 0, 0, NULL);
    } else if (strcmp(verb, "then") == 0) {
        unsigned id = (unsigned)take_number(&rest) % IDS;
        chained[id].next = (unsigned)take_number(&rest) % IDS;
        chained[id].result = atoi(rest);
    } else if (strcmp(verb, "finish") == 0) {
        unsigned id = (unsigned)take_number(&rest) % IDS;
        is_inside = true;
        if (items[id] != NULL)
            block_finish(&channel, &items[id]->req, atoi(rest));
        is_inside = false;
    } else if (strcmp(verb, "run") == 0) {
        for (uint64_t i = take_number(&rest); i > 0; i--)
            if (loop_run_once(loop, 0) < 0)
                abort();
    } else {
        return false;
    }
    report_name("events");
    report_raw("[");
    report_raw(events);
    report_raw("]");
    return true;
}

int main(void)
{
    return script_run(command);
}
