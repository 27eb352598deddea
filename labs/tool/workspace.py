"""workspace.py: a learner's workspace: a git repository with two branches.

    course   the generated trees, one commit for each stage, with a trailer `Lab: N`; never edited
    main     (or whatever the learner calls it) their own work, into which course is merged

So git keeps the learner's work, with ordinary tools. Which lab the workspace is at is what was merged last:
no file says so that could be lost. Nothing here throws work away; what cannot go on says why.
"""

import hashlib
import json
import os
import subprocess
import tempfile

import grader
import stage

BRANCH = "course"
RESULTS = "build/lab"


class WorkspaceError(Exception):
    """What is in the way, and what to do about it."""


class _GitFailed(Exception):
    pass


def _git(directory, *args, env=None, stdin=None):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", directory, *args], capture_output=True, text=True, check=False, input=stdin,
        env={**inherited, "LC_ALL": "C.UTF-8", **(env or {})},
    )  # fmt: skip
    if done.returncode != 0:
        raise _GitFailed((done.stderr + done.stdout).strip())
    return done.stdout.strip()


class Workspace:
    def __init__(self, course, root):
        self.course, self.root = course, root

    def git(self, *args, **more):
        return _git(self.root, *args, **more)

    def path(self, name):
        return os.path.join(self.root, name)

    # --- where it is ---

    def number(self):
        """The lab that was merged last."""
        try:
            base = self.git("merge-base", "HEAD", BRANCH)
            return int(self.git("log", "-1", "--format=%(trailers:key=Lab,valueonly)", base))
        except (_GitFailed, ValueError):
            raise WorkspaceError(
                f"the branch `{BRANCH}` of {self.root} is gone, or has nothing in common with yours: it says "
                f"which lab you are at. `git branch {BRANCH} COMMIT` brings it back; `git reflog` may know "
                "the commit, whose message begins with `course: lab`."
            ) from None

    def text(self, name):
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError as error:
            raise WorkspaceError(
                f"{name}: {error.strerror}. `git checkout HEAD -- {name}` brings back your last version, "
                f"`git checkout {BRANCH} -- {name}` the one that the lab began with."
            ) from error

    def written(self, number):
        """The ids of the exercises up to lab NUMBER that the learner has changed; unknown counts as changed,
        a missing file as not."""
        skeleton, ends = stage.generate(self.course, number), stage.ends(self.course, number)
        found = set()
        for _, exercise in self.course.exercises(number):
            given = skeleton[exercise.file][0].decode()
            try:
                mine = self.text(exercise.file)
            except WorkspaceError:
                continue
            texts = [stage.exercise_text(text, exercise.id, ends[exercise.id]) for text in (mine, given)]
            if texts[0] != texts[1]:
                found.add(exercise.id)
        return found

    # --- results of gradings, by what was graded: not a state, but an answer to be had again ---

    def _result_path(self, number):
        taken, missing = grader.collect(self.root, self.course.editable(number))
        digest = hashlib.sha256(repr((number, sorted(taken.items()), sorted(missing))).encode()).hexdigest()
        return self.path(f"{RESULTS}/{digest[:16]}.json")

    def keep_result(self, number, result):
        path = self._result_path(number)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(result, file)
        except OSError:
            pass  # it only saves time

    def known_result(self, number):
        """The result for the files as they are now, or None."""
        try:
            with open(self._result_path(number), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    # --- going on ---

    def _require_quiet(self, what):
        """No merge half done, no edits that are not committed."""
        if os.path.exists(self.git("rev-parse", "--path-format=absolute", "--git-path", "MERGE_HEAD")):
            raise WorkspaceError(
                "a merge is not finished: mend the files that `git status` names, `git add` them, `git commit`; "
                "or `git merge --abort` goes back to before it."
            )
        changed = self.git("status", "--porcelain", "--untracked-files=no")
        if changed:
            names = "\n".join(f"  {line.strip()}" for line in changed.splitlines())
            raise WorkspaceError(
                f"{what} merges into your work, and these edits are not committed yet:\n{names}\n"
                "`git commit -a` keeps them; then try again."
            )

    def _commit_stage(self, number):
        """Puts stage NUMBER on the branch course, without touching the files that the learner sees."""
        tree = stage.generate(self.course, number)
        with tempfile.TemporaryDirectory(prefix="lab-stage-") as directory:
            stage.write(tree, os.path.join(directory, "tree"))
            place = {"GIT_INDEX_FILE": os.path.join(directory, "index"),
                     "GIT_WORK_TREE": os.path.join(directory, "tree"),
                     "GIT_DIR": os.path.join(self.root, self.git("rev-parse", "--git-dir"))}  # fmt: skip
            self.git("add", "-A", "-f", ".", env=place)
            made = self.git("write-tree", env=place)
        tip = self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}")
        if tip and self.git("rev-parse", f"{tip}^{{tree}}") == made and self._number_of(tip) == number:
            return
        lab = self.course.lab(number)
        message = f"course: lab {number:02}, {lab.title}\n\nLab: {number}\n"
        parents = ["-p", tip] if tip else []
        commit = self.git("commit-tree", made, *parents, "-F", "-", stdin=message, env=_identity("hvlab course"))
        self.git("update-ref", f"refs/heads/{BRANCH}", commit)

    def _number_of(self, commit):
        text = self.git("log", "-1", "--format=%(trailers:key=Lab,valueonly)", commit)
        return int(text) if text.isdigit() else 0

    def _author(self):
        try:
            self.git("var", "GIT_AUTHOR_IDENT")
            return {}
        except _GitFailed:
            return _identity("learner")

    def next(self):
        """Merges the next stage; returns its lab."""
        lab = self.course.lab(self.number() + 1)
        self._require_quiet("`lab next`")
        self._commit_stage(lab.number)
        try:
            self.git("merge", "--no-ff", "-m", f"lab {lab.number:02}: {lab.title}", BRANCH, env=self._author())
        except _GitFailed as failure:
            if not self.git("diff", "--name-only", "--diff-filter=U"):
                raise WorkspaceError(f"git would not merge, and nothing has changed:\n{failure}") from failure
            names = self.git("diff", "--name-only", "--diff-filter=U")
            raise WorkspaceError(
                f"you and the course changed the same lines of:\n{names}\nNothing is lost. Mend them (git marks "
                "the places), `git add` them, `git commit`, and you are at the next lab; or `git merge --abort` "
                "goes back."
            ) from failure
        return lab

    def catch_up(self, number, everything=False):
        """Goes to lab NUMBER with the reference in all exercises of earlier labs that the learner has not
        written, or in all; returns the ids of those."""
        lab = self.course.lab(number)
        if number < self.number():
            raise WorkspaceError(f"this workspace is at lab {self.number()}, which is later than lab {number}")
        self._require_quiet("`lab catch-up`")
        while self.number() < lab.number:
            self.next()
        written, ends = self.written(number), stage.ends(self.course, number)
        solved = stage.generate(self.course, number, solved=lambda exercise: True)
        taken, texts = [], {}
        for each, exercise in self.course.exercises(number):
            if each.number == number or exercise.id in written and not everything:
                continue
            mine = texts.get(exercise.file) or self.text(exercise.file)
            new = stage.transplant(mine, exercise.id, solved[exercise.file][0].decode(), ends[exercise.id])
            if new is None:
                raise WorkspaceError(_lost(exercise))
            texts[exercise.file] = new
            taken.append(exercise.id)
        for name, text in texts.items():
            with open(self.path(name), "w", encoding="utf-8") as file:
                file.write(text)
        self.commit(f"Take the reference for {', '.join(taken)}")
        return taken

    def commit(self, message):
        """Commits what has changed in the files that git knows, if anything has."""
        if self.git("status", "--porcelain", "--untracked-files=no"):
            self.git("commit", "-q", "-a", "-m", message, env=self._author())

    def reset(self, exercise):
        """Puts the exercise back as it was given; returns the git object that holds the file as it was."""
        number = self.number()
        skeleton = stage.generate(self.course, number)[exercise.file][0].decode()
        end = stage.ends(self.course, number)[exercise.id]
        new = stage.transplant(self.text(exercise.file), exercise.id, skeleton, end)
        if new is None:
            raise WorkspaceError(_lost(exercise))
        before = self.git("hash-object", "-w", self.path(exercise.file))
        with open(self.path(exercise.file), "w", encoding="utf-8") as file:
            file.write(new)
        return before[:12]

    def hint_count(self, exercise_id, more=0):
        """How many hints of an exercise were shown, MORE added."""
        key = f"lab.{exercise_id}.hints"
        try:
            count = int(self.git("config", key))
        except (_GitFailed, ValueError):
            count = 0
        if more:
            self.git("config", key, str(count + more))
        return count + more


