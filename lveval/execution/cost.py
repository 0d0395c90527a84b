"""What a run has spent, in money and hours, and when it must hand out no more.

    python prediction.py --model-name NAME --price-in 2.5 --price-out 10 --max-cost 200

A row is handed out only if what is spent, what is reserved and the row itself stay within
--max-cost.
"""

import threading
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from lveval.backends.base import RowKey
from lveval.common.levels import FileKey
from lveval.execution.tasks import Task
from lveval.options import RunOptions
from lveval.runs.record import Prediction

MARGIN = 1.2  # what is reserved for a row, to its expected cost


@dataclass
class PromptSums:
    """Recorded rows of a file, and the tokens of their prompts, by our own count."""

    rows: int = 0
    tokens: int = 0
    full: int = 0  # before the cut


@dataclass
class CostTracker:
    """The US dollars and hours of a run; safe with a thread that hands out and one that records."""

    price_in: float  # USD of a million prompt tokens, a batch's discount taken off
    price_out: float
    max_cost: float | None
    max_hours: float | None
    max_prompt_tokens: int
    budgets: Mapping[str, int]  # subset -> new tokens of an answer, at most
    price_cached: float | None = None  # of prompt tokens from the service's cache; None: price_in
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompts'
    answer_tokens: int = 0
    in_flight: Set[RowKey] = frozenset()  # sent by an earlier start: paid for in any case
    stop_reason: str = ""  # why no row is handed out any more
    prompts: dict[FileKey, PromptSums] = field(default_factory=dict)
    _refused: float = 0.0  # USD that the first row needed that was not handed out
    _reserved: dict[RowKey, float] = field(default_factory=dict)  # USD
    _longest_prompt: dict[str, int] = field(default_factory=dict)  # level -> tokens, so far
    _longest_answer: int = 0  # tokens so far, hidden reasoning among them
    _token_ratio: float = 1.0  # the service's count of a prompt to ours, at most so far
    _began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def from_options(
        cls, options: RunOptions, limit: int, budgets: Mapping[str, int], answer_tokens: int
    ) -> "CostTracker":
        """Track what the options allow, of prompts of at most `limit` tokens.

        `answer_tokens`: the engine's own limit, 0 for none.
        """
        share = 1 - options.batch_discount if options.batch else 1.0
        return cls(
            (options.price_in or 0.0) * share,
            (options.price_out or 0.0) * share,
            options.max_cost,
            options.max_hours,
            limit,
            budgets,
            None if options.price_cached is None else options.price_cached * share,
            _longest_answer=answer_tokens,
        )

    @property
    def cost(self) -> float:
        """USD of all recorded answers."""
        cached = self.price_in if self.price_cached is None else self.price_cached
        prompts = (self.prompt_tokens - self.cached_tokens) * self.price_in
        prompts += self.cached_tokens * cached
        return (prompts + self.answer_tokens * self.price_out) / 1e6

    @property
    def exhausted(self) -> bool:
        """Whether too little is left for a row, now that nothing is reserved any more."""
        return self.max_cost is not None and self.cost + self._refused > self.max_cost

    def charge(self, record: Prediction) -> None:
        """Book an answer, by the service's count of tokens where it gave one."""
        usage, level, ours = record.get("usage", {}), record["level"], record["prompt_tokens"]
        # A refused request without a count was never computed.
        default = 0 if record["status"] == "refused" and not usage else ours
        prompt, answer = usage.get("prompt_tokens", default), usage.get("completion_tokens", 0)
        sums = self.prompts.setdefault((record["dataset"], level), PromptSums())
        sums.rows += 1
        sums.tokens += ours
        sums.full += record["prompt_tokens_full"]
        with self._lock:
            self.prompt_tokens += prompt
            self.cached_tokens += min(prompt, usage.get("cached_tokens", 0))
            self.answer_tokens += answer
            self._longest_prompt[level] = max(self._longest_prompt.get(level, 0), prompt)
            self._longest_answer = max(self._longest_answer, answer)
            self._token_ratio = max(self._token_ratio, prompt / max(1, ours))
            self._reserved.pop((record["dataset"], level, record["index"]), None)

    def release(self, subset: str, level: str, index: int) -> None:
        """Free what is reserved for a row that ended without an answer."""
        with self._lock:
            self._reserved.pop((subset, level, index), None)

    def reserve(self, task: Task, tokens: int | None = None) -> bool:
        """Reserve what the task may cost, with prompts of `tokens` tokens where they are known.

        False, from then on always, where that is too much or the hours are over.
        """
        with self._lock:
            wanted = dict.fromkeys(task.row_keys, self._estimate(task, tokens))
            if not self.in_flight >= wanted.keys() and self._must_stop(sum(wanted.values())):
                return False
            self._reserved |= wanted
        return True

    def stop(self, reason: str) -> None:
        """Hand out no row any more."""
        self.stop_reason = self.stop_reason or reason

    def _must_stop(self, wanted: float) -> bool:
        hours = (time.monotonic() - self._began) / 3600
        total = self.cost + sum(self._reserved.values()) + wanted
        reason = ""
        if self.max_hours is not None and hours >= self.max_hours:
            reason = f"--max-hours {self.max_hours:g} are over"
        if self.max_cost is not None and total > self.max_cost:
            reason = reason or f"--max-cost {self.max_cost:g} USD might not pay for another row"
            self._refused = wanted
        self.stop_reason = self.stop_reason or reason
        return bool(self.stop_reason)

    def _estimate(self, task: Task, tokens: int | None) -> float:
        """USD of a row, rather too many: its expected cost by the answers so far, and MARGIN."""
        if tokens is None:
            prompt: float = self._longest_prompt.get(task.level, self.max_prompt_tokens)
        else:
            prompt = tokens * self._token_ratio
        answer = max(self.budgets[task.subset], self._longest_answer)
        return MARGIN * (prompt * self.price_in + answer * self.price_out) / 1e6
