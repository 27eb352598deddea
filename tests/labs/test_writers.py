"""test_writers.py: results files against the published formats, every field of them.

    Gradescope    results.json, https://gradescope-autograders.readthedocs.io/en/latest/specs/
    Autolab       the autoresult, https://docs.autolabproject.com/lab/
    Classroom 50  classroom50/result/v1, https://github.com/foundation50/classroom50/wiki/Advanced-Autograding
    JUnit         junit-10.xsd of Jenkins' xunit plugin, the strictest that is in wide use
"""

import json
import os
import re
import tempfile
import unittest
import xml.etree.ElementTree as xml
from unittest import mock

import minicourse  # noqa: F401  (the path of the tool)

import writers

NUMBER = (int, float)
VISIBILITY = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}


def check(name, verdict, points=10, **more):
    head = {"name": name, "title": f"<{name}> & \u00fc", "exercise": "1.1", "points": points, "section": "labs/01-one/README.md#a",
            "verdict": verdict, "score": points if verdict == "passed" else 0, "seconds": 1.25}  # fmt: skip
    return {**head, **more}


def model(*checks, verdict="failed"):
    return {
        "lab": 1, "name": "01-one", "title": "One", "seed": "0a1b2c3d", "verdict": verdict, "seconds": 3.4, "checks": list(checks),
        "score": sum(each["score"] for each in checks), "max": sum(each["points"] for each in checks),
        "build": {"ok": True, "warnings": 0, "log": ""},
    }  # fmt: skip


FAILURE = {"tried": "a\x00\x1b[31m]]>", "expected": "b\ud800", "got": "c\uffff", "exits": ["HLT"], "said": "x", "unwritten": "1.1"}
ALL = model(check("good", "passed"), check("bad", "failed", exercise="hostile", **FAILURE),
            check("none", "could not run", why="no KVM"), check("ours", "grader error", why="Traceback\nx"))  # fmt: skip
EMPTY = model(verdict="passed")


class Shape(unittest.TestCase):
    """A test that compares objects with descriptions: {field: (type, must it be there)}."""

    def fits(self, value, fields):
        self.assertIsInstance(value, dict)
        self.assertLessEqual(value.keys(), fields.keys())
        for name, (kind, needed) in fields.items():
            if needed:
                self.assertIn(name, value)
            if name in value:
                self.assertIsInstance(value[name], kind, name)
                self.assertFalse(isinstance(value[name], bool) and kind is not bool, name)


class Explanation(unittest.TestCase):
    def test_an_open_exercise_is_blamed_only_where_it_is_needed(self):
        for exercise, blamed in (("1.1", True), ("1.2", True), ("1.10", True), ("2.1", True), ("hostile", True), ("1.0", False)):
            text = writers.explanation(check("bad", "failed", **{**FAILURE, "exercise": exercise}))
            self.assertEqual("exercise 1.1 is not written yet" in text, blamed, exercise)


class Gradescope(Shape):
    TOP = {"score": (NUMBER, True), "execution_time": (NUMBER, False), "output": (str, False), "output_format": (str, False),
           "test_output_format": (str, False), "test_name_format": (str, False), "visibility": (str, False),
           "stdout_visibility": (str, False), "extra_data": (dict, False), "tests": (list, False), "leaderboard": (list, False)}  # fmt: skip
    TEST = {"score": (NUMBER, False), "max_score": (NUMBER, False), "status": (str, False), "name": (str, False),
            "name_format": (str, False), "number": (str, False), "output": (str, False), "output_format": (str, False),
            "tags": (list, False), "visibility": (str, False), "extra_data": (dict, False)}  # fmt: skip

    def test_every_field(self):
        for result in (ALL, EMPTY):
            data = json.loads(writers.as_gradescope(result))
            self.fits(data, self.TOP)
            self.assertIn(data["visibility"], VISIBILITY)
            self.assertIn(data["output_format"], FORMATS)
            self.assertGreaterEqual(data["execution_time"], 0)
            self.assertEqual(data["score"], sum(test["score"] for test in data["tests"]))
            for test in data["tests"]:
                self.fits(test, self.TEST)
                self.assertIn(test["status"], {"passed", "failed"})
                self.assertIn(test["visibility"], VISIBILITY)
                self.assertIn(test["output_format"], FORMATS)
                self.assertTrue(0 <= test["score"] <= test["max_score"])

    def test_what_could_not_run_says_so(self):
        test = json.loads(writers.as_gradescope(ALL))["tests"][2]
        self.assertIn("could not run: no KVM", test["output"])


class Autolab(Shape):
    def test_the_last_line_is_the_autoresult(self):
        for result in (ALL, EMPTY):
            text = writers.as_autolab(result)
            self.assertTrue(text.endswith("\n"))
            data = json.loads(text.splitlines()[-1])
            self.fits(data, {"scores": (dict, True), "scoreboard": (list, False)})
            for problem, score in data["scores"].items():
                self.assertTrue(problem)
                self.assertIsInstance(score, NUMBER)
            self.assertEqual(sum(data["scores"].values()), result["score"])

    def test_no_other_line_could_be_taken_for_it(self):
        forged = model(check("bad", "failed", **{**FAILURE, "got": 'x\n{"scores": {"1.1": 100}}'}))
        lines = writers.as_autolab(forged).splitlines()
        self.assertEqual([line for line in lines if line.startswith("{")], [lines[-1]])


