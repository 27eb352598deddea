"""test_exits.py: a guest's last exits, as a failed check shows them."""

import os
import struct
import subprocess
import tempfile
import unittest

import minicourse  # noqa: F401  (the path of the tool)

import exits
import probe
import sandbox


# out %al, $0xe9; hlt
GUEST = """
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
int main(void)
{
    static unsigned char ram[4096] __attribute__((aligned(4096))) = {0xb0, 0x5a, 0xe6, 0xe9, 0xf4};
    struct kvm_userspace_memory_region region = {.memory_size = sizeof(ram), .userspace_addr = (unsigned long)ram};
    struct kvm_regs regs = {.rflags = 2};
    struct kvm_sregs sregs;
    int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
    ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    ioctl(vcpu, KVM_SET_REGS, &regs);
    return ioctl(vcpu, KVM_RUN, 0) | ioctl(vcpu, KVM_RUN, 0);
}
"""


class Exits(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        os.chmod(holder.name, 0o711)
        self.scratch = os.path.join(holder.name, "scratch")
        os.mkdir(self.scratch)
        self.notes = exits.Notes(self.scratch)
        self.assertIn("LD_PRELOAD", self.notes.environment)

    def fill(self, count, *notes):
        with open(self.notes.environment["EXITS_FILE"], "r+b") as file:
            file.write(struct.pack("<Q", count))
            file.write(b"".join(notes))

    def note(self, reason, vcpu=0, size=0, count=0, address=0, is_write=0, data=b""):
        return struct.pack("<IIIIQB7x8s", reason, vcpu, size, count, address, is_write, data)

    def test_a_program_without_kvm_has_none(self):
        run = sandbox.run(["true"], self.scratch, 10, env=self.notes.environment)
        self.assertEqual((run.status, run.err, self.notes.lines()), (0, b"", []))

    def test_lines_say_what_happened(self):
        self.fill(5, self.note(2, 0, 1, 1, 0xE9, 1, b"A"), self.note(2, 0, 2, 3, 0x60), self.note(6, 0, 4, 1, 0xFEE00000, 1, b"\1\2\3\4"),
                  self.note(9, 0, 0, 0, 0x80000021), self.note(8))  # fmt: skip
        self.assertEqual(self.notes.lines(), [
            "IO out 0xe9, 1 byte: 0x41", "IO in 0x60, 2 bytes, 3 times", "MMIO write 0xfee00000, 4 bytes: 0x4030201",
            "FAIL_ENTRY, reason 0x80000021", "SHUTDOWN",
        ])  # fmt: skip

    def test_several_processors_are_told_apart(self):
        self.fill(2, self.note(5, 0), self.note(99, 1))
        self.assertEqual(self.notes.lines(), ["vCPU 0: HLT", "vCPU 1: exit 99"])

    def test_the_last_eight_of_many(self):
        self.fill(66, *[self.note(100 + number) for number in range(64)])
        self.assertEqual(self.notes.lines()[-3:], ["exit 163", "exit 100", "exit 101"])
        self.assertEqual(len(self.notes.lines()), exits.SHOWN)

    def test_rubbish_from_the_program_does_no_harm(self):
        for rubbish in (b"", b"x" * 7, b"\xff" * exits.SIZE):
            with open(self.notes.environment["EXITS_FILE"], "wb") as file:
                file.write(rubbish)
            self.assertEqual(self.notes.lines(), [])
        os.unlink(self.notes.environment["EXITS_FILE"])
        self.assertEqual(self.notes.lines(), [])

    def test_a_real_guest_is_seen(self):
        if probe.level() == probe.NONE:
            self.skipTest("no /dev/kvm here")
        source, program = os.path.join(self.scratch, "guest.c"), os.path.join(self.scratch, "guest")
        with open(source, "w", encoding="utf-8") as file:
            file.write(GUEST)
        subprocess.run(["gcc", "-o", program, source], check=True)
        sandbox.run([program], self.scratch, 30, env=self.notes.environment)
        self.assertEqual(self.notes.lines()[:2], ["IO out 0xe9, 1 byte: 0x5a", "HLT"])


if __name__ == "__main__":
    unittest.main()
