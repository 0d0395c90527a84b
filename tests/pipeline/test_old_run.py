"""A run that the version before began is finished, and scored, to the same bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from lveval import evaluation, prediction

OLD = ROOT / "tests" / "golden" / "old_run"


def manifest(folder: Path) -> dict[str, Any]:
    """run.json without its log, which holds times and paths."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert found.pop("log")
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but run.json."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_begun_by_the_version_before_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    words = json.loads((OLD / "begun/run.json").read_text(encoding="utf-8"))["log"][0]["argv"]
    at = words.index("--limit")
    words = words[:at] + words[at + 2 :]
    words[words.index("--data-path") + 1] = str(OLD / "data")
    words[words.index("--output-dir") + 1] = str(tmp_path)
    folder = tmp_path / words[words.index("--model-name") + 1]
    shutil.copytree(OLD / "begun", folder)
    assert prediction.main(words) == 0
    assert evaluation.main(["--input-dir", str(folder)]) == 0
    found, expected = contents(folder), contents(OLD / "finished")
    assert {name: found.get(name) for name in expected} == expected
    assert manifest(folder) == manifest(OLD / "finished")


def test_a_run_finished_by_the_version_before_is_scored_to_the_same_bytes(tmp_path: Path) -> None:
    shutil.copytree(OLD / "finished", tmp_path / "run")
    for path in (tmp_path / "run").glob("results*"):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert evaluation.main(["--input-dir", str(tmp_path / "run")]) == 0
    assert contents(tmp_path / "run") == contents(OLD / "finished")
