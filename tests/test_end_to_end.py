"""The documented commands from data to results, and runs that are killed on the way."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pandas
import pytest
from conftest import ROOT, row, script, write_data
from test_workers import running, wait_for_rows

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
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


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


def test_the_three_documented_ways_give_the_same_files_with_echo(
    built: Path, tmp_path: Path
) -> None:
    common = ["--backend", "echo", "--data-path", str(built), "--lengths", "1k", "--limit", "1"]
    ways = three_ways("unused/path", "dry", "700", tmp_path, common)
    assert len(ways[0]) == 11
    assert ways[0] == ways[1] == ways[2]
    table = pandas.read_csv(tmp_path / "single/dry/results.csv", index_col="dataset_name")
    assert list(table.columns) == ["1k", "16k", "32k", "64k", "128k", "256k"]
    assert table["1k"].notna().sum() == 11 and table["16k"].isna().all()


def test_the_three_documented_ways_give_the_same_files_with_a_real_model(
    built: Path, model_path: Path, tmp_path: Path
) -> None:
    subsets = ["--datasets", "factrecall_en", "factrecall_zh", "multifieldqa_en_mixup"]
    common = [*subsets, "--data-path", str(built), "--lengths", "1k", "--limit", "1"]
    ways = three_ways(str(model_path), "smollm2", "700", tmp_path, common)
    assert ways[0] == ways[1] == ways[2]
    record = json.loads(ways[0]["factrecall_en_1k.jsonl"])
    assert record["pred"].strip() and record["prompt_tokens"] < 800 < record["prompt_tokens_full"]


@pytest.mark.parametrize(
    "name", ["batch_eval_single.sh", "batch_eval_multiple.sh", "batch_eval_gpt_single.sh"]
)
def test_a_script_without_its_arguments_tells_its_usage(name: str) -> None:
    found = bash(name, "model")
    assert found.returncode == 2 and f"usage: bash {name} " in found.stderr


def test_a_script_passes_odd_arguments_through_untouched(built: Path, tmp_path: Path) -> None:
    name = "a model; touch $(pwd)/owned"
    common = ["--backend", "echo", "--data-path", str(built), "--lengths", "1k", "--limit", "1"]
    found = bash(
        "batch_eval_single.sh",
        "x",
        name,
        "700",
        *common,
        "--datasets",
        "lic_mixup",
        OUTPUT_DIR=str(tmp_path / "a b"),
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "a b" / name.replace("/", "__") / "results.json").is_file()
    assert not (ROOT / "owned").exists()


@pytest.mark.parametrize("option", ["--plan", "--check"])
def test_a_script_that_only_looks_ahead_scores_nothing(
    built: Path, tmp_path: Path, option: str
) -> None:
    found = bash(
        "batch_eval_single.sh", "x", "dry", "700", "--backend", "echo", "--data-path", built, "--lengths", "1k", option,
        OUTPUT_DIR=str(tmp_path),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert not list(tmp_path.glob("*/*"))


def test_a_script_ends_with_the_first_code_that_is_not_zero(built: Path, tmp_path: Path) -> None:
    found = bash(
        "batch_eval_single.sh", "x", "dry", "700", "--backend", "echo", "--data-path", built, "--lengths", "9k",
        OUTPUT_DIR=str(tmp_path),
    )  # fmt: skip
    assert found.returncode == 2 and not list(tmp_path.glob("*/results*"))


def test_the_same_command_again_resumes_and_asks_nothing_twice(built: Path, tmp_path: Path) -> None:
    common = ["--backend", "echo", "--data-path", str(built), "--lengths", "1k"]
    for _ in range(2):
        found = bash("batch_eval_single.sh", "x", "dry", "700", *common, OUTPUT_DIR=str(tmp_path))
        assert found.returncode == 0, found.stderr
    for path in (tmp_path / "dry/rows").iterdir():
        assert path.read_bytes().count(b"\n") == 2


def test_thirty_kills_later_the_files_are_those_of_a_calm_run(tmp_path: Path) -> None:
    """SIGKILL to the whole run at random times, two workers, each time resumed."""
    for subset in ("factrecall_en", "factrecall_zh"):
        write_data(
            tmp_path / "data", f"{subset}_1k", [row(subset, number) for number in range(1000)]
        )
    command: list[str | Path] = [
        "prediction.py", "--backend", "echo", "--model-name", "dry", "--data-path", tmp_path / "data",
        "--datasets", "factrecall_en", "factrecall_zh", "--lengths", "1k",
    ]  # fmt: skip
    assert script(*command, "--output-dir", tmp_path / "calm", "--single-process").returncode == 0
    killed = [
        *command,
        "--output-dir",
        tmp_path / "killed",
        "--num-workers",
        "2",
        "--backend-args",
        "delay=0.1",
    ]
    folder = tmp_path / "killed/dry"
    generator = random.Random(30)
    progress = [0]
    startup = 0.0  # seconds until a row is recorded, at this time on this machine
    while len(progress) <= 30:
        begin = time.monotonic()
        with running(*killed) as process:
            if len(progress) % 2:  # while it answers; else while it starts, mostly
                wait_for_rows(folder, progress[-1] + 1)
                startup = time.monotonic() - begin
                time.sleep(generator.uniform(0, 0.6) * startup)
            else:
                time.sleep(generator.uniform(0.1, 1.1) * startup)
            assert process.poll() is None, "it ended before it was killed"
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        rows = (folder / "rows").glob("*.jsonl")
        progress.append(sum(path.read_bytes().count(b"\n") for path in rows))
    assert progress == sorted(progress), "a recorded row was lost"
    assert len(set(progress)) > 15, "half of the kills come after a row is recorded"
    final = script(*killed[:-2], "--num-workers", "1")
    assert final.returncode == 0, final.stderr
    assert not (folder / "attempts.jsonl").exists()
    assert predictions(folder) == predictions(tmp_path / "calm/dry")
