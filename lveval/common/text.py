"""Text that may not steer a terminal: printable("a\\x1b[31mb")."""

import reprlib
import unicodedata

_short_repr = reprlib.Repr()

_short_repr.maxstring = _short_repr.maxother = 60


def printable(text: str) -> str:
    """`text` without characters that could steer a terminal: controls and bidi overrides become
    `\\uXXXX`.
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else f"\\u{ord(character):04x}"
        for character in text
    )


def unbroken(text: str) -> str:
    """`text`, with a path or a name in it, as `printable` has it and its line breaks likewise: what
    follows one would pass for a line of ours.
    """
    return printable(text).replace("\n", "\\u000a")


def storable(text: str) -> str:
    """`text` as UTF-8 can hold it: half of a surrogate pair, which answers and names may have, is
    escaped as JSON does.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(text: str) -> str:
    """`text` as `printable` has it, on one line."""
    return " ".join(printable(text).split())


def shown(value: object) -> str:
    """A value of a file, for a message: clipped, for it may be a whole context."""
    return _short_repr.repr(value)[:80]
