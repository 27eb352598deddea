"""hv run --gdb, driven by gdb itself: guests in every mode, Linux with two CPUs, and debuggers that misbehave."""

import os
import re
import signal
import socket
import subprocess
import time

import harness

# What every session begins with: no questions, no pages, no long lines folded, patience.
QUIET = ["set confirm off", "set pagination off", "set width 0", "set remotetimeout 60"]


class Debugged:
    """An hv that a debugger can reach, and what it printed."""

    def __init__(self, case, *args, pause=True):
        self.case, self.socket = case, case.scratch("gdb")
        out, err = case.scratch("out"), case.scratch("err")
        with open(out, "w") as o, open(err, "w") as e:
            self.run = subprocess.Popen([harness.HV, "run", *args, "--gdb", f"unix:{self.socket}",
                                         *(["--pause"] if pause else [])],
                                        stdin=subprocess.DEVNULL, stdout=o, stderr=e)
        self.paths = out, err
        case.addCleanup(self.end)
        self.expect_err("target remote ")

    def out(self):
        return self._read(0)

    def err(self):
        return self._read(1)

    def _read(self, which):
        with open(self.paths[which], errors="replace") as file:
            return file.read()

    def expect(self, text, read=None):
        """Waits until hv has printed TEXT."""
        read = read or self.out
        end = time.monotonic() + harness.LIMIT
        while text not in read():
            if time.monotonic() > end or (self.run.poll() is not None and text not in read()):
                self.case.fail(f"never saw {text!r}\n{harness.tail(self.out())}\n{harness.tail(self.err())}")
            time.sleep(0.02)

    def expect_err(self, text):
        self.expect(text, self.err)

    def gdb(self, *commands, program=None):
        """Runs gdb with COMMANDS after `target remote`, and returns all it printed."""
        words = ["gdb", "-nx", "-batch"] + ([program] if program else [])
        for command in [*QUIET, f"target remote {self.socket}", *commands]:
            words += ["-ex", command]
        run = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, cwd=harness.ROOT)
        try:
            out, _ = run.communicate(timeout=harness.LIMIT)
        except subprocess.TimeoutExpired:
            run.kill()
            out, _ = run.communicate()
            self.case.fail(f"gdb hung\n{harness.tail(out)}\n{harness.tail(self.err())}")
        return out

    def connect(self):
        peer = socket.socket(socket.AF_UNIX)
        self.case.addCleanup(peer.close)
        peer.settimeout(harness.LIMIT)
        peer.connect(self.socket)
        return peer

    def wait(self, status):
        self.case.assertEqual(self.run.wait(timeout=harness.LIMIT), status, self.err())

    def end(self):
        self.run.kill()
        self.run.wait()


class GdbCase(harness.Case):
    def debugged(self, guest, *args, **kwargs):
        return Debugged(self, "--kernel", harness.guest(guest), *args, **kwargs)

    def ask(self, peer, packet):
        """Sends a packet, as gdb would, and returns the answer without its frame."""
        peer.sendall(b"$" + packet + b"#%02x" % (sum(packet) & 0xff))
        return self.hear(peer)

    def hear(self, peer):
        answer = b""
        while not (match := re.fullmatch(rb"\+*\$(.*)#..", answer, re.S)):
            piece = peer.recv(4096)
            self.assertTrue(piece, f"hv hung up after {answer!r}")
            answer += piece
        return match[1]

    def assert_in_order(self, text, *parts):
        at = 0
        for part in parts:
            match = re.compile(part, re.M).search(text, at)
            self.assertTrue(match, f"{part!r} after {at} characters of\n{text}")
            at = match.end()


