"""Whether the place of the evidence matters: histograms, depth by length, ends against middle.

    found = positions.measure_positions(evaluation.rows)
    found.effects["lic_mixup"].difference.value   # points that evidence near the ends is ahead
    found.heat["factrecall_en"]["64k"][3].score   # of evidence between 30 and 40 % of the context

A depth is that of a passage's middle, 0 to 1 (data/positions.py). Histograms and the heat maps
count passages by their depth in the context as written. Scores by tenth and the test go by the
depth in the prompt, over the rows whose evidence is whole in it: what a model could not read says
nothing of how it reads. A row with several passages counts in the tenth of each, with equal shares.

The test: at each level the mean score of evidence in the outer two tenths of either side less that
in the six between, averaged over the levels, which weigh by the rows that they can compare,
n m / (n + m) (as Cochran and Mantel-Haenszel do; a level that has harder rows or fewer prompts that
hold them costs neither side). The interval is Student's over questions, as for any difference
within questions. The p-value is that of a sign-flip test with the null hypothesis imposed: each
question's contribution, taken about the mean of its level, could as well have had the other sign
(the score bootstrap of Kline & Santos 2012, Journal of Econometric Methods 1, with signs by
question; widened by sqrt(n/(n-1)), for that mean is estimated). It is adjusted after Holm over the
subsets. A difference is shown where the adjusted p-value is below 0.05 and the interval does not
hold 0. Imports numpy at once: import this module where it is used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt

import numpy as np
from numpy.typing import NDArray

from lveval.analysis.clusters import DRAWS, ROUNDING, SEED, ClusterTable, Floats, resample
from lveval.analysis.comparison import FLIPS, SIGNIFICANT, holm, p_value, sign_flips
from lveval.analysis.intervals import Interval, interval
from lveval.common.levels import level_length
from lveval.results import ONE_QUESTION, RowDepths, RowKey, ScoredRow, grouped, rows_by_level

TENTHS = tuple(f"{at / 10:.1f}-{(at + 1) / 10:.1f}" for at in range(10))

ENDS = (0, 1, 8, 9)  # the outer tenths; the middle is the six between

LEAST_QUESTIONS = 2  # at each side of a level, for the level to be compared


@dataclass(frozen=True)
class Histogram:
    """How many passages of one level stand in each tenth; those cut away are in no prompt."""

    rows: int
    rows_located: int  # of which a passage of evidence was found
    evidence: tuple[int, ...]  # in the context
    evidence_in_prompt: tuple[int, ...]
    confusing_facts: tuple[int, ...]
    confusing_facts_in_prompt: tuple[int, ...]


@dataclass(frozen=True)
class HeatCell:
    """The rows of one level whose evidence is in one tenth of the context."""

    rows: float  # a row with several passages counts in parts
    score: float | None  # mean, 0 to 100; None: no row
    kept_percent: float | None  # of the rows that tell whether the prompt held the evidence


@dataclass(frozen=True)
class DepthEffect:
    """One subset's score by the depth of the evidence in the prompt, in points."""

    rows: int  # whose evidence is found whole in the prompt
    tenths: Mapping[str, Interval]  # those that have a row
    levels: tuple[str, ...] = ()  # that have evidence both near the ends and in the middle
    ends: float | None = None
    middle: float | None = None
    difference: Interval | None = None  # of ends minus middle
    p: float = 1.0  # of the sign-flip test
    adjusted: float = 1.0  # after Holm, over the subsets
    verdict: str = "not compared"  # else "ends better", "middle better", "no difference shown"

    def as_data(self) -> dict[str, object]:
        """As JSON holds it."""
        found: dict[str, object] = {
            "rows": self.rows,
            "tenths": {tenth: part.as_data() for tenth, part in self.tenths.items()},
            "shown": self.verdict,
        }
        if self.difference is None or self.ends is None or self.middle is None:
            return found
        return found | {
            "levels": list(self.levels),
            "ends": round(self.ends, 2),
            "middle": round(self.middle, 2),
            "difference": self.difference.as_data(),
            "p": round(self.p, 6),
            "p_holm": round(self.adjusted, 6),
        }


