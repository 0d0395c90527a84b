"""Two runs compared: exact cases by hand, false alarms and power by simulation, and what makes runs unlike."""

import itertools
import math
import random

import numpy as np
import pytest
from support.comparison_parts import answered, pair_of_runs
from support.scores import clustered, every, run_of, scored

from lveval.analysis import comparison
from lveval.analysis.comparison import holm
from lveval.analysis.mismatches import Mismatch, mismatches
from lveval.common.errors import ExitCode, LVEvalError
from lveval.results import ScoredRow

# --- closed forms -----------------------------------------------------------------------------------------------------


def test_a_constant_lead_is_flipped_away_as_often_as_all_signs_agree() -> None:
    scores = np.tile(np.linspace(0, 0.8, 8)[:, None], 3)
    found = comparison.compare_runs(
        run_of("lic_mixup", scores + 0.1), run_of("lic_mixup", scores), flips=40_000
    )
    for part in (*found.parts.files.values(), *found.parts.levels.values(), found.parts.overall):
        assert part.interval.value == pytest.approx(10)
        assert part.interval.low is None and "all questions came out the same" in part.interval.note
        # All 8 signs alike: 2 of 256 ways, 0.0078; four standard errors of 40,000 flips are 0.0018.
        assert part.p == pytest.approx(2 / 256, abs=0.0018)
    assert found.parts.overall.verdict == "A better"
    assert found.parts.overall.adjusted == found.parts.overall.p
    assert found.parts.overall.a == pytest.approx(50) and found.parts.overall.b == pytest.approx(40)
    assert (found.paired, found.only_a, found.only_b) == (24, 0, 0)


def test_the_p_value_is_that_of_all_flips() -> None:
    a, b = (clustered(np.random.default_rng(seed), (9, 1), (0.3,)) for seed in (1, 2))
    found = comparison.compare_runs(
        run_of("lic_mixup", a, ("16k",)), run_of("lic_mixup", b, ("16k",)), flips=40_000
    )
    differences = (a - b)[:, 0]
    flips = [abs(differences @ signs) for signs in itertools.product((-1, 1), repeat=9)]
    exact = float(np.mean([flipped >= abs(differences.sum()) - 1e-12 for flipped in flips]))
    assert 0.05 < exact < 0.95  # a case that tells something
    assert found.parts.overall.p == pytest.approx(
        exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000)
    )


def test_levels_of_a_question_flip_together() -> None:
    # Each question's leads at the two levels cancel: the subset's mean is 0 under every flip, none nearer to 0.
    lead = np.array([0.1, 0.2, 0.3, 0.4, 0.2, 0.1])
    a, b = 0.5 + np.stack([lead, -lead], axis=1) / 2, 0.5 - np.stack([lead, -lead], axis=1) / 2
    found = comparison.compare_runs(
        run_of("lic_mixup", a, ("16k", "32k")), run_of("lic_mixup", b, ("16k", "32k")), flips=4000
    )
    assert found.parts.overall.interval.value == pytest.approx(0)
    assert found.parts.overall.p == 1
    assert found.parts.files["lic_mixup", "16k"].p == pytest.approx(2 / 64, abs=0.012)
    assert (
        found.parts.files["lic_mixup", "16k"].interval.value
        > 0
        > found.parts.files["lic_mixup", "32k"].interval.value
    )


