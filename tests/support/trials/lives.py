"""Lives of a run: processes that predict and score it, each ended by a fault, and what they leave.

    lives = Lives(folder)
    life = lives.live(run, kill_after=0.01)
    tally = lives.look(run, life)

Each process is forked from one that has imported everything: a kill falls into the run's work, not
into its imports, and thousands of lives fit into a minute.
"""

import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lveval import evaluation, prediction
from lveval.common.errors import run_cli
from lveval.runs.record import Prediction
from lveval.runs.store import RunStore
from support import storage_shim
from support.trials.damage import RUN, predict_words, scored_run
from support.trials.tally import SLOW_SECONDS, Tally

Row = tuple[str, int]  # (<subset>_<level>, index)

HANG_SECONDS = 60  # a life takes some 0.03 s

# Of a run's files, those that every finished run has with the same bytes.
FINAL = ("*.jsonl", "results*")
NOT_FINAL = ("times.jsonl", "attempts.jsonl")


@dataclass
class Life:
    """What was seen of one process."""

    status: int = 0  # exit code, or the negative number of the signal that ended it
    attempted: set[Row] = field(default_factory=set)
    acknowledged: set[Row] = field(default_factory=set)  # RunStore.append has returned
    said: str = ""  # on both streams
    met: bool = False  # the storage call that was to fail was made
    seconds: float = 0.0  # of the processor


class Living(NamedTuple):
    """A process on its way."""

    pid: int
    noted: int  # descriptor: what it attempts and acknowledges
    log: Path


def final_files(run: Path) -> dict[str, bytes]:
    """The bytes of a run's derived files and results, by name."""
    paths = (path for pattern in FINAL for path in run.glob(pattern))
    return {path.name: path.read_bytes() for path in paths if path.name not in NOT_FINAL}


def recorded(run: Path) -> list[tuple[Row, bytes]]:
    """The whole lines of a run's rows/, in order, as they stand there."""
    found: list[tuple[Row, bytes]] = []
    for path in sorted(run.glob("rows/*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            index = int(line.rpartition(b'"index": ')[2].partition(b",")[0])
            found.append(((path.stem, index), line))
    return found


class Lives:
    """A dry run of 12 rows that may be lived again and again, and what a calm one leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        calm = scored_run(folder)
        self.lines = dict(recorded(calm))
        self.files = final_files(calm)
        begin = time.perf_counter()
        assert self.live(folder / "first").status == 0
        self.seconds = time.perf_counter() - begin

    def live(
        self,
        output: Path,
        *options: str,
        kill_after: float | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> Life:
        """Predict and score `output`/RUN in a process of its own, in which `before` is called first.

        SIGKILL comes `kill_after` seconds after its start.
        """
        return self.end(self.begin(output, *options, before=before), kill_after)

    def begin(
        self, output: Path, *options: str, before: Callable[[], object] = lambda: None
    ) -> Living:
        """Start a life."""
        output.mkdir(exist_ok=True)
        descriptor, log = tempfile.mkstemp(dir=self.folder)
        noted, note = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(self._die(output, options, descriptor, note, before))
        os.close(note)
        os.close(descriptor)
        return Living(pid, noted, Path(log))

    def end(self, living: Living, kill_after: float | None = None) -> Life:
        """Wait for a life's end, or kill it so many seconds from now."""
        life = Life()
        limit = HANG_SECONDS if kill_after is None else kill_after
        with os.fdopen(living.noted, "rb") as notes:
            told = b""
            end = time.monotonic() + limit
            while select.select([notes], [], [], max(0.0, end - time.monotonic()))[0]:
                if not (more := os.read(notes.fileno(), 4096)):
                    break
                told += more
            else:
                os.kill(living.pid, signal.SIGKILL)
                told += notes.read()
        _, status, usage = os.wait4(living.pid, 0)
        life.status = os.waitstatus_to_exitcode(status)
        life.seconds = usage.ru_utime + usage.ru_stime
        life.said = living.log.read_text(errors="replace")
        living.log.unlink()
        for line in told.decode().split("\n")[:-1]:
            sign, name, index = line.split(" ")
            life.met |= sign == "="
            {"?": life.attempted, "!": life.acknowledged, "=": set()}[sign].add((name, int(index)))
        return life

    def _die(
        self,
        output: Path,
        options: tuple[str, ...],
        log: int,
        note: int,
        before: Callable[[], object],
    ) -> int:
        """The life of the forked process; its exit code."""
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        append = RunStore.append

        def noting(
            store: RunStore, record: Prediction, times: Mapping[str, object] | None = None
        ) -> bool:
            row = f"{record['dataset']}_{record['level']} {record['index']}\n"
            os.write(note, f"? {row}".encode())
            new = append(store, record, times)
            os.write(note, f"! {row}".encode())
            return new

        RunStore.append = noting  # type: ignore[method-assign, assignment]
        before()
        predicting = [*predict_words(self.folder, output), *options]
        scoring = ["--input-dir", str(output / RUN)]
        for main, words in ((prediction.main, predicting), (evaluation.main, scoring)):
            try:
                run_cli(lambda main=main, words=words: main(words))  # type: ignore[misc]
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException:  # noqa: BLE001 - as Python's own end does
                traceback.print_exc()
                code = 1
            if code:
                break
        sys.stderr.flush()
        if storage_shim.is_loaded() and storage_shim.was_met():
            os.write(note, b"= met 0\n")
        return code

    def look(self, run: Path, life: Life, had: Set[Row] = frozenset()) -> Tally:
        """What is wrong with a run after a life, given the rows that it `had` before."""
        tally = Tally()
        stored = recorded(run)
        rows = {row for row, _ in stored}
        tally.lost = len((life.acknowledged | had) - rows)
        tally.duplicated = len(stored) - len(rows)
        tally.altered = len(rows - life.attempted - had)
        tally.altered += sum(line != self.lines[row] for row, line in stored)
        tally.altered += sum(
            content != self.files.get(name) for name, content in final_files(run).items()
        )
        tally.uncaught = int("Traceback" in life.said or life.status == 1)
        tally.hangs = int(life.seconds > SLOW_SECONDS)
        return tally

    def finish(self, output: Path) -> Tally:
        """Live once more without a fault: all rows once, and the files of a calm run."""
        had = {row for row, _ in recorded(output / RUN)}
        life = self.live(output)
        tally = self.look(output / RUN, life, had)
        tally.uncaught += int(life.status != 0)
        tally.lost += len(self.lines.keys() - {row for row, _ in recorded(output / RUN)})
        tally.altered += int(final_files(output / RUN) != self.files)
        return tally