class RealMode(GdbCase):
    """Natively, too: every KVM can run these."""

    def test_sees_16_bit_code_registers_and_memory(self):
        hv = self.debugged("real_hello", "--boot", "flat")
        out = hv.gdb("x/2i $pc", "stepi", "info registers eip esi cs cr0", "x/s 0x7c08", "monitor phys 0x7c08 5", "kill")
        self.assert_in_order(out, r"0x7c00:\tmov +\$0x7c08,%si", r"0x0*7c03 in", r"eip +0x7c03", r"esi +0x7c08",
                             r"cs +0x0", r"cr0 +0x10 +\[ ET \]", r'"Hello from real mode\\n"',
                             r"48 65 6c 6c 6f +Hello")
        hv.wait(0)
        self.assertFalse(os.path.exists(hv.socket), "the socket goes with hv")

    def test_breaks_again_and_again_then_detaches_without_a_trace(self):
        hv = self.debugged("real_hello", "--boot", "flat")
        out = hv.gdb("break *0x7c1e", "hbreak *0x7c2e", "continue", "x/2xb $pc", "continue", "continue", "info registers eip",
                     "detach")
        self.assert_in_order(out, r"Breakpoint 1, 0x0*7c1e", r"0x7c1e:\t0xac\t0x84", r"Breakpoint 1", r"eip +0x7c1e",
                             "detached")
        hv.wait(33)
        self.assertIn("Hello from real mode\n@done", hv.out())

    def test_changes_registers_and_memory(self):
        hv = self.debugged("real_hello", "--boot", "flat")
        hv.gdb("set var *(char *)0x7c08 = 'J'", "set $ax = 0x1234", "p/x $eax", "stepi", "detach")
        hv.wait(33)
        self.assertIn("Jello from real mode", hv.out())

    def test_interrupts_a_guest_that_spins(self):
        hv = self.debugged("spin", "--boot", "flat", pause=False)
        hv.expect("spinning")
        out = hv.gdb("info registers eip", "x/i $pc", "stepi", "stepi", "detach")
        self.assert_in_order(out, r"eip +0x7c06", r"jmp +0x7c06", "0x0*7c06 in", "0x0*7c06 in")
        peer = hv.connect()
        peer.sendall(b"$vCont;c#a8\x03")
        self.assertEqual(self.hear(peer), b"T02thread:1;")
        peer.close()
        hv.expect_err("gone without a word")
        self.assertIsNone(hv.run.poll(), "the guest goes on")
        self.assertIn("killed", hv.gdb("kill"))
        hv.wait(0)


class OtherModes(GdbCase):
    def test_a_guest_that_changes_its_mode_is_described_anew(self):
        hv = self.debugged("protected", "--boot", "flat")
        peer = hv.gdb("break *0x7c13", "continue", "info registers cs cr0", "delete", "monitor arch i386", "stepi")
        self.assert_in_order(peer, r"0x0*7c13", r"cs +0x8", r"cr0 +0x11 +\[ PE ET \]", "next connection")
        # Leaving gdb has let the guest go on, so it ends.
        hv.wait(33)

    def test_long_mode_with_symbols(self):
        hv = self.debugged("long_hello")
        out = hv.gdb("break check", "continue", "backtrace", "info registers rip cr0 cr3 efer", "monitor walk",
                     "x/s name", "print got", "set var got = 5", "delete", "hbreak value", "continue", "p/x v",
                     "delete", "continue", program=harness.guest("long_hello"))
        self.assert_in_order(out, r"Breakpoint 1, check \(name=", r"#1 .* main \(\)", r"rip +0xffffffff80",
                             r"cr0 .*PE.*PG", r"efer .*LME LMA", r"PML4 entry at", r"mapped to 0x100", "rip_is_high",
                             r"Breakpoint 2, value", r"= 0xffffffff80100000", r"exited with code 043")
        hv.wait(35)
        self.assertIn("@fail rip_is_high", hv.out())

    def test_steps_over_lines_of_c(self):
        hv = self.debugged("long_hello")
        out = hv.gdb("break main", "continue", "next", "next", "step", "kill", program=harness.guest("long_hello"))
        self.assert_in_order(out, r"Breakpoint 1, main", r"^\d+\t.*rip", r"^\d+\t")
        self.assertIn("Hello from long mode", hv.out())

    def test_writes_every_kind_of_register(self):
        hv = self.debugged("long_hello")
        out = hv.gdb("set $rax = 0x1122334455667788", "p/x $eax", "set $xmm3.v2_int64[1] = 77", "p $xmm3.v2_int64[1]",
                     "set $fctrl = 0x27f", "p/x $fctrl", "set $fs_base = 0x123000", "p/x $fs_base", "set $cr2 = 0x42",
                     "p/x $cr2", "set $cs = 8", "p/x $cs", "kill")
        self.assert_in_order(out, r"0x55667788", r"= 77", r"= 0x27f", r"= 0x123000", r"= 0x42", r"= 0x10")

    def test_software_watchpoints(self):
        hv = self.debugged("protected", "--boot", "flat")
        out = hv.gdb("set can-use-hw-watchpoints 0", "break *0x7c13", "continue", "watch *(int *)0x100000", "continue",
                     "kill")
        self.assert_in_order(out, r"Breakpoint 1", r"Old value = 0", r"New value = 572662306")


