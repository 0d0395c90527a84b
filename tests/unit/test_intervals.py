"""Intervals of scores: against closed forms, and how often they hold the truth."""

import math
import random
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
import pytest
from conftest import script
from support.scores import LEVELS, clustered, every, run_of, scored

from lveval.analysis import clusters, intervals
from lveval.analysis.clusters import Breakdown, bootstrap_counts, cluster_tables, resample, tabulate
from lveval.analysis.intervals import Interval
from lveval.common.errors import LVEvalError
from lveval.results import ScoredRow


def every_part(found: Breakdown[Interval]) -> Iterator[Interval]:
    yield from (
        *found.files.values(),
        *found.levels.values(),
        *found.subsets.values(),
        found.overall,
    )


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_values_are_the_means_of_the_tables() -> None:
    rows = run_of("lic_mixup", np.array([[0.5, 0.25, 0.0], [1.0, 0.25, 0.5]]))
    rows += run_of("cmrc_mixup", np.array([[0.1, 0.3], [0.3, 0.1], [0.2, 0.2]]), ("16k", "32k"))
    found = intervals.score_intervals(rows, draws=200)
    assert {pair: part.value for pair, part in found.files.items()} == pytest.approx(
        {
            ("cmrc_mixup", "16k"): 20,
            ("cmrc_mixup", "32k"): 20,
            ("lic_mixup", "16k"): 75,
            ("lic_mixup", "32k"): 25,
            ("lic_mixup", "64k"): 25,
        }
    )
    assert {level: part.value for level, part in found.levels.items()} == pytest.approx(
        {"16k": 47.5, "32k": 22.5, "64k": 25}
    )
    assert {subset: part.value for subset, part in found.subsets.items()} == pytest.approx(
        {"cmrc_mixup": 20, "lic_mixup": 125 / 3}
    )
    assert found.overall.value == pytest.approx((47.5 + 22.5 + 25) / 3)
    assert list(found.files) == sorted(found.files) and list(found.levels) == ["16k", "32k", "64k"]


def test_the_protocol_decides_which_scores_count() -> None:
    rows = [ScoredRow("lic_mixup", "16k", index, every(0.2, described=0.6)) for index in range(5)]
    assert intervals.score_intervals(rows, "released", draws=50).overall.value == pytest.approx(20)
    assert intervals.score_intervals(rows, "described", draws=50).overall.value == pytest.approx(60)


def test_the_standard_error_is_the_plug_in_formula() -> None:
    scores = clustered(np.random.default_rng(1), (80, 3), (0.2, 0.4, 0.6))
    (sample,) = cluster_tables(run_of("lic_mixup", scores), "released")
    found = resample(sample, draws=20_000)
    # 100 sqrt(sum (x - mean)^2) / n; the standard deviation of 20,000 draws is known to 0.5 %, four of which are 2 %.
    assert found.draws.std(axis=0) == pytest.approx(
        100 * scores.std(axis=0) / math.sqrt(80), rel=0.02
    )
    mean_of_levels = 100 * scores.mean(axis=1).std() / math.sqrt(80)
    assert found.draws.mean(axis=1).std() == pytest.approx(mean_of_levels, rel=0.02)
    # Levels drawn apart would vary less in their mean than questions do: the draw is joint.
    apart = 100 * math.sqrt((scores.var(axis=0) / 80).sum()) / 3
    assert mean_of_levels > 1.2 * apart
    assert found.draws.mean(axis=0) == pytest.approx(found.values, abs=0.15)


def test_influences_give_the_same_standard_error_where_questions_have_unequal_rows() -> None:
    chance = np.random.default_rng(2)
    cells = [
        (f"q{question}", "16k", float(chance.random() ** 2))
        for question in range(150)
        for _ in range(1 + question % 3)
    ]
    scores = {"score": np.array([score for _, _, score in cells])}
    table = tabulate("lic_mixup", [(question, level) for question, level, _ in cells], scores)
    found = resample(table["score"], draws=20_000)
    assert found.values[0] == pytest.approx(100 * np.mean([score for _, _, score in cells]))
    assert found.influence.sum() == pytest.approx(0, abs=1e-9)
    assert found.draws.std() == pytest.approx(math.sqrt((found.influence**2).sum()), rel=0.03)


