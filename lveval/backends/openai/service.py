"""One service of OpenAI's protocol: what is sent to it and how its replies are read.

service = Service(options, tokenizer)
await service.connect()  # one short question: finds what the service takes
generation = await service.ask(client, prompt)
"""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from lveval.backends.base import ApiOptions, EngineOptions, Generation, Json, Prompt, RemoteEngine
from lveval.backends.openai import tokenizers
from lveval.backends.openai.client import blocking, many_at_once
from lveval.backends.openai.faults import ApiError, classify_exception
from lveval.backends.openai.responses import ReplyReader
from lveval.backends.openai.retry import MAX_SAME_FAILURES, log_waiting, shutting_down, within
from lveval.backends.openai.settings import (
    BUDGETS,
    engine_settings,
    model_id,
    requested_max_tokens,
    retry_policy,
)
from lveval.common.errors import ServiceError
from lveval.common.redaction import betrays

if TYPE_CHECKING:
    import openai

QUESTION = "Write the numbers from 1 to 50 with spaces between them."

# A model's service that wants to be asked with "stream": true.
ONLY_STREAMS = re.compile(
    r"only supports? stream|(must|please|requir\w+)\b.{0,30}\bstream\b(?!_)|\bstream\b mode", re.I
)

QUESTION_BUDGET = 16  # tokens: too few for the whole answer, which shows a limit that is ignored


# How services name the window of a model that they list: vLLM and SGLang, OpenRouter and Together,
# Groq, Mistral.
WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length")

LISTING_SECONDS = 10.0  # for the list of models


def told_window(api: ApiOptions, model: str) -> int | None:
    """Ask a service for the window of a model, in tokens; None where it does not tell it."""
    import openai

    with blocking(api, LISTING_SECONDS) as client:
        try:
            models: Any = within(LISTING_SECONDS, lambda: client.get("/models", cast_to=object))
        except (openai.APIError, ValueError, RecursionError, TimeoutError):
            return None
    listed = models.get("data") if isinstance(models, dict) else None
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict) and each.get("id") == model:
            meta = each.get("meta")  # llama.cpp's
            told = [each.get(name) for name in WINDOWS]
            told += [meta.get("n_ctx")] if isinstance(meta, dict) else []
            return next((value for value in told if type(value) is int and value > 1), None)
    return None


