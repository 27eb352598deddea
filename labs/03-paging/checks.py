"""Lab 03's checks: one function for each [[check]] of lab.toml.

What the learner's builder and walker do is compared with walk() below, a second walker that shares nothing
with theirs. Drivers (drivers/*.c) call the functions and report what they saw; enter.c runs guests under KVM, and
fake_kvm.c lets hv see deaths that no guest could be made to die on every host.
"""

import errno
import json
import os
import struct

from grading import CannotRun

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PORT = 0xE9
STATUS_TRIPLE_FAULT = 12
CODE, DATA, TSS = 0x10, 0x18, 0x20  # selectors
HIGH = 0xFFFFFFFF80000000
P, RW, US, PWT, PCD, A, D, PS, G = (1 << bit for bit in range(9))
NX = 1 << 63
ADDRESS = 0x000FFFFFFFFFF000
SCRATCH, SCRATCH_END = 0x80000, 0x9F000  # the loader's own memory, include/hv/machine/layout.h


# --- helpers ---


def cases(lab, driver, tries, *first):
    """Runs a driver with one group of arguments for each of TRIES: what it saw in each."""
    words = [word for numbers in tries for word in numbers]
    seen = lab.driver(driver, *first, *words).record.get("cases", [])
    lab.expect(f"the driver {driver}: cases reported", len(tries), len(seen))
    return seen


def named(code):
    if code < 0 and -code in errno.errorcode:
        name = {"EOPNOTSUPP": "ENOTSUP"}.get(errno.errorcode[-code], errno.errorcode[-code])
        return f"-{name} ({code})"
    return str(code)


def canonical(va):
    return va | 0xFFFF << 48 if va >> 47 & 1 else va


def bits(value, names):
    return "|".join(name for bit, name in names if value & bit) or "none"


# --- a second walker -------------------------------------------------------------------------------

OK, NOT_CANONICAL, NOT_PRESENT, RESERVED, NOT_WRITABLE, NOT_USER, NOT_EXECUTABLE, SMAP, NO_MEMORY = range(9)
RESULTS = ("WALK_OK", "WALK_NOT_CANONICAL", "WALK_NOT_PRESENT", "WALK_RESERVED_BIT", "WALK_NOT_WRITABLE",
           "WALK_NOT_USER", "WALK_NOT_EXECUTABLE", "WALK_SMAP", "WALK_NO_MEMORY")  # fmt: skip
READ, WRITE, EXECUTE = range(3)
ACCESSES = ("read", "write", "fetch")
CR0_BASE, CR0_WP = 0x80000011, 1 << 16
CR4_PSE, CR4_PAE, CR4_LA57, CR4_SMEP, CR4_SMAP = 1 << 4, 1 << 5, 1 << 12, 1 << 20, 1 << 21
EFER_LONG, EFER_NXE = 0x500, 1 << 11
AC = 1 << 18


class Mode:
    """A paging mode: its levels (name, shift, bits of the index, has large pages), root first."""

    def __init__(self, name, levels, width, va_bits, cr4, efer):
        self.name, self.levels, self.width, self.va_bits = name, levels, width, va_bits
        self.cr4, self.efer = cr4, efer


_LOWER = [("PDPT", 30, 9, True), ("PD", 21, 9, True), ("PT", 12, 9, False)]
LEVEL4 = Mode("4-level paging", [("PML4", 39, 9, False), *_LOWER], 8, 48, CR4_PAE, EFER_LONG | EFER_NXE)
LEVEL5 = Mode("5-level paging", [("PML5", 48, 9, False), ("PML4", 39, 9, False), *_LOWER], 8, 57,
              CR4_PAE | CR4_LA57, EFER_LONG | EFER_NXE)  # fmt: skip
PAE = Mode("PAE paging", [("PDPT", 30, 2, False), ("PD", 21, 9, True), ("PT", 12, 9, False)], 8, 32, CR4_PAE, EFER_NXE)
OLD = Mode("32-bit paging", [("PD", 22, 10, False), ("PT", 12, 10, False)], 4, 32, 0, 0)
OLD_PSE = Mode("32-bit paging with CR4.PSE", [("PD", 22, 10, True), ("PT", 12, 10, False)], 4, 32, CR4_PSE, 0)
MODES = (LEVEL4, LEVEL5, PAE, OLD, OLD_PSE)


def reserved(mode, level, entry, leaf, efer):
    """The reserved bits that are set in ENTRY."""
    shift, large = mode.levels[level][1], leaf and level + 1 < len(mode.levels)
    if mode.width == 4:
        return entry & (1 << 21) if large else 0
    if mode is PAE and level == 0:
        return entry & (0x6 | 0x1E0 | 0xFFF << 52)
    mask = 0x7FF << 52 if mode is PAE else 0
    mask |= 0 if efer & EFER_NXE else NX
    mask |= ((1 << shift) - 1) & ~0x1FFF if large else 0
    mask |= PS if shift >= 39 else 0
    return entry & mask


class Walk:
    """What a walk found. steps: [name of the table, address of the entry, entry]."""

    def __init__(self):
        self.result, self.pa, self.size, self.steps = OK, 0, 0, []


def walk(mode, read, cr3, va, efer=None):
    """READ(gpa, width) gives a word, or None where no memory is."""
    found, efer = Walk(), mode.efer if efer is None else efer
    va &= (1 << 64 if mode.va_bits > 32 else 1 << 32) - 1
    if mode.va_bits > 32 and va >> (mode.va_bits - 1) not in (0, (1 << (65 - mode.va_bits)) - 1):
        found.result = NOT_CANONICAL
        return found
    table = cr3 & (0xFFFFFFE0 if mode is PAE else 0xFFFFF000 if mode.width == 4 else ADDRESS)
    for level, (name, shift, index_bits, has_large) in enumerate(mode.levels):
        place = table + (va >> shift) % (1 << index_bits) * mode.width
        entry = read(place, mode.width)
        found.steps.append([name, place, entry or 0])
        if entry is None or not entry & P:
            found.result = NO_MEMORY if entry is None else NOT_PRESENT
            return found
        leaf = level + 1 == len(mode.levels) or (has_large and entry & PS)
        if reserved(mode, level, entry, leaf, efer):
            found.result = RESERVED
            return found
        table = entry & ADDRESS
        if leaf:
            found.size = 1 << shift
            base = entry & ADDRESS & ~(found.size - 1)
            if mode.width == 4 and shift == 22:
                base = entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32
            found.pa = base | va % found.size
            return found


def judge(mode, found, access, user, cr0, cr4, rflags):
    """The rights' objection to a walk that came to its page."""
    if found.result != OK:
        return found.result
    entries = [step[2] for step in found.steps[1 if mode is PAE else 0 :]]
    for_user, writable = (all(entry & bit for entry in entries) for bit in (US, RW))
    executable = not any(entry & NX for entry in entries)
    if user:
        wrong = [(not for_user, NOT_USER), (access == WRITE and not writable, NOT_WRITABLE),
                 (access == EXECUTE and not executable, NOT_EXECUTABLE)]  # fmt: skip
    elif access == EXECUTE:
        wrong = [(not executable or (for_user and cr4 & CR4_SMEP), NOT_EXECUTABLE)]
    else:
        wrong = [(for_user and cr4 & CR4_SMAP and not rflags & AC, SMAP),
                 (access == WRITE and not writable and cr0 & CR0_WP, NOT_WRITABLE)]  # fmt: skip
    return next((result for holds, result in wrong if holds), OK)


def fault_code(result, access, user, cr4, efer):
    if result in (OK, NOT_CANONICAL, NO_MEMORY):
        return 0
    fetch = access == EXECUTE and ((cr4 & CR4_PAE and efer & EFER_NXE) or cr4 & CR4_SMEP)
    return ((result != NOT_PRESENT) | (access == WRITE) << 1 | bool(user) << 2 | (result == RESERVED) << 3
            | bool(fetch) << 4)  # fmt: skip


