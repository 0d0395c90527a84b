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
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from analysis import ONE_QUESTION, ScoredRow, level_length
from errors import HarnessError, choices

DRAWS = 10_000
SEED = 20240206  # any number: fixed, so that the same rows always give the same interval
CONFIDENCE = 0.95
FEW = 20  # questions, below which intervals turn out too narrow
PROTOCOLS = ("released", "described")

_CELLS = 4_000_000  # numbers of 8 bytes held at a time: 32 MB in each of about three arrays
_ALIKE = 1e-9  # points; below this a difference is rounding of the sums
_NORMAL = NormalDist()

Floats = NDArray[np.float64]
T = TypeVar("T")


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
        return "" if self.low is None or self.high is None else f"{self.low:{sign}.1f} to {self.high:{sign}.1f}"

    def as_data(self) -> dict[str, object]:
        """As JSON holds it, rounded to two places."""
        bounds = {"value": round(self.value, 2), "low": rounded(self.low), "high": rounded(self.high)}
        return {**bounds, "label": self.label, "note": self.note}


@dataclass(frozen=True)
class Parts(Generic[T]):
    """One T for each file, for each level (plain mean of its files), for each subset (likewise), and overall.

    Overall is the plain mean of the level means. Subsets are in alphabetical order, levels by length.
    """

    files: Mapping[tuple[str, str], T]
    levels: Mapping[str, T]
    subsets: Mapping[str, T]
    overall: T


@dataclass(frozen=True)
class Sample:
    """What one subset is resampled from: a line for each question, a column for each level or other measure."""

    subset: str
    columns: tuple[str, ...]
    questions: tuple[str, ...]  # sorted
    totals: Floats  # [questions, columns] sum of the question's values, 1 = 100 points; 0 where there is none
    counts: Floats  # [questions, columns] number of values

    @property
    def means(self) -> Floats:
        """[questions, columns] the mean of each question's values; not a number where there is none."""
        with np.errstate(invalid="ignore"):
            found: Floats = self.totals / self.counts
        return found

    @property
    def over(self) -> str:
        """What the lines are."""
        return "contexts" if self.subset in ONE_QUESTION else "questions"


@dataclass(frozen=True)
class Resampled:
    """The means of a Sample's columns, in points, and how they vary when its questions are drawn anew."""

    sample: Sample
    values: Floats  # [columns]
    draws: Floats  # [draws, columns]; not a number where none of a column's questions was drawn
    influence: Floats  # [questions, columns] first-order change of the value for one more of the question


def notes(parts: Mapping[str, Interval]) -> list[str]:
    """What is to be known of some parts' intervals, by name: each note once, with the parts that it is about."""
    about: dict[str, list[str]] = {}
    for name, part in parts.items():
        note, _, subsets = part.note.partition(" in ")
        if note and (not subsets or name in subsets.split(", ")):  # of a mean, the subsets that it is due to tell it
            about.setdefault(note, []).append(name)
    return [f"{note}: {', '.join(names)}" for note, names in about.items()]


def rounded(value: float | None) -> float | None:
    """To two places, None as it is."""
    return None if value is None else round(value, 2)


def of(
    rows: Sequence[ScoredRow], protocol: str = "released", *, draws: int = DRAWS, seed: int = SEED
) -> Parts[Interval]:
    """The 95 % intervals of one run's scores, in points; the order of `rows` does not matter.

    `protocol`: "released" or "described". Values are not rounded, so a mean may differ by 0.01 from the tables, which
    take means of rounded scores. HarnessError where there is no row, a row twice, or a score outside 0 to 1.
    """
    by_subset = {sample.subset: resample(sample, draws=draws, seed=seed) for sample in samples(rows, protocol)}
    return each_part(
        [resampled.sample for resampled in by_subset.values()],
        lambda weights: interval([(by_subset[subset], weight) for subset, weight in weights.items()]),
    )


# --- from rows to samples -------------------------------------------------------------------------------------------


