"""The OpenAI backend: many rows at once, from this process.

    OPENAI_API_KEY=… python prediction.py --backend openai --model-name gpt-4-1106-preview

Failed requests are repeated: an outage fails no row. Every failed attempt is yielded and recorded.
"""

import asyncio
import contextlib
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from lveval.backends.base import (
    ApiOptions,
    EngineOptions,
    Generation,
    Json,
    Prompt,
    RemoteEngine,
    Status,
    Tokenizer,
)
from lveval.backends.openai import tokenizers
from lveval.backends.openai.client import base_url, blocking, many_at_once
from lveval.backends.openai.faults import ApiError, Kind, classify_exception, redacted
from lveval.backends.openai.rate_limit import ConcurrencyLimiter
from lveval.backends.openai.responses import failed_generation, parse_response
from lveval.backends.openai.retry import RESUME_HINT, log_waiting, shutting_down
from lveval.backends.openai.settings import (
    BUDGETS,
    engine_settings,
    model_id,
    requested_max_tokens,
    retry_policy,
)
from lveval.common.errors import ExitCode, LVEvalError, ServiceError, UsageError

if TYPE_CHECKING:
    import openai


# A row is given up after so many failures while the service answered other rows: an outage fails no
# row. Fewer of one kind are enough where the row itself may be the cause of each.
MAX_FAILURES = 30

MAX_SAME_FAILURES = {"malformed": 8, "timeout": 5}

# Failures of a row that only their status makes fatal, and the wait for what others tell of it.
MAX_DOUBTFUL = 3
DOUBT_SECONDS = 10.0


PROBE = "Write the numbers from 1 to 50 with spaces between them."

PROBE_BUDGET = 16


@dataclass
class _Row:
    """A row that the service has not answered yet."""

    position: int
    prompt: Prompt
    failures: int = 0  # one after another
    kind: str = ""  # of the last failure
    same: int = 0  # failures of that kind, one after another, of the row's own
    own: int = 0  # failures after which the service answered other rows
    answers_seen: int = 0
    doubtful: int = 0  # failures that only their status makes fatal


