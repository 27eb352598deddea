"""drivers.py: the programs that call a learner's functions: compiled once for a built tree, and given a key of
their own for each run (driver/main.c says what for).
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile

DIRECTORY = "lab-drivers"  # in the tree's build/
_PLACE = b"@@the key of this run goes here@@"
_SHARED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "driver")
_MAIN = os.path.join(_SHARED, "main.c")


def libraries(tree):
    """The libraries that the stage in TREE links, as its makefile says."""
    with open(os.path.join(tree, "Makefile"), encoding="utf-8") as file:
        return " ".join(re.findall(r"^LIBS[ \t]*[:+]?=[ \t]*(.*)$", file.read(), re.M)).split()


def _digest(labdir, built):
    """Changes when a program compiled earlier is no longer what compiling would make."""
    digest = hashlib.sha256(labdir.encode())
    for path in ["build/release/libhv.a", *glob.glob("guest/**/*.[chS]", root_dir=built, recursive=True)]:
        status = os.stat(os.path.join(built, path))
        digest.update(repr((path, status.st_mtime_ns, status.st_size, status.st_ino)).encode())
    for directory in [_SHARED, os.path.join(labdir, "drivers")]:
        for path in sorted(os.path.join(directory, name) for name in os.listdir(directory)):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _alone(built):
    """One process at a time in here, of those that check the tree in BUILT."""
    with open(os.path.join(built, "build", DIRECTORY + ".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _place(labdir, built):
    """Where the programs for the tree in BUILT lie as it is now; those for another state of it go."""
    base = os.path.join(built, "build", DIRECTORY)
    ready = os.path.join(base, "ready")
    if os.path.isdir(ready):  # packed for the lab machine
        return ready
    place = os.path.join(base, _digest(labdir, built))
    with _alone(built):  # or one would clear away what another has just begun
        if not os.path.isdir(place):
            shutil.rmtree(base, ignore_errors=True)
            os.makedirs(place)
    return place


def _compiled(labdir, built, name, made, *flags):
    """The path of MADE, which is drivers/NAME.c of the lab compiled with FLAGS: now, or before. RuntimeError: the
    course's driver does not compile."""
    path = os.path.join(_place(labdir, built), made)
    if os.path.exists(path):
        return path
    source = os.path.join(labdir, "drivers", name + ".c")
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        target = file.name
    places = [os.path.join(built, "include"), os.path.join(built, "src"), os.path.join(labdir, "drivers"), _SHARED]
    command = ["gcc", "-std=gnu17", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", *("-I" + place for place in places),
               "-o", target, source, *flags]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=built, check=False)
    if done.returncode != 0:
        with contextlib.suppress(FileNotFoundError):  # the linker removes it, too
            os.unlink(target)
        raise RuntimeError(f"{source} does not compile or link:\n{done.stderr[-3000:]}")
    os.chmod(target, 0o755)
    os.rename(target, path)
    return path


def program(labdir, built, name):
    """The path of the driver NAME for the tree in BUILT, which runs no learner's code. RuntimeError as above."""
    archive = os.path.join(built, "build/release/libhv.a")
    return _compiled(labdir, built, name, name, f"-Dexit=exit_{secrets.token_hex(8)}", "-pthread",
                     "-Wl,--wrap=main", _MAIN, archive, *libraries(built))  # fmt: skip


def library(labdir, built, name):
    """The path of drivers/NAME.c as a library, to be loaded before others. RuntimeError as above."""
    return _compiled(labdir, built, name, name + ".so", "-shared", "-fPIC")


def with_key(path, target):
    """Writes the program PATH as TARGET with a key that nobody knows; returns the key."""
    key = secrets.token_hex(len(_PLACE))[: len(_PLACE)].encode()
    with open(path, "rb") as file:
        data = file.read()
    if data.count(_PLACE) != 1:
        raise RuntimeError(f"{path}: the place of its key is not there")
    if os.path.lexists(target):
        os.unlink(target)
    with open(target, "wb") as file:
        file.write(data.replace(_PLACE, key))
    os.chmod(target, 0o755)
    return key


def used_by(module, name, labdir):
    """The names of the drivers that the function NAME of checks.py may run: they occur in it or in a function of
    the same file that it calls."""
    found, seen, waiting = set(), set(), [name]
    while waiting:
        function = getattr(module, waiting.pop(), None)
        code = getattr(function, "__code__", None)
        if code is None or code in seen:
            continue
        seen.add(code)
        names, constants = _words(code)
        waiting += names
        found |= {word for word in constants if os.path.exists(os.path.join(labdir, "drivers", word + ".c"))}
    return found


def _words(code):
    """The names and the string constants of a function, with those of the functions in it."""
    names, constants = set(code.co_names), {each for each in code.co_consts if isinstance(each, str)}
    for inner in code.co_consts:
        if hasattr(inner, "co_names"):
            more = _words(inner)
            names |= more[0]
            constants |= more[1]
    constants = {word for word in constants if re.fullmatch(r"[\w-]+", word)}
    return names, constants
