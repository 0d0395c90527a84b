"""Greedy decoding with transformers, for the hf backend and for plugins that bring a cache.

new = greedy(model, prompt, cache)
"""

from typing import TYPE_CHECKING, Any

from lveval.backends.base import Prompt
from lveval.common.errors import UsageError

if TYPE_CHECKING:
    import torch


class NaNError(Exception):
    """The model's logits contain NaN."""


def _refuse_nan(ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    """Check logits, as a logits processor: argmax over NaN would give a token all the same."""
    if bool(scores.isnan().any()):
        raise NaNError
    return scores


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
            logits_processor=LogitsProcessorList([_refuse_nan]),
            **given,
        )[0]
    return list(output[ids.shape[1] :].tolist())
