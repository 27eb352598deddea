"""amd.py: the lab machine with AMD-V: QEMU's own CPU emulation, which includes nested SVM and NPT.

The machine's root is the host's file system over 9p (see init, amd.sh, pid1). The command's streams are
virtio serial ports, each one end of a socket pair that QEMU inherits: no names, no files, nothing to
clean up, and any number of machines at once. What belongs to this run alone (command, environment,
marker) is a second archive behind the cached initramfs, handed over in an anonymous file.

QEMU 7.2 has a race that hangs such a machine now and then (10.0 does not show it). A CPU that stores to a
page with code first throws away what was translated from it, then stores. Another CPU that translates the
code in between keeps the old one for good. Linux flips a static key by way of a breakpoint (INT3) in its own
text; a CPU that keeps the INT3 traps, is sent back because memory has none, and traps again, for ever, and
often with interrupts off. KVM has keys that flip with the first and the last machine (in the scheduler),
with vCPUs whose APIC is not enabled yet, and with vCPUs that have none. keep_kvm.S holds these still: no
site is patched while machines come and go. Other keys, and those inside of a nested guest with several CPUs,
remain: then the machine's silence ends the run with status 125, and the caller may try again.
"""

import io
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import threading
import tty

import images
import run
from images import newc, parts

NAME = "amd"
BOOT_LIMIT = 120  # seconds; 6 on an idle machine, but a test host is not always idle
SILENCE_LIMIT = 60  # seconds; a sign of life is due every 5
ESCAPE = b"\x1d"  # Ctrl-]

# What the labs want from a host kernel and nothing loads on demand; absent names are skipped.
MODULES = """virtio_pci virtio_console 9p 9pnet_virtio overlay kvm-amd tun tap vhost_net vhost_vsock
             fuse loop""".split()
COMMAND_LINE = (
    "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off random.trust_cpu=on no_timer_check"
)


def prepare():
    """Fetches the kernel and makes the initramfs; returns (kernel, path of the initramfs)."""
    kernel = parts.Kernel("full")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keep_kvm.S")
    inputs = images.base_inputs(kernel, NAME) + [source]

    def build(path):
        archive = images.base_archive(kernel, NAME, MODULES, {"kvm_amd": "nested=1 npt=1"})
        archive.file("bin/keep-kvm", _assemble(source), 0o755)
        with open(path, "wb") as out:
            archive.write(out)

    return kernel, images.cached(NAME, inputs, build)


