"""What the harness adds around the model: two workers, an echo that takes half a second a row, 16k contexts.

    python benchmarks/bench_loop.py

From the first stored row to the last one, against rows x delay / workers. Then the peak memory of the coordinator and
of a worker over 256k-level files of 200 rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from figures import CONSTRUCT, ROOT, report

WORKERS = 2
DELAY = 0.5
LOOP_GOAL = 1.02
MEMORY_GOAL_MB = 1500


def build(folder: Path, level: str, rows: int, subsets: tuple[str, ...]) -> None:
    """Data of one level."""
    command = [*CONSTRUCT, "--output-dir", str(folder), "--rows", str(rows)]
    subprocess.run(
        [*command, "--datasets", *subsets, "--lengths", level],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def predict(
    data: Path, output: Path, level: str, subsets: tuple[str, ...], *options: str
) -> list[str]:
    """The command of an echo run."""
    command = [
        sys.executable,
        str(ROOT / "prediction.py"),
        "--backend",
        "echo",
        "--model-name",
        "echo",
    ]
    command += [
        "--data-path",
        str(data),
        "--output-dir",
        str(output),
        "--num-workers",
        str(WORKERS),
    ]
    return [*command, "--datasets", *subsets, "--lengths", level, *options]


def loop(folder: Path, rows: int) -> bool:
    """Wall time between the first and the last row on disk, as seen by watching the row file grow."""
    subsets, level = ("hotpotwikiqa_mixup",), "16k"
    build(folder / "data", level, rows, subsets)
    command = predict(
        folder / "data", folder / "out", level, subsets, "--backend-args", f"delay={DELAY}"
    )
    path = folder / "out/echo/rows/hotpotwikiqa_mixup_16k.jsonl"
    first = last = 0.0
    seen = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        size = path.stat().st_size if path.exists() else 0
        if size > seen:
            seen, last = size, time.perf_counter()
            first = first or last
        time.sleep(0.002)
    assert process.returncode == 0
    assert path.read_bytes().count(b"\n") == rows
    # Each worker's first answer falls into the first moment: what is timed are the rows after them.
    expected = (rows - WORKERS) * DELAY / WORKERS
    ratio = (last - first) / expected
    name = f"{rows} rows of 16k, echo {DELAY} s a row, {WORKERS} workers / rows x delay / workers"
    return report(
        name,
        f"{ratio:.4f} ({last - first:.2f} s / {expected:.2f} s)",
        f"<= {LOOP_GOAL}",
        ratio <= LOOP_GOAL,
    )


def memory(folder: Path, rows: int) -> bool:
    """Peak resident memory of the coordinator and the largest worker, the mapped pages of the data included."""
    subsets, level = ("factrecall_en", "cmrc_mixup"), "256k"
    build(folder / "data", level, rows, subsets)
    command = predict(folder / "data", folder / "out", level, subsets)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks = {"coordinator": 0.0, "worker": 0.0}
    stop = threading.Event()

    def watch() -> None:
        me = psutil.Process(process.pid)
        while not stop.wait(0.05):
            try:
                peaks["coordinator"] = max(peaks["coordinator"], me.memory_info().rss / 1e6)
                for child in me.children(recursive=True):
                    peaks["worker"] = max(peaks["worker"], child.memory_info().rss / 1e6)
            except psutil.Error:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    stop.set()
    watcher.join()
    assert process.returncode == 0
    manifest = json.loads((folder / "out/echo/run.json").read_text())
    assert set(manifest["selection"].values()) == {rows}
    met = True
    for name, peak in peaks.items():
        title = f"peak memory of the {name}, two files of {rows} rows of 256k"
        met &= report(title, f"{peak:.0f} MB", f"< {MEMORY_GOAL_MB} MB", peak < MEMORY_GOAL_MB)
    return met


def main() -> int:
    """Measure and print; 0 if all goals are met."""
    parser = argparse.ArgumentParser(
        description="Time the loop around the model and measure its memory."
    )
    parser.add_argument("--rows", type=int, default=60, help="rows of the timed run (60)")
    parser.add_argument(
        "--memory-rows", type=int, default=200, help="rows of each 256k-level file (200)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as timed, tempfile.TemporaryDirectory() as large:
        met = [loop(Path(timed), options.rows), memory(Path(large), options.memory_rows)]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