def _lost(exercise):
    return (
        f"{exercise.file}: the comment EXERCISE {exercise.id}, or what follows the exercise, has changed, so that its "
        f"place is not known. `git diff {BRANCH} -- {exercise.file}` shows what you changed."
    )


def _identity(name):
    return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", name), ("EMAIL", "lab@localhost"))}  # fmt: skip


def find(course, directory="."):
    """The workspace that DIRECTORY lies in."""
    try:
        root = _git(directory, "rev-parse", "--show-toplevel")
        _git(root, "config", "lab.course")
    except _GitFailed:
        raise WorkspaceError(
            "this is no workspace of the course: go to yours, or make one with `lab start DIRECTORY`."
        ) from None
    return Workspace(course, root)


def start(course, directory):
    """Makes a workspace at lab 1."""
    root = os.path.abspath(directory)
    if os.path.realpath(root).startswith(os.path.realpath(course.root) + os.sep):
        raise WorkspaceError(f"{directory} lies in the course itself; put your workspace elsewhere")
    if os.path.lexists(root) and (not os.path.isdir(root) or os.listdir(root)):
        raise WorkspaceError(f"{directory} exists and is not empty; nothing was changed")
    os.makedirs(root, exist_ok=True)
    _git(root, "init", "-q", "-b", "main")
    _git(root, "config", "lab.course", course.root)
    space = Workspace(course, root)
    space._commit_stage(1)
    space.git("checkout", "-q", "-B", "main", BRANCH)
    return space
