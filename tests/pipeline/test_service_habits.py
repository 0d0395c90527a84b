"""Other services' habits, played by a real server: what the first question finds, and what the rest of a run shows."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.service import (
    FAST,
    NAME,
    Served,
    assert_all_right,
    attempts,
    data,
    environment,
    predict,
    records,
    server,
)

from lveval.backends.openai.faults import ApiError
from lveval.backends.openai.responses import ReplyReader

__all__ = ["environment", "server"]  # fixtures

LAST = "When was lighthouse 5 built?"  # of six rows


def finished(body: object, status: int = 200) -> dict[str, object]:
    """A kind of reply."""
    return {"status": status, "headers": {}, "body": body}


def answer(finish: str | None, text: str | None, tokens: int | None = 8) -> dict[str, object]:
    """A kind of answer."""
    choice = {"message": {"content": text}, "finish_reason": finish}
    usage = {"completion_tokens": tokens} if tokens is not None else {}
    return finished({"model": "x", "choices": [choice], "usage": usage})


def effective(folder: Path) -> dict[str, object]:
    manifest = json.loads((folder / "out" / NAME / "run.json").read_text())
    found: dict[str, object] = manifest["identity"]["effective"]
    return found


# --- The limit of an answer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", [True, False])
def test_the_name_of_the_limit_that_is_heeded_is_found(
    server: Served, tmp_path: Path, tells: bool
) -> None:
    data(tmp_path, 3)
    server.control(reads_limit="max_tokens", tells_usage=tells)
    found = predict(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert effective(tmp_path)["fields"] == ["temperature", "seed", "max_tokens"]
    assert_all_right(tmp_path, 3)


def test_a_service_that_demands_the_older_name_gets_it(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    wanted = finished({"detail": [{"msg": "Field required", "loc": ["body", "max_tokens"]}]}, 422)
    server.control(replies={"wants": wanted}, probe_script=["wants"])
    assert predict(server, tmp_path).returncode == 0
    assert server.body["max_tokens"] == 64


@pytest.mark.parametrize("tells", [True, False])
def test_a_limit_that_no_name_sets_is_told_at_once(
    server: Served, tmp_path: Path, tells: bool
) -> None:
    data(tmp_path, 3)
    server.control(reads_limit="max_new_tokens", tells_usage=tells)
    found = predict(server, tmp_path)
    assert found.returncode == 5 and "does not keep to the limit" in found.stderr, found.stderr
    assert server.requests == 2
    named = f"{FAST},budget_field=max_new_tokens"
    assert predict(server, tmp_path, "--backend-args", named).returncode == 0
    assert server.body["max_new_tokens"] == 64
    assert_all_right(tmp_path, 3)


def test_a_field_is_left_out_that_the_service_names_among_others(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 1)
    words = "Unsupported parameter: 'seed'. Supported: temperature, top_p, max_tokens, stream"
    server.control(
        replies={"no": finished({"error": {"message": words}}, 400)}, probe_script=["no"]
    )
    assert predict(server, tmp_path).returncode == 0
    assert effective(tmp_path)["fields"] == ["temperature", "max_completion_tokens"]


def test_a_first_question_that_is_refused_leaves_the_model_to_be_learned(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 4)
    server.control(probe_script=["filtered"])
    assert predict(server, tmp_path, "--limit", "2").returncode == 0
    assert predict(server, tmp_path).returncode == 0
    assert effective(tmp_path)["served_model"] == NAME


def test_an_answer_beyond_the_limit_is_none(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 60)
    server.control(replies={"endless": answer("stop", "1 2 3 " * 100, 600)})
    server.control(script=["ok", "endless", "ok", "endless", "ok"])
    found = predict(server, tmp_path, "--limit", "5", "--concurrency", "2")
    assert found.returncode == 0, found.stderr  # two were asked again
    assert_all_right(tmp_path, 5)
    server.control(row_mode="endless")
    found = predict(server, tmp_path, "--concurrency", "2")
    assert found.returncode == 5 and "budget_field=max_new_tokens" in found.stderr, found.stderr
    assert len(attempts(tmp_path)) <= 2 + 8 + 2
    whole = ("--request-args", '{"max_tokens": null}', "--limit", "3")
    (tmp_path / "b").mkdir()
    data(tmp_path / "b", 3)
    assert predict(server, tmp_path / "b", *whole).returncode == 0
    assert str(records(tmp_path / "b")[0]["pred"]).startswith("1 2 3 1 2 3")


# --- Finish reasons and refusals --------------------------------------------------------------------------------------


def test_a_finish_reason_is_settled_by_the_user(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    server.control(replies={"odd": answer("weary", "1874")}, row_mode="odd")
    assert predict(server, tmp_path).returncode == 0
    assert {record["status"] for record in records(tmp_path)} == {"ok"}
    data(tmp_path / "b", 2)
    given = ("--finish-reason", "weary=length", "--finish-reason", "x=stop")
    assert predict(server, tmp_path / "b", *given).returncode == 0
    assert {record["status"] for record in records(tmp_path / "b")} == {"length"}
    wrong = predict(server, tmp_path / "b", "--finish-reason", "weary=done")
    assert wrong.returncode == 2 and "expected REASON=MEANING such as eos=stop" in wrong.stderr


def test_a_refusal_in_words_is_one(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    server.control(replies={"no": answer("stop", "I cannot help with this.")}, script=["ok", "no"])
    given = ("--refusal-pattern", "^I cannot", "--concurrency", "1")
    assert predict(server, tmp_path, *given).returncode == 0
    assert [record["status"] for record in records(tmp_path)] == ["ok", "refused"]
    assert records(tmp_path)[1]["pred"] == ""
    assert records(tmp_path)[1]["raw_pred"] == "I cannot help with this."
    wrong = predict(server, tmp_path, "--refusal-pattern", "(")
    assert wrong.returncode == 2 and '--refusal-pattern: found "("' in wrong.stderr


def test_a_stop_text_that_a_service_leaves_in_is_cut_off(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 1)
    server.control(replies={"left": answer("stop", "1874\nQuestion: and")}, row_mode="left")
    assert predict(server, tmp_path, "--stop", "\nQuestion:").returncode == 0
    assert records(tmp_path)[0]["pred"] == "1874"


# --- Streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", ["auto", "none"])
def test_streams_are_put_together(server: Served, tmp_path: Path, chat: str) -> None:
    data(tmp_path, 3)
    assert predict(server, tmp_path, "--stream", "--chat-template", chat).returncode == 0
    assert server.body["stream"] is True
    assert_all_right(tmp_path, 3)
    assert predict(server, tmp_path, "--chat-template", chat).returncode == 0  # the same run


@pytest.mark.parametrize(
    "chunk",
    [
        '{"choices": [null]}',
        '{"choices": ["x"]}',
        '{"choices": [{"delta": "x"}]}',
        '{"object": "error", "message": "out of memory"}',
        "{",
    ],
)
def test_a_stream_with_odd_chunks_is_no_answer(chunk: str) -> None:
    good = 'data: {"choices": [{"delta": {"content": "half"}, "finish_reason": ""}]}'
    with pytest.raises(ApiError):
        ReplyReader().read(f"{good}\n\ndata: {chunk}\n\ndata: [DONE]\n\n".encode())
    with pytest.raises(ApiError, match="breaks off"):
        ReplyReader().read(good.encode())


def test_a_stream_is_read_whatever_its_manner() -> None:
    parts = ['"a\u2028"', '[{"type": "text", "text": "b"}]', '["c"]']
    lines = [f'data:{{"choices": [{{"delta": {{"content": {part}}}}}]}}' for part in parts]
    end = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}'
    content = "\r\n\r\n".join([": hello", "data:", *lines, end, "data: [DONE]"])
    assert ReplyReader().read(content.encode())[0].text == "a\u2028bc"


def test_a_stream_without_usage_is_counted_here(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 1)
    server.control(tells_usage=False)
    assert predict(server, tmp_path, "--stream").returncode == 0
    usage = records(tmp_path)[0]["usage"]
    assert isinstance(usage, dict) and usage["completion_tokens"] > 4  # "the answer" and 12 digits


def test_a_service_that_only_streams_is_found_out(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(streams="only")
    assert predict(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 3)


def test_a_stream_that_breaks_off_is_no_answer(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    assert predict(server, tmp_path, "--stream", "--limit", "1").returncode == 0
    half = 'data: {"choices": [{"delta": {"content": "the answer"}}]}\n\n'
    server.control(
        replies={
            "half": finished(half),
            "error": finished(half + 'data: {"error": "out of memory"}\n\n'),
        },
        script=["half", "error"],
    )
    assert predict(server, tmp_path, "--stream").returncode == 0
    assert_all_right(tmp_path, 2)
    said = [str(attempt["message"]) for attempt in attempts(tmp_path)]
    assert said == ["the stream breaks off", "an error in a reply of status 200: out of memory"]


# --- The completions endpoint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", ["none", "tokenizer"])
def test_a_server_that_wants_text_gets_text(
    server: Served, tmp_path: Path, model_path: Path, chat: str
) -> None:
    data(tmp_path, 2)
    server.control(text_only=True)
    options = ("--tokenizer", f"hf:{model_path}", "--chat-template", chat)
    found = predict(server, tmp_path, *options)
    assert found.returncode == 0, found.stderr
    assert "ids" not in server.body and effective(tmp_path)["prompts"] == "text"


def test_a_text_goes_without_the_bos_that_the_server_adds(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from lveval.backends.hf_models import HFTokenizer

    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(tiny_model))
    begun = [*tokenizer.encode("x")][:1] == [tokenizer.bos]
    text = f"{tokenizer.raw.bos_token}[INST] x"
    assert tokenizer.without_bos(text) == ("[INST] x" if begun else text)


# --- A row or the service ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["500-html", "malformed", "401", "quota", "429", "bad-row"])
@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_a_last_row_that_always_fails_is_left_open(
    server: Served, tmp_path: Path, kind: str, concurrency: str
) -> None:
    """The short question is answered: it is no outage, and six hours are not waited for."""
    data(tmp_path, 6)
    server.control(fates={LAST: kind})
    # A 429 is the account's, and the run ends when waiting has not helped.
    outage = ("--max-outage", "0.0003") if kind == "429" else ()
    found = predict(server, tmp_path, "--concurrency", concurrency, *outage)
    said = "answered nothing for" if kind == "429" else "1 rows have no answer"
    assert found.returncode == 3 and said in found.stderr, found.stderr
    assert (server.asked[LAST] <= 30 or kind == "429") and server.asked.total() == 5 + server.asked[
        LAST
    ]
    server.control(fates={})
    assert predict(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 6)


@pytest.mark.parametrize("kind", ["403", "bad-row", "quota"])
def test_rows_that_all_fail_in_the_same_words_end_the_run(
    server: Served, tmp_path: Path, kind: str
) -> None:
    data(tmp_path, 100)
    server.control(latency=0.02, script=["ok"] * 16, row_mode="ok")
    server.control(script=[kind] * 200)
    found = predict(server, tmp_path, "--concurrency", "8")
    assert found.returncode == 5 and "all failed in the same words" in found.stderr, found.stderr
    assert server.asked.total() <= 16 + 3 * 8


def test_an_outage_asks_only_the_short_question(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 40)
    server.control(script=["ok"] * 8 + ["503-html"] * 8, probe_script=["ok"] + ["503-html"] * 20)
    found = predict(server, tmp_path, "--concurrency", "8")
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 40)
    assert server.asked.total() == 40 + len(attempts(tmp_path)) == 48


@pytest.mark.parametrize("kind", ["other", "endless"])
def test_a_service_that_changes_for_good_ends_the_run(
    server: Served, tmp_path: Path, kind: str
) -> None:
    """Also where few rows are out: the short question shows it too."""
    data(tmp_path, 12)
    server.control(replies={"endless": answer("stop", "1 2 3 " * 100, 600)})
    last = "other-model" if kind == "other" else "endless"
    server.control(script=["ok"] * 4 + [last] * 400, probe_script=["ok"] + [last] * 100)
    found = predict(server, tmp_path, "--concurrency", "2")
    assert found.returncode == 5 and "again and again" in found.stderr, found.stderr
    assert server.requests < 60


def test_a_gateways_page_in_mid_run_is_an_outage(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 20)
    page = ["404-page"] * 4
    server.control(script=["ok"] * 8 + page, probe_script=["ok", *page])
    assert predict(server, tmp_path, "--concurrency", "4").returncode == 0
    assert_all_right(tmp_path, 20)


def test_failures_of_an_outage_are_not_a_rows_own(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    server.control(script=["503-html"] * 40, probe_script=["ok"] + ["503-html", "ok"] * 40)
    assert predict(server, tmp_path, "--concurrency", "2").returncode == 0
    assert_all_right(tmp_path, 2)


@pytest.mark.parametrize("kind", ["429", "503-html"])
def test_rows_that_wait_in_vain_end_the_run_resumably(
    server: Served, tmp_path: Path, kind: str
) -> None:
    data(tmp_path, 8)
    server.control(row_mode=kind)
    found = predict(server, tmp_path, "--concurrency", "4", "--max-outage", "0.0003")
    assert found.returncode == 3 and "answered nothing for" in found.stderr, found.stderr
    server.control(row_mode="ok")
    assert predict(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 8)


# --- No connection ----------------------------------------------------------------------------------------------------


class Toy(BaseHTTPRequestHandler):
    """A service with one answer."""

    def do_POST(self) -> None:
        """Answer a chat request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"message": {"content": "1800"}, "finish_reason": "stop"}
        content = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[tuple[Served, Path]]:
    """A service with a certificate of its own, and its file."""
    key, certificate = tmp_path / "key.pem", tmp_path / "own.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", certificate, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with ThreadingHTTPServer(("127.0.0.1", 0), Toy) as toy:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        toy.socket = context.wrap_socket(toy.socket, server_side=True)
        threading.Thread(target=toy.serve_forever, daemon=True).start()
        yield Served(f"https://127.0.0.1:{toy.server_port}"), certificate
        toy.shutdown()


