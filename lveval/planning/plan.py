"""What a run will cost before it is started: rows, tokens, money, hours. No model is loaded.

python prediction.py --plan --model-path MODEL --model-name NAME --price-in 2.5 --price-out 10
"""

import functools
import math
import operator
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from lveval import utils
from lveval.backends import backend_module
from lveval.backends.base import Json
from lveval.common.errors import IncompleteRun, SettingsMismatch
from lveval.common.levels import FileKey
from lveval.common.logs import log
from lveval.common.table import text_table
from lveval.data import dataset
from lveval.data.controls import CONTROLS
from lveval.data.selection import SelectedFile
from lveval.execution import dispatch
from lveval.execution.pool import worker_pool
from lveval.execution.tasks import Job, Task
from lveval.options import RunOptions
from lveval.planning.estimate import T_QUANTILE, Estimate, FileEstimate, estimate_file
from lveval.planning.token_counts import SAMPLE_ROWS, TokenCounter
from lveval.runs.folder import answered_rows

Sizes = dict[FileKey, dict[int, int]]  # file -> row that is left to do -> bytes


def print_plan(
    options: RunOptions,
    job: Job,
    files: Sequence[SelectedFile],
    spec: Mapping[str, Json],
    gpus: Sequence[str],
    executor: Executor,
) -> None:
    """Print what a run has left to do, its money and its hours; writes nothing into its folder.

    `spec` is what decides the run's answers, `gpus` those of each worker. Raises IncompleteRun
    where a calibration fails.
    """
    sizes = remaining_rows(options, job, files, spec, executor)
    if answered := sum(selected.wanted for selected in files) - sum(map(len, sizes.values())):
        print(f"{answered:,} rows are answered already and left out")
    if not sizes:
        print("nothing is left to do")
        return
    module = backend_module(job.backend)
    native_chat = utils.uses_native_chat(module.native_chat(job.options), job.chat_template)
    # Prompts of a control that are short are counted in no time, and no row's size tells of them.
    short = job.control is not None and CONTROLS[job.control].short
    counts = TokenCounter(job, spec, native_chat, executor).count(
        sizes, exact=short or options.plan == "exact"
    )
    answer_tokens = module.answer_tokens(job.options)
    estimates = {
        file: estimate_file(
            counts[file], rows, job.options.model_max_len, answer_tokens or job.budgets[file[0]]
        )
        for file, rows in sizes.items()
    }
    total = _sum(list(estimates.values()))
    print(table(estimates))
    print(_method(total))
    if native_chat:
        print(
            "the model's own .chat() adds its format to each prompt; its tokens are not in these "
            "figures"
        )
    if options.price_in is not None or options.price_out is not None:
        print(_money(options, total, unbounded=answer_tokens is None))
    workers = 1 if options.single_process else options.num_workers or len(gpus) or 1
    if options.tokens_per_second:
        seconds = (total.prompt.value + total.budget) / options.tokens_per_second
        print(_hours(f"at {options.tokens_per_second:,g} tokens/s", seconds, workers))
    if options.calibrate:
        seconds = calibrate(options, job, sizes, gpus)
        print(_hours(f"as {options.calibrate} rows of each level took", seconds, workers))


# --- What is left to do -------------------------------------------------------------------------


def remaining_rows(
    options: RunOptions,
    job: Job,
    files: Sequence["SelectedFile"],
    spec: Mapping[str, Json],
    executor: Executor,
) -> Sizes:
    """Return the rows of each file that have no answer; a file without any is left out."""
    names = [(selected.file.subset, selected.file.level) for selected in files]
    done = {} if options.overwrite else _answered(options.folder, spec, names, job)
    sizes = {}
    all_sizes = executor.map(dataset.DataFile.context_bytes, [selected.file for selected in files])
    for name, selected, of_rows in zip(names, files, all_sizes, strict=True):
        if left := selected.missing(done.get(name, set())):
            sizes[name] = {index: of_rows[index] for index in left}
    return sizes


def _answered(
    folder: Path, spec: Mapping[str, Json], names: Sequence[FileKey], job: Job
) -> dict[FileKey, set[int]]:
    """The rows that are answered, and those that are in flight in batches: they are paid for."""
    try:
        done = answered_rows(folder, spec, names)
    except SettingsMismatch as error:
        log.warning("a run would be refused: %s\nthe plan is for all rows", error.message)
        return {}
    recorded = sum(map(len, done.values()))
    for subset, level, index in backend_module(job.backend).rows_in_flight(job.options):
        if (subset, level) in done:
            done[subset, level].add(index)
    if in_flight := sum(map(len, done.values())) - recorded:
        print(f"{in_flight:,} rows are out in batches and count as answered")
    return done


# --- The table ----------------------------------------------------------------------------------

HEADINGS = (
    "subset",
    "level",
    "rows",
    "mean prompt",
    "longest",
    "prompt tokens",
    "before the cut",
    "rows cut",
    "tokens dropped",
    "evidence cut",
    "unknown",
    "answers at most",
)


