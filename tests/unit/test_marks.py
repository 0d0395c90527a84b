"""Which words are marked as shared: those that the published scorer counts, where they stand."""

import json

import pytest
from conftest import ROOT

from lveval import config
from lveval.analysis.marks import Mark, Marks, mark_words
from lveval.analysis.score_breakdown import explain_score
from lveval.metrics import CHINESE, ENGLISH
from lveval.report.row_data import flat


def words(text: str, marks: Marks) -> list[str]:
    return [text[mark.start : mark.end] for mark in marks]


def test_the_words_of_f1_are_marked_in_both_texts() -> None:
    answer, truth = "In the old lighthouse, of Ayr: a lighthouse.", "the lighthouse of Ayr"
    found, in_truth = mark_words("hotpotwikiqa_mixup", answer, truth)
    # The first of two, for the truth has it once; no comma and no article.
    assert words(answer, found) == ["lighthouse", "of", "Ayr"]
    assert words(truth, in_truth) == ["lighthouse", "of", "Ayr"]
    assert [mark.blacklisted for mark in found] == [False, True, False]


def test_words_beside_each_other_are_one_mark() -> None:
    answer, truth = "灯塔建于1874年。", "1874年的灯塔"
    found, in_truth = mark_words("lic_mixup", answer, truth)
    assert found == (Mark(0, 2, False), Mark(4, 8, False), Mark(8, 9, True))
    assert words(truth, in_truth) == ["1874", "年", "灯塔"]
    assert words("a b  c", mark_words("hotpotwikiqa_mixup", "x b  c", "b c")[0]) == ["b  c"]


def test_rouge_marks_the_longest_common_subsequence() -> None:
    answer, truth = "灯塔建于港口", "港口灯塔"
    found, _ = mark_words("dureader_mixup", answer, truth)
    assert len(found) == 1  # one of the two words: their order differs


def test_marks_as_numbers_are_distances_and_lengths() -> None:
    assert flat((Mark(0, 2, False), Mark(4, 8, False), Mark(8, 9, True))) == [0, 2, 2, 4, 0, -1]


@pytest.mark.parametrize("name", ["scores", "edge"])
def test_marked_words_are_those_that_scored(name: str) -> None:
    """Of every golden case: as many tokens are marked, on either side, as the score counts."""
    lines = (ROOT / "tests" / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    checked = 0
    for case in map(json.loads, lines[:-1]):
        subset, answer, truth = case["dataset"], case["pred"], case["answers"][0]
        found = mark_words(subset, answer, truth)
        work = explain_score(config.DATASET_METRIC[subset], answer, truth, case["gold_ans"])
        if work is None:  # ROUGE-L; where all words are blacklisted, the empty one is in common
            assert bool(found[0]) == bool(found[1])
            assert bool(found[0]) == (case["score"] > 0) or case["id"] in ("s20261-450", "edge-10")
            continue
        is_chinese = config.DATASET_LANGUAGE[subset] == "zh"
        for text, marks in zip((answer, truth), found, strict=True):
            if is_chinese:  # a part of a text may be cut into other words
                assert bool(marks) == bool(work.overlap), case["id"]
                normal = "".join(CHINESE.tokens(text))
                assert all("".join(CHINESE.tokens(each)) in normal for each in words(text, marks))
            else:
                tokens = [token for each in words(text, marks) for token in ENGLISH.tokens(each)]
                assert len(tokens) == work.overlap, case["id"]
        checked += 1
    assert checked > 10
