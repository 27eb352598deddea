"""Lab 06's checks: one function for each [[check]] of lab.toml.

Most race against nobody: drivers with a KVM of their own (drivers/fake_smp.h) hold a thread at the very place
where it could lose something, and let it go when the other side has done its part. The rest run small guests
on several vCPUs of the host's KVM (drivers/real.c), and at the end Linux.
"""

import hashlib
import os
import signal
import sys

import grading
from grading import CannotRun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STATUS_OK = 0
END_DEBUG_EXIT, END_QUIT = 2, 4  # enum machine_end
KICK = signal.SIGUSR1
OWN_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
UNBLOCKABLE = {signal.SIGKILL, signal.SIGSTOP}
MP_UNINITIALIZED, MP_HALTED = 1, 3


# --- helpers ---


def cases(lab, driver, tries):
    """Runs a driver with one group of arguments for each of TRIES: what it saw in each."""
    seen = lab.driver(driver, *[word for group in tries for word in group]).record.get("cases", [])
    lab.expect(f"the driver {driver}: cases reported", len(tries), len(seen))
    return seen


def scene(lab, driver, tried, *args):
    """Plays a driver's scene: what it saw. One that did not come to its end fails the check."""
    patience = grading.patience()
    got = lab.driver(driver, *args, patience, limit=20).record
    if "stuck_in" in got:
        lab.fail(tried, "an end of each of its steps", f"after {6 * patience:.0f} s it was still in {got['stuck_in']}")
    if "stopped_at" in got:
        if got["stopped_at"] == "machine_create" and not os.access("/dev/kvm", os.R_OK | os.W_OK) and driver in ("real", "others"):
            raise CannotRun(f"no machine can be made here: {got['error']}")
        lab.fail(tried, "a machine that starts", f"{got['stopped_at']}() gave {got['rc']}: {got['error']}")
    return got


def all_of(lab, tried, what, number, got):
    lab.expect(f"{tried}: {what}", f"{number} of {number}", f"{got} of {number}")


def none_of(lab, tried, what, got):
    lab.expect(f"{tried}: {what}", "never", "never" if got == 0 else f"{got} times")


# --- 6.1, 6.2: CPUID ---


def bits_for(cpus):
    return (cpus - 1).bit_length()


def machines(lab):
    """(vendor, CPUs, index, leaf 1's EBX and EDX on the host, its last leaf)"""
    tries = [("intel", 1, 0), ("amd", 2, 1), ("intel", 3, 2), ("amd", 64, 63)]
    for _ in range(8):
        cpus = lab.rng.randrange(2, 65)
        tries.append((lab.rng.choice(["intel", "amd"]), cpus, lab.rng.randrange(cpus)))
    edx = lab.rng.getrandbits(32)
    return [(*each, lab.rng.getrandbits(32) | 0x0800, edx | HTT if each[1] == 1 or i % 2 else edx & ~HTT,
             lab.rng.choice([0xD, 0x16, 0x1F, 0x24])) for i, each in enumerate(tries)]  # fmt: skip


def told_of(vendor, cpus, index, ebx, edx, last):
    return f"vCPU {index} of {cpus} on a {vendor} host (leaf 1 there: EBX {ebx:#x}, EDX {edx:#x})"


HIDDEN_EDX1 = 1 << 18 | 1 << 21 | 1 << 22 | 1 << 29 | 1 << 31  # lab 05's policy
HTT = 1 << 28


def leaf_1(lab):
    tries = machines(lab)
    for each, got in zip(tries, cases(lab, "cpuid", tries)):
        _, cpus, index, ebx, edx, _ = each
        tried, leaf = told_of(*each), got["1"]
        lab.expect(f"{tried}: EBX 31:24, its APIC id", index, leaf["ebx"] >> 24)
        lab.expect(f"{tried}: EBX 23:16, ids in the package", 1 << bits_for(cpus), leaf["ebx"] >> 16 & 0xFF)
        lab.expect(f"{tried}: EDX 28, HTT", int(cpus > 1), leaf["edx"] >> 28 & 1)
        lab.expect(f"{tried}: EBX 15:0, which is not ours", f"{ebx & 0xFFFF:#06x}", f"{leaf['ebx'] & 0xFFFF:#06x}")
        rest = edx & ~HIDDEN_EDX1 & ~HTT
        lab.expect(f"{tried}: the rest of EDX", f"{rest:#x}", f"{leaf['edx'] & ~HIDDEN_EDX1 & ~HTT:#x}")


