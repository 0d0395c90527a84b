"""What a run will cost, told before it is started: rows, tokens, money, hours. No model is loaded.

python prediction.py --plan --model-path MODEL --model-name NAME --model-max-len 31500 --price-in 2.5 --price-out 10
"""

import argparse
import functools
import math
import operator
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from lveval import utils
from lveval.backends import backend_module
from lveval.backends.base import Json
from lveval.common.errors import IncompleteRun, SettingsMismatch
from lveval.common.text import printable
from lveval.data import dataset
from lveval.execution import dispatch
from lveval.execution.pool import worker_pool
from lveval.execution.tasks import Job, Task
from lveval.planning.estimate import T_QUANTILE, Estimate, FileEstimate, estimate_file
from lveval.planning.token_counts import (
    SAMPLE_ROWS,
    TokenCountCache,
    cached_counts,
    count_row,
    sample_rows,
)
from lveval.runs import store

if TYPE_CHECKING:
    from lveval.data.selection import SelectedFile


# --- The table ------------------------------------------------------------------------------------

FileKey = tuple[str, str]  # (subset, level) of a file


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


def table(lines: Mapping[FileKey, FileEstimate]) -> list[str]:
    """The lines of every file, of every level and of all, aligned. `lines`: (subset, level) -> figures."""
    levels = dict.fromkeys(level for _, level in lines)
    sums = {
        level: _sum([line for (_, other), line in lines.items() if other == level])
        for level in levels
    }
    rows = [HEADINGS, *((*name, *_cells(line)) for name, line in lines.items())]
    rows += [("all", level, *_cells(line)) for level, line in sums.items()]
    rows.append(("all", "all", *_cells(_sum(list(sums.values())))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    rule = "-" * len(text[0])
    return [text[0], rule, *text[1 : len(lines) + 1], rule, *text[len(lines) + 1 :]]


def _sum(lines: Sequence[FileEstimate]) -> FileEstimate:
    return functools.reduce(operator.add, lines)


def _cells(line: FileEstimate) -> tuple[str, ...]:
    return (
        f"{line.rows:,}",
        f"{line.prompt.value / line.rows:,.0f}",
        f"{line.longest:,.0f}",
        _tokens(line.prompt),
        _tokens(line.full),
        _rows(line.cut, line.rows),
        f"{line.dropped.value:,.0f}",
        _rows(line.lost, line.rows),
        f"{line.unknown.value:,.0f}",
        f"{line.budget:,}",
    )


def _tokens(figure: Estimate) -> str:
    """The figure and its error in percent."""
    error = f" ±{100 * figure.error / max(1, figure.value):.2g}%" if figure.variance else ""
    return f"{figure.value:,.0f}{error}"


def _rows(figure: Estimate, rows: int) -> str:
    """The figure and, where it is uncertain, the least and the most that it may be of so many rows."""
    if not figure.variance:
        return f"{figure.value:,.0f}"
    least, most = max(0.0, figure.value - figure.error), min(rows, figure.value + figure.error)
    return f"{figure.value:,.0f} ({math.floor(least):,}-{math.ceil(most):,})"


# --- The plan -------------------------------------------------------------------------------------


def print_plan(
    args: argparse.Namespace,
    job: Job,
    files: Sequence["SelectedFile"],
    decides: Mapping[str, Json],
    folder: Path,
    gpus: Sequence[str],
    executor: Executor,
) -> None:
    """Print what the run that `args` asks for has left to do, its money and its hours. Writes nothing into `folder`."""
    module = backend_module(job.backend)
    native_chat = utils.uses_native_chat(module.native_chat(job.options), job.chat_template)
    names = [(selected.file.subset, selected.file.level) for selected in files]
    done = {} if args.overwrite else _answered(folder, decides, names, job)
    sizes = {}  # (subset, level) -> row -> bytes, of the rows to do
    of_files = executor.map(dataset.DataFile.sizes, [selected.file for selected in files])
    for name, selected, all_of_it in zip(names, files, of_files, strict=True):
        if todo := [index for index in range(selected.rows) if index not in done.get(name, ())]:
            sizes[name] = {index: all_of_it[index] for index in todo}
    if answered := sum(selected.rows for selected in files) - sum(map(len, sizes.values())):
        print(f"{answered:,} rows are answered already and left out")
    if not sizes:
        print("nothing is left to do")
        return
    kept = {name: cached_counts(decides, job, native_chat, *name) for name in sizes}
    wanted = {
        name: list(of_file)
        if args.plan == "exact" or kept[name].rows.keys() >= of_file.keys()
        else sample_rows(list(of_file), "_".join(name))
        for name, of_file in sizes.items()
    }
    _count(executor, job, native_chat, wanted, sizes, kept)
    lines = {}
    for name, of_file in sizes.items():
        known = {index: kept[name].rows[index] for index in wanted[name]}
        budget = module.answer_tokens(job.options) or job.budgets[name[0]]
        lines[name] = estimate_file(known, of_file, job.options.model_max_len, budget)
    print("\n".join(table(lines)))
    total = _sum(list(lines.values()))
    for note in _notes(
        args, total, native_chat, unbounded=module.answer_tokens(job.options) is None
    ):
        print(note)
    count = 1 if args.single_process else args.num_workers or len(gpus) or 1
    if args.tokens_per_second:
        seconds = (total.prompt.value + total.budget) / args.tokens_per_second
        print(_hours(f"at {args.tokens_per_second:,g} tokens/s", seconds, count))
    if args.calibrate:
        rows = {name: list(of_file) for name, of_file in sizes.items()}
        seconds = calibrate(job, rows, args.calibrate, args.single_process, gpus)
        print(_hours(f"as {args.calibrate} rows of each level took", seconds, count))


def _answered(
    folder: Path, decides: Mapping[str, Json], names: Sequence[FileKey], job: Job
) -> dict[FileKey, set[int]]:
    """The rows that are answered, and those that batches answer at this moment: they are paid for."""
    try:
        done = store.answered_rows(folder, dict(decides), names)
    except SettingsMismatch as error:
        print(
            f"a run would be refused: {printable(error.message)}\nthe plan is for all rows",
            file=sys.stderr,
        )
        return {}
    found = backend_module(job.backend).rows_in_flight(job.options)
    out = [row for row in found if row[:2] in names and row[2] not in done.get(row[:2], ())]
    for subset, level, index in out:
        done.setdefault((subset, level), set()).add(index)
    if out:
        print(f"{len(out):,} rows are out in batches and count as answered")
    return done


def _count(
    executor: Executor,
    job: Job,
    native_chat: bool,
    wanted: Mapping[FileKey, Sequence[int]],
    sizes: Mapping[FileKey, Mapping[int, int]],
    kept: Mapping[FileKey, TokenCountCache],
) -> None:
    """Count the rows of `wanted` that `kept` lacks, the largest first, and keep each as it comes."""
    from tqdm import tqdm

    missing = [
        (name, index)
        for name, rows in wanted.items()
        for index in rows
        if index not in kept[name].rows
    ]
    missing.sort(key=lambda row: -sizes[row[0]][row[1]])
    futures = {
        executor.submit(count_row, job, native_chat, *name, index): (name, index)
        for name, index in missing
    }
    total = sum(sizes[name][index] for name, index in missing)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="counting tokens", delay=1, leave=False
    ) as bar:
        for future in as_completed(futures):
            name, index = futures[future]
            kept[name].add(index, future.result())
            bar.update(sizes[name][index])


def _notes(
    args: argparse.Namespace, total: FileEstimate, native_chat: bool, *, unbounded: bool
) -> Iterator[str]:
    """How the figures were found, and the money."""
    if total.counted == total.rows:
        yield f"all {total.rows:,} rows were counted"
    else:
        yield (
            f"estimated from {total.counted:,} of {total.rows:,} rows: {SAMPLE_ROWS} of each file "
            "(all where it was counted whole before), at random but always the same; --plan "
            "exact counts all"
        )
        yield (
            f"± and (least-most): intervals of 95 % or more ({T_QUANTILE} standard errors); "
            "tokens dropped are as uncertain as those before the cut; the longest prompt is a "
            "guess"
        )
    if native_chat:
        yield "the model's own .chat() adds its format to each prompt; its tokens are not in these figures"
    if args.price_in is None and args.price_out is None:
        return
    prompts, error = (
        tokens * (args.price_in or 0) / 1e6 for tokens in (total.prompt.value, total.prompt.error)
    )
    answers = total.budget * (args.price_out or 0) / 1e6
    most, batch = prompts + answers, (1 - args.batch_discount) * (prompts + answers)
    uncertain = f" ±{error:,.2f}" if error else ""
    bound = "with the budgets that --request-args drops" if unbounded else "each at its full budget"
    yield (
        f"money: prompts {prompts:,.2f}{uncertain} USD, answers at most {answers:,.2f} USD "
        f"({bound}): {most:,.2f} USD; as a batch run ({args.batch_discount:.0%} off) {batch:,.2f} "
        "USD"
    )


def _hours(how: str, seconds: float, count: int) -> str:
    hours = seconds / 3600
    wall = f"; with {count} workers {hours / count:,.2f} hours" if count > 1 else ""
    return f"time {how}: {hours:,.2f} worker-hours (GPU-hours where a worker has one GPU){wall}"


def calibrate(
    job: Job,
    rows: Mapping[FileKey, Sequence[int]],
    number: int,
    single_process: bool,
    gpus: Sequence[str],
) -> float:
    """The seconds that one worker takes for all `rows`, after answering `number` of each level; prints those of a row.

    Raises HarnessError (INCOMPLETE) where all rows of a level fail.
    """
    levels: dict[str, list[Task]] = {}
    for (subset, level), indices in rows.items():
        levels.setdefault(level, []).extend(Task(subset, level, (index,)) for index in indices)
    seconds = 0.0
    with worker_pool(
        single_process=single_process,
        count=1,
        gpus=gpus[:1],
        max_concurrent_rows=job.max_concurrent_rows,
    ) as executor:
        list(
            dispatch.run_tasks(executor, job, next(iter(levels.values()))[:1])
        )  # loads the model, which is not timed
        for level, tasks in levels.items():
            tried = random.Random(level).sample(tasks, min(number, len(tasks)))  # noqa: S311 - no secret
            began = time.monotonic()
            results = list(dispatch.run_tasks(executor, job, tried))
            each = (time.monotonic() - began) / len(tried)
            failed = [attempt for result in results for attempt in result.attempts]
            if len(failed) == len(tried):
                raise IncompleteRun(
                    f"--calibrate: no row of {level} was answered ({failed[0].cause}: "
                    f"{failed[0].message}); mend it, or leave that level out with --lengths"
                )
            print(
                f"{level}: {each:.3g} s a "
                f"row{f', {len(failed)} of {len(tried)} failed' if failed else ''}"
            )
            seconds += each * len(tasks)
    return seconds
