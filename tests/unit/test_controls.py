"""What a control makes of a row, and what its comparison with the full run says; all by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import row as published_row
from support.comparison_parts import answered
from support.scores import every, run_of

from lveval import config, utils
from lveval.analysis import comparison, sweep
from lveval.backends.echo import EchoTokenizer
from lveval.construct.build import BuildSpec, build_row
from lveval.construct.sources import SAMPLES
from lveval.data import controls
from lveval.data.rows import Row
from lveval.report.leaderboard import reasons_unranked
from lveval.report.tables import comparison_table
from lveval.results import Evaluation, FileResult, ScoredRow


def row(context: str, facts: list[str] | None = None, *evidence: str) -> Row:
    """A row whose evidence is marked, at its first place in the context."""
    starts = [(context.index(passage), len(passage)) for passage in evidence]
    spans = {"evidence": [[at, at + size] for at, size in starts], "confusing_facts": []}
    made = published_row(context=context, confusing_facts=facts, question_id=None, offsets=None)
    return cast(Row, made | {"offsets": spans if evidence else None})


def evidence_of(row: Row) -> list[str]:
    assert row["offsets"] is not None
    return [row["context"][start:end] for start, end in row["offsets"]["evidence"]]


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template", [*config.DATASET_PROMPT.values(), "{input}{context}{input}", "{input}"]
)
def test_a_closed_book_fills_the_context_with_nothing(template: str) -> None:
    asked = controls.controlled("closed-book", row("All of it. Lit in 1807.", None, "Lit in 1807."))
    assert asked is not None and asked["offsets"] is None
    made = utils.build_prompt(asked, template, 9, EchoTokenizer(), 900, "dry", "none", False)
    assert made.prompt.text == template.replace("{context}", "").replace("{input}", asked["input"])
    assert made.evidence_kept is None  # there is none to keep


def test_the_evidence_alone_is_its_passages_in_the_order_of_the_context() -> None:
    context = "One. Lit in 1807. Two. Built by Orla Venn. Three."
    asked = controls.controlled(
        "evidence-only", row(context, None, "Built by Orla Venn.", "Lit in 1807.")
    )
    assert asked is not None
    assert asked["context"] == "Lit in 1807.\n\nBuilt by Orla Venn."
    assert evidence_of(asked) == ["Lit in 1807.", "Built by Orla Venn."]


def test_passages_that_overlap_stand_there_once_and_blank_ones_not_at_all() -> None:
    marked = row("Zero. Lit in 1807 by Venn.   End.", None, "Lit in 1807", "1807 by Venn.", "   ")
    asked = controls.controlled("evidence-only", marked)
    assert asked is not None and asked["context"] == "Lit in 1807 by Venn."
    assert evidence_of(asked) == ["Lit in 1807 by Venn."]


def test_a_row_that_marks_no_evidence_has_none_alone() -> None:
    assert controls.controlled("evidence-only", row("Lit in 1807.")) is None
    assert controls.controlled("evidence-only", row("A   B", None, "   ")) is None


@pytest.mark.parametrize(
    ("context", "facts", "left"),
    [
        ("One. Lit in 1700. Two.", ["Lit in 1700."], "One. Two."),
        ("One.\n\nLit in 1700.\n\nTwo.", ["Lit in 1700."], "One.\n\nTwo."),
        ("Lit in 1700.\n\nTwo.", ["Lit in 1700."], "Two."),
        ("One. Lit in 1700.", ["Lit in 1700."], "One."),
        ("灯塔。建于1700年。港口。", ["建于1700年。"], "灯塔。港口。"),
        ("A fact. B. A fact. C.", ["A fact."], "B. C."),
        ("A. One f. Other f. B.", ["One f.", "Other f."], "A. B."),
        ("A. Other f.  One f. B.", ["One f.", "Other f."], "A. B."),
        ("A. Lit in 1700 by Venn. B.", ["Lit in 1700 by", "1700 by Venn."], "A. B."),
        ("(x)One (.*) {input} [b]two", [" (.*) {input} [b]"], "(x)Onetwo"),
        ("All of it.", ["All of it."], ""),
    ],
)
def test_facts_are_cut_out_without_a_gap(context: str, facts: list[str], left: str) -> None:
    asked = controls.controlled("no-facts", row(context, facts))
    assert asked is not None and asked["context"] == left


@pytest.mark.parametrize("facts", [None, ["Lit in 1699."], ["Lit in 1700.", "Lit in 1699."]])
def test_a_row_of_which_a_fact_is_not_there_verbatim_has_no_prompt_without(
    facts: list[str] | None,
) -> None:
    assert controls.controlled("no-facts", row("One. Lit in 1700. Two.", facts)) is None


def test_marks_of_evidence_move_with_the_text() -> None:
    context = "F one. Lit in 1807. F two. F two. Built by Venn. F one."
    marked = row(
        context, ["F one.", "F two."], "Lit in 1807.", "Built by Venn.", "1807. F two. F two. Built"
    )
    asked = controls.controlled("no-facts", marked)
    assert asked is not None and asked["context"] == "Lit in 1807. Built by Venn."
    assert evidence_of(asked) == ["Lit in 1807.", "Built by Venn.", "1807. Built"]


@pytest.mark.parametrize("subset", list(config.DATASET_METRIC))
def test_rows_that_construct_builds(subset: str) -> None:
    whole = cast(Row, build_row(BuildSpec(42, SAMPLES), subset, "1k", 1))
    alone = controls.controlled("evidence-only", whole)
    assert alone is not None and sorted(evidence_of(alone)) == sorted(evidence_of(whole))
    assert len(alone["context"]) == sum(map(len, evidence_of(whole))) + 2 * (
        len(evidence_of(whole)) - 1
    )
    without, facts = controls.controlled("no-facts", whole), whole["confusing_facts"]
    if not facts:
        assert without is None
        return
    assert without is not None and evidence_of(without) == evidence_of(whole)
    assert not any(fact in without["context"] for fact in facts)
    assert "".join(without["context"].split()) == "".join(  # nothing else went
        "".join(whole["context"].replace(facts[0], "").replace(facts[1], "").split())
    )
    assert "  " not in without["context"] and "\n\n\n" not in without["context"]


# --- comparisons ------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "backend": "hf",
    "engine": {"model": "sha256:1"},
    "data": {"lic_mixup_16k": "1"},
}


def run(rows: list[ScoredRow], control: str | None = None, **settings: object) -> Evaluation:
    given = {"given": {"control": control}} if control else {}
    return answered(rows, SETTINGS | given | settings)


def two_languages(chinese: float, english: float) -> list[ScoredRow]:
    """Two subsets over 12 questions at three lengths, each with one score."""
    scores = np.full((12, 3), 1.0)
    return [*run_of("lic_mixup", chinese * scores), *run_of("loogle_SD_mixup", english * scores)]


@pytest.mark.parametrize(
    ("control", "name", "sign"),
    [
        ("closed-book", "context gain", 1),
        ("evidence-only", "cost of length", -1),
        ("no-facts", "cost of confusing facts", -1),
    ],
)
@pytest.mark.parametrize("full_first", [True, False])
def test_a_contrast_has_its_sign_whichever_run_is_named_first(
    control: str, name: str, sign: int, full_first: bool
) -> None:
    full, other = run(two_languages(0.75, 0.5)), run(two_languages(0.5, 0.375), control)
    a, b = (full, other) if full_first else (other, full)
    found = comparison.compare_with(a, {"B": b})["B"]
    assert found.contrast is not None and found.contrast.name == name
    assert found.flags == tuple(flag for flag in found.flags if "control" not in flag)
    means = {"all": 18.75, "zh": 25, "en": 12.5, "lic_mixup": 25, "loogle_SD_mixup": 12.5}
    means |= dict.fromkeys(("16k", "32k", "64k"), 18.75)
    assert {part: found.contrast.of(value).value for part, value in found.table_parts.items()} == {
        part: pytest.approx(sign * mean) for part, mean in means.items()
    }
    table = comparison_table(found, "one", "other")
    assert table.head[1:4] == ("full", control, "difference")
    assert table.note.startswith(f"{name.capitalize()}: ")
    assert table.lines[0][1:4] == ["62.50", "43.75", f"{sign * 18.75:+.2f}"]
    assert table.lines[0][-1] == "full better"
    data = cast(dict[str, Any], found.as_data()["contrast"])
    assert (data["name"], data["control"], data["full"]) == (
        name,
        control,
        "A" if full_first else "B",
    )
    assert data["languages"]["zh"]["value"] == data["subsets"]["lic_mixup"]["value"] == sign * 25
    assert data["files"]["lic_mixup_16k"]["value"] == sign * 25
    assert data["levels"]["16k"]["value"] == data["overall"]["value"] == sign * 18.75


def test_bounds_of_a_cost_are_those_of_the_difference_turned_round() -> None:
    chance = np.random.default_rng(4)
    full, other = (
        run(run_of("lic_mixup", chance.random((30, 3)) / 2)),
        chance.random((30, 3)) / 2 + 0.2,
    )
    found = comparison.compare_with(full, {"B": run(run_of("lic_mixup", other), "no-facts")})["B"]
    plain, cost = (
        found.parts.overall.interval,
        cast(comparison.Contrast, found.contrast).of(found.parts.overall),
    )
    assert plain.low is not None and plain.high is not None and plain.low < plain.high < 0
    assert (cost.value, cost.low, cost.high) == (-plain.value, -plain.high, -plain.low)
    assert (
        cast(comparison.Contrast, found.contrast).verdict(found.parts.overall) == "no-facts better"
    )


def test_equal_runs_have_no_contrast_and_no_negative_zero() -> None:
    rows = two_languages(1.0, 1.0)
    for control in controls.CONTROLS:
        found = comparison.compare_with(run(rows), {"B": run(rows, control)})["B"]
        table = comparison_table(found, "one", "other")
        assert {(line[3], line[-1]) for line in table.lines} == {("+0.00", "no difference shown")}


def test_languages_are_a_family_and_means_of_level_means() -> None:
    # Chinese has two subsets at 16k and one at 32k: the mean of its level means is not that of its files.
    ones = np.ones((12, 1))
    a = [
        *run_of("lic_mixup", 0.5 * ones, ("16k",)), *run_of("cmrc_mixup", 0.75 * ones, ("16k",)),
        *run_of("lic_mixup", 1.0 * ones, ("32k",)), *run_of("loogle_SD_mixup", 0.25 * ones, ("16k",)),
    ]  # fmt: skip
    b = [ScoredRow(each.subset, each.level, each.index, every(0.0), each.record) for each in a]
    found = comparison.compare_with(run(a), {"B": run(b)})["B"]
    assert {name: part.a for name, part in found.languages.items()} == {
        "en": 25,
        "zh": 100 * (0.625 + 1) / 2,
    }
    assert [part.adjusted for part in found.languages.values()] == comparison.holm(
        [part.p for part in found.languages.values()]
    )
    assert all(part.verdict == "A better" for part in found.languages.values())
    alone = comparison.compare_with(run(a[:12]), {"B": run(b[:12])})["B"]
    assert "zh" in alone.languages and "zh" not in alone.table_parts  # it is all there is


def flags(a: Evaluation, b: Evaluation) -> str:
    return "; ".join(comparison.compare_with(a, {"B": b})["B"].flags)


def test_what_differs_beyond_the_control_is_said() -> None:
    rows = two_languages(0.5, 0.5)
    full = run(rows, model_max_len=900)
    assert "model" not in flags(full, run(rows, "no-facts", model_max_len=900))
    assert "different limit of tokens: 900 in A, 300 in B" in flags(
        full, run(rows, "no-facts", model_max_len=300)
    )
    other = run(rows, "no-facts", engine={"model": "sha256:2"})
    assert "different models or engines (engine.model): no contrast of one model" in flags(
        full, other
    )
    assert "different models" not in flags(
        full, run(rows, engine={"model": "sha256:2"})
    )  # no control
    file = run(rows, given={"control": "no-facts", "backend_file": "sha256:3"})
    assert "different models or engines (given.backend_file)" in flags(full, file)


def test_a_control_in_a_sweep_is_said_to_be_one() -> None:
    measured = [
        replace(each, record={"measures": {"kept": 0.5}}) for each in two_languages(0.5, 0.5)
    ]
    found = sweep.sweep_runs(run(measured), {"asked": run(measured, "no-facts")})
    said = "Cost of confusing facts: no-facts - full, in points: what the confusing facts cost."
    assert f"asked: {said}" in found.notes
    assert not any(
        "Cost" in note for note in sweep.sweep_runs(run(measured), {"asked": run(measured)}).notes
    )


def test_two_controls_are_two_runs_like_any_others() -> None:
    rows = two_languages(0.5, 0.5)
    one, other = run(rows, "no-facts"), run(rows, "closed-book")
    found = comparison.compare_with(one, {"B": other, "same": run(rows, "no-facts")})
    assert found["B"].contrast is found["same"].contrast is None
    assert 'different control: "no-facts" in A, "closed-book" in B' in found["B"].flags
    assert not any("control" in flag for flag in found["same"].flags)


# --- the run's name and the leaderboard -------------------------------------------------------------------------------


@pytest.mark.parametrize("control", list(controls.CONTROLS))
def test_a_control_is_named_and_never_ranked(control: str) -> None:
    files = [
        FileResult(
            subset,
            "16k",
            count,
            count,
            [ScoredRow(subset, "16k", at, every(1.0), {}) for at in range(count)],
        )
        for subset, count in config.DATASET_ROWS.items()
    ]
    identity = {
        "prompts": {"name": "official", "sha256": "5c74", "official": True},
        "chat_template": "published",
    }
    full = Evaluation(Path("out/model"), {"identity": identity}, files)
    other = Evaluation(
        Path("out/model"), {"identity": identity | {"given": {"control": control}}}, files
    )
    assert full.leaderboard_levels == ["16k"] and other.leaderboard_levels == []
    reason = f"the control {control} asks something else than the benchmark"
    assert reasons_unranked(other) == [*reasons_unranked(full), reason]
    assert (full.name, other.name) == ("model", f"model ({control})")
    assert other.place == f"out/model ({control})"
    other.folder = Path(f"out/model-{control}")
    assert (other.name, other.place) == (f"model-{control}", f"out/model-{control}")
    assert other.signature("released").endswith(f"|control:{control}")
    assert "control" not in full.signature("released")
