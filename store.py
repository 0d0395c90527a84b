"""Where answers live on disk: append-only rows, resume, derived files, and run.json that says what made them.

    with Store.open(run_folder(Path("outputs"), "chatglm3"), identity, selection, rows) as store:
        store.append(record)

One process writes (a lock keeps a second one out); each answer is one write and an fsync, so no kill can lose it. Rows
are kept in `<run>/rows/`; `<run>/<subset>_<level>.jsonl` is derived from them when a file is complete. Local file systems
only: a lock and an fsync over a network file system promise less.
"""

import fcntl
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypedDict

from errors import ExitCode, HarnessError, printable

FORMAT = 1
FINAL_STATUSES = ("ok", "length", "empty", "refused")
CAUSES = ("error", "invalid", "context_overflow", "worker_died")
FILE_NAME = re.compile(r"(?P<subset>.+)_(?P<level>[1-9][0-9]*k)\.jsonl")
# Parts of the identity that hold an entry per file or subset: a later selection may bring more of them.
GROWING = ("data", "budgets")
CHECKSUM = re.compile(rb', "crc32": "(?P<sum>[0-9a-f]{8})"\}$')


class Record(TypedDict, total=False):
    """A row's answer as it is kept; the first six keys are the published harness's."""

    pred: str
    answers: list[str]
    gold_ans: str | None
    input: str
    all_classes: list[str] | None
    length: int
    dataset: str
    level: str
    index: int
    language: str
    status: str
    prompt_tokens: int
    prompt_tokens_full: int
    evidence_kept: bool | None
    raw_pred: str
    finish_reason: str
    usage: dict[str, int]
    confusing_facts: list[str]
    question_id: str


class Located(NamedTuple):
    """A record as read from disk and where it stands, for messages; its values are not checked here."""

    record: dict[str, Any]
    where: str


# --- Folders and small files ------------------------------------------------------------------------------------------


def run_folder(output_dir: Path, model_name: str) -> Path:
    """`<output-dir>/<model-name>`, `/` written as `__`; refuses a name that is no plain folder name."""
    name = model_name.replace("/", "__")
    plain = name not in ("", ".", "..") and "\\" not in name and printable(name) == name and name.isprintable()
    if not plain or len(name.encode(errors="surrogateescape")) > 200:
        raise HarnessError(
            f"--model-name {model_name!r}: expected a name of printable characters that can name a folder"
        )
    folder = output_dir / name
    if folder.is_symlink() and folder.resolve().parent != output_dir.resolve():
        raise HarnessError(f"{folder}: is a link that leads out of {output_dir}; expected a folder")
    return folder


def storage_error(doing: str, path: Path, error: OSError) -> HarnessError:
    """The error of a disk that failed us."""
    return HarnessError(
        f"{path}: {doing} failed ({error.strerror or error}); what was acknowledged before is safe", ExitCode.STORAGE
    )


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error("writing", path, error) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- One row, one line ------------------------------------------------------------------------------------------------


def encode(record: Mapping[str, object]) -> str:
    """A record as one line without its line break; a lone surrogate, which UTF-8 cannot hold, stays as its escape."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(record, ensure_ascii=True)
    return text


def _checked_line(record: Mapping[str, object]) -> bytes:
    """The line of a row file: the record with the checksum of its own bytes as the last key."""
    line = encode(record).encode()
    return line[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(line)


def _parse(line: bytes, where: str, *, checked: bool) -> dict[str, Any]:
    """The record of a line; a row file's line must carry the checksum of its bytes."""
    if checked:
        match = CHECKSUM.search(line)
        line = line[: match.start()] + b"}" if match else line
        if match is None or int(match["sum"], 16) != zlib.crc32(line):
            raise HarnessError(
                f"{where}: the line was changed after it was written (its checksum does not fit); restore it from a copy, "
                "or remove the line to have the row answered again",
                ExitCode.STORAGE,
            )
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{where}: found no JSON ({error}); expected one record a line") from None
    if not isinstance(record, dict):
        raise HarnessError(f"{where}: found {type(record).__name__}; expected an object with the keys of a prediction")
    return record


