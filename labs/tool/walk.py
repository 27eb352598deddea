"""walk.py: goes through the course as a learner does who always finds the reference answer: a real workspace, one
exercise after the other, commit, `lab next`.
"""

import os
import shutil
import tempfile

import stage
import workspace


class Walker:
    """The workspace is where the last lab was left, or made anew."""

    def __init__(self, course):
        self._course = course
        self._directory = tempfile.mkdtemp(prefix="lab-walk-")
        self._space, self._done = None, set()

    def close(self):
        shutil.rmtree(self._directory, ignore_errors=True)

    def arrive(self, lab):
        """Goes on to LAB with all earlier exercises written; returns what is not as it should be. WorkspaceError if
        it cannot."""
        if self._space is None or self._space.number() != lab.number - 1:
            self._begin(lab.number)
        if self._space.number() < lab.number:
            self._space.next()
        return self.differences(lab)

    def _begin(self, number):
        """A new workspace, at the end of the lab before NUMBER."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._space = workspace.start(self._course, os.path.join(self._directory, "space"))
        for _ in range(number - 2):
            self._space.next()
        if number > 1:
            stage.write(stage.generate(self._course, number - 1, lambda exercise: True), self._space.root)
            self._space.commit("All exercises")
        self._done = {exercise.id for _, exercise in self._course.exercises(number - 1)} if number > 1 else set()

    def solve(self, lab, exercise):
        """Writes the reference of EXERCISE where it belongs, and commits; returns what is wrong then."""
        name = exercise.file
        solved = stage.generate(self._course, lab.number, lambda each: True)[name][0].decode()
        end = stage.ends(self._course, lab.number)[exercise.id]
        text = stage.transplant(self._space.text(name), exercise.id, solved, end)
        if text is None:
            return [f"{name}: exercise {exercise.id} is not found in the workspace"]
        with open(self._space.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        self._space.commit(f"Exercise {exercise.id}")
        self._done.add(exercise.id)
        return self.differences(lab)

    def tree(self, lab):
        """What the workspace should hold."""
        return stage.generate(self._course, lab.number, lambda exercise: exercise in self._done)

    def differences(self, lab):
        tree = self.tree(lab)
        there = set(self._space.git("ls-files").splitlines())
        found = [name for name, (data, _) in tree.items() if not stage.is_file_with(self._space.path(name), data)]
        return [f"{name}: not as it should be" for name in sorted({*found, *(there ^ tree.keys())})]
