"""process.py: runs a program with a time limit, and says what was still running when it passed."""

import os
import shutil
import signal
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GRACE = 20.0  # seconds that a program gets to clean up after SIGTERM; the lab machine needs a few
HUNG = -1000  # no exit status of a process


class Outcome:
    """How a program ended. `output` is stdout and stderr as they came, in text."""

    def __init__(self, status, output, seconds, limit=None, left=""):
        self.status = status
        self.output = output
        self.seconds = seconds
        self.limit = limit
        self.left = left

    @property
    def ok(self):
        return self.status == 0

    @property
    def hung(self):
        return self.status == HUNG

    def verdict(self):
        """One line: how it ended."""
        if self.hung:
            return f"no end after {self.limit:.0f} s, killed" + (f"; still running: {self.left}" if self.left else "")
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    def explain(self, lines=25):
        """The verdict and the end of the output."""
        return "\n".join([self.verdict(), *self.output.strip().splitlines()[-lines:]])


def environment(**extra):
    """Ours, without what a make above us would make of the makes below; colours only confuse parsers."""
    hidden = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**inherited, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1", **extra}


def group_members(group):
    """The command lines of the processes in a process group, for a person."""
    members = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == group and words:
            members.append(words[:120])
    return ", ".join(members)


def _end(process):
    """Ends the process and all its children, politely first."""
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            return process.communicate(timeout=wait)[0]
        except subprocess.TimeoutExpired:
            continue
    return b""


def run(argv, limit, env=None, cwd=ROOT):
    """Runs ARGV for at most LIMIT seconds, without a terminal and with nothing to read."""
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            argv, cwd=cwd, env=environment(**(env or {})), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        return Outcome(127, f"{argv[0]}: {error.strerror}", 0.0)
    left = ""
    try:
        output, _ = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        left, status = group_members(process.pid), HUNG
        output = _end(process)
    except BaseException:
        _end(process)  # Ctrl-C, or a bug of ours: nothing stays behind
        raise
    return Outcome(status, output.decode(errors="replace"), time.monotonic() - start, limit, left)


def make(targets, variant="", limit=900):
    """Builds as many of TARGETS of the makefile as can be built; VARIANT is its SAN."""
    return run(["make", "-s", "-k", "-j2", f"SAN={variant}", *targets], limit)


def is_made(target, variant=""):
    """True if the makefile finds nothing to do for TARGET."""
    return run(["make", "-q", f"SAN={variant}", target], 60).ok


_no_aslr = None


def steady():
    """The words that start a program without address randomisation: the shadow memory of older
    sanitizers collides with the many random bits that newer kernels use."""
    global _no_aslr
    if _no_aslr is None:
        words = [shutil.which("setarch"), os.uname().machine, "-R"]
        _no_aslr = words if words[0] and run([*words, "true"], 10).ok else []
    return _no_aslr
