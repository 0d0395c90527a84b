"""A run's folder as it is read: which runs there are, what is answered, edits that are accepted."""

import os
import zlib
from collections import Counter
from pathlib import Path

import pytest
from support.stores import IDENTITY, NAME, filled, opened, record, refusal, rows_file

from lveval.common.errors import ExitCode
from lveval.runs.folder import (
    answered_rows,
    first_rows,
    is_unanswered,
    read_records,
    records_depths,
    run_files,
    run_folder,
    runs_below,
)
from lveval.runs.record import parse_attempt
from lveval.runs.store import RunStore

KEY = ("lic_mixup", "16k")


def test_runs_are_found_by_their_manifest_or_answers_the_newest_first(tmp_path: Path) -> None:
    filled(tmp_path / "top")  # its rows/ is no run beside it
    filled(tmp_path / "31500/deep")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/run.json").write_text("{}")
    (tmp_path / "published").mkdir()
    (tmp_path / f"published/{NAME}.jsonl").write_text('{"pred": "x"}\n')
    (tmp_path / "imported/rows").mkdir(parents=True)
    (tmp_path / f"imported/rows/{NAME}.jsonl").write_text(
        f'{{"answers": "{"x" * 100}", "pred": ""}}'
    )
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{NAME}.jsonl").write_text('{"input": "x"}\n')
    (tmp_path / "data/notes.jsonl").write_text('{"pred": "x"}\n')
    (tmp_path / "folders" / f"{NAME}.jsonl").mkdir(parents=True)
    names = ("imported/rows", "31500/deep", "published", "begun", "top")
    runs = [tmp_path / name for name in names]
    for age, run in enumerate(runs):
        for path in run.rglob("*"):
            os.utime(path, (age / 9, age / 9))
    assert runs_below(tmp_path) == runs[::-1]
    for name in ("run.json", f"{NAME}.jsonl"):  # whichever of its files is the newest
        path = tmp_path / "31500/deep" / name
        os.utime(path, (9, 9))
        assert runs_below(tmp_path)[0] == tmp_path / "31500/deep"
        os.utime(path, (0, 0))
    assert runs_below(tmp_path)[3:] == [runs[1], runs[0]]  # as old as another: by name
    assert runs_below(tmp_path / "none") == []


def test_files_are_known_by_rows_by_export_and_by_selection(tmp_path: Path) -> None:
    assert run_files(tmp_path) == []
    with opened(tmp_path / "selected"):
        assert run_files(tmp_path / "selected") == [KEY]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/lic_mixup_32k.jsonl").touch()
    assert run_files(tmp_path) == [("lic_mixup", "32k")]
    (tmp_path / f"{NAME}.jsonl").touch()
    (tmp_path / "attempts.jsonl").touch()
    assert run_files(tmp_path) == [KEY, ("lic_mixup", "32k")]


@pytest.mark.parametrize("name", [f"rows/{NAME}.jsonl", "batches/1.json", f"{NAME}.jsonl"])
def test_a_run_is_unanswered_without_rows_batches_and_exports(tmp_path: Path, name: str) -> None:
    for other in ("run.json", "attempts.jsonl", "times.jsonl", "results.json"):
        (tmp_path / other).touch()
    assert is_unanswered(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert not is_unanswered(tmp_path)


def test_a_line_in_rows_has_its_checksum_and_is_json(tmp_path: Path) -> None:
    filled(tmp_path)
    path = rows_file(tmp_path)
    path.write_bytes(b'{"pred": ""}\n')
    with refusal(ExitCode.STORAGE, f"{path}:1: ", "found checksum none, expected "):
        read_records(tmp_path, *KEY)
    path.write_bytes(b'{x, "crc32": "%08x"}\n' % zlib.crc32(b"{x}"))
    with refusal(ExitCode.USAGE, f"{path}:1: found no JSON ("):
        read_records(tmp_path, *KEY)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f"{NAME}.jsonl").unlink()
    path = rows_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read_records(tmp_path, *KEY)) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[]", "found list; expected an object with the keys of a prediction"),
        ('{"index": true}', '"index": found True; expected the row\'s position in its data file'),
    ],
)
def test_what_a_line_holds_and_what_was_expected_is_said(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / f"{NAME}.jsonl"
    path.write_text(f'{{"index": 0}}\n{line}\n')
    with refusal(ExitCode.USAGE) as caught:
        read_records(tmp_path, *KEY)
    assert caught.value.message == f"{path}:2: {said}"


def test_what_is_no_attempt_is_said(tmp_path: Path) -> None:
    with refusal(ExitCode.USAGE) as caught:
        parse_attempt(b'{"dataset": "a", "level": "1k"}', "here")
    assert (
        caught.value.message == "here: found dataset, level; expected an attempt; remove the line"
    )


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
    edit(rows_file(tmp_path), "answer 0", "edited")
    edit(rows_file(tmp_path), "answer 1", "edited, too")
    edit(exported, "answer 2", "also edited")
    preds = ["edited", "edited, too", "also edited"]
    assert accepted(tmp_path) == (preds, {f"rows/{NAME}.jsonl": 2, f"{NAME}.jsonl": 1})
    edited = Counter({f"rows/{NAME}.jsonl": 1, f"{NAME}.jsonl": 1})  # of a file before
    read_records(tmp_path, *KEY, edited)
    assert edited == {f"rows/{NAME}.jsonl": 3, f"{NAME}.jsonl": 2}
    edit(exported, "answer 1", "otherwise")
    both = f"{rows_file(tmp_path)}:2; both were edited: keep one of the two"
    with refusal(ExitCode.STORAGE, f"{exported}:2: ", both):
        accepted(tmp_path)


def test_an_exported_row_twice_or_added_is_no_edit(tmp_path: Path) -> None:
    exported = tmp_path / f"{NAME}.jsonl"
    lines = filled(tmp_path).decode().splitlines(keepends=True)
    exported.write_text("".join([*lines, lines[0].replace("answer 0", "again")]))
    with refusal(ExitCode.STORAGE, f"{exported}:4: found another record of row 0", "derive the"):
        accepted(tmp_path)
    exported.write_text("".join([*lines, lines[0].replace('"index": 0', '"index": 7')]))
    derived = f"rows that {rows_file(tmp_path)} has, which the file was derived from; run pred"
    for edited in (None, Counter[str]()):
        with refusal(ExitCode.STORAGE, f"{exported}:4: found a record with index 7", derived):
            read_records(tmp_path, *KEY, edited)
    rows_file(tmp_path).unlink()
    exported.write_text("".join([*lines, lines[0].replace("answer 0", "again")]))
    for edited in (None, Counter[str]()):
        with refusal(ExitCode.STORAGE, f"{exported}:4: ", f"row 0 than the one at {exported}:1"):
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
