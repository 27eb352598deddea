"""tiers.py: what each tier of tests builds and runs. DESIGN.md of the project says what belongs where.

A tier is a function that takes Options and yields Groups as they end. A tier that cannot run yields a
failure: a missing tool or a broken build must never look like success.
"""

import glob
import json
import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed

import criterion
import process
from process import ROOT
from results import FAILED, PASSED, SKIPPED, Group, Result, count

BUILD = os.path.join(ROOT, "build")
PROGRAM_LIMIT = 120  # seconds for one unit or thread test program; sanitizers get twice as long
LABVM_LIMIT = 900
SYSTEM_LIMIT = 2400
INTEL_LIMIT = 3000
INTEL_FILES = "build/release/hv build/guest build/cache/cloud/vmlinuz build/cache/initramfs-cloud.cpio".split()
INTEL_PROGRAMS = "mke2fs e2fsck debugfs qemu-img busybox ip passt".split()  # what its tests start
LABS_LIMIT = 600  # for one file of the course tool's tests
SLIDES_LIMIT = 300
VERIFY_LIMIT = 3600  # for all labs
MACHINE_FAILED = 125  # labvm's exit status when the machine, not the command, came to grief
MACHINE_TRIES = 3


class Options:
    """text: only tests whose name has it. fuzz_seconds: for each target. note: tells a person something."""

    def __init__(self, text="", fuzz_seconds=5.0, note=print):
        self.text = text
        self.fuzz_seconds = fuzz_seconds
        self.note = note


def failure(name, detail, seconds=0.0, rerun=""):
    return Group(name, [Result(name, FAILED, seconds, detail, rerun)], seconds)


_scratch = None


def scratch(*names):
    """A path in a directory of this process's own, which goes away with it: two runs at once get along."""
    global _scratch
    if _scratch is None:
        parent = os.path.join(BUILD, "test")
        os.makedirs(parent, exist_ok=True)
        _scratch = tempfile.TemporaryDirectory(dir=parent)
    return os.path.join(_scratch.name, *names)


def built(targets, variant=""):
    """Builds; returns None, or the failure to yield."""
    if not targets:
        return None
    outcome = process.make(targets, variant)
    if outcome.ok:
        return None
    san = f" SAN={variant}" if variant else ""
    return failure("build", outcome.explain(40), outcome.seconds, f"make{san} {' '.join(targets)}")


def built_programs(chosen, variant=""):
    """Builds the programs of [(name, program)]. Returns those that could be built, and failures to yield
    for the others: one that does not compile takes only itself away."""
    if not chosen:
        return [], []
    outcome = process.make([program for _, program in chosen], variant)
    if outcome.ok:
        return chosen, []
    good = [(name, program) for name, program in chosen if process.is_made(program, variant)]
    san = f" SAN={variant}" if variant else ""
    bad = [failure(name, outcome.explain(40), 0.0, f"make{san} {program}") for name, program in chosen
           if (name, program) not in good]  # fmt: skip
    return good, bad or [failure("build", outcome.explain(40), outcome.seconds)]


def programs(base, pattern, variant, text):
    """[(name, program)] of the C sources tests/BASE/PATTERN whose name (no directory, no suffix) has
    TEXT; the program as the makefile calls it."""
    start = os.path.join(ROOT, "tests", base) + os.sep
    names = [path[len(start) :].removesuffix(".c") for path in sorted(glob.glob(start + pattern))]
    return [(name, f"build/{variant or 'release'}/tests/{base}/{name}") for name in names if text in name]


# --- programs of ours: unittest files ----------------------------------------------------------------


def unittest_file(path, limit, text="", name=None, env=None):
    """Runs one file of unittest cases, those whose name has TEXT; returns its Group."""
    name = name or os.path.relpath(path, os.path.join(ROOT, "tests"))
    report = scratch(name.replace("/", "_") + ".jsonl")
    runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unittests.py")
    outcome = process.run([sys.executable, runner, path, report, text], limit, env)
    results = _unittest_results(report, path, outcome)
    if not outcome.ok and not any(result.status == FAILED for result in results):
        results.append(Result(name, FAILED, outcome.seconds, outcome.explain()))
    return Group(name, results, outcome.seconds)


