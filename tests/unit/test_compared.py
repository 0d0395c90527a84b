"""A comparison on the page: names, order, what flipped, the plot of the differences; rows beside it."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from support.elements import Elements
from support.run_folders import bare_page, compared_page, make_row, small_run, write_run

from lveval.analysis.comparison import Contrast
from lveval.analysis.contexts import Contexts
from lveval.evaluation import evaluate
from lveval.report import charts, forest_chart, html, row_data
from lveval.report.compared import FLIP, ComparedRun, compared_runs
from lveval.report.data import ReportData
from lveval.results import PROTOCOLS


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return compared_page(tmp_path_factory.mktemp("compared"))


@pytest.fixture
def second(page: ReportData) -> ComparedRun:
    """The comparison with the second run."""
    return compared_runs(page, "released")[0]


def test_runs_have_their_names_and_parts_their_sizes(page: ReportData, second: ComparedRun) -> None:
    assert second.names == ("first-run", "second-run")
    assert second.columns == ("first-run", "second-run", "first-run minus second-run")
    assert "first-run" in second.sentence and "second-run" in second.sentence
    for parts in (second.levels, second.subsets, second.languages):
        values = [part.difference.value for part in parts]
        assert len(values) == 2 and values == sorted(values, reverse=True)
    found = page.headline.compared
    for run, comparison in zip(compared_runs(page, "released"), found.values(), strict=True):
        assert {part.name for part in run.parts} == {
            {"en": "English", "zh": "Chinese"}.get(name, name) for name in comparison.table_parts
        }
        assert run.overall.difference == comparison.parts.overall.interval
        for part in run.parts:
            assert part.leads == (part.better == "first-run")
    text = html.render(page)
    assert "A better" not in text and "of A alone" not in text and ">A<" not in text


def test_what_flipped_is_listed_once_by_size(page: ReportData, second: ComparedRun) -> None:
    for sign, side in zip((1, -1), second.flips, strict=True):
        far = []
        for row in page.rows:
            (other, _) = row["others"]
            assert other is not None
            gap = sign * (row["scores"]["released"] - other.scores["released"])
            if gap >= FLIP:
                far.append((gap, row))
        assert side.count == len(far) > 0
        assert side.href == f"#rows?flip={sign}"
        gaps = [sign * (flip.scores[0] - flip.scores[1]) for flip in side.rows]
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] == pytest.approx(100 * max(gap for gap, _ in far))
        assert len({flip.question for flip in side.rows}) == len(side.rows)
    assert [side.better for side in second.flips] == ["first-run", "second-run"]


def test_a_control_has_its_own_sign_and_names(page: ReportData) -> None:
    changed = replace(page, protocols=dict(page.protocols))
    found = changed.headline
    (place, comparison), *_ = found.compared.items()
    gain = Contrast("closed-book", "A")
    lost = Contrast("closed-book", "B")
    for contrast in (gain, lost):
        against = {place: replace(comparison, contrast=contrast)}
        changed.protocols["released"] = replace(found, compared=against)
        (run,) = compared_runs(changed, "released")
        assert run.overall.difference == contrast.of(comparison.parts.overall)
        assert run.about == contrast.words and run.columns[2] == contrast.name
        assert run.favours[1] == run.columns[0 if contrast.kind.from_full else 1]
        assert run.columns[0] == ("first-run" if contrast.full == "A" else "second-run")


def test_the_plot_holds_every_interval_and_leads_to_rows(second: ComparedRun) -> None:
    marks = forest_chart.ticks(second)
    assert 0 in marks and len(marks) <= 10
    for part in second.parts:
        low, high = part.difference.low, part.difference.high
        assert low is not None and high is not None
        assert marks[0] <= low <= high <= marks[-1]
    for width in charts.WIDTHS:
        found = Elements(forest_chart.draw(second, width)).found
        links = [attributes["href"] for tag, attributes in found if tag == "a"]
        assert links == [part.href for part in (*second.levels, *second.subsets)]
        assert [tag for tag, _ in found].count("polygon") == 1  # all together
        assert found[0][1]["role"] == "group"


def test_rows_hold_what_the_others_answered(page: ReportData) -> None:
    text = html.render(page)
    data, details = Elements(text).data(), Elements(text).details()
    assert data["name"] == "first-run" and data["others"] == ["second-run", "third-run"]
    assert len(details) == len(page.rows) == len(data["rows"])
    for number, row in enumerate(page.rows):
        evidence, facts, others = details[number]
        assert row["depths"] is not None
        assert [len(evidence), len(facts)] == [1, 2]
        assert evidence[0][0] == round(1000 * row["depths"].evidence[0][0])
        for place, other in enumerate(row["others"]):
            assert other is not None
            pred, whole, status, cause, marks = others[place]
            assert (pred, whole, status, cause) == (
                other.pred,
                len(other.pred),
                other.status,
                other.cause,
            )
            assert marks == row_data.flat(other.marks)
            scores = [round(other.scores[name], 4) for name in PROTOCOLS]
            assert data["rows"][number][16][place] == scores


def test_another_question_at_the_same_place_is_no_answer(tmp_path: Path) -> None:
    rows = [make_row("lic_mixup", "16k", index, Random(1)) for index in range(3)]
    unlike = [{**rows[0], "input": "another?"}, rows[1]]
    one, other = (
        evaluate(write_run(tmp_path / name, {"lic_mixup_16k": content}))
        for name, content in (("one", rows), ("other", unlike))
    )
    views = row_data.row_views(one, [other], Contexts())
    assert [bool(view["others"][0]) for view in views] == [False, True, False]


def test_rows_of_the_lowest_scores_stand_without_a_script(tmp_path: Path) -> None:
    page = bare_page(small_run(tmp_path / "run"))
    worst = row_data.worst_rows(page.rows)
    assert len(worst) == row_data.WORST
    rest = [row for row in page.rows if row not in worst]
    highest = max(row["scores"]["released"] for row in worst)
    assert all(row["scores"]["released"] >= highest for row in rest)
    shown = html.render(page).split('<ol id="list">')[1].split("</ol>")[0]
    assert shown.count('<div class="row static">') == row_data.WORST
    for row in worst:
        assert row["question"] in shown and row["truths"][0] in shown
