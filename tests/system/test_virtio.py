"""Virtio devices under unmodified Linux, each with what is its own. All of them together: test_root.py."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess

import harness
from virtio import Virtio, in_its_own_network


class Disk(Virtio):
    def test_each_is_as_told_and_nobody_else_may_write(self):
        paths = [self.disk(size=(n + 1) << 20, name=f"{n}.img") for n in range(3)]
        fixed = self.disk(fill="ext4")
        t = self.terminal(*self.arguments("""modprobe virtio_blk
for d in vda vdb vdc; do echo $d $(cat /sys/block/$d/size /sys/block/$d/serial) $(ls /sys/block/$d/mq | wc -l); done
echo vdd is $(cat /sys/block/vdd/ro); dd if=/dev/zero of=/dev/vdd bs=512 count=1 || echo refused; echo up; sleep 1000""",
            "--cpus", "2", *[word for n, path in enumerate(paths) for word in ("--disk", f"{path},serial=S-{n},queues=2")],
            "--disk", f"{fixed},readonly"))  # fmt: skip
        for n, name in enumerate(("vda", "vdb", "vdc")):
            t.expect(rf"^{name} {2048 * (n + 1)} S-{n} 2\s*$")
        t.expect("vdd is 1")
        t.expect("refused")
        t.expect("up")
        self.assert_sound(fixed)
        r = self.boot("", "--disk", paths[0], status=4)
        self.assertIn(paths[0], r.err)
        self.assertIn("in use", r.err)
        t.type("\x01x")
        self.assertEqual(t.wait(), 0)

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

    def test_a_full_host_is_an_io_error_until_there_is_room(self):
        """Both formats lie on a small file system. What was there before can be read all the time; what is written
        when there is room again is on the disk."""
        folder = self.small_disk("12M")
        raw, image, filler = (os.path.join(folder, name) for name in ("disk.img", "disk.qcow2", "filler"))
        for name, kind in ((raw, "raw"), (image, "qcow2")):
            self.qemu_img("create", "-f", kind, name, "32M")
        t = self.terminal(*self.arguments("""modprobe virtio_blk
all() { for d in vda vdb; do "$@"; done; }
early() { echo "here first" | dd of=/dev/$d conv=fsync 2>/dev/null; }
write() { dd if=/noise of=/dev/$d bs=64k seek=16 conv=fsync 2>/dev/null && echo "$d: written" || echo "$d: refused"; }
reread() { echo 3 >/proc/sys/vm/drop_caches; head -n 1 /dev/$d; }
head -c 4m /dev/urandom >/noise; all early; echo ready; read -r _; all write; all reread; echo full; read -r _; all write; all reread; md5sum /noise""",
            "--disk", raw, "--disk", image))  # fmt: skip
        t.expect("ready")
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 10 << 20)
        t.type("\n")
        for line in ("vda: refused", "vdb: refused", "here first", "here first", "full"):
            t.expect(line)
        os.unlink(filler)
        t.type("\n")
        for line in ("vda: written", "vdb: written", "here first", "here first"):
            t.expect(line)
        digest = t.expect(r"(\w{32})  /noise")[1]
        self.assertEqual(t.wait(), 0)
        self.qemu_img("check", image)
        copy = self.scratch("copy.img")
        self.qemu_img("convert", "-O", "raw", image, copy)
        for path in (raw, copy):
            with open(path, "rb") as file:
                file.seek(1 << 20)
                self.assertEqual(hashlib.md5(file.read(4 << 20)).hexdigest(), digest)


class Qcow2(Virtio):
    def over(self):
        """A raw image, and one of qcow2 over it."""
        base, image = self.disk(size=1 << 20, name="base.img"), self.scratch("over.qcow2")
        with open(base, "r+b") as file:
            file.write(b"from below")
        self.qemu_img("create", "-f", "qcow2", "-b", base, "-F", "raw", image)
        return base, image

    def test_qemu_agrees_and_a_backing_file_is_left_alone(self):
        """Linux makes files on an image; qemu-img finds it sound, and the same files in it. The second disk is over another."""
        raw, image, (base, over) = self.disk(size=64 << 20, fill="ext4"), self.scratch("disk.qcow2"), self.over()
        self.qemu_img("convert", "-O", "qcow2", raw, image)
        r = self.boot("""
modprobe virtio_blk; modprobe crc32c_generic; modprobe ext4; mkdir /m; mount -t ext4 -o discard /dev/vda /m
for i in 1 2 3 4 5 6 7 8; do head -c 2000000 /dev/urandom >/m/$i; done; sync; rm /m/2 /m/5; sync; md5sum /m/7; umount /m; echo finished
head -c 10 /dev/vdb; echo; echo above | dd of=/dev/vdb conv=fsync; head -c 5 /dev/vdb""", "--disk", image, "--disk", f"{over},backing=on")
        self.assertIn("finished", r.out, str(r))
        self.qemu_img("check", image)
        self.qemu_img("convert", "-O", "raw", image, raw)
        self.assert_sound(raw)
        self.assertIn(hashlib.md5(self.contents(raw, "/7")).hexdigest(), r.out)
        self.assertIn("from below", r.out)
        self.assertIn("above", r.out)
        with open(base, "rb") as file:
            self.assertEqual(file.read(10), b"from below")

    def test_what_looks_like_qcow2_is_not_taken_for_raw(self):
        image = self.scratch("disk.img")
        self.qemu_img("create", "-f", "qcow2", image, "1M")
        r = self.boot("", "--disk", image, status=4)
        self.assertIn("format=qcow2", r.err)

    def test_a_backing_file_wants_permission(self):
        base, image = self.over()
        r = self.boot("", "--disk", image, status=4)
        self.assertIn(base, r.err)
        self.assertIn("backing", r.err)


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


class Net(Virtio):
    UP = "modprobe virtio_net; ifconfig lo 127.0.0.1; "

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
