"""stage.py: the tree of a lab, made from the one source (DESIGN.md, "One source, a tree per lab").

    files      the union of [stage].files of labs 1 to N
    tags       a line that ends in `// lab 05`, or a block from `// lab 05 {` to `// }`, is there from lab 05
               on (`# lab 05` in makefiles); the tags themselves go
    exercises  between `// SOLUTION 1.4` and `// END 1.4`; open ones get the ELSE text, solved ones the
               reference. The comment EXERCISE 1.4, right before them, stays.
    given      an exercise of a later lab than N is code like any other: its BEFORE text, something simpler that
               will do until then, or else the reference; without the comment

By default every exercise of labs 1 to N is open: that is what a learner's `course` branch holds, and git
keeps their answers to earlier ones when it is merged.
"""

import fnmatch
import glob
import os
import re

from course import CourseError

# The only files that may grow from lab to lab. Whoever wants to add one: can a file be split instead?
TAGGED = ("src/machine/*", "include/hv/machine/*", "src/cli/*", "include/hv/boot/boot.h", "src/boot/boot.c",
          "src/boot/boot_priv.h", "src/acpi/dsdt.asl", "include/hv/acpi/fixed.h", "Makefile", "guest/guest.mk")  # fmt: skip

_TAG = re.compile(r"[ \t]*(?://|#) lab (\d\d)( \{)?[ \t]*$")
_TAGS = re.compile(_TAG.pattern, re.M)
_TAG_END = re.compile(r"[ \t]*(?://|#) \}[ \t]*$")
_MARK = re.compile(r"([ \t]*)// (SOLUTION|ELSE|BEFORE|END)(?: (\d+\.\d+))?[ \t]*$")
_IMAGE = re.compile(r"\]\(([^)#:]+\.(?:svg|png))\)")

GITIGNORE = "build/\n"
LAB_SCRIPT = """#!/bin/sh
# lab: the course tool, for this workspace. `./lab` says what is next.
course=$(git -C "$(dirname -- "$0")" config lab.course) || course=
if [ ! -x "$course/labs/lab" ]; then
	echo "lab: the course is not at '$course' (any more): git config lab.course DIRECTORY" >&2
	exit 2
fi
exec "$course/labs/lab" "$@"
"""


def _lines(text):
    return text.removesuffix("\n").split("\n")


def resolve_tags(text, number, name, keep=False):
    """TEXT as it is at lab NUMBER; with KEEP the tags of what is there stay, for whoever makes earlier
    stages of it."""
    out, block = [], None  # block: (line number, is it there) of the open one
    if not _TAGS.search(text):
        return text
    for count, line in enumerate(_lines(text), 1):
        tag = _TAG.search(line)
        if tag and not any(fnmatch.fnmatch(name, pattern) for pattern in TAGGED):
            raise CourseError(f"{name}:{count}: a lab tag, in a file that may have none (labs/tool/stage.py)")
        opens, closes = tag and tag[2], block and _TAG_END.match(line)
        if opens and (block or line[: tag.start()].strip()):
            raise CourseError(f"{name}:{count}: a block of a lab begins on a line of its own, in no other block")
        there = int(tag[1]) <= number if tag else True
        if there and (block is None or block[1]):
            if keep:
                out.append(line)
            elif not (opens or closes):
                out.append(line[: tag.start()] if tag else line)
        if opens:
            block = (count, there)
        elif closes:
            block = None
    if block:
        raise CourseError(f"{name}:{block[0]}: this block does not end")
    return _close_gaps("\n".join(out)) + "\n"


def _close_gaps(text):
    """TEXT without the blank lines that stood around what is gone."""
    return re.sub(r"\{\n\n+", "{\n", re.sub(r"\n{3,}", "\n\n", text)).rstrip("\n")


class _Region:
    """What is marked as an exercise; otherwise and before are None where there is no ELSE, no BEFORE."""

    def __init__(self, exercise, indent):
        self.exercise, self.indent = exercise, indent
        self.solution, self.otherwise, self.before = [], None, None
        self.source = []  # all of it, with its marks

    @property
    def last(self):
        """The list that grows."""
        return next(lines for lines in (self.before, self.otherwise, self.solution) if lines is not None)


