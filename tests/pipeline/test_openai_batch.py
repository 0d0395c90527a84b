"""The Batch API against a real server on 127.0.0.1: kills at any point, replies that get lost, batches that fail."""

import json
import re
import signal
from pathlib import Path

import pytest
from conftest import lines
from support.openai_batch_parts import calls, tags, until
from support.service import (
    FILE,
    NAME,
    Ended,
    Served,
    assert_all_right,
    attempts,
    data,
    environment,
    predict,
    server,
    serving,
    starting,
)

from lveval.backends.openai import batch
from lveval.common.errors import ServiceError

__all__ = ["environment", "server"]  # fixtures

BATCH = ("--batch", "--backend-args", "first_wait=0.01,longest_wait=0.05,poll=0.05,batch_mb=0.02")


def batched(served: Served, folder: Path, *options: str) -> Ended:
    return predict(served, folder, *BATCH, *options)


def parts(folder: Path) -> list[dict[str, object]]:
    return [
        json.loads(path.read_text()) for path in (folder / "out" / NAME / "batches").glob("*.json")
    ]


def test_rows_are_answered_in_parts_within_the_limits(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 60)
    server.control(batch_delay=0.3)
    found = batched(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 60)
    assert len(tags(server)) == len(set(tags(server))) > 2
    assert (
        "batch batch-0: in_progress" in found.stderr and "batch batch-0: completed" in found.stderr
    )
    assert all(part["collected"] for part in parts(tmp_path))
    assert not list((tmp_path / "out" / NAME / "batches").glob("*.jsonl"))
    online = predict(server, tmp_path)  # the same run, not another
    assert online.returncode == 0, online.stderr


def test_what_failed_is_sent_again_and_nothing_else(tmp_path: Path) -> None:
    data(tmp_path, 80)
    with serving("--rate", "0.2", "--seed", "5") as served:
        served.control(batch_fates=["completed", "expired"])
        found = batched(served, tmp_path)
        assert found.returncode == 0, found.stderr
        assert_all_right(tmp_path, 80)
        assert served.asked.total() == 80 + len(attempts(tmp_path)) > 85
    assert {attempt["cause"] for attempt in attempts(tmp_path)} == {"transient"}


def test_a_full_queue_is_waited_for_and_another_refusal_is_told(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 40)
    server.control(
        batch_fates=["completed", "failed:token_limit_exceeded", "failed:token_limit_exceeded"]
    )
    found = batched(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 40)
    data(tmp_path / "b", 4)
    server.control(batch_fates=["failed:invalid_url"])
    refused = batched(server, tmp_path / "b")
    assert refused.returncode == 5 and "invalid_url: refused" in refused.stderr, refused.stderr
    assert batched(server, tmp_path / "b").returncode == 0
    assert_all_right(tmp_path / "b", 4)


def test_a_lost_reply_makes_no_second_batch(server: Served, tmp_path: Path) -> None:
    """The batch is made and the connection breaks before its id arrives."""
    data(tmp_path, 4)
    server.control(batch_script=["ok", "lost-reply"])
    found = batched(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 4)
    assert len(tags(server)) == 1 and server.asked.total() == 4


