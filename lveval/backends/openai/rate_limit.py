"""Limit requests in flight, and requests and tokens a minute.

async with ConcurrencyLimiter(8, None, None).entered(tokens): ...
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

MINUTE = 60.0  # seconds

SHRINK = 0.7  # of the requests at once, after a 429


class ConcurrencyLimiter:
    """How many requests are out at once, and how many requests and tokens go out in a minute.

    A 429 shrinks the number and every answer lets it grow again, by one for as many answers as
    are in flight. First come, first served.
    """

    def __init__(
        self, most: int, tokens_per_minute: int | None, requests_per_minute: int | None
    ) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._out = 0
        self._tokens_out = 0
        self._tokens = SlidingWindow(tokens_per_minute)
        self._requests = SlidingWindow(requests_per_minute)
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
        """Return the seconds to wait; infinite where only the end of a request helps."""
        if self._closed:
            return 0.0
        if self._out >= int(self._limit):
            return math.inf
        # No more than a minute's tokens may be in flight.
        if (
            self._out
            and self._tokens.size is not None
            and self._tokens_out + tokens > self._tokens.size
        ):
            return math.inf
        return max(
            self._paused_until - time.monotonic(), self._tokens.wait(tokens), self._requests.wait(1)
        )

    def close(self) -> None:
        """Let all in who wait: they find that the run has ended."""
        self._closed = True
        self._left.set()

    def answered(self) -> None:
        """A request was answered: a little more may go out at once."""
        self._limit = min(self._most, self._limit + 1 / self._limit)

    def throttled(self, sent_at: float, pause: float) -> None:
        """Shrink after a 429 of a request sent at `sent_at` (monotonic); pause in seconds."""
        self._paused_until = max(self._paused_until, time.monotonic() + pause)
        if sent_at > self._shrunk_at:  # those sent before the last shrinking say nothing new
            self._limit = max(1.0, self._limit * SHRINK)
            self._shrunk_at = time.monotonic()


class SlidingWindow:
    """Keep what is sent within a minute to `size`; a larger amount is sent alone."""

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