def parts(text, name):
    """The lines of TEXT, with a _Region for each exercise's."""
    region = None
    for count, line in enumerate(_lines(text), 1):
        mark = _MARK.match(line)
        if region is not None:
            region.source.append(line)
        if not mark:
            if region is None:
                yield line
            else:
                region.last.append(line)
        elif mark[2] == "SOLUTION" and region is None and mark[3]:
            region = _Region(mark[3], mark[1])
            region.source.append(line)
        elif mark[2] == "ELSE" and region and region.last is region.solution:
            region.otherwise = []
        elif mark[2] == "BEFORE" and region and region.before is None:
            region.before = []
        elif mark[2] == "END" and region and mark[3] == region.exercise:
            yield region
            region = None
        else:
            raise CourseError(f"{name}:{count}: {line.strip()} does not fit what is before it")
    if region:
        raise CourseError(f"{name}: SOLUTION {region.exercise} does not end")


def _uncomment(lines, exercise, name):
    """The code that LINES of comments hold."""
    out = []
    for line in lines:
        match = re.match(r"([ \t]*)//(?: (.*))?$", line)
        if not match:
            raise CourseError(f"{name}: ELSE or BEFORE of {exercise}: a line that is no comment: {line}")
        out.append((match[1] + (match[2] or "")).rstrip())
    return out


def _open_text(region, name):
    if region.otherwise is None:
        return [f'{region.indent}return todo("{region.exercise}");']
    return _uncomment(region.otherwise, region.exercise, name)


def _given_text(region, name):
    return region.solution if region.before is None else _uncomment(region.before, region.exercise, name)


def references(text, name):
    """{exercise: reference answer} of a source file."""
    return {part.exercise: "\n".join(part.solution) for part in parts(text, name) if isinstance(part, _Region)}


def _without_comment(lines, exercise, name):
    """LINES without the comment EXERCISE that ends them."""
    for start in range(len(lines) - 1, -1, -1):
        if re.match(rf"[ \t]*/\* EXERCISE {re.escape(exercise)}\b", lines[start]):
            return lines[:start]
        if lines[start].rstrip().endswith("*/") and start != len(lines) - 1:
            break
    raise CourseError(f"{name}: the comment EXERCISE {exercise} does not stand right before its SOLUTION")


def _given(text, name, number):
    """TEXT with the exercises of labs after NUMBER as code like any other."""
    if "// SOLUTION " not in text:
        return text
    out = []
    for part in parts(text, name):
        if not isinstance(part, _Region):
            out.append(part)
        elif int(part.exercise.partition(".")[0]) > number:
            out = _without_comment(out, part.exercise, name) + _given_text(part, name)
        else:
            out += part.source
    return _close_gaps("\n".join(out)) + "\n"


def at_lab(text, number, name, keep=False):
    """TEXT as it is at lab NUMBER, with the marks of the exercises that there are then; KEEP as above."""
    return _given(resolve_tags(text, number, name, keep), name, number)


def resolve_exercises(text, name, solved, answers):
    """TEXT with each exercise open, or with its reference if SOLVED says so; ANSWERS {exercise: text} are
    put instead of a reference."""
    if "// SOLUTION " not in text:
        return text
    out = []
    for part in parts(text, name):
        if not isinstance(part, _Region):
            out.append(part)
            continue
        if part.exercise in answers:
            out += answers[part.exercise].split("\n")
        else:
            out += part.solution if solved(part.exercise) else _open_text(part, name)
    return "\n".join(out) + "\n"


def names(course, number):
    """The names of the files of stage NUMBER, sorted."""
    found = set()
    for lab in course.upto(number):
        if not lab.files:
            raise CourseError(f"{lab.name}/lab.toml says not yet which files its stage has")
        for pattern in lab.files:
            paths = [path for path in glob.glob(pattern, root_dir=course.root, recursive=True)
                     if os.path.isfile(os.path.join(course.root, path))]  # fmt: skip
            if not paths:
                raise CourseError(f"{lab.name}/lab.toml: no file is called {pattern}")
            found.update(paths)
    return sorted(found)


