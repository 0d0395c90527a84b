"""The bar of a run, whose time left goes by tokens: the rows of a run differ 16 times in length.

with Progress(files, missing, cost) as bar: bar.add(1, 15500, 64); bar.show(", 0.07 USD")
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lveval import config
from lveval.data.selection import SelectedFile
from lveval.execution.cost import CostTracker

BYTES_A_TOKEN = 4.0  # of a context, where no recorded prompt tells

REFRESH_SECONDS = 0.1  # as tqdm's: what is not shown is not computed


class Progress:
    """Rows done of all, tokens a second and the time left, of one start of a run."""

    def __init__(
        self,
        files: Sequence[SelectedFile],
        missing: Mapping[str, int],
        cost: CostTracker,
        *,
        alike: bool = False,
    ) -> None:
        """Show the bar; `missing` and the prompts of `cost` are looked at again and again.

        `alike`: prompts are as long whatever the row's context, as those of short controls.
        """
        from tqdm import tqdm

        self._files, self._missing, self._cost = files, missing, cost
        self._sizes = {file.key: 1.0 if alike else _mean_bytes(file) for file in files}
        self._began, self._next_show = time.monotonic(), 0.0
        self._first = 0.0  # when the first answer had come: before it, the model was loaded
        self._tokens = self._since = 0  # prompts and answers of this start; after the first answer
        self._generated = self._answers = 0
        total = sum(file.wanted for file in files)
        self._bar: Any = tqdm(
            total=total,
            initial=total - sum(missing.values()),
            desc="answering",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows "
            "[{elapsed}{postfix}]",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, rows: int, prompt_tokens: int, generated: int) -> None:
        """Count what came at once: answered rows and the tokens that were read and made for it."""
        self._tokens += prompt_tokens + generated
        self._generated += generated
        self._answers += rows
        if self._first:
            self._since += prompt_tokens + generated
        elif rows:
            self._first = time.monotonic()
        self._bar.update(rows)

    def show(self, more: str = "") -> None:
        """Show the time left and the tokens a second, and what more is to be said."""
        from tqdm import tqdm

        now = time.monotonic()
        if now < self._next_show and any(self._missing.values()):
            return
        self._next_show = now + REFRESH_SECONDS
        seconds = self.seconds_left()
        left = "" if seconds is None else f"{tqdm.format_interval(seconds)} left, "
        speed = self._tokens / max(now - self._began, 1e-9)
        self._bar.set_postfix_str(f"{left}{speed:,.0f} tokens/s{more}", refresh=False)

    def seconds_left(self) -> float | None:
        """Estimate the time that the missing rows take; None before the first answer.

        At the speed since the first answer, the first one itself at that since the start.
        """
        if not self._answers:
            return None
        answer = self._generated / self._answers
        tokens = sum(
            number * (self.prompt_tokens(file) + answer)
            for file in self._files
            if (number := self._missing[file.name])
        )
        now = time.monotonic()
        if self._since and now > self._first:
            return tokens * (now - self._first) / self._since
        return tokens * (now - self._began) / max(1, self._tokens)

    def prompt_tokens(self, file: SelectedFile) -> float:
        """Expect so many tokens of a prompt: the mean of its file, or as contexts of its language.

        Of a file without a recorded row the bytes of its contexts are known.
        """
        prompts = self._cost.prompts
        if own := prompts.get(file.key):
            return own.tokens / own.rows
        language = config.DATASET_LANGUAGE.get
        known = [key for key in prompts if key in self._sizes]
        alike = [key for key in known if language(key[0]) == language(file.key[0])] or known
        total = sum(self._sizes[key] * prompts[key].rows for key in alike)
        full = sum(prompts[key].full for key in alike)
        a_byte = full / total if total else 1 / BYTES_A_TOKEN
        return min(self._sizes[file.key] * a_byte, self._cost.max_prompt_tokens)


def _mean_bytes(file: SelectedFile) -> float:
    sizes = file.file.context_bytes()
    return max(1.0, sum(sizes) / len(sizes))
