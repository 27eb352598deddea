"""verify.py: proves a lab right, for us and for CI.

    merge      `lab next` brings the work of the lab before here, without conflicts
    documents  handout, hints, markers, points, slides and solution.patch agree
    skeleton   builds without warnings, scores 0, and each failure names an exercise that is not written
    walk       one reference answer after the other, in a real workspace: every tree on the way builds without
               warnings, the score rises each time, and what passed once passes on
    reference  builds without warnings, scores everything in three runs with different seeds
    earlier    the labs before can be graded from here, too
    mutants    each plausible wrong answer fails the checks named for it. One that a check lets through with one seed
               and catches with MORE others is luck of a learner's, which is told; else it is a hole in the grader

A lab that has no more than a stage yet is built and merged, and that is all; of the tour, which has none, the
documents are judged. Checks that need the lab machine
wait until the end, for one boot; their steps are told then. A step is passed, failed, or could not run; what
could not run proves nothing.
"""

import time

import documents
import grader
import parallel
import places
import stage
import workspace
from course import CourseError
from grader import CANNOT_RUN, ERROR, FAILED, PASSED

RUNS = 3
MORE = 5


class Step:
    """One proof: its name, what it has tried, and JUDGE, which makes (verdict, notes) of that."""

    def __init__(self, name, trials, judge, seconds):
        self.name, self.trials, self.seconds = name, trials, seconds
        self._judge = judge
        self.verdict, self.notes = None, []

    def settle(self):
        """Judges, if all that was tried has answered."""
        if self.verdict is None and not any(trial.waits() for trial in self.trials):
            self.verdict, self.notes = self._judge(*self.trials)
            self.notes += [trial.built.log[-3000:] for trial in self.trials if not trial.built.ok]
        return self.verdict is not None


def _verdict(notes):
    return (FAILED if notes else PASSED), notes


def _short(record):
    reason = record.get("why") or f"expected {record.get('expected')}, got {record.get('got')}"
    return f"{record['name']}: {record['verdict']}: {reason[-600:]}"


def _missed(records):
    """The verdict and notes of checks that gave none themselves, or None."""
    missed = [record for record in records if record["verdict"] in (CANNOT_RUN, ERROR)]
    return (grader.verdict_of(missed), [_short(record) for record in missed]) if missed else None