def topology(lab):
    tries = machines(lab)
    for each, got in zip(tries, cases(lab, "cpuid", tries)):
        _, cpus, index, _, _, last = each
        levels = [(0, 1, 1), (bits_for(cpus), cpus, 2), (0, 0, 0)]  # EAX, EBX, type
        for leaf in ("b", "1f") if last >= 0x1F else ("b",):
            for i, (eax, ebx, kind) in enumerate(levels):
                tried = f"vCPU {index} of {cpus}, leaf {leaf.upper()}H, subleaf {i}"
                level = got[f"{leaf}.{i}"]
                lab.expect_true(tried, "in the table, found by its subleaf", level is not None and level["indexed"],
                                "not there" if level is None else "an entry that stands for every subleaf")  # fmt: skip
                lab.expect(f"{tried}: ECX 15:8, type", kind, level["ecx"] >> 8)
                lab.expect(f"{tried}: ECX 7:0, subleaf", i, level["ecx"] & 0xFF)
                lab.expect(f"{tried}: EAX, bits to shift", eax, level["eax"])
                lab.expect(f"{tried}: EBX, logical processors", ebx, level["ebx"])
                lab.expect(f"{tried}: EDX, its id", index, level["edx"])


# --- 6.3: signals ---


def names(signals):
    return ", ".join(sorted(signal.Signals(each).name if each in set(signal.Signals) else f"signal {each}" for each in signals)) or "none"


def thread_signals(lab):
    cpus = lab.rng.randrange(2, 6)
    asked = [0, KICK, lab.rng.choice([signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS]), signal.SIGWINCH]
    lab.rng.shuffle(asked)
    for blocked in asked:
        tried = f"{cpus} vCPUs, started by a thread that has blocked {names([blocked]) if blocked else 'nothing'}"
        got = scene(lab, "threads", tried, cpus, int(blocked))
        all_of(lab, tried, "vCPUs that enter", cpus, got["entered"])
        for i, mask in enumerate(got["masks"]):
            is_blocked = {n for n in range(1, 65) if mask >> n - 1 & 1}
            open_ones = {int(each) for each in OWN_FAULTS | {KICK}}
            lab.expect(f"{tried}: of SIGUSR1 and its own faults, vCPU {i}'s thread has blocked", "none",
                       names(open_ones & is_blocked))  # fmt: skip
            heard = {n for n in range(1, 32) if not mask >> n - 1 & 1} - open_ones - {int(each) for each in UNBLOCKABLE}
            lab.expect(f"{tried}: of the other signals, vCPU {i}'s thread would take", "none", names(heard))
        lab.expect(f"{tried}: blocked in that thread afterwards", f"{got['before']:#x}, as before", f"{got['after']:#x}"
                   + (", as before" if got["after"] == got["before"] else ""))  # fmt: skip


# --- 6.4: INIT and start-up IPIs ---


