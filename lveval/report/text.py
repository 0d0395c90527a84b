"""TODO lveval.report.text."""

import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum
from typing import TYPE_CHECKING, cast

from lveval.analysis import evidence
from lveval.common.text import one_line, printable
from lveval.results import PUBLISHED, Evaluation, means

if TYPE_CHECKING:
    from lveval.analysis.comparison import Comparison
    from lveval.analysis.run_analysis import RunAnalysis


# --- printing -------------------------------------------------------------------------------------------------------


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as aligned text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(widths[at]) for at, cell in enumerate(line) if at),
            ]
        ).rstrip()
        for line in lines
    )


def print_counts(evaluation: Evaluation) -> None:
    """n/N rows, the count of each status, and what truncation did to every file."""
    print(f"{printable(str(evaluation.folder))}\n")
    files = {file.name: evidence.summarize(file.scored) for file in evaluation.files}
    told = any(part.told for part in files.values())
    lines = [["file", "rows", "status", *(evidence.HEAD[1:] if told else ())]]
    for file, cells in zip(evaluation.files, evidence.table(files), strict=True):
        statuses = ", ".join(f"{status} {count}" for status, count in sorted(file.statuses.items()))
        lines.append(
            [file.name, f"{file.rows}/{file.selected}", statuses, *(cells[1:] if told else ())]
        )
    print(table(lines))


def print_scores(evaluation: Evaluation, found: "RunAnalysis") -> None:
    """The released scores as a table with both means and their intervals, and what they can be compared with."""
    scores = evaluation.scores("released")
    levels = [level for level in evaluation.levels if level in means(scores, 1)]
    of_subset = means(scores, 0)
    lines = [["subset", *levels, "mean", "95 % interval"]]
    for subset, mean in of_subset.items():
        scored = [format_score(scores.get((subset, level))) for level in levels]
        lines.append(
            [
                subset,
                *scored,
                format_score(mean),
                found.intervals["released"].subsets[subset].between(),
            ]
        )
    for protocol, intervals in found.intervals.items():
        of_level = means(evaluation.scores(protocol), 1)
        overall = format_score(fsum(of_level.values()) / len(of_level)), intervals.overall.between()
        lines.append(
            [f"mean, {protocol}", *(format_score(of_level[level]) for level in levels), *overall]
        )
        lines.append(
            ["  95 % interval", *(intervals.levels[level].between() for level in levels), "", ""]
        )
    print(f"\nscores of the released protocol\n{table(lines)}\n")
    for note in found.interval_notes:
        print(f"intervals: {note}")

    comparable = [level for level in levels if level in evaluation.comparable_levels]
    if comparable:
        print(
            f"The mean at {', '.join(comparable)} is the leaderboard's overall score: all {len(PUBLISHED)} subsets."
        )
    others: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for level in levels:
        if level not in comparable:
            here = [file for file in evaluation.files if file.level == level and file.rows]
            others[len(here), sum(file.as_published for file in here)].append(level)
    for (subsets, whole), alike in others.items():
        print(
            f"The mean at {', '.join(alike)} is not the leaderboard's overall score: it is over {subsets} subsets, "
            f"{whole} of them among the published {len(PUBLISHED)} and with all published rows."
        )
    if comparable and not evaluation.official:
        print(
            "The run was not made with the official prompts (--published): compare its scores with the like only."
        )
    for file in evaluation.files:
        if file.rows and not file.whole:
            print(
                f"{file.name}: scored on {file.rows} of the {file.available or file.selected} rows of the data file."
            )
    print(one_line(evaluation.signature("released")))


def print_findings(found: "RunAnalysis") -> None:
    """What truncation did, what length costs, and where points went."""
    from lveval.analysis import length_effect

    if any(part.told for part in found.evidence_by_level.values()):
        print(
            "\nevidence kept by the truncation, and the scores of the rows where it was kept and cut"
        )
        print(table([evidence.HEAD, *evidence.table(found.evidence_by_level)]))
    if len(found.evidence_by_level) > 1:
        kept = f"{100 * length_effect.FRACTION:.0f} %"
        print(
            f"\nwhat length costs, in points (95 % intervals); effective length: up to where {kept} is kept"
        )
        print(table([length_effect.HEAD, *length_effect.table(found.lengths)]))
        if found.lengths.overall.note:
            print(f"mean: {found.lengths.overall.note}")
        print(
            "A question with several rows at a length counts once in drop and slope: they can differ from the scores."
        )
    head = [*found.lost.present, "lost"]
    print("\npoints lost by cause, of 100 (docs/causes.md)")
    print(
        table(
            [
                ["", *head],
                *found.lost.table(found.lost.levels),
                *found.lost.table(found.lost.subsets),
            ]
        )
    )


def print_comparisons(a: Evaluation, compared: "Mapping[str, Comparison]") -> None:
    """One table for each run that the run is compared with."""
    from lveval.analysis import comparison

    for name, found in compared.items():
        print(f"\nA: {printable(str(a.folder))}\nB: {printable(name)}")
        for flag in found.flags:
            print(f"unlike beyond the model: {one_line(flag)}")
        print(comparison.counts_text(found))
        print(table([comparison.HEAD, *comparison.table(found)]))
        for note in comparison.interval_notes(found):
            print(f"intervals: {note}")
    if compared:
        print(
            "Intervals are of one difference each; p and what is shown allow for the number of comparisons."
        )


def format_score(score: float | None) -> str:
    """A score in a table; blank where there is none."""
    return "" if score is None else f"{score:.2f}"


def print_unfinished(evaluation: Evaluation) -> None:
    """Why there are no results and how to get them."""
    name = printable(str(evaluation.folder))
    print(
        f"{name}: incomplete: {evaluation.missing} rows of {len(evaluation.unfinished)} files have no answer yet, "
        "so nothing is written.\n"
        f"To finish: {printable(resume_commands(evaluation))}\n"
        "To score the rows that are there: add --allow-partial",
        file=sys.stderr,
    )


def resume_commands(evaluation: Evaluation) -> str:
    """The latest commands that between them select every unfinished file; run again, they resume."""
    left = {file.name: file.selected for file in evaluation.unfinished}
    commands = []
    for entry in reversed(cast(list[dict[str, object]], evaluation.manifest.get("log", []))):
        selection = cast(dict[str, int], entry.get("selection", {}))
        if finished := [name for name, rows in left.items() if selection.get(name, 0) >= rows]:
            argv = [
                word for word in cast(list[str], entry["argv"]) if word != "--overwrite"
            ]  # it would start anew
            commands.append(f"python prediction.py {shlex.join(argv)}")
            for name in finished:
                del left[name]
    return "\n".join(commands) or "run prediction.py again as it was started"
