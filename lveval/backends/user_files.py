"""A Python file that a user names, run as a module: plugins and engines of one's own.

    content = read_file("--backend", Path("my_engine.py"), "FILE.py")
    module = run_file("--backend my_engine.py", Path("my_engine.py"), content)

What runs are the very bytes that were hashed, never what Python compiled of an earlier version:
its cache knows a file by second and size alone.
"""

import hashlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from lveval.common.errors import UsageError
from lveval.common.text import first_line


def read_file(option: str, path: Path, expected: str) -> bytes:
    """Read the file that `option` names; raises UsageError saying what was `expected`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; expected {expected}") from None


def content_hash(content: bytes) -> str:
    """Return `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def told(where: str) -> Iterator[None]:
    """Make one sentence, a UsageError that begins with `where`, of what a user's code raises."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}") from error
    except (Exception, SystemExit) as error:  # a user's own code may raise anything
        raise UsageError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


def run_file(where: str, path: Path, content: bytes) -> ModuleType:
    """Run the `content` of a file; raises UsageError, which begins with `where`, as it fails."""
    # Dataclasses and pickle look a class's module up by name, which no other module may have.
    name = f"lveval_{content_hash(content)[7:19]}_{path.stem}"
    spec = importlib.util.spec_from_loader(name, _Content(path, content), origin=str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with told(where):
            spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[name]
        raise
    return module


class _Content(importlib.abc.SourceLoader):
    """Loads a module from bytes; without a file's time Python neither reads nor keeps a cache."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        return self._content
