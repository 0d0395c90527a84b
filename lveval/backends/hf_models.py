"""A model's files, configuration and tokenizer, as the hf and vllm backends read them.

    source = model_files.model_source(options)
    tokenizer = hf_models.load_tokenizer(source, options)

Nothing here runs a model's own code or reads a pickle unless the options allow it.
"""

import hashlib
import itertools
import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lveval.backends import chat_templates, checkpoints
from lveval.backends.base import (
    CheckResult,
    EngineOptions,
    Json,
    PlainTokenizer,
    Tokens,
    ok,
    prompt_limit,
    warning,
)
from lveval.backends.model_files import (
    ModelSource,
    custom_generate,
    files_of,
    hash_files,
    is_mlx_quantized,
    model_source,
    reject_pickled_weights,
    require_on_hub,
    tokenizer_source,
    unasked_code,
    what_it_is,
)
from lveval.common import reasoning
from lveval.common.errors import UsageError
from lveval.common.text import first_line

# A chat template that prints today's date would give another prompt after midnight: a macro hides
# the clock's function.
FIXED_DATE = (
    "{%- macro strftime_now(form) -%}{{ {'%d %b %Y': '26 Jul 2024', "
    "'%B %d, %Y': 'July 26, 2024', "
    "'%Y-%m-%d': '2024-07-26'}.get(form, '26 July 2024') }}{%- endmacro -%}"
)


def model_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """Return what of the model decides the answers; raises UsageError for what cannot work."""
    import torch

    source, tokenizer = model_source(options), tokenizer_source(options)
    reject_pickled_weights(source, options)
    settings = load_config(source, options)
    limit, window = options.model_max_len, context_window(settings, options)
    if window is not None and limit + options.max_new_tokens > window:
        raise UsageError(
            f"--model-max-len {limit}: the model's window is {window} tokens, an answer takes "
            f"{options.max_new_tokens}; pass about {prompt_limit(window, options.max_new_tokens)} "
            "(which leaves room for the chat format and the answer), or --backend-args window=N "
            "where N is true"
        )
    if options.gpus > torch.cuda.device_count():
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES names {options.gpus} GPUs, torch finds "
            f"{torch.cuda.device_count()}; name those that are there (none, CUDA_VISIBLE_DEVICES=, "
            "for a run on the CPU), or install the torch that fits the driver"
        )
    return {
        "torch": torch.__version__,
        "model": source.fingerprint(),
        "custom_generate": custom_generate(source),
        "revision": getattr(settings, "_commit_hash", None),
        **({"adapter": hash_files(files_of(source.adapter))} if source.adapter else {}),
        **({"tokenizer": tokenizer.fingerprint()} if tokenizer else {}),
        "dtype": resolve_dtype(options),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "pure_greedy": options.pure_greedy,
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
    }


def require_gpu(options: EngineOptions) -> None:
    """Raise UsageError in a worker whose GPU is gone: it must not go on with the CPU."""
    import torch

    if options.gpus and not torch.cuda.is_available():
        raise UsageError(
            "a worker finds no GPU any more, though the run began on one; look at nvidia-smi"
        )


