"""Virtio devices under unmodified Linux: disks, networks, entropy; on PCI and in memory-mapped windows."""

import contextlib
import functools
import hashlib
import http.server
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import harness

sys.path.insert(0, os.path.join(harness.ROOT, "guest/linux"))
import newc  # noqa: E402

TRANSPORTS = {"pci": "virtio_pci", "mmio": "virtio_mmio"}


class Virtio(harness.Case):
    needs = "full"

    def setUp(self):
        super().setUp()
        self.extra = {}  # programs for the guest, by their names in its root

    def initrd(self, script, kernel="cloud"):
        """The path of an initial RAM disk that runs SCRIPT."""
        path = self.scratch("initrd")
        with open(path, "wb") as out:
            with open(harness.cached(f"initramfs-{kernel}.cpio"), "rb") as base:
                out.write(base.read())
            extra = newc.Archive()
            extra.file("script", f"{script}\n".encode())
            for name, data in self.extra.items():
                extra.file(name, data, 0o755)
            extra.write(out)
        return path

    def arguments(self, script, *options, transport="pci", kernel="cloud"):
        """hv's, for a guest that runs SCRIPT with the transport's driver loaded."""
        script = f"modprobe {TRANSPORTS[transport]}\n{script}"
        return ["run", "--kernel", harness.cached(kernel, "vmlinuz"), "--initrd", self.initrd(script, kernel),
                "--append", "console=ttyS0 quiet hv.script=file", "--virtio", transport, *options]

    def boot(self, script, *options, transport="pci", kernel="cloud", **kwargs):
        return self.hv(*self.arguments(script, *options, transport=transport, kernel=kernel), **kwargs)

    def disk(self, size=16 << 20, name="disk.img", fill=None):
        path = self.scratch(name)
        with open(path, "wb") as file:
            file.truncate(size)
        if fill == "ext4":
            subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", path], check=True)
        return path


class OneBoot(Virtio):
    """All kinds of devices at once, for where a boot takes minutes."""

    tags = ("intel",)

    def test_each_does_something(self):
        for transport in TRANSPORTS:
            with self.subTest(transport=transport):
                path = self.disk(fill="ext4")
                r = self.boot("""
modprobe virtio_blk; modprobe virtio-rng; modprobe virtio_console; modprobe virtio_net; modprobe crc32c_generic; modprobe ext4
mkdir /m && mount -t ext4 /dev/vda /m && head -c 100000 /dev/hwrng >/m/noise && sync && echo 3 >/proc/sys/vm/drop_caches
wc -c </m/noise; umount /m; cat /sys/class/net/eth0/address; until [ -e /dev/vport*p1 ]; do sleep 1; done; ls /dev/vport*""",
                              "--rng", "--disk", path, "--net", "none,mac=02:00:00:00:00:07", "--console", "none",
                              "--console", "none,name=x", "--cpus", "1", transport=transport)
                self.assertRegex(r.out, r"(?m)^100000\s*$")
                self.assertIn("02:00:00:00:00:07", r.out)
                self.assertRegex(r.out, r"/dev/vport\dp1")


class Rng(Virtio):
    def test_linux_reads_hwrng(self):
        script = "modprobe virtio-rng; cat /sys/class/misc/hw_random/rng_current; head -c 32 /dev/hwrng | od -An -tx1"
        for transport in TRANSPORTS:
            with self.subTest(transport=transport):
                r = self.boot(script, "--rng", transport=transport)
                self.assertIn("virtio_rng.0", r.out)
                self.assertRegex(r.out, r"(?m)^( [0-9a-f]{2}){16}\s*$")


