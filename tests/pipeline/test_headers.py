"""A gateway that wants a header: it is sent, and its value stands in no artefact."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import in_process
from support.service import NAME, data, environment, predict

from lveval.backends.base import ApiOptions
from lveval.backends.openai.client import extra_headers
from lveval.common.errors import UsageError
from lveval.options import without_secrets

__all__ = ["environment"]  # fixtures

SECRET = "canary-5f2e71"


class Gate(BaseHTTPRequestHandler):
    """A gateway before a model: it answers who brings the header, and repeats what others bring."""

    def do_POST(self) -> None:
        """Answer a chat request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        given = self.headers.get("X-Gate", "")
        if given == SECRET:
            message = {"role": "assistant", "content": "1800"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            status, content = 200, json.dumps({"model": "toy", "choices": [choice]}).encode()
        else:
            message = {"message": f"wrong gate key: {given}"}
            status, content = 401, json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Address:
    """What tests of services know of a server."""

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.fixture
def gate() -> Iterator[Address]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Address(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize("header", ["X-Gate: $GATE_KEY", f"X-Gate: {SECRET}"])
def test_a_header_is_sent_and_its_value_is_written_nowhere(
    gate: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    monkeypatch.setenv("GATE_KEY", SECRET)
    data(tmp_path, 3)
    words = (
        "--tokenizer",
        "tiktoken:cl100k_base",
        "--backend-args",
        "served_model=toy",
        "--header",
    )
    found = predict(gate, tmp_path, *words, header)  # type: ignore[arg-type]
    assert found.returncode == 0, found.stderr
    assert SECRET not in found.stderr
    run = tmp_path / "out" / NAME
    for command in (("evaluation.py",), ("-m", "lveval", "report")):
        made = in_process(*command, "--input-dir", run)
        assert made.returncode == 0 and SECRET not in made.stdout + made.stderr, made.stderr
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("value", ["$GATE_KEY", "wrong-canary", "Bearer wrong-canary"])
def test_a_wrong_value_is_refused_and_not_repeated(
    gate: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GATE_KEY", "wrong-canary")
    data(tmp_path, 3)
    words = ("--tokenizer", "tiktoken:cl100k_base", "--header", f"X-Gate: {value}")
    found = predict(gate, tmp_path, *words)  # type: ignore[arg-type]
    assert found.returncode == 5 and "wrong gate key: ***" in found.stderr, found.stderr
    assert "wrong-canary" not in found.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("X-Gate", "expected NAME: VALUE"),
        ("X Gate: a", "expected NAME: VALUE"),
        ("X-Gate: $NO_SUCH_VARIABLE", "the variable NO_SUCH_VARIABLE is not set"),
        ("X-Gate: a\nX-Other: b", "a character that no header and no address has"),
    ],
)
def test_what_is_no_header_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        extra_headers(ApiOptions(headers=(text,)))


def test_a_command_line_is_kept_without_values() -> None:
    argv = ["--header", "A: b", "--header=C: d$e", "--header", "E: Bearer $F", "--limit", "3"]
    kept = ["--header", "A: ***", "--header=C: ***", "--header", "E: Bearer $F", "--limit", "3"]
    argv += ["--plugin-args", '{"api_key": "abc"}', "--backend-args=api_key=abc,window=3"]
    kept += ["--plugin-args", '{"api_key": "***"}', "--backend-args=api_key=***,window=3"]
    assert without_secrets(argv) == kept
