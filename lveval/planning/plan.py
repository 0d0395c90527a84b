"""What a run will cost before it is started: rows, tokens, money, hours. No model is loaded.

python prediction.py --plan --model-path MODEL --model-name NAME --price-in 2.5 --price-out 10
"""

import functools
import math
import operator
import random
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from lveval import utils
from lveval.backends import backend_module
from lveval.backends.base import Json
from lveval.common.errors import IncompleteRun, SettingsMismatch
from lveval.common.levels import FileKey
from lveval.common.logs import log
from lveval.common.table import WIDTH, text_table
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
) -> bool:
    """Print what a run has left to do, its money and its hours; writes nothing into its folder.

    `spec` is what decides the run's answers, `gpus` those of each worker. Returns whether anything
    is left. Raises IncompleteRun where a calibration fails.
    """
    notes: list[str] = []  # what is said below the headline
    sizes = remaining_rows(options, job, files, spec, executor, notes)
    if answered := sum(selected.wanted for selected in files) - sum(map(len, sizes.values())):
        notes.append(f"{answered:,} rows are answered already and left out")
    if not sizes:
        print("\n".join(["nothing is left to do", *notes]))
        return False
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
    workers = 1 if options.single_process else options.num_workers or len(gpus) or 1
    seconds = None  # of one worker
    details = [_method(total)]
    if native_chat:
        chat = "the model's own .chat() adds its format to each prompt"
        details.append(f"{chat}; its tokens are not in these figures")
    if options.price_in is not None or options.price_out is not None:
        details.append(_money(options, total, unbounded=answer_tokens is None))
    if options.tokens_per_second:
        seconds = (total.prompt.value + total.budget) / options.tokens_per_second
        details.append(_hours(f"at {options.tokens_per_second:,g} tokens/s", seconds, workers))
    if options.calibrate:
        seconds, rates = calibrate(options, job, sizes, gpus)
        details += rates
        details.append(_hours(f"as {options.calibrate} rows of each level took", seconds, workers))
    print(headline(options, total, seconds and seconds / workers))
    print("\n".join([*notes, "", table(estimates), *cut_table(estimates), "", *details]))
    return True


# --- What is left to do -------------------------------------------------------------------------


def remaining_rows(
    options: RunOptions,
    job: Job,
    files: Sequence["SelectedFile"],
    spec: Mapping[str, Json],
    executor: Executor,
    notes: list[str],
) -> Sizes:
    """Return the rows of each file that have no answer; a file without any is left out.

    `notes` gets what is to be said of it.
    """
    names = [(selected.file.subset, selected.file.level) for selected in files]
    done = {} if options.overwrite else _answered(options.folder, spec, names, job, notes)
    sizes = {}
    all_sizes = executor.map(dataset.DataFile.context_bytes, [selected.file for selected in files])
    for name, selected, of_rows in zip(names, files, all_sizes, strict=True):
        if left := selected.missing(done.get(name, set())):
            sizes[name] = {index: of_rows[index] for index in left}
    return sizes


