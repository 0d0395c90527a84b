"""Answers in the files of other tools, each with what its file tells of the row that it answers.

    for answer in FORMATS["lm-eval"]([Path("samples_lveval_lic_mixup_16k_….jsonl")]):
        answer.key, answer.index, answer.text, answer.where

- lm-eval: `samples_<task>_<date>.jsonl`, which `lm_eval --log_samples` writes;
- opencompass: `predictions/<model>/<dataset>.json`, or its parts `<dataset>_0.json`, `_1.json`, …;
- csv: a header with `pred`, and `index` or `input`, or both.

Which file of the benchmark they answer, `<subset>_<level>`, is read from the file's name, in a CSV
also from its columns `dataset` and `level`.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lveval import config
from lveval.common.errors import DataError, UsageError
from lveval.common.files import disk_errors
from lveval.common.jsonl import bounded_lines
from lveval.common.levels import LEVEL, FileKey
from lveval.common.logs import log
from lveval.data.own_subsets import unknown_subset
from lveval.runs.record import parse_record

LONGEST_CELL = 2**30  # characters of a CSV's cell; Python's own limit is 131,072


@dataclass(frozen=True)
class ForeignAnswer:
    """One answer; `index` or `question` tells its row, `prompt` at least whether it is that."""

    key: FileKey
    index: int | None  # the row's position in its data file
    question: str | None
    prompt: str | None  # which holds the question
    text: str
    where: str  # file and line


def named_file(path: Path) -> FileKey | None:
    """Find the `<subset>_<level>` in a file's name; None where there is none."""
    names = sorted({*config.DATASET_METRIC, *config.DATASET_ALIAS}, key=len, reverse=True)
    subset = "|".join(map(re.escape, names))
    found = re.search(rf"(?<![^\W_])({subset})_({LEVEL})(?![^\W_])", path.name)
    return found and (config.DATASET_ALIAS.get(found[1], found[1]), found[2])


def _file_of(path: Path) -> FileKey:
    if (key := named_file(path)) is None:
        raise UsageError(
            f"{path}: found no subset and level in the file's name; expected one such as "
            "samples_lveval_lic_mixup_16k_….jsonl or LVEval_lic_mixup_16k.json"
        )
    return key


def _lines(path: Path) -> Iterator[tuple[bytes, str]]:
    """Each line with its place; one at a time, for it may hold a whole context twice."""
    with disk_errors("reading", path), path.open("rb") as file:
        for number, line in enumerate(bounded_lines(file, str(path), math.inf), 1):
            yield line, f"{path}:{number}"


def _one_text(where: str, value: object) -> str:
    """The text of an answer, which a tool may have put into lists of one."""
    found = value
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, str):
        kind = f"a list of {len(found)}" if isinstance(found, list) else type(found).__name__
        raise DataError(f"{where}: found {kind} for an answer; expected one text")
    return found


# --- The formats --------------------------------------------------------------------------------


def read_lm_eval(paths: Sequence[Path]) -> Iterator[ForeignAnswer]:
    """Read lm-eval's samples. Of a task with several filters the first one's answers count."""
    for path in paths:
        key, filters = _file_of(path), Counter[str]()
        for line, where in _lines(path):
            sample = parse_record(line, where)
            name = str(sample.get("filter", "none"))
            filters[name] += 1
            if name != next(iter(filters)):
                continue
            match sample:
                case {"doc_id": int(index), "filtered_resps": answers, "doc": dict(document)}:
                    asked = document.get("input")
                case _:
                    raise DataError(
                        f"{where}: found {', '.join(sample)[:200]}; expected a sample of lm-eval "
                        'with "doc_id", "doc" and "filtered_resps"'
                    )
            question = asked if isinstance(asked, str) else None
            prompt = _sampled_prompt(sample.get("arguments"))
            yield ForeignAnswer(key, index, question, prompt, _one_text(where, answers), where)
        if len(filters) > 1:
            first, *others = filters
            told = path, first, sum(filters[name] for name in others), ", ".join(others)
            log.warning("%s: filter %s counts; passed over: %d answers of %s", *told)