class Service:
    """A service, and what its replies have shown of it."""

    def __init__(self, options: EngineOptions, tokenizer: tokenizers.ServiceTokenizer) -> None:
        self.tokenizer = tokenizer
        self.api = options.api or ApiOptions()
        self.native_chat = self.api.chat
        self.retry_policy = retry_policy(options)
        self._model = model_id(options)
        self._served = options.args.get("served_model")  # the name that replies carry
        self._connected = False
        self._args = engine_settings(options)
        self._reader = ReplyReader(
            self.api.finish_reasons,
            self.api.refusal_pattern,
            options.stop,
            None if isinstance(tokenizer, tokenizers.ServerTokenizer) else self._count,
        )
        names = ["max_completion_tokens", "max_tokens"]  # of the limit, the next to be tried first
        named = options.args.get("budget_field")
        self._budgets = [str(named)] if named else names if self.native_chat else names[::-1]
        self._sends_budget = not BUDGETS & self.api.request_args.keys()
        # As the model's own ids: the server would add a second BOS to a text that has one.
        self._sends_ids = not (
            self.native_chat or isinstance(tokenizer, tokenizers.TiktokenTokenizer)
        )
        self._sends_text = False  # in place of the ids
        self._streams = self.api.stream
        self._counts_streams = True  # whether a stream is asked for its usage
        self._fields: dict[str, Json] = {"temperature": 0, "seed": options.seed}
        self._asked = dict(self.api.request_args)  # what the user asked for stays
        if options.stop:
            self._asked["stop"] = [*options.stop]
        # A short question, which tells whether the service answers at all. It is tokenized here,
        # since the service's own tokenizer would be asked for it.
        tokens = tokenizer.encode(QUESTION)
        self.question = Prompt(
            QUESTION, QUESTION, tokens, QUESTION_BUDGET, native_chat=self.native_chat
        )
        if options.chat_template_args:  # as vLLM and SGLang call it
            self._asked["chat_template_kwargs"] = dict(options.chat_template_args)

    def _count(self, text: str) -> int:
        """The tokens of an answer; a half character may stand in it, which no tokenizer takes."""
        clean = text.encode("utf-8", "replace").decode()
        return len(self.tokenizer.encode(clean, add_special_tokens=False))

    def resolved_settings(self) -> dict[str, Json]:
        """The fields that the service takes, and the model that it says it is."""
        budget = self._budgets[:1] if self._sends_budget else []
        found: dict[str, Json] = {"fields": [*self._fields, *budget], "served_model": self._served}
        return found | ({"prompts": "text"} if self._sends_text else {})

    def limit_of(self, body: Mapping[str, Any]) -> int | None:
        """The new tokens that a request asks for; None where it sets no limit."""
        found: int | None = body.get(self._budgets[0]) if self._sends_budget else None
        return found or requested_max_tokens(body) or None

    def client(self) -> "openai.AsyncOpenAI":
        """A client for as many requests at once as the options allow."""
        return many_at_once(self.api)

    def blocking_client(self) -> "openai.OpenAI":
        """A client for few, large requests one after another."""
        return blocking(self.api)

    def context_window(self) -> int | None:
        """The service's window in tokens; None where it does not tell it."""
        return told_window(self.api, self._model)

    def request(self, prompt: Prompt) -> tuple[str, dict[str, Json]]:
        """(path, body) of the request for a prompt."""
        if self.native_chat:
            system = self.api.system_message
            turns: list[Json] = [{"role": "system", "content": system}] if system else []
            asked: dict[str, Json] = {
                "messages": [*turns, {"role": "user", "content": prompt.text}]
            }
        elif self._sends_ids:
            asked = {"prompt": cast(Json, list(prompt.tokens))}
        else:
            asked = {"prompt": self.tokenizer.without_bos(prompt.formatted)}
        if self._streams:
            asked["stream"] = True
            asked |= {"stream_options": {"include_usage": True}} if self._counts_streams else {}
        budget = {self._budgets[0]: prompt.max_new_tokens} if self._sends_budget else {}
        fields = self._fields | budget | self._asked
        given = {name: value for name, value in fields.items() if value is not None}
        return "/chat/completions" if self.native_chat else "/completions", {
            "model": self._model,
            **asked,
            **given,
        }

    async def ask(self, client: "openai.AsyncOpenAI", prompt: Prompt) -> Generation:
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
            raise classify_exception(error) from None
        return self.read(reply.content, self.limit_of(body))

    def read(self, content: bytes, budget: int | None = None) -> Generation:
        """The answer in a reply's body, of the model that gave the first one. Raises ApiError.

        `budget`: the new tokens that it may have.
        """
        answer, served = self._reader.read(content, budget)
        if betrays(f"{answer.text}\n{answer.finish_reason}"):
            raise ApiError("malformed", "the answer repeats the key, or a header, that was sent")
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
            raise ApiError("malformed" if self._connected else "fatal", words, field="model")
        return answer

    async def connect(self) -> None:
        """Ask one short question until it is answered, each time as the service wants it.

        Raises ServiceError where no waiting helps, IncompleteRun after --wait-for-service.
        """
        policy, began = self.retry_policy.at_start, time.monotonic()
        failures = malformed = 0  # one after another
        async with self.client() as client:
            while True:
                try:
                    await self.ask(client, self.question)
                    break
                except ApiError as fault:
                    if self._adapt(fault):
                        continue
                    if fault.kind == "row" and fault.status in ("length", "refused"):
                        break  # it answers, if not this question
                    failures += 1
                    malformed = malformed + 1 if fault.kind == "malformed" else 0
                    if malformed > MAX_SAME_FAILURES["malformed"] or fault.field == "budget":
                        raise ServiceError(
                            fault.message
                            if fault.field == "budget"
                            else f"{fault.message}, again and again: --base-url may be no service "
                            "of OpenAI's protocol"
                        ) from None
                    if ended := policy.run_end(fault, began):
                        raise ended from None
                    log_waiting(fault)
                    await asyncio.sleep(policy.delay(failures, fault))
        self._connected = True

    def _adapt(self, fault: ApiError) -> bool:
        """Send what the service rejects under another name, in another form, or not at all.

        False where there is nothing left to try.
        """
        if fault.field == "budget":  # the limit that was sent is not in force
            return self._try_other_budget()
        if fault.kind != "bad":
            return False
        if not self._streams and ONLY_STREAMS.search(fault.message):
            self._streams = True
            return True
        for name in self._named(fault):
            if name in self._fields:
                del self._fields[name]
                return True
            if name in BUDGETS and self._try_other_budget():
                return True
            if name == "stream_options" and self._streams and self._counts_streams:
                self._counts_streams = False
                return True
        if self._sends_ids:
            self._sends_ids, self._sends_text = False, True
            return True
        return False

    def _try_other_budget(self) -> bool:
        """Name the limit otherwise; returns whether there is another name."""
        if not self._sends_budget or len(self._budgets) == 1:
            return False
        self._budgets = self._budgets[1:]
        return True

    def _named(self, fault: ApiError) -> list[str]:
        """The fields of ours that the service complains of: the one it names, or all its words.

        Those in quotes come first: an error may list what is supported.
        """
        ours = {*self._fields, *BUDGETS, "stream_options"} - {*self._asked}
        field = fault.field.rpartition(".")[2]
        if field:
            return [field] if field in ours else []
        quoted = re.findall(r"['\"`](\w+)['\"`]", fault.message)
        words = [*quoted, *re.findall(r"\w+", fault.message)]
        return [word for word in dict.fromkeys(words) if word in ours]


class ServiceEngine(RemoteEngine):
    """What the engines that ask a service have of it, online or in batches."""

    def __init__(self, service: Service) -> None:
        self.tokenizer = service.tokenizer
        self.native_chat = service.native_chat
        self._service = service

    def resolved_settings(self) -> dict[str, Json]:
        """What the service takes, and the model that it says it is."""
        return self._service.resolved_settings()

    def context_window(self) -> int | None:
        """The service's window in tokens, where it tells it."""
        return self._service.context_window()

    def stop_waiting(self) -> None:
        """Wake threads that wait for the service."""
        shutting_down.set()
