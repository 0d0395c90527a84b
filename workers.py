"""Who answers: a local Dask cluster with a worker per GPU, workers on other machines (machines.py), or this process.

    with workers.pool(single_process=False, count=2) as executor:
        for result in workers.answers(executor, job, tasks): ...

A task is a batch of rows of one file and names them as (subset, level, indices); the worker reads them from the
memory-mapped data, prepares the prompts and asks its backend. Two threads a worker and a lock round the backend make
the next row ready meanwhile; an engine that computes N rows together gets them from N of N + 1 threads, without the
lock.
"""

import faulthandler
import importlib.util
import itertools
import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import backends
import data
import machines
import utils
from backends import Answer, Backend, BackendBroken, HostedBackend, Json, Options, Prompt, Tokenizer, retries
from errors import ExitCode, HarnessError
from files import cache_dir
from store import FINAL_STATUSES, Record

# Beside the rows that the engine computes a thread prepares the next one.
PREPARING = 1
# Handed out beyond what a worker's threads are at. When a worker dies, all that it was handed are suspects.
TASKS_BEHIND = 2
# A worker that dies under a row is replaced and the row tried again; after more deaths than this the row waits for the
# end of the run, where it is tried by itself: it may have been a neighbour that killed the worker.
DEATHS_BEFORE_ISOLATION = 1
# So many rows in a row that killed their worker, each alone in the pool: it is not the rows, no worker can live here.
DEADLY_ROWS_IN_A_ROW = 3

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Job:
    """All that a worker must know to answer a row; the same for every task of a run."""

    backend: str
    options: Options
    model_name: str
    chat_template: str
    templates: Mapping[str, str]
    budgets: Mapping[str, int]
    fingerprints: Mapping[str, str]  # "<subset>_<level>" -> of the data file
    data_path: Path | None
    expected: machines.Facts = field(default_factory=dict)  # what a worker on another machine has to agree with
    at_once: int = 1  # rows that the engine computes together
    row_hours: float = 6.0  # an engine that finishes no row for so long hangs


@dataclass(frozen=True)
class Task:
    """Rows of one file, by their position in it."""

    subset: str
    level: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Attempt:
    """A row that got no answer: why."""

    index: int
    cause: str
    message: str


@dataclass(frozen=True)
class Result:
    """What a task came to: final records, failed attempts, and what the backend decided while loading."""

    task: Task
    records: tuple[Record, ...]
    attempts: tuple[Attempt, ...]
    effective: Mapping[str, Json]
    generated_tokens: int = 0


# --- In the worker ----------------------------------------------------------------------------------------------------

_loading = threading.Lock()
_generating = threading.Lock()
_watching = threading.Lock()
_loaded: tuple[tuple[str, Options], Backend] | None = None
_busy = 0  # tasks that this process is at


def _backend(job: Job) -> Backend:
    """This process's engine, loaded by the first task that needs it."""
    global _loaded
    with _loading:
        if _loaded is None or _loaded[0] != (job.backend, job.options):
            _loaded = None  # the old engine's memory must be free before the next one loads
            _loaded = ((job.backend, job.options), backends.module(job.backend).load(job.options))
        return _loaded[1]


def answer_rows(job: Job, task: Task) -> Result:
    """Answer the rows of `task` in this process. Raises BackendBroken or HarnessError where no row can be answered."""
    backend = _backend(job)
    made = [prepare(job, backend.tokenizer, backend.own_chat, task.subset, task.level, index) for index in task.indices]
    rows, prepared = zip(*made, strict=True)
    records: list[Record] = []
    attempts: list[Attempt] = []
    generated = 0
    with _generating if job.at_once == 1 else nullcontext():
        for position, answer in backend.generate([item.prompt for item in prepared]):
            index = task.indices[position]
            if answer.status in FINAL_STATUSES:
                records.append(make_record(rows[position], task, index, prepared[position], answer, job.model_name))
            else:
                attempts.append(Attempt(index, answer.status, answer.error))
            generated += answer.output_tokens or 0
    return Result(task, tuple(records), tuple(attempts), backend.effective(), generated)


