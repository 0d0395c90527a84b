"""The Hugging Face backend: transformers models, one row after another, greedy decoding.

    python prediction.py --model-path /models/chatglm3-6b-32k --model-name chatglm3

Prefill computes the logits of the last token only, so that contexts of 256k words fit.
"""

import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lveval.backends import checkpoints, hf_models, model_files
from lveval.backends.base import (
    Engine,
    EngineBroken,
    EngineOptions,
    Generation,
    Json,
    Prompt,
    cut_at_stop,
)
from lveval.backends.decoding import Clock, CloseReasoning, NaNError, greedy
from lveval.backends.plugins import load_plugins, question_start
from lveval.common.errors import LVEvalError, UsageError
from lveval.common.logs import log
from lveval.common.text import first_line

ON_GPUS = True

# window=N: the model's true window in tokens, where its config says too few.
ENGINE_ARGS = {"window": int}

OPTIONS = (
    *(
        "revision",
        "tokenizer",
        "adapter",
        "hf_overrides",
        "model_args",
        "generate_args",
        "stop",
        "thinking_budget",
    ),
    *("chat_template_args", "plugin", "plugin_args", "think_tags"),
)

# What --model-args and --generate-args may not set: it has an option of its own, or decides what
# is read as code, or is what greedy decoding means.
OWN_MODEL_ARGS = frozenset(
    """
    trust_remote_code use_safetensors weights_only code_revision revision token cache_dir config
    dtype torch_dtype attn_implementation device_map gguf_file output_loading_info state_dict
    ignore_mismatched_sizes adapter_kwargs pretrained_model_name_or_path
    """.split()  # noqa: SIM905
)
OWN_GENERATE_ARGS = frozenset(
    """
    input_ids inputs inputs_embeds attention_mask max_new_tokens max_length do_sample
    logits_processor custom_generate trust_remote_code generation_config
    """.split()  # noqa: SIM905
)

# Of --model-args what fetches compiled code from the Hub.
KERNEL_ARGS = frozenset({"use_kernels", "kernel_config", "allow_all_kernels"})

# Each flash attention and the package that it comes in.
FLASH_PACKAGES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn",
}

check_model = hf_models.check_model
context_window = hf_models.window_without_loading


def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """Return model, versions, dtype and attention; raises UsageError for what cannot work."""
    import transformers

    _refuse_own(options)
    return {
        "version": transformers.__version__,
        **hf_models.model_fingerprint(options),
        "attn": _attention(options) or "default",
    }


def _refuse_own(options: EngineOptions) -> None:
    """Raise UsageError for arguments that have an option of their own, or are not greedy."""
    kernels = sorted(KERNEL_ARGS & options.model_args.keys())
    if kernels and not options.trust_remote_code:
        raise UsageError(
            f"--model-args: {', '.join(kernels)} runs kernels from the Hub, which are foreign "
            "code; it needs --trust-remote-code"
        )
    allowed = checkpoints.ALLOWED_GENERATION_SETTINGS - OWN_GENERATE_ARGS
    if refused := sorted(OWN_MODEL_ARGS & options.model_args.keys()):
        raise UsageError(f"--model-args: {', '.join(refused)} cannot be set with it")
    if refused := sorted(options.generate_args.keys() - allowed):
        raise UsageError(
            f"--generate-args: {', '.join(refused)} is no part of greedy decoding, or set by the "
            f"harness; expected some of {', '.join(sorted(allowed))}"
        )


