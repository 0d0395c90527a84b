"""What a run is told on its command line: every option of prediction.py, checked before anything heavy is loaded.

    python prediction.py --help

Each option is deciding or not: a deciding one decides the answers and may not change when a run is resumed.
"""

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path

import backends
import config
import utils
from errors import HarnessError, choices

# Which options decide the answers, and so may not change when a run is resumed, and which do not. A test holds every
# option to be in one of the two.
DECIDING = """
    backend model_path model_name model_max_len dtype attn pure_greedy seed trust_remote_code backend_args
    data_path prompts chat_template published batch_size
""".split()  # noqa: SIM905 - reads as a list of words
NOT_DECIDING = """
    datasets lengths limit output_dir num_workers single_process retry_failed overwrite allow_pickle
    plan price_in price_out batch_discount tokens_per_second calibrate
""".split()  # noqa: SIM905


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, "") else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """The command line; every default stands in its help."""
    command = argparse.ArgumentParser(
        description="Answer LV-Eval's questions with a model; run the same command again to resume.",
        epilog="exit codes: 0 complete, 2 a wrong option, bad data or set-up, 3 rows are missing (run again), 4 the "
        "folder holds a run with other settings, 6 the disk failed, 130 Ctrl-C",
        formatter_class=_Help,
        allow_abbrev=False,  # what a prefix means would change with the next option
    )
    model = command.add_argument_group("model")
    model.add_argument("--backend", default="hf", help=f"the engine: {', '.join(backends.BACKENDS)}")
    model.add_argument("--model-path", help="model folder, .gguf file or Hub name (not needed for echo)")
    model.add_argument("--model-name", help="names the run and its prompt format (default: last part of the path)")
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
    model.add_argument("--pure-greedy", action="store_true", help="ignore the model's shipped generation settings")
    model.add_argument("--seed", type=int, default=42, help="of the random number generators")
    model.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings")
    model.add_argument("--allow-pickle", action="store_true", help="read pickled weights, which can run code")
    model.add_argument(
        "--backend-args",
        default="",
        metavar="KEY=VALUE,…",
        help="what only one backend knows; hf: window=N, the model's true window in tokens where its config tells too "
        "few; echo: delay=SECONDS an answer",
    )
    what = command.add_argument_group("what is asked")
    what.add_argument("--data-path", type=Path, help="folder with the data files (default: download from the Hub)")
    what.add_argument("--datasets", nargs="+", metavar="SUBSET", help="instead of config.DATASET_SELECTED")
    what.add_argument("--lengths", nargs="+", metavar="LEVEL", help="instead of config.DATASET_LENGTH_LEVEL, like 16k")
    what.add_argument("--limit", type=int, metavar="K", help="only the first K rows of each file")
    what.add_argument("--prompts", help="builtin, official, or a file with DATASET_PROMPT (default: builtin)")
    what.add_argument(
        "--chat-template",
        metavar="MODE",
        help="auto (default): the model's .chat(), the table in utils.py, the tokenizer's template or bare text, "
        "whichever comes first; published: the same without the tokenizer's template; tokenizer: only that; none: bare",
    )
    what.add_argument(
        "--published", action="store_true", help="as the leaderboard: --prompts official --chat-template published"
    )
    how = command.add_argument_group("how it runs")
    how.add_argument("--output-dir", type=Path, default=Path("outputs"), help="the run's folder is made in it")
    how.add_argument("--num-workers", type=int, metavar="N", help="processes (default: one per visible GPU, else 1)")
    how.add_argument("--single-process", action="store_true", help="one process, the model over all visible GPUs")
    how.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="ROWS",
        help="rows handed to a worker at a time; hf and echo answer them one by one. Part of the run's identity",
    )
    how.add_argument("--retry-failed", action="store_true", help="try rows again that exceeded the model's window")
    how.add_argument("--overwrite", action="store_true", help="move an earlier run of this name aside and start anew")
    plan = command.add_argument_group("planning")
    plan.add_argument(
        "--plan",
        nargs="?",
        const="estimate",
        choices=("estimate", "exact"),
        help="tell what is left to do and what it costs, and end; nothing is answered, no model is loaded. estimate "
        "(default): from 5 rows a file; exact: from all",
    )
    plan.add_argument("--price-in", type=float, metavar="USD", help="price of a million prompt tokens")
    plan.add_argument("--price-out", type=float, metavar="USD", help="price of a million answer tokens")
    plan.add_argument(
        "--batch-discount", type=float, default=0.5, metavar="FRACTION", help="what a batch run takes off the price"
    )
    plan.add_argument(
        "--tokens-per-second", type=float, metavar="N", help="prompt and answer tokens a second of one worker"
    )
    plan.add_argument(
        "--calibrate", type=int, metavar="K", help="with --plan: load the model after all and time K rows of each level"
    )
    return command


