"""Faults at scale: what is acknowledged is stored, what is stored is right, whatever comes between.

    python benchmarks/torture.py               all goals, some twenty minutes of two cores
    python benchmarks/torture.py --goals kill  those whose name holds "kill"

One line a goal: how often it tried, and what must be 0. The trials are those of tests/faults, where
they run in a quick size.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any

from figures import ROOT
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "tests"))

from support.storage_shim import FAULTS, is_loaded
from support.trials import damage, faulty_service, fuzz, kills, limits, storage_calls
from support.trials.processes import trial_processes
from support.trials.tally import Tally, header

Part = tuple[Callable[..., Tally], dict[str, Any]]

PARTS = 8  # of a goal, which the workers share
WIDEST = 60  # characters of a goal's name

# Of each kind of file: bits that are flipped.
FLIPS = dict.fromkeys(damage.KINDS, 6_000) | {"rows": 16_000, "derived": 16_000}

FAILURES = [fault for fault in FAULTS if not fault.startswith("kill")]
KILLS = [fault for fault in FAULTS if fault.startswith("kill")]


def goals(seed: int) -> Iterator[tuple[str, int, list[Part]]]:
    """(name, at least so many points, its parts); the longest come first."""
    seeds = [seed * PARTS + part for part in range(PARTS)]
    yield (
        f"bits flipped in {len(FLIPS)} kinds of files",
        50_000,
        [
            (damage.try_flips, {"kind": kind, "most": most // PARTS, "seed": one})
            for kind, most in FLIPS.items()
            for one in seeds
        ],
    )
    yield (
        "files cut at a byte, then resumed",
        20_000,
        [(damage.try_cuts, {"most": 20_000 // PARTS, "seed": one}) for one in seeds],
    )
    yield (
        f"inputs fuzzed, of {len(fuzz.KINDS)} kinds",
        120_000,
        [
            (fuzz.fuzz, {"kind": kind, "inputs": -(-120_000 // len(fuzz.KINDS)), "seed": seed})
            for kind in fuzz.KINDS
        ],
    )
    yield (
        "SIGKILL at random moments",
        3_000,
        [(kills.random_kills, {"kills": 3_000 // PARTS, "seed": one}) for one in seeds],
    )
    yield (
        "launches, three at once in one folder, one killed",
        600,
        [(kills.rivals, {"launches": 600 // PARTS, "seed": one}) for one in seeds],
    )
    for name, faults, lasting in (
        ("SIGKILL at each storage call", KILLS, False),
        ("each storage call fails, once", FAILURES, False),
        ("each storage call fails, for ever", FAILURES, True),
    ):
        yield (
            f"{name}, {len(faults)} ways, {len(storage_calls.STARTS)} starts",
            1_000,
            [
                (storage_calls.storage_calls, {"fault": fault, "start": start, "lasting": lasting})
                for fault in faults
                for start in storage_calls.STARTS
            ],
        )
    yield (
        "too small a disk (of root), small files, few descriptors",
        250,
        [
            (limits.small_disks, {"least": 1, "most": 60}),
            (limits.read_only, {}),
            (limits.limits, {"of": "bytes of a file", "least": 0, "most": 60_000, "step": 250}),
            (limits.limits, {"of": "descriptors", "least": 3, "most": 40}),
        ],
    )
    yield (
        "requests to a service that fails, 20 % and 50 %",
        2 * 8_645,
        [(faulty_service.faulty_service, {"rows": 8_645, "rate": rate}) for rate in (0.2, 0.5)],
    )


def try_part(trial: Callable[..., Tally], settings: dict[str, Any]) -> Tally:
    """A trial in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return trial(Path(folder), **settings)


def main() -> int:
    """Try and print; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goals", default="", help="only those whose name holds this")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--num-workers", type=int, default=min(os.cpu_count() or 1, 8))
    options = parser.parse_args()
    chosen = [goal for goal in goals(options.seed) if options.goals in goal[0]]
    begin, met = time.monotonic(), True
    print(f"{'':<{WIDEST}}{header()}", flush=True)
    with trial_processes(options.num_workers) as pool:
        if not pool.submit(is_loaded).result():
            print("no C compiler, or not Linux: no storage call can be killed or fail")
            chosen = [goal for goal in chosen if goal[2][0][0] is not storage_calls.storage_calls]
        asked: dict[Future[Tally], str] = {
            pool.submit(try_part, *part): name for name, _, parts in chosen for part in parts
        }
        least = {name: points for name, points, _ in chosen}
        left = {name: len(parts) for name, _, parts in chosen}
        told = {name: Tally() for name in left}
        for done in tqdm(as_completed(asked), total=len(asked), unit="part", leave=False):
            name = asked[done]
            told[name] += done.result()
            left[name] -= 1
            if not left[name]:
                good = told[name].good and told[name].points >= least[name]
                missed = (
                    "" if good else f"  MISSED: expected {least[name]:,} points or more, then 0"
                )
                tqdm.write(f"{name:<{WIDEST}}{told[name]}{missed}")
                sys.stdout.flush()
                met &= good
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
