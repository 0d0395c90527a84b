"""How sure a score is: 95 % intervals of every file, level mean and subset mean, by a bootstrap over questions.

    found = intervals.of(rows, "released")         # rows: analysis.ScoredRow of one run
    found.files["lic_mixup", "16k"].low, found.levels["16k"].high, found.overall.label

A question recurs at every level, so rows are not independent: what is resampled is the question, with all its rows at
all levels, each subset on its own. In the subsets that ask one question only (analysis.ONE_QUESTION) it is the context,
and the label says so.

The interval of a score is BCa, bias-corrected and accelerated (Efron & Tibshirani 1993, An Introduction to the
Bootstrap, ch. 14; for several samples Davison & Hinkley 1997, Bootstrap Methods and their Application, section 5.3.2),
because scores have many zeros and a long tail, where the plain percentile interval misses too often on one side. Its
tail probabilities are widened for the small sample: a factor sqrt(n/(n-1)), and Student's quantile in place of the
normal one (Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American Statistician 69(4)).
Differences within a question (comparison.py, lengths.py) have two tails, and what BCa takes for skewness there is
chance: theirs is the value and Student's quantile times the bootstrap's standard error, corrected by the same factor.
Imports numpy at once: import this module where it is used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lveval.analysis.clusters import (
    DRAWS,
    SEED,
    BootstrapDraws,
    Breakdown,
    Floats,
    cluster_tables,
    each_part,
    resample,
)
from lveval.results import ScoredRow

CONFIDENCE = 0.95

FEW = 20  # questions, below which intervals turn out too narrow

_ALIKE = 1e-9  # points; below this a difference is rounding of the sums

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A value in points (a score: 0 to 100) and its 95 % interval; no interval (None) where `note` says why."""

    value: float
    low: float | None
    high: float | None
    clusters: int  # how many questions or contexts it stands on
    over: str  # what was resampled: "questions", "contexts" or "questions and contexts"
    note: str = ""

    @property
    def label(self) -> str:
        """Such as "over 200 contexts"."""
        return f"over {self.clusters} {self.over if self.clusters != 1 else self.over.removesuffix('s')}"

    def between(self, sign: str = "") -> str:
        """The bounds in words, such as "10.2 to 14.0", with `sign` "+" as "-1.0 to +2.5"; blank without interval."""
        return (
            ""
            if self.low is None or self.high is None
            else f"{self.low:{sign}.1f} to {self.high:{sign}.1f}"
        )

    def as_data(self) -> dict[str, object]:
        """As JSON holds it, rounded to two places."""
        bounds = {
            "value": round(self.value, 2),
            "low": rounded(self.low),
            "high": rounded(self.high),
        }
        return {**bounds, "label": self.label, "note": self.note}


def notes(parts: Mapping[str, Interval]) -> list[str]:
    """What is to be known of some parts' intervals, by name: each note once, with the parts that it is about."""
    about: dict[str, list[str]] = {}
    for name, part in parts.items():
        note, _, subsets = part.note.partition(" in ")
        if note and (
            not subsets or name in subsets.split(", ")
        ):  # of a mean, the subsets that it is due to tell it
            about.setdefault(note, []).append(name)
    return [f"{note}: {', '.join(names)}" for note, names in about.items()]


def rounded(value: float | None) -> float | None:
    """To two places, None as it is."""
    return None if value is None else round(value, 2)


def score_intervals(
    rows: Sequence[ScoredRow], protocol: str = "released", *, draws: int = DRAWS, seed: int = SEED
) -> Breakdown[Interval]:
    """The 95 % intervals of one run's scores, in points; the order of `rows` does not matter.

    `protocol`: "released" or "described". Values are not rounded, so a mean may differ by 0.01 from the tables, which
    take means of rounded scores. HarnessError where there is no row, a row twice, or a score outside 0 to 1.
    """
    by_subset = {
        sample.subset: resample(sample, draws=draws, seed=seed)
        for sample in cluster_tables(rows, protocol)
    }
    return each_part(
        [resampled.sample for resampled in by_subset.values()],
        lambda weights: interval(
            [(by_subset[subset], weight) for subset, weight in weights.items()]
        ),
    )


