"""rows → answers: selects rows, has them answered, appends each answer as it comes; run again, it resumes.

    python prediction.py --model-path /models/chatglm3-6b-32k --model-name chatglm3 --model-max-len 31500

Its last line is the run's folder, `<output-dir>/<model-name>`, which evaluation.py reads.
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import backends
import config
import data
import utils
import workers
from errors import ExitCode, HarnessError, choices, printable, run
from store import Store, run_folder

# Which options decide the answers, and so may not change when a run is resumed, and which do not. A test holds every
# option to be in one of the two.
DECIDING = """
    backend model_path model_name model_max_len dtype attn pure_greedy seed trust_remote_code backend_args
    data_path prompts chat_template published batch_size
""".split()  # noqa: SIM905 - reads as a list of words
NOT_DECIDING = """
    datasets lengths limit output_dir num_workers single_process retry_failed overwrite allow_pickle
""".split()  # noqa: SIM905


# Where so many rows fail before any is answered, the rest would fail too: it is the model or its settings.
HOPELESS = 20


@dataclass(frozen=True)
class Selected:
    """One file of the run and the number of its first rows that are selected."""

    file: data.DataFile
    rows: int

    @property
    def name(self) -> str:
        """`<subset>_<level>`."""
        return f"{self.file.subset}_{self.file.level}"

    def missing(self, store: Store) -> list[int]:
        """The selected rows that have no answer yet."""
        done = store.done(self.file.subset, self.file.level)
        return [index for index in range(self.rows) if index not in done]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, "") else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """The command line; every default stands in its help."""
    cli = argparse.ArgumentParser(
        description="Answer LV-Eval's questions with a model; run the same command again to resume.",
        epilog="exit codes: 0 complete, 2 a wrong option, bad data or set-up, 3 rows are missing (run again), 4 the "
        "folder holds a run with other settings, 6 the disk failed, 130 Ctrl-C",
        formatter_class=_Help,
        allow_abbrev=False,  # what a prefix means would change with the next option
    )
    model = cli.add_argument_group("model")
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
    what = cli.add_argument_group("what is asked")
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
    how = cli.add_argument_group("how it runs")
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
    return cli


def check(args: argparse.Namespace) -> None:
    """Refuse option values that cannot work, and settle what `--published` and defaults stand for."""
    for option, least in (("model_max_len", 2), ("limit", 1), ("num_workers", 1), ("batch_size", 1)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise HarnessError(f"--{option.replace('_', '-')}: found {value}, expected at least {least}")
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


def load_files(names: Sequence[tuple[str, str]], data_path: Path | None, limit: int | None) -> list[Selected]:
    """Every selected file, read and checked whole before a model is loaded."""
    from tqdm import tqdm

    files = []
    for subset, level in tqdm(names, desc="checking the data", unit="file", delay=2, leave=False):
        file = data.load(subset, level, data_path)
        files.append(Selected(file, len(file) if limit is None else min(limit, len(file))))
    return files


def identity(
    args: argparse.Namespace, options: backends.Options, prompts: utils.PromptSet, files: Sequence[Selected]
) -> dict[str, backends.Json]:
    """What decides the answers of this run, as run.json keeps it."""
    return {
        "backend": args.backend,
        "engine": backends.module(args.backend).identity(options),
        "backend_args": {key: value for key, value in options.args.items() if key not in ("delay",)},
        "model_name": args.model_name,
        "model_max_len": args.model_max_len,
        "batch_size": args.batch_size,
        "prompts": {"name": prompts.name, "sha256": prompts.sha256, "official": prompts.official},
        "chat_template": args.chat_template,
        "tables": dict(utils.table_entries(args.model_name)),
        "budgets": {file.file.subset: config.DATASET_MAXGEN[file.file.subset] for file in files},
        "data": {file.name: file.file.fingerprint for file in files},
    }


def open_tasks(store: Store, files: Sequence[Selected], batch_size: int, retry_failed: bool) -> list[workers.Task]:
    """The rows that have no answer yet, file after file, `batch_size` at a time.

    Rows that failed in an earlier start come last and alone: one that breaks the engine then keeps no other from being
    answered. Those that exceed the model's window would fail again and are left out, unless `retry_failed`.
    """
    failed = store.failed()
    tasks, again = [], []
    for selected in files:
        subset, level = selected.file.subset, selected.file.level
        todo = selected.missing(store)
        fresh = [index for index in todo if (subset, level, index) not in failed]
        for start in range(0, len(fresh), batch_size):
            tasks.append(workers.Task(subset, level, tuple(fresh[start : start + batch_size])))
        again += [
            workers.Task(subset, level, (index,))
            for index in todo
            if (cause := failed.get((subset, level, index))) and (retry_failed or cause != "context_overflow")
        ]
    return tasks + again


def answer_all(store: Store, files: Sequence[Selected], results: Iterator[workers.Result]) -> Counter[str]:
    """Append each answer as it comes, derive each file when its last one is there; failed attempts by cause."""
    from tqdm import tqdm

    missing = {selected.name: len(selected.missing(store)) for selected in files}
    total = sum(selected.rows for selected in files)
    failures: Counter[str] = Counter()
    tokens, started = 0, time.monotonic()
    for selected in files:
        if missing[selected.name] == 0:
            store.derive(selected.file.subset, selected.file.level)
    with tqdm(total=total, initial=total - sum(missing.values()), unit="row", desc="answering", smoothing=0.1) as bar:
        for result in results:
            if result.effective:
                store.record_effective(dict(result.effective))
            for record in result.records:
                if store.append(record):
                    bar.update()
                    tokens += record["prompt_tokens"]
                    missing[f"{record['dataset']}_{record['level']}"] -= 1
            tokens += result.generated_tokens
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s", refresh=False)
            task = result.task
            for attempt in result.attempts:
                store.attempt(task.subset, task.level, attempt.index, attempt.cause, attempt.message)
                failures[attempt.cause] += 1
                where = f"{task.subset}_{task.level} row {attempt.index}"
                bar.write(printable(f"no answer: {where}: {attempt.cause}: {attempt.message}"), file=sys.stderr)
            if failures.total() >= HOPELESS and not any(
                store.done(selected.file.subset, selected.file.level) for selected in files
            ):
                cause, number = failures.most_common(1)[0]
                raise HarnessError(
                    f"the first {failures.total()} rows all failed ({cause}: {number}) and none was ever answered; the "
                    "causes stand in attempts.jsonl; mend it and run the same command again",
                    ExitCode.INCOMPLETE,
                )
            name = f"{task.subset}_{task.level}"
            if result.records and missing[name] == 0:
                store.derive(task.subset, task.level)
                bar.write(f"finished {name}: {len(store.done(task.subset, task.level))} rows", file=sys.stderr)
    return failures


def main() -> ExitCode:
    """Parse, check, answer; 0 when every selected row has an answer, 3 when some have none."""
    args = parser().parse_args()
    check(args)
    options = backend_options(args)
    folder = run_folder(args.output_dir, args.model_name)
    prompts = utils.load_prompts(args.prompts)
    if args.published and not prompts.official:
        raise HarnessError(
            f"--published: the templates of --prompts {args.prompts} have SHA-256 {prompts.sha256}; expected the "
            f"official ones, {utils.OFFICIAL_MAPPING_SHA256}"
        )
    files = load_files(selected_names(args, prompts.templates), args.data_path, args.limit)
    gpus = workers.visible_gpus() if args.backend == "hf" else []
    budget = max(config.DATASET_MAXGEN[selected.file.subset] for selected in files)
    options = replace(options, gpus=len(gpus), budget=budget)
    decides = identity(args, options, prompts, files)
    selection = {selected.name: selected.rows for selected in files}
    rows = {selected.name: len(selected.file) for selected in files}
    job = workers.Job(
        backend=args.backend,
        options=options,
        model_name=args.model_name,
        chat_template=args.chat_template,
        templates=prompts.templates,
        budgets=config.DATASET_MAXGEN,
        fingerprints={selected.name: selected.file.fingerprint for selected in files},
        data_path=args.data_path,
    )
    again = "the same command again" + (", without --overwrite," if args.overwrite else "")
    with Store.open(folder, decides, selection, rows, overwrite=args.overwrite) as store:
        tasks = open_tasks(store, files, args.batch_size, args.retry_failed)
        count = 1 if args.single_process else min(args.num_workers or len(gpus) or 1, max(1, len(tasks)))
        started = {"argv": sys.argv[1:], "selection": selection, "workers": count}
        store.log({"event": "start", **started})
        if tasks:
            announce(args, gpus)
        try:
            failures = answer(store, files, tasks, job, args.single_process, count, gpus)
        except KeyboardInterrupt:
            where = printable(str(folder))
            print(f"interrupted: all answers so far are saved in {where}; run {again}", file=sys.stderr)
            return ExitCode.INTERRUPTED
        left = sum(len(selected.missing(store)) for selected in files)
        store.log({"event": "end", "rows_left": left})
    if left:
        causes = ", ".join(f"{cause}: {number}" for cause, number in sorted(failures.items())) or "skipped"
        print(
            f"incomplete: {left} rows have no answer ({causes}); causes stand in attempts.jsonl; run {again} to try "
            "them again (context_overflow: only with --retry-failed; a new run with a smaller "
            "--model-max-len avoids it)",
            file=sys.stderr,
        )
    print(printable(str(folder)))
    return ExitCode.INCOMPLETE if left else ExitCode.COMPLETE


def announce(args: argparse.Namespace, gpus: Sequence[str]) -> None:
    """Tell what is easily overlooked: a prompt format taken by name, and that no GPU is used."""
    part = utils.chat_format_of(args.model_name)
    if part and args.chat_template in ("auto", "published"):
        message = f'prompt format: that of "{part}" in utils.py, which the model name contains, unless it has a .chat()'
        print(message, file=sys.stderr)
    if args.backend == "hf" and not gpus:
        print("no GPU is visible to torch: the model runs on the CPU", file=sys.stderr)


def answer(
    store: Store,
    files: Sequence[Selected],
    tasks: Sequence[workers.Task],
    job: workers.Job,
    single_process: bool,
    count: int,
    gpus: Sequence[str],
) -> Counter[str]:
    """Have the tasks answered by the pool that fits; without a task no pool and no model is started."""
    if not tasks:
        return answer_all(store, files, iter(()))
    with workers.pool(single_process=single_process, count=count, gpus=gpus) as executor:
        return answer_all(store, files, workers.answers(executor, job, tasks, count))


if __name__ == "__main__":
    run(main)
