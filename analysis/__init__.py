"""What scores mean: intervals, comparisons, length curves, evidence, causes. Called by evaluation.py and report.py.

    rows = [analysis.ScoredRow(...), ...]          # one a scored answer, all files of a run
    intervals.of(rows).files["lic_mixup", "16k"]

Nothing here reads or writes a file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import config

# Subsets whose rows all ask the same question: there the contexts are what is sampled, not the questions.
ONE_QUESTION = ("factrecall_en", "factrecall_zh")
Pair = tuple[str, str]  # (subset, level): a file


@dataclass(frozen=True)
class ScoredRow:
    """One scored answer."""

    subset: str
    level: str  # like "16k"
    index: int  # position in the data file
    released: float  # 0 to 1, by the published scorer's protocol
    described: float  # 0 to 1, by the paper's description
    record: Mapping[str, object] = field(default_factory=dict, compare=False)  # the row as prediction.py recorded it

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
    return sorted(subsets, key=lambda subset: order.index(subset) if subset in order else len(order))


def level_length(level: str) -> int:
    """16 for "16k"."""
    return int(level.removesuffix("k"))