class Interrupts(GdbCase):
    """With a KVM that delivers them."""

    needs = "full"
    def test_breaks_in_a_handler_and_steps_without_meeting_another(self):
        hv = self.debugged("idt_timer")
        out = hv.gdb("break on_timer", "continue", "stepi", "stepi", "stepi", "backtrace 1", "continue", "print ticks",
                     "delete", "continue", program=harness.guest("idt_timer"))
        self.assert_in_order(out, "Breakpoint 1, on_timer", r"#0 .*(on_timer|pic_done)", "Breakpoint 1, on_timer",
                             r"\$1 = 1", "exited with code 041")
        hv.wait(33)

    def test_hardware_watchpoints_work_or_are_refused(self):
        hv = self.debugged("idt_timer")
        out = hv.gdb("watch ticks", "continue", "continue", program=harness.guest("idt_timer"))
        if "Could not insert" in out:  # this KVM's processor ignores its guests' debug registers
            self.assertIn("Could not insert hardware watchpoint 1", out)
            return
        self.assert_in_order(out, "Hardware watchpoint 1: ticks", "New value = 1", "New value = 2")

    def test_other_cpus_stand_still_while_one_steps(self):
        hv = self.debugged("smp_start", "--cpus", "3")
        out = hv.gdb("info threads", "break secondary", "continue", "info threads", "stepi", "stepi", "continue",
                     "delete", "continue", program=harness.guest("smp_start"))
        self.assert_in_order(out, r"Thread 1 \(vCPU 0: running, long mode", r"Thread 2 \(vCPU 1: waiting to be started",
                             r"Thread 3", r"Thread [23] hit Breakpoint 1, secondary", r"vCPU 0: running, long mode",
                             r"Thread [23] hit Breakpoint 1", r"exited with code 041")
        hv.wait(33)


class Death(GdbCase):
    needs = "full"
    def test_a_dead_guest_is_kept_for_looking_at(self):
        hv = self.debugged("triple_fault", "--boot", "flat")
        out = hv.gdb("continue", "info threads", "monitor death", "continue")
        self.assert_in_order(out, "has died of a triple fault", "SIGSEGV", "dying", "The guest died on CPU 0",
                             "Likely cause", "exited with code 014")
        hv.wait(12)


