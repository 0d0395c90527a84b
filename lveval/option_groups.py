"""Every option of a run, once: a field says its help, its default and whether it decides the
answers.

    class ModelOptions: model_path: str | None = option("model folder, …", decides=True)

options.py makes the command line of them and refuses what cannot work. An option that decides the
answers may not change when a run is resumed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from lveval.backends import BACKENDS
from lveval.backends.base import Json
from lveval.common.errors import UsageError

# (whether a value is allowed, what is expected) for `valid` below.
Range = tuple[Callable[[Any], bool], str]
AT_LEAST_1: Range = (lambda value: value >= 1, "at least 1")
AMOUNT: Range = (lambda value: 0 <= value < math.inf, "a number from 0")


def option(
    text: str,
    default: Any = None,  # noqa: ANN401 - of the field's type
    *,
    decides: bool = False,
    valid: Range | None = None,
    remote_only: bool = False,
    some: bool = False,
    names: tuple[str, ...] = (),
    usual: bool = False,
    **argparse_words: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401 - what dataclasses take for a field
    """Declare a field that is an option of the command line, with its help `text`.

    `decides`: part of the run's identity. `remote_only`: for backends that ask an endpoint.
    `some`: for the backends whose `OPTIONS` name it; part of the identity where it is given.
    `names`: further spellings. `usual`: in the short --help, too. Other words go to argparse.
    """
    words = {"help": text} | argparse_words
    metadata = {"decides": decides or some, "valid": valid, "remote_only": remote_only}
    more = {"some": some, "names": names, "usual": usual, "argparse": words}
    return field(default=default, metadata={**metadata, **more})


def part(text: str) -> tuple[int, int]:
    """Parse I/N, the part and how many there are. Raises UsageError."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f'--part: found "{text}", expected I/N such as 3/8, from 1/8 to 8/8')
    return int(match[1]), int(match[2])


# Each tracker, and how its projects may be named: Trackio makes files of the names.
TRACKERS = {"trackio": r"\w[\w .-]*", "wandb": r"\w[\w .-]*", "mlflow": r"[\w/][\w /@.-]*"}


def tracker(text: str) -> str:
    """Check KIND:PROJECT of --track. Raises UsageError, also where the package is missing."""
    kind, _, project = text.partition(":")
    if kind not in TRACKERS or not re.fullmatch(TRACKERS[kind], project) or len(project) > 100:
        raise UsageError(
            f'--track: found "{text}", expected trackio:PROJECT, wandb:PROJECT or '
            "mlflow:EXPERIMENT, a name of letters, digits, spaces and . _ -"
        )
    if find_spec(kind) is None:
        raise UsageError(
            f"--track {text}: the package {kind} is not installed; run: pip install {kind}"
        )
    return text


FINISH_REASONS = ("stop", "length", "content_filter")


def finish_reason(text: str) -> tuple[str, str]:
    """Parse REASON=MEANING, in OpenAI's words. Raises UsageError."""
    reason, equals, meaning = text.rpartition("=")
    if not equals or meaning not in FINISH_REASONS:
        raise UsageError(
            f'--finish-reason: found "{text}", expected REASON=MEANING such as eos=stop; a meaning '
            f"is one of: {', '.join(FINISH_REASONS)}"
        )
    return reason, meaning


def pattern(text: str) -> str:
    """Check a regular expression. Raises UsageError."""
    try:
        re.compile(text)
    except re.error as error:
        raise UsageError(f'--refusal-pattern: found "{text}": {error}') from None
    return text


def token_count(text: str) -> int:
    """Parse tokens, as 31500 or 32k, which is 32,000. Raises UsageError."""
    match = re.fullmatch(r"(\d+)(k?)|(\d+\.\d{1,3})k", text.strip().lower(), re.ASCII)
    if match is None:
        raise UsageError(
            f'--model-max-len: found "{text}", expected a number of tokens such as 31500 or 32k '
            "(32,000)"
        )
    whole, thousands, decimal = match.groups()
    return round(float(decimal) * 1000) if decimal else int(whole) * (1000 if thousands else 1)


def json_object(flag: str, text: str) -> dict[str, Json]:
    """Parse the JSON object of an option. Raises UsageError."""
    try:
        found = json.loads(text or "{}", parse_constant=float)
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f'{flag}: found {text[:99]}, expected a JSON object such as {{"name": 1}}')
    return found


