"""What tests of store share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from lveval.common.errors import ExitCode, LVEvalError
from lveval.runs.record import Prediction
from lveval.runs.store import RunStore

NAME = "lic_mixup_16k"
IDENTITY: dict[str, Any] = {
    "backend": "echo",
    "engine": {"version": "1", "settings": {"temperature": 0.0, "stop": ["a", "b"]}},
    "seed": None,
    "data": {NAME: "sha256:1"},
    "budgets": {"lic_mixup": 64},
}


def record(index: int, **changes: object) -> Prediction:
    made = {
        "pred": "答案",
        "answers": ["a"],
        "gold_ans": None,
        "input": "q",
        "all_classes": None,
        "length": 3,
        "dataset": "lic_mixup",
        "level": "16k",
        "index": index,
        "language": "zh",
        "status": "ok",
    }
    return cast(Prediction, made | changes)


def opened(
    folder: Path, rows: int = 3, identity: Mapping[str, Any] = IDENTITY, *, overwrite: bool = False
) -> RunStore:
    counts = {NAME: rows}, {NAME: 197}
    return RunStore.open(folder, dict(identity), *counts, overwrite=overwrite)


def filled(folder: Path, rows: int = 3) -> bytes:
    """A finished run; the bytes of its derived file."""
    with opened(folder, rows) as run:
        for index in range(rows):
            assert run.append(record(index, pred=f"answer {index}"))
        derived = run.export_predictions("lic_mixup", "16k")
    assert derived is not None
    return derived.read_bytes()


def rows_file(folder: Path) -> Path:
    return folder / "rows" / f"{NAME}.jsonl"


@contextmanager
def refusal(code: ExitCode, *parts: str) -> Iterator[pytest.ExceptionInfo[LVEvalError]]:
    with pytest.raises(LVEvalError) as caught:
        yield caught
    assert caught.value.code == code, caught.value.message
    for part in parts:
        assert part in caught.value.message
