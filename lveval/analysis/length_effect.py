"""What length costs: paired drops, slope per doubling and effective length, with uncertainty.

    found = length_effect.measure_length_effect(rows, "released")   # rows: results.ScoredRow
    found.subsets["lic_mixup"].slope.value      # points per doubling of the length; below 0: loses
    found.overall.effective_length.level        # such as "64k"

The same questions are asked at every level, so drop and slope are taken within each question and
then averaged: how hard the questions are cancels out. Intervals are those of intervals.py, over
questions. Levels are those that the run has, in order of length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lveval.analysis.clusters import (
    DRAWS,
    ROUNDING,
    SEED,
    BootstrapDraws,
    ClusterTable,
    Floats,
    cluster_tables,
    resample,
)
from lveval.analysis.intervals import CONFIDENCE, Interval, interval
from lveval.common.levels import level_length
from lveval.results import ScoredRow

FRACTION = 0.9  # of the shortest level's score, that each level of the effective length keeps


@dataclass(frozen=True)
class EffectiveLength:
    """The longest level up to which every level keeps a fraction of the shortest one's score."""

    level: str | None  # None where the shortest level's score is 0: nothing can be kept of it
    fraction: float
    probabilities: Mapping[str, float]  # level -> share of the draws in which it is the one
    likely: tuple[str, ...]  # the fewest levels that make up 95 % of the draws, by length

    def __str__(self) -> str:
        """Such as "32k (16k to 64k)": the level, and the range of the likely ones.

        The true one may lie below the shortest level tested, and above the longest.
        """
        shortest, *_, longest = self.probabilities
        if self.level is None:
            return f"none: 0 at {shortest}"
        bound, end = "", ""
        if self.level in (shortest, longest):
            first = self.level == shortest
            bound, end = ("<= ", "shortest tested") if first else (">= ", "longest tested")
        if self.likely and self.likely != (self.level,):
            end = f"{self.likely[0]} to {self.likely[-1]}"
        return f"{bound}{self.level}{f' ({end})' if end else ''}"


@dataclass(frozen=True)
class LengthCurve:
    """How one subset's score, or the plain mean of the subsets', changes with the length.

    The drop is in points from the shortest to the longest level, over questions that have both; the
    slope in points per doubling of the length, over questions that have every level.
    """

    scores: Mapping[str, float]  # level -> points, by length
    drop: Interval | None = None
    slope: Interval | None = None
    effective_length: EffectiveLength | None = None
    note: str = ""  # why something is None, or what is left out

    @property
    def change(self) -> Interval | None:
        """The drop as tables and sentences have it: a loss is negative, as in the slope."""
        return self.drop and self.drop.negated()


@dataclass(frozen=True)
class LengthEffect:
    """The curve of each subset, in alphabetical order, and that of their plain mean."""

    subsets: Mapping[str, LengthCurve]
    overall: LengthCurve  # over the subsets that have every level of the run


def measure_length_effect(
    rows: Sequence[ScoredRow],
    protocol: str = "released",
    *,
    fraction: float = FRACTION,
    draws: int = DRAWS,
    seed: int = SEED,
) -> LengthEffect:
    """Measure a run's length curves; several rows of a question at a level count as their mean.

    Parts of a curve that cannot be computed are None and the note says why. Raises UsageError as
    cluster_tables does, ValueError where `fraction` is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected above 0 and at most 1")
    measured = [SubsetDraws(table, draws, seed) for table in cluster_tables(rows, protocol)]
    levels = tuple(sorted({level for each in measured for level in each.levels}, key=level_length))
    full = [each for each in measured if each.levels == levels]
    partial = [each.subset for each in measured if each.levels != levels]
    overall = curve(full, fraction) if full else LengthCurve({}, note="no subset has every level")
    if full and partial:
        left_out = f"without {', '.join(partial)}"
        overall = replace(overall, note="; ".join(filter(None, [overall.note, left_out])))
    return LengthEffect({each.subset: curve([each], fraction) for each in measured}, overall)


class SubsetDraws:
    """A subset's levels, drop and slope, resampled together: one draw of questions serves all."""

    def __init__(self, table: ClusterTable, draws: int, seed: int) -> None:
        self.subset = table.subset
        self.levels = table.columns
        self.columns = [*table.columns]
        totals, counts = [table.totals], [table.counts]
        several = len(table.columns) > 1
        for name, measure in (("drop", drops), ("slope", slopes)) if several else ():
            values = measure(table)
            finite = np.isfinite(values)[:, None]
            if finite.any():  # else the mean would be 0 / 0
                self.columns.append(name)
                totals.append(np.nan_to_num(values)[:, None])
                counts.append(finite.astype(np.float64))
        both = np.hstack(totals), np.hstack(counts)
        extended = ClusterTable(table.subset, tuple(self.columns), table.questions, *both)
        self.drawn: BootstrapDraws = resample(extended, draws=draws, seed=seed)

    def weights(self, name: str, weight: float) -> tuple[BootstrapDraws, Floats]:
        """Pick one measure, times `weight`, for intervals.interval."""
        picked = np.zeros(len(self.columns))
        picked[self.columns.index(name)] = weight
        return self.drawn, picked


