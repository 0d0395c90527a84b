"""A run's folder as others read it: run.json, recorded rows, exported files. Writes nothing.

    manifest = read_manifest(Path("outputs/chatglm3"))
    records = read_records(Path("outputs/chatglm3"), "lic_mixup", "16k")

A folder of the published harness has neither run.json nor rows/ and is read all the same.
"""

import itertools
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lveval.common.errors import StorageError, UsageError
from lveval.common.files import disk_errors
from lveval.common.jsonl import MAX_ROWS, bounded_lines
from lveval.common.levels import LEVEL, FileKey, file_name
from lveval.common.text import printable
from lveval.runs.record import ROW_VERSION, JsonObject, LocatedRecord, index_of, parse_record
from lveval.runs.spec import is_identity, require_same_spec

FILE_NAME = re.compile(rf"(?P<subset>.+)_(?P<level>{LEVEL})\.jsonl")
# How a line in rows/ ends: with the checksum of the line without this key, which is the line of
# the exported file.
CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\Z')
ANEW = "run prediction.py again with the same arguments to derive the file anew"
OR_ACCEPT = ", or, edited on purpose, score it with evaluation.py --accept-edited"

ROWS_NAMED = 5  # of many


def is_plain(name: str) -> bool:
    """Whether a name, of whatever origin, can be that of one file in its folder."""
    plain = name.isprintable() and printable(name) == name and not {"/", "\\"} & {*name}
    return plain and name not in ("", ".", "..") and len(name.encode()) <= 200


def run_folder(output_dir: Path, model_name: str, part: tuple[int, int] | None = None) -> Path:
    """`<output-dir>/<model-name>`, with `/` written as `__`; of a part with `.part3of8` after it.

    Raises UsageError for a name that is no plain folder name, or a link that leads elsewhere.
    """
    name = model_name.replace("/", "__") + (part_suffix(part) if part else "")
    if not is_plain(name):
        expected = "printable characters that can name one folder"
        raise UsageError(f"--model-name {model_name!r}: expected {expected}")
    folder = output_dir / name
    target = Path(os.path.realpath(folder))  # Path.resolve would raise where a link leads to itself
    if folder.is_symlink() and target.parent != Path(os.path.realpath(output_dir)):
        raise UsageError(f"{folder}: is a link that leads out of {output_dir}; expected a folder")
    return folder


def part_suffix(part: tuple[int, int]) -> str:
    """What a part's folder has after the run's name."""
    return ".part{}of{}".format(*part)


def first_rows(rows: Sequence[int]) -> str:
    """Name the first of many rows."""
    return ", ".join(map(str, rows[:ROWS_NAMED])) + " …" * (len(rows) > ROWS_NAMED)


def read_lines(path: Path, *, keep_torn: bool = False) -> Iterator[tuple[bytes, str]]:
    """Yield each line and its place (`file:line`); nothing where the file is missing.

    Lines end at \\n only: U+2028 and U+0085 occur in answers. A last line without its break is torn
    and left out, unless `keep_torn`: other programs may leave the break off. Raises DataError
    beyond the bounds of a file.
    """
    # Of attempts there may be any number.
    most = MAX_ROWS if FILE_NAME.fullmatch(path.name) else math.inf
    with disk_errors("reading", path):
        if not path.exists():
            return
        with path.open("rb") as file:
            for number, line in enumerate(bounded_lines(file, str(path), most), 1):
                if line.endswith(b"\n") or keep_torn:
                    yield line.removesuffix(b"\n"), f"{path}:{number}"


