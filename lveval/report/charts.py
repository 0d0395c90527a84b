"""A page's charts as inline SVG, made of strings: no plotting library, no script.

    charts.curves(page, charts.WIDE)

Colours come from the page's style by class. Each chart is drawn for a wide and for a narrow screen, so that text keeps
its size; the style shows one of the two. Numbers behind a chart stand in a table beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, log2

from lveval.common.levels import level_length
from lveval.common.text import printable
from lveval.report.data import ReportData
from lveval.results import PUBLISHED, PUBLISHED_LEVELS

WIDE, NARROW = 960, 328  # units of the viewBox, CSS pixels where the screen is as wide

LABEL_GAP = 15.0  # between the baselines of two labels

Point = tuple[float, float]

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Part:
    """A segment of a bar."""

    name: str
    css: str  # its class
    value: float


def tag(name: str, content: str = "", **attributes: str | float) -> str:
    """An SVG element; attributes are escaped, `content` is markup. `css` is the class, `_` in a name is `-`."""
    written = "".join(
        f' {"class" if key == "css" else key.replace("_", "-")}="{_plain(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>"


def _plain(value: str | float) -> str:
    return (
        f"{value:.1f}".removesuffix(".0")
        if isinstance(value, float)
        else escape(printable(str(value)))
    )


def label(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    """A line of text; escaped."""
    return tag("text", escape(printable(text)), x=x, y=y, css=css, text_anchor=anchor)


def _figure(width: int, height: float, title: str, body: Sequence[str]) -> str:
    size = "wide" if width == WIDE else "narrow"
    head = tag("title", escape(printable(title)))
    return tag(
        "svg",
        head + "".join(body),
        viewBox=f"0 0 {width} {ceil(height)}",
        css=f"chart {size}",
        role="img",
    )


# --- curves ---------------------------------------------------------------------------------------------------------


def curves(page: ReportData, width: int) -> str:
    """Level means of the run and, over the same subsets, of the published models; empty without a level."""
    if not page.level_means:
        return ""
    lines, levels = published_curves(page), page.levels
    shown, ticks = axes_of(page, lines)
    top, wide = ticks[-1], width == WIDE
    height, left, right = (430.0, 44.0, 190.0) if wide else (400.0, 26.0, 132.0)
    bottom, head = height - 30, 14.0

    def x(level: str) -> float:
        first, last = log2(level_length(shown[0])), log2(level_length(shown[-1]))
        share = (log2(level_length(level)) - first) / (last - first) if last > first else 0.5
        return left + 8 + share * (width - left - right - 16)

    def y(value: float) -> float:
        return bottom - value / top * (bottom - head)

    body = []
    for value in ticks:
        body.append(
            tag("line", css="grid", x1=left, x2=float(width - right), y1=y(value), y2=y(value))
        )
        body.append(label(left - 6, y(value) + 4, f"{value:g}", "axis", "end"))
    room = -1.0  # up to where the axis is written: on a narrow screen not every level has its name
    for level in reversed(shown):
        if room < 0 or room - x(level) >= 36:
            body.append(label(x(level), bottom + 20, level, "axis", "middle"))
            room = x(level)
    ends: list[tuple[float, float, str, str]] = []  # where a line ends, its name, its class
    for number, (name, line) in enumerate(lines):
        points = [(x(level), y(line[level])) for level in shown if level in line]
        drawn = tag(
            "polyline",
            tag("title", escape(printable(name))),
            points=_path(points),
            css=f"published d{number % 4}",
        )
        body.append(drawn)
        ends.append((*points[-1], name, "published"))
    last = x(levels[-1]), y(page.level_means[levels[-1]].value)
    if levels[-1] == shown[-1]:
        ends.append((*last, page.name, "own"))
    else:  # a line to the margin would cross the others
        body.append(
            label(
                last[0] + 12,
                last[1] + 4,
                shortened(page.name, 20 if wide else 10),
                "name own value",
            )
        )
    for (from_x, from_y, name, css), at in zip(
        ends, spread_labels([end[1] for end in ends], head, bottom), strict=True
    ):
        start = float(width - right + 6)
        body.append(
            tag(
                "polyline",
                points=_path([(from_x + 4, from_y), (start - 2, at), (start + 6, at)]),
                css=f"lead {css}",
            )
        )
        body.append(label(start + 9, at + 4, shortened(name, 26 if wide else 16), f"name {css}"))
    body.append(
        _own_curve(
            page, [(x(level), y(page.level_means[level].value)) for level in levels], levels, y
        )
    )
    return _figure(
        width,
        height,
        "Mean score by length of the context, this run and the published models",
        body,
    )


def axes_of(
    page: ReportData, lines: Sequence[tuple[str, Mapping[str, float]]]
) -> tuple[list[str], list[float]]:
    """The levels of a chart that holds the run's curve and those of `lines`, by length, and the ticks of its scores."""
    levels = sorted(
        {*page.levels, *(level for _, line in lines for level in line)}, key=level_length
    )
    values = [value for _, line in lines for value in line.values()]
    values += [max(score.value, score.high or 0) for score in page.level_means.values()]
    return levels, ticks_up_to(max(values))


