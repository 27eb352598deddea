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
import os
import random
import re
import stat
import tempfile
import time

import machine
import places
import running
import sandbox
import stage
from running import CANNOT_RUN, ERROR, FAILED, PASSED

EXIT = {PASSED: 0, FAILED: 1, CANNOT_RUN: 3, ERROR: 4}
SOURCE_MAX = 1 << 20  # bytes of one file of a learner's
BUILD_LIMIT = 180
BUILD_MEMORY = 4 << 30
BUILD_DIRECTORY = "build/lab"


def new_seed():
    return f"{random.SystemRandom().getrandbits(32):08x}"


def _order(exercise):
    """(1, 4) for "1.4"; what has no number, as "hostile", comes after all."""
    return tuple(int(part) if part.isdigit() else 1 << 30 for part in exercise.split("."))


def blamed(record):
    """The exercise whose absence made a check fail, "1.4", or "". No check needs an exercise that comes after
    its own: such a one is open, but not to blame."""
    exercise = record.get("unwritten") or ""
    return exercise if exercise and _order(exercise) <= _order(record["exercise"]) else ""


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


def at_earlier_lab(course, number, at, taken):
    """TAKEN, files of a tree at lab AT, as they are at lab NUMBER: that lab's own files, with the answers from these.
    Returns them and {name: why not} of those whose answers are not found."""
    if at == number:
        return taken, {}
    made, lost = {}, {}
    theirs, ours = stage.ends(course, at), stage.ends(course, number)
    skeleton = stage.generate(course, number)
    for _, exercise in course.exercises(number):
        name = exercise.file
        text = made.get(name) or skeleton[name][0].decode()
        answer = stage.exercise_text(taken.get(name, b"").decode(errors="replace"), exercise.id, theirs[exercise.id])
        place = stage.span(text, exercise.id, ours[exercise.id])
        if answer is None or place is None:
            lost[name] = f"exercise {exercise.id} is not found in it"
        else:
            made[name] = text[: place[0]] + answer + text[place[1] :]
    return {name: text.encode() for name, text in made.items()}, lost


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
    run = sandbox.run(argv, directory, BUILD_LIMIT, memory=BUILD_MEMORY, ours=True)
    log = _printable(run.err) + _printable(run.out)
    if run.ended:
        log += f"\nmake: *** {run.ended}"
    return Build(directory, run.status == 0, log.replace(directory + "/", ""))


def _locked(stack, name):
    """Locks NAME, or one of its substitutes while others have it; returns what that one is called after NAME."""
    for ending in ("", "b", "c"):
        lock = stack.enter_context(open(name + ending + ".lock", "w", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ending
        except BlockingIOError:
            continue
    fcntl.flock(lock, fcntl.LOCK_EX)
    return ending


@contextlib.contextmanager
def build_directory(course, key, keep=True):
    """A directory to build in, this process's alone while it is; with KEEP the next one finds it built."""
    base = os.path.join(course.root, BUILD_DIRECTORY)
    os.makedirs(base, exist_ok=True)
    if not keep:
        with tempfile.TemporaryDirectory(prefix="once-", dir=base, ignore_cleanup_errors=True) as directory:
            yield directory
        return
    name = os.path.join(base, hashlib.sha256(key.encode()).hexdigest()[:16])
    with contextlib.ExitStack() as stack:
        yield name + _locked(stack, name)


# --- checks ------------------------------------------------------------------------------------------


class _InOrder:
    """Tells the records of CHECKS in their order, each as soon as it and all before it are there."""

    def __init__(self, checks, told):
        self._names, self._told, self.records = [check.name for check in checks], told, {}
        self._shown = 0

    def take(self, record):
        self.records[record["name"]] = record
        while self._shown < len(self._names) and self._names[self._shown] in self.records:
            self._told(self.records[self._names[self._shown]])
            self._shown += 1

    def all(self):
        return [self.records[name] for name in self._names]


def run_checks(course, lab, checks, built, seed, told=lambda record: None, note=lambda text: None, is_here=places.is_here):
    """The records of CHECKS, in their order, run where they can run; TOLD is called with each. NOTE tells a person
    what takes long."""
    order = _InOrder(checks, told)
    here, away = places.split(checks, is_here)
    running.run([running.Item(lab, check, built, seed) for check in here], lambda item, record: order.take(record))
    if away:
        note(f"starting the lab machine for {len(away)} checks; that takes some 10 s…")
        with tempfile.NamedTemporaryFile(prefix="lab-tree-", suffix=".tar") as archive:
            names = [check.name for check in away]
            machine.pack(lab, names, built, archive.name)
            jobs = [machine.Job(lab.number, names, seed, archive.name)]
            machine.run(course, jobs, lambda number, name, record: order.take(record))
    return order.all()


# --- a whole grading ---------------------------------------------------------------------------------


def _all_failed(lab, checks, tried, expected, got, said=""):
    parts = {"verdict": FAILED, "tried": tried, "expected": expected, "got": got, "exits": [], "said": said}
    return [running.record(lab, check, parts) for check in checks]


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


def grade(course, number, directory, seed, exercise=None, told=lambda record: None, note=lambda text: None, keep=True,
          at=None, is_here=places.is_here):  # fmt: skip
    """Grades the learner's tree in DIRECTORY, which is at lab AT (or NUMBER), as lab NUMBER, in that lab's own tree;
    returns the result model."""
    start, lab, at = time.monotonic(), course.lab(number), at or number
    checks = choose(lab, exercise)
    taken, missing = collect(directory, course.editable(number))
    taken, lost = at_earlier_lab(course, number, at, taken)
    missing = missing or lost
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
            records = run_checks(course, lab, checks, place, seed, told, note, is_here)
        else:
            said = "\n".join(line[:200] for line in built.log.splitlines()[:12])
            records = _all_failed(lab, checks, "make", "the tree compiles", built.first_error()[:300], said)
            for record in records:
                told(record)
    return _result(lab, seed, records, built, time.monotonic() - start)
