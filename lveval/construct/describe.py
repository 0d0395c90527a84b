"""What is in a folder of data: a line a file.

print(describe(Path("mydata")))
"""

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from lveval.common.errors import DataError
from lveval.common.levels import level_length
from lveval.common.table import text_table
from lveval.common.text import printable
from lveval.construct.sources import text_length
from lveval.data.dataset import rows_of_source
from lveval.data.positions import depths, find_passages
from lveval.data.sources import find_source
from lveval.runs.folder import FILE_NAME

PATTERNS = ("*.jsonl", "*.jsonl.gz", "*/*.jsonl", "*/*.jsonl.gz", "*.zip")
WIDTH = 26  # characters of a file's name that are shown: the longest of the published ones
HEAD = ["file", "rows", "words min", "mean", "max", "keywords", "facts", "depths"]
NOTE = (
    "words: of a context, characters in Chinese; keywords: rows that have them; facts: confusing\n"
    "facts of a row, mean; depths: of the evidence, min mean max, 0 the beginning and 1 the end"
)


def describe(folder: Path) -> str:
    """A table of the folder's files. Raises DataError where there is none, or a row is bad."""
    found = sorted(set(_files(folder)), key=lambda key: (key[0], level_length(key[1])))
    if not found:
        raise DataError(
            f"{folder}: found no data; expected <subset>_<level>.jsonl files (or .jsonl.gz), in "
            "folders by subset or not, or <subset>.zip"
        )
    return f"{text_table([HEAD, *(_line(folder, *key) for key in found)], rules=[1])}\n{NOTE}"


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """(subset, level) of the files that lie where a run looks for them."""
    for path in itertools.chain.from_iterable(map(folder.glob, PATTERNS)):
        subset = path.parent.name if path.parent != folder else ""
        members = [path.name.removesuffix(".gz")]
        if path.suffix == ".zip":
            subset = path.stem
            try:
                with zipfile.ZipFile(path) as archive:
                    members = [name.rpartition("/")[2] for name in archive.namelist()]
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read ({error}); expected an archive") from error
        for match in map(FILE_NAME.fullmatch, members):
            if match and subset in ("", match["subset"]):
                yield match["subset"], match["level"]


def _line(folder: Path, subset: str, level: str) -> list[str]:
    """The cells of one file; it is read line by line."""
    name = f"{subset}_{level}"
    source = find_source(subset, f"{name}.jsonl", folder)
    lengths, keyed, facts, found = [], 0, 0, []
    for _, row in rows_of_source(source, subset):
        if row is None:
            continue
        lengths.append(text_length(row["context"], row["language"]))
        keyed += row["answer_keywords"] is not None
        facts += len(row["confusing_facts"] or ())
        pairs = depths(find_passages(row), max(1, len(row["context"])))["evidence"]
        found += [depth for depth, _ in pairs if depth is not None]
    shown = printable(name)
    return [
        shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 1]}…",
        str(len(lengths)),
        *(f"{value:,.0f}" for value in (min(lengths), fmean(lengths), max(lengths))),
        str(keyed),
        f"{facts / len(lengths):.1f}",
        " ".join(f"{value:.2f}" for value in (min(found), fmean(found), max(found)))
        if found
        else "-",
    ]