def test_a_certificate_that_is_not_trusted_is_told(
    certified: tuple[Served, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, certificate = certified
    data(tmp_path, 2)
    found = predict(service, tmp_path)
    assert found.returncode == 5 and "name its file in SSL_CERT_FILE" in found.stderr, found.stderr
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert predict(service, tmp_path).returncode == 0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "environ", "said"),
    [
        ("http://127.0.0.1:PORT", {}, "nothing listens at http://127.0.0.1:PORT"),
        ("http://no-such-host.invalid", {}, 'the name "no-such-host.invalid" is not found'),
        (
            "http://model.invalid",
            {"HTTP_PROXY": "http://user:word@127.0.0.1:PORT"},
            "nothing listens at http://127.0.0.1:PORT (connection refused) by the proxy",
        ),
        (
            "https://model.invalid",
            {"HTTPS_PROXY": "http://no-such-proxy.invalid:3128"},
            "the proxy's name is not found by the proxy http://no-such-proxy.invalid:3128",
        ),
    ],
)
def test_why_there_is_no_connection_is_told_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    environ: dict[str, str],
    said: str,
) -> None:
    port = str(free_port())
    for name, value in environ.items():
        monkeypatch.setenv(name, value.replace("PORT", port))
    data(tmp_path, 2)
    began = time.monotonic()
    service = Served(address.replace("PORT", port))
    found = predict(service, tmp_path, "--wait-for-service", "0.02")
    assert found.returncode == 3 and said.replace("PORT", port) in found.stderr, found.stderr
    assert "word" not in found.stderr and ("NO_PROXY" in found.stderr) is bool(environ)
    assert time.monotonic() - began < 30


