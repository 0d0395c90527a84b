"""Answers to scores: reads the folder of a run, prints the tables, writes results.json and results.csv.

    python evaluation.py --input-dir outputs/chatglm3
    python evaluation.py --input-dir outputs/chatglm3 --compare outputs/yi-200k

Both protocols are always computed: `released`, the published scorer's, is the headline (results.json, results.csv);
`described`, the paper's two stages, goes to results_described.json and results_described.csv. results_meta.json says
what the numbers stand on, how sure they are and where points went. A run with rows missing is not scored (exit 3)
unless --allow-partial is given, and then into results.partial.*. A comparison goes to comparison.json, too.
"""

import argparse
import csv
import io
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, cast

from analysis import evidence
from errors import ExitCode, HarnessError, one_line, printable, run
from files import write_atomic
from scoring import PROTOCOLS, PUBLISHED, Evaluation, Scores, add_run_options, evaluate, means, run_folder

if TYPE_CHECKING:  # they import numpy, which is loaded once there is something to analyse
    from analysis.comparison import Comparison
    from analysis.findings import Findings

STEMS = {"released": "results", "described": "results_described"}


# --- printing -------------------------------------------------------------------------------------------------------


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as aligned text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(widths[at]) for at, cell in enumerate(line) if at)]).rstrip()
        for line in lines
    )


def print_counts(evaluation: Evaluation) -> None:
    """n/N rows, the count of each status, and what truncation did to every file."""
    print(f"{printable(str(evaluation.folder))}\n")
    files = {file.name: evidence.of(file.scored) for file in evaluation.files}
    told = any(part.told for part in files.values())
    lines = [["file", "rows", "status", *(evidence.HEAD[1:] if told else ())]]
    for file, cells in zip(evaluation.files, evidence.table(files), strict=True):
        statuses = ", ".join(f"{status} {count}" for status, count in sorted(file.statuses.items()))
        lines.append([file.name, f"{file.rows}/{file.selected}", statuses, *(cells[1:] if told else ())])
    print(table(lines))


def print_scores(evaluation: Evaluation, found: "Findings") -> None:
    """The released scores as a table with both means and their intervals, and what they can be compared with."""
    scores = evaluation.scores("released")
    levels = [level for level in evaluation.levels if level in means(scores, 1)]
    of_subset = means(scores, 0)
    lines = [["subset", *levels, "mean", "95 % interval"]]
    for subset, mean in of_subset.items():
        scored = [show(scores.get((subset, level))) for level in levels]
        lines.append([subset, *scored, show(mean), found.intervals["released"].subsets[subset].between()])
    for protocol, intervals in found.intervals.items():
        of_level = means(evaluation.scores(protocol), 1)
        overall = show(fsum(of_level.values()) / len(of_level)), intervals.overall.between()
        lines.append([f"mean, {protocol}", *(show(of_level[level]) for level in levels), *overall])
        lines.append(["  95 % interval", *(intervals.levels[level].between() for level in levels), "", ""])
    print(f"\nscores of the released protocol\n{table(lines)}\n")
    for note in found.interval_notes:
        print(f"intervals: {note}")

    comparable = [level for level in levels if level in evaluation.comparable_levels]
    if comparable:
        print(f"The mean at {', '.join(comparable)} is the leaderboard's overall score: all {len(PUBLISHED)} subsets.")
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
        print("The run was not made with the official prompts (--published): compare its scores with the like only.")
    for file in evaluation.files:
        if file.rows and not file.whole:
            print(f"{file.name}: scored on {file.rows} of the {file.available or file.selected} rows of the data file.")
    print(one_line(evaluation.signature("released")))


