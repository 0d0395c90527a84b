"""The tables of a run, and their forms: aligned text for a terminal, Markdown and LaTeX for papers.

    print(tables.evidence_table(found.evidence_by_level).text())
    Path("report.md").write_text(tables.markdown(page))

Text of a run is escaped: it can end no cell and give no command. A cell that a spreadsheet would
take for a formula starts with an escape that prints nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from math import fsum
from typing import TYPE_CHECKING, Any

from lveval import config
from lveval.analysis.ablation import BEFORE, STEPS
from lveval.analysis.causes import label
from lveval.common.levels import PUBLISHED_LEVELS, level_length
from lveval.common.table import WIDTH, text_table
from lveval.common.text import one_line
from lveval.report import beside
from lveval.results import (
    HEADLINE,
    LANGUAGES,
    Cause,
    Evaluation,
    Scores,
    level_means,
    overall_mean,
    shortened,
    subset_means,
    table_order,
)

if TYPE_CHECKING:  # numpy is behind these
    from lveval.analysis.ablation import Ablation
    from lveval.analysis.causes import PointsLost
    from lveval.analysis.comparison import Comparison
    from lveval.analysis.evidence import Evidence
    from lveval.analysis.groups import Groups
    from lveval.analysis.intervals import Interval
    from lveval.analysis.length_effect import LengthEffect
    from lveval.analysis.measures import Reasoning, Spread
    from lveval.analysis.misled import Misled
    from lveval.analysis.positions import Positions
    from lveval.analysis.run_analysis import RunAnalysis
    from lveval.analysis.sweep import Sweep
    from lveval.analysis.times import Times
    from lveval.report.data import ProtocolScores, ReportData

# Marks, and what GitHub makes links of.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#|~&!$@]|:(?=//)|(?<=www)\.")

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

TIMES_NOTE = (
    "Seconds of a row, as mean and 90th percentile: all of it, up to the scores of the first new "
    "token (prefill), and from there on (decode). Tokens/s: new tokens after the first, a second "
    "of decoding. Peak: memory allocated on the GPUs, the largest of a row."
)

DEPTHS_NOTE = (
    "Rows whose evidence is found whole in the prompt; ends: the outer two tenths of either side, "
    "middle: the six between. Differences are taken at each length that has both; sign-flip test "
    "by question, Holm over the subsets; shown if p is below 0.05 and the interval is without 0."
)

FORMULA = ("=", "+", "-", "@")  # how a spreadsheet's formula starts


@dataclass(frozen=True)
class Table:
    """A title, a head, lines of cells as plain text; only the first column is aligned left."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    label: str = ""  # LaTeX's
    note: str = ""

    def text(self) -> str:
        """Align the cells for a terminal, without title and note."""
        return text_table((self.head, *self.lines), width=WIDTH)

    def transposed(self) -> "Table":
        """The same with its columns as lines."""
        head, *lines = zip(self.head, *self.lines, strict=True)
        return replace(self, head=head, lines=lines)

    def markdown(self) -> str:
        """Write GitHub's Markdown."""
        head, *lines = (
            f"| {' | '.join(map(markdown_text, line))} |" for line in (self.head, *self.lines)
        )
        rule = "|".join(["---", *["---:"] * (len(self.head) - 1)])
        note = f"\n{markdown_text(self.note)}\n" if self.note else ""
        title = markdown_text(self.title)
        return "\n".join([f"### {title}", "", head, f"|{rule}|", *lines, note])

    def latex(self) -> str:
        """Write LaTeX with booktabs rules."""
        head, *lines = (
            " & ".join(map(latex_text, line)) + r" \\" for line in (self.head, *self.lines)
        )
        note = ["", r"\smallskip", latex_text(self.note)] if self.note else []
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex_text(self.title)}}}",
                rf"\label{{tab:{self.label}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}",
                r"\toprule",
                head,
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                *note,
                r"\end{table}",
                "",
            ]
        )


def number(value: float | None, form: str = ".2f") -> str:
    """Format a number; blank where there is none."""
    return "" if value is None else format(value, form)


# --- the tables ---


