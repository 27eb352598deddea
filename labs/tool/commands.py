"""commands.py: the commands of `lab`. Each takes the course, the options and a Screen, returns an exit status.

    0  done; everything passed      3  something could not run here
    1  something failed             4  a mistake of the grader or of the course
    2  usage, or a workspace that needs a hand first
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time

import doctor
import documents
import grader
import handout
import stage
import submissions
import trials
import verify
import walk
import workspace
import writers
from course import Course, CourseError
from show import Screen, plain

USAGE = 2
WATCH_SECONDS = 0.4


class Usage(Exception):
    """What is wrong with the command line."""


def _lab_and_exercise(text):
    """"2" or "2.3" as (2, None) or (2, "2.3")."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?", text)
    if not match:
        raise Usage(f"{text!r} is no lab and no exercise: write 2 or 2.3")
    return int(match[1]), f"{int(match[1])}.{int(match[2])}" if match[2] else None


def _exercise(course, text, upto=None):
    """(lab, exercise) called TEXT, of lab UPTO at most."""
    number, name = _lab_and_exercise(text)
    if upto is not None and number > upto:
        raise Usage(f"exercise {text} is of a later lab; you are at lab {upto}")
    lab = course.lab(number)
    exercise = lab.exercise(name)
    if exercise is None:
        raise Usage(f"lab {number} has the exercises {', '.join(each.id for each in lab.exercises)}; not {text}")
    return lab, exercise


# --- for us ---


def tree(course, options, screen):
    if os.path.lexists(options.dir) and (not os.path.isdir(options.dir) or os.listdir(options.dir)):
        raise Usage(f"{options.dir} exists and is not empty")
    if options.solved:
        solved = lambda exercise: True  # noqa: E731
    elif options.only:
        solved = lambda exercise: not exercise.startswith(f"{options.number}.")  # noqa: E731
    else:
        solved = lambda exercise: False  # noqa: E731
    made = stage.generate(course, options.number, solved)
    stage.write(made, options.dir)
    screen.line(f"{len(made)} files of lab {options.number} in {options.dir}")
    return 0


def verify_labs(course, options, screen):
    numbers = [options.number] if options.number is not None else sorted(course.labs)
    labs = [course.lab(number) for number in numbers]
    bench, walker, totals, records = trials.Bench(course), walk.Walker(course), [], []
    try:
        for lab in labs:
            screen.line(screen.paint(f"lab {lab.name}", "bold"))
            start = time.monotonic()
            verifier = verify.Verifier(course, lab, bench, walker, screen.step, options.seed, options.jobs)
            steps = verifier.run(screen.passing)
            totals.append(_total(lab, verifier, time.monotonic() - start))
            screen.line(_total_line(*totals[-1]))
            records += [{"name": f"{lab.name} {step.name}", "verdict": step.verdict, "seconds": round(step.seconds, 2),
                         "detail": "\n".join(step.notes)} for step in steps]  # fmt: skip
    finally:
        bench.close()
        walker.close()
    if len(totals) > 1:
        screen.line(screen.paint("all labs", "bold"))
        for total in totals:
            screen.line(_total_line(*total))
        sums = [sum(numbers) for numbers in list(zip(*totals, strict=True))[1:4]]
        screen.line(_total_line("in all", *sums, grader.verdict_of([{"verdict": total[4]} for total in totals])))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(records, file, indent=1)
    return grader.EXIT[grader.verdict_of([{"verdict": total[4]} for total in totals])]


def _total(lab, verifier, seconds):
    """(lab, mutants, caught ones, seconds, verdict)."""
    mutants = [step for step in verifier.steps if step.name.startswith("mutant ")]
    caught = sum(step.verdict == grader.PASSED for step in mutants)
    return lab.name if lab.ready() or not lab.files else f"{lab.name}, its stage", len(mutants), caught, seconds, verifier.verdict()


def _total_line(name, mutants, caught, seconds, verdict):
    rate = f"{100 * caught / mutants:5.1f} %" if mutants else "      -"
    return f"{name:27} {caught:3} of {mutants:3} mutants caught {rate} {seconds:6.0f} s  {verdict}"


