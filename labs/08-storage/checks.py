"""Lab 08's checks: one function for each [[check]] of lab.toml.

Four drivers take a script: drivers/block.c has a channel and a back end that does nothing by itself, file.c a raw
file whose system calls fall short, disk.c a virtio-blk device on a disk that answers when it is told to, image.c a
qcow2 image. What should come of it is worked out here a second time; images are written and read by this file, too.
"""

import errno
import hashlib
import os
import struct
import sys

from grading import CannotRun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECTOR, PAGE, MASK64 = 512, 4096, (1 << 64) - 1
READ, WRITE, FLUSH, DISCARD, ZERO = range(5)  # enum block_op
OPS = ("read", "write", "flush", "discard", "zero")
EIO, EINVAL, ENOTSUP, EROFS, EBUSY = -errno.EIO, -errno.EINVAL, -errno.ENOTSUP, -errno.EROFS, -errno.EBUSY


# --- helpers ---


def named(code):
    if isinstance(code, int) and code < 0 and -code in errno.errorcode:
        return f"-{errno.errorcode[-code]} ({code})"
    return str(code)


def hexa(number):
    return f"{number:#x}" if isinstance(number, int) else "none"


HEX = {"place", "entry", "host", "value"}
NAMES = {"rc": "result", "bytes": "bytes", "events": "what happened", "held": "requests that the disk has", "host": "offset in the file",
         "count": "what is counted for it", "damaged": "the image counts as damaged", "is_broken": "the image counts as damaged",
         "fresh": "*fresh", "free_hint": "free_hint afterwards", "kind": "kind (0 none, 1 zero, 2 data, 3 compressed)",
         "untouched": "*out as before", "edges": "interrupts so far", "in_flight": "chains that count as under way",
         "dropped": "clusters that lost a reference", "kernel_calls": "calls of io_uring_submit()"}  # fmt: skip


class Script:
    """Lines for a driver, and what should be seen after each."""

    def __init__(self, lab, driver):
        self.lab, self.driver, self.lines, self.wants = lab, driver, [], []

    def do(self, line, tried=None, **want):
        """Adds LINE; returns its place in what run() returns. WANT: values that its case must have. TRIED names it in
        a failure."""
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


def put_file(path, data):
    """A file that hv may write, whoever it runs as."""
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o666)
    return path


def sectors(lab, most):
    return SECTOR * lab.rng.randrange(1, most)


# --- 8.1 answers from the loop ---


def answers(lab):
    script = Script(lab, "block")
    script.do(f"disk {1 << 20} rw 1 1", rc=0)
    script.do("run 3", "a loop that has nothing to do", events=[])
    ids = list(range(1, 30))
    for each in ids:
        script.do(f"give {each}", events=[])
    at = 0
    for count in (1, 5, 2, 7):
        batch = lab.rng.sample(ids, count)
        ids = [each for each in ids if each not in batch]
        results = [lab.rng.choice([0, 0, EIO, ENOTSUP, -errno.ENOSPC]) for _ in batch]
        for each, result in zip(batch, results):
            script.do(f"finish {each} {result}", "block_finish(), called by the back end: done() is for the loop", events=[])
        at += count
        script.do("run 1", f"{count} requests that were finished, then loop_run_once(): done() in their order, batch_end() once",
                  events=[["done", each, result] for each, result in zip(batch, results)] + [["batch", 0, 0]])  # fmt: skip
        script.do("run 3", "and loop_run_once(), when nothing was finished since", events=[])
    first, second, third, fourth, fifth = ids[:5]
    script.do(f"then {first} {second} {EIO}")
    script.do(f"then {third} {fifth} {EINVAL}")
    for each in (first, third, fourth):
        script.do(f"finish {each} 0", events=[])
    script.do("run 1", "two requests of which each has another one finished in its done(), and a third: the others' turn comes later",
              events=[["done", each, 0] for each in (first, third, fourth)] + [["batch", 0, 0]])  # fmt: skip
    script.do("run 1", "and the next loop_run_once()", events=[["done", second, EIO], ["done", fifth, EINVAL], ["batch", 0, 0]])
    for i in range(13):
        script.do(f"give {50 + i}", events=[])
        script.do(f"then {50 + i} {51 + i} {i + 1}")
    script.do("finish 50 0", events=[])
    for i in range(12):
        script.do("run 1", "requests of which each has the next one finished in its done(): one for each turn of the loop",
                  events=[["done", 50 + i, i], ["batch", 0, 0]])  # fmt: skip
    script.run()


# --- 8.2 check() ---


