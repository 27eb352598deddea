"""hv run --control and hv ctl: a machine that is asked and told things while it runs."""

import glob
import json
import os
import re
import select
import signal
import socket
import subprocess
import time

import harness
import virtio


class Controlled:
    """An hv with a control socket, and programs that talk to it."""

    def __init__(self, case, *args):
        self.case, self.socket = case, case.scratch("control")
        self.run = subprocess.Popen([harness.HV, "run", *args, "--control", self.socket], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        case.addCleanup(self.end)
        self.peer = self.connect()

    def connect(self):
        """A client that has read its greeting."""
        peer, end = socket.socket(socket.AF_UNIX), time.monotonic() + harness.LIMIT
        self.case.addCleanup(peer.close)
        peer.settimeout(harness.LIMIT)
        while True:  # the socket is there once hv has come so far
            try:
                peer.connect(self.socket)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end or self.run.poll() is not None:
                    self.case.fail(f"nobody listens at {self.socket}")
                time.sleep(0.02)
        client = Client(self.case, peer)
        self.case.assertEqual(client.hear()["hv"]["protocol"], 1)
        return client

    def ask(self, command, **arguments):
        return self.peer.ask(command, **arguments)

    def ctl(self, *words, status=0):
        """hv ctl's standard output."""
        return self.case.hv("ctl", self.socket, *words, status=status).out

    def refused(self, *words, status):
        """hv ctl's complaint, which is one line."""
        r = self.case.hv("ctl", self.socket, *words, status=status)
        self.case.assertEqual(r.out, "")
        self.case.assertRegex(r.err, r"\Ahv: [^\n]+\n\Z")
        return r.err

    def wait(self, status=0):
        out, err = self.run.communicate(timeout=harness.LIMIT)
        self.case.assertEqual(self.run.returncode, status, err.decode())
        self.case.assertFalse(os.path.exists(self.socket), "the socket goes with hv")
        return out.decode(errors="replace"), err.decode(errors="replace")

    def end(self):
        self.run.kill()
        self.run.communicate()


class Client:
    def __init__(self, case, peer):
        self.case, self.peer, self.stream = case, peer, peer.makefile("rb")

    def hear(self):
        line = self.stream.readline()
        return json.loads(line) if line else None

    def ask(self, command, **arguments):
        self.peer.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        answer = self.hear()
        self.case.assertIn("return", answer, f"{command} {arguments}: {answer}")
        return answer["return"]

    def event(self):
        return self.hear()["event"]


class Small(harness.Case):
    """With guests that any KVM runs."""

    def controlled(self, *options, guest="spin"):
        return Controlled(self, "--kernel", harness.guest(guest), "--boot", "flat", *options)

    def test_status_stats_and_commands_read_well(self):
        hv = self.controlled("--rng", "--balloon", "0", "--net", "none", "--memory", "64M")
        text = hv.ctl("status")
        self.assertRegex(text, r"\Arunning, started \d+\.\d s ago\n1 CPU, 64M of memory\nnet0 +net, without a driver\n")
        text = hv.ctl("stats")
        self.assertRegex(text, r"\Arunning for .* of 64M of memory in use\nCPU 0: \d+ exits, .* of processor time\n +IO \d+")
        self.assertIn("I/O threads: io ", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        self.assertIn("set-limits device=text [iops=int] [pps=int] [bps=size]\n    Limit", hv.ctl("commands"))
        stats = json.loads(self.hv("ctl", "--json", hv.socket, "stats").out)
        self.assertEqual(stats["memory"]["size"], 64 << 20)
        self.assertEqual([d["name"] for d in stats["devices"]], ["net0", "rng", "balloon"])
        hv.ctl("kill")
        hv.wait(0)

    def test_errors_are_clear(self):
        hv = self.controlled()
        self.assertIn('there is no command "stauts"; did you mean "stats"', hv.refused("stauts", status=2))
        self.assertIn("timeout: \"soon\" is no int", hv.refused("stop", "soon", status=2))
        self.assertIn("at most 86400", hv.refused("stop", "timeout=99999", status=2))
        self.assertIn("takes no such argument", hv.refused("stop", "1", "2", status=2))
        self.assertIn("takes no such argument", hv.refused("stop", "time=1", status=2))
        self.assertIn("no disk and no network interface", hv.refused("set-limits", "disk0", "iops=1", status=2))
        self.assertIn("--balloon 0", hv.refused("balloon", status=18))
        self.assertIn("has not powered off", hv.refused("stop", "1", status=18))
        hv.ctl("kill")
        hv.wait(0)
        self.assertIn("there is no such socket", hv.refused("status", status=4))

    def test_nobody_listens(self):
        path = self.scratch("left")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
        self.assertIn("its machine has ended", self.hv("ctl", path, "status", status=4).err)
        with open(path + ".txt", "w", encoding="ascii") as file:
            file.write("no socket")
        self.assertIn("is no socket", self.hv("ctl", path + ".txt", "status", status=4).err)
        self.assertIn("characters", self.hv("ctl", "/x" * 100, "status", status=4).err)
        self.assertIn("give a socket and a command", self.hv("ctl", path, status=2).err)
        with socket.socket(socket.AF_UNIX) as other:
            os.unlink(path)
            other.bind(path)
            other.listen()
            asked = subprocess.Popen([harness.HV, "ctl", path, "status"], stderr=subprocess.PIPE)
            peer, _ = other.accept()
            peer.sendall(b"220 some other server\r\n")
            self.assertIn(b"no control socket of hv", asked.communicate(timeout=harness.LIMIT)[1])
            self.assertEqual(asked.returncode, 4)
            peer.close()

    def test_a_socket_in_use_is_left_alone(self):
        hv = self.controlled()
        r = self.hv("run", "--kernel", harness.guest("spin"), "--boot", "flat", "--control", hv.socket, status=8)
        self.assertIn(hv.socket, r.err)
        self.assertEqual(hv.ask("status")["state"], "running")

    def test_pause_and_resume_by_every_way(self):
        hv = self.controlled("--pause", guest="out_loop")
        follower = hv.connect()
        follower.ask("events")
        first, second = hv.ask("stats"), hv.ask("stats")
        self.assertEqual([first["cpus"][0]["exits"], second["cpus"][0]["exits"]], [0, 0])
        self.assertIn("paused (user)", hv.ctl("status"))
        hv.run.send_signal(signal.SIGCONT)
        self.assertEqual(follower.event(), "resumed")
        hv.wait(33)
        self.assertEqual(follower.event(), "shutdown")
        self.assertIsNone(follower.hear())

    def test_events_are_shown_as_they_come(self):
        hv = self.controlled()
        shown = subprocess.Popen([harness.HV, "ctl", hv.socket, "events"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(shown.kill)
        raw = subprocess.Popen([harness.HV, "ctl", "--json", hv.socket, "events"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(raw.kill)
        end = time.monotonic() + harness.LIMIT
        while len(select.select([shown.stdout, raw.stdout], [], [], 0.05)[0]) < 2:
            hv.ask("pause")
            hv.ask("resume")
            self.assertLess(time.monotonic(), end)
        hv.ask("kill")
        hv.wait(0)
        out, _ = shown.communicate(timeout=harness.LIMIT)
        self.assertRegex(out, r"(?m)^\d\d:\d\d:\d\d\.\d{3} resumed$")
        self.assertRegex(out, r'(?m)^\S+ shutdown \{"reason":"quit","status":0\}$')
        events = [json.loads(line) for line in raw.communicate(timeout=harness.LIMIT)[0].splitlines()]
        self.assertEqual(events[-1]["data"], {"reason": "quit", "status": 0})
        self.assertEqual((shown.returncode, raw.returncode), (0, 0))

    def test_reset_starts_it_anew_and_clients_stay(self):
        hv = self.controlled()
        follower = hv.connect()
        follower.ask("events")
        hv.ask("pause")
        hv.ask("reset")
        self.assertEqual([follower.event() for _ in range(3)], ["paused", "reset", "paused"])
        self.assertEqual(hv.ask("status")["reasons"], ["user"], "who paused it did not mean the reset to end that")
        hv.ask("resume")
        hv.ask("kill")
        out, _ = hv.wait(0)
        self.assertIn("spinning", out)

    def test_reset_with_no_reboot_ends_hv(self):
        hv = self.controlled("--no-reboot")
        hv.ctl("reset")
        hv.wait(10)

    def test_beside_a_debugger(self):
        where = self.scratch("gdb")
        hv = self.controlled("--gdb", f"unix:{where}", "--pause", guest="out_loop")
        with socket.socket(socket.AF_UNIX) as gdb:
            gdb.settimeout(harness.LIMIT)
            gdb.connect(where)
            gdb.sendall(b"$?#3f")
            self.assertTrue(gdb.recv(100))
            self.assertEqual(hv.ask("status")["reasons"], ["user", "debugger"])
            self.assertEqual(hv.ask("resume")["reasons"], ["debugger"])
            hv.ask("pause")
            gdb.sendall(b"+$c#63")
            end = time.monotonic() + harness.LIMIT
            while hv.ask("status")["reasons"] != ["user"]:
                self.assertLess(time.monotonic(), end)
            self.assertEqual(hv.ask("stats")["cpus"][0]["exits"], 0, "a pause that came later is not the debugger's to end")
            hv.ask("resume")
            said = b""
            while b"$W21#" not in said:
                said += gdb.recv(100)
        hv.wait(33)

    def test_hostile_clients_harm_nobody(self):
        hv = self.controlled()
        for data in (b"\0" * 100000, b"x" * (1 << 20), b"{" * 60000 + b"\n", b'{"execute": "stat', os.urandom(5000) + b"\n",
                     b'{"execute":"commands"}\n' * 10000):
            with self.subTest(data=data[:20]), socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(1)
                peer.connect(hv.socket)
                try:
                    peer.sendall(data)
                except OSError:
                    pass  # it has hung up, or does not read while we do not
                self.assertEqual(hv.ask("status")["state"], "running")
        idle = [hv.connect() for _ in range(15)]
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(hv.socket)
            self.assertIn(b"too many clients", peer.recv(1000))
        self.assertIn("too many clients", hv.refused("status", status=4))
        del idle
        hv.ask("kill")
        hv.wait(0)

    def test_every_command_is_in_the_manual(self):
        hv = self.controlled()
        with open(os.path.join(harness.ROOT, "src/cli/hv-control.7"), encoding="utf-8") as file:
            manual = file.read()
        section = re.search(r"^\.Sh COMMANDS\n(.*?)^\.Sh", manual, re.M | re.S)[1]
        documented = {}
        for name, args in re.findall(r"^\.It Cm (\S+)(.*)$", section, re.M):
            documented[name] = re.findall(r"Ar (\S+)", args)
        self.assertEqual({c["name"]: [a["name"] for a in c["arguments"]] for c in hv.ask("commands")}, documented)

    def test_the_completion_asks_the_machine(self):
        hv = self.controlled()
        script = f"""source {harness.ROOT}/src/cli/hv.bash; compopt() {{ :; }}
COMP_WORDS=({harness.HV} ctl {hv.socket} "$1") COMP_CWORD=3; _hv {harness.HV}; printf '%s\\n' "${{COMPREPLY[@]}}" """
        run = lambda word: subprocess.run(["bash", "--norc", "-c", script, "bash", word], check=True, capture_output=True, text=True)
        self.assertEqual(run("sta").stdout.split(), ["status", "stats"])
        self.assertIn("set-limits", run("").stdout.split())


class Linux(virtio.Virtio):
    SCRIPT = """
modprobe virtio_blk; modprobe virtio_balloon; modprobe evdev; insmod /button.ko
echo 0 >/sys/block/vda/queue/read_ahead_kb
button=$(sed -n '/Power Button/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p' /proc/bus/input/devices | head -n 1)
(head -c 24 /dev/input/$button >/dev/null; echo the-button; poweroff -f) &
while echo at-your-service; read -r _; do
    echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=4k count=60 2>/dev/null
done"""

    def counters(self, path):
        stats = json.loads(self.hv("ctl", "--json", path, "stats").out)
        return next(d for d in stats["devices"] if d["name"] == "disk0")

    def balloon(self, path, *words):
        return json.loads(self.hv("ctl", "--json", path, "balloon", *words).out)

    def test_a_linux_is_watched_limited_squeezed_and_powered_off(self):
        path = self.scratch("control")
        button = glob.glob(harness.cached("cloud", "modules") + "/**/button.ko", recursive=True)
        with open(button[0], "rb") as file:
            self.extra["button.ko"] = file.read()
        t = self.terminal(*self.arguments(self.SCRIPT, "--disk", self.disk(), "--balloon", "0", "--memory", "512M",
                                          "--cpus", "2", "--control", path))
        t.expect("at-your-service")
        self.assertRegex(self.hv("ctl", path, "status").out, r"(?m)^disk0 +disk$")

        before = self.counters(path)
        t.type("\n")
        t.expect("at-your-service")
        free = self.counters(path)
        self.assertGreater(free["counters"]["read-bytes"], before["counters"]["read-bytes"] + 60 * 4096 - 1)
        self.assertGreater(free["queues"][0]["chains"], before["queues"][0]["chains"])
        self.assertEqual(free["counters"]["waits"], 0)
        self.hv("ctl", path, "set-limits", "disk0", "iops=10")
        t.type("\n")
        t.expect("at-your-service")
        held = self.counters(path)
        self.assertGreater(held["counters"]["waits"], 5, "sixty requests, one by one, ten in a second")
        self.assertEqual(held["counters"]["iops-limit"], 10)
        self.hv("ctl", path, "set-limits", "disk0", "iops=0")
        t.type("\n")
        t.expect("at-your-service")
        self.assertEqual(self.counters(path)["counters"]["waits"], held["counters"]["waits"])

        full = self.balloon(path, "guest=on")["guest"]
        self.hv("ctl", path, "balloon", "100M")
        end = time.monotonic() + harness.LIMIT
        while (state := self.balloon(path, "guest=on"))["actual"] != 100 << 20:
            self.assertLess(time.monotonic(), end, state)
        self.assertLess(state["guest"]["free-memory"], full["free-memory"] - (80 << 20))
        self.assertIn("it says: ", self.hv("ctl", path, "balloon", "target=0", "guest=on").out)

        self.hv("ctl", path, "pause")
        first, second = (json.loads(self.hv("ctl", "--json", path, "stats").out)["cpus"] for _ in range(2))
        self.assertEqual(first, second)
        self.hv("ctl", path, "resume")
        t.type("\n")
        t.expect("at-your-service")

        self.hv("ctl", path, "stop", "timeout=60", limit=100)
        t.expect("the-button")
        self.assertEqual(t.wait(), 0)
        self.assertFalse(os.path.exists(path))
