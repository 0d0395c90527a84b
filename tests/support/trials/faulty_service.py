"""A service whose replies are faulty at a given rate, in all ways that it knows."""

import sys
from collections import Counter
from pathlib import Path

from support.fault_server import answer_to
from support.service import FAST, attempts, data, predict, records, serving
from support.trials.tally import Tally

WAYS = 13  # at least so many kinds of replies must have been met


def faulty_service(folder: Path, rows: int, rate: float, seed: int = 0) -> Tally:
    """Ask for `rows`, 64 at once: each is answered once and right, each fault is an attempt."""
    data(folder, rows)
    with serving("--rate", str(rate), "--seed", str(seed)) as server:
        waits = f"{FAST},timeout=2,timeout_per_1k=0"
        ended = predict(server, folder, "--concurrency", "64", "--backend-args", waits)
        asked, served = server.asked, server.stats["served"]
    tally = Tally(points=asked.total())
    if ended.returncode or not isinstance(served, dict) or len(served) < WAYS:
        print(ended.stderr, served, file=sys.stderr)
        tally.uncaught = 1
        return tally
    found = records(folder)
    indices = {record["index"] for record in found}
    tally.lost, tally.duplicated = rows - len(indices), len(found) - len(indices)
    tally.altered = sum(record["pred"] != answer_to(str(record["input"])) for record in found)
    tries = Counter(str(attempt["index"]) for attempt in attempts(folder))
    # What the server counted is what was recorded, row by row.
    tally.duplicated += sum(
        asked[str(record["input"])] != 1 + tries[str(record["index"])] for record in found
    )
    return tally