def samples(rows: Sequence[ScoredRow], protocol: str) -> list[Sample]:
    """One Sample for each subset, with a column for each of its levels; the subsets in alphabetical order.

    HarnessError where there is no row, a row twice, a score outside 0 to 1, or the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise choices(protocol, "protocol", list(PROTOCOLS))
    if not rows:
        raise HarnessError("no scored row; expected the rows of a run; answer some with prediction.py first")
    cells: defaultdict[str, list[tuple[str, str, float]]] = defaultdict(list)
    before = None
    for row in sorted(rows, key=lambda row: (row.subset, row.level, row.index)):
        where, score = (row.subset, row.level, row.index), row.score(protocol)
        if where == before:
            raise HarnessError(
                f"{row.subset}_{row.level}, row {row.index}: found twice; expected each row once; remove one of them"
            )
        if not 0 <= score <= 1:  # also refuses what is not a number
            raise HarnessError(
                f"{row.subset}_{row.level}, row {row.index}: found the {protocol} score {score}; expected 0 to 1; "
                "check the metric that config.py names for the subset"
            )
        before = where
        cells[row.subset].append((row.question, row.level, score))
    return [tabulate(subset, cells[subset]) for subset in sorted(cells)]


def tabulate(subset: str, cells: Sequence[tuple[str, str, float]]) -> Sample:
    """The Sample of a subset's (question, level, value) cells."""
    columns = tuple(sorted({level for _, level, _ in cells}, key=level_length))
    questions = tuple(sorted({question for question, _, _ in cells}))
    line = {question: at for at, question in enumerate(questions)}
    column = {level: at for at, level in enumerate(columns)}
    totals, counts = np.zeros((2, len(questions), len(columns)))
    for question, level, value in cells:
        totals[line[question], column[level]] += value
        counts[line[question], column[level]] += 1
    return Sample(subset, columns, questions, totals, counts)


def each_part(tables: Sequence[Sample], measure: Callable[[dict[str, Floats]], T]) -> Parts[T]:
    """`measure` of each part, given as {subset: weights over its columns}; the part's value is the weighted sum."""
    at_level: defaultdict[str, list[tuple[Sample, int]]] = defaultdict(list)
    for table in tables:
        for column, level in enumerate(table.columns):
            at_level[level].append((table, column))
    levels = sorted(at_level, key=level_length)

    def weights(chosen: Sequence[tuple[Sample, int]], each: float) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for table, column in chosen:
            found.setdefault(table.subset, np.zeros(len(table.columns)))[column] = each
        return found

    overall: dict[str, Floats] = {table.subset: np.zeros(len(table.columns)) for table in tables}
    for level in levels:
        for table, column in at_level[level]:
            overall[table.subset][column] = 1 / len(levels) / len(at_level[level])
    return Parts(
        files={
            (table.subset, level): measure(weights([(table, column)], 1.0))
            for table in tables
            for column, level in enumerate(table.columns)
        },
        levels={level: measure(weights(at_level[level], 1 / len(at_level[level]))) for level in levels},
        subsets={
            table.subset: measure({table.subset: np.full(len(table.columns), 1 / len(table.columns))})
            for table in tables
        },
        overall=measure(overall),
    )


# --- the bootstrap --------------------------------------------------------------------------------------------------


