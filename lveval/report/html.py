"""A report as one HTML file that opens from disk, asks no network and runs no script but its own.

    Path("report.html").write_text(html.render(page))

Text of a run is untrusted: the template escapes all of it, and the row browser's data travel as
JSON, in an element that is not run, from where the script sets them as text. The policy in the
page's head admits its own style and script by their hashes and nothing else.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from lveval.analysis import causes, length_effect
from lveval.analysis.intervals import Interval
from lveval.analysis.score_breakdown import ScoreBreakdown
from lveval.common.text import printable
from lveval.report import charts, tables
from lveval.report.data import ReportData, RowView
from lveval.results import PUBLISHED_LEVELS

FOLDER = Path(__file__).resolve().parent

STEPS = 11  # colours of the heat map, h0 to h10 in page.css

MOST_BYTES = 4_400_000  # of the rows' data: with all else the page stays under 5 MB

CAPS = (
    20_000,
    4_000,
    1_500,
    600,
    250,
    100,
    40,
)  # characters of a text that a page holds, the first that fits

# What could end the data's element or, in old engines, a line of script. JSON reads the escapes as the characters.
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

UNSAFE = re.compile(
    f"[{''.join(ESCAPED)}\ud800-\udfff]"
)  # UTF-8 has no lone surrogate: it is escaped too


def render(page: ReportData) -> str:
    """Write the whole page as a string of HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style, script = read("page.css").replace("/* DARK */", read("dark.css")), read("page.js")
    highest = charts.ticks_up_to(max((score.value for score in page.scores.values()), default=0.0))[
        -1
    ]
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Controls and bidi overrides are shown, not obeyed.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    curves = charts.curve_chart(page)
    data, cap = row_data(page.rows, page.limit)
    by_file = {"_".join(file): part for file, part in page.evidence_by_file.items()}
    return environment.get_template("page.html").render(
        page=page,
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        data=Markup(data),  # noqa: S704 - escaped by as_data
        cap=cap,
        highest=highest,
        steps=range(STEPS),
        published_levels=PUBLISHED_LEVELS,
        heat=lambda score: heat_class(score, highest),
        lost=[("level", page.lost.levels), ("subset", page.lost.subsets)],
        fraction=length_effect.FRACTION,
        in_words=causes.IN_WORDS,
        evidence_by_file=by_file,
        evidence_table=tables.evidence_table,
        length_table=tables.length_table,
        comparison_table=tables.comparison_table,
        curves=[Markup(charts.draw_curves(curves, width)) for width in charts.WIDTHS],  # noqa: S704
        evidence_bars=_bars("Evidence kept by level", charts.evidence_bars(page)),
        cause_bars=_bars("Points by cause and level", charts.cause_bars(page)),
    )


def _bars(title: str, bars: list[charts.Bar]) -> list[str]:
    """A bar chart for wide and narrow screens, as markup."""
    from markupsafe import Markup

    return [Markup(charts.draw_bars(title, bars, width)) for width in charts.WIDTHS]  # noqa: S704


def read(name: str) -> str:
    """A plain file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """The content security policy: nothing but this style and this script, and text only as text."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def heat_class(score: Interval | None, highest: float) -> str:
    """The class of a heat map's cell."""
    return "none" if score is None else f"h{min(STEPS - 1, int(score.value / highest * STEPS))}"


# --- the row browser's data -----------------------------------------------------------------------------------------


def row_data(rows: list[RowView], limit: int | None) -> tuple[str, int | None]:
    """The rows as JSON that may stand in a page, and the number of characters to which texts had to be cut, if any.

    `limit`: the longest prompt of the run, in tokens.
    """
    for cap in CAPS:
        data = as_data({**pack(rows, cap), "limit": limit})
        if len(data.encode()) <= MOST_BYTES:
            break
    longest = max((len(text) for row in rows for text in texts(row)), default=0)
    return data, cap if longest > cap else None


def texts(row: RowView) -> list[str]:
    """Everything in a row that can be long."""
    return [
        row["question"],
        *row["truths"],
        row["keywords_text"] or "",
        *row["facts"],
        row["pred"],
        row["raw_pred"] or "",
    ]


def as_data(value: object) -> str:
    """JSON for a `<script type="application/json">`: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return UNSAFE.sub(lambda found: ESCAPED.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


class Numbers:
    """Values by number, each kept once."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self._known: dict[str, int] = {}

    def of(self, value: object, key: str | None = None) -> int:
        """The number of `value`; the same for the same `key`, by default the value itself."""
        known = str(value) if key is None else key
        if known not in self._known:
            self._known[known] = len(self.values)
            self.values.append(value)
        return self._known[known]


def pack(rows: list[RowView], cap: int) -> Mapping[str, object]:
    """Rows as page.js reads them: texts, files and questions once each, rows as lists of numbers.

    `long` has the full length of each text that is cut to `cap` characters.
    """
    strings, files, questions, words = Numbers(), Numbers(), Numbers(), Numbers()
    long: dict[int, int] = {}

    def text(value: str | None) -> int:
        if value is None:
            return -1
        number = strings.of(value[:cap], value)
        if len(value) > cap:
            long[number] = len(value)
        return number

    def question(row: RowView) -> int:
        work = row["working"]
        facts = [text(fact) for fact in row["facts"]]
        asked = [
            text(row["question"]),
            [text(truth) for truth in row["truths"]],
            text(row["keywords_text"]),
            facts,
        ]
        if isinstance(work, ScoreBreakdown):
            asked += [
                [text(word) for word in work.keywords],
                work.ignored,
                work.least_recall,
                work.truth_tokens,
            ]
        return questions.of(asked, f"{row['subset']} {asked}")

    packed = [
        [
            files.of([row["subset"], row["level"], row["language"]]),
            row["index"],
            question(row),
            text(row["pred"]),
            text(row["raw_pred"]),
            words.of(row["status"]),
            words.of(row["cause"]),
            round(row["released"], 4),
            round(row["described"], 4),
            None
            if (work := row["working"]) is None
            else [work.found, work.overlap, work.prediction_tokens],
            row["prompt_tokens"],
            row["prompt_tokens_full"],
            None if row["evidence_kept"] is None else int(row["evidence_kept"]),
            -1 if row["finish_reason"] is None else words.of(row["finish_reason"]),
            row["length"],
        ]
        for row in rows
    ]
    return {
        "strings": strings.values,
        "files": files.values,
        "questions": questions.values,
        "words": words.values,
        "rows": packed,
        "long": long,
    }