def test_p_is_never_zero() -> None:
    scores = np.full((60, 1), 0.1)
    found = comparison.compare_runs(
        run_of("lic_mixup", scores, ("16k",)),
        run_of("lic_mixup", scores + 0.5, ("16k",)),
        flips=999,
    )
    assert found.parts.overall.p == 1 / 1000
    assert found.parts.overall.verdict == "B better"


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then 0.04, which may not fall below 0.06.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([], []),
    ],
)
def test_holm(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_each_family_is_adjusted_by_its_size_and_the_verdict_goes_by_that() -> None:
    # A leads at 16k only, a little: p is below 0.05 alone, not among three levels.
    chance = np.random.default_rng(12)
    b = clustered(chance, (60, 3), (0.3, 0.3, 0.3)) * 0.5
    noise = chance.normal(0, 0.1, (60, 3))
    a = b + 0.2 + noise - noise.mean(axis=0) + np.array([0.027, 0.001, -0.001])
    found = comparison.compare_runs(run_of("lic_mixup", a), run_of("lic_mixup", b + 0.2)).parts
    level = found.levels["16k"]
    assert 0.05 / 3 < level.p < 0.05
    assert level.adjusted == pytest.approx(3 * level.p) and level.verdict == "no difference shown"
    assert found.files["lic_mixup", "16k"].p == level.p
    assert found.subsets["lic_mixup"].adjusted == found.subsets["lic_mixup"].p == found.overall.p


def test_a_family_spans_all_runs_that_are_compared_at_once() -> None:
    scores = clustered(np.random.default_rng(5), (60, 3), (0.4,))
    ours = answered(run_of("lic_mixup", np.clip(scores + 0.05, 0, 1)))
    others = {name: answered(run_of("lic_mixup", scores)) for name in ("one", "two", "three")}
    alone = comparison.compare_runs(ours.rows, others["one"].rows)
    found = comparison.compare_with(ours, others)
    for run in found.values():
        assert run.parts.overall.p == alone.parts.overall.p
        assert run.parts.overall.adjusted == pytest.approx(3 * alone.parts.overall.p)
        assert len(run.flags) == 5  # nothing is recorded of these
    smallest = min(found["one"].parts.files.values(), key=lambda part: part.p)
    assert smallest.adjusted == pytest.approx(min(1, 9 * smallest.p))  # three files of three runs


def test_of_a_question_with_several_rows_only_the_answered_ones_count() -> None:
    rows = [
        ScoredRow(
            "lic_mixup",
            "16k",
            index,
            every(index / 10),
            {"index": index, "question_id": f"q{index % 2}"},
        )
        for index in range(10)
    ]
    found = comparison.compare_runs(rows[:7], rows)
    assert found.parts.overall.a == found.parts.overall.b  # the same answers
    assert (found.rows, found.paired, found.only_a, found.only_b) == (7, 2, 0, 3)
    assert found.counts_text == (
        "7 rows of both, 2 questions at a length; a question with several rows there counts once; "
        "left out: 0 rows of A alone, 3 of B alone"
    )


def test_contexts_of_different_questions_are_no_pairs() -> None:
    a, b = (
        [
            ScoredRow("factrecall_en", "16k", index, every(0.5), {"input": asked})
            for index in range(9)
        ]
        for asked in ("who?", "when?")
    )
    with pytest.raises(LVEvalError, match="no question in common"):
        comparison.compare_runs(a, b)
    assert comparison.compare_runs(a, a).paired == 9


def test_unfinished_and_empty_runs_are_named() -> None:
    ours = answered(run_of("lic_mixup", np.full((5, 3), 0.5)))
    found = comparison.compare_with(ours, {"other": answered(ours.rows, missing=7)})
    assert found["other"].flags[-1] == "7 rows of B have no answer"
    for rows, message in (
        ([], "other: no row has an answer"),
        (run_of("cmrc_mixup", np.zeros((5, 3))), "other: the two"),
    ):
        with pytest.raises(LVEvalError, match=message) as raised:
            comparison.compare_with(ours, {"other": answered(rows)})
        assert raised.value.code == ExitCode.IDENTITY


def test_runs_over_other_data_are_refused_by_name() -> None:
    ours, other = (
        answered(run_of("lic_mixup", np.full((5, 3), 0.5)), {"data": {"lic_mixup_16k": mark}})
        for mark in "ab"
    )
    with pytest.raises(
        LVEvalError, match="other: cannot be compared: the data of lic_mixup_16k differ"
    ) as raised:
        comparison.compare_with(ours, {"same": ours, "other": other})
    assert raised.value.code == ExitCode.IDENTITY


def test_only_what_both_have_counts() -> None:
    a = [
        scored("lic_mixup", "16k", at, score, f"q{at}") for at, score in enumerate((0.9, 0.5, 0.3))
    ]
    a += [scored("lic_mixup", "32k", 0, 1.0, "q0"), scored("cmrc_mixup", "16k", 0, 1.0, "q0")]
    # B has q1 and q2 at other positions, q2 twice, and a question of its own.
    b = [
        scored("lic_mixup", "16k", at, score, name)
        for at, (score, name) in enumerate(((0.2, "q2"), (0.1, "q1")))
    ]
    b += [scored("lic_mixup", "16k", 2, 0.4, "q2"), scored("lic_mixup", "16k", 3, 1.0, "q9")]
    b += [scored("lic_mixup", "32k", 0, 1.0, "q1")]
    found = comparison.compare_runs(a, b, draws=100, flips=100)
    assert list(found.parts.files) == [("lic_mixup", "16k")]
    part = found.parts.files["lic_mixup", "16k"]
    assert [part.a, part.b] == pytest.approx(
        [40, 20]
    )  # of q1 and q2; q2 counts once in B, with 0.3
    assert part.interval.clusters == 2
    assert (found.paired, found.only_a, found.only_b) == (2, 3, 2)


def test_pairing_takes_the_difficulty_out() -> None:
    chance = np.random.default_rng(13)
    hard = np.clip(chance.random((80, 1)), 0, 0.9)
    a = np.clip(hard + 0.03 + chance.normal(0, 0.02, (80, 3)), 0, 1)
    found = comparison.compare_runs(
        run_of("lic_mixup", a), run_of("lic_mixup", np.tile(hard, 3))
    ).parts.overall
    assert found.interval.low is not None and found.interval.high is not None
    assert 2 < found.interval.low < 3 < found.interval.high < 4  # unpaired it would be some 20 wide
    assert found.verdict == "A better"


def test_one_question_only_has_no_interval_and_shows_nothing() -> None:
    found = comparison.compare_runs(
        [scored("lic_mixup", "16k", 0, 0.9)], [scored("lic_mixup", "16k", 0, 0.1)], flips=200
    )
    part = found.parts.overall
    assert part.interval.low is None and "only one question" in part.interval.note
    assert part.p == 1 and part.verdict == "no difference shown"


def test_a_run_against_itself_shows_no_difference() -> None:
    rows = run_of("lic_mixup", clustered(np.random.default_rng(14), (50, 3), (0.3, 0.5, 0.7)))
    rows += run_of("factrecall_en", clustered(np.random.default_rng(15), (50, 3), (0.3, 0.5, 0.7)))
    found = comparison.compare_runs(rows, rows, draws=100, flips=100).parts
    for part in (
        *found.files.values(),
        *found.levels.values(),
        *found.subsets.values(),
        found.overall,
    ):
        assert (part.interval.value, part.interval.low, part.interval.high) == (0, None, None)
        assert part.p == part.adjusted == 1 and part.verdict == "no difference shown"
    assert found.subsets["factrecall_en"].interval.over == "contexts"


def test_swapping_the_runs_turns_the_signs() -> None:
    a, b = (
        run_of("lic_mixup", clustered(np.random.default_rng(seed), (40, 3), (0.2, 0.4, 0.6)))
        for seed in (16, 17)
    )
    one, other = (
        comparison.compare_runs(*pair, flips=2000).parts.overall for pair in ((a, b), (b, a))
    )
    assert one.interval.value == pytest.approx(-other.interval.value)
    assert one.interval.low == pytest.approx(-(other.interval.high or math.nan))
    assert one.p == other.p


def test_the_same_rows_in_any_order_give_the_same_bytes() -> None:
    a, b = (
        run_of("lic_mixup", clustered(np.random.default_rng(seed), (40, 2, 3), (0.2, 0.4, 0.6)))
        for seed in (1, 2)
    )
    first = repr(comparison.compare_runs(a, b, draws=500, flips=500))
    for rows in (a, b):
        random.Random(3).shuffle(rows)
    assert repr(comparison.compare_runs(a, b, draws=500, flips=500)) == first
    assert repr(comparison.compare_runs(a, b, draws=500, flips=500, seed=4)) != first


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [scored("lic_mixup", "16k", 0, 0.5)], "no scored row"),
        (
            [scored("lic_mixup", "16k", 0, math.nan)],
            [scored("lic_mixup", "16k", 0, 0.5)],
            "expected 0 to 1",
        ),
        (
            [scored("lic_mixup", "16k", 0, 0.5)],
            [scored("lic_mixup", "32k", 0, 0.5)],
            "no question in common",
        ),
        (
            [scored("lic_mixup", "16k", 0, 0.5, "x")],
            [scored("lic_mixup", "16k", 0, 0.5, "y")],
            "no question in common",
        ),
    ],
)
def test_bad_input_is_refused(a: list[ScoredRow], b: list[ScoredRow], message: str) -> None:
    with pytest.raises(LVEvalError, match=message):
        comparison.compare_runs(a, b, draws=50, flips=50)


