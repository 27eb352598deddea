"""Lab 01's checks: one function for each [[check]] of lab.toml.

Exercises 1.1 to 1.5 are observed by drivers that call the one function (drivers/*.c), 1.6 and 1.7 by running
hv: with guests under KVM, and with exits of our making (drivers/fake_kvm.c).
"""

import errno
import json
import os
import string

from grading import CannotRun

PORT = 0xE9
STATUS_OK, STATUS_TRIPLE_FAULT, STATUS_CRASH = 0, 12, 14
EXIT_SHUTDOWN = 8
KNOWN_EXITS = {2, 5, 6, 7, 8, 10, 24}  # IO, HLT, SHUTDOWN, and those that later labs serve
NAMED_EXITS = {9: "FAIL_ENTRY", 17: "INTERNAL_ERROR"}
# without an interrupt controller HLT comes to hv, in every lab
RUN = ["run", "--boot", "flat"]


# --- helpers ---


def hex_bytes(data):
    return bytes(data).hex()


def word(lab, length):
    """Text that nobody can know beforehand."""
    return "".join(lab.rng.choice(string.ascii_letters + string.digits) for _ in range(length)).encode()


def asm_bytes(data):
    return ".byte " + ", ".join(f"{byte:#x}" for byte in data)


def exit_lines(exits):
    return [f"{name} port or address {place:#x}, byte {byte:#04x}" if name in ("IO", "MMIO") else name
            for name, place, byte, _ in exits]  # fmt: skip


def cases(lab, driver, tries, *first):
    """Runs a driver with one group of arguments for each of TRIES: what it saw in each."""
    words = [word for numbers in tries for word in numbers]
    seen = lab.driver(driver, *first, *words).record.get("cases", [])
    lab.expect(f"the driver {driver}: cases reported", len(tries), len(seen))
    return seen


def hv_guest(lab, code, limit=None, **options):
    return lab.hv(*RUN, "--kernel", lab.guest(code), limit=limit, **options)


def expect_end(lab, tried, run, out, status=STATUS_OK):
    """The guest printed OUT, no more and no less, and hv ended with STATUS."""
    lab.expect(tried, out, run.out)
    lab.expect(f"{tried}; then the end", f"exit status {status}", run.how())


def expect_output(lab, tried, run, out):
    """The guest printed OUT; how the machine ends is another exercise's business."""
    lab.expect(tried, out, run.out)


def fake_exits(lab, *script):
    """Runs hv on a KVM that plays SCRIPT: (run, the report of fake_kvm.c)."""
    library = lab.library("fake_kvm")
    hv = os.path.join(lab.tree, "build/release/hv")
    words = ["env", f"LD_PRELOAD={library}", f"FAKE_EXITS={' '.join(script)}", hv]
    run = lab.run([*words, *RUN, "--kernel", lab.guest(b"\xf4")], report=True)
    try:
        return run, json.loads(run.report)
    except ValueError:
        return run, {}


# --- 1.1 kvm_open() ---


def kvm_answers(lab):
    size = 4096 * lab.rng.randrange(2, 40)
    tried = f"kvm_open() of a KVM with version 12 and a run structure of {size} bytes"
    got = cases(lab, "open", [(12, size)], "/dev/null")[0]
    lab.expect(tried, "0", named(got["rc"]))
    lab.expect(f"{tried}: KVM_GET_API_VERSION", "asked once", times(got["asked_version"]))
    lab.expect(f"{tried}: KVM_GET_VCPU_MMAP_SIZE", "asked once", times(got["asked_size"]))
    lab.expect(f"{tried}: kvm.run_size", size, got["run_size"])
    lab.expect(f"{tried}: kvm.fd", "open", "open" if got["is_open"] else "not open")


def times(count):
    return {0: "never asked", 1: "asked once"}.get(count, f"asked {count} times")


