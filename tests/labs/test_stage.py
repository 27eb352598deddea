"""test_stage.py: the trees that are made from the one source."""

import os
import unittest

from minicourse import CourseCase

import stage
from course import Course, CourseError


def text(tree, name):
    return tree[name][0].decode()


class Tags(unittest.TestCase):
    name = "src/machine/board.c"

    def resolve(self, source, number):
        return stage.resolve_tags(source, number, self.name)

    def test_a_line_appears_with_its_lab(self):
        source = "a\nb(); // lab 05\nc\n"
        self.assertEqual(self.resolve(source, 4), "a\nc\n")
        self.assertEqual(self.resolve(source, 5), "a\nb();\nc\n")

    def test_a_block_appears_with_its_lab_without_its_tags(self):
        source = "a\n// lab 05 {\nb\n// }\nc\n"
        self.assertEqual(self.resolve(source, 4), "a\nc\n")
        self.assertEqual(self.resolve(source, 6), "a\nb\nc\n")

    def test_makefiles_have_their_own_comments(self):
        self.assertEqual(self.resolve("x := 1 # lab 02\ny\n", 1), "y\n")

    def test_a_file_without_tags_stays_as_it_is(self):
        self.assertEqual(self.resolve("a\r\nlab 05\n\n", 1), "a\r\nlab 05\n\n")

    def test_a_tag_elsewhere_is_refused(self):
        with self.assertRaisesRegex(CourseError, "mem.c:2"):
            stage.resolve_tags("a\nb // lab 02\n", 1, "src/mem/mem.c")

    def test_a_block_that_does_not_end_is_refused(self):
        with self.assertRaisesRegex(CourseError, "does not end"):
            self.resolve("// lab 05 {\na\n", 5)


class Exercises(unittest.TestCase):
    def resolve(self, source, solved=False, answers=None):
        return stage.resolve_exercises(source, "x.c", lambda exercise: solved, answers or {})

    source = "{\n\t// SOLUTION 1.4\n\ta\n\t// ELSE\n\t// b\n\t//\n\t//   c\n\t// END 1.4\n}\n"

    def test_open_has_the_else_text(self):
        self.assertEqual(self.resolve(self.source), "{\n\tb\n\n\t  c\n}\n")

    def test_solved_has_the_reference(self):
        self.assertEqual(self.resolve(self.source, solved=True), "{\n\ta\n}\n")

    def test_without_else_there_is_todo(self):
        self.assertEqual(self.resolve("    // SOLUTION 1.4\n    a\n    // END 1.4\n"), '    return todo("1.4");\n')

    def test_an_answer_takes_the_place(self):
        self.assertEqual(self.resolve(self.source, answers={"1.4": "\tz"}), "{\n\tz\n}\n")

    def test_what_does_not_fit_is_refused(self):
        for wrong in ("// SOLUTION 1.4\n", "// END 1.4\n// SOLUTION 1.4\n", "// SOLUTION 1.4\n// END 1.5\n",
                      "// SOLUTION 1.4\n// SOLUTION 1.5\n// END 1.4\n", "// SOLUTION 1.4\n// ELSE\nx\n// END 1.4\n"):  # fmt: skip
            with self.subTest(wrong), self.assertRaises(CourseError):
                self.resolve(wrong + "// SOLUTION 1.9\n// END 1.9\n")


class Given(unittest.TestCase):
    """An exercise of a later lab is code like any other."""

    source = "{\n    /* EXERCISE 2.1: what\n     * and how. */\n    // SOLUTION 2.1\n    a\n    // END 2.1\n}\n"

    def given(self, source, number=1):
        return stage.at_lab(source, number, "x.c")

    def test_its_reference_is_there_without_its_comment(self):
        self.assertEqual(self.given(self.source), "{\n    a\n}\n")

    def test_something_simpler_may_be_there_before(self):
        simple = self.source.replace("    // END", "    // BEFORE\n    // b\n    // END")
        self.assertEqual(self.given(simple), "{\n    b\n}\n")
        self.assertEqual(stage.resolve_exercises(simple, "x.c", lambda exercise: True, {}), self.source.replace(
            "    // SOLUTION 2.1\n", "").replace("    // END 2.1\n", ""))  # fmt: skip

    def test_nothing_may_be_there_before(self):
        self.assertEqual(self.given(self.source.replace("    // END", "    // BEFORE\n    // END")), "{\n}\n")

    def test_from_its_lab_on_its_marks_stay(self):
        self.assertEqual(self.given(self.source, 2), self.source)

    def test_a_comment_elsewhere_is_refused(self):
        for wrong in (self.source.replace("EXERCISE 2.1", "EXERCISE 2.2"), self.source.replace("*/\n", "*/\n    c\n")):
            with self.subTest(wrong), self.assertRaisesRegex(CourseError, "right before"):
                self.given(wrong)


