"""How sure a score is: 95 % intervals of files, level means and subset means, by a bootstrap.

    found = intervals.score_intervals(rows, "released")         # rows: results.ScoredRow of a run
    found.files["lic_mixup", "16k"].low, found.levels["16k"].high, found.overall.label

A question recurs at every level, so rows are not independent: what is resampled is the question,
with all its rows at all levels, each subset on its own. In the subsets that ask one question only
(results.ONE_QUESTION) it is the context, and the label says so.

The interval of a score is BCa, bias-corrected and accelerated (Efron & Tibshirani 1993, An
Introduction to the Bootstrap, ch. 14; for several samples Davison & Hinkley 1997, Bootstrap Methods
and their Application, section 5.3.2), because scores have many zeros and a long tail, where the
plain percentile interval misses too often on one side. Its tail probabilities are widened for the
small sample: a factor sqrt(n/(n-1)), and Student's quantile in place of the normal one (Hesterberg
2015, What Teachers Should Know About the Bootstrap, The American Statistician 69(4)). Differences
within a question (comparison.py, length_effect.py) have two tails, and what BCa takes for skewness
there is chance: theirs is the value and Student's quantile times the bootstrap's standard error,
corrected by the same factor. Imports numpy at once: import this module where it is used.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np

from lveval.analysis.clusters import (
    DRAWS,
    ROUNDING,
    SEED,
    BootstrapDraws,
    Breakdown,
    ClusterTable,
    Floats,
    Weights,
    cluster_tables,
    measure_parts,
    resample_together,
)
from lveval.results import ScoredRow, grouped

CONFIDENCE = 0.95

FEW = 20  # questions, below which intervals turn out too narrow

_NORMAL = NormalDist()

# Subsets that vary independently, each with the weights of its columns in a sum.
WeightedDraws = Sequence[tuple[BootstrapDraws, Floats]]


@dataclass(frozen=True)
class Interval:
    """A value in points (a score: 0 to 100) and its 95 % interval; None where `note` says why."""

    value: float
    low: float | None
    high: float | None
    clusters: int  # how many questions or contexts it is computed from
    over: str  # what was resampled: "questions", "contexts" or "questions and contexts"
    note: str = ""

    @property
    def label(self) -> str:
        """Such as "over 200 contexts"."""
        over = self.over.removesuffix("s") if self.clusters == 1 else self.over
        return f"over {self.clusters} {over}"

    def between(self, sign: str = "") -> str:
        """Such as "10.2 to 14.0", with `sign` "+" "-1.0 to +2.5"; blank without interval."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:{sign}.1f} to {self.high:{sign}.1f}"

    def negated(self) -> "Interval":
        """The same of the negative value."""
        low = None if self.high is None else 0.0 - self.high
        high = None if self.low is None else 0.0 - self.low
        return replace(self, value=0.0 - self.value, low=low, high=high)

    def as_data(self) -> dict[str, object]:
        """As JSON holds it, rounded to two places."""
        low, high = (bound if bound is None else round(bound, 2) for bound in (self.low, self.high))
        value = round(self.value, 2)
        return {"value": value, "low": low, "high": high, "label": self.label, "note": self.note}


def notes(parts: Mapping[str, Interval]) -> list[str]:
    """Collect the notes of named intervals, each once with the names of its parts."""
    about = []
    for name, part in parts.items():
        note, _, subsets = part.note.partition(" in ")
        # A mean's note names the subsets that it is due to: it is repeated for those only.
        if note and (not subsets or name in subsets.split(", ")):
            about.append((note, name))
    return [f"{note}: {', '.join(names)}" for note, names in grouped(about).items()]


def score_intervals(
    rows: Sequence[ScoredRow], protocol: str = "released", *, draws: int = DRAWS, seed: int = SEED
) -> Breakdown[Interval]:
    """Compute the 95 % intervals of a run's scores, in points; the order of `rows` is of no matter.

    Values are not rounded, so a mean may differ by 0.01 from the tables, which take means of
    rounded scores. Raises UsageError as cluster_tables does.
    """
    tables = {protocol: cluster_tables(rows, protocol)}
    return draw_together(tables, draws=draws, seed=seed).breakdown(protocol)


