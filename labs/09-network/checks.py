"""Lab 09's checks: one function for each [[check]] of lab.toml.

Most drivers take a script: what a guest would write, this file writes; what should come of it is worked out here a
second time, from the specification. Exits are counted by a driver that runs the guest itself (drivers/bell.c).
"""

import errno
import hashlib
import os
import shlex
import struct
import sys

from grading import CannotRun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KIB, MIB, GIB, PAGE = 1 << 10, 1 << 20, 1 << 30, 4096
MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
NEXT, WRITE = 1, 2  # descriptor flags, VIRTIO 1.2 §2.7.5


# --- helpers ---


def named(code):
    if code is not None and code < 0 and -code in errno.errorcode:
        return f"-{errno.errorcode[-code]} ({code})"
    return str(code)


def hexa(number):
    return f"{number:#x}" if isinstance(number, int) else "none"


class Script:
    """Lines for a driver, and what should be seen after each."""

    def __init__(self, lab, driver):
        self.lab, self.driver, self.lines, self.wants = lab, driver, [], []

    def do(self, line, tried=None, **want):
        """Adds LINE; returns its place in what run() returns. WANT: values that its case must have. TRIED names
        it in a failure."""
        self.lines.append(line)
        if want:
            self.wants.append((len(self.lines) - 1, tried or line, want))
        return len(self.lines) - 1

    def run(self, limit=None):
        lab, text = self.lab, "\n".join(self.lines) + "\n"
        seen = lab.driver(self.driver, stdin=text, limit=limit).record.get("cases", [])
        lab.expect(f"the driver {self.driver}: lines of its script that it came to", len(self.lines), len(seen))
        for place, tried, want in self.wants:
            for name, value in want.items():
                shown = named if name == "rc" else hexa if name in HEX else lambda each: each
                lab.expect(f"{tried}: {NAMES.get(name, name)}", shown(value), shown(seen[place].get(name)))
        return seen


HEX = {"value", "status", "addr", "pending"}
NAMES = {
    "rc": "result", "result": "the driver is to be told", "told": "what was told", "value": "value read", "events": "what followed from it",
    "fired": "messages", "pending": "pending bits", "len": "bytes of the doorbell", "addr": "its address", "fd": "its eventfd",
    "flags": "flags", "calls": "ioctls", "strange": "ioctls of another kind", "nr": "entries, as `nr` says", "elements": "used elements [id, bytes]",
    "sent": "frames sent, as the device counts", "received": "frames received, as the device counts", "frames": "frames at the other end",
    "dropped_out": "frames of the guest's that were dropped", "dropped_in": "frames for the guest that were dropped",
    "beyond": "bytes behind a piece, changed", "gone": "the peer is told that nobody is there", "ports": "windows among the ports",
    "memory": "windows in device memory",
}  # fmt: skip


# --- 9.1 the event index ---


def event_index(lab):
    script = Script(lab, "event")
    for case in range(24):
        start = lab.rng.choice([0, 65530, 65535, lab.rng.randrange(65536)]) if case % 3 == 0 else None
        if start is not None or case == 0:
            script.do("fresh", rc=0)
            script.do("event 65535")
            script.do(f"singles {start or 0}", next_used=start or 0)
            at = signalled = start or 0
        count = lab.rng.choice([1, 1, 2, 5, lab.rng.randrange(1, 200)])
        where = lab.rng.choice(["behind", "first", "last", "next", "far", "inside"])
        event = {"behind": at - 1, "first": at, "last": at + count - 1, "next": at + count, "far": at + 30000,
                 "inside": at + lab.rng.randrange(count)}[where] & 0xFFFF  # fmt: skip
        script.do(f"event {event}")
        script.do(f"flags {lab.rng.randrange(2)}")
        end = (at + count) & 0xFFFF
        told = (end - event - 1) & 0xFFFF < (end - signalled) & 0xFFFF
        tried = f"{count} elements published at once, entries {at} to {(end - 1) & 0xFFFF}; the driver waits for entry {event}"
        script.do(f"batch {count}", tried, result=told, next_used=end)
        at = signalled = end
    script.do("fresh", rc=0)
    script.do("event 7")
    script.do("singles 20", "20 elements, one by one, while the driver waits for entry 7: yes was said", told=1)
    script.do("fresh", rc=0)
    script.do("event 65535")
    script.do("singles 65536", "65536 elements, one by one, while the driver waits for entry 65535: yes was said", told=1)
    script.do("singles 65536", "65536 more, and the driver's word as it was: yes was said", told=1)
    script.run(limit=12)


def event_order(lab):
    script = Script(lab, "event")
    script.do("fresh", rc=0)
    script.do("event 0")
    place = script.do("watch", "vq_publish() with the event index, one element, the driver waits for entry 0", result=True)
    got = script.run()[place]["accesses"]
    tried, shown = "vq_publish() with the event index: accesses to the rings, in order", ", ".join(got) or "none"
    asks = [i for i, each in enumerate(got) if each == "read used_event"]
    writes = [i for i, each in enumerate(got) if each == "write used.idx"]
    lab.expect_true(tried, "read used_event, once", len(asks) == 1, shown)
    lab.expect_true(tried, "write used.idx before that", writes and writes[-1] < asks[0], shown)
    lab.expect_true(tried, "write used.idx, barrier, read used_event", "barrier" in got[writes[-1] : asks[0]], shown)
    lab.expect_true(tried, "no look at avail.flags, which mean nothing now", "read avail.flags" not in got, shown)


# --- PCI, as a script for drivers/pci.c ---

ADDRESS_PORT, DATA_PORT = 0xCF8, 0xCFC
ENABLE = 1 << 31
COMMAND, BAR0, CAPABILITIES, IRQ_LINE = 0x04, 0x10, 0x34, 0x3C
IO_ON, MEMORY_ON, MASTER_ON, INTX_OFF = 1, 2, 4, 0x400
WINDOW = 0xC0000000
RAM = [(0, MIB), (0xC1000000, MIB), (4 * GIB, MIB)]  # as drivers/pci.c has it


class Pci(Script):
    def __init__(self, lab):
        super().__init__(lab, "pci")
        self.do("fresh", rc=0)

    def point(self, slot, offset):
        self.do(f"out {ADDRESS_PORT} 4 {ENABLE | slot << 11 | offset & 0xFC}")

    def read(self, slot, offset, size, tried=None, **want):
        self.point(slot, offset)
        return self.do(f"in {DATA_PORT + offset % 4} {size}", tried, **want)

    def write(self, slot, offset, size, value, tried=None, **want):
        self.point(slot, offset)
        return self.do(f"out {DATA_PORT + offset % 4} {size} {value}", tried, **want)

    def dump(self, slot):
        """The places of a function's 64 dwords."""
        return [self.read(slot, offset, 4) for offset in range(0, 256, 4)]


def space(seen, places):
    return bytearray(b"".join(struct.pack("<I", seen[place]["value"]) for place in places))


def ones(size):
    return (1 << 8 * size) - 1


def config_ports(lab):
    script = Pci(lab)
    count = lab.rng.randrange(2, 6)
    ids = {0: (0x8086, 0x1237, 0x060000, 2)}
    for fn in range(count):
        vendor, device = lab.rng.randrange(1, 0xFFFF), lab.rng.randrange(1, 0xFFFF)
        script.do(f"fn {vendor} {device}")
        script.do(f"add {fn}", rc=0, slot=fn + 1)
        ids[fn + 1] = (vendor, device, 0x020000, 0)
    known = {slot: struct.pack("<HHII", vendor, device, 0, class_code << 8 | revision)
             for slot, (vendor, device, class_code, revision) in ids.items()}  # fmt: skip
    for slot in (*known, count + 1, 15, 16, 17, 31):
        for offset, size in ((0, 4), (0, 2), (2, 2), (8, 4), (9, 1), (10, 2), (11, 1), (3, 1)):
            want = int.from_bytes(known[slot][offset : offset + size], "little") if slot in known else ones(size)
            script.read(slot, offset, size, f"configuration space of slot {slot}{'' if slot in known else ', which is empty'}, "
                        f"{size} bytes at {offset:#x}", value=want)  # fmt: skip
    good = ENABLE | 1 << 11
    for what, address in (("bit 31 clear", good & ~ENABLE), ("bus 1", good | 1 << 16), ("bus 128", good | 128 << 16), ("function 1", good | 1 << 8),
                          ("function 4", good | 4 << 8)):  # fmt: skip
        script.do(f"out {ADDRESS_PORT} 4 {address}")
        script.do(f"in {DATA_PORT} 4", f"data, with the address {address:#x} ({what})", value=MASK32)
    for bits in (MASK32, 0, lab.rng.getrandbits(32)):
        script.do(f"out {ADDRESS_PORT} 4 {bits}")
        script.do(f"in {ADDRESS_PORT} 4", f"the address register after {bits:#x} was written (bits 30:24, 1 and 0 are 0)", value=bits & 0x80FFFFFC)
    slot = lab.rng.randrange(1, count + 1)
    script.point(slot, 0)
    for port, size in ((0xCF8, 1), (0xCF8, 2), (0xCF9, 1), (0xCFA, 2), (0xCFB, 1), (0xCFA, 4), (0xCFB, 2), (0xCF9, 4), (0xCFB, 4)):
        script.do(f"out {port} {size} {lab.rng.getrandbits(8 * size)}")
        script.do(f"in {port} {size}", f"{size} bytes at port {port:#x}, which are no register", value=ones(size))
    script.do(f"in {ADDRESS_PORT} 4", "the address register, after narrower or other writes near it", value=ENABLE | slot << 11)
    script.do(f"in {DATA_PORT} 4", "data, after narrower or other writes near the address", value=int.from_bytes(known[slot][:4], "little"))
    script.run()


