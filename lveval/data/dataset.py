"""The rows of a file: checked one by one, memory-mapped, read by index.

    file = load_file("lic_mixup", "16k", Path("my_data")); file.row(0)["input"]

A file is read in one own pass into an Arrow copy that is named by the content's hash, so that all
workers map the same pages. The JSON builder of `datasets` would infer types chunk by chunk and fail
without a line number.
"""

import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lveval import config
from lveval.common.errors import DataError, SettingsMismatch, StorageError
from lveval.common.files import cache_dir
from lveval.common.levels import LEVEL, PUBLISHED_LEVELS, file_name
from lveval.data.rows import Row, invalid, parse_row
from lveval.data.sources import DataSource, find_source, fingerprint_of, read_lines

if TYPE_CHECKING:
    from datasets import Dataset, Features


# Raised when what a cached copy holds changes. Each copy ends in the SHA-256 of all that stands
# before.
CACHE_VERSION = "v1"
SEAL_BYTES = 32
STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class DataFile:
    """The rows of one file, memory-mapped when the first one is read; small to pickle, safe with
    threads.
    """

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

    def context_bytes(self) -> list[int]:
        """The UTF-8 bytes of each row's context; looks at no text, so it takes milliseconds for a
        file of any size.
        """
        import pyarrow.compute as pc

        sizes: list[int] = pc.binary_length(self._mapped().data.column("context")).to_pylist()
        return sizes

    def questions(self) -> list[str]:
        """Each row's question; looks at no context."""
        found: list[str] = self._mapped().data.column("input").to_pylist()
        return found

    def languages(self) -> list[str]:
        """Those that its rows are in."""
        found: list[str] = self._mapped().unique("language")
        return found

    def question_keys(self) -> list[str]:
        """What each row asks, by its id or its text: the same at every level. Reads no context."""
        ids, texts = (
            self._mapped().data.column(name).to_pylist() for name in ("question_id", "input")
        )
        return [question or text for question, text in zip(ids, texts, strict=True)]

    @property
    def published_rows(self) -> int | None:
        """How many rows the published file of its name has; None where there is none.

        Rows with a question id are constructed, under the names of the published files.
        """
        if self.level not in PUBLISHED_LEVELS or self.subset not in config.DATASET_ROWS:
            return None
        has_ids = self._mapped().data.column("question_id").null_count < len(self)
        return None if has_ids else config.DATASET_ROWS[self.subset]

    def require_published_rows(self, what_to_do: str) -> None:
        """Raise DataError where it has fewer or more rows than the published file of its name."""
        if (expected := self.published_rows) not in (None, len(self)):
            raise DataError(
                f"{self.origin}: found {len(self)} rows; expected the {expected} of the published "
                f"file; {what_to_do}"
            )

    def _mapped(self) -> "Dataset":
        dataset = _open_cache(self.path)
        if dataset is None:
            raise DataError(
                f"{self.path}: found no intact cached copy of {self.origin}; start the run again"
            )
        return dataset


