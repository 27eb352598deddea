"""intel.py: the lab machine with VT-x: Bochs, which emulates VMX and EPT.

Bochs has no shared file systems and no virtio, so all travels as disks and serial lines:

    CD 1      GRUB, kernel, initramfs: cached
    CD 2      the base file system (shell, core tools, Python), squashfs: cached
    CD 3      this run's: tracked files of the project, --with, COMMAND, /run-config; squashfs
    disk      empty; takes $LABVM_OUT as a tar archive when the command has ended
    COM1-4    console, stdout, stderr, status: pipes that Bochs inherits

An interpreter of x86 is slow: about 35 s of set-up, then some 200 million instructions per second.
Its clock counts instructions (sync=none), so a busy host does not make time run out inside.
The serial lines carry 11 KB/s of the machine's time: send bulk by $LABVM_OUT.
COMMAND's stdin is read to its end before the machine starts.
"""

import fcntl
import io
import os
import pty
import shutil
import subprocess
import tarfile
import tempfile
import termios
import threading

import images
import run
import tree
from images import parts

NAME = "intel"
BOOT_LIMIT = 900  # seconds; 60 on an idle machine, ten times that among busy neighbours
STREAMS = ("console", "stdout", "stderr", "status")  # COM1 to COM4
RESULTS_SIZE = 1 << 30

MODULES = "ata_piix sd_mod sr_mod squashfs overlay kvm-intel tun vhost_net vhost_vsock loop".split()
GRUB_CONFIG = """set timeout=0
linux /boot/vmlinuz console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off nokaslr 8250.nr_uarts=4
initrd /boot/initrd
boot
"""

# reset_on_triple_fault=0 with panic=fatal: a reset of the kernel ends Bochs instead of booting again.
BOCHS_CONFIG = """config_interface: textconfig
display_library: term
memory: guest={memory}, host={memory}
cpu: model=corei7_skylake_x, count={cpus}, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=1
romimage: file={bios}/BIOS-bochs-latest
vgaromimage: file={bios}/VGABIOS-lgpl-latest
pci: enabled=1, chipset=i440fx
clock: sync=none
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata0-master: type=cdrom, path={directory}/boot, status=inserted
ata0-slave: type=cdrom, path={directory}/base, status=inserted
ata1-master: type=cdrom, path={directory}/run, status=inserted
ata1-slave: type=disk, path={directory}/results, mode=flat
log: {directory}/log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
"""


def prepare():
    """Fetches the kernel and makes the two cached images; returns their paths."""
    for tool in ("bochs", "grub-mkrescue", "sqfstar"):
        if shutil.which(tool) is None:
            raise run.MachineError(f"no {tool} here: run tests/setup/deps intel")
    kernel = parts.Kernel("cloud")
    boot = images.cached("intel-boot", images.base_inputs(kernel, NAME), lambda path: _make_iso(kernel, path))
    base = images.cached("intel-base", tree.base_inputs(), lambda path: _squash(path, tree.add_base))
    return boot, base


def _make_iso(kernel, path):
    archive = images.base_archive(kernel, NAME, MODULES, {})
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(f"{root}/boot/grub")
        shutil.copy(kernel.image, f"{root}/boot/vmlinuz")
        with open(f"{root}/boot/initrd", "wb") as out:
            archive.write(out)
        with open(f"{root}/boot/grub/grub.cfg", "w", encoding="ascii") as out:
            out.write(GRUB_CONFIG)
        _quietly(["grub-mkrescue", "--locales=", "--fonts=", "--themes=", "-o", path, root])


