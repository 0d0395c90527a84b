"""Task groups and languages, the ceiling, and this run beside others: known truth for each number."""

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from support.run_folders import make_row, write_run
from support.scores import every

from lveval import cli, config
from lveval.analysis import clusters, evidence, groups, intervals
from lveval.analysis.evidence import Evidence
from lveval.analysis.groups import Groups
from lveval.common.levels import FileKey
from lveval.report import beside, charts, group_charts, tables
from lveval.report.data import ReportData
from lveval.results import LANGUAGES, ScoredRow

# SPEC's facts, as the data card has them: subset, group, flags.
FACTS = """
loogle_SD_mixup        | single-hop QA           | AK
cmrc_mixup             | single-hop QA           | KPR
multifieldqa_en_mixup  | single-hop confusion QA | CFI KPR AK
multifieldqa_zh_mixup  | single-hop confusion QA | CFI KPR AK
loogle_CR_mixup        | multi-hop QA            | AK
loogle_MIR_mixup       | multi-hop QA            | AK
dureader_mixup         | multi-hop QA            |
hotpotwikiqa_mixup     | multi-hop confusion QA  | CFI KPR AK
lic_mixup              | multi-hop confusion QA  | CFI AK
factrecall_en          | factrecall              | CFI KPR
factrecall_zh          | factrecall              | CFI KPR
"""


def test_the_config_has_the_published_groups_and_flags() -> None:
    facts = [[part.strip() for part in line.split("|")] for line in FACTS.strip().splitlines()]
    assert {name: group for name, group, _ in facts} == config.DATASET_GROUP
    assert {name: flags.split() for name, _, flags in facts} == config.DATASET_FLAGS
    assert set(config.DATASET_GROUP) == set(config.DATASET_ROWS)
    # What a name says: confusion groups are those with confusing facts; factrecall has a name alone.
    for name, group in config.DATASET_GROUP.items():
        confusing = "confusion" in group or group == "factrecall"
        assert confusing == ("CFI" in config.DATASET_FLAGS[name])


def rows_of(scores: dict[FileKey, list[float]]) -> list[ScoredRow]:
    return [
        ScoredRow(subset, level, at, every(score), {"question_id": f"q{at}"})
        for (subset, level), each in scores.items()
        for at, score in enumerate(each)
    ]


def measured(scores: dict[FileKey, list[float]]) -> Groups:
    drawn = intervals.draw_together(clusters.score_tables(rows_of(scores), ["released"]))
    files = {file: round(100 * sum(each) / len(each), 2) for file, each in scores.items()}
    return groups.measure_groups(files, drawn, "released")


def test_a_group_is_the_mean_of_its_files_and_a_language_too() -> None:
    found = measured(
        {
            ("dureader_mixup", "16k"): [0.2, 0.4],  # 30
            ("loogle_CR_mixup", "16k"): [0.8, 1.0],  # 90
            ("dureader_mixup", "32k"): [0.1, 0.3],  # 20: loogle_CR has no 32k
            ("lic_mixup", "16k"): [0.5, 0.1],  # 30
        }
    )
    assert list(found.tasks) == ["multi-hop QA", "multi-hop confusion QA"]
    several = found.tasks["multi-hop QA"]
    assert several.subsets == ["loogle_CR_mixup", "dureader_mixup"]
    assert {level: part.value for level, part in several.levels.items()} == {"16k": 60, "32k": 20}
    assert several.overall.value == 40  # of the levels, as the table of scores has it
    assert list(found.languages) == ["en", "zh"]
    assert found.languages["en"].overall.value == 90
    assert found.languages["zh"].levels["16k"].value == 30
    assert found.languages["zh"].overall.value == 25
    assert list(found.named) == [*found.tasks, *LANGUAGES.values()]