def _sampled_prompt(arguments: object) -> str | None:
    """The prompt as plain text; None for a chat, which lm-eval keeps as JSON."""
    match arguments:
        case {"gen_args_0": {"arg_0": str(prompt)}} if not prompt.startswith("[{"):
            return prompt
    return None


PART = re.compile(r"_([0-9]+)\.json")  # how the name of a part ends


def read_opencompass(paths: Sequence[Path]) -> Iterator[ForeignAnswer]:
    """Read OpenCompass' predictions; each part of a file counts its rows from 0."""
    parts: dict[FileKey, dict[int, Path]] = {}
    for path in paths:
        number = int(found[1]) if (found := PART.search(path.name)) else 0
        other = parts.setdefault(_file_of(path), {}).setdefault(number, path)
        if other != path:
            raise UsageError(f"{path} and {other} are the same part; expected each part once")
    for key, named in parts.items():
        if missing := sorted(set(range(max(named) + 1)) - named.keys()):
            raise UsageError(
                f"{named[max(named)]}: found no part {missing[0]} of it; expected all parts, since "
                "each counts its rows from 0"
            )
        before = 0
        for _, path in sorted(named.items()):
            with disk_errors("reading", path):
                answers = parse_record(path.read_bytes(), str(path))
            for name, answer in answers.items():
                where = f'{path}: "{name}"'
                match answer:
                    case {"prediction": prediction, "origin_prompt": asked} if name.isdecimal():
                        yield ForeignAnswer(
                            key,
                            before + int(name),
                            None,
                            _prompt_text(asked),
                            _one_text(where, prediction),
                            where,
                        )
                    case _:
                        raise DataError(
                            f'{where}: expected the number of a row, with its "prediction" and '
                            '"origin_prompt"'
                        )
            before += len(answers)


def _prompt_text(asked: object) -> str | None:
    """The prompt, which for a chat is a list of turns; None where it is neither."""
    if isinstance(asked, list):
        turns = [turn.get("prompt", turn.get("content")) for turn in asked if type(turn) is dict]
        return "\n".join(turn for turn in turns if isinstance(turn, str))
    return asked if isinstance(asked, str) else None


def read_csv(paths: Sequence[Path]) -> Iterator[ForeignAnswer]:
    """Read the columns pred, index, input, dataset and level; others are passed over."""
    csv.field_size_limit(LONGEST_CELL)
    for path in paths:
        with disk_errors("reading", path), path.open(newline="", encoding="utf-8-sig") as file:
            try:
                reader = csv.DictReader(file, strict=True)
                found = reader.fieldnames or ()
                if "pred" not in found or not {"index", "input"}.intersection(found):
                    raise DataError(
                        f"{path}:1: found the columns {', '.join(found)[:200]}; "
                        "expected pred, and index or input, or both"
                    )
                for cells in reader:
                    yield _csv_answer(path, f"{path}:{reader.line_num}", cells)
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{path}: {error}; expected a CSV file in UTF-8") from error


def _csv_answer(path: Path, where: str, cells: dict[str, str | None]) -> ForeignAnswer:
    """The answer of one line; cells that it lacks are None."""
    subset, level, index = (cells.get(name) for name in ("dataset", "level", "index"))
    if subset and level:
        key = config.DATASET_ALIAS.get(subset, subset), level
        if key[0] not in config.DATASET_METRIC:
            raise DataError(f"{where}: {unknown_subset(subset)}")
        if not re.fullmatch(LEVEL, level):
            raise DataError(f'{where}: level: found "{level}"; expected one such as 16k')
    else:
        key = _file_of(path)
    if index and not re.fullmatch(r"[0-9]{1,9}", index):
        raise DataError(f'{where}: index: found "{index[:40]}"; expected the position of a row')
    text = cells["pred"]
    if text is None:
        raise DataError(f"{where}: found fewer cells than columns; expected a pred")
    number = int(index) if index else None
    return ForeignAnswer(key, number, cells.get("input") or None, None, text, where)


FORMATS: dict[str, Callable[[Sequence[Path]], Iterator[ForeignAnswer]]] = {
    "lm-eval": read_lm_eval,
    "opencompass": read_opencompass,
    "csv": read_csv,
}
