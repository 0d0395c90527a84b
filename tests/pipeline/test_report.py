"""lveval report: what a page says, who is ranked, the command line and the plots."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from conftest import ROOT, in_process
from support import run_folders
from support.elements import Elements
from support.run_folders import bare_page, full, make_row, rich_page, small, write_run

from lveval import cli, config, results
from lveval.analysis import score_breakdown
from lveval.common.errors import LVEvalError
from lveval.evaluation import evaluate
from lveval.evaluation import main as score
from lveval.report import charts, html, tables
from lveval.report.data import Badge, badges
from lveval.report.leaderboard import rank_run, read_leaderboards, read_published, reasons_unranked
from lveval.results import PROTOCOLS, level_means, subset_means

__all__ = ["full", "small"]  # fixtures

# --- the page's data ------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_evaluation_says(small: Path) -> None:
    evaluation, page = evaluate(small), rich_page(small)
    scores = evaluation.scores("released")
    assert {pair: score.value for pair, score in page.headline.scores.items()} == scores
    assert {
        level: score.value for level, score in page.headline.level_means.items()
    } == level_means(scores)
    assert {
        subset: score.value for subset, score in page.headline.subset_means.items()
    } == subset_means(scores)
    for name, found in page.protocols.items():
        means = level_means(evaluation.scores(name))
        assert {level: score.value for level, score in found.level_means.items()} == means
    assert page.levels == ["16k", "64k"]
    assert page.subsets == ["hotpotwikiqa_mixup", "lic_mixup", "dureader_mixup"]
    assert len(page.rows) == 72
    assert dict(page.recipe)["signature, released"] == evaluation.signature("released")


def test_score_and_points_lost_make_100(small: Path) -> None:
    page = rich_page(small)
    for pair, lost in page.lost.files.items():
        assert page.headline.scores[pair].value + sum(lost.values()) == pytest.approx(
            100, abs=0.006
        )
    for parts, found in (
        (page.lost.subsets, page.headline.subset_means),
        (page.lost.levels, page.headline.level_means),
    ):
        for name, points in parts.items():
            assert found[name].value + sum(points.values()) == pytest.approx(100, abs=0.02)


def test_evidence_is_counted_and_splits_the_score(tmp_path: Path) -> None:
    rows = [make_row("lic_mixup", "64k", index, Random(1)) for index in range(5)]
    for row, (kept, right) in zip(
        rows, ((True, 1), (True, 0), (False, 1), (False, 0), (None, 0)), strict=True
    ):
        row |= {"evidence_kept": kept, "status": "ok", "pred": row["answers"][0] if right else "no"}
    page = bare_page(write_run(tmp_path / "run", {"lic_mixup_64k": rows}))
    found = page.evidence_by_file["lic_mixup", "64k"]
    assert (found.kept, found.cut, found.unknown) == (2, 2, 1)
    assert (found.score_kept, found.score_cut) == (50, 50)
    assert (found.median_prompt_tokens, found.median_prompt_tokens_full) == (31500, 89600)
    assert page.evidence_by_level == {"64k": found}


def test_a_row_keeps_what_a_reader_needs(small: Path) -> None:
    page = rich_page(small)
    row = next(row for row in page.rows if row["subset"] == "lic_mixup" and row["status"] == "ok")
    work = row["working"]
    assert (
        work is not None
        and work.keywords
        and work.score == pytest.approx(row["scores"]["released"], abs=1e-12)
    )
    assert row["prompt_tokens"] is not None and row["facts"] and row["truths"]
    refused = [row for row in page.rows if row["status"] == "refused"]
    assert refused and all(row["scores"]["released"] == 0 for row in refused)
    assert all(row["working"] is None or row["working"].prediction_tokens == 0 for row in refused)


def test_rows_of_the_published_harness_are_shown(tmp_path: Path) -> None:
    six = {
        "pred": "amber",
        "answers": ["amber reef"],
        "gold_ans": None,
        "input": "which?",
        "all_classes": None,
        "length": 9,
    }
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "factrecall_en_16k.jsonl").write_text(json.dumps(six) + "\n")
    page = cli.report_of_folder(folder, leaderboard=True)
    assert page.rows[0]["status"] == "unrecorded" and page.rows[0]["evidence_kept"] is None
    assert page.headline.standing is not None
    assert "no run.json" in " ".join(page.headline.standing.reasons)
    assert "which?" in html.render(page)


def test_the_working_gives_the_golden_scores() -> None:
    checked = 0
    for name in ("scores", "edge"):
        for line in (
            (ROOT / "tests" / "golden" / f"{name}.jsonl")
            .read_text(encoding="utf-8")
            .split("\n")[:-1]
        ):
            case = json.loads(line)
            metric = config.DATASET_METRIC[case["dataset"]]
            work = score_breakdown.explain_score(
                metric, case["pred"], case["answers"][0], case["gold_ans"]
            )
            if work is None:
                assert case["dataset"] == "dureader_mixup"
                continue
            assert work.score == pytest.approx(case["score"], abs=1e-12), case["id"]
            assert not set(work.found) & set(work.ignored)
            checked += 1
    assert checked > 1000


def test_a_protocol_joins_by_one_line(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results, tables, comparison and page have it as soon as the list has."""
    own = results.Protocol("own", "DATASET_METRIC", "results_own", "a rule of one's own", 7)
    monkeypatch.setitem(results.PROTOCOLS, "own", own)
    folder, other = (Path(shutil.copytree(small, tmp_path / name)) for name in ("run", "other"))
    for run in (other, folder):
        where = ("--input-dir", str(run))
        assert score(where if run is other else (*where, "--compare", str(other))) == 0
    found = json.loads((folder / "results_meta.json").read_text())
    assert found["signature"]["own"].startswith("protocol:own-7|")
    assert found["means"]["own"] == found["means"]["released"]
    assert (folder / "results_own.csv").read_bytes() == (folder / "results.csv").read_bytes()
    compared = json.loads((folder / "comparison.json").read_text())
    assert compared["other_protocols"]["own"] == compared["compared"]
    page = cli.report_of_folder(folder, [other], leaderboard=True)
    text = html.render(page)
    assert text.count('data-protocol="own" hidden') == text.count('data-protocol="recall" hidden')
    assert "<em>own</em>, a rule of one&#39;s own" in text
    assert "(own)" in tables.latex(page)


