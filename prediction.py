"""rows → answers: selects rows, has them answered, appends each answer as it comes; run again, it resumes.

    python prediction.py --model-path /models/chatglm3-6b-32k --model-name chatglm3 --model-max-len 31500

Its last line is the run's folder, `<output-dir>/<model-name>`, which evaluation.py reads.
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path

from lveval import config, utils
from lveval.backends import ON_GPUS, REMOTE, backend_module
from lveval.backends.base import EngineOptions, Json
from lveval.common.errors import ExitCode, IncompleteRun, UsageError, run_cli
from lveval.common.text import printable
from lveval.data import prompt_sets
from lveval.data.selection import SelectedFile, load_selection
from lveval.execution import dispatch, remote_cluster
from lveval.execution.cost import CostTracker
from lveval.execution.pool import gpu_groups, visible_gpus, worker_pool
from lveval.execution.tasks import Job, Task, TaskResult
from lveval.options import (
    Scheduler,
    backend_options,
    check_options,
    option_parser,
    scheduler_options,
    selected_names,
)
from lveval.planning import token_counts
from lveval.planning.check import run_checks
from lveval.planning.plan import print_plan
from lveval.runs.store import RunStore, run_folder

# Where so many rows fail before any is answered, the rest would fail too: it is the model or its settings.
MAX_FAILURES_BEFORE_FIRST_ANSWER = 20


def build_spec(
    args: argparse.Namespace,
    options: EngineOptions,
    prompts: prompt_sets.PromptSet,
    files: Sequence[SelectedFile],
    expected: remote_cluster.Environment | None = None,
) -> dict[str, Json]:
    """What decides the answers of this run, as run.json keeps it; `expected` is what workers elsewhere agreed on."""
    module = backend_module(args.backend)
    return {
        "backend": args.backend,
        "engine": expected["engine"] if expected else module.settings_fingerprint(options),
        "backend_args": {
            key: value for key, value in options.args.items() if key not in module.RUNTIME_ONLY_ARGS
        },
        "model_name": args.model_name,
        "model_max_len": args.model_max_len,
        "batch_size": args.batch_size,
        "prompts": {"name": prompts.name, "sha256": prompts.sha256, "official": prompts.official},
        "chat_template": args.chat_template,
        "tables": dict(utils.format_overrides(args.model_name)),
        "budgets": {file.file.subset: config.DATASET_MAXGEN[file.file.subset] for file in files},
        "data": {file.name: file.file.fingerprint for file in files},
    }


def make_job(
    args: argparse.Namespace,
    options: EngineOptions,
    prompts: prompt_sets.PromptSet,
    files: Sequence[SelectedFile],
    expected: remote_cluster.Environment | None = None,
) -> Job:
    """What the workers are told of this run."""
    return Job(
        backend=args.backend,
        options=options,
        model_name=args.model_name,
        chat_template=args.chat_template,
        templates=prompts.templates,
        budgets=config.DATASET_MAXGEN,
        fingerprints={selected.name: selected.file.fingerprint for selected in files},
        data_path=args.data_path and args.data_path.absolute(),
        expected=expected or {},
        max_concurrent_rows=backend_module(args.backend).max_concurrent_rows(options),
        row_hours=args.row_hours,
    )


def cluster_environment(
    scheduler: Scheduler | None, backend: str, options: EngineOptions
) -> remote_cluster.Environment:
    """What decides the answers of the scheduler's workers; nothing without one."""
    if scheduler is None:
        return {}
    with remote_cluster.connect(scheduler) as cluster:
        return cluster.agree(backend, options)


def pending_tasks(
    store: RunStore,
    files: Sequence[SelectedFile],
    batch_size: int,
    retry_failed: bool,
    *,
    in_turn: bool = False,
    out: Set[tuple[str, str, int]] = frozenset(),
) -> list[Task]:
    """The rows that have no answer yet, file after file or the files `in_turn`, `batch_size` at a time.

    Rows that failed in an earlier start come last and alone: one that breaks the engine then keeps no other from being
    answered. Those that exceed the model's window would fail again and are left out, unless `retry_failed`, or where
    they are `out` at a service.
    """
    failed = store.failed()
    of_files: list[list[Task]] = []
    again: list[Task] = []
    for selected in files:
        subset, level = selected.file.subset, selected.file.level
        todo = selected.missing(store.done(selected.file.subset, selected.file.level))
        fresh = [index for index in todo if (subset, level, index) not in failed]
        parts = [
            tuple(fresh[start : start + batch_size]) for start in range(0, len(fresh), batch_size)
        ]
        of_files.append([Task(subset, level, part) for part in parts])
        again += [
            Task(subset, level, (index,))
            for index in todo
            if (cause := failed.get(row := (subset, level, index)))
            and (retry_failed or cause != "context_overflow" or row in out)
        ]
    if in_turn:
        return [task for turn in itertools.zip_longest(*of_files) for task in turn if task] + again
    return [task for tasks in of_files for task in tasks] + again


