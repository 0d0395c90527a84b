"""The writer of a run: append-only rows, resume, exported files, and run.json.

    with RunStore.open(folder, spec.as_identity(), selection, rows) as store:
        store.append(record)

One process writes (a lock keeps a second one out); each answer is one write and an fsync, so no
kill can lose it. Rows are kept in `<run>/rows/`; `<run>/<subset>_<level>.jsonl` is exported when a
file is complete. Local file systems only: over a network a lock and an fsync promise less.
"""

import fcntl
import json
import os
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
    open_plain,
    rename_to_backup,
    write_atomic,
)
from lveval.common.jsonl import encode
from lveval.common.levels import file_name
from lveval.common.logs import log
from lveval.runs.folder import (
    FILE_NAME,
    is_unanswered,
    read_lines,
    read_manifest,
    read_rows,
    rows_to_answer,
    run_files,
)
from lveval.runs.record import (
    CAUSES,
    FINAL_STATUSES,
    ROW_VERSION,
    JsonObject,
    Prediction,
    parse_attempt,
)
from lveval.runs.spec import grow, require_no_secret, require_same_spec
from lveval.runs.times import TimesFile, read_times

Counts = Mapping[str, int]  # <subset>_<level> -> a number of rows
RowKey = tuple[str, str, int]  # (subset, level, index)

# Of a loaded engine's settings: what it may learn only from a later answer.
LEARNED_LATER = ("served_model",)


