"""The documented commands from data to results, and runs that are killed on the way."""

import random
import signal
import time
from pathlib import Path

import psutil
from conftest import row, script, write_data
from support.end_to_end_parts import predictions
from support.processes import running, wait_for_rows


def test_thirty_kills_later_the_files_are_those_of_a_calm_run(tmp_path: Path) -> None:
    """SIGKILL to the whole run at random times, two workers, each time resumed."""
    for subset in ("factrecall_en", "factrecall_zh"):
        write_data(
            tmp_path / "data", f"{subset}_1k", [row(subset, number) for number in range(1000)]
        )
    command: list[str | Path] = [
        "prediction.py", "--backend", "echo", "--model-name", "dry", "--data-path", tmp_path / "data",
        "--datasets", "factrecall_en", "factrecall_zh", "--lengths", "1k",
    ]  # fmt: skip
    assert script(*command, "--output-dir", tmp_path / "calm", "--single-process").returncode == 0
    killed = [
        *command,
        "--output-dir",
        tmp_path / "killed",
        "--num-workers",
        "2",
        "--backend-args",
        "delay=0.1",
    ]
    folder = tmp_path / "killed/dry"
    generator = random.Random(30)
    progress = [0]
    startup = 0.0  # seconds until a row is recorded, at this time on this machine
    while len(progress) <= 30:
        begin = time.monotonic()
        with running(*killed) as process:
            if len(progress) % 2:  # while it answers; else while it starts, mostly
                wait_for_rows(folder, progress[-1] + 1)
                startup = time.monotonic() - begin
                time.sleep(generator.uniform(0, 0.6) * startup)
            else:
                time.sleep(generator.uniform(0.1, 1.1) * startup)
            assert process.poll() is None, "it ended before it was killed"
            workers = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            assert not psutil.wait_procs(workers, timeout=10)[1], "they end with their run"
        rows = (folder / "rows").glob("*.jsonl")
        progress.append(sum(path.read_bytes().count(b"\n") for path in rows))
    assert progress == sorted(progress), "a recorded row was lost"
    assert len(set(progress)) > 15, "half of the kills come after a row is recorded"
    final = script(*killed[:-2], "--num-workers", "1")
    assert final.returncode == 0, final.stderr
    assert not (folder / "attempts.jsonl").exists()
    assert predictions(folder) == predictions(tmp_path / "calm/dry")
