"""The OpenAI backend against a server of fixed latency, and (--torture) against one that fails again and again.

    python benchmarks/bench_api.py                 32 requests at once against rows x latency / 32
    python benchmarks/bench_api.py --torture       8,645 rows, 20 % and 50 % of the replies faulty, 64 at once

Both are real processes on 127.0.0.1. A fault costs no row: what the server counted is what was recorded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from figures import ROOT, report
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "tests"))

LATENCY = 0.2
CONCURRENCY = 32
GOAL = 1.15
FAULT_RATES = (0.2, 0.5)
FULL = 8645


def build(folder: Path, rows: int) -> None:
    """Short rows of one file, each with a question of its own."""
    from conftest import row, write_data

    write_data(
        folder / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(rows)]
    )


def predict(folder: Path, address: str, *options: str) -> subprocess.Popen[bytes]:
    """The command, started."""
    from conftest import tiktoken_files

    command = [
        sys.executable,
        str(ROOT / "prediction.py"),
        "--backend",
        "openai",
        "--base-url",
        f"{address}/v1",
    ]
    command += [
        "--model-name",
        "gpt-4o",
        "--data-path",
        str(folder / "data"),
        "--output-dir",
        str(folder / "out"),
    ]
    command += ["--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", *options]
    environment = {
        **os.environ,
        "TIKTOKEN_CACHE_DIR": tiktoken_files(),
        "LVEVAL_CACHE": str(folder / "cache"),
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def concurrency(folder: Path, rows: int) -> bool:
    """Wall time between the first and the last row on disk."""
    from support.fault_server import serving

    build(folder, rows)
    path = folder / "out/gpt-4o/rows/hotpotwikiqa_mixup_1k.jsonl"
    first = last = 0.0
    before = seen = 0
    with serving("--latency", str(LATENCY)) as address:
        process = predict(folder, address, "--concurrency", str(CONCURRENCY))
        while process.poll() is None:
            size = path.stat().st_size if path.exists() else 0
            if size > seen:
                seen, last = size, time.perf_counter()
                if not first:
                    first, before = last, path.read_bytes().count(b"\n")
            time.sleep(0.002)
    assert process.returncode == 0 and path.read_bytes().count(b"\n") == rows
    # The first answers come together, a latency after the start: what is timed are the rows after them.
    expected = (rows - before) * LATENCY / CONCURRENCY
    ratio = (last - first) / expected
    name = (
        f"{rows} rows, {LATENCY} s each, {CONCURRENCY} at once / rows x {LATENCY} / {CONCURRENCY}"
    )
    return report(
        name, f"{ratio:.3f} ({last - first:.2f} s / {expected:.2f} s)", f"<= {GOAL}", ratio <= GOAL
    )


def torture(folder: Path, rows: int, rate: float) -> bool:
    """Every row once, right, whatever the server did."""
    from support.fault_server import answer_to, serving

    build(folder, rows)
    waits = "first_wait=0.02,longest_wait=0.2,timeout=2,timeout_per_1k=0"
    with serving("--rate", str(rate)) as address:
        process = predict(folder, address, "--concurrency", "64", "--backend-args", waits)
        path = folder / "out/gpt-4o/rows/hotpotwikiqa_mixup_1k.jsonl"
        with tqdm(total=rows, desc=f"{rate:.0%} faulty", unit="row", leave=False) as bar:
            while process.poll() is None:
                bar.update((path.read_bytes().count(b"\n") if path.exists() else 0) - bar.n)
                time.sleep(1)
        with urllib.request.urlopen(f"{address}/stats", timeout=30) as reply:
            stats = json.load(reply)
    found = [
        json.loads(line)
        for line in (folder / "out/gpt-4o/hotpotwikiqa_mixup_1k.jsonl").read_text().splitlines()
    ]
    tried = (folder / "out/gpt-4o/attempts.jsonl").read_text().splitlines()
    attempts = Counter(json.loads(line)["index"] for line in tried)
    indices = Counter(record["index"] for record in found)
    lost = rows - len(indices)
    duplicated = indices.total() - len(indices)
    wrong = sum(record["pred"] != answer_to(record["input"]) for record in found)
    unequal = sum(
        stats["asked"][record["input"]] != 1 + attempts[record["index"]] for record in found
    )
    kinds = len(stats["served"]) - 1
    name = f"{rows} rows, {rate:.0%} of the replies faulty in {kinds} ways, 64 at once"
    figure = f"{lost} lost, {duplicated} duplicated, {wrong} wrong"
    met = report(
        name,
        figure,
        "0, 0, 0",
        process.returncode == 0 and not lost + duplicated + wrong and kinds >= 12,
    )
    name = f"   requests counted by the server {sum(stats['asked'].values())}, rows + attempts recorded"
    return met & report(name, str(rows + attempts.total()), "equal, row by row", not unequal)


def main() -> int:
    """Measure and print; 0 if all goals are met."""
    parser = argparse.ArgumentParser(
        description="Ask a server of fixed latency, or one that fails."
    )
    parser.add_argument("--rows", type=int, help=f"640, or {FULL} with --torture")
    parser.add_argument("--torture", action="store_true", help="the server that fails")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not options.torture:
            return 0 if concurrency(Path(folder), options.rows or 640) else 1
        rows = options.rows or FULL
        met = [torture(Path(folder) / str(rate), rows, rate) for rate in FAULT_RATES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
