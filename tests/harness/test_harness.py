#!/usr/bin/env python3
"""The test machinery notices what goes wrong: failures, crashes, hangs, leaks, missing tools, broken builds."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import criterion  # noqa: E402
import process  # noqa: E402
import results  # noqa: E402
import tiers  # noqa: E402
from results import FAILED, PASSED, SKIPPED, Group, Result  # noqa: E402


def running():
    """The command lines of all processes."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found.append(file.read().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            pass  # it has just ended
    return found


class Processes(unittest.TestCase):
    def test_status_and_output_come_back(self):
        outcome = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 10)
        self.assertEqual((outcome.status, outcome.output), (3, "out\nerr\n"))
        self.assertIn("exit status 3", outcome.explain())

    def test_a_signal_is_named(self):
        self.assertIn("SIGSEGV", process.run(["sh", "-c", "kill -SEGV $$"], 10).verdict())

    def test_a_hang_is_killed_with_its_children_and_named(self):
        start = time.monotonic()
        outcome = process.run(["sh", "-c", "echo begun; sleep 4711 & wait"], 1)
        self.assertTrue(outcome.hung)
        self.assertLess(time.monotonic() - start, 10)
        self.assertEqual(outcome.output, "begun\n")
        self.assertIn("no end after 1 s", outcome.verdict())
        self.assertIn("sleep 4711", outcome.verdict())
        self.assertNotIn("sleep 4711", running())

    def test_a_child_that_keeps_the_output_open_is_a_hang_too(self):
        self.assertTrue(process.run(["sh", "-c", "sleep 4712 & exit 0"], 1).hung)

    def test_who_ignores_polite_signals_is_killed(self):
        before, process.GRACE = process.GRACE, 0.5
        self.addCleanup(setattr, process, "GRACE", before)
        self.assertTrue(process.run(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], 1).hung)

    def test_a_missing_program_is_an_outcome(self):
        outcome = process.run(["/no/such/program"], 10)
        self.assertEqual(outcome.status, 127)
        self.assertIn("No such file", outcome.explain())

    def test_nothing_to_read_and_no_terminal(self):
        self.assertEqual(process.run(["cat"], 10).status, 0)

    def test_a_make_above_us_does_not_reach_the_makes_below(self):
        outcome = process.run(["sh", "-c", 'echo "$MAKEFLAGS|$MAKELEVEL"'], 10)
        self.assertEqual(outcome.output, "|\n")


CRITERION = r"""
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>
Test(good, passes) {}
Test(good, is_skipped) { cr_skip_test("no \"such\" thing"); }
#ifdef BAD
Test(bad, asserts) { cr_assert(0, "he said \"no\" \\ and left"); }
Test(bad, crashes) { abort(); }
Test(bad, exits) { exit(3); }
#endif
#ifdef HANG
Test(bad, hangs) { for (;;) pause(); }
#endif
#ifdef LEAK
Test(bad, leaks) { char *volatile p = malloc(100); p = NULL; (void)p; }
#endif
"""


