"""handout.py: for lecturers: the course without its solutions.

A handout is an archive of the course as far as lab N: the course tool, the labs, and the sources of their
stages with every reference taken out. It has no history, and nothing of later labs.
"""

import io
import os
import tarfile

import stage

# what the lab machine is made of
MACHINE = ("tests/labvm", "tests/setup/deps", "guest/linux/fetch", "guest/linux/newc.py", "guest/linux/parts.py")


# --- the bundle --------------------------------------------------------------------------------------


def without_answers(text, name, appears=1):
    """TEXT with nothing between SOLUTION and ELSE. What an open tree gets stays as it was, and so does a reference
    that is given in earlier labs: the file APPEARS with that lab."""
    out = []
    for part in stage.parts(text, name):
        if isinstance(part, str):
            out.append(part)
        elif part.before is None and int(part.exercise.partition(".")[0]) > appears:
            out += part.source
        else:
            out += [part.source[0], *part.source[len(part.solution) + 1 :]]
    return "\n".join(out) + "\n"


def _is_text(data):
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def files(course, number):
    """{name: (bytes, executable)} of the bundle."""
    bundle = {}
    appears = {name: lab.number for lab in reversed(course.upto(number)) for name in stage.names(course, lab.number)}
    for name in stage.names(course, number):
        path = os.path.join(course.root, name)
        with open(path, "rb") as file:
            data = file.read()
        if _is_text(data):
            text = stage.at_lab(data.decode(), number, name, keep=True)
            data = (without_answers(text, name, appears[name]) if "// SOLUTION " in text else text).encode()
        bundle[name] = (data, os.access(path, os.X_OK))
    wanted = ["labs/lab", "labs/tool", "labs/README.md", "labs/00-tour", "slides/figures", "LICENSE", *MACHINE]
    for start in wanted + [f"labs/{lab.name}" for lab in course.upto(number)]:
        for name in _below(course.root, start):
            path = os.path.join(course.root, name)
            with open(path, "rb") as file:
                bundle[name] = (file.read(), os.access(path, os.X_OK))
    return bundle


def _below(root, start):
    if os.path.isfile(os.path.join(root, start)):
        yield start
    for base, directories, names in os.walk(os.path.join(root, start)):
        directories[:] = [each for each in directories if each != "__pycache__"]
        yield from (os.path.relpath(os.path.join(base, name), root) for name in names)


def write(course, number, path):
    """Writes the bundle as a .tar.gz; returns how many files it has."""
    bundle = files(course, number)
    with tarfile.open(path, "w:gz") as archive:
        for name in sorted(bundle):
            data, executable = bundle[name]
            member = tarfile.TarInfo(f"hvlab/{name}")
            member.size, member.mode = len(data), 0o755 if executable else 0o644
            archive.addfile(member, io.BytesIO(data))
    return len(bundle)
