"""Answers in from other tools' files, made by these tools; scores and prompts out, in their formats."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, in_process, lines, row, write_data

from lveval.exchange.foreign_answers import named_file
from lveval.results import PROTOCOLS

REAL = ROOT / "tests" / "data" / "exchange"  # its README says how they were made
LM_EVAL = sorted(REAL.glob("samples_*.jsonl"))
OPENCOMPASS = sorted(REAL.glob("LVEval_*.json"))
HOT, CMRC = "hotpotwikiqa_mixup_1k", "cmrc_mixup_1k"
ROWS = {
    HOT: [row(number=number, words=30) for number in range(4)],
    CMRC: [row("cmrc_mixup", number, words=30) for number in range(3)],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data that the real files answer."""
    for name, rows in ROWS.items():
        write_data(tmp_path / "data", name, rows)
    return tmp_path / "data"


Import = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def load(data: Path, tmp_path: Path) -> Import:
    """Import files, in place of `--import FORMAT FILE …`, into the run "run"."""

    def run(
        form: str, *files: Path, more: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        run = ("--output-dir", tmp_path / "out", "--model-name", "run")
        return in_process(
            "evaluation.py", "--import", form, *files, "--data-path", data, *run, *more
        )

    return run


def scores(folder: Path, part: str = "") -> dict[str, dict[str, float]]:
    return {
        protocol.name: json.loads((folder / f"{protocol.stem}{part}.json").read_text())
        for protocol in PROTOCOLS.values()
    }


def scored_as_published(folder: Path, answers: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """The scores of these answers as rows of the published harness, six keys each."""
    for name, preds in answers.items():
        records = [
            {"pred": pred, "answers": asked["answers"], "gold_ans": asked["answer_keywords"]}
            | {key: asked[key] for key in ("input", "all_classes", "length")}
            for pred, asked in zip(preds, ROWS[name], strict=True)
        ]
        write_data(folder, name, records)
    assert in_process("evaluation.py", "--input-dir", folder).returncode == 0
    return scores(folder)


def samples(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rewrite(path: Path, target: Path, change: Callable[[list[Any]], list[Any]]) -> Path:
    """A file of lm-eval's in another folder, its samples changed."""
    target.mkdir(exist_ok=True)
    changed = "".join(json.dumps(sample) + "\n" for sample in change(samples(path)))
    (target / path.name).write_text(changed, encoding="utf-8")
    return target / path.name


# --- Real files -------------------------------------------------------------------------------------------------------


def test_samples_of_lm_eval_score_as_the_same_answers_do(load: Import, tmp_path: Path) -> None:
    found = load("lm-eval", *LM_EVAL)
    assert found.returncode == 0, found.stderr
    assert "7 answers of 7 rows imported; 0 without a row, 0 doubled, 0 rows" in found.stderr
    answers = {
        f"{samples(path)[0]['doc']['dataset']}_1k": [
            sample["filtered_resps"][0] for sample in samples(path)
        ]
        for path in LM_EVAL
    }
    run = tmp_path / "out" / "run"
    assert scores(run) == scored_as_published(tmp_path / "published", answers)
    assert [record["pred"] for record in lines(run / f"{HOT}.jsonl")] == answers[HOT]
    assert next(iter(lines(run / f"{HOT}.jsonl")[0])) == "pred"
    assert json.loads((run / "run.json").read_text())["identity"]["backend"] == "imported"


def test_predictions_of_opencompass_score_as_the_same_answers_do(
    load: Import, tmp_path: Path
) -> None:
    """One file is in two parts, each of which counts from 0."""
    assert [path.stem[-2:] for path in OPENCOMPASS] == ["1k", "_0", "_1"]
    found = load("opencompass", *reversed(OPENCOMPASS))
    assert found.returncode == 0, found.stderr
    assert "7 answers of 7 rows imported; 0 without a row, 0 doubled, 0 rows" in found.stderr
    whole, *parts = (json.loads(path.read_text(encoding="utf-8")) for path in OPENCOMPASS)
    answers = {
        CMRC: [each["prediction"] for each in whole.values()],
        HOT: [each["prediction"] for part in parts for each in part.values()],
    }
    assert scores(tmp_path / "out" / "run") == scored_as_published(tmp_path / "published", answers)


def test_a_chats_prompt_is_a_list_of_turns(load: Import, tmp_path: Path) -> None:
    path = tmp_path / f"LVEval_{HOT}.json"
    told = {
        str(number): {
            "origin_prompt": [{"role": "HUMAN", "prompt": asked["input"]}, "a section's mark"],
            "prediction": ["1800"],
        }
        for number, asked in enumerate(ROWS[HOT])
    }
    path.write_text(json.dumps(told))
    assert load("opencompass", path).returncode == 0
    path.write_text(json.dumps({"0": told["1"], "1": told["0"], "2": told["2"]}))
    found = load("opencompass", path, more=("--overwrite",))
    assert found.stderr.count("its prompt does not hold the question") == 2


def test_a_prompt_that_does_not_hold_the_rows_question_is_of_no_row(
    load: Import, data: Path
) -> None:
    write_data(data, HOT, [ROWS[HOT][0], *reversed(ROWS[HOT][1:])])
    found = load("opencompass", *OPENCOMPASS[1:])
    assert found.returncode == 3
    assert f'LVEval_{HOT}_0.json: "1": its prompt does not hold the question' in found.stderr
    assert "2 answers of 4 rows imported; 2 without a row" in found.stderr  # the first, the third


# --- Every answer is accounted for ------------------------------------------------------------------------------------


def test_a_row_is_found_by_its_question_where_the_tool_shuffled(
    load: Import, tmp_path: Path
) -> None:
    path = next(path for path in LM_EVAL if HOT in path.name)

    def shuffled(found: list[Any]) -> list[Any]:
        return [sample | {"doc_id": 3 - sample["doc_id"]} for sample in reversed(found)]

    assert load("lm-eval", rewrite(path, tmp_path / "other", shuffled)).returncode == 0
    preds = [record["pred"] for record in lines(tmp_path / "out" / "run" / f"{HOT}.jsonl")]
    assert preds == [sample["filtered_resps"][0] for sample in samples(path)]


def test_of_several_filters_the_first_counts_and_the_others_are_said(
    load: Import, tmp_path: Path
) -> None:
    path = next(path for path in LM_EVAL if HOT in path.name)

    def filtered(found: list[Any]) -> list[Any]:
        return found + [each | {"filter": "upper", "filtered_resps": ["X"]} for each in found]

    found = load("lm-eval", rewrite(path, tmp_path / "other", filtered))
    assert found.returncode == 0, found.stderr
    assert "filter none counts; passed over: 4 answers of upper" in found.stderr
    preds = [record["pred"] for record in lines(tmp_path / "out" / "run" / f"{HOT}.jsonl")]
    assert preds == [sample["filtered_resps"][0] for sample in samples(path)]


def test_a_sample_whose_doc_has_no_question_is_known_by_its_prompt(
    load: Import, data: Path, tmp_path: Path
) -> None:
    path = next(path for path in LM_EVAL if HOT in path.name)
    bare = rewrite(path, tmp_path / "other", lambda found: [each | {"doc": {}} for each in found])
    assert load("lm-eval", bare).returncode == 0
    write_data(data, HOT, [*reversed(ROWS[HOT][:2]), *ROWS[HOT][2:]])
    found = load("lm-eval", bare, more=("--overwrite",))
    assert found.returncode == 3
    assert f"{bare}:1: its prompt does not hold the question of row 0" in found.stderr


def test_unknown_doubled_and_missing_rows_are_said_with_file_and_line(
    load: Import, tmp_path: Path
) -> None:
    path = next(path for path in LM_EVAL if HOT in path.name)

    def spoilt(found: list[Any]) -> list[Any]:
        stranger = found[3] | {"doc": found[3]["doc"] | {"input": "Who?"}}
        again = found[0] | {"filtered_resps": ["1799"]}
        return [found[0], found[1], stranger, again]

    file = rewrite(path, tmp_path / "other", spoilt)
    found = load("lm-eval", file)
    assert found.returncode == 3
    for line in (
        f"unknown: {file}:3: no row of {HOT} asks its question",
        f"doubled: {file}:4: row 0 of {HOT} has another answer already, at {file}:1, which counts",
        f"missing: {HOT}: row 2 has no answer",
        f"missing: {HOT}: row 3 has no answer",
        "2 answers of 4 rows imported; 1 without a row, 1 doubled, 2 rows without one",
        "import all answers together",
    ):
        assert line in found.stderr
    run = tmp_path / "out" / "run"
    assert not (run / "results.json").exists()
    partial = load("lm-eval", file, more=("--allow-partial",))
    assert partial.returncode == 0, partial.stderr
    assert scores(run, ".partial")["recall"] == {HOT: 100.0}


def test_many_faults_are_counted_and_v_names_them(load: Import, tmp_path: Path) -> None:
    path = tmp_path / f"{HOT}.csv"
    path.write_text("index,pred\n0,1800\n" + "".join(f"{n},x\n" for n in range(10, 40)))
    short = load("csv", path).stderr
    assert short.count("unknown: ") == 11 and "unknown: 20 more (-v names them)" in short
    assert load("csv", path, more=("-v",)).stderr.count("unknown: ") == 31


def test_the_same_import_again_is_the_same_run_and_another_is_refused(
    load: Import, tmp_path: Path
) -> None:
    assert load("lm-eval", *LM_EVAL).returncode == 0
    run = tmp_path / "out" / "run"
    before = {path.name: path.read_bytes() for path in run.glob("*.jsonl")}
    assert len(before) == 2
    moved = [Path(shutil.copy(path, tmp_path)) for path in LM_EVAL]
    assert load("lm-eval", *moved).returncode == 0
    assert {path.name: path.read_bytes() for path in run.glob("*.jsonl")} == before
    refused = load("lm-eval", LM_EVAL[0])
    assert refused.returncode == 4 and "made with other settings" in refused.stderr
    assert load("lm-eval", LM_EVAL[0], more=("--overwrite",)).returncode == 0
    assert (tmp_path / "out" / "run.old-1" / "run.json").is_file()


def test_without_a_name_the_run_is_beside_the_first_file(data: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{HOT}.csv"
    path.write_text("index,pred\n" + "".join(f"{number},1800\n" for number in range(4)))
    found = in_process("evaluation.py", "--import", "csv", path, "--data-path", data)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / f"{HOT}-imported" / "results.json").is_file()


def test_reasoning_is_cut_off(load: Import, tmp_path: Path) -> None:
    path = tmp_path / f"{HOT}.csv"
    path.write_text(
        "index,pred\n0,<think>1799?</think>1800\n1,<think>1801\n2,\n3,plain\n", encoding="utf-8"
    )
    assert load("csv", path).returncode == 0
    records = lines(tmp_path / "out" / "run" / f"{HOT}.jsonl")
    assert [record["pred"] for record in records] == ["1800", "", "", "plain"]
    assert [record["status"] for record in records] == ["ok", "length", "empty", "ok"]
    assert records[0]["raw_pred"] == "<think>1799?</think>1800"


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_a_csv_by_question_with_columns_for_its_files(load: Import, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["note", "level", "dataset", "input", "pred"])
        for name, rows in ROWS.items():
            for asked in reversed(rows):
                answer = f'It says "{asked["answers"]}",\nin 灯塔'
                table.writerow(["x", "1k", name.removesuffix("_1k"), asked["input"], answer])
    found = load("csv", path)
    assert found.returncode == 0, found.stderr
    records = lines(tmp_path / "out" / "run" / f"{CMRC}.jsonl")
    assert [record["index"] for record in records] == [0, 1, 2]
    assert records[2]["pred"] == "It says \"['1802']\",\nin 灯塔"


def test_one_question_for_all_rows_needs_the_index(
    data: Path, load: Import, tmp_path: Path
) -> None:
    write_data(data, "factrecall_en_1k", [row("factrecall_en", 0, 20 + n) for n in range(3)])
    question = ROWS[HOT][0]["input"]
    path = tmp_path / "factrecall_en_1k.csv"
    path.write_text(f"index,input,pred\n2,{question},1802\n,{question},1800\n7,{question},1\n")
    found = load("csv", path)
    assert found.returncode == 3
    assert (
        f"{path}:3: 3 rows of factrecall_en_1k ask its question; its index tells none of them"
        in found.stderr
    )
    assert "1 answers of 3 rows imported; 2 without a row" in found.stderr


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (f"{HOT}.csv", "index,answer\n0,x\n", ":1: found the columns index, answer; expected pred"),
        (f"{HOT}.csv", "pred\nx\n", ":1: found the columns pred; expected pred, and index or"),
        (f"{HOT}.csv", "", ":1: found the columns ; expected pred"),
        (f"{HOT}.csv", "index,pred\n0\n", ":2: found fewer cells than columns"),
        (f"{HOT}.csv", "index,pred\n-1,x\n", ':2: index: found "-1"; expected the position'),
        (f"{HOT}.csv", 'index,pred\n0,"x', "unexpected end of data; expected a CSV file in UTF-8"),
        (f"{HOT}.csv", "index,pred\n9,x\n", "no answer in it is to a row of the data"),
        ("answers.csv", "index,pred\n0,x\n", "found no subset and level in the file's name"),
        ("a.csv", "index,pred,dataset,level\n0,x,nope,1k\n", ':2: unknown subset "nope"'),
        ("a.csv", "index,pred,dataset,level\n0,x,cmrc_mixup,k\n", ':2: level: found "k"'),
        ("missing.csv", None, "missing.csv: found no file; expected one of the format csv"),
    ],
)
def test_a_csv_that_is_none_is_one_clear_sentence(
    load: Import, tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    found = load("csv", path)
    assert found.returncode == 2 and complaint in found.stderr, found.stderr
    assert "Traceback" not in found.stderr and not (tmp_path / "out").exists()


# --- What is no file of the tool --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "name", "content", "complaint"),
    [
        ("lm-eval", "x.jsonl", "{}\n", "found no subset and level in the file's name"),
        ("lm-eval", f"{HOT}.jsonl", "nope\n", f"{HOT}.jsonl:1: found no JSON"),
        ("lm-eval", f"{HOT}.jsonl", '{"a": 1}\n', ":1: found a; expected a sample of lm-eval"),
        (
            "lm-eval",
            f"{HOT}.jsonl",
            '{"doc_id": 0, "doc": {}, "filtered_resps": [[-1.5, false]]}\n',
            ":1: found a list of 2 for an answer; expected one text",
        ),
        (
            "lm-eval",
            f"{HOT}.jsonl",
            '{"doc_id": 0, "doc": {}, "filtered_resps": ["a", "b"]}\n',
            ":1: found a list of 2 for an answer",
        ),
        ("opencompass", f"{HOT}.json", "[]", "found list; expected an object"),
        ("opencompass", f"{HOT}.json", '{"x": {}}', ': "x": expected the number of a row'),
        ("opencompass", f"{HOT}_1.json", "{}", "found no part 0 of it"),
        (
            "opencompass",
            f"{HOT}.json",
            '{"0": {"prediction": null, "origin_prompt": ""}}',
            '"0": found NoneType for an answer',
        ),
        ("nope", f"{HOT}.json", "{}", 'unknown --import "nope"; expected one of: lm-eval, open'),
    ],
)
def test_a_file_of_another_kind_is_one_clear_sentence(
    load: Import, tmp_path: Path, form: str, name: str, content: str, complaint: str
) -> None:
    (tmp_path / name).write_text(content)
    found = load(form, tmp_path / name)
    assert found.returncode == 2 and complaint in found.stderr, found.stderr


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (
            "samples_lveval_hotpotwikiqa_mixup_16k_2026-11-29T02.jsonl",
            ("hotpotwikiqa_mixup", "16k"),
        ),
        ("LVEval_loogle_SD_mixup_256k_0.json", ("loogle_SD_mixup", "256k")),
        ("loogle_MR_mixup_16k.json", ("loogle_MIR_mixup", "16k")),
        ("multifieldqa_en_mixup_1k.csv", ("multifieldqa_en_mixup", "1k")),
        ("lic_mixup_16kb.json", None),
        ("public_mixup_16k.json", None),
        ("lic_mixup.json", None),
    ],
)
def test_the_name_of_a_file_tells_what_it_answers(name: str, key: tuple[str, str] | None) -> None:
    assert named_file(Path("factrecall_en_64k") / name) == key


