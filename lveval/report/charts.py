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
from math import ceil, log2

from lveval.analysis.intervals import Interval
from lveval.common.levels import level_length
from lveval.common.text import printable
from lveval.report.beside import HUES
from lveval.report.data import ReportData
from lveval.results import HEADLINE, PUBLISHED, PUBLISHED_LEVELS

WIDE, NARROW = WIDTHS = (960, 328)  # units of the viewBox: CSS pixels on a screen of that width

STEPS = 11  # colours of a heat map, h0 to h10 in page.css

LABEL_GAP = 15.0  # between the baselines of two labels

Point = tuple[float, float]

Curve = tuple[str, dict[str, float]]  # name, level -> mean


# --- what the charts show ---


@dataclass(frozen=True)
class CurveEnd:
    """Where a curve ends, to be named there."""

    level: str
    value: float
    name: str
    css: str = "published"  # "own", or the hue of a compared run


@dataclass(frozen=True)
class CurveChart:
    """Level means of the run and, over the same subsets, of compared runs and published models."""

    levels: list[str]  # the axis, by length
    ticks: list[float]  # of the scores
    published: list[Curve]
    name: str  # the run's
    own: dict[str, Interval]  # level -> its mean
    leaderboard_levels: list[str]  # of the own curve; points at others are hollow
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
        ends = [CurveEnd(*list(line.items())[-1], name) for name, line in self.published]
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
    return CurveChart(list(own), ticks, [], "tokens", own, list(own), title)


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


@dataclass(frozen=True)
class Segment:
    """A part of a bar."""

    name: str
    css: str  # its class
    value: float


Bar = tuple[str, list[Segment]]  # with its name


def cause_bars(page: ReportData) -> list[Bar]:
    """What became of the 100 points of each level: the score, then each cause."""
    return [
        (
            level,
            [
                Segment("score", "scored", page.headline.level_means[level].value),
                *(Segment(cause, f"c-{cause}", points[cause]) for cause in page.lost.present),
            ],
        )
        for level, points in page.lost.levels.items()
    ]


def evidence_bars(page: ReportData) -> list[Bar]:
    """The share of rows in percent, at each level, whose evidence was kept, cut, or is unknown."""
    bars = []
    for level, part in page.evidence_by_level.items():
        counts = {"kept": part.kept, "cut": part.cut, "unknown": part.unknown}
        rows = sum(counts.values())
        bars.append(
            (level, [Segment(name, f"e-{name}", 100 * n / rows) for name, n in counts.items()])
        )
    return bars


# --- layout ---


