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

_PICKS = 125_000  # numbers drawn at a time: 1 MB, which a processor's cache takes

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
    return score_tables(rows, [protocol])[protocol]


def score_tables(
    rows: Sequence[ScoredRow], protocols: Sequence[str]
) -> dict[str, list[ClusterTable]]:
    """Tabulate the scores under each protocol; as cluster_tables."""
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise unknown_name(protocol, "protocol", list(PROTOCOLS))
    if not rows:
        raise UsageError(
            "no scored row; expected the rows of a run; answer some with prediction.py first"
        )
    seen = set()
    for row in rows:
        place = row.key
        if place in seen:
            found = "found twice; expected each row once; remove one of them"
            raise UsageError(f"{row.subset}_{row.level}, row {row.index}: {found}")
        seen.add(place)
        for protocol in protocols:
            if not 0 <= row.scores[protocol] <= 1:  # also refuses NaN
                raise UsageError(
                    f"{row.subset}_{row.level}, row {row.index}: found the {protocol} score "
                    f"{row.scores[protocol]}; expected 0 to 1; check the metric that config.py "
                    "names for the subset"
                )
    return value_tables(rows, {each: [row.scores[each] for row in rows] for each in protocols})


def value_tables(
    rows: Sequence[ScoredRow], values: Mapping[str, Sequence[float]]
) -> dict[str, list[ClusterTable]]:
    """Tabulate named values of the rows, 1 = 100 points; subsets in alphabetical order.

    NaN: a value that the row has not. The subset of such a row is left out under that name.
    """
    order = sorted(
        range(len(rows)), key=lambda at: (rows[at].subset, rows[at].level, rows[at].index)
    )
    all_values = {name: np.array(each, dtype=np.float64) for name, each in values.items()}
    tables: dict[str, list[ClusterTable]] = {name: [] for name in values}
    for subset, places in grouped((rows[at].subset, at) for at in order).items():
        cells = [(rows[at].question, rows[at].level) for at in places]
        own = {name: each[places] for name, each in all_values.items()}
        known = {name: each for name, each in own.items() if not np.isnan(each).any()}
        for name, table in tabulate(subset, cells, known).items():
            tables[name].append(table)
    return tables


def tabulate(
    subset: str, cells: Sequence[tuple[str, str]], values: Mapping[str, Floats]
) -> dict[str, ClusterTable]:
    """Sum and count the values of each (question, level); each name gets a table of its own."""
    columns = tuple(sorted({level for _, level in cells}, key=level_length))
    questions = tuple(sorted({question for question, _ in cells}))
    line = {question: at for at, question in enumerate(questions)}
    column = {level: at for at, level in enumerate(columns)}
    where = [line[question] for question, _ in cells], [column[level] for _, level in cells]
    counts = np.zeros((len(questions), len(columns)))
    np.add.at(counts, where, 1.0)
    tables = {}
    for name, each in values.items():
        totals = np.zeros_like(counts)
        np.add.at(totals, where, each)
        tables[name] = ClusterTable(subset, columns, questions, totals, counts)
    return tables


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


def chunks(draws: int, questions: int, most: int = 0) -> Iterator[slice]:
    """Cut the draws into slices: the arrays behind them stay below `most` or _CELLS numbers."""
    step = max(1, (most or _CELLS) // questions)
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


@lru_cache(maxsize=16)  # the subsets of a run: all protocols and the length curves draw the same
def bootstrap_counts(subset: str, questions: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """[draws, questions] how often each is drawn when as many are drawn with replacement."""
    random = generator(subset, "bootstrap", seed)
    times = np.empty((draws, questions), np.uint16)
    for chunk in chunks(draws, questions, _PICKS):
        size = chunk.stop - chunk.start
        picks = random.integers(questions, size=(size, questions))
        picks += questions * np.arange(size)[:, None]  # one bincount for all draws of the chunk
        counts = np.bincount(picks.ravel(), minlength=size * questions)
        times[chunk] = counts.reshape(size, questions)
    return times


def resample(table: ClusterTable, *, draws: int = DRAWS, seed: int = SEED) -> BootstrapDraws:
    """Take the means of the columns in each draw; one draw serves all columns."""
    return resample_together([table], draws=draws, seed=seed)[0]


def resample_together(
    tables: Sequence[ClusterTable], *, draws: int = DRAWS, seed: int = SEED
) -> list[BootstrapDraws]:
    """Resample tables of the same questions in one go: each draw serves the columns of all."""
    number = len(tables[0].questions)
    times = bootstrap_counts(tables[0].subset, number, draws, seed)
    # Where each question has one value in each column, a draw has as many values as questions.
    whole = [bool((table.counts == 1).all()) for table in tables]
    parts = [table.totals for table in tables]
    parts += [table.counts for table, once in zip(tables, whole, strict=True) if not once]
    everything = np.hstack(parts)
    sums = np.empty((draws, everything.shape[1]))
    for chunk in chunks(draws, number):
        sums[chunk] = times[chunk].astype(np.float64) @ everything
    columns = iter(np.split(sums, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1))
    totals = [next(columns) for _ in tables]
    counts = [float(number) if once else next(columns) for once in whole]
    found = []
    for table, drawn_totals, drawn_counts in zip(tables, totals, counts, strict=True):
        with np.errstate(invalid="ignore"):
            drawn_means: Floats = 100 * drawn_totals / drawn_counts
        rows = table.counts.sum(axis=0)
        means = table.totals.sum(axis=0) / rows
        influence = 100 * (table.totals - means * table.counts) / rows
        found.append(BootstrapDraws(table, 100 * means, drawn_means, influence))
    return found
