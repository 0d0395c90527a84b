"""Inputs that are almost sound: bytes and JSON values, changed at random.

mutated(random.Random(7), b'{"index": 3}\\n', [b'{"index": 4}\\n'])
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

# Pieces that readers stumble over.
PIECES = (
    *(b"\x00", b"\xff", b"\xed\xa0\xbd", b"\xc3", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\n\n", b"\r"),
    *(b"\xe2\x80\xa8", b"\xc2\x85", b"\x1b[2J", b"\x7f", b"\\u0000", b"\\ud800", b"\\", b'"', b"'"),
    *(b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"-1"),
    *(b"=", b"[[", b'"""', b"#", b"9" * 25, b"9" * 4400, b"[" * 5000, b'{"a":' * 5000, b" " * 3000),
    *(b"data:", b"data: [DONE]\n", b"event: x\n", b": x\n", b"<html>", b"../", b"/", b"%s", b"{}"),
)

# Values where something else is expected.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "0", "x", "\x00", "\x1b[31m", "\ud800"),
    *("\u2028", "\u202e", "../x", "/etc/passwd", "森" * 30, "x" * 5000, "{context}{input}", "16k"),
    *([], {}, [None], [[]], [{}], {"": None}, {"a": {"b": []}}, [1, 2], ["a", "b"], {"text": 1}),
)


def mutated(chance: random.Random, sound: bytes, others: Sequence[bytes]) -> bytes:
    """Change a sound input in one to three places; `others` lend their parts.

    Where it is JSON, or lines of it, half of the changes are of its values.
    """
    content = sound
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = (_values if chance.random() < 0.5 else _bytes)(chance, content, others)
    return content


def _bytes(chance: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(content) + 1)
    end = min(len(content), start + chance.choice((0, 1, 1, 2, 8, 64)))
    match chance.randrange(8):
        case 0:  # a bit
            changed = bytearray(content)
            if start < len(content):
                changed[start] ^= 1 << chance.randrange(8)
            return bytes(changed)
        case 1:  # cut
            return content[:start]
        case 2:  # a part that is lost
            return content[:start] + content[end:]
        case 3:  # a part that is there twice
            return content[:end] + content[start:]
        case 4:  # spliced with another input
            other = chance.choice(others)
            return content[:start] + other[chance.randrange(len(other) + 1) :]
        case 5:  # a line moved, or there twice
            lines = content.splitlines(keepends=True)
            line = chance.choice(lines or [b""])
            lines.insert(chance.randrange(len(lines) + 1), line)
            return b"".join(lines)
        case _:  # a piece
            return content[:start] + chance.choice(PIECES) + content[end:]


def _values(chance: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change a value in a JSON text, or in one of its lines."""
    for parts in ([content], content.split(b"\n")):
        at = chance.randrange(len(parts))
        try:
            value = json.loads(parts[at])
        except (ValueError, RecursionError):
            continue
        text = json.dumps(changed_value(chance, value), ensure_ascii=chance.random() < 0.5)
        parts[at] = text.encode("utf-8", "surrogatepass")
        return b"\n".join(parts)
    return _bytes(chance, content, others)


def changed_value(chance: random.Random, value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Change one place of a JSON value, the value itself among them."""
    places = list(_places(value))
    if not places:
        return chance.choice(ODD)
    holder, key = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1:  # what stands elsewhere
            other, there = chance.choice(places)
            # As text and back: a value that holds itself is no JSON.
            holder[key] = json.loads(json.dumps(other[there]))
        case 2:
            holder[key] = [holder[key]]
        case 3 if isinstance(holder, dict):
            holder[f"{key}{chance.choice(' _sX')}"] = holder.pop(key)
        case _:
            holder[key] = chance.choice(ODD)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    """Yield (holder, key) of everything in a JSON value; short of what is nested too deep."""
    pending = [value]
    while pending:
        holder = pending.pop()
        keys: Sequence[Any] = ()
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = range(len(holder))
        for key in keys:
            yield holder, key
            pending.append(holder[key])
