"""How fast lveval construct builds, and what the full size (8,645 rows, about 4 GB) would take.

    python benchmarks/bench_lveval construct

Builds a few rows of all 55 files (about 200 MB, deleted afterwards) and prints one line a figure: name, figure, goal.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import CONSTRUCT, ROOT, report

from lveval import config

GOAL_MINUTES = 20  # for the full size, on two cores


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure lveval construct.")
    parser.add_argument(
        "--rows", type=int, default=8, help="rows of each of the 55 files (default: 8)"
    )
    parser.add_argument("--num-workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--sources",
        default=str(ROOT / "lveval/construct/samples"),
        help="folder of sources (default: samples)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [*CONSTRUCT, "--output-dir", folder, "--sources", options.sources]
        command += ["--lengths", "16k,32k,64k,128k,256k", "--datasets", *config.DATASET_ROWS]
        command += ["--rows", str(options.rows), "--num-workers", str(options.num_workers)]
        begin = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        sizes = {path.name: path.stat().st_size for path in Path(folder).glob("*/*.jsonl")}
    # A file grows with its rows; the start of the processes and their articles is counted as if it grew, too.
    full = sum(
        size / options.rows * config.DATASET_ROWS[name.rpartition("_")[0]]
        for name, size in sizes.items()
    )
    rate = sum(sizes.values()) / seconds
    goal = full / (60 * GOAL_MINUTES)
    for name, figure, wanted, good in (
        (
            "lveval construct: speed",
            f"{rate / 1e6:.1f} MB/s",
            f">= {goal / 1e6:.1f} MB/s",
            rate >= goal,
        ),
        ("lveval construct: full size", f"{full / 1e9:.2f} GB", "about 4 GB", 3e9 <= full <= 5e9),
        (
            "lveval construct: time for the full size",
            f"{full / rate / 60:.1f} min",
            f"<= {GOAL_MINUTES} min",
            rate >= goal,
        ),
    ):
        report(name, figure, wanted, good)
    return 0 if rate >= goal else 1


if __name__ == "__main__":
    sys.exit(main())