def print_findings(found: "Findings") -> None:
    """What truncation did, what length costs, and where points went."""
    from analysis import lengths

    if any(part.told for part in found.evidence_by_level.values()):
        print("\nevidence kept by the truncation, and the scores of the rows where it was kept and cut")
        print(table([evidence.HEAD, *evidence.table(found.evidence_by_level)]))
    if len(found.evidence_by_level) > 1:
        kept = f"{100 * lengths.FRACTION:.0f} %"
        print(f"\nwhat length costs, in points (95 % intervals); effective length: up to where {kept} is kept")
        print(table([lengths.HEAD, *lengths.table(found.lengths)]))
        if found.lengths.overall.note:
            print(f"mean: {found.lengths.overall.note}")
        print(
            "A question with several rows at a length counts once in drop and slope: they can differ from the scores."
        )
    head = [*found.lost.present, "lost"]
    print("\npoints lost by cause, of 100 (docs/causes.md)")
    print(table([["", *head], *found.lost.table(found.lost.levels), *found.lost.table(found.lost.subsets)]))


def print_comparisons(a: Evaluation, compared: "Mapping[str, Comparison]") -> None:
    """One table for each run that the run is compared with."""
    from analysis import comparison

    for name, found in compared.items():
        print(f"\nA: {printable(str(a.folder))}\nB: {printable(name)}")
        for flag in found.flags:
            print(f"unlike beyond the model: {one_line(flag)}")
        print(comparison.counts_text(found))
        print(table([comparison.HEAD, *comparison.table(found)]))
        for note in comparison.interval_notes(found):
            print(f"intervals: {note}")
    if compared:
        print("Intervals are of one difference each; p and what is shown allow for the number of comparisons.")


def show(score: float | None) -> str:
    """A score in a table; blank where there is none."""
    return "" if score is None else f"{score:.2f}"


def print_unfinished(evaluation: Evaluation) -> None:
    """Why there are no results and how to get them."""
    name = printable(str(evaluation.folder))
    print(
        f"{name}: incomplete: {evaluation.missing} rows of {len(evaluation.unfinished)} files have no answer yet, "
        "so nothing is written.\n"
        f"To finish: {printable(finishing_commands(evaluation))}\n"
        "To score the rows that are there: add --allow-partial",
        file=sys.stderr,
    )


# --- writing --------------------------------------------------------------------------------------------------------


def write_results(evaluation: Evaluation, found: "Findings") -> None:
    """Write the result files of both protocols; `.partial` ones where rows are missing.

    The metadata comes first and the headline last, so that results.json never stands without what explains it.
    """
    part = ".partial" if evaluation.unfinished else ""
    write_atomic(evaluation.folder / f"results_meta{part}.json", as_json(metadata(evaluation, found)))
    for protocol, stem in reversed(STEMS.items()):
        scores = evaluation.scores(protocol)
        flat = {f"{subset}_{level}": score for (subset, level), score in scores.items()}
        write_atomic(evaluation.folder / f"{stem}{part}.csv", as_csv(scores, evaluation.levels))
        write_atomic(evaluation.folder / f"{stem}{part}.json", as_json(flat))


def as_json(value: object) -> str:
    """Indented by 4 as the published harness writes it."""
    return json.dumps(value, ensure_ascii=False, indent=4)


def as_csv(scores: Scores, levels: list[str]) -> str:
    """One row a subset, one column a level, blank where not evaluated. All names in it are known ones."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["dataset_name", *levels])
    for subset in means(scores, 0):
        lines.writerow([subset, *(scores.get((subset, level), "") for level in levels)])
    return text.getvalue()


def metadata(evaluation: Evaluation, found: "Findings") -> dict[str, object]:
    """What the numbers stand on: signatures, the run's identity, counts per file, means, what the analyses found.

    No clock, no host name.
    """
    from analysis import findings

    return {
        "signature": {protocol: evaluation.signature(protocol) for protocol in PROTOCOLS},
        "run": {name: value for name, value in evaluation.identity.items() if name != "data"},
        "complete": not evaluation.unfinished,
        "limited": [file.name for file in evaluation.files if file.selected < (file.available or 0)],
        "leaderboard_levels": evaluation.comparable_levels,
        "files": {
            file.name: {
                "rows": file.rows,
                "selected": file.selected,
                "available": file.available,
                "statuses": dict(sorted(file.statuses.items())),
            }
            for file in evaluation.files
        },
        "means": {
            protocol: {
                "levels": means(evaluation.scores(protocol), 1),
                "subsets": means(evaluation.scores(protocol), 0),
            }
            for protocol in PROTOCOLS
        },
        **findings.as_data(found),
    }


def write_comparisons(a: Evaluation, others: Sequence[Evaluation], compared: "Mapping[str, Comparison]") -> None:
    """Write comparison.json into the run's folder; .partial where rows of a run are missing."""
    from analysis import comparison

    part = ".partial" if any(evaluation.unfinished for evaluation in (a, *others)) else ""
    found = {printable(name): comparison.as_data(of) for name, of in compared.items()}
    write_atomic(a.folder / f"comparison{part}.json", as_json({"a": a.signature("released"), "compared": found}))


