"""The OpenAI backend against a server of fixed latency: 32 requests at once.

    python benchmarks/bench_api.py

Both are real processes on 127.0.0.1.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from figures import ROOT, predict, report_ratio, time_rows

sys.path.insert(0, str(ROOT / "tests"))

from conftest import row, tiktoken_files, write_data
from support.fault_server import serving

LATENCY = 0.2
CONCURRENCY = 32
GOAL = 1.15
ROW_FILE = "out/gpt-4o/rows/hotpotwikiqa_mixup_1k.jsonl"


def main() -> int:
    """Wall time between the first and the last row on disk; 0 if the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=640, help="short ones, of one file (640)")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name, serving("--latency", str(LATENCY)) as address:
        folder = Path(name)
        data = [row(number=number) for number in range(rows)]
        write_data(folder / "data", "hotpotwikiqa_mixup_1k", data)
        process = predict(
            folder,
            *("--backend", "openai", "--base-url", f"{address}/v1", "--model-name", "gpt-4o"),
            *("--datasets", "hotpotwikiqa_mixup", "--lengths", "1k"),
            *("--concurrency", str(CONCURRENCY)),
            TIKTOKEN_CACHE_DIR=tiktoken_files(),
            LVEVAL_CACHE=str(folder / "cache"),
        )
        seconds, timed = time_rows(process, folder / ROW_FILE)
    what = f"{rows} rows, {LATENCY} s each, {CONCURRENCY} at once / rows x latency / {CONCURRENCY}"
    return not report_ratio(what, seconds, timed * LATENCY / CONCURRENCY, GOAL)


if __name__ == "__main__":
    sys.exit(main())
