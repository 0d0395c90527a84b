"""The radar of task groups and the bars of subsets, painted by matplotlib for plots.py.

    group_plots.available(page)["radar"](figure)

group_charts.py decides what they show.
"""

from functools import partial
from typing import TYPE_CHECKING

from lveval.common.text import printable
from lveval.report import charts
from lveval.report.data import ReportData
from lveval.report.group_charts import GroupChart, group_chart
from lveval.report.plot_style import DASHES, GRID, INKS, Draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def available(page: ReportData) -> dict[str, Draw]:
    """The plots that a page has, by name."""
    chart = group_chart(page)
    radar: dict[str, Draw] = {"radar": partial(_radar, chart)} if chart.has_radar else {}
    return {**radar, "subsets": partial(_bars, chart)}


def _radar(chart: GroupChart, figure: "Figure") -> None:
    """Each model's means of the groups, as a ring around the centre."""
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_axis_off()

    def ring(values: dict[str, float], **style: object) -> None:
        points = [chart.on_radar(group, value) for group, value in values.items()]
        across, down = zip(*points, points[0], strict=True)
        axes.plot(across, [-each for each in down], **style)  # type: ignore[arg-type]

    ticks = chart.group_ticks[1:]
    for tick in ticks:
        ring(dict.fromkeys(chart.groups, tick), color=GRID, linewidth=0.8)
        x, y = chart.on_radar(next(iter(chart.groups)), tick)
        axes.text(x - 0.015, -y, f"{tick:g}", fontsize=7, ha="right", va="center")
    for group, found in chart.groups.items():
        x, y = chart.on_radar(group, ticks[-1])
        axes.plot([0, x], [0, -y], color=GRID, linewidth=0.8)
        side = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        between = f" ({found.between()})" if found.between() else ""
        said = f"{group}\n{found.value:.1f}{between}"
        axes.text(1.06 * x, -1.06 * y, said, ha=side, va="bottom" if y < -0.9 else "center")
    for number, model in reversed(list(enumerate(chart.models))):
        is_own = model.css == "own"
        ring(
            {group: model.groups[group] for group in chart.groups},
            color=INKS[model.css],
            linestyle="-" if is_own else DASHES[number % len(DASHES)],
            linewidth=2.5 if is_own else 1.5,
            marker="o",
            markersize=5 if is_own else 3,
        )
    _legend(chart, axes, -0.06)


def _bars(chart: GroupChart, figure: "Figure") -> None:
    """A bar for each model in each subset, this run's first."""
    figure.set_figheight(max(3.0, 1.2 + len(chart.subsets) * (0.25 + 0.13 * len(chart.models))))
    axes = figure.add_subplot()
    thick = 0.8 / len(chart.models)
    for number, model in enumerate(chart.models):
        places = [row - 0.4 + (number + 0.5) * thick for row in range(len(chart.subsets))]
        values = [model.subsets[subset] for subset in chart.subsets]
        axes.barh(
            places, values, height=thick, color=INKS[model.css], edgecolor="white", linewidth=0.5
        )
        if model.css == "own":
            for y, found in zip(places, chart.subsets.values(), strict=True):
                end = found.value
                if found.low is not None and found.high is not None:
                    end = found.high
                    axes.plot([found.low, end], [y, y], color="black", linewidth=1)
                axes.text(end, y, f" {found.value:.1f}", va="center", fontsize=7)
    axes.set_yticks(range(len(chart.subsets)), list(chart.subsets))
    axes.invert_yaxis()
    axes.set_xlim(0, chart.subset_ticks[-1])
    axes.set_xlabel("mean score of the lengths")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.grid(visible=True, color=GRID)
    axes.set_axisbelow(True)
    axes.margins(y=0.01)
    _legend(chart, axes, -0.06)


def _legend(chart: GroupChart, axes: "Axes", below: float) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=INKS[model.css], label=printable(charts.shortened(model.name, 30)))
        for model in chart.models
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, below),
        ncols=3,
        frameon=False,
        fontsize=8,
    )