def _lines(path: Path) -> Iterator[tuple[bytes, str]]:
    """The whole lines of a file, split on \\n only, each with its place; a torn last line is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error("reading", path, error) from error
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        yield line, f"{path}:{number}"


def _read_rows(path: Path) -> list[Located]:
    """The records of a file in rows/, the first of each index."""
    found: dict[int, Located] = {}
    for line, where in _lines(path):
        record = _parse(line, where, checked=True)
        found.setdefault(record["index"], Located(record, where))
    return list(found.values())


# --- The read side: no lock, for evaluation ---------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """run.json of a run, or None where there is none (predictions of the published harness)."""
    path = folder / "run.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("reading", path, error) from error
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: found no JSON ({error}); expected the record of a run") from None
    keys = ("identity", "selection", "rows", "log")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not all(key in manifest for key in keys):
        raise HarnessError(f"{path}: expected format {FORMAT} with {', '.join(keys)}; this run is of another version")
    return manifest


def run_files(folder: Path) -> list[tuple[str, str]]:
    """(subset, level) of each file that the run selected or that lies in its folder, sorted."""
    names = {path.name for part in (folder, folder / "rows") if part.is_dir() for path in part.iterdir()}
    names |= {f"{name}.jsonl" for name in (read_manifest(folder) or {}).get("selection", {})}
    matches = filter(None, map(FILE_NAME.fullmatch, names))
    return sorted((match["subset"], match["level"]) for match in matches)


def read_records(folder: Path, subset: str, level: str) -> list[Located]:
    """The records of one file: derived file first, then rows/; the first of an index counts, in index order.

    Lines without an index (the published harness's) stay in their order.
    """
    derived = folder / f"{subset}_{level}.jsonl"
    located = [Located(_parse(line, where, checked=False), where) for line, where in _lines(derived)]
    if derived.is_file() and derived.stat().st_size and not derived.read_bytes().endswith(b"\n"):
        # Other programs may leave the last line without its break; ours are renamed into place whole.
        tail = derived.read_bytes().rpartition(b"\n")[2]
        where = f"{derived}:{len(located) + 1}"
        located.append(Located(_parse(tail, where, checked=False), where))
    if not all("index" in item.record for item in located):
        return located
    found: dict[int, Located] = {}
    for item in located + _read_rows(folder / "rows" / derived.name):
        found.setdefault(item.record["index"], item)
    return [found[index] for index in sorted(found)]


# --- The one writer ---------------------------------------------------------------------------------------------------


class Store:
    """The writer of one run. Use `Store.open(...)` as a context manager."""

    def __init__(self, folder: Path, lock: int, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self._lock = lock
        self._manifest = manifest
        self._files: dict[Path, int] = {}
        self._records: dict[str, dict[int, dict[str, Any]]] = {}
        self._broken = False
        self._overflowed: set[tuple[str, str, int]] = set()

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: Mapping[str, Any],
        selection: Mapping[str, int],
        rows: Mapping[str, int],
        *,
        overwrite: bool = False,
    ) -> "Store":
        """Lock the folder, refuse another identity, cut torn tails, read what is done.

        `selection`: `<subset>_<level>` -> number of its first rows that are selected; merged with what was selected
        before. `rows`: the same names -> rows in the data file. Raises HarnessError: USAGE where another process writes
        here, IDENTITY where the settings differ, STORAGE where the disk fails or a recorded line is damaged.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
            try:
                if overwrite and any(path.name != ".lock" for path in folder.iterdir()):
                    _move_aside(folder)
                    os.close(lock)
                    folder.mkdir()
                    lock = _lock(folder)
                store = cls(folder, lock, _merged(folder, json.loads(json.dumps(identity)), selection, rows))
                store._recover()
                store._write_manifest()
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise storage_error("opening the run", folder, error) from error
        return store

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        os.close(self._lock)

    def done(self, subset: str, level: str) -> set[int]:
        """The positions of the rows that have their final record."""
        return set(self._records.get(f"{subset}_{level}", {}))

    def overflowed(self) -> set[tuple[str, str, int]]:
        """Rows whose last attempt exceeded the model's window, (subset, level, index)."""
        return {key for key in self._overflowed if key[2] not in self.done(key[0], key[1])}

    def append(self, record: Record) -> bool:
        """Make `record` durable; False, and nothing written, where the row has its record already."""
        if record["status"] not in FINAL_STATUSES:
            raise ValueError(f"status {record['status']!r} is an attempt, not a final record")
        name = f"{record['dataset']}_{record['level']}"
        known = self._records.setdefault(name, {})
        if record["index"] in known:
            return False
        self._append_line(self.folder / "rows" / f"{name}.jsonl", _checked_line(record))
        known[record["index"]] = dict(record)
        return True

    def attempt(self, subset: str, level: str, index: int, cause: str, message: str) -> None:
        """Note that a row got no answer, when and why; the row stays missing."""
        if cause not in CAUSES:
            raise ValueError(f"unknown cause {cause!r}")
        entry = {
            "time": _now(),
            "dataset": subset,
            "level": level,
            "index": index,
            "cause": cause,
            "message": message,
        }
        self._append_line(self.folder / "attempts.jsonl", encode(entry).encode() + b"\n")
        self._note_attempt(entry)

    def derive(self, subset: str, level: str) -> Path | None:
        """Write `<run>/<subset>_<level>.jsonl` when every selected row is there: rows in index order."""
        name = f"{subset}_{level}"
        known = self._records.get(name, {})
        if not set(range(self._manifest["selection"][name])) <= set(known):
            return None
        path = self.folder / f"{name}.jsonl"
        text = "".join(f"{encode(known[index])}\n" for index in sorted(known))
        if not path.is_file() or path.read_bytes() != text.encode():
            self._guarded_write(path, text)
        return path

    def record_effective(self, facts: Mapping[str, Any]) -> None:
        """Keep what the backend decided while loading; a later run, or another worker, must decide the same."""
        facts = json.loads(json.dumps(facts))
        recorded = self._manifest["identity"].setdefault("effective", facts)
        if recorded is facts:
            self._write_manifest()
        elif recorded != facts:
            raise _refusal(self.folder, list(_differences(recorded, facts, "effective")))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Note something that decides no answer (time, command line, workers) in run.json."""
        self._manifest["log"].append({"time": _now(), **entry})
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._guarded_write(self.folder / "run.json", json.dumps(self._manifest, ensure_ascii=True, indent=2) + "\n")

    def _guarded_write(self, path: Path, text: str) -> None:
        self._refuse_if_broken()
        try:
            write_atomic(path, text)
        except HarnessError:
            self._broken = True
            raise

    def _append_line(self, path: Path, line: bytes) -> None:
        """One write, one fsync. After any failure nothing more is written: the file's end is unknown then."""
        self._refuse_if_broken()
        self._broken = True
        try:
            if path not in self._files:
                path.parent.mkdir(exist_ok=True)
                self._files[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                _sync_folder(path.parent)
                _sync_folder(self.folder)
            written = os.write(self._files[path], line)
            if written != len(line):
                raise OSError(None, f"only {written} of {len(line)} bytes were written; is the disk full?")
            os.fsync(self._files[path])
        except OSError as error:
            raise storage_error("appending", path, error) from error
        self._broken = False

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise HarnessError(f"{self.folder}: an earlier write failed; nothing more is written", ExitCode.STORAGE)

    def _recover(self) -> None:
        """Cut torn last lines, read the rows that are done and the attempts."""
        for path in sorted((self.folder / "rows").glob("*.jsonl")):
            _cut_torn_tail(path)
            self._records[path.stem] = {item.record["index"]: item.record for item in _read_rows(path)}
        attempts = self.folder / "attempts.jsonl"
        _cut_torn_tail(attempts)
        for line, where in _lines(attempts):
            self._note_attempt(_parse(line, where, checked=False))

    def _note_attempt(self, entry: Mapping[str, Any]) -> None:
        key = (entry["dataset"], entry["level"], entry["index"])
        if entry["cause"] == "context_overflow":
            self._overflowed.add(key)
        else:
            self._overflowed.discard(key)


# --- Opening a run ----------------------------------------------------------------------------------------------------


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _lock(folder: Path) -> int:
    """An open descriptor that holds the folder's lock until it is closed, also by our death."""
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise HarnessError(
            f"{folder}: another process{f' (pid {holder})' if holder else ''} is writing to this run; wait for its end, "
            "stop it, or use another --output-dir or --model-name"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _move_aside(folder: Path) -> None:
    """Rename the run to `<run>.old-<N>`, the first N that is free."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
    print(f"the earlier run was moved to {printable(str(target))}", file=sys.stderr)


def _merged(
    folder: Path, identity: dict[str, Any], selection: Mapping[str, int], rows: Mapping[str, int]
) -> dict[str, Any]:
    """The manifest to go on with: the recorded one, grown by what is newly selected; a new one in a fresh folder."""
    manifest = read_manifest(folder)
    if manifest is None:
        strangers = [path.name for path in folder.iterdir() if FILE_NAME.fullmatch(path.name) or path.name == "rows"]
        if strangers:
            raise HarnessError(
                f"{folder}: holds predictions ({sorted(strangers)[0]}) but no run.json that says what made them; use "
                "another --output-dir or --model-name, or --overwrite to move them aside",
                ExitCode.IDENTITY,
            )
        return {"format": FORMAT, "identity": identity, "selection": dict(selection), "rows": dict(rows), "log": []}
    recorded = manifest["identity"]
    differences = [
        line
        for key in sorted((recorded.keys() | identity.keys()) - {"effective"})
        for line in _differences(recorded.get(key), identity.get(key), key, common_only=key in GROWING)
    ]
    if differences:
        raise _refusal(folder, differences)
    for key in GROWING:
        if key in identity:
            recorded[key] = recorded.get(key, {}) | identity[key]
    chosen = manifest["selection"]
    for name, number in selection.items():
        chosen[name] = max(number, chosen.get(name, 0))
    manifest["rows"] |= rows
    return manifest


def _differences(recorded: object, asked: object, field: str, *, common_only: bool = False) -> Iterator[str]:
    """A line for each field that differs; with `common_only`, of the names on both sides alone."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        names = recorded.keys() & asked.keys() if common_only else recorded.keys() | asked.keys()
        for name in sorted(names):
            yield from _differences(recorded.get(name), asked.get(name), f"{field}.{name}")
    elif recorded != asked:
        yield f"{field}: recorded {json.dumps(recorded)}, asked {json.dumps(asked)}"


def _refusal(folder: Path, differences: list[str]) -> HarnessError:
    return HarnessError(
        f"{folder}: this run was made with other settings, and its answers would be mixed with different ones\n  "
        + "\n  ".join(differences)
        + "\nuse the recorded settings, another --output-dir or --model-name, or --overwrite to move the run aside",
        ExitCode.IDENTITY,
    )


def _cut_torn_tail(path: Path) -> None:
    """Cut a last line that has no line break (a kill in mid-write) and set it aside in `<file>.torn`."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return
        with path.with_name(f"{path.name}.torn").open("ab") as aside:
            aside.write(content[whole:] + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        file.truncate(whole)
        file.flush()
        os.fsync(file.fileno())
    print(
        f"warning: {printable(str(path))}: the last line was cut off in mid-write ({len(content) - whole} bytes, set aside "
        f"in {path.name}.torn); its row is answered again",
        file=sys.stderr,
    )
