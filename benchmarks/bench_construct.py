"""How fast `lveval construct` builds, and what the full size (8,645 rows, about 4 GB) would take.

    python benchmarks/bench_construct.py

Builds a few rows of all 55 files (about 200 MB, deleted afterwards).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from figures import ROOT, construct, report

from lveval import config

GOAL_MINUTES = 20  # for the full size, on two cores


def main() -> int:
    """Measure and print; 0 if the goal is met."""
    parser = argparse.ArgumentParser(description="Measure lveval construct.")
    parser.add_argument("--rows", type=int, default=8, help="rows of each of the 55 files (8)")
    parser.add_argument("--num-workers", type=int, default=2, help="processes (2)")
    samples = ROOT / "lveval/construct/samples"
    parser.add_argument("--sources", default=samples, help="folder of sources (the samples)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        construct(
            Path(folder),
            *("--sources", options.sources, "--rows", options.rows),
            *("--num-workers", options.num_workers, "--datasets", *config.DATASET_ROWS),
            *("--lengths", "16k,32k,64k,128k,256k"),
        )
        seconds = time.perf_counter() - begin
        sizes = {path.name: path.stat().st_size for path in Path(folder).glob("*/*.jsonl")}
    # A file grows with its rows; the start of processes and their articles is counted as if it did.
    full = sum(
        size / options.rows * config.DATASET_ROWS[name.rpartition("_")[0]]
        for name, size in sizes.items()
    )
    rate = sum(sizes.values()) / seconds
    goal = full / (60 * GOAL_MINUTES)
    report("full size", f"{full / 1e9:.2f} GB", "about 4 GB", 3e9 <= full <= 5e9)
    report(
        "time for the full size",
        f"{full / rate / 60:.1f} min",
        f"<= {GOAL_MINUTES} min",
        rate >= goal,
    )
    return not report("speed", f"{rate / 1e6:.1f} MB/s", f">= {goal / 1e6:.1f} MB/s", rate >= goal)


if __name__ == "__main__":
    sys.exit(main())
