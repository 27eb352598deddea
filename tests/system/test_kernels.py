"""Kernels of others that are not Linux, from the distribution's packages."""

import os
import select
import subprocess
import time

import harness


class OtherKernels(harness.Case):
    needs = "full"

    def until(self, words, *args):
        """Starts hv and waits until it has printed each of `words`, in order; then ends it. Returns the output."""
        run = subprocess.Popen([harness.HV, "run", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
        self.addCleanup(run.stdout.close)
        self.addCleanup(run.kill)
        seen, pos, end = "", 0, time.monotonic() + harness.LIMIT
        for word in words:
            while word not in seen[pos:]:
                left = end - time.monotonic()
                self.assertGreater(left, 0, f"{word!r} never came\n{harness.tail(seen)}")
                if select.select([run.stdout], [], [], left)[0]:
                    chunk = os.read(run.stdout.fileno(), 65536)
                    self.assertTrue(chunk, f"hv ended by itself before it printed {word!r}\n{harness.tail(seen)}")
                    seen += chunk.decode(errors="replace")
            pos = seen.index(word, pos)
        run.terminate()
        self.assertEqual(run.wait(timeout=harness.LIMIT), 128 + 15)
        return seen

    def test_memtest86_tests_memory(self):
        for flavour in ("x64", "ia32"):
            with self.subTest(flavour=flavour):
                self.until(["Memtest86+", "Pass:", "Errors: 0", "Address test"], "--memory", "64M", "--kernel",
                           harness.cached("memtest86+", f"boot/memtest86+{flavour}.bin"), "--append",
                           "console=ttyS0,115200")

    def test_xen_starts_by_multiboot_and_finds_its_module(self):
        folder = harness.cached("xen", "boot")
        xen = [name for name in os.listdir(folder) if name.endswith("amd64.gz")][0]
        self.until(["(XEN) Xen version", "(XEN) Bootloader: hv", "(XEN) Multiboot-e820 RAM map:",
                    "Dom0"],
                   "--memory", "512M", "--kernel", os.path.join(folder, xen), "--initrd",
                   harness.cached("cloud", "vmlinuz"), "--append",
                   "xen no-real-mode console=com1 com1=115200,8n1 loglvl=all noreboot")

    def test_grub_invaders_plays(self):
        trace = self.scratch("trace")
        run = subprocess.Popen([harness.HV, "run", "--kernel", harness.cached("grub-invaders", "boot/invaders.exec"),
                                "--trace", trace, "--serial", "none"], stdin=subprocess.DEVNULL)
        self.addCleanup(run.kill)
        end = time.monotonic() + harness.LIMIT
        # It draws to video memory and asks the keyboard; the questions are what can be seen from outside.
        while "0x0064" not in self.hv("trace", "--summary", trace, status=None).out:
            self.assertIsNone(run.poll(), "the game ended by itself")
            self.assertLess(time.monotonic(), end, "the game never looked at the keyboard")
        run.terminate()
        self.assertEqual(run.wait(timeout=harness.LIMIT), 128 + 15)
