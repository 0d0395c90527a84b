"""What a run is told on its command line: every option of prediction.py, checked before anything heavy is loaded.

    python prediction.py --help

Each option is deciding or not: a deciding one decides the answers and may not change when a run is resumed.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lveval import config, utils
from lveval.backends import BACKENDS, REMOTE, backend_module, parse_engine_args
from lveval.backends.base import ApiOptions, EngineOptions, Json
from lveval.common.errors import UsageError, unknown_name
from lveval.runs import store
from lveval.runs.store import run_folder

ADDRESS = re.compile(r"(?P<protocol>tls|tcp)://(\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):[0-9]{1,5}")


@dataclass(frozen=True)
class Scheduler:
    """Where the scheduler is, and how to speak to it; checked when it is made (HarnessError)."""

    address: str
    insecure: bool = False
    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    wait_minutes: float = 30.0  # to go without a single worker

    def __post_init__(self) -> None:
        """Refuse an address that is none, and an unencrypted one that was not asked for."""
        match = ADDRESS.fullmatch(self.address)
        if match is None:
            raise UsageError(
                f'--scheduler: found "{self.address}", expected tls://HOST:PORT (or tcp://HOST:PORT), as the scheduler '
                "prints it when it starts"
            )
        if match["protocol"] == "tcp" and not self.insecure:
            raise UsageError(
                f"--scheduler {self.address}: tcp:// is not encrypted, and whoever reaches that port can run code on "
                "every machine of the cluster and on this one; use tls://, or add --insecure-scheduler where nobody "
                "else can reach it"
            )
        if match["protocol"] == "tcp" and (self.ca_file or self.cert or self.key):
            raise UsageError(
                f"--scheduler {self.address}: found TLS certificates too; they need a tls:// address"
            )


# Which options decide the answers, and so may not change when a run is resumed, and which do not. A test holds every
# option to be in one of the two.
DECIDING = """
    backend model_path model_name model_max_len dtype attn pure_greedy seed trust_remote_code backend_args
    data_path prompts chat_template published batch_size base_url tokenizer request_args
""".split()  # noqa: SIM905 - reads as a list of words

NOT_DECIDING = """
    datasets lengths limit output_dir num_workers single_process retry_failed overwrite allow_pickle gpus_per_worker
    row_hours concurrency tokens_per_minute requests_per_minute max_outage batch
    scheduler insecure_scheduler tls_ca_file tls_cert tls_key wait_for_workers
    plan price_in price_out batch_discount tokens_per_second calibrate max_cost max_hours check
