"""The chart of a sweep: score by what a method kept, a line for each level, as inline SVG.

sweep_chart.draw(page.sweep, charts.WIDE)
"""

from collections.abc import Callable
from math import log2

from lveval.analysis.sweep import Sweep, SweepPoint
from lveval.common.levels import level_length
from lveval.report.charts import (
    WIDE,
    Point,
    figure,
    label,
    polyline,
    spread_labels,
    tag,
    ticks_up_to,
    tooltip,
)

Place = Callable[[float, float], Point]  # (measure, score) -> x, y

HUES = 5  # colours of the style, s0 to s4, from the shortest level to the longest


def draw(sweep: Sweep, width: int) -> str:
    """Draw each level's points with their intervals, and dashed the dense run's score."""
    wide = width == WIDE
    left, right = (44.0, width - 190.0) if wide else (26.0, width - 90.0)
    top, bottom = 14.0, 370.0
    highest = max(max(_high(point), point.dense) for point in sweep.points)
    ticks = ticks_up_to(highest)
    widest = max(1.0, *(point.measure for point in sweep.points))

    def place(measure: float, score: float) -> tuple[float, float]:
        across = left + 8 + measure / widest * (right - left - 16)
        return across, bottom - min(max(score, 0.0), ticks[-1]) / ticks[-1] * (bottom - top)

    body = []
    for tick in ticks:
        y = place(0, tick)[1]
        body.append(tag("line", css="grid", x1=left, x2=right, y1=y, y2=y))
        body.append(label(left - 6, y + 4, f"{tick:g}", "axis", "end"))
    for part in range(0, 5, 1 if wide else 2):
        value = widest * part / 4
        body.append(label(place(value, 0)[0], bottom + 20, f"{value:g}", "axis", "middle"))
    body.append(label((left + right) / 2, bottom + 40, sweep.measure, "axis", "middle"))
    names = []
    for number, level in enumerate(sweep.levels):
        points = [point for point in sweep.points if point.level == level]
        hue = f"s{_hue(level, sweep.levels)}"
        y = place(0, points[0].dense)[1]
        body.append(polyline([(left, y), (right, y)], f"dense {hue}", tooltip(f"{level}, dense")))
        body.append(polyline([place(each.measure, each.score) for each in points], f"sweep {hue}"))
        beside = 4 * (number - (len(sweep.levels) - 1) / 2)  # whiskers of levels do not overlap
        body += [mark for point in points for mark in _marks(point, place, hue, beside)]
        names.append((y, f"{level}, dense" if wide else level, hue))
    spread = spread_labels([y for y, _, _ in names], top, bottom)
    for (_, name, hue), y in zip(names, spread, strict=True):
        body.append(label(right + 9, y + 4, name, f"name {hue}"))
    return figure(width, bottom + 50, f"Score by {sweep.measure}, and of the dense run", body)


def _hue(level: str, levels: list[str]) -> int:
    first, last = (log2(level_length(end)) for end in (levels[0], levels[-1]))
    share = (log2(level_length(level)) - first) / (last - first) if last > first else 0.0
    return round(share * (HUES - 1))


def _high(point: SweepPoint) -> float:
    return max(point.score, point.dense + (point.difference.high or 0.0))


def _marks(point: SweepPoint, place: Place, hue: str, beside: float) -> list[str]:
    """A point, and the interval of its difference to the dense run's score."""
    x, y = place(point.measure, point.score)
    found = point.difference
    said = f"{point.run}, {point.level}: {point.score:.2f}, {found.value:+.2f} to the dense run"
    marks = [tag("circle", tooltip(said), cx=x, cy=y, r=4.5, css=hue)]
    if found.low is not None and found.high is not None:
        ends = (place(point.measure, point.dense + bound)[1] for bound in (found.low, found.high))
        low, high = ends
        marks.insert(
            0, tag("line", css=f"whisker {hue}", x1=x + beside, x2=x + beside, y1=low, y2=high)
        )
    return marks