@dataclass(frozen=True)
class Positions:
    """What the depths of a run's rows show; empty parts where no row tells of any."""

    levels: Mapping[str, Histogram]  # by length
    heat: Mapping[str, Mapping[str, tuple[HeatCell, ...]]]  # subset of one question -> level
    effects: Mapping[str, DepthEffect]  # of each subset that has a depth in the prompt


def measure_positions(
    rows: Sequence[ScoredRow],
    computed: Mapping[RowKey, RowDepths] | None = None,
    *,
    draws: int = DRAWS,
    flips: int = FLIPS,
    seed: int = SEED,
) -> Positions | None:
    """Measure the depths that rows record, or that were `computed` from the data for them.

    None where no row has any. Parts of records that are no depths are passed over.
    """
    rows = sorted(rows, key=lambda row: row.key)  # sums do not depend on the order of coming
    depths = {}
    for row in rows:
        told = row.depths or (computed or {}).get(row.key)
        if told and (told.evidence or told.confusing_facts):
            depths[row.key] = told
    if not depths:
        return None
    by_subset = grouped((row.subset, row) for row in rows)
    effects = {
        subset: effect
        for subset, of_subset in by_subset.items()
        if (effect := depth_effect(of_subset, depths, draws=draws, flips=flips, seed=seed))
    }
    return Positions(
        levels={
            level: histogram(of_level, depths) for level, of_level in rows_by_level(rows).items()
        },
        heat={
            subset: heat_map(by_subset[subset], depths)
            for subset in ONE_QUESTION
            if any(_has_evidence(row, depths) for row in by_subset.get(subset, ()))
        },
        effects=_adjusted(effects),
    )


def tenths_of(depths: Sequence[float]) -> NDArray[np.intp]:
    """Number the tenth of each depth, 0 to 9; 1 is in the last."""
    return np.minimum(9, (np.array(depths, dtype=np.float64) * 10 + 1e-9).astype(np.intp))


def _has_evidence(row: ScoredRow, depths: Mapping[RowKey, RowDepths]) -> bool:
    return bool(depths.get(row.key, RowDepths()).evidence)


# --- counts ---


def histogram(rows: Iterable[ScoredRow], depths: Mapping[RowKey, RowDepths]) -> Histogram:
    """Count the passages of rows in each tenth."""
    told = [depths.get(row.key, RowDepths()) for row in rows]
    evidence = [pair for row in told for pair in row.evidence]
    facts = [pair for row in told for pair in row.confusing_facts]
    return Histogram(
        rows=len(told),
        rows_located=sum(bool(row.evidence) for row in told),
        evidence=_counts(depth for depth, _ in evidence),
        evidence_in_prompt=_counts(depth for _, depth in evidence),
        confusing_facts=_counts(depth for depth, _ in facts),
        confusing_facts_in_prompt=_counts(depth for _, depth in facts),
    )


def _counts(depths: Iterable[float | None]) -> tuple[int, ...]:
    known = [depth for depth in depths if depth is not None]
    return tuple(np.bincount(tenths_of(known), minlength=len(TENTHS)).tolist())


def heat_map(
    rows: Sequence[ScoredRow], depths: Mapping[RowKey, RowDepths]
) -> dict[str, tuple[HeatCell, ...]]:
    """Average the rows of each level and tenth of the context, levels by length."""
    found = {}
    for level, of_level in rows_by_level(rows).items():
        located = [row for row in of_level if _has_evidence(row, depths)]
        shares = _shares([[depth for depth, _ in depths[row.key].evidence] for row in located])
        found[level] = tuple(
            _heat_cell([(row, share) for row, share in zip(located, tenth, strict=True) if share])
            for tenth in shares.T.tolist()
        )
    return found


