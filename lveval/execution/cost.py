"""What a run has spent, and when it may spend no more: money by the tokens of its answers, and hours.

python prediction.py --backend openai --model-name NAME --price-in 2.5 --price-out 10 --max-cost 200 --max-hours 12

A row is handed out only if what is spent, what is out and the row itself stay within --max-cost.
"""

import threading
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from lveval.backends.base import RowKey
from lveval.execution.tasks import Task
from lveval.options import RunOptions
from lveval.runs.record import Prediction

MARGIN = 1.2  # what is kept for a row, to what it should cost


@dataclass
class CostTracker:
    """The money in US dollars and the hours of a run; used by the thread that hands out and the one that records."""

    price_in: float  # USD of a million prompt tokens, a batch's discount taken off
    price_out: float
    max_cost: float | None
    max_hours: float | None
    longest: int  # tokens of a prompt, at most
    budgets: Mapping[str, int]  # subset -> tokens of an answer, at most
    prompt_tokens: int = 0
    answer_tokens: int = 0
    paid: Set[RowKey] = (
        frozenset()
    )  # rows that are out at the service since an earlier start: to be had in any case
    ended: str = ""  # why no row is handed out any more
    _refused: float = 0.0  # USD that the row would have needed that was not handed out
    _out: dict[RowKey, float] = field(default_factory=dict)  # USD that are kept for it
    _prompts: dict[str, int] = field(
        default_factory=dict
    )  # level -> tokens of the longest prompt answered so far
    _more: float = 1.0  # the service's count of a prompt to ours, at most so far
    _answer: int = 0  # tokens of the longest answer so far, hidden reasoning among them
    _began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, args: RunOptions, budgets: Mapping[str, int], answer_tokens: int) -> "CostTracker":
        """What the options allow; `answer_tokens`: what the engine allows an answer, 0 for `budgets`."""
        share = 1 - args.batch_discount if args.batch else 1.0
        prices = ((args.price_in or 0.0) * share, (args.price_out or 0.0) * share)
        return cls(
            *prices,
            args.max_cost,
            args.max_hours,
            args.model_max_len,
            budgets,
            _answer=answer_tokens,
        )

    @property
    def cost(self) -> float:
        """USD of all answers that are recorded."""
        return (self.prompt_tokens * self.price_in + self.answer_tokens * self.price_out) / 1e6

    @property
    def spent(self) -> bool:
        """Whether too little is left for a row, now that nothing is kept for rows that are out."""
        return self.max_cost is not None and self.cost + self._refused > self.max_cost

    def add(self, record: Prediction) -> None:
        """Count an answer, as its service counted it where one did."""
        usage = record.get("usage", {})
        prompt, answer = (
            usage.get("prompt_tokens", record["prompt_tokens"]),
            usage.get("completion_tokens", 0),
        )
        level = record["level"]
        if record["status"] == "refused" and not usage:  # the request was: nothing was computed
            prompt = 0
        with self._lock:
            self.prompt_tokens += prompt
            self.answer_tokens += answer
            self._prompts[level] = max(self._prompts.get(level, 0), prompt)
            self._more = max(self._more, prompt / max(1, record["prompt_tokens"]))
            self._answer = max(self._answer, answer)
            self._out.pop((record["dataset"], level, record["index"]), None)

    def drop(self, subset: str, level: str, index: int) -> None:
        """A row ended without an answer."""
        with self._lock:
            self._out.pop((subset, level, index), None)

    def take(self, task: Task, tokens: int | None = None) -> bool:
        """Keep what the task may cost, with prompts of `tokens` tokens where they are known.

        False where that is too much, or the hours are over: nothing more is to be handed out then.
        """
        rows = [(task.subset, task.level, index) for index in task.indices]
        with self._lock:
            kept = dict.fromkeys(rows, self._guess(task, tokens))
            if not self.paid >= kept.keys():
                hours = (time.monotonic() - self._began) / 3600
                wanted = self.cost + sum(self._out.values()) + sum(kept.values())
                if self.max_hours is not None and hours >= self.max_hours:
                    self.ended = self.ended or f"--max-hours {self.max_hours:g} are over"
                if self.max_cost is not None and wanted > self.max_cost:
                    self.ended = (
                        self.ended
                        or f"--max-cost {self.max_cost:g} USD might not pay for another row"
                    )
                    self._refused = sum(kept.values())
                if self.ended:
                    return False
            self._out |= kept
        return True

    def _guess(self, task: Task, tokens: int | None) -> float:
        """USD of a row, rather too many: what it should cost by the answers so far, and MARGIN."""
        prompt = (
            self._prompts.get(task.level, self.longest) if tokens is None else tokens * self._more
        )
        answer = max(self.budgets[task.subset], self._answer)
        return MARGIN * (prompt * self.price_in + answer * self.price_out) / 1e6
