"""Length curves: exact shapes, uncertainty against simulation, and runs that are too small for a curve."""

import math
import random

import numpy as np
import pytest
from support.scores import clustered, run_of, scored

from lveval.analysis import length_effect
from lveval.analysis.clusters import Floats
from lveval.analysis.length_effect import EffectiveLength, LengthCurve, effective_length
from lveval.common.errors import LVEvalError

FIVE = ("16k", "32k", "64k", "128k", "256k")


def linear(
    number: int, start: float, per_doubling: float, levels: tuple[str, ...] = FIVE
) -> Floats:
    """[questions, levels] scores on a line over log2(length), each question at a height of its own."""
    heights = np.linspace(-0.1, 0.1, number)[:, None]
    found: Floats = (
        start + heights + per_doubling * np.log2([int(level[:-1]) / 16 for level in levels])
    )
    return found


def whole(curve: LengthCurve) -> tuple[float, float]:
    assert curve.drop is not None and curve.slope is not None
    return curve.drop.value, curve.slope.value


def effective(curve: LengthCurve) -> EffectiveLength:
    assert curve.effective_length is not None
    return curve.effective_length


# --- drop and slope ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [FIVE, ("16k", "256k"), ("16k", "48k", "64k", "200k")])
def test_a_line_has_its_own_drop_and_slope(levels: tuple[str, ...]) -> None:
    found = length_effect.measure_length_effect(
        run_of("lic_mixup", linear(40, 0.8, -0.1, levels), levels), draws=200
    )
    curve = found.subsets["lic_mixup"]
    doublings = math.log2(int(levels[-1][:-1]) / 16)
    assert whole(curve) == pytest.approx((10 * doublings, -10))
    assert list(curve.scores) == list(levels)
    assert curve.scores["16k"] == pytest.approx(80)
    # Every question falls alike, however much they differ in height: that says nothing of how others would.
    for measure in (curve.drop, curve.slope):
        assert (
            measure is not None
            and measure.low is None
            and "all questions came out the same" in measure.note
        )
    assert found.overall == curve


def test_the_slope_is_that_of_least_squares() -> None:
    scores = clustered(np.random.default_rng(1), (50, 5), (0.2, 0.3, 0.4, 0.6, 0.7))
    found = length_effect.measure_length_effect(
        run_of("lic_mixup", scores, FIVE), draws=20_000
    ).subsets["lic_mixup"]
    each = 100 * np.polyfit(range(5), scores.T, 1)[0]
    assert found.slope is not None and found.slope.low is not None and found.slope.high is not None
    assert found.slope.value == pytest.approx(each.mean())
    half = 2.0096 * each.std(ddof=1) / math.sqrt(50)  # Student's t of 49 degrees of freedom
    assert found.slope.high - found.slope.value == pytest.approx(half, rel=0.03)
    assert found.slope.value - found.slope.low == pytest.approx(half, rel=0.03)
    drop = 100 * (scores[:, 0] - scores[:, 4])
    assert found.drop is not None and found.drop.high is not None
    assert found.drop.value == pytest.approx(drop.mean())
    assert found.drop.high - found.drop.value == pytest.approx(
        2.0096 * drop.std(ddof=1) / math.sqrt(50), rel=0.03
    )


def test_overall_is_the_plain_mean_of_the_subsets() -> None:
    rows = run_of("lic_mixup", linear(30, 0.8, -0.1), FIVE) + run_of(
        "factrecall_en", linear(60, 0.6, -0.02), FIVE
    )
    found = length_effect.measure_length_effect(rows, draws=200)
    assert whole(found.overall) == pytest.approx(((40 + 8) / 2, -6))
    assert found.overall.scores["256k"] == pytest.approx((40 + 52) / 2)
    assert (
        found.overall.slope is not None
        and found.overall.slope.label == "over 90 questions and contexts"
    )


