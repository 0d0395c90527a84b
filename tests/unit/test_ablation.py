"""The metric step by step: known truth for each step, and intervals that hold it."""

from typing import Any

import pytest

from lveval import config
from lveval.analysis import ablation, clusters, intervals
from lveval.evaluation import score_row
from lveval.results import ScoredRow


def row(
    subset: str, index: int, pred: str, *answers: str, keywords: str | None = None
) -> ScoredRow:
    record: dict[str, Any] = {"pred": pred, "answers": list(answers), "gold_ans": keywords}
    return score_row({**record, "index": index, "question_id": f"q{index}"}, subset, "16k", index)


def measured(rows: list[ScoredRow]) -> ablation.Ablation:
    variants = [ablation.score_variants(each) for each in rows]
    tables = clusters.value_tables(rows, ablation.effects(variants))
    drawn = intervals.draw_together(tables, paired=tables)
    return ablation.summarize(rows, variants, {name: drawn.breakdown(name) for name in tables})


@pytest.mark.parametrize("subset", config.DATASET_METRIC)
def test_the_last_step_is_the_described_score(subset: str) -> None:
    found = row(subset, 0, "amber of 灯塔在港口", "amber reef of 灯塔在水库", keywords="amber 灯塔")
    assert ablation.score_variants(found)["blacklist"] == found.scores["described"]


def test_the_gate_takes_and_the_blacklist_takes_what_only_says_little() -> None:
    gated = row("lic_mixup", 0, "灯塔", "灯塔果园", keywords="果园")
    little = row("lic_mixup", 1, "灯塔的", "港口的", keywords=None)
    right = row("lic_mixup", 2, "灯塔", "灯塔", keywords="灯塔")
    found = measured([gated, little, right])
    file = "lic_mixup", "16k"
    steps = [round(found.scores[step][file], 2) for step in ablation.STEPS]
    assert steps == [72.22, 50.0, 33.33]  # means of (2/3, 1/2, 1), (0, 1/2, 1), (0, 0, 1)
    gate, blacklist = found.effects["keywords"], found.effects["blacklist"]
    assert gate.files[file].value == pytest.approx(-100 * 2 / 9)
    assert blacklist.overall.value == pytest.approx(-100 / 6)
    assert gate.overall.low is not None and gate.overall.low < gate.overall.value


def test_dureader_has_no_gate_and_its_blacklist_works_on_rouge() -> None:
    found = row("dureader_mixup", 0, "灯塔的", "灯塔的旁边", keywords="果园")
    variants = ablation.score_variants(found)
    assert variants["f1"] == variants["keywords"] > 0
    assert variants["blacklist"] != variants["keywords"]


def test_the_best_of_all_answers_is_never_less_than_the_first() -> None:
    rows = [
        row("factrecall_en", 0, "reef", "amber", "reef", "cove"),
        row("factrecall_en", 1, "amber", "amber", "reef"),
        row("factrecall_en", 2, "amber", "amber"),
        row("factrecall_en", 3, "pier", "amber"),
    ]
    found = measured(rows)
    file = "factrecall_en", "16k"
    assert (found.scores["first_answer"][file], found.scores["all_answers"][file]) == (50.0, 75.0)
    assert found.effects["all_answers"].overall.value == 25.0
    assert found.several_answers == 2


def test_a_metric_without_known_steps_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    own = lambda prediction, truth, keywords=None: 1.0  # noqa: E731
    monkeypatch.setitem(config.DATASET_METRIC_DESCRIBED, "cmrc_mixup", own)
    rows = [row(name, at, "灯塔", "灯塔") for name in ("cmrc_mixup", "lic_mixup") for at in (0, 1)]
    found = measured(rows)
    assert list(found.scores["f1"]) == [("lic_mixup", "16k")]
    assert list(found.effects["keywords"].subsets) == ["lic_mixup"]
    assert set(found.scores["all_answers"]) == {("cmrc_mixup", "16k"), ("lic_mixup", "16k")}


def test_a_run_of_such_metrics_alone_has_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    own = lambda prediction, truth, keywords=None: 1.0  # noqa: E731
    monkeypatch.setitem(config.DATASET_METRIC_DESCRIBED, "cmrc_mixup", own)
    from lveval.report import tables

    found = measured([row("cmrc_mixup", at, "灯塔", "灯塔") for at in (0, 1)])
    assert tables.ablation_table(found).lines == []
