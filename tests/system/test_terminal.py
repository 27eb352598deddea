"""hv and the terminal it runs on: raw at the right time, and restored on every way out."""

import os
import signal
import termios

import harness

LFLAG = 3


class RawMode(harness.Case):
    """With a guest that only spins, so that any KVM will do."""

    any_kvm = True

    def start(self, *options):
        t = self.terminal("run", "--kernel", harness.guest("spin"), "--boot", "flat", *options)
        t.expect("spin")
        return t

    def test_raw_while_the_guest_runs(self):
        t = self.start()
        self.assertFalse(t.modes()[LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG))

    def test_ctrl_a_x_leaves(self):
        t = self.start()
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)
        self.assertEqual(t.modes(), t.cooked)

    def test_ctrl_a_h_helps(self):
        t = self.start()
        t.type("\x01h")
        t.expect("Ctrl-A x  leave")

    def test_ctrl_c_is_the_guests(self):
        t = self.start()
        t.type("\x03\x1c\x1a")
        t.type("\x01h")
        t.expect("Ctrl-A x  leave")
        self.assertIsNone(t.run.poll())

    def test_restored_after_signals(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with self.subTest(signal=number):
                t = self.start()
                t.signal(number)
                self.assertEqual(t.wait(), 128 + number)
                self.assertEqual(t.modes(), t.cooked)

    def test_restored_after_a_crash_of_hv_itself(self):
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT):
            with self.subTest(signal=number):
                t = self.start()
                t.signal(number)
                self.assertEqual(t.wait(), -number)
                self.assertEqual(t.modes(), t.cooked)

    def test_stop_and_continue(self):
        t = self.start()
        t.signal(signal.SIGTSTP)
        os.waitid(os.P_PID, t.run.pid, os.WSTOPPED)
        self.assertEqual(t.modes(), t.cooked)
        t.signal(signal.SIGCONT)
        t.type("\x01h")
        t.expect("Ctrl-A x  leave")
        self.assertFalse(t.modes()[LFLAG] & termios.ICANON)

    def test_not_raw_when_set_up_fails(self):
        t = self.terminal("run", "--kernel", "/nonexistent")
        t.expect("No such file")
        self.assertEqual(t.wait(), 4)
        self.assertEqual(t.modes(), t.cooked)

    def test_output_to_a_closed_pipe_ends_the_machine(self):
        import subprocess
        run = subprocess.Popen([harness.HV, "run", "--kernel", harness.guest("spin"), "--boot", "flat"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(run.kill)
        self.assertTrue(run.stdout.read(4))
        run.stdout.close()
        err = run.stderr.read().decode()
        self.assertEqual(run.wait(timeout=harness.LIMIT), 8, err)
        self.assertIn("standard output was closed", err)
        run.stderr.close()
