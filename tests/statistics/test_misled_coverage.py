"""The languages' rates of misled answers: false alarms, coverage and power by simulation."""

import numpy as np
import pytest
from support.misled_parts import measured, misled_run


@pytest.mark.parametrize(
    ("rate", "questions", "least"), [(0.2, 100, 3.0), (0.5, 25, 3.0), (0.02, 100, 0.0)]
)
def test_false_alarms_are_at_most_7_percent_at_5_percent(
    rate: float, questions: int, least: float
) -> None:
    """Rare misleading may make the test shy, never eager."""
    chance = np.random.default_rng(20240206)
    alarms = covered = 0
    rounds = 500
    for _ in range(rounds):
        run = misled_run(chance, {"en": rate, "zh": rate}, questions)
        found = measured(*run, draws=400)
        assert found is not None and found.difference is not None
        alarms += found.p is not None and found.p < 0.05
        low, high = found.difference.low, found.difference.high
        covered += low is None or high is None or low <= 0 <= high
    print(f"{100 * alarms / rounds} % alarms, {100 * covered / rounds} % covered")
    assert least <= 100 * alarms / rounds <= 7
    assert 100 * covered / rounds >= 93


def test_the_interval_covers_a_real_difference_and_the_test_finds_it() -> None:
    chance = np.random.default_rng(7)
    covered = found_it = 0
    rounds = 300
    for _ in range(rounds):
        found = measured(*misled_run(chance, {"en": 0.25, "zh": 0.15}), draws=400)
        assert found is not None and found.difference is not None
        assert found.difference.low is not None and found.difference.high is not None
        covered += found.difference.low <= 10 <= found.difference.high
        found_it += found.verdict == "English more often"
    print(f"{100 * covered / rounds} % covered, {100 * found_it / rounds} % found")
    assert 93 <= 100 * covered / rounds <= 97.5
    assert found_it / rounds > 0.8
