"""Who answers: this process or a Dask cluster, with workers that really die."""

import os
from pathlib import Path

import psutil
import pytest
from support.processes import job

from lveval import utils
from lveval.backends import echo
from lveval.backends.base import Generation, Prompt, Status, Tokens
from lveval.data import dataset
from lveval.execution import dispatch, worker
from lveval.execution.pool import visible_gpus, worker_pool
from lveval.execution.tasks import PreparedRow, Task, make_record

# --- The record -------------------------------------------------------------------------------------------------------


def test_a_record_begins_with_the_published_keys(data_path: Path) -> None:
    task = Task("hotpotwikiqa_mixup", "1k", (3,))
    (record,) = worker.answer_rows(job(data_path, ["hotpotwikiqa_mixup_1k"]), task).records
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
            overlaps.append(worker._generating.locked())
            return super().encode(text, add_special_tokens)

    engine = echo.EchoEngine(0.2)
    engine.tokenizer = WatchingTokenizer()
    work = job(data_path, ["hotpotwikiqa_mixup_1k"])
    monkeypatch.setattr(worker, "_loaded", ((work.backend, work.options), engine))
    tasks = [Task("hotpotwikiqa_mixup", "1k", (index,)) for index in range(5)]
    with worker_pool(single_process=True, count=1) as executor:
        assert len(list(dispatch.run_tasks(executor, work, tasks))) == 5
    assert any(overlaps), "no row was prepared while another one was being answered"
