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


def tenth_of(depth: float) -> int:
    """Number the tenth of a depth, 0 to 9; 1 is in the last."""
    return min(9, int(depth * 10 + 1e-9))


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
    counts = [0] * len(TENTHS)
    for depth in depths:
        if depth is not None:
            counts[tenth_of(depth)] += 1
    return tuple(counts)


def heat_map(
    rows: Sequence[ScoredRow], depths: Mapping[RowKey, RowDepths]
) -> dict[str, tuple[HeatCell, ...]]:
    """Average the rows of each level and tenth of the context, levels by length."""
    return {
        level: tuple(
            _heat_cell([(row, shares[at]) for row, shares in shared if shares[at]])
            for at in range(len(TENTHS))
        )
        for level, of_level in rows_by_level(rows).items()
        for shared in [
            [
                (row, _shares([depth for depth, _ in depths[row.key].evidence]))
                for row in of_level
                if _has_evidence(row, depths)
            ]
        ]
    }


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


def _shares(depths: Sequence[float]) -> Floats:
    """[tenths] the share of the passages that stands in each."""
    return np.bincount([tenth_of(depth) for depth in depths], minlength=len(TENTHS)) / len(depths)


# --- score by depth, and its test ---


@dataclass(frozen=True)
class PlacedRows:
    """The rows of one subset whose evidence is whole in the prompt, as arrays of one length."""

    questions: tuple[str, ...]  # all of the subset: the draws are those of its other intervals
    question: NDArray[np.intp]  # of each row, its place in `questions`
    level: NDArray[np.str_]
    score: Floats  # 0 to 1
    shares: Floats  # [rows, tenths] of a row's passages

    def table(self, subset: str, columns: Mapping[str, Floats]) -> ClusterTable:
        """Tabulate questions by columns, given as the part of each row that counts there."""
        totals, counts = (
            np.stack([self.by_question(part * values) for part in columns.values()], axis=1)
            for values in (self.score, np.ones(len(self.score)))
        )
        return ClusterTable(subset, tuple(columns), self.questions, totals, counts)

    def by_question(self, values: Floats) -> Floats:
        """Sum the values of each question's rows."""
        return np.bincount(self.question, values, len(self.questions)).astype(np.float64)


@dataclass(frozen=True)
class Contrast:
    """Evidence near the ends against evidence in the middle, at one level."""

    weight: float
    ends: Floats  # [rows] the part of each that counts there
    middle: Floats

    def contributions(self, scores: Floats) -> Floats:
        """What each row adds to the difference of the means, taken about the level's mean."""
        here = self.ends + self.middle
        about = scores - (scores @ here) / here.sum()
        found: Floats = about * (self.ends / self.ends.sum() - self.middle / self.middle.sum())
        return found


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
    columns: dict[str, Floats] = {
        tenth: share for tenth, share in zip(TENTHS, placed.shares.T, strict=True) if share.any()
    }
    tenths = tuple(columns)
    compared = contrasts(placed)
    for level, each in compared.items():
        columns |= {f"ends {level}": each.ends, f"middle {level}": each.middle}
    drawn = resample(placed.table(rows[0].subset, columns), draws=draws, seed=seed)

    def weights(of_columns: Mapping[str, float]) -> Floats:
        return np.array([of_columns.get(name, 0.0) for name in columns])

    effect = DepthEffect(
        len(placed.score), {tenth: interval([(drawn, weights({tenth: 1.0}))]) for tenth in tenths}
    )
    if not compared:
        return effect
    whole = fsum(each.weight for each in compared.values())
    ends, middle = (
        weights({f"{side} {level}": each.weight / whole for level, each in compared.items()})
        for side in ("ends", "middle")
    )
    difference = interval([(drawn, ends - middle)], paired=True)
    moved = placed.by_question(
        np.sum(
            [each.weight / whole * each.contributions(placed.score) for each in compared.values()],
            axis=0,
        )
    )
    return replace(
        effect,
        levels=tuple(compared),
        ends=float(drawn.values @ ends),
        middle=float(drawn.values @ middle),
        difference=difference,
        p=p_value(difference.value, _flipped(rows[0].subset, moved, flips, seed)),
    )


def place_rows(rows: Sequence[ScoredRow], depths: Mapping[RowKey, RowDepths]) -> PlacedRows | None:
    """Collect the rows whose evidence is found whole in the prompt; None where there is none."""
    placed = []
    for row in rows:
        found = [depth for _, depth in depths.get(row.key, RowDepths()).evidence]
        told = [depth for depth in found if depth is not None]
        if found and len(told) == len(found):
            placed.append((row, _shares(told)))
    if not placed:
        return None
    questions = tuple(sorted({row.question for row in rows}))
    line = {question: at for at, question in enumerate(questions)}
    return PlacedRows(
        questions,
        np.array([line[row.question] for row, _ in placed]),
        np.array([row.level for row, _ in placed]),
        np.array([row.released for row, _ in placed]),
        np.array([shares for _, shares in placed]),
    )


def contrasts(placed: PlacedRows) -> dict[str, Contrast]:
    """Set the two sides of each level against each other, by length, where both have questions."""
    near = placed.shares[:, ENDS].sum(axis=1)
    found = {}
    for level in sorted(set(placed.level.tolist()), key=level_length):
        here = (placed.level == level).astype(np.float64)
        ends, middle = near * here, (1 - near) * here
        asked = (len(set(placed.question[side > ROUNDING].tolist())) for side in (ends, middle))
        if min(asked) >= LEAST_QUESTIONS:
            weight = float(ends.sum() * middle.sum() / here.sum())
            found[level] = Contrast(weight, ends, middle)
    return found


def _flipped(subset: str, contributions: Floats, flips: int, seed: int) -> Floats:
    """[flips] the difference in points when each question's contribution gets a random sign."""
    moved = contributions[contributions != 0]
    if len(moved) < 2:
        return np.full(flips, np.inf)  # as good as no test: p is 1
    moved = moved * sqrt(len(moved) / (len(moved) - 1))
    names = tuple(map(str, range(len(moved))))
    once = np.full((len(moved), 1), 1 / len(moved))
    table = ClusterTable(subset, ("difference",), names, moved[:, None], once)
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
    if adjusted < SIGNIFICANT and found and found.low is not None and found.high is not None:
        if found.low > 0:
            verdict = "ends better"
        elif found.high < 0:
            verdict = "middle better"
    return replace(effect, adjusted=adjusted, verdict=verdict)
