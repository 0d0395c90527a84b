"""How many tokens the rows of a run have, as its records will say: counted, or estimated from a few counted ones.

    line = summarise({index: count_row(job, own_chat, subset, level, index) for index in five},
    sizes, limit, budget)

Rows are made into prompts as a run makes them (utils.prepare, the backend's tokenizer), by a
process per core. What was counted once is kept in the cache.
"""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from lveval import utils
from lveval.backends import backend_module
from lveval.backends.base import EngineOptions, Json, Tokenizer
from lveval.common.errors import IncompleteRun
from lveval.common.files import cache_dir, disk_errors
from lveval.common.processes import process_pool
from lveval.execution import tasks

SAMPLE_ROWS = 5  # of a file, for an estimate

# Files whose levels add up to fewer thousands are counted before processes with a tokenizer each
# have started.
SMALL = 16


# --- Counting -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptTokens:
    """What the record of a row will say: prompt_tokens, prompt_tokens_full, evidence_kept."""

    prompt: int
    full: int
    evidence_kept: bool | None


@contextmanager
def counting_pool(names: Sequence[tuple[str, str]]) -> Iterator[Executor]:
    """A pool for these files: a process per core; a thread for small ones.

    `names`: (subset, level) of each.
    """
    pool: Executor = ThreadPoolExecutor(1)
    if sum(int(level.removesuffix("k")) for _, level in names) >= SMALL:
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


def count_row(
    job: tasks.Job, native_chat: bool, subset: str, level: str, index: int
) -> PromptTokens:
    """The tokens of one row as a run under `job` records them; `own_chat`: that of the backend's module."""
    global _tokenizer
    if _tokenizer is None or _tokenizer[:2] != (job.backend, job.options):
        _tokenizer = job.backend, job.options, backend_module(job.backend).tokenizer(job.options)
    prepared = tasks.prepare_row(job, _tokenizer[2], native_chat, (subset, level, index)).prepared
    return PromptTokens(
        len(prepared.prompt.tokens), prepared.prompt_tokens_full, prepared.evidence_kept
    )


class TokenCountCache:
    """The rows of one file that were counted under the same settings before, in the cache; a line a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[int, PromptTokens] = {}
        with disk_errors("reading the counts", path):
            path.parent.mkdir(exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # the last line was torn by a kill
                os.truncate(path, whole)
        for line in content[:whole].splitlines():
            try:
                index, prompt, full, kept = json.loads(line)
            except (ValueError, TypeError):  # damaged; the row is counted again
                continue
            self.rows[index] = PromptTokens(prompt, full, kept)

    def add(self, index: int, count: PromptTokens) -> None:
        """Keep a row's count."""
        self.rows[index] = count
        with disk_errors("keeping the counts", self._path), self._path.open("ab") as file:
            file.write(json.dumps([index, *astuple(count)]).encode() + b"\n")


def cached_counts(
    decides: Mapping[str, Json], job: tasks.Job, native_chat: bool, subset: str, level: str
) -> TokenCountCache:
    """The counts of a file in the cache, under a name that all has a part in that can change them."""
    fingerprint = job.fingerprints[f"{subset}_{level}"]
    # These parts say nothing of the tokens, or more than of this file's; utils.py is there to be
    # edited.
    others = ("data", "budgets", "prompts", "model_name", "batch_size")
    parts = [{name: value for name, value in decides.items() if name not in others}, native_chat]
    parts += [fingerprint, job.templates[subset], Path(utils.__file__).read_text(encoding="utf-8")]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return TokenCountCache(cache_dir() / "plan" / f"{subset}_{level}-{key[:32]}.jsonl")


def sample_rows(rows: Sequence[int], name: str) -> list[int]:
    """SAMPLE_ROWS of `rows` at random, for the same file always the same; all where there are no more."""
    if len(rows) <= SAMPLE_ROWS:
        return list(rows)
    return sorted(random.Random(name).sample(rows, SAMPLE_ROWS))  # noqa: S311 - no secret