class OpenAIEngine(RemoteEngine):
    """A service behind OpenAI's protocol; `generate` may be called once at a time."""

    def __init__(self, options: EngineOptions, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._service = options.api or ApiOptions()
        self.native_chat = self._service.chat
        self._url = base_url(self._service)
        self._model = model_id(options)
        self._served = options.args.get("served_model")  # the name that replies carry
        self._args = engine_settings(options)
        self.retry_policy = retry_policy(options)
        self._budget_field = "max_completion_tokens" if self.native_chat else "max_tokens"
        self._sends_budget = not BUDGETS & self._service.request_args.keys()
        self._fields: dict[str, Json] = {"temperature": 0, "seed": options.seed}
        self._asked = dict(self._service.request_args)  # what the user asked for stays
        if options.stop:
            self._asked["stop"] = [*options.stop]
        if options.chat_template_args:  # as vLLM and SGLang call it
            self._asked["chat_template_kwargs"] = dict(options.chat_template_args)
        self._answers = 0  # of this start
        self._wrong_model_replies = 0  # replies of another model, one after another
        self._doubted: set[int] = set()  # rows since the last answer, see _judged
        self._last_answer = time.monotonic()
        self._stop: LVEvalError | None = None  # why no request goes out any more
        self._limiter: ConcurrencyLimiter | None = None

    def resolved_settings(self) -> dict[str, Json]:
        """The fields that the service takes, and the model that it says it is."""
        budget = [self._budget_field] if self._sends_budget else []
        return {"fields": [*self._fields, *budget], "served_model": self._served}

    def _client(self) -> "openai.AsyncOpenAI":
        return many_at_once(self._service, self._url)

    def blocking_client(self) -> "openai.OpenAI":
        """A client for few, large requests one after another."""
        return blocking(self._service, self._url)

    def stop_waiting(self) -> None:
        """Wake a tokenizer that waits for the endpoint."""
        shutting_down.set()

    def context_window(self) -> int | None:
        """Ask the service for its window in tokens (vLLM reports it); None where it has none."""
        import openai

        with self.blocking_client() as client:
            try:
                models: Any = client.get("/models", cast_to=object)
            except (openai.APIError, ValueError):
                return None
        listed = models.get("data") if isinstance(models, dict) else None
        for model in listed if isinstance(listed, list) else []:
            if (
                isinstance(model, dict)
                and model.get("id") == self._model
                and type(model.get("max_model_len")) is int
            ):
                found: int = model["max_model_len"]
                return found
        return None

    def request(self, prompt: Prompt) -> tuple[str, dict[str, Json]]:
        """(path, body) of the request for a prompt."""
        if self.native_chat:
            system = self._service.system_message
            turns: list[Json] = [{"role": "system", "content": system}] if system else []
            asked: dict[str, Json] = {
                "messages": [*turns, {"role": "user", "content": prompt.text}]
            }
        else:
            # As the model's own ids: the server would add a second BOS to a text that has one.
            own = not isinstance(self.tokenizer, tokenizers.TiktokenTokenizer)
            asked = {"prompt": cast(Json, list(prompt.tokens)) if own else prompt.formatted}
        budget = {self._budget_field: prompt.max_new_tokens} if self._sends_budget else {}
        fields = self._fields | budget | self._asked
        given = {name: value for name, value in fields.items() if value is not None}
        return "/chat/completions" if self.native_chat else "/completions", {
            "model": self._model,
            **asked,
            **given,
        }

    async def _ask(self, client: "openai.AsyncOpenAI", prompt: Prompt) -> Generation:
        """One request. Raises ApiError."""
        import httpx2
        import openai

        path, body = self.request(prompt)
        allowed = self._args["timeout"] + self._args["timeout_per_1k"] * len(prompt.tokens) / 1000
        try:
            async with asyncio.timeout(
                allowed
            ):  # the client's own limits the wait for each byte only
                timeout = httpx2.Timeout(allowed, connect=min(allowed, 30.0))
                reply = await client.post(
                    path, cast_to=httpx2.Response, body=body, options={"timeout": timeout}
                )
        except (openai.APIError, TimeoutError) as error:
            raise redacted(classify_exception(error)) from None
        try:
            asked = requested_max_tokens(self._service.request_args) or prompt.max_new_tokens
            return self.read(reply.content, asked)
        except ApiError as fault:
            raise redacted(fault) from None

    def read(self, content: bytes, budget: int | None = None) -> Generation:
        """The answer in a reply's body, of the model that gave the first one. Raises ApiError.

        `budget`: the new tokens that it may have.
        """
        answer, served = parse_response(content, budget)
        if served and self._served is None:
            asked = self._model
            if not re.fullmatch(
                re.escape(asked) + r"([-@:](\d[\w.-]*|latest|main))?", served
            ):  # or a version of it
                raise ApiError(
                    "fatal",
                    f'the service answers with the model "{served}", asked for was "{asked}"; '
                    "if that is the same: "
                    f"--backend-args served_model={served}",
                )
            self._served = served
        if served and served != self._served:
            words = f'the reply is of the model "{served}", not of "{self._served}"'
            raise ApiError("malformed" if self._answers else "fatal", words, field="model")
        return answer

    async def probe(self) -> None:
        """Ask one short question and drop fields that the service rejects; raises LVEvalError."""
        tokens = self.tokenizer.encode(PROBE)
        prompt = Prompt(PROBE, PROBE, tokens, PROBE_BUDGET, native_chat=self.native_chat)
        failures = malformed = 0  # one after another
        async with self._client() as client:
            while True:
                try:
                    answer = await self._ask(client, prompt)
                except ApiError as fault:
                    if fault.kind == "bad" and self._drop_unsupported_field(fault):
                        continue
                    if fault.status == "length":  # a model that reasoned for so long answers
                        break
                    failures += 1
                    malformed = malformed + 1 if fault.kind == "malformed" else 0
                    if malformed > MAX_SAME_FAILURES["malformed"]:
                        raise ServiceError(
                            f"{fault.message}, again and again: --base-url may be no service of "
                            "OpenAI's protocol"
                        ) from None
                    if ended := self.retry_policy.run_end(fault, self._last_answer):
                        raise ended from None
                    log_waiting(fault)
                    await asyncio.sleep(self.retry_policy.delay(failures, fault))
                    continue
                # A server that ignores the newer name of the limit has no limit at all.
                if (
                    self._sends_budget
                    and self._budget_field == "max_completion_tokens"
                    and (answer.output_tokens or 0) > 2 * PROBE_BUDGET
                ):
                    self._budget_field = "max_tokens"
                    continue
                break
        self._answered()

    def _drop_unsupported_field(self, fault: ApiError) -> bool:
        """Stop sending the own field that the service rejects; returns whether there is one."""
        names = {fault.field, *re.findall(r"\w+", fault.message)} - {*self._asked}
        if (
            self._sends_budget
            and self._budget_field == "max_completion_tokens"
            and self._budget_field in names
        ):
            self._budget_field = "max_tokens"
            return True
        for name in names & {*self._fields}:
            del self._fields[name]
            return True
        return False

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Answer as many prompts at once as the service takes; see RemoteEngine."""
        results: queue.SimpleQueue[
            tuple[int, Generation, Callable[[], None]] | BaseException | None
        ] = queue.SimpleQueue()
        self._stop = None
        self._last_answer = time.monotonic()
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
            self._service.concurrency,
            self._service.tokens_per_minute,
            self._service.requests_per_minute,
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
                await self._answer(client, limiter, _Row(*item), deliver)

        async with self._client() as client, asyncio.TaskGroup() as takers:
            for _ in range(self._service.concurrency):
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
            requested_max_tokens(self._service.request_args) or row.prompt.max_new_tokens
        )
        while not self._stop:
            async with limiter.entered(tokens):
                if self._stop:
                    return
                sent_at = time.monotonic()
                try:
                    answer = await self._ask(client, row.prompt)
                    seconds = round(time.monotonic() - sent_at, 6)
                except ApiError as error:
                    fault = await self._judged(row, error)
                else:
                    self._answered()
                    limiter.answered()
                    await deliver(row.position, replace(answer, times={"seconds": seconds}))
                    return
            if fault.kind == "throttled":
                limiter.throttled(
                    sent_at, min(fault.retry_after or 0.0, self.retry_policy.longest_wait)
                )
            ended = self._failed(row, fault)
            if ended is None:
                fatal: tuple[Kind, ...] = ("fatal",)  # the kinds bad and row end only the row
                self._stop_run(self.retry_policy.run_end(fault, self._last_answer, fatal))
            if self._stop and self._stop.code == ExitCode.SERVICE:
                return  # it says nothing of this row
            await deliver(row.position, ended or Generation("", "transient", error=fault.message))
            if ended is not None:
                return
            await self._sleep(self.retry_policy.delay(row.failures, fault))

    async def _sleep(self, wait: float) -> None:
        """Wait, but not longer than the run goes on."""
        end = time.monotonic() + wait
        while not self._stop and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.5))

    def _answered(self) -> None:
        self._answers += 1
        self._wrong_model_replies = 0
        self._doubted.clear()
        self._last_answer = time.monotonic()

    async def _judged(self, row: _Row, fault: ApiError) -> ApiError:
        """What a failure means that only its status makes fatal, where rows were answered before.

        Other rows are the evidence: where one of them is answered, the failure is this request's,
        or that of a gateway in between, and is repeated a few times. Where all that are out fail
        so, it is the account or the address, as the status says.
        """
        if fault.kind != "fatal" or fault.certain or not self._answers:
            return fault
        self._doubted.add(row.position)
        if len(self._doubted) >= max(2, self._service.concurrency):
            return fault
        answers, end = self._answers, time.monotonic() + DOUBT_SECONDS
        while not self._stop and self._answers == answers and time.monotonic() < end:
            await asyncio.sleep(0.1)
        row.doubtful += 1
        return ApiError("transient" if row.doubtful < MAX_DOUBTFUL else "row", fault.message)

    def _failed(self, row: _Row, fault: ApiError) -> Generation | None:
        """Count a failure; returns the row's end, or None where the row may be repeated."""
        if fault.kind in ("bad", "row"):
            return failed_generation(fault)
        if fault.field == "model":
            self._wrong_model_replies += 1
            if (
                self._wrong_model_replies
                >= MAX_SAME_FAILURES["malformed"] + self._service.concurrency
            ):
                self._stop_run(ServiceError(f"{fault.message}, again and again; {RESUME_HINT}"))
        row.failures += 1
        others_answered = self._answers > row.answers_seen
        row.answers_seen = self._answers
        if fault.kind != row.kind:
            row.kind, row.same = fault.kind, 0
        if (
            others_answered and fault.kind != "throttled"
        ):  # that is the account's limit, not the row's
            row.own += 1
            row.same += 1
        limit = MAX_SAME_FAILURES.get(fault.kind, MAX_FAILURES)
        if row.own >= MAX_FAILURES or row.same >= limit:
            status: Status = "invalid" if fault.kind == "malformed" else "error"
            return Generation(
                "", status, error=f"{fault.message} (given up after {row.failures} tries in a row)"
            )
        return None

    def _stop_run(self, why: LVEvalError | None) -> None:
        """No request goes out any more; the first reason is the one that is told."""
        self._stop = self._stop or why
        if self._stop and self._limiter:
            self._limiter.close()
