"""A Page's plots as PNG and SVG files, by matplotlib: heat map, curves, causes.

    plots.write(page, Path("report"))    # report_heatmap.png, report_heatmap.svg, report_curves.png …

Names of a run are text: no mathematics is read out of them. The files hold no clock, so equal runs give equal files.
"""

import warnings
from collections.abc import Callable
from io import BytesIO
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING

from lveval.common.files import write_atomic
from lveval.common.levels import level_length
from lveval.common.text import printable
from lveval.report import charts
from lveval.report.data import ReportData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, GREY = "#0b5cad", "#555b63"  # this run, the others

# Fonts with Chinese letters, as systems name them; those that are installed stand behind the default one.
HAN = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
)

COLOURS = {  # as in page.css
    "scored": "#0072b2",
    "c-correct": "#b8d8ba",
    "c-verbose": "#7e57c2",
    "c-evidence_cut": "#e07b39",
    "c-refused": "#5b5f66",
    "c-empty": "#9aa0a8",
    "c-loop": "#f0e442",
    "c-wrong_language": "#009e73",
    "c-distracted": "#d48fb3",
    "c-length": "#56b4e9",
    "c-gated": "#e69f00",
    "c-wrong": "#8c2d04",
}


def write(page: ReportData, stem: Path) -> list[Path]:
    """Write `<stem>_<plot>.png` and `.svg` of each plot that the page has; their paths.

    Raises HarnessError (STORAGE) where a file cannot be written, ModuleNotFoundError without matplotlib.
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
    drawn: dict[str, Callable[[ReportData, Axes], None]] = {
        "heatmap": _heatmap,
        "curves": _curves,
        "causes": _causes,
    }
    written = []
    for name, draw in drawn.items():
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=r"Glyph .* missing", category=UserWarning
            )  # a box is shown
            figure = Figure(figsize=(9, 5.5), layout="constrained")
            FigureCanvasAgg(figure)
            draw(page, figure.add_subplot())
            figure.suptitle(printable(charts.shortened(page.name, 60)))
            figure.supxlabel(
                printable("\n".join(page.notes)), fontsize=7
            )  # no number without its warnings
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


def _heatmap(page: ReportData, axes: "Axes") -> None:
    """Subset by level, the number in each cell."""
    import numpy

    values = numpy.full((len(page.subsets), len(page.levels)), numpy.nan)
    for row, subset in enumerate(page.subsets):
        for column, level in enumerate(page.levels):
            if (score := page.scores.get((subset, level))) is not None:
                values[row, column] = score.value
    top = charts.ticks_up_to(float(numpy.nanmax(values)))[-1]
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for (row, column), value in numpy.ndenumerate(values):
        if not numpy.isnan(value):
            red, green, blue, _ = image.cmap(value / top)
            bright = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="black" if bright else "white",
            )
    axes.set_xticks([column + 0.5 for column in range(len(page.levels) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(page.subsets) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(page.levels)), page.levels)
    axes.set_yticks(range(len(page.subsets)), page.subsets)


def _curves(page: ReportData, axes: "Axes") -> None:
    """Level means of the run and of the published models over the same subsets, named at their ends."""
    lines = charts.published_curves(page)
    shown, ticks = charts.axes_of(page, lines)
    top = ticks[-1]
    width = max(log2(level_length(shown[-1])) - log2(level_length(shown[0])), 1.0)

    def x(level: str) -> float:
        return (log2(level_length(level)) - log2(level_length(shown[0]))) / width

    ends = []
    for number, (name, line) in enumerate(lines):
        places = [x(level) for level in line]
        axes.plot(
            places,
            list(line.values()),
            ("-", "--", ":", "-.")[number % 4],
            color="#8a8f96",
            linewidth=1,
        )
        ends.append((places[-1], list(line.values())[-1], name, GREY))
    means = [page.level_means[level] for level in page.levels]
    places = [x(level) for level in page.levels]
    axes.plot(places, [score.value for score in means], color=BLUE, linewidth=2.5)
    for place, level, score in zip(places, page.levels, means, strict=True):
        fill = BLUE if level in page.comparable else "white"  # hollow: not the leaderboard's mean
        axes.plot(place, score.value, "o", color=BLUE, markerfacecolor=fill, markersize=7)
        if score.low is not None and score.high is not None:
            axes.plot([place, place], [score.low, score.high], color=BLUE, linewidth=1.5, alpha=0.6)
    if page.levels[-1] == shown[-1]:
        ends.append((places[-1], means[-1].value, page.name, BLUE))
    else:  # a line to the margin would cross the others
        axes.text(
            places[-1] + 0.015,
            means[-1].value,
            printable(charts.shortened(page.name, 20)),
            color=BLUE,
        )
    frame = charts.LABEL_GAP * 24  # room for two dozen names
    label_places = charts.spread_labels(
        [frame * (1 - value / top) for _, value, _, _ in ends], 0, frame
    )
    for (from_x, value, name, colour), place in zip(ends, label_places, strict=True):
        at = top * (1 - place / frame)
        axes.plot([from_x + 0.01, 1.05, 1.07], [value, at, at], color="#d0d4d9", linewidth=0.7)
        axes.text(
            1.075, at, printable(charts.shortened(name, 30)), color=colour, fontsize=8, va="center"
        )
    axes.set_ylim(0, top)
    axes.set_xlim(-0.03, 1.3)
    axes.set_xticks([x(level) for level in shown], shown)
    axes.set_ylabel("mean score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(-0.03, 1.03)


def _causes(page: ReportData, axes: "Axes") -> None:
    """What became of 100 points at each level."""
    from matplotlib.patches import Patch

    lines = charts.cause_lines(page, 1)
    for row, (_, parts) in enumerate(lines):
        left = 0.0
        for part in parts:
            axes.barh(row, part.value, left=left, color=COLOURS[part.css], edgecolor="white")
            if part.value > 4:
                dark = part.css in ("scored", "c-refused", "c-verbose", "c-wrong")
                text = f"{part.value:.1f}"
                axes.text(
                    left + part.value / 2,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
            left += part.value
    axes.set_yticks(range(len(lines)), [name for name, _ in lines])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("points of 100")
    axes.spines[["top", "right"]].set_visible(False)
    legend = [Patch(color=COLOURS[part.css], label=part.name) for part in lines[0][1]]
    axes.legend(
        handles=legend,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=6,
        frameon=False,
        fontsize=8,
    )
