#!/usr/bin/env python3
"""What the documents say is true where a program can tell: names exist, links lead somewhere, the manual, the
completion and `hv help` list the same options."""

import sys

sys.dont_write_bytecode = True

import os  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import unittest  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "labs/tool"))

import documents as lab_documents  # noqa: E402
from course import Course  # noqa: E402

HV = os.path.join(ROOT, "build", "release", "hv")
MANUAL = os.path.join(ROOT, "src", "cli", "hv.1")
PROTOCOL = os.path.join(ROOT, "src", "cli", "hv-control.7")
COMPLETION = os.path.join(ROOT, "src", "cli", "hv.bash")


def setUpModule():
    subprocess.run(["make", "-s", os.path.relpath(HV, ROOT)], cwd=ROOT, check=True)


def tracked(*patterns):
    """The project's own files (a checkout's, or an unpacked archive's) that match."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, check=True,
                             stdout=subprocess.PIPE, text=True)
    return sorted(set(listing.stdout.split()))


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


# --- what there is ---------------------------------------------------------------------------------


def commands():
    return re.findall(r"^  hv ([a-z]+) ", output(HV, "help"), re.M)


def options_of(command):
    """{(short or None, long, value or None)} as `hv help` prints them."""
    pattern = r"^  (?:-(.),|   ) --([a-z-]+)(?: (\S+))?"
    return {(short or None, name, value or None)
            for short, name, value in re.findall(pattern, output(HV, "help", command), re.M)}


# --- what the manual says --------------------------------------------------------------------------


def manual_section(command):
    found = re.search(rf"^\.Ss hv {command}\n(.*?)(?=^\.S[sh] )", read(MANUAL), re.M | re.S)
    return found[1] if found else ""


def plain(macros):
    """'FILE' from 'Ar FILE', 'on|off' from 'Cm on Ns | Ns Cm off'."""
    words = [word for word in macros.split() if word not in ("Ar", "Cm")]
    return " ".join(words).replace(" Ns ", "") or None


def manual_options(command):
    pattern = r"^\.It (?:Fl (\w) , )?Fl \\-([a-z-]+)(.*)$"
    return {(short or None, name, plain(value))
            for short, name, value in re.findall(pattern, manual_section(command), re.M)}


class Manual(unittest.TestCase):
    def test_every_command_has_a_section(self):
        for command in commands():
            self.assertTrue(manual_section(command), f"hv.1 has no section on hv {command}")

    def test_options_agree_with_help(self):
        for command in commands():
            if command == "help":
                continue
            with self.subTest(command=command):
                self.assertEqual(manual_options(command), options_of(command))

    def test_exit_statuses_agree_with_the_source(self):
        source = set(re.findall(r"STATUS_\w+ = (\d+)", read("src/cli/cli.h")))
        section = re.search(r"^\.Sh EXIT STATUS\n(.*?)^\.Sh", read(MANUAL), re.M | re.S)[1]
        self.assertEqual(set(re.findall(r"^\.It (\d+)$", section, re.M)), source)

    def test_it_renders_without_warnings(self):
        if shutil.which("man") is None:
            self.skipTest("no man here")
        for manual in (MANUAL, PROTOCOL):
            run = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", manual], env=dict(os.environ, MANWIDTH="80"),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
            self.assertEqual(run.stderr, "", manual)


# --- the completion --------------------------------------------------------------------------------


def complete(*words):
    """What bash offers for the last of WORDS."""
    script = f"""
        source {COMPLETION}
        compopt() {{ :; }}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _hv "$1"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return output("bash", "--norc", "-c", script, "bash", HV, *words).split()