def means_table(evaluation: Evaluation, found: "RunAnalysis") -> Table:
    """The means of the levels and their mean under each protocol, with intervals."""
    columns = []
    for protocol, intervals in found.intervals.items():
        scores = evaluation.scores(protocol)
        means = {**intervals.levels, "mean": intervals.overall}
        values = {**level_means(scores), "mean": overall_mean(scores)}
        columns.append([_score(replace(means[name], value=values[name])) for name in values])
    lines = [list(line) for line in zip(values, *columns, strict=True)]
    return Table("Means", ["level", *found.intervals], lines, "means")


def evidence_table(parts: "Mapping[str, Evidence]") -> Table:
    """What truncation did, a line for each part."""
    head = (
        "",
        "evidence kept (%)",
        "rows that record it",
        "score, kept",
        "score, cut",
        "median tokens",
        "before the cut",
    )
    lines = [
        [
            name,
            number(part.kept_percent, ".1f"),
            f"{part.known}/{part.known + part.unknown}",
            number(part.score_kept),
            number(part.score_cut),
            number(part.median_prompt_tokens, ",.0f"),
            number(part.median_before_cut, ",.0f"),
        ]
        for name, part in parts.items()
    ]
    return Table("Evidence kept by the truncation", head, lines, "evidence")


GROUPS_NOTE = (
    "Task groups as the benchmark's README has them; it counts lic_mixup as multi-hop, which its "
    "authors have since called single-hop. Ceiling: the score of a reader who fails only where the "
    "cut took the evidence, as the mean over the subsets of the rows that kept it."
)


def groups_table(
    found: "Groups", ceiling: Mapping[str, float], protocol: str = HEADLINE, *, brief: bool = False
) -> Table:
    """The means of task groups and languages by level, and the ceiling.

    `brief`: with the interval of the last mean only.
    """
    found_levels = {level for means in found.named.values() for level in means.levels}
    levels = sorted(found_levels, key=level_length)
    lines = []
    for name, means in found.named.items():
        cells = [means.levels.get(level) for level in levels]
        cells.append(means.overall)
        if brief:
            shown = [number(cell.value) if cell else "" for cell in cells]
            lines.append([name, *shown, means.overall.between()])
        else:
            lines.append([name, *map(_score, cells)])
    blanks = [""] * (1 + brief)
    if ceiling:
        lines.append(["ceiling", *(number(ceiling.get(level)) for level in levels), *blanks])
    head = ["group", *levels, "mean", *(["95 % interval"] if brief else [])]
    title = f"Scores by task group and language ({protocol})"
    return Table(title, head, lines, f"groups-{protocol}", GROUPS_NOTE)


def subsets_table() -> Table:
    """What config.py says of the subsets: group, language, what was done against easy answers."""
    lines = [
        [
            subset,
            group,
            LANGUAGES.get(config.DATASET_LANGUAGE.get(subset, ""), ""),
            ", ".join(config.DATASET_FLAGS.get(subset, [])),
            str(config.DATASET_ROWS.get(subset, "")),
        ]
        for subset, group in config.DATASET_GROUP.items()
    ]
    note = (
        "CFI: confusing facts inserted. KPR: keywords and phrases replaced, so that the answer "
        "cannot be known from pre-training. AK: answer keywords annotated by people."
    )
    head = ("subset", "group", "language", "flags", "rows per length")
    return Table("The subsets", head, lines, "subsets", note)


def models_table(name: str, found: "ProtocolScores", level: str | None = None) -> Table:
    """Each subset's score of this run, of compared runs and of the published models.

    At one level, or as means of the levels that this run has.
    """
    lines = beside.model_lines(name, found, level)
    subsets = table_order(lines[0].subsets)
    cells = [[line.name, *(number(line.subsets[each]) for each in subsets)] for line in lines]
    head = ["model", *(subset.removesuffix("_mixup") for subset in subsets)]
    note = "A model counts where it has all the lengths that this run has."
    title = f"Scores by subset ({found.name}), {level or 'mean of the lengths'}"
    return Table(title, head, cells, f"models-{found.name}", note)


def misled_table(found: "Misled") -> Table:
    """How often a confusing fact misled the answer, by language and subset."""
    languages = {LANGUAGES[name]: rate for name, rate in found.languages.items()}
    lines = [
        [name, f"{part.rows:,}", f"{part.misled:,}", number(part.rate.value), part.rate.between()]
        for name, part in {**languages, **found.subsets}.items()
    ]
    said = (
        "Rows with a confusing fact whose evidence was not cut; misled: the cause is distracted. "
        "A language's rate is the mean of its subsets'. "
        f"Left out, because the evidence was cut: {found.cut:,} rows."
    )
    if found.difference is not None:
        said += f" English less Chinese: {_change(found.difference)} percentage points"
        if found.p is not None:
            value = "p < 0.0001" if found.p < 0.0001 else f"p {found.p:.4f}"
            said += f", {value} (Student's test, after Welch)"
        said += f": {found.verdict}. The languages ask other questions."
    head = ("", "rows", "misled", "rate (%)", "95 % interval")
    return Table("Misled by a confusing fact", head, lines, "misled", said)


