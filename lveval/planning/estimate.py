"""The tokens of a whole file, estimated from a few counted rows, with an interval.

estimate_file({3: PromptTokens(31500, 40000, True), ...}, sizes, limit=31500,
budget=64).prompt.error
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from lveval.planning.token_counts import PromptTokens

# Student's t at 97.5 % with SAMPLE_ROWS - 1 degrees of freedom. Sums over files have more, so
# theirs is above 95 %.
T_QUANTILE = 2.776

Actual = Callable[[PromptTokens], float]  # a figure of a counted row
Predict = Callable[[float], float]  # the same figure from a row's predicted tokens


@dataclass(frozen=True)
class Estimate:
    """A sum over rows and the variance of its error, 0 where every row was counted."""

    value: float = 0.0
    variance: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value + other.value, self.variance + other.variance)

    @property
    def error(self) -> float:
        """Half the width of the interval around `value`."""
        return T_QUANTILE * math.sqrt(self.variance)


@dataclass(frozen=True)
class FileEstimate:
    """Figures of the rows of a file, or of several files; in tokens unless said otherwise."""

    rows: int
    counted: int  # rows
    longest: float
    budget: int
    prompt: Estimate
    full: Estimate
    cut: Estimate  # rows
    dropped: Estimate
    lost: Estimate  # rows whose evidence is cut
    unknown: Estimate  # rows that do not tell

    def __add__(self, other: "FileEstimate") -> "FileEstimate":
        sums = {
            name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__
        }
        return FileEstimate(**sums | {"longest": max(self.longest, other.longest)})


def estimate_file(
    counts: Mapping[int, PromptTokens], sizes: Mapping[int, int], limit: int, budget: int
) -> FileEstimate:
    """Estimate one file from `counts` of some of its rows and `sizes` (bytes) of all.

    `limit`: tokens that a prompt is cut to; `budget`: tokens of one answer.
    """
    rows = RatioEstimator(counts, sizes, limit)
    surely, likely, perhaps = map(rows.number_cut, (-1, 0, 1))
    # Cut prompts are as long as the limit but for a token or so where the halves meet, which five
    # rows need not show.
    prompt_spread = 1.0 if surely == len(rows.rest) else rows.spread
    return FileEstimate(
        rows=len(sizes),
        counted=len(counts),
        longest=rows.longest(),
        budget=budget * len(sizes),
        prompt=rows.total(lambda count: count.prompt, rows.within_limit, prompt_spread),
        full=rows.total(lambda count: count.full, float, 0.0),
        cut=Estimate(
            sum(count.full > limit for count in counts.values()) + likely,
            (max(likely - surely, perhaps - likely) / T_QUANTILE) ** 2,
        ),
        dropped=rows.total(
            lambda count: rows.beyond_limit(count.full),
            rows.beyond_limit,
            rows.spread if perhaps else 0.0,
        ),
        lost=rows.share_of_cut(lambda count: count.evidence_kept is False),
        unknown=rows.share_of_cut(lambda count: count.evidence_kept is None),
    )


@dataclass(frozen=True)
class RatioEstimator:
    """Sums over all rows of a file from those that were counted, drawn without replacement.

    A row that was not counted is taken to have as many tokens a byte as those that were. How far
    that is off for those that were gives the error.
    """

    counts: Mapping[int, PromptTokens]
    sizes: Mapping[int, int]  # bytes of every row
    limit: int

    @cached_property
    def predicted(self) -> dict[int, float]:
        """Tokens of each row before the cut, by its bytes."""
        counted_bytes = sum(self.sizes[index] for index in self.counts)
        ratio = sum(count.full for count in self.counts.values()) / max(1, counted_bytes)
        return {index: ratio * size for index, size in self.sizes.items()}

    @cached_property
    def rest(self) -> list[float]:
        """Predicted tokens of the rows that were not counted."""
        return [tokens for index, tokens in self.predicted.items() if index not in self.counts]

    @cached_property
    def spread(self) -> float:
        """Standard deviation of a row's tokens around the predicted ones."""
        return statistics.stdev(self._errors(lambda count: count.full, float)) if self.rest else 0.0

    def number_cut(self, side: int) -> int:
        """Count uncounted rows that are cut: surely (`side` -1), likely (0) or perhaps (1)."""
        margin = T_QUANTILE * self.spread * math.sqrt(1 + 1 / len(self.counts))
        return sum(tokens + side * margin > self.limit for tokens in self.rest)

    def total(self, actual: Actual, predict: Predict, least_spread: float) -> Estimate:
        """Sum `actual` over the counted rows and `predict` of the tokens over the others.

        The others are taken to be as far off as the counted ones, by `least_spread` or more.
        """
        total = sum(map(actual, self.counts.values()))
        if not self.rest:
            return Estimate(total)
        errors = self._errors(actual, predict)
        total += sum(map(predict, self.rest)) + len(self.rest) * statistics.mean(errors)
        scale = len(self.rest) * len(self.sizes) / len(self.counts)
        return Estimate(total, scale * max(least_spread, statistics.stdev(errors)) ** 2)

    def share_of_cut(self, holds: Callable[[PromptTokens], bool]) -> Estimate:
        """Estimate the rows of which it `holds`, which can only be cut ones."""
        number, n = sum(map(holds, self.counts.values())), len(self.counts)
        # Five rows alike do not mean that all are: the smoothed share of Agresti and Coull.
        smoothed = (number + 2) / (n + 4)
        scale = len(self.rest) * len(self.sizes) / (n + 4) if self.number_cut(1) else 0.0
        return Estimate(number + number / n * len(self.rest), scale * smoothed * (1 - smoothed))

    def longest(self) -> float:
        """Estimate the tokens of the longest prompt."""
        longest = float(max(count.prompt for count in self.counts.values()))
        if not self.rest:
            return longest
        errors = self._errors(lambda count: count.prompt, self.within_limit)
        return max(longest, self.within_limit(max(self.rest)) + statistics.mean(errors))

    def within_limit(self, tokens: float) -> float:
        """Tokens that are left of a prompt."""
        return min(tokens, self.limit)

    def beyond_limit(self, tokens: float) -> float:
        """Tokens that are dropped; both halves that are kept have int(limit / 2)."""
        return tokens - 2 * int(self.limit / 2) if tokens > self.limit else 0.0

    def _errors(self, actual: Actual, predict: Predict) -> list[float]:
        return [
            actual(count) - predict(self.predicted[index]) for index, count in self.counts.items()
        ]
