#!/usr/bin/env python3
"""test_bench.py: the bench's arithmetic and its handling of contestants that fail. Needs no KVM."""

import sys

sys.dont_write_bytecode = True

import os  # noqa: E402
import unittest  # noqa: E402
from xml.etree import ElementTree  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import devices  # noqa: E402
import exits  # noqa: E402
import measure  # noqa: E402
import plot  # noqa: E402
import queues  # noqa: E402
import report  # noqa: E402

SMAPS = """\
00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/some: thing
Size:                328 kB
Rss:                 300 kB
Pss:                  30 kB
Pss_Dirty:             7 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Pss:               90000 kB
7ffc5c650000-7ffc5c672000 rw-p 00000000 00:00 0 [stack]
Size:                136 kB
Pss:                  12 kB
"""


def result(metric, contestant, values, where="host"):
    return dict(report.entry(metric, where, contestant), values=values)


class Measure(unittest.TestCase):
    def test_reads_size_and_pss_of_each_mapping(self):
        kib = 1024
        expected = [(328 * kib, 30 * kib), (131072 * kib, 90000 * kib), (136 * kib, 12 * kib)]
        self.assertEqual(measure.parse_smaps(SMAPS.splitlines()), expected)

    def test_takes_turns_and_drops_the_warm_up(self):
        order = []

        def value(name):
            order.append(name)
            return len(order)

        pairs = list(measure.in_turns({"a": "a", "b": "b"}, 2, value))
        self.assertEqual("".join(order), "ababab")
        self.assertEqual(pairs, [("a", 3), ("b", 4), ("a", 5), ("b", 6)])

    def test_goes_on_without_a_contestant_that_fails(self):
        def value(name):
            if name == "b":
                raise measure.BenchError("no")
            return 1

        pairs = list(measure.in_turns({"a": "a", "b": "b"}, 2, value))
        self.assertEqual([name for name, _ in pairs], ["b", "a", "a"])
        self.assertIsInstance(pairs[0][1], measure.BenchError)

    def test_fills_in_a_command_without_splitting_values(self):
        argv = measure.command("vmm -p {append} 'two words' -m {memory}M", append="a b {c}", memory=5)
        self.assertEqual(argv, ["vmm", "-p", "a b {c}", "two words", "-m", "5M"])

    def test_puts_a_guest_at_the_reset_vector(self):
        rom = measure.as_rom(b"\xe6\xe9")
        self.assertEqual((len(rom), rom[0xFFF0:]), (0x10000, b"\xe6\xe9" + b"\xf4" * 14))
        with self.assertRaises(measure.BenchError):
            measure.as_rom(bytes(17))

    def test_says_how_a_process_ended(self):
        with measure.Child(["sh", "-c", "echo out; echo err >&2; exit 3"]) as child:
            with self.assertRaisesRegex(measure.BenchError, r"sh ended with status 3, not 0; .*out \| err"):
                child.wait(0)
        with self.assertRaisesRegex(measure.BenchError, "no-such-program"):
            measure.Child(["no-such-program"])

    def test_sees_a_line_before_the_process_ends(self):
        with measure.Child(["sh", "-c", "echo early; sleep 1000"]) as child:
            self.assertLess(child.read_until(b"early"), measure.LIMIT)


class Report(unittest.TestCase):
    def test_compares_with_each_peer_round_by_round(self):
        rows = report.rows([
            result("boot", "hv", [9, 3, 2]), result("boot", "qemu", [10, 6, 5]), result("boot", "other", [3, 6]),
        ])  # fmt: skip
        self.assertEqual([row["ratio"] for row in rows], [0.5, 1.75])
        self.assertEqual(rows[0]["ratio_range"], [0.4, 0.9])
        self.assertEqual([row["peer_value"] for row in rows], [6, 4.5])
        self.assertEqual([row["met"] for row in rows], [True, None])

    def test_judges_absolute_goals_once_and_where_they_hold(self):
        rows = report.rows([
            result("start", "hv", [0.02]), result("start", "qemu", [0.04]),
            result("start", "hv", [0.02], "lab"), result("memory", "hv", [1], "lab"),
        ])  # fmt: skip
        self.assertEqual([row["met"] for row in rows], [False, None, True])
        self.assertEqual([row["goal_ratio"] for row in rows], [0.25, None, None])

    def test_has_no_verdict_without_values(self):
        rows = report.rows([result("exit", "hv", []), result("exit", "bare", [1e-6])])
        self.assertIsNone(rows[0]["met"])
        self.assertRegex(report.table(rows), r"-  bare +1\.00 µs +- +- +≤ 1\.1 × +not measured")

    def test_keeps_three_digits(self):
        self.assertEqual(report.quantity("boot", 4.0), "4.00 s")
        self.assertEqual(report.quantity("start", 0.01234), "12.3 ms")
        self.assertEqual(report.quantity("memory", 300 << 20), "300 MiB")


class Exits(unittest.TestCase):
    def test_counts_what_many_cost_more_than_few(self):
        seen = [(1000, 10), (1500, 60), (2900, 310)]  # 500 and 1400 exits, 50 and 250 packets
        self.assertEqual(exits.exits_per_thing("exits_send", seen), 900 / 200)
        self.assertEqual(exits.exits_per_thing("exits_answer", seen), 900 / 100)
        self.assertEqual(exits.exits_per_thing("exits_read", seen), 900 / 5000)

    def test_refuses_many_that_were_few(self):
        with self.assertRaisesRegex(measure.BenchError, "no more than few"):
            exits.exits_per_thing("exits_receive", [(0, 0), (100, 50), (200, 90)])

    def test_a_guest_marks_every_step(self):
        script = exits.script(["exits_read", "exits_answer"])
        self.assertEqual(script.count("mark exits_read-"), 3)
        self.assertLess(script.index("--io_size=4000k"), script.index("mark exits_read-1"))
        self.assertNotIn("{", script.partition("\n")[2])

    def test_takes_the_event_index_from_every_device(self):
        changed = exits.without_event_index({"hv": devices.HV_ARGUMENTS, "qemu": devices.QEMU_ARGUMENTS})
        self.assertEqual(changed["hv" + exits.NO_EVENT_INDEX].count("event-idx=off"), 2)
        self.assertEqual(changed["qemu" + exits.NO_EVENT_INDEX].count("event_idx=off"), 3)


class Queues(unittest.TestCase):
    def test_shows_medians_and_what_is_missing(self):
        text = queues.table([result("queue", "echo direct flags 1", [5e-8, 2e-8, 4e-8])])
        self.assertRegex(text, r"a chain +1 +40 \(25\.0 M\) +- +- +-")
        self.assertEqual(queues.table([result("boot", "hv", [1])]), "")


class Plot(unittest.TestCase):
    def test_draws_well_formed_svg_whatever_the_ratios(self):
        rows = report.rows([
            result("boot", "hv", [30]), result("boot", "<&'", [1]), result("boot", "qemu", []),
            result("exit", "hv", [1]), result("exit", "bare", [1]),
        ])  # fmt: skip
        for chosen in (rows, []):
            root = ElementTree.fromstring(plot.svg(chosen, {"cpu": "A & B", "qemu": None}))
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")


if __name__ == "__main__":
    unittest.main()
