"""What surrounds a command may be hostile or broken: streams, limits, links, names, the umask."""

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, lines, row, write_data

NAME = "cmrc_mixup_1k"


def echo(folder: Path, *more: str) -> list[str]:
    """The words of a small run, whose rows hold Chinese text."""
    if not (folder / "data").exists():
        write_data(folder / "data", NAME, [row("cmrc_mixup", number, 60) for number in range(3)])
    words = [sys.executable, "prediction.py", "--backend", "echo", "--model-name", "dry"]
    words += ["--lengths", "1k", "--datasets", "cmrc_mixup", "--data-path", str(folder / "data")]
    return [*words, "--output-dir", str(folder / "out"), *more]


def evaluation(folder: Path) -> list[str]:
    return [sys.executable, "evaluation.py", "--input-dir", str(folder / "out/dry")]


def run(
    words: Sequence[str],
    *,
    redirection: str = "",
    before: Callable[[], object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a command; a shell redirects its streams."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *words],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        preexec_fn=before,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("where", [("--single-process",), ("--num-workers", "1")])
def test_no_stream_ends_a_run(tmp_path: Path, redirection: str, where: tuple[str, ...]) -> None:
    found = run(echo(tmp_path, *where), redirection=redirection)
    assert found.returncode == 0, found.stderr
    assert [record["index"] for record in lines(tmp_path / f"out/dry/{NAME}.jsonl")] == [0, 1, 2]
    scored = run(evaluation(tmp_path), redirection=redirection)
    assert scored.returncode == 0, scored.stderr
    assert (tmp_path / "out/dry/results.json").exists()


def test_a_full_standard_output_is_one_line_after_all_was_written(tmp_path: Path) -> None:
    for words in (echo(tmp_path, "--single-process"), evaluation(tmp_path)):
        found = run(words, redirection=">/dev/full")
        assert found.returncode == 6, found.stderr
        assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr
        last = found.stderr.splitlines()[-1]
        assert last == "error: standard output: No space left on device"
    assert (tmp_path / "out/dry/results.json").exists()


def test_an_encoding_without_our_signs_ends_nothing(tmp_path: Path) -> None:
    plain = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    plain |= {"PYTHONCOERCECLOCALE": "0"}
    report = [sys.executable, "-m", "lveval", "report", "--input-dir", str(tmp_path / "out/dry")]
    for words in (echo(tmp_path, "--single-process"), evaluation(tmp_path), report):
        found = run(words, environment=plain)
        assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr


@pytest.mark.parametrize("place", ["--output-dir", "--data-path", "--input-dir"])
@pytest.mark.parametrize("name", ["n" * 256, "a/" * 3000])
def test_a_path_that_no_system_takes_is_one_line(tmp_path: Path, place: str, name: str) -> None:
    words = evaluation(tmp_path) if place == "--input-dir" else echo(tmp_path, "--single-process")
    words[words.index(place) + 1] = str(tmp_path / name)
    found = run(words)
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert "File name too long" in found.stderr.splitlines()[-1]


def test_too_few_descriptors_for_the_workers_are_one_line(tmp_path: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    found = run(echo(tmp_path, "--num-workers", "2"), before=few)
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert "ulimit -n" in found.stderr.splitlines()[-1]
    assert run(echo(tmp_path, "--num-workers", "2")).returncode == 0


@pytest.mark.parametrize("megabytes", [32, 64, 128, 192, 256])
def test_too_little_memory_for_the_imports_is_one_line(tmp_path: Path, megabytes: int) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))

    words = echo(tmp_path, "--single-process")
    if run([words[0], "-c", "pass"], before=little).returncode:
        pytest.skip(f"no Python starts within {megabytes} MB")
    found = run([*words, "--help"], before=little)
    assert "Traceback" not in found.stderr, found.stderr
    # numpy's own libraries in C end a process themselves.
    assert found.returncode in (0, 2, 6) or found.stderr.startswith("OpenBLAS"), found.stderr
    run(words, before=little)  # however libraries in C end that one, the next goes on
    assert run(words).returncode == 0


def test_a_umask_of_nothing_lets_nobody_else_write(tmp_path: Path) -> None:
    for words in (echo(tmp_path, "--single-process"), evaluation(tmp_path)):
        assert run(words, before=lambda: os.umask(0)).returncode == 0
    paths = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert len(paths) > 10
    open_to_others = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o022]
    assert not open_to_others


@pytest.mark.parametrize(
    "name", [".lock", f"rows/{NAME}.jsonl", "times.jsonl", "attempts.jsonl", "run.json"]
)
def test_nothing_is_written_through_a_planted_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text('{"precious": 1}\n{"torn')
    planted = tmp_path / "out/dry" / name
    planted.parent.mkdir(parents=True)
    planted.symlink_to(victim)
    found = run(echo(tmp_path, "--single-process"))
    assert victim.read_text() == '{"precious": 1}\n{"torn'
    assert "Traceback" not in found.stderr, found.stderr
    if name != "times.jsonl":  # of which a run only warns
        assert found.returncode in (2, 4, 6), found.stderr


@pytest.mark.parametrize("script", ["prediction.py", "evaluation.py", "-m lveval"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_among_the_imports_is_one_line(script: str, number: signal.Signals) -> None:
    """At every 15 ms of what Python's own start leaves."""
    how = (
        'run_path("prediction.py", run_name="__main__")'
        if script == "prediction.py"
        else 'run_path("evaluation.py", run_name="__main__")'
        if script == "evaluation.py"
        else 'run_module("lveval", run_name="__main__", alter_sys=True)'
    )
    code = (
        "import os, runpy, signal, sys\n"
        "import lveval.common.startup\n"  # what comes before it is Python's own start
        f"signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), {int(number)}))\n"
        "signal.setitimer(signal.ITIMER_REAL, float(sys.argv.pop(1)))\n"
        f"runpy.{how}\n"
    )
    interrupted = 0
    for step in range(1, 24):
        words = [sys.executable, "-c", code, str(step * 0.015), "--help"]
        found = run(words)
        assert "Traceback" not in found.stderr, found.stderr
        if found.returncode == -signal.SIGALRM:  # the help was out, and Python's own end begun
            break
        if found.returncode:
            interrupted += 1
            assert found.returncode == 128 + number, (found.returncode, found.stderr)
            assert found.stderr.startswith("interrupted"), found.stderr
    assert interrupted


@pytest.mark.parametrize("index", [7, 0])
def test_a_derived_file_adds_no_row(tmp_path: Path, index: int) -> None:
    """One bit of an index: another row's number, or one that the data file does not have."""
    assert run(echo(tmp_path, "--single-process")).returncode == 0
    derived = tmp_path / f"out/dry/{NAME}.jsonl"
    whole = derived.read_text()
    derived.write_text(whole.replace('"index": 2', f'"index": {index}'))
    found = run(evaluation(tmp_path))
    assert found.returncode == 6 and f"{derived}:3: " in found.stderr, found.stderr
    rows = tmp_path / "out/dry/rows"
    rows.rename(tmp_path / "rows")  # a run that is passed on without them
    found = run(evaluation(tmp_path))
    assert found.returncode in (2, 6) and f"{derived}:3: " in found.stderr, found.stderr
    derived.write_text(whole)
    assert run(evaluation(tmp_path)).returncode == 0