def masks_of_header():
    masks = bytearray(256)
    masks[COMMAND], masks[COMMAND + 1] = IO_ON | MEMORY_ON | MASTER_ON, INTX_OFF >> 8
    masks[0x0C] = masks[IRQ_LINE] = 0xFF
    return masks


def stored(config, masks, offset, size, value):
    for i, byte in enumerate((value & ones(size)).to_bytes(size, "little")):
        config[offset + i] = config[offset + i] & ~masks[offset + i] | byte & masks[offset + i]


def access(lab):
    """(offset, size) of an access that stays in its dword."""
    size = lab.rng.choice([1, 2, 4])
    return lab.rng.randrange(64) * 4 + lab.rng.choice(range(0, 5 - size, size)), size


def config_writes(lab):
    """First what a function's space holds, then the writes."""
    first, allowed, masks = Pci(lab), [], masks_of_header()
    for _ in range(12):
        offset, mask = lab.rng.randrange(0x40, 0xFC), lab.rng.getrandbits(32)
        allowed.append(f"allow 0 {offset} 4 {mask}")
        masks[offset : offset + 4] = struct.pack("<I", mask)
    begin = ["fn 0x1af4 0x1041", *allowed, "add 0"]
    for line in begin:
        first.do(line)
    places = first.dump(1)
    config = space(first.run(), places)
    script = Pci(lab)
    for line in begin:
        script.do(line)
    tries = [(0, 4, 0), (0, 2, 0x1234), (COMMAND, 2, 0xFFFF), (COMMAND, 4, 0), (COMMAND + 1, 1, 0xFF), (COMMAND + 2, 2, 0xFFFF), (8, 4, MASK32),
             (BAR0, 4, MASK32), (CAPABILITIES, 1, 0x40), (IRQ_LINE, 1, 0xA5), (0xFF, 1, 0xFF), (0xFC, 4, MASK32), (0xFE, 2, 0)]  # fmt: skip
    tries += [(*access(lab), lab.rng.choice([0, MASK32, lab.rng.getrandbits(32)])) for _ in range(120)]
    for offset, size, value in tries:
        stored(config, masks, offset, size, value)
        tried = f"{size} bytes {value & ones(size):#x} written at {offset:#x} of a configuration space"
        script.write(1, offset, size, value & ones(size), f"{tried}: the device is told", events=[["written", 0, offset, size]])
        at = offset & ~3
        script.read(1, at, 4, f"{tried}; then the dword at {at:#x} (writable bits {masks[at : at + 4][::-1].hex()})",
                    value=struct.unpack_from("<I", config, at)[0])  # fmt: skip
    for place, want in zip(script.dump(1), struct.unpack("<64I", config)):
        script.wants.append((place, "all of the configuration space, at the end", {"value": want}))
    script.run(limit=12)


# --- base address registers ---


class Bar:
    def __init__(self, index, size, is_io=False, is_64=False):
        self.index, self.size, self.is_io, self.is_64 = index, size, is_io, is_64
        self.mapped = 0
        self.kind = 1 if is_io else 0xC if is_64 else 0
        self.address = 0

    @property
    def mask(self):
        return ~(self.size - 1) & (MASK64 if self.is_64 else MASK32)

    def __str__(self):
        return f"{self.size:#x} bytes of {'ports' if self.is_io else 'memory, 64-bit' if self.is_64 else 'memory'}"

    def line(self, fn):
        return f"bar {fn} {self.index} {self.size} {int(self.is_io)} {int(self.is_64)}"


def bar_sizes(lab):
    for _ in range(5):
        bars = [Bar(0, 1 << lab.rng.randrange(4, 20)), Bar(1, 1 << lab.rng.randrange(4, 9), is_io=True), Bar(2, 1 << lab.rng.randrange(12, 24), is_64=True),
                Bar(4, 1 << lab.rng.randrange(4, 24), is_64=True)]  # fmt: skip
        lab.rng.shuffle(bars)
        at = 0
        for bar in bars:
            bar.index, at = at, at + 1 + bar.is_64
        script = Pci(lab)
        script.do("fn 0x1af4 0x1041")
        for bar in bars:
            script.do(bar.line(0))
        script.do("add 0", rc=0)
        for bar in bars:
            low = BAR0 + 4 * bar.index
            for value in (MASK32, 0, lab.rng.getrandbits(32), MASK32):
                script.write(1, low, 4, value)
                script.read(1, low, 4, f"BAR {bar.index} ({bar}) after {value:#x} was written", value=value & bar.mask & MASK32 & ~0xF | bar.kind)
            if bar.is_64:
                for value in (MASK32, 0, lab.rng.getrandbits(32)):
                    script.write(1, low + 4, 4, value)
                    script.read(1, low + 4, 4, f"upper half of BAR {bar.index} ({bar}) after {value:#x} was written", value=value & bar.mask >> 32)
            script.write(1, low, 1, 0)
            script.read(1, low, 1, f"the lowest byte of BAR {bar.index} ({bar}) after 0 was written", value=bar.kind)
        script.run()
    script, bar = Pci(lab), Bar(lab.rng.randrange(5), 1 << lab.rng.randrange(4, 24), is_io=False)
    for line in ("fn 0x1af4 0x1041", bar.line(0), "add 0"):
        script.do(line)
    for index in range(6):
        script.write(1, BAR0 + 4 * index, 4, MASK32)
        script.read(1, BAR0 + 4 * index, 4, f"BAR {index} of a function that has BAR {bar.index} only ({bar}), after ones were written",
                    value=bar.mask if index == bar.index else 0)  # fmt: skip
    script.run()


class Model:
    """A function's windows, as they should be."""

    def __init__(self, bars, slot=1):
        self.bars, self.slot, self.command = bars, slot, 0
        self.others = {True: [(ADDRESS_PORT, 8)], False: []}  # windows that are there anyway

    def is_free(self, bar, at, size):
        limit = 0xFFFF if bar.is_io else MASK64
        if at + size - 1 > limit:
            return False
        places = self.others[bar.is_io] + [(each.mapped, each.size) for each in self.bars if each.mapped and each.is_io == bar.is_io]
        if not bar.is_io:
            if at > MASK64 - size:
                return False
            places = places + RAM
        return all(at + size <= other or other + length <= at for other, length in places)

    def wanted(self, bar):
        if not self.command & (IO_ON if bar.is_io else MEMORY_ON):
            return 0
        every = ~(bar.size - 1) & MASK64
        return 0 if bar.address in (every, every & MASK32) else bar.address

    def update(self, fn=0):
        """The events that follow."""
        out = []
        for bar in self.bars:
            at = self.wanted(bar)
            if at == bar.mapped:
                continue
            if bar.mapped:
                out.append(["moved", fn, bar.index, 0, bar.mapped])
            bar.mapped = 0
            if at and self.is_free(bar, at, bar.size):
                bar.mapped = at
                out.append(["moved", fn, bar.index, 1, at])
        return out


