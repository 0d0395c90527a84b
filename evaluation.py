"""Answers to scores: reads the folder of a run, prints the tables, writes results.json and
results.csv.

    python evaluation.py --input-dir outputs/chatglm3
    python evaluation.py --input-dir outputs/chatglm3 --compare outputs/yi-200k
    python evaluation.py --import lm-eval samples_*.jsonl --data-path my_data --model-name yi-200k
    python evaluation.py --input-dir outputs/chatglm3 --fresh-run outputs/chatglm3-fresh
    python evaluation.py --input-dir outputs/chatglm3 --merge
    evaluate("outputs/chatglm3").to_frame()    in a program, after `from lveval import evaluate`

All protocols are always computed. `released`, the published scorer's, is the headline
(results.json, results.csv); `described`, the paper's two stages, goes to results_described.json and
results_described.csv, and `recall`, keyword recall, to results_recall.json and results_recall.csv.
results_meta.json says what the numbers stand on, how sure they are and where points went. A run
with rows missing is not scored (exit 3) unless --allow-partial is given, and then into
results.partial.*. A comparison goes to comparison.json, too.
"""

if __name__ == "__main__":
    import lveval.common.startup  # noqa: F401 - first: an interrupt among the imports is a line

import argparse
import csv
import io
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lveval import config, user_tables
from lveval.analysis.ablation import score_variants
from lveval.analysis.causes import classify_error
from lveval.common import logs
from lveval.common.command_line import Command, program
from lveval.common.errors import ExitCode, IncompleteRun, StorageError, UsageError, run_cli
from lveval.common.files import write_atomic
from lveval.common.levels import PUBLISHED_LEVELS, level_length
from lveval.common.logs import log
from lveval.common.processes import collector_paused
from lveval.common.remembered import forget_long
from lveval.common.text import printable, shown
from lveval.data import own_subsets
from lveval.execution.trackers import Tracker, track_run
from lveval.option_groups import tracker
from lveval.options import add_run_folder_options, named_run_folder
from lveval.report.text import (
    print_comparisons,
    print_counts,
    print_findings,
    print_next,
    print_scores,
    print_unfinished,
)
from lveval.results import (
    HEADLINE,
    PROTOCOLS,
    Evaluation,
    FileResult,
    ScoredRow,
    Scores,
    level_means,
    overall_mean,
    subset_means,
)
from lveval.runs import folder as run_folders
from lveval.runs.merge import find_parts, merge_parts
from lveval.runs.record import FINAL_STATUSES
from lveval.runs.times import read_times

if TYPE_CHECKING:
    from lveval.analysis.comparison import Comparison, Pair
    from lveval.analysis.run_analysis import RunAnalysis


