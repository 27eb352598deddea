"""test_commands.py: `lab` as it is typed: what it says, how wide, and its exit status."""

import csv
import glob
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import unittest
import xml.etree.ElementTree as xml
import zipfile

from minicourse import FILES, CourseCase

ADD = "src/base/add.c"


class CommandCase(CourseCase):
    def setUp(self):
        super().setUp()
        self.tool = self.with_tool()
        self.path = os.path.join(self.scratch, "mine")

    def lab(self, *words, cwd=None, status=0, tool=None):
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "HOME": self.scratch, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, tool or self.tool, *words], cwd=cwd or self.scratch, env=env,
                              capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
        output = done.stdout + done.stderr
        self.assertEqual(done.returncode, status, output)
        self.assertNotIn("Traceback", output)
        self.assertNotIn("\x1b", output)
        return output

    def started(self):
        self.lab("start", self.path)
        return self.path

    def solve(self, exercise=None):
        self.change(self.path, ADD, 'return todo("1.2");', "return 2 * a;")
        if exercise != "1.2":
            self.change(self.path, ADD, 'return todo("1.1");', "return a + b;")

    def assert_narrow(self, output):
        wide = [line for line in output.splitlines() if len(line) > 80 and self.scratch not in line]
        self.assertEqual(wide, [])


class Learner(CommandCase):
    def test_the_way_through_the_course(self):
        path = self.started()
        self.assertIn("write 1.1", self.lab(cwd=path))
        output = self.lab("grade", cwd=path, status=1)
        self.assertIn("0/100", output)
        self.assertIn("exercise 1.1 is not written yet", output)
        self.assert_narrow(output)
        self.solve("1.2")
        self.assertIn("30/100", self.lab("grade", cwd=path, status=1))
        output = self.lab("status", cwd=path)
        self.assertIn("1 of 3 exercises", output)
        self.assertIn("open 1.1", output)
        self.assertIn("ok   1.2", output)
        self.assert_narrow(output)
        self.change(self.path, ADD, 'return todo("1.1");', "return a + b;")
        self.assertIn("100/100", self.lab("grade", cwd=path))
        self.assertIn("next: `lab next`", self.lab(cwd=path))
        subprocess.run(["git", "-C", path, "-c", "user.name=l", "-c", "user.email=l@l", "commit", "-qam", "x"], check=True)
        self.assertIn("lab 2: Two", self.lab("next", cwd=path))
        self.assertIn("0/100", self.lab("grade", cwd=path, status=1))
        self.assertIn("100/100", self.lab("grade", "1", cwd=path))
        self.assertIn("last one", self.lab("next", cwd=path))
        self.assertIn("the tour", self.lab("grade", "0", cwd=path))

    def test_the_script_in_the_workspace_is_the_same(self):
        path = self.started()
        done = subprocess.run(["./lab", "status"], cwd=path, capture_output=True, text=True, check=True)
        self.assertIn("lab 1: One", done.stdout)

    def test_a_seed_repeats_a_run(self):
        path = self.started()
        self.solve()
        self.change(self.path, ADD, "return a + b;", "return a - b;")
        got = [re.findall(r"expected.*", self.lab("grade", "1.1", "--seed", "5", cwd=path, status=1)) for _ in range(2)]
        self.assertEqual(got[0], got[1])

    def test_hints_come_one_after_the_other(self):
        path = self.started()
        hints = [self.lab("hint", cwd=path).splitlines() for _ in range(4)]
        self.assertEqual([each[1].strip() for each in hints], ["One.", "Two, longer.", "Three.", "Three."])
        self.assertIn("1.2 twice, hint 1 of 3", self.lab("hint", "1.2", cwd=path))

    def test_reset_and_solution(self):
        path = self.started()
        self.solve()
        self.assertIn("git cat-file -p", self.lab("reset", "1.1", cwd=path))
        self.assertIn('todo("1.1")', self.get(path, ADD))
        self.assertIn("sum = a + b", self.lab("solution", "1.1"))

    def test_catch_up(self):
        path = self.started()
        self.assertIn("1.1, 1.2", self.lab("catch-up", "2", cwd=path))
        self.assertIn("100/100", self.lab("grade", "1", cwd=path))

    def test_what_ends_it_leaves_nothing_behind(self):
        path = self.started()
        self.solve()
        self.change(self.path, ADD, "return a + b;", "for (;;) ;")
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number.name):
                env = {**os.environ, "TMPDIR": self.scratch}
                lab = subprocess.Popen([sys.executable, self.tool, "grade"], cwd=path, env=env, stdout=subprocess.DEVNULL,
                                       start_new_session=True)  # fmt: skip
                self.wait_for(lambda: glob.glob(os.path.join(self.scratch, "lab-check-*/scratch")))
                os.killpg(lab.pid, number)
                self.assertEqual(lab.wait(60), status)
                self.assertEqual(glob.glob(os.path.join(self.scratch, "lab-*")), [])

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_mistakes_are_explained(self):
        path = self.started()
        for words, what in ((["grade", "9"], "lab next"), (["grade", "x"], "2.3"), (["grade", "1.9"], "1.1, 1.2"),
                            (["reset", "2.1"], "later"), (["catch-up", "0"], "no lab 0")):  # fmt: skip
            with self.subTest(words):
                status = 4 if words[0] == "catch-up" else 2
                self.assertIn(what, " ".join(self.lab(*words, cwd=path, status=status).split()))
        self.assertIn("lab start", " ".join(self.lab("grade", status=2).split()))
        self.lab("bogus", status=2)

    def test_doctor_says_what_is_there(self):
        done = subprocess.run([sys.executable, self.tool, "doctor"], capture_output=True, text=True, check=False)
        self.assertIn(done.returncode, (0, 3))
        self.assertIn("/dev/kvm", done.stdout)
        self.assert_narrow(done.stdout)


