"""What a failure of a service means for its row and for the run.

fault = classify_exception(error)  # of the openai client, whose own retries are off
"""

import email.utils
import math
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from lveval.backends.base import Status
from lveval.backends.openai import dialects
from lveval.common.errors import causes
from lveval.common.redaction import excerpt

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
    """A request that brought no answer: what it means, in one sentence without secrets."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: Status = "error",
        retry_after: float | None = None,
        field: str = "",
    ) -> None:
        self.message = excerpt(message, LONGEST_MESSAGE)
        super().__init__(self.message)
        self.kind = kind
        self.status = status  # of the row, where the kind is row or bad
        self.retry_after = retry_after  # seconds
        self.field = field  # of the request or the reply, that is complained of


def classify_exception(error: "openai.APIError | TimeoutError") -> ApiError:
    """What an exception of the openai client means."""
    import openai

    if isinstance(error, openai.APITimeoutError) and "Connect" in type(error.__cause__).__name__:
        return _no_connection(error)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return ApiError("timeout", "no reply in time")
    if isinstance(error, openai.APIResponseValidationError):
        return ApiError("malformed", error.message)
    if isinstance(error, openai.APIStatusError):
        return classify_status(error.status_code, error.response.headers, error.response.content)
    return _no_connection(error)


def _no_connection(error: "openai.APIError") -> ApiError:
    """Why there is no connection, and what to do about it."""
    import openai

    address = host = ""
    if isinstance(error, openai.APIConnectionError):
        url = error.request.url
        host, address = url.host, f"{url.scheme}://{url.netloc.decode()}"
    chain = [*causes(error)]
    proxy = _proxy(address)
    way = f" by the proxy {proxy}, which HTTP_PROXY or HTTPS_PROXY names" if proxy else ""
    past = f"; NO_PROXY={host} goes past it" if proxy else ""
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ApiError(
                "fatal",
                f"{address} has a certificate that is not trusted ({cause.verify_message}); where "
                "it is that of your own authority, name its file in SSL_CERT_FILE",
            )
        if isinstance(cause, socket.gaierror):
            who = "the proxy's name" if proxy else f'the name "{host}"'
            return ApiError("transient", f"{who} is not found{way}: look for a typing error{past}")
        if isinstance(cause, ConnectionRefusedError):
            what = proxy or address
            return ApiError(
                "transient",
                f"nothing listens at {what} (connection refused){way}: is it started, is its port "
                f"right?{past}",
            )
    last = chain[1] if len(chain) > 1 else error
    if "Proxy" in type(last).__name__ and "407" in str(last):
        return _unknown_to_proxy(str(last))
    words = f"connection failed{way}: {type(last).__name__}: {last}"
    return ApiError("transient", f"{words}{past}")


def _unknown_to_proxy(said: str) -> ApiError:
    return ApiError("fatal", f"the proxy of HTTPS_PROXY wants a name and a password ({said})")


def _proxy(address: str) -> str:
    """The proxy that stands between, without a password; "" for none."""
    found = urllib.request.getproxies()
    if not address or urllib.request.proxy_bypass(urlsplit(address).netloc):
        return ""
    parts = urlsplit(found.get(address.partition(":")[0]) or found.get("all") or "")
    return f"{parts.scheme}://{parts.hostname}:{parts.port}" if parts.hostname else ""


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
    meaning = dialects.classify(reply)
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
            return _unknown_to_proxy(said)
        case "key":
            refuses = "the service refuses the key of OPENAI_API_KEY, or it may not use this model"
            return ApiError("fatal", f"{refuses} ({said})")
        case "quota":
            return ApiError("fatal", f"the account's quota is used up ({said})")
        case "no_model":
            unknown = "the service knows no such model, or --base-url is not its address"
            # A page is not the service's: a gateway's, behind which there may be nothing just now.
            field = "page" if reply.words == dialects.PAGE else ""
            return ApiError("fatal", f"{unknown} ({said})", field=field)
        case "bad_request":
            return ApiError("bad", said, field=reply.field)
    wait = retry_after(headers)
    if wait is None:
        wait = dialects.asked_to_wait(reply)
    return ApiError("throttled" if meaning == "crowded" else "transient", said, retry_after=wait)


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
