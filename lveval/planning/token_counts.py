"""How many tokens the rows of a run have, as its records will say; what was counted once is cached.

    count_row(job, native_chat, ("cmrc_mixup", "16k", 0)).prompt

Rows are made into prompts as a run makes them (utils.build_prompt, the backend's tokenizer), by a
process per core.
"""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from lveval import user_tables, utils
from lveval.backends import backend_module
from lveval.backends.base import EngineOptions, Json, RowKey, Tokenizer
from lveval.common.errors import IncompleteRun
from lveval.common.files import cache_dir, disk_errors
from lveval.common.levels import FileKey, level_length
from lveval.common.processes import process_pool
from lveval.execution import tasks

SAMPLE_ROWS = 5  # of a file, for an estimate

# Files whose levels add up to fewer thousands are counted before processes with a tokenizer each
# have started.
SMALL = 16


@dataclass(frozen=True)
class PromptTokens:
    """What the record of a row will say: prompt_tokens, prompt_tokens_full, evidence_kept."""

    prompt: int
    full: int
    evidence_kept: bool | None


@contextmanager
def counting_pool(names: Sequence[FileKey]) -> Iterator[Executor]:
    """Open a pool for these files: a process per core, or a thread where they are small.

    Raises IncompleteRun where a process dies.
    """
    pool: Executor = ThreadPoolExecutor(1)
    if sum(level_length(level) for _, level in names) >= SMALL:
        pool = process_pool(len(os.sched_getaffinity(0)))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise IncompleteRun(
            "a process that counts died (killed for memory?); what was counted is kept; run the "
            "same command again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: tuple[str, EngineOptions, Tokenizer] | None = None  # this process's


def count_row(job: tasks.Job, native_chat: bool, key: RowKey) -> PromptTokens:
    """Count the tokens of one row as a run of `job` records them."""
    global _tokenizer
    if _tokenizer is None or _tokenizer[:2] != (job.backend, job.options):
        _tokenizer = job.backend, job.options, backend_module(job.backend).tokenizer(job.options)
    made = tasks.prepare_row(job, _tokenizer[2], native_chat, key).prepared
    return PromptTokens(len(made.prompt.tokens), made.prompt_tokens_full, made.evidence_kept)


class TokenCountCache:
    """The rows of one file that were counted under the same settings before; a line a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[int, PromptTokens] = {}
        with disk_errors("reading the counts", path):
            content = path.read_bytes() if path.exists() else b""
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # the last line was torn by a kill
                os.truncate(path, whole)
        for line in content[:whole].splitlines():
            try:
                index, *count = json.loads(line)
                self.rows[index] = PromptTokens(*count)
            except (ValueError, TypeError):  # damaged; the row is counted again
                continue

    def add(self, index: int, count: PromptTokens) -> None:
        """Keep a row's count."""
        self.rows[index] = count
        with disk_errors("keeping the counts", self._path), self._path.open("ab") as file:
            file.write(json.dumps([index, *astuple(count)]).encode() + b"\n")


def sample_rows(rows: Sequence[int], name: str) -> list[int]:
    """Draw SAMPLE_ROWS of `rows`, for a `name` always the same; all where there are no more."""
    if len(rows) <= SAMPLE_ROWS:
        return list(rows)
    return sorted(random.Random(name).sample(rows, SAMPLE_ROWS))  # noqa: S311 - no secret


@dataclass(frozen=True)
class TokenCounter:
    """Counts rows of a run in the processes of `executor`, or takes their counts from the cache."""

    job: tasks.Job
    spec: Mapping[str, Json]  # what decides the run's answers
    native_chat: bool
    executor: Executor

    def count(
        self, sizes: Mapping[FileKey, Mapping[int, int]], *, exact: bool
    ) -> dict[FileKey, dict[int, PromptTokens]]:
        """Return file -> row -> tokens: all rows where `exact` or all are cached, else a sample.

        `sizes`: file -> row -> bytes.
        """
        caches = {file: self._cache(file) for file in sizes}
        wanted: dict[FileKey, list[int]] = {}
        missing: dict[RowKey, int] = {}
        for file, rows in sizes.items():
            cached = caches[file].rows
            whole = exact or cached.keys() >= rows.keys()
            wanted[file] = list(rows) if whole else sample_rows(list(rows), "_".join(file))
            missing |= {(*file, row): rows[row] for row in wanted[file] if row not in cached}
        for (subset, level, index), count in self._count(missing):
            caches[subset, level].add(index, count)
        return {
            file: {index: caches[file].rows[index] for index in rows}
            for file, rows in wanted.items()
        }

    def _cache(self, file: FileKey) -> TokenCountCache:
        """The cached counts of a file, under the hash of all that can change them."""
        subset, level = file
        # These say nothing of the tokens, or more than of this file's; utils.py is there to be
        # edited.
        others = ("data", "budgets", "prompts", "model_name", "batch_size")
        parts = (
            {name: value for name, value in self.spec.items() if name not in others},
            self.native_chat,
            self.job.fingerprints[f"{subset}_{level}"],
            self.job.templates[subset],
            Path(utils.__file__).read_text(encoding="utf-8"),
            user_tables.fingerprints(),
        )
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return TokenCountCache(cache_dir("plan") / f"{subset}_{level}-{key[:32]}.jsonl")

    def _count(self, sizes: Mapping[RowKey, int]) -> Iterator[tuple[RowKey, PromptTokens]]:
        """Count rows of so many bytes, the largest first; each comes as it is ready."""
        from tqdm import tqdm

        futures = {
            self.executor.submit(count_row, self.job, self.native_chat, key): key
            for key in sorted(sizes, key=lambda key: -sizes[key])
        }
        with tqdm(
            total=sum(sizes.values()),
            unit="B",
            unit_scale=True,
            desc="counting tokens",
            delay=1,
            leave=False,
        ) as bar:
            for future in as_completed(futures):
                key = futures[future]
                yield key, future.result()
                bar.update(sizes[key])
