"""test_labvm.py: the lab machine keeps its promises (labvm, amd.py, run.py).

A boot costs seconds, so what can share one does. LABVM_TEST_INTEL=1 adds the Bochs variant, minutes.
"""

import contextlib
import io
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import run  # noqa: E402  (found by the path above)

LABVM = os.path.join(HERE, "labvm")
ROOT = os.path.dirname(os.path.dirname(HERE))


def labvm(*command, options=(), **kwargs):
    """Runs COMMAND in the machine; returns the finished process with bytes in stdout and stderr."""
    kwargs.setdefault("stdin", subprocess.DEVNULL if "input" not in kwargs else None)
    if kwargs["stdin"] is None:
        del kwargs["stdin"]
    argv = [LABVM, "run", *options, "--", *command]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **kwargs)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:
        return [int(child) for child in listing.read().split()]


class Streams(unittest.TestCase):
    def test_carries_streams_status_and_surroundings(self):
        """One boot: 1 MiB of binary in and out, stderr apart, status, directory, environment, arguments."""
        blob = os.urandom(1 << 20)
        script = (
            'cat; printf "%s|%s|%s|%s" "$PWD" "$LABVM" "$MARK" "$1" >&2; '
            "test -w /dev/kvm && touch /etc/labvm-was-here && exit 7"
        )
        with tempfile.TemporaryDirectory() as directory:
            done = labvm(
                "sh", "-c", script, "sh", "it's $two  words",
                input=blob, cwd=directory, env=dict(os.environ, MARK='a"b\nc'),
            )  # fmt: skip
        self.assertEqual(done.stderr.decode(), f"{directory}|amd|a\"b\nc|it's $two  words")
        self.assertTrue(done.stdout == blob, "stdout is not what stdin was")
        self.assertEqual(done.returncode, 7)
        self.assertFalse(os.path.exists("/etc/labvm-was-here"), "a write reached the host")

    def test_delivers_all_output_to_a_slow_reader_and_kills_what_lingers(self):
        script = "sleep 1000 & head -c 3000000 /dev/zero | tr '\\0' x"
        argv = [LABVM, "run", "--", "sh", "-c", script]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            first = process.stdout.read(1)
            time.sleep(3)  # the reader is slow: that is the test, not a wait for an event
            self.assertEqual(first + process.stdout.read(), b"x" * 3000000)
            self.assertEqual(process.wait(), 0)

    def test_kvm_is_kept_in_use(self):
        """amd.py says why: with and without an APIC, so that no key is flipped by the command's own machines."""
        done = labvm("sh", "-c", "ls -d /sys/kernel/debug/kvm/[0-9]*-*/vcpu0 | wc -l")
        self.assertEqual((done.returncode, done.stdout), (0, b"2\n"), done.stderr.decode())

    def test_ends_when_its_reader_goes_away(self):
        argv = [LABVM, "run", "--", "yes"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            self.assertEqual(process.stdout.read(2), b"y\n")
            process.stdout.close()
            self.assertEqual(process.wait(timeout=30), 128 + signal.SIGPIPE)


class SignsOfLife(unittest.TestCase):
    """The supervisor alone, with this test in the machine's place."""

    def setUp(self):
        self.machine, ours = socket.socketpair()
        self.addCleanup(self.machine.close)
        self.addCleanup(ours.close)
        backend = types.SimpleNamespace(name="test", process=None)
        self.supervisor = run.Supervisor(backend, run.Request(["true"], timeout=60))
        self.supervisor.attach_status(lambda: ours.recv(100))
        self.said = io.StringIO()

    def verdict(self, silence):
        with contextlib.redirect_stderr(self.said):
            return self.supervisor.wait(60, silence)

    def test_silence_after_the_start_is_a_failure_of_the_machine(self):
        self.machine.sendall(b"started\n")
        self.assertEqual(self.verdict(silence=0.3), 125)
        self.assertIn("the lab machine hung", self.said.getvalue())

    def test_silence_after_the_end_is_one_too(self):
        """Its output has not arrived and never will."""
        self.supervisor.attach_output(lambda: threading.Event().wait(), 1)
        self.machine.sendall(b"started\nalive\nexit 0\n")
        self.assertEqual(self.verdict(silence=0.3), 125)
        self.assertIn("the lab machine hung", self.said.getvalue())

    def test_a_slow_start_is_no_silence(self):
        threading.Timer(1, self.machine.sendall, [b"started\nexit 3\n"]).start()
        self.assertEqual(self.verdict(silence=0.3), 3)

    def test_a_machine_that_says_it_lives_may_take_its_time(self):
        def live():
            self.machine.sendall(b"started\n")
            for _ in range(12):
                time.sleep(0.25)  # 3 s in all, twice what silence may last: that is the test
                self.machine.sendall(b"alive\n")
            self.machine.sendall(b"exit 5\n")

        threading.Thread(target=live).start()
        self.assertEqual(self.verdict(silence=1.5), 5)

    def test_what_does_not_speak_is_not_judged_by_it(self):
        self.machine.sendall(b"started\n")
        threading.Timer(0.5, self.machine.sendall, [b"exit 4\n"]).start()
        self.assertEqual(self.verdict(silence=None), 4)


class Ends(unittest.TestCase):
    def test_time_limit_holds_outside(self):
        start = time.monotonic()
        done = labvm("sh", "-c", "echo begun; exec sleep 1000", options=("--timeout", "20"))
        self.assertEqual((done.returncode, done.stdout), (124, b"begun\n"))
        self.assertIn(b"time limit of 20 s", done.stderr)
        self.assertLess(time.monotonic() - start, 30)

    def test_panic_is_reported_with_the_console(self):
        done = labvm("sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100")
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"the kernel of the lab machine failed", done.stderr)
        self.assertIn(b"sysrq triggered crash", done.stderr)

    def test_power_off_before_the_end_is_a_failure(self):
        done = labvm("sh", "-c", "echo o >/proc/sysrq-trigger; sleep 100")
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"ended before the command did", done.stderr)

    def test_interrupt_leaves_nothing_behind(self):
        argv = [LABVM, "run", "--", "sh", "-c", "echo up; sleep 1000"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            machine = children(process.pid)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(timeout=10), 130)
        self.assertEqual(len(machine), 1)
        self.assertFalse(os.path.exists(f"/proc/{machine[0]}"), "QEMU survived")

    def test_usage_errors_are_2(self):
        bochs_shell = ["shell", "--cpu", "intel"]
        for arguments in (["run"], ["run", "--"], ["walk"], ["prepare", "--", "true"], bochs_shell):
            done = subprocess.run([LABVM, *arguments], stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 2, arguments)

    def test_unknown_command_is_127(self):
        done = labvm("no-such-command")
        self.assertEqual(done.returncode, 127)


