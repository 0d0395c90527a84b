"""What evaluation.py prints: counts, scores, findings and comparisons, as tables with their notes.

text.print_counts(evaluation)
text.print_scores(evaluation, found)
"""

import shlex
import sys
from collections.abc import Mapping
from math import fsum
from typing import TYPE_CHECKING, Any, cast

from lveval.analysis import evidence
from lveval.common.text import one_line, printable
from lveval.data import controls
from lveval.report.tables import (
    ABLATION_NOTE,
    DEPTHS_NOTE,
    GROUPS_NOTE,
    TIMES_NOTE,
    Table,
    ablation_table,
    best_answers_note,
    causes_table,
    comparison_table,
    depth_table,
    evidence_table,
    groups_table,
    length_table,
    measures_table,
    misled_table,
    number,
    reasoning_table,
    times_table,
)
from lveval.results import HEADLINE, PUBLISHED, Evaluation, grouped, level_means, subset_means

if TYPE_CHECKING:
    from lveval.analysis.comparison import Comparison
    from lveval.analysis.run_analysis import RunAnalysis


def print_counts(evaluation: Evaluation) -> None:
    """Print n/N rows, the count of each status, and what truncation did to every file."""
    files = {file.name: evidence.summarize(file.scored) for file in evaluation.files}
    table = evidence_table(files)
    # Runs of the published harness record nothing of the truncation.
    shown = slice(1, None if any(part.known for part in files.values()) else 1)
    lines = []
    for file, cells in zip(evaluation.files, table.lines, strict=True):
        statuses = ", ".join(f"{status} {count}" for status, count in sorted(file.statuses.items()))
        lines.append([file.name, f"{file.rows}/{file.selected}", statuses, *cells[shown]])
    head = ["file", "rows", "status", *table.head[shown]]
    print(f"{printable(evaluation.place)}\n\n{Table('counts', head, lines).text()}")


def print_scores(evaluation: Evaluation, found: "RunAnalysis") -> None:
    """Print the released scores with means and intervals, and what they can be compared with."""
    title = f"scores of the {HEADLINE} protocol"
    print(f"\n{title}\n{score_table(title, evaluation, found).text()}\n")
    print(best_answers_note(found.ablation))
    for note in found.interval_notes():
        print(f"intervals: {note}")
    for note in comparability_notes(evaluation):
        print(note)
    print(one_line(evaluation.signature(HEADLINE)))


def score_table(title: str, evaluation: Evaluation, found: "RunAnalysis") -> Table:
    """Tabulate the headline's scores, and the means of all protocols with their intervals."""
    scores = evaluation.scores(HEADLINE)
    levels = [level for level in evaluation.levels if level in level_means(scores)]
    lines = []
    for subset, mean in subset_means(scores).items():
        scored = (number(scores.get((subset, level))) for level in levels)
        between = found.intervals[HEADLINE].subsets[subset].between()
        lines.append([subset, *scored, number(mean), between])
    for protocol, intervals in found.intervals.items():
        means = level_means(evaluation.scores(protocol))
        overall = number(fsum(means.values()) / len(means)), intervals.overall.between()
        lines.append([f"mean, {protocol}", *(number(means[level]) for level in levels), *overall])
        bounds = (intervals.levels[level].between() for level in levels)
        lines.append(["  95 % interval", *bounds, "", ""])
    return Table(title, ["subset", *levels, "mean", "95 % interval"], lines)


def comparability_notes(evaluation: Evaluation) -> list[str]:
    """Say which means are the leaderboard's, which are not and why, and which files are partial."""
    if note := control_note(evaluation):
        return [note, *_partial_files(evaluation)]
    present = level_means(evaluation.scores(HEADLINE))
    comparable = evaluation.leaderboard_levels
    notes = []
    if comparable:
        notes.append(
            f"The mean at {', '.join(comparable)} is the leaderboard's overall score: "
            f"all {len(PUBLISHED)} subsets."
        )
    others = []
    for level in evaluation.levels:
        if level in present and level not in comparable:
            here = [file for file in evaluation.files if file.level == level and file.rows]
            others.append(((len(here), sum(file.is_published_file for file in here)), level))
    for (subsets, published), levels in grouped(others).items():
        notes.append(
            f"The mean at {', '.join(levels)} is not the leaderboard's overall score: it is over "
            f"{subsets} subsets, {published} of them among the published {len(PUBLISHED)} and with "
            "all published rows."
        )
    if comparable and not evaluation.is_official:
        notes.append(
            "The run was not made with the official prompts (--published): "
            "compare its scores with the like only."
        )
    return notes + _partial_files(evaluation)


def _partial_files(evaluation: Evaluation) -> list[str]:
    seed = evaluation.sample_seed
    drawn = "" if seed is None else f", drawn at random (seed {seed})"
    return [
        f"{file.name}: scored on {file.rows} of the {file.available or file.selected} rows of the "
        f"data file{drawn}."
        for file in evaluation.files
        if file.rows and not file.is_complete
    ]