def table(estimates: Mapping[FileKey, FileEstimate]) -> str:
    """Format the estimates of every file, of every level and of all."""
    levels: dict[str, list[FileEstimate]] = {}
    for (_, level), estimate in estimates.items():
        levels.setdefault(level, []).append(estimate)
    sums = {("all", level): _sum(of_level) for level, of_level in levels.items()}
    sums["all", "all"] = _sum(list(sums.values()))
    lines = [(*name, *_cells(estimate)) for name, estimate in [*estimates.items(), *sums.items()]]
    return text_table([HEADINGS, *lines], rules=(1, 1 + len(estimates)))


def _sum(estimates: Sequence[FileEstimate]) -> FileEstimate:
    return functools.reduce(operator.add, estimates)


def _cells(estimate: FileEstimate) -> tuple[str, ...]:
    rows = estimate.rows
    return (
        f"{rows:,}",
        f"{estimate.prompt.value / rows:,.0f}",
        f"{estimate.longest:,.0f}",
        _tokens(estimate.prompt),
        _tokens(estimate.full),
        _rows(estimate.cut, rows),
        f"{estimate.dropped.value:,.0f}",
        _rows(estimate.lost, rows),
        f"{estimate.unknown.value:,.0f}",
        f"{estimate.budget:,}",
    )


def _tokens(figure: Estimate) -> str:
    """The figure and its error in percent."""
    error = f" ±{100 * figure.error / max(1, figure.value):.2g}%" if figure.variance else ""
    return f"{figure.value:,.0f}{error}"


def _rows(figure: Estimate, rows: int) -> str:
    """The figure and, where it is uncertain, the least and the most that it may be."""
    if not figure.variance:
        return f"{figure.value:,.0f}"
    least, most = max(0.0, figure.value - figure.error), min(rows, figure.value + figure.error)
    return f"{figure.value:,.0f} ({math.floor(least):,}-{math.ceil(most):,})"


# --- Method, money and hours --------------------------------------------------------------------


def _method(total: FileEstimate) -> str:
    if total.counted == total.rows:
        return f"all {total.rows:,} rows were counted"
    return (
        f"estimated from {total.counted:,} of {total.rows:,} rows: {SAMPLE_ROWS} of each file "
        "(all where it was counted whole before), at random but always the same; --plan exact "
        f"counts all\n± and (least-most): intervals of 95 % or more ({T_QUANTILE} standard "
        "errors); tokens dropped are as uncertain as those before the cut; the longest prompt is "
        "a guess"
    )


def _money(options: RunOptions, total: FileEstimate, *, unbounded: bool) -> str:
    prompts, error = (
        tokens * (options.price_in or 0) / 1e6
        for tokens in (total.prompt.value, total.prompt.error)
    )
    answers = total.budget * (options.price_out or 0) / 1e6
    most = prompts + answers
    uncertain = f" ±{error:,.2f}" if error else ""
    bound = "with the budgets that --request-args drops" if unbounded else "each at its full budget"
    return (
        f"money: prompts {prompts:,.2f}{uncertain} USD, answers at most {answers:,.2f} USD "
        f"({bound}): {most:,.2f} USD; as a batch run ({options.batch_discount:.0%} off) "
        f"{(1 - options.batch_discount) * most:,.2f} USD"
    )


def _hours(how: str, seconds: float, workers: int) -> str:
    hours = seconds / 3600
    wall = f"; with {workers} workers {hours / workers:,.2f} hours" if workers > 1 else ""
    return f"time {how}: {hours:,.2f} worker-hours (GPU-hours where a worker has one GPU){wall}"


def calibrate(options: RunOptions, job: Job, sizes: Sizes, gpus: Sequence[str]) -> float:
    """Answer a few rows of each level; returns the seconds that one worker takes for all rows.

    Prints the seconds of a row. Raises IncompleteRun where all rows of a level fail.
    """
    levels: dict[str, list[Task]] = {}
    for (subset, level), rows in sizes.items():
        levels.setdefault(level, []).extend(Task(subset, level, (index,)) for index in rows)
    seconds = 0.0
    with worker_pool(
        single_process=options.single_process,
        count=1,
        gpus=gpus[:1],
        max_concurrent_rows=job.max_concurrent_rows,
    ) as executor:
        first = next(iter(levels.values()))[:1]
        list(dispatch.run_tasks(executor, job, first))  # loads the model, which is not timed
        for level, tasks in levels.items():
            number = min(options.calibrate or 0, len(tasks))
            sample = random.Random(level).sample(tasks, number)  # noqa: S311 - no secret
            seconds += len(tasks) * _seconds_a_row(executor, job, level, sample)
    return seconds


def _seconds_a_row(executor: Executor, job: Job, level: str, tasks: Sequence[Task]) -> float:
    began = time.monotonic()
    results = list(dispatch.run_tasks(executor, job, tasks))
    seconds = (time.monotonic() - began) / len(tasks)
    failed = [attempt for result in results for attempt in result.attempts]
    if len(failed) == len(tasks):
        raise IncompleteRun(
            f"--calibrate: no row of {level} was answered ({failed[0].cause}: "
            f"{failed[0].message}); mend it, or leave that level out with --lengths"
        )
    failures = f", {len(failed)} of {len(tasks)} failed" if failed else ""
    print(f"{level}: {seconds:.3g} s a row{failures}")
    return seconds
