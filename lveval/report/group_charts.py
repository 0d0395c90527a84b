"""This run and others by task group and by subset: a radar and bars, and their inline SVG.

    chart = group_charts.group_chart(page, "released")
    group_charts.draw_radar(chart, charts.WIDE), group_charts.draw_bars(chart, charts.WIDE)

group_plots.py paints the same charts into files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

from lveval.analysis.intervals import Interval
from lveval.report import charts
from lveval.report.beside import DrawnModel, drawn_models, model_lines
from lveval.report.charts import Point, figure, label, polyline, tag, tooltip
from lveval.report.data import ReportData
from lveval.results import HEADLINE

LEAST_AXES = 3  # of a radar: with two groups there is no area

BAR, GAP = 9.0, 16.0  # heights of a bar, and of what parts the subsets' bars

RADAR_TITLE = "Mean score by task group, this run and others"
BARS_TITLE = "Mean score by subset, this run and others"


@dataclass(frozen=True)
class GroupChart:
    """What the radar and the bars show: means over the levels of this run."""

    models: Sequence[DrawnModel]  # this run first
    left_out: int  # others that have no place or lack files of this run
    groups: Mapping[str, Interval]  # of this run
    subsets: Mapping[str, Interval]

    @property
    def has_radar(self) -> bool:
        """Whether there are enough groups for a radar."""
        return len(self.groups) >= LEAST_AXES

    @property
    def group_ticks(self) -> list[float]:
        """The rings of the radar, from 0."""
        return _ticks(self.groups, [model.groups for model in self.models])

    @property
    def subset_ticks(self) -> list[float]:
        """The axis of the bars, from 0."""
        return _ticks(self.subsets, [model.subsets for model in self.models])

    def on_radar(self, group: str, value: float) -> Point:
        """Place a value on the radar: x to the right, y downwards, 1 is the outer ring."""
        angle = 2 * pi * list(self.groups).index(group) / len(self.groups)
        share = max(value, 0.0) / self.group_ticks[-1]
        return share * sin(angle), -share * cos(angle)


def _ticks(own: Mapping[str, Interval], values: Sequence[Mapping[str, float]]) -> list[float]:
    highest = [max(found.value, found.high or 0.0) for found in own.values()]
    highest += [value for each in values for value in each.values()]
    return charts.ticks_up_to(max(highest))


def group_chart(page: ReportData, protocol: str = HEADLINE) -> GroupChart:
    """Collect the means of the run and of those that are drawn beside it, under one protocol."""
    found = page.protocols[protocol]
    lines = model_lines(page.name, found)
    drawn = drawn_models(lines)
    return GroupChart(
        drawn,
        len(lines) - len(drawn),
        {task: means.overall for task, means in found.groups.tasks.items()},
        {subset: found.subset_means[subset] for subset in page.subsets},
    )


# --- the radar ---


def draw_radar(chart: GroupChart, width: int) -> str:
    """Draw each model's means of the groups as a ring around the centre, this run's on top."""
    wide = width == charts.WIDE
    radius, height, middle = (150.0, 375.0, 200.0) if wide else (76.0, 256.0, 136.0)
    centre = width / 2

    def place(group: str, value: float) -> Point:
        x, y = chart.on_radar(group, value)
        return centre + radius * x, middle + radius * y

    def ring(values: Mapping[str, float]) -> list[Point]:
        points = [place(group, values[group]) for group in chart.groups]
        return [*points, points[0]]

    top = chart.group_ticks[-1]
    body = [
        polyline(ring(dict.fromkeys(chart.groups, tick)), "ring") for tick in chart.group_ticks[1:]
    ]
    for group in chart.groups:
        body.append(polyline([(centre, middle), place(group, top)], "ring"))
    # On a narrow screen there is room for every other number.
    for tick in chart.group_ticks[: 0 : -1 if wide else -2]:
        x, y = place(next(iter(chart.groups)), tick)
        body.append(label(x - 4, y + 4, f"{tick:g}", "axis tick", "end"))
    for number, model in reversed(list(enumerate(chart.models))):
        kind = "own" if model.css == "own" else f"other {model.css} d{number % 4}"
        body.append(polyline(ring(model.groups), kind, tooltip(model.name)))
    for model in reversed(chart.models):
        size = 4.5 if model.css == "own" else 3.0
        for group, value in model.groups.items():
            x, y = place(group, value)
            said = tooltip(f"{model.name}, {group}: {value:.2f}")
            body.append(tag("circle", said, cx=x, cy=y, r=size, css=model.css))
    for group, found in chart.groups.items():
        body += _radar_label(chart, group, found, place(group, top), wide)
    return figure(width, height, RADAR_TITLE, body)


def _radar_label(
    chart: GroupChart, group: str, found: Interval, end: Point, wide: bool
) -> list[str]:
    """Name a group beyond its axis, with this run's mean and, where there is room, its interval."""
    across, down = chart.on_radar(group, chart.group_ticks[-1])
    anchor = "middle" if abs(across) < 0.1 else "start" if across > 0 else "end"
    hop, _, kind = group.partition(" ")
    lines = [group] if wide or not kind else [hop, kind]
    said = f"{found.value:.1f}"
    if wide and (between := found.between()):
        said += f" ({between})"
    x = end[0] + 7 * (0 if anchor == "middle" else 1 if across > 0 else -1)
    # Above the outer ring at the top, beside it elsewhere, below it at the bottom.
    y = end[1] + (-10 - 15 * len(lines) if down < -0.9 else 0 if down < 0.5 else 12)
    body = [label(x, y + 15 * at, text, "axis", anchor) for at, text in enumerate(lines)]
    return [*body, label(x, y + 15 * len(lines), said, "own", anchor)]