def control_note(evaluation: Evaluation) -> str:
    """Say what the run's control asks and which rows it leaves out; blank without a control."""
    if not evaluation.control:
        return ""
    left_out = {file.name: file.left_out for file in evaluation.files}
    selected = sum(file.selected + file.left_out for file in evaluation.files)
    said = controls.describe(evaluation.control, selected, left_out)
    return f"{said[0].upper()}{said[1:]}. Its scores are not the benchmark's."


def print_findings(found: "RunAnalysis") -> None:
    """Print what truncation did, what length costs, and where points went."""
    from lveval.analysis.length_effect import FRACTION

    groups = groups_table(found.groups[HEADLINE], found.ceiling, brief=True)
    print(f"\nby task group and language ({HEADLINE})\n{groups.text()}\n{GROUPS_NOTE}")
    if found.misled:
        misled = misled_table(found.misled)
        print(f"\nanswers misled by a confusing fact\n{misled.text()}\n{misled.note}")
    if any(part.known for part in found.evidence_by_level.values()):
        print(
            "\nevidence kept by the truncation, "
            "and the scores of the rows where it was kept and cut"
        )
        print(evidence_table(found.evidence_by_level).text())
    if found.positions and found.positions.effects:
        print("\nscores by depth of the evidence in the prompt, in points (95 % intervals)")
        print(f"{depth_table(found.positions).text()}\n{DEPTHS_NOTE}")
    if len(found.evidence_by_level) > 1:
        print(
            "\nwhat length costs, in points (95 % intervals); effective length: up to where "
            f"{100 * FRACTION:.0f} % is kept"
        )
        print(length_table(found.lengths).text())
        if found.lengths.overall.note:
            print(f"mean: {found.lengths.overall.note}")
        print(
            "A question with several rows at a length counts once in drop and slope: they can "
            "differ from the scores."
        )
    if found.reasoning:
        print("\nreasoning before the answers; cut: its room was spent")
        print(reasoning_table(found.reasoning).text())
    if found.measures:
        print("\nwhat the plugins measured")
        print(measures_table(found.measures).text())
    if found.times:
        print("\ntimes and memory")
        print(f"{times_table(found.times).text()}\n{TIMES_NOTE}")
    print(f"\nthe metric of the paper step by step\n{ablation_table(found.ablation).text()}")
    print(ABLATION_NOTE)
    lost = found.lost
    print("\npoints lost by cause, of 100 (docs/causes.md)")
    print(causes_table(lost, {**lost.levels, **lost.subsets}, "").text())


def print_comparisons(a: Evaluation, compared: "Mapping[str, Mapping[str, Comparison]]") -> None:
    """Print one table for each run that the run is compared with, by protocol and run.

    The headline's table is whole; of the other protocols there is the line of all.
    """
    for name, found in compared[HEADLINE].items():
        print(f"\nA: {printable(a.place)}\nB: {printable(name)}")
        if found.contrast:
            print(found.contrast.words)
        for flag in found.flags:
            print(f"{found.beyond}: {one_line(flag)}")
        others = {each: runs[name] for each, runs in compared.items() if each != HEADLINE}
        table = comparison_table(found, "A", "B", others=others)
        print(f"{found.counts_text}\n{table.text()}")
        for note in found.interval_notes:
            print(f"intervals: {note}")
    if compared[HEADLINE]:
        print(
            "Intervals are of one difference each; p and what is shown allow for the number of "
            "comparisons."
        )


def print_unfinished(evaluation: Evaluation) -> None:
    """Print why there are no results and how to get them."""
    name = printable(str(evaluation.folder))
    print(
        f"{name}: incomplete: {evaluation.missing} rows of {len(evaluation.unfinished)} files "
        "have no answer yet, so nothing is written.\n"
        f"To finish: {printable(resume_commands(evaluation))}\n"
        "To score the rows that are there: add --allow-partial",
        file=sys.stderr,
    )


def resume_commands(evaluation: Evaluation) -> str:
    """Find the latest commands that together select every unfinished file; rerun, they resume."""
    left = {file.name: file.selected + file.left_out for file in evaluation.unfinished}
    commands = []
    for entry in reversed(cast(list[dict[str, Any]], evaluation.manifest.get("log", []))):
        selection = entry.get("selection", {})
        covered = [name for name, rows in left.items() if selection.get(name, 0) >= rows]
        if covered:
            # --overwrite would start anew.
            argv = [word for word in entry["argv"] if word != "--overwrite"]
            commands.append(f"python prediction.py {shlex.join(argv)}")
            left = {name: rows for name, rows in left.items() if name not in covered}
    return "\n".join(commands) or "run prediction.py again as it was started"
