"""Builds data in LV-Eval's style: mix-up of documents, confusing facts, keyword and phrase
replacement.

    python -m lveval construct --output-dir mydata --lengths 16k 32k --rows 10

`prediction.py --data-path mydata` evaluates on it. The method is that of Yuan et al., "LV-Eval",
arXiv 2402.05136, section 3. A source (a line of <sources>/<subset>.jsonl, see FIELDS) is a question
with its supporting documents. Every level asks the same questions. A row is a function of (seed,
subset, level, row number), the sources and the distractors alone: neither the other files asked for
nor the number of workers changes a byte.
"""

import contextlib
import itertools
import os
import re
import shlex
from collections import deque
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from lveval import config
from lveval.common.command_line import Command, next_step, program
from lveval.common.errors import ExitCode, StorageError, UsageError, run_cli, unknown_name
from lveval.common.processes import process_pool
from lveval.construct.build import TOLERANCE, UNITS, BuildSpec, build_lines, candidates, level_size
from lveval.construct.sources import SAMPLES, read_distractors, read_sources

TASK_SIZE = 2_000_000  # words or characters that a worker builds in one go: about 12 MB
File = tuple[str, str, int]  # subset, level, number of rows


def check_sources(recipe: BuildSpec, subset: str, levels: list[str], rows: int) -> None:
    """Raise LVEvalError where a question cannot have a context of a level; say which distractors
    were skipped.
    """
    language, sizes, skipped = config.DATASET_LANGUAGE[subset], sorted(map(level_size, levels)), 0
    for number, source in enumerate(read_sources(recipe.sources, subset)[:rows]):
        if source.cost > (1 + TOLERANCE) * sizes[0]:
            found = f"found {source.cost:,} {UNITS[language]} of documents and confusing facts"
            raise UsageError(
                f"{source.origin}: documents: {found}; expected at most the {sizes[0]:,} of a "
                "context"
            )
        if recipe.distractors:
            kept = candidates(recipe, subset, number, sizes[-1])
            skipped += len(read_distractors(recipe.distractors)[language]) - len(kept)
    if recipe.distractors:
        print(
            f"{subset}: {skipped:,} times a distractor was skipped because it holds the answer to "
            "the question"
        )


