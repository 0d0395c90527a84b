"""What is far larger, longer or deeper than anything that is meant: memory and time stay bounded."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, lines
from support.data_files import PEAK
from support.fault_server import ENDLESS, TRICKLING
from support.service import (
    FILE,
    NAME,
    Served,
    assert_all_right,
    attempts,
    command,
    data,
    environment,
    predict,
    server,
)

__all__ = ["environment", "server"]  # fixtures

# A command in a process of its own; last on standard output: its exit code, and how many megabytes
# it took beyond what its imports take.
COMMAND = f"""{PEAK}
import datasets, openai, pyarrow, tiktoken
from lveval import cli
from lveval.common.errors import LVEvalError, ending
from lveval.common import streams
streams.make_safe()
before = peak_mb()
try:
    code = cli.main(sys.argv[1:])
except LVEvalError as error:
    message, code = ending(error)
    print(message, file=sys.stderr)
print(int(code), peak_mb() - before)
"""


def measured(*words: str | Path, seconds: float = 120) -> tuple[int, int, str]:
    """Run a subcommand of lveval: (exit code, megabytes that it took, what it said)."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, megabytes = map(int, done.stdout.splitlines()[-1].split())
    return code, megabytes, done.stderr


# --- Replies ----------------------------------------------------------------------------------------------------------


def test_a_reply_without_end_takes_little_memory_and_time(server: Served, tmp_path: Path) -> None:
    """A gigabyte, however it comes, or a byte now and then: the row stays open, others go on."""
    kinds = [*ENDLESS, *TRICKLING]
    data(tmp_path, len(kinds) + 2)
    questions = [str(line["input"]) for line in lines(tmp_path / "data" / f"{FILE}.jsonl")]
    server.control(fates=dict(zip(questions, kinds, strict=False)))
    words = command(server, tmp_path, "--concurrency", "8")
    words[-3] = f"{words[-3]},timeout=1,timeout_per_1k=0"
    code, megabytes, said = measured("predict", *words[1:])
    assert code == 3, said
    assert megabytes < 400  # five replies at once, of 32 MiB each, and the tokenizer
    ends = {str(end["index"]): end for end in attempts(tmp_path)}  # the last of each row
    for number, kind in enumerate(kinds):
        end = ends.pop(str(number))
        trickles = kind in TRICKLING
        assert end["cause"] == ("error" if trickles else "invalid"), (kind, end)
        expected = "no reply in time" if trickles else "the reply has more than 33554432 bytes"
        assert str(end["message"]).startswith(expected), (kind, end)
    assert not ends
    answered = lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")
    assert [record["index"] for record in answered] == [len(kinds), len(kinds) + 1]
    server.control(fates={})
    assert predict(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, len(kinds) + 2)
