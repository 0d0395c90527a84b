"""What truncation did: whether prompts still held the evidence, and the scores with and without it.

    evidence.by_level(rows)["64k"].kept_percent

Tells "the model failed" from "the answer was not in the prompt". Each row's record says it
(`evidence_kept`): prediction.py looks for the recorded evidence, the answer keywords or the answer
in the prompt before it is sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import median

from lveval.common.levels import FileKey, level_length
from lveval.results import ScoredRow, grouped, rows_by_level


@dataclass(frozen=True)
class Evidence:
    """The truncation of some rows' prompts. Scores are mean released scores, 0 to 100."""

    kept: int = 0  # rows
    cut: int = 0
    unknown: int = 0  # rows without the fact
    score_kept: float | None = None  # of the rows whose evidence was kept; None: no row
    score_cut: float | None = None
    median_prompt_tokens: float | None = None
    median_prompt_tokens_full: float | None = None  # before the cut, without the chat format

    @property
    def known(self) -> int:
        """Rows of which it is known."""
        return self.kept + self.cut

    @property
    def median_before_cut(self) -> float | None:
        """The median of the tokens before the cut, with what the chat format alone adds.

        A prompt that was not cut is longer than before by its chat format, which is no gain.
        """
        known = [self.median_prompt_tokens, self.median_prompt_tokens_full]
        return max((tokens for tokens in known if tokens is not None), default=None)

    @property
    def kept_percent(self) -> float | None:
        """Of the known rows; None if there is none."""
        return 100 * self.kept / self.known if self.known else None


def summarize(rows: Sequence[ScoredRow]) -> Evidence:
    """Count the evidence of these rows together."""
    scores = grouped((row.evidence_kept, 100 * row.released) for row in rows)
    kept, cut = scores.get(True, []), scores.get(False, [])
    return Evidence(
        kept=len(kept),
        cut=len(cut),
        unknown=len(rows) - len(kept) - len(cut),
        score_kept=fsum(kept) / len(kept) if kept else None,
        score_cut=fsum(cut) / len(cut) if cut else None,
        median_prompt_tokens=_median(rows, "prompt_tokens"),
        median_prompt_tokens_full=_median(rows, "prompt_tokens_full"),
    )


def _median(rows: Sequence[ScoredRow], name: str) -> float | None:
    counts = [count for row in rows if (count := row.count(name)) is not None]
    return median(counts) if counts else None


def by_file(rows: Iterable[ScoredRow]) -> dict[FileKey, Evidence]:
    """Summarize each file, in the order of the rows."""
    groups = grouped((row.file, row) for row in rows)
    return {file: summarize(group) for file, group in groups.items()}


def by_level(rows: Iterable[ScoredRow]) -> dict[str, Evidence]:
    """Summarize each level, by length."""
    return {level: summarize(group) for level, group in rows_by_level(rows).items()}


def ceilings(parts: Mapping[FileKey, Evidence]) -> dict[str, float]:
    """The score at each level of a reader who fails only where the evidence was cut, by length.

    0 to 100: the mean over the files of the share of rows whose evidence was kept. Levels with a
    file whose rows do not tell are left out: the mean would be over other files than the score's.
    """
    shares = grouped((level, part.kept_percent) for (_, level), part in parts.items())
    return {
        level: fsum(known) / len(known)
        for level in sorted(shares, key=level_length)
        if len(known := [share for share in shares[level] if share is not None])
        == len(shares[level])
    }
