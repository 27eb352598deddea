"""Lab 04's checks: one function for each [[check]] of lab.toml.

4.1 to 4.5 and 4.8 are observed by drivers that call the functions (drivers/*.c), 4.5 to 4.7 by a driver that
plays a script on a 16550A and a second 16550A, written here from its data sheet, that says what should
have come. The guest's side, 4.9 to 4.11, is compiled for the host. The checks of tier kvm run real-mode guests,
whose interrupts every KVM can deliver.
"""

import errno
import resource
import string

from grading import CannotRun

STATUS_GUEST_OK = 33  # the guest wrote 0x10 to port 0xf4
BY_SIGTERM = ("exit status 143", "killed by SIGTERM")  # as a shell and as a parent say it
RUN = ["run", "--boot", "flat"]


# --- helpers ---


def word(lab, length):
    """Text that nobody can know beforehand."""
    return "".join(lab.rng.choice(string.ascii_letters + string.digits) for _ in range(length)).encode()


def asm_bytes(data):
    return ".byte " + ", ".join(f"{byte:#x}" for byte in data)


def named(code):
    if code < 0 and -code in errno.errorcode:
        return f"-{errno.errorcode[-code]} ({code})"
    return str(code)


def yes(value):
    return "yes" if value else "no"


def cases(lab, driver, tries):
    """Runs a driver with one group of arguments for each of TRIES: what it saw in each."""
    words = [word for group in tries for word in group]
    seen = lab.driver(driver, *words).record.get("cases", [])
    lab.expect(f"the driver {driver}: cases reported", len(tries), len(seen))
    return seen


# A real-mode guest: stack, empty interrupt table, PICs at vectors 0x20 and 0x28 with all lines masked. `on` puts
# a handler into the table and opens its line (0 to 7).
PROLOGUE = """
.macro on irq, handler
    movw $\\handler, (0x20 + \\irq) * 4
    in $0x21, %al
    and $~(1 << \\irq), %al
    out %al, $0x21
.endm
.macro port number, value
    mov $\\number, %dx
    mov $\\value, %al
    out %al, %dx
.endm
.macro done
    mov $0x20, %al
    out %al, $0x20
.endm
.macro finish
    mov $0x10, %al
    out %al, $0xf4
    hlt
.endm
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    xor %di, %di
    mov $512, %cx
    cld
    rep stosw
    port 0x20, 0x11
    port 0x21, 0x20
    port 0x21, 4
    port 0x21, 1
    port 0x21, 0xff
    port 0xa0, 0x11
    port 0xa1, 0x28
    port 0xa1, 2
    port 0xa1, 1
    port 0xa1, 0xff
"""


def hv_guest(lab, code, *options, stdin=b"", limit=None):
    return lab.hv(*RUN, *options, "--kernel", lab.guest(PROLOGUE + code), stdin=stdin, limit=limit)


def talk(lab, boot, kernel, typed, wanted, seconds, then):
    """Runs hv, types TYPED, and when WANTED has come and SECONDS have passed, does THEN: a line of shell, in which $hv
    is its process and descriptor 3 its keyboard. However slow the machine is, nothing is early."""
    script = f"""
mkfifo keys
{lab.tree}/build/release/hv run --boot {boot} --kernel {kernel} <keys >answers &
hv=$!
trap "" PIPE
exec 3>keys
printf '{typed}' >&3
until grep -q '{wanted}' answers; do kill -0 $hv 2>/dev/null || break; sleep 0.05; done
sleep {seconds}
{then} 2>/dev/null
wait $hv
status=$?
cat answers
exit $status"""
    return lab.run(["sh", "-c", script], limit=20)


def expect_end(lab, tried, run, out):
    """The guest printed OUT, no more and no less, and ended the machine itself."""
    lab.expect(tried, out, run.out)
    lab.expect(f"{tried}; then the end", f"exit status {STATUS_GUEST_OK}", run.how())


# --- 4.1 the controllers and the timer ---


def controllers(lab):
    code = lab.rng.choice([errno.EEXIST, errno.EINVAL, errno.ENOMEM])
    tries = [(name, 0, 0, fails) for name in ("irqchip", "pit") for fails in (0, code)]
    seen = cases(lab, "irqchip", tries)
    for (name, ioctl), (good, refused) in zip((("irqchip", "KVM_CREATE_IRQCHIP"), ("pit", "KVM_CREATE_PIT2")),
                                              (seen[:2], seen[2:])):  # fmt: skip
        tried = f"vm_create_{name}()"
        lab.expect(tried, "0", named(good["rc"]))
        lab.expect(f"{tried}: ioctls", 1, good["calls"])
        lab.expect(f"{tried}: the ioctl", ioctl, good["request"])
        lab.expect(f"{tried}: on the VM's descriptor", "yes", yes(good["right_fd"]))
        tried = f"{tried} when KVM says {errno.errorcode[code]}"
        lab.expect(tried, named(-code), named(refused["rc"]))
        lab.expect_true(f"{tried}: the error", f"names {ioctl}", ioctl in refused["error"], refused["error"] or "no text")
    lab.expect("vm_create_pit(): flags", "KVM_PIT_SPEAKER_DUMMY (1)",
               {1: "KVM_PIT_SPEAKER_DUMMY (1)"}.get(seen[2]["flags"], seen[2]["flags"]))  # fmt: skip


