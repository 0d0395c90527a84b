"""The Batch API against a real server on 127.0.0.1: kills at any point, replies that get lost, batches that fail."""

import signal
from pathlib import Path

from support.openai_batch_parts import calls, tags, until
from support.service import Served, assert_all_right, data, environment, predict, serving, starting

__all__ = ["environment"]  # fixtures


def test_twenty_kills_submit_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL while parts are submitted, looked at and collected; the runs after it go on with what is out."""
    rows, kills = 40, 20
    data(tmp_path, rows)
    small = (
        "--batch",
        "--backend-args",
        "first_wait=0.01,longest_wait=0.05,poll=0.05,batch_mb=0.002",
    )
    with serving("--rate", "0.1", "--latency", "0.02") as served:
        hit = 0
        for number in range(kills):
            before = int(str(served.stats["batch_calls"]))
            with starting(served, tmp_path, *small) as process:
                enough = before + number * 7 % 11
                until(lambda: process.poll() is not None or calls(served) > enough)  # noqa: B023
                hit += process.poll() is None
                process.send_signal(signal.SIGKILL)
        found = predict(served, tmp_path, *small)
        assert found.returncode == 0, found.stderr
        assert_all_right(tmp_path, rows)
        made = tags(served)
        assert hit == kills and len(made) == len(set(made)) > rows / 2
        # Each row went out once, and once more after each reply that failed: no kill made a batch again.
        assert served.asked.total() - rows == served_wrong(served) > 0


def served_wrong(served: Served) -> int:
    kinds = served.stats["served"]
    assert isinstance(kinds, dict)
    return sum(number for kind, number in kinds.items() if kind in ("500", "lost", "malformed"))
