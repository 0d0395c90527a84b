"""What is secret, and that no spelling of it stays in a text."""

import base64
import html
import json
import logging
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lveval.common import redaction
from lveval.common.redaction import betrays, excerpt, keep, redacted, without_fields

KEY = "sk-canary/5f2e+71a9==c0ffee"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret but the test's own."""
    monkeypatch.setattr("lveval.common.redaction._kept", set())
    monkeypatch.setattr("os.environ", {"PATH": "/bin"})


def in_base64(secret: str) -> str:
    return base64.b64encode(f"user:{secret}".encode()).decode()


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "an address": quote,
    "a form": quote_plus,
    "an address within a form": lambda secret: quote_plus(quote(secret)),
    "numbers of a page": lambda secret: "".join(f"&#{ord(sign)};" for sign in secret),
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret)),
    "escapes": lambda secret: "".join(f"\\u{ord(sign):04x}" for sign in secret),
    "small letters": lambda secret: quote(secret, safe="").lower(),
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON of PHP": lambda secret: json.dumps(secret)[1:-1].replace("/", r"\/"),
    "a representation": lambda secret: repr({"x": secret}),
    "a page": html.escape,
    "base64": in_base64,
    "base64 for addresses": lambda secret: in_base64(secret).replace("/", "_").replace("+", "-"),
}


@settings(max_examples=40, deadline=None)
@given(
    # Of the signs that a header may have; a base64 that is too short could be anything.
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60),
    around=st.tuples(*2 * [st.text("ab <\"'/=%\n", max_size=8)]),
    spelling=st.sampled_from([*SPELLINGS]),
)
def test_no_spelling_stays(secret: str, around: tuple[str, str], spelling: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lveval.common.redaction._kept", {secret})
        spelled = SPELLINGS[spelling](secret)
        said = redacted(f"{around[0]}{spelled}{around[1]}")
    assert "***" in said and spelled not in said
    assert secret not in said and in_base64(secret)[8:-4] not in said


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_sign_is_found_in_every_spelling(spelling: str) -> None:
    secret = "".join(map(chr, range(33, 127)))
    keep(secret)
    assert redacted(f"({SPELLINGS[spelling](secret)})").count("***") == 1


def test_a_cut_leaves_no_part() -> None:
    keep(KEY)
    keep("gate-1 'x'")
    for most in range(60):
        assert "sk-canary" not in excerpt(f"{'x' * 20} {KEY} and more", most)
        assert "gate" not in excerpt(f"{'x' * 20} gate-1 'x' and more", most)
    assert redacted(f"bad: {KEY[:14]}…, {KEY[:8]}***") == f"bad: ***, {KEY[:8]}***"


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("Bearer abc-1", "abc-1"),
        (f"Basic {base64.b64encode(b'me:word-7').decode()}", "word-7"),
        ("longwords", "longwords"),
        ("a1b2", "a1b2"),
    ],
)
def test_what_is_kept_is_found(kept: str, said: str) -> None:
    keep(kept)
    assert redacted(f"wrong: {said}!") == "wrong: ***!"


@pytest.mark.parametrize("kept", ["none", "EMPTY", "Bearer none", "abc", "Basic x", ""])
def test_a_word_that_stands_for_no_key_is_none(kept: str) -> None:
    keep(kept)
    assert redacted("none EMPTY abc x Basic Bearer") == "none EMPTY abc x Basic Bearer"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OPENAI_API_KEY", "k-17", "k-17"),
        ("HF_TOKEN", "hf_abcd1", "hf_abcd1"),
        ("MLFLOW_TRACKING_PASSWORD", "pass word 1", "pass word 1"),
        ("HTTPS_PROXY", "http://me:p%40ss1@127.0.0.1:1", "p@ss1"),
        ("https_proxy", "http://me:pass1@127.0.0.1:1", base64.b64encode(b"me:pass1").decode()),
        ("MLFLOW_TRACKING_URI", "https://token1@host", "token1"),
    ],
)
def test_the_environments_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"({said})") == "(***)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_KEY", __file__),
        ("TOKENIZERS_PARALLELISM", "false and more"),
        ("MONKEY", "short"),
        ("HTTP_PROXY", "http://127.0.0.1:3128"),
        ("ODD", "http://[::1@://"),
    ],
)
def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"({value})") == f"({value})"


def test_only_what_no_answer_has_by_chance_is_found_in_one() -> None:
    for word in (
        "gpt-4o-mini",
        "lighthouse",
        "https://example.org/1/benchmark",
        "two words 12345678",
    ):
        keep(word)
        assert redacted(word) == "***" and not betrays(word)
    keep(KEY)
    assert betrays(f"the key is {KEY}.") and betrays(f"?{quote(KEY, safe='')}")


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("api_key=abc,window=3", "api_key=***,window=3"),
        ("--backend-args=my_api_key=abc", "--backend-args=my_api_key=***"),
        ('{"api_key": "abc", "user": "me"}', '{"api_key": "***", "user": "me"}'),
        ('{"gate": {"token": "abc"}}', '{"gate": {"token": "***"}}'),
        ("password=a b", "password=***"),
        ('{"api_key": "$GATE_KEY"}', '{"api_key": "$GATE_KEY"}'),
        ('{"max_tokens": 64, "tokenizer": "x"}', '{"max_tokens": 64, "tokenizer": "x"}'),
        ("--model-name=key-lime", "--model-name=key-lime"),
    ],
)
def test_a_command_line_keeps_no_field_that_is_a_key(word: str, kept: str) -> None:
    assert without_fields(word) == kept


@pytest.mark.parametrize("name", ["lveval", *redaction.LOUD])
def test_loggers_of_requests_tell_none(name: str, caplog: pytest.LogCaptureFixture) -> None:
    keep(KEY)
    logger = logging.getLogger(name)
    with caplog.at_level(logging.DEBUG, logger=name):
        caplog.handler.setFormatter(logging.Formatter())
        logger.addHandler(caplog.handler)
        try:
            raise ValueError(KEY)
        except ValueError:
            logger.exception("sent to %s", f"http://127.0.0.1/v1?code={quote(KEY, safe='')}")
        finally:
            logger.removeHandler(caplog.handler)
    assert "code=***" in caplog.text and "ValueError: ***" in caplog.text
    assert "sk-canary" not in caplog.text
