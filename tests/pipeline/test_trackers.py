"""--track: a tracker that fails, hangs or ends is one warning, and the run is as without it.

The libraries themselves are tried in tests/models/test_real_trackers.py. Here stands a package
named trackio that misbehaves as its lines say.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, in_process, lines, write_data
from support.part_runs import derived
from support.prediction_parts import SELECTION

from lveval.common.errors import UsageError
from lveval.execution import trackers
from lveval.option_groups import tracker

GOOD = """
import json, os

def init(**start):
    note("init", start)

def log(values, step=None):
    note("log", {"values": values, "step": step})

def finish():
    note("finish", {})

def note(kind, values):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps([kind, values]) + chr(10))
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package writes what it was told; it is there for this test."""
    write_library(tmp_path, GOOD)
    monkeypatch.setenv("TOLD", str(tmp_path / "told.jsonl"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    return tmp_path / "told.jsonl"


def write_library(folder: Path, code: str) -> None:
    (folder / "library").mkdir(exist_ok=True)
    (folder / "library/trackio.py").write_text(code)


def messages(told: Path) -> list[tuple[str, dict[str, object]]]:
    return [tuple(json.loads(line)) for line in told.read_text().splitlines()]


def run(output: Path, data: Path, *options: str) -> str:
    found = in_process(
        "prediction.py", "--backend", "echo", "--model-name", "dry", "--single-process", *SELECTION,
        "--data-path", data, "--output-dir", output, *options,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stderr


def evaluated(output: Path, *options: str) -> dict[str, bytes]:
    found = in_process("evaluation.py", "--input-dir", output / "dry", *options)
    assert found.returncode == 0, found.stderr
    return derived(output / "dry")


def test_settings_means_and_final_scores_are_told_and_the_run_is_the_same(
    told: Path, data_path: Path, tmp_path: Path
) -> None:
    for path in data_path.iterdir():  # scores that differ, so that means have intervals
        rows = [found | {"answers": [str(1800 + n % 3)]} for n, found in enumerate(lines(path))]
        write_data(data_path, path.stem, rows)
    said = run(tmp_path / "with", data_path, "--track", "trackio:long context")
    assert "--track" not in said
    (_, start), *rest = messages(told)
    config = start["config"]
    assert isinstance(config, dict) and config["model_name"] == "dry"
    assert config["data.cmrc_mixup_1k"].startswith("sha256:")
    assert start["project"] == "long context" and start["resume"] == "allow"
    assert rest.pop() == ("finish", {})
    points = [message for kind, message in rest if kind == "log"]
    assert [point["step"] for point in points] == [1, 2, 3, 4, None]
    final = points[-1]["values"]
    assert isinstance(final, dict)
    assert final["final/rows"] == final["final/selected"] == 20
    low, high = final["final/released/1k/low"], final["final/released/1k/high"]
    assert low <= final["final/released/1k"] <= high
    # The same run goes on as the same tracked run, also from evaluation.py.
    told.unlink()
    run(tmp_path / "with", data_path, "--track", "trackio:long context")
    assert messages(told)[0][1]["name"] == start["name"]
    told.unlink()
    results = evaluated(tmp_path / "with", "--track", "trackio:long context")
    assert [kind for kind, _ in messages(told)] == ["init", "log", "finish"]
    assert messages(told)[0][1]["name"] == start["name"]
    assert messages(told)[1][1]["values"] == final
    scores = json.loads(results["results_meta.json"])["means"]["released"]
    assert final["final/released/1k"] == scores["levels"]["1k"]
    levels = scores["levels"].values()  # as the tables have it: of the means that they show
    assert final["final/released/mean"] == round(sum(levels) / len(levels), 2)
    assert final["final/released/cmrc_mixup"] == scores["subsets"]["cmrc_mixup"]
    # It decides nothing: with and without a tracker the files are the same.
    run(tmp_path / "without", data_path)
    assert evaluated(tmp_path / "without") == results
    run(tmp_path / "with", data_path)


@pytest.mark.parametrize(
    ("code", "warning"),
    [
        ("raise RuntimeError('no key\\x1b[31m')", "RuntimeError: no key\\u001b[31m"),
        (GOOD.replace('note("log"', 'os._exit(9) or note("log"'), "its process ended with 9"),
        (GOOD + "def finish(): raise KeyError('x')", "KeyError: 'x'; no more is tracked"),
        (
            GOOD + "import time\ndef finish(): time.sleep(600)",
            "more than 3 s to take what was left",
        ),
        (GOOD + "import time\ndef init(**start): time.sleep(600)", "more than 3 s to take"),
    ],
)
def test_a_tracker_that_fails_is_one_warning(
    told: Path,
    data_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    warning: str,
) -> None:
    monkeypatch.setattr(trackers, "SECONDS_TO_END", 3.0)
    write_library(tmp_path, code)
    said = run(tmp_path / "out", data_path, "--track", "trackio:x")
    assert said.count("--track") == 1 and "warning: --track trackio:x: " in said
    assert warning in said and "\x1b" not in said


def test_what_cannot_be_scored_is_a_warning_of_the_tracker_alone(
    told: Path, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lveval import evaluation

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a metric of one's own")

    monkeypatch.setattr(evaluation, "score_file", broken)
    said = run(tmp_path / "out", data_path, "--track", "trackio:x")
    assert said.count("--track") == 1 and "ZeroDivisionError" in said


def test_a_tracker_that_reads_nothing_never_blocks(
    told: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_library(tmp_path, "import time; time.sleep(600)")
    began = time.monotonic()
    with trackers.track_run("trackio:x", tmp_path, {}) as tracked:
        for step in range(20_000):
            tracked.log(step, {f"released/{level}k": 1.0 for level in range(9)})
    assert time.monotonic() - began < 30
    assert [line for line in caplog.messages if "--track" in line] == [
        "warning: --track trackio:x: it takes nothing any more; no more is tracked"
    ]


def test_a_run_that_is_killed_leaves_no_process(told: Path, tmp_path: Path) -> None:
    write_library(tmp_path, GOOD + "note('pid', {'pid': os.getpid()})")
    code = (
        "import os, signal, sys, time; from pathlib import Path; from lveval.execution import trackers\n"
        "tracked = trackers.track_run('trackio:x', Path(sys.argv[1]), {})\n"
        "tracked.log(1, {'a': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    until = time.monotonic() + 30
    while not told.exists() or "finish" not in told.read_text():
        assert time.monotonic() < until, "what was told before is not finished"
        time.sleep(0.05)
    pid = messages(told)[0][1]["pid"]
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until, "its process is still there"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("trackio", "expected trackio:PROJECT"),
        ("trackio:", "expected trackio:PROJECT"),
        ("trackio:../x", "expected trackio:PROJECT"),
        ("wandb:a/b", "expected trackio:PROJECT"),
        ("wandb:a\x1b[31m", "expected trackio:PROJECT"),
        ("neptune:x", "expected trackio:PROJECT"),
        ("mlflow:" + "x" * 101, "expected trackio:PROJECT"),
    ],
)
def test_a_wrong_target_is_one_sentence(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        tracker(text)


def test_a_package_that_is_missing_is_said_before_anything_runs(tmp_path: Path) -> None:
    found = in_process("prediction.py", "--backend", "echo", "--model-name", "dry",
                       "--output-dir", tmp_path / "out", "--track", "wandb:x")  # fmt: skip
    assert found.returncode == 2 and "run: pip install wandb" in found.stderr
    assert not (tmp_path / "out").exists()


def test_settings_are_plain_and_short() -> None:
    found = trackers.settings(
        {"model_name": "a\x1b[31m<b>\n" + "x" * 900, "given": {"a$b{": [1, {"c": None}], "n": 2.5}}
    )
    assert found["model_name"] == ("a\\u001b[31m<b> " + "x" * 900)[:500]
    assert found["given.n"] == 2.5 and found["given.a_b_"] == "[1, {'c': None}]"
    assert os.sep not in "".join(found)
