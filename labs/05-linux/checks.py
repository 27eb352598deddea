"""Lab 05's checks: one function for each [[check]] of lab.toml.

Nearly all are drivers (drivers/*.c) that call the learner's functions with files and tables made here, and
report what came of them; what should have come is worked out here a second time, from the specifications.
The last ones of exercise 5.10 run hv: with small guests, and with a distribution's kernel.
"""

import errno
import gzip
import hashlib
import os
import string
import struct
import sys

from grading import CannotRun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "guest/linux"))

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
ENOEXEC, ENOTSUP, E2BIG = -errno.ENOEXEC, -errno.EOPNOTSUPP, -errno.E2BIG
STATUS_OK, STATUS_RESET = 0, 10


# --- helpers ---


def named(code):
    if code is not None and code < 0 and -code in errno.errorcode:
        name = {"EOPNOTSUPP": "ENOTSUP"}.get(errno.errorcode[-code], errno.errorcode[-code])
        return f"-{name} ({code})"
    return str(code)


def word(lab, length):
    return "".join(lab.rng.choice(string.ascii_letters + string.digits) for _ in range(length))


def write_file(lab, name, data):
    path = os.path.join(lab.scratch, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def cases(lab, driver, tries, *first):
    """Runs a driver with one group of arguments for each of TRIES: what it saw in each."""
    words = [each for numbers in tries for each in numbers]
    seen = lab.driver(driver, *first, *words).record.get("cases", [])
    lab.expect(f"the driver {driver}: cases reported", len(tries), len(seen))
    return seen


def hexa(number):
    return f"{number:#x}"


# --- kernels of our making ---

# The setup header, boot.rst: name -> (offset in the file, bytes)
FIELDS = {
    "setup_sects": (0x1F1, 1), "root_flags": (0x1F2, 2), "syssize": (0x1F4, 4), "ram_size": (0x1F8, 2),
    "vid_mode": (0x1FA, 2), "root_dev": (0x1FC, 2), "boot_flag": (0x1FE, 2), "jump": (0x200, 2),
    "header": (0x202, 4), "version": (0x206, 2), "realmode_swtch": (0x208, 4), "start_sys": (0x20C, 2),
    "kernel_version": (0x20E, 2), "type_of_loader": (0x210, 1), "loadflags": (0x211, 1),
    "setup_move_size": (0x212, 2), "code32_start": (0x214, 4), "ramdisk_image": (0x218, 4),
    "ramdisk_size": (0x21C, 4), "bootsect_kludge": (0x220, 4), "heap_end_ptr": (0x224, 2),
    "ext_loader": (0x226, 2), "cmd_line_ptr": (0x228, 4), "initrd_addr_max": (0x22C, 4),
    "kernel_alignment": (0x230, 4), "relocatable": (0x234, 1), "min_alignment": (0x235, 1),
    "xloadflags": (0x236, 2), "cmdline_size": (0x238, 4), "subarch": (0x23C, 4), "subarch_data": (0x240, 8),
    "payload_offset": (0x248, 4), "payload_length": (0x24C, 4), "setup_data": (0x250, 8),
    "pref_address": (0x258, 8), "init_size": (0x260, 4), "handover": (0x264, 4), "kernel_info": (0x268, 4),
}  # fmt: skip
HEADER_START, HEADER_END = 0x1F1, 0x26C  # of the newest header that hv has names for
SUBARCH_AT = 0x23C
LENGTH_FROM = 0x202
XLF_64 = 1


class Kernel:
    """A bzImage: header fields by name, and the protected-mode part's bytes."""

    def __init__(self, lab, size=0x2000, **fields):
        self.body = lab.rng.randbytes(size)
        self.rng = lab.rng
        self.end = HEADER_END  # where the header says that it ends
        self.tail = b""
        self.fields = {
            "setup_sects": lab.rng.randrange(2, 30), "boot_flag": 0xAA55, "header": 0x53726448, "version": 0x20F,
            "loadflags": 1 | lab.rng.choice([0, 0x40, 0x80]), "code32_start": MIB, "kernel_alignment": 2 * MIB,
            "relocatable": 1, "xloadflags": XLF_64, "cmdline_size": 2047, "pref_address": 2 * MIB,
            "init_size": 1 * MIB, "initrd_addr_max": 0x7FFFFFFF, "vid_mode": lab.rng.randrange(1 << 16),
            "root_dev": lab.rng.randrange(1 << 16), "setup_move_size": lab.rng.randrange(1 << 16),
            "heap_end_ptr": lab.rng.randrange(1 << 16), "subarch_data": lab.rng.getrandbits(64),
            "handover": lab.rng.getrandbits(32), "kernel_info": lab.rng.getrandbits(32),
        }  # fmt: skip
        self.syssize = None  # as the body says
        self.fields.update(fields)

    @property
    def setup(self):
        """Bytes before the protected-mode part."""
        return ((self.fields["setup_sects"] or 4) + 1) * 512

    def wrap(self, vmlinux):
        """Puts VMLINUX into the body, packed."""
        packed = gzip.compress(vmlinux, mtime=0)
        self.fields["payload_offset"] = 0x300
        self.fields["payload_length"] = len(packed)
        self.body = self.body[:0x300].ljust(0x300, b"\x90") + packed
        return self

    def header(self):
        """The whole setup header's bytes, from HEADER_START on."""
        out = bytearray(HEADER_END - HEADER_START)
        fields = dict(self.fields)
        fields["syssize"] = (len(self.body) + 15) // 16 if self.syssize is None else self.syssize
        fields["jump"] = 0xEB | ((self.end - LENGTH_FROM) & 0xFF) << 8
        for name, value in fields.items():
            at, size = FIELDS[name]
            out[at - HEADER_START : at - HEADER_START + size] = value.to_bytes(size, "little")
        return bytes(out)

    def bytes(self):
        """The file. Around the header everything is 0xff or noise: traps for whoever copies too much."""
        out = bytearray(b"\xff" * HEADER_START + self.header())
        out += b"\xff" * (max(self.setup, len(out)) - len(out))
        if self.end < HEADER_END:
            out[self.end : HEADER_END] = b"\xff" * (HEADER_END - self.end)
        return bytes(out[: self.setup]) + self.body + self.tail


def vmlinux(lab, base=2 * MIB, size=0x900):
    """A small ELF64 kernel: one segment at BASE, entered somewhere in it."""
    entry = base + lab.rng.randrange(0, size - 16)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    ehdr = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    phdr = struct.pack("<IIQQQQQQ", 1, 7, PAGE, base, base, size, size + 0x1000, PAGE)
    return (ehdr + phdr).ljust(PAGE, b"\0") + lab.rng.randbytes(size)


def field(header, name):
    """A field of a header's bytes, or of a zero page's."""
    at, size = FIELDS[name]
    at -= HEADER_START if len(header) < PAGE else 0
    return int.from_bytes(header[at : at + size], "little")


def field_of(offset):
    """The name of the field that has this byte of the header."""
    for name, (at, size) in FIELDS.items():
        if at <= HEADER_START + offset < at + size:
            return name
    return f"offset {HEADER_START + offset:#x}"


# --- 5.1 copy_header() ---


def header_read(lab):
    size = lab.rng.randrange(0x400, 0x3000)
    old = Kernel(lab, size, version=lab.rng.choice([0x206, 0x207]))
    old.end = SUBARCH_AT
    middle = Kernel(lab, size, version=0x20C, payload_length=0)
    middle.end = lab.rng.choice([0x264, 0x268])
    longer = Kernel(lab, size)
    longer.end = lab.rng.randrange(HEADER_END + 1, 0x282)
    tries = [
        ("a header as long as hv knows it", Kernel(lab, size, loadflags=1 | lab.rng.choice([0x40, 0x80]))),
        (f"a header of version 2.{old.fields['version'] & 0xFF:02}, which ends at {SUBARCH_AT:#x}", old),
        (f"a header of version 2.12, which ends at {middle.end:#x}", middle),
        (f"a header with fields from the future, which ends at {longer.end:#x}", longer),
    ]
    paths = [(write_file(lab, f"k{i}", kernel.bytes()),) for i, (_, kernel) in enumerate(tries)]
    for (tried, kernel), got in zip(tries, cases(lab, "image", paths)):
        lab.expect(f"linux_open() of {tried}", "0", named(got["rc"]))
        expect_header(lab, tried, kernel, bytes.fromhex(got["header"]))


# What default_missing() puts where an old header says nothing.
DEFAULTED = ("xloadflags", "pref_address", "init_size", "payload_offset", "payload_length")


def expect_header(lab, tried, kernel, got):
    file = kernel.header()
    there = min(kernel.end, HEADER_END) - HEADER_START
    for i, byte in enumerate(got):
        name = field_of(i)
        if kernel.fields["version"] < 0x20C and name in DEFAULTED:
            continue
        if i < there:
            lab.expect(f"{tried}: {name} (offset {HEADER_START + i:#x})", hexa(file[i]), hexa(byte))
        else:
            lab.expect(f"{tried}: {name}, which the image does not have", "0x0", hexa(byte))


def header_refused(lab):
    good = Kernel(lab)
    version = lab.rng.choice([0x204, 0x203, 0x200, 0x106, 0x10F])
    old = Kernel(lab, version=version)
    short = Kernel(lab)
    short.end = lab.rng.randrange(0x210, SUBARCH_AT)
    both = Kernel(lab, version=version)
    both.end = 0x22C
    zimage = Kernel(lab, loadflags=lab.rng.choice([0, 0x80, 0xC0]))
    cut = Kernel(lab)
    cut.end = lab.rng.randrange(0x280, 0x300)
    whole = Kernel(lab)
    tries = [
        ("a good image", good.bytes(), 0),
        (f"protocol {version >> 8}.{version & 0xFF:02}", old.bytes(), ENOTSUP),
        ("protocol 2.05", Kernel(lab, version=0x205).bytes(), ENOTSUP),
        (f"protocol 2.15 with a header that ends at {short.end:#x}", short.bytes(), ENOEXEC),
        ("an old protocol with the short header that it had", both.bytes(), ENOTSUP),
        (f"a zImage (loadflags {zimage.fields['loadflags']:#x})", zimage.bytes(), ENOTSUP),
        (f"a header that ends at {cut.end:#x}, in a file one byte shorter", cut.bytes()[: cut.end - 1], ENOEXEC),
        (f"a header that ends at {whole.end:#x}, in a file one byte shorter", whole.bytes()[: whole.end - 1], ENOEXEC),
        ("a file that ends behind the magic", good.bytes()[:0x206], ENOEXEC),
    ]  # fmt: skip
    paths = [(write_file(lab, f"k{i}", data),) for i, (_, data, _) in enumerate(tries)]
    for (tried, _, want), got in zip(tries, cases(lab, "image", paths)):
        lab.expect(f"linux_open() of {tried}", named(want), named(got["rc"]))
        if want:
            lab.expect(f"{tried}: *out", "untouched", "untouched" if got["untouched"] else "changed")
            lab.expect_true(f"{tried}: the error", "a sentence", got["error"] != "", "no text")


# --- 5.2 find_kernel() ---


def kernel_found(lab):
    size = 16 * lab.rng.randrange(70, 600)
    tries = []

    def add(tried, kernel, want=None, size_want=None):
        tries.append((tried, kernel, want, size_want))

    for sects in (1, lab.rng.randrange(2, 60), 64):
        add(f"setup_sects {sects}", Kernel(lab, size, setup_sects=sects), 0, size)
    add("setup_sects 0, which means 4", Kernel(lab, size, setup_sects=0), 0, size)
    odd = Kernel(lab, size - lab.rng.randrange(1, 16))
    add(f"{len(odd.body)} bytes, {size // 16} paragraphs", odd, 0, len(odd.body))
    signed = Kernel(lab, size)
    signed.tail = lab.rng.randbytes(lab.rng.randrange(1, 900))
    add(f"{len(signed.tail)} bytes of signature behind the kernel", signed, 0, size)
    nothing = Kernel(lab, size + 5)
    nothing.syssize = 0
    add("syssize 0", nothing, 0, size + 5)
    lacking = Kernel(lab, size)
    lacking.syssize = size // 16 + 1
    add("a whole paragraph missing", lacking, ENOEXEC)
    empty = Kernel(lab, 0)
    empty.syssize = lab.rng.choice([0, 100])
    add("a file that ends where the kernel should begin", empty, ENOEXEC)
    zero = Kernel(lab, 0)
    zero.syssize = 0
    add("the same, with syssize 0", zero, ENOEXEC)
    paths = [(write_file(lab, f"k{i}", kernel.bytes()),) for i, (_, kernel, *_) in enumerate(tries)]
    for (tried, kernel, want, length), got in zip(tries, cases(lab, "image", paths)):
        lab.expect(f"linux_open(): {tried}", named(want), named(got["rc"]))
        if want == 0:
            lab.expect(f"{tried}: the kernel begins in the file at", hexa(kernel.setup), hexa(got["kernel_at"]))
            lab.expect(f"{tried}: its bytes", length, got["kernel_size"])


# --- 5.3 layout_describe() ---

EBDA, HIGH, HOLE, HOLE_END, KVM_PAGES = 0x9FC00, MIB, 3 * GIB, 4 * GIB, 0xFFFBC000
RAM, RESERVED = 1, 2
TYPES = {RAM: "RAM", RESERVED: "reserved", 3: "ACPI"}


def map_of(memory):
    """[(start, end, type)] of a machine, as the specification of the lab says."""
    low = min(memory, HOLE)
    found = [(0, EBDA, RAM), (EBDA, HIGH, RESERVED), (HIGH, low, RAM), (KVM_PAGES, HOLE_END, RESERVED)]
    return [each for each in [*found, (HOLE_END, HOLE_END + memory - low, RAM)] if each[1] > each[0]]


def merged(ranges):
    """[start, end, type] with neighbours of one type made one."""
    out = []
    for start, end, kind in ranges:
        if out and out[-1][1] == start and out[-1][2] == kind:
            out[-1] = (out[-1][0], end, kind)
        else:
            out.append((start, end, kind))
    return out


def map_text(ranges):
    return ", ".join(f"{start:#x}-{end:#x} {TYPES.get(kind, kind)}" for start, end, kind in ranges)


def memory_map(lab):
    sizes = [MIB, MIB + PAGE, 512 * MIB, HOLE - PAGE, HOLE, HOLE + PAGE, 4 * GIB, 64 * GIB]
    sizes += [PAGE * lab.rng.randrange(0x200, 0xC0000) for _ in range(3)]
    sizes += [HOLE + PAGE * lab.rng.randrange(1, 1 << 24) for _ in range(3)]
    tries = [(size, i % 2) for i, size in enumerate(sizes)]
    for (size, acpi), got in zip(tries, cases(lab, "layout", tries)):
        tried = f"the memory map of a machine with {size // KIB} KiB"
        lab.expect_true(f"{tried}: ranges", "1 to 16", 1 <= got["count"] <= 16, got["count"])
        ranges = [got[f"range{i}"] for i in range(got["count"])]
        found = [(start, (start + length) & (1 << 64) - 1, kind) for start, length, kind in ranges]
        lab.expect(tried, map_text(merged(map_of(size))), map_text(merged(found)))
        lab.expect(f"{tried}: low_end", hexa(min(size, HOLE)), hexa(got["low_end"]))


# --- the loader, as the drivers see it ---


def load_case(lab, protocol, kernel, initrd=None, cmdline=None, ram=32 * MIB, rsdp=0xE0000):
    """The arguments of one case of drivers/load.c."""
    lab._files = getattr(lab, "_files", 0) + 1
    data = kernel if isinstance(kernel, bytes) else kernel.bytes()
    paths = [write_file(lab, f"kernel{lab._files}", data), "-", "-"]
    if initrd is not None:
        paths[1] = write_file(lab, f"initrd{lab._files}", initrd)
    if cmdline is not None:
        paths[2] = write_file(lab, f"cmdline{lab._files}", cmdline.encode())
    return (protocol, *paths, ram, rsdp)


def loaded(lab, tried, got):
    """The load went well: the zero page's bytes."""
    lab.expect(f"boot_load() of {tried}", "0", named(got["rc"]))
    page = bytes.fromhex(got.get("zero_page", ""))
    lab.expect_true(f"{tried}: RSI", "the address of a zero page in RAM", len(page) == PAGE, hexa(got["rsi"]))
    return page


def refused(lab, tried, wants, got):
    """The load was refused for a reason that is one of WANTS, and nothing has changed."""
    wants = wants if isinstance(wants, tuple) else (wants,)
    text = " or ".join(named(each) for each in wants)
    lab.expect_true(f"boot_load() of {tried}", text, got["rc"] in wants, named(got["rc"]))
    lab.expect_true(f"{tried}: the error", "a sentence", got["error"] not in ("", "kernel"), "no text")
    lab.expect(f"{tried}: *entry", "untouched", "untouched" if got["untouched"] else "changed")
    lab.expect(f"{tried}: bytes of guest memory that changed", 0, got["changed"])


# --- 5.4 fill_zero_page() ---

E820_AT, E820_COUNT_AT, RSDP_AT = 0x2D0, 0x1E8, 0x70
LOADER_OWN = ("type_of_loader", "cmd_line_ptr", "ramdisk_image", "ramdisk_size")


def zero_page(lab):
    tries = []
    for _ in range(3):
        kernel = Kernel(lab, cmdline_size=lab.rng.randrange(100, 5000)).wrap(vmlinux(lab))
        tries.append((kernel, MIB * lab.rng.randrange(8, 48), 16 * lab.rng.randrange(0xA0000 // 16, MIB // 16)))
    args = [load_case(lab, "linux-unpacked", kernel, ram=ram, rsdp=rsdp) for kernel, ram, rsdp in tries]
    for (kernel, ram, rsdp), got in zip(tries, cases(lab, "load", args)):
        tried = f"a bzImage in a machine with {ram // MIB} MiB"
        page = loaded(lab, tried, got)
        expect_zero_page(lab, f"{tried}: the zero page", page, kernel, ram, rsdp)


def expect_zero_page(lab, tried, page, kernel, ram, rsdp):
    header = kernel.header()
    for name in FIELDS:
        if name not in LOADER_OWN:
            lab.expect(f"{tried}: {name}", hexa(field(header, name)), hexa(field(page, name)))
    lab.expect(f"{tried}: type_of_loader", "0xff", hexa(field(page, "type_of_loader")))
    lab.expect(f"{tried}: acpi_rsdp_addr", hexa(rsdp), hexa(int.from_bytes(page[RSDP_AT : RSDP_AT + 8], "little")))
    count = page[E820_COUNT_AT]
    lab.expect(f"{tried}: e820_entries", 3, count)
    found = [struct.unpack_from("<QQI", page, E820_AT + 20 * i) for i in range(count)]
    want = [(0, EBDA, RAM), (EBDA, MIB - EBDA, RESERVED), (MIB, ram - MIB, RAM)]
    lab.expect(f"{tried}: e820_table (address, size, type)", str(want), str(found))
    known = set(range(RSDP_AT, RSDP_AT + 8)) | {E820_COUNT_AT} | set(range(HEADER_START, HEADER_END))
    known |= set(range(E820_AT, E820_AT + 60))
    other = [hexa(at) for at, byte in enumerate(page) if byte and at not in known]
    lab.expect(f"{tried}: bytes that are not the loader's to set", "all 0", f"not 0 at {other[:4]}" if other else "all 0")


# --- 5.5 add_cmdline(), add_initrd() ---

SCRATCH, SCRATCH_END = 0x80000, 0x9F000


def command_line(lab):
    limit = lab.rng.randrange(200, 2000)
    texts = [word(lab, limit), "quiet " + word(lab, lab.rng.randrange(5, 100)), "", None]
    args = [
        load_case(lab, "linux-unpacked", Kernel(lab, cmdline_size=limit).wrap(vmlinux(lab)), cmdline=each)
        for each in [*texts, word(lab, limit + 1)]
    ]
    *seen, last = cases(lab, "load", args)
    for each, got in zip(texts, seen):
        want = "console=ttyS0" if each is None else each
        tried = f"a command line of {len(want)} characters, of {limit} that the kernel takes"
        page = loaded(lab, tried, got)
        at = field(page, "cmd_line_ptr")
        lab.expect_true(f"{tried}: cmd_line_ptr", f"a multiple of 16 in the scratch area ({SCRATCH:#x}-{SCRATCH_END:#x})",
                        SCRATCH <= at < SCRATCH_END and at % 16 == 0, hexa(at))  # fmt: skip
        text, end, _ = bytes.fromhex(got["cmdline"]).partition(b"\0")
        lab.expect(f"{tried}: what is there", want.encode(), text)
        lab.expect_true(f"{tried}: its end", "a 0 byte", end == b"\0", "none")
    refused(lab, f"a command line of {limit + 1} characters, of {limit} that the kernel takes", E2BIG, last)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return value


def initrd_place(lab):
    ram = 32 * MIB
    borders = [ram - 1, 0x7FFFFFFF, 0xFFFFFFFF, 16 * MIB - 1, 16 * MIB - 2, lab.rng.randrange(12 * MIB, 31 * MIB)]
    sizes = [lab.rng.choice([PAGE * lab.rng.randrange(1, 6), lab.rng.randrange(1, 20000)]) for _ in borders]
    sizes[0] = sizes[3] = 2 * PAGE
    sizes[1] = PAGE + lab.rng.randrange(1, PAGE)  # one at least is no whole number of pages
    images = [lab.rng.randbytes(size) for size in sizes]
    args = [
        load_case(lab, "linux-unpacked", Kernel(lab, initrd_addr_max=border).wrap(vmlinux(lab)), initrd=image, ram=ram)
        for border, image in zip(borders, images)
    ]
    args.append(load_case(lab, "linux-unpacked", Kernel(lab, ramdisk_image=0, ramdisk_size=0).wrap(vmlinux(lab))))
    *seen, none = cases(lab, "load", args)
    for border, image, got in zip(borders, images, seen):
        tried = f"an initrd of {len(image)} bytes, initrd_addr_max {border:#x}, RAM to {ram:#x}"
        page = loaded(lab, tried, got)
        highest = (min(border + 1, ram) - len(image)) // PAGE * PAGE
        lab.expect(f"{tried}: ramdisk_image, the highest page that will do", hexa(highest), hexa(field(page, "ramdisk_image")))
        lab.expect(f"{tried}: ramdisk_size", len(image), field(page, "ramdisk_size"))
        lab.expect_true(f"{tried}: the bytes there", "the initrd's", got.get("initrd_hash") == fnv(image), "others")
    page = loaded(lab, "a kernel without an initrd", none)
    lab.expect("without an initrd: ramdisk_image and ramdisk_size", (0, 0),
               (field(page, "ramdisk_image"), field(page, "ramdisk_size")))  # fmt: skip


# --- 5.6 enter_bzimage() ---

MODES = {0: "real mode", 1: "protected mode", 2: "long mode"}


def load_address(kernel):
    """Where boot.rst has a relocatable kernel put; any other goes to 1 MiB."""
    if not kernel.fields["relocatable"]:
        return MIB
    align = kernel.fields["kernel_alignment"]
    return (max(kernel.fields["pref_address"], MIB) + align - 1) // align * align


def expect_entry(lab, tried, kernel, got, mode, offset):
    page = loaded(lab, tried, got)
    load = load_address(kernel)
    lab.expect(f"{tried}: the mode", mode, MODES.get(got["mode"], str(got["mode"])))
    lab.expect(f"{tried}: RIP", hexa(load + offset), hexa(got["rip"]))
    want = (load + kernel.fields["code32_start"] - MIB) & 0xFFFFFFFF
    lab.expect(f"{tried}: code32_start in the zero page", hexa(want), hexa(field(page, "code32_start")))
    code = kernel.body[offset : offset + 64]
    lab.expect_true(f"{tried}: the bytes at RIP", "the kernel's", bytes.fromhex(got["at_rip"])[: len(code)] == code,
                    "others")  # fmt: skip


def entry_64(lab):
    code32 = MIB + 16 * lab.rng.randrange(1, 30)
    pref = PAGE * lab.rng.randrange(0x200, 0xC00)
    tries = [
        Kernel(lab, lab.rng.randrange(0x400, 0x3000), pref_address=2 * MIB),
        Kernel(lab, 0x900, pref_address=pref, kernel_alignment=lab.rng.choice([PAGE, 0x10000, MIB])),
        Kernel(lab, 0x900, pref_address=pref, code32_start=code32, kernel_alignment=2 * MIB),
        Kernel(lab, 0x900, relocatable=0, pref_address=pref, xloadflags=XLF_64 | 0x7E),
        Kernel(lab, 0x201),
        Kernel(lab, 0x200),
        Kernel(lab, lab.rng.randrange(1, 0x200)),
    ]
    seen = cases(lab, "load", [load_case(lab, "linux", kernel) for kernel in tries])
    for kernel, got in zip(tries[:5], seen):
        how = "relocatable" if kernel.fields["relocatable"] else "not relocatable"
        tried = f"a 64-bit kernel, {how}, pref_address {kernel.fields['pref_address']:#x}, {len(kernel.body)} bytes"
        expect_entry(lab, tried, kernel, got, "long mode", 0x200)
    for kernel, got in zip(tries[5:], seen[5:]):
        refused(lab, f"a 64-bit kernel of {len(kernel.body)} bytes", ENOEXEC, got)


def entry_32(lab):
    size = 16 * lab.rng.randrange(64, 400)
    offset = lab.rng.randrange(1, size)
    flags = lab.rng.choice([0x2, 0x5E])  # all but XLF_KERNEL_64
    offsets = (0, offset, size - 1)
    tries = [Kernel(lab, size, xloadflags=flags, code32_start=MIB + each) for each in offsets]
    tries.append(Kernel(lab, size, xloadflags=0, code32_start=MIB + offset, relocatable=0, pref_address=8 * MIB))
    bad = [Kernel(lab, size, xloadflags=flags, code32_start=each)
           for each in (MIB + size, MIB - 1, 0, 0xFFFFFFFF)]  # fmt: skip
    seen = cases(lab, "load", [load_case(lab, "linux", kernel) for kernel in [*tries, *bad]])
    for kernel, want, got in zip(tries, (*offsets, offset), seen):
        tried = f"a 32-bit kernel (xloadflags {kernel.fields['xloadflags']:#x}) with code32_start {kernel.fields['code32_start']:#x}"
        expect_entry(lab, tried, kernel, got, "protected mode", want)
    for kernel, got in zip(bad, seen[len(tries) :]):
        refused(lab, f"a 32-bit kernel of {size} bytes with code32_start {kernel.fields['code32_start']:#x}", ENOEXEC, got)


# --- 5.7 the CPUID policy ---

ONES = 0xFFFFFFFF
REGS = ("eax", "ebx", "ecx", "edx")
INTEL, AMD = b"GenuineIntel", b"AuthenticAMD"
# What must be gone, and what must stay, of a table in which everything is offered: SDM 2A, AMD APM 3.
# (leaf, subleaf, register): ({bit: name} hidden, {bit: name} kept)
SAMPLES = {
    (1, 0, "ecx"): ({2: "DTES64", 3: "MONITOR", 6: "SMX", 7: "EIST", 15: "PDCM", 18: "DCA"},
                    {0: "SSE3", 1: "PCLMULQDQ", 12: "FMA", 13: "CMPXCHG16B", 23: "POPCNT", 25: "AES", 28: "AVX"}),
    (1, 0, "edx"): ({21: "DS", 22: "ACPI thermal control", 29: "TM", 31: "PBE"},
                    {0: "FPU", 4: "TSC", 5: "MSR", 6: "PAE", 9: "APIC", 12: "MTRR", 19: "CLFLUSH", 26: "SSE2"}),
    (7, 0, "ebx"): ({2: "SGX", 12: "PQM", 15: "PQE", 25: "processor trace"},
                    {0: "FSGSBASE", 3: "BMI1", 5: "AVX2", 7: "SMEP", 8: "BMI2", 9: "ERMS", 20: "SMAP"}),
    (7, 0, "ecx"): ({5: "WAITPKG", 13: "TME", 30: "SGX_LC"}, {2: "UMIP", 3: "PKU", 16: "LA57", 22: "RDPID"}),
    (7, 0, "edx"): ({15: "hybrid", 22: "AMX-BF16", 24: "AMX-TILE"}, {4: "FSRM", 10: "MD_CLEAR", 31: "SSBD"}),
    (7, 1, "ebx"): ({}, {2: "a bit that is SGX in subleaf 0", 25: "a bit that is processor trace in subleaf 0"}),
    (7, 1, "eax"): ({21: "AMX-FP16", 22: "HRESET"}, {4: "AVX-VNNI", 5: "AVX512_BF16"}),
    (6, 0, "eax"): ({0: "thermal sensor", 1: "turbo", 7: "HWP"}, {2: "ARAT"}),
    (0x80000001, 0, "ecx"): ({10: "IBS", 12: "SKINIT", 23: "core performance counters"},
                             {0: "LAHF", 5: "ABM", 6: "SSE4A", 8: "PREFETCHW"}),
    (0x80000001, 0, "edx"): ({}, {11: "SYSCALL", 20: "NX", 26: "1 GiB pages", 29: "long mode"}),
    (0x40000001, 0, "eax"): ({15: "MSI with extended destinations", 16: "map GPA range"}, {0: "kvm-clock", 5: "steal time"}),
}  # fmt: skip
HIDDEN_LEAVES = (0x3, 0x5, 0xA, 0xF, 0x10, 0x12, 0x14, 0x16, 0x1A, 0x1D, 0x23, 0x8000001B, 0x8000001F, 0x80000022)
KEPT_LEAVES = (0x0, 0x1, 0x2, 0x6, 0x7, 0xD, 0x13, 0x15, 0x40000000, 0x40000001, 0x80000000, 0x80000002, 0x80000008)


def entry(leaf, subleaf=0, flags=0, eax=ONES, ebx=ONES, ecx=ONES, edx=ONES):
    return struct.pack("<10I", leaf, subleaf, flags, eax, ebx, ecx, edx, 0, 0, 0)


def vendor_leaf(vendor, top=0x1E):
    ebx, edx, ecx = struct.unpack("<3I", vendor)
    return entry(0, 0, 0, top, ebx, ecx, edx)


def offered(vendor):
    """A processor that has everything."""
    indexed = {0x4, 0x7, 0xD, 0xF, 0x10, 0x12, 0x14, 0x1D, 0x8000001D}
    out = [vendor_leaf(vendor), entry(1), entry(6)]
    out += [entry(leaf, 0, leaf in indexed) for leaf in (*HIDDEN_LEAVES, *KEPT_LEAVES) if leaf not in (0, 1, 6)]
    out += [entry(7, 1, 1), entry(0x8000000A), entry(0x80000001), entry(0xD, 1, 1), entry(0x10, 1, 1), entry(0x10, 2, 1)]
    return b"".join(out)


def table(got):
    """{(leaf, subleaf): {register: value}} of what the driver saw."""
    data = bytes.fromhex(got.get("table", ""))
    rows = (struct.unpack_from("<7I", data, at) for at in range(0, len(data), 40))
    return {(row[0], row[1]): dict(zip(REGS, row[3:])) for row in rows}


def cpu_tables(lab, tries):
    """[(table of bytes, x2apic, deadline, nested)] as the guest gets them."""
    args = [(write_file(lab, f"cpuid{i}", data), 1, x2apic, deadline, nested, 0)
            for i, (data, x2apic, deadline, nested) in enumerate(tries)]  # fmt: skip
    seen = cases(lab, "cpuid", args)
    for got in seen:
        lab.expect("cpuid_for_vcpu() of a processor that has everything", "0", named(got["rc"]))
    return [table(got) for got in seen]


def expect_bit(lab, tried, leaves, leaf, subleaf, reg, bit, name, want):
    value = leaves.get((leaf, subleaf), {}).get(reg)
    lab.expect_true(f"{tried}: leaf {leaf:#x}.{subleaf}", "there", value is not None, "missing")
    lab.expect(f"{tried}: leaf {leaf:#x}.{subleaf}, {reg.upper()} bit {bit} ({name})", want, value >> bit & 1)


def expect_policy(lab, tried, leaves, x2apic, nested):
    for (leaf, subleaf, reg), (hidden, kept) in SAMPLES.items():
        for bit, name in hidden.items():
            expect_bit(lab, tried, leaves, leaf, subleaf, reg, bit, name, 0)
        for bit, name in kept.items():
            expect_bit(lab, tried, leaves, leaf, subleaf, reg, bit, name, 1)
    expect_bit(lab, tried, leaves, 1, 0, "ecx", 5, "VMX", nested)
    expect_bit(lab, tried, leaves, 0x80000001, 0, "ecx", 2, "SVM", nested)
    expect_bit(lab, tried, leaves, 1, 0, "ecx", 21, "x2APIC", x2apic)
    for leaf in HIDDEN_LEAVES:
        there = [f"{each:#x}.{sub}" for each, sub in leaves if each == leaf]
        lab.expect(f"{tried}: leaf {leaf:#x}", "hidden", ", ".join(there) or "hidden")
    lab.expect(f"{tried}: leaf 0x8000000a (SVM)", "there" if nested else "hidden",
               "there" if (0x8000000A, 0) in leaves else "hidden")  # fmt: skip
    for leaf in KEPT_LEAVES:
        lab.expect(f"{tried}: leaf {leaf:#x}", "there", "there" if (leaf, 0) in leaves else "hidden")


def hidden_features(lab):
    tries = [(offered(vendor), x2apic, 0, nested)
             for vendor, x2apic, nested in ((INTEL, 1, 0), (AMD, 1, 1), (AMD, 0, 0), (INTEL, 0, 1))]  # fmt: skip
    for (_, x2apic, _, nested), leaves in zip(tries, cpu_tables(lab, tries)):
        expect_policy(lab, f"a policy with x2apic {x2apic}, nested {nested}", leaves, x2apic, nested)


def told_features(lab):
    """Leaf 1 of tables in which the other bits are drawn by lot."""
    tries = []
    for i, line in enumerate((0, 0, 0x1000, 0x0800, 0x2000, 0x0400)):
        ebx = lab.rng.getrandbits(32) & ~0xFF00 | line
        ecx = lab.rng.getrandbits(32) & ~(1 << 31) & ~(1 << 24) | (i & 1) << 24
        tries.append((vendor_leaf(INTEL) + entry(1, 0, 0, lab.rng.getrandbits(32), ebx, ecx, lab.rng.getrandbits(32)),
                      1, i // 2 & 1, 1))  # fmt: skip
    gone = sum(1 << bit for bit in (2, 3, 4, 6, 7, 8, 10, 11, 14, 15, 18))
    for (data, _, deadline, _), leaves in zip(tries, cpu_tables(lab, tries)):
        eax, ebx, ecx, edx = struct.unpack_from("<4I", data, 40 + 12)
        tried = f"KVM's leaf 1 with ECX {ecx:#010x} and EBX {ebx:#010x}, tsc_deadline {deadline}"
        got = leaves[1, 0]
        lab.expect(f"{tried}: EAX", hexa(eax), hexa(got["eax"]))
        lab.expect(f"{tried}: ECX bit 31 (a hypervisor is here)", 1, got["ecx"] >> 31)
        lab.expect(f"{tried}: ECX bit 24 (TSC deadline)", deadline, got["ecx"] >> 24 & 1)
        rest = ecx & ~gone & ~(1 << 31 | 1 << 24)
        lab.expect(f"{tried}: the other bits of ECX", hexa(rest), hexa(got["ecx"] & ~(1 << 31 | 1 << 24)))
        line = ebx >> 8 & 0xFF or 8
        lab.expect(f"{tried}: EBX 15:8, the cache line in units of 8 bytes", line, got["ebx"] >> 8 & 0xFF)
        lab.expect(f"{tried}: EBX 7:0", hexa(ebx & 0xFF), hexa(got["ebx"] & 0xFF))


# --- 5.8 and 5.9: ACPI ---

HEADER = struct.Struct("<4sIBB6s8sI4sI")


def acpi_case(lab, cpus):
    rsdp = 16 * lab.rng.randrange(0xE0000 // 16, 0xE0100 // 16)
    tables = 0xE0200 + 16 * lab.rng.randrange(0, 64)
    return (cpus, 0xFEE00000, 0xFEC00000 + PAGE * lab.rng.randrange(16), lab.rng.randrange(16), rsdp, tables, 0x8000)


class Tables:
    """What the driver saw of one acpi_build(), with addresses as the guest has them."""

    def __init__(self, lab, case, got):
        self.lab, self.base = lab, case[5]
        self.rsdp, self.data = bytes.fromhex(got["rsdp"]), bytes.fromhex(got["tables"])

    def at(self, tried, address, size):
        offset = address - self.base
        self.lab.expect_true(tried, f"an address in the tables ({self.base:#x}-{self.base + len(self.data):#x})",
                             0 <= offset and offset + size <= len(self.data), hexa(address))  # fmt: skip
        return self.data[offset : offset + size]

    def table(self, tried, address, signature, revision=None):
        """A whole table, found and proved."""
        head = self.at(tried, address, HEADER.size)
        self.lab.expect(f"{tried} ({address:#x}): the signature there", signature, head[:4])
        length = HEADER.unpack(head)[1]
        data = self.at(f"{tried}: its end", address, length)
        self.lab.expect(f"{signature.decode()}: the sum of its {length} bytes", 0, sum(data) & 0xFF)
        if revision is not None:
            self.lab.expect(f"{signature.decode()}: revision", revision, data[8])
        return data

    def expect_rsdp(self):
        """The RSDP; returns the XSDT's address."""
        self.lab.expect("the RSDP: its signature", b"RSD PTR ", self.rsdp[:8])
        self.lab.expect("the RSDP: revision", 2, self.rsdp[15])
        self.lab.expect("the RSDP: length", 36, struct.unpack_from("<I", self.rsdp, 20)[0])
        self.lab.expect("the RSDP: the sum of its first 20 bytes", 0, sum(self.rsdp[:20]) & 0xFF)
        self.lab.expect("the RSDP: the sum of its 36 bytes", 0, sum(self.rsdp) & 0xFF)
        self.lab.expect("the RSDP: the RSDT's address", 0, struct.unpack_from("<I", self.rsdp, 16)[0])
        return struct.unpack_from("<Q", self.rsdp, 24)[0]

    def xsdt(self):
        """The addresses in the XSDT."""
        data = self.table("the RSDP's XSDT", self.expect_rsdp(), b"XSDT", 1)
        self.lab.expect("XSDT: tables named", 2, (len(data) - HEADER.size) / 8)
        return struct.unpack_from("<2Q", data, HEADER.size)


def built(lab, cases_args):
    for case, got in zip(cases_args, cases(lab, "acpi", cases_args)):
        lab.expect(f"acpi_build() for {case[0]} CPUs", "0", named(got["rc"]))
        yield case, Tables(lab, case, got)


def table_chain(lab):
    for _, tables in built(lab, [acpi_case(lab, lab.rng.randrange(1, 64)) for _ in range(3)]):
        fadt_at, madt_at = tables.xsdt()
        fadt = tables.table("the XSDT's first table", fadt_at, b"FACP")
        lab.expect("FADT: its length", 276, len(fadt))
        lab.expect("FADT: PM1a control, reset register", (0x604, 0xCF9),
                   (struct.unpack_from("<I", fadt, 64)[0], struct.unpack_from("<Q", fadt, 120)[0]))  # fmt: skip
        tables.table("the FADT's DSDT", struct.unpack_from("<Q", fadt, 140)[0], b"DSDT")
        tables.at("the XSDT's second table", madt_at, HEADER.size)
        lab.expect_true("the XSDT's second table", "another one than the first", madt_at != fadt_at, hexa(madt_at))


def madt_entries(lab, data):
    """[bytes] of a MADT's entries."""
    at, found = 44, []
    while at < len(data):
        length = data[at + 1] if at + 1 < len(data) else 0
        lab.expect_true(f"MADT: the entry at {at}", "a length that leads to the next entry or the end",
                        length >= 2 and at + length <= len(data), f"{length} of {len(data) - at} bytes left")  # fmt: skip
        found.append(data[at : at + length])
        at += length
    return found


def processors(lab):
    for case, tables in built(lab, [acpi_case(lab, cpus) for cpus in (1, lab.rng.randrange(2, 64), 255)]):
        cpus, lapic, ioapic, ioapic_id = case[:4]
        tried = f"the MADT for {cpus} CPUs"
        data = tables.table("the XSDT's second table", tables.xsdt()[1], b"APIC", 5)
        lab.expect(f"{tried}: the local APICs' address", hexa(lapic), hexa(struct.unpack_from("<I", data, 36)[0]))
        lab.expect(f"{tried}: flags (PCAT_COMPAT)", 1, struct.unpack_from("<I", data, 40)[0])
        entries = madt_entries(lab, data)
        found = [struct.unpack("<BBBBI", each) for each in entries if each[0] == 0 and len(each) == 8]
        want = [(0, 8, cpu, cpu, 1) for cpu in range(cpus)]
        lab.expect(f"{tried}: local APICs (type, length, UID, APIC id, enabled)", str(want), str(found))
        others = {each[0]: each for each in entries if each[0] != 0}
        lab.expect(f"{tried}: types of the other entries", [1, 2, 4], sorted(each[0] for each in entries if each[0]))
        lab.expect(f"{tried}: I/O APIC (id, address, first GSI)", (ioapic_id, hexa(ioapic), 0), io_apic(others[1]))
        lab.expect(f"{tried}: override (bus, source, GSI)", (0, 9, 9), struct.unpack_from("<BBI", others[2], 2))
        lab.expect(f"{tried}: the SCI's flags (1: active high, 3 << 2: level)", 0xD, struct.unpack_from("<H", others[2], 8)[0])
        lab.expect(f"{tried}: NMI (for all: UID 255, flags 0, LINT 1)", (255, 0, 1), struct.unpack_from("<BHB", others[4], 2))


def io_apic(data):
    number, _, address, first = struct.unpack_from("<BBII", data, 2)
    return number, hexa(address), first


# --- 5.10 the power registers ---

EVT, CNT, TMR, RESET = 0x600, 0x604, 0x608, 0xCF9
SLP_EN, READ, WRITE = 1 << 13, 0, 1
PWRBTN_BITS = 0x721  # of PM1 enable, those that can be set


def op(kind, port, size, value=0):
    return struct.pack("<BBHI", kind, size, port, value)


class Power:
    """The power device a second time: what it answers, and when it wants power to change. ACPI 6.5 §4.8.3."""

    def __init__(self, s5, reset_value):
        self.s5, self.reset_value = s5, reset_value
        self.regs = bytearray(8)  # status, enable, control; the bytes that can be read back
        self.regs[4] = 1  # SCI_EN
        self.events, self.answers, self.count = [], b"", 0

    def access(self, kind, port, size, value):
        offset = port - EVT
        in_pm = 0 <= offset < 6 and offset + size <= 6
        in_timer = TMR <= port and port + size <= TMR + 4
        if kind == WRITE and port == RESET and size == 1 and value & 0xFF & self.reset_value == self.reset_value:
            self.events.append(f"{self.count}r")
        for i in range(size if in_pm and kind == WRITE else 0):
            self._write(offset + i, value >> 8 * i & 0xFF)
        if kind == READ:
            lone = b"\0" if port == RESET and size == 1 else b"\xff" * size
            self.answers += bytes(self.regs[offset : offset + size]) if in_pm else bytes(size) if in_timer else lone
        self.count += 1

    def _write(self, at, byte):
        if at in (2, 3):
            self.regs[at] = byte & (PWRBTN_BITS >> 8 * (at - 2))
        elif at == 4:
            self.regs[4] = 1 | byte & 2
        elif at == 5:
            self.regs[5] = byte & 0x1C
            if byte & 0x20 and byte >> 2 & 7 == self.s5:
                self.events.append(f"{self.count}o")


def expect_power(lab, tried, s5, reset_value, ops):
    """Runs OPS on the learner's device and on the model."""
    model = Power(s5, reset_value)
    for each in ops:
        model.access(*each)
    path = write_file(lab, "ops", b"".join(op(*each) for each in ops))
    got = lab.driver("power", s5, reset_value, path).record
    seen = got["events"].split()
    for i, (want, found) in enumerate(zip([*model.events, "no more"], [*seen, "no more"])):
        if want != found:
            lab.expect(f"{tried}: its event number {i + 1}", said(want, ops), said(found, ops))
    lab.expect(f"{tried}: events", len(model.events), len(seen))
    lab.expect_true(f"{tried}: what the reads give", "as the specification says",
                    bytes.fromhex(got["answers"]) == model.answers, "other bytes")  # fmt: skip


def said(event, ops):
    if not event[:-1].isdigit():
        return event
    kind, port, size, value = ops[int(event[:-1])]
    what = "power off" if event[-1] == "o" else "reset"
    return f"{what} at access {event[:-1]}: {'write' if kind else 'read'} of {size} bytes, {value:#x}, port {port:#x}"


def power_registers(lab):
    s5 = lab.rng.choice([1, 2, 4, 6])  # 5 is what this board has
    other = (s5 + 1) % 8
    ops = [(WRITE, CNT, 2, SLP_EN | each << 10) for each in range(8)]
    ops += [(WRITE, CNT, 2, s5 << 10), (WRITE, CNT, 2, other << 10 | SLP_EN), (WRITE, CNT + 1, 1, s5 << 2 | 0x20),
            (WRITE, CNT + 1, 1, s5 << 2), (WRITE, CNT, 1, 0xFF), (WRITE, CNT, 1, s5 << 2 | 0x20), (READ, CNT, 2, 0)]  # fmt: skip
    ops += [(WRITE, CNT, 2, 0xC3FF | SLP_EN | s5 << 10), (WRITE, EVT, 4, ONES)]
    expect_power(lab, f"PM1 control with S5's sleep type {s5}", s5, 0x06, ops)
    value = lab.rng.choice([0x06, 0x03, 0x0A])
    ops = [(WRITE, RESET, 1, each) for each in range(256)] + [(READ, RESET, 1, 0)]
    expect_power(lab, f"every byte to the reset register, whose value is {value:#04x}", s5, value, ops)


def power_guests(lab):
    built_guest = os.path.join(lab.tree, "build/guest")
    runs = [
        ("acpi_poweroff", b"powering off\n", STATUS_OK), ("reset_cf9", b"resetting by port 0xcf9\n", STATUS_RESET),
        ("reset_8042", b"resetting by port 0x64\n", STATUS_RESET),
    ]  # fmt: skip
    for name, text, status in runs:
        run = lab.hv("run", "--boot", "flat", "--no-reboot", "--kernel", os.path.join(built_guest, name + ".bin"), limit=15)
        lab.expect(f"hv run --no-reboot with the guest {name}", text, run.out)
        lab.expect(f"the guest {name}: how hv ended", f"exit status {status}", run.how())
        if status == STATUS_RESET:
            lab.expect_true(f"the guest {name}: what hv says", "that a reset was asked for, and at which RIP",
                            b"reset" in run.err and b"RIP" in run.err, run.err)  # fmt: skip


# --- a distribution's kernel ---

INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
echo "check: word $(busybox sha256sum </word)"
echo "check: cmdline $(busybox sha256sum </proc/cmdline)"
busybox dmesg | busybox grep -e 'BIOS-e820: \\[mem' -e 'ACPI: [A-Z]* 0x' | busybox sed 's/.*\\(BIOS-e820\\|ACPI\\)/check: \\1/'
busybox sed -n 's/^flags.*\\(hypervisor\\).*/check: flag \\1/p' /proc/cpuinfo
echo "check: virtio $(echo /sys/firmware/acpi/tables/APIC)"
echo "check: done"
%s
busybox sleep 1000
"""


def kernel_file():
    cache = os.environ.get("HVLAB_CACHE") or os.path.join(ROOT, "build/cache")
    paths = os.path.join(cache, "cloud/vmlinuz"), os.path.join(cache, "initramfs-cloud.cpio")
    if not all(os.path.exists(path) for path in paths):
        raise CannotRun("no kernel to boot: in the course's directory run `guest/linux/fetch cloud && guest/linux/initramfs cloud`")
    return paths


def initramfs(lab, base, end, secret):
    """BASE, and behind it an archive of our own."""
    import newc

    archive = newc.Archive()
    archive.file("check", (INIT % end).encode(), 0o755)
    archive.file("word", secret)
    path = os.path.join(lab.scratch, "initramfs")
    with open(path, "wb") as out:
        archive.write(out)
    with open(path, "rb") as file:
        mine = file.read()
    with open(base, "rb") as file:
        return write_file(lab, "initramfs", file.read() + mine)


def boot_linux(lab, end, *options):
    """Boots to the script above: (run, its lines). What would make Linux hang, and a machine in a machine with
    it, is proved before."""
    kernel, base = kernel_file()
    table_chain(lab)
    processors(lab)
    power_registers(lab)
    secret = lab.rng.randbytes(64)
    cmdline = f"console=ttyS0 quiet panic=-1 rdinit=/check hvlab={word(lab, 12)}"
    run = lab.hv("run", "--kernel", kernel, "--initrd", initramfs(lab, base, end, secret), "--append", cmdline,
                 "--no-reboot", *options, limit=60, hang_ok=True)  # fmt: skip
    lines = [line.strip() for line in run.out.decode(errors="replace").splitlines()]
    lines = [line.removeprefix("check: ") for line in lines if line.startswith("check: ")]
    tried = f"a Debian kernel with {' '.join(options)}"
    last = run.out.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    lab.expect_true(f"{tried}: user space runs a script", "all of its lines", "done" in lines,
                    f"{run.how()}; the last line of the console: {last[0][-120:]}")  # fmt: skip
    lab.expect(f"{tried}: the initrd's contents (their SHA-256, made by the guest)",
               hashlib.sha256(secret).hexdigest(), hash_line(lines, "word"))  # fmt: skip
    lab.expect(f"{tried}: /proc/cmdline (its SHA-256)", hashlib.sha256(cmdline.encode() + b"\n").hexdigest(),
               hash_line(lines, "cmdline"))  # fmt: skip
    return tried, run, lines


def hash_line(lines, name):
    return next((line.split()[1] for line in lines if line.startswith(name + " ")), "no such line")


def e820_of(lines):
    """The memory map in the kernel's words: [(start, end, type)]."""
    found = []
    for line in lines:
        if line.startswith("BIOS-e820: [mem "):
            inside, _, kind = line.removeprefix("BIOS-e820: [mem ").partition("] ")
            start, _, end = inside.partition("-")
            found.append((int(start, 16), int(end, 16) + 1, {"usable": RAM, "reserved": RESERVED}.get(kind, kind)))
    return found


def linux_shell(lab):
    memory = lab.rng.randrange(140, 400)
    tried, run, lines = boot_linux(lab, "busybox poweroff -f", "--memory", f"{memory}M")
    lab.expect(f"{tried}: the memory map that it saw", map_text(map_of(memory * MIB)), map_text(merged(e820_of(lines))))
    named_tables = {line.split()[1] for line in lines if line.startswith("ACPI: ")}
    lab.expect(f"{tried}: ACPI tables that it found", ["APIC", "DSDT", "FACP", "FACS", "RSDP", "XSDT"], sorted(named_tables))
    lab.expect_true(f"{tried}: /proc/cpuinfo", "the flag hypervisor", "flag hypervisor" in lines, "none")
    lab.expect(f"{tried}: after poweroff", f"exit status {STATUS_OK}", run.how())


def linux_reboot(lab):
    tried, run, _ = boot_linux(lab, "busybox reboot -f", "--boot", "linux")
    lab.expect(f"{tried}: after reboot, with --no-reboot", f"exit status {STATUS_RESET}", run.how())


# --- the hostile guest: here, hostile files and registers ---


def lying_images(lab):
    refusals = (ENOEXEC, ENOTSUP, E2BIG)
    good = Kernel(lab, 0x2400)
    tries = [("a kernel that is as it says", good, 0)]

    def lie(tried, want, change=None, size=0x2400, **fields):
        kernel = Kernel(lab, size, **fields)
        data = kernel.bytes()
        tries.append((tried, change(data) if change else data, want))

    def short(tried, syssize, want):
        kernel = Kernel(lab, 0x2400)
        kernel.syssize = syssize
        tries.append((tried, kernel, want))

    lie("a kernel whose setup_sects leads behind the file's end", ENOEXEC,
        lambda data: data[:0x1F1] + b"\xff" + data[0x1F2:], setup_sects=8)  # fmt: skip
    lie("a kernel cut in the middle", ENOEXEC, lambda data: data[:-0x1000])
    lie("a kernel cut behind its header", ENOEXEC, lambda data: data[:0x300])
    short("a kernel whose syssize is that of the file and 2^28 paragraphs more", 0x10000000 + 0x2400 // 16, ENOEXEC)
    short("a kernel with syssize 0xffffffff", 0xFFFFFFFF, ENOEXEC)
    lie("an alignment of 0", ENOEXEC, kernel_alignment=0)
    lie("an alignment that is no power of two", ENOEXEC, kernel_alignment=0x300000)
    lie("a pref_address at the end of the 64-bit space", ENOEXEC, pref_address=(1 << 64) - 1)
    lie("a pref_address above all RAM", E2BIG, pref_address=64 * GIB)
    lie("an init_size larger than RAM", E2BIG, init_size=0xFFFFFFFF)
    lie("a payload that ends behind the kernel", ENOEXEC, payload_offset=0x2000, payload_length=0x401)
    lie("a payload whose end wraps around", ENOEXEC, payload_offset=0xFFFFFFF0, payload_length=0x20)
    lie("a 32-bit kernel entered just behind its end", ENOEXEC, xloadflags=0, code32_start=MIB + 0x2400)
    lie("a 32-bit kernel entered below itself", ENOEXEC, xloadflags=0, code32_start=0x1000)
    for _ in range(60):
        data = bytearray(Kernel(lab, 0x800).bytes())
        for _ in range(lab.rng.randrange(1, 12)):
            data[lab.rng.randrange(HEADER_START, HEADER_END)] = lab.rng.choice([0, 0xFF, lab.rng.randrange(256)])
        tries.append(("a kernel with random bytes in its header", bytes(data), None))
    seen = cases(lab, "load", [load_case(lab, "linux", kernel, ram=16 * MIB) for _, kernel, _ in tries])
    for (tried, kernel, want), got in zip(tries, seen):
        if want == 0:
            expect_entry(lab, tried, kernel, got, "long mode", 0x200)
        elif want is None and got["rc"] == 0:
            inside = got["rip"] < 16 * MIB
            lab.expect_true(f"{tried}, accepted: RIP", "in the guest's RAM", inside, hexa(got["rip"]))
        else:
            refused(lab, tried, want or refusals, got)


def too_much(lab):
    ram = 16 * MIB
    kernel = Kernel(lab, init_size=2 * MIB)  # it takes 2 MiB to 4 MiB
    room = ram - 4 * MIB
    wide = Kernel(lab, cmdline_size=0xFFFFFFFF)
    low = [Kernel(lab, initrd_addr_max=each) for each in (0, PAGE, MIB + PAGE - 2)]
    tries = [
        ("an initrd that fills what is above the kernel", kernel, bytes(room), None, 4 * MIB),
        ("the same with one byte more", kernel, bytes(room + 1), None, E2BIG),
        ("an initrd larger than RAM", kernel, bytes(ram + 1), None, E2BIG),
        ("an initrd of one page that must end below 2 MiB, exactly", Kernel(lab, initrd_addr_max=2 * MIB - 1),
         bytes(PAGE), None, 2 * MIB - PAGE),
        ("the last page below the kernel, when one byte less may be used",
         Kernel(lab, initrd_addr_max=2 * MIB - 2), bytes(PAGE), None, 2 * MIB - 2 * PAGE),
    ]  # fmt: skip
    tries += [(f"initrd_addr_max {each.fields['initrd_addr_max']:#x}", each, bytes(PAGE), None, E2BIG) for each in low]
    tries += [
        ("a command line of 2,047 characters", kernel, None, word(lab, 2047), 0),
        ("one of 2,048", kernel, None, word(lab, 2048), E2BIG),
        ("one of 200,000, which the kernel says it takes, but the scratch area does not", wide, None, "x" * 200000, E2BIG),
        ("any, for a kernel that takes none", Kernel(lab, cmdline_size=0), None, "x", E2BIG),
        ("none, for a kernel that takes none", Kernel(lab, cmdline_size=0), None, "", 0),
    ]
    args = [load_case(lab, "linux", each, initrd, cmdline, ram) for _, each, initrd, cmdline, _ in tries]
    for (tried, _, initrd, cmdline, want), got in zip(tries, cases(lab, "load", args)):
        if want < 0:
            refused(lab, tried, want, got)
            continue
        page = loaded(lab, tried, got)
        if initrd:
            lab.expect(f"{tried}: ramdisk_image", hexa(want), hexa(field(page, "ramdisk_image")))
            lab.expect(f"{tried}: ramdisk_size", len(initrd), field(page, "ramdisk_size"))
        else:
            text = bytes.fromhex(got["cmdline"]).partition(b"\0")[0]
            lab.expect(f"{tried}: what the guest has", cmdline.encode(), text)


def cpuid_flood(lab):
    """Every leaf many times, with indices and flags that mean nothing; what is hidden is hidden in all."""
    rows = [vendor_leaf(lab.rng.choice([INTEL, AMD])), entry(1)]
    for _ in range(200):
        leaf = lab.rng.choice([*HIDDEN_LEAVES, 1, 7, 6, 0x80000001, 0xB, 0x1F, 0x8000001E, lab.rng.getrandbits(32)])
        rows.append(entry(leaf, lab.rng.choice([0, 1, lab.rng.getrandbits(32)]), lab.rng.getrandbits(3)))
    rng_max = [entry(each, ONES, 7) for each in (ONES, 0x7FFFFFFF)]
    no_leaf_1 = write_file(lab, "short", vendor_leaf(INTEL))
    flood = write_file(lab, "flood", b"".join(rows + rng_max))
    everything = write_file(lab, "everything", offered(INTEL))
    got, all_of_it, short, none, beyond = cases(lab, "cpuid", [
        (flood, 4, 1, 1, 0, 3), (everything, 1, 1, 0, 0, 0), (no_leaf_1, 1, 1, 1, 0, 0), (flood, 0, 1, 1, 0, 0),
        (flood, 4, 1, 1, 0, 4)])  # fmt: skip
    lab.expect("cpuid_for_vcpu() of 204 entries of rubbish", "0", named(got["rc"]))
    data = bytes.fromhex(got["table"])
    for at in range(0, len(data), 40):
        leaf, subleaf, _, *values = struct.unpack_from("<7I", data, at)
        tried = f"a table full of rubbish: an entry of leaf {leaf:#x}.{subleaf:#x}"
        lab.expect_true(tried, "none: the leaf is hidden", leaf not in HIDDEN_LEAVES, "there")
        hidden, _ = SAMPLES.get((leaf, subleaf, "ecx"), ({}, {}))
        for bit, name in hidden.items():
            lab.expect(f"{tried}: ECX bit {bit} ({name})", 0, values[2] >> bit & 1)
        if leaf == 1 and subleaf == 0:
            lab.expect(f"{tried}: ECX bits 31 and 5 (hypervisor, VMX)", (1, 0), (values[2] >> 31, values[2] >> 5 & 1))
    expect_policy(lab, "a processor that has everything", table(all_of_it), 1, 0)
    for tried, each in (("a table without leaf 1", short), ("0 CPUs", none), ("CPU 4 of 0 to 3", beyond)):
        lab.expect(f"cpuid_for_vcpu() of {tried}", named(-errno.EINVAL), named(each["rc"]))


def wild_registers(lab):
    s5, value = lab.rng.choice([0, 3, 5, 7]), lab.rng.choice([0x06, 0x01, 0xFF])
    ops = []
    while len(ops) < 10000:
        port = lab.rng.choice([EVT, EVT + 2, CNT, CNT + 1, TMR, RESET - 1, RESET, RESET, RESET + 1])
        size = lab.rng.choice([1, 1, 2, 4])
        if port in (EVT + 2, CNT, CNT + 1, TMR) and size > 2 or port == CNT + 1 and size > 1:
            continue  # across a window's end: the bus splits those, lab 02
        if port >= RESET - 1 and port + size > RESET + 3:
            continue
        kind = lab.rng.choice([READ, WRITE, WRITE])
        ops.append((kind, port, size, lab.rng.choice([ONES, lab.rng.getrandbits(32)]) & (1 << 8 * size) - 1))
    expect_power(lab, "10,000 random accesses to the power registers", s5, value, ops)
    data = word(lab, 6)
    harmless = [0x0000, 0x00FF, 0x1400, 0x2000, 0x3000, 0xC000 | lab.rng.getrandbits(8)]
    lines = [f"mov ${CNT}, %dx\n mov ${each}, %ax\n out %ax, %dx" for each in harmless]
    lines += [f"mov ${port}, %dx\n mov ${lab.rng.getrandbits(32):#x} | 0x06060606, %eax\n out %eax, %dx\n in %dx, %eax"
              for port in (RESET - 1, TMR, EVT)]  # fmt: skip
    lines += [f"mov ${RESET}, %dx\n mov ${each}, %al\n out %al, %dx" for each in (0x00, 0x02, 0x04, 0xF9)]
    lines += [f"mov ${byte}, %al\n out %al, $0x64" for byte in (0xFF, 0xF1, 0xD4, 0x77)] + ["mov $0, %al\n out %al, $0x60"]
    chars = ", ".join(f"{ord(char):#x}" for char in data)
    end = f"mov $text, %si\n mov $6, %cx\n1: lodsb\n out %al, $0xe9\n dec %cx\n jnz 1b\n"
    off = f"mov ${CNT + 1}, %dx\n mov ${5 << 2 | 0x20}, %al\n out %al, %dx\n2: jmp 2b\ntext: .byte {chars}"
    run = lab.hv("run", "--boot", "flat", "--no-reboot", "--kernel", lab.guest("\n".join(lines) + "\n" + end + off), limit=20)
    tried = "a guest that writes rubbish to the power, reset and keyboard ports, prints, and switches off"
    lab.expect(tried, data.encode(), run.out)
    lab.expect(f"{tried}; then the end", f"exit status {STATUS_OK}", run.how())
