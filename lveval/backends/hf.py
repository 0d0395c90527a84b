"""The Hugging Face backend: transformers models, one row after another, greedy decoding.

    python prediction.py --model-path /models/chatglm3-6b-32k --model-name chatglm3 --model-max-len 31500

Prefill computes the last token's logits only (`generate` asks for no more), so that 256k-word contexts fit.
"""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lveval.backends import hf_models
from lveval.backends.base import BackendBroken, EngineOptions, Generation, Json, Prompt
from lveval.backends.base import no_rows_in_flight as claim_rows_in_flight  # noqa: F401
from lveval.backends.base import no_rows_in_flight as rows_in_flight  # noqa: F401
from lveval.backends.base import one_row_at_a_time as max_concurrent_rows  # noqa: F401
from lveval.backends.base import subset_budget as answer_tokens  # noqa: F401
from lveval.common.errors import LVEvalError, UsageError

if TYPE_CHECKING:
    import torch


ENGINE_ARGS: dict[str, Any] = {
    "window": int
}  # window=N: the model's true window in tokens, where its config tells too few

RUNTIME_ONLY_ARGS: tuple[str, ...] = ()


FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


# --- What decides the answers, found without loading the model --------------------------------------------------------


def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """Model, versions, dtype and attention of a run; refuses what cannot work. Raises LVEvalError."""
    import transformers

    return {
        "version": transformers.__version__,
        **hf_models.model_fingerprint(options),
        "attn": _attention(options) or "default",
    }


def _attention(options: EngineOptions) -> str | None:
    """The attention to ask transformers for; None leaves it its default (sdpa, where the model has it, else eager).

    A flash attention is asked for only where its own package is installed: transformers would otherwise raise, or fetch
    a kernel from the Hub, which is foreign code.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    asked = options.attn
    installed = is_flash_attn_2_available()
    if asked == "auto":
        usable = (
            installed
            and torch.cuda.is_available()
            and hf_models.resolve_dtype(options) != "float32"
        )
        return "flash_attention_2" if usable else None
    if "/" in asked and not options.trust_remote_code:
        raise UsageError(
            f"--attn {asked}: a kernel from the Hub is foreign code; it needs --trust-remote-code"
        )
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(
        asked, "flash_attn"
    )
    if asked in FLASH and not (
        installed if asked == FLASH[0] else importlib.util.find_spec(package)
    ):
        raise UsageError(
            f"--attn {asked}: its package is not installed or finds no GPU; run: pip install flash-attn"
        )
    return asked


# --- The engine -------------------------------------------------------------------------------------------------------


class _NaNError(Exception):
    """The model gave logits that are no numbers."""


def _refuse_nan(ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    """A logits processor: argmax over NaN would give a token all the same."""
    if bool(scores.isnan().any()):
        raise _NaNError
    return scores


class HFBackend:
    """A loaded model that answers prompts one by one."""

    def __init__(self, model: Any, tokenizer: hf_models.HFTokenizer, window: int | None) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        self.native_chat = callable(getattr(model, "chat", None))
        self._model = model
        self._window = window if window is not None else math.inf

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Yield one answer after another; out of memory is tried once more with an emptied cache."""
        for position, prompt in enumerate(prompts):
            yield position, self._answer(prompt)

    def _answer(self, prompt: Prompt) -> Generation:
        import torch

        needed = len(prompt.tokens) + prompt.max_new_tokens
        if needed > self._window:
            message = f"prompt and answer budget are {needed} tokens, the model's window is {self._window}"
            return Generation("", "context_overflow", error=message)
        for last_try in (False, True):
            try:
                return self._chat(prompt) if prompt.native_chat else self._greedy(prompt)
            except _NaNError:
                return Generation("", "invalid", error="the model's logits contain NaN")
            except (
                Exception
            ) as error:  # a row's fault, whatever it is in a model's own code, is that row's alone
                if hf_models.is_out_of_memory(error):
                    if last_try:
                        return Generation(
                            "",
                            "error",
                            error=f"out of memory at {len(prompt.tokens)} tokens, twice",
                        )
                elif "CUDA error" in str(error) or "device-side assert" in str(error):
                    raise BackendBroken(str(error).splitlines()[0]) from error
                else:
                    hint = (
                        " (in the model's .chat(); --chat-template tokenizer or none goes round it)"
                    )
                    where = hint if prompt.native_chat else ""
                    return Generation("", "error", error=f"{type(error).__name__}: {error}{where}")
            # Outside the handler the failed pass's tensors are no longer held by the traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise AssertionError("the second try returns")

    def _greedy(self, prompt: Prompt) -> Generation:
        import torch
        from transformers import LogitsProcessorList

        with torch.inference_mode():
            ids = torch.tensor([list(prompt.tokens)], device=self._model.device)
            output = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=prompt.max_new_tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList([_refuse_nan]),
            )[0]
        new = output[ids.shape[1] :].tolist()
        ends = self._model.generation_config.eos_token_id
        stopped = bool(new) and new[-1] in (ends if isinstance(ends, list) else [ends])
        cut = not stopped and len(new) >= prompt.max_new_tokens
        text = self.tokenizer.decode(new)
        return Generation(text, "length" if cut else "ok", "length" if cut else "stop", len(new))

    def _chat(self, prompt: Prompt) -> Generation:
        import torch

        with torch.inference_mode():
            text, _ = self._model.chat(
                self.tokenizer.raw,
                prompt.text,
                history=[],
                do_sample=False,
                max_new_tokens=prompt.max_new_tokens,
            )
        return Generation(str(text), "ok")

    def resolved_settings(self) -> dict[str, Json]:
        """Attention, dtype and the generation settings in force, and the hash of the chat template."""
        settings = self._model.generation_config.to_diff_dict()
        settings.pop("transformers_version", None)
        return {
            "attn": self._model.config._attn_implementation,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "own_chat": self.native_chat,
            "generation": json.loads(json.dumps(settings, sort_keys=True, default=str)),
            "chat_template": self.tokenizer.template_sha256,
        }


