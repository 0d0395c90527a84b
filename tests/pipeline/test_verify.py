"""A run's folder looked at by `lveval verify`, and rows that were edited on purpose."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, in_process, row, write_data
from support.part_runs import contents
from support.trials.damage import scored_run

from lveval.data import dataset

NAME = "cmrc_mixup_1k"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_run(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    """A run of 12 rows with its results, to be damaged."""
    return shutil.copytree(scored, tmp_path / "run")


def verify(folder: Path, *options: str | Path, code: int = 0) -> list[str]:
    """The lines that verify prints; the folder is as it was."""
    before = contents(folder)
    found = in_process("-m", "lveval", "verify", folder, *options)
    assert found.returncode == code, found.stdout + found.stderr
    assert contents(folder) == before
    return found.stdout.splitlines()


def evaluate(folder: Path, *options: str | Path, code: int = 0) -> str:
    """What evaluation.py prints, on stdout and stderr."""
    found = in_process("evaluation.py", "--input-dir", folder, *options)
    assert found.returncode == code, found.stderr
    return found.stdout + found.stderr


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_a_whole_run_has_no_fault(run: Path, scored: Path) -> None:
    # run.json, 4 times rows, export and data, the results of three protocols and what they mean
    assert verify(run) == ["20 files, 0 faults"]
    assert verify(run, "--data-path", scored.parent.parent / "data") == ["20 files, 0 faults"]
    for path in run.glob("results*"):
        path.unlink()
    assert verify(run) == ["13 files, 0 faults"]


@pytest.mark.parametrize("name", ["begun", "finished"])
def test_a_run_of_an_older_version_has_no_fault(name: str) -> None:
    assert verify(ROOT / "tests/golden/old_run" / name)[-1].endswith(" 0 faults")


def edit_row(run: Path) -> None:
    replace(run / f"rows/{NAME}.jsonl", b'"pred": "', b'"pred": "X')


def edit_derived(run: Path) -> None:
    replace(run / f"{NAME}.jsonl", b'"pred": "', b'"pred": "X')


def tear(run: Path) -> None:
    with (run / f"rows/{NAME}.jsonl").open("ab") as file:
        file.write(b'{"pred"')


def double(run: Path) -> None:
    path = run / f"rows/{NAME}.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[1])


def unsorted(run: Path) -> None:
    path = run / f"{NAME}.jsonl"
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))


def shrink(run: Path) -> None:
    path = run / "run.json"
    manifest = json.loads(path.read_text())
    manifest["selection"][NAME] = 2
    path.write_text(json.dumps(manifest))


def deselect(run: Path) -> None:
    path = run / "run.json"
    manifest = json.loads(path.read_text())
    del manifest["selection"][NAME]
    path.write_text(json.dumps(manifest))


def other_data(run: Path) -> None:
    path = run / "run.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["data"][NAME] = f"sha256:{0:064x}"
    path.write_text(json.dumps(manifest))


def more_data(run: Path) -> None:
    path = run / "run.json"
    manifest = json.loads(path.read_text())
    manifest["rows"][NAME] = 4
    path.write_text(json.dumps(manifest))


def stale_comparison(run: Path) -> None:
    (run / "comparison.json").write_text('{"a": {"released": "rows:11/12"}}')


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "row": (edit_row, f"rows/{NAME}.jsonl:1: damaged, or edited", "restore the line"),
    "derived": (edit_derived, f"/{NAME}.jsonl:1: is not as rows/{NAME}", "derive the file anew"),
    "torn": (tear, f"rows/{NAME}.jsonl:4: the last line is torn", "prediction.py again"),
    "double": (double, f"rows/{NAME}.jsonl:4: row 1 is at ", f"rows/{NAME}.jsonl:2, too"),
    "order": (unsorted, f"/{NAME}.jsonl:2: is not as rows/", "derive the file anew"),
    "no rows": (
        lambda run: (run / f"rows/{NAME}.jsonl").unlink(),
        f"rows/{NAME}.jsonl: is missing",
        "restore it from a copy",
    ),
    "other file": (
        lambda run: (run / f"rows/{NAME}.jsonl").rename(run / "rows/cmrc_mixup_2k.jsonl"),
        "rows/cmrc_mixup_2k.jsonl:1: a record of another file",
        "expected only those of cmrc_mixup_2k",
    ),
    "selection": (shrink, f"rows/{NAME}.jsonl:3: run.json does not select row 2", "restore run"),
    "no selection": (deselect, f"/{NAME}.jsonl: run.json selects no row of it", "restore run.json"),
    "data": (
        other_data,
        f"data/{NAME}.jsonl: found the content sha256:",
        "which the run was asked",
    ),
    "rows of the data": (more_data, f"run.json: rows.{NAME} is 4", "expected 3, the rows of the"),
    "run.json": (
        lambda run: replace(run / "run.json", b'"format": 1', b'"format": 3'),
        "run.json: expected format 1",
        "damaged, or of another version",
    ),
    "score": (
        lambda run: replace(run / "results.json", b": ", b": 1"),
        "results.json:2: found ",
        "as the rows score now; run evaluation.py again",
    ),
    "meta": (
        lambda run: replace(run / "results_meta.json", b'"rows": 3', b'"rows": 4'),
        'found ""rows": 4,"; expected ""rows": 3,"',
        "evaluation.py again",
    ),
    "no score": (
        lambda run: (run / "results.csv").unlink(),
        "results.csv: is missing beside other results",
        "evaluation.py again",
    ),
    "comparison": (stale_comparison, "comparison.json: is of other answers", "with --compare"),
    "attempt": (
        lambda run: (run / "attempts.jsonl").write_text('{"dataset": "cmrc_mixup"}\n'),
        "attempts.jsonl:1: found dataset; expected an attempt",
        "remove the line",
    ),
    "attempt of no row": (
        lambda run: (run / "attempts.jsonl").write_text(
            '{"dataset": "cmrc_mixup", "level": "1k", "index": Infinity, "cause": "error"}\n'
        ),
        "attempts.jsonl:1: found dataset, level, index, cause; expected an attempt",
        "remove the line",
    ),
    "times": (
        lambda run: (run / "times.jsonl").write_text("{}\n"),
        "times.jsonl:1: found no times",
        "remove the line",
    ),
    "temporary": (
        lambda run: (run / ".run.json.17.tmp").write_text("{"),
        ".run.json.17.tmp: left by a process",
        "remove it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_fault_is_a_line_with_its_place_and_what_to_do(run: Path, damage: str) -> None:
    change, where, what = DAMAGES[damage]
    change(run)
    *faults, last = verify(run, code=6)
    assert last.endswith(f"files, {len(faults)} faults")
    assert any(where in fault and what in fault for fault in faults), faults


def test_a_damaged_copy_of_the_data_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dataset, "_datasets", {})  # as a new process knows of no copy
    run = scored_run(tmp_path, 1)
    assert verify(run) == ["20 files, 0 faults"]
    copies = sorted((tmp_path / "cache").rglob("cmrc_mixup-*.arrow"))
    content = bytearray(copies[0].read_bytes())
    content[100] ^= 1
    copies[0].unlink()  # what is mapped stays
    copies[0].write_bytes(content)
    monkeypatch.setattr(dataset, "_datasets", {})
    fault, _ = verify(run, code=6)
    assert f"{copies[0]}: the cached copy of cmrc_mixup_" in fault and "remove it" in fault
    copies[0].unlink()
    shutil.rmtree(tmp_path / "data")  # where nothing is, nothing is compared
    assert verify(run) == ["16 files, 0 faults"]


def test_every_fault_of_a_folder_is_told_at_once(run: Path) -> None:
    path = run / f"rows/{NAME}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"pred": "', b'"pred": "X'))
    replace(run / "hotpotwikiqa_mixup_2k.jsonl", b'"index": 2', b'"index": 1')
    (run / "attempts.jsonl").write_text("[\n")
    *faults, last = verify(run, code=6)
    assert [fault.removeprefix(f"{run}/").split(": ")[0] for fault in faults] == [
        *(f"rows/{NAME}.jsonl:{number}" for number in (1, 2, 3)),
        "hotpotwikiqa_mixup_2k.jsonl:3",
        "attempts.jsonl:1",
    ]
    assert last == "14 files, 5 faults"  # results are not looked at beside rows in doubt


def test_rows_that_are_missing_are_no_damage(run: Path) -> None:
    path = run / f"rows/{NAME}.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    (run / f"{NAME}.jsonl").unlink()
    (stale, *more), missing = verify(run, code=6)[:-2], verify(run, code=6)[-2]
    assert "results.csv: is from before rows were missing" in stale and len(more) == 6
    for results in run.glob("results*"):
        results.unlink()
    assert verify(run, code=3) == [missing, "12 files, 1 faults"]
    assert f"{NAME}.jsonl: 2 rows (1, 2) of 3 have no answer; run prediction.py again" in missing
    evaluate(run, "--allow-partial")
    assert verify(run, code=3) == [missing, "19 files, 1 faults"]
    replace(run / "results.partial.json", b": ", b": 1")
    assert "results.partial.json:2: found " in verify(run, code=6)[0]


def test_a_file_that_was_not_derived_yet_is_no_damage(run: Path) -> None:
    (run / f"{NAME}.jsonl").unlink()
    fault, last = verify(run, code=3)
    assert f"{NAME}.jsonl: is missing, and all its rows are there" in fault
    assert last == "19 files, 1 faults"


def test_a_part_of_a_run_lacks_the_rows_of_the_others(scored: Path, tmp_path: Path) -> None:
    words = ("--backend", "echo", "--model-name", "dry", "--single-process", "--part", "1/2")
    selection = ("--datasets", "cmrc_mixup", "--lengths", "1k", "--output-dir", tmp_path)
    data = ("--data-path", scored.parent.parent / "data")
    assert in_process("prediction.py", *words, *selection, *data).returncode == 0
    assert verify(tmp_path / "dry.part1of2") == ["3 files, 0 faults"]


def test_a_folder_of_the_published_harness_is_read(tmp_path: Path) -> None:
    asked = [row("cmrc_mixup", number) for number in range(3)]
    keys = ("answers", "input", "all_classes", "length")
    records = [
        {"pred": "1800", "gold_ans": each["answer_keywords"]} | {key: each[key] for key in keys}
        for each in asked
    ]
    folder = tmp_path / "run"
    write_data(folder, "cmrc_mixup_16k", records)
    assert verify(folder) == ["1 files, 0 faults"]
    evaluate(folder)
    assert verify(folder) == ["8 files, 0 faults"]
    (folder / "results_meta.json").unlink()
    (folder / "results.json").write_text(
        json.dumps(json.loads((folder / "results.json").read_text()))
    )
    assert verify(folder)[-1].endswith(" 0 faults")
    (folder / "results.json").write_text('{"cmrc_mixup_16k": 99.5}')
    assert "results.json: cmrc_mixup_16k is 99.5; its rows score " in verify(folder, code=6)[0]
    with (folder / "cmrc_mixup_16k.jsonl").open("a") as file:
        file.write('{"pred": \n')
    assert "cmrc_mixup_16k.jsonl:4: found no JSON" in verify(folder, code=6)[0]


def test_what_is_no_run_is_a_wrong_use(run: Path, tmp_path: Path) -> None:
    found = in_process("-m", "lveval", "verify", tmp_path / "none")
    assert found.returncode == 2 and "none: no such folder" in found.stderr
    (tmp_path / "empty").mkdir()
    found = in_process("-m", "lveval", "verify", tmp_path / "empty")
    assert found.returncode == 2 and "found neither run.json nor" in found.stderr
    found = in_process("-m", "lveval", "verify", run, "--data-path", tmp_path / "empty")
    assert found.returncode == 2 and "found no data for" in found.stderr


def test_text_of_a_file_cannot_steer_the_terminal(run: Path) -> None:
    replace(run / "results.json", b"{", b'{"\x1b[31m\n\xe2\x80\xae": 0,')
    first = verify(run, code=6)[0]
    assert "\x1b" not in first and "\\u001b[31m" in first


# --- --accept-edited --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place"), [(edit_row, f"rows/{NAME}.jsonl"), (edit_derived, f"{NAME}.jsonl")]
)
def test_an_edited_row_is_scored_as_it_stands_and_said(
    run: Path, change: Callable[[Path], None], place: str
) -> None:
    before = json.loads((run / "results.json").read_text())
    truth = json.loads((run / f"{NAME}.jsonl").read_text().splitlines()[0])
    change(run)
    replace(run / place, b'"pred": "X', f'"pred": "{truth["answers"][0]} '.encode())
    said = evaluate(run, code=6)
    assert f"{place}:1: " in said and "--accept-edited" in said
    assert json.loads((run / "results.json").read_text()) == before
    note = f"Edited: 1 rows of {place}; scored as they stand."
    assert note in " ".join(evaluate(run, "--accept-edited").split())
    after = json.loads((run / "results.json").read_text())
    assert after[NAME] != before[NAME]
    assert after | {NAME: 0} == before | {NAME: 0}
    meta = json.loads((run / "results_meta.json").read_text())
    assert meta["edited"] == {place: 1}
    assert all("|edited:1" in signature for signature in meta["signature"].values())
    for option, code in ((), 6), (("--accept-edited",), 0):
        found = in_process("-m", "lveval", "report", "--input-dir", run, *option)
        assert found.returncode == code, found.stderr
    page = (run / "report.html").read_text()
    assert note in page and "edited: 1 rows" in page
    assert f"{place}:1: " in verify(run, code=6)[0]


def test_a_row_that_was_edited_in_both_places_is_refused(run: Path) -> None:
    edit_row(run)
    edit_derived(run)
    said = evaluate(run, "--accept-edited")  # the same edit
    assert f"Edited: 1 rows of rows/{NAME}.jsonl" in said
    replace(run / f"{NAME}.jsonl", b'"pred": "X', b'"pred": "Y')
    said = evaluate(run, "--accept-edited", code=6)
    assert f"/{NAME}.jsonl:1: found another record of row 0" in said and "keep one" in said


def test_a_row_that_was_edited_and_stands_twice_is_refused(run: Path) -> None:
    edit_derived(run)
    path = run / f"{NAME}.jsonl"
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(path.read_bytes() + first.replace(b'"pred": "X', b'"pred": "Y') + b"\n")
    said = evaluate(run, "--accept-edited", code=6)
    assert f"/{NAME}.jsonl:4: found another record of row 0" in said


def test_an_edited_run_is_named_where_runs_are_compared(run: Path, scored: Path) -> None:
    edit_row(run)
    said = evaluate(scored, "--compare", run, code=6)
    assert "--accept-edited" in said
    other = shutil.copytree(scored, run.parent / "other")
    said = evaluate(other, "--compare", run, "--accept-edited")
    assert f"Edited: 1 rows of rows/{NAME}.jsonl" in " ".join(said.split())
    flags = json.loads((other / "comparison.json").read_text())["compared"][str(run)]["unlike"]
    assert "1 rows of run were edited" in flags


def test_a_run_without_edits_is_the_same_with_the_option(run: Path) -> None:
    before = contents(run)
    assert "Edited" not in evaluate(run, "--accept-edited")
    assert contents(run) == before
