"""Whether two runs differ: paired per question, with intervals, p-values and a verdict in words.

    found = comparison.compare_runs(rows_a, rows_b, "released")   # rows: results.ScoredRow
    found.parts.levels["16k"].verdict               # "A better", "B better", "no difference shown"
    comparison.compare_with(a, {"other": b})        # both of these, for whole runs
    comparison.compare_every_pair(a, {"b": b, "c": c})["recall"]   # under each protocol

Only (subset, level, question) that both runs answered count. The interval is that of intervals.py,
on the differences. The p-value is that of a sign-flip permutation test (Davison & Hinkley 1997,
section 4.3): were the runs alike, each question's differences could as well have come out with the
other sign, at all levels together; questions of all subsets flip independently. (That tests whether
the runs are alike. Where two have the same mean and very different spreads, it can take the spreads
for a lead a little more often than 5 % over few questions; read the interval too.) p-values are
adjusted within each family, the levels, the languages, the subsets and the files of all pairs that
are compared at once, after Holm (1979, Scandinavian Journal of Statistics 6), and the adjusted
ones decide the verdicts.

A run and its control (data/controls.py) are compared like any two runs; the difference then has a
name and a sign of its own: see Contrast.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import fsum, nan
from typing import Literal, TypeVar, cast

import numpy as np

from lveval import metrics
from lveval.analysis.clusters import (
    DRAWS,
    ROUNDING,
    SEED,
    BootstrapDraws,
    Breakdown,
    ClusterTable,
    Floats,
    Weights,
    chunks,
    cluster_tables,
    generator,
    measure_parts,
    overall_weights,
    resample,
)
from lveval.analysis.intervals import Interval, interval, notes
from lveval.analysis.mismatches import (
    LETTERS,
    THE_CONTROL,
    mismatches,
    model_differences,
    version_mismatches,
)
from lveval.common.errors import LVEvalError, SettingsMismatch
from lveval.common.logs import log
from lveval.data.controls import CONTROLS, Control
from lveval.results import (
    HEADLINE,
    PROTOCOLS,
    Evaluation,
    ScoredRow,
    Scores,
    by_language,
    grouped,
    level_means,
    overall_mean,
    run_names,
    shortened,
    subset_means,
    table_order,
)

FLIPS = 10_000

# For several runs at once, so that the least p-value stays below 0.05 after Holm over 55 files.
FLIPS_PER_RUN = 2_000

SIGNIFICANT = 0.05  # the adjusted p-value below which a difference counts as shown

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """One part of two runs: their scores over the questions of both, in points.

    The scores are those of the tables, from rounded scores of files; the difference is not rounded.
    """

    a: float
    b: float
    interval: Interval  # of A minus B
    p: float  # of the sign-flip test
    adjusted: float  # after Holm, over the part's family
    verdict: str  # "A better", "B better" or "no difference shown"

    def as_data(self) -> dict[str, object]:
        """As JSON holds it."""
        return {
            "a": round(self.a, 2),
            "b": round(self.b, 2),
            "difference": self.interval.as_data(),
            "p": round(self.p, 6),
            "p_holm": round(self.adjusted, 6),
            "shown": self.verdict,
        }


@dataclass(frozen=True)
class Contrast:
    """What the difference of a full run and its control is, and how its sign is to be read."""

    control: str
    full: Literal["A", "B"]  # which of the two runs is the full one

    @property
    def kind(self) -> Control:
        """The control itself."""
        return CONTROLS[self.control]

    @property
    def name(self) -> str:
        """Such as "context gain"."""
        return self.kind.contrast

    @property
    def words(self) -> str:
        """What is computed and what it tells, in a sentence."""
        first, second = ("full", self.control) if self.kind.from_full else (self.control, "full")
        return f"{self.name.capitalize()}: {first} - {second}, in points: {self.kind.tells}."

    def of(self, part: Difference) -> Interval:
        """The contrast, from the difference A minus B."""
        as_it_is = (self.full == "A") == self.kind.from_full
        return part.interval if as_it_is else part.interval.negated()

    def scores(self, part: Difference) -> tuple[float, float]:
        """The full run's score and the control's."""
        return (part.a, part.b) if self.full == "A" else (part.b, part.a)

    def verdict(self, part: Difference) -> str:
        """The verdict with the runs' roles in place of their letters."""
        first = "full" if part.verdict[0] == self.full else self.control
        return f"{first} better" if part.verdict in ("A better", "B better") else part.verdict


