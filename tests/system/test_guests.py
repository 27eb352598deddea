"""Every small guest does under hv what its own file says it does.

The comment at the top of guest/NAME.{S,c} has lines for this test:
  run: OPTIONS      what to give hv run, besides the kernel
  disk: BYTES       an empty disk, whose name goes where the options say DISK
  needs: kvm|full   the KVM it takes
  expect: TEXT      a line it prints, in this order
  stdin: TEXT       a line to type at its serial port
  status: N|killed  hv's exit status; killed: it runs until then
"""

import glob
import os
import re
import shlex
import subprocess

import harness


class Spec:
    def __init__(self, path):
        self.name = os.path.splitext(os.path.basename(path))[0]
        with open(path) as f:
            head = f.read().split("*/")[0]
        found = re.findall(r"^ \* (run|disk|needs|expect|stdin|status): (.*)$", head, re.M)
        get = lambda key: [value.strip() for k, value in found if k == key]
        self.options = shlex.split(get("run")[0])
        self.disk = int((get("disk") or [0])[0])
        self.needs, self.status = get("needs")[0], get("status")[0]
        self.expect, self.stdin = get("expect"), get("stdin")


SPECS = [Spec(path) for path in sorted(glob.glob(os.path.join(harness.ROOT, "guest/*.[Sc]")))]