def evaluate(
    folder: Path | str, data_path: Path | str | None = None, *, accept_edited: bool = False
) -> Evaluation:
    """Score every recorded row of the run in `folder`, complete or not.

    `data_path`: a folder whose subset.toml says what run.json does not, of answers from elsewhere.
    Raises LVEvalError, which names file and line at a row that cannot be scored, or was edited;
    with `accept_edited` such rows are scored as they stand and counted in `edited` of their file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        parts = "; parts of this run are there: add --merge" if find_parts(folder) else ""
        raise UsageError(
            f"{folder}: no such folder; expected the one that prediction.py printed as its last "
            f"line{parts}"
        )
    pairs = run_folders.run_files(folder)
    if not pairs:
        raise UsageError(
            f"{folder}: no prediction file; expected names such as lic_mixup_16k.jsonl"
        )
    manifest = run_folders.read_manifest(folder) or {}
    declare_own_subsets(folder, manifest, data_path)
    for subset, level in pairs:
        if subset not in config.DATASET_METRIC:
            where = folder / f"{subset}_{level}.jsonl"
            raise UsageError(f"{where}: {own_subsets.unknown_subset(subset)}")
        for name in (*(protocol.table for protocol in PROTOCOLS.values()), "DATASET_LANGUAGE"):
            if subset not in getattr(config, name):
                raise UsageError(
                    f"config.py: {name} has no line for {subset}; expected one, as DATASET_METRIC "
                    "has"
                )
    order = list(config.DATASET_METRIC)
    pairs.sort(key=lambda pair: (order.index(pair[0]), level_length(pair[1])))
    files = [score_file(folder, manifest, *pair, accept_edited=accept_edited) for pair in pairs]
    return Evaluation(
        folder, manifest, files, read_times(folder), recorded_protocols=recorded_protocols(folder)
    )


def declare_own_subsets(
    folder: Path, manifest: Mapping[str, object], data_path: Path | str | None
) -> None:
    """Let this process know the user's own subsets: as the run recorded them, of answers without
    run.json as a file has them. Raises DataError.
    """
    if data_path is not None and not manifest:
        own_subsets.declare(own_subsets.read_own_subsets(Path(data_path)))
    identity = cast(Mapping[str, object], manifest.get("identity", {}))
    recorded = identity.get("subsets", {})
    where = f"{folder / 'run.json'}: identity.subsets"
    own_subsets.declare(own_subsets.parse_own_subsets(recorded, where))


def recorded_protocols(folder: Path) -> dict[str, str]:
    """Find the version of each protocol in the results that a folder has; empty without any."""
    try:
        meta = json.loads((folder / "results_meta.json").read_text(encoding="utf-8"))
        signatures = dict(meta["signature"])
        return {
            name: str(signature).partition("|")[0].removeprefix("protocol:")
            for name, signature in signatures.items()
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def analyze(evaluation: Evaluation) -> "RunAnalysis":
    """What the scores mean; see analysis/run_analysis.py."""
    one_thread()
    from lveval.analysis import run_analysis

    return run_analysis.analyze_run(evaluation)


def one_thread() -> None:
    """Keep numpy, which is not imported yet, to one thread.

    The analyses multiply small matrices: threads would wait for each other longer than they work,
    and how many there are would show in the last digits.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def score_file(
    folder: Path,
    manifest: Mapping[str, object],
    subset: str,
    level: str,
    *,
    accept_edited: bool = False,
) -> FileResult:
    """Score the recorded rows of one file under all protocols."""
    name, edited = f"{subset}_{level}", Counter[str]()
    records = run_folders.read_records(folder, subset, level, edited if accept_edited else None)
    if manifest:
        selection = cast(dict[str, int], manifest["selection"])
        if name not in selection:
            raise UsageError(
                f"{folder / name}.jsonl: is not part of the run that run.json describes; move it "
                "elsewhere"
            )
        selected = selection[name]
        available = cast(dict[str, int], manifest.get("rows", {})).get(name)
        left_out = len(cast(dict[str, list[int]], manifest.get("left_out", {})).get(name, ()))
    else:
        # The file's own rows are all there is to go by, except that the published files have a
        # known length.
        selected, left_out = len(records), 0
        available = config.DATASET_ROWS.get(subset) if level in PUBLISHED_LEVELS else None
    result = FileResult(
        subset, level, selected - left_out, available, left_out=left_out, edited=edited
    )
    for place, (record, where) in enumerate(records):
        try:
            row = score_row(record, subset, level, place)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where}: {error}") from error
        if manifest and available is not None and row.index >= available:
            raise UsageError(
                f'{where}: "index" is {row.index}; expected less than {available}, the rows of '
                "the data file"
            )
        result.scored.append(row)
        # At once, while the metrics still know the row's words.
        result.causes.append(classify_error(row))
        result.variants.append(score_variants(row))
        forget_long(row.answer, *row.record["answers"])
    return result


def score_row(record: dict[str, object], subset: str, level: str, place: int) -> ScoredRow:
    """The row with its scores; TypeError or ValueError says what is wrong with it."""
    answers, keywords, status = (
        record.get("answers"),
        record.get("gold_ans"),
        record.get("status", "unrecorded"),
    )
    prediction, index = record.get("pred"), record.get("index", place)
    if not isinstance(prediction, str):
        raise TypeError(f'"pred" is {type_name(prediction)}; expected a string')
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise TypeError(
            f'"answers" is {type_name(answers)}; expected a list of strings, at least one'
        )
    if keywords is not None and not isinstance(keywords, str):
        raise TypeError(f'"gold_ans" is {type_name(keywords)}; expected a string or null')
    if status not in (*FINAL_STATUSES, "unrecorded"):
        final = ", ".join(FINAL_STATUSES)
        raise ValueError(f'"status" is {shown(status)}; expected one of {final}')
    if type(index) is not int:
        raise TypeError(f'"index" is {type_name(index)}; expected a whole number')
    for key, own in (("dataset", subset), ("level", level)):
        if record.get(key, own) != own:
            found = shown(record[key])
            raise ValueError(f'"{key}" is {found}; expected "{own}", as the file is named')
    # A refusal is scored as the empty answer, whatever words it came in.
    answer = "" if status == "refused" else prediction
    scores = {
        name: protocol.metrics[subset](answer, answers[0], keywords)
        for name, protocol in PROTOCOLS.items()
    }
    return ScoredRow(subset, level, index, scores, record)