# --- the leaderboard ------------------------------------------------------------------------------------------------


def test_a_complete_published_run_is_ranked(full: Path) -> None:
    page = cli.report_of_folder(full, leaderboard=True)
    assert page.headline.standing is not None
    assert page.headline.standing.reasons == []
    assert [line.rank for line in page.headline.standing.ranked] == list(range(1, 12))
    own = next(line for line in page.headline.standing.ranked if line.this_run)
    assert own.mean == pytest.approx(
        sum(score.value for score in page.headline.level_means.values()) / 5
    )
    assert [line.mean for line in page.headline.standing.ranked] == sorted(
        (line.mean or 0 for line in page.headline.standing.ranked), reverse=True
    )
    assert [line.name for line in page.headline.standing.unranked] == ["Qwen2-72B-Instruct"]
    rank = page.headline.standing.in_words
    assert rank == f"It ranks {own.rank} of 11, among 10 published models."
    assert page.verdicts == [rank]
    html_of_page = html.render(page)
    assert html_of_page.count("(this run, prompts of at most 31,500 tokens)") == 2


def test_no_run_is_ranked_by_a_rule_that_is_not_published(full: Path) -> None:
    evaluation = evaluate(full)
    means = level_means(evaluation.scores("recall"))
    standing = rank_run(evaluation, means, read_leaderboards()["recall"])
    (reason,) = standing.reasons
    assert standing.in_words == f"Not ranked: {reason}."
    assert "do not say their exact rule" in reason
    assert not any(line.this_run for line in standing.ranked)
    assert standing.unranked[-1].this_run
    overall = [line.mean for line in standing.ranked if line.mean is not None]
    assert overall == sorted(overall, reverse=True) and len(overall) == 17
    best = standing.ranked[0]
    assert best.name == "Qwen2.5-72B-Instruct" and best.mean == pytest.approx(53.58)
    # Two models lack 256k: they have no mean of five.
    assert [line.name for line in standing.unranked[:-1]] == [
        "Llama-3.1-70B-Instruct",
        "GPT-4o-mini",
    ]