def test_import_makes_a_run_of_its_own(load: Import, tmp_path: Path) -> None:
    for words in (("--import", "csv"), ("--import", "csv", "x", "--input-dir", "y")):
        found = in_process("evaluation.py", *words)
        assert found.returncode == 2 and "--import: expected FORMAT FILE" in found.stderr
    found = in_process("evaluation.py", "--input-dir", tmp_path, "--overwrite")
    assert found.returncode == 2 and "--overwrite is for --import" in found.stderr


def test_an_imported_run_is_shown_and_compared_but_not_ranked(
    run: Path, data: Path, tmp_path: Path
) -> None:
    page = in_process("-m", "lveval", "report", "--input-dir", run, "--leaderboard")
    assert page.returncode == 0, page.stderr
    assert "not the official prompts" in (run / "report.html").read_text(encoding="utf-8")
    shutil.copytree(run, tmp_path / "other")
    compared = in_process("evaluation.py", "--input-dir", run, "--compare", tmp_path / "other")
    assert compared.returncode == 0, compared.stderr


# --- Scores and rows out ----------------------------------------------------------------------------------------------


@pytest.fixture
def run(load: Import, tmp_path: Path) -> Path:
    """A run with truncated text in every field that is exported, as far as an import has it."""
    assert load("lm-eval", *LM_EVAL).returncode == 0
    return tmp_path / "out" / "run"


