"""Tasks handed out and their results collected: to the workers of a pool, or to a remote backend.

with worker_pool(single_process=False, count=2) as executor:
    for result in run_tasks(executor, job, tasks, count=2): ...
"""

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from lveval.backends.base import EngineBroken, Prompt, RemoteEngine
from lveval.common.errors import IncompleteRun
from lveval.common.processes import in_order
from lveval.execution import remote_cluster
from lveval.execution.pool import PREPARING
from lveval.execution.remote_cluster import POLL_SECONDS, RESUME
from lveval.execution.tasks import Attempt, Job, PreparedRow, Task, TaskResult, prepare_row
from lveval.execution.worker import answer_in_worker, answer_rows, load_engine

# Handed out beyond what a worker's threads are at; few, because all that a dead worker held are
# suspects.
TASKS_BEHIND = 2

# After so many rows in succession that killed their worker, each alone in the pool, one that did
# not is tried again: the cause may be the machine.
MAX_CONSECUTIVE_WORKER_DEATHS = 3

In = TypeVar("In")
Out = TypeVar("Out")


def run_tasks(
    executor: Executor, job: Job, tasks: Iterable[Task], count: int = 1
) -> Iterator[TaskResult]:
    """Yield the results of all tasks as they come, from `count` workers or those of a scheduler.

    A row whose worker keeps dying is a failed attempt. Raises what a worker raised: an
    LVEvalError, or a bug of ours; IncompleteRun where the engine of this process broke, or no
    worker is left.
    """
    return _Dispatcher(executor, job, count).run(tasks)


class _Dispatcher:
    """Hands out the tasks of one job and collects their results."""

    def __init__(self, executor: Executor, job: Job, count: int) -> None:
        self._executor = executor
        self._job = job
        in_process = isinstance(executor, ThreadPoolExecutor)
        self._function = answer_rows if in_process else answer_in_worker
        # Workers of a scheduler come and go: their number is asked for again and again.
        self._size = (
            executor.size if isinstance(executor, remote_cluster.Cluster) else lambda: count
        )
        self._pending: dict[Future[TaskResult], Task] = {}
        self._isolated: list[Task] = []
        # A task that kills no worker: the last that was answered, before that one of no row, which
        # loads the model.
        self._harmless = Task("", "", ())
        self._broken = ""  # why the engine of this very process, which nothing replaces, is lost

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        waiting = iter(tasks)
        while self._hand_out(waiting):
            yield from self._collect()
        if self._broken:
            raise IncompleteRun(
                f"{self._broken} and this process cannot go on; {RESUME}: that row is then tried "
                "last"
            )
        yield from self._retry_alone()

    def _hand_out(self, waiting: Iterator[Task]) -> bool:
        """Fill up what the workers hold; whether they hold anything."""
        # Without a worker: for the first one that comes.
        capacity = (self._job.max_concurrent_rows + PREPARING + TASKS_BEHIND) * max(1, self._size())
        if not self._broken:
            for task in itertools.islice(waiting, max(0, capacity - len(self._pending))):
                self._pending[self._submit(task)] = task
        return bool(self._pending)

    def _submit(self, task: Task) -> Future[TaskResult]:
        return self._executor.submit(self._function, self._job, task)

    def _collect(self) -> Iterator[TaskResult]:
        """Yield what has finished within a moment, answers first: a failure may end the run."""
        done = wait(self._pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=_failed):
            task = self._pending.pop(future)
            if self._broken and future.cancelled():
                continue
            if worker_died(future):
                self._isolated.append(task)
            elif isinstance(error := future.exception(), EngineBroken):
                yield self._stop_on_broken_engine(task, error)
            else:
                yield self._answered(future)

    def _answered(self, future: Future[TaskResult]) -> TaskResult:
        result = future.result()
        if result.records:
            self._harmless = result.task
        return result

    def _stop_on_broken_engine(self, task: Task, error: EngineBroken) -> TaskResult:
        where = f"{task.subset}_{task.level} row {task.indices[0]}"
        self._broken = self._broken or f"the engine broke at {where} ({error})"
        for future in self._pending:
            future.cancel()
        return TaskResult(
            task, attempts=[Attempt(index, "error", str(error)) for index in task.indices]
        )

    def _retry_alone(self) -> Iterator[TaskResult]:
        """Try the rows of dead workers one at a time, which tells the ones that kill."""
        deaths = 0
        for subset, level, index in (key for task in self._isolated for key in task.row_keys):
            alone = Task(subset, level, (index,))
            future = self._wait_for(alone)
            if not worker_died(future):
                deaths = 0
                yield self._answered(future)
                continue
            deaths += 1
            message = "the worker process died each time it had this row"
            yield TaskResult(alone, attempts=[Attempt(index, "worker_died", message)])
            if deaths == MAX_CONSECUTIVE_WORKER_DEATHS:
                self._require_sound_machine(deaths)
                deaths = 0

    def _require_sound_machine(self, deaths: int) -> None:
        if worker_died(self._wait_for(self._harmless)):
            known = self._harmless.indices
            also = "under one that was answered before" if known else "while loading the model"
            raise IncompleteRun(
                f"the workers died under {deaths} rows one after another, and {also} (killed for "
                f"memory? see the system's log); mend it; {RESUME}"
            )

    def _wait_for(self, task: Task) -> Future[TaskResult]:
        future = self._submit(task)
        while not wait([future], timeout=POLL_SECONDS).done:
            self._size()  # raises where no worker comes back
        return future


