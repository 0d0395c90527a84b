"""What truncation did: whether the prompts still had the evidence, and the scores where they had and had not.

    evidence.by_level(rows)["64k"].kept_percent

Tells "the model failed" from "the answer was not in the prompt". Each row says it itself (`evidence_kept`):
prediction.py looks for the recorded evidence, the answer keywords or the answer in the prompt before it is asked.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import median

from lveval.common.levels import FileKey, level_length
from lveval.results import ScoredRow

HEAD = (
    "",
    "evidence kept (%)",
    "rows that tell",
    "score, kept",
    "score, cut",
    "median tokens",
    "before the cut",
)


@dataclass(frozen=True)
class Evidence:
    """The truncation of some rows' prompts."""

    kept: int = 0  # rows
    cut: int = 0
    unknown: int = 0  # rows that do not tell
    kept_score: float | None = (
        None  # mean released score of the rows whose evidence was kept, 0 to 100; None: no row
    )
    cut_score: float | None = None
    tokens: float | None = None  # median length of the prompts
    tokens_full: float | None = None  # the same before the cut

    @property
    def told(self) -> int:
        """Rows that tell."""
        return self.kept + self.cut

    @property
    def kept_percent(self) -> float | None:
        """Of the rows that tell; None if none does."""
        return 100 * self.kept / self.told if self.told else None


def summarize(rows: Sequence[ScoredRow]) -> Evidence:
    """The evidence of these rows together."""
    scores: dict[bool | None, list[float]] = {True: [], False: [], None: []}
    for row in rows:
        state = row.record.get("evidence_kept")
        scores[state if isinstance(state, bool) else None].append(100 * row.released)
    return Evidence(
        kept=len(scores[True]),
        cut=len(scores[False]),
        unknown=len(scores[None]),
        kept_score=_mean(scores[True]),
        cut_score=_mean(scores[False]),
        tokens=_median(rows, "prompt_tokens"),
        tokens_full=_median(rows, "prompt_tokens_full"),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None


def _median(rows: Sequence[ScoredRow], name: str) -> float | None:
    values = [
        value for row in rows if type(value := row.record.get(name)) is int and 0 <= value < 2**53
    ]
    return median(values) if values else None


def by_file(rows: Iterable[ScoredRow]) -> dict[FileKey, Evidence]:
    """(subset, level) -> its evidence, in the order of the rows."""
    groups: defaultdict[FileKey, list[ScoredRow]] = defaultdict(list)
    for row in rows:
        groups[row.subset, row.level].append(row)
    return {pair: summarize(group) for pair, group in groups.items()}


def by_level(rows: Iterable[ScoredRow]) -> dict[str, Evidence]:
    """level -> the evidence of all its rows, by length."""
    groups: defaultdict[str, list[ScoredRow]] = defaultdict(list)
    for row in rows:
        groups[row.level].append(row)
    return {level: summarize(groups[level]) for level in sorted(groups, key=level_length)}


def table(parts: Mapping[str, Evidence]) -> list[list[str]]:
    """Cells of text under HEAD, a line a part."""

    def number(value: float | None, form: str = ".2f") -> str:
        return "" if value is None else format(value, form)

    return [
        [
            name,
            number(part.kept_percent, ".1f"),
            f"{part.told}/{part.told + part.unknown}",
            number(part.kept_score),
            number(part.cut_score),
            number(part.tokens, ",.0f"),
            number(part.tokens_full, ",.0f"),
        ]
        for name, part in parts.items()
    ]
