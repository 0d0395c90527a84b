"""A user's own config.py and utils.py for an installed copy, in place of editing the package.

    lveval predict --config my_config.py --formats my_formats.py --model-path MODEL ...

The files are run, because the user names them; what they define replaces the tables of the same
name. The paths travel in the environment, so that every process of a run takes the same ones.
"""

import hashlib
import importlib
import os
import runpy
from pathlib import Path

from lveval.common.errors import UsageError

# Option -> (environment variable, module whose tables the file replaces).
TABLES = {
    "--config": ("LVEVAL_CONFIG", "lveval.config"),
    "--formats": ("LVEVAL_FORMATS", "lveval.utils"),
}


def choose(option: str, path: str) -> None:
    """Take the tables of a file from now on. Raises UsageError where it cannot be used."""
    os.environ[TABLES[option][0]] = str(Path(path).absolute())
    replace_tables(option)


def replace_tables(option: str) -> None:
    """Replace the tables that the chosen file defines; those it does not name stay.

    Dictionaries and lists change in place: other modules hold them already.
    """
    variable, name = TABLES[option]
    path = os.environ.get(variable)
    if not path:
        return
    if not Path(path).is_file():
        raise UsageError(f"{option} {path}: no such file; expected Python source")
    module = importlib.import_module(name)
    known = [word for word in vars(module) if word.isupper()]
    for word, value in runpy.run_path(path).items():
        if not word.isupper():
            continue
        if word not in known:
            expected = f"expected names of {name}: {', '.join(known)}"
            raise UsageError(f"{option} {path}: found {word}; {expected}")
        table = getattr(module, word)
        if value is table:  # imported from the package, and perhaps added to
            continue
        if isinstance(table, dict) and isinstance(value, dict):
            table.clear()
            table.update(value)
        elif isinstance(table, list) and isinstance(value, list):
            table[:] = value
        else:
            setattr(module, word, value)


def fingerprints() -> dict[str, str]:
    """Option -> hash of its file, of those that are chosen."""
    chosen = {option: os.environ.get(variable) for option, (variable, _) in TABLES.items()}
    return {
        option: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        for option, path in chosen.items()
        if path
    }
