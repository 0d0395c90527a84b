"""Engines of one's own: a Python file, or an entry point of an installed package.

    python prediction.py --backend my_engine.py --model-name mine …

`pin` makes of what a user wrote what the run holds on to: `/path/my_engine.py@sha256:…` or
`NAME@DISTRIBUTION==VERSION`. By that string every process of the run loads the same engine, and
refuses another one. Naming the file, or the entry point, is the consent to run it.
"""

import functools
import json
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from lveval.backends.base import BackendModule, Engine, EngineOptions, Json, RemoteEngine
from lveval.backends.user_files import content_hash, read_file, run_file, told
from lveval.common.errors import UsageError

GROUP = "lveval.backends"  # of entry points

PINNED = re.compile(r"(?P<name>.+)@(?P<pin>sha256:[0-9a-f]{64}|[^@/]+==[^@/]+)", re.S)

REQUIRED = {
    "settings_fingerprint": "what decides the answers, as a dict of JSON values",
    "tokenizer": "the tokenizer that the loaded engine has",
    "load": "the engine (a lveval.backends.base.Engine, or RemoteEngine where REMOTE is True)",
}

OF_AN_ENGINE = ("generate", "tokenizer", "native_chat", "resolved_settings", "context_window")


def pin(name: str) -> str | None:
    """Pin FILE.py to its content and an entry point to its package; None for an unknown name.

    Raises UsageError where the file cannot be read or several packages declare the name.
    """
    if name.endswith(".py"):
        path = Path(name).absolute()  # workers may have another working directory
        return f"{path}@{content_hash(read_file('--backend', path, 'a Python file'))}"
    if PINNED.fullmatch(name):
        return name
    packages = sorted(_declared(name))
    if len(packages) > 1:
        raise UsageError(
            f"--backend {name}: found in {' and '.join(packages)}; expected one package with that "
            "name"
        )
    return f"{name}@{packages[0]}" if packages else None


def installed_names() -> list[str]:
    """List the names that installed packages declare; imports none of them."""
    return sorted({point.name for point in metadata.entry_points(group=GROUP)})


@functools.cache
def own_engine(pinned: str) -> BackendModule:
    """Load what `pin` gave, once in each process.

    Raises UsageError: a file, or package, that is another one now, fails, or lacks a function.
    """
    match = PINNED.fullmatch(pinned)
    assert match is not None
    name, expected = match["name"], match["pin"]
    where = f"--backend {name}"
    if expected.startswith("sha256:"):
        path = Path(name)
        content = read_file("--backend", path, "the file that the run began with")
        if content_hash(content) != expected:
            raise UsageError(f"{where}: the file has changed since the run began")
        module = run_file(where, path, content)
        return _backend(where, module, path.name, {"backend_file": expected})
    found = _declared(name)
    if expected not in found:
        there = " and ".join(found) or "no package"
        raise UsageError(f"{where}: found {there}, expected {expected}")
    with told(where):
        package = found[expected].load()
    return _backend(where, package, name, {"backend_package": expected})


def _declared(name: str) -> dict[str, EntryPoint]:
    """DISTRIBUTION==VERSION -> its entry point of that name."""
    points = metadata.entry_points(group=GROUP, name=name)
    return {f"{point.dist.name}=={point.dist.version}": point for point in points if point.dist}


def _backend(where: str, module: object, name: str, origin: dict[str, Json]) -> BackendModule:
    """The module's functions, with checks of what they give; raises UsageError."""
    if not isinstance(module, ModuleType):
        raise UsageError(f"{where}: found a {type(module).__name__}, expected a module")
    if missing := [each for each in REQUIRED if not callable(getattr(module, each, None))]:
        wanted = "; ".join(f"{each}(options), which returns {REQUIRED[each]}" for each in missing)
        raise UsageError(f"{where}: found no {', '.join(missing)}; expected {wanted}")
    backend = BackendModule(module, name, origin)
    backend.settings_fingerprint = _checked_fingerprint(where, module.settings_fingerprint)
    parts = (*OF_AN_ENGINE, "stop_waiting") if backend.REMOTE else OF_AN_ENGINE
    backend.load = _checked_load(where, module.load, parts)
    return backend


def _checked_fingerprint(
    where: str, own: Callable[[EngineOptions], Any]
) -> Callable[[EngineOptions], dict[str, Json]]:
    def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
        found = own(options)
        try:
            json.dumps(found)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where}: settings_fingerprint() is no JSON ({error})") from error
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise UsageError(f"{where}: settings_fingerprint() gave {kind}, expected a dict")
        return found

    return settings_fingerprint


def _checked_load(
    where: str, own: Callable[[EngineOptions], Any], parts: Sequence[str]
) -> Callable[[EngineOptions], Engine]:
    def load(options: EngineOptions) -> Engine:
        engine: Engine = own(options)
        if missing := [each for each in parts if _lacks(engine, each)]:
            raise UsageError(
                f"{where}: load() gave {type(engine).__name__} without {', '.join(missing)}; "
                f"expected {REQUIRED['load']}"
            )
        return engine

    return load


def _lacks(engine: object, name: str) -> bool:
    found = getattr(engine, name, None)
    abstract = (Engine.generate, RemoteEngine.generate)
    return found is None or getattr(found, "__func__", None) in abstract
