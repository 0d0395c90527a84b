"""Attention sinks and a window: the first tokens and the last ones stay in the cache.

    python prediction.py --plugin plugins/streaming_window.py \\
        --plugin-args '{"sinks": 4, "window": 2048}' …

After Xiao et al. 2024, Efficient Streaming Language Models with Attention Sinks (ICLR 2024,
arXiv:2309.17453). The context is read in one pass with full attention; its middle is dropped before
the question is read, and the window moves on while question and answer are. Positions stay those
of the text, where the paper counts them inside the cache.
"""

from typing import Any

import torch

from lveval.backends.base import Json, Prompt
from lveval.backends.caches import CountingLayer, context_cache, held_tokens, kept, read_context
from lveval.backends.decoding import greedy
from lveval.common.errors import UsageError


class StreamingWindow:
    """Keep `sinks` first and `window` last tokens (Xiao et al. 2024)."""

    def __init__(self, sinks: int = 4, window: int = 2048) -> None:
        if sinks < 0 or window < 1:
            raise UsageError(f"expected sinks >= 0 and window >= 1; found {sinks} and {window}")
        self.sinks, self.window = sinks, window
        self.found: dict[str, Json] = {}

    def identity(self) -> dict[str, Json]:
        """What decides the answers."""
        return {"sinks": self.sinks, "window": self.window}

    def after_load(self, model: Any, tokenizer: Any) -> None:  # noqa: ANN401
        """Raise UsageError for a model whose cache is none of keys and values of all tokens."""
        context_cache(model)

    def generate(self, model: Any, tokenizer: Any, prompt: Prompt) -> list[int]:  # noqa: ANN401
        """Read the context, then question and answer over what is kept (Xiao et al. 2024)."""
        cache = context_cache(model, lambda: _Window(self.sinks, self.window))
        self.found = kept(cache, read_context(model, prompt, cache))
        new = greedy(model, prompt, cache)
        self.found["cache_tokens_at_end"] = held_tokens(cache)
        return new

    def measures(self) -> dict[str, Json]:
        """Tokens kept of the context, their share, and the tokens kept at the answer's end."""
        return self.found


class _Window(CountingLayer):
    def __init__(self, sinks: int, window: int) -> None:
        super().__init__()
        self.sinks, self.window = sinks, window

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what was kept with the new tokens, and keep sinks and window of it."""
        keys, values = super().update(key_states, value_states)
        if keys.shape[-2] > self.sinks + self.window:
            self.keys, self.values = (self._ends(states) for states in (keys, values))
        return keys, values

    def _ends(self, states: torch.Tensor) -> torch.Tensor:
        first, last = states[..., : self.sinks, :], states[..., -self.window :, :]
        return torch.cat([first, last], dim=-2)
