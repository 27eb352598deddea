#!/usr/bin/env python3
"""The style check finds what it is there for: each rule, planted violations, and their innocent neighbours."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

import rules  # noqa: E402
from tree import strip_c  # noqa: E402

SVG = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 80" font-family="sans-serif"><title>T</title>'
       '<rect width="200" height="80" fill="#fff"/><g transform="translate(90 10)">'
       '<text x="100" y="60" text-anchor="end">twenty-two letters now</text></g></svg>\n')  # fmt: skip
FRONT = '---\nmarp: true\ntheme: hvlab\npaginate: true\ntitle: "T"\nfooter: "F"\nminutes: 9\n---\n'
DECK = FRONT + "![h:500](figures/a.svg)\n\n<!-- _class: tight -->\n<!-- Say this. -->\n"
LISTINGS = "\n---\n\n```\n---\n```\n\n<!-- And this. -->\n" * 14

CLEAN = {
    "include/hv/mem/mem.h": "#ifndef M\n#define M\n#include <stdint.h>\nextern const uint8_t mem_zeroes[];\n#endif\n",
    "src/mem/mem.c": '#include "hv/mem/mem.h"\n\n/* TO DO lists: printf() stays in comments, exit() too. */\n'
                     "static _Thread_local int mine;\nint f(void);\nint f(void)\n{\n    return mine++;\n}\n"
                     "const uint8_t mem_zeroes[4];\nstatic const char *const texts[] = {\"exit(1)\", \"stderr\"};\n"
                     "const char *mem_text(void);\nconst char *mem_text(void)\n{\n    return texts[0];\n}\n",
    "src/mem/part_priv.h": "#ifndef P\n#define P\n#endif\n",
    "src/mem/part.c": '#include "mem/part_priv.h"\n',
    "src/cli/main.c": "#include <stdio.h>\n\nstatic int calls; // lab 01\n\n"
                      "int main(void)\n{\n    return printf(\"%d\\n\", calls++) < 0;\n}\n",
    "tool": "#!/bin/sh\necho \"$1\"\n",
    "tool.py": "print(1)\n",
    "slides/figures/a.svg": SVG,
    "slides/07-x.md": DECK + LISTINGS,
}  # fmt: skip

# rule -> [(file, its text, what the complaint must say)]; each is planted into a clean tree by itself.
PLANTED = {
    "layers": [
        ("src/mem/bad.c", '#include "hv/x86/paging.h"\n', 'src/mem/bad.c:1: mem may not include "hv/x86'),
        ("src/mem/bad.c", '#include "hv/kvm/kvm.h"\n', "may not include"),  # of the same group: not to the left
        ("include/hv/base/bad.h", '\n#include "hv/mem/mem.h"\n', "include/hv/base/bad.h:2: base"),
        ("src/devices/bad.c", '#  include "hv/machine/machine.h"\n', "devices may not include"),
        ("src/nonsense/bad.c", "int nonsense;\n", "nonsense is no layer"),
    ],
    "private-headers": [
        ("src/boot/bad.c", '#include "x86/x86_priv.h"\n', "private"),
        ("include/hv/boot/bad.h", '#include "boot/boot_priv.h"\n', "private"),
    ],
    "own-header-first": [
        ("src/mem/part.c", '#include <stdint.h>\n#include "mem/part_priv.h"\n', "first include must be"),
        ("src/mem/mem.c", '#include <stdint.h>\n#include "hv/mem/mem.h"\n', "first include must be"),
    ],
    "kvm-header": [
        ("src/devices/bad.c", "#include <linux/kvm.h>\n", "devices may not include <linux/kvm.h>"),
        ("include/hv/boot/bad.h", "#include <linux/kvm.h>\n", "boot may not"),
    ],
    "guest-pointers": [
        ("src/boot/bad.c", "char *f(struct r *r)\n{\n    return r->host;\n}\n", "src/boot/bad.c:3"),
        ("src/machine/bad.c", "char *p = mem->regions[0].host + 4096;\n", "host address"),
    ],
    "no-output-below-cli": [
        ("src/mem/bad.c", 'void f(void)\n{\n    printf("x");\n}\n', "src/mem/bad.c:3: printf() below"),
        ("src/mem/bad.c", 'void f(void)\n{\n    fprintf(stderr, "x");\n}\n', "stderr below"),
        ("include/hv/mem/bad.h", "static inline void f(void)\n{\n    exit (1);\n}\n", "exit() below"),
        ("src/mem/bad.c", "void f(void)\n{\n    abort();\n}\n", "abort() below"),
        ("src/mem/bad.c", 'void f(void)\n{\n    perror("x");\n}\n', "perror() below"),
    ],
    "no-mutable-state": [
        ("src/mem/bad.c", "static int count;\nint f(void);\nint f(void)\n{\n    return ++count;\n}\n", "count is writable"),
        ("src/mem/bad.c", "int mem_flag = 1;\n", "mem_flag is writable"),
        ("src/mem/bad.c", "int f(void);\nint f(void)\n{\n    static int n = 3;\n    return n++;\n}\n", "writable"),
        ("src/mem/bad.c", "static char buf;\nchar *at = &buf;\n", "at is writable"),
        ("src/mem/bad.c", "int broken(\n", "does not compile"),
    ],
    "no-constructors": [("src/mem/bad.c", "__attribute__((constructor)) static void f(void)\n{\n}\n", "constructor")],
    "no-extern-in-c": [("src/mem/bad.c", "extern int other;\n", "extern int other")],
    "headers-alone-gcc": [
        ("include/hv/mem/bad.h", "uint64_t f(void);\n", "include/hv/mem/bad.h:1: does not compile alone"),
        ("include/hv/mem/bad.h", "struct unguarded {\n    int x;\n};\n", "does not compile alone"),
    ],
    "headers-alone-clang": [("src/mem/bad_priv.h", "size_t f(void);\n", "does not compile alone")],
    "clang": [("src/mem/bad.c", "int f(void);\nint f(void)\n{\n    int unused;\n    return 0;\n}\n", "unused")],
    "format": [("src/mem/bad.c", "int  f( void );\n", "src/mem/bad.c:1")],
    "shell": [("bad", "#!/bin/sh\necho $1\n", "SC2086"), ("dir/bad.sh", "#!/bin/bash\ncd $1\n", "SC2164")],
    "python": [("bad.py", "def f(:\n", "bad.py:1"), ("bad", "#!/usr/bin/env python3\nprint 1\n", "bad:2")],
    "no-todo": [
        ("src/mem/bad.c", "/* TODO: more */\n", "src/mem/bad.c:1: TODO"),
        ("guest/bad.S", "# FIXME\n", "guest/bad.S:1: FIXME"),
    ],
    "no-foreign-paths": [
        ("bad.txt", "see /work/notes/x\n", "bad.txt:1: /work/notes/x"),
        ("bad.txt", "#\nopen('/home/ann/x')\n", "bad.txt:2"),
    ],
    "lab-tags": [
        ("src/mem/bad.c", "int x; // lab 07\n", "does not belong here"),
        ("src/x86/bad.c", "// lab 7 {\n// }\n", "belong"),
    ],
    "blanks": [
        ("bad.txt", "one \n", "bad.txt:1: blanks"),
        ("bad.txt", "one", "bad.txt: no newline"),
        ("src/mem/bad.c", "int f(void)\n{\n\treturn 1;\n}\n", "src/mem/bad.c:3: a tab"),
    ],
    "figures": [
        ("slides/figures/b.svg", SVG, "b.svg: no handout and no deck shows it"),
        ("slides/figures/a.svg", SVG.replace("</g>", ""), "mismatched tag"),
        ("slides/figures/a.svg", SVG.replace("viewBox", "view"), "no svg with a viewBox"),
        ("slides/figures/a.svg", SVG.replace("<title>T</title>", ""), "no title"),
        ("slides/figures/a.svg", SVG.replace('fill="#fff"', 'fill="none"'), "no background"),
        ("slides/figures/a.svg", SVG.replace("<g", '<image href="https://example.org/x.png"/><g'), "refers to https"),
        ("slides/figures/a.svg", SVG.replace('fill="#fff"', 'fill="url(b.svg#x)"'), "refers to url(b.svg"),
        ("slides/figures/a.svg", SVG.replace("sans-serif", "Comic Sans"), "font-family Comic Sans"),
        ("slides/figures/a.svg", SVG.replace("<text ", '<text font-size="8" '), "only 8 tall"),
        ("slides/figures/a.svg", SVG.replace(' text-anchor="end"', ""), "sticks out of the viewBox by about 1"),
        ("slides/figures/a.svg", SVG.replace('y="60"', 'y="80"'), "sticks out"),
        ("slides/figures/a.svg", SVG.replace("twenty-", "twenty- and one more, and then "), "sticks out"),
    ],
    "decks": [
        ("slides/07-x.md", DECK.replace("h:500", "") + LISTINGS, "without a height"),
        ("slides/07-x.md", DECK.replace("h:500", "h:60") + LISTINGS, "smallest letters are 12.0 px on the page"),
        ("slides/07-x.md", DECK.replace("theme: hvlab\n", ""), "front matter lacks `theme: hvlab`"),
        ("slides/07-x.md", DECK.replace("figures/", ""), "no figure"),
        ("slides/07-x.md", DECK.replace("<!-- Say this. -->", ""), "page 1: no notes"),
        ("slides/07-x.md", DECK + "\n---\n\nnothing said\n" + LISTINGS, "page 2: no notes"),
        ("slides/07-x.md", DECK + LISTINGS[:100], "07-x.md: 4 pages, not 15 to 25"),
    ],
}  # fmt: skip


def plant(directory, files):
    for name, text in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def check(files, *options):
    """(exit status, {rule: record}) for a tree of these files."""
    with tempfile.TemporaryDirectory() as scratch:
        root, report = os.path.join(scratch, "tree"), os.path.join(scratch, "report.json")
        plant(root, files)
        shutil.copy(os.path.join(ROOT, ".clang-format"), root)
        done = subprocess.run([os.path.join(HERE, "check"), "--root", root, "--json", report, *options], check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        if not os.path.exists(report):
            raise AssertionError(done.stdout)
        with open(report, encoding="utf-8") as file:
            return done.returncode, {record["name"]: record for record in json.load(file)}


class Check(unittest.TestCase):
    def test_a_clean_tree_passes(self):
        status, records = check(CLEAN)
        self.assertEqual({name: record["detail"] for name, record in records.items() if record["status"] == "failed"}, {})
        self.assertEqual(status, 0)
        self.assertEqual(len(records), len(rules.RULES))

    def test_every_rule_has_a_planted_violation(self):
        names = {rule.__name__.replace("_", "-") for rule in rules.RULES if rule not in rules.NOTES}
        self.assertEqual(names, set(PLANTED))

    def test_a_missing_tool_is_a_skip(self):
        with tempfile.TemporaryDirectory() as scratch:
            plant(scratch, CLEAN)
            report = os.path.join(scratch, "report.json")
            subprocess.run([sys.executable, os.path.join(HERE, "check"), "--root", scratch, "--json", report, "-k",
                            "format"], check=True, env={"PATH": scratch}, stdout=subprocess.DEVNULL)  # fmt: skip
            with open(report, encoding="utf-8") as file:
                self.assertEqual([record["status"] for record in json.load(file)], ["skipped"])

    def test_long_files_are_noted_and_fail_nothing(self):
        status, records = check({"src/mem/long.c": "\n" * 601}, "-k", "file-length")
        self.assertEqual((status, records["file-length"]["status"]), (0, "passed"))
        self.assertIn("src/mem/long.c: 601 lines", records["file-length"]["detail"])

    def test_build_and_git_are_left_out(self):
        self.assertEqual(check({**CLEAN, "build/x.c": "/* TODO */\n"}, "-k", "no-todo")[0], 0)

    def test_it_does_not_look_into_comments_and_strings(self):
        code = 'a /* b\n"c */ d // e "f\n"g /* h" \'"\' i\n#include "j.h"\n'
        self.assertEqual(strip_c(code), 'a  \n d  \n"" \'\' i\n#include "j.h"\n')

    def test_layers_are_those_of_the_source(self):
        there = {name for name in os.listdir(os.path.join(ROOT, "include/hv")) if re.fullmatch(r"[a-z0-9]+", name)}
        self.assertLessEqual(there, set(rules.RANK))


def _test_of(rule, name, text, complaint):
    def test(self):
        status, records = check({**CLEAN, name: text}, "-k", rule)
        if records[rule]["status"] == "skipped":
            self.skipTest(records[rule]["detail"])
        self.assertEqual((status, records[rule]["status"]), (1, "failed"), f"not found: {text}")
        self.assertIn(complaint, records[rule]["detail"])

    return test


for _rule, _cases in PLANTED.items():
    for _index, _case in enumerate(_cases, 1):
        setattr(Check, f"test_finds_{_rule.replace('-', '_')}_{_index}", _test_of(_rule, *_case))


if __name__ == "__main__":
    unittest.main()