def reasoning_table(parts: "Mapping[str, Reasoning]") -> Table:
    """The reasoning before the answers, a line for each level."""
    lines = [
        [
            level,
            str(part.tokens.rows),
            number(part.tokens.mean, ",.0f"),
            number(part.tokens_same_questions, ",.0f"),
            number(part.tokens.high, ",.0f"),
            number(part.cut_percent, ".1f"),
            number(part.score_finished),
            number(part.score_cut),
        ]
        for level, part in parts.items()
    ]
    head = ("", "rows", "tokens, mean", "at equal questions", "90th percentile", "cut (%)")
    scores = ("score, finished", "score, cut")
    return Table("Tokens of reasoning", [*head, *scores], lines, "reasoning")


def measures_table(found: "Mapping[str, Mapping[str, Spread]]") -> Table:
    """What plugins measured of the answers, a line for each measure and level."""
    lines = [
        [
            f"{name}, {level}",
            str(part.rows),
            *(f"{value:,.4g}" for value in (part.mean, part.low, part.median, part.high)),
        ]
        for name, levels in found.items()
        for level, part in levels.items()
    ]
    head = ("measure", "rows", "mean", "10th percentile", "median", "90th percentile")
    return Table("Measures of the plugins", head, lines, "measures")


def times_table(parts: "Mapping[str, Times]") -> Table:
    """Times and memory, a line for each level; columns that no level fills are left out."""
    head = ["", "rows"]
    for name in ("seconds", "prefill", "decode"):
        head += [name, "90 %"]
    head += ["tokens/s", "peak (GiB)", "device"]
    lines = []
    for level, part in parts.items():
        spreads = (part.seconds, part.prefill, part.decode)
        cells = (
            number(value, ",.2f")
            for each in spreads
            for value in ((each.mean, each.high) if each else (None, None))
        )
        speed, memory = number(part.tokens_per_second, ",.1f"), number(part.peak_memory)
        lines.append(
            [level, str(part.rows), *cells, speed, memory, one_line(", ".join(part.devices))]
        )
    filled = [any(column) for column in zip(*lines, strict=True)]
    head, *lines = (list(compress(line, filled)) for line in (head, *lines))
    return Table("Times and memory", head, lines, "times", TIMES_NOTE)


def length_table(found: "LengthEffect") -> Table:
    """What length costs each subset and their mean; blank where it could not be measured."""
    curves = {subset: found.subsets[subset] for subset in table_order(found.subsets)}
    lines = [
        [name, _change(curve.change), _change(curve.slope), str(curve.effective_length or "")]
        for name, curve in (*curves.items(), ("mean", found.overall))
    ]
    head = ("subset", "shortest to longest", "slope per doubling", "effective length")
    return Table("What length costs", head, lines, "lengths")


def _change(interval: "Interval | None") -> str:
    if interval is None:
        return ""
    between = interval.between("+")
    return f"{interval.value:+.2f}" + (f" ({between})" if between else "")


def depth_table(found: "Positions") -> Table:
    """Evidence near the ends of the prompt against evidence in its middle, by subset."""
    effects = {subset: found.effects[subset] for subset in table_order(found.effects)}
    lines = [
        [
            subset,
            str(effect.rows),
            number(effect.ends),
            number(effect.middle),
            _change(effect.difference),
            f"{effect.adjusted:.4f}" if effect.difference else "",
            effect.verdict,
        ]
        for subset, effect in effects.items()
    ]
    head = ("subset", "rows", "ends", "middle", "ends - middle", "p (Holm)", "shown")
    return Table("Score by depth of the evidence", head, lines, "depths", DEPTHS_NOTE)


