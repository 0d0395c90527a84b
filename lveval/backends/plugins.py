"""A method of one's own: a Python file whose hash, arguments and identity are part of the run.

    python prediction.py --plugin plugins/bm25.py --plugin-args '{"words": 4000}' …

A plugin is a plain class; its keyword arguments are --plugin-args, and every method is optional:

    before_load(config, kwargs)        change what from_pretrained gets
    after_load(model, tokenizer)       change the loaded model, or return another
    generating(model, prompt)          a context manager around each generation
    generate(model, tokenizer, prompt) decode: return the text, or the new token ids
    context(row)                       the context to use for a row: retrieval, compression
    measures()                         numbers of the last generation that are a property of it
    times()                            numbers of the last generation that differ from run to run
    identity()                         more that decides the answers, in plain JSON values

`prompt` is a backends.base.Prompt; `prompt.question_start` is the index of its first token after
the context, chat format and cut counted. Naming the file is the consent to run it.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lveval.backends.base import EngineOptions, Json, Prompt, Tokenizer
from lveval.backends.user_files import content_hash, read_file, run_file, told
from lveval.common.errors import UsageError

HOOKS = (
    *("before_load", "after_load", "generating", "generate", "context"),
    *("measures", "times", "identity"),
)

# What a backend can offer that does not hold the model itself.
OUTSIDE_THE_MODEL = ("context", "identity")


class Plugins:
    """The plugins of a run, in the order of the command line."""

    def __init__(self, plugins: Mapping[str, object], hashes: Mapping[str, str]) -> None:
        self._plugins = plugins
        self._hashes = hashes

    def __bool__(self) -> bool:
        return bool(self._plugins)

    def hooks(self, name: str) -> list[Callable[..., Any]]:
        """The plugins' methods of a name."""
        return [getattr(each, name) for each in self._plugins.values() if hasattr(each, name)]

    def require_outside_the_model(self, backend: str) -> None:
        """Raise UsageError for a hook that needs the loaded model, where the backend lacks it."""
        inside = [hook for hook in HOOKS if hook not in OUTSIDE_THE_MODEL and self.hooks(hook)]
        if inside and backend != "hf":
            raise UsageError(
                f"--plugin: {', '.join(inside)} needs --backend hf, which holds the model; found "
                f"--backend {backend}"
            )

    def fingerprint(self) -> dict[str, Json]:
        """Hash and own identity of each, for the run's identity; empty without plugins.

        Raises UsageError for an identity that is no JSON.
        """
        found: dict[str, Json] = {}
        for name, plugin in self._plugins.items():
            own = plugin.identity() if hasattr(plugin, "identity") else {}
            try:
                found[name] = {
                    "sha256": self._hashes[name],
                    "identity": json.loads(json.dumps(own)),
                }
            except (TypeError, ValueError) as error:
                raise UsageError(f"--plugin {name}: identity() is no JSON ({error})") from error
        return {"plugins": found} if found else {}

    def context(self, row: Any) -> str:  # noqa: ANN401 - a data.rows.Row
        """The context of a row after all plugins; raises UsageError where one gives no text."""
        for hook in self.hooks("context"):
            text = hook(dict(row))
            if not isinstance(text, str):
                raise UsageError(
                    f"--plugin: {hook.__qualname__} gave {type(text).__name__}, expected the text "
                    "of the context"
                )
            row = {**row, "context": text}
        return str(row["context"])

    def measures(self) -> dict[str, Json]:
        """The numbers that the plugins tell of the last row."""
        merged: dict[str, Json] = {}
        for hook in self.hooks("measures"):
            merged |= hook() or {}
        return merged

    def times(self) -> dict[str, Json]:
        """What the plugins timed of the last row, as `plugins` in its times; TypeError: no JSON."""
        merged: dict[str, Json] = {}
        for hook in self.hooks("times"):
            merged |= hook() or {}
        return {"plugins": json.loads(json.dumps(merged))} if merged else {}

    @contextmanager
    def generating(self, model: Any, prompt: Prompt) -> Iterator[None]:  # noqa: ANN401
        """Enter every plugin's context manager around a generation."""
        with ExitStack() as stack:
            for hook in self.hooks("generating"):
                stack.enter_context(hook(model, prompt))
            yield


def plugin_hash(spec: str) -> str:
    """Hash the file of FILE.py[:NAME]; raises UsageError where there is none."""
    return content_hash(_content(spec))


def load_plugins(options: EngineOptions) -> Plugins:
    """The plugins that the options name, made once in each process; raises UsageError.

    A worker refuses a file that is no longer the one that the run began with.
    """
    return _load(options.plugins, json.dumps(options.plugin_args))


@functools.cache
def _load(named: tuple[tuple[str, str], ...], arguments: str) -> Plugins:
    given: dict[str, Any] = json.loads(arguments)
    classes: dict[str, type] = {}
    hashes: dict[str, str] = {}
    for spec, expected in named:
        content = _content(spec)
        if content_hash(content) != expected:
            raise UsageError(f"--plugin {spec}: the file has changed since the run began")
        found = _class(spec, content)
        if found.__name__ in classes:
            raise UsageError(f"--plugin {spec}: {found.__name__} is named twice")
        classes[found.__name__], hashes[found.__name__] = found, expected
    if len(classes) == 1:
        given = {next(iter(classes)): given}
    if unknown := sorted(given.keys() - classes.keys()):
        raise UsageError(
            f"--plugin-args: found {', '.join(unknown)}; with several plugins expected the "
            f"arguments by class name: {', '.join(classes)}"
        )
    plugins = {}
    for name, plugin in classes.items():
        with told(f"--plugin {name}"):
            plugins[name] = plugin(**given.get(name, {}))
    return Plugins(plugins, hashes)


def _path_of(spec: str) -> Path:
    return Path(spec.partition(":")[0])


def _content(spec: str) -> bytes:
    return read_file("--plugin", _path_of(spec), "FILE.py or FILE.py:NAME")


def _class(spec: str, content: bytes) -> type:
    """Run a file; returns the class of the name, else the only one that has hooks."""
    path, name = _path_of(spec), spec.partition(":")[2]
    module = run_file(f"--plugin {path}", path, content)
    known = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and any(hasattr(value, hook) for hook in HOOKS)
    ]
    chosen = [value for value in known if not name or value.__name__ == name]
    if len(chosen) != 1:
        names = ", ".join(value.__name__ for value in known) or "none"
        raise UsageError(
            f"--plugin {path}: expected {name or 'one class'} with some of {', '.join(HOOKS)}; "
            f"found {names}"
        )
    return chosen[0]


def question_start(prompt: Prompt, tokenizer: Tokenizer) -> int:
    """Return the index of the first token after the context, to a token at the seam."""
    at = prompt.formatted.rfind(prompt.after_context) if prompt.after_context else -1
    if at < 0:
        return len(prompt.tokens)
    rest = tokenizer.encode(prompt.formatted[at:], add_special_tokens=False)
    return max(0, len(prompt.tokens) - len(rest))
