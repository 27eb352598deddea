"""The command line: every wrong thing gets one clear line and its exit status."""

import os
import subprocess

import harness

USAGE, INPUT, KVM, HOST = 2, 4, 6, 8


class CommandLine(harness.Case):
    needs = "nothing"

    def complains(self, status, words, *args, **kwargs):
        """hv says one line on stderr, which has `words`, and nothing on stdout."""
        r = self.hv(*args, status=status, **kwargs)
        self.assertIn(words, r.err, str(r))
        self.assertTrue(r.err.startswith("hv: "), str(r))
        self.assertEqual(len(r.err.strip().splitlines()), 1, str(r))
        self.assertEqual(r.out, "", str(r))

    def test_help_names_every_command(self):
        r = self.hv("help")
        for command in ("run", "image", "doctor", "inspect", "trace"):
            self.assertIn(f"hv {command}", r.out)
            self.assertIn(f"Usage: hv {command}", self.hv("help", command).out)
            self.assertEqual(self.hv("help", command).out, self.hv(command, "--help").out)

    def test_version(self):
        self.assertRegex(self.hv("--version").out, r"^hv \d+\.\d+\.\d+\n$")

    def test_wrong_commands_and_options(self):
        self.complains(USAGE, 'no command "frobnicate"', "frobnicate")
        self.complains(USAGE, 'no command "x"', "help", "x")
        self.complains(USAGE, "no option --bogus", "run", "--bogus")
        self.complains(USAGE, "--kernel needs a value", "run", "--kernel")
        self.complains(USAGE, "give --kernel FILE", "run")
        self.complains(USAGE, "did you mean --kernel vmlinuz", "run", "vmlinuz")
        self.complains(USAGE, "takes one file", "inspect")
        self.complains(USAGE, "takes one file", "trace", "a", "b")
        self.complains(USAGE, "options only", "doctor", "x")

    def test_wrong_values(self):
        for option, value, words in [
                ("--memory", "", "give a size"), ("--memory", "12Q", "give a size"), ("--memory", "-1", "give a size"),
                ("--memory", "0", "less than"), ("--memory", "512K", "less than"),
                ("--memory", "99999999T", "more than"), ("--memory", "0xffffffffffffffff", "more than"),
                ("--memory", "1048577B", "multiple of 4K"), ("--memory", "900G", "this host has only"),
                ("--cpus", "0", "1 to 64"), ("--cpus", "65", "1 to 64"), ("--cpus", "two", "1 to 64"),
                ("--cpus", "99999999999999999999", "1 to 64"),
                ("--boot", "uefi", "give auto, linux"), ("--serial", "tcp:1", "give stdio"),
                ("--serial", "file:", "give stdio"), ("--load", "0xffffffff", "below 3 GiB"),
                ("--irqchip", "maybe", "on or off"), ("--memory-backing", "disk", "anonymous, memfd"),
                ("--log-level", "loud", "error, warning"), ("--trace-events", "0", "from 1"),
        ]:
            with self.subTest(option=option, value=value):
                self.complains(USAGE, words, "run", "--kernel", "/dev/null", option, value)

    def test_combinations_that_cannot_be(self):
        self.complains(USAGE, "only one port can have stdio", "run", "-k", "x", "--debug-port", "stdio")
        self.complains(USAGE, "needs the interrupt controllers", "run", "-k", "x", "-c", "2", "--irqchip", "off")
        self.complains(USAGE, "at most 2 serial ports", "run", *["--serial", "none"] * 3)

    def test_inspect_and_trace_of_wrong_files(self):
        empty = self.scratch("empty")
        open(empty, "w").close()
        text = self.scratch("text")
        with open(text, "w") as f:
            f.write("hello\n" * 5000)
        self.complains(INPUT, "No such file", "inspect", "/nonexistent")
        self.complains(INPUT, "is empty", "inspect", empty)
        self.complains(INPUT, "is a directory", "inspect", "/")
        self.complains(INPUT, "not a regular file", "inspect", "/dev/zero")
        self.complains(INPUT, "No such file", "trace", "/nonexistent")
        self.complains(INPUT, "not a trace", "trace", text)
        self.complains(INPUT, "is empty", "trace", empty)
        self.hv("inspect", text, status=INPUT)

    def test_no_kvm(self):
        flat = self.scratch("flat")
        with open(flat, "wb") as f:
            f.write(b"\xf4")
        self.complains(KVM, "/nonexistent/kvm does not exist", "run", "-k", flat, "--boot", "flat", "--kvm-device",
                       "/nonexistent/kvm")
        self.complains(KVM, "not a KVM", "run", "-k", flat, "--boot", "flat", "--kvm-device", "/dev/null")
        r = self.hv("doctor", "--kvm-device", "/nonexistent/kvm", status=KVM)
        self.assertIn("What to do", r.out)

    def test_output_to_a_full_disk_or_closed_pipe(self):
        with open("/dev/full", "w") as full:
            run = subprocess.run([harness.HV, "help"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(run.returncode, HOST)
        self.assertIn(b"cannot write to standard output", run.stderr)
        reader, writer = os.pipe()
        os.close(reader)
        run = subprocess.run([harness.HV, "help", "run"], stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        self.assertEqual(run.returncode, HOST)


class NoPermission(harness.Case):
    any_kvm = True

    def test_a_user_without_permission_is_told_the_group(self):
        if os.getuid() != 0:
            self.skipTest("only root can become another user")
        copy = self.scratch("kvm")
        os.chmod(os.path.dirname(copy), 0o755)
        subprocess.run(["cp", harness.HV, copy], check=True)
        device = self.scratch("device")
        os.chmod(os.path.dirname(device), 0o755)
        os.mknod(device, 0o600 | 0o020000, os.makedev(10, 232))
        run = subprocess.run([copy, "doctor", "--kvm-device", device], capture_output=True, text=True, user=65534,
                             check=False)
        self.assertEqual(run.returncode, KVM, run.stdout + run.stderr)
        self.assertIn("you may not open it", run.stdout)