def export(run: Path, *words: str | Path) -> list[Path]:
    found = in_process("-m", "lveval", "export", run, *words)
    assert found.returncode == 0, found.stderr
    scores_file = Path(found.stdout.removesuffix("\n"))
    return [*sorted({*scores_file.parent.iterdir()} - {scores_file}), scores_file]


def test_what_goes_out_to_lm_eval_comes_back_with_the_same_scores(
    run: Path, load: Import, tmp_path: Path, data: Path
) -> None:
    written = export(run, "--format", "lm-eval", "--data-path", data, "--output", tmp_path / "to")
    *rows, results = written
    date = results.stem.removeprefix("results_")
    assert {path.name for path in rows} == {
        f"samples_lveval_{name}_{date}.jsonl" for name in (HOT, CMRC)
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}", date)
    before = scores(run)
    told = json.loads(results.read_text())
    for name, score in before["released"].items():
        task = told["results"][f"lveval_{name}"]
        assert task["lveval_released,none"] == pytest.approx(score / 100)
        assert task["sample_len"] == len(ROWS[name])
        assert told["n-samples"][f"lveval_{name}"]["effective"] == len(ROWS[name])
    assert load("lm-eval", *rows, more=("--overwrite",)).returncode == 0
    assert scores(tmp_path / "out" / "run") == before


