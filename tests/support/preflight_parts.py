"""What tests of preflight share."""

import json
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import in_process, script

SELECTION = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", "1k", "2k")
# The columns of the two tables after subset and level.
ROWS, LONGEST, PROMPT, FULL, BUDGET, CUT, DROPPED, LOST, UNKNOWN = range(9)


def predict(
    data_path: Path, output: Path, *options: str | Path, **env: str
) -> subprocess.CompletedProcess[str]:
    name = () if "--model-path" in options else ("--backend", "echo", "--model-name", "dry")
    words = (*name, "--data-path", data_path, "--output-dir", output, *options)
    run = partial(script, **env) if env else in_process
    found = run("prediction.py", *words)
    assert found.returncode == 0, found.stderr
    return found


def figures(printed: str, subset: str = "all", level: str = "all") -> list[tuple[float, float]]:
    """(value, half the interval) of each column in one line of the tables; the error of rows is not read."""
    pairs = []
    for cell in cells(printed, subset, level):
        value, _, error = re.sub(r" \(.*| ?[,%]", "", cell.replace(",", "")).partition(" ±")
        pairs.append((float(value), float(error or 0) / 100 * float(value)))
    return pairs


def cells(printed: str, subset: str, level: str) -> list[str]:
    """The line of a file in both tables; what is not cut is not in the second one."""
    tokens, *cut = re.findall(rf"^{subset} +{level} .*", printed, re.M)
    assert len(tokens) <= 100 and len(cut) <= 1
    split = [re.split(r" {2,}", line)[2:] for line in (tokens, *cut)]
    return [*split[0], *(split[1] if cut else ["0"] * 4)]


def cache_files(cache: Path) -> dict[str, list[list[Any]]]:
    """<subset>_<level> -> the lines that were kept of its rows."""
    found = {
        path.name.rpartition("-")[0]: path.read_bytes() for path in (cache / "plan").glob("*.jsonl")
    }
    return {
        name: [json.loads(line) for line in content.split(b"\n")[:-1]]
        for name, content in found.items()
    }


# --- Estimates --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of 60 built rows each."""
    folder = tmp_path_factory.mktemp("built")
    options = (
        "--datasets",
        "factrecall_en",
        "lic_mixup",
        "--lengths",
        "1k",
        "2k",
        "8k",
        "--rows",
        "60",
    )
    found = in_process("-m", "lveval", "construct", "--output-dir", folder, *options)
    assert found.returncode == 0, found.stderr
    return folder
