"""A report's plots as PNG and SVG files, by matplotlib: scores, causes, depths, comparisons, …

    plots.write(page, Path("report"))    # report_heatmap.png, report_heatmap.svg, …

charts.py decides what the curves and bars show. Names of a run are text: no mathematics is read
out of them. The files hold no clock, so equal runs give equal files.
"""

import warnings
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lveval.common.files import write_atomic
from lveval.common.text import printable
from lveval.report import bar_charts, charts, comparison_plots, group_plots, position_plots
from lveval.report.beside import HUES
from lveval.report.data import ReportData
from lveval.report.plot_style import DASHES, INKS, Draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BLUE, GREY = INKS["own"], "#555b63"  # this run, the published models

# Fonts with Chinese letters, as systems name them; those installed back up the default one.
HAN = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
)

COLOURS = {  # as in page.css: blue what was right, purple what the model failed at
    "scored": "#0072b2",
    "c-correct": "#9ecae9",
    "c-verbose": "#c9e2f3",
    "c-evidence_cut": "#e07b39",
    "c-refused": "#f3e3f1",
    "c-empty": "#e9cfe6",
    "c-loop": "#ddb8da",
    "c-wrong_language": "#d0a0cd",
    "c-distracted": "#c188be",
    "c-length": "#b06fae",
    "c-gated": "#8f4a90",
    "c-wrong": "#743374",
}

DARK = ("scored", "c-gated", "c-wrong")  # text on these is white


def write(page: ReportData, stem: Path) -> list[Path]:
    """Write `<stem>_<plot>.png` and `.svg` of each plot and return their paths.

    Raises StorageError where a file cannot be written, ModuleNotFoundError without matplotlib.
    """
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    installed = {font.name for font in font_manager.fontManager.ttflist}
    settings = {
        "font.family": ["DejaVu Sans", *(name for name in HAN if name in installed)],
        "text.parse_math": False,
        "svg.hashsalt": "lveval",  # ids in the file do not change from run to run
        "svg.fonttype": "path",
    }
    plots: dict[str, Draw] = {
        "heatmap": partial(_heatmap, page),
        "curves": partial(_curves, page),
        "causes": partial(_causes, page),
        **group_plots.available(page),
        **position_plots.available(page),
        **comparison_plots.available(page),
    }
    written = []
    for name, draw in plots.items():
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            # A box is shown in its place.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
            figure = Figure(figsize=(9, 5.5), layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure)
            figure.suptitle(printable(charts.shortened(page.name, 60)))
            # No number without its warnings.
            figure.supxlabel(printable("\n".join(page.notes)), fontsize=7)
            written += [
                _save(figure, stem.with_name(f"{stem.name}_{name}.{kind}"))
                for kind in ("png", "svg")
            ]
    return written


def _save(figure: "Figure", path: Path) -> Path:
    content = BytesIO()
    no_clock = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(content, format=path.suffix[1:], dpi=200, metadata=no_clock)
    write_atomic(path, content.getvalue())
    return path


def _heatmap(page: ReportData, figure: "Figure") -> None:
    """Subset by level, the number in each cell."""
    import numpy

    axes = figure.add_subplot()
    values = numpy.full((len(page.subsets), len(page.levels)), numpy.nan)
    for (subset, level), score in page.headline.scores.items():
        values[page.subsets.index(subset), page.levels.index(level)] = score.value
    top = charts.ticks_up_to(float(numpy.nanmax(values)))[-1]
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for (row, column), value in numpy.ndenumerate(values):
        if not numpy.isnan(value):
            colour = position_plots.cell_ink(image.cmap(value / top))
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks([column + 0.5 for column in range(len(page.levels) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(page.subsets) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(page.levels)), page.levels)
    axes.set_yticks(range(len(page.subsets)), page.subsets)


def _curves(page: ReportData, figure: "Figure") -> None:
    """Level means of the run and of the published models, named at their ends."""
    axes = figure.add_subplot()
    chart = charts.curve_chart(page)
    top = chart.ticks[-1]
    for number, (_, line) in enumerate(chart.published):
        places, style = [chart.across(level) for level in line], DASHES[number % 4]
        axes.plot(places, list(line.values()), style, color="#8a8f96", linewidth=1)
    for number, (_, line) in enumerate(chart.compared):
        places, hue = [chart.across(level) for level in line], HUES[number % len(HUES)]
        style = f"{DASHES[number % 4]}o"
        axes.plot(places, list(line.values()), style, color=INKS[hue], linewidth=1.5, markersize=4)
    places = [chart.across(level) for level in chart.ceiling]
    axes.plot(places, list(chart.ceiling.values()), ":", color="black", linewidth=1.2)
    places = [chart.across(level) for level in chart.own]
    axes.plot(places, [mean.value for mean in chart.own.values()], color=BLUE, linewidth=2.5)
    for place, (level, mean) in zip(places, chart.own.items(), strict=True):
        fill = BLUE if level in chart.leaderboard_levels else "white"
        axes.plot(place, mean.value, "o", color=BLUE, markerfacecolor=fill, markersize=7)
        if mean.low is not None and mean.high is not None:
            axes.plot([place, place], [mean.low, mean.high], color=BLUE, linewidth=1.5, alpha=0.6)
    if not chart.own_reaches_margin:
        name = printable(charts.shortened(chart.name, 20))
        axes.text(places[-1] + 0.015, chart.own_end.value, name, color=BLUE)
    frame = charts.LABEL_GAP * 24  # room for two dozen names
    wanted = [frame * (1 - end.value / top) for end in chart.ends]
    for end, label in zip(chart.ends, charts.spread_labels(wanted, 0, frame), strict=True):
        x, y = chart.across(end.level), top * (1 - label / frame)
        axes.plot([x + 0.01, 1.05, 1.07], [end.value, y, y], color="#d0d4d9", linewidth=0.7)
        name, colour = printable(charts.shortened(end.name, 30)), INKS.get(end.css, GREY)
        axes.text(1.075, y, name, color=colour, fontsize=8, va="center")
    axes.set_ylim(0, top)
    axes.set_xlim(-0.03, 1.3)
    most = {level: f"\n≤ {value:.0f}" for level, value in chart.ceiling.items()}
    names = [f"{level}{most.get(level, '')}" for level in chart.levels]
    axes.set_xticks([chart.across(level) for level in chart.levels], names)
    axes.set_ylabel("mean score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(-0.03, 1.03)


def _causes(page: ReportData, figure: "Figure") -> None:
    """What became of 100 points at each level."""
    from matplotlib.patches import Patch

    axes = figure.add_subplot()
    bars = bar_charts.cause_bars(page)
    for row, (_, parts) in enumerate(bars):
        left = 0.0
        for part in parts:
            axes.barh(row, part.value, left=left, color=COLOURS[part.css], edgecolor="white")
            if part.value > 4:
                place, text = (left + part.value / 2, row), f"{part.value:.1f}"
                colour = "white" if part.css in DARK else "black"
                axes.text(*place, text, ha="center", va="center", fontsize=8, color=colour)
            left += part.value
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("points of 100")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        handles=[Patch(color=COLOURS[part.css], label=part.name) for part in bars[0][1]],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=6,
        frameon=False,
        fontsize=8,
    )
