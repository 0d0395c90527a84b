"""The OpenAI backend against a real server on 127.0.0.1 that fails on demand, and against a real served model."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import fault_server
import pytest
from conftest import ROOT, lines, row, script, tiktoken_files, write_data
from fault_server import PASSING, REPLIES, answer_to

import prediction
import utils
import workers
from backends import Options, Service, openai_api, replies, tokenizers
from backends.retries import Fault
from errors import HarnessError, printable

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
    workers._loaded = None  # a new start asks the service anew
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", list(map(str, command(server, folder, *options))))
        try:
            code = int(prediction.main())
        except HarnessError as error:
            return Ended(int(error.code), f"{said.getvalue()}\nerror: {printable(error.message)}")
    return Ended(code, said.getvalue())


@contextmanager
def starting(server: Served, folder: Path, *options: str | Path) -> Iterator[subprocess.Popen[str]]:
    """prediction.py as a process of its own."""
    words = [sys.executable, *map(str, command(server, folder, *options))]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
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


# --- What is sent and what comes of it --------------------------------------------------------------------------------


def test_rows_are_answered_and_counted(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 12)
    found = predict(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 12)
    record = records(tmp_path)[3]
    assert record["status"] == "ok" and record["finish_reason"] == "stop"
    assert record["usage"] == {"prompt_tokens": 144, "completion_tokens": 8}
    assert server.body == {
        "model": NAME, "temperature": 0, "seed": 42, "max_completion_tokens": 64, "roles": ["user"],
    }  # fmt: skip
    manifest = json.loads((tmp_path / "out" / NAME / "run.json").read_text())
    assert manifest["identity"]["engine"]["tokenizer"] == "tiktoken:o200k_base"
    assert manifest["identity"]["effective"]["served_model"] == NAME
    assert server.requests == 13 and not attempts(tmp_path)


def test_prompt_tokens_are_those_of_tiktoken(server: Served, tmp_path: Path) -> None:
    import tiktoken

    write_data(tmp_path / "data", FILE, [row(words=400)])
    found = predict(server, tmp_path, "--model-max-len", "200")
    assert found.returncode == 0, found.stderr
    (record,) = records(tmp_path)
    raw = json.loads((tmp_path / "data" / f"{FILE}.jsonl").read_text())
    encoding = tiktoken.get_encoding("o200k_base")
    whole = utils.fill(utils.load_prompts("builtin").templates[FILE.removesuffix("_1k")], raw)
    ids = encoding.encode_ordinary(whole)
    assert record["prompt_tokens_full"] == len(ids) > 200
    cut = encoding.decode(ids[:100]) + encoding.decode(ids[-100:])
    assert record["prompt_tokens"] == len(encoding.encode_ordinary(cut))


@pytest.mark.parametrize(
    ("kind", "status", "pred"),
    [
        ("long", "length", None),
        ("reasoning", "length", ""),
        ("refusal", "refused", ""),
        ("filter", "refused", ""),
        ("parts", "ok", None),
        ("filtered", "refused", ""),
    ],
)
def test_what_a_reply_says_is_the_rows_status(
    server: Served, tmp_path: Path, kind: str, status: str, pred: str
) -> None:
    data(tmp_path, 3)
    server.control(script=[kind])
    found = predict(server, tmp_path, "--concurrency", "1")
    if kind == "filtered":  # an answer all the same: the service will not give another
        assert found.returncode == 0, found.stderr
    assert found.returncode == 0, found.stderr
    record = records(tmp_path)[0]
    assert record["status"] == status
    assert record["pred"] == (answer_to(str(record["input"])) if pred is None else pred)


@pytest.mark.parametrize(
    ("kind", "cause"), [("context", "context_overflow"), ("bad-row", "error"), ("never-fits", "error")]
)
def test_a_row_that_cannot_be_answered_keeps_no_other_from_it(
    server: Served, tmp_path: Path, kind: str, cause: str
) -> None:
    data(tmp_path, 6)
    server.control(script=[kind])
    found = predict(server, tmp_path, "--concurrency", "1")
    assert found.returncode == 3 and f"{cause}: 1" in found.stderr, found.stderr
    (attempt,) = attempts(tmp_path)
    assert attempt["cause"] == cause and attempt["index"] == 0
    again = predict(server, tmp_path, *(["--retry-failed"] if cause == "context_overflow" else []))
    assert again.returncode == 0, again.stderr
    assert_all_right(tmp_path, 6)


def test_the_request_can_be_changed(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 1)
    asked = '{"temperature": null, "reasoning_effort": "low", "max_completion_tokens": 2000}'
    found = predict(server, tmp_path, "--request-args", asked, "--seed", "7")
    assert found.returncode == 0, found.stderr
    assert server.body == {
        "model": NAME, "seed": 7, "max_completion_tokens": 2000, "reasoning_effort": "low", "roles": ["user"],
    }  # fmt: skip
    other = predict(server, tmp_path, "--seed", "7")
    assert other.returncode == 4 and "engine.request_args.reasoning_effort" in other.stderr


def test_bare_and_formatted_prompts_go_to_the_completions_endpoint(
    server: Served, tmp_path: Path, model_path: Path
) -> None:
    data(tmp_path, 2)
    found = predict(server, tmp_path, "--chat-template", "none", "--tokenizer", f"hf:{model_path}")
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 2)
    assert server.body == {"model": NAME, "temperature": 0, "seed": 42, "max_tokens": 64, "roles": []}


def test_a_field_that_the_service_does_not_know_is_left_out(tmp_path: Path) -> None:
    data(tmp_path, 4)
    with serving("--knows", "max_tokens", "temperature") as server:
        found = predict(server, tmp_path)
        assert found.returncode == 0, found.stderr
        assert server.body == {"model": NAME, "temperature": 0, "max_tokens": 64, "roles": ["user"]}
        assert server.requests == 4 + 3  # the question asked first meets two refusals
    manifest = json.loads((tmp_path / "out" / NAME / "run.json").read_text())
    assert manifest["identity"]["effective"]["fields"] == ["temperature", "max_tokens"]
    assert_all_right(tmp_path, 4)


def test_the_servers_own_tokenizer_cuts(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    found = predict(server, tmp_path, "--tokenizer", "server", "--model-max-len", "400")
    assert found.returncode == 0, found.stderr
    record = records(tmp_path)[0]
    assert record["prompt_tokens"] == 400  # its tokens are characters
    assert int(str(record["prompt_tokens_full"])) > 600


# --- Faults that pass -------------------------------------------------------------------------------------------------


def test_every_passing_fault_is_survived_and_recorded(server: Served, tmp_path: Path) -> None:
    """Each kind once, one after another; what the server counted is what was recorded."""
    data(tmp_path, 4)
    server.control(script=list(PASSING))
    found = predict(server, tmp_path, "--concurrency", "1", "--backend-args", f"{FAST},timeout=1,timeout_per_1k=0")
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 4)
    tries = attempts(tmp_path)
    assert [attempt["cause"] for attempt in tries] == ["transient"] * len(PASSING)
    assert server.requests == 4 + len(PASSING) + 1


def test_half_of_the_replies_faulty(tmp_path: Path) -> None:
    """The quick size of what `make bench` runs with 8,645 rows."""
    rows = 300
    data(tmp_path, rows)
    with serving("--rate", "0.5", "--seed", "3") as server:
        found = predict(server, tmp_path, "--concurrency", "64", "--backend-args", f"{FAST},timeout=1,timeout_per_1k=0")
        assert found.returncode == 0, found.stderr
        assert_all_right(tmp_path, rows)
        asked, served = server.asked, server.stats["served"]
    assert isinstance(served, dict) and len(served) >= 13
    tries = Counter(str(attempt["index"]) for attempt in attempts(tmp_path))
    for record in records(tmp_path):
        assert asked[str(record["input"])] == 1 + tries[str(record["index"])]


def test_a_row_that_fails_each_time_ends_while_others_are_answered(server: Served, tmp_path: Path) -> None:
    """A reply that is none, again and again for one row: it is that row, not the service."""
    data(tmp_path, 80)
    server.control(broken="When was lighthouse 5 built?", latency=0.02)
    found = predict(server, tmp_path, "--concurrency", "2")
    assert found.returncode == 3 and "invalid: 1" in found.stderr, found.stderr
    last = attempts(tmp_path)[-1]
    assert (last["index"], last["cause"]) == (5, "invalid")
    assert 8 <= server.asked["When was lighthouse 5 built?"] <= 12
    assert server.asked.total() - server.asked["When was lighthouse 5 built?"] == 79


def test_an_outage_fails_no_row(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 60)
    server.control(latency=0.05)
    with starting(server, tmp_path, "--concurrency", "4") as process:
        wait_for_requests(server, 10, process)
        for mode in ("reset", "503-html", "429"):
            server.control(mode=mode)
            time.sleep(1.5)  # more than thirty tries of each row that is out
        server.control(mode="ok")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert_all_right(tmp_path, 60)
    tries = attempts(tmp_path)
    assert len(tries) > 60 and {attempt["cause"] for attempt in tries} == {"transient"}
    assert server.requests == 60 + len(tries) + 1


def test_an_outage_too_long_ends_the_run_resumably(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 5)
    server.control(script=["ok", "ok"], mode="ok")
    first = predict(server, tmp_path, "--limit", "2")
    assert first.returncode == 0, first.stderr
    server.control(mode="503-html")
    found = predict(server, tmp_path, "--max-outage", "0.0002")
    assert found.returncode == 3, found.stderr
    assert "answered nothing for" in found.stderr and "run the same command again" in found.stderr
    server.control(mode="ok")
    assert predict(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 5)


# --- Faults that do not pass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False], ids=["from the start", "in mid-run"])
@pytest.mark.parametrize("kind", ["401", "403", "quota", "404", "redirect"])
def test_what_no_waiting_mends_ends_the_run_at_once(tmp_path: Path, kind: str, at_once: bool) -> None:
    data(tmp_path, 200)
    with serving("--latency", "0.2") as server:
        server.control(**({"mode": kind} if at_once else {"script": ["ok"] * 64 + [kind] * 200}))
        with starting(server, tmp_path, "--concurrency", "64") as process:
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 5, errors
        assert server.requests == 1 if at_once else server.requests <= 1 + 64 + 64
    assert errors.count("error: ") == 1 and "Traceback" not in errors
    assert KEY not in errors and "secret" not in errors
    assert not attempts(tmp_path)
    rows = tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl"
    assert at_once is not rows.exists()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_another_model_than_asked_for_is_refused(tmp_path: Path) -> None:
    data(tmp_path, 3)
    with serving() as server:
        server.control(mode="other-model")
        found = predict(server, tmp_path)
        assert found.returncode == 5 and '"cheaper-1"' in found.stderr and "served_model=cheaper-1" in found.stderr
        assert server.requests == 1
        data(tmp_path / "b", 3)
        told = predict(server, tmp_path / "b", "--backend-args", f"{FAST},served_model=x")
        assert told.returncode == 5 and 'is of the model "cheaper-1", not of "x"' in told.stderr


def test_a_service_that_changes_its_model_ends_the_run(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 300)
    server.control(script=["ok"] * 20 + ["other-model", "ok"] * 4 + ["other-model"] * 300)
    found = predict(server, tmp_path, "--concurrency", "2")
    assert found.returncode == 5 and 'is of the model "cheaper-1"' in found.stderr, found.stderr
    taken = lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")
    assert len(taken) == 24 and all(record["pred"] == answer_to(str(record["input"])) for record in taken)


def test_what_speaks_no_such_protocol_is_told(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(mode="html-200")
    found = predict(server, tmp_path)
    assert found.returncode == 5 and "may be no service of OpenAI's protocol" in found.stderr
    assert server.requests <= 10


def test_a_bad_field_of_the_users_is_told(tmp_path: Path) -> None:
    data(tmp_path, 3)
    with serving("--knows", "max_completion_tokens", "temperature", "seed") as server:
        found = predict(server, tmp_path, "--request-args", '{"colour": "blue"}')
        assert found.returncode == 5 and "'colour' is not supported" in found.stderr
        assert server.requests == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--base-url", "ftp://x"), "expected an address such as"),
        (("--base-url", "http://u:p@127.0.0.1/v1"), "a key belongs into OPENAI_API_KEY"),
        (("--request-args", "effort=low"), "expected a JSON object"),
        (("--request-args", '{"model": "x"}'), '"model" is the harness'),
        (("--concurrency", "0"), "--concurrency: found 0"),
        (("--max-outage", "-1"), "--max-outage: found -1"),
        (("--tokenizer", "bpe"), "pass --tokenizer hf:PATH"),
        (("--tokenizer", "tiktoken:none"), 'unknown encoding "none"'),
        (("--tokenizer", "hf:/no/such"), "transformers cannot load it"),
        (("--model-name", "my-model"), 'tiktoken knows no tokenizer for the model "my-model"'),
        (("--chat-template", "tokenizer"), "no chat template"),
    ],
)
def test_a_wrong_option_is_one_clear_sentence(
    server: Served, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    data(tmp_path, 1)
    found = predict(server, tmp_path, *options)
    assert found.returncode == 2 and complaint in found.stderr, found.stderr
    assert "Traceback" not in found.stderr and not server.asked


def test_a_missing_key_is_told_for_a_public_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(HarnessError, match=r"OPENAI_API_KEY is not set; expected the key of api\.openai\.com"):
        openai_api.api_key("https://api.openai.com/v1")
    assert openai_api.api_key("http://node17:8000/v1") == "none"


def test_tiktoken_without_network_says_what_to_do(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data(tmp_path, 1)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    found = predict(server, tmp_path, "--tokenizer", "tiktoken:p50k_base")
    assert found.returncode == 2 and "TIKTOKEN_CACHE_DIR" in found.stderr and "Traceback" not in found.stderr


def test_options_of_a_service_are_refused_elsewhere(tmp_path: Path) -> None:
    found = script("prediction.py", "--backend", "echo", "--model-name", "x", "--concurrency", "4")
    assert found.returncode == 2 and "--concurrency is for --backend openai" in found.stderr


# --- The script -------------------------------------------------------------------------------------------------------


def test_the_api_script_predicts_resumes_by_row_and_evaluates(server: Served, tmp_path: Path) -> None:
    """factrecall asks one question in all its rows: a resume that went by the question would skip them."""
    same = {"input": "When was the lighthouse built?", "answers": ["1874"]}
    write_data(tmp_path / "data", "factrecall_en_1k", [row("factrecall_en", number) | same for number in range(40)])
    words = ["bash", str(ROOT / "batch_eval_gpt_single.sh"), NAME, "500", "--base-url", f"{server.url}/v1"]
    words += ["--data-path", str(tmp_path / "data"), "--datasets", "factrecall_en", "--lengths", "1k"]
    for limit in ("15", "40"):
        found = subprocess.run(
            [*words, "--limit", limit], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert found.returncode == 0, found.stderr
    assert server.asked == {"When was the lighthouse built?": 40}
    folder = tmp_path / "outputs/500" / NAME
    assert [record["index"] for record in lines(folder / "factrecall_en_1k.jsonl")] == list(range(40))
    assert json.loads((folder / "results.json").read_text()).keys() == {"factrecall_en_1k"}


# --- Kills ------------------------------------------------------------------------------------------------------------


def test_kills_repeat_no_more_calls_than_were_out(tmp_path: Path) -> None:
    """SIGKILL in mid-run, twenty times; then the run finishes."""
    rows, concurrency, kills = 400, 8, 20
    data(tmp_path, rows)
    with serving("--latency", "0.05", "--rate", "0.2") as server:
        hit = 0
        for number in range(kills):
            before = server.asked.total()
            with starting(server, tmp_path, "--concurrency", str(concurrency)) as process:
                wait_for_requests(server, before + 1 + 19 * number % 23, process)
                hit += process.poll() is None
                process.send_signal(signal.SIGKILL)
        found = predict(server, tmp_path, "--concurrency", str(concurrency))
        assert found.returncode == 0, found.stderr
        assert hit == kills
        assert_all_right(tmp_path, rows)
        repeated = server.asked.total() - rows - len(attempts(tmp_path))
        assert 0 < repeated <= kills * concurrency


def test_ctrl_c_saves_and_says_how_to_go_on(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 200)
    server.control(latency=0.1)
    with starting(server, tmp_path) as process:
        wait_for_requests(server, 20, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in errors and "same command again" in errors, errors
    assert predict(server, tmp_path, "--concurrency", "32").returncode == 0
    assert_all_right(tmp_path, 200)


# --- A real model, really served --------------------------------------------------------------------------------------


def test_a_served_model_answers_as_the_hf_backend_does(model_path: Path, tmp_path: Path) -> None:
    """`transformers serve` with the embedded model: the chat endpoint, its answers those of the same prompts here."""
    write_data(tmp_path / "data", FILE, [row(number=number, words=40) for number in range(3)])
    port = free_port()
    serve = [str(Path(sys.executable).with_name("transformers")), "serve", str(model_path), "--device", "cpu"]
    serve += ["--dtype", "float32", "--port", str(port), "--host", "127.0.0.1"]
    cache = {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "hf/hub").mkdir(parents=True)
    with subprocess.Popen(
        serve, env={**os.environ, **cache}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            server = Served(f"http://127.0.0.1:{port}")
            wait_until_healthy(server, process)
            options = ("--model-path", str(model_path), "--tokenizer", f"hf:{model_path}", "--model-max-len", "300")
            found = predict(server, tmp_path, *options, "--backend-args", "timeout=300")
            assert found.returncode == 0, found.stderr
        finally:
            process.kill()
    manifest = json.loads((tmp_path / "out" / NAME / "run.json").read_text())
    assert manifest["identity"]["effective"]["served_model"].startswith(str(model_path))
    local = script(
        "prediction.py", "--model-path", model_path, "--model-name", "local", "--data-path", tmp_path / "data",
        "--output-dir", tmp_path / "out", "--datasets", FILE.removesuffix("_1k"), "--lengths", "1k",
        "--single-process", "--model-max-len", "300",
    )  # fmt: skip
    assert local.returncode == 0, local.stderr
    here = lines(tmp_path / "out/local" / f"{FILE}.jsonl")
    assert [record["pred"] for record in records(tmp_path)] == [record["pred"] for record in here]
    assert all(record["status"] in ("ok", "length") for record in here)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(server: Served, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5)
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"`transformers serve` does not answer (exit {process.poll()})")


# --- Small parts ------------------------------------------------------------------------------------------------------


def test_a_reply_is_read_or_refused() -> None:
    def choice(**parts: object) -> bytes:
        return json.dumps({"model": "m", "choices": [parts]}).encode()

    answer, served = replies.read_reply(choice(message={"content": " \n"}, finish_reason="stop"))
    assert (answer.status, served) == ("empty", "m")
    answer, _ = replies.read_reply(choice(text="done", finish_reason=None))
    assert (answer.text, answer.status) == ("done", "ok")
    for bad in (choice(), choice(message={}), choice(message={"content": 3}), choice(text="x", finish_reason="abort")):
        with pytest.raises(Fault):
            replies.read_reply(bad)
    with pytest.raises(Fault):
        replies.read_reply(b"[" * 100_000)


def test_the_identity_names_the_service_but_not_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def identity(**service: object) -> dict[str, object]:
        return dict(openai_api.identity(Options("gpt-4o", 1000, service=Service(**service))))  # type: ignore[arg-type]

    assert identity()["service"] == "api.openai.com"
    places = ("http://node17:8000/v1", "http://10.0.0.7/v1", "http://127.0.0.1:9/v1", "http://a.internal/v1")
    assert {str(identity(base_url=url)["service"]) for url in places} == {"private"}
    assert identity(base_url="https://example.com/v1") != identity()
    assert KEY not in json.dumps(identity())


def test_a_tokenizers_folder_is_named_by_its_content(model_path: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_path / name).read_bytes())
    first = tokenizers.fingerprint(f"hf:{tmp_path}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert tokenizers.fingerprint(f"hf:{tmp_path}") != first
    assert hashlib.sha256().hexdigest() not in first


def test_every_kind_of_fault_is_used() -> None:
    terminal = {"401", "403", "quota", "404", "redirect", "context", "filtered", "bad-row", "never-fits"}
    assert {*REPLIES} - terminal <= {*PASSING} and len(PASSING) >= 12
