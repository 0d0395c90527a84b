"""lveval construct: the rows it builds, that they repeat byte for byte, and what it says about bad input.

python -m pytest tests/unit/test_construct.py
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil
from support.construct_parts import contents, script, sources

__all__ = ["sources"]  # fixtures


def test_same_bytes_whatever_the_hash_seed_the_workers_and_the_selection(
    tmp_path: Path, sources: Path
) -> None:
    both = ["--lengths", "64k", "2k", "--rows", "70"]  # 64k: more than one task a file
    assert script(tmp_path / "a", sources, *both, "--num-workers", "1", hash_seed="1") == 0
    assert script(tmp_path / "b", sources, *both, "--num-workers", "2", hash_seed="2") == 0
    one = ["--lengths", "2k", "--rows", "3", "--datasets", "lic_mixup", "--num-workers", "1"]
    assert script(tmp_path / "c", sources, *one) == 0
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert len(a) == 4
    assert a == b
    assert c == {
        "lic_mixup_2k.jsonl": b"".join(a["lic_mixup_2k.jsonl"].splitlines(keepends=True)[:3])
    }


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lveval",
        "construct",
        "--output-dir",
        str(tmp_path / "out"),
        "--rows",
        "50",
    ]
    with subprocess.Popen(
        [*command, "--lengths", "64k", "--num-workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + 60
        builders: list[psutil.Process] = []
        while len(builders) < 2 and time.monotonic() < end:
            time.sleep(0.05)
            builders = psutil.Process(process.pid).children(recursive=True)
        time.sleep(1)  # they have begun
        process.kill()
    assert len(builders) >= 2 and not psutil.wait_procs(builders, timeout=20)[1]