@dataclass(frozen=True)
class Comparison:
    """All parts of two runs, and how much of them could be paired."""

    parts: Breakdown[Difference]
    rows: int  # of each run, that both have
    paired: int  # the questions at a level, (subset, level, question), that these are
    only_a: int  # rows that B lacks
    only_b: int
    languages: Mapping[str, Difference]  # mean of the level means
    flags: tuple[str, ...] = ()  # differences of the runs beyond the model, a sentence each
    contrast: Contrast | None = None  # where one run is a control and the other is not
    names: tuple[str, str] = LETTERS  # of the runs, as texts and tables have them

    def shown(self, part: Difference, most: int = 100) -> str:
        """The verdict on a part; the runs' names, of `most` characters, or roles for letters."""
        if self.contrast:
            return self.contrast.verdict(part)
        names = shortened(self.names, most)
        better = dict(zip(("A better", "B better"), names, strict=True)).get(part.verdict)
        return f"{better} better" if better else part.verdict

    @property
    def table_parts(self) -> dict[str, Difference]:
        """The parts that tables show, by name: all, the levels, the languages, the subsets."""
        subsets = {name: self.parts.subsets[name] for name in table_order(self.parts.subsets)}
        languages = self.languages if len(self.languages) > 1 else {}  # one is all there is
        return {"all": self.parts.overall, **self.parts.levels, **languages, **subsets}

    @property
    def beyond(self) -> str:
        """What a flag tells, in words."""
        return f"unlike beyond the {'control' if self.contrast else 'model'}"

    @property
    def interval_notes(self) -> list[str]:
        """Caveats of the intervals that tables show."""
        return notes({name: part.interval for name, part in self.table_parts.items()})

    @property
    def counts_text(self) -> str:
        """What was compared, in words."""
        several = "; a question with several rows there counts once" * (self.rows != self.paired)
        return (
            f"{self.rows:,} rows of both, {self.paired:,} questions at a length{several}; "
            f"left out: {self.only_a:,} rows of {self.names[0]} alone, "
            f"{self.only_b:,} of {self.names[1]} alone"
        )

    def as_data(self) -> dict[str, object]:
        """Everything as JSON holds it; files as <subset>_<level>."""
        return {
            "unlike": list(self.flags),
            "rows": self.rows,
            "paired": self.paired,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "overall": self.parts.overall.as_data(),
            "levels": {level: part.as_data() for level, part in self.parts.levels.items()},
            "languages": {name: part.as_data() for name, part in self.languages.items()},
            "subsets": {subset: part.as_data() for subset, part in self.parts.subsets.items()},
            "files": {"_".join(file): part.as_data() for file, part in self.parts.files.items()},
            **({"contrast": self._contrast_data(self.contrast)} if self.contrast else {}),
        }

    def _contrast_data(self, contrast: Contrast) -> dict[str, object]:
        def signed(parts: Mapping[str, Difference]) -> dict[str, object]:
            return {name: contrast.of(part).as_data() for name, part in parts.items()}

        return {
            "name": contrast.name,
            "control": contrast.control,
            "full": contrast.full,
            "overall": contrast.of(self.parts.overall).as_data(),
            "levels": signed(self.parts.levels),
            "languages": signed(self.languages),
            "subsets": signed(self.parts.subsets),
            "files": signed({"_".join(file): part for file, part in self.parts.files.items()}),
        }


