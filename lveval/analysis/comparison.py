"""Whether two runs differ: paired per question, with intervals, p-values and a verdict in words.

    found = comparison.of(rows_a, rows_b, "released")     # rows: analysis.ScoredRow of the two runs
    found.parts.levels["16k"].verdict                     # "A better", "B better" or "no difference shown"
    comparison.mismatches(identity_a, identity_b)         # what makes the two runs unlike, from their run.json
    comparison.against(a, {"other": b})                   # both of these, for whole runs

Only (subset, level, question) that both runs answered count. The interval is that of intervals.py, on the differences.
The p-value is that of a sign-flip permutation test (Davison & Hinkley 1997, section 4.3): were the runs alike, each
question's differences could as well have come out with the other sign, at all levels together; questions of all
subsets flip independently. (That tests whether the runs are alike. Where two have the same mean and very different
spreads, it can take the spreads for a lead a little more often than 5 % over few questions; read the interval too.)
p-values are adjusted within each family, the levels, the subsets and the files of all runs that A is compared with at
once, after Holm (1979, Scandinavian Journal of Statistics 6), and the adjusted ones decide the verdicts.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Protocol, TypeVar

import numpy as np

from lveval.analysis.clusters import (
    DRAWS,
    SEED,
    Breakdown,
    ClusterTable,
    Floats,
    chunks,
    cluster_tables,
    each_part,
    generator,
    resample,
)
from lveval.analysis.intervals import Interval, interval, notes
from lveval.common.errors import LVEvalError, SettingsMismatch
from lveval.results import ScoredRow, table_order

FLIPS = 10_000

FLIPS_PER_RUN = 2_000  # of several at once, so that the least p-value stays below 0.05 after Holm: 55 files / 2,000

SIGNIFICANT = 0.05  # the adjusted p-value below which a difference counts as shown


_SAME = 1e-9  # points; a flipped difference this much smaller counts as no smaller, for the sums are rounded


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """One part of two runs: their scores over the questions of both and what tells them apart, in points."""

    a: float
    b: float
    interval: Interval  # of A minus B
    p: float  # of the sign-flip test
    adjusted: float  # after Holm, over the part's family
    verdict: str  # "A better", "B better" or "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """All parts of two runs, and how much of them could be paired."""

    parts: Breakdown[Difference]
    rows: int  # of each run, that both have
    paired: int  # the questions at a level, (subset, level, question), that these are
    only_a: int  # rows that B lacks
    only_b: int
    flags: tuple[str, ...] = ()  # in what the runs are unlike beyond the model, a sentence each


class Run(Protocol):
    """What is asked of a run; scoring.Evaluation has it."""

    @property
    def rows(self) -> Sequence[ScoredRow]:
        """Its scored rows."""

    @property
    def identity(self) -> Mapping[str, object]:
        """That of its run.json; empty where there is none."""

    @property
    def missing(self) -> int:
        """How many rows that it is to answer have no answer."""


@dataclass(frozen=True)
class Mismatch:
    """Something in which two runs are unlike beyond the model."""

    text: str  # one sentence
    refuses: bool  # whether a comparison would say nothing; else it is only to be read with care


def compare_runs(
    rows_a: Sequence[ScoredRow],
    rows_b: Sequence[ScoredRow],
    protocol: str = "released",
    *,
    draws: int = DRAWS,
    flips: int = FLIPS,
    seed: int = SEED,
) -> Comparison:
    """Compare two runs question by question; positive differences are A's lead. Rows may come in any order.

    A question with several rows at a level counts once there, with their mean. HarnessError where a run has no row, a
    row twice or a score outside 0 to 1, or where the two have no question in common at any level.
    """
    shared_a, shared_b = in_both(rows_a, rows_b) if rows_a and rows_b else (rows_a, rows_b)
    if rows_a and rows_b and not shared_a:
        raise SettingsMismatch(
            "the two runs have no question in common at the same level; expected runs over the same data; check that "
            "both folders hold the same subsets and levels"
        )
    # Both have the same questions at the same levels now, so the samples are alike in all but the scores.
    pairs = zip(cluster_tables(shared_a, protocol), cluster_tables(shared_b, protocol), strict=True)
    tables = {a.subset: (counted_once(a), counted_once(b)) for a, b in pairs}
    differences = {
        subset: replace(a, totals=a.totals - b.totals) for subset, (a, b) in tables.items()
    }
    resampled = {
        subset: resample(sample, draws=draws, seed=seed) for subset, sample in differences.items()
    }
    flipped = {
        subset: sign_flips(sample, flips=flips, seed=seed) for subset, sample in differences.items()
    }
    mean_of = [
        {subset: column_means(pair[run]) for subset, pair in tables.items()} for run in (0, 1)
    ]

    def measure(weights: dict[str, Floats]) -> Difference:
        a, b = (
            fsum(float(columns[subset] @ weight) for subset, weight in weights.items())
            for columns in mean_of
        )
        found = interval(
            [(resampled[subset], weight) for subset, weight in weights.items()], paired=True
        )
        p = p_value(
            found.value,
            np.sum([flipped[subset] @ weight for subset, weight in weights.items()], axis=0),
        )
        return Difference(a, b, found, p, p, "")

    return Comparison(
        adjust_p_values([each_part(list(differences.values()), measure)])[0],
        rows=len(shared_a),
        paired=sum(int(a.counts.sum()) for a, _ in tables.values()),
        only_a=len(rows_a) - len(shared_a),
        only_b=len(rows_b) - len(shared_b),
    )


def in_both(
    rows_a: Sequence[ScoredRow], rows_b: Sequence[ScoredRow]
) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """The rows of each run that the other has, too: by their place in the data where both runs tell it, and question.

    Else a question with several rows, of which one run answered only some, would have two unlike means.
    """
    placed = all("index" in row.record for row in (*rows_a, *rows_b))

    def key(row: ScoredRow) -> tuple[str, str, str, int]:
        return row.subset, row.level, row.question, row.index if placed else 0

    common = {key(row) for row in rows_a} & {key(row) for row in rows_b}
    of_a, of_b = ([row for row in rows if key(row) in common] for rows in (rows_a, rows_b))
    return of_a, of_b


def counted_once(sample: ClusterTable) -> ClusterTable:
    """The sample with each question once at a level, with the mean of its rows there."""
    there = sample.counts > 0
    return replace(
        sample, totals=np.where(there, sample.means, 0.0), counts=there.astype(np.float64)
    )


def column_means(sample: ClusterTable) -> Floats:
    """[columns] the plain means, in points."""
    found: Floats = 100 * sample.totals.sum(axis=0) / sample.counts.sum(axis=0)
    return found


def sign_flips(sample: ClusterTable, *, flips: int = FLIPS, seed: int = SEED) -> Floats:
    """[flips, columns] the means in points when each question's values get a random sign, one for all columns."""
    random = generator(sample.subset, "flips", seed)
    shares = 100 * sample.totals / sample.counts.sum(axis=0)
    found = np.empty((flips, len(sample.columns)))
    for chunk in chunks(flips, len(sample.questions)):
        signs = random.integers(
            2, size=(chunk.stop - chunk.start, len(sample.questions)), dtype=np.int8
        )
        found[chunk] = (2.0 * signs - 1) @ shares
    return found


