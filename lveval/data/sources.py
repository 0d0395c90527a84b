"""Where the JSON lines of a file come from: a file, packed or not, or an archive.

for line in read_lines(find_source("lic_mixup", "lic_mixup_16k.jsonl", data_path)): ...
"""

import gzip
import hashlib
import io
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from lveval import config
from lveval.common.errors import DataError
from lveval.common.jsonl import bounded_lines

HUB_REPO = "Infinigence/LVEval"
HUB_REVISION = "86a3b0e6f2266281d481bcb46a0bda5b511cffb0"

# A file of the longest level has about 0.5 GB. What is far beyond is no LV-Eval data.
MAX_MEMBER_BYTES = 4 * 2**30

# Text deflates 3 to 10 times; a bomb up to 1,032 times. Small members cannot do harm at any ratio.
MAX_RATIO, RATIO_FREE_BYTES = 200, 64 * 2**20

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


# --- The source ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSource:
    """A file of JSON lines: `path`, unpacked if it ends in .gz, or one of its `members`."""

    path: Path
    members: tuple[str, ...] = ()
    hub: bool = False

    @property
    def origin(self) -> str:
        """Where it is, for messages."""
        return "/".join((str(self.path), *self.members[-1:]))

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], int | None]]:
        """The stream, and for a member the size that its archive states."""
        if not self.members:
            with self.path.open("rb", buffering=2**20) as stream:
                if self.path.suffix == ".gz":
                    with gzip.GzipFile(fileobj=stream) as unpacked:
                        yield cast(IO[bytes], unpacked), None
                else:
                    yield stream, None
            return
        with zipfile.ZipFile(self.path) as archive:
            member = self._member(archive)
            with (
                archive.open(member) as packed,
                io.BufferedReader(cast(io.RawIOBase, packed), 2**20) as unpacked,
            ):
                yield unpacked, member.file_size

    @property
    def most_bytes(self) -> float:
        """How many bytes may come out of a gzip file; a member of a zip is checked before."""
        if self.members or self.path.suffix != ".gz":
            return math.inf
        return min(MAX_MEMBER_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * self.path.stat().st_size))

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        """The expected member.

        Only these names are ever looked at and nothing is extracted by a name of theirs.
        """
        held = archive.infolist()
        found = next(
            (hits for name in self.members if (hits := [m for m in held if m.filename == name])), []
        )
        if not found:
            names = ", ".join(m.filename for m in held[:5])[:200]
            raise DataError(
                f"{self.path}: found {names or 'nothing'}; expected {' or '.join(self.members)}"
            )
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
            raise DataError(
                f"{self.path}/{member.filename}: found {fault}; expected one plain or deflated file"
            )
        return member


def find_source(subset: str, name: str, data_path: Path | None) -> DataSource:
    """Where the file `name` of `subset` is."""
    members = (f"{subset}/{name}", name)
    if data_path is None:
        return DataSource(_download(subset), members, hub=True)
    local = (
        DataSource(data_path / name),
        DataSource(data_path / subset / name),
        DataSource(data_path / f"{name}.gz"),
        DataSource(data_path / subset / f"{name}.gz"),
        DataSource(data_path / f"{subset}.zip", members),
    )
    try:
        for source in local:
            if source.path.is_file():
                return source
    except OSError as error:
        raise DataError(
            f"{data_path}: cannot be searched ({error.strerror}); check --data-path"
        ) from error
    looked = ", ".join(str(source.path) for source in local)
    raise DataError(f"found no data for {name}; expected one of {looked}; check --data-path")


def _download(subset: str) -> Path:
    """The subset's archive in the Hub client's cache, fetched on first use."""
    if subset not in config.DATASET_ROWS:
        raise DataError(
            f'the data set on the Hub has no subset "{subset}"; give the folder of yours by '
            "--data-path"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(
            hf_hub_download(HUB_REPO, f"{subset}.zip", repo_type="dataset", revision=HUB_REVISION)
        )
    # HTTPError is the base class of whichever HTTP library the client uses; its native downloader
    # raises RuntimeError.
    except (OSError, errors.EntryNotFoundError, errors.HTTPError, RuntimeError) as error:
        reason = (
            " ".join(str(error).split())[:300] or type(error).__name__
        )  # the client writes paragraphs
        raise DataError(
            f"{subset}.zip of {HUB_REPO} at revision {HUB_REVISION[:12]} could not be fetched "
            f"({reason}); check the network, or get the archive elsewhere and name its folder by "
            "--data-path"
        ) from error


def read_lines(source: DataSource) -> Iterator[bytes]:
    """The file's lines with their ends, no more of it in memory than one line."""
    size = 0
    try:
        most = source.most_bytes
        with source.open() as (stream, stated):
            for number, line in enumerate(bounded_lines(stream, source.origin), 1):
                size += len(line)
                if size > most:
                    raise DataError(
                        f"{source.origin}:{number}: found more than {most} bytes when unpacked; "
                        f"expected at most {MAX_RATIO} times the file's size, {MAX_MEMBER_BYTES} "
                        "in all"
                    )
                yield line
            if stated not in (None, size):
                raise zipfile.BadZipFile(f"{size} bytes where the archive states {stated}")
    # ValueError: zipfile decodes the name of every member, and a damaged one may be no UTF-8.
    except (
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        ValueError,
    ) as error:
        # Resolved: the Hub client's path is a link, and the client would link a damaged blob again.
        raise DataError(
            f"{source.origin}: found a damaged archive ({str(error)[:200] or 'it ends early'}); "
            f"expected a sound one; delete {source.path.resolve()} and fetch it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"{source.origin}: cannot be read ({error.strerror or error}); check the file"
        ) from error


def fingerprint_of(source: DataSource) -> tuple[str, int]:
    """The content's name and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    for line in read_lines(source):
        digest.update(line)
        size += len(line)
    return f"sha256:{digest.hexdigest()}", size
