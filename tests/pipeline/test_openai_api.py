"""The OpenAI backend against a real server on 127.0.0.1 that fails on demand, and against a real served model."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, lines, row, script, write_data
from support.fault_server import PASSING, REPLIES, answer_to
from support.service import (
    FAST,
    FILE,
    KEY,
    NAME,
    Served,
    assert_all_right,
    attempts,
    data,
    environment,
    predict,
    records,
    server,
    serving,
)

from lveval import utils
from lveval.backends import openai
from lveval.backends.base import ApiOptions, EngineOptions
from lveval.backends.openai import client, responses, tokenizers
from lveval.backends.openai.faults import ApiError, classify_status
from lveval.backends.openai.rate_limit import ConcurrencyLimiter, SlidingWindow
from lveval.backends.openai.responses import ReplyReader
from lveval.common.errors import LVEvalError
from lveval.data import prompt_sets

__all__ = ["environment", "server"]  # fixtures

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
    whole = utils.fill_template(
        prompt_sets.load_prompts("builtin").templates[FILE.removesuffix("_1k")], raw
    )
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
    assert ("1 answers are empty: the model was still reasoning" in found.stderr) is (
        kind == "reasoning"
    )


@pytest.mark.parametrize(
    ("kind", "cause"),
    [("context", "context_overflow"), ("bad-row", "error"), ("never-fits", "error")],
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
    """As the model's own ids: a text might begin with a BOS, and the server would put another before it."""
    data(tmp_path, 2)
    server.control(tokenizer_file=str(model_path / "tokenizer.json"))
    options = ("--tokenizer", f"hf:{model_path}", "--concurrency", "1")
    found = predict(server, tmp_path, "--chat-template", "none", *options)
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 2)
    ids = server.body.pop("ids")
    assert server.body | {"ids": ids} == {
        "model": NAME, "temperature": 0, "seed": 42, "max_tokens": 64, "roles": [], "ids": ids,
    }  # fmt: skip
    assert isinstance(ids, list) and len(ids) == records(tmp_path)[1]["prompt_tokens"]
    data(tmp_path / "b", 2)
    found = predict(server, tmp_path / "b", "--chat-template", "tokenizer", *options)
    assert found.returncode == 0, found.stderr
    ids = server.body["ids"]
    assert isinstance(ids, list) and len(ids) == records(tmp_path / "b")[1]["prompt_tokens"]
    assert ids[0] != ids[1]  # <|im_start|>, once


def test_tiktokens_ids_are_not_sent(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    found = predict(server, tmp_path, "--chat-template", "none")
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 2)
    assert "ids" not in server.body


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
    """Each kind once, some for each row; what the server counted is what was recorded."""
    data(tmp_path, 6)
    script = [kind for at in range(0, len(PASSING), 5) for kind in (*PASSING[at : at + 5], "ok")]
    server.control(script=script)
    found = predict(
        server,
        tmp_path,
        "--concurrency",
        "1",
        "--backend-args",
        f"{FAST},timeout=1,timeout_per_1k=0",
    )
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 6)
    tries = attempts(tmp_path)
    assert [attempt["cause"] for attempt in tries] == ["transient"] * len(PASSING)
    assert server.asked.total() == 6 + len(PASSING)


def test_a_row_that_fails_each_time_ends_while_others_are_answered(
    server: Served, tmp_path: Path
) -> None:
    """A reply that is none, again and again for one row: it is that row, not the service."""
    data(tmp_path, 80)
    server.control(fates={"When was lighthouse 5 built?": "malformed"}, latency=0.02)
    found = predict(server, tmp_path, "--concurrency", "2")
    assert found.returncode == 3 and "invalid: 1" in found.stderr, found.stderr
    last = attempts(tmp_path)[-1]
    assert (last["index"], last["cause"]) == (5, "invalid")
    assert 8 <= server.asked["When was lighthouse 5 built?"] <= 12
    assert server.asked.total() - server.asked["When was lighthouse 5 built?"] == 79


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


