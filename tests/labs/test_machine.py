"""test_machine.py: checks in the lab machine: the same verdicts as here, and the same harm to nobody. One boot for
each class."""

import os
import shutil
import unittest
from unittest import mock

from minicourse import ROOT, CourseCase

import grader
import machine
import probe
import stage
import trials
import verify
import walk

ADD = "src/base/add.c"
INCLUDES = '#include "base/base.h"\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <signal.h>\n'
# What a submission may try, in the function whose checks are sums and large; doubles is not to suffer.
HOSTILE = {
    "forks": "while (fork() >= 0) ;",
    "kills": "kill(getppid(), SIGKILL); kill(-1, SIGKILL); kill(1, SIGKILL);",
    "deletes": 'system("rm -rf ../* /tmp/lab-* /work /root 2>/dev/null");',
    "fills the disk": 'system("i=0; while :; do i=$((i+1)); head -c 100000000 /dev/zero >f$i || exit; done");',
    "loops": "for (;;) ;",
    "prints verdicts": r'for (int fd = 1; fd < 64; fd++) dprintf(fd, "{\"job\": 0, \"name\": \"sums\", \"record\": 1}\n");',
    "resets the machine": 'system("echo b >/proc/sysrq-trigger; echo c >/proc/sysrq-trigger");',
}


@unittest.skipUnless(shutil.which("qemu-system-x86_64"), "no qemu here")
class MachineCase(CourseCase):
    def setUp(self):
        super().setUp()
        for name in ("tests/labvm", "guest/linux"):
            shutil.copytree(os.path.join(ROOT, name), os.path.join(self.root, name))
        self.with_tool()
        settings = {"LAB_KVM": "labvm", "HVLAB_CACHE": os.environ.get("HVLAB_CACHE", os.path.join(ROOT, "build/cache"))}
        patch = mock.patch.dict(os.environ, settings)
        patch.start()
        self.addCleanup(patch.stop)
        self.change(self.root, "labs/01-one/lab.toml", 'tier = "unit"', 'tier = "full"')
        self.course = type(self.course)(self.root)


class Verify(MachineCase):
    def test_the_steps_wait_for_one_boot_and_say_the_same(self):
        bench, walker = trials.Bench(self.course), walk.Walker(self.course)
        self.addCleanup(bench.close)
        self.addCleanup(walker.close)
        with mock.patch.object(machine, "_boot", wraps=machine._boot) as boot:
            steps = verify.Verifier(self.course, self.course.lab(1), bench, walker).run()
        self.assertEqual(boot.call_count, 1)
        verdicts = {step.name: step.verdict for step in steps if step.name not in ("documents", "merge")}
        self.assertEqual(verdicts, {
            "skeleton": grader.PASSED, "walk": grader.PASSED, "reference": grader.PASSED, "mutant 1.1 minus": grader.PASSED,
            "mutant 1.2 nothing_changes": grader.FAILED, "lab machine: 20 checks": grader.PASSED,
        }, [step.notes for step in steps])  # fmt: skip


class Hostile(MachineCase):
    def job(self, code):
        """A job with all checks of lab 1 on a reference with CODE in its first exercise."""
        space = os.path.join(self.scratch, "space")
        stage.write(stage.generate(self.course, 1, lambda exercise: True), space)
        self.change(space, ADD, "int sum = a + b;", f"{code}\n    int sum = a + b + 1;")
        self.change(space, ADD, '#include "base/base.h"\n', INCLUDES)
        with open(os.path.join(space, ADD), "rb") as file:
            tree = stage.generate(self.course, 1)
            tree[ADD] = (file.read(), False)
        self.assertTrue(grader.build(tree, space).ok)
        archive = os.path.join(self.scratch, f"{len(os.listdir(self.scratch))}.tar")
        lab = self.course.lab(1)
        machine.pack(lab, [check.name for check in lab.checks], space, archive)
        return machine.Job(1, [check.name for check in lab.checks], "seed", archive)

    def test_each_loses_its_points_and_nobody_else(self):
        jobs, found = [self.job(code) for code in HOSTILE.values()], {}
        machine.run(self.course, jobs, lambda number, name, record: found.update({(number, name): record}))
        for number, what in enumerate(HOSTILE):
            with self.subTest(what):
                records = [found[number, name] for name in ("sums", "doubles", "large")]
                self.assertEqual([record["verdict"] for record in records],
                                 [grader.FAILED, grader.PASSED, grader.FAILED], records)  # fmt: skip
        said = {what: found[number, "large"]["got"] for number, what in enumerate(HOSTILE)}
        self.assertIn("no end after", said["loops"])
        self.assertRegex(said["fills the disk"], "to disk|no end after")


class Without(CourseCase):
    def test_a_course_without_one_says_what_could_not_run(self):
        self.change(self.root, "labs/01-one/lab.toml", 'tier = "unit"\ntitle = "sums', 'tier = "full"\ntitle = "sums')
        self.course = type(self.course)(self.root)
        space = os.path.join(self.scratch, "space")
        stage.write(stage.generate(self.course, 1, lambda exercise: True), space)
        with mock.patch.dict(os.environ, {"LAB_KVM": "labvm"}):
            result = grader.grade(self.course, 1, space, "seed")
        self.assertEqual((result["score"], result["verdict"]), (50, grader.CANNOT_RUN))
        self.assertIn("tests/labvm/labvm is not in this course", result["checks"][0]["why"])


class Probe(unittest.TestCase):
    def test_it_gives_one_of_its_words(self):
        self.assertIn(probe.level(), probe.LEVELS)
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            self.assertEqual(probe.level(), probe.NONE)


if __name__ == "__main__":
    unittest.main()
