"""The differences of two runs as dots with intervals, the largest on top, as inline SVG.

    forest_chart.draw(compared.compared_runs(page, "released")[0], charts.WIDE)

comparison_plots.py paints the same into files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

from lveval.report.charts import WIDE, figure, label, link, polyline, shortened, tag, tooltip
from lveval.report.compared import ComparedRun, Part

Blocks = list[tuple[str, list[Part]]]


def blocks(run: ComparedRun) -> Blocks:
    """The parts under their headings, each block by size."""
    found = [("", [run.overall]), ("by length", run.levels), ("by language", run.languages)]
    return [(name, parts) for name, parts in (*found, ("by subset", run.subsets)) if parts]


def ticks(run: ComparedRun) -> list[float]:
    """At most nine ticks around 0 that hold every interval; the outer ones end the axis."""
    values = [0.0]
    for part in run.parts:
        each = part.difference
        values += [each.value, *(bound for bound in (each.low, each.high) if bound is not None)]
    low, high = min(values), max(values)
    steps = (part * 10.0**power for power in range(-1, 4) for part in (1, 2, 5))
    step = next(step for step in steps if ceil(high / step) - floor(low / step) <= 8)
    first, last = floor(low / step), ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def said(part: Part, run: ComparedRun) -> str:
    """A part in words, for its tooltip."""
    between = part.difference.between("+") or "no interval"
    shown = f"{part.better} better" if part.better else "no difference shown"
    first, second = (
        f"{name} {score:.2f}" for name, score in zip(run.columns, part.scores, strict=False)
    )
    return f"{part.name}: {part.difference.value:+.2f} ({between}), {shown}; {first}, {second}"


@dataclass(frozen=True)
class _Frame:
    """Where things stand, in the units of the viewBox."""

    wide: bool
    left: float
    right: float
    axis: tuple[float, float]

    @property
    def line(self) -> float:
        """The height of a part."""
        return 26.0 if self.wide else 40.0

    def x(self, value: float) -> float:
        low, high = self.axis
        return self.left + (value - low) / (high - low) * (self.right - self.left)


def draw(run: ComparedRun, width: int) -> str:
    """Draw a dot for each part; a full one where a difference is shown, and its interval."""
    wide, marks = width == WIDE, ticks(run)
    edges = (210.0, width - 190.0) if wide else (18.0, width - 18.0)
    frame = _Frame(wide, *edges, (marks[0], marks[-1]))
    rows = list(_rows(frame, run, 26.0))
    bottom = rows[-1][0] + frame.line
    body = []
    for mark in marks:
        x = frame.x(mark)
        css = "axis-line" if mark == 0 else "grid"
        body.append(tag("line", css=css, x1=x, x2=x, y1=22.0, y2=bottom))
        body.append(label(x, bottom + 16, f"{mark:+g}" if mark else "0", "axis", "middle"))
    for name, anchor, gap in zip(run.favours, ("end", "start"), (-8, 8), strict=True):
        # What has no room on its side of 0 would cover the other.
        room = int(((frame.right - frame.x(0)) if gap > 0 else (frame.x(0) - frame.left)) / 7.5)
        better = f"{shortened(name, max(room - 9, 8))} better"
        arrowed = f"{better} →" if gap > 0 else f"← {better}"
        if room >= 14:
            body.append(label(frame.x(0) + gap, 14, arrowed, "head", anchor))
    body += [markup for _, markup in rows]
    title = f"Differences in points, {run.columns[2]}"
    return figure(width, bottom + 24, title, body, role="group")


def _rows(frame: _Frame, run: ComparedRun, top: float) -> Iterator[tuple[float, str]]:
    """Each line with where it begins."""
    for heading, parts in blocks(run):
        if heading:
            yield top, label(0.0, top + 18, heading, "axis")
            top += 26.0
        for part in parts:
            drawn = _part(frame, run, part, top)
            told = said(part, run)
            markup = tag("g", tooltip(told) + "".join(drawn))
            yield top, link(part.href, told, *drawn) if part.href else markup
            top += frame.line


def _part(frame: _Frame, run: ComparedRun, part: Part, top: float) -> list[str]:
    found, is_all = part.difference, part is run.overall
    middle = top + (13.0 if frame.wide else 28.0)
    value = f"{found.value:+.2f}"
    between = f" ({found.between('+')})" if found.between() else ""
    css = ("first" if part.leads else "second") if part.better else "open"
    written = top + (17.0 if frame.wide else 14.0)
    name = f"name{' all' if is_all else ''}"
    body = [
        # A ground to hover and to click.
        tag("rect", css="ground", x=0.0, y=top, width=frame.right + (190 if frame.wide else 18),
            height=frame.line),
        label(0.0 if not frame.wide else 12.0, written, part.name, name),
    ]  # fmt: skip
    if found.low is not None and found.high is not None:
        ends = [(frame.x(found.low), middle), (frame.x(found.high), middle)]
        body.append(polyline(ends, f"range {css}"))
    x = frame.x(found.value)
    if is_all:
        corners = [(x, middle - 8), (x + 8, middle), (x, middle + 8), (x - 8, middle)]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        body.append(tag("polygon", points=points, css=f"dot {css}"))
    else:
        body.append(tag("circle", cx=x, cy=middle, r=5.0, css=f"dot {css}"))
    end = frame.right + (188 if frame.wide else 18)
    body.append(label(end, written, f"{value}{between}", "value-text", "end"))
    return body
