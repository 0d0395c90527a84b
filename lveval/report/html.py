"""A report as one HTML file that opens from disk, asks no network and runs no script but its own.

    Path("report.html").write_text(html.render(page))

Text of a run is untrusted: the template escapes all of it, and the row browser's data travel as
JSON, in an element that is not run, from where the script sets them as text. The policy in the
page's head admits its own style and script by their hashes and nothing else.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lveval.analysis import causes, length_effect
from lveval.analysis.intervals import Interval
from lveval.common.levels import PUBLISHED_LEVELS
from lveval.common.text import printable
from lveval.report import (
    bar_charts,
    charts,
    forest_chart,
    group_charts,
    position_charts,
    row_data,
    sweep_chart,
    tables,
)
from lveval.report.compared import ComparedRun, compared_runs
from lveval.report.data import ReportData
from lveval.results import table_order

FOLDER = Path(__file__).resolve().parent

STYLES = ("page.css", "rows.css")
SCRIPTS = ("page.js", "navigation.js", "tables.js", "rows.js")


def render(page: ReportData) -> str:
    """Write the whole page as a string of HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style, script = ("".join(map(read, names)) for names in (STYLES, SCRIPTS))
    style = style.replace("/* DARK */", read("dark.css"))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Controls and bidi overrides are shown, not obeyed.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    data = row_data.RowData.of(page.rows, page.name, page.others, page.limit)
    by_file = {"_".join(file): part for file, part in page.evidence_by_file.items()}
    return environment.get_template("page.html").render(
        page=page,
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        data=Markup(data.text),  # noqa: S704 - escaped by row_data.as_data
        cap=data.cap,
        reach=data.reach,
        row_label=row_data.row_label,
        worst=row_data.worst_rows(page.rows),
        worst_length=row_data.WORST_LENGTH,
        highest=highest_scores(page),
        steps=range(charts.STEPS),
        published_levels=PUBLISHED_LEVELS,
        heat=heat_class,
        best_answers_note=tables.best_answers_note(page.ablation),
        ablation_table=tables.ablation_table,
        ablation_note=tables.ABLATION_NOTE,
        lost=[("level", page.lost.levels), ("subset", page.lost.subsets)],
        fraction=length_effect.FRACTION,
        in_words=causes.IN_WORDS,
        labels={cause: causes.label(cause) for cause in causes.IN_WORDS},
        families=causes.FAMILIES,
        rows_link=row_data.rows_link,
        sparklines=sparklines(page),
        evidence_by_file=by_file,
        evidence_table=tables.evidence_table,
        **position_parts(page),
        reasoning_table=tables.reasoning_table,
        measures_table=tables.measures_table,
        sweep_table=tables.sweep_table,
        sweep=_drawn(partial(sweep_chart.draw, page.sweep)) if page.sweep else [],
        times_table=tables.times_table,
        times_note=tables.TIMES_NOTE,
        reasoning=_drawn(partial(charts.draw_curves, charts.reasoning_chart(page)))
        if page.reasoning
        else [],
        length_table=tables.length_table,
        compared=comparison_parts(page),
        curves={
            name: _drawn(
                partial(charts.draw_curves, charts.curve_chart(page, name)), charts.CURVE_WIDTHS
            )
            for name in page.protocols
        },
        **group_parts(page),
        evidence_bars=_drawn(
            partial(bar_charts.draw_bars, "Evidence kept by level", bar_charts.evidence_bars(page))
        ),
        cause_bars=_drawn(
            partial(bar_charts.draw_bars, "Points by cause and level", bar_charts.cause_bars(page))
        ),
        family_bars=_drawn(
            partial(
                bar_charts.draw_bars, "Points by family and level", bar_charts.family_bars(page)
            ),
            charts.FAMILY_WIDTHS,
        ),
    )


def _drawn(draw: Callable[[int], str], widths: Sequence[int] = charts.WIDTHS) -> list[str]:
    """A chart for wide and narrow screens, as markup; `draw` takes a width."""
    from markupsafe import Markup

    return [Markup(draw(width)) for width in widths]  # noqa: S704 - our own drawing


def sparklines(page: ReportData) -> list[str]:
    """The scores by length of each line of the table of what length costs."""
    from markupsafe import Markup

    found = page.lengths
    curves = [*(found.subsets[name] for name in table_order(found.subsets)), found.overall]
    top = max([1.0, *(score for curve in curves for score in curve.scores.values())])
    return [
        Markup(charts.draw_sparkline(curve.scores, top, length_effect.FRACTION))  # noqa: S704
        for curve in curves
    ]


def group_parts(page: ReportData) -> dict[str, object]:
    """What the page's part on groups, groups.html, shows of each protocol."""
    found = {name: group_charts.group_chart(page, name) for name in page.protocols}
    return {
        "group_charts": found,
        "radars": {
            name: _drawn(partial(group_charts.draw_radar, chart)) if chart.has_radar else []
            for name, chart in found.items()
        },
        "subset_bars": {
            name: _drawn(partial(group_charts.draw_bars, chart)) for name, chart in found.items()
        },
        "groups_note": tables.GROUPS_NOTE,
        "subsets_table": tables.subsets_table(),
        "models_table": tables.models_table,
        "misled_table": tables.misled_table,
    }


def comparison_parts(page: ReportData) -> dict[str, list[tuple[ComparedRun, list[str]]]]:
    """What the page's section on comparisons, comparison.html, shows under each protocol."""
    return {
        name: [(run, _drawn(partial(forest_chart.draw, run))) for run in compared_runs(page, name)]
        for name in page.protocols
    }


def position_parts(page: ReportData) -> dict[str, object]:
    """What the page's section on depth shows; charts only where a row tells of one."""
    found = page.positions
    return {
        "depth_table": tables.depth_table,
        "histograms": _drawn(partial(position_charts.draw_histograms, found)) if found else [],
        "heat_maps": {
            subset: _drawn(partial(position_charts.draw_heat, subset, heat))
            for subset, heat in (found.heat if found else {}).items()
        },
        "tenths": _drawn(partial(position_charts.draw_tenths, found))
        if found and found.effects
        else [],
    }


def read(name: str) -> str:
    """A plain file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """The content security policy: just this style and this script, and text only as text."""
    digests = (hashlib.sha256(text.encode()).digest() for text in (style, script))
    style_hash, script_hash = (f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return (
        f"default-src 'none'; style-src {style_hash}; script-src {script_hash}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def highest_scores(page: ReportData) -> dict[str, float]:
    """Where the colours of each protocol's heat map end."""
    return {
        name: charts.ticks_up_to(max(score.value for score in found.scores.values()))[-1]
        for name, found in page.protocols.items()
    }


def heat_class(score: Interval | None, highest: float) -> str:
    """The class of a heat map's cell."""
    return "none" if score is None else f"h{charts.heat_step(score.value, highest)}"
