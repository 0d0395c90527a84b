"""A key, a header's value and a password, sent through every error path, appear nowhere.

Each canary has signs that every encoding spells in another way. Looked at are all that a run
leaves (its folder, the cache, the temporary files), what is printed, and the argument lists of its
processes.
"""

import base64
import html
import json
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psutil
import pytest
from conftest import ROOT, in_process, row, tiktoken_files, write_data
from support.fault_server import answer_to
from support.processes import listening
from support.service import (
    FAST,
    FILE,
    NAME,
    Ended,
    Served,
    attempts,
    command,
    data,
    predict,
    records,
    server,
)

__all__ = ["server"]  # fixtures

KEY = "sk-canary/5f2e+71a9==c0ffee-4d3b"
GATE = 'gate-canary/77d1"&<03b2+e9\\aa41=='
CODE = "code-canary/9c11+4e7d&b0f2=="
PROXY = "proxycanary8b1d4f66"
SECRETS = (KEY, GATE, CODE, PROXY)

TOLD = 8  # characters of a key that a service may leave of it, as of a mask


def in_base64(secret: str, before: int) -> str:
    """What of a secret's base64 stays the same within a longer text."""
    encoded = base64.b64encode(b"x" * before + secret.encode()).decode()
    return encoded[4 if before else 0 : -4]


def pieces() -> Iterator[bytes]:
    """Every piece of a secret that is more than a mask leaves, as it is and in base64."""
    for secret in SECRETS:
        for text in (secret, *(in_base64(secret, before) for before in range(3))):
            most = TOLD + 1 if text is secret else 12
            for at in range(len(text) - most + 1):
                yield text[at : at + most].encode()


PIECES = frozenset(pieces())


def require_none(content: str | bytes, where: object) -> None:
    found = content.encode(errors="replace") if isinstance(content, str) else content
    found = found.lower()
    leaks = [piece for piece in PIECES if piece.lower() in found]
    assert not leaks, (str(where), leaks[:3], found[-3000:])


