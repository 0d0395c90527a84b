"""Messages for people, on standard error: one logger, plain lines that leave progress bars whole.

    from lveval.common.logs import log
    log.warning("%s: found 2 rows, expected 124", path)

A program that uses the package as a library sets up `logging.getLogger("lveval")` as it likes; the
commands call `configure`. Results go to standard output and never through here.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lveval.common.text import printable

log = logging.getLogger("lveval")


class _StderrHandler(logging.Handler):
    """Writes a line above any progress bar, to what standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message without controls that could steer a terminal."""
        from tqdm import tqdm

        tqdm.write(printable(record.getMessage()), file=sys.stderr)
        sys.stderr.flush()


@contextmanager
def shown(*, verbose: bool = False, quiet: bool = False) -> Iterator[None]:
    """Show what a command says, in the block, to a program that has set up no logging."""
    if log.hasHandlers():
        yield
        return
    level, propagate = log.level, log.propagate
    configure(verbose=verbose, quiet=quiet)
    try:
        yield
    finally:
        log.handlers.clear()
        log.setLevel(level)
        log.propagate = propagate


def configure(*, verbose: bool = False, quiet: bool = False) -> None:
    """Show what a command says: everything with `verbose`, only warnings with `quiet`."""
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in log.handlers):
        log.addHandler(_StderrHandler())
        log.propagate = False
