"""Answers misled by a confusing fact: counted rates, the difference of the languages and its test."""

import math

import numpy as np
import pytest
from support.misled_parts import SUBSETS, measured, misled_run
from support.scores import every

from lveval.analysis import intervals, misled
from lveval.analysis.causes import classify_error
from lveval.evaluation import score_row
from lveval.report import tables
from lveval.results import Cause, ScoredRow

FACT = {"confusing_facts": ["It was painted by Orla Venn."]}


def row(subset: str, index: int, **record: object) -> ScoredRow:
    return ScoredRow(subset, "16k", index, every(0.0), {"question_id": f"q{index}", **record})


def counted(hits: dict[str, list[bool]], **more: object) -> misled.Misled:
    """Rows with a fact, each misled or not."""
    rows = [row(name, at, **FACT, **more) for name, each in hits.items() for at in range(len(each))]
    causes: list[Cause] = [
        "distracted" if hit else "wrong" for each in hits.values() for hit in each
    ]
    found = measured(rows, causes)
    assert found is not None
    return found


def test_a_rate_is_over_rows_with_a_fact_and_a_language_is_the_mean_of_its_subsets() -> None:
    found = counted(
        {
            "hotpotwikiqa_mixup": [True] * 3 + [False] * 7,  # 30 %
            "factrecall_en": [True] * 1 + [False] * 1,  # 50 %
            "lic_mixup": [True] * 1 + [False] * 9,  # 10 %
        }
    )
    english, chinese = found.languages["en"], found.languages["zh"]
    assert (english.rows, english.misled) == (12, 4)
    assert (chinese.rows, chinese.misled) == (10, 1)
    assert (english.rate.value, chinese.rate.value) == pytest.approx((40, 10))
    assert {name: part.rate.value for name, part in found.subsets.items()} == pytest.approx(
        {"hotpotwikiqa_mixup": 30, "factrecall_en": 50, "lic_mixup": 10}
    )
    assert found.difference is not None and found.difference.value == pytest.approx(30)
    assert found.cut == 0


def test_rows_without_a_fact_and_rows_whose_evidence_was_cut_do_not_count() -> None:
    rows = [
        row("lic_mixup", 0, **FACT),
        row("lic_mixup", 1, **FACT, evidence_kept=True),
        row("lic_mixup", 2, **FACT, evidence_kept=False),
        row("lic_mixup", 3),
        row("dureader_mixup", 0),
    ]
    causes: list[Cause] = ["distracted", "correct", "evidence_cut", "wrong", "wrong"]
    found = measured(rows, causes)
    assert found is not None
    assert (found.languages["zh"].rows, found.languages["zh"].misled, found.cut) == (2, 1, 1)
    assert found.difference is None and found.p is None
    assert found.verdict == "no difference shown"
    assert measured(rows[2:], causes[2:]) is None


def test_the_levels_of_a_subset_are_one_rate() -> None:
    rows = [
        ScoredRow("lic_mixup", level, at, every(0.0), {"question_id": f"q{at}", **FACT})
        for level, count in (("16k", 8), ("64k", 2))
        for at in range(count)
    ]
    causes: list[Cause] = ["wrong" if row.level == "16k" else "distracted" for row in rows]
    found = measured(rows, causes)
    assert found is not None and found.subsets["lic_mixup"].rate.value == pytest.approx(20)


def test_an_answer_that_repeats_the_fact_is_misled_and_the_truth_is_not() -> None:
    record = {
        "answers": ["Tam Whitlock"],
        "gold_ans": "Whitlock",
        "input": "Who painted it?",
        **FACT,
    }
    rows = [
        score_row({**record, "pred": pred, "index": at}, "hotpotwikiqa_mixup", "16k", at)
        for at, pred in enumerate(("Orla Venn", "Tam Whitlock", "Nobody knows"))
    ]
    found = measured(rows, [classify_error(each) for each in rows])
    assert found is not None and found.languages["en"].misled == 1


def test_no_answer_misled_has_a_rate_and_no_interval() -> None:
    found = counted({name: [False] * 20 for name in SUBSETS["en"] + SUBSETS["zh"]})
    rate = found.languages["en"].rate
    assert (rate.value, rate.low) == (0, None) and "came out the same" in rate.note
    assert found.p is None and found.verdict == "no difference shown"
    assert found.as_data()["p"] is None


def test_a_planted_difference_is_found_with_its_sign_and_none_is_not_called_one() -> None:
    chance = np.random.default_rng(11)
    found = measured(*misled_run(chance, {"en": 0.3, "zh": 0.1}))
    assert found is not None and found.difference is not None and found.p is not None
    assert found.p < 0.001 and found.verdict == "English more often"
    assert found.difference.low is not None and found.difference.low > 0
    found = measured(*misled_run(chance, {"en": 0.1, "zh": 0.3}))
    assert found is not None and found.verdict == "Chinese more often"
    found = measured(*misled_run(chance, {"en": 0.2, "zh": 0.2}))
    assert found is not None and found.verdict == "no difference shown"


def test_the_test_agrees_with_the_interval() -> None:
    chance = np.random.default_rng(12)
    seen = set()
    for _ in range(30):
        run = misled_run(chance, {"en": 0.3, "zh": 0.2}, questions=40)
        found = measured(*run, draws=400)
        assert found is not None and found.difference is not None and found.p is not None
        low, high = found.difference.low, found.difference.high
        assert low is not None and high is not None
        if abs(found.p - 0.05) > 0.002:  # quantiles are to 0.01
            assert (found.p < 0.05) == (low > 0 or high < 0)
        seen.add(found.p < 0.05)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("t", "freedom", "tails"),
    # Closed forms: 1 degree is Cauchy's, 2 degrees 1 - t / sqrt(2 + t²); tables for 10 and 100.
    [
        (1.0, 1.0, 0.5),
        (12.706, 1.0, 0.05),
        (2.0, 2.0, 1 - 2 / math.sqrt(6)),
        (2.228, 10.0, 0.05),
        (3.169, 10.0, 0.01),
        (1.984, 100.0, 0.05),
        (3.390, 100.0, 0.001),
        (0.0, 7.0, 1.0),
    ],
)
def test_students_tails_are_those_of_the_tables(t: float, freedom: float, tails: float) -> None:
    assert intervals.student_tails(t, freedom) == pytest.approx(tails, rel=3e-3)


def test_the_table_says_who_and_how_much() -> None:
    found = counted(
        {"lic_mixup": [True] * 5 + [False] * 15, "factrecall_en": [False] * 19 + [True]}
    )
    table = tables.misled_table(found)
    assert [line[:4] for line in table.lines] == [
        ["English", "20", "1", "5.00"],
        ["Chinese", "20", "5", "25.00"],
        ["factrecall_en", "20", "1", "5.00"],
        ["lic_mixup", "20", "5", "25.00"],
    ]
    assert "English less Chinese: -20.00" in table.note and f"p {found.p:.4f}" in table.note
