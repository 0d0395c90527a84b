"""Intervals of scores: against closed forms, and how often they hold the truth."""

from collections import Counter

import numpy as np
from support.scores import LEVELS, clustered, run_of, true_mean

from lveval.analysis import intervals
from lveval.results import ScoredRow

# --- coverage ---------------------------------------------------------------------------------------------------------

# Sizes from a --limit 30 run to the largest published file, shares of zeros from a good model's to a lost one's.
SIMULATED = {
    "lic_mixup": ((30, 3), (0.3, 0.45, 0.6)),
    "hotpotwikiqa_mixup": ((60, 2, 3), (0.4, 0.6, 0.75)),  # two rows a question
    "factrecall_en": ((150, 3), (0.5, 0.7, 0.85)),
}


def test_the_intervals_cover_the_truth_in_93_to_97_percent() -> None:
    chance = np.random.default_rng(20240206)
    held: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    truth = {
        (subset, level): 100 * true_mean(share)
        for subset, (_, zeros) in SIMULATED.items()
        for level, share in zip(LEVELS, zeros, strict=True)
    }
    for _ in range(600):
        rows: list[ScoredRow] = []
        for subset, (shape, zeros) in SIMULATED.items():
            rows += run_of(subset, clustered(chance, shape, zeros))
        found = intervals.score_intervals(rows, draws=1000)
        expected = [(f"file {pair[0]}", found.files[pair], value) for pair, value in truth.items()]
        for level in LEVELS:
            of_level = [value for pair, value in truth.items() if pair[1] == level]
            expected.append(("level means", found.levels[level], float(np.mean(of_level))))
        for subset in SIMULATED:
            of_subset = [value for pair, value in truth.items() if pair[0] == subset]
            expected.append(("subset means", found.subsets[subset], float(np.mean(of_subset))))
        expected.append(("overall", found.overall, float(np.mean(list(truth.values())))))
        for kind, part, value in expected:
            assert part.low is not None and part.high is not None
            tried[kind] += 1
            held[kind] += part.low <= value <= part.high
    coverage = {kind: 100 * held[kind] / tried[kind] for kind in tried}
    print(coverage)  # pytest -rP shows it
    assert len(coverage) == 6
    assert all(93 <= share <= 97 for share in coverage.values()), coverage
