"""Controls of the embedded model, resumed and compared; by the published script and its workers."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import in_process, lines
from support.end_to_end_parts import bash, built, predictions

from lveval.data.controls import CONTROLS

__all__ = ["built"]  # fixtures

SUBSETS = ("factrecall_en", "cmrc_mixup")  # with and without confusing facts
LIMIT = "400"  # tokens: short enough for a CPU


def run(
    data: Path, model: Path, output: Path, name: str, *options: str
) -> subprocess.CompletedProcess[str]:
    where: list[str | Path] = [
        "--data-path",
        data,
        "--output-dir",
        output,
        "--datasets",
        *SUBSETS,
        "--lengths",
        "1k",
    ]
    engine: list[str | Path] = [
        "--model-path",
        model,
        "--model-name",
        name,
        "--model-max-len",
        LIMIT,
    ]
    return in_process("prediction.py", *engine, *where, "--single-process", *options)


@pytest.fixture(scope="module")
def full(built: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of each subset, answered with its whole context."""
    output = tmp_path_factory.mktemp("full")
    found = run(built, model_path, output, "full", "--limit", "1")
    assert found.returncode == 0, found.stderr
    return output / "full"


@pytest.mark.parametrize("control", list(CONTROLS))
def test_the_embedded_model_under_a_control(
    built: Path, model_path: Path, full: Path, tmp_path: Path, control: str
) -> None:
    asked = ("--control", control, "--limit", "1")
    assert run(built, model_path, tmp_path, "dry", *asked).returncode == 0
    rows = tmp_path / "dry/rows/factrecall_en_1k.jsonl"
    whole, recorded = predictions(tmp_path / "dry"), rows.read_bytes()
    rows.unlink()
    assert run(built, model_path, tmp_path, "dry", *asked).returncode == 0
    assert predictions(tmp_path / "dry") == whole and rows.read_bytes() == recorded
    assert run(built, model_path, tmp_path, "dry").returncode == 4  # not mixed with a full run
    found = in_process("evaluation.py", "--input-dir", full, "--compare", tmp_path / "dry")
    assert found.returncode == 0, found.stderr
    (compared,) = json.loads((full / "comparison.json").read_text())["compared"].values()
    pairs = 1 if control == "no-facts" else 2
    assert (compared["rows"], compared["only_a"]) == (pairs, 2 - pairs)
    assert compared["contrast"]["name"] == CONTROLS[control].contrast
    assert compared["unlike"] == []  # the run's name is no difference
    for subset in SUBSETS:
        (long,) = lines(full / f"{subset}_1k.jsonl")
        for short in lines(tmp_path / f"dry/{subset}_1k.jsonl"):
            assert int(str(short["prompt_tokens_full"])) < int(str(long["prompt_tokens_full"]))


def test_the_script_and_its_workers_answer_a_control_as_one_process_does(
    built: Path, model_path: Path, tmp_path: Path
) -> None:
    one = run(built, model_path, tmp_path, "closed", "--control", "closed-book")
    assert one.returncode == 0, one.stderr
    words = ["--data-path", str(built), "--datasets", *SUBSETS, "--lengths", "1k"]
    options = ["--num-workers", "2", "--control", "closed-book"]
    script = ["batch_eval_multiple.sh", str(model_path), "closed", LIMIT, *words, *options]
    found = bash(*script, OUTPUT_DIR=str(tmp_path / "script"))
    assert found.returncode == 0, found.stderr
    assert predictions(tmp_path / "script/closed") == predictions(tmp_path / "closed")
    assert "4/4 rows" in found.stdout and "Control closed-book: " in found.stdout
