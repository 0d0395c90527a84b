"""A Page's tables as Markdown and as LaTeX, for papers.

    Path("report.md").write_text(tables.markdown(page))

Text of a run is escaped: it can end no cell and give no command. A cell that a spreadsheet would take for a formula
starts with an escape that prints nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lveval.analysis import comparison, evidence, length_effect
from lveval.common.text import one_line
from lveval.report.data import ReportData, Score
from lveval.results import PUBLISHED_LEVELS

_MARKDOWN = re.compile(
    r"[\\`*_{}\[\]()<>#|~&!$@]|:(?=//)|(?<=www)\."
)  # marks, and what GitHub makes links of

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "[": "{[}",  # after a line's end it would begin an option
    "]": "{]}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}

FORMULA = ("=", "+", "-", "@")  # how a spreadsheet's formula starts


@dataclass(frozen=True)
class Table:
    """A title, a line of heads, lines of cells; the first column is text, the others are numbers or text."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    label: str
    note: str = ""


def tables(page: ReportData) -> list[Table]:
    """Every table of the page, as plain text."""
    found = [_scores(page)]
    if page.standing:
        found.append(_leaderboard(page))
    found.append(
        Table(
            "Evidence kept by the truncation",
            evidence.HEAD,
            evidence.table(page.evidence_by_level),
            "evidence",
        )
    )
    found.append(
        Table("What length costs", length_effect.HEAD, length_effect.table(page.lengths), "lengths")
    )
    for part, name in ((page.lost.levels, "length"), (page.lost.subsets, "subset")):
        head = [name, *page.lost.present, "lost"]
        found.append(
            Table(f"Points lost by cause and {name}", head, page.lost.table(part), f"causes-{name}")
        )
    for number, (other, compared) in enumerate(page.compared.items(), 1):
        said = (
            comparison.counts_text(compared),
            *compared.flags,
            *comparison.interval_notes(compared),
        )
        lines, note = comparison.table(compared), " ".join(f"{text}." for text in said)
        title = f"A: {page.name}, B: {other}"
        found.append(Table(title, comparison.HEAD, lines, f"comparison-{number}", note))
    return found


def _scores(page: ReportData) -> Table:
    lines = [
        [
            subset,
            *(_score(page.scores.get((subset, level))) for level in page.levels),
            _score(page.subset_means[subset]),
        ]
        for subset in page.subsets
    ]
    lines.append(
        ["mean, released", *(_score(page.level_means[level]) for level in page.levels), ""]
    )
    lines.append(
        [
            "mean, described",
            *(_number(page.described_means.get(level)) for level in page.levels),
            "",
        ]
    )
    note = " ".join((*page.notes, f"Protocol released, in brackets {page.interval_note}."))
    return Table(f"Scores of {page.name}", ["subset", *page.levels, "mean"], lines, "scores", note)


def _leaderboard(page: ReportData) -> Table:
    assert page.standing is not None
    lines = [
        [
            line.name,
            str(line.rank or "apart"),
            *(_number(value) for value in (*line.levels, line.mean)),
        ]
        for line in (*page.standing.table, *([page.standing.apart] if page.standing.apart else []))
    ]
    note = (
        f"{page.name} is not ranked: {'; '.join(page.standing.reasons)}."
        if page.standing.reasons
        else ""
    )
    return Table(
        "Leaderboard", ["model", "rank", *PUBLISHED_LEVELS, "mean"], lines, "leaderboard", note
    )


def _score(score: Score | None) -> str:
    if score is None:
        return ""
    if score.low is None or score.high is None:
        return f"{score.value:.2f}"
    return f"{score.value:.2f} ({score.low:.1f}–{score.high:.1f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def markdown(page: ReportData) -> str:
    """All tables as GitHub's Markdown."""
    parts = []
    for table in tables(page):
        rule = "|".join(["---", *["---:"] * (len(table.head) - 1)])
        lines = [
            "| " + " | ".join(map(markdown_text, line)) + " |"
            for line in (table.head, *table.lines)
        ]
        parts.append(
            "\n".join(
                [f"### {markdown_text(table.title)}", "", lines[0], f"|{rule}|", *lines[1:], ""]
            )
        )
        if table.note:
            parts.append(f"{markdown_text(table.note)}\n")
    return "\n".join(
        [*parts, *(f"{markdown_text(f'{name}: {value}')}  " for name, value in page.recipe), ""]
    )


def markdown_text(text: str) -> str:
    """`text` as Markdown that shows it: on one line, no markup, no HTML, no formula."""
    return _guard(_MARKDOWN.sub(r"\\\g<0>", one_line(text)), "\\")


def latex(page: ReportData) -> str:
    """All tables as LaTeX with booktabs rules; names in Chinese need XeLaTeX or LuaLaTeX with a CJK font."""
    parts = [
        r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc} with \usepackage{textcomp}"
    ]
    for table in tables(page):
        columns = "l" + "r" * (len(table.head) - 1)
        lines = [" & ".join(map(latex_text, line)) + r" \\" for line in (table.head, *table.lines)]
        note = f"\n\\smallskip\n{latex_text(table.note)}\n" if table.note else ""
        body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
        parts.append(
            f"\\begin{{table}}\n\\centering\n\\caption{{{latex_text(table.title)}}}\n\\label{{tab:{table.label}}}\n"
            f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n{note}\\end{{table}}\n"
        )
    parts += [f"% {one_line(name)}: {one_line(value)}" for name, value in page.recipe]
    return "\n".join([*parts, ""])


def latex_text(text: str) -> str:
    """`text` as LaTeX that prints it: no command, no cell's end, no comment."""
    escaped = "".join(_LATEX.get(character, character) for character in one_line(text))
    return _guard(escaped.replace("--", "-{}-"), "{}")


def _guard(text: str, escape: str) -> str:
    """With an escape before what a spreadsheet would compute; plain numbers stay."""
    is_number = re.fullmatch(r"[+-]?[\d.]+", text) is not None
    return escape + text if text.startswith(FORMULA) and not is_number else text
