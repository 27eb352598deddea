"""test_grader.py: what a learner's tree is worth, and what it cannot do to the grader."""

import contextlib
import multiprocessing
import os
import unittest

from minicourse import CourseCase

import drivers
import grader
import stage
from course import Course

ADD = "src/base/add.c"


class GraderCase(CourseCase):
    def setUp(self):
        super().setUp()
        self.space = os.path.join(self.scratch, "space")

    def workspace(self, solved=True, number=1):
        stage.write(stage.generate(self.course, number, lambda exercise: solved), self.space)

    def grade(self, **more):
        return grader.grade(self.course, more.pop("number", 1), self.space, "seed", **more)

    def verdicts(self, result):
        return {record["name"]: record["verdict"] for record in result["checks"]}


class Drivers(GraderCase):
    def test_two_checks_that_need_one_first_do_not_clear_away_each_others(self):
        """Both find that the tree was built anew, at the same moment, again and again."""
        built, lab, rounds = self.scratch + "/built", self.course.lab(1), 150
        self.assertTrue(grader.build(stage.generate(self.course, 1, lambda exercise: True), built).ok)
        archive = os.path.join(built, "build/release/libhv.a")
        together = multiprocessing.Barrier(2)
        lost = multiprocessing.Value("i", 0)

        def check(name):
            for number in range(rounds):
                if name == "a":
                    os.utime(archive, ns=(number, number))
                    for much in range(60):  # clearing away takes its time
                        self.put(built, f"build/{drivers.DIRECTORY}/old/{much}", "")
                together.wait(20)
                path = os.path.join(drivers._place(lab.dir, built), name)
                with contextlib.suppress(OSError), open(path, "w", encoding="utf-8"):
                    pass
                together.wait(20)
                with lost.get_lock():
                    lost.value += not os.path.exists(path)
                together.wait(20)

        others = [multiprocessing.Process(target=check, args=(name,)) for name in "ab"]
        for each in others:
            each.start()
        for each in others:
            each.join()
        self.assertEqual([each.exitcode for each in others], [0, 0])
        self.assertEqual(lost.value, 0, f"programs that were gone, in {rounds} rounds")


class Scores(GraderCase):
    def test_a_skeleton_scores_nothing_and_says_what_is_not_written(self):
        self.workspace(solved=False)
        result = self.grade()
        self.assertEqual((result["score"], result["max"], result["verdict"]), (0, 100, grader.FAILED))
        self.assertEqual([record["unwritten"] for record in result["checks"]], ["1.1", "1.2", "1.1"])

    def test_the_reference_scores_everything_whatever_the_seed(self):
        self.workspace()
        for seed in ("a", "b"):
            result = grader.grade(self.course, 1, self.space, seed)
            self.assertEqual((result["score"], result["verdict"]), (100, grader.PASSED))

    def test_one_exercise_is_graded_alone(self):
        self.workspace()
        result = self.grade(exercise="1.2")
        self.assertEqual(list(self.verdicts(result)), ["doubles"])
        self.assertEqual(result["max"], 30)

    def test_checks_are_told_in_order(self):
        self.workspace()
        told = []
        self.grade(told=lambda record: told.append(record["name"]))
        self.assertEqual(told, ["sums", "doubles", "large"])

    def test_a_failure_has_its_five_parts(self):
        self.workspace()
        self.change(self.space, ADD, "2 * a", "3 * a + 1")
        record = self.grade()["checks"][1]
        self.assertEqual(record["verdict"], grader.FAILED)
        self.assertIn("twice(", record["tried"])
        self.assertTrue(record["expected"] and record["got"] and record["section"] == "labs/01-one/README.md#12-twice")
        self.assertEqual(record["exits"], [])

    def test_an_earlier_lab_is_graded_in_its_own_tree(self):
        self.workspace(number=2)
        self.assertEqual(self.grade(number=1)["score"], 100)
        self.assertEqual(self.grade(number=2)["score"], 100)
        self.put(self.space, ADD, self.get(self.space, ADD) + "\nint later(void);\nint later(void) { return half(1); }\n")
        self.assertEqual(self.grade(number=2)["score"], 100)
        self.assertEqual(self.grade(number=1, at=2)["score"], 100)
        self.change(self.space, ADD, "EXERCISE 1.1", "exercise 1.1")
        self.assertIn("1.1 is not found", self.grade(number=1, at=2)["checks"][0]["got"])