# --- the bars ---


def draw_bars(chart: GroupChart, width: int) -> str:
    """Draw a bar for each model in each subset, this run's first, with its interval and number."""
    wide = width == charts.WIDE
    left, right = (190.0, width - 60.0) if wide else (4.0, width - 44.0)
    head = 0.0 if wide else 16.0  # of a subset: its name, where it has no room beside
    block = head + BAR * len(chart.models) + GAP
    top = chart.subset_ticks[-1]

    def across(value: float) -> float:
        return left + max(value, 0.0) / top * (right - left)

    bottom = block * len(chart.subsets)
    body = []
    for tick in chart.subset_ticks:
        x = across(tick)
        body.append(tag("line", css="grid", x1=x, x2=x, y1=0.0, y2=bottom))
        body.append(label(x, bottom + 16, f"{tick:g}", "axis", "middle"))
    for place, (subset, found) in enumerate(chart.subsets.items()):
        y = place * block + GAP / 2
        if wide:
            body.append(
                label(left - 10, y + BAR * len(chart.models) / 2 + 4, subset, "axis", "end")
            )
        else:
            body.append(label(left, y + 11, subset, "axis"))
        y += head
        for number, model in enumerate(chart.models):
            value = model.subsets[subset]
            said = tooltip(f"{model.name}, {subset}: {value:.2f}")
            at = {"x": left, "y": y + BAR * number, "width": across(value) - left}
            body.append(tag("rect", said, **at, height=BAR - 1, css=f"bar {model.css}"))
        body += _own_marks(found, across, y + BAR / 2)
    return figure(width, bottom + 24, BARS_TITLE, body)


def _own_marks(found: Interval, across: Callable[[float], float], y: float) -> list[str]:
    """The interval and the number of this run's bar."""
    marks, end = [], across(found.value)
    if found.low is not None and found.high is not None:
        low, end = across(found.low), across(found.high)
        marks.append(tag("line", css="spread", x1=low, x2=end, y1=y, y2=y))
    return [*marks, label(end + 6, y + 4, f"{found.value:.1f}", "value own")]
