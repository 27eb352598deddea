"""grading.py: what a check sees. labs/NN-topic/checks.py has one function for each [[check]] of lab.toml.

    def memory_slot(lab):
        value = lab.rng.randrange(1 << 16)
        report = lab.driver("memory_slot", value).record
        lab.expect(tried="write a word through the guest's memory", expected=value, got=report["word"])

A check that returns has passed. Failure: the learner's work is wrong. CannotRun: this host lacks
something. Any other exception is a mistake of the course, and counts as that.

Everything a program of the learner's says is untrusted: compare it, never run it or open what it names.
"""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import time

import drivers
import exits
import sandbox

UNWRITTEN = re.compile(rb"exercise (\d+\.\d+) is not implemented yet")
MEMORY_MAX = 16 << 30  # bytes of address space of a program; guests' memory counts
RUN_LIMIT = 8  # seconds of one program, unless the check says otherwise
PATIENCE_MAX = 3.0
HOST_PATIENCE = "LAB_HOST_PATIENCE"  # in the lab machine: the same of its host, which may be busy, too
SHOWN = 1200  # characters of a value in a failure


class Failure(Exception):
    """What was tried, expected and got, as texts; exits: the guest's last ones, a line each."""

    def __init__(self, tried, expected, got, exits=(), said=""):
        super().__init__(f"{tried}: expected {expected}, got {got}")
        self.tried, self.expected, self.got = tried, expected, got
        self.exits, self.said = list(exits), said


class CannotRun(Exception):
    """The text says what is missing."""


def patience_max():
    """The most that patience() can be here."""
    return PATIENCE_MAX * float(os.environ.get(HOST_PATIENCE, "1"))


def patience():
    """By what limits are stretched on a machine that is emulated, or that others keep busy: at least 1."""
    if "LABVM" in os.environ:
        return patience_max()
    return min(PATIENCE_MAX, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2))


def text(value):
    """A value as a person reads it in a failure."""
    if isinstance(value, (bytes, bytearray)):
        value = repr(bytes(value))[1:]
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > 9:
        value = f"{value} ({value:#x})"
    value = value if isinstance(value, str) else repr(value)
    return value if len(value) <= SHOWN else value[:SHOWN] + f"… ({len(value)} characters)"


class Driver:
    """A driver's end: run (sandbox.Run) and record, the one JSON object that it wrote on descriptor 3."""

    def __init__(self, run, record):
        self.run, self.record = run, record


