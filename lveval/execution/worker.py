"""Who answers: a local Dask cluster with a worker per GPU, workers on other machines (machines.py), or this process.

    with workers.pool(single_process=False, count=2) as executor:
        for result in workers.answers(executor, job, tasks): ...

A task is a batch of rows of one file and names them as (subset, level, indices); the worker reads them from the
memory-mapped data, prepares the prompts and asks its backend. Two threads a worker and a lock round the backend make
the next row ready meanwhile; an engine that computes N rows together gets them from N of N + 1 threads, without the
lock.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NoReturn

from lveval.backends import backend_module
from lveval.backends.base import Backend, BackendBroken, EngineOptions
from lveval.execution import remote_cluster
from lveval.execution.tasks import Attempt, Job, Task, TaskResult, make_record, prepare_row
from lveval.runs.record import FINAL_STATUSES, Prediction

# --- In the worker ----------------------------------------------------------------------------------------------------

_loading = threading.Lock()

_generating = threading.Lock()

_watching = threading.Lock()

_loaded: tuple[tuple[str, EngineOptions], Backend] | None = None

_active_tasks = 0  # tasks that this process is at


def load_backend(job: Job) -> Backend:
    """This process's engine, loaded by the first task that needs it."""
    global _loaded
    with _loading:
        if _loaded is None or _loaded[0] != (job.backend, job.options):
            _loaded = None  # the old engine's memory must be free before the next one loads
            _loaded = ((job.backend, job.options), backend_module(job.backend).load(job.options))
        return _loaded[1]


def answer_rows(job: Job, task: Task) -> TaskResult:
    """Answer the rows of `task` in this process. Raises BackendBroken or HarnessError where no row can be answered."""
    backend = load_backend(job)
    made = [
        prepare_row(job, backend.tokenizer, backend.native_chat, task.subset, task.level, index)
        for index in task.indices
    ]
    rows, prepared = zip(*made, strict=True)
    records: list[Prediction] = []
    attempts: list[Attempt] = []
    generated = 0
    with _generating if job.max_concurrent_rows == 1 else nullcontext():
        for position, answer in backend.generate([item.prompt for item in prepared]):
            index = task.indices[position]
            if answer.status in FINAL_STATUSES:
                records.append(
                    make_record(
                        rows[position], task, index, prepared[position], answer, job.model_name
                    )
                )
            else:
                attempts.append(Attempt(index, answer.status, answer.error))
            generated += answer.output_tokens or 0
    return TaskResult(task, tuple(records), tuple(attempts), backend.resolved_settings(), generated)


def answer_in_worker(job: Job, task: Task) -> TaskResult:
    """`answer_rows` in a Dask worker: a broken engine ends the process, its nanny starts another and Dask the task."""
    if _loaded is not None and _loaded[0] != (job.backend, job.options):
        _replace_worker("it holds another run's model")  # no engine gives back all of its memory
    try:
        with (
            _hang_watchdog(job.row_hours * len(task.indices)),
            remote_cluster.worker_named_in_errors() if job.expected else nullcontext(),
        ):
            if job.expected:
                remote_cluster.verify_environment(job.backend, job.options, job.expected)
            return answer_rows(job, task)
    except BackendBroken as error:
        _replace_worker(str(error))


def _replace_worker(why: str) -> NoReturn:
    print(f"worker {os.getpid()}: {why}; replacing this worker", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _hang_watchdog(hours: float) -> Iterator[None]:
    """A block at whose entry or end this process's time begins anew: `hours` later its threads are shown and it ends.

    The watch needs neither the GIL nor an engine that still answers.
    """
    global _active_tasks
    with _watching:
        _active_tasks += 1
        faulthandler.dump_traceback_later(hours * 3600, exit=True)
    try:
        yield
    finally:
        with _watching:
            _active_tasks -= 1
            faulthandler.cancel_dump_traceback_later()
            if _active_tasks:
                faulthandler.dump_traceback_later(hours * 3600, exit=True)


def dask_setup(worker: object) -> None:
    """Called by Dask in each new worker: Ctrl-C is the coordinator's business, which then stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
