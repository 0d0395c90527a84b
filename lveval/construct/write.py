"""Builds data in LV-Eval's style: mix-up of documents, confusing facts, keyword and phrase
replacement.

    python -m lveval construct --output-dir mydata --lengths 16k 32k --rows 10
    python -m lveval construct --output-dir unseen --lengths 16k --fresh 20261129
    python -m lveval construct --describe mydata

`prediction.py --data-path mydata` evaluates on it. The method is that of Yuan et al., "LV-Eval",
arXiv 2402.05136, section 3. A source (a line of <sources>/<subset>.jsonl, see FIELDS) is a question
with its supporting documents; --fresh makes questions anew instead (fresh.py). Every level asks the
same questions. A row is a function of (seed, subset, level, row number), the options and the
sources alone: neither the other files asked for nor the number of workers changes a byte.
"""

import argparse
import contextlib
import itertools
import os
import re
import shlex
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from lveval import config, user_tables
from lveval.common.command_line import Command, next_step, program
from lveval.common.errors import ExitCode, StorageError, UsageError, run_cli, unknown_name
from lveval.common.files import disk_errors, write_atomic
from lveval.common.processes import in_order, process_pool
from lveval.construct.build import (
    EVEN,
    TOLERANCE,
    UNITS,
    BuildSpec,
    build_lines,
    candidates,
    level_size,
)
from lveval.construct.fresh import MOST_FACTS, ROWS, canary
from lveval.construct.sources import SAMPLES, read_sources

TASK_SIZE = 2_000_000  # words or characters that a worker builds in one go: about 12 MB
File = tuple[str, str, int]  # subset, level, number of rows


