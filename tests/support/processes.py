"""What tests of workers share."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from conftest import ROOT, script

from lveval import config
from lveval.backends.base import EngineOptions
from lveval.data import dataset
from lveval.execution import tasks

ECHO = ("--backend", "echo", "--model-name", "dry", "--lengths", "1k")


def job(data_path: Path, names: list[str], delay: float = 0.0) -> tasks.Job:
    pairs = {name: name.rsplit("_", 1) for name in names}
    files = {
        name: dataset.load_file(subset, level, data_path).fingerprint
        for name, (subset, level) in pairs.items()
    }
    return tasks.Job(
        backend="echo",
        options=EngineOptions(None, 500, args={"delay": delay}),
        model_name="dry",
        chat_template="auto",
        templates=config.DATASET_PROMPT,
        budgets=config.DATASET_MAXGEN,
        fingerprints=files,
        data_path=data_path,
    )


def predict(data_path: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return script(
        "prediction.py", *ECHO, "--data-path", data_path, "--output-dir", output, *options
    )


# --- Workers that die -------------------------------------------------------------------------------------------------


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def worker_processes(parent: int) -> list[psutil.Process]:
    """The spawned Dask worker processes below `parent`."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_rows(folder: Path, count: int, limit: float = 120) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if (
            sum(path.read_bytes().count(b"\n") for path in (folder / "rows").glob("*.jsonl"))
            >= count
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"fewer than {count} rows in {folder} after {limit} s")


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """Who of a process and its descendants listens, and at which address."""
    found = set()
    for each in (process, *process.children(recursive=True)):
        try:
            sockets = each.net_connections("all")
        except psutil.Error:  # it has just ended
            continue
        for socket in sockets:
            open_to_all = socket.type.name == "SOCK_DGRAM" and not socket.raddr
            if socket.laddr and (socket.status == psutil.CONN_LISTEN or open_to_all):
                address = getattr(socket.laddr, "ip", "a file")  # or a socket in the file system
                found.add((f"{each.name()} {each.pid}", str(address)))
    return found
