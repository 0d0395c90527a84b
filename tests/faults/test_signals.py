"""SIGTERM and SIGHUP end a run as Ctrl-C does: a job's time limit, docker stop, a lost terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, lines, row, script, write_data
from support.processes import running, wait_for_rows
from support.service import (
    Served,
    assert_all_right,
    data,
    environment,
    predict,
    server,
    starting,
    wait_for_requests,
)

__all__ = ["environment", "server"]  # fixtures

ROWS = 60


def echo(folder: Path, *more: str) -> tuple[str, ...]:
    rows = [row(number=number) for number in range(ROWS)]
    write_data(folder / "data", "hotpotwikiqa_mixup_1k", rows)
    words = ["prediction.py", "--backend", "echo", "--model-name", "dry", "--lengths", "1k"]
    words += ["--datasets", "hotpotwikiqa_mixup", "--data-path", str(folder / "data")]
    return (*words, "--output-dir", str(folder / "out"), *more)


def wait_for_first_row(folder: Path) -> None:
    """Wait until the first row is being answered."""
    end = time.monotonic() + 60
    while not (folder / "out/dry/run.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", [("--single-process",), ("--num-workers", "2")])
def test_a_signal_keeps_what_is_in_flight_and_leaves_no_worker(
    tmp_path: Path, number: signal.Signals, where: tuple[str, ...]
) -> None:
    command = echo(tmp_path, *where)
    with running(*command, "--backend-args", "delay=0.3") as process:
        wait_for_rows(tmp_path / "out/dry", 3)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    closing = errors.splitlines()[-1]
    assert f"interrupted by {number.name}: all answers so far are saved" in closing
    assert "Traceback" not in errors and "same command again" in closing
    assert not psutil.wait_procs(children, timeout=10)[1]
    kept = len(lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl"))
    assert 3 < kept < ROWS  # what was handed out came, nothing more was
    resumed = script(*command)
    assert resumed.returncode == 0, resumed.stderr
    records = lines(tmp_path / "out/dry/hotpotwikiqa_mixup_1k.jsonl")
    assert [record["index"] for record in records] == list(range(ROWS))


PROGRAM = """
import sys
from lveval import predict

try:
    predict(backend="echo", model_name="dry", backend_args="delay=0.3", single_process=True,
            datasets=["hotpotwikiqa_mixup"], lengths=["1k"], data_path=sys.argv[1], output_dir=sys.argv[2])
except KeyboardInterrupt:
    print("the program goes on")
"""


def test_a_programs_call_is_interrupted_and_keeps_its_answers(tmp_path: Path) -> None:
    command = echo(tmp_path, "--single-process")
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [str(tmp_path / each) for each in ("program.py", "data", "out")]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *words],
        env=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_rows(tmp_path / "out/dry", 3)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and printed == "the program goes on\n", errors
    assert "interrupted: all answers so far are saved" in errors and "Traceback" not in errors
    assert 3 <= len(lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")) < ROWS
    resumed = script(*command, "--backend-args", "delay=0")
    assert resumed.returncode == 0, resumed.stderr


def test_a_row_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    with running(*echo(tmp_path, "--single-process"), "--backend-args", "delay=60") as process:
        wait_for_first_row(tmp_path)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143 and "interrupted by SIGTERM: " in errors, errors


def test_requests_in_flight_are_answered_and_recorded(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 200)
    server.control(latency=0.5)
    with starting(server, tmp_path) as process:
        wait_for_requests(server, 20, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143 and "interrupted by SIGTERM: " in errors, errors
    assert predict(server, tmp_path, "--concurrency", "32").returncode == 0
    assert_all_right(tmp_path, 200)
    assert not [key for key, times in server.asked.items() if times > 1]  # none was lost


def test_a_second_signal_ends_at_once_and_nohup_keeps_its_meaning(tmp_path: Path) -> None:
    with running(*echo(tmp_path, "--single-process"), "--backend-args", "delay=60") as process:
        wait_for_first_row(tmp_path)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=4)
    assert process.returncode == 143
    code = (
        "import signal\nfrom lveval.common import interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\ninterrupts.listen()\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# A signal to this process, where Python makes another exception of what it raises, or has begun to end.
SIGNAL = "os.kill(os.getpid(), signal.SIGTERM)"
IN_A_CLASS = (
    f"type('Owner', (), dict(field=type('F', (), dict(__set_name__=lambda *_: {SIGNAL}))()))"
)


@pytest.mark.parametrize(
    ("main", "ended"),
    [
        (SIGNAL, (143, "interrupted by SIGTERM\n")),
        (IN_A_CLASS, (143, "interrupted by SIGTERM\n")),
        (f"atexit.register(lambda: {SIGNAL}) and 0", (0, "")),
    ],
)
def test_a_signal_outside_of_a_run_is_one_line(main: str, ended: tuple[int, str]) -> None:
    code = f"import atexit, os, signal\nfrom lveval.common.errors import run_cli\nrun_cli(lambda: {main})\n"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr, found.stdout) == (*ended, "")


def test_little_is_imported_before_a_signal_is_a_line() -> None:
    """What comes first cannot be guarded: Python's own start, and this."""
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom lveval.common import interrupts\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
    )
    found = script("-c", code).stdout.split()
    assert "lveval" in found and not {"typing", "re", "multiprocessing", "importlib"} & {*found}