class Linux(GdbCase):
    """A kernel without symbols: its own /proc/kallsyms says where things are."""

    needs = "full"
    wanted = ("start_kernel", "linux_banner", "ksys_write")

    @property
    def boot(self):
        return ["--kernel", harness.cached("cloud", "vmlinuz"), "--initrd", harness.cached("initramfs-cloud.cpio")]

    def symbols(self):
        t = self.terminal("run", *self.boot, "--append", "console=ttyS0 nokaslr quiet")
        t.expect("guest:/# ")
        t.type(f"grep -E ' ({'|'.join(self.wanted)})$' /proc/kallsyms; echo all of' 'them\n")
        t.expect("all of them")
        found = dict((name, int(at, 16)) for at, name in re.findall(r"([0-9a-f]{16}) \w (\w+)", t.seen))
        self.assertEqual(set(found), set(self.wanted), t.seen)
        t.type("\x01x")
        t.wait()
        return found

    def test_two_cpus_from_the_first_instruction_to_user_space(self):
        at = self.symbols()
        early = at["start_kernel"] & 0x7fffffff  # the kernel lies at its link address, less the window at the top
        hv = Debugged(self, *self.boot, "--cpus", "2", "--append", "console=ttyS0 nokaslr quiet hv.script=ticks")
        out = hv.gdb("info threads", f"break *{early:#x}", "continue", "delete", f"x/s {at['linux_banner']:#x}",
                     f"monitor walk {at['linux_banner']:#x}", "stepi", f"break *{at['ksys_write']:#x}", "continue",
                     "info threads", "x/s $rsi", "stepi", "info registers rip cr3 gs_base", "delete", "detach")
        self.assert_in_order(out, r"vCPU 1: waiting to be started", f"{at['start_kernel']:#x} in", '"Linux version ',
                             r"PML4 entry", r"mapped to 0x", r"hit Breakpoint 2", r"Thread 2 \(vCPU 1: \w+, long mode\)",
                             r"hvlab: ", r"gs_base +0xffff", "detached")
        hv.expect("hvlab: tick 2")

    def test_interrupting_and_going_on_loses_nothing(self):
        hv = Debugged(self, *self.boot, "--cpus", "2", "--append", "console=ttyS0 quiet hv.script=ticks", pause=False)
        hv.expect("hvlab: tick 0")
        for _ in range(2):
            out = hv.gdb("info threads", "stepi", "thread 2", "x/i $pc", "detach")
            self.assert_in_order(out, "Thread 1", "Thread 2", "detached")
        hv.expect("hvlab: tick 2")

    def test_a_reset_stops_at_the_next_first_instruction(self):
        hv = Debugged(self, *self.boot, "--append", "console=ttyS0 quiet hv.script=reboot")
        out = hv.gdb("print/x $rip", "continue", "print/x $rip", "kill")
        self.assert_in_order(out, r"\$1 = 0x1000000", "The machine was reset", r"\$2 = 0x1000000", "killed")


class Traps(GdbCase):
    """What the processor itself has to do, in packets, as they go over the line.

    Not among the tests for VT-x: Bochs, which emulates it, ends a guest's first step before its instruction.
    """

    def test_each_kind_stops_a_guest_where_it_should(self):
        hv = self.debugged("real_hello", "--boot", "flat")
        peer = hv.connect()
        self.assertEqual(self.ask(peer, b"qSupported:swbreak+;hwbreak+")[:11], b"PacketSize=")
        self.assertEqual(self.ask(peer, b"vCont;s:1"), b"T05thread:1;")
        self.assertEqual(self.ask(peer, b"p8"), b"037c0000")
        if self.ask(peer, b"Z2,fffe,2") == b"OK":  # where the call pushes its return address
            self.assertEqual(self.ask(peer, b"vCont;c"), b"T05thread:1;watch:fffe;")
            self.assertEqual(self.ask(peer, b"z2,fffe,2"), b"OK")
        self.assertEqual(self.ask(peer, b"Z0,7c1f,1"), b"OK")
        self.assertEqual(self.ask(peer, b"vCont;c"), b"T05thread:1;swbreak:;")
        self.assertEqual(self.ask(peer, b"p8"), b"1f7c0000")
        self.assertEqual(self.ask(peer, b"m7c1f,2"), b"84c0")
        self.assertEqual(self.ask(peer, b"vCont;c"), b"T05thread:1;swbreak:;", "taken past it, and round once more")
        self.assertEqual(self.ask(peer, b"z0,7c1f,1"), b"OK")
        self.assertEqual(self.ask(peer, b"Z1,7c1f,1"), b"OK")
        self.assertRegex(self.ask(peer, b"vCont;c"), rb"T05thread:1;(hw|sw)break:;")
        self.assertEqual(self.ask(peer, b"p8"), b"1f7c0000")
        self.assertEqual(self.ask(peer, b"D"), b"OK")
        hv.wait(33)
        self.assertIn("Hello from real mode", hv.out())


