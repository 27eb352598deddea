"""running.py: runs checks on built trees, each check in a process of its own, so that whatever happens to it
happens to one check. Where a check can run is places.py's business: here all are run on this machine.
"""

import functools
import importlib.util
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback

import drivers
import grading
import sandbox

PASSED, FAILED, CANNOT_RUN, ERROR = "passed", "failed", "could not run", "grader error"
GRACE = 15  # seconds a check may take beyond its limit before it counts as a mistake of ours
JOBS = 2
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what ends us in an orderly way


class Item:
    """One check of a lab on the tree that lies, built, in the directory BUILT. The check gets a copy, unless the
    tree is for throwing away (DISPOSABLE) and cannot be written to."""

    def __init__(self, lab, check, built, seed, disposable=False):
        self.lab, self.check, self.built, self.seed = lab, check, built, seed
        self.shared = disposable and sandbox.has_landlock()


def record(lab, check, result):
    """The check's part of the result model, from what its process said."""
    head = {name: getattr(check, name) for name in ("name", "title", "exercise", "points")}
    head["section"] = f"labs/{lab.name}/README.md{check.section}"
    return {**head, "score": check.points if result["verdict"] == PASSED else 0, "seconds": 0.0, **result}


@functools.cache
def load_checks(directory):
    """The module checks.py of a lab's directory."""
    path = os.path.join(directory, "checks.py")
    spec = importlib.util.spec_from_file_location("checks_" + os.path.basename(directory)[:2], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the process of one check ------------------------------------------------------------------------


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


def _child(item, scratch, out):
    os.umask(0o022)  # whoever runs the learner's programs may read their tree
    tree = item.built if item.shared else os.path.join(scratch, "tree")
    if not item.shared:
        shutil.copytree(item.built, tree, ignore=shutil.ignore_patterns("*.o", "*.d", ".git", drivers.DIRECTORY))
        os.chmod(tree, 0o755)
    place = os.path.join(scratch, "scratch")
    os.mkdir(place)
    try:
        world = grading.Lab(tree, place, item.lab.dir, item.seed, item.check, item.built)
        result = _judge(getattr(load_checks(item.lab.dir), item.check.name), world)
    except Exception:  # checks.py does not load, or lacks the check
        result = {"verdict": ERROR, "why": traceback.format_exc(limit=-2)}
    with os.fdopen(out, "w", encoding="utf-8", errors="replace") as file:
        json.dump(result, file)


class _Running:
    def __init__(self, item):
        self.item, self.start, self.data = item, time.monotonic(), b""
        self.scratch = tempfile.mkdtemp(prefix="lab-check-")
        os.chmod(self.scratch, 0o711)
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
                for number in ENDS:
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
                _child(item, self.scratch, write)
                status = 0
            finally:
                os._exit(status)
        os.close(write)

    def late(self):
        return time.monotonic() - self.start > self.item.check.limit * grading.patience_max() + GRACE

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


# --- all of them -------------------------------------------------------------------------------------


def run(items, told=lambda item, record: None, alive=lambda: None):
    """Runs ITEMS, an iterable that is asked for the next one when there is room for it; TOLD is called with each
    and its record as it ends, ALIVE now and then."""
    waiting, running, more = iter(items), {}, True
    try:
        while more or running:
            alive()
            while more and len(running) < JOBS:
                item = next(waiting, None)
                more = item is not None
                if more:
                    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # or it might begin, and nobody know of it
                    child = _Running(item)
                    running[child.pipe] = child
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
            ready = select.select(list(running), [], [], 0.5)[0] if running else []
            for pipe in [pipe for pipe, child in running.items() if child.late() or pipe in ready and child.read()]:
                child = running.pop(pipe)
                told(child.item, record(child.item.lab, child.item.check, child.finish()))
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        for child in running.values():
            child.finish()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
