"""Whether two runs differ: paired per question, with intervals, p-values and a verdict in words.

    found = comparison.compare_runs(rows_a, rows_b, "released")   # rows: results.ScoredRow
    found.parts.levels["16k"].verdict               # "A better", "B better", "no difference shown"
    comparison.mismatches(identity_a, identity_b)   # how the settings of two run.json differ
    comparison.compare_with(a, {"other": b})        # both of these, for whole runs
    comparison.compare_under_all(a, {"other": b})["recall"]    # under each protocol

Only (subset, level, question) that both runs answered count. The interval is that of intervals.py,
on the differences. The p-value is that of a sign-flip permutation test (Davison & Hinkley 1997,
section 4.3): were the runs alike, each question's differences could as well have come out with the
other sign, at all levels together; questions of all subsets flip independently. (That tests whether
the runs are alike. Where two have the same mean and very different spreads, it can take the spreads
for a lead a little more often than 5 % over few questions; read the interval too.) p-values are
adjusted within each family, the levels, the languages, the subsets and the files of all runs that A
is compared with at once, after Holm (1979, Scandinavian Journal of Statistics 6), and the adjusted
ones decide the verdicts.

A run and its control (data/controls.py) are compared like any two runs; the difference then has a
name and a sign of its own: see Contrast.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Literal, TypeVar, cast

import numpy as np

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
from lveval.common.errors import LVEvalError, SettingsMismatch
from lveval.data.controls import CONTROLS, Control
from lveval.results import HEADLINE, PROTOCOLS, Evaluation, ScoredRow, by_language, table_order
from lveval.runs.spec import differences

FLIPS = 10_000

# For several runs at once, so that the least p-value stays below 0.05 after Holm over 55 files.
FLIPS_PER_RUN = 2_000

SIGNIFICANT = 0.05  # the adjusted p-value below which a difference counts as shown

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """One part of two runs: their scores over the questions of both, in points."""

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
            f"left out: {self.only_a:,} rows of A alone, {self.only_b:,} of B alone"
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
class Mismatch:
    """A setting other than the model in which two runs differ."""

    text: str  # one sentence
    refuses: bool  # whether a comparison is meaningless; else it is only to be read with care


@dataclass(frozen=True)
class PairedSubset:
    """One subset in both runs, over the same questions, and how the differences vary by chance."""

    a: ClusterTable
    b: ClusterTable
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
        subsets[a.subset] = PairedSubset(a, b, drawn, flipped)
    tables = [subset.a for subset in subsets.values()]
    parts = measure_parts(tables, lambda weights: measure_difference(subsets, weights))
    languages = {
        language: measure_difference(subsets, overall_weights([subsets[each].a for each in spoken]))
        for language, spoken in by_language(subsets).items()
    }
    return Comparison(
        adjust_p_values([parts])[0],
        rows=len(shared_a),
        paired=sum(int(table.counts.sum()) for table in tables),
        only_a=len(rows_a) - len(shared_a),
        only_b=len(rows_b) - len(shared_b),
        languages=_adjust_family([languages])[0],
    )


def measure_difference(subsets: Mapping[str, PairedSubset], weights: Weights) -> Difference:
    """Measure one part, the weighted sum of columns; its p-value is not adjusted yet."""
    used = [(subsets[subset], weight) for subset, weight in weights.items()]
    a = fsum(float(column_means(subset.a) @ weight) for subset, weight in used)
    b = fsum(float(column_means(subset.b) @ weight) for subset, weight in used)
    found = interval([(subset.drawn, weight) for subset, weight in used], paired=True)
    flipped = np.sum([subset.flipped @ weight for subset, weight in used], axis=0)
    p = p_value(found.value, flipped)
    return Difference(a, b, found, p, p, "")


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


def column_means(table: ClusterTable) -> Floats:
    """[columns] the plain means, in points."""
    means: Floats = 100 * table.totals.sum(axis=0) / table.counts.sum(axis=0)
    return means


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


def compare_under_all(
    a: Evaluation, others: Mapping[str, Evaluation]
) -> dict[str, dict[str, Comparison]]:
    """Compare a run with each of the others under each protocol; raises as compare_with."""
    return {protocol: compare_with(a, others, protocol) for protocol in PROTOCOLS}


def compare_with(
    a: Evaluation, others: Mapping[str, Evaluation], protocol: str = HEADLINE
) -> dict[str, Comparison]:
    """Compare a run with each of the others; SettingsMismatch where that is meaningless."""
    flags = {name: _accepted_mismatches(name, a, other) for name, other in others.items()}
    flips = max(FLIPS, FLIPS_PER_RUN * len(others))
    compared = {}
    for name, other in others.items():
        try:
            compared[name] = compare_runs(a.rows, other.rows, protocol, flips=flips)
        except LVEvalError as error:
            raise type(error)(f"{name}: {error.message}") from error
    adjusted = adjust_p_values([comparison.parts for comparison in compared.values()])
    languages = _adjust_family([comparison.languages for comparison in compared.values()])
    return {
        name: replace(
            comparison,
            parts=parts,
            languages=of_languages,
            flags=tuple(flags[name]),
            contrast=contrast_of(a, others[name]),
        )
        for (name, comparison), parts, of_languages in zip(
            compared.items(), adjusted, languages, strict=True
        )
    }


def contrast_of(a: Evaluation, b: Evaluation) -> Contrast | None:
    """Say what a comparison tells of which one run is a control that is known here."""
    controls = a.control, b.control
    for (control, other), full in ((controls, "B"), (controls[::-1], "A")):
        if control in CONTROLS and other is None:
            return Contrast(control, cast(Literal["A", "B"], full))
    return None


def _accepted_mismatches(name: str, a: Evaluation, b: Evaluation) -> list[str]:
    """Every mismatch that leaves a comparison possible, and what is missing, in a sentence each."""
    found = mismatches(a.identity, b.identity) + version_mismatches(b)
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
    missing = {"A": a.missing, "B": b.missing}
    return [mismatch.text for mismatch in found] + [
        f"{rows} rows of {run} have no answer" for run, rows in missing.items() if rows
    ]


# --- whether the two runs can be compared at all ---


def version_mismatches(run: Evaluation) -> list[Mismatch]:
    """Refuse a run whose own results are of another version of a protocol than is compared."""
    return [
        Mismatch(
            f"its results are of {recorded} and this comparison would be of "
            f"{PROTOCOLS[name].label}, another version of the protocol; score it again with "
            f"evaluation.py --input-dir {run.folder}",
            True,
        )
        for name, recorded in run.recorded_protocols.items()
        if name in PROTOCOLS and recorded != PROTOCOLS[name].label
    ]


# Options that say which model it is.
OF_THE_MODEL = {"revision", "backend_file", "backend_package"}

THE_CONTROL = "different control"  # how the mismatch begins that a contrast is about


def model_differences(
    identity_a: Mapping[str, object], identity_b: Mapping[str, object]
) -> list[Mismatch]:
    """Flag another model or engine, which a contrast with a control does not allow for.

    Left out is what mismatches() tells, and the run's name.
    """
    told = {"engine.request_args", "engine.system_message", "engine.pure_greedy"}
    parts = [
        {
            **{name: each.get(name) for name in ("backend", "engine", "backend_args", "tables")},
            "given": {name: section(each, "given").get(name) for name in OF_THE_MODEL},
        }
        for each in (identity_a, identity_b)
        if each
    ]
    if len(parts) < 2:
        return []
    unlike = [name for name, *_ in differences(*parts) if not name.startswith(tuple(told))]
    more = ", …" if len(unlike) > 3 else ""
    text = f"different models or engines ({', '.join(unlike[:3])}{more}): no contrast of one model"
    return [Mismatch(text, False)] if unlike else []


def _short(text: str) -> str:
    return "none" if text == "null" else text if len(text) <= 60 else f"{text[:57]}…"


def mismatches(
    identity_a: Mapping[str, object], identity_b: Mapping[str, object]
) -> list[Mismatch]:
    """List what differs beyond the model in the `identity` of two run.json; refusals come first.

    Refused: data of a common file that differ, no file in common. Flagged: other prompts, chat
    format, limit of tokens, budgets or decoding, and what a run did not record (folders of the
    published harness have no run.json: pass an empty mapping).
    """
    both = identity_a, identity_b
    found = data_mismatches(*(section(each, "data") for each in both))
    prompts = [section(each, "prompts") for each in both]
    hashes = [each.get("sha256") for each in prompts]
    names = [f"{each.get('name', 'unnamed')}-{str(each.get('sha256'))[:8]}" for each in prompts]
    found += difference_notes("prompts", hashes, names)
    for field, words in (("chat_template", "chat format"), ("model_max_len", "limit of tokens")):
        found += difference_notes(words, [each.get(field) for each in both])
    engines = [section(each, "engine") for each in both]
    for field, words in (
        ("request_args", "--request-args"),
        ("system_message", "system message"),
        ("pure_greedy", "--pure-greedy"),
    ):
        found += difference_notes(words, [engine.get(field) or "none" for engine in engines])
    given = [section(each, "given") for each in both]
    for field in sorted({*given[0], *given[1]} - OF_THE_MODEL):
        values = [json.dumps(each.get(field), sort_keys=True) for each in given]
        found += difference_notes(field, values, [_short(value) for value in values])
    budgets = [section(each, "budgets") for each in both]
    if not all(budgets):
        found += difference_notes("budgets of answers", [each or None for each in budgets])
    for subset in sorted(budgets[0].keys() & budgets[1].keys()):
        found += difference_notes(f"budget of {subset} answers", [each[subset] for each in budgets])
    own = [section(each, "subsets") for each in both]
    for subset in sorted(own[0].keys() & own[1].keys()):
        found += _own_mismatches(subset, *(section(each, subset) for each in own))
    return sorted(found, key=lambda mismatch: not mismatch.refuses)


# Of the definition of a user's own subset: what its scores depend on, beside the answers.
SCORED_BY = ("language", "metric", "metric_described", "metric_recall")


def _own_mismatches(
    subset: str, a: Mapping[str, object], b: Mapping[str, object]
) -> list[Mismatch]:
    """Compare two definitions of one subset: refused where they are scored in two ways."""
    found = [
        Mismatch(f"{subset} has the {field} {a.get(field)} in A, {b.get(field)} in B", True)
        for field in SCORED_BY
        if a.get(field) != b.get(field)
    ]
    prompts = [_short(json.dumps(each.get("prompt"))) for each in (a, b)]
    return found + difference_notes(
        f"prompt of {subset}", [a.get("prompt"), b.get("prompt")], prompts
    )


def data_mismatches(a: Mapping[str, object], b: Mapping[str, object]) -> list[Mismatch]:
    """Compare two "data" sections, <subset>_<level> -> fingerprint of the file."""
    if not a or not b:
        return difference_notes("fingerprints of the data", [a or None, b or None])
    common = sorted(a.keys() & b.keys())
    if not common:
        return [Mismatch("the runs have no data file in common", True)]
    unlike = "differ: not the same questions, or not the same contexts"
    return [Mismatch(f"the data of {name} {unlike}", True) for name in common if a[name] != b[name]]


def difference_notes(
    words: str, values: Sequence[object], names: Sequence[object] = ()
) -> list[Mismatch]:
    """Flag values of A and B that differ or are None; `names` are shown in place of the values."""
    missing = [run for run, value in zip("AB", values, strict=True) if value is None]
    if missing:
        runs = " and ".join(missing)
        return [Mismatch(f"{words}: cannot be compared, not recorded in {runs}", False)]
    if values[0] == values[1]:
        return []
    a, b = names or values
    return [Mismatch(f"different {words}: {a} in A, {b} in B", False)]


def section(identity: Mapping[str, object], field: str) -> Mapping[str, object]:
    """A part of an identity that is a mapping; empty where it is missing."""
    found = identity.get(field)
    return found if isinstance(found, Mapping) else {}
