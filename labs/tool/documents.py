"""documents.py: do the texts of a lab agree with its lab.toml, its markers in the source, and each other?

Each function yields complaints. solution.patch is made here, from the two trees.
"""

import difflib
import os
import re

import stage
from course import HOSTILE, CourseError

WORDS = (900, 2500)
SLIDES = (15, 25)
HINTS = 3
MUTANTS = 4  # for each exercise


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def anchor(heading):
    """The anchor that the usual web views give a heading."""
    return "#" + re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def patch(course, lab):
    """From the lab's skeleton, the labs before it done, to its reference."""
    prefix = f"{lab.number}."
    before = stage.generate(course, lab.number, solved=lambda exercise: not exercise.startswith(prefix))
    after = stage.generate(course, lab.number, solved=lambda exercise: True)
    out = []
    for name in sorted(after):
        if before[name] != after[name]:
            old, new = (tree[name][0].decode().splitlines(keepends=True) for tree in (before, after))
            out += difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(out)


def points(course, lab):
    if lab.points() != 100:
        yield f"lab.toml: the checks give {lab.points()} points, not 100"
    hostile = sum(check.points for check in lab.checks if check.exercise == HOSTILE)
    if not 15 <= hostile <= 35:
        yield f"lab.toml: {hostile} points for the hostile guest, not 15 to 35"
    for exercise in lab.exercises:
        if all(check.exercise != exercise.id for check in lab.checks):
            yield f"lab.toml: no check is for exercise {exercise.id}"


def markers(course, lab):
    """Every exercise has its marker and its comment in its file, and no other has."""
    known = {exercise.id: exercise.file for exercise in lab.exercises}
    for name in stage.names(course, lab.number):
        text = _read(os.path.join(course.root, name)) or ""
        found = stage.references(text, name) if "// SOLUTION " in text else {}
        for exercise in found:
            if exercise.startswith(f"{lab.number}.") and known.pop(exercise, None) != name:
                yield f"{name}: lab.toml does not say that exercise {exercise} is here"
            elif stage.comment(text, exercise) is None:
                yield f"{name}: no comment EXERCISE {exercise}"
    for exercise, name in known.items():
        yield f"{name}: no SOLUTION {exercise} in it, or the file is not in this stage"


def includes(course, lab):
    """What a file of this stage includes of ours is in this stage."""
    tree = stage.generate(course, lab.number)
    for name in tree:
        text = tree[name][0].decode(errors="replace") if name.endswith((".c", ".h", ".S")) else ""
        for header in re.findall(r'^#include "([^"]+)"', text, re.M):
            places = [base + header for base in ("include/", "src/", "tests/", os.path.dirname(name) + "/")]
            ours = [place for place in places if os.path.exists(os.path.join(course.root, place))]
            if ours and not tree.keys() & set(ours):
                yield f"{name}: includes {ours[0]}, which is not in the [stage] of this lab"


def hints(course, lab):
    found = lab.hints()
    for exercise in lab.exercises:
        if len(found.get(exercise.id, [])) != HINTS:
            yield f"hints.md: {len(found.get(exercise.id, []))} hints for {exercise.id}, not {HINTS}"
    for exercise in found.keys() - {exercise.id for exercise in lab.exercises}:
        yield f"hints.md: {exercise} is no exercise"


def handout(course, lab):
    text = _read(os.path.join(lab.dir, "README.md"))
    if text is None:
        yield "README.md: not there"
        return
    words = len(re.findall(r"\w[\w'’-]*", re.sub(r"```.*?```", "", text, flags=re.S)))
    if not WORDS[0] <= words <= WORDS[1]:
        yield f"README.md: {words} words, not {WORDS[0]} to {WORDS[1]}"
    anchors = {anchor(heading) for heading in re.findall(r"^#+ +(.+)$", text, re.M)}
    for check in lab.checks:
        if check.section not in anchors:
            yield f"lab.toml: check {check.name}: README.md has no heading {check.section}"
        if f"`{check.name}`" not in text:
            yield f"README.md: does not name the check `{check.name}`"
    for exercise in lab.exercises:
        if exercise.id not in text or exercise.file not in text:
            yield f"README.md: does not name exercise {exercise.id} and {exercise.file}"
    for link in re.findall(r"\]\(([^)#:\s]+)\)", text):
        if not os.path.exists(os.path.join(lab.dir, link)):
            yield f"README.md: {link} does not exist"


def slides(course, lab):
    name = f"slides/{lab.name}.md"
    text = _read(os.path.join(course.root, name))
    if text is None:
        yield f"{name}: not there"
        return
    body = re.sub(r"\A---\n.*?\n---\n", "", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.S)
    count = len(re.findall(r"^---$", body, re.M)) + 1
    if not SLIDES[0] <= count <= SLIDES[1]:
        yield f"{name}: {count} slides, not {SLIDES[0]} to {SLIDES[1]}"
    for link in re.findall(r"\]\(([^)#:\s]+)\)", text):
        if not os.path.exists(os.path.join(course.root, "slides", link)):
            yield f"{name}: {link} does not exist"


def solution(course, lab):
    if _read(os.path.join(lab.solution_dir, "README.md")) is None:
        yield f"solutions/{lab.name}/README.md: not there"
    if _read(os.path.join(lab.solution_dir, "solution.patch")) != patch(course, lab):
        yield f"solutions/{lab.name}/solution.patch is not what the sources say; `lab patch {lab.number}` writes it"


def wrong_answer(course, lab, mutant):
    """The text of an exercise with MUTANT's mistake in it. CourseError: there is no place for that."""
    exercise = lab.exercise(mutant.exercise)
    if exercise is None:
        raise CourseError("no such exercise")
    text = stage.at_lab(_read(os.path.join(course.root, exercise.file)) or "", lab.number, exercise.file)
    reference = stage.references(text, exercise.file).get(mutant.exercise, "")
    if reference.count(mutant.find) != 1:
        raise CourseError(f"`find` occurs {reference.count(mutant.find)} times in the reference, not once")
    return reference.replace(mutant.find, mutant.replace)


def mutants(course, lab):
    checks = {check.name: check for check in lab.checks}
    seen = set()
    for mutant in lab.mutants():
        label = f"mutants.toml: {mutant.exercise} {mutant.name}"
        try:
            wrong_answer(course, lab, mutant)
        except CourseError as error:
            yield f"{label}: {error}"
        if not mutant.caught_by or any(name not in checks for name in mutant.caught_by):
            yield f"{label}: caught_by names no check, or one that there is not"
        if mutant.name in seen:
            yield f"{label}: a second one of this name"
        seen.add(mutant.name)
    few = lab.few_mutants()
    for exercise in lab.exercises:
        count = sum(mutant.exercise == exercise.id for mutant in lab.mutants())
        if count < MUTANTS and not few.get(exercise.id):
            yield f"mutants.toml: {count} mutants for {exercise.id}, not {MUTANTS}; or say why in a table [few]"
    for exercise in few.keys() - {exercise.id for exercise in lab.exercises}:
        yield f"mutants.toml: [few] names {exercise}, which is no exercise"


ALL = (points, markers, includes, hints, handout, slides, solution, mutants)


TOUR = (handout, slides)  # of a lab that builds nothing


def complaints(course, lab):
    return [complaint for look in (ALL if lab.files else TOUR) for complaint in look(course, lab)]
