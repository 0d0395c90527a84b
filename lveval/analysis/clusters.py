"""What the bootstrap resamples: the questions of each subset, with their rows at all levels.

    tables = clusters.cluster_tables(rows, "released")
    clusters.resample(tables[0]).draws             # [draws, levels] means in points

Imports numpy at once: import this module where it is used.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lveval.common.errors import UsageError, unknown_name
from lveval.common.levels import FileKey, level_length
from lveval.results import ONE_QUESTION, PROTOCOLS, ScoredRow, grouped

DRAWS = 10_000

SEED = 20240206  # any number: fixed, so that the same rows always give the same interval

ROUNDING = 1e-9  # points; smaller differences come from the rounding of sums

_CELLS = 4_000_000  # numbers of 8 bytes held at a time: 32 MB in each of about three arrays

Floats = NDArray[np.float64]

Weights = dict[str, Floats]  # subset -> the weight of each column of its table

T = TypeVar("T")


@dataclass(frozen=True)
class Breakdown(Generic[T]):
    """One T for each file, for each level (plain mean of its files), each subset, and overall.

    Overall is the plain mean of the level means. Subsets are in alphabetical order, levels by
    length.
    """

    files: Mapping[FileKey, T]
    levels: Mapping[str, T]
    subsets: Mapping[str, T]
    overall: T


@dataclass(frozen=True)
class ClusterTable:
    """One subset's values: a line for each question, a column for each level or other measure."""

    subset: str
    columns: tuple[str, ...]
    questions: tuple[str, ...]  # sorted
    totals: Floats  # [questions, columns] sum of the question's values, 1 = 100 points; 0: no value
    counts: Floats  # [questions, columns] number of values

    @property
    def means(self) -> Floats:
        """[questions, columns] the mean of each question's values; NaN where there is none."""
        with np.errstate(invalid="ignore"):
            means: Floats = self.totals / self.counts
        return means

    @property
    def over(self) -> str:
        """What the lines are."""
        return "contexts" if self.subset in ONE_QUESTION else "questions"


@dataclass(frozen=True)
class BootstrapDraws:
    """The means of a table's columns, in points, and how they vary with the questions drawn."""

    table: ClusterTable
    values: Floats  # [columns]
    draws: Floats  # [draws, columns]; NaN where none of a column's questions was drawn
    influence: Floats  # [questions, columns] first-order change of the value for one more of each


# --- from rows to tables ---


def cluster_tables(rows: Sequence[ScoredRow], protocol: str) -> list[ClusterTable]:
    """Tabulate each subset, with a column for each of its levels; subsets in alphabetical order.

    Raises UsageError where there is no row, a row twice, a score outside 0 to 1, or the protocol is
    unknown.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name(protocol, "protocol", list(PROTOCOLS))
    if not rows:
        raise UsageError(
            "no scored row; expected the rows of a run; answer some with prediction.py first"
        )
    ordered = sorted(rows, key=lambda row: (row.subset, row.level, row.index))
    for row, before in zip(ordered, (None, *ordered), strict=False):
        where, score = f"{row.subset}_{row.level}, row {row.index}", row.score(protocol)
        if before and (row.file, row.index) == (before.file, before.index):
            raise UsageError(f"{where}: found twice; expected each row once; remove one of them")
        if not 0 <= score <= 1:  # also refuses NaN
            raise UsageError(
                f"{where}: found the {protocol} score {score}; expected 0 to 1; "
                "check the metric that config.py names for the subset"
            )
    cells = grouped((row.subset, (row.question, row.level, row.score(protocol))) for row in ordered)
    return [tabulate(subset, of_subset) for subset, of_subset in cells.items()]


def tabulate(subset: str, cells: Sequence[tuple[str, str, float]]) -> ClusterTable:
    """Sum and count the values of each question at each level, from (question, level, value)."""
    columns = tuple(sorted({level for _, level, _ in cells}, key=level_length))
    questions = tuple(sorted({question for question, _, _ in cells}))
    line = {question: at for at, question in enumerate(questions)}
    column = {level: at for at, level in enumerate(columns)}
    totals, counts = np.zeros((2, len(questions), len(columns)))
    for question, level, value in cells:
        totals[line[question], column[level]] += value
        counts[line[question], column[level]] += 1
    return ClusterTable(subset, columns, questions, totals, counts)


def measure_parts(tables: Sequence[ClusterTable], measure: Callable[[Weights], T]) -> Breakdown[T]:
    """Apply `measure` to each part, given as the weights of the columns that it is the sum of."""
    levels = sorted({level for table in tables for level in table.columns}, key=level_length)
    files = {
        (table.subset, level): np.eye(len(table.columns))[column]
        for table in tables
        for column, level in enumerate(table.columns)
    }
    at_level: dict[str, Weights] = {}
    for level in levels:
        subsets = [table.subset for table in tables if level in table.columns]
        at_level[level] = {subset: files[subset, level] / len(subsets) for subset in subsets}
    return Breakdown(
        files={file: measure({file[0]: weight}) for file, weight in files.items()},
        levels={level: measure(weights) for level, weights in at_level.items()},
        subsets={
            table.subset: measure(
                {table.subset: np.full(len(table.columns), 1 / len(table.columns))}
            )
            for table in tables
        },
        overall=measure(overall_weights(tables)),
    )


def overall_weights(tables: Sequence[ClusterTable]) -> Weights:
    """Weigh the columns so that their sum is the plain mean of the level means."""
    subsets = Counter(level for table in tables for level in table.columns)
    return {
        table.subset: np.array([1 / len(subsets) / subsets[level] for level in table.columns])
        for table in tables
    }


# --- the bootstrap ---


def generator(subset: str, purpose: str, seed: int) -> np.random.Generator:
    """Seed a subset's own random numbers: its interval is the same whatever else the run has."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose} {subset}".encode())])


def chunks(draws: int, questions: int) -> Iterator[slice]:
    """Cut the draws into slices, so that the arrays behind them stay below _CELLS numbers."""
    step = max(1, _CELLS // questions)
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


@lru_cache(maxsize=16)  # the subsets of a run: both protocols and the length curves draw the same
def bootstrap_counts(subset: str, questions: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """[draws, questions] how often each is drawn when as many are drawn with replacement."""
    random = generator(subset, "bootstrap", seed)
    times = np.empty((draws, questions), np.uint16)
    for chunk in chunks(draws, questions):
        size = chunk.stop - chunk.start
        picks = random.integers(questions, size=(size, questions))
        picks += questions * np.arange(size)[:, None]  # one bincount for all draws of the chunk
        counts = np.bincount(picks.ravel(), minlength=size * questions)
        times[chunk] = counts.reshape(size, questions)
    return times


def resample(table: ClusterTable, *, draws: int = DRAWS, seed: int = SEED) -> BootstrapDraws:
    """Take the means of the columns in each draw; one draw serves all columns."""
    number, width = table.totals.shape
    times = bootstrap_counts(table.subset, number, draws, seed)
    both = np.hstack([table.totals, table.counts])
    sums = np.empty((draws, 2 * width))
    for chunk in chunks(draws, number):
        sums[chunk] = times[chunk].astype(np.float64) @ both
    counts = table.counts.sum(axis=0)
    means = table.totals.sum(axis=0) / counts
    with np.errstate(invalid="ignore"):
        drawn_means = 100 * sums[:, :width] / sums[:, width:]
    influence = 100 * (table.totals - means * table.counts) / counts
    return BootstrapDraws(table, 100 * means, drawn_means, influence)