def type_name(value: object) -> str:
    """What a wrong value is, for a message."""
    return "missing or null" if value is None else f"of type {type(value).__name__}"


# --- telling a tracker ---------------------------------------------------------------------------


class LiveScores:
    """Tells a tracker, file by file, what it scored and the means of its level so far."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self._tracker = tracker
        self._folder = folder
        self._files: list[FileResult] = []

    def add(self, subset: str, level: str) -> None:
        """Take in a file that has all its answers; whatever fails is a warning."""
        self._tracker.attempt(lambda: self._tell(subset, level))

    def end(self) -> None:
        """Tell the scores of the whole run, with their intervals."""
        self._tracker.attempt(self._tell_end)

    def _tell(self, subset: str, level: str) -> None:
        manifest = run_folders.read_manifest(self._folder) or {}
        self._files.append(score_file(self._folder, manifest, subset, level))
        so_far = Evaluation(self._folder, manifest, self._files)
        values = {}
        for protocol in PROTOCOLS:
            scores = so_far.scores(protocol)
            values[f"{protocol}/{subset}_{level}"] = scores[subset, level]
            values[f"{protocol}/{level}"] = level_means(scores)[level]
        self._tracker.log(len(self._files), values)

    def _tell_end(self) -> None:
        evaluation = evaluate(self._folder)
        self._tracker.final(final_scores(evaluation, analyze(evaluation)))


def final_scores(evaluation: Evaluation, found: "RunAnalysis") -> dict[str, float]:
    """The means of levels and subsets as the tables have them, their intervals, the rows.

    All under `final/`, so that no curve of a run that is still answering gets another point.
    """
    values: dict[str, float] = {
        "rows": sum(file.rows for file in evaluation.files),
        "selected": sum(file.selected for file in evaluation.files),
    }
    for protocol in PROTOCOLS:
        scores, intervals = evaluation.scores(protocol), found.intervals[protocol]
        for means, around in (
            (level_means(scores), intervals.levels),
            (subset_means(scores), intervals.subsets),
        ):
            for name, mean in means.items():
                values[f"{protocol}/{name}"] = mean
                for end in ("low", "high"):
                    if (bound := getattr(around[name], end)) is not None:
                        values[f"{protocol}/{name}/{end}"] = bound
        values[f"{protocol}/mean"] = overall_mean(scores)
    return {f"final/{name}": value for name, value in values.items()}


# --- writing ------------------------------------------------------------------------------------

RESULT_FILES = (
    *(f"{protocol.stem}{end}" for protocol in PROTOCOLS.values() for end in (".json", ".csv")),
    "results_meta.json",
)


def write_results(evaluation: Evaluation, found: "RunAnalysis") -> None:
    """Write the result files of all protocols."""
    for name, text in result_files(evaluation, found).items():
        write_atomic(evaluation.folder / name, text)


def result_files(evaluation: Evaluation, found: "RunAnalysis") -> dict[str, str]:
    """Make the result files of all protocols, name -> text; `.partial` where rows are missing.

    The metadata comes first and the headline last, so that results.json never stands without what
    explains it.
    """
    part = ".partial" if evaluation.unfinished else ""
    files = {f"results_meta{part}.json": as_json(metadata(evaluation, found))}
    for protocol in reversed(PROTOCOLS.values()):
        scores = evaluation.scores(protocol.name)
        flat = {f"{subset}_{level}": score for (subset, level), score in scores.items()}
        files[f"{protocol.stem}{part}.csv"] = as_csv(scores, evaluation.levels)
        files[f"{protocol.stem}{part}.json"] = as_json(flat)
    return files


def as_json(value: object) -> str:
    """Indented by 4 as the published harness writes it."""
    return json.dumps(value, ensure_ascii=False, indent=4)


def as_csv(scores: Scores, levels: list[str]) -> str:
    """One row a subset, one column a level, blank where not evaluated.

    All names in it are known ones.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["dataset_name", *levels])
    for subset in subset_means(scores):
        lines.writerow([subset, *(scores.get((subset, level), "") for level in levels)])
    return text.getvalue()


