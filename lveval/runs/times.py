"""Times and memory of a run's rows: `<run>/times.jsonl`, beside the rows and no part of them.

    times.read_times(Path("outputs/chatglm3"))["lic_mixup", "16k", 0]["decode_seconds"]

One JSON line for each answer. Nothing that is scored, resumed or compared depends on the file, so
whatever is wrong with it costs a warning, or the line, and never the run.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from lveval.common.files import open_plain
from lveval.common.jsonl import encode
from lveval.common.logs import log
from lveval.runs.record import JsonObject

FILE = "times.jsonl"


class TimesFile:
    """The writer, for the process that holds the run's lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._file: BinaryIO | None = None  # opened for the first line
        self._ended = False

    def append(self, line: Mapping[str, object]) -> None:
        """Append a line by one write, which a kill of the process leaves whole or undone.

        After a fault of the disk, which is warned of, no more is written: a run of days is not to
        end for its times, and a disk that is full ends it at the row itself. No fsync either.
        """
        if self._ended:
            return
        try:
            self._file = self._file or self._opened()
            content = encode(line) + b"\n"
            if (written := self._file.write(content)) != len(content):
                raise OSError(None, f"only {written} of {len(content)} bytes were written")
        except OSError as error:
            self._ended = True
            why = error.strerror or error
            log.warning("warning: %s: writing failed (%s); no more times are kept", self._path, why)

    def close(self) -> None:
        """End: nothing is written any more."""
        self._ended = True
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _opened(self) -> BinaryIO:
        """Open the file at its end; a line that was torn there gets its break."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        file = os.fdopen(open_plain(self._path, flags), "ab+", buffering=0)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        return file


def read_times(folder: Path) -> dict[tuple[str, str, int], JsonObject]:
    """Read the times of each row (subset, level, index); of several lines the last counts.

    Lines that are none, such as torn ones, are passed over; a file that cannot be read is warned
    of. Empty where there is none. Numbers are unchecked.
    """
    path = folder / FILE
    found: dict[tuple[str, str, int], JsonObject] = {}
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        log.warning("warning: %s: reading failed (%s); no times are shown", path, error.strerror)
        return {}
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            entry = json.loads(line)
            found[entry["dataset"], entry["level"], entry["index"]] = entry
    return found
