"""Stacked bars, one a level: what became of the points and of the evidence, as inline SVG.

    bar_charts.draw_bars("Points by cause", bar_charts.cause_bars(page), charts.WIDE)

plots.py paints the causes into files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from lveval.analysis import causes
from lveval.report.charts import FAMILY_WIDTHS, NARROW, figure, label, link, tag, tooltip
from lveval.report.data import ReportData
from lveval.report.row_data import rows_link


@dataclass(frozen=True)
class Segment:
    """A part of a bar."""

    name: str
    css: str  # its class
    value: float
    link: str = ""  # where it leads


Bar = tuple[str, list[Segment]]  # with its name


def cause_bars(page: ReportData) -> list[Bar]:
    """What became of the 100 points of each level: the score, then each cause."""
    return [
        (
            level,
            [
                Segment("score", "scored", page.headline.level_means[level].value),
                *(
                    Segment(
                        causes.label(cause),
                        f"c-{cause}",
                        points[cause],
                        rows_link(level=level, cause=cause),
                    )
                    for cause in page.lost.present
                ),
            ],
        )
        for level, points in page.lost.levels.items()
    ]


def family_bars(page: ReportData) -> list[Bar]:
    """What became of the 100 points of each level, in the three families of causes.

    What right answers lost by their wording counts as right.
    """
    bars = []
    for level, points in page.lost.levels.items():
        segments = []
        for family, members in causes.FAMILIES.items():
            value = fsum(points[cause] for cause in members)
            if family == "right":
                value += page.headline.level_means[level].value
            link = rows_link(level=level, cause=members[0] if len(members) == 1 else family)
            segments.append(Segment(family, f"f-{family.replace(' ', '-')}", value, link))
        bars.append((level, segments))
    return bars


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


def draw_bars(title: str, bars: Sequence[Bar], width: int) -> str:
    """Draw stacked bars, each scaled to the whole of 100, with words where there is room."""
    wide = width != NARROW
    left = 18.0 + 7.5 * max((len(name) for name, _ in bars), default=0) if wide else 0.0
    # Beside the curves there is as much height as they have.
    height = 52.0 if width == FAMILY_WIDTHS[0] else 34.0 if wide else 44.0
    span = width - left
    body = []
    for number, (name, segments) in enumerate(bars):
        top, x = number * height + (4 if wide else 20), left
        if wide:
            body.append(label(left - 10, top + 16.5, name, "axis", "end"))
        else:
            body.append(label(0.0, top - 5, name, "axis"))
        whole = max(sum(segment.value for segment in segments), 100.0)
        for segment in segments:
            length = span * segment.value / whole
            if length > 0:
                body.append(_bar_part(name, segment, x, top, length))
            x += length
    role = "group" if any(each.link for _, segments in bars for each in segments) else "img"
    return figure(width, len(bars) * height + 4, title, body, role)


def _bar_part(bar: str, segment: Segment, x: float, top: float, length: float) -> str:
    """A part of a bar with its number, and its name where there is room for both."""
    value = f"{segment.value:.1f}"
    said = f"{bar}, {segment.name}: {value}"
    body = [tag("rect", x=x, y=top, width=length, height=24.0, css=f"part {segment.css}")]
    for text in (f"{segment.name} {value}", value):
        if length > 6.6 * len(text) + 6:
            middle = x + length / 2
            body.append(label(middle, top + 16.5, text, f"in {segment.css}", "middle"))
            break
    if segment.link:
        return link(segment.link, said, *body)
    return tag("g", tooltip(said) + "".join(body))
