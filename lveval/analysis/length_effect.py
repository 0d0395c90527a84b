"""What length costs: paired drops, slope per doubling and effective length, with their uncertainty.

    found = lengths.of(rows, "released")           # rows: analysis.ScoredRow of one run
    found.subsets["lic_mixup"].slope.value         # points per doubling of the length; below 0 it loses
    found.overall.effective.level                  # such as "64k"

The same questions are asked at every level, so drop and slope are taken within each question and then averaged: how
hard the questions are cancels out. Intervals are those of intervals.py, over questions. Levels are those that the run
has, in order of length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lveval.analysis.clusters import (
    DRAWS,
    SEED,
    BootstrapDraws,
    ClusterTable,
    Floats,
    cluster_tables,
    resample,
)
from lveval.analysis.intervals import CONFIDENCE, Interval, interval
from lveval.common.levels import level_length
from lveval.results import ScoredRow, table_order

FRACTION = 0.9  # of the shortest level's score that a level must keep to count as within the effective length


HEAD = ("subset", "drop, shortest to longest", "slope per doubling", "effective length")


_SAME = 1e-9  # points


@dataclass(frozen=True)
class EffectiveLength:
    """The longest level that keeps the stated fraction of the shortest level's score, as all levels up to it do."""

    level: str | None  # None where the shortest level's score is 0: nothing can be kept of it
    fraction: float
    probabilities: Mapping[
        str, float
    ]  # level -> share of the bootstrap draws in which it is the effective length
    likely: tuple[str, ...]  # the fewest levels that make up 95 % of the draws, by length


@dataclass(frozen=True)
class LengthCurve:
    """How one subset's score, or the plain mean of the subsets', changes with the length."""

    scores: Mapping[str, float]  # level -> points, by length
    drop: (
        Interval | None
    )  # points lost from the shortest to the longest level, over questions that have both
    slope: (
        Interval | None
    )  # points gained per doubling of the length, over questions that have every level
    effective: EffectiveLength | None
    note: str = ""  # why something is None, or what is left out


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
    """The length curves of one run. A question with several rows at a level counts there with their mean.

    HarnessError as intervals.of. With a single level, or no question at all levels, parts are None and the note says
    so. ValueError where `fraction` is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected above 0 and at most 1")
    measured = [SubsetDraws(sample, draws, seed) for sample in cluster_tables(rows, protocol)]
    levels = tuple(sorted({level for each in measured for level in each.levels}, key=level_length))
    whole = [each for each in measured if each.levels == levels]
    left_out = [each.subset for each in measured if each.levels != levels]
    overall = (
        curve(whole, fraction)
        if whole
        else LengthCurve({}, None, None, None, "no subset has every level")
    )
    if whole and left_out:
        overall = replace(
            overall,
            note=f"{overall.note}; " * bool(overall.note) + f"without {', '.join(left_out)}",
        )
    return LengthEffect({each.subset: curve([each], fraction) for each in measured}, overall)


class SubsetDraws:
    """A subset's levels, drop and slope, resampled together: one draw of questions serves all."""

    def __init__(self, sample: ClusterTable, draws: int, seed: int) -> None:
        self.subset = sample.subset
        self.levels = sample.columns
        # A measure that no question has stays out: its mean would be 0 / 0.
        measures = {
            name: per_question(values)
            for name, values in (("drop", drops(sample)), ("slope", slopes(sample)))
            if np.isfinite(values).any()
        }
        self.measures = tuple(measures)
        totals, counts = map(
            np.hstack, zip((sample.totals, sample.counts), *measures.values(), strict=True)
        )
        names = (*self.levels, *self.measures)
        self.resampled: BootstrapDraws = resample(
            ClusterTable(sample.subset, names, sample.questions, totals, counts),
            draws=draws,
            seed=seed,
        )

    def weights(self, name: str, each: float) -> tuple[BootstrapDraws, Floats]:
        """What picks one measure, times `each`, for intervals.interval."""
        picked = np.zeros(len(self.resampled.sample.columns))
        picked[self.resampled.sample.columns.index(name)] = each
        return self.resampled, picked


def drops(sample: ClusterTable) -> Floats:
    """[questions] the score at the shortest level less the one at the longest; not a number where one is missing."""
    means = sample.means
    found: Floats = (
        means[:, 0] - means[:, -1] if len(sample.columns) > 1 else np.full(len(means), np.nan)
    )
    return found