class Peers(GdbCase):
    """Whoever connects, and whatever it sends, hv neither hangs nor dies."""

    any_kvm = True

    def spin(self, **kwargs):
        hv = self.debugged("spin", "--boot", "flat", "--irqchip", "off", pause=False, **kwargs)
        hv.expect("spinning")
        return hv

    def test_garbage(self):
        hv = self.spin()
        peer = hv.connect()
        peer.sendall(bytes(range(4, 36)) + b"$zzzz#00" + b"$" + b"A" * 100000 + b"#00" + b"}}}}####$$$$" + b"$qC#b4")
        seen = b""
        while not seen.endswith(b"$QC1#c5"):
            seen += peer.recv(4096)
        peer.close()
        self.assertIn("0x00007c06", hv.gdb("detach"))

    def test_a_peer_that_never_reads(self):
        hv = self.spin()
        peer = hv.connect()
        peer.setblocking(False)
        try:
            for _ in range(100000):
                peer.send(b"$m0,2000#eb" * 20)
        except BlockingIOError:
            pass
        with open(f"/proc/{hv.run.pid}/status") as file:
            self.assertLess(int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]), 100000)
        hv.run.send_signal(signal.SIGTERM)
        hv.wait(128 + signal.SIGTERM)

    def test_the_second_one_is_turned_away(self):
        hv = self.spin()
        first, second = hv.connect(), None
        self.assertEqual(self.ask(first, b"qC"), b"QC1")
        second = hv.connect()
        self.assertEqual(second.recv(10), b"")
        hv.expect_err("turned away")
        self.assertEqual(self.ask(first, b"qC"), b"QC1")

    def test_one_after_the_other(self):
        hv = self.spin()
        for _ in range(3):
            self.assertIn("detached", hv.gdb("break *0x7c06", "continue", "detach"))
        self.assertIsNone(hv.run.poll())

    def test_a_broken_connection_takes_its_breakpoints_along(self):
        hv = self.spin()
        peer = hv.connect()
        self.assertEqual(self.ask(peer, b"Z0,7c06,1"), b"OK")
        peer.close()
        hv.expect_err("gone without a word")
        self.assertIn("0x7c06:\t0xeb\t0xfe", hv.gdb("x/2xb 0x7c06"))

    def test_a_port(self):
        run = subprocess.Popen([harness.HV, "run", "--kernel", harness.guest("spin"), "--boot", "flat", "--gdb", "0"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.wait)
        self.addCleanup(run.kill)
        port = int(re.search(r"target remote :(\d+)", run.stderr.readline())[1])
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.settimeout(harness.LIMIT)
            self.assertEqual(self.ask(peer, b"qC"), b"QC1")
        r = self.hv("run", "--kernel", harness.guest("spin"), "--boot", "flat", "--gdb", str(port), status=8)
        self.assertIn(f"port {port} is in use", r.err)


class Pause(GdbCase):
    def test_sigcont_goes_on(self):
        err = self.scratch("err")
        with open(err, "w") as e:
            run = subprocess.Popen([harness.HV, "run", "--kernel", harness.guest("real_hello"), "--boot", "flat", "--pause"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=e, text=True)
        self.addCleanup(run.kill)
        end = time.monotonic() + harness.LIMIT
        while f"kill -CONT {run.pid}" not in open(err).read() and time.monotonic() < end:
            time.sleep(0.02)
        self.assertIsNone(run.poll())
        run.send_signal(signal.SIGCONT)
        out, _ = run.communicate(timeout=harness.LIMIT)
        self.assertIn("Hello from real mode", out)
        self.assertEqual(run.returncode, 33)

    def test_a_key_pauses_and_goes_on(self):
        t = self.terminal("run", "--kernel", harness.guest("real_hello"), "--boot", "flat", "--pause")
        t.expect("paused before its first instruction; Ctrl-A p goes on")
        t.type("\x01p")
        t.expect("Hello from real mode")
        self.assertEqual(t.wait(), 33)

    def test_quitting_while_paused(self):
        t = self.terminal("run", "--kernel", harness.guest("spin"), "--boot", "flat")
        t.expect("spinning")
        t.type("\x01p")
        t.expect("paused; Ctrl-A p goes on")
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)


class WrongPlaces(harness.Case):
    any_kvm = True

    def test_where_it_cannot_listen(self):
        guest = ["--kernel", harness.guest("spin"), "--boot", "flat"]
        for where, status, words in [("", 2, "give PORT"), ("x", 2, "give PORT"), ("70000", 2, "give PORT"),
                                     ("unix:", 2, "file name"), ("unix:/nonexistent/s", 8, "No such file"),
                                     ("256.0.0.1:5", 2, "256.0.0.1")]:
            r = self.hv("run", *guest, "--gdb", where, status=status)
            self.assertIn(words, r.err)
            self.assertEqual(len(r.err.strip().splitlines()), 1, str(r))
