"""doctor.py: is everything here that the course needs? Says what is missing, what for, and what to do."""

import os
import shutil
import subprocess
import sys

import machine
import probe
import sandbox
from course import Course

# (what, is it there, what it is for, how to get it); the first five are needed from lab 1 on
TOOLS = (
    ("gcc", "compiles your monitor", "apt install gcc"),
    ("make", "builds it", "apt install make"),
    ("as", "assembles the guests", "apt install binutils"),
    ("ld", "links the guests", "apt install binutils"),
    ("git", "keeps your work", "apt install git"),
)


def _compiles(header):
    done = subprocess.run(["gcc", "-fsyntax-only", "-x", "c", "-"], input=f"#include <{header}>\n", text=True,
                          capture_output=True, check=False)  # fmt: skip
    return done.returncode == 0


def _findings():
    """(is it there, must it be, what, what it is for or what to do)."""
    yield sys.version_info >= (3, 11), True, "Python 3.11", "runs this tool"
    for name, about, get in TOOLS:
        there = shutil.which(name) is not None
        yield there, True, name, about if there else f"{about}: {get}"
    if shutil.which("gcc"):
        there = _compiles("linux/kvm.h")
        yield there, True, "linux/kvm.h", "the KVM interface" + ("" if there else ": apt install linux-libc-dev")
        there = _compiles("criterion/criterion.h")
        yield there, False, "Criterion", "the unit tests, `make unit`" + ("" if there else ": apt install libcriterion-dev")
    yield bool(sandbox.namespace()), False, "process namespaces", "what hangs is ended more surely"
    yield sandbox.has_landlock(), False, "Landlock", "what is graded writes nowhere else"
    yield from _guests()


def _guests():
    """What runs guests: this host's KVM, the lab machine, or each some."""
    path, able = "/dev/kvm", probe.level()
    words = {
        probe.FULL: "runs every guest",
        probe.KVM: "runs simple guests; those with interrupts run in the lab machine",
        probe.NONE: "not there, or of no use: guests run in the lab machine, which is slower",
    }
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        words[probe.NONE] = "you may not open it: sudo usermod -aG kvm $USER, then log in again; till then the lab machine stands in"
    yield able == probe.FULL, False, path, words[able]
    lacking = machine.missing(Course())
    yield not lacking, able != probe.FULL, "lab machine", lacking or "runs guests where /dev/kvm does not"


def report(screen):
    """Prints a line for each; returns 0, or 3 if something that must be is missing."""
    status = 0
    for there, needed, what, about in _findings():
        word, style = ("ok", "good") if there else ("MISS", "bad") if needed else ("-", "warn")
        screen.wrapped(f"{what:19} {about}", f"{screen.paint(f'{word:4}', style)} ", " " * 25)
        status = status if there or not needed else 3
    screen.line("\neverything that the course needs is here." if status == 0 else "\nnot everything is here.")
    return status
