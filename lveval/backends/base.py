"""The seam of all engines: a backend takes prompts and yields each generation as it is ready.

    python prediction.py --backend echo --data-path DATA --model-name dry-run

One module per engine. It says what is its own; `BackendModule` and `Engine` give the rest.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

from lveval.common.errors import UsageError

# Ids from real tokenizers, strings from the echo backend; the harness only counts and slices them.
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
    def appended_eos(self) -> int | None:
        """The end token that `encode` puts after a text, where it does."""

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` works."""

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """Tokenize `text`, with the special tokens that the tokenizer adds by default."""

    def decode(self, tokens: Tokens) -> str:
        """Return the text of `tokens`, special tokens skipped."""

    def apply_chat_template(self, prompt: str) -> str:
        """Format `prompt` as one user turn, followed by the cue of the answer."""

    def build_prompt(self, prompt: str) -> str:
        """Format `prompt` as ChatGLM2's tokenizer does; raises UsageError in any other one."""


class PlainTokenizer:
    """Base of tokenizers without special tokens and prompt formats."""

    bos = None
    appended_eos = None
    has_chat_template = False

    def without_bos(self, text: str) -> str:
        """Return what a server gets that puts the BOS before a text itself: there is none."""
        return text

    def apply_chat_template(self, prompt: str) -> str:
        """Raise UsageError: there is no template."""
        raise UsageError("this tokenizer has no chat template; use --chat-template auto or none")

    def build_prompt(self, prompt: str) -> str:
        """Raise UsageError: ChatGLM2's format needs ChatGLM2's tokenizer."""
        raise UsageError(
            'the model name contains "chatglm2", whose format its own tokenizer makes, but this '
            "tokenizer has no build_prompt; use another --model-name or --chat-template none "
            "or tokenizer, or with --backend openai --tokenizer hf:PATH"
        )


@dataclass(frozen=True)
class Prompt:
    """One row made ready: `text` is the truncated prompt, `formatted` has it in the chat format.

    `tokens` are those of `formatted`. With `native_chat` the model's `.chat()` formats `text`.
    """

    text: str
    formatted: str
    tokens: Tokens
    max_new_tokens: int
    native_chat: bool = False
    key: str = ""  # <subset>/<level>/<index>
    after_context: str = ""  # what of `text` follows the row's context
    question_start: int | None = None  # its first token in `tokens`, for plugins
    # Of --generate-args, for decoding in the hf backend and in plugins.
    generate_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generation:
    """What a backend yields for a prompt: raw text, not yet post-processed, and how it ended.

    Any status but ok, length, empty and refused means that there is no answer; `error` says why.
    """

    text: str
    status: Status
    finish_reason: str | None = None
    output_tokens: int | None = None
    error: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)  # tokens, as a service counted them
    measures: Mapping[str, Json] = field(default_factory=dict)  # what plugins tell of the answer
    # Seconds, bytes and device, for times.jsonl; of no two generations the same, so not compared.
    times: Mapping[str, Json] = field(default_factory=dict, compare=False)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return an answer up to the first of the texts that end it, and whether there was one."""
    ends = [at for each in stop if (at := text.find(each)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def prompt_limit(window: int, max_new_tokens: int) -> int:
    """Return the longest prompt for a window, in tokens: by convention 500 below it.

    That leaves room for an answer of 64 tokens and the chat format; a longer answer needs more.
    """
    return max(2, window - max(500, max_new_tokens + 436))


class EngineBroken(Exception):
    """The engine cannot go on (a CUDA fault, for example): its process must be replaced."""


class Engine:
    """Base of loaded engines."""

    tokenizer: Tokenizer
    native_chat = False  # whether the loaded model has a `.chat()`

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Decode greedily and yield (position, generation), in any order; raises EngineBroken."""
        raise NotImplementedError

    def resolved_settings(self) -> dict[str, Json]:
        """Return what was decided while loading (attention, dtype, generation settings)."""
        return {}

    def context_window(self) -> int | None:
        """Return the longest prompt and answer in tokens, where only the loaded engine knows it."""
        return None


