"""course.py: the course as its files describe it: labs/NN-topic/lab.toml, hints.md, mutants.toml.

A mistake in one of these is a CourseError, which names the file. Nothing is kept: whoever wants the
course reads it.
"""

import os
import re
import tomllib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOSTILE = "hostile"
TIERS = ("unit", "kvm", "full")


class CourseError(Exception):
    """The course's own files are wrong."""


class Entry:
    """A table of lab.toml as an object: entry.title for entry["title"]."""

    def __init__(self, where, table, required, optional=()):
        missing, unknown = set(required) - table.keys(), table.keys() - set(required) - set(optional)
        if missing or unknown:
            raise CourseError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        self.__dict__.update(dict.fromkeys(optional), **table)


def _read(path):
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CourseError(f"{path}: {error}") from error


class Lab:
    """One lab. checks and exercises in the order of the file; files and libs: what its stage adds."""

    def __init__(self, root, directory):
        self.dir = os.path.join(root, "labs", directory)
        self.name = directory
        path = os.path.join(self.dir, "lab.toml")
        data = _read(path)
        head = Entry(path, data.get("lab", {}), ("number", "topic", "title", "goal", "hours"))
        self.number, self.title, self.goal, self.hours = head.number, head.title, head.goal, head.hours
        if directory != f"{head.number:02}-{head.topic}":
            raise CourseError(f"{path}: number and topic do not make {directory}")
        stage = Entry(path, data.get("stage", {}), (), ("files", "libs"))
        self.files, self.libs = stage.files or [], stage.libs or []
        self.exercises = [Entry(path, each, ("id", "title", "file", "lines")) for each in data.get("exercise", [])]
        self.checks = [
            Entry(path, each, ("name", "exercise", "points", "tier", "title", "section", "limit"))
            for each in data.get("check", [])
        ]
        self.solution_dir = os.path.join(root, "solutions", directory)
        self._judge(path)

    def _judge(self, path):
        known = {each.id for each in self.exercises} | {HOSTILE}
        names = [each.name for each in self.checks]
        for check in self.checks:
            if check.exercise not in known or check.tier not in TIERS:
                raise CourseError(f"{path}: check {check.name}: no such exercise or tier")
        for exercise in self.exercises:
            if exercise.id.partition(".")[0] != str(self.number):
                raise CourseError(f"{path}: exercise {exercise.id} belongs to another lab")
        if len(set(names)) != len(names) or len(known) != len(self.exercises) + 1:
            raise CourseError(f"{path}: a name occurs twice")

    def ready(self):
        """Can it be done yet? Otherwise it has no more than a stage."""
        return bool(self.exercises and self.checks)

    def points(self):
        return sum(check.points for check in self.checks)

    def exercise(self, exercise_id):
        return next((each for each in self.exercises if each.id == exercise_id), None)

    def check(self, name):
        return next((each for each in self.checks if each.name == name), None)

    def hints(self):
        """{exercise: [hint, …]} of hints.md: `## 1.4`, then paragraphs that begin with `1.`, `2.`, `3.`"""
        try:
            with open(os.path.join(self.dir, "hints.md"), encoding="utf-8") as file:
                text = file.read()
        except OSError:
            return {}
        found = {}
        for part in re.split(r"^## +", text, flags=re.M)[1:]:
            match = re.match(r"(?:Exercise +)?(\d+\.\d+)[^\n]*\n(.*)", part, re.S)
            if match:
                found[match[1]] = [hint.strip() for hint in re.split(r"^\d\. +", match[2], flags=re.M)[1:]]
        return found

    def _mutants_file(self):
        path = os.path.join(self.solution_dir, "mutants.toml")
        return path, _read(path) if os.path.exists(path) else {}

    def few_mutants(self):
        """{exercise: why there are not four different mistakes}, the table [few] of mutants.toml."""
        return self._mutants_file()[1].get("few", {})

    def mutants(self):
        path, data = self._mutants_file()
        tables = data.get("mutant", [])
        return [Entry(path, each, ("exercise", "name", "caught_by", "why", "find", "replace")) for each in tables]


class Course:
    """All labs that there are, by number."""

    def __init__(self, root=ROOT):
        self.root = root
        base = os.path.join(root, "labs")
        names = sorted(name for name in os.listdir(base) if re.fullmatch(r"\d\d-[a-z0-9-]+", name))
        labs = [Lab(root, name) for name in names if os.path.exists(os.path.join(base, name, "lab.toml"))]
        self.labs = {lab.number: lab for lab in labs}

    def lab(self, number):
        if number not in self.labs:
            there = ", ".join(map(str, sorted(self.labs))) or "none"
            raise CourseError(f"there is no lab {number}; there are: {there}")
        return self.labs[number]

    def upto(self, number):
        """The labs 1 to NUMBER, which must all be there."""
        self.lab(number)
        return [self.lab(each) for each in range(1, number + 1)]

    def exercises(self, number):
        """[(lab, exercise)] of labs 1 to NUMBER."""
        return [(lab, exercise) for lab in self.upto(number) for exercise in lab.exercises]

    def editable(self, number):
        """The files that a learner at lab NUMBER may edit, and that grading takes from them."""
        return list(dict.fromkeys(exercise.file for _, exercise in self.exercises(number)))
