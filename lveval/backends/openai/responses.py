"""Read replies of OpenAI's protocol: a generation, or an ApiError.

generation, model = responses.ReplyReader().read(content, budget=64)
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lveval.backends.base import Generation, Status, cut_at_stop
from lveval.backends.openai import dialects
from lveval.backends.openai.faults import ApiError, classify_status
from lveval.common.logs import log
from lveval.common.redaction import excerpt

STATUSES: dict[str, Status] = {"finished": "ok", "cut": "length", "refused": "refused"}

# What shows that a limit is not in force: tokens beyond it, by the service's count, which may have
# marks of its own, and by ours, where the tokenizer may not be the model's.
BEYOND = {True: (1.25, 8), False: (2.0, 8)}

MOST_TOKENS = 2**40  # that a service may count for one request

_unknown_reasons: set[str] = set()  # that a warning has named


@dataclass(frozen=True)
class ReplyReader:
    """What is known, besides a reply itself, of how a service's replies are to be read."""

    finish_reasons: Mapping[str, str] = field(default_factory=dict)  # --finish-reason
    refusal_pattern: str = ""
    stop: Sequence[str] = ()  # texts that end an answer, which some services leave in it
    count: Callable[[str], int] | None = None  # the tokens of a text

    def read(self, content: bytes, budget: int | None = None) -> tuple[Generation, str | None]:
        """Read a reply of either endpoint, streamed or whole: (generation, model).

        `budget`: the new tokens that were asked for. They tell whether an answer with a finish
        reason that no service was seen to send ended by itself, and whether the limit is in force.
        Raises ApiError.
        """
        reply = _streamed(content) if _is_stream(content) else _whole(content)
        choice, usage = _choice(reply), _usage(reply)
        message = choice.get("message")
        if not isinstance(message, dict):
            message = {"content": choice.get("text")}  # the completions endpoint
        written = self._written(message, usage)
        if budget is not None and written is not None:
            factor, more = BEYOND[bool(usage.get("completion_tokens"))]
            most = budget * factor + more
            if written > most and (answer := written - self._hidden(message, usage)) > most:
                raise _beyond(answer, budget)
        at_limit = budget is not None and written is not None and written >= budget
        finish = choice.get("finish_reason")
        status = self._status(finish, message, at_limit=at_limit)
        text = _text(message, status)
        text, ended = cut_at_stop(text, self.stop)
        status = "ok" if ended else status
        if self.refusal_pattern and re.search(self.refusal_pattern, text):
            status = "refused"
        if status == "ok" and not text.strip():
            status = "empty"
        model = reply.get("model")
        generation = Generation(text, status, finish, written, usage=usage)
        return generation, model if isinstance(model, str) else None

    def _written(self, message: Mapping[str, Any], usage: Mapping[str, int]) -> int | None:
        """Return the tokens of an answer, by the service's count or else by ours."""
        text = _joined(message.get("content"))
        if usage.get("completion_tokens") or not (self.count and text):
            return usage.get("completion_tokens")
        return self.count(text)

    def _hidden(self, message: Mapping[str, Any], usage: Mapping[str, int]) -> int:
        """Return those of them that are reasoning, which some services do not hold to the limit."""
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        known = usage.get("reasoning_tokens", 0)
        if known or not usage.get("completion_tokens") or not isinstance(thoughts, str):
            return known
        return self.count(thoughts) if self.count else 0

    def _status(self, finish: object, message: Mapping[str, Any], *, at_limit: bool) -> Status:
        if message.get("refusal"):
            return "refused"
        meaning = dialects.finish(self.finish_reasons.get(str(finish), finish))
        if meaning == "busy":
            raise ApiError("transient", f"the service broke the answer off: {finish}")
        if meaning != "unknown":
            return STATUSES[meaning]
        if finish is None and not message.get("content"):
            raise ApiError("malformed", "the reply has neither a finish reason nor a text")
        if not isinstance(finish, str | None) or not message.get("content"):
            raise ApiError(
                "malformed",
                f"the reply ended by {finish!r}; expected stop, length or content_filter",
            )
        status: Status = "length" if at_limit else "ok"
        if finish is not None and finish not in _unknown_reasons:
            _unknown_reasons.add(finish)
            log.warning(
                'warning: the service ends an answer by "%s", which is not known here; taken for '
                "%s, by its number of tokens; --finish-reason '%s=stop' (or =length, "
                "=content_filter) settles it",
                *(finish, status, finish),
            )
        return status


