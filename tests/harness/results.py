"""results.py: the verdicts of tests, as they are collected and as a person reads them."""

import sys
import time

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
DETAIL_LINES = 20
COLOURS = {PASSED: "32", FAILED: "31", SKIPPED: "33"}


class Result:
    """One test's verdict. `rerun`: a command that runs this one alone."""

    def __init__(self, name, status, seconds=0.0, detail="", rerun=""):
        self.name = name
        self.status = status
        self.seconds = seconds
        self.detail = detail.strip()
        self.rerun = rerun


class Group:
    """The tests of one program, or of one kind: what progress is shown by."""

    def __init__(self, name, results, seconds=None):
        self.name = name
        self.results = results
        self.seconds = sum(result.seconds for result in results) if seconds is None else seconds


def count(results):
    """{"passed": n, "failed": n, "skipped": n}"""
    return {status: sum(result.status == status for result in results) for status in (PASSED, FAILED, SKIPPED)}


def sentence(counts):
    return f"{counts[PASSED]} passed, {counts[FAILED]} failed, {counts[SKIPPED]} skipped"


def _short(counts):
    return ", ".join(f"{number} {status}" for status, number in counts.items() if number) or "nothing ran"


class Report:
    def __init__(self, out=sys.stdout, verbose=False, colour=None):
        self._out = out
        self._verbose = verbose
        self._colour = out.isatty() if colour is None else colour
        self._all = []  # (tier, group, result)
        self._start = time.monotonic()

    def _print(self, text=""):
        print(text, file=self._out, flush=True)

    def _paint(self, text, status):
        return f"\x1b[{COLOURS[status]}m{text}\x1b[m" if self._colour else text

    def tier(self, name, about):
        self._print(f"{name}: {about}")

    def note(self, text):
        self._print(f"  {text}")

    def add(self, tier, group):
        """Keeps the group's results and prints its line, and one for each that failed."""
        self._all += [(tier, group, result) for result in group.results]
        counts = count(group.results)
        status = FAILED if counts[FAILED] or not group.results else SKIPPED if not counts[PASSED] else PASSED
        word = {PASSED: "ok", FAILED: "FAIL", SKIPPED: "skip"}[status]
        self._print(f"  {self._paint(f'{word:4}', status)} {group.name:34} {_short(counts):32} {group.seconds:6.1f} s")
        for result in group.results:
            if self._verbose or result.status == FAILED and len(group.results) > 1:
                self._print(f"         {self._paint(result.status, result.status)} {result.name}")

    def _show(self, title, status):
        chosen = [entry for entry in self._all if entry[2].status == status]
        if not chosen:
            return
        self._print()
        self._print(self._paint(title, status))
        for tier, group, result in chosen:
            label = result.name if result.name.startswith(group.name) else f"{group.name}: {result.name}"
            self._print(f"  {tier} {label}")
            lines = result.detail.splitlines()
            for line in lines[:DETAIL_LINES]:
                self._print(f"      {line}")
            if len(lines) > DETAIL_LINES:
                self._print(f"      ... and {len(lines) - DETAIL_LINES} more lines")
            if status == FAILED and result.rerun:
                self._print(f"      again: {result.rerun}")

    def finish(self):
        """Prints what was skipped and what failed, and the closing line. Returns the exit status."""
        self._show("Skipped:", SKIPPED)
        self._show("Failed:", FAILED)
        counts = count([result for _, _, result in self._all])
        self._print()
        self._print(f"{time.monotonic() - self._start:.0f} s")
        self._print(sentence(counts))
        return 1 if counts[FAILED] or not counts[PASSED] else 0
