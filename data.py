"""Where rows come from: the Hub's archives or local files, checked row by row, memory-mapped, read by index.

    python prediction.py --backend echo --model-name dry --data-path my_data/   (no --data-path: the published data)

A file is read in one own pass into an Arrow copy that is named by the content's hash, so that all workers map the same
pages. The JSON builder of `datasets` would infer types chunk by chunk and fail without a line number.
"""

import hashlib
import io
import json
import os
import re
import reprlib
import stat
import tempfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict, cast

import config
from errors import ExitCode, HarnessError
from files import cache_dir

if TYPE_CHECKING:
    from datasets import Dataset, Features

HUB_REPO = "Infinigence/LVEval"
HUB_REVISION = "86a3b0e6f2266281d481bcb46a0bda5b511cffb0"

# A row of the longest level has about 2.4 MB, its file about 0.5 GB. What is far beyond is no LV-Eval data.
MAX_LINE_BYTES = 64 * 2**20
MAX_MEMBER_BYTES = 4 * 2**30
# Text deflates 3 to 10 times; a zip bomb up to 1,032 times. Small members cannot do harm at any ratio.
MAX_RATIO, RATIO_FREE_BYTES = 200, 64 * 2**20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# Raised when what a cached copy holds changes. Each copy ends in the SHA-256 of all that stands before.
CACHE_VERSION = "v1"
SEAL_BYTES = 32
STALE_SECONDS = 24 * 3600

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 60


class Row(TypedDict):
    """A row as the rest of the harness sees it, whatever spelling its file had."""

    input: str
    context: str
    answers: list[str]
    length: int  # words (en) or characters (zh), as the data set states it
    dataset: str
    language: str
    answer_keywords: str | None
    confusing_facts: list[str] | None
    all_classes: list[str] | None
    question_id: str | None
    offsets: dict[str, list[list[int]]] | None  # "evidence", "confusing_facts" -> [start, end) in characters of context


@dataclass(frozen=True)
class DataFile:
    """The rows of one file, memory-mapped when the first one is read; small to pickle, safe with threads."""

    subset: str
    level: str
    fingerprint: str  # "sha256:" and the hash of the JSON lines
    origin: str  # for messages
    path: Path  # the Arrow copy
    rows: int

    def __len__(self) -> int:
        return self.rows

    def row(self, index: int) -> Row:
        """Row `index`, 0 <= index < len(self). Raises IndexError outside of it."""
        if not 0 <= index < self.rows:
            raise IndexError(f"{self.origin} has {self.rows} rows; there is no row {index}")
        return cast(Row, self._mapped()[index])

    def sizes(self) -> list[int]:
        """The UTF-8 bytes of each row's context; looks at no text, so it takes milliseconds for a file of any size."""
        import pyarrow.compute as pc

        sizes: list[int] = pc.binary_length(self._mapped().data.column("context")).to_pylist()
        return sizes

    def _mapped(self) -> "Dataset":
        dataset = _open(self.path)
        if dataset is None:
            raise HarnessError(f"{self.path}: found no intact cached copy of {self.origin}; start the run again")
        return dataset


