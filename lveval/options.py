"""The options of a run, read from a command line and checked.

    options = RunOptions.parse(["--backend", "echo", "--model-name", "dry", "--limit", "2"])
    options.engine_options(), options.selected_files(templates)

argparse's command line is generated from the fields of option_groups.py, and what cannot work is
refused before anything heavy is loaded.
"""

import argparse
import difflib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

from lveval import config, user_tables
from lveval.backends import (
    BACKENDS,
    backend_module,
    parse_engine_args,
    pinned_backend,
    plugin_hash,
    run_name,
)
from lveval.backends.base import ApiOptions, BackendModule, EngineOptions, Json
from lveval.common.command_line import Command, Help, program
from lveval.common.errors import UsageError, WrongOption, unknown_name
from lveval.common.levels import LEVEL, FileKey
from lveval.common.logs import log
from lveval.common.redaction import without_fields
from lveval.common.text import first_line
from lveval.data.controls import CONTROLS
from lveval.data.own_subsets import unknown_subset
from lveval.option_groups import (
    GROUPS,
    ClusterOptions,
    EndpointOptions,
    ModelOptions,
    PlanOptions,
    ProcessOptions,
    SelectionOptions,
)
from lveval.runs.folder import run_folder, runs_below

UNKNOWN_WINDOW_LIMIT = 15_500  # tokens of a prompt where no model's window is known

MOST_RUNS = 10  # that are named where a command takes the newest

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

    @classmethod
    def of_program(cls, words: Sequence[str]) -> "RunOptions":
        """`parse` for a program, which does not know the commands."""
        try:
            options = cls.parse(words)
        except WrongOption as error:
            raise UsageError(f"predict(): {error.message}") from None
        for name in options.looks:
            command = f"predict {flag(name)}" if name == "export_prompts" else name
            raise UsageError(f"predict({name}=…): found the command {name}; run lveval {command}")
        return options

    @property
    def looks(self) -> list[str]:
        """The options given that look at a run in place of answering it."""
        return [name for name in ("plan", "check", "export_prompts") if getattr(self, name)]

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
        same = "dtype seed pure_greedy trust_remote_code allow_pickle batch_size"
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
            model_max_len=self.model_max_len or UNKNOWN_WINDOW_LIMIT,
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
                raise unknown_subset(subset)
            for name, table in tables.items():
                if subset not in table:
                    raise UsageError(
                        f'subset "{subset}" is missing from {name}; expected an entry for each '
                        "selected subset"
                    )
        for level in levels:
            if not re.fullmatch(LEVEL, level):
                raise UsageError(f'--lengths: found "{level}", expected a level such as 16k')
        unique = dict.fromkeys
        return [(subset, level) for subset in unique(subsets) for level in unique(levels)]


# Options that are given once for each of their values.
APPENDED = [
    each.name for each in fields(RunOptions) if each.metadata["argparse"].get("action") == "append"
]

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
    (
        lambda o: len(o.looks) > 1,
        "--plan, --check and --export-prompts: found several, expected one of them",
    ),
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


class _Help(Help, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, "", argparse.SUPPRESS)
        return action.help if silent else super()._get_help_string(action)


def flag(name: str) -> str:
    """Spell a field's name as its option."""
    return f"--{name.replace('_', '-')}"


def without_secrets(argv: Sequence[str]) -> list[str]:
    """A command line as it may be kept: of each --header the name, and a value that is a variable.

    A word before the variable, as in `Bearer $TOKEN`, stays too. Of other words what is a key goes.
    """
    kept: list[str] = []
    for word in argv:
        option, equals, joined = word.partition("=")
        if kept[-1:] == ["--header"]:
            kept.append(_without_value(word))
        elif option == "--header" and equals:
            kept.append(f"--header={_without_value(joined)}")
        else:
            kept.append(without_fields(word))
    return kept


def _without_value(header: str) -> str:
    name, _, value = header.partition(":")
    harmless = re.fullmatch(r"\s*([A-Za-z]+ )?\$\{?\w+\}?\s*", value)
    return header if harmless else f"{name}: ***"


def keyword_words(keywords: Mapping[str, object]) -> list[str]:
    """Spell keyword arguments as the words of a command line; None and False are not given.

    Raises UsageError for a name that is no option, with the one that is nearest.
    """
    known = [each.name for each in fields(RunOptions)]
    known += [option.removeprefix("--") for option in user_tables.TABLES]
    words: list[str] = []
    for name, value in keywords.items():
        if name not in known:
            if near := difflib.get_close_matches(name, known, 1):
                raise UsageError(f'predict(): no option "{name}"; did you mean "{near[0]}"?')
            raise unknown_name(name, "option of predict()", sorted(known))
        if isinstance(value, Mapping):
            words.append(f"{flag(name)}={_as_json(name, value)}")
        elif isinstance(value, list | tuple) and name in APPENDED:
            words += [f"{flag(name)}={item}" for item in value]
        elif isinstance(value, list | tuple):
            words += [flag(name), *map(str, value)]
        elif value is True:
            words.append(flag(name))
        elif value is not None and value is not False:
            words.append(f"{flag(name)}={value}")
    return words