def parse_row(
    checked: bytes, where: str, name: str, edited: dict[int, str] | None = None
) -> tuple[bytes, LocatedRecord]:
    """Read a line in rows/ of the file `name`: (line without checksum, record).

    Raises StorageError at a damaged line, UsageError at a record of another file. With `edited` a
    line whose checksum does not fit is taken as it stands, and noted there: index -> checksum.
    """
    match = CHECKSUM.search(checked)
    line = checked[: match.start()] + b"}" if match else checked
    recorded, expected = match[1].decode() if match else "none", f"{zlib.crc32(line):08x}"
    if recorded != expected and edited is None:
        raise StorageError(
            f"{where}: damaged, or edited after it was written: found checksum {recorded}, "
            f"expected {expected}; restore the line from a copy, or remove it to have its row "
            f"answered again{OR_ACCEPT}"
        )
    item = LocatedRecord(parse_record(line, where), where)
    if f"{item.record.get('dataset')}_{item.record.get('level')}" != name:
        raise UsageError(f"{where}: a record of another file; expected only those of {name}")
    index = index_of(item)
    if recorded != expected and edited is not None:
        edited[index] = recorded
    return line, item


def read_rows(
    path: Path, edited: dict[int, str] | None = None
) -> dict[int, tuple[bytes, LocatedRecord]]:
    """Read a file in rows/: index -> (line without checksum, record); an index's first counts.

    Raises as `parse_row` does, which `edited` is for.
    """
    found: dict[int, tuple[bytes, LocatedRecord]] = {}
    for checked, where in read_lines(path):
        line, item = parse_row(checked, where, path.stem, edited)
        found.setdefault(index_of(item), (line, item))
    return found


def read_manifest(folder: Path) -> JsonObject | None:
    """Read run.json; None where there is none (predictions of the published harness)."""
    path = folder / "run.json"
    with disk_errors("reading", path):
        if not path.exists():
            return None
        manifest: JsonObject = parse_record(path.read_bytes(), str(path))
    if not _is_manifest(manifest):
        raise UsageError(
            f"{path}: expected format 1 with identity, selection, rows, log; damaged, or of "
            "another version"
        )
    names: list[str] = [*manifest["selection"], *manifest["rows"]]
    if odd := [name for name in names if not is_plain(name)]:
        raise UsageError(
            f"{path}: found rows of a file named {odd[0][:80]!r}; expected a name such as "
            "hotpotwikiqa_mixup_16k"
        )
    return manifest


def _is_manifest(found: JsonObject) -> bool:
    """Tell whether run.json has the shape that all readers of it count on."""
    match {"sampled": {}, "left_out": {}, "unverified": [], "part": [1, 1]} | found:
        case {
            "format": 1,
            "identity": identity,
            "selection": dict(selection),
            "rows": dict(rows),
            "sampled": dict(sampled),
            "left_out": dict(left_out),
            "unverified": list(unverified),
            "part": [int(), int()],
            "log": list(log),
        }:
            lists = [*sampled.values(), *left_out.values()]
            return (
                is_identity(identity)
                and all(type(number) is int for number in (*selection.values(), *rows.values()))
                and all(isinstance(numbers, list) for numbers in lists)
                and all(type(number) is int for numbers in lists for number in numbers)
                and all(isinstance(name, str) for name in unverified)
                and all(isinstance(entry, dict) for entry in log)
            )
    return False


def runs_below(folder: Path) -> list[Path]:
    """Find the runs in a folder and in the folders in it, the newest first."""
    times: dict[Path, float] = {}
    with disk_errors("looking for runs", folder):
        for path in itertools.chain(folder.glob("*/*"), folder.glob("*/*/*")):
            if path.name == "run.json" or _has_answers(path):
                times[path.parent] = max(times.get(path.parent, 0.0), path.stat().st_mtime)
    runs = (run for run in times if run.name != "rows" or run.parent not in times)
    return sorted(runs, key=lambda run: (-times[run], run))


def _has_answers(path: Path) -> bool:
    """Tell a file of predictions, also from one of data, which is named alike."""
    if not FILE_NAME.fullmatch(path.name) or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"pred"' in file.read(2**16)


def run_files(folder: Path) -> list[FileKey]:
    """List each file that the run selected or that lies in its folder, sorted."""
    return list_files(folder, read_manifest(folder) or {})


