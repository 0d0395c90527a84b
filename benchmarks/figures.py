"""What the benchmarks share: one line a figure, the commands that they time, and a watch on a row file."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout is not installed


def report(name: str, figure: str, goal: str = "", met: bool = True) -> bool:
    """Print a figure against its goal (blank where it only informs); returns whether it was met."""
    verdict = f"   goal {goal:<18} {'ok' if met else 'MISSED'}" if goal else ""
    print(f"{name:<74} {figure:>30}{verdict}", flush=True)
    return met


def report_ratio(name: str, seconds: float, base: float, goal: float | None) -> bool:
    """Print seconds over those of a base timed beside it; returns whether it is within the goal."""
    ratio = seconds / base
    figure = f"{ratio:.3f} ({seconds:.2f} s / {base:.2f} s)"
    return report(name, figure, f"<= {goal}" if goal else "", not goal or ratio <= goal)


def construct(folder: Path, *options: str | int) -> None:
    """Build data in a folder."""
    command = [sys.executable, "-m", "lveval", "construct", "--output-dir", folder]
    subprocess.run(
        [*map(str, [*command, *options])], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def predict(folder: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start prediction.py on the data in folder/data; the run folder is folder/out/NAME."""
    command = [sys.executable, ROOT / "prediction.py", *options]
    command += ["--data-path", folder / "data", "--output-dir", folder / "out"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [*map(str, command)], env=os.environ | environment, stdout=quiet, stderr=quiet
    )


def time_rows(process: subprocess.Popen[bytes], path: Path) -> tuple[float, int]:
    """Wait for a run; returns the seconds from the first write of its row file to the last.

    The first answers come together: what is timed are the rows after them, whose number is the
    second value.
    """
    first = last = 0.0
    before = seen = 0
    while process.poll() is None:
        size = path.stat().st_size if path.exists() else 0
        if size > seen:
            seen, last = size, time.perf_counter()
            if not first:
                first, before = last, path.read_bytes().count(b"\n")
        time.sleep(0.002)
    assert process.returncode == 0
    return last - first, path.read_bytes().count(b"\n") - before
