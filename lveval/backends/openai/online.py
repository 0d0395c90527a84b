"""The OpenAI backend: many rows at once, from this process.

    OPENAI_API_KEY=… python prediction.py --backend openai --model-name gpt-4-1106-preview

Failed requests are repeated: an outage fails no row. Every failed attempt is yielded and recorded.
"""

import asyncio
import contextlib
import math
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lveval.backends.base import Generation, Prompt, Status
from lveval.backends.openai.faults import PERMANENT, ApiError, Kind
from lveval.backends.openai.rate_limit import ConcurrencyLimiter
from lveval.backends.openai.responses import failed_generation
from lveval.backends.openai.retry import MAX_FAILURES, MAX_SAME_FAILURES, RESUME_HINT, log_waiting
from lveval.backends.openai.service import Service, ServiceEngine
from lveval.backends.openai.settings import requested_max_tokens
from lveval.common.errors import ExitCode, LVEvalError, ServiceError, UsageError

if TYPE_CHECKING:
    import openai


# What a failure of a row's own weighs where the question, asked at once, was answered: more than
# where only some other row was.
ASKED = 3

# So many rows must fail alike, and none be answered meanwhile, before that ends a run.
MIN_ALIKE = 5


# Failures that waiting mends, unless they are the row's; faults of replies that it does not mend.
PASSING: tuple[Kind, ...] = ("transient", "throttled")
LASTING = ("model", "budget")


@dataclass
class _Row:
    """A row that the service has not answered yet."""

    position: int
    prompt: Prompt
    failures: int = 0  # one after another
    failed_at: float = -math.inf  # monotonic
    kind: str = ""  # of the last failure
    same: int = 0  # failures of that kind, one after another, of the row's own
    own: int = 0  # failures while the service answered other requests