def chips_answer(lab):
    """The guest writes to the PICs' mask registers and reads them back, looks twice at the running timer, and at
    the speaker's port, where nobody but the PIT's dummy would answer."""
    master, slave = lab.rng.randrange(256), lab.rng.randrange(256)
    code = f"""
    port 0x21, {master:#x}
    port 0xa1, {slave:#x}
    in $0x21, %al
    out %al, $0xe9
    in $0xa1, %al
    out %al, $0xe9
    in $0x61, %al
    cmp $0xff, %al
    setne %al
    add $'0', %al
    out %al, $0xe9
    port 0x43, 0x34
    port 0x40, 0
    port 0x40, 0
    call latch
    mov %ax, %bx
    mov $200, %cx
1:  call latch
    cmp %ax, %bx
    jne 2f
    loop 1b
2:  setne %al
    add $'0', %al
    out %al, $0xe9
    finish
latch:
    port 0x43, 0
    in $0x40, %al
    mov %al, %ah
    in $0x40, %al
    xchg %al, %ah
    ret
"""
    run = hv_guest(lab, code)
    tried = "a guest reads the masks that it wrote to the two PICs"
    lab.expect(tried, bytes([master, slave]), run.out[:2])
    lab.expect("port 0x61 answers (PIT's dummy speaker)", b"1", run.out[2:3])
    lab.expect("the PIT's counter 0 moves", b"1", run.out[3:4])
    lab.expect("the guest ends the machine", f"exit status {STATUS_GUEST_OK}", run.how())


# --- 4.2 a line remembers ---


def heard(gsi, level, ops):
    """What the other end of a line hears, and its level in the end."""
    out = ""
    for op in ops:
        for new in (False, True, False) if op == "p" else (op == "1",):
            out += f"{gsi}{'+' if new else '-'} " if new != level else ""
            level = new
    return out, level


def try_lines(lab, tries):
    for (gsi, level, ops), got in zip(tries, cases(lab, "line", tries)):
        silent = ops.startswith("n")
        want, end = heard(gsi, level == 1, ops.lstrip("n"))
        calls = ", ".join("irq_pulse()" if op == "p" else f"irq_set({op})" for op in ops.lstrip("n"))
        tried = f"line {gsi}, {'high' if level else 'low'}{', with no listener' if silent else ''}: {calls}"
        lab.expect(f"{tried}: what the other end hears (+ up, - down)", "nothing" if silent or not want else want,
                   got["heard"] or "nothing")  # fmt: skip
        lab.expect(f"{tried}: level in the end", int(end), got["level"])
        lab.expect(f"{tried}: called with the line's context", "yes", yes(not got["wrong_ctx"]))


def line_changes(lab):
    gsi = lab.rng.randrange(3, 200)
    ops = "".join(lab.rng.choice("01") for _ in range(30))
    try_lines(lab, [(gsi, 0, "1"), (gsi, 0, "0"), (gsi, 0, "110"), (gsi, 1, "1"), (gsi, 1, "00"), (gsi, 0, ops),
                    (gsi, 0, "n101"), (gsi, 1, "n0")])  # fmt: skip


def line_pulse(lab):
    gsi = lab.rng.randrange(3, 200)
    ops = "".join(lab.rng.choice("01pp") for _ in range(30))
    try_lines(lab, [(gsi, 0, "p"), (gsi, 1, "p"), (gsi, 0, "ppp"), (gsi, 0, "1p1"), (gsi, 0, ops), (gsi, 1, "np")])


# --- 4.3 two ways in ---


def line_ioctl(lab):
    gsi = lab.rng.randrange(24, 5000)
    code = lab.rng.choice([errno.ENXIO, errno.EINVAL])
    up, down, refused = cases(lab, "irqchip", [("line", gsi, 1, 0), ("line", gsi, 0, 0), ("line", gsi, 1, code)])
    for level, got in ((1, up), (0, down)):
        tried = f"vm_irq_line() of GSI {gsi} to {level}"
        lab.expect(tried, "0", named(got["rc"]))
        lab.expect(f"{tried}: the ioctl", "KVM_IRQ_LINE", got["request"])
        lab.expect(f"{tried}: on the VM's descriptor", "yes", yes(got["right_fd"]))
        lab.expect(f"{tried}: irq", gsi, got["gsi"])
        lab.expect(f"{tried}: level", level, got["level"])
    lab.expect(f"vm_irq_line() when KVM says {errno.errorcode[code]}", named(-code), named(refused["rc"]))


def eventfd_ioctl(lab):
    gsi, fd = lab.rng.randrange(24, 5000), lab.rng.randrange(1000, 1 << 20)
    code = lab.rng.choice([errno.EBUSY, errno.EINVAL])
    tries = [("irqfd", gsi, fd, 0), ("remove", gsi, fd, 0), ("irqfd", gsi, fd, code), ("remove", gsi, fd, code)]
    there, gone, *refused = cases(lab, "irqchip", tries)
    for name, flags, got in (("vm_irqfd()", 0, there), ("vm_irqfd_remove()", 1, gone)):
        tried = f"{name} of GSI {gsi}, eventfd {fd}"
        lab.expect(tried, "0", named(got["rc"]))
        lab.expect(f"{tried}: the ioctl", "KVM_IRQFD", got["request"])
        lab.expect(f"{tried}: on the VM's descriptor", "yes", yes(got["right_fd"]))
        lab.expect(f"{tried}: gsi", gsi, got["gsi"])
        lab.expect(f"{tried}: fd", fd, got["fd"])
        lab.expect(f"{tried}: flags (1: KVM_IRQFD_FLAG_DEASSIGN)", flags, got["flags"])
    for name, got in zip(("vm_irqfd()", "vm_irqfd_remove()"), refused):
        lab.expect(f"{name} when KVM says {errno.errorcode[code]}", named(-code), named(got["rc"]))
    lab.expect_true("vm_irqfd() refused: the error", "names KVM_IRQFD", "KVM_IRQFD" in refused[0]["error"],
                    refused[0]["error"] or "no text")  # fmt: skip