class Sharing(unittest.TestCase):
    def test_two_at_once_and_shared_directories_persist(self):
        with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as extra:
            script = 'echo $$ >"$LABVM_OUT/$1" && echo b >"$2/$1"'
            environment = dict(os.environ, LABVM_OUT=out)
            argv = [LABVM, "run", "--rw", extra, "--", "sh", "-c", script, "sh"]
            runs = [
                subprocess.Popen([*argv, name, extra], stdin=subprocess.DEVNULL, env=environment)
                for name in ("one", "two")
            ]
            self.assertEqual([process.wait() for process in runs], [0, 0])
            self.assertEqual(sorted(os.listdir(out)), ["one", "two"])
            self.assertEqual(sorted(os.listdir(extra)), ["one", "two"])

    @unittest.skipIf(os.getuid() != 0, "the other tests run as an ordinary user already")
    def test_works_as_an_ordinary_user(self):
        nobody = pwd.getpwnam("nobody")
        with tempfile.TemporaryDirectory() as out:
            os.chown(out, nobody.pw_uid, nobody.pw_gid)
            done = labvm(
                "sh", "-c", 'id -u; exec 3<>/dev/kvm; echo x >"$LABVM_OUT/x"',
                user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
                env=dict(PATH="/usr/bin:/bin", LABVM_OUT=out), cwd="/",
            )  # fmt: skip
            self.assertEqual((done.returncode, done.stdout), (0, b"0\n"), done.stderr.decode())
            self.assertEqual(os.stat(os.path.join(out, "x")).st_uid, nobody.pw_uid)


@unittest.skipIf("LABVM_TEST_INTEL" not in os.environ, "slow; LABVM_TEST_INTEL=1 runs it")
class Intel(unittest.TestCase):
    def test_carries_streams_status_results_and_what_it_was_given(self):
        """One boot. The input holds every byte, so a serial line that treats one specially shows."""
        blob = bytes(range(256)) * 16
        with tempfile.TemporaryDirectory() as out, tempfile.NamedTemporaryFile(dir=ROOT) as given:
            given.write(b"given")
            given.flush()
            script = (
                f'cat; printf "%s|%s|" "$PWD" "$LABVM" >&2; cat {given.name} >&2; '
                'test -w /dev/kvm && python3 -c "import json" && test -e Makefile || exit 1; '
                'mkdir "$LABVM_OUT/d" && echo r >"$LABVM_OUT/d/r" && exit 7'
            )
            done = labvm(
                "sh", "-c", script, options=("--cpu", "intel", "--with", given.name),
                input=blob, cwd=ROOT, env=dict(os.environ, LABVM_OUT=out),
            )  # fmt: skip
            self.assertEqual(done.stderr.decode(), f"{ROOT}|intel|given")
            self.assertEqual(done.returncode, 7)
            self.assertTrue(done.stdout == blob, "stdout is not what stdin was")
            with open(os.path.join(out, "d", "r"), "rb") as result:
                self.assertEqual(result.read(), b"r\n")

    def test_panic_is_reported(self):
        done = labvm("sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100", options=("--cpu", "intel"))
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"sysrq triggered crash", done.stderr)


if __name__ == "__main__":
    unittest.main()