def list_files(folder: Path, manifest: Mapping[str, Any]) -> list[FileKey]:
    """List the files that `manifest` selects or that lie in the run's folder, sorted."""
    parts = [part for part in (folder, folder / "rows") if part.is_dir()]
    names = {path.name for part in parts for path in part.iterdir()}
    names |= {f"{name}.jsonl" for name in manifest.get("selection", {})}
    matches = filter(None, map(FILE_NAME.fullmatch, names))
    return sorted((match["subset"], match["level"]) for match in matches)


def rows_to_answer(manifest: Mapping[str, Any], name: str) -> set[int]:
    """The rows of the file `<subset>_<level>` that a run is to answer, in all its parts."""
    sampled = manifest.get("sampled", {}).get(name)
    selected = range(manifest["selection"][name]) if sampled is None else sampled
    return set(selected).difference(manifest.get("left_out", {}).get(name, ()))


def read_records(
    folder: Path, subset: str, level: str, edited: Counter[str] | None = None
) -> list[LocatedRecord]:
    """Read the records of one file: the exported ones, then those that only rows/ has.

    In index order, an index's first record counts; lines of the published harness have no index
    and keep their order. Raises UsageError at a line that is no record, StorageError at a damaged
    one and at an exported line that is not what rows/ recorded, or that adds to it.

    With `edited` a row that was changed in one of the two places is taken from there, as it stands,
    and counted: file -> rows; StorageError where it was changed in both.
    """
    name = f"{file_name(subset, level)}.jsonl"
    checksums: dict[int, str] | None = None if edited is None else {}
    recorded = read_rows(folder / "rows" / name, checksums)
    exported = [
        (line, LocatedRecord(parse_record(line, where), where))
        for line, where in read_lines(folder / name, keep_torn=True)
    ]
    if not recorded and not any("index" in item.record for _, item in exported):
        return [item for _, item in exported]
    if edited is not None and checksums:
        edited[f"rows/{name}"] += len(checksums)
    found: dict[int, LocatedRecord] = {}
    for line, item in exported:
        index = index_of(item)
        if recorded and index not in recorded:
            raise StorageError(
                f"{item.where}: found a record with index {index}; expected only rows that "
                f"{folder / 'rows' / name} has, which the file was derived from; {ANEW}"
            )
        old_line, old = recorded.get(index, (b"", found.get(index, item)))
        if line != old_line and item.record != old.record:
            original = (checksums or {}).get(index)
            if original == f"{zlib.crc32(line):08x}":  # the row was edited in rows/
                continue
            if edited is None or original or index in found:
                todo = "both were edited: keep one of the two" if original else ANEW + OR_ACCEPT
                raise StorageError(
                    f"{item.where}: found another record of row {index} than the one at "
                    f"{old.where}; {todo}"
                )
            edited[name] += 1
        found.setdefault(index, item)
    for index, (_, item) in recorded.items():
        found.setdefault(index, item)
    return [found[index] for index in sorted(found)]


def answered_rows(
    folder: Path, identity: Mapping[str, object], keys: Iterable[FileKey]
) -> dict[FileKey, set[int]]:
    """Tell which rows a run under `identity` would find answered.

    Raises SettingsMismatch where the run in `folder` was made under other settings, StorageError
    where it is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None or is_unanswered(folder):
        return {key: set() for key in keys}
    require_same_spec(folder, manifest["identity"], identity)
    return {key: set(read_rows(folder / "rows" / f"{file_name(*key)}.jsonl")) for key in keys}


def records_depths(folder: Path) -> bool:
    """Tell whether rows that are added to the run in `folder` have depths: in a new one they do."""
    manifest = read_manifest(folder)
    if manifest is None or is_unanswered(folder):
        return True
    return bool(manifest.get("row_version") == ROW_VERSION)


def is_unanswered(folder: Path) -> bool:
    """Tell whether nothing was answered yet, here or by a batch."""
    patterns = ("rows/*.jsonl", "batches/*.json", "*.jsonl")
    paths = itertools.chain.from_iterable(map(folder.glob, patterns))
    return all(path.parent == folder and not FILE_NAME.fullmatch(path.name) for path in paths)