def test_subsets_are_drawn_apart() -> None:
    scores = clustered(np.random.default_rng(12), (50, 1), (0.3,))
    parts = [
        resample(each)
        for name in ("lic_mixup", "cmrc_mixup")
        for each in cluster_tables(run_of(name, scores, ("16k",)), "released")
    ]
    mean = (parts[0].draws + parts[1].draws) / 2
    assert mean.std() == pytest.approx(parts[0].draws.std() / math.sqrt(2), rel=0.03)


def test_rows_of_one_question_count_as_one_cluster() -> None:
    scores = np.repeat(clustered(np.random.default_rng(3), (60, 1, 1), (0.4,)), 4, axis=1)
    once, repeated = (
        intervals.score_intervals(run_of("lic_mixup", each, ("16k",)), draws=2000).overall
        for each in (scores[:, :1], scores)
    )
    assert repeated == once  # the copies tell nothing new
    apart = intervals.score_intervals(
        [
            scored("lic_mixup", "16k", index, float(score))
            for index, score in enumerate(scores.ravel())
        ],
        draws=2000,
    ).overall
    assert (
        apart.low is not None
        and apart.high is not None
        and once.low is not None
        and once.high is not None
    )
    assert (apart.high - apart.low) == pytest.approx((once.high - once.low) / 2, rel=0.1)


def test_nearly_normal_scores_get_students_interval() -> None:
    scores = np.random.default_rng(4).normal(0.5, 0.08, (25, 1))
    found = intervals.score_intervals(run_of("lic_mixup", scores, ("16k",)), draws=40_000).overall
    half = 2.0639 * 100 * scores.std(ddof=1) / 5  # Student's t of 24 degrees of freedom
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_skewed_scores_get_a_longer_arm_on_the_side_of_the_tail() -> None:
    found = intervals.score_intervals(
        run_of("lic_mixup", np.repeat([[1.0], [0.0]], [6, 94], axis=0), ("16k",))
    ).overall
    assert found.low is not None and found.high is not None
    assert found.high - found.value > 1.3 * (found.value - found.low)
    assert (
        2 <= found.low <= 3.5 and 11.5 <= found.high <= 14
    )  # Wilson's interval of 6 in 100: 2.8 to 12.5


def test_differences_get_students_interval_however_few_they_are() -> None:
    values = np.random.default_rng(11).normal(0.1, 0.3, (6, 1))
    cells = [(f"q{at}", "16k") for at in range(6)]
    sample = tabulate("lic_mixup", cells, {"difference": values[:, 0]})["difference"]
    found = intervals.interval([(resample(sample, draws=20_000), np.ones(1))], paired=True)
    half = 2.5706 * 100 * values.std(ddof=1) / math.sqrt(6)  # Student's t of 5 degrees of freedom
    assert found.low == pytest.approx(found.value - half, abs=0.02 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.02 * half)
    bounded = intervals.interval([(resample(sample), np.ones(1))], paired=True, bound=20)
    assert bounded.high == 20 and bounded.low == pytest.approx(max(found.value - half, -20), abs=1)


def test_bca_bounds_are_those_of_the_book() -> None:
    draws = np.linspace(0, 1, 100_001)  # so that a quantile is its own probability
    normal = NormalDist()
    even = [np.array([-1.0, 1.0])]
    assert intervals.bca_bounds(0.5, draws, even, 1.96) == pytest.approx((0.025, 0.975), abs=1e-4)
    bias = normal.inv_cdf(0.4)  # 0.4 of the draws are below the value
    expected = [normal.cdf(2 * bias - 1.96), normal.cdf(2 * bias + 1.96)]
    assert intervals.bca_bounds(0.4, draws, even, 1.96) == pytest.approx(expected, abs=1e-4)
    skewed = [
        np.array([-1.0, -1.0, 2.0]),
        np.array([3.0, -3.0]),
    ]  # cubes 6, squares 24 over both samples
    acceleration = 6 / 6 / 24**1.5
    expected = [normal.cdf(bias + z / (1 - acceleration * z)) for z in (bias - 1.96, bias + 1.96)]
    assert intervals.bca_bounds(0.4, draws, skewed, 1.96) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (9, 2.2622),
        (10, 2.2281),
        (29, 2.0452),
        (99, 1.9842),
        (1e9, 1.959964),
    ],
)
def test_students_quantile(freedom: float, quantile: float) -> None:
    assert intervals.student_quantile(0.975, freedom) == pytest.approx(quantile, abs=0.01)