def require_none_below(folder: Path) -> None:
    for path in folder.rglob("*"):
        require_none(str(path.relative_to(folder)), path)
        if path.is_file():
            require_none(path.read_bytes(), path)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets in the environment, and folders of the test's own for all that is written."""
    for name, value in (("OPENAI_API_KEY", KEY), ("GATE_KEY", GATE), ("GATE_CODE", CODE)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", tiktoken_files())
    for name in ("TMPDIR", "LVEVAL_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()


def gated(server: Served, *options: str | Path) -> tuple[str | Path, ...]:
    """The options of a service that wants three secrets."""
    address = f"{server.url}/v1?code=$GATE_CODE"
    return "--base-url", address, "--header", "X-Gate: $GATE_KEY", *options


# --- What a service may repeat, and how -----------------------------------------------------------

ALL = f"key {KEY}, X-Gate {GATE}, code {CODE}"
HEADERS = {"authorization": f"Bearer {KEY}", "x-gate": GATE}
PAGE = f"<html><pre>{html.escape(ALL)}</pre></html>"


def error(message: str, **more: str) -> str:
    return json.dumps({"error": {"message": message, **more}})


def finished(text: object, reason: str = "stop", model: str = NAME) -> str:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return json.dumps({"model": model, "choices": [choice]})


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


BASIC = base64.b64encode(f"user:{KEY}".encode()).decode()
LONG = "a word " * 22  # what is said is cut, which must not cut a secret from its end

# Status, headers and body of replies that no row survives; the words that must show that the
# secret was there ("": the message has other words).
ECHOES: dict[str, tuple[int, dict[str, str], str, str]] = {
    "a wrong key": (401, {}, error(f"Incorrect API key provided: {KEY}."), "***"),
    "a key cut by the service": (401, {}, error(f"no such key: {KEY[:20]}"), "***"),
    "a key masked by the service": (401, {}, error(f"bad: {KEY[:8]}********4d3b"), "****4d3b"),
    "no right": (403, {}, error(f"the key {KEY} may not"), "***"),
    "a quota": (429, {}, error(f"quota of {KEY}", code="insufficient_quota"), "***"),
    "a model": (404, {}, error(f"no model for {GATE}", code="model_not_found"), "***"),
    "headers repeated": (400, {}, error(f"bad request: {json.dumps(HEADERS)}"), "***"),
    "headers as an object": (400, {}, json.dumps({"detail": HEADERS}), "***"),
    "a field with its name": (400, {}, error("bad field", param=KEY), "bad field"),
    "a code": (400, {}, error("bad", code=KEY), "***"),
    "not text but a number": (422, {}, json.dumps({"detail": [{"loc": ["body", KEY]}]}), "***"),
    "a plain text": (500, {}, f"cannot serve {ALL}", "***"),
    "a page": (502, {"Content-Type": "text/html"}, PAGE, "a page"),
    "a page within JSON": (503, {}, error(PAGE), "***"),
    "an address": (500, {}, error(f"GET /v1?code={quote(CODE, safe='')}"), "code=***"),
    "a form": (500, {}, error(f"code={quote_plus(CODE)}"), "code=***"),
    "small letters": (500, {}, error(f"code={quote(CODE, safe='').lower()}"), "code=***"),
    "base64": (529, {}, error(f"Authorization: Basic {BASIC}"), "Basic"),
    "base64 of the key alone": (529, {}, error(base64.b64encode(KEY.encode()).decode()), "***"),
    "escapes": (500, {}, '{"error": {"message": "' + escaped(KEY) + '"}}', "***"),
    "a representation": (500, {}, error(repr(HEADERS)), "***"),
    "after many words": (500, {}, error(f"{LONG * 2}{KEY[:4]}{LONG}{KEY}"), "a word"),
    "at the cut": (500, {}, error(f"{'x' * 262} {GATE}"), "xxx"),
    "malformed": (200, {}, f'{{"key": "{KEY}", "cut of', "no JSON"),
    "malformed at the cut": (200, {}, f"{{'xyz': '{GATE}' cut of", "no JSON"),
    "an error of status 200": (200, {}, error(f"upstream: {KEY}"), "***"),
    "one after many words": (200, {}, error(f"{'x' * 230} {GATE}"), "xxx"),
    "a failure handed on": (200, {}, json.dumps({"error": {"code": 500, "message": ALL}}), "***"),
    "a list for a content": (200, {}, finished({"x": KEY}), "content"),
    "the name of a model": (200, {}, finished("1800", model=KEY), "of the model"),
    "the answer": (200, {}, finished(f"the key is {KEY}"), "repeats the key"),
    "an answer with the header": (200, {}, finished(f"the gate is {GATE}"), "repeats the key"),
    "a finish reason": (200, {}, finished("1800", reason=KEY), "repeats the key"),
    "a finish reason of nothing": (200, {}, finished("", reason=KEY), "***"),
    "a stream with an error": (200, {}, f"data: {error(KEY)}\n\n", "***"),
    "a redirect": (307, {"Location": f"http://u:{KEY}@127.0.0.1:1/{GATE}?x=1"}, "", "redirects"),
}


def replies() -> dict[str, dict[str, Any]]:
    """As the server takes them; it puts the model's name where "model" stands."""
    return {
        kind: {"status": status, "headers": headers, "body": body.replace('"model"', '"model" ')}
        for kind, (status, headers, body, _) in ECHOES.items()
    }


def test_there_are_enough_paths() -> None:
    assert len(ECHOES) + len(STARTS) + len(OPTIONS) + len(BATCHES) + len(ENGINES) >= 60


def test_rows_that_a_service_answers_with_what_it_was_sent(server: Served, tmp_path: Path) -> None:
    """One run, a kind of reply for each row; then all that reads a run."""
    well = 12
    data(tmp_path, well + len(ECHOES))
    kinds = {str(row(number=well + n)["input"]): kind for n, kind in enumerate(ECHOES)}
    server.control(replies=replies(), fates=kinds)
    found = predict(server, tmp_path, *gated(server, "-v"))
    assert found.returncode == 3, found.stderr
    require_none(found.stderr, "printed")
    said: dict[int, list[str]] = {}
    for attempt in attempts(tmp_path):
        said.setdefault(int(str(attempt["index"])), []).append(str(attempt["message"]))
    for number, (kind, (*_, words)) in enumerate(ECHOES.items()):
        assert any(words in each for each in said[well + number]), (kind, said[well + number])
    require_none_below(tmp_path)
    run = tmp_path / "out" / NAME
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("evaluation.py", "--input-dir", run, "--allow-partial", "-v"),
        ("-m", "lveval", "report", "--input-dir", run, "--markdown", "--latex"),
        ("-m", "lveval", "export", run, "--format", "lm-eval", "--allow-partial"),
        ("-m", "lveval", "verify", run),
        ("prediction.py", "--plan", *command(server, tmp_path, *gated(server))[1:]),
    )
    for command_line in commands:
        done = in_process(*command_line)
        require_none(done.stdout + done.stderr, command_line)
    require_none_below(tmp_path)


# --- A service that does not answer at all --------------------------------------------------------

NOW = ("--wait-for-service", "0.001")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Short(socketserver.BaseRequestHandler):
    """A server that is none: a line, whatever is asked."""

    def handle(self) -> None:
        """Write and close."""
        self.request.sendall(b"what?\n")


@pytest.fixture
def short() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Short) as found:
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield str(found.server_address[1])
        found.shutdown()


