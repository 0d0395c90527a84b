"""Which rows a run asks: samples that are the same questions everywhere, parts of even work."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lveval import config
from lveval.common.levels import level_length
from lveval.data.selection import part_of, sample_order

LEVELS = ("16k", "32k", "64k", "128k", "256k")


def drawn(questions: list[str], rows: int, seed: int = 0) -> Counter[str]:
    return Counter(questions[index] for index in sample_order(questions, seed)[:rows])


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(max_size=4), min_size=1, max_size=30), st.randoms(), st.integers(0, 99))
def test_a_sample_is_the_same_questions_in_whatever_order_a_file_has_them(
    questions: list[str], chance: random.Random, seed: int
) -> None:
    shuffled = questions.copy()
    chance.shuffle(shuffled)
    assert sorted(sample_order(questions, seed)) == list(range(len(questions)))
    for rows in range(len(questions) + 1):
        assert drawn(questions, rows, seed) == drawn(shuffled, rows, seed)


def test_a_sample_is_spread_over_the_rows_and_another_seed_is_another_sample() -> None:
    questions = [f"question {n}" for n in range(200)]
    means = [sum(sample_order(questions, seed)[:50]) / 50 for seed in range(200)]
    assert abs(sum(means) / 200 - 99.5) < 1.5  # the mean of 200 means has an error of 0.5
    assert len({tuple(sample_order(questions, seed)[:5]) for seed in range(200)}) == 200


def test_rows_that_repeat_a_question_go_by_their_order() -> None:
    """factrecall asks one question 200 times: at each length the same contexts are drawn."""
    order = sample_order(["When?"] * 200, 0)
    assert order == sample_order(["When?"] * 200, 0) and order[:100] != list(range(100))


@pytest.mark.parametrize("parts", [2, 3, 4, 7, 8, 11, 16, 22, 32])
@pytest.mark.parametrize(("rows", "tolerance"), [(None, 1.02), (20, 1.10)])
def test_parts_have_the_same_work_and_each_file_is_dealt_evenly(
    parts: int, rows: int | None, tolerance: float
) -> None:
    work = [0] * parts
    for subset, available in config.DATASET_ROWS.items():
        for level in LEVELS:
            count = min(available, rows or available)
            dealt = Counter(part_of(subset, level, place, parts) for place in range(count))
            assert max(dealt.values()) - min(dealt[part] for part in range(1, parts + 1)) <= 1
            for part, times in dealt.items():
                work[part - 1] += times * level_length(level)
    assert max(work) <= tolerance * sum(work) / parts


def test_a_subset_of_ones_own_is_dealt_too() -> None:
    assert Counter(part_of("mine", "3k", place, 4) for place in range(8)) == dict.fromkeys(
        range(1, 5), 2
    )