def causes_table(
    lost: "PointsLost", points: Mapping[str, Mapping[Cause, float]], name: str
) -> Table:
    """Points lost by cause in `points`, the levels or subsets of `lost`; `name` is the column's."""
    lines = [
        [
            part,
            *(f"{of_part[cause]:.1f}" for cause in lost.present),
            f"{fsum(of_part.values()):.1f}",
        ]
        for part, of_part in points.items()
    ]
    head = [name, *map(label, lost.present), "lost"]
    return Table(f"Points lost by cause and {name}", head, lines, f"causes-{name}")


ABLATION_NOTE = (
    "F1, then the gate of answer keywords (0.4 of them in English, 0.2 in Chinese), then the "
    "blacklist: protocol described. dureader_mixup: ROUGE-L in the place of F1, no gate. Changes "
    "in points, with 95 % intervals."
)

# Where a table of the ablation may go into detail: part of a breakdown -> how its scores are had.
_ABLATION_PARTS: dict[str, Callable[[Scores], Mapping[Any, float]]] = {
    "levels": level_means,
    "subsets": subset_means,
    "files": dict,
}


def ablation_table(found: "Ablation", *parts: str) -> Table:
    """The steps of the paper's metric, a line for each level and subset, or other `parts`.

    Subsets whose metric has no such steps are left out.
    """
    head, lines = [""], []
    for step, name in STEPS.items():
        head += [name, "change"] if step in BEFORE else [name]
    for part in parts or ("levels", "subsets"):
        means = {step: _ABLATION_PARTS[part](found.scores.get(step, {})) for step in STEPS}
        for key in means["f1"]:
            line = ["_".join(key) if isinstance(key, tuple) else key]
            for step in STEPS:
                line.append(number(means[step][key]))
                if step in BEFORE:
                    line.append(_change(getattr(found.effects[step], part)[key]))
            lines.append(line)
    return Table("The metric step by step", head, lines, "ablation", ABLATION_NOTE)


def best_answers_note(found: "Ablation") -> str:
    """How far the released scores would move if the best of all accepted answers counted."""
    effect = found.effects["all_answers"].overall
    return (
        f"Best over all accepted answers ({HEADLINE}), where only the first counts: "
        f"{_change(effect)} points; {found.several_answers:,} rows have more than one."
    )


NAME_WIDTH = 12  # of a run above its column, so that a comparison fits a terminal


def comparison_table(
    found: "Comparison",
    a: str,
    b: str,
    label: str = "1",
    protocol: str = HEADLINE,
    others: "Mapping[str, Comparison] | None" = None,
) -> Table:
    """Two runs side by side, `a` against `b`, with what limits the comparison in the note.

    `others`: the same under other protocols, of each of which the line of all is added. Of a full
    run and its control the difference is their contrast, with its sign.
    """
    more = {f"all, {name}": other.parts.overall for name, other in (others or {}).items()}
    contrast = found.contrast
    lines = []
    for name, part in {**found.table_parts, **more}.items():
        scores = contrast.scores(part) if contrast else (part.a, part.b)
        difference = contrast.of(part) if contrast else part.interval
        lines.append(
            [
                name.removesuffix("_mixup"),
                *(f"{score:.2f}" for score in scores),
                f"{difference.value:+.2f}",
                difference.between("+"),
                f"{part.adjusted:.4f}",
                found.shown(part, NAME_WIDTH),
            ]
        )
    said = (found.counts_text, *found.flags, *found.interval_notes)
    columns = ("full", contrast.control) if contrast else shortened(found.names, NAME_WIDTH)
    head = ("compared", *columns, "difference", "95 % interval", "p", "shown")
    note = " ".join([*([contrast.words] if contrast else []), *(f"{text}." for text in said)])
    return Table(f"{a} against {b} ({protocol})", head, lines, f"comparison-{label}", note)


def sweep_table(found: "Sweep") -> Table:
    """The runs of a sweep, a line for each level and run."""
    lines = [
        [
            f"{point.level}, {point.run}",
            f"{point.measure:,.4g}",
            number(point.score),
            number(point.dense),
            f"{point.difference.value:+.2f}",
            point.difference.between("+"),
        ]
        for point in found.points
    ]
    head = ("run", found.measure, "score", "dense", "difference", "95 % interval")
    note = " ".join(f"{said}." for said in (*found.alarms, *found.notes))
    return Table(f"Score by {found.measure}", head, lines, "sweep", note)