@dataclass
class Start:
    """A run whose first question fails."""

    code: int
    said: str  # by it
    control: Mapping[str, object] | None = None  # of the server
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None


STARTS = {
    "a wrong key": Start(5, "refuses the key", {"mode": "a wrong key"}),
    "a plain text": Start(3, "***", {"mode": "a plain text"}),
    "malformed": Start(3, "no JSON", {"mode": "malformed at the cut"}),
    "an answer": Start(3, "repeats the key", {"mode": "the answer"}),
    "another model": Start(5, "answers with the model", {"mode": "the name of a model"}),
    "a redirect": Start(5, "redirects to", {"mode": "a redirect"}),
    "a crowd": Start(3, "***", {"mode": "crowded"}),
    "a reset": Start(3, "connection failed", {"mode": "reset"}),
    "half a reply": Start(3, "connection failed", {"mode": "reset-in-body"}),
    "silence": Start(
        3, "no reply in time", {"mode": "silent"}, ("--backend-args", "timeout=0.3,first_wait=0.01")
    ),
    "nobody": Start(
        3, "nothing listens", None, ("--base-url", "http://127.0.0.1:PORT?k=$GATE_CODE")
    ),
    "no such name": Start(3, "is not found", None, ("--base-url", "http://no.invalid/$GATE_KEY")),
    "no TLS": Start(3, "connection failed", None, ("--base-url", "https://127.0.0.1:SHORT/v1")),
    "a proxy that is off": Start(
        3, "by the proxy", None, (), {"HTTP_PROXY": f"http://user:{PROXY}@127.0.0.1:PORT"}
    ),
    "a proxy of no kind": Start(
        2, "no client can be made", None, (), {"HTTP_PROXY": f"htp://user:{PROXY}@127.0.0.1:1"}
    ),
    "a proxy that answers": Start(
        5, "the proxy", {"mode": "407"}, (), {"HTTP_PROXY": f"http://user:{PROXY}@127.0.0.1:SERVER"}
    ),
    "a proxy of another protocol": Start(
        2, "no client can be made", None, (), {"ALL_PROXY": f"socks5://user:{PROXY}@127.0.0.1:1"}
    ),
    "no certificates": Start(2, "no client can be made", None, (), {"SSL_CERT_FILE": f"/no/{KEY}"}),
    "a tokenizer that fails": Start(
        3, "***", {"tokenizer_script": ["a plain text"] * 9}, ("--tokenizer", "server")
    ),
    "Bearer and a word": Start(
        5, "***", {"mode": "a wrong key"}, ("--header", "Authorization: Bearer $OPENAI_API_KEY")
    ),
}

IN_PROXY = base64.b64encode(f"user:{PROXY}".encode()).decode()
MORE: dict[str, tuple[int, dict[str, str], str]] = {
    "crowded": (429, {"Retry-After": KEY}, error(f"slow down, {KEY}")),
    "407": (407, {}, error(f"Proxy-Authorization: Basic {IN_PROXY} ({PROXY}) is wrong")),
}


