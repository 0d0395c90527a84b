"""The openai backend: any endpoint of OpenAI's protocol, online or through the Batch API.

OPENAI_API_KEY=… python prediction.py --backend openai --model-name gpt-4-1106-preview
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lveval.backends.base import ApiOptions, EngineOptions, Json
from lveval.backends.openai import tokenizers
from lveval.backends.openai.batch import BatchEngine, claim_rows_in_flight, rows_in_flight
from lveval.backends.openai.client import base_url, blocking, endpoint_host, require_credentials
from lveval.backends.openai.online import OpenAIEngine
from lveval.backends.openai.retry import shutting_down
from lveval.backends.openai.service import Service, told_window
from lveval.backends.openai.settings import (
    BUDGETS,
    ENGINE_ARGS,
    OWN_FIELDS,
    RUNTIME_ONLY_ARGS,
    engine_settings,
    model_id,
    requested_max_tokens,
    retry_policy,
)
from lveval.common.errors import UsageError

REMOTE = True

OPTIONS = (
    "tokenizer",
    "chat_template_args",
    "plugin",
    "plugin_args",
    "think_tags",
    "stop",
    "thinking_budget",
)

__all__ = [
    "ENGINE_ARGS",
    "OPTIONS",
    "REMOTE",
    "RUNTIME_ONLY_ARGS",
    "answer_tokens",
    "claim_rows_in_flight",
    "context_window",
    "load",
    "native_chat",
    "rows_in_flight",
    "settings_fingerprint",
    "tokenizer",
]


def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """Return what decides the answers, without a request; raises UsageError."""
    service = options.api or ApiOptions()
    for name in service.request_args:
        if name in OWN_FIELDS:
            raise UsageError(
                f'--request-args: "{name}" is the harness\'s own; expected another field of '
                "the request"
            )
    url, model = base_url(service), model_id(options)
    return {
        "protocol": 2,  # of this module: what it sends and what it takes for an answer
        "service": endpoint_host(url),
        "model": model,
        "tokenizer": tokenizers.fingerprint(tokenizers.tokenizer_spec(service, model)),
        "endpoint": "chat" if service.chat else "completions",
        "request_args": dict(service.request_args),
        "system_message": service.system_message,
        "seed": options.seed,
        **({"finish_reasons": dict(service.finish_reasons)} if service.finish_reasons else {}),
        **({"refusal_pattern": service.refusal_pattern} if service.refusal_pattern else {}),
    }


def native_chat(options: EngineOptions) -> bool:
    """Whether the service formats the prompt: its chat endpoint does."""
    return (options.api or ApiOptions()).chat


def context_window(options: EngineOptions) -> int | None:
    """The window that the service tells of the model; asks it, once."""
    return told_window(options.api or ApiOptions(), model_id(options))


def answer_tokens(options: EngineOptions) -> int | None:
    """Return the limit of --request-args; 0: the subset's budget; None: it drops the limit."""
    request_args = (options.api or ApiOptions()).request_args
    asked = requested_max_tokens(request_args)
    return None if not asked and not BUDGETS.isdisjoint(request_args) else asked


def tokenizer(options: EngineOptions) -> tokenizers.ServiceTokenizer:
    """The tokenizer that prompts are cut and counted with."""
    service, model = options.api or ApiOptions(), model_id(options)
    spec = tokenizers.tokenizer_spec(service, model)
    if spec == "server":
        seconds = engine_settings(options)["timeout"]
        client = blocking(service, seconds, root=True)
        return tokenizers.ServerTokenizer(client, model, retry_policy(options), seconds)
    return tokenizers.load(spec, trust_remote_code=options.trust_remote_code)


def _run(coroutine: Coroutine[object, object, None]) -> None:
    """asyncio.run, also in a notebook: its thread runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    thread = ThreadPoolExecutor(1)
    try:
        thread.submit(asyncio.run, coroutine).result()
    finally:
        thread.shutdown(wait=False)


def load(options: EngineOptions) -> OpenAIEngine | BatchEngine:
    """Connect and ask once: a wrong key, model or field shows before many rows are sent."""
    shutting_down.clear()  # of an earlier run in this process
    service = options.api or ApiOptions()
    require_credentials(service)  # before anything is loaded
    asked = Service(options, tokenizer(options))
    _run(asked.connect())
    if not service.batch:
        return OpenAIEngine(asked)
    args = engine_settings(options)
    return BatchEngine(
        asked, Path(service.batch_folder), args["poll"], int(args["batch_mb"] * 1_000_000)
    )