def _attention(options: EngineOptions) -> str | None:
    """Choose the attention; None leaves it to transformers (sdpa where the model has it).

    A flash attention is asked for only where its own package is installed: transformers would
    otherwise raise, or fetch a kernel from the Hub, which is foreign code.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    asked, installed = options.attn_implementation, is_flash_attn_2_available()
    if asked == "auto":
        half = torch.cuda.is_available() and hf_models.resolve_dtype(options) != "float32"
        return "flash_attention_2" if installed and half else None
    if "/" in asked and not options.trust_remote_code:
        raise UsageError(
            f"--attn {asked}: a kernel from the Hub is foreign code; it needs --trust-remote-code"
        )
    if asked in FLASH_PACKAGES:
        if asked != "flash_attention_2":
            installed = importlib.util.find_spec(FLASH_PACKAGES[asked]) is not None
        if not installed:
            raise UsageError(
                f"--attn {asked}: its package is not installed or finds no GPU; run: "
                "pip install flash-attn"
            )
    return asked


class HFEngine(Engine):
    """A loaded model that answers prompts one by one."""

    tokenizer: hf_models.HFTokenizer

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        tokenizer: hf_models.HFTokenizer,
        window: int | None,
        options: EngineOptions,
    ) -> None:
        self._generate_args = dict(options.generate_args)
        self._stop = options.stop
        self._thinking_budget = options.thinking_budget
        if options.stop:
            self._generate_args |= {"stop_strings": [*options.stop], "tokenizer": tokenizer.raw}
        self._plugins = load_plugins(options)
        self.tokenizer = tokenizer
        self.native_chat = callable(getattr(model, "chat", None))
        self._model = model
        self._window = window if window is not None else math.inf
        # A token without one would break a GPU's process, not this row.
        self._vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", math.inf)

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Answer the prompts in order; out of memory is retried once with an emptied cache."""
        for position, prompt in enumerate(prompts):
            yield position, self._answer(prompt)

    def _answer(self, prompt: Prompt) -> Generation:
        import torch

        needed = len(prompt.tokens) + prompt.max_new_tokens
        if needed > self._window:
            message = (
                f"prompt and answer budget are {needed} tokens, the model's window is "
                f"{self._window}"
            )
            return Generation("", "context_overflow", error=message)
        if (largest := max(map(int, prompt.tokens))) >= self._vocabulary:
            message = (
                f"the tokenizer makes token {largest}, the model has embeddings for "
                f"{self._vocabulary} tokens; is it another model's tokenizer?"
            )
            return Generation("", "error", error=message)
        if self._plugins:
            prompt = replace(prompt, question_start=question_start(prompt, self.tokenizer))
        for _ in range(2):
            try:
                clock = Clock(self._model)
                prompt = replace(prompt, generate_args=self._arguments(prompt, clock))
                with self._plugins.generating(self._model, prompt):
                    answer = self._decode(prompt)
                    times = clock.times()
                measures = self._plugins.measures()
                return replace(answer, measures=measures, times=times | self._plugins.times())
            except NaNError:
                return Generation("", "invalid", error="the model's logits contain NaN")
            except Exception as error:  # noqa: BLE001 - a model's own code may raise anything: this row fails
                if not hf_models.is_out_of_memory(error):
                    return _failed(error, prompt)
            # Outside the handler the traceback no longer holds the failed pass's tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        message = (
            f"out of memory at {len(prompt.tokens)} tokens, twice; --generate-args "
            "'{\"prefill_chunk_size\": 4096}' needs less for long prompts"
        )
        return Generation("", "error", error=message)

    def _decode(self, prompt: Prompt) -> Generation:
        for hook in self._plugins.hooks("generate"):
            new = hook(self._model, self.tokenizer.raw, prompt)
            return Generation(new, "ok") if isinstance(new, str) else self._ended(prompt, list(new))
        if prompt.native_chat:
            return self._chat(prompt)
        return self._ended(prompt, greedy(self._model, prompt))

    def _arguments(self, prompt: Prompt, clock: Clock) -> dict[str, Any]:
        """Arguments of `generate` for a prompt, also of one that a plugin decodes."""
        processors: list[object] = [clock]
        if self._thinking_budget:
            processors.append(CloseReasoning(self.tokenizer, prompt, self._thinking_budget))
        return {**self._generate_args, "logits_processor": processors}

    def _ended(self, prompt: Prompt, new: list[int]) -> Generation:
        ends = self._model.generation_config.eos_token_id
        text, stopped = cut_at_stop(self.tokenizer.decode_answer(new), self._stop)
        stopped |= bool(new) and new[-1] in (ends if isinstance(ends, list) else [ends])
        cut = not stopped and len(new) >= prompt.max_new_tokens
        usage = self.tokenizer.usage(prompt.formatted, new)
        reason = "length" if cut else "stop"
        return Generation(text, "length" if cut else "ok", reason, len(new), usage=usage)

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
        """Return attention, dtype, generation settings and the chat template's hash."""
        settings = self._model.generation_config.to_diff_dict()
        settings.pop("transformers_version", None)
        return {
            "attn": self._model.config._attn_implementation,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "own_chat": self.native_chat,
            "generation": json.loads(json.dumps(settings, sort_keys=True, default=str)),
            "chat_template": self.tokenizer.template_sha256,
        }


def _failed(error: Exception, prompt: Prompt) -> Generation:
    """Return the failed row; raises EngineBroken for a fault that the process keeps."""
    if "CUDA error" in str(error) or "device-side assert" in str(error):
        raise EngineBroken(first_line(error)) from error
    message = f"{type(error).__name__}: {error}"
    if prompt.native_chat:
        message += " (in the model's .chat(); --chat-template tokenizer or none goes round it)"
    return Generation("", "error", error=message)


def tokenizer(options: EngineOptions) -> hf_models.HFTokenizer:
    """Load the model's tokenizer; raises UsageError where transformers cannot."""
    return hf_models.load_tokenizer(model_files.model_source(options), options)