def _unittest_results(report, path, outcome):
    records, began = {}, {}
    if os.path.exists(report):
        with open(report, encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                (records if "status" in record else began)[record["name"]] = record
    again = f"python3 {os.path.relpath(path, ROOT)} -v -k "
    for name in began.keys() - records.keys():
        records[name] = {"name": name, "status": FAILED, "detail": "did not end: " + outcome.explain()}
    return [
        Result(name, record["status"], record.get("seconds", 0.0), record["detail"], again + name.rpartition(".")[2])
        for name, record in records.items()
    ]


def harness(options):
    """The machinery below `tests/run` itself, and what fetches the tools."""
    yield unittest_file(os.path.join(ROOT, "tests/harness/test_harness.py"), 120, options.text)
    yield unittest_file(os.path.join(ROOT, "tests/setup/test_setup.py"), 120, options.text)


# --- style -------------------------------------------------------------------------------------------


def style(options):
    """tests/style/check: each rule is a test. And the tests beside it: does it find what it should?"""
    program = os.path.join(ROOT, "tests/style/check")
    report = scratch("style.json")
    if os.path.exists(report):
        os.unlink(report)
    outcome = process.run([program, "--json", report, "-k", options.text], 300)
    again = os.path.relpath(program, ROOT)
    results = [
        Result(entry["name"], entry["status"], entry["seconds"], entry["detail"], f"{again} -k {entry['name']}")
        for entry in _load(report)
    ]
    if not results and not (options.text and outcome.ok):
        results.append(Result("check", FAILED, outcome.seconds, outcome.explain(), again))
    if results:
        yield Group("rules", results, outcome.seconds)
    for result in results:
        if result.status == PASSED and result.detail:
            options.note(f"{result.name}: {result.detail}")
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/style/test_*.py"))):
        yield unittest_file(path, 300, options.text)


def _load(path):
    """The records of a JSON report, none if it was not written."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return []


# --- Criterion ---------------------------------------------------------------------------------------


def unit(options):
    """Criterion programs, as users' compilers build them."""
    yield from _unit(options, "", {}, [], PROGRAM_LIMIT)


def asan(options):
    """The same under AddressSanitizer and UBSan. What they write is a failure of its own: a leak that
    is found as a test's process ends does not fail the test (nor would Criterion notice)."""
    directory = scratch("asan")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    for group in _unit(options, "asan", _sanitizer_environment(directory), process.steady(), 2 * PROGRAM_LIMIT):
        program = f"build/asan/tests/unit/{group.name}"
        group.results += _sanitizer_results(directory, group.name, f"make SAN=asan {program} && {program}")
        yield group


def _sanitizer_environment(directory):
    where = f"log_path={os.path.join(directory, 'log')}"
    asan_options = f"detect_leaks=1:allocator_may_return_null=1:{where}"
    return {"ASAN_OPTIONS": asan_options, "UBSAN_OPTIONS": f"print_stacktrace=1:{where}"}


def _sanitizer_results(directory, name, rerun):
    """One failure for each report, which is then removed. Warnings alone (an allocation that was refused,
    as a test wanted) are none."""
    results = []
    for path in sorted(glob.glob(os.path.join(directory, "log.*"))):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        os.unlink(path)
        if re.search(r"ERROR: |runtime error: ", text):
            results.append(Result(f"{name} sanitizer report", FAILED, 0.0, text, rerun))
    return results


def _unit(options, variant, env, prefix, limit):
    chosen = programs("unit", "*/test_*.c", variant, options.text)
    chosen, broken = built_programs(chosen, variant)
    yield from broken
    for name, program in chosen:
        yield criterion.run(program, name, limit, env, prefix)


# --- threads -----------------------------------------------------------------------------------------


def thread(options):
    """Plain programs under ThreadSanitizer: each is one test."""
    chosen = programs("thread", "test_*.c", "tsan", options.text)
    chosen, broken = built_programs(chosen, "tsan")
    yield from broken
    env = {"TSAN_OPTIONS": "second_deadlock_stack=1"}
    for name, program in chosen:
        outcome = process.run([*process.steady(), program], 2 * PROGRAM_LIMIT, env)
        good = outcome.ok and "WARNING: ThreadSanitizer" not in outcome.output
        again = f"make SAN=tsan threads && {program}"
        detail = "" if good else outcome.verdict() + "\n" + outcome.output
        yield Group(name, [Result(name, PASSED if good else FAILED, outcome.seconds, detail, again)])


# --- fuzzing -----------------------------------------------------------------------------------------


def fuzz(options):
    """libFuzzer targets: the seeds, what earlier runs found, and some seconds of new inputs each."""
    chosen = programs("fuzz", "fuzz_*.c", "fuzz", options.text)
    chosen, broken = built_programs(chosen, "fuzz")
    yield from broken
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for done in as_completed([pool.submit(_fuzz_one, *target, options.fuzz_seconds) for target in chosen]):
            yield done.result()


def _fuzz_one(name, program, seconds):
    short = name.removeprefix("fuzz_")
    grown = os.path.join(BUILD, "fuzz/corpus", short)
    seeds = os.path.join(ROOT, "tests/fuzz/corpus", short)
    os.makedirs(grown, exist_ok=True)
    corpora = [grown] + ([seeds] if os.path.isdir(seeds) else [])
    artifact = os.path.join(BUILD, f"fuzz/{short}-")
    outcome = process.run(
        [*process.steady(), program, f"-max_total_time={seconds:.0f}", "-timeout=20", "-rss_limit_mb=2048",
         f"-artifact_prefix={artifact}", "-print_final_stats=1", *corpora],
        seconds + 180, {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"},
    )  # fmt: skip
    inputs = re.search(r"number_of_executed_units: (\d+)", outcome.output)
    status = PASSED if outcome.ok else FAILED
    found = re.search(r"Test unit written to (\S+)", outcome.output)
    again = f"{program} {os.path.relpath(found[1], ROOT)}" if found else f"tests/run fuzz -k {name}"
    detail = "" if outcome.ok else _crash_detail(outcome)
    title = f"{name}: {int(inputs[1]):,} inputs" if inputs else name
    return Group(title, [Result(name, status, outcome.seconds, detail, again)])


def _crash_detail(outcome):
    """From the first line of the sanitizer's report on."""
    found = re.search(r"^.*(ERROR: |runtime error: ).*$", outcome.output, re.M)
    return outcome.verdict() + "\n" + (outcome.output[found.start() :] if found else outcome.output[-3000:])


# --- the lab machine and what runs in it -------------------------------------------------------------


def labvm(options):
    """tests/labvm: the machine that stands in for a KVM that this host lacks."""
    yield unittest_file(os.path.join(ROOT, "tests/labvm/test_labvm.py"), LABVM_LIMIT, options.text)


GUEST_PARTS = (["guest/linux/fetch", "cloud", "full", "memtest86+", "grub-invaders", "xen"],
               ["guest/linux/initramfs", "cloud", "full"])  # fmt: skip


def prepared():
    """hv, its guests, and what the distribution's archive has to boot; None or the failure to yield."""
    broken = built(["all"])
    for command in [] if broken else GUEST_PARTS:
        outcome = process.run(command, 600)
        if not outcome.ok:
            return failure("guests", outcome.explain(), outcome.seconds, " ".join(command))
    return broken


def system(options):
    """tests/system: hv with real guests. Where this host's own KVM does not deliver interrupts, the
    lab machine runs those that need one that does, and once more those to which it makes a difference."""
    broken = prepared()
    if broken:
        yield broken
        return
    options.note("back end: this host, natively")
    yield system_run("native", [], SYSTEM_LIMIT, options.text)
    yield _system_asan(options)
    if process.run([os.path.join(BUILD, "release/hv"), "doctor", "-q"], 60).ok:
        return
    options.note("this host's KVM will not do for the rest; back end: the lab machine, AMD-V (QEMU)")
    machine = ["tests/labvm/labvm", "run", "--memory", "7G", "--timeout", str(SYSTEM_LIMIT), "--"]
    flags = ["--needs", "full", "--done", _native_level()]
    yield system_run("labvm-amd", machine, SYSTEM_LIMIT + 120, options.text, flags, note=options.note)


def _native_level():
    """Of this host, when its KVM does not deliver interrupts."""
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "nothing"


def _system_asan(options):
    """Those that need no more than any KVM once more, with an hv that has the sanitizers built in: whole
    machines come and go, and nothing of them may be left."""
    broken = built(["build/asan/hv"], "asan")
    if broken:
        return broken
    directory = scratch("system-asan-logs")
    os.makedirs(directory, exist_ok=True)
    env = {"HV": os.path.join(BUILD, "asan/hv"), **_sanitizer_environment(directory)}
    flags = ["--needs", _native_level()]
    group = system_run("native-asan", process.steady(), SYSTEM_LIMIT, options.text, flags, env)
    again = "make SAN=asan build/asan/hv && HV=build/asan/hv tests/system/run --needs kvm"
    group.results += _sanitizer_results(directory, group.name, again)
    return group


def intel(options):
    """The lab machine with VT-x, emulated by Bochs, which takes minutes; and in it the system tests that are
    tagged so."""
    broken = prepared()
    if broken:
        yield broken
        return
    if options.text in "Intel":
        path, env = os.path.join(ROOT, "tests/labvm/test_labvm.py"), {"LABVM_TEST_INTEL": "1"}
        yield unittest_file(path, LABVM_LIMIT, "Intel", env=env)
    options.note("back end: the lab machine, VT-x (Bochs)")
    machine = ["tests/labvm/labvm", "run", "--cpu", "intel", "--timeout", str(INTEL_LIMIT)]
    found = {name: _program(name) for name in INTEL_PROGRAMS}
    if missing := [name for name, path in found.items() if path is None]:
        yield failure("programs", f"not here: {', '.join(missing)}; tests/setup/deps intel installs them")
        return
    for path in (*INTEL_FILES, *found.values()):
        machine += ["--with", path]
    flags = ["--needs", "full", "--tag", "intel"]
    env = {"HV_TEST_LIMIT": "600"}  # of a test's patience: everything is some ten times as slow
    yield system_run("labvm-intel", [*machine, "--"], INTEL_LIMIT + 120, options.text, flags, env)


def _program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def system_run(name, machine, limit, text="", flags=(), env=None, note=None):
    """Runs tests/system/run, through MACHINE if there is one, with ENV added to the environment; returns its
    Group. With NOTE, a function that tells a person, it goes on in a new machine when one has failed: an
    emulator of a processor with virtualization has bugs of its own, which must not hide ours."""
    out = scratch(f"system-{name}")
    os.makedirs(out, exist_ok=True)
    report = os.path.join(out, "report.json")
    records, seconds, plain = {}, 0.0, [*machine, "tests/system/run", *flags]
    for left in range(MACHINE_TRIES - 1 if note else 0, -1, -1):
        if os.path.exists(report):
            os.unlink(report)
        command = [*plain, "--json", report, *(["-k", text] if text else [])]
        if records:
            command += ["--without", _names_file(os.path.join(out, "done"), records)]
        outcome = process.run(command, limit, {"LABVM_OUT": out, **(env or {})})
        seconds += outcome.seconds
        records.update((record["name"], record) for record in _load(report) or _printed_records(outcome.output))
        if outcome.status != MACHINE_FAILED or not left:
            break
        note(f"{name}: the lab machine itself failed after {len(records)} tests; going on in a new one\n"
             + outcome.explain(12))
    if "no test was chosen" in outcome.output and (text or records):
        outcome.status = 0
    return Group(name, _system_results(name, outcome, records, [*plain, "-k"], env, text), seconds)


def _names_file(path, names):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(names) + "\n")
    return path


def _system_results(name, outcome, records, command, env, text):
    hv = [f"HV={os.path.relpath(env['HV'], ROOT)}"] if env and "HV" in env else []
    again = " ".join([*hv, *command])
    results = [
        Result(record["name"], record["status"], record["seconds"], record["detail"], f"{again} {record['name']}")
        for record in records.values()
    ]
    failed = count(results)[FAILED]
    # 1 is "a test failed", which then is in the report. Anything else that is not 0 is trouble of its own.
    if not (results or text) or not (outcome.ok or (outcome.status == 1 and failed)):
        results.append(Result(name, FAILED, outcome.seconds, outcome.explain(40), " ".join(command[:-1])))
    return results


def _printed_records(output):
    """What ended before the report could be written: a line was printed for each."""
    lines = re.findall(rf"^({PASSED}|{FAILED}|{SKIPPED})\s+([\d.]+) s\s+(\S+)$", output, re.M)
    return [{"name": name, "status": status, "seconds": float(seconds), "detail": "see the output"}
            for status, seconds, name in lines]  # fmt: skip


# --- the course --------------------------------------------------------------------------------------


def labs(options):
    """tests/labs: the course tool, on a course of its own that is quickly built."""
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/labs/test_*.py"))):
        yield unittest_file(path, LABS_LIMIT, options.text)


def verify(options):
    """labs/lab verify: every lab's skeleton, reference, mutants and documents. What cannot run here is skipped."""
    report = scratch("verify.json")
    command = ["labs/lab", "verify"]
    outcome = process.run([*command, "--json", report], VERIFY_LIMIT)
    words = {"passed": PASSED, "could not run": SKIPPED}
    records = _load(report)
    results = [
        Result(record["name"], words.get(record["verdict"], FAILED), record["seconds"], record["detail"], " ".join(command))
        for record in records
        if options.text in record["name"]
    ]
    if not records or outcome.status not in (0, 1, 3, 4):
        results.append(Result("verify", FAILED, outcome.seconds, outcome.explain(40), " ".join(command)))
    if results:
        yield Group("lab verify", results, outcome.seconds)


def slides(options):
    """tests/slides: a browser looks at every page of the decks. Needs node, Marp and Chromium."""
    yield unittest_file(os.path.join(ROOT, "tests/slides/test_slides.py"), SLIDES_LIMIT, options.text)


ALL = {
    "harness": (harness, "the test machinery itself"),
    "style": (style, "layers, headers, format, wording"),
    "unit": (unit, "Criterion programs"),
    "asan": (asan, "Criterion programs under AddressSanitizer and UBSan"),
    "thread": (thread, "programs with threads under ThreadSanitizer"),
    "fuzz": (fuzz, "libFuzzer targets"),
    "labs": (labs, "the course tool"),
    "verify": (verify, "the labs: skeleton, reference, mutants, documents"),
    "labvm": (labvm, "the lab machine"),
    "system": (system, "hv with guests"),
    "intel": (intel, "hv with guests under VT-x"),
    "slides": (slides, "the decks in a browser"),
}
DEFAULT = [name for name in ALL if name not in ("intel", "slides")]  # these have make targets of their own
