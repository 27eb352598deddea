/*
 * Machines on the host's KVM that are paused and ended while their guests work.
 *
 * The guest is flat; every vCPU, vCPU 0 too, counts at COUNTERS + 4 × its number and uses port
 * PORTS + its number, behind which sits a device that gives 0, 1, 2, … and expects the same back.
 *
 * ROUNDS: at most so many.
 *
 * args: still PATH CPUS ROUNDS   pauses: does a counter move while the world stands still, and does
 *                                it move again afterwards?
 *       reads PATH CPUS ROUNDS   pauses: has ECX counted every byte that the port has given?
 *       flood PATH CPUS ROUNDS   pauses: are the bytes that come back those that were given?
 *       same PATH CPUS ROUNDS EACH  pauses while all vCPUs write their number to one port, EACH
 * times ends PATH CPUS ROUNDS    a machine for each round: all vCPUs end it at once alone PATH CPUS
 * no pause: the guest's words at COUNTERS and what it ended with
 */
#include "real_smp.h"

#define COUNTERS 0x6100
#define FLAGS 0x6200
#define PORTS 0x1500
#define SAME_PORT 0x1600
#define CPUS_MAX 8
#define ROUNDS_SECONDS 1.5 /* for all rounds, on a busy host */

struct source {
    struct device base;
    _Atomic uint32_t given[CPUS_MAX], taken[CPUS_MAX]; /* bytes per port */
    _Atomic uint32_t wrong;                            /* bytes that came back out of order */
    uint32_t same[256];                                /* by value; under base.lock */
    _Atomic uint32_t all_same;
};

static struct source source;

static uint64_t source_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)size;
    return offset < CPUS_MAX ? source.given[offset]++ & 0xff : 0xff;
}

static void source_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev;
    (void)size;
    if (offset >= CPUS_MAX) {
        source.same[value & 0xff]++;
        source.all_same++;
        return;
    }
    source.wrong += (source.taken[offset]++ & 0xff) != (value & 0xff);
}

static void source_destroy(struct device *dev)
{
    (void)dev;
}

static const struct dev_ops source_ops = {
    .read = source_read,
    .write = source_write,
    .destroy = source_destroy,
    .max_access = 1,
};

static struct machine *machine_with_source(const char *path, unsigned cpus)
{
    struct machine *m = real_machine(path, BOOT_FLAT, cpus);
    struct error err = {0};

    if (m == NULL)
        return NULL;
    memset(&source, 0, sizeof(source));
    dev_init(&source.base, &source_ops, "source");
    if (!scene_needs(bus_map(&m->pio, PORTS, CPUS_MAX, &source.base, 0), "bus_map", &err) ||
        !scene_needs(bus_map(&m->pio, SAME_PORT, 1, &source.base, CPUS_MAX), "bus_map", &err))
        return NULL;
    return m;
}

static bool all_count(struct machine *m, const uint32_t *before, unsigned ms)
{
    double end = seconds_now() + ms * patience / 1e3;

    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        while (word_at(m, COUNTERS + 4 * i) == before[i] && seconds_now() < end)
            sleep_ms(1);
        if (word_at(m, COUNTERS + 4 * i) == before[i])
            return false;
    }
    return true;
}

/* What is looked at in a pause; returns whether all was well. */
typedef bool look_fn(struct machine *m);

static bool look_still(struct machine *m)
{
    uint32_t first[CPUS_MAX];
    bool still = true;

    for (unsigned i = 0; i < m->cfg.cpus; i++)
        first[i] = word_at(m, COUNTERS + 4 * i);
    sleep_ms(2);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        still = still && word_at(m, COUNTERS + 4 * i) == first[i];
    return still;
}

/* `in (%dx), %al; inc %ecx`: what was given and is not counted yet has at least been received. */
static bool look_reads(struct machine *m)
{
    bool good = true;

    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        struct kvm_regs regs = {0};
        struct kvm_sregs sregs = {0};
        uint8_t code[2] = {0};
        uint32_t given = source.given[i];
        if (vcpu_get_regs(&m->cpus[i].vcpu, &regs) < 0 ||
            vcpu_get_sregs(&m->cpus[i].vcpu, &sregs) < 0 ||
            mem_read(&m->mem, sregs.cs.base + regs.rip, code, sizeof(code)) < 0)
            return false;
        bool at_in = code[0] == 0xec;
        bool behind_in = code[0] == 0x41 || (code[0] == 0x66 && code[1] == 0x41); /* inc %ecx */
        uint32_t missing = given - (uint32_t)regs.rcx;
        if (given > 0 && (at_in || behind_in))
            good = good && missing == (behind_in ? 1 : 0);
    }
    return good;
}

static bool look_flood(struct machine *m)
{
    (void)m;
    return source.wrong == 0;
}

