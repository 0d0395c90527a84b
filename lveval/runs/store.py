"""Where answers live on disk: append-only rows, resume, derived files, and run.json that says what made them.

    with Store.open(run_folder(Path("outputs"), "chatglm3"), identity, selection, rows) as store:
        store.append(record)

One process writes (a lock keeps a second one out); each answer is one write and an fsync, so no kill can lose it. Rows
are kept in `<run>/rows/`; `<run>/<subset>_<level>.jsonl` is derived from them when a file is complete. Local file
systems only: a lock and an fsync over a network file system promise less.
"""

import fcntl
import itertools
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from lveval.common.errors import SettingsMismatch, StorageError, UsageError
from lveval.common.files import (
    disk_errors,
    durable_mkdir,
    fsync_dir,
    rename_to_backup,
    write_atomic,
)
from lveval.common.text import printable
from lveval.runs.record import (
    CAUSES,
    FINAL_STATUSES,
    JsonObject,
    LocatedRecord,
    Prediction,
    encode,
    index_of,
    parse_record,
)
from lveval.runs.spec import requested_spec, require_same_run, require_same_spec

FILE_NAME = re.compile(r"(?P<subset>.+)_(?P<level>[1-9][0-9]*k)\.jsonl")

# How a line in rows/ ends: the checksum of the line without this key, which is the line of the derived file.
CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\Z')

CLOCK = "%Y-%m-%dT%H:%M:%SZ"


Counts = Mapping[str, int]  # <subset>_<level> -> a number of rows


def run_folder(output_dir: Path, model_name: str) -> Path:
    """`<output-dir>/<model-name>`, `/` written as `__`; refuses a name that is no plain folder name."""
    name = model_name.replace("/", "__")
    plain = (
        name not in ("", ".", "..")
        and "\\" not in name
        and printable(name) == name
        and name.isprintable()
    )
    if not plain or len(name.encode(errors="surrogateescape")) > 200:
        raise UsageError(
            f"--model-name {model_name!r}: expected printable characters that can name one folder"
        )
    folder = output_dir / name
    if folder.is_symlink() and Path(os.path.realpath(folder)).parent != Path(
        os.path.realpath(output_dir)
    ):
        raise UsageError(f"{folder}: is a link that leads out of {output_dir}; expected a folder")
    return folder