def signatures(evaluation: Evaluation) -> dict[str, str]:
    """Of each protocol, all that decides its numbers, in one line."""
    return {protocol: evaluation.signature(protocol) for protocol in PROTOCOLS}


def metadata(evaluation: Evaluation, found: "RunAnalysis") -> dict[str, object]:
    """What the numbers stand on: signatures, the run's identity, counts per file, means, what the
    analyses found.

    No clock, no host name.
    """
    from lveval.analysis import run_analysis

    return {
        "signature": signatures(evaluation),
        "run": {name: value for name, value in evaluation.identity.items() if name != "data"},
        "complete": not evaluation.unfinished,
        **({"edited": edited} if (edited := evaluation.edited) else {}),
        **({"unverified": unverified} if (unverified := evaluation.unverified) else {}),
        "limited": [
            file.name
            for file in evaluation.files
            if file.selected < (file.available or 0) - file.left_out
        ],
        "leaderboard_levels": evaluation.leaderboard_levels,
        "files": {
            file.name: {
                "rows": file.rows,
                "selected": file.selected,
                "available": file.available,
                "statuses": dict(sorted(file.statuses.items())),
                **({"left_out": file.left_out} if evaluation.control else {}),
            }
            for file in evaluation.files
        },
        "means": {
            protocol: {
                "levels": level_means(evaluation.scores(protocol)),
                "subsets": subset_means(evaluation.scores(protocol)),
            }
            for protocol in PROTOCOLS
        },
        **run_analysis.as_data(found),
    }


def write_comparisons(
    a: Evaluation, others: Sequence[Evaluation], compared: "Mapping[str, Mapping[Pair, Comparison]]"
) -> None:
    """Write comparison.json into the run's folder; .partial where rows of a run are missing.

    Two of the others have both names, which the first run's pairs need not.
    """
    part = ".partial" if any(evaluation.unfinished for evaluation in (a, *others)) else ""
    with_a = {
        protocol: {
            printable(name): of.as_data() for (first, name), of in pairs.items() if first == a.place
        }
        for protocol, pairs in compared.items()
    }
    data = {"a": signatures(a), "compared": with_a.pop(HEADLINE), "other_protocols": with_a}
    between = [
        {
            "a": printable(pair[0]),
            "b": printable(pair[1]),
            **{protocol: pairs[pair].as_data() for protocol, pairs in compared.items()},
        }
        for pair in compared[HEADLINE]
        if pair[0] != a.place
    ]
    data |= {"between_others": between} if between else {}
    write_atomic(a.folder / f"comparison{part}.json", as_json(data))


def mark_stale_comparison(a: Evaluation) -> None:
    """Rename comparison.json if it is not of the run as it is now."""
    if has_stale_comparison(a):
        mark_stale(a.folder / "comparison.json")


def has_stale_comparison(a: Evaluation) -> bool:
    """Tell whether there is a comparison.json that is not of the run as it is now."""
    try:
        text = (a.folder / "comparison.json").read_text(encoding="utf-8")
        return bool(json.loads(text)["a"] != signatures(a))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return True


def mark_stale_results(folder: Path) -> None:
    """Rename results.* to results.stale.*: the run has grown since, and they must not pass for its
    scores.
    """
    for name in (*RESULT_FILES, "comparison.json"):
        mark_stale(folder / name)


def mark_stale(path: Path) -> None:
    """Rename a file that is not of the run as it is now, if it is there."""
    stale = path.with_suffix(f".stale{path.suffix}")
    try:
        if path.exists():
            path.rename(stale)
            log.warning("%s is from before the run grew: renamed to %s", path.name, stale.name)
    except OSError as error:
        raise StorageError(f"{path}: cannot be renamed: {error.strerror}") from error