def build_lines_ordered(
    recipe: BuildSpec, files: list[File], workers: int
) -> Generator[bytes, None, None]:
    """The lines of all files, some at a time, made by so many processes (1: this one), not far
    ahead of the reader.
    """
    tasks: list[tuple[BuildSpec, str, str, range]] = []
    for subset, level, rows in files:
        step = max(1, TASK_SIZE // level_size(level))
        tasks += [
            (recipe, subset, level, range(rows)[start : start + step])
            for start in range(0, rows, step)
        ]
    if workers == 1:
        yield from itertools.starmap(build_lines, tasks)
        return
    pool = process_pool(min(workers, len(tasks)))
    todo = iter(tasks)
    try:
        ahead = deque(
            pool.submit(build_lines, *task) for task in itertools.islice(todo, 2 * workers)
        )
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(build_lines, *task) for task in itertools.islice(todo, 1))
    except BrokenProcessPool as error:
        raise UsageError(
            "a worker process died (out of memory?); try a smaller --num-workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def write_files(recipe: BuildSpec, folder: Path, files: list[File], workers: int) -> None:
    """Write `<folder>/<subset>/<subset>_<level>.jsonl` for each of `files`.

    Only a complete file ever has its name.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=sum(rows * level_size(level) for _, level, rows in files),
        unit="",
        unit_scale=True,
        disable=None,
    )
    with bar, contextlib.closing(build_lines_ordered(recipe, files, workers)) as lines:
        for subset, level, rows in files:
            path = folder / subset / f"{subset}_{level}.jsonl"
            beside = path.with_name(f"{path.name}.{os.getpid()}.part")
            bar.set_description(path.stem)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with beside.open("wb") as file:
                    while rows:
                        some = next(lines)
                        file.write(some)
                        bar.update(some.count(b"\n") * level_size(level))
                        rows -= some.count(b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            except OSError as error:
                raise StorageError(f"{path}: {error.strerror}; nothing of it was kept") from error
            finally:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)


def names(values: list[str] | None, default: list[str]) -> list[str]:
    """What an option that takes several names (also separated by commas) was given, each once; else
    the default.
    """
    given = [name for value in values or [] for name in value.split(",") if name]
    return list(dict.fromkeys(config.DATASET_ALIAS.get(name, name) for name in given or default))


def main(arguments: list[str] | None = None) -> ExitCode:
    """The command line; returns the exit status."""
    parser = Command(
        usage="%(prog)s --output-dir FOLDER [options]",
        description="Build long-context data in LV-Eval's style.",
    )
    add = parser.add_argument
    add(
        "--output-dir",
        type=Path,
        required=True,
        help="gets <subset>/<subset>_<level>.jsonl, for --data-path",
    )
    add(
        "--sources",
        type=Path,
        default=SAMPLES,
        help="folder of <subset>.jsonl questions (default: samples)",
    )
    add(
        "--distractors",
        type=Path,
        help="folder of .txt and .jsonl documents (default: made-up articles)",
    )
    add("--datasets", nargs="+", help="subsets (default: those of config.py that --sources has)")
    add("--lengths", nargs="+", help="levels, any <N>k (default: those of config.py)")
    rows_help = (
        "rows of each file (default: one a question); more than there are questions asks them "
        "again in other contexts; full: as many as the published file has"
    )
    add("--rows", default="0", help=rows_help)
    add("--seed", type=int, default=42, help="default: 42")
    add(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; files stay the same (default: CPUs)",
    )
    add("--overwrite", action="store_true", help="replace files that are there")
    options = parser.parse_args(arguments)

    here = [
        name for name in config.DATASET_SELECTED if (options.sources / f"{name}.jsonl").is_file()
    ]
    subsets, levels = (
        names(options.datasets, here),
        names(options.lengths, config.DATASET_LENGTH_LEVEL),
    )
    if not subsets:
        raise UsageError(
            f"{options.sources}: found no sources; expected <subset>.jsonl of a subset of config.py"
        )
    for subset in subsets:
        if subset not in config.DATASET_LANGUAGE:
            raise unknown_name(subset, "subset", list(config.DATASET_LANGUAGE))
    for level in levels:
        if not re.fullmatch(r"[1-9][0-9]{0,3}k", level):
            raise UsageError(
                f'--lengths: found "{level}"; expected <N>k with N from 1 to 9999, such as 16k'
            )
    if not re.fullmatch(r"full|[0-9]{1,8}", options.rows):
        raise UsageError(f'--rows: found "{options.rows}"; expected a number or "full"')
    if options.num_workers < 1:
        raise UsageError(f"--num-workers: found {options.num_workers}; expected 1 or more")
    paths = (
        options.output_dir / subset / f"{subset}_{level}.jsonl"
        for subset in subsets
        for level in levels
    )
    if (there := [path for path in paths if path.exists()]) and not options.overwrite:
        raise UsageError(
            f"{there[0]}: found it there ({len(there)} in all); add --overwrite to replace them"
        )

    recipe = BuildSpec(options.sources, options.distractors, options.seed)
    files: list[File] = []
    for subset in subsets:
        questions = len(read_sources(recipe.sources, subset))
        rows = (
            config.DATASET_ROWS.get(subset)
            if options.rows == "full"
            else int(options.rows) or questions
        )
        if rows is None:
            raise UsageError(f"--rows full: {subset} has no published size; expected a number")
        check_sources(recipe, subset, levels, rows)
        files += [(subset, level, rows) for level in levels]
    write_files(recipe, options.output_dir, files, options.num_workers)
    print(f"{options.output_dir}: {len(files)} files, {sum(rows for *_, rows in files):,} rows")
    chosen = {"--datasets": options.datasets and subsets, "--lengths": options.lengths and levels}
    asked = [word for name, some in chosen.items() if some for word in (name, *some)]
    told = shlex.join(["--data-path", str(options.output_dir), *asked])
    then = f"{program('predict')} --model-path MODEL {told}"
    print(next_step("data folder", options.output_dir, then))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    run_cli(main)
