"""The Hugging Face backend: transformers models, one row after another, greedy decoding.

    python prediction.py --model-path /models/chatglm3-6b-32k --model-name chatglm3 --model-max-len 31500

Prefill computes the last token's logits only (`generate` asks for no more), so that 256k-word contexts fit.
"""

import hashlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import Answer, BackendBroken, Json, Options, Prompt, Tokens
from errors import HarnessError

if TYPE_CHECKING:
    import torch

ARGS: dict[str, Any] = {"window": int}  # window=N: the model's true window in tokens, where its config tells too few

FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
# A chat template that prints today's date would ask another prompt after midnight. A macro hides the clock's function.
FIXED_DATE = (
    "{%- macro strftime_now(form) -%}{{ {'%d %b %Y': '26 Jul 2024', '%B %d, %Y': 'July 26, 2024', "
    "'%Y-%m-%d': '2024-07-26'}.get(form, '26 July 2024') }}{%- endmacro -%}"
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


# --- What decides the answers, found without loading the model --------------------------------------------------------


def identity(options: Options) -> dict[str, Json]:
    """Model, versions, dtype and attention of a run; refuses what cannot work. Raises HarnessError."""
    import torch
    import transformers

    source = _source(options)
    _refuse_pickle(source, options)
    settings = _config(source, options)
    limit, window = options.model_max_len, _window(settings, options)
    if window is not None and limit + options.budget > window:
        raise HarnessError(
            f"--model-max-len {limit}: the model's window is {window} tokens, an answer takes {options.budget}; pass "
            f"about {max(2, window - 500)} (500 below it leave room for the chat format and the answer), or "
            "--backend-args window=N where N is true"
        )
    if options.gpus > torch.cuda.device_count():
        raise HarnessError(
            f"CUDA_VISIBLE_DEVICES names {options.gpus} GPUs, torch finds {torch.cuda.device_count()}; name those that "
            "are there (none, CUDA_VISIBLE_DEVICES=, for a run on the CPU), or install the torch that fits the driver"
        )
    return {
        "version": transformers.__version__,
        "torch": torch.__version__,
        "model": options.model_path if source.folder is None else source.fingerprint(),
        "revision": getattr(settings, "_commit_hash", None),
        "dtype": _dtype(options),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "attn": _attention(options) or "default",
        "pure_greedy": options.pure_greedy,
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
    }


class _Source:
    """Where the model's files are: a local folder, a GGUF file in one, or (folder None) a name on the Hub."""

    def __init__(self, path: str) -> None:
        here = Path(path)
        gguf = here.suffix == ".gguf"
        self.gguf = here.name if gguf else None
        self.folder = here.parent if gguf else here if here.is_dir() else None
        self.name = path if self.folder is None else str(self.folder)
        if gguf and not here.is_file():
            raise HarnessError(f"--model-path {path}: no such file")
        if self.folder is None and (path.startswith((".", "/", "~")) or path.count("/") > 1):
            raise HarnessError(f"--model-path {path}: no such folder")
        if self.folder is not None and not gguf and not (self.folder / "config.json").is_file():
            raise HarnessError(f"--model-path {path}: no config.json in it; expected a transformers model folder")

    def load_kwargs(self, options: Options) -> dict[str, Any]:
        """The keywords that every `from_pretrained` of this source takes."""
        kwargs: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
        return kwargs | ({"gguf_file": self.gguf} if self.gguf else {})

    def files(self) -> list[Path]:
        """The local files that make the model, sorted by name."""
        if self.folder is None:
            return []
        if self.gguf:
            return [self.folder / self.gguf]
        return sorted(path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def fingerprint(self) -> str:
        """A hash of names and sizes, of every small file, and of the weights' headers; not of all weights."""
        digest = hashlib.sha256()
        for path in self.files():
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                if path.suffix == ".safetensors":
                    header = int.from_bytes(file.read(8), "little")  # the format: its length, then JSON
                    digest.update(file.read(min(header, 1 << 26)))
                else:
                    digest.update(file.read(1 << 26 if path.suffix not in PICKLE_SUFFIXES else 1 << 20))
        return f"sha256:{digest.hexdigest()}"


def _source(options: Options) -> _Source:
    if not options.model_path:
        raise HarnessError("--model-path is missing; expected a model folder, a .gguf file or a Hub name")
    return _Source(options.model_path)


def _refuse_pickle(source: _Source, options: Options) -> None:
    """Weights in pickle files run code when read: only with --allow-pickle."""
    if source.folder is None or source.gguf or options.allow_pickle:
        return
    names = [path.name for path in source.files()]
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise HarnessError(
            f"{source.name}: its weights are pickle files ({', '.join(pickles[:4])}), which can run code when read; "
            "expected .safetensors. If you trust them: --allow-pickle"
        )


def _remote_code(source: _Source) -> list[str]:
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


def _from_pretrained(auto_class: Any, source: _Source, options: Options, **kwargs: Any) -> Any:  # noqa: ANN401
    """`from_pretrained` with its failures told as one sentence."""
    try:
        return auto_class.from_pretrained(source.name, **source.load_kwargs(options), **kwargs)
    except Exception as error:  # what transformers and a model's own code raise is not ours to foresee
        if _out_of_memory(error):
            raise HarnessError(
                f"{source.name}: there is too little memory to load it; spread it over more GPUs (--single-process), "
                "use a smaller --dtype, fewer --num-workers or a smaller model"
            ) from error
        files = _remote_code(source)
        if files and not options.trust_remote_code:
            raise HarnessError(
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
        raise HarnessError(
            f"{source.name}: transformers cannot load it ({type(error).__name__}: {lines[0]}){hint}"
        ) from error


def _config(source: _Source, options: Options) -> Any:  # noqa: ANN401 - a transformers configuration of any model
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, source, options)


def _window(settings: Any, options: Options) -> int | None:  # noqa: ANN401
    """The model's window in tokens, where it is told; `seq_length` is ChatGLM's spelling."""
    if "window" in options.args:
        return int(str(options.args["window"]))
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    for name in ("max_position_embeddings", "seq_length", "n_positions"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 1:
            return value
    return None


def _dtype(options: Options) -> str:
    """`auto` is bfloat16 on a GPU; float32 on a CPU, where bfloat16 is several times slower."""
    import torch

    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


def _attention(options: Options) -> str | None:
    """The attention to ask transformers for; None leaves it its default (sdpa, where the model has it, else eager).

    A flash attention is asked for only where its own package is installed: transformers would otherwise raise, or fetch
    a kernel from the Hub, which is foreign code.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    asked = options.attn
    installed = is_flash_attn_2_available()
    if asked == "auto":
        usable = installed and torch.cuda.is_available() and _dtype(options) != "float32"
        return "flash_attention_2" if usable else None
    if "/" in asked and not options.trust_remote_code:
        raise HarnessError(f"--attn {asked}: a kernel from the Hub is foreign code; it needs --trust-remote-code")
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(asked, "flash_attn")
    if asked in FLASH and not (installed if asked == FLASH[0] else importlib.util.find_spec(package)):
        raise HarnessError(f"--attn {asked}: its package is not installed or finds no GPU; run: pip install flash-attn")
    return asked


# --- The engine -------------------------------------------------------------------------------------------------------


# Both languages, white space, rare characters and what looks like a special token.
TOKENIZER_PROBE = (
    "  A probe:\n\n\t\u706f\u5854\u5efa\u4e8e1874\u5e74\u3002 <s></s><|im_start|> caf\u00e9 \U0001f30a\u200b  "
)


def _fast_encoder(tokenizer: Any) -> Any:  # noqa: ANN401 - a tokenizers.Tokenizer or None
    """The Rust tokenizer behind `tokenizer`, where it gives the same ids; it skips the offsets that nobody reads here.

    None where there is none, or where the Python side adds something of its own.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if rust is None:
        return None
    for special in (True, False):  # the call also resets truncation and padding left in the tokenizer's file
        expected = tokenizer(TOKENIZER_PROBE, add_special_tokens=special, verbose=False)["input_ids"]
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
            raise HarnessError(
                'the model name contains "chatglm2", whose format its own tokenizer makes, but this tokenizer has no '
                "build_prompt; use another --model-name or --chat-template tokenizer"
            )
        text: str = self.raw.build_prompt(prompt)
        return text


class _NaNError(Exception):
    """The model gave logits that are no numbers."""


def _refuse_nan(ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    """A logits processor: argmax over NaN would give a token all the same."""
    if bool(scores.isnan().any()):
        raise _NaNError
    return scores


class HFBackend:
    """A loaded model that answers prompts one by one."""

    def __init__(self, model: Any, tokenizer: HFTokenizer, window: int | None) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        self.own_chat = callable(getattr(model, "chat", None))
        self._model = model
        self._window = window if window is not None else math.inf

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield one answer after another; out of memory is tried once more with an emptied cache."""
        for position, prompt in enumerate(prompts):
            yield position, self._answer(prompt)

    def _answer(self, prompt: Prompt) -> Answer:
        import torch

        needed = len(prompt.tokens) + prompt.max_new_tokens
        if needed > self._window:
            message = f"prompt and answer budget are {needed} tokens, the model's window is {self._window}"
            return Answer("", "context_overflow", error=message)
        for last_try in (False, True):
            try:
                return self._chat(prompt) if prompt.own_chat else self._greedy(prompt)
            except _NaNError:
                return Answer("", "invalid", error="the model's logits contain NaN")
            except Exception as error:  # a row's fault, whatever it is in a model's own code, is that row's alone
                if _out_of_memory(error):
                    if last_try:
                        return Answer("", "error", error=f"out of memory at {len(prompt.tokens)} tokens, twice")
                elif "CUDA error" in str(error) or "device-side assert" in str(error):
                    raise BackendBroken(str(error).splitlines()[0]) from error
                else:
                    hint = " (in the model's .chat(); --chat-template tokenizer or none goes round it)"
                    where = hint if prompt.own_chat else ""
                    return Answer("", "error", error=f"{type(error).__name__}: {error}{where}")
            # Outside the handler the failed pass's tensors are no longer held by the traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise AssertionError("the second try returns")

    def _greedy(self, prompt: Prompt) -> Answer:
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
        return Answer(text, "length" if cut else "ok", "length" if cut else "stop", len(new))

    def _chat(self, prompt: Prompt) -> Answer:
        import torch

        with torch.inference_mode():
            text, _ = self._model.chat(
                self.tokenizer.raw, prompt.text, history=[], do_sample=False, max_new_tokens=prompt.max_new_tokens
            )
        return Answer(str(text), "ok")

    def effective(self) -> dict[str, Json]:
        """Attention, dtype and the generation settings in force, and the hash of the chat template."""
        template = getattr(self.tokenizer.raw, "chat_template", None)
        settings = self._model.generation_config.to_diff_dict()
        settings.pop("transformers_version", None)
        return {
            "attn": self._model.config._attn_implementation,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "own_chat": self.own_chat,
            "generation": json.loads(json.dumps(settings, sort_keys=True, default=str)),
            "chat_template": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        }


def _out_of_memory(error: Exception) -> bool:
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


def tokenizer(options: Options) -> HFTokenizer:
    """The model's tokenizer; reads none of its weights. Raises HarnessError where transformers cannot load it."""
    from transformers import AutoTokenizer

    return HFTokenizer(_from_pretrained(AutoTokenizer, _source(options), options))


def own_chat(options: Options) -> bool:
    """Whether the model has a `.chat()`, which no class of transformers has: imports the code that the model brings."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    source = _source(options)
    brought = (getattr(_config(source, options), "auto_map", None) or {}).get("AutoModelForCausalLM")
    if not brought or not options.trust_remote_code:
        return False
    try:
        return hasattr(get_class_from_dynamic_module(brought, source.name), "chat")
    except Exception as error:  # a model's own code may raise anything
        raise HarnessError(f"{source.name}: its code cannot be imported ({type(error).__name__}: {error})") from error


def load(options: Options) -> HFBackend:
    """The model and its tokenizer on this process's GPU, on the CPU, or (options.spread) over all visible GPUs.

    Raises HarnessError where a model would spill to the CPU or the disk.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # or weights that a bot converted could take the place of these
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(options.seed)
    source = _source(options)
    _refuse_pickle(source, options)
    words = tokenizer(options)
    gpu = torch.cuda.is_available()
    if options.gpus and not gpu:
        raise HarnessError("a worker finds no GPU any more, though the run began on one; look at nvidia-smi")
    spread = options.spread or torch.cuda.device_count() > 1
    kwargs: dict[str, Any] = {"dtype": getattr(torch, _dtype(options))}
    if not source.gguf:
        kwargs["use_safetensors"] = None if options.allow_pickle else True
    if attention := _attention(options):
        kwargs["attn_implementation"] = attention
    if gpu:
        kwargs["device_map"] = "auto" if spread else "cuda:0"
    elif options.spread:
        kwargs["device_map"] = "auto"
    try:
        model = _from_pretrained(AutoModelForCausalLM, source, options, **kwargs).eval()
    except HarnessError:
        if attention is None or options.attn != "auto":
            raise
        del kwargs["attn_implementation"]  # not every model has flash-attention
        model = _from_pretrained(AutoModelForCausalLM, source, options, **kwargs).eval()
    # The map is there only for a model that was split; one that went to the CPU whole shows in its weights.
    places = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    spilled = sorted((places | {weight.device.type for weight in model.parameters()}) & {"cpu", "disk", "meta"})
    if gpu and spilled:
        raise HarnessError(
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
        model.generation_config.pad_token_id = ends[0] if isinstance(ends, list) else ends  # never read: one row a pass
    return HFBackend(model, words, _window(model.config, options))


def _drop_shipped_settings(model: Any) -> None:  # noqa: ANN401
    """Keep the special tokens of the shipped generation settings and nothing else.

    A repetition_penalty, for one, acts on greedy decoding too; passing other settings to `generate` would not stop it,
    since unset fields are filled in from these.
    """
    from transformers import GenerationConfig

    shipped = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=shipped.eos_token_id, pad_token_id=shipped.pad_token_id, bos_token_id=shipped.bos_token_id
    )
