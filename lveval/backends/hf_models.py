"""What stands in a model's folder, and may be read of it: files, configuration, tokenizer. Shared by hf and vllm.

    source = model_files.source_of(options)
    tokenizer = model_files.load_tokenizer(source, options)

Nothing here runs a model's own code or reads a pickle unless the options allow it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from lveval.backends.base import EngineOptions, Json, Tokens
from lveval.common.errors import UsageError

# A chat template that prints today's date would ask another prompt after midnight. A macro hides the clock's function.
FIXED_DATE = (
    "{%- macro strftime_now(form) -%}{{ {'%d %b %Y': '26 Jul 2024', '%B %d, %Y': 'July 26, 2024', "
    "'%Y-%m-%d': '2024-07-26'}.get(form, '26 July 2024') }}{%- endmacro -%}"
)

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


def model_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """What of the model decides the answers on any engine; refuses what cannot work. Raises LVEvalError."""
    import torch

    source = model_source(options)
    reject_pickled_weights(source, options)
    settings = load_config(source, options)
    limit, window = options.model_max_len, context_window(settings, options)
    if window is not None and limit + options.budget > window:
        raise UsageError(
            f"--model-max-len {limit}: the model's window is {window} tokens, an answer takes {options.budget}; pass "
            f"about {max(2, window - 500)} (500 below it leave room for the chat format and the answer), or "
            "--backend-args window=N where N is true"
        )
    if options.gpus > torch.cuda.device_count():
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES names {options.gpus} GPUs, torch finds {torch.cuda.device_count()}; name those that "
            "are there (none, CUDA_VISIBLE_DEVICES=, for a run on the CPU), or install the torch that fits the driver"
        )
    return {
        "torch": torch.__version__,
        "model": options.model_path if source.folder is None else source.fingerprint(),
        "revision": getattr(settings, "_commit_hash", None),
        "dtype": resolve_dtype(options),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "pure_greedy": options.pure_greedy,
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
    }


# --- The files --------------------------------------------------------------------------------------------------------


class ModelSource:
    """Where the model's files are: a local folder, a GGUF file in one, or (folder None) a name on the Hub."""

    def __init__(self, path: str) -> None:
        here = Path(path)
        gguf = here.suffix == ".gguf"
        self.gguf = here.name if gguf else None
        self.folder = here.parent if gguf else here if here.is_dir() else None
        self.name = path if self.folder is None else str(self.folder)
        if gguf and not here.is_file():
            raise UsageError(f"--model-path {path}: no such file")
        if self.folder is None and (path.startswith((".", "/", "~")) or path.count("/") > 1):
            raise UsageError(f"--model-path {path}: no such folder")
        if self.folder is not None and not gguf and not (self.folder / "config.json").is_file():
            raise UsageError(
                f"--model-path {path}: no config.json in it; expected a transformers model folder"
            )

    def load_kwargs(self, options: EngineOptions) -> dict[str, Any]:
        """The keywords that every `from_pretrained` of this source takes."""
        kwargs: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
        return kwargs | ({"gguf_file": self.gguf} if self.gguf else {})

    def files(self) -> list[Path]:
        """The local files that make the model, sorted by name."""
        if self.folder is None:
            return []
        if self.gguf:
            return [self.folder / self.gguf]
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )

    def fingerprint(self) -> str:
        """A hash of names and sizes, of every small file, and of the weights' headers; not of all weights."""
        digest = hashlib.sha256()
        for path in self.files():
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                if path.suffix == ".safetensors":
                    header = int.from_bytes(
                        file.read(8), "little"
                    )  # the format: its length, then JSON
                    digest.update(file.read(min(header, 1 << 26)))
                else:
                    digest.update(
                        file.read(1 << 26 if path.suffix not in PICKLE_SUFFIXES else 1 << 20)
                    )
        return f"sha256:{digest.hexdigest()}"


def model_source(options: EngineOptions) -> ModelSource:
    """Where --model-path leads. Raises LVEvalError where it leads nowhere."""
    if not options.model_path:
        raise UsageError(
            "--model-path is missing; expected a model folder, a .gguf file or a Hub name"
        )
    return ModelSource(options.model_path)


def reject_pickled_weights(source: ModelSource, options: EngineOptions) -> None:
    """Weights in pickle files run code when read: only with --allow-pickle."""
    if source.folder is None or source.gguf or options.allow_pickle:
        return
    names = [path.name for path in source.files()]
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise UsageError(
            f"{source.name}: its weights are pickle files ({', '.join(pickles[:4])}), which can run code when read; "
            "expected .safetensors. If you trust them: --allow-pickle"
        )


def _remote_code(source: ModelSource) -> list[str]:
    """The Python files that --trust-remote-code would run, as the model's configuration names them."""
    files: set[str] = set()
    for name in ("config.json", "tokenizer_config.json"):
        path = source.folder / name if source.folder is not None else None
        if path is None or not path.is_file():
            continue
        try:
            targets = (json.loads(path.read_text(encoding="utf-8")).get("auto_map") or {}).values()
        except (ValueError, AttributeError):  # transformers says what is wrong with it
            continue
        for target in targets:
            for reference in target if isinstance(target, list) else [target]:
                if isinstance(reference, str):
                    files.add(reference.rpartition(".")[0].split("--")[-1] + ".py")
    return sorted(files)