def _as_json(name: str, value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{flag(name)}: found {value!r}: {first_line(error)}") from None


def run_command(argv: Sequence[str]) -> str:
    """How the user starts the run that a command line with --plan or --check looks at."""
    kept: list[str] = []
    words = without_secrets(argv)
    while words:
        word = words.pop(0)
        if word == "--calibrate" or (word == "--plan" and words[:1] in (["estimate"], ["exact"])):
            words.pop(0)
        elif word.partition("=")[0] not in ("--plan", "--calibrate", "--check"):
            kept.append(word)
    return " ".join([program("predict"), *map(shlex.quote, kept)])


def split_names(values: Sequence[str]) -> list[str]:
    """Split the values of an option that takes several names, also separated by commas."""
    return [name for value in values for name in value.split(",")]


class _ShortHelp(argparse.Action):
    """Shows the usual options and ends, as argparse's own help does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        option_parser(usual=True).print_help()
        parser.exit()


NAMES_THE_RUN = ("model_path", "model_name")  # one of them is required

EXAMPLES = """
  {0} --model-path /models/Qwen2.5-7B-Instruct
  {0} --model-path /models/Yi-6B-200K --published --single-process
  {0} --backend openai --model-name gpt-4o-mini --plan
"""
EXIT_CODES = (
    "exit codes: 0 complete, 2 a wrong option, bad data or set-up, 3 rows are missing (run again), "
    "4 the folder holds a run with other settings, 5 a service refused for good, 6 the disk "
    "failed, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP"
)


def option_parser(*, usual: bool = False) -> Command:
    """Make the command line of prediction.py from the fields of GROUPS, or of the `usual` ones."""
    command = Command(
        usage="%(prog)s --model-path MODEL [options]",
        description="Answer LV-Eval's questions with a model. The same command again resumes."
        + EXAMPLES.format(program("predict")),
        epilog=None if usual else EXIT_CODES,
        formatter_class=_Help,
        add_help=False,
    )
    if usual:  # these are told apart instead of the groups
        required = command.add_argument_group("required, one of the two")
        others = command.add_argument_group("the usual options")
    for group in GROUPS:
        titled = None if usual else command.add_argument_group(group.TITLE)
        hints = get_type_hints(group)
        for each in fields(group):
            if usual and not each.metadata["usual"]:
                continue
            words: dict[str, Any] = dict(each.metadata["argparse"])
            # Whether an option was given tells the help, and refuses it for other backends.
            unset = each.metadata["remote_only"] or each.name == "batch_size"
            words["default"] = None if unset else each.default
            kind = next(iter(get_args(hints[each.name])), hints[each.name])
            if kind is bool:
                words["action"] = "store_true"
            elif kind in (int, float, Path):
                words.setdefault("type", kind)
            place = titled or (required if each.name in NAMES_THE_RUN else others)
            place.add_argument(flag(each.name), *each.metadata["names"], **words)
    helps = others if usual else command.add_argument_group("help")
    shown: dict[str, Any] = {"dest": "help", "default": argparse.SUPPRESS}
    helps.add_argument(
        "-h", "--help", action=_ShortHelp, nargs=0, help="the usual options", **shown
    )
    helps.add_argument("--help-all", action="help", help="all options, in groups", **shown)
    return command


def add_run_folder_options(parser: Command) -> None:
    """Add the options that name a run to be read, in one of two ways, and runs to compare."""
    add = parser.add_argument
    newest = "the run's folder, as prediction.py prints it (default: the newest in --output-dir)"
    add("--input-dir", type=Path, metavar="RUN", help=newest)
    add("--output-dir", type=Path, default=Path("outputs"), help="as for prediction.py (outputs)")
    add("--model-name", help="as for prediction.py; names the folder together with --output-dir")
    parser.add_loudness()
    data = "a folder with the run's data, for want of a cached copy; computes depths of old runs"
    add("--data-path", type=Path, metavar="FOLDER", help=data)
    edited = "score rows that were edited on purpose as they stand; the results say so"
    add("--accept-edited", action="store_true", help=edited)
    compared = "other runs, compared question by question"
    add("--compare", type=Path, nargs="+", default=[], metavar="RUN", help=compared)


def named_run_folder(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """The folder that `add_run_folder_options` names, or the newest; raises UsageError for none."""
    if arguments.input_dir and arguments.model_name:
        parser.error("expected either --input-dir, or --model-name with --output-dir; found both")
    if arguments.model_name:
        return run_folder(arguments.output_dir, arguments.model_name)
    return arguments.input_dir or newest_run(arguments.output_dir, arguments.compare)


def newest_run(output_dir: Path, beside: Sequence[Path]) -> Path:
    """Choose the newest run below a folder, and say which others are there.

    Not one of those that it stands `beside`. Raises UsageError where there is none.
    """
    compared = {path.absolute() for path in beside}
    runs = [run for run in runs_below(output_dir) if run.absolute() not in compared]
    if not runs:
        raise UsageError(
            f"{output_dir}: found no run; make one with: {program('predict')} --model-path MODEL, "
            "or name its folder by --input-dir"
        )
    log.info("taking the newest run, %s%s", runs[0], "; there are others:" if runs[1:] else "")
    for run in runs[1:MOST_RUNS]:
        log.info("  %s", run)
    if len(runs) > MOST_RUNS:
        log.info("  and %d older ones", len(runs) - MOST_RUNS)
    return runs[0]