def test_a_run_with_a_published_models_scores_shares_its_rank(full: Path) -> None:
    board, evaluation = read_leaderboards()["released"], evaluate(full)
    for model in board.models:
        means_of = {level: round(model.level_mean(level) or 0, 2) for level in run_folders.LEVELS}
        lines = rank_run(evaluation, means_of, board).ranked
        assert len({line.rank for line in lines if line.this_run or line.name == model.name}) == 1


def test_a_subset_of_ones_own_is_said_and_leaves_the_published_models(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in (*(protocol.table for protocol in PROTOCOLS.values()), "DATASET_LANGUAGE"):
        monkeypatch.setitem(
            getattr(config, table), "mine", getattr(config, table)["hotpotwikiqa_mixup"]
        )
    rows = [
        make_row("hotpotwikiqa_mixup", "16k", index, Random(1)) | {"dataset": "mine"}
        for index in range(5)
    ]
    other = [make_row("lic_mixup", "16k", index, Random(1)) for index in range(5)]
    page = cli.report_of_folder(
        write_run(tmp_path / "run", {"mine_16k": rows, "lic_mixup_16k": other}), leaderboard=True
    )
    assert len(charts.published_curves(page)) == 10
    assert (
        page.headline.standing is not None
        and "subsets that are not published: mine" in page.headline.standing.reasons
    )


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    (
        {"prompts": {"name": "builtin", "sha256": "1", "official": False}},
        "not the official prompts",
    ),
    ({"chat_template": "auto"}, "not the published chat formats"),
    ({"backend": "echo"}, "echo backend"),
    ({"engine": {"pure_greedy": True}}, "--pure-greedy"),
    (
        {"engine": {"request_args": {"temperature": 1}}},
        "--request-args changes the request: temperature",
    ),
    ({"engine": {"system_message": "Be brief."}}, "a system message"),
    (
        {"budgets": {**run_folders.IDENTITY["budgets"], "lic_mixup": 128}},
        "other answer budgets than the published: lic_mixup",
    ),
]


@pytest.mark.parametrize(("identity", "reason"), DIFFERENT, ids=[reason for _, reason in DIFFERENT])
def test_a_run_made_otherwise_is_shown_apart_and_says_why(
    small: Path, identity: dict[str, Any], reason: str
) -> None:
    evaluation = evaluate(small)
    own = cast(dict[str, Any], evaluation.manifest["identity"])
    changed = replace(evaluation, manifest={**evaluation.manifest, "identity": {**own, **identity}})
    before, after = reasons_unranked(evaluation), reasons_unranked(changed)
    assert [found for found in after if found not in before] == [
        found for found in after if reason in found
    ]
    assert sum(reason in found for found in after) == 1


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ({}, {"official prompts": False, "backend hf": False}),
        (
            {"chat_template": "auto", "backend": "echo"},
            {"official prompts, other chat format": True, "backend echo": True},
        ),
        (
            {
                "prompts": {"name": "builtin", "sha256": "1", "official": False},
                "given": {"control": "closed-book"},
            },
            {"own prompts (builtin)": True, "control closed-book": True},
        ),
    ],
)
def test_badges_tell_how_a_run_was_made(
    small: Path, identity: dict[str, Any], said: dict[str, bool]
) -> None:
    evaluation = evaluate(small)
    own = cast(dict[str, Any], evaluation.manifest["identity"])
    changed = replace(evaluation, manifest={**evaluation.manifest, "identity": {**own, **identity}})
    found = {badge.text: badge.is_warning for badge in badges(changed)}
    assert found.items() >= said.items()
    assert found["72 of 72 rows"] is False and found["prompts of at most 31,500 tokens"] is False
    bare = replace(evaluation, manifest={})
    assert badges(bare)[0] == Badge("prompts not recorded", is_warning=True)