def others_start(lab):
    cpus = lab.rng.randrange(3, 9)
    guest = os.path.join(lab.tree, "build/guest/smp_start.elf")
    tried = f"smp_start on {cpus} vCPUs"
    got = scene(lab, "others", tried, guest, cpus)
    lab.expect(f"{tried}: vCPUs", cpus, len(got["cpus"]))
    first, *others = got["cpus"]
    for i, cpu in enumerate(others, 1):
        woke = "still waits for INIT (KVM_MP_STATE_UNINITIALIZED)" if cpu["mp_state"] == MP_UNINITIALIZED else "has started"
        lab.expect(f"{tried}: vCPU {i}", "has started", woke)
        lab.expect_true(f"{tried}: vCPU {i}", "in long mode, in the kernel", cpu["long_mode"] and cpu["rip"] >> 63,
                        f"RIP {cpu['rip']:#x}, " + ("in long mode" if cpu["long_mode"] else "not in long mode"))  # fmt: skip
        lab.expect(f"{tried}: vCPU {i}'s page tables", f"{first['cr3']:#x}, as vCPU 0's", f"{cpu['cr3']:#x}"
                   + (", as vCPU 0's" if cpu["cr3"] == first["cr3"] else ""))  # fmt: skip
    stacks = sorted(cpu["rsp"] for cpu in got["cpus"])
    gaps = [b - a for a, b in zip(stacks, stacks[1:])]
    lab.expect_true(f"{tried}: their stacks", "4 KiB apart at least, or nearly", min(gaps) > 3000, [f"{each:#x}" for each in stacks])
    lab.expect(f"{tried}: the guest ended", "by itself, with 16", f"by itself, with {got['value']}" if got["by_itself"]
               else "not within 2.5 s")  # fmt: skip


# --- 6.5: the kick ---


def expect_kicks(lab, tried, got, threads):
    all_of(lab, tried, "threads that were signalled", threads, got["kills"])
    none_of(lab, tried, "pthread_kill() of what is no thread of a vCPU", got["strangers"])
    all_of(lab, tried, "immediate_exit already set when the signal was sent", threads, got["flag_first"])


def kick_before(lab):
    cpus = lab.rng.randrange(2, 7)
    tried = f"{cpus} vCPUs have looked at the world, are about to call KVM_RUN, and are kicked"
    got = scene(lab, "kick", tried, "before", cpus)
    all_of(lab, tried, "vCPUs that got there", cpus, got["entered"])
    all_of(lab, tried, "KVM_RUN that found immediate_exit set", cpus, got["seen"])
    expect_kicks(lab, tried, got, cpus)
    threads = lab.rng.randrange(1, cpus)
    tried = f"of {cpus} vCPUs only {threads} got a thread, and all are kicked"
    got = scene(lab, "kick", tried, "before", cpus, threads)
    lab.expect(f"{tried}: machine_start()", -11, got["start"])
    expect_kicks(lab, tried, got, threads)
    all_of(lab, tried, "KVM_RUN that found immediate_exit set", threads, got["seen"])


def kick_during(lab):
    cpus = lab.rng.randrange(2, 7)
    tried = f"{cpus} vCPUs sleep in KVM_RUN and are kicked"
    got = scene(lab, "kick", tried, "during", cpus)
    all_of(lab, tried, "vCPUs that got there", cpus, got["entered"])
    all_of(lab, tried, "KVM_RUN that a signal ended", cpus, got["interrupted"])
    expect_kicks(lab, tried, got, cpus)


# --- 6.6: parking ---


def parked(lab):
    cpus, spurious = lab.rng.randrange(2, 6), lab.rng.randrange(1, 5)
    tried = f"a pause of {cpus} vCPUs, where the first {spurious} waits of each end without a cause"
    got = scene(lab, "park", tried, "in", cpus, spurious)
    all_of(lab, tried, "vCPUs that run", cpus, got["entered"])
    lab.expect(f"{tried}: all say that they are parked", "yes", "yes" if got["parked"] else "not within a second")
    lab.expect(f"{tried}: whoever waits on world_change", "is told", "is told" if got["told"] else "is not told")
    none_of(lab, tried, "a vCPU computes in the pause", got["entered_paused"])
    none_of(lab, tried, "KVM_RUN is called while all are parked", got["entries_parked"])
    lab.expect_true(f"{tried}: what the parked threads do for 200 ms", "sleep", got["wakes_parked"] <= 20,
                    f"wake {got['wakes_parked']} times")  # fmt: skip
    tried = f"the stop, for {cpus} vCPUs that are parked"
    lab.expect(f"{tried}: their threads", "end", "end" if got["gone"] else "live on after a second")
    lab.expect(f"{tried}: afterwards they count as", "parked", "parked" if got["parked_at_end"] else "not parked")


