"""exits.py: the last exits of a guest, as shim/exits.c wrote them down: for a person who reads why a check failed.

What it notes comes from the learner's process: it is shown, and never judged by.
"""

import functools
import hashlib
import os
import struct
import subprocess

from course import ROOT

_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim", "exits.c")
_NOTES, _NOTE = 64, struct.Struct("<IIIIQB7x8s")
SIZE = 8 + _NOTES * _NOTE.size
SHOWN = 8

NAMES = {0: "UNKNOWN", 1: "EXCEPTION", 2: "IO", 3: "HYPERCALL", 4: "DEBUG", 5: "HLT", 6: "MMIO", 7: "IRQ_WINDOW_OPEN",
         8: "SHUTDOWN", 9: "FAIL_ENTRY", 10: "INTR", 16: "NMI", 17: "INTERNAL_ERROR", 24: "SYSTEM_EVENT", 26: "IOAPIC_EOI",
         29: "RDMSR", 30: "WRMSR", 37: "NOTIFY"}  # fmt: skip


@functools.cache
def _library():
    """The compiled shim, kept for the next time, or None: without it failures have no exits, and that is all."""
    with open(_SOURCE, "rb") as file:
        path = os.path.join(ROOT, "build/lab", f"exits-{hashlib.sha256(file.read()).hexdigest()[:16]}.so")
    try:
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            made = f"{path}.{os.getpid()}"
            command = ["gcc", "-std=gnu17", "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", made, _SOURCE]
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                return None
            os.rename(made, path)
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


class Notes:
    """The notes of one run, in the directory SCRATCH, which the program can write."""

    def __init__(self, scratch):
        self._file = os.path.join(scratch, "exits")
        self._shim = os.path.join(scratch, "exits.so")
        self.environment = {}
        library = _library()
        if library is None:
            return
        for path, data in ((self._file, bytes(SIZE)), (self._shim, library)):
            if os.path.lexists(path):
                os.unlink(path)
            with open(path, "wb") as file:
                file.write(data)
        os.chmod(self._file, 0o666)
        self.environment = {"LD_PRELOAD": self._shim, "EXITS_FILE": self._file}

    def lines(self):
        """A line for each of the last exits, the oldest first; [] if there are none."""
        try:
            with open(self._file, "rb") as file:
                data = file.read(SIZE)
        except OSError:
            return []
        if not self.environment or os.path.islink(self._file) or len(data) != SIZE:
            return []
        count = struct.unpack_from("<Q", data)[0]
        shown = range(max(0, count - SHOWN), count) if count < 1 << 48 else ()
        notes = [_NOTE.unpack_from(data, 8 + number % _NOTES * _NOTE.size) for number in shown]
        several = len({vcpu for _, vcpu, *_ in notes}) > 1
        return [(f"vCPU {note[1]}: " if several else "") + line(*note) for note in notes]


def line(reason, _vcpu, size, count, address, is_write, data):
    """One exit, as a person reads it: "IO out 0xe9, 1 byte: 0x41"."""
    name = NAMES.get(reason, f"exit {reason}")
    if name in ("IO", "MMIO"):
        way = ("out" if name == "IO" else "write") if is_write else ("in" if name == "IO" else "read")
        text = f"{name} {way} {address:#x}, {size} byte{'s' * (size != 1)}"
        if is_write and 1 <= size <= 8:
            text += f": {int.from_bytes(data[:size], 'little'):#x}"
        return text + (f", {count} times" if count > 1 else "")
    if name == "FAIL_ENTRY":
        return f"{name}, reason {address:#x}"
    if name in ("INTERNAL_ERROR", "SYSTEM_EVENT"):
        return f"{name}, {'suberror' if name == 'INTERNAL_ERROR' else 'type'} {size}"
    return name
