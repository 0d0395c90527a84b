"""What evaluation.py prints: the score table and what it says in a sentence; on request the rest.

text.print_scores(evaluation, found)
text.print_comparisons([evaluation, other], compared)

Nothing is wider than WIDTH columns but a path or a command.
"""

import os
import re
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lveval.analysis import evidence
from lveval.analysis.causes import IN_WORDS, label
from lveval.common.command_line import next_step, program
from lveval.common.table import WIDTH
from lveval.common.text import one_line, unbroken
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
    means_table,
    measures_table,
    misled_table,
    number,
    reasoning_table,
    times_table,
)
from lveval.results import (
    HEADLINE,
    PROTOCOLS,
    PUBLISHED,
    Evaluation,
    FileResult,
    grouped,
    level_means,
    overall_mean,
    run_names,
    subset_means,
)
from lveval.runs.record import IMPORTED

if TYPE_CHECKING:
    from lveval.analysis.comparison import Comparison, Pair
    from lveval.analysis.run_analysis import RunAnalysis

MOST_FILES = 3  # named one by one; of more their number is said

MOST_UNFINISHED = 10


def say(text: str) -> None:
    """Print a paragraph that may hold text of a run, in lines of WIDTH columns."""
    print(textwrap.fill(one_line(text), WIDTH, break_long_words=False, break_on_hyphens=False))


def print_title(title: str) -> None:
    """Print what comes next, after a blank line."""
    print()
    say(title)


def print_counts(evaluation: Evaluation, *, every_file: bool = False) -> None:
    """Print n/N rows and the count of each status; of unfinished or all files, too."""
    statuses: Counter[str] = sum((file.statuses for file in evaluation.files), Counter())
    say(f"{evaluation.place}: {evaluation.row_counts} rows, {_counted(statuses)}")
    shown = evaluation.files if every_file else evaluation.unfinished[:MOST_UNFINISHED]
    if shown:
        print_title("rows answered / selected, and their status")
        print(_counts_table(shown).text())
    if (more := len(evaluation.unfinished) - len(shown)) > 0:
        say(f"{more} more files are unfinished (-v lists them).")
    if every_file:
        files = {file.name: evidence.summarize(file.scored) for file in shown}
        # Runs of the published harness record nothing of the truncation.
        if any(part.known for part in files.values()):
            print_title(EVIDENCE_TITLE)
            print(evidence_table(files).text())


def _counts_table(files: Sequence[FileResult]) -> Table:
    lines = [[file.name, f"{file.rows}/{file.selected}", _counted(file.statuses)] for file in files]
    return Table("counts", ["file", "rows", "status"], lines)


def _counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{status} {count:,}" for status, count in sorted(statuses.items()))


def print_scores(evaluation: Evaluation, found: "RunAnalysis") -> None:
    """Print the scores with their means, what they can be compared with, and the sentence."""
    from lveval.report.summary import run_sentence

    print()
    for note in comparability_notes(evaluation):
        say(note)
    if found.interval_notes():
        say("Some intervals are missing, or perhaps too narrow, for few questions (-v says which).")
    about = "; ".join(f"{protocol.name}, {protocol.about}" for protocol in PROTOCOLS.values())
    print_title(f"scores by the protocol {HEADLINE}, 0 to 100, and the means of all: {about}")
    print(score_table("scores", evaluation, found).text())
    print_title(run_sentence(evaluation, found))


def print_next(folder: Path, others: Sequence[Path] = (), *, ranked: bool = False) -> None:
    """Say where everything is, and which command comes next."""
    words = ["--input-dir", str(folder)]
    words += ["--compare", *map(str, others)] if others else []
    words += ["--leaderboard"] if ranked else []
    then = f"{program('report')} {shlex.join(words)}"
    print(f"\n{next_step('run folder', folder, then)}")


