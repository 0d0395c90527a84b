"""Numbers beside the answers: reasoning and what plugins measured, and what a run with them is."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.run_folders import IDENTITY, make_row, write_run
from support.scores import every

from lveval.analysis import measures, run_analysis
from lveval.analysis.measures import Reasoning, Spread
from lveval.analysis.mismatches import mismatches
from lveval.evaluation import evaluate
from lveval.report import charts, html, tables
from lveval.report.data import ReportData, build_report
from lveval.report.leaderboard import reasons_unranked
from lveval.results import ScoredRow


def row(level: str, index: int, tokens: int, score: float = 1.0, **record: object) -> ScoredRow:
    usage = {"completion_tokens": tokens + 5, "reasoning_tokens": tokens}
    fields = {"usage": usage, "status": "ok", "pred": "1874", "input": f"q{index}", **record}
    return ScoredRow("lic_mixup", level, index, every(score), fields)


def test_reasoning_is_summarized_by_level_and_over_equal_questions() -> None:
    rows = [row("32k", 0, 300), row("32k", 1, 100, 0.5), row("16k", 0, 10)]
    rows.append(row("32k", 2, 800, 0.0, status="length", pred=""))
    found = measures.reasoning_by_level(rows)
    assert list(found) == ["16k", "32k"]
    assert found["16k"] == Reasoning(Spread(1, 10, 10, 10, 10), 10, 0.0, 100.0, None)
    longer = found["32k"]
    assert (longer.tokens.mean, longer.tokens_same_questions) == (400, 300)
    assert longer.cut_percent == pytest.approx(100 / 3) and longer.score_cut == 0.0
    assert longer.score_finished == 75.0
    # With a budget the engine closes what has gone on longer, and an answer follows.
    assert measures.reasoning_by_level(rows, 250)["32k"].cut_percent == pytest.approx(200 / 3)


def test_rows_without_reasoning_say_nothing_of_it() -> None:
    plain = ScoredRow("lic_mixup", "16k", 0, every(1.0), {"usage": {"completion_tokens": 5}})
    odd = ScoredRow("lic_mixup", "16k", 1, every(1.0), {"usage": "much", "measures": "none"})
    assert measures.reasoning_by_level([plain, odd]) == {}
    assert measures.measures_by_level([plain, odd]) == {}


def test_measures_are_numbers_by_name_and_level() -> None:
    kept = [0.5, 0.5, 0.7, 0.3]
    rows = [row("16k", n, 0, measures={"kept": k, "by": "norm"}) for n, k in enumerate(kept)]
    rows.append(row("32k", 0, 0, measures={"kept": True, "nan": float("nan"), "density": 2}))
    found = measures.measures_by_level(rows)
    assert list(found) == ["kept", "density"] and list(found["kept"]) == ["16k"]
    assert found["kept"]["16k"].mean == pytest.approx(0.5) and found["kept"]["16k"].rows == 4
    assert found["density"]["32k"] == Spread(1, 2.0, 2.0, 2.0, 2.0)
    assert tables.measures_table(found).lines[0][:3] == ["kept, 16k", "4", "0.5"]


def thinking_run(folder: Path, **identity: object) -> Path:
    """A run over two levels whose longer contexts are thought about for longer."""
    source = random.Random(5)
    files: dict[str, list[dict[str, Any]]] = {}
    for level, tokens in (("16k", 900), ("64k", 2100)):
        rows = [make_row("lic_mixup", level, index, source) for index in range(20)]
        for index, each in enumerate(rows):
            used = tokens + 10 * index
            each["usage"] = {"completion_tokens": used + 9, "reasoning_tokens": used}
            each["measures"] = {"kept": 0.5}
        files[f"lic_mixup_{level}"] = rows
    return write_run(folder, files, **identity)


@pytest.fixture
def page(tmp_path: Path) -> ReportData:
    evaluation = evaluate(thinking_run(tmp_path / "run", given={"thinking_budget": 2200}))
    return build_report(evaluation, run_analysis.analyze_run(evaluation))


def test_the_page_shows_reasoning_and_measures(page: ReportData) -> None:
    shown = html.render(page)
    assert "Tokens of reasoning by length of the context" in shown
    assert 'id="reasoning"' in shown and 'id="measures"' in shown and "kept, 64k" in shown
    chart = charts.reasoning_chart(page)
    assert chart.ticks[-1] >= 2195 and len(chart.ticks) <= 8
    assert [round(own.value) for own in chart.own.values()] == [995, 2195]
    written = tables.markdown(page)
    assert "Tokens of reasoning" in written and "Measures of the plugins" in written
    assert page.reasoning["64k"].cut_percent == 45.0


def test_what_a_run_has_of_it_is_in_its_metadata(page: ReportData, tmp_path: Path) -> None:
    evaluation = evaluate(tmp_path / "run")
    data = run_analysis.as_data(run_analysis.analyze_run(evaluation))
    assert json.loads(json.dumps(data))["reasoning"]["16k"]["tokens"]["mean"] == 995
    plain = write_run(
        tmp_path / "plain",
        {"lic_mixup_16k": [make_row("lic_mixup", "16k", n, random.Random(n)) for n in range(3)]},
    )
    data = run_analysis.as_data(run_analysis.analyze_run(evaluate(plain)))
    assert not {"reasoning", "measures"} & data.keys()


@pytest.mark.parametrize(
    "given",
    [
        {"thinking_budget": 9},
        {"stop": ["END"]},
        {"generate_args": {"repetition_penalty": 1.2}},
        {"plugins": {"BM25": {"sha256": "sha256:0", "identity": {"words": 9}}}},
    ],
)
def test_a_run_with_a_method_is_not_ranked_and_compared_with_a_word(
    tmp_path: Path, given: dict[str, object]
) -> None:
    (name,) = given
    evaluation = evaluate(thinking_run(tmp_path / "run", given=given))
    assert f"the answers were made with {name}" in reasons_unranked(evaluation)
    flags = [each.text for each in mismatches(evaluation.identity, IDENTITY)]
    assert any(flag.startswith(f"different {name}:") for flag in flags), flags
    adapted = evaluate(thinking_run(tmp_path / "lora", given={"revision": "v2"}))
    assert not any("made with" in reason for reason in reasons_unranked(adapted))
