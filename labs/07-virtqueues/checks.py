"""Lab 07's checks: one function for each [[check]] of lab.toml.

Two drivers take a script: drivers/queue.c has one queue, drivers/device.c a device behind virtio-mmio. What the
driver in the guest would write, this file writes; what should come of it is worked out here a second time, from
the specification. The order of memory accesses is seen by taking the rings' pages away (watch.h).
"""

import errno
import hashlib
import os
import struct
import sys

from grading import CannotRun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KIB, MIB, GIB, PAGE = 1 << 10, 1 << 20, 1 << 30, 4096
MASK64 = (1 << 64) - 1
NEXT, WRITE, INDIRECT = 1, 2, 4  # descriptor flags, VIRTIO 1.2 §2.7.5
NO_INTERRUPT = NO_NOTIFY = 1
F_INDIRECT, F_EVENT_IDX, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 32
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80


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
        """Adds LINE; returns its place in what run() returns. WANT: values that its case must have; a function is
        asked. TRIED names it in a failure."""
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
                got = seen[place].get(name)
                shown = named if name == "rc" else hexa if name in HEX else lambda each: each
                lab.expect(f"{tried}: {NAMES.get(name, name)}", shown(value), shown(got))
        return seen


HEX = {"status", "features", "status_at_start", "value", "desc", "avail", "used", "next_avail", "next_used"}
NAMES = {
    "rc": "result", "pieces": "pieces [address, bytes]", "beyond": "entries of iov behind the last that it may have, changed",
    "broken": "the queue counts as broken", "enabled": "the queue counts as enabled", "desc": "descriptors, found at",
    "avail": "available ring, found at", "used": "used ring, found at", "next_avail": "next_avail afterwards",
    "bytes": "bytes in guest memory", "result": "result", "good": "rounds in which all was right", "edges": "interrupts",
    "isr": "InterruptStatus", "serves": "times the device was asked to serve", "starts": "times the device was started",
    "resets": "times the device was reset", "stops": "times the device was stopped", "same_room": "iov and iov_max as before",
}  # fmt: skip


def desc(addr, length, flags=0, nxt=0):
    return struct.pack("<QIHH", addr, length, flags, nxt)


def le16(*values):
    return struct.pack(f"<{len(values)}H", *(value & 0xFFFF for value in values))


# --- guest memory ---


class Memory:
    """Regions as [(gpa, size, kind)], some of them neighbours, with a hole and a ROM."""

    def __init__(self, lab):
        sizes = [PAGE * lab.rng.randrange(16, 40) for _ in range(5)]
        self.regions, at = [], 0
        for i, size in enumerate(sizes):
            self.regions.append((at, size, "rom" if i == 3 else "ram"))
            at += size
        self.hole = at
        self.regions.append((4 * GIB, 64 * PAGE, "ram"))
        self.big = 4 * GIB

    def tell(self, script):
        for gpa, size, kind in self.regions:
            script.do(f"mem {gpa} {size} {kind}", rc=0)

    def find(self, gpa):
        return next(((at, size, kind) for at, size, kind in self.regions if at <= gpa < at + size), None)

    def pieces(self, gpa, length, write):
        """The pieces of a range, or None."""
        out = []
        while length:
            region = self.find(gpa)
            if region is None or (write and region[2] == "rom"):
                return None
            here = min(region[0] + region[1] - gpa, length)
            out.append([gpa, here])
            gpa, length = gpa + here, length - here
        return out

    def lies(self, gpa, length, write):
        """All in one region."""
        pieces = self.pieces(gpa, length, write)
        return pieces is not None and len(pieces) == 1


# --- 7.1 mem_iov() ---


