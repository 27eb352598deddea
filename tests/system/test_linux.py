"""Unmodified Linux kernels, as Debian ships them, under hv."""

import json
import os
import re
import signal
import subprocess
import time

import harness

INITRAMFS = "initramfs-cloud.cpio"
USER_SPACE = r"hvlab: user space is up \(Linux (\S+), (\d+) CPUs?, (\d+) MiB\)"


class Linux(harness.Case):
    needs = "full"

    def boot(self, script, *options, kernel="cloud", append="", status=0, **kwargs):
        return self.hv("run", "--kernel", harness.cached(kernel, "vmlinuz"), "--initrd", harness.cached(INITRAMFS),
                       "--append", f"console=ttyS0 quiet hv.script={script} {append}", *options, status=status, **kwargs)

    def assert_up(self, result, cpus):
        match = re.search(USER_SPACE, result.out)
        self.assertTrue(match, str(result))
        self.assertEqual(int(match[2]), cpus, str(result))
        return match


class Boots(Linux):
    """Both kernels, both ways of entering them, 1, 2 and 4 CPUs."""

    def each(self, kernel, protocol):
        for cpus in (1, 2, 4):
            with self.subTest(kernel=kernel, protocol=protocol, cpus=cpus):
                r = self.boot("poweroff", "--boot", protocol, "--cpus", str(cpus), kernel=kernel)
                self.assert_up(r, cpus)

    def test_cloud_unpacked(self):
        self.each("cloud", "auto")

    def test_cloud_by_the_boot_protocol(self):
        self.each("cloud", "linux")

    def test_full_unpacked(self):
        self.each("full", "auto")

    def test_full_by_the_boot_protocol(self):
        self.each("full", "linux")

    def test_cloud_by_pvh(self):
        r = self.boot("poweroff", "--boot", "pvh", "--cpus", "2")
        self.assert_up(r, 2)


class Memory(Linux):
    def test_128_mib(self):
        match = self.assert_up(self.boot("poweroff", "--memory", "128M"), 1)
        self.assertGreater(int(match[3]), 60)

    def test_6_gib_across_the_hole(self):
        r = self.boot("poweroff", "--memory", "6G")
        self.assertGreater(int(self.assert_up(r, 1)[3]), 5600)

    def test_memory_is_sound(self):
        r = self.boot("mem", "--memory", "256M")
        self.assertRegex(r.out, r"hvlab: memory .* bad 0")

    def test_memfd(self):
        self.assert_up(self.boot("poweroff", "--memory", "256M", "--memory-backing", "memfd"), 1)

    def test_hugetlb_without_reserved_pages_says_so(self):
        r = self.boot("poweroff", "--memory", "256M", "--memory-backing", "hugetlb", status=None)
        if r.status != 0:
            self.assertEqual(r.status, 8)
            self.assertIn("huge-page memory", r.err)


class Smp(Linux):
    def test_each_cpu_has_its_own_apic_id_and_ticks(self):
        r = self.boot("smp", "--cpus", "4")
        self.assert_up(r, 4)
        self.assertNotIn("BIOS bug", r.out)
        self.assertNotRegex(r.out, r"(?i)apic id mismatch|firmware bug")

    def test_64_cpus_are_described(self):
        r = self.boot("poweroff", "--cpus", "64", "--memory", "1G", append="nr_cpus=1")
        self.assert_up(r, 1)


class Ends(Linux):
    def test_no_reboot_exits_with_10_and_says_who_asked(self):
        r = self.boot("reboot", "--no-reboot", status=10)
        self.assertRegex(r.err, r"asked for a reset .*RIP 0x[0-9a-f]+")

    def test_reboot_starts_again_and_a_second_time(self):
        t = self.terminal("run", "--kernel", harness.cached("cloud", "vmlinuz"), "--initrd",
                          harness.cached(INITRAMFS), "--append", "console=ttyS0 quiet hv.script=reboot")
        for _ in range(3):
            t.expect(USER_SPACE)
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)

    def test_panic_reboots_or_exits_as_told(self):
        r = self.boot("panic", "--no-reboot", append="panic=-1", status=10)
        self.assertIn("Kernel panic", r.out)

    def test_kill_leaves_nothing_and_term_is_143(self):
        t = self.terminal("run", "--kernel", harness.cached("cloud", "vmlinuz"), "--initrd",
                          harness.cached(INITRAMFS), "--append", "console=ttyS0 quiet hv.script=sleep", "--cpus", "2")
        t.expect(USER_SPACE)
        t.signal(signal.SIGTERM)
        self.assertEqual(t.wait(), 128 + signal.SIGTERM)
        self.assertEqual(t.modes(), t.cooked)

    def test_power_button(self):
        t = self.terminal("run", "--kernel", harness.cached("cloud", "vmlinuz"), "--initrd",
                          harness.cached(INITRAMFS), "--append", "console=ttyS0 hv.script=sleep")
        t.expect(USER_SPACE)
        t.type("\x01b")
        # Nobody in the initramfs listens for the key; that the kernel got the SCI is what the press proves.
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)


