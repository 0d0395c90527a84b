"""Who answers: a local Dask cluster with a worker per GPU, a scheduler's workers, or this process.

with worker_pool(single_process=False, count=2, gpus=["0", "1"]) as executor:
    for result in run_tasks(executor, job, tasks, count=2): ...
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from lveval.common import interrupts
from lveval.common.errors import UsageError, causes
from lveval.common.files import cache_dir
from lveval.common.text import first_line
from lveval.execution import remote_cluster
from lveval.execution.dask_executor import DaskExecutor
from lveval.options import Scheduler

# Beside the rows that the engine computes a thread prepares the next one.
PREPARING = 1

# A worker that dies under a row is replaced and the row tried again; after more deaths than this
# the row waits for the end of the run, where it is tried by itself: it may have been a neighbour
# that killed the worker.
DEATHS_BEFORE_ISOLATION = 1


def visible_gpus() -> list[str]:
    """List the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def gpu_groups(gpus: Sequence[str], per_worker: int) -> list[str]:
    """Return the GPUs of each worker, as CUDA_VISIBLE_DEVICES names them; a rest stays idle.

    Raises UsageError where there are too few for one worker.
    """
    if per_worker > max(1, len(gpus)):
        raise UsageError(
            f"--gpus-per-worker {per_worker}: found {len(gpus)} visible GPUs, expected "
            f"{per_worker} or more"
        )
    return [
        ",".join(gpus[i : i + per_worker]) for i in range(0, len(gpus) - per_worker + 1, per_worker)
    ]


@contextmanager
def worker_pool(
    *,
    single_process: bool,
    count: int,
    gpus: Sequence[str] = (),
    max_concurrent_rows: int = 1,
    scheduler: Scheduler | None = None,
) -> Iterator[Executor]:
    """Open an executor over `count` worker processes, group i of `gpus` to worker i.

    With `single_process` it is over threads of this process, with `scheduler` over that
    scheduler's workers. A process has a thread for each of the `max_concurrent_rows` that its
    engine computes together, and one that prepares.
    """
    threads = max_concurrent_rows + PREPARING
    if scheduler is not None:
        with remote_cluster.connect(scheduler) as cluster:
            yield cluster
    elif single_process:
        executor = ThreadPoolExecutor(threads)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    else:
        with _local_cluster(count, gpus, threads) as local:
            yield local


# A cluster of our own, for one run, on this machine: no pages, no logs, no daemons.
CLUSTER_SETTINGS = {
    "distributed.worker.daemon": False,  # engines start processes of their own
    "distributed.scheduler.allowed-failures": DEATHS_BEFORE_ISOLATION,
    # A nanny replaces its worker however often and slowly; by default it is given up after 15 s
    # without one.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.scheduler.no-workers-timeout": "15 minutes",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1h",  # a model that loads holds the GIL
    "distributed.comm.timeouts.connect": "120s",
}


@contextmanager
def _local_cluster(count: int, gpus: Sequence[str], threads: int) -> Iterator[Executor]:
    """`count` Dask workers on 127.0.0.1, under TLS with temporary certificates."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    remote_cluster.silence(*remote_cluster.LOUD)
    security = Security.temporary()
    network = {
        "protocol": "tls",
        "security": security,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
    }
    common = network | {
        "nthreads": threads,
        "memory_limit": 0,
        "preload": ["lveval.execution.worker"],
        "preload_nanny": ["lveval.execution.worker"],
    }

    def nanny(number: int) -> dict[str, object]:
        env = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        return {"cls": Nanny, "options": common | {"env": env}}

    settings = CLUSTER_SETTINGS | {
        # A folder that stays, so that Dask finds and removes there what a killed run left behind.
        "temporary-directory": str(cache_dir("workers")),
        "distributed.nanny.pre-spawn-environ": _worker_environment(count),
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        # An interruption in Dask's midst would leave a cluster that it cannot close.
        with interrupts.deferred() as came:
            try:
                cluster = stack.enter_context(
                    SpecCluster(
                        workers={number: nanny(number) for number in range(count)},
                        scheduler={
                            "cls": Scheduler,
                            "options": network | {"port": 0, "dashboard": False},
                        },
                        security=security,
                    )
                )
                client = stack.enter_context(Client(cluster, security=security))
            except (OSError, RuntimeError, AssertionError, MemoryError) as error:
                # A signal to all processes of a job ends the workers, too, while they start.
                raise (
                    interrupts.interruption(came[0]) if came else _why_not_started(error)
                ) from None
        try:
            yield DaskExecutor(client)
        finally:
            remote_cluster.silence(remote_cluster.LOUD_AT_CLOSE)


def _why_not_started(error: BaseException) -> BaseException:
    """What Dask's errors about its own half-made state stand on: the system's refusal."""
    *_, first = causes(error)
    if isinstance(first, (OSError, MemoryError)):
        return first
    return UsageError(f"the workers did not start: {type(first).__name__}: {first_line(first)}")


def _worker_environment(count: int) -> dict[str, str]:
    """What each of `count` workers starts with: its share of the cores; a nanny would set one."""
    share = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), share)
    return threads | {"DASK_LOGGING__DISTRIBUTED": "critical"}