def spread_labels(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Move labels LABEL_GAP apart within `low` to `high`, each as near to its place as can be."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    places = [0.0] * len(wanted)
    at = low
    for number in order:
        at = places[number] = max(wanted[number], at)
        at += LABEL_GAP
    at = high
    for number in reversed(order):
        at = places[number] = min(places[number], at)
        at -= LABEL_GAP
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
        self.is_wide = width == WIDE
        self.height, self.left, margin = (
            (430.0, 44.0, 190.0) if self.is_wide else (400.0, 26.0, 132.0)
        )
        self.right = width - margin  # names are beyond
        self.top, self.bottom = 14.0, self.height - (46 if chart.ceiling else 30)

    def x(self, level: str) -> float:
        """Where a level is."""
        return self.left + 8 + self.chart.across(level) * (self.right - self.left - 16)

    def y(self, value: float) -> float:
        """Where a score is."""
        return self.bottom - value / self.chart.ticks[-1] * (self.bottom - self.top)


def draw_curves(chart: CurveChart, width: int) -> str:
    """Draw the published models' curves, those of compared runs, and above them the run's."""
    frame = Frame(chart, width)
    body = _axes(frame) + _ceiling(frame)
    for number, (name, line) in enumerate(chart.published):
        points = [(frame.x(level), frame.y(value)) for level, value in line.items()]
        body.append(polyline(points, f"published d{number % 4}", tooltip(name)))
    for number, (name, line) in enumerate(chart.compared):
        hue = HUES[number % len(HUES)]
        points = [(frame.x(level), frame.y(value)) for level, value in line.items()]
        body.append(polyline(points, f"other {hue} d{number % 4}", tooltip(name)))
        for level, (x, y) in zip(line, points, strict=True):
            said = tooltip(f"{name}, {level}: {line[level]:.2f}")
            body.append(tag("circle", said, cx=x, cy=y, r=3.5, css=hue))
    body += _curve_names(frame)
    body += _own_curve(frame)
    return figure(width, frame.height, chart.title, body)


def _axes(frame: Frame) -> list[str]:
    body = []
    for value in frame.chart.ticks:
        y = frame.y(value)
        body.append(tag("line", css="grid", x1=frame.left, x2=frame.right, y1=y, y2=y))
        body.append(label(frame.left - 6, y + 4, f"{value:g}", "axis", "end"))
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
    wanted = [frame.y(end.value) for end in chart.ends]
    places = spread_labels(wanted, frame.top, frame.bottom)
    x = frame.right + 6
    for end, y, place in zip(chart.ends, wanted, places, strict=True):
        leader = [(frame.x(end.level) + 4, y), (x - 2, place), (x + 6, place)]
        name = shortened(end.name, 26 if frame.is_wide else 16)
        body += [polyline(leader, "lead"), label(x + 9, place + 4, name, f"name {end.css}")]
    return body


def _own_curve(frame: Frame) -> list[str]:
    """The run's curve with whiskers, points and, where there is room, numbers."""
    points = {
        level: (frame.x(level), frame.y(mean.value)) for level, mean in frame.chart.own.items()
    }
    whiskers, circles, numbers = [], [], []
    gaps = [later[0] - one[0] for one, later in pairwise(points.values())]
    has_room = min(gaps, default=99.0) > 28
    for level, mean in frame.chart.own.items():
        x, y = points[level]
        if has_room:
            above = min(y, frame.y(mean.high or 0.0)) - 9
            numbers.append(label(x, above, f"{mean.value:.1f}", "value own", "middle"))
        if mean.low is not None and mean.high is not None:
            low, high = frame.y(mean.low), frame.y(mean.high)
            whiskers.append(tag("line", css="whisker", x1=x, x2=x, y1=low, y2=high))
        said, css = f"{level}: {mean.value:.2f}", "own"
        if level not in frame.chart.leaderboard_levels:
            said, css = f"{said} (not the leaderboard’s mean)", "own hollow"
        circles.append(tag("circle", tooltip(said), cx=x, cy=y, r=4.5, css=css))
    return [*whiskers, polyline(list(points.values()), "own"), *circles, *numbers]


def draw_bars(title: str, bars: Sequence[Bar], width: int) -> str:
    """Draw stacked bars, each scaled to the whole of 100, with numbers where there is room."""
    wide = width == WIDE
    height, left, span = (30.0, 190.0, width - 200.0) if wide else (44.0, 0.0, float(width))
    body = []
    for number, (name, segments) in enumerate(bars):
        top, x = number * height + (4 if wide else 20), left
        if wide:
            body.append(label(left - 10, top + 15, name, "axis", "end"))
        else:
            body.append(label(0.0, top - 5, name, "axis"))
        whole = max(sum(segment.value for segment in segments), 100.0)
        for segment in segments:
            length, said = span * segment.value / whole, f"{segment.value:.1f}"
            if length <= 0:
                continue
            title_of_part = tooltip(f"{name}, {segment.name}: {said}")
            css = f"part {segment.css}"
            body.append(tag("rect", title_of_part, x=x, y=top, width=length, height=20.0, css=css))
            if length > 27:
                body.append(label(x + length / 2, top + 14.5, said, f"in {segment.css}", "middle"))
            x += length
    return figure(width, len(bars) * height + 8, title, body)