def test_a_server_that_is_still_loading_is_waited_for(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    server.control(probe_script=["503-html"] * 5)
    found = predict(server, tmp_path)
    assert found.returncode == 0 and "waiting for the service" in found.stderr
    server.control(mode="503-html")
    data(tmp_path / "b", 2)
    found = predict(server, tmp_path / "b", "--wait-for-service", "0.005")
    assert found.returncode == 3 and "answered nothing for 0.0 minutes" in found.stderr


# --- Addresses and keys -----------------------------------------------------------------------------------------------


def test_an_azure_address_works(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("AZURE_KEY", "canary-7d20")
    monkeypatch.setenv("GATE", "canary-9c11")
    data(tmp_path, 2)
    url = f"{server.url}/v1?api-version=2024-10-21&subscription-key=$GATE"
    given = ("--base-url", url, "--header", "api-key: $AZURE_KEY")
    found = predict(server, tmp_path, *given)
    assert found.returncode == 0, found.stderr
    head = str(server.stats["head"])
    assert "/chat/completions?api-version=2024-10-21&subscription-key=canary-9c11 " in head
    assert "api-key: canary-7d20" in head and "uthorization" not in head
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"canary" not in path.read_bytes(), path
    assert "canary" not in found.stderr


def test_a_secret_in_an_address_is_not_taken(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 1)
    found = predict(server, tmp_path, "--base-url", f"{server.url}/v1?code=canary-1")
    assert found.returncode == 2 and "expected it in a variable" in found.stderr
    assert "canary" not in found.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("SSL_CERT_FILE", "/no/such.pem"), ("ALL_PROXY", "socks5://127.0.0.1:9")]
)
def test_an_environment_that_allows_no_client_is_told(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    data(tmp_path, 1)
    monkeypatch.setenv(name, value)
    found = predict(server, tmp_path)
    assert found.returncode == 2 and "no client can be made" in found.stderr, found.stderr


def test_a_secret_is_found_in_any_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lveval.common.redaction._kept", {"abc", "abcdef", "x/y=="})
    said = ApiError("fatal", "abcdef and abc, code=x%2Fy%3D%3D").message
    assert said == "*** and ***, code=***"


@pytest.mark.parametrize("url", ["http://u:canary@h:80a/v1", "htp://h/v1?code=canary"])
def test_an_address_that_is_none_is_told_without_its_secret(
    server: Served, tmp_path: Path, url: str
) -> None:
    data(tmp_path, 1)
    found = predict(server, tmp_path, "--base-url", url)
    assert found.returncode == 2 and "canary" not in found.stderr, found.stderr


# --- Money ------------------------------------------------------------------------------------------------------------


def test_what_came_from_the_services_cache_is_counted(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    kinds = ({"prompt_tokens_details": {"cached_tokens": 900}}, {"prompt_cache_hit_tokens": 500})
    choice = {"message": {"content": "1874"}, "finish_reason": "stop"}
    bodies = [{"choices": [choice], "usage": usage | kind} for kind in kinds]
    server.control(replies={"a": finished(bodies[0]), "b": finished(bodies[1])}, script=["a", "b"])
    prices = ("--price-in", "1000", "--price-out", "0", "--price-cached", "100")
    found = predict(server, tmp_path, *prices, "--concurrency", "1")
    assert found.returncode == 0, found.stderr
    # 100 + 500 tokens at the full price, 900 + 500 at a tenth of it
    assert "spent 0.74 USD so far: 2,000 prompt tokens (1,400 from the cache)" in found.stderr
