"""Who answers: this process or a Dask cluster, with workers that really die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, lines, row, script, write_data

from lveval import config, utils
from lveval.backends import echo
from lveval.backends.base import EngineOptions, Generation, Prompt, Status, Tokens
from lveval.data import dataset
from lveval.execution import dispatch, worker
from lveval.execution.pool import visible_gpus, worker_pool
from lveval.execution.tasks import Job, PreparedRow, Task, make_record
from lveval.execution.worker import _generating, answer_rows

ECHO = ("--backend", "echo", "--model-name", "dry", "--lengths", "1k")


def job(data_path: Path, names: list[str], delay: float = 0.0) -> Job:
    pairs = {name: name.rsplit("_", 1) for name in names}
    files = {
        name: dataset.load_file(subset, level, data_path).fingerprint
        for name, (subset, level) in pairs.items()
    }
    return Job(
        backend="echo",
        options=EngineOptions(None, 500, args={"delay": delay}),
        model_name="dry",
        chat_template="auto",
        templates=config.DATASET_PROMPT,
        budgets=config.DATASET_MAXGEN,
        fingerprints=files,
        data_path=data_path,
    )


def predict(data_path: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return script(
        "prediction.py", *ECHO, "--data-path", data_path, "--output-dir", output, *options
    )


def predict_with(model: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return script(
        "prediction.py", "--model-path", model, "--data-path", folder / "data",
        "--output-dir", folder / "out", "--model-name", "dry", "--datasets", "hotpotwikiqa_mixup",
        "--lengths", "1k", "--trust-remote-code", "--model-max-len", "400", *options,
    )  # fmt: skip


# --- The record -----------------------------------------------------------------------------------


def test_a_record_begins_with_the_published_keys(data_path: Path) -> None:
    task = Task("hotpotwikiqa_mixup", "1k", (3,))
    (record,) = answer_rows(job(data_path, ["hotpotwikiqa_mixup_1k"]), task).records
    assert list(record)[:6] == ["pred", "answers", "gold_ans", "input", "all_classes", "length"]
    assert record["pred"] == "Lighthouse 3 was built in 1803 by Orla Venn."
    assert (record["dataset"], record["level"], record["index"]) == ("hotpotwikiqa_mixup", "1k", 3)
    assert record["gold_ans"] == "1803"
    assert record["confusing_facts"] == ["Lighthouse 1003 was built in 1700."]
    assert record["evidence_kept"] is True


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("1874", "ok", ("1874", "ok", None)),
        ("  ", "ok", ("  ", "empty", None)),
        ("<think>x</think>1874", "ok", ("1874", "ok", "<think>x</think>1874")),
        ("<think>x", "length", ("", "length", "<think>x")),
        ("<think>x</think>", "ok", ("", "empty", "<think>x</think>")),
        ("", "length", ("", "length", None)),
    ],
)
def test_status_and_raw_text_of_a_record(
    data_path: Path, text: str, status: Status, expected: tuple[str, str, str | None]
) -> None:
    item = dataset.load_file("cmrc_mixup", "1k", data_path).row(0)
    prompt = Prompt("p", "p", ["p"], 9)
    prepared = PreparedRow(("cmrc_mixup", "1k", 0), item, utils.PreparedPrompt(prompt, 1, True))
    record = make_record("m", prepared, Generation(text, status))
    assert (record["pred"], record["status"], record.get("raw_pred")) == expected


# --- One path for both pools ----------------------------------------------------------------------


def test_two_workers_equal_one_process_whatever_the_batch(data_path: Path, tmp_path: Path) -> None:
    variants: dict[str, tuple[str, ...]] = {
        "single": ("--single-process",),
        "one": ("--num-workers", "1"),
        "two": ("--num-workers", "2"),
        "batch": ("--num-workers", "2", "--batch-size", "3"),
    }
    seen = {}
    for name, options in variants.items():
        found = predict(
            data_path,
            tmp_path / name,
            "--datasets",
            "hotpotwikiqa_mixup",
            "cmrc_mixup",
            "--lengths",
            "1k",
            "2k",
            *options,
        )
        assert found.returncode == 0, found.stderr
        folder = tmp_path / name / "dry"
        seen[name] = {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}
    assert len(seen["single"]) == 4
    assert all(found == seen["single"] for found in seen.values())


def test_a_worker_gets_its_gpu_and_its_share_of_the_cores() -> None:
    with worker_pool(single_process=False, count=2, gpus=["GPU-a", "3"]) as executor:
        environments = {
            (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"])
            for found in (executor.submit(_environment, n).result() for n in range(20))
        }
    share = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // 2))
    assert environments <= {("GPU-a", share), ("3", share)}


def _environment(number: int) -> dict[str, str]:
    return dict(os.environ)


def test_the_visible_gpus_are_those_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("0,2", ["0", "2"]), ("GPU-1a", ["GPU-1a"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == expected


def test_the_cluster_listens_on_this_machine_only_and_wants_tls() -> None:
    with worker_pool(single_process=False, count=1) as executor:
        executor.submit(os.getpid).result()
        me = psutil.Process()
        connections = [
            connection
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert connections
    assert {connection.laddr.ip for connection in connections} == {"127.0.0.1"}


def test_the_next_row_is_prepared_while_the_model_works(
    data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlaps = []

    class WatchingTokenizer(echo.EchoTokenizer):
        def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
            overlaps.append(_generating.locked())
            return super().encode(text, add_special_tokens)

    engine = echo.EchoBackend(0.2)
    engine.tokenizer = WatchingTokenizer()
    work = job(data_path, ["hotpotwikiqa_mixup_1k"])
    monkeypatch.setattr(worker, "_loaded", ((work.backend, work.options), engine))
    tasks = [Task("hotpotwikiqa_mixup", "1k", (index,)) for index in range(5)]
    with worker_pool(single_process=True, count=1) as executor:
        assert len(list(dispatch.run_tasks(executor, work, tasks))) == 5
    assert any(overlaps), "no row was prepared while another one was being answered"


# --- Workers that die -----------------------------------------------------------------------------


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def worker_processes(parent: int) -> list[psutil.Process]:
    """The spawned Dask worker processes below `parent`."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_rows(folder: Path, count: int, limit: float = 120) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if (
            sum(path.read_bytes().count(b"\n") for path in (folder / "rows").glob("*.jsonl"))
            >= count
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"fewer than {count} rows in {folder} after {limit} s")


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
    found = predict_with(chat_model, tmp_path, "--num-workers", "2")
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
    """Dask would give up a worker that is away for 15 seconds; with it the run would hang."""
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
    found = predict_with(folder, tmp_path)
    assert found.returncode == 3, found.stderr
    assert "died under 3 rows one after another" in found.stderr and "Traceback" not in found.stderr
    assert len(lines(tmp_path / "out/dry/attempts.jsonl")) == 3


def test_where_every_row_fails_the_run_ends_early(chat_model: Path, tmp_path: Path) -> None:
    rows = [row(number=number, input="INDEX") for number in range(30)]
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    found = predict_with(chat_model, tmp_path, "--single-process")
    assert found.returncode == 3, found.stderr
    assert "the first 20 rows all failed (error: 20)" in found.stderr
    assert len(lines(tmp_path / "out/dry/attempts.jsonl")) == 20


def test_an_engine_that_breaks_in_a_single_process_ends_it_resumable(
    chat_model: Path, tmp_path: Path
) -> None:
    rows = [row(number=number) for number in range(6)]
    rows[2]["input"] = "FAULT"
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    for _ in range(2):  # the second time that row comes last
        found = predict_with(chat_model, tmp_path, "--single-process")
        assert found.returncode == 3, found.stderr
        assert (
            "Traceback" not in found.stderr
            and "row 2" in found.stderr
            and "same command again" in found.stderr
        )
    done = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert sorted(int(str(record["index"])) for record in done) == [0, 1, 3, 4, 5]
    attempts = lines(tmp_path / "out/dry/attempts.jsonl")
    assert [(attempt["index"], attempt["cause"]) for attempt in attempts] == [(2, "error")] * 2


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
