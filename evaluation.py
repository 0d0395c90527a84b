"""Answers to scores: reads the folder of a run, prints the tables, writes results.json and results.csv.

    python evaluation.py --input-dir outputs/chatglm3

Both protocols are always computed: `released`, the published scorer's, is the headline (results.json, results.csv);
`described`, the paper's two stages, goes to results_described.json and results_described.csv. results_meta.json says
what the numbers stand on. A run with rows missing is not scored (exit 3) unless --allow-partial is given, and then into
results.partial.*. Folders of the published harness (six keys a row, no run.json) can be scored too.
"""

import argparse
import csv
import io
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import cast

import config
import metrics
import store
from errors import ExitCode, HarnessError, choices, printable, run
from files import write_atomic

PROTOCOLS = {"released": config.DATASET_METRIC, "described": config.DATASET_METRIC_DESCRIBED}
STEMS = {"released": "results", "described": "results_described"}
SUBSETS = list(config.DATASET_METRIC)  # in the order of every table
PUBLISHED = [subset for subset in SUBSETS if subset in config.DATASET_ROWS]
PUBLISHED_LEVELS = ("16k", "32k", "64k", "128k", "256k")

Scores = dict[tuple[str, str], float]  # (subset, level) -> the file's score, 0 to 100


@dataclass
class FileResult:
    """What one prediction file came to."""

    subset: str
    level: str
    selected: int  # rows that the run is to answer
    available: int | None  # rows of the data file, where known
    statuses: Counter[str] = field(default_factory=Counter)
    evidence: list[bool] = field(default_factory=list)  # whether truncation kept it, of the rows that know
    constructed: bool = False  # its rows have question ids, which construct.py gives and the published data lack
    scores: dict[str, list[float]] = field(default_factory=lambda: {protocol: [] for protocol in PROTOCOLS})

    @property
    def name(self) -> str:
        """As in results.json."""
        return f"{self.subset}_{self.level}"

    @property
    def rows(self) -> int:
        """How many rows have an answer."""
        return len(self.scores["released"])

    @property
    def whole(self) -> bool:
        """Whether every row of the data file is scored, as far as is known."""
        return self.rows >= max(self.selected, self.available or 0)

    @property
    def as_published(self) -> bool:
        """Whether it may be the published file of its name: as many rows are scored, and none is construct.py's."""
        complete = self.level in PUBLISHED_LEVELS and self.rows == config.DATASET_ROWS.get(self.subset)
        return complete and not self.constructed


@dataclass
class Evaluation:
    """All files of one folder, in the order of the tables, and the run.json they came with."""

    folder: Path
    manifest: Mapping[str, object]  # empty for a folder of the published harness
    files: list[FileResult]

    @property
    def unfinished(self) -> list[FileResult]:
        """The files of which selected rows have no answer."""
        return [file for file in self.files if file.rows < file.selected]

    @property
    def levels(self) -> list[str]:
        """The published levels and any other that the run has, by length."""
        return sorted({*PUBLISHED_LEVELS, *(file.level for file in self.files)}, key=level_length)

    @property
    def comparable_levels(self) -> list[str]:
        """The levels whose mean is the leaderboard's overall score: all subsets are there, with all published rows."""
        return [
            level
            for level in PUBLISHED_LEVELS
            if {(file.subset, file.as_published) for file in self.files if file.level == level and file.rows}
            == {(subset, True) for subset in PUBLISHED}
        ]

    def scores(self, protocol: str) -> Scores:
        """The score of every file that has rows."""
        return {
            (file.subset, file.level): metrics.file_score(file.scores[protocol]) for file in self.files if file.rows
        }

    @property
    def identity(self) -> dict[str, object]:
        """What decided the answers, as run.json has it."""
        return cast(dict[str, object], self.manifest.get("identity", {}))

    @property
    def prompts(self) -> dict[str, object]:
        """The templates of the run: name, sha256, official; empty where run.json does not tell."""
        return cast(dict[str, object], self.identity.get("prompts", {}))

    @property
    def official(self) -> bool:
        """Whether the templates were the benchmark's own and in its chat formats."""
        return bool(self.prompts.get("official")) and self.identity.get("chat_template") == "published"

    def signature(self, protocol: str) -> str:
        """All that decides the numbers, in one line."""
        prompts = self.prompts
        recipe = {
            "protocol": protocol,
            "jieba": metrics.JIEBA_VERSION,
            "rouge": metrics.ROUGE_VERSION,
            "prompts": f"{prompts['name']}-{str(prompts['sha256'])[:8]}" if prompts else "unrecorded",
            **{name: self.identity.get(name, "unrecorded") for name in ("chat_template", "backend", "model_max_len")},
            "rows": f"{sum(file.rows for file in self.files)}/{sum(file.selected for file in self.files)}",
        }
        return "|".join(f"{name}:{value}" for name, value in recipe.items())


