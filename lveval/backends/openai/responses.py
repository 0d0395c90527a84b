"""Read replies of OpenAI's protocol: a generation, or an ApiError.

generation, model = responses.parse_response(content)
"""

import json
from typing import Any

from lveval.backends.base import Generation, Status
from lveval.backends.openai.faults import ApiError, classify_status

# finish_reason -> status; "max_tokens" and a missing one are what some services send.
STATUSES: dict[object, Status] = {
    "stop": "ok",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "refused",
    None: "ok",
}


def parse_response(content: bytes) -> tuple[Generation, str | None]:
    """Read a reply of either endpoint: the generation and the model; raises ApiError."""
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
    status = _status(finish, message)
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
            raise classify_status(code, {}, error)
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
    counts |= details if isinstance(details, dict) else {}
    names = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
    return {name: counts[name] for name in names if type(counts.get(name)) is int}


def _status(finish: object, message: dict[str, Any]) -> Status:
    if not isinstance(finish, str | None) or finish not in STATUSES:
        raise ApiError(
            "malformed", f"the reply ended by {finish!r}; expected stop, length or content_filter"
        )
    return "refused" if message.get("refusal") else STATUSES[finish]


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
