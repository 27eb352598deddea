"""test_workspace.py: a learner's git repository: it goes on, and no work is lost."""

import os
import re
import subprocess
import unittest
from unittest import mock

import minicourse
from minicourse import CourseCase

import workspace
from course import Course, CourseError

ADD = "src/base/add.c"


class WorkspaceCase(CourseCase):
    def setUp(self):
        super().setUp()
        quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": self.scratch}
        before = {name: os.environ.get(name) for name in quiet}
        os.environ.update(quiet)
        self.addCleanup(self._restore, before)
        self.path = os.path.join(self.scratch, "mine")
        self.space = workspace.start(self.course, self.path)
        self.git("config", "user.name", "L")
        self.git("config", "user.email", "l@example.org")

    def _restore(self, before):
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

    def git(self, *args):
        return subprocess.run(["git", "-C", self.path, *args], check=True, capture_output=True, text=True).stdout.strip()

    def edit(self, old, new, name=ADD, commit=True):
        self.change(self.path, name, old, new)
        if commit:
            self.git("commit", "-q", "-a", "-m", "mine")

    def refuses(self, function, *args):
        with self.assertRaises(workspace.WorkspaceError) as caught:
            function(*args)
        return str(caught.exception)


class Start(WorkspaceCase):
    def test_it_is_a_clean_repository_at_lab_1(self):
        self.assertEqual(self.space.number(), 1)
        self.assertEqual(self.git("status", "--porcelain"), "")
        self.assertEqual(self.git("branch", "--format=%(refname:short)").split(), ["course", "main"])
        self.assertIn('todo("1.1")', self.get(self.path, ADD))
        self.assertTrue(os.access(os.path.join(self.path, "lab"), os.X_OK))

    def test_a_directory_with_something_in_it_is_left_alone(self):
        self.put(self.scratch, "full/file", "mine")
        self.assertIn("not empty", self.refuses(workspace.start, self.course, os.path.join(self.scratch, "full")))
        self.assertEqual(os.listdir(os.path.join(self.scratch, "full")), ["file"])

    def test_not_inside_the_course(self):
        self.refuses(workspace.start, self.course, os.path.join(self.root, "mine"))

    def test_it_is_found_from_below_and_nothing_else_is(self):
        self.assertEqual(workspace.find(self.course, os.path.join(self.path, "src")).root, os.path.realpath(self.path))
        self.assertIn("lab start", self.refuses(workspace.find, self.course, self.scratch))


