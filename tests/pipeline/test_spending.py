"""Money and hours: a run ends before it is too much, its rows spread evenly, and goes on where it ended."""

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from conftest import in_process, lines
from support.service import FILE, NAME, Served, data, environment, predict, server, serving

from lveval import config
from lveval.execution.cost import CostTracker
from lveval.execution.tasks import Task

__all__ = ["environment", "server"]  # fixtures

SELECTION = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", "1k", "2k")
PRICES = ("--price-in", "1000", "--price-out", "1000")  # a tenth of a cent a token


def echo(data_path: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return in_process(
        "prediction.py", "--backend", "echo", "--model-name", "dry", "--data-path", data_path, "--output-dir", output,
        *SELECTION, *options,
    )  # fmt: skip


def cost(records: list[dict[str, object]]) -> float:
    used = 0
    for record in records:
        usage = record["usage"]
        assert isinstance(usage, dict)
        used += int(usage.get("prompt_tokens", record["prompt_tokens"])) + int(
            usage["completion_tokens"]
        )
    return used / 1000


def rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    return {path.stem: lines(path) for path in sorted((folder / "rows").glob("*.jsonl"))}


def test_a_run_ends_before_it_costs_more_and_its_rows_are_spread(
    data_path: Path, tmp_path: Path
) -> None:
    whole = echo(data_path, tmp_path / "whole", "--single-process", *PRICES)
    assert whole.returncode == 0 and "USD so far: " in whole.stderr, whole.stderr
    all_of_it = sum(cost(records) for records in rows(tmp_path / "whole/dry").values())
    limit = 0.6 * all_of_it
    ended = echo(
        data_path,
        tmp_path / "out",
        "--single-process",
        "--model-max-len",
        "300",
        *PRICES,
        "--max-cost",
        f"{limit}",
    )
    assert ended.returncode == 3 and "might not pay for another row" in ended.stderr, ended.stderr
    assert "context_overflow" not in ended.stderr and "again to go on" in ended.stderr
    found = rows(tmp_path / "out/dry")
    numbers = [len(records) for records in found.values()]
    assert len(numbers) == 4 and max(numbers) - min(numbers) <= 1 and 0 < sum(numbers) < 20
    spent = sum(map(cost, found.values()))
    assert 0.3 * limit < spent <= limit
    used = json.loads((tmp_path / "out/dry/run.json").read_text())["log"][-1]["used"]
    assert used["usd"] == pytest.approx(spent)
    # What earlier starts spent counts: without more to spend nothing more is answered.
    again = echo(
        data_path,
        tmp_path / "out",
        "--single-process",
        "--model-max-len",
        "300",
        *PRICES,
        "--max-cost",
        f"{spent}",
    )
    assert again.returncode == 3 and "again to go on, with more to spend" in again.stderr
    assert [len(records) for records in rows(tmp_path / "out/dry").values()] == numbers


def test_a_run_that_ended_goes_on_to_the_same_bytes(data_path: Path, tmp_path: Path) -> None:
    assert echo(data_path, tmp_path / "whole", "--single-process").returncode == 0
    ended = echo(
        data_path,
        tmp_path / "out",
        "--single-process",
        "--backend-args",
        "delay=0.5",
        "--max-hours",
        "0.001",
    )
    assert ended.returncode == 3 and "--max-hours 0.001 are over" in ended.stderr, ended.stderr
    assert (
        0 < sum(map(len, rows(tmp_path / "out/dry").values())) < 20
        and "with more to spend" not in ended.stderr
    )
    assert echo(data_path, tmp_path / "out", "--single-process").returncode == 0
    for path in (tmp_path / "whole/dry").glob("*.jsonl"):
        assert (tmp_path / "out/dry" / path.name).read_bytes() == path.read_bytes()


def test_a_service_is_paid_by_what_it_counted(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 40)
    limit = 5.0  # a row is 144 + 8 tokens there
    ended = predict(server, tmp_path, *PRICES, "--max-cost", f"{limit}", "--model-max-len", "300")
    assert ended.returncode == 3 and "might not pay" in ended.stderr, ended.stderr
    answered = lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")
    assert server.asked.total() == len(answered)
    assert (
        0.5 * limit < cost(answered) <= limit
    )  # the eight that are out together are kept for with a margin
    finished = predict(server, tmp_path, *PRICES, "--max-cost", "100", "--model-max-len", "300")
    assert (
        finished.returncode == 0
        and "spent 6.08 USD so far: 5,760 prompt tokens, 320 answer tokens" in finished.stderr
    )


def test_a_batch_costs_less_and_is_not_submitted_beyond_the_limit(tmp_path: Path) -> None:
    data(tmp_path, 40)
    with serving() as served:
        waits = ("--batch", "--backend-args", "first_wait=0.01,longest_wait=0.05,poll=0.05")
        ended = predict(
            served, tmp_path, *waits, *PRICES, "--max-cost", "2", "--model-max-len", "300"
        )
        assert ended.returncode == 3 and "might not pay" in ended.stderr, ended.stderr
        tokens = int(
            str(lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")[0]["prompt_tokens"])
        )
        assert served.asked.total() == int(2 / (1.2 * (tokens + 64) * 0.0005)) > 10


def test_what_is_out_is_kept_for(tmp_path: Path) -> None:
    allowed = CostTracker(1000, 1000, 1.0, None, 200, config.DATASET_MAXGEN)
    tasks = [Task("hotpotwikiqa_mixup", "1k", (index,)) for index in range(9)]
    taken = [
        task.indices[0] for task in itertools.takewhile(allowed.reserve, tasks)
    ]  # 1.2 times 264 tokens each
    assert taken == [0, 1, 2] and "might not pay" in allowed.stop_reason
    assert not allowed.reserve(tasks[3], 1)  # what has ended stays so
    known = CostTracker(1000, 1000, 1.0, None, 200, config.DATASET_MAXGEN)
    assert (
        all(known.reserve(task, 50) for task in tasks[:7]) and known.cost == 0
    )  # 1.2 times 114 tokens each
    known.release("hotpotwikiqa_mixup", "1k", 1)  # it failed: what was kept for it is free again
    assert known.reserve(tasks[7], 50) and not known.reserve(tasks[8], 50)


def test_what_answers_cost_more_than_they_should_is_learned() -> None:
    """Hidden reasoning, and a service whose tokenizer makes more of a prompt than ours."""
    spending = CostTracker(1000, 1000, 1.0, None, 200, config.DATASET_MAXGEN)
    task = Task("hotpotwikiqa_mixup", "1k", (1,))
    assert spending._estimate(task, 100) == pytest.approx(1.2 * (100 + 64) / 1000)
    record = {
        "dataset": task.subset,
        "level": "1k",
        "index": 0,
        "status": "ok",
        "prompt_tokens": 100,
        "prompt_tokens_full": 100,
    }
    spending.charge({**record, "usage": {"prompt_tokens": 150, "completion_tokens": 500}})  # type: ignore[typeddict-item]
    assert spending._estimate(task, 100) == pytest.approx(1.2 * (150 + 500) / 1000)
    assert spending._estimate(task, None) == spending._estimate(task, 100)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--max-cost", "5"), "--max-cost: found no price"),
        (
            ("--max-cost", "5", "--price-in", "2"),
            "--max-cost: found no price; expected --price-in and --price-out",
        ),
        (
            ("--max-hours", "5", "--backend", "openai", "--batch"),
            "--max-hours: a batch takes up to a day",
        ),
        (("--max-cost", "-1", *PRICES), "--max-cost: found -1.0, expected a number from 0"),
        (("--max-hours", "nan"), "--max-hours: found nan"),
        (
            (
                "--backend",
                "openai",
                "--max-cost",
                "5",
                *PRICES,
                "--request-args",
                '{"max_completion_tokens": null}',
            ),
            "--max-cost: --request-args drops the answers' budget",
        ),
    ],
)
def test_a_limit_that_says_nothing_is_refused(
    data_path: Path, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    found = echo(data_path, tmp_path / "out", *options)
    assert found.returncode == 2 and complaint in found.stderr and "Traceback" not in found.stderr
