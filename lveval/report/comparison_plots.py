"""The differences of compared runs as dots with intervals, painted by matplotlib for plots.py.

    comparison_plots.available(page)["comparison_1"](figure)

forest_chart.py decides what they show.
"""

from functools import partial
from typing import TYPE_CHECKING

from lveval.common.text import printable
from lveval.report import charts, forest_chart
from lveval.report.compared import ComparedRun, compared_runs
from lveval.report.data import ReportData
from lveval.report.plot_style import GRID, INKS, Draw
from lveval.results import HEADLINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def available(page: ReportData) -> dict[str, Draw]:
    """The plots that a page has, by name."""
    runs = compared_runs(page, HEADLINE)
    return {f"comparison_{number}": partial(_forest, run) for number, run in enumerate(runs, 1)}


def _forest(run: ComparedRun, figure: "Figure") -> None:
    """A dot for each part, full where a difference is shown, with its interval."""
    lines = [(name, part) for name, parts in forest_chart.blocks(run) for part in parts]
    figure.set_figheight(max(3.0, 1.4 + 0.27 * len(lines)))
    axes = figure.add_subplot()
    for place, (_, part) in enumerate(lines):
        found = part.difference
        ink = (INKS["own"] if part.leads else INKS["s4"]) if part.better else "#555b63"
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=ink, linewidth=1.8)
        shape, fill = "D" if part is run.overall else "o", ink if part.better else "white"
        axes.plot(found.value, place, shape, color=ink, markerfacecolor=fill, markersize=6)
        if place and lines[place - 1][0] != lines[place][0]:
            axes.axhline(place - 0.5, color=GRID, linewidth=1)
    marks = forest_chart.ticks(run)
    axes.axvline(0, color="#7b848e", linewidth=1.2, zorder=0)
    axes.set_xlim(marks[0], marks[-1])
    axes.set_xticks(marks, [f"{mark:+g}" if mark else "0" for mark in marks])
    axes.set_yticks(range(len(lines)), [part.name for _, part in lines])
    axes.invert_yaxis()
    axes.set_xlabel(printable(f"{charts.shortened(run.columns[2], 80)}, points"))
    axes.xaxis.grid(visible=True, color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
