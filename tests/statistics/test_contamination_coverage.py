"""Published against fresh: what the sentence promises, by simulation."""

import numpy as np
from support.scores import clustered, run_of, true_mean

from lveval.analysis import contamination
from lveval.results import ScoredRow

# Subset, questions of the published file and of the fresh one, shares of zeros at three levels.
SUBSETS = (
    ("lic_mixup", 60, 50, (0.3, 0.45, 0.6)),
    ("hotpotwikiqa_mixup", 124, 50, (0.4, 0.6, 0.75)),
    ("multifieldqa_en_mixup", 40, 50, (0.5, 0.7, 0.85)),
    ("factrecall_en", 20, 20, (0.1, 0.1, 0.1)),  # counts nowhere
)


def pair_of_runs(
    chance: np.random.Generator, known: float
) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """A run on published and one on fresh questions; a share of the former is known by heart."""
    published, fresh = [], []
    for subset, seen, unseen, zeros in SUBSETS:
        scores = clustered(chance, (seen, 3), zeros)
        by_heart = chance.random((seen, 1)) < known
        published += run_of(subset, np.where(by_heart, 1.0, scores))
        fresh += run_of(subset, clustered(chance, (unseen, 3), zeros))
    return published, fresh


def test_intervals_cover_and_no_gap_is_told_where_there_is_none() -> None:
    chance = np.random.default_rng(20261129)
    rounds, covered, told = 400, 0, 0
    for _ in range(rounds):
        found = contamination.measure_gaps(*pair_of_runs(chance, 0.0), draws=400).overall
        assert found.interval.low is not None and found.interval.high is not None
        covered += found.interval.low <= 0 <= found.interval.high
        told += found.sentence.endswith("may have seen")
    print(covered / rounds, told / rounds)  # pytest -rP shows it
    assert 0.93 <= covered / rounds <= 0.97
    assert told / rounds <= 0.05


def test_a_planted_contamination_is_told_and_its_size_covered() -> None:
    chance = np.random.default_rng(7)
    known, rounds, covered, told = 0.25, 200, 0, 0
    means = [true_mean(zeros) for *_, shares in SUBSETS[:3] for zeros in shares]
    truth = 100 * known * (1 - sum(means) / len(means))
    for _ in range(rounds):
        found = contamination.measure_gaps(*pair_of_runs(chance, known), draws=400).overall
        assert found.interval.low is not None and found.interval.high is not None
        covered += found.interval.low <= truth <= found.interval.high
        told += found.sentence.endswith("the model does better on what it may have seen")
    print(truth, covered / rounds, told / rounds)
    assert covered / rounds >= 0.92
    assert told / rounds >= 0.9