def unparked(lab):
    cpus, spurious = lab.rng.randrange(2, 6), lab.rng.randrange(1, 4)
    tried = f"a pause of {cpus} vCPUs, where the first {spurious} waits of each end without a cause, and on"
    got = scene(lab, "park", tried, "out", cpus, spurious)
    lab.expect(f"{tried}: all say that they are parked", "yes", "yes" if got["parked"] else "not within a second")
    all_of(lab, tried, "vCPUs that enter the guest again, and again", cpus, got["gone_on"])
    none_of(lab, tried, "an entry with immediate_exit still set", got["stale"])
    none_of(lab, tried, "an entry of a vCPU that still says it is parked", got["still_parked"])
    tried = "vCPU 0 leaves its parking place, lets go of world_lock, and in that moment comes the next pause"
    lab.expect(f"{tried}: it gets that far", "yes", "yes" if got["let_go"] else "it never unlocks world_lock")
    none_of(lab, tried, "it computes in the pause, its kick lost", got["lost"])


# --- 6.7: machine_pause() ---


def expect_pause(lab, tried, got, is_paused=True):
    lab.expect(f"{tried}: when it returns, vCPUs in KVM_RUN", 0, got["inside"])
    lab.expect(f"{tried}: when it returns, all vCPUs with a thread are parked", "yes", "yes" if got["parked"] else "no")
    lab.expect(f"{tried}: machine_is_paused()", is_paused, bool(got["paused"]))
    lab.expect_true(f"{tried}: how it waits", "asleep", got["busy_ms"] < 20, f"busy for {got['busy_ms']} ms")


def pause_waits(lab):
    cpus = lab.rng.randrange(3, 6)
    for late, spurious in ((0, 0), (cpus - 1, lab.rng.randrange(1, 5)), (lab.rng.randrange(1, cpus - 1), lab.rng.randrange(2, 6))):
        tried = f"machine_pause() of {cpus} vCPUs, of which vCPU {late} needs 200 ms"
        if spurious:
            tried += f"; {spurious} waits end without a cause"
        got = scene(lab, "pause", tried, "slow", cpus, late, spurious)
        expect_pause(lab, tried, got)
        none_of(lab, tried, "a vCPU computes in the pause", got["entered_paused"])
        all_of(lab, tried, "vCPUs that go on after machine_resume()", cpus, got["gone_on"])
    tried = "machine_pause() before machine_start()"
    got = scene(lab, "pause", tried, "early", cpus)
    expect_pause(lab, tried, got)
    lab.expect(f"{tried}: then the threads begin", "parked", "parked" if got["parked_from_the_start"] else "not parked")
    all_of(lab, tried, "vCPUs that go on after machine_resume()", cpus, got["gone_on"])
    tried = "machine_pause() of a machine that has been stopped"
    expect_pause(lab, tried, scene(lab, "pause", tried, "late", cpus), is_paused=False)
    rounds = 250
    tried = f"{rounds} times machine_pause() and machine_resume() of {cpus} vCPUs"
    got = scene(lab, "pause", tried, "rounds", cpus, rounds)
    none_of(lab, tried, "machine_pause() returned too early", got["bad"])
    none_of(lab, tried, "a vCPU did not go on", got["stuck"])


# --- guests with several vCPUs ---