class Disk(Virtio):
    def test_ext4_keeps_what_was_written(self):
        script = """
modprobe virtio_blk; modprobe crc32c_generic; modprobe ext4; mkdir /m
mount -t ext4 /dev/vda /m && echo 'kept for ever' >/m/file && mkdir /m/d && dd if=/dev/zero of=/m/d/z bs=1M count=3 2>/dev/null
sync; umount /m && echo done-with-it"""
        for transport in TRANSPORTS:
            with self.subTest(transport=transport):
                path = self.disk(fill="ext4")
                r = self.boot(script, "--disk", path, transport=transport)
                self.assertIn("done-with-it", r.out, str(r))
                subprocess.run(["e2fsck", "-fn", path], check=True, stdout=subprocess.DEVNULL)
                shown = subprocess.run(["debugfs", "-R", "cat /file", path], check=True, capture_output=True, text=True)
                self.assertEqual(shown.stdout, "kept for ever\n")

    def test_read_only(self):
        path = self.disk(fill="ext4")
        r = self.boot("modprobe virtio_blk; cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=512 count=1 || echo refused",
                      "--disk", f"{path},readonly")
        self.assertRegex(r.out, r"(?m)^1\s*$")
        self.assertIn("refused", r.out)
        subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)

    def test_several_with_queues_and_serial_numbers(self):
        paths = [self.disk(size=(n + 1) << 20, name=f"{n}.img") for n in range(3)]
        r = self.boot("modprobe virtio_blk; for d in vda vdb vdc; do echo $d $(cat /sys/block/$d/size /sys/block/$d/serial) $(ls /sys/block/$d/mq | wc -l); done",
                      "--cpus", "2", *[word for n, path in enumerate(paths) for word in ("--disk", f"{path},serial=S-{n},queues=2")])
        for n, name in enumerate(("vda", "vdb", "vdc")):
            self.assertRegex(r.out, rf"(?m)^{name} {2048 * (n + 1)} S-{n} 2\s*$")

    def test_an_image_that_somebody_writes_is_refused(self):
        path = self.disk()
        first = self.terminal(*self.arguments("modprobe virtio_blk; echo up; sleep 1000", "--disk", path))
        first.expect("up")
        r = self.boot("", "--disk", path, status=4)
        self.assertIn(path, r.err)
        self.assertIn("in use", r.err)
        first.type("\x01x")
        self.assertEqual(first.wait(), 0)

    def test_a_file_that_shrinks_is_an_io_error_and_no_crash(self):
        path = self.disk(size=16 << 20)
        t = self.terminal(*self.arguments(
            "modprobe virtio_blk; echo ready; sleep 3; dd if=/dev/vda of=/dev/null bs=1M skip=12 count=1 && echo read-it || echo io-error; "
            "dd if=/dev/vda of=/dev/null bs=4k count=1 && echo still-reads", "--disk", path))
        t.expect("ready")
        os.truncate(path, 1 << 20)
        t.expect("io-error")
        t.expect("still-reads")
        self.assertEqual(t.wait(), 0)


class Qcow2(Virtio):
    def qemu_img(self, *words):
        return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout

    def test_ext4_on_qcow2_and_qemu_agrees(self):
        """Linux makes files on an image; qemu-img finds it sound, and the same files in it."""
        raw, image = self.disk(size=64 << 20, fill="ext4"), self.scratch("disk.qcow2")
        self.qemu_img("convert", "-O", "qcow2", raw, image)
        r = self.boot("""
modprobe virtio_blk; modprobe crc32c_generic; modprobe ext4; mkdir /m; mount -t ext4 -o discard /dev/vda /m
for i in 1 2 3 4 5 6 7 8; do head -c 2000000 /dev/urandom >/m/$i; done; sync; rm /m/2 /m/5; sync; md5sum /m/7; umount /m; echo finished""",
                      "--disk", image)
        self.assertIn("finished", r.out, str(r))
        self.qemu_img("check", image)
        self.qemu_img("convert", "-O", "raw", image, raw)
        subprocess.run(["e2fsck", "-fn", raw], check=True, capture_output=True)
        out = self.scratch("7")
        subprocess.run(["debugfs", "-R", f"dump /7 {out}", raw], check=True, capture_output=True)
        with open(out, "rb") as file:
            self.assertIn(hashlib.md5(file.read()).hexdigest(), r.out)

    def test_what_looks_like_qcow2_is_not_taken_for_raw(self):
        image = self.scratch("disk.img")
        self.qemu_img("create", "-f", "qcow2", image, "1M")
        r = self.boot("", "--disk", image, status=4)
        self.assertIn("format=qcow2", r.err)

    def test_a_backing_file_wants_permission(self):
        base, image = self.disk(size=1 << 20, name="base.img"), self.scratch("over.qcow2")
        with open(base, "r+b") as file:
            file.write(b"from below")
        self.qemu_img("create", "-f", "qcow2", "-b", base, "-F", "raw", image)
        r = self.boot("", "--disk", image, status=4)
        self.assertIn(base, r.err)
        self.assertIn("backing", r.err)
        r = self.boot("modprobe virtio_blk; head -c 10 /dev/vda; echo; echo above | dd of=/dev/vda conv=fsync; head -c 5 /dev/vda",
                      "--disk", f"{image},backing=on")
        self.assertIn("from below", r.out)
        self.assertIn("above", r.out)
        with open(base, "rb") as file:
            self.assertEqual(file.read(10), b"from below")


