"""How many tokens the rows of a run have, as its records will say: counted, or estimated from a few counted ones.

    line = summarise({index: count_row(job, own_chat, subset, level, index) for index in five}, sizes, limit, budget)

Rows are made into prompts as a run makes them (utils.prepare, the backend's tokenizer), by a process per core. What was
counted once is kept in the cache.
"""

import hashlib
import json
import math
import os
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import backends
import pools
import utils
import workers
from backends import Json, Options, Tokenizer
from errors import ExitCode, HarnessError
from files import cache_dir, storage

SAMPLE_ROWS = 5  # of a file, for an estimate
# Student's t at 97.5 % with SAMPLE_ROWS - 1 degrees of freedom. Sums over files have more, so theirs is above 95 %.
T = 2.776
# Files whose levels add up to fewer thousands are counted before processes with a tokenizer each have started.
SMALL = 16


# --- Counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What the record of a row will say: prompt_tokens, prompt_tokens_full, evidence_kept."""

    prompt: int
    full: int
    evidence_kept: bool | None


@contextmanager
def processes(names: Sequence[tuple[str, str]]) -> Iterator[Executor]:
    """A pool for these files: a process per core; a thread for small ones.

    `names`: (subset, level) of each.
    """
    pool: Executor = ThreadPoolExecutor(1)
    if sum(int(level.removesuffix("k")) for _, level in names) >= SMALL:
        pool = pools.processes(len(os.sched_getaffinity(0)))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise HarnessError(
            "a process that counts died (killed for memory?); what was counted is kept; run the same command again",
            ExitCode.INCOMPLETE,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: tuple[str, Options, Tokenizer] | None = None  # this process's


def count_row(job: workers.Job, own_chat: bool, subset: str, level: str, index: int) -> Count:
    """The tokens of one row as a run under `job` records them; `own_chat`: that of the backend's module."""
    global _tokenizer
    if _tokenizer is None or _tokenizer[:2] != (job.backend, job.options):
        _tokenizer = job.backend, job.options, backends.module(job.backend).tokenizer(job.options)
    _, prepared = workers.prepare(job, _tokenizer[2], own_chat, subset, level, index)
    return Count(len(prepared.prompt.tokens), prepared.prompt_tokens_full, prepared.evidence_kept)


class Counted:
    """The rows of one file that were counted under the same settings before, in the cache; a line a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[int, Count] = {}
        with storage("reading the counts", path):
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
            self.rows[index] = Count(prompt, full, kept)

    def add(self, index: int, count: Count) -> None:
        """Keep a row's count."""
        self.rows[index] = count
        with storage("keeping the counts", self._path), self._path.open("ab") as file:
            file.write(json.dumps([index, *astuple(count)]).encode() + b"\n")


def counted(decides: Mapping[str, Json], job: workers.Job, own_chat: bool, subset: str, level: str) -> Counted:
    """The counts of a file in the cache, under a name that all has a part in that can change them."""
    fingerprint = job.fingerprints[f"{subset}_{level}"]
    # These parts say nothing of the tokens, or more than of this file's; utils.py is there to be edited.
    others = ("data", "budgets", "prompts", "model_name", "batch_size")
    parts = [{name: value for name, value in decides.items() if name not in others}, own_chat]
    parts += [fingerprint, job.templates[subset], Path(utils.__file__).read_text(encoding="utf-8")]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Counted(cache_dir() / "plan" / f"{subset}_{level}-{key[:32]}.jsonl")


def sample(rows: Sequence[int], name: str) -> list[int]:
    """SAMPLE_ROWS of `rows` at random, for the same file always the same; all where there are no more."""
    if len(rows) <= SAMPLE_ROWS:
        return list(rows)
    return sorted(random.Random(name).sample(rows, SAMPLE_ROWS))  # noqa: S311 - no secret


# --- From counted rows to all rows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A sum over rows and the variance of its error, 0 where every row was counted."""

    value: float = 0.0
    variance: float = 0.0

    def __add__(self, other: "Figure") -> "Figure":
        return Figure(self.value + other.value, self.variance + other.variance)

    @property
    def error(self) -> float:
        """Half the width of the interval around `value`."""
        return T * math.sqrt(self.variance)


@dataclass(frozen=True)
class Line:
    """What is known of some rows: tokens unless said otherwise."""

    rows: int
    counted: int  # rows
    longest: float
    budget: int
    prompt: Figure
    full: Figure
    cut: Figure  # rows
    dropped: Figure
    lost: Figure  # rows whose evidence is cut
    unknown: Figure  # rows that do not tell

    def __add__(self, other: "Line") -> "Line":
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return Line(**sums | {"longest": max(self.longest, other.longest)})


def summarise(counts: Mapping[int, Count], sizes: Mapping[int, int], limit: int, budget: int) -> Line:
    """The figures of one file from `counts` of some of its rows and `sizes` (bytes) of all; `budget` of one answer.

    A row that was not counted is taken to have as many tokens a byte as those that were (a ratio estimator, drawn
    without replacement). How far that is off for those that were gives the error.
    """
    ratio = sum(count.full for count in counts.values()) / max(1, sum(sizes[index] for index in counts))
    guess = {index: ratio * size for index, size in sizes.items()}
    rest = [tokens for index, tokens in guess.items() if index not in counts]
    spread = statistics.stdev(count.full - guess[index] for index, count in counts.items()) if rest else 0.0
    # Within this of the limit a row that was not counted may be cut or not.
    margin = T * spread * math.sqrt(1 + 1 / len(counts))
    surely, likely, perhaps = (sum(tokens + side * margin > limit for tokens in rest) for side in (-1, 0, 1))

    def extended(actual: Callable[[Count], float], guessed: Callable[[float], float], least: float) -> Figure:
        """The sum of `actual`, the others taken as `guessed` and as far off it, which varies by `least` or more."""
        off = [actual(count) - guessed(guess[index]) for index, count in counts.items()]
        total = sum(actual(count) for count in counts.values())
        if not rest:
            return Figure(total)
        total += sum(map(guessed, rest)) + len(rest) * statistics.mean(off)
        scale = len(rest) * len(sizes) / len(counts)
        return Figure(total, scale * max(least, statistics.stdev(off)) ** 2)

    def share(holds: Callable[[Count], bool]) -> Figure:
        """The number of rows of which it holds, only cut ones among them. Five alike do not mean that all are."""
        number, n = sum(map(holds, counts.values())), len(counts)
        smoothed = (number + 2) / (n + 4)  # Agresti and Coull
        scale = len(rest) * len(sizes) / (n + 4) if perhaps else 0.0
        return Figure(number + number / n * len(rest), scale * smoothed * (1 - smoothed))

    def within(tokens: float) -> float:
        return min(tokens, limit)

    def dropped(tokens: float) -> float:
        return tokens - 2 * int(limit / 2) if tokens > limit else 0.0

    # Cut prompts are as long as the limit, but for a token or so where the halves meet, which five need not show.
    prompt = extended(lambda count: count.prompt, within, 1.0 if surely == len(rest) else spread)
    longest = [float(count.prompt) for count in counts.values()]
    if rest:
        beyond = statistics.mean(count.prompt - within(guess[index]) for index, count in counts.items())
        longest.append(within(max(rest)) + beyond)
    return Line(
        rows=len(sizes),
        counted=len(counts),
        longest=max(longest),
        budget=budget * len(sizes),
        prompt=prompt,
        full=extended(lambda count: count.full, float, 0.0),
        cut=Figure(
            sum(count.full > limit for count in counts.values()) + likely,
            (max(likely - surely, perhaps - likely) / T) ** 2,
        ),
        dropped=extended(lambda count: dropped(count.full), dropped, spread if perhaps else 0.0),
        lost=share(lambda count: count.evidence_kept is False),
        unknown=share(lambda count: count.evidence_kept is None),
    )
