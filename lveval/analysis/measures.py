"""Numbers that the records of a run hold beside the answers: reasoning tokens, measures of plugins.

    measures.reasoning_by_level(rows, budget=4000)["64k"].tokens.mean
    measures.measures_by_level(rows)["kept"]["64k"].median

Both are empty for most runs: no row tells of such.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from statistics import median, quantiles

from lveval.results import ScoredRow, grouped, rows_by_level


@dataclass(frozen=True)
class Spread:
    """How one number is spread over rows."""

    rows: int
    mean: float
    low: float  # the 10th percentile
    median: float
    high: float  # the 90th


@dataclass(frozen=True)
class Reasoning:
    """The reasoning before the answers of some rows; scores are mean released ones, 0 to 100."""

    tokens: Spread
    tokens_same_questions: float | None  # mean over questions that every level has; None: none
    cut_percent: float  # rows whose reasoning ended because its room was spent
    score_finished: float | None  # of the other rows; None: there is none
    score_cut: float | None


def spread(values: Sequence[float]) -> Spread:
    """Summarize at least one number."""
    tenths = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    mean = fsum(values) / len(values)
    return Spread(len(values), mean, tenths[0], float(median(values)), tenths[-1])


def reasoning_tokens(row: ScoredRow) -> int:
    """How many tokens of a row's answer were reasoning; 0 where its record does not tell."""
    usage = row.record.get("usage")
    count = usage.get("reasoning_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else 0


def is_cut(row: ScoredRow, budget: int | None) -> bool:
    """Whether a row's reasoning ended because its room was spent.

    `budget`: the tokens after which the engine closes it; without one the answer stays empty.
    """
    unfinished = row.text("status") == "length" and not row.text("pred")
    return unfinished or (budget is not None and reasoning_tokens(row) > budget)


def reasoning_by_level(
    rows: Sequence[ScoredRow], budget: int | None = None
) -> dict[str, Reasoning]:
    """Summarize each level, by length; empty where no row has reasoning."""
    if not any(map(reasoning_tokens, rows)):
        return {}
    levels = rows_by_level(rows)
    by_question = grouped(((row.subset, row.question), row) for row in rows)
    everywhere = {
        question
        for question, asked in by_question.items()
        if {row.level for row in asked} == levels.keys()
    }
    found = {}
    for level, of_level in levels.items():
        scores = grouped((is_cut(row, budget), 100 * row.released) for row in of_level)
        same = [
            reasoning_tokens(row) for row in of_level if (row.subset, row.question) in everywhere
        ]
        found[level] = Reasoning(
            tokens=spread([reasoning_tokens(row) for row in of_level]),
            tokens_same_questions=_mean(same),
            cut_percent=100 * len(scores.get(True, [])) / len(of_level),
            score_finished=_mean(scores.get(False, [])),
            score_cut=_mean(scores.get(True, [])),
        )
    return found


def measures_by_level(rows: Iterable[ScoredRow]) -> dict[str, dict[str, Spread]]:
    """Summarize what plugins measured: measure -> level -> its numbers, by length.

    Measures that are no numbers are left out.
    """
    found: dict[str, dict[str, Spread]] = {}
    for level, of_level in rows_by_level(rows).items():
        told = [row.record.get("measures") for row in of_level]
        values = grouped(
            (name, float(value))
            for each in told
            if isinstance(each, dict)
            for name, value in each.items()
            if type(value) in (int, float) and isfinite(value)
        )
        for name, numbers in values.items():
            found.setdefault(name, {})[level] = spread(numbers)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