class Next(WorkspaceCase):
    def test_own_work_stays(self):
        self.edit('return todo("1.2");', "return 2 * a;")
        self.space.next()
        self.assertEqual(self.space.number(), 2)
        self.assertIn("return 2 * a;", self.get(self.path, ADD))
        self.assertTrue(os.path.exists(os.path.join(self.path, "src/base/half.c")))
        self.assertIn("half(value)", self.get(self.path, "src/cli/main.c"))
        self.assertEqual(self.git("status", "--porcelain"), "")

    def test_without_a_name_of_ones_own_too(self):
        self.git("config", "--unset", "user.name")
        self.git("config", "--unset", "user.email")
        self.space.next()
        self.assertEqual(self.space.number(), 2)

    def test_the_last_lab_has_no_next(self):
        self.space.next()
        with self.assertRaises(CourseError):
            self.space.next()
        self.assertEqual(self.space.number(), 2)

    def test_edits_that_are_not_committed_wait(self):
        self.edit('return todo("1.2");', "return 2 * a;", commit=False)
        self.assertIn("not committed", self.refuses(self.space.next))
        self.assertEqual(self.space.number(), 1)
        self.assertIn("return 2 * a;", self.get(self.path, ADD))

    def test_a_conflict_is_explained_and_can_be_undone_or_mended(self):
        self.edit('printf("%d\\n", twice(value));\n', 'printf("%d!\\n", twice(value));\n', "src/cli/main.c")
        message = self.refuses(self.space.next)
        self.assertIn("src/cli/main.c", message)
        self.assertIn("git merge --abort", message)
        self.assertIn("not finished", self.refuses(self.space.next))
        self.git("merge", "--abort")
        self.assertEqual(self.space.number(), 1)
        self.assertIn('"%d!', self.get(self.path, "src/cli/main.c"))
        self.refuses(self.space.next)
        self.git("checkout", "--theirs", "src/cli/main.c")
        self.git("commit", "-q", "-a", "-m", "mended")
        self.assertEqual(self.space.number(), 2)

    def test_a_file_of_ones_own_in_the_way_stays(self):
        self.put(self.path, "src/base/half.c", "mine")
        self.assertIn("half.c", self.refuses(self.space.next))
        self.assertEqual(self.get(self.path, "src/base/half.c"), "mine")
        self.assertEqual(self.space.number(), 1)

    def test_a_deleted_file_is_explained(self):
        self.git("rm", "-q", ADD)
        self.git("commit", "-q", "-m", "gone")
        self.space.next()
        self.assertIn("git checkout", self.refuses(self.space.text, ADD))

    def test_a_lost_branch_is_explained(self):
        self.git("branch", "-D", "course")
        self.assertIn("course", self.refuses(self.space.number))

    def test_a_mended_course_comes_along(self):
        self.change(self.root, "src/base/base.h", "int todo(const char *name);",
                    "/* prints */\nint todo(const char *name);")  # fmt: skip
        self.space.next()
        self.assertIn("/* prints */", self.get(self.path, "src/base/base.h"))

    def test_course_holds_generated_trees_only(self):
        self.edit('return todo("1.2");', "return 2 * a;")
        self.space.next()
        self.assertNotIn("return 2 * a;", self.git("show", f"course:{ADD}"))
        self.assertEqual(len(self.git("log", "--format=%h", "course").split()), 2)


BEFORE = """
int half(int a)
{
    /* EXERCISE 2.2: half, rounded up. */
    // SOLUTION 2.2
    return (a + 1) / 2;
    // BEFORE
    // return a / 2;
    // END 2.2
}
"""


class Given(WorkspaceCase):
    """Text that is given in lab 1 and becomes an exercise in lab 2."""

    def setUp(self):
        before = minicourse.FILES
        files = {**before, "src/base/round.c": '#include "base/base.h"\n' + BEFORE.replace("half", "rounded")}
        files["labs/01-one/lab.toml"] = before["labs/01-one/lab.toml"].replace('"src/base/a*.c"', '"src/base/a*.c", "src/base/round.c"')
        files["labs/02-two/lab.toml"] = before["labs/02-two/lab.toml"].replace("[[check]]", (
            '[[exercise]]\nid = "2.2"\ntitle = "rounded"\nfile = "src/base/round.c"\nlines = 1\n[[check]]'), 1)  # fmt: skip
        with mock.patch.object(minicourse, "FILES", files):
            super().setUp()

    def test_what_was_given_becomes_an_exercise(self):
        self.assertIn("return a / 2;", self.get(self.path, "src/base/round.c"))
        self.assertNotIn("EXERCISE", self.get(self.path, "src/base/round.c"))
        self.space.next()
        text = self.get(self.path, "src/base/round.c")
        self.assertIn("EXERCISE 2.2", text)
        self.assertIn('todo("2.2")', text)

    def test_own_changes_to_it_are_a_conflict_that_can_be_finished(self):
        self.edit("return a / 2;", "return a >> 1;", "src/base/round.c")
        message = self.refuses(self.space.next)
        self.assertIn("src/base/round.c", message)
        self.assertIn("git add", message)
        text = self.get(self.path, "src/base/round.c")
        self.assertIn("return a >> 1;", text)
        mended = re.sub(r"<<<<<<<[^\n]*\n(.*?)=======\n(.*?)>>>>>>>[^\n]*\n", r"\2", text, flags=re.S)
        self.put(self.path, "src/base/round.c", mended.replace('return todo("2.2");', "return a >> 1;"))
        self.git("add", "src/base/round.c")
        self.git("commit", "-q", "-m", "mended")
        self.assertEqual(self.space.number(), 2)
        self.assertEqual(self.space.written(2) & {"2.2"}, {"2.2"})
        self.assertEqual(self.git("status", "--porcelain"), "")

    def test_catching_up_takes_the_reference_of_earlier_labs_only(self):
        self.assertEqual(self.space.catch_up(2), ["1.1", "1.2"])
        self.assertIn('todo("2.2")', self.get(self.path, "src/base/round.c"))