static bool look_same(struct machine *m)
{
    uint32_t before = source.all_same;

    (void)m;
    sleep_ms(1);
    return source.all_same == before;
}

/* Pauses, looks, goes on: `rounds` times. */
static void pause_rounds(struct machine *m, unsigned rounds, look_fn *look)
{
    unsigned bad = 0, unmoved = 0, unparked = 0, done = 0;
    uint32_t before[CPUS_MAX] = {0};

    double start = seconds_now();

    report_int("began", all_count(m, before, 1500));
    for (; done < rounds && bad + unmoved < 3 && !m->ended; done++) {
        if (seconds_now() - start > ROUNDS_SECONDS * patience)
            break;
        for (unsigned i = 0; i < m->cfg.cpus; i++)
            before[i] = word_at(m, COUNTERS + 4 * i);
        stage = "machine_pause(), while the guest runs";
        machine_pause(m);
        unparked += !all_parked(m);
        bad += !look(m);
        machine_resume(m);
        if (look != look_same)
            unmoved += !all_count(m, before, 400);
    }
    report_int("rounds", done);
    report_int("unparked", unparked);
    report_int("bad", bad);
    report_int("unmoved", unmoved);
}

static void play_pauses(struct machine *m, unsigned rounds, look_fn *look)
{
    struct machine_outcome out = {.end = MACHINE_CRASH};
    struct error err = {0};

    pause_rounds(m, rounds, look);
    report_u64("wrong", source.wrong);
    report_u64("given", source.given[0]);
    report_int("ended_early", m->ended);
    machine_end(m, &(struct machine_outcome){.end = MACHINE_QUIT});
    stage = "machine_run(), after machine_end()";
    int rc = machine_run(m, &out, &err);
    report_int("ended", rc == 0);
    report_int("end", out.end);
}

static void play_same(struct machine *m, unsigned rounds)
{
    struct machine_outcome out = {.end = MACHINE_CRASH};
    unsigned cpus = m->cfg.cpus;

    pause_rounds(m, rounds, look_same);
    report_int("by_itself", run_at_most(m, 2500, &out));
    report_u64("all", source.all_same);
    report_name("counts");
    for (unsigned i = 0; i < cpus; i++) {
        char text[32];
        (void)snprintf(text, sizeof(text), "%s%u", i == 0 ? "[" : ", ", source.same[i]);
        report_raw(text);
    }
    report_raw("]");
}

static void play_ends(const char *path, unsigned cpus, unsigned rounds)
{
    unsigned ended = 0, own = 0, ran_on = 0;

    for (unsigned r = 0; r < rounds; r++) {
        struct machine_outcome out = {.end = MACHINE_CRASH};
        struct machine *m = machine_with_source(path, cpus);
        if (m == NULL || !real_start(m))
            return;
        ended += run_at_most(m, 1500, &out);
        own += out.end == MACHINE_DEBUG_EXIT && out.value == out.cpu + 1;
        for (unsigned i = 0; i < cpus; i++)
            ran_on += word_at(m, FLAGS + 4 * i) != 0;
        real_destroy(m);
    }
    report_int("rounds", rounds);
    report_int("ended", ended);
    report_int("own", own);
    report_int("ran_on", ran_on);
}

static void play_alone(struct machine *m)
{
    struct machine_outcome out = {.end = MACHINE_CRASH};

    report_int("by_itself", run_at_most(m, 2500, &out));
    report_int("end", out.end);
    report_u64("value", out.value);
    report_name("words");
    for (unsigned i = 0; i < 64; i++) {
        char text[32];
        (void)snprintf(text, sizeof(text), "%s%u", i == 0 ? "[" : ", ",
                       word_at(m, COUNTERS + 4 * i));
        report_raw(text);
    }
    report_raw("]");
}

static void play(int argc, char **argv)
{
    const char *mode = argv[1];
    unsigned cpus = (unsigned)number(argv[3]);
    unsigned rounds = argc > 4 ? (unsigned)number(argv[4]) : 0;
    look_fn *look = strcmp(mode, "still") == 0   ? look_still
                    : strcmp(mode, "reads") == 0 ? look_reads
                    : strcmp(mode, "flood") == 0 ? look_flood
                                                 : NULL;

    if (strcmp(mode, "ends") == 0) {
        play_ends(argv[2], cpus, rounds);
        return;
    }
    struct machine *m = machine_with_source(argv[2], cpus);
    if (m == NULL || !real_start(m))
        return;
    if (look != NULL)
        play_pauses(m, rounds, look);
    else if (strcmp(mode, "same") == 0)
        play_same(m, rounds);
    else
        play_alone(m);
    real_destroy(m);
}

int main(int argc, char **argv)
{
    return argc > 4 ? scene_run(play, argc, argv) : 2;
}
