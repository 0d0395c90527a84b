"""A method at several strengths against the run without it: score by what the method kept.

    found = sweep.sweep_runs(dense, {"kept-0.5": half, "kept-0.25": quarter}, "kept")
    found.points[0].difference.value    # points above the dense run; below 0: loses
    found.alarms                        # where a method seems to be off

Differences are paired, with the intervals of comparison.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lveval.analysis.comparison import Comparison, compare_with
from lveval.analysis.intervals import Interval
from lveval.analysis.measures import Spread, measures_by_level
from lveval.analysis.times import times_by_level
from lveval.common.errors import UsageError
from lveval.common.levels import level_length
from lveval.results import Evaluation, ScoredRow

TIMES = ("seconds", "prefill", "decode")  # of times.jsonl, which runs can be placed by, too

PREFERRED = "kept"  # the share of the cache that is left, as the shipped plugins call it


@dataclass(frozen=True)
class SweepPoint:
    """One run at one level; scores are in points, over the questions of both runs."""

    run: str
    level: str
    measure: float  # its mean over the run's rows at this level
    score: float
    dense: float
    difference: Interval  # of the run minus the dense one


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep by level, then by measure."""

    measure: str
    points: list[SweepPoint]
    alarms: list[str]  # a sentence each
    notes: list[str]  # how runs differ from the dense one beyond the method

    @property
    def levels(self) -> list[str]:
        """The levels, by length."""
        return list(dict.fromkeys(point.level for point in self.points))


def sweep_runs(dense: Evaluation, runs: Mapping[str, Evaluation], measure: str = "") -> Sweep:
    """Place runs by a measure of all their rows, or by their times; "": by kept, or the only one.

    Raises UsageError where no such measure is there, SettingsMismatch where a run cannot be
    compared with the dense one.
    """
    compared = compare_with(dense, runs)
    spreads = {name: measures_by_level(run.rows) for name, run in runs.items()}
    measure = measure or _common_measure(spreads)
    if measure in TIMES:
        timed = {name: _seconds(run, measure) for name, run in runs.items()}
        spreads = {name: {measure: found} if found else {} for name, found in timed.items()}
    points = []
    for name, found in compared.items():
        if measure not in spreads[name]:
            known = ", ".join(spreads[name]) or "none"
            raise UsageError(f'{name}: its rows record no number "{measure}"; found {known}')
        for level, part in found.parts.levels.items():
            if spread := spreads[name][measure].get(level):
                reverse = part.interval.negated()
                points.append(SweepPoint(name, level, spread.mean, part.b, part.a, reverse))
    points.sort(key=lambda point: (level_length(point.level), point.measure, point.run))
    alarms = [alarm for name, run in runs.items() for alarm in _alarms(name, dense, run, measure)]
    return Sweep(measure, points, alarms, _notes(compared))


def _common_measure(spreads: Mapping[str, Mapping[str, Any]]) -> str:
    common = set.intersection(*(set(found) for found in spreads.values()))
    if PREFERRED in common:
        return PREFERRED
    if len(common) == 1:
        return common.pop()
    raise UsageError(
        f"--sweep-by is missing: all runs record {', '.join(sorted(common)) or 'no number'}; "
        "expected one of the measures that a plugin tells of its answers"
    )


def _seconds(run: Evaluation, measure: str) -> dict[str, Spread]:
    times = times_by_level(run.rows, run.times)
    found = {level: getattr(each, measure) for level, each in times.items()}
    return {level: spread for level, spread in found.items() if spread is not None}


def _alarms(name: str, dense: Evaluation, run: Evaluation, measure: str) -> list[str]:
    """Say what looks as if the method did nothing."""
    found = []
    answers = {_place(row): row.answer for row in dense.rows}
    pairs = [(row.answer, answers[_place(row)]) for row in run.rows if _place(row) in answers]
    if len(pairs) > 1 and all(one == other for one, other in pairs):
        found.append(f"{name}: all {len(pairs)} answers are those of the dense run")
    told = [
        (measures[measure], row.count("prompt_tokens"))
        for row in run.rows
        if isinstance(measures := row.record.get("measures"), dict) and measure in measures
    ]
    if len({tokens for _, tokens in told}) > 1 and len({value for value, _ in told}) == 1:
        found.append(f"{name}: {measure} is {told[0][0]} in all {len(told)} rows, long or short")
    return [f"{alarm}; is the method on?" for alarm in found]


def _place(row: ScoredRow) -> tuple[str, str, int]:
    return row.subset, row.level, row.index


def _notes(compared: Mapping[str, Comparison]) -> list[str]:
    return [
        f"{name}: {flag}"
        for name, found in compared.items()
        for flag in ([found.contrast.words] if found.contrast else []) + [*found.flags]
        if not flag.startswith(METHOD)
    ]


METHOD = "different plugin"  # how a flag begins that tells of the method itself
