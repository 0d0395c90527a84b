"""What scores mean: intervals, comparisons, length curves, evidence, causes. Called by evaluation.py and report.py.

    rows = [analysis.ScoredRow(...), ...]          # one a scored answer, all files of a run
    intervals.of(rows).files["lic_mixup", "16k"]

Nothing here reads or writes a file.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import Literal, cast, get_args

from lveval import config, metrics
from lveval.common import jieba_dictionary
from lveval.common.levels import level_length

# Subsets whose rows all ask the same question: there the contexts are what is sampled, not the questions.
ONE_QUESTION = ("factrecall_en", "factrecall_zh")


@dataclass(frozen=True)
class ScoredRow:
    """One scored answer."""

    subset: str
    level: str  # like "16k"
    index: int  # position in the data file
    released: float  # 0 to 1, by the published scorer's protocol
    described: float  # 0 to 1, by the paper's description
    record: Mapping[str, object] = field(
        default_factory=dict, compare=False
    )  # the row as prediction.py recorded it

    def score(self, protocol: str) -> float:
        """0 to 1, by "released" or "described"."""
        return self.described if protocol == "described" else self.released

    @property
    def question(self) -> str:
        """What recurs at every level: the question, by its id where the data have one; in ONE_QUESTION the context."""
        if self.subset in ONE_QUESTION:
            return f"{self.record.get('input', '')} context {self.index}"
        return str(self.record.get("question_id") or self.record.get("input", self.index))


def table_order(subsets: Iterable[str]) -> list[str]:
    """Subsets in the order of every table: that of config.py."""
    order = list(config.DATASET_METRIC)
    return sorted(
        subsets, key=lambda subset: order.index(subset) if subset in order else len(order)
    )


Cause = Literal[
    "correct",
    "verbose",
    "evidence_cut",
    "refused",
    "empty",
    "loop",
    "wrong_language",
    "distracted",
    "length",
    "gated",
    "wrong",
]

CAUSES: tuple[Cause, ...] = get_args(Cause)  # in the order in which they are tried


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
        complete = self.level in PUBLISHED_LEVELS and self.rows == config.DATASET_ROWS.get(
            self.subset
        )
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
            if {
                (file.subset, file.as_published)
                for file in self.files
                if file.level == level and file.rows
            }
            == {(subset, True) for subset in PUBLISHED}
        ]

    def scores(self, protocol: str) -> Scores:
        """The score of every file that has rows."""
        return {
            (file.subset, file.level): metrics.file_score(
                [row.score(protocol) for row in file.scored]
            )
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
        return (
            bool(self.prompts.get("official")) and self.identity.get("chat_template") == "published"
        )

    def signature(self, protocol: str) -> str:
        """All that decides the numbers, in one line."""
        prompts = self.prompts
        recipe = {
            "protocol": protocol,
            "jieba": jieba_dictionary.JIEBA_VERSION,
            "rouge": metrics.ROUGE_VERSION,
            "prompts": f"{prompts['name']}-{str(prompts['sha256'])[:8]}"
            if prompts
            else "unrecorded",
            **{
                name: self.identity.get(name, "unrecorded")
                for name in ("chat_template", "backend", "model_max_len")
            },
            "rows": f"{sum(file.rows for file in self.files)}/{sum(file.selected for file in self.files)}",
        }
        return "|".join(f"{name}:{value}" for name, value in recipe.items())


def means(scores: Scores, part: int) -> dict[str, float]:
    """Plain means of the files' scores, by subset (part 0) or by level (part 1), to two places."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for pair, score in scores.items():
        groups[pair[part]].append(score)
    return {name: round(fsum(group) / len(group), 2) for name, group in groups.items()}
