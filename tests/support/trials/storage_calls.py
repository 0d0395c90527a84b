"""Each storage call of a run's life killed or failing once, one after the other."""

import shutil
import sys
from functools import partial
from pathlib import Path

from support import storage_shim
from support.trials.damage import RUN
from support.trials.lives import Lives, recorded
from support.trials.tally import Tally

# Fault -> what its life may end with; a short write of a buffered file is simply gone on with.
ENDINGS = {"kill before": {-9}, "kill after": {-9}, "kill torn": {-9}, "short": {0, 6}}

ENOUGH = 20  # faults of ours, after which a trial ends: it might never get to the last call

# A run that starts anew, one that goes on after a torn line, one that is moved aside.
STARTS = ("fresh", "resumed", "overwritten")


def storage_calls(
    folder: Path,
    fault: str,
    start: str = "fresh",
    *,
    lasting: bool = False,
    step: int = 1,
    first: int = 1,
) -> Tally:
    """Meet a fault of storage_shim.FAULTS at call `first`, `first + step` … until there is none.

    The rows that the life acknowledged are kept, what was there before is kept (moved aside where
    it is overwritten), a fault ends in one sentence and exit code 6, and the next start ends with
    the files of a calm run.
    """
    lives, tally = Lives(folder), Tally()
    torn = _torn_run(lives)
    old = {row for row, _ in recorded(torn / RUN)} if start != "fresh" else set()
    call, met = first, True
    while met and tally.uncaught < ENOUGH:
        output = folder / "calls"
        if start != "fresh":
            shutil.copytree(torn, output)
        options = ("--overwrite",) if start == "overwritten" else ()
        run = output / RUN
        arm = partial(storage_shim.arm, run, call, fault, lasting)
        life = lives.live(output, *options, before=arm)
        met = life.met or life.status != 0
        kept = {row for row, _ in recorded(run)} & old
        tally += lives.look(run, life, kept if start == "overwritten" else old)
        aside = run.with_name(f"{RUN}.old-1")
        tally.lost += len(old - kept - {row for row, _ in recorded(aside)})
        tally.points += met
        if life.status not in (ENDINGS.get(fault, {6}) if met else {0}):
            tally.uncaught += 1
            print(f"{start}, {fault} at call {call}: {life.status}", life.said, file=sys.stderr)
        if not fault.startswith("kill") and not lasting:
            tally.altered += len(list(run.glob(".*.tmp")))  # left half-written
        tally += lives.finish(output)
        shutil.rmtree(output)
        call += step
    return tally


def _torn_run(lives: Lives) -> Path:
    """A copy of the calm run, cut off in mid-answer: nothing derived, two files begun, one torn."""
    torn = lives.folder / "torn"
    shutil.copytree(lives.folder / "out", torn)
    for name in lives.files:
        (torn / RUN / name).unlink()
    whole, begun, cut, missing = sorted((torn / RUN / "rows").iterdir())
    assert whole.read_bytes().count(b"\n") == len(lives.lines) / 4
    for path, keep in ((begun, 0), (cut, 9)):
        first, _, rest = path.read_bytes().partition(b"\n")
        path.write_bytes(first + b"\n" + rest[:keep])
    missing.unlink()
    return torn
