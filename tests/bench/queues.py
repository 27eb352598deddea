"""queues.py: what a request costs without a machine round it: runs queue_loop.c, and makes a table of it.

    echo     a chain of two buffers that goes back as it came: the queue alone
    read     4 KiB from a disk in memory
    send     a frame of 1,500 bytes to a network that takes everything

In ns of CPU time. A run of queue_loop goes through all cases, and the next run begins again with the first, so
a slow spell of the machine hits all alike.
"""

import os
import statistics
import subprocess

import measure

LOOP = os.path.join(measure.ROOT, "build", "release", "tests", "bench", "queue_loop")
METRICS = ("queue",)
KINDS = {"echo": "a chain", "read": "4 KiB read", "send": "a frame sent"}
CASES = [(table, told) for told in ("flags", "event") for table in ("direct", "indirect")]
HEADS = {"direct": "direct", "indirect": "indirect", "flags": "flags", "event": "event index"}


def run(names, runs):
    """Yields (metric, case, ns for a request), as often as `runs` says."""
    del names
    for _ in range(runs):
        try:
            done = subprocess.run([LOOP], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise measure.BenchError(f"queue_loop: {error.stderr.strip()}") from None
        for line in done.stdout.splitlines():
            *case, ns, _ = line.split()
            yield "queue", " ".join(case), float(ns) / 1e9


def table(results):
    """Rows: what, how many at a time; columns: how descriptors lie and how the driver is told."""
    found = {r["contestant"]: statistics.median(r["values"]) for r in results if r["metric"] == "queue" and r["values"]}
    if not found:
        return ""
    lines = [["ns for a request (requests/s)", "at a time"]]
    lines[0] += [f"{HEADS[told]}, {HEADS[where]}" for where, told in CASES]
    for kind, title in KINDS.items():
        for batch in (1, 32):
            values = [found.get(f"{kind} {where} {told} {batch}") for where, told in CASES]
            lines.append([title, str(batch)] + [cell(value) for value in values])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:])])
                     for line in lines)  # fmt: skip


def cell(value):
    if value is None:
        return "-"
    return f"{value * 1e9:.0f} ({1e-6 / value:.1f} M)"