def drops(table: ClusterTable) -> Floats:
    """[questions] the score at the shortest level less that at the longest; NaN: one is missing."""
    difference: Floats = table.means[:, 0] - table.means[:, -1]
    return difference


def slopes(table: ClusterTable) -> Floats:
    """[questions] the least-squares slope of the score on log2(length); NaN: a level is missing."""
    doublings = np.log2([level_length(level) for level in table.columns])
    centred = doublings - doublings.mean()
    slope: Floats = table.means @ (centred / (centred @ centred))
    return slope


def curve(subsets: Sequence[SubsetDraws], fraction: float) -> LengthCurve:
    """Measure the plain mean of subsets that have the same levels."""
    levels, share = subsets[0].levels, 1 / len(subsets)
    width = len(levels)
    values = np.sum([subset.drawn.values[:width] for subset in subsets], axis=0) * share
    scores = {level: float(value) for level, value in zip(levels, values, strict=True)}
    if width < 2:
        note = f"one level only, {levels[0]}: nothing to compare it with"
        return LengthCurve(scores, note=note)
    measured: dict[str, Interval] = {}
    notes = []
    # Between levels closer than a doubling a slope may pass 100 points.
    for name, bound in (("drop", 100.0), ("slope", math.inf)):
        lacking = [subset.subset for subset in subsets if name not in subset.columns]
        if lacking:
            notes.append(f"no {name}: no question of {', '.join(lacking)} has the levels for it")
            continue
        weighted = [subset.weights(name, share) for subset in subsets]
        measured[name] = interval(weighted, paired=True, bound=bound)
    draws = np.sum([subset.drawn.draws[:, :width] for subset in subsets], axis=0) * share
    effective = effective_length(levels, values, draws, fraction)
    if effective.level is None:
        notes.append(f"no effective length: the score at {levels[0]} is 0")
    return LengthCurve(
        scores, measured.get("drop"), measured.get("slope"), effective, "; ".join(notes)
    )


def effective_length(
    levels: Sequence[str], values: Floats, draws: Floats, fraction: float
) -> EffectiveLength:
    """Find the effective length of a curve, and of each draw of it.

    `levels` by length; `values`: [levels] points; `draws`: [draws, levels]. Draws whose score at
    the shortest level is 0, or that miss a level, have no effective length and do not count.
    """
    likelihood = np.zeros(len(levels))
    usable = draws[np.isfinite(draws).all(axis=1) & (draws[:, 0] > ROUNDING)]
    if len(usable):
        likelihood = np.bincount(last_kept(usable, fraction), minlength=len(levels)) / len(usable)
    likely: list[int] = []
    # The likeliest first; of two as likely the shorter, which promises less.
    for at in np.argsort(-likelihood, kind="stable"):
        if likelihood[likely].sum() >= CONFIDENCE - ROUNDING or not likelihood[at]:
            break
        likely.append(int(at))
    return EffectiveLength(
        levels[int(last_kept(values[None], fraction)[0])] if values[0] > ROUNDING else None,
        fraction,
        {level: float(share) for level, share in zip(levels, likelihood, strict=True)},
        tuple(levels[at] for at in sorted(likely)),
    )


def last_kept(curves: Floats, fraction: float) -> NDArray[np.int64]:
    """[curves] the last of the [curves, levels] before one below `fraction` of the first."""
    kept = curves >= fraction * curves[:, :1] - ROUNDING
    last: NDArray[np.int64] = np.logical_and.accumulate(kept, axis=1).sum(axis=1) - 1
    return last