def retire_comparison(a: Evaluation) -> None:
    """Rename comparison.json if it is not of the run as it is now."""
    path = a.folder / "comparison.json"
    try:
        of_now = json.loads(path.read_text(encoding="utf-8"))["a"] == a.signature("released")
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError):
        of_now = False
    if not of_now:
        retire(path)


def retire_results(folder: Path) -> None:
    """Rename results.* to results.stale.*: the run has grown since, and they must not pass for its scores."""
    for name in (*(f"{stem}{suffix}" for stem in STEMS.values() for suffix in (".json", ".csv")), "results_meta.json"):
        retire(folder / name)
    retire(folder / "comparison.json")


def retire(path: Path) -> None:
    """Rename a file that is not of the run as it is now, if it is there."""
    stale = path.with_suffix(f".stale{path.suffix}")
    try:
        if path.exists():
            path.rename(stale)
            print(f"{path.name} is from before the run grew: renamed to {stale.name}", file=sys.stderr)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be renamed: {error.strerror}", ExitCode.STORAGE) from error


def finishing_commands(evaluation: Evaluation) -> str:
    """The latest commands that between them select every unfinished file; run again, they resume."""
    left = {file.name: file.selected for file in evaluation.unfinished}
    commands = []
    for entry in reversed(cast(list[dict[str, object]], evaluation.manifest.get("log", []))):
        selection = cast(dict[str, int], entry.get("selection", {}))
        if finished := [name for name, rows in left.items() if selection.get(name, 0) >= rows]:
            argv = [word for word in cast(list[str], entry["argv"]) if word != "--overwrite"]  # it would start anew
            commands.append(f"python prediction.py {shlex.join(argv)}")
            for name in finished:
                del left[name]
    return "\n".join(commands) or "run prediction.py again as it was started"


# --- the command line -----------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """The options, and in `folder` the run that they name."""
    parser = argparse.ArgumentParser(
        description="Score the answers of a run under both protocols of LV-Eval; writes results.json and results.csv.",
        epilog="exit codes: 0 scored, 2 a wrong option or bad data, 3 rows are missing, "
        "4 runs that cannot be compared, 6 a file cannot be written",
        allow_abbrev=False,
    )
    add_run_options(parser)
    parser.add_argument(
        "--allow-partial", action="store_true", help="score an incomplete run's rows, into results.partial.*"
    )
    arguments = parser.parse_args()
    arguments.folder = run_folder(parser, arguments)
    return arguments


def main() -> ExitCode:
    """Evaluate one folder; see the module's docstring."""
    arguments = parse_arguments()
    # A folder's name that the terminal cannot encode is shown as an escape, not as a traceback.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    evaluation, *others = (evaluate(each) for each in (arguments.folder, *arguments.compare))
    print_counts(evaluation)
    if evaluation.unfinished:
        retire_results(evaluation.folder)
    for each in (evaluation, *others):
        if each.unfinished and not arguments.allow_partial:
            print_unfinished(each)
            return ExitCode.INCOMPLETE
    from analysis import comparison, findings

    found = findings.of(evaluation.rows, evaluation.causes)
    compared = comparison.against(evaluation, {str(other.folder): other for other in others})
    print_scores(evaluation, found)
    print_findings(found)
    print_comparisons(evaluation, compared)
    write_results(evaluation, found)
    if compared:
        write_comparisons(evaluation, others, compared)
    else:
        retire_comparison(evaluation)
    return ExitCode.COMPLETE


if __name__ == "__main__":
    run(main)