class Mover:
    """A function on a bus, and its model; each write says what should follow."""

    def __init__(self, lab, bars, fn=0, script=None):
        self.lab, self.fn, self.script = lab, fn, script or Pci(lab)
        self.model = Model(bars, fn + 1)
        self.script.do("fn 0x1af4 0x1041")
        for bar in bars:
            self.script.do(bar.line(fn))
        self.script.do(f"add {fn}", rc=0)
        at = WINDOW
        for bar in bars:
            if not bar.is_io:  # as firmware: each at the next place that suits it
                at = (at + bar.size - 1) // bar.size * bar.size
                bar.address, at = at, at + bar.size

    def command(self, value, what=""):
        self.model.command = value
        tried = f"command register {value:#x}{what}: windows that move, then what was written"
        self.script.write(self.model.slot, COMMAND, 2, value, tried, events=[*self.model.update(self.fn), ["written", self.fn, COMMAND, 2]])

    def move(self, bar, address, what=""):
        """Writes both halves where there are two, in either order."""
        halves = [(0, address & MASK32)] + ([(4, address >> 32)] if bar.is_64 else [])
        if self.lab.rng.random() < 0.5:
            halves.reverse()
        for half, value in halves:
            offset = BAR0 + 4 * bar.index + half
            if half:
                bar.address = bar.address & MASK32 | (value & bar.mask >> 32) << 32
            else:
                bar.address = bar.address & ~MASK32 | value & bar.mask & MASK32
            tried = (f"BAR {bar.index} ({bar}): {value:#x} written to its {'upper' if half else 'lower'} half{what}, command register "
                     f"{self.model.command:#x}: windows that move, then what was written")  # fmt: skip
            self.script.write(self.model.slot, offset, 4, value, tried, events=[*self.model.update(self.fn), ["written", self.fn, offset, 4]])

    def look(self):
        """Who answers where the windows should be?"""
        for bar in self.model.bars:
            if not bar.mapped:
                continue
            inside = self.lab.rng.randrange(0, bar.size, 4)
            verb = "in" if bar.is_io else "rd"
            self.script.do(f"{verb} {bar.mapped + inside} 4", f"an access {inside:#x} bytes into BAR {bar.index} ({bar}), which is at {bar.mapped:#x}",
                           events=[["window", self.fn, bar.index, inside, 4, 0, 0]])  # fmt: skip

    def count(self):
        inside = [bar for bar in self.model.bars if bar.mapped]
        self.script.do("count", "windows on the buses (one of the ports is the host bridge's)", memory=sum(not bar.is_io for bar in inside),
                       ports=1 + sum(bar.is_io for bar in inside))  # fmt: skip


def three_bars(lab):
    return [Bar(0, 1 << lab.rng.randrange(4, 16)), Bar(1, 1 << lab.rng.randrange(5, 9), is_io=True), Bar(2, 1 << lab.rng.randrange(12, 18), is_64=True)]


def bar_moves(lab):
    for _ in range(3):
        mover = Mover(lab, three_bars(lab))
        low, io, high = mover.model.bars
        mover.count()
        mover.move(io, 0x2000, ", while nothing is allowed")
        mover.command(IO_ON, " (ports only)")
        mover.look()
        mover.command(MEMORY_ON | IO_ON, " (memory and ports)")
        mover.look()
        mover.count()
        for bar in (low, high):
            mover.move(bar, MASK64 if bar.is_64 else MASK32, " (it asks for the size)")
            mover.count()
            mover.move(bar, 0xC0800000 + (bar is high) * 0x100000, " (and says where it shall be)")
            mover.look()
        mover.move(high, 0x840000000, " (above 4 GiB)")
        mover.look()
        mover.move(low, low.address, " (where it is already)")
        mover.command(MEMORY_ON | IO_ON | MASTER_ON, " (bus master, too)")
        mover.look()
        mover.command(0, " (nothing)")
        mover.count()
        mover.move(low, 0xC0C00000, " (while it is nowhere)")
        mover.command(MEMORY_ON, " (memory)")
        mover.look()
        for _ in range(25):
            bar = lab.rng.choice(mover.model.bars)
            if lab.rng.random() < 0.3:
                mover.command(lab.rng.randrange(8))
            elif bar.is_io:
                mover.move(bar, lab.rng.randrange(0x1000, 0xF000))
            else:
                mover.move(bar, lab.rng.choice([0, MASK32, 0xC0000000 + lab.rng.getrandbits(24), 0xC0000000 + lab.rng.getrandbits(24)]))
            mover.look()
        mover.count()
        mover.script.run()


# --- 9.6 messages ---


class Messages:
    """MSI-X, as it should be."""

    def __init__(self, vectors):
        self.vectors, self.entries = vectors, [[0, 0, 1] for _ in range(vectors)]  # address, datum, masked
        self.enabled = self.masked = self.refused = False
        self.pending, self.routed = set(), set()

    def deliver(self, v):
        out = []
        if v not in self.routed:
            out.append([v, self.entries[v][0], self.entries[v][1]])
            if self.refused:
                return out
            self.routed.add(v)
        return [*out, [v]]

    def is_masked(self, v):
        return self.masked or self.entries[v][2]

    def deliver_pending(self):
        out = []
        for v in sorted(self.pending) if self.enabled else ():
            if not self.is_masked(v):
                self.pending.discard(v)
                out += self.deliver(v)
        return out

    def control(self, enabled, masked):
        self.enabled, self.masked = enabled, masked
        return self.deliver_pending()

    def write(self, offset, value):
        v, word = offset // 16, offset // 4 % 4
        if v >= self.vectors:
            return []
        entry = self.entries[v]
        if word == 0:
            entry[0] = entry[0] & ~MASK32 | value
        elif word == 1:
            entry[0] = entry[0] & MASK32 | value << 32
        elif word == 2:
            entry[1] = value
        else:
            entry[2] = value & 1
        if word != 3:
            self.routed.discard(v)
        return self.deliver_pending()

    def notify(self, v):
        if not self.enabled or v >= self.vectors:
            return []
        if self.is_masked(v):
            self.pending.add(v)
            return []
        return self.deliver(v)


class Msix:
    """The script of it, with its model; what was told is [vector, address, datum] for a route, [vector] for a message."""

    def __init__(self, lab, vectors):
        self.lab, self.script, self.model = lab, Script(lab, "msix"), Messages(vectors)
        self.script.do(f"fresh {vectors}")

    def say(self, line, tried, told):
        pending = sum(1 << v for v in self.model.pending)
        self.script.do(line, f"{tried}: routes [vector, address, datum] and messages [vector]", told=told)
        self.script.wants.append((len(self.script.lines) - 1, tried, {"pending": pending}))

    def control(self, enabled, masked):
        word = enabled << 15 | masked << 14 | self.model.vectors - 1
        self.say(f"control {word}", f"MSI-X {'on' if enabled else 'off'}{', all masked' if masked else ''}", self.model.control(enabled, masked))

    def table(self, v, word, value):
        name = ("address, low", "address, high", "datum", "vector control")[word]
        self.say(f"table {16 * v + 4 * word} 4 {value}", f"vector {v}'s {name} becomes {value:#x}", self.model.write(16 * v + 4 * word, value))

    def entry(self, v, masked=False):
        self.table(v, 0, 0xFEE00000 | self.lab.rng.randrange(256) << 12)
        self.table(v, 2, 0x4000 | self.lab.rng.randrange(32, 256))
        self.table(v, 3, int(masked))

    def notify(self, v, what=""):
        self.say(f"notify {v}", f"an interrupt of vector {v}{what}", self.model.notify(v))


def messages(lab):
    vectors = lab.rng.choice([3, 5, 64])
    m = Msix(lab, vectors)
    m.notify(0, ", MSI-X is off")
    m.control(True, False)
    m.notify(0, ", masked")
    m.entry(1)
    m.notify(1, ", for the first time")
    m.notify(1, ", for the second time: no new route")
    m.table(1, 2, 0x4055)
    m.notify(1, ", when its datum is another one")
    m.table(1, 3, 1)
    for _ in range(3):
        m.notify(1, ", masked")
    m.table(1, 3, 0)
    m.entry(0)
    m.control(True, True)
    for v in (2, 1, 0):
        m.notify(v, ", all masked")
    m.control(True, False)
    m.entry(2)
    for v in (vectors, vectors + 1, 0xFFFF, 0xFFFFFFFF, 64, 65):
        if v >= vectors:
            m.notify(v, ", which there is not")
    m.control(False, False)
    m.notify(1, ", MSI-X is off")
    m.table(0, 3, 1)
    m.control(True, False)
    m.notify(0, ", masked")
    m.control(False, False)
    m.table(0, 3, 0)
    m.control(True, False)
    m.table(1, 0, 0xFEE01000)
    m.script.do("refuse -22")
    m.model.refused = True
    m.notify(1, ", whose message leads nowhere")
    m.notify(1, ", once more")
    m.script.do("refuse 0")
    m.model.refused = False
    m.notify(1, ", which can be routed again")
    for _ in range(250):
        v, what = lab.rng.randrange(vectors), lab.rng.random()
        if what < 0.5:
            m.notify(v)
        elif what < 0.8:
            m.table(v, 3, lab.rng.randrange(2))
        elif what < 0.9:
            m.table(v, lab.rng.randrange(3), lab.rng.getrandbits(32))
        else:
            m.control(lab.rng.random() < 0.8, lab.rng.random() < 0.3)
    m.script.run()


# --- 9.7, 9.8: KVM ---