def reaches_pic(lab):
    lines = [lab.rng.randrange(3, 8), lab.rng.randrange(9, 16)]
    record = lab.driver("reach", *lines).record
    for gsi, got in zip(lines, record.get("cases", [])):
        if "stopped_at" in got:
            break
        tried = f"vm_irq_line() raises GSI {gsi}"
        lab.expect(tried, "0", named(got["up"]))
        lab.expect(f"{tried}: the PIC sees the line high", "yes", yes(got["high"]))
        lab.expect(f"{tried}: and requests an interrupt (IRR)", "yes", yes(got["requested"]))
        lab.expect(f"vm_irq_line() lowers GSI {gsi}", "0", named(got["down"]))
        lab.expect(f"vm_irq_line() lowers GSI {gsi}: the PIC sees it low", "yes", yes(got["low"]))
        tried = f"vm_irqfd() of GSI {gsi}"
        lab.expect_true(tried, "0", got["connected"] == 0, f"{named(got['connected'])}: {got['error']}")
        lab.expect(f"{tried}; somebody writes to the eventfd: the PIC requests an interrupt", "yes", yes(got["by_event"]))
        lab.expect(f"vm_irqfd_remove() of GSI {gsi}", "0", named(got["removed"]))
        lab.expect(f"vm_irqfd_remove(); somebody writes to the eventfd: the PIC requests an interrupt", "no",
                   yes(got["after_removal"]))  # fmt: skip
    stopped = record.get("stopped_at") or next((got["stopped_at"] for got in record.get("cases", []) if "stopped_at" in got), "")
    if stopped:
        raise CannotRun(f"{stopped} fails on this host")


# --- 4.4 from the pin to the controller ---


def wired(lab):
    gsi = lab.rng.randrange(3, 1000)
    levels = "1" + "".join(lab.rng.choice("01") for _ in range(12))
    code = lab.rng.choice([errno.ENXIO, errno.EINVAL])
    tries = [(1, gsi, 0, levels), (1, gsi, code, levels), (0, gsi, 0, levels)]
    good, refused, without = cases(lab, "board", tries)
    want, end = heard(gsi, False, levels)
    tried = f"gsi_line() of GSI {gsi}; a device sets its line to {', '.join(levels)}"
    lab.expect(f"{tried}: what KVM_IRQ_LINE tells the VM (+ up, - down)", want, good["told"])
    lab.expect(f"{tried}: the line's level in the end", int(end), good["level"])
    lab.expect(f"the same when KVM says {errno.errorcode[code]}: what KVM is told", want, refused["told"])
    lab.expect(f"the same when KVM says {errno.errorcode[code]}: the line's level", int(end), refused["level"])
    lab.expect(f"the same when KVM says {errno.errorcode[code]}: the machine", "goes on",
               "has ended" if refused["ended"] else "goes on")  # fmt: skip
    lab.expect("the same in a machine without controllers: what KVM is told", "nothing", without["told"] or "nothing")
    lab.expect("the same in a machine without controllers: the line's level", int(end), without["level"])


# --- 4.5 to 4.7: a 16550A, from its data sheet ---

RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
NAMES = ("RBR", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")
WRITTEN = {RBR: "THR", IIR: "FCR"}
FIFO, CLEAR_RX, LOOP, OUT2, DLAB = 1, 2, 0x10, 8, 0x80
DATA_READY, OVERRUN = 1, 2
NOTHING, LINE_STATUS, DATA, TIME_OUT, SENDER, MODEM = 1, 6, 4, 12, 2, 0


class Chip:
    """What a 16550A on an ideal line does."""

    def __init__(self):
        self.ier = self.fcr = self.lcr = self.mcr = self.scr = 0
        self.latch = [1, 0]
        self.msr = 0xB0
        self.overrun, self.sender_due = False, True
        self.waiting, self.sent = [], []
        self.level, self.edges = 0, 0

    def capacity(self):
        return 16 if self.fcr & FIFO else 1

    def pending(self):
        trigger = (1, 4, 8, 14)[self.fcr >> 6] if self.fcr & FIFO else 1
        count = len(self.waiting)
        found = ((4, self.overrun, LINE_STATUS), (1, count >= trigger, DATA), (1, count > 0, TIME_OUT),
                 (2, self.sender_due, SENDER), (8, self.msr & 15, MODEM))  # fmt: skip
        return next((name for bit, due, name in found if self.ier & bit and due), NOTHING)

    def settle(self):
        level = int(self.pending() != NOTHING and bool(self.mcr & OUT2) and not self.mcr & LOOP)
        self.edges += level > self.level
        self.level = level

    def arrive(self, data):
        for byte in data:
            full = len(self.waiting) == self.capacity()
            self.overrun |= full
            if not full:
                self.waiting.append(byte)
            elif not self.fcr & FIFO:
                self.waiting = [byte]
        self.settle()

    def type(self, data):
        taken = data[: 0 if self.mcr & LOOP else self.capacity() - len(self.waiting)]
        self.arrive(taken)
        return len(taken)

    def lines(self):
        if not self.mcr & LOOP:
            return 0xB0
        return sum(to for bit, to in ((1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)) if self.mcr & bit)

    def read(self, reg):
        value = self._read(reg)
        self.settle()
        return value

    def _read(self, reg):
        if self.lcr & DLAB and reg < 2:
            return self.latch[reg]
        if reg == RBR:
            return self.waiting.pop(0) if self.waiting else 0
        if reg == IIR:
            shown = self.pending()
            self.sender_due &= shown != SENDER
            return shown | (0xC0 if self.fcr & FIFO else 0)
        if reg == LSR:
            value = 0x60 | (DATA_READY if self.waiting else 0) | (OVERRUN if self.overrun else 0)
            self.overrun = False
            return value
        if reg == MSR:
            value, self.msr = self.msr, self.msr & 0xF0
            return value
        return {IER: self.ier, LCR: self.lcr, MCR: self.mcr, SCR: self.scr}[reg]

    def write(self, reg, value):
        if self.lcr & DLAB and reg < 2:
            self.latch[reg] = value
        elif reg == RBR:
            self._send(value)
        elif reg == IER:
            self.sender_due |= bool(value & ~self.ier & 2)
            self.ier = value & 15
        elif reg == IIR:
            self._fifo(value)
        elif reg == LCR:
            self.lcr = value
        elif reg == MCR:
            self._modem(value & 0x1F)
        elif reg == SCR:
            self.scr = value
        self.settle()

    def _send(self, value):
        self.sender_due = False
        self.settle()
        if self.mcr & LOOP:
            self.arrive([value])
        else:
            self.sent.append(value)
        self.sender_due = True

    def _fifo(self, value):
        if (value ^ self.fcr) & FIFO or value & FIFO and value & CLEAR_RX:
            self.waiting = []
        self.fcr = value & 0xC9 if value & FIFO else 0

    def _modem(self, value):
        before, self.mcr = self.msr, value
        after = self.lines()
        changed = before ^ after
        deltas = sum(to for bit, to in ((0x10, 1), (0x20, 2), (0x80, 8)) if changed & bit)
        self.msr = before & 15 | after | deltas | (4 if before & ~after & 0x40 else 0)


def told(op):
    """An operation of the driver's script, for a person."""
    if op[0] == "r":
        return f"read {NAMES[int(op[1])]}"
    if op[0] == "w":
        reg = int(op[1])
        return f"write {WRITTEN.get(reg, NAMES[reg])} 0x{op[3:]}"
    return f"{len(op) // 2} keys{' without asking' if op[0] == 'f' else ''}"


def perform(chip, op):
    """The same on our chip: (value, level, edges)."""
    if op[0] == "r":
        value = chip.read(int(op[1]))
    elif op[0] == "w":
        value = 0
        chip.write(int(op[1]), int(op[3:], 16))
    else:
        data = list(bytes.fromhex(op[1:]))
        value = chip.type(data) if op[0] == "k" else len(data)
        if op[0] == "f":
            chip.arrive(data)
    return value, chip.level, chip.edges


def compare(lab, scripts, pin=True):
    """Plays SCRIPTS, lists of operations, on the learner's chip and on ours: what the reads gave; with PIN what
    the line did, too; and what was sent."""
    for script, got in zip(scripts, cases(lab, "uart", [(" ".join(script),) for script in scripts])):
        chip = Chip()
        for i, (op, (value, level, edges, _)) in enumerate(zip(script, got["seen"])):
            want, want_level, want_edges = perform(chip, op)
            tried = f"a 16550A after reset: {'… ' if i > 9 else ''}{'; '.join(map(told, script[max(0, i - 9) : i + 1]))}"
            if op[0] == "r":
                lab.expect(f"{tried}: what it gives", f"{want:#04x}", f"{value:#04x}")
            elif op[0] != "w":
                lab.expect(f"{tried}: taken", want, value)
            if pin:
                lab.expect(f"{tried}: the pin", "high" if want_level else "low", "high" if level else "low")
                lab.expect(f"{tried}: rising edges so far", want_edges, edges)
        lab.expect("what the chip has sent", bytes(chip.sent).hex(), got["sent"])


def keys(lab, count, kind="k"):
    return kind + word(lab, count).hex()


def drained(count):
    return [f"r{LSR}", f"r{RBR}"] * count + [f"r{LSR}"]


def receive_fifo(lab):
    few = lab.rng.randrange(3, 12)
    on = f"w{IIR}=01"
    around = [on]
    for _ in range(12):
        count = lab.rng.randrange(1, 17)
        around += [keys(lab, count), *drained(count)]
    full = [on, keys(lab, 16), keys(lab, 1), f"r{RBR}", keys(lab, 3), *drained(16)]
    over = [on, keys(lab, 16 + few, "f"), *drained(17), keys(lab, 2, "f"), *drained(2)]
    looped = [on, f"w{MCR}={LOOP:02x}", *[f"w{RBR}={byte:02x}" for byte in word(lab, 16 + few)], *drained(17)]
    compare(lab, [[on, keys(lab, few), *drained(few)], around, full, over, looped, [on, *drained(2)]], pin=False)


def receive_buffer(lab):
    one = [keys(lab, 3), *drained(1), keys(lab, 1), *drained(2)]
    over = [keys(lab, 1, "f"), keys(lab, 1, "f"), *drained(2), keys(lab, 4, "f"), *drained(2)]
    looped = [f"w{MCR}={LOOP:02x}", *[f"w{RBR}={byte:02x}" for byte in word(lab, 5)], *drained(2)]
    compare(lab, [one, over, looped], pin=False)
    script = [keys(lab, 1), f"r{RBR}", f"w{IIR}=01", keys(lab, 5), f"r{RBR}", f"r{RBR}"]
    (got,) = cases(lab, "uart", [(" ".join(script),)])
    seen = [resumes for _, _, _, resumes in got["seen"]]
    for before in (0, 3, 4):
        lab.expect_true("the guest reads RBR and makes room", "the back end hears it (chr_resume())",
                        seen[before + 1] > seen[before], "it hears nothing")  # fmt: skip


def priorities(lab):
    """All five at once, then taken away one by one, and each enabled alone. The pin is 4.7's."""
    due = [f"w{IIR}=01", f"w{MCR}={LOOP:02x}", *[f"w{RBR}={byte:02x}" for byte in word(lab, 17)]]
    scripts = [[*due, f"w{IER}=0f", f"r{IIR}", f"r{LSR}", f"r{IIR}", *[f"r{RBR}"] * 16, f"r{IIR}", f"r{IIR}", f"r{MSR}", f"r{IIR}"]]
    scripts += [[*due, f"w{IER}={enabled:02x}", f"r{IIR}", f"r{IIR}"] for enabled in range(16)]
    few = [f"w{MCR}={LOOP:02x}", f"w{RBR}=41", f"r{MSR}"]
    scripts += [[*few, f"w{IER}={enabled:02x}", f"r{IIR}", f"r{IIR}", f"r{RBR}", f"r{IIR}"] for enabled in range(16)]
    # the sender's stays due while another hides it
    scripts.insert(0, [f"r{IIR}", f"w{IER}=03", keys(lab, 1), f"r{IIR}", f"r{IIR}", f"r{RBR}", f"r{IIR}", f"r{IIR}"])
    # lines that are up have not changed
    scripts.append([f"w{IER}=08", f"r{IIR}", f"w{MCR}=03", f"r{IIR}", f"r{MSR}", f"r{IIR}"])
    compare(lab, scripts, pin=False)


def trigger_levels(lab):
    scripts = []
    for fcr in (0x01, 0x41, 0x81, 0xC1):
        up = [f"r{IIR}", f"w{IER}=01", f"w{IIR}={fcr:02x}"]
        for _ in range(16):
            up += [keys(lab, 1), f"r{IIR}"]
        scripts.append([*up, *[f"r{RBR}", f"r{IIR}"] * 16])
    scripts.append([f"w{IER}=01", f"w{IIR}=c0", f"r{IIR}", keys(lab, 1), f"r{IIR}", f"r{RBR}", f"r{IIR}"])
    compare(lab, scripts, pin=False)


def pin_follows(lab):
    gate, shut = f"w{MCR}={OUT2:02x}", f"w{MCR}=00"
    loop = f"w{MCR}={OUT2 | LOOP:02x}"
    compare(lab, [
        [gate, f"w{IER}=01", keys(lab, 1), f"r{IIR}", f"r{RBR}", f"r{IIR}"],
        [f"w{IER}=01", keys(lab, 1), gate, shut, gate, loop, gate, f"r{RBR}"],
        [gate, keys(lab, 1), f"w{IER}=01", f"w{IER}=00", f"w{IER}=05", f"r{RBR}"],
        [gate, f"w{IER}=02", f"r{IIR}", f"w{IER}=02", f"r{IIR}", f"w{IER}=00", f"w{IER}=02", f"r{IIR}", f"r{IIR}"],
        [gate, f"w{IER}=ff", f"r{IER}", f"r{IIR}", f"r{MSR}"],
        [gate, f"w{IER}=04", f"w{IIR}=01", keys(lab, 18, "f"), f"r{LSR}", f"r{LSR}"],
        [gate, f"w{IER}=08", f"w{MCR}={OUT2 | LOOP:02x}", gate, f"r{MSR}"],
        [gate, f"w{IER}=01", f"w{IIR}=81", keys(lab, 12), *[f"r{RBR}"] * 12, keys(lab, 3), f"w{IIR}=83", f"r{IIR}"],
    ])  # fmt: skip


def sender_edges(lab):
    data = word(lab, 6)
    start = [f"w{MCR}={OUT2:02x}", f"w{IER}=02"]
    silent = [f"w{RBR}={byte:02x}" for byte in data]
    polite = [op for byte in data for op in (f"w{RBR}={byte:02x}", f"r{IIR}")]
    compare(lab, [[*start, *silent, f"r{IIR}"], [*start, f"r{IIR}", *polite], [f"w{MCR}={OUT2:02x}", *silent, f"w{IER}=02", f"r{IIR}"]])


def interrupts_guest(lab):
    """The guest does nothing but sleep; its handler sends the next byte each time the sender's interrupt comes."""
    data = word(lab, 40)
    code = f"""
    on 4, sent
    mov $text, %si
    mov ${len(data)}, %cx
    port 0x3fc, 8
    port 0x3f9, 2
1:  sti
    hlt
    cli
    cmp $0, %cx
    jne 1b
    finish
sent:
    mov $0x3fa, %dx
    in %dx, %al
    cmp $0, %cx
    je 2f
    lodsb
    mov $0x3f8, %dx
    out %al, %dx
    dec %cx
2:  done
    iret
text: {asm_bytes(data)}
"""
    expect_end(lab, "a guest sends a text to COM1, a byte for each interrupt of the sender (IRQ 4)", hv_guest(lab, code), data)


# --- 4.8 no key is lost ---


def delivered_in_order(lab):
    data = word(lab, 300)
    tries = [("pace", "300", data), ("pace", "5,0,3,292", data), ("pace", "0,300", data), ("pace", "400", data),
             ("pace", "7,0,0", data), ("pace", ",".join(["16"] * 19), data)]  # fmt: skip
    seen = cases(lab, "stream", [(part, rooms, text.hex()) for part, rooms, text in tries])
    for (_, rooms, text), got in zip(tries, seen):
        tried = f"300 bytes wait for a device that has room for {', then '.join(rooms.split(','))}"
        wanted, left = [], len(text)
        for room in map(int, rooms.split(",")):
            wanted.append(min(room, left))
            left -= wanted[-1]
        lab.expect(f"{tried}: bytes delivered each time", wanted, got["pieces"])
        lab.expect(f"{tried}: more than there was room for", "never", "never" if not got["too_much"] else f"{got['too_much']} times")
        lab.expect_true(f"{tried}: the bytes", "the right ones, in order", got["got"] == text[: sum(wanted)].hex(), "others")
        lab.expect(f"{tried}: times the device is asked while nothing happens", 0, got["asked_idle"])
    room = lab.rng.randrange(1, 200)
    (got,) = cases(lab, "stream", [("gone", room, data.hex())])
    tried = f"300 bytes wait; the device takes {room}, is detached, and comes back with room for all"
    lab.expect(f"{tried}: bytes that came", 300, len(got["got"]) // 2)
    lab.expect_true(f"{tried}: the bytes", "the right ones, in order", got["got"] == data.hex(), "others")


def no_lost_wake(lab):
    """Room is made just after the device has said that there is none: at the first question, or at a later one."""
    data = word(lab, 40)
    for when, got in zip((1, 2), cases(lab, "stream", [("gap", when, data.hex()) for when in (1, 2)])):
        tried = f"40 bytes wait; a vCPU makes room right after the device was asked {('once', 'twice')[when - 1]}, in vain"
        lab.expect(f"{tried}: bytes delivered when the loop has run", len(data), len(got["got"]) // 2)
        lab.expect(f"{tried}: more than there was room for", 0, got["too_much"])


# The receiver is disconnected while the FIFO is switched on, which would empty it.
ECHO = """
    port 0x3fc, 0x10
    mov $0x3fd, %dx
    in %dx, %al
    test $1, %al
    jz 1f
    call take
1:  port 0x3fa, 0x81
    on 4, received
    port 0x3f9, 1
    port 0x3fc, 8
2:  sti
    hlt
    cli
    cmpb $'.', last
    jne 2b
    finish
received:
3:  mov $0x3fd, %dx
    in %dx, %al
    test $1, %al
    jz 4f
    call take
    jmp 3b
4:  done
    iret
take:
    mov $0x3f8, %dx
    in %dx, %al
    mov %al, last
    out %al, $0xe9
    ret
last: .byte 0
"""


def typed_keys(lab):
    data = word(lab, lab.rng.randrange(1000, 1500)) + b"."
    run = hv_guest(lab, ECHO, stdin=data)
    tried = f"{len(data)} bytes typed into a guest that takes them in its handler and prints them"
    lab.expect(f"{tried}: bytes that came back", len(data), len(run.out))
    lab.expect_true(tried, "all of them in order", run.out == data, f"{run.out[:200]}")
    lab.expect(f"{tried}; then the end", f"exit status {STATUS_GUEST_OK}", run.how())


# --- 4.9 a gate ---


def gate_bytes(lab):
    tries = [(lab.rng.getrandbits(64), 8 * lab.rng.randrange(1, 100)) for _ in range(3)]
    tries += [(0xFFFF_FFFF_8010_2340, 8), (0x0000_0001_0000_8000, 0x10)]
    for (handler, selector), got in zip(tries, cases(lab, "gate", tries)):
        data = bytes.fromhex(got["bytes"])
        tried = f"interrupt_gate() of handler {handler:#x}, selector {selector:#x}"
        seen = [int.from_bytes(data[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 5), (5, 6), (6, 8), (8, 12), (12, 16))]
        names = ("offset 15:0", "selector", "IST", "present, DPL and type", "offset 31:16", "offset 63:32", "reserved")
        want = (handler & 0xFFFF, selector, 0, 0x8E, handler >> 16 & 0xFFFF, handler >> 32, 0)
        for name, expected, value in zip(names, want, seen):
            lab.expect(f"{tried}: {name}", f"{expected:#x}", f"{value:#x}")


# --- 4.10 two 8259A ---


class Pic:
    """An 8259A that remembers what it was told."""

    def __init__(self):
        self.words, self.mask, self.needs, self.ended = {}, None, [], []

    def command(self, value):
        if value & 0x10:
            self.words = {1: value}
            self.needs = [2] + ([] if value & 2 else [3]) + ([4] if value & 1 else [])
            self.mask = None
        elif not value & 8:
            self.ended.append(value)

    def data(self, value):
        if self.needs:
            self.words[self.needs.pop(0)] = value
        else:
            self.mask = value


def pics_after(writes):
    pics = {0x20: Pic(), 0xA0: Pic()}
    for port, value in writes:
        pic = pics.get(port & ~1)
        if pic:
            (pic.data if port & 1 else pic.command)(value)
    return pics[0x20], pics[0xA0]


def pic_words(lab):
    irqs = [*lab.rng.sample(range(8), 3), *lab.rng.sample(range(8, 16), 3)]
    first, *rest = cases(lab, "pic", [("init",), *[(irq,) for irq in irqs]])
    for name, pic, base, cascade in zip(("master", "slave"), pics_after(first["words"]), (0x20, 0x28), (4, 2)):
        tried = f"pic_init(): the {name}"
        lab.expect(f"{tried}: words until it is initialized", "ICW1 to ICW4",
                   "ICW1 to ICW4" if sorted(pic.words) == [1, 2, 3, 4] else f"ICW {sorted(pic.words)}")  # fmt: skip
        lab.expect(f"{tried}: triggered by edges, and one of two (ICW1, bits 3 and 1)", "0x0", f"{pic.words[1] & 0xA:#x}")
        lab.expect(f"{tried}: vector of line 0 (ICW2)", f"{base:#x}", f"{pic.words[2]:#x}")
        lab.expect(f"{tried}: where the other hangs (ICW3)", f"{cascade:#x}", f"{pic.words[3]:#x}")
        lab.expect(f"{tried}: 8086, end of interrupt is told, nothing else (ICW4)", "0x1", f"{pic.words[4]:#x}")
        lab.expect(f"{tried}: masked lines", "0xff", "none: the mask was not written" if pic.mask is None else f"{pic.mask:#x}")
    for irq, got in zip(irqs, rest):
        master, slave = pics_after(got["words"])
        tried = f"pic_done({irq})"
        lab.expect(f"{tried}: words", 2 if irq >= 8 else 1, len(got["words"]))
        lab.expect_true(f"{tried}: what the master hears", "an end of interrupt (0x20)",
                        master.ended in ([0x20], [0x60 | (irq if irq < 8 else 2)]), f"{master.ended}")  # fmt: skip
        if irq >= 8:
            lab.expect_true(f"{tried}: what the slave hears", "an end of interrupt (0x20)",
                            slave.ended in ([0x20], [0x60 | irq - 8]), f"{slave.ended}")  # fmt: skip


def ticks(lab):
    run = lab.hv("run", "--boot", "elf", "--kernel", f"{lab.tree}/build/guest/idt_timer.elf", limit=20)
    lines = [line for line in run.out.decode(errors="replace").splitlines() if line.startswith(("tick", "@"))]
    lab.expect("guest/idt_timer: five ticks through the IDT and the PIC", ["tick 1", "tick 2", "tick 3", "tick 4", "tick 5"],
               lines[:5])  # fmt: skip
    lab.expect("guest/idt_timer: its end", f"exit status {STATUS_GUEST_OK}", run.how())


# --- 4.11 a guest that ticks and listens ---


def answered(events):
    """What the guest sends for EVENTS, a list of (kind, bytes)."""
    out, count = b"", 0
    for kind, data in events:
        if kind == "t":
            count += 1
        for byte in data:
            out += b" %d\r\n" % count if byte in b"\r\n" else bytes([byte]).upper()
    return out + b"\r\n"


def handlers(lab):
    def typed(kind, length, end=b""):
        return kind, word(lab, length) + end

    tick = ("t", b"")
    many = [tick] * lab.rng.randrange(11, 40)
    tries = {
        "keys come one at a time": [typed("k", 1) for _ in range(8)] + [("k", b".")],
        "ticks between keys": [tick, typed("k", 1), *many, typed("k", 2), tick, ("k", b"\r"), tick, ("k", b".")],
        "several keys at once": [typed("k", 9), tick, typed("k", 5, b"\n"), ("k", b".")],
        "each key comes while the one before is answered": [typed("d", 12), tick, typed("d", 4, b"\r."),],
        "ticks alone, for a while": [*many, *many, ("k", b"\r"), ("k", b".")],
    }  # fmt: skip
    seen = cases(lab, "echo", [(" ".join(kind + data.hex() for kind, data in events),) for events in tries.values()])
    for (what, events), got in zip(tries.items(), seen):
        tried = f"uart_echo, compiled for the host: {what}"
        sent = bytes.fromhex(got["sent"])
        if got["slept_for_ever"]:
            lab.fail(f"{tried}, a full stop last", f"it sends {answered(events)} and ends", f"it sends {sent}, and sleeps for ever")
        lab.expect(f"{tried}: RBR read while nothing waits", "never", "never" if not got["spurious_read"] else "yes")
        lab.expect(f"{tried}: what it sends", answered(events), sent)
        lab.expect(f"{tried}: interrupts without an end (PIC, ISR)", 0, got["unended"])


def ticks_and_listens(lab):
    """Two lines, a second apart: each answer says how often the guest has ticked."""
    first, second = word(lab, 12), word(lab, 12)
    guest = f"{lab.tree}/build/guest/uart_echo.elf"
    answer = f"{first.decode().upper()} "
    run = talk(lab, "elf", guest, f"{first.decode()}\\r", answer, 1, f"printf '{second.decode()}\\r.' >&3")
    lines = run.out.decode(errors="replace").split()
    tried = "guest/uart_echo gets a line, and another one a second later"
    lab.expect(f"{tried}: the lines in upper case", [first.decode().upper(), second.decode().upper(), "."], lines[0::2])
    lab.expect(f"{tried}: its end", f"exit status {STATUS_GUEST_OK}", run.how())
    counts = [int(text) if text.isdigit() else -1 for text in lines[1::2]]
    lab.expect_true(f"{tried}: ticks in between, at 100 Hz", "at least 30", counts[1] - counts[0] >= 30, str(counts))


# --- the hostile guest ---


def storm(lab):
    """The line goes up and down as fast as the guest can write; the PIC has it masked. Afterwards one interrupt is
    requested, for a PIC remembers an edge and not how many."""
    data, count = word(lab, 8), 10000
    code = f"""
    port 0x3f9, 2
    mov $0x3fc, %dx
    mov ${count}, %cx
1:  mov $8, %al
    out %al, %dx
    xor %al, %al
    out %al, %dx
    loop 1b
    port 0x20, 0x0a
    in $0x20, %al
    and $0x10, %al
    out %al, $0xe9
    on 4, taken
    sti
    mov $50, %cx
2:  out %al, $0x80
    loop 2b
    cli
    mov count, %al
    add $'0', %al
    out %al, $0xe9
    mov $text, %si
    mov ${len(data)}, %cx
3:  lodsb
    out %al, $0xe9
    loop 3b
    finish
taken:
    incb count
    push %ax
    done
    pop %ax
    iret
count: .byte 0
text: {asm_bytes(data)}
"""
    run = hv_guest(lab, code, limit=20)
    tried = f"the guest toggles OUT2 {count:,} times while its sender's interrupt is due and the PIC has IRQ 4 masked"
    lab.expect(f"{tried}: the PIC's request register then, bit 4", b"\x10", run.out[:1])
    lab.expect(f"{tried}; it opens the mask: interrupts taken", b"1", run.out[1:2])
    lab.expect(f"{tried}; what it prints then", data, run.out[2:])
    lab.expect(f"{tried}; the end", f"exit status {STATUS_GUEST_OK}", run.how())


def deaf_guest(lab):
    data = word(lab, 251)  # no divisor of any buffer
    got = lab.driver("deaf", data.hex(), limit=15).record
    tried = f"{got['written']} bytes wait for a guest that reads nothing"
    kept = got["written"] - got["left"]
    lab.expect_true(f"{tried}: bytes that hv holds", "at most 1,024 read ahead and 16 in the chip", kept <= 1024 + 16, f"{kept}")
    lab.expect(f"{tried}: the event loop", "rests", "rests" if got["rested"] else "spins")
    tried = "the guest begins to read"
    lab.expect(f"{tried}: bytes that come", got["written"], got["read"])
    lab.expect(f"{tried}: wrong ones", 0, got["wrong"])


def garbage(lab):
    """Registers written and read at random, also with bits that mean nothing, while keys come."""
    scripts = []
    for _ in range(6):
        script = []
        for _ in range(250):
            what, reg = lab.rng.random(), lab.rng.randrange(8)
            if what < 0.15:
                script.append(keys(lab, lab.rng.randrange(1, 20), lab.rng.choice("kf")))
            elif what < 0.6:
                script.append(f"r{reg}")
            else:
                value = lab.rng.choice([0, 0xFF, 1 << lab.rng.randrange(8), lab.rng.randrange(256)])
                # the latch would hide half of the chip for long
                value &= 0x7F if reg == LCR and lab.rng.random() < 0.7 else 0xFF
                script.append(f"w{reg}={value:02x}")
        scripts.append(script)
    compare(lab, scripts)


def processor_time():
    """Seconds that processes of ours have used and that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def asleep(lab):
    """HLT with nothing that could wake it: all lines masked, while keys come and interrupts are due."""
    start = processor_time()
    run = hv_guest(lab, "port 0xe9, 'x'\n finish")
    expect_end(lab, "a guest prints and ends the machine", run, b"x")
    base = processor_time() - start
    letter = word(lab, 1)
    code = f"port 0x3f9, 1\n port 0x3fc, 8\n port 0xe9, {letter[0]}\n sti\n hlt\n port 0xe9, '!'\n finish"
    guest = lab.guest(PROLOGUE + code)
    start = processor_time()
    run = talk(lab, "flat", guest, word(lab, 200).decode(), letter.decode(), 2, "kill -TERM $hv")
    used = processor_time() - start - base
    tried = "a guest prints a letter, then sleeps with all lines masked while keys come; after 2 s hv is sent SIGTERM"
    lab.expect(f"{tried}: the output", letter, run.out)
    lab.expect(f"{tried}: the end", "by SIGTERM", "by SIGTERM" if run.how() in BY_SIGTERM else run.how())
    lab.expect_true(f"{tried}: processor time", "less than 1 s", used < 1.0, f"{used:.1f} s")
