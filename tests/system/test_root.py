"""A Linux whose root is on our disks, and that uses all our devices: few boots for everything, as one takes minutes
where the processor's VT-x is emulated. What a device does besides is in test_virtio.py."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import sys
import threading
import urllib.request

import harness
from virtio import Virtio, in_its_own_network

sys.path.insert(0, os.path.join(harness.ROOT, "guest/linux"))
import parts  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
MAC = "02:11:22:33:44:55"

# In the initial RAM disk, which has the drivers: they are loaded, and the disk that the command line names is the root.
SWITCH_ROOT = """
for name in virtio_blk virtio_net virtio-rng virtio_console vmw_vsock_virtio_transport crc32c_generic ext4; do modprobe -q $name; done
mkdir /new && mount -t ext4 $(option root) /new
for name in dev proc sys; do mount --move /$name /new/$name; done
exec switch_root /new /init"""


class OneBoot(Virtio):
    """The host's part: it gives each device of the guest somebody to talk to. The guest's part is root_init."""

    tags = ("intel",)

    def setUp(self):
        super().setUp()
        self.page = os.urandom(3 << 20)
        self.said = bytes(range(97, 123)) * 20000  # more than any buffer on the way holds
        self.vsock = self.scratch("vsock")

    @in_its_own_network
    def test_pci(self):
        self.check("pci")

    @in_its_own_network
    def test_mmio(self):
        self.check("mmio")

    def check(self, transport):
        """passt takes the host's addresses and routes: here is one to the outside, that leads nowhere."""
        self.ip("link", "set", "lo", "up")
        self.interface("hvtest0", "10.77.0.1/24")
        self.interface("hvtest1", "192.0.2.2/24")
        self.ip("route", "add", "default", "via", "192.0.2.1")
        peers = {"http_port": self.serve("10.77.0.1", self.page), "local_port": self.serve("127.0.0.1", b"from the host\n")}
        raw = self.disk(32 << 20, fill="ext4", tree=self.tree(peers))
        image, port, forwarded = self.scratch("disk.qcow2"), self.scratch("port"), self.free_port()
        self.qemu_img("convert", "-O", "qcow2", raw, image)
        with self.listener() as listener:
            t = self.terminal(*self.arguments(
                SWITCH_ROOT, "--disk", raw, "--disk", image, "--rng", "--net", f"tap=hvtest0,mac={MAC}", "--net", f"user,forward={forwarded}:7777",
                "--console", "none", "--console", f"file:{port},name=org.hvlab.test", "--vsock", f"{self.vsock},cid=42",
                transport=transport, append="root=/dev/vda"))  # fmt: skip
            t.expect("user: listening")
            self.fetch(forwarded)
            t.expect("vsock: ready")
            self.assertEqual(self.connect(5999).recv(100), b"", "nobody listens there")
            self.talk(listener, t)
        self.assertEqual(t.wait(), 0)
        self.guest_said(t.seen)
        self.left_behind(raw, image, port, t.seen)

    # --- before --------------------------------------------------------------------------------

    def tree(self, peers):
        """A directory with what is on the root file system: busybox, and our init."""
        root = self.scratch("root")
        for name in ("bin", "dev", "etc", "next", "old", "proc", "sys"):
            os.makedirs(os.path.join(root, name))
        busybox = parts.busybox()
        for name, path in {"init": f"{HERE}/root_init", "bin/busybox": busybox, "bin/vsock_guest": harness.guest("vsock_guest")}.items():
            shutil.copy(path, os.path.join(root, name))
        for name in parts.busybox_applets(busybox):
            os.symlink("busybox", os.path.join(root, "bin", name))
        with open(os.path.join(root, "etc/peers"), "w", encoding="ascii") as file:
            file.writelines(f"{name}={value}\n" for name, value in peers.items())
        return root

    @staticmethod
    def free_port():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    @contextlib.contextmanager
    def listener(self):
        """Where a connection from the guest to port 6000 arrives."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.vsock + "_6000")
            listener.listen()
            listener.settimeout(harness.LIMIT)
            yield listener

    # --- while the guest runs ------------------------------------------------------------------

    def fetch(self, forwarded):
        with urllib.request.urlopen(f"http://127.0.0.1:{forwarded}/page", timeout=harness.LIMIT) as page:
            self.assertEqual(page.read(), b"from-the-guest\n")

    def talk(self, listener, terminal):
        """The guest greets us, then says in capitals what we say to its port 5000."""
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            self.fail(f"the guest did not connect\n{harness.tail(terminal.seen)}")
        with peer:
            peer.settimeout(harness.LIMIT)
            self.assertEqual(peer.makefile().readline(), "hello from the guest\n")
        peer = self.connect(5000)
        back = peer.makefile("rb")
        self.assertRegex(back.readline(), rb"OK \d+\n")
        sender = threading.Thread(target=lambda: (peer.sendall(self.said), peer.shutdown(socket.SHUT_WR)))
        sender.start()
        self.assertEqual(back.read(), self.said.upper())
        sender.join()

    def connect(self, port):
        """Asks for the guest's PORT."""
        peer = socket.socket(socket.AF_UNIX)
        self.addCleanup(peer.close)
        peer.settimeout(harness.LIMIT)
        peer.connect(self.vsock)
        peer.sendall(b"CONNECT %d\n" % port)
        return peer

    # --- after ---------------------------------------------------------------------------------

    def guest_said(self, seen):
        for line in ("root: /dev/vda / ext4 rw", "entropy: virtio_rng.0", f"tap: {MAC}", "3 packets received",
                     f"/page: {hashlib.md5(self.page).hexdigest()}", "tap: 0 errors", "user: from the host", "echoed",
                     "root: /dev/vdb / ext4 rw", "root: the old one is free"):  # fmt: skip
            self.assertIn(line, seen, harness.tail(seen, 60))

    def left_behind(self, raw, image, port, seen):
        """The host finds on the disks what the guest has written; hv leaves no socket."""
        self.assert_sound(raw)
        self.assertEqual(hashlib.md5(self.contents(raw, "/noise")).hexdigest(), re.search(r"/noise: (\w+)", seen)[1])
        self.assertEqual(len(self.contents(raw, "/noise")), 100000)
        self.assertEqual(self.contents(raw, "/page"), self.page)
        self.qemu_img("check", image)
        second = self.scratch("second.img")
        self.qemu_img("convert", "-O", "raw", image, second)
        self.assert_sound(second)
        self.assertEqual(self.contents(second, "/words"), b"kept-for-ever\n")
        with open(port, encoding="ascii") as file:
            self.assertEqual(file.read(), "through-the-port\n")
        self.assertFalse(os.path.exists(self.vsock))
