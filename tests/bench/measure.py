"""measure.py: takes the numbers of the bench on the KVM that is here, host's own or lab machine's.

Each metric is a function that yields (contestant, value) pairs, interleaved: A B A B ..., so that a slow
spell of the machine hits all alike. The first round is a warm-up (files into the page cache) and is not kept.

    boot     seconds from the start of the process to the guest's first line from user space
    memory   bytes the monitor itself holds by then: its proportional share (Pss), less the guest's RAM
    start    seconds from the start of the process to the guest's first instruction, a port write
    exit     seconds that one port write costs, from two runs that differ in their number of writes
"""

import contextlib
import math
import os
import re
import select
import shlex
import shutil
import signal
import struct
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
HV = os.environ.get("HV", os.path.join(ROOT, "build", "release", "hv"))
BARE = os.path.join(ROOT, "build", "release", "tests", "bench", "bare_loop")
GUESTS = os.path.join(ROOT, "build", "guest")
CACHE = os.path.abspath(os.environ.get("HVLAB_CACHE", os.path.join(ROOT, "build", "cache")))

USER_SPACE = b"hvlab: user space is up"
APPEND = "console=ttyS0 panic=-1 hv.script=sleep"
NAP = 0.02  # seconds
LIMIT = 180  # seconds until a run counts as hung: generous, it bounds and does not judge
MIB = 1 << 20
STATUS_OK = 33  # GUEST_OK as an exit status, see include/guest_abi.h

HV_LINUX = (
    f"{HV} run --kernel {{kernel}} --initrd {{initrd}} --append {{append}}"
    " --memory {memory}M --cpus {cpus}"
)
QEMU = "qemu-system-x86_64 -M pc -accel kvm -nodefaults -no-user-config -display none -no-reboot"
QEMU_LINUX = (
    QEMU + " -serial stdio -kernel {kernel} -initrd {initrd} -append {append} -m {memory} -smp {cpus}"
)
HV_FLAT = f"{HV} run --boot flat --kernel {{image}} --memory 128M --serial none"
QEMU_ROM = (
    QEMU + " -m 128 -bios {image} -chardev stdio,id=debug -device isa-debugcon,chardev=debug,iobase=0xe9"
    " -device isa-debug-exit,iobase=0xf4,iosize=1"
)


class BenchError(Exception):
    """Something could not be measured; the text says what and why."""


# --- processes -------------------------------------------------------------------------------------


class Child:
    """A process whose standard output we read, killed at the end of the with statement. posix_spawn,
    not subprocess: what happens between `started` and the program's main() is in the measurement."""

    def __init__(self, argv, limit=LIMIT):
        self.argv = argv
        self.limit = limit
        self.status = None
        self._seen = b""
        read_end, write_end = os.pipe()
        self._errors = os.memfd_create("stderr")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, write_end, 1),
            (os.POSIX_SPAWN_DUP2, self._errors, 2),
        ]
        self._out = read_end
        self.started = time.monotonic()
        try:
            self.pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
        except OSError as error:
            os.close(read_end)
            os.close(self._errors)
            raise BenchError(f"{argv[0]}: {error.strerror}") from None
        finally:
            os.close(write_end)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._errors)
        os.close(self._out)

    def read_until(self, text):
        """Reads up to `text`; returns the seconds since the start at which it was there, give or take
        a NAP: a reader that wakes up for each byte of a console takes the CPU from who is measured."""
        while text not in self._seen:
            time.sleep(NAP)
            if not self._read():
                raise self._error(f"ended without {text.decode()!r}")
        return time.monotonic() - self.started

    def rest_of_line(self, text):
        """What follows `text` in the line that has it."""
        while b"\n" not in self._seen.partition(text)[2]:
            if not self._read():
                raise self._error(f"ended in the line with {text.decode()!r}")
        return self._seen.partition(text)[2].partition(b"\n")[0].decode(errors="replace")

    def read_first_byte(self):
        if not self._read():
            raise self._error("ended without a byte")
        return time.monotonic() - self.started

    def wait(self, status):
        """Reads to the end; returns the seconds from start to exit."""
        while self._read():
            pass
        _, code = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(code)
        if self.status != status:
            raise self._error(f"ended with status {self.status}, not {status}")
        return time.monotonic() - self.started

    def _read(self):
        left = self.started + self.limit - time.monotonic()
        if not select.select([self._out], [], [], max(0, left))[0]:
            raise self._error(f"did not get there in {self.limit} s")
        data = os.read(self._out, 65536)
        self._seen += data
        return data

    def _error(self, what):
        os.lseek(self._errors, 0, os.SEEK_SET)
        said = (self._seen[-2000:] + os.read(self._errors, 1 << 16)).decode(errors="replace").splitlines()
        last = " | ".join(line.strip() for line in said[-5:])
        return BenchError(f"{os.path.basename(self.argv[0])} {what}; it said: {last or 'nothing'}")


def command(template, **values):
    """An argument vector: placeholders are filled in after splitting, so values may have blanks."""
    return [word.format(**values) for word in shlex.split(template)]


def in_turns(contestants, runs, measure):
    """The interleaving: yields (name, value) for `runs` rounds after one that warms up. A contestant
    that fails is left out from then on, and yields the BenchError in place of a value."""
    alive = dict(contestants)
    for turn in range(runs + 1):
        for name, what in list(alive.items()):
            try:
                value = measure(what)
            except BenchError as error:
                del alive[name]
                yield name, error
                continue
            if turn > 0:
                yield name, value