class Verifier:
    """Proves LAB; BENCH and WALKER may have served other labs before."""

    def __init__(self, course, lab, bench, walker, told=lambda step: None, seed=None, jobs=1):
        self._course, self._lab, self._bench, self._walker = course, lab, bench, walker
        self._told, self._seed, self._jobs = told, seed, jobs
        self._prefix = f"{lab.number}."
        self.steps = []
        self._builds = True

    def run(self, note=lambda text: None):
        lab = self._lab
        if not lab.files:
            self._step("documents", self._documents)
            return self.steps
        with grader.build_directory(self._course, f"verify {lab.number}") as place:
            self._step("merge", self._merge)
            if not lab.ready():
                self._step("stage", self._stage, place)
                return self.steps
            self._step("documents", self._documents)
            self._step("skeleton", self._skeleton, place)
            self._step("walk", self._walk, place)
            self._step("reference", self._reference, place)
            if lab.number > 1:
                self._step("earlier", self._earlier, place)
        if self._builds:
            self._mutants()
        self._machine(note)
        return self.steps

    def verdict(self):
        """The worst of all steps."""
        return grader.verdict_of([{"verdict": step.verdict} for step in self.steps])

    # --- steps: each returns its trials, and how to judge them ---

    def _step(self, name, function, *args):
        start = time.monotonic()
        try:
            trials, judge = function(*args)
        except (CourseError, workspace.WorkspaceError) as error:
            text = str(error)
            trials, judge = [], lambda: (FAILED, [text])
        self._add(Step(name, [self._bench.keep(trial) for trial in trials], judge, time.monotonic() - start))

    def _add(self, step):
        self.steps.append(step)
        if step.settle():
            self._told(step)

    def _machine(self, note):
        """What waits for the lab machine, in one boot, and the steps that waited for it."""
        count, start, done = self._bench.waiting(), time.monotonic(), 0
        if not count:
            return

        def told():
            nonlocal done
            done += 1
            note(f"in the lab machine: {done} of {count} checks")

        note(f"starting the lab machine for {count} checks…")
        self._bench.settle(told)
        for step in self.steps:
            if step.verdict is None:
                step.settle()
                self._told(step)
        self._add(Step(f"lab machine: {count} checks", [], lambda: (PASSED, []), time.monotonic() - start))

    def _build(self, place, solved, answers=None, werror=True, seed=None):
        tree = stage.generate(self._course, self._lab.number, solved, answers)
        return self._bench.build(tree, place, werror, seed)

    def _documents(self):
        found = documents.complaints(self._course, self._lab)
        return [], lambda: _verdict(found)

    def _merge(self):
        found = self._walker.arrive(self._lab)
        return [], lambda: _verdict(found)

    def _stage(self, place):
        """A lab that is not written yet: its tree builds at least."""
        return [self._build(place, lambda exercise: True)], lambda trial: (PASSED if trial.built.ok else FAILED, [])

    def _skeleton(self, place):
        """The labs before this one are done: what is open is this lab's."""
        trial = self._build(place, lambda exercise: not exercise.startswith(self._prefix))
        if trial.built.ok:
            self._bench.check(trial, self._lab, place)
        return [trial], self._judge_skeleton

    def _judge_skeleton(self, trial):
        records, mine = trial.records(self._lab), {exercise.id for exercise in self._lab.exercises}
        if not trial.built.ok:
            return FAILED, []
        notes = [f"{record['name']}: scores without any work" for record in records if record["score"]]
        notes += [
            f"{record['name']}: the failure names no exercise that is not written: {_short(record)}"
            for record in records
            if not record["score"] and record.get("unwritten") not in mine
        ]
        return _missed(records) or _verdict(notes)

    def _walk(self, place):
        trials, wrong = [], []
        for exercise in self._lab.exercises:
            wrong += self._walker.solve(self._lab, exercise)
            trial = self._bench.build(self._walker.tree(self._lab), place, seed=self._seed)
            trials.append(trial)
            if not trial.built.ok:
                break
            self._bench.check(trial, self._lab, place, self._due(exercise))
        return trials, lambda *trials: self._judge_walk(trials, wrong)

    def _due(self, exercise):
        """The names of the checks that are worth their time when EXERCISE has just been solved: a boot of Linux
        for what comes later is not."""
        known = [each.id for each in self._lab.exercises]
        later = known[known.index(exercise.id) + 1 :]
        return [check.name for check in self._lab.checks if check.exercise not in later or places.is_here(check)]

    def _judge_walk(self, trials, notes):
        before, passed = 0, set()
        notes = list(notes)
        for exercise, trial in zip(self._lab.exercises, trials, strict=False):
            records = trial.records(self._lab)
            if missed := _missed(records):
                return missed[0], [f"with {exercise.id}: {note}" for note in missed[1]]
            good = {record["name"] for record in records if record["score"]}
            own = {check.name for check in self._lab.checks if check.exercise == exercise.id}
            score = sum(record["score"] for record in records)
            if score <= before or own - good or passed - good or not trial.built.ok:
                failing = ", ".join(sorted((own | passed) - good))
                notes.append(f"with {exercise.id} the score is {score} after {before}; {failing or 'none'} fail")
            before, passed = score, good
        if before < self._lab.points() and not notes:
            notes.append(f"with all exercises the score is {before}")
        return _verdict(notes)

    def _reference(self, place):
        trials = [self._build(place, lambda exercise: True, seed=self._seed)]
        self._builds = trials[0].built.ok  # or no mutant does, and there would be as many complaints about that
        if self._builds:
            for _ in range(RUNS - 1):
                trials.append(type(trials[0])(trials[0].built, grader.new_seed()))
            for trial in trials:
                self._bench.check(trial, self._lab, place)
        return trials, self._judge_reference

    def _judge_reference(self, *trials):
        bad = [(trial, record) for trial in trials for record in trial.records(self._lab) if record["verdict"] != PASSED]
        if not trials[0].built.ok:
            return FAILED, []
        return grader.verdict_of([record for _, record in bad]), [f"seed {trial.seed}: {_short(record)}" for trial, record in bad]

    def _earlier(self, place):
        """What `lab grade` does for an earlier lab: the answers from here, in that lab's tree. As a rule it is the
        reference of that lab, which has its own proof; otherwise its checks run."""
        mine, trials, notes = stage.generate(self._course, self._lab.number, lambda exercise: True), [], []
        for lab in self._course.upto(self._lab.number - 1):
            taken = {name: mine[name][0] for name in self._course.editable(lab.number)}
            taken, lost = grader.at_earlier_lab(self._course, lab.number, self._lab.number, taken)
            notes += [f"lab {lab.number}: {name}: {why}" for name, why in lost.items()]
            tree = stage.generate(self._course, lab.number, lambda exercise: True)
            if all(tree[name][0] == data for name, data in taken.items()):
                continue
            tree.update({name: (data, False) for name, data in taken.items()})
            trial = self._bench.build(tree, place, seed=self._seed)
            trials.append(trial)
            if trial.built.ok:
                self._bench.check(trial, lab, place)
        return trials, lambda *trials: self._judge_earlier(trials, notes)

    def _judge_earlier(self, trials, notes):
        records = [record for trial in trials for record in trial.by_name.values() if record["verdict"] != PASSED]
        notes = [*notes, *(_short(record) for record in records)]
        return _verdict(notes + ["does not build"] * (not all(trial.built.ok for trial in trials)))

    # --- mutants ---

    def _mutants(self):
        def told(mutant, answer):
            trial, seconds, complaint = answer
            trials = [self._bench.keep(trial)] if trial else []
            judge = (lambda trial: self._judge_mutant(trial)) if trial else (lambda: (FAILED, [complaint]))
            self._add(Step(f"mutant {mutant.exercise} {mutant.name}", trials, judge, seconds))

        parallel.each(self._mutant, self._lab.mutants(), self._jobs, told)

    def _mutant(self, number, mutant):
        """(trial, seconds, complaint) of a mutant, in a process of its own; each process has its directory."""
        start = time.monotonic()
        try:
            answer = documents.wrong_answer(self._course, self._lab, mutant)
        except CourseError as error:
            return None, time.monotonic() - start, str(error)
        with grader.build_directory(self._course, f"verify {self._lab.number}" + f" {number}" * bool(number)) as place:
            trial = self._build(place, lambda each: True, {mutant.exercise: answer}, False, self._seed)
            if trial.built.ok:
                self._bench.check(trial, self._lab, place, mutant.caught_by)
                self._try_again(trial, place)
        return trial, time.monotonic() - start, ""

    def _try_again(self, trial, place):
        """With other seeds, what a check on this host let through."""
        lucky = [name for name, record in trial.by_name.items() if record["verdict"] == PASSED]
        for name in lucky if self._seed is None else []:
            others = [type(trial)(trial.built, grader.new_seed()) for _ in range(MORE)]
            for other in others:
                self._bench.check(other, self._lab, place, [name])
            caught = [other.by_name[name] for other in others if other.by_name[name]["verdict"] == FAILED]
            if len(caught) == MORE:
                trial.by_name[name] = {**caught[0], "lucky": trial.seed}

    def _judge_mutant(self, trial):
        if not trial.built.ok:
            return FAILED, ["does not compile, so it is no plausible answer: " + trial.built.first_error()]
        missed = _missed(trial.records(self._lab))
        if missed and missed[0] == CANNOT_RUN:
            return missed
        notes = [
            f"{record['name']} did not catch it: {record['verdict']} {record.get('why', '')}"
            for record in trial.records(self._lab)
            if record["verdict"] != FAILED
        ]
        lucky = [
            f"{record['name']} lets it through with the seed {record['lucky']}, and catches it with {MORE} others"
            for record in trial.records(self._lab)
            if "lucky" in record
        ]
        return _verdict(notes)[0], notes + lucky
