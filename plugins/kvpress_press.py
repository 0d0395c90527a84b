"""A press of NVIDIA's kvpress: the context's keys and values are scored, the lowest dropped.

    pip install --no-deps kvpress==0.5.5 cachetools==5.5.2 fire==0.7.1 termcolor==3.3.0
    python prediction.py --plugin plugins/kvpress_press.py \\
        --plugin-args '{"press": "KnormPress", "compression_ratio": 0.5}' …

kvpress (Devoto et al. 2025, Expected Attention: KV Cache Compression by Estimating Attention from
Future Queries Distribution, arXiv:2510.00636; github.com/NVIDIA/kvpress, Apache-2.0) has the
methods; each press's source names its paper. Its pin of transformers is older than what this
harness runs on: hence --no-deps, and the keyword that `_position` hands over.
"""

from contextlib import ExitStack
from importlib import metadata
from inspect import signature
from typing import Any

import torch

from lveval.backends.base import Json, Prompt
from lveval.backends.caches import context_cache, kept, read_context
from lveval.backends.decoding import greedy
from lveval.common.errors import UsageError

NEEDS = "kvpress==0.5.5 cachetools==5.5.2 fire==0.7.1 termcolor==3.3.0"
# These load what somebody trained for one model, from a branch of the Hub that may move.
FROM_THE_HUB = {"ExpectedAttentionStatsPress", "KVzapPress", "QFilterPress"}


class KVPress:
    """Compress the context's cache by `press`, made with the other arguments (Devoto et al. 2025).

    Presses that score and drop tokens are offered: of those that mask heads, drop channels or act
    while decoding, the length of the cache does not tell what is kept.
    """

    def __init__(
        self,
        press: str = "KnormPress",
        compression_ratio: float = 0.5,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        presses = _presses()
        if press not in presses:
            raise UsageError(f"no press {press!r}; expected one of {', '.join(sorted(presses))}")
        settings["compression_ratio"] = compression_ratio
        self.given: dict[str, Json] = {"press": press, **settings}
        self.press = presses[press](**settings)
        self.found: dict[str, Json] = {}

    def identity(self) -> dict[str, Json]:
        """Return press, arguments and version."""
        return {**self.given, "kvpress": metadata.version("kvpress")}

    def after_load(self, model: Any, tokenizer: Any) -> None:  # noqa: ANN401
        """Raise UsageError for a model whose cache is none of keys and values of all tokens."""
        context_cache(model)

    def generate(self, model: Any, tokenizer: Any, prompt: Prompt) -> list[int]:  # noqa: ANN401
        """Read the context under the press, then decode over what it left."""
        cache = context_cache(model)
        torch.manual_seed(0)  # a random press keeps the same tokens of a row in every start
        with ExitStack() as stack, torch.inference_mode():
            for name, module in model.named_modules():
                if name.endswith("self_attn"):
                    hook = module.register_forward_pre_hook(_position, with_kwargs=True)
                    stack.callback(hook.remove)
            stack.enter_context(self.press(model))
            context = read_context(model, prompt, cache)
        self.found = kept(cache, context)
        return greedy(model, prompt, cache)

    def measures(self) -> dict[str, Json]:
        """Tokens kept of the context, on average over layers, and their share."""
        return self.found


def _position(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
    """Add what transformers handed to attention up to 5.2; the cache is empty before a context."""
    states = kwargs["hidden_states"]
    return args, kwargs | {"cache_position": torch.arange(states.shape[1], device=states.device)}


def _presses() -> dict[str, type]:
    try:
        import kvpress
    except ImportError as error:
        raise UsageError(f"{error}; run: pip install --no-deps {NEEDS}") from error
    names = set(kvpress.__all__) - FROM_THE_HUB - {"ScorerPress"}
    classes = {name: getattr(kvpress, name) for name in names}
    return {
        name: each
        for name, each in classes.items()
        # A wrapper of another press takes that one instead.
        if issubclass(each, kvpress.ScorerPress) and "press" not in signature(each).parameters
    }