def _heat_cell(shared: Sequence[tuple[ScoredRow, float]]) -> HeatCell:
    rows = fsum(share for _, share in shared)
    told = [(row.evidence_kept, share) for row, share in shared if row.evidence_kept is not None]
    return HeatCell(
        rows=rows,
        score=fsum(100 * row.released * share for row, share in shared) / rows if rows else None,
        kept_percent=100 * fsum(share for kept, share in told if kept) / fsum(s for _, s in told)
        if told
        else None,
    )


def _shares(rows: Sequence[Sequence[float]]) -> Floats:
    """[rows, tenths] the share of each row's passages that stands in each."""
    passages = np.array([len(row) for row in rows], dtype=np.intp)
    tenths = tenths_of([depth for row in rows for depth in row])
    cells = np.repeat(np.arange(len(rows)), passages) * len(TENTHS) + tenths
    counts = np.bincount(cells, minlength=len(rows) * len(TENTHS))
    return counts.reshape(len(rows), len(TENTHS)) / passages[:, None]


# --- score by depth, and its test ---


@dataclass(frozen=True)
class PlacedRows:
    """The rows of one subset whose evidence is whole in the prompt, as arrays of one length."""

    questions: tuple[str, ...]  # all of the subset: the draws are those of its other intervals
    question: NDArray[np.intp]  # of each row, its place in `questions`
    level: NDArray[np.str_]
    score: Floats  # 0 to 1
    shares: Floats  # [rows, tenths] of a row's passages

    def by_question(self, values: Floats) -> Floats:
        """Sum the values of each question's rows."""
        return np.bincount(self.question, values, len(self.questions)).astype(np.float64)


@dataclass(frozen=True)
class LevelContrast:
    """Evidence near the ends against evidence in the middle, at one level; scores 0 to 1."""

    score: Floats  # [rows] of all levels
    ends: Floats  # [rows] the part of each that counts there
    middle: Floats

    @property
    def weight(self) -> float:
        """How much the level can tell."""
        ends, middle = self.ends.sum(), self.middle.sum()
        return float(ends * middle / (ends + middle))

    @property
    def means(self) -> tuple[float, float]:
        """Of the ends and of the middle."""
        return _mean(self.score, self.ends), _mean(self.score, self.middle)

    def contributions(self, ends: float, middle: float) -> Floats:
        """What each row adds to the difference of the means, taken about these two."""
        near = (self.score - ends) * self.ends / self.ends.sum()
        found: Floats = near - (self.score - middle) * self.middle / self.middle.sum()
        return found

    @property
    def contributions_if_alike(self) -> Floats:
        """The same about the level's mean: their sum is the difference, whatever signs they had."""
        mean = _mean(self.score, self.ends + self.middle)
        return self.contributions(mean, mean)


def _mean(values: Floats, weights: Floats) -> float:
    return float(values @ weights / weights.sum())


def depth_effect(
    rows: Sequence[ScoredRow],
    depths: Mapping[RowKey, RowDepths],
    *,
    draws: int = DRAWS,
    flips: int = FLIPS,
    seed: int = SEED,
) -> DepthEffect | None:
    """Measure one subset; None where no row's evidence is found whole in the prompt."""
    placed = place_rows(rows, depths)
    if placed is None:
        return None
    subset = rows[0].subset
    shares = {
        tenth: share for tenth, share in zip(TENTHS, placed.shares.T, strict=True) if share.any()
    }
    # Name -> totals and counts by question.
    columns = {
        tenth: (placed.by_question(placed.score * share), placed.by_question(share))
        for tenth, share in shares.items()
    }
    effect = DepthEffect(len(placed.score), {})
    if compared := contrasts(placed):
        whole = fsum(each.weight for each in compared.values())
        parts = [(each.weight / whole, each) for each in compared.values()]
        ends, middle = (
            fsum(weight * each.means[side] for weight, each in parts) for side in (0, 1)
        )
        asked = placed.by_question(np.sum([each.ends + each.middle for _, each in parts], 0)) > 0
        moved = np.sum([weight * each.contributions(*each.means) for weight, each in parts], 0)
        # Its mean is the difference, and it varies with the questions as the difference does.
        values = ends - middle + asked.sum() * placed.by_question(moved)
        columns["difference"] = asked * values, asked.astype(np.float64)
        if_alike = np.sum([weight * each.contributions_if_alike for weight, each in parts], 0)
        flipped = _flipped(subset, placed.by_question(if_alike)[asked], flips, seed)
        effect = replace(
            effect,
            levels=tuple(compared),
            ends=100 * ends,
            middle=100 * middle,
            p=p_value(100 * (ends - middle), flipped),
        )
    totals, counts = (np.stack(each, axis=1) for each in zip(*columns.values(), strict=True))
    table = ClusterTable(subset, tuple(columns), placed.questions, totals, counts)
    drawn = resample(table, draws=draws, seed=seed)
    picked = dict(zip(columns, np.eye(len(columns)), strict=True))
    return replace(
        effect,
        tenths={tenth: interval([(drawn, picked[tenth])]) for tenth in shares},
        difference=interval([(drawn, picked["difference"])], paired=True) if compared else None,
    )


