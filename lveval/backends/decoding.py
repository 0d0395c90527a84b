"""Greedy decoding with transformers, for the hf backend and for plugins that bring a cache.

new = greedy(model, prompt, cache)
"""

import math
import time
from typing import TYPE_CHECKING, Any

from lveval.backends.base import Json, Prompt
from lveval.common import reasoning
from lveval.common.errors import UsageError

if TYPE_CHECKING:
    import torch

    from lveval.backends.hf_models import HFTokenizer


class NaNError(Exception):
    """The model's logits contain NaN."""


def _refuse_nan(ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    """Check logits, as a logits processor: argmax over NaN would give a token all the same."""
    if bool(scores.isnan().any()):
        raise NaNError
    return scores


class CloseReasoning:
    """A logits processor that closes reasoning which has gone on for a number of tokens."""

    def __init__(self, tokenizer: "HFTokenizer", prompt: Prompt, budget: int) -> None:
        self._tokenizer = tokenizer
        self._prompt_tokens = len(prompt.tokens)
        self._budget = budget
        # The number of new tokens after which it is to end.
        self._end = budget if reasoning.is_opened(prompt.formatted, tokenizer.known_tags) else None
        self._close = tokenizer.encode(tokenizer.think_tags[1], add_special_tokens=False)

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Leave only the next token of the closing tag, where the reasoning is to end."""
        new = ids.shape[1] - self._prompt_tokens
        if new == self._budget and self._end is None and (tag := self._opened_by(ids)):
            self._end = new + len(self._tokenizer.encode(tag, add_special_tokens=False))
        if new == self._end and reasoning.end(self._text(ids), self._tokenizer.known_tags):
            self._end = None
        if self._end is None or not 0 <= new - self._end < len(self._close):
            return scores
        forced = scores.new_full(scores.shape, -math.inf)
        forced[:, int(self._close[new - self._end])] = 0.0
        return forced

    def _text(self, ids: "torch.Tensor") -> str:
        return self._tokenizer.decode_answer(ids[0, self._prompt_tokens :].tolist())

    def _opened_by(self, ids: "torch.Tensor") -> str | None:
        return reasoning.opened_by(self._text(ids), self._tokenizer.known_tags)


class Clock:
    """Times a row from its making on: a logits processor that notes the first new token's scores.

    It is among the logits processors of `prompt.generate_args`, so a plugin that decodes with these
    is timed like any other run.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        import torch

        self._device = torch.device(model.device)
        self._on_gpu = self._device.type == "cuda"
        if self._on_gpu:
            for gpu in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(gpu)
        self._first: float | None = None
        self._began = time.perf_counter()

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Note the time of the first call: prefill ends with it."""
        if self._first is None:
            self._first = self._now()
        return scores

    def times(self) -> dict[str, Json]:
        """Return the seconds up to now, in parts where they are known, peak memory, the device.

        Memory is in bytes and of all visible GPUs together; a CPU's is left out. Raises
        RuntimeError for a CUDA fault.
        """
        import torch

        ended = self._now()
        found: dict[str, Json] = {"seconds": round(ended - self._began, 6)}
        if self._first is not None:
            found["prefill_seconds"] = round(self._first - self._began, 6)
            found["decode_seconds"] = round(ended - self._first, 6)
        if not self._on_gpu:
            return found | {"device": self._device.type}
        gpus = range(torch.cuda.device_count())
        found["peak_memory_bytes"] = sum(map(torch.cuda.max_memory_allocated, gpus))
        return found | {"device": torch.cuda.get_device_name(self._device)}

    def _now(self) -> float:
        import torch

        if self._on_gpu:  # what was asked of it may still be computing
            torch.cuda.synchronize()
        return time.perf_counter()


def greedy(model: Any, prompt: Prompt, cache: Any = None) -> list[int]:  # noqa: ANN401
    """Return the new tokens; raises NaNError, and UsageError for a prompt of `.chat()`.

    `cache` may hold the first tokens of the prompt, and must count them all (caches.py). One call
    decodes every run, so that the settings which act on greedy decoding act with a plugin too.
    """
    import torch
    from transformers import LogitsProcessorList

    if prompt.native_chat:  # its tokens are in no chat format
        raise UsageError("a plugin that decodes needs --chat-template tokenizer or none")
    given = dict(prompt.generate_args)
    processors = LogitsProcessorList([_refuse_nan, *given.pop("logits_processor", [])])
    if cache is not None:
        given["past_key_values"] = cache
        if len({layer.keys.shape[-2] for layer in cache.layers if layer.is_initialized}) > 1:
            # A block of tokens needs a mask, and transformers makes one for all layers.
            given["prefill_chunk_size"] = 1
    with torch.inference_mode():
        ids = torch.tensor([list(prompt.tokens)], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=prompt.max_new_tokens,
            do_sample=False,
            logits_processor=processors,
            **given,
        )[0]
    return list(output[ids.shape[1] :].tolist())