class Console(Linux):
    def test_typed_lines_arrive(self):
        t = self.terminal("run", "--kernel", harness.cached("cloud", "vmlinuz"), "--initrd",
                          harness.cached(INITRAMFS), "--append", "console=ttyS0 quiet hv.script=echo")
        t.expect(USER_SPACE)
        for word in ("hello", "a" * 200, "Ctrl-C \x03 is yours".replace("\x03", "")):
            t.type(word + "\n")
            t.expect("got: " + re.escape(word))
        t.type("exit\n")
        self.assertEqual(t.wait(), 0)
        self.assertEqual(t.modes(), t.cooked)

    def test_a_pasted_page_arrives_whole(self):
        lines = [f"line {i} " + "x" * 40 for i in range(60)]
        t = self.terminal("run", "--kernel", harness.cached("cloud", "vmlinuz"), "--initrd",
                          harness.cached(INITRAMFS), "--append", "console=ttyS0 quiet hv.script=echo")
        t.expect(USER_SPACE)
        t.type("\n".join(lines) + "\n")
        for line in lines:
            t.expect("got: " + line)
        t.type("exit\n")
        self.assertEqual(t.wait(), 0)

    def test_serial_file_and_second_port(self):
        log, log2 = self.scratch("com1"), self.scratch("com2")
        self.boot("poweroff", "--serial", f"file:{log}", "--serial", f"file:{log2}")
        with open(log) as f:
            self.assertRegex(f.read(), USER_SPACE)
        self.assertEqual(os.path.getsize(log2), 0)

    def test_file_limit_holds(self):
        log = self.scratch("com1")
        self.boot("poweroff", "--serial", f"file:{log}", "--file-limit", "1K", append="loglevel=7")
        self.assertEqual(os.path.getsize(log), 1024)

    def test_pty(self):
        run = subprocess.Popen([harness.HV, "run", "--kernel", harness.cached("cloud", "vmlinuz"), "--initrd",
                                harness.cached(INITRAMFS), "--append", "console=ttyS0 quiet hv.script=echo",
                                "--serial", "pty"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(run.kill)
        path = re.search(r"(/dev/pts/\d+)", run.stderr.readline())[1]
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.addCleanup(os.close, fd)
        import tty
        tty.setraw(fd)
        seen, end = "", time.monotonic() + harness.LIMIT
        sent = False
        while run.poll() is None and time.monotonic() < end:
            import select
            if select.select([fd], [], [], 0.2)[0]:
                try:
                    seen += os.read(fd, 4096).decode(errors="replace")
                except OSError:
                    break
            if not sent and "user space is up" in seen:
                os.write(fd, b"over the pty\nexit\n")
                sent = True
        run.wait(timeout=10)
        self.assertIn("got: over the pty", seen)
        self.assertEqual(run.returncode, 0)
        run.stderr.close()


class Traces(Linux):
    def test_a_boot_traced_becomes_a_chrome_trace(self):
        trace, chrome = self.scratch("trace"), self.scratch("chrome.json")
        self.boot("poweroff", "--cpus", "2", "--trace", trace, "--stats")
        with open(chrome, "w"):
            pass
        self.hv("trace", "--chrome", chrome, trace)
        with open(chrome) as f:
            events = json.load(f)
        names = {e["args"]["name"] for e in events if e["ph"] == "M"}
        self.assertEqual(names, {"vCPU 0", "vCPU 1"})
        exits = [e for e in events if e["ph"] == "X"]
        self.assertGreater(len(exits), 300)
        for e in exits:
            self.assertGreaterEqual(e["dur"], 0)
            self.assertRegex(e["args"]["rip"], r"^0x[0-9a-f]+$")
        self.assertTrue(any("0x3f8" in e["name"] for e in exits))
        summary = self.hv("trace", "--summary", trace).out
        self.assertRegex(summary, r"\d+ exits of 2 CPUs")
        self.assertIn("IO out   0x03f8", summary)
        self.assertRegex(self.hv("trace", "--last", "5", trace).out, r"(?m)^ +\d+\.\d{6} ")