def load(subset: str, level: str, data_path: Path | None, fingerprint: str | None = None) -> DataFile:
    """The rows of `<subset>_<level>.jsonl`, from the folder `data_path` or, where it is None, from the Hub.

    With `fingerprint` (a worker was told it) an intact cached copy is opened without a look at the source. Otherwise
    the source is read; it must have that fingerprint if one is given. Raises HarnessError: no such file, no network, a
    row that is not as the data card of Infinigence/LVEval says (file, line, field), a damaged archive, other content.
    """
    for kind, value, pattern, expected in (
        ("subset", subset, r"\w[\w.-]*", 'letters, digits, "_", "-" and "."'),
        ("level", level, r"[1-9][0-9]*k", "a length such as 16k"),
        ("fingerprint", fingerprint, r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits"),
    ):
        if value is not None and not re.fullmatch(pattern, value):
            raise _fault(kind, value, expected)
    name = f"{subset}_{level}.jsonl"
    with _lock:  # the second thread of a worker waits for the first one's copy instead of making its own
        if fingerprint is not None and (dataset := _open(_copy_path(subset, fingerprint))) is not None:
            return DataFile(subset, level, fingerprint, name, _copy_path(subset, fingerprint), len(dataset))
        source = _find(subset, name, data_path)
        found, size = _fingerprint(source)
        if fingerprint not in (None, found):
            raise HarnessError(f"{source.origin}: found the content {found}; expected {fingerprint}", ExitCode.IDENTITY)
        path = _copy_path(subset, found)
        if (dataset := _open(path)) is None:
            _build(source, subset, found, size, path)
            dataset = _open(path)
    if dataset is None:
        raise HarnessError(f"{path}: the copy just written cannot be read back", ExitCode.STORAGE)
    if source.hub and len(dataset) != (published := config.DATASET_ROWS[subset]):
        raise HarnessError(
            f"{source.origin}: found {len(dataset)} rows; expected the {published} of the published file; delete "
            f"{source.path.resolve()} to fetch it again"
        )
    return DataFile(subset, level, found, source.origin, path, len(dataset))


# --- The source ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A file of JSON lines: `path` itself, or one of `members` of the archive `path`."""

    path: Path
    members: tuple[str, ...] = ()
    hub: bool = False

    @property
    def origin(self) -> str:
        return "/".join((str(self.path), *self.members[-1:]))

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], int | None]]:
        """The stream, and for a member the size that its archive states."""
        if not self.members:
            with self.path.open("rb", buffering=2**20) as stream:
                yield stream, None
            return
        with zipfile.ZipFile(self.path) as archive:
            member = self._member(archive)
            with archive.open(member) as packed, io.BufferedReader(cast(io.RawIOBase, packed), 2**20) as unpacked:
                yield unpacked, member.file_size

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        """The expected member. Only these names are ever looked at and nothing is extracted by a name of theirs."""
        held = archive.infolist()
        found = next((hits for name in self.members if (hits := [m for m in held if m.filename == name])), [])
        if not found:
            names = ", ".join(m.filename for m in held[:5])[:200]
            raise HarnessError(f"{self.path}: found {names or 'nothing'}; expected {' or '.join(self.members)}")
        member, size, packed = found[0], found[0].file_size, found[0].compress_size
        faults = {
            f"{len(found)} members of that name": len(found) > 1,
            "a symbolic link": stat.S_ISLNK(member.external_attr >> 16),
            "an encrypted member": bool(member.flag_bits & 1),
            f"compression method {member.compress_type}": member.compress_type not in METHODS,
            f"{size} bytes, more than {MAX_MEMBER_BYTES}": size > MAX_MEMBER_BYTES,
            f"{size} bytes packed into {packed}": size > max(RATIO_FREE_BYTES, MAX_RATIO * packed),
        }
        for fault in (text for text, holds in faults.items() if holds):
            raise HarnessError(f"{self.path}/{member.filename}: found {fault}; expected one plain or deflated file")
        return member


def _find(subset: str, name: str, data_path: Path | None) -> _Source:
    """Where the file `name` of `subset` is."""
    members = (f"{subset}/{name}", name)
    if data_path is None:
        return _Source(_download(subset), members, hub=True)
    local = _Source(data_path / name), _Source(data_path / subset / name), _Source(data_path / f"{subset}.zip", members)
    try:
        for source in local:
            if source.path.is_file():
                return source
    except OSError as error:
        raise HarnessError(f"{data_path}: cannot be searched ({error.strerror}); check --data-path") from error
    looked = ", ".join(str(source.path) for source in local)
    raise HarnessError(f"found no data for {name}; expected one of {looked}; check --data-path")