def score_table(title: str, evaluation: Evaluation, found: "RunAnalysis") -> Table:
    """Tabulate the headline's scores, and the means of all protocols with their intervals."""
    scores = evaluation.scores(HEADLINE)
    levels = list(level_means(scores))
    lines = []
    for subset, mean in subset_means(scores).items():
        scored = (number(scores.get((subset, level))) for level in levels)
        between = found.intervals[HEADLINE].subsets[subset].between()
        lines.append([subset, *scored, number(mean), between])
    for protocol, intervals in found.intervals.items():
        own = evaluation.scores(protocol)
        means = [*level_means(own).values(), overall_mean(own)]
        lines.append([f"mean, {protocol}", *map(number, means), intervals.overall.between()])
    return Table(title, ["subset", *levels, "mean", "95 % interval"], lines)


def comparability_notes(evaluation: Evaluation) -> list[str]:
    """Say which means are the leaderboard's, which are not and why, and which files are partial."""
    notes = [*filter(None, (evaluation.edited_note, evaluation.unverified_note))]
    if note := control_note(evaluation):
        return [*notes, note, *_partial_files(evaluation)]
    present = level_means(evaluation.scores(HEADLINE))
    comparable = evaluation.leaderboard_levels
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
    partial = [file for file in evaluation.files if file.rows and not file.is_complete]
    seed = evaluation.sample_seed
    drawn = "" if seed is None else f", drawn at random (seed {seed})"
    said = [
        f"{file.name}: scored on {file.rows} of the {file.available or file.selected} rows of the "
        f"data file{drawn}."
        for file in partial[:MOST_FILES]
    ]
    if len(partial) > MOST_FILES:
        said.append(f"{len(partial) - MOST_FILES} more files are scored on a part of their rows.")
    return said


def control_note(evaluation: Evaluation) -> str:
    """Say what the run's control asks and which rows it leaves out; blank without a control."""
    if not evaluation.control:
        return ""
    left_out = {file.name: file.left_out for file in evaluation.files}
    selected = sum(file.selected + file.left_out for file in evaluation.files)
    said = controls.describe(evaluation.control, selected, left_out)
    return f"{said[0].upper()}{said[1:]}. Its scores are not the benchmark's."


EVIDENCE_TITLE = (
    "evidence kept by the truncation (the answer could be read in the prompt), over the rows that "
    "record it; scores of the rows where it was kept and cut"
)


def print_findings(evaluation: Evaluation, found: "RunAnalysis") -> None:
    """Print all that the analyses found: truncation, length, where points went, and the recipe."""
    from lveval.analysis.length_effect import FRACTION

    print_title("means with 95 % intervals, by a bootstrap over questions")
    print(means_table(evaluation, found).text())
    say(best_answers_note(found.ablation))
    for note in found.interval_notes():
        say(f"intervals: {note}")
    print_title(f"by task group and language ({HEADLINE})")
    print(groups_table(found.groups[HEADLINE], found.ceiling, brief=True).text())
    say(GROUPS_NOTE)
    if found.misled:
        misled = misled_table(found.misled)
        print_title("answers misled by a confusing fact")
        print(misled.text())
        say(misled.note)
    if any(part.known for part in found.evidence_by_level.values()):
        print_title(EVIDENCE_TITLE)
        print(evidence_table(found.evidence_by_level).text())
    if found.positions and found.positions.effects:
        print_title("scores by depth of the evidence in the prompt, in points (95 % intervals)")
        print(depth_table(found.positions).text())
        say(DEPTHS_NOTE)
    if len(found.evidence_by_level) > 1:
        print_title(
            "what length costs, in points (95 % intervals); effective length: up to where "
            f"{100 * FRACTION:.0f} % of the shortest level's score is kept (likely range)"
        )
        print(length_table(found.lengths).text())
        if found.lengths.overall.note:
            say(f"mean: {found.lengths.overall.note}")
        say(
            "A question with several rows at a length counts once in both changes: they can "
            "differ from the scores."
        )
    if found.reasoning:
        print_title("reasoning before the answers; cut: its room was spent")
        print(reasoning_table(found.reasoning).text())
    if found.measures:
        print_title("what the plugins measured")
        print(measures_table(found.measures).text())
    if found.times:
        print_title("times and memory")
        print(times_table(found.times).text())
        say(TIMES_NOTE)
    print_title("the metric of the paper step by step")
    print(ablation_table(found.ablation).text())
    say(ABLATION_NOTE)
    lost = found.lost
    print_title("points lost by cause, of 100 (docs/causes.md)")
    for part in (lost.levels, lost.subsets):
        print(f"{causes_table(lost, part, 'cause').transposed().text()}\n")
    for cause in lost.present:
        say(f"{label(cause)}: {IN_WORDS[cause]}")
    print_title("recipe")
    # A signature has no blanks at which a line could end.
    say(evaluation.signature(HEADLINE).replace("|", " | "))