def requests(lab):
    script = Script(lab, "block")
    size = SECTOR * lab.rng.randrange(500, 4000)
    tries = []
    for op in (READ, WRITE, DISCARD, ZERO):
        at = SECTOR * lab.rng.randrange(1, 400)
        tries += [(op, at, SECTOR), (op, 0, size), (op, size - SECTOR, SECTOR), (op, size, SECTOR), (op, size - SECTOR, 2 * SECTOR),
                  (op, at + 1, SECTOR), (op, at + 256, SECTOR), (op, at, SECTOR + 1), (op, at, 100), (op, at, size), (op, 0, size + SECTOR),
                  (op, (1 << 64) - SECTOR, SECTOR), (op, (1 << 64) - SECTOR, 2 * SECTOR), (op, (1 << 63), 1 << 63), (op, size + 4096, SECTOR),
                  (op, (1 << 64) - 8 * SECTOR, at + 8 * SECTOR)]  # fmt: skip
        tries += [(op, SECTOR * lab.rng.randrange(0, 5000), sectors(lab, 900)) for _ in range(8)]
        tries += [(op, at, 0), (op, size, 0), (op, size + SECTOR, 0)]
    tries += [(FLUSH, 0, 0), (FLUSH, 77, 0), (FLUSH, MASK64, 0)]
    for read_only, discard, zero in ((0, 1, 1), (1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        script.do(f"disk {size} {'ro' if read_only else 'rw'} {discard} {zero}", rc=0)
        for i, (op, offset, length) in enumerate(tries, 1):
            wrong = judge(size, read_only, discard, zero, op, offset, length)
            lens = pieces_of(lab, length) if op in (READ, WRITE) and length <= 1 << 20 else [length] if op in (READ, WRITE) else []
            tell_request(script, i, op, offset, length, lens, wrong, f"block of {size} bytes, {'read-only' if read_only else 'writable'}, "
                         f"{'with' if discard else 'without'} discards, {'with' if zero else 'without'} zeros")  # fmt: skip
        i = len(tries) + 1
        for op in (READ, WRITE):
            for lens in ([512, 512, 513], [511], [], [1024, 1024], [0]):
                wrong = EROFS if op == WRITE and read_only else EINVAL
                tell_request(script, i, op, 0, 1536, lens, wrong, "block")
                i += 1
    script.run()


def judge(size, read_only, discard, zero, op, offset, length):
    """What is wrong with a request, or None."""
    if op == FLUSH:
        return None
    if read_only and op != READ:
        return EROFS
    if (op == DISCARD and not discard) or (op == ZERO and not zero):
        return ENOTSUP
    if offset % SECTOR or length % SECTOR or offset + length > size:
        return EINVAL
    return None


def pieces_of(lab, length):
    lens = []
    while length and len(lens) < 6:
        lens.append(lab.rng.choice([length, min(length, lab.rng.randrange(1, 900))]))
        length -= lens[-1]
    return lens + [length] if length else lens or [0]


def tell_request(script, number, op, offset, length, lens, wrong, what):
    tried = f"{what}: {OPS[op]} of {length:#x} bytes at {offset:#x}" + (f" with memory for {sum(lens)}" if lens and sum(lens) != length else "")
    reaches = wrong is None and (length > 0 or op == FLUSH)
    script.do(f"req {number} {op} {offset} {length} " + " ".join(map(str, lens)), f"{tried}: block_submit()",
              events=[["seen", number, 0]] if reaches else [])  # fmt: skip
    if reaches:
        script.do("run 1", f"{tried}: the loop, before the back end has an answer", events=[])
    else:
        script.do("run 1", f"{tried}: then the loop", events=[["done", number, wrong or 0], ["batch", 0, 0]])


# --- 8.3 transfers ---


def transfers(lab):
    script, path = Script(lab, "file"), os.path.join(lab.scratch, "disk")
    cases = []
    for write in (True, False):
        for _ in range(12):
            lens = [lab.rng.choice([512, 1024, 513, 7, 0, lab.rng.randrange(1, 900)]) for _ in range(lab.rng.randrange(1, 6))]
            if not any(lens):
                lens.append(900)
            done = lab.rng.choice([0, 0, lens[0], sum(lens[:2]), lab.rng.randrange(0, sum(lens))])
            plan = [lab.rng.choice([1, 3, 500, 512, 4096, -errno.EINTR, 10000]) for _ in range(lab.rng.randrange(0, 12))]
            cases.append((write, lab.rng.randrange(0, 900), min(done, sum(lens) - 1), lens, plan, 0))
        for error in (errno.EIO, errno.ENOSPC, errno.EFBIG):
            lens = [700, 900, 300]
            cases.append((write, 100, 0, lens, lab.rng.choice([[-error], [700, -error], [400, -errno.EINTR, -error], [700, 900, 10, -error]]), -error))
        cases.append((write, 512, 0, [512, 512], [100, 0], EIO))
        cases.append((write, 512, 0, [512, 512], [512, 0], EIO))
    cases.append((False, 5000, 0, [512, 1024], [], EIO))  # the file ends at 6000
    cases.append((False, 40000, 0, [512], [], EIO))
    places = []
    for write, offset, done, lens, plan, rc in cases:
        content = lab.rng.randbytes(6000)
        script.do(f"file {path} {content.hex()}")
        script.do("plan " + " ".join(map(str, plan)))
        places.append((script.do(f"perform {'w' if write else 'r'} {path} {offset} {done} " + " ".join(map(str, lens))),
                       script.do(f"show {path}"), content))  # fmt: skip
    seen = script.run()
    for (write, offset, done, lens, plan, rc), (at, shown, content) in zip(cases, places):
        tried = (f"{'write' if write else 'read'} of {sum(lens)} bytes at {offset}, in pieces of {lens}, from byte {done} of it on, when system calls "
                 f"{'do ' + str(plan) + ', then ' if plan else 'do '}all")  # fmt: skip
        lab.expect(f"{tried}: result", named(rc), named(seen[at]["rc"]))
        if rc == 0:
            judge_transfer(lab, tried, write, offset, done, lens, content, bytes.fromhex(seen[at]["memory"]), bytes.fromhex(seen[shown]["bytes"]))
    script.lab.expect_true("calls for a transfer that is not cut short", "some", any(seen[at]["calls"] for at, _, _ in places), "none")


def judge_transfer(lab, tried, write, offset, done, lens, content, memory, after):
    expected_file, expected_memory = bytearray(content), bytearray(memory)
    expected_file.extend(bytes(max(0, offset + sum(lens) - len(content))))
    at = moved = 0
    for length in lens:
        for i in range(length):
            if moved + i >= done:
                if write:
                    expected_file[offset + moved + i] = (at + i) % 251
                else:
                    expected_memory[at + i] = content[offset + moved + i]
            elif not write:
                expected_memory[at + i] = 0xEE
        if not write:
            expected_memory[at + length : at + length + 64] = b"\xee" * 64
        at, moved = at + length + 64, moved + length
    wrong = next((i for i, (a, b) in enumerate(zip(expected_file, after)) if a != b), None)
    lab.expect(f"{tried}: first byte of the file that is wrong", None, wrong)
    lab.expect(f"{tried}: the file's size", max(len(content), offset + sum(lens) if write else 0), len(after))
    wrong = next((i for i, (a, b) in enumerate(zip(expected_memory, memory)) if a != b), None)
    lab.expect(f"{tried}: first byte of memory that is wrong, counted with 64 bytes between the pieces", None, wrong)


# --- 8.4 try_lock() ---


def locks(lab):
    script, path = Script(lab, "file"), os.path.join(lab.scratch, "disk")
    script.do(f"file {path} " + "00" * 512)
    reads, writes = [100, 201, 203], [100, 101, 103, 201, 203]
    script.do(f"held {path}", "before anybody has it", held=[])
    script.do(f"lock 0 {path} rw", "the first writer", rc=0)
    script.do(f"held {path}", "bytes with a shared lock, when there is a writer", held=writes)
    script.do(f"lock 1 {path} rw", "a second writer", rc=EBUSY)
    script.do(f"lock 2 {path} ro", "a reader beside a writer", rc=EBUSY)
    script.do(f"held {path}", "bytes with a shared lock, after two others were refused", held=writes)
    script.do("unlock 0")
    script.do(f"lock 3 {path} ro", "a reader, when the writer is gone", rc=0)
    script.do(f"lock 4 {path} ro", "a second reader", rc=0)
    script.do(f"held {path}", "bytes with a shared lock, when there are readers", held=reads)
    script.do(f"lock 5 {path} rw", "a writer beside readers", rc=EBUSY)
    script.do("unlock 3")
    script.do(f"lock 5 {path} rw", "a writer beside one reader", rc=EBUSY)
    script.do("unlock 4")
    script.do(f"lock 5 {path} rw", "a writer, when all are gone", rc=0)
    script.do("unlock 5")
    script.do(f"held {path}", "when all are gone", held=[])
    for byte in (101, 103, 201, 203, 100):
        script.do(f"foreign 6 {path} {byte}", rc=0)
        script.do(f"lock 7 {path} rw", f"a writer, when another tool has an exclusive lock on byte {byte}", rc=EBUSY)
        script.do(f"lock 7 {path} ro", f"a reader, when another tool has an exclusive lock on byte {byte}", rc=EBUSY)
        script.do("unlock 6")
    for code, rc in ((errno.EINVAL, 0), (errno.ENOLCK, 0), (errno.EIO, EIO), (errno.EAGAIN, EBUSY), (errno.EACCES, EBUSY)):
        script.do(f"refuse {code}")
        for kind in ("rw", "ro"):
            script.do(f"lock 0 {path} {kind}", f"raw_lock(), where each lock fails with {errno.errorcode[code]}", rc=rc)
            script.do("unlock 0")
    script.do("refuse 0")
    races = [(script.do(f"race {path} {first} {second}"), first, second) for first in ("rw", "ro") for second in ("rw", "ro") if "rw" in (first, second)]
    seen = script.run()
    for place, first, second in races:
        got = (seen[place]["first"], seen[place]["second"])
        lab.expect_true(f"two at once, {first} and {second}: the second one runs when the first one begins to look", "one of them, or both, get -EBUSY",
                        EBUSY in got, f"{named(got[0])} and {named(got[1])}" + (" (the first never looked)" if got[1] == 1 else ""))  # fmt: skip


# --- 8.5 answers of io_uring ---


def pattern(number, length, first=0):
    return bytes((i % 251 + 1 + number) & 0xFF for i in range(first, first + length))


class Ring:
    """A script for a channel over io_uring on a file."""

    def __init__(self, lab):
        self.lab, self.script = lab, Script(lab, "file")
        self.path = os.path.join(lab.scratch, "disk")
        self.content = bytearray(lab.rng.randbytes(128 << 10))
        self.script.do(f"file {self.path} {self.content.hex()}")
        self.first = self.script.do(f"ring {self.path}")
        self.count = 0

    def request(self, op, offset, *lens, twist=None):
        self.count += 1
        if twist is not None:
            self.script.do(f"twist {self.count} {twist}")
        self.script.do(f"sub {self.count} {op} {offset} " + " ".join(map(str, lens)))
        return self.count

    def commit(self):
        self.script.do("commit")

    def loop(self, most, kernel, tried, **want):
        return self.script.do(f"loop {most} {kernel}", tried, **want)

    def run(self):
        seen = self.script.run()
        if seen[self.first].get("uring") is False:
            raise CannotRun("this host, or a container around us, forbids io_uring")
        self.lab.expect("block_raw_create() and block_open() of a channel over io_uring", "0", named(seen[self.first]["rc"]))
        return seen


def ring_answers(lab):
    ring = Ring(lab)
    script, checks = ring.script, []

    def one(what, op, offset, lens, twist, result, content=None):
        number = ring.request(op, offset, *lens, twist=twist)
        ring.commit()
        ring.loop(1, 1, what, done=1, batches=1, empty_batches=0, order=[[number, result]])
        checks.append((what, number, op, offset, sum(lens), twist, result, script.do(f"memory {number}"), script.do(f"part {ring.path} {offset} {sum(lens)}")))

    for op in (READ, WRITE):
        lens = [1024, 512, 2560]
        size, base = sum(lens), 8192 * lab.rng.randrange(1, 8)
        one(f"a {OPS[op]}, as it should be", op, base, lens, None, 0)
        one(f"a {OPS[op]} that the kernel answers with -EAGAIN", op, base, lens, -errno.EAGAIN, 0)
        one(f"a {OPS[op]} that the kernel answers with -EINTR", op, base, lens, -errno.EINTR, 0)
        short = lab.rng.choice([512, 1024, 1500, size - 1])
        one(f"a {OPS[op]} of {size} bytes that the kernel answers with {short}", op, base, lens, short, 0)
        one(f"a {OPS[op]} of {size} bytes that the kernel answers with 0", op, base, lens, 0, 0)
        for code in (errno.EIO, errno.ENOSPC, errno.EBADF):
            one(f"a {OPS[op]} that the kernel answers with -{errno.errorcode[code]}", op, base, lens, -code, -code)
    one("a flush that the kernel answers with 0", FLUSH, 0, [], 0, 0)
    one("a flush, really", FLUSH, 0, [], None, 0)
    one("a flush that fails", FLUSH, 0, [], EIO, EIO)
    for op in (DISCARD, ZERO):
        one(f"a {OPS[op]} that the kernel answers with -EOPNOTSUPP", op, 0, [4096], -errno.EOPNOTSUPP, ENOTSUP)
        one(f"a {OPS[op]} that the kernel answers with 0", op, 0, [4096], 0, 0)
    together = [ring.request(WRITE, 4096 * i, 4096) for i in range(10)]
    ring.commit()
    place = ring.loop(10, 10, "ten writes with one commit: done(), and batch_end() once for all", done=10, batches=1, empty_batches=0)
    script.do("late 599 0 512 512")
    ring.request(READ, 0, 512)
    ring.commit()
    late = ring.loop(2, 1, "an answer that comes when the eventfd's count is taken away, or after it: it must not get lost", done=2)
    ring.request(READ, 0, 512)
    ring.commit()
    script.do("no_room 1")
    ring.request(READ, 1024, 512)
    ring.commit()
    after = ring.loop(2, 1, "a request that the kernel had no room for, and an answer after it: it is submitted again", done=2)
    seen = ring.run()
    lab.expect("ten writes: who was done", sorted(together), sorted(each[0] for each in seen[place]["order"]))
    for at in (late, after):
        lab.expect("entries of the completion queue that were not given back before their done()", 0, seen[at]["consumed_late"])
    for check in checks:
        judge_answer(lab, ring, seen, *check)


def judge_answer(lab, ring, seen, what, number, op, offset, size, twist, result, memory, shown):
    """What was moved in our place, and what was left alone because the kernel said that it had done it."""
    if op in (DISCARD, ZERO) and twist == 0:
        lab.expect(f"{what}, which is all: the file there", ring.content[offset : offset + size].hex(), seen[shown]["bytes"])
    if result < 0 or op not in (READ, WRITE):
        return
    begin = max(0, twist) if twist is not None else 0
    after = bytes.fromhex(seen[shown]["bytes"])
    lab.expect(f"{what}: calls of done()", 1, seen[memory]["times"])
    if op == WRITE:
        lab.expect(f"{what}: the file, from byte {begin} of the write on", pattern(number, size - begin, begin).hex(), after[begin:].hex())
    else:
        got = bytes.fromhex(seen[memory]["memory"])
        lab.expect(f"{what}: memory, from byte {begin} on", after[begin:].hex(), got[begin:].hex())
        lab.expect(f"{what}: memory before it, which the kernel said it had filled", "ee" * begin, got[:begin].hex())


# --- a virtio-blk device, and its driver ---

NEXT, WRITES = 1, 2  # descriptor flags, VIRTIO 1.2 §2.7.5
F_VERSION_1 = 1 << 32
R_ACCEPT, R_ACCEPT_SEL, R_QUEUE_SEL, R_QUEUE_NUM, R_READY, R_NOTIFY = 0x20, 0x24, 0x30, 0x38, 0x44, 0x50
R_ACK, R_STATUS, R_DESC, R_DRIVER, R_DEVICE = 0x64, 0x70, 0x80, 0x90, 0xA0
IN, OUT, T_FLUSH, GET_ID, T_DISCARD, T_ZEROES = 0, 1, 4, 8, 11, 13  # §5.2.6
OK, IOERR, UNSUPP = 0, 1, 2
NEVER = 0xA5  # what a status byte holds before
POOL = 256  # requests of a queue
RAM, RINGS, HEADERS, DATA = 4 << 20, 0x10000, 0x40000, 0x100000


def le16(*values):
    return struct.pack(f"<{len(values)}H", *(value & 0xFFFF for value in values))


def desc(addr, length, flags=0, nxt=0):
    return struct.pack("<QIHH", addr, length, flags, nxt)


def header(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


class Disk:
    """A script for drivers/disk.c: a disk, and a driver with one queue."""

    def __init__(self, lab, size=64, sectors=2048, read_only=False, iops=0, bps=0):
        self.lab, self.script, self.size = lab, Script(lab, "disk"), size
        self.at = [RINGS, RINGS + 0x4000, RINGS + 0x8000]
        self.script.do(f"mem 0 {RAM} ram", rc=0)
        self.script.do(f"disk 1 {sectors} {'ro' if read_only else 'rw'} {iops} {bps}", rc=0)
        self.start()

    def write(self, offset, value):
        self.script.do(f"wr {offset} 4 {value}")

    def put(self, gpa, data):
        self.script.do(f"put {gpa} {data.hex()}")

    def start(self):
        self.idx = self.head = 0
        for status in (0, 1, 3):
            self.write(R_STATUS, status)
        for half in (0, 1):
            self.write(R_ACCEPT_SEL, half)
            self.write(R_ACCEPT, F_VERSION_1 >> 32 * half & 0xFFFFFFFF)
        self.write(R_STATUS, 11)
        for gpa in self.at:
            self.put(gpa, bytes(16 * self.size))
        self.write(R_QUEUE_SEL, 0)
        self.write(R_QUEUE_NUM, self.size)
        for offset, gpa in zip((R_DESC, R_DRIVER, R_DEVICE), self.at):
            self.write(offset, gpa)
            self.write(offset + 4, 0)
        self.write(R_READY, 1)
        self.write(R_STATUS, 15)
        self.script.do("work 0", "a driver's beginning", status=15)

    def chain(self, buffers, head=None):
        """Descriptors for BUFFERS [(gpa, length, flags)]; returns the head."""
        first = head = self.head if head is None else head
        for i, (gpa, length, flags) in enumerate(buffers):
            more = i + 1 < len(buffers)
            self.put(self.at[0] + 16 * head, desc(gpa, length, flags | NEXT * more, (head + 1) % self.size if more else 0))
            head = (head + 1) % self.size
        self.head = head
        return first

    def offer(self, head):
        self.put(self.at[1] + 4 + 2 * (self.idx % self.size), le16(head))
        self.idx += 1
        self.put(self.at[1] + 2, le16(self.idx))

    def send(self, kind, sector, buffers, slot=0):
        """A request as most drivers make it; returns (head, where its status is)."""
        at = HEADERS + 64 * slot
        self.put(at, header(kind, sector) + bytes([NEVER]))
        head = self.chain([(at, 16, 0), *buffers, (at + 16, 1, WRITES)])
        self.offer(head)
        return head, at + 16

    def notify(self):
        self.write(R_NOTIFY, 0)
        return self.script.do("work 0")

    def used(self, tried, idx, elements=()):
        self.script.do(f"get {self.at[2] + 2} 2", f"{tried}: the used ring's index", bytes=le16(idx).hex())
        for position, head, written in elements:
            self.script.do(f"get {self.at[2] + 4 + 8 * (position % self.size)} 8", f"{tried}: used element {position % self.size} (id, then length)",
                           bytes=struct.pack("<II", head, written).hex())  # fmt: skip

    def status(self, tried, at, value):
        self.script.do(f"get {at} 1", f"{tried}: status", bytes=f"{value:02x}")

    def run(self, limit=None):
        return self.script.run(limit)


def cut(lab, gpa, length, flags, most=5):
    """A buffer as several, next to each other in memory."""
    out = []
    while length:
        here = min(length, lab.rng.choice([length, 1, 511, 512, lab.rng.randrange(1, length + 1)])) if len(out) + 1 < most else length
        out.append((gpa, here, flags))
        gpa, length = gpa + here, length - here
    return out


def joined(pieces):
    """[[gpa, length]] with neighbours as one."""
    out = []
    for gpa, length in pieces:
        if out and out[-1][0] + out[-1][1] == gpa:
            out[-1][1] += length
        elif length:
            out.append([gpa, length])
    return out


# --- 8.6 chains become requests ---


def chains(lab):
    disk = Disk(lab)
    tries = []
    for i in range(24):
        kind, sector, count = lab.rng.choice([IN, OUT]), lab.rng.randrange(0, 1900), lab.rng.randrange(1, 60)
        at, gpa = HEADERS + 64 * i, DATA + 0x10000 * (i % 20) + lab.rng.randrange(0, 4096)
        flags = WRITES if kind == IN else 0
        disk.put(at, header(kind, sector) + bytes([NEVER]))
        way = i % 4
        if way == 0 or (way == 3 and kind == OUT):  # as most drivers do it
            buffers, place = [(at, 16, 0), *cut(lab, gpa, 512 * count, flags), (at + 16, 1, WRITES)], at + 16
        elif way == 1:  # the header in pieces, the data next to it if it is read
            buffers = [(at, 5, 0), (at + 5, 11, 0), *cut(lab, gpa, 512 * count, flags), (at + 16, 1, WRITES)]
            place = at + 16
            if kind == OUT:
                disk.put(gpa - 16, header(kind, sector))
                buffers = [(gpa - 16, 16 + 512 * count, 0), (at + 16, 1, WRITES)]
        elif way == 2:  # an empty buffer at the end
            buffers, place = [(at, 16, 0), *cut(lab, gpa, 512 * count, flags), (at + 16, 1, WRITES), (at + 40, 0, WRITES)], at + 16
        else:  # the status is the data's last byte but one further
            buffers, place = [(at, 16, 0), *cut(lab, gpa, 512 * count + 1, WRITES, 3)], gpa + 512 * count
        head = disk.chain(buffers)
        disk.offer(head)
        disk.notify()
        seen = disk.script.do("seen")
        disk.script.do("all 0")
        disk.script.do("work 0")
        tries.append((seen, kind, sector, count, gpa, buffers, place))
    big = [(sector, disk.script.do("seen")) for sector in (MASK64, 1 << 55, (1 << 55) + 5, (1 << 56) + 1, (1 << 63))
           if disk.send(IN, sector, [(DATA, 512, WRITES)], 30) and disk.notify() is not None]  # fmt: skip
    seen = disk.run()
    for place, kind, sector, count, gpa, buffers, _ in tries:
        got = seen[place]["seen"]
        tried = f"a chain of {[(hexa(a), n) for a, n, _ in buffers]} that asks for a {'read' if kind == IN else 'write'} of {count} sectors at {sector}"
        lab.expect(f"{tried}: requests that the disk has then", 1, len(got))
        lab.expect(f"{tried}: operation", OPS[READ if kind == IN else WRITE], OPS[got[0]["op"]])
        lab.expect(f"{tried}: offset and size, bytes", (512 * sector, 512 * count), (got[0]["offset"], got[0]["size"]))
        lab.expect(f"{tried}: memory for it [address, bytes]", [[hexa(gpa), 512 * count]], [[hexa(a), n] for a, n in joined(got[0]["pieces"])])
    for sector, place in big:
        lab.expect(f"a read at sector {sector:#x}, whose offset in bytes has more than 64 bits, or is far beyond the end: requests that the disk has then", 0,
                   len(seen[place]["seen"]))  # fmt: skip


# --- 8.7 the pool and the limits ---


def pool(lab):
    many(lab)
    for iops, bps in ((lab.rng.choice([20, 30]), 0), (0, lab.rng.choice([200, 300]) << 10)):
        limited(lab, iops, bps)


def many(lab):
    disk = Disk(lab, size=256)
    script = disk.script
    at = HEADERS
    disk.put(at, header(OUT, 7))
    count = lab.rng.randrange(3, 60)
    heads = [disk.chain([(at, 16, 0), (DATA, 512, 0), (at + 32 + i, 1, WRITES)], head=3 * i) for i in range(count)]
    for head in heads:
        disk.offer(head)
    disk.write(R_NOTIFY, 0)
    script.do("work 0", f"{count} requests at once, one notification: requests that the disk has", held=count)
    script.do("work 0", f"{count} requests at once: chains taken", twice=0, queues=[{"taken": count, "published": 0, "pushed": 0, "in_flight": count}])
    disk.offer(heads[0])
    disk.write(R_NOTIFY, 0)
    script.do("work 0", "one more, while all others are under way: requests that the disk has", held=count + 1, total=count + 1)
    script.do(f"get {disk.at[2]} 2", "the used ring's flags, when the device has nothing more to take: it wants to be told", bytes="0000")
    for i in range(POOL + 40 - count - 1):
        disk.offer(heads[i % count])
        if i % 100 == 99:
            disk.notify()
    disk.write(R_NOTIFY, 0)
    script.do("work 0", f"{POOL + 40} chains, the same descriptors again and again, and no answer: requests that the disk has", held=POOL, total=POOL, twice=0)
    script.do("work 0", f"{POOL + 40} chains, and requests for {POOL}: chains taken", in_flight=POOL)
    script.run()


def limited(lab, iops, bps):
    rate = iops or bps
    size = 512 if iops else lab.rng.choice([2048, 4096])
    disk = Disk(lab, size=64, iops=iops, bps=bps)
    disk.put(HEADERS, header(OUT, 7))
    each = 1 if iops else size
    burst = rate // 10
    count = (burst + each - 1) // each + lab.rng.randrange(6, 9)
    if count > 60:
        count = 60
    heads = [disk.chain([(HEADERS, 16, 0), (DATA, size, 0), (HEADERS + 32, 1, WRITES)], head=0) for _ in range(2)]
    disk.script.do("auto 1")
    for _ in range(count):
        disk.offer(heads[0])
    begin = disk.script.do(f"wr {R_NOTIFY} 4 0")
    first = disk.script.do("work 0")
    place = disk.script.do(f"until {count} 8000")
    seen = disk.run(limit=18)
    ms = (count * each - burst - each) * 1000 / rate
    tried = f"{count} writes of {size} bytes with a limit of {iops or bps} {'requests' if iops else 'bytes'} per second"
    passed = seen[first]["clock"] - seen[begin]["clock"] + 1
    least, most = burst // each, (burst + rate * passed / 1000) // each + 2
    lab.expect_true(f"{tried}: taken after {passed} ms", f"{least} to {most:.0f}", least <= seen[first]["total"] <= most, seen[first]["total"])
    lab.expect(f"{tried}: taken in the end", count, seen[place]["total"])
    passed = seen[place]["clock"] - seen[begin]["clock"] + 1
    lab.expect_true(f"{tried}: milliseconds until the last one is taken", f"{ms:.0f} at least", passed >= ms, passed)


# --- 8.8 answers ---


def replies(lab):
    disk = Disk(lab, size=64)
    script = disk.script
    results = [0, EIO, ENOTSUP, 0, -errno.ENOSPC, EINVAL, 0, EROFS, 0, 0]
    kinds = [IN, IN, OUT, OUT, OUT] + [lab.rng.choice([IN, OUT, T_FLUSH]) for _ in results[5:]]
    sent, lengths = [], []
    for i, kind in enumerate(kinds):
        length = 0 if kind == T_FLUSH else 512 * lab.rng.randrange(1, 9)
        buffers = [] if kind == T_FLUSH else [(DATA + 0x2000 * i, length, WRITES if kind == IN else 0)]
        script.do(f"fill {20 * i} {i + 1}")
        sent.append(disk.send(kind, 20 * i, buffers, i))
        lengths.append(length if kind == IN else 0)
        disk.notify()
    script.do("work 0", "ten requests, and no answer of the disk yet", held=10, in_flight=10, edges=0)
    disk.used("ten requests, and no answer of the disk yet", 0)
    for _, at in sent:
        disk.status("a request that is under way", at, NEVER)
    order = lab.rng.sample(range(10), 10)
    left, done, edges = list(range(10)), [], 0
    for count in (1, 4, 2, 3):
        batch, order = order[:count], order[count:]
        script.do("finish " + " ".join(f"{left.index(each)} {results[each]}" for each in batch))
        edges += 1
        left = [each for each in left if each not in batch]
        done += batch
        tried = f"the disk answers {count} of them at once, in another order"
        script.do("work 0", tried, edges=edges, in_flight=10 - len(done), held=len(left))
        disk.write(R_ACK, 3)
        disk.used(tried, len(done), [(len(done) - count + i, sent[each][0], (lengths[each] if results[each] == 0 else 0) + 1) for i, each in enumerate(batch)])
        for each in batch:
            status = OK if results[each] == 0 else UNSUPP if results[each] == ENOTSUP else IOERR
            disk.status(f"a request that the disk answered with {named(results[each])}", sent[each][1], status)
    for each in left:
        disk.status("a request that is still under way", sent[each][1], NEVER)
    for i, kind in enumerate(kinds):
        if kind == IN and results[i] == 0:
            script.do(f"get {DATA + 0x2000 * i} 512", "the first sector of a read", bytes=f"{i + 1:02x}" * 512)
    known(disk, edges)
    starving(disk)
    disk.run()


def known(disk, edges):
    """Answers that need no disk."""
    script = disk.script
    _, at = disk.send(GET_ID, 0, [(DATA, 20, WRITES)], 20)
    _, odd = disk.send(0x77, 0, [(DATA + 64, 20, WRITES)], 21)
    disk.write(R_NOTIFY, 0)
    script.do("work 0", "a request for the serial number, and an unknown one", edges=edges + 1, in_flight=0, held=0)
    disk.write(R_ACK, 3)
    disk.status("a request for the serial number", at, OK)
    disk.status("a request of type 0x77", odd, UNSUPP)
    disk.used("a request for the serial number, and an unknown one", 12, [(10, (disk.head - 6) % disk.size, 21), (11, (disk.head - 3) % disk.size, 1)])
    script.do(f"get {DATA} 8", "the serial number", bytes=b"hvlab-8\0".hex())
    tried = "a read of one sector whose status is the last byte of the same buffer"
    script.do("fill 3 119")
    disk.put(DATA, bytes([NEVER]) * 514)
    disk.put(HEADERS, header(IN, 3))
    head = disk.chain([(HEADERS, 16, 0), (DATA, 513, WRITES)])
    disk.offer(head)
    disk.notify()
    script.do("all 0")
    script.do("work 0", tried, in_flight=0, held=0)
    script.do(f"get {DATA} 514", f"{tried}: the buffer, and a byte behind it", bytes="77" * 512 + f"{OK:02x}{NEVER:02x}")
    disk.used(tried, 13, [(12, head, 513)])


def starving(disk):
    """After answers there are requests again for the chains that had to wait."""
    script = disk.script
    disk.put(HEADERS, header(OUT, 9))
    head = disk.chain([(HEADERS, 16, 0), (DATA, 512, 0), (HEADERS + 32, 1, WRITES)], head=0)
    count = 0
    while count < POOL + 50:
        disk.offer(head)
        count += 1
        if count % 60 == 0:
            disk.notify()
    disk.write(R_NOTIFY, 0)
    script.do("work 0", f"{count} chains, requests for {POOL}", in_flight=POOL)
    script.do("finish 0 0 3 0 5 0")
    script.do("work 0", f"{count} chains, requests for {POOL}, three of them answered: the next three are taken", in_flight=POOL, held=POOL)
    script.do("all 0")
    script.do("work 0", f"{count} chains, all that were under way are answered: the rest is taken", in_flight=count - POOL - 3)
    script.do("all 0")
    script.do("work 0", f"{count} chains: all answered", in_flight=0, held=0)
    disk.used(f"{count} chains: all answered", 13 + count)


# --- a guest's own driver ---

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
number: .long   0
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

    def __init__(self, lab, size=None):
        self.lab, self.code, self.labels = lab, [], 0
        self.size = size or lab.rng.choice([16, 32])
        at = lab.rng.randrange(0x100, 0x180) * 0x1000
        self.at = [at + 16 * lab.rng.randrange(64), at + 0x1000 + 4 * lab.rng.randrange(64), at + 0x2000 + 4 * lab.rng.randrange(64)]
        self.headers, self.buffers = 0x1C0000, 0x200000

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
        for half, bits in ((1, 1), (0, 1 << 9)):  # VERSION_1, FLUSH
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

    def request(self, position, head, kind, sector, gpa=0, length=0):
        """The chain from descriptor HEAD on: header, data if there are any, status. Returns where the status is."""
        at = self.headers + 32 * head
        self.add(f"movl    ${kind:#x}, {at:#x}", f"movl    $0, {at + 4:#x}", f"movl    ${sector:#x}, {at + 8:#x}", f"movl    $0, {at + 12:#x}",
                 f"movb    ${NEVER:#x}, {at + 16:#x}")  # fmt: skip
        self.desc(head, at, 16, NEXT, head + 1)
        if length:
            self.desc(head + 1, gpa, length, NEXT | (WRITES if kind == IN else 0), head + 2)
        self.desc(head + 1 + bool(length), at + 16, 1, WRITES)
        self.offer(position, head)
        return at + 16

    def fill(self, gpa, length, value):
        self.add(f"mov     ${gpa:#x}, %edi", f"mov     ${length // 4}, %ecx", f"mov     ${value:#x}, %eax", "cld", "rep stosl")

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


def run_guest(lab, path, disk, tried, value, *options):
    """What the guest has said."""
    run = lab.hv("run", "--boot", "flat", "--disk", disk, "--kernel", path, *options, limit=20)
    if b"/dev/kvm" in run.err and run.status == 2:
        raise CannotRun("no machine can be made here")
    lab.expect_true(f"{tried}: the used ring's index", "moves", run.status != GAVE_UP << 1 | 1, "does not, for some seconds")
    lab.expect(f"{tried}: the end", f"exit status {value << 1 | 1}", run.how())
    return run.out


def guest_disk(lab):
    guest, value = Guest(lab, 32), lab.rng.randrange(1, 60)
    path = os.path.join(lab.scratch, "disk.img")
    content = bytearray(lab.rng.randbytes(256 * SECTOR))
    put_file(path, content)
    guest.begin()
    sent, statuses = 0, []
    for i in range(6):
        sector, length, word = 20 * i + lab.rng.randrange(8), SECTOR * lab.rng.randrange(1, 9), lab.rng.getrandbits(32)
        guest.fill(guest.buffers + 0x4000 * i, length, word)
        statuses.append(guest.request(sent, 3 * i, OUT, sector, guest.buffers + 0x4000 * i, length))
        content[SECTOR * sector : SECTOR * sector + length] = struct.pack("<I", word) * (length // 4)
        sent += 1
    guest.register(R_NOTIFY, 0)
    guest.wait(sent)
    statuses.append(guest.request(sent, 18, T_FLUSH, 0))
    sent += 1
    guest.register(R_NOTIFY, 0)
    guest.wait(sent)
    first, where = lab.rng.randrange(0, 100), guest.buffers + 0x40000
    statuses.append(guest.request(sent, 20, IN, first, where, 16 * SECTOR))
    statuses.append(guest.request(sent + 1, 23, IN, 256, where + 0x8000, SECTOR))
    sent += 2
    guest.register(R_NOTIFY, 0)
    guest.wait(sent)
    for at in statuses:
        guest.show(at, 1)
    guest.show(where, 16 * SECTOR)
    guest.end(value)
    tried = "a guest that writes six places at once, flushes, and reads"
    out = run_guest(lab, guest.file(), path, tried, value)
    lab.expect(f"{tried}: bytes that it has to say", len(statuses) + 16 * SECTOR, len(out))
    lab.expect(f"{tried}, the last read from beyond the end: status of each request", [OK] * 8 + [IOERR], list(out[: len(statuses)]))
    wrong = next((i for i, (a, b) in enumerate(zip(content[SECTOR * first :], out[len(statuses) :])) if a != b), None)
    lab.expect(f"{tried}: first byte of what it read that is wrong", None, wrong)
    with open(path, "rb") as file:
        after = file.read()
    wrong = next((i for i, (a, b) in enumerate(zip(content, after)) if a != b), None)
    lab.expect(f"{tried}: first byte of the image that is wrong afterwards", None, wrong)


# --- qcow2 images, as this file writes and reads them ---

COPIED, COMPRESSED, ZERO_FLAG = 1 << 63, 1 << 62, 1
OFFSET = (1 << 56) - 512


def be64(value):
    return struct.pack(">Q", value & MASK64)


class Image:
    """A qcow2 image in the making: header, refcount table, one refcount block, L1 table, then whatever is asked for."""

    def __init__(self, size, bits=10, version=3, backing=b""):
        self.bits, self.cluster, self.size, self.version = bits, 1 << bits, size, version
        self.l1_entries = -(-size // ((self.cluster // 8) << bits))
        self.clusters, self.counts, self.l2 = [bytearray(self.cluster) for _ in range(4)], {i: 1 for i in range(4)}, {}
        head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, bits, size, 0, self.l1_entries, 3 << bits, 1 << bits, 1, 0, 0)
        head += struct.pack(">QQQII", 0, 0, 0, 4, 112) + bytes(8) if version == 3 else b""
        if backing:
            extension = struct.pack(">II8s", 0xE2792ACA, 3, b"raw") + bytes(8)
            head = bytearray(head + extension + backing)
            struct.pack_into(">QI", head, 8, len(head) - len(backing), len(backing))
        self.clusters[0][: len(head)] = head
        self.clusters[1][:8] = be64(2 << bits)

    def take(self, content=b"", count=1):
        """A new cluster; its offset."""
        self.clusters.append(bytearray(content.ljust(self.cluster, b"\0")))
        self.counts[len(self.clusters) - 1] = count
        return (len(self.clusters) - 1) << self.bits

    def table(self, number, flag=COPIED):
        if number not in self.l2:
            self.l2[number] = self.take()
            self.clusters[3][8 * number : 8 * number + 8] = be64(self.l2[number] | flag)
        return self.clusters[self.l2[number] >> self.bits]

    def entry(self, cluster, value):
        """Sets the L2 entry for a CLUSTER of the disk."""
        per = self.cluster // 8
        self.table(cluster // per)[8 * (cluster % per) : 8 * (cluster % per) + 8] = be64(value)

    def data(self, cluster, content, count=1):
        place = self.take(content, count)
        self.entry(cluster, place | (COPIED if count == 1 else 0))
        return place

    def bytes(self):
        for cluster, count in self.counts.items():
            struct.pack_into(">H", self.clusters[2], 2 * cluster, count)
        return b"".join(self.clusters)

    def write(self, path):
        return put_file(path, self.bytes())


class Reader:
    """What a file says, for whoever believes nothing: complaints, and the disk's content."""

    def __init__(self, data, backing=b""):
        self.data, self.backing = bytes(data), backing
        (magic, self.version, _, _, self.bits, self.size, _, self.l1_size, self.l1, self.reftable, self.reftable_clusters) = struct.unpack_from(
            ">4sIQIIQIIQQI", self.data)  # fmt: skip
        self.cluster, self.complaints = 1 << self.bits, []
        if magic != b"QFI\xfb":
            self.complaints.append("no header")
        self.places = {}
        self.refs = {}
        self._walk()

    def _u64(self, at):
        return int.from_bytes(self.data[at : at + 8].ljust(8, b"\0"), "big")

    def _ref(self, offset, what, length=None):
        for cluster in range(offset >> self.bits, (offset + (length or self.cluster) + self.cluster - 1) >> self.bits):
            self.refs.setdefault(cluster, []).append(what)

    def count(self, cluster):
        per = self.cluster // 2
        entry = self._u64(self.reftable + 8 * (cluster // per)) if cluster // per < self.reftable_clusters * self.cluster // 8 else 0
        at = entry + 2 * (cluster % per)
        return int.from_bytes(self.data[at : at + 2], "big") if entry else 0

    def _walk(self):
        self._ref(0, "the header")
        self._ref(self.l1, "the L1 table", 8 * self.l1_size)
        self._ref(self.reftable, "the refcount table", self.reftable_clusters << self.bits)
        for i in range(self.reftable_clusters * self.cluster // 8):
            if self._u64(self.reftable + 8 * i):
                self._ref(self._u64(self.reftable + 8 * i), f"refcount block {i}")
        for i in range(self.l1_size):
            entry = self._u64(self.l1 + 8 * i)
            if entry & OFFSET:
                self._ref(entry & OFFSET, f"L2 table {i}")
                self._l2(i, entry & OFFSET)
        for cluster, users in self.refs.items():
            if self.count(cluster) < len(users):
                self.complaints.append(f"the cluster at {cluster << self.bits:#x} is used by {' and '.join(users[:3])}, and counted {self.count(cluster)} times")
            if len(users) > 1:
                self.complaints.append(f"the cluster at {cluster << self.bits:#x} is used twice: by {' and '.join(users[:3])}")

    def _l2(self, number, table):
        per = self.cluster // 8
        if table + self.cluster > len(self.data):
            self.complaints.append(f"L2 table {number}, at {table:#x}, is not in the file")
        for i in range(per):
            entry = self._u64(table + 8 * i)
            if entry & OFFSET:
                if (entry & OFFSET) >= len(self.data):
                    self.complaints.append(f"cluster {number * per + i} of the disk, at {entry & OFFSET:#x}, is not in the file")
                self._ref(entry & OFFSET, f"cluster {number * per + i} of the disk")
            if entry:
                self.places[number * per + i] = entry

    def disk(self, offset, length):
        """The disk's bytes."""
        out = bytearray()
        while length:
            at, here = offset % self.cluster, min(length, self.cluster - offset % self.cluster)
            entry = self.places.get(offset >> self.bits, 0)
            if entry & ZERO_FLAG:
                part = bytes(here)
            elif entry & OFFSET:
                part = self.data[(entry & OFFSET) + at : (entry & OFFSET) + at + here]
            else:
                part = self.backing[offset : offset + here]
            out += part.ljust(here, b"\0")
            offset, length = offset + here, length - here
        return bytes(out)


def complaints_of(path, backing=b""):
    with open(path, "rb") as file:
        return Reader(file.read(), backing)


# --- 8.9 entries ---


def entries(lab):
    for version in (3, 2):
        image = Image(512 << 10, version=version)
        places = [image.data(i, lab.rng.randbytes(1024)) for i in range(6)]
        free = image.take(count=0)
        twice = image.take(count=2)
        end = len(image.clusters) << image.bits
        path = image.write(os.path.join(lab.scratch, f"v{version}.qcow2"))
        script = Script(lab, "image")
        script.do(f"open {path} rw", f"an image of version {version}", rc=0)
        place, tables = lab.rng.choice(places), [0, image.cluster, 2 * image.cluster, 3 * image.cluster, image.l2[0]]

        def good(entry, change, kind, where, copied, script=script, version=version):
            script.do(f"decode {entry} {change}", f"version {version}, an L2 entry of {entry:#x}{', which will change' if change else ''}",
                      rc=0, kind=kind, place=where, copied=copied, entry=entry, damaged=False)  # fmt: skip

        def bad(entry, change, why, script=script, version=version):
            script.do(f"decode {entry} {change}", f"version {version}, an L2 entry of {entry:#x}{', which will change' if change else ''}: {why}",
                      rc=EIO, damaged=True, untouched=True)  # fmt: skip

        for change in (0, 1):
            good(0, change, 0, 0, False)
            good(COPIED, change, 0, 0, False)
            good(place | COPIED, change, 2, place, True)
            good(place, change, 2, place, False)
            good(places[0] | COPIED | 1 << 56 | 6, change, 2, places[0], True)  # reserved bits
            good(twice, change, 2, twice, False)
            if version == 3:
                good(ZERO_FLAG, change, 1, 0, False)
                good(ZERO_FLAG | COPIED, change, 1, 0, False)
                good(place | ZERO_FLAG | COPIED, change, 1, place, True)
                good(place | ZERO_FLAG, change, 1, place, False)
            else:
                bad(ZERO_FLAG, change, "version 2 knows no zeros")
                bad(place | ZERO_FLAG | COPIED, change, "version 2 knows no zeros")
            for odd in (place + 512, end + 512):
                bad(odd | COPIED, change, "no cluster begins there")
            for far in (end, end + 16 * image.cluster, 1 << 50, OFFSET & -image.cluster):
                bad(far | COPIED, change, "that is not in the file")
                bad(far, change, "that is not in the file")
        good(free | COPIED, 0, 2, free, True)
        good(twice | COPIED, 0, 2, twice, True)
        bad(free | COPIED, 1, "ours alone, and counted 0 times")
        bad(twice | COPIED, 1, "ours alone, and counted 2 times")
        for table in tables[1:]:
            good(table, 0, 2, table, False)
            bad(table, 1, "a table lies there")
            bad(table | COPIED, 1, "a table lies there")
        script.run()


# --- 8.10 free clusters ---


def clusters(lab):
    alloc_in_order(lab)
    alloc_among_holes(lab)
    alloc_lies(lab)


def alloc(script, tried, host, fresh, hint=None):
    want = {"rc": 0, "host": host, "fresh": fresh, "count": 1, "is_broken": False}
    if hint is not None:
        want["free_hint"] = hint
    script.do("alloc", tried, **want)


def alloc_in_order(lab):
    image = Image(512 << 10, bits=9)
    used = lab.rng.randrange(3, 12)
    for i in range(used):
        image.data(i, lab.rng.randbytes(512))
    end = len(image.clusters)
    path = image.write(os.path.join(lab.scratch, "order.qcow2"))
    script = Script(lab, "image")
    script.do(f"open {path} rw", rc=0)
    for i in range(6):
        alloc(script, f"qcow2_alloc() number {i + 1} of an image of {end} clusters, all used", (end + i) << 9, True, end + i + 1)
    back = end + lab.rng.randrange(1, 5)
    script.do(f"unalloc {back << 9}")
    alloc(script, "qcow2_alloc(), after qcow2_unalloc() of one", back << 9, True)
    script.do("hint 0")
    alloc(script, "qcow2_alloc(), with a hint of 0 and everything used", (end + 6) << 9, True, end + 7)
    far = 255  # the last that the first block of 512-byte clusters counts
    script.do(f"hint {far}")
    alloc(script, "qcow2_alloc(), from the last cluster of a refcount block on", far << 9, True, far + 1)
    alloc(script, "and the next one: the new block takes the first cluster that it counts", (far + 2) << 9, True, far + 3)
    script.do("count " + str((far + 1) << 9), "what is counted for the new refcount block", count=1)
    script.do(f"hint {far}")
    alloc(script, "qcow2_alloc(), when the rest of a refcount block is used: the first free one of the next", (far + 3) << 9, True, far + 4)
    script.do("close")
    script.run()
    seen = complaints_of(path)
    lab.expect("the image, after qcow2_alloc() has taken clusters: what is wrong with it", [], seen.complaints)


def alloc_among_holes(lab):
    image = Image(512 << 10)
    for i in range(30):
        image.data(i, lab.rng.randbytes(1024))
    base = len(image.clusters) - 30
    holes = sorted(lab.rng.sample(range(base + 2, base + 30), 8))
    for hole in holes:
        image.counts[hole] = 0
        image.entry(hole - base, 0)
    path = image.write(os.path.join(lab.scratch, "holes.qcow2"))
    script = Script(lab, "image")
    script.do(f"open {path} rw", rc=0)
    end = base + 30
    alloc(script, f"qcow2_alloc() with {len(holes)} free clusters in the file: the first", holes[0] << 10, False, holes[0] + 1)
    script.do(f"busy {holes[1]} {holes[1]}")
    alloc(script, "qcow2_alloc(), when a request is under way to the first free one: the next", holes[2] << 10, False, holes[1])
    script.do(f"busy {holes[3]} {holes[4]}")
    alloc(script, "qcow2_alloc(), when requests are under way to three of them", holes[5] << 10, False, holes[1])
    script.do("idle")
    alloc(script, "qcow2_alloc(), when they have ended", holes[1] << 10, False)
    alloc(script, "and the next", holes[3] << 10, False)
    alloc(script, "and the next", holes[4] << 10, False)
    alloc(script, "and the next", holes[6] << 10, False)
    alloc(script, "and the next", holes[7] << 10, False)
    alloc(script, "qcow2_alloc(), when all holes are used", end << 10, True, end + 1)
    script.do(f"busy {end + 1} {end + 2}")
    alloc(script, "qcow2_alloc(), when two clusters behind the end are busy", (end + 3) << 10, True, end + 1)
    script.do("idle")
    script.do("device 1")
    script.do("alloc", "qcow2_alloc() on a device, all of whose clusters are used", rc=-errno.ENOSPC, is_broken=False)
    script.do(f"unalloc {holes[2] << 10}")
    script.do("alloc", "qcow2_alloc() on a device, one cluster of which is free", rc=0, host=holes[2] << 10, fresh=False, count=1)
    script.do("drop")
    script.run()


def alloc_lies(lab):
    for what, cluster in (("the header", 0), ("the refcount table", 1), ("the L1 table", 3), ("an L2 table", None)):
        image = Image(512 << 10)
        image.data(0, lab.rng.randbytes(1024))
        cluster = image.l2[0] >> image.bits if cluster is None else cluster
        image.counts[cluster] = 0
        path = image.write(os.path.join(lab.scratch, f"lies{cluster}.qcow2"))
        script = Script(lab, "image")
        script.do(f"open {path} rw", rc=0)
        script.do("alloc", f"qcow2_alloc() of an image in which {what} is counted 0 times", rc=EIO, is_broken=True)
        script.do(f"count {cluster << 10}", f"what is counted for {what} then", count=0)
        script.do("drop")
        script.run()


# --- 8.11 new clusters ---


def new_clusters(lab):
    size, cluster = 512 << 10, 1024
    for backing in (b"", lab.rng.randbytes(size)):
        image = Image(size, backing=b"backing.raw" if backing else b"")
        if backing:
            put_file(os.path.join(lab.scratch, "backing.raw"), backing)
        olds = {i: lab.rng.randbytes(cluster) for i in range(4, 10)}
        shared = {i: image.data(i, old, count=2) for i, old in olds.items()}
        aside = {i: image.take(lab.rng.randbytes(cluster)) for i in (20, 21)}
        for i, place in aside.items():
            image.entry(i, place | COPIED | ZERO_FLAG)
        image.entry(22, ZERO_FLAG)
        garbage = [image.take(b"\xff" * cluster, count=0) for _ in range(3)]
        path = image.write(os.path.join(lab.scratch, "new.qcow2"))
        tries = [(lab.rng.choice([4, 5]), 100, 300), (6, 0, 1024), (7, 0, 512), (8, 512, 512), (20, 512, 100), (21, 0, 1024), (22, 200, 400), (40, 512, 200),
                 (41, 0, 1024), (300, 1000, 24), (42, 3, 5), (43, 0, 1)]  # fmt: skip
        content = bytearray(backing.ljust(size, b"\0"))
        for i, old in olds.items():
            content[cluster * i : cluster * (i + 1)] = old
        for i in (20, 21, 22):
            content[cluster * i : cluster * (i + 1)] = bytes(cluster)
        script, places = Script(lab, "image"), []
        script.do(f"open {path} rw", rc=0)
        dropped = []
        for number, at, length in tries:
            data = lab.rng.randbytes(length)
            offset = cluster * number + at
            content[offset : offset + length] = data
            if number in shared:
                dropped.append(shared[number] >> 10)
            tried = f"a write of {length} bytes at {at} of cluster {number}, which {what_it_was(number, shared, aside, backing)}"
            script.do(f"new {offset} {data.hex()}", tried, rc=0, dropped=list(dropped), is_broken=False)
            places.append((number, tried, script.do(f"entry {cluster * number}")))
        script.do("drop")
        seen = script.run()
        with open(path, "rb") as file:
            after = file.read()
        hosts = [seen[place]["entry"] for _, _, place in places]
        for (number, tried, _), entry in zip(places, hosts):
            lab.expect(f"{tried}: flags of its entry (the highest bit: ours alone)", hexa(COPIED), hexa(entry & ~OFFSET))
            if number in aside:
                lab.expect(f"{tried}: its place is the one that was set aside", hexa(aside[number]), hexa(entry & OFFSET))
            lab.expect_true(f"{tried}: its place", "a cluster of its own", entry & OFFSET not in (0, *shared.values()) and hosts.count(entry) == 1, hexa(entry))
            where = entry & OFFSET
            wanted, got = content[cluster * number : cluster * (number + 1)], after[where : where + cluster].ljust(cluster, b"\0")
            wrong = next((i for i, (a, b) in enumerate(zip(wanted, got)) if a != b), None)
            lab.expect(f"{tried}: first byte of the cluster's place in the file that is wrong", None, wrong)
        for (number, tried, place), entry in zip(places, hosts):
            lab.expect(f"{tried}: what is counted for its place", 1, seen[place]["counted"])
        for number, where in shared.items():
            lab.expect(f"the cluster that a snapshot shares with cluster {number} of the disk", "as it was",
                       "as it was" if after[where : where + cluster] == olds[number] else "changed")  # fmt: skip
        lab.expect_true("free clusters of the file that were used", f"all {len(garbage)}", all(each | COPIED in hosts for each in garbage),
                        [hexa(each) for each in hosts])  # fmt: skip
    failing(lab)


def what_it_was(number, shared, aside, backing):
    if number in shared:
        return "a snapshot has, too"
    if number in aside:
        return "is zeros with a place set aside"
    return "is zeros" if number == 22 else "the backing file has" if backing else "was never written"


def check_content(lab, path, backing, content, when):
    reader = complaints_of(path, backing)
    lab.expect(f"the image {when}: what is wrong with its tables", [], reader.complaints)
    got = reader.disk(0, len(content))
    wrong = next((i for i, (a, b) in enumerate(zip(content, got)) if a != b), None)
    lab.expect(f"the image {when}: first byte of the disk that is wrong", "none", "none" if wrong is None else f"{wrong:#x}")


def failing(lab):
    """A write that fails, half-way."""
    image = Image(512 << 10)
    old = lab.rng.randbytes(1024)
    shared = image.data(3, old, count=2)
    path = image.write(os.path.join(lab.scratch, "failing.qcow2"))
    end = len(image.clusters)
    script = Script(lab, "image")
    script.do(f"open {path} rw", rc=0)
    for number, before in ((3, shared), (50, 0)):
        script.do("fail_writes 1")
        tried = f"a write to cluster {number} of the disk that fails with -EIO"
        script.do(f"new {1024 * number + 7} {'5a' * 9}", tried, rc=EIO, dropped=[], is_broken=False, free_hint=end)
        script.do(f"entry {1024 * number}", f"{tried}: its L2 entry then", entry=before)
        script.do(f"count {end << 10}", f"{tried}: the cluster that was taken for it", count=0)
        script.do("fail_writes 0")
    script.do("drop")
    script.run()


# --- 8.12 the order of writes ---


class Crashes:
    """What the file can hold if the host dies at any moment: FILE as it was, and the calls since."""

    def __init__(self, lab, data):
        self.lab, self.data = lab, data
        self.open, self.seen = [], 0  # calls since the last sync

    def feed(self, call, judge):
        """One more call; JUDGE gets each of the files that could be found then."""
        if call[0] == "r" or call[3] < 0:
            return
        if call[0] == "s":
            for each in self.open:
                self.data = self._done(self.data, each)
            self.open = []
            return
        self.open.append(call)
        self.seen += 1
        count = len(self.open)
        last = count - 1
        picks = [{last}, set(range(count)), set(range(count)) - {0}] + [set(range(count)) - {self.lab.rng.randrange(count)}]
        picks += [{last} | {i for i in range(last) if self.lab.rng.random() < 0.5} for _ in range(3)]
        for pick in {frozenset(each) for each in picks}:
            data = self.data
            for i in sorted(pick):
                data = self._done(data, self.open[i])
            judge(data)

    @staticmethod
    def _done(data, call):
        if call[0] == "t":
            return data[: call[1]].ljust(call[1], b"\0")
        content = bytes.fromhex(call[4]) if call[0] == "w" else bytes(call[2])
        if call[0] == "p" and call[1] + call[2] > len(data):
            content = content[: max(0, len(data) - call[1])]
        data = data.ljust(call[1], b"\0")
        return data[: call[1]] + content + data[call[1] + len(content) :]


def order(lab):
    size, cluster = 512 << 10, 1024
    image = Image(size)
    content = bytearray(size)
    for i in range(3):
        content[cluster * i : cluster * (i + 1)] = lab.rng.randbytes(cluster)
        image.data(i, content[cluster * i : cluster * (i + 1)])
    for _ in range(8):  # free clusters hold what somebody left there
        image.take(b"\x11\x22" * 512, count=0)
    path = image.write(os.path.join(lab.scratch, "order.qcow2"))
    start = image.bytes()
    script, steps = Script(lab, "image"), []
    script.do(f"open {path} rw", rc=0)
    script.do("contents")

    def step(line, most=None, tried=None):
        script.do(line, tried or line.split()[0], rc=0)
        steps.append((line, most, script.do("calls")))

    def put(number):
        step(f"write {cluster * number} {lab.rng.randbytes(cluster).hex()}")

    step("flush", 1)  # nothing was changed
    put(1)
    step("flush", 1)  # in place
    put(10)
    step("flush", 2)  # counts, L2
    for number in (200, 201, 11):  # a new L2 table
        put(number)
    step("flush", 3)
    step(f"discard {cluster * 200} {cluster}")
    step(f"discard {cluster * 2} {cluster}")
    step("flush", 3)
    for number in (300, 2, 301, 201):
        put(number)
    step("flush", 3)
    step(f"discard {cluster * 201} {cluster}")
    step(f"discard {cluster * 11} {cluster}")
    step("commit")
    put(302)
    put(303)
    step("flush")
    for _ in range(25):
        what = lab.rng.random()
        if what < 0.65:
            put(lab.rng.randrange(0, 512))
        elif what < 0.85:
            step(f"discard {cluster * lab.rng.choice([0, 1, 10, 11, 200, 201, 300, 301])} {cluster}")
        else:
            step("flush")
    step("flush")
    step("commit", 0)
    script.do("broken")
    script.do("commit", "qcow2_commit() of an image that is damaged", rc=EIO)
    quiet = script.do("calls")
    script.do("drop")
    seen = script.run()
    lab.expect("qcow2_commit() of an image that is damaged: what it does to the file", [], seen[quiet]["calls"])
    judge_order(lab, seen, steps, start, content, cluster)
    commit_errors(lab)


def judge_order(lab, seen, steps, start, content, cluster):
    crashes, flushed, later = Crashes(lab, start), {}, {}
    for i in range(len(content) // cluster):
        flushed[i] = bytes(content[cluster * i : cluster * (i + 1)])
    now = dict(flushed)
    history = []
    for line, most, place in steps:
        words = line.split()
        history.append(words[0] + (f" {int(words[1]) // cluster}" if len(words) > 1 else ""))
        if words[0] in ("write", "discard"):
            number = int(words[1]) // cluster
            now[number] = bytes.fromhex(words[2]) if words[0] == "write" else bytes(cluster)
            later.setdefault(number, [flushed[number]]).append(now[number])
        calls = seen[place]["calls"]
        for count, call in enumerate(calls):
            crashes.feed(call, lambda data, count=count: judge_crash(lab, data, flushed, later, cluster, history, calls[: count + 1]))
        if words[0] == "flush":
            flushed, later = dict(now), {}
            judge_crash(lab, crashes.data, flushed, later, cluster, history, calls)
        syncs = sum(call[0] == "s" for call in calls)
        if most is not None:
            lab.expect_true(f"{', '.join(history[-6:])}: syncs for the last of these", f"{most} at most", syncs <= most, syncs)
    lab.expect_true("moments at which the host could have died", "some", crashes.seen > 30, crashes.seen)


def judge_crash(lab, data, flushed, later, cluster, history, calls):
    def when():
        shown = [f"{each[0]} {each[1]:#x}" if each[0] in "wtp" else "sync" for each in calls if each[0] != "r"][-8:]
        return f"{', '.join(history[-7:])}: the host dies during the last of these ({', '.join(shown)})"

    reader = Reader(data)
    if reader.complaints:
        lab.fail(f"{when()}: what is wrong with the tables of the image", "nothing", reader.complaints[0])
    touched = list(later) + [number for number in flushed if flushed[number] != bytes(cluster)]
    for number in touched:
        got = reader.disk(cluster * number, cluster)
        wanted = later.get(number, [flushed[number]])
        if not all(got[i : i + 512] in [each[i : i + 512] for each in wanted] for i in range(0, cluster, 512)):
            lab.fail(f"{when()}: cluster {number} of the disk", "what was flushed" if len(wanted) == 1 else "what was flushed, or written since",
                     "zeros" if not any(got) else "something else")  # fmt: skip


def commit_errors(lab):
    """After an error nothing more is written, and it can be tried again."""
    cluster = 1024
    for at in range(1, 4):
        image = Image(512 << 10)
        path = image.write(os.path.join(lab.scratch, "errors.qcow2"))
        script = Script(lab, "image")
        script.do(f"open {path} rw", rc=0)
        script.do(f"write {cluster * 5} {'77' * cluster}", rc=0)
        script.do("plan " + " ".join(["100000"] * (at - 1) + [str(-errno.EIO)]))
        tried = f"qcow2_commit() after a write to a new cluster, when write number {at} fails with -EIO"
        script.do("commit", tried, rc=EIO)
        place = script.do("calls")
        script.do("plan")
        script.do("flush", f"{tried}: a flush afterwards, when all goes well again", rc=0)
        script.do("close")
        seen = script.run()
        calls = [call for call in seen[place]["calls"] if call[0] == "w"]
        lab.expect(f"{tried}: writes, the failed one included", at, len(calls))
        content = bytearray(512 << 10)
        content[5 * cluster : 6 * cluster] = b"\x77" * cluster
        check_content(lab, path, b"", content, f"when {tried}, and a flush after it")


KILLED = """
loop:   incl    number
        imull   $1664525, %%esi, %%esi
        addl    $1013904223, %%esi
        mov     $%(buffer)#x, %%edi
        mov     number, %%eax
        mov     $1024, %%ecx
        cld
        rep stosl
        mov     %%esi, %%eax
        shrl    $16, %%eax
        andl    $%(mask)#x, %%eax
        shll    $3, %%eax
        movl    %%eax, %(sector)#x
        movl    $1, %(type)#x
        movw    $%(data)d, %(next)#x
        call    ask
        mov     number, %%eax
        andl    $3, %%eax
        jnz     loop
        movl    $4, %(type)#x
        movl    $0, %(sector)#x
        movw    $%(status)d, %(next)#x
        call    ask
        push    %%esi
        mov     $number, %%esi
        mov     $4, %%ecx
        mov     $0xe9, %%dx
        rep outsb
        pop     %%esi
        cmpl    $%(most)d, number
        jb      loop
        mov     $0, %%al
        out     %%al, $0xf4
ask:    incw    %(avail)#x
        movl    $0, WINDOW + 0x50
1:      pause
        mov     %(avail)#x, %%ax
        cmpw    %%ax, %(used)#x
        jne     1b
        cmpb    $0, %(answer)#x
        je      2f
        mov     $%(bad)d, %%al
        out     %%al, $0xf4
2:      ret
"""


def killed(lab):
    guest, places = Guest(lab, 16), 256
    seed = lab.rng.getrandbits(32)
    at, mask = guest.headers, places - 1
    path = os.path.join(lab.scratch, "disk.qcow2")
    guest.begin()
    guest.desc(0, at, 16, NEXT, 1)
    guest.desc(1, guest.buffers, 4096, NEXT, 2)
    guest.desc(2, at + 16, 1, WRITES)
    guest.add(f"movl    ${seed:#x}, %esi", f"movl    $0, {at + 4:#x}", f"movl    $0, {at + 12:#x}")
    guest.code.append(KILLED % {"buffer": guest.buffers, "mask": mask, "sector": at + 8, "type": at, "next": guest.at[0] + 14, "data": 1, "status": 2,
                                "avail": guest.at[1] + 2, "used": guest.at[2] + 2, "answer": at + 16, "bad": 62, "most": 40000})  # fmt: skip
    tried, file = "a guest that writes and flushes for ever, and kill -9", guest.file()
    for limit in (lab.rng.uniform(0.8, 1.6), 4):  # a busy machine needs longer
        Image(places * 4096, bits=12).write(path)
        run = lab.hv("run", "--boot", "flat", "--disk", path, "--kernel", file, limit=limit, hang_ok=True)
        if b"/dev/kvm" in run.err and run.status == 2:
            raise CannotRun("no machine can be made here")
        lab.expect_true(f"{tried}: the status of a request", "0", run.status != 62 << 1 | 1, "something else")
        said = len(run.out) // 4
        if said > 0:
            break
    lab.expect_true(f"{tried}: flushes that it was told of", "some", said > 0, f"{said}; the end: {run.how()}")
    flushed = struct.unpack_from("<I", run.out, 4 * said - 4)[0]
    wanted, value = {}, seed
    for number in range(1, flushed + 64):
        value = (value * 1664525 + 1013904223) & 0xFFFFFFFF
        place = (value >> 16) & mask
        wanted[place] = ([] if number <= flushed else wanted.get(place, [0])) + [number]
    reader = complaints_of(path)
    lab.expect(f"{tried}, after {flushed} writes: what is wrong with the image's tables", [], reader.complaints)
    for place, numbers in wanted.items():
        got = struct.unpack("<1024I", reader.disk(4096 * place, 4096))
        lab.expect_true(f"{tried}, when {flushed} writes were flushed: block {place} holds the number of the last write to it", f"{numbers[0]}" + (", or one not flushed" if len(numbers) > 1 else ""),
                        all(each in numbers for each in got), got[0])  # fmt: skip


# --- Linux ---

INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox sha256sum /word | busybox sed 's/^/check: word /'
for m in virtio_mmio virtio_blk crc32c_generic ext4; do busybox modprobe $m; done
busybox mkdir /m
for d in vda vdb; do
    echo "check: size-$d $(busybox cat /sys/block/$d/size)"
    busybox mke2fs -F /dev/$d >/dev/null 2>&1
    busybox mount -t ext4 /dev/$d /m && busybox cp /word /m/word && busybox dd if=/dev/zero of=/m/hole bs=1024 count=1 seek=1000 2>/dev/null
    busybox sync
    busybox umount /m
    echo 3 >/proc/sys/vm/drop_caches
    busybox mount -t ext4 /dev/$d /m
    echo "check: sum-$d $(busybox sha256sum </m/word)"
    busybox umount /m
done
echo "check: errors $(busybox dmesg | busybox grep -c 'I/O error')"
echo "check: done"
busybox sync
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
    with open(base, "rb") as file:
        theirs = file.read()
    with open(path, "wb") as out:
        out.write(theirs)
        archive.write(out)
    return path


def said_of(lines, name):
    return next((line[len(name) + 1 :] for line in lines if line.startswith(name + " ")), "nothing")


def linux_disk(lab):
    """A machine in an emulated machine loses a boot now and then, which is nobody's fault here, so there are two tries."""
    kernel, base = kernel_file()
    secret = lab.rng.randbytes(200000 + lab.rng.randrange(4000))
    files = initramfs(lab, base, INIT, secret)
    raw, qcow2, size = os.path.join(lab.scratch, "disk.img"), os.path.join(lab.scratch, "disk.qcow2"), 8 << 20
    for _ in range(2):
        put_file(raw, bytes(size))
        Image(size, bits=16).write(qcow2)
        run = lab.hv("run", "--kernel", kernel, "--initrd", files, "--disk", raw, "--disk", qcow2, "--append",
                     "console=ttyS0 quiet panic=-1 rdinit=/check", limit=28, hang_ok=True)  # fmt: skip
        lines = [line.strip() for line in run.out.decode(errors="replace").splitlines()]
        lines = [line.removeprefix("check: ") for line in lines if line.startswith("check: ")]
        if "done" in lines:
            break
    tried = "a Debian kernel with a raw disk and a qcow2 disk"
    last = run.out.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    lab.expect_true(f"{tried}: user space runs a script", "all of its lines", "done" in lines, f"{run.how()}; the last line of the console: {last[0][-120:]}")
    word = hashlib.sha256(secret).hexdigest()
    lab.expect(f"{tried}: the SHA-256 of a file, made by the guest", word, said_of(lines, "word").split()[0])
    for disk, name in (("vda", "raw"), ("vdb", "qcow2")):
        lab.expect(f"{tried}: sectors of {disk}", str(size // 512), said_of(lines, f"size-{disk}"))
        lab.expect(f"{tried}: the file's SHA-256 after a copy to the {name} disk, unmount and mount", word, said_of(lines, f"sum-{disk}").split()[0])
    lab.expect(f"{tried}: I/O errors in the kernel's log", "0", said_of(lines, "errors"))
    lab.expect(f"{tried}: after poweroff", "exit status 0", run.how())
    reader = complaints_of(qcow2)
    lab.expect(f"{tried}: what is wrong with the qcow2 image's tables", [], reader.complaints)
    with open(raw, "rb") as file:
        contents = {"raw": file.read(), "qcow2": reader.disk(0, size)}
    for name, content in contents.items():
        found = sum(content.find(secret[i : i + 1024]) >= 0 for i in range(0, len(secret) - 1024, 1024))
        lab.expect(f"{tried}: blocks of the file that are in the {name} image", (len(secret) - 1) // 1024, found)


# --- the hostile guest ---


def bad_requests(lab):
    rng, sectors_of_disk = lab.rng, 1000
    disk = Disk(lab, sectors=sectors_of_disk)
    script = disk.script
    script.do("auto 1")
    for i in range(sectors_of_disk):
        if i % 50 == 0:
            script.do(f"fill {i} {i // 50 + 1}")
    count = 0

    def expect(tried, at, status):
        nonlocal count
        count += 1
        disk.notify()
        disk.status(tried, at, status)
        script.do(f"get {disk.at[2] + 2} 2", f"{tried}: the used ring's index", bytes=le16(count).hex())
        script.do("work 0", f"{tried}: Status", status=15, in_flight=0)

    for sector in (sectors_of_disk, sectors_of_disk - 1, MASK64, 1 << 55, (1 << 55) + 3, 1 << 63, (1 << 64) - 2, rng.getrandbits(64) | 1 << 40):
        for kind in (IN, OUT):
            _, at = disk.send(kind, sector, [(DATA, 1024, WRITES if kind == IN else 0)])
            expect(f"a {'read' if kind == IN else 'write'} of two sectors at {sector:#x} of a disk of {sectors_of_disk}", at, IOERR)
    for length in (1, 100, 511, 513, 1000, rng.randrange(1, 512) + 512):
        for kind in (IN, OUT):
            _, at = disk.send(kind, 3, [(DATA, length, WRITES if kind == IN else 0)])
            expect(f"a {'read' if kind == IN else 'write'} of {length} bytes", at, IOERR)
    for kind in (0x55, 2, 3, 7, 0xFFFFFFFF):
        _, at = disk.send(kind, 0, [(DATA, 512, WRITES)])
        expect(f"a request of type {kind:#x}", at, UNSUPP)
    for length in (0, 1, 15):
        at = HEADERS
        disk.put(at, header(OUT, 0) + bytes([NEVER]))
        disk.offer(disk.chain([(at, length, 0), (at + 16, 1, WRITES)]))
        expect(f"a header of {length} bytes", at + 16, IOERR)
    for sector, length, flags, kind in ((1 << 60, 8, 0, T_ZEROES), (0, 1 << 31, 0, T_DISCARD), (sectors_of_disk - 1, 2, 0, T_ZEROES), (0, 5, 0xFF, T_ZEROES),
                                        (0, 5, 1, T_DISCARD)):  # fmt: skip
        disk.put(DATA, struct.pack("<QII", sector, length, flags))
        _, at = disk.send(kind, 0, [(DATA, 16, 0)])
        expect(f"{'zeros' if kind == T_ZEROES else 'a discard'} of {length:#x} sectors at {sector:#x}, flags {flags:#x}", at, UNSUPP if flags else IOERR)
    for kind, flags in ((IN, 0), (OUT, WRITES)):  # data in the wrong direction
        disk.put(DATA, bytes([0x77]) * 512)
        _, at = disk.send(kind, 50, [(DATA, 512, flags)])
        count += 1
        disk.notify()
        script.do(f"get {DATA} 512", "data in the wrong direction", bytes="77" * 512)
    for i in range(0, sectors_of_disk, 50):
        script.do(f"sector {i}", f"after all these, sector {i}", bytes=f"{i // 50 + 1:02x}" * 512)
    for what, buffers in (("no byte that the device may write", [(HEADERS, 16, 0), (DATA, 512, 0)]), ("no buffer for the status", [(HEADERS, 16, 0)]),
                          ("writable buffers of no bytes", [(HEADERS, 16, 0), (DATA, 0, WRITES), (DATA, 0, WRITES)])):  # fmt: skip
        disk.put(HEADERS, header(OUT, 0))
        disk.offer(disk.chain(buffers))
        disk.write(R_NOTIFY, 0)
        script.do("work 0", f"a chain with {what}: DEVICE_NEEDS_RESET", status=0x4F)
        disk.start()
        _, at = disk.send(IN, 50, [(DATA, 512, WRITES)])
        disk.notify()
        disk.status("after a reset, a good request", at, OK)
    script.run()


def flood(lab):
    """A driver that never waits: more chains than requests, the same ones, and answers at any time."""
    disk = Disk(lab, size=256)
    script, rng = disk.script, lab.rng
    at = HEADERS
    disk.put(at, header(OUT, 1))
    bad = HEADERS + 0x100
    disk.put(bad, header(OUT, 1 << 40))
    head = disk.chain([(at, 16, 0), (DATA, 512, 0), (at + 32, 1, WRITES)], head=0)
    wrong = disk.chain([(bad, 16, 0), (DATA, 512, 0), (bad + 32, 1, WRITES)], head=3)
    offered = 0
    for i in range(14):
        for _ in range(rng.randrange(40, 120)):
            disk.offer(rng.choice([head, head, head, wrong]))
            offered += 1
        disk.write(R_NOTIFY, 0)
        script.do("work 0", "a driver that offers on and on: requests that are under way", twice=0, status=15)
        script.do("all " + str(rng.choice([0, EIO])))
        script.do("work 0")
        script.do("all 0")
        script.do("work 0", twice=0)
    for _ in range(10):
        script.do("all 0")
        script.do("work 0")
    tried = f"{offered} chains, two different ones, faster than the disk answers"
    script.do("work 0", f"{tried}; in the end", in_flight=0, held=0, status=15, queues=[{"taken": offered & 0xFFFF, "published": offered & 0xFFFF, "pushed": 0, "in_flight": 0}])
    disk.used(tried, offered)
    for i in range(POOL + 30):
        disk.offer(head)
        if i % 100 == 99:
            disk.notify()
    disk.write(R_NOTIFY, 0)
    script.do("work 0", f"{POOL + 30} more: under way", in_flight=POOL, held=POOL)
    script.do("all 0")
    script.do("work 0")
    script.do("all 0")
    script.do("work 0", f"{POOL + 30} more: all answered", in_flight=0)
    script.do(f"wr {R_STATUS} 4 0", "then a reset: Status", status=0)
    disk.start()
    _, good = disk.send(IN, 3, [(DATA, 512, WRITES)])
    disk.notify()
    script.do("all 0")
    script.do("work 0")
    disk.status("and a good request", good, OK)
    script.run(limit=20)


def bad_tables(lab):
    """An image that somebody has sent us: whatever it says, what is a table stays one, and its own file is all that
    is written."""
    size, cluster = 512 << 10, 1024
    for number in range(11):
        image = Image(size)
        for i in range(12):
            image.data(i, bytes([i + 1]) * cluster)
        image.data(300, b"\x33" * cluster)
        where = {"the header": 0, "the refcount table": cluster, "the refcount block": 2 * cluster, "the L1 table": 3 * cluster, "an L2 table": image.l2[0],
                 "another L2 table": image.l2[2]}
        what, value, entry = lies(lab, image, where, number)
        if entry is not None:
            image.entry(5, entry)
        path = image.write(os.path.join(lab.scratch, f"bad{number}.qcow2"))
        before = image.bytes()
        tables = {name: before[at : at + cluster] for name, at in where.items()}
        script = Script(lab, "image")
        tried = f"an image in which {what} ({value})"
        script.do(f"open {path} rw", rc=0)
        reads = script.do(f"read {5 * cluster} {cluster}")
        writes = [script.do(f"write {5 * cluster} {'aa' * cluster}"), script.do(f"write {5 * cluster + 512} {'ab' * 512}"),
                  script.do(f"discard {5 * cluster} {cluster}"), script.do(f"write {20 * cluster} {'ac' * cluster}"),
                  script.do(f"write {450 * cluster} {'ac' * cluster}"), script.do("flush")]  # fmt: skip
        script.do("drop")
        seen = script.run()
        with open(path, "rb") as file:
            after = file.read()
        if entry is not None:
            lab.expect(f"{tried}: a write to where that entry leads: result", named(EIO), named(seen[writes[0]]["rc"]))
        lab.expect_true(f"{tried}: one of a write, a discard and a flush", "is refused with -EIO", any(seen[each]["rc"] == EIO for each in writes),
                        [named(seen[each]["rc"]) for each in writes])  # fmt: skip
        lab.expect_true(f"{tried}: a read of it ends", "well, or with -EIO", seen[reads]["rc"] in (0, EIO), named(seen[reads]["rc"]))
        for name, at in where.items():
            if name in ("the refcount block", "an L2 table", "another L2 table", "the L1 table"):
                lab.expect_true(f"{tried}: {name}, after all these", "no data in it", b"\xaa" * 64 not in after[at : at + cluster] and b"\xab" * 64 not in after[at : at + cluster]
                                and b"\xac" * 64 not in after[at : at + cluster], "the guest's data")  # fmt: skip
            else:
                lab.expect(f"{tried}: {name}, after all these", "as it was", "as it was" if after[at : at + cluster] == tables[name] else "changed")
        lab.expect(f"{tried}: the image counts as damaged", True, seen[writes[-1]]["is_broken"])
        lab.expect_true(f"{tried}: the file's size", "as it was, or nearly", len(after) <= len(before) + 8 * cluster, len(after))


def lies(lab, image, where, number):
    """(what is wrong, a number, the L2 entry for cluster 5 or None)"""
    end, other = len(image.clusters) << image.bits, 4
    if number < 5:
        name = list(where)[number]
        if where[name] == 0:
            return "an L2 entry names a place in the middle of the header", hexa(512), 512 | COPIED
        return f"an L2 entry names {name}", hexa(where[name]), where[name] | COPIED
    if number == 5:
        return "an L2 entry leaves the file", hexa(end), (end + image.cluster * lab.rng.randrange(0, 1 << 20)) | COPIED
    if number == 6:
        middle = image.l2[0] + image.cluster * other + 512
        return "an L2 entry names a place in the middle of a cluster", hexa(middle), middle | COPIED
    place = (image.l2[0] + image.cluster * (other + 1)) | COPIED
    cluster = (place & OFFSET) >> image.bits
    if number == 7:
        image.counts[cluster] = 0
        return "a cluster that an entry names is not counted", hexa(place & OFFSET), place
    if number == 8:
        image.counts[cluster] = 2
        return "a cluster that an entry has for itself is counted twice", hexa(place & OFFSET), place
    table = image.l2[0 if number == 9 else 2]
    image.counts[table >> image.bits] = 0
    return "an L2 table is not counted", hexa(table), None


def short_file(lab):
    """Somebody cuts the file of a disk in use: that is an error, and never zeros or somebody else's memory."""
    ring = Ring(lab)
    script, places = ring.script, []
    script.do(f"cut {ring.path} {64 << 10}", rc=0)
    for offset, length in ((64 << 10, 4096), ((64 << 10) - 1024, 2048), (100 << 10, 512)):
        number = ring.request(READ, offset, length // 2, length // 2)
        ring.commit()
        places.append((offset, length, ring.loop(1, 1, f"a read of {length} bytes at {offset} of a file that has shrunk to {64 << 10}", done=1, order=[[number, EIO]])))
    number = ring.request(READ, (64 << 10) - 1024, 1024)
    ring.commit()
    ring.loop(1, 1, "a read that ends where the file ends", done=1, order=[[number, 0]])
    number = ring.request(WRITE, 80 << 10, 1024)
    ring.commit()
    ring.loop(1, 1, "a write behind the file's end", done=1, order=[[number, 0]])
    script.do(f"perform r {ring.path} {100 << 10} 0 512 512", "raw_perform() of a read behind the end", rc=EIO)
    script.do(f"perform r {ring.path} {(81 << 10) - 512} 0 512 512", "raw_perform() of a read across the end", rc=EIO)
    ring.run()


STORM = """
        incl    ready
storm:  addl    $0x10000, %(idx)#x
        movl    $0, WINDOW + 0x50
        movl    $%(far)#x, WINDOW + 0x50
        movl    WINDOW + 0x60, %%eax
        movl    %%eax, WINDOW + 0x64
        movl    WINDOW + 0x100, %%eax
        cmpl    $0, stop
        je      storm
        decl    ready
1:      hlt
        jmp     1b
"""


def reset_storm(lab):
    guest, rounds, value = Guest(lab, 32), lab.rng.randrange(40, 60), lab.rng.randrange(1, 60)
    path = os.path.join(lab.scratch, "disk.img")
    content = bytearray(lab.rng.randbytes(512 * SECTOR))
    put_file(path, content)
    other = STORM % {"idx": guest.at[1], "far": lab.rng.getrandbits(32) | 8}
    word = lab.rng.getrandbits(32)
    guest.add(START_OTHERS, f"mov     ${rounds}, %ebx", "again:")
    guest.begin()
    guest.fill(guest.buffers, 4096, word)
    for i in range(8):
        guest.request(i, 3 * i, IN if i % 2 else OUT, 8 * i, guest.buffers + 0x2000 * i if i % 2 else guest.buffers, 4096)
    guest.register(R_NOTIFY, 0)
    guest.add("dec     %ebx", "jnz     again", "movl    $1, stop", "gone: pause", "cmpl    $0, ready", "jne     gone")
    guest.begin()
    guest.fill(guest.buffers + 0x40000, 1024, ~word & 0xFFFFFFFF)
    at = guest.request(0, 0, OUT, 300, guest.buffers + 0x40000, 1024)
    guest.register(R_NOTIFY, 0)
    guest.wait(1)
    guest.show(at, 1)
    at = guest.request(1, 3, T_FLUSH, 0)
    guest.register(R_NOTIFY, 0)
    guest.wait(2)
    guest.show(at, 1)
    guest.add("movl    WINDOW + 0x70, %eax", "out     %al, $0xe9")
    guest.end(value)
    tried = f"one vCPU gives a disk eight requests and resets it, {rounds} times, another one notifies it and moves its index meanwhile"
    out = run_guest(lab, guest.file(other), path, tried, value, "--cpus", "2")
    lab.expect(f"{tried}; then a good driver: status of a write and of a flush, Status", [OK, OK, 15], list(out))
    with open(path, "rb") as file:
        after = file.read()
    lab.expect(f"{tried}; then a good driver: its sectors in the image", (struct.pack("<I", ~word & 0xFFFFFFFF) * 256).hex()[:64], after[300 * SECTOR : 302 * SECTOR].hex()[:64])
    touched = {8 * i + j for i in range(0, 8, 2) for j in range(8)} | {300, 301}
    wrong = next((i for i in range(512) if i not in touched and after[SECTOR * i : SECTOR * (i + 1)] != content[SECTOR * i : SECTOR * (i + 1)]), None)
    lab.expect(f"{tried}: a sector of the image that nobody wrote, and that changed", None, wrong)
