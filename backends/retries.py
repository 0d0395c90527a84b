"""When a service fails: which failures are worth waiting for, how long, and how many requests go out at once.

    fault = retries.fault_of(error)        # an exception of the openai client
    async with admission.entered(tokens): ...

The client library's own retries are off. Rows are repeated by `openai_api.OpenAIBackend`, all else by `patiently`.
"""

import asyncio
import email.utils
import math
import os
import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from backends import Status
from errors import ExitCode, HarnessError, printable

if TYPE_CHECKING:
    import openai

# What a failure means for the run. fatal: no request can succeed. bad: this request cannot, or, where none ever did,
# none can. row: this row cannot. The others pass: throttled asks for fewer requests, malformed is a reply that is none.
Kind = Literal["fatal", "bad", "row", "throttled", "timeout", "malformed", "transient"]

QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated")
FILTER_CODES = ("content_filter", "content_policy_violation", "invalid_prompt", "ResponsibleAIPolicyViolation")
TOO_LONG = re.compile(
    r"maximum context length|context[ _](length|window|size)|max_model_len|(prompt|input) is too long",
    re.I,
)
# OpenRouter's words where a moderator stops a prompt, and OpenAI's where a model reasoned until its budget was used up.
FLAGGED = re.compile(r"\b(input|prompt|content|message)s? (was|were|is|are|has been|have been) flagged\b", re.I)
UNFINISHED = re.compile(r"could not finish the message", re.I)
# A request beyond the account's tokens per minute is answered with 429, however long one waits.
NEVER_FITS = re.compile(r"request too large", re.I)

MINUTE = 60.0  # seconds
LONGEST_BACKOFF = 60.0  # seconds between the tries of a row, where the service does not ask for more
ABSURD_WAIT = 24 * 3600.0  # seconds; a Retry-After beyond this is no wish but a mistake
SHRINK = 0.7  # of the requests at once, after a 429
AGAIN = "all answers so far are saved; run the same command again when it is mended"
LONGEST_MESSAGE = 300  # characters of a service's words that are kept


# Set while a run ends: a thread that waits for the service must not hold the process.
ENDING = threading.Event()

Got = TypeVar("Got")