def test_incomplete_limited_and_constructed_runs_stand_apart(small: Path, tmp_path: Path) -> None:
    assert any(
        "not over just the 11 published subsets" in reason
        for reason in reasons_unranked(evaluate(small))
    )
    rows = [make_row("lic_mixup", "16k", index, Random(1)) for index in range(3)]
    built = write_run(
        tmp_path / "built", {"lic_mixup_16k": [{**row, "question_id": "q"} for row in rows]}
    )
    assert any(
        "constructed data (lic_mixup_16k" in reason for reason in reasons_unranked(evaluate(built))
    )
    manifest = json.loads((built / "run.json").read_text())
    (built / "run.json").write_text(json.dumps({**manifest, "selection": {"lic_mixup_16k": 5}}))
    evaluation = evaluate(built)
    assert "2 selected rows have no answer yet" in reasons_unranked(evaluation)
    page = bare_page(built)
    assert any(note.startswith("Incomplete: 2 rows of 1 files") for note in page.notes)
    assert Badge("3 of 5 rows", is_warning=True) in page.badges
    means = level_means(evaluation.scores("released"))
    standing = rank_run(evaluation, means, read_leaderboards()["released"])
    assert standing.in_words.endswith(" and 2 more reasons.")


def test_a_damaged_leaderboard_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "models.csv").write_text("model,context_tokens\nA,4000\n")
    (tmp_path / "published.csv").write_text(
        "model,dataset,length,score\nA,lic_mixup,16k,12\nA,lic_mixup,32k,much\n"
    )
    with pytest.raises(LVEvalError, match=r"published\.csv:3: found 'much'; expected a number"):
        read_published(tmp_path)
    (tmp_path / "published.csv").write_text("model,score\n")
    with pytest.raises(LVEvalError, match=r"published\.csv:1: no column dataset, length"):
        read_published(tmp_path)


# --- the command line -----------------------------------------------------------------------------------------------