def test_pairs_only_what_both_ends_have() -> None:
    rows = run_of("lic_mixup", linear(30, 0.8, -0.1), FIVE)
    # A question that only the longest level has, one that only the shortest has, one that lacks a level in between.
    rows += [
        scored("lic_mixup", "256k", 90, 1.0, "late"),
        scored("lic_mixup", "16k", 91, 1.0, "early"),
    ]
    rows += [
        scored("lic_mixup", level, 92, score, "gap")
        for level, score in (("16k", 1.0), ("32k", 0.0), ("64k", 0.0), ("256k", 0.6))
    ]
    # Two rows of a question at one level count as their mean.
    rows += [scored("lic_mixup", "16k", at, score, "twice") for at, score in ((93, 1.0), (94, 0.6))]
    rows += [
        scored("lic_mixup", level, 93, 0.8 - 0.1 * at, "twice")
        for at, level in enumerate(FIVE)
        if at
    ]
    found = length_effect.measure_length_effect(rows, draws=200).subsets["lic_mixup"]
    assert whole(found) == pytest.approx((40, -10))
    assert found.drop is not None and found.slope is not None
    assert (found.drop.clusters, found.slope.clusters) == (32, 31)


# --- effective length -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "fraction", "level"),
    [
        ((50, 50, 50, 50, 50), 0.9, "256k"),
        ((50, 45, 44.9, 50, 50), 0.9, "32k"),  # 64k is below: what comes after no longer counts
        ((50, 44, 60, 60, 60), 0.9, "16k"),
        ((50, 60, 55, 46, 20), 0.9, "128k"),  # of the shortest level, not of the best
        ((50, 45, 40, 30, 20), 0.5, "128k"),
        ((50, 50, 49.9, 50, 50), 1.0, "32k"),
        ((0, 10, 10, 10, 10), 0.9, None),
    ],
)
def test_effective_length_of_a_curve(
    scores: tuple[float, ...], fraction: float, level: str | None
) -> None:
    values = np.array(scores, dtype=float)
    found = effective_length(FIVE, values, np.tile(values, (10, 1)), fraction)
    assert found.level == level
    assert found.fraction == fraction
    assert found.probabilities == {each: float(each == level) for each in FIVE}
    assert found.likely == ((level,) if level else ())


def test_the_fewest_levels_that_hold_95_percent_of_the_draws() -> None:
    curves = {"16k": (50, 0, 0), "32k": (50, 50, 0), "64k": (50, 50, 50)}
    for shares, likely in (
        ((2, 60, 38), ("32k", "64k")),
        ((96, 3, 1), ("16k",)),
        ((95, 5, 0), ("16k",)),
        ((48, 4, 48), ("16k", "64k")),
        ((40, 30, 30), ("16k", "32k", "64k")),
    ):
        draws = np.repeat(np.array(list(curves.values()), dtype=float), shares, axis=0)
        found = effective_length(FIVE[:3], np.array([50.0, 50, 50]), draws, 0.9)
        assert found.likely == likely
        assert list(found.probabilities.values()) == pytest.approx(
            [share / 100 for share in shares]
        )


def test_draws_without_a_score_to_keep_do_not_count() -> None:
    draws = np.array([[50.0, 50, 50], [0, 10, 10], [50, math.nan, 50], [50, 10, 10]])
    assert effective_length(FIVE[:3], draws[0], draws, 0.9).probabilities == {
        "16k": 0.5,
        "32k": 0,
        "64k": 0.5,
    }


def test_the_effective_length_of_a_run_and_its_doubt() -> None:
    chance = np.random.default_rng(2)
    # Level means of 47, 47, 44, 30 and 10: 64k keeps 0.94 of the first, so little that some draws lose it.
    scores = clustered(chance, (150, 5), (0.3, 0.3, 0.35, 0.55, 0.85))
    found = effective(
        length_effect.measure_length_effect(run_of("lic_mixup", scores, FIVE)).subsets["lic_mixup"]
    )
    assert found.level in ("32k", "64k")
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.probabilities["256k"] == 0
    assert found.probabilities["64k"] > 0.3 and "64k" in found.likely
    sure = effective(
        length_effect.measure_length_effect(
            run_of("lic_mixup", linear(80, 0.8, -0.2, FIVE[:4]), FIVE[:4])
        ).overall
    )
    assert (sure.level, sure.likely) == ("16k", ("16k",))