def _lines(path: Path, *, torn: bool = False) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, split on \\n only (U+2028 and others are text), each with its place; none if it is missing.

    A last line without its break is torn and left out, unless `torn`: other programs may leave the break off.
    """
    with disk_errors("reading", path):
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
    if not torn or not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield line, f"{path}:{number}"


def _read_rows(path: Path) -> dict[int, tuple[bytes, LocatedRecord]]:
    """index -> (line without checksum, record) of a file in rows/; the first record of an index counts."""
    found: dict[int, tuple[bytes, LocatedRecord]] = {}
    for checked, where in _lines(path):
        match = CHECKSUM.search(checked)
        line = checked[: match.start()] + b"}" if match else checked
        recorded, expected = match[1].decode() if match else "none", f"{zlib.crc32(line):08x}"
        if recorded != expected:
            raise StorageError(
                f"{where}: damaged, or edited after it was written: found checksum {recorded}, expected {expected}; "
                "restore the line from a copy, or remove it to have its row answered again"
            )
        item = LocatedRecord(parse_record(line, where), where)
        if f"{item.record.get('dataset')}_{item.record.get('level')}" != path.stem:
            raise UsageError(
                f"{where}: a record of another file; expected only those of {path.stem}"
            )
        found.setdefault(index_of(item), (line, item))
    return found


def read_manifest(folder: Path) -> JsonObject | None:
    """run.json of a run, or None where there is none (predictions of the published harness)."""
    path = folder / "run.json"
    with disk_errors("reading", path):
        if not path.exists():
            return None
        manifest = parse_record(path.read_bytes(), str(path))
    match manifest:
        case {"format": 1, "identity": dict(), "selection": dict(), "rows": dict(), "log": list()}:
            return manifest
    raise UsageError(
        f"{path}: expected format 1 with identity, selection, rows, log; damaged, or of another version"
    )


def run_files(folder: Path) -> list[tuple[str, str]]:
    """(subset, level) of each file that the run selected or that lies in its folder, sorted."""
    names = {
        path.name for part in (folder, folder / "rows") if part.is_dir() for path in part.iterdir()
    }
    names |= {f"{name}.jsonl" for name in (read_manifest(folder) or {}).get("selection", {})}
    matches = filter(None, map(FILE_NAME.fullmatch, names))
    return sorted((match["subset"], match["level"]) for match in matches)


def read_records(folder: Path, subset: str, level: str) -> list[LocatedRecord]:
    """The records of one file: the derived file's, then those that only rows/ has; the first of an index counts.

    In index order; lines of the published harness have no index and stay in theirs. Values other than the index are
    not checked. Raises HarnessError naming file and line: no record (USAGE), a damaged one, or a line of the derived
    file that is not what rows/ recorded (STORAGE).
    """
    name = f"{subset}_{level}.jsonl"
    recorded = _read_rows(folder / "rows" / name)
    derived = [
        (line, LocatedRecord(parse_record(line, where), where))
        for line, where in _lines(folder / name, torn=True)
    ]
    if not recorded and not any("index" in item.record for _, item in derived):
        return [item for _, item in derived]
    found: dict[int, LocatedRecord] = {}
    for line, item in derived:
        index = index_of(item)
        if (
            index in recorded
            and line != recorded[index][0]
            and item.record != recorded[index][1].record
        ):
            raise StorageError(
                f"{item.where}: found another record than the one at {recorded[index][1].where}, which it was derived "
                "from; run prediction.py again with the same arguments to derive the file anew"
            )
        found.setdefault(index, item)
    for index, (_, item) in recorded.items():
        found.setdefault(index, item)
    return [found[index] for index in sorted(found)]


def answered_rows(
    folder: Path, identity: JsonObject, names: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], set[int]]:
    """(subset, level) -> positions of the rows that a run under `identity` would find answered; writes nothing.

    Raises HarnessError: IDENTITY where the run in `folder` was made under other settings, STORAGE where it is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None or _is_empty(folder):
        return {name: set() for name in names}
    require_same_run(folder, manifest, json.loads(json.dumps(identity)))
    return {
        (subset, level): set(_read_rows(folder / "rows" / f"{subset}_{level}.jsonl"))
        for subset, level in names
    }


