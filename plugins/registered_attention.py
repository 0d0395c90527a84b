"""An attention of one's own in transformers' registry: each query sees its k best keys only.

    python prediction.py --plugin plugins/registered_attention.py --plugin-args '{"k": 256}' …

Top-k attention after Gupta et al. 2021, Memory-efficient Transformers via Top-k Attention
(arXiv:2106.06899), at inference on a model that was trained without it. It shows what answers lose,
not what time is saved: all scores are computed.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lveval.backends.base import Json, Prompt
from lveval.common.errors import UsageError

BLOCK = 256  # queries at once: their scores for all keys are in memory
COUNTS = "top_k_counts"  # on each attention module: pairs of query and key kept, and visible


class TopKAttention:
    """Let each query of each head attend to its `k` highest-scoring keys (Gupta et al. 2021)."""

    def __init__(self, k: int = 256) -> None:
        if k < 1:
            raise UsageError(f"expected k >= 1; found {k}")
        self.k = k
        self.density = 1.0

    def identity(self) -> dict[str, Json]:
        """What decides the answers."""
        return {"k": self.k}

    def before_load(self, config: Any, kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        """Register attention and mask under a name, and have the model use it."""
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        kwargs["attn_implementation"] = name = f"top_{self.k}"
        AttentionInterface.register(name, functools.partial(attend, self.k))
        # Without a mask of its own name, a model's sliding windows would be full attention.
        AttentionMaskInterface.register(name, sdpa_mask)

    @contextmanager
    def generating(self, model: Any, prompt: Prompt) -> Iterator[None]:  # noqa: ANN401
        """Count the pairs of one generation."""
        for module in model.modules():
            vars(module).pop(COUNTS, None)
        yield
        counts = [vars(module)[COUNTS] for module in model.modules() if COUNTS in vars(module)]
        kept, visible = (sum(each) for each in zip(*counts, strict=True))
        self.density = kept / visible

    def measures(self) -> dict[str, Json]:
        """Return the share of the visible keys that was attended to, over layers and heads."""
        return {"density": self.density}


def attend(
    k: int,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attend to the k best keys of each query (Gupta et al. 2021), in the signature of sdpa's.

    kvpress, once imported, wraps every registered attention and hands dropout over by its place.
    """
    # Models hand over here what changes scores; it would be left out without a word.
    extra = [name for name in ("s_aux", "softcap", "position_bias") if kwargs.get(name) is not None]
    if extra:
        raise UsageError(f"top-k attention knows no {', '.join(extra)} of this model")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups, length = query.shape[1] // key.shape[1], key.shape[2]
    past = length - query.shape[2]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    positions = torch.arange(length, device=query.device)
    counts, parts = vars(module).setdefault(COUNTS, [0, 0]), []
    for start in range(0, query.shape[2], BLOCK):
        rows = query[:, :, start : start + BLOCK]
        if attention_mask is None:  # left out where it would be the causal one
            seen = positions <= positions[past + start :][: rows.shape[2], None]
        else:
            seen = attention_mask[..., start : start + BLOCK, :]
        scores = rows @ key.transpose(2, 3) * scaling
        seen = seen.expand_as(scores)
        scores = scores.masked_fill(~seen, -torch.inf)
        best = scores.topk(min(k, length), dim=-1)
        scores = torch.full_like(scores, -torch.inf).scatter(-1, best.indices, best.values)
        counts[0] += int(scores.isfinite().sum())
        counts[1] += int(seen.sum())
        parts.append(scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value)
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None