# vCPU 0 goes to protected mode for the local APIC's registers; the others work in real mode, at page 8. EBX is
# a vCPU's number: CPUID's, which has to be the one that hv gave it.
GUEST = """
        .set    ICR_LOW, 0xfee00300
        .set    ICR_HIGH, 0xfee00310
        cli
        xor     %%ax, %%ax
        mov     %%ax, %%ds
        lgdtl   gdt_pointer
        mov     %%cr0, %%eax
        or      $1, %%al
        mov     %%eax, %%cr0
        ljmpl   $8, $start32
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   23
        .long   gdt
        .code32
start32:
        mov     $16, %%ax
        mov     %%ax, %%ds
        mov     %%ax, %%es
        mov     %%ax, %%ss
        mov     $0x7000, %%esp
        xor     %%ebx, %%ebx
        orl     $0x100, 0xfee000f0      # the local APIC on
%(first)s
        .org    0x400
        .code16
other:  xor     %%ax, %%ax
        mov     %%ax, %%ds
        mov     %%ax, %%es
        mov     $1, %%eax
        cpuid
        shr     $24, %%ebx
%(other)s
        .balign 16
ready:  .long   0
"""
START_OTHERS = """
        movl    $0xc4500, ICR_LOW
        mov     $2000, %ecx
9:      pause
        dec     %ecx
        jnz     9b
        movl    $0xc4608, ICR_LOW
"""
SPIN = """
1:      incl    0x6100(,%ebx,4)
        jmp     1b
"""
# not the ends of the loop, but what comes between counts
WORK = """
        lea     0x1500(%ebx), %edx
1:      in      (%dx), %al
        incl    0x6100(,%ebx,4)
        out     %al, (%dx)
        jmp     1b
"""
READS = """
        lea     0x1500(%ebx), %edx
        xor     %ecx, %ecx
1:      in      (%dx), %al
        inc     %ecx
        incl    0x6100(,%ebx,4)
        jmp     1b
"""
STRINGS = """
        cld
        lea     0x1500(%%ebx), %%edx
        mov     %%ebx, %%eax
        shl     $8, %%eax
        add     $0x6400, %%eax
1:      mov     %%eax, %%edi
        mov     $%d, %%ecx
        rep insb
        mov     %%eax, %%esi
        mov     $%d, %%ecx
        rep outsb
        incl    0x6100(,%%ebx,4)
        jmp     1b
"""
SAME = """
        incl    0x6100(,%%ebx,4)
        mov     %%bl, %%al
        mov     $0x1600, %%dx
        mov     $%d, %%ecx
1:      out     %%al, (%%dx)
        dec     %%ecx
        jnz     1b
        lock incl ready
2:      cmpl    $%d, ready
        jb      2b
        test    %%ebx, %%ebx
        jnz     2b
        mov     $%d, %%al
        out     %%al, $0xf4
3:      jmp     3b
"""
ENDS = """
        lock incl ready
1:      cmpl    $%d, ready
        jb      1b
        lea     1(%%ebx), %%eax
        out     %%al, $0xf4
2:      incl    0x6200(,%%ebx,4)
        jmp     2b
"""


def crowd(lab, work):
    """A guest in which every vCPU does WORK."""
    return lab.guest(GUEST % {"first": START_OTHERS + work, "other": work})


def expect_pauses(lab, tried, got, bad):
    """BAD: what was wrong in a pause, for a person."""
    lab.expect(f"{tried}: before the first one", "each vCPU counts", "each vCPU counts" if got["began"] else "one does not")
    none_of(lab, tried, "machine_pause() returned before all were parked", got["unparked"])
    none_of(lab, tried, bad, got["bad"])
    none_of(lab, tried, "a vCPU did not go on after machine_resume()", got["unmoved"])
    none_of(lab, tried, "the guest ended too early", got["ended_early"])
    lab.expect_true(f"{tried}: enough pauses", "3 at least", got["rounds"] > 2, got["rounds"])


def pause_guest(lab):
    cpus = lab.rng.randrange(2, 5)
    tried = f"pauses of a guest with {cpus} vCPUs that compute, read and write ports"
    got = scene(lab, "real", tried, "still", crowd(lab, WORK), cpus, 60)
    expect_pauses(lab, tried, got, "the guest's memory changed in a pause")
    none_of(lab, tried, "a byte came back to its port out of order", got["wrong"])


# --- 6.8: pending accesses ---


