/*
 * One queue, and guest memory around it: mem_iov() and vq_*(), as a script says.
 *
 *   iov GPA LEN WRITE MAX      mem_iov()
 *   vq MAX                     vq_init(); everything as in the beginning, but for memory
 *   at SIZE DESC DRIVER DEVICE where the driver put it
 *   enable FEATURES
 *   pop MAX                    with room for so many pieces
 *   push HEAD WRITTEN
 *   publish, mute, unmute
 *   watch publish|push|unmute  the same, with every access to the rings' pages, in their order
 *   reset
 *   turn COUNT                 so often: the driver offers descriptor 0 and up, we pop
 *   give COUNT                 so often: push, publish; all heads and lengths differ
 */
#include "hv/virtio/queue.h"
#include "hv/mem/iov.h"
#include "script.h"
#include "watch.h"

#define ROOM 80
#define POISON ((void *)(uintptr_t)0x5a5a5a5a5a5a)

static struct vq vq;
static struct iovec iov[ROOM];

/* --- what is there --- */

static void poison(void)
{
    for (unsigned i = 0; i < ROOM; i++)
        iov[i] = (struct iovec){POISON, 77};
}

static void report_pieces(unsigned count, unsigned max)
{
    char text[80];
    bool beyond = false;

    report_name("pieces");
    report_raw("[");
    for (unsigned i = 0; i < count && i < ROOM; i++) {
        uint64_t gpa = gpa_of(iov[i].iov_base);
        (void)snprintf(text, sizeof(text), "%s[%lld, %llu]", i > 0 ? ", " : "",
                       gpa == NOT_IN_GUEST ? -1 : (long long)gpa,
                       (unsigned long long)iov[i].iov_len);
        report_raw(text);
    }
    report_raw("]");
    for (unsigned i = max; i < ROOM; i++)
        beyond = beyond || iov[i].iov_base != POISON || iov[i].iov_len != 77;
    report_bool("beyond", beyond);
}

static void report_area(const char *name, const volatile void *host)
{
    report_name(name);
    if (host == NULL) {
        report_raw("null");
        return;
    }
    char text[32];
    (void)snprintf(text, sizeof(text), "%lld", (long long)gpa_of((const void *)(uintptr_t)host));
    report_raw(text);
}

static void report_queue(void)
{
    report_bool("enabled", vq.enabled);
    report_bool("broken", vq.broken);
    report_bool("event_idx", vq.event_idx);
    report_bool("indirect", vq.indirect);
    report_int("next_avail", vq.next_avail);
    report_int("next_used", vq.next_used);
    report_int("pushed", vq.pushed);
    report_area("desc", vq.desc);
    report_area("avail", vq.avail);
    report_area("used", vq.used);
}

/* --- watching --- */

static void name_of(uintptr_t at, char *out, size_t room)
{
    size_t avail = at - (uintptr_t)vq.avail, used = at - (uintptr_t)vq.used;

    if (avail < 4096)
        (void)snprintf(out, room, "avail.%s",
                       avail < 2                      ? "flags"
                       : avail < 4                    ? "idx"
                       : (avail - 4) / 2 < vq.at.size ? "ring"
                                                      : "used_event");
    else if (used < 4096)
        (void)snprintf(out, room, "used.%s",
                       used < 2                      ? "flags"
                       : used < 4                    ? "idx"
                       : (used - 4) / 8 < vq.at.size ? "ring"
                                                     : "avail_event");
    else
        (void)snprintf(out, room, "?");
}

static void report_watch(void)
{
    char name[32], text[64];

    report_name("accesses");
    report_raw("[");
    for (unsigned i = 0; i < watch.count; i++) {
        const struct watch_event *e = &watch.events[i];
        if (e->address == WATCH_BARRIER) {
            (void)snprintf(text, sizeof(text), "\"barrier\"");
        } else {
            name_of(e->address, name, sizeof(name));
            (void)snprintf(text, sizeof(text), "\"%s %s\"", e->is_write ? "write" : "read", name);
        }
        report_raw(i > 0 ? ", " : "");
        report_raw(text);
    }
    report_raw("]");
}

static bool call(const char *verb)
{
    if (strcmp(verb, "publish") == 0)
        return vq_publish(&vq);
    if (strcmp(verb, "unmute") == 0)
        return vq_unmute(&vq);
    if (strcmp(verb, "push") == 0)
        vq_push(&vq, &(struct vq_chain){.iov = iov, .head = 3}, 77);
    else
        vq_mute(&vq);
    return false;
}