class Trees(CourseCase):
    def test_a_stage_has_the_files_of_its_labs(self):
        one, two = stage.generate(self.course, 1), stage.generate(self.course, 2)
        self.assertNotIn("src/base/half.c", one)
        self.assertIn("src/base/half.c", two)
        self.assertIn("labs/01-one/README.md", one)
        self.assertNotIn("labs/01-one/checks.py", two)
        self.assertFalse([name for name in two if name.startswith("solutions")])

    def test_tags_and_exercises_are_resolved(self):
        one, two = stage.generate(self.course, 1), stage.generate(self.course, 2, lambda exercise: True)
        self.assertNotIn("half(value)", text(one, "src/cli/main.c"))
        self.assertIn('return todo("1.1");', text(one, "src/base/add.c"))
        self.assertNotIn("sum = a + b", text(one, "src/base/add.c"))
        self.assertIn("half(value)", text(two, "src/cli/main.c"))
        self.assertIn("sum = a + b", text(two, "src/base/add.c"))
        for tree in (one, two):
            for data, _ in tree.values():
                for mark in (b"SOLUTION", b"// ELSE", b"// END", b"// lab 0", b"# lab 0"):
                    self.assertNotIn(mark, data)

    def test_an_open_earlier_exercise_stays_open(self):
        self.assertIn('todo("1.1")', text(stage.generate(self.course, 2), "src/base/add.c"))

    def test_a_glob_without_files_is_refused(self):
        self.change(self.root, "labs/02-two/lab.toml", "half.c\"]", "half.c\", \"src/none/*.c\"]")
        with self.assertRaisesRegex(CourseError, "src/none"):
            stage.generate(Course(self.root), 2)

    def test_a_lab_that_there_is_not_is_named(self):
        with self.assertRaisesRegex(CourseError, "no lab 9; there are: 1, 2"):
            stage.generate(self.course, 9)

    def test_writing_keeps_what_is_right_and_removes_what_is_not_in_the_tree(self):
        tree = stage.generate(self.course, 1)
        stage.write(tree, self.scratch)
        path = os.path.join(self.scratch, "src/base/add.c")
        before = os.stat(path).st_mtime_ns
        self.put(self.scratch, "src/base/old.c", "old")
        self.put(self.scratch, "build/kept.o", "kept")
        self.put(self.scratch, "Makefile", "changed")
        os.symlink("/etc/hostname", os.path.join(self.scratch, "src/link"))
        stage.write(tree, self.scratch)
        self.assertEqual(os.stat(path).st_mtime_ns, before)
        self.assertFalse(os.path.lexists(os.path.join(self.scratch, "src/base/old.c")))
        self.assertFalse(os.path.lexists(os.path.join(self.scratch, "src/link")))
        self.assertTrue(os.path.exists(os.path.join(self.scratch, "build/kept.o")))
        self.assertEqual(self.get(self.scratch, "Makefile"), text(tree, "Makefile"))


class Transplants(CourseCase):
    def setUp(self):
        super().setUp()
        self.ends = stage.ends(self.course, 1)
        self.given = text(stage.generate(self.course, 1), "src/base/add.c")
        self.solved = text(stage.generate(self.course, 1, lambda exercise: True), "src/base/add.c")

    def test_one_exercise_moves_and_the_rest_stays(self):
        mine = self.given.replace('return todo("1.2");', "return 2 * a; /* mine */")
        moved = stage.transplant(mine, "1.1", self.solved, self.ends["1.1"])
        self.assertIn("sum = a + b", moved)
        self.assertIn("/* mine */", moved)
        self.assertEqual(stage.transplant(moved, "1.1", self.given, self.ends["1.1"]), mine)

    def test_helpers_of_the_learners_go_with_it(self):
        mine = self.given.replace('return todo("1.1");', "return help(a, b);\n}\n\nint help(int a, int b)\n{\n    return a + b;")
        self.assertEqual(stage.transplant(mine, "1.1", self.given, self.ends["1.1"]), self.given)

    def test_an_exercise_of_whole_functions_moves(self):
        source = "a;\n/* EXERCISE 1.1: all. */\n// SOLUTION 1.1\nint f(void)\n{\n}\n\nint g(void)\n{\n}\n// ELSE\n// int g(void)\n// {\n// }\n// END 1.1\n\nint h;\n"
        self.put(self.root, "src/base/add.c", source)
        given, solved = (stage.resolve_exercises(source, "x", lambda exercise, done=done: done, {}) for done in (0, 1))
        end = stage.ends(self.course, 1)["1.1"]
        self.assertEqual(end, ["int h;"])
        self.assertEqual(stage.transplant(given, "1.1", solved, end), solved)
        self.assertEqual(stage.transplant(solved, "1.1", given, end), given)

    def test_without_its_comment_or_its_end_it_is_not_found(self):
        for old in ("EXERCISE 1.1", "int twice"):
            self.assertIsNone(stage.transplant(self.given.replace(old, "other"), "1.1", self.given, self.ends["1.1"]))


if __name__ == "__main__":
    unittest.main()
