"""TODO lveval.execution.dispatch."""

import itertools
import os
from collections import deque
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
from typing import Any, TypeVar, cast

from lveval import utils
from lveval.backends.base import BackendBroken, Prompt, RemoteBackend
from lveval.common.errors import IncompleteRun
from lveval.data.rows import Row
from lveval.execution import remote_cluster
from lveval.execution.pool import PREPARING
from lveval.execution.tasks import Attempt, Job, Task, TaskResult, make_record, prepare_row
from lveval.execution.worker import answer_in_worker, answer_rows, load_backend
from lveval.runs.record import FINAL_STATUSES

# Handed out beyond what a worker's threads are at. When a worker dies, all that it was handed are suspects.
TASKS_BEHIND = 2

# So many rows in a row that killed their worker, each alone in the pool: it is not the rows, no worker can live here.
MAX_CONSECUTIVE_WORKER_DEATHS = 3


In = TypeVar("In")

Out = TypeVar("Out")


def run_tasks(
    executor: Executor, job: Job, tasks: Iterable[Task], count: int = 1
) -> Iterator[TaskResult]:
    """The results of all tasks as they come, from `count` workers. A row whose worker keeps dying is a failed attempt.

    Workers of a scheduler come and go: there their number is asked for again and again. Raises what a worker raised:
    a HarnessError, or a bug of ours; HarnessError (INCOMPLETE) where the engine of this process broke, or no worker is
    left.
    """
    function = answer_rows if isinstance(executor, ThreadPoolExecutor) else answer_in_worker
    size = executor.size if isinstance(executor, remote_cluster.Cluster) else lambda: count
    isolated: list[Task] = []
    broken = ""
    waiting = iter(tasks)
    pending: dict[Future[TaskResult], Task] = {}
    while True:
        handed_out = (job.max_concurrent_rows + PREPARING + TASKS_BEHIND) * max(
            1, size()
        )  # without a worker, for the first
        for task in itertools.islice(waiting, max(0, handed_out - len(pending))):
            pending[executor.submit(function, job, task)] = task
        if not pending:
            break
        # Answers first: what follows may end the run.
        done = wait(pending, timeout=remote_cluster.POLL_SECONDS, return_when=FIRST_COMPLETED).done
        for future in sorted(
            done, key=lambda future: future.cancelled() or future.exception() is not None
        ):
            task = pending.pop(future)
            if broken and future.cancelled():
                continue
            if worker_died(future):
                isolated.append(task)
            elif isinstance(
                error := future.exception(), BackendBroken
            ):  # of this very process: nothing replaces it
                broken = (
                    broken
                    or f"the engine broke at {task.subset}_{task.level} row {task.indices[0]} ({error})"
                )
                waiting = iter(())
                for other in pending:
                    other.cancel()
                yield TaskResult(
                    task,
                    (),
                    tuple(Attempt(index, "error", str(error)) for index in task.indices),
                    {},
                )
            else:
                yield future.result()
    if broken:
        raise IncompleteRun(
            f"{broken} and this process cannot go on; all answers so far are saved; run the same command again: that "
            "row is then tried last"
        )
    # Each of these was on a worker that died more than once. Alone in the pool, a row that kills its worker is known.
    deadly = 0
    for alone in (
        Task(task.subset, task.level, (index,)) for task in isolated for index in task.indices
    ):
        future = executor.submit(function, job, alone)
        while not wait([future], timeout=remote_cluster.POLL_SECONDS).done:
            size()
        if not worker_died(future):
            deadly = 0
            yield future.result()
            continue
        deadly += 1
        attempt = Attempt(
            alone.indices[0], "worker_died", "the worker process died each time it had this row"
        )
        yield TaskResult(alone, (), (attempt,), {})
        if deadly == MAX_CONSECUTIVE_WORKER_DEATHS:
            raise IncompleteRun(
                f"the workers died under {deadly} rows one after another, perhaps while loading the model (killed for "
                "memory? see the system's log); all answers so far are saved; mend it and run the same command again"
            )


def run_remote(
    job: Job, tasks: Iterable[Task], take: Callable[[Task, int], bool]
) -> Iterator[TaskResult]:
    """The results from an engine that runs elsewhere: rows are prepared here, a few ahead, and asked many at once.

    A task is one row. `take` is asked for each with its prompt's tokens; where it says no, that row and those after it
    stay open. The first result has no row: it tells what the engine decided. A try that is repeated is a result with an
    attempt. Raises HarnessError where the service ends the run.
    """
    backend = cast(RemoteBackend, load_backend(job))
    yield TaskResult(Task("", "", ()), (), (), backend.resolved_settings())
    asked: dict[int, tuple[Task, Row, utils.PreparedPrompt]] = {}

    def made(task: Task) -> tuple[Task, Row, utils.PreparedPrompt]:
        return task, *prepare_row(
            job, backend.tokenizer, backend.native_chat, task.subset, task.level, task.indices[0]
        )

    def prompts() -> Generator[Prompt, None, None]:
        for position, (task, row, prepared) in enumerate(_prefetch(made, tasks)):
            if not take(task, len(prepared.prompt.tokens)):
                return
            asked[position] = task, row | {"context": ""}, utils.drop_long_text(prepared)
            yield prepared.prompt

    given = prompts()
    try:
        for position, answer in backend.generate(given):
            task, row, prepared = asked[position]
            if answer.status != "transient":
                del asked[position]
            if answer.status in FINAL_STATUSES:
                record = make_record(row, task, task.indices[0], prepared, answer, job.model_name)
                yield TaskResult(task, (record,), (), {}, answer.output_tokens or 0)
            else:
                yield TaskResult(
                    task, (), (Attempt(task.indices[0], answer.status, answer.error),), {}
                )
    finally:
        backend.stop_waiting()
        with suppress(ValueError):  # after Ctrl-C a prompt may be in the making
            given.close()


def _prefetch(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """`function` of each item, in order; as many are being made ahead as there are cores."""
    ahead = os.cpu_count() or 1
    threads = ThreadPoolExecutor(ahead)
    try:
        making: deque[Future[Out]] = deque()
        for item in items:
            making.append(threads.submit(function, item))
            if len(making) > ahead:
                yield making.popleft().result()
        while making:
            yield making.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def worker_died(future: Future[Any]) -> bool:
    """Wait for `future`; whether Dask gave its task up because worker after worker died."""
    try:
        error = future.exception()
    except CancelledError as cancelled:
        error = cancelled
    # NoValidWorkerError: none came back within no-workers-timeout.
    if isinstance(error, CancelledError) or type(error).__name__ == "NoValidWorkerError":
        raise IncompleteRun(
            "the workers, or their scheduler, were lost before all rows were answered; all answers so far are saved; "
            "run the same command again"
        ) from error
    return type(error).__name__ == "KilledWorker"
