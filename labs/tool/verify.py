"""verify.py: proves a lab right, for us and for CI.

    skeleton   builds without warnings, scores 0, and each failure names an exercise that is not written
    walk       one reference answer after the other: every tree on the way builds without warnings, and the
               score rises each time
    reference  builds without warnings, scores everything in three runs with different seeds
    mutants    each plausible wrong answer fails the checks named for it
    merge      `lab next` brings the work of the lab before here, without conflicts
    documents  handout, hints, markers, points, slides and solution.patch agree

A lab that has no more than a stage yet is built and merged, and that is all.

A step is passed, failed, or could not run; what could not run proves nothing.
"""

import os
import tempfile
import time

import documents
import grader
import stage
import workspace
from course import CourseError

RUNS = 3


class Step:
    """One proof: its name, verdict, what there is to say about it, and how long it took."""

    def __init__(self, name, verdict, notes, seconds):
        self.name, self.verdict, self.notes, self.seconds = name, verdict, notes, seconds


def _short(record):
    reason = record.get("why") or f"expected {record.get('expected')}, got {record.get('got')}"
    return f"{record['name']}: {record['verdict']}: {reason[-600:]}"


class Verifier:
    def __init__(self, course, lab, told=lambda step: None, seed=None):
        self._course, self._lab, self._told = course, lab, told
        self._seed = seed
        self.steps = []

    def _step(self, name, function, *args):
        start = time.monotonic()
        try:
            verdict, notes = function(*args)
        except CourseError as error:
            verdict, notes = grader.FAILED, [str(error)]
        step = Step(name, verdict, notes, time.monotonic() - start)
        self.steps.append(step)
        self._told(step)
        return verdict

    def run(self):
        """All steps, in one build directory, so that a mutant costs the compilation of one file."""
        with grader.build_directory(self._course, f"verify {self._lab.number}") as place:
            if self._lab.number > 1:
                self._step("merge", self._merge)
            if not self._lab.ready():
                self._step("stage", self._stage, place)
                return self.steps
            self._step("documents", self._documents)
            self._step("skeleton", self._skeleton, place)
            self._step("walk", self._walk, place)
            good = self._step("reference", self._reference, place)
            for mutant in self._lab.mutants() if good == grader.PASSED else []:
                self._step(f"mutant {mutant.exercise} {mutant.name}", self._mutant, place, mutant)
        return self.steps

    def verdict(self):
        """The worst of all steps."""
        return grader.verdict_of([{"verdict": step.verdict} for step in self.steps])

    def _documents(self):
        found = documents.complaints(self._course, self._lab)
        return (grader.FAILED if found else grader.PASSED), found

    def _built(self, place, solved, answers=None, werror=True):
        tree = stage.generate(self._course, self._lab.number, solved, answers)
        return grader.build(tree, place, werror)

    def _checks(self, place, names=None, seed=None):
        chosen = [check for check in self._lab.checks if names is None or check.name in names]
        return grader.run_checks(self._course, self._lab, chosen, place, seed or self._seed or grader.new_seed())

    def _merge(self):
        number = self._lab.number
        expected = stage.generate(self._course, number, lambda exercise: int(exercise.partition(".")[0]) < number)
        with tempfile.TemporaryDirectory(prefix="lab-merge-") as directory:
            root = os.path.join(directory, "space")
            try:
                space = workspace.start(self._course, root)
                for _ in range(number - 2):
                    space.next()
                stage.write(stage.generate(self._course, number - 1, lambda exercise: True), root)
                space.commit("All exercises")
                space.next()
            except workspace.WorkspaceError as error:
                return grader.FAILED, [str(error)]
            notes = [name for name, (data, _) in expected.items() if not stage.is_file_with(os.path.join(root, name), data)]
        return (grader.FAILED if notes else grader.PASSED), [f"{name}: not as it should be" for name in notes]

    def _stage(self, place):
        """A lab that is not written yet: its tree builds at least."""
        built = self._built(place, lambda exercise: True)
        return (grader.PASSED, []) if built.ok else (grader.FAILED, [built.log[-3000:]])

    def _skeleton(self, place):
        """The labs before this one are done: what is open is this lab's."""
        prefix = f"{self._lab.number}."
        built = self._built(place, lambda exercise: not exercise.startswith(prefix))
        if not built.ok:
            return grader.FAILED, [built.log[-3000:]]
        records = self._checks(place)
        missed = [record for record in records if record["verdict"] in (grader.CANNOT_RUN, grader.ERROR)]
        if missed:
            return grader.verdict_of(missed), [_short(record) for record in missed]
        notes = [f"{record['name']}: scores without any work" for record in records if record["score"]]
        mine = {exercise.id for exercise in self._lab.exercises}
        notes += [
            f"{record['name']}: the failure names no exercise that is not written: {_short(record)}"
            for record in records
            if not record["score"] and record.get("unwritten") not in mine
        ]
        return (grader.FAILED if notes else grader.PASSED), notes

    def _walk(self, place):
        prefix, before, notes = f"{self._lab.number}.", 0, []
        done = set()
        for exercise in self._lab.exercises:
            done.add(exercise.id)
            built = self._built(place, lambda each: each in done or not each.startswith(prefix))
            if not built.ok:
                return grader.FAILED, [f"with {exercise.id}: {built.log[-3000:]}"]
            records = self._checks(place)
            score = sum(record["score"] for record in records)
            if grader.verdict_of(records) in (grader.CANNOT_RUN, grader.ERROR):
                return grader.verdict_of(records), [f"with {exercise.id}: not every check ran"]
            own = [record["name"] for record in records if record["exercise"] == exercise.id and not record["score"]]
            if score <= before or own:
                notes.append(f"with {exercise.id} the score is {score} after {before}; {', '.join(own)} fail")
            before = score
        return (grader.FAILED if notes else grader.PASSED), notes

    def _reference(self, place):
        built = self._built(place, lambda exercise: True)
        if not built.ok:
            return grader.FAILED, [built.log[-3000:]]
        for run in range(RUNS):
            seed = grader.new_seed() if run or not self._seed else self._seed
            records = self._checks(place, seed=seed)
            notes = [f"seed {seed}: {_short(record)}" for record in records if record["verdict"] != grader.PASSED]
            if notes:
                return grader.verdict_of(records), notes
        return grader.PASSED, []

    def _mutant(self, place, mutant):
        exercise = self._lab.exercise(mutant.exercise)
        if exercise is None:
            return grader.FAILED, ["no such exercise"]
        with open(os.path.join(self._course.root, exercise.file), encoding="utf-8") as file:
            text = stage.at_lab(file.read(), self._lab.number, exercise.file)
        reference = stage.references(text, exercise.file).get(mutant.exercise, "")
        if reference.count(mutant.find) != 1:
            return grader.FAILED, [f"`find` occurs {reference.count(mutant.find)} times in the reference, not once"]
        answer = reference.replace(mutant.find, mutant.replace)
        built = self._built(place, lambda each: True, {mutant.exercise: answer}, werror=False)
        if not built.ok:
            return grader.FAILED, ["does not compile, so it is no plausible answer: " + built.first_error()]
        records = self._checks(place, mutant.caught_by)
        notes = [
            f"{record['name']} did not catch it: {record['verdict']} {record.get('why', '')}"
            for record in records
            if record["verdict"] != grader.FAILED
        ]
        return (grader.FAILED if notes else grader.PASSED), notes
