"""Virtio devices under unmodified Linux: disks, networks, entropy; on PCI and in memory-mapped windows."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading

import harness

sys.path.insert(0, os.path.join(harness.ROOT, "guest/linux"))
import newc  # noqa: E402

TRANSPORTS = {"pci": "virtio_pci", "mmio": "virtio_mmio"}


class Virtio(harness.Case):
    needs = "full"
    tags = ("intel",)

    def initrd(self, script, kernel="cloud"):
        """The path of an initial RAM disk that runs SCRIPT."""
        path = self.scratch("initrd")
        with open(path, "wb") as out:
            with open(harness.cached(f"initramfs-{kernel}.cpio"), "rb") as base:
                out.write(base.read())
            extra = newc.Archive()
            extra.file("script", f"{script}\n".encode())
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


class Net(Virtio):
    UP = "modprobe virtio_net; ifconfig lo 127.0.0.1; "

    def interface(self, name, address):
        """A tap interface of the host's, which goes away with the test."""
        for words in (["tuntap", "add", "dev", name, "mode", "tap"], ["addr", "add", address, "dev", name], ["link", "set", name, "up"]):
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
            f"wget -q -O - http://192.0.2.1:{port}/; (echo from-the-guest | nc -l -p 7777) & sleep 1; echo listening; wait; echo served",
            "--net", f"user,forward={forwarded}:7777"))
        t.expect("from the host")
        t.expect("listening")
        with socket.create_connection(("127.0.0.1", forwarded), timeout=30) as peer:
            self.assertEqual(peer.makefile().readline(), "from-the-guest\n")
        t.expect("served")
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