""".split()  # noqa: SIM905

# Rows in a batch where --batch-size does not say: enough to keep a GPU busy while answers are written token by token; a
# long prompt fills it by itself, and what does not fit the engine's memory waits in its queue.
BATCH_SIZE = {"vllm": 16}


# What only a backend that asks a service is told, and what it is told where nothing is said.
SERVICE = {
    "base_url": None,
    "tokenizer": None,
    "request_args": None,
    "concurrency": 8,
    "tokens_per_minute": None,
    "requests_per_minute": None,
    "max_outage": 6.0,
    "batch": False,
}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help if action.default in (None, False, "") else super()._get_help_string(action)
        )


def option_parser() -> argparse.ArgumentParser:
    """The command line; every default stands in its help."""
    command = argparse.ArgumentParser(
        description="Answer LV-Eval's questions with a model; run the same command again to resume.",
        epilog="exit codes: 0 complete, 2 a wrong option, bad data or set-up, 3 rows are missing (run again), 4 the "
        "folder holds a run with other settings, 5 a service refused for good, 6 the disk failed, 130 Ctrl-C",
        formatter_class=_Help,
        allow_abbrev=False,  # what a prefix means would change with the next option
    )
    model = command.add_argument_group("model")
    model.add_argument("--backend", default="hf", help=f"the engine: {', '.join(BACKENDS)}")
    model.add_argument(
        "--model-path", help="model folder, .gguf file or Hub name (not needed for echo)"
    )
    model.add_argument(
        "--model-name", help="names the run and its prompt format (default: last part of the path)"
    )
    model.add_argument(
        "--model-max-len",
        "--model-max-length",
        type=int,
        default=15500,
        metavar="TOKENS",
        help="longer prompts lose their middle; by convention 500 below the model's window",
    )
    model.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="of the weights; auto: bfloat16 on a GPU, float32 on a CPU",
    )
    model.add_argument(
        "--attn",
        default="auto",
        metavar="NAME",
        help="attention: sdpa, eager, flash_attention_2 …; auto: flash-attention where installed, else the default",
    )
    model.add_argument(
        "--pure-greedy", action="store_true", help="ignore the model's shipped generation settings"
    )
    model.add_argument("--seed", type=int, default=42, help="of the random number generators")
    model.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that the model brings"
    )
    model.add_argument(
        "--allow-pickle", action="store_true", help="read pickled weights, which can run code"
    )
    model.add_argument(
        "--backend-args",
        default="",
        metavar="KEY=VALUE,…",
        help="what only one backend knows; hf and vllm: window=N, the model's true window in tokens where its config "
        "tells too few; vllm: what ENGINE_ARGS in lveval/backends/vllm.py names; echo: delay=SECONDS an answer; openai: "
        "served_model, timeout, timeout_per_1k, first_wait, longest_wait, poll, batch_mb",
    )
    what = command.add_argument_group("what is asked")
    what.add_argument(
        "--data-path", type=Path, help="folder with the data files (default: download from the Hub)"
    )
    what.add_argument(
        "--datasets", nargs="+", metavar="SUBSET", help="instead of config.DATASET_SELECTED"
    )
    what.add_argument(
        "--lengths",
        nargs="+",
        metavar="LEVEL",
        help="instead of config.DATASET_LENGTH_LEVEL, like 16k",
    )
    what.add_argument("--limit", type=int, metavar="K", help="only the first K rows of each file")
    what.add_argument(
        "--prompts", help="builtin, official, or a file with DATASET_PROMPT (default: builtin)"
    )
    what.add_argument(
        "--chat-template",
        metavar="MODE",
        help="auto (default): the model's .chat(), the table in utils.py, the tokenizer's template or bare text, "
        "whichever comes first; published: the same without the tokenizer's template; tokenizer: only that; none: bare",
    )
    what.add_argument(
        "--published",
        action="store_true",
        help="as the leaderboard: --prompts official --chat-template published",
    )
    service = command.add_argument_group(
        "a service (--backend openai); its key stands in OPENAI_API_KEY"
    )
    service.add_argument(
        "--base-url",
        metavar="URL",
        help="its address, as http://127.0.0.1:8000/v1 (default: OpenAI's)",
    )
    service.add_argument(
        "--tokenizer",
        metavar="KIND:NAME",
        help="cuts and counts prompts: hf:PATH, tiktoken:NAME or server (default: tiktoken's for the model's name)",
    )
    service.add_argument(
        "--request-args",
        metavar="JSON",
        help='fields of the request, as {"reasoning_effort": "low"}; null drops one',
    )
    service.add_argument(
        "--concurrency", type=int, metavar="N", help="requests at once (default: 8)"
    )
    service.add_argument(
        "--tokens-per-minute",
        type=int,
        metavar="N",
        help="at most so many, prompt and answer budget",
    )
    service.add_argument("--requests-per-minute", type=int, metavar="N", help="at most so many")
    service.add_argument(
        "--max-outage",
        type=float,
        metavar="HOURS",
        help="end the run after so long without any answer (default: 6)",
    )
    service.add_argument(
        "--batch", action="store_true", default=None, help="through the Batch API: slow and cheaper"
    )
    how = command.add_argument_group("how it runs")
    how.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="the run's folder is made in it"
    )
    how.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes (default: one per visible GPU, else 1)",
    )
    how.add_argument(
        "--single-process", action="store_true", help="one process, the model over all visible GPUs"
    )
    how.add_argument(
        "--batch-size",
        type=int,
        metavar="ROWS",
        help="vllm: rows that are in the engine at once (default: 16); hf and echo: rows handed to a worker at a time, "
        "answered one by one (default: 1). Part of the run's identity",
    )
    how.add_argument(
        "--row-hours",
        type=float,
        default=6.0,
        metavar="HOURS",
        help="replace a worker that finishes no row for so long",
    )
    how.add_argument(
        "--retry-failed",
        action="store_true",
        help="try rows again that exceeded the model's window",
    )
    how.add_argument(
        "--overwrite",
        action="store_true",
        help="move an earlier run of this name aside and start anew",
    )
    plan = command.add_argument_group("planning")
    plan.add_argument(
        "--plan",
        nargs="?",
        const="estimate",
        choices=("estimate", "exact"),
        help="tell what is left to do and what it costs, and end; nothing is answered, no model is loaded. estimate "
        "(default): from 5 rows a file; exact: from all",
    )
    plan.add_argument(
        "--check",
        action="store_true",
        help="look whether a run can work, ask one prompt of full length, and end; 2 where it cannot",
    )
    plan.add_argument(
        "--max-cost", type=float, metavar="USD", help="end the run before its answers cost more"
    )
    plan.add_argument(
        "--max-hours", type=float, metavar="HOURS", help="hand out no row after so many hours"
    )
    plan.add_argument(
        "--price-in", type=float, metavar="USD", help="price of a million prompt tokens"
    )
    plan.add_argument(
        "--price-out", type=float, metavar="USD", help="price of a million answer tokens"
    )
    plan.add_argument(
        "--batch-discount",
        type=float,
        default=0.5,
        metavar="FRACTION",
        help="what a batch run takes off the price",
    )
    plan.add_argument(
        "--tokens-per-second",
        type=float,
        metavar="N",
        help="prompt and answer tokens a second of one worker",
    )
    plan.add_argument(
        "--calibrate",
        type=int,
        metavar="K",
        help="with --plan: load the model after all and time K rows of each level",
    )
    many = command.add_argument_group("many GPUs")
    many.add_argument(
        "--gpus-per-worker",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share one copy of the model: hf spreads its layers, vllm splits them (tensor parallel)",
    )
    _add_machines(command)
    return command


def _add_machines(command: argparse.ArgumentParser) -> None:
    where = command.add_argument_group("several machines (see README)")
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a running Dask scheduler: tls://HOST:PORT"
    )
    where.add_argument(
        "--insecure-scheduler", action="store_true", help="allow tcp://, which is not encrypted"
    )
    where.add_argument(
        "--tls-ca-file", type=Path, metavar="PEM", help="who signs the cluster's certificates"
    )
    where.add_argument("--tls-cert", type=Path, metavar="PEM", help="this side's certificate")
    where.add_argument(
        "--tls-key", type=Path, metavar="PEM", help="its key, unless it stands in --tls-cert"
    )
    where.add_argument(
        "--wait-for-workers", type=float, metavar="MINUTES", help="go on without any (default: 30)"
    )


def scheduler_options(args: argparse.Namespace) -> Scheduler | None:
    """The scheduler that the options name, where they name one; raises HarnessError where they do not fit together."""
    asked = ("insecure_scheduler", "tls_ca_file", "tls_cert", "tls_key", "wait_for_workers")
    found = [
        f"--{name.replace('_', '-')}" for name in asked if getattr(args, name) not in (None, False)
    ]
    if args.scheduler is None:
        if found:
            raise UsageError(f"{', '.join(found)}: only with --scheduler ADDRESS; found none")
        return None
    if args.backend in REMOTE:
        raise UsageError(
            f"--scheduler: --backend {args.backend} asks a service from this process; expected another"
        )
    if args.check or args.calibrate:
        raise UsageError(
            "--scheduler: --check and --calibrate load the model here; run them on a node, without --scheduler"
        )
    if args.single_process or args.num_workers is not None:
        raise UsageError(
            "--scheduler: its workers are those that you started on the nodes; found --single-process or --num-workers "
            "too, expected neither"
        )
    minutes = 30.0 if args.wait_for_workers is None else args.wait_for_workers
    if not 0 <= minutes < 1e6:
        raise UsageError(f"--wait-for-workers: found {minutes}, expected a number of minutes")
    return Scheduler(
        args.scheduler,
        args.insecure_scheduler,
        args.tls_ca_file,
        args.tls_cert,
        args.tls_key,
        minutes,
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse option values that cannot work, and settle what `--published` and defaults stand for."""
    least_values = {"model_max_len": 2} | dict.fromkeys(
        (
            "limit",
            "num_workers",
            "batch_size",
            "gpus_per_worker",
            "calibrate",
            "concurrency",
            "tokens_per_minute",
            "requests_per_minute",
        ),
        1,
    )
    for option, least in least_values.items():
        value = getattr(args, option)
        if value is not None and value < least:
            raise UsageError(
                f"--{option.replace('_', '-')}: found {value}, expected at least {least}"
            )
    amounts = dict.fromkeys(("price_in", "price_out", "max_cost", "max_hours"), math.inf) | {
        "batch_discount": 1.0
    }
    for option, most in amounts.items():
        value = getattr(args, option)
        if value is not None and not (0 <= value <= most and math.isfinite(value)):
            above = "" if most == math.inf else f" to {most:g}"
            raise UsageError(
                f"--{option.replace('_', '-')}: found {value}, expected a number from 0{above}"
            )
    if args.tokens_per_second is not None and not 0 < args.tokens_per_second < math.inf:
        raise UsageError(
            f"--tokens-per-second: found {args.tokens_per_second}, expected a number above 0"
        )
    if args.max_cost is not None and None in (args.price_in, args.price_out):
        raise UsageError(
            "--max-cost: found no price; expected --price-in and --price-out, USD of a million tokens"
        )
    if args.max_hours is not None and args.batch:
        raise UsageError(
            "--max-hours: a batch takes up to a day at the service, whatever it says; found --batch too"
        )
    if args.check and args.batch:
        raise UsageError(
            "--check asks one prompt at once; found --batch too, expected one of the two"
        )
    if args.calibrate and args.backend in REMOTE:
        raise UsageError(
            "--calibrate: a service would take money for it; found --backend openai, expected hf or vllm"
        )
    if args.calibrate and not args.plan:
        raise UsageError("--calibrate: found no --plan; expected both, or neither to start the run")
    if args.published:
        args.prompts = args.prompts or "official"
        if args.chat_template not in (None, "published"):
            raise UsageError(
                f"--published stands for --chat-template published; found {args.chat_template}"
            )
        args.chat_template = "published"
    args.prompts = args.prompts or "builtin"
    args.chat_template = args.chat_template or "auto"
    if args.chat_template not in utils.CHAT_MODES:
        raise unknown_name(args.chat_template, "--chat-template", list(utils.CHAT_MODES))
    if not 0 <= args.seed < 2**32:
        raise UsageError(f"--seed: found {args.seed}, expected 0 to {2**32 - 1}")
    if args.single_process and args.num_workers is not None:
        raise UsageError(
            "--single-process is one process; found --num-workers too, expected one of the two"
        )
    for option, default in SERVICE.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
        elif args.backend not in REMOTE:
            raise UsageError(
                f"--{option.replace('_', '-')} is for --backend openai; found --backend {args.backend}"
            )
    if not 0 < args.row_hours < 1e5:
        raise UsageError(f"--row-hours: found {args.row_hours}, expected a number of hours above 0")
    if not args.max_outage >= 0:
        raise UsageError(f"--max-outage: found {args.max_outage}, expected hours, at least 0")
    args.request_args = request_args(args.request_args)
    if args.plan and args.check:
        raise UsageError("--plan and --check: found both, expected one of the two")
    if args.single_process and args.gpus_per_worker > 1:
        raise UsageError(
            "--single-process takes all visible GPUs; found --gpus-per-worker too, expected one of the two"
        )
    args.batch_size = args.batch_size or BATCH_SIZE.get(args.backend, 1)
    if args.model_name is None:
        if not args.model_path:
            raise UsageError(
                "--model-name is missing; expected a name for the run (or --model-path to take it from)"
            )
        args.model_name = Path(args.model_path).name


