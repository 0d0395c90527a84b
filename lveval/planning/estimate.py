"""TODO lveval.planning.estimate."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lveval.planning.token_counts import PromptTokens

# Student's t at 97.5 % with SAMPLE_ROWS - 1 degrees of freedom. Sums over files have more, so
# theirs is above 95 %.
T_QUANTILE = 2.776


# --- From counted rows to all rows ----------------------------------------------------------------


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
    """What is known of some rows: tokens unless said otherwise."""

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
    """The figures of one file from `counts` of some of its rows and `sizes` (bytes) of all; `budget` of one answer.

    A row that was not counted is taken to have as many tokens a byte as those that were (a ratio
    estimator, drawn without replacement). How far that is off for those that were gives the error.
    """
    ratio = sum(count.full for count in counts.values()) / max(
        1, sum(sizes[index] for index in counts)
    )
    guess = {index: ratio * size for index, size in sizes.items()}
    rest = [tokens for index, tokens in guess.items() if index not in counts]
    spread = (
        statistics.stdev(count.full - guess[index] for index, count in counts.items())
        if rest
        else 0.0
    )
    # Within this of the limit a row that was not counted may be cut or not.
    margin = T_QUANTILE * spread * math.sqrt(1 + 1 / len(counts))
    surely, likely, perhaps = (
        sum(tokens + side * margin > limit for tokens in rest) for side in (-1, 0, 1)
    )

    def extended(
        actual: Callable[[PromptTokens], float], guessed: Callable[[float], float], least: float
    ) -> Estimate:
        """The sum of `actual`, the others taken as `guessed` and as far off it, which varies by `least` or more."""
        off = [actual(count) - guessed(guess[index]) for index, count in counts.items()]
        total = sum(actual(count) for count in counts.values())
        if not rest:
            return Estimate(total)
        total += sum(map(guessed, rest)) + len(rest) * statistics.mean(off)
        scale = len(rest) * len(sizes) / len(counts)
        return Estimate(total, scale * max(least, statistics.stdev(off)) ** 2)

    def share(holds: Callable[[PromptTokens], bool]) -> Estimate:
        """The number of rows of which it holds, only cut ones among them. Five alike do not mean that all are."""
        number, n = sum(map(holds, counts.values())), len(counts)
        smoothed = (number + 2) / (n + 4)  # Agresti and Coull
        scale = len(rest) * len(sizes) / (n + 4) if perhaps else 0.0
        return Estimate(number + number / n * len(rest), scale * smoothed * (1 - smoothed))

    def within(tokens: float) -> float:
        return min(tokens, limit)

    def dropped(tokens: float) -> float:
        return tokens - 2 * int(limit / 2) if tokens > limit else 0.0

    # Cut prompts are as long as the limit, but for a token or so where the halves meet, which five
    # need not show.
    prompt = extended(lambda count: count.prompt, within, 1.0 if surely == len(rest) else spread)
    longest = [float(count.prompt) for count in counts.values()]
    if rest:
        beyond = statistics.mean(
            count.prompt - within(guess[index]) for index, count in counts.items()
        )
        longest.append(within(max(rest)) + beyond)
    return FileEstimate(
        rows=len(sizes),
        counted=len(counts),
        longest=max(longest),
        budget=budget * len(sizes),
        prompt=prompt,
        full=extended(lambda count: count.full, float, 0.0),
        cut=Estimate(
            sum(count.full > limit for count in counts.values()) + likely,
            (max(likely - surely, perhaps - likely) / T_QUANTILE) ** 2,
        ),
        dropped=extended(lambda count: dropped(count.full), dropped, spread if perhaps else 0.0),
        lost=share(lambda count: count.evidence_kept is False),
        unknown=share(lambda count: count.evidence_kept is None),
    )
