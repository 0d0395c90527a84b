"""Who answers: this process or a Dask cluster, with workers that really die."""

import json
import logging
import os
import resource
import signal
import time
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import lines, row, script, write_data
from support.processes import ECHO, job, predict, running, wait_for_rows, worker_processes
from support.small_disk import mount, small_disk

from lveval.execution import dispatch
from lveval.execution.pool import worker_pool
from lveval.execution.tasks import Task


def asking(folder: Path, count: int) -> list[str | Path]:
    """A dry run's command over so many rows of one file."""
    rows = [row(number=number) for number in range(count)]
    write_data(folder / "data", "hotpotwikiqa_mixup_1k", rows)
    where = ("--data-path", folder / "data", "--datasets", "hotpotwikiqa_mixup")
    return ["prediction.py", *ECHO, *where]


def test_a_killed_worker_is_replaced_and_its_rows_redone(tmp_path: Path) -> None:
    common = asking(tmp_path, 40)
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


class Deadly:
    """A result that ends the worker which has it, when it is fetched."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        os._exit(1)


def answer_once(begun: Path) -> Deadly:
    if begun.exists():
        os._exit(1)
    begun.touch()
    return Deadly()


def test_a_row_whose_answer_was_lost_and_that_then_kills_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dask = logging.getLogger("distributed.client")
    dask.addHandler(caplog.handler)
    with worker_pool(single_process=False, count=1) as executor:
        future = executor.submit(answer_once, tmp_path / "begun")
        assert wait([future], timeout=60).done
        assert dispatch.worker_died(future)
    dask.removeHandler(caplog.handler)
    assert "gather" not in caplog.text  # what Dask says of it is no user's business


# An engine that dies of rows that say so, or while loading, as long as $SICK names it.
MORTAL = """
import os
from lveval.backends.base import Engine, Generation
from lveval.backends.echo import EchoTokenizer

class Mortal(Engine):
    tokenizer = EchoTokenizer()

    def generate(self, prompts):
        for position, prompt in enumerate(prompts):
            if "DIE" in prompt.text and os.environ.get("SICK"):
                os._exit(9)
            yield position, Generation("1800", "ok")

def settings_fingerprint(options): return {}
def tokenizer(options): return EchoTokenizer()
def load(options):
    if os.environ.get("SICK") == "loading":
        os._exit(137)
    return Mortal()
"""


def mortal(folder: Path, *deadly: int, rows: int) -> tuple[str | Path, ...]:
    """The command of a run under MORTAL, whose `deadly` rows say DIE."""
    (folder / "mortal.py").write_text(MORTAL)
    data = [
        row(number=number, input="DIE" if number in deadly else "Go on") for number in range(rows)
    ]
    write_data(folder / "data", "hotpotwikiqa_mixup_1k", data)
    return (
        "prediction.py", "--backend", folder / "mortal.py", "--model-name", "dry", "--data-path", folder / "data",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--output-dir", folder / "out",
    )  # fmt: skip


def test_rows_that_kill_their_worker_fail_alone_and_are_answered_in_health(tmp_path: Path) -> None:
    """One in five, beside each other: the machine, which answers the others, is not at fault."""
    deadly = (12, 13, 14)
    command = mortal(tmp_path, *deadly, rows=15)
    found = script(*command, "--num-workers", "2", SICK="rows")
    assert found.returncode == 3, found.stderr
    done = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert sorted(int(str(record["index"])) for record in done) == [
        n for n in range(15) if n not in deadly
    ]
    attempts = lines(tmp_path / "out/dry/attempts.jsonl")
    assert sorted((int(str(each["index"])), each["cause"]) for each in attempts) == [
        (index, "worker_died") for index in deadly
    ]
    assert "3 rows have no answer (worker_died: 3)" in found.stderr
    assert "WARNING" not in found.stderr and "Traceback" not in found.stderr
    assert script(*command, "--num-workers", "2").returncode == 0
    assert script(*command[:-1], tmp_path / "calm", "--single-process").returncode == 0
    name = "dry/hotpotwikiqa_mixup_1k.jsonl"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


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


def test_a_disk_that_fills_in_mid_run_loses_nothing_and_no_worker_stays(tmp_path: Path) -> None:
    common = asking(tmp_path, 80)
    assert script(*common, "--output-dir", tmp_path / "calm").returncode == 0
    out = tmp_path / "disk"
    with small_disk(out, "40k") as mounted:
        options = ("--output-dir", out, "--num-workers", "2", "--backend-args", "delay=0.05")
        with running(*common, *options) as process:
            wait_for_rows(out / "dry", 3)
            if not mounted:  # a limit on the size of a file is a disk that fills
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
            children = psutil.Process(process.pid).children(recursive=True)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 6 and "Traceback" not in errors, errors
        assert not psutil.wait_procs(children, timeout=10)[1]
        kept = (out / "dry/rows/hotpotwikiqa_mixup_1k.jsonl").read_bytes().split(b"\n")[:-1]
        assert 3 <= len(kept) < 80
        if mounted:
            assert mount(out, "remount,size=10m")
        resumed = script(*common, "--output-dir", out, "--single-process")
        assert resumed.returncode == 0, resumed.stderr
        name = "dry/hotpotwikiqa_mixup_1k.jsonl"
        assert (out / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
        assert (out / "dry/rows/hotpotwikiqa_mixup_1k.jsonl").read_bytes().split(b"\n")[
            : len(kept)
        ] == kept


def test_workers_that_die_while_loading_end_the_run_resumable(tmp_path: Path) -> None:
    found = script(*mortal(tmp_path, rows=3), SICK="loading")
    assert found.returncode == 3, found.stderr
    assert "died under 3 rows one after another, and while loading the model" in found.stderr
    assert "Traceback" not in found.stderr
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
    common = asking(tmp_path, rows)
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