def _failed(future: Future[TaskResult]) -> bool:
    return future.cancelled() or future.exception() is not None


def worker_died(future: Future[Any]) -> bool:
    """Wait for `future`; whether Dask gave its task up because worker after worker died.

    Raises IncompleteRun where the workers or their scheduler were lost.
    """
    try:
        error = future.exception()
    except CancelledError as cancelled:
        error = cancelled
    # NoValidWorkerError: none came back within no-workers-timeout.
    if isinstance(error, CancelledError) or type(error).__name__ == "NoValidWorkerError":
        raise IncompleteRun(
            f"the workers, or their scheduler, were lost before all rows were answered; {RESUME}"
        ) from error
    return type(error).__name__ == "KilledWorker"


def run_remote(
    job: Job, tasks: Iterable[Task], reserve: Callable[[Task, int], bool]
) -> Iterator[TaskResult]:
    """Yield the results of a remote backend; prompts are made here, a few ahead.

    A task is one row. `reserve` gets each with its prompt's tokens; where it is False, that row
    and those after it stay open. The first result has no row: it holds what the engine decided. A
    repeated try is a result with an attempt. Raises LVEvalError where the service ends the run.
    """
    backend = cast(RemoteEngine, load_engine(job))
    yield TaskResult(Task("", "", ()), effective=backend.resolved_settings())
    in_flight: dict[int, PreparedRow] = {}

    def prompts() -> Generator[Prompt, None, None]:
        prepare = partial(prepare_row, job, backend.tokenizer, backend.native_chat)
        for position, row in enumerate(_prefetch(prepare, (task.row_keys[0] for task in tasks))):
            if not reserve(row.task, len(row.prepared.prompt.tokens)):
                return
            in_flight[position] = row.without_long_text()
            yield row.prepared.prompt

    asked = prompts()
    try:
        for position, answer in backend.generate(asked):
            row = in_flight[position]
            if answer.status != "transient":
                del in_flight[position]
            result = TaskResult(row.task)
            result.add(job, row, answer)
            yield result
    finally:
        backend.stop_waiting()
        with suppress(ValueError):  # after Ctrl-C a prompt may be in the making
            asked.close()


def _prefetch(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Yield `function` of each item, in order; as many are made ahead as there are cores."""
    ahead = os.cpu_count() or 1
    threads = ThreadPoolExecutor(ahead)
    try:
        yield from in_order(threads, function, ((item,) for item in items), ahead)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
