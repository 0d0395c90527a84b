"""A report as one HTML file that opens from disk, asks no network and runs no script but its own.

    Path("report.html").write_text(html.render(page))

Text of a run is untrusted: the template escapes all of it, and the row browser's data travel as
JSON, in an element that is not run, from where the script sets them as text. The policy in the
page's head admits its own style and script by their hashes and nothing else.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from lveval.analysis import causes, contexts, length_effect
from lveval.analysis.intervals import Interval
from lveval.common.text import printable
from lveval.report import bar_charts, charts, group_charts, position_charts, sweep_chart, tables
from lveval.report.data import ReportData, RowView
from lveval.results import PROTOCOLS, PUBLISHED_LEVELS, table_order

FOLDER = Path(__file__).resolve().parent

STYLES, SCRIPTS = ("page.css",), ("page.js", "navigation.js", "tables.js", "rows.js")

MOST_BYTES = 4_400_000  # of the rows' data: with all else the page stays under 5 MB

# Characters of a text that a page holds: the first that fits.
CAPS = (20_000, 4_000, 1_500, 600, 250, 100, 40)

# Characters of a passage of a context: the first that fits; else they are left out.
REACHES = (contexts.MOST, 160, 100, 60, 30)

# What could end the data's element or, in old engines, a line of script. JSON reads the escapes as
# the characters.
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

# UTF-8 has no lone surrogate: it is escaped too.
UNSAFE = re.compile(f"[{''.join(ESCAPED)}\ud800-\udfff]")

Key = TypeVar("Key")


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
    data = RowData.of(page)
    by_file = {"_".join(file): part for file, part in page.evidence_by_file.items()}
    return environment.get_template("page.html").render(
        page=page,
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        data=Markup(data.text),  # noqa: S704 - escaped by as_data
        cap=data.cap,
        reach=data.reach,
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
        rows_link=bar_charts.rows_link,
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
        comparison_table=tables.comparison_table,
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


# --- the row browser's data ---


@dataclass(frozen=True)
class RowData:
    """The rows as JSON for a page, and what had to be cut for its size."""

    text: str
    cap: int | None  # characters that texts were cut to; None: none was
    reach: int | None  # characters that passages were cut to, 0: left out; None: none was

    @classmethod
    def of(cls, page: ReportData) -> "RowData":
        """Write a page's rows. Passages of the contexts take what room the answers leave."""
        packer = RowPacker()
        data: dict[str, object] = {"rows": [packer.row(row) for row in page.rows]}
        data |= {"protocols": list(page.protocols), "limit": page.limit}
        for cap in CAPS:
            text = as_data({**packer.tables(cap), **data})
            if len(text.encode()) <= MOST_BYTES:
                break
        passages, reach = packed_passages(page.rows, MOST_BYTES - len(text.encode()))
        if passages:
            text = as_data({**packer.tables(cap), **data, "passages": passages})
        return cls(text, cap if max(map(len, packer.texts), default=0) > cap else None, reach)


def packed_passages(rows: list[RowView], room: int) -> tuple[str, int | None]:
    """The passages of all rows' contexts in at most `room` characters, and what they were cut to.

    They are JSON, compressed by gzip and written in base64. The rows of one question follow each
    other there, for much of what they hold is the same; `order` tells which rows they are.
    """
    order = sorted(
        (number for number, row in enumerate(rows) if row["passages"]),
        key=lambda number: (rows[number]["subset"], rows[number]["index"], number),
    )
    if not order:
        return "", None
    for reach in REACHES:
        told = [
            [
                [
                    one.kind,
                    round(one.depth, 4),
                    one.in_prompt,
                    one.before,
                    one.text,
                    one.after,
                    one.cut,
                ]
                for one in (passage.shortened(reach) for passage in rows[number]["passages"])
            ]
            for number in order
        ]
        content = as_data({"order": order, "rows": told}).encode()
        packed = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
        if len(packed) <= room:
            return packed, None if reach == REACHES[0] else reach
    return "", 0


def as_data(value: object) -> str:
    """Write JSON for a `<script type="application/json">`: no character can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return UNSAFE.sub(lambda found: ESCAPED.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


class RowPacker:
    """Rows as page.js reads them: lists of numbers that point to texts, files and questions."""

    def __init__(self) -> None:
        # Each keeps a value once, with its number.
        self.texts: dict[str, int] = {}
        self.words: dict[str, int] = {}  # of statuses, causes and finish reasons: never cut
        self.files: dict[tuple[str, str, str], int] = {}
        self.questions: dict[tuple[str, tuple[object, ...]], int] = {}  # with their subset

    def row(self, row: RowView) -> list[object]:
        """Pack one row."""
        work, kept = row["working"], row["evidence_kept"]
        return [
            number(self.files, (row["subset"], row["level"], row["language"])),
            row["index"],
            self._question(row),
            number(self.texts, row["pred"]),
            number(self.texts, row["raw_pred"]),
            number(self.words, row["status"]),
            number(self.words, row["cause"]),
            [round(row["scores"][protocol], 4) for protocol in PROTOCOLS],
            work and [work.found, work.overlap, work.prediction_tokens],
            row["prompt_tokens"],
            row["prompt_tokens_full"],
            kept if kept is None else int(kept),
            number(self.words, row["finish_reason"]),
            row["length"],
        ]

    def _question(self, row: RowView) -> int:
        """What the rows of one question share at all levels."""
        facts = self._numbers(row["facts"])
        asked: tuple[object, ...] = (
            number(self.texts, row["question"]),
            self._numbers(row["truths"]),
            number(self.texts, row["keywords_text"]),
            facts,
        )
        if work := row["working"]:
            keywords = self._numbers(work.keywords)
            asked += (keywords, work.ignored, work.least_recall, work.truth_tokens)
        return number(self.questions, (row["subset"], asked))

    def _numbers(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(number(self.texts, text) for text in texts)

    def tables(self, cap: int) -> dict[str, object]:
        """What the numbers point to, texts cut to `cap` characters; `long`: their full length."""
        return {
            "strings": [text[:cap] for text in self.texts],
            "files": list(self.files),
            "questions": [asked for _, asked in self.questions],
            "words": list(self.words),
            "long": {place: len(text) for text, place in self.texts.items() if len(text) > cap},
        }


def number(known: dict[Key, int], value: Key | None) -> int:
    """Number a value, the same each time; -1 for None."""
    return -1 if value is None else known.setdefault(value, len(known))
