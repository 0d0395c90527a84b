"""The OpenAI backend against a server of fixed latency, and one that fails again and again.

    python benchmarks/bench_api.py            32 requests at once against rows x latency / 32
    python benchmarks/bench_api.py --torture  8,645 rows, 20 % and 50 % of the replies faulty

Both are real processes on 127.0.0.1. A fault costs no row: what the server counted is recorded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from figures import ROOT, predict, report, report_ratio, time_rows
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "tests"))

from conftest import row, tiktoken_files, write_data
from support.fault_server import answer_to, serving

LATENCY = 0.2
CONCURRENCY = 32
GOAL = 1.15
FAULT_RATES = (0.2, 0.5)
FULL = 8645
ROW_FILE = "out/gpt-4o/rows/hotpotwikiqa_mixup_1k.jsonl"


def ask(folder: Path, rows: int, address: str, *options: str) -> subprocess.Popen[bytes]:
    """Write short rows of one file, each with a question of its own, and start the run over them."""
    data = [row(number=number) for number in range(rows)]
    write_data(folder / "data", "hotpotwikiqa_mixup_1k", data)
    return predict(
        folder,
        *("--backend", "openai", "--base-url", f"{address}/v1", "--model-name", "gpt-4o"),
        *("--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", *options),
        TIKTOKEN_CACHE_DIR=tiktoken_files(),
        LVEVAL_CACHE=str(folder / "cache"),
    )


def concurrency(folder: Path, rows: int) -> bool:
    """Wall time between the first and the last row on disk."""
    with serving("--latency", str(LATENCY)) as address:
        process = ask(folder, rows, address, "--concurrency", str(CONCURRENCY))
        seconds, timed = time_rows(process, folder / ROW_FILE)
    name = f"{rows} rows, {LATENCY} s each, {CONCURRENCY} at once / rows x latency / {CONCURRENCY}"
    return report_ratio(name, seconds, timed * LATENCY / CONCURRENCY, GOAL)


def torture(folder: Path, rows: int, rate: float) -> bool:
    """Every row once, right, whatever the server did."""
    waits = "first_wait=0.02,longest_wait=0.2,timeout=2,timeout_per_1k=0"
    path = folder / ROW_FILE
    with serving("--rate", str(rate)) as address:
        process = ask(folder, rows, address, "--concurrency", "64", "--backend-args", waits)
        with tqdm(total=rows, desc=f"{rate:.0%} faulty", unit="row", leave=False) as bar:
            while process.poll() is None:
                bar.update((path.read_bytes().count(b"\n") if path.exists() else 0) - bar.n)
                time.sleep(1)
        with urllib.request.urlopen(f"{address}/stats", timeout=30) as reply:
            stats = json.load(reply)
    found, tried = (
        [json.loads(line) for line in (folder / "out/gpt-4o" / name).read_text().splitlines()]
        for name in ("hotpotwikiqa_mixup_1k.jsonl", "attempts.jsonl")
    )
    attempts = Counter(record["index"] for record in tried)
    asked: dict[str, int] = stats["asked"]
    lost = rows - len({record["index"] for record in found})
    repeated = len(found) - rows + lost
    wrong = sum(record["pred"] != answer_to(record["input"]) for record in found)
    uncounted = sum(asked[one["input"]] != 1 + attempts[one["index"]] for one in found)
    kinds = len(stats["served"]) - 1
    good = process.returncode == 0 and not lost + repeated + wrong and kinds >= 12
    name = f"{rows} rows, {rate:.0%} of the replies faulty in {kinds} ways, 64 at once"
    met = report(name, f"{lost} lost, {repeated} duplicated, {wrong} wrong", "0, 0, 0", good)
    name = f"   requests counted by the server {sum(asked.values())}, rows + attempts recorded"
    figure = str(rows + attempts.total())
    return met & report(name, figure, "equal, row by row", not uncounted)


def main() -> int:
    """Measure and print; 0 if all goals are met."""
    parser = argparse.ArgumentParser(
        description="Ask a server of fixed latency, or one that fails."
    )
    parser.add_argument("--rows", type=int, help=f"640, or {FULL} with --torture")
    parser.add_argument("--torture", action="store_true", help="the server that fails")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.torture:
            return not concurrency(folder, options.rows or 640)
        rows = options.rows or FULL
        met = [torture(folder / str(rate), rows, rate) for rate in FAULT_RATES]
    return not all(met)


if __name__ == "__main__":
    sys.exit(main())
