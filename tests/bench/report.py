"""report.py: from single values to rows of a table: medians, ratios, and whether a goal is met.

A row compares hv with one peer in one metric on one KVM; its ratio is the median of the ratios of each round, in
which both had their turn right after each other. Where the goal is a ratio to a peer, the row of that
peer has it; an absolute goal stands in the first row of its metric.
"""

import statistics

UNITS = {
    "randread": (1e6, "µs"), "randwrite": (1e6, "µs"), "seqread": (1, "s"), "seqwrite": (1, "s"),
    "send": (1, "s"), "receive": (1, "s"), "answer": (1e6, "µs"), "boot": (1, "s"), "memory": (1 / (1 << 20), "MiB"), "start": (1e3, "ms"), "exit": (1e6, "µs"),
    "exits_read": (1, ""), "exits_write": (1, ""), "exits_send": (1, ""), "exits_receive": (1, ""),
    "exits_answer": (1, ""), "queue": (1e9, "ns"),
}  # fmt: skip
TITLES = {
    "boot": "boot to user space",
    "memory": "memory of the monitor",
    "start": "start to first instruction",
    "exit": "one port write",
    "randread": "4 KiB read at random, 32 at a time",
    "randwrite": "4 KiB written at random, 32 at a time",
    "seqread": "1 GiB read in a row",
    "seqwrite": "1 GiB written in a row",
    "send": "1 GiB from the guest over TCP",
    "receive": "1 GiB to the guest over TCP",
    "answer": "round trip of a ping",
    "exits_read": "exits for 4 KiB read",
    "exits_write": "exits for 4 KiB written",
    "exits_send": "exits for a packet, sending",
    "exits_receive": "exits for a packet, receiving",
    "exits_answer": "exits for a ping",
}
WHERE = {"host": "host's KVM", "lab": "lab machine"}

# What issue and design promise. `where`: an absolute time means nothing in an emulated machine.
GOALS = {
    "boot": {"peer": "qemu", "ratio": 0.6},
    "memory": {"value": 5 * (1 << 20), "text": "≤ 5 MiB"},
    "start": {"value": 0.010, "text": "≤ 10 ms", "where": "host"},
    "exit": {"peer": "bare", "ratio": 1.1},
    **{name: {"peer": "qemu", "ratio": 1.0}
       for name in ("randread", "randwrite", "seqread", "seqwrite", "send", "receive", "answer")},
    **{name: {"peer": "hv without event index", "ratio": 1.0}
       for name in ("exits_read", "exits_write", "exits_send", "exits_receive", "exits_answer")},
}


def entry(metric, where, contestant):
    return {"metric": metric, "where": where, "contestant": contestant, "values": [], "problem": None}


def quantity(metric, value):
    """A value in its metric's unit; anything else, such as an error, as text."""
    if not isinstance(value, (int, float)):
        return f"failed: {value}"
    factor, unit = UNITS[metric]
    number = value * factor
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:.{digits}f} {unit}".rstrip()


def median(values):
    return statistics.median(values) if values else None


def rows(results):
    """Dictionaries for table, JSON and plot; one for each peer of hv, or one for hv alone."""
    found = []
    for own in (result for result in results if result["contestant"] == "hv"):
        same = [r for r in results if (r["metric"], r["where"]) == (own["metric"], own["where"]) and r is not own]
        for index, other in enumerate(same or [None]):
            found.append(_row(own, other, index == 0))
    return found


def _row(own, other, is_first):
    row = {key: own[key] for key in ("metric", "where")}
    row["hv"] = median(own["values"])
    row["peer"] = other["contestant"] if other else None
    row["peer_value"] = median(other["values"]) if other else None
    ratios = [ours / theirs for ours, theirs in zip(own["values"], other["values"])] if other else []
    row["ratio"] = median(ratios)
    row["ratio_range"] = [min(ratios), max(ratios)] if ratios else None
    row["goal"], row["goal_ratio"], row["met"] = _judge(row, is_first)
    return row


def _judge(row, is_first):
    """(text, the same as a ratio to this row's peer, whether it is met); None where there is none."""
    goal = GOALS[row["metric"]]
    if goal.get("where", row["where"]) != row["where"]:
        return None, None, None
    if "ratio" in goal:
        if row["peer"] != goal["peer"]:
            return None, None, None
        met = row["ratio"] <= goal["ratio"] if row["ratio"] else None
        return f"≤ {goal['ratio']} ×", goal["ratio"], met
    if not is_first:
        return None, None, None
    met = row["hv"] <= goal["value"] if row["hv"] else None
    ratio = goal["value"] / row["peer_value"] if row["peer_value"] else None
    return goal["text"], ratio, met


def table(found):
    if not found:
        return ""
    lines = [("", "on the", "hv", "peer", "", "ratio", "of rounds", "goal", "")]
    for row in found:
        lines.append((
            TITLES[row["metric"]],
            WHERE[row["where"]],
            _or_dash(row["hv"], lambda value: quantity(row["metric"], value)),
            row["peer"] or "-",
            _or_dash(row["peer_value"], lambda value: quantity(row["metric"], value)),
            _or_dash(row["ratio"], "{:.2f}".format),
            _or_dash(row["ratio_range"], lambda two: "{:.2f}–{:.2f}".format(*two)),
            row["goal"] or "",
            verdict(row),
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = (2, 4, 5)
    return "\n".join(
        "  ".join(cell.rjust(width) if column in right else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )  # fmt: skip


def verdict(row):
    if row["goal"] is None:
        return ""
    return {True: "met", False: "missed", None: "not measured"}[row["met"]]


def _or_dash(value, form):
    return "-" if value is None else form(value)
