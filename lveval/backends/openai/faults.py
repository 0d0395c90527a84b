"""What a failure of a service means for its row and for the run.

fault = classify_exception(error)  # of the openai client, whose own retries are off
"""

import email.utils
import math
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from lveval.backends.base import Status

if TYPE_CHECKING:
    import openai


# fatal: no request can succeed. bad: the service rejects this request, and the first request of a
# run stands for all. row: this row has no answer. The others are transient; throttled asks for
# fewer requests, malformed is a reply outside the protocol.
Kind = Literal["fatal", "bad", "row", "throttled", "timeout", "malformed", "transient"]

# Repeating such a request changes nothing.
PERMANENT: tuple[Kind, ...] = ("fatal", "bad", "row")

QUOTA_CODES = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "account_deactivated",
)

FILTER_CODES = (
    "content_filter",
    "content_policy_violation",
    "invalid_prompt",
    "ResponsibleAIPolicyViolation",
)

TOO_LONG = re.compile(
    r"maximum context length|context[ _](length|window|size)|max_model_len|"
    r"(prompt|input) is too long",
    re.I,
)

# OpenRouter's message for a moderated prompt, and OpenAI's for a budget used up by reasoning.
FLAGGED = re.compile(
    r"\b(input|prompt|content|message)s? (was|were|is|are|has been|have been) flagged\b", re.I
)

UNFINISHED = re.compile(r"could not finish the message", re.I)

# A request beyond the account's tokens per minute is answered with 429, however long one waits.
NEVER_FITS = re.compile(r"request too large", re.I)

ABSURD_WAIT = 24 * 3600.0  # seconds; a Retry-After beyond this is no wish but a mistake

LONGEST_MESSAGE = 300  # characters of a service's words that are kept


class ApiError(Exception):
    """A request that brought no answer: what it means, in one sentence."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: Status = "error",
        retry_after: float | None = None,
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status  # of the row, where the kind is row or bad
        self.retry_after = retry_after  # seconds
        self.field = field  # of the request, that the service complains of


def classify_exception(error: "openai.APIError | TimeoutError") -> ApiError:
    """What an exception of the openai client means."""
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return ApiError("timeout", "no reply in time")
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {"message": error.body or ""}
        return classify_status(error.status_code, error.response.headers, body)
    cause = error.__cause__ or error
    return ApiError("transient", f"connection failed: {type(cause).__name__}: {cause}")


def classify_status(
    status: int, headers: Mapping[str, str], body: Mapping[str, object]
) -> ApiError:
    """What a reply of another status than 200 means; `body` is its "error" object."""
    code, field = str(body.get("code") or body.get("type") or ""), str(body.get("param") or "")
    words = str(body.get("message") or body.get("detail") or "")
    if words.lstrip().startswith("<"):
        words = "a page instead of a reply"
    said = (
        f"HTTP {status}"
        + (f" {code}" if code and code != str(status) else "")
        + (f": {words}" if words else "")
    )
    if 300 <= status < 400:
        target = headers.get("location", "nowhere").partition("?")[0]
        return ApiError(
            "fatal",
            f"the service redirects to {target}; pass the address that answers as --base-url",
        )
    if code in FILTER_CODES or (status == 403 and FLAGGED.search(words)):
        return ApiError("row", said, status="refused")
    if status in (401, 403):
        return ApiError(
            "fatal",
            f"the service refuses the key of OPENAI_API_KEY, or it may not use this model ({said})",
        )
    if status == 402 or code in QUOTA_CODES:
        return ApiError("fatal", f"the account's quota is used up ({said})")
    if status == 404:
        return ApiError(
            "fatal", f"the service knows no such model, or --base-url is not its address ({said})"
        )
    if status == 429:
        if NEVER_FITS.search(words):
            return ApiError("row", said)
        return ApiError("throttled", said, retry_after=retry_after(headers))
    if status in (408, 409, 425) or status >= 500:
        return ApiError("transient", said, retry_after=retry_after(headers))
    if UNFINISHED.search(words):
        return ApiError("row", said, status="length")
    if status == 413 or TOO_LONG.search(f"{code} {words}"):
        return ApiError("row", said, status="context_overflow")
    return ApiError("bad", said, field=field)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait; None where it does not say, or says nonsense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, OverflowError, OSError):
                continue
        if math.isfinite(seconds) and 0 <= seconds <= ABSURD_WAIT:
            return seconds
    return None


def redacted(fault: ApiError) -> ApiError:
    """Shorten the message and remove the key, which a service may repeat."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if key:
        fault.message = fault.message.replace(key, "***")
    fault.message = fault.message[:LONGEST_MESSAGE]
    return fault