def _assemble(source):
    """SOURCE as a program that needs no library; returns its bytes."""
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "program")
        try:
            subprocess.run(["gcc", "-nostdlib", "-static", "-o", program, source], check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise run.MachineError(f"{os.path.basename(source)}: {error}; tests/setup/deps demo installs gcc") from None
        with open(program, "rb") as file:
            return file.read()


class Machine:
    """One machine, running from construction to stop()."""

    name = NAME

    def __init__(self, request):
        self._request = request
        self._pairs = {}
        kernel, initramfs = prepare()
        initrd = self._with_config(initramfs, kernel)
        try:
            arguments = self._arguments(kernel, f"/proc/self/fd/{initrd}")
            theirs = [pair[1] for pair in self._pairs.values()]
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                pass_fds=[initrd, *(end.fileno() for end in theirs)],
                start_new_session=True,
                preexec_fn=run.die_with_parent,
            )
        except FileNotFoundError:
            raise run.MachineError(
                "no qemu-system-x86_64 here: run tests/setup/deps --labvm demo"
            ) from None
        finally:
            os.close(initrd)
        for end in theirs:
            end.close()

    def supervise(self):
        """Runs the command to its end; returns the exit status to give."""
        supervisor = run.Supervisor(self, self._request)
        supervisor.attach_console(self._reader("console"))
        supervisor.attach_status(self._reader("status"))
        if self._request.terminal:
            return self._on_terminal(supervisor)
        stdin = self._pairs["stdin"][0]
        supervisor.attach_input(0, stdin.sendall, lambda: stdin.shutdown(socket.SHUT_WR))
        supervisor.attach_output(self._reader("stdout"), 1)
        supervisor.attach_output(self._reader("stderr"), 2)
        return supervisor.wait(BOOT_LIMIT, SILENCE_LIMIT)

    def stop(self):
        self.process.kill()
        self.process.wait()
        for ours, _ in self._pairs.values():
            ours.close()

    def _on_terminal(self, supervisor):
        """As above, with our terminal raw and connected to the machine's; Ctrl-] pulls the plug."""
        line = self._pairs["terminal"][0]
        saved = termios.tcgetattr(0)
        supervisor.attach_output(self._reader("terminal"), 1)
        try:
            tty.setraw(0)
            threading.Thread(target=self._type, args=(line,), daemon=True).start()
            return supervisor.wait(BOOT_LIMIT, SILENCE_LIMIT)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)

    def _type(self, line):
        try:
            while (data := os.read(0, 4096)) and ESCAPE not in data:
                line.sendall(data)
        except OSError:
            return  # the machine has ended
        os.kill(os.getpid(), signal.SIGTERM)

    def _reader(self, name):
        ours = self._pairs[name][0]
        return lambda: ours.recv(65536)

    # --- what QEMU is started with -------------------------------------------------------------

    def _with_config(self, initramfs, kernel):
        """An anonymous file with the cached initramfs and this run's /run-config."""
        config = newc.Archive()
        for name, data in self._request.config(NAME).items():
            config.file(f"run-config/{name}", data)
        config.file("run-config/modules", kernel.modules_path.encode() + b"\n")
        mounts = "".join(f"{tag} {path}\n" for tag, path in self._shares())
        config.file("run-config/mounts", mounts.encode())
        tail = io.BytesIO()
        config.write(tail)
        fd = os.memfd_create("labvm-initrd")
        with open(initramfs, "rb") as base, open(fd, "wb", closefd=False) as out:
            shutil.copyfileobj(base, out)
            out.write(tail.getvalue())
        return fd

    def _shares(self):
        return [(f"rw{index}", path) for index, path in enumerate(self._request.shares)]

    def _arguments(self, kernel, initrd):
        arguments = "qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none".split()
        # Without 5-level paging: it makes every walk of nested page tables longer, and no one here needs it.
        arguments += "-machine pc -accel tcg,thread=multi -cpu max,-la57".split()
        arguments += ["-smp", str(self._request.cpus or 2), "-m", self._request.memory or "4G"]
        arguments += ["-kernel", kernel.image, "-initrd", initrd, "-append", COMMAND_LINE]
        arguments += ["-serial", self._chardev("console", arguments)]
        arguments += ["-device", "virtio-serial-pci"]
        self._port("status", "virtserialport", arguments)
        if self._request.terminal:
            self._port("terminal", "virtconsole", arguments)
        else:
            for name in ("stdin", "stdout", "stderr"):
                self._port(name, "virtserialport", arguments)
        self._share("host", "/", "readonly=on", arguments)
        for tag, path in self._shares():
            self._share(tag, path, "writeout=immediate", arguments)
        return arguments

    def _chardev(self, name, arguments):
        self._pairs[name] = socket.socketpair()
        fd = self._pairs[name][1].fileno()
        arguments += ["-chardev", f"socket,id={name},fd={fd}"]
        return f"chardev:{name}"

    def _port(self, name, kind, arguments):
        self._chardev(name, arguments)
        arguments += ["-device", f"{kind},chardev={name},name={name}"]

    @staticmethod
    def _share(tag, path, mode, arguments):
        # Owners cannot be changed by an ordinary user's QEMU; "none" ignores that, others fail.
        quoted = path.replace(",", ",,")
        filesystem = f"local,id={tag},path={quoted},security_model=none,multidevs=remap,{mode}"
        arguments += ["-fsdev", filesystem]
        arguments += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
