"""Processes that compute side by side, and that end with this one however it ends; and one that
computes without pauses.

with process_pool(4) as pool:
    futures = [pool.submit(function, item) for item in items]
"""

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

Out = TypeVar("Out")


def process_pool(count: int) -> ProcessPoolExecutor:
    """`count` new processes, which import this program's modules anew (a fork would copy threads'
    locks).
    """
    with shielded():
        return ProcessPoolExecutor(count, _Spawning(), _start)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that start in the block do not get what a terminal sends to all; see `shield`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    shield()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield() -> None:
    """Keep Ctrl-C and a lost terminal from processes that this thread starts from now on.

    They are for the main process, which ends the others. A process is born with its thread's mask;
    one that ignored them itself would show a traceback, or be gone, until it had begun to.
    """
    for _ in range(2):  # multiprocessing's tracker, as it starts, unblocks SIGINT in this thread
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        resource_tracker.ensure_running()


class _Process(SpawnProcess):
    def start(self) -> None:
        """Start it, shielded."""
        with shielded():
            super().start()


class _Spawning(SpawnContext):
    Process = _Process


def in_order(
    executor: Executor, function: Callable[..., Out], tasks: Iterable[tuple[Any, ...]], ahead: int
) -> Iterator[Out]:
    """Yield `function` of each task's arguments, in order; at most `ahead` more are under way."""
    futures: deque[Future[Out]] = deque()
    for task in tasks:
        futures.append(executor.submit(function, *task))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _start() -> None:
    """End when the main process ends, however it ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def collector_paused() -> Iterator[None]:
    """A block in which Python does not look for objects that hold each other.

    With all rows of a run in memory it would walk over them again and again and find none: a tenth
    of the time of evaluating a run.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
