"""The options of a run, read from a command line and checked.

    options = RunOptions.parse(["--backend", "echo", "--model-name", "dry", "--limit", "2"])
    options.engine_options(), options.selected_files(templates)

argparse's command line is generated from the fields of option_groups.py, and what cannot work is
refused before anything heavy is loaded.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

from lveval import config
from lveval.backends import (
    BACKENDS,
    backend_module,
    parse_engine_args,
    pinned_backend,
    plugin_hash,
    run_name,
)
from lveval.backends.base import ApiOptions, BackendModule, EngineOptions, Json
from lveval.common.errors import UsageError, unknown_name
from lveval.common.levels import FileKey
from lveval.data.controls import CONTROLS
from lveval.option_groups import (
    GROUPS,
    ClusterOptions,
    EndpointOptions,
    ModelOptions,
    PlanOptions,
    ProcessOptions,
    SelectionOptions,
)
from lveval.runs.folder import run_folder

CHAT_MODES = ("auto", "published", "tokenizer", "none")


@dataclass(frozen=True)
class Scheduler:
    """Where a Dask scheduler is and how to speak to it. Raises UsageError where that cannot be."""

    ADDRESS: ClassVar = re.compile(
        r"(?P<protocol>tls|tcp)://(\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):[0-9]{1,5}"
    )
    address: str
    insecure: bool = False
    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    wait_minutes: float = 30.0  # to go without a single worker

    def __post_init__(self) -> None:
        """Refuse an address that is none, and an unencrypted one that was not asked for."""
        match = self.ADDRESS.fullmatch(self.address)
        if match is None:
            raise UsageError(
                f'--scheduler: found "{self.address}", expected tls://HOST:PORT (or '
                "tcp://HOST:PORT), as the scheduler prints it when it starts"
            )
        if match["protocol"] == "tls":
            return
        if not self.insecure:
            raise UsageError(
                f"--scheduler {self.address}: tcp:// is not encrypted, and whoever reaches that "
                "port can run code on every machine of the cluster and on this one; use tls://, "
                "or add --insecure-scheduler where nobody else can reach it"
            )
        if self.ca_file or self.cert or self.key:
            raise UsageError(
                f"--scheduler {self.address}: found TLS certificates too; they need a tls:// "
                "address"
            )


@dataclass(frozen=True, kw_only=True)
class RunOptions(
    ClusterOptions, PlanOptions, ProcessOptions, EndpointOptions, SelectionOptions, ModelOptions
):
    """All options of prediction.py, checked; see `parse`."""

    def __post_init__(self) -> None:
        """Refuse values, and pairs of them, that cannot work. Raises UsageError."""
        known = self.module.OPTIONS
        for each in fields(self):
            valid, value = each.metadata["valid"], getattr(self, each.name)
            if valid and value is not None and not valid[0](value):
                raise UsageError(f"{flag(each.name)}: found {value}, expected {valid[1]}")
            if each.metadata["some"] and value is not None and each.name not in known:
                able = [name for name in BACKENDS if each.name in backend_module(name).OPTIONS]
                raise UsageError(
                    f"{flag(each.name)} is for --backend {' or '.join(able)}; found --backend "
                    f"{self.module.name}"
                )
        for holds, message in CONFLICTS:
            if holds(self):
                raise UsageError(message)
        if self.chat_template not in CHAT_MODES:
            raise unknown_name(self.chat_template, "--chat-template", list(CHAT_MODES))
        if self.control is not None and self.control not in CONTROLS:
            raise unknown_name(self.control, "--control", list(CONTROLS))

    @classmethod
    def parse(cls, argv: Sequence[str] | None = None) -> "RunOptions":
        """Read a command line and settle what --published and missing names stand for.

        Raises UsageError; ends the process where argparse refuses a word.
        """
        given = vars(option_parser().parse_args(argv))
        given["backend"] = pinned_backend(given["backend"])
        engine = backend_module(given["backend"])
        for each in fields(cls):
            if not each.metadata["remote_only"]:
                continue
            if given[each.name] is None:
                given[each.name] = each.default
            elif not engine.REMOTE:
                found = f"found --backend {engine.name}"
                raise UsageError(f"{flag(each.name)} is for --backend openai; {found}")
        published = given["published"]
        if published and given["chat_template"] not in ("", "published"):
            found = given["chat_template"]
            raise UsageError(f"--published stands for --chat-template published; found {found}")
        given["prompts"] = given["prompts"] or ("official" if published else "builtin")
        given["chat_template"] = given["chat_template"] or ("published" if published else "auto")
        if given["batch_size"] is None:
            given["batch_size"] = engine.BATCH_SIZE
        given["think_tags"] = given["think_tags"] and tuple(given["think_tags"])
        given["model_name"] = given["model_name"] or run_name(given["model_path"] or "")
        return cls(**given)

    @property
    def module(self) -> BackendModule:
        """The backend that answers. Raises UsageError where there is none of that name."""
        return backend_module(self.backend)

    @property
    def folder(self) -> Path:
        """The run's folder. Raises UsageError for a name that is no plain folder name."""
        return run_folder(self.output_dir, self.model_name, self.part)

    @property
    def drawn(self) -> tuple[int, int] | None:
        """(rows of each file, seed) of --sample; None without it."""
        return None if self.sample is None else (self.sample, self.sample_seed or 0)

    def given(self) -> dict[str, Json]:
        """What was given of the options that not every run has, for the run's identity."""
        values = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.metadata["some"] or each.name == "control"
        }
        # These are known by their files, which the engine's fingerprint has: they may be moved.
        files = ("adapter", "plugin", "tokenizer")
        if self.drawn is not None:  # the sample itself may grow
            values["sample"] = {"seed": self.drawn[1]}
        return {k: v for k, v in values.items() if v is not None and k not in files}

    def engine_options(self) -> EngineOptions:
        """What the backend has to know of the options. Raises UsageError."""
        remote = self.module.REMOTE
        asked = {each.name: getattr(self, each.name) for each in fields(EndpointOptions)}
        asked |= {
            "headers": tuple(asked.pop("header") or ()),
            "finish_reasons": dict(asked.pop("finish_reason") or ()),
            "refusal_pattern": self.refusal_pattern or "",
            "request_args": self.request_args or {},
        }
        api = ApiOptions(
            **asked,
            tokenizer=self.tokenizer,
            system_message=config.SYSTEM_MESSAGE,
            chat=self.chat_template in ("auto", "published"),
            batch_folder=str(self.folder / "batches"),
        )
        same = "model_max_len dtype seed pure_greedy trust_remote_code allow_pickle batch_size"
        same += " revision adapter tokenizer"
        objects = "hf_overrides model_args generate_args chat_template_args plugin_args"
        values = {name: getattr(self, name) for name in same.split()}
        values |= {name: getattr(self, name) or {} for name in objects.split()}
        options = EngineOptions(
            model_path=self.model_path or (self.model_name if remote else None),
            shard_across_gpus=self.single_process,
            attn_implementation=self.attn,
            api=api if remote else None,
            args=parse_engine_args(self.backend, self.backend_args),
            plugins=tuple((spec, plugin_hash(spec)) for spec in self.plugin or ()),
            think_tags=(self.think_tags,) if self.think_tags else (),
            stop=tuple(self.stop or ()),
            thinking_budget=self.thinking_budget or 0,
            **values,
        )
        if self.max_cost is not None and self.module.answer_tokens(options) is None:
            raise UsageError(
                "--max-cost: --request-args drops the answers' budget; expected another budget in "
                "it"
            )
        return options

    def cluster_scheduler(self) -> Scheduler | None:
        """The scheduler that the options name. Raises UsageError where they do not fit together."""
        asked = ("insecure_scheduler", "tls_ca_file", "tls_cert", "tls_key", "wait_for_workers")
        found = [flag(name) for name in asked if getattr(self, name) not in (None, False)]
        if self.scheduler is None:
            if found:
                raise UsageError(f"{', '.join(found)}: only with --scheduler ADDRESS; found none")
            return None
        minutes = 30.0 if self.wait_for_workers is None else self.wait_for_workers
        files = self.tls_ca_file, self.tls_cert, self.tls_key
        return Scheduler(self.scheduler, self.insecure_scheduler, *files, minutes)

    def selected_files(self, templates: Mapping[str, str]) -> list[FileKey]:
        """List the selected files, subset by subset. Raises UsageError for an unknown name."""
        subsets = split_names(self.datasets or config.DATASET_SELECTED)
        subsets = [config.DATASET_ALIAS.get(subset, subset) for subset in subsets]
        levels = split_names(self.lengths or config.DATASET_LENGTH_LEVEL)
        tables = {"the prompts": templates, "config.DATASET_MAXGEN": config.DATASET_MAXGEN}
        for subset in subsets:
            if subset not in config.DATASET_METRIC:
                raise unknown_name(subset, "subset", list(config.DATASET_METRIC))
            for name, table in tables.items():
                if subset not in table:
                    raise UsageError(
                        f'subset "{subset}" is missing from {name}; expected an entry for each '
                        "selected subset"
                    )
        for level in levels:
            if not re.fullmatch(r"[1-9][0-9]*k", level):
                raise UsageError(f'--lengths: found "{level}", expected a level such as 16k')
        unique = dict.fromkeys
        return [(subset, level) for subset in unique(subsets) for level in unique(levels)]