def test_identical_scores_have_no_interval() -> None:
    found = intervals.score_intervals(run_of("lic_mixup", np.full((30, 3), 0.3)), draws=300)
    for part in every_part(found):
        assert part.value == pytest.approx(30) and part.low is part.high is None
        assert "all questions came out the same" in part.note


# --- what is resampled, and what cannot be --------------------------------------------------------------------------


def test_a_level_with_one_question_is_not_taken_for_certain() -> None:
    different = [scored("lic_mixup", level, 0, at / 4, f"q{at}") for at, level in enumerate(LEVELS)]
    found = intervals.score_intervals(different, draws=200)
    assert (
        found.subsets["lic_mixup"].low is None
        and "only one question" in found.subsets["lic_mixup"].note
    )
    many = run_of("lic_mixup", clustered(np.random.default_rng(3), (50, 1), (0.4,)), ("32k",))
    found = intervals.score_intervals([different[0], *many], draws=200)
    assert found.levels["32k"].low is not None
    assert found.subsets["lic_mixup"].low is None and found.overall.low is None


def test_notes_are_told_once_with_the_parts_that_they_are_about() -> None:
    rows = run_of("lic_mixup", clustered(np.random.default_rng(3), (9, 3), (0.4, 0.4, 0.4)))
    rows += run_of("cmrc_mixup", clustered(np.random.default_rng(4), (30, 3), (0.4, 0.4, 0.4)))
    rows += run_of("dureader_mixup", np.zeros((30, 3)))
    found = intervals.score_intervals(rows, draws=200)
    assert found.levels["16k"].note == "perhaps too narrow: fewer than 20 questions in lic_mixup"
    assert intervals.notes({**found.levels, **found.subsets}) == [
        "no interval: all questions came out the same: dureader_mixup",
        "perhaps too narrow: fewer than 20 questions: lic_mixup",
    ]


def test_one_question_subsets_are_resampled_over_contexts_and_say_so() -> None:
    scores = clustered(np.random.default_rng(5), (40, 3), (0.3, 0.3, 0.3))
    rows = run_of("factrecall_en", scores) + run_of("lic_mixup", scores)
    found = intervals.score_intervals(rows, draws=500)
    assert found.files["factrecall_en", "16k"].label == "over 40 contexts"
    assert found.subsets["factrecall_en"].label == "over 40 contexts"
    assert found.files["lic_mixup", "16k"].label == "over 40 questions"
    assert found.levels["16k"].label == "over 80 questions and contexts"
    assert found.overall.low is not None


def test_one_question_has_no_interval_and_the_note_says_why() -> None:
    rows = run_of("lic_mixup", np.array([[0.5, 0.2, 0.1]]))
    rows += run_of("cmrc_mixup", clustered(np.random.default_rng(6), (30, 3), (0.3, 0.3, 0.3)))
    found = intervals.score_intervals(rows, draws=500)
    assert found.files["lic_mixup", "16k"] == Interval(
        50, None, None, 1, "questions", "no interval: only one question in lic_mixup"
    )
    assert found.files["lic_mixup", "16k"].label == "over 1 question"
    assert found.levels["16k"].low is None and "lic_mixup" in found.levels["16k"].note
    assert found.overall.high is None
    assert found.subsets["cmrc_mixup"].low is not None


def test_few_questions_are_flagged() -> None:
    few, enough = (
        clustered(np.random.default_rng(7), (number, 3), (0.3, 0.3, 0.3)) for number in (19, 20)
    )
    assert intervals.score_intervals(run_of("lic_mixup", few), draws=200).overall.note == (
        "perhaps too narrow: fewer than 20 questions in lic_mixup"
    )
    assert intervals.score_intervals(run_of("lic_mixup", enough), draws=200).overall.note == ""


