"""How often a confusing fact misled the answer, English against Chinese.

    tables = clusters.value_tables(rows, misled.marks(rows, causes_of_the_rows))
    drawn = intervals.draw_together({misled.VALUE: misled.rate_tables(tables)})
    found = misled.measure_misled(rows, drawn)
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

from lveval.analysis.clusters import ClusterTable, Weights
from lveval.analysis.comparison import SIGNIFICANT
from lveval.analysis.intervals import DrawnTables, Interval, interval, student_p_value
from lveval.results import LANGUAGES, Cause, ScoredRow, by_language, table_order

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


def marks(rows: Sequence[ScoredRow], causes: Sequence[Cause]) -> dict[str, list[float]]:
    """Mark the rows that count, and those of them that were misled, for clusters.value_tables."""
    told = [bool(row.confusing_facts) and row.evidence_kept is not False for row in rows]
    hits = [
        float(counts and cause == "distracted") for counts, cause in zip(told, causes, strict=True)
    ]
    return {"misled": hits, "told": [float(counts) for counts in told]}


def rate_tables(tables: Mapping[str, Sequence[ClusterTable]]) -> list[ClusterTable]:
    """Tabulate the rate of each subset, in one column for all levels, from tables of the marks."""
    return [
        replace(
            misled,
            columns=("all",),
            totals=misled.totals.sum(axis=1, keepdims=True),
            counts=told.totals.sum(axis=1, keepdims=True),
        )
        for misled, told in zip(tables["misled"], tables["told"], strict=True)
        if told.totals.any()
    ]


def measure_misled(rows: Sequence[ScoredRow], drawn: DrawnTables) -> Misled | None:
    """Measure the rates that were drawn as VALUE; None where no row counts."""
    tables = {table.subset: table for table in drawn.tables[VALUE]}
    if not tables:
        return None
    subsets = table_order(tables)
    members = by_language(subsets)

    def mean_of(some: Sequence[str]) -> Weights:
        return {subset: np.array([1 / len(some)]) for subset in some}

    def rate(some: Sequence[str]) -> Rate:
        counted = sum(int(tables[subset].counts.sum()) for subset in some)
        misled = sum(int(tables[subset].totals.sum()) for subset in some)
        return Rate(counted, misled, drawn.interval(VALUE, mean_of(some)))

    difference, p = None, None
    if members.keys() >= LANGUAGES.keys():
        less = {subset: -weight for subset, weight in mean_of(members["zh"]).items()}
        parts = drawn.parts(VALUE, {**mean_of(members["en"]), **less})
        difference, p = interval(parts, paired=True), student_p_value(parts)
    return Misled(
        {language: rate(of_language) for language, of_language in members.items()},
        {subset: rate([subset]) for subset in subsets},
        sum(bool(row.confusing_facts) and row.evidence_kept is False for row in rows),
        difference,
        p,
    )
