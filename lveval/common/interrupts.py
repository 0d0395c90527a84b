"""SIGTERM and SIGHUP end a command as Ctrl-C does: a time limit, docker stop, a lost terminal.

    interrupts.listen()                       # both raise Interrupted from now on
    with interrupts.graceful(cost.stop):      # the first one says so, and raises seconds later

A signal that is ignored stays so: nohup does that with SIGHUP.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)

# Seconds for what is in flight; who sends a signal sends SIGKILL some 10 (docker) to 30 later.
GRACE = 5.0


class Interrupted(KeyboardInterrupt):
    """The end of a command by a signal other than Ctrl-C's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """What a command ends with, by Ctrl-C or by another signal: 128 and its number."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def by(error: KeyboardInterrupt) -> str:
    """Name the signal of an interruption, as " by SIGTERM"; nothing for Ctrl-C."""
    return f" by {error}" if isinstance(error, Interrupted) else ""


def listen() -> None:
    """Let each signal raise Interrupted, where it would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def graceful(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the signal's name at the first one; raise Interrupted GRACE seconds later.

    Where the work ends before, that is raised at its end. A second signal raises at once.
    """
    heard = [number for number in ENDING if signal.getsignal(number) is _raise]
    found: list[int] = []

    def first(number: int, _frame: FrameType | None) -> None:
        if found:
            raise Interrupted(number)
        found.append(number)
        stop(signal.Signals(number).name)
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    def late(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted(found[0])

    if not heard:  # not the main thread of a command
        yield
        return
    alarm = signal.signal(signal.SIGALRM, late)
    for number in heard:
        signal.signal(number, first)
    try:
        yield
    finally:
        if found:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        for number in heard:
            signal.signal(number, _raise)
    if found:
        raise Interrupted(found[0])
