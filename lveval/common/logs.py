"""Messages for people, on standard error: one logger, plain lines that leave progress bars whole.

    from lveval.common.logs import log
    log.warning("%s: found 2 rows, expected 124", path)

A program that uses the package as a library sets up `logging.getLogger("lveval")` as it likes; the
commands call `configure`. Results go to standard output and never through here.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lveval.common.redaction import LOUD, Redacting
from lveval.common.text import printable, unbroken

log = logging.getLogger("lveval")
for _name in ("lveval", *LOUD):
    logging.getLogger(_name).addFilter(Redacting())
HUB = logging.getLogger("huggingface_hub.utils._http")  # where its client tells of its retries


class _StderrHandler(logging.Handler):
    """Writes a line above any progress bar, to what standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message without controls that could steer a terminal."""
        from tqdm import tqdm

        if isinstance(record.args, tuple):
            record.args = tuple(unbroken(str(a)) if isinstance(a, Path) else a for a in record.args)
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
        HUB.removeFilter(_hub_retries)
        log.handlers.clear()
        log.setLevel(level)
        log.propagate = propagate


class _HubRetries(logging.Filter):
    """Makes one line of what the Hub's client says of its retries, two lines each."""

    _why = _said = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say the first retry for a reason, the others with --verbose; keep any other message."""
        text = record.getMessage()
        if " thrown while requesting " in text:
            status = re.match(r"HTTP Error (\d+) ", text)
            self._why = f"the Hub answers HTTP {status[1]}" if status else "no network to the Hub"
            return False
        tries = re.search(r"\[Retry (\d+/\d+)\]", text)
        if tries:
            level = logging.DEBUG if self._said == self._why else logging.INFO
            log.log(level, "%s; retrying (%s)", self._why, tries[1])
            self._said = self._why
        return not tries


_hub_retries = _HubRetries()


def configure(*, verbose: bool = False, quiet: bool = False) -> None:
    """Show what a command says: everything with `verbose`, only warnings with `quiet`."""
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in log.handlers):
        log.addHandler(_StderrHandler())
        log.propagate = False
    HUB.addFilter(_hub_retries)
