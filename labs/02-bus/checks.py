"""Lab 02's checks: one function for each [[check]] of lab.toml.

Drivers (drivers/*.c) call the learner's functions and say what they saw; what they should have seen is worked
out here, by models that are written to be obviously right (a walk over regions, one byte at a time). Guests
run under hv itself where the whole chain counts.
"""

import errno
import os
import string

from grading import CannotRun

DEBUG, COM1 = 0xE9, 0x3F8
TOP = (1 << 64) - 1
PAGE = 4096
STATUS_OK = 0
RUN = ["run", "--boot", "flat", "--memory", "1M"]
RAM_END = 0x100000


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


def cases(lab, driver, tries, *first):
    """Runs a driver with one argument for each of TRIES: what it saw in each."""
    seen = lab.driver(driver, *first, *tries).record.get("cases", [])
    lab.expect(f"the driver {driver}: cases reported", len(tries), len(seen))
    return seen


def hv_guest(lab, code, *options, **more):
    return lab.hv(*RUN, *options, "--kernel", lab.guest(code), **more)


def expect_guest(lab, tried, run, out):
    """The guest's output was OUT, and it came to its HLT."""
    lab.expect(tried, out, run.out)
    lab.expect(f"{tried}; then HLT", f"exit status {STATUS_OK}", run.how())


# --- a model of guest memory: [(gpa, size, kind), …] ---


def some_memory(lab):
    """RAM, RAM next to it, a hole, RAM, ROM next to that, a hole, and a page of RAM almost at the top."""
    # the second one does not lie at a multiple of its size
    a, b = PAGE * lab.rng.choice([1, 3]), 2 * PAGE
    c, d = (PAGE * lab.rng.randrange(1, 4) for _ in range(2))
    after = a + b + PAGE * lab.rng.randrange(1, 1000)
    return [(0, a, "ram"), (a, b, "ram"), (after, c, "ram"), (after + c, d, "rom"), (TOP + 1 - 2 * PAGE, PAGE, "ram")]


def regions(memory):
    """The arguments that make the driver's memory like it."""
    return [f"{kind}:{gpa:#x}:{size:#x}" for gpa, size, kind in memory]


def drawn(memory):
    return ", ".join(f"{kind.upper()} {gpa:#x} to {gpa + size - 1:#x}" for gpa, size, kind in memory)


def region_at(memory, gpa):
    return next((each for each in memory if each[0] <= gpa < each[0] + each[1]), None)


def may(memory, gpa, length, rom):
    """Do LENGTH bytes at GPA lie in memory (ROM counts only if ROM)?"""
    while length > 0:
        region = region_at(memory, gpa)
        if region is None or region[2] == "rom" and not rom:
            return False
        here = region[0] + region[1] - gpa
        gpa, length = gpa + here, length - here
    return True


def pattern(gpa):
    """What the driver has put at an address."""
    gpa &= TOP
    return (gpa * 31 + (gpa >> 8) * 7 + 1) & 0xFF


def data_at(i):
    """What it writes."""
    return ~(i * 13 + (i >> 8)) & 0xFF


READS_ROM = {"read": True, "write": False, "rom_write": True, "zero": False}


def accesses(lab, memory):
    """[(gpa, length)]: at, around and across the borders, of small and large lengths, none absurd."""
    found = []
    for gpa, size, _ in memory:
        at = gpa + lab.rng.randrange(1, size - 1)
        found += [(gpa, 1), (gpa, size), (gpa + size - 1, 1), (gpa + size - 1, 2), (gpa, size + 1),
                  (at, lab.rng.randrange(1, 2 * PAGE)), (gpa + size, 1)]  # fmt: skip
        found += [(gpa - 1, 2)] if gpa > 0 else []
    first, second, third, rom = memory[:4]
    found += [(first[0] + 1, first[1] + second[1] - 2), (0, first[1] + second[1]), (third[0] + 3, third[1] + rom[1] - 3)]
    return list(dict.fromkeys((gpa & TOP, length) for gpa, length in found))


def hostile_accesses(lab, memory):
    """[(gpa, length)] with lengths that make gpa + length wrap around, or come out inside memory again."""
    found = []
    for gpa, size, _ in memory:
        at = gpa + lab.rng.randrange(1, size)
        found += [(at, TOP), (at, TOP - at + 1), (at, TOP + 1 - at + lab.rng.randrange(1, memory[0][1])),
                  (at, 1 << 63), (gpa + size - 1, TOP)]  # fmt: skip
    found += [(TOP, 1), (TOP, 2), (TOP - 7, 16), (TOP, TOP), (1 << 63, 1 << 63)]
    return [(gpa, length & TOP) for gpa, length in found]


def told(what, gpa, length, memory):
    return f"{what} of {length:#x} bytes at {gpa:#x} (there is {drawn(memory)})"


# --- 2.1 mem_ptr(), is_allowed() ---


