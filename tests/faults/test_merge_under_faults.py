"""A merge of parts that is killed at any moment is made again, to the same bytes."""

import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, row, write_data
from support.part_runs import contents, derived, evaluate, predict

from lveval.runs.merge import merge_parts

# Kills its own process at the n-th call that changes the disk, a write in the middle of it.
KILLED = """
import os, signal, sys
from pathlib import Path

left = int(sys.argv[2])


def counted(function, *, torn=False):
    def call(*arguments, **words):
        global left
        if left == 0:
            if torn:
                function(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **words)

    return call


from lveval.runs.merge import merge_parts

os.write, os.fsync = counted(os.write, torn=True), counted(os.fsync)
Path.rename = counted(Path.rename)
merge_parts(Path(sys.argv[1]))
"""


def answers(folder: Path) -> dict[str, list[bytes]]:
    """The lines of the exported files and of those in rows/, whose order is that of coming."""
    paths = (*folder.glob("*k.jsonl"), *folder.glob("rows/*.jsonl"))
    return {str(path.relative_to(folder)): sorted(path.read_bytes().split(b"\n")) for path in paths}


def test_a_merge_that_is_killed_at_each_step_is_made_again(tmp_path: Path) -> None:
    for level in ("1k", "2k"):
        rows = [row(number=number, words=20) for number in range(40)]
        write_data(tmp_path / "data", f"hotpotwikiqa_mixup_{level}", rows)
    words: tuple[str | Path, ...] = ("--backend", "echo", "--model-name", "dry", "--lengths")
    words += ("1k", "2k", "--datasets", "hotpotwikiqa_mixup", "--data-path", tmp_path / "data")
    predict(tmp_path / "single", *words)
    evaluate(tmp_path / "single/dry")
    for which in ("1/2", "2/2"):
        predict(tmp_path, *words, "--part", which)
    parts = [tmp_path / "dry.part1of2", tmp_path / "dry.part2of2"]
    before, merged = [contents(part) for part in parts], tmp_path / "dry"
    torn = 0
    for step in itertools.count():
        shutil.rmtree(merged, ignore_errors=True)
        command = [sys.executable, "-c", KILLED, str(merged), str(step)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
        assert [contents(part) for part in parts] == before
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        torn += any(not path.read_bytes().endswith(b"\n") for path in merged.glob("rows/*"))
        merge_parts(merged)
        assert answers(merged) == answers(tmp_path / "single/dry"), step
    evaluate(merged, "--merge")
    assert derived(merged) == derived(tmp_path / "single/dry")
    assert step > 20 and torn >= 4  # each part has rows of both files
