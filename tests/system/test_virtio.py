"""Virtio devices under unmodified Linux: disks, networks, entropy; on PCI and in memory-mapped windows."""

import os
import subprocess
import sys

import harness

sys.path.insert(0, os.path.join(harness.ROOT, "guest/linux"))
import newc  # noqa: E402

TRANSPORTS = {"pci": "virtio_pci", "mmio": "virtio_mmio"}


class Virtio(harness.Case):
    needs = "full"
    tags = ("intel",)

    def boot(self, script, *options, transport="pci", kernel="cloud", **kwargs):
        """Runs SCRIPT in the guest, with the transport's driver loaded."""
        path = self.scratch("initrd")
        with open(path, "wb") as out:
            with open(harness.cached(f"initramfs-{kernel}.cpio"), "rb") as base:
                out.write(base.read())
            extra = newc.Archive()
            extra.file("script", f"modprobe {TRANSPORTS[transport]}\n{script}\n".encode())
            extra.write(out)
        return self.hv("run", "--kernel", harness.cached(kernel, "vmlinuz"), "--initrd", path, "--append",
                       "console=ttyS0 quiet hv.script=file", "--virtio", transport, *options, **kwargs)

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