def test_another_model_than_asked_for_is_refused(tmp_path: Path) -> None:
    data(tmp_path, 3)
    with serving() as server:
        server.control(mode="other-model")
        found = predict(server, tmp_path)
        assert (
            found.returncode == 5
            and '"cheaper-1"' in found.stderr
            and "served_model=cheaper-1" in found.stderr
        )
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
    assert len(taken) == 24 and all(
        record["pred"] == answer_to(str(record["input"])) for record in taken
    )


def test_what_speaks_no_such_protocol_is_told(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(mode="html-200")
    found = predict(server, tmp_path)
    assert found.returncode == 5 and "may be no service of OpenAI's protocol" in found.stderr
    assert server.requests <= 10


def test_the_question_asked_first_survives_faults_of_many_kinds(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 2)
    server.control(probe_script=["503-html"] * 12 + ["malformed", "500-html"] * 4)
    assert predict(server, tmp_path).returncode == 0
    assert_all_right(tmp_path, 2)
    server.control(
        probe_script=["unfinished"]
    )  # a model that reasons longer than that question allows
    data(tmp_path / "b", 2)
    assert predict(server, tmp_path / "b").returncode == 0


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
        (("--base-url", "http://[::1/v1"), "expected an address such as"),
        (("--base-url", "http://h:abc/v1"), "expected an address such as"),
        (("--backend-args", "batch_mb=nan"), 'batch_mb: found "nan"'),
        (("--plan", "--check"), "--plan, --check and --export-prompts: found several"),
        (("--check", "--export-prompts", "x"), "--export-prompts: found several"),
        (("--base-url", "http://u:p@127.0.0.1/v1"), "a key belongs into OPENAI_API_KEY"),
        (("--request-args", "effort=low"), "expected a JSON object"),
        (("--request-args", '{"model": "x"}'), '"model" is the harness'),
        (("--request-args", '{"top_p": NaN}'), "expected a JSON object"),
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
    with pytest.raises(
        LVEvalError, match=r"OPENAI_API_KEY is not set; expected the key of api\.openai\.com"
    ):
        client.api_key("https://api.openai.com/v1")
    assert client.api_key("http://node17:8000/v1") == "none"


def test_a_plan_needs_no_key_and_a_run_does(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data(tmp_path, 2)
    monkeypatch.delenv("OPENAI_API_KEY")
    public = ("--base-url", "https://api.example.com/v1")
    planned = predict(server, tmp_path, *public, "--plan")
    assert planned.returncode == 0 and "all 2 rows were counted" in planned.stderr, planned.stderr
    found = predict(server, tmp_path, *public)
    assert found.returncode == 2 and "expected the key of api.example.com" in found.stderr
    assert not server.requests


def test_a_plan_counts_the_answers_budget_that_the_request_names(
    server: Served, tmp_path: Path
) -> None:
    data(tmp_path, 2)
    prices = ("--plan", "--price-in", "0", "--price-out", "1000")
    assert "answers at most 0.13 USD" in predict(server, tmp_path, *prices).stderr  # 64 tokens each
    asked = ("--request-args", '{"max_completion_tokens": 4000}')
    assert "answers at most 8.00 USD" in predict(server, tmp_path, *prices, *asked).stderr


def test_tiktoken_without_network_says_what_to_do(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data(tmp_path, 1)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    found = predict(server, tmp_path, "--tokenizer", "tiktoken:p50k_base")
    assert (
        found.returncode == 2
        and "TIKTOKEN_CACHE_DIR" in found.stderr
        and "Traceback" not in found.stderr
    )


def test_options_of_a_service_are_refused_elsewhere(tmp_path: Path) -> None:
    found = script("prediction.py", "--backend", "echo", "--model-name", "x", "--concurrency", "4")
    assert found.returncode == 2 and "--concurrency is for --backend openai" in found.stderr


def test_a_fault_that_passes_does_not_undo_one_that_does_not(tmp_path: Path) -> None:
    data(tmp_path, 40)
    with serving("--latency", "0.05") as server:
        server.control(script=["ok"] * 8 + ["quota"] + ["503-html", "reset", "429"] * 20)
        server.control(probe_script=["ok", "quota"])
        found = predict(server, tmp_path, "--concurrency", "4")
        assert found.returncode == 5 and "quota is used up" in found.stderr, found.stderr
        assert server.requests <= 1 + 9 + 2 * 4
        server.control(mode="ok")
        server.control(forget_script=True)
        assert predict(server, tmp_path).returncode == 0
        assert_all_right(tmp_path, 40)


@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
def test_the_users_own_budget_goes_alone(server: Served, tmp_path: Path, field: str) -> None:
    data(tmp_path, 2)
    found = predict(server, tmp_path, "--request-args", json.dumps({field: 4000}))
    assert found.returncode == 0, found.stderr
    assert server.body == {
        "model": NAME,
        "temperature": 0,
        "seed": 42,
        field: 4000,
        "roles": ["user"],
    }


def test_no_budget_at_all_can_be_asked_for(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    found = predict(server, tmp_path, "--request-args", '{"max_completion_tokens": null}')
    assert found.returncode == 0, found.stderr
    assert server.body == {"model": NAME, "temperature": 0, "seed": 42, "roles": ["user"]}


def test_what_a_refused_start_was_told_may_be_changed(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(mode="other-model")
    assert predict(server, tmp_path).returncode == 5
    server.control(mode="ok")
    changed = predict(server, tmp_path, "--request-args", '{"top_p": 1}')
    assert changed.returncode == 0, changed.stderr
    assert predict(server, tmp_path).returncode == 4  # answers are there now


def test_a_prompt_that_cannot_be_made_loses_no_answer_that_is_out(tmp_path: Path) -> None:
    data(tmp_path, 40)
    with serving("--latency", "0.1") as server:
        # A prompt takes one request, and the tokenizer's first two are asked before: this is in mid-run.
        server.control(tokenizer_script=["ok"] * 30 + ["bad-row"] * 100)
        found = predict(
            server,
            tmp_path,
            "--tokenizer",
            "server",
            "--model-max-len",
            "9000",
            "--concurrency",
            "4",
        )
        assert found.returncode == 5 and "cannot read this message" in found.stderr, found.stderr
        taken = lines(tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl")
        assert 0 < len(taken) == server.asked.total() < 40


def test_a_tokenizer_that_is_down_is_waited_for(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 10)
    faults = ["503-html", "reset", "429", "500-html", "malformed", "html-200", "empty-200"]
    server.control(tokenizer_script=["ok"] * 6 + faults)
    found = predict(server, tmp_path, "--tokenizer", "server", "--model-max-len", "9000")
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 10)


def test_the_servers_special_tokens_are_not_written_out(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 2)
    server.control(bos=1)
    found = predict(server, tmp_path, "--tokenizer", "server", "--model-max-len", "400")
    assert found.returncode == 0, found.stderr
    # The BOS, 199 and 200 characters are kept; the text is tokenised anew, with a BOS of its own.
    assert records(tmp_path)[0]["prompt_tokens"] == 400


@pytest.mark.parametrize("key", ["sk-a\nsk-b", "sk-\u00e9", "sk a"])
def test_a_key_that_is_none_is_told_and_not_shown(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    data(tmp_path, 1)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    found = predict(server, tmp_path)
    assert (
        found.returncode == 2
        and "a character that no key has" in found.stderr
        and "sk" not in found.stderr
    )


# --- The script -------------------------------------------------------------------------------------------------------


def test_the_api_script_predicts_resumes_by_row_and_evaluates(
    server: Served, tmp_path: Path
) -> None:
    """factrecall asks one question in all its rows: a resume that went by the question would skip them."""
    same = {"input": "When was the lighthouse built?", "answers": ["1874"]}
    write_data(
        tmp_path / "data",
        "factrecall_en_1k",
        [row("factrecall_en", number) | same for number in range(40)],
    )
    words = [
        "bash",
        str(ROOT / "batch_eval_gpt_single.sh"),
        NAME,
        "500",
        "--base-url",
        f"{server.url}/v1",
    ]
    words += [
        "--data-path",
        str(tmp_path / "data"),
        "--datasets",
        "factrecall_en",
        "--lengths",
        "1k",
    ]
    for limit in ("15", "40"):
        found = subprocess.run(
            [*words, "--limit", limit],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert found.returncode == 0, found.stderr
    assert server.asked == {"When was the lighthouse built?": 40}
    folder = tmp_path / "outputs/500" / NAME
    assert [record["index"] for record in lines(folder / "factrecall_en_1k.jsonl")] == list(
        range(40)
    )
    assert json.loads((folder / "results.json").read_text()).keys() == {"factrecall_en_1k"}


@pytest.mark.parametrize("kind", ["403", "404", "404-page"])
def test_one_rows_refusal_is_not_the_accounts(server: Served, tmp_path: Path, kind: str) -> None:
    data(tmp_path, 12)
    server.control(script=["ok", "ok", "ok", "ok", kind])
    found = predict(server, tmp_path, "--concurrency", "2")
    assert found.returncode == 0, found.stderr
    assert_all_right(tmp_path, 12)


# --- Small parts ------------------------------------------------------------------------------------------------------


def test_a_reply_is_read_or_refused() -> None:
    def choice(**parts: object) -> bytes:
        return json.dumps({"model": "m", "choices": [parts]}).encode()

    answer, served = ReplyReader().read(choice(message={"content": " \n"}, finish_reason="stop"))
    assert (answer.status, served) == ("empty", "m")
    answer, _ = ReplyReader().read(choice(text="done", finish_reason=None))
    assert (answer.text, answer.status) == ("done", "ok")
    for bad in (
        choice(),
        choice(message={}),
        choice(message={"content": 3}),
        choice(text="x", finish_reason="abort"),
    ):
        with pytest.raises(ApiError):
            ReplyReader().read(bad)
    with pytest.raises(ApiError):
        ReplyReader().read(b"[" * 100_000)


@pytest.mark.parametrize(
    ("status", "error", "kind", "row"),
    [
        (403, {"message": "x requires moderation. Your input was flagged for y"}, "row", "refused"),
        (403, {"message": "no"}, "fatal", "error"),
        (403, {"message": "Your account was flagged"}, "fatal", "error"),
        (
            400,
            {"message": "Could not finish the message because max_tokens was reached"},
            "row",
            "length",
        ),
        (
            400,
            {"message": "This model's maximum context length is 8192 tokens"},
            "row",
            "context_overflow",
        ),
        (200, {"message": "upstream", "code": 502}, "transient", "error"),
        (200, {"message": "slow down", "code": 429}, "throttled", "error"),
        (200, {"message": "pay", "code": 402}, "fatal", "error"),
        (200, {"message": "odd", "code": "x"}, "transient", "error"),
    ],
)
def test_what_an_error_means(status: int, error: dict[str, object], kind: str, row: str) -> None:
    if status == 200:
        with pytest.raises(ApiError) as caught:
            ReplyReader().read(json.dumps({"error": error}).encode())
        found = caught.value
    else:
        found = classify_status(status, {}, json.dumps({"error": error}))
    assert (found.kind, found.status) == (kind, row)
    if kind == "row":
        assert responses.failed_generation(found).finish_reason == {
            "refused": "content_filter",
            "length": "length",
        }.get(row)


def test_the_identity_names_the_service_but_not_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def identity(**service: object) -> dict[str, object]:
        api = ApiOptions(**service)  # type: ignore[arg-type]
        return dict(openai.settings_fingerprint(EngineOptions("gpt-4o", 1000, api=api)))

    assert identity()["service"] == "api.openai.com"
    places = (
        "http://node17:8000/v1",
        "http://10.0.0.7/v1",
        "http://127.0.0.1:9/v1",
        "http://a.internal/v1",
    )
    assert {str(identity(base_url=url)["service"]) for url in places} == {"private"}
    assert identity(base_url="https://example.com/v1") != identity()
    assert KEY not in json.dumps(identity())


def test_a_tokenizers_folder_is_named_by_its_content(model_path: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_path / name).read_bytes())
    first = tokenizers.fingerprint(f"hf:{tmp_path}")
    assert first.startswith("hf:sha256:") and tokenizers.fingerprint(f"hf:{tmp_path}") == first
    (tmp_path / "README.md").write_text("says nothing of tokens")
    assert tokenizers.fingerprint(f"hf:{tmp_path}") == first
    for name in ("tokenizer_config.json", "qwen.tiktoken", "tekken.json", "tokenization_own.py"):
        (tmp_path / name).write_text("{}")
        other = tokenizers.fingerprint(f"hf:{tmp_path}")
        assert other != first, name
        first = other


def test_a_tokenizer_of_the_hub_is_named_by_its_commit(tmp_path: Path) -> None:
    """In the Hub's cache, without network."""
    commit, repo = "3f" * 20, tmp_path / "hub/models--a--b"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "tokenizer_config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    code = "from lveval.backends.openai import tokenizers; print(tokenizers.fingerprint('hf:a/b')); tokenizers.fingerprint('hf:a/c')"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.strip() == f"hf:a/b@{commit}"
    assert "UsageError: --tokenizer hf:a/c: transformers cannot load it" in found.stderr


def test_requests_wait_for_the_minutes_allowance() -> None:
    minute = SlidingWindow(600)
    assert minute.wait(600) == 0 and minute.wait(9999) == 0
    minute.take(400)
    assert minute.wait(200) == 0 and 59 < minute.wait(201) <= 60  # seconds
    minute.take(200)
    time.sleep(0.2)
    minute._sent[0] = (minute._sent[0][0] - 40, 400)  # as if 40 seconds had gone by since
    assert 19 < minute.wait(400) <= 20
    assert 59 < minute.wait(401) <= 60 and 59 < minute.wait(9999) <= 60
    minute._sent[0] = (minute._sent[0][0] - 20, 400)
    assert minute.wait(400) == 0 < minute.wait(401)
    assert SlidingWindow(None).wait(10**9) == 0


def test_a_429_shrinks_what_is_out_and_answers_let_it_grow() -> None:
    async def out(admission: ConcurrencyLimiter) -> int:
        entered = 0
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(stack.enter_async_context(admission.entered(10)), 0.05)
                    entered += 1
        return entered

    async def story() -> None:
        admission = ConcurrencyLimiter(10, None, None)
        assert await out(admission) == 10
        for _ in range(5):  # of one burst: they say one thing
            admission.throttled(0.0, 0.0)
        assert await out(admission) == 7
        for _ in range(40):
            admission.throttled(time.monotonic(), 0.0)
        assert await out(admission) == 1
        for _ in range(200):
            admission.answered()
        assert await out(admission) == 10
        assert (
            await out(ConcurrencyLimiter(10, 25, None)) == 2
        )  # tokens that are out, of a minute's worth
        assert await out(ConcurrencyLimiter(10, None, 3)) == 3

    asyncio.run(story())


def test_every_kind_of_fault_is_used() -> None:
    terminal = {
        "401",
        "403",
        "quota",
        "404",
        "redirect",
        "context",
        "filtered",
        "bad-row",
        "never-fits",
    }
    terminal |= {"unfinished", "404-page", "only-streams", "only-text"}
    assert {*REPLIES} - terminal <= {*PASSING} and len(PASSING) >= 12
