"""The record of a row: a prediction as it is kept on disk, one JSON line each.

line = encode(record); record = parse_record(line, "outputs/chatglm3/rows/lic_mixup_16k.jsonl:7")
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

from lveval.common.errors import UsageError
from lveval.common.text import shown

FINAL_STATUSES = ("ok", "length", "empty", "refused")
CAUSES = ("error", "invalid", "context_overflow", "worker_died", "transient")
JsonObject = dict[str, Any]

IMPORTED = "imported"  # the backend of a run whose answers were made elsewhere

# Kept in run.json as "row_version": a run goes on with the fields that its first rows have.
# 2: depths and cut. None in run.json is 1.
ROW_VERSION = 2


class Prediction(TypedDict, total=False):
    """A row's answer as it is kept; the first six keys are the published harness's."""

    pred: str
    answers: list[str]
    gold_ans: str | None
    input: str
    all_classes: list[str] | None
    length: int
    dataset: str
    level: str
    index: int
    language: str
    status: str
    prompt_tokens: int
    prompt_tokens_full: int
    evidence_kept: bool | None
    depths: Mapping[
        str, Any
    ]  # of the passages that were found, data/positions.py; of ROW_VERSION 2
    cut: list[int]  # [start, end) of what the cut took, in characters of the context
    raw_pred: str
    finish_reason: str
    usage: dict[str, int]
    measures: dict[str, Any]  # what plugins tell of the answer
    confusing_facts: list[str]
    question_id: str


class LocatedRecord(NamedTuple):
    """A record as read from disk, its values unchecked, and its place (`file:line`)."""

    record: dict[str, object]
    where: str


def parse_record(line: bytes, where: str) -> dict[str, object]:
    """Read one JSON object. Raises UsageError naming `where`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: found no JSON ({error}); expected a JSON object") from None
    if not isinstance(record, dict):
        expected = "an object with the keys of a prediction"
        raise UsageError(f"{where}: found {type(record).__name__}; expected {expected}")
    return record


def parse_attempt(line: bytes, where: str) -> tuple[tuple[str, str, int], str]:
    """Read a failed attempt: ((subset, level, index), cause). Raises UsageError naming `where`."""
    entry = parse_record(line, where)
    match entry:
        case {"dataset": str(subset), "level": str(level), "index": int(index), "cause": str(why)}:
            return (subset, level, index), why
    found = ", ".join(entry)[:200]
    raise UsageError(f"{where}: found {found}; expected an attempt; remove the line")


def index_of(item: LocatedRecord) -> int:
    """Return the row's position in its data file. Raises UsageError where it is none."""
    index = item.record.get("index")
    if type(index) is not int or index < 0:
        expected = "the row's position in its data file"
        raise UsageError(f'{item.where}: "index": found {shown(index)}; expected {expected}')
    return index
