#!/usr/bin/env python3
"""unittests.py FILE REPORT [TEXT]: runs the unittest cases of FILE, of which the name has TEXT.

Writes one line of JSON into REPORT when a test begins and one when it ends, so that whoever started this
knows what was running should it have to be killed.
"""

import importlib.util
import json
import os
import sys
import time
import unittest

sys.dont_write_bytecode = True


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


class Recorder(unittest.TestResult):
    def __init__(self, out):
        super().__init__()
        self._out = out
        self._start = 0.0
        self._verdict = None

    def _write(self, **record):
        print(json.dumps(record), file=self._out, flush=True)

    def startTest(self, test):
        super().startTest(test)
        self._start, self._verdict = time.monotonic(), ("passed", "")
        self._write(name=test.id())

    def stopTest(self, test):
        status, detail = self._verdict
        self._write(name=test.id(), status=status, detail=detail, seconds=time.monotonic() - self._start)
        super().stopTest(test)

    def _fail(self, test, error, what=""):
        text = what + self._exc_info_to_string(error, test)
        if not isinstance(test, unittest.TestCase) or self._verdict is None:
            self._write(name=test.id(), status="failed", detail=text, seconds=0.0)  # setUpClass and the like
            return
        before = self._verdict[1] if self._verdict[0] == "failed" else ""
        self._verdict = ("failed", before + text)

    def addError(self, test, error):
        self._fail(test, error)

    def addFailure(self, test, error):
        self._fail(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self._fail(test, error, f"{subtest.params}: ")

    def addSkip(self, test, reason):
        self._verdict = ("skipped", reason)

    def addUnexpectedSuccess(self, test):
        self._verdict = ("failed", "passed, though it was expected to fail")


def load(path):
    name = os.path.splitext(os.path.basename(path))[0]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def main():
    path, report, text = [*sys.argv[1:], ""][:3]
    with open(report, "w", encoding="utf-8") as out:
        chosen = [test for test in flatten(load(path)) if text in test.id()]
        unittest.TestSuite(chosen).run(Recorder(out))


if __name__ == "__main__":
    main()