def published_curves(page: ReportData) -> list[tuple[str, dict[str, float]]]:
    """Each published model's mean at each published level, over the published subsets that the run has at that level.

    At levels that the run lacks: over all subsets that it has anywhere.
    """
    lines = []
    for model in page.published:
        line = {}
        for level in PUBLISHED_LEVELS:
            subsets = [subset for subset, of in page.scores if of == level and subset in PUBLISHED]
            subsets = subsets or [subset for subset in page.subsets if subset in PUBLISHED]
            if (mean := model.level_mean(level, subsets)) is not None:
                line[level] = mean
        if line:
            lines.append((model.name, line))
    return lines


def _own_curve(page: ReportData, points: list[Point], levels: list[str], y: Scale) -> str:
    parts, numbers = [], []
    apart = min((later[0] - one[0] for one, later in pairwise(points)), default=99.0) > 28
    for (at, height), level in zip(points, levels, strict=True):
        score = page.level_means[level]
        if apart:
            numbers.append(
                label(
                    at,
                    min(height, y(score.high or 0.0)) - 9,
                    f"{score.value:.1f}",
                    "value own",
                    "middle",
                )
            )
        if score.low is not None and score.high is not None:
            parts.append(
                tag("line", css="whisker", x1=at, x2=at, y1=y(score.low), y2=y(score.high))
            )
    parts.append(tag("polyline", points=_path(points), css="own"))
    for (at, height), level in zip(points, levels, strict=True):
        score, hollow = page.level_means[level], level not in page.comparable
        said = f"{level}: {score.value:.2f}{' (not the leaderboard’s mean)' if hollow else ''}"
        parts.append(
            tag(
                "circle",
                tag("title", escape(said)),
                cx=at,
                cy=height,
                r=4.5,
                css=f"own{' hollow' if hollow else ''}",
            )
        )
    return "".join(parts + numbers)


def spread_labels(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places for labels: in the order of `wanted`, LABEL_GAP apart, as near to it as a sweep gets, within the frame."""
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
    """The ticks of an axis from 0 that holds `value` (0 to 100): at most seven, the last is the axis' end."""
    step = next(step for step in (1, 2, 5, 10, 20) if value <= 6 * step or step == 20)
    return [float(step * number) for number in range(max(2, ceil(value / step) + 1))]


def shortened(text: str, most: int) -> str:
    """`text` with an ellipsis where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


# --- bars -----------------------------------------------------------------------------------------------------------


def bars(title: str, lines: Sequence[tuple[str, Sequence[Part]]], width: int) -> str:
    """A stacked bar a line, each scaled to the whole of 100, with the number in every part that is wide enough."""
    wide = width == WIDE
    row, thick = (30.0, 20.0) if wide else (44.0, 20.0)
    left, span = (190.0, width - 200.0) if wide else (0.0, float(width))
    body = []
    for number, (name, parts) in enumerate(lines):
        top = number * row + (4 if wide else 20)
        body.append(
            label(
                left - 10 if wide else 0.0,
                top + 15 if wide else top - 5,
                name,
                "axis",
                "end" if wide else "start",
            )
        )
        total, at = sum(part.value for part in parts) or 1.0, left
        for part in parts:
            length = span * part.value / max(total, 100.0)
            if length <= 0:
                continue
            said = tag("title", escape(printable(f"{name}, {part.name}: {part.value:.1f}")))
            body.append(
                tag("rect", said, x=at, y=top, width=length, height=thick, css=f"part {part.css}")
            )
            if length > 27:
                body.append(
                    label(
                        at + length / 2, top + 14.5, f"{part.value:.1f}", f"in {part.css}", "middle"
                    )
                )
            at += length
    return _figure(width, len(lines) * row + 8, title, body)


def cause_lines(page: ReportData, part: int) -> list[tuple[str, list[Part]]]:
    """What became of the 100 points of each subset (part 0) or level (part 1): the score, then each cause."""
    means = page.level_means if part else page.subset_means
    return [
        (
            name,
            [
                Part("score", "scored", means[name].value),
                *(Part(cause, f"c-{cause}", points[cause]) for cause in page.lost.present),
            ],
        )
        for name, points in (page.lost.levels if part else page.lost.subsets).items()
    ]


def evidence_lines(page: ReportData) -> list[tuple[str, list[Part]]]:
    """For each level the share of rows, in percent, whose evidence truncation kept, cut, or that do not tell."""
    lines = []
    for level, evidence in page.evidence_by_level.items():
        all_rows = evidence.kept + evidence.cut + evidence.unknown
        parts = (("kept", evidence.kept), ("cut", evidence.cut), ("unknown", evidence.unknown))
        lines.append(
            (level, [Part(name, f"e-{name}", 100 * count / all_rows) for name, count in parts])
        )
    return lines
