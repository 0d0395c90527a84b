"""A file of a published name that is cut, or of other data, is not taken for the published one."""

import csv
import json
from pathlib import Path

import pytest
from conftest import in_process, row, write_data
from support.part_runs import evaluate, manifest, predict

from lveval import config
from lveval.common.errors import ExitCode

SUBSET = "loogle_CR_mixup"
NAME, PUBLISHED = f"{SUBSET}_16k", config.DATASET_ROWS[SUBSET]
ALLOW = "--allow-unverified-data"
NOTE = f"Unverified data: {NAME} has {PUBLISHED - 1} rows, not as published."


def data_of(tmp_path: Path, rows: int, level: str = "16k", **changes: object) -> Path:
    made = [row(SUBSET, number, 20, **changes) for number in range(rows)]
    return write_data(tmp_path / "data", f"{SUBSET}_{level}", made).parent


def words(data: Path, *more: str, lengths: str = "16k") -> tuple[str | Path, ...]:
    echo = ("--backend", "echo", "--model-name", "dry", "--limit", "2", *more)
    return (*echo, "--data-path", data, "--datasets", SUBSET, "--lengths", lengths)


@pytest.mark.parametrize("rows", [PUBLISHED - 1, PUBLISHED + 1])
@pytest.mark.parametrize("look", [(), ("--plan",), ("--check",)])
def test_another_number_of_rows_than_published_is_refused(
    tmp_path: Path, rows: int, look: tuple[str, ...]
) -> None:
    data = data_of(tmp_path, rows)
    said = predict(tmp_path, *words(data, *look), code=ExitCode.USAGE)
    assert f"{data}/{NAME}.jsonl: found {rows} rows; expected the {PUBLISHED}" in said
    assert ALLOW in said and not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("rows", "level", "changes"),
    [(PUBLISHED, "16k", {}), (3, "8k", {}), (3, "16k", {"question_id": "made-1"})],
    ids=["as published", "a level of one's own", "constructed"],
)
def test_what_is_not_a_published_file_cut_needs_no_flag(
    tmp_path: Path, rows: int, level: str, changes: dict[str, object]
) -> None:
    predict(tmp_path, *words(data_of(tmp_path, rows, level, **changes), lengths=level))
    evaluate(tmp_path / "dry")
    assert "unverified" not in manifest(tmp_path / "dry")
    assert "unverified" not in (tmp_path / "dry/results_meta.json").read_text()


def test_what_construct_makes_is_taken_as_it_is(tmp_path: Path) -> None:
    for number, fresh in enumerate(((), ("--fresh", "7"))):
        data = tmp_path / f"data{number}"
        asked = ("--datasets", SUBSET, "--lengths", "16k", "--rows", "2", "--num-workers", "1")
        made = in_process("-m", "lveval", "construct", "--output-dir", data, *asked, *fresh)
        assert made.returncode == 0, made.stderr
        predict(tmp_path / f"out{number}", *words(data, "--model-max-len", "400"))


def test_allowed_data_are_named_in_the_results(tmp_path: Path) -> None:
    data, run = data_of(tmp_path, PUBLISHED - 1), tmp_path / "dry"
    predict(tmp_path, *words(data, ALLOW))
    assert manifest(run)["unverified"] == [NAME]
    found = in_process("evaluation.py", "--input-dir", run)
    assert NOTE in " ".join((found.stdout + found.stderr).split())
    meta = json.loads((run / "results_meta.json").read_text())
    assert meta["unverified"] == {NAME: PUBLISHED - 1}
    assert all("|data:unverified" in signature for signature in meta["signature"].values())
    assert in_process("-m", "lveval", "report", "--input-dir", run).returncode == 0
    page = (run / "report.html").read_text()
    assert NOTE in page and ">unverified data<" in page
    assert in_process("-m", "lveval", "verify", run).returncode == 0


def test_a_run_that_has_the_file_already_goes_on_without_the_flag(tmp_path: Path) -> None:
    """As do runs from before it was there, to the bytes that they had then."""
    data, run = data_of(tmp_path, PUBLISHED - 1), tmp_path / "dry"
    predict(tmp_path, *words(data, ALLOW))
    write_data(data, f"{SUBSET}_32k", [row(SUBSET)])
    predict(tmp_path, *words(data, ALLOW, lengths="32k"))
    assert manifest(run)["unverified"] == [NAME, f"{SUBSET}_32k"]
    more = ("--limit", "3")
    predict(tmp_path, *words(data), *more)
    assert len(manifest(run)["unverified"]) == 2
    before = json.loads((run / "run.json").read_text())
    del before["unverified"]
    (run / "run.json").write_text(json.dumps(before))
    predict(tmp_path, *words(data), *more)
    assert "unverified" not in manifest(run)
    with (data / f"{NAME}.jsonl").open("a") as file:  # another content, which the run has not
        file.write(json.dumps(row(SUBSET, 7, 30)) + "\n" + json.dumps(row(SUBSET, 8, 30)) + "\n")
    predict(tmp_path, *words(data), *more, code=ExitCode.USAGE)


def test_merged_parts_keep_the_mark(tmp_path: Path) -> None:
    data = data_of(tmp_path, 4)
    for part in ("1/2", "2/2"):
        predict(tmp_path, *words(data, ALLOW, "--part", part))
    evaluate(tmp_path / "dry", "--merge")
    assert manifest(tmp_path / "dry")["unverified"] == [NAME]


def test_an_import_is_held_to_the_same(tmp_path: Path) -> None:
    data, answers = data_of(tmp_path, 3), tmp_path / f"{NAME}.csv"
    with answers.open("w", newline="") as file:
        csv.writer(file).writerows([("index", "pred"), *((n, str(1800 + n)) for n in range(3))])
    asked = ("evaluation.py", "--import", "csv", answers, "--data-path", data)
    found = in_process(*asked)
    assert found.returncode == ExitCode.USAGE
    assert f"found 3 rows; expected the {PUBLISHED}" in found.stderr and ALLOW in found.stderr
    found = in_process(*asked, ALLOW)
    assert found.returncode == 0, found.stderr
    assert manifest(tmp_path / f"{NAME}-imported")["unverified"] == [NAME]
