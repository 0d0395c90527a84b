"""The --backend-args and --request-args of the openai backend.

python prediction.py --backend openai --model-name gpt-4o --backend-args timeout=300
"""

from collections.abc import Callable, Mapping

from lveval.backends.base import ApiOptions, EngineOptions, Json
from lveval.backends.echo import seconds
from lveval.backends.openai.retry import RetryPolicy


def megabytes(text: str) -> float:
    """A number above 0 and up to the service's limit; raises ValueError."""
    value = float(text)
    if not 0 < value <= DEFAULTS["batch_mb"]:
        raise ValueError(text)
    return value


# served_model: the name that the replies carry. budget_field: the request's field that limits an
# answer, where the service calls it otherwise. first_wait: seconds before a failed request is
# repeated; doubles from there. longest_wait: the most that is obeyed of a service's Retry-After.
# timeout: seconds for a reply, to which each 1,000 tokens of the prompt add timeout_per_1k. poll:
# seconds between two looks at a batch. batch_mb: the most a file of requests may have.
ENGINE_ARGS: dict[str, Callable[[str], Json]] = {
    "served_model": str,
    "budget_field": str,
    "first_wait": seconds,
    "longest_wait": seconds,
    "timeout": seconds,
    "timeout_per_1k": seconds,
    "poll": seconds,
    "batch_mb": megabytes,
}

DEFAULTS = {
    "first_wait": 1.0,
    "longest_wait": 600.0,
    "timeout": 120.0,
    "timeout_per_1k": 5.0,
    "poll": 30.0,
    "batch_mb": 200.0,
}

RUNTIME_ONLY_ARGS = tuple(DEFAULTS)


# The fields that limit an answer; where --request-args names one, the user has decided.
BUDGETS = {"max_completion_tokens", "max_tokens"}

# What the request itself is made of: not for --request-args.
OWN_FIELDS = ("model", "messages", "prompt", "stream", "n")


def requested_max_tokens(request_args: Mapping[str, Json]) -> int:
    """The new tokens that --request-args allows an answer; 0 where it names none."""
    return max(
        (value for name in BUDGETS if type(value := request_args.get(name)) is int), default=0
    )


def model_id(options: EngineOptions) -> str:
    """The model's name at the service."""
    return options.model_path or ""


def engine_settings(options: EngineOptions) -> dict[str, float]:
    """The numbers of --backend-args, or what stands in for them."""
    return DEFAULTS | {
        key: float(str(options.args[key])) for key in RUNTIME_ONLY_ARGS if key in options.args
    }


def retry_policy(options: EngineOptions) -> RetryPolicy:
    """How long the service is waited for."""
    args = engine_settings(options)
    api = options.api or ApiOptions()
    waits = args["first_wait"], args["longest_wait"]
    return RetryPolicy(*waits, api.max_outage, api.wait_for_service)