class Memory:
    """A guest's memory that tables are written into, and the script that writes it for drivers/walk.c."""

    def __init__(self, *regions):
        self.regions, self.bytes = regions or ((0, MIB),), {}
        self.script = [f"ram {gpa} {size}" for gpa, size in self.regions]
        self.wanted = []  # (what was tried, the walk expected, its error code)

    def there(self, gpa, width):
        return any(start <= gpa and gpa + width <= start + size for start, size in self.regions)

    def put(self, gpa, word, width=8):
        self.bytes[gpa, width] = word
        self.script.append(f"put{'' if width == 8 else width} {gpa} {word}")

    def read(self, gpa, width):
        return self.bytes.get((gpa, width), 0) if self.there(gpa, width) else None

    def walk(self, mode, cr3, va, access=READ, user=False, cr0=CR0_BASE, cr4=0, efer=None, rflags=2):
        """Asks for a walk, and keeps what must come of it."""
        efer, cr4 = mode.efer if efer is None else efer, mode.cr4 | cr4
        found = walk(mode, self.read, cr3, va, efer)
        found.result = judge(mode, found, access, user, cr0, cr4, rflags)
        self.script.append(f"mode {cr0} {cr3} {cr4} {efer}")
        self.script.append(f"walk {va} {access} {int(user)} {rflags}")
        who = "user" if user else "supervisor"
        guards = bits(cr4, ((CR4_SMEP, "SMEP"), (CR4_SMAP, "SMAP"))) + (" and RFLAGS.AC" if rflags & AC else "")
        tried = (f"page_walk() of {va:#x} in {mode.name}, CR3 {cr3:#x}, {ACCESSES[access]} by {who} code, "
                 f"CR0.WP {'set' if cr0 & CR0_WP else 'clear'}, guards: {guards}")  # fmt: skip
        self.wanted.append((tried, found, fault_code(found.result, access, user, cr4, efer)))
        return found

    def compare(self, lab):
        seen = lab.driver("walk", stdin="\n".join(self.script) + "\n").record.get("cases", [])
        lab.expect("the driver walk: cases reported", len(self.wanted), len(seen))
        for (tried, found, code), got in zip(self.wanted, seen):
            steps = [f"{name} entry at {place:#x}: {entry:#x}" for name, place, entry in found.steps]
            lab.expect(tried, RESULTS[found.result], result_name(got["result"]), steps)
            lab.expect(f"{tried}: steps", len(found.steps), got["levels"], steps)
            for number, (want, have) in enumerate(zip(found.steps, got["steps"])):
                lab.expect(f"{tried}: step {number}", entry_text(want), entry_text(have), steps)
            if found.result == OK:
                lab.expect(f"{tried}: pa", hex(found.pa), hex(got["pa"]), steps)
                lab.expect(f"{tried}: page_size", found.size, got["size"], steps)
            lab.expect(f"{tried}: the #PF error code", code, got["error"], steps)


def result_name(number):
    return RESULTS[number] if 0 <= number < len(RESULTS) else str(number)


def entry_text(step):
    name, place, entry = step
    return f"{name} entry at {place:#x}: {entry:#x}"


# --- 3.1 and 3.2: the states ---

FLAT = {"base": 0, "limit": 0xFFFFFFFF, "s": 1, "dpl": 0, "present": 1, "db": 1, "l": 0, "g": 1, "unusable": 0}
CR0_NAMES = ((1, "PE"), (2, "MP"), (4, "EM"), (8, "TS"), (0x10, "ET"), (0x20, "NE"), (1 << 16, "WP"), (1 << 18, "AM"),
             (1 << 29, "NW"), (1 << 30, "CD"), (1 << 31, "PG"))  # fmt: skip
CR4_NAMES = ((CR4_PSE, "PSE"), (CR4_PAE, "PAE"), (CR4_LA57, "LA57"), (CR4_SMEP, "SMEP"), (CR4_SMAP, "SMAP"))
EFER_NAMES = ((1, "SCE"), (1 << 8, "LME"), (1 << 10, "LMA"), (1 << 11, "NXE"))


def check_state(lab, mode, code, controls):
    """A mode's function on registers full of rubbish; CONTROLS: what CR0, CR4 and EFER must be."""
    tries = [(mode, 16 * lab.rng.randrange(1, 1 << 16), 4096 * lab.rng.randrange(1, 1 << 16), poison)
             for poison in (0, 0xFF, lab.rng.randrange(1, 255))]  # fmt: skip
    function = "x86_long_mode()" if mode == 64 else "x86_protected_mode()"
    for (_, gdt, cr3, poison), got in zip(tries, cases(lab, "modes", tries)):
        tried = f"{function} on registers full of {poison:#04x}"
        check_segment(lab, f"{tried}: cs", got["cs"], {**FLAT, **code, "selector": CODE, "type": 11})
        for name in ("ds", "es", "fs", "gs", "ss"):
            check_segment(lab, f"{tried}: {name}", got[name], {**FLAT, "selector": DATA, "type": 3})
        check_segment(lab, f"{tried}: tr", got["tr"], {"selector": TSS, "type": 11, "s": 0, "present": 1, "unusable": 0})
        lab.expect(f"{tried}: ldt.unusable", 1, got["ldt"]["unusable"])
        lab.expect(f"{tried}: GDTR", f"base {gdt:#x}, limit 0x2f",
                   f"base {got['gdt_base']:#x}, limit {got['gdt_limit']:#x}")  # fmt: skip
        for name, names in (("cr0", CR0_NAMES), ("cr4", CR4_NAMES), ("efer", EFER_NAMES)):
            want = controls[name]
            lab.expect(f"{tried}: {name}", f"{bits(want, names)} ({want:#x})", f"{bits(got[name], names)} ({got[name]:#x})")
        lab.expect(f"{tried}: cr3", hex(cr3 if mode == 64 else 0), hex(got["cr3"]))
        lab.expect(f"{tried}: what Intel's processor would object to", "nothing", got["objection"] or "nothing")


def check_segment(lab, tried, got, want):
    for field, value in want.items():
        lab.expect(f"{tried}.{field}", value, got[field])


def flat_state(lab):
    check_state(lab, 32, {}, {"cr0": 0x11, "cr4": 0, "efer": 0})


def long_state(lab):
    check_state(lab, 64, {"l": 1, "db": 0}, {"cr0": 0x80010031, "cr4": CR4_PAE, "efer": EFER_LONG | EFER_NXE})


# --- guests in protected and long mode ---


def enter(lab, mode, code, tried, origin, rip=None, gdt=0, tables=0, script=(), ram=4 * MIB, rsp=0x9000, last="HLT"):
    """Runs CODE (assembler text) at physical ORIGIN by drivers/enter.c: what the driver saw. The guest must have
    run until the exit LAST."""
    with open(lab.guest(code, origin=rip if rip is not None else origin, bits=mode), "rb") as file:
        data = file.read()
    lines = [f"put {origin} {data.hex()}", *script]
    got = lab.driver("enter", mode, ram, origin if rip is None else rip, rsp, gdt, tables,
                     stdin="\n".join(lines) + "\n").record  # fmt: skip
    if got.get("stopped_at") == "/dev/kvm":
        raise CannotRun(f"/dev/kvm cannot be opened: {os.strerror(-got['rc'])}")
    if "stopped_at" in got:
        lab.fail(tried, "a guest that runs", f"{got['stopped_at']} gave {named(got['rc'])}")
    if got["rc"] == -errno.EINTR:
        lab.fail(f"{tried}: its last exit", last, "none: it was still running after 3 s", exit_lines(got))
    lab.expect(f"{tried}: KVM_RUN", "0", named(got["rc"]), exit_lines(got))
    end = got["exits"][-1][0] if got["exits"] else "none"
    lab.expect(f"{tried}: its last exit", last, end, exit_lines(got))
    return got


def exit_lines(got):
    lines = [f"{name} at {place:#x}: {value:#x}" if name in ("IO", "MMIO") else name for name, place, value in got["exits"]]
    return [*lines, f"then RIP was {got['rip']:#x}"] if "rip" in got else lines


def outputs(got):
    return [hex(value) for name, _, value in got["exits"] if name == "IO"]


def protected_runs(lab):
    """Every data segment is used, above 1 MiB, and memory where no RAM is."""
    words = [lab.rng.getrandbits(32) for _ in range(3)]
    place, hole = 4 * lab.rng.randrange(0x90000, 0xE0000), 0xD0000000 + 4 * lab.rng.randrange(1 << 20)
    code = f"""
        movl ${words[0]}, {place}
        mov %es:{place}, %eax
        out %eax, ${PORT}
        push ${words[1]}
        mov (%esp), %eax
        out %eax, ${PORT}
        mov ${words[2]}, %ebx
        mov %ebx, %fs:{place + 4}
        mov %gs:{place + 4}, %eax
        out %eax, ${PORT}
        movb $0x5a, {hole}
        hlt"""
    tried = "a 32-bit guest that writes and reads through DS, ES, SS, FS and GS"
    got = enter(lab, 32, code, tried, origin=0x100000 + 16 * lab.rng.randrange(1 << 12))
    lab.expect(tried, [hex(word) for word in words], outputs(got), exit_lines(got))
    lab.expect(f"a write to {hole:#x}, where no RAM is", [["MMIO", hole, 0x5A]],
               [each for each in got["exits"] if each[0] == "MMIO"], exit_lines(got))  # fmt: skip