class Kill(Virtio):
    """hv dies by SIGKILL while its guest writes. What the guest was told is on the disk, is there."""

    KILLS = int(os.environ.get("HV_TEST_KILLS", "3"))
    SCRIPT = """
modprobe virtio_blk; modprobe crc32c_generic; modprobe ext4; mkdir /m; mount -t ext4 -o discard /dev/vda /m || echo mount-failed
n=$(tail -n 1 /m/log | cut -d' ' -f2); n=${n:-0}
while :; do
    n=$((n + 1))
    echo "record $n" >>/m/log
    head -c $((n % 40 * 4096 + 1000)) /dev/urandom >/m/noise$((n % 9))
    rm -f /m/noise$(((n + 4) % 9))
    sync && echo "flushed $n"
done"""

    def one(self, options):
        """Runs the guest for a while and kills hv; the last number that it said is on the disk."""
        t = self.terminal(*self.arguments(self.SCRIPT, "--disk", options))
        t.expect(r"flushed \d+")
        with contextlib.suppress(AssertionError):
            t.expect("mount-failed", limit=random.uniform(0, 3))
        t.signal(signal.SIGKILL)
        t.wait()
        self.assertNotIn("mount-failed", t.seen)
        return int(re.findall(r"flushed (\d+)\s", t.seen)[-1])

    def records(self, raw):
        """The records on a copy of the disk, once its journal is replayed and nothing is wrong with it."""
        copy = self.scratch("copy.img")
        shutil.copyfile(raw, copy)
        subprocess.run(["e2fsck", "-fp", copy], check=False, capture_output=True)
        subprocess.run(["e2fsck", "-fn", copy], check=True, capture_output=True)
        shown = subprocess.run(["debugfs", "-R", "cat /log", copy], check=True, capture_output=True, text=True)
        os.unlink(copy)
        return shown.stdout.split("\n")[:-1]

    def check(self, raw, flushed):
        lines = self.records(raw)
        self.assertGreaterEqual(len(lines), flushed)
        self.assertEqual(lines, [f"record {n + 1}" for n in range(len(lines))])

    def test_raw(self):
        path = self.disk(size=32 << 20, fill="ext4")
        for turn in range(self.KILLS):
            with self.subTest(turn=turn):
                self.check(path, self.one(path))

    def test_qcow2(self):
        raw, image = self.disk(size=32 << 20, fill="ext4"), self.scratch("disk.qcow2")
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, image], check=True)
        for turn in range(self.KILLS):
            with self.subTest(turn=turn):
                flushed = self.one(image)
                verdict = subprocess.run(["qemu-img", "check", image], check=False, capture_output=True, text=True)
                self.assertIn(verdict.returncode, (0, 3), verdict.stdout + verdict.stderr)  # 3: clusters lost, no more
                self.hv("image", "check", "--repair", image)
                subprocess.run(["qemu-img", "check", image], check=True, capture_output=True)
                subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
                self.check(raw, flushed)