class Results(CommandCase):
    """Results files against their published formats."""

    def results(self, status=1):
        path = self.started()
        self.solve("1.2")
        self.change(path, ADD, 'return todo("1.1");', 'return todo("1.1\\001<&]]>");')
        names = ("json", "junit", "gradescope", "autolab", "classroom50")
        flags = [word for name in names for word in (f"--{name}", os.path.join(self.scratch, name))]
        self.lab("grade", *flags, cwd=path, status=status)
        return {name: self.get(self.scratch, name) for name in names}

    def test_all_formats(self):
        found = self.results()
        model = json.loads(found["json"])
        self.assertEqual((model["score"], model["max"], model["verdict"]), (30, 100, "failed"))
        self.junit(xml.fromstring(found["junit"]))
        self.gradescope(json.loads(found["gradescope"]))
        self.assertEqual(json.loads(found["autolab"].splitlines()[-1]), {"scores": {"1.1": 0, "1.2": 30, "hostile": 0}})
        self.classroom50(json.loads(found["classroom50"]))

    def junit(self, root):
        suite = root.find("testsuite")
        self.assertEqual((root.tag, suite.get("tests"), suite.get("failures"), suite.get("errors")),
                         ("testsuites", "3", "2", "0"))  # fmt: skip
        cases = suite.findall("testcase")
        self.assertEqual([case.get("name") for case in cases], ["sums", "doubles", "large"])
        self.assertEqual([case.find("failure") is None for case in cases], [False, True, False])
        self.assertTrue(all(case.get("classname") and float(case.get("time")) >= 0 for case in cases))

    def gradescope(self, data):
        self.assertEqual(data["score"], 30)
        self.assertLessEqual(data.keys(), {"score", "execution_time", "output", "output_format", "test_output_format",
                                           "test_name_format", "visibility", "stdout_visibility", "extra_data",
                                           "tests", "leaderboard"})  # fmt: skip
        self.assertEqual(sum(test["score"] for test in data["tests"]), 30)
        for test in data["tests"]:
            self.assertLessEqual(test.keys(), {"score", "max_score", "status", "name", "name_format", "number",
                                               "output", "output_format", "tags", "visibility", "extra_data"})  # fmt: skip
            self.assertIn(test["status"], ("passed", "failed"))

    def classroom50(self, data):
        texts = {"schema", "classroom", "assignment", "submission", "commit", "release", "review", "datetime"}
        self.assertEqual(data.keys(), texts | {"score", "max-score", "tests"})
        self.assertTrue(all(isinstance(data[name], str) and data[name] for name in texts))
        self.assertEqual(data["schema"], "classroom50/result/v1")
        self.assertRegex(data["datetime"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        for test in data["tests"]:
            self.assertEqual(test.keys(), {"test-name", "passed", "score", "max-score"})
        self.assertEqual((data["score"], data["max-score"]), (30, 100))


class Lecturer(CommandCase):
    def archive(self, name, change=None):
        stem = os.path.join(self.scratch, name)
        with open(stem + ".tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for entry in (ADD, "labs/01-one/README.md", "Makefile"):
                text = self.get(self.path, entry)
                data = (change(text) if change and entry == ADD else text).encode()
                member = tarfile.TarInfo(f"student-work/{entry}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return stem + ".tar.gz"

    def test_a_handout_has_no_solutions_and_works(self):
        out = os.path.join(self.scratch, "handout.tar.gz")
        self.lab("handout", "--labs", "1-2", "--out", out)
        with tarfile.open(out) as archive:
            archive.extractall(self.scratch, filter="data")
        root = os.path.join(self.scratch, "hvlab")
        for name in glob.glob(root + "/**", recursive=True):
            if os.path.isfile(name) and not name.startswith(os.path.join(root, "labs/tool")):
                text = self.get(root, name)
                for answer in ("sum = a + b", "return 2 * a", "a / 2"):
                    self.assertNotIn(answer, text, name)
        self.assertFalse(os.path.exists(os.path.join(root, "solutions")))
        tool = os.path.join(root, "labs/lab")
        self.lab("start", self.path, tool=tool)
        self.assertIn("0/100", self.lab("grade", cwd=self.path, status=1, tool=tool))
        self.solve()
        self.assertIn("100/100", self.lab("grade", cwd=self.path, tool=tool))
        self.assertIn("no solutions", self.lab("solution", "1.1", status=2, tool=tool))

    def test_a_handout_of_fewer_labs_has_nothing_of_the_later(self):
        out = os.path.join(self.scratch, "handout.tar.gz")
        self.lab("handout", "--labs", "1", "--out", out)
        with tarfile.open(out) as archive:
            names = archive.getnames()
            main = archive.extractfile("hvlab/src/cli/main.c").read()
        self.assertFalse([name for name in names if "02-two" in name or "half.c" in name])
        self.assertNotIn(b"half", main)

    def test_a_batch_of_submissions(self):
        self.started()
        self.solve()
        good = self.archive("good")
        bad = self.archive("bad", lambda text: text.replace("return a + b;", "for (;;) ;"))
        broken = self.archive("broken", lambda text: "int x")
        junk = self.put(self.scratch, "junk.zip", "junk")
        bomb = os.path.join(self.scratch, "bomb.zip")
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labs/01-one/README.md", "x")
            archive.writestr(ADD, "x" * (80 << 20))
        out = os.path.join(self.scratch, "out")
        self.lab("grade", "--submission", good, bad, broken, junk, bomb, "--jobs", "2", "--out", out, "--here", status=1)
        with open(os.path.join(out, "scores.csv"), encoding="utf-8", newline="") as file:
            rows = {row["submission"]: row for row in csv.DictReader(file)}
        self.assertEqual({name: (row["score"], row["verdict"]) for name, row in rows.items()}, {
            "good": ("100", "passed"), "bad": ("30", "failed"), "broken": ("0", "failed"),
            "junk": ("0", "failed"), "bomb": ("0", "failed"),
        })  # fmt: skip
        self.assertEqual(rows["broken"]["note"], "does not compile")
        self.assertIn("too large", rows["bomb"]["note"])
        self.assertEqual(json.loads(self.get(out, "good.json"))["score"], 100)

    def test_a_directory_is_a_submission_too(self):
        self.started()
        self.solve()
        self.assertIn("100/100", self.lab("grade", "--submission", self.path, "--here"))

    def test_without_a_lab_machine_it_says_so_and_runs_here(self):
        self.started()
        self.solve()
        output = self.lab("grade", "--submission", self.path)
        self.assertIn("no lab machine", output)
        self.assertIn("100/100", output)


class Author(CommandCase):
    def test_tree(self):
        self.lab("tree", "1", os.path.join(self.scratch, "open"))
        self.lab("tree", "1", "--solved", os.path.join(self.scratch, "solved"))
        self.assertIn("todo", self.get(self.scratch, "open/" + ADD))
        self.assertIn("sum = a + b", self.get(self.scratch, "solved/" + ADD))
        self.assertIn("not empty", self.lab("tree", "1", self.scratch, status=2))

    def test_patch_makes_the_reference_of_the_skeleton(self):
        self.lab("patch", "1")
        self.lab("tree", "1", self.path)
        self.lab("tree", "1", "--solved", os.path.join(self.scratch, "solved"))
        patch = os.path.join(self.root, "solutions/01-one/solution.patch")
        subprocess.run(["git", "apply", patch], cwd=self.path, check=True)
        self.assertEqual(self.get(self.path, ADD), self.get(self.scratch, "solved/" + ADD))

    def test_verify_finds_what_is_wrong(self):
        output = self.lab("verify", "1", status=1)
        self.assertIn("ok   skeleton", output)
        self.assertIn("ok   walk", output)
        self.assertIn("ok   reference", output)
        self.assertIn("ok   mutant 1.1 minus", output)
        self.assertIn("FAIL mutant 1.2 nothing_changes", output)
        self.assertRegex(output, r"01-one +1 of +2 mutants caught +50.0 %")
        self.assertIn("1 mutants for 1.1, not 4", output)
        self.assertIn("FAIL documents", output)
        self.assertIn("solution.patch", output)

    def test_verify_finds_a_header_of_a_later_stage(self):
        self.put(self.root, "src/base/later.h", "")
        self.put(self.root, ADD, '#include "base/later.h"\n#include "base/never.h"\n' + self.get(self.root, ADD))
        output = self.lab("verify", "1", status=1)
        self.assertRegex(output.replace("\n       ", " "), f"{ADD}: includes src/base/later.h, which is not")
        self.assertNotIn("never.h, which", output)

    def test_verify_finds_a_mistake_that_has_no_place(self):
        self.change(self.root, "solutions/01-one/mutants.toml", 'find = "a + b"', 'find = "a+b"')
        self.assertIn("minus: `find` occurs 0 times", self.lab("verify", "1", status=1).replace("\n       ", " "))

    def test_verify_finds_what_does_not_merge(self):
        self.assertIn("ok   merge", self.lab("verify", "2", status=1))
        self.put(self.root, "src/cli/main.c", self.get(self.root, "src/cli/main.c") + "/* EXERCISE 1.3: a */\n"
                 "// SOLUTION 1.3\nint a;\n// ELSE\n// int b;\n// END 1.3\nint c; // lab 02\n")  # fmt: skip
        output = self.lab("verify", "2", status=1)
        self.assertIn("FAIL merge", output)
        self.assertIn("src/cli/main.c", output)

    def test_verify_of_all_labs_adds_up(self):
        report = os.path.join(self.scratch, "report.json")
        output = self.lab("verify", "--json", report, status=1)
        self.assertRegex(output, r"in all +1 of +2 mutants caught +50.0 % +\d+ s  failed")
        self.assertRegex(output, r"ok   walk(.|\n)*ok   merge(.|\n)*ok   earlier")
        names = [record["name"] for record in json.loads(self.get(self.scratch, "report.json"))]
        self.assertIn("02-two walk", names)
        self.assertEqual(len(names), len(set(names)))

    def test_verify_tries_no_mutants_of_a_reference_that_does_not_build(self):
        self.change(self.root, ADD, "int sum = a + b;", "int sum = a + b")
        output = self.lab("verify", "1", status=1)
        self.assertIn("FAIL reference", output)
        self.assertIn("0 of   0 mutants caught", output)

    def test_verify_finds_a_skeleton_that_scores(self):
        self.put(self.root, "labs/01-one/checks.py", FILES["labs/01-one/checks.py"].replace("def large(lab):", "def large(lab):\n    return"))
        self.assertIn("large: scores without any work", self.lab("verify", "1", status=1))

    def test_verify_finds_a_reference_that_does_not(self):
        self.change(self.root, ADD, "return 2 * a;", "return 2 * a + (a > 990);")
        self.change(self.root, "labs/01-one/checks.py", "lab.driver(\"twice\", value)", "lab.driver(\"twice\", 991)")
        output = self.lab("verify", "1", status=1)
        self.assertIn("FAIL reference", output)
        self.assertIn("doubles", output)


if __name__ == "__main__":
    unittest.main()