def kvm_refused(lab):
    size = 4096 * lab.rng.randrange(2, 40)
    small = lab.rng.randrange(1, 2000)
    tries = [
        (f"a KVM with API version {version}", version, size) for version in (lab.rng.randrange(1, 12), 13, -errno.ENOTTY)
    ]
    tries += [(f"a run structure of {small} bytes", 12, small), ("a run size that fails", 12, -errno.EINVAL)]
    for (what, *_), got in zip(tries, cases(lab, "open", [numbers for _, *numbers in tries], "/dev/null")):
        tried = f"kvm_open() of {what}"
        lab.expect(tried, f"-ENOTSUP ({-errno.ENOTSUP})", named(got["rc"]))
        lab.expect(f"{tried}: descriptors left open", 0, got["opened"])
        lab.expect(f"{tried}: *out", "untouched", "untouched" if got["untouched"] else "changed")
        lab.expect_true(f"{tried}: the error", "a sentence", got["error"] != "", "no text")


def named(code):
    if code < 0 and -code in errno.errorcode:
        name = {"EOPNOTSUPP": "ENOTSUP"}.get(errno.errorcode[-code], errno.errorcode[-code])
        return f"-{name} ({code})"
    return str(code)


# --- 1.2 vm_set_memory() ---


def slot_fields(lab):
    wanted = {
        "slot": lab.rng.randrange(1, 500),
        "guest_phys_addr": 4096 * lab.rng.randrange(1, 1 << 24),
        "memory_size": 4096 * lab.rng.randrange(1 << 20, 1 << 22),
        "userspace_addr": 4096 * lab.rng.randrange(1 << 30, 1 << 34),
        "flags": lab.rng.choice([1, 2, 3]),
    }
    args = [wanted[name] for name in ("slot", "guest_phys_addr", "memory_size", "userspace_addr", "flags")]
    code = lab.rng.choice([errno.EINVAL, errno.EEXIST, errno.ENOMEM])
    got, refused = cases(lab, "slot", [(*args, 0), (*args, code)])
    tried = "vm_set_memory() with numbers drawn by lot"
    lab.expect(tried, "0", named(got["rc"]))
    lab.expect(f"{tried}: KVM_SET_USER_MEMORY_REGION", "asked once", times(got["calls"]))
    lab.expect_true(f"{tried}: the ioctl's descriptor", "the VM's", got["right_fd"], "another")
    for name, value in wanted.items():
        lab.expect(f"{tried}: {name}", value, got[name])
    lab.expect(f"vm_set_memory() when KVM says {errno.errorcode[code]}", named(-code), named(refused["rc"]))
    lab.expect_true("vm_set_memory() that KVM refuses: its error", f"a sentence that names slot {wanted['slot']}",
                    str(wanted["slot"]) in refused["error"], refused["error"])  # fmt: skip


def slot_memory(lab):
    """The guest adds one to a byte that the host put into its memory, and leaves it beside it."""
    value = lab.rng.randrange(1, 250)
    code = lab.guest(f"mov 0x1000, %al\n inc %al\n mov %al, 0x1001\n hlt\n .org 0x100\n.byte {value}", origin=0xF00)
    got = bare(lab, "memory", code, gpa=0xF00).record
    tried = "a guest that reads a byte at 0x1000, adds 1 and writes it to 0x1001"
    must_run(lab, tried, got, "HLT")
    lab.expect(tried, value + 1, got["rax"] & 0xFF, exit_lines(got["exits"]))
    end = lab.rng.choice([0x10000, 0x18000, 0x20000])
    code = lab.guest(f"mov ${(end - 0x1000) >> 4:#x}, %ax\n mov %ax, %ds\n movb $7, 0xfff\n movb $8, 0x1000\n hlt")
    got = bare(lab, "memory", code, size=end).record
    tried = f"a guest with {end:#x} bytes writes its last byte, then the one after it"
    must_run(lab, tried, got, "MMIO")
    lab.expect(tried, f"an MMIO exit at {end:#x}", f"an MMIO exit at {got['exits'][-1][1]:#x}", exit_lines(got["exits"]))


def bare(lab, part, path, gpa=0x7C00, cs=0, ip=None, size=0x40000):
    with open(path, "rb") as file:
        code = file.read()
    return lab.driver("bare", part, gpa, cs, gpa if ip is None else ip, size, hex_bytes(code))