class Criterion(unittest.TestCase):
    def build(self, *flags):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        source, program = os.path.join(directory, "t.c"), os.path.join(directory, "t")
        with open(source, "w", encoding="utf-8") as file:
            file.write(CRITERION)
        subprocess.run(["gcc", *flags, source, "-o", program, "-lcriterion"], check=True)
        return program

    def verdicts(self, group):
        return {result.name: result.status for result in group.results}

    def test_passes_and_skips_are_told_apart(self):
        group = criterion.run(self.build(), "x/t", 60)
        self.assertEqual(self.verdicts(group), {"good/passes": PASSED, "good/is_skipped": SKIPPED})
        skipped = next(result for result in group.results if result.status == SKIPPED)
        self.assertIn('no "such" thing', skipped.detail)

    def test_failures_crashes_and_exits_fail_with_their_reason(self):
        group = criterion.run(self.build("-DBAD"), "x/t", 60)
        verdicts = self.verdicts(group)
        self.assertEqual({name for name, status in verdicts.items() if status == FAILED},
                         {"bad/asserts", "bad/crashes", "bad/exits"})  # fmt: skip
        self.assertEqual(verdicts["good/passes"], PASSED)
        failed = {result.name: result for result in group.results}
        self.assertIn('he said "no"', failed["bad/asserts"].detail)
        self.assertIn("t.c:8", failed["bad/asserts"].detail)
        self.assertIn("crashed", failed["bad/crashes"].detail)
        self.assertIn("--filter bad/asserts", failed["bad/asserts"].rerun)

    def test_a_hang_fails_the_test_that_hung_alone(self):
        group = criterion.run(self.build("-DHANG"), "x/t", 3)
        verdicts = self.verdicts(group)
        self.assertEqual(verdicts["bad/hangs"], FAILED)
        self.assertEqual(verdicts["good/passes"], PASSED)
        self.assertEqual(len([status for status in verdicts.values() if status == FAILED]), 1)

    def test_a_leak_fails_the_run_though_criterion_passes_it(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        program = self.build("-DLEAK", "-g", "-fsanitize=address")
        group = criterion.run(program, "x/t", 60, tiers._sanitizer_environment(directory), process.steady())
        self.assertEqual(self.verdicts(group)["bad/leaks"], PASSED)
        reports = tiers._sanitizer_results(directory, "x/t", "again")
        self.assertEqual([report.status for report in reports], [FAILED])
        self.assertIn("LeakSanitizer", reports[0].detail)
        self.assertEqual(os.listdir(directory), [], "a report is counted once")

    def test_a_program_that_reports_nothing_fails(self):
        group = criterion.run("/bin/true", "x/t", 60)
        self.assertEqual(self.verdicts(group), {"x/t": FAILED})

    def test_a_program_that_is_missing_fails(self):
        self.assertEqual(self.verdicts(criterion.run("build/no-such-test", "x/t", 60)), {"x/t": FAILED})


class Unittests(unittest.TestCase):
    def run_file(self, text, limit=30.0, chosen=""):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "test_x.py")
            with open(path, "w", encoding="utf-8") as file:
                file.write("import unittest, time\nclass T(unittest.TestCase):\n" + text)
            group = tiers.unittest_file(path, limit, chosen, name="self-test")
        return {result.name.rpartition(".")[2]: (result.status, result.detail) for result in group.results}

    def test_verdicts(self):
        found = self.run_file(
            "    def test_ok(self): pass\n"
            "    def test_bad(self): self.fail('because')\n"
            "    def test_error(self): raise OSError('broken')\n"
            "    @unittest.skip('cannot')\n"
            "    def test_skip(self): pass\n"
            "    def test_sub(self):\n"
            "        for i in range(3):\n"
            "            with self.subTest(i=i): self.assertNotEqual(i, 1)\n"
        )
        self.assertEqual({name: status for name, (status, _) in found.items()}, {
            "test_ok": PASSED, "test_bad": FAILED, "test_error": FAILED, "test_skip": SKIPPED, "test_sub": FAILED,
        })  # fmt: skip
        self.assertIn("because", found["test_bad"][1])
        self.assertEqual(found["test_skip"][1], "cannot")
        self.assertIn("'i': 1", found["test_sub"][1])

    def test_what_hung_is_named(self):
        found = self.run_file("    def test_a(self): pass\n    def test_b(self): time.sleep(1000)\n", 2.0)
        self.assertEqual(found["test_a"][0], PASSED)
        self.assertEqual(found["test_b"][0], FAILED)
        self.assertIn("no end after 2 s", found["test_b"][1])

    def test_a_file_that_does_not_load_fails(self):
        self.assertEqual([status for status, _ in self.run_file("    nonsense\n").values()], [FAILED])

    def test_a_class_that_cannot_set_up_fails(self):
        text = "    @classmethod\n    def setUpClass(cls): raise OSError('no room')\n    def test_a(self): pass\n"
        self.assertIn(FAILED, [status for status, _ in self.run_file(text).values()])

    def test_choice_by_name(self):
        text = "    def test_a(self): pass\n    def test_b(self): pass\n"
        self.assertEqual(list(self.run_file(text, chosen="test_b")), ["test_b"])


