"""A report's charts: what they show, for every painter, and their inline SVG for the page.

    charts.draw_curves(charts.curve_chart(page), charts.WIDE)

The SVG is made of strings: no plotting library, no script. Colours come from the page's style by
class. Each chart is drawn for a wide and for a narrow screen, so that text keeps its size; the
style shows one of the two. plots.py paints the same charts into files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from math import ceil, fsum, log2

from lveval.analysis.intervals import Interval
from lveval.common.levels import PUBLISHED_LEVELS, level_length
from lveval.common.text import printable
from lveval.report.beside import HUES
from lveval.report.data import ReportData
from lveval.results import HEADLINE, PUBLISHED

WIDE, NARROW = WIDTHS = (960, 328)  # units of the viewBox: CSS pixels on a screen of that width

# Of the two charts that stand beside each other on the page's first screen.
CURVE_WIDTHS, FAMILY_WIDTHS = (620, NARROW), (400, NARROW)

STEPS = 11  # colours of a heat map, h0 to h10 in page.css

LABEL_GAP = 15.0  # between the baselines of two labels

Point = tuple[float, float]

Curve = tuple[str, dict[str, float]]  # name, level -> mean

CORNERS: dict[str, list[Point]] = {  # of the points of a curve, as far from their middle
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1.2), (1.2, 1), (-1.2, 1)],
    "diamond": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
}

SHAPES = (*CORNERS, "circle")  # of the points of curves with a name


# --- what the charts show ---


@dataclass(frozen=True)
class CurveEnd:
    """Where a curve ends, to be named there."""

    level: str
    value: float
    name: str
    css: str = "published"  # "own", or the hue of a compared run
    standing: str = ""  # of a published model: "best", "median", "nearest"; blank: not named


@dataclass(frozen=True)
class CurveChart:
    """Level means of the run and, over the same subsets, of compared runs and published models."""

    levels: list[str]  # the axis, by length
    ticks: list[float]  # of the scores
    published: list[Curve]
    name: str  # the run's
    own: dict[str, Interval]  # level -> its mean
    leaderboard_levels: list[str]  # of the own curve; points at others are hollow
    unit: str = "mean score (0 to 100)"
    title: str = "Mean score by length of the context, this run and the published models"
    compared: list[Curve] = field(default_factory=list)
    ceiling: Mapping[str, float] = field(default_factory=dict)  # level -> score

    def across(self, level: str) -> float:
        """Place a level on the logarithmic axis, 0 to 1."""
        first, last = (log2(level_length(end)) for end in (self.levels[0], self.levels[-1]))
        return (log2(level_length(level)) - first) / (last - first) if last > first else 0.5

    @property
    def own_end(self) -> CurveEnd:
        """Where the run's own curve ends."""
        level = list(self.own)[-1]
        return CurveEnd(level, self.own[level].value, self.name, "own")

    @property
    def ends(self) -> list[CurveEnd]:
        """The curves named at the margin: the own one only if it reaches it."""
        standing = self.standing
        ends = [
            CurveEnd(*list(line.items())[-1], name, standing=standing.get(name, ""))
            for name, line in self.published
        ]
        ends += [
            CurveEnd(*list(line.items())[-1], name, HUES[number % len(HUES)])
            for number, (name, line) in enumerate(self.compared)
        ]
        if self.own_reaches_margin:
            ends.append(self.own_end)
        for level, value in list(self.ceiling.items())[-1:]:
            if value <= self.ticks[-1]:
                ends.append(CurveEnd(level, value, "ceiling", "ceiling"))
        return ends

    @property
    def standing(self) -> dict[str, str]:
        """Which published models are the best, the median and the nearest to this run.

        By the mean over the levels that this run and the model have.
        """
        means, distances = {}, {}
        for name, line in self.published:
            if shared := [level for level in self.own if level in line]:
                means[name] = fsum(line[level] for level in shared) / len(shared)
                own = fsum(self.own[level].value for level in shared) / len(shared)
                distances[name] = abs(means[name] - own)
        if not means:
            return {}
        order = sorted(means, key=lambda name: -means[name])
        told: dict[str, list[str]] = {}
        nearest = min(order, key=lambda name: distances[name])
        for name, said in (
            (order[0], "best"),
            (order[len(order) // 2], "median"),
            (nearest, "nearest"),
        ):
            told.setdefault(name, []).append(said)
        return {name: ", ".join(said) for name, said in told.items()}

    @property
    def own_reaches_margin(self) -> bool:
        """Whether the run has the longest level of the axis."""
        return self.own_end.level == self.levels[-1]


def curve_chart(page: ReportData, protocol: str = HEADLINE) -> CurveChart:
    """Collect the curves under one protocol, of a page that has a level."""
    published, own = published_curves(page, protocol), page.protocols[protocol].level_means
    compared = compared_curves(page, protocol)
    lines = [line for _, line in (*published, *compared)]
    levels = {*own, *(level for line in lines for level in line)}
    values = [value for line in lines for value in line.values()]
    highest = max([*values, *(max(score.value, score.high or 0) for score in own.values())])
    return CurveChart(
        sorted(levels, key=level_length),
        ticks_up_to(highest),
        published,
        page.name,
        {level: own[level] for level in page.levels},
        page.leaderboard_levels,
        compared=compared,
        ceiling=page.ceiling,
    )


def reasoning_chart(page: ReportData) -> CurveChart:
    """Collect the tokens of reasoning by length, of a page that has some, at equal questions."""
    tokens = {
        level: part.tokens.mean
        if part.tokens_same_questions is None
        else part.tokens_same_questions
        for level, part in page.reasoning.items()
    }
    own = {
        level: Interval(mean, None, None, page.reasoning[level].tokens.rows, "questions")
        for level, mean in tokens.items()
    }
    title = "Tokens of reasoning by length of the context"
    ticks = ticks_up_to(max(tokens.values()))
    return CurveChart(list(own), ticks, [], "tokens", own, list(own), "tokens, mean", title)


def published_curves(page: ReportData, protocol: str = HEADLINE) -> list[Curve]:
    """Average each published model at each level over the published subsets the run has there.

    At levels that the run lacks: over all subsets that it has anywhere. Models of which only the
    means over all subsets are known have those. One with a single level has no curve.
    """
    lines = []
    found = page.protocols[protocol]
    for model in found.published:
        line = {}
        for level in PUBLISHED_LEVELS:
            subsets = [subset for subset, of in found.scores if of == level and subset in PUBLISHED]
            subsets = subsets or [subset for subset in page.subsets if subset in PUBLISHED]
            if (mean := model.level_mean(level, subsets)) is not None:
                line[level] = mean
        if len(line) > 1 and model.drawn:
            lines.append((model.name, line))
    return lines


def compared_curves(page: ReportData, protocol: str = HEADLINE) -> list[Curve]:
    """Average each compared run at each level of this one, where it has all of its subsets."""
    found = page.protocols[protocol]
    lines = []
    for run in found.other_runs:
        line = {}
        for level in page.levels:
            subsets = [subset for subset, of in found.scores if of == level]
            if (mean := run.level_mean(level, subsets)) is not None:
                line[level] = mean
        if line:
            lines.append((run.name, line))
    return lines


# --- layout ---


def spread_labels(
    wanted: Sequence[float], low: float, high: float, lines: Sequence[int] = ()
) -> list[float]:
    """Move labels LABEL_GAP apart within `low` to `high`, each as near to its place as can be.

    `lines`: how many each has, from its place downwards; one where it is empty.
    """
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    heights = [LABEL_GAP * count for count in lines or [1] * len(wanted)]
    places = [0.0] * len(wanted)
    at = low
    for number in order:
        at = places[number] = max(wanted[number], at)
        at += heights[number]
    at = high + LABEL_GAP
    for number in reversed(order):
        at = places[number] = min(places[number], at - heights[number])
    return places


def ticks_up_to(value: float) -> list[float]:
    """Choose at most seven ticks from 0 for `value`; the last ends the axis."""
    steps = (part * 10**power for power in range(9) for part in (1, 2, 5))
    step = next(step for step in steps if value <= 6 * step)
    return [float(step * number) for number in range(max(2, ceil(value / step) + 1))]


def heat_step(value: float, highest: float) -> int:
    """Number the colour of a value on a heat map that ends at `highest`."""
    return min(STEPS - 1, int(value / highest * STEPS))


def shortened(text: str, most: int) -> str:
    """Cut `text` with an ellipsis where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


# --- SVG ---


def tag(name: str, content: str = "", **attributes: str | float) -> str:
    """Write an element; attributes are escaped, `content` is markup; `css` is the class."""
    written = "".join(
        f' {"class" if key == "css" else key.replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>"


def _attribute(value: str | float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else _escape(str(value))


def _escape(text: str) -> str:
    return escape(printable(text))


def label(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    """Write a line of text; escaped."""
    return tag("text", _escape(text), x=x, y=y, css=css, text_anchor=anchor)


def tooltip(text: str) -> str:
    """Write what an element is, for its tooltip and for screen readers; escaped."""
    return tag("title", _escape(text))


def polyline(points: Sequence[Point], css: str, content: str = "") -> str:
    """Write a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", content, points=path, css=css)


def link(href: str, said: str, *body: str) -> str:
    """Write a link with its tooltip; `said` is escaped."""
    return tag("a", tooltip(said) + "".join(body), href=href)


def marker(shape: str, x: float, y: float, css: str, content: str = "", size: float = 4.5) -> str:
    """Write a point of a curve as one of SHAPES."""
    if shape == "circle":
        return tag("circle", content, cx=x, cy=y, r=size, css=css)
    points = " ".join(
        f"{x + size * across:.1f},{y + size * down:.1f}" for across, down in CORNERS[shape]
    )
    return tag("polygon", content, points=points, css=f"marker {css}")


def figure(width: int, height: float, title: str, body: Sequence[str], role: str = "img") -> str:
    """Write a chart with its title; the style shows it on screens of its width.

    `role` "group" for one that holds links or parts to focus.
    """
    size = "narrow" if width == NARROW else "wide"
    return tag(
        "svg",
        tooltip(title) + "".join(body),
        viewBox=f"0 0 {width} {ceil(height)}",
        css=f"chart {size}",
        role=role,
    )


class Frame:
    """The area of a curve chart between its axes, in the units of the viewBox."""

    def __init__(self, chart: CurveChart, width: int) -> None:
        self.chart = chart
        self.is_wide = width != NARROW
        self.height, self.left, margin = (
            (370.0, 40.0, 166.0) if self.is_wide else (360.0, 26.0, 124.0)
        )
        self.right = width - margin  # names are beyond
        self.top, self.bottom = 26.0, self.height - (66 if chart.ceiling else 48)

    def x(self, level: str) -> float:
        """Where a level is."""
        return self.left + 8 + self.chart.across(level) * (self.right - self.left - 16)

    def y(self, value: float) -> float:
        """Where a score is."""
        return self.bottom - value / self.chart.ticks[-1] * (self.bottom - self.top)


def draw_sparkline(scores: Mapping[str, float], top: float, kept: float) -> str:
    """Draw scores by level in a table's cell, 0 to `top`, and dotted the share `kept` of the first.

    Blank where there are fewer than two.
    """
    if len(scores) < 2:
        return ""
    width, height, edge = 132, 34, 5
    places = [edge + (width - 2 * edge) * at / (len(scores) - 1) for at in range(len(scores))]

    def y(value: float) -> float:
        return height - edge - value / top * (height - 2 * edge)

    points = [(x, y(value)) for x, value in zip(places, scores.values(), strict=True)]
    bar = y(kept * next(iter(scores.values())))
    body = [
        tooltip(", ".join(f"{level} {value:.1f}" for level, value in scores.items())),
        tag("line", css="kept", x1=edge, x2=width - edge, y1=bar, y2=bar),
        polyline(points, "own"),
        *(tag("circle", cx=x, cy=at, r=2.5, css="own") for x, at in points),
    ]
    return tag("svg", "".join(body), viewBox=f"0 0 {width} {height}", css="spark", role="img")


def draw_curves(chart: CurveChart, width: int) -> str:
    """Draw the published models' curves, those of compared runs, and above them the run's."""
    frame = Frame(chart, width)
    body = _axes(frame) + _own_band(frame) + _ceiling(frame)
    standing = chart.standing
    # Those with a name lie above the others.
    for name, line in sorted(chart.published, key=lambda curve: curve[0] in standing):
        body.append(_published_curve(frame, name, line, list(standing)))
    for number, (name, line) in enumerate(chart.compared):
        hue = HUES[number % len(HUES)]
        points = [(frame.x(level), frame.y(value)) for level, value in line.items()]
        body.append(polyline(points, f"other {hue} d{number % 4}", tooltip(name)))
        for level, (x, y) in zip(line, points, strict=True):
            said = tooltip(f"{name}, {level}: {line[level]:.2f}")
            body.append(marker(SHAPES[number % 4], x, y, hue, said, 3.5))
    body += _curve_names(frame)
    body += _own_curve(frame)
    return figure(width, frame.height, chart.title, body, "group" if chart.published else "img")


def _published_curve(frame: Frame, name: str, line: dict[str, float], named: list[str]) -> str:
    """A published model's curve: with points if it has a name; else it tells its own on focus."""
    points = [(frame.x(level), frame.y(value)) for level, value in line.items()]
    said = f"{name}: {', '.join(f'{level} {value:.1f}' for level, value in line.items())}"
    place = named.index(name) if name in named else -1
    body = [tooltip(said), polyline(points, "near")]  # the first is wide and catches the pointer
    body.append(polyline(points, f"line d{place + 1}" if place >= 0 else "line"))
    if place >= 0:
        body += [marker(SHAPES[place], x, y, "published", size=3.0) for x, y in points]
    else:
        x, y = points[-1]
        most = 20 if frame.is_wide else 14
        body.append(label(x + 9, y + 4, shortened(name, most), "name value"))
    css = "model named" if place >= 0 else "model"
    return tag("g", "".join(body), css=css, tabindex=0, role="img", aria_label=said)


def _axes(frame: Frame) -> list[str]:
    body = []
    for value in frame.chart.ticks:
        y = frame.y(value)
        body.append(tag("line", css="grid", x1=frame.left, x2=frame.right, y1=y, y2=y))
        body.append(label(frame.left - 6, y + 4, f"{value:g}", "axis", "end"))
    body.append(label(0.0, 12.0, frame.chart.unit, "axis"))
    middle = (frame.left + frame.right) / 2
    body.append(label(middle, frame.height - 8, "length of the context", "axis", "middle"))
    written = float("inf")  # on a narrow screen not every level has room for its name
    for level in reversed(frame.chart.levels):
        x = frame.x(level)
        if written - x >= 36:
            body.append(label(x, frame.bottom + 20, level, "axis", "middle"))
            if level in frame.chart.ceiling:
                most = f"≤ {frame.chart.ceiling[level]:.0f}"
                body.append(label(x, frame.bottom + 36, most, "axis", "middle"))
            written = x
    return body


def _ceiling(frame: Frame) -> list[str]:
    """The line of the ceiling, as far as it lies within the axis."""
    ceiling = frame.chart.ceiling
    points = [(frame.x(level), frame.y(value)) for level, value in ceiling.items()]
    said = "Ceiling: the score that the evidence kept allows"
    return [polyline(part, "ceiling", tooltip(said)) for part in parts_below(points, frame.top)]


def parts_below(points: Sequence[Point], top: float) -> list[list[Point]]:
    """Cut a line at the height `top`: its parts that lie there or lower on the screen."""
    parts: list[list[Point]] = []
    for (x, y), (x2, y2) in pairwise(points):
        if max(y, y2) < top:
            continue
        crossing = (x + (x2 - x) * (top - y) / (y2 - y), top) if min(y, y2) < top else None
        start = crossing if crossing and y < top else (x, y)
        end = crossing if crossing and y2 < top else (x2, y2)
        if parts and parts[-1][-1] == start:
            parts[-1].append(end)
        else:
            parts.append([start, end])
    return parts


def _curve_names(frame: Frame) -> list[str]:
    chart, body = frame.chart, []
    if not chart.own_reaches_margin:
        name = shortened(chart.name, 20 if frame.is_wide else 10)
        x, y = frame.x(chart.own_end.level), frame.y(chart.own_end.value)
        body.append(label(x + 12, y + 4, name, "name own value"))
    ends = [end for end in chart.ends if end.css != "published" or end.standing]
    wanted = [frame.y(end.value) for end in ends]
    # What a published model is stands below its name.
    places = spread_labels(
        wanted, frame.top, frame.bottom, [2 if end.standing else 1 for end in ends]
    )
    x = frame.right + 6
    for end, y, place in zip(ends, wanted, places, strict=True):
        leader = [(frame.x(end.level) + 4, y), (x - 2, place), (x + 6, place)]
        # Bold letters are wider.
        most = (22 if frame.is_wide else 15) - 3 * (end.css == "own")
        name = shortened(end.name, most)
        body += [polyline(leader, "lead"), label(x + 9, place + 4, name, f"name {end.css}")]
        if end.standing:
            body.append(label(x + 9, place + 17, end.standing, "axis standing"))
    return body


def _own_band(frame: Frame) -> list[str]:
    """The interval of the run's curve: a band, of a single level a whisker."""
    bounds = [
        (frame.x(level), frame.y(mean.low), frame.y(mean.high))
        for level, mean in frame.chart.own.items()
        if mean.low is not None and mean.high is not None
    ]
    if len(bounds) == 1:
        ((x, low, high),) = bounds
        return [tag("line", css="whisker", x1=x, x2=x, y1=low, y2=high)]
    corners = [(x, high) for x, _, high in bounds] + [(x, low) for x, low, _ in reversed(bounds)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return [tag("polygon", tooltip("95 % interval"), points=path, css="interval")] if path else []


def _own_curve(frame: Frame) -> list[str]:
    """The run's curve with points and, where there is room, numbers."""
    points = {
        level: (frame.x(level), frame.y(mean.value)) for level, mean in frame.chart.own.items()
    }
    circles, numbers = [], []
    gaps = [later[0] - one[0] for one, later in pairwise(points.values())]
    has_room = min(gaps, default=99.0) > 28
    for level, mean in frame.chart.own.items():
        x, y = points[level]
        if has_room:
            above = min(y, frame.y(mean.high or 0.0)) - 9
            numbers.append(label(x, above, f"{mean.value:.1f}", "value own", "middle"))
        between = f" ({mean.between()})" if mean.between() else ""
        said, css = f"{level}: {mean.value:.2f}{between}", "own"
        if level not in frame.chart.leaderboard_levels:
            said, css = f"{said} (not the leaderboard’s mean)", "own hollow"
        circles.append(tag("circle", tooltip(said), cx=x, cy=y, r=4.5, css=css))
    return [polyline(list(points.values()), "own"), *circles, *numbers]