def _squash(path, fill):
    """A squashfs image at PATH of what FILL(tree) adds; not compressed, the reader is slow."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        fill(tree.Tree(tar))
    _quietly(["sqfstar", "-noI", "-noD", "-noF", "-noX", "-quiet", path], input=stream.getvalue())
    os.truncate(path, (os.path.getsize(path) + 2047) // 2048 * 2048)  # whole sectors of a CD


def _quietly(argv, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode != 0:
        raise run.MachineError(f"{argv[0]} failed:\n{done.stdout.decode(errors='replace')}")


class Machine:
    """One machine, running from construction to stop()."""

    name = NAME

    def __init__(self, request):
        self._request = request
        self._pipes = {}
        self._directory = tempfile.TemporaryDirectory(prefix="labvm-")
        try:
            self._make_disks()
            self._start()
        except BaseException:
            self._directory.cleanup()
            raise

    def supervise(self):
        """Runs the command to its end; returns the exit status to give."""
        supervisor = run.Supervisor(self, self._request)
        supervisor.attach_console(self._reader("console"))
        supervisor.attach_output(self._reader("stdout"), 1)
        supervisor.attach_output(self._reader("stderr"), 2)
        supervisor.attach_status(self._reader("status"))
        status = supervisor.wait(BOOT_LIMIT)
        if status not in (run.TIMED_OUT, run.FAILED, run.BROKEN_PIPE):
            self._collect_results()
        return status

    def stop(self):
        self.process.kill()
        self.process.wait()
        self._directory.cleanup()

    def _reader(self, name):
        fd = self._pipes[name][0]
        return lambda: os.read(fd, 65536)

    def _file(self, name):
        return os.path.join(self._directory.name, name)

    # --- before and after ----------------------------------------------------------------------

    def _make_disks(self):
        # Links, because Bochs puts its lock files beside what it opens.
        for name, path in zip(("boot", "base"), prepare()):
            os.symlink(path, self._file(name))
        _squash(self._file("run"), self._fill)
        with open(self._file("results"), "wb") as disk:
            disk.truncate(RESULTS_SIZE)

    def _fill(self, image):
        config = self._request.config(NAME)
        config["results"] = self._request.out.encode() + b"\n"
        config["stdin"] = _read_stdin()
        for name, data in config.items():
            image.add_data(f"run-config/{name}", data)
        image.root = "tree"
        image.add_project(parts.ROOT)
        image.add_directory(self._request.cwd)
        for path in self._request.extra:
            image.add(os.path.abspath(path))
        program = shutil.which(self._request.argv[0])
        if program is not None:
            image.add(os.path.abspath(program))

    def _collect_results(self):
        _quietly(["tar", "-xf", self._file("results"), "-C", self._request.out, "--no-same-owner"])

    # --- Bochs ---------------------------------------------------------------------------------

    def _start(self):
        config = BOCHS_CONFIG.format(
            memory=_mebibytes(self._request.memory or "1G"),
            cpus=self._request.cpus or 1,
            bios="/usr/share/bochs",
            directory=self._directory.name,
        )
        for number, name in enumerate(STREAMS, start=1):
            self._pipes[name] = os.pipe()
            path = f"/proc/self/fd/{self._pipes[name][1]}"
            config += f"com{number}: enabled=1, mode=file, dev={path}\n"
        self._write("bochsrc", config)
        self._write("debugger-commands", "c\n")  # Debian's Bochs stops in its debugger first
        theirs = [pipe[1] for pipe in self._pipes.values()]
        self.process = self._on_a_terminal(
            ["bochs", "-q", "-f", self._file("bochsrc"), "-rc", self._file("debugger-commands")], theirs
        )
        for fd in theirs:
            os.close(fd)

    def _write(self, name, text):
        with open(self._file(name), "w", encoding="utf-8") as out:
            out.write(text)

    @staticmethod
    def _on_a_terminal(argv, fds):
        """Starts Bochs on a terminal of its own, which its text display wants; nobody looks at it."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x32\x00\xa0\x00\x00\x00\x00\x00")  # 50 × 160
        process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=dict(os.environ, TERM="vt100"),
            pass_fds=fds,
            start_new_session=True,
            preexec_fn=run.die_with_parent,
        )
        os.close(theirs)
        threading.Thread(target=_discard, args=(ours,), daemon=True).start()
        return process


def _discard(fd):
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        pass  # the other side is gone: EIO


def _read_stdin():
    if os.isatty(0):
        return b""
    with open(0, "rb", closefd=False) as stdin:
        return stdin.read()


def _mebibytes(text):
    """512, 512M, 2G -> 512, 512, 2048."""
    units = {"M": 1, "G": 1024}
    try:
        return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)
    except ValueError:
        raise run.MachineError(f"--memory {text}: want a number of MiB, or one with M or G") from None
