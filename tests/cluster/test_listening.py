"""While a run with workers goes on, nothing of it can be reached by others: no port, no key."""

import time
from pathlib import Path

import psutil
import pytest
from support.processes import ECHO, listening, running, wait_for_rows


def test_nothing_listens_beyond_this_machine_and_the_clusters_key_is_in_no_file(
    data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in an argument or the environment of a process either, nor after a kill."""
    for name in ("TMPDIR", "LVEVAL_CACHE"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    given = "prediction.py", *ECHO, "--data-path", data_path, "--output-dir", tmp_path / "outputs"
    some = "--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--backend-args", "delay=2"
    seen: set[tuple[str, str]] = set()
    told = b""
    with running(*given, *some, "--num-workers", "2") as process:
        tree = psutil.Process(process.pid)
        wait_for_rows(tmp_path / "outputs/dry", 1)
        end = time.monotonic() + 2
        while time.monotonic() < end and process.poll() is None:
            seen |= listening(tree)
            time.sleep(0.05)
        assert process.poll() is None
        workers = tree.children(recursive=True)
        for each in (tree, *workers):
            told += Path(f"/proc/{each.pid}/environ").read_bytes()
            told += Path(f"/proc/{each.pid}/cmdline").read_bytes()
        process.kill()
        assert not psutil.wait_procs(workers, 60)[1]  # they end by themselves
    # The scheduler and two workers do listen, or nothing would be shown here.
    assert len({who for who, _ in seen}) >= 3, seen
    assert {address for _, address in seen} <= {"127.0.0.1", "a file"}, seen
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert b"PATH=" in told and b"PRIVATE KEY" not in told
    assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert not list((tmp_path / "TMPDIR").iterdir())
    assert not (tmp_path / "LVEVAL_CACHE/workers").stat().st_mode & 0o077
