"""The store under fire: kills, full disks, failing system calls and rival launches, all of them real.

python -m pytest tests/test_store_faults.py -s      prints one line a fault: points tried, rows lost, duplicated
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from conftest import ROOT
from test_store import NAME, refusal, rows_file

from lveval.common.errors import ExitCode
from lveval.runs.store import RunStore, read_records

# Preloaded before the C library: the N-th call that changes something below the run's folder kills or fails.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL_BEFORE = -1, KILL_AFTER = -2, KILL_TORN = -3, SHORT = -4 };  /* above 0: the error number */
static char root[4096];
static long countdown, synced;
static int fault;

void arm(const char *folder, long n, int how) { strncpy(root, folder, sizeof root - 1); countdown = n; fault = how; }
long left(void) { return countdown; }
long syncs(void) { return synced; }

static int hit(const char *path) {
    return countdown > 0 && !strncmp(path, root, strlen(root)) && --countdown == 0;
}
static int hit_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return hit(path);
}
int flock(int fd, int how) {  /* says that it was reached, then waits (at most 30 s) to be let through */
    const char *gate = getenv("FLOCK_GATE");
    if (gate) close(creat(gate, 0600));
    for (int i = 0; gate && i < 30000 && !access(gate, F_OK); i++) usleep(1000);
    return ((__typeof__(&flock))dlsym(RTLD_NEXT, "flock"))(fd, how);
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(is_hit, call)                                              \
    if (is_hit) {                                                         \
        if (fault > 0) { errno = fault; return -1; }                      \
        if (fault != KILL_AFTER && fault != SHORT) raise(SIGKILL);        \
        if (fault == KILL_AFTER) { call; raise(SIGKILL); }                \
    }                                                                     \
    return call;

int fsync(int fd) { synced++; FAULTY(hit_fd(fd), REAL(fsync)(fd)) }
int rename(const char *from, const char *to) { FAULTY(hit(from), REAL(rename)(from, to)) }
int unlink(const char *path) { FAULTY(hit(path), REAL(unlink)(path)) }
/* Of a folder that is there it changes nothing, and Python's exist_ok asks no more of it. */
int mkdir(const char *path, mode_t mode) { FAULTY(access(path, F_OK) && hit(path), REAL(mkdir)(path, mode)) }
int ftruncate(int fd, off_t size) { FAULTY(hit_fd(fd), REAL(ftruncate)(fd, size)) }
int ftruncate64(int fd, off64_t size) { FAULTY(hit_fd(fd), REAL(ftruncate64)(fd, size)) }
int open(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more);
    FAULTY(hit(path), REAL(open)(path, flags, mode))
}
int open64(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more);
    FAULTY(hit(path), REAL(open64)(path, flags, mode))
}
ssize_t write(int fd, const void *bytes, size_t size) {
    if (fd > 2 && hit_fd(fd)) {
        if (fault > 0) { errno = fault; return -1; }
        if (fault == KILL_BEFORE) raise(SIGKILL);
        ssize_t written = REAL(write)(fd, bytes, fault == KILL_AFTER ? size : size / 2);
        if (fault != SHORT) raise(SIGKILL);
        return written;
    }
    return REAL(write)(fd, bytes, size);
}
"""

WRITER = """
import resource, signal, sys
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
        (folder / "rows/lic_mixup_16k.jsonl").symlink_to("/dev/full")
    for index in sorted(set(range(rows)) - run.done("lic_mixup", "16k")):
        record = {"pred": f"{index}" * 50, "index": index, "status": "ok", "dataset": "lic_mixup", "level": "16k"}
        try:
            run.append(record)
        except LVEvalError as error:
            print("failed", int(error.code), error.message, flush=True)
            for again in (lambda: run.append(record), lambda: run.derive("lic_mixup", "16k") or run.log({})):
                try:
                    again()
                except LVEvalError as error:
                    print("refused", int(error.code), error.message, flush=True)
            break
        print(index, flush=True)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a child's system calls go through SHIM."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux to fail system calls")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    build = [
        compiler,
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "shim.so"),
        str(folder / "shim.c"),
        "-ldl",
    ]
    subprocess.run(build, check=True, capture_output=True)
    return {**os.environ, "LD_PRELOAD": str(folder / "shim.so")}


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
        assert run.done("lic_mixup", "16k") == acknowledged


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with writer(tmp_path, 3, "full") as child:
        lines = child.communicate(timeout=60)[0].split("\n")
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
            assert run.done("lic_mixup", "16k") == set() and not (folder / "rows").exists()


# One process goes through every point of every start; each point is a fork of it, looked at and resumed afterwards.
DRIVER = """
import ctypes, errno, json, os, shutil, sys, traceback
from pathlib import Path
from lveval.common.errors import ExitCode, LVEvalError
from lveval.runs.store import RunStore, read_records

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
    for index in sorted(set(range(ROWS)) - run.done("lic_mixup", "16k"), reverse=True):
        before = shim.syncs()
        run.append(record(index))
        assert shim.syncs() > before
        acknowledge(index)
    return run.derive("lic_mixup", "16k")


def work(folder, start, acknowledge):
    # Exit code of one launch; 7 and 8: it wrote after a fault, or met an unexpected error.
    try:
        with opened(folder, overwrite=start == "overwrite") as run:
            try:
                run.record_effective({"attn": "sdpa"})
                run.attempt("lic_mixup", "16k", 1, "error", "timed out")
                finish(run, acknowledge)
                run.log({"event": "end"})
            except LVEvalError as error:
                before = bytes_below(folder)
                refusals = 0
                for again in (
                    lambda: run.append(record(ROWS)),
                    lambda: run.attempt("lic_mixup", "16k", 0, "error", "again"),
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
    run.attempt("lic_mixup", "16k", 0, "error", "reset")
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
                tally["lost"] += len(acknowledged - run.done("lic_mixup", "16k"))
                run.record_effective({"attn": "sdpa"})
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
