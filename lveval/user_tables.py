"""A user's own config.py and utils.py, in place of editing the checkout or the package.

    python prediction.py --config my_config.py --formats my_formats.py --model-path MODEL ...

The files are run, because the user names them; what they define replaces the tables of the same
name. The paths travel in the environment, so that every process of a run takes the same ones.
"""

import copy
import hashlib
import importlib
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lveval.common.command_line import Command
from lveval.common.errors import UsageError
from lveval.common.text import first_line

# Option -> (environment variable, module whose tables the file replaces).
TABLES = {
    "--config": ("LVEVAL_CONFIG", "lveval.config"),
    "--formats": ("LVEVAL_FORMATS", "lveval.utils"),
}

_hashes: dict[str, str] = {}  # of the files whose tables this process has


def choose(option: str, path: str) -> None:
    """Take the tables of a file from now on. Raises UsageError where it cannot be used."""
    os.environ[TABLES[option][0]] = str(Path(path).absolute())
    replace_tables(option)


def taken(words: Sequence[str] | None) -> list[str]:
    """Take the tables that a command line names, and return its other words."""
    parser = Command(add_help=False)
    for option in TABLES:
        parser.add_argument(option, metavar="FILE")
    files, rest = parser.parse_known_args(sys.argv[1:] if words is None else list(words))
    for option in TABLES:
        if path := getattr(files, option.removeprefix("--")):
            choose(option, path)
    return rest


@contextmanager
def restored() -> Iterator[None]:
    """Give the tables back, after the block, what they held before it, for a program's next run."""
    modules = [importlib.import_module(name) for _, name in TABLES.values()]
    tables = [
        (module, word, value, copy.copy(value))
        for module in modules
        for word, value in vars(module).items()
        if word.isupper()
    ]
    chosen = {variable: os.environ.get(variable) for variable, _ in TABLES.values()}
    hashes = dict(_hashes)
    try:
        yield
    finally:
        _fill(_hashes, hashes)
        for module, word, table, content in tables:
            setattr(module, word, table)
            _fill(table, content)
        for variable, path in chosen.items():
            os.environ.pop(variable, None)
            if path is not None:
                os.environ[variable] = path


def _misfit(table: object, value: object) -> str:
    """What a value in the place of a table should be; blank where it fits."""
    if isinstance(table, dict | list) and not isinstance(value, type(table)):
        return type(table).__name__
    if isinstance(table, dict) and isinstance(value, dict):
        kinds = {type(each) for each in table.values()}
        found = {type(each) for each in value.values()}
        if kinds in ({str}, {int}) and not found <= kinds:
            return f"one of {kinds.pop().__name__} values"
    return ""


def _fill(table: object, content: object) -> bool:
    """Change a table in place, for other modules hold it; False where it is of another kind."""
    if isinstance(table, dict) and isinstance(content, dict):
        table.clear()
        table.update(content)
    elif isinstance(table, list) and isinstance(content, list):
        table[:] = content
    else:
        return False
    return True


def replace_tables(option: str) -> None:
    """Replace the tables that the chosen file defines; those it does not name stay."""
    variable, name = TABLES[option]
    path = os.environ.get(variable)
    if not path:
        return
    if not Path(path).is_file():
        raise UsageError(f"{option} {path}: no such file; expected Python source")
    module = importlib.import_module(name)
    known = [word for word in vars(module) if word.isupper()]
    _hashes[option] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    try:
        found = runpy.run_path(path)
    except (Exception, SystemExit) as error:  # a user's own code may raise anything
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{option} {path}: {said}; expected Python that runs") from error
    for word, value in found.items():
        if not word.isupper():
            continue
        if word not in known:
            expected = f"expected names of {name}: {', '.join(known)}"
            raise UsageError(f"{option} {path}: found {word}; {expected}")
        table = getattr(module, word)
        if value is table:  # imported from the package, and perhaps added to
            continue
        if expected := _misfit(table, value):
            raise UsageError(
                f"{option} {path}: {word}: found {type(value).__name__}; expected {expected}"
            )
        if not _fill(table, value):
            setattr(module, word, value)


def fingerprints() -> dict[str, str]:
    """Option -> hash of its file as it was when its tables were taken, of those that are chosen."""
    return dict(_hashes)
