"""What a service's reply means, whatever its words: a table, first match first.

    reply = dialects.read_error(429, content)
    dialects.classify(reply)        # "busy", "quota", "key" …
    dialects.FINISH["eos_token"]    # "finished"

To teach it a service: its replies go to tests/data/services/, and words that no line here has
into the line of their meaning. Where two lines fit, the one above is the more telling.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# refused: this prompt alone, by a filter; too_long: for the model's window; never_fits: a limit a
# minute that this request alone exceeds; key: wrong, or without the right; quota: spent, waiting
# does not help; busy: ask again; crowded: with fewer requests at once; no_model: unknown model or
# route; cut: at its limit of tokens; bad_request: a field that is not understood.
Meaning = Literal[
    "refused",
    "too_long",
    "never_fits",
    "key",
    "quota",
    "busy",
    "crowded",
    "no_model",
    "cut",
    "bad_request",
]

# Finish reasons, in lower case, by what became of the answer. "busy": the service broke it off.
FINISH: dict[str, Literal["finished", "cut", "refused", "busy"]] = {
    **dict.fromkeys(
        "stop eos eos_token end_turn stop_sequence complete completed finished".split(),  # noqa: SIM905
        "finished",
    ),
    **dict.fromkeys(
        """
        length max_tokens model_length max_output_tokens max_length token_limit
        model_context_window_exceeded error_toxic_length
        """.split(),  # noqa: SIM905
        "cut",
    ),
    **dict.fromkeys(
        """
        content_filter sensitive refusal safety recitation prohibited_content blocklist spii
        error_toxic
        """.split(),  # noqa: SIM905
        "refused",
    ),
    **dict.fromkeys(
        "insufficient_system_resource network_error abort aborted error cancelled".split(),  # noqa: SIM905
        "busy",
    ),
}


@dataclass(frozen=True)
class Words:
    """A line of the table: statuses ("" for any, "4" for all of 4xx) and words that tell."""

    meaning: Meaning
    statuses: str
    words: str  # a regular expression, of any letter case


TABLE = (
    Words("cut", "400", r"could not finish the message"),
    Words(
        "bad_request", "400", r"max_tokens=\d+ cannot be|invalid max_tokens|extra inputs are not"
    ),
    # --- this prompt alone ---
    Words(
        "refused",
        "400 403 422 451",
        r"content[_ ]?filter|content (management )?policy|contentpolicyviolation|responsibleai|"
        r"data_?inspection|content exists risk|\b1301\b|usage guidelines|safety_check|"
        r"\b(input|prompt|content|message|request)s? (was|were|is|are|ha[sv]e? been) flagged|"
        r"considered high risk|invalid_prompt|prohibited_content|敏感",
    ),
    Words("never_fits", "413 429", r"request too large"),
    Words(
        "too_long",
        "400 413 422",
        r"context_length_exceeded|exceed_context_size|max_num_tokens|"
        r"(maximum|model|available|model's) context|maximum (model|prompt) length|"
        r"maximum number of tokens allowed|model token limit|"
        r"(prompt|input)( token)?( length)? (is )?too long|prompt exceeds max|\b1261\b|超长|"
        r"range of input length|`inputs` tokens \+ `max_new_tokens`|context (window|size)|"
        r"reduce the length of the (messages|input|prompt)",
    ),
    Words("too_long", "413", ""),
    Words("quota", "429", r"PerDay|-per-day"),
    # --- waiting helps: before the words for what is spent, which some services use for both ---
    Words(
        "crowded",
        "403 429",
        r"#token-limit|allocated quota exceeded, please increase|limit_requests|limit_burst|"
        r"per ?minute|/ ?minute|per min\b|tpm|rpm|rate[_ ]limit reached|try again in [\d.]+ ?m?s|"
        r"google\.rpc\.RetryInfo|retry in [\d.]+ ?m?s|check quota",
    ),
    # --- the account ---
    Words(
        "quota",
        "400 402 403 412 429",
        r"insufficient[_ ](quota|balance|credit)|billing_|account_deactivated|credit balance|"
        r"arrearage|\b1113\b|\b1308\b|余额不足|使用上限|spending (limit|cap)|"
        r"used all available credits|free allocated quota|freetieronly|free tier of the model|"
        r"budget has been exceeded|calls / month|per ?day|suspended|exceeded[_ ]current[_ ]quota|"
        r"exceeded your current quota",
    ),
    Words("quota", "402", ""),
    Words("key", "401 407", ""),
    Words("key", "400", r"incorrect api key|invalid api key|api key not valid|no_db_connection"),
    # --- the model ---
    Words("bad_request", "404", r"no endpoints found that"),
    Words("no_model", "404", ""),
    Words(
        "no_model",
        "400",
        r"model not exist|not a valid model|invalid model|model_not_found|模型不存在|"
        r"model .{0,80}(does not exist|not found)|is pinned to|unknown model",
    ),
    # --- the service ---
    Words("crowded", "429", ""),
    Words("crowded", "500", r"context size has been exceeded"),  # of all that are in flight
    Words("busy", "408 409 424 425 5", ""),
    Words("key", "403", ""),
    Words("bad_request", "4", ""),
)


@dataclass(frozen=True)
class Reply:
    """A reply of another status than 200, or an error in one, read whatever its shape."""

    status: int
    code: str = ""  # the service's own word or number
    field: str = ""  # of the request, that it complains of
    words: str = ""  # what it says, on one line
    everything: str = ""  # all its texts and numbers, for the table


def classify(reply: Reply) -> Meaning:
    """Find the first line of the table that fits.

    3xx and what nothing fits count as busy.
    """
    for line in TABLE:
        statuses = line.statuses.split()
        if any(str(reply.status).startswith(each) for each in statuses) and re.search(
            line.words, reply.everything, re.I
        ):
            return line.meaning
    return "busy"


def read_error(status: int, content: bytes | str) -> Reply:
    """Read a body: OpenAI's error object, a bare one, a list of them, a text, or a page."""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        words = "a page instead of a reply" if text.lstrip().startswith("<") else text
        return Reply(status, words=_line(words), everything=_line(words))
    if isinstance(body, list) and body:
        body = body[0]
    whole = body if isinstance(body, dict) else {"message": body}
    error = whole.get("error", whole)
    error = {**whole, "message": error} if isinstance(error, str) else error
    if not isinstance(error, dict):
        error = whole
    code = error.get("code") or error.get("type") or error.get("status") or ""
    said = error.get("message") or error.get("detail") or ""
    everything = " | ".join(map(str, _leaves(whole)))
    words = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return Reply(
        status, str(code), _field(error, everything), _line(words), _line(everything)[:20_000]
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _leaves(value: Any) -> Iterator[Any]:  # noqa: ANN401 - JSON
    """Yield the texts and numbers below a JSON value."""
    match value:
        case dict():
            for each in value.values():
                yield from _leaves(each)
        case list():
            for each in value:
                yield from _leaves(each)
        case str() | int() | float():
            yield value


def _field(error: Mapping[str, Any], everything: str) -> str:
    """The field of the request that an error names, "" where it names none."""
    if isinstance(error.get("param"), str):
        return str(error["param"])
    for pattern in (
        r"Unknown name \"(\w+)\"",
        r"body \| (\w+) \|",
        r'"body", ?"(\w+)"',
        r"(?:parameter|field|fields in the request)[^\w]{1,4}(\w+)",
        r"does not support parameters: \{'(\w+)'",
    ):
        if match := re.search(pattern, everything):
            return match[1]
    return ""


def asked_to_wait(reply: Reply) -> float | None:
    """Seconds that a service asks for in its words, where no header says it."""
    match = re.search(
        r"(?:try again|retry|retryDelay|RetryInfo)\D{0,12}?([\d.]+) ?(ms|s\b|sec)", reply.everything
    )
    return float(match[1]) * (0.001 if match[2] == "ms" else 1.0) if match else None


def finish(reason: object) -> Literal["finished", "cut", "refused", "busy", "unknown"]:
    """What a finish reason says; "unknown" for one that no service was seen to send."""
    if reason is None:
        return "unknown"
    name = str(reason).strip().lower()
    for known, meaning in FINISH.items():
        if name == known or name.startswith(f"{known}:"):
            return meaning
    return "unknown"
