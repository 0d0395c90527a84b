"""Inside a worker: its engine, the answers to a task's rows, a watchdog for an engine that hangs.

    dask worker tls://head:8786 --nthreads 2 --preload lveval.execution.worker ...

The row is read from the memory-mapped data and made into its prompt here. Of a worker's two
threads one prepares the next row while the engine, under a lock, computes; an engine that computes
N rows together gets them from N of N + 1 threads, without the lock.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NoReturn

from lveval.backends import backend_module
from lveval.backends.base import Engine, EngineBroken, EngineOptions
from lveval.common.processes import shield
from lveval.execution import remote_cluster
from lveval.execution.tasks import Job, Task, TaskResult, prepare_row

_loading = threading.Lock()
_generating = threading.Lock()
_watching = threading.Lock()

_loaded: tuple[tuple[str, EngineOptions], Engine] | None = None
_active_tasks = 0


def load_engine(job: Job) -> Engine:
    """Return this process's engine; the first task that needs it loads it."""
    global _loaded
    with _loading:
        if _loaded is None or _loaded[0] != (job.backend, job.options):
            _loaded = None  # the old engine's memory must be free before the next one loads
            _loaded = ((job.backend, job.options), backend_module(job.backend).load(job.options))
        return _loaded[1]


def answer_rows(job: Job, task: Task) -> TaskResult:
    """Answer the rows of `task` in this process.

    Raises EngineBroken or LVEvalError where no row can be answered.
    """
    backend = load_engine(job)
    rows = [prepare_row(job, backend.tokenizer, backend.native_chat, key) for key in task.row_keys]
    result = TaskResult(task)
    with _generating if job.max_concurrent_rows == 1 else nullcontext():
        for position, answer in backend.generate([row.prepared.prompt for row in rows]):
            result.add(job, rows[position], answer)
    result.effective = backend.resolved_settings()
    return result


def answer_in_worker(job: Job, task: Task) -> TaskResult:
    """Answer the rows of `task` in a Dask worker.

    A broken engine ends the process: its nanny starts another one, and Dask hands it the task.
    """
    if _loaded is not None and _loaded[0] != (job.backend, job.options):
        _replace_worker("it holds another run's model")  # no engine gives back all of its memory
    verified: AbstractContextManager[None] = nullcontext()
    if job.expected:
        verified = remote_cluster.verified_worker(job.backend, job.options, job.expected)
    try:
        with _hang_watchdog(job.row_hours * max(1, len(task.indices))), verified:
            return answer_rows(job, task)
    except EngineBroken as error:
        _replace_worker(str(error))


def _replace_worker(why: str) -> NoReturn:
    print(f"worker {os.getpid()}: {why}; replacing this worker", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _hang_watchdog(hours: float) -> Iterator[None]:
    """Show this process's threads and end it, `hours` after a task last began or ended in it.

    faulthandler's timer is a thread in C: it needs neither the GIL nor an engine that still
    answers.
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


def dask_setup(node: object) -> None:
    """Leave Ctrl-C to the coordinator, which stops the workers.

    Dask calls this in each worker, and in the thread that starts those of a local cluster.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        shield()