class Completion(unittest.TestCase):
    def test_commands(self):
        self.assertLessEqual(set(commands()), set(complete("")))
        self.assertEqual(complete("ins"), ["inspect"])
        self.assertEqual(complete("help", "tr"), ["trace"])

    def test_every_option_is_offered(self):
        for command in commands():
            if command == "help":
                continue
            names = {"--" + name for _, name, _ in options_of(command)}
            self.assertEqual(set(complete(command, "--")), names | {"--help"})

    def test_every_value_has_a_kind(self):
        """An option that takes a value must not be answered with more options."""
        for command in ("run", "doctor", "trace"):
            for short, name, value in options_of(command):
                if value:
                    for option in ["--" + name] + (["-" + short] if short else []):
                        self.assertNotIn("--help", complete(command, option, ""), f"{command} {option}")

    def test_values(self):
        self.assertEqual(complete("run", "--boot", "m"), ["multiboot"])
        self.assertEqual(complete("run", "--boot", "=", "m"), ["multiboot"])
        self.assertEqual(complete("run", "--kernel", "Make"), ["Makefile"])
        self.assertEqual(complete("run", "--serial", "file", ":", "Make"), ["Makefile"])
        self.assertEqual(complete("inspect", "LIC"), ["LICENSE"])

    def test_words_are_what_hv_takes(self):
        """hv refuses none of the words that are offered for its own options."""
        for option in ("--boot", "--memory-backing", "--irqchip", "--log-level", "--memory", "--cpus"):
            for word in complete("run", option, ""):
                run = subprocess.run([HV, "run", option, word], stderr=subprocess.PIPE, text=True, check=False)
                self.assertIn("give --kernel FILE", run.stderr, f"{option} {word}")


# --- prose -----------------------------------------------------------------------------------------


def tour_names():
    """Everything in `code` in src/README.md, but for the titles of other people's documents."""
    return re.findall(r"`([^`]+)`", read("src/README.md").split("## Bibliography")[0])


class Prose(unittest.TestCase):
    def test_functions_of_the_tour_exist(self):
        source = "\n".join(read(path) for path in tracked("src/*.c", "src/*.h", "include/*.h"))
        for name in tour_names():
            if name.endswith("()"):
                self.assertRegex(source, rf"(?m)^[a-z].*\b{re.escape(name[:-2])}\(", f"{name} in src/README.md")

    def test_functions_of_the_tour_are_where_it_says(self):
        for name, path in re.findall(r"`(\w+)\(\)`\s+in\s+`(\w+/\w+\.c)`", read("src/README.md")):
            self.assertRegex(read(f"src/{path}"), rf"(?m)^[a-z].*\b{name}\(", f"{name}() in {path}")

    def test_files_of_the_tour_exist(self):
        for name in tour_names():
            if re.fullmatch(r"[a-z][\w./-]*\.(c|h|py|asl)", name):
                there = any(os.path.exists(os.path.join(ROOT, place, name)) for place in ("", "src", "src/machine"))
                self.assertTrue(there, f"{name} in src/README.md")

    def test_constants_of_the_tour_exist(self):
        source = "\n".join(read(path) for path in tracked("src/*.c", "src/*.h", "include/*.h"))
        for name in tour_names():
            if re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", name):
                self.assertRegex(source, rf"\b{name}\b", f"{name} in src/README.md")

    def test_links_lead_to_files(self):
        for path in tracked("*.md"):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(path)):
                if "://" not in target:
                    place = os.path.join(ROOT, os.path.dirname(path), target)
                    self.assertTrue(os.path.exists(place), f"{path} links to {target}")

    def test_links_within_a_page_lead_to_headings(self):
        for path in tracked("*.md"):
            text = read(path)
            headings = {re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
                        for line in re.findall(r"^#+ (.*)$", text, re.M)}
            for anchor in re.findall(r"\]\(#([^)]+)\)", text):
                self.assertIn(anchor, headings, f"{path} links to #{anchor}")

    def test_labs_agree_with_the_sources(self):
        course = Course(ROOT)
        for lab in map(course.lab, sorted(course.labs)):
            if lab.ready() or not lab.files:
                self.assertEqual(lab_documents.complaints(course, lab), [], lab.name)

    def test_make_targets_exist(self):
        targets = set(re.findall(r"^([a-z-]+):", read("Makefile") + read("guest/guest.mk"), re.M))
        for path in ("README.md", "CONTRIBUTING.md"):
            for target in re.findall(r"(?m)(?:^|`)make ([a-z][a-z-]*)", read(path)):
                self.assertIn(target, targets, f"make {target} in {path}")


if __name__ == "__main__":
    unittest.main()
