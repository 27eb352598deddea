"""rules.py: what the code promises about itself, as far as a program can see it.

A rule is a function of a Tree that yields complaints, "file:line: what". Its name is the test's name, its
docstring what it says. A rule that needs a tool that is not there raises Skip. NOTES are rules whose
complaints are worth reading and fail nothing.
"""

import ast
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

from course import decks, figures

C_FILES = r".*\.[ch]"
LIBRARY = r"(src|include/hv)/(?!cli/).*\.[ch]"

# DESIGN.md: a layer includes only layers in a group to the left of its own.
GROUPS = [
    ["base"],
    ["mem", "kvm", "bus", "chr", "block", "net"],
    ["x86", "acpi", "devices", "pci"],
    ["boot", "virtio"],
    ["machine"],
    ["snapshot", "control", "host"],
    ["cli"],
]
RANK = {layer: rank for rank, group in enumerate(GROUPS) for layer in group}

KVM_LAYERS = ("kvm", "x86", "machine")
# Prints events of a trace, which are KVM's exits: it needs their numbers, and opens no KVM.
KVM_EXCEPTIONS = ("src/cli/trace.c",)
# They hand the address of guest memory to the kernel and never follow it.
HOST_POINTER_USERS = r"\b(vm_set_memory|mincore|madvise)\("

FILE_LINES = 600
# The files that grow with the labs; labs/tool/stage.py has the same list.
LAB_TAG_FILES = r"(src/machine/|include/hv/machine/|src/cli/|src/boot/boot(_priv)?\.|include/hv/boot/boot\.h|include/hv/acpi/fixed\.h)"
# It says what a learner's tree lacks, whoever called it.
TODO = "src/base/todo.c"


class Skip(Exception):
    """The rule could not be checked; the text says why."""


def layer_of(name):
    """The layer that a file of src/ or include/hv/ belongs to; "" for others."""
    match = re.match(r"(?:src|include/hv)/([a-z0-9]+)/", name)
    return match[1] if match else ""


def includes(tree, name):
    """(line, what is included), with its quotes or brackets."""
    for number, line in tree.code_lines(name):
        if match := re.match(r"\s*#\s*include\s+([<\"][^>\"]+[>\"])", line):
            yield number, match[1]


def search(tree, names, pattern, what, lines=None):
    for name in names:
        for number, line in (lines or tree.code_lines)(name):
            if match := re.search(pattern, line):
                yield f"{name}:{number}: {what.format(*match.groups(), match=match[0].strip())}"


# --- layers ------------------------------------------------------------------------------------------


def layers(tree):
    """A layer includes only its own headers and those of layers to its left."""
    for name in tree.matching(rf"(src|include/hv)/[a-z0-9]+/{C_FILES}"):
        own = layer_of(name)
        if own not in RANK:
            yield f"{name}:1: {own} is no layer that tests/style/rules.py knows"
            continue
        for number, header in includes(tree, name):
            match = re.match(r'"(?:hv/)?([a-z0-9]+)/', header)
            other = match[1] if match else own
            if other != own and (other not in RANK or RANK[other] >= RANK[own]):
                yield f"{name}:{number}: {own} may not include {header}"


def private_headers(tree):
    """src/LAYER/x.h belongs to its layer: others use include/hv/."""
    for name in tree.matching(rf"(src|include/hv)/{C_FILES}"):
        for number, header in includes(tree, name):
            match = re.match(r'"([a-z0-9]+)/', header)
            if match and match[1] != "hv" and (match[1] != layer_of(name) or name.startswith("include/")):
                yield f"{name}:{number}: {header} is private to another layer, or to src/"


def own_header_first(tree):
    """A .c includes its own contract first, so that the header proves to need nothing before it."""
    for name in tree.matching(r"src/[a-z0-9]+/[a-z0-9_]+\.c"):
        stem = name.removeprefix("src/").removesuffix(".c")
        own = {f"include/hv/{stem}.h": f'"hv/{stem}.h"', f"src/{stem}_priv.h": f'"{stem}_priv.h"'}
        wanted = [quoted for path, quoted in own.items() if path in tree.files]
        number, first = next(includes(tree, name), (1, ""))
        if wanted and first not in wanted:
            yield f"{name}:{number}: the first include must be {' or '.join(wanted)}"


def kvm_header(tree):
    """Only kvm, x86 and machine include <linux/kvm.h>."""
    for name in tree.matching(rf"(src|include)/{C_FILES}"):
        if layer_of(name) in KVM_LAYERS or name in KVM_EXCEPTIONS:
            continue
        for number, header in includes(tree, name):
            if header == "<linux/kvm.h>":
                yield f"{name}:{number}: {layer_of(name) or 'this'} may not include <linux/kvm.h>"