def test_a_group_of_one_subset_has_that_subsets_interval_and_a_run_of_one_group_the_runs() -> None:
    chance = np.random.default_rng(5)
    scores = {
        (subset, level): [float(score) for score in chance.random(30)]
        for subset in ("dureader_mixup", "loogle_CR_mixup", "lic_mixup")
        for level in ("16k", "32k")
    }
    found = measured(scores)
    alone = intervals.score_intervals(rows_of(scores))
    one, whole = found.tasks["multi-hop confusion QA"], found.tasks["multi-hop QA"]
    for level in ("16k", "32k"):
        file = alone.files["lic_mixup", level]
        assert (one.levels[level].low, one.levels[level].high) == (file.low, file.high)
    subset = alone.subsets["lic_mixup"]
    assert (one.overall.low, one.overall.high) == pytest.approx((subset.low, subset.high))
    own = {file: each for file, each in scores.items() if file[0] != "lic_mixup"}
    parts = intervals.score_intervals(rows_of(own))
    for level in ("16k", "32k"):
        found_level, expected = whole.levels[level], parts.levels[level]
        assert (found_level.low, found_level.high) == (expected.low, expected.high)
    assert (whole.overall.low, whole.overall.high) == (parts.overall.low, parts.overall.high)


def test_a_subset_of_ones_own_is_in_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.DATASET_LANGUAGE, "mine", "en")
    found = measured({("mine", "16k"): [0.1, 0.3], ("lic_mixup", "16k"): [0.5, 0.7]})
    assert list(found.tasks) == ["multi-hop confusion QA"]
    assert found.languages["en"].subsets == ["mine"]


def test_the_ceiling_is_the_mean_of_the_files_shares_where_all_of_them_tell() -> None:
    parts = {
        ("lic_mixup", "16k"): Evidence(kept=3, cut=1),
        ("dureader_mixup", "16k"): Evidence(kept=1, cut=1, unknown=2),
        ("lic_mixup", "64k"): Evidence(kept=0, cut=4),
        ("dureader_mixup", "64k"): Evidence(kept=1, cut=3),
        ("lic_mixup", "32k"): Evidence(kept=4),
        ("dureader_mixup", "32k"): Evidence(unknown=4),
    }
    assert evidence.ceilings(parts) == {"16k": 62.5, "64k": 12.5}
    assert list(evidence.ceilings(parts)) == ["16k", "64k"]


# --- beside others --------------------------------------------------------------------------------


def answers(subset: str, level: str, right: int, rows: int = 4) -> list[dict[str, object]]:
    """Rows of which the first `right` score 100 and the others 0."""
    made = [make_row(subset, level, index, Random(index)) for index in range(rows)]
    for index, row in enumerate(made):
        row |= {"status": "ok", "evidence_kept": index < 3}
        row["pred"] = row["answers"][0] if index < right else "xyzzy"
    return made


FOUR = ("hotpotwikiqa_mixup", "factrecall_en", "cmrc_mixup", "multifieldqa_zh_mixup")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Four subsets in four groups at two levels, beside a run that is whole and one that is not."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, right: int, subsets: tuple[str, ...] = FOUR) -> Path:
        files = {
            f"{subset}_{level}": answers(subset, level, right + (level == "16k"))
            for subset in subsets
            for level in ("16k", "64k")
        }
        return write_run(folder / name, files)

    others = [run("better", 3), run("smaller", 2, FOUR[:2])]
    return cli.report_of_folder(run("own", 1), others, leaderboard=True)


