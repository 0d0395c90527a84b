"""Engines behind one Protocol: a backend takes prompts and yields `(position, Answer)` as each is ready, in any order.

    python prediction.py --backend echo --data-path DATA --model-name dry-run

One file per engine. A backend module offers `ENGINE_ARGS` (its `--backend-args`, name -> type), `RUNTIME_ONLY_ARGS` (those that change no
answer), `load(options)`, and what is found without loading a model: `identity(options)` (what of it decides the
answers), `tokenizer(options)`, `own_chat(options)` and `at_once(options)`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

# int ids from real tokenizers, strings from the echo backend; the harness only counts, slices and hands them back.
Tokens = Sequence[int] | Sequence[str]

RowKey = tuple[str, str, int]  # (subset, level, index)
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

# "transient" is a try that failed and is being repeated; all after "refused" are no answers.
Status = Literal[
    "ok", "length", "empty", "refused", "error", "invalid", "context_overflow", "transient"
]


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
        """The `build_prompt` of ChatGLM2's own tokenizer; a LVEvalError where the tokenizer has none."""


@dataclass(frozen=True)
class Prompt:
    """One row made ready. `text` is the truncated prompt, `formatted` the same in the model's chat format.

    `tokens` are those of `formatted`. With `own_chat` the model's `.chat()` is asked with `text` and formats it itself.
    """

    text: str
    formatted: str
    tokens: Tokens
    max_new_tokens: int
    native_chat: bool = False
    key: str = ""  # <subset>/<level>/<index>


@dataclass(frozen=True)
class Generation:
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
    """A loaded engine. Subclasses inherit what most engines share."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that prompts are cut and counted with."""

    @property
    def native_chat(self) -> bool:
        """Whether the loaded model has a `.chat()`."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Answer greedily; raises BackendBroken where the process cannot go on."""

    def resolved_settings(self) -> dict[str, Json]:
        """What was decided while loading (attention, dtype, generation settings): part of the run's identity."""

    def context_window(self) -> int | None:
        """The longest prompt and answer together, in tokens, where only the loaded engine tells it."""
        return None


class RemoteBackend(Backend, Protocol):
    """An engine that runs elsewhere."""

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Take prompts as there is room for them, and yield as Backend does.

        A position is yielded once for each try that failed and is repeated (status transient), then once with its end.
        When it is yielded it has been dealt with at the latest when the next item is asked for: only then does the
        engine take another prompt in its place. Raises LVEvalError (SERVICE, INCOMPLETE) where no row can go on.
        """

    def stop_waiting(self) -> None:
        """Wake threads that wait for the endpoint: the run ends."""


@dataclass(frozen=True)
class ApiOptions:
    """How a service is asked: what only hosted backends are told."""

    base_url: str | None = None
    tokenizer: str | None = None  # hf:PATH, tiktoken:NAME or server
    request_args: Mapping[str, Json] = field(
        default_factory=dict
    )  # fields of the request; None drops one
    system_message: str | None = None
    chat: bool = True  # the service formats the prompt; else it gets the formatted text to complete
    concurrency: int = 8
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    max_outage: float = 6.0  # hours
    batch: bool = False  # through the Batch API
    batch_folder: str = ""  # where what is known of the run's batches is kept


@dataclass(frozen=True)
class EngineOptions:
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
    service: "ApiOptions | None" = None
    args: Mapping[str, Json] = field(default_factory=dict)


class BackendModule(Protocol):
    """The face of a module in this folder."""

    ENGINE_ARGS: dict[str, Callable[[str], Json]]
    RUNTIME_ONLY_ARGS: tuple[str, ...]  # those of them that change no answer

    def settings_fingerprint(self, options: EngineOptions) -> dict[str, Json]:
        """What decides the answers, told before anything heavy is loaded."""

    def max_concurrent_rows(self, options: EngineOptions) -> int:
        """How many rows the engine computes together: `generate` may be called from so many threads. 1: one by one."""

    def tokenizer(self, options: EngineOptions) -> Tokenizer:
        """The tokenizer of the engine that `load` would give, without the engine."""

    def native_chat(self, options: EngineOptions) -> bool:
        """Whether the engine that `load` would give has a `.chat()`, told without loading it."""

    def load(self, options: EngineOptions) -> Backend:
        """The engine, ready to answer."""

    def answer_tokens(self, options: EngineOptions) -> int | None:
        """New tokens that the engine's own settings allow an answer; 0: the subset's budget; None: no limit."""

    def rows_in_flight(self, options: EngineOptions) -> set[RowKey]:
        """The rows that are being answered elsewhere since an earlier start; only reads."""

    def claim_rows_in_flight(
        self,
        options: EngineOptions,
        is_answered: Callable[[RowKey], bool],
        selection: Mapping[str, int],
    ) -> set[RowKey]:
        """The rows in flight that have no answer yet, for the process that holds the run's lock.

        `selection`: `<subset>_<level>` -> number of its first rows that are selected. Raises LVEvalError where a paid
        answer would be lost.
        """


# What a backend module takes from here where it has nothing of its own to say.


def one_row_at_a_time(options: EngineOptions) -> int:
    """`max_concurrent_rows` of an engine that computes one row after another."""
    return 1


def no_native_chat(options: EngineOptions) -> bool:
    """`native_chat` of an engine that has none."""
    return False


def subset_budget(options: EngineOptions) -> int | None:
    """`answer_tokens` of an engine whose answers end at the subset's budget."""
    return 0


def no_rows_in_flight(
    options: EngineOptions,
    is_answered: Callable[[RowKey], bool] | None = None,
    selection: Mapping[str, int] | None = None,
) -> set[RowKey]:
    """`rows_in_flight` and `claim_rows_in_flight` of an engine that ends with its process."""
    return set()