def test_a_file_with_few_of_the_questions_counts_its_own_only() -> None:
    rows = run_of("lic_mixup", clustered(np.random.default_rng(8), (60, 3), (0.3, 0.3, 0.3)))
    rows = [row for row in rows if row.level != "64k" or row.index < 3]
    found = intervals.score_intervals(rows, draws=2000)
    short = found.files["lic_mixup", "64k"]
    assert (short.clusters, found.files["lic_mixup", "16k"].clusters) == (3, 60)
    assert (
        short.low is not None and short.high is not None and math.isfinite(short.low + short.high)
    )
    assert short.note.startswith("perhaps too narrow")


# --- determinism ------------------------------------------------------------------------------------------------------


def test_the_same_rows_in_any_order_give_the_same_bytes() -> None:
    chance = np.random.default_rng(9)
    rows = run_of("lic_mixup", clustered(chance, (40, 2, 3), (0.2, 0.4, 0.6)))
    rows += run_of("factrecall_zh", clustered(chance, (30, 3), (0.2, 0.4, 0.6)))
    first = intervals.score_intervals(rows, draws=1000)
    random.Random(1).shuffle(rows)
    assert repr(intervals.score_intervals(rows, draws=1000)) == repr(first)
    assert repr(intervals.score_intervals(rows, draws=1000, seed=2)) != repr(first)


def test_the_hash_seed_of_python_changes_nothing() -> None:
    code = (
        "from lveval.analysis.comparison import compare_runs\n"
        "from lveval.analysis.intervals import score_intervals\n"
        "from lveval.analysis.length_effect import measure_length_effect\n"
        "from lveval.results import ScoredRow\n"
        "a, b = ([ScoredRow('lic_mixup', level, at, {'released': at * times % 11 / 11}, {'input': f'q{at}'})\n"
        "         for level in ('16k', '32k') for at in range(30)] for times in (7, 5))\n"
        "print(score_intervals(a, draws=300), compare_runs(a, b, draws=300, flips=300))\n"
        "print(measure_length_effect(a, draws=300))"
    )
    one, other = (script("-c", code, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert one.stdout == other.stdout and "lic_mixup" in one.stdout


def test_a_subset_has_the_same_interval_in_any_company_and_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = np.random.default_rng(10)
    lic = run_of("lic_mixup", clustered(chance, (40, 3), (0.2, 0.4, 0.6)))
    cmrc = run_of("cmrc_mixup", clustered(chance, (50, 3), (0.2, 0.4, 0.6)))
    alone, together = (
        intervals.score_intervals(lic, draws=500),
        intervals.score_intervals(cmrc + lic, draws=500),
    )
    assert alone.subsets["lic_mixup"] == together.subsets["lic_mixup"]
    monkeypatch.setattr(clusters, "_CELLS", 40 * 33)  # 33 draws at a time
    bootstrap_counts.cache_clear()
    assert intervals.score_intervals(lic, draws=500).overall.value == alone.overall.value
    pieces = intervals.score_intervals(lic, draws=4000).overall
    monkeypatch.undo()
    bootstrap_counts.cache_clear()
    whole = intervals.score_intervals(lic, draws=4000).overall
    assert pieces.low == pytest.approx(whole.low, abs=0.5) and pieces.high == pytest.approx(
        whole.high, abs=0.5
    )


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [], "no scored row"),
        (
            lambda rows: [*rows, scored("lic_mixup", "32k", 7, math.nan)],
            "lic_mixup_32k, row 7: found the released",
        ),
        (
            lambda rows: [*rows, scored("lic_mixup", "32k", 7, 1.1)],
            "found the released score 1.1; expected 0 to 1",
        ),
        (lambda rows: [*rows, scored("lic_mixup", "32k", 7, -0.1)], "expected 0 to 1"),
        (lambda rows: [*rows, rows[0]], "lic_mixup_16k, row 0: found twice"),
    ],
)
def test_bad_rows_are_refused(
    spoil: Callable[[list[ScoredRow]], list[ScoredRow]], message: str
) -> None:
    rows = [scored("lic_mixup", "16k", index, 0.5) for index in range(3)]
    with pytest.raises(LVEvalError, match=message):
        intervals.score_intervals(spoil(rows), draws=50)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(LVEvalError, match='unknown protocol "relased"'):
        intervals.score_intervals([scored("lic_mixup", "16k", 0, 0.5)], "relased")