class System(unittest.TestCase):
    """system_run() against a stand-in for tests/system/run, started as if by a machine."""

    def run_script(self, script, limit=30):
        group = tiers.system_run("self-test", ["sh", "-c", script, "sh"], limit)
        return [(result.name, result.status) for result in group.results]

    def script(self, records, status):
        return f"echo '{json.dumps(records)}' >\"$LABVM_OUT/report.json\"; exit {status}"

    def record(self, name, status):
        return {"name": name, "status": status, "seconds": 1.0, "detail": "words"}

    def test_the_report_is_what_counts(self):
        records = [self.record("a", PASSED), self.record("b", FAILED), self.record("c", SKIPPED)]
        self.assertEqual(self.run_script(self.script(records, 1)), [("a", PASSED), ("b", FAILED), ("c", SKIPPED)])

    def test_a_machine_that_fails_after_its_report_is_a_failure(self):
        self.assertEqual(self.run_script(self.script([self.record("a", PASSED)], 125))[-1], ("self-test", FAILED))
        self.assertEqual(self.run_script(self.script([self.record("a", PASSED)], 1))[-1], ("self-test", FAILED))

    def test_a_machine_that_fails_is_followed_by_another_for_what_is_left(self):
        script = """
            case "$*" in
            *--without*) echo 'passed      1.0 s  test_b.T.b'; grep -q test_a.T.a "$LABVM_OUT/done" ;;
            *) echo 'passed      1.0 s  test_a.T.a'; exit 125 ;;
            esac"""
        said = []
        group = tiers.system_run("self-test", ["sh", "-c", script, "sh"], 30, note=said.append)
        self.assertEqual([(r.name, r.status) for r in group.results], [("test_a.T.a", PASSED), ("test_b.T.b", PASSED)])
        self.assertIn("going on in a new one", said[0])

    def test_a_machine_that_fails_every_time_is_a_failure(self):
        said = []
        group = tiers.system_run("self-test", ["sh", "-c", "exit 125", "sh"], 30, note=said.append)
        self.assertEqual([(r.name, r.status) for r in group.results], [("self-test", FAILED)])
        self.assertEqual(len(said), tiers.MACHINE_TRIES - 1)

    def test_no_report_is_a_failure_and_old_ones_do_not_count(self):
        self.run_script(self.script([self.record("old", PASSED)], 0))
        self.assertEqual(self.run_script("exit 0"), [("self-test", FAILED)])

    def test_a_choice_that_names_none_of_them_is_nothing(self):
        script = "echo no test was chosen >&2; exit 2"
        self.assertEqual(tiers.system_run("self-test", ["sh", "-c", script, "sh"], 30, "x").results, [])
        self.assertEqual(self.run_script(script), [("self-test", FAILED)])

    def test_what_was_printed_before_a_hang_still_counts(self):
        script = "echo 'passed      1.0 s  test_a.T.a'; sleep 1000"
        self.assertEqual(self.run_script(script, 2), [("test_a.T.a", PASSED), ("self-test", FAILED)])


