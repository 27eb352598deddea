"""show.py: what the course tool says, on a terminal of 80 columns, with or without colour, or on a pipe."""

import os
import re
import shutil
import sys
import textwrap

import grader

COLOURS = {"good": "32", "bad": "31", "dim": "2", "bold": "1", "warn": "33"}
MARKS = {grader.PASSED: ("ok", "good"), grader.FAILED: ("FAIL", "bad"),
         grader.CANNOT_RUN: ("none", "warn"), grader.ERROR: ("ERR", "warn")}  # fmt: skip


class Screen:
    def __init__(self, out=None, colour=None):
        self._out = out or sys.stdout
        terminal = self._out.isatty()
        self._colour = terminal and "NO_COLOR" not in os.environ if colour is None else colour
        self.live = terminal  # may a line be overwritten?
        self.width = max(40, min(80, shutil.get_terminal_size((80, 24)).columns)) if terminal else 80

    def paint(self, text, *styles):
        codes = ";".join(COLOURS[style] for style in styles if style)
        return f"\x1b[{codes}m{text}\x1b[m" if self._colour and codes else text

    def line(self, text=""):
        print(text, file=self._out, flush=True)

    def passing(self, text):
        """Progress that the next line overwrites; nothing on a pipe."""
        if self.live:
            print(f"\r\x1b[K{text[: self.width - 1]}", end="", file=self._out, flush=True)

    def note(self, text):
        """What takes long: passing on a terminal, a line on a pipe."""
        (self.passing if self.live else self.line)(text)

    def clear(self):
        if self.live:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def wrapped(self, text, first="", rest=None, *styles):
        """TEXT in lines that fit; its own line breaks stay."""
        rest = " " * len(first) if rest is None else rest
        for count, part in enumerate(text.split("\n")):
            lead = first if count == 0 else rest
            for line in textwrap.wrap(part, self.width, initial_indent=lead, subsequent_indent=rest) or [lead]:
                self.line(self.paint(line.rstrip(), *styles))

    def bar(self, done, total, width=30):
        """A bar of WIDTH cells."""
        full = done * width // total if total else 0
        unicode = "utf" in (getattr(self._out, "encoding", "") or "").lower()
        filled, empty = ("█", "·") if unicode else ("#", ".")
        return self.paint(filled * full, "good") + self.paint(empty * (width - full), "dim")

    # --- grading ---

    def check(self, record):
        """One line, and the reason below it if it did not pass."""
        self.clear()
        word, style = MARKS[record["verdict"]]
        score = f"{record['score']:3}/{record['points']}"
        title = f"{record['exercise']:7} {record['title']}"
        self.line(f"{self.paint(f'{word:4}', style)} {score:6} {title[: self.width - 12]}")

    def failure(self, record, hint=True):
        """What was tried, expected, got; the guest's last exits; which section to reread."""
        self.line()
        self.line(self.paint(f"{record['exercise']} {record['name']}: {record['verdict']}", "bold"))
        if record["verdict"] != grader.FAILED:
            self.wrapped(record.get("why", ""), "  ")
            return
        for label in ("tried", "expected", "got"):
            self.wrapped(str(record[label]), f"  {label:9} ")
        if grader.blamed(record):
            self.wrapped(f"exercise {grader.blamed(record)} is not written yet", "  because   ")
        elif record.get("said"):
            self.wrapped(record["said"], "  it said   ")
        for count, text in enumerate(record.get("exits", ())[-8:]):
            self.line(f"  {'exits' if count == 0 else '':9} {text}"[: self.width])
        self.wrapped(f"{record['section']}", "  reread    ")

    def summary(self, result, more=3):
        """The failures, the first MORE of them, and the score."""
        failed = [record for record in result["checks"] if record["verdict"] != grader.PASSED]
        build = result["build"]
        if not build["ok"] and build["log"]:
            self.line()
            self.line(self.paint("It does not compile:", "bold"))
            for text in build["log"].splitlines()[:12]:
                self.line("  " + text[: self.width - 2])
        else:
            for record in failed[:more]:
                self.failure(record)
            if len(failed) > more:
                self.line(f"\nand {len(failed) - more} more; the first is the earliest broken layer.")
        self.line()
        if build["warnings"]:
            self.line(self.paint(f"The compiler warns ({build['warnings']}); `make` shows it.", "warn"))
        bar = self.bar(result["score"], result["max"])
        self.line(f"lab {result['lab']}: {bar} {result['score']}/{result['max']}")
        self.line(self.paint(f"seed {result['seed']}, {result['seconds']:.0f} s", "dim"))

    # --- verifying ---

    def step(self, step):
        self.clear()
        word, style = MARKS[step.verdict]
        self.line(f"{self.paint(f'{word:4}', style)} {step.name:52} {step.seconds:6.1f} s")
        for note in step.notes:
            self.wrapped(note, "       ")


def plain(markdown):
    """A hint's Markdown as a terminal shows it."""
    return re.sub(r"\*\*([^*]+)\*\*", r"\1", markdown)