def must_run(lab, tried, got, last):
    """The driver's monitor came to its loop, and the guest's last exit was LAST."""
    if got.get("stopped_at") == "/dev/kvm":
        raise CannotRun(f"/dev/kvm cannot be opened: {os.strerror(-got['rc'])}")
    if "stopped_at" in got:
        lab.fail(tried, "a guest that runs", f"{got['stopped_at']}() gave {named(got['rc'])}: {got['error']}")
    lab.expect(f"{tried}: the last call to run it", "0", named(got["rc"]), exit_lines(got["exits"]))
    names = [line[0] for line in got["exits"]]
    lab.expect(f"{tried}: its last exit", last, names[-1] if names else "none", exit_lines(got["exits"]))


# --- 1.3 vcpu_create() ---


def vcpu_mapped(lab):
    number, size = lab.rng.randrange(1, 200), 4096 * lab.rng.randrange(2, 16)
    got = cases(lab, "vcpu", [(number, size, 0, 0)])[0]
    tried = f"vcpu_create() of vCPU {number}, run structure of {size} bytes"
    lab.expect(tried, "0", named(got["rc"]))
    lab.expect(f"{tried}: KVM_CREATE_VCPU", "asked once", times(got["calls"]))
    lab.expect_true(f"{tried}: the ioctl's descriptor", "the VM's", got["right_fd"], "another")
    lab.expect(f"{tried}: the id that KVM was given", number, got["id_asked"])
    lab.expect(f"{tried}: mappings made", 1, got["maps"])
    lab.expect_true(f"{tried}: what was mapped", "the vCPU's descriptor", got["map_fd_right"], "another")
    lab.expect(f"{tried}: bytes mapped", size, got["map_length"])
    lab.expect(f"{tried}: offset", 0, got["map_offset"])
    lab.expect_true(f"{tried}: the mapping", "shared with the kernel", got["map_shared"], "private")
    lab.expect_true(f"{tried}: the mapping", "readable and writable", got["map_writable"], "something else")
    lab.expect(f"{tried}: vcpu.id", number, got["id"])
    lab.expect(f"{tried}: vcpu.run_size", size, got["run_size"])
    lab.expect_true(f"{tried}: vcpu.fd", "what KVM gave", got["fd_kept"], "something else")
    lab.expect_true(f"{tried}: vcpu.run", "the mapping", got["run_kept"], "something else")


def vcpu_refused(lab):
    number = lab.rng.randrange(1, 200)
    code = lab.rng.choice([errno.EEXIST, errno.EINVAL, errno.ENOMEM])
    other = lab.rng.choice([errno.ENOMEM, errno.EAGAIN, errno.ENODEV])  # not EPERM: -1 would pass for it
    seen = cases(lab, "vcpu", [(number, 8192, code, 0), (number, 8192, 0, other)])
    for what, want, got in zip(("KVM_CREATE_VCPU", "mmap"), (code, other), seen):
        tried = f"vcpu_create() when {what} fails with {errno.errorcode[want]}"
        lab.expect(tried, named(-want), named(got["rc"]))
        lab.expect(f"{tried}: descriptors left open", 0, got["opened"])
        lab.expect(f"{tried}: *out", "untouched", "untouched" if got["untouched"] else "changed")
        lab.expect_true(f"{tried}: its error", f"a sentence that names vCPU {number}", str(number) in got["error"],
                        got["error"])  # fmt: skip


# --- 1.4 vcpu_run() ---


def run_guest(lab):
    data = [lab.rng.randrange(1, 256) for _ in range(lab.rng.randrange(4, 9))]
    lines = "\n".join(f"mov ${byte}, %al\n out %al, ${PORT}" for byte in data)
    got = bare(lab, "run", lab.guest(lines + "\n mov $0x1234, %bx\n hlt")).record
    tried = f"a guest that writes {len(data)} bytes to port 0xe9, then halts"
    must_run(lab, tried, got, "HLT")
    lab.expect(tried, data, [line[2] for line in got["exits"][:-1]], exit_lines(got["exits"]))
    lab.expect(f"{tried}: its BX", 0x1234, got["rbx"], exit_lines(got["exits"]))