def test_contexts_go_out_by_their_hash(run: Path, tmp_path: Path, data: Path) -> None:
    for words in (("lm-eval",), ("every-eval-ever", "--model-id", "org/m")):
        form, *more = words
        written = export(run, "--format", form, *more, "--data-path", data)
        text = "".join(path.read_text(encoding="utf-8") for path in written)
        assert "left the quay" not in text and "清晨的港口" not in text
        for asked in (asked for rows in ROWS.values() for asked in rows):
            assert hashlib.sha256(str(asked["context"]).encode()).hexdigest() in text


def test_every_eval_ever_has_each_score_and_a_line_for_each_row(run: Path, tmp_path: Path) -> None:
    """By the facts of its schema 0.3.0; tests/models has its own validator look at it."""
    more = ("--model-id", "org/model-1", "--organization", "us")
    rows, aggregate = export(run, "--format", "every-eval-ever", *more)
    assert aggregate.parent == run / "every-eval-ever/data/lveval/org/model-1"
    assert rows.name == f"{aggregate.stem}_samples.jsonl"
    told = json.loads(aggregate.read_text())
    assert told["model_info"]["id"] == "org/model-1" and told["schema_version"] == "0.3.0"
    assert told["source_metadata"]["source_organization_name"] == "us"
    found = {each["evaluation_result_id"]: each for each in told["evaluation_results"]}
    expected = {
        f"{name}/{protocol}": score
        for protocol, files in scores(run).items()
        for name, score in files.items()
    }
    for name, score in expected.items():
        assert found[name]["score_details"]["score"] == score
    assert found.keys() - expected.keys() == {f"mean_1k/{protocol}" for protocol in PROTOCOLS}
    details = told["detailed_evaluation_results"]
    content = rows.read_bytes()
    assert details["checksum"] == hashlib.sha256(content).hexdigest()
    assert run / "every-eval-ever" / details["file_path"] == rows
    records = lines(rows)
    assert len(records) == details["total_rows"] == 3 * 7
    assert {record["evaluation_id"] for record in records} == {told["evaluation_id"]}
    for name, score in expected.items():
        parts: list[Any] = [
            record["evaluation"] for record in records if record["evaluation_result_id"] == name
        ]
        mean = sum(part["score"] for part in parts) / len(parts)
        assert mean == pytest.approx(score, abs=0.005)
    texts = [told["eval_library"]["additional_details"], told["model_info"]["additional_details"]]
    texts += [record["metadata"] for record in records]
    assert all(isinstance(value, str) for each in texts for value in each.values())
    before = aggregate.read_bytes(), content
    assert export(run, "--format", "every-eval-ever", *more) == [rows, aggregate]
    assert (aggregate.read_bytes(), rows.read_bytes()) == before


