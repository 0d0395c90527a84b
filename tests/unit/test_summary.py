"""A run and a comparison in one sentence: what is claimed, and what is left unclaimed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.comparison_parts import answered
from support.run_folders import write_run
from support.scores import run_of

from lveval.analysis import comparison
from lveval.analysis.run_analysis import analyze_run
from lveval.evaluation import evaluate
from lveval.report.summary import comparison_sentence, p_text, run_sentence

QUESTIONS = 40


def sentence(folder: Path, right: Mapping[str, int], **more: object) -> str:
    """Of a run whose first `right` of 40 answers at a level are right, the others wrong or cut."""
    files = {
        f"hotpotwikiqa_mixup_{level}": [
            {
                "pred": "amber reef" if index < number else "quiet meadow",
                "answers": ["amber reef"],
                "gold_ans": None,
                "input": f"which, of {index}?",
                "index": index,
                "evidence_kept": index < 30 or level == "16k",
                "status": "ok",
            }
            for index in range(QUESTIONS)
        ]
        for level, number in right.items()
    }
    evaluation = evaluate(write_run(folder / "yi-6b", files, **more))
    return run_sentence(evaluation, analyze_run(evaluation))


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        (
            {"16k": 36, "32k": 34, "64k": 20},
            r"holds up to 32k (90 % of the 16k score) and loses 40.0 points by 64k, "
            r"most of them to evidence that was cut.",
        ),
        (
            {"16k": 36, "32k": 6},
            "holds no further than 16k, the shortest tested (90 % of the 16k score) and loses 75.0 "
            "points by 32k, most of them to wrong answers.",
        ),
        (
            {"16k": 30, "32k": 29},
            "holds up to 32k, the longest tested (90 % of the 16k score) and shows no loss by 32k "
            "(-2.5, -7.5 to +2.5).",
        ),
        (
            {"16k": 10, "32k": 30},
            "holds up to 32k, the longest tested (90 % of the 16k score) and gains 50.0 points by 32k.",
        ),
        (
            {"16k": 0, "32k": 30},
            "scores 0 at 16k, the shortest tested, and gains 75.0 points by 32k.",
        ),
        ({"16k": 0, "32k": 0}, "scores 0 at 16k, the shortest tested, and scores the same at 32k."),
        (
            {"16k": 40, "32k": 0},
            "holds no further than 16k, the shortest tested (90 % of the 16k score) and scores 100.0 points less at 32k.",
        ),
    ],
)
def test_what_length_costs_is_said_as_far_as_it_is_shown(
    tmp_path: Path, right: Mapping[str, int], expected: str
) -> None:
    said = sentence(tmp_path, right)
    assert said.endswith(f"protocol released); it {expected}")


def test_the_score_stands_with_its_interval_and_what_it_is_the_mean_of(tmp_path: Path) -> None:
    assert sentence(tmp_path, {"16k": 36, "32k": 30}).startswith(
        "yi-6b scores 82.50 (70.0 to 91.2; mean of 2 levels, protocol released); it "
    )


def test_one_level_says_nothing_of_length(tmp_path: Path) -> None:
    said = sentence(tmp_path, {"32k": 40})
    assert said == "yi-6b scores 100.00 (32k only, protocol released)."


def test_a_control_and_missing_rows_are_said(tmp_path: Path) -> None:
    said = sentence(tmp_path, {"16k": 40}, given={"control": "closed-book"})
    assert said.startswith("yi-6b (closed-book) scores 100.00 (16k only, protocol released)")
    assert said.endswith("it was asked closed-book, so this is not the benchmark's score.")
    evaluation = evaluate(tmp_path / "yi-6b")
    evaluation.files[0].selected += 1234
    said = run_sentence(evaluation, analyze_run(evaluation))
    assert "; 1,234 rows have no answer yet and do not count; " in said


def test_a_difference_is_said_with_what_tells_how_sure_it_is() -> None:
    chance = np.random.default_rng(5)
    scores = chance.random((30, 1)) / 2
    better, other = (run_of("lic_mixup", each, ["16k"]) for each in (scores + 0.25, scores))
    noisy = run_of("lic_mixup", scores + chance.normal(0, 0.01, (30, 1)), ["16k"])
    found = comparison.compare_runs(better, run_of("lic_mixup", scores * 0.9, ["16k"]))
    lead = rf"{found.parts.overall.interval.value:.2f}"
    said = comparison_sentence("one", "two", found)
    assert said.startswith(f"one is better than two by {lead} (2")
    assert said.endswith(", p 0.0001, 30 questions).")
    turned = comparison.compare_runs(other, better)
    assert comparison_sentence("one", "two", turned).startswith("two is better than one by 25.00 (")
    none = comparison_sentence("one", "two", comparison.compare_runs(noisy, other))
    assert none.startswith("no difference shown between one and two: ")
    assert ", p 0." in none


def test_a_control_s_difference_has_its_name_and_sign() -> None:
    chance = np.random.default_rng(5)
    low = chance.random((30, 1)) / 2
    full, control = (run_of("lic_mixup", each, ["16k"]) for each in (low + 0.25, low))
    runs = answered(control, {"given": {"control": "closed-book"}}), answered(full)
    (found,) = comparison.compare_with(runs[0], {"full": runs[1]}).values()
    said = comparison_sentence("none", "whole", found)
    assert said.startswith("context gain +25.00 (")
    assert said.endswith("): whole is better than none.")


def test_a_difference_without_an_interval_says_so() -> None:
    one, two = (run_of("lic_mixup", np.array([[each]]), ["16k"]) for each in (0.5, 0.25))
    found = comparison.compare_runs(one, two)
    assert comparison_sentence("one", "two", found) == (
        "no difference shown between one and two: +25.00 (no interval, p 1.0000, 1 question)."
    )
    part = replace(found.parts.overall, adjusted=0.00004)
    assert p_text(part.adjusted) == "p < 0.0001"
