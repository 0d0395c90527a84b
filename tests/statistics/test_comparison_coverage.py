"""Two runs compared: exact cases by hand, false alarms and power by simulation, and what makes runs unlike."""

from collections import Counter
from dataclasses import replace

import numpy as np
from support.comparison_parts import answered, pair_of_runs
from support.scores import every, run_of

from lveval.analysis import comparison


def test_many_runs_at_once_can_still_differ_by_file() -> None:
    ours = answered(
        [row for at in range(5) for row in run_of(f"s{at}_mixup", np.full((20, 3), 0.9))]
    )
    others = {
        str(at): answered([replace(row, scores=every(0.1)) for row in ours.rows])
        for at in range(45)
    }
    found = comparison.compare_with(ours, others)  # a family of 675 files
    assert {part.verdict for run in found.values() for part in run.parts.files.values()} == {
        "A better"
    }


def test_false_alarms_are_3_to_7_percent_at_5_percent() -> None:
    chance = np.random.default_rng(20240206)
    alarms: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    families = 0
    rounds = 450
    for _ in range(rounds):
        found = comparison.compare_runs(*pair_of_runs(chance, 0.0), draws=400, flips=300).parts
        parts = [(f"file {pair[0]}", part) for pair, part in found.files.items()]
        parts += [("level means", part) for part in found.levels.values()]
        parts += [("subset means", part) for part in found.subsets.values()]
        for kind, part in (*parts, ("overall", found.overall)):
            assert part.interval.low is not None and part.interval.high is not None
            tried[kind] += 1
            alarms[kind] += part.p < 0.05
            covered[kind] += part.interval.low <= 0 <= part.interval.high
        families += any(part.verdict != "no difference shown" for part in found.files.values())
    rates = {kind: 100 * alarms[kind] / tried[kind] for kind in tried}
    coverage = {kind: 100 * covered[kind] / tried[kind] for kind in tried}
    print(
        rates, coverage, f"any of nine files after Holm: {100 * families / rounds}"
    )  # pytest -rP shows it
    assert all(3 <= rate <= 7 for rate in rates.values()), rates
    assert all(93 <= share <= 97 for share in coverage.values()), coverage
    assert families / rounds <= 0.07