def from_pretrained(
    auto_class: Any, source: ModelSource, options: EngineOptions, **kwargs: Any
) -> Any:  # noqa: ANN401
    """`from_pretrained` with its failures told as one sentence."""
    try:
        return auto_class.from_pretrained(source.name, **source.load_kwargs(options), **kwargs)
    except (
        Exception
    ) as error:  # what transformers and a model's own code raise is not ours to foresee
        if is_out_of_memory(error):
            raise UsageError(
                f"{source.name}: there is too little memory to load it; spread it over more GPUs (--single-process), "
                "use a smaller --dtype, fewer --num-workers or a smaller model"
            ) from error
        files = _remote_code(source)
        if files and not options.trust_remote_code:
            raise UsageError(
                f"{source.name}: this model needs code of its own ({', '.join(files)}), which is not run unasked; "
                "read these files and, if you trust them, add --trust-remote-code"
            ) from None
        lines = str(error).strip().splitlines() or [""]
        hint = ""
        if source.folder is None and not (options.trust_remote_code and options.allow_pickle):
            hint = (
                "; if it needs Python code of its own or has only pickled weights, look at its files on the Hub and, "
                "if you trust them, add --trust-remote-code or --allow-pickle"
            )
        raise UsageError(
            f"{source.name}: transformers cannot load it ({type(error).__name__}: {lines[0]}){hint}"
        ) from error


def load_config(source: ModelSource, options: EngineOptions) -> Any:  # noqa: ANN401 - a transformers configuration of any model
    """The model's configuration. Raises LVEvalError."""
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, source, options)


def context_window(settings: Any, options: EngineOptions) -> int | None:  # noqa: ANN401
    """The model's window in tokens, where it is told; `seq_length` is ChatGLM's spelling."""
    if "window" in options.args:
        return int(str(options.args["window"]))
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    for name in ("max_position_embeddings", "seq_length", "n_positions"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 1:
            return value
    return None


def load_generation_config(source: ModelSource, settings: Any) -> Any:  # noqa: ANN401 - a transformers GenerationConfig
    """The generation settings that the model ships, or those that its configuration `settings` implies."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source.name)
    except OSError:  # none is shipped
        return GenerationConfig.from_model_config(settings)


def resolve_dtype(options: EngineOptions) -> str:
    """`auto` is bfloat16 on a GPU; float32 on a CPU, where bfloat16 is several times slower."""
    import torch

    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU or the machine had too little memory for this row."""
    import torch

    text = str(error)
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
        or "Cannot allocate memory" in text
    )


# --- The tokenizer ----------------------------------------------------------------------------------------------------


# Both languages, white space, rare characters and what looks like a special token.
TOKENIZER_PROBE = "  A probe:\n\n\t\u706f\u5854\u5efa\u4e8e1874\u5e74\u3002 <s></s><|im_start|> caf\u00e9 \U0001f30a\u200b  "


def _fast_encoder(tokenizer: Any) -> Any:  # noqa: ANN401 - a tokenizers.Tokenizer or None
    """The Rust tokenizer behind `tokenizer`, where it gives the same ids; it skips the offsets that nobody reads here.

    None where there is none, or where the Python side adds something of its own.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if rust is None:
        return None
    for special in (
        True,
        False,
    ):  # the call also resets truncation and padding left in the tokenizer's file
        expected = tokenizer(TOKENIZER_PROBE, add_special_tokens=special, verbose=False)[
            "input_ids"
        ]
        if rust.encode_batch_fast([TOKENIZER_PROBE], add_special_tokens=special)[0].ids != expected:
            return None
    return rust


class HFTokenizer:
    """A transformers tokenizer as the harness uses it; `tok()` releases the GIL, so preparing overlaps generating."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401
        self.raw = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, str) and "strftime_now" in template:
            tokenizer.chat_template = FIXED_DATE + template
        self.bos: int | None = tokenizer.bos_token_id
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        self._fast = _fast_encoder(tokenizer)

    @property
    def template_sha256(self) -> str | None:
        """The hash of the chat template in force; None where there is none."""
        template = getattr(self.raw, "chat_template", None)
        return hashlib.sha256(str(template).encode()).hexdigest() if template else None

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """Token ids."""
        ids: list[int]
        if self._fast is not None:
            ids = self._fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        else:
            ids = self.raw(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        return ids

    def decode(self, tokens: Tokens) -> str:
        """Text, special tokens skipped."""
        text: str = self.raw.decode(tokens, skip_special_tokens=True)
        return text

    def apply_chat_template(self, prompt: str) -> str:
        """One user turn and the cue of the answer."""
        turns = [{"role": "user", "content": prompt}]
        text: str = self.raw.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    def build_prompt(self, prompt: str) -> str:
        """The tokenizer's own format, where it has one (ChatGLM2)."""
        if not hasattr(self.raw, "build_prompt"):
            raise UsageError(
                'the model name contains "chatglm2", whose format its own tokenizer makes, but this tokenizer has no '
                "build_prompt; use another --model-name or --chat-template tokenizer"
            )
        text: str = self.raw.build_prompt(prompt)
        return text


def load_tokenizer(source: ModelSource, options: EngineOptions) -> HFTokenizer:
    """The model's own tokenizer. Raises LVEvalError."""
    from transformers import AutoTokenizer

    return HFTokenizer(from_pretrained(AutoTokenizer, source, options))
