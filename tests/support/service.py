"""What tests of openai_api share."""

import contextlib
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, lines, row, tiktoken_files, write_data

from lveval import prediction
from lveval.common.errors import LVEvalError
from lveval.common.text import printable
from lveval.execution import worker
from support import fault_server
from support.fault_server import answer_to

KEY = "sk-very-secret-0123456789"
NAME = "gpt-4o-2024-08-06"
FILE = "hotpotwikiqa_mixup_1k"
# A failed try is repeated at once, and no wish of the server makes the test wait.
FAST = "first_wait=0.01,longest_wait=0.05"


class Served:
    """A running fault server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(f"{self.url}{path}", data, timeout=30) as reply:
            answer: dict[str, object] = json.load(reply)
        return answer

    def control(self, **what: object) -> None:
        self.ask("/control", what)

    @property
    def stats(self) -> dict[str, object]:
        return self.ask("/stats")

    @property
    def asked(self) -> Counter[str]:
        found = self.stats["asked"]
        assert isinstance(found, dict)
        return Counter(found)

    @property
    def requests(self) -> int:
        return self.asked.total() + int(str(self.stats["probes"]))

    @property
    def body(self) -> dict[str, object]:
        """The last request's, without its prompt."""
        bodies = self.stats["bodies"]
        assert isinstance(bodies, list)
        last: dict[str, object] = bodies[-1]
        return last


@contextmanager
def serving(*options: str) -> Iterator[Served]:
    with fault_server.serving(*options) as url:
        yield Served(url)


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


def command(server: Served, folder: Path, *options: str | Path) -> list[str | Path]:
    return [
        "prediction.py", "--backend", "openai", "--base-url", f"{server.url}/v1", "--model-name", NAME,
        "--data-path", folder / "data", "--output-dir", folder / "out", "--datasets", FILE.removesuffix("_1k"),
        "--lengths", "1k", "--backend-args", FAST, *options,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", tiktoken_files())


class Ended(NamedTuple):
    returncode: int
    stderr: str


def predict(server: Served, folder: Path, *options: str | Path) -> Ended:
    """prediction.py, run in this process: a process of its own takes seconds to import what it needs."""
    worker._loaded = None  # a new start asks the service anew
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        patch.setattr(sys, "argv", list(map(str, command(server, folder, *options))))
        try:
            code = int(prediction.main())
        except LVEvalError as error:
            return Ended(int(error.code), f"{said.getvalue()}\nerror: {printable(error.message)}")
    return Ended(code, said.getvalue())


@contextmanager
def starting(server: Served, folder: Path, *options: str | Path) -> Iterator[subprocess.Popen[str]]:
    """prediction.py as a process of its own."""
    words = [sys.executable, *map(str, command(server, folder, *options))]
    with subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_requests(server: Served, number: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while server.asked.total() < number and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def data(folder: Path, rows: int) -> None:
    write_data(folder / "data", FILE, [row(number=number) for number in range(rows)])


def records(folder: Path) -> list[dict[str, object]]:
    return lines(folder / "out" / NAME / f"{FILE}.jsonl")


def attempts(folder: Path) -> list[dict[str, object]]:
    path = folder / "out" / NAME / "attempts.jsonl"
    return lines(path) if path.exists() else []


def assert_all_right(folder: Path, rows: int) -> None:
    found = records(folder)
    assert [record["index"] for record in found] == list(range(rows))
    assert all(record["pred"] == answer_to(str(record["input"])) for record in found)
