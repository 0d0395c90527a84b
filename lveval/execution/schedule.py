"""In which order the rows of a run are handed out.

tasks = pending_tasks(store, files, batch_size=16, retry_failed=False)
"""

import itertools
from collections.abc import Sequence, Set

from lveval.backends.base import RowKey
from lveval.data.selection import SelectedFile
from lveval.execution.tasks import Task
from lveval.runs.store import RunStore


def pending_tasks(
    store: RunStore,
    files: Sequence[SelectedFile],
    batch_size: int,
    *,
    retry_failed: bool = False,
    in_turn: bool = False,
    in_flight: Set[RowKey] = frozenset(),
) -> list[Task]:
    """List the rows without an answer, `batch_size` a task: file after file, or the files in turn.

    Rows `in_flight` at an endpoint come first. Rows that failed in an earlier start come last and
    alone: one that breaks the engine then keeps no other from being answered. Those that exceed
    the model's window would fail again; without `retry_failed` they are left out.
    """
    failed = store.failed()
    fresh: list[list[Task]] = []
    again: list[Task] = []
    for file in files:
        missing = file.missing(store.answered(*file.key))
        rows = [index for index in missing if (*file.key, index) not in failed]
        starts = range(0, len(rows), batch_size)
        fresh.append([Task(*file.key, tuple(rows[at : at + batch_size])) for at in starts])
        for index in missing:
            key = (*file.key, index)
            hopeless = failed.get(key) == "context_overflow" and not retry_failed
            if key in failed and (not hopeless or key in in_flight):
                again.append(Task(*file.key, (index,)))
    if in_turn:
        turns = itertools.zip_longest(*fresh)
        tasks = [task for turn in turns for task in turn if task]
    else:
        tasks = list(itertools.chain.from_iterable(fresh))
    return sorted(
        tasks + again, key=lambda task: (task.subset, task.level, task.indices[0]) not in in_flight
    )