class Lab:
    """One check's world.

    seed   the run's seed, a text; rng   random.Random of seed and check
    tree   the graded copy of the learner's tree, built: build/release/hv and libhv.a are there
    built  where that was copied from, which no program of theirs can change
    scratch  a directory of this check's own, the only place where programs can write
    """

    def __init__(self, tree, scratch, labdir, seed, check, built=None):
        self.tree, self.scratch, self.labdir = tree, scratch, labdir
        self.built = built or tree
        self.seed, self.rng = seed, random.Random(f"{seed}/{check.name}")
        self._patience = patience()
        self._end = time.monotonic() + check.limit * self._patience
        self._last, self._exits, self._notes = None, [], None
        self._count = 0

    # --- running ---

    def left(self):
        """Seconds of this check's time."""
        return max(0.0, self._end - time.monotonic())

    def hv(self, *args, stdin=b"", limit=None, hang_ok=False):
        """Runs the learner's hv with ARGS: sandbox.Run with .status .out .err (bytes). One that does not end
        within LIMIT (RUN_LIMIT) seconds fails the check, unless HANG_OK. A failure that follows shows the guest's
        last exits."""
        self._notes = exits.Notes(self.scratch)
        return self.run([os.path.join(self.tree, "build/release/hv"), *args], stdin, limit, hang_ok)

    def run(self, argv, stdin=b"", limit=None, hang_ok=False, report=False):
        """The same for any program that is the learner's in part."""
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        argv = [str(word) for word in argv]
        # a little less than what is left, so that a hang is told as one
        seconds = min((limit or RUN_LIMIT) * self._patience, max(0.5, self.left() - 0.5))
        notes, self._notes = self._notes, None
        environment = notes.environment if notes else {}
        result = sandbox.run(argv, self.scratch, seconds, stdin, report, MEMORY_MAX, env=environment)
        self._last, self._exits = result, notes.lines() if notes else []
        if result.ended and not (result.hung and hang_ok):
            name = shlex.join([os.path.basename(argv[0]), *argv[1:]]).replace(self.scratch + "/", "")
            self.fail(tried=name, expected=f"an end within {seconds:.0f} s", got=result.ended)
        return result

    def library(self, name):
        """Compiles drivers/NAME.c as a library, for LD_PRELOAD: its path. It is written anew each time, for what ran
        before could write there."""
        path = os.path.join(self.scratch, name + ".so")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        shutil.copyfile(drivers.library(self.labdir, self.built, name), path)
        return path

    def driver(self, name, *args, stdin=b"", limit=None, hang_ok=False, crash_ok=False):
        """Compiles drivers/NAME.c against the graded libhv.a and runs it: Driver.

        It calls the learner's functions, observes, and writes one line of JSON on descriptor 3, before its main()
        returns or calls exit(). A crash, a hang or no line fails the check; a driver that does not compile is
        the course's mistake."""
        program = os.path.join(self.scratch, "driver-" + name)
        key = drivers.with_key(drivers.program(self.labdir, self.built, name), program)
        result = self.run([program, *args], stdin, limit, hang_ok, report=True)
        lines = result.report.removeprefix(key).splitlines() if result.report.startswith(key) else []
        if len(lines) == 1:
            try:
                record = json.loads(lines[0])
            except ValueError:
                record = None
            if isinstance(record, dict):
                return Driver(result, record)
        if crash_ok or result.hung:
            return Driver(result, {})
        if lines or result.report:
            self.fail(tried=f"the driver {name}", expected="its own report", got="something else wrote on it")
        self.fail(tried=f"the driver {name}", expected="a report of what it saw", got=result.how())

    def tree_libs(self):
        """The libraries that this stage links, as its makefile says."""
        return " ".join(drivers.libraries(self.tree))

    # --- guests ---

    def guest(self, code, origin=0x7C00, bits=16):
        """A flat guest, bytes or GNU assembler text (.code16 is put before it, `_start` is not needed):
        the path of its file."""
        self._count += 1
        path = os.path.join(self.scratch, f"guest{self._count}.bin")
        if isinstance(code, str):
            code = self._assemble(code, path, origin, bits)
        with open(path, "wb") as file:
            file.write(code)
        return path

    def _assemble(self, code, path, origin, bits):
        source, obj = path + ".s", path + ".o"
        with open(source, "w", encoding="utf-8") as file:
            file.write(f".code{bits}\n.globl _start\n" + ("" if "_start:" in code else "_start:\n") + code + "\n")
        mode, emulation = ("--64", "elf_x86_64") if bits == 64 else ("--32", "elf_i386")
        for command in (["as", mode, "-o", obj, source],
                        ["ld", "-m", emulation, "-nostdlib", f"-Ttext={origin:#x}", "-e", "_start",
                         "--oformat", "binary", "-o", path, obj]):  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"the guest does not assemble:\n{done.stderr}\n{code}")
        with open(path, "rb") as file:
            return file.read()

    # --- judging ---

    def said(self):
        """The end of what the last program said on stderr: for a person only."""
        lines = self._last.err.decode(errors="replace").splitlines() if self._last else []
        return "\n".join("".join(c if c.isprintable() else "?" for c in line)[:160] for line in lines[-6:])

    def unwritten(self):
        """The exercise that the last program stopped at, "1.4", or ""."""
        found = UNWRITTEN.search(self._last.err) if self._last else None
        return found[1].decode() if found else ""

    def fail(self, tried, expected, got, exits=()):
        """Ends this check as failed. EXITS: a line for each of the guest's last exits; by default those that the
        last hv() has seen."""
        raise Failure(text(tried), text(expected), text(got), exits or self._exits, self.said())

    def expect(self, tried, expected, got, exits=()):
        """Ends this check as failed unless GOT is EXPECTED."""
        if got != expected:
            self.fail(tried, expected, got, exits)

    def expect_true(self, tried, expected, holds, got, exits=()):
        """The same for what is no equality: EXPECTED and GOT are texts then."""
        if not holds:
            self.fail(tried, expected, got, exits)