class OpenAIEngine(ServiceEngine):
    """A service behind OpenAI's protocol; `generate` may be called once at a time.

    What a failure means is told by what else was answered. Where nothing was since the row's last
    failure, a short question is asked: if it is answered, the failure is the row's, which is
    repeated some times and then left open; if not, it is an outage, which all rows wait for.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._policy = service.retry_policy
        self._begin()

    def _begin(self) -> None:
        """Forget what an earlier call of `generate` saw."""
        self._heard_at = time.monotonic()  # the last answer, to a row or to the question
        self._failing_since = math.inf  # in ways that pass, without an answer to any row
        self._asking = asyncio.Lock()  # the question
        self._rows_out = 0
        self._lasting_faults = 0  # replies that no repeat mends, one after another
        self._alike: tuple[str, set[int]] = (
            "",
            set(),
        )  # words, rows that failed so since an answer
        self._stop: LVEvalError | None = None  # why no request goes out any more
        self._limiter: ConcurrencyLimiter | None = None

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Answer as many prompts at once as the service takes; see RemoteEngine."""
        results: queue.SimpleQueue[
            tuple[int, Generation, Callable[[], None]] | BaseException | None
        ] = queue.SimpleQueue()
        self._begin()
        loop = asyncio.new_event_loop()
        main = loop.create_task(self._answer_all(iter(prompts), results))

        def serve() -> None:
            try:
                loop.run_until_complete(main)
                results.put(None)
            except BaseExceptionGroup as group:  # what one of the takers met: bad data, a bug
                results.put(group.exceptions[0])
            except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
                results.put(error)
            finally:
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()

        thread = threading.Thread(target=serve, name="requests", daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                position, answer, acknowledge = item
                yield position, answer
                with contextlib.suppress(RuntimeError):  # the loop is closed already
                    acknowledge()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(main.cancel)
            thread.join(timeout=5)

    async def _answer_all(
        self, prompts: Iterator[Prompt], results: "queue.SimpleQueue[Any]"
    ) -> None:
        """Run `concurrency` tasks, each with one row at a time, until prompts or run end."""
        loop = asyncio.get_running_loop()
        limiter = self._limiter = ConcurrencyLimiter(
            self._service.api.concurrency,
            self._service.api.tokens_per_minute,
            self._service.api.requests_per_minute,
        )
        unprepared: list[Exception] = []
        numbered = enumerate(prompts)
        turn = asyncio.Lock()

        async def deliver(position: int, answer: Generation) -> None:
            """Hand over and wait for the record: a kill repeats only requests in flight."""
            done = asyncio.Event()
            results.put((position, answer, lambda: loop.call_soon_threadsafe(done.set)))
            await done.wait()

        async def take(client: "openai.AsyncOpenAI") -> None:
            while not self._stop:
                async with (
                    turn
                ):  # reading and cutting a long context takes seconds: not in this thread
                    if self._stop:
                        return
                    try:
                        item = await loop.run_in_executor(None, next, numbered, None)
                    except Exception as error:  # noqa: BLE001 - bad data, say: what is out is answered, then it is raised
                        unprepared.append(error)
                        self._stop_run(UsageError("no prompt could be prepared"))
                        return
                if item is None:
                    return
                self._rows_out += 1
                await self._answer(client, limiter, _Row(*item), deliver)
                self._rows_out -= 1

        async with self._service.client() as client, asyncio.TaskGroup() as takers:
            for _ in range(self._service.api.concurrency):
                takers.create_task(take(client))
        if unprepared:
            raise unprepared[0]
        if self._stop:
            raise self._stop

    async def _answer(
        self,
        client: "openai.AsyncOpenAI",
        limiter: ConcurrencyLimiter,
        row: _Row,
        deliver: Callable[[int, Generation], Awaitable[None]],
    ) -> None:
        """Repeat the request of a row until it is answered or given up, or the run ends."""
        tokens = len(row.prompt.tokens) + (
            requested_max_tokens(self._service.api.request_args) or row.prompt.max_new_tokens
        )
        while not self._stop:
            async with limiter.entered(tokens):
                if self._stop:
                    return
                sent_at = time.monotonic()
                try:
                    answer = await self._service.ask(client, row.prompt)
                    seconds = round(time.monotonic() - sent_at, 6)
                except ApiError as error:
                    fault = error
                else:
                    self._answered()
                    limiter.answered()
                    await deliver(row.position, replace(answer, times={"seconds": seconds}))
                    return
            if fault.kind == "throttled":
                pause = min(fault.retry_after or 0.0, self._policy.longest_wait)
                limiter.throttled(sent_at, pause)
            ended = await self._judge(client, row, fault)
            if ended is None and self._stop and self._stop.code == ExitCode.SERVICE:
                return  # it says nothing of this row
            await deliver(row.position, ended or Generation("", "transient", error=fault.message))
            if ended is not None:
                return
            await self._sleep(self._policy.delay(row.failures, fault))

    async def _sleep(self, wait: float, heard_after: float = math.inf) -> None:
        """Wait, but not longer than the run goes on, or until an answer comes."""
        end = time.monotonic() + wait
        while not self._stop and self._heard_at <= heard_after:
            left = end - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.5))

    def _answered(self) -> None:
        """A row was answered."""
        self._lasting_faults = 0
        self._alike = ("", set())
        self._failing_since = math.inf
        self._heard_at = time.monotonic()

    async def _judge(
        self, client: "openai.AsyncOpenAI", row: _Row, fault: ApiError
    ) -> Generation | None:
        """What a failure comes to: the row's end, None where it is repeated. May end the run."""
        if fault.kind == "row":  # the service's words say that it is this prompt's
            self._heard_at = time.monotonic()
            return failed_generation(fault)
        now = time.monotonic()
        if fault.field in LASTING:
            self._lasting_faults += 1
            enough = MAX_SAME_FAILURES["malformed"] + self._service.api.concurrency
            if self._lasting_faults >= enough:
                self._stop_run(_lasting(fault))
        if fault.kind in PASSING:
            self._failing_since = min(self._failing_since, now)
            self._stop_run(self._policy.of_rows.run_end(fault, self._failing_since))
        heard = self._heard_at > row.failed_at
        row.failed_at = now
        row.failures += 1
        if heard and fault.kind not in ("fatal", "bad"):
            return self._count(row, fault, weight=1)
        if not await self._is_answering(client, now):  # an outage, and no fault of the row's
            row.own = row.same = 0
            self._failing_since = math.inf
            return None
        return None if self._stop else self._count(row, fault, weight=ASKED)

    async def _is_answering(self, client: "openai.AsyncOpenAI", since: float) -> bool:
        """Ask the short question until it or a row is answered; else the run ends.

        Returns whether that was at once: if not, there was an outage.
        """
        failures, question, limiter = 0, self._service.question, self._limiter
        assert limiter is not None
        async with self._asking:
            while not self._stop and self._heard_at <= since:
                try:
                    async with limiter.entered(len(question.tokens) + question.max_new_tokens):
                        if self._stop:
                            break
                        await self._service.ask(client, question)
                    self._heard_at = time.monotonic()
                except ApiError as fault:
                    if fault.kind == "row":  # a refusal, say: the service is there
                        self._heard_at = time.monotonic()
                        continue
                    failures += 1
                    permanent = () if fault.field == "page" else PERMANENT
                    if fault.field in LASTING and failures >= MAX_SAME_FAILURES["fatal"]:
                        self._stop_run(_lasting(fault))
                    elif ended := self._policy.run_end(fault, since, permanent):
                        self._stop_run(ended)
                    else:
                        log_waiting(fault)
                        await self._sleep(self._policy.delay(failures, fault), since)
        return not failures

    def _count(self, row: _Row, fault: ApiError, *, weight: int) -> Generation | None:
        """Count a failure while the service answers others; returns the row's end, if it is."""
        if fault.kind != row.kind:
            row.kind, row.same = fault.kind, 0
        # Where all that are out fail in a way that passes, it may be too much for the service.
        crowded = weight == ASKED and self._rows_out > 1 and fault.kind in PASSING
        if fault.kind != "throttled" and not crowded:  # that is the account's limit
            row.own += weight
            row.same += 1
        limit = MAX_SAME_FAILURES.get(fault.kind, MAX_FAILURES)
        ended = fault.kind == "bad" or row.own >= MAX_FAILURES or row.same >= limit
        if ended or fault.kind == "fatal":
            self._note_alike(row, fault)
        if not ended:
            return None
        status: Status = "invalid" if fault.kind == "malformed" else "error"
        tries = f" (given up after {row.failures} tries in a row)" if row.failures > 1 else ""
        return Generation("", status, error=f"{fault.message}{tries}")

    def _note_alike(self, row: _Row, fault: ApiError) -> None:
        """End the run where all recent rows fail in the same words: it is not for one of them."""
        words = re.sub(r"\S*\d\S*", "N", fault.message)
        if words != self._alike[0]:
            self._alike = (words, set())
        self._alike[1].add(row.position)
        number = len(self._alike[1])
        if number >= max(MIN_ALIKE, self._service.api.concurrency):
            self._stop_run(
                ServiceError(
                    f"the last {number} rows all failed in the same words, while a short question "
                    f"is answered: {fault.message}; {RESUME_HINT}"
                )
            )

    def _stop_run(self, why: LVEvalError | None) -> None:
        """No request goes out any more; the first reason is the one that is told."""
        self._stop = self._stop or why
        if self._stop and self._limiter:
            self._limiter.close()


def _lasting(fault: ApiError) -> ServiceError:
    return ServiceError(f"{fault.message}, again and again; {RESUME_HINT}")