# --- scoring --------------------------------------------------------------------------------------------------------


def level_length(level: str) -> int:
    """16 for "16k"."""
    return int(level.removesuffix("k"))


def evaluate(folder: Path) -> Evaluation:
    """Score every recorded row of a run; HarnessError naming file and line at a row that cannot be scored."""
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder; expected the one that prediction.py printed as its last line")
    pairs = store.run_files(folder)
    if not pairs:
        raise HarnessError(f"{folder}: no prediction file; expected names such as lic_mixup_16k.jsonl")
    for subset, level in pairs:
        if subset not in SUBSETS:
            raise HarnessError(f"{folder / f'{subset}_{level}.jsonl'}: {choices(subset, 'subset', SUBSETS)}")
    pairs.sort(key=lambda pair: (SUBSETS.index(pair[0]), level_length(pair[1])))
    manifest = store.read_manifest(folder) or {}
    return Evaluation(folder, manifest, [evaluate_file(folder, manifest, *pair) for pair in pairs])


def evaluate_file(folder: Path, manifest: Mapping[str, object], subset: str, level: str) -> FileResult:
    """Score the recorded rows of one file under both protocols."""
    name = f"{subset}_{level}"
    records = store.read_records(folder, subset, level)
    if manifest:
        selection = cast(dict[str, int], manifest["selection"])
        if name not in selection:
            raise HarnessError(
                f"{folder / name}.jsonl: is not part of the run that run.json describes; move it elsewhere"
            )
        selected = selection[name]
        available = cast(dict[str, int], manifest.get("rows", {})).get(name)
    else:
        # The file's own rows are all there is to go by, except that the published files have a known length.
        selected = len(records)
        available = config.DATASET_ROWS.get(subset) if level in PUBLISHED_LEVELS else None
    result = FileResult(subset, level, selected, available)
    for record, where in records:
        try:
            score_row(record, result)
        except (TypeError, ValueError) as error:
            raise HarnessError(f"{where}: {error}") from error
    return result


def score_row(record: dict[str, object], result: FileResult) -> None:
    """Add one row's scores to its file's; TypeError or ValueError says what is wrong with the row."""
    answers, keywords, status = record.get("answers"), record.get("gold_ans"), record.get("status", "unrecorded")
    prediction, kept = record.get("pred"), record.get("evidence_kept")
    if not isinstance(prediction, str):
        raise TypeError(f'"pred" is {kind(prediction)}; expected a string')
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise TypeError(f'"answers" is {kind(answers)}; expected a list of strings, at least one')
    if keywords is not None and not isinstance(keywords, str):
        raise TypeError(f'"gold_ans" is {kind(keywords)}; expected a string or null')
    if status not in (*store.FINAL_STATUSES, "unrecorded"):
        raise ValueError(f'"status" is {status!r}; expected one of {", ".join(store.FINAL_STATUSES)}')
    for key, own in (("dataset", result.subset), ("level", result.level)):
        if record.get(key, own) != own:
            raise ValueError(f'"{key}" is {record[key]!r}; expected "{own}", as the file is named')
    for protocol, metric in PROTOCOLS.items():
        # A refusal is scored as the empty answer, whatever words it came in.
        score = metric[result.subset]("" if status == "refused" else prediction, answers[0], keywords)
        result.scores[protocol].append(score)
    result.statuses[str(status)] += 1
    result.constructed |= "question_id" in record
    if isinstance(kept, bool):
        result.evidence.append(kept)


def kind(value: object) -> str:
    """What a wrong value is, for a message."""
    return "missing or null" if value is None else f"of type {type(value).__name__}"


def means(scores: Scores, part: int) -> dict[str, float]:
    """Plain means of the files' scores, by subset (part 0) or by level (part 1), to two places."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for pair, score in scores.items():
        groups[pair[part]].append(score)
    return {name: round(fsum(group) / len(group), 2) for name, group in groups.items()}


# --- printing -------------------------------------------------------------------------------------------------------


def table(lines: list[list[str]]) -> str:
    """Lines of cells as aligned text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(widths[at]) for at, cell in enumerate(line) if at)])
        for line in lines
    )


def print_counts(evaluation: Evaluation) -> None:
    """n/N rows and the count of each status of every file, and how often truncation kept the evidence."""
    print(f"{printable(str(evaluation.folder))}\n")
    lines = [["file", "rows", "status"]]
    for file in evaluation.files:
        statuses = ", ".join(f"{status} {count}" for status, count in sorted(file.statuses.items()))
        lines.append([file.name, f"{file.rows}/{file.selected}", statuses])
    print(table(lines))
    for level in evaluation.levels:
        kept = [kept for file in evaluation.files if file.level == level for kept in file.evidence]
        if kept:
            print(
                f"evidence kept by the truncation at {level}: {100 * sum(kept) / len(kept):.1f} % of {len(kept)} rows"
            )