class RunStore:
    """The writer of one run. Use `RunStore.open(...)` as a context manager."""

    def __init__(self, folder: Path, lock: int, manifest: JsonObject) -> None:
        self.folder = folder
        self._lock = lock
        self._manifest = manifest
        self._files: dict[Path, int] = {}  # open descriptors
        self._lines: dict[str, dict[int, bytes]] = {}  # file name -> index -> the record's line
        self._broken = ""  # why nothing may be written any more
        self._times = TimesFile(folder)
        self._causes: dict[RowKey, str] = {}  # of the row's last attempt

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: Mapping[str, object],
        selection: Counts,
        rows: Counts,
        *,
        left_out: Mapping[str, Iterable[int]] | None = None,
        sampled: Mapping[str, Iterable[int]] | None = None,
        unverified: Iterable[str] = (),
        part: tuple[int, int] | None = None,
        overwrite: bool = False,
    ) -> "RunStore":
        """Lock the folder, refuse another spec, cut torn tails, read what is answered.

        `selection`: `<subset>_<level>` -> number of its first rows that are selected; merged with
        what was selected before. `rows`: the same names -> rows in the data file. `sampled`: the
        same names -> the selected rows, where they are not the first ones; `left_out`: those that
        are not to be answered; merged, too, as is `unverified`: the names of data files that have
        not the published rows. `part`: (number, of how many) of a run whose other
        parts are in other folders. Raises UsageError where another process writes here,
        SettingsMismatch where the spec differs, StorageError where the disk fails or a recorded
        line is damaged.
        """
        with disk_errors("opening the run", folder):
            durable_mkdir(folder)
            lock = _lock(folder)
            try:
                if overwrite and any(path.name != ".lock" for path in folder.iterdir()):
                    lock = _start_anew(folder, lock)
                asked = json.loads(json.dumps(identity))
                manifest = _merge_manifest(folder, asked, selection, rows)
                _note_rows(manifest, "sampled", sampled or {})
                _note_rows(manifest, "left_out", left_out or {})
                if names := sorted({*unverified, *manifest.get("unverified", ())}):
                    manifest["unverified"] = names
                if part is not None:
                    known = {"part": manifest.setdefault("part", list(part))}
                    require_same_spec(folder, known, {"part": list(part)})
                store = cls(folder, lock, manifest)
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
        self._times.close()
        for descriptor in (*self._files.values(), self._lock):
            os.close(descriptor)

    # --- What is there --------------------------------------------------------------------------

    @property
    def manifest(self) -> JsonObject:
        """What run.json holds; to be read only."""
        return self._manifest

    def answered(self, subset: str, level: str) -> set[int]:
        """The positions of the rows that have their final record."""
        return set(self._lines.get(file_name(subset, level), ()))

    def is_answered(self, row: RowKey) -> bool:
        """Whether a row has its final record."""
        return row[2] in self._lines.get(file_name(*row[:2]), ())

    def records(self) -> Iterator[Prediction]:
        """Yield all records, those of earlier starts too."""
        for lines in self._lines.values():
            for line in lines.values():
                yield cast(Prediction, json.loads(line))

    def failed(self) -> dict[RowKey, str]:
        """The rows that failed and have no record, with the cause of the last attempt.

        A row whose last try was to be repeated (transient) did not fail: the run ended before.
        """
        return {
            row: cause
            for row, cause in self._causes.items()
            if cause != "transient" and not self.is_answered(row)
        }

    # --- What is written ------------------------------------------------------------------------

    def append(self, record: Prediction, times: Mapping[str, object] | None = None) -> bool:
        """Make `record` durable; False, and nothing written, where the row has its record already.

        `times` is the row's line of times.jsonl. Raises StorageError where the disk fails, and from
        then on always; ValueError for a record that is not final or not selected.
        """
        if record["status"] not in FINAL_STATUSES:
            raise ValueError(f"status {record['status']!r} is an attempt, not a final record")
        name = file_name(record["dataset"], record["level"])
        if name not in self._manifest["selection"]:
            raise ValueError(f"{name!r} is not selected")
        known = self._lines.setdefault(name, {})
        if record["index"] in known:
            return False
        if times:  # first, so that no kill leaves an answered row without
            self._times.append(times)
        line = encode(record)
        self._append_line(self.folder / "rows" / f"{name}.jsonl", _checked(line))
        known[record["index"]] = line
        return True

    def adopt(self, source: Path) -> tuple[int, int]:
        """Take over the rows that another folder of this run has and this one lacks.

        With their times, and the failed attempts there. `source` is only read, a row that is here
        stays as it is. Returns how many rows were taken, and how many are here with other content.
        """
        attempts = self.folder / "attempts.jsonl"
        noted = {line for line, _ in read_lines(attempts)}
        failures = [line for line, _ in read_lines(source / attempts.name) if line not in noted]
        if failures:
            self._append_line(attempts, b"".join(line + b"\n" for line in failures))
        times, own_times = read_times(source), read_times(self.folder)
        taken = others = 0
        for path in sorted(source.glob("rows/*.jsonl")):
            if not (match := FILE_NAME.fullmatch(path.name)):
                continue
            found = {index: line for index, (line, _) in sorted(read_rows(path).items())}
            known = self._lines.setdefault(path.stem, {})
            others += sum(known.get(index, line) != line for index, line in found.items())
            new = {index: line for index, line in found.items() if index not in known}
            for index in new:  # first, as in `append`
                key = match["subset"], match["level"], index
                if (line_of_times := times.get(key)) and line_of_times != own_times.get(key):
                    self._times.append(line_of_times)
            if new:
                content = b"".join(map(_checked, new.values()))
                self._append_line(self.folder / "rows" / path.name, content)
                known |= new
            taken += len(new)
        return taken, others

    def record_failure(self, subset: str, level: str, index: int, cause: str, message: str) -> None:
        """Note that a row got no answer, when and why; the row stays missing."""
        if cause not in CAUSES:
            raise ValueError(f"unknown cause {cause!r}")
        row = {"dataset": subset, "level": level, "index": index}
        entry = {"time": _now(), **row, "cause": cause, "message": message}
        self._append_line(self.folder / "attempts.jsonl", encode(entry) + b"\n")
        self._causes[subset, level, index] = cause

    def export_predictions(self, subset: str, level: str) -> Path | None:
        """Write `<run>/<subset>_<level>.jsonl` in index order, once all selected rows are there."""
        name = file_name(subset, level)
        known = self._lines.get(name, {})
        if not rows_to_answer(self._manifest, name) <= known.keys():
            return None
        path = self.folder / f"{name}.jsonl"
        content = b"".join(known[index] + b"\n" for index in sorted(known))
        with self._writing(path):
            if not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content)
        return path

    def record_resolved(self, settings: Mapping[str, Any]) -> None:
        """Keep what the engine decided while loading; later loads must decide the same."""
        asked = json.loads(json.dumps(settings))
        identity = self._manifest["identity"]
        recorded = identity.setdefault("effective", asked)
        known = {name: found for name in LEARNED_LATER if (found := recorded.get(name)) is not None}
        news = {name: found for name in LEARNED_LATER if (found := asked.get(name)) is not None}
        merged = recorded | news | known
        require_same_spec(self.folder, {"effective": merged}, {"effective": asked | known | news})
        if recorded is asked or merged != recorded:
            identity["effective"] = merged
            self._write_manifest()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Note in run.json what decides no answer (time, command line, workers)."""
        self._manifest["log"].append({"time": _now(), **entry})
        self._write_manifest()

    def _write_manifest(self) -> None:
        path = self.folder / "run.json"
        with self._writing(path):
            write_atomic(path, json.dumps(self._manifest, indent=2) + "\n")

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Guard a write to `path`: after a fault (or Ctrl-C) in it nothing more is written."""
        if self._broken:
            raise StorageError(f"{self.folder}: nothing more is written: {self._broken}")
        self._broken = f"a write to {path} failed before"
        with disk_errors("writing", path):
            yield
        self._broken = ""

    def _append_line(self, path: Path, line: bytes) -> None:
        """Append by one write and one fsync: what a kill leaves are whole lines or a torn tail."""
        with self._writing(path):
            if path not in self._files:
                path.parent.mkdir(mode=0o755, exist_ok=True)
                self._files[path] = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                fsync_dir(path.parent)
                fsync_dir(self.folder)
            written = os.write(self._files[path], line)
            if written != len(line):
                short = f"only {written} of {len(line)} bytes were written; is the disk full?"
                raise OSError(None, short)
            os.fsync(self._files[path])

    def _recover(self) -> None:
        """Cut torn last lines, read the rows that are answered and the attempts."""
        for path in sorted(self.folder.glob("rows/*.jsonl")):
            if FILE_NAME.fullmatch(path.name):
                _truncate_torn_line(path)
                rows = read_rows(path)
                self._lines[path.stem] = {index: line for index, (line, _) in rows.items()}
        attempts = self.folder / "attempts.jsonl"
        if attempts.exists():
            _truncate_torn_line(attempts)
        for line, where in read_lines(attempts):
            row, cause = parse_attempt(line, where)
            self._causes[row] = cause