def check(args: argparse.Namespace) -> None:
    """Refuse option values that cannot work, and settle what `--published` and defaults stand for."""
    whole = (("model_max_len", 2), ("limit", 1), ("num_workers", 1), ("batch_size", 1), ("calibrate", 1))
    for option, least in whole:
        value = getattr(args, option)
        if value is not None and value < least:
            raise HarnessError(f"--{option.replace('_', '-')}: found {value}, expected at least {least}")
    for option, most in (("price_in", math.inf), ("price_out", math.inf), ("batch_discount", 1)):
        value = getattr(args, option)
        if value is not None and not (0 <= value <= most and math.isfinite(value)):
            above = "" if most == math.inf else f" to {most}"
            raise HarnessError(f"--{option.replace('_', '-')}: found {value}, expected a number from 0{above}")
    if args.tokens_per_second is not None and not 0 < args.tokens_per_second < math.inf:
        raise HarnessError(f"--tokens-per-second: found {args.tokens_per_second}, expected a number above 0")
    if args.calibrate and not args.plan:
        raise HarnessError("--calibrate: found no --plan; expected both, or neither to start the run")
    if args.published:
        args.prompts = args.prompts or "official"
        if args.chat_template not in (None, "published"):
            raise HarnessError(f"--published stands for --chat-template published; found {args.chat_template}")
        args.chat_template = "published"
    args.prompts = args.prompts or "builtin"
    args.chat_template = args.chat_template or "auto"
    if args.chat_template not in utils.CHAT_MODES:
        raise choices(args.chat_template, "--chat-template", list(utils.CHAT_MODES))
    if not 0 <= args.seed < 2**32:
        raise HarnessError(f"--seed: found {args.seed}, expected 0 to {2**32 - 1}")
    if args.single_process and args.num_workers is not None:
        raise HarnessError("--single-process is one process; found --num-workers too, expected one of the two")
    if args.model_name is None:
        if not args.model_path:
            raise HarnessError("--model-name is missing; expected a name for the run (or --model-path to take it from)")
        args.model_name = Path(args.model_path).name


def backend_options(args: argparse.Namespace) -> backends.Options:
    """What the backend is told of the command line."""
    return backends.Options(
        model_path=args.model_path,
        model_max_len=args.model_max_len,
        dtype=args.dtype,
        attn=args.attn,
        seed=args.seed,
        pure_greedy=args.pure_greedy,
        trust_remote_code=args.trust_remote_code,
        allow_pickle=args.allow_pickle,
        spread=args.single_process,
        args=backends.parse_args(args.backend, args.backend_args),
    )


def selected_names(args: argparse.Namespace, templates: Mapping[str, str]) -> list[tuple[str, str]]:
    """(subset, level) of each selected file, subset by subset; a typo is an error before anything is loaded."""
    subsets = args.datasets or config.DATASET_SELECTED
    levels = args.lengths or config.DATASET_LENGTH_LEVEL
    subsets = [config.DATASET_ALIAS.get(subset, subset) for part in subsets for subset in part.split(",")]
    levels = [level for part in levels for level in part.split(",")]
    for subset in subsets:
        if subset not in config.DATASET_METRIC:
            raise choices(subset, "subset", list(config.DATASET_METRIC))
        for table, name in ((templates, "the prompts"), (config.DATASET_MAXGEN, "config.DATASET_MAXGEN")):
            if subset not in table:
                raise HarnessError(
                    f'subset "{subset}" is missing from {name}; expected an entry for each selected subset'
                )
    for level in levels:
        if not re.fullmatch(r"[1-9][0-9]*k", level):
            raise HarnessError(f'--lengths: found "{level}", expected a level such as 16k')
    return [(subset, level) for subset in dict.fromkeys(subsets) for level in dict.fromkeys(levels)]
