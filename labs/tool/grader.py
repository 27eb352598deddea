"""grader.py: builds a learner's tree and runs a lab's checks on it. Returns data; show.py and writers.py
make it something to read.

The graded tree is generated afresh from the course; from the learner come only the files that have
exercises. It is built in build/lab/ below the course, so that a second run compiles only what changed, and
each check gets a copy of what was built and a directory of its own to write in. A check runs in a process of
its own, so that whatever happens to it happens to one check.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import random
import re
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback

import grading
import sandbox
import stage

PASSED, FAILED, CANNOT_RUN, ERROR = "passed", "failed", "could not run", "grader error"
EXIT = {PASSED: 0, FAILED: 1, CANNOT_RUN: 3, ERROR: 4}
SOURCE_MAX = 1 << 20  # bytes of one file of a learner's
BUILD_LIMIT = 180
BUILD_MEMORY = 4 << 30
BUILD_DIRECTORY = "build/lab"
GRACE = 15  # seconds a check may take beyond its limit before it counts as a mistake of ours
JOBS = 2


def new_seed():
    return f"{random.SystemRandom().getrandbits(32):08x}"


# --- the learner's files -----------------------------------------------------------------------------


def collect(directory, names):
    """{name: bytes} of the learner's files, and {name: why not} of those that cannot be taken. Follows no
    link: the file must lie where its name says."""
    taken, missing = {}, {}
    for name in names:
        path = directory
        try:
            for part in name.split("/"):
                path = os.path.join(path, part)
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    raise OSError(0, "is, or lies behind, a symbolic link")
            if not stat.S_ISREG(mode):
                raise OSError(0, "is no plain file")
            with open(path, "rb") as file:
                data = file.read(SOURCE_MAX + 1)
            if len(data) > SOURCE_MAX:
                raise OSError(0, f"is larger than {SOURCE_MAX >> 10} KiB")
            taken[name] = data
        except OSError as error:
            missing[name] = (error.strerror or str(error)).lower()
    return taken, missing


# --- building ----------------------------------------------------------------------------------------


class Build:
    """tree: where it was built; ok; log: what the compiler said, for a person."""

    def __init__(self, tree, ok, log):
        self.tree, self.ok, self.log = tree, ok, log

    def first_error(self):
        """The line that says what is wrong."""
        lines = [line for line in self.log.splitlines() if re.search(r"\berror\b|undefined reference|\*\*\*", line)]
        return lines[0].strip() if lines else (self.log.strip().splitlines() or ["make failed"])[-1]

    def warnings(self):
        return [line for line in self.log.splitlines() if " warning: " in line]


def _printable(data):
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in data.decode(errors="replace"))


def build(tree, directory, werror=False):
    """Makes DIRECTORY hold TREE and builds its hv, guests and library."""
    stage.write(tree, directory)
    goals = ["build/release/hv", "build/release/libhv.a"]
    if b"guest/guest.mk" in tree["Makefile"][0]:
        goals.append("guests")
    argv = ["make", "-s", "-j2", f"WERROR={int(werror)}", *goals]
    run = sandbox.run(argv, directory, BUILD_LIMIT, memory=BUILD_MEMORY)
    log = _printable(run.err) + _printable(run.out)
    if run.ended:
        log += f"\nmake: *** {run.ended}"
    return Build(directory, run.status == 0, log.replace(directory + "/", ""))


@contextlib.contextmanager
def build_directory(course, key, keep=True):
    """A directory to build in, this process's alone while it is; with KEEP the next one finds it built."""
    base = os.path.join(course.root, BUILD_DIRECTORY)
    os.makedirs(base, exist_ok=True)
    if not keep:
        with tempfile.TemporaryDirectory(prefix="once-", dir=base, ignore_cleanup_errors=True) as directory:
            yield directory
        return
    directory = os.path.join(base, hashlib.sha256(key.encode()).hexdigest()[:16])
    with open(directory + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


# --- one check ---------------------------------------------------------------------------------------


def _load_checks(lab):
    """The functions of checks.py by name."""
    path = os.path.join(lab.dir, "checks.py")
    spec = importlib.util.spec_from_file_location(f"checks_{lab.number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cannot_run(check):
    """What this host lacks for the check's tier, or ""."""
    if check.tier != "unit" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "this host has no /dev/kvm that you may open (`lab doctor` says more)"
    return ""


def _judge(function, world):
    """Runs one check; returns its part of the result."""
    try:
        function(world)
    except grading.Failure as failure:
        parts = {name: getattr(failure, name) for name in ("tried", "expected", "got", "exits", "said")}
        return {"verdict": FAILED, "unwritten": world.unwritten(), **parts}
    except grading.CannotRun as reason:
        return {"verdict": CANNOT_RUN, "why": str(reason)}
    except Exception:
        return {"verdict": ERROR, "why": traceback.format_exc(limit=-4)}
    return {"verdict": PASSED}


def _child(lab, check, built, scratch, seed, out):
    """The process of one check."""
    tree = os.path.join(scratch, "tree")
    shutil.copytree(built, tree, ignore=shutil.ignore_patterns("*.o", "*.d", ".git"))
    place = os.path.join(scratch, "scratch")
    os.mkdir(place)
    world = grading.Lab(tree, place, lab.dir, seed, check.name, check.limit)
    try:
        result = _judge(getattr(_load_checks(lab), check.name), world)
    except Exception:  # checks.py does not load, or lacks the check
        result = {"verdict": ERROR, "why": traceback.format_exc(limit=-2)}
    with os.fdopen(out, "w", encoding="utf-8", errors="replace") as file:
        json.dump(result, file)


class _Running:
    def __init__(self, lab, check, built, seed):
        self.check, self.start, self.data = check, time.monotonic(), b""
        self.scratch = tempfile.mkdtemp(prefix="lab-check-")
        self.pipe, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                sandbox.adopt()
                os.close(self.pipe)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                _child(lab, check, built, self.scratch, seed, write)
                status = 0
            finally:
                os._exit(status)
        os.close(write)

    def late(self):
        return time.monotonic() - self.start > self.check.limit * grading.PATIENCE_MAX + GRACE

    def read(self):
        """Takes what has come; True when that was all."""
        data = os.read(self.pipe, 65536)
        self.data += data
        return not data

    def finish(self):
        """Ends the process and everything below it, and returns what it said."""
        sandbox.kill(self.pid)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        shutil.rmtree(self.scratch, ignore_errors=True)
        try:
            result = json.loads(self.data)
        except ValueError:
            result = {"verdict": ERROR, "why": "the check did not end by itself, or died"}
        return {**result, "seconds": round(time.monotonic() - self.start, 2)}


def _record(lab, check, result):
    head = {name: getattr(check, name) for name in ("name", "title", "exercise", "points")}
    head["section"] = f"labs/{lab.name}/README.md{check.section}"
    return {**head, "score": check.points if result["verdict"] == PASSED else 0, "seconds": 0.0, **result}


def run_checks(lab, checks, built, seed, told=lambda record: None):
    """The records of CHECKS, in their order; TOLD is called with each as soon as it and all before it are
    there."""
    waiting, running, done, shown = list(checks), {}, {}, 0
    try:
        while waiting or running:
            while waiting and len(running) < JOBS:
                check = waiting.pop(0)
                why = _cannot_run(check)
                if why:
                    done[check.name] = _record(lab, check, {"verdict": CANNOT_RUN, "why": why})
                else:
                    child = _Running(lab, check, built, seed)
                    running[child.pipe] = child
            ready = select.select(list(running), [], [], 0.5)[0] if running else []
            for pipe in [pipe for pipe, child in running.items() if child.late() or pipe in ready and child.read()]:
                child = running.pop(pipe)
                done[child.check.name] = _record(lab, child.check, child.finish())
            while shown < len(checks) and checks[shown].name in done:
                told(done[checks[shown].name])
                shown += 1
    finally:
        for child in running.values():
            child.finish()
    return [done[check.name] for check in checks]


# --- a whole grading ---------------------------------------------------------------------------------


def _all_failed(lab, checks, tried, expected, got, said=""):
    parts = {"verdict": FAILED, "tried": tried, "expected": expected, "got": got, "exits": [], "said": said}
    return [_record(lab, check, parts) for check in checks]


def verdict_of(records):
    """The worst that happened."""
    found = {record["verdict"] for record in records}
    return next((verdict for verdict in (ERROR, CANNOT_RUN, FAILED) if verdict in found), PASSED)


def _result(lab, seed, records, built, seconds):
    return {
        "lab": lab.number, "name": lab.name, "title": lab.title, "seed": seed,
        "score": sum(record["score"] for record in records), "max": sum(record["points"] for record in records),
        "verdict": verdict_of(records), "seconds": round(seconds, 1),
        "build": {"ok": built.ok if built else False, "warnings": len(built.warnings()) if built else 0,
                  "log": built.log[-6000:] if built and built.log else ""},
        "checks": records,
    }  # fmt: skip


def choose(lab, exercise=None):
    """The checks of an exercise, or all."""
    return [check for check in lab.checks if exercise in (None, check.exercise)]


def grade(course, number, directory, seed, exercise=None, told=lambda record: None, keep=True):
    """Grades the learner's tree in DIRECTORY as lab NUMBER; returns the result model."""
    start, lab = time.monotonic(), course.lab(number)
    checks = choose(lab, exercise)
    taken, missing = collect(directory, course.editable(number))
    if missing:
        got = "; ".join(f"{name}: {why}" for name, why in missing.items())
        records = _all_failed(lab, checks, "take the files with exercises", "all of them", got)
        for record in records:
            told(record)
        return _result(lab, seed, records, None, time.monotonic() - start)
    tree = stage.generate(course, number)
    for name, data in taken.items():
        tree[name] = (data, False)
    with build_directory(course, f"{number} {os.path.realpath(directory)}", keep) as place:
        built = build(tree, place)
        if built.ok:
            records = run_checks(lab, checks, place, seed, told)
        else:
            said = "\n".join(line[:200] for line in built.log.splitlines()[:12])
            records = _all_failed(lab, checks, "make", "the tree compiles", built.first_error()[:300], said)
            for record in records:
                told(record)
    return _result(lab, seed, records, built, time.monotonic() - start)
