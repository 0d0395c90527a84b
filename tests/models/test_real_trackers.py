"""--track with the libraries themselves, offline: what they keep is read back.

    LVEVAL_TEST_TOOLS=/tools/bin pytest tests/models/test_real_trackers.py

A library is looked for in the tests' own environment and in those whose `bin` LVEVAL_TEST_TOOLS
names; they need what the harness needs, too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, row, write_data

from lveval.results import PROTOCOLS

FOLDERS = [Path(sys.executable).parent] + [
    Path(folder) for folder in os.environ.get("LVEVAL_TEST_TOOLS", "").split(os.pathsep) if folder
]

READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
place = client.get_experiment_by_name("long context").experiment_id
runs = [{"name": run.info.run_name, "settings": run.data.params, "final": run.data.metrics,
         "status": run.info.status,
         "curve": [point.value for point in client.get_metric_history(run.info.run_id, "released/1k")]}
        for run in client.search_runs([place])]
print(json.dumps(runs))
"""

READ_TRACKIO = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = []
for run in trackio.Api().runs("long context"):
    points = SQLiteStorage.get_logs("long context", run.name)
    final = {name: value for point in points for name, value in point.items() if "final" in name}
    curve = [point["released/1k"] for point in points if "released/1k" in point]
    runs.append({"name": run.name, "settings": run.config, "final": final, "curve": curve})
print(json.dumps(runs))
"""

# The offline file is a LevelDB log of protocol buffers, after 7 bytes that say so.
READ_WANDB = """
import json, struct, sys
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record

def records(data):
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""

def items(found):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found}

runs = {}
for path in sorted(Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")):
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = runs.setdefault(record.run.run_id, {"settings": {}, "final": {}, "curve": []})
            run["name"], run["project"] = record.run.display_name, record.run.project
            run["settings"] |= items(record.run.config.update)
        elif kind == "config":
            run["settings"] |= items(record.config.update)
        elif kind == "summary":
            run["final"] |= items(record.summary.update)
        elif kind == "history":
            run["curve"] += [v for k, v in items(record.history.item).items() if k == "released/1k"]
print(json.dumps(list(runs.values())))
"""


def python_with(library: str) -> str:
    """A Python that has the library and the harness's own packages; skips where there is none."""
    for folder in FOLDERS:
        test = [str(folder / "python"), "-c", f"import {library}, datasets, jieba"]
        if Path(test[0]).is_file() and not subprocess.run(test, capture_output=True).returncode:
            return test[0]
    pytest.skip(f"{library} is not installed: name the bin of a venv with it in LVEVAL_TEST_TOOLS")


def command(python: str, *words: str | Path, **environment: str) -> str:
    found = subprocess.run(
        [python, *map(str, words)], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "warning: --track" not in found.stderr, found.stderr
    return found.stdout


@pytest.mark.parametrize(
    ("kind", "reader"), [("wandb", READ_WANDB), ("mlflow", READ_MLFLOW), ("trackio", READ_TRACKIO)]
)
def test_a_run_is_tracked_resumed_and_read_back(kind: str, reader: str, tmp_path: Path) -> None:
    python = python_with(kind)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    places: Mapping[str, str] = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_API_KEY": "secret-of-the-tracker",
        "MLFLOW_TRACKING_URI": database,
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    # A name of one's own that a page would have to escape.
    name = "dry <b>&'run"
    for level, words in (("1k", 60), ("2k", 200)):
        rows = [
            row("cmrc_mixup", number, words, answers=[str(1800 + number % 3)])
            for number in range(9)
        ]
        write_data(tmp_path / "data", f"cmrc_mixup_{level}", rows)
    words_of_run = ("prediction.py", "--backend", "echo", "--single-process", "--model-name", name,
                    "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out",
                    "--datasets", "cmrc_mixup", "--track", f"{kind}:long context")  # fmt: skip
    command(python, *words_of_run, "--lengths", "1k", **places)
    command(python, *words_of_run, "--lengths", "1k", "2k", **places)
    folder = tmp_path / "out" / name
    scored = ("evaluation.py", "--input-dir", folder, "--track", f"{kind}:long context")
    command(python, *scored, **places)
    where = database if kind == "mlflow" else str(tmp_path)
    found: list[dict[str, Any]] = json.loads(command(python, "-c", reader, where, **places))
    (tracked,) = found  # three starts are one tracked run
    assert name in tracked["name"]
    assert tracked["settings"]["model_name"] == name
    assert tracked["settings"]["data.cmrc_mixup_2k"].startswith("sha256:")
    meta = json.loads((folder / "results_meta.json").read_text())
    for protocol in PROTOCOLS:
        for level, mean in meta["means"][protocol]["levels"].items():
            assert tracked["final"][f"final/{protocol}/{level}"] == mean
    for level, mean in meta["means"]["released"]["levels"].items():
        low, high = (tracked["final"][f"final/released/{level}/{end}"] for end in ("low", "high"))
        assert low <= mean <= high
    assert tracked["final"]["final/rows"] == 18
    mean = meta["means"]["released"]["levels"]["1k"]
    assert tracked["curve"] == [mean, mean]  # one point of each start of prediction.py
    assert tracked.get("status", "FINISHED") == "FINISHED"
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"secret-of-the-tracker" in path.read_bytes()]


def test_a_server_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    python = python_with("mlflow")
    write_data(tmp_path / "data", "cmrc_mixup_1k", [row("cmrc_mixup", 0)])
    found = subprocess.run(
        [python, "prediction.py", "--backend", "echo", "--single-process", "--model-name", "dry",
         "--data-path", tmp_path / "data", "--output-dir", tmp_path, "--datasets", "cmrc_mixup",
         "--lengths", "1k", "--track", "mlflow:x"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("warning: --track mlflow:x: ") == 1
    assert (tmp_path / "dry/cmrc_mixup_1k.jsonl").is_file()
