"""test_sandbox.py: what nobody trusts harms nobody."""

import os
import sys
import tempfile
import time
import unittest
from unittest import mock

import minicourse  # noqa: F401  (the path of the tool)

import sandbox


class Sandbox(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.outside = holder.name
        self.scratch = os.path.join(holder.name, "scratch")
        os.mkdir(self.scratch)

    def shell(self, script, limit=10, **more):
        return sandbox.run(["sh", "-c", script], self.scratch, limit, **more)

    def test_output_status_and_report_come_back(self):
        run = self.shell("cat; echo err >&2; echo told >&3; exit 7", stdin=b"in", report=True)
        self.assertEqual((run.status, run.out, run.err, run.report), (7, b"in", b"err\n", b"told\n"))
        self.assertEqual((run.ended, run.hung), ("", False))

    def test_a_signal_is_told_as_one(self):
        run = sandbox.run([sys.executable, "-c", "import os; os.abort()"], self.scratch, 10)
        self.assertEqual((run.status, run.how()), (-6, "killed by SIGABRT"))

    def test_a_large_exit_status_is_one(self):
        for status in (127, 128, 200, 255):
            run = self.shell(f"exit {status}")
            self.assertEqual((run.status, run.how()), (status, f"exit status {status}"))

    def test_large_input_does_not_block(self):
        data = bytes(range(256)) * 2000
        self.assertEqual(sandbox.run(["cat"], self.scratch, 10, stdin=data).out, data)

    def test_input_that_nobody_reads_does_no_harm(self):
        self.assertEqual(sandbox.run(["true"], self.scratch, 10, stdin=bytes(1 << 20)).status, 0)

    def test_a_hang_is_ended_and_told(self):
        run = self.shell("while :; do :; done", limit=1)
        self.assertTrue(run.hung)
        self.assertIsNone(run.status)
        self.assertRegex(run.ended, r"no end after 1 s; its thread sh was busy in ")
        self.assertIn("it was waiting", self.shell("exec sleep 9", limit=0.5).ended)

    def test_a_flood_is_ended(self):
        run = self.shell("yes")
        self.assertIn("MiB", run.ended)
        self.assertLessEqual(len(run.out), sandbox.OUTPUT_MAX)

    def test_forks_are_ended(self):
        run = sandbox.run([sys.executable, "-c", "import os\nwhile 1: os.fork()"], self.scratch, 10)
        self.assertTrue("processes" in run.ended or run.status != 0, run.how())

    def test_nothing_outlives_the_program(self):
        token = "31415926"
        self.shell(f"setsid sleep {token} & sleep {token} & echo bye")
        deadline = time.monotonic() + 5
        while self._sleepers(token) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(self._sleepers(token), [])

    def _sleepers(self, token):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if file.read().split(b"\0")[:2] == [b"sleep", token.encode()]:
                        found.append(pid)
            except OSError:
                pass
        return found

    def test_it_cannot_kill_us(self):
        if not sandbox.namespace():
            self.skipTest("no process namespaces here")
        self.assertNotEqual(self.shell(f"kill -9 {os.getpid()}").status, 0)

    def test_it_writes_in_its_scratch_directory_only(self):
        if not sandbox.has_landlock():
            self.skipTest("no Landlock here")
        victim = os.path.join(self.outside, "victim")
        with open(victim, "w", encoding="utf-8") as file:
            file.write("mine")
        self.shell(f"echo x > {victim}; rm {victim}; mv {victim} {victim}2; touch mine; echo > /dev/null")
        with open(victim, encoding="utf-8") as file:
            self.assertEqual(file.read(), "mine")
        self.assertEqual(os.listdir(self.scratch), ["mine"])

    def test_a_file_cannot_fill_the_disk(self):
        run = sandbox.run(["truncate", "-s", str(sandbox.FILE_MAX * 4), "big"], self.scratch, 10)
        self.assertNotEqual(run.status, 0)

    def test_many_files_cannot_either(self):
        with mock.patch.object(sandbox, "DISK_MAX", 16 << 20):
            run = self.shell("i=0; while :; do i=$((i+1)); head -c 4000000 /dev/zero >f$i; done")
        self.assertIn("to disk", run.ended)

    def test_no_descriptor_is_left_open(self):
        before = len(os.listdir("/proc/self/fd"))
        self.shell("true", report=True)
        self.shell("sleep 9", limit=0.3)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


if __name__ == "__main__":
    unittest.main()
