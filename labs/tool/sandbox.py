"""sandbox.py: runs a program that nobody trusts, a learner's monitor for instance.

Whatever it does must cost its owner points and nobody anything else. Therefore:

    root becomes nobody, where the way to the scratch directory is open to nobody
    a session and, where the kernel lets us, a process namespace of its own: it can neither see nor kill
    the grader, and all that it started ends with it
    Landlock: it writes below its scratch directory only
    limits: wall clock, CPU, file size, address space, processes, and how much output is kept

What a kernel lacks of this is left out; the limits that remain are enough for honest programs. No
network rules: lab 01 to 08 programs have nothing to say there that the host would listen to.
"""

import ctypes
import functools
import os
import resource
import select
import shutil
import signal
import subprocess
import time

OUTPUT_MAX = 1 << 20  # bytes kept of each stream; a program that writes more is ended
FILE_MAX = 1 << 30  # a guest's memory may be such a file
DISK_MAX = 2 << 30  # of its scratch directory
TASKS_MAX = 128
NOBODY = 65534

# <linux/landlock.h>: the rights of ABI 1 that change something
_LANDLOCK_WRITES = 1 << 1 | 1 << 4 | 1 << 5 | sum(1 << bit for bit in range(6, 13))
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38

_libc = ctypes.CDLL(None, use_errno=True)


class Run:
    """How a program ended.

    status   exit status; -N when signal N ended it; None when it was ended for a limit
    out err  bytes, as far as they were kept
    report   bytes it wrote on descriptor 3, if that was asked for
    ended    "" or why we ended it, for a person: "no end after 5 s; it was waiting"
    """

    def __init__(self, status, out, err, report, seconds, ended):
        self.status, self.out, self.err, self.report = status, out, err, report
        self.seconds, self.ended = seconds, ended

    @property
    def hung(self):
        return self.ended.startswith("no end")

    def how(self):
        """One line: how it ended."""
        if self.ended:
            return self.ended
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"


# --- what the child does to itself -------------------------------------------------------------------


def _landlock(directory):
    """Takes the right to change anything outside DIRECTORY and /dev from this process; False: no Landlock."""
    handled = ctypes.c_uint64(_LANDLOCK_WRITES)
    rules = _libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    allowed = _LANDLOCK_WRITES & ~(1 << 11 | 1 << 6)  # no block devices, no devices made
    for place, rights in ((directory, allowed), ("/dev", 1 << 1), ("/proc", 1 << 1)):
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = allowed_beneath(rights, fd)
        _libc.syscall(_ADD_RULE, rules, 1, rule, 0)
        os.close(fd)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done = _libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done


def allowed_beneath(rights, fd):
    """struct landlock_path_beneath_attr, which is packed."""
    return ctypes.create_string_buffer(rights.to_bytes(8, "little") + fd.to_bytes(4, "little"), 12)


def has_landlock():
    return _libc.syscall(_CREATE_RULESET, None, 0, 1) > 0


def _limit(what, value):
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _become_nobody():
    """Nobody, but of the group that may open /dev/kvm: root escapes the limit of processes and owns /proc."""
    group = [os.stat("/dev/kvm").st_gid] if os.path.exists("/dev/kvm") else []
    os.setgroups(group)
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _is_open(directory):
    """May everybody go to DIRECTORY's parent?"""
    path = os.path.dirname(os.path.realpath(directory))
    while path != "/":
        if not os.stat(path).st_mode & 1:
            return False
        path = os.path.dirname(path)
    return True


def _confine(scratch, seconds, memory, as_nobody):
    os.umask(0o022)
    _limit(resource.RLIMIT_CPU, int(seconds) + 2)
    _limit(resource.RLIMIT_FSIZE, FILE_MAX)
    _limit(resource.RLIMIT_CORE, 0)
    if memory:
        _limit(resource.RLIMIT_AS, memory)
    if as_nobody:
        _become_nobody()
    _landlock(scratch)