def run_interrupted(lab):
    answers = {errno.EINTR: errno.EINTR, errno.EAGAIN: errno.EINTR, errno.EFAULT: errno.EFAULT, errno.ENOMEM: errno.ENOMEM}
    *failed, good = cases(lab, "enter", [(code,) for code in (*answers, 0)])
    for (code, want), got in zip(answers.items(), failed):
        tried = f"vcpu_run() when KVM_RUN fails with {errno.errorcode[code]}"
        lab.expect(tried, named(-want), named(got["rc"]))
        lab.expect(f"{tried}: KVM_RUN", "asked once", times(got["calls"]))
    lab.expect("vcpu_run() when KVM_RUN succeeds", "0", named(good["rc"]))
    lab.expect_true("vcpu_run(): the ioctl's descriptor", "the vCPU's", good["right_fd"], "another")


# --- 1.5 x86_real_mode() ---

DATA = {"selector": 0, "base": 0, "limit": 0xFFFF, "s": 1, "dpl": 0, "present": 1, "db": 0, "l": 0, "g": 0,
        "unusable": 0}  # fmt: skip


def real_state(lab):
    tries = [(lab.rng.randrange(1, 0xF000), poison) for poison in (0, 0xFF, lab.rng.randrange(1, 255))]
    for (cs, poison), got in zip(tries, cases(lab, "modes", tries)):
        tried = f"x86_real_mode() with CS {cs:#x}, on registers full of {poison:#04x}"
        check_segment(lab, tried, "cs", got["cs"], {**DATA, "selector": cs, "base": cs * 16})
        lab.expect(f"{tried}: cs.type", "code, readable, accessed", code_type(got["cs"]["type"]))
        for name in ("ds", "es", "fs", "gs", "ss"):
            check_segment(lab, tried, name, got[name], DATA)
            lab.expect(f"{tried}: {name}.type", "data, writable, accessed", data_type(got[name]["type"]))
        for name, clear in (("cr0", 0xFFFFFFFF & ~0x10), ("cr4", 0xFFFFFFFF), ("efer", 0xFFFFFFFF)):
            lab.expect(f"{tried}: bits of {name} that must be clear", 0, got[name] & clear)
        lab.expect(f"{tried}: the interrupt vector table", "at 0x0, limit 0x3ff",
                   f"at {got['idt_base']:#x}, limit {got['idt_limit']:#x}")  # fmt: skip
        lab.expect(f"{tried}: tr", "present, busy TSS", task_register(got["tr"]))
        lab.expect(f"{tried}: ldt.unusable", 1, got["ldt"]["unusable"])


def check_segment(lab, tried, name, got, want):
    for field, value in want.items():
        lab.expect(f"{tried}: {name}.{field}", value, got[field])


def code_type(kind):
    return "code, readable, accessed" if kind == 11 else f"type {kind}"


def data_type(kind):
    return "data, writable, accessed" if kind == 3 else f"type {kind}"


def task_register(got):
    if got["present"] == 1 and got["s"] == 0 and got["unusable"] == 0 and got["type"] in (3, 11):
        return "present, busy TSS"
    return f"present {got['present']}, s {got['s']}, type {got['type']}, unusable {got['unusable']}"


def real_fetch(lab):
    """Code far up, in a segment of its own; the data it reads is at the bottom, through DS."""
    segment, ip = lab.rng.randrange(0x1000, 0x3000), 16 * lab.rng.randrange(1, 16)
    data = [lab.rng.randrange(1, 256) for _ in range(3)]
    low = "\n".join(f"movb ${byte}, {0x500 + i:#x}" for i, byte in enumerate(data))
    reads = "\n".join(f"mov {0x500 + i:#x}, %al\n out %al, ${PORT}" for i in range(len(data)))
    code = lab.guest(f"{low}\n{reads}\n mov %cs, %bx\n hlt", origin=ip)
    got = bare(lab, "modes", code, gpa=segment * 16 + ip, cs=segment, ip=ip).record
    tried = f"a guest entered at {segment:#x}:{ip:#x} that writes and reads bytes at DS:0x500"
    must_run(lab, tried, got, "HLT")
    lab.expect(tried, data, [line[2] for line in got["exits"][:-1]], exit_lines(got["exits"]))
    lab.expect(f"{tried}: the bytes at physical 0x500", hex_bytes(data), got["page"][0xA00:0xA06])
    lab.expect(f"{tried}: its CS", segment, got["rbx"] & 0xFFFF, exit_lines(got["exits"]))


# --- 1.6 serve_io() ---