def doorbells(lab):
    script = Script(lab, "eventfd")
    for _ in range(30):
        gpa, size, fd = lab.rng.choice([0xC0003000, 0xFE000050, lab.rng.getrandbits(44) & ~3]), lab.rng.choice([0, 1, 2, 4, 8]), lab.rng.randrange(3, 2000)
        has_match, match, add = lab.rng.randrange(2) if size else 0, lab.rng.getrandbits(8 * size) if size else 0, lab.rng.random() < 0.6
        tried = (f"a doorbell of {size} bytes at {gpa:#x}, {f'for the value {match:#x}' if has_match else 'for any value'}, {'added' if add else 'removed'}: "
                 "struct kvm_ioeventfd")  # fmt: skip
        want = {"rc": 0, "calls": 1, "strange": False, "addr": gpa, "len": size, "fd": fd, "flags": has_match | (0 if add else 4)}
        if has_match:
            want["datamatch"] = match
        script.do(f"bell {'add' if add else 'remove'} {gpa} {size} {has_match} {match} {fd}", tried, **want)
    for number in (errno.ENOSPC, errno.EEXIST):
        script.do(f"answer {number}")
        script.do("bell add 0xc0003000 4 0 0 5", f"a doorbell, when KVM says {errno.errorcode[number]}", rc=-number)
    script.run()


def exits_per_packet(lab):
    """Counted by a driver that runs the guest itself."""
    for size in (4, 2):
        count, gpa = lab.rng.randrange(40, 200), lab.rng.randrange(0x20000, 0x90000) & ~0xF | 8
        got = lab.driver("bell", count, gpa, size, limit=15).record
        if not got.get("made"):
            raise CannotRun("no machine can be made here")
        tried = f"a guest notifies {count} times, {size} bytes at {gpa:#x}"
        lab.expect(f"{tried}; nobody has told KVM: exits", count, got["before_exits"])
        lab.expect(f"{tried}: vm_doorbell_add()", "0", named(got["added"]))
        lab.expect(f"{tried}; with a doorbell there: exits", 0, got["with_exits"])
        lab.expect(f"{tried}; with a doorbell there: what its eventfd has counted", count, got["with_rung"])
        lab.expect(f"{tried}: vm_doorbell_remove()", "0", named(got["removed"]))
        lab.expect(f"{tried}; the doorbell is gone: exits", count, got["after_exits"])
        lab.expect(f"{tried}; the doorbell is gone: what its eventfd has counted", 0, got["after_rung"])