def request_args(text: str | None) -> dict[str, Json]:
    """The JSON object of --request-args."""
    try:
        found = json.loads(text or "{}", parse_constant=float)
        json.dumps(found, allow_nan=False)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            f'--request-args: found {text}, expected a JSON object such as {{"reasoning_effort": "low"}}'
        )
    return found


def backend_options(args: argparse.Namespace) -> EngineOptions:
    """What the backend is told of the command line."""
    hosted = args.backend in REMOTE
    service = ApiOptions(
        **{option: getattr(args, option) for option in SERVICE},
        system_message=config.SYSTEM_MESSAGE,
        chat=args.chat_template in ("auto", "published"),
        batch_folder=str(run_folder(args.output_dir, args.model_name) / "batches"),
    )
    options = EngineOptions(
        model_path=args.model_path or (args.model_name if hosted else None),
        model_max_len=args.model_max_len,
        dtype=args.dtype,
        attn=args.attn,
        seed=args.seed,
        pure_greedy=args.pure_greedy,
        trust_remote_code=args.trust_remote_code,
        allow_pickle=args.allow_pickle,
        spread=args.single_process,
        service=service if hosted else None,
        batch_size=args.batch_size,
        args=parse_engine_args(args.backend, args.backend_args),
    )
    if args.max_cost is not None and backend_module(args.backend).answer_tokens(options) is None:
        raise UsageError(
            "--max-cost: --request-args drops the answers' budget; expected another budget in it"
        )
    return options