def guest_pointers(tree):
    """Only mem/ turns a guest address into a pointer; others give region->host to the kernel at most."""
    for name in tree.matching(rf"(src|include)/{C_FILES}"):
        if layer_of(name) == "mem":
            continue
        for number, line in tree.code_lines(name):
            if re.search(r"(->|\.)host\b(?!\s*\()", line) and not re.search(HOST_POINTER_USERS, line):
                yield f"{name}:{number}: the host address of guest memory: {line.strip()}"


def no_output_below_cli(tree):
    """Only cli/ prints for people or ends the process."""
    names = [name for name in tree.matching(LIBRARY) if name != TODO]
    yield from search(tree, names, r"(?<![\w.>])(v?printf|puts|putchar|perror|v?dprintf|syslog|v?warnx?|v?errx?)\s*\(",
                      "{0}() below cli/")  # fmt: skip
    yield from search(tree, names, r"\b(stdout|stderr|stdin|STD(?:OUT|ERR|IN)_FILENO)\b", "{0} below cli/")
    yield from search(tree, names, r"(?<![\w.>])(_?exit|_Exit|quick_exit|abort)\s*\(", "{0}() below cli/")


def no_mutable_state(tree):
    """No writable static variables below cli/, thread-local ones aside: two machines in one process work."""
    names = [name for name in tree.matching(r"src/(?!cli/).*\.c") if name != TODO]
    _generate(tree)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda name: _writable_data(tree, name, scratch), names):
            yield from found


def _writable_data(tree, name, scratch):
    out = os.path.join(scratch, name.replace("/", "_") + ".o")
    built = _compile(tree, "gcc", name, ["-c", "-O0", "-fPIC", "-o", out])
    if built.returncode:
        return [f"{name}:1: does not compile: {_first_line(built.stdout)}"]
    table = subprocess.run(["objdump", "-t", out], check=True, stdout=subprocess.PIPE, text=True).stdout
    # What lies in .data or .bss; constants with pointers in them lie in .data.rel.ro. ("d": the section.)
    pattern = r"^\S+ [lgu!][^d\n]{6} \.(?:data|bss)(?:\.rel(?:\.local)?)?\t\S+ (?:\.hidden )?(\S+)$"
    return [f"{name}: {symbol} is writable state" for symbol in re.findall(pattern, table, re.M)]


def no_constructors(tree):
    """Nothing runs before main(): wiring is one list, in machine/board.c."""
    yield from search(tree, tree.matching(rf"src/{C_FILES}"), r"__attribute__\s*\(\(\s*(?:__)?(constructor|section)\b",
                      "{0} attribute")  # fmt: skip


def no_extern_in_c(tree):
    """What two files share is declared in a header."""
    yield from search(tree, tree.matching(r"(src|tests)/.*\.c"), r"^extern\b.*", "{match}")


# --- compilers and formatters ------------------------------------------------------------------------


def _generate(tree):
    """What sources include and the makefile makes."""
    if "src/acpi/dsdt.asl" in tree.files:
        subprocess.run(["make", "-s", "build/gen/dsdt.hex"], cwd=tree.root, check=False, stdout=subprocess.DEVNULL)


def _compile(tree, compiler, name, flags):
    command = [compiler, "-std=gnu17", "-D_GNU_SOURCE", '-DHV_VERSION="0"', "-Iinclude", "-Isrc", "-Ibuild/gen",
               "-Itests", "-w" if "-c" in flags else "-Wall", *flags, name]  # fmt: skip
    return subprocess.run(command, cwd=tree.root, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _first_line(text):
    errors = [line for line in text.splitlines() if "error" in line]
    return (errors or text.splitlines() or ["no message"])[0]


def _headers_alone(tree, compiler):
    if not shutil.which(compiler):
        raise Skip(f"{compiler} is not installed")
    headers = tree.matching(r"(include|src|tests/support|tests/thread)/.*\.h")
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda name: _header_alone(tree, compiler, name, scratch), headers):
            yield from found


def _header_alone(tree, compiler, name, scratch):
    """Twice, which also proves its guard."""
    source = os.path.join(scratch, name.replace("/", "_") + ".c")
    path = os.path.abspath(os.path.join(tree.root, name))
    with open(source, "w", encoding="utf-8") as file:
        file.write(f'#include "{path}"\n#include "{path}"\n')
    done = _compile(tree, compiler, source, ["-fsyntax-only", "-Werror"])
    return [f"{name}:1: does not compile alone: {_first_line(done.stdout)}"] if done.returncode else []