def print_comparisons(
    runs: Sequence[Evaluation],
    compared: "Mapping[str, Mapping[Pair, Comparison]]",
    *,
    every_table: bool = False,
) -> None:
    """Print how runs differ: of several a table of all first, then each pair in a sentence.

    One pair has its table; of several they are printed with `every_table`. The headline's is whole,
    of the other protocols there is the line of all.
    """
    from lveval.report.summary import comparison_sentence
    from lveval.report.versus import pairs_table, runs_table

    names = run_names(runs)
    for name, run in zip(names, runs, strict=True):
        said = f"{name}: {run.place}, {run.row_counts} rows"
        say(". ".join(filter(None, (said, run.edited_note, run.unverified_note))))
    found = compared[HEADLINE]
    if len(runs) > 2:
        for table in (runs_table(runs, found), pairs_table(found)):
            print_title(table.title)
            print(in_bold(table.text()))
            say(table.note)
    for pair, of_pair in found.items():
        print_title(comparison_sentence(*of_pair.names, of_pair))
        if of_pair.contrast:
            say(of_pair.contrast.words)
        for flag in of_pair.flags:
            say(f"{of_pair.beyond}: {flag}")
        if len(found) > 1 and not every_table:
            continue
        say(of_pair.counts_text)
        others = {each: of_run[pair] for each, of_run in compared.items() if each != HEADLINE}
        print(comparison_table(of_pair, *of_pair.names, others=others).text())
        for note in of_pair.interval_notes:
            say(f"intervals: {note}")
    if found:
        print_title(
            f"Protocol {HEADLINE} where none is named. Intervals are of one difference each; p, of "
            "a sign-flip test, and what is shown allow for the number of comparisons (Holm)."
        )
    if len(found) > 1 and not every_table:
        say("-v prints each pair by level, language and subset; comparison.json has them, too.")


def in_bold(text: str) -> str:
    """On a terminal, numbers in bold in place of their asterisks."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return re.sub(r"(\d+\.\d\d)\*", "\x1b[1m\\1\x1b[0m ", text)


def print_unfinished(evaluation: Evaluation) -> None:
    """Print why there are no results and how to get them."""
    name = unbroken(str(evaluation.folder))
    print(
        f"{name}: incomplete: {evaluation.missing} rows of {len(evaluation.unfinished)} files "
        "have no answer yet, so nothing is written.\n"
        f"To finish: {resume_commands(evaluation)}\n"
        "To score the rows that are there: add --allow-partial",
        file=sys.stderr,
    )


def resume_commands(evaluation: Evaluation) -> str:
    """Find the latest commands that together select every unfinished file; rerun, they resume."""
    if evaluation.identity.get("backend") == IMPORTED:
        return "import all answers together (--import FORMAT FILE …, with --overwrite)"
    left = {file.name: file.selected + file.left_out for file in evaluation.unfinished}
    commands = []
    for entry in reversed(cast(list[dict[str, Any]], evaluation.manifest.get("log", []))):
        selection = entry.get("selection", {})
        covered = [name for name, rows in left.items() if selection.get(name, 0) >= rows]
        if covered and "argv" in entry:
            # --overwrite would start anew.
            argv = [word for word in entry["argv"] if word != "--overwrite"]
            commands.append(unbroken(f"python prediction.py {shlex.join(map(str, argv))}"))
            left = {name: rows for name, rows in left.items() if name not in covered}
    return "\n".join(commands) or "run prediction.py again as it was started"