def place_rows(rows: Sequence[ScoredRow], depths: Mapping[RowKey, RowDepths]) -> PlacedRows | None:
    """Collect the rows whose evidence is found whole in the prompt; None where there is none."""
    placed = []
    for row in rows:
        found = [depth for _, depth in depths.get(row.key, RowDepths()).evidence]
        told = [depth for depth in found if depth is not None]
        if found and len(told) == len(found):
            placed.append((row, told))
    if not placed:
        return None
    questions = tuple(sorted({row.question for row in rows}))
    line = {question: at for at, question in enumerate(questions)}
    return PlacedRows(
        questions,
        np.array([line[row.question] for row, _ in placed]),
        np.array([row.level for row, _ in placed]),
        np.array([row.released for row, _ in placed]),
        _shares([told for _, told in placed]),
    )


def contrasts(placed: PlacedRows) -> dict[str, LevelContrast]:
    """Set the two sides of each level against each other, by length, where both have questions."""
    near = placed.shares[:, ENDS].sum(axis=1)
    found = {}
    for level in sorted(set(placed.level.tolist()), key=level_length):
        here = (placed.level == level).astype(np.float64)
        ends, middle = near * here, (1 - near) * here
        asked = (len(set(placed.question[side > ROUNDING].tolist())) for side in (ends, middle))
        if min(asked) >= LEAST_QUESTIONS:
            found[level] = LevelContrast(placed.score, ends, middle)
    return found


def _flipped(subset: str, contributions: Floats, flips: int, seed: int) -> Floats:
    """[flips] the difference in points when each question's contribution gets a random sign."""
    number = len(contributions)
    widened = contributions[:, None] * sqrt(number / (number - 1))
    names, once = tuple(map(str, range(number))), np.full((number, 1), 1 / number)
    table = ClusterTable(subset, ("difference",), names, widened, once)
    flipped: Floats = sign_flips(table, flips=flips, seed=seed)[:, 0]
    return flipped


def _adjusted(effects: Mapping[str, DepthEffect]) -> dict[str, DepthEffect]:
    """Adjust the p-values of the subsets that were compared, and decide the verdicts."""
    compared = {subset: each for subset, each in effects.items() if each.difference is not None}
    adjusted = dict(zip(compared, holm([each.p for each in compared.values()]), strict=True))
    return {
        subset: _judged(effect, adjusted[subset]) if subset in adjusted else effect
        for subset, effect in effects.items()
    }


def _judged(effect: DepthEffect, adjusted: float) -> DepthEffect:
    found = effect.difference
    verdict = "no difference shown"
    if found is not None and adjusted < SIGNIFICANT:
        holds_zero = (
            found.low is not None and found.high is not None and found.low <= 0 <= found.high
        )
        if not holds_zero:
            verdict = "ends better" if found.value > 0 else "middle better"
    return replace(effect, adjusted=adjusted, verdict=verdict)
