"""The prompt templates of a run: the project's own, the official ones, or a file's.

prompts = load_prompts("official")
"""

import ast
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lveval import config
from lveval.common.errors import DataError
from lveval.common.files import cache_dir, write_atomic
from lveval.data.own_subsets import OwnSubset, missing_fields

OFFICIAL_URL = "https://raw.githubusercontent.com/infinigence/LVEval/25aebcb36acbbb8338712736cfdd31e06e236df5/config.py"
OFFICIAL_FILE_SHA256 = "7c278132c6cd744e3a57dc87947a20d23d66f6928b9b7f37b0d1bf42e43df8e6"
OFFICIAL_MAPPING_SHA256 = "5c74d1516a2a0f5a82e687f9d8375aa1dac6765881a09bd2fb5123433e2ac1e5"


# --- Prompt templates ---------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSet:
    """The templates of a run: subset -> template, and the hash that names them.

    `own`: subsets of the user's own, whose templates come with them and have no part in the hash.
    """

    templates: dict[str, str]
    own: Mapping[str, OwnSubset] = field(default_factory=dict)

    @property
    def by_subset(self) -> dict[str, str]:
        """Every template; what --prompts has for a subset of the user's own comes first."""
        return {name: subset.prompt for name, subset in self.own.items()} | self.templates

    @property
    def sha256(self) -> str:
        """The hash of the mapping, the same wherever it came from."""
        canonical = json.dumps(self.templates, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def official(self) -> bool:
        """Whether these are the benchmark's own templates."""
        return self.sha256 == OFFICIAL_MAPPING_SHA256

    @property
    def name(self) -> str:
        """`official`, `builtin` (those of config.py) or `custom`, by what they are, not by where
        they came from.
        """
        return (
            "official"
            if self.official
            else "builtin"
            if self.templates == config.DATASET_PROMPT
            else "custom"
        )


def load_prompts(choice: str) -> PromptSet:
    """The templates of --prompts: `builtin`, `official`, or a .py or .json file with a literal
    DATASET_PROMPT.

    Raises LVEvalError where the file is missing, is not literal, lacks a field, or (official) has
    another hash.
    """
    if choice == "builtin":
        return PromptSet(config.DATASET_PROMPT)
    if choice == "official":
        text = official_file(OFFICIAL_URL, OFFICIAL_FILE_SHA256)
        return PromptSet(parse_prompts(text, OFFICIAL_URL))
    path = Path(choice)
    if path.suffix not in (".py", ".json"):
        raise DataError(
            f'--prompts: found "{choice}", expected builtin, official or a path to a .py or .json '
            "file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {choice}: cannot be read as UTF-8 text ({error})") from None
    return PromptSet(parse_prompts(text, choice))


def official_file(url: str, sha256: str) -> str:
    """The text of the official prompt file: from the cache, else downloaded once, its hash checked
    either way.
    """
    cached = cache_dir() / f"official-prompts-{sha256[:16]}.txt"
    if cached.is_file():
        kept = cached.read_bytes()
        if hashlib.sha256(kept).hexdigest() == sha256:
            return kept.decode()
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 - a constant https URL
            text: bytes = reply.read(1 << 20)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"--prompts official: cannot download {url} ({error}); download the file yourself and "
            "pass its path as --prompts PATH, also together with --published (its hash marks the "
            "run as official all the same)"
        ) from None
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise DataError(
            f"--prompts official: {url} has SHA-256 {found}, expected {sha256}; nothing was kept"
        )
    write_atomic(cached, text.decode())
    return text.decode()


def parse_prompts(text: str, where: str) -> dict[str, str]:
    """Parse the literal DATASET_PROMPT mapping in Python or JSON source; nothing is executed."""
    mapping: object = None
    if where.endswith(".json"):
        try:
            mapping = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error})") from None
        if isinstance(mapping, dict) and "DATASET_PROMPT" in mapping:
            mapping = mapping["DATASET_PROMPT"]
    else:
        mapping = _literal_assignment(text, where)
    if not isinstance(mapping, dict) or not mapping:
        raise DataError(
            f"{where}: found no DATASET_PROMPT mapping; expected a literal subset -> template "
            "mapping"
        )
    for subset, template in mapping.items():
        if not isinstance(subset, str) or not isinstance(template, str):
            raise DataError(f"{where}: DATASET_PROMPT[{subset!r}]: expected a string for a string")
        if missing := missing_fields(template):
            raise DataError(
                f"{where}: DATASET_PROMPT[{subset!r}]: expected {' and '.join(missing)} in the "
                "template"
            )
    return mapping


def _literal_assignment(text: str, where: str) -> object:
    """The value assigned to DATASET_PROMPT at the top level of Python source."""
    try:
        for statement in ast.parse(text).body:
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [getattr(statement, "target", None)]
            )
            value = getattr(statement, "value", None)
            if value is not None and any(
                isinstance(t, ast.Name) and t.id == "DATASET_PROMPT" for t in targets
            ):
                return ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{where}: DATASET_PROMPT is no literal ({error}); code in it is never run"
        ) from None
    return None