class Others(Virtio):
    def test_console_is_a_terminal_with_a_size(self):
        arguments = self.arguments("modprobe virtio_console; until [ -e /dev/hvc0 ]; do sleep 1; done; "
                                   "setsid sh -i </dev/hvc0 >/dev/hvc0 2>&1", "--console", "stdio")
        t = self.terminal(*arguments, size=(33, 111))
        t.expect("guest:")
        t.type("echo $((6 * 7)) $(stty size)\r")
        t.expect("42 33 111")
        t.resize(44, 122)
        t.type("sleep 1; stty size\r")
        t.expect("44 122")
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)

    def test_a_named_port_is_a_stream(self):
        """Linux does not wait until hv has taken what it writes there, and is switched off right after it."""
        out = self.scratch("port")
        r = self.boot("""modprobe virtio_console
until grep -l org.hvlab.test /sys/class/virtio-ports/*/name; do sleep 1; done
port=$(grep -l org.hvlab.test /sys/class/virtio-ports/*/name); port=${port%/name}
echo through-the-port >/dev/${port##*/}""", "--console", "none", "--console", f"file:{out},name=org.hvlab.test")
        self.assertIn("vport0p1", r.out, str(r))
        with open(out, encoding="ascii") as file:
            self.assertEqual(file.read(), "through-the-port\n")

    def test_balloon_takes_memory(self):
        r = self.boot("""free -m; modprobe virtio_balloon
until [ $(awk '/^MemFree/ {print $2}' /proc/meminfo) -lt 280000 ]; do sleep 1; done
free -m""", "--memory", "512M", "--balloon", "200M")
        before, after = (int(n) for n in re.findall(r"Mem: +\d+ +\d+ +(\d+)", r.out))
        self.assertGreater(before - after, 150, str(r))

    def test_vsock_both_ways(self):
        program, path = self.scratch("vsock_guest"), self.scratch("vsock")
        source = os.path.join(harness.ROOT, "tests/system/vsock_guest.c")
        subprocess.run(["gcc", "-static", "-O1", "-o", program, source], check=True)
        with open(program, "rb") as file:
            self.extra["vsock_guest"] = file.read()
        data = bytes(range(97, 123)) * 20000  # more than any buffer on the way holds
        for transport in TRANSPORTS:
            with self.subTest(transport=transport), socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path + "_6000")
                self.addCleanup(lambda: os.path.exists(path + "_6000") and os.unlink(path + "_6000"))
                listener.listen()
                listener.settimeout(harness.LIMIT)
                t = self.terminal(*self.arguments("modprobe vmw_vsock_virtio_transport; /vsock_guest", "--vsock", f"{path},cid=42", transport=transport))
                peer, _ = listener.accept()
                self.assertEqual(peer.makefile().readline(), "hello from the guest\n")
                peer.close()
                self.assertEqual(self.talk(path, data), data.upper())
                t.expect("echoed")
                self.assertEqual(t.wait(), 0)
                self.assertFalse(os.path.exists(path), "hv leaves no socket behind")
                os.unlink(path + "_6000")

    def talk(self, path, data):
        """What comes back for DATA from port 5000."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(harness.LIMIT)
            peer.connect(path)
            peer.sendall(b"CONNECT 5000\n")
            stream = peer.makefile("rb")
            self.assertRegex(stream.readline(), rb"OK \d+\n")
            sender = threading.Thread(target=lambda: (peer.sendall(data), peer.shutdown(socket.SHUT_WR)))
            sender.start()
            back = stream.read()
            sender.join()
            return back

    def test_vsock_nobody_listens(self):
        path = self.scratch("vsock")
        t = self.terminal(*self.arguments("modprobe vmw_vsock_virtio_transport; echo loaded; sleep 1000", "--vsock", path))
        t.expect("loaded")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            peer.connect(path)
            peer.sendall(b"CONNECT 5000\n")
            self.assertEqual(peer.recv(100), b"")
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)


def in_its_own_network(test):
    """What TEST makes of interfaces and routes is not this host's, and is gone with it. Needs no root where user
    namespaces are allowed."""

    @functools.wraps(test)
    def run(self):
        if "HV_TEST_OWN_NETWORK" in os.environ:
            return test(self)
        own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
        command = [*own, sys.executable, os.path.join(harness.ROOT, "tests/system/run"), "--needs", "full", "-k", self.id()]
        done = subprocess.run(command, env={**os.environ, "HV_TEST_OWN_NETWORK": "1"}, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("1 passed, 0 failed, 0 skipped", done.stdout)
        return None

    return run


class Net(Virtio):
    UP = "modprobe virtio_net; ifconfig lo 127.0.0.1; "

    def interface(self, name, address, *flags):
        """A tap interface of the host's, which goes away with the test."""
        for words in (["tuntap", "add", "dev", name, "mode", "tap", *flags], ["addr", "add", address, "dev", name], ["link", "set", name, "up"]):
            subprocess.run(["ip", *words], check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "del", name], check=False)

    def serve(self, address, text):
        """A web server that answers everything with TEXT; its port."""
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer((address, 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        return server.server_port

    @in_its_own_network
    def test_tap(self):
        self.interface("hvtest0", "10.77.0.1/24")
        text = os.urandom(3 << 20)
        port = self.serve("10.77.0.1", text)
        for transport in TRANSPORTS:
            with self.subTest(transport=transport):
                r = self.boot(self.UP + "ifconfig eth0 10.77.0.2 netmask 255.255.255.0 up; cat /sys/class/net/eth0/address; ping -c 3 -W 5 10.77.0.1; "
                              f"wget -q -O /f http://10.77.0.1:{port}/; wc -c </f; md5sum </f; cat /sys/class/net/eth0/statistics/rx_errors",
                              "--net", "tap=hvtest0,mac=02:11:22:33:44:55", transport=transport)
                self.assertIn("02:11:22:33:44:55", r.out)
                self.assertIn("3 packets received", r.out, str(r))
                self.assertIn(hashlib.md5(text).hexdigest(), r.out, str(r))

    @in_its_own_network
    def test_tap_with_two_queues(self):
        """Each CPU of Linux's has a queue of its own, and what it asked for comes back there."""
        self.interface("hvtest2", "10.78.0.1/24", "multi_queue")
        text = os.urandom(1 << 20)
        port = self.serve("10.78.0.1", text)
        r = self.boot(self.UP + "ifconfig eth0 10.78.0.2 netmask 255.255.255.0 up; "
                      f"for cpu in 1 2; do taskset $cpu wget -q -O /f http://10.78.0.1:{port}/; md5sum </f; grep input /proc/interrupts; done",
                      "--cpus", "2", "--net", "tap=hvtest2,queues=2")
        self.assertEqual(r.out.count(hashlib.md5(text).hexdigest()), 2, str(r))
        counts = [int(a) + int(b) for a, b in re.findall(r"(?m)^ *\d+: +(\d+) +(\d+) .*virtio0-input\.[01]\s*$", r.out)]
        self.assertEqual(len(counts), 4, str(r))
        self.assertGreater(counts[0], counts[1], str(r))  # the first CPU's went to the first queue …
        self.assertGreater(counts[3] - counts[1], counts[2] - counts[0], str(r))  # … and the second one's to the second

    @in_its_own_network
    def test_user(self):
        """passt takes the host's addresses and routes: here is one to the outside, that leads nowhere."""
        self.interface("hvtest1", "192.0.2.2/24")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "route", "add", "default", "via", "192.0.2.1"], check=True)
        port = self.serve("127.0.0.1", b"from the host\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            forwarded = probe.getsockname()[1]
        t = self.terminal(*self.arguments(
            self.UP + "ifconfig eth0 192.0.2.2 netmask 255.255.255.0 up; route add default gw 192.0.2.1; "
            f"wget -q -O - http://192.0.2.1:{port}/; echo from-the-guest >/page; httpd -p 7777 -h /; echo listening; sleep 1000",
            "--net", f"user,forward={forwarded}:7777"))
        t.expect("from the host")
        t.expect("listening")
        with urllib.request.urlopen(f"http://127.0.0.1:{forwarded}/page", timeout=harness.LIMIT) as page:
            self.assertEqual(page.read(), b"from-the-guest\n")
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)

    def test_two_of_ours_and_qemu_over_stream_sockets(self):
        """a - b - q: b has two interfaces and forwards."""
        one, two = self.scratch("one"), self.scratch("two")
        b = self.terminal(*self.arguments(
            self.UP + "ifconfig eth0 10.1.0.2 netmask 255.255.255.0 up; ifconfig eth1 10.2.0.2 netmask 255.255.255.0 up; echo 1 >/proc/sys/net/ipv4/ip_forward; echo b-is-up; sleep 1000",
            "--net", f"listen={one}", "--net", f"listen={two},pcap={self.scratch('b.pcap')}"))
        b.expect("b-is-up")
        script = "modprobe virtio_pci; " + self.UP + "ifconfig eth0 10.2.0.3 netmask 255.255.255.0 up; route add default gw 10.2.0.2; ping -c 2 -W 5 10.2.0.2; echo q-is-up; sleep 1000"
        q = self.program("qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nographic", "-nodefaults", "-serial", "stdio",
                         "-kernel", harness.cached("cloud", "vmlinuz"), "-initrd", self.initrd(script), "-append", "console=ttyS0 quiet hv.script=file",
                         "-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={two}", "-device", "virtio-net-pci,netdev=n")
        q.expect("2 packets received")
        q.expect("q-is-up")
        r = self.boot(self.UP + "ifconfig eth0 10.1.0.1 netmask 255.255.255.0 up; route add default gw 10.1.0.2; ping -c 3 -W 5 10.1.0.2; ping -c 3 -W 5 10.2.0.3",
                      "--net", f"stream={one}")
        self.assertEqual(r.out.count("3 packets received"), 2, str(r))