# What does not go together, and the sentence that says so.
CONFLICTS: list[tuple[Callable[[RunOptions], object], str]] = [
    (
        lambda o: o.limit is not None and o.sample is not None,
        "--limit and --sample: found both, expected the first rows or rows drawn at random",
    ),
    (
        lambda o: o.sample_seed is not None and o.sample is None,
        "--sample-seed: found no --sample; expected both",
    ),
    (lambda o: o.plugin_args and not o.plugin, "--plugin-args: found no --plugin; expected both"),
    (
        lambda o: not o.model_name,
        "--model-name is missing; expected a name for the run (or --model-path to take it from)",
    ),
    (
        lambda o: o.max_cost is not None and None in (o.price_in, o.price_out),
        "--max-cost: found no price; expected --price-in and --price-out, USD of a million tokens",
    ),
    (
        lambda o: o.max_hours is not None and o.batch,
        "--max-hours: a batch takes up to a day at the service, whatever it says; found --batch "
        "too",
    ),
    (
        lambda o: o.stream and o.batch,
        "--stream: a batch has no streams; found --batch too, expected one of the two",
    ),
    (
        lambda o: o.check and o.batch,
        "--check asks one prompt at once; found --batch too, expected one of the two",
    ),
    (
        lambda o: o.calibrate and o.module.REMOTE,
        "--calibrate: a service would take money for it; expected a --backend that loads its model "
        "here, as hf or vllm",
    ),
    (
        lambda o: o.calibrate and not o.plan,
        "--calibrate: found no --plan; expected both, or neither to start the run",
    ),
    (lambda o: o.plan and o.check, "--plan and --check: found both, expected one of the two"),
    (
        lambda o: o.single_process and o.gpus_per_worker > 1,
        "--single-process takes all visible GPUs; found --gpus-per-worker too, expected one of "
        "the two",
    ),
    (
        lambda o: o.scheduler and o.module.REMOTE,
        "--scheduler: a service is asked from this process; expected another --backend",
    ),
    (
        lambda o: o.scheduler and (o.check or o.calibrate),
        "--scheduler: --check and --calibrate load the model here; run them on a node, without "
        "--scheduler",
    ),
    (
        lambda o: o.scheduler and (o.single_process or o.num_workers is not None),
        "--scheduler: its workers are those that you started on the nodes; found --single-process "
        "or --num-workers too, expected neither",
    ),
    (
        lambda o: o.single_process and o.num_workers is not None,
        "--single-process is one process; found --num-workers too, expected one of the two",
    ),
]


