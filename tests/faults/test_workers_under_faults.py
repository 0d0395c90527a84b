"""Who answers: this process or a Dask cluster, with workers that really die."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import lines, row, script, write_data
from support.processes import ECHO, job, predict, running, wait_for_rows, worker_processes

from lveval.execution import dispatch
from lveval.execution.pool import worker_pool
from lveval.execution.tasks import Task


def test_a_killed_worker_is_replaced_and_its_rows_redone(tmp_path: Path) -> None:
    write_data(
        tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(40)]
    )
    common = (
        "prediction.py",
        *ECHO,
        "--data-path",
        tmp_path / "data",
        "--datasets",
        "hotpotwikiqa_mixup",
    )
    options = ("--num-workers", "2", "--backend-args", "delay=0.1")
    assert script(*common, "--output-dir", tmp_path / "calm").returncode == 0
    with running(*common, "--output-dir", tmp_path / "killed", *options) as process:
        wait_for_rows(tmp_path / "killed" / "dry", 4)
        victim = worker_processes(process.pid)[0]
        victim.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    name = "hotpotwikiqa_mixup_1k.jsonl"
    assert (tmp_path / "killed/dry" / name).read_bytes() == (
        tmp_path / "calm/dry" / name
    ).read_bytes()
    assert not (tmp_path / "killed/dry/attempts.jsonl").exists()


def test_a_row_that_kills_its_worker_fails_alone(chat_model: Path, tmp_path: Path) -> None:
    rows = [row(number=number) for number in range(6)]
    rows[2]["input"] = "DIE"
    rows[4]["input"] = "OUT OF MEMORY"
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    options = (
        "--num-workers",
        "2",
        "--trust-remote-code",
        "--model-max-len",
        "400",
        "--model-path",
        str(chat_model),
    )
    found = script(
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", *options,
    )  # fmt: skip
    assert found.returncode == 3, found.stderr
    done = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert sorted(int(str(record["index"])) for record in done) == [0, 1, 3, 5]
    assert {record["pred"] for record in done} == {"budget 64"}
    attempts = {
        attempt["index"]: attempt["cause"] for attempt in lines(tmp_path / "out/dry/attempts.jsonl")
    }
    assert attempts == {2: "worker_died", 4: "error"}
    assert "2 rows have no answer" in found.stderr
    assert found.stdout.strip().endswith("out/dry")


def test_a_worker_that_hangs_is_replaced_and_its_row_left_open(tmp_path: Path) -> None:
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", [row()])
    options = ("--datasets", "hotpotwikiqa_mixup")
    limit = ("--row-hours", "0.001")  # 3.6 seconds
    hung = predict(
        tmp_path / "data", tmp_path / "out", *options, *limit, "--backend-args", "delay=3000"
    )
    assert hung.returncode == 3 and "worker_died: 1" in hung.stderr, hung.stderr
    assert "in generate" in hung.stderr  # where it hung
    done = predict(tmp_path / "data", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    refused = predict(tmp_path / "data", tmp_path / "out", "--row-hours", "0")
    assert refused.returncode == 2 and "--row-hours: found 0.0" in refused.stderr


def test_the_watch_begins_anew_with_each_row(data_path: Path) -> None:
    """These rows take longer together than one may."""
    one = replace(job(data_path, ["hotpotwikiqa_mixup_1k"], delay=0.5), row_hours=5 / 3600)
    tasks = [Task("hotpotwikiqa_mixup", "1k", (number % 5,)) for number in range(14)]
    with worker_pool(single_process=False, count=1) as executor:
        results = list(dispatch.run_tasks(executor, one, tasks))
        assert len(results) == 14 and not any(result.attempts for result in results)
        (worker,) = {process.pid for process in worker_processes(os.getpid())}
        time.sleep(5.5)  # with nothing to do there is nothing to watch
        assert {process.pid for process in worker_processes(os.getpid())} == {worker}


def test_a_worker_may_die_again_before_it_is_back() -> None:
    """Dask would give a worker up that is not there 15 seconds after a loss; with it the run would hang."""
    with worker_pool(single_process=False, count=1) as executor:
        began = time.monotonic()
        while time.monotonic() - began < 17:
            for process in worker_processes(os.getpid()):
                process.kill()
            time.sleep(0.5)
        assert executor.submit(os.getpid).result(timeout=60) != os.getpid()


def test_workers_that_die_while_loading_end_the_run_resumable(
    chat_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(chat_model, tmp_path / "deadly"))
    code = (folder / "modeling_tiny.py").read_text()
    (folder / "modeling_tiny.py").write_text(
        code + "\n    def __init__(self, *_, **__):\n        os._exit(137)\n"
    )
    write_data(
        tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(9)]
    )
    found = script(
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--trust-remote-code", "--model-max-len", "400",
        "--model-path", folder,
    )  # fmt: skip
    assert found.returncode == 3, found.stderr
    assert "died under 3 rows one after another" in found.stderr and "Traceback" not in found.stderr
    assert len(lines(tmp_path / "out/dry/attempts.jsonl")) == 3


def test_ctrl_c_does_not_wait_for_a_row_that_takes_long(tmp_path: Path) -> None:
    write_data(
        tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(3)]
    )
    options = (
        "--datasets",
        "hotpotwikiqa_mixup",
        "--single-process",
        "--backend-args",
        "delay=900",
    )
    with running(
        "prediction.py",
        *ECHO,
        "--data-path",
        tmp_path / "data",
        "--output-dir",
        tmp_path / "out",
        *options,
    ) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "out/dry/run.json").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1)  # the first row is being answered now
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and "same command again" in errors, errors


@pytest.mark.parametrize(
    ("rows", "delay"),
    [
        (60, "0.2"),
        (3000, "0.005"),  # answers arrive all the time, while the pool closes too
    ],
)
def test_ctrl_c_saves_what_there_is_and_says_how_to_go_on(
    tmp_path: Path, rows: int, delay: str
) -> None:
    write_data(
        tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(rows)]
    )
    common = (
        "prediction.py",
        *ECHO,
        "--data-path",
        tmp_path / "data",
        "--datasets",
        "hotpotwikiqa_mixup",
    )
    with running(
        *common,
        "--output-dir",
        tmp_path / "out",
        "--num-workers",
        "2",
        "--backend-args",
        f"delay={delay}",
    ) as process:
        wait_for_rows(tmp_path / "out/dry", 3)
        children = psutil.Process(process.pid).children(recursive=True)
        for target in (process.pid, *(child.pid for child in worker_processes(process.pid))):
            os.kill(target, signal.SIGINT)  # a terminal sends it to the whole group
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
    assert (
        "Traceback" not in errors and "interrupted: " in errors and "same command again" in errors
    )
    assert not psutil.wait_procs(children, timeout=10)[1]
    resumed = script(*common, "--output-dir", tmp_path / "out", "--single-process")
    assert resumed.returncode == 0, resumed.stderr
    records = lines(tmp_path / "out/dry/hotpotwikiqa_mixup_1k.jsonl")
    assert [record["index"] for record in records] == list(range(rows))
    manifest = json.loads((tmp_path / "out/dry/run.json").read_text())
    assert manifest["log"][-1]["rows_left"] == 0
