"""test_setup.py: deps, guest/linux/fetch and the initramfs writer, against a pretended apt.

No network and no package is touched: PATH leads to scripts of ours that answer as apt and dpkg do.
"""

import io
import os
import stat
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPS = os.path.join(ROOT, "tests", "setup", "deps")
FETCH = os.path.join(ROOT, "guest", "linux", "fetch")
sys.path.insert(0, os.path.join(ROOT, "guest", "linux"))

import newc  # noqa: E402
import parts  # noqa: E402


class Pretended(unittest.TestCase):
    """A directory of pretended tools in front of PATH; what they are called with goes to `calls`."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        os.mkdir(self.path("bin"))
        self.environment = dict(os.environ, HVLAB_CACHE=self.path("cache"))
        self.environment["PATH"] = self.path("bin") + ":" + os.environ["PATH"]

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def tool(self, name, script):
        with open(self.path("bin", name), "w", encoding="utf-8") as out:
            out.write(f'#!/bin/sh\necho "{name} $*" >>{self.path("calls")}\n{script}\n')
        os.chmod(self.path("bin", name), 0o755)

    def calls(self):
        if not os.path.exists(self.path("calls")):
            return ""
        with open(self.path("calls"), encoding="utf-8") as calls:
            return calls.read()

    def run_tool(self, *argv):
        return subprocess.run(
            argv, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip


class Deps(Pretended):
    def setUp(self):
        super().setUp()
        self.tool("apt-get", "")
        self.tool("apt-cache", "[ $3 != libclang-rt-dev ]")
        self.tool("sudo", 'exec "$@"')

    def install_all_but(self, *absent):
        pattern = "|".join((*absent, "-"))
        script = f'shift 3; for p; do case $p in {pattern}) ;; *) echo "installed $p" ;; esac; done'
        self.tool("dpkg-query", script)

    def test_says_and_does_nothing_when_all_is_there(self):
        self.install_all_but()
        start = time.monotonic()
        done = self.run_tool(DEPS, "--labvm", "demo", "test")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertLess(time.monotonic() - start, 0.2 * 5)  # 0.04 s; room for a busy machine
        self.assertEqual(self.calls().count("dpkg-query"), 1)
        self.assertNotIn("apt", self.calls())

    def test_names_what_is_missing_then_installs_it(self):
        self.install_all_but("gcc", "make")
        done = self.run_tool(DEPS, "demo")
        self.assertEqual(done.returncode, 0)
        self.assertIn("missing packages: gcc make\n", done.stderr)
        self.assertIn("apt-get update", self.calls())
        self.assertRegex(self.calls(), "apt-get install .* gcc make\n")

    def test_check_only_names(self):
        self.install_all_but("gdb")
        done = self.run_tool(DEPS, "--check", "test")
        self.assertEqual((done.returncode, done.stderr), (1, "deps: missing packages: gdb\n"))
        self.assertNotIn("apt-get", self.calls())

    def test_any_alternative_will_do(self):
        self.install_all_but("libclang-rt-dev", "libclang-rt-18-dev")
        self.assertEqual(self.run_tool(DEPS, "test").stderr, "")

    def test_installs_the_alternative_that_apt_knows(self):
        self.install_all_but("libclang-rt-dev", "libclang-rt-18-dev", "libclang-rt-19-dev")
        self.assertEqual(self.run_tool(DEPS, "test").returncode, 0)
        self.assertRegex(self.calls(), "apt-get install .* libclang-rt-19-dev\n")

    def test_failure_of_apt_is_a_failure(self):
        self.install_all_but("gcc")
        self.tool("apt-get", "[ $1 = update ]")
        done = self.run_tool(DEPS, "demo")
        self.assertEqual(done.returncode, 1)
        self.assertIn("could not install: gcc", done.stderr)

    def test_lists_packages_where_there_is_no_apt(self):
        for name in ("sh", "id", "grep", "tr", "sort", "fold", "sed"):
            os.symlink(f"/usr/bin/{name}", self.path("bin", name))
        os.unlink(self.path("bin", "apt-get"))
        self.environment["PATH"] = self.path("bin")
        done = self.run_tool(DEPS, "demo")
        self.assertEqual(done.returncode, 1)
        self.assertIn("has no apt", done.stderr)
        self.assertIn("zlib1g-dev", done.stderr)

    def test_a_command_will_do_whoever_installed_it(self):
        self.install_all_but("nodejs", "npm", "chromium", "chromium-browser")
        for name in ("node", "npm", "google-chrome"):
            self.tool(name, "")
        done = self.run_tool(DEPS, "slides")
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("apt", self.calls())

    def test_npm_fetches_what_the_lock_says_once(self):
        self.install_all_but()
        self.tool("npm", "")
        self.assertEqual(self.run_tool(DEPS, "--check", "slides").returncode, 1)
        self.assertNotIn("npm ci", self.calls())
        for _ in range(2):
            self.assertEqual(self.run_tool(DEPS, "slides").returncode, 0)
        self.assertEqual(self.calls().count("npm ci"), 1)
        self.assertTrue(os.path.exists(self.path("cache", "slides", "package-lock.json")))

    def test_without_network_npm_fails_and_is_tried_again(self):
        self.install_all_but()
        self.tool("npm", "exit 1")
        for _ in range(2):
            done = self.run_tool(DEPS, "slides")
            self.assertEqual(done.returncode, 1)
            self.assertIn("needs a network, once", done.stderr)
        self.assertEqual(self.calls().count("npm ci"), 2)

    def test_unknown_set_is_usage(self):
        self.assertEqual(self.run_tool(DEPS, "everything").returncode, 2)
        self.assertEqual(self.run_tool(DEPS).returncode, 2)


class Fetch(Pretended):
    """The pretended archive has one kernel, laid out as Debian 13 does."""

    def setUp(self):
        super().setUp()
        tree = self.path("tree")
        os.makedirs(f"{tree}/boot")
        os.makedirs(f"{tree}/usr/lib/modules/6.99-cloud/kernel")
        for name in ("boot/vmlinuz-6.99-cloud", "usr/lib/modules/6.99-cloud/modules.builtin"):
            with open(f"{tree}/{name}", "w", encoding="ascii") as out:
                out.write("x")
        self.tool("apt-cache", 'echo "  Depends: linux-image-6.99-cloud"')
        self.tool("apt-get", 'case $1 in download) : >k_6.99_amd64.deb ;; esac')
        self.tool("dpkg", f"cp -R {tree}/. $3")

    def cache(self):
        return sorted(os.listdir(self.path("cache")))

    def test_leaves_kernel_modules_and_version(self):
        done = self.run_tool(FETCH, "cloud")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual(self.cache(), ["cloud", "fetch.lock"])
        with open(self.path("cache", "cloud", "version"), encoding="ascii") as version:
            self.assertEqual(version.read(), "6.99-cloud\n")
        self.assertTrue(os.path.exists(self.path("cache", "cloud", "vmlinuz")))
        modules = self.path("cache", "cloud", "modules", "lib", "modules", "6.99-cloud")
        self.assertTrue(os.path.exists(f"{modules}/modules.dep"))

    def test_second_call_asks_nobody(self):
        self.run_tool(FETCH, "cloud")
        os.unlink(self.path("calls"))
        self.assertEqual(self.run_tool(FETCH, "cloud").returncode, 0)
        self.assertEqual(self.calls(), "")

    def test_failed_download_leaves_nothing(self):
        self.tool("apt-get", "echo no network >&2; : >half.deb; exit 1")
        done = self.run_tool(FETCH, "cloud")
        self.assertEqual(done.returncode, 1)
        self.assertIn("fetch: ", done.stderr)
        self.assertEqual(self.cache(), ["fetch.lock"])

    def test_stale_lists_are_updated_once(self):
        self.tool("sudo", 'exec "$@"')
        self.tool("apt-get", f'case $1 in update) : >{self.path("fresh")} ;; '
                  f'*) [ -e {self.path("fresh")} ] && : >k_6.99_amd64.deb ;; esac')  # fmt: skip
        self.assertEqual(self.run_tool(FETCH, "cloud").returncode, 0)
        self.assertEqual(self.calls().count("apt-get update"), 1)

    def test_two_at_once_download_once(self):
        argv = [FETCH, "cloud"]
        runs = [subprocess.Popen(argv, env=self.environment) for _ in range(2)]
        self.assertEqual([process.wait() for process in runs], [0, 0])
        self.assertEqual(self.calls().count("dpkg -x"), 1)

    def test_unknown_name_is_refused(self):
        self.assertEqual(self.run_tool(FETCH, "windows").returncode, 1)
        self.assertEqual(self.run_tool(FETCH).returncode, 1)


class Newc(unittest.TestCase):
    def archive(self):
        archive = newc.Archive()
        archive.file("bin/tool", b"12345", 0o755)
        archive.symlink("bin/link", "tool")
        archive.character_device("dev/console", 5, 1)
        return archive

    def test_is_what_cpio_reads(self):
        out = io.BytesIO()
        self.archive().write(out)
        listing = subprocess.run(["busybox", "cpio", "-tv"], input=out.getvalue(), stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, check=True).stdout.decode()  # fmt: skip
        rows = [line.split() for line in listing.splitlines()]
        self.assertEqual([row[0] for row in rows],
                         ["drwxr-xr-x", "lrwxrwxrwx", "-rwxr-xr-x", "drwxr-xr-x", "crw-------"])  # fmt: skip

    def test_same_input_gives_same_bytes(self):
        first, second = io.BytesIO(), io.BytesIO()
        self.archive().write(first)
        self.archive().write(second)
        self.assertEqual(first.getvalue(), second.getvalue())
        self.assertEqual(len(first.getvalue()) % 512, 0)

    def test_refuses_a_name_given_twice(self):
        archive = self.archive()
        with self.assertRaises(ValueError):
            archive.file("bin/tool", b"")

    def test_copies_the_mode(self):
        with tempfile.NamedTemporaryFile() as source:
            source.write(b"data")
            source.flush()
            os.chmod(source.name, 0o640)
            archive = newc.Archive()
            archive.copy("x", source.name)
        out = io.BytesIO()
        archive.write(out)
        self.assertEqual(int(out.getvalue()[14:22], 16), stat.S_IFREG | 0o640)


class Modules(unittest.TestCase):
    def test_load_order_puts_needs_first_and_skips_the_unknown(self):
        with tempfile.TemporaryDirectory() as root:
            with open(f"{root}/modules.dep", "w", encoding="ascii") as table:
                table.write("k/a-b.ko.xz: k/c.ko k/d.ko\nk/c.ko: k/d.ko\nk/d.ko:\n")
            modules = parts.Modules(root)
            self.assertEqual(modules.load_order(["builtin", "a-b"]), ["d", "c", "a_b"])
            self.assertIn("a-b", modules)


if __name__ == "__main__":
    unittest.main()
