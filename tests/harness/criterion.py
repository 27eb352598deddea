"""criterion.py: runs a Criterion program and reads what it reports.

Two habits of Criterion 2.4.1 shape this. The JSON it writes is not JSON once a message holds a quote, but
its layout is fixed, so it is read by lines. And its --timeout does nothing, so a test that hangs is found
by the line that --verbose printed when it began.
"""

import os
import re

import process
from results import FAILED, PASSED, SKIPPED, Group, Result

STATUS = {"PASSED": PASSED, "SKIPPED": SKIPPED}  # FAILED, ERRORED, and whatever comes: failed

SUITE = re.compile(r'^      "name": "(.*)",$')
TEST = re.compile(r'^          "name": "(.*)",$')
VERDICT = re.compile(r'^          "status": "(\w+)",?$')
MESSAGE = re.compile(r'^          "messages": \["(.*)"\]$|^            "(.*?)",?$')
TIMES = re.compile(r"^\[(?:PASS|FAIL|SKIP)\] (\w+)::(\w+): .*?\(([\d.]+)s\)", re.M)
BEGAN = re.compile(r"^\[RUN \] (\w+)::(\w+)", re.M)
ENDED = re.compile(r"^\[(?:PASS|FAIL|SKIP)\] (\w+)::(\w+)", re.M)


def parse(text):
    """[(suite, test, status, [message])] of a report."""
    suite, found = "", []
    for line in text.splitlines():
        if match := SUITE.match(line):
            suite = match[1]
        elif match := TEST.match(line):
            found.append((suite, match[1], FAILED, []))
        elif found and (match := VERDICT.match(line)):
            found[-1] = (*found[-1][:2], STATUS.get(match[1], FAILED), found[-1][3])
        elif found and (match := MESSAGE.match(line)):
            found[-1][3].append(match[1] if match[1] is not None else match[2])
    return found


def hung_tests(output):
    return sorted(set(BEGAN.findall(output)) - set(ENDED.findall(output)))


def run(program, name, limit, env=None, prefix=()):
    """Runs PROGRAM (a path below the project's root) and returns the Group of its tests, called NAME."""
    report = os.path.join(process.ROOT, f"{program}.json")
    if os.path.exists(report):
        os.unlink(report)
    again = program
    outcome = process.run([*prefix, os.path.join(process.ROOT, program), f"--json={report}", "--verbose", "--color=never"], limit, env)
    if outcome.hung:
        return Group(name, _results_of_hang(outcome, name, again), outcome.seconds)
    results = _results_of_report(report, outcome, again)
    failed = any(result.status == FAILED for result in results)
    if not results or (not outcome.ok and not failed):
        results.append(Result(name, FAILED, outcome.seconds, outcome.explain(), again))
    return Group(name, results, outcome.seconds)


def _results_of_hang(outcome, name, again):
    """No report was written: what ended is counted by what was printed."""
    results = []
    for line in outcome.output.splitlines():
        if match := re.match(r"^\[(PASS|FAIL|SKIP)\] (\w+)::(\w+)", line):
            status = {"PASS": PASSED, "FAIL": FAILED, "SKIP": SKIPPED}[match[1]]
            results.append(Result(f"{match[2]}/{match[3]}", status))
    for suite, test in hung_tests(outcome.output):
        command = f"{again} --filter {suite}/{test}"
        results.append(Result(f"{suite}/{test}", FAILED, outcome.limit, "hung: " + outcome.explain(), command))
    if not any(result.status == FAILED for result in results):
        results.append(Result(name, FAILED, outcome.limit, outcome.explain(), again))
    return results


def _results_of_report(report, outcome, again):
    try:
        with open(report, encoding="utf-8", errors="replace") as file:
            found = parse(file.read())
    except OSError:
        return []
    seconds = {(suite, test): float(time) for suite, test, time in TIMES.findall(outcome.output)}
    return [
        Result(
            f"{suite}/{test}", status, seconds.get((suite, test), 0.0),
            "\n".join(messages) if messages or status != FAILED else _crash(outcome.output, suite, test),
            f"{again} --filter {suite}/{test}",
        )
        for suite, test, status, messages in found
    ]  # fmt: skip


def _crash(output, suite, test):
    """A test that ended without an assertion: what the program printed around it is all there is."""
    at = output.find(f"[FAIL] {suite}::{test}")
    before = output[:at].splitlines()[-15:] if at >= 0 else []
    return "\n".join(["crashed, or exited by itself", *before])
