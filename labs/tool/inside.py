"""inside.py JOBS: the part of machine.py that runs in the lab machine: unpacks trees, runs their checks, and
prints a line of JSON as each ends. What lies where is as on the host, whose file system this is.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import grading  # noqa: E402
import running  # noqa: E402
from course import Course  # noqa: E402

HEARTBEAT = 5  # seconds


def _say(**event):
    print(json.dumps(event), flush=True)


def _heartbeat():
    """A function that says now and then that we are alive."""
    last = [0.0]

    def beat():
        if time.monotonic() - last[0] > HEARTBEAT:
            last[0] = time.monotonic()
            _say(alive=True)

    return beat


class _Tree:
    """A packed tree, there from the first check on it until the last."""

    def __init__(self, archive, uses):
        self._uses = uses
        self.path = tempfile.mkdtemp(prefix="lab-tree-")
        os.chmod(self.path, 0o755)
        subprocess.run(["tar", "-xf", archive, "-C", self.path, "--no-same-owner"], check=True)

    def release(self):
        self._uses -= 1
        if self._uses == 0:
            shutil.rmtree(self.path, ignore_errors=True)


def _items(course, jobs):
    for number, job in enumerate(jobs):
        if not job["names"]:
            continue
        lab, tree = course.lab(job["lab"]), _Tree(job["archive"], len(job["names"]))
        for name in job["names"]:
            item = running.Item(lab, lab.check(name), tree.path, job["seed"], disposable=True)
            item.number, item.tree = number, tree
            yield item


def main(path):
    with open(path, encoding="utf-8") as file:
        order = json.load(file)
    os.environ[grading.HOST_PATIENCE] = str(order["patience"])

    def told(item, record):
        item.tree.release()
        _say(job=item.number, name=item.check.name, record=record)

    running.run(_items(Course(), order["jobs"]), told, _heartbeat())


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1])
