"""Ctrl-C, SIGTERM and SIGHUP in every phase of a command, as a terminal or a job sends them: to all its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, in_process, row, write_data

NAME = "hotpotwikiqa_mixup_1k.jsonl"

# Runs a command, and sends the signal when any thread calls a function of a file, or so many seconds later;
# then again at the next one.
INTERRUPTED = """
import os, runpy, sys, threading, time
number, places, script = int(sys.argv[1]), sys.argv[2].split(), sys.argv[3]
del sys.argv[:3]
def watch(frame, event, _):
    if not places or event != "call":
        return
    place, _, later = places[0].partition("+")
    code = frame.f_code
    if place == f"{os.path.basename(code.co_filename)}:{code.co_name}":
        del places[0]
        time.sleep(float(later or 0))
        os.killpg(0, number)
threading.setprofile(watch)
sys.setprofile(watch)
if script == "-m":
    sys.argv[0] = "lveval"
    runpy.run_module("lveval", run_name="__main__", alter_sys=True)
else:
    runpy.run_path(script, run_name="__main__")
"""

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def echo(folder: Path) -> list[str]:
    if not (folder / "data").exists():
        rows = [row(number=number) for number in range(6)]
        write_data(folder / "data", NAME.removesuffix(".jsonl"), rows)
    return [
        *("--backend", "echo", "--model-name", "dry", "--data-path", str(folder / "data"), "--lengths", "1k"),
        *("--datasets", "hotpotwikiqa_mixup", "--output-dir", str(folder / "out")),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The answers and scores of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("calm")
    return finished(folder)


def finished(folder: Path) -> dict[str, bytes]:
    """What a run in the folder comes to: begun, or gone on with, and scored."""
    run = in_process("prediction.py", *echo(folder), "--single-process")
    assert run.returncode == 0, run.stderr
    scored = in_process("evaluation.py", "--input-dir", folder / "out/dry")
    assert scored.returncode == 0, scored.stderr
    names = [NAME, "results.json", "results.csv", "results_meta.json"]
    return {name: (folder / "out/dry" / name).read_bytes() for name in names}


def interrupted(number: int, where: str, *words: str) -> str:
    """The one line that a command says."""
    code, _, errors = run_interrupted(number, where, *words)
    (told,) = [line for line in errors.replace("\r", "\n").split("\n") if "interrupted" in line]
    assert code == 128 + number, (code, errors)
    by = "" if number == INT else f" by {signal.Signals(number).name}"
    assert told.partition(":")[0] == f"interrupted{by}"
    return told


def run_interrupted(number: int, where: str, *words: str) -> tuple[int, str, str]:
    """A command's exit code, output and errors; no process of it is left, and none told of a fault."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(int(number)), where, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    printed, errors = process.communicate(timeout=120)
    end = time.monotonic() + 10
    while left := [each for each in psutil.process_iter() if in_group(each, process.pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert "Traceback" not in errors and "ignored" not in errors and "Error" not in errors, errors
    return process.returncode, printed, errors


def in_group(process: psutil.Process, group: int) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group
    except (ProcessLookupError, psutil.Error):
        return False


@pytest.mark.parametrize(
    ("where", "number", "begun"),
    [
        ("utils.py:<module>", INT, False),  # imports
        ("selection.py:load_selection", HUP, False),
        ("store.py:open", TERM, True),
        ("process.py:_watch_process+0.2", INT, True),  # a worker begins to import
        ("process.py:_watch_process+0.2", HUP, True),
        ("process.py:_watch_process+0.2", TERM, True),
        ("dispatch.py:_collect", TERM, True),  # the workers load
        ("recorder.py:_record_answers", HUP, True),
        ("store.py:append", INT, True),
        ("store.py:export_predictions", INT, True),
        ("spec.py:_close nanny.py:kill", INT, True),  # the end of the cluster, impatiently
    ],
)
def test_a_run_says_one_line_and_goes_on_to_the_same_bytes(
    tmp_path: Path, calm: dict[str, bytes], where: str, number: int, begun: bool
) -> None:
    words = [*echo(tmp_path), "--num-workers", "2", "--backend-args", "delay=0.1"]
    line = interrupted(number, where, "prediction.py", *words)
    assert ("all answers so far are saved in" in line and "same command again" in line) is begun
    assert finished(tmp_path) == calm


PROGRAM = """
import sys
from lveval import predict

def main():
    try:
        predict(backend="echo", model_name="dry", num_workers=2, datasets=["hotpotwikiqa_mixup"], lengths=["1k"],
                data_path=sys.argv[1], output_dir=sys.argv[2])
    except KeyboardInterrupt:
        print("the program goes on")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("where", ["nanny.py:instantiate", "spec.py:_close"])
def test_a_program_goes_on_whenever_its_cluster_is_interrupted(tmp_path: Path, where: str) -> None:
    echo(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [str(tmp_path / name) for name in ("program.py", "data", "out")]
    code, printed, errors = run_interrupted(INT, where, *words)
    assert (code, printed) == (0, "the program goes on\n"), errors


@pytest.mark.parametrize(
    ("where", "number", "words"),
    [
        ("metrics.py:<module>", TERM, ("evaluation.py",)),
        ("folder.py:read_records", INT, ("evaluation.py",)),
        ("evaluation.py:score_row", TERM, ("evaluation.py",)),
        ("run_analysis.py:analyze_run", HUP, ("evaluation.py",)),
        ("comparison.py:<module>", INT, ("evaluation.py",)),
        ("files.py:write_atomic", INT, ("evaluation.py",)),
        ("html.py:render", INT, ("-m", "report")),
    ],
)
def test_scoring_and_reporting_are_done_again(
    tmp_path: Path, calm: dict[str, bytes], where: str, number: int, words: tuple[str, ...]
) -> None:
    run = in_process("prediction.py", *echo(tmp_path), "--single-process")
    assert run.returncode == 0, run.stderr
    interrupted(number, where, *words, "--input-dir", str(tmp_path / "out/dry"))
    assert finished(tmp_path) == calm


@pytest.mark.parametrize("number", [INT, HUP])
def test_processes_that_compute_end_with_their_command(tmp_path: Path, number: int) -> None:
    words = ("construct", "--lengths", "1k", "--rows", "20", "--num-workers", "2")
    # Of the executor's thread, which begins when a process has just been spawned: it imports.
    interrupted(number, "process.py:run+0.2", "-m", *words, "--output-dir", str(tmp_path / "data"))
