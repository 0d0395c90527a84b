"""TODO lveval.runs.spec."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lveval.common.errors import SettingsMismatch
from lveval.runs.record import JsonObject

# Parts of the identity that hold an entry per file or subset: a later selection may bring more of them.
MAY_GROW = re.compile(r"(data|budgets)\.")


def require_same_run(folder: Path, manifest: JsonObject, identity: JsonObject) -> None:
    """HarnessError (IDENTITY) where the run was made under other settings, as far as they are told before loading."""
    require_same_spec(folder, requested_spec(manifest), identity)


def requested_spec(manifest: JsonObject) -> JsonObject:
    """The identity as it was told before loading."""
    return {name: value for name, value in manifest["identity"].items() if name != "effective"}


def require_same_spec(
    folder: Path, recorded: Mapping[str, object], asked: Mapping[str, object]
) -> None:
    """HarnessError (IDENTITY) naming each field that differs; of the growing parts only names on both sides count."""
    old, new = dict(flatten(recorded)), dict(flatten(asked))
    fields = [
        name
        for name in old.keys() | new.keys()
        if not MAY_GROW.match(name) or (name in old and name in new)
    ]
    lines = [
        f"\n  {field}: recorded {old.get(field, 'nothing')}, asked {new.get(field, 'nothing')}"
        for field in sorted(fields)
        if old.get(field) != new.get(field)
    ]
    if lines:
        raise SettingsMismatch(
            f"{folder}: this run was made with other settings; its answers would be mixed with different ones"
            f"{''.join(lines)}\nuse the recorded settings, another --output-dir or --model-name, or --overwrite to "
            "move the run aside"
        )


def flatten(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """(dotted field, its value as JSON) of everything below `value`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{field}.{key}" if field else key)
    else:
        yield field, json.dumps(value)
