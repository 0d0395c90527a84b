"""Who answers: the registry of backends, one file an engine.

python prediction.py --backend echo --data-path DATA --model-name dry-run
"""

import importlib
from typing import cast

from lveval.backends.base import BackendModule, Json
from lveval.common.errors import UsageError, unknown_name

# --backend NAME -> the module that serves it.
BACKENDS: dict[str, str] = {
    "hf": "lveval.backends.hf",
    "vllm": "lveval.backends.vllm",
    "openai": "lveval.backends.openai",
    "echo": "lveval.backends.echo",
}

# Those that run on the GPUs of this machine.
ON_GPUS = ("hf", "vllm")

# Engines that run elsewhere: the coordinating process asks them, many rows at once, and needs no workers.
REMOTE = ("openai",)


def backend_module(name: str) -> BackendModule:
    """The module of backend `name`; raises LVEvalError listing the choices. Imports nothing heavy."""
    if name not in BACKENDS:
        raise unknown_name(name, "backend", list(BACKENDS))
    return cast(BackendModule, importlib.import_module(BACKENDS[name]))


def parse_engine_args(name: str, text: str) -> dict[str, Json]:
    """`key=value,…` of --backend-args, checked against what backend `name` knows."""
    known = backend_module(name).ENGINE_ARGS
    parsed: dict[str, Json] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise unknown_name(
                key, f"--backend-args key of backend {name}", list(known) or ["(none)"]
            )
        try:
            if not equals:
                raise ValueError
            parsed[key] = known[key](value)
        except ValueError:
            raise UsageError(
                f'--backend-args {key}: found "{value}", expected a {known[key].__name__}'
            ) from None
    return parsed
