"""handout.py: for lecturers: the course without its solutions, and grading many submissions at once.

A handout is an archive of the course as far as lab N: the course tool, the labs, and the sources of their
stages with every reference taken out. It has no history, and nothing of later labs.
"""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import grader
import stage
import writers
from course import CourseError

ARCHIVE_MAX = 64 << 20  # bytes that a submission may unpack to
MEMBERS_MAX = 5000
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


# --- submissions -------------------------------------------------------------------------------------


class BadSubmission(Exception):
    """Why it cannot be graded, for its owner."""


def _members(path):
    """(name, size, a function that reads it) of the plain files in an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and info.external_attr >> 28 in (0, 8):
                    yield info.filename, info.file_size, lambda info=info: archive.open(info)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for info in archive:
                if info.isfile():
                    yield info.name, info.size, lambda info=info: archive.extractfile(info)
    else:
        raise BadSubmission("is no directory, no tar and no zip archive")


def unpack(path, names, directory):
    """Takes the files called NAMES, however deep in the archive they lie, and the handouts' names (which
    say what lab it is); everything else in it is left alone. Returns the highest lab."""
    total, count, lab = 0, 0, 0
    for name, size, opened in _members(path):
        count += 1
        if count > MEMBERS_MAX:
            raise BadSubmission(f"has more than {MEMBERS_MAX} files")
        if found := re.search(r"(?:^|/)labs/(\d\d)-[a-z0-9-]+/README\.md$", name):
            lab = max(lab, int(found[1]))
        wanted = next((each for each in names if name == each or name.endswith("/" + each)), None)
        if wanted is None:
            continue
        total += size
        if total > ARCHIVE_MAX or size > grader.SOURCE_MAX:
            raise BadSubmission(f"{wanted} is too large")
        target = os.path.join(directory, wanted)
        if os.path.exists(target):
            raise BadSubmission(f"has {wanted} twice")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with opened() as source, open(target, "wb") as file:
            file.write(source.read(grader.SOURCE_MAX))
    return lab


def _lab_of_directory(path):
    labs = os.path.join(path, "labs")
    names = os.listdir(labs) if os.path.isdir(labs) else []
    return max((int(name[:2]) for name in names if re.match(r"\d\d-", name)), default=0)


def grade_one(course, path, lab, seed):
    """Grades one submission, in a process of its own when there are many."""
    names = course.editable(max(course.labs))
    with tempfile.TemporaryDirectory(prefix="lab-submission-", ignore_cleanup_errors=True) as directory:
        if os.path.isdir(path):
            found, place = _lab_of_directory(path), path
        else:
            found, place = unpack(path, names, directory), directory
        number = lab or found
        if number not in course.labs:
            raise BadSubmission("does not say which lab it is (no labs/NN-topic/README.md in it): use --lab N")
        return grader.grade(course, number, place, seed, keep=False)


def _one_process(course, path, options, seed, out):
    """grade_one() in a new interpreter: many threads may wait for it, and it can be ended."""
    report = os.path.join(out, _label(path) + ".json")
    argv = [sys.executable, os.path.join(course.root, "labs/lab"), "grade", "--submission", path, "--json", report,
            "--seed", seed, *(["--lab", str(options.lab)] if options.lab else [])]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, report, (done.stderr + done.stdout).strip()


def _label(path):
    name = os.path.basename(os.path.normpath(path))
    return re.sub(r"(\.tar)?\.(gz|xz|bz2|zst|tgz|tar|zip)$", "", name)


def _single(course, options, screen):
    seed = options.seed or grader.new_seed()
    try:
        result = grade_one(course, options.submission[0], options.lab, seed)
    except (BadSubmission, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        screen.line(f"{options.submission[0]} {error}")
        return grader.EXIT[grader.FAILED]
    for record in result["checks"]:
        screen.check(record)
    screen.summary(result)
    for name in writers.WRITERS:
        if getattr(options, name):
            writers.write(name, getattr(options, name), result)
    return grader.EXIT[result["verdict"]]


def batch(course, options, screen):
    """Grades submissions, --jobs at a time; with --out a JSON file for each, and scores.csv."""
    if len(options.submission) == 1 and not options.out:
        return _single(course, options, screen)
    if not options.out:
        raise CourseError("many submissions need --out DIR for their results")
    labels = [_label(path) for path in options.submission]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise CourseError(f"two submissions are called {', '.join(sorted(twice))}; rename one")
    os.makedirs(options.out, exist_ok=True)
    rows, worst = [], 0
    seed = options.seed or grader.new_seed()
    with ThreadPoolExecutor(max_workers=max(1, options.jobs)) as pool:
        paths = [os.path.abspath(path) for path in options.submission]
        ends = pool.map(lambda path: _one_process(course, path, options, seed, options.out), paths)
        for count, (path, (status, report, said)) in enumerate(zip(paths, ends, strict=True), 1):
            row = _row(_label(path), status, report, said)
            rows.append(row)
            worst = max(worst, status)
            screen.line(f"{count:3}/{len(paths)} {row['submission'][:30]:30} {row['score']:>4} {row['verdict']}")
    _write_csv(os.path.join(options.out, "scores.csv"), rows)
    screen.line(f"{options.out}/scores.csv: {len(rows)} submissions, seed {seed}")
    return worst if worst in grader.EXIT.values() else grader.EXIT[grader.ERROR]


def _row(label, status, report, said):
    head = {"submission": label, "lab": "", "score": 0, "max": "", "verdict": grader.FAILED, "seconds": "", "note": ""}
    try:
        result = writers.json.loads(open(report, encoding="utf-8").read())
    except (OSError, ValueError):
        last = said.splitlines()[-1] if said else ""
        verdict = grader.FAILED if status == grader.EXIT[grader.FAILED] else grader.ERROR
        return {**head, "verdict": verdict, "note": last[:200]}
    broken = "" if result["build"]["ok"] else "does not compile"
    return {**head, **{key: result[key] for key in ("lab", "score", "max", "verdict", "seconds")}, "note": broken}


def _write_csv(path, rows):
    """Labels come from file names: none may look like a formula to a spreadsheet."""
    temporary = path + ".new"
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            safe = "'" + row["submission"] if row["submission"][:1] in "=+-@" else row["submission"]
            writer.writerow({**row, "submission": safe})
    shutil.move(temporary, path)