# --- The options, in the groups of --help-all ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model and how its engine is set."""

    TITLE: ClassVar[str] = "model"
    model_path: str | None = option(
        "required, except for echo, and for openai with a name: model folder, .gguf file or Hub "
        "name",
        decides=True,
        usual=True,
        metavar="MODEL",
    )
    model_name: str = option(
        "required without a path: names the run and its prompt format (default: last part of the "
        "path)",
        "",
        decides=True,
        usual=True,
        metavar="NAME",
    )
    backend: str = option(
        f"the engine: {', '.join(BACKENDS)}, or one of your own (docs/plugins.md): FILE.py, or the "
        "name that an installed package gives it",
        "hf",
        decides=True,
        usual=True,
        metavar="NAME",
    )
    model_max_len: int | None = option(
        "longer prompts lose their middle; 31500 or 32k, which is 32,000 (default: 500 below the "
        "model's window, 15500 where that is not known)",
        decides=True,
        valid=(lambda value: value >= 2, "at least 2"),
        names=("--model-max-length",),
        usual=True,
        type=token_count,
        metavar="TOKENS",
    )
    dtype: str = option(
        "of the weights; auto: bfloat16 on a GPU, float32 on a CPU",
        "auto",
        decides=True,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    attn: str = option(
        "attention: sdpa, eager, flash_attention_2 …; auto: flash-attention where installed, else "
        "the default",
        "auto",
        decides=True,
        metavar="NAME",
    )
    pure_greedy: bool = option(
        "ignore the model's shipped generation settings", False, decides=True
    )
    seed: int = option(
        "of the random number generators",
        42,
        decides=True,
        valid=(lambda value: 0 <= value < 2**32, f"0 to {2**32 - 1}"),
    )
    revision: str | None = option(
        "of a model on the Hub: branch, tag or commit", some=True, metavar="NAME"
    )
    tokenizer: str | None = option(
        "cuts and counts prompts, in place of the model's own: hf:MODEL; openai also tiktoken:NAME "
        "or server (default: tiktoken's for the model's name)",
        some=True,
        metavar="KIND:NAME",
    )
    adapter: str | None = option("folder of a LoRA adapter for it", some=True, metavar="FOLDER")
    hf_overrides: Mapping[str, Json] | None = option(
        'merged into config.json before loading, as {"rope_scaling": {"rope_type": "yarn", '
        '"factor": 4.0}}',
        some=True,
        type=partial(json_object, "--hf-overrides"),
        metavar="JSON",
    )
    model_args: Mapping[str, Json] | None = option(
        'of from_pretrained, as {"quantization_config": {…}}',
        some=True,
        type=partial(json_object, "--model-args"),
        metavar="JSON",
    )
    generate_args: Mapping[str, Json] | None = option(
        'of generate, as {"prefill_chunk_size": 4096}: less memory for long prompts',
        some=True,
        type=partial(json_object, "--generate-args"),
        metavar="JSON",
    )
    chat_template_args: Mapping[str, Json] | None = option(
        'of the tokenizer\'s chat template, as {"enable_thinking": false}',
        some=True,
        type=partial(json_object, "--chat-template-args"),
        metavar="JSON",
    )
    plugin: list[str] | None = option(
        "a method of your own (docs/plugins.md); may be given several times",
        some=True,
        action="append",
        metavar="FILE.py[:NAME]",
    )
    plugin_args: Mapping[str, Json] | None = option(
        "the plugin's arguments; of several plugins by class name",
        some=True,
        type=partial(json_object, "--plugin-args"),
        metavar="JSON",
    )
    think_tags: tuple[str, str] | None = option(
        "around the reasoning in an answer, beside those in utils.py",
        some=True,
        nargs=2,
        metavar=("OPEN", "CLOSE"),
    )
    thinking_budget: int | None = option(
        "tokens of reasoning, added to every answer's budget; hf and vllm then close the reasoning",
        some=True,
        valid=AT_LEAST_1,
        metavar="TOKENS",
    )
    stop: list[str] | None = option(
        "texts that end an answer, for base models", some=True, nargs="+", metavar="TEXT"
    )
    trust_remote_code: bool = option("run Python code that the model brings", False, decides=True)
    allow_pickle: bool = option("read pickled weights, which can run code", False)
    backend_args: str = option(
        "what only one backend knows; hf and vllm: window=N, the model's true window in tokens "
        "where its config tells too few; vllm: the names in lveval/backends/vllm.py; echo: "
        "delay=SECONDS an answer; openai: served_model, timeout, timeout_per_1k, first_wait, "
        "longest_wait, poll, batch_mb",
        "",
        decides=True,
        metavar="KEY=VALUE,…",
    )


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """What is asked."""

    TITLE: ClassVar[str] = "what is asked"
    data_path: Path | None = option(
        "folder with the data files (default: download from the Hub)",
        decides=True,
        usual=True,
        metavar="FOLDER",
    )
    allow_unverified_data: bool = option(
        "take files that have fewer or more rows than the published ones; the results say so", False
    )
    datasets: list[str] | None = option(
        "instead of config.DATASET_SELECTED", usual=True, nargs="+", metavar="SUBSET"
    )
    lengths: list[str] | None = option(
        "instead of config.DATASET_LENGTH_LEVEL, as 16k", usual=True, nargs="+", metavar="LEVEL"
    )
    limit: int | None = option(
        "only the first K rows of each file", valid=AT_LEAST_1, usual=True, metavar="K"
    )
    sample: int | None = option(
        "only N rows of each file, drawn at random: the same questions at all lengths; a larger "
        "sample has the smaller one in it",
        decides=True,
        valid=AT_LEAST_1,
        metavar="N",
    )
    sample_seed: int | None = option(
        "of --sample (default: 0)",
        decides=True,
        valid=(lambda value: 0 <= value < 2**32, f"0 to {2**32 - 1}"),
        metavar="SEED",
    )
    prompts: str = option(
        "builtin, official, or a file with DATASET_PROMPT (default: builtin)", "", decides=True
    )
    chat_template: str = option(
        "auto (default): the model's .chat(), your entry in utils.py, the tokenizer's template, a "
        "published entry or bare text, whichever comes first; published: the same without the "
        "tokenizer's template; tokenizer: only that; none: bare",
        "",
        decides=True,
        metavar="MODE",
    )
    control: str | None = option(
        "a run that is asked something else, to be compared with the full one (docs/scores.md): "
        "closed-book, no context; evidence-only, the marked evidence alone; no-facts, the context "
        "without its confusing facts",
        decides=True,
        metavar="NAME",
    )
    published: bool = option(
        "as the leaderboard: --prompts official --chat-template published",
        False,
        decides=True,
        usual=True,
    )


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """How an endpoint is asked."""

    TITLE: ClassVar[str] = "an endpoint (--backend openai); its key is read from OPENAI_API_KEY"
    base_url: str | None = option(
        "its address, as http://127.0.0.1:8000/v1 (default: OpenAI's)",
        decides=True,
        remote_only=True,
        metavar="URL",
    )
    request_args: Mapping[str, Json] | None = option(
        'fields of the request, as {"reasoning_effort": "low"}; null drops one',
        decides=True,
        remote_only=True,
        type=partial(json_object, "--request-args"),
        metavar="JSON",
    )
    header: list[str] | None = option(
        "sent with every request, as 'X-Gate: $GATE_KEY': the harness fills in the variable and "
        "writes its value nowhere; may be given several times",
        remote_only=True,
        action="append",
        metavar="NAME:VALUE",
    )
    stream: bool = option(
        "ask for streams, for a service that gives nothing else", False, remote_only=True
    )
    finish_reason: list[tuple[str, str]] | None = option(
        "what a finish reason of this service means, as eos=stop (or length, content_filter); may "
        "be given several times",
        decides=True,
        remote_only=True,
        action="append",
        type=finish_reason,
        metavar="REASON=MEANING",
    )
    refusal_pattern: str | None = option(
        "answers in which this regular expression is found are refusals",
        decides=True,
        remote_only=True,
        type=pattern,
        metavar="REGEX",
    )
    concurrency: int = option(
        "requests at once (default: 8)", 8, valid=AT_LEAST_1, remote_only=True, metavar="N"
    )
    tokens_per_minute: int | None = option(
        "at most so many, prompt and answer budget", valid=AT_LEAST_1, remote_only=True, metavar="N"
    )
    requests_per_minute: int | None = option(
        "at most so many", valid=AT_LEAST_1, remote_only=True, metavar="N"
    )
    wait_for_service: float = option(
        "wait so long for its first answer (default: 10)",
        10.0,
        valid=(lambda value: value >= 0, "minutes, at least 0"),
        remote_only=True,
        metavar="MINUTES",
    )
    max_outage: float = option(
        "end the run after so long without any answer (default: 6)",
        6.0,
        valid=(lambda value: value >= 0, "hours, at least 0"),
        remote_only=True,
        metavar="HOURS",
    )
    batch: bool = option("through the Batch API: slow and cheaper", False, remote_only=True)


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """How the run is computed and where it is kept."""

    TITLE: ClassVar[str] = "how it runs"
    output_dir: Path = option(
        "the run's folder is made in it", Path("outputs"), usual=True, metavar="FOLDER"
    )
    num_workers: int | None = option(
        "processes (default: one per visible GPU, else 1)", valid=AT_LEAST_1, metavar="N"
    )
    single_process: bool = option("one process, the model over all visible GPUs", False)
    batch_size: int = option(
        "vllm: rows that are in the engine at once (default: 16); hf and echo: rows handed to a "
        "worker at a time, answered one by one (default: 1). Part of the run's identity",
        1,
        decides=True,
        valid=AT_LEAST_1,
        metavar="ROWS",
    )
    gpus_per_worker: int = option(
        "GPUs that share one copy of the model: hf spreads its layers, vllm splits them (tensor "
        "parallel)",
        1,
        valid=AT_LEAST_1,
        metavar="N",
    )
    row_hours: float = option(
        "replace a worker that finishes no row for so long",
        6.0,
        valid=(lambda value: 0 < value < 1e5, "a number of hours above 0"),
        metavar="HOURS",
    )
    part: tuple[int, int] | None = option(
        "answer part I of N alone, in a folder of its own, for job arrays; evaluation.py --merge "
        "joins them (docs/cluster.md)",
        type=part,
        metavar="I/N",
    )
    retry_failed: bool = option("try rows again that exceeded the model's window", False)
    track: str | None = option(
        "tell an experiment tracker the settings and the scores: trackio:PROJECT, wandb:PROJECT or "
        "mlflow:EXPERIMENT (docs/running.md)",
        type=tracker,
        metavar="KIND:PROJECT",
    )
    verbose: bool = option("say more on standard error", False, names=("-v",))
    quiet: bool = option("say only what is wrong", False, names=("-q",))
    overwrite: bool = option("rename an earlier run of this name and start anew", False)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is looked at before a run, and what it may cost."""

    TITLE: ClassVar[str] = "planning"
    plan: str | None = option(
        "tell what is left to do and what it costs, and end; nothing is answered, no model is "
        "loaded. estimate (default): from 5 rows a file; exact: from all",
        usual=True,
        nargs="?",
        const="estimate",
        choices=("estimate", "exact"),
    )
    check: bool = option(
        "look whether a run can work, ask one prompt of full length, and end; 2 where it cannot",
        False,
        usual=True,
    )
    export_prompts: Path | None = option(
        "write the prompts, cut and in their chat format, as a workload for vLLM's bench, and end; "
        "nothing is answered (docs/exchange.md)",
        valid=(lambda value: value.name, "the name of a file"),
        metavar="FILE",
    )
    max_cost: float | None = option(
        "end the run before its answers cost more", valid=AMOUNT, metavar="USD"
    )
    max_hours: float | None = option(
        "hand out no row after so many hours", valid=AMOUNT, metavar="HOURS"
    )
    price_in: float | None = option("price of a million prompt tokens", valid=AMOUNT, metavar="USD")
    price_out: float | None = option(
        "price of a million answer tokens", valid=AMOUNT, metavar="USD"
    )
    price_cached: float | None = option(
        "price of a million prompt tokens that the service had in its cache (default: --price-in)",
        valid=AMOUNT,
        metavar="USD",
    )
    batch_discount: float = option(
        "what a batch run takes off the price",
        0.5,
        valid=(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        metavar="FRACTION",
    )
    tokens_per_second: float | None = option(
        "prompt and answer tokens a second of one worker",
        valid=(lambda value: 0 < value < math.inf, "a number above 0"),
        metavar="N",
    )
    calibrate: int | None = option(
        "with --plan: load the model after all and time K rows of each level",
        valid=AT_LEAST_1,
        metavar="K",
    )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Workers on other machines."""

    TITLE: ClassVar[str] = "several machines (docs/cluster.md)"
    scheduler: str | None = option(
        "of a running Dask scheduler: tls://HOST:PORT", metavar="ADDRESS"
    )
    insecure_scheduler: bool = option("allow tcp://, which is not encrypted", False)
    tls_ca_file: Path | None = option("who signs the cluster's certificates", metavar="PEM")
    tls_cert: Path | None = option("this side's certificate", metavar="PEM")
    tls_key: Path | None = option("its key, unless it is in --tls-cert", metavar="PEM")
    wait_for_workers: float | None = option(
        "go on without any (default: 30)",
        valid=(lambda value: 0 <= value < 1e6, "a number of minutes"),
        metavar="MINUTES",
    )


GROUPS: tuple[Any, ...] = (
    ModelOptions,
    SelectionOptions,
    EndpointOptions,
    ProcessOptions,
    PlanOptions,
    ClusterOptions,
)