def long_runs(lab):
    """64-bit arithmetic, an address relative to RIP, and a high virtual address, on the driver's page tables."""
    word, low = lab.rng.getrandbits(63) | 1 << 62, lab.rng.getrandbits(31)
    origin = 0x10000 + 16 * lab.rng.randrange(1 << 12)
    code = f"""
        movabs ${word}, %rax
        lea 1f(%rip), %rbx
        mov %rbx, %rcx
        shr $32, %rcx
        mov %rax, %rdx
        shr $32, %rdx
        push %rax
        pop %rsi
        mov {low:#x}f(%rip), %eax
        out %eax, ${PORT}
        hlt
    1:  .long {low}""".replace(f"{low:#x}f", "1f")
    tried = "a 64-bit guest at a high virtual address"
    got = enter(lab, 64, code, tried, origin=origin, rip=HIGH + origin)
    lab.expect(f"{tried}: it reads a word beside its code", [hex(low)], outputs(got), exit_lines(got))
    lab.expect(f"{tried}: RCX, the upper half of its address", hex(0xFFFFFFFF), hex(got["rcx"]))
    lab.expect(f"{tried}: RDX, the upper half of a 64-bit number", hex(word >> 32), hex(got["rdx"]))
    lab.expect(f"{tried}: RSI, a number that went over the stack", hex(word), hex(got["rsi"]))


# --- 3.3 x86_write_gdt() ---


def unpack(word):
    """The fields of a descriptor."""
    limit = word & 0xFFFF | word >> 32 & 0xF0000
    g = word >> 55 & 1
    return {"base": word >> 16 & 0xFFFFFF | word >> 32 & 0xFF000000, "limit": limit << 12 | 0xFFF if g else limit,
            "type": word >> 40 & 15, "s": word >> 44 & 1, "dpl": word >> 45 & 3, "present": word >> 47 & 1,
            "avl": word >> 52 & 1, "l": word >> 53 & 1, "db": word >> 54 & 1, "g": g}  # fmt: skip


