"""Dask's workers as an executor of the standard library.

executor = DaskExecutor(client)
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaskExecutor(Executor):
    """What is submitted is computed by the workers of a Dask client, each call anew.

    Dask's own executor never ends a future whose result was lost with its worker, where the task
    then kills the next worker, too.
    """

    # distributed has no types
    def __init__(self, client: Any) -> None:  # noqa: ANN401
        self._client = client

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":  # noqa: ANN401
        """Have a worker call `fn`; without a worker it waits for one."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        asked = self._client.submit(fn, *args, **kwargs, pure=False)
        self._client.loop.add_callback(_pass_on, asked, future)
        return future


async def _pass_on(asked: Any, future: "Future[Any]") -> None:  # noqa: ANN401
    try:
        future.set_result(await asked)
    except (asyncio.CancelledError, CancelledError):  # the scheduler is lost, or the client closes
        future.set_exception(CancelledError())
    except BaseException as error:  # noqa: BLE001 - what a worker raised is for who asked
        future.set_exception(error)