def record_results(
    store: RunStore,
    files: Sequence[SelectedFile],
    results: Iterator[TaskResult],
    spending: CostTracker,
) -> Counter[str]:
    """Append each answer as it comes, derive each file when its last one is there; failed attempts by cause."""
    from tqdm import tqdm

    missing = {
        selected.name: len(selected.missing(store.done(selected.file.subset, selected.file.level)))
        for selected in files
    }
    total = sum(selected.rows for selected in files)
    failures: Counter[str] = Counter()
    tokens, repeated, started = 0, 0, time.monotonic()
    for selected in files:
        if missing[selected.name] == 0:
            store.derive(selected.file.subset, selected.file.level)
    with tqdm(
        total=total,
        initial=total - sum(missing.values()),
        unit="row",
        desc="answering",
        smoothing=0.1,
    ) as bar:
        for result in results:
            if result.effective:
                store.record_effective(dict(result.effective))
            for record in result.records:
                if store.append(record):
                    spending.add(record)
                    bar.update()
                    tokens += record["prompt_tokens"]
                    missing[f"{record['dataset']}_{record['level']}"] -= 1
            tokens += result.generated_tokens
            speed = f"{tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s"
            money = f", {spending.cost:,.2f} USD" if spending.cost else ""
            retries = f", {repeated} tries repeated" if repeated else ""
            bar.set_postfix_str(speed + money + retries, refresh=False)
            task = result.task
            for attempt in result.attempts:
                store.attempt(
                    task.subset, task.level, attempt.index, attempt.cause, attempt.message
                )
                if attempt.cause == "transient":
                    repeated += 1
                    continue
                failures[attempt.cause] += 1
                spending.drop(task.subset, task.level, attempt.index)
                where = f"{task.subset}_{task.level} row {attempt.index}"
                bar.write(
                    printable(f"no answer: {where}: {attempt.cause}: {attempt.message}"),
                    file=sys.stderr,
                )
            if failures.total() >= MAX_FAILURES_BEFORE_FIRST_ANSWER and not any(
                store.done(selected.file.subset, selected.file.level) for selected in files
            ):
                cause, number = failures.most_common(1)[0]
                raise IncompleteRun(
                    f"the first {failures.total()} rows all failed ({cause}: {number}) and none was ever answered; the "
                    "causes stand in attempts.jsonl; mend it and run the same command again"
                )
            name = f"{task.subset}_{task.level}"
            if result.records and missing[name] == 0:
                store.derive(task.subset, task.level)
                bar.write(
                    f"finished {name}: {len(store.done(task.subset, task.level))} rows",
                    file=sys.stderr,
                )
    return failures


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse, check, answer; 0 when every selected row has an answer, 3 when some have none."""
    args = option_parser().parse_args(argv)
    check_options(args)
    scheduler = scheduler_options(args)
    options = backend_options(args)
    folder = run_folder(args.output_dir, args.model_name)
    prompts = prompt_sets.load_prompts(args.prompts)
    if args.published and not prompts.official:
        raise UsageError(
            f"--published: the templates of --prompts {args.prompts} have SHA-256 {prompts.sha256}; expected the "
            f"official ones, {prompt_sets.OFFICIAL_MAPPING_SHA256}"
        )
    names = selected_names(args, prompts.templates)
    gpus = visible_gpus() if args.backend in ON_GPUS and not scheduler else []
    per_worker = max(1, len(gpus)) if args.single_process else args.gpus_per_worker
    without = (
        args.plan and not args.calibrate and not gpus
    )  # a plan can be made where there are none
    groups = [] if scheduler or without else gpu_groups(gpus, per_worker)
    budget = max(config.DATASET_MAXGEN[subset] for subset, _ in names)
    options = replace(options, gpus=len(gpus), gpus_per_worker=per_worker, budget=budget)
    if (
        scheduler and options.model_path and Path(options.model_path).exists()
    ):  # workers have another working directory
        options = replace(options, model_path=str(Path(options.model_path).absolute()))
    if args.plan:
        with token_counts.counting_pool(names) as executor:
            files = load_selection(names, args.data_path, args.limit, executor)
            decides = build_spec(
                args, options, prompts, files, cluster_environment(scheduler, args.backend, options)
            )
            setup_warnings(args, decides["engine"], len(gpus) - per_worker * len(groups))
            print_plan(
                args,
                make_job(args, options, prompts, files),
                files,
                decides,
                folder,
                groups,
                executor,
            )
        return ExitCode.COMPLETE
    files = load_selection(names, args.data_path, args.limit)
    if args.check:
        build_spec(args, options, prompts, files)  # refuses what cannot work
        return run_checks(
            make_job(args, options, prompts, files), files, groups, args.single_process
        )
    expected = cluster_environment(scheduler, args.backend, options)
    decides = build_spec(args, options, prompts, files, expected)
    selection = {selected.name: selected.rows for selected in files}
    rows = {selected.name: len(selected.file) for selected in files}
    job = make_job(args, options, prompts, files, expected)
    again = "the same command again" + (", without --overwrite," if args.overwrite else "")
    with RunStore.open(folder, decides, selection, rows, overwrite=args.overwrite) as store:
        # An engine that computes rows together gets them one by one: each is then saved when it is finished.
        # Under a limit the files take turns, so that what it allows is spread over subsets and levels.
        limited = args.max_cost is not None or args.max_hours is not None
        batch_size = 1 if job.max_concurrent_rows > 1 or options.service else args.batch_size
        spending = CostTracker.of(
            args, config.DATASET_MAXGEN, backend_module(args.backend).answer_tokens(options) or 0
        )
        spending.paid = backend_module(args.backend).claim_rows_in_flight(
            options, store.is_answered, selection
        )
        tasks = pending_tasks(
            store, files, batch_size, args.retry_failed, in_turn=limited, out=spending.paid
        )
        if spending.paid:
            tasks.sort(
                key=lambda task: (task.subset, task.level, task.indices[0]) not in spending.paid
            )
        for record in store.records():
            spending.add(record)
        count = (
            1
            if args.single_process
            else min(args.num_workers or len(groups) or 1, max(1, len(tasks)))
        )
        started = {
            "argv": list(sys.argv[1:] if argv is None else argv),
            "selection": selection,
            "workers": args.scheduler or count,
        }
        store.log({"event": "start", **started, "gpus_per_worker": per_worker})
        if tasks:
            setup_warnings(args, decides["engine"], len(gpus) - per_worker * len(groups))
        try:
            failures = answer(
                store, files, tasks, job, args.single_process, count, groups, scheduler, spending
            )
        except KeyboardInterrupt:
            where = printable(str(folder))
            print(
                f"interrupted: all answers so far are saved in {where}; run {again}",
                file=sys.stderr,
            )
            return ExitCode.INTERRUPTED
        left = sum(
            len(selected.missing(store.done(selected.file.subset, selected.file.level)))
            for selected in files
        )
        used = {
            "prompt_tokens": spending.prompt_tokens,
            "answer_tokens": spending.answer_tokens,
            "usd": spending.cost,
        }
        store.log({"event": "end", "rows_left": left, "used": used})
        for line in summary_lines(store, spending, failures, left, again):
            print(line, file=sys.stderr)
    print(printable(str(folder)))
    return ExitCode.INCOMPLETE if left else ExitCode.COMPLETE


def summary_lines(
    store: RunStore, spending: CostTracker, failures: Counter[str], left: int, again: str
) -> Iterator[str]:
    """Lines for the end of a start: what was spent, answers that are none, why rows are left; `again`: what to run."""
    if spending.cost:
        yield (
            f"spent {spending.cost:,.2f} USD so far: {spending.prompt_tokens:,} prompt tokens, "
            f"{spending.answer_tokens:,} answer tokens"
        )
    if unheard := sum(
        record["status"] == "length" and not record["pred"] for record in store.records()
    ):
        yield (
            f"{unheard} answers are empty: the model was still reasoning when their budget ended. Larger budgets make "
            "another run: DATASET_MAXGEN in config.py, or for a service --request-args "
            "'{\"max_completion_tokens\": 4000}'"
        )
    causes = ", ".join(f"{cause}: {number}" for cause, number in sorted(failures.items()))
    if left and spending.ended:
        yield (
            f"ended: {spending.ended}; {left} rows have no answer yet{causes and f' ({causes})'}; all answers so far "
            f"are saved; run {again} to go on{', with more to spend' if spending.spent else ''}"
        )
    elif left:
        yield (
            f"incomplete: {left} rows have no answer ({causes or 'skipped'}); causes stand in attempts.jsonl; run "
            f"{again} to try them again (context_overflow: only with --retry-failed; a new run with a smaller "
            "--model-max-len avoids it)"
        )


def setup_warnings(args: argparse.Namespace, engine: Json, idle: int) -> None:
    """Tell what is easily overlooked: a prompt format taken by name, and GPUs that are not used."""
    part = utils.chat_format_of(args.model_name)
    if part and args.chat_template in ("auto", "published"):
        message = f'prompt format: that of "{part}" in utils.py, which the model name contains, unless it has a .chat()'
        print(message, file=sys.stderr)
    if isinstance(engine, dict) and engine.get("device") == "cpu":
        print("no GPU is visible to torch: the model runs on the CPU", file=sys.stderr)
    if idle:
        print(f"{idle} GPUs stay idle: too few for one more worker", file=sys.stderr)


def answer(
    store: RunStore,
    files: Sequence[SelectedFile],
    tasks: Sequence[Task],
    job: Job,
    single_process: bool,
    count: int,
    groups: Sequence[str],
    scheduler: Scheduler | None,
    spending: CostTracker,
) -> Counter[str]:
    """Have the tasks answered by the pool that fits, or the service; without a task neither is started."""
    if not tasks:
        return record_results(store, files, iter(()), spending)
    if job.backend in REMOTE:
        return record_results(
            store, files, dispatch.run_remote(job, tasks, spending.take), spending
        )
    with worker_pool(
        single_process=single_process,
        count=count,
        gpus=groups,
        max_concurrent_rows=job.max_concurrent_rows,
        scheduler=scheduler,
    ) as executor:
        affordable = itertools.takewhile(spending.take, tasks)
        return record_results(
            store, files, dispatch.run_tasks(executor, job, affordable, count), spending
        )


if __name__ == "__main__":
    run_cli(main)
