"""JSON Lines on disk: one object a line, in UTF-8; lines within bounds.

line = encode({"pred": "1874", "index": 3})
"""

import json
from collections.abc import Iterator, Mapping
from typing import IO

from lveval.common.errors import DataError

# A row of the longest level has about 2.4 MB, a file of the published data 200 rows. What is far
# beyond is no LV-Eval data, and would fill the memory.
MAX_LINE_BYTES = 64 * 2**20
MAX_ROWS = 100_000


def bounded_lines(stream: IO[bytes], origin: str, most: float = MAX_ROWS) -> Iterator[bytes]:
    """Yield lines with their ends, one at a time in memory; they end at \\n only.

    Raises DataError at a line of more than MAX_LINE_BYTES, and where there are more than `most`.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{origin}:{number}: found a line of more than {MAX_LINE_BYTES} bytes; expected "
                "one row"
            )
        if number > most:
            raise DataError(
                f"{origin}: found more than {most} lines; expected at most so many rows"
            )
        yield line


def encode(record: Mapping[str, object]) -> bytes:
    """Write a record as one line without its break, in UTF-8."""
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # UTF-8 cannot hold a lone surrogate, an ASCII escape can
        return json.dumps(record).encode()