def p_value(value: float, flipped: Floats) -> float:
    """Two-sided: (k+1)/(n+1), k of the n flips being at least as far from 0 as the value; never 0."""
    return float((np.sum(np.abs(flipped) >= abs(value) - _SAME) + 1) / (len(flipped) + 1))


def adjust_p_values(runs: Sequence[Breakdown[Difference]]) -> list[Breakdown[Difference]]:
    """The same with the p-values adjusted and the verdicts that follow; each family spans all the runs."""

    def family(
        pick: Callable[[Breakdown[Difference]], Mapping[Key, Difference]],
    ) -> list[dict[Key, Difference]]:
        together = {
            (at, key): difference
            for at, parts in enumerate(runs)
            for key, difference in pick(parts).items()
        }
        adjusted = holm([difference.p for difference in together.values()])
        found: list[dict[Key, Difference]] = [{} for _ in runs]
        for ((at, key), difference), p in zip(together.items(), adjusted, strict=True):
            shown = "A better" if difference.interval.value > 0 else "B better"
            found[at][key] = replace(
                difference, adjusted=p, verdict=shown if p < SIGNIFICANT else "no difference shown"
            )
        return found

    families = (
        family(lambda parts: parts.files),
        family(lambda parts: parts.levels),
        family(lambda parts: parts.subsets),
        [only[""] for only in family(lambda parts: {"": parts.overall})],
    )
    return [Breakdown(*parts) for parts in zip(*families, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: the smallest times m, the next times m - 1, and so on."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def compare_with(a: Run, others: Mapping[str, Run]) -> dict[str, Comparison]:
    """Compare a run with each of the others, by name; HarnessError (IDENTITY) where that would say nothing."""
    unlike = {name: mismatches(a.identity, other.identity) for name, other in others.items()}
    other_rows = {name: other.rows for name, other in others.items()}
    for name, found in unlike.items():
        if refused := [mismatch.text for mismatch in found if mismatch.refuses]:
            more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
            raise SettingsMismatch(
                f"{name}: cannot be compared: {'; '.join(refused[:3])}{more}; expected runs over the same data"
            )
        if not other_rows[name]:
            raise SettingsMismatch(f"{name}: no row has an answer; expected a run to compare with")
    flips = max(FLIPS, FLIPS_PER_RUN * len(others))
    compared = {}
    for name, rows in other_rows.items():
        try:
            compared[name] = compare_runs(a.rows, rows, flips=flips)
        except LVEvalError as error:
            raise type(error)(f"{name}: {error.message}") from error
    parts = adjust_p_values([comparison.parts for comparison in compared.values()])
    return {
        name: replace(
            comparison,
            parts=of_run,
            flags=(
                *(mismatch.text for mismatch in unlike[name]),
                *incomplete_notes({"A": a, "B": others[name]}),
            ),
        )
        for (name, comparison), of_run in zip(compared.items(), parts, strict=True)
    }


def incomplete_notes(runs: Mapping[str, Run]) -> list[str]:
    """A flag for each run that is not finished."""
    return [
        f"{run.missing} rows of {name} have no answer" for name, run in runs.items() if run.missing
    ]


def counts_text(found: Comparison) -> str:
    """What was compared, in words."""
    several = "; a question with several rows there counts once" * (found.rows != found.paired)
    return (
        f"{found.rows:,} rows of both, {found.paired:,} questions at a length{several}; "
        f"left out: {found.only_a:,} rows of A alone, {found.only_b:,} of B alone"
    )


HEAD = ("compared", "A", "B", "A - B", "95 % interval", "p (Holm)", "shown")


def table_rows(found: Comparison) -> dict[str, Difference]:
    """What a table has: all, the levels, the subsets."""
    subsets = {subset: found.parts.subsets[subset] for subset in table_order(found.parts.subsets)}
    return {"all": found.parts.overall, **found.parts.levels, **subsets}


def interval_notes(found: Comparison) -> list[str]:
    """What is to be known of the intervals of what is `shown`."""
    return notes({name: part.interval for name, part in table_rows(found).items()})


def table(found: Comparison) -> list[list[str]]:
    """Cells of text under HEAD, of what is `shown`."""
    return [
        [
            name,
            f"{part.a:.2f}",
            f"{part.b:.2f}",
            f"{part.interval.value:+.2f}",
            part.interval.between("+"),
            f"{part.adjusted:.4f}",
            part.verdict,
        ]
        for name, part in table_rows(found).items()
    ]


def as_data(found: Comparison) -> dict[str, object]:
    """Everything as JSON holds it; files as <subset>_<level>."""

    def part(of: Difference) -> dict[str, object]:
        scores = {"a": round(of.a, 2), "b": round(of.b, 2), "difference": of.interval.as_data()}
        return {**scores, "p": round(of.p, 6), "p_holm": round(of.adjusted, 6), "shown": of.verdict}

    return {
        "unlike": list(found.flags),
        "rows": found.rows,
        "paired": found.paired,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "overall": part(found.parts.overall),
        "levels": {level: part(of) for level, of in found.parts.levels.items()},
        "subsets": {subset: part(of) for subset, of in found.parts.subsets.items()},
        "files": {"_".join(pair): part(of) for pair, of in found.parts.files.items()},
    }


# --- whether the two runs can be compared at all ----------------------------------------------------------------------


def mismatches(
    identity_a: Mapping[str, object], identity_b: Mapping[str, object]
) -> list[Mismatch]:
    """In what two runs differ beyond the model, from the `identity` of their run.json; those that refuse come first.

    Refused: data of a common file that differ, no file in common. Flagged: other prompts, chat format, limit of tokens,
    budgets or decoding, and what a run did not record (folders of the published harness have no run.json: pass an empty
    mapping).
    """
    found = data_mismatches(section(identity_a, "data"), section(identity_b, "data"))
    prompts = section(identity_a, "prompts"), section(identity_b, "prompts")
    hashes = [each.get("sha256") for each in prompts]
    names = [f"{each.get('name', 'unnamed')}-{str(each.get('sha256'))[:8]}" for each in prompts]
    found += difference_notes("prompts", hashes, names)
    for field, words in (("chat_template", "chat format"), ("model_max_len", "limit of tokens")):
        found += difference_notes(words, [identity_a.get(field), identity_b.get(field)])
    engines = section(identity_a, "engine"), section(identity_b, "engine")
    for field, words in (
        ("request_args", "--request-args"),
        ("system_message", "system message"),
        ("pure_greedy", "--pure-greedy"),
    ):
        found += difference_notes(words, [engine.get(field) or "none" for engine in engines])
    budgets = section(identity_a, "budgets"), section(identity_b, "budgets")
    if not all(budgets):
        found += difference_notes("budgets of answers", [each or None for each in budgets])
    for subset in sorted(budgets[0].keys() & budgets[1].keys()):
        found += difference_notes(f"budget of {subset} answers", [each[subset] for each in budgets])
    return sorted(found, key=lambda mismatch: not mismatch.refuses)


def data_mismatches(a: Mapping[str, object], b: Mapping[str, object]) -> list[Mismatch]:
    """Of two "data" parts, <subset>_<level> -> fingerprint of the file."""
    if not a or not b:
        return difference_notes("fingerprints of the data", [a or None, b or None])
    common = sorted(a.keys() & b.keys())
    if not common:
        return [Mismatch("the runs have no data file in common", True)]
    return [
        Mismatch(
            f"the data of {name} differ: not the same questions, or not the same contexts", True
        )
        for name in common
        if a[name] != b[name]
    ]


def difference_notes(
    words: str, values: Sequence[object], names: Sequence[object] = ()
) -> list[Mismatch]:
    """A flag where the values of A and B differ, or one has none (None); `names`: how to show them, if not as such."""
    missing = [run for run, value in zip("AB", values, strict=True) if value is None]
    if missing:
        return [
            Mismatch(f"{words}: cannot be compared, not recorded in {' and '.join(missing)}", False)
        ]
    if values[0] == values[1]:
        return []
    a, b = names or values
    return [Mismatch(f"different {words}: {a} in A, {b} in B", False)]


def section(identity: Mapping[str, object], field: str) -> Mapping[str, object]:
    """A part of an identity that is a mapping; empty where it is missing."""
    found = identity.get(field)
    return found if isinstance(found, Mapping) else {}