def slopes(sample: ClusterTable) -> Floats:
    """[questions] the least-squares slope of the score on log2(length); not a number where a level is missing."""
    means = sample.means
    if len(sample.columns) < 2:
        return np.full(len(means), np.nan)
    doublings = np.log2([level_length(level) for level in sample.columns])
    centred = doublings - doublings.mean()
    found: Floats = means @ (centred / (centred @ centred))
    return found


def per_question(values: Floats) -> tuple[Floats, Floats]:
    """A measure of each question as a column of totals and one of counts."""
    there = np.isfinite(values)
    return np.where(there, values, 0.0)[:, None], there.astype(np.float64)[:, None]


def curve(subsets: Sequence[SubsetDraws], fraction: float) -> LengthCurve:
    """The curve of the plain mean of subsets that have the same levels."""
    levels, each = subsets[0].levels, 1 / len(subsets)
    width = len(levels)
    values = np.sum([subset.resampled.values[:width] for subset in subsets], axis=0) * each
    scores = {level: float(value) for level, value in zip(levels, values, strict=True)}
    if width < 2:
        return LengthCurve(
            scores, None, None, None, f"one level only, {levels[0]}: nothing to compare it with"
        )
    found: dict[str, Interval | None] = {"drop": None, "slope": None}
    notes = []
    # Between levels closer than a doubling a slope may pass 100 points.
    for name, bound in (("drop", 100.0), ("slope", math.inf)):
        lacking = [subset.subset for subset in subsets if name not in subset.measures]
        if lacking:
            notes.append(f"no {name}: no question of {', '.join(lacking)} has the levels for it")
        else:
            found[name] = interval(
                [subset.weights(name, each) for subset in subsets], paired=True, bound=bound
            )
    draws = np.sum([subset.resampled.draws[:, :width] for subset in subsets], axis=0) * each
    effective = effective_length(levels, values, draws, fraction)
    if effective.level is None:
        notes.append(f"no effective length: the score at {levels[0]} is 0")
    return LengthCurve(scores, found["drop"], found["slope"], effective, "; ".join(notes))


def effective_length(
    levels: Sequence[str], values: Floats, draws: Floats, fraction: float
) -> EffectiveLength:
    """The effective length of a curve, and of each draw of it.

    `levels` by length; `values`: [levels] points; `draws`: [draws, levels]. Draws whose score at the shortest level is
    0, or that miss a level, have no effective length and do not count.
    """
    likelihood = np.zeros(len(levels))
    usable = draws[np.isfinite(draws).all(axis=1) & (draws[:, 0] > _SAME)]
    if len(usable):
        likelihood = np.bincount(last_kept(usable, fraction), minlength=len(levels)) / len(usable)
    likely: list[int] = []
    # The likeliest first; of two as likely the shorter, which promises less.
    for at in np.argsort(-likelihood, kind="stable"):
        if likelihood[likely].sum() >= CONFIDENCE - _SAME or not likelihood[at]:
            break
        likely.append(int(at))
    return EffectiveLength(
        levels[int(last_kept(values[None], fraction)[0])] if values[0] > _SAME else None,
        fraction,
        {level: float(share) for level, share in zip(levels, likelihood, strict=True)},
        tuple(levels[at] for at in sorted(likely)),
    )


def last_kept(curves: Floats, fraction: float) -> NDArray[np.int64]:
    """[curves] the position of the last level before one falls below `fraction` of the first, of [curves, levels]."""
    kept = curves >= fraction * curves[:, :1] - _SAME
    found: NDArray[np.int64] = np.logical_and.accumulate(kept, axis=1).sum(axis=1) - 1
    return found


def table(found: LengthEffect) -> list[list[str]]:
    """Cells of text under HEAD, a line a subset and one for their mean; blank where there is nothing to tell."""
    mean = "mean", found.overall
    return [
        [name, _points(curve.drop), _points(curve.slope), effective_text(curve.effective)]
        for name, curve in (
            *((subset, found.subsets[subset]) for subset in table_order(found.subsets)),
            mean,
        )
    ]


def _points(interval: Interval | None) -> str:
    if interval is None:
        return ""
    between = interval.between("+")
    return f"{interval.value:+.2f}" + (f" ({between})" if between else "")


def effective_text(effective: EffectiveLength | None) -> str:
    """Such as "32k (16k to 64k)": the level, and the range of the likely ones; blank with a single level."""
    if effective is None:
        return ""
    if effective.level is None:
        return f"none: 0 at {next(iter(effective.probabilities))}"
    likely = effective.likely or (effective.level,)
    return effective.level + (
        f" ({likely[0]} to {likely[-1]})" if likely != (effective.level,) else ""
    )