def failed_generation(fault: ApiError) -> Generation:
    """Return the end of a row whose failure is permanent."""
    finish = {"refused": "content_filter", "length": "length"}.get(fault.status)
    return Generation("", fault.status, finish, error=fault.message)


def _beyond(tokens: int, budget: int) -> ApiError:
    return ApiError(
        "malformed",
        f"the answer has {tokens} tokens, asked for were at most {budget}: the service does not "
        "keep to the limit; begin a run that names the field it reads, as --backend-args "
        "budget_field=max_new_tokens, or that takes whole answers, by --request-args "
        "'{\"max_tokens\": null}'",
        field="budget",
    )


def _whole(content: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        found = f"no JSON ({excerpt(content, 40)!r})" if content.strip() else "nothing"
        raise ApiError("malformed", f"the reply is {found}") from None
    if not isinstance(reply, dict):
        raise ApiError("malformed", f"the reply is a JSON {type(reply).__name__}")
    return reply


def _is_stream(content: bytes) -> bool:
    return content.lstrip().startswith((b"data:", b"event:", b"id:", b":"))


def _streamed(content: bytes) -> dict[str, Any]:
    """Put a stream of server-sent events together as the reply that it stands for.

    Raises ApiError for one that breaks off: neither a finish reason nor the closing mark came.
    """
    reply: dict[str, Any] = {}
    message: dict[str, Any] = {}
    finish, closed = None, False
    for line in re.split(r"[\r\n]+", content.decode("utf-8", "replace")):
        name, _, data = line.partition(":")
        if name != "data" or not data.strip():
            continue
        if data.strip() == "[DONE]":
            closed = True
            continue
        chunk = _whole(data.encode())
        choices = chunk.get("choices")
        if chunk.get("error") or (choices is None and "message" in chunk):
            return {"error": chunk.get("error") or chunk}
        reply |= {name: value for name, value in chunk.items() if value is not None}
        if not choices:
            continue
        choice = _first(choices)
        part = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        if not isinstance(part, dict):
            raise ApiError("malformed", "the stream has no text where it should be")
        for key in ("content", "reasoning_content", "reasoning", "refusal"):
            if (text := _joined(part.get(key))) is not None:
                message[key] = message.get(key, "") + text
        finish = choice.get("finish_reason") or finish  # some send "" until the end
    if finish is None and not closed:
        raise ApiError("malformed", "the stream breaks off")
    return reply | {"choices": [{"message": message, "finish_reason": finish}]}


def _first(choices: object) -> dict[str, Any]:
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    raise ApiError("malformed", "the reply has no choices")


def _choice(reply: dict[str, Any]) -> dict[str, Any]:
    error = reply.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        if type(code) is int and 400 <= code < 600:  # a gateway hands on another server's failure
            raise classify_status(code, {}, json.dumps({"error": error}))
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise ApiError("transient", f"an error in a reply of status 200: {message}")
    return _first(reply.get("choices"))


def _usage(reply: dict[str, Any]) -> dict[str, int]:
    """Return the counts of a reply; where part of the prompt came from a cache, that part too."""
    counts = reply.get("usage")
    if not isinstance(counts, dict):
        return {}
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = counts.get(name)
        counts = counts | details if isinstance(details, dict) else counts
    cached = counts.get("cached_tokens") or counts.get("prompt_cache_hit_tokens")
    counts = counts | ({"cached_tokens": cached} if cached else {})
    names = ["prompt_tokens", "completion_tokens", "reasoning_tokens"]
    names += ["cached_tokens"] if cached else []
    # What no count can be would be booked as the run's cost.
    sound = (name for name in names if type(counts.get(name)) is int)
    return {name: counts[name] for name in sound if 0 <= counts[name] <= MOST_TOKENS}


def _text(message: Mapping[str, Any], status: Status) -> str:
    if status == "refused":
        return ""  # a refusal is scored as the empty answer
    content = message.get("content")
    if (text := _joined(content)) is not None:
        return text
    # A model that reached its limit while it reasoned has no content; any other reply needs one.
    thoughts = (message.get("reasoning_content"), message.get("reasoning"))
    if status == "length" or any(isinstance(thought, str) and thought for thought in thoughts):
        return ""
    raise ApiError("malformed", f"the reply's content is {excerpt(json.dumps(content), 40)}")


def _joined(content: object) -> str | None:
    """Return a content's text, which may come in parts; None where there is none."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        found = [text for text in texts if isinstance(text, str)]
        return "".join(found) if found else None
    return content if isinstance(content, str) else None