def test_the_likely_levels_hold_the_true_one() -> None:
    chance = np.random.default_rng(20240206)
    zeros = (0.3, 0.32, 0.36, 0.6, 0.8)  # kept: 1, 0.97, 0.91, 0.57, 0.29, so the truth is 64k
    held, rounds = 0, 200
    for _ in range(rounds):
        found = length_effect.measure_length_effect(
            run_of("lic_mixup", clustered(chance, (100, 5), zeros), FIVE), draws=400
        )
        held += "64k" in effective(found.overall).likely
    print(100 * held / rounds)  # pytest -rP shows it
    assert held / rounds >= 0.93


# --- small and bad input ----------------------------------------------------------------------------------------------


def test_one_level_has_no_curve_and_the_note_says_so() -> None:
    found = length_effect.measure_length_effect(
        run_of("lic_mixup", linear(30, 0.5, 0, ("16k",)), ("16k",)), draws=50
    )
    for curve in (found.subsets["lic_mixup"], found.overall):
        assert (curve.drop, curve.slope, curve.effective_length) == (None, None, None)
        assert curve.scores == {"16k": pytest.approx(50)}
        assert curve.note == "one level only, 16k: nothing to compare it with"


def test_one_question_has_values_and_no_intervals() -> None:
    found = length_effect.measure_length_effect(
        run_of("lic_mixup", np.array([[0.8, 0.7, 0.6, 0.5, 0.4]]), FIVE), draws=50
    ).overall
    assert whole(found) == pytest.approx((40, -10))
    assert (
        found.drop is not None and found.drop.low is None and "only one question" in found.drop.note
    )
    assert effective(found).level == "16k"


def test_levels_without_a_common_question_have_no_drop() -> None:
    rows = [
        scored("lic_mixup", level, at, 0.5, f"{level} {at}")
        for level in ("16k", "32k")
        for at in range(5)
    ]
    found = length_effect.measure_length_effect(rows, draws=300).overall
    assert (found.drop, found.slope) == (None, None)
    assert found.note == (
        "no drop: no question of lic_mixup has the levels for it; "
        "no slope: no question of lic_mixup has the levels for it"
    )
    assert effective(found).level == "32k"


def test_a_subset_without_all_levels_is_left_out_of_the_overall_curve() -> None:
    rows = run_of("lic_mixup", linear(30, 0.8, -0.1), FIVE)
    part = run_of("cmrc_mixup", linear(30, 0.8, -0.2, FIVE[:3]), FIVE[:3])
    found = length_effect.measure_length_effect(rows + part, draws=50)
    assert whole(found.subsets["cmrc_mixup"]) == pytest.approx((40, -20))
    assert whole(found.overall) == pytest.approx((40, -10))
    assert found.overall.note == "without cmrc_mixup"
    none = length_effect.measure_length_effect(
        part + [row for row in rows if row.level != "64k"], draws=50
    ).overall
    assert none == LengthCurve({}, None, None, None, "no subset has every level")


def test_a_score_of_0_at_the_shortest_level_has_no_effective_length() -> None:
    found = length_effect.measure_length_effect(
        run_of("lic_mixup", np.tile([[0.0, 0.5]], (25, 1)), ("16k", "32k")), draws=50
    ).overall
    assert effective(found).level is None
    assert found.note == "no effective length: the score at 16k is 0"
    assert whole(found) == pytest.approx((-50, 50))


def test_levels_are_ordered_by_length_and_rows_in_any_order_give_the_same_bytes() -> None:
    rows = run_of(
        "lic_mixup", clustered(np.random.default_rng(3), (40, 5), (0.2, 0.3, 0.4, 0.6, 0.7)), FIVE
    )
    first = length_effect.measure_length_effect(rows, draws=500)
    assert list(first.overall.scores) == list(FIVE)  # as text, "128k" comes before "16k"
    random.Random(4).shuffle(rows)
    assert repr(length_effect.measure_length_effect(rows, draws=500)) == repr(first)
    assert repr(length_effect.measure_length_effect(rows, draws=500, seed=5)) != repr(first)


def test_bad_input_is_refused() -> None:
    with pytest.raises(LVEvalError, match="no scored row"):
        length_effect.measure_length_effect([])
    with pytest.raises(LVEvalError, match="expected 0 to 1"):
        length_effect.measure_length_effect([scored("lic_mixup", "16k", 0, math.nan)])
    for fraction in (0, -1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected above 0 and at most 1"):
            length_effect.measure_length_effect(
                [scored("lic_mixup", "16k", 0, 0.5)], fraction=fraction
            )
