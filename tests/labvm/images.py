"""images.py: files made once and kept under build/cache/labvm, named by a hash of what they are made
of. A change of any input gives another name, so a stale image is never used and never patched."""

import fcntl
import hashlib
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(_HERE)), "guest", "linux"))

import newc  # noqa: E402  (found by the path above)
import parts  # noqa: E402

DIRECTORY = os.path.join(parts.CACHE, "labvm")


def cached(name, inputs, build):
    """The path of the image NAME made from INPUTS (bytes, or paths of files); made by BUILD(path)
    if it is not there. Older images of that name are removed; a machine that still runs from one
    has it open."""
    path = os.path.join(DIRECTORY, f"{name}-{_digest(inputs)}")
    if os.path.exists(path):
        return path
    os.makedirs(DIRECTORY, exist_ok=True)
    with open(os.path.join(DIRECTORY, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            partial = f"{path}.{os.getpid()}"
            try:
                build(partial)
                os.rename(partial, path)
            finally:
                if os.path.exists(partial):
                    os.unlink(partial)
            _remove_older(name, path)
    return path


def _digest(inputs):
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            with open(item, "rb") as source:
                item = source.read()
        digest.update(hashlib.sha256(item).digest())
    return digest.hexdigest()[:16]


def _remove_older(name, keep):
    for entry in os.listdir(DIRECTORY):
        path = os.path.join(DIRECTORY, entry)
        if entry.startswith(name + "-") and path != keep:
            os.unlink(path)


def _source(name):
    return os.path.join(_HERE, name)


def base_inputs(kernel, backend):
    """What base_archive() reads, for cached()."""
    inputs = [_source(name) for name in ("init", "pid1", f"{backend}.sh", f"{backend}.py", "images.py")]
    inputs += [parts.busybox(), newc.__file__, parts.__file__]
    return inputs + [f"{kernel.version} {os.stat(kernel.image).st_mtime_ns}".encode()]


def base_archive(kernel, backend, modules, options):
    """The initramfs of a back end: busybox, the scripts, and MODULES with all they need in load order
    (see init). OPTIONS maps a module to its parameters."""
    archive = newc.Archive()
    for name in ("dev", "proc", "sys"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.copy("bin/busybox", parts.busybox())
    archive.copy("init", _source("init"))
    archive.copy("pid1", _source("pid1"))
    archive.copy("backend", _source(f"{backend}.sh"))
    available = kernel.modules()
    order = available.load_order(modules)
    for module in order:
        archive.file(f"modules/{module}.ko", available.read(module))
    lines = [f"{module} {options.get(module, '')}".strip() for module in order]
    archive.file("modules/order", "".join(line + "\n" for line in lines).encode())
    return archive