def print_scores(evaluation: Evaluation) -> None:
    """The released scores as a table with both means, the described means, and what they can be compared with."""
    scores = evaluation.scores("released")
    levels = [level for level in evaluation.levels if level in means(scores, 1)]
    of_subset = means(scores, 0)
    lines = [["subset", *levels, "mean"]]
    for subset in of_subset:
        lines.append([subset, *(show(scores.get((subset, level))) for level in levels), show(of_subset[subset])])
    for protocol in PROTOCOLS:
        of_level = means(evaluation.scores(protocol), 1)
        lines.append([f"mean, {protocol}", *(show(of_level[level]) for level in levels), ""])
    print(f"\nscores of the released protocol\n{table(lines)}\n")

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
            f"The mean at {', '.join(alike)} is not the leaderboard's overall score: subsets in it: {subsets}; "
            f"{whole} of the published {len(PUBLISHED)} with all rows of the published data."
        )
    if comparable and not evaluation.official:
        print("The run was not made with the official prompts (--published): compare its scores with the like only.")
    for file in evaluation.files:
        if file.rows and not file.whole:
            print(f"{file.name}: scored on {file.rows} of the {file.available or file.selected} rows of the data file.")
    print(printable(evaluation.signature("released")))


def show(score: float | None) -> str:
    """A score in a table; blank where there is none."""
    return "" if score is None else f"{score:.2f}"


def print_unfinished(evaluation: Evaluation) -> None:
    """Why there are no results and how to get them."""
    unfinished = evaluation.unfinished
    missing = sum(file.selected - file.rows for file in unfinished)
    print(
        f"incomplete: {missing} rows of {len(unfinished)} files have no answer yet, so no results are written.\n"
        f"To finish: {printable(finishing_commands(evaluation))}\n"
        "To score the rows that are there: add --allow-partial",
        file=sys.stderr,
    )


# --- writing --------------------------------------------------------------------------------------------------------


def write_results(evaluation: Evaluation) -> None:
    """Write the result files of both protocols; `.partial` ones where rows are missing.

    The metadata comes first and the headline last, so that results.json never stands without what explains it.
    """
    part = ".partial" if evaluation.unfinished else ""
    write_atomic(evaluation.folder / f"results_meta{part}.json", as_json(metadata(evaluation)))
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


def metadata(evaluation: Evaluation) -> dict[str, object]:
    """What the numbers stand on: signatures, the run's identity, counts per file, means. No clock, no host name."""
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
                "evidence_kept": sum(file.evidence),
                "evidence_known": len(file.evidence),
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
    }


def retire_results(folder: Path) -> None:
    """Rename results.* to results.stale.*: the run has grown since, and they must not pass for its scores."""
    for stem in ("results", "results_described", "results_meta"):
        for suffix in (".json", ".csv"):
            old = folder / f"{stem}{suffix}"
            try:
                if old.exists():
                    old.rename(folder / f"{stem}.stale{suffix}")
                    print(f"{old.name} is from before the run grew: renamed to {stem}.stale{suffix}", file=sys.stderr)
            except OSError as error:
                raise HarnessError(f"{old}: cannot be renamed: {error.strerror}", ExitCode.STORAGE) from error


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
    """The options; the folder is named in exactly one of two ways."""
    parser = argparse.ArgumentParser(
        description="Score the answers of a run under both protocols of LV-Eval; writes results.json and results.csv.",
        epilog="exit codes: 0 scored, 2 a wrong option or bad data, 3 rows are missing, 6 a file cannot be written",
        allow_abbrev=False,
    )
    parser.add_argument("--input-dir", type=Path, help="the run's folder: the last line that prediction.py printed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="as for prediction.py (outputs)")
    parser.add_argument("--model-name", help="as for prediction.py; names the folder together with --output-dir")
    parser.add_argument(
        "--allow-partial", action="store_true", help="score an incomplete run's rows, into results.partial.*"
    )
    arguments = parser.parse_args()
    if (arguments.input_dir is None) == (arguments.model_name is None):
        parser.error("expected either --input-dir, or --model-name with --output-dir")
    return arguments


def main() -> ExitCode:
    """Evaluate one folder; see the module's docstring."""
    arguments = parse_arguments()
    # A folder's name that the terminal cannot encode is shown as an escape, not as a traceback.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    evaluation = evaluate(arguments.input_dir or store.run_folder(arguments.output_dir, arguments.model_name))
    print_counts(evaluation)
    if evaluation.unfinished:
        retire_results(evaluation.folder)
        if not arguments.allow_partial:
            print_unfinished(evaluation)
            return ExitCode.INCOMPLETE
    print_scores(evaluation)
    write_results(evaluation)
    return ExitCode.COMPLETE


if __name__ == "__main__":
    run(main)
