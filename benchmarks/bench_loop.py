"""What the harness adds around the model: two workers, an echo that takes half a second a row.

    python benchmarks/bench_loop.py

From the first stored row of 16k contexts to the last one, against rows x delay / workers. Then the
peak memory of the coordinator and of a worker over 256k-level files of 200 rows.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from figures import construct, predict, report, report_ratio, time_rows

WORKERS = 2
DELAY = 0.5
LOOP_GOAL = 1.02
MEMORY_GOAL_MB = 1500


def echo_run(
    folder: Path, level: str, rows: int, subsets: list[str], *options: str
) -> subprocess.Popen[bytes]:
    """Build data and start a run over it."""
    selection = ["--datasets", *subsets, "--lengths", level]
    construct(folder / "data", "--rows", rows, *selection)
    echo = ["--backend", "echo", "--model-name", "echo", "--num-workers", str(WORKERS)]
    return predict(folder, *echo, *selection, *options)


def loop(folder: Path, rows: int) -> bool:
    """Wall time between the first and the last row on disk."""
    delay = ["--backend-args", f"delay={DELAY}"]
    process = echo_run(folder, "16k", rows, ["hotpotwikiqa_mixup"], *delay)
    path = folder / "out/echo/rows/hotpotwikiqa_mixup_16k.jsonl"
    seconds, timed = time_rows(process, path)
    name = f"{timed} rows of 16k, echo {DELAY} s a row, {WORKERS} workers / rows x delay / workers"
    return report_ratio(name, seconds, timed * DELAY / WORKERS, LOOP_GOAL)


def memory(folder: Path, rows: int) -> bool:
    """Peak resident memory of coordinator and largest worker, mapped pages of the data included."""
    process = echo_run(folder, "256k", rows, ["factrecall_en", "cmrc_mixup"])
    me = psutil.Process(process.pid)
    coordinator = worker = 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            coordinator = max(coordinator, me.memory_info().rss / 1e6)
            children = [child.memory_info().rss / 1e6 for child in me.children(recursive=True)]
            worker = max(worker, *children, 0.0)
        time.sleep(0.05)
    assert process.returncode == 0
    manifest = json.loads((folder / "out/echo/run.json").read_text())
    assert set(manifest["selection"].values()) == {rows}
    met = True
    for name, peak in {"coordinator": coordinator, "worker": worker}.items():
        title = f"peak memory of the {name}, two files of {rows} rows of 256k"
        met &= report(title, f"{peak:.0f} MB", f"< {MEMORY_GOAL_MB} MB", peak < MEMORY_GOAL_MB)
    return met


def main() -> int:
    """Measure and print; 0 if all goals are met."""
    parser = argparse.ArgumentParser(description="Time the loop around the model, and its memory.")
    parser.add_argument("--rows", type=int, default=60, help="rows of the timed run (60)")
    parser.add_argument("--memory-rows", type=int, default=200, help="rows a 256k file (200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as timed, tempfile.TemporaryDirectory() as large:
        met = [loop(Path(timed), options.rows), memory(Path(large), options.memory_rows)]
    return not all(met)


if __name__ == "__main__":
    sys.exit(main())
