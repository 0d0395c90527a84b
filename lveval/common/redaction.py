"""Keys and passwords stand in no message, log or file, however a service or library repeats them.

    redaction.keep("the value of a header")
    redaction.redacted("wrong key: sk-…")    # "wrong key: ***"

What is secret: the values that the environment holds under a name such as OPENAI_API_KEY, the
passwords in its addresses (HTTPS_PROXY), and what a command hands in by `keep`.
"""

import base64
import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from html.entities import codepoint2name
from pathlib import Path
from urllib.parse import unquote, urlsplit

KEY = "OPENAI_API_KEY"

SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I)

# Fields of a request and arguments of an engine that hold one.
KEY_FIELD = (
    r"\b(\w*api_?key|\w*secret|passw(?:or)?d|credentials?|authorization|"
    r"(?:(?:access|auth|use_auth|bearer|hf)_?)?token)\b"
)

SHORTEST = 4  # characters that are looked for in what is said
SHORTEST_WORD = 8  # of letters alone: "none" and "EMPTY" stand for no key at all
SHORTEST_CHANCE = 16  # characters, with a digit among them, that no text has by chance

# Of a secret so much may be told, as services do that mask the rest themselves.
HEAD = 8

FAR = 1 << 14  # characters behind a cut that may come before it once secrets are out

# Loggers of others that tell of the addresses and headers of requests.
LOUD = (
    *("openai", "openai._base_client", "openai._response", "openai._legacy_response"),
    *("httpx", "httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.http2"),
    *("httpcore2.proxy", "httpcore2.socks", "asyncio"),
)

_kept: set[str] = set()


def keep(text: str) -> None:
    """Remember a secret; of one such as `Bearer abc` what follows the scheme, too."""
    scheme, _, rest = text.partition(" ")
    parts = {text, rest} if scheme.isalpha() else {text}
    if scheme == "Basic":  # a name and a password
        with contextlib.suppress(ValueError):
            parts.update(base64.b64decode(rest).decode().split(":", 1))
    _kept.update(filter(_is_secret, parts))


def _is_secret(text: str) -> bool:
    return len(text) >= (SHORTEST_WORD if text.isalpha() else SHORTEST)


def redacted(text: str) -> str:
    """`text` without secrets, in any spelling, whole or cut."""
    secrets = {*_sent(), *_of_environment()}
    return _pattern(frozenset(secrets)).sub("***", text) if secrets else text


def excerpt(content: bytes | str, most: int) -> str:
    """The first `most` characters of a text without secrets: a cut must not hide half of one."""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    return redacted(text[: most + FAR])[:most]


def betrays(text: str) -> bool:
    """Whether a text that is kept as it is, such as an answer, holds what a service was sent.

    Only what no text holds by chance is looked for: a header's value may be a plain word.
    """
    certain = {
        each
        for each in _sent()
        if len(each) >= SHORTEST_CHANCE and re.search(r"\d", each) and _is_opaque(each)
    }
    return bool(certain and _pattern(frozenset(certain), cut=False).search(text))


def without_fields(word: str) -> str:
    """A word of a command line without secrets, also such as `api_key=…` and `"api_key": "…"`."""
    field = rf"(?i)({KEY_FIELD}[\"']?\s*[=:]\s*[\"']?)(?![\s$])[^\"',}}]+"
    return re.sub(field, r"\1***", redacted(word))


def environment_of_others() -> dict[str, str]:
    """The environment for a program that does not speak to the service: without its secrets."""
    return {name: value for name, value in os.environ.items() if value.strip() not in _sent()}


def _is_opaque(text: str) -> bool:
    return not re.search(r"\s|://", text)


def _sent() -> Iterator[str]:
    """Yield what goes to the service."""
    yield from _kept
    if _is_secret(key := os.environ.get(KEY, "").strip()):
        yield key


def _of_environment() -> Iterator[str]:
    """Yield what the environment holds for other programs and services."""
    for name, value in os.environ.items():
        if "@" in value and "://" in value:
            yield from _of_address(value)
        elif (
            SECRET_VARIABLE.search(name)
            and len(value) >= SHORTEST_WORD
            and not Path(value).exists()  # a file of keys
        ):
            yield value.strip()


def _of_address(url: str) -> Iterator[str]:
    """Yield the password of an address, or the name that stands for one, and as it is sent."""
    try:
        user, _, password = urlsplit(url).netloc.rpartition("@")[0].partition(":")
    except ValueError:
        return
    if _is_secret(found := password or user):
        yield from {found, unquote(found)}
        yield base64.b64encode(unquote(f"{user}:{password}").encode()).decode()


@functools.lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str], *, cut: bool = True) -> re.Pattern[str]:
    """Match every secret, the longest first: one may be a part of another."""
    every = sorted(secrets, key=len, reverse=True)
    found = [_spelled(each) for each in every]
    found += [_spelled(core) for each in every for core in _base64(each)]
    if cut:
        long = (each for each in every if len(each) >= SHORTEST_CHANCE and _is_opaque(each))
        found += [_spelled(each[: HEAD + 1]) + r"[^\s\"'<>,;]*" for each in long]
    return re.compile("|".join(found), re.I)


def _spelled(text: str) -> str:
    """Match a text whose signs may be escaped, more than once, as in JSON, addresses or pages."""
    return "".join(map(_sign, text))


def _sign(sign: str) -> str:
    number = ord(sign)
    code, name = f"{number:x}", codepoint2name.get(number, "#")
    spellings = [
        rf"\\{{,7}}{re.escape(sign)}",  # bounded: a text of nothing else must not take for ever
        rf"\\{{1,7}}(?:u0{{,6}}|x){code}",
        rf"&(?:amp;){{,7}}(?:#x?0{{,6}}(?:{code}|{number})|{name});",
    ]
    if sign.isascii():
        spellings.append(rf"%(?:25){{,7}}{code:0>2}")
    spellings += {" ": [r"\+"], "+": ["-"], "/": ["_"]}.get(sign, [])  # in a form, in base64
    return f"(?:{'|'.join(spellings)})"


def _base64(secret: str) -> Iterator[str]:
    """Yield a secret's base64 in a longer text, such as name:password: one of three.

    Without the characters that its neighbours have a part in.
    """
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode()
        end = len(encoded.rstrip("=")) - bool((before + len(secret.encode())) % 3)
        core = encoded[(0, 2, 3)[before] : end]
        if len(core) >= SHORTEST_WORD:
            yield core


_plain = logging.Formatter()


class Redacting(logging.Filter):
    """Takes secrets out of what a logger says, whoever shows it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep each record, without secrets."""
        said = record.getMessage()
        if (without := redacted(said)) != said:
            record.msg, record.args = without, None
        if record.exc_info:
            record.exc_text = redacted(_plain.formatException(record.exc_info))
        return True