class RunStore:
    """The writer of one run. Use `Store.open(...)` as a context manager."""

    def __init__(self, folder: Path, lock: int, manifest: JsonObject) -> None:
        self.folder = folder
        self._lock = lock
        self._manifest = manifest
        self._files: dict[Path, int] = {}
        self._lines: dict[
            str, dict[int, bytes]
        ] = {}  # <subset>_<level> -> index -> the record's line
        self._broken = ""  # why nothing may be written any more
        self._causes: dict[
            tuple[str, str, int], str
        ] = {}  # (subset, level, index) -> cause of the last attempt

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: JsonObject,
        selection: Counts,
        rows: Counts,
        *,
        overwrite: bool = False,
    ) -> "RunStore":
        """Lock the folder, refuse another identity, cut torn tails, read what is done.

        `selection`: `<subset>_<level>` -> number of its first rows that are selected; merged with what was selected
        before. `rows`: the same names -> rows in the data file. Raises HarnessError: USAGE where another process writes
        here, IDENTITY where the settings differ, STORAGE where the disk fails or a recorded line is damaged.
        """
        asked = json.loads(json.dumps(identity))
        with disk_errors("opening the run", folder):
            durable_mkdir(folder)
            lock = _lock(folder)
            try:
                if overwrite and any(path.name != ".lock" for path in folder.iterdir()):
                    lock = _start_anew(folder, lock)
                store = cls(folder, lock, _merge_manifest(folder, asked, selection, rows))
                store._recover()
                store._write_manifest()
            except BaseException:
                os.close(lock)
                raise
        return store

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._broken = "the run was closed"
        for descriptor in self._files.values():
            os.close(descriptor)
        os.close(self._lock)

    def done(self, subset: str, level: str) -> set[int]:
        """The positions of the rows that have their final record."""
        return set(self._lines.get(f"{subset}_{level}", {}))

    def is_answered(self, row: tuple[str, str, int]) -> bool:
        """Whether (subset, level, index) has its final record."""
        return row[2] in self._lines.get(f"{row[0]}_{row[1]}", {})

    def records(self) -> Iterator[Prediction]:
        """All records that are there, those of earlier starts too."""
        for lines in self._lines.values():
            for line in lines.values():
                yield cast(Prediction, json.loads(line))

    def failed(self) -> dict[tuple[str, str, int], str]:
        """(subset, level, index) -> cause of the last attempt, of the rows that failed and have no record.

        A row whose last try was to be repeated (transient) did not fail: the run ended before.
        """
        failed = {key: cause for key, cause in self._causes.items() if cause != "transient"}
        return {
            key: cause for key, cause in failed.items() if key[2] not in self.done(key[0], key[1])
        }

    def append(self, record: Prediction) -> bool:
        """Make `record` durable; False, and nothing written, where the row has its record already.

        Raises HarnessError (STORAGE) where the disk fails, and from then on always; ValueError for no final record.
        """
        if record["status"] not in FINAL_STATUSES:
            raise ValueError(f"status {record['status']!r} is an attempt, not a final record")
        name = f"{record['dataset']}_{record['level']}"
        if name not in self._manifest["selection"]:
            raise ValueError(f"{name!r} is not selected")
        known = self._lines.setdefault(name, {})
        if record["index"] in known:
            return False
        line = encode(record)
        checked = line[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(line)
        self._append_line(self.folder / "rows" / f"{name}.jsonl", checked)
        known[record["index"]] = line
        return True

    def attempt(self, subset: str, level: str, index: int, cause: str, message: str) -> None:
        """Note that a row got no answer, when and why; the row stays missing."""
        if cause not in CAUSES:
            raise ValueError(f"unknown cause {cause!r}")
        row = {"dataset": subset, "level": level, "index": index}
        entry = {
            "time": time.strftime(CLOCK, time.gmtime()),
            **row,
            "cause": cause,
            "message": message,
        }
        self._append_line(self.folder / "attempts.jsonl", encode(entry) + b"\n")
        self._causes[subset, level, index] = cause

    def derive(self, subset: str, level: str) -> Path | None:
        """Write `<run>/<subset>_<level>.jsonl` when every selected row is there: in index order, without checksums."""
        name = f"{subset}_{level}"
        known = self._lines.get(name, {})
        if not set(range(self._manifest["selection"][name])) <= known.keys():
            return None
        path = self.folder / f"{name}.jsonl"
        content = b"".join(known[index] + b"\n" for index in sorted(known))
        with self._writing(path):
            if not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content.decode())
        return path

    def record_effective(self, facts: Mapping[str, Any]) -> None:
        """Keep what the backend decided while loading; a later run, or another worker, must decide the same."""
        asked = json.loads(json.dumps(facts))
        recorded = self._manifest["identity"].setdefault("effective", asked)
        require_same_spec(self.folder, {"effective": recorded}, {"effective": asked})
        if recorded is asked:
            self._write_manifest()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Note something that decides no answer (time, command line, workers) in run.json."""
        self._manifest["log"].append({"time": time.strftime(CLOCK, time.gmtime()), **entry})
        self._write_manifest()

    def _write_manifest(self) -> None:
        path = self.folder / "run.json"
        with self._writing(path):
            write_atomic(path, json.dumps(self._manifest, indent=2) + "\n")

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """A block that writes to `path`; once one was left by a fault (or Ctrl-C) nothing more is written."""
        if self._broken:
            raise StorageError(f"{self.folder}: nothing more is written: {self._broken}")
        self._broken = f"a write to {path} failed before"
        with disk_errors("writing", path):
            yield
        self._broken = ""

    def _append_line(self, path: Path, line: bytes) -> None:
        """One write, one fsync."""
        with self._writing(path):
            if path not in self._files:
                path.parent.mkdir(exist_ok=True)
                self._files[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                fsync_dir(path.parent)
                fsync_dir(self.folder)
            written = os.write(self._files[path], line)
            if written != len(line):
                raise OSError(
                    None, f"only {written} of {len(line)} bytes were written; is the disk full?"
                )
            os.fsync(self._files[path])

    def _recover(self) -> None:
        """Cut torn last lines, read the rows that are done and the attempts."""
        for path in sorted(self.folder.glob("rows/*.jsonl")):
            if FILE_NAME.fullmatch(path.name):
                _truncate_torn_line(path)
                self._lines[path.stem] = {
                    index: line for index, (line, _) in _read_rows(path).items()
                }
        attempts = self.folder / "attempts.jsonl"
        if attempts.exists():
            _truncate_torn_line(attempts)
        for line, where in _lines(attempts):
            entry = parse_record(line, where)
            match entry:
                case {
                    "dataset": str(subset),
                    "level": str(level),
                    "index": int(index),
                    "cause": str(cause),
                }:
                    self._causes[subset, level, index] = cause
                case _:
                    raise UsageError(
                        f"{where}: found {', '.join(entry)}; expected an attempt; remove the line"
                    )


def _lock(folder: Path) -> int:
    """An open descriptor that holds the folder's lock until it is closed, also by our death."""
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        ours = False
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our open and our lock the run, and this lock file with it, may have been moved aside.
            ours = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
        if not ours:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise UsageError(
                f"{folder}: another process{f' (pid {holder})' if holder else ''} is writing to this run; wait for its "
                "end, stop it, or use another --output-dir or --model-name"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _start_anew(folder: Path, lock: int) -> int:
    """Rename the run to `<run>.old-<N>`, the first N that is free; the lock of the new, empty folder."""
    target = rename_to_backup(folder)
    print(f"the earlier run was moved to {printable(str(target))}", file=sys.stderr)
    durable_mkdir(folder)
    new = _lock(folder)
    os.close(lock)
    return new


def _merge_manifest(
    folder: Path, identity: JsonObject, selection: Counts, rows: Counts
) -> JsonObject:
    """The manifest to go on with: the recorded one, grown by what is newly selected; a new one in a fresh folder."""
    manifest = read_manifest(folder)
    if manifest is None:
        if strangers := run_files(folder):
            raise SettingsMismatch(
                f"{folder}: holds predictions ({'_'.join(strangers[0])}) but no run.json that says what made them; use "
                "another --output-dir or --model-name, or --overwrite to move them aside"
            )
        return {
            "format": 1,
            "identity": identity,
            "selection": dict(selection),
            "rows": dict(rows),
            "log": [],
        }
    if _is_empty(folder):
        # The start before was refused, or all its rows failed: what it was told may be changed.
        if (
            requested_spec(manifest) != identity
            and (attempts := folder / "attempts.jsonl").exists()
        ):
            rename_to_backup(attempts)
        return {
            "format": 1,
            "identity": identity,
            "selection": dict(selection),
            "rows": dict(rows),
            "log": manifest["log"],
        }
    require_same_run(folder, manifest, identity)
    recorded = manifest["identity"]
    for name, value in identity.items():
        if isinstance(value, dict):
            recorded[name] = recorded.get(name, {}) | value
    for name, number in selection.items():
        manifest["selection"][name] = max(number, manifest["selection"].get(name, 0))
    manifest["rows"] |= rows
    return manifest


def _is_empty(folder: Path) -> bool:
    """Whether nothing was answered yet, here or by a batch."""
    files = itertools.chain(
        folder.glob("rows/*.jsonl"), folder.glob("batches/*.json"), folder.glob("*.jsonl")
    )
    return all(path.parent == folder and not FILE_NAME.fullmatch(path.name) for path in files)


def _truncate_torn_line(path: Path) -> None:
    """Cut a last line that has no line break (a kill in mid-write) and set it aside in `<file>.torn`."""
    with path.open("rb+") as file:
        # A kill between write and fsync leaves lines that nobody has synced; they count from now on.
        os.fsync(file.fileno())
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return
        with path.with_name(f"{path.name}.torn").open("ab") as aside:
            aside.write(content[whole:] + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        fsync_dir(path.parent)
        file.truncate(whole)
        os.fsync(file.fileno())
    print(
        f"warning: {printable(str(path))}: the last line was cut off in mid-write ({len(content) - whole} bytes, set "
        f"aside in {path.name}.torn); its row is answered again",
        file=sys.stderr,
    )
