"""minicourse.py: a course of two labs that builds in a blink, for tests of the course tool."""

import os
import shutil
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "labs/tool"))

from course import Course  # noqa: E402

FILES = {
    "Makefile": """\
WERROR ?= 1
ALL := -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror)
LIBS :=
LIB := $(wildcard src/base/*.c)
build/release/hv: src/cli/main.c build/release/libhv.a
	@mkdir -p $(@D)
	gcc $(ALL) -Isrc -o $@ $^
build/release/libhv.a: $(LIB:%.c=build/%.o)
	@mkdir -p $(@D)
	rm -f $@; ar rcs $@ $^
build/%.o: %.c src/base/base.h
	@mkdir -p $(@D)
	gcc $(ALL) -Isrc -c -o $@ $<
two: ; # lab 02
""",
    "src/base/base.h": "int todo(const char *name);\nint add(int a, int b);\nint twice(int a);\nint half(int a);\n",
    "src/base/todo.c": """\
#include "base/base.h"
#include <stdio.h>
int todo(const char *name)
{
    fprintf(stderr, "exercise %s is not implemented yet (labs/01-one)\\n", name);
    return -38;
}
""",
    "src/base/add.c": """\
#include "base/base.h"

int add(int a, int b)
{
    /* EXERCISE 1.1: the sum. */
    // SOLUTION 1.1
    int sum = a + b;
    return sum;
    // ELSE
    // (void)a;
    // (void)b;
    // return todo("1.1");
    // END 1.1
}

int twice(int a)
{
    /* EXERCISE 1.2: twice. */
    (void)a;
    // SOLUTION 1.2
    return 2 * a;
    // END 1.2
}
""",
    "src/base/half.c": """\
#include "base/base.h"

int half(int a)
{
    /* EXERCISE 2.1: half. */
    (void)a;
    // SOLUTION 2.1
    return a / 2;
    // END 2.1
}
""",
    "src/cli/main.c": """\
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    int value = argc > 1 ? atoi(argv[1]) : 0;
    printf("%d\\n", add(value, 1));
    printf("%d\\n", twice(value));
    printf("%d\\n", half(value)); // lab 02
    return 0;
}
""",
    "labs/01-one/lab.toml": """\
[lab]
number = 1
topic = "one"
title = "One"
goal = "Sums."
hours = "1"
[stage]
files = ["Makefile", "src/base/base.h", "src/base/todo.c", "src/base/a*.c", "src/cli/main.c"]
[[exercise]]
id = "1.1"
title = "add"
file = "src/base/add.c"
lines = 2
[[exercise]]
id = "1.2"
title = "twice"
file = "src/base/add.c"
lines = 1
[[check]]
name = "sums"
exercise = "1.1"
points = 50
tier = "unit"
title = "sums are right"
section = "#11-add"
limit = 4
[[check]]
name = "doubles"
exercise = "1.2"
points = 30
tier = "unit"
title = "doubles are right"
section = "#12-twice"
limit = 4
[[check]]
name = "large"
exercise = "hostile"
points = 20
tier = "unit"
title = "large numbers are numbers"
section = "#11-add"
limit = 3
""",
    "labs/01-one/checks.py": """\
def sums(lab):
    value = lab.rng.randrange(1000)
    run = lab.hv(value)
    lab.expect(tried=f"hv {value}", expected=str(value + 1).encode(), got=run.out.split(b"\\n")[0])


def doubles(lab):
    value = lab.rng.randrange(1000)
    record = lab.driver("twice", value).record
    lab.expect(tried=f"twice({value})", expected=2 * value, got=record["value"])


def large(lab):
    run = lab.hv(10**9, limit=2)
    lab.expect(tried="hv 1000000000", expected=b"1000000001", got=run.out.split(b"\\n")[0])
""",
    "labs/01-one/drivers/twice.c": """\
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    dprintf(3, "{\\"value\\": %d}\\n", twice(atoi(argv[argc - 1])));
    return 0;
}
""",
    "labs/01-one/hints.md": "## 1.1\n\n1. One.\n2. Two,\nlonger.\n3. Three.\n\n## 1.2\n\n1. A.\n2. B.\n3. C.\n",
    "labs/01-one/README.md": "# One\n\n## 1.1 Add\n\n## 1.2 Twice\n",
    "labs/02-two/lab.toml": """\
[lab]
number = 2
topic = "two"
title = "Two"
goal = "Halves."
hours = "1"
[stage]
files = ["src/base/half.c"]
[[exercise]]
id = "2.1"
title = "half"
file = "src/base/half.c"
lines = 1
[[check]]
name = "halves"
exercise = "2.1"
points = 100
tier = "unit"
title = "halves are right"
section = "#21-half"
limit = 4
""",
    "labs/02-two/checks.py": """\
def halves(lab):
    lab.expect(tried="hv 8", expected=b"4", got=lab.hv(8).out.split(b"\\n")[2])
""",
    "labs/02-two/README.md": "# Two\n",
    "solutions/01-one/mutants.toml": """\
[[mutant]]
exercise = "1.1"
name = "minus"
caught_by = ["sums", "large"]
why = "the wrong sign"
find = "a + b"
replace = "a - b"
[[mutant]]
exercise = "1.2"
name = "nothing_changes"
caught_by = ["doubles"]
why = "this one survives: it is right"
find = "2 * a"
replace = "a * 2"
""",
}


class CourseCase(unittest.TestCase):
    """A test with a fresh copy of the mini course in self.course, and self.scratch to write in."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="minicourse-")
        self.addCleanup(holder.cleanup)
        self.scratch = os.path.join(holder.name, "scratch")
        self.root = os.path.join(holder.name, "course")
        os.makedirs(self.scratch)
        for name, text in FILES.items():
            self.put(self.root, name, text)
        self.course = Course(self.root)

    def put(self, root, name, text):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def get(self, root, name):
        with open(os.path.join(root, name), encoding="utf-8") as file:
            return file.read()

    def change(self, root, name, old, new):
        text = self.get(root, name)
        self.assertIn(old, text)
        self.put(root, name, text.replace(old, new))

    def with_tool(self):
        """Puts the tool itself into the course, for tests of the commands; returns its path."""
        shutil.copytree(os.path.join(ROOT, "labs/tool"), os.path.join(self.root, "labs/tool"),
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
        return shutil.copy2(os.path.join(ROOT, "labs/lab"), os.path.join(self.root, "labs/lab"))
