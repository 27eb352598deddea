"""tree.py: collects files of this host, with all that they need to run, for a machine without it.

Paths stay what they are. A symbolic link on the way is carried over as a link and followed, so that
/lib64 -> usr/lib64 means the same there. A program brings its shared libraries (ldd tells) and, if it
is a script, its interpreter.
"""

import io
import os
import re
import subprocess
import tarfile

from images import parts

# Of these packages, the programs and what they need: enough for shell scripts and the system tests.
BASE_PACKAGES = """bash dash coreutils diffutils findutils grep gzip hostname kmod mawk mount procps sed tar
                   util-linux""".split()
BASE_FILES = "/etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /bin/sh /usr/bin/awk".split()
BASE_PATTERN = re.compile(r"/(usr/)?s?bin/[^/]+$")
# Python's own packages of Debian are its interpreter and library, without tests and caches.
PYTHON_SKIP = re.compile(r"/(__pycache__|test|tests|idlelib|tkinter|ensurepip|lib2to3|pydoc_data)(/|$)")


class Tree:
    """Writes files into the open tar archive TAR, each once. `root` is prepended to the names there."""

    def __init__(self, tar):
        self._tar = tar
        self._seen = set()
        self.root = ""

    def add(self, path):
        """The file, link or whole directory PATH, and what programs in it need."""
        real = self._place_parents(path)
        if os.path.islink(real):
            self._write_link(real)
            self.add(os.path.join(os.path.dirname(real), os.readlink(real)))
        elif os.path.isdir(real):
            self.add_directory(real)
            for name in sorted(os.listdir(real)):
                self.add(os.path.join(real, name))
        elif os.path.isfile(real) and self._is_new(real):
            self._write(real)
            self._add_needs(real)

    def add_directory(self, path):
        """PATH itself, empty, and those above it."""
        real = self._place_parents(path)
        if self._is_new(real):
            info = tarfile.TarInfo(self._name(real))
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            self._tar.addfile(info)

    def add_data(self, path, data):
        """A file that the host does not have."""
        info = tarfile.TarInfo(self._name(path))
        info.mode = 0o644
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def add_project(self, root):
        """The tracked files below ROOT; without git, all but build/ and hidden ones."""
        listing = subprocess.run(
            ["git", "-C", root, "-c", "safe.directory=*", "ls-files", "-z"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if listing.returncode == 0:
            names = [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
        else:
            names = [name for name in os.listdir(root) if name != "build" and name[0] != "."]
        for name in names:
            self.add(os.path.join(root, name))

    def _name(self, path):
        return os.path.join(self.root, path.lstrip("/"))

    def _is_new(self, path):
        if path in self._seen:
            return False
        self._seen.add(path)
        return True

    def _place_parents(self, path):
        """Adds the directories above PATH; returns PATH with links above it resolved."""
        parent, name = os.path.split(os.path.normpath(path))
        if parent == path:
            return path
        parent = self._place_parents(parent)
        if os.path.islink(parent):
            self._write_link(parent)
            parent = self._place_parents(os.path.join(os.path.dirname(parent), os.readlink(parent)))
        if parent != "/":
            self.add_directory(parent)
        return os.path.join(parent, name)

    def _write_link(self, path):
        if self._is_new(path):
            info = tarfile.TarInfo(self._name(path))
            info.type = tarfile.SYMTYPE
            info.linkname = os.readlink(path)
            self._tar.addfile(info)

    def _write(self, path):
        info = tarfile.TarInfo(self._name(path))
        status = os.stat(path)
        info.mode, info.size, info.mtime = status.st_mode & 0o777, status.st_size, int(status.st_mtime)
        with open(path, "rb") as source:
            self._tar.addfile(info, source)

    def _add_needs(self, path):
        with open(path, "rb") as source:
            head = source.read(256)
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n")[0].split()
            if words and os.path.exists(words[0]):
                self.add(os.fsdecode(words[0]))
        elif head.startswith(b"\x7fELF"):
            for library in libraries(path):
                self.add(library)


def libraries(path):
    """The absolute paths that ldd prints for an ELF file; none for a static or foreign one."""
    done = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return re.findall(r"(?:=>|^)\s*(/\S+)", done.stdout.decode(errors="replace"), re.MULTILINE)


def _python_packages():
    version = os.path.basename(os.path.realpath("/usr/bin/python3"))
    return [f"lib{version}-minimal", f"lib{version}-stdlib", f"{version}-minimal", "python3-minimal"]


def _package_files(packages):
    listing = subprocess.run(["dpkg", "-L", *packages], stdout=subprocess.PIPE, text=True, check=False)
    return [path for path in listing.stdout.splitlines() if os.path.isfile(path)]


def add_base(image):
    """What a machine needs before anything of ours: shell, core tools, Python."""
    for path in BASE_FILES:
        image.add(path)
    for path in _package_files(BASE_PACKAGES):
        if BASE_PATTERN.match(path):
            image.add(path)
    for path in _package_files(_python_packages()):
        if path.startswith("/usr/") and "/share/" not in path and not PYTHON_SKIP.search(path):
            image.add(path)
    for path in ("/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp", "/lib/modules"):
        image.add_directory(path)


def base_inputs():
    """Changes when one of the packages does, or the way they are collected."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *BASE_PACKAGES, *_python_packages(), "libc6"]
    versions = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return [__file__, versions.stdout, parts.ROOT.encode()]