class OtherVerdicts(GraderCase):
    def judged(self, body):
        self.put(self.root, "labs/01-one/checks.py", f"import grading\ndef sums(lab):\n    {body}\ndoubles = large = sums\n")
        self.workspace()
        return self.grade()

    def test_what_cannot_run_scores_nothing_and_is_no_failure(self):
        result = self.judged("raise grading.CannotRun('no such tool')")
        self.assertEqual((result["score"], result["verdict"]), (0, grader.CANNOT_RUN))
        self.assertEqual(result["checks"][0]["why"], "no such tool")

    def test_a_mistake_of_the_check_is_a_grader_error(self):
        result = self.judged("1 / 0")
        self.assertEqual((result["score"], result["verdict"]), (0, grader.ERROR))
        self.assertIn("ZeroDivisionError", result["checks"][0]["why"])

    def test_a_check_that_dies_is_a_grader_error(self):
        self.assertEqual(self.judged("import os; os._exit(0)")["verdict"], grader.ERROR)

    def test_a_driver_that_does_not_compile_is_a_grader_error(self):
        self.put(self.root, "labs/01-one/drivers/twice.c", "broken")
        self.workspace()
        [doubles] = [record for record in self.grade()["checks"] if record["name"] == "doubles"]
        self.assertEqual(doubles["verdict"], grader.ERROR)
        self.assertIn("twice.c does not compile", doubles["why"])
        self.assertIn("error:", doubles["why"])

    def test_the_worst_verdict_decides(self):
        order = [grader.PASSED, grader.FAILED, grader.CANNOT_RUN, grader.ERROR]
        for worst in range(1, 5):
            records = [{"verdict": verdict} for verdict in order[:worst]]
            self.assertEqual(grader.verdict_of(records), order[worst - 1])
        self.assertEqual(len(set(grader.EXIT.values())), 4)