def _download(subset: str) -> Path:
    """The subset's archive in the Hub client's cache, fetched on first use."""
    if subset not in config.DATASET_ROWS:
        raise HarnessError(f'the data set on the Hub has no subset "{subset}"; give the folder of yours by --data-path')
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(HUB_REPO, f"{subset}.zip", repo_type="dataset", revision=HUB_REVISION))
    # HTTPError is the base class of whichever HTTP library the client uses; its native downloader raises RuntimeError.
    except (OSError, errors.EntryNotFoundError, errors.HTTPError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__  # the client writes paragraphs
        raise HarnessError(
            f"{subset}.zip of {HUB_REPO} at revision {HUB_REVISION[:12]} could not be fetched ({reason}); check the "
            f"network, or get the archive elsewhere and name its folder by --data-path"
        ) from error


def _lines(source: _Source) -> Iterator[bytes]:
    """The file's lines with their ends, no more of it in memory than one line."""
    size = number = 0
    try:
        with source.open() as (stream, stated):
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                size += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise HarnessError(
                        f"{source.origin}:{number}: found a line of more than {MAX_LINE_BYTES} bytes; expected one row"
                    )
                yield line
            if stated not in (None, size):
                raise zipfile.BadZipFile(f"{size} bytes where the archive states {stated}")
    # ValueError: zipfile decodes the name of every member, and a damaged one may be no UTF-8.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        # Resolved: the Hub client's path is a link, and the client would link a damaged blob again.
        raise HarnessError(
            f"{source.origin}: found a damaged archive ({str(error)[:200] or 'it ends early'}); expected a sound one; "
            f"delete {source.path.resolve()} and fetch it again"
        ) from error
    except OSError as error:
        raise HarnessError(f"{source.origin}: cannot be read ({error.strerror or error}); check the file") from error


def _fingerprint(source: _Source) -> tuple[str, int]:
    """The content's name and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    for line in _lines(source):
        digest.update(line)
        size += len(line)
    return f"sha256:{digest.hexdigest()}", size


# --- One row ---------------------------------------------------------------------------------------------------------


def _fault(where: str, found: object, expected: str) -> HarnessError:
    # Clipped: what is found may be a whole context.
    return HarnessError(f"{where}: found {_shown.repr(found)[:80]}; expected {expected}")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _fault(where, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _fault(f"{where} (character {error.start})", value[error.start], "no half of a surrogate pair") from error
    return value


def _texts(where: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise _fault(where, value, "a list of texts")
    return [_text(f"{where}[{i}]", item) for i, item in enumerate(value)]


def _facts(where: str, value: object) -> list[str] | None:
    """Confusing facts as a list; a blank one says nothing and "is found" in every answer, so none is left."""
    texts = [_text(where, value)] if isinstance(value, str) else _texts(where, value)
    return [text for text in texts if text.strip()] or None


def _either(where: str, found: dict[str, object], name: str, alias: str) -> object:
    """The value of a field that has two spellings in the wild; None where it is absent or null."""
    values = [value for value in (found.get(name), found.get(alias)) if value is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise _fault(f"{where}: {name}", values, f'the same value in "{name}" and "{alias}"')
    return values[0] if values else None


def _offsets(where: str, value: object, size: int) -> dict[str, list[list[int]]]:
    """The spans that constructed data records: each [start, end] with 0 <= start <= end <= size of the context."""
    if not isinstance(value, dict):
        raise _fault(where, value, "an object of lists of spans")
    kinds = {kind: value.get(kind, []) for kind in ("evidence", "confusing_facts")}
    for kind, spans in kinds.items():
        if not isinstance(spans, list):
            raise _fault(f"{where}.{kind}", spans, "a list of spans")
        for i, span in enumerate(spans):
            whole = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
            if not whole or not 0 <= span[0] <= span[1] <= size:
                raise _fault(f"{where}.{kind}[{i}]", span, f"[start, end] with 0 <= start <= end <= {size}")
    return kinds


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a field given twice is refused, for which of the two would count?"""
    if len(fields := dict(pairs)) < len(pairs):
        ((name, times),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{times} times {_shown.repr(name)}")
    return fields


def _parse(line: bytes, where: str, subset: str) -> Row:
    """The row of one line, checked and in the one spelling of Row. `where` is "file:line"."""
    try:
        found = json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise _fault(f"{where}: byte {error.start + 1}", line[error.start : error.start + 1], "UTF-8") from error
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else " (the file's last line: was the file cut?)"
        raise _fault(f"{where}: column {error.colno}", error.msg, f"a JSON object{cut}") from error
    except (ValueError, RecursionError) as error:
        raise _fault(where, f"{type(error).__name__}: {error}", "a flat JSON object, each field once") from error
    if not isinstance(found, dict):
        raise _fault(where, found, "a JSON object")
    for name in ("input", "context", "answers", "length", "dataset", "language"):
        if name not in found:
            raise HarnessError(f'{where}: no "{name}" (found: {", ".join(map(_shown.repr, found))[:200]})')
    length = found["length"]
    if type(length) is not int or not 0 <= length < 2**63:  # true is an int to Python, not to the data
        raise _fault(f"{where}: length", length, "a whole number of words or characters")
    dataset = _text(f"{where}: dataset", found["dataset"])
    if config.DATASET_ALIAS.get(dataset, dataset) != subset:
        raise _fault(f"{where}: dataset", dataset, subset)
    language = _text(f"{where}: language", found["language"])
    if language != config.DATASET_LANGUAGE.get(subset, language):  # a subset of the user's own may be in any language
        raise _fault(f"{where}: language", language, config.DATASET_LANGUAGE[subset])
    answers = _texts(f"{where}: answers", found["answers"])
    if not answers:
        raise _fault(f"{where}: answers", answers, "at least one")
    context = _text(f"{where}: context", found["context"])
    keywords = _either(where, found, "answer_keywords", "gold_ans")
    facts = _either(where, found, "confusing_facts", "distractor")
    classes, question, offsets = (found.get(name) for name in ("all_classes", "question_id", "offsets"))
    return {
        "input": _text(f"{where}: input", found["input"]),
        "context": context,
        "answers": answers,
        "length": length,
        "dataset": subset,
        "language": language,
        "answer_keywords": None if keywords is None else _text(f"{where}: answer_keywords", keywords),
        "confusing_facts": None if facts is None else _facts(f"{where}: confusing_facts", facts),
        "all_classes": None if classes is None else _texts(f"{where}: all_classes", classes),
        "question_id": None if question is None else _text(f"{where}: question_id", question),
        "offsets": None if offsets is None else _offsets(f"{where}: offsets", offsets, len(context)),
    }


def _rows(source: _Source, subset: str) -> Iterator[tuple[bytes, Row | None]]:
    """Each line with its row; blank lines, of which only the last ones may be, have none."""
    blank = rows = 0
    for number, line in enumerate(_lines(source), start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            blank = blank or number
            yield line, None
            continue
        if blank:
            raise HarnessError(f"{source.origin}:{blank}: found a blank line; expected a row on every line")
        rows += 1
        yield line, _parse(text, f"{source.origin}:{number}", subset)
    if not rows:
        raise HarnessError(f"{source.origin}: found an empty file; expected a row on every line")


# --- The Arrow copy --------------------------------------------------------------------------------------------------

_lock = threading.RLock()
_datasets: "dict[Path, Dataset]" = {}  # what this process has mapped and checked


def _copy_path(subset: str, fingerprint: str) -> Path:
    """Where the copy of a content lies. The subset is in the name because the rows were checked against it."""
    return cache_dir() / "data" / CACHE_VERSION / f"{subset}-{fingerprint.removeprefix('sha256:')}.arrow"


def _features() -> "Features":
    """The types of the columns, the same for every file."""
    from datasets import Features, List, Value

    text, texts, spans = Value("string"), List(Value("string")), List(List(Value("int64")))
    kinds = {"answers": texts, "confusing_facts": texts, "all_classes": texts, "length": Value("int64")}
    kinds["offsets"] = {"evidence": spans, "confusing_facts": spans}
    return Features({name: kinds.get(name, text) for name in Row.__annotations__})


def _seal(path: Path, size: int) -> bytes:
    """What must follow the first `size` bytes of a copy. Arrow's stream has an end mark, so its reader stops there."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for start in range(0, size, 2**20):
            digest.update(stream.read(min(2**20, size - start)))
    return digest.digest()


def _open(path: Path) -> "Dataset | None":
    """The mapped copy, hashed whole when this process first opens it; None where it is missing, torn or altered."""
    with _lock:
        if path not in _datasets:
            try:
                size = path.stat().st_size - SEAL_BYTES
                with path.open("rb") as stream:
                    stream.seek(max(size, 0))
                    if size <= 0 or stream.read() != _seal(path, size):
                        return None
            except OSError:  # whatever is wrong with it, a new copy is made
                return None
            from datasets import Dataset

            _datasets[path] = Dataset.from_file(str(path))
        return _datasets[path]


def _build(source: _Source, subset: str, fingerprint: str, size: int, path: Path) -> None:
    """Check every row of `source` and write the copy beside `path`, then rename: whoever comes second loses nothing."""
    import pyarrow as pa
    from tqdm import tqdm

    schema = _features().arrow_schema
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in path.parent.glob("*.tmp"):  # left by a process that was killed
            with suppress(FileNotFoundError):
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink()
        handle, name = tempfile.mkstemp(suffix=".tmp", prefix=f"{subset}-", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        try:
            bar = tqdm(total=size, unit="B", unit_scale=True, desc=source.path.name, leave=False, disable=None)
            with bar, pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for line, row in _rows(source, subset):
                    digest.update(line)
                    bar.update(len(line))
                    if row is not None:  # a batch is one row: memory stays that of a row
                        writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
            if f"sha256:{digest.hexdigest()}" != fingerprint:
                raise HarnessError(f"{source.origin}: the file changed while it was read; start again when it is whole")
            seal = _seal(beside, beside.stat().st_size)
            with beside.open("ab") as stream:
                stream.write(seal)
            # No fsync: a copy that a crash tears fails its hash and is made again.
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise HarnessError(
            f"{path}: the data's copy cannot be written ({error.strerror or error}); make room, or set LVEVAL_CACHE to "
            f"another folder",
            ExitCode.STORAGE,
        ) from error