def pieces(lab):
    memory, script = Memory(lab), Script(lab, "queue")
    memory.tell(script)
    (_, first, _), (second, size, _), (third, _, _), (rom, rom_size, _), (last, last_size, _) = memory.regions[:5]
    tries = [
        (second, size, 1, 8), (second + 5, size, 1, 8), (0, rom, 1, 8), (0, rom, 1, 3), (0, rom, 0, 2), (first - 1, 2, 0, 2),
        (first - 1, 2, 1, 1), (0, rom + 1, 1, 8), (0, rom + 1, 0, 8), (rom, rom_size, 0, 1), (rom, 1, 1, 1), (rom - 1, 2, 1, 2),
        (last, last_size, 1, 1), (last, last_size + 1, 1, 8), (last + last_size - 1, 1, 1, 1), (memory.hole, 1, 0, 8),
        (memory.hole, 0, 1, 8), (MASK64, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (MASK64, 1, 0, 8), (MASK64, 2, 0, 8),
        (0, MASK64, 0, 8), (PAGE, MASK64 - 0x7FF, 0, 8), (last, MASK64 - last + 1, 1, 8), (0, memory.hole, 0, 5), (0, memory.hole, 0, 4),
        (memory.big, 64 * PAGE, 1, 1), (memory.big - 1, 2, 0, 2),
    ]  # fmt: skip
    for _ in range(60):
        gpa = lab.rng.randrange(0, memory.hole + PAGE)
        tries.append((gpa, lab.rng.choice([1, 100, PAGE, lab.rng.randrange(1, memory.hole)]), lab.rng.randrange(2), lab.rng.randrange(1, 7)))
    places = [script.do(f"iov {gpa} {length} {write} {room}") for gpa, length, write, room in tries]
    seen = script.run()
    for place, (gpa, length, write, room) in zip(places, tries):
        got, want = seen[place], memory.pieces(gpa, length, bool(write))
        tried = f"mem_iov() of {length:#x} bytes at {gpa:#x}, to {'write' if write else 'read'}, with room for {room}"
        lab.expect(f"{tried}: entries behind iov[max - 1]", "untouched", "written" if got["beyond"] else "untouched")
        if want is not None and len(want) <= room:
            lab.expect(tried, str(len(want)), named(got["rc"]))
            lab.expect(f"{tried}: pieces [address, bytes]", want, got["pieces"])
            continue
        wrong = [] if want is not None else [-errno.EFAULT]
        if want is not None or not_all(memory, gpa, length, write, room):
            wrong.append(-errno.E2BIG)
        lab.expect_true(tried, " or ".join(named(each) for each in wrong), got["rc"] in wrong, named(got["rc"]))


def not_all(memory, gpa, length, write, room):
    """There are more pieces than ROOM before the first byte that is not there."""
    count = 0
    while length:
        region = memory.find(gpa)
        if region is None or (write and region[2] == "rom"):
            break
        count, here = count + 1, min(region[0] + region[1] - gpa, length)
        gpa, length = gpa + here, length - here
    return count > room


# --- 7.2 vq_enable() ---


def area_sizes(size):
    """Bytes of descriptors, available ring, used ring (§2.7: with their last words)."""
    return 16 * size, 6 + 2 * size, 6 + 8 * size


def is_place(memory, size, size_max, at):
    lengths = area_sizes(size)
    if size == 0 or size & (size - 1) or size > size_max or at[0] % 16 or at[1] % 2 or at[2] % 4:
        return False
    if not all(memory.lies(gpa, length, write) for gpa, length, write in zip(at, lengths, (False, True, True))):
        return False
    return all(at[2] + lengths[2] <= at[i] or at[i] + lengths[i] <= at[2] for i in (0, 1))


def layouts(lab, memory, size_max):
    """(what, size, [descriptors, available, used])"""
    ram, (rom, _, _), (last, last_size, _) = memory.regions[1], memory.regions[3], memory.regions[4]
    base = ram[0]
    good = [base, base + 0x4000, base + 0x8000]
    size = lab.rng.choice([4, 8, 16, 32])
    d, a, u = area_sizes(size)
    end = last + last_size
    yield "a queue as it should be", size, good
    for each in (1, 2, size_max // 2, size_max):
        yield f"{each} entries", each, good
    for each in (0, 3, 6, size_max - 1, 2 * size_max, 0x8000, 0xFFFF):
        yield f"{each} entries, of {size_max} at most", each, good
    for i, name, step in ((0, "descriptors", 16), (1, "available ring", 2), (2, "used ring", 4)):
        for off in {1, step // 2, step - 1, lab.rng.randrange(1, step)} - {0}:
            yield f"the {name} {off} bytes off", size, [gpa + off * (j == i) for j, gpa in enumerate(good)]
        length = area_sizes(size)[i]
        fits = (end - length) // step * step
        yield f"the {name} at the very end of RAM", size, [fits if j == i else gpa for j, gpa in enumerate(good)]
        for far in (fits + step, memory.hole, memory.hole + 16 * PAGE, MASK64 // 16 * 16, 3 * GIB):
            yield f"the {name} at {far:#x}, beyond RAM", size, [far if j == i else gpa for j, gpa in enumerate(good)]
        yield f"the {name} in ROM", size, [rom + 0x100 if j == i else gpa for j, gpa in enumerate(good)]
        cross = base + ram[1] - step
        yield f"the {name} half in another region", size, [cross if j == i else gpa for j, gpa in enumerate(good)]
    used = good[2]
    near = 1 << 14
    yield "descriptors right behind the used ring", 16, [used + near, good[1], used + near - (area_sizes(16)[2] + 3) // 4 * 4]
    yield "the used ring right behind the descriptors", size, [good[0], good[1], good[0] + d]
    yield "the used ring over the last descriptor", size, [good[0], good[1], good[0] + d - 4]
    yield "the used ring in the midst of descriptors", 32, [good[0], good[1], good[0] + 64]
    yield "descriptors in the midst of a used ring", 16, [used + 64, good[1], used]
    yield "the last bytes of a used ring over descriptors", 16, [used + (area_sizes(16)[2] - 1) // 16 * 16, good[1], used]
    yield "the used ring over the available ring's last word", size, [good[0], good[1], (good[1] + a - 2) // 4 * 4]
    yield "the used ring right behind the available ring", size, [good[0], good[1], (good[1] + a + 3) // 4 * 4]
    yield "the available ring over the used ring's end", size, [good[0], good[2] + u - 2, good[2]]
    yield "the available ring right behind the used ring", size, [good[0], good[2] + u, good[2]]


def places(lab):
    memory, script = Memory(lab), Script(lab, "queue")
    memory.tell(script)
    size_max = lab.rng.choice([64, 128, 256])
    for what, size, at in layouts(lab, memory, size_max):
        features = lab.rng.choice([0, F_INDIRECT, F_EVENT_IDX, F_INDIRECT | F_EVENT_IDX]) | F_VERSION_1
        good = is_place(memory, size, size_max, at)
        script.do(f"vq {size_max}")
        script.do(f"at {size} {at[0]} {at[1]} {at[2]}")
        tried = f"vq_enable(): {what} (size {size}, at {at[0]:#x}, {at[1]:#x}, {at[2]:#x})"
        want = {"rc": 0 if good else -errno.EINVAL, "enabled": good, "broken": False,
                "event_idx": good and bool(features & F_EVENT_IDX), "indirect": good and bool(features & F_INDIRECT),
                "desc": at[0] if good else None, "avail": at[1] if good else None, "used": at[2] if good else None}  # fmt: skip
        script.do(f"enable {features}", tried, **want)
        if good:
            other = [gpa + 0x400 for gpa in at]
            script.do(f"at {size} {other[0]} {other[1]} {other[2]}")
            script.do(f"enable {features ^ F_INDIRECT}", f"{tried}, and once more, elsewhere", **{**want, "rc": -errno.EALREADY})
    script.run()


# --- a ring, as its driver writes it ---


class Ring:
    """The driver's side. Areas lie on pages of their own."""

    def __init__(self, script, size, base, size_max=None):
        self.script, self.size, self.base = script, size, base
        self.at = [base, base + 0x4000, base + 0x8000]
        self.idx = 0
        self.clear()
        self.size_max = size_max or size

    def clear(self):
        for gpa, length in zip(self.at, area_sizes(self.size)):
            self.script.do(f"put {gpa} {'00' * length}")

    def enable(self, features=0):
        self.script.do(f"vq {self.size_max}")
        self.script.do(f"at {self.size} {self.at[0]} {self.at[1]} {self.at[2]}")
        self.script.do(f"enable {features | F_VERSION_1}", rc=0)

    def put(self, gpa, data):
        self.script.do(f"put {gpa} {data.hex()}")

    def desc(self, index, *args):
        self.put(self.at[0] + 16 * index, desc(*args))

    def entry(self, position, head):
        self.put(self.at[1] + 4 + 2 * (position % self.size), le16(head))

    def set_idx(self, idx):
        self.idx = idx & 0xFFFF
        self.put(self.at[1] + 2, le16(self.idx))

    def offer(self, head):
        self.entry(self.idx, head)
        self.set_idx(self.idx + 1)

    def flags(self, flags):
        self.put(self.at[1], le16(flags))

    def used(self, tried, idx=None, elements=(), flags=None):
        """Expects what the device wrote. ELEMENTS: [(position, head, written)]"""
        if idx is not None:
            self.script.do(f"get {self.at[2] + 2} 2", f"{tried}: the used ring's index", bytes=le16(idx).hex())
        for position, head, written in elements:
            self.script.do(f"get {self.at[2] + 4 + 8 * (position % self.size)} 8",
                           f"{tried}: used element {position % self.size} (id, then length)",
                           bytes=struct.pack("<II", head, written).hex())  # fmt: skip
        if flags is not None:
            self.script.do(f"get {self.at[2]} 2", f"{tried}: the used ring's flags", bytes=le16(flags).hex())


def queue_at(lab, size, features=0, size_max=None):
    """(memory, script, ring): a queue in the second region."""
    memory, script = Memory(lab), Script(lab, "queue")
    memory.tell(script)
    ring = Ring(script, size, memory.regions[1][0], size_max)
    ring.enable(features)
    return memory, script, ring


# --- 7.3 vq_pop() ---

DATA = 4 * GIB  # buffers, in the last region


def avail_index(lab):
    size = lab.rng.choice([4, 8, 16])
    _, script, ring = queue_at(lab, size)
    one = {"rc": 1, "out_count": 1, "in_count": 0, "in_size": 0, "same_room": True, "beyond": False, "broken": False}
    lengths = [lab.rng.randrange(1, 500) for _ in range(size)]
    for i, length in enumerate(lengths):
        ring.desc(i, DATA + 0x1000 * i, length)
    script.do("pop 4", "vq_pop() of an empty ring", rc=0, next_avail=0, broken=False)
    heads = list(range(size))
    lab.rng.shuffle(heads)
    for head in heads:
        ring.offer(head)
    for count, head in enumerate(heads, 1):
        script.do("pop 4", f"{size} chains are available, as many as the ring holds: vq_pop() number {count}", **one, head=head,
                  out_size=lengths[head], pieces=[[DATA + 0x1000 * head, lengths[head]]], next_avail=count)  # fmt: skip
    script.do("pop 4", "vq_pop() when all have been taken", rc=0, next_avail=size)
    rounds = 65536 + lab.rng.randrange(100, 300)
    script.do(f"turn {rounds}", f"{rounds} times one chain, so that the index goes round", good=rounds, broken=False,
              next_avail=(size + rounds) & 0xFFFF)  # fmt: skip
    at = size + rounds
    for ahead, what in ((size + 1, f"ahead by {size + 1}, of {size} entries"), (0xFFFF, "gone back by one"),
                        (0x8000, "ahead by 32768"), (lab.rng.randrange(size + 1, 0xFFFF), "somewhere else")):  # fmt: skip
        ring.enable()
        ring.set_idx(0)
        at = lab.rng.randrange(1, 3 * size)
        script.do(f"turn {at}", good=at)
        broken = {"rc": -errno.EPROTO, "broken": True, "next_avail": at}
        ring.set_idx(at + ahead)
        script.do("pop 4", f"vq_pop() with the available index {what}", **broken)
        ring.set_idx(at + 1)
        script.do("pop 4", "vq_pop() of that queue, its index mended", **broken)
    ring.enable()
    ring.set_idx(0)
    ring.offer(1)
    ring.entry(1, size + lab.rng.randrange(0, 100))
    ring.set_idx(2)
    script.do("pop 4", "vq_pop()", **one, head=1)
    script.do("pop 4", "vq_pop() of a chain that cannot be followed (its head is no descriptor)", rc=-errno.EPROTO, broken=True, next_avail=1)
    ring.entry(1, 0)
    script.do("pop 4", "vq_pop() of that queue, its entry mended", rc=-errno.EPROTO, broken=True, next_avail=1)
    script.do("reset", broken=False, enabled=False)
    script.do("pop 4", "vq_pop() of a queue that is not enabled", rc=0)
    script.run()


# --- 7.4, 7.5: chains ---


class Broken(Exception):
    pass


def follow(memory, read, size, head, indirect):
    """[(gpa, bytes, write)] of a chain; Broken if it breaks the rules. READ gives 16 bytes at an address, of which
    the first table is at read.table."""
    table, entries, nested = read.table, size, False
    index, left, out = head, size, []
    while True:
        if index >= entries or not left:
            raise Broken
        left -= 1
        addr, length, flags, nxt = struct.unpack("<QIHH", read(table + 16 * index))
        if flags & INDIRECT:
            if not indirect or nested or flags & NEXT or length % 16 or not 0 < length // 16 <= size:
                raise Broken
            if not memory.lies(addr, length, False):
                raise Broken
            table, entries, nested, index, left = addr, length // 16, True, 0, length // 16
            continue
        write = bool(flags & WRITE)
        if (not write and any(each[1] and each[2] for each in out)) or memory.pieces(addr, length, write) is None:
            raise Broken
        out.append((addr, length, write))
        if not flags & NEXT:
            return out
        index = nxt


def chain_of(memory, buffers):
    """What a pop says of these buffers."""
    out, sizes = [[], []], [0, 0]
    for gpa, length, write in buffers:
        out[write] += memory.pieces(gpa, length, write)
        sizes[write] += length
    return {"rc": 1, "out_count": len(out[0]), "in_count": len(out[1]), "out_size": sizes[0], "in_size": sizes[1],
            "pieces": out[0] + out[1], "beyond": False, "broken": False}  # fmt: skip


def buffers_of(lab, memory, count):
    """COUNT buffers, those to read first; some empty, some in two regions."""
    readable = lab.rng.randrange(0, count + 1)
    border = memory.regions[2][0]
    out = []
    for i in range(count):
        length = lab.rng.choice([0, 1, 16, lab.rng.randrange(1, 5000)])
        gpa = lab.rng.choice([DATA + lab.rng.randrange(0, 0x20000), border - 7])
        if i < readable and lab.rng.random() < 0.2:
            gpa, length = memory.regions[3][0] + 5, 77  # ROM can be read
        out.append((gpa, length, i >= readable))
    return out


def lay(lab, ring, buffers, indexes):
    """Writes a chain of BUFFERS into the descriptors INDEXES of the ring's table."""
    for i, ((gpa, length, write), index) in enumerate(zip(buffers, indexes)):
        last = i == len(buffers) - 1
        ring.desc(index, gpa, length, (0 if last else NEXT) | (WRITE if write else 0),
                  lab.rng.randrange(ring.size) if last else indexes[i + 1])  # fmt: skip


def chains(lab):
    size = lab.rng.choice([8, 16, 32])
    memory, script, ring = queue_at(lab, size)
    for count in [1, 2, 3, size, size, size - 1, *(lab.rng.randrange(2, size) for _ in range(10))]:
        buffers = buffers_of(lab, memory, count)
        indexes = lab.rng.sample(range(size), count)
        lay(lab, ring, buffers, indexes)
        ring.offer(indexes[0])
        script.do("pop 70", f"a chain of {count} descriptors in a queue of {size}, {indexes}", **chain_of(memory, buffers), head=indexes[0])
    # a chain that ends at a descriptor whose next is not 0, or is 0 and goes on
    lay(lab, ring, [(DATA, 5, False), (DATA + 9, 6, False), (DATA + 20, 7, True)], [2, 0, 1])
    ring.offer(2)
    script.do("pop 70", "a chain over descriptor 0", **chain_of(memory, [(DATA, 5, False), (DATA + 9, 6, False), (DATA + 20, 7, True)]))
    small = lab.rng.randrange(1, size)
    lay(lab, ring, [(DATA, 5, False)] * (small + 1), list(range(small + 1)))
    ring.offer(0)
    script.do(f"pop {small}", f"a chain of {small + 1} pieces, for a device that takes {small}", rc=-errno.EPROTO, beyond=False, broken=True)
    for what, index in ((f"head {size}, in a table of {size}", size), ("head 65535", 0xFFFF)):
        fresh(ring)
        ring.offer(index)
        script.do("pop 70", what, rc=-errno.EPROTO, broken=True)
    for what, nxt in ((f"next {size}, in a table of {size}", size), ("next 65535", 0xFFFF), ("a descriptor that follows itself", 3)):
        fresh(ring)
        ring.desc(3, DATA, 0, NEXT, nxt)
        ring.offer(3)
        script.do("pop 70", what, rc=-errno.EPROTO, broken=True)
    fresh(ring)
    for i in range(size):
        ring.desc(i, DATA, 0, NEXT, (i + 1) % size)
    ring.offer(lab.rng.randrange(size))
    script.do("pop 70", "descriptors that go round in a ring", rc=-errno.EPROTO, broken=True)
    fresh(ring)
    lay(lab, ring, [(DATA, 5, False), (memory.hole, 6, False), (DATA, 7, False)], [0, 1, 2])
    ring.offer(0)
    script.do("pop 70", "a chain whose second buffer lies in no memory", rc=-errno.EPROTO, broken=True)
    script.run()


def fresh(ring, features=0):
    ring.clear()
    ring.enable(features)
    ring.set_idx(0)


def table_of(lab, buffers, indexes, entries):
    """The bytes of an indirect table with a chain in it; it begins at entry 0."""
    out = [desc(lab.rng.getrandbits(64), lab.rng.getrandbits(32), lab.rng.getrandbits(3), 0) for _ in range(entries)]
    for i, ((gpa, length, write), index) in enumerate(zip(buffers, indexes)):
        last = i == len(buffers) - 1
        out[index] = desc(gpa, length, (0 if last else NEXT) | (WRITE if write else 0), 0 if last else indexes[i + 1])
    return b"".join(out)


def indirect(lab):
    size = lab.rng.choice([8, 16])
    memory, script, ring = queue_at(lab, size, F_INDIRECT)
    table = memory.regions[2][0] + 0x2000 + lab.rng.randrange(1, 16)
    for entries in [1, 2, size, size, *(lab.rng.randrange(2, size) for _ in range(8))]:
        before = lab.rng.choice([0, 0, 1, size - 1])
        count = lab.rng.choice([entries, lab.rng.randrange(1, entries + 1)])
        buffers = buffers_of(lab, memory, before + count)
        indexes = lab.rng.sample(range(size), before + 1)
        inside = [0, *lab.rng.sample(range(1, entries), count - 1)]
        place = lab.rng.choice([table, memory.regions[3][0] + 0x800])
        lay(lab, ring, [*buffers[:before], (0, 0, False)], indexes)
        ring.desc(indexes[-1], place, 16 * entries, INDIRECT | lab.rng.choice([0, WRITE]), lab.rng.randrange(1, size))
        ring.put(place, table_of(lab, buffers[before:], inside, entries))
        ring.offer(indexes[0])
        tried = f"{before} descriptors, then a table of {entries} with {count} in use, in a queue of {size}"
        script.do("pop 70", tried, **chain_of(memory, buffers), head=indexes[0])
    one = table_of(lab, [(DATA, 9, False)], [0], 1)
    end = memory.regions[4][0] + memory.regions[4][1]
    bad = [
        ("a table of 0 entries", table, 0, INDIRECT), ("a table of 24 bytes", table, 24, INDIRECT), ("a table of 15 bytes", table, 15, INDIRECT),
        (f"a table of {size + 1} entries in a queue of {size}", table, 16 * (size + 1), INDIRECT),
        ("a table of 2^32 - 16 bytes", table, 0xFFFFFFF0, INDIRECT), ("INDIRECT and NEXT", table, 16, INDIRECT | NEXT),
        ("a table in no memory", memory.hole, 16, INDIRECT), ("a table half in no memory", end - 16, 32, INDIRECT),
        ("a table at the end of the address space", MASK64 - 15, 16, INDIRECT),
        ("a table half in another region", memory.regions[2][0] - 16, 32, INDIRECT),
    ]  # fmt: skip
    for what, place, length, flags in bad:
        fresh(ring, F_INDIRECT)
        if memory.lies(place, 16, False):
            ring.put(place, one)
        if memory.lies(place, 32, False):
            ring.put(place + 16, one)
        ring.desc(1, place, length, flags, 2)
        ring.desc(2, DATA, 1)
        ring.offer(1)
        script.do("pop 70", what, rc=-errno.EPROTO, broken=True)
    fresh(ring)
    ring.desc(0, table, 16, INDIRECT)
    ring.put(table, one)
    ring.offer(0)
    script.do("pop 70", "an indirect table that nobody has negotiated", rc=-errno.EPROTO, broken=True)
    fresh(ring, F_INDIRECT)
    ring.desc(0, table, 16, INDIRECT)
    ring.put(table, desc(table + 64, 16, INDIRECT))
    ring.put(table + 64, one)
    ring.offer(0)
    script.do("pop 70", "a table in a table", rc=-errno.EPROTO, broken=True)
    fresh(ring, F_INDIRECT)
    ring.desc(0, table, 32, INDIRECT)
    ring.put(table, desc(DATA, 1, NEXT, 2) + one + one)
    ring.offer(0)
    script.do("pop 70", "a chain that leaves its table of 2 entries for entry 2", rc=-errno.EPROTO, broken=True)
    script.run()


# --- 7.6 vq_push(), vq_publish() ---


def used_ring(lab):
    size = lab.rng.choice([4, 8, 16])
    _, script, ring = queue_at(lab, size)
    script.do("publish", "vq_publish() when nothing was pushed", result=False)
    done = 0
    for flags in (0, NO_INTERRUPT, 0, NO_INTERRUPT):
        ring.flags(flags)
        for count in (1, size, lab.rng.randrange(2, size)):
            elements = [(done + i, lab.rng.randrange(size), lab.rng.randrange(1, 1 << 32)) for i in range(count)]
            tried = f"{count} times vq_push(), when {done} were pushed and published before (ring of {size})"
            for count_now, (_, head, written) in enumerate(elements, 1):
                script.do(f"push {head} {written}", tried, pushed=count_now, next_used=done)
            ring.used(tried + ", before vq_publish()", idx=done)
            done += count
            tried = f"{tried}; vq_publish(), flags of the available ring {flags}"
            script.do("publish", tried, result=flags == 0, next_used=done, pushed=0)
            ring.used(tried, idx=done, elements=elements)
            script.do("publish", f"{tried}, and once more", result=False)
            ring.used(f"{tried}, and once more", idx=done, flags=0)
    ring.flags(0)
    rounds = 65536 + lab.rng.randrange(5, 50)
    script.do(f"give {rounds}", f"{rounds} times one chain pushed and published, so that the index goes round", good=rounds)
    script.do("push 1 1")
    script.do("reset")
    script.do("push 1 1", "vq_push() after a reset", pushed=0)
    script.do("publish", "vq_publish() after a reset", result=False, next_used=0)
    ring.used("after a reset", idx=done + rounds)
    script.run()


def accesses_of(seen, place):
    return seen[place]["accesses"], ", ".join(seen[place]["accesses"]) or "none"


def used_order(lab):
    """All pushes are made unwatched; what they write is seen in used_ring()."""
    size = lab.rng.choice([4, 8, 16])
    _, script, ring = queue_at(lab, size)
    places = []
    for flags in (0, NO_INTERRUPT):
        ring.flags(flags)
        places.append((script.do("watch push"), "vq_push()"))
        places.append((script.do("watch publish", "vq_publish()", result=not flags), "vq_publish()"))
    seen = script.run()
    for place, tried in places:
        got, shown = accesses_of(seen, place)
        if tried == "vq_push()":
            lab.expect_true(f"{tried}: accesses to the rings, in order", "writes to used.ring only",
                            got and set(got) <= {"write used.ring", "barrier"}, shown)  # fmt: skip
            continue
        writes = [i for i, each in enumerate(got) if each == "write used.idx"]
        asks = [i for i, each in enumerate(got) if each == "read avail.flags"]
        lab.expect_true(f"{tried}: accesses to the rings, in order", "write used.idx, once", len(writes) == 1, shown)
        lab.expect_true(f"{tried}: accesses to the rings, in order", "no element is written once the index is",
                        "write used.ring" not in got[writes[0] :], shown)  # fmt: skip
        lab.expect_true(f"{tried}: accesses to the rings, in order", "read avail.flags, after the write of the index",
                        asks and asks[0] > writes[0], shown)  # fmt: skip
        lab.expect_true(f"{tried}: accesses to the rings, in order",
                        "write used.idx, barrier, read avail.flags (a store and a later load may be swapped by the processor: SDM 3A §8.2.3.4)",
                        "barrier" in got[writes[0] : asks[0]], shown)  # fmt: skip


# --- 7.7 vq_mute(), vq_unmute() ---


def mute(lab):
    size = lab.rng.choice([4, 8, 16])
    _, script, ring = queue_at(lab, size)
    ring.desc(0, DATA, 5)
    for work in (False, True):
        if work:
            ring.offer(0)
        script.do("mute")
        ring.used("vq_mute()", flags=NO_NOTIFY, idx=0)
        tried = f"vq_unmute() of a queue {'in which a chain waits' if work else 'that is empty'}"
        script.do("unmute", tried, result=work)
        ring.used(tried, flags=0, idx=0)
    script.do("pop 4", rc=1)
    script.do("unmute", "vq_unmute() when all has been taken", result=False)
    fresh(ring, F_EVENT_IDX)
    script.do("mute")
    ring.used("vq_mute() with the event index", flags=0)
    ring.offer(0)
    script.do("unmute", "vq_unmute() with the event index, when a chain waits", result=True)
    ring.used("vq_unmute() with the event index", flags=0)
    ring.enable()
    script.do("reset")
    ring.put(ring.at[2], le16(0x5A5A))
    script.do("mute")
    script.do("unmute", "vq_unmute() of a queue that is not enabled", result=False)
    ring.used("mute and unmute of a queue that is not enabled", flags=0x5A5A)
    script.run()


def unmute_order(lab):
    _, script, ring = queue_at(lab, lab.rng.choice([4, 8, 16]))
    ring.desc(0, DATA, 5)
    script.do("mute")
    ring.offer(0)
    place = script.do("watch unmute", "vq_unmute()", result=True)
    got, shown = accesses_of(script.run(), place)
    writes = [i for i, each in enumerate(got) if each == "write used.flags"]
    looks = [i for i, each in enumerate(got) if each == "read avail.idx"]
    lab.expect_true("vq_unmute(): accesses to the rings, in order", "write used.flags, barrier, read avail.idx",
                    writes and looks and looks[-1] > writes[-1] and "barrier" in got[writes[-1] : looks[-1]], shown)  # fmt: skip


# --- a device, as its driver sees it ---

R_FEATURES, R_FEATURES_SEL, R_ACCEPT, R_ACCEPT_SEL = 0x10, 0x14, 0x20, 0x24
R_QUEUE_SEL, R_QUEUE_MAX, R_QUEUE_NUM, R_READY, R_NOTIFY = 0x30, 0x34, 0x38, 0x44, 0x50
R_ISR, R_ACK, R_STATUS, R_DESC, R_DRIVER, R_DEVICE, R_GENERATION = 0x60, 0x64, 0x70, 0x80, 0x90, 0xA0, 0xFC
COMMON = F_VERSION_1 | F_INDIRECT | F_EVENT_IDX
QUEUE_MAX = 64  # entries of the entropy device's queue


class Device:
    """A script for drivers/device.c."""

    def __init__(self, lab):
        self.lab, self.script, self.memory = lab, Script(lab, "device"), Memory(lab)
        self.memory.tell(self.script)

    def probe(self, features=0, queues=1, size=16):
        self.script.do(f"probe {features} {queues} {size}")

    def rng(self, rate=0):
        self.script.do(f"rng {rate}")

    def write(self, offset, value, size=4, tried=None, **want):
        return self.script.do(f"wr {offset} {size} {value}", tried, **want)

    def read(self, offset, tried, value, size=4):
        return self.script.do(f"rd {offset} {size}", tried, value=value)

    def accept(self, features):
        for half in (0, 1):
            self.write(R_ACCEPT_SEL, half)
            self.write(R_ACCEPT, features >> 32 * half & 0xFFFFFFFF)

    def place(self, ring, queue=0):
        self.write(R_QUEUE_SEL, queue)
        self.write(R_QUEUE_NUM, ring.size)
        for offset, gpa in zip((R_DESC, R_DRIVER, R_DEVICE), ring.at):
            self.write(offset, gpa & 0xFFFFFFFF)
            self.write(offset + 4, gpa >> 32)

    def start(self, ring, features=F_VERSION_1, tried="a driver that does all as it should"):
        """A driver's whole beginning (§3.1.1)."""
        self.write(R_STATUS, 0)
        self.write(R_STATUS, ACKNOWLEDGE)
        self.write(R_STATUS, ACKNOWLEDGE | DRIVER)
        self.accept(features)
        self.write(R_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK, tried=f"{tried}: FEATURES_OK", status=11)
        ring.clear()
        ring.idx = 0
        self.place(ring)
        self.write(R_READY, 1)
        self.read(R_READY, f"{tried}: QueueReady", 1)
        self.write(R_STATUS, 15, tried=f"{tried}: DRIVER_OK", status=15)
        self.script.do("work 0")

    def ring(self, size=8, region=1):
        return Ring(self.script, size, self.memory.regions[region][0])

    def run(self, limit=None):
        return self.script.run(limit)


# --- 7.8 the status ---

STEPS = ((ACKNOWLEDGE, 0), (DRIVER, 1), (FEATURES_OK, 3), (DRIVER_OK, 11), (FAILED, 0))


def step(status, written):
    if written == 0:
        return 0
    for bit, after in STEPS:
        if written & bit and status & after == after:
            status |= bit
    return status


def walk(device, writes, tried):
    """Writes one status after the other; the device has counted no starts before."""
    status = starts = resets = 0
    device.probe(features=COMMON)
    device.script.do(f"wanted {F_VERSION_1}")  # VERSION_1: nothing stands against FEATURES_OK
    for i, written in enumerate(writes):
        if written == "broken":
            status |= NEEDS_RESET
            device.script.do("needs_reset")
            continue
        before, status = status, step(status, written)
        if written == 0:
            resets += 1
        starts += bool(status & ~before & DRIVER_OK)
        so_far = ", ".join(each if isinstance(each, str) else f"{each:#x}" for each in writes[max(0, i - 8) : i + 1])
        device.script.do(f"status {written}", f"{tried}: written so far: {so_far}; then status", status=status, starts=starts,
                         resets=resets)  # fmt: skip
        if written == 0:
            device.script.do(f"wanted {F_VERSION_1}")


def status(lab):
    device = Device(lab)
    walk(device, [1, 3, 11, 15], "one step after the other")
    device.script.do("stored 15", "DRIVER_OK: the status that the device's start() saw", status_at_start=15)
    walk(device, [1, 3, 11, 15, 15, 15, 0, 1, 3, 11, 15], "DRIVER_OK written again, then a reset and all anew")
    walk(device, [15], "all at once")
    walk(device, [0x8F], "all at once, and FAILED")
    walk(device, [2, 4, 8, 12, 14, 1, 4, 12, 3, 4, 7, 8, 4], "steps without those before them")
    walk(device, [9, 13, 11, 4], "FEATURES_OK before DRIVER")
    walk(device, [1, 2, 8, 4], "one bit at a time, the others not repeated")
    walk(device, [11, 1, 3, 8, 15, 1], "less than there is")
    walk(device, [0x7F, 0x40, 0x70, 0x30, 0x10], "bits that are none of the driver's")
    walk(device, [15, "broken", 15, 3, 0x4F, 0x80, 0, 1], "a device that needs a reset meanwhile")
    walk(device, [3, "broken", 15], "a device that needs a reset before its start")
    for _ in range(12):
        walk(device, [lab.rng.choice([0, 1, 3, 11, 15, 0x80, "broken", lab.rng.randrange(256), 1 << lab.rng.randrange(8)]) for _ in range(10)],
             "anything")  # fmt: skip
    gives_up(lab, device)
    device.run()


def gives_up(lab, device):
    """FAILED stops the device, a reset its queues."""
    script, ring = device.script, device.ring()
    device.probe(features=COMMON)
    script.do(f"wanted {F_VERSION_1}")
    script.do("status 11")
    ring.clear()
    script.do(f"place 0 {ring.size} {ring.at[0]} {ring.at[1]} {ring.at[2]}")
    script.do("kick 0")
    script.do("work 0", "a notification before DRIVER_OK", serves=0)
    script.do("status 15")
    script.do("work 0", "a notification before DRIVER_OK, then DRIVER_OK", serves=1, starts=1)
    script.do("kick 0")
    script.do("work 0", "a notification", serves=2)
    script.do(f"status {FAILED}", "FAILED", status=0x8F, stops=1)
    script.do("kick 0")
    script.do("work 0", "a notification when the driver has given up", serves=2)
    script.do("status 0", "a reset", status=0, resets=1, features=0)


# --- 7.9 features ---


def features(lab):
    device = Device(lab)
    script = device.script
    offered = F_VERSION_1 | F_INDIRECT | F_EVENT_IDX
    for _ in range(6):
        own = lab.rng.getrandbits(64) & ~(0xFFF << 24) & MASK64
        device.probe(features=own)
        some = lab.rng.getrandbits(64) & (own | offered)
        low, high = lab.rng.getrandbits(32), lab.rng.getrandbits(32)
        script.do(f"accept 0 {low}", "virtio_accept(), low half", features=low)
        script.do(f"accept 1 {high}", "virtio_accept(), high half", features=high << 32 | low)
        for select in (2, 3, lab.rng.getrandbits(32) | 4, 0xFFFFFFFF):
            script.do(f"accept {select} {lab.rng.getrandbits(32)}", f"virtio_accept() with select {select:#x}", features=high << 32 | low)
        script.do(f"accept 0 {some & 0xFFFFFFFF}", "virtio_accept(), low half again", features=high << 32 | some & 0xFFFFFFFF)
        script.do(f"accept 1 {some >> 32}")
        extra = 1 << lab.rng.choice([bit for bit in range(64) if not (own | offered) >> bit & 1])
        for what, wanted, good in (("without VERSION_1", some & ~F_VERSION_1, False), ("nothing at all", 0, False),
                                   (f"with {extra:#x}, which was not offered", some | extra | F_VERSION_1, False),
                                   ("VERSION_1 alone", F_VERSION_1, True), ("some", some | F_VERSION_1, True)):  # fmt: skip
            tried = f"a device that offers {own:#x} and the common ones; the driver wants {wanted:#x} ({what})"
            script.do("status 0")
            script.do("status 3")
            script.do(f"accept 0 {wanted & 0xFFFFFFFF}")
            script.do(f"accept 1 {wanted >> 32}")
            script.do("status 11", f"{tried}: status after FEATURES_OK", status=11 if good else 3)
            script.do("status 15", f"{tried}: status after DRIVER_OK", status=15 if good else 3)
            if good:
                script.do("accept 0 0", f"{tried}: virtio_accept() after FEATURES_OK", features=wanted)
                script.do(f"accept 1 {extra >> 32 or 3}", f"{tried}: virtio_accept() after FEATURES_OK", features=wanted)
            else:
                script.do(f"accept 0 {F_INDIRECT}")
                script.do("accept 1 1")
                script.do("status 11", f"{tried}: the driver asks for less, and tries again", status=11, features=F_VERSION_1 | F_INDIRECT)
    device.probe()
    script.do("accept 1 1")
    script.do("status 11")
    script.do("needs_reset")
    script.do("accept 0 0x10000000", "virtio_accept() after FEATURES_OK, in a device that needs a reset", features=F_VERSION_1)
    script.do("status 0", "a reset", features=0)
    script.do("accept 0 5", "virtio_accept() after a reset", features=5)
    device.run()


# --- 7.10 registers ---


def registers(lab):
    device = Device(lab)
    own = lab.rng.getrandbits(20) | lab.rng.getrandbits(20) << 40
    queues = lab.rng.randrange(3, 8)
    device.probe(features=own, queues=queues, size=32)
    script, offered = device.script, own | COMMON
    for select in (1, 0, 1, 2, 0x80000000, 0xFFFFFFFF, 0):
        device.write(R_FEATURES_SEL, select)
        want = offered >> 32 * select & 0xFFFFFFFF if select < 2 else 0
        device.read(R_FEATURES, f"DeviceFeatures with DeviceFeaturesSel {select:#x}", want)
    low, high = lab.rng.getrandbits(32), lab.rng.getrandbits(32)
    device.write(R_FEATURES_SEL, 1)
    device.write(R_ACCEPT_SEL, 0)
    device.write(R_ACCEPT, low, tried="DriverFeatures with DriverFeaturesSel 0", features=low)
    device.write(R_ACCEPT_SEL, 1)
    device.write(R_FEATURES_SEL, 0)
    device.write(R_ACCEPT, high, tried="DriverFeatures with DriverFeaturesSel 1 (and DeviceFeaturesSel 0)", features=high << 32 | low)
    device.write(R_FEATURES_SEL, 1)
    device.write(R_ACCEPT_SEL, 0x100000000 - lab.rng.randrange(1, 9))
    device.write(R_ACCEPT, 0, tried="DriverFeatures with a DriverFeaturesSel of neither half", features=high << 32 | low)
    device.read(R_FEATURES, "DeviceFeatures with DeviceFeaturesSel 1, when DriverFeaturesSel was written since", offered >> 32)
    device.write(R_STATUS, 3, tried="Status 3", status=3)
    device.accept(F_VERSION_1 | own)
    device.write(R_STATUS, 11, tried="Status 11", status=11, features=F_VERSION_1 | own)
    rings = [Ring(script, 8, device.memory.regions[region][0]) for region in (1, 2, 4)]
    numbers = lab.rng.sample(range(queues), 3)
    for ring, number in zip(rings, numbers):
        ring.clear()
        device.place(ring, number)
    for ring, number in zip(rings, numbers):
        device.write(R_QUEUE_SEL, number)
        device.read(R_QUEUE_MAX, f"QueueNumMax of queue {number}", 32)
        device.read(R_READY, f"QueueReady of queue {number}, which has been placed only", 0)
    device.write(R_QUEUE_SEL, numbers[0])
    first = device.write(R_READY, 1)
    device.read(R_READY, f"QueueReady of queue {numbers[0]}", 1)
    device.write(R_QUEUE_SEL, numbers[1])
    device.read(R_READY, f"QueueReady of queue {numbers[1]}, which is not the one enabled", 0)
    device.write(R_READY, 1)
    for far in (queues, 0xFFFF, 0x10000 + numbers[0], 0xFFFFFFFF):
        device.write(R_QUEUE_SEL, far)
        device.read(R_QUEUE_MAX, f"QueueNumMax of queue {far:#x}, which is not there", 0)
        device.read(R_READY, f"QueueReady of queue {far:#x}, which is not there", 0)
        device.write(R_QUEUE_NUM, 4)
        device.write(R_READY, 1)
    device.write(R_STATUS, 15, tried="Status 15", status=15)
    device.script.do("work 0")
    kicks = []
    for selected, number in ((numbers[0], numbers[1]), (numbers[1], numbers[0]), (0xFFFF, numbers[2]), (numbers[0], queues), (numbers[0], 0x10000)):
        device.write(R_QUEUE_SEL, selected)
        kicks.append((device.write(R_NOTIFY, number), selected, number))
        device.script.do("work 0")
    script.do("needs_reset", "a change of the configuration", isr=2, edges=1)
    script.do("used 0", "a used buffer, too", isr=3, edges=2)
    device.write(R_ACK, 1, tried="InterruptACK 1, when InterruptStatus was 3", isr=2)
    device.write(R_ACK, 0, tried="InterruptACK 0, when InterruptStatus was 2", isr=2)
    script.do("used 0", isr=3)
    device.write(R_ACK, 2, tried="InterruptACK 2, when InterruptStatus was 3", isr=1)
    device.write(R_ACK, 0xFFFFFFFE, tried="InterruptACK 0xfffffffe, when InterruptStatus was 1", isr=1)
    device.write(R_ACK, 3, tried="InterruptACK 3, when InterruptStatus was 1", isr=0)
    script.do("used 0", isr=1)
    device.write(R_STATUS, 0x8F, tried="Status 0x8f, when InterruptStatus was 1", isr=1, status=0xCF)
    device.write(R_STATUS, 0, tried="Status 0, when InterruptStatus was 1", isr=0, status=0, resets=1, features=0)
    seen = device.run()
    expect_places(lab, seen[first]["queues"], rings, numbers)
    for place, selected, number in kicks:
        kicked = [i for i, each in enumerate(seen[place]["queues"]) if each["kicked"]]
        want = [number] if number < queues else []
        lab.expect(f"QueueNotify {number:#x}, while queue {selected:#x} is selected: queues that are kicked", want, kicked)


def expect_places(lab, seen, rings, numbers):
    for ring, number in zip(rings, numbers):
        got = seen[number]
        lab.expect(f"queue {number}, placed with the others: QueueNum", ring.size, got["size"])
        for name, gpa in zip(("desc", "driver", "device"), ring.at):
            lab.expect(f"queue {number}, placed with the others: {name}, from its two halves", hexa(gpa), hexa(got[name]))


# --- 7.11 the entropy device ---


def rng_serves(lab):
    device = Device(lab)
    device.rng()
    ring, script, rom = device.ring(8), device.script, device.memory.regions[3][0]
    device.start(ring)
    lengths = [lab.rng.randrange(16, 500) for _ in range(3)]
    for i, length in enumerate(lengths):
        ring.desc(i, DATA + 0x1000 * i, length, WRITE)
        ring.offer(i)
    ring.desc(4, rom, 64)
    ring.desc(5, DATA + 0x8000, 100000, WRITE)
    ring.offer(4)
    ring.offer(5)
    device.write(R_NOTIFY, 0)
    script.do("work 0", "five chains, one notification", edges=1, isr=1, status=15)
    ring.used("five chains, the fourth with nothing to write, the fifth of 100000 bytes", idx=5, flags=0,
              elements=[*((i, i, length) for i, length in enumerate(lengths)), (3, 4, 0), (4, 5, 4096)])  # fmt: skip
    shots = [(script.do(f"get {DATA + 0x1000 * i} {length + 64}"), length) for i, length in enumerate(lengths)]
    shots.append((script.do(f"get {DATA + 0x8000} {4096 + 64}"), 4096))
    late(lab, device, ring)
    broken_late(lab, device)
    places_of_slow = slow(device)
    seen = device.run(limit=12)
    told = []
    for place, length in shots:
        data = bytes.fromhex(seen[place]["bytes"])
        lab.expect_true(f"a buffer of {length} bytes", "random bytes in all of it", all(any(data[i : i + 16]) for i in range(0, length - 15, 16)),
                        data[:64].hex())  # fmt: skip
        lab.expect_true(f"the 64 bytes behind a buffer of {length}", "as they were", not any(data[length:]), data[length:].hex())
        told.append(data[:16])
    lab.expect("first bytes of four buffers: different ones", 4, len(set(told)))
    expect_slow(lab, seen, *places_of_slow)


def late(lab, device, ring):
    """A chain that comes while the device is about to leave: no notification tells of it, for the device has
    said that it wants none."""
    script, before = device.script, ring.idx
    ring.desc(6, DATA, 32, WRITE)
    ring.offer(6)
    late_writes = [(ring.at[1] + 4 + 2 * ((before + 1) % ring.size), le16(6)), (ring.at[1] + 2, le16(before + 2))]
    script.do("on_used " + " ".join(f"{gpa} {data.hex()}" for gpa, data in late_writes))
    device.write(R_NOTIFY, 0)
    script.do("work 0")
    tried = "a chain, and when its interrupt comes, another one without a notification"
    ring.used(tried, idx=before + 2, flags=0, elements=[(before, 6, 32), (before + 1, 6, 32)])


def broken_late(lab, device):
    """What was answered before the queue broke is published."""
    device.rng()
    ring, script = device.ring(8), device.script
    device.start(ring)
    ring.desc(0, DATA, 40, WRITE)
    ring.desc(1, device.memory.hole, 40, WRITE)
    ring.offer(0)
    ring.offer(1)
    device.write(R_NOTIFY, 0)
    script.do("work 0", "a good chain, and one whose buffer lies in no memory", status=0x4F, isr=3)
    ring.used("a good chain, and one whose buffer lies in no memory", idx=1, elements=[(0, 0, 40)])


RATE, EACH, COUNT = 20000, 1000, 8  # bytes per second, of a chain; chains. A tenth of a second's may come at once.


def slow(device):
    """The places of three lines in what the driver saw."""
    device.rng(RATE)
    ring, script = device.ring(16), device.script
    device.start(ring)
    for i in range(COUNT):
        ring.desc(i, DATA + 0x1000 * i, EACH, WRITE)
        ring.offer(i)
    device.write(R_NOTIFY, 0)
    first = script.do("work 0")
    words = script.do(f"get {ring.at[2]} 4")
    end = script.do(f"time 5000 {ring.at[2] + 2} {COUNT}")
    script.do("work 150")
    ring.used(f"{COUNT} chains of {EACH} bytes, from a device that may give {RATE} in a second", idx=COUNT, flags=0,
              elements=[(i, i, EACH) for i in range(COUNT)])  # fmt: skip
    return first, words, end


def expect_slow(lab, seen, first, words, end):
    flags, idx = struct.unpack("<HH", bytes.fromhex(seen[words]["bytes"]))
    tried = f"{COUNT} chains of {EACH} bytes, from a device that may give {RATE} in a second and {RATE // 10} at once: after the notification"
    lab.expect_true(f"{tried}, chains given back", "2, or a few more on a slow host", 2 <= idx < COUNT, idx)
    lab.expect_true(f"{tried}, interrupts", "1 at least", seen[first]["edges"] >= 1, seen[first]["edges"])
    lab.expect(f"{tried}, flags of the used ring (its timer will wake it)", NO_NOTIFY, flags)
    took, least = seen[end]["ms"], (COUNT * EACH - RATE // 10 - EACH) * 1000 // RATE
    lab.expect_true(f"{tried}: until all are given back", f"{least - 60} ms at least, 4 s at most", least - 60 <= took <= 4000, f"{took} ms")


# --- 7.11 in guests ---

# Flat, 32-bit protected mode, for the window's registers. vCPU 0 runs FIRST; the others, once they are started,
# OTHER. Words that all of them share are at READY.
ENTER_32 = """
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
"""
GUEST = """
        .set    ICR_LOW, 0xfee00300
        .set    WINDOW, 0xfe000000
ENTER_32
        jmp     first
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   23
        .long   gdt
        .balign 4
ready:  .long   0
stop:   .long   0
        .org    0x400
ENTER_32
        mov     $0x6000, %esp
OTHER
first:  mov     $0x7000, %esp
        orl     $0x100, 0xfee000f0      # the local APIC on
FIRST
"""
START_OTHERS = """
        movl    $0xc4500, ICR_LOW
        mov     $2000, %ecx
9:      pause
        dec     %ecx
        jnz     9b
        movl    $0xc4608, ICR_LOW       # page 8: 0x7c00 + 0x400
9:      pause
        cmpl    $0, ready
        je      9b
"""


GAVE_UP = 63  # what a guest ends with that has waited in vain


class Guest:
    """Code for a guest's driver, made a line at a time; a ring with random places in it."""

    def __init__(self, lab):
        self.lab, self.code, self.labels = lab, [], 0
        self.size = lab.rng.choice([4, 8, 16])
        at = lab.rng.randrange(0x100, 0x180) * 0x1000
        self.at = [at + 16 * lab.rng.randrange(64), at + 0x1000 + 2 * lab.rng.randrange(64), at + 0x2000 + 4 * lab.rng.randrange(64)]
        self.buffers = 0x200000

    def add(self, *lines):
        self.code += [f"        {line}" for line in lines]

    def register(self, offset, value):
        self.add(f"movl    ${value:#x}, WINDOW + {offset:#x}")

    def word(self, gpa, value):
        self.add(f"movw    ${value & 0xFFFF:#x}, {gpa:#x}")

    def label(self):
        self.labels += 1
        return f"l{self.labels}"

    def desc(self, index, addr, length, flags, nxt=0):
        at = self.at[0] + 16 * index
        self.add(f"movl    ${addr:#x}, {at:#x}", f"movl    $0, {at + 4:#x}", f"movl    ${length:#x}, {at + 8:#x}")
        self.word(at + 12, flags)
        self.word(at + 14, nxt)

    def begin(self):
        """A driver's beginning, with rings of zeros."""
        self.register(R_STATUS, 0)
        for status in (1, 3):
            self.register(R_STATUS, status)
        for half, bits in ((1, 1), (0, 0)):
            self.register(R_ACCEPT_SEL, half)
            self.register(R_ACCEPT, bits)
        self.register(R_STATUS, 11)
        for gpa in (self.at[1], self.at[1] + 2, self.at[2], self.at[2] + 2):
            self.word(gpa, 0)
        self.register(R_QUEUE_SEL, 0)
        self.register(R_QUEUE_NUM, self.size)
        for offset, gpa in zip((R_DESC, R_DRIVER, R_DEVICE), self.at):
            self.register(offset, gpa)
            self.register(offset + 4, 0)
        self.register(R_READY, 1)
        self.register(R_STATUS, 15)

    def offer(self, position, head):
        self.word(self.at[1] + 4 + 2 * (position % self.size), head)
        self.word(self.at[1] + 2, position + 1)

    def wait(self, idx):
        """Polls until the used ring's index is IDX; after some 2^33 cycles it gives up, and the machine ends."""
        loop, out = self.label(), self.label()
        self.add("rdtsc", "mov     %edx, %ecx", f"{loop}: pause", f"cmpw    ${idx & 0xFFFF:#x}, {self.at[2] + 2:#x}", f"je      {out}",
                 "rdtsc", "sub     %ecx, %edx", "cmp     $3, %edx", f"jb      {loop}",
                 f"mov     ${GAVE_UP}, %al", "out     %al, $0xf4", "hlt", f"{out}:")  # fmt: skip

    def show(self, gpa, length):
        """Bytes, to the debug port."""
        self.add(f"mov     ${gpa:#x}, %esi", f"mov     ${length}, %ecx", "mov     $0xe9, %dx", "cld", "rep outsb")

    def end(self, value):
        self.add(f"mov     ${value}, %al", "out     %al, $0xf4", "hlt")

    def file(self, other=""):
        return self.lab.guest(GUEST.replace("ENTER_32", ENTER_32).replace("FIRST", "\n".join(self.code)).replace("OTHER", other))


def run_guest(lab, path, tried, value, *options):
    """What the guest has said."""
    run = lab.hv("run", "--boot", "flat", "--rng", "--kernel", path, *options, limit=20)
    if b"/dev/kvm" in run.err and run.status == 2:
        raise CannotRun("no machine can be made here")
    lab.expect_true(f"{tried}: the used ring's index", "moves", run.status != GAVE_UP << 1 | 1, "does not, for some seconds")
    lab.expect(f"{tried}: the end", f"exit status {value << 1 | 1}", run.how())
    return run.out


def expect_random(lab, tried, data):
    lab.expect_true(tried, "random bytes, few of them 0", len(data) > 0 and data.count(0) <= len(data) // 4 + 3, data[:48].hex())


def guest_rng(lab):
    guest = Guest(lab)
    lengths = [lab.rng.randrange(40, 900) for _ in range(2 * guest.size + 3)]
    value = lab.rng.randrange(1, 60)
    guest.begin()
    for i, length in enumerate(lengths):
        gpa = guest.buffers + 0x1000 * i
        guest.desc(i % guest.size, gpa, length, WRITE)
        guest.offer(i, i % guest.size)
        guest.register(R_NOTIFY, 0)
        guest.wait(i + 1)
        guest.show(guest.at[2] + 2, 2)
        guest.show(guest.at[2] + 4 + 8 * (i % guest.size), 8)
        guest.show(gpa, length + 24)
    guest.end(value)
    tried = f"a guest that polls a queue of {guest.size}, {len(lengths)} times"
    out = run_guest(lab, guest.file(), tried, value)
    lab.expect(f"{tried}: bytes that it has to say", sum(34 + length for length in lengths), len(out))
    seen, at = set(), 0
    for i, length in enumerate(lengths):
        idx, head, written = struct.unpack_from("<HII", out, at)
        data, behind = out[at + 10 : at + 10 + length], out[at + 10 + length : at + 34 + length]
        tried = f"buffer {i} of a guest that polls, {length} bytes"
        lab.expect(f"{tried}: used index, id, length", (i + 1, i % guest.size, length), (idx, head, written))
        expect_random(lab, tried, data)
        lab.expect(f"{tried}: the 24 bytes behind it", bytes(24).hex(), behind.hex())
        seen.add(data[:16])
        at += 34 + length
    lab.expect("buffers that begin differently", len(lengths), len(seen))


INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox sha256sum /word | busybox sed 's/^/check: word /'
busybox modprobe virtio_mmio
busybox modprobe virtio-rng
echo "check: source $(busybox cat /sys/class/misc/hw_random/rng_current)"
for i in 1 2 3; do
    echo "check: bytes $(busybox dd if=/dev/hwrng bs=%(count)d count=1 2>/dev/null | busybox od -An -v -tx1 | busybox tr -d ' \\n')"
done
busybox sed -n 's/^ *[0-9]*: *\\([0-9]*\\) .*virtio0.*/check: interrupts \\1/p' /proc/interrupts
busybox sed 's/^/check: features /' /sys/bus/virtio/devices/virtio0/features
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


def boot_linux(lab, kernel, files):
    """(run, the script's lines). A machine in an emulated machine loses a boot now and then, which is nobody's
    fault here, so there are two tries."""
    for _ in range(2):
        run = lab.hv("run", "--kernel", kernel, "--initrd", files, "--rng", "--append", "console=ttyS0 quiet panic=-1 rdinit=/check",
                     limit=28, hang_ok=True)  # fmt: skip
        lines = [line.strip() for line in run.out.decode(errors="replace").splitlines()]
        lines = [line.removeprefix("check: ") for line in lines if line.startswith("check: ")]
        if "done" in lines:
            break
    return run, lines


def all_said_of(lines, name):
    return [line.removeprefix(name + " ") for line in lines if line.startswith(name + " ")]


def said_of(lines, name):
    return (all_said_of(lines, name) or ["nothing"])[0]


def linux_hwrng(lab):
    """What would make Linux wait for ever is proved before."""
    kernel, base = kernel_file()
    late_only(lab)
    count, secret = lab.rng.randrange(100, 400), lab.rng.randbytes(64)
    run, lines = boot_linux(lab, kernel, initramfs(lab, base, INIT % {"count": count}, secret))
    tried = "a Debian kernel with --rng"
    last = run.out.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    lab.expect_true(f"{tried}: user space runs a script", "all of its lines", "done" in lines,
                    f"{run.how()}; the last line of the console: {last[0][-120:]}")  # fmt: skip
    word = next((line.split()[1] for line in lines if line.startswith("word ")), "")
    lab.expect(f"{tried}: the SHA-256 of a file, made by the guest", hashlib.sha256(secret).hexdigest(), word)
    lab.expect(f"{tried}: where /dev/hwrng takes its bytes", "virtio_rng.0", said_of(lines, "source"))
    read = all_said_of(lines, "bytes")
    lab.expect(f"{tried}: reads of /dev/hwrng, {count} bytes each", [2 * count] * 3, [len(each) for each in read])
    for each in read:
        expect_random(lab, f"{tried}: what it read", bytes.fromhex(each))
    lab.expect(f"{tried}: reads that differ", 3, len(set(read)))
    bits = said_of(lines, "features")
    lab.expect(f"{tried}: VERSION_1 and INDIRECT among its features (bits 32 and 28)", "11", (bits[32:33] or "0") + (bits[28:29] or "0"))
    lab.expect_true(f"{tried}: interrupts of virtio0", "1 at least", said_of(lines, "interrupts") not in ("0", "nothing"), said_of(lines, "interrupts"))
    lab.expect(f"{tried}: after poweroff", "exit status 0", run.how())


def late_only(lab):
    """The part of rng_serves() without which Linux waits for ever."""
    device = Device(lab)
    device.rng()
    ring = device.ring(8)
    device.start(ring)
    late(lab, device, ring)
    device.run()


# --- the hostile guest ---


def odd_desc(lab, memory, tables, size):
    """A descriptor, mostly a good one."""
    rng = lab.rng
    addr = rng.choice([DATA + rng.randrange(0x8000), DATA, memory.regions[0][0] + 64])
    length = rng.choice([0, 1, 16, 100, 4000])
    flags, nxt = rng.choice([0, NEXT, NEXT, NEXT]), rng.randrange(size)
    if rng.random() < 0.4:
        flags |= WRITE
    if rng.random() < 0.15:
        flags, addr, length = INDIRECT, rng.choice(tables), 16 * rng.randrange(1, size)
    if rng.random() < 0.12:
        where = rng.randrange(6)
        if where == 0:
            addr = rng.choice([memory.hole, memory.hole - 8, MASK64, MASK64 - 15, memory.regions[3][0], memory.big - 1, memory.big + 64 * PAGE - 1])
        elif where == 1:
            length = rng.choice([0xFFFFFFFF, 0x80000000, 1 << 20, 17, 24, 16 * (size + 1)])
        elif where == 2:
            flags ^= 1 << rng.randrange(3)
        elif where == 3:
            nxt = rng.choice([size, size + 1, 0xFFFF, 0x8000])
        elif where == 4:
            flags = rng.getrandbits(16)
        else:
            addr = MASK64 - length + rng.choice([1, 2, 0x1000])
    return desc(addr & MASK64, length, flags, nxt)


def bad_chains(lab):
    size, room = 8, 70
    memory, script, ring = queue_at(lab, size, F_INDIRECT)
    tables = [memory.regions[2][0] + 0x1000, memory.regions[2][0] + 0x2000]
    good = 0
    for case in range(160):
        written = {base: b"".join(odd_desc(lab, memory, tables, size) for _ in range(size)) for base in (ring.at[0], *tables)}

        def read(at, written=written):
            return next((data[at - base : at - base + 16] for base, data in written.items() if base <= at < base + 16 * size), bytes(16))

        read.table = ring.at[0]
        script.do(f"vq {size}")
        script.do(f"at {size} {ring.at[0]} {ring.at[1]} {ring.at[2]}")
        indirect_too = lab.rng.random() < 0.9
        script.do(f"enable {F_VERSION_1 | (F_INDIRECT if indirect_too else 0)}", rc=0)
        ring.set_idx(0)
        for base, data in written.items():
            ring.put(base, data)
        head = lab.rng.choice([*range(size)] * 3 + [size])
        ring.offer(head)
        try:
            buffers = follow(memory, read, size, head, indirect_too)
            want = {**chain_of(memory, buffers), "head": head}
            if len(want["pieces"]) > room:
                raise Broken
            good += 1
        except Broken:
            want = {"rc": -errno.EPROTO, "broken": True, "beyond": False}
        script.do(f"pop {room}", f"chain {case} of 160 random ones, head {head}; descriptors {table_text(written[ring.at[0]])}", **want)
    too_much(lab, script, ring)
    script.run()
    lab.expect_true("160 random chains", "good ones among them", good > 5, good)


def table_text(data):
    each = [struct.unpack_from("<QIHH", data, at) for at in range(0, len(data), 16)]
    return ", ".join(f"{i}: {addr:#x} len {length:#x} flags {flags:#x} next {nxt}" for i, (addr, length, flags, nxt) in enumerate(each))


def too_much(lab, script, ring):
    """Endless chains of nothing: no piece is ever added, so no room runs out."""
    for round_trip in (1, 2, ring.size):
        fresh(ring)
        flags = lab.rng.choice([0, WRITE])
        for i in range(round_trip):
            ring.desc(i, DATA, 0, NEXT | flags, (i + 1) % round_trip)
        ring.offer(0)
        script.do("pop 70", f"{round_trip} empty buffers that follow each other round and round", rc=-errno.EPROTO, broken=True)


def good_request(device, ring, tried):
    """A chain from a driver that has just begun, and its answer."""
    ring.desc(0, DATA, 48, WRITE)
    ring.offer(0)
    device.write(R_NOTIFY, 0)
    device.script.do("work 0", tried, status=15)
    ring.used(tried, idx=1, elements=[(0, 0, 48)])


def bad_index(lab):
    device = Device(lab)
    device.rng()
    size = lab.rng.choice([4, 8, 16])
    ring, script = device.ring(size), device.script
    far = lab.rng.randrange(size + 1, 0x8000)
    for what, lie in ((f"ahead by {size + 1}, of {size} entries", lambda idx: idx + size + 1), ("gone back by one", lambda idx: idx - 1),
                      (f"ahead by {far}", lambda idx: idx + far), ("ahead by 32768", lambda idx: idx + 0x8000)):  # fmt: skip
        device.start(ring)
        good_request(device, ring, f"one chain, before the available index is {what}")
        device.write(R_ACK, 3)
        ring.set_idx(lie(1))
        device.write(R_NOTIFY, 0)
        script.do("work 0", f"the available index is {what}: DEVICE_NEEDS_RESET, and an interrupt for it", status=0x4F, isr=2)
        ring.used(f"the available index is {what}", idx=1)
        ring.set_idx(2)
        device.write(R_NOTIFY, 0)
        script.do("work 0", f"the available index was {what}, and is mended: status", status=0x4F)
        ring.used(f"the available index was {what}, and is mended", idx=1)
    device.start(ring)
    good_request(device, ring, "after a reset, a good chain")
    for head in (size, 0x8000, 0xFFFF):
        device.start(ring)
        ring.offer(head)
        device.write(R_NOTIFY, 0)
        script.do("work 0", f"a head that is no descriptor ({head:#x} of {size}): DEVICE_NEEDS_RESET", status=0x4F)
        ring.used(f"a head that is no descriptor ({head:#x} of {size})", idx=0)
    device.start(ring)
    good_request(device, ring, "after a reset, a good chain")
    device.run()


def bad_places(lab):
    device = Device(lab)
    device.rng()
    ring, script, memory = device.ring(8), device.script, device.memory
    all_places = [each for each in layouts(lab, memory, QUEUE_MAX) if not is_place(memory, each[1], QUEUE_MAX, each[2])]
    tries = lab.rng.sample(all_places, len(all_places))
    tries += [(f"{size:#x} entries", size, ring.at) for size in (0x10000, 0x10008, 0xFFFF0008, 0x80000000)]
    for what, size, at in tries:
        device.write(R_STATUS, 0)
        device.write(R_STATUS, 3)
        device.accept(F_VERSION_1)
        device.write(R_STATUS, 11, status=11)
        device.write(R_QUEUE_SEL, 0)
        device.write(R_QUEUE_NUM, size)
        for offset, gpa in zip((R_DESC, R_DRIVER, R_DEVICE), at):
            device.write(offset, gpa & 0xFFFFFFFF)
            device.write(offset + 4, gpa >> 32)
        tried = f"a queue with {what} (size {size:#x}, at {at[0]:#x}, {at[1]:#x}, {at[2]:#x})"
        device.write(R_READY, 1, tried=f"{tried}: QueueReady; status", status=0x4B, edges=0)
        device.read(R_READY, f"{tried}: QueueReady, read", 0)
        device.write(R_STATUS, 15, tried=f"{tried}: DRIVER_OK in spite of it; status", status=0x4F)
        device.write(R_NOTIFY, 0)
        device.script.do("work 0")
    script.do("work 0", "after all these: interrupts", edges=0)
    device.start(ring)
    good_request(device, ring, "after all these and a reset, a good chain")
    moves(lab, device, ring)
    device.run()


def moves(lab, device, ring):
    """A queue in use stays where it is."""
    other = device.memory.regions[2][0]
    for offset in (R_QUEUE_NUM, R_DESC, R_DESC + 4, R_DRIVER, R_DRIVER + 4, R_DEVICE, R_DEVICE + 4):
        device.write(offset, lab.rng.choice([other, 0, 4, 0xFFFFFFFF, lab.rng.getrandbits(32)]))
    for value in (1, 2, 0x100, 0xFFFFFFFF):
        device.write(R_READY, value)
        device.read(R_READY, f"QueueReady, when {value:#x} was written to it while it was 1", 1)
    tried = "another chain, when the registers of a queue in use were written with something else"
    ring.desc(1, DATA + 0x1000, 33, WRITE)
    ring.offer(1)
    device.write(R_NOTIFY, 0)
    device.script.do("work 0", tried, status=15)
    ring.used(tried, idx=2, elements=[(1, 1, 33)])
    device.write(R_READY, 0)
    device.read(R_READY, "QueueReady, when 0 was written to it", 0)
    ring.offer(0)
    device.write(R_NOTIFY, 0)
    device.script.do("work 0", "a notification of a queue that was taken out of use", status=15)
    ring.used("a notification of a queue that was taken out of use", idx=2)


def bad_manners(lab):
    device = Device(lab)
    device.probe(features=0, queues=2, size=16)
    script, ring = device.script, device.ring(8)
    early(device, ring)
    script.do("work 0", "notifications before DRIVER_OK, of queues that are there and that are not", serves=0, edges=0)
    device.write(R_STATUS, 0)
    device.write(R_STATUS, 15, tried="Status 15 at once, with no feature accepted (VERSION_1 is missing)", status=3, starts=0)
    device.place(ring)
    device.write(R_READY, 1)
    device.read(R_READY, "QueueReady of a queue that was placed before FEATURES_OK", 0)
    device.write(R_QUEUE_SEL, 0xFFFF)
    for offset in range(0, 0x100, 4):
        if offset not in (R_QUEUE_SEL, R_STATUS):
            device.write(offset, lab.rng.getrandbits(32))
    device.write(R_STATUS, 0)
    device.read(R_STATUS, "Status after a reset", 0)
    device.rng()
    for _ in range(700):
        offset = lab.rng.choice([lab.rng.randrange(0x100) & ~3, lab.rng.randrange(0x1000)])
        size = lab.rng.choice([4, 4, 4, 1, 2])
        value = lab.rng.choice([0, 1, 3, 11, 15, 8, 0x10000, 0xFFFFFFFF, lab.rng.getrandbits(32)]) & (1 << 8 * size) - 1
        if offset + size <= 0x1000:
            if lab.rng.random() < 0.3:
                script.do(f"rd {offset} {size}")
            else:
                device.write(offset, value, size)
    script.do("work 0")
    device.start(ring, tried="after 700 accesses at random")
    good_request(device, ring, "after 700 accesses at random, and a reset, a good chain")
    for offset, size in ((R_STATUS + 1, 1), (R_STATUS, 1), (R_STATUS, 2), (R_STATUS + 2, 2), (R_READY, 1), (R_READY, 2)):
        device.write(offset, 0, size, tried=f"a write of {size} bytes at {offset:#x}, where registers are 4 bytes wide", status=15)
        script.do(f"rd {offset} {size}", f"a read of {size} bytes at {offset:#x}, where registers are 4 bytes wide", value=0)
    device.read(R_READY, "QueueReady after these", 1)
    device.run()


def early(device, ring):
    """All but the steps."""
    for status in (0, 1, 3):
        device.write(R_STATUS, status)
        device.write(R_NOTIFY, 0)
        device.script.do("work 0")
    device.accept(F_VERSION_1)
    device.write(R_STATUS, 11, status=11)
    ring.clear()
    device.place(ring)
    device.write(R_READY, 1)
    ring.desc(0, DATA, 5, WRITE)
    ring.offer(0)
    for number in (0, 1, 2, 0xFFFF, 0xFFFFFFFF):
        device.write(R_NOTIFY, number)
    device.script.do("work 0")


def moving_target(lab):
    ms = 900
    got = lab.driver("tear", ms, lab.rng.getrandbits(40), limit=20).record
    tried = f"for {ms} ms a driver rewrites descriptors, heads and indexes while the device works ({got['resets']} resets)"
    lab.expect_true(f"{tried}: its rounds", "some hundred", got["rounds"] > 100, got["rounds"])
    lab.expect_true(f"{tried}: chains that came back", "some", got["back"] > 0, got["back"])
    lab.expect(f"{tried}: memory that no descriptor named", "as it was", "as it was" if got["secret_kept"] else "changed")
    lab.expect(f"{tried}: ROM, which buffers were said to lie in", "as it was", "as it was" if got["rom_kept"] else "changed")
    lab.expect(f"{tried}: then a reset and a good chain", "answered", "answered" if got["answered"] else "no answer within 3 s")
    lab.expect(f"{tried}: its buffer", "filled", "filled" if got["random"] else "all 0")


STORM = """
        incl    ready
storm:  addl    $1, %(idx)#x
        movl    $0, WINDOW + 0x50
        movl    $%(far)#x, WINDOW + 0x50
        movl    WINDOW + 0x60, %%eax
        movl    %%eax, WINDOW + 0x64
        movl    $%(queue)#x, WINDOW + 0x30
        cmpl    $0, stop
        je      storm
        decl    ready
1:      hlt
        jmp     1b
"""


def reset_storm(lab):
    guest, rounds, value = Guest(lab), lab.rng.randrange(60, 90), lab.rng.randrange(1, 60)
    guest.at[1] &= ~3  # the other one's ADDL, of flags and index in one, is aligned
    other = STORM % {"idx": guest.at[1], "far": lab.rng.getrandbits(32) | 8, "queue": lab.rng.choice([0, 0xFFFF])}
    other = other.replace("addl    $1", "addl    $0x10000")
    guest.add(START_OTHERS, f"mov     ${rounds}, %ebx", "again:")
    guest.begin()
    for i in range(guest.size):
        guest.desc(i, guest.buffers + 0x1000 * i, 64, WRITE)
    guest.register(R_NOTIFY, 0)
    guest.add("dec     %ebx", "jnz     again", "movl    $1, stop", "gone: pause", "cmpl    $0, ready", "jne     gone")
    guest.begin()
    length = lab.rng.randrange(40, 400)
    guest.desc(0, guest.buffers + 0x40000, length, WRITE)
    guest.offer(0, 0)
    guest.register(R_NOTIFY, 0)
    guest.wait(1)
    guest.show(guest.at[2] + 2, 2)
    guest.show(guest.at[2] + 4, 8)
    guest.show(guest.buffers + 0x40000, length)
    guest.add("movl    WINDOW + 0x70, %eax", "out     %al, $0xe9")
    guest.end(value)
    tried = f"one vCPU resets the device {rounds} times, another one notifies it, moves its index and writes its registers meanwhile"
    out = run_guest(lab, guest.file(other), tried, value, "--cpus", "2")
    lab.expect(f"{tried}; then a good driver: bytes that the guest has to say", 11 + length, len(out))
    idx, head, written = struct.unpack_from("<HII", out)
    lab.expect(f"{tried}; then a good driver: used index, id, length", (1, 0, length), (idx, head, written))
    expect_random(lab, f"{tried}; then a good driver: its buffer", out[10 : 10 + length])
    lab.expect(f"{tried}; then a good driver: Status", hexa(15), hexa(out[-1]))
