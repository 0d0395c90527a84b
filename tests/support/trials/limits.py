"""Lives with too little: a small disk or one that may only be read, small files, few descriptors; then
once more with enough.
"""

import resource
import shutil
import sys
from functools import partial
from pathlib import Path

from support.small_disk import mount, small_disk
from support.trials.damage import RUN
from support.trials.lives import Life, Lives, recorded
from support.trials.tally import Tally

LIMITS = {"bytes of a file": resource.RLIMIT_FSIZE, "descriptors": resource.RLIMIT_NOFILE}
ENDINGS = {"bytes of a file": {0, 6}, "descriptors": {0, 2, 6}, "pages of a disk": {0, 6}}


def limits(folder: Path, of: str, least: int, most: int, step: int = 1) -> Tally:
    """Live with each limit from `least` up to `most`, then without; LIMITS has what is limited."""
    lives, tally = Lives(folder), Tally()
    for limit in range(least, most, step):
        output = folder / "limited"
        few = partial(resource.setrlimit, LIMITS[of], (limit, limit))
        _judge(lives, output, tally, lives.live(output, before=few), of, limit)
        shutil.rmtree(output)
    return tally


def small_disks(folder: Path, least: int, most: int, step: int = 1) -> Tally:
    """Live on a disk of so many pages, then let it grow; points: 0 where none may be mounted."""
    lives, tally, disk = Lives(folder), Tally(), folder / "disk"
    for pages in range(least, most, step):
        with small_disk(disk, str(pages * resource.getpagesize())) as mounted:
            if not mounted:
                break
            output = disk / "out"
            life = lives.live(output)
            assert mount(disk, "remount,size=16m")
            _judge(lives, output, tally, life, "pages of a disk", pages)
    return tally


def read_only(folder: Path) -> Tally:
    """Live on a disk that may only be read: anew, in mid-run, and where the run is finished."""
    lives, tally, disk = Lives(folder), Tally(), folder / "disk"
    with small_disk(disk, "16m") as mounted:
        if not mounted:
            return tally
        output = disk / "out"
        output.mkdir()
        for begun in (0.0, lives.seconds / 2, None):
            if begun != 0:
                lives.live(output, kill_after=begun)
            had = {row for row, _ in recorded(output / RUN)}
            before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
            assert mount(disk, "remount,ro")
            life = lives.live(output)
            tally += lives.look(output / RUN, life, had)
            tally.uncaught += life.status != 6
            tally.altered += any(path.read_bytes() != content for path, content in before.items())
            tally.points += 1
            assert mount(disk, "remount,rw")
        tally += lives.finish(output)
    return tally


def _judge(lives: Lives, output: Path, tally: Tally, life: Life, of: str, limit: int) -> None:
    tally.points += 1
    tally += lives.look(output / RUN, life)
    if life.status not in ENDINGS[of]:
        tally.uncaught += 1
        print(f"{limit} {of}: {life.status}", life.said, file=sys.stderr)
    tally += lives.finish(output)