@dataclass(frozen=True)
class PairedSubset:
    """One subset in both runs, over the same questions, and how the differences vary by chance."""

    a: ClusterTable
    drawn: BootstrapDraws  # of A minus B
    flipped: Floats  # [flips, columns] of A minus B


def compare_runs(
    rows_a: Sequence[ScoredRow],
    rows_b: Sequence[ScoredRow],
    protocol: str = "released",
    *,
    draws: int = DRAWS,
    flips: int = FLIPS,
    seed: int = SEED,
) -> Comparison:
    """Compare two runs question by question, rows in any order; positive differences are A's lead.

    A question with several rows at a level counts once there, with their mean. Raises UsageError as
    cluster_tables does, SettingsMismatch where the two have no question in common at any level.
    """
    shared_a, shared_b = in_both(rows_a, rows_b) if rows_a and rows_b else (rows_a, rows_b)
    if rows_a and rows_b and not shared_a:
        raise SettingsMismatch(
            "the two runs have no question in common at the same level; expected runs over the "
            "same data; check that both folders hold the same subsets and levels"
        )
    subsets = {}
    # Both have the same questions at the same levels now: the tables differ in the scores only.
    for a, b in zip(
        map(counted_once, cluster_tables(shared_a, protocol)),
        map(counted_once, cluster_tables(shared_b, protocol)),
        strict=True,
    ):
        difference = replace(a, totals=a.totals - b.totals)
        drawn = resample(difference, draws=draws, seed=seed)
        flipped = sign_flips(difference, flips=flips, seed=seed)
        subsets[a.subset] = PairedSubset(a, drawn, flipped)
    tables = [subset.a for subset in subsets.values()]
    shown = [table_scores(rows, protocol) for rows in (shared_a, shared_b)]
    found = measure_parts(tables, lambda weights: measure_difference(subsets, weights))
    parts = Breakdown(
        files=_with_scores(found.files, *shown),
        levels=_with_scores(found.levels, *map(level_means, shown)),
        subsets=_with_scores(found.subsets, *map(subset_means, shown)),
        overall=replace(found.overall, a=overall_mean(shown[0]), b=overall_mean(shown[1])),
    )
    languages = {}
    for language, spoken in by_language(subsets).items():
        weights = overall_weights([subsets[each].a for each in spoken])
        means = [
            overall_mean({file: score for file, score in scores.items() if file[0] in spoken})
            for scores in shown
        ]
        part = measure_difference(subsets, weights)
        languages[language] = replace(part, a=means[0], b=means[1])
    return Comparison(
        adjust_p_values([parts])[0],
        rows=len(shared_a),
        paired=sum(int(table.counts.sum()) for table in tables),
        only_a=len(rows_a) - len(shared_a),
        only_b=len(rows_b) - len(shared_b),
        languages=_adjust_family([languages])[0],
    )


def measure_difference(subsets: Mapping[str, PairedSubset], weights: Weights) -> Difference:
    """Measure one part, the weighted sum of columns.

    Its p-value is not adjusted yet; its scores are left for those of the tables.
    """
    used = [(subsets[subset], weight) for subset, weight in weights.items()]
    found = interval([(subset.drawn, weight) for subset, weight in used], paired=True)
    flipped = np.sum([subset.flipped @ weight for subset, weight in used], axis=0)
    p = p_value(found.value, flipped)
    return Difference(nan, nan, found, p, p, "")


def table_scores(rows: Sequence[ScoredRow], protocol: str) -> Scores:
    """Score each file as the tables do, but a question with several rows there counts once."""
    found = {}
    for file, of_file in grouped((row.file, row) for row in rows).items():
        questions = grouped((row.question, row.scores[protocol]) for row in of_file)
        counted = [fsum(scores) / len(scores) for scores in questions.values()]
        found[file] = metrics.file_score(counted)
    return found


def _with_scores(
    found: Mapping[Key, Difference], a: Mapping[Key, float], b: Mapping[Key, float]
) -> dict[Key, Difference]:
    return {key: replace(part, a=a[key], b=b[key]) for key, part in found.items()}