def _checked(line: bytes) -> bytes:
    """Give a record's line its checksum and its break, as rows/ has it."""
    return line[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(line)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock until it is closed, also by our death."""
    path = folder / ".lock"
    descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        ours = False
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our open and our lock the run, with this lock file, may have been renamed.
            ours = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
        if not ours:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise UsageError(
                f"{folder}: another process{f' (pid {holder})' if holder else ''} is writing to "
                "this run; wait for its end, stop it, or use another --output-dir or --model-name"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _start_anew(folder: Path, lock: int) -> int:
    """Rename the run to `<run>.old-<N>`; return the lock of the new, empty folder."""
    log.info("the earlier run was moved to %s", rename_to_backup(folder))
    durable_mkdir(folder)
    new = _lock(folder)
    os.close(lock)
    return new


def _merge_manifest(
    folder: Path, identity: JsonObject, selection: Counts, rows: Counts
) -> JsonObject:
    """The manifest to go on with: the recorded one, grown by what is newly selected, or a new one.

    Raises SettingsMismatch where the folder was made under other settings, or by no run of ours.
    """
    manifest = read_manifest(folder)
    new: JsonObject = {"format": 1, "row_version": ROW_VERSION, "identity": identity}
    new |= {"selection": dict(selection), "rows": dict(rows), "log": []}
    if manifest is None:
        if unknown := run_files(folder):
            raise SettingsMismatch(
                f"{folder}: holds predictions ({file_name(*unknown[0])}) but no run.json that says "
                "what made them; use another --output-dir or --model-name, or --overwrite to move "
                "them aside"
            )
        require_no_secret(identity)
        return new
    recorded = manifest["identity"]
    if is_unanswered(folder):
        # The start before was refused, or all its rows failed: its settings may be changed.
        attempts = folder / "attempts.jsonl"
        same = {name: value for name, value in recorded.items() if name != "effective"} == identity
        if not same and attempts.exists():
            rename_to_backup(attempts)
        require_no_secret(identity)
        return new | {"log": manifest["log"]}
    require_same_spec(folder, recorded, identity)
    grow(recorded, identity)
    for name, number in selection.items():
        manifest["selection"][name] = max(number, manifest["selection"].get(name, 0))
    manifest["rows"] |= rows
    return manifest


def _note_rows(manifest: JsonObject, field: str, found: Mapping[str, Iterable[int]]) -> None:
    """Add to the rows that are sampled, or left out; a run without any has no such field."""
    recorded = manifest.get(field, {})
    for name, rows in found.items():
        if every := sorted({*rows, *recorded.get(name, ())}):
            manifest.setdefault(field, {})[name] = every


def _truncate_torn_line(path: Path) -> None:
    """Cut a last line that has no break (a kill in mid-write) and keep it in `<file>.torn`."""
    with os.fdopen(open_plain(path, os.O_RDWR), "rb+") as file:
        # A kill between write and fsync leaves lines that nobody has synced; they count from here.
        os.fsync(file.fileno())
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return
        beside = open_plain(
            path.with_name(f"{path.name}.torn"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        with os.fdopen(beside, "ab") as torn:
            torn.write(content[whole:] + b"\n")
            torn.flush()
            os.fsync(torn.fileno())
        fsync_dir(path.parent)
        file.truncate(whole)
        os.fsync(file.fileno())
    log.warning(
        "warning: %s: the last line was cut off in mid-write (%d bytes, kept in %s.torn); its row "
        "is answered again",
        path,
        len(content) - whole,
        path.name,
    )