@dataclass(frozen=True)
class DrawnTables:
    """Several values of the same rows with the draws that serve every part of them."""

    tables: Mapping[str, Sequence[ClusterTable]]  # by the value's name
    draws: Mapping[tuple[str, str], BootstrapDraws]  # (name, subset)
    paired: Collection[str]  # names of the values that are differences within questions

    def parts(self, name: str, weights: Weights) -> WeightedDraws:
        """The draws that a weighted sum is made of."""
        return [(self.draws[name, subset], weight) for subset, weight in weights.items()]

    def interval(self, name: str, weights: Weights) -> Interval:
        """Compute the interval of a weighted sum of columns."""
        return interval(self.parts(name, weights), paired=name in self.paired)

    def breakdown(self, name: str) -> Breakdown[Interval]:
        """Compute the intervals of the files, levels and subsets, and of their mean."""
        return measure_parts(self.tables[name], partial(self.interval, name))


def draw_together(
    tables: Mapping[str, Sequence[ClusterTable]],
    paired: Collection[str] = (),
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> DrawnTables:
    """Resample named tables of the same rows, those of a subset in one go.

    `paired`: the names of those that hold differences within questions.
    """
    drawn: dict[tuple[str, str], BootstrapDraws] = {}
    named = ((table.subset, (name, table)) for name, each in tables.items() for table in each)
    for subset, of_subset in grouped(named).items():
        together = resample_together([table for _, table in of_subset], draws=draws, seed=seed)
        drawn |= {(name, subset): one for (name, _), one in zip(of_subset, together, strict=True)}
    return DrawnTables(tables, drawn, paired)


def interval(parts: WeightedDraws, *, paired: bool = False, bound: float = 100) -> Interval:
    """Compute the interval of a weighted sum of columns; none where a column has one question only.

    `paired`: the columns are differences within questions, so the interval is Student's and not
    BCa; it is clipped to -bound and bound.
    """
    value = sum(float(part.values @ weights) for part, weights in parts)
    present = [part.table.counts[:, weights != 0] > 0 for part, weights in parts]
    clusters = sum(int(rows.any(axis=1).sum()) for rows in present)
    over = " and ".join(sorted({part.table.over for part, _ in parts}, reverse=True))
    numbers = _questions(parts)
    unknown = Interval(value, None, None, clusters, over)
    if alone := [subset for subset, number in numbers.items() if number < 2]:
        return replace(unknown, note=f"no interval: only one question in {', '.join(alone)}")
    influences = [part.influence @ weights for part, weights in parts]
    variances = [float(influence @ influence) for influence in influences]
    if math.sqrt(sum(variances)) < ROUNDING:
        return replace(unknown, note=f"no interval: all {over} came out the same")
    draws = combine(parts)
    quantile = small_sample_quantile(variances, list(numbers.values()))
    if paired:
        half = quantile * float(draws.std())
        low, high = max(value - half, -bound), min(value + half, bound)
    else:
        low, high = bca_bounds(value, draws, influences, quantile)
    few = [subset for subset, number in numbers.items() if number < FEW]
    note = f"perhaps too narrow: fewer than {FEW} {over} in {', '.join(few)}" if few else ""
    return Interval(value, min(low, value), max(high, value), clusters, over, note)


def student_p_value(parts: WeightedDraws) -> float | None:
    """Test whether a weighted sum of columns is 0, by the statistic of its paired interval.

    Two-sided, after Student with Welch's degrees of freedom: below 0.05 where `interval` with
    `paired` leaves 0 out. None where that interval has no bounds.
    """
    found = interval(parts, paired=True, bound=math.inf)
    if found.low is None:
        return None
    influences = [part.influence @ weights for part, weights in parts]
    variances = [float(influence @ influence) for influence in influences]
    freedom, widened = small_sample(variances, list(_questions(parts).values()))
    return student_tails(abs(found.value) / float(combine(parts).std()) / widened, freedom)


def _questions(parts: WeightedDraws) -> dict[str, int]:
    """How many questions each subset has: as many as its column with the fewest."""
    return {
        part.table.subset: int((part.table.counts[:, weights != 0] > 0).sum(axis=0).min())
        for part, weights in parts
    }


def combine(parts: WeightedDraws) -> Floats:
    """Sum the draws, without those in which a column that counts had no question."""
    draws = np.zeros(len(parts[0][0].draws))
    for part, weights in parts:
        used = np.flatnonzero(weights)
        if len(used) == 1:  # of a file or a level: most sums are such
            draws += part.draws[:, used[0]] * weights[used[0]]
        else:
            draws += part.draws[:, used] @ weights[used]
    known = np.isfinite(draws)
    finite: Floats = draws if known.all() else draws[known]
    return finite


def small_sample_quantile(variances: Sequence[float], numbers: Sequence[int]) -> float:
    """Find the normal quantile that makes a percentile interval as wide as Student's.

    `variances`: the bootstrap variance of each sample's share; `numbers`: its questions.
    """
    freedom, widened = small_sample(variances, numbers)
    return student_quantile(0.5 + CONFIDENCE / 2, freedom) * widened


def small_sample(variances: Sequence[float], numbers: Sequence[int]) -> tuple[float, float]:
    """Find the degrees of freedom after Welch and Satterthwaite.

    Besides, by what the bootstrap's standard error is too small.
    """
    samples = list(zip(variances, numbers, strict=True))
    unbiased = [variance * number / (number - 1) for variance, number in samples]
    freedom = sum(unbiased) ** 2 / sum(
        variance**2 / (number - 1) for variance, number in zip(unbiased, numbers, strict=True)
    )
    return freedom, math.sqrt(sum(unbiased) / sum(variances))


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile for a probability above 0.5 and 1 or more degrees of freedom, to 0.01.

    Few degrees: the density integrated over the angle whose tangent is t / sqrt(freedom); more:
    Abramowitz & Stegun 26.7.5.
    """
    if freedom < 10:
        angles, below = _student_angles(freedom)
        return math.sqrt(freedom) * math.tan(
            np.interp((2 * probability - 1) * below[-1], below, angles)
        )
    z = _NORMAL.inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def student_tails(t: float, freedom: float) -> float:
    """The probability that Student's t is at least as far from 0 as `t`; at least 1e-6.

    Smaller ones would be less exact than they look.
    """
    angles, below = _student_angles(freedom)
    within = np.interp(math.atan(t / math.sqrt(freedom)), angles, below) / below[-1]
    return max(float(1 - within), 1e-6)


def _student_angles(freedom: float) -> tuple[Floats, Floats]:
    """Angles from 0 to a right one, and the density of Student's t summed up to each."""
    angles = np.linspace(0, math.pi / 2, 100_001)
    area = np.cos(angles) ** (freedom - 1)
    return angles, np.concatenate([[0], np.cumsum(area[1:] + area[:-1])])


def bca_bounds(
    value: float, draws: Floats, influences: Sequence[Floats], quantile: float
) -> tuple[float, float]:
    """BCa bounds (Efron & Tibshirani 1993, eq. 14.9 to 14.15; Davison & Hinkley 1997, 5.26)."""
    cubes = sum(float(np.sum(influence**3)) for influence in influences)
    squares = sum(float(influence @ influence) for influence in influences)
    acceleration = cubes / 6 / squares**1.5
    # A draw equal to the value counts half on each side; scores are coarse and such ties common.
    below = (np.sum(draws < value - ROUNDING) + np.sum(draws <= value + ROUNDING)) / 2 / len(draws)
    bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / len(draws), 1 - 1 / len(draws))))
    tails = []
    for z in (bias - quantile, bias + quantile):
        # Where the denominator passes zero the transformation turns around: use the last draw.
        room = 1 - acceleration * z
        tails.append(_NORMAL.cdf(bias + z / room) if room > 0 else float(z > 0))
    low, high = np.quantile(draws, tails)
    return float(low), float(high)