def generator(subset: str, purpose: str, seed: int) -> np.random.Generator:
    """Random numbers of a subset's own, so that its interval is the same whatever else the run has."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose} {subset}".encode())])


def chunks(draws: int, questions: int) -> Iterator[slice]:
    """Slices of the draws, so that the numbers behind them stay small whatever the number of questions."""
    step = max(1, _CELLS // questions)
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


@lru_cache(maxsize=16)  # the subsets of a run: both protocols and the length curves draw the same
def drawn(subset: str, questions: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """[draws, questions] how often each question is drawn when as many as there are get drawn with replacement."""
    random = generator(subset, "bootstrap", seed)
    found = np.empty((draws, questions), np.uint16)
    for chunk in chunks(draws, questions):
        size = chunk.stop - chunk.start
        picks = random.integers(questions, size=(size, questions)) + questions * np.arange(size)[:, None]
        found[chunk] = np.bincount(picks.ravel(), minlength=size * questions).reshape(size, questions)
    return found


def resample(sample: Sample, *, draws: int = DRAWS, seed: int = SEED) -> Resampled:
    """The means of the columns in each draw; one draw serves all columns."""
    number, width = sample.totals.shape
    times = drawn(sample.subset, number, draws, seed)
    both = np.hstack([sample.totals, sample.counts])
    sums = np.empty((draws, 2 * width))
    for chunk in chunks(draws, number):
        sums[chunk] = times[chunk].astype(np.float64) @ both
    counts = sample.counts.sum(axis=0)
    means = sample.totals.sum(axis=0) / counts
    with np.errstate(invalid="ignore"):
        drawn_means = 100 * sums[:, :width] / sums[:, width:]
    return Resampled(sample, 100 * means, drawn_means, 100 * (sample.totals - means * sample.counts) / counts)


def interval(parts: Sequence[tuple[Resampled, Floats]], *, paired: bool = False, bound: float = 100) -> Interval:
    """The interval of a weighted sum of columns, over subsets that vary independently.

    `parts`: the subsets, each with the weights of its columns; no interval where a column has a single question.
    `paired`: the columns are differences within questions, so the interval is Student's and not BCa; it ends at -bound
    and bound.
    """
    value = sum(float(part.values @ weights) for part, weights in parts)
    asked = [part.sample.counts[:, weights != 0] > 0 for part, weights in parts]
    kinds = sorted({part.sample.over for part, _ in parts}, reverse=True)
    clusters, over = sum(int(there.any(axis=1).sum()) for there in asked), " and ".join(kinds)
    used = [int(there.sum(axis=0).min()) for there in asked]  # where a column has fewer, it is the least sure
    alone = [part.sample.subset for (part, _), number in zip(parts, used, strict=True) if number < 2]
    if alone:
        return Interval(value, None, None, clusters, over, f"no interval: only one question in {', '.join(alone)}")
    influences = [part.influence @ weights for part, weights in parts]
    variances = [float(influence @ influence) for influence in influences]
    if math.sqrt(sum(variances)) < _ALIKE:
        return Interval(value, None, None, clusters, over, f"no interval: all {over} came out the same")
    draws = combine(parts)
    quantile = widened(variances, used)
    if paired:
        half = quantile * float(draws.std())
        low, high = max(value - half, -bound), min(value + half, bound)
    else:
        low, high = bca_bounds(value, draws, influences, quantile)
    few = [part.sample.subset for (part, _), number in zip(parts, used, strict=True) if number < FEW]
    note = f"perhaps too narrow: fewer than {FEW} {over} in {', '.join(few)}" if few else ""
    return Interval(value, min(low, value), max(high, value), clusters, over, note)


def combine(parts: Sequence[tuple[Resampled, Floats]]) -> Floats:
    """The draws of a weighted sum of columns, without those in which a column that counts had no question."""
    draws = np.sum([part.draws[:, weights != 0] @ weights[weights != 0] for part, weights in parts], axis=0)
    kept: Floats = draws[np.isfinite(draws)]
    return kept


def widened(variances: Sequence[float], numbers: Sequence[int]) -> float:
    """The normal quantile that makes a percentile interval of these samples as wide as Student's.

    `variances`: the bootstrap variance of each sample's share; `numbers`: its questions. Degrees of freedom after
    Welch and Satterthwaite.
    """
    unbiased = [variance * number / (number - 1) for variance, number in zip(variances, numbers, strict=True)]
    freedom = sum(unbiased) ** 2 / sum(
        variance**2 / (number - 1) for variance, number in zip(unbiased, numbers, strict=True)
    )
    return student_quantile(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(sum(unbiased) / sum(variances))


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile for a probability above 0.5 and 1 or more degrees of freedom, to 0.01.

    Few degrees: the density integrated over the angle whose tangent t is; more: Abramowitz & Stegun 26.7.5.
    """
    if freedom < 10:
        angles = np.linspace(0, math.pi / 2, 100_001)
        area = np.cos(angles) ** (freedom - 1)
        below = np.concatenate([[0], np.cumsum(area[1:] + area[:-1])])
        return math.sqrt(freedom) * math.tan(np.interp((2 * probability - 1) * below[-1], below, angles))
    z = _NORMAL.inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def bca_bounds(value: float, draws: Floats, influences: Sequence[Floats], quantile: float) -> tuple[float, float]:
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