def _answered(
    folder: Path, spec: Mapping[str, Json], names: Sequence[FileKey], job: Job, notes: list[str]
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
        notes.append(f"{in_flight:,} rows are out in batches and count as answered")
    return done


# --- The tables ---------------------------------------------------------------------------------

HEADINGS = ("subset", "level", "rows", "longest", "prompt tokens", "before the cut", "answers ≤")
CUT_HEADINGS = ("subset", "level", "rows cut", "tokens dropped", "evidence cut", "unknown")


def headline(options: RunOptions, total: FileEstimate, seconds: float | None) -> str:
    """Say what a run comes to in one line, or which options tell what is unknown of it."""
    remote = backend_module(options.backend).REMOTE
    parts = [f"{total.rows:,} prompts", f"{_short(total.prompt.value)} tokens"]
    if seconds is not None:
        parts.append(f"about {_duration(seconds)}")
    else:
        uncalibrated = remote or options.scheduler
        parts.append(f"time by {'--tokens-per-second' if uncalibrated else '--calibrate 3'}")
    if options.price_in is not None or options.price_out is not None:
        parts.append(f"at most {_costs(options, total)[-1]:,.2f} USD")
    elif remote:
        parts.append("money by --price-in and --price-out")
    return ", ".join(parts)


def _short(number: float) -> str:
    """A number in three figures or so, as 950, 27k, 1.3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:,.0f}{unit}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    """Seconds in the unit that a person would take."""
    units = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
    unit = next((unit for unit, length in units.items() if seconds >= 1.5 * length), "second")
    number = max(1, round(seconds / units[unit]))
    return f"{number:,} {unit}{'s' if number > 1 else ''}"


def table(estimates: Mapping[FileKey, FileEstimate]) -> str:
    """Format the tokens of every file, of every level and of all."""
    return _table(HEADINGS, estimates, _cells)


def cut_table(estimates: Mapping[FileKey, FileEstimate]) -> list[str]:
    """Format what the cut takes, of the files where it takes something; [] where of none."""
    cut = {file: each for file, each in estimates.items() if each.cut.value or each.cut.variance}
    return ["", _table(CUT_HEADINGS, cut, _cut_cells)] if cut else []


def _table(
    headings: Sequence[str],
    estimates: Mapping[FileKey, FileEstimate],
    cells: Callable[[FileEstimate], tuple[str, ...]],
) -> str:
    levels: dict[str, list[FileEstimate]] = {}
    for (_, level), estimate in estimates.items():
        levels.setdefault(level, []).append(estimate)
    sums = {("all", level): _sum(of_level) for level, of_level in levels.items()}
    sums["all", "all"] = _sum(list(sums.values()))
    lines = [(*name, *cells(estimate)) for name, estimate in [*estimates.items(), *sums.items()]]
    return text_table([headings, *lines], rules=(1, 1 + len(estimates)))


def _sum(estimates: Sequence[FileEstimate]) -> FileEstimate:
    return functools.reduce(operator.add, estimates)


def _cells(estimate: FileEstimate) -> tuple[str, ...]:
    tokens = map(_tokens, (estimate.prompt, estimate.full))
    return f"{estimate.rows:,}", f"{estimate.longest:,.0f}", *tokens, f"{estimate.budget:,}"


def _cut_cells(estimate: FileEstimate) -> tuple[str, ...]:
    return (
        _rows(estimate.cut, estimate.rows),
        f"{estimate.dropped.value:,.0f}",
        _rows(estimate.lost, estimate.rows),
        f"{estimate.unknown.value:,.0f}",
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
    return textwrap.fill(
        f"estimated from {total.counted:,} of {total.rows:,} rows: {SAMPLE_ROWS} of each file "
        "(all where it was counted whole before), at random but always the same; --plan exact "
        f"counts all. ± and (least-most): intervals of 95 % or more ({T_QUANTILE} standard "
        "errors); tokens dropped are as uncertain as those before the cut; the longest prompt is "
        "a guess",
        WIDTH,
    )


def _costs(options: RunOptions, total: FileEstimate) -> tuple[float, float, float]:
    """USD of the prompts, of the answers at most, and of both, a batch's discount taken off."""
    prompts = total.prompt.value * (options.price_in or 0) / 1e6
    answers = total.budget * (options.price_out or 0) / 1e6
    share = 1 - options.batch_discount if options.batch else 1
    return prompts, answers, share * (prompts + answers)


def _money(options: RunOptions, total: FileEstimate, *, unbounded: bool) -> str:
    prompts, answers, _ = _costs(options, total)
    error = total.prompt.error * (options.price_in or 0) / 1e6
    most = prompts + answers
    uncertain = f" ±{error:,.2f}" if error else ""
    bound = "with the budgets that --request-args drops" if unbounded else "each at its full budget"
    return (
        f"money: prompts {prompts:,.2f}{uncertain} USD, answers at most {answers:,.2f} USD "
        f"({bound}):\n  {most:,.2f} USD; as a batch run ({options.batch_discount:.0%} off) "
        f"{(1 - options.batch_discount) * most:,.2f} USD"
    )


def _hours(how: str, seconds: float, workers: int) -> str:
    hours = seconds / 3600
    wall = f"; with {workers} workers {hours / workers:,.2f} hours" if workers > 1 else ""
    return f"time {how}: {hours:,.2f} hours of one worker{wall}"


def calibrate(
    options: RunOptions, job: Job, sizes: Sizes, gpus: Sequence[str]
) -> tuple[float, list[str]]:
    """Answer a few rows of each level.

    Returns the seconds that one worker takes for all rows, and a line a level on a row of it.
    Raises IncompleteRun where all rows of a level fail.
    """
    levels: dict[str, list[Task]] = {}
    for (subset, level), rows in sizes.items():
        levels.setdefault(level, []).extend(Task(subset, level, (index,)) for index in rows)
    seconds, rates = 0.0, []
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
            log.info("timing %d rows of %s", number, level)
            of_a_row, rate = _seconds_a_row(executor, job, level, sample)
            seconds += len(tasks) * of_a_row
            rates.append(rate)
    return seconds, rates


def _seconds_a_row(
    executor: Executor, job: Job, level: str, tasks: Sequence[Task]
) -> tuple[float, str]:
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
    return seconds, f"{level}: {seconds:.3g} s a row{failures}"