class Fault(Exception):
    """A request that brought no answer: what it means, in one sentence."""

    def __init__(
        self, kind: Kind, message: str, *, status: Status = "error", retry_after: float | None = None, field: str = ""
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status  # of the row, where the kind is row or bad
        self.retry_after = retry_after  # seconds
        self.field = field  # of the request, that the service complains of


def fault_of(error: "openai.APIError | TimeoutError") -> Fault:
    """What an exception of the openai client means."""
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Fault("timeout", "no reply in time")
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {"message": error.body or ""}
        return status_fault(error.status_code, error.response.headers, body)
    cause = error.__cause__ or error
    return Fault("transient", f"connection failed: {type(cause).__name__}: {cause}")


def status_fault(status: int, headers: Mapping[str, str], body: Mapping[str, object]) -> Fault:
    """What a reply of another status than 200 means; `body` is its "error" object."""
    code, field = str(body.get("code") or body.get("type") or ""), str(body.get("param") or "")
    words = str(body.get("message") or body.get("detail") or "")
    if words.lstrip().startswith("<"):
        words = "a page instead of a reply"
    said = f"HTTP {status}" + (f" {code}" if code and code != str(status) else "") + (f": {words}" if words else "")
    if 300 <= status < 400:
        target = headers.get("location", "nowhere").partition("?")[0]
        return Fault("fatal", f"the service redirects to {target}; pass the address that answers as --base-url")
    if code in FILTER_CODES or (status == 403 and FLAGGED.search(words)):
        return Fault("row", said, status="refused")
    if status in (401, 403):
        return Fault("fatal", f"the service refuses the key of OPENAI_API_KEY, or it may not use this model ({said})")
    if status == 402 or code in QUOTA_CODES:
        return Fault("fatal", f"the account's quota is used up ({said})")
    if status == 404:
        return Fault("fatal", f"the service knows no such model, or --base-url is not its address ({said})")
    if status == 429:
        if NEVER_FITS.search(words):
            return Fault("row", said)
        return Fault("throttled", said, retry_after=retry_after(headers))
    if status in (408, 409, 425) or status >= 500:
        return Fault("transient", said, retry_after=retry_after(headers))
    if UNFINISHED.search(words):
        return Fault("row", said, status="length")
    if status == 413 or TOO_LONG.search(f"{code} {words}"):
        return Fault("row", said, status="context_overflow")
    return Fault("bad", said, field=field)


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


def told(fault: Fault) -> Fault:
    """The fault as it may be written down: without the key, which a service may repeat in its words, and short."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if key:
        fault.message = fault.message.replace(key, "***")
    fault.message = fault.message[:LONGEST_MESSAGE]
    return fault


def backoff(failures: int, first: float) -> float:
    """Seconds to wait after so many failures of a row, one after another: doubling, with jitter."""
    return min(LONGEST_BACKOFF, first * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


@dataclass(frozen=True)
class Waits:
    """How long a service that fails is waited for."""

    first: float  # seconds after the first failure
    longest: float  # of what a service asks for, the most that is obeyed, in seconds
    max_outage: float  # hours without any answer

    def pause(self, failures: int, fault: Fault) -> float:
        """Seconds to wait after so many failures, one after another: what the service asks for, or more each time."""
        return max(min(fault.retry_after or 0.0, self.longest), min(backoff(failures, self.first), self.longest))

    def outage(self, since: float, fault: Fault) -> HarnessError | None:
        """The run's end, where the service has answered nothing since `since` (monotonic) for too long."""
        silent = time.monotonic() - since
        if silent <= self.max_outage * 3600:
            return None
        return HarnessError(
            f"the service answered nothing for {silent / 3600:.1f} h ({fault.message}); {AGAIN}", ExitCode.INCOMPLETE
        )


def patiently(
    call: Callable[[], Got], waits: Waits, unless: Callable[[], Got | None] | None = None, *, hint: str = ""
) -> Got:
    """`call`, one blocking request, repeated while its failures pass; raises HarnessError where they do not.

    After a failure `unless` tells whether the thing was done all the same. `hint` ends the message.
    """
    import openai

    failures, began = 0, time.monotonic()
    while True:
        try:
            if failures and unless is not None and (found := unless()) is not None:
                return found
            got = call()
            if not isinstance(got, str):  # the client hands on a reply of another kind than JSON as it is
                return got
            fault = Fault("malformed", "the reply is no JSON")
        except openai.APIError as error:
            fault = told(fault_of(error))
        except ValueError:
            fault = Fault("malformed", "the reply is no JSON")
        failures += 1
        if fault.kind in ("fatal", "bad", "row"):
            raise HarnessError(f"{fault.message}; {AGAIN}{hint}", ExitCode.SERVICE)
        if ended := waits.outage(began, fault):
            raise ended
        print(printable(f"waiting for the service: {fault.message}"), file=sys.stderr)
        if ENDING.wait(waits.pause(failures, fault)):
            raise HarnessError(f"the run ends ({fault.message})", ExitCode.INCOMPLETE)


class Admission:
    """How many requests are out at once, and how many requests and tokens go out in a minute.

    A 429 shrinks the number and every answer lets it grow again, by one for as many answers as are out at once. First
    come, first served.
    """

    def __init__(self, most: int, tokens_per_minute: int | None, requests_per_minute: int | None) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._out = 0
        self._tokens_out = 0
        self._tokens = _Minute(tokens_per_minute)
        self._requests = _Minute(requests_per_minute)
        self._paused_until = 0.0
        self._shrunk_at = -math.inf
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()
        self._closed = False

    @asynccontextmanager
    async def entered(self, tokens: int) -> AsyncIterator[None]:
        """Wait for room for a request of so many tokens, prompt and answer budget."""
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                self._left.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._left.wait(), None if wait == math.inf else wait)
            if not self._closed:
                self._tokens.take(tokens)
                self._requests.take(1)
            self._out += 1
            self._tokens_out += tokens
        try:
            yield
        finally:
            self._out -= 1
            self._tokens_out -= tokens
            self._left.set()

    def _wait(self, tokens: int) -> float:
        """Seconds until it is worth looking again; infinite where only a request that ends makes room."""
        if self._closed:
            return 0.0
        if self._out >= int(self._limit):
            return math.inf
        # What is out has not been answered yet: of a minute's tokens, no more than a minute's worth at once.
        if self._out and self._tokens.size is not None and self._tokens_out + tokens > self._tokens.size:
            return math.inf
        return max(self._paused_until - time.monotonic(), self._tokens.wait(tokens), self._requests.wait(1))

    def close(self) -> None:
        """Let all in who wait: they find that the run has ended."""
        self._closed = True
        self._left.set()

    def answered(self) -> None:
        """A request was answered: a little more may go out at once."""
        self._limit = min(self._most, self._limit + 1 / self._limit)

    def throttled(self, sent_at: float, pause: float) -> None:
        """A request sent at `sent_at` (monotonic) met a 429: send fewer, and none for `pause` seconds."""
        self._paused_until = max(self._paused_until, time.monotonic() + pause)
        if sent_at > self._shrunk_at:  # those sent before the last shrinking say nothing new
            self._limit = max(1.0, self._limit * SHRINK)
            self._shrunk_at = time.monotonic()


class _Minute:
    """What went out within the last minute, kept to `size`; what alone is more than that goes out when nothing did."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self._sent: deque[tuple[float, int]] = deque()  # (monotonic, amount), the oldest first
        self._used = 0

    def wait(self, amount: int) -> float:
        """Seconds until there is room for `amount`."""
        if self.size is None:
            return 0.0
        now = time.monotonic()
        while self._sent and self._sent[0][0] <= now - MINUTE:
            self._used -= self._sent.popleft()[1]
        wait, over = 0.0, self._used + min(amount, self.size) - self.size
        for at, sent in self._sent:
            if over <= 0:
                break
            wait, over = at + MINUTE - now, over - sent
        return wait

    def take(self, amount: int) -> None:
        """`amount` goes out."""
        if self.size is not None:
            self._sent.append((time.monotonic(), min(amount, self.size)))
            self._used += self._sent[-1][1]
