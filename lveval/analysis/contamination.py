"""Whether a model does better on data that it may have seen than on fresh data: a sign of
contamination.

    found = contamination.measure_gaps(published.rows, fresh.rows)
    found.overall.interval                          # of published - fresh, in points
    print(contamination.report(published, fresh))   # for whole runs

The questions of the two runs do not pair, so each run's are drawn on their own and the variances
add up; the interval is Student's with Welch's degrees of freedom (intervals.py). Files that only
one run has, and the subsets of one question (results.ONE_QUESTION), where the gap would be that
question's own, count nowhere. Imports numpy at once: import this module where it is used.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lveval.analysis.clusters import (
    DRAWS,
    SEED,
    BootstrapDraws,
    Breakdown,
    Weights,
    cluster_tables,
    measure_parts,
    resample,
)
from lveval.analysis.intervals import Interval, interval, notes
from lveval.analysis.mismatches import model_differences, section, setting_mismatches
from lveval.common.errors import SettingsMismatch
from lveval.common.table import WIDTH, text_table
from lveval.common.text import one_line, printable
from lveval.results import HEADLINE, ONE_QUESTION, Evaluation, ScoredRow, table_order


@dataclass(frozen=True)
class Gap:
    """One part of the two runs, in points."""

    published: float
    fresh: float
    interval: Interval  # of published - fresh

    @property
    def sentence(self) -> str:
        """The gap, its interval and what they say."""
        low, high = self.interval.low, self.interval.high
        said = "no difference shown"
        if low is None or high is None:
            said = self.interval.note
        elif low > 0:
            said = "the model does better on what it may have seen"
        elif high < 0:
            said = "the model does better on the fresh data"
        bounds = f" (95 % {self.interval.between('+')})" if low is not None else ""
        return f"published \N{MINUS SIGN} fresh = {self.interval.value:+.1f} points{bounds}: {said}"


def common_files(rows: Sequence[ScoredRow], others: Sequence[ScoredRow]) -> list[ScoredRow]:
    """The rows whose file both have, without the subsets of one question."""
    files = {row.file for row in others}
    return [row for row in rows if row.file in files and row.subset not in ONE_QUESTION]


def measure_gaps(
    published: Sequence[ScoredRow],
    fresh: Sequence[ScoredRow],
    protocol: str = HEADLINE,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Breakdown[Gap]:
    """Measure the gap of the files that both have, of levels and subsets, and of their mean.

    Raises SettingsMismatch where they have no file in common, UsageError as cluster_tables does.
    """
    seen, unseen = common_files(published, fresh), common_files(fresh, published)
    if not seen:
        raise SettingsMismatch(
            "the two runs have no subset in common at the same level (those of one question do not "
            "count); expected fresh data of the same subsets and levels"
        )
    tables = cluster_tables(seen, protocol)
    drawn = {table.subset: resample(table, draws=draws, seed=seed) for table in tables}
    # Under names of their own: else the same draws would serve both, as if the questions paired.
    others = {
        table.subset: resample(
            replace(table, subset=f"{table.subset}, fresh"), draws=draws, seed=seed
        )
        for table in cluster_tables(unseen, protocol)
    }

    def mean(side: Mapping[str, BootstrapDraws], weights: Weights) -> float:
        return sum(float(side[subset].values @ weight) for subset, weight in weights.items())

    def measure(weights: Weights) -> Gap:
        parts = [(drawn[subset], weight) for subset, weight in weights.items()]
        parts += [(others[subset], -weight) for subset, weight in weights.items()]
        return Gap(mean(drawn, weights), mean(others, weights), interval(parts, paired=True))

    return measure_parts(tables, measure)


def unlike(published: Evaluation, fresh: Evaluation) -> list[str]:
    """What differs between two runs beside the data, a sentence each.

    Raises SettingsMismatch where a file's data are the same in both.
    """
    data = [section(each.identity, "data") for each in (published, fresh)]
    if same := sorted(
        name for name in data[0].keys() & data[1].keys() if data[0][name] == data[1][name]
    ):
        raise SettingsMismatch(
            f"{fresh.place}: the data of {same[0]} are those of {published.place}; expected a run "
            "on fresh data"
        )
    both = published.identity, fresh.identity
    found = setting_mismatches(*both, ("published", "fresh")) + model_differences(*both)
    return [each.text for each in found]


def report(published: Evaluation, fresh: Evaluation) -> str:
    """The gaps of the subsets as a table, then that of their mean as a sentence; raises as both."""
    differ = unlike(published, fresh)
    gaps = measure_gaps(published.rows, fresh.rows)
    named = {name: gaps.subsets[name] for name in table_order(gaps.subsets)}
    lines = [["subset", "published", "fresh", "difference", "95 % interval"]]
    for name, gap in {**named, "mean": gaps.overall}.items():
        cells = f"{gap.published:.1f}", f"{gap.fresh:.1f}", f"{gap.interval.value:+.1f}"
        lines.append([name, *cells, gap.interval.between("+")])
    said = [
        f"published: {printable(published.place)}",
        f"fresh: {printable(fresh.place)}",
        *(textwrap.fill(f"unlike beyond the data: {one_line(each)}", WIDTH) for each in differ),
        text_table(lines, rules=[1, len(lines) - 1]),
        *(f"intervals: {note}" for note in notes({n: gap.interval for n, gap in named.items()})),
        f"at {', '.join(gaps.levels)}, {HEADLINE} protocol",
        gaps.overall.sentence,
    ]
    return "\n".join(said)
