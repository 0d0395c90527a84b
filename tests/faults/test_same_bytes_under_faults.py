"""Scores do not depend on where and how Python runs: equal bytes of every result file."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from support.run_folders import small_run

from lveval.evaluation import RESULT_FILES

# Evaluates and shows a run, with the entries of folders listed backwards.
CODE = """
import sys
from pathlib import Path
from lveval import cli
listed = Path.iterdir
Path.iterdir = lambda path: iter(sorted(listed(path), reverse=True))
sys.setrecursionlimit(int(sys.argv[2]))
for words in (["evaluate"], ["report", "--output", f"{sys.argv[1]}/report.html"]):
    if code := cli.main([*words, "--input-dir", sys.argv[1]]):
        sys.exit(code)
"""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# Recursion limit, umask, Python's options and the environment: what differs is found by taking
# some of them out.
OTHERS: dict[str, tuple[int, int, list[str], dict[str, str]]] = {
    "a\nrun": (
        400,
        0o077,
        [],
        {
            "PYTHONHASHSEED": "1",
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "ascii",
            "TZ": "Pacific/Kiritimati",
            **dict.fromkeys(THREADS, "1"),
        },
    ),
    "灯塔 run": (
        10**6,
        0o000,
        ["-O", "-B"],
        {
            "PYTHONHASHSEED": "random",
            "LC_ALL": "tr_TR.UTF-8",
            "TZ": "America/St_Johns",
            **dict.fromkeys(THREADS, "7"),
        },
    ),
}


def run(words: list[str], folder: Path, umask: int, environment: dict[str, str]) -> None:
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        umask=umask,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_surroundings_change_no_byte_of_the_results(tmp_path: Path) -> None:
    """Neither of the scores nor of what they are explained by; of the page its name is left out."""

    def made(place: str) -> dict[str, bytes]:
        return {name: (small_run_in(place) / name).read_bytes() for name in RESULT_FILES}

    def small_run_in(place: str) -> Path:
        return tmp_path / place / "same"

    for place in ("plain", *OTHERS):
        (tmp_path / place).mkdir()
        small_run(small_run_in(place))
    plain = [sys.executable, str(ROOT / "evaluation.py"), "--input-dir", str(small_run_in("plain"))]
    run(plain, tmp_path, 0o022, {"PYTHONHASHSEED": "0"})
    expected = made("plain")
    run(
        [sys.executable, "-m", "lveval", "report", "--input-dir", str(small_run_in("plain"))],
        tmp_path,
        0o022,
        {"PYTHONHASHSEED": "0"},
    )
    page = (small_run_in("plain") / "report.html").read_bytes()
    for place, (limit, umask, options, environment) in OTHERS.items():
        words = [sys.executable, *options, "-c", CODE, "same", str(limit)]
        run(words, tmp_path / place, umask, environment)
        found = made(place)
        assert [name for name in RESULT_FILES if found[name] != expected[name]] == [], place
        assert (small_run_in(place) / "report.html").read_bytes() == page, place
