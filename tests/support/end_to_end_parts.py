"""What tests of end_to_end share."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, script

SCRIPT_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def bash(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **SCRIPT_ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def predictions(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.glob("*.jsonl")) if path.name != "times.jsonl")
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped samples, built at 1k: every subset."""
    folder = tmp_path_factory.mktemp("built") / "data"
    found = script(
        "-m", "lveval", "construct", "--output-dir", folder, "--lengths", "1k", "--rows", "2"
    )
    assert found.returncode == 0, found.stderr
    return folder


def three_ways(
    model: str, name: str, limit: str, tmp_path: Path, common: list[str]
) -> list[dict[str, bytes]]:
    """The published commands, each into its own folder."""
    outputs = [tmp_path / way for way in ("single", "multiple", "steps")]
    single = bash("batch_eval_single.sh", model, name, limit, *common, OUTPUT_DIR=str(outputs[0]))
    assert single.returncode == 0, single.stderr
    multiple = bash(
        "batch_eval_multiple.sh",
        model,
        name,
        limit,
        *common,
        "--num-workers",
        "2",
        OUTPUT_DIR=str(outputs[1]),
    )
    assert multiple.returncode == 0, multiple.stderr
    step = script(
        "prediction.py", "--model-path", model, "--model-name", name, "--model-max-length", limit, "--output-dir",
        outputs[2], *common,
    )  # fmt: skip
    assert step.returncode == 0, step.stderr
    scored = script("evaluation.py", "--input-dir", step.stdout.splitlines()[-1])
    assert scored.returncode == 0, scored.stderr
    for output in outputs:
        assert json.loads((output / name / "results.json").read_text()) == json.loads(
            (outputs[0] / name / "results.json").read_text()
        )
    return [predictions(output / name) for output in outputs]