class CatchUp(WorkspaceCase):
    def test_what_is_not_written_is_taken_and_what_is_stays(self):
        self.edit('return todo("1.2");', "return a + a;")
        self.assertEqual(self.space.catch_up(2), ["1.1"])
        text = self.get(self.path, ADD)
        self.assertIn("sum = a + b", text)
        self.assertIn("return a + a;", text)
        self.assertIn('todo("2.1")', self.get(self.path, "src/base/half.c"))
        self.assertEqual(self.git("status", "--porcelain"), "")

    def test_all_takes_everything_and_git_has_the_rest(self):
        self.edit('return todo("1.2");', "return a + a;")
        self.assertEqual(self.space.catch_up(2, everything=True), ["1.1", "1.2"])
        self.assertIn("return 2 * a;", self.get(self.path, ADD))
        self.assertIn("return a + a;", self.git("log", "-p", "--all", "--", ADD))

    def test_not_backwards_and_not_to_nowhere(self):
        self.space.next()
        self.assertIn("later than", self.refuses(self.space.catch_up, 1))
        with self.assertRaises(CourseError):
            self.space.catch_up(9)


class Reset(WorkspaceCase):
    def test_one_exercise_goes_back_and_git_keeps_the_answer(self):
        self.edit('return todo("1.2");', "return 2 * a;", commit=False)
        self.edit('return todo("1.1");', "return a + b;", commit=False)
        kept = self.space.reset(self.course.lab(1).exercise("1.1"))
        self.assertIn('todo("1.1")', self.get(self.path, ADD))
        self.assertIn("return 2 * a;", self.get(self.path, ADD))
        self.assertIn("return a + b;", self.git("cat-file", "-p", kept))

    def test_without_its_comment_it_says_so_and_changes_nothing(self):
        self.edit("EXERCISE 1.1", "exercise", commit=False)
        before = self.get(self.path, ADD)
        self.assertIn("1.1", self.refuses(self.space.reset, self.course.lab(1).exercise("1.1")))
        self.assertEqual(self.get(self.path, ADD), before)


class Progress(WorkspaceCase):
    def test_it_is_derived_from_the_files(self):
        self.assertEqual(self.space.written(1), set())
        self.edit('return todo("1.2");', "return 2 * a;", commit=False)
        self.assertEqual(self.space.written(1), {"1.2"})
        os.unlink(os.path.join(self.path, ADD))
        self.assertEqual(self.space.written(1), set())

    def test_a_result_counts_for_the_files_that_it_was_made_of(self):
        self.space.keep_result(1, {"score": 5})
        self.assertEqual(self.space.known_result(1), {"score": 5})
        self.edit('return todo("1.2");', "return 2 * a;", commit=False)
        self.assertIsNone(self.space.known_result(1))
        self.assertEqual(self.git("status", "--porcelain", "--untracked-files=all"), "M " + ADD)

    def test_hints_are_counted(self):
        self.assertEqual([self.space.hint_count("1.1", more) for more in (0, 1, 1, 0)], [0, 1, 2, 2])
        self.assertEqual(self.space.hint_count("1.2"), 0)


class Hints(CourseCase):
    def test_hints_are_read(self):
        self.assertEqual(Course(self.root).lab(1).hints(), {"1.1": ["One.", "Two,\nlonger.", "Three."], "1.2": ["A.", "B.", "C."]})


if __name__ == "__main__":
    unittest.main()