# --- the command line ---------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, and in `folder` the run that they name."""
    parser = Command(
        usage="%(prog)s [--input-dir RUN] [options]",
        description="Score the answers of a run under all protocols "
        f"({', '.join(PROTOCOLS)}); writes results.json and results.csv.",
        epilog="exit codes: 0 scored, 2 a wrong option or bad data, 3 rows are missing, "
        "4 runs that cannot be compared, 6 a file cannot be written",
    )
    add_run_folder_options(parser)
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="score an incomplete run's rows, into results.partial.*",
    )
    parser.add_argument(
        "--fresh-run",
        type=Path,
        metavar="RUN",
        help="the same model's run on data of construct --fresh: is it better on the published?",
    )
    parser.add_argument(
        "--import",
        dest="imported",
        nargs="+",
        metavar=("FORMAT", "FILE"),
        help="make the run of answers from elsewhere, then score it; lm-eval, opencompass or csv, "
        "and its files (docs/exchange.md); without --model-name beside the first file",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="with --import: rename an earlier run"
    )
    words = "with --import: take data files that have not the published number of rows"
    parser.add_argument("--allow-unverified-data", action="store_true", help=words)
    parser.add_argument(
        "--track",
        type=tracker,
        metavar="KIND:PROJECT",
        help="tell an experiment tracker the scores, as for prediction.py: trackio:PROJECT, "
        "wandb:PROJECT or mlflow:EXPERIMENT",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="first join the parts of the run (prediction.py --part) that are beside its folder",
    )
    arguments = parser.parse_args(user_tables.taken(argv))
    logs.configure(verbose=arguments.verbose, quiet=arguments.quiet)
    if arguments.imported is None:
        if arguments.overwrite:
            parser.error("--overwrite is for --import")
        arguments.folder = named_run_folder(parser, arguments)
        return arguments
    if arguments.input_dir is not None or arguments.merge or len(arguments.imported) < 2:
        parser.error("--import: expected FORMAT FILE …, and --model-name or nothing")
    first = Path(arguments.imported[1])
    place, name = arguments.output_dir, arguments.model_name
    if name is None:
        place, name = first.parent, f"{first.stem}-imported"
    arguments.folder = run_folders.run_folder(place, name)
    return arguments


@collector_paused()
def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Evaluate one folder; see the module's docstring."""
    arguments = parse_arguments(argv)
    if arguments.imported:
        from lveval.exchange.importing import import_answers

        form, *paths = arguments.imported
        import_answers(
            form,
            [Path(path) for path in paths],
            arguments.data_path,
            arguments.folder,
            model_name=arguments.model_name or "",
            allow_unverified_data=arguments.allow_unverified_data,
            overwrite=arguments.overwrite,
        )
    if arguments.merge:
        merge_parts(arguments.folder)
    folders = (arguments.folder, *arguments.compare)
    scored = partial(evaluate, accept_edited=arguments.accept_edited)
    evaluation, *others = (scored(each, arguments.data_path) for each in folders)
    fresh = scored(arguments.fresh_run) if arguments.fresh_run else None
    if not others or evaluation.unfinished:
        print_counts(evaluation, every_file=arguments.verbose)
    if evaluation.unfinished:
        mark_stale_results(evaluation.folder)
    for each in (evaluation, *others, *([fresh] if fresh else ())):
        if each.part and not arguments.allow_partial:
            raise _a_part(each.folder, *each.part)
        if each.unfinished and not arguments.allow_partial:
            print_unfinished(each)
            return ExitCode.INCOMPLETE
    one_thread()
    from lveval.analysis import comparison, contamination, contexts

    if arguments.data_path:
        told = contexts.read_contexts(evaluation, arguments.data_path, with_passages=False)
        evaluation.depths = told.depths
    found = analyze(evaluation)
    compared = comparison.compare_every_pair(evaluation, {each.place: each for each in others})
    write_results(evaluation, found)
    if others:
        write_comparisons(evaluation, others, compared)
        print_comparisons([evaluation, *others], compared, every_table=arguments.verbose)
    else:
        mark_stale_comparison(evaluation)
        if arguments.verbose:
            print_findings(evaluation, found)
        print_scores(evaluation, found)
    if fresh:
        print(f"\n{contamination.report(evaluation, fresh)}")
    with track_run(arguments.track, evaluation.folder, evaluation.identity) as tracked:
        tracked.final(final_scores(evaluation, found))
    print_next(arguments.folder, arguments.compare, ranked=bool(evaluation.leaderboard_levels))
    return ExitCode.COMPLETE


def _a_part(folder: Path, number: int, of: int) -> IncompleteRun:
    whole = str(folder).removesuffix(run_folders.part_suffix((number, of)))
    then = f"{program('evaluate')} --merge --input-dir {shlex.quote(whole)}"
    return IncompleteRun(f"{folder}: is part {number} of {of} of a run; join them: {then}")


if __name__ == "__main__":
    run_cli(main)
