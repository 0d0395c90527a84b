"""The run spec: what decides the answers of a run, kept in run.json under "identity".

spec = RunSpec(backend="echo", engine={"version": 1}, ...)
require_same_spec(folder, recorded, spec.as_identity())
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from lveval.common.errors import SettingsMismatch, UsageError
from lveval.common.redaction import KEY_FIELD, betrays

# Parts that hold an entry per file or subset: a later selection may bring more of them.
MAY_GROW = re.compile(r"(data|budgets|subsets)\.")

# What earlier versions did not tell: compared only where both runs do.
TOLD_LATER = ("engine.custom_generate", "tables.think_tags", "tables.cleaners_file")


@dataclass(frozen=True)
class RunSpec:
    """Everything that can change an answer; the names are those of run.json."""

    backend: str
    engine: Any  # the backend's settings fingerprint: a mapping of JSON values
    backend_args: Mapping[str, Any]
    model_name: str
    model_max_len: int
    batch_size: int
    prompts: Mapping[str, Any]  # name, sha256, official
    chat_template: str
    tables: Mapping[str, Any]  # the entries of utils.py that this model name takes
    budgets: Mapping[str, int]  # subset -> new tokens
    data: Mapping[str, str]  # <subset>_<level> -> fingerprint
    given: Mapping[str, Any]  # options that not every run has, where they were given
    subsets: Mapping[str, Any]  # the user's own -> their definitions

    def as_identity(self) -> dict[str, Any]:
        """The spec as run.json has it, in plain JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("given", "subsets"):  # most runs, and all before there were such, have none
            if not values[name]:
                del values[name]
        identity: dict[str, Any] = json.loads(json.dumps(values))
        return identity


def require_no_secret(identity: Mapping[str, object]) -> None:
    """Raise UsageError for a key among what decides the answers: run.json would keep it."""
    for field, value in flatten(identity):
        named = re.fullmatch(KEY_FIELD, field.rpartition(".")[2], re.I)
        if betrays(value) or (named and value.strip('"') and value.startswith('"')):
            raise UsageError(
                f"{field}: found a key in it, which run.json would keep; expected it in a variable "
                "of the environment, or for a service in --header 'NAME: $VARIABLE'"
            )


def is_identity(found: object) -> bool:
    """Tell whether a recorded value has the shape of a spec; a run need not have all of it."""
    kinds: dict[str, Any] = {each.name: each.type for each in fields(RunSpec)}
    return isinstance(found, dict) and all(
        kind is Any or isinstance(found[name], get_origin(kind) or kind)
        for name, kind in (kinds | {"effective": Mapping}).items()
        if name in found
    )


def grow(recorded: dict[str, Any], identity: Mapping[str, object]) -> None:
    """Add to a recorded identity the entries per file or subset that the same spec has more of."""
    for name, value in identity.items():
        if isinstance(value, dict) and MAY_GROW.match(f"{name}."):
            recorded[name] = recorded.get(name, {}) | value


def require_same_spec(
    folder: Path, recorded: Mapping[str, object], asked: Mapping[str, object]
) -> None:
    """Raise SettingsMismatch naming each field that differs.

    What the engine decided while loading ("effective") is compared only where both have it; of the
    parts that may grow, only the names on both sides count. An engine's file may be renamed.
    """
    if "effective" not in asked:
        recorded = {name: value for name, value in recorded.items() if name != "effective"}
    file = _backend_file(asked)
    renamed = {"backend"} if file and file == _backend_file(recorded) else set()
    lines = [
        f"\n  {field}: recorded {old}, asked {new}"
        for field, old, new in differences(recorded, asked)
        if field not in renamed and not (MAY_GROW.match(field) and "nothing" in (old, new))
    ]
    if lines:
        raise SettingsMismatch(
            f"{folder}: this run was made with other settings; its answers would be mixed with "
            f"different ones{''.join(lines)}\nuse the recorded settings, another --output-dir or "
            "--model-name, or --overwrite to move the run aside"
        )


def _backend_file(identity: Mapping[str, object]) -> object:
    given = identity.get("given")
    return given.get("backend_file") if isinstance(given, Mapping) else None


def differences(
    one: Mapping[str, object], other: Mapping[str, object]
) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted field, value of one, of the other) as JSON; "nothing" where one lacks it."""
    first, second = dict(flatten(one)), dict(flatten(other))
    untold = (first.keys() ^ second.keys()).intersection(TOLD_LATER)
    for field in sorted((first.keys() | second.keys()) - untold):
        if first.get(field) != second.get(field):
            yield field, first.get(field, "nothing"), second.get(field, "nothing")


def flatten(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted field, its value as JSON) of everything below `value`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{field}.{key}" if field else key)
    else:
        yield field, json.dumps(value)
