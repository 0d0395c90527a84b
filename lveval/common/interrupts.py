"""Ctrl-C, SIGTERM and SIGHUP end a command alike: a time limit, docker stop, a lost terminal.

    interrupts.end_at_once()                  # among the imports: a line, and the end
    interrupts.listen()                       # each raises KeyboardInterrupt from now on
    with interrupts.deferred(): ...           # none does in the block, but at its end
    with interrupts.graceful(cost.stop): ...  # a SIGTERM says so first, and raises seconds later
    interrupts.ignore()                       # all is done

A signal that is ignored stays so: nohup does that with SIGHUP.
"""

import os
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


def end_at_once() -> None:
    """Let each signal end the process with a line, as long as nothing has begun.

    Where it would raise among imports, those may lose it or make another exception of it.
    """
    _replace({signal.SIG_DFL, signal.default_int_handler}, _end)


def listen() -> None:
    """Let each signal raise, where it would end the process without a word."""
    _replace({signal.SIG_DFL, _end}, _raise)


def ignore() -> None:
    """Let no signal change how a command ends that has done all it had to."""
    _replace({_raise, signal.default_int_handler}, signal.SIG_IGN)


def _replace(old: set[object], new: Callable[[int, FrameType | None], None] | int) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) in old:
            signal.signal(number, new)


def _end(number: int, _frame: FrameType | None) -> None:
    error = interruption(number)
    os.write(2, f"interrupted{by(error)}\n".encode())
    os._exit(exit_code(error))


def _raise(number: int, _frame: FrameType | None) -> None:
    raise interruption(number)


def interruption(number: int) -> KeyboardInterrupt:
    """Make the exception that a signal raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else Interrupted(number)


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Handle a signal that comes in the block at its end, and the second one of a kind at once.

    For libraries that an exception in their midst leaves in a state that they cannot leave. Yields
    the list of those that came.
    """
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *ENDING, signal.SIGALRM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in came:
            handlers[number](number, frame)
        came.append(number)

    for each in handlers:
        signal.signal(each, note)
    try:
        yield came
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for each in came:
            signal.raise_signal(each)


@contextmanager
def graceful(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the signal's name at the first one; raise Interrupted GRACE seconds later.

    Where the work ends before, that is raised at its end. A second signal raises at once, and so
    does Ctrl-C.
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