def pending_pieces(lab):
    for kicks in ("kicked", "unkicked"):
        pieces = lab.rng.randrange(2, 7) if kicks == "kicked" else 1
        for count in (1, pieces):
            tried = f"a read in {count} piece{'s' if count > 1 else ''}, and while the first exit is served, a pause"
            if kicks == "unkicked":
                tried += " that the vCPU sees before its kick has come"
            got = scene(lab, "pending", tried, kicks, count)
            lab.expect(f"{tried}: the vCPU", "is parked", "is parked" if got["parked"] else "is not parked")
            none_of(lab, tried, "the guest was let on behind the instruction", got["ran_on"])
            all_of(lab, tried, "pieces handed over before it parked", count, got["handed_over"])
            all_of(lab, tried, "pieces answered before it parked", count, got["answered"])
            lab.expect(f"{tried}: KVM could finish the instruction", "before it parked",
                       "before it parked" if got["completed"] else "not at all")  # fmt: skip
            lab.expect(f"{tried}: then machine_resume(): the guest", "goes on", "goes on" if got["went_on"] else "stands still")


def pending_read(lab):
    cpus = lab.rng.randrange(2, 5)
    tried = f"pauses of a guest whose {cpus} vCPUs read a port and count what they have read"
    got = scene(lab, "real", tried, "reads", crowd(lab, READS), cpus, 100)
    expect_pauses(lab, tried, got, "RIP and ECX of a paused vCPU disagree with what its port has given")


# --- 6.9: the end ---


def first_end(lab):
    cpus, rounds = lab.rng.randrange(2, 7), 25
    tried = f"{cpus} vCPUs write their number to the exit port in the same moment ({rounds} machines)"
    got = scene(lab, "end", tried, "race", cpus, rounds)
    all_of(lab, tried, "machines in which every vCPU took end_lock", rounds, got["locked"])
    all_of(lab, tried, "machines whose outcome is the first one's", rounds, got["first_counts"])
    all_of(lab, tried, "outcomes that are in one piece", rounds, got["own_value"])
    none_of(lab, tried, "a vCPU entered the guest again", got["ran_on"])
    tried = "another thread ends the machine while the main thread sleeps in machine_run()"
    for mode in ("wake", "locked"):
        if mode == "locked":
            tried += ", and somebody holds world_lock for a while"
        got = scene(lab, "end", tried, mode, cpus)
        if mode == "locked":
            lab.expect(f"{tried}: machine_end()", "returns", "returns" if got["returned"] else "waits")
            lab.expect(f"{tried}: the world", "is stopped", "is stopped" if got["stopped"] else "runs on")
        lab.expect(f"{tried}: the outcome", "MACHINE_QUIT, 7", f"MACHINE_QUIT, {got['value']}" if got["end"] else "another")
        lab.expect(f"{tried}: after a second machine_end() its value", 7, got["value_later"])