class Reports(unittest.TestCase):
    def finish(self, groups, **options):
        out = io.StringIO()
        report = results.Report(out, **options)
        for group in groups:
            report.add("unit", group)
        return report.finish(), out.getvalue()

    def test_the_closing_line(self):
        status, text = self.finish([Group("g", [Result("a", PASSED), Result("b", FAILED), Result("c", SKIPPED)])])
        self.assertEqual((status, text.splitlines()[-1]), (1, "1 passed, 1 failed, 1 skipped"))

    def test_success(self):
        status, text = self.finish([Group("g", [Result("a", PASSED)])])
        self.assertEqual((status, text.splitlines()[-1]), (0, "1 passed, 0 failed, 0 skipped"))
        self.assertNotIn("\x1b", text)

    def test_nothing_at_all_is_no_success(self):
        self.assertEqual(self.finish([])[0], 1)
        self.assertEqual(self.finish([Group("g", [Result("a", SKIPPED)])])[0], 1)

    def test_failures_are_told_with_the_way_to_run_them_again(self):
        detail = "\n".join(f"line {number}" for number in range(50))
        _, text = self.finish([Group("g", [Result("a", FAILED, 1.0, detail, "run a")])])
        self.assertIn("unit g: a\n", text)
        self.assertIn("line 19\n", text)
        self.assertNotIn("line 20\n", text)
        self.assertIn("30 more lines", text)
        self.assertIn("again: run a", text)

    def test_skips_are_told_with_their_reason(self):
        self.assertIn("why not", self.finish([Group("g", [Result("a", PASSED), Result("b", SKIPPED, 0, "why not")])])[1])

    def test_colour_is_for_terminals(self):
        self.assertIn("\x1b[31mFAIL", self.finish([Group("g", [Result("a", FAILED)])], colour=True)[1])


class Runner(unittest.TestCase):
    def run_tests(self, *arguments):
        program = os.path.join(os.path.dirname(HERE), "run")
        return subprocess.run([program, *arguments], check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def test_an_unknown_tier_is_a_usage_error(self):
        done = self.run_tests("nonsense")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no tier 'nonsense'", done.stderr)

    def test_a_choice_that_matches_nothing_is_no_success(self):
        done = self.run_tests("unit", "-k", "no such test")
        self.assertEqual((done.returncode, done.stdout.splitlines()[-1]), (1, "0 passed, 0 failed, 0 skipped"))

    def test_a_broken_build_is_a_failure_with_the_compilers_words(self):
        group = tiers.built(["no-such-target"])
        self.assertEqual(group.results[0].status, FAILED)
        self.assertIn("No rule to make target", group.results[0].detail)

    def test_a_program_that_cannot_be_built_takes_only_itself_away(self):
        there = ("base/test_num", "build/release/tests/unit/base/test_num")
        good, bad = tiers.built_programs([there, ("base/none", "build/release/tests/unit/base/none")])
        self.assertEqual(good, [there])
        self.assertEqual([(group.name, group.results[0].status) for group in bad], [("base/none", FAILED)])
        self.assertIn("No rule to make target", bad[0].results[0].detail)

    def test_a_tier_that_raises_is_a_failure(self):
        with tempfile.TemporaryDirectory() as directory:
            missing = {**os.environ, "PATH": directory}  # no make, no compiler
            program = os.path.join(os.path.dirname(HERE), "run")
            done = subprocess.run([sys.executable, program, "unit", "-k", "base/test_num"], check=False, env=missing,
                                  stdout=subprocess.PIPE, text=True)  # fmt: skip
        self.assertEqual((done.returncode, done.stdout.splitlines()[-1]), (1, "0 passed, 1 failed, 0 skipped"))

    def test_an_interrupt_ends_all_and_says_so(self):
        program = os.path.join(os.path.dirname(HERE), "run")
        with subprocess.Popen([program, "harness", "-k", "hang_is_killed"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as runner:  # fmt: skip
            runner.stdout.readline()  # it has begun
            runner.send_signal(signal.SIGINT)
            output, errors = runner.communicate(timeout=60)
        self.assertEqual(runner.returncode, 130)
        self.assertIn("not everything ran", errors)
        self.assertIn("0 failed", output)


if __name__ == "__main__":
    unittest.main()
