"""plot.py: draws the rows of a report as bars, in SVG, with nothing but text.

A bar is hv's share of its peer: shorter is better, and the upright line at 1 is the peer. The notch over a
bar is the goal.
"""

from xml.sax.saxutils import escape

import report

WIDTH = 860
LEFT, RIGHT = 300, 90  # room for the names, and for the number behind the longest bar
TOP, PITCH, BAR = 84, 54, 20
INK, SOFT, GRID = "#1f2430", "#667085", "#e4e7ec"
COLOURS = {True: "#2a78b8", False: "#c2410c", None: "#94a3b8"}
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


def svg(rows, surroundings):
    drawn = [row for row in rows if row["ratio"] is not None]
    scale = _Scale(drawn)
    bottom = TOP + PITCH * len(drawn)
    height = bottom + 66
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' {FONT}>",
        f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>",
        _text(24, 34, "hv against its peers", 19, INK, weight=600),
        _text(24, 56, "hv's median divided by the peer's: shorter is better; the line at 1 is the peer", 13, SOFT),
    ]
    parts += scale.grid(bottom)
    for index, row in enumerate(drawn):
        parts += _bar(row, TOP + PITCH * index, scale)
    parts += scale.peer_line(bottom)
    parts += _legend(bottom + 44, surroundings)
    return "\n".join(parts + ["</svg>", ""])


class _Scale:
    """From a ratio to a place on the horizontal axis."""

    def __init__(self, rows):
        self.limit = max([1.2] + [row["ratio"] for row in rows])
        # At most eight lines, at round numbers.
        self.step = next(step for step in (0.2, 0.5, 1, 2, 5, 10, 1e9) if self.limit / step <= 8)

    def x(self, ratio):
        return LEFT + (WIDTH - LEFT - RIGHT) * min(ratio, self.limit) / self.limit

    def grid(self, bottom):
        parts = []
        for index in range(int(self.limit / self.step + 1e-9) + 1):
            x = self.x(index * self.step)
            parts.append(f"<path d='M{x:.1f} {TOP - 8}V{bottom}' stroke='{GRID}'/>")
            parts.append(_text(x, bottom + 18, f"{index * self.step:g}", 12, SOFT, anchor="middle"))
        return parts

    def peer_line(self, bottom):
        return [f"<path d='M{self.x(1):.1f} {TOP - 8}V{bottom}' stroke='{INK}' stroke-width='1.5'/>"]


def _bar(row, y, scale):
    metric = row["metric"]
    values = f"hv {report.quantity(metric, row['hv'])}, {row['peer']} {report.quantity(metric, row['peer_value'])}"
    end = scale.x(row["ratio"])
    middle = y + PITCH / 2 - 4
    parts = [
        _text(24, middle - 2, f"{report.TITLES[metric]}, {report.WHERE[row['where']]}", 14, INK),
        _text(24, middle + 16, values, 12, SOFT),
        f"<rect x='{LEFT}' y='{middle - BAR / 2:.1f}' width='{max(end - LEFT, 2):.1f}' height='{BAR}' rx='3'"
        f" fill='{COLOURS[row['met']]}'/>",
        _text(_clear_of_lines(end, row, scale) + 8, middle + 5, f"{row['ratio']:.2f}", 14, INK, weight=600),
    ]
    if row["goal_ratio"] is not None and row["goal_ratio"] <= scale.limit:
        goal = scale.x(row["goal_ratio"])
        parts.append(f"<path d='M{goal:.1f} {middle - 16:.1f}V{middle + 16:.1f}' stroke='#b7791f' stroke-width='3'/>")
    return parts


def _clear_of_lines(end, row, scale):
    """The number stands behind its bar, or, where a line would run through it, behind that."""
    for ratio in sorted(filter(None, (row["goal_ratio"], 1))):
        line = scale.x(ratio)
        if end < line < end + 48:
            end = line
    return end


def _legend(y, surroundings):
    parts, x = [], 24
    for colour, text in ((COLOURS[True], "goal met"), (COLOURS[False], "goal missed"), (COLOURS[None], "no goal here")):
        parts.append(f"<rect x='{x}' y='{y - 10}' width='12' height='12' rx='2' fill='{colour}'/>")
        parts.append(_text(x + 18, y, text, 12, SOFT))
        x += 34 + 7 * len(text)
    parts.append(f"<path d='M{x + 6} {y - 13}v18' stroke='#b7791f' stroke-width='3'/>")
    parts.append(_text(x + 18, y, "goal", 12, SOFT))
    about = " · ".join(filter(None, (surroundings["cpu"], surroundings["qemu"])))
    parts.append(_text(WIDTH - 24, y, about, 12, SOFT, anchor="end"))
    return parts


def _text(x, y, text, size, colour, weight=400, anchor="start"):
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{colour}' font-weight='{weight}'"
        f" text-anchor='{anchor}'>{escape(text)}</text>"
    )
