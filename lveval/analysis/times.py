"""How long the answers took, and how much memory: what times.jsonl tells, by level.

    times.times_by_level(evaluation.rows, evaluation.times)["64k"].prefill.mean

Shown, but no part of any result: another machine gives other numbers for the same answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lveval.analysis.measures import Spread, spread
from lveval.results import LARGEST_INTEGER, ScoredRow, rows_by_level

GIB = 2**30


@dataclass(frozen=True)
class Times:
    """The times of some rows; None where no row tells."""

    rows: int  # that have times
    seconds: Spread | None  # of the whole generation, or of the request to a service
    prefill: Spread | None  # seconds up to the scores of the first new token
    decode: Spread | None  # seconds from there on
    tokens_per_second: float | None  # while decoding
    peak_memory: float | None  # the largest of a row, in GiB
    devices: tuple[str, ...]


def times_by_level(
    rows: Iterable[ScoredRow], times: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> dict[str, Times]:
    """Summarize each level, by length; those without a row in `times` are left out.

    `times`: (subset, level, index) -> the row's line of times.jsonl. Numbers that are none, or
    negative, are passed over.
    """
    found = {}
    for level, of_level in rows_by_level(rows).items():
        keys = [(row.subset, row.level, row.index) for row in of_level]
        if told := [times[key] for key in keys if key in times]:
            found[level] = _summary(told)
    return found


def _summary(told: list[Mapping[str, Any]]) -> Times:
    memory = _numbers(told, "peak_memory_bytes")
    return Times(
        rows=len(told),
        seconds=_spread(told, "seconds"),
        prefill=_spread(told, "prefill_seconds"),
        decode=_spread(told, "decode_seconds"),
        tokens_per_second=_tokens_per_second(told),
        peak_memory=max(memory) / GIB if memory else None,
        devices=tuple(sorted({str(line["device"]) for line in told if line.get("device")})),
    )


def _tokens_per_second(told: list[Mapping[str, Any]]) -> float | None:
    """Return the new tokens a second after the first, which prefill gives."""
    tokens = seconds = 0.0
    for line in told:
        new, taken = _number(line.get("new_tokens")), _number(line.get("decode_seconds"))
        if new and taken:
            tokens, seconds = tokens + new - 1, seconds + taken
    return tokens / seconds if seconds else None


def _spread(told: list[Mapping[str, Any]], name: str) -> Spread | None:
    values = _numbers(told, name)
    return spread(values) if values else None


def _numbers(told: list[Mapping[str, Any]], name: str) -> list[float]:
    values = (_number(line.get(name)) for line in told)
    return [value for value in values if value is not None]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < LARGEST_INTEGER else None
