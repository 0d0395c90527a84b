"""Every reply of the corpus given to one row, to the last, to all rows and to all requests of a run: it ends as it should."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service import (
    FILE,
    NAME,
    Served,
    attempts,
    data,
    environment,
    predict,
    records,
    serving,
)

__all__ = ["environment"]  # fixture

CORPUS = Path(__file__).resolve().parents[1] / "data" / "services"
ROWS, CONCURRENCY = 10, 8
FATAL = ("key", "quota", "no_model")

# Meaning of a reply that one row always gets -> the status of its answer, or the cause without one.
ENDS = {
    "finished": {"ok", "empty"},
    "cut": {"length"},
    "refused": {"refused"},
    "too_long": {"context_overflow", "error"},
    "no_answer": {"invalid", "error", "transient"},  # a 429 within a reply of 200 is one, too
    "busy": {"error", "transient"},  # a 429 is waited for until --max-outage
    **{meaning: {"error"} for meaning in (*FATAL, "bad_request")},
}
ANSWERS = ("finished", "cut", "refused")

# Meaning of a reply that all requests get, the first question among them -> the exit code.
CODES = {
    **{meaning: {0} for meaning in ANSWERS},
    **{meaning: {5} for meaning in (*FATAL, "too_long", "bad_request")},
    "busy": {3},
    "no_answer": {3, 5},
}

ended: Counter[tuple[str, str, int]] = Counter()  # (where, meaning, exit code) -> runs


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    """One server for all."""
    with serving() as served:
        yield served
    for (where, meaning, code), number in sorted(ended.items()):
        print(f"{where:5} {meaning:12} ended with {code}: {number}")


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}/{case['name']}")
        for path in sorted(CORPUS.glob("*.json"))
        for case in json.loads(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("case", cases())
def test_a_run_ends_as_it_should(service: Served, tmp_path: Path, case: dict[str, Any]) -> None:
    meaning = case["meaning"]
    tmp_path = tmp_path / "x"
    data(tmp_path, ROWS)
    question = "When was lighthouse {} built?"
    every = {"replies": {"it": case}, "mode": "ok", "row_mode": "ok", "fates": {}}
    options = [
        *("--concurrency", str(CONCURRENCY), "--wait-for-service", "0.003", "--overwrite"),
        *("--max-outage", "0.0003"),
        *("--request-args", '{"max_tokens": 20000}'),  # answers of any length
    ]

    for where, row in (("one", 3), ("last", ROWS - 1)):
        service.control(**every | {"fates": {question.format(row): "it"}})
        found = predict(service, tmp_path, *options)
        ended[where, meaning, found.returncode] += 1
        assert found.returncode == (0 if meaning in ANSWERS else 3), found.stderr
        if meaning in ANSWERS:
            end = records(tmp_path)[row]["status"]
        else:
            end = attempts(tmp_path)[-1]["cause"]
            taken = (tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl").read_text()
            assert len(taken.splitlines()) == ROWS - 1
        assert end in ENDS[meaning], found.stderr

    service.control(**every | {"row_mode": "it"})
    before = service.asked.total()
    # Where the run ends at once nothing is waited for.
    patient = ("--backend-args", "first_wait=9") if meaning in FATAL else ()
    found = predict(service, tmp_path, *options, *patient)
    ended["rows", meaning, found.returncode] += 1
    alike = {2, 5}
    if "context_overflow" in found.stderr or "answered nothing for" in found.stderr:
        alike = {3}
    assert found.returncode in ({0} if meaning in ANSWERS else alike), found.stderr
    if meaning in FATAL:
        assert service.asked.total() - before <= CONCURRENCY + 1

    service.control(**every | {"mode": "it"})
    before = service.requests
    found = predict(service, tmp_path, *options)
    ended["all", meaning, found.returncode] += 1
    assert found.returncode in CODES[meaning], found.stderr
    if meaning in FATAL:
        assert service.requests == before + 1
    assert "Traceback" not in found.stderr and os.environ["OPENAI_API_KEY"] not in found.stderr
