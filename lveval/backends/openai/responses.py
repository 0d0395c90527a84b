"""Read replies of OpenAI's protocol: a generation, or an ApiError.

generation, model = responses.parse_response(content)
"""

import json
from typing import Any

from lveval.backends.base import Generation, Status
from lveval.backends.openai import dialects
from lveval.backends.openai.faults import ApiError, classify_status
from lveval.common.logs import log

STATUSES: dict[str, Status] = {"finished": "ok", "cut": "length", "refused": "refused"}

_unknown_reasons: set[str] = set()  # that a warning has named


def parse_response(content: bytes, budget: int | None = None) -> tuple[Generation, str | None]:
    """Read a reply of either endpoint: the generation and the model; raises ApiError.

    `budget`: the new tokens that were asked for, which tell whether an answer with a finish reason
    that no service was seen to send ended by itself.
    """
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        found = f"no JSON ({content[:40]!r})" if content.strip() else "nothing"
        raise ApiError("malformed", f"the reply is {found}") from None
    if not isinstance(reply, dict):
        raise ApiError("malformed", f"the reply is a JSON {type(reply).__name__}")
    choice, usage = _choice(reply), _usage(reply)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice.get("text")}  # the completions endpoint
    finish = choice.get("finish_reason")
    status = _status(finish, message, usage, budget)
    text = _text(message, status)
    if status == "ok" and not text.strip():
        status = "empty"
    model = reply.get("model")
    generation = Generation(text, status, finish, usage.get("completion_tokens"), usage=usage)
    return generation, model if isinstance(model, str) else None


def failed_generation(fault: ApiError) -> Generation:
    """Return the end of a row whose failure is permanent."""
    finish = {"refused": "content_filter", "length": "length"}.get(fault.status)
    return Generation("", fault.status, finish, error=fault.message)


def _choice(reply: dict[str, Any]) -> dict[str, Any]:
    error = reply.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        if type(code) is int and 400 <= code < 600:  # a gateway hands on another server's failure
            raise classify_status(code, {}, json.dumps({"error": error}))
        message = str(error.get("message"))[:200]
        raise ApiError("transient", f"an error in a reply of status 200: {message}")
    choices = reply.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    raise ApiError("malformed", "the reply has no choices")


def _usage(reply: dict[str, Any]) -> dict[str, int]:
    counts = reply.get("usage")
    if not isinstance(counts, dict):
        return {}
    details = counts.get("completion_tokens_details")
    counts = counts | details if isinstance(details, dict) else counts
    names = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
    return {name: counts[name] for name in names if type(counts.get(name)) is int}


def _status(
    finish: object, message: dict[str, Any], usage: dict[str, int], budget: int | None
) -> Status:
    if message.get("refusal"):
        return "refused"
    meaning = dialects.finish(finish)
    if meaning == "busy":
        raise ApiError("transient", f"the service broke the answer off: {finish}")
    if meaning != "unknown":
        return STATUSES[meaning]
    if finish is None and not message.get("content"):
        raise ApiError("malformed", "the reply has neither a finish reason nor a text")
    if not isinstance(finish, str | None) or not message.get("content"):
        raise ApiError(
            "malformed", f"the reply ended by {finish!r}; expected stop, length or content_filter"
        )
    at_limit = budget is not None and usage.get("completion_tokens", 0) >= budget
    status: Status = "length" if at_limit else "ok"
    if finish is not None and finish not in _unknown_reasons:
        _unknown_reasons.add(finish)
        log.warning(
            'warning: the service ends an answer by "%s", which is not known here; taken for %s, '
            "by its number of tokens",
            finish,
            status,
        )
    return status


def _text(message: dict[str, Any], status: Status) -> str:
    if status == "refused":
        return ""  # a refusal is scored as the empty answer
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [
            part.get("text")
            for part in content
            if isinstance(part, dict) and part.get("type") == "text"
        ]
        if parts:
            return "".join(part for part in parts if isinstance(part, str))
    # A model that reached its limit while it reasoned has no content; any other reply needs one.
    thoughts = (message.get("reasoning_content"), message.get("reasoning"))
    if status == "length" or any(isinstance(thought, str) and thought for thought in thoughts):
        return ""
    raise ApiError("malformed", f"the reply's content is {json.dumps(content)[:40]}")
