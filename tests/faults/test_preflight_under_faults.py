"""What a run will cost: counted tokens are those that a run records, an estimate lies within its error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from conftest import ROOT
from support.preflight_parts import built, cache_files, predict

__all__ = ["built"]  # fixtures

# --- Kept counts ------------------------------------------------------------------------------------------------------


def test_a_killed_count_goes_on_where_it_was(built: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, a torn and a damaged line: only what is missing is counted, the processes are gone."""
    cache = tmp_path / "cache"
    options = ["--plan", "exact", "--datasets", "factrecall_en", "lic_mixup", "--lengths", "8k"]
    options += [
        "--model-path",
        str(ROOT / "models/SmolLM2-135M-Instruct"),
        "--model-max-len",
        "1000",
    ]
    command = [
        sys.executable,
        "prediction.py",
        *options,
        "--data-path",
        str(built),
        "--output-dir",
        str(tmp_path),
    ]
    environment = {**os.environ, "LVEVAL_CACHE": str(cache)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while sum(map(len, cache_files(cache).values())) < 20:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= len(os.sched_getaffinity(0))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not psutil.wait_procs(children, timeout=20)[1], (
        "a counting process outlived the main one"
    )
    before = cache_files(cache)
    assert 20 <= sum(map(len, before.values())) < 120
    path = next(
        path for path in (cache / "plan").glob("*.jsonl") if path.read_bytes().count(b"\n") > 2
    )
    rest = path.read_bytes().split(b"\n", 1)[1]
    path.write_bytes(b"[1, 2\n" + rest + b'[0, 15, "torn')
    again = predict(built, tmp_path, *options, LVEVAL_CACHE=str(cache))
    assert path.read_bytes().startswith(b"[1, 2\n" + rest) and b"torn" not in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"[1, 2\n", b"", 1))
    kept = cache_files(cache)
    for name, found in kept.items():
        assert sorted(line[0] for line in found) == list(range(60)), name  # each row once
    fresh = predict(built, tmp_path, *options, LVEVAL_CACHE=str(tmp_path / "fresh"))
    assert fresh.stdout == again.stdout
    assert {name: sorted(found) for name, found in cache_files(tmp_path / "fresh").items()} == {
        name: sorted(found) for name, found in kept.items()
    }
