"""probe.py: what can this host's KVM do? Decided by running two small guests, for some hosts open /dev/kvm and
then cannot deliver an interrupt.

    none   no KVM that may be opened, or one that does not run eight bytes of real-mode code
    kvm    runs real mode, and simple programs in the other modes
    full   a long-mode guest takes an interrupt through its own IDT and comes back

As a program it prints one of these words. It uses no hv: a learner's may be wrong, and a lecturer's bundle has none.
"""

import ctypes
import fcntl
import functools
import mmap
import os
import struct
import subprocess
import sys

NONE, KVM, FULL = LEVELS = ("none", "kvm", "full")
LIMIT = 30  # seconds; a probe that hangs has answered, too

_CREATE_VM, _VCPU_SIZE, _SET_TSS, _CREATE_VCPU, _RUN = 0xAE01, 0xAE04, 0xAE47, 0xAE41, 0xAE80
_SET_MEMORY, _SET_REGS, _GET_SREGS, _SET_SREGS = 0x4020AE46, 0x4090AE82, 0x8138AE83, 0x4138AE84
_EXIT_IO, _EXIT_HLT = 2, 5
_SIZE, _CODE, _HANDLER, _TABLES, _IDT, _GDT, _STACK = 0x10000, 0x1000, 0x1100, 0x2000, 0x5000, 0x6000, 0x8000
_PORT, _BYTE, _VECTOR = 0xE9, 0x5A, 0x30
_PRINT = bytes([0xB0, _BYTE, 0xE6, _PORT])  # mov $BYTE, %al; out %al, $PORT
_HLT, _INT, _IRETQ = b"\xf4", bytes([0xCD, _VECTOR]), b"\x48\xcf"


class _Guest:
    """64 KiB of memory and one vCPU. struct kvm_sregs is bytes here: eight segments of 24 bytes, GDT and IDT of
    16, then seven registers."""

    def __init__(self):
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._vm = fcntl.ioctl(self._kvm, _CREATE_VM, 0)
        try:
            fcntl.ioctl(self._vm, _SET_TSS, 0x7FFBD000)  # old Intel processors want it
        except OSError:
            pass
        self.memory = mmap.mmap(-1, _SIZE)
        host = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(self._vm, _SET_MEMORY, struct.pack("IIQQQ", 0, 0, 0, _SIZE, host))
        self._vcpu = fcntl.ioctl(self._vm, _CREATE_VCPU, 0)
        self._run = mmap.mmap(self._vcpu, fcntl.ioctl(self._kvm, _VCPU_SIZE, 0))
        self.sregs = bytearray(312)
        fcntl.ioctl(self._vcpu, _GET_SREGS, self.sregs)

    def segment(self, index, base, limit, selector, kind, code64):
        struct.pack_into("QIH9B", self.sregs, 24 * index, base, limit, selector, kind, 1, 0, 0, 1, code64, code64, 0, 0)

    def table(self, index, base, limit):
        struct.pack_into("QH", self.sregs, 192 + 16 * index, base, limit)

    def start(self):
        fcntl.ioctl(self._vcpu, _SET_SREGS, bytes(self.sregs))
        regs = [0] * 18
        regs[6], regs[16], regs[17] = _STACK, _CODE, 2  # rsp, rip, rflags
        fcntl.ioctl(self._vcpu, _SET_REGS, struct.pack("18Q", *regs))

    def prints_and_halts(self):
        """Does it print the byte, then halt?"""
        fcntl.ioctl(self._vcpu, _RUN, 0)
        reason = struct.unpack_from("I", self._run, 8)[0]
        if reason != _EXIT_IO or struct.unpack_from("BBH", self._run, 32) != (1, 1, _PORT):
            return False
        if self._run[struct.unpack_from("Q", self._run, 40)[0]] != _BYTE:
            return False
        fcntl.ioctl(self._vcpu, _RUN, 0)
        return struct.unpack_from("I", self._run, 8)[0] == _EXIT_HLT


def _real_mode():
    guest = _Guest()
    guest.memory[_CODE : _CODE + 5] = _PRINT + _HLT
    guest.segment(0, 0, 0xFFFF, 0, 11, 0)
    guest.start()
    return guest.prints_and_halts()


def _long_mode():
    guest = _Guest()
    guest.memory[_CODE : _CODE + 3] = _INT + _HLT
    guest.memory[_HANDLER : _HANDLER + 6] = _PRINT + _IRETQ
    for level, entry in enumerate((_TABLES + 0x1000 | 3, _TABLES + 0x2000 | 3, 0x83)):  # 2 MiB, identity
        struct.pack_into("Q", guest.memory, _TABLES + 0x1000 * level, entry)
    struct.pack_into("HHBBHII", guest.memory, _IDT + 16 * _VECTOR, _HANDLER, 8, 0, 0x8E, 0, 0, 0)
    struct.pack_into("QQQ", guest.memory, _GDT, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    guest.segment(0, 0, 0xFFFFFFFF, 8, 11, 1)
    for index in range(1, 6):
        guest.segment(index, 0, 0xFFFFFFFF, 16, 3, 0)
    guest.table(0, _GDT, 23)
    guest.table(1, _IDT, 16 * (_VECTOR + 1) - 1)
    struct.pack_into("QQQQQQ", guest.sregs, 224, 0x80000033, 0, _TABLES, 0x20, 0, 0x500)  # CR0 2 3 4 8, EFER
    guest.start()
    return guest.prints_and_halts()


def _probe():
    try:
        return (FULL if _long_mode() else KVM) if _real_mode() else NONE
    except OSError:
        return NONE


@functools.cache
def level():
    """The word, found out once, in a process of its own."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return NONE
    try:
        done = subprocess.run([sys.executable, os.path.abspath(__file__)], capture_output=True, text=True, timeout=LIMIT,
                              check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return KVM
    return done.stdout.strip() if done.stdout.strip() in LEVELS else NONE


if __name__ == "__main__":
    print(_probe())
