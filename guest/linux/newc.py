"""newc.py: writes initramfs archives (cpio "newc" format) out of thin air.

What the kernel unpacks at boot is a stream of entries, each a header of 110 ASCII characters, the
name and the data, both padded to four bytes; an entry called TRAILER!!! ends it (kernel
documentation: driver-api/early-userspace/buffer-format). Writing it ourselves instead of packing a
directory with cpio(1) has three uses: device nodes need no root, the result depends on nothing but
its inputs (owner 0, time 0, sorted names), and several archives may simply be concatenated.

Rules for callers: names are relative ("bin/sh"); parents are added by themselves; a name given
twice is the caller's mistake and refused.
"""

import os
import stat


class Archive:
    """An initramfs in the making: a mapping from names to (mode, data, device)."""

    def __init__(self):
        self._entries = {}

    def _add(self, name, mode, data=b"", device=(0, 0)):
        name = name.strip("/")
        if name in self._entries:
            raise ValueError(f"{name} is in the archive already")
        parent = os.path.dirname(name)
        if parent and parent not in self._entries:
            self.directory(parent)
        self._entries[name] = (mode, data, device)

    def directory(self, name, mode=0o755):
        if name.strip("/") not in self._entries:
            self._add(name, stat.S_IFDIR | mode)

    def file(self, name, data, mode=0o644):
        self._add(name, stat.S_IFREG | mode, data)

    def symlink(self, name, target):
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name, major, minor, mode=0o600):
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def copy(self, name, path):
        """The host's file PATH as NAME, with its permission bits."""
        with open(path, "rb") as source:
            self.file(name, source.read(), os.stat(path).st_mode & 0o777)

    def write(self, out):
        """Writes the archive to the new, seekable stream OUT, padded so that another may follow."""
        for inode, name in enumerate(sorted(self._entries), start=1):
            mode, data, device = self._entries[name]
            out.write(_entry(inode, name, mode, data, device))
        out.write(_entry(0, "TRAILER!!!", 0, b"", (0, 0)))
        out.write(bytes(-out.tell() % 512))


def _pad4(data):
    return data + bytes(-len(data) % 4)


def _entry(inode, name, mode, data, device):
    raw_name = os.fsencode(name) + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(raw_name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    # The last field but one is the name's length; header and name are padded as one.
    return _pad4(header + raw_name) + _pad4(data)
