"""run.py: one run of a command in a machine, seen from the host: streams, time limit, verdict.

What a back end (amd.py, intel.py) starts is a process plus byte streams: the machine's console, the
command's standard streams, and a status stream on which the machine says "started" and "exit N".
This module moves the bytes, watches the clock and the console, and decides how it ended:

    the command's own status    it ran to its end
    124                         the time limit passed; the machine was killed from outside
    125                         the machine failed: no boot, panic, lock-up, silence, or death in mid-run

A kernel that spins with interrupts off says nothing on its console. So the machine gives a sign of life
on the status stream every few seconds (see pid1), and silence there is a verdict too.

Each stream has a thread of its own, so that a reader who does not read our output holds up nothing
but that output: the time limit is kept by the main thread, which only waits for events.
"""

import collections
import ctypes
import os
import queue
import re
import shlex
import signal
import sys
import threading
import time

TIMED_OUT = 124
FAILED = 125
BROKEN_PIPE = 128 + signal.SIGPIPE

CONSOLE_TAIL = 40  # lines shown when the machine fails
FATAL = re.compile(rb"Kernel panic|BUG: soft lockup|labvm-init: cannot")
LAST_WORDS = 3.0  # seconds a dying kernel gets to finish its message
# We may have slept ourselves (Ctrl-Z, a suspended laptop): one wait in vain shows nothing, several in a row do.
SILENT_WAITS = 3


def die_with_parent():
    """In a child about to become a machine: be killed when labvm is, even by SIGKILL (prctl(2),
    PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class MachineError(Exception):
    """The machine cannot be started; the text says why and what to do."""


class Request:
    """What to run and how; made by the command line, the same for every back end."""

    def __init__(self, argv, **options):
        self.argv = argv
        self.cpus = options.get("cpus")
        self.memory = options.get("memory")
        self.timeout = options.get("timeout")
        self.shares = options.get("shares", [])
        self.extra = options.get("extra", [])
        self.terminal = options.get("terminal", False)
        self.out = options.get("out")
        self.cwd = os.getcwd()
        self.marker = os.urandom(16).hex().encode()

    def config(self, machine):
        """What every back end puts into /run-config of its machine: file name to contents."""
        files = {"command": self._script(machine).encode(), "marker": self.marker}
        return dict(files, terminal=b"") if self.terminal else files

    def _script(self, machine):
        """The command as a shell script: our environment, our directory, our arguments. env(1) finds
        the program by PATH; busybox's own exec would prefer its applets."""
        lines = ["echo $$ >/sys/fs/cgroup/command/cgroup.procs"]
        variables = dict(os.environ, LABVM=machine, LABVM_OUT=self.out)
        for name, value in sorted(variables.items()):
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                lines.append(f"export {name}={shlex.quote(value)}")
        if self.terminal:
            size = os.get_terminal_size(0)
            if size.lines and size.columns:
                lines.append(f"/run/labvm/busybox stty rows {size.lines} cols {size.columns}")
        lines.append(f"cd {shlex.quote(self.cwd)} || exit 1")
        lines.append("exec /usr/bin/env -- " + " ".join(map(shlex.quote, self.argv)))
        return "\n".join(lines) + "\n"