def prepare(
    job: Job, tokenizer: Tokenizer, own_chat: bool, subset: str, level: str, index: int
) -> tuple[data.Row, utils.Prepared]:
    """A row, and its prompt as a backend with this tokenizer and `own_chat` gets it. Raises HarnessError."""
    row = data.load(subset, level, job.data_path, job.fingerprints[f"{subset}_{level}"]).row(index)
    prepared = utils.prepare(
        row,
        job.templates[subset],
        job.budgets[subset],
        tokenizer,
        job.options.model_max_len,
        job.model_name,
        job.chat_template,
        own_chat,
    )
    key = f"{subset}/{level}/{index}"
    return row, replace(prepared, prompt=replace(prepared.prompt, key=key))


def make_record(
    row: data.Row, task: Task, index: int, prepared: utils.Prepared, answer: Answer, model_name: str
) -> Record:
    """The row as it goes to disk: the published six keys first, then what the harness adds."""
    opened = utils.opens_reasoning(prepared.prompt.formatted)
    pred, unfinished = utils.post_process(answer.text, model_name, reasoning_opened=opened)
    status = "length" if unfinished else answer.status
    if status == "ok" and not pred.strip():
        status = "empty"
    record = Record(
        pred=pred,
        answers=row["answers"],
        gold_ans=row["answer_keywords"],
        input=row["input"],
        all_classes=row["all_classes"],
        length=row["length"],
        dataset=task.subset,
        level=task.level,
        index=index,
        language=row["language"],
        status=status,
        prompt_tokens=len(prepared.prompt.tokens),
        prompt_tokens_full=prepared.prompt_tokens_full,
        evidence_kept=prepared.evidence_kept,
    )
    if answer.text != pred:
        record["raw_pred"] = answer.text
    if answer.finish_reason is not None:
        record["finish_reason"] = answer.finish_reason
    if answer.usage or answer.output_tokens is not None:
        record["usage"] = dict(answer.usage) or {"completion_tokens": answer.output_tokens or 0}
    if row["confusing_facts"] is not None:
        record["confusing_facts"] = row["confusing_facts"]
    if row["question_id"] is not None:
        record["question_id"] = row["question_id"]
    return record


def _answer_in_worker(job: Job, task: Task) -> Result:
    """`answer_rows` in a Dask worker: a broken engine ends the process, its nanny starts another and Dask the task."""
    if _loaded is not None and _loaded[0] != (job.backend, job.options):
        _replace_worker("it holds another run's model")  # no engine gives back all of its memory
    try:
        with _watched(job.row_hours * len(task.indices)), machines.named() if job.expected else nullcontext():
            if job.expected:
                machines.vouch(job.backend, job.options, job.expected)
            return answer_rows(job, task)
    except BackendBroken as error:
        _replace_worker(str(error))


