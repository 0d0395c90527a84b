"""The rows of a run to scores: every recorded answer under both protocols, file by file.

    found = scoring.evaluate(Path("outputs/chatglm3"))
    found.scores("released")["lic_mixup", "16k"]

evaluation.py and report.py begin here; nothing is written. Both protocols are always computed: `released`, the
published scorer's, is the headline, `described` has the paper's two stages. Folders of the published harness (six keys
a row, no run.json) can be scored too.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import cast

import config
import metrics
import store
from analysis import ScoredRow, level_length
from analysis.causes import Cause, cause
from errors import HarnessError, choices

PROTOCOLS = {"released": config.DATASET_METRIC, "described": config.DATASET_METRIC_DESCRIBED}
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
    scored: list[ScoredRow] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)  # of each scored row

    @property
    def name(self) -> str:
        """As in results.json."""
        return f"{self.subset}_{self.level}"

    @property
    def rows(self) -> int:
        """How many rows have an answer."""
        return len(self.scored)

    @property
    def statuses(self) -> Counter[str]:
        """How many rows have which status."""
        return Counter(str(row.record.get("status", "unrecorded")) for row in self.scored)

    @property
    def constructed(self) -> bool:
        """Whether its rows have question ids, which construct.py gives and the published data lack."""
        return any("question_id" in row.record for row in self.scored)

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
    def missing(self) -> int:
        """How many selected rows have no answer."""
        return sum(file.selected - file.rows for file in self.unfinished)

    @property
    def rows(self) -> list[ScoredRow]:
        """Every scored row, file by file."""
        return [row for file in self.files for row in file.scored]

    @property
    def causes(self) -> list[Cause]:
        """The cause of each of `rows`."""
        return [cause for file in self.files for cause in file.causes]

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
            (file.subset, file.level): metrics.file_score([row.score(protocol) for row in file.scored])
            for file in self.files
            if file.rows
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
        for name in ("DATASET_METRIC_DESCRIBED", "DATASET_LANGUAGE"):
            if subset not in getattr(config, name):
                raise HarnessError(f"config.py: {name} has no line for {subset}; expected one, as DATASET_METRIC has")
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
    for place, (record, where) in enumerate(records):
        try:
            row = score_row(record, subset, level, place)
        except (TypeError, ValueError) as error:
            raise HarnessError(f"{where}: {error}") from error
        result.scored.append(row)
        result.causes.append(cause(row))  # at once, while the metrics still know the row's words
    return result


def score_row(record: dict[str, object], subset: str, level: str, place: int) -> ScoredRow:
    """The row with its scores; TypeError or ValueError says what is wrong with it."""
    answers, keywords, status = record.get("answers"), record.get("gold_ans"), record.get("status", "unrecorded")
    prediction, index = record.get("pred"), record.get("index", place)
    if not isinstance(prediction, str):
        raise TypeError(f'"pred" is {kind(prediction)}; expected a string')
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise TypeError(f'"answers" is {kind(answers)}; expected a list of strings, at least one')
    if keywords is not None and not isinstance(keywords, str):
        raise TypeError(f'"gold_ans" is {kind(keywords)}; expected a string or null')
    if status not in (*store.FINAL_STATUSES, "unrecorded"):
        raise ValueError(f'"status" is {status!r}; expected one of {", ".join(store.FINAL_STATUSES)}')
    if type(index) is not int:
        raise TypeError(f'"index" is {kind(index)}; expected a whole number')
    for key, own in (("dataset", subset), ("level", level)):
        if record.get(key, own) != own:
            raise ValueError(f'"{key}" is {record[key]!r}; expected "{own}", as the file is named')
    # A refusal is scored as the empty answer, whatever words it came in.
    answer = "" if status == "refused" else prediction
    released, described = (metric[subset](answer, answers[0], keywords) for metric in PROTOCOLS.values())
    return ScoredRow(subset, level, index, released, described, record)


def kind(value: object) -> str:
    """What a wrong value is, for a message."""
    return "missing or null" if value is None else f"of type {type(value).__name__}"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a script that reads a run: the folder, which is named in one of two ways, and runs to compare."""
    parser.add_argument("--input-dir", type=Path, help="the run's folder: the last line that prediction.py printed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="as for prediction.py (outputs)")
    parser.add_argument("--model-name", help="as for prediction.py; names the folder together with --output-dir")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="other runs, compared question by question",
    )


def run_folder(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """The folder that the options of `add_run_options` name; ends the process where they do not name just one."""
    if (arguments.input_dir is None) == (arguments.model_name is None):
        parser.error("expected either --input-dir, or --model-name with --output-dir")
    return arguments.input_dir or store.run_folder(arguments.output_dir, arguments.model_name)


def means(scores: Scores, part: int) -> dict[str, float]:
    """Plain means of the files' scores, by subset (part 0) or by level (part 1), to two places."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for pair, score in scores.items():
        groups[pair[part]].append(score)
    return {name: round(fsum(group) / len(group), 2) for name, group in groups.items()}