def pointer(lab):
    memory = some_memory(lab)
    places = accesses(lab, memory)
    tries = [(gpa, length, write) for gpa, length in places for write in (0, 1)]
    seen = cases(lab, "mem", [f"ptr:{gpa:#x}:{length:#x}:{write}" for gpa, length, write in tries], *regions(memory))
    for (gpa, length, write), got in zip(tries, seen):
        expect_pointer(lab, memory, gpa, length, write, got)


def expect_pointer(lab, memory, gpa, length, write, got):
    region = region_at(memory, gpa)
    good = region is not None and gpa + length <= region[0] + region[1] and not (write and region[2] == "rom")
    where = {-1: "NULL", -2: "a pointer out of all regions"}.get(got["region"], f"a pointer to {got['leads_to']:#x}")
    lab.expect(told(f"mem_ptr() to {'write' if write else 'read'}", gpa, length, memory),
               f"a pointer to {gpa:#x}" if good else "NULL", where)  # fmt: skip


def ranges(lab):
    memory = some_memory(lab)
    tries = [(what, gpa, length) for gpa, length in accesses(lab, memory) for what in READS_ROM]
    seen = cases(lab, "mem", [f"{what}:{gpa:#x}:{length:#x}" for what, gpa, length in tries], *regions(memory))
    for (what, gpa, length), got in zip(tries, seen):
        allowed = may(memory, gpa, length, READS_ROM[what])
        lab.expect(told(f"mem_{what}()", gpa, length, memory), "allowed" if allowed else f"-EFAULT ({-errno.EFAULT})",
                   answer(got, "allowed" if allowed else None))  # fmt: skip


def answer(got, good=None):
    """What the driver saw a call return; GOOD: what to call anything but -EFAULT."""
    if "crash" in got:
        return "a crash: memory was touched that is nobody's"
    return good if good and got["rc"] != -errno.EFAULT else named(got["rc"])


# --- 2.2 the copies ---


def copies(lab):
    memory = some_memory(lab)
    tries = [(what, gpa, length) for gpa, length in accesses(lab, memory) for what in READS_ROM
             if may(memory, gpa, length, READS_ROM[what])]  # fmt: skip
    seen = cases(lab, "mem", [f"{what}:{gpa:#x}:{length:#x}" for what, gpa, length in tries], *regions(memory))
    for (what, gpa, length), got in zip(tries, seen):
        tried = told(f"mem_{what}()", gpa, length, memory)
        lab.expect(tried, "0", answer(got))
        before = [pattern(gpa + i) for i in range(length)]
        if what == "read":
            lab.expect_true(f"{tried}: bytes copied in order", f"all {length}", got["read"] >= length, str(got["read"]))
            lab.expect(f"{tried}: bytes of the buffer that it changed", sum(byte != 0x5A for byte in before), got["spoilt"])
            lab.expect(f"{tried}: bytes of guest memory that it changed", 0, got["changed"])
            continue
        after = [0 if what == "zero" else data_at(i) for i in range(length)]
        lab.expect(f"{tried}: bytes that arrived", length, got["right"])
        lab.expect(f"{tried}: bytes of guest memory that it changed",
                   sum(old != new for old, new in zip(before, after)), got["changed"])  # fmt: skip


def all_or_nothing(lab):
    memory = some_memory(lab)
    expect_refused(lab, memory, accesses(lab, memory))


def expect_refused(lab, memory, places):
    """All of PLACES that must not be touched are refused, and nothing moves; one that may be is written."""
    tries = [("write", memory[1][0] - 2, 4)]
    tries += [(what, gpa, length) for gpa, length in places for what in READS_ROM
              if not may(memory, gpa, length, READS_ROM[what])]  # fmt: skip
    seen = cases(lab, "mem", [f"{what}:{gpa:#x}:{length:#x}" for what, gpa, length in tries], *regions(memory))
    lab.expect(told("mem_write()", *tries[0][1:], memory), "0", answer(seen[0]))
    for (what, gpa, length), got in list(zip(tries, seen))[1:]:
        tried = told(f"mem_{what}()", gpa, length, memory)
        lab.expect(tried, f"-EFAULT ({-errno.EFAULT})", answer(got))
        lab.expect(f"{tried}: bytes of guest memory that it changed", 0, got["changed"])
        lab.expect(f"{tried}: bytes of the caller's buffer that it changed", 0, got.get("spoilt", 0))


# --- a model of a bus: windows as (base, size, device, offset) ---


def some_windows(lab, count, top=False):
    """COUNT windows in order, about half of them next to each other; the last one at the very top if TOP."""
    found, at = [], lab.rng.randrange(0, 64)
    for _ in range(count - top):
        size = lab.rng.choice([1, 2, 3, 4, 8, 16, lab.rng.randrange(1, 5000)])
        found.append((at, size, lab.rng.randrange(4), lab.rng.randrange(1 << 20)))
        at += size + lab.rng.choice([0, 0, 1, 2, lab.rng.randrange(1, 100000)])
    if top:
        size = lab.rng.randrange(1, 64)
        found.append((TOP + 1 - size, size, lab.rng.randrange(4), lab.rng.randrange(1 << 20)))
    return found


