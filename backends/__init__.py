"""Engines behind one Protocol: a backend takes prompts and yields `(position, Answer)` as each is ready, in any order.

    python prediction.py --backend echo --data-path DATA --model-name dry-run

One file per engine. A backend module offers `ARGS` (its `--backend-args`, name -> type), `TUNING` (those that change no
answer), `load(options)`, and what is found without loading a model: `identity(options)` (what of it decides the
answers), `tokenizer(options)`, `own_chat(options)` and `at_once(options)`.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

from errors import HarnessError, choices

# int ids from real tokenizers, strings from the echo backend; the harness only counts, slices and hands them back.
Tokens = Sequence[int] | Sequence[str]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
# "transient" is a try that failed and is being repeated; all after "refused" are no answers.
Status = Literal["ok", "length", "empty", "refused", "error", "invalid", "context_overflow", "transient"]

# --backend NAME -> the module that serves it.
BACKENDS: dict[str, str] = {
    "hf": "backends.hf",
    "vllm": "backends.vllm_engine",
    "openai": "backends.openai_api",
    "echo": "backends.echo",
}
# Those that run on the GPUs of this machine.
ON_GPUS = ("hf", "vllm")
# Engines that run elsewhere: the coordinating process asks them, many rows at once, and needs no workers.
HOSTED = ("openai",)


class Tokenizer(Protocol):
    """What turning a row into a prompt needs of a tokenizer."""

    @property
    def bos(self) -> int | None:
        """The token that begins a text, where there is one."""

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` works."""

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """The tokens of `text`, with the special tokens that the tokenizer adds by default."""

    def decode(self, tokens: Tokens) -> str:
        """The text of `tokens`, special tokens skipped."""

    def apply_chat_template(self, prompt: str) -> str:
        """`prompt` as one user turn of the tokenizer's chat template, the answer's cue included."""

    def build_prompt(self, prompt: str) -> str:
        """The `build_prompt` of ChatGLM2's own tokenizer; a HarnessError where the tokenizer has none."""


@dataclass(frozen=True)
class Prompt:
    """One row made ready. `text` is the truncated prompt, `formatted` the same in the model's chat format.

    `tokens` are those of `formatted`. With `own_chat` the model's `.chat()` is asked with `text` and formats it itself.
    """

    text: str
    formatted: str
    tokens: Tokens
    max_new_tokens: int
    own_chat: bool = False
    key: str = ""  # <subset>/<level>/<index>


@dataclass(frozen=True)
class Answer:
    """What a backend yields for a prompt: raw text (not yet post-processed), status, finish reason, new-token count.

    A status outside ok, length, empty and refused means that there is no answer; `error` then tells why. `usage` is
    what a service counted, in tokens, by the names it uses.
    """

    text: str
    status: Status
    finish_reason: str | None = None
    output_tokens: int | None = None
    error: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)


class BackendBroken(Exception):
    """The engine of this process can answer nothing more (a CUDA fault, say): the process must be replaced."""


class Backend(Protocol):
    """A loaded engine."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that prompts are cut and counted with."""

    @property
    def own_chat(self) -> bool:
        """Whether the loaded model has a `.chat()`."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Answer greedily; raises BackendBroken where the process cannot go on."""

    def effective(self) -> dict[str, Json]:
        """What was decided while loading (attention, dtype, generation settings): part of the run's identity."""


class HostedBackend(Backend, Protocol):
    """An engine that runs elsewhere."""

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Take prompts as there is room for them, and yield as Backend does.

        A position is yielded once for each try that failed and is repeated (status transient), then once with its end.
        When it is yielded it has been dealt with at the latest when the next item is asked for: only then does the
        engine take another prompt in its place. Raises HarnessError (SERVICE, INCOMPLETE) where no row can go on.
        """


@dataclass(frozen=True)
class Service:
    """How a service is asked: what only hosted backends are told."""

    base_url: str | None = None
    tokenizer: str | None = None  # hf:PATH, tiktoken:NAME or server
    request_args: Mapping[str, Json] = field(default_factory=dict)  # fields of the request; None drops one
    system_message: str | None = None
    chat: bool = True  # the service formats the prompt; else it gets the formatted text to complete
    concurrency: int = 8
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    max_outage: float = 6.0  # hours
    batch: bool = False  # through the Batch API
    batch_folder: str = ""  # where what is known of the run's batches is kept


@dataclass(frozen=True)
class Options:
    """What a backend is told; plain values, sent to the workers."""

    model_path: str | None
    model_max_len: int
    dtype: str = "auto"
    attn: str = "auto"
    seed: int = 42
    pure_greedy: bool = False
    trust_remote_code: bool = False
    allow_pickle: bool = False
    batch_size: int = 1  # --batch-size
    gpus_per_worker: int = 1
    spread: bool = False  # one process, the model over all visible GPUs (--single-process)
    gpus: int = 0  # that the run counts on; a worker that sees none must not go on with the CPU
    budget: int = 0  # the largest answer budget, in new tokens, of the selected subsets
    service: "Service | None" = None
    args: Mapping[str, Json] = field(default_factory=dict)


class BackendModule(Protocol):
    """The face of a module in this folder."""

    ARGS: dict[str, Callable[[str], Json]]
    TUNING: tuple[str, ...]  # those of them that change no answer

    def identity(self, options: Options) -> dict[str, Json]:
        """What decides the answers, told before anything heavy is loaded."""

    def at_once(self, options: Options) -> int:
        """How many rows the engine computes together: `generate` may be called from so many threads. 1: one by one."""

    def tokenizer(self, options: Options) -> Tokenizer:
        """The tokenizer of the engine that `load` would give, without the engine."""

    def own_chat(self, options: Options) -> bool:
        """Whether the engine that `load` would give has a `.chat()`, told without loading it."""

    def load(self, options: Options) -> Backend:
        """The engine, ready to answer."""


def module(name: str) -> BackendModule:
    """The module of backend `name`; raises HarnessError listing the choices. Imports nothing heavy."""
    if name not in BACKENDS:
        raise choices(name, "backend", list(BACKENDS))
    return cast(BackendModule, importlib.import_module(BACKENDS[name]))


def parse_args(name: str, text: str) -> dict[str, Json]:
    """`key=value,…` of --backend-args, checked against what backend `name` knows."""
    known = module(name).ARGS
    parsed: dict[str, Json] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise choices(key, f"--backend-args key of backend {name}", list(known) or ["(none)"])
        try:
            if not equals:
                raise ValueError
            parsed[key] = known[key](value)
        except ValueError:
            raise HarnessError(f'--backend-args {key}: found "{value}", expected a {known[key].__name__}') from None
    return parsed