@pytest.mark.parametrize("name", ["", "model", "../x", "a/../b", "a/b\n", "a/b/", "a/.b", "a/b."])
def test_a_models_name_that_is_no_path_is_refused(run: Path, name: str) -> None:
    words = ("--format", "every-eval-ever", f"--model-id={name}")
    found = in_process("-m", "lveval", "export", run, *words)
    assert found.returncode == 2 and "--model-id: found" in found.stderr
    assert not (run / "every-eval-ever").exists()


def test_a_run_that_is_incomplete_or_none_is_not_exported(
    load: Import, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{HOT}.csv"
    path.write_text("index,pred\n0,1800\n")
    load("csv", path)
    run = tmp_path / "out" / "run"
    found = in_process("-m", "lveval", "export", run, "--format", "lm-eval")
    assert found.returncode == 3 and "3 rows of 1 files have no answer" in found.stderr
    assert not (run / "lm-eval").exists()
    *_, results = export(run, "--format", "lm-eval", "--allow-partial")
    task = json.loads(results.read_text())["results"][f"lveval_{HOT}"]
    assert task["lveval_recall_stderr,none"] == "N/A"  # of one row
    found = in_process("-m", "lveval", "export", tmp_path / "none", "--format", "lm-eval")
    assert found.returncode == 2 and "no such folder" in found.stderr


def test_a_controls_run_is_not_exported(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    manifest["identity"]["given"] = {"control": "closed-book"}
    (run / "run.json").write_text(json.dumps(manifest))
    found = in_process("-m", "lveval", "export", run, "--format", "lm-eval")
    assert found.returncode == 2 and "found a run of the control closed-book" in found.stderr


def test_rows_of_the_published_harness_go_out_too(tmp_path: Path) -> None:
    scored_as_published(tmp_path / "old", {HOT: ["1800"] * 4})
    for words in (("lm-eval",), ("every-eval-ever", "--model-id", "org/m")):
        assert len(export(tmp_path / "old", "--format", *words)) == 2


# --- Prompts out ------------------------------------------------------------------------------------------------------


def workload(data: Path, path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", "1k")
    return in_process(
        "prediction.py", "--backend", "echo", "--model-name", "w", "--data-path", data, *options,
        "--output-dir", path.parent / "out", "--export-prompts", path, *more,
    )  # fmt: skip


def test_prompts_go_out_in_order_and_nothing_is_answered(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "workload.jsonl"
    found = workload(data, path)
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"{path}\n"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    told = lines(path)
    keys = [(f"{line['dataset']}_{line['level']}", line["index"]) for line in told]
    assert keys == [(name, index) for name, rows in ROWS.items() for index in range(len(rows))]
    for (name, index), line in zip(keys, told, strict=True):
        assert str(ROWS[name][int(str(index))]["context"]) in str(line["prompt"])
        assert line["output_tokens"] == 64


def test_the_workload_is_the_runs_selection_cut_as_it_cuts(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "workload.jsonl"
    path.write_text("an earlier one")
    more = ("--limit", "1", "--model-max-len", "40", "--control", "no-facts")
    found = workload(data, path, *more)
    assert found.returncode == 2 and path.read_text() == "an earlier one"  # no row has such a fact
    assert workload(data, path, *more[:-2]).returncode == 0
    told = lines(path)
    assert [line["index"] for line in told] == [0, 0]
    context = str(ROWS[HOT][0]["context"])
    assert context not in str(told[0]["prompt"]) and "lighthouse 0 built?" in str(told[0]["prompt"])