def interval(
    parts: Sequence[tuple[BootstrapDraws, Floats]], *, paired: bool = False, bound: float = 100
) -> Interval:
    """The interval of a weighted sum of columns, over subsets that vary independently.

    `parts`: the subsets, each with the weights of its columns; no interval where a column has a single question.
    `paired`: the columns are differences within questions, so the interval is Student's and not BCa; it ends at -bound
    and bound.
    """
    value = sum(float(part.values @ weights) for part, weights in parts)
    asked = [part.sample.counts[:, weights != 0] > 0 for part, weights in parts]
    kinds = sorted({part.sample.over for part, _ in parts}, reverse=True)
    clusters, over = sum(int(there.any(axis=1).sum()) for there in asked), " and ".join(kinds)
    used = [
        int(there.sum(axis=0).min()) for there in asked
    ]  # where a column has fewer, it is the least sure
    alone = [
        part.sample.subset for (part, _), number in zip(parts, used, strict=True) if number < 2
    ]
    if alone:
        return Interval(
            value,
            None,
            None,
            clusters,
            over,
            f"no interval: only one question in {', '.join(alone)}",
        )
    influences = [part.influence @ weights for part, weights in parts]
    variances = [float(influence @ influence) for influence in influences]
    if math.sqrt(sum(variances)) < _ALIKE:
        return Interval(
            value, None, None, clusters, over, f"no interval: all {over} came out the same"
        )
    draws = combine(parts)
    quantile = small_sample_quantile(variances, used)
    if paired:
        half = quantile * float(draws.std())
        low, high = max(value - half, -bound), min(value + half, bound)
    else:
        low, high = bca_bounds(value, draws, influences, quantile)
    few = [
        part.sample.subset for (part, _), number in zip(parts, used, strict=True) if number < FEW
    ]
    note = f"perhaps too narrow: fewer than {FEW} {over} in {', '.join(few)}" if few else ""
    return Interval(value, min(low, value), max(high, value), clusters, over, note)


def combine(parts: Sequence[tuple[BootstrapDraws, Floats]]) -> Floats:
    """The draws of a weighted sum of columns, without those in which a column that counts had no question."""
    draws = np.sum(
        [part.draws[:, weights != 0] @ weights[weights != 0] for part, weights in parts], axis=0
    )
    kept: Floats = draws[np.isfinite(draws)]
    return kept


def small_sample_quantile(variances: Sequence[float], numbers: Sequence[int]) -> float:
    """The normal quantile that makes a percentile interval of these samples as wide as Student's.

    `variances`: the bootstrap variance of each sample's share; `numbers`: its questions. Degrees of freedom after
    Welch and Satterthwaite.
    """
    unbiased = [
        variance * number / (number - 1)
        for variance, number in zip(variances, numbers, strict=True)
    ]
    freedom = sum(unbiased) ** 2 / sum(
        variance**2 / (number - 1) for variance, number in zip(unbiased, numbers, strict=True)
    )
    return student_quantile(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(
        sum(unbiased) / sum(variances)
    )


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile for a probability above 0.5 and 1 or more degrees of freedom, to 0.01.

    Few degrees: the density integrated over the angle whose tangent t is; more: Abramowitz & Stegun 26.7.5.
    """
    if freedom < 10:
        angles = np.linspace(0, math.pi / 2, 100_001)
        area = np.cos(angles) ** (freedom - 1)
        below = np.concatenate([[0], np.cumsum(area[1:] + area[:-1])])
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


def bca_bounds(
    value: float, draws: Floats, influences: Sequence[Floats], quantile: float
) -> tuple[float, float]:
    """The BCa bounds of `value` (Efron & Tibshirani 1993, equations 14.9 to 14.15; Davison & Hinkley 1997, 5.26)."""
    cubes = sum(float(np.sum(influence**3)) for influence in influences)
    squares = sum(float(influence @ influence) for influence in influences)
    acceleration = cubes / 6 / squares**1.5
    # A draw equal to the value counts half on each side; scores are coarse and such ties common.
    below = (np.sum(draws < value - _ALIKE) + np.sum(draws <= value + _ALIKE)) / 2 / len(draws)
    bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / len(draws), 1 - 1 / len(draws))))
    tails = []
    for z in (bias - quantile, bias + quantile):
        # The transformation turns around where the denominator passes zero; beyond lies only the end of the draws.
        room = 1 - acceleration * z
        tails.append(_NORMAL.cdf(bias + z / room) if room > 0 else float(z > 0))
    low, high = np.quantile(draws, tails)
    return float(low), float(high)
