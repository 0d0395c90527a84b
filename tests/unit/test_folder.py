"""A run's folder as it is read: which runs there are, what is answered, edits that are accepted."""

import os
from collections import Counter
from pathlib import Path

import pytest
from support.stores import IDENTITY, NAME, filled, opened, record, refusal, rows_file

from lveval.common.errors import ExitCode
from lveval.runs.folder import (
    answered_rows,
    first_rows,
    read_records,
    records_depths,
    run_folder,
    runs_below,
)
from lveval.runs.store import RunStore

KEY = ("lic_mixup", "16k")


def test_runs_are_found_by_their_manifest_or_answers_the_newest_first(tmp_path: Path) -> None:
    filled(tmp_path / "31500/deep")
    (tmp_path / "published").mkdir()
    (tmp_path / f"published/{NAME}.jsonl").write_text('{"pred": "x"}\n')
    (tmp_path / "imported/rows").mkdir(parents=True)
    (tmp_path / f"imported/rows/{NAME}.jsonl").write_text(
        f'{{"answers": "{"x" * 100}", "pred": ""}}'
    )
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{NAME}.jsonl").write_text('{"input": "x"}\n')
    (tmp_path / "data/notes.jsonl").write_text('{"pred": "x"}\n')
    (tmp_path / f"data/{NAME}.jsonl.d").mkdir()
    (tmp_path / "folders" / f"{NAME}.jsonl").mkdir(parents=True)
    runs = [tmp_path / "imported/rows", tmp_path / "31500/deep", tmp_path / "published"]
    for time, run in enumerate(runs, start=1):
        for path in run.rglob("*"):
            os.utime(path, (time, time))
    assert runs_below(tmp_path) == runs[::-1]
    newest = tmp_path / f"31500/deep/{NAME}.jsonl"
    os.utime(newest, (9, 9))
    assert runs_below(tmp_path)[0] == tmp_path / "31500/deep"
    os.utime(newest, (1, 1))
    os.utime(tmp_path / "31500/deep/run.json", (1, 1))  # as old as another: by name
    assert runs_below(tmp_path)[1:] == [runs[1], runs[0]]
    assert runs_below(tmp_path / "none") == []


def test_a_name_may_have_200_bytes(tmp_path: Path) -> None:
    assert run_folder(tmp_path, "x" * 200).name == "x" * 200
    assert run_folder(tmp_path, "a/b", (3, 8)) == tmp_path / "a__b.part3of8"
    with refusal(ExitCode.USAGE, f"'{'x' * 201}': expected printable characters that can name one"):
        run_folder(tmp_path, "x" * 201)


def test_of_many_rows_the_first_are_named() -> None:
    assert first_rows([3, 4]) == "3, 4"
    assert first_rows(range(5)) == "0, 1, 2, 3, 4"
    assert first_rows(range(6)) == "0, 1, 2, 3, 4 …"


def test_a_plan_sees_the_rows_that_are_answered(tmp_path: Path) -> None:
    assert answered_rows(tmp_path, IDENTITY, [KEY]) == {KEY: set()}
    with opened(tmp_path) as run:
        assert run.append(record(2))
    other = ("lic_mixup", "32k")
    assert answered_rows(tmp_path, IDENTITY, [KEY, other]) == {KEY: {2}, other: set()}
    with refusal(ExitCode.IDENTITY, f"{tmp_path}: ", "seed: recorded null, asked 1"):
        answered_rows(tmp_path, {**IDENTITY, "seed": 1}, [KEY])


def test_a_run_of_an_earlier_version_goes_on_without_depths(tmp_path: Path) -> None:
    assert records_depths(tmp_path)
    with opened(tmp_path) as run:
        assert records_depths(tmp_path)
        assert run.append(record(0)) and records_depths(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"row_version": 2', '"row_version": 1'))
    assert not records_depths(tmp_path)
    rows_file(tmp_path).unlink()  # nothing is answered: it begins anew
    assert records_depths(tmp_path)


# --- --accept-edited ----------------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def accepted(folder: Path) -> tuple[list[object], dict[str, int]]:
    edited: Counter[str] = Counter()
    found = read_records(folder, *KEY, edited)
    return [item.record["pred"] for item in found], dict(edited)


def test_edits_are_taken_from_where_they_were_made_and_counted(tmp_path: Path) -> None:
    exported = tmp_path / f"{NAME}.jsonl"
    filled(tmp_path)
    assert accepted(tmp_path) == (["answer 0", "answer 1", "answer 2"], {})
    edit(rows_file(tmp_path), "answer 1", "edited")
    edit(rows_file(tmp_path), "answer 2", "edited, too")
    edit(exported, "answer 0", "also edited")
    preds = ["also edited", "edited", "edited, too"]
    assert accepted(tmp_path) == (preds, {f"rows/{NAME}.jsonl": 2, f"{NAME}.jsonl": 1})
    edited = Counter({f"rows/{NAME}.jsonl": 1, f"{NAME}.jsonl": 1})  # of a file before
    read_records(tmp_path, *KEY, edited)
    assert edited == {f"rows/{NAME}.jsonl": 3, f"{NAME}.jsonl": 2}
    edit(exported, "answer 1", "otherwise")
    both = "both were edited: keep one of the two"
    with refusal(ExitCode.STORAGE, f"{exported}:2: ", f"{rows_file(tmp_path)}:2; ", both):
        accepted(tmp_path)


def test_an_exported_row_twice_or_added_is_no_edit(tmp_path: Path) -> None:
    exported = tmp_path / f"{NAME}.jsonl"
    lines = filled(tmp_path).decode().splitlines(keepends=True)
    exported.write_text("".join([*lines, lines[0].replace("answer 0", "again")]))
    with refusal(ExitCode.STORAGE, f"{exported}:4: found another record of row 0", "derive the"):
        accepted(tmp_path)
    exported.write_text("".join([*lines, lines[0].replace('"index": 0', '"index": 7')]))
    for edited in (None, Counter[str]()):
        with refusal(ExitCode.STORAGE, f"{exported}:4: found a record with index 7"):
            read_records(tmp_path, *KEY, edited)


@pytest.mark.parametrize("name", ["notes.jsonl", "a_16k.jsonl.bak", "A.jsonl"])
def test_a_file_of_no_subset_in_rows_is_passed_over(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    (tmp_path / "rows" / name).write_text("not JSON\n{torn")
    with opened(tmp_path) as run:
        assert run.answered(*KEY) == {0, 1, 2}
    assert (tmp_path / "rows" / name).read_text() == "not JSON\n{torn"
    counts = {NAME: 3}, {NAME: 197}
    with RunStore.open(tmp_path / "other", IDENTITY, *counts) as run:
        assert run.adopt(tmp_path) == (3, 0)