static void watched(const char *verb)
{
    watch_page(vq.avail); /* each on a page of its own, at its start */
    watch_page(vq.used);
    watch_begin();
    bool result = call(verb);
    watch_end();
    report_bool("result", result);
    report_watch();
}

/* --- commands --- */

static void do_iov(char *rest)
{
    uint64_t gpa = take_number(&rest), len = take_number(&rest);
    bool write = take_number(&rest);
    unsigned max = (unsigned)take_number(&rest);

    poison();
    int rc = mem_iov(&mem, gpa, len, write, iov, max);
    report_int("rc", rc);
    report_pieces(rc > 0 ? (unsigned)rc : 0, max);
}

static void do_at(char *rest)
{
    vq.at.size = (uint16_t)take_number(&rest);
    vq.at.desc = take_number(&rest);
    vq.at.driver = take_number(&rest);
    vq.at.device = take_number(&rest);
}

static void do_pop(unsigned max)
{
    struct vq_chain chain = {.iov = iov,
                             .iov_max = max,
                             .head = 0x5a5a,
                             .out_count = 3,
                             .in_count = 5,
                             .out_size = 7,
                             .in_size = 9};

    poison();
    int rc = vq_pop(&vq, &chain);
    report_int("rc", rc);
    if (rc == 1) {
        report_int("head", chain.head);
        report_int("out_count", chain.out_count);
        report_int("in_count", chain.in_count);
        report_u64("out_size", chain.out_size);
        report_u64("in_size", chain.in_size);
        report_bool("same_room", chain.iov == iov && chain.iov_max == max);
    }
    report_pieces(rc == 1 ? chain.out_count + chain.in_count : 0, max);
}

static void do_turn(unsigned count)
{
    unsigned good = 0;

    for (unsigned i = 0; i < count; i++) {
        struct vq_chain chain = {.iov = iov, .iov_max = ROOM};
        uint16_t slot = (uint16_t)((vq.avail->idx) % vq.at.size), head = (uint16_t)(i % vq.at.size);
        vq.avail->ring[slot] = head;
        vq.avail->idx++;
        good += vq_pop(&vq, &chain) == 1 && chain.head == head &&
                chain.out_count + chain.in_count == 1 && vq_pop(&vq, &chain) == 0;
    }
    report_int("good", good);
}

static void do_give(unsigned count)
{
    unsigned good = 0;

    for (unsigned i = 0; i < count; i++) {
        struct vq_chain chain = {.iov = iov, .head = (uint16_t)(i * 7)};
        uint16_t before = vq.used->idx;
        vq_push(&vq, &chain, i + 1);
        bool told = vq_publish(&vq);
        const struct vring_used_elem *e = &vq.used->ring[before % vq.at.size];
        good += told && (uint16_t)(vq.used->idx - before) == 1 && e->id == chain.head &&
                e->len == i + 1;
    }
    report_int("good", good);
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "iov") == 0) {
        do_iov(rest);
        return true;
    }
    if (strcmp(verb, "vq") == 0) {
        vq_init(&vq, &mem, (uint16_t)take_number(&rest));
    } else if (strcmp(verb, "at") == 0) {
        do_at(rest);
    } else if (strcmp(verb, "enable") == 0) {
        report_int("rc", vq_enable(&vq, take_number(&rest)));
    } else if (strcmp(verb, "pop") == 0) {
        do_pop((unsigned)take_number(&rest));
    } else if (strcmp(verb, "push") == 0) {
        struct vq_chain chain = {.iov = iov, .head = (uint16_t)take_number(&rest)};
        vq_push(&vq, &chain, (uint32_t)take_number(&rest));
    } else if (strcmp(verb, "reset") == 0) {
        vq_reset(&vq);
    } else if (strcmp(verb, "turn") == 0) {
        do_turn((unsigned)take_number(&rest));
    } else if (strcmp(verb, "give") == 0) {
        do_give((unsigned)take_number(&rest));
    } else if (strcmp(verb, "watch") == 0) {
        watched(rest);
    } else if (strcmp(verb, "publish") == 0 || strcmp(verb, "mute") == 0 ||
               strcmp(verb, "unmute") == 0) {
        report_bool("result", call(verb));
    } else {
        return false;
    }
    report_queue();
    return true;
}

int main(void)
{
    return script_run(command);
}
