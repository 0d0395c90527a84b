"""What is far larger, longer or deeper than anything that is meant: memory and time stay bounded."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from support.data_files import PEAK
from support.fault_server import ENDLESS, TRICKLING
from support.service import (
    FAST,
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

from lveval.backends.base import ApiOptions
from lveval.backends.openai import service
from lveval.backends.openai.client import MOST_BYTES

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
    """A gigabyte, however it comes, or a byte now and then: it is an attempt, and the run goes on."""
    kinds = [*ENDLESS, *TRICKLING]
    data(tmp_path, len(kinds) + 1)
    server.control(script=kinds)
    words = command(server, tmp_path)
    words[-1] = f"{words[-1]},timeout=3,timeout_per_1k=0"
    code, megabytes, said = measured("predict", *words[1:])
    assert code == 0, said
    assert_all_right(tmp_path, len(kinds) + 1)
    served = server.stats["served"]
    assert isinstance(served, dict) and served.keys() == {"ok", *kinds}
    too_much = f"the reply has more than {MOST_BYTES} bytes"
    told = Counter(str(attempt["message"]) for attempt in attempts(tmp_path))
    assert told == {too_much: len(ENDLESS), "no reply in time": len(TRICKLING)}
    assert megabytes < 400  # five replies at once, of 32 MiB each, and the tokenizer


@pytest.mark.parametrize("kind", ["giant", "giant-zipped", "trickle", "trickle-head", "nested"])
def test_a_tokenizers_reply_without_end_is_waited_for(
    server: Served, tmp_path: Path, kind: str
) -> None:
    """So are those of batches, which are asked for the same way."""
    data(tmp_path, 1)
    server.control(tokenizer_script=["ok", "ok", kind])
    trickles = kind in TRICKLING
    words = "--tokenizer", "server", "--backend-args", f"{FAST},timeout={1 if trickles else 60}"
    done = predict(server, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    expected = "no reply in time" if trickles else f"the reply has more than {MOST_BYTES} bytes"
    expected = "the reply is no JSON" if kind == "nested" else expected
    assert f"waiting for the service: {expected}" in done.stderr
    assert_all_right(tmp_path, 1)


@pytest.mark.parametrize("kind", ["giant", "trickle", "trickle-head", "nested"])
def test_a_list_of_models_without_end_tells_no_window(
    server: Served, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(service, "LISTING_SECONDS", 1.0)
    api = ApiOptions(base_url=f"{server.url}/v1")
    server.control(max_model_len=4096, model=NAME)
    assert service.told_window(api, NAME) == 4096
    server.control(listing=kind)
    assert service.told_window(api, NAME) is None
