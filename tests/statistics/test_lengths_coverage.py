"""Length curves: exact shapes, uncertainty against simulation, and runs that are too small for a curve."""

from collections import Counter

import numpy as np
from support.scores import clustered, run_of, true_mean

from lveval.analysis import length_effect


def test_the_intervals_of_drop_and_slope_cover_the_truth_in_93_to_97_percent() -> None:
    chance = np.random.default_rng(20240206)
    shapes = {"lic_mixup": (30, (0.3, 0.45, 0.6)), "cmrc_mixup": (80, (0.5, 0.6, 0.8))}
    levels = ("16k", "32k", "256k")  # unevenly spaced, so that the slope is no multiple of the drop
    means = {
        subset: [100 * true_mean(each) for each in zeros] for subset, (_, zeros) in shapes.items()
    }
    truth = {
        subset: (each[0] - each[2], float(np.polyfit((0, 1, 4), each, 1)[0]))
        for subset, each in means.items()
    }
    truth["overall"] = (
        sum(drop for drop, _ in truth.values()) / 2,
        sum(slope for _, slope in truth.values()) / 2,
    )
    held: Counter[str] = Counter()
    rounds = 800
    for _ in range(rounds):
        rows = [
            row
            for subset, (number, zeros) in shapes.items()
            for row in run_of(subset, clustered(chance, (number, 3), zeros), levels)
        ]
        found = length_effect.measure_length_effect(rows, draws=400)
        for name, curve in {**found.subsets, "overall": found.overall}.items():
            for kind, part, value in zip(
                ("drop", "slope"), (curve.drop, curve.slope), truth[name], strict=True
            ):
                assert part is not None and part.low is not None and part.high is not None
                held[f"{kind} {name}"] += part.low <= value <= part.high
    coverage = {kind: 100 * number / rounds for kind, number in held.items()}
    print(coverage)  # pytest -rP shows it
    assert len(coverage) == 6
    assert all(93 <= share <= 97 for share in coverage.values()), coverage
