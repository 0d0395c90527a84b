"""Tables of the user's own by --config and --formats: an installed copy needs no editing."""

import json
from pathlib import Path

import pytest
from conftest import in_process, lines, row, script, write_data

from lveval import config, user_tables
from lveval.execution import remote_cluster

CONFIG = """
from lveval import metrics
from lveval.config import *

for table in (DATASET_MAXGEN, DATASET_LANGUAGE, DATASET_METRIC, DATASET_METRIC_DESCRIBED,
              DATASET_METRIC_RECALL, DATASET_PROMPT):
    table["mine"] = table["hotpotwikiqa_mixup"]
DATASET_MAXGEN["mine"] = 7
DATASET_SELECTED = ["mine"]
DATASET_LENGTH_LEVEL = ["1k"]
"""
FORMATS = 'CHAT_FORMATS = {"own": ("<<", ">>")}\n'


def test_a_subset_and_a_format_of_ones_own(tmp_path: Path) -> None:
    write_data(
        tmp_path / "data", "mine_1k", [row(number=n) | {"dataset": "mine"} for n in range(3)]
    )
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "formats.py").write_text(FORMATS)
    tables = ("--config", tmp_path / "config.py", "--formats", tmp_path / "formats.py")
    where = ("--output-dir", tmp_path / "out", "--model-name", "own-model")
    options = ("--backend", "echo", "--num-workers", "1", "--data-path", tmp_path / "data")
    found = script("-m", "lveval", "predict", *tables, *where, *options)
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "out/own-model"
    answers = lines(folder / "mine_1k.jsonl")
    assert [answer["usage"] for answer in answers] == [{"completion_tokens": 7}] * 3
    spec = json.loads((folder / "run.json").read_text())["identity"]
    assert spec["tables"]["chat_format"] == "own" and spec["budgets"] == {"mine": 7}
    found = script("-m", "lveval", "evaluate", *tables, *where)
    assert found.returncode == 0, found.stderr
    assert list(json.loads((folder / "results.json").read_text())) == ["mine_1k"]


def test_the_command_that_comes_next_has_them(data_path: Path, tmp_path: Path) -> None:
    formats = tmp_path / "formats.py"
    formats.write_text(FORMATS)
    words: list[str | Path] = ["-m", "lveval", "plan", "--backend", "echo", "--model-name", "dry"]
    words += ["--formats", formats, "--data-path", data_path, "--output-dir", tmp_path]
    with user_tables.restored():
        found = in_process(*words, "--datasets", "cmrc_mixup", "--lengths", "1k")
    assert found.returncode == 0, found.stderr
    assert f"--formats {formats}" in found.stdout.splitlines()[-1]


def test_a_checkouts_scripts_take_them_too_and_the_run_keeps_to_them(
    data_path: Path, tmp_path: Path
) -> None:
    formats = tmp_path / "formats.py"
    formats.write_text(FORMATS)
    words: list[str | Path] = ["prediction.py", "--backend", "echo", "--model-name", "own-model"]
    words += ["--formats", formats, "--data-path", data_path, "--output-dir", tmp_path]
    words += ["--datasets", "cmrc_mixup", "--lengths", "1k", "--single-process"]
    with user_tables.restored():
        found = in_process(*words, "--limit", "1")
    assert found.returncode == 0 and "prompt format: that of " in found.stderr, found.stderr
    spec = json.loads((tmp_path / "own-model/run.json").read_text())["identity"]
    assert spec["tables"]["chat_format"] == "own"
    with user_tables.restored():  # what the workers of a cluster must agree on
        user_tables.choose("--formats", str(formats))
        assert set(remote_cluster.loaded_code()) - set(remote_cluster.CODE) == {"--formats"}
    changed = (
        'CHAT_FORMATS = {"own": ("<<", ">")}\n',
        f'{FORMATS}POSTPROCESSORS = {{"own": lambda answer: answer.upper()}}\n',
        "",
    )
    for text in changed:
        formats.write_text(text)
        with user_tables.restored():
            found = in_process(*words)
        assert found.returncode == 4 and "tables." in found.stderr, found.stderr
    formats.write_text(FORMATS)
    own = tmp_path / "config.py"
    own.write_text("DATASET_MAXGEN = {'cmrc_mixup': 7}\n")
    with user_tables.restored():
        assert in_process(*words).returncode == 0
        scored = in_process("evaluation.py", "--input-dir", tmp_path / "own-model", "--config", own)
        assert scored.returncode == 0 and config.DATASET_MAXGEN == {"cmrc_mixup": 7}, scored.stderr
    assert len(config.DATASET_MAXGEN) == 11


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("DATASET_SELECTD = []", "found DATASET_SELECTD; expected names of"),
        ("DATASET_PROMPT = {'{context} {input}'}", "DATASET_PROMPT: found set; expected dict"),
        ("DATASET_SELECTED = 'lic_mixup'", "DATASET_SELECTED: found str; expected list"),
        ("DATASET_MAXGEN = {'lic_mixup': '64'}", "found dict; expected one of int values"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("x = (", "SyntaxError: '(' was never closed"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with user_tables.restored():
        found = in_process("prediction.py", "--config", path, "--model-name", "x")
    assert found.returncode == 2 and said in found.stderr and "Traceback" not in found.stderr