class Hostile(GraderCase):
    """A bad submission costs its own points."""

    def sabotage(self, code, includes="#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <signal.h>\n"):
        self.workspace()
        self.change(self.space, ADD, "int sum = a + b;", f"{code}\n    int sum = a + b + 1;")
        self.change(self.space, ADD, '#include "base/base.h"\n', f'#include "base/base.h"\n{includes}')

    def assert_only_doubles_score(self, result):
        self.assertEqual(self.verdicts(result),
                         {"sums": grader.FAILED, "doubles": grader.PASSED, "large": grader.FAILED})  # fmt: skip

    def test_what_does_not_compile_says_so(self):
        self.workspace()
        self.change(self.space, ADD, "int sum", "inf sum")
        result = self.grade()
        self.assertEqual((result["score"], result["verdict"]), (0, grader.FAILED))
        self.assertIn("error", result["checks"][0]["got"])

    def test_warnings_cost_nothing(self):
        self.workspace()
        self.change(self.space, ADD, "int sum", "int unused; int sum")
        result = self.grade()
        self.assertEqual(result["score"], 100)
        self.assertEqual(result["build"]["warnings"], 1)

    def test_a_missing_file_says_so(self):
        self.workspace()
        os.unlink(os.path.join(self.space, ADD))
        result = self.grade()
        self.assertEqual(result["score"], 0)
        self.assertIn("add.c: no such file", result["checks"][0]["got"])

    def test_links_are_not_followed(self):
        self.workspace()
        os.rename(os.path.join(self.space, ADD), os.path.join(self.space, "elsewhere.c"))
        os.symlink("../../elsewhere.c", os.path.join(self.space, ADD))
        self.assertIn("symbolic link", self.grade()["checks"][0]["got"])

    def test_a_huge_file_is_not_taken(self):
        self.workspace()
        self.put(self.space, ADD, "/" * (grader.SOURCE_MAX + 1))
        self.assertIn("larger", self.grade()["checks"][0]["got"])

    def test_other_files_of_theirs_are_ignored(self):
        self.workspace(solved=False)
        self.put(self.space, "Makefile", "build/release/hv:\n\tcp /bin/true $@\n")
        self.put(self.space, "src/base/todo.c", "broken")
        self.put(self.space, "labs/01-one/checks.py", "def sums(lab): pass\n")
        self.assertEqual(self.grade()["score"], 0)

    def test_a_loop_is_told_as_a_hang(self):
        self.sabotage("for (;;) ;")
        result = self.grade()
        self.assert_only_doubles_score(result)
        self.assertIn("no end after", result["checks"][2]["got"])

    def test_printing_verdicts_scores_nothing(self):
        fake = r'{\"verdict\": \"passed\", \"score\": 100}'
        self.sabotage(f'for (int fd = 1; fd < 64; fd++) dprintf(fd, "{fake}\\n");')
        self.assert_only_doubles_score(self.grade())

    def forged(self, body, outside=""):
        """What doubles, whose driver calls twice(), says of a twice() that reports for itself."""
        self.workspace()
        self.change(self.space, ADD, "return 2 * a;", f"{body}\n    return 3 * a + 1;")
        head = "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <fcntl.h>\n"
        self.change(self.space, ADD, '#include "base/base.h"\n', f'#include "base/base.h"\n{head}{outside}\n')
        result = self.grade(exercise="1.2")
        self.assertTrue(result["build"]["ok"], result["build"]["log"])
        self.assertEqual(self.verdicts(result), {"doubles": grader.FAILED})
        return result["checks"][0]["got"]

    def test_a_function_that_reports_for_the_driver_forges_nothing(self):
        said = r'dprintf(3, "{\"value\": %d}\n", 2 * a);'
        self.assertIn("exit status 0", self.forged(f"{said} _exit(0);"))
        self.assertIn("exit status 0", self.forged(f"{said} exit(0);"))
        self.assertIn("something else", self.forged(said))
        everywhere = r'for (int fd = 3; fd < 1000; fd++) dprintf(fd, "{\"value\": %d}\n", 2 * a);'
        self.assertIn("something else", self.forged(f"{everywhere} _exit(0);"))

    def test_nor_one_that_takes_the_drivers_descriptor_away(self):
        said = r'dprintf(3, "{\"value\": %d}\n", 2 * a);'
        self.forged(f'{said} dup2(open("/dev/null", O_WRONLY), 3);')
        self.forged(f"{said} close(3);")

    def test_nor_a_constructor(self):
        said = r'for (int fd = 3; fd < 1000; fd++) dprintf(fd, "{\"value\": 8}\n");'
        self.forged("", "__attribute__((constructor)) static void first(void) { %s _exit(0); }" % said)

    def test_nor_a_write_of_their_own(self):
        body = r'static char t[] = "{\"value\": 8}\n"; (void)fd; (void)p; (void)n; return (ssize_t)sizeof(t) - 1;'
        self.forged("", "ssize_t write(int fd, const void *p, size_t n) { %s }" % body)

    def test_forks_and_kills_and_deletions_stay_inside(self):
        mine = os.path.join(self.root, "Makefile")
        self.sabotage(f'kill(getppid(), SIGKILL); unlink("{mine}"); system("rm -rf ../tree; rm -rf {self.space}/src");'
                      " while (fork() >= 0) ;")  # fmt: skip
        self.assert_only_doubles_score(self.grade())
        self.assertTrue(os.path.exists(mine))
        self.assertTrue(os.path.exists(os.path.join(self.space, ADD)))

    def test_compiling_them_ends(self):
        self.workspace()
        self.change(self.space, ADD, '#include "base/base.h"', '#include "add.c"')
        self.assertEqual(self.grade()["verdict"], grader.FAILED)

    def test_the_next_grading_is_not_touched(self):
        self.sabotage('system("rm -rf ../tree/*");')
        self.grade()
        self.workspace()
        self.assertEqual(self.grade()["score"], 100)

    def test_nothing_stays_in_the_temporary_directory(self):
        os.environ["TMPDIR"], before = self.scratch, os.environ.get("TMPDIR")
        try:
            grader.tempfile.tempdir = None
            self.workspace()
            self.grade()
            self.assertEqual([name for name in os.listdir(self.scratch) if name.startswith("lab-")], [])
        finally:
            grader.tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


class Descriptions(GraderCase):
    def refused(self, old, new):
        self.change(self.root, "labs/01-one/lab.toml", old, new)
        with self.assertRaisesRegex(Exception, "lab.toml") as caught:
            Course(self.root)
        return str(caught.exception)

    def test_unknown_words_are_refused(self):
        self.assertIn("pints", self.refused("points = 50", "pints = 50"))

    def test_a_check_of_no_exercise_is_refused(self):
        self.assertIn("sums", self.refused('exercise = "1.1"', 'exercise = "1.9"'))

    def test_names_occur_once(self):
        self.assertIn("twice", self.refused('name = "large"', 'name = "sums"'))


if __name__ == "__main__":
    unittest.main()
