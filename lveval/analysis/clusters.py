"""TODO lveval.analysis.clusters."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lveval.common.errors import UsageError, unknown_name
from lveval.common.levels import level_length
from lveval.results import ONE_QUESTION, ScoredRow

DRAWS = 10_000

SEED = 20240206  # any number: fixed, so that the same rows always give the same interval

PROTOCOLS = ("released", "described")


_CELLS = 4_000_000  # numbers of 8 bytes held at a time: 32 MB in each of about three arrays


Floats = NDArray[np.float64]

T = TypeVar("T")


@dataclass(frozen=True)
class Breakdown(Generic[T]):
    """One T for each file, for each level (plain mean of its files), for each subset (likewise), and overall.

    Overall is the plain mean of the level means. Subsets are in alphabetical order, levels by length.
    """

    files: Mapping[tuple[str, str], T]
    levels: Mapping[str, T]
    subsets: Mapping[str, T]
    overall: T


@dataclass(frozen=True)
class ClusterTable:
    """What one subset is resampled from: a line for each question, a column for each level or other measure."""

    subset: str
    columns: tuple[str, ...]
    questions: tuple[str, ...]  # sorted
    totals: Floats  # [questions, columns] sum of the question's values, 1 = 100 points; 0 where there is none
    counts: Floats  # [questions, columns] number of values

    @property
    def means(self) -> Floats:
        """[questions, columns] the mean of each question's values; not a number where there is none."""
        with np.errstate(invalid="ignore"):
            found: Floats = self.totals / self.counts
        return found

    @property
    def over(self) -> str:
        """What the lines are."""
        return "contexts" if self.subset in ONE_QUESTION else "questions"


@dataclass(frozen=True)
class BootstrapDraws:
    """The means of a Sample's columns, in points, and how they vary when its questions are drawn anew."""

    sample: ClusterTable
    values: Floats  # [columns]
    draws: Floats  # [draws, columns]; not a number where none of a column's questions was drawn
    influence: (
        Floats  # [questions, columns] first-order change of the value for one more of the question
    )


# --- from rows to samples -------------------------------------------------------------------------------------------


def cluster_tables(rows: Sequence[ScoredRow], protocol: str) -> list[ClusterTable]:
    """One Sample for each subset, with a column for each of its levels; the subsets in alphabetical order.

    HarnessError where there is no row, a row twice, a score outside 0 to 1, or the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name(protocol, "protocol", list(PROTOCOLS))
    if not rows:
        raise UsageError(
            "no scored row; expected the rows of a run; answer some with prediction.py first"
        )
    cells: defaultdict[str, list[tuple[str, str, float]]] = defaultdict(list)
    before = None
    for row in sorted(rows, key=lambda row: (row.subset, row.level, row.index)):
        where, score = (row.subset, row.level, row.index), row.score(protocol)
        if where == before:
            raise UsageError(
                f"{row.subset}_{row.level}, row {row.index}: found twice; expected each row once; remove one of them"
            )
        if not 0 <= score <= 1:  # also refuses what is not a number
            raise UsageError(
                f"{row.subset}_{row.level}, row {row.index}: found the {protocol} score {score}; expected 0 to 1; "
                "check the metric that config.py names for the subset"
            )
        before = where
        cells[row.subset].append((row.question, row.level, score))
    return [tabulate(subset, cells[subset]) for subset in sorted(cells)]


def tabulate(subset: str, cells: Sequence[tuple[str, str, float]]) -> ClusterTable:
    """The Sample of a subset's (question, level, value) cells."""
    columns = tuple(sorted({level for _, level, _ in cells}, key=level_length))
    questions = tuple(sorted({question for question, _, _ in cells}))
    line = {question: at for at, question in enumerate(questions)}
    column = {level: at for at, level in enumerate(columns)}
    totals, counts = np.zeros((2, len(questions), len(columns)))
    for question, level, value in cells:
        totals[line[question], column[level]] += value
        counts[line[question], column[level]] += 1
    return ClusterTable(subset, columns, questions, totals, counts)


def each_part(
    tables: Sequence[ClusterTable], measure: Callable[[dict[str, Floats]], T]
) -> Breakdown[T]:
    """`measure` of each part, given as {subset: weights over its columns}; the part's value is the weighted sum."""
    at_level: defaultdict[str, list[tuple[ClusterTable, int]]] = defaultdict(list)
    for table in tables:
        for column, level in enumerate(table.columns):
            at_level[level].append((table, column))
    levels = sorted(at_level, key=level_length)

    def weights(chosen: Sequence[tuple[ClusterTable, int]], each: float) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for table, column in chosen:
            found.setdefault(table.subset, np.zeros(len(table.columns)))[column] = each
        return found

    overall: dict[str, Floats] = {table.subset: np.zeros(len(table.columns)) for table in tables}
    for level in levels:
        for table, column in at_level[level]:
            overall[table.subset][column] = 1 / len(levels) / len(at_level[level])
    return Breakdown(
        files={
            (table.subset, level): measure(weights([(table, column)], 1.0))
            for table in tables
            for column, level in enumerate(table.columns)
        },
        levels={
            level: measure(weights(at_level[level], 1 / len(at_level[level]))) for level in levels
        },
        subsets={
            table.subset: measure(
                {table.subset: np.full(len(table.columns), 1 / len(table.columns))}
            )
            for table in tables
        },
        overall=measure(overall),
    )


# --- the bootstrap --------------------------------------------------------------------------------------------------


def generator(subset: str, purpose: str, seed: int) -> np.random.Generator:
    """Random numbers of a subset's own, so that its interval is the same whatever else the run has."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose} {subset}".encode())])


def chunks(draws: int, questions: int) -> Iterator[slice]:
    """Slices of the draws, so that the numbers behind them stay small whatever the number of questions."""
    step = max(1, _CELLS // questions)
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


@lru_cache(maxsize=16)  # the subsets of a run: both protocols and the length curves draw the same
def bootstrap_counts(subset: str, questions: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """[draws, questions] how often each question is drawn when as many as there are get drawn with replacement."""
    random = generator(subset, "bootstrap", seed)
    found = np.empty((draws, questions), np.uint16)
    for chunk in chunks(draws, questions):
        size = chunk.stop - chunk.start
        picks = (
            random.integers(questions, size=(size, questions))
            + questions * np.arange(size)[:, None]
        )
        found[chunk] = np.bincount(picks.ravel(), minlength=size * questions).reshape(
            size, questions
        )
    return found


def resample(sample: ClusterTable, *, draws: int = DRAWS, seed: int = SEED) -> BootstrapDraws:
    """The means of the columns in each draw; one draw serves all columns."""
    number, width = sample.totals.shape
    times = bootstrap_counts(sample.subset, number, draws, seed)
    both = np.hstack([sample.totals, sample.counts])
    sums = np.empty((draws, 2 * width))
    for chunk in chunks(draws, number):
        sums[chunk] = times[chunk].astype(np.float64) @ both
    counts = sample.counts.sum(axis=0)
    means = sample.totals.sum(axis=0) / counts
    with np.errstate(invalid="ignore"):
        drawn_means = 100 * sums[:, :width] / sums[:, width:]
    return BootstrapDraws(
        sample, 100 * means, drawn_means, 100 * (sample.totals - means * sample.counts) / counts
    )