class Supervisor:
    """Drives one started machine to its end. BACKEND has `process` (a Popen) and `name`; ATTACH
    methods below are called for the streams it has, then wait()."""

    def __init__(self, backend, request):
        self._backend = backend
        self._request = request
        self._events = queue.Queue()
        self._console = collections.deque(maxlen=CONSOLE_TAIL)
        self._outputs_open = 0
        self._started_at = None
        self._silence = None

    # --- streams: READ is a function that returns the next bytes, b"" at the end ---------------

    def attach_input(self, fd, write, close):
        self._spawn(self._pump_input, fd, write, close)

    def attach_output(self, read, fd):
        self._outputs_open += 1
        self._spawn(self._pump_output, read, fd)

    def attach_console(self, read):
        self._spawn(self._watch_console, read)

    def attach_status(self, read):
        self._spawn(self._read_status, read)

    @staticmethod
    def _spawn(function, *arguments):
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _pump_input(self, fd, write, close):
        try:
            while data := os.read(fd, 65536):
                write(data)
            close()
        except OSError:
            pass  # the command, or the machine, is gone and wants no more

    def _pump_output(self, read, fd):
        """Copies until the marker. Bytes that may be its beginning are held back."""
        marker = self._request.marker
        held = b""
        while data := _read(read):
            held += data
            end = held.find(marker)
            ready = end if end >= 0 else len(held) - _overlap(held, marker)
            if not self._emit(fd, held[:ready]):
                return
            held = held[ready:]
            if end >= 0:
                self._events.put(("output-end", None))
                return
        self._emit(fd, held)

    def _emit(self, fd, data):
        try:
            while data:
                data = data[os.write(fd, data) :]
            return True
        except OSError:
            self._events.put(("broken-pipe", None))
            return False

    def _watch_console(self, read):
        line = b""
        while data := _read(read):
            *lines, line = (line + data).split(b"\n")
            self._console.extend(lines)
            fatal = next((text for text in lines if FATAL.search(text)), None)
            if fatal is not None:
                self._events.put(("fatal", fatal.decode(errors="replace").strip()))
        self._console.append(line)

    def _read_status(self, read):
        text = b""
        while data := _read(read):
            *lines, text = (text + data).split(b"\n")
            for line in lines:
                word, _, number = line.decode(errors="replace").partition(" ")
                self._events.put((word, int(number) if number.isdigit() else None))
        self._events.put(("gone", None))

    # --- the verdict ---------------------------------------------------------------------------

    def wait(self, boot_limit, silence=None):
        """Waits for the end and returns the exit status to give. Does not stop the machine. SILENCE is how
        many seconds a started machine may go without a sign of life; None if it gives none."""
        self._silence = silence
        deadline = time.monotonic() + self._request.timeout
        boot_deadline = time.monotonic() + boot_limit
        while True:
            limit = deadline if self._started_at else min(deadline, boot_deadline)
            event, value = self._next_event(limit)
            if event == "time":
                return self._out_of_time(deadline)
            if event == "silence":
                return self._hung()
            if event == "started":
                self._started_at = time.monotonic()
            elif event == "output-end":
                self._outputs_open -= 1
            elif event == "exit":
                return self._drain(value, deadline)
            elif event == "broken-pipe":
                return BROKEN_PIPE
            elif event == "fatal":
                time.sleep(LAST_WORDS)
                return self._failed(f"the kernel of the lab machine failed: {value}")
            elif event == "gone":
                # The console's last words travel on another stream.
                time.sleep(0.2)
                code = self._backend.process.poll()
                return self._failed(f"the machine ended before the command did (its status: {code})")

    def _drain(self, status, deadline):
        """The command has ended; what it wrote may still be on its way to a slow reader."""
        while self._outputs_open > 0:
            event, _ = self._next_event(deadline)
            if event == "time":
                return self._out_of_time(deadline)
            if event == "silence":
                return self._hung()
            if event == "output-end":
                self._outputs_open -= 1
            elif event == "broken-pipe":
                return BROKEN_PIPE
            elif event == "gone":
                return self._failed("the machine ended before all output arrived")
        return status

    def _next_event(self, limit):
        """The next event; "time" when LIMIT has come first, "silence" when the machine seems dead."""
        for _ in range(SILENT_WAITS):
            wait = max(0, limit - time.monotonic())
            if self._silence and self._started_at:
                wait = min(wait, self._silence / SILENT_WAITS)
            try:
                return self._events.get(timeout=wait)
            except queue.Empty:
                if time.monotonic() >= limit:
                    return "time", None
        return "silence", None

    def _hung(self):
        return self._failed(f"the lab machine hung: no sign of life for {self._silence:g} s")

    def _out_of_time(self, deadline):
        if not self._started_at and time.monotonic() < deadline:
            return self._failed("the machine did not boot in time")
        self._say(f"time limit of {self._request.timeout:g} s passed; the machine was stopped")
        if not self._started_at:
            self._show_console()
        return TIMED_OUT

    def _failed(self, reason):
        self._say(reason)
        self._show_console()
        return FAILED

    def _show_console(self):
        self._say("its console ended with:")
        for line in list(self._console):
            print("   |", line.decode(errors="replace").rstrip("\r"), file=sys.stderr)

    def _say(self, text):
        print(f"labvm ({self._backend.name}): {text}", file=sys.stderr)


def _read(read):
    try:
        return read()
    except OSError:
        return b""


def _overlap(data, marker):
    """The length of the longest end of DATA that MARKER begins with."""
    for length in range(min(len(data), len(marker) - 1), 0, -1):
        if marker.startswith(data[-length:]):
            return length
    return 0