def test_a_dry_run_becomes_a_page(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "outputs" / "dry-run"
    made = in_process(
        "-m", "lveval", "construct", "--output-dir", data, "--rows", "2", "--lengths", "1k", "2k"
    )
    assert made.returncode == 0, made.stderr
    answered = in_process(
        "prediction.py", "--backend", "echo", "--model-name", "dry-run", "--data-path", data, "--output-dir",
        tmp_path / "outputs", "--lengths", "1k", "2k", "--model-max-len", "1500", "--single-process",
    )  # fmt: skip
    assert answered.returncode == 0, answered.stderr
    done = in_process(
        "-m", "lveval", "report", "--input-dir", run, "--leaderboard", "--markdown", "--latex"
    )
    assert done.returncode == 0, done.stderr
    *said, markdown, latex, page = done.stdout.splitlines()
    assert [markdown, latex, page] == [
        str(run / name) for name in ("report.md", "report.tex", "report.html")
    ]
    printed = " ".join(said)
    assert printed.startswith("dry-run scores ")
    assert "Not ranked" in printed and ": 22 files hold constructed data" in printed
    text = (run / "report.html").read_text(encoding="utf-8")
    data_of_page = Elements(text).data()
    assert len(data_of_page["rows"]) == 44
    assert "22 files hold constructed data" in text and "the echo backend is no model" in text
    assert {row[11] for row in data_of_page["rows"]} == {
        0,
        1,
    }  # some evidence was cut at 1,500 tokens
    again = in_process(
        "-m",
        "lveval",
        "report",
        "--output-dir",
        tmp_path / "outputs",
        "--model-name",
        "dry-run",
        "--leaderboard",
    )
    assert again.returncode == 0
    assert (run / "report.html").read_text(encoding="utf-8") == text


def test_runs_are_compared_on_the_page(small: Path, tmp_path: Path) -> None:
    rows = [make_row("lic_mixup", "16k", index, Random(1)) for index in range(9)]
    other = write_run(tmp_path / "other", {"lic_mixup_16k": rows}, model_max_len=15500)
    manifest = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**manifest, "selection": {"lic_mixup_16k": 12}}))
    done = in_process(
        "-m",
        "lveval",
        "report",
        "--input-dir",
        small,
        "--compare",
        other,
        "--output",
        tmp_path / "page.html",
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.html").read_text()
    assert (
        "9 rows of both, 9 questions at a length; left out: 63 rows of small alone, 0 of other alone"
        in text
    )
    assert (
        "different limit of tokens: 31500 in small, 15500 in other" in text
        and "3 rows of other have no answer" in text
    )
    nothing = write_run(
        tmp_path / "nothing", {"cmrc_mixup_16k": [make_row("cmrc_mixup", "16k", 0, Random(1))]}
    )
    done = in_process(
        "-m",
        "lveval",
        "report",
        "--input-dir",
        small,
        "--compare",
        nothing,
        "--output",
        tmp_path / "none.html",
    )
    assert (
        done.returncode == 4
        and f"{nothing}: the two runs have no question in common" in done.stderr
    )
    assert not (tmp_path / "none.html").exists()


def test_tables_for_papers_carry_the_pages_warnings(small: Path) -> None:
    page = rich_page(small)
    page.notes = ["Incomplete: 3 rows of 1 files have no answer; scores are of the others."]
    for text in (tables.markdown(page), tables.latex(page)):
        shown = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert "Incomplete: 3 rows" in shown and "95" in shown and "different prompts" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input-dir", "x", "--model-name", "y"], "expected either --input-dir, or --model-name"),
        (["--input-dir", "nowhere"], "nowhere: no such folder"),
        (
            ["--input-dir", "RUN", "--output", "page.txt"],
            "expected the name of a page, ending in .html",
        ),
    ],
)
def test_wrong_options_are_told(small: Path, options: list[str], message: str) -> None:
    done = in_process(
        "-m", "lveval", "report", *[str(small) if option == "RUN" else option for option in options]
    )
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_page_that_cannot_be_written_is_told(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = in_process(
        "-m", "lveval", "report", "--input-dir", small, "--output", tmp_path / "file" / "page.html"
    )
    assert done.returncode == 6
    assert "Traceback" not in done.stderr


def test_a_run_without_answers_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"lic_mixup_16k": []})
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "selection": {"lic_mixup_16k": 5}}))
    with pytest.raises(LVEvalError, match="no row has an answer yet"):
        cli.report_of_folder(run, leaderboard=False)


# --- plots ----------------------------------------------------------------------------------------------------------


def test_plots_are_files_and_names_are_text(small: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "matplotlib", reason="the plots are drawn by matplotlib, which is not installed"
    )
    from xml.etree import ElementTree

    from lveval.report import plots

    page = rich_page(small)
    page.name = r"$\frac{x}{ $ <script> 港口灯塔"
    written = plots.write(page, tmp_path / "report")
    assert [path.name for path in written] == [
        f"report_{name}.{kind}"
        for name in (
            "heatmap",
            "curves",
            "causes",
            "subsets",
            "depth_scores",
            "depth_passages",
            "comparison_1",
        )
        for kind in ("png", "svg")
    ]
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert not [
                element
                for element in ElementTree.fromstring(content).iter()
                if element.tag.endswith("script")
            ]
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in plots.write(page, tmp_path / "report")] == before