PINS = sorted([[gsi, 1, gsi // 8, gsi % 8] for gsi in range(16)] + [[gsi, 1, 2, gsi] for gsi in range(24)])


def routes(lab):
    script, wants = Script(lab, "eventfd"), []
    for case in range(12):
        count = (0, 1, 512, *[lab.rng.randrange(2, 40)] * 9)[case]
        used = [i for i in range(count) if lab.rng.random() < (1.0 if case in (1, 2) else 0.6)]
        given = {i: (lab.rng.choice([0xFEE00000, lab.rng.getrandbits(40)]), lab.rng.getrandbits(32)) for i in used}
        words = " ".join(f"{i} {address} {data}" for i, (address, data) in given.items())
        place = script.do(f"messages {count} {words}", f"{count} messages, {len(used)} of them used", rc=0, calls=1, strange=False)
        wants.append((place, f"{count} messages, {len(used)} of them used", sorted([24 + i, 2, *given[i]] for i in used)))
    script.do("answer 22")
    script.do("messages 1 0 0xfee00000 0x4041", "a message that KVM refuses (EINVAL)", rc=-errno.EINVAL)
    seen = script.run()
    for place, tried, want in wants:
        entries = seen[place]["entries"]
        lab.expect(f"{tried}: routes of pins [GSI, KVM_IRQ_ROUTING_IRQCHIP, chip, pin]", PINS, sorted(each for each in entries if each[0] < 24))
        lab.expect(f"{tried}: routes of messages [GSI, KVM_IRQ_ROUTING_MSI, address, datum]", want, sorted(each for each in entries if each[0] >= 24))
        lab.expect(f"{tried}: entries, as `nr` says", len(PINS) + len(want), seen[place]["nr"])


# --- 9.9 virtio's capabilities ---

COMMON, NOTIFY, ISR, DEVICE, CONFIG = 1, 2, 3, 4, 5
NAMES_OF_TYPES = {COMMON: "common configuration", NOTIFY: "notification", ISR: "interrupt status", DEVICE: "device configuration",
                  CONFIG: "configuration access"}  # fmt: skip
BAR_ADDRESS = 0xC0040000


def capabilities_of(lab, config):
    """[(id, offset)] as the list has them."""
    out, at = [], config[CAPABILITIES]
    while at:
        lab.expect_true("the list of capabilities", "each of them at a dword behind the header, none twice",
                        at % 4 == 0 and at >= 0x40 and at not in [each for _, each in out], f"one at {at:#x}")  # fmt: skip
        out.append((config[at], at))
        at = config[at + 1]
    return out


def virtio_caps(lab, queues):
    """{type: (offset in the configuration space, fields)} of a device with so many queues."""
    script = Pci(lab)
    script.do(f"virtio {queues}", rc=0)
    places = script.dump(1)
    config = space(script.run(), places)
    lab.expect("vendor, device", (0x1AF4, 0x1044), struct.unpack_from("<HH", config))
    found = {}
    for name, at in capabilities_of(lab, config):
        if name == 9:
            length, kind, bar = config[at + 2 : at + 5]
            found.setdefault(kind, (at, length, bar, *struct.unpack_from("<II", config, at + 8), struct.unpack_from("<I", config, at + 16)[0]))
    return found


def capabilities(lab):
    queues = lab.rng.randrange(1, 9)
    found = virtio_caps(lab, queues)
    tried = f"a virtio device with {queues} queues on PCI"
    lab.expect(f"{tried}: types of its vendor's capabilities", sorted(NAMES_OF_TYPES), sorted(found))
    wants = {NOTIFY: (20, 0x3000, 4 * queues), ISR: (16, 0x1000, 1), DEVICE: (16, 0x2000, 0x1000), CONFIG: (20, 0, 0)}
    for kind, (_, cap_len, bar, offset, length, multiplier) in found.items():
        what = f"{tried}: {NAMES_OF_TYPES[kind]}"
        lab.expect(f"{what}: BAR", 0, bar)
        if kind == COMMON:
            lab.expect(f"{what}: cap_len, offset", (16, 0), (cap_len, offset))
            lab.expect_true(f"{what}: length", "the structure's, 56 at least", 56 <= length <= 64, length)
        else:
            lab.expect(f"{what}: cap_len, offset, length", wants[kind], (cap_len, offset, length))
        if kind == NOTIFY:
            lab.expect(f"{what}: notify_off_multiplier", 4, multiplier)
    use_caps(lab, queues, found)


def use_caps(lab, queues, found):
    """A driver that believes them."""
    script = Pci(lab)
    script.do(f"virtio {queues}", rc=0)
    script.write(1, BAR0, 4, BAR_ADDRESS)
    script.write(1, BAR0 + 4, 4, 0)
    bells = [["bell", i, 1, BAR_ADDRESS + 0x3000 + 4 * i] for i in range(queues)]
    script.write(1, COMMAND, 2, MEMORY_ON, "memory is allowed: doorbells [queue, there, address]", events=bells)
    common, notify = BAR_ADDRESS + found[COMMON][3], BAR_ADDRESS + found[NOTIFY][3]
    script.do(f"rd {common + 0x12} 2", "num_queues, where the capability says", value=queues)
    script.do(f"wr {common + 0x14} 1 3")
    script.do(f"rd {common + 0x14} 1", "device_status after 3 was written", value=3)
    queue = lab.rng.randrange(queues)
    script.do(f"wr {notify + queue * found[NOTIFY][5]} 2 {queue}", f"the doorbell of queue {queue}, where the capability says", events=[["kick", queue]])
    at = found[CONFIG][0]
    for line in ((at + 4, 1, 0), (at + 8, 4, found[COMMON][3] + 0x14), (at + 12, 4, 1)):
        script.write(1, *line)
    script.read(1, at + 16, 1, "device_status, through the configuration access capability", value=3)
    script.run()


# --- 9.10 frames out of a stream ---

FRAME_MAX = 65550


def framed(frame):
    return struct.pack(">I", len(frame)) + frame


def receive(script, tried, frame, rooms):
    """A frame comes whole, or is lost for want of room."""
    if sum(rooms) < len(frame):
        script.do("receive " + " ".join(map(str, rooms)), f"{tried}, into pieces of {rooms} bytes", rc=-errno.EMSGSIZE, beyond=False)
    else:
        script.do("receive " + " ".join(map(str, rooms)), f"{tried}, into pieces of {rooms} bytes", rc=len(frame), bytes=frame[:600].hex(), beyond=False)


def frames(lab):
    script, rng = Script(lab, "stream"), lab.rng
    script.do("open", rc=0)
    script.do("receive 2000", "net_receive() when nothing has come", rc=-errno.EAGAIN)
    some = [rng.randbytes(rng.choice([14, 60, 600, rng.randrange(14, 1500)])) for _ in range(5)] + [b"x"]
    for frame in some[:2]:
        script.do(f"feed {framed(frame).hex()}")
        receive(script, f"a frame of {len(frame)} bytes", frame, [2000])
    script.do(f"feed {b''.join(map(framed, some)).hex()}")
    for i, frame in enumerate(some):
        receive(script, f"frame {i} of {len(some)} that came together, {len(frame)} bytes", frame, rng.choice([[2000], [1, 12, 2000], [100, 1900]]))
    script.do("receive 2000", "net_receive() when all have been taken", rc=-errno.EAGAIN)
    frame = rng.randbytes(20)
    for i, byte in enumerate(framed(frame)):
        script.do("receive 2000", f"a frame of 20 bytes, of which {i} bytes have come (the length's 4 among them)", rc=-errno.EAGAIN, beyond=False)
        script.do(f"feed {byte:02x}")
    receive(script, "a frame that came byte by byte", frame, [2000])
    script.do(f"feed {(framed(some[0]) + framed(some[1])[:7]).hex()}")
    receive(script, "a frame, with the beginning of the next one behind it", some[0], [2000])
    script.do("receive 2000", "the beginning of a frame", rc=-errno.EAGAIN)
    script.do(f"feed {framed(some[1])[7:].hex()}")
    receive(script, "that frame, when the rest has come", some[1], [2000])
    script.do(f"feed {(framed(bytes(100)) + framed(some[2])).hex()}")
    receive(script, "a frame of 100 bytes", bytes(100), [60, 39])
    receive(script, "the frame behind one that was too long", some[2], [2000])
    longest = rng.randbytes(500) + bytes(FRAME_MAX - 500)
    for _ in range(3):
        script.do(f"feed {framed(longest)[:504].hex()}", fed=504)
        script.do(f"zeros {FRAME_MAX - 500}", fed=FRAME_MAX - 500)
        receive(script, f"a frame of {FRAME_MAX} bytes, the longest", longest, [1000, 65000])
    script.do(f"feed {(framed(some[3]) + framed(some[4])[:9]).hex()}")
    script.do("hangup")
    receive(script, "a frame from a peer that has gone since", some[3], [2000])
    script.do("receive 2000", "net_receive() when the peer has gone in the midst of a frame", rc=-errno.ENOTCONN)
    script.do("receive 2000", "net_receive() without a peer", rc=-errno.ENOTCONN)
    for what, length in (("0", 0), (f"{FRAME_MAX + 1}", FRAME_MAX + 1)):
        script.do("open", rc=0)
        script.do(f"feed {(framed(some[0]) + struct.pack('>I', length) + bytes(60)).hex()}")
        receive(script, f"a frame before one of the length {what}", some[0], [2000])
        script.do("receive 2000", f"a frame of the length {what}", rc=-errno.ENOTCONN)
        script.do("drain", f"after a frame of the length {what}", gone=True)
    script.run()


# --- the network device: drivers/net.c ---

F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_TSO4, F_HOST_TSO6, F_MRG = (1 << bit for bit in (0, 1, 7, 8, 11, 12, 15))
RX, TX = 0, 1
TX_DATA, RX_DATA = 0x100000, 0x200000
MAC = bytes((2, 0, 0, 0, 0, 1))
HEADER = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
GSO_TCPV4, GSO_UDP, GSO_TCPV6 = 1, 3, 4


def is_good(features, header, frame):
    """§5.1.6.2.1, and no offload that was not agreed on."""
    flags, gso, hdr_len, gso_size, start, offset, _ = header
    csum = bool(flags & 1)
    if gso not in (0, GSO_TCPV4, GSO_TCPV6):
        return False
    if gso and not features & (F_HOST_TSO4 if gso == GSO_TCPV4 else F_HOST_TSO6):
        return False
    if gso and (gso_size == 0 or not csum):
        return False
    if hdr_len > frame:
        return False
    return not csum or (bool(features & F_CSUM) and start + offset + 2 <= frame)


class Net:
    """A script for a network device, with the counters that it should have."""

    def __init__(self, lab):
        self.lab, self.script = lab, Script(lab, "net")
        self.script.do("net", rc=0)
        self.counts = {"sent": 0, "received": 0, "dropped_in": 0, "dropped_out": 0}

    def start(self, features):
        self.features = features
        self.script.do(f"start {features}", f"a driver begins, features {features:#x}", status=15)

    def transmit(self, header, frame, pieces=None, tried=None):
        """One frame of the guest's, in PIECES bytes each, and whether it comes out of the other end."""
        data = HEADER.pack(*header) + frame
        lengths = pieces or [12, len(data) - 12]
        self.script.do(f"put {TX_DATA} {data.hex()}")
        words, at = [], TX_DATA
        for length in lengths:
            words += [at, length, 0]
            at += length
        self.script.do(f"offer {TX} 0 {len(lengths)} {' '.join(map(str, words))}")
        good = is_good(self.features, header, len(frame)) and 14 <= len(frame) <= FRAME_MAX
        self.counts["sent" if good else "dropped_out"] += 1
        what = "flags {:#x}, gso_type {}, hdr_len {}, gso_size {}, csum_start {}, csum_offset {}".format(*header[:6])
        tried = tried or f"a frame of {len(frame)} bytes after the header {what}, features {self.features:#x}"
        self.script.do(f"kick {TX}", tried, status=15, **self.counts)
        self.script.do(f"used {TX}", tried, elements=[[0, 0]])
        passed = HEADER.pack(header[0] & 1, *header[1:6], 0) + frame
        self.script.do("take", f"{tried}: at the other end", **({"frames": 1, "frame0": passed.hex()} if good else {"frames": 0}))


def odd_header(rng, frame):
    """A header, good ones among them."""
    near = [0, 1, 14, 34, frame - 2, frame - 1, frame, frame + 1, 0xFFFF, 0x8000, rng.randrange(0x10000)]
    flags = rng.choice([0, 1, 1, 1, 2, 3, 0xFF, rng.randrange(256)])
    return (flags, rng.choice([0, 0, GSO_TCPV4, GSO_TCPV4, GSO_TCPV6, GSO_UDP, 5, 0x80, 0x81]), rng.choice(near) & 0xFFFF, rng.choice([0, 1, 1448, 0xFFFF]),
            rng.choice(near) & 0xFFFF, rng.choice([0, 6, 16, *near]) & 0xFFFF, rng.choice([0, 1, 0xFFFF]))  # fmt: skip


def headers(lab):
    every = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6
    net, rng = Net(lab), lab.rng
    for features in (every, 0, F_CSUM, F_CSUM | F_HOST_TSO4, F_CSUM | F_HOST_TSO6):
        net.start(features)
        size = rng.randrange(100, 900)
        frame = rng.randbytes(size)
        good = (1, GSO_TCPV4, 54, 1448, 34, 16, 0)
        for header in (
            (0, 0, 0, 0, 0, 0, 0), good, (1, GSO_TCPV6, 74, 1428, 54, 16, 0), (1, 0, 0, 0, 34, 16, 0), (1, GSO_UDP, 42, 1448, 34, 6, 0), (1, 5, 42, 1448, 34, 6, 0),
            (1, 0x80 | GSO_TCPV4, 54, 1448, 34, 16, 0), (1, 2, 54, 1448, 34, 16, 0), (0, GSO_TCPV4, 54, 1448, 34, 16, 0), (1, GSO_TCPV4, 54, 0, 34, 16, 0),
            (1, 0, 0, 0, size - 18, 16, 0), (1, 0, 0, 0, size - 17, 16, 0), (1, 0, 0, 0, 16, size - 17, 0), (1, 0, 0, 0, size, 0, 0), (1, 0, 0, 0, 0xFFFF, 0xFFFF, 0),
            (1, 0, 0, 0, 0xFFFF, 1, 0), (0, 0, size, 0, 0, 0, 0), (0, 0, size + 1, 0, 0, 0, 0), (0, 0, 0, 0, 0xFFFF, 0xFFFF, 0), (2, 0, 0, 0, 0, 0, 7),
            (0xFE, 0, 0, 77, 0, 0, 0),
        ):  # fmt: skip
            net.transmit(header, frame)
    net.script.run(limit=12)


class Receiver(Net):
    """Buffers that wait, oldest first: [head, address, bytes]."""

    def __init__(self, lab, features, size):
        super().__init__(lab)
        self.start(features)
        self.waiting, self.next, self.size = [], 0, size

    def offer(self, length):
        head, self.next = self.next, (self.next + 1) % 64
        address = RX_DATA + 0x8000 * head
        self.script.do(f"put {address} {'5a' * (length + 8)}")
        self.script.do(f"offer {RX} {head} 1 {address} {length} {WRITE}")
        self.waiting.append((head, address, length))

    def fill(self):
        """Until the longest frame has room."""
        while sum(length for *_, length in self.waiting) < self.size or not self.waiting:
            self.offer(self.lab.rng.choice([12, 13, 60, 100, 512, self.lab.rng.randrange(12, 1000)]))
        self.script.do(f"kick {RX}")

    def expect(self, frame, tried, header=(0, 0, 0, 0, 0, 0, 0)):
        """A frame comes, and fills the first buffers."""
        whole, taken, at = HEADER.pack(*header) + frame, [], 0
        merges = bool(self.features & F_MRG)
        room = sum(length for *_, length in self.waiting) if merges else self.waiting[0][2]
        self.script.do(f"send {whole.hex()}", rc=len(whole))
        fits = len(whole) <= room
        self.counts["received" if fits else "dropped_in"] += 1
        while fits and at < len(whole):
            head, address, length = self.waiting.pop(0)
            here = min(length, len(whole) - at)
            taken.append((head, address, length, at, here))
            at += here
        whole = HEADER.pack(*header[:6], len(taken)) + frame
        self.script.do(f"used {RX}", f"{tried}, its header among them", elements=[[head, here] for head, *_, here in taken], **self.counts)
        for head, address, length, start, here in taken:
            # what is behind the frame in its buffer is nobody's
            self.script.do(f"get {address} {here}", f"{tried}: what the frame has in buffer {head}", bytes=whole[start : start + here].hex())
            self.script.do(f"get {address + length} 8", f"{tried}: the 8 bytes behind buffer {head}", bytes="5a" * 8)


def merged(lab):
    rng = lab.rng
    receiver = Receiver(lab, F_MRG, 2048)
    for length in (14, 60, 1514, 2036, *(rng.randrange(14, 2037) for _ in range(14))):
        receiver.fill()
        receiver.expect(MAC + rng.randbytes(length - 6), f"a frame of {length} bytes into buffers of {[each[2] for each in receiver.waiting][:8]} bytes")
    receiver.script.run()
    receiver = Receiver(lab, F_MRG, 2048)
    for length in (500, 500, 100):
        receiver.offer(200)
        receiver.offer(312)
        receiver.script.do(f"kick {RX}")
        receiver.expect(MAC + rng.randbytes(length - 6), f"a frame of {length} bytes that fills buffers of 200 and 312 bytes to the end, or not")
    receiver.script.run()
    large = Receiver(lab, F_MRG | F_GUEST_CSUM | F_GUEST_TSO4, 65562)
    for _ in range(44):
        large.offer(1526)
    large.script.do(f"kick {RX}")
    large.expect(MAC + rng.randbytes(30000), "a segment of 30006 bytes into buffers of 1526 bytes", (1, GSO_TCPV4, 54, 1448, 34, 16, 0))
    large.script.run()
    single = Receiver(lab, 0, 1)
    for room, length in ((2000, 1500), (100, 88), (100, 89), (100, 14), (26, 14), (1526, 1514), (1526, 1515)):
        if not single.waiting:
            single.offer(room)
        elif single.waiting[0][2] != room:
            continue
        single.script.do(f"kick {RX}")
        single.expect(MAC + rng.randbytes(length - 6), f"a frame of {length} bytes into one buffer of {room}, without mergeable buffers")
        if length == 89:
            single.expect(MAC + bytes(40), "a frame of 46 bytes, after one that did not fit")
    single.script.run()


# --- a guest's driver, and two machines ---

# Flat, 32-bit protected mode. SLOT_1 + offset is what 0xcf8 takes for the first function behind the bridge.
GUEST = """
        .set    SLOT_1, 0x80000800
        .code16
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        lgdtl   gdt_pointer
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $8, $1f
        .code32
1:      mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7000, %esp
        jmp     first
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   23
        .long   gdt
first:
"""
GAVE_UP = 63  # what a guest ends with that has waited in vain


class Guest:
    """Code for a guest's driver of the first function on PCI, a line at a time."""

    def __init__(self, lab):
        self.lab, self.code, self.labels, self.data = lab, [], 0, []
        self.bar = lab.rng.randrange(0xC4000000 >> 15, 0xF8000000 >> 15) << 15
        self.size = 16
        at = lab.rng.randrange(0x100, 0x180) * 0x1000
        self.at = [at, at + 0x1000, at + 0x2000]

    def add(self, *lines):
        self.code += [f"        {line}" for line in lines]

    def config(self, offset, value, size=4):
        register, letter = {4: ("eax", "l"), 2: ("ax", "w"), 1: ("al", "b")}[size]
        self.add("mov     $0xcf8, %dx", f"mov     $SLOT_1 + {offset & 0xFC:#x}, %eax", "outl    %eax, %dx", f"mov     ${0xCFC + offset % 4:#x}, %dx",
                 f"mov     ${value:#x}, %eax", f"out{letter}    %{register}, %dx")  # fmt: skip

    def show_config(self, offset):
        """Four bytes of the configuration space, to the debug port."""
        self.add("mov     $0xcf8, %dx", f"mov     $SLOT_1 + {offset & 0xFC:#x}, %eax", "outl    %eax, %dx", "mov     $0xcfc, %dx", "inl     %dx, %eax",
                 "mov     $4, %ecx", f"{self.label()}: out %al, $0xe9", "shr     $8, %eax", f"loop    l{self.labels}")  # fmt: skip

    def register(self, offset, value, size=4):
        self.add(f"mov{ {4: 'l', 2: 'w', 1: 'b'}[size]}    ${value:#x}, {self.bar + offset:#x}")

    def word(self, gpa, value):
        self.add(f"movw    ${value & 0xFFFF:#x}, {gpa:#x}")

    def label(self):
        self.labels += 1
        return f"l{self.labels}"

    def place(self):
        """BAR 0 where we want it, and memory on."""
        self.config(BAR0, self.bar)
        self.config(BAR0 + 4, 0)
        self.config(COMMAND, MEMORY_ON | MASTER_ON, 2)

    def begin(self, features, queue):
        """A driver's beginning, with one queue in use."""
        self.register(0x14, 0, 1)
        for status in (1, 3):
            self.register(0x14, status, 1)
        for half, bits in ((0, features), (1, 1)):
            self.register(0x08, half)
            self.register(0x0C, bits)
        self.register(0x14, 11, 1)
        self.register(0x16, queue, 2)
        self.register(0x18, self.size, 2)
        for offset, gpa in zip((0x20, 0x28, 0x30), self.at):
            self.register(offset, gpa)
            self.register(offset + 4, 0)
        self.register(0x1C, 1, 2)
        self.register(0x14, 15, 1)

    def offer(self, position, address, length, flags):
        at = self.at[0] + 16 * (position % self.size)
        self.add(f"movl    ${address}, {at:#x}", f"movl    $0, {at + 4:#x}", f"movl    ${length:#x}, {at + 8:#x}", f"movl    ${flags}, {at + 12:#x}")
        self.word(self.at[1] + 4 + 2 * (position % self.size), position % self.size)
        self.word(self.at[1] + 2, position + 1)

    def wait(self, idx):
        """Polls until the used ring's index is IDX; after some 2^33 cycles it gives up, and the machine ends."""
        loop, out = self.label(), self.label()
        self.add("rdtsc", "mov     %edx, %ecx", f"{loop}: pause", f"cmpw    ${idx & 0xFFFF:#x}, {self.at[2] + 2:#x}", f"je      {out}",
                 "rdtsc", "sub     %ecx, %edx", "cmp     $3, %edx", f"jb      {loop}",
                 f"mov     ${GAVE_UP}, %al", "out     %al, $0xf4", "hlt", f"{out}:")  # fmt: skip

    def bytes(self, data):
        name = f"data{len(self.data)}"
        self.data.append(f"{name}: .byte {', '.join(map(str, data))}")
        return name

    def end(self, value):
        self.add(f"mov     ${value}, %al", "out     %al, $0xf4", "hlt")

    def file(self):
        return self.lab.guest("\n".join([GUEST, *self.code, *self.data]))


def run_guest(lab, path, tried, value, *options):
    run = lab.hv("run", "--boot", "flat", "--kernel", path, *options, limit=20)
    if b"/dev/kvm" in run.err and run.status == 2:
        raise CannotRun("no machine can be made here")
    lab.expect_true(f"{tried}: the used ring's index", "moves", run.status != GAVE_UP << 1 | 1, "does not, for some seconds")
    lab.expect(f"{tried}: the end", f"exit status {value << 1 | 1}", run.how())
    return run


def frames_of(path):
    """The frames in a pcap file, or None."""
    try:
        if os.path.islink(path):
            return None
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return None
    out, at = [], 24
    while at + 16 <= len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        out.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return out


def guest_net(lab):
    """Configuration space, a BAR that moves, a transmit queue; the frames are seen on the cable."""
    guest, rng = Guest(lab), lab.rng
    sent, value = [rng.randbytes(rng.randrange(14, 200)) for _ in range(rng.randrange(18, 30))], rng.randrange(1, 60)
    guest.show_config(0)
    guest.place()
    guest.begin(0, TX)
    for i, frame in enumerate(sent):
        guest.offer(i, guest.bytes(bytes(12) + frame), 12 + len(frame), 0)
        guest.register(0x3000 + 4 * TX, TX, 2)
        guest.wait(i + 1)
    guest.end(value)
    tried = f"a guest puts BAR 0 at {guest.bar:#x} and transmits {len(sent)} frames"
    cable = os.path.join(lab.scratch, "cable.pcap")
    run = run_guest(lab, guest.file(), tried, value, "--net", f"none,pcap={cable}")
    lab.expect(f"{tried}: vendor and device, read at 0xcfc", "f41a4110", run.out[:4].hex())
    got = frames_of(cable)
    lab.expect(f"{tried}: frames on the cable", len(sent), "none at all" if got is None else len(got))
    for i, (want, seen) in enumerate(zip(sent, got)):
        lab.expect(f"{tried}: frame {i} on the cable", want.hex(), seen.hex())


INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox modprobe virtio_pci
busybox modprobe virtio_net
busybox ifconfig lo 127.0.0.1
"""
SERVER = INIT + """busybox ifconfig eth0 10.9.0.1 netmask 255.255.255.0 up
busybox mkdir /www
busybox cp /word /www/word
busybox httpd -p 80 -h /www
echo "check: serving"
busybox sleep 1000
"""
CLIENT = INIT + """[ -e /sys/class/net/eth0 ] || { echo "there is no eth0"; busybox poweroff -f; }
echo "check: address $(busybox cat /sys/class/net/eth0/address)"
busybox ifconfig eth0 10.9.0.2 netmask 255.255.255.0 up
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    busybox ping -c 1 -W 1 10.9.0.1 && break
done
busybox ping -c 3 -W 5 10.9.0.1 | busybox sed -n 's/^\\([0-9]*\\) packets transmitted, \\([0-9]*\\) .*/check: pings \\2/p'
for i in 1 2 3; do
    busybox timeout 15 busybox wget -q -O /got http://10.9.0.1/word && break
    busybox sleep 1
done
busybox sha256sum /got | busybox sed 's/^/check: word /'
busybox sed -n 's/^ *[0-9]*:.* PCI-MSI.* \\(virtio0-.*\\)$/check: vector \\1/p' /proc/interrupts
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


def initramfs(lab, name, base, script, secret):
    """BASE, and behind it an archive of our own."""
    sys.path.insert(0, os.path.join(ROOT, "guest/linux"))
    import newc

    archive = newc.Archive()
    archive.file("check", script.encode(), 0o755)
    archive.file("word", secret)
    path = os.path.join(lab.scratch, name)
    with open(path, "wb") as out:
        archive.write(out)
    with open(path, "rb") as file:
        mine = file.read()
    with open(base, "rb") as file:
        theirs = file.read()
    with open(path, "wb") as out:
        out.write(theirs + mine)
    return path


def two_machines(lab):
    """One sandbox, two machines in it; only the server's has the file."""
    kernel, base = kernel_file()
    secret = lab.rng.randbytes(300000)
    mac = f"02:00:00:{lab.rng.randrange(256):02x}:{lab.rng.randrange(256):02x}:02"
    hv, socket = os.path.join(lab.tree, "build/release/hv"), os.path.join(lab.scratch, "cable")

    def machine(name, script, net, word):
        files = initramfs(lab, name, base, script, word)
        return [hv, "run", "--kernel", kernel, "--initrd", files, "--memory", "160M", "--cpus", "1", "--net", net,
                "--append", "console=ttyS0 quiet panic=-1 rdinit=/check"]  # fmt: skip

    server = shlex.join(machine("server", SERVER, f"listen={socket}", secret))
    client = shlex.join(machine("client", CLIENT, f"stream={socket},mac={mac}", b"-"))
    both = (f"{server} >server.out 2>&1 </dev/null & one=$!; i=0; "
            f"while [ ! -S {shlex.quote(socket)} ] && [ $i -lt 50 ]; do sleep 0.2; i=$((i+1)); done; {client} </dev/null; status=$?; kill $one; exit $status")  # fmt: skip
    run = lab.run(["sh", "-c", both], limit=80, hang_ok=True)
    lines = [line.strip() for line in run.out.decode(errors="replace").splitlines()]
    lines = [line.removeprefix("check: ") for line in lines if line.startswith("check: ")]
    last = run.out.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    tried = "two machines with a Debian kernel each, on one cable"
    lab.expect_true(f"{tried}: the client's script", "all of its lines", "done" in lines, f"{run.how()}; the last line of the console: {last[0][-120:]}")
    words = dict(line.split(" ", 1) for line in lines if " " in line)
    lab.expect(f"{tried}: the client's address", mac, words.get("address"))
    lab.expect(f"{tried}: a file of {len(secret)} bytes, fetched from the other one: its SHA-256", hashlib.sha256(secret).hexdigest(),
               words.get("word", "").split(" ")[0])  # fmt: skip
    lab.expect(f"{tried}: pings that were answered, of 3", "3", words.get("pings"))
    lab.expect_true(f"{tried}: vectors of the client's device", "one for each queue, at least", sum(line.startswith("vector ") for line in lines) >= 2, lines)
    lab.expect(f"{tried}: after poweroff", "exit status 0", run.how())


# --- the hostile guest ---


def bad_config(lab):
    """Anything, anywhere among the eight ports; what cannot be written stays."""
    rng, bars = lab.rng, three_bars(lab)
    script = Pci(lab)
    script.do("fn 0x1af4 0x1041")
    for bar in bars:
        script.do(bar.line(0))
    script.do("add 0", rc=0)
    kept = (0, 8, 0x2C, CAPABILITIES, 0xFC)
    before = [script.read(1, offset, 4) for offset in kept]
    for _ in range(1500):
        size = rng.choice([1, 2, 4])
        port = rng.choice([ADDRESS_PORT, DATA_PORT, DATA_PORT, rng.randrange(0xCF4, 0xD02)])
        if port == ADDRESS_PORT and rng.random() < 0.8:
            script.do(f"out {port} 4 {ENABLE | rng.choice([0, 1, 1, 1, 2, 31]) << 11 | rng.randrange(256) | rng.choice([0, 0, 0, 1]) << 8 | rng.choice([0, 0, 0, 1, 255]) << 16}")
        elif rng.random() < 0.3:
            script.do(f"in {port} {size}")
        else:
            script.do(f"out {port} {size} {rng.choice([0, ones(size), rng.getrandbits(8 * size)])}")
    after = [script.read(1, offset, 4) for offset in kept]
    script.read(0, 0, 4, "the host bridge's vendor and device, after 1500 accesses at random", value=0x12378086)
    line = rng.randrange(1, 256)
    script.write(1, IRQ_LINE, 1, line)
    script.read(1, IRQ_LINE, 1, f"the interrupt line register, after 1500 accesses at random and then {line:#x}", value=line)
    for offset in (0xFC, 0xFE, 0xFF):
        for size in (4, 2, 1):
            if offset + size <= 256:
                script.write(1, offset, size, ones(size))
                script.read(1, offset, size, f"the last bytes of a configuration space ({size} at {offset:#x}), after ones were written", value=0)
    seen = script.run(limit=12)
    for offset, old, new in zip(kept, before, after):
        lab.expect(f"the dword at {offset:#x} of a configuration space, none of whose bits can be written, after 1500 accesses at random",
                   hexa(seen[old]["value"]), hexa(seen[new]["value"]))  # fmt: skip


def bad_bars(lab):
    """Onto RAM, ROM, another window, the bridge's ports, over the end; with doorbells behind it."""
    for _ in range(2):
        mover = Mover(lab, three_bars(lab))
        low, io, high = mover.model.bars
        mover.command(MEMORY_ON | IO_ON)
        mover.move(io, 0x3000)
        for bar, address, what in (
            (low, 0, ", onto RAM at 0"), (low, 0xF0000, ", into RAM"), (low, 0xC1000000, ", onto ROM"), (high, 4 * GIB, ", onto RAM above 4 GiB"),
            (high, 4 * GIB + MIB - high.size, ", onto the end of RAM"), (high, MASK64 - high.size, ", to the end of the address space"), (io, 0xCF8 & ~(io.size - 1), ", onto the bridge's own ports"),
            (io, 0x10000, ", beyond the last port"), (io, 0xFFFFF000, ", far beyond the last port"),
        ):  # fmt: skip
            mover.move(bar, address, what)
            mover.look()
            mover.count()
        mover.move(low, 0xC0400000)
        mover.move(high, 0xC0400000 & ~(high.size - 1), ", onto another BAR")
        mover.look()
        mover.move(low, 0xC0600000, ", away from there; the other one appears only when it is asked for again")
        mover.look()
        mover.command(MEMORY_ON | IO_ON)
        mover.look()
        for _ in range(40):
            bar = lab.rng.choice(mover.model.bars)
            mover.move(bar, lab.rng.choice([0xC0400000, 0xC1000000 - bar.size, 0xC0FFF000, 0x1000, 0xCF0, 4 * GIB - PAGE, MASK64 - PAGE, lab.rng.getrandbits(64)]))
            if lab.rng.random() < 0.2:
                mover.command(lab.rng.randrange(8))
            mover.look()
        mover.count()
        mover.script.run()
    bells_move(lab)


def bells_move(lab):
    """A doorbell that stayed behind would ring for writes to whatever lies there next."""
    queues, script = lab.rng.randrange(1, 6), Pci(lab)
    script.do(f"virtio {queues}", rc=0)
    bar = Bar(0, 0x8000, is_64=True)
    model, at = Model([bar]), None

    def bells():
        out = []
        for _, _, _, there, address in model.update():
            out += [["bell", i, there, address + 0x3000 + 4 * i] for i in range(queues)]
        return out

    for address, command in ((BAR_ADDRESS, 0), (BAR_ADDRESS, MEMORY_ON), (0xC0080000, MEMORY_ON), (0, MEMORY_ON), (BAR_ADDRESS, MEMORY_ON), (BAR_ADDRESS, 0),
                             (BAR_ADDRESS, MEMORY_ON), (0xC1000000, MEMORY_ON), (0xC0100000, MEMORY_ON | IO_ON)):  # fmt: skip
        if address != at:
            script.write(1, BAR0, 4, MASK32)
            script.wants.append((len(script.lines) - 1, "a BAR whose size is asked for, while its queues may be in use: doorbells [queue, there, address]",
                                 {"events": (setattr(bar, "address", bar.mask & MASK32), bells())[1]}))  # fmt: skip
            bar.address, at = address, address
            script.write(1, BAR0, 4, address, f"a BAR is put at {address:#x}: doorbells [queue, there, address]", events=bells())
        model.command = command
        script.write(1, COMMAND, 2, command, f"command register {command:#x}, the BAR at {address:#x}: doorbells", events=bells())
    script.run()


def bad_frames(lab):
    net, rng = Net(lab), lab.rng
    every = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6
    net.start(every)
    for _ in range(130):
        frame = rng.randbytes(rng.choice([14, 15, 60, rng.randrange(14, 300)]))
        net.transmit(odd_header(rng, len(frame)), frame)
    frame = rng.randbytes(200)
    for header in ((1, GSO_TCPV4, 54, 0, 34, 16, 0), (1, GSO_TCPV6, 74, 0, 54, 16, 0), (0, GSO_TCPV4, 54, 100, 34, 16, 0), (1, GSO_TCPV4, 201, 100, 34, 16, 0),
                   (1, 0, 0, 0, 199, 0, 0), (1, 5, 54, 100, 34, 16, 0)):  # fmt: skip
        net.transmit(header, frame)
    plain = (0, 0, 0, 0, 0, 0, 0)
    for length in (0, 1, 13):
        net.transmit(plain, bytes(length), [12, length], f"a frame of {length} bytes, which is less than its addresses")
    frame = rng.randbytes(100)
    for pieces in ([1] * 12 + [100], [5, 7, 50, 50], [112], [13, 99], [12, 0, 100], [0, 12, 1, 99]):
        net.transmit(plain, frame, pieces, f"a frame of 100 bytes, with its header in pieces of {pieces} bytes")
    short = net.script
    for length in (0, 1, 11):
        net.counts["dropped_out"] += 1
        short.do(f"offer {TX} 0 1 {TX_DATA} {length} 0")
        short.do(f"kick {TX}", f"a chain of {length} bytes, less than a header", status=15, **net.counts)
        short.do(f"used {TX}", f"a chain of {length} bytes, less than a header", elements=[[0, 0]])
    net.counts["dropped_out"] += 2
    short.do(f"offer {TX} 0 1 {TX_DATA} {12 + FRAME_MAX + 1} 0")
    short.do(f"offer {TX} 1 1 {TX_DATA} 100 {WRITE}")
    short.do(f"kick {TX}", f"a frame of {FRAME_MAX + 1} bytes, and a chain that can only be written", status=15, **net.counts)
    short.do(f"used {TX}", f"a frame of {FRAME_MAX + 1} bytes, and a chain that can only be written", elements=[[0, 0], [1, 0]])
    short.do("take", "after these: at the other end", frames=0)
    net.transmit(plain, frame, tried="after all these, a good frame")
    short.run(limit=14)


def bad_buffers(lab):
    rng = lab.rng
    for what, words in (("that can only be read", f"1 {RX_DATA} 2000 0"), ("of 11 bytes, less than a header", f"1 {RX_DATA} 11 {WRITE}"),
                        ("with something to read in front", f"2 {RX_DATA} 8 0 {RX_DATA + 64} 2000 {WRITE}"), ("of no bytes", f"1 {RX_DATA} 0 {WRITE}")):  # fmt: skip
        receiver = Receiver(lab, rng.choice([F_MRG, 0]), 2048)
        script = receiver.script
        script.do(f"offer {RX} 0 {words}")
        script.do(f"kick {RX}", f"a receive buffer {what}: DEVICE_NEEDS_RESET", status=0x4F)
        script.do(f"send {(bytes(12) + MAC + bytes(60)).hex()}", f"a receive buffer {what}, and a frame", status=0x4F, received=0)
        script.do(f"start {F_MRG}", f"a reset after a receive buffer {what}", status=15)
        again(receiver, what)
        script.run()
    small = Receiver(lab, F_MRG, 2048)
    for _ in range(3):
        small.offer(12)
    small.script.do(f"kick {RX}")
    small.expect(MAC + rng.randbytes(58), "a frame of 64 bytes into three buffers of 12 bytes, and there are no more")
    for _ in range(3):
        small.offer(20)
    small.script.do(f"kick {RX}")
    small.expect(MAC + rng.randbytes(58), "a frame of 64 bytes, when there are three buffers of 20 bytes more")
    small.fill()
    small.expect(MAC + rng.randbytes(1500), "a frame of 1506 bytes, after a small one")
    short = small.script
    for length in (0, 1, 13):
        small.fill()
        small.counts["dropped_in"] += 1
        short.do(f"send {bytes(12 + length).hex()}", f"a frame of {length} bytes comes, which is less than its addresses", **small.counts)
        short.do(f"used {RX}", f"a frame of {length} bytes comes", elements=[])
    small.expect(MAC + rng.randbytes(90), "a good frame after these")
    short.run()


def again(receiver, what):
    """The frame of before waited on the cable, and comes first."""
    script, tried = receiver.script, f"good buffers, after a reset for a receive buffer {what}"
    for head in range(3):
        script.do(f"offer {RX} {head} 1 {RX_DATA + 0x8000 * head} 1526 {WRITE}")
    script.do(f"kick {RX}", tried, status=15, received=1)
    script.do(f"send {(bytes(12) + MAC + bytes(100)).hex()}", f"{tried}: frames that waited, and one more", status=15, received=2)
    script.do(f"used {RX}", f"{tried}: the frame that waited, and one more", elements=[[0, 78], [1, 118]])


def bad_peer(lab):
    """Whoever is at the other end of the socket is no friend, either."""
    rng, script = lab.rng, Script(lab, "stream")
    good = rng.randbytes(60)
    for length in (0, FRAME_MAX + 1, 0x10000 + 60, 0x80000000, 0xFFFFFFFF, int.from_bytes(b"GET ", "big"), 60 << 24):
        script.do("open", rc=0)
        script.do(f"feed {(struct.pack('>I', length) + framed(good)).hex()}")
        script.do("receive 2000", f"the length {length:#x}", rc=-errno.ENOTCONN, beyond=False)
        script.do("drain", f"after the length {length:#x}", gone=True)
        script.do("receive 2000", f"after the length {length:#x}, once more", rc=-errno.ENOTCONN)
        script.do(f"send {good.hex()}", f"a frame of the guest's, after the length {length:#x}", rc=-errno.ENOTCONN)
    script.do("open", rc=0)
    for i in range(40):
        frame = rng.randbytes(rng.choice([1, 13, 14, 1500, rng.randrange(1, 3000)]))
        cut = rng.randrange(len(frame) + 4)
        data = framed(frame)
        if cut:
            script.do(f"feed {data[:cut].hex()}")
        script.do("receive 3000", f"frame {i}, of {len(frame)} bytes, after {cut} bytes of it and its length have come", rc=-errno.EAGAIN, beyond=False)
        script.do(f"feed {data[cut:].hex()}")
        receive(script, f"frame {i}, of {len(frame)} bytes, when the rest has come", frame, rng.choice([[3000], [1, 1, 3000], [len(frame)], [max(0, len(frame) - 1)]]))
    script.do(f"feed {framed(good)[:3].hex()}")
    script.do("hangup")
    script.do("receive 2000", "a peer that goes in the midst of a length", rc=-errno.ENOTCONN)
    script.run()