def test_an_online_run_waits_for_the_batches_that_are_out(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 4)
    server.control(batch_delay=60)
    with starting(server, tmp_path, *BATCH) as process:
        until(lambda: len(tags(server)) == 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    online = predict(server, tmp_path)
    assert online.returncode == 2 and "the same command with --batch" in online.stderr


def submit_and_interrupt(served: Served, folder: Path, *options: str) -> None:
    """Batches are out then, which are over from then on."""
    served.control(batch_delay=3600)
    with starting(served, folder, *BATCH, *options) as process:
        until(lambda: parts(folder) and all(part["batch_id"] for part in parts(folder)))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    served.control(finish_batches=True)


def test_a_plan_leaves_out_what_batches_answer(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 6)
    submit_and_interrupt(server, tmp_path, "--limit", "4")
    plan = predict(server, tmp_path, "--plan")
    assert plan.returncode == 0, plan.stderr
    assert "4 rows are out in batches and count as answered" in plan.stderr
    assert re.search(r"^all +all +2 ", plan.stderr, re.M)
    assert batched(server, tmp_path).returncode == 0
    assert "6 rows are answered already" in predict(server, tmp_path, "--plan").stderr


def test_what_never_reached_the_service_is_not_out(server: Served, tmp_path: Path) -> None:
    """Interrupted before the upload: whatever command comes next, each row goes out once."""
    data(tmp_path, 6)
    server.control(batch_script=["silent"])
    with starting(server, tmp_path, *BATCH) as process:
        until(lambda: calls(server))
        process.send_signal(signal.SIGKILL)
    assert [part["file_id"] for part in parts(tmp_path)] == [""]
    fewer = batched(
        server, tmp_path, "--limit", "2", "--price-in", "1", "--price-out", "1", "--max-cost", "0"
    )
    assert fewer.returncode == 3 and not server.asked and not parts(tmp_path), fewer.stderr
    assert predict(server, tmp_path, "--limit", "3").returncode == 0
    assert batched(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 6)
    assert server.asked.total() == 6


def test_a_queue_that_stays_full_ends_the_run_and_lets_the_parts_be_smaller(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 6)
    server.control(batch_fates=["failed:token_limit_exceeded"] * 50)
    full = batched(server, tmp_path)
    assert full.returncode == 3 and "the account's queue of batches has no room" in full.stderr, (
        full.stderr
    )
    server.control(batch_fates=[])
    before = len(tags(server))
    assert predict(server, tmp_path, *BATCH[:-1], f"{BATCH[-1]},batch_mb=0.001").returncode == 0
    assert_all_right(tmp_path, 6)
    assert len(tags(server)) - before == 6 == server.asked.total()


@pytest.mark.parametrize("kind", ["html-200", "malformed", "empty-200", "list-200", "error-200"])
def test_what_is_no_reply_of_the_batch_api_is_asked_again(
    server: Served, tmp_path: Path, kind: str
) -> None:
    """At each of its calls: a file made, a lost batch looked for, a batch made, looked at, its answers read."""
    data(tmp_path, 3)
    server.control(batch_script=[kind, "ok", "lost-reply", kind, "ok", kind])
    found = batched(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 3)
    assert len(tags(server)) == 1 and server.asked.total() == 3


def test_rows_that_are_out_must_stay_selected(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 4)
    submit_and_interrupt(server, tmp_path)
    fewer = batched(server, tmp_path, "--limit", "2")
    assert fewer.returncode == 2 and "rows that are not selected now, such as" in fewer.stderr, (
        fewer.stderr
    )
    assert batched(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 4)
    assert server.asked.total() == 4 and batched(server, tmp_path, "--limit", "2").returncode == 0


def test_rows_that_are_out_are_collected_whatever_is_left_to_spend(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 8)
    submit_and_interrupt(server, tmp_path, "--limit", "5")
    poor = batched(server, tmp_path, "--price-in", "1", "--price-out", "1", "--max-cost", "0")
    assert poor.returncode == 3 and "3 rows have no answer yet" in poor.stderr, poor.stderr
    assert (
        len(lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")) == 5 == server.asked.total()
    )
    assert batched(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 8)
    assert server.asked.total() == 8


def test_a_cancelled_batch_is_not_sent_again_unasked(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 12)
    server.control(batch_fates=["cancelled"])
    found = batched(server, tmp_path)
    assert (
        found.returncode == 3
        and "batch-0 was cancelled; run the same command again" in found.stderr
    ), found.stderr
    saved = lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")
    assert 0 < len(saved) < 12 == server.asked.total()
    assert batched(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 12)
    assert server.asked.total() == 24 - len(saved)


def test_a_batch_of_another_model_is_not_taken(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 4)
    server.control(batch_model="cheaper-1")
    found = batched(server, tmp_path)
    assert found.returncode == 5 and 'is of the model "cheaper-1"' in found.stderr, found.stderr
    assert server.asked.total() == 4 and not (tmp_path / "out" / NAME / "rows").exists()


def test_a_batch_that_the_service_has_lost_is_named(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 4)
    submit_and_interrupt(server, tmp_path)
    server.control(forget_batches=True)
    found = batched(server, tmp_path)
    (part,) = (tmp_path / "out" / NAME / "batches").glob("*.json")
    assert found.returncode == 5 and f"has lost batch batch-0, remove {part}" in found.stderr, (
        found.stderr
    )
    part.unlink()
    assert batched(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 4)


def test_a_damaged_part_is_told(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    folder = tmp_path / "out" / NAME / "batches"
    folder.mkdir(parents=True)
    whole: dict[str, object] = {
        "name": "x",
        "tag": "t",
        "keys": [f"{FILE.removesuffix('_1k')}/1k/0"],
    }
    wrong: dict[str, list[object]] = {
        "keys": [3, ["0"], [["a/b/0"]], ["a/b/c"]],
        "name": ["y", ["x"]],
        "file_id": [1],
        "more": [1],
    }
    changed = [whole | {field: value} for field, values in wrong.items() for value in values]
    for text in ("{}", "[" * 10**5, *map(json.dumps, changed)):
        (folder / "x.json").write_text(text)
        found = batched(server, tmp_path)
        assert found.returncode == 6 and "x.json: found no part of a batch" in found.stderr, text
    with pytest.raises(FileNotFoundError):
        lines(tmp_path / "out" / NAME / f"{FILE}.jsonl")


@pytest.mark.parametrize(
    "reply",
    [
        "no JSON",
        "[]",
        "3",
        "[" * 10**5,
        "{}",
        '{"custom_id": "a/1k/0", "response": "x"}',
        '{"custom_id": "a/1k/0", "error": "x"}',
    ],
)
def test_a_line_of_a_batch_that_is_no_reply_ends_the_run_in_a_sentence(reply: str) -> None:
    engine = batch.BatchEngine.__new__(batch.BatchEngine)  # no service is asked
    with pytest.raises(ServiceError, match="holds no reply"):
        engine._read_line(reply.encode(), {})


def test_a_batch_key_that_is_no_text_is_the_key_of_no_row() -> None:
    engine = batch.BatchEngine.__new__(batch.BatchEngine)
    assert hash(engine._read_line(b'{"custom_id": ["a"], "error": {"code": 1}}', {})[0])
