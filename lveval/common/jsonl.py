"""JSON Lines on disk: one object a line, in UTF-8.

line = encode({"pred": "1874", "index": 3})
"""

import json
from collections.abc import Mapping


def encode(record: Mapping[str, object]) -> bytes:
    """Write a record as one line without its break, in UTF-8."""
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # UTF-8 cannot hold a lone surrogate, an ASCII escape can
        return json.dumps(record).encode()