def native_chat(options: EngineOptions) -> bool:
    """Return whether the model's own code has a `.chat()`, which no class of transformers has."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    source = model_files.model_source(options)
    classes = getattr(hf_models.load_config(source, options), "auto_map", None) or {}
    model_class = classes.get("AutoModelForCausalLM")
    if not model_class or not options.trust_remote_code:
        return False
    try:
        return hasattr(get_class_from_dynamic_module(model_class, source.name), "chat")
    except Exception as error:  # a model's own code may raise anything
        raise UsageError(
            f"{source.name}: its code cannot be imported ({type(error).__name__}: {error})"
        ) from error


def load(options: EngineOptions) -> HFEngine:
    """Load the model on this process's GPU, on the CPU, or (options.shard_across_gpus) over all
    visible GPUs.

    Raises UsageError where a model would spill to the CPU or the disk.
    """
    import transformers

    source = model_files.model_source(options)
    # Or weights that a bot converted could take the place of these.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(options.seed)
    model_files.reject_pickled_weights(source, options)
    words = tokenizer(options)
    hf_models.require_gpu(options)
    model = _load_weights(source, options)
    _require_on_gpu(model, source)
    if not model._supports_logits_to_keep():
        log.warning(
            "warning: %s: this model computes the logits of every prompt token; long prompts need "
            "memory for tokens x vocabulary numbers more",
            source.name,
        )
    _apply_generation_settings(model, source, options)
    for hook in load_plugins(options).hooks("after_load"):
        model = hook(model, words.raw) or model
    window = hf_models.context_window(model.config, options)
    return HFEngine(model, words, window, options)


def _load_arguments(source: model_files.ModelSource, options: EngineOptions) -> dict[str, Any]:
    import torch

    arguments: dict[str, Any] = {"dtype": getattr(torch, hf_models.resolve_dtype(options))}
    if not source.gguf:
        arguments["use_safetensors"] = None if options.allow_pickle else True
    if attention := _attention(options):
        arguments["attn_implementation"] = attention
    if options.shard_across_gpus or torch.cuda.device_count() > 1:
        arguments["device_map"] = "auto"
    elif torch.cuda.is_available():
        arguments["device_map"] = "cuda:0"
    return arguments


def _load_weights(source: model_files.ModelSource, options: EngineOptions) -> Any:  # noqa: ANN401
    config = hf_models.load_config(source, options)
    checkpoints.require_known_packing(config, source)
    arguments = _load_arguments(source, options) | dict(options.model_args)
    # What does not fit is then named, and refused below.
    arguments |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if not source.gguf:
        arguments["config"] = config
    auto_class = hf_models.auto_class(config)
    for hook in load_plugins(options).hooks("before_load"):
        hook(config, arguments)
    try:
        model, info = hf_models.from_pretrained(auto_class, source, options, **arguments)
    except LVEvalError as error:
        chosen_here = options.attn_implementation == "auto" and "attn_implementation" in arguments
        if not (chosen_here and _refuses_flash_attention(error.__cause__)):
            raise
        del arguments["attn_implementation"]
        model, info = hf_models.from_pretrained(auto_class, source, options, **arguments)
    checkpoints.require_whole(info, source)
    if {"rope_scaling", "rope_parameters"} & options.hf_overrides.keys():
        shipped = hf_models.load_config(source, replace(options, hf_overrides={}))
        checkpoints.require_scaled(model, shipped)
    if source.adapter:
        model = checkpoints.with_adapter(model, source.adapter)
    return model.eval()


def _refuses_flash_attention(error: BaseException | None) -> bool:
    """Return whether transformers says that the model or this machine has no flash attention."""
    return isinstance(error, ValueError | ImportError) and (
        re.search(r"flash[ _]?attention|flash_attn", str(error), re.I) is not None
    )


def _require_on_gpu(model: Any, source: model_files.ModelSource) -> None:  # noqa: ANN401
    import torch

    if not torch.cuda.is_available():
        return
    # A model that was split has the map; one that went to the CPU whole shows in its weights.
    places = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    places |= {weight.device.type for weight in model.parameters()}
    if spilled := sorted(places & {"cpu", "disk", "meta"}):
        raise UsageError(
            f"{source.name}: does not fit on the visible GPUs, parts of it would go to "
            f"{' and '.join(spilled)}; use more GPUs, a smaller --dtype or a smaller model"
        )


def _apply_generation_settings(
    model: Any,  # noqa: ANN401
    source: model_files.ModelSource,
    options: EngineOptions,
) -> None:
    from transformers import GenerationConfig

    shipped = model.generation_config
    if options.pure_greedy:
        # A repetition_penalty, for one, acts on greedy decoding too. Arguments of `generate` would
        # not stop it: fields that they leave unset are filled in from the model's settings.
        kept = {
            name: getattr(shipped, name)
            for name in ("eos_token_id", "pad_token_id", "bos_token_id")
        }
        model.generation_config = GenerationConfig(**kept)
    elif neutralised := checkpoints.neutralise(shipped):
        log.warning(
            "warning: %s ships %s, which is no part of greedy decoding and is left out",
            source.name,
            ", ".join(neutralised),
        )
    if model.generation_config.pad_token_id is None:  # never read: one row a pass
        ends = shipped.eos_token_id
        model.generation_config.pad_token_id = ends[0] if isinstance(ends, list) else ends