def gdt_bytes(lab):
    common = {"base": 0, "dpl": 0, "present": 1, "avl": 0}
    data = {**common, "limit": 0xFFFFFFFF, "s": 1, "type": 3, "l": 0, "db": 1, "g": 1}
    task = {**common, "limit": 0x67, "s": 0, "type": 11, "l": 0, "db": 0, "g": 0}
    tries = [(mode, 16 * lab.rng.randrange(1, 0xFF00)) for mode in (32, 64)] + [(64, MIB - 16)]
    *good, bad = cases(lab, "gdt", tries)
    for (mode, gdt), got in zip(tries, good):
        tried = f"x86_write_gdt() at {gdt:#x} for {'long' if mode == 64 else 'protected'} mode"
        lab.expect(tried, "0", named(got["rc"]))
        words = struct.unpack("<6Q", bytes.fromhex(got["bytes"]))
        code = {**data, "type": 11, **({"l": 1, "db": 0} if mode == 64 else {})}
        for selector, want in ((CODE, code), (DATA, data), (TSS, task)):
            check_segment(lab, f"{tried}: descriptor {selector:#x} ({words[selector // 8]:#018x})",
                          unpack(words[selector // 8]), want)  # fmt: skip
        for number in (0, 1, 5):
            lab.expect(f"{tried}: entry {number}, at offset {8 * number:#x}", "0x0", hex(words[number]))
        lab.expect(f"{tried}: bytes changed beside the table", 0, got["around"])
    tried = "x86_write_gdt() at the last 16 bytes of RAM, where only a part of it fits"
    lab.expect(tried, f"-EFAULT ({-errno.EFAULT})", named(bad["rc"]))
    lab.expect(f"{tried}: bytes changed", 0, bad["around"])


def gdt_reload(lab):
    """The guest loads every selector it was started with, from the table, and goes on as before."""
    word = lab.rng.getrandbits(31)
    gdt, place = 16 * lab.rng.randrange(0x2000, 0x3000), 4 * lab.rng.randrange(0x90000, 0xE0000)
    for mode in (32, 64):
        origin = 0x40000 + 16 * lab.rng.randrange(1 << 12)
        jump = (f"push ${CODE}\n lea 1f(%rip), %rax\n push %rax\n lretq" if mode == 64 else f"ljmp ${CODE}, $1f")
        reach = 0x1000 * lab.rng.randrange(0x90, 0xE0) if mode == 64 else place
        loads = "\n".join(f"mov %ax, %{name}" for name in ("ds", "es", "ss", "fs", "gs"))
        wide = "mov $1, %rbx\n shl $40, %rbx" if mode == 64 else "mov $1, %ebx"
        code = f"""
            mov ${DATA}, %eax
            {loads}
            movl ${word}, {reach}
            {jump}
        1:  mov {reach}, %eax
            out %eax, ${PORT}
            {wide}
            hlt"""
        tried = f"a {mode}-bit guest that loads DS, ES, SS, FS, GS and CS again, with the selectors it has"
        got = enter(lab, mode, code, tried, origin=origin, gdt=gdt)
        lab.expect(f"{tried}: then it reads a word", [hex(word)], outputs(got), exit_lines(got))
        lab.expect(f"{tried}: and still computes with {mode} bits: RBX", hex(1 << 40 if mode == 64 else 1), hex(got["rbx"]))


# --- 3.4 and 3.5: the builder ---


class Builder:
    """Cases for drivers/build.c, and what came of them."""

    def __init__(self, start=0x10000, pages=24, ram=MIB):
        self.start, self.end = start, start + pages * 4096
        self.lines, self.tried = [f"new {ram} {self.start} {self.end}"], ["page_builder_init()"]
        self.tables, self.codes, self.next, self.root = {}, [], 0, 0

    def map(self, va, pa, size=4096, flags=0):
        self.lines.append(f"map {va} {pa} {size} {flags}")
        self.tried.append(f"page_map() of {va:#x} to {pa:#x}, {size:#x} bytes, flags "
                          + bits(flags, ((RW, "WRITE"), (US, "USER"), (NX, "NO_EXECUTE"))))  # fmt: skip

    def plant(self, va, level, entry):
        self.lines.append(f"plant {va} {level} {entry}")
        self.tried.append(f"an entry {entry:#x} put into the table of level {level} for {va:#x}")

    def mark(self, va, level, extra):
        self.lines.append(f"mark {va} {level} {extra}")
        self.tried.append(f"bits {extra:#x} set in the entry of level {level} for {va:#x}")

    def read(self, gpa, width):
        return self.tables.get(gpa, 0) if self.start <= gpa < self.end else None

    def walk(self, va):
        return walk(LEVEL4, self.read, self.root, va)

    def path(self, va):
        return [entry_text(step) for step in self.walk(va).steps]


def build(lab, *builders):
    """Runs the builders' scripts, in one run of the driver."""
    script = "\n".join("\n".join([*each.lines, "end"]) for each in builders)
    seen = lab.driver("build", stdin=script + "\n").record.get("cases", [])
    lab.expect("the driver build: cases reported", len(builders), len(seen))
    for each, got in zip(builders, seen):
        each.tables = {place: word for place, word in got["words"]}
        each.codes, each.next, each.root = got["codes"], got["next"], got["root"]
        lab.expect(f"{each.tried[-1]}: bytes changed outside of the tables that were taken", 0, got["outside"])


def expect_codes(lab, builder, codes):
    for tried, want, got in zip(builder.tried, [0, *codes], builder.codes):
        lab.expect(tried, named(want), named(got))


def expect_mapped(lab, builder, tried, va, pa, flags, size=4096):
    """VA's page begins at PA, is SIZE large, and has just FLAGS in its last entry and all rights on the way."""
    found, path = builder.walk(va), builder.path(va)
    lab.expect(f"{tried}: the walk of {va:#x}", RESULTS[OK], RESULTS[found.result], path)
    lab.expect(f"{tried}: {va:#x} leads to", hex(pa), hex(found.pa), path)
    lab.expect(f"{tried}: {va:#x} lies in a page of", size, found.size, path)
    for name, _, entry in found.steps[:-1]:
        lab.expect(f"{tried}: rights of the {name}'s entry on the way", "P RW US", right_names(entry), path)
    last = found.steps[-1]
    lab.expect(f"{tried}: rights of the {last[0]}'s entry, the last one", right_names(P | flags), right_names(last[2]), path)


def right_names(entry):
    return " ".join(name for bit, name in ((P, "P"), (RW, "RW"), (US, "US"), (NX, "XD")) if entry & bit)


def expect_unmapped(lab, builder, tried, va):
    lab.expect(f"{tried}: the walk of {va:#x}, which was not to be mapped", RESULTS[NOT_PRESENT],
               RESULTS[builder.walk(va).result], builder.path(va))  # fmt: skip


def random_page(lab):
    """A virtual page with different indices in all tables, in one of the two halves."""
    first, *others = lab.rng.sample(range(1, 511), 4)
    first = lab.rng.choice((first % 255 + 1, 256 + first % 255))
    return canonical(sum(index << shift for index, shift in zip((first, *others), (39, 30, 21, 12))))


FLAGS = (0, RW, US, NX, RW | US, RW | NX, US | NX, RW | US | NX)


def one_page(lab):
    builders, wanted = [], []
    for flags in lab.rng.sample(FLAGS, 5):
        va, pa = random_page(lab), 4096 * lab.rng.randrange(1, 1 << 40)
        builder = Builder(start=0x1000 * lab.rng.randrange(2, 64))
        builder.map(va, pa, 4096, flags)
        builders.append(builder)
        wanted.append((va, pa, flags))
    # the ends of both halves, where the indices are all 0 or all 511
    for va in (0, 0x7FFFFFFFF000, 0xFFFF800000000000, 0xFFFFFFFFFFFFF000):
        builder = Builder()
        builder.map(va, 0x5000, 4096, RW)
        builders.append(builder)
        wanted.append((va, 0x5000, RW))
    build(lab, *builders)
    for builder, (va, pa, flags) in zip(builders, wanted):
        tried = builder.tried[1]
        expect_codes(lab, builder, [0])
        expect_mapped(lab, builder, tried, va, pa, flags)
        lab.expect(f"{tried}: tables taken, the PML4 with them", 4, (builder.next - builder.start) // 4096)
        lab.expect(f"{tried}: entries in all tables", 4, len(builder.tables), builder.path(va))


def page_neighbours(lab):
    """Pages one index apart at each level share what is above it, and nothing replaces what is there."""
    va = 0x123456789000 & 0x7FFFFFFFF000 | lab.rng.randrange(1, 100) << 39 | 1 << 30 | 1 << 21 | 1 << 12
    shared, wanted = Builder(), [va, *(va ^ 2 << shift for shift in (12, 21, 30, 39))]
    for number, each in enumerate(wanted):
        shared.map(each, 0x100000 + 0x1000 * number, 4096, RW)
    again = Builder()
    again.map(va, 0x200000, 4096, RW)
    again.map(va, 0x300000, 4096, US)  # refused, and the page stays
    again.map(va, 0x200000, 4096, RW)  # the same mapping is one, too
    large = Builder()
    large.map(va, 0x200000, 4096, RW)
    covered = va ^ 2 << 21
    large.plant(covered, 2, 0x400000 | P | RW | PS)
    large.map(covered, 0x300000, 4096, RW)  # the 2 MiB page covers it
    covers = va ^ 2 << 30
    large.plant(covers, 3, 0x40000000 | P | RW | PS)
    large.map(covers, 0x300000, 4096, RW)
    small = Builder(pages=3)
    small.map(va, 0x200000)
    taken = Builder()
    taken.map(va, 0x200000)
    root = taken.start + 8 * (va >> 39 & 511)
    taken.plant(va, 4, 0x40000000 | P | RW)  # the PDPT is nowhere
    taken.map(va, 0x300000)
    used = Builder()
    used.map(va, 0x200000)
    for level in (4, 3, 2):  # a processor that has used the tables leaves its marks
        used.mark(va, level, A | 1 << 52 | 1 << 9)
    used.map(va ^ 2 << 12, 0x300000)
    used.tried[-1] += ", after the bits A, 9 and 52 were set in the entries on the way"
    build(lab, shared, again, large, small, taken, used)
    expect_codes(lab, shared, [0] * 5)
    for number, each in enumerate(wanted):
        expect_mapped(lab, shared, f"five pages, neighbours at each level: {shared.tried[1 + number]}", each,
                      0x100000 + 0x1000 * number, RW)  # fmt: skip
    lab.expect("five pages, neighbours at each level: tables taken", 1 + 3 + 0 + 1 + 2 + 3, (shared.next - shared.start) // 4096)
    expect_codes(lab, again, [0, -errno.EEXIST, -errno.EEXIST])
    expect_mapped(lab, again, "a page is mapped, then mapped again (refused)", va, 0x200000, RW)
    expect_codes(lab, large, [0, 0, -errno.EEXIST, 0, -errno.EEXIST])
    for place, size in ((covered, 2 * MIB), (covers, GIB)):
        found = large.walk(place)
        lab.expect(f"a small page is mapped where a page of {size:#x} bytes is (refused): the large one", size, found.size,
                   large.path(place))  # fmt: skip
    expect_codes(lab, small, [-errno.ENOSPC])
    expect_codes(lab, used, [0] * 5)
    found = used.walk(va ^ 2 << 12)
    lab.expect("a page mapped by tables whose entries have the bits A, 9 and 52 set: the walk of it", hex(0x300000),
               hex(found.pa), used.path(va ^ 2 << 12))  # fmt: skip
    expect_codes(lab, taken, [0, 0, -errno.EFAULT])
    lab.expect("a table that lies where no memory is: its entry", hex(0x40000000 | P | RW), hex(taken.tables.get(root, 0)))


def pieces(va, pa, size):
    """The pages that page_map() must use."""
    while size:
        step = 2 * MIB if (va | pa) % (2 * MIB) == 0 and size >= 2 * MIB else 4096
        yield va, pa, step
        va, pa, size = va + step, pa + step, size - step


def large_pages(lab):
    up = lab.rng.randrange(1, 20) * 4096
    base, phys = 0xFFFFFFFF00000000 + 2 * MIB * lab.rng.randrange(1, 200), 2 * MIB * lab.rng.randrange(1, 1000)
    tries = [
        ("both addresses aligned to 2 MiB", base, phys, 4 * MIB),
        ("small pages before and after the large ones", base - up, phys - up, 2 * MIB + 2 * up),
        ("addresses that are never aligned together", base, phys + 4096, 2 * MIB + 4096),
        ("less than 2 MiB, aligned", base, phys, 2 * MIB - 4096),
        ("a range over the end of a PD's GiB", (base & ~(GIB - 1)) - 2 * MIB, phys, 4 * MIB),
        ("a range over the end of a PDPT's 512 GiB", 512 * GIB - 4 * 4096, phys - 4 * 4096, 8 * 4096),
        ("the last bytes of the lower half", 0x800000000000 - 2 * MIB, phys, 2 * MIB),
        ("the last bytes of all", 0x10000000000000000 - 4096, phys, 4096),
        ("nothing", base, phys, 0),
    ]
    builders = []
    for _, va, pa, size in tries:
        builders.append(Builder(pages=16))  # one that runs away ends with ENOSPC before its report is too long
        builders[-1].map(va, pa, size, lab.rng.choice(FLAGS))
    build(lab, *builders)
    for builder, (what, va, pa, size) in zip(builders, tries):
        tried = f"{builder.tried[1]} ({what})"
        flags = int(builder.lines[1].split()[-1])
        lab.expect(tried, "0", named(builder.codes[1]))
        wanted = list(pieces(va, pa, size))
        for page, place, step in wanted:
            expect_mapped(lab, builder, tried, page, place, flags, step)
        leaves = sum(1 for word in builder.tables.values() if word & ADDRESS >= builder.end or word & ADDRESS < builder.start)
        lab.expect(f"{tried}: pages mapped in all", len(wanted), leaves)
        for beside in (va - 4096, va + size):
            if 0 <= beside < 1 << 64 and not 1 << 47 <= beside < (1 << 64) - (1 << 47) and size:
                expect_unmapped(lab, builder, tried, beside)


def map_refused(lab):
    va, pa = 0x400000, 0x600000
    odd = lab.rng.randrange(1, 4096)
    tries = [
        ("a virtual address inside a page", va + odd, pa, 4096, RW), ("a physical address inside a page", va, pa + odd, 4096, RW),
        ("a size that ends inside a page", va, pa, 4096 + odd, RW), ("the flag P", va, pa, 4096, P),
        ("the flag PS", va, pa, 4096, PS), ("a flag in the address", va, pa, 4096, 1 << 40),
        ("a virtual address that is not canonical", 1 << 47, pa, 4096, RW),
        ("a virtual address that is not canonical", 0xFFFF7FFFFFFFF000, pa, 4096, RW),
        ("a range that leaves the lower half", 0x7FFFFFFFF000, pa, 8192, RW),
        ("a range that wraps around", 0xFFFFFFFFFFFFF000, pa, 8192, RW),
        ("a range from one half into the other", 0x7FFFFFE00000, 0, 0xFFFF000000400000, RW),
        ("physical addresses from 2^52 on", va, 1 << 52, 4096, RW),
        ("a range that crosses 2^52", va, (1 << 52) - 4096, 8192, RW),
        ("physical addresses that wrap around", va, 0xFFFFFFFFFFFFF000, 8192, RW),
    ]  # fmt: skip
    builders = []
    for _, *numbers in tries:
        builders.append(Builder())
        builders[-1].map(*numbers)
    edge = Builder()
    edge.map(va, (1 << 52) - 4096)
    build(lab, *builders, edge)
    for builder, (what, *_) in zip(builders, tries):
        tried = f"{builder.tried[1]} ({what})"
        lab.expect(tried, f"-EINVAL ({-errno.EINVAL})", named(builder.codes[1]))
        lab.expect(f"{tried}: entries made", 0, len(builder.tables))
    expect_codes(lab, edge, [0])


def tables_run(lab):
    """Code in small pages, far up; the same memory is seen through a small and through a large page."""
    word = lab.rng.getrandbits(31)
    code_va = random_page(lab)
    small, large = random_page(lab), random_page(lab) & ~(2 * MIB - 1)
    place = 2 * MIB + 4096 * lab.rng.randrange(1, 500)
    tables = 0x20000
    code = f"""
        movabs ${small + 8}, %rsi
        movl ${word}, (%rsi)
        movabs ${large + place + 8 - 2 * MIB}, %rdi
        mov (%rdi), %eax
        out %eax, ${PORT}
        movl ${word ^ 0x5A5A5A5A}, 4(%rdi)
        mov 4(%rsi), %eax
        out %eax, ${PORT}
        call 1f
        hlt
        .skip 4096
    1:  mov 8(%rdi), %eax
        push %rax
        pop %rbx
        ret"""
    script = [f"map {code_va} {0x8000} {0x3000} 0", f"map {small} {place} 4096 {RW | NX}",
              f"map {large} {2 * MIB} {2 * MIB} {RW | NX}", f"map {0x400000} {0x7000} 4096 {RW | NX}",
              f"put {place + 16} {struct.pack('<I', word ^ 0xFFFF).hex()}"]  # fmt: skip
    tried = "a guest on page_map()'s tables: code in small pages, data seen through a small and a large one"
    got = enter(lab, 64, code, tried, origin=0x8000, rip=code_va, tables=tables, script=script, rsp=0x401000)
    lab.expect(tried, [hex(word), hex(word ^ 0x5A5A5A5A)], outputs(got), exit_lines(got))
    lab.expect(f"{tried}: RBX, read by a function in its second page", hex(word ^ 0xFFFF), hex(got["rbx"]))


# --- 3.6 and 3.7: the walker ---

IGNORED = PWT | PCD | A | D | G | 7 << 9  # bits that no walk may trip over


class RandomTables:
    """Tables of MODE with random pages in them, of every size and in every state."""

    def __init__(self, lab, mode, memory, first=0x10000):
        self.lab, self.mode, self.memory, self.rng = lab, mode, memory, lab.rng
        self.free = first
        self.cr3 = self.table() | (lab.rng.choice((0, PWT | PCD)) if mode is not PAE else 0)
        self.places = {}  # (level, address above it) -> table

    def table(self):
        self.free += 4096
        return self.free - 4096

    def address(self):
        rng, mode = self.rng, self.mode
        return rng.getrandbits(32) if mode.va_bits == 32 else sign_extend(rng.getrandbits(mode.va_bits), mode.va_bits)

    def decoration(self, level):
        if self.mode is PAE and level == 0:
            return self.rng.choice((0, PWT | PCD)) | self.rng.getrandbits(3) << 9
        extra = self.rng.getrandbits(64) & IGNORED
        if self.mode.width == 8 and self.mode is not PAE:
            extra |= self.rng.getrandbits(11) << 52
        return extra

    def entry(self, level, leaf):
        """An entry's bits beside its address: right for its level."""
        name, _, _, has_large = self.mode.levels[level]
        rights = 0 if self.mode is PAE and level == 0 else self.rng.choice((RW, US, RW | US, 0))
        bits_ = P | rights | self.decoration(level)
        if name == "PT":
            return bits_ | self.rng.choice((0, PS))  # there PS is PAT
        if leaf:
            return bits_ | PS | self.rng.choice((0, 1 << 12))  # and here bit 12
        if not has_large and self.mode.width == 4:
            return bits_ | self.rng.choice((0, PS))  # without PSE the bit means nothing
        return bits_

    def page(self, shift):
        if self.mode.width == 4 and shift == 22:
            return self.rng.getrandbits(10) << 22 | self.rng.getrandbits(8) << 13
        wide = 40 if self.mode.width == 8 else 20
        return self.rng.getrandbits(wide) << 12 & ~((1 << shift) - 1)

    def add(self, va, depth=None, missing=False):
        """Maps VA by an entry in level DEPTH, or leaves that one not present."""
        mode, table = self.mode, self.cr3 & ~0xFFF
        depth = len(mode.levels) - 1 if depth is None else depth
        for level in range(depth + 1):
            _, shift, index_bits, _ = mode.levels[level]
            place = table + (va >> shift) % (1 << index_bits) * mode.width
            if level == depth:
                word = self.page(shift) | self.entry(level, True) if level + 1 == len(mode.levels) or not missing else 0
                word = word & ~P if missing else word
                self.memory.put(place, word, mode.width)
                return
            word = self.memory.read(place, mode.width)
            if word & P and level < depth and not (mode.levels[level][3] and word & PS):
                table = word & ADDRESS
                continue
            table = self.table()
            self.memory.put(place, table | self.entry(level, False), mode.width)

    def depths(self):
        """Levels that can hold a page."""
        return [level for level, (name, _, _, large) in enumerate(self.mode.levels) if large or name == "PT"]


def sign_extend(va, width):
    return va | ((1 << 64) - (1 << width)) if va >> (width - 1) & 1 else va


def ask_random(lab, memory, mode, first, count):
    tables = RandomTables(lab, mode, memory, first)
    addresses = []
    for number in range(count):
        va = tables.address()
        tables.add(va, tables.depths()[number % len(tables.depths())], missing=number % 4 == 3)
        addresses.append(va)
    for level in range(len(mode.levels)):
        va = tables.address()
        tables.add(va, level, missing=True)
        addresses.append(va)
    for va in addresses:
        memory.walk(mode, tables.cr3, va)
    for va in addresses[:4]:  # one page further, and in the same page
        memory.walk(mode, tables.cr3, (va ^ 0x1000) & ((1 << 64) - 1))
        memory.walk(mode, tables.cr3, va ^ 0xABC)
    return tables, addresses


def walk_found(lab):
    memory = Memory()
    tables, addresses = ask_random(lab, memory, LEVEL4, 0x10000, 16)
    for va in addresses[:2]:  # the bits above the 48 must be copies of bit 47
        for flip in (1 << 63, 1 << 48, 0xFFFF << 48):
            memory.walk(LEVEL4, tables.cr3, va ^ flip)
    for va in (0, 0x7FFFFFFFFFFF, 0x800000000000, 0xFFFF7FFFFFFFFFFF, 0xFFFF800000000000, (1 << 64) - 1):
        memory.walk(LEVEL4, tables.cr3, va)
    memory.compare(lab)


def walk_modes(lab):
    memory = Memory((0, 4 * MIB))
    for number, mode in enumerate((LEVEL5, PAE, OLD, OLD_PSE)):
        tables, addresses = ask_random(lab, memory, mode, 0x10000 + number * 0x80000, 10)
        if mode.va_bits == 32:  # what is above does not count
            memory.walk(mode, tables.cr3, addresses[0] | lab.rng.getrandbits(31) << 32)
    memory.walk(LEVEL5, 0x10000, 1 << 56)
    memory.walk(LEVEL5, 0x10000, 0xFF00000000000000)
    # PAE's root has four entries and is aligned to 32 bytes only
    root = 0x300000 + 32 * lab.rng.randrange(1, 100)
    for index in range(4):
        memory.put(root + 8 * index, 0x310000 | P)
    memory.put(0x310000, 0x7F400000 | P | PS)
    for index in range(4):
        memory.walk(PAE, root, index << 30 | lab.rng.getrandbits(21))
    memory.compare(lab)


def rights_tables(memory, mode, leaf_level, entries):
    """One page at virtual 0x3000 (or in the large page of 0), whose entries have the bits ENTRIES, root first."""
    table = 0x10000
    for level, rights in enumerate(entries):
        index = (0x3000 >> mode.levels[level][1]) % (1 << mode.levels[level][2])
        last = level == leaf_level
        address = 0 if last and level + 1 < len(mode.levels) else 0x80000 if last else table + 0x1000
        size_bit = PS if last and level + 1 < len(mode.levels) else 0
        keep = 0 if mode is PAE and level == 0 else rights
        memory.put(table + index * mode.width, address | P | size_bit | keep, mode.width)
        table += 0x1000


def ask_rights(lab, memory, mode, entries, level, accesses, **guards):
    rights_tables(memory, mode, level, entries)
    for access in accesses:
        for user in (False, True):
            memory.walk(mode, 0x10000, 0x3123, access, user, **guards)


def walk_rights(lab):
    memory = Memory()
    for mode in (LEVEL4, LEVEL5, PAE, OLD):
        count = len(mode.levels)
        full, takes = [RW | US] * count, (~RW, ~US) + ((NX,) if mode.width == 8 else ())
        ask_rights(lab, memory, mode, full, count - 1, (READ, WRITE, EXECUTE), cr0=CR0_BASE | CR0_WP)
        for level in range(count):  # one entry is stricter than all others
            for take in takes:
                entries = list(full)
                entries[level] = entries[level] | NX if take == NX else entries[level] & take
                ask_rights(lab, memory, mode, entries, count - 1, (READ, WRITE, EXECUTE), cr0=CR0_BASE | CR0_WP)
        for _ in range(6):
            entries = [lab.rng.choice((RW | US, RW, US, 0)) | (lab.rng.choice((0, 0, NX)) if mode.width == 8 else 0)
                       for _ in range(count)]  # fmt: skip
            ask_rights(lab, memory, mode, entries, count - 1, (READ, WRITE, EXECUTE), cr0=CR0_BASE | CR0_WP)
    for entries in ([RW | US, RW | US, US], [RW | US, RW | US, RW | US | NX], [US, RW | US, RW | US]):  # a large page's
        ask_rights(lab, memory, LEVEL4, entries, 2, (READ, WRITE, EXECUTE), cr0=CR0_BASE | CR0_WP)
    memory.compare(lab)


def walk_guards(lab):
    memory = Memory()
    for mode in (LEVEL4, PAE, OLD):
        count = len(mode.levels)
        for rights in (RW | US, RW, US, 0):
            for cr0 in (CR0_BASE, CR0_BASE | CR0_WP):
                for cr4 in (0, CR4_SMEP, CR4_SMAP, CR4_SMEP | CR4_SMAP):
                    for rflags in (2, 2 | AC):
                        entries = [RW | US] * (count - 1) + [rights]
                        ask_rights(lab, memory, mode, entries, count - 1, (READ, WRITE, EXECUTE),
                                   cr0=cr0, cr4=cr4, rflags=rflags)  # fmt: skip
    memory.compare(lab)


# --- 3.8 and 3.9: ELF ---

PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_GNU_STACK = 1, 2, 4, 0x6474E551
PF_X, PF_W, PF_R = 1, 2, 4
EHDR, PHDR = 64, 56


class Segment:
    def __init__(self, pa, data=b"", memsz=None, va=None, flags=PF_R | PF_W | PF_X, kind=PT_LOAD, offset=None, filesz=None):
        self.pa, self.va, self.data, self.flags, self.kind = pa, pa if va is None else va, data, flags, kind
        self.filesz = len(data) if filesz is None else filesz
        self.memsz = self.filesz if memsz is None else memsz
        self.offset = offset


def elf(entry, *segments, tail=b"", **header):
    """The bytes of an ELF64 file; HEADER changes fields of its header."""
    fields = {"type": 2, "machine": 62, "phoff": EHDR, "phentsize": PHDR, "phnum": len(segments), "klass": 2, "data": 1}
    fields.update(header)
    at, table, body = EHDR + PHDR * len(segments), b"", b""
    for each in segments:
        offset = at + len(body) if each.offset is None else each.offset
        body += each.data
        table += struct.pack("<IIQQQQQQ", each.kind, each.flags, offset, each.va, each.pa, each.filesz, each.memsz, 4096)
    ident = b"\x7fELF" + bytes([fields["klass"], fields["data"], 1]) + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", fields["type"], fields["machine"], 1, entry, fields["phoff"], 0, 0, EHDR,
                       fields["phentsize"], fields["phnum"], 0, 0, 0)  # fmt: skip
    return ident + head + table + body + tail


def files(lab, contents):
    names = []
    for number, data in enumerate(contents):
        names.append(os.path.join(lab.scratch, f"file{number}.elf"))
        with open(names[-1], "wb") as file:
            file.write(data)
    return names


def text(lab, length):
    """Bytes that are neither 0 nor the drivers' 0xa5."""
    return bytes(lab.rng.randrange(1, 0xA0) for _ in range(length))


def load(lab, contents, looks=(), ram=4 * MIB):
    """boot_load() of each file: what drivers/load.c saw."""
    words = ["look", *(word for look in looks for word in look)] if looks else []
    seen = lab.driver("load", ram, *files(lab, contents), *words).record.get("cases", [])
    lab.expect("the driver load: cases reported", len(contents), len(seen))
    return seen


def lies(lab):
    """[(what is wrong, segments, number of the wrong one)]: program headers that no file may have."""
    data = text(lab, 64)
    good = Segment(0x100000, data, memsz=0x1000)
    top, size = (1 << 64) - 0x1000, 0x200 + lab.rng.randrange(0x100)
    return [
        ("bytes beyond the end of the file", [good, Segment(0x200000, offset=150, filesz=size, memsz=0x1000)], 1),
        ("one byte beyond the end of the file", [good, Segment(0x200000, offset=EHDR + 2 * PHDR, filesz=65, memsz=0x1000)], 1),
        ("an offset beyond the end of the file", [Segment(0x200000, offset=1 << 40, filesz=16)], 0),
        ("offset + size that wrap around", [Segment(0x200000, offset=(1 << 64) - 16, filesz=32, memsz=64)], 0),
        ("a size of 2^64 - 1 bytes", [good, good, Segment(0x200000, offset=100, filesz=(1 << 64) - 1, memsz=(1 << 64) - 1)], 2),
        ("one byte more in the file than in memory", [good, Segment(0x200000, data, memsz=63)], 1),
        ("bytes in the file, and none in memory", [good, Segment(0x200000, data, memsz=0)], 1),
        ("physical addresses that wrap around", [Segment(top, data, memsz=0x2000, va=0x200000)], 0),
        ("a memory size of 2^64 - 1", [good, Segment(0x200000, data, memsz=(1 << 64) - 1, va=0)], 1),
        ("virtual addresses that wrap around", [good, Segment(0x200000, data, memsz=0x1001, va=top)], 1),
        ("a note beyond the end of the file", [good, Segment(0, offset=1 << 40, filesz=16, kind=PT_NOTE)], 1),
    ]


def headers(lab):
    data = text(lab, 64)
    good = Segment(0x100000, data, memsz=0x1000)
    wrong = 1 << 63
    fine = [
        ("as many bytes in memory as in the file", [Segment(0x100000, data)]),
        ("more bytes in memory than in the file", [good]),
        ("no bytes in the file", [good, Segment(0x200000, memsz=0x1000)]),
        ("bytes that end where the file ends", [good, Segment(0x200000, offset=EHDR + 2 * PHDR, filesz=64, memsz=64)]),
        ("virtual addresses up to the last byte of all", [Segment(0x100000, data, memsz=0x1000, va=(1 << 64) - 0x1000)]),
        ("an empty segment at the last address of all", [good, Segment((1 << 64) - 1, offset=0)]),
        ("a note with no place in memory",
         [good, Segment(wrong, offset=EHDR, filesz=16, memsz=0, va=wrong, kind=PT_NOTE)]),
        ("other headers, whose numbers are nonsense",
         [good] + [Segment(wrong, offset=wrong, filesz=wrong, memsz=5, va=wrong, kind=kind)
                   for kind in (0, PT_DYNAMIC, PT_GNU_STACK, lab.rng.randrange(0x60000000, 0x70000000))]),
    ]  # fmt: skip
    bad = lies(lab)
    contents = [elf(0x100000, *segments) for _, segments in fine] + [elf(0x100000, *segments) for _, segments, _ in bad]
    seen = cases(lab, "headers", [(name,) for name in files(lab, contents)])
    for (what, _), got in zip(fine, seen):
        tried = f"elf_open() of a file with {what}"
        lab.expect_true(tried, "0", got["rc"] == 0, f"{named(got['rc'])}: {got['error']}")
    for (what, _, number), got in zip(bad, seen[len(fine) :]):
        tried = f"elf_open() of a file with {what}, in program header {number}"
        lab.expect(tried, f"-ENOEXEC ({-errno.ENOEXEC})", named(got["rc"]))
        lab.expect_true(f"{tried}: its error", f"a sentence that names program header {number}", str(number) in got["error"],
                        got["error"] or "no text")  # fmt: skip


def tables_of(got):
    words = dict(got["words"])
    return lambda gpa, width: words.get(gpa, 0) if SCRATCH <= gpa < SCRATCH_END else None


def segments_mapped(lab):
    """Segments of every permission, at odd places in their pages; one is a large page's size."""
    rng = lab.rng
    segments, pa = [], 0x100000
    va = HIGH + MIB * rng.randrange(1, 1000)
    for flags in rng.sample((PF_R, PF_R | PF_W, PF_R | PF_X, PF_R | PF_W | PF_X, PF_W, PF_X), 6):
        odd, size = rng.randrange(4096), rng.randrange(1, 9000)
        segments.append(Segment(pa + odd, text(lab, rng.randrange(size // 2, size) + 1), memsz=size + 1, va=va + odd, flags=flags))
        pa, va = pa + 0x8000, va + 0x8000 + 0x1000 * rng.randrange(1, 50)
    # a byte over the end of a page, the very end of the address space, and a page of 2 MiB
    segments.append(Segment(0x140FFF, text(lab, 2), va=0x4000000FFF, flags=PF_R))
    segments.append(Segment(0x150000, text(lab, 4096), va=(1 << 64) - 4096, flags=PF_R))
    segments.append(Segment(2 * MIB, b"", memsz=2 * MIB, va=0x7F0000000000, flags=PF_R | PF_W))
    first = segments[0]
    data = elf(first.va, *segments)
    looks = [(each.pa, each.memsz) for each in segments[:8]]
    got = load(lab, [data], looks, ram=8 * MIB)[0]
    tried = f"boot_load() of a file with {len(segments)} segments at virtual addresses"
    lab.expect_true(tried, "0", got["rc"] == 0, f"{named(got['rc'])}: {got['error']}")
    for each, seen in zip(segments, got["looks"]):
        lab.expect_true(f"{tried}: {each.memsz} bytes at {each.pa:#x}", "the file's bytes, then zeroes",
                        bytes.fromhex(seen) == each.data.ljust(each.memsz, b"\0"), "other bytes")  # fmt: skip
    read = tables_of(got)
    for each in segments:
        check_mapping(lab, tried, read, got["cr3"], each)
    for place in (0, 0x100000, 0xFEE00000, 0xFFFFF000):
        found = walk(LEVEL4, read, got["cr3"], place)
        lab.expect(f"{tried}: the low 4 GiB, at {place:#x}", f"mapped to {place:#x}",
                   f"mapped to {found.pa:#x}" if found.result == OK else RESULTS[found.result])  # fmt: skip
    refused = [("different places in their pages", Segment(0x100010, text(lab, 9), va=HIGH + 0x20)),
               ("a virtual address that is not canonical", Segment(0x100000, text(lab, 9), va=1 << 62))]  # fmt: skip
    for (what, _), got in zip(refused, load(lab, [elf(each.va, each) for _, each in refused])):
        lab.expect(f"boot_load() of a segment with {what}", f"-ENOEXEC ({-errno.ENOEXEC})", named(got["rc"]))


def check_mapping(lab, tried, read, cr3, each):
    """Every page that holds a byte of the segment is mapped, none beside it, with the segment's rights."""
    rights = right_names(P | (RW if each.flags & PF_W else 0) | (0 if each.flags & PF_X else NX))
    what = "".join(letter for bit, letter in ((PF_R, "r"), (PF_W, "w"), (PF_X, "x")) if each.flags & bit)
    tried = f"{tried}: the one at {each.va:#x} (physical {each.pa:#x}, {each.memsz:#x} bytes, {what})"
    first, last = each.va & ~0xFFF, (each.va + each.memsz - 1) & ~0xFFF
    for page in {first, last, (first + last) // 2 & ~0xFFF}:
        found = walk(LEVEL4, read, cr3, page)
        path = [entry_text(step) for step in found.steps]
        lab.expect(f"{tried}: its page {page:#x}", f"mapped to {page - each.va + each.pa:#x}",
                   f"mapped to {found.pa:#x}" if found.result == OK else RESULTS[found.result], path)  # fmt: skip
        lab.expect(f"{tried}: the rights in the last entry of {page:#x}", rights, right_names(found.steps[-1][2]), path)
    for beside in (first - 1, last + 4096):
        if 0 <= beside < 1 << 64:
            found = walk(LEVEL4, read, cr3, beside)
            lab.expect(f"{tried}: {beside:#x}, which is not in it", RESULTS[NOT_PRESENT], RESULTS[found.result],
                       [entry_text(step) for step in found.steps])  # fmt: skip


def high_hello(lab):
    """A program nobody knows beforehand, linked for a place far up: code, constants and variables in segments of
    their own. And the hello of this lab."""
    word = "".join(lab.rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(12)).encode() + b"\n"
    base = HIGH + 2 * MIB * lab.rng.randrange(1, 500)
    number = lab.rng.getrandbits(32)
    code = f"""
        lea text(%rip), %rsi
        movabs ${base + 0x2000}, %rdi
        mov ${len(word)}, %ecx
    1:  mov (%rsi), %al
        mov %al, (%rdi)
        mov (%rdi), %al
        out %al, ${PORT}
        inc %rsi
        inc %rdi
        dec %ecx
        jnz 1b
        mov ${number}, %eax
        out %eax, $0x80
        mov $16, %al
        out %al, $0xf4
        hlt
        .org 0x1000
    text: .ascii "{word.decode()[:-1]}\\n" """
    with open(lab.guest(code, origin=base, bits=64), "rb") as file:
        data = file.read()
    kernel = elf(base, Segment(0x200000, data[:0x1000], va=base, flags=PF_R | PF_X),
                 Segment(0x300000, data[0x1000:], va=base + 0x1000, flags=PF_R),
                 Segment(0x100000, b"", memsz=0x1000, va=base + 0x2000, flags=PF_R | PF_W))  # fmt: skip
    tried = f"hv run --boot elf of a program at {base:#x} whose three segments lie elsewhere in memory"
    run = lab.hv("run", "--boot", "elf", "--kernel", files(lab, [kernel])[0])
    lab.expect(tried, word, run.out)
    lab.expect(f"{tried}; then the end", "exit status 33", run.how())
    run = lab.hv("run", "--boot", "elf", "--kernel", os.path.join(lab.tree, "build/guest/long_hello.elf"))
    lab.expect_true("hv run of long_hello.elf", "Hello from long mode … @done", run.out.startswith(b"Hello from long mode\n@ok")
                    and run.out.endswith(b"@done\n") and b"@fail" not in run.out, run.out.decode(errors="replace"))  # fmt: skip


# --- the hostile guest ---


def looping_tables(lab):
    memory = Memory((0, MIB))
    for number, mode in enumerate(MODES):
        table = 0x10000 + 0x10000 * number
        last = (1 << mode.levels[-1][2]) - 1
        flags = P if mode is PAE else P | RW | US
        for index in (last, 0, 5):  # the entry names its own table: the walk goes round and must end
            memory.put(table + index * mode.width, table | flags, mode.width)
            va = sum((index % (1 << level[2])) << level[1] for level in mode.levels)
            va = sign_extend(va, mode.va_bits) if mode.va_bits > 32 else va
            memory.walk(mode, table, va | 0x123)
            memory.put(table + index * mode.width, table | flags | PS, mode.width)
            memory.walk(mode, table, va | 0x456)
    # two pages of noise whose entries lead to one another
    for mode in MODES:
        for page in (0x80000, 0x81000):
            for place in range(page, page + 4096, mode.width):
                target = lab.rng.choice((0x80000, 0x81000, 0x80000, 0x81000, lab.rng.getrandbits(20) << 12))
                memory.put(place, target | lab.rng.getrandbits(12) | lab.rng.choice((P, P, P, 0)), mode.width)
        for _ in range(60):
            va = lab.rng.getrandbits(32 if mode.va_bits == 32 else mode.va_bits)
            memory.walk(mode, 0x80000, sign_extend(va, mode.va_bits) if mode.va_bits > 32 else va)
    memory.compare(lab)


def tables_beyond_ram(lab):
    """A table below, above and between the guest's memory: the walk stops there and says so."""
    memory = Memory((0, MIB), (4 * MIB, MIB), (4 * GIB, MIB))
    holes = [MIB, 2 * MIB, 4 * MIB - 4096, 5 * MIB, 4 * GIB - 4096, 4 * GIB + MIB, (1 << 52) - 4096, 1 << 51]
    edges = [MIB - 4096, 4 * MIB, 5 * MIB - 4096, 4 * GIB, 4 * GIB + MIB - 4096]
    for mode in MODES:
        count = len(mode.levels)
        far = [place for place in holes + edges if place < 1 << (32 if mode.width == 4 else 52)]
        for place in far:
            if place < 4 * GIB or mode.va_bits > 32:
                memory.walk(mode, place, lab.rng.getrandbits(31))  # CR3 itself
            for level in range(count - 1):
                table = 0x10000
                for above in range(level + 1):
                    lead = place if above == level else table + 0x1000
                    memory.put(table, lead | (P if mode is PAE and above == 0 else P | RW | US), mode.width)
                    table += 0x1000
                below = mode.levels[level + 1]
                va = lab.rng.choice((0, ((1 << below[2]) - 1) << below[1])) & 0x7FFFFFFF
                va &= ~(((1 << mode.levels[level][2]) - 1) << mode.levels[level][1]) if level else -1
                for above in range(level + 1):
                    va &= ~(((1 << mode.levels[above][2]) - 1) << mode.levels[above][1])
                memory.walk(mode, 0x10000, va)
    memory.compare(lab)


def reserved_bits(lab):
    """Each reserved bit at each level, with the entry present and not."""
    memory = Memory()
    for mode in MODES:
        for efer in {mode.efer, mode.efer & ~EFER_NXE}:
            for level, (_, shift, _, has_large) in enumerate(mode.levels):
                kinds = [False, True] if has_large else [level + 1 == len(mode.levels)]
                for leaf in kinds:
                    large = leaf and level + 1 < len(mode.levels)
                    for bit in sorted(reserved_candidates(lab, mode, shift, large)):
                        for present in (P, 0):
                            entries = [RW | US] * (level + 1)
                            rights_tables(memory, mode, level if leaf else -1, entries)
                            index = (0x3000 >> shift) % (1 << mode.levels[level][2])
                            place = 0x10000 + 0x1000 * level + index * mode.width
                            memory.put(place, memory.read(place, mode.width) & ~P | present | bit, mode.width)
                            memory.walk(mode, 0x10000, 0x3123, efer=efer)
    memory.compare(lab)


def reserved_candidates(lab, mode, shift, large):
    if mode.width == 4:
        return {1 << 21, 1 << 20} if large else {1 << 21, 1 << 9}
    found = {NX, 1 << lab.rng.randrange(52, 63), 1 << 52, 1 << 62}
    if mode is PAE and shift == 30:
        return found | {1 << bit for bit in (1, 2, 5, 6, 7, 8)}
    if large:
        found |= {1 << 12, 1 << 13, 1 << (shift - 1), 1 << lab.rng.randrange(13, shift)}
    if shift >= 39:
        found.add(PS)
    return found


def elf_lies(lab):
    """Files whose numbers lie: refused with a sentence, and no byte of the guest has changed."""
    data = text(lab, 64)
    good = Segment(0x100000, data, memsz=0x1000)
    enoexec, e2big, enotsup = -errno.ENOEXEC, -errno.E2BIG, -errno.ENOTSUP
    tries = [(f"{what}, in program header {number}", elf(0x100000, *segments), enoexec) for what, segments, number in lies(lab)]
    tries += [
        ("an entry point in no segment", elf(0x101000, good), enoexec),
        ("an entry point at 2^64 - 1", elf((1 << 64) - 1, good), enoexec),
        ("segments that overlap", elf(0x100000, good, Segment(0x100FFF, data)), enoexec),
        ("a segment in the loader's own memory", elf(0x100000, good, Segment(0x84000, data)), enoexec),
        ("a segment around the loader's own memory", elf(0x100000, good, Segment(0x70000, data, memsz=0x2F000)), enoexec),
        ("a segment that begins in RAM and ends outside", elf(0x100000, good, Segment(4 * MIB - 16, data)), e2big),
        ("a segment far beyond RAM", elf(0x100000, good, Segment(1 << 40, data)), e2big),
        ("program headers beyond the end of the file", elf(0x100000, good, phoff=1 << 40), enoexec),
        ("program headers that wrap around", elf(0x100000, good, phoff=(1 << 64) - 8), enoexec),
        ("program headers of a wrong size", elf(0x100000, good, phentsize=8), enoexec),
        ("two segments in one page, with different permissions",
         elf(0x100000, good, Segment(0x200000, data, va=HIGH, flags=PF_R),
             Segment(0x200100, data, va=HIGH + 0x100, flags=PF_R | PF_W)), enotsup),
        ("a virtual address in the low 4 GiB, which have their mapping already",
         elf(0x100000, good, Segment(0x200000, data, va=0x300000)), enotsup),
        ("addresses at different places in their pages", elf(0x100000, good, Segment(0x200010, data, va=HIGH + 8)), enoexec),
    ]  # fmt: skip
    for (what, _, code), got in zip(tries, load(lab, [data for _, data, _ in tries])):
        expect_refused(lab, f"boot_load() of a file with {what}", got, code)


def expect_refused(lab, tried, got, code):
    lab.expect(tried, named(code), named(got["rc"]))
    lab.expect(f"{tried}: bytes of the guest changed", 0, got["changed"])
    lab.expect_true(f"{tried}: its error", "a sentence", len(got["error"]) > 20, got["error"] or "no text")


def elf_greedy(lab):
    """Files that ask for more than there is: of page tables, memory, headers."""
    data = text(lab, 16)
    good = Segment(0x100000, data, memsz=0x1000)
    far = [Segment(0x200000 + 0x1000 * number, data, va=canonical(((number + 3) << 39) % (1 << 48))) for number in range(40)]
    odd = Segment(2 * MIB, b"", memsz=36 * MIB, va=HIGH + 4096)
    tries = [
        ("40 segments, each 512 GiB from the next", elf(0x100000, good, *far), -errno.E2BIG),
        ("36 MiB mapped in small pages: the two addresses are never aligned together", elf(0x100000, good, odd), -errno.E2BIG),
        ("a segment of 2^62 bytes", elf(0x100000, good, Segment(0x200000, data, memsz=1 << 62)), -errno.E2BIG),
        ("65,535 program headers", elf(0x100000, good, phnum=0xFFFF), -errno.ENOEXEC),
        ("65 program headers", elf(0x100000, *[good] * 65), -errno.ENOEXEC),
    ]
    for (what, _, code), got in zip(tries, load(lab, [data for _, data, _ in tries], ram=40 * MIB)):
        expect_refused(lab, f"boot_load() of a file with {what}", got, code)
    # what fits, fits: 2 MiB pages need no tables of their own
    even = Segment(2 * MIB, b"", memsz=36 * MIB, va=HIGH, flags=PF_R | PF_W)
    got = load(lab, [elf(0x100000, good, even)], ram=40 * MIB)[0]
    lab.expect_true("boot_load() of a file with 36 MiB that large pages can map", "0", got["rc"] == 0,
                    f"{named(got['rc'])}: {got['error']}")  # fmt: skip


def fake_death(lab, kernel, *script):
    """hv runs KERNEL on a KVM that plays SCRIPT and then dies of a triple fault: (run, state at the start)."""
    library = lab.library("fake_kvm")
    words = ["env", f"LD_PRELOAD={library}", f"FAKE_EXITS={' '.join(script)} reason:8",
             os.path.join(lab.tree, "build/release/hv"), "run", "--boot", "elf", "--kernel", kernel]  # fmt: skip
    run = lab.run(words, report=True)
    try:
        return run, json.loads(run.report)
    except ValueError:
        return run, {}


def death_report(lab):
    """The guest dies with the tables hv gave it, then with worse ones. The report must show the walk, and end."""
    base = HIGH + 2 * MIB * lab.rng.randrange(1, 500)
    kernel = files(lab, [elf(base, Segment(0x200000, text(lab, 256), va=base, flags=PF_R | PF_X))])[0]
    rip, hole = base + lab.rng.randrange(256), canonical(lab.rng.randrange(1, 255) << 39 | lab.rng.getrandbits(30))
    run, start = fake_death(lab, kernel, f"rip:{rip:#x}", f"cr2:{hole:#x}")
    tried = f"a guest in long mode dies at RIP {rip:#x}, CR2 {hole:#x}"
    lab.expect(tried, f"exit status {STATUS_TRIPLE_FAULT}", run.how())
    lab.expect(f"{tried}: where it had begun", hex(base), hex(start.get("rip", 0)))
    expect_line(lab, tried, run, f"{rip:#x}: mapped to {rip - base + 0x200000:#x}")
    expect_line(lab, tried, run, f"{hole:#x}: not present (#PF error code 0x0)")
    root = start.get("cr3", 0)
    loop = f"put:{root + 8 * 511:#x}:{struct.pack('<Q', root | 7).hex()}"
    run, _ = fake_death(lab, kernel, loop, "rip:ffffffffffffffff", f"cr2:{hole:#x}")
    tried = "the last entry of the PML4 names the PML4, and the guest dies at RIP 0xffffffffffffffff"
    lab.expect(tried, f"exit status {STATUS_TRIPLE_FAULT}", run.how())
    expect_line(lab, tried, run, f"0xffffffffffffffff: mapped to {root + 0xFFF:#x}")
    beyond = 4096 * lab.rng.randrange(1 << 32, 1 << 39)
    for what, step in (("CR3 leads where no memory is", f"cr3:{beyond:#x}"), ("CR3 is 2^64 - 1", "cr3:ffffffffffffffff"),
                       ("CR4 claims five levels", "cr4:0x1020")):  # fmt: skip
        run, _ = fake_death(lab, kernel, f"rip:{rip:#x}", step)
        tried = f"{what}, and the guest dies"
        lab.expect(tried, f"exit status {STATUS_TRIPLE_FAULT}", run.how())
        expect_line(lab, tried, run, "Likely cause:")


def expect_line(lab, tried, run, line):
    report = run.err.decode(errors="replace")
    lab.expect_true(f"{tried}: hv's report", f"a line with {line!r}", line in report, report)
