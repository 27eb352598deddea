"""machine.py: checks in the lab machine: one boot for as many trees as there are.

Each tree is packed with its drivers, compiled here, for inside everything is slow. inside.py unpacks and runs;
what it prints, a line of JSON for each event, is the answer. A machine that fails is replaced, and goes on with what
is left; what is left after MACHINES of them could not run.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile

import drivers
import grading
import running

LABVM = "tests/labvm/labvm"
BOOT_LIMIT = 180  # seconds for what is no check: the boot, Python, unpacking
SILENCE = 60  # seconds after which a machine that has begun is given up; it says every 5 s that it is alive
MACHINES = 3
_LEFT_OUT = (".o", ".d", ".c", ".S")


class Job:
    """The checks called NAMES of a lab, on a packed tree."""

    def __init__(self, lab, names, seed, archive):
        self.lab, self.names, self.seed, self.archive = lab, names, seed, archive


class _Failed(Exception):
    """Why the machine did not do its work."""


def pack(lab, names, built, archive):
    """Writes what the checks NAMES need of the tree in BUILT into ARCHIVE; no learner's code runs for that."""
    try:
        module = running.load_checks(lab.dir)
        wanted = set().union(*(drivers.used_by(module, name, lab.dir) for name in names))
        programs = {name: drivers.program(lab.dir, built, name) for name in sorted(wanted)}
    except Exception:  # inside, the check will find and tell the same mistake
        programs = {}

    def choose(member):
        name = member.name
        skip = name.endswith(_LEFT_OUT) or name.split("/")[0] in (".git", "tests", "labs") or drivers.DIRECTORY in name
        return None if skip else member

    with tarfile.open(archive, "w") as tar:
        for name in sorted(os.listdir(built)):
            tar.add(os.path.join(built, name), name, filter=choose)
        for name, path in programs.items():
            tar.add(path, f"build/{drivers.DIRECTORY}/ready/{name}")


def _limit(course, jobs, patience):
    """Seconds that the machine gets: all that all checks may take, two at a time."""
    total = sum(course.lab(job.lab).check(name).limit for job in jobs for name in job.names)
    return BOOT_LIMIT + total * grading.PATIENCE_MAX * patience / 2 + running.GRACE


def _why(process, said):
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[0] if lines else f"the lab machine ended with status {process.returncode}"


class _Machine:
    """One boot. events() yields what inside.py prints, and raises _Failed if that was not all."""

    def __init__(self, course, jobs):
        self._directory = tempfile.TemporaryDirectory(prefix="lab-machine-")
        path, patience = self._directory.name, grading.patience()
        order = os.path.join(path, "jobs.json")
        with open(order, "w", encoding="utf-8") as file:
            json.dump({"patience": patience, "jobs": [vars(job) for job in jobs]}, file)
        self._said = open(os.path.join(path, "said"), "w+", encoding="utf-8", errors="replace")
        inside = os.path.join(course.root, "labs/tool/inside.py")
        self._process = subprocess.Popen(
            [sys.executable, os.path.join(course.root, LABVM), "run", "--timeout", f"{_limit(course, jobs, patience):.0f}", "--",
             "python3", inside, order], env={**os.environ, "LABVM_OUT": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said, bufsize=0,
        )  # fmt: skip

    def _lines(self):
        """What it prints; raises _Failed if it is silent for too long."""
        data, limit = b"", BOOT_LIMIT
        while select.select([self._process.stdout], [], [], limit)[0]:
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                return
            *lines, data = (data + more).split(b"\n")
            yield from lines
            limit = SILENCE
        raise _Failed(f"it was silent for {limit} s, and was stopped")

    def events(self):
        for line in self._lines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
        if self._process.wait() != 0:
            self._said.seek(0)
            raise _Failed(_why(self._process, self._said.read()))

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        self._said.close()
        self._directory.cleanup()


def _boot(course, jobs, open_ones, told):
    """Runs OPEN_ONES, {(job's number, check)}, in a new machine, and takes from them what has a record."""
    rest = [Job(job.lab, [name for name in job.names if (number, name) in open_ones], job.seed, job.archive)
            for number, job in enumerate(jobs)]  # fmt: skip
    machine = _Machine(course, rest)
    try:
        for event in machine.events():
            key = (event.get("job"), event.get("name"))
            if "record" in event and key in open_ones:
                open_ones.discard(key)
                told(*key, event["record"])
    finally:
        machine.stop()


def missing(course):
    """Why there can be no lab machine here, or "". What else it lacks it says when it starts."""
    if not os.path.exists(os.path.join(course.root, LABVM)):
        return f"{LABVM} is not in this course"
    if shutil.which("qemu-system-x86_64") is None:
        return f"no qemu-system-x86_64: run {os.path.join(course.root, 'tests/setup/deps')} --labvm demo"
    return ""


def run(course, jobs, told):
    """Runs JOBS; TOLD is called with the number of the job, the name of the check and the record of each."""
    open_ones, reason = {(number, name) for number, job in enumerate(jobs) for name in job.names}, missing(course)
    for _ in range(0 if reason else MACHINES):
        try:
            _boot(course, jobs, open_ones, told)
            reason = "it left this check out"
        except _Failed as failure:
            reason = str(failure)
        if not open_ones:
            return
    why = f"needs the lab machine, for this host's KVM will not do, and that failed: {reason}"
    for number, name in sorted(open_ones):
        lab = course.lab(jobs[number].lab)
        told(number, name, running.record(lab, lab.check(name), {"verdict": running.CANNOT_RUN, "why": why}))