def from_pretrained(
    auto_class: Any,  # noqa: ANN401 - an Auto class of transformers
    source: ModelSource,
    options: EngineOptions,
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Call `from_pretrained`; raises UsageError, whose cause is what transformers raised."""
    try:
        return auto_class.from_pretrained(source.name, **source.load_kwargs(options), **kwargs)
    except Exception as error:  # transformers and a model's own code may raise anything
        if is_out_of_memory(error):
            raise UsageError(
                f"{source.name}: there is too little memory to load it; spread it over more GPUs "
                "(--single-process), use a smaller --dtype, fewer --num-workers or a smaller model"
            ) from error
        refusal = unasked_code(source.name, source.folder)
        if refusal and not options.trust_remote_code:
            raise refusal from None
        if found := what_it_is(source.folder) if source.folder and not source.gguf else "":
            raise UsageError(f"{source.name}: {found}") from error
        hint = ""
        if source.folder is None and not (options.trust_remote_code and options.allow_pickle):
            hint = (
                "; if it needs Python code of its own or has only pickled weights, look at its "
                "files on the Hub and, if you trust them, add --trust-remote-code or --allow-pickle"
            )
        raise UsageError(f"{source.name}: {cannot_load(error)}{hint}") from error


def cannot_load(error: Exception) -> str:
    """Say in a sentence that transformers failed with `error`."""
    return f"transformers cannot load it ({type(error).__name__}: {first_line(error)})"


def load_config(source: ModelSource, options: EngineOptions) -> Any:  # noqa: ANN401
    """Load the configuration of a model that writes text; raises UsageError."""
    from transformers import AutoConfig

    if source.folder is None:
        require_on_hub(source)
    config = from_pretrained(AutoConfig, source, options)
    if is_mlx_quantized(config):
        raise UsageError(
            f"{source.name}: weights packed for MLX, which transformers does not read; expected "
            "the original model"
        )
    if not options.trust_remote_code:
        checkpoints.reject_hub_kernels(config, source)
    checkpoints.require_generative(config, source)
    checkpoints.reject_adapter_beside_weights(source)
    return checkpoints.overridden(config, options.hf_overrides)


SCALED = "max_sequence_length"


def auto_class(config: Any) -> Any:  # noqa: ANN401 - of transformers
    """Choose the Auto class that loads a model; of one that also sees, its part for text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = type(config) in AutoModelForImageTextToText._model_mapping
    known = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForImageTextToText if sees and not known else AutoModelForCausalLM


def require_whole(source: ModelSource, options: EngineOptions) -> None:
    """Raise UsageError where weights are missing, from the names and shapes alone.

    For engines that load a model themselves: vLLM answers with what is left. Where transformers
    does not read the weights (packed ones, an architecture that it does not know), nothing is said.
    """
    config = load_config(source, options)
    if getattr(config, "quantization_config", None):
        return
    arguments = {"config": config, "device_map": "meta", "output_loading_info": True}
    arguments["use_safetensors"] = None if options.allow_pickle else True
    try:
        _, info = from_pretrained(
            auto_class(config), source, options, ignore_mismatched_sizes=True, **arguments
        )
    except UsageError:
        return
    checkpoints.require_whole(info, source)


def merged_overrides(source: ModelSource, options: EngineOptions) -> dict[str, Json]:
    """Return the fields of config.json that --hf-overrides changes, as they are after merging."""
    shipped = load_config(source, replace(options, hf_overrides={})).to_dict()
    merged = load_config(source, options).to_dict()
    return {name: value for name, value in merged.items() if value != shipped.get(name)}


# How configurations spell the window; `seq_length` is ChatGLM's. FastChat's models have the trained
# window under the first name, and under the last the one after their scaling of positions.
WINDOWS = ("max_position_embeddings", "seq_length", "n_positions", "max_seq_len", "n_ctx", SCALED)


def context_window(settings: Any, options: EngineOptions) -> int | None:  # noqa: ANN401
    """Return the model's window in tokens, or None; a scaling of positions widens it."""
    if "window" in options.args:
        return int(str(options.args["window"]))
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    values = {name: getattr(text, name, None) for name in WINDOWS}
    known = {name: n for name, n in values.items() if isinstance(n, int) and n > 1}
    window = max(next(iter(known.values())), known.get(SCALED, 0)) if known else None
    scaling = getattr(text, "rope_parameters", None) or {}
    trained, factor = (scaling.get(name) for name in (checkpoints.TRAINED, "factor"))
    return max(window, int(trained * factor)) if window and trained and factor else window


def window_without_loading(options: EngineOptions) -> int | None:
    """Return the model's window by its configuration alone; raises UsageError."""
    return context_window(load_config(model_source(options), options), options)


def load_generation_config(source: ModelSource, settings: Any) -> Any:  # noqa: ANN401
    """Load the generation settings that the model ships, or that `settings` implies."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source.name, revision=source.revision)
    except OSError:  # none is shipped
        return GenerationConfig.from_model_config(settings)


def resolve_dtype(options: EngineOptions) -> str:
    """Resolve `auto`: bfloat16 on a GPU; float32 on a CPU, where bfloat16 is far slower."""
    import torch

    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a GPU or the machine had too little memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    causes = (
        "out of memory",
        "can't allocate memory",
        "Cannot allocate memory",
        "not enough memory",
    )
    return any(cause in str(error) for cause in causes)


# Both languages, white space, rare characters and what looks like a special token.
TOKENIZER_PROBE = (
    "  A probe:\n\n\t\u706f\u5854\u5efa\u4e8e1874\u5e74\u3002 <s></s><|im_start|> "
    "caf\u00e9 \U0001f30a\u200b  "
)


def _fast_encoder(tokenizer: Any) -> Any:  # noqa: ANN401 - a tokenizers.Tokenizer or None
    """Return the Rust tokenizer behind `tokenizer`, which skips the offsets, if its ids are equal.

    They are not where the Python side adds something of its own.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if rust is None:
        return None
    for special in (True, False):
        # The call also resets truncation and padding left in the tokenizer's file.
        expected = tokenizer(TOKENIZER_PROBE, add_special_tokens=special, verbose=False)
        found = rust.encode_batch_fast([TOKENIZER_PROBE], add_special_tokens=special)[0].ids
        if found != expected["input_ids"]:
            return None
    return rust


# --- What --check says of it --------------------------------------------------------------------


def check_model(options: EngineOptions) -> Iterator[CheckResult]:
    """Check whether the model was made for prompts of this length."""
    settings = load_config(model_source(options), options)
    limit, window = options.model_max_len, context_window(settings, options)
    if window is None:
        yield warning(f"window: the model does not tell it; is {limit:,} tokens within it?")
    else:
        used = f"prompts use {limit:,} and answers {options.max_new_tokens}"
        yield ok(f"window: {window:,} tokens, of which {used}")
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    yield from _check_scaling(text, limit)
    sliding = getattr(text, "sliding_window", None)
    if isinstance(sliding, int) and getattr(text, "use_sliding_window", True) and sliding < limit:
        yield warning(f"attention: some layers see only the last {sliding:,} tokens")


def _check_scaling(settings: Any, limit: int) -> Iterator[CheckResult]:  # noqa: ANN401
    scaling = (
        getattr(settings, "rope_parameters", None) or getattr(settings, "rope_scaling", None) or {}
    )
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    trained = scaling.get(checkpoints.TRAINED)
    if kind not in ("default", "mrope"):
        beyond = f", from the {trained:,} tokens it was trained on" if trained else ""
        factor = scaling.get("factor", "unknown")
        yield ok(f"positions: scaled by the model ({kind}, factor {factor}{beyond})")
    elif trained and limit > trained:
        yield warning(
            f"positions: the model was trained on {trained:,} tokens and scales none; expected a "
            "limit within that, or the rope_scaling that its model card gives"
        )


class HFTokenizer:
    """A transformers tokenizer; encoding releases the GIL, so preparing overlaps generating."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        think_tags: Collection[tuple[str, str]] = (),
        template_args: Mapping[str, Json] | None = None,
    ) -> None:
        self.raw = tokenizer
        self._template_args = template_args or {}
        self.known_tags = [*think_tags]
        tags = "".join(itertools.chain(*think_tags))
        # Decoding skips more than the tokenizer's named special tokens: all that are marked so.
        marked = getattr(tokenizer, "added_tokens_decoder", {})
        specials = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        specials |= {id_: str(token) for id_, token in marked.items() if token.special}
        self._think_marks = {id_: token for id_, token in specials.items() if token in tags}
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, str) and "strftime_now" in template:
            tokenizer.chat_template = FIXED_DATE + template
        self.bos: int | None = tokenizer.bos_token_id
        bare, whole = (
            self.raw("a", add_special_tokens=added)["input_ids"] for added in (False, True)
        )
        appended = whole and bare[-1:] != whole[-1:] and whole[-1] == tokenizer.eos_token_id
        self.appended_eos: int | None = whole[-1] if appended else None
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        self._fast = _fast_encoder(tokenizer)

    @property
    def template_sha256(self) -> str | None:
        """Hash the chat template in force; None where there is none."""
        template = getattr(self.raw, "chat_template", None)
        return hashlib.sha256(str(template).encode()).hexdigest() if template else None

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """Return token ids."""
        ids: list[int]
        if self._fast is not None:
            ids = self._fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        else:
            ids = self.raw(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        return ids

    def without_bos(self, text: str) -> str:
        """Return a formatted prompt for a server that tokenizes it as this tokenizer would."""
        begun = [*self.encode("x")][:1] == [self.bos]
        return text.removeprefix(self.raw.bos_token) if begun else text

    @property
    def think_tags(self) -> tuple[str, str]:
        """The tags that this model puts around its reasoning: by its chat template, or its tokens.

        Of several the first that --think-tags or the table in utils.py names.
        """
        template = str(getattr(self.raw, "chat_template", None) or "")
        known = [tags for tags in self.known_tags if tags[1] in template] or [
            tags
            for tags in self.known_tags
            if len(self.encode(tags[1], add_special_tokens=False)) == 1
        ]
        return (known or [*self.known_tags, ("<think>", "</think>")])[0]

    def reasoning_tokens(self, prompt: str, tokens: Sequence[int]) -> int:
        """Count an answer's tokens up to the end of its reasoning, the closing tag among them."""
        text = self.decode_answer(tokens)
        end = reasoning.end(text, self.known_tags)
        if end:
            lengths = range(len(tokens))
            return (
                bisect_left(lengths, end, key=lambda n: len(self.decode_answer(tokens[: n + 1])))
                + 1
            )
        opened = reasoning.is_opened(prompt, self.known_tags)
        return len(tokens) if opened or reasoning.opened_by(text, self.known_tags) else 0

    def usage(self, prompt: str, tokens: Sequence[int]) -> dict[str, int]:
        """What a record tells of an answer that has reasoning in it; empty for any other."""
        count = self.reasoning_tokens(prompt, tokens)
        return {"completion_tokens": len(tokens), "reasoning_tokens": count} if count else {}

    def decode_answer(self, tokens: Sequence[int]) -> str:
        """Return an answer's text, special tokens skipped but those that mark its reasoning."""
        parts: list[str] = []
        for is_mark, group in itertools.groupby(tokens, self._think_marks.__contains__):
            ids = [*group]
            parts += [self._think_marks[id_] for id_ in ids] if is_mark else [self.decode(ids)]
        return "".join(parts)

    def decode(self, tokens: Tokens) -> str:
        """Return the text, special tokens skipped."""
        text: str = self.raw.decode(tokens, skip_special_tokens=True)
        return text

    def apply_chat_template(self, prompt: str) -> str:
        """Format one user turn and the cue of the answer.

        A multimodal model's template may read the turn as parts of text and images only.
        """
        text = self._template_turn(prompt)
        if prompt.strip() in text:
            return text
        in_parts = self._template_turn([{"type": "text", "text": prompt}])
        # A template that cuts its text would print the parts as Python does.
        return in_parts if prompt.strip() in in_parts and "{'type': " not in in_parts else text

    def _template_turn(self, content: object) -> str:
        from transformers import PreTrainedTokenizerBase as Plain

        turns = [{"role": "user", "content": content}]
        try:
            if type(self.raw).apply_chat_template is Plain.apply_chat_template:
                model = self.raw.name_or_path
                words = {**self.raw.special_tokens_map, **self._template_args}
                return chat_templates.render(model, self.raw.get_chat_template(), turns, words)
            how = {"tokenize": False, "add_generation_prompt": True, **self._template_args}
            return str(self.raw.apply_chat_template(turns, **how))  # code of its own, or Mistral's
        except UsageError:
            raise
        except Exception as error:  # it may raise anything
            raise UsageError(
                f"the tokenizer's chat template fails ({type(error).__name__}: "
                f"{first_line(error)}); mend it, or use --chat-template none"
            ) from error

    def build_prompt(self, prompt: str) -> str:
        """Format `prompt` as ChatGLM2 does; raises UsageError in any other tokenizer."""
        if not hasattr(self.raw, "build_prompt"):
            return PlainTokenizer().build_prompt(prompt)
        return str(self.raw.build_prompt(prompt))


def load_tokenizer(source: ModelSource, options: EngineOptions) -> HFTokenizer:
    """Load the model's own tokenizer, or that of --tokenizer; raises UsageError."""
    from transformers import AutoTokenizer

    source = tokenizer_source(options) or source
    tokenizer = from_pretrained(AutoTokenizer, source, options)
    path = source.folder / "chat_template.json" if source.folder else None
    if path and path.is_file() and not getattr(tokenizer, "chat_template", None):
        try:  # a processor's spelling, which a tokenizer does not read
            tokenizer.chat_template = str(json.loads(path.read_bytes())["chat_template"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(
                f'{path}: found no JSON object with "chat_template" ({first_line(error)})'
            ) from error
    checkpoints.require_round_trip(tokenizer, source)
    template = str(getattr(tokenizer, "chat_template", None) or "")
    for name in options.chat_template_args:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise UsageError(
                f"--chat-template-args: the tokenizer's chat template has no {name}; expected a "
                "name that it reads"
            )
    return HFTokenizer(tokenizer, options.think_tags, options.chat_template_args)