# A script that stands in for the initramfs' own init: what it prints is compared, and the hash shows that it ran.
INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox sha256sum /word | busybox sed 's/^/check: word /'
echo "check: nproc $(busybox nproc)"
busybox sed -n 's/^apicid[^:]*: */check: apicid /p; s/^cpu cores[^:]*: */check: cores /p' /proc/cpuinfo
echo 0 >/sys/devices/system/cpu/cpu%(victim)d/online
echo "check: without %(victim)d: $(busybox nproc)"
echo 1 >/sys/devices/system/cpu/cpu%(victim)d/online
echo "check: with %(victim)d: $(busybox nproc)"
echo "check: done"
busybox poweroff -f
busybox sleep 1000
"""


def kernel_file():
    cache = os.environ.get("HVLAB_CACHE") or os.path.join(ROOT, "build/cache")
    paths = os.path.join(cache, "cloud/vmlinuz"), os.path.join(cache, "initramfs-cloud.cpio")
    if not all(os.path.exists(path) for path in paths):
        raise CannotRun("no kernel to boot: in the course's directory run `guest/linux/fetch cloud && guest/linux/initramfs cloud`")
    return paths


def initramfs(lab, base, script, secret):
    """BASE, and behind it an archive of our own."""
    sys.path.insert(0, os.path.join(ROOT, "guest/linux"))
    import newc

    archive = newc.Archive()
    archive.file("check", script.encode(), 0o755)
    archive.file("word", secret)
    path = os.path.join(lab.scratch, "initramfs")
    with open(path, "wb") as out:
        archive.write(out)
    with open(path, "rb") as file:
        mine = file.read()
    with open(base, "rb") as file:
        theirs = file.read()
    with open(path, "wb") as out:
        out.write(theirs + mine)
    return path


def boot_linux(lab, kernel, files, cpus):
    """(run, the script's lines). A machine in an emulated machine loses one boot in some thirty, which is nobody's
    fault here, so there are two tries."""
    for _ in range(2):
        run = lab.hv("run", "--kernel", kernel, "--initrd", files, "--cpus", str(cpus), "--append",
                     "console=ttyS0 quiet panic=-1 rdinit=/check", limit=28, hang_ok=True)  # fmt: skip
        lines = [line.strip() for line in run.out.decode(errors="replace").splitlines()]
        lines = [line.removeprefix("check: ") for line in lines if line.startswith("check: ")]
        if "done" in lines:
            break
    return run, lines


def linux_four(lab):
    """What would make Linux hang is proved before."""
    kernel, base = kernel_file()
    leaf_1(lab)
    topology(lab)
    kick_before(lab)
    first_end(lab)
    cpus, secret = 4, lab.rng.randbytes(64)
    victim = lab.rng.randrange(1, cpus)
    run, lines = boot_linux(lab, kernel, initramfs(lab, base, INIT % {"victim": victim}, secret), cpus)
    tried = f"a Debian kernel with --cpus {cpus}"
    last = run.out.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    lab.expect_true(f"{tried}: user space runs a script", "all of its lines", "done" in lines,
                    f"{run.how()}; the last line of the console: {last[0][-120:]}")  # fmt: skip
    word = next((line.split()[1] for line in lines if line.startswith("word ")), "")
    lab.expect(f"{tried}: the SHA-256 of a file, made by the guest", hashlib.sha256(secret).hexdigest(), word)
    lab.expect(f"{tried}: nproc", str(cpus), said_of(lines, "nproc"))
    lab.expect(f"{tried}: APIC ids in /proc/cpuinfo", [str(i) for i in range(cpus)], all_said_of(lines, "apicid"))
    lab.expect(f"{tried}: cpu cores in /proc/cpuinfo", [str(cpus)] * cpus, all_said_of(lines, "cores"))
    lab.expect(f"{tried}: nproc with CPU {victim} off", str(cpus - 1), said_of(lines, f"without {victim}:"))
    lab.expect(f"{tried}: nproc with CPU {victim} on again", str(cpus), said_of(lines, f"with {victim}:"))
    lab.expect(f"{tried}: after poweroff", f"exit status {STATUS_OK}", run.how())


def all_said_of(lines, name):
    return [line.removeprefix(name + " ") for line in lines if line.startswith(name + " ")]


def said_of(lines, name):
    return (all_said_of(lines, name) or ["nothing"])[0]


# --- the hostile guest ---


def never_exits(lab):
    cpus = lab.rng.randrange(2, 5)
    tried = f"pauses of a guest whose {cpus} vCPUs never exit"
    got = scene(lab, "real", tried, "still", crowd(lab, SPIN), cpus, 60)
    expect_pauses(lab, tried, got, "the guest's memory changed in a pause")
    lab.expect(f"{tried}; then the user's end", "the machine ends", "the machine ends" if got["ended"] and got["end"] == END_QUIT
               else f"another end ({got['end']})")  # fmt: skip


BAD_STARTS = """
        movl    $0, ICR_HIGH
        movl    $0x4608, ICR_LOW        # a start-up IPI to itself
        movl    $%(nobody)d << 24, ICR_HIGH
        movl    $0x4500, ICR_LOW        # INIT and start-up IPI to nobody
        movl    $0x4608, ICR_LOW
""" + START_OTHERS.replace("%", "%%") + """
1:      cmpl    $%(others)d, ready
        jb      1b
        movl    $0xc4608, ICR_LOW       # start-up IPIs to those that run
        movl    $0xc46ff, ICR_LOW
        mov     $20000, %%ecx
2:      pause
        dec     %%ecx
        jnz     2b
        movl    $%(victim)d << 24, ICR_HIGH
        movl    $0x4500, ICR_LOW        # one of them begins anew
        mov     $2000, %%ecx
3:      pause
        dec     %%ecx
        jnz     3b
        movl    $%(victim)d << 24, ICR_HIGH
        movl    $0x4608, ICR_LOW
4:      cmpl    $%(others)d + 1, ready
        jb      4b
        mov     $%(value)d, %%al
        out     %%al, $0xf4
5:      jmp     5b
"""
REPORT_FOR_DUTY = """
        mov     %ebx, %esi
        mov     $0xb, %eax
        mov     $1, %ecx
        cpuid
        mov     %edx, 0x6140(,%esi,4)
        mov     %ebx, 0x6180(,%esi,4)
        lock incl 0x6100(,%esi,4)
        lock incl ready
1:      jmp     1b
"""


def bad_starts(lab):
    cpus = lab.rng.randrange(3, 8)
    victim, nobody, value = lab.rng.randrange(1, cpus), lab.rng.randrange(70, 250), lab.rng.randrange(1, 120)
    first = BAD_STARTS % {"nobody": nobody, "others": cpus - 1, "victim": victim, "value": value}
    guest = lab.guest(GUEST % {"first": first, "other": REPORT_FOR_DUTY})
    tried = f"start-up IPIs to itself, to APIC id {nobody}, to running processors, and a second INIT for {victim} of {cpus}"
    got = scene(lab, "real", tried, "alone", guest, cpus)
    lab.expect(f"{tried}: how often each began", [0] + [2 if i == victim else 1 for i in range(1, cpus)], got["words"][:cpus])
    lab.expect(f"{tried}: the ids that they read in leaf 0BH", list(range(1, cpus)), got["words"][17 : 16 + cpus])
    lab.expect(f"{tried}: the processors that they count there", [cpus] * (cpus - 1), got["words"][33 : 32 + cpus])
    lab.expect(f"{tried}: the end", f"by the guest, with {value}", f"by the guest, with {got['value']}"
               if got["by_itself"] and got["end"] == END_DEBUG_EXIT else "not by the guest")  # fmt: skip


def same_device(lab):
    cpus, each, value = lab.rng.randrange(2, 5), lab.rng.randrange(4000, 6000), lab.rng.randrange(1, 120)
    tried = f"{cpus} vCPUs write to one port, {each} times each, in spite of pauses"
    got = scene(lab, "real", tried, "same", crowd(lab, SAME % (each, cpus, value)), cpus, 15, each)
    lab.expect(f"{tried}: before the first one", "each vCPU begins", "each vCPU begins" if got["began"] else "one does not")
    none_of(lab, tried, "machine_pause() returned before all were parked", got["unparked"])
    none_of(lab, tried, "a write came in a pause", got["bad"])
    lab.expect(f"{tried}: writes of each vCPU", [each] * cpus, got["counts"])
    lab.expect(f"{tried}: all writes", each * cpus, got["all"])
    lab.expect(f"{tried}: the end", "by the guest", "by the guest" if got["by_itself"] else "not within 2.5 s")


def many_ends(lab):
    cpus, rounds = lab.rng.randrange(2, 6), 12
    tried = f"{cpus} vCPUs write to the exit port at once ({rounds} machines)"
    got = scene(lab, "real", tried, "ends", crowd(lab, ENDS % cpus), cpus, rounds)
    all_of(lab, tried, "machines that ended by it", rounds, got["ended"])
    all_of(lab, tried, "outcomes that name a vCPU and what that vCPU wrote", rounds, got["own"])
    none_of(lab, tried, "a vCPU ran on behind its end", got["ran_on"])


def pause_flood(lab):
    cpus, length = lab.rng.randrange(2, 5), lab.rng.randrange(100, 250)
    tried = f"pauses of a guest whose {cpus} vCPUs copy {length} bytes at a time from a port, and back to it"
    got = scene(lab, "real", tried, "flood", crowd(lab, STRINGS % (length, length)), cpus, 80)
    expect_pauses(lab, tried, got, "bytes came back wrong")
    none_of(lab, tried, "a byte came back to its port out of order", got["wrong"])