def load_file(
    subset: str, level: str, data_path: Path | None, fingerprint: str | None = None
) -> DataFile:
    """The rows of `<subset>_<level>.jsonl`, from the folder `data_path` or, where it is None, from
    the Hub.

    With `fingerprint` (a worker was told it) an intact cached copy is opened without a look at the
    source. Otherwise the source is read; it must have that fingerprint if one is given. Raises
    LVEvalError: no such file, no network, a row that is not as the data card of Infinigence/LVEval
    says (file, line, field), a damaged archive, other content.
    """
    for kind, value, pattern, expected in (
        ("subset", subset, r"\w[\w.-]*", 'letters, digits, "_", "-" and "."'),
        ("level", level, LEVEL, "a length such as 16k"),
        ("fingerprint", fingerprint, r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits"),
    ):
        if value is not None and not re.fullmatch(pattern, value):
            raise invalid(kind, value, expected)
    name = f"{subset}_{level}.jsonl"
    with (
        _lock
    ):  # the second thread of a worker waits for the first one's copy instead of making its own
        if fingerprint is not None and (cached := cached_file(subset, level, fingerprint)):
            return cached
        source = find_source(subset, name, data_path)
        found, size = fingerprint_of(source)
        if fingerprint not in (None, found):
            raise SettingsMismatch(
                f"{source.origin}: found the content {found}; expected {fingerprint}"
            )
        path = _cache_path(subset, found)
        if (dataset := _open_cache(path)) is None:
            _write_cache(source, subset, found, size, path)
            dataset = _open_cache(path)
    if dataset is None:
        raise StorageError(f"{path}: the copy just written cannot be read back")
    file = DataFile(subset, level, found, source.origin, path, len(dataset))
    if source.hub:
        file.require_published_rows(f"delete {source.path.resolve()} to fetch it again")
    return file


def cached_file(subset: str, level: str, fingerprint: str) -> DataFile | None:
    """The file from its intact cached copy, whatever became of its source; None without one."""
    path = _cache_path(subset, fingerprint)
    dataset = _open_cache(path)
    if dataset is None:
        return None
    return DataFile(subset, level, fingerprint, f"{subset}_{level}.jsonl", path, len(dataset))


def damaged_copy(subset: str, fingerprint: str) -> Path | None:
    """Find a cached copy of a file that is there and not intact."""
    path = _cache_path(subset, fingerprint)
    return path if path.exists() and _open_cache(path) is None else None


def allow_unverified(
    files: Iterable[DataFile], known: Mapping[str, str], *, allowed: bool
) -> list[str]:
    """Name the files that are `allowed` to have fewer or more rows than the published ones.

    `known`: name -> fingerprint of those that the run has already. Raises DataError for any other
    one that is not allowed.
    """
    names = {file_name(file.subset, file.level): file for file in files}
    if allowed:
        return [
            name for name, file in names.items() if file.published_rows not in (None, len(file))
        ]
    for name, file in names.items():
        if known.get(name) != file.fingerprint:
            file.require_published_rows(
                "fetch it again, or take it as it is by --allow-unverified-data"
            )
    return []


def rows_of_source(source: DataSource, subset: str) -> Iterator[tuple[bytes, Row | None]]:
    """Each line with its row; blank lines, of which only the last ones may be, have none."""
    blank = rows = 0
    for number, line in enumerate(read_lines(source), start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            blank = blank or number
            yield line, None
            continue
        if blank:
            raise DataError(
                f"{source.origin}:{blank}: found a blank line; expected a row on every line"
            )
        rows += 1
        yield line, parse_row(text, f"{source.origin}:{number}", subset)
    if not rows:
        raise DataError(f"{source.origin}: found an empty file; expected a row on every line")


# --- The Arrow copy -----------------------------------------------------------------------------

_lock = threading.RLock()
_datasets: "dict[Path, Dataset]" = {}  # what this process has mapped and checked


def _cache_path(subset: str, fingerprint: str) -> Path:
    """Where the copy of a content lies.

    The subset is in the name because the rows were checked against it.
    """
    return (
        cache_dir("data", CACHE_VERSION) / f"{subset}-{fingerprint.removeprefix('sha256:')}.arrow"
    )


def _features() -> "Features":
    """The types of the columns, the same for every file."""
    from datasets import Features, List, Value

    text, texts, spans = Value("string"), List(Value("string")), List(List(Value("int64")))
    kinds = {
        "answers": texts,
        "confusing_facts": texts,
        "all_classes": texts,
        "length": Value("int64"),
    }
    kinds["offsets"] = {"evidence": spans, "confusing_facts": spans}
    return Features({name: kinds.get(name, text) for name in Row.__annotations__})


def _checksum(path: Path, size: int) -> bytes:
    """What must follow the first `size` bytes of a copy.

    Arrow's stream has an end mark, so its reader stops there.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for start in range(0, size, 2**20):
            digest.update(stream.read(min(2**20, size - start)))
    return digest.digest()


def _open_cache(path: Path) -> "Dataset | None":
    """The mapped copy, hashed whole when this process first opens it; None where it is missing,
    torn or altered.
    """
    with _lock:
        if path not in _datasets:
            try:
                size = path.stat().st_size - SEAL_BYTES
                with path.open("rb") as stream:
                    stream.seek(max(size, 0))
                    if size <= 0 or stream.read() != _checksum(path, size):
                        return None
            except OSError:  # whatever is wrong with it, a new copy is made
                return None
            from datasets import Dataset

            _datasets[path] = Dataset.from_file(str(path))
        return _datasets[path]


def _write_cache(source: DataSource, subset: str, fingerprint: str, size: int, path: Path) -> None:
    """Check every row of `source` and write the copy beside `path`, then rename: whoever comes
    second loses nothing.
    """
    import pyarrow as pa
    from tqdm import tqdm

    schema = _features().arrow_schema
    digest = hashlib.sha256()
    try:
        for old in path.parent.glob("*.tmp"):  # left by a process that was killed
            with suppress(FileNotFoundError):
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink()
        handle, name = tempfile.mkstemp(suffix=".tmp", prefix=f"{subset}-", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        try:
            bar = tqdm(
                total=size,
                unit="B",
                unit_scale=True,
                desc=source.path.name,
                leave=False,
                disable=None,
            )
            with bar, pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for line, row in rows_of_source(source, subset):
                    digest.update(line)
                    bar.update(len(line))
                    if row is not None:  # a batch is one row: memory stays that of a row
                        writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
            if f"sha256:{digest.hexdigest()}" != fingerprint:
                raise DataError(
                    f"{source.origin}: the file changed while it was read; start again when it is "
                    "whole"
                )
            seal = _checksum(beside, beside.stat().st_size)
            with beside.open("ab") as stream:
                stream.write(seal)
            # No fsync: a copy that a crash tears fails its hash and is made again.
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path}: the data's copy cannot be written ({error.strerror or error}); make room, or "
            "set LVEVAL_CACHE to another folder"
        ) from error
