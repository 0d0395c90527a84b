"""What a failure of a service means for its row and for the run.

fault = classify_exception(error)  # of the openai client, whose own retries are off
"""

import email.utils
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from lveval.backends.base import Status
from lveval.backends.openai import dialects

if TYPE_CHECKING:
    import openai


# fatal: no request can succeed. bad: the service rejects this request, and the first request of a
# run stands for all. row: this row has no answer. The others are transient; throttled asks for
# fewer requests, malformed is a reply outside the protocol.
Kind = Literal["fatal", "bad", "row", "throttled", "timeout", "malformed", "transient"]

# Repeating such a request changes nothing.
PERMANENT: tuple[Kind, ...] = ("fatal", "bad", "row")

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
        certain: bool = True,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status  # of the row, where the kind is row or bad
        self.retry_after = retry_after  # seconds
        self.field = field  # of the request, that the service complains of
        # Whether the service's words tell it, and not its status alone.
        self.certain = certain


def classify_exception(error: "openai.APIError | TimeoutError") -> ApiError:
    """What an exception of the openai client means."""
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return ApiError("timeout", "no reply in time")
    if isinstance(error, openai.APIStatusError):
        return classify_status(error.status_code, error.response.headers, error.response.content)
    cause = error.__cause__ or error
    return ApiError("transient", f"connection failed: {type(cause).__name__}: {cause}")


def classify_status(status: int, headers: Mapping[str, str], content: bytes | str) -> ApiError:
    """What a reply of another status than 200 means for its row and for the run."""
    reply = dialects.read_error(status, content)
    code = f" {reply.code}" if reply.code and reply.code != str(status) else ""
    said = f"HTTP {status}{code}{reply.words and f': {reply.words}'}"
    if 300 <= status < 400:
        target = headers.get("location", "nowhere").partition("?")[0]
        return ApiError(
            "fatal",
            f"the service redirects to {target}; pass the address that answers as --base-url",
        )
    meaning, told = dialects.classify(reply)
    match meaning:
        case "refused":
            return ApiError("row", said, status="refused")
        case "cut":
            return ApiError("row", said, status="length")
        case "too_long":
            return ApiError("row", said, status="context_overflow")
        case "never_fits":
            return ApiError("row", said)
        case "key" if status == 407:
            return ApiError(
                "fatal", f"the proxy of HTTPS_PROXY wants a name and a password ({said})"
            )
        case "key":
            refuses = "the service refuses the key of OPENAI_API_KEY, or it may not use this model"
            return ApiError("fatal", f"{refuses} ({said})", certain=told or status == 401)
        case "quota":
            return ApiError("fatal", f"the account's quota is used up ({said})")
        case "no_model":
            unknown = "the service knows no such model, or --base-url is not its address"
            return ApiError("fatal", f"{unknown} ({said})", certain=told)
        case "bad_request":
            return ApiError("bad", said, field=reply.field)
    wait = retry_after(headers)
    if wait is None:
        wait = dialects.asked_to_wait(reply)
    return ApiError("throttled" if status == 429 else "transient", said, retry_after=wait)


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


secrets: set[str] = set()  # values of headers, which a service may repeat


def redacted(fault: ApiError) -> ApiError:
    """Shorten the message and remove the key and other secrets, which a service may repeat."""
    for secret in filter(None, (os.environ.get("OPENAI_API_KEY", "").strip(), *secrets)):
        fault.message = fault.message.replace(secret, "***")
    fault.message = fault.message[:LONGEST_MESSAGE]
    return fault