def check_sources(recipe: BuildSpec, subset: str, levels: list[str], rows: int) -> None:
    """Raise LVEvalError where a question cannot have a context of a level; say which distractors
    were skipped.
    """
    language, sizes = config.DATASET_LANGUAGE[subset], sorted(map(level_size, levels))
    questions = dict.fromkeys(recipe.number(subset, index) for index in range(rows))
    skipped, facts = 0, []
    for number in questions:
        source = recipe.question(subset, number)
        facts.append(len(source.facts))
        if source.cost > (1 + TOLERANCE) * sizes[0]:
            found = f"found {source.cost:,} {UNITS[language]} of documents and confusing facts"
            raise UsageError(
                f"{source.origin}: documents: {found}; expected at most the {sizes[0]:,} of a "
                "context"
            )
        if recipe.distractors:
            kept = candidates(recipe, subset, number, sizes[-1])
            skipped += len(recipe.pool(language, sizes[-1])) - len(kept)
    if recipe.distractors:
        print(
            f"{subset}: {skipped:,} times a distractor was skipped because it holds the answer to "
            "the question"
        )
    wanted = recipe.most_facts or 0
    if fewer := sum(found < wanted for found in facts):
        print(
            f"{subset}: --facts {wanted}: {fewer} of {len(facts)} questions have fewer confusing "
            f"facts, {min(facts)} to {max(facts)}; they keep what they have"
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
    try:
        yield from in_order(pool, build_lines, tasks, 2 * workers)
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


def depths(text: str) -> tuple[float, ...]:
    """What --depths names: "even", "random" or fractions; raises ValueError."""
    if text in ("even", "random"):
        return EVEN if text == "even" else ()
    found = tuple(float(each) for each in text.split(","))
    if not all(0 <= each <= 1 for each in found):
        raise ValueError(text)
    return found


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, as they are given."""
    parser = Command(
        usage="%(prog)s --output-dir FOLDER [options]",
        description="Build long-context data in LV-Eval's style.",
    )
    add = parser.add_argument
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument(
        "--output-dir", type=Path, help="gets <subset>/<subset>_<level>.jsonl, for --data-path"
    )
    out.add_argument(
        "--describe",
        type=Path,
        metavar="DIR",
        help="build nothing: show lengths, keywords, confusing facts and depths of a folder's data",
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--sources",
        type=Path,
        default=SAMPLES,
        help="folder of <subset>.jsonl questions (default: samples)",
    )
    asked.add_argument(
        "--fresh",
        type=int,
        metavar="SEED",
        help="questions made anew from this seed, so that no model can have seen them",
    )
    add(
        "--distractors",
        nargs="+",
        default=[],
        metavar="WHICH",
        help="random, or near: those most like the question, by BM25; and a folder of .txt and "
        ".jsonl documents (default: random, made-up articles)",
    )
    facts = parser.add_mutually_exclusive_group()
    facts.add_argument(
        "--facts",
        type=int,
        metavar="N",
        help="confusing facts of a question (default: all that the source has)",
    )
    facts.add_argument(
        "--no-facts", action="store_const", const=0, dest="facts", help="no confusing facts"
    )
    add("--no-replace", action="store_true", help="no replacement of keywords and phrases")
    add(
        "--depths",
        default="random",
        metavar="even|random|LIST",
        help="where the evidence stands: anywhere (random, the default), in each tenth of the "
        "context in turn (even), or at these fractions, such as 0,0.5,1",
    )
    add("--datasets", nargs="+", help="subsets (default: those of config.py that --sources has)")
    add("--lengths", nargs="+", help="levels, any <N>k (default: those of config.py)")
    rows_help = (
        f"rows of each file (default: one a question, {ROWS} with --fresh); more than there are "
        "questions asks them again in other contexts; full: as many as the published file has"
    )
    add("--rows", default="0", help=rows_help)
    add("--seed", type=int, help="of the contexts (default: 42, or that of --fresh)")
    add(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; files stay the same (default: CPUs)",
    )
    add("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_args(user_tables.taken(arguments))


def recipe_of(options: argparse.Namespace) -> BuildSpec:
    """What decides the rows. Raises UsageError for a value that cannot be."""
    for name in ("facts", "fresh"):
        if (value := getattr(options, name)) is not None and value < 0:
            raise UsageError(f"--{name}: found {value}; expected 0 or more")
    if options.fresh is not None and options.no_replace:
        raise UsageError("--no-replace: found --fresh, too; fresh questions have no replacements")
    if options.fresh is not None and (options.facts or 0) > MOST_FACTS:
        raise UsageError(
            f"--facts: found {options.facts}; expected at most {MOST_FACTS} with --fresh"
        )
    ways = [word for word in options.distractors if word in ("near", "random")]
    folders = [word for word in options.distractors if word not in ways]
    if len(ways) > 1 or len(folders) > 1:
        raise UsageError(
            f"--distractors: found {' '.join(options.distractors)}; expected near or random, a "
            "folder, or one of each"
        )
    try:
        where = depths(options.depths)
    except ValueError as error:
        raise UsageError(
            f"--depths: found {options.depths}; expected even, random, or fractions from 0 to 1 "
            "such as 0,0.25,0.5,1"
        ) from error
    seed = 42 if options.fresh is None else options.fresh
    return BuildSpec(
        seed=seed if options.seed is None else options.seed,
        sources=options.sources,
        distractors=Path(folders[0]) if folders else None,
        near="near" in ways,
        most_facts=options.facts,
        replacing=not options.no_replace,
        depths=where,
        fresh=options.fresh,
    )


README = """# Fresh questions in LV-Eval's style

Made by `python -m lveval construct --fresh {seed}`. Every person, place and thing in them is
invented. They test models that have not seen them: do not train on them, and leave out of training
data what holds this canary, which stands in every row:

    {canary}
"""


def write_canary(folder: Path, seed: int) -> None:
    """Write the README of fresh data, which has the canary. Raises UsageError for another's."""
    path, text = folder / "README.md", README.format(seed=seed, canary=canary(seed))
    with disk_errors("writing", path):
        if path.exists() and path.read_bytes() != text.encode():
            raise UsageError(
                f"{path}: found one of other data there; expected a folder of its own for --fresh "
                f"{seed}"
            )
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)


def main(arguments: list[str] | None = None) -> ExitCode:
    """The command line; returns the exit status."""
    options = parse_arguments(arguments)
    if options.describe:
        from lveval.construct.describe import describe

        print(describe(options.describe))
        return ExitCode.COMPLETE
    recipe = recipe_of(options)
    here = [
        name
        for name in config.DATASET_SELECTED
        if recipe.fresh is not None or (recipe.sources / f"{name}.jsonl").is_file()
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
        if subset not in (config.DATASET_LANGUAGE if recipe.fresh is None else config.DATASET_ROWS):
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

    files: list[File] = []
    for subset in subsets:
        rows = int(options.rows) if options.rows != "full" else config.DATASET_ROWS.get(subset)
        if rows is None:
            raise UsageError(f"--rows full: {subset} has no published size; expected a number")
        if not rows:
            rows = ROWS if recipe.fresh is not None else len(read_sources(recipe.sources, subset))
        check_sources(recipe, subset, levels, rows)
        files += [(subset, level, rows) for level in levels]
    if recipe.fresh is not None:
        write_canary(options.output_dir, recipe.fresh)
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