def test_models_stand_beside_the_run_over_its_files(page: ReportData) -> None:
    own, better, smaller, *published = beside.model_lines(page.name, page.headline)
    assert (own.name, better.name, smaller.name) == ("own", "better", "smaller")
    assert set(own.subsets.values()) == {37.5} and own.mean == 37.5
    assert set(better.groups.values()) == {87.5} and better.is_complete
    assert smaller.subsets["factrecall_en"] == 62.5
    assert smaller.subsets["cmrc_mixup"] is None and smaller.mean is None
    assert smaller.groups["factrecall"] == 62.5 and smaller.groups["single-hop QA"] is None
    whole = [line for line in published if line.is_complete]
    assert len(whole) == 10 and {line.kind for line in published} == {"published"}
    means = [line.mean or 0 for line in whole]
    assert means == sorted(means, reverse=True)
    # By hand from published.csv: ChatGLM3-6B-32k, factrecall_en at 16k and 64k.
    scores = next(
        model for model in page.headline.published if model.name == "ChatGLM3-6B-32k"
    ).scores
    line = next(line for line in published if line.name == "ChatGLM3-6B-32k")
    expected = (scores["factrecall_en", "16k"] + scores["factrecall_en", "64k"]) / 2
    assert line.subsets["factrecall_en"] == pytest.approx(expected)
    assert line.groups["factrecall"] == pytest.approx(expected)


def test_one_level_stands_beside_that_level(page: ReportData) -> None:
    own, better, *_ = beside.model_lines(page.name, page.headline, "16k")
    assert set(own.subsets.values()) == {50.0} and set(better.subsets.values()) == {100.0}
    names = [line.name for line in beside.model_lines(page.name, page.headline, "16k")]
    assert "Qwen2-72B-Instruct" in names  # published at 16k only
    table = tables.models_table(page.name, page.headline, "16k")
    assert list(table.head) == ["model", "hotpotwikiqa", "multifieldqa_zh", "factrecall_en", "cmrc"]
    assert list(table.lines[0]) == ["own", "50.00", "50.00", "50.00", "50.00"]
    assert list(table.lines[2]) == ["smaller", "75.00", "", "75.00", ""]


def test_drawn_are_compared_runs_then_the_best_published_with_every_file(page: ReportData) -> None:
    lines = beside.model_lines(page.name, page.headline)
    drawn = beside.drawn_models(lines)
    assert [model.css for model in drawn] == ["own", *beside.HUES]
    assert [model.name for model in drawn[:2]] == ["own", "better"]  # smaller lacks files
    best = [line.name for line in lines if line.kind == "published"][:3]
    assert [model.name for model in drawn[2:]] == best


def test_runs_of_one_name_go_by_their_folders(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / limit / "qwen", {"lic_mixup_16k": answers("lic_mixup", "16k", 2)})
        for limit in ("31500", "63500", "127500")
    ]
    page = cli.report_of_folder(runs[0], runs[1:])
    names = [run.name for run in page.headline.other_runs]
    assert page.name == "qwen" and names == [str(run) for run in runs[1:]]


def test_a_unit_without_published_subsets_has_the_runs_alone(page: ReportData) -> None:
    names = [line.name for line in beside.model_lines(page.name, page.protocols["recall"])]
    assert names == ["own", "better", "smaller"]


# --- the figures ----------------------------------------------------------------------------------


def test_compared_runs_are_curves_where_they_have_all_subsets(page: ReportData) -> None:
    for protocol in page.protocols:
        chart = charts.curve_chart(page, protocol)
        assert [name for name, _ in chart.compared] == ["better"]
        assert dict(chart.compared)["better"] == {"16k": 100, "64k": 75}
    drawn = charts.draw_curves(charts.curve_chart(page), charts.WIDE)
    assert "better, 64k: 75.00" in drawn and 'class="name s0"' in drawn


def test_the_ceiling_is_drawn_as_far_as_the_axis_goes(page: ReportData) -> None:
    chart = charts.curve_chart(page)
    assert chart.ceiling == {"16k": 75, "64k": 75}
    drawn = charts.draw_curves(chart, charts.WIDE)
    assert drawn.count('class="ceiling"') == 1 and drawn.count("≤ 75") == 2
    assert "ceiling" in [end.name for end in chart.ends]
    lower = replace(chart, ticks=[0.0, 50.0])
    assert 'class="ceiling"' not in charts.draw_curves(lower, charts.WIDE)
    assert "ceiling" not in [end.name for end in lower.ends]