# --- From fields to argparse --------------------------------------------------------------------


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, "")
        return action.help if silent else super()._get_help_string(action)


def flag(name: str) -> str:
    """Spell a field's name as its option."""
    return f"--{name.replace('_', '-')}"


def without_secrets(argv: Sequence[str]) -> list[str]:
    """A command line as it may be kept: of each --header the name, and a value that is a variable.

    A word before the variable, as in `Bearer $TOKEN`, stays too.
    """
    kept: list[str] = []
    for word in argv:
        option, equals, joined = word.partition("=")
        if kept[-1:] == ["--header"]:
            kept.append(_without_value(word))
        elif option == "--header" and equals:
            kept.append(f"--header={_without_value(joined)}")
        else:
            kept.append(word)
    return kept


def _without_value(header: str) -> str:
    name, _, value = header.partition(":")
    harmless = re.fullmatch(r"\s*([A-Za-z]+ )?\$\{?\w+\}?\s*", value)
    return header if harmless else f"{name}: ***"


def split_names(values: Sequence[str]) -> list[str]:
    """Split the values of an option that takes several names, also separated by commas."""
    return [name for value in values for name in value.split(",")]


def option_parser() -> argparse.ArgumentParser:
    """Make the command line of prediction.py from the fields of GROUPS."""
    command = argparse.ArgumentParser(
        description="Answer LV-Eval's questions with a model; run the same command again to "
        "resume.",
        epilog="exit codes: 0 complete, 2 a wrong option, bad data or set-up, 3 rows are missing "
        "(run again), 4 the folder holds a run with other settings, 5 a service refused for good, "
        "6 the disk failed, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP",
        formatter_class=_Help,
        allow_abbrev=False,  # what a prefix means would change with the next option
    )
    for group in GROUPS:
        titled, hints = command.add_argument_group(group.TITLE), get_type_hints(group)
        for each in fields(group):
            words: dict[str, Any] = dict(each.metadata["argparse"])
            # Whether an option was given tells the help, and refuses it for other backends.
            unset = each.metadata["remote_only"] or each.name == "batch_size"
            words["default"] = None if unset else each.default
            kind = next(iter(get_args(hints[each.name])), hints[each.name])
            if kind is bool:
                words["action"] = "store_true"
            elif kind in (int, float, Path):
                words["type"] = kind
            titled.add_argument(flag(each.name), *each.metadata["names"], **words)
    return command


def add_run_folder_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a run to be read, in one of two ways, and runs to compare."""
    add = parser.add_argument
    add("--input-dir", type=Path, help="the run's folder: the last line of prediction.py's output")
    add("--output-dir", type=Path, default=Path("outputs"), help="as for prediction.py (outputs)")
    add("--model-name", help="as for prediction.py; names the folder together with --output-dir")
    add("-v", "--verbose", action="store_true", help="say more on standard error")
    add("-q", "--quiet", action="store_true", help="say only what is wrong")
    data = "a folder with the run's data, for want of a cached copy; computes depths of old runs"
    add("--data-path", type=Path, metavar="FOLDER", help=data)
    compared = "other runs, compared question by question"
    add("--compare", type=Path, nargs="+", default=[], metavar="RUN", help=compared)


def named_run_folder(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """The folder that `add_run_folder_options` names; ends the process where they name none."""
    if (arguments.input_dir is None) == (arguments.model_name is None):
        parser.error("expected either --input-dir, or --model-name with --output-dir")
    return arguments.input_dir or run_folder(arguments.output_dir, arguments.model_name)