@pytest.mark.parametrize("kind", STARTS)
def test_a_start_that_fails(
    server: Served, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    start = STARTS[kind]
    data(tmp_path, 1)
    ports = {"PORT": str(free_port()), "SHORT": short, "SERVER": server.url.rpartition(":")[2]}

    def filled(text: str) -> str:
        for name, port in ports.items():
            text = text.replace(name, port) if f":{name}" in text else text
        return text

    for name, value in (start.environ or {}).items():
        monkeypatch.setenv(name, filled(value))
    if start.environ:  # the server is asked by these tests, too
        monkeypatch.setenv("NO_PROXY", "")
    if start.control:
        known = replies() | {
            name: {"status": status, "headers": headers, "body": body}
            for name, (status, headers, body) in MORE.items()
        }
        tell(server, replies=known, **start.control)
    found = predict(server, tmp_path, *gated(server, *NOW, *map(filled, start.options)))
    assert found.returncode == start.code and start.said in found.stderr, found
    require_none(found.stderr, "printed")
    require_none_below(tmp_path)


def tell(server: Served, **what: object) -> None:
    """Server.control, past any proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        server.control(**what)


# --- What is refused before anything is sent ------------------------------------------------------

LITERAL = "canary-typed-5d1f"  # on the command line, and in no variable


@dataclass
class Refused:
    """A command line, or an environment, with a secret where none can be."""

    said: str
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None


OPTIONS = {
    "a key with a break": Refused("OPENAI_API_KEY", (), {"OPENAI_API_KEY": f"{KEY}\nx"}),
    "a key of two words": Refused("OPENAI_API_KEY", (), {"OPENAI_API_KEY": f"{KEY} x"}),
    "a key that is no ASCII": Refused("OPENAI_API_KEY", (), {"OPENAI_API_KEY": f"{KEY}\u00e9"}),
    "a header with a break": Refused("a character that no", (), {"GATE_KEY": f"{GATE}\r\nX: y"}),
    "a header that is no ASCII": Refused("a character that no", (), {"GATE_KEY": f"{GATE}\u2019"}),
    "an address's that is no ASCII": Refused("a character", (), {"GATE_CODE": f"{CODE}\u2019"}),
    "a header without a name": Refused("expected NAME: VALUE", ("--header", LITERAL)),
    "a user in the address": Refused(
        "a key belongs into", ("--base-url", f"http://{LITERAL}@127.0.0.1:1/v1")
    ),
    "a password in the address": Refused(
        "a key belongs into", ("--base-url", f"http://u:{LITERAL}@127.0.0.1:1/v1")
    ),
    "a password in an address that is none": Refused(
        "expected an address", ("--base-url", f"ftp//u:{LITERAL}@127.0.0.1")
    ),
    "a value in the address": Refused(
        "expected it in a variable", ("--base-url", f"http://127.0.0.1:1/v1?pwd={LITERAL}")
    ),
    "an address in the environment": Refused(
        "a key belongs into", ("--base-url", ""), {"OPENAI_BASE_URL": f"http://u:{LITERAL}@h/v1"}
    ),
    "an unknown argument": Refused("--backend-args", ("--backend-args", f"api_key={LITERAL}")),
    "an argument that is no number": Refused("--backend-args", ("--backend-args", f"poll={KEY}")),
    "a field by its name": Refused(
        "api_key: found a key", ("--request-args", json.dumps({"api_key": LITERAL}))
    ),
    "a field within another": Refused(
        "token: found a key", ("--request-args", json.dumps({"gate": {"token": LITERAL}}))
    ),
    "a field by its value": Refused(
        "user: found a key", ("--request-args", json.dumps({"user": f"me {KEY}"}))
    ),
    "a pattern": Refused("refusal_pattern: found a key", ("--refusal-pattern", GATE)),
    "a text that ends an answer": Refused("given.stop: found a key", ("--stop", KEY)),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_secret_where_none_can_be(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    case = OPTIONS[kind]
    data(tmp_path, 1)
    for name, value in (case.environ or {}).items():
        monkeypatch.setenv(name, value)
    found = predict(server, tmp_path, *gated(server, *NOW, *case.options))
    assert found.returncode == 2 and case.said in found.stderr, found
    assert LITERAL not in found.stderr
    require_none(found.stderr, "printed")
    require_none_below(tmp_path)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert LITERAL.encode() not in path.read_bytes(), path


def test_nor_after_a_start_that_was_refused(server: Served, tmp_path: Path) -> None:
    """Its settings may be changed, so they are looked at again."""
    data(tmp_path, 1)
    server.control(mode="401")
    assert predict(server, tmp_path).returncode == 5
    server.control(mode="ok")
    found = predict(server, tmp_path, "--request-args", json.dumps({"user": KEY}))
    assert found.returncode == 2 and "found a key" in found.stderr
    require_none_below(tmp_path)


# --- The Batch API --------------------------------------------------------------------------------


def output(status: int, body: str) -> str:
    """A batch's file of two rows, which failed."""
    lines = (
        {
            "custom_id": f"hotpotwikiqa_mixup/1k/{n}",
            "response": {"status_code": status, "body": body},
        }
        for n in range(2)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def lost(message: str) -> str:
    return json.dumps({"custom_id": "hotpotwikiqa_mixup/1k/0", "error": {"message": message}})


# What the requests of a batch get, and what the run ends with.
BATCHES: dict[str, tuple[list[str], int, str]] = {
    "an upload that is refused": (["a wrong key"], 5, "***"),
    "an upload that the service rejects": (["headers repeated"], 5, "***"),
    "a creation that is refused": (["ok", "a quota"], 5, "***"),
    "a batch that is lost": (["ok", "ok", "a model"], 5, "***"),
    "a file with no reply": (["ok", "ok", "ok", "no line"], 5, "holds no reply"),
    "rows with a wrong key": (["ok", "ok", "ok", "refused rows"], 5, "***"),
    "rows that are rejected": (["ok", "ok", "ok", "bad rows"], 2, "***"),
    "a row that is lost": (["ok", "ok", "ok", "lost row", "a wrong key"], 5, "***"),
    "a batch that failed": (["ok", "ok", "failed"], 5, "***"),
}
IN_BATCHES = {
    "no line": f'{{"custom_id": 3, "x": "{"y" * 26}{GATE}"\n',
    "refused rows": output(401, f"wrong: {ALL}"),
    "bad rows": output(400, f"bad: {ALL}"),
    "lost row": lost(f"{'x' * 190}{KEY}"),
    "failed": json.dumps(
        {"id": "b", "status": "failed", "errors": {"data": [{"code": "x", "message": ALL}]}}
    ),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_that_fails(server: Served, tmp_path: Path, kind: str) -> None:
    script, code, said = BATCHES[kind]
    data(tmp_path, 2)
    bodies = {
        name: {"status": 200, "headers": {}, "body": body} for name, body in IN_BATCHES.items()
    }
    server.control(replies=replies() | bodies, batch_script=script)
    fast = ("--batch", "--backend-args", f"{FAST},poll=0.01")
    found = predict(server, tmp_path, *gated(server, *fast, "-v"))
    assert found.returncode == code and said in found.stderr, found
    require_none(found.stderr, "printed")
    require_none_below(tmp_path)


# --- Engines of one's own -------------------------------------------------------------------------

ENGINE = """
import os
from lveval.backends.base import Engine, EngineBroken, Generation
from lveval.backends.echo import EchoTokenizer
from lveval.common.errors import UsageError

SAID = "refused: " + os.environ["OPENAI_API_KEY"]

def fails(where, kind=RuntimeError):
    if where == "WHERE":
        raise kind(SAID)

class Own(Engine):
    tokenizer = EchoTokenizer()

    def generate(self, prompts):
        fails("generate")
        fails("broken", EngineBroken)
        for position, prompt in enumerate(prompts):
            yield position, Generation("", "error", error=SAID)

def settings_fingerprint(options):
    fails("fingerprint", UsageError)
    return {"said": SAID} if "WHERE" == "identity" else {}

def tokenizer(options): return EchoTokenizer()

def load(options):
    fails("load")
    fails("usage", UsageError)
    return Own()

fails("import")
"""

# Where the engine fails -> how the run ends, in this process or in a worker's.
ENGINES = {
    "import": (2, "RuntimeError: refused: ***"),
    "fingerprint": (2, "refused: ***"),
    "identity": (2, "engine.said: found a key"),
    "usage": (2, "refused: ***"),
    "broken": (3, "the engine broke at"),
    "broken while it is checked": (2, "refused: ***"),
    "rows": (2, "each for the same reason: refused: ***"),
    "load": (1, "RuntimeError: refused: ***"),
    "generate in a worker": (1, "RuntimeError: refused: ***"),
}


@pytest.mark.parametrize("where", ENGINES)
def test_an_engine_that_tells_the_key(tmp_path: Path, where: str) -> None:
    code, said = ENGINES[where]
    data(tmp_path, 2)
    engine = tmp_path / "own.py"
    engine.write_text(ENGINE.replace("WHERE", where.partition(" ")[0]))
    words: list[str | Path] = ["prediction.py", "--backend", engine, "--model-name", "own"]
    words += ["--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "-v"]
    words += ["--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--model-max-len", "500"]
    words += ["--num-workers", "1"] if "worker" in where else ["--single-process"]
    words += ["--check"] if "checked" in where else []
    if code == 1:  # a bug: its traceback is Python's to show
        ended = watched([sys.executable, *words])
    else:
        done = in_process(*words)
        ended = Ended(done.returncode, done.stdout + done.stderr)
    assert ended.returncode == code and said in ended.stderr, ended
    require_none(ended.stderr, "printed")
    require_none_below(tmp_path)


# --- Real processes -------------------------------------------------------------------------------


def nothing(_: "subprocess.Popen[str]") -> None:
    """Leave a process alone."""


def watched(
    words: list[str | Path], meanwhile: Callable[["subprocess.Popen[str]"], object] = nothing
) -> Ended:
    """Run a command; the argument lists and titles of its processes are looked at all the time."""
    with subprocess.Popen(
        [*map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            began = looked = False
            while process.poll() is None:
                with suppress(psutil.Error):
                    tree = psutil.Process(process.pid)
                    for each in (tree, *tree.children(recursive=True)):
                        with suppress(psutil.Error):
                            require_none(" ".join((each.name(), *each.cmdline())), "arguments")
                            looked = True
                    assert {at for _, at in listening(tree)} <= {"127.0.0.1", "a file"}
                if not began:
                    began = bool(meanwhile(process)) or meanwhile is nothing
                time.sleep(0.2)
            assert looked and process.stdout is not None
            return Ended(process.returncode, process.stdout.read())
        finally:
            process.kill()


TRACKER = """
import json, os

def init(**start):
    with open(os.environ["TOLD"], "w") as file:
        json.dump([start, dict(os.environ)], file)

def log(values, step=None):
    raise RuntimeError("no: " + os.environ["WANDB_API_KEY"])

def finish(): pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_in_the_middle_of_a_request(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """With all that can be said, and with a tracker, whose process has no business with the key."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library/trackio.py").write_text(TRACKER)
    told = tmp_path / "told.json"
    for name, value in (
        ("TOLD", str(told)),
        ("PYTHONPATH", str(tmp_path / "library")),
        ("OPENAI_LOG", "debug"),
        ("WANDB_API_KEY", PROXY),
    ):
        monkeypatch.setenv(name, value)
    data(tmp_path, 60)
    write_data(
        tmp_path / "data", FILE.replace("hotpotwikiqa", "loogle_SD"), [row("loogle_SD_mixup")]
    )
    server.control(latency=0.1)
    given = gated(server, "-v", "--concurrency", "2", "--datasets", "loogle_SD_mixup")
    given += ("hotpotwikiqa_mixup",)
    tracked = ("--track", "trackio:x")

    def end(process: "subprocess.Popen[str]") -> bool:
        if server.asked.total() < 8 or not told.exists():
            return False
        process.send_signal(number)
        return True

    ended = watched([sys.executable, *command(server, tmp_path, *given, *tracked)], end)
    assert ended.returncode in (130, -9), ended
    require_none(ended.stderr, "printed")
    assert "code=***" in ended.stderr or "openai" in ended.stderr
    start, environ = json.loads(told.read_text())
    assert environ.pop("WANDB_API_KEY") == PROXY and "PATH" in environ
    require_none(json.dumps([start, environ]), "the tracker's environment")
    told.unlink()
    require_none_below(tmp_path)
    if number == signal.SIGINT:
        server.control(latency=0)
        assert predict(server, tmp_path, *given).returncode == 0
        assert {str(one["pred"]) for one in records(tmp_path)} >= {
            answer_to(str(row(number=n)["input"])) for n in range(60)
        }
        run = tmp_path / "out" / NAME
        scored = watched([sys.executable, "evaluation.py", "--input-dir", run, *tracked])
        assert scored.returncode == 0, scored
        require_none(scored.stderr, "printed")
        told.unlink()
        require_none_below(tmp_path)