def put(windows, verb="put"):
    return [f"{verb}:{base:#x}:{size:#x}:{dev}:{offset:#x}" for base, size, dev, offset in windows]


def window_at(windows, addr):
    return next((each for each in windows if each[0] <= addr < each[0] + each[1]), None)


def shown(windows):
    few = [f"{base:#x} to {base + size - 1:#x}" for base, size, _, _ in windows[:6]]
    return ("windows " + ", ".join(few) if few else "no windows") + (" …" if len(windows) > 6 else "")


# --- 2.3 window_at_or_after_locked() ---


def search(lab):
    plans = [some_windows(lab, count, top) for count, top in
             ((0, False), (1, False), (1, True), (2, True), (3, False), (lab.rng.randrange(5, 40), True), (128, True))]  # fmt: skip
    args, tries = [], []
    for windows in plans:
        addresses = {0, TOP, lab.rng.randrange(TOP)}
        chosen = windows if len(windows) < 12 else lab.rng.sample(windows, 12) + windows[-2:]
        for base, size, _, _ in chosen:
            addresses |= {base, base + size - 1, base + size // 2, max(base - 1, 0), min(base + size, TOP)}
        tries += [(windows, addr) for addr in sorted(addresses)]
        args += ["new:0xffffffffffffffff", *put(windows), *(f"at:{addr:#x}" for addr in sorted(addresses))]
    seen = in_order(lab, args, len(tries))
    for (windows, addr), got in zip(tries, seen):
        want = next((i for i, each in enumerate(windows) if each[0] + each[1] - 1 >= addr), len(windows))
        lab.expect(f"window_at_or_after_locked() of {addr:#x}, with {len(windows)} {shown(windows)}: the index",
                   want, got["at"])  # fmt: skip


def in_order(lab, args, count):
    """Runs the driver `inside` with ARGS, of which COUNT report something."""
    try:
        seen = lab.driver("inside", *args).record.get("cases", [])
    except RuntimeError as error:
        message = next((line for line in str(error).splitlines() if "error:" in line), str(error))
        lab.fail("calls of window_at_or_after_locked() and piece_at_locked() in src/bus/bus.c",
                 "functions with the parameters that they were given with", message)  # fmt: skip
    lab.expect("the driver inside: cases reported", count, len(seen))
    return seen


# --- 2.4 bus_map() ---


def map_sorted(lab):
    windows = some_windows(lab, lab.rng.randrange(6, 20), True)
    shuffled = lab.rng.sample(windows, len(windows))
    full = some_windows(lab, 128)
    args = ["new:0xffffffffffffffff", *put(shuffled, "map"), "windows", "new:0xffffffffffffffff",
            *put(lab.rng.sample(full, 128), "map"), "windows"]  # fmt: skip
    seen = lab.driver("bus", *args).record.get("cases", [])
    for plan, order, got in ((windows, shuffled, seen[: len(windows) + 1]), (full, full, seen[len(windows) + 1 :])):
        tried = f"bus_map() of {len(plan)} windows that do not overlap, in any order"
        for window, step in zip(order, got):
            lab.expect(f"{tried}: of {window[0]:#x}, {window[1]} bytes", "0", named(step["rc"]))
        lab.expect(f"{tried}: bus.windows, as [base, size, device, offset]", [list(each) for each in plan],
                   got[-1]["windows"])  # fmt: skip


def map_refused(lab):
    base, size = 0x1000 + lab.rng.randrange(0x1000), lab.rng.randrange(16, 64)
    there = (base, size, 0, 0)
    offset = lab.rng.randrange(1, 1 << 40)
    no, exists, fits = -errno.EINVAL, -errno.EEXIST, 0
    ports = [
        ("empty", (base + size, 0, 1, 0), no),
        ("beyond the last port", (0x10000, 1, 1, 0), no),
        ("one byte longer than the ports", (0xFFF0, 0x11, 1, 0), no),
        ("as long as 64 bits can say", (1, TOP, 1, 0), no),
        ("one whose end wraps around to 0", (TOP, 2, 1, 0), no),
        ("one whose registers would end beyond 2^64", (0x20, 8, 1, TOP - 6), no),
        ("one that is there", there, exists),
        ("one inside another", (base + 3, 2, 1, 0), exists),
        ("one around another", (base - 2, size + 5, 1, 0), exists),
        ("one whose last byte is another's first", (base - 4, 5, 1, 0), exists),
        ("one whose first byte is another's last", (base + size - 1, 7, 1, 0), exists),
        ("one right below another", (base - 4, 4, 1, offset), fits),
        ("one right above another", (base + size, 4, 1, 0), fits),
        ("one up to the last port", (0xFFF0, 0x10, 1, TOP - 15), fits),
        ("port 0 alone", (0, 1, 1, 0), fits),
    ]
    memory = [
        ("one up to the last address", (TOP - 7, 8, 1, 0), fits),
        ("one over the last address", (TOP - 9, 12, 1, 0), no),
        ("all the others", (0x10, TOP - 0x10, 1, 0), exists),
    ]
    alone = [("empty, on a bus of 2^64 addresses without windows", (0, 0, 1, 0), no), ("one after that", (0, 1, 1, 0), fits)]
    tries, args = [], []
    for limit, plan, before in ((0xFFFF, ports, [there]), (TOP, memory, [there]), (TOP, alone, [])):
        args += [f"new:{limit:#x}", *put(before)]
        for what, window, want in plan:
            tried = f"bus_map() of a window that is {what}" if "empty" in what else f"bus_map() of {what}"
            tries.append((tried, window, want, limit, before))
            args += put([window], "map")
    full = some_windows(lab, 128)
    args += ["new:0xffffffffffffffff", *put(full), "map:0xfffffffffffffff0:4:1:0"]
    tries.append(("bus_map() of a 129th window", (TOP - 15, 4, 1, 0), -errno.ENOSPC, TOP, full))
    seen = lab.driver("bus", *args).record.get("cases", [])
    lab.expect("the driver bus: cases reported", len(tries), len(seen))
    for (what, (at, length, _, reg), want, limit, before), got in zip(tries, seen):
        tried = f"{what}: base {at:#x}, size {length:#x}, offset {reg:#x}; the bus ends at {limit:#x}, {shown(before)}"
        lab.expect(tried, named(want), named(got["rc"]))
        if want:
            lab.expect(f"{tried}: bus.windows", "untouched", "untouched" if got["untouched"] else "changed")


# --- 2.5 piece_at_locked() ---


def piece(windows, widths, addr, size):
    """(device or -1, offset, size) of the first piece."""
    window = window_at(windows, addr)
    if window is None:
        after = min((each[0] for each in windows if each[0] > addr), default=addr + size)
        return -1, 0, min(size, after - addr)
    inside = min(size, window[0] + window[1] - addr)
    while inside & (inside - 1):
        inside &= inside - 1
    return window[2], window[3] + addr - window[0], min(inside, widths[window[2]])


def expect_pieces(lab, windows, widths, places):
    args = ["new:0xffffffffffffffff", *(f"dev:{i}:{width}:0" for i, width in enumerate(widths)), *put(windows)]
    seen = in_order(lab, args + [f"piece:{addr:#x}:{size}" for addr, size in places], len(places))
    for (addr, size), got in zip(places, seen):
        dev, offset, length = piece(windows, widths, addr, size)
        tried = f"piece_at_locked() of {size} bytes at {addr:#x}, {shown(windows)}"
        if dev >= 0:
            tried += f"; the device's registers take {widths[dev]} bytes, the window begins at register " + (
                f"{window_at(windows, addr)[3]:#x}"
            )
        device = {-1: "no device", -2: "no device of this bus"}
        lab.expect(f"{tried}: the device", device.get(dev, f"device {dev}"), device.get(got["dev"], f"device {got['dev']}"))
        lab.expect(f"{tried}: the piece's size", length, got["size"])
        if dev >= 0:
            lab.expect(f"{tried}: the offset", offset, got["offset"])


def piece_window(lab):
    """Sizes of 1 and 2 and 4 within windows of wide devices: what matters is where things begin and end."""
    windows = some_windows(lab, lab.rng.randrange(4, 12), True)
    places = []
    for base, size, _, _ in windows:
        ends = (base, base + size - 1, base + size // 2, base - 1, base - 3, base + size)
        places += [(addr, length) for addr in ends if 0 <= addr <= TOP for length in (1, 8)]
    expect_pieces(lab, windows, [8, 8, 8, 8], places)
    expect_pieces(lab, [], [8, 8, 8, 8], [(0, 1), (lab.rng.randrange(1 << 60), 8)])
    # a gap of more than 4 GiB
    far = 1 << 40
    expect_pieces(lab, [(far, 8, 0, 0)], [8, 8, 8, 8], [(far - (1 << 32) - back, 8) for back in (0, 2)])


def piece_size(lab):
    base = lab.rng.randrange(0x1000, 0x100000)
    windows = [(base, 8, 0, 0), (base + 8, 8, 1, 32), (base + 16, 8, 2, 0), (base + 24, 8, 3, 0)]
    widths = lab.rng.sample([1, 2, 4, 8], 4)
    places = [(each[0] + at, size) for each in windows for at in (0, 1, 4, 5, 6, 7) for size in (1, 2, 3, 4, 5, 7, 8)]
    expect_pieces(lab, windows, widths, places)


# --- 2.6 bus_read(), bus_write() ---


class Model:
    """A bus whose accesses are told, not made."""

    def __init__(self, limit, windows, widths, keys):
        self.limit, self.windows, self.widths, self.keys = limit, windows, widths, keys

    def args(self):
        devices = [f"dev:{i}:{width}:{key}" for i, (width, key) in enumerate(zip(self.widths, self.keys))]
        return [f"new:{self.limit:#x}", *devices, *put(self.windows)]

    def access(self, addr, size, value=None):
        """(calls, the bytes that a read gives, bytes that nobody answered); VALUE: what is written."""
        calls, data, unclaimed, done = [], b"", 0, 0
        while done < size:
            at = addr + done
            if at > self.limit:
                dev, offset, length = -1, 0, size - done
            else:
                dev, offset, length = piece(self.windows, self.widths, at, size - done)
                length = min(length, self.limit + 1 - at) if dev < 0 else length
            if dev < 0:
                unclaimed += length
                data += b"\xff" * length
            else:
                part = 0 if value is None else value >> 8 * done & (1 << 8 * length) - 1
                calls.append([dev, int(value is not None), offset, length, part])
                data += bytes(self.keys[dev] + offset + i & 0xFF for i in range(length))
            done += length
        return calls, data, unclaimed


def expect_accesses(lab, model, places):
    """PLACES: [(addr, size)]; each is read, and written with a number drawn by lot."""
    tries = [(addr, size, value) for addr, size in places for value in (None, lab.rng.randrange(1 << 8 * size))]
    args = [f"read:{addr:#x}:{size}" if value is None else f"write:{addr:#x}:{size}:{value:#x}" for addr, size, value in tries]
    seen = lab.driver("bus", *model.args(), *args).record.get("cases", [])
    lab.expect("the driver bus: cases reported", len(tries), len(seen))
    for (addr, size, value), got in zip(tries, seen):
        calls, data, unclaimed = model.access(addr, size, value)
        what = f"bus_read() of {size} bytes" if value is None else f"bus_write() of {value:#0{2 + 2 * size}x}"
        tried = f"{what} at {addr:#x}; the bus ends at {model.limit:#x}, {shown(model.windows)}"
        lab.expect(f"{tried}: what the devices were asked", spoken(calls), spoken(got["calls"]))
        if value is None:
            lab.expect(f"{tried}: the bytes, and the memory behind them (5a)", data.hex() + "5a" * (16 - size), got["data"])
        lab.expect(f"{tried}: added to bus.unclaimed", unclaimed, got["unclaimed"])


def spoken(calls):
    parts = [f"device {dev}: {'write' if write else 'read'} register {offset:#x}, {size} bytes" + (f", {value:#x}" if write else "")
             for dev, write, offset, size, value in calls]  # fmt: skip
    return "; ".join(parts) or "nothing"


def access_split(lab):
    base = lab.rng.randrange(0x1000, 0xF000)
    windows = [(base, 8, 0, 0), (base + 8, 6, 1, lab.rng.randrange(64)), (base + 14, 3, 2, 0), (base + 17, 9, 3, 7)]
    widths = [8, *lab.rng.sample([1, 2, 4], 3)]
    model = Model(0xFFFF, windows, widths, [lab.rng.randrange(256) for _ in range(4)])
    places = [(base + at, size) for at in range(0, 26) for size in (1, 2, 4, 8) if at + size <= 26]
    expect_accesses(lab, model, places)


def access_empty(lab):
    base = lab.rng.randrange(0x1000, 0xF000)
    windows = [(base, 3, 0, 0), (base + 5, 2, 1, 16)]
    model = Model(0xFFFF, windows, [lab.rng.choice([1, 2]), 2, 1, 1], [lab.rng.randrange(256) for _ in range(4)])
    expect_accesses(lab, model, [(base + at, size) for at in range(-8, 10) for size in (1, 2, 4, 8)])
    expect_accesses(lab, Model(0xFFFF, [], [1] * 4, [0] * 4), [(0, 8), (lab.rng.randrange(0xFFF0), 4)])


PRINT = "1: lodsb\n out %al, %dx\n dec %cx\n jnz 1b\n"


def hello_again(lab):
    data, more = word(lab, 24), word(lab, 30)
    code = (f"mov $0xe9, %dx\n mov $text, %si\n mov $24, %cx\n{PRINT} mov $more, %si\n mov $30, %cx\n cld\n rep outsb\n"
            f" in %dx, %ax\n cmp $0xffe9, %ax\n jne 2f\n mov $'!', %al\n out %al, %dx\n2: hlt\n"
            f"text: {asm_bytes(data)}\nmore: {asm_bytes(more)}")  # fmt: skip
    run = hv_guest(lab, code)
    expect_guest(lab, "a guest prints at port 0xe9, by OUT and REP OUTSB, and reads a word there (0xffe9)", run,
                 data + more + b"!")  # fmt: skip


# --- 2.7 serve_mmio() ---


def mmio_exit(lab):
    base = 0xFED00000 + (lab.rng.randrange(1, 1 << 10) << 32) + 64 * lab.rng.randrange(1000)
    tries = []
    for size in (1, 2, 4, 8):
        at = base + size * lab.rng.randrange(16 // size)
        tries += [(at, size, None), (at, size, lab.rng.randrange(1, 1 << 8 * size))]
    tries += [(base - 64, 4, None), (base + 64, 8, lab.rng.randrange(1, 1 << 64)), (base + 12, 8, None)]
    args = [f"read:{addr:#x}:{size}" if value is None else f"write:{addr:#x}:{size}:{value:#x}" for addr, size, value in tries]
    seen = cases(lab, "mmio", args, f"base:{base:#x}")
    model = Model(TOP, [(base, 16, 0, 0)], [8], [0x10])
    for (addr, size, value), got in zip(tries, seen):
        calls, data, _ = model.access(addr, size, value)
        what = f"a read of {size} bytes" if value is None else f"a write of {value:#0{2 + 2 * size}x}"
        tried = f"KVM_EXIT_MMIO, {what} at {addr:#x}; a device is at {base:#x} to {base + 15:#x}"
        lab.expect(f"{tried}: what the devices were asked (0: on the bus of memory, 1: of ports)", spoken(calls),
                   spoken(got["calls"]))  # fmt: skip
        if value is None:
            lab.expect(f"{tried}: run->mmio.data, of which {size} bytes count", data.hex(), got["data"][: 2 * size])
        lab.expect(f"{tried}: the machine", "goes on", "was ended" if got["ended"] else "goes on")


def mmio_guest(lab):
    data, at = word(lab, 6), 0x10 + 4 * lab.rng.randrange(1, 16000)
    code = (f"mov $0xffff, %ax\n mov %ax, %es\n movl $0x{lab.rng.randrange(1 << 31):x}, %es:{at:#x}\n"
            f" movl %es:{at:#x}, %eax\n mov $0xe9, %dx\n cmp $-1, %eax\n jne 2f\n"
            f" mov $text, %si\n mov $6, %cx\n{PRINT}2: hlt\ntext: {asm_bytes(data)}")  # fmt: skip
    run = hv_guest(lab, code)
    expect_guest(lab, f"a guest with 1 MiB writes a long word at {0xFFFF0 + at:#x}, and prints if it reads ones there", run, data)


# --- 2.8 divisor_byte() ---

THR, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)
DLAB, LOOP = 0x80, 0x10
DR, OE, THRE, TEMT = 0x01, 0x02, 0x20, 0x40


def uart(lab, tried, steps):
    """STEPS: ("w", register, byte) or ("r", register, expected) or ("new",): checks each read; what was sent."""
    args = [":".join([step[0], *(str(number) for number in step[1 : 3 if step[0] == "w" else 2])]) for step in steps]
    seen = cases(lab, "uart", args)
    done = []
    for step, got in zip(steps, seen):
        if step[0] == "r":
            lab.expect(f"{tried}: {', '.join(done[-6:])}, then a read of register {step[1]}", f"{step[2]:#04x}",
                       f"{got['value']:#04x}")  # fmt: skip
        else:
            done.append(f"register {step[1]} := {step[2]:#04x}" if step[0] == "w" else step[0])
    return bytes.fromhex(seen[-1]["sent"])


def divisor(lab):
    low, high = lab.rng.sample(range(2, 256), 2)
    lcr, ier, scratch = lab.rng.randrange(128), lab.rng.randrange(1, 16), lab.rng.randrange(256)
    sent = uart(lab, "the divisor latch", [
        ("new",), ("w", LCR, lcr | DLAB), ("r", 0, 1), ("r", 1, 0), ("w", 0, low), ("w", 1, high), ("w", SCR, scratch), ("w", MCR, 3),
        ("r", 0, low), ("r", 1, high), ("r", SCR, scratch), ("r", LCR, lcr | DLAB), ("r", MCR, 3),
        ("w", LCR, lcr), ("r", 1, 0), ("w", 1, ier), ("r", 1, ier), ("r", 0, 0),
        ("w", LCR, DLAB), ("r", 0, low), ("r", 1, high), ("w", LCR, lcr), ("r", 1, ier), ("r", SCR, scratch),
    ])  # fmt: skip
    lab.expect("the divisor latch is written: bytes that left the chip", b"", sent)


# --- 2.9 transmit(), line_status() ---


def transmit(lab):
    data, secret = word(lab, lab.rng.randrange(5, 40)), lab.rng.randrange(1, 256)
    steps = [("new",)]
    sent = uart(lab, "the transmitter", steps + [("w", THR, byte) for byte in data])
    lab.expect(f"{data!r}, a byte at a time to register 0: what left the chip", data, sent)
    loop = [("w", MCR, LOOP), ("w", THR, secret), ("r", THR, secret), ("w", MCR, 0)]
    sent = uart(lab, "loop-back", [*steps, ("w", THR, data[0]), *loop, ("w", THR, data[1])])
    lab.expect("one byte, one in loop-back, and one after it: what left the chip", data[:2], sent)
    every = bytes(range(256))
    sent = uart(lab, "the transmitter", steps + [("w", THR, byte) for byte in every])
    lab.expect("every byte there is, 0 to 255: what left the chip", every, sent)


def line_status(lab):
    data, empty = word(lab, 3), THRE | TEMT
    uart(lab, "the line status", [
        ("new",), ("r", LSR, empty), ("w", THR, data[0]), ("r", LSR, empty), ("w", THR, data[1]), ("w", THR, data[2]),
        ("r", LSR, empty), ("w", MCR, LOOP), ("r", LSR, empty), ("w", THR, data[0]), ("r", LSR, empty | DR),
        ("r", LSR, empty | DR), ("r", THR, data[0]), ("r", LSR, empty),
        ("new",), ("overrun",), ("r", LSR, empty | DR | OE), ("r", LSR, empty | DR), ("r", THR, 7), ("r", LSR, empty),
    ])  # fmt: skip


SEND = f"""
send:   lodsb
        mov     %al, %ah
        mov     ${COM1 + LSR}, %dx
3:      in      %dx, %al
        test    ${THRE}, %al
        jz      3b
        mov     ${COM1}, %dx
        mov     %ah, %al
        out     %al, %dx
        dec     %cx
        jnz     send
        ret
"""
SERIAL = ["--serial", "stdout", "--debug-port", "none"]


def serial_output(lab):
    data, more = word(lab, 30) + b"\n", word(lab, 20)
    code = (f"mov ${COM1 + LCR}, %dx\n mov $0x83, %al\n out %al, %dx\n mov ${COM1}, %dx\n mov $3, %ax\n out %ax, %dx\n"
            f" mov ${COM1 + LCR}, %dx\n mov $3, %al\n out %al, %dx\n cld\n mov $text, %si\n mov ${len(data)}, %cx\n call send\n"
            f" mov ${COM1}, %dx\n mov $more, %si\n mov ${len(more)}, %cx\n rep outsb\n hlt\n{SEND}"
            f"text: {asm_bytes(data)}\nmore: {asm_bytes(more)}")  # fmt: skip
    run = hv_guest(lab, code, *SERIAL)
    expect_guest(lab, "a guest sets COM1's divisor, sends text as its line status allows, and more by REP OUTSB", run, data + more)


# --- the hostile guest ---


def wrapped_lengths(lab):
    memory = some_memory(lab)
    places = hostile_accesses(lab, memory)
    expect_refused(lab, memory, places)
    tries = [(gpa, length, write) for gpa, length in places for write in (0, 1)]
    seen = cases(lab, "mem", [f"ptr:{gpa:#x}:{length:#x}:{write}" for gpa, length, write in tries], *regions(memory))
    for (gpa, length, write), got in zip(tries, seen):
        expect_pointer(lab, memory, gpa, length, write, got)


def end_of_the_bus(lab):
    """Accesses across the last address, with a device at address 0 for those that come out there."""
    keys = [lab.rng.randrange(256) for _ in range(4)]
    for limit in (0xFFFF, TOP):
        for windows in ([(0, 8, 0, 0)], [(0, 8, 0, 0), (limit - 2, 3, 1, 5)]):
            places = [(limit - back, size) for back in range(0, 8) for size in (1, 2, 4, 8)]
            places += [(0x10000 + back, 4) for back in (0, 2)] if limit == 0xFFFF else []
            expect_accesses(lab, Model(limit, windows, [4, 2, 1, 1], keys), places)


def rom(lab):
    """The guest reads ROM, writes over it, and reads again; then the host tries the same."""
    data = [lab.rng.randrange(1, 255) for _ in range(8)]
    reads = "".join(f" mov %es:{i}, %al\n out %al, $0xe9\n" for i in range(4))
    writes = "".join(f" movb ${lab.rng.randrange(256)}, %es:{i}\n" for i in range(4))
    code = lab.guest(f"mov $0x1000, %ax\n mov %ax, %es\n{reads}{writes} movw $0x1234, %es:2\n{reads} hlt")
    with open(code, "rb") as file:
        text = file.read().hex()
    got = lab.driver("rom", text, bytes(data).hex()).record
    tried = "a guest reads four bytes of ROM, writes over them, reads them again"
    if got.get("stopped_at") == "/dev/kvm":
        raise CannotRun(f"/dev/kvm cannot be opened: {os.strerror(-got['rc'])}")
    if "stopped_at" in got:
        lab.fail(tried, "a guest that runs", f"{got['stopped_at']}() gave {named(got['rc'])}")
    lab.expect(f"{tried}: the last exit", "HLT", got["last"])
    lab.expect(f"{tried}: what it read", data[:4] * 2, got["out"])
    lab.expect(f"{tried}: bytes of writes that nobody took (bus.unclaimed)", 6, got["unclaimed"])
    lab.expect(f"{tried}: the ROM afterwards", bytes(data).hex(), got["rom"][:16])
    tried = "mem_write() of four bytes, two in RAM and two in ROM behind it"
    lab.expect(tried, f"-EFAULT ({-errno.EFAULT})", named(got["host_write"]))
    lab.expect(f"{tried}: the two bytes of RAM", "0000", got["ram_end"])


def past_the_ram(lab):
    """Segment 0xffff sees the last 16 bytes of a machine with 1 MiB, and 65,520 that are not there."""
    far = sorted(lab.rng.sample(range(0x14, 0xFFF0), 6))
    low, word_at_0 = lab.rng.randrange(1, 255), lab.rng.randrange(1, 0xFFFF)
    tell = " out %al, %dx\n mov %ah, %al\n out %al, %dx\n"
    lines = ["mov $0xe9, %dx\n mov $0xffff, %ax\n mov %ax, %es", f"movw ${word_at_0}, 0"]
    lines += [f"movw $0x{lab.rng.randrange(1 << 16):x}, %es:{at:#x}" for at in (0x10, *far)]
    lines += [f"movw %es:{at:#x}, %ax\n{tell}" for at in (0x10, *far)]
    lines += [f"movl $0x{lab.rng.randrange(1 << 24) << 8 | low:x}, %es:0x0f\n movl %es:0x0f, %eax\n{tell}",
              f"movw 0, %ax\n{tell} hlt"]  # fmt: skip
    run = hv_guest(lab, "\n".join(lines))
    want = b"\xff\xff" * 7 + bytes([low, 0xFF]) + word_at_0.to_bytes(2, "little")
    tried = ("a guest with 1 MiB writes and reads seven words behind it, then a long word whose first byte is RAM's last; "
             "it sends what it reads, and the word at 0")  # fmt: skip
    lab.expect(tried, want.hex(" "), run.out.hex(" "))
    lab.expect(f"{tried}; then HLT", f"exit status {STATUS_OK}", run.how())


PROTECTED = """
        cli
        lgdtl   pointer
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmp    $8, $flat
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
pointer: .word  23
        .long   gdt
        .code32
flat:   mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7000, %esp
"""


def everywhere(lab):
    """32-bit code reaches all of 4 GiB; KVM's own pages on Intel are left alone."""
    data = word(lab, 6)
    places = [lab.rng.randrange(RAM_END, 0xFEC00000) for _ in range(12)] + [RAM_END, 0xBFFFFFFE, 0xFED00001, 0xFFFFFFFC]
    lines = []
    for at in places:
        store = lab.rng.choice(["movb", "movw", "movl"]) if at < 0xFFFFFF00 else "movl"
        lines.append(f" {store} $0x5a, {at:#x}\n movl {at:#x}, %ebx\n cmp $-1, %ebx\n jne 2f")
    code = (PROTECTED + "\n".join(lines) + "\n mov $0xe9, %dx\n mov $text, %esi\n mov $6, %ecx\n1: lodsb\n out %al, %dx\n"
            f" dec %ecx\n jnz 1b\n2: hlt\ntext: {asm_bytes(data)}")  # fmt: skip
    run = hv_guest(lab, code)
    where = ", ".join(f"{at:#x}" for at in places)
    expect_guest(lab, f"a 32-bit guest with 1 MiB writes to {where}, and prints if it reads ones at each", run, data)


def flood(lab):
    """One instruction, the most bytes that CX can count, all to the transmitter; then its neighbours too."""
    data = word(lab, 64)
    code = (f"mov $0x1000, %ax\n mov %ax, %es\n xor %di, %di\n cld\n mov $1023, %bx\n"
            f"1: mov $text, %si\n mov $64, %cx\n rep movsb\n dec %bx\n jnz 1b\n"
            f" mov %es, %ax\n mov %ax, %ds\n xor %si, %si\n mov ${COM1}, %dx\n mov $65472, %cx\n rep outsb\n hlt\n"
            f"text: {asm_bytes(data)}")  # fmt: skip
    run = hv_guest(lab, code, *SERIAL)
    tried = "rep outsb of 65,472 bytes to COM1"
    lab.expect(f"{tried}: bytes that came", 65472, len(run.out))
    lab.expect_true(tried, "all of them in order", run.out == data * 1023, "other bytes")
    lab.expect(f"{tried}; then HLT", f"exit status {STATUS_OK}", run.how())
    few = word(lab, 9)
    # each long word: the byte to send, IER 0, FCR 0, LCR 3
    longs = b"".join(bytes([byte, 0, 0, 3]) for byte in few)
    code = (f"mov ${COM1}, %dx\n mov $text, %si\n mov ${len(few)}, %cx\n cld\n rep outsl\n mov $10, %cx\n mov $buffer, %di\n"
            f" rep insl\n mov ${COM1 + 6}, %dx\n in %dx, %eax\n mov $-1, %eax\n out %eax, %dx\n hlt\n"
            f"text: {asm_bytes(longs)}\nbuffer: .skip 40")  # fmt: skip
    run = hv_guest(lab, code, *SERIAL)
    expect_guest(lab, "rep outsl and rep insl of long words across COM1's first four registers, and one over its end", run, few)
