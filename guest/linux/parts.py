"""parts.py: what an initramfs is made of: fetched kernels, their modules, a static busybox.

Used by guest/linux/initramfs (what hv boots) and tests/labvm (what hv runs in). Problems that a user
can mend are raised as PartsError, whose text says how.
"""

import lzma
import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.abspath(os.environ.get("HVLAB_CACHE", os.path.join(ROOT, "build", "cache")))


class PartsError(Exception):
    """Something is not on this machine; the text names it and the way to get it."""


class Kernel:
    """A kernel that guest/linux/fetch unpacked; fetched now if it is not there yet."""

    def __init__(self, flavour):
        self.path = os.path.join(CACHE, flavour)
        if subprocess.run([os.path.join(HERE, "fetch"), flavour], check=False).returncode != 0:
            raise PartsError(f"no {flavour} kernel: see the message above")
        self.image = os.path.join(self.path, "vmlinuz")
        with open(os.path.join(self.path, "version"), encoding="ascii") as version:
            self.version = version.read().strip()
        self.modules_path = os.path.join(self.path, "modules", "lib", "modules", self.version)

    def modules(self):
        return Modules(self.modules_path)


def busybox():
    """The path of a busybox that needs no shared libraries."""
    path = shutil.which("busybox", path=os.environ.get("PATH", "") + ":/bin:/usr/bin")
    if path is None or _is_dynamic(path):
        raise PartsError("no static busybox here: run tests/setup/deps demo (package busybox-static)")
    return path


def busybox_applets(path):
    listing = subprocess.run([path, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    return [name for name in listing.stdout.split() if name != "busybox"]


def _is_dynamic(path):
    """An ELF program that names an interpreter: the dynamic loader."""
    with open(path, "rb") as program:
        return b"/lib64/ld-linux" in program.read(4096)


class Modules:
    """The modules under ROOT (a lib/modules/VERSION directory), as depmod described them."""

    def __init__(self, root):
        self._root = root
        self._paths = {}
        self._needs = {}
        with open(os.path.join(root, "modules.dep"), encoding="ascii") as table:
            for line in table:
                path, _, needs = line.partition(":")
                name = module_name(path)
                self._paths[name] = path
                self._needs[name] = [module_name(need) for need in needs.split()]

    def __contains__(self, name):
        return name.replace("-", "_") in self._paths

    def load_order(self, names):
        """NAMES and all they need, dependencies first; names this kernel has built in, or lacks,
        are left out."""
        order = []

        def visit(name):
            if name in order or name not in self._paths:
                return
            for need in reversed(self._needs[name]):
                visit(need)
            order.append(name)

        for name in names:
            visit(name.replace("-", "_"))
        return order

    def read(self, name):
        """The module's ELF image, decompressed."""
        path = os.path.join(self._root, self._paths[name])
        if path.endswith(".zst"):
            return subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout
        with open(path, "rb") as source:
            data = source.read()
        return lzma.decompress(data) if path.endswith(".xz") else data


def module_name(path):
    """kernel/fs/9p/9p.ko.xz -> 9p; dashes and underscores are the same to the kernel."""
    return os.path.basename(path).split(".ko")[0].replace("-", "_")