def in_both(
    rows_a: Sequence[ScoredRow], rows_b: Sequence[ScoredRow]
) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """Keep the rows of each run that the other has too.

    Rows are matched by question, and by place in the data where both runs record it: else a
    question with several rows, of which one run answered only some, would have two unlike means.
    """
    placed = all("index" in row.record for row in (*rows_a, *rows_b))
    keyed_a, keyed_b = (
        [((row.file, row.question, row.index if placed else 0), row) for row in rows]
        for rows in (rows_a, rows_b)
    )
    common = {key for key, _ in keyed_a} & {key for key, _ in keyed_b}
    return (
        [row for key, row in keyed_a if key in common],
        [row for key, row in keyed_b if key in common],
    )


def counted_once(table: ClusterTable) -> ClusterTable:
    """Count each question once at a level, with the mean of its rows there."""
    present = table.counts > 0
    totals = np.where(present, table.means, 0.0)
    return replace(table, totals=totals, counts=present.astype(np.float64))


def sign_flips(table: ClusterTable, *, flips: int = FLIPS, seed: int = SEED) -> Floats:
    """[flips, columns] the means in points when each question gets a random sign at all levels."""
    random = generator(table.subset, "flips", seed)
    shares = 100 * table.totals / table.counts.sum(axis=0)
    flipped = np.empty((flips, len(table.columns)))
    for chunk in chunks(flips, len(table.questions)):
        size = chunk.stop - chunk.start, len(table.questions)
        flipped[chunk] = (2.0 * random.integers(2, size=size, dtype=np.int8) - 1) @ shares
    return flipped


def p_value(value: float, flipped: Floats) -> float:
    """Two-sided (k+1)/(n+1), k of n flips being at least as far from 0 as the value; never 0."""
    as_far = np.sum(np.abs(flipped) >= abs(value) - ROUNDING)
    return float((as_far + 1) / (len(flipped) + 1))


def adjust_p_values(runs: Sequence[Breakdown[Difference]]) -> list[Breakdown[Difference]]:
    """Adjust the p-values and decide the verdicts; each family spans all the runs."""
    files = _adjust_family([parts.files for parts in runs])
    levels = _adjust_family([parts.levels for parts in runs])
    subsets = _adjust_family([parts.subsets for parts in runs])
    overall = _adjust_family([{"": parts.overall} for parts in runs])
    return [
        Breakdown(of_files, of_levels, of_subsets, alone[""])
        for of_files, of_levels, of_subsets, alone in zip(
            files, levels, subsets, overall, strict=True
        )
    ]


def _adjust_family(runs: Sequence[Mapping[Key, Difference]]) -> list[dict[Key, Difference]]:
    adjusted = iter(holm([difference.p for run in runs for difference in run.values()]))
    return [{key: _judge(found, next(adjusted)) for key, found in run.items()} for run in runs]