# --- Linux: boot and memory ------------------------------------------------------------------------


def linux_contestants(peers, memory, append=APPEND):
    """name -> argument vector."""
    values = {
        "kernel": os.path.join(CACHE, "cloud", "vmlinuz"),
        "initrd": os.path.join(CACHE, "initramfs-cloud.cpio"),
        "append": append,
        "memory": memory,
        "cpus": 1,
    }
    templates = {"hv": HV_LINUX}
    if shutil.which("qemu-system-x86_64"):
        templates["qemu"] = QEMU_LINUX
    templates.update(peers)
    return {name: command(template, **values) for name, template in templates.items()}


def boot(runs, peers, append=None):
    def measure(argv):
        with Child(argv) as child:
            return child.read_until(USER_SPACE)

    return in_turns(linux_contestants(peers, 512, append or APPEND), runs, measure)


def memory(runs, peers, append=None):
    def measure(argv):
        with Child(argv) as child:
            child.read_until(USER_SPACE)
            os.kill(child.pid, signal.SIGSTOP)  # so that the sums are of one moment
            return own_memory(child.pid, 128 * MIB)

    return in_turns(linux_contestants(peers, 128, append or APPEND), runs, measure)


def own_memory(pid, guest_size):
    """The sum of all mappings' Pss in bytes, without the largest mapping, the guest's memory."""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as smaps:
        mappings = parse_smaps(smaps)
    size, guest_pss = max(mappings)
    if size < guest_size:
        raise BenchError(f"no mapping of process {pid} is as large as the guest's memory")
    return sum(pss for _, pss in mappings) - guest_pss


HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)")


def parse_smaps(lines):
    """proc(5), /proc/PID/smaps: a list of (size, Pss), in bytes. Anonymous neighbours count as one: hv moves
    pages into guest memory, which then is several mappings side by side."""
    mappings, last = [], None
    for line in lines:
        header = HEADER.match(line)
        field, _, rest = line.partition(":")
        if header:
            start, end, flags, inode, name = header.groups()
            joins = last == (start, flags) and inode == "0" and not name
            last = (end, flags) if inode == "0" and not name else None
            if not joins:
                mappings.append((0, 0))
        elif field in ("Size", "Pss"):
            size, pss = mappings[-1]
            bytes_ = int(rest.split()[0]) * 1024
            mappings[-1] = (size + bytes_, pss) if field == "Size" else (size, pss + bytes_)
    return mappings


# --- flat guests: start and exit -------------------------------------------------------------------


@contextlib.contextmanager
def scratch_image(data):
    with tempfile.NamedTemporaryFile(prefix="hv-bench-") as image:
        image.write(data)
        image.flush()
        yield image.name


def guest(name):
    with open(os.path.join(GUESTS, name), "rb") as image:
        return image.read()


def as_rom(code):
    """64 KiB of firmware that is all reset vector: QEMU's way to a flat guest. SDM 3A §9.1.4."""
    vector = 0xFFF0
    if len(code) > 0x10000 - vector:
        raise BenchError("the guest is too long for the reset vector")
    return bytes(vector) + code.ljust(0x10000 - vector, b"\xf4")


def start(runs, peers, append=None):
    del peers, append  # no common way to hand over a flat guest
    code = guest("boot_stamp.bin")

    def measure(argv):
        with Child(argv) as child:
            seconds = child.read_first_byte()
            child.wait(STATUS_OK)
            return seconds

    with scratch_image(code) as flat, scratch_image(as_rom(code)) as rom:
        contestants = {"hv": command(HV_FLAT, image=flat)}
        if shutil.which("qemu-system-x86_64"):
            contestants["qemu"] = command(QEMU_ROM, image=rom)
        yield from in_turns(contestants, runs, measure)


def out_loop(port, count):
    """guest/out_loop.S with its number of writes, at offset 4, and its port changed."""
    code = bytearray(guest("out_loop.bin"))
    struct.pack_into("<I", code, 4, count)
    instruction = b"\xe6\x80"  # out %al, $0x80
    if code.count(instruction) != 1:
        raise BenchError("guest/out_loop.S is not what the bench knows: one write to port 0x80")
    return bytes(code.replace(instruction, bytes([0xE6, port])))


def exit(runs, peers, append=None):
    """Port 0x70, the RTC's index: for hv that is finding the device, its lock and a store."""
    del peers, append
    few = 1000
    with scratch_image(out_loop(0x70, few)) as image:
        with Child([BARE, image]) as child:
            rough = child.wait(0) / few
    # Enough writes for half a second, which drowns the jitter of two process starts.
    many = few + min(max(20_000, math.ceil(0.5 / rough)), 10_000_000)
    with scratch_image(out_loop(0x70, few)) as short, scratch_image(out_loop(0x70, many)) as long:

        def measure(contestant):
            template, status = contestant
            seconds = []
            for image in (short, long):
                with Child(command(template, image=image)) as child:
                    seconds.append(child.wait(status))
            return (seconds[1] - seconds[0]) / (many - few)

        contestants = {"hv": (HV_FLAT, STATUS_OK), "bare": (BARE + " {image}", 0)}
        yield from in_turns(contestants, runs, measure)


METRICS = {"boot": boot, "memory": memory, "start": start, "exit": exit}
