"""Depths and passages from end to end: what a run records, what the data tell of an old one, and the page."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, in_process, lines
from support.elements import Elements

from lveval import cli, evaluation, prediction
from lveval.analysis import contexts
from lveval.common.errors import ExitCode
from lveval.construct import write

SUBSETS = ("factrecall_en", "lic_mixup", "hotpotwikiqa_mixup")
LEVELS = ("1k", "2k")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("positions") / "data"
    words = ["--output-dir", str(folder), "--datasets", *SUBSETS, "--lengths", *LEVELS]
    assert write.main([*words, "--rows", "6"]) == 0
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own, which a test may empty."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LVEVAL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def run(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose prompts at 2k lose their middle, scored."""
    outputs = tmp_path_factory.mktemp("outputs")
    words = ["--backend", "echo", "--model-name", "dry", "--data-path", str(data)]
    words += ["--output-dir", str(outputs), "--datasets", *SUBSETS, "--lengths", *LEVELS]
    assert prediction.main([*words, "--single-process", "--model-max-len", "1400"]) == 0
    assert evaluation.main(["--input-dir", str(outputs / "dry")]) == 0
    return outputs / "dry"


def without_depths(run: Path, folder: Path) -> Path:
    """The run as an older version left it."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("rows", "*.html", "results*"))
    for path in folder.glob("*_*k.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row.pop("depths"), row.pop("cut", None)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    return folder


def browsed(page: Path) -> list[dict[str, Any]]:
    """The rows of a page with their passages."""
    elements = Elements(page.read_text(encoding="utf-8"))
    data, passages = elements.data(), elements.passages()
    return [
        {"file": data["files"][row[0]], "index": row[1], "passages": passages.get(number, [])}
        for number, row in enumerate(data["rows"])
    ]


def test_a_row_records_the_truth_of_its_offsets(run: Path, data: Path) -> None:
    recorded = lines(run / "hotpotwikiqa_mixup_2k.jsonl")
    kept = 0
    for row, item in zip(
        recorded, lines(data / "hotpotwikiqa_mixup" / "hotpotwikiqa_mixup_2k.jsonl"), strict=True
    ):
        context, offsets = str(item["context"]), item["offsets"]
        assert isinstance(row["depths"], dict) and isinstance(offsets, dict)
        cut = row["cut"]
        assert isinstance(cut, list)
        for (depth, in_prompt), (start, end) in zip(
            row["depths"]["evidence"], offsets["evidence"], strict=True
        ):
            assert depth == pytest.approx((start + end) / 2 / len(context), abs=1e-4)
            assert (in_prompt is not None) == (end <= cut[0] or start >= cut[1])
            kept += in_prompt is not None
        whole = all(in_prompt is not None for _, in_prompt in row["depths"]["evidence"])
        assert row["evidence_kept"] is whole
        assert list(row)[:6] == ["pred", "answers", "gold_ans", "input", "all_classes", "length"]
    assert 0 < kept < 12
    assert not any("cut" in row for row in lines(run / "lic_mixup_1k.jsonl"))


def test_the_results_hold_positions(run: Path) -> None:
    found = json.loads((run / "results_meta.json").read_text(encoding="utf-8"))["positions"]
    assert set(found["levels"]) == set(LEVELS) and set(found["heat"]) == {"factrecall_en"}
    assert set(found["effects"]) == set(SUBSETS)
    assert sum(found["levels"]["1k"]["evidence"]) == sum(
        len(row["depths"]["evidence"])
        for subset in SUBSETS
        for row in map(json.loads, (run / f"{subset}_1k.jsonl").open(encoding="utf-8"))
    )


def test_a_page_shows_the_passages_where_they_are(run: Path, data: Path) -> None:
    assert cli.main(["report", "--input-dir", str(run)]) == 0
    rows = {
        (*row["file"][:2], row["index"]): row["passages"] for row in browsed(run / "report.html")
    }
    assert len(rows) == 36
    for subset in SUBSETS:
        for index, item in enumerate(lines(data / subset / f"{subset}_2k.jsonl")):
            context, offsets = " ".join(str(item["context"]).split()), item["offsets"]
            passages = rows[subset, "2k", index]
            assert isinstance(offsets, dict)
            kinds = [kind for kind, *_ in passages]
            assert kinds.count("evidence") == len(offsets["evidence"])
            assert kinds.count("confusing fact") == len(offsets["confusing_facts"])
            assert kinds.count("cut") == 1
            for kind, _, _, before, text, after, cut in passages:
                assert max(len(before), len(after)) <= contexts.AROUND
                assert len(text) <= contexts.MOST + 3
                if kind == "cut":
                    assert cut > 0 and before.strip() in context and after.strip() in context
                else:
                    head, _, tail = text.partition(" … ")
                    assert f"{before}{head}".strip() in context
                    assert f"{tail or head}{after}".strip() in context


def test_an_old_run_gets_its_depths_from_the_data(run: Path, tmp_path: Path) -> None:
    old = without_depths(run, tmp_path / "old")
    assert evaluation.main(["--input-dir", str(old)]) == 0
    assert "positions" not in json.loads((old / "results_meta.json").read_text(encoding="utf-8"))
    assert cli.main(["report", "--input-dir", str(old)]) == 0
    page = (old / "report.html").read_text(encoding="utf-8")
    assert "36 of 36 rows do not record where their passages stand; for 36 it is computed" in page
    assert "Where the passages stand</h3>" in page and "Depth by length: factrecall_en" in page
    new, known = (
        {
            (*row["file"][:2], row["index"]): row["passages"]
            for row in browsed(folder / "report.html")
        }
        for folder in (run, old)
    )
    for key, passages in known.items():
        assert [one[:2] for one in passages] == [one[:2] for one in new[key] if one[0] != "cut"]
        if key[1] == "1k":  # nothing was cut: the depths in the prompt are known, too
            assert passages == new[key]
        else:
            assert {one[2] for one in passages} == {None}


def test_depths_of_an_old_run_reach_its_results_on_demand(
    run: Path, data: Path, tmp_path: Path
) -> None:
    old = without_depths(run, tmp_path / "old")
    assert evaluation.main(["--input-dir", str(old), "--data-path", str(data)]) == 0
    before, after = (
        json.loads((folder / "results_meta.json").read_text(encoding="utf-8"))["positions"]
        for folder in (run, old)
    )
    assert before["heat"] == after["heat"]
    assert before["levels"]["1k"] == after["levels"]["1k"]


def test_without_the_data_the_page_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVEVAL_CACHE", str(tmp_path / "empty"))
    old = without_depths(run, tmp_path / "old")
    for folder, missing in ((run, 0), (old, 36)):
        assert (
            cli.main(["report", "--input-dir", str(folder), "--output", str(tmp_path / "p.html")])
            == 0
        )
        page = (tmp_path / "p.html").read_text(encoding="utf-8")
        assert (
            "Passages of the contexts are not shown for 6 of 6 files: their data are not on" in page
        )
        assert not any(row["passages"] for row in browsed(tmp_path / "p.html"))
        assert ("for 36 it is not known" in page) is bool(missing)
        assert ('id="depth"' in page) and ("Where the passages stand</h3>" in page) is not bool(
            missing
        )


def test_passages_can_be_left_out_for_their_licences(run: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    words = ["report", "--input-dir", str(run), "--output", str(path)]
    assert cli.main([*words, "--context-passages", "none"]) == 0
    page = path.read_text(encoding="utf-8")
    assert "Passages of the contexts were left out of this page." in page
    assert not any(row["passages"] for row in browsed(path))
    assert "Where the passages stand</h3>" in page  # depths are no text


def test_data_from_a_folder_must_be_the_runs(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVEVAL_CACHE", str(tmp_path / "empty"))
    words: list[str | Path] = ["-m", "lveval", "report", "--input-dir", run]
    words += ["--output", tmp_path / "p.html", "--data-path"]
    assert in_process(*words, data).returncode == 0
    assert all(row["passages"] for row in browsed(tmp_path / "p.html"))
    other = tmp_path / "other"
    made = ["--output-dir", str(other), "--datasets", *SUBSETS, "--lengths", *LEVELS, "--seed", "7"]
    assert write.main([*made, "--rows", "6"]) == 0
    monkeypatch.setenv("LVEVAL_CACHE", str(tmp_path / "empty too"))
    found = in_process(*words, other)
    assert found.returncode == ExitCode.IDENTITY and "found the content sha256:" in found.stderr
    found = in_process(*words, tmp_path / "nowhere")
    assert found.returncode == ExitCode.USAGE and "nowhere" in found.stderr


def test_a_folder_of_the_published_harness_takes_rows_whose_question_is_the_datas(
    run: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    rows = lines(run / "lic_mixup_1k.jsonl")
    rows[1]["input"] = "another question"
    keys = ("pred", "answers", "gold_ans", "input", "all_classes", "length")
    text = "".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in rows)
    (folder / "lic_mixup_1k.jsonl").write_text(text, encoding="utf-8")
    words = ["report", "--input-dir", str(folder)]
    assert cli.main(words) == 0 and not any(
        row["passages"] for row in browsed(folder / "report.html")
    )
    assert cli.main([*words, "--data-path", str(data)]) == 0
    shown = [bool(row["passages"]) for row in browsed(folder / "report.html")]
    assert shown == [True, False, True, True, True, True]


def test_a_run_of_an_older_version_goes_on_without_depths(tmp_path: Path) -> None:
    old = ROOT / "tests" / "golden" / "old_run"
    words = json.loads((old / "begun/run.json").read_text(encoding="utf-8"))["log"][0]["argv"]
    words[words.index("--data-path") + 1] = str(old / "data")
    words[words.index("--output-dir") + 1] = str(tmp_path)
    name = words[words.index("--model-name") + 1]
    shutil.copytree(old / "begun", tmp_path / name)
    words[words.index("--limit") + 1] = "3"
    assert prediction.main(words) == 0
    assert not any("depths" in row for row in lines(tmp_path / name / "dureader_mixup_2k.jsonl"))
    assert prediction.main([*words, "--overwrite"]) == 0
    assert all("depths" in row for row in lines(tmp_path / name / "dureader_mixup_2k.jsonl"))
    assert prediction.main(words) == 0  # and a new one resumes with them


@pytest.mark.parametrize("control", ["no-facts", "evidence-only", "closed-book"])
def test_passages_of_a_control_are_those_of_the_context_that_it_asked(
    data: Path, cache: Path, tmp_path: Path, control: str
) -> None:
    words = ["--backend", "echo", "--model-name", control, "--data-path", str(data)]
    words += ["--output-dir", str(tmp_path), "--datasets", "lic_mixup", "--lengths", "2k"]
    words += ["--single-process", "--model-max-len", "1400", "--control", control]
    assert prediction.main(words) == 0
    run = tmp_path / control
    old = without_depths(run, tmp_path / "old")
    assert cli.main(["report", "--input-dir", str(run)]) == 0
    assert cli.main(["report", "--input-dir", str(old)]) == 0
    shown = [row["passages"] for row in browsed(run / "report.html")]
    recorded = [row["depths"] for row in lines(run / "lic_mixup_2k.jsonl")]
    marked = [item["offsets"] for item in lines(data / "lic_mixup" / "lic_mixup_2k.jsonl")]
    for passages, depths, offsets in zip(shown, recorded, marked, strict=True):
        assert isinstance(depths, dict) and isinstance(offsets, dict)
        found = [passage for passage in passages if passage[0] != "cut"]
        assert [kind for kind, *_ in found] == ["evidence"] * len(depths["evidence"])
        assert [[depth, there] for _, depth, there, *_ in found] == depths["evidence"]
        assert len(found) == (0 if control == "closed-book" else len(offsets["evidence"]))
    # What the data tell of a run that recorded no depths is what this one recorded.
    again = [row["passages"] for row in browsed(old / "report.html")]
    assert [[one[1] for one in row] for row in again] == [
        [one[1] for one in row if one[0] != "cut"] for row in shown
    ]
    page = (run / "report.html").read_text(encoding="utf-8")
    nothing = "No row tells where a passage of its context stands." in page
    assert nothing is (control == "closed-book")