@functools.cache
def namespace(as_nobody=False):
    """The words that start a program in a process namespace that dies with them; none if that is refused."""
    words = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child=KILL", "--"]
    usable = shutil.which("unshare") and subprocess.run(
        [*words, "prlimit", "--nproc=64", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False,
        preexec_fn=_become_nobody if as_nobody else None,
    ).returncode == 0  # fmt: skip
    # The first process of a namespace ignores most signals, its own abort() too: let that be a shell.
    # The limit of processes counts those in the namespace; root has none, whence _crowd().
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    return ([*words] if usable else []) + ["prlimit", f"--nproc={TASKS_MAX}"] * bool(usable or as_nobody) + shell * bool(usable)


def adopt():
    """Makes orphans among our descendants ours, so that kill() finds them where there are no namespaces."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# --- what the parent does ----------------------------------------------------------------------------


def _tasks(leader):
    """The processes that descend from LEADER, which is one of them."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(pid)] = int(fields[1])
    mine, grew = {leader}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        grew = bool(more)
        mine |= more
    return mine & parents.keys()


def _threads(leader):
    """(name, seconds in the program, in the kernel, in a guest) of every thread that descends from LEADER."""
    tick = os.sysconf("SC_CLK_TCK")
    for pid in _tasks(leader):
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8", errors="replace") as file:
                    head, _, rest = file.read().rpartition(")")
                fields = rest.split()
                user, system, guest = (int(fields[field]) / tick for field in (11, 12, 40))
                yield head.partition("(")[2], max(0.0, user - guest), system, guest
        except OSError:
            continue  # it has just ended


def _doing(leader, seconds):
    """For a person: what a program was doing that has taken SECONDS."""
    busiest = max(_threads(leader), key=lambda thread: sum(thread[1:]), default=None)
    if busiest is None:
        return "it had ended"
    name, *spent = busiest
    if sum(spent) < seconds / 10:
        return "it was waiting"
    where = ("in its own code", "in the kernel, or the guest", "in the guest")[spent.index(max(spent))]
    return f"its thread {name} was busy {where}"


class _Streams:
    """Feeds stdin and collects the others, each up to OUTPUT_MAX."""

    def __init__(self, process, stdin, report):
        self._input = memoryview(stdin)
        self._stdin = process.stdin
        self.kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        if report is not None:
            self.kept[report] = bytearray()
        self._open = set(self.kept)
        os.set_blocking(self._stdin.fileno(), False)
        self.flooded = False

    def _feed(self):
        try:
            sent = os.write(self._stdin.fileno(), self._input[:65536]) if self._input else 0
            self._input = self._input[sent:]
        except BlockingIOError:
            return
        except OSError:
            self._input = self._input[:0]
        if not self._input:
            self._stdin.close()

    def pump(self, seconds):
        """Waits at most SECONDS for something to move; False when all streams have ended."""
        writers = [] if self._stdin.closed else [self._stdin]
        if not self._open:
            return False
        readable, writable, _ = select.select(list(self._open), writers, [], max(0, seconds))
        if writable:
            self._feed()
        for fd in readable:
            data = os.read(fd, 65536)
            self._open -= set() if data else {fd}
            self.kept[fd] += data
            self.flooded |= len(self.kept[fd]) > OUTPUT_MAX
        return True


def _disk(directory):
    """Bytes that the files below DIRECTORY take."""
    total = 0
    for base, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _has_more_than(leader, count):
    """Have more than COUNT processes descended from LEADER? Looks at that many at most."""
    seen, waiting = 1, [str(leader)]
    while waiting and seen <= count:
        pid = waiting.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                    waiting += (children := file.read().split())
                    seen += len(children)
        except OSError:
            continue  # it has just ended
    return seen > count


def _crowd():
    """How many threads the whole machine has: one cheap look, often enough for a fork bomb."""
    with open("/proc/loadavg", encoding="ascii") as file:
        return int(file.read().split()[3].partition("/")[2])


def _watch(process, streams, scratch, limit):
    """Until the program has ended, or has to be; returns why, or ""."""
    deadline, look, crowd = time.monotonic() + limit, time.monotonic(), _crowd()
    while True:
        now = time.monotonic()
        if now > deadline:
            return f"no end after {limit:.0f} s; {_doing(process.pid, limit)}"
        alive = streams.pump(min(0.02, deadline - now))
        if streams.flooded:
            return f"ended for writing more than {OUTPUT_MAX >> 20} MiB"
        if process.poll() is not None:
            streams.pump(0)
            return ""
        if not alive:
            time.sleep(0.01)
        if now - look > 0.2 or _crowd() - crowd > TASKS_MAX:
            look = now
            if _has_more_than(process.pid, TASKS_MAX):
                return f"ended for having more than {TASKS_MAX} processes"
            if _disk(scratch) > DISK_MAX:
                return f"ended for writing more than {DISK_MAX >> 20} MiB to disk"


def _end(how, pid):
    try:
        how(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill(leader):
    """Ends the process group of LEADER and everything that descends from it; the caller waits for it."""
    strays = _tasks(leader)
    for pid in [leader, *strays]:
        _end(os.killpg, pid)
        _end(os.kill, pid)


def run(argv, scratch, limit, stdin=b"", report=False, memory=None, cwd=None, env=None, ours=False):
    """Runs ARGV for at most LIMIT seconds; it may write below SCRATCH only. REPORT: collect descriptor 3. OURS: no
    learner's program but ours at work on their files: it may stay root."""
    as_nobody = os.geteuid() == 0 and not ours and _is_open(scratch)
    if as_nobody:
        os.chown(scratch, NOBODY, NOBODY)
    prefix = namespace(as_nobody)
    told, theirs = os.pipe() if report else (None, None)
    clean = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
    start = time.monotonic()

    def child():
        if report:
            os.dup2(theirs, 3)
        _confine(scratch, limit, memory, as_nobody)

    process = subprocess.Popen(
        [*prefix, *argv], cwd=cwd or scratch, env={**clean, **(env or {})}, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=child,
        pass_fds=(3, theirs) if report and theirs != 3 else ((3,) if report else ()), bufsize=0,
    )  # fmt: skip
    if report:
        os.close(theirs)
    streams = _Streams(process, stdin, told)
    try:
        ended = _watch(process, streams, scratch, limit)
        if not ended:
            while streams.pump(0.05) and select.select(list(streams._open), [], [], 0)[0]:
                pass
    finally:
        if prefix:
            _end(os.killpg, process.pid)  # and the namespace with it, before it grows any further
        kill(process.pid)
        process.wait()
        out, err = (bytes(streams.kept[stream.fileno()][:OUTPUT_MAX]) for stream in (process.stdout, process.stderr))
        reported = bytes(streams.kept[told][:OUTPUT_MAX]) if report else b""
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        if report:
            os.close(told)
    status = None if ended else process.returncode
    if prefix and status is not None and status - 128 in signal.valid_signals():
        status = 128 - status  # unshare says it as a shell does; a guest that ends hv with such a status, too
    return Run(status, out, err, reported, time.monotonic() - start, ended)
