"""The charts of depth, as inline SVG: heat maps, histograms, score by tenth of the prompt.

position_charts.draw_heat("factrecall_en", page.positions.heat["factrecall_en"], charts.WIDE)

plots.py paints the same panels into files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lveval.analysis.positions import ENDS, TENTHS, DepthEffect, HeatCell, Histogram, Positions
from lveval.report.charts import (
    WIDE,
    Point,
    figure,
    heat_step,
    label,
    polyline,
    shortened,
    tag,
    ticks_up_to,
    tooltip,
)
from lveval.results import table_order

Heat = Mapping[str, Sequence[HeatCell]]  # level -> a cell for each tenth


# --- depth by length ---


@dataclass(frozen=True)
class HeatPanel:
    """One of the two heat maps of a subset: depth downwards, length to the right."""

    title: str
    highest: float  # of the colours
    values: Mapping[str, Sequence[float | None]]  # level -> of each tenth, 0 to 100


def heat_panels(heat: Heat) -> list[HeatPanel]:
    """Collect the score, and the rows whose evidence the prompt held, in percent."""
    scores = {level: [cell.score for cell in cells] for level, cells in heat.items()}
    kept = {level: [cell.kept_percent for cell in cells] for level, cells in heat.items()}
    top = max((value for column in scores.values() for value in column if value), default=0.0)
    return [
        HeatPanel("score", ticks_up_to(top)[-1], scores),
        HeatPanel("evidence kept (%)", 100.0, kept),
    ]


def draw_heat(subset: str, heat: Heat, width: int) -> str:
    """Draw the two heat maps of a subset, side by side or one below the other."""
    panels, wide = heat_panels(heat), width == WIDE
    across, down = (width - 40) / 2 if wide else float(width), 10 * 24 + 52.0
    body = []
    for number, panel in enumerate(panels):
        left, top = (number * (across + 40), 0.0) if wide else (0.0, number * down)
        body += _heat_cells(panel, heat, (left + 30, top + 24), across - 30)
        body.append(label(left + 30, top + 15, panel.title, "head"))
    height = down if wide else down * len(panels)
    return figure(width, height, f"Depth by length, {subset}", body)


def _heat_cells(panel: HeatPanel, heat: Heat, corner: Point, width: float) -> list[str]:
    left, top = corner
    each, tall, body = width / len(heat), 24.0, []
    for at in range(0, 11, 2):
        body.append(label(left - 6, top + at * tall + 4, f"{at / 10:g}", "axis", "end"))
    for column, (level, values) in enumerate(panel.values.items()):
        x = left + column * each
        body.append(label(x + each / 2, top + 10 * tall + 18, level, "axis", "middle"))
        for row, (tenth, value) in enumerate(zip(TENTHS, values, strict=True)):
            y, rows = top + row * tall, heat[level][row].rows
            step = "void" if value is None else f"h{heat_step(value, panel.highest)}"
            said = "no row" if value is None else f"{value:.1f}, rows: {rows:g}"
            title = tooltip(f"{panel.title}, {level}, depth {tenth}: {said}")
            place = {"x": x + 1, "y": y + 1, "width": each - 2, "height": tall - 2}
            body.append(tag("rect", title, **place, css=f"heat {step}"))
            if value is not None:
                number = f"{value:.0f}"
                body.append(label(x + each / 2, y + 16.5, number, f"cell {step}", "middle"))
    return body


# --- histograms ---


@dataclass(frozen=True)
class HistogramPanel:
    """The histogram of one kind of passage at one level; shares are of those in the context."""

    kind: str
    css: str
    counts: Sequence[int]
    passages: int  # in the context

    @property
    def shares(self) -> list[float]:
        """Of each tenth, 0 to 1."""
        return [count / self.passages if self.passages else 0.0 for count in self.counts]


def histogram_panels(part: Histogram) -> list[HistogramPanel]:
    """Collect the histograms of a level: evidence, then confusing facts."""
    evidence, facts = sum(part.evidence), sum(part.confusing_facts)
    return [
        HistogramPanel("evidence, context", "p-evidence", part.evidence, evidence),
        HistogramPanel("evidence, prompt", "p-evidence", part.evidence_in_prompt, evidence),
        HistogramPanel("facts, context", "p-fact", part.confusing_facts, facts),
        HistogramPanel("facts, prompt", "p-fact", part.confusing_facts_in_prompt, facts),
    ]


def shown_histograms(positions: Positions) -> dict[str, list[HistogramPanel]]:
    """The histograms of each level; those of confusing facts only where there are some."""
    panels = {level: histogram_panels(part) for level, part in positions.levels.items()}
    has_facts = any(each[2].passages for each in panels.values())
    return {level: each if has_facts else each[:2] for level, each in panels.items()}


def draw_histograms(positions: Positions, width: int) -> str:
    """Draw a line of histograms for each level; on a narrow screen confusing facts come below."""
    panels = shown_histograms(positions)
    columns = len(next(iter(panels.values()))) if width == WIDE else 2
    highest = max(max(panel.shares) for each in panels.values() for panel in each) or 1.0
    left, gap, tall = 50.0, 24.0, 46.0
    each = (width - left - gap * (columns - 1)) / columns
    body, y = [], 0.0
    for first in range(0, len(next(iter(panels.values()))), columns):
        for column, panel in enumerate(next(iter(panels.values()))[first : first + columns]):
            x = left + column * (each + gap)
            body.append(label(x, y + 15, shortened(panel.kind, int(each / 5.8)), "head"))
        y += 24
        for level, of_level in panels.items():
            body.append(label(0.0, y + tall - 4, level, "axis"))
            for column, panel in enumerate(of_level[first : first + columns]):
                corner = left + column * (each + gap), y
                body += _histogram(panel, level, corner, (each, tall), highest)
            y += tall + 12
        for column in range(columns):
            x = left + column * (each + gap)
            for share in (0, 0.5, 1):
                anchor = {0: "start", 0.5: "middle", 1: "end"}[share]
                body.append(label(x + share * each, y + 6, f"{share:g}", "axis", anchor))
        y += 22
    return figure(width, y, "Where the passages stand, by length", body)


def _histogram(
    panel: HistogramPanel, level: str, corner: Point, size: Point, highest: float
) -> list[str]:
    x, y = corner
    each, base = size[0] / len(TENTHS), y + size[1]
    body = [tag("line", css="grid", x1=x, x2=x + size[0], y1=base, y2=base)]
    for at, (tenth, count, share) in enumerate(
        zip(TENTHS, panel.counts, panel.shares, strict=True)
    ):
        height = share / highest * size[1]
        said = f"{level}, {panel.kind}, depth {tenth}: {count} of {panel.passages}"
        place = {"x": x + at * each + 1, "y": base - height, "width": each - 2, "height": height}
        body.append(tag("rect", tooltip(said), **place, css=panel.css))
    return body


# --- score by tenth ---


def ordered_effects(positions: Positions) -> dict[str, DepthEffect]:
    """The subsets in the order of every table."""
    return {subset: positions.effects[subset] for subset in table_order(positions.effects)}


def tenth_ticks(positions: Positions) -> list[float]:
    """The axis of all panels."""
    parts = [part for each in positions.effects.values() for part in each.tenths.values()]
    return ticks_up_to(max([1.0, *(max(part.value, part.high or 0.0) for part in parts)]))


def difference_text(effect: DepthEffect) -> str:
    """Such as "+3.1 (+1.0 to +5.2)", ends less middle."""
    if effect.difference is None:
        return "not compared"
    between = effect.difference.between("+")
    return f"{effect.difference.value:+.1f}" + (f" ({between})" if between else "")


def draw_tenths(positions: Positions, width: int) -> str:
    """Draw a panel for each subset: the mean score by tenth of the prompt, with intervals."""
    wide, ticks = width == WIDE, tenth_ticks(positions)
    columns, gap, tall = (3, 30.0, 110.0) if wide else (2, 14.0, 90.0)
    each, down = (width - gap * (columns - 1)) / columns, tall + 74
    body = []
    for number, (subset, effect) in enumerate(ordered_effects(positions).items()):
        corner = (number % columns) * (each + gap), number // columns * down
        body += _tenth_panel(subset, effect, ticks, corner, (each, tall))
    lines = -(-len(positions.effects) // columns)
    return figure(width, max(lines, 1) * down, "Score by depth of the evidence in the prompt", body)


def _tenth_panel(
    subset: str, effect: DepthEffect, ticks: Sequence[float], corner: Point, size: Point
) -> list[str]:
    left, top = corner[0] + 26, corner[1] + 38
    across = (size[0] - 26) / len(TENTHS)
    body = [
        label(corner[0], corner[1] + 13, shortened(subset, int(size[0] / 6.5)), "head"),
        label(corner[0], corner[1] + 29, f"ends: {difference_text(effect)}", "axis"),
    ]

    def y(value: float) -> float:
        return top + size[1] * (1 - value / ticks[-1])

    for first in (ENDS[0], ENDS[2]):
        place = {"x": left + first * across, "y": top, "width": 2 * across, "height": size[1]}
        body.append(tag("rect", "", **place, css="band"))
    for tick in (ticks[0], ticks[-1]):
        at = y(tick)
        body.append(tag("line", css="grid", x1=left, x2=left + 10 * across, y1=at, y2=at))
        body.append(label(left - 5, at + 4, f"{tick:g}", "axis", "end"))
    points = []
    for at, tenth in enumerate(TENTHS):
        if tenth not in effect.tenths:
            continue
        part = effect.tenths[tenth]
        x = left + (at + 0.5) * across
        points.append((x, y(part.value)))
        if part.low is not None and part.high is not None:
            ends = {"y1": y(part.low), "y2": y(part.high)}
            body.append(tag("line", "", **ends, css="whisker", x1=x, x2=x))
    body.append(polyline(points, "own thin"))
    for (x, at), (tenth, part) in zip(points, effect.tenths.items(), strict=True):
        said = f"{subset}, depth {tenth}: {part.value:.2f} {part.label}"
        body.append(tag("circle", tooltip(said), cx=x, cy=at, r=3.0, css="own"))
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        x = left + share * 10 * across
        body.append(label(x, top + size[1] + 16, f"{share:g}", "axis", anchor))
    return body
