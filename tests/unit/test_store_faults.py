"""The store under fire: kills, full disks, power failures and rival launches, all of them real."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from conftest import ROOT
from support.storage_shim import shim
from support.stores import NAME, refusal, rows_file

from lveval.common.errors import ExitCode
from lveval.runs.folder import read_records
from lveval.runs.store import RunStore

__all__ = ["shim"]  # fixtures

WRITER = """
import os, resource, signal, stat, sys
from pathlib import Path
from lveval.common.errors import LVEvalError
from lveval.runs.store import RunStore

folder, rows, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with RunStore.open(folder, {"backend": "echo"}, {"lic_mixup_16k": rows}, {"lic_mixup_16k": rows}) as run:
    print("open", flush=True)
    if mode == "hold":
        sys.stdin.read()
    if mode.isdigit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(mode), int(mode)))
    if mode == "full":
        (folder / "rows").mkdir()
        os.mknod(folder / "rows/lic_mixup_16k.jsonl", stat.S_IFCHR | 0o600, os.stat("/dev/full").st_rdev)
    for index in sorted(set(range(rows)) - run.answered("lic_mixup", "16k")):
        record = {"pred": f"{index}" * 50, "index": index, "status": "ok", "dataset": "lic_mixup", "level": "16k"}
        try:
            run.append(record)
        except LVEvalError as error:
            print("failed", int(error.code), error.message, flush=True)
            for again in (lambda: run.append(record), lambda: run.export_predictions("lic_mixup", "16k") or run.log({})):
                try:
                    again()
                except LVEvalError as error:
                    print("refused", int(error.code), error.message, flush=True)
            break
        print(index, flush=True)
"""


def writer(
    folder: Path, rows: int, mode: str = "write", environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(rows), mode]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def test_no_acknowledged_row_is_lost_by_sigkill(tmp_path: Path) -> None:
    randomness = random.Random(7)
    acknowledged: list[int] = []
    for _ in range(10):
        with writer(tmp_path, 100_000) as child:
            assert child.stdout is not None and child.stdout.readline() == "open\n"
            for _ in range(randomness.randrange(1, 120)):
                acknowledged.append(int(child.stdout.readline()))
            child.send_signal(signal.SIGKILL)
            # What it acknowledged between our last look and its death counts as well.
            acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1]]
        assert child.returncode == -signal.SIGKILL
        read = [item.record["index"] for item in read_records(tmp_path, "lic_mixup", "16k")]
        assert set(acknowledged) <= set(cast(list[int], read)) and len(read) == len(
            set(map(str, read))
        )
    assert len(acknowledged) == len(set(acknowledged)) >= 10  # no row was done twice


@pytest.mark.parametrize("limit", ["200", "777", "1000"])
def test_a_file_that_cannot_grow_stops_the_run_and_loses_nothing(
    tmp_path: Path, limit: str
) -> None:
    with writer(tmp_path, 20, limit) as child:
        lines = child.communicate(timeout=60)[0].split("\n")
    assert child.returncode == 0 and lines[0] == "open"
    acknowledged = {int(line) for line in lines if line.isdigit()}
    failed = [line for line in lines if line.startswith(("failed", "refused"))]
    assert (
        len(failed) == 3
        and all(line.split()[1] == "6" for line in failed)
        and "bytes were written" in failed[0]
    )
    assert rows_file(tmp_path).stat().st_size == int(limit)  # a short write did happen
    with RunStore.open(tmp_path, {"backend": "echo"}, {NAME: 20}, {NAME: 20}) as run:
        assert run.answered("lic_mixup", "16k") == acknowledged


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with writer(tmp_path, 3, "full") as child:
        output, errors = child.communicate(timeout=60)
    if "Operation not permitted" in errors:
        pytest.skip("only root may make a device that is always full")
    lines = output.split("\n")
    assert (
        lines[1].startswith("failed 6")
        and "No space left on device" in lines[1]
        and "free or mend" in lines[1]
    )


def test_a_second_launch_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with writer(folder, 1, "hold") as child:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        for overwrite in (False, True):
            with refusal(ExitCode.USAGE, f"pid {child.pid}", "another process"):
                RunStore.open(
                    folder, {"backend": "echo"}, {NAME: 1}, {NAME: 1}, overwrite=overwrite
                )
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
        assert read_records(folder, "lic_mixup", "16k") == []  # reading needs no lock
        child.kill()
    RunStore.open(folder, {"backend": "echo"}, {NAME: 1}, {NAME: 1}).__exit__()


def test_a_lock_taken_on_a_run_that_was_just_moved_aside_is_none(
    tmp_path: Path, shim: dict[str, str]
) -> None:
    folder, gate = tmp_path / "run", tmp_path / "gate"
    RunStore.open(folder, {"backend": "echo"}, {NAME: 1}, {NAME: 1}).__exit__()
    with writer(folder, 1, environment={**shim, "FLOCK_GATE": str(gate)}) as child:
        until = time.monotonic() + 20
        while not gate.exists():  # it has opened the lock's file and is about to lock it
            assert time.monotonic() < until
            time.sleep(0.005)
        with RunStore.open(
            folder, {"backend": "echo"}, {NAME: 1}, {NAME: 1}, overwrite=True
        ) as run:
            gate.unlink()
            output, errors = child.communicate(timeout=60)
            assert child.returncode == 1 and output == "" and "another process" in errors
            assert run.answered("lic_mixup", "16k") == set() and not (folder / "rows").exists()


# What power failures ask for, which kills cannot show: a new row file is synced, and so are its folder and the run's;
# a replaced file is synced before it gets its name, and its folder after.
SYNCS = """
import ctypes, sys
from pathlib import Path
from lveval.runs.store import RunStore

shim = ctypes.CDLL(None)
name, row = "lic_mixup_16k", {"pred": "a", "status": "ok", "dataset": "lic_mixup", "level": "16k"}
with RunStore.open(Path(sys.argv[1]), {}, {name: 2}, {name: 2}) as run:
    for step in (
        lambda: run.append({**row, "index": 1}),
        lambda: run.append({**row, "index": 0}),
        lambda: run.append({**row, "index": 0}),
        lambda: run.record_failure("lic_mixup", "16k", 1, "error", "reset"),
        lambda: run.export_predictions("lic_mixup", "16k"),
        lambda: run.log({}),
    ):
        before = shim.syncs()
        step()
        print(shim.syncs() - before)
"""


def test_what_is_written_is_synced_and_so_is_its_folder(
    tmp_path: Path, shim: dict[str, str]
) -> None:
    command = [sys.executable, "-c", SYNCS, str(tmp_path / "run")]
    found = subprocess.run(command, cwd=ROOT, env=shim, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["3", "1", "0", "3", "2", "2"]