def selected_names(args: argparse.Namespace, templates: Mapping[str, str]) -> list[tuple[str, str]]:
    """(subset, level) of each selected file, subset by subset; a typo is an error before anything is loaded."""
    subsets = args.datasets or config.DATASET_SELECTED
    levels = args.lengths or config.DATASET_LENGTH_LEVEL
    subsets = [
        config.DATASET_ALIAS.get(subset, subset) for part in subsets for subset in part.split(",")
    ]
    levels = [level for part in levels for level in part.split(",")]
    for subset in subsets:
        if subset not in config.DATASET_METRIC:
            raise unknown_name(subset, "subset", list(config.DATASET_METRIC))
        for table, name in (
            (templates, "the prompts"),
            (config.DATASET_MAXGEN, "config.DATASET_MAXGEN"),
        ):
            if subset not in table:
                raise UsageError(
                    f'subset "{subset}" is missing from {name}; expected an entry for each selected subset'
                )
    for level in levels:
        if not re.fullmatch(r"[1-9][0-9]*k", level):
            raise UsageError(f'--lengths: found "{level}", expected a level such as 16k')
    return [(subset, level) for subset in dict.fromkeys(subsets) for level in dict.fromkeys(levels)]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a script that reads a run: the folder, which is named in one of two ways, and runs to compare."""
    parser.add_argument(
        "--input-dir", type=Path, help="the run's folder: the last line that prediction.py printed"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="as for prediction.py (outputs)"
    )
    parser.add_argument(
        "--model-name", help="as for prediction.py; names the folder together with --output-dir"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="other runs, compared question by question",
    )


def named_run_folder(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """The folder that the options of `add_run_options` name; ends the process where they do not name just one."""
    if (arguments.input_dir is None) == (arguments.model_name is None):
        parser.error("expected either --input-dir, or --model-name with --output-dir")
    return arguments.input_dir or store.run_folder(arguments.output_dir, arguments.model_name)