PRINT = f"mov $text, %si\n1: lodsb\n out %al, ${PORT}\n dec %cx\n jnz 1b\n"


def port_output(lab):
    data = word(lab, 24) + b"\n"
    run = hv_guest(lab, f"mov ${len(data)}, %cx\n{PRINT} hlt\ntext: {asm_bytes(data)}")
    expect_output(lab, "a guest writes to port 0xe9, a byte at a time", run, data)


def outs(lab, data, width, suffix, tail="hlt"):
    """A guest that sends DATA's bytes by one REP OUTS of WIDTH; the upper bytes are for nobody."""
    padded = b"".join(bytes([byte]) + word(lab, width - 1) for byte in data)
    return f"mov ${PORT}, %dx\n mov $text, %si\n mov ${len(data)}, %cx\n cld\n rep outs{suffix}\n{tail}\ntext: {asm_bytes(padded)}"


def string_output(lab):
    data = word(lab, lab.rng.randrange(20, 200))
    expect_output(lab, "one rep outsb of many bytes", hv_guest(lab, outs(lab, data, 1, "b")), data)
    data = word(lab, lab.rng.randrange(5, 50))
    expect_output(lab, "one rep outsw: of each word the low byte is the port's", hv_guest(lab, outs(lab, data, 2, "w")),
               data)  # fmt: skip
    data = word(lab, 7)
    code = f"mov ${PORT}, %dx\n mov $end - 1, %si\n mov $7, %cx\n std\n rep outsb\n hlt\ntext: {asm_bytes(data)}\nend:"
    expect_output(lab, "rep outsb downwards", hv_guest(lab, code), data[::-1])
    data = word(lab, 9)
    run, _ = fake_exits(lab, f"out:{PORT}:1:{hex_bytes(data)}")
    expect_output(lab, f"one KVM_EXIT_IO with a count of {len(data)}", run, data)
    count = lab.rng.randrange(3, 20)
    for width, element in ((1, "e9"), (2, "e9ff")):
        _, got = fake_exits(lab, f"in:{PORT}:{width}:{count}")
        lab.expect(f"INS of {count} elements of {width} from port 0xe9, which reads as its number",
                   element * count, got.get("answer"))  # fmt: skip


# --- 1.7 end_by_exit() ---


def halt(lab):
    data = word(lab, 5)
    code = f"mov $5, %cx\n{PRINT} hlt\n mov $'!', %al\n out %al, ${PORT}\n hlt\ntext: {asm_bytes(data)}"
    expect_end(lab, "a guest prints, halts, and would print more if it were let", hv_guest(lab, code), data)


def shutdown(lab):
    data = word(lab, 4)
    run, _ = fake_exits(lab, f"out:{PORT}:1:{hex_bytes(data)}", f"reason:{EXIT_SHUTDOWN}",
                        f"out:{PORT}:1:{hex_bytes(b'more')}")  # fmt: skip
    expect_end(lab, "the guest prints, then KVM_EXIT_SHUTDOWN", run, data, STATUS_TRIPLE_FAULT)


def unknown_exit(lab):
    unused = lab.rng.choice([number for number in range(1, 40) if number not in KNOWN_EXITS | NAMED_EXITS.keys()])
    data = word(lab, 4)
    for number in (unused, 1000 + unused, *NAMED_EXITS):
        tried = f"the guest prints, then exit reason {number}"
        run, _ = fake_exits(lab, f"out:{PORT}:1:{hex_bytes(data)}", f"reason:{number}",
                            f"out:{PORT}:1:{hex_bytes(b'more')}")  # fmt: skip
        expect_end(lab, tried, run, data, STATUS_CRASH)
        name = f"KVM_EXIT_{NAMED_EXITS.get(number, '')}"
        told = name.encode() in run.err and f"exit reason {number})".encode() in run.err
        lab.expect_true(f"{tried}: hv's report", f"names {name} and exit reason {number}", told,
                        run.err.decode(errors="replace").strip())  # fmt: skip


# --- the hostile guest ---


