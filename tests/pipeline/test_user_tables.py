"""Tables of the user's own by --config and --formats: an installed copy needs no editing."""

import json
from pathlib import Path

import pytest
from conftest import lines, row, script, write_data

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


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no such file"), ("DATASET_SELECTD = []", "found DATASET_SELECTD; expected names of")],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    found = script("-m", "lveval", "predict", "--config", path, "--model-name", "x")
    assert found.returncode == 2 and said in found.stderr and "Traceback" not in found.stderr