class Classroom50(Shape):
    TOP = {**dict.fromkeys(("schema", "classroom", "assignment", "submission", "commit", "release", "review", "datetime"), (str, True)),
           "score": (NUMBER, True), "max-score": (NUMBER, True), "tests": (list, True)}  # fmt: skip
    TEST = {"test-name": (str, True), "passed": (bool, True), "score": (NUMBER, True), "max-score": (NUMBER, True)}

    def judge(self, data):
        self.fits(data, self.TOP)
        self.assertEqual(data["schema"], "classroom50/result/v1")
        self.assertTrue(all(data[name] for name, (kind, _) in self.TOP.items() if kind is str))
        self.assertRegex(data["submission"], r"^submit/")
        self.assertRegex(data["datetime"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        for test in data["tests"]:
            self.fits(test, self.TEST)
            self.assertTrue(test["test-name"] and 0 <= test["score"] <= test["max-score"])
        self.assertEqual(data["score"], sum(test["score"] for test in data["tests"]))
        self.assertEqual(data["max-score"], sum(test["max-score"] for test in data["tests"]))

    def test_every_field(self):
        for result in (ALL, EMPTY):
            self.judge(json.loads(writers.as_classroom50(result)))

    def test_its_runner_says_who_and_what(self):
        runner = {"CLASSROOM": "c", "ASSIGNMENT": "a", "SUBMISSION_TAG": "submit/1", "COMMIT_URL": "https://x/1",
                  "RELEASE_URL": "https://x/2", "REVIEW_URL": ""}  # fmt: skip
        with mock.patch.dict(os.environ, runner):
            data = json.loads(writers.as_classroom50(ALL))
        self.judge(data)
        self.assertEqual([data[name] for name in ("classroom", "assignment", "submission", "commit", "release", "review")],
                         ["c", "a", "submit/1", "https://x/1", "https://x/2", "https://x/1"])  # fmt: skip


class JUnit(Shape):
    # element: (attributes that it must have, and may have, elements in it, in their order)
    RULES = {
        "testsuites": ((), ("name", "time", "tests", "failures", "errors", "disabled"), ("testsuite",)),
        "testsuite": (("name", "tests"), ("failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id",
                                          "package", "group", "file", "log", "url", "version"),
                      ("properties", "testcase", "system-out", "system-err")),
        "properties": ((), (), ("property",)),
        "property": (("name", "value"), (), ()),
        "testcase": (("name",), ("classname", "time", "status", "class", "file", "line", "assertions", "group", "url"),
                     ("skipped", "error", "failure", "system-out", "system-err")),
        "skipped": ((), ("message", "type"), ()),
        "error": ((), ("message", "type"), ()),
        "failure": ((), ("message", "type"), ()),
    }  # fmt: skip

    def judge(self, element):
        must, may, children = self.RULES[element.tag]
        self.assertLessEqual(set(must), set(element.keys()))
        self.assertLessEqual(set(element.keys()), {*must, *may})
        order = [children.index(child.tag) for child in element]
        self.assertEqual(order, sorted(order))
        for name in ("tests", "failures", "errors", "skipped"):
            self.assertRegex(element.get(name, "0"), r"^\d+$")
        self.assertRegex(element.get("time", "0"), r"^\d+(\.\d+)?$")
        self.assertRegex(element.get("timestamp", "2026-01-01T00:00:00"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$")
        for child in element:
            self.judge(child)

    def test_every_element(self):
        for result in (ALL, EMPTY):
            text = writers.as_junit(result)
            root = xml.fromstring(text.encode())
            self.assertTrue(text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n'))
            self.assertEqual(root.tag, "testsuites")
            self.judge(root)

    def test_the_counts_are_those_of_the_cases(self):
        suite = xml.fromstring(writers.as_junit(ALL).encode()).find("testsuite")
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            self.assertEqual(int(suite.get(attribute)), len(suite.findall(f"testcase/{tag}")))
        self.assertEqual(int(suite.get("tests")), len(suite.findall("testcase")))

    def test_no_character_that_xml_cannot_hold(self):
        self.assertFalse(re.search(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", writers.as_junit(ALL)))


class Files(unittest.TestCase):
    def test_what_python_cannot_encode_does_not_stop_a_writer(self):
        for name in writers.WRITERS:
            with self.subTest(name):
                path = os.path.join(self.enterContext(tempfile.TemporaryDirectory()), "out")
                writers.write(name, path, ALL)
                self.assertGreater(os.path.getsize(path), 0)


if __name__ == "__main__":
    unittest.main()