@pytest.mark.parametrize(
    ("points", "parts"),
    [
        ([(0, 0), (10, 20)], [[(5, 10), (10, 20)]]),  # y grows downwards; above 10 is cut off
        ([(0, 20), (10, 30)], [[(0, 20), (10, 30)]]),
        ([(0, 0), (10, 5)], []),
        ([(0, 0), (10, 20), (20, 30)], [[(5, 10), (10, 20), (20, 30)]]),
        ([(0, 20), (10, 0), (20, 20)], [[(0, 20), (5, 10)], [(15, 10), (20, 20)]]),
        ([(0, 10), (10, 10)], [[(0, 10), (10, 10)]]),
    ],
)
def test_a_line_is_cut_at_a_height(
    points: list[charts.Point], parts: list[list[charts.Point]]
) -> None:
    assert charts.parts_below(points, 10) == parts


def test_a_radar_places_values_on_its_axes(page: ReportData) -> None:
    chart = group_charts.group_chart(page)
    assert list(chart.groups) == [
        "single-hop QA", "single-hop confusion QA", "multi-hop confusion QA", "factrecall",
    ]  # fmt: skip
    assert chart.has_radar and chart.group_ticks[-1] == 100
    places = [chart.on_radar(group, 50.0) for group in chart.groups]
    expected = [(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)]  # up, right, down, left
    assert np.allclose(places, expected)
    drawn = group_charts.draw_radar(chart, charts.WIDE)
    own = re.search(r'<polyline points="([^"]*)" class="own"', drawn)
    assert own is not None
    corners = [tuple(map(float, pair.split(","))) for pair in own[1].split()]
    assert corners[0] == corners[-1] and len(corners) == 5
    # 37.5 of 100 on a radius of 150.
    assert corners[:4] == [(480, 143.8), (536.2, 200), (480, 256.2), (423.8, 200)]


def test_two_groups_make_no_radar(page: ReportData) -> None:
    chart = group_charts.group_chart(page)
    two = replace(chart, groups=dict(list(chart.groups.items())[:2]))
    assert not two.has_radar


def test_a_bar_is_as_long_as_its_score(page: ReportData) -> None:
    drawn = group_charts.draw_bars(group_charts.group_chart(page), charts.WIDE)
    bars = re.findall(
        r'<rect x="190" y="[\d.]+" width="([\d.]+)" height="8" class="bar (\w+)">'
        r"<title>([^<]*)</title>",
        drawn,
    )
    assert len(bars) == 4 * 5
    axis = charts.WIDE - 60 - 190
    for width, css, said in bars:
        assert float(width) == pytest.approx(axis * float(said.split(": ")[1]) / 100, abs=0.1)
        assert css in ("own", *beside.HUES)
    assert "own, cmrc_mixup: 37.50" in drawn


def test_the_tables_have_the_groups_and_the_ceiling(page: ReportData) -> None:
    table = tables.groups_table(page.headline.groups, page.ceiling, brief=True)
    assert list(table.head) == ["group", "16k", "64k", "mean", "95 % interval"]
    lines = {line[0]: list(line[1:4]) for line in table.lines}
    assert lines["factrecall"] == ["50.00", "25.00", "37.50"]
    assert lines["English"] == lines["Chinese"] == ["50.00", "25.00", "37.50"]
    assert lines["ceiling"] == ["75.00", "75.00", ""]
    assert {len(line) for line in table.lines} == {5}
    for text in (tables.markdown(page), tables.latex(page)):
        assert "Scores by task group and language" in text and "Scores by subset" in text
    about = {line[0]: list(line[1:]) for line in tables.subsets_table().lines}
    assert about["lic_mixup"] == ["multi-hop confusion QA", "Chinese", "CFI, AK", "197"]
