"""test_verify.py: when a wrong answer that got through once is a hole in the grader, and when not."""

import os
import sys
import unittest
from types import SimpleNamespace

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../labs/tool"))
import verify  # noqa: E402
from grader import FAILED, PASSED  # noqa: E402


class Trial:
    def __init__(self, built, seed):
        self.built, self.seed, self.by_name = built, seed, {}

    def records(self, lab):
        return list(self.by_name.values())


class Bench:
    """Its check answers with VERDICTS, one after the other."""

    def __init__(self, verdicts):
        self.verdicts = list(verdicts)

    def check(self, trial, lab, place, names):
        for name in names:
            trial.by_name[name] = {"name": name, "verdict": self.verdicts.pop(0)}


class Luck(unittest.TestCase):
    def judged(self, *verdicts, seed=None):
        """What becomes of a mutant whose check gives VERDICTS; and how many of these were not asked for."""
        bench = Bench(verdicts)
        verifier = verify.Verifier(None, SimpleNamespace(number=1), bench, None, seed=seed)
        trial = Trial(SimpleNamespace(ok=True), "the first")
        bench.check(trial, None, None, ["sums"])
        verifier._try_again(trial, None)
        verdict, notes = verifier._judge_mutant(trial)
        return verdict, " ".join(notes), len(bench.verdicts)

    def test_one_that_is_caught_is_not_tried_again(self):
        self.assertEqual(self.judged(FAILED, PASSED), (PASSED, "", 1))

    def test_one_that_got_through_once_is_told(self):
        verdict, notes, left = self.judged(PASSED, *[FAILED] * verify.MORE)
        self.assertEqual((verdict, left), (PASSED, 0))
        self.assertIn("the first", notes)

    def test_one_that_gets_through_again_is_a_hole(self):
        for again in range(verify.MORE):
            verdicts = [FAILED] * verify.MORE
            verdicts[again] = PASSED
            verdict, notes, _ = self.judged(PASSED, *verdicts)
            self.assertEqual(verdict, FAILED)
            self.assertIn("did not catch it", notes)

    def test_with_a_given_seed_there_is_no_other(self):
        self.assertEqual(self.judged(PASSED, FAILED, seed="abc")[::2], (FAILED, 1))


if __name__ == "__main__":
    unittest.main()
