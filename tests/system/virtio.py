"""What the tests with virtio devices share: a Linux guest that runs a script, disks for it, and peers on its networks."""

import functools
import http.server
import os
import subprocess
import sys
import threading

import harness

sys.path.insert(0, os.path.join(harness.ROOT, "guest/linux"))
import newc  # noqa: E402

TRANSPORTS = {"pci": "virtio_pci", "mmio": "virtio_mmio"}


class Virtio(harness.Case):
    needs = "full"

    def setUp(self):
        super().setUp()
        self.extra = {}  # files for the initial RAM disk: name to bytes

    def initrd(self, script, kernel="cloud"):
        """The path of an initial RAM disk that runs SCRIPT."""
        path = self.scratch("initrd")
        with open(path, "wb") as out:
            with open(harness.cached(f"initramfs-{kernel}.cpio"), "rb") as base:
                out.write(base.read())
            extra = newc.Archive()
            extra.file("script", f"{script}\n".encode())
            for name, data in self.extra.items():
                extra.file(name, data)
            extra.write(out)
        return path

    def arguments(self, script, *options, transport="pci", kernel="cloud", append=""):
        """hv's, for a guest that runs SCRIPT with the transport's driver loaded."""
        script = f"modprobe {TRANSPORTS[transport]}\n{script}"
        return ["run", "--kernel", harness.cached(kernel, "vmlinuz"), "--initrd", self.initrd(script, kernel),
                "--append", f"console=ttyS0 quiet hv.script=file {append}", "--virtio", transport, *options]

    def boot(self, script, *options, transport="pci", kernel="cloud", **kwargs):
        return self.hv(*self.arguments(script, *options, transport=transport, kernel=kernel), **kwargs)

    # --- disks ---------------------------------------------------------------------------------

    def disk(self, size=16 << 20, name="disk.img", fill=None, tree=None):
        """A raw image; FILL: ext4. With TREE, a directory, its files are on it."""
        path = self.scratch(name)
        with open(path, "wb") as file:
            file.truncate(size)
        if fill == "ext4":
            subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", *(["-d", tree] if tree else []), path], check=True)
        return path

    def qemu_img(self, *words):
        return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout

    def assert_sound(self, raw):
        """The ext4 file system on RAW was left clean, and nothing is wrong with it."""
        verdict = subprocess.run(["e2fsck", "-fn", raw], check=False, capture_output=True, text=True)
        self.assertEqual(verdict.returncode, 0, verdict.stdout + verdict.stderr)

    def contents(self, raw, name):
        """Of the file NAME on the ext4 file system on RAW."""
        return subprocess.run(["debugfs", "-R", f"cat {name}", raw], check=True, capture_output=True).stdout

    # --- networks ------------------------------------------------------------------------------

    def interface(self, name, address, *flags):
        """A tap interface of the host's, which goes away with the test."""
        self.ip("tuntap", "add", "dev", name, "mode", "tap", *flags)
        self.addCleanup(self.ip, "link", "del", name)
        self.ip("addr", "add", address, "dev", name)
        self.ip("link", "set", name, "up")

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True)

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
