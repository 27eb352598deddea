"""trials.py: trees that are built and checked. What can run on this host runs at once; what needs the lab machine
waits, with a copy of what was built, until there is enough for one boot.
"""

import os
import tempfile

import grader
import machine
import places
import running


class Trial:
    """One tree: built (grader.Build), seed, and the records of its checks by name. job: what waits."""

    def __init__(self, built, seed):
        self.built, self.seed, self.by_name, self.job = built, seed, {}, None

    def waits(self):
        return self.job is not None

    def records(self, lab):
        return [self.by_name[check.name] for check in lab.checks if check.name in self.by_name]


class Bench:
    """Makes trials; settle() ends those that wait."""

    def __init__(self, course):
        self._course, self._waiting = course, []
        base = os.path.join(course.root, grader.BUILD_DIRECTORY)
        os.makedirs(base, exist_ok=True)
        self._directory = tempfile.TemporaryDirectory(prefix="packed-", dir=base, ignore_cleanup_errors=True)

    def close(self):
        self._directory.cleanup()

    def build(self, tree, place, werror=True, seed=None):
        return Trial(grader.build(tree, place, werror), seed or grader.new_seed())

    def check(self, trial, lab, place, names=None):
        """Runs the checks called NAMES, or all, of LAB on the tree that was just built in PLACE."""
        here, away = places.split([check for check in lab.checks if names is None or check.name in names])

        def told(item, record):
            trial.by_name[item.check.name] = record

        running.run([running.Item(lab, check, place, trial.seed) for check in here], told)
        if away:
            handle, archive = tempfile.mkstemp(suffix=".tar", dir=self._directory.name)
            os.close(handle)
            names = [check.name for check in away]
            machine.pack(lab, names, place, archive)
            trial.job = machine.Job(lab.number, names, trial.seed, archive)
        return trial

    def keep(self, trial):
        """Puts TRIAL among those that settle() ends, if it waits."""
        if trial.waits():
            self._waiting.append(trial)
        return trial

    def waiting(self):
        """How many checks wait."""
        return sum(len(trial.job.names) for trial in self._waiting)

    def settle(self, told=lambda: None):
        """One boot for all that waits; TOLD is called after each check."""
        trials, self._waiting = self._waiting, []

        def take(number, name, record):
            trials[number].by_name[name] = record
            told()

        if trials:
            machine.run(self._course, [trial.job for trial in trials], take)
        for trial in trials:
            os.unlink(trial.job.archive)
            trial.job = None
