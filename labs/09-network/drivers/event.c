/*
 * The event index: one queue with VIRTIO_F_EVENT_IDX, as a script says.
 *
 *   fresh                  a queue that has just been enabled; SIZE entries
 *   event VALUE            the driver names a used entry
 *   flags VALUE            … and writes its flags
 *   batch COUNT            so many pushes, one vq_publish()
 *   singles COUNT          so many times one push, one vq_publish(): how often was the answer yes?
 *   watch                  one push, and vq_publish() with every access to the rings, in order
 */
#include <linux/virtio_config.h>

#include "hv/virtio/queue.h"
#include "script.h"
#include "watch.h"

#define SIZE 256
#define RINGS 0x10000
#define RAM_BYTES 0x100000

static struct vq vq;

static uint16_t *word(uint64_t gpa)
{
    return mem_ptr(&mem, gpa, 2, true);
}

static void fresh(void)
{
    if (mem.count == 0 && mem_add(&mem, 0, RAM_BYTES, MEM_RAM, MEM_ANONYMOUS, NULL) < 0)
        abort();
    memset(mem_ptr(&mem, RINGS, 0x3000, true), 0, 0x3000);
    vq_init(&vq, &mem, SIZE);
    vq.at.desc = RINGS;
    vq.at.driver = RINGS + 0x1000;
    vq.at.device = RINGS + 0x2000;
    report_int("rc", vq_enable(&vq, UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX));
}

static bool batch(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        vq_push(&vq, &(struct vq_chain){.head = (uint16_t)(i % SIZE)}, 1);
    return vq_publish(&vq);
}

static const char *name_of(uintptr_t at)
{
    size_t avail = at - (uintptr_t)vq.avail, used = at - (uintptr_t)vq.used;

    if (avail < 4096)
        return avail < 2              ? "avail.flags"
               : avail < 4            ? "avail.idx"
               : avail < 4 + 2 * SIZE ? "avail.ring"
                                      : "used_event";
    if (used < 4096)
        return used < 2              ? "used.flags"
               : used < 4            ? "used.idx"
               : used < 4 + 8 * SIZE ? "used.ring"
                                     : "avail_event";
    return "?";
}

static void watched(void)
{
    vq_push(&vq, &(struct vq_chain){.head = 1}, 1);
    watch_page(vq.avail); /* each on a page of its own, at its start */
    watch_page(vq.used);
    watch_begin();
    bool told = vq_publish(&vq);
    watch_end();
    report_bool("result", told);
    report_name("accesses");
    report_raw("[");
    for (unsigned i = 0; i < watch.count; i++) {
        const struct watch_event *e = &watch.events[i];
        report_raw(i > 0 ? ", \"" : "\"");
        if (e->address != WATCH_BARRIER)
            report_raw(e->is_write ? "write " : "read ");
        report_raw(e->address == WATCH_BARRIER ? "barrier" : name_of(e->address));
        report_raw("\"");
    }
    report_raw("]");
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "fresh") == 0) {
        fresh();
    } else if (strcmp(verb, "event") == 0) {
        *word(vq.at.driver + 4 + 2 * SIZE) = (uint16_t)take_number(&rest);
    } else if (strcmp(verb, "flags") == 0) {
        *word(vq.at.driver) = (uint16_t)take_number(&rest);
    } else if (strcmp(verb, "batch") == 0) {
        report_bool("result", batch((unsigned)take_number(&rest)));
    } else if (strcmp(verb, "singles") == 0) {
        unsigned told = 0;
        for (unsigned left = (unsigned)take_number(&rest); left > 0; left--)
            told += batch(1);
        report_int("told", told);
    } else if (strcmp(verb, "watch") == 0) {
        watched();
    } else {
        return false;
    }
    report_int("next_used", vq.next_used);
    return true;
}

int main(void)
{
    return script_run(command);
}
