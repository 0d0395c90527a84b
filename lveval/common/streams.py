"""Standard streams that cannot end a command: closed, full, or in an encoding without our signs.

    streams.make_safe()

Messages and progress bars are for people; where they cannot be shown, the work goes on.
"""

import errno
import io
import os
import sys
from typing import TextIO


class _Lenient(io.TextIOWrapper):
    """Standard error on a disk that is full or a terminal that is gone: what is lost is lost."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            super().flush()
        except OSError:
            drop(2)


class _Named(io.TextIOWrapper):
    """Standard output, whose faults say that they are its."""

    def write(self, text: str) -> int:
        """Write, as any stream does."""
        try:
            return super().write(text)
        except OSError as error:
            raise _its(error) from None

    def flush(self) -> None:
        """Flush, as any stream does."""
        try:
            super().flush()
        except OSError as error:
            raise _its(error) from None


def _its(error: OSError) -> OSError:
    return OSError(error.errno or errno.EIO, error.strerror, "standard output")


def make_safe() -> None:
    """Open what is closed, and let no character and no fault of standard error raise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened, a row file, would be what libraries print into.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _renewed(_Named, 1, sys.stdout)
    sys.stderr = _renewed(_Lenient, 2, sys.stderr)


def _renewed(kind: type[io.TextIOWrapper], number: int, stream: TextIO | None) -> TextIO:
    """`stream` as one of `kind`; what is none of the interpreter's own stays."""
    if stream is not None and type(stream) is not io.TextIOWrapper:
        return stream
    if stream is not None:
        stream.flush()
    return kind(
        open(number, "wb", closefd=False),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=number == 2 or os.isatty(number),
    )


def drop(number: int) -> None:
    """Point a stream at nothing, so that the interpreter's own flush at its end stays quiet."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
