"""How often a confusing fact misled the answer, English against Chinese.

    found = misled.measure_misled(rows, causes_of_the_rows)
    found.languages["en"].rate.value, found.difference.value, found.p

An answer was misled if its cause is `distracted`: it matches a confusing fact better than the truth
(causes.py). Only rows that have such a fact count, and of these only those whose evidence the
truncation did not remove: the others had no truth to prefer, and how many there are depends on how
many tokens a language takes. The rate of a subset is over its rows of all lengths, that of a
language the plain mean of its subsets, so that no subset counts by its size.

The two languages have other questions, so nothing can be paired. The difference has the interval of
intervals.py over the questions of both, and is tested by the t statistic that is behind it, after
Welch. It is one between these subsets: what the language does to it, and what the questions do,
cannot be told apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lveval import config
from lveval.analysis.clusters import DRAWS, ClusterTable, Weights, value_tables
from lveval.analysis.comparison import SIGNIFICANT
from lveval.analysis.intervals import (
    DrawnTables,
    Interval,
    draw_together,
    interval,
    student_p_value,
)
from lveval.results import LANGUAGES, Cause, ScoredRow, grouped, table_order

VALUE = "misled"  # what is drawn


@dataclass(frozen=True)
class Rate:
    """How many of some rows were misled."""

    rows: int
    misled: int
    rate: Interval  # in percent


@dataclass(frozen=True)
class Misled:
    """The rates of a run, and how far the languages are apart."""

    languages: Mapping[str, Rate]  # "en", "zh"
    subsets: Mapping[str, Rate]  # in the order of the tables
    cut: int  # rows with a fact that are left out, because their evidence was cut
    difference: Interval | None  # English less Chinese, in percentage points; None: one language
    p: float | None  # None where the difference has no interval

    @property
    def verdict(self) -> str:
        """Which language's answers were misled more often, if that is shown."""
        if self.difference is None or self.p is None or self.p >= SIGNIFICANT:
            return "no difference shown"
        return f"{LANGUAGES['en' if self.difference.value > 0 else 'zh']} more often"

    def as_data(self) -> dict[str, object]:
        """As JSON holds it."""

        def rates(parts: Mapping[str, Rate]) -> dict[str, object]:
            return {
                name: {"rows": part.rows, "misled": part.misled, "rate": part.rate.as_data()}
                for name, part in parts.items()
            }

        found = {
            "languages": rates(self.languages),
            "subsets": rates(self.subsets),
            "evidence_cut": self.cut,
        }
        if self.difference is not None:
            p = self.p if self.p is None else round(self.p, 6)
            found |= {"difference": self.difference.as_data(), "p": p, "shown": self.verdict}
        return found


def measure_misled(
    rows: Sequence[ScoredRow], causes: Sequence[Cause], *, draws: int = DRAWS
) -> Misled | None:
    """Count the misled answers; None where no row counts."""
    told = [(row, cause) for row, cause in zip(rows, causes, strict=True) if row.confusing_facts]
    used = [(row, cause) for row, cause in told if row.evidence_kept is not False]
    if not used:
        return None
    hits = [float(cause == "distracted") for _, cause in used]
    tables = value_tables([row for row, _ in used], {VALUE: hits})
    columns = [_of_all_levels(table) for table in tables[VALUE]]
    drawn = draw_together({VALUE: columns}, draws=draws)
    subsets = table_order(table.subset for table in tables[VALUE])
    members = grouped((config.DATASET_LANGUAGE[subset], subset) for subset in subsets)
    languages = {name: _mean_of(members[name]) for name in LANGUAGES if name in members}
    difference, p = _difference(drawn, languages)
    return Misled(
        {name: _rate(drawn, weights, used) for name, weights in languages.items()},
        {subset: _rate(drawn, _mean_of([subset]), used) for subset in subsets},
        len(told) - len(used),
        difference,
        p,
    )


def _of_all_levels(table: ClusterTable) -> ClusterTable:
    """Put the rows of all levels into one column."""
    totals, counts = (each.sum(axis=1, keepdims=True) for each in (table.totals, table.counts))
    return replace(table, columns=("all",), totals=totals, counts=counts)


def _mean_of(subsets: Sequence[str]) -> Weights:
    return {subset: np.array([1 / len(subsets)]) for subset in subsets}


def _rate(drawn: DrawnTables, weights: Weights, used: Sequence[tuple[ScoredRow, Cause]]) -> Rate:
    own = [cause for row, cause in used if row.subset in weights]
    return Rate(len(own), own.count("distracted"), drawn.interval(VALUE, weights))


def _difference(
    drawn: DrawnTables, languages: Mapping[str, Weights]
) -> tuple[Interval | None, float | None]:
    """English less Chinese with its p-value; None for both where a run has one of them only."""
    if languages.keys() != LANGUAGES.keys():
        return None, None
    less = {subset: -weight for subset, weight in languages["zh"].items()}
    parts = drawn.parts(VALUE, {**languages["en"], **less})
    return interval(parts, paired=True), student_p_value(parts)