def stale_bytes(lab):
    """INS from a port where nothing is: what comes must be ones, not what lay in hv's memory."""
    port = lab.rng.randrange(0x1000, 0xF000)
    run, got = fake_exits(lab, f"out:{PORT}:1:{hex_bytes(word(lab, 8))}", f"in:{port}:1:8")
    lab.expect(f"INS of 8 bytes from port {port:#x}, where nothing is", "f" * 16, got.get("answer"))
    run, got = fake_exits(lab, f"in:{port}:2:6", f"in:{port}:4:3")
    lab.expect(f"INS of 3 long words from port {port:#x}", "f" * 24, got.get("answer"))
    data = word(lab, 6)
    code = (f"mov ${port}, %dx\n in %dx, %al\n cmp $0xff, %al\n jne 2f\n mov $6, %cx\n {PRINT}\n2: hlt\n"
            f"text: {asm_bytes(data)}")  # fmt: skip
    run = hv_guest(lab, code)
    expect_end(lab, f"a guest prints if port {port:#x} reads 0xff", run, data)


def wrong_ports(lab):
    data = word(lab, 6)
    ports = [0, 0xFFFF, PORT - 2, PORT + 1, 0xFFFD] + [lab.rng.randrange(0x1000, 0xF000) for _ in range(8)]
    lines = "\n".join(f"mov ${port}, %dx\n mov $0x2a2a2a2a, %eax\n out %al, %dx" for port in ports)
    wide = "\n".join(f"mov ${port}, %dx\n out %eax, %dx\n in %dx, %eax" for port in (0xFFFD, 0xFFFF, 0x2000))
    run = hv_guest(lab, f"{lines}\n{wide}\n mov $6, %cx\n{PRINT} hlt\ntext: {asm_bytes(data)}")
    expect_end(lab, "a guest writes to ports where nothing is, then prints", run, data)


def flood(lab):
    """One instruction, the most bytes that CX can count; the guest's own memory is what is printed."""
    data = word(lab, 64)
    code = (f"mov $text, %si\n mov $0x1000, %ax\n mov %ax, %es\n xor %di, %di\n cld\n mov $1023, %bx\n"
            f"1: mov $text, %si\n mov $64, %cx\n rep movsb\n dec %bx\n jnz 1b\n"
            f" mov %es, %ax\n mov %ax, %ds\n xor %si, %si\n mov ${PORT}, %dx\n mov $65472, %cx\n rep outsb\n hlt\n"
            f"text: {asm_bytes(data)}")  # fmt: skip
    run = hv_guest(lab, code)
    tried = "rep outsb of 65,472 bytes"
    lab.expect(f"{tried}: bytes that came", 65472, len(run.out))
    lab.expect_true(tried, "all of them in order", run.out == data * 1023, "other bytes")
    lab.expect(f"{tried}; then HLT", f"exit status {STATUS_OK}", run.how())
    # KVM decides how many elements an exit has: up to a page of them
    data = word(lab, 4096)
    run, _ = fake_exits(lab, f"out:{PORT}:1:{hex_bytes(data)}")
    lab.expect("one KVM_EXIT_IO with a count of 4096: bytes that came", 4096, len(run.out))
    lab.expect_true("one KVM_EXIT_IO with a count of 4096", "all of them in order", run.out == data, "other bytes")


def spinning(lab):
    """Signals while the guest runs: harmless ones change nothing, SIGTERM ends a guest without exits."""
    data = word(lab, 6)
    half = [f"out:{PORT}:1:{hex_bytes(part)}" for part in (data[:3], data[3:])]
    run, _ = fake_exits(lab, "EINTR", "EINTR", half[0], "EAGAIN", "EINTR", half[1])
    expect_end(lab, "KVM_RUN is interrupted before and between two exits", run, data)
    guest = lab.guest(f"mov $6, %cx\n{PRINT} 1: jmp 1b\ntext: {asm_bytes(data)}")
    hv = os.path.join(lab.tree, "build/release/hv")
    run = lab.run(["timeout", "--signal=TERM", "--kill-after=5", "1", hv, *RUN, "--kernel", guest], limit=12)
    tried = "a guest prints, then loops for ever; after 1 s hv is sent SIGTERM"
    lab.expect(f"{tried}: the output", data, run.out)
    lab.expect(f"{tried}: the end", "soon after (timeout's status 124)", "soon after (timeout's status 124)"
               if run.status == 124 else f"{run.how()}, after {run.seconds:.1f} s")  # fmt: skip
