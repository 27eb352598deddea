"""Disk images: hv image, and the qcow2 back end under random requests and kills, beside QEMU's own tools."""

import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import harness

USAGE, INPUT, HOST, LEAKS = 2, 4, 8, 16
KILLS = int(os.environ.get("HV_TEST_KILLS", "10"))
MIB = 1 << 20
VARIANT = os.path.basename(os.path.dirname(os.path.abspath(harness.HV)))
DRIVER = os.path.join(harness.ROOT, "build", VARIANT, "tests", "thread", "drive_qcow2")


def patterned(path, size, seed=1):
    """A file with data here and there, and holes between."""
    dice = random.Random(seed)
    with open(path, "wb") as f:
        for _ in range(40):
            length = 512 * dice.randrange(1, 300)
            f.seek(512 * dice.randrange(max(1, (size - length) // 512)))
            f.write(bytes([dice.randrange(1, 255)]) * min(length, size))
        f.truncate(size)


def content(path):
    with open(path, "rb") as f:
        return f.read()


@functools.cache
def driver_is_built():
    """Where there is a compiler, it is built, or the test fails."""
    flags = [] if VARIANT == "release" else [f"SAN={VARIANT}"]
    if shutil.which("make") and shutil.which("gcc"):
        subprocess.run(["make", "-s", *flags, os.path.relpath(DRIVER, harness.ROOT)], cwd=harness.ROOT, check=True)
    return os.path.exists(DRIVER)


class ImageCase(harness.Case):
    needs = "nothing"

    def setUp(self):
        if not (shutil.which("qemu-img") and shutil.which("qemu-io")):
            self.skipTest("no qemu-img here")
        if not driver_is_built():
            self.skipTest("no compiler here")
        self.folder = os.path.dirname(self.scratch())

    def file(self, name):
        return os.path.join(self.folder, name)

    def call(self, *args, status=0):
        run = subprocess.run(args, capture_output=True, text=True, check=False, timeout=harness.LIMIT)
        self.assertEqual(run.returncode, status, f"{' '.join(args)}\n{run.stdout}{run.stderr}")
        return run.stdout

    def qemu(self, command, *args, status=0):
        return self.call("qemu-img", command, *args, status=status)

    def create(self, path, size, *options, **settings):
        text = ",".join(f"{name}={value}" for name, value in settings.items())
        if os.path.exists(path):
            os.unlink(path)
        self.qemu("create", "-q", "-f", "qcow2", *(["-o", text] if text else []), *options, path, size)

    def is_clean(self, path):
        """Both checkers find nothing."""
        self.qemu("check", "-f", "qcow2", path)
        self.hv("image", "check", "--format", "qcow2", path)

    def drive(self, path, seed, ops=400, *how):
        """Random requests; then QEMU and the driver's model agree about every byte."""
        model = self.file("model.raw")
        self.call(DRIVER, "random", path, str(seed), str(ops), model, *how)
        self.is_clean(path)
        self.qemu("compare", "-f", "qcow2", "-F", "raw", path, model)

    def complains(self, status, words, *args):
        r = self.hv("image", *args, status=status)
        self.assertIn(words, r.err, str(r))
        self.assertEqual(len(r.err.strip().splitlines()), 1, str(r))


KINDS = [{"cluster_size": size} for size in
         ("512", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M", "2M")]  # fmt: skip
KINDS += [
    {"compat": "0.10"}, {"compat": "0.10", "cluster_size": 512}, {"lazy_refcounts": "on"},
    {"preallocation": "metadata"}, {"preallocation": "falloc"}, {"preallocation": "full", "cluster_size": "4k"},
    {"cluster_size": 512, "refcount_bits": 64}, *({"refcount_bits": bits} for bits in (1, 2, 4, 8, 32, 64)),
]  # fmt: skip


class Requests(ImageCase):
    def test_images_of_all_kinds(self):
        path = self.file("x.qcow2")
        for seed, kind in enumerate(KINDS):
            with self.subTest(kind=kind):
                self.create(path, "6M", **kind)
                self.drive(path, seed)

    def test_threads_and_past_the_page_cache(self):
        base, path = self.file("base.raw"), self.file("x.qcow2")
        patterned(base, 5 * MIB + 512)
        for seed, size in enumerate(("4k", "64k", "2M")):
            for how in ("threads", "direct"):
                self.create(path, "6M", "-b", base, "-F", "raw", cluster_size=size)
                if how == "direct" and not self.knows_direct():
                    continue
                self.drive(path, seed, 300, how)

    def knows_direct(self):
        try:
            os.close(os.open(self.file("x.qcow2"), os.O_RDONLY | os.O_DIRECT))
        except OSError:
            return False
        return True

    def test_backing_files(self):
        base, middle, path = self.file("base.raw"), self.file("middle.qcow2"), self.file("x.qcow2")
        patterned(base, 5 * MIB)
        for seed, kind in enumerate(KINDS):
            if "preallocation" in kind:
                continue
            with self.subTest(kind=kind):
                self.create(middle, "6M", "-b", base, "-F", "raw", **kind)
                self.create(path, "7M", "-b", "middle.qcow2", "-F", "qcow2", **kind)
                before = content(base), content(middle)
                self.drive(path, seed, 200)
                self.assertEqual(before, (content(base), content(middle)))

    def test_compressed_images(self):
        base, path = self.file("base.raw"), self.file("x.qcow2")
        patterned(base, 5 * MIB)
        for seed, options in enumerate(("compression_type=zlib", "compression_type=zstd", "compat=0.10",
                                        "cluster_size=512", "cluster_size=2M", "compression_type=zstd,cluster_size=4k")):  # fmt: skip
            with self.subTest(options=options):
                self.qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, base, path)
                self.hv("image", "convert", "--force", path, self.file("back.raw"))
                self.assertEqual(content(base), content(self.file("back.raw")))
                self.drive(path, seed)

    def test_internal_snapshots_do_not_change(self):
        path, was, now = self.file("x.qcow2"), self.file("was.raw"), self.file("now.raw")
        for seed, kind in enumerate(({}, {"cluster_size": 512}, {"compat": "0.10"}, {"refcount_bits": 2},
                                     {"cluster_size": "1M"}, {"refcount_bits": 64})):  # fmt: skip
            with self.subTest(kind=kind):
                self.create(path, "4M", **kind)
                self.drive(path, seed)
                self.qemu("snapshot", "-c", "first", path)
                self.qemu("convert", "-l", "first", "-O", "raw", path, was)
                self.drive(path, seed + 100)
                self.qemu("snapshot", "-c", "second", path)
                self.drive(path, seed + 200)
                self.qemu("convert", "-l", "first", "-O", "raw", path, now)
                self.assertEqual(content(was), content(now))
                self.qemu("snapshot", "-d", "second", path)
                self.drive(path, seed + 300)
                self.qemu("snapshot", "-a", "first", path)
                self.qemu("compare", "-f", "qcow2", "-F", "raw", path, was)
                self.drive(path, seed + 400)

    def test_bitmaps_are_given_up_by_who_writes(self):
        path = self.file("x.qcow2")
        self.create(path, "4M")
        self.qemu("bitmap", "--add", path, "changes")
        self.is_clean(path)
        self.call(DRIVER, "random", path, "1", "50", self.file("model.raw"))
        info = json.loads(self.qemu("info", "--output", "json", path))
        flags = info["format-specific"]["data"].get("bitmaps", [])
        self.assertEqual(flags, [])
        self.qemu("compare", "-f", "qcow2", "-F", "raw", path, self.file("model.raw"))


class Kills(ImageCase):
    def test_a_kill_loses_nothing_that_was_flushed(self):
        """At worst the image has clusters that are lost, which harms no data."""
        path, leaks, leaky = self.file("x.qcow2"), 0, 0
        dice = random.Random(os.environ.get("HV_TEST_SEED", "5"))
        sizes = ["512", "1k", "4k", "64k", "512k"]
        for number in range(KILLS):
            size, backing = sizes[number % len(sizes)], ["-b", "base.raw", "-F", "raw"]
            patterned(self.file("base.raw"), 0)
            self.create(path, "16M", *(backing if number % 3 == 2 else []), cluster_size=size)
            done = self.call(DRIVER, "kill", path, str(dice.randrange(1 << 30)), str(dice.randrange(150000)))
            report = subprocess.run(["qemu-img", "check", "-U", "-f", "qcow2", "--output", "json", path],
                                    capture_output=True, text=True, check=False)  # fmt: skip
            self.assertIn(report.returncode, (0, 3), f"kill {number}, {size}: {done}\n{report.stdout}{report.stderr}")
            found = json.loads(report.stdout)
            self.assertEqual(found.get("corruptions", 0), 0)
            ours = self.hv("image", "check", "--json", path, status=LEAKS if found.get("leaks") else 0)
            self.assertEqual(json.loads(ours.out)["leaks"], found.get("leaks", 0))
            leaks, leaky = leaks + found.get("leaks", 0), leaky + bool(found.get("leaks"))
            self.hv("image", "check", "--repair", path)
            self.is_clean(path)
        if KILLS > 10:
            print(f"{KILLS} kills: {leaky} images with leaks, {leaks} clusters in all; no corruption")


class Commands(ImageCase):
    def test_new_images_are_what_qemu_makes_of_them(self):
        for size in ("512", "1M", "10G"):
            for cluster in ("512", "4K", "64K", "2M"):
                path = self.file("x.qcow2")
                self.hv("image", "create", path, size, "--cluster-size", cluster, "--force")
                self.is_clean(path)
                info = json.loads(self.qemu("info", "--output", "json", path))
                self.assertEqual(info["cluster-size"], {"512": 512, "4K": 4096, "64K": 65536, "2M": 2 * MIB}[cluster])
        self.call("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", path)
        self.is_clean(path)
        self.hv("image", "create", self.file("x.img"), "3M")
        self.assertEqual(os.stat(self.file("x.img")).st_size, 3 * MIB)
        self.assertEqual(os.listdir(self.folder).count("x.img"), 1)

    def test_an_image_over_another(self):
        patterned(self.file("base.raw"), 2 * MIB)
        self.hv("image", "create", self.file("x.qcow2"), "4M", "--backing", "base.raw")
        info = json.loads(self.qemu("info", "--output", "json", self.file("x.qcow2")))
        self.assertEqual((info["backing-filename"], info["backing-filename-format"]), ("base.raw", "raw"))
        self.drive(self.file("x.qcow2"), 3)
        ours = json.loads(self.hv("image", "info", "--json", self.file("x.qcow2")).out)
        self.assertEqual((ours["backing-filename"], ours["backing-format"]), ("base.raw", "raw"))
        self.complains(INPUT, "base.raw", "convert", self.file("x.qcow2"), self.file("y.raw"))
        self.assertFalse(os.path.exists(self.file("y.raw")))
        self.hv("image", "convert", "--allow-backing", self.file("x.qcow2"), self.file("y.raw"))
        self.assertEqual(content(self.file("y.raw")), content(self.file("model.raw")))

    def test_convert_there_and_back(self):
        raw, back = self.file("a.raw"), self.file("b.raw")
        for size in (6 * MIB, 6 * MIB + 512, 512):
            patterned(raw, size)
            for cluster in ("512", "64K", "2M"):
                image = self.file("a.qcow2")
                self.hv("image", "convert", raw, image, "--cluster-size", cluster, "--force")
                self.is_clean(image)
                self.qemu("compare", "-f", "raw", "-F", "qcow2", raw, image)
                self.hv("image", "convert", image, back, "--force")
                self.assertEqual(content(raw), content(back))
        self.hv("image", "convert", raw, self.file("copy.x"), "--format", "raw")
        self.assertEqual(sorted(os.listdir(self.folder)), ["a.qcow2", "a.raw", "b.raw", "copy.x"])

    def test_convert_keeps_holes(self):
        raw = self.file("a.raw")
        with open(raw, "wb") as f:
            f.truncate(1 << 40)
            f.seek(1 << 39)
            f.write(b"x" * 8192)
        self.hv("image", "convert", raw, self.file("a.qcow2"))
        self.assertLess(os.stat(self.file("a.qcow2")).st_blocks * 512, MIB)
        self.hv("image", "convert", self.file("a.qcow2"), self.file("b.raw"))
        copy = os.stat(self.file("b.raw"))
        self.assertEqual(copy.st_size, 1 << 40)
        self.assertLess(copy.st_blocks * 512, MIB)
        with open(self.file("b.raw"), "rb") as f:
            f.seek((1 << 39) - 1)
            self.assertEqual(f.read(8194), b"\0" + b"x" * 8192 + b"\0")

    def test_convert_shows_progress_on_a_terminal(self):
        patterned(self.file("a.raw"), 6 * MIB)
        t = self.terminal("image", "convert", self.file("a.raw"), self.file("a.qcow2"))
        t.expect(r"\d %")
        self.assertEqual(t.wait(), 0)

    def test_a_full_disk_leaves_no_half_image(self):
        patterned(self.file("a.raw"), 6 * MIB)

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

        for args in (["convert", "a.raw", "b.qcow2"], ["convert", "a.raw", "b.raw"], ["create", "b.raw", "2M"],
                     ["create", "b.qcow2", "100T", "--cluster-size", "2M"]):  # fmt: skip
            run = subprocess.run([os.path.abspath(harness.HV), "image", *args], cwd=self.folder, preexec_fn=limit,
                                 stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
            self.assertEqual(run.returncode, HOST, run.stderr)
            self.assertEqual(len(run.stderr.splitlines()), 1, run.stderr)
            self.assertEqual(os.listdir(self.folder), ["a.raw"])

    def test_an_interrupted_convert_leaves_nothing(self):
        with open(self.file("a.raw"), "wb") as f:
            for _ in range(64):
                f.write(os.urandom(MIB))
        run = subprocess.Popen([harness.HV, "image", "convert", self.file("a.raw"), self.file("b.qcow2")],
                               stderr=subprocess.PIPE)  # fmt: skip
        while len(os.listdir(self.folder)) < 2 and run.poll() is None:
            time.sleep(0.001)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=harness.LIMIT)
        self.assertIn(run.returncode, (128 + signal.SIGINT, 0))
        there = ["a.raw"] if run.returncode else ["a.raw", "b.qcow2"]
        self.assertEqual(sorted(os.listdir(self.folder)), there)

    def test_check_agrees_with_qemu(self):
        path = self.file("x.qcow2")
        self.create(path, "4M", cluster_size="4k")
        self.drive(path, 9)
        good = content(path)
        dice = random.Random(4)
        for _ in range(60):
            with open(path, "wb") as f:  # one entry of some table or other is wrong
                f.write(good)
                f.seek(8 * dice.randrange(512, 5 * 512))
                f.write(dice.choice([0, 4096, 1 << 63 | 8192, 1 << 63 | 40960, 1 << 62 | 20480]).to_bytes(8, "big"))
            theirs = subprocess.run(["qemu-img", "check", "-f", "qcow2", "--output", "json", path], text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
            status = {0: 0, 2: INPUT, 3: LEAKS}.get(theirs.returncode, INPUT)
            r = self.hv("image", "check", path, status=None)
            self.assertEqual(r.status, status, f"{theirs.stdout}\n{r}")

    def test_resize(self):
        path = self.file("x.qcow2")
        for kind in ({}, {"cluster_size": 512}, {"compat": "0.10"}):
            self.create(path, "4M", **kind)
            self.drive(path, 1)
            self.hv("image", "resize", path, "3G")
            self.is_clean(path)
            self.qemu("resize", "-q", "-f", "raw", self.file("model.raw"), "3G")
            self.qemu("compare", "-f", "qcow2", "-F", "raw", path, self.file("model.raw"))
            self.complains(USAGE, "larger than that", "resize", path, "1M")
            self.hv("image", "resize", path, "1M", "--shrink")
            self.is_clean(path)
            self.drive(path, 2)
        self.hv("image", "resize", self.file("model.raw"), "5M")
        self.complains(USAGE, "larger than that", "resize", self.file("model.raw"), "1M")
        self.hv("image", "resize", self.file("model.raw"), "1M", "--shrink")
        self.assertEqual(os.stat(self.file("model.raw")).st_size, MIB)

    def test_who_else_uses_it(self):
        path = self.file("x.qcow2")
        self.create(path, "4M")
        qemu = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        qemu.stdin.write(b"write 0 64k\n")
        qemu.stdin.flush()
        qemu.stdout.readline()  # it has it open
        for args in (["check", path], ["resize", path, "8M"], ["convert", path, self.file("y.raw")]):
            self.complains(INPUT, "in use", *args)
        self.hv("image", "info", path)
        qemu.communicate(b"quit\n", timeout=harness.LIMIT)
        self.hv("image", "check", path)

    def test_info_looks_and_nobody_else_does(self):
        path, raw = self.file("x.qcow2"), self.file("x.raw")
        self.create(path, "4M", compression_type="zstd")
        shutil.copy(path, self.file("copy"))
        self.assertEqual(json.loads(self.hv("image", "info", "--json", self.file("copy")).out)["format"], "qcow2")
        self.complains(USAGE, "--from raw", "convert", self.file("copy"), raw)
        self.complains(USAGE, "--format raw", "check", self.file("copy"))
        self.hv("image", "check", self.file("copy"), "-f", "qcow2")
        shutil.copy(path, raw)
        self.hv("image", "convert", raw, self.file("y.raw"), "--from", "raw", status=INPUT if
                os.stat(raw).st_size % 512 else 0)  # fmt: skip

    def test_nothing_is_overwritten_by_accident(self):
        path = self.file("x.raw")
        patterned(path, MIB)
        before = content(path)
        self.complains(INPUT, "--force", "create", path, "2M")
        self.complains(INPUT, "--force", "convert", path, path)
        self.complains(INPUT, "no regular file", "create", "/dev/null", "2M", "--force", "-f", "raw")
        self.assertEqual(content(path), before)
        self.hv("image", "create", path, "2M", "--force")
        self.assertEqual(os.stat(path).st_size, 2 * MIB)

    def test_wrong_words(self):
        x = self.file("x.qcow2")
        for status, words, *args in [
                (USAGE, "can create, info"), (USAGE, "can create, info", "frobnicate"),
                (USAGE, "takes FILE SIZE", "create", x), (USAGE, "takes FILE", "info"),
                (USAGE, "takes IN OUT", "convert", x), (USAGE, "no size", "create", x, "big"),
                (USAGE, "whole sectors", "create", x, "1000"), (USAGE, "whole sectors", "create", x, "0"),
                (USAGE, "say --format raw", "create", self.file("x"), "1M"),
                (USAGE, "raw or qcow2", "create", x, "1M", "--format", "vmdk"),
                (USAGE, "power of two", "create", x, "1M", "--cluster-size", "3K"),
                (USAGE, "neither clusters", "create", self.file("x.raw"), "1M", "--cluster-size", "4K"),
                (USAGE, "--backing-format", "create", x, "1M", "--backing", "base"),
                (USAGE, "is for create", "convert", x, self.file("y.raw"), "--backing", "base.raw"),
                (USAGE, "nothing to check", "check", self.file("x.raw")),
                (HOST, "too small", "create", x, "1T", "--cluster-size", "512"),
                (INPUT, "No such file", "info", x), (INPUT, "No such file", "check", x),
                (INPUT, "No such file", "resize", x, "1M"), (INPUT, "No such file", "convert", x, self.file("y.raw")),
                (INPUT, "No such file", "create", self.file("no/x.raw"), "1M"),
                (INPUT, "not a qcow2 image", "info", "/dev/null", "-f", "qcow2"),
        ]:  # fmt: skip
            with self.subTest(args=args):
                self.complains(status, words, *args)
                self.assertEqual(os.listdir(self.folder), [])
