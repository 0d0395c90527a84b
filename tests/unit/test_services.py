"""Every service has its own words: replies of real services, each read for what it means."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lveval.backends.openai import dialects
from lveval.backends.openai.faults import ApiError, classify_status
from lveval.backends.openai.responses import ReplyReader

FOLDER = Path(__file__).resolve().parents[1] / "data" / "services"
MEANINGS = {
    *("finished", "cut", "refused", "too_long", "key", "quota", "busy", "no_model"),
    *("bad_request", "no_answer"),
}

# What the fault of a row is, by kind and status of the row.
FAULTS = {
    ("row", "refused"): "refused",
    ("row", "length"): "cut",
    ("row", "context_overflow"): "too_long",
    ("row", "error"): "too_long",  # for a limit a minute, not for the window
    ("bad", "error"): "bad_request",
    ("throttled", "error"): "busy",
    ("transient", "error"): "busy",
    ("malformed", "error"): "no_answer",
}
ANSWERS = {"ok": "finished", "empty": "finished", "length": "cut", "refused": "refused"}
FATAL = {"quota": "quota", "no such model": "no_model", "the key": "key", "the proxy": "key"}


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}/{case['name']}")
        for path in sorted(FOLDER.glob("*.json"))
        for case in json.loads(path.read_text(encoding="utf-8"))
    ]


def content_of(case: dict[str, Any]) -> bytes:
    body = case["body"]
    return (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()


def meaning_of(case: dict[str, Any]) -> str:
    content = content_of(case)
    if case["status"] == 200:
        try:
            answer, _ = ReplyReader().read(content)
        except ApiError as error:
            return FAULTS[error.kind, error.status]
        return ANSWERS[answer.status]
    fault = classify_status(case["status"], case["headers"], content)
    if fault.kind != "fatal":
        return FAULTS[fault.kind, fault.status]
    return next(meaning for words, meaning in FATAL.items() if words in fault.message)


@pytest.mark.parametrize("case", cases())
def test_a_reply_means_what_it_means(case: dict[str, Any]) -> None:
    found = meaning_of(case)
    # An error inside of a reply of status 200 is no answer, whether waiting helps or not.
    alike = {found, "no_answer"} if case["status"] == 200 and found == "busy" else {found}
    assert case["meaning"] in alike, content_of(case)[:400]


def test_the_corpus_is_large_and_each_meaning_has_replies() -> None:
    replies = [case.values[0] for case in cases()]
    assert len(replies) >= 120 and len(list(FOLDER.glob("*.json"))) >= 16
    assert Counter(case["meaning"] for case in replies).keys() == MEANINGS
    for path in FOLDER.glob("*.json"):
        names = [case["name"] for case in json.loads(path.read_text(encoding="utf-8"))]
        assert len(names) == len(set(names)), path


def reply(finish: object, text: str | None, tokens: int) -> bytes:
    choice = {"message": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}).encode()


def test_a_finish_reason_that_nobody_knows_is_judged_by_evidence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert dialects.finish("fertig") == "unknown"
    assert ReplyReader().read(reply("fertig", "1874", 3), 64)[0].status == "ok"
    assert ReplyReader().read(reply("fertig", "1874 and", 64), 64)[0].status == "length"
    assert caplog.text.count('by "fertig"') == 1
    with pytest.raises(ApiError, match="ended by 'fertig'"):
        ReplyReader().read(reply("fertig", "", 3), 64)


def test_an_answer_without_an_end_and_a_text_is_none() -> None:
    assert ReplyReader().read(reply(None, "1874", 3), 64)[0].status == "ok"
    with pytest.raises(ApiError, match="neither a finish reason nor a text") as caught:
        ReplyReader().read(reply(None, "", 0), 64)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached. Please try again in 9.525s.", 9.5),
        ("Please retry after 33 seconds.", 33),
        ("Please try again in 250ms", 0.25),
        ("slow down", None),
    ],
)
def test_a_wait_that_stands_in_the_words_is_kept(words: str, seconds: float | None) -> None:
    fault = classify_status(429, {}, json.dumps({"error": {"message": words}}))
    assert fault.kind == "throttled"
    assert fault.retry_after == (seconds and pytest.approx(seconds, abs=0.03))
    assert classify_status(429, {"retry-after": "7"}, words).retry_after == 7


@pytest.mark.parametrize("count", [-1, 10**400, 2**41, 1.5, "7", True, None])
def test_what_no_count_of_tokens_can_be_is_not_booked(count: object) -> None:
    body = json.loads(reply("stop", "1874", 3)) | {"usage": {"prompt_tokens": count}}
    answer, _ = ReplyReader().read(json.dumps(body).encode(), 64)
    assert (answer.text, answer.usage) == ("1874", {})
