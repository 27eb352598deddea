/*
 * Exits of our making, served by the learner's serve_exit().
 *
 * The machine has two buses with one device on each, at the same address.
 *
 * args: base:ADDR                     where the two devices are, 16 bytes each
 *       read:ADDR:LEN  write:ADDR:LEN:VALUE     a KVM_EXIT_MMIO
 */
#include "machine/machine_priv.h"
#include "recorder.h"

#define WINDOW 16
#define ON_MMIO 0
#define ON_PORTS 1

static struct machine m;
static struct kvm_run run;
static struct cpu cpu = {.m = &m, .vcpu = {.fd = -1, .run = &run, .run_size = sizeof(run)}};

static void wire(uint64_t base)
{
    if (bus_map(&m.mmio, base, WINDOW, recorder_init(ON_MMIO, 8, 0x10), 0) < 0 ||
        bus_map(&m.pio, base, WINDOW, recorder_init(ON_PORTS, 8, 0x80), 0) < 0)
        report_string("unwired", "bus_map");
}

static void serve(const uint64_t *f, bool write)
{
    memset(&run, 0, sizeof(run));
    run.exit_reason = KVM_EXIT_MMIO;
    run.mmio.phys_addr = f[0];
    run.mmio.len = (uint32_t)f[1];
    run.mmio.is_write = write;
    memset(run.mmio.data, 0x5a, sizeof(run.mmio.data));
    if (write)
        memcpy(run.mmio.data, &f[2], f[1] <= 8 ? f[1] : 8);
    serve_exit(&cpu);
    report_case();
    report_hex("data", run.mmio.data, sizeof(run.mmio.data));
    report_int("ended", m.ended);
    report_calls();
}

int main(int argc, char **argv)
{
    uint64_t f[3];

    bus_init(&m.mmio, UINT64_MAX);
    bus_init(&m.pio, UINT64_MAX);
    (void)pthread_mutex_init(&m.end_lock, NULL);
    for (int i = 1; i < argc; i++) {
        if (is_command(argv[i], "base", f, 1))
            wire(f[0]);
        else if (is_command(argv[i], "read", f, 2))
            serve(f, false);
        else if (is_command(argv[i], "write", f, 3))
            serve(f, true);
        else
            return 2;
    }
    return report_end();
}
