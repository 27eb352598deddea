#!/usr/bin/env python3
"""test_slides.py: slides/tool/slides finds what does not fit, and makes what it says; then: the course's own decks fit.

Needs what `tests/setup/deps slides` installs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SLIDES = os.path.join(ROOT, "slides", "tool", "slides")

FRONT = '---\nmarp: true\ntheme: hvlab\npaginate: true\ntitle: "{0}"\nfooter: "{0}"\nminutes: 12\n---\n\n# {0}\n'
FIGURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 200" font-family="sans-serif" font-size="20">
<rect width="400" height="200" fill="#eee"/>{}</svg>"""

# A page's text, and what must be said about it; none: it fits.
PAGES = (
    ("eight points", "## Points\n\n" + "- one line of a point\n" * 8, None),
    ("nine rows", "## Rows\n\n| a | b |\n|---|---|\n" + "| one | two |\n" * 9, None),
    ("twelve lines", "## Code\n\n```c\n" + "int x = 1;\n" * 12 + "```\n", None),
    ("a figure", "## Figure\n\n![h:500](figures/fits.svg)\n", None),
    ("the notes do not count", "## Notes\n\n<!--\n" + "much to say\n\n" * 60 + "-->\n", None),
    ("twenty points", "## Points\n\n" + "- one line of a point\n" * 20, r'li "one line.*" beyond the bottom by \d+ px'),
    ("thirty rows", "## Rows\n\n| a | b |\n|---|---|\n" + "| one | two |\n" * 30, r"table beyond the bottom by \d+ px"),
    ("thirty lines", "## Code\n\n```c\n" + "int x = 1;\n" * 30 + "```\n", r"pre beyond the bottom by \d+ px"),
    ("a long line", "## Code\n\n```\n" + "wide " * 30 + "\n```\n", r'pre "wide .*" is cut at the right|"wide .*" beyond the right'),
    ("a wide table", "## Wide\n\n| a | b |\n|---|---|\n| `" + "x" * 50 + "` | `" + "y" * 50 + "` |\n", "beyond the right"),
    ("a long word", "## Word\n\n`" + "x" * 200 + "`\n\n`" + "y" * 200 + "`\n" + "\n![w:2000 h:600](figures/fits.svg)\n",
     r"figure figures/fits.svg beyond the bottom"),
    ("no such figure", "## Gone\n\n![h:300](figures/gone.svg)\n", r"figure figures/gone.svg does not load"),
)  # fmt: skip
FIGURES = {
    "fits.svg": ('<text x="20" y="40">inside</text>', None),
    "out.svg": ('<text x="300" y="40">far too long for here</text>', r'"far too long for here" beyond the side by \d+'),
    "below.svg": ('<text x="20" y="210">low</text>', r'"low" beyond top or bottom by \d+'),
    "on-each-other.svg": ('<text x="20" y="40">one text</text><text x="30" y="44">two text</text>',
                          '"one text" and "two text" lie on each other'),
    "box.svg": ('<rect x="20" y="20" width="90" height="40"/><text x="25" y="46">wider than it</text>',
                r'"wider than it" sticks out of its box by \d+'),
    "wide-font.svg": ('<text x="20" y="40">' + "minimum mmm " * 2 + "minimum</text>",
                      "beyond the side by .*, in DejaVu Sans"),
}  # fmt: skip