def headers_alone_gcc(tree):
    """Every header compiles without others before it, with gcc."""
    return _headers_alone(tree, "gcc")


def headers_alone_clang(tree):
    """Every header compiles without others before it, with clang."""
    return _headers_alone(tree, "clang")


def clang(tree):
    """Everything compiles with clang too, under the makefile's own warnings."""
    if not shutil.which("clang"):
        raise Skip("clang is not installed")
    found = re.search(r"^WARN := ((?:.*\\\n)*.*)$", tree.text("Makefile") if "Makefile" in tree.files else "", re.M)
    warnings = found[1].replace("\\\n", " ").split() if found else ["-Wall"]
    names = tree.matching(r"(src|tests)/.*\.c")
    flags = ["-fsyntax-only", "-Werror", *warnings]
    _generate(tree)
    with ThreadPoolExecutor(2) as pool:
        for name, done in zip(names, pool.map(lambda name: _compile(tree, "clang", name, flags), names)):
            if done.returncode:
                yield f"{name}:1: {_first_line(done.stdout)}"


def format(tree):  # the name is the test's
    """C is formatted as .clang-format says."""
    if not shutil.which("clang-format"):
        raise Skip("clang-format is not installed")
    names = tree.matching(C_FILES)
    if not names:
        return
    done = subprocess.run(["clang-format", "--dry-run", *names], cwd=tree.root, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    places = re.findall(r"^(\S+?:\d+):\d+: warning: code should be clang-formatted", done.stdout, re.M)
    yield from (f"{place}: run clang-format -i on it" for place in places)
    if done.returncode and not places:
        yield f"clang-format: {_first_line(done.stdout)}"


def shell(tree):
    """shellcheck finds nothing in our shell scripts."""
    if not shutil.which("shellcheck"):
        raise Skip("shellcheck is not installed")
    names = [name for name in tree.files if re.match(r"#!.*\b(ba|da)?sh\b(?!.*python)", tree.text(name)[:80])]
    if not names:
        return
    done = subprocess.run(["shellcheck", "-x", "-f", "gcc", *names], cwd=tree.root, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    yield from done.stdout.splitlines()


def python(tree):
    """Every Python program parses."""
    for name in tree.files:
        if name.endswith(".py") or re.match(r"#!.*python", tree.text(name)[:80]):
            try:
                ast.parse(tree.text(name), name)
            except SyntaxError as error:
                yield f"{name}:{error.lineno}: {error.msg}"


# --- wording -----------------------------------------------------------------------------------------


def no_todo(tree):
    """Nothing is left for later in the code; issues are for that."""
    names = [name for name in tree.files if not name.startswith("tests/style/")]
    yield from search(tree, names, r"\b(TODO|FIXME|XXX|HACK)\b(?!\()", "{0}", tree.lines)


def no_foreign_paths(tree):
    """No path of somebody's own machine."""
    names = [name for name in tree.files if not name.startswith("tests/style/")]
    yield from search(tree, names, r"(?<![\w.$}/])/(?:work|Users|mnt/data|home/[a-z]\w*)/\S*",
                      "{match} exists on one machine only", tree.lines)  # fmt: skip


def lab_tags(tree):
    """Lines that begin with some lab are tagged in the few files that grow with every lab, only."""
    names = [name for name in tree.matching(rf"(src|include|guest)/{C_FILES}") if not re.match(LAB_TAG_FILES, name)]
    yield from search(tree, names, r"//\s*lab \d+", "{match} does not belong here", tree.lines)


def blanks(tree):
    """No blanks at line ends, no missing newline at a file's end, no tabs in C."""
    for name in tree.files:
        text = tree.text(name)
        if not text or name.startswith("tests/fuzz/corpus/") or name.endswith((".svg", ".patch")):
            continue
        if not text.endswith("\n"):
            yield f"{name}: no newline at its end"
        yield from search(tree, [name], r"[ \t]+$", "blanks at the line's end", tree.lines)
        if re.fullmatch(C_FILES, name):
            yield from search(tree, [name], r"^ *\t", "a tab", tree.lines)


def file_length(tree):
    """Few files are longer than 600 lines, and each has its reason."""
    for name in tree.matching(r".*\.([ch]|py)"):
        lines = tree.text(name).count("\n")
        if lines > FILE_LINES:
            yield f"{name}: {lines} lines"


RULES = [
    layers, private_headers, own_header_first, kvm_header, guest_pointers, no_output_below_cli, no_mutable_state,
    no_constructors, no_extern_in_c, headers_alone_gcc, headers_alone_clang, clang, format, shell, python, no_todo,
    no_foreign_paths, lab_tags, blanks, file_length, figures, decks,
]  # fmt: skip
NOTES = [file_length]