class GuestCase(harness.Case):
    tags = ("intel",)

    def check(self, spec):
        args = ["run", "--kernel", harness.guest(spec.name), *self.options(spec)]
        if spec.status == "killed":
            out = self.until_killed(spec, args)
        else:
            stdin = "".join(line + "\n" for line in spec.stdin).encode()
            r = self.hv(*args, status=int(spec.status), stdin=stdin)
            self.assertNotIn("@fail", r.out, str(r))
            out = r.out
        pos = 0
        for line in spec.expect:
            self.assertIn(line, out[pos:], f"after {pos} characters of\n{out}")
            pos = out.index(line, pos) + len(line)

    def options(self, spec):
        if not spec.disk:
            return spec.options
        path = self.scratch("disk")
        with open(path, "wb") as file:
            file.truncate(spec.disk)
        return [path if word == "DISK" else word for word in spec.options]

    def until_killed(self, spec, args):
        run = subprocess.Popen([harness.HV, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(run.stdout.close)
        self.addCleanup(run.kill)
        seen = b""
        while not all(line.encode() in seen for line in spec.expect):
            chunk = os.read(run.stdout.fileno(), 4096)
            self.assertTrue(chunk, f"{spec.name} ended by itself\n{seen}")
            seen += chunk
        self.assertIsNone(run.poll())
        run.terminate()
        self.assertEqual(run.wait(timeout=harness.LIMIT), 128 + 15)
        return seen.decode()


class Guests(GuestCase):
    """Its methods are made below, one for each guest."""


class GuestsFull(GuestCase):
    """Those that need a KVM which delivers interrupts."""

    needs = "full"


for _spec in SPECS:
    _case = GuestsFull if _spec.needs == "full" else Guests
    setattr(_case, f"test_{_spec.name}", lambda self, spec=_spec: self.check(spec))
del _case, _spec  # the loader would take _case for one more class of tests


class Deaths(harness.Case):
    """When a guest dies, hv says what it was doing and why, not just that it did."""

    needs = "full"
    tags = ("intel",)

    def death(self, name, *options, status):
        r = self.hv("run", "--kernel", harness.guest(name), *options, status=status)
        for part in ("The guest died on CPU 0", "Last exits of CPU 0", "Registers of CPU 0", "cr0 ", "efer ", "idt ",
                     "Instruction bytes at RIP", "Page walk of RIP", "Likely cause: "):
            self.assertIn(part, r.err, str(r))
        self.assertEqual(len(re.findall(r"(?m)^Likely cause: .*\.$", r.err)), 1, str(r))
        return r

    def test_a_triple_fault_in_real_mode_code(self):
        r = self.death("triple_fault", "--boot", "flat", status=12)
        self.assertIn("triple fault (KVM_EXIT_SHUTDOWN, exit reason 8)", r.err)

    def test_a_page_fault_without_handler(self):
        r = self.death("page_fault_fatal", "--boot", "elf", status=12)
        self.assertIn("Page walk of CR2", r.err)
        self.assertIn("long mode", r.err)
        self.assertIn("PML4", r.err)

    def test_a_trace_ends_with_the_death(self):
        trace = self.scratch("trace")
        self.hv("run", "--kernel", harness.guest("triple_fault"), "--boot", "flat", "--trace", trace, status=12)
        self.assertIn("SHUTDOWN", self.hv("trace", trace).out.splitlines()[-1])


class KvmThatInterprets(harness.Case):
    """On a KVM that cannot deliver interrupts, Linux is refused with one line; elsewhere there is nothing to see."""

    def test_linux_is_refused_with_the_way_out(self):
        if self.hv("doctor", "-q", status=None).status == 0:
            r = self.hv("doctor")
            self.assertIn("This host runs guests under hv", r.out)
            return
        r = self.hv("run", "--kernel", harness.cached("cloud", "vmlinuz"), status=6)
        self.assertEqual(len(r.err.splitlines()), 1)
        self.assertIn("hv doctor", r.err)
        self.assertIn("What to do", self.hv("doctor", status=6).out)


class LostOutput(harness.Case):
    any_kvm = True

    def test_a_full_disk_under_standard_output_is_reported(self):
        with open("/dev/full", "w") as full:
            run = subprocess.run([harness.HV, "run", "--kernel", harness.guest("real_hello"), "--boot", "flat"],
                                 stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertIn("could not all be written: No space left", run.stderr)
        self.assertEqual(run.returncode, 33, "the guest's own status is kept")

    def test_a_back_end_that_cannot_be_opened_is_named(self):
        r = self.hv("run", "--kernel", harness.guest("spin"), "--boot", "flat", "--serial", "file:/nonexistent/x",
                    status=8)
        self.assertIn("--serial file:/nonexistent/x", r.err)

    def test_no_warning_for_a_command_line_that_nobody_gave(self):
        r = self.hv("run", "--kernel", harness.guest("long_hello"), status=33)
        self.assertEqual(r.err, "")
        r = self.hv("run", "--kernel", harness.guest("long_hello"), "--append", "x", status=33)
        self.assertIn("cannot pass a command line", r.err)


class WrongKernels(harness.Case):
    """Kernels and initrds that cannot be used: one line, status 4, whatever the file."""

    any_kvm = True

    def refused(self, words, *args, status=4):
        r = self.hv("run", *args, status=status)
        self.assertIn(words, r.err, str(r))
        self.assertEqual(len(r.err.strip().splitlines()), 1, str(r))

    def file(self, data):
        path = self.scratch("file")
        with open(path, "wb") as f:
            f.write(data)
        return path

    def test_missing_empty_and_special_files(self):
        self.refused("No such file", "-k", "/nonexistent")
        self.refused("is empty", "-k", self.file(b""))
        self.refused("is a directory", "-k", "/tmp")
        self.refused("not a regular file", "-k", "/dev/zero")
        self.refused("--initrd", "-k", harness.guest("real_hello"), "--boot", "flat", "-i", "/nonexistent")

    def test_what_is_no_kernel(self):
        self.refused("flat", "-k", self.file(b"hello\n" * 1000))
        self.refused("", "-k", self.file(b"\x7fELF"))
        self.refused("", "-k", self.file(b"\x7fELF\x02\x01\x01" + b"\xff" * 200))
        self.refused("", "-k", self.file(b"MZ" + b"\0" * 512 + b"HdrS" + b"\xff" * 600))
        self.refused("", "-k", self.file(b"\x1f\x8b" + b"\xff" * 100))

    def test_truncated_kernels(self):
        with open(harness.cached("cloud", "vmlinuz"), "rb") as f:
            whole = f.read()
        for size in (1, 511, 512, 600, 4096, 20000, len(whole) // 2):
            with self.subTest(size=size):
                r = self.hv("run", "-k", self.file(whole[:size]), status=4)
                self.assertTrue(r.err.startswith("hv: "), str(r))

    def test_too_large_for_the_machine(self):
        self.refused("", "-k", harness.cached("cloud", "vmlinuz"), "-m", "8M")
        self.refused("not in the image", "-k", harness.guest("real_hello"), "--boot", "flat", "--load", "0x8000000",
                     "--entry", "0x7c00", "-m", "64M", status=2)
        self.refused("", "-k", harness.cached("cloud", "vmlinuz"), "-i", self.file(b"x" * (70 << 20)), "-m", "96M")
        self.refused("command line", "-k", harness.cached("cloud", "vmlinuz"), "-p", "x" * 5000)

    def test_a_full_disk_for_the_trace(self):
        self.refused("No space left", "-k", harness.guest("spin"), "--boot", "flat", "--trace",
                     self.small_disk("64K") + "/trace", status=8)