def patch(course, options, screen):
    lab = course.lab(options.number)
    path = os.path.join(lab.solution_dir, "solution.patch")
    text = documents.patch(course, lab)
    os.makedirs(lab.solution_dir, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    screen.line(f"{os.path.relpath(path, course.root)}: {len(text.splitlines())} lines")
    return 0


def solution(course, options, screen):
    lab, exercise = _exercise(course, options.exercise)
    with open(os.path.join(course.root, exercise.file), encoding="utf-8") as file:
        text = stage.at_lab(file.read(), lab.number, exercise.file)
    answer = stage.references(text, exercise.file).get(exercise.id)
    if not answer:
        raise Usage("this course tree has no solutions: ask whoever gave it to you")
    screen.line(answer)
    return 0


# --- for lecturers ---


def make_handout(course, options, screen):
    match = re.fullmatch(r"(?:1-)?(\d+)", options.labs)
    if not match:
        raise Usage("--labs 1-4: the labs from the first on; later ones need the earlier")
    count = handout.write(course, int(match[1]), options.out)
    screen.line(f"{options.out}: {count} files, labs 1 to {match[1]}, no solutions")
    return 0


# --- for learners: the workspace ---


def start(course, options, screen):
    space = workspace.start(course, options.dir)
    screen.line(f"{options.dir} is your workspace, a git repository. Next:\n")
    screen.line(f"  cd {options.dir}")
    screen.line(f"  less labs/{course.lab(1).name}/README.md     what lab 1 is about")
    screen.line("  ./lab grade                          what works and what does not yet")
    screen.line("  ./lab hint                           when you are stuck")
    return 0 if space else USAGE


def _follows(course, number):
    """Is there a lab after NUMBER that can be done?"""
    return number + 1 in course.labs and course.lab(number + 1).ready()


def next_lab(course, options, screen):
    space = workspace.find(course)
    number = space.number()
    if not _follows(course, number):
        screen.line(f"lab {number} is the last one that there is so far.")
        return 0
    result = space.known_result(number)
    lab = space.next()
    if result and result["score"] < result["max"]:
        screen.line(f"lab {number} stands at {result['score']}/{result['max']}; `lab grade {number}` still works.")
    screen.line(f"lab {lab.number}: {lab.title}. {lab.goal}")
    screen.line(f"Read labs/{lab.name}/README.md.")
    return 0


def catch_up(course, options, screen):
    for lab in course.upto(options.number):
        if not lab.ready():
            raise Usage(f"lab {lab.number} is not written yet")
    taken = workspace.find(course).catch_up(options.number, options.all)
    screen.line(f"you are at lab {options.number}; reference taken for: {', '.join(taken) or 'nothing'}")
    return 0


def reset(course, options, screen):
    space = workspace.find(course)
    _, exercise = _exercise(course, options.exercise, space.number())
    before = space.reset(exercise)
    screen.line(f"{exercise.file}: {exercise.id} is as it was given.")
    screen.line(f"`git cat-file -p {before}` is the file with your answer.")
    return 0


def status(course, options, screen):
    space = workspace.find(course)
    number = space.number()
    total = sum(len(lab.exercises) for lab in course.labs.values())
    written = space.written(number)
    screen.line(f"course {screen.bar(len(written), total)} {len(written)} of {total} exercises written\n")
    for lab in course.upto(number):
        result = space.known_result(lab.number)
        score = f"{result['score']}/{result['max']}" if result else "not graded as it is now"
        screen.line(f"{screen.paint(f'lab {lab.number}: {lab.title}', 'bold')}  {score}")
        if lab.number == number:
            _exercise_lines(lab, result, written, screen)
    screen.line(f"\nnext: {_next_step(course, space, written)}")
    return 0


def _exercise_lines(lab, result, written, screen):
    for exercise in lab.exercises:
        verdicts = {record["verdict"] for record in (result or {}).get("checks", ()) if record["exercise"] == exercise.id}
        if verdicts == {grader.PASSED}:
            word, style = "ok", "good"
        elif exercise.id not in written:
            word, style = "open", "dim"
        else:
            word, style = ("FAIL", "bad") if grader.FAILED in verdicts else ("?", "warn")
        screen.line(f"  {screen.paint(f'{word:4}', style)} {exercise.id} {exercise.title:42} {exercise.file}"[: 200])


def _next_step(course, space, written):
    number = space.number()
    result, lab = space.known_result(number), course.lab(number)
    if result and result["score"] == result["max"]:
        return "`lab next`" if _follows(course, number) else "nothing: this was the last lab that there is"
    if result:
        record = next(record for record in result["checks"] if record["verdict"] != grader.PASSED)
        return f"{record['exercise']}, {record['title']}; `lab hint` helps"
    waiting = [exercise for exercise in lab.exercises if exercise.id not in written]
    return f"write {waiting[0].id} in {waiting[0].file}; `lab grade`" if waiting else "`lab grade`"


# --- for learners: grading ---


def _grade_here(course, space, number, exercise, seed, told, screen):
    screen.passing("building…")
    result = grader.grade(course, number, space.root, seed, exercise, told, screen.note, at=space.number())
    screen.clear()
    if exercise is None:
        space.keep_result(number, result)
    return result


def grade(course, options, screen):
    if options.submission:
        return submissions.batch(course, options, screen)
    space = workspace.find(course)
    here = space.number()
    number, exercise = _lab_and_exercise(options.what) if options.what else (here, None)
    if number == 0:
        screen.line("the tour has nothing to grade; `lab doctor` says whether everything is there.")
        return 0
    if number > here:
        raise Usage(f"you are at lab {here}; `lab next` goes on")
    if exercise:
        _exercise(course, exercise)
    seed = options.seed or grader.new_seed()
    result = _grade_here(course, space, number, exercise, seed, screen.check, screen)
    screen.summary(result)
    for name, path in ((name, getattr(options, name)) for name in writers.WRITERS):
        if path:
            writers.write(name, path, result)
    return grader.EXIT[result["verdict"]]


def _stamps(space, number):
    stamps = {}
    for name in space.course.editable(number):
        try:
            stamps[name] = os.stat(space.path(name)).st_mtime_ns
        except OSError:
            stamps[name] = None
    return stamps


def _changed_exercise(course, space, number, before):
    """The only exercise of lab NUMBER whose text changed since BEFORE, or None; and the texts now."""
    now, ends = {}, stage.ends(course, number)
    for exercise in course.lab(number).exercises:
        try:
            now[exercise.id] = stage.exercise_text(space.text(exercise.file), exercise.id, ends[exercise.id])
        except workspace.WorkspaceError:
            now[exercise.id] = None
    changed = [name for name in now if before.get(name) != now[name]]
    return (changed[0] if before and len(changed) == 1 else None), now


def watch(course, options, screen):
    """Grades on every save: what was edited, or everything."""
    space = workspace.find(course)
    number = space.number()
    stamps, texts = None, {}
    try:
        while True:
            current = _stamps(space, number)
            if current == stamps:
                time.sleep(WATCH_SECONDS)
                continue
            stamps = current
            exercise, texts = _changed_exercise(course, space, number, texts)
            screen.line(screen.paint(f"--- {exercise or f'lab {number}'} ---", "dim"))
            screen.summary(_grade_here(course, space, number, exercise, grader.new_seed(), screen.check, screen), more=1)
            screen.line(screen.paint("waiting for a change; Ctrl-C ends", "dim"))
    except KeyboardInterrupt:
        return 0


def hint(course, options, screen):
    space = workspace.find(course)
    number = space.number()
    if options.exercise:
        lab, exercise = _exercise(course, options.exercise, number)
    else:
        lab = course.lab(number)
        known = space.known_result(number)
        result = known or _grade_here(course, space, number, None, grader.new_seed(), lambda record: None, screen)
        failed = [record for record in result["checks"] if record["verdict"] == grader.FAILED]
        if not failed:
            screen.line("nothing fails: there is nothing to hint at.")
            return 0
        exercise = lab.exercise(grader.blamed(failed[0]) or failed[0]["exercise"])
        if exercise is None:
            record = failed[0]
            screen.line(f"{record['title']}: reread {record['section']}")
            return 0
    found = lab.hints().get(exercise.id, [])
    if not found:
        screen.line(f"there are no hints for {exercise.id}")
        return 0
    count = min(space.hint_count(exercise.id) + 1, len(found))
    if count > space.hint_count(exercise.id):
        space.hint_count(exercise.id, 1)
    screen.line(screen.paint(f"{exercise.id} {exercise.title}, hint {count} of {len(found)}", "bold"))
    screen.wrapped(" ".join(plain(found[count - 1]).split()), "  ")
    return 0


def run_doctor(course, options, screen):
    return doctor.report(screen)


# --- the command line ---


def _parser():
    parser = argparse.ArgumentParser(prog="lab", description="the course tool: from nothing to a virtual machine monitor")
    parser.set_defaults(function=status)
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name, function, about, *arguments):
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(function=function)
        for flags, settings in arguments:
            made.add_argument(*flags, **settings)

    def arg(*flags, **settings):
        return flags, settings

    seed = arg("--seed", metavar="S", help="repeat the run that printed this seed")
    command("doctor", run_doctor, "is everything here that the course needs?")
    command("start", start, "make your workspace", arg("dir", metavar="DIR"))
    command("status", status, "where you are and what is next (also without a command)")
    command("grade", grade, "grade your lab, another one, or one exercise",
            arg("what", nargs="?", metavar="N|N.M"), seed,
            *(arg(f"--{name}", metavar="FILE", help=f"write the result as {about}")
              for name, (_, about) in writers.WRITERS.items()),
            arg("--submission", nargs="+", metavar="FILE", help="for lecturers: grade archives or directories"),
            arg("--lab", type=int, metavar="N", help="with --submission: the lab; default: the highest it has"),
            arg("--here", action="store_true", help="with --submission: not in lab machines, but in this host's sandbox"),
            arg("--jobs", type=int, default=1, metavar="N", help="with --submission: so many at a time"),
            arg("--out", metavar="DIR", help="with --submission: where results go"))  # fmt: skip
    command("watch", watch, "grade on every save")
    command("hint", hint, "the next hint", arg("exercise", nargs="?", metavar="N.M"))
    command("reset", reset, "one exercise as it was given", arg("exercise", metavar="N.M"))
    command("next", next_lab, "go on to the next lab")
    command("catch-up", catch_up, "go to lab N with the reference for what you have not written",
            arg("number", type=int, metavar="N"), arg("--all", action="store_true", help="for what you have, too"))  # fmt: skip
    command("solution", solution, "the reference for an exercise", arg("exercise", metavar="N.M"))
    command("handout", make_handout, "for lecturers: the course without its solutions",
            arg("--labs", required=True, metavar="1-N"), arg("--out", required=True, metavar="FILE"))  # fmt: skip
    command("verify", verify_labs, "for authors: prove a lab right",
            arg("number", nargs="?", type=int, metavar="N"), seed,
            arg("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="mutants side by side"),
            arg("--json", metavar="FILE", help="the steps and their verdicts"))  # fmt: skip
    command("tree", tree, "for authors: the tree of a lab, its exercises open",
            arg("number", type=int, metavar="N"), arg("dir", metavar="DIR"),
            arg("--solved", action="store_true", help="with the reference everywhere"),
            arg("--only", action="store_true", help="with the reference in earlier labs"))  # fmt: skip
    command("patch", patch, "for authors: write solutions/NN/solution.patch", arg("number", type=int, metavar="N"))
    return parser


def main(words):
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, _: sys.exit(128 + signum))  # what is below us is ended and removed
    screen, complaint = Screen(), Screen(sys.stderr)
    parser = _parser()
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    options = parser.parse_args(words)
    if shutil.which("git") is None:
        complaint.line("lab: git is missing; install it first")
        return USAGE
    try:
        return options.function(Course(), options, screen)
    except (Usage, workspace.WorkspaceError) as error:
        complaint.wrapped(f"lab: {error}")
        return USAGE
    except CourseError as error:
        complaint.wrapped(f"lab: the course: {error}")
        return grader.EXIT[grader.ERROR]
    except KeyboardInterrupt:
        screen.clear()
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more; the interpreter would complain
        return 1
