"""The registry of backends, one module an engine; one's own by file or by entry point.

python prediction.py --backend echo --data-path DATA --model-name dry-run
"""

import importlib

from lveval.backends.base import BackendModule, Json
from lveval.backends.model_files import run_name
from lveval.backends.own_engines import installed_names, own_engine, pin
from lveval.backends.plugins import load_plugins, plugin_hash
from lveval.common.errors import UsageError, unknown_name

__all__ = [
    "BACKENDS",
    "backend_module",
    "load_plugins",
    "parse_engine_args",
    "pinned_backend",
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


def pinned_backend(name: str) -> str:
    """Return what every process of a run loads the same backend by; a built-in one's name is that.

    A built-in name comes before an entry point's: no installed package changes what it stands for.
    Raises UsageError listing the choices.
    """
    pinned = name if name in BACKENDS else pin(name)
    if pinned is None:
        known = dict.fromkeys([*BACKENDS, *installed_names(), "FILE.py"])
        raise unknown_name(name, "backend", list(known))
    return pinned


def backend_module(name: str) -> BackendModule:
    """Return a backend by its name, pinned or not; raises UsageError.

    Imports nothing heavy, but runs a file, or imports a package, that `name` names.
    """
    if name in BACKENDS:
        return BackendModule(importlib.import_module(BACKENDS[name]), name)
    return own_engine(pinned_backend(name))


def parse_engine_args(name: str, text: str) -> dict[str, Json]:
    """Parse `key=value,…` of --backend-args for backend `name`; raises UsageError."""
    backend = backend_module(name)
    known = backend.ENGINE_ARGS
    parsed: dict[str, Json] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise unknown_name(
                key, f"--backend-args key of backend {backend.name}", list(known) or ["(none)"]
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
