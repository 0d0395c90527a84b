"""The registry of backends, one module an engine.

python prediction.py --backend echo --data-path DATA --model-name dry-run
"""

import importlib

from lveval.backends.base import BackendModule, Json
from lveval.backends.model_files import run_name
from lveval.backends.plugins import load_plugins, plugin_hash
from lveval.common.errors import UsageError, unknown_name

__all__ = [
    "BACKENDS",
    "backend_module",
    "load_plugins",
    "parse_engine_args",
    "plugin_hash",
    "run_name",
]

# --backend NAME -> the module that serves it.
BACKENDS: dict[str, str] = {
    "hf": "lveval.backends.hf",
    "vllm": "lveval.backends.vllm",
    "openai": "lveval.backends.openai",
    "echo": "lveval.backends.echo",
}

# Those that run on the GPUs of this machine.
ON_GPUS = ("hf", "vllm")

# Engines that run elsewhere: the coordinator asks them, many rows at once, without workers.
REMOTE = ("openai",)


def backend_module(name: str) -> BackendModule:
    """Return backend `name`; raises UsageError listing the choices. Imports nothing heavy."""
    if name not in BACKENDS:
        raise unknown_name(name, "backend", list(BACKENDS))
    return BackendModule(importlib.import_module(BACKENDS[name]))


def parse_engine_args(name: str, text: str) -> dict[str, Json]:
    """Parse `key=value,…` of --backend-args for backend `name`; raises UsageError."""
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
