"""One row of a data file: the fields of the data card, checked, in one spelling.

row = parse_row(line, "data/lic_mixup_16k.jsonl:41", "lic_mixup")
"""

import json
from collections import Counter
from typing import TypedDict

from lveval import config
from lveval.common.errors import DataError, LVEvalError
from lveval.common.text import shown
from lveval.runs.record import Prediction


class Row(TypedDict):
    """A row as the rest of the harness sees it, whatever spelling its file had."""

    input: str
    context: str
    answers: list[str]
    length: int  # words (en) or characters (zh), as the data set states it
    dataset: str
    language: str
    answer_keywords: str | None
    confusing_facts: list[str] | None
    all_classes: list[str] | None
    question_id: str | None
    offsets: (
        dict[str, list[list[int]]] | None
    )  # "evidence", "confusing_facts" -> [start, end) in characters of context


# --- Its record ---------------------------------------------------------------------------------


def row_record(row: Row, key: tuple[str, str, int], pred: str, own: Prediction) -> Prediction:
    """The record of a row's answer: the published six keys first, then what the row is and `own`.

    `key` is (subset, level, index).
    """
    subset, level, index = key
    record: Prediction = {
        "pred": pred,
        "answers": row["answers"],
        "gold_ans": row["answer_keywords"],
        "input": row["input"],
        "all_classes": row["all_classes"],
        "length": row["length"],
        "dataset": subset,
        "level": level,
        "index": index,
        "language": row["language"],
        **own,
    }
    if row["confusing_facts"] is not None:
        record["confusing_facts"] = row["confusing_facts"]
    if row["question_id"] is not None:
        record["question_id"] = row["question_id"]
    return record


# --- One row ------------------------------------------------------------------------------------


def invalid(where: str, found: object, expected: str) -> LVEvalError:
    """Make the error of a field."""
    return DataError(f"{where}: found {shown(found)}; expected {expected}")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise invalid(where, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            f"{where} (character {error.start})", value[error.start], "no half of a surrogate pair"
        ) from error
    return value


def _texts(where: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise invalid(where, value, "a list of texts")
    return [_text(f"{where}[{i}]", item) for i, item in enumerate(value)]


def _confusing_facts(where: str, value: object) -> list[str] | None:
    """Confusing facts as a list; a blank one says nothing and "is found" in every answer, so none
    is left.
    """
    texts = [_text(where, value)] if isinstance(value, str) else _texts(where, value)
    return [text for text in texts if text.strip()] or None


def _aliased(where: str, found: dict[str, object], name: str, alias: str) -> object:
    """The value of a field that has two spellings in the wild; None where it is absent or null."""
    values = [value for value in (found.get(name), found.get(alias)) if value is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise invalid(f"{where}: {name}", values, f'the same value in "{name}" and "{alias}"')
    return values[0] if values else None


def _offsets(where: str, value: object, size: int) -> dict[str, list[list[int]]]:
    """The spans that constructed data records: each [start, end] with 0 <= start <= end <= size of
    the context.
    """
    if not isinstance(value, dict):
        raise invalid(where, value, "an object of lists of spans")
    kinds = {kind: value.get(kind, []) for kind in ("evidence", "confusing_facts")}
    for kind, spans in kinds.items():
        if not isinstance(spans, list):
            raise invalid(f"{where}.{kind}", spans, "a list of spans")
        for i, span in enumerate(spans):
            whole = (
                isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
            )
            if not whole or not 0 <= span[0] <= span[1] <= size:
                raise invalid(
                    f"{where}.{kind}[{i}]", span, f"[start, end] with 0 <= start <= end <= {size}"
                )
    return kinds


def _no_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a field given twice is refused, for which of the two would count?"""
    if len(fields := dict(pairs)) < len(pairs):
        ((name, times),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{times} times {shown(name)}")
    return fields


def parse_row(line: bytes, where: str, subset: str) -> Row:
    """The row of one line, checked and in the one spelling of Row. `where` is "file:line"."""
    try:
        found = json.loads(line.decode(), object_pairs_hook=_no_duplicate_keys)
    except UnicodeDecodeError as error:
        raise invalid(
            f"{where}: byte {error.start + 1}", line[error.start : error.start + 1], "UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else " (the file's last line: was the file cut?)"
        raise invalid(f"{where}: column {error.colno}", error.msg, f"a JSON object{cut}") from error
    except (ValueError, RecursionError) as error:
        raise invalid(
            where, f"{type(error).__name__}: {error}", "a flat JSON object, each field once"
        ) from error
    if not isinstance(found, dict):
        raise invalid(where, found, "a JSON object")
    for name in ("input", "context", "answers", "length", "dataset", "language"):
        if name not in found:
            raise DataError(f'{where}: no "{name}" (found: {", ".join(map(shown, found))[:200]})')
    length = found["length"]
    if (
        type(length) is not int or not 0 <= length < 2**63
    ):  # true is an int to Python, not to the data
        raise invalid(f"{where}: length", length, "a whole number of words or characters")
    dataset = _text(f"{where}: dataset", found["dataset"])
    if config.DATASET_ALIAS.get(dataset, dataset) != subset:
        raise invalid(f"{where}: dataset", dataset, subset)
    language = _text(f"{where}: language", found["language"])
    if language != config.DATASET_LANGUAGE.get(
        subset, language
    ):  # a subset of the user's own may be in any language
        raise invalid(f"{where}: language", language, config.DATASET_LANGUAGE[subset])
    answers = _texts(f"{where}: answers", found["answers"])
    if not answers:
        raise invalid(f"{where}: answers", answers, "at least one")
    context = _text(f"{where}: context", found["context"])
    keywords = _aliased(where, found, "answer_keywords", "gold_ans")
    facts = _aliased(where, found, "confusing_facts", "distractor")
    classes, question, offsets = (
        found.get(name) for name in ("all_classes", "question_id", "offsets")
    )
    return {
        "input": _text(f"{where}: input", found["input"]),
        "context": context,
        "answers": answers,
        "length": length,
        "dataset": subset,
        "language": language,
        "answer_keywords": None
        if keywords is None
        else _text(f"{where}: answer_keywords", keywords),
        "confusing_facts": None
        if facts is None
        else _confusing_facts(f"{where}: confusing_facts", facts),
        "all_classes": None if classes is None else _texts(f"{where}: all_classes", classes),
        "question_id": None if question is None else _text(f"{where}: question_id", question),
        "offsets": None
        if offsets is None
        else _offsets(f"{where}: offsets", offsets, len(context)),
    }
