"""The charts of depth as matplotlib paints them: the panels of position_charts.py.

for name, draw in position_plots.available(page).items():
    draw(figure)
"""

from functools import partial
from typing import TYPE_CHECKING

from lveval.analysis.positions import ENDS, TENTHS, Positions
from lveval.report.data import ReportData
from lveval.report.plot_style import INKS, Draw
from lveval.report.position_charts import (
    HeatPanel,
    difference_text,
    heat_panels,
    ordered_effects,
    shown_histograms,
    tenth_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, BAND = INKS["own"], "#e3eefa"

COLOURS = {"p-evidence": "#0072b2", "p-fact": "#e07b39"}  # as in page.css


def available(page: ReportData) -> dict[str, Draw]:
    """The plots that a run's depths have data for, by name."""
    found = page.positions
    plots: dict[str, Draw] = {}
    if found is None:
        return plots
    if found.heat:
        plots["depth"] = partial(draw_heat_maps, found)
    if found.effects:
        plots["depth_scores"] = partial(draw_tenths, found)
    plots["depth_passages"] = partial(draw_histograms, found)
    return plots


def cell_ink(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever stands out from a colour (red, green, blue, alpha; 0 to 1)."""
    red, green, blue, _ = colour
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return "black" if luminance > 0.18 else "white"


def draw_heat_maps(found: Positions, figure: "Figure") -> None:
    """Depth by length of each subset of one question: score, and evidence kept."""
    heat = found.heat
    figure.set_size_inches(9, 4.2 * len(heat))
    grid = figure.subplots(len(heat), 2, squeeze=False)
    for line, (subset, maps) in zip(grid, heat.items(), strict=True):
        for axes, panel in zip(line, heat_panels(maps), strict=True):
            _heat_map(axes, panel)
            axes.set_title(f"{subset}: {panel.title}", fontsize=10)
        line[0].set_ylabel("depth of the evidence in the context")


def _heat_map(axes: "Axes", panel: HeatPanel) -> None:
    import numpy

    columns = [
        [numpy.nan if value is None else value for value in column]
        for column in panel.values.values()
    ]
    values = numpy.array(columns, dtype=float).T
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=panel.highest, aspect="auto")
    for (row, column), value in numpy.ndenumerate(values):
        if not numpy.isnan(value):
            ink = cell_ink(image.cmap(value / panel.highest))
            said = f"{value:.0f}"
            axes.text(column, row, said, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(panel.values)), list(panel.values))
    axes.set_yticks(
        [at - 0.5 for at in range(0, 11, 2)], [f"{at / 10:g}" for at in range(0, 11, 2)]
    )
    axes.set_xticks([at + 0.5 for at in range(len(panel.values) - 1)], minor=True)
    axes.set_yticks([at + 0.5 for at in range(len(TENTHS) - 1)], minor=True)
    axes.yaxis.remove_overlapping_locs = False  # every second line is at a labelled tick
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def draw_tenths(found: Positions, figure: "Figure") -> None:
    """The mean score by tenth of the prompt, a panel for each subset."""
    effects, top = ordered_effects(found), tenth_ticks(found)[-1]
    columns = min(3, len(effects))
    lines = -(-len(effects) // columns)
    figure.set_size_inches(9, 1 + 2 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(effects) :]:
        axes.set_visible(False)
    for axes in grid.flat[len(effects) - columns : len(effects)]:
        axes.tick_params(labelbottom=True)  # also where none is below
    for axes, (subset, effect) in zip(grid.flat, effects.items(), strict=False):
        for first in (ENDS[0], ENDS[2]):
            axes.axvspan(first / 10, first / 10 + 0.2, color=BAND, linewidth=0)
        places = [(TENTHS.index(tenth) + 0.5) / 10 for tenth in effect.tenths]
        for place, part in zip(places, effect.tenths.values(), strict=True):
            if part.low is not None and part.high is not None:
                axes.plot([place, place], [part.low, part.high], color=BLUE, alpha=0.5)
        means = [part.value for part in effect.tenths.values()]
        axes.plot(places, means, "o-", color=BLUE, markersize=3, linewidth=1.2)
        axes.set_title(f"{subset}\nends: {difference_text(effect)}", fontsize=8, loc="left")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, top)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("mean score by depth of the evidence in the prompt", fontsize=9)


def draw_histograms(found: Positions, figure: "Figure") -> None:
    """Where the passages stand, a line for each level; shares of those in the contexts."""
    panels = shown_histograms(found)
    columns = len(next(iter(panels.values())))
    figure.set_size_inches(9, 1 + 1.1 * len(panels))
    grid = figure.subplots(len(panels), columns, squeeze=False, sharex=True, sharey=True)
    for line, (level, of_level) in zip(grid, panels.items(), strict=True):
        for axes, panel in zip(line, of_level, strict=True):
            places = [(at + 0.5) / 10 for at in range(len(TENTHS))]
            shares = [100 * share for share in panel.shares]
            axes.bar(places, shares, width=0.09, color=COLOURS[panel.css])
            axes.set_xlim(0, 1)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(level)
    for axes, panel in zip(grid[0], next(iter(panels.values())), strict=True):
        axes.set_title(panel.kind, fontsize=9)
    figure.supylabel("passages by depth (% of those in the contexts)", fontsize=9)