def page_tables(page: "ReportData") -> list[Table]:
    """Every table of the page."""
    beside_tables = [models_table(page.name, found) for found in page.protocols.values()]
    return [
        *(_score_table(page, found) for found in page.protocols.values()),
        *(_ranking_table(page.name, found) for found in page.protocols.values() if found.standing),
        *(
            groups_table(found.groups, page.ceiling, found.name)
            for found in page.protocols.values()
        ),
        *(table for table in beside_tables if len(table.lines) > 1),
        *([misled_table(page.misled)] if page.misled else []),
        evidence_table(page.evidence_by_level),
        *([depth_table(page.positions)] if page.positions and page.positions.effects else []),
        length_table(page.lengths),
        *([reasoning_table(page.reasoning)] if page.reasoning else []),
        *([measures_table(page.measures)] if page.measures else []),
        *([times_table(page.times)] if page.times else []),
        causes_table(page.lost, page.lost.levels, "length"),
        causes_table(page.lost, page.lost.subsets, "subset"),
        ablation_table(page.ablation),
        *(
            comparison_table(found, page.name, other, f"{number}-{protocol.name}", protocol.name)
            for protocol in page.protocols.values()
            for number, (other, found) in enumerate(protocol.compared.items(), 1)
        ),
        *([sweep_table(page.sweep)] if page.sweep else []),
    ]


def _score_table(page: "ReportData", found: "ProtocolScores") -> Table:
    """One protocol's scores; the headline's has the page's warnings and its sensitivity, too."""
    lines = [
        [
            subset,
            *(_score(found.scores.get((subset, level))) for level in page.levels),
            _score(found.subset_means[subset]),
        ]
        for subset in page.subsets
    ]
    lines.append(["mean", *(_score(found.level_means[level]) for level in page.levels)])
    lines[-1].append(_score(found.overall))
    said = [*page.notes, f"Protocol {found.name} ({found.about}), in brackets {found.note}."]
    if found.name == HEADLINE:
        said.append(best_answers_note(page.ablation))
    title = f"Scores of {page.name} ({found.name})"
    head = ["subset", *page.levels, "mean"]
    return Table(title, head, lines, f"scores-{found.name}", " ".join(said))


def _ranking_table(name: str, found: "ProtocolScores") -> Table:
    standing = found.standing
    assert standing is not None
    lines = [
        [line.name, str(line.rank or "unranked"), *map(number, (*line.levels, line.mean))]
        for line in standing.lines
    ]
    reasons = standing.reasons
    said = [standing.note, *([f"{name} is not ranked: {'; '.join(reasons)}."] if reasons else [])]
    head = ["model", "rank", *PUBLISHED_LEVELS, "mean"]
    title = f"Leaderboard ({found.name})"
    return Table(title, head, lines, f"leaderboard-{found.name}", " ".join(said))


def _score(score: "Interval | None") -> str:
    if score is None:
        return ""
    between = score.between()
    return f"{score.value:.2f}" + (f" ({between})" if between else "")


# --- files for papers ---


def markdown(page: "ReportData") -> str:
    """All tables as GitHub's Markdown, and the recipe."""
    recipe = (f"{markdown_text(f'{name}: {value}')}  " for name, value in page.recipe)
    return "\n".join([*(table.markdown() for table in page_tables(page)), *recipe, ""])


def latex(page: "ReportData") -> str:
    """All tables as LaTeX; names in Chinese need XeLaTeX or LuaLaTeX with a CJK font."""
    packages = r"\usepackage{booktabs} and \usepackage[T1]{fontenc} with \usepackage{textcomp}"
    recipe = (f"% {one_line(name)}: {one_line(value)}" for name, value in page.recipe)
    every = (table.latex() for table in page_tables(page))
    return "\n".join([f"% needs {packages}", *every, *recipe, ""])


def markdown_text(text: str) -> str:
    """Escape `text` for Markdown: on one line, no markup, no HTML, no formula."""
    return _guard(_MARKDOWN.sub(r"\\\g<0>", one_line(text)), "\\")


def latex_text(text: str) -> str:
    """Escape `text` for LaTeX: no command, no cell's end, no comment."""
    escaped = "".join(_LATEX.get(character, character) for character in one_line(text))
    return _guard(escaped.replace("--", "-{}-"), "{}")


def _guard(text: str, escape: str) -> str:
    """Put an escape before what a spreadsheet would compute; plain numbers stay."""
    is_number = re.fullmatch(r"[+-]?[\d.]+", text) is not None
    return escape + text if text.startswith(FORMULA) and not is_number else text
