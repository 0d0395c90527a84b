"""Greedy decoding with transformers, for the hf backend and for plugins that bring a cache.

new = greedy(model, prompt, cache)
"""

import math
from typing import TYPE_CHECKING, Any

from lveval.backends.base import Prompt
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
        self._end = budget if tokenizer.opens_reasoning(prompt.formatted) else None
        self._close = tokenizer.encode(tokenizer.think_tags[1], add_special_tokens=False)

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Leave only the next token of the closing tag, where the reasoning is to end."""
        new = ids.shape[1] - self._prompt_tokens
        if new == self._budget and self._end is None and (tag := self._opened_by(ids)):
            self._end = new + len(self._tokenizer.encode(tag, add_special_tokens=False))
        if new == self._end and self._tokenizer.is_reasoning_closed(self._text(ids)):
            self._end = None
        if self._end is None or not 0 <= new - self._end < len(self._close):
            return scores
        forced = scores.new_full(scores.shape, -math.inf)
        forced[:, int(self._close[new - self._end])] = 0.0
        return forced

    def _text(self, ids: "torch.Tensor") -> str:
        return self._tokenizer.decode_answer(ids[0, self._prompt_tokens :].tolist())

    def _opened_by(self, ids: "torch.Tensor") -> str:
        return self._tokenizer.opened_by(self._text(ids))


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
