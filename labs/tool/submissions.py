"""submissions.py: for lecturers: grades what learners handed in: archives, or directories.

Each is built here, which runs nothing of theirs, and checked in a lab machine of its own, which is thrown away
(--here: in this host's sandbox, which is what learners have, and faster). A bad submission costs itself its
points and nothing else.
"""

import csv
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
import machine
import places
import writers
from course import CourseError

ARCHIVE_MAX = 64 << 20  # bytes that a submission may unpack to
MEMBERS_MAX = 5000
MACHINE, HERE = "lab machine", "this host"


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


def grade_one(course, path, lab, seed, where, note):
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
        is_here = places.is_here if where == HERE else lambda check: False
        result = grader.grade(course, number, place, seed, note=note, keep=False, at=max(found, number), is_here=is_here)
        return {**result, "where": where}


def _where(course, options, screen):
    """Where the checks run; says so if it is not what was asked for."""
    missing = "" if options.here or places.inside() else machine.missing(course)
    if missing:
        screen.wrapped(f"no lab machine ({missing}): the submissions run in this host's sandbox.")
    return HERE if options.here or places.inside() or missing else MACHINE


def _one_process(course, path, options, seed, out, where):
    """grade_one() in a new interpreter: many threads may wait for it, and it can be ended."""
    report = os.path.join(out, _label(path) + ".json")
    argv = [sys.executable, os.path.join(course.root, "labs/lab"), "grade", "--submission", path, "--json", report,
            "--seed", seed, *(["--lab", str(options.lab)] if options.lab else []),
            *(["--here"] if where == HERE else [])]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, report, (done.stderr + done.stdout).strip()


def _label(path):
    name = os.path.basename(os.path.normpath(path))
    return re.sub(r"(\.tar)?\.(gz|xz|bz2|zst|tgz|tar|zip)$", "", name)


def _single(course, options, screen):
    seed = options.seed or grader.new_seed()
    try:
        result = grade_one(course, options.submission[0], options.lab, seed, _where(course, options, screen), screen.note)
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
    seed, where = options.seed or grader.new_seed(), _where(course, options, screen)
    paths = [os.path.abspath(path) for path in options.submission]
    pool = ThreadPoolExecutor(max_workers=max(1, options.jobs))
    try:
        ends = pool.map(lambda path: _one_process(course, path, options, seed, options.out, where), paths)
        for count, (path, (status, report, said)) in enumerate(zip(paths, ends, strict=True), 1):
            row = _row(_label(path), status, report, said)
            rows.append(row)
            worst = max(worst, status)
            screen.line(f"{count:3}/{len(paths)} {row['submission'][:30]:30} {row['score']:>4} {row['verdict']}")
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C ends those that run, too
    _write_csv(os.path.join(options.out, "scores.csv"), rows)
    screen.line(f"{options.out}/scores.csv: {len(rows)} submissions, seed {seed}")
    return worst if worst in grader.EXIT.values() else grader.EXIT[grader.ERROR]


def _row(label, status, report, said):
    head = {"submission": label, "lab": "", "score": 0, "max": "", "verdict": grader.FAILED, "seconds": "", "where": "",
            "note": ""}  # fmt: skip
    try:
        result = writers.json.loads(open(report, encoding="utf-8").read())
    except (OSError, ValueError):
        last = said.splitlines()[-1] if said else ""
        verdict = grader.FAILED if status == grader.EXIT[grader.FAILED] else grader.ERROR
        return {**head, "verdict": verdict, "note": last[:200]}
    broken = "" if result["build"]["ok"] else "does not compile"
    return {**head, **{key: result[key] for key in ("lab", "score", "max", "verdict", "seconds", "where")}, "note": broken}


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