def slides(*arguments, **environment):
    return subprocess.run([SLIDES, *arguments], env={**os.environ, **environment}, check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


class Planted(unittest.TestCase):
    """One deck with pages that fit and pages that do not, looked at once."""

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = directory.name
        os.mkdir(cls.path("figures"))
        for name, (text, _) in FIGURES.items():
            cls.write(os.path.join("figures", name), FIGURE.format(text))
        cls.write("07-planted.md", FRONT.format("Planted") + "".join(f"\n---\n\n{text}" for _, text, _ in PAGES))
        cls.write("08-good.md", FRONT.format("Good & short") + f"\n---\n\n{PAGES[0][1]}<!-- Say this. -->\n")
        cls.done = slides("--out", cls.path("out"), "--png", cls.path("png"), cls.path("07-planted.md"), cls.path("08-good.md"))
        cls.said = cls.done.stdout.splitlines()

    @classmethod
    def path(cls, *names):
        return os.path.join(cls.directory, *names)

    @classmethod
    def write(cls, name, text):
        with open(cls.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, *names):
        with open(self.path(*names), encoding="utf-8") as file:
            return file.read()

    def expect(self, prefix, expected):
        said = [line.removeprefix(prefix) for line in self.said if line.startswith(prefix)]
        if expected is None:
            self.assertEqual(said, [])
        else:
            self.assertTrue(any(re.search(expected, line) for line in said), f"{said or self.done.stderr}")

    def test_what_does_not_fit_is_named_with_its_page(self):
        for number, (name, _, expected) in enumerate(PAGES, 2):
            with self.subTest(name):
                self.expect(f"07-planted.md, page {number}: ", expected)

    def test_texts_of_figures_are_measured(self):
        for name, (_, expected) in FIGURES.items():
            with self.subTest(name):
                self.expect(f"figures/{name}: ", expected)

    def test_a_deck_that_fits_has_no_complaint(self):
        self.expect("08-good.md", None)

    def test_complaints_fail(self):
        self.assertEqual(self.done.returncode, 1, self.done.stderr)

    def test_html_and_pdf_are_made_all_the_same(self):
        self.assertIn("Say this.", self.read("out", "08-good.html"))
        with open(self.path("out", "08-good.pdf"), "rb") as file:
            self.assertEqual(file.read(5), b"%PDF-")
        self.assertTrue(os.path.exists(self.path("out", "figures", "fits.svg")))

    def test_nothing_in_the_html_comes_from_elsewhere(self):
        loads = re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"|@import|url\(\s*[\'"]?https?:', self.read("out", "07-planted.html"))
        self.assertEqual(loads, [])

    def test_the_index_lists_decks_with_title_pages_minutes_and_pdf(self):
        index = self.read("out", "index.html")
        self.assertIn('<a href="08-good.html">Good &amp; short</a>', index)
        self.assertIn('<a href="08-good.pdf">PDF</a>', index)
        self.assertRegex(index, r"<td>2</td><td>12</td>")

    def test_every_page_is_painted(self):
        self.assertEqual(len([name for name in os.listdir(self.path("png")) if name.startswith("07-")]), len(PAGES) + 1)


class Trouble(unittest.TestCase):
    def test_without_marp_it_says_what_to_do(self):
        with tempfile.TemporaryDirectory() as empty:
            done = slides("--check", HVLAB_CACHE=empty)
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, "^slides: Marp is not there; `tests/setup/deps slides` fetches it")

    def test_without_a_browser_it_says_what_to_do(self):
        with tempfile.TemporaryDirectory() as empty:
            os.symlink(sys.executable, os.path.join(empty, "python3"))
            done = slides("--check", PATH=empty, CHROME_PATH="")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no Chromium here", done.stderr)

    def test_a_deck_that_is_not_there_is_usage(self):
        self.assertEqual(slides("nowhere.md").returncode, 2)


class Course(unittest.TestCase):
    def test_every_page_of_every_deck_fits(self):
        done = slides("--check")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)


class Lock(unittest.TestCase):
    def test_every_package_has_its_sum_and_no_host(self):
        with open(os.path.join(ROOT, "slides", "tool", "package-lock.json"), encoding="utf-8") as file:
            packages = json.load(file)["packages"]
        for name, package in packages.items():
            if name:
                self.assertIn("integrity", package, name)
                self.assertNotIn("resolved", package, name)


if __name__ == "__main__":
    unittest.main()
