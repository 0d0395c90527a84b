"""Processes for trials: without threads, so that they may fork, and with storage calls that can fail."""

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from conftest import tiktoken_files
from tqdm import tqdm

from support import storage_shim
from support.service import KEY

# A run in memory is not slowed by the disk; what a fault does to it is the same.
MEMORY = Path("/dev/shm")


def _begin() -> None:
    tqdm.monitor_interval = 0  # its thread could hold a lock when the process forks
    # Its own lock is one of all forked processes: one that is killed would keep it from the others.
    tqdm.set_lock(threading.RLock())


@contextmanager
def trial_processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `workers`; storage calls can fail in them where storage_shim can be built."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "LVEVAL_CACHE": f"{folder}/cache",
            "TMPDIR": str(MEMORY if MEMORY.is_dir() else folder),
            "TIKTOKEN_CACHE_DIR": tiktoken_files(),
            "OPENAI_API_KEY": KEY,
            "LD_PRELOAD": storage_shim.build(Path(folder)) or "",
        }
        before = dict(os.environ)
        os.environ |= environment
        try:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, _begin) as pool:
                yield pool
        finally:
            os.environ.clear()
            os.environ |= before