def _handout(course, number):
    """The handouts of labs 1 to NUMBER with their figures."""
    for lab in course.upto(number):
        name = f"labs/{lab.name}/README.md"
        path = os.path.join(course.root, name)
        if not os.path.exists(path):
            continue
        yield name
        with open(path, encoding="utf-8") as file:
            for image in _IMAGE.findall(file.read()):
                figure = os.path.normpath(os.path.join("labs", lab.name, image))
                if not figure.startswith("..") and os.path.exists(os.path.join(course.root, figure)):
                    yield figure


def generate(course, number, solved=lambda exercise: False, answers=None):
    """{name: (bytes, executable)} of the tree at lab NUMBER."""
    tree = {".gitignore": (GITIGNORE.encode(), False), "lab": (LAB_SCRIPT.encode(), True)}
    for name in names(course, number):
        path = os.path.join(course.root, name)
        with open(path, "rb") as file:
            data = file.read()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None:
            text = at_lab(text, number, name)
            data = resolve_exercises(text, name, solved, answers or {}).encode()
        tree[name] = (data, os.access(path, os.X_OK))
    for name in _handout(course, number):
        with open(os.path.join(course.root, name), "rb") as file:
            tree[name] = (file.read(), False)
    return tree


def is_file_with(path, data):
    """Is PATH a plain file that holds DATA?"""
    try:
        with open(path, "rb") as file:
            return not os.path.islink(path) and file.read() == data
    except OSError:
        return False


def write(tree, directory):
    """Makes DIRECTORY hold TREE and, below build/, what was there. Files that are right already stay as
    they are, so that make does little."""
    os.makedirs(directory, exist_ok=True)
    for base, directories, files in os.walk(directory):
        if base == directory:
            directories[:] = [each for each in directories if each not in ("build", ".git")]
        for each in files:
            path = os.path.join(base, each)
            if os.path.relpath(path, directory) not in tree:
                os.unlink(path)
    for name, (data, executable) in tree.items():
        path = os.path.join(directory, name)
        if is_file_with(path, data):
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o755 if executable else 0o644)


# --- an exercise in a file, a learner's or ours ------------------------------------------------------
#
# It begins with its comment, and ends before the lines that follow it in the source: no mark in a learner's
# file says so, and helper functions above it or inside it do no harm.

FOLLOWING = 3  # lines that say where an exercise ends


def _following(items):
    """The first lines with something in them, as far as they belong to no other exercise."""
    lines = []
    for item in items:
        if not isinstance(item, str) or "/* EXERCISE " in item or len(lines) == FOLLOWING:
            break
        if item.strip():
            lines.append(item.rstrip())
    return lines


def ends(course, number):
    """{exercise: the lines that follow it} at lab NUMBER."""
    found = {}
    for name in course.editable(number):
        with open(os.path.join(course.root, name), encoding="utf-8") as file:
            items = list(parts(at_lab(file.read(), number, name), name))
        for count, item in enumerate(items):
            if isinstance(item, _Region):
                found[item.exercise] = _following(items[count + 1 :])
    return found


def comment(text, exercise):
    """Where the exercise's comment begins in TEXT; None if it is gone."""
    start = re.search(rf"^[ \t]*/\* EXERCISE {re.escape(exercise)}\b", text, re.M)
    return start.start() if start else None


def span(text, exercise, end):
    """(start, end) of an exercise in TEXT, END being the lines that follow it; None if it is not found."""
    start = comment(text, exercise)
    if start is None:
        return None
    if not end:
        return start, len(text)
    after = re.compile("^" + r"(?:[ \t]*\n)+".join(map(re.escape, end)) + "[ \t]*$", re.M).search(text, start)
    return (start, after.start()) if after else None


def exercise_text(text, exercise, end):
    place = span(text, exercise, end)
    return text[place[0] : place[1]] if place else None


def transplant(text, exercise, source, end):
    """TEXT with this exercise as SOURCE, another version of the file, has it; None if either lacks it."""
    place, other = span(text, exercise, end), exercise_text(source, exercise, end)
    return text[: place[0]] + other + text[place[1] :] if place and other is not None else None