def _replace_worker(why: str) -> NoReturn:
    print(f"worker {os.getpid()}: {why}; replacing this worker", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _watched(hours: float) -> Iterator[None]:
    """A block at whose entry or end this process's time begins anew: `hours` later its threads are shown and it ends.

    The watch needs neither the GIL nor an engine that still answers.
    """
    global _busy
    with _watching:
        _busy += 1
        faulthandler.dump_traceback_later(hours * 3600, exit=True)
    try:
        yield
    finally:
        with _watching:
            _busy -= 1
            faulthandler.cancel_dump_traceback_later()
            if _busy:
                faulthandler.dump_traceback_later(hours * 3600, exit=True)


def dask_setup(worker: object) -> None:
    """Called by Dask in each new worker: Ctrl-C is the coordinator's business, which then stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# --- In the coordinator -----------------------------------------------------------------------------------------------


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def gpu_groups(gpus: Sequence[str], per_worker: int) -> list[str]:
    """The GPUs of each worker, as CUDA_VISIBLE_DEVICES names them; too few for one more worker stay idle.

    Raises HarnessError where there are too few for one.
    """
    if per_worker > max(1, len(gpus)):
        raise HarnessError(
            f"--gpus-per-worker {per_worker}: found {len(gpus)} visible GPUs, expected {per_worker} or more"
        )
    return [",".join(gpus[i : i + per_worker]) for i in range(0, len(gpus) - per_worker + 1, per_worker)]


@contextmanager
def pool(
    *,
    single_process: bool,
    count: int,
    gpus: Sequence[str] = (),
    at_once: int = 1,
    scheduler: machines.Scheduler | None = None,
) -> Iterator[Executor]:
    """An executor over `count` worker processes, group i of `gpus` to worker i; over threads of this process; or over
    the workers of a running scheduler.

    A process has a thread for each of the `at_once` rows that its engine computes together, and one that prepares.
    """
    if scheduler is not None:
        with machines.connect(scheduler) as cluster:
            yield cluster
        return
    if single_process:
        threads = ThreadPoolExecutor(at_once + PREPARING)
        try:
            yield threads
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return
    with _local_cluster(count, gpus, at_once + PREPARING) as executor:
        yield executor


# A cluster of our own, for one run, on this machine: no pages, no logs, no daemons.
CLUSTER_SETTINGS = {
    "distributed.worker.daemon": False,  # engines start processes of their own
    "distributed.scheduler.allowed-failures": DEATHS_BEFORE_ISOLATION,
    # A nanny replaces its worker however often and slowly; by default it is given up where none is there after 15 s.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.scheduler.no-workers-timeout": "15 minutes",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1h",  # a model that loads holds the GIL for a while: no cause for a warning
    "distributed.comm.timeouts.connect": "120s",
}


@contextmanager
def _local_cluster(count: int, gpus: Sequence[str], threads: int) -> Iterator[Executor]:
    """`count` Dask workers on 127.0.0.1 under TLS with certificates of their own, seen as an executor."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to tell reaches us as exceptions
    settings = {
        # A folder that stays, so that Dask finds and removes there what a killed run left behind.
        "temporary-directory": str(cache_dir() / "workers"),
        "distributed.nanny.pre-spawn-environ": _worker_environment(count),
    }
    with dask.config.set(CLUSTER_SETTINGS | settings):
        security = Security.temporary()
        network = {"protocol": "tls", "security": security, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        workers = {
            number: {
                "cls": Nanny,
                "options": {
                    **network,
                    "nthreads": threads,
                    "memory_limit": 0,
                    "env": {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {},
                    "preload": ["workers"],
                },
            }
            for number in range(count)
        }
        scheduler = {"cls": Scheduler, "options": {**network, "port": 0, "dashboard": False}}
        with (
            SpecCluster(workers=workers, scheduler=scheduler, security=security) as cluster,
            Client(cluster, security=security) as client,
        ):
            try:
                yield client.get_executor(pure=False)
            finally:
                # Answers still on their way fail in Dask's event loop as it closes; after Ctrl-C nobody waits for them.
                for name in ("distributed.client", "tornado.application"):
                    logging.getLogger(name).setLevel(logging.CRITICAL)


def _worker_environment(count: int) -> dict[str, str]:
    """The environment each of `count` workers starts in: its share of the cores (a nanny would set one thread)."""
    share = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), share)
    return threads | {"DASK_LOGGING__DISTRIBUTED": "critical"}


def answers(executor: Executor, job: Job, tasks: Iterable[Task], count: int = 1) -> Iterator[Result]:
    """The results of all tasks as they come, from `count` workers. A row whose worker keeps dying is a failed attempt.

    Workers of a scheduler come and go: there their number is asked for again and again. Raises what a worker raised:
    a HarnessError, or a bug of ours; HarnessError (INCOMPLETE) where the engine of this process broke, or no worker is
    left.
    """
    function = answer_rows if isinstance(executor, ThreadPoolExecutor) else _answer_in_worker
    size = executor.size if isinstance(executor, machines.Cluster) else lambda: count
    isolated: list[Task] = []
    broken = ""
    waiting = iter(tasks)
    pending: dict[Future[Result], Task] = {}
    while True:
        handed_out = (job.at_once + PREPARING + TASKS_BEHIND) * max(1, size())  # without a worker, for the first
        for task in itertools.islice(waiting, max(0, handed_out - len(pending))):
            pending[executor.submit(function, job, task)] = task
        if not pending:
            break
        # Answers first: what follows may end the run.
        done = wait(pending, timeout=machines.POLL_SECONDS, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda future: future.cancelled() or future.exception() is not None):
            task = pending.pop(future)
            if broken and future.cancelled():
                continue
            if worker_died(future):
                isolated.append(task)
            elif isinstance(error := future.exception(), BackendBroken):  # of this very process: nothing replaces it
                broken = broken or f"the engine broke at {task.subset}_{task.level} row {task.indices[0]} ({error})"
                waiting = iter(())
                for other in pending:
                    other.cancel()
                yield Result(task, (), tuple(Attempt(index, "error", str(error)) for index in task.indices), {})
            else:
                yield future.result()
    if broken:
        raise HarnessError(
            f"{broken} and this process cannot go on; all answers so far are saved; run the same command again: that "
            "row is then tried last",
            ExitCode.INCOMPLETE,
        )
    # Each of these was on a worker that died more than once. Alone in the pool, a row that kills its worker is known.
    deadly = 0
    for alone in (Task(task.subset, task.level, (index,)) for task in isolated for index in task.indices):
        future = executor.submit(function, job, alone)
        while not wait([future], timeout=machines.POLL_SECONDS).done:
            size()
        if not worker_died(future):
            deadly = 0
            yield future.result()
            continue
        deadly += 1
        attempt = Attempt(alone.indices[0], "worker_died", "the worker process died each time it had this row")
        yield Result(alone, (), (attempt,), {})
        if deadly == DEADLY_ROWS_IN_A_ROW:
            raise HarnessError(
                f"the workers died under {deadly} rows one after another, perhaps while loading the model (killed for "
                "memory? see the system's log); all answers so far are saved; mend it and run the same command again",
                ExitCode.INCOMPLETE,
            )


def hosted_answers(job: Job, tasks: Iterable[Task], take: Callable[[Task, int], bool]) -> Iterator[Result]:
    """The results from an engine that runs elsewhere: rows are prepared here, a few ahead, and asked many at once.

    A task is one row. `take` is asked for each with its prompt's tokens; where it says no, that row and those after it
    stay open. The first result has no row: it tells what the engine decided. A try that is repeated is a result with an
    attempt. Raises HarnessError where the service ends the run.
    """
    retries.ENDING.clear()  # of an earlier run in this process; loading may wait for the service too
    backend = cast(HostedBackend, _backend(job))
    yield Result(Task("", "", ()), (), (), backend.effective())
    asked: dict[int, tuple[Task, data.Row, utils.Prepared]] = {}

    def made(task: Task) -> tuple[Task, data.Row, utils.Prepared]:
        return task, *prepare(job, backend.tokenizer, backend.own_chat, task.subset, task.level, task.indices[0])

    def prompts() -> Generator[Prompt, None, None]:
        for position, (task, row, prepared) in enumerate(_ahead(made, tasks)):
            if not take(task, len(prepared.prompt.tokens)):
                return
            asked[position] = task, row | {"context": ""}, utils.without_text(prepared)
            yield prepared.prompt

    given = prompts()
    try:
        for position, answer in backend.generate(given):
            task, row, prepared = asked[position]
            if answer.status != "transient":
                del asked[position]
            if answer.status in FINAL_STATUSES:
                record = make_record(row, task, task.indices[0], prepared, answer, job.model_name)
                yield Result(task, (record,), (), {}, answer.output_tokens or 0)
            else:
                yield Result(task, (), (Attempt(task.indices[0], answer.status, answer.error),), {})
    finally:
        retries.ENDING.set()
        with suppress(ValueError):  # after Ctrl-C a prompt may be in the making
            given.close()


def _ahead(function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`function` of each item, in order; as many are being made ahead as there are cores."""
    ahead = os.cpu_count() or 1
    threads = ThreadPoolExecutor(ahead)
    try:
        making: deque[Future[Made]] = deque()
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
        raise HarnessError(
            "the workers, or their scheduler, were lost before all rows were answered; all answers so far are saved; "
            "run the same command again",
            ExitCode.INCOMPLETE,
        ) from error
    return type(error).__name__ == "KilledWorker"
