"""Caches that hold less than they have seen, for plugins that drop keys and values.

    cache = context_cache(model)
    context = read_context(model, prompt, cache)
    new = greedy(model, prompt, cache)

Imports transformers at once: only plugins import it.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lveval.backends.base import Json, Prompt
from lveval.common.errors import UsageError


class CountingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is Any
    """Keys and values of one layer, which others may drop, and the number of tokens seen.

    transformers takes the next token's position from the length of the cache. Counting what was
    seen keeps the positions of a text in which nothing was dropped.
    """

    seen = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append and return all that is held."""
        self.seen += key_states.shape[-2]
        held: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states)
        return held

    def held(self) -> int:
        """Return how many tokens' keys are there."""
        return int(self.keys.shape[-2]) if self.is_initialized else 0

    def get_seq_length(self) -> int:
        """Return how many tokens were seen: the position of the next one."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys a mask is for, and the position that the first one stands for.

        Those held count as the last ones before the query: all of them are in its past.
        """
        return self.held() + query_length, self.seen - self.held()


def context_cache(
    model: Any,  # noqa: ANN401
    layer: Callable[[], CountingLayer] = CountingLayer,
) -> Any:  # noqa: ANN401 - a Cache of transformers
    """Return an empty cache for the model; raises UsageError where a layer is no full attention.

    A sliding window or a state keeps something of its own, counted otherwise.
    """
    cache = DynamicCache(config=model.config)
    if other := sorted({type(each).__name__ for each in cache.layers} - {DynamicLayer.__name__}):
        raise UsageError(
            f"expected a model with full attention in each layer; found {', '.join(other)} in the "
            f"cache of {type(model).__name__}"
        )
    cache.layers = [layer() for _ in cache.layers]
    return cache


def read_context(model: Any, prompt: Prompt, cache: Any) -> int:  # noqa: ANN401
    """Fill the cache with the prompt up to the end of its context; returns the tokens read.

    What stands before the context (the chat format, a system prompt) belongs to it. At least one
    token is left for decoding to begin with.
    """
    start = prompt.question_start if prompt.question_start is not None else len(prompt.tokens)
    tokens = list(prompt.tokens[: min(start, len(prompt.tokens) - 1)])
    if tokens:
        with torch.inference_mode():
            # The base model has no head: no logits of a long context.
            ids = torch.tensor([tokens], device=model.device)
            model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return len(tokens)


def held_tokens(cache: Any) -> float:  # noqa: ANN401
    """Return how many tokens' keys the layers hold, on average."""
    return float(sum(layer.held() for layer in cache.layers) / len(cache.layers))


def kept(cache: Any, context: int) -> dict[str, Json]:  # noqa: ANN401
    """Measure what is left of `context` tokens: `cache_tokens` and their share, `kept`."""
    held = held_tokens(cache)
    return {"cache_tokens": held, "kept": held / context if context else 1.0}