def test_a_real_lead_is_found() -> None:
    chance = np.random.default_rng(18)
    shown = [
        comparison.compare_runs(*pair_of_runs(chance, 0.15), draws=200, flips=400).parts.overall
        for _ in range(40)
    ]
    assert sum(part.verdict == "A better" for part in shown) >= 38
    assert sum(part.verdict == "B better" for part in shown) == 0


# --- runs that are unlike ---------------------------------------------------------------------------------------------

IDENTITY: dict[str, object] = {
    "model_name": "a",
    "model_max_len": 31500,
    "prompts": {"name": "official", "sha256": "5c74d151aa", "official": True},
    "chat_template": "published",
    "budgets": {"lic_mixup": 64, "cmrc_mixup": 64},
    "data": {"lic_mixup_16k": "f1", "cmrc_mixup_16k": "f2"},
}


def test_like_runs_have_no_mismatch_whatever_model_and_selection() -> None:
    other = IDENTITY | {
        "model_name": "b",
        "prompts": {"name": "prompts.py", "sha256": "5c74d151aa", "official": True},
    }
    other |= {
        "data": {"lic_mixup_16k": "f1", "lic_mixup_32k": "f3"},
        "budgets": {"lic_mixup": 64, "dureader_mixup": 9},
    }
    assert mismatches(IDENTITY, IDENTITY) == mismatches(IDENTITY, other) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"data": {"lic_mixup_16k": "f1", "cmrc_mixup_16k": "other"}},
            Mismatch(
                "the data of cmrc_mixup_16k differ: not the same questions, or not the same contexts",
                True,
            ),
        ),
        ({"data": {"lic_mixup_32k": "f1"}}, Mismatch("the runs have no data file in common", True)),
        (
            {"prompts": {"name": "official", "sha256": "5c74d151bb"}},
            Mismatch("different prompts: official-5c74d151 in A, official-5c74d151 in B", False),
        ),
        (
            {"prompts": {"name": "builtin", "sha256": "123456789"}},
            Mismatch("different prompts: official-5c74d151 in A, builtin-12345678 in B", False),
        ),
        (
            {"chat_template": "auto"},
            Mismatch("different chat format: published in A, auto in B", False),
        ),
        (
            {"model_max_len": 15500},
            Mismatch("different limit of tokens: 31500 in A, 15500 in B", False),
        ),
        (
            {"budgets": {"lic_mixup": 64, "cmrc_mixup": 128}},
            Mismatch("different budget of cmrc_mixup answers: 64 in A, 128 in B", False),
        ),
        (
            {"engine": {"request_args": {"max_completion_tokens": 4000}}},
            Mismatch(
                "different --request-args: none in A, {'max_completion_tokens': 4000} in B", False
            ),
        ),
        (
            {"engine": {"pure_greedy": True}},
            Mismatch("different --pure-greedy: none in A, True in B", False),
        ),
        (
            {"chat_template": None},
            Mismatch("chat format: cannot be compared, not recorded in B", False),
        ),
    ],
)
def test_each_mismatch_is_told(change: dict[str, object], expected: Mismatch) -> None:
    assert mismatches(IDENTITY, IDENTITY | change) == [expected]


def test_refusals_come_first() -> None:
    other = IDENTITY | {
        "chat_template": "auto",
        "data": {"lic_mixup_16k": "f9"},
        "model_max_len": 1,
    }
    assert [mismatch.refuses for mismatch in mismatches(IDENTITY, other)] == [True, False, False]


def test_a_published_folder_records_nothing_and_that_is_flagged() -> None:
    found = mismatches(IDENTITY, {})
    assert [mismatch.text.split(":")[0] for mismatch in found] == [
        "fingerprints of the data",
        "prompts",
        "chat format",
        "limit of tokens",
        "budgets of answers",
    ]
    assert not any(mismatch.refuses for mismatch in found)
    assert all(
        mismatch.text.endswith("cannot be compared, not recorded in B") for mismatch in found
    )
    assert mismatches({}, {})[0].text.endswith("not recorded in A and B")