def _judge(difference: Difference, adjusted: float) -> Difference:
    verdict = "no difference shown"
    if adjusted < SIGNIFICANT:
        verdict = "A better" if difference.interval.value > 0 else "B better"
    return replace(difference, adjusted=adjusted, verdict=verdict)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust step down, in the order given: the smallest times m, the next times m - 1, …"""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


Pair = tuple[str, str]  # of two runs, by their places


def compare_under_all(
    a: Evaluation, others: Mapping[str, Evaluation]
) -> dict[str, dict[str, Comparison]]:
    """Compare a run with each of the others under each protocol; see compare_every_pair."""
    every = compare_every_pair(a, others)
    return {
        protocol: {name: found[a.place, name] for name in others}
        for protocol, found in every.items()
    }


def compare_every_pair(
    a: Evaluation, others: Mapping[str, Evaluation]
) -> dict[str, dict[Pair, Comparison]]:
    """Compare each two of the runs under each protocol, those with `a` first.

    The p-values are adjusted over all pairs, so that a pair has the same wherever it is shown.
    Raises as compare_with; two of the others that cannot be compared are left out, and that is
    said.
    """
    runs = {name: other for name, other in others.items() if name != a.place}
    named = dict(zip((a.place, *others), run_names([a, *others.values()]), strict=False))
    pairs = {(a.place, name): (a, other) for name, other in others.items()}
    for (first, run), (second, other) in combinations(runs.items(), 2):
        try:
            _accepted_mismatches(second, run, other)
        except LVEvalError as error:
            log.warning("%s: not compared with %s", first, error.message)
            continue
        if in_both(run.rows, other.rows)[0]:
            pairs[first, second] = run, other
    names = {(first, second): (named[first], named[second]) for first, second in pairs}
    return {protocol: _compare(pairs, protocol, names) for protocol in PROTOCOLS}


def compare_with(
    a: Evaluation, others: Mapping[str, Evaluation], protocol: str = HEADLINE
) -> dict[str, Comparison]:
    """Compare a run with each of the others; SettingsMismatch where that is meaningless."""
    pairs = {("", name): (a, other) for name, other in others.items()}
    return {name: found for (_, name), found in _compare(pairs, protocol, {}).items()}


def _compare(
    pairs: Mapping[Pair, tuple[Evaluation, Evaluation]],
    protocol: str,
    names: Mapping[Pair, tuple[str, str]],
) -> dict[Pair, Comparison]:
    """Compare each pair; the p-values are adjusted over all of them."""
    called = {pair: names.get(pair, LETTERS) for pair in pairs}
    flags = {
        pair: tuple(_accepted_mismatches(pair[1], *runs, called[pair]))
        for pair, runs in pairs.items()
    }
    flips = max(FLIPS, FLIPS_PER_RUN * len(pairs))
    compared = []
    for (_, name), (a, b) in pairs.items():
        try:
            compared.append(compare_runs(a.rows, b.rows, protocol, flips=flips))
        except LVEvalError as error:
            raise type(error)(f"{name}: {error.message}") from error
    adjusted = adjust_p_values([comparison.parts for comparison in compared])
    languages = _adjust_family([comparison.languages for comparison in compared])
    return {
        pair: replace(
            comparison,
            parts=parts,
            languages=of_languages,
            names=called[pair],
            flags=flags[pair],
            contrast=contrast_of(*pairs[pair]),
        )
        for pair, comparison, parts, of_languages in zip(
            pairs, compared, adjusted, languages, strict=True
        )
    }


def contrast_of(a: Evaluation, b: Evaluation) -> Contrast | None:
    """Say what a comparison tells of which one run is a control that is known here."""
    controls = a.control, b.control
    for (control, other), full in ((controls, "B"), (controls[::-1], "A")):
        if control in CONTROLS and other is None:
            return Contrast(control, cast(Literal["A", "B"], full))
    return None


def _accepted_mismatches(
    name: str, a: Evaluation, b: Evaluation, names: tuple[str, str] = LETTERS
) -> list[str]:
    """Every mismatch that leaves a comparison possible, and what is missing, in a sentence each."""
    found = mismatches(a.identity, b.identity, names) + version_mismatches(b)
    if contrast_of(a, b):
        found = [mismatch for mismatch in found if not mismatch.text.startswith(THE_CONTROL)]
        found += model_differences(a.identity, b.identity)
    if refused := [mismatch.text for mismatch in found if mismatch.refuses]:
        more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
        raise SettingsMismatch(
            f"{name}: cannot be compared: {'; '.join(refused[:3])}{more}; "
            "expected runs over the same data, under the same protocols"
        )
    if not b.rows:
        raise SettingsMismatch(f"{name}: no row has an answer; expected a run to compare with")
    runs = ((names[0], a), (names[1], b))
    return [
        *(mismatch.text for mismatch in found),
        *(f"{run.missing} rows of {name} have no answer" for name, run in runs if run.missing),
        *(f"{run.edited_rows} rows of {name} were edited" for name, run in runs if run.edited),
    ]