class RemoteEngine(Engine):
    """Base of engines that run elsewhere."""

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Take prompts as there is capacity; yield every failed attempt (transient) and the end.

        An item counts as recorded when the next one is asked for: only then does the engine take
        another prompt. Raises ServiceError or IncompleteRun where no row can go on.
        """
        raise NotImplementedError

    def stop_waiting(self) -> None:
        """Wake threads that wait for the endpoint, because the run ends."""


@dataclass(frozen=True)
class ApiOptions:
    """Options of remote backends only."""

    base_url: str | None = None
    tokenizer: str | None = None  # hf:PATH, tiktoken:NAME or server
    headers: tuple[str, ...] = ()  # NAME: VALUE, a $VARIABLE in it not yet filled in
    stream: bool = False
    finish_reasons: Mapping[str, str] = field(default_factory=dict)  # a service's -> OpenAI's
    refusal_pattern: str = ""  # of an answer that is a refusal
    # Fields of the request; None drops one.
    request_args: Mapping[str, Json] = field(default_factory=dict)
    system_message: str | None = None
    chat: bool = True  # the service formats the prompt; else it gets the formatted text to complete
    concurrency: int = 8
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    wait_for_service: float = 10.0  # minutes, at the start
    max_outage: float = 6.0  # hours
    batch: bool = False  # through the Batch API
    batch_folder: str = ""  # where what is known of the run's batches is kept


@dataclass(frozen=True)
class EngineOptions:
    """Options of every backend: plain values, sent to the workers."""

    model_path: str | None
    model_max_len: int
    dtype: str = "auto"
    attn_implementation: str = "auto"
    seed: int = 42
    pure_greedy: bool = False
    trust_remote_code: bool = False
    allow_pickle: bool = False
    batch_size: int = 1  # --batch-size
    gpus_per_worker: int = 1
    shard_across_gpus: bool = False  # --single-process: the model over all visible GPUs
    gpus: int = 0  # that the run counts on; a worker that sees none must not go on with the CPU
    revision: str | None = None  # of a model on the Hub: branch, tag or commit
    adapter: str | None = None  # folder of a LoRA adapter for the model
    tokenizer: str | None = None  # hf:MODEL, in place of the model's own
    hf_overrides: Mapping[str, Json] = field(default_factory=dict)  # merged into config.json
    model_args: Mapping[str, Json] = field(default_factory=dict)  # of from_pretrained
    generate_args: Mapping[str, Json] = field(default_factory=dict)  # of generate
    chat_template_args: Mapping[str, Json] = field(default_factory=dict)
    plugins: tuple[tuple[str, str], ...] = ()  # (FILE.py[:NAME], its hash)
    plugin_args: Mapping[str, Json] = field(default_factory=dict)
    think_tags: tuple[tuple[str, str], ...] = ()  # around the reasoning in an answer
    thinking_budget: int = 0  # tokens of reasoning, a part of every prompt's max_new_tokens
    stop: tuple[str, ...] = ()  # texts that end an answer
    max_new_tokens: int = 0  # the largest answer budget, in new tokens, of the selected subsets
    api: ApiOptions | None = None
    args: Mapping[str, Json] = field(default_factory=dict)


class CheckResult(NamedTuple):
    """One line of the report."""

    level: Literal["ok", "warning", "error"]
    text: str


ok = partial(CheckResult, "ok")
warning = partial(CheckResult, "warning")
error = partial(CheckResult, "error")


class BackendModule:
    """The functions of a backend's module, with defaults for those that it lacks."""

    ENGINE_ARGS: Mapping[str, Callable[[str], Json]] = {}  # of --backend-args, name -> parser
    RUNTIME_ONLY_ARGS: tuple[str, ...] = ()  # those of them that change no answer
    OPTIONS: tuple[str, ...] = ()  # those of a model's options that not every backend has
    BATCH_SIZE = 1  # where --batch-size does not say
    ON_GPUS = False  # whether it runs on the GPUs of the worker's machine
    REMOTE = False  # runs elsewhere: the coordinator asks a RemoteEngine, without workers

    # What decides the answers; checks the options without loading the model.
    settings_fingerprint: Callable[[EngineOptions], dict[str, Json]]
    # The tokenizer of the engine that `load` gives, without the engine.
    tokenizer: Callable[[EngineOptions], Tokenizer]
    load: Callable[[EngineOptions], Engine]

    def __init__(
        self, module: ModuleType, name: str, origin: Mapping[str, Json] | None = None
    ) -> None:
        vars(self).update(vars(module))  # the module's own functions hide the methods below
        self.name = name  # for people: a built-in one's, a file's or an entry point's
        self.origin = origin or {}  # for the run's identity, where it is no built-in one

    def native_chat(self, options: EngineOptions) -> bool:
        """Return whether the engine that `load` gives has a `.chat()`, without loading it."""
        return False

    def context_window(self, options: EngineOptions) -> int | None:
        """Return the model's window in tokens, without loading it; None where it is not known."""
        return None

    def max_concurrent_rows(self, options: EngineOptions) -> int:
        """Return how many threads may call `generate` at once."""
        return 1

    def check_model(self, options: EngineOptions) -> Iterator[CheckResult]:
        """Tell whether the model was made for prompts of this length, without loading it."""
        return iter(())

    def answer_tokens(self, options: EngineOptions) -> int | None:
        """Return the engine's own limit on new tokens; 0: the subset's budget; None: no limit."""
        return 0

    def rows_in_flight(self, options: EngineOptions) -> set[RowKey]:
        """Return the rows that a service still answers since an earlier start; only reads."""
        return set()

    def claim_rows_in_flight(
        self,
        options: EngineOptions,
        is_answered: Callable[[RowKey], bool],
        selection: Mapping[str, Sequence[int]],
    ) -> set[RowKey]:
        """Return the rows in flight without an answer, for the process that holds the run's lock.

        `selection`: `<subset>_<level>` -> its rows that this start may ask. Raises
        LVEvalError where a paid answer would be lost.
        """
        return set()
