"""A run's prompts as a serving workload, in the format of vLLM's bench; nothing is answered.

    python prediction.py --export-prompts workload.jsonl --model-path MODEL --model-name NAME
    vllm bench serve --dataset-name custom --dataset-path workload.jsonl --skip-chat-template \
        --custom-output-len -1 --num-prompts -1 --model MODEL

A line a row: `prompt`, after truncation and in its chat format, and `output_tokens`, the answer's
budget; beside them `dataset`, `level` and `index`. A service that formats prompts itself gets them
bare, and the bench goes without --skip-chat-template.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

from lveval.backends import backend_module
from lveval.backends.base import RowKey
from lveval.common.files import disk_errors, durable_mkdir, write_atomic
from lveval.common.jsonl import encode
from lveval.common.processes import in_order
from lveval.data.selection import SelectedFile
from lveval.execution.tasks import Job
from lveval.planning.token_counts import prepare_here

AHEAD = 64  # rows that are prepared before the first of them is written; each may be megabytes


def write_workload(path: Path, job: Job, files: Sequence[SelectedFile], executor: Executor) -> None:
    """Write the prompts of all selected rows, whole or not at all.

    Raises LVEvalError where a prompt cannot be made, StorageError where the disk fails.
    """
    keys = [(*file.key, index) for file in files for index in file.missing(frozenset())]
    with disk_errors("making the folder", path.parent):
        durable_mkdir(path.parent)
    write_atomic(path, _lines(job, keys, executor))


def _lines(job: Job, keys: Sequence[RowKey], executor: Executor) -> Iterator[bytes]:
    """Each row's line, in order; a few are made ahead."""
    from tqdm import tqdm

    native_chat = backend_module(job.backend).native_chat(job.options)
    tasks = ((job, native_chat, key) for key in keys)
    with tqdm(total=len(keys), unit="row", desc="writing prompts", delay=1, leave=False) as bar:
        for line in in_order(executor, workload_line, tasks, AHEAD):
            yield line
            bar.update()


def workload_line(job: Job, native_chat: bool, key: RowKey) -> bytes:
    """Make one row's prompt and its line."""
    prompt = prepare_here(job, native_chat, key).prompt
    subset, level, index = key
    text = prompt.text if prompt.native_chat else prompt.formatted
    line = {"prompt": text, "output_tokens": prompt.max_new_tokens}
    return encode({**line, "dataset": subset, "level": level, "index": index}) + b"\n"
