"""The store under fire: kills, full disks, failing system calls and rival launches, all of them real.

python -m pytest tests/test_store_faults.py -s      prints one line a fault: points tried, rows lost, duplicated
"""

import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from support.store_faults_parts import shim

__all__ = ["shim"]  # fixtures

# One process goes through every point of every start; each point is a fork of it, looked at and resumed afterwards.
DRIVER = """
import ctypes, errno, json, os, shutil, sys, traceback
from pathlib import Path
from lveval.common.errors import ExitCode, LVEvalError
from lveval.runs.folder import read_records
from lveval.runs.store import RunStore

base = Path(sys.argv[1])
shim = ctypes.CDLL(None)
ROWS, NAME = 4, "lic_mixup_16k"
FAULTS = {"kill before": -1, "kill after": -2, "kill torn": -3, "short": -4, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


def opened(folder, **options):
    return RunStore.open(folder, {"backend": "echo"}, {NAME: ROWS}, {NAME: ROWS}, **options)


def record(index):
    return {"pred": f"answer {index}", "index": index, "status": "ok", "dataset": "lic_mixup", "level": "16k"}


def bytes_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def finish(run, acknowledge):
    for index in sorted(set(range(ROWS)) - run.answered("lic_mixup", "16k"), reverse=True):
        before = shim.syncs()
        run.append(record(index))
        assert shim.syncs() > before
        acknowledge(index)
    return run.export_predictions("lic_mixup", "16k")


def work(folder, start, acknowledge):
    # Exit code of one launch; 7 and 8: it wrote after a fault, or met an unexpected error.
    try:
        with opened(folder, overwrite=start == "overwrite") as run:
            try:
                run.record_resolved({"attn": "sdpa"})
                run.record_failure("lic_mixup", "16k", 1, "error", "timed out")
                finish(run, acknowledge)
                run.log({"event": "end"})
            except LVEvalError as error:
                before = bytes_below(folder)
                refusals = 0
                for again in (
                    lambda: run.append(record(ROWS)),
                    lambda: run.record_failure("lic_mixup", "16k", 0, "error", "again"),
                    lambda: run.log({}),
                ):
                    try:
                        again()
                    except LVEvalError:
                        refusals += 1
                return int(error.code) if refusals == 3 and bytes_below(folder) == before else 7
    except LVEvalError as error:
        return int(error.code)
    except BaseException:
        traceback.print_exc()
        return 8
    return 0


def point(folder, start, n, fault):
    # (met, exit status, indices acknowledged)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        sys.stderr = open(os.devnull, "w") if fault else sys.stderr
        shim.arm(os.fsencode(folder), ctypes.c_long(n), FAULTS[fault])
        code = work(folder, start, lambda index: os.write(writing, bytes([index])))
        os._exit(code if shim.left() == 0 else 100 + code)
    os.close(writing)
    with open(reading, "rb") as file:
        acknowledged = set(file.read())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status < 100, status % 100 if status >= 0 else status, acknowledged


# What power failures ask for, which kills cannot show: a new row file is synced, and so are its folder and the run's;
# a replaced file is synced before it gets its name, and its folder after.
with opened(base / "golden") as run:
    before = shim.syncs()
    run.append(record(0))
    assert shim.syncs() == before + 3
    run.append(record(1))
    assert shim.syncs() == before + 4
    run.log({})
    assert shim.syncs() == before + 6
    golden = finish(run, lambda index: None).read_bytes()
with opened(base / "torn") as run:
    run.append(record(2))
    run.record_failure("lic_mixup", "16k", 0, "error", "reset")
for path in (base / "torn/rows" / f"{NAME}.jsonl", base / "torn/attempts.jsonl"):
    path.write_bytes(path.read_bytes() + path.read_bytes()[:9])
old = (base / "torn/rows" / f"{NAME}.jsonl").read_bytes()

for start in ("fresh", "resume", "overwrite"):
    for fault in FAULTS:
        tally = dict.fromkeys(("points", "lost", "duplicated", "altered", "bugs"), 0)
        n, met = 1, True
        while met:
            folder = base / f"{start} {fault} {n}" / "run"
            folder.parent.mkdir()
            if start != "fresh":
                shutil.copytree(base / "torn", folder)
            met, status, acknowledged = point(folder, start, n, fault)
            tally["points"] += met
            # A short write of a buffered file is simply gone on with; every other fault ends the launch with 6.
            expected = {-9} if fault.startswith("kill") else {6, 0} if fault == "short" else {6}
            if status not in (expected if met else {0}):
                tally["bugs"] += 1
                print(start, fault, "call", n, "ended with", status, file=sys.stderr)
            if not fault.startswith("kill"):
                tally["bugs"] += len(list(folder.glob(".*.tmp")))
            if start == "resume":
                acknowledged.add(2)
            if start == "overwrite":
                asides = [path for path in (folder, folder.with_name("run.old-1")) if path.is_dir()]
                tally["lost"] += not any(
                    (path / "rows" / f"{NAME}.jsonl").exists()
                    and (path / "rows" / f"{NAME}.jsonl").read_bytes().startswith(old[:-9])
                    for path in asides
                )
            if folder.is_dir():
                seen = {item.record["index"] for item in read_records(folder, "lic_mixup", "16k")}
                tally["lost"] += len(acknowledged - seen)
            sys.stderr, stderr = open(os.devnull, "w"), sys.stderr
            with opened(folder) as run:
                tally["lost"] += len(acknowledged - run.answered("lic_mixup", "16k"))
                run.record_resolved({"attn": "sdpa"})
                tally["altered"] += finish(run, lambda index: None).read_bytes() != golden
            sys.stderr = stderr
            lines = (folder / "rows" / f"{NAME}.jsonl").read_bytes().count(b"\\n")
            tally["duplicated"] += lines - ROWS
            shutil.rmtree(folder.parent)
            n += 1
        print(json.dumps({"start": start, "fault": fault, **tally}), flush=True)
"""


def test_every_storage_call_may_kill_or_fail(tmp_path: Path, shim: dict[str, str]) -> None:
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        env=shim,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert driver.returncode == 0, driver.stderr
    tallies = [json.loads(line) for line in driver.stdout.splitlines()]
    assert len(tallies) == 18
    for tally in tallies:
        print(", ".join(f"{name}: {value}" for name, value in tally.items()))
        assert tally["points"] > 40, tally
        assert tally["lost"] == tally["duplicated"] == tally["altered"] == tally["bugs"] == 0, (
            tally,
            driver.stderr,
        )
