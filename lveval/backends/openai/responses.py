"""What a reply of OpenAI's protocol says: an answer, or nothing that counts as one.

answer, model = replies.read_reply(content)
"""

import json
from typing import Any

from lveval.backends.base import Generation
from lveval.backends.openai.faults import ApiError, classify_status

# finish_reason -> status; "max_tokens" and a missing one are what some services say.
FINISHED = {
    "stop": "ok",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "refused",
    None: "ok",
}


def parse_response(content: bytes) -> tuple[Generation, str | None]:
    """The answer in a reply of either endpoint, and the model that gave it. Raises Fault (malformed, transient)."""
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        what = "nothing" if not content.strip() else f"no JSON ({content[:40]!r})"
        raise ApiError("malformed", f"the reply is {what}") from None
    if not isinstance(reply, dict):
        raise ApiError("malformed", f"the reply is a JSON {type(reply).__name__}")
    if isinstance(error := reply.get("error"), dict):
        if (
            type(code := error.get("code")) is int and 400 <= code < 600
        ):  # a gateway that hands on another's failure
            raise classify_status(code, {}, error)
        raise ApiError(
            "transient", f"an error in a reply of status 200: {str(error.get('message'))[:200]}"
        )
    choices = reply.get("choices")
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        raise ApiError("malformed", "the reply has no choices")
    choice = choices[0]
    message: Any = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice.get("text")}  # the completions endpoint
    finish = choice.get("finish_reason")
    if finish not in FINISHED:
        raise ApiError(
            "malformed", f"the reply ended by {finish!r}; expected stop, length or content_filter"
        )
    served = reply.get("model") if isinstance(reply.get("model"), str) else None
    counted = reply.get("usage")
    usage = {
        name: counted[name]
        for name in ("prompt_tokens", "completion_tokens")
        if isinstance(counted, dict) and type(counted.get(name)) is int
    }
    status: Any = FINISHED[finish]
    if message.get("refusal"):
        status = "refused"
    text = _text(message.get("content"))
    if status == "refused":
        text = ""  # a refusal is scored as the empty answer
    elif text is None:
        # A model that only got to reason says nothing else; without that, a reply without content is none.
        if status != "length" and not any(
            isinstance(message.get(name), str) and message[name]
            for name in ("reasoning_content", "reasoning")
        ):
            raise ApiError(
                "malformed", f"the reply's content is {json.dumps(message.get('content'))[:40]}"
            )
        text = ""
    if status == "ok" and not text.strip():
        status = "empty"
    return Generation(text, status, finish, usage.get("completion_tokens"), usage=usage), served


def failed_generation(fault: ApiError) -> Generation:
    """How a row ends that the service cannot answer, now or later (kinds row and bad)."""
    finish = {"refused": "content_filter", "length": "length"}.get(fault.status)
    return Generation("", fault.status, finish, error=fault.message)


def _text(content: object) -> str | None:
    """A message's text, which may come in parts; None where there is none."""
    if isinstance(content, list):
        parts = [
            part.get("text")
            for part in content
            if isinstance(part, dict) and part.get("type") == "text"
        ]
        return "".join(part for part in parts if isinstance(part, str)) if parts else None
    return content if isinstance(content, str) else None
