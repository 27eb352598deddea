"""What the system tests share: starting hv, talking to its guest, and saying what hung.

A test class says what it needs with `needs`:
  "nothing"  hv's command line alone, no KVM
  "kvm"      any /dev/kvm, also one that only interprets guest code
  "full"     a KVM that delivers interrupts (hv doctor -q exits 0)
and with `any_kvm` that one KVM tells as much as another, so it runs on one only.
"""

import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import termios
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HV = os.environ.get("HV", os.path.join(ROOT, "build/release/hv"))
GUESTS = os.path.join(ROOT, "build/guest")
CACHE = os.path.join(ROOT, "build/cache")
# Under software emulation, and with neighbours on the machine, everything takes its time: a limit only ends a hang.
LIMIT = float(os.environ.get("HV_TEST_LIMIT", "120"))


def cached(*parts):
    """A file that guest/linux/fetch or guest/linux/initramfs left in the cache."""
    path = os.path.join(CACHE, *parts)
    if not os.path.exists(path):
        raise AssertionError(f"{os.path.relpath(path, ROOT)} is missing: run `make test`, which fetches it")
    return path


def guest(name):
    for suffix in (".bin", ".elf", ""):
        path = os.path.join(GUESTS, name + suffix)
        if os.path.exists(path):
            return path
    raise AssertionError(f"build/guest/{name}.* is missing: run `make guests`")


class Case(unittest.TestCase):
    needs = "kvm"
    any_kvm = False
    longMessage = True

    def hv(self, *args, status=0, stdin=b"", limit=LIMIT, env=None):
        """Runs hv to its end without a terminal and checks its exit status."""
        run = subprocess.Popen([HV, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=env)
        try:
            out, err = run.communicate(stdin, timeout=limit)
        except subprocess.TimeoutExpired:
            run.kill()
            out, err = run.communicate()
            self.fail(f"hung for {limit:.0f} s: hv {' '.join(args)}\n{tail(out)}\n{tail(err)}")
        result = Result(args, run.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
        if status is not None:
            self.assertEqual(run.returncode, status, str(result))
        return result

    def scratch(self, name="x"):
        """A path in a directory that goes away with the test."""
        folder = tempfile.mkdtemp(prefix="hv-test-")
        self.addCleanup(subprocess.run, ["rm", "-rf", folder], check=False)
        return os.path.join(folder, name)

    def small_disk(self, size):
        """A directory with a file system of its own that holds no more than SIZE."""
        if os.getuid() != 0:
            self.skipTest("only root can mount a small disk")
        folder = os.path.dirname(self.scratch())
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
        self.addCleanup(subprocess.run, ["umount", folder], check=True)
        return folder

    def terminal(self, *args, **kwargs):
        """hv on a terminal of its own."""
        return self.program(HV, *args, **kwargs)

    def program(self, *args, **kwargs):
        t = Terminal(self, args, **kwargs)
        self.addCleanup(t.close)
        return t


def tail(data, lines=30):
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    return "\n".join(text.splitlines()[-lines:])


class Result:
    def __init__(self, args, status, out, err):
        self.args, self.status, self.out, self.err = args, status, out, err

    def __str__(self):
        return (f"hv {' '.join(self.args)}\nexit status {self.status}\n"
                f"--- stdout\n{tail(self.out)}\n--- stderr\n{tail(self.err)}")


class Terminal:
    """A program, hv as a rule, on a pseudo-terminal of its own, as a person sees it."""

    def __init__(self, case, args, size=None):
        self.case, self.args, self.seen, self.pos = case, args, "", 0
        self.master, self.slave = pty.openpty()
        if size:
            termios.tcsetwinsize(self.slave, size)
        self.cooked = termios.tcgetattr(self.slave)
        self.run = subprocess.Popen(args, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                    start_new_session=True, preexec_fn=self._own)
        self.status = None

    def _own(self):
        import fcntl
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                return False
        return True

    def expect(self, pattern, limit=LIMIT):
        """Waits until the output after the last match has `pattern`, and returns the match."""
        end = time.monotonic() + limit
        while True:
            match = re.compile(pattern, re.M).search(self.seen, self.pos)
            if match:
                self.pos = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0 or (self.run.poll() is not None and not self._drain()):
                self.case.fail(f"never saw {pattern!r} from {' '.join(self.args)} "
                               f"(status {self.run.poll()})\n{tail(self.seen)}")
            self._read(min(left, 0.2))

    def _drain(self):
        before = len(self.seen)
        self._read(0)
        return len(self.seen) > before

    def type(self, text):
        os.write(self.master, text.encode())

    def resize(self, rows, columns):
        termios.tcsetwinsize(self.master, (rows, columns))

    def modes(self):
        return termios.tcgetattr(self.slave)

    def wait(self, limit=LIMIT):
        end = time.monotonic() + limit
        while self.run.poll() is None:
            if time.monotonic() > end:
                self.case.fail(f"{' '.join(self.args)} did not end\n{tail(self.seen)}")
            self._read(0.1)
        while self._drain():
            pass
        return self.run.returncode

    def signal(self, number):
        os.kill(self.run.pid, number)

    def close(self):
        if self.run.poll() is None:
            self.run.send_signal(signal.SIGKILL)
            self.run.wait()
        os.close(self.master)
        os.close(self.slave)
