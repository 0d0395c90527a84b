"""data.py: rows, every fault that one can have, and the cached copies. Where files come from: test_data_sources.py."""

import subprocess
import sys
import time
from pathlib import Path

from support.data_files import PEAK, ROOT, SUBSET, cache, child, folder_with, line

__all__ = ["cache"]  # fixtures

RACE = """
import sys, time
from pathlib import Path
import datasets, pyarrow
from lveval.data.dataset import load_file
while time.time() < float(sys.argv[2]):
    pass
file = load_file("hotpotwikiqa_mixup", "16k", Path(sys.argv[1]))
print(len(file), file.fingerprint, sum(len(file.row(i)["context"]) for i in range(len(file))))
"""


def test_two_processes_make_the_same_copy_at_once(tmp_path: Path, cache: Path) -> None:
    folder = folder_with(tmp_path, line(context="word " * 20_000) * 30)
    start = time.time() + 2.5
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, folder, str(start)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    said = [racer.communicate(timeout=60)[0] for racer in racers]
    assert said[0].startswith("30 sha256:")
    assert said[0] == said[1] == said[2]
    assert len(list((cache / "data").rglob("*.*"))) == 1


MEMORY = f"""{PEAK}
import datasets, pyarrow, tqdm
from lveval.data.dataset import load_file
before = peak_mb()
file = load_file("hotpotwikiqa_mixup", "256k", Path(sys.argv[1]))
built = peak_mb()
for i in range(len(file)): assert len(file.row(i)["context"]) >= 1_500_000
print(len(file), built - before, peak_mb() - before)
"""


def test_memory_stays_that_of_a_row(tmp_path: Path) -> None:
    """A file of 180 MB: making its copy takes little; reading it maps the copy, whose pages count while in use."""
    path = tmp_path / "data" / f"{SUBSET}_256k.jsonl"
    path.parent.mkdir()
    with path.open("wb") as stream:
        for i in range(120):
            stream.write(line(context=f"word{i} " * 250_000))
    done = child(MEMORY, path.parent)
    assert done.returncode == 0, done.stderr
    rows, built, read = map(int, done.stdout.split())
    assert rows == 120
    assert built < 120, f"making the copy took {built} MB"
    assert read < 300, f"reading it took {read} MB"