def tokenizer(options: EngineOptions) -> hf_models.HFTokenizer:
    """The model's tokenizer; reads none of its weights. Raises LVEvalError where transformers cannot load it."""
    return hf_models.load_tokenizer(hf_models.model_source(options), options)


def native_chat(options: EngineOptions) -> bool:
    """Whether the model has a `.chat()`, which no class of transformers has: imports the code that the model brings."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    source = hf_models.model_source(options)
    brought = (getattr(hf_models.load_config(source, options), "auto_map", None) or {}).get(
        "AutoModelForCausalLM"
    )
    if not brought or not options.trust_remote_code:
        return False
    try:
        return hasattr(get_class_from_dynamic_module(brought, source.name), "chat")
    except Exception as error:  # a model's own code may raise anything
        raise UsageError(
            f"{source.name}: its code cannot be imported ({type(error).__name__}: {error})"
        ) from error


def load(options: EngineOptions) -> HFBackend:
    """The model and its tokenizer on this process's GPU, on the CPU, or (options.spread) over all visible GPUs.

    Raises LVEvalError where a model would spill to the CPU or the disk.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = (
        "1"  # or weights that a bot converted could take the place of these
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(options.seed)
    source = hf_models.model_source(options)
    hf_models.reject_pickled_weights(source, options)
    words = tokenizer(options)
    gpu = torch.cuda.is_available()
    if options.gpus and not gpu:
        raise UsageError(
            "a worker finds no GPU any more, though the run began on one; look at nvidia-smi"
        )
    spread = options.spread or torch.cuda.device_count() > 1
    kwargs: dict[str, Any] = {"dtype": getattr(torch, hf_models.resolve_dtype(options))}
    if not source.gguf:
        kwargs["use_safetensors"] = None if options.allow_pickle else True
    if attention := _attention(options):
        kwargs["attn_implementation"] = attention
    if gpu:
        kwargs["device_map"] = "auto" if spread else "cuda:0"
    elif options.spread:
        kwargs["device_map"] = "auto"
    try:
        model = hf_models.from_pretrained(AutoModelForCausalLM, source, options, **kwargs).eval()
    except LVEvalError:
        if attention is None or options.attn != "auto":
            raise
        del kwargs["attn_implementation"]  # not every model has flash-attention
        model = hf_models.from_pretrained(AutoModelForCausalLM, source, options, **kwargs).eval()
    # The map is there only for a model that was split; one that went to the CPU whole shows in its weights.
    places = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    spilled = sorted(
        (places | {weight.device.type for weight in model.parameters()}) & {"cpu", "disk", "meta"}
    )
    if gpu and spilled:
        raise UsageError(
            f"{source.name}: does not fit on the visible GPUs, parts of it would go to {' and '.join(spilled)}; use "
            "more GPUs, a smaller --dtype or a smaller model"
        )
    if not model._supports_logits_to_keep():
        print(
            f"warning: {source.name}: this model computes the logits of every prompt token; long prompts need memory "
            "for tokens x vocabulary numbers more",
            file=sys.stderr,
        )
    if options.pure_greedy:
        _drop_shipped_settings(model)
    if model.generation_config.pad_token_id is None:
        ends = model.generation_config.eos_token_id
        model.generation_config.pad_token_id = (
            ends[0] if isinstance(ends, list) else ends
        )  # never read: one row a pass
    return HFBackend(model, words, hf_models.context_window(model.config, options))


def _drop_shipped_settings(model: Any) -> None:  # noqa: ANN401
    """Keep the special tokens of the shipped generation settings and nothing else.

    A repetition_penalty, for one, acts on greedy decoding too; passing other settings to `generate` would not stop it,
    since unset fields are filled in from these.
    """
    from transformers import GenerationConfig

    shipped = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=shipped.eos_token_id,
        pad_token_id=shipped.pad_token_id,
        bos_token_id=shipped.bos_token_id,
    )
