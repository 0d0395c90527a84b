"""Parts that become one run: what is taken, what is said, and what is refused."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from conftest import lines
from support.stores import IDENTITY, NAME, filled, opened, record, refusal, rows_file

from lveval.common.errors import ExitCode
from lveval.runs.folder import read_manifest
from lveval.runs.merge import find_parts, merge_parts
from lveval.runs.store import RunStore

OTHER = "factrecall_en_16k"


def part(
    folder: Path,
    number: int,
    of: int,
    indices: Iterable[int],
    name: str = NAME,
    *,
    sampled: Mapping[str, Iterable[int]] | None = None,
    left_out: Mapping[str, Iterable[int]] | None = None,
) -> Path:
    """A part of the run in `folder`, with these rows of one file answered."""
    path = folder.with_name(f"{folder.name}.part{number}of{of}")
    counts = {name: 4}, {name: 197}
    subset = name.removesuffix("_16k")
    with RunStore.open(
        path, IDENTITY, *counts, part=(number, of), sampled=sampled, left_out=left_out
    ) as run:
        for index in indices:
            run.append(record(index, pred=f"answer {index}", dataset=subset))
    return path


def changed(folder: Path, **changes: object) -> None:
    path = folder / "run.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: each for name, each in manifest.items() if each is not None}))


def test_what_came_and_what_is_missing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    first = part(folder, 1, 5, [0, 2])
    part(folder, 2, 5, [])  # begun, without an answer
    (tmp_path / "run.part3of5").mkdir()
    (tmp_path / "run.part4of5").touch()  # no folder
    (first / "rows/notes.jsonl").write_text("of no subset")
    caplog.clear()
    merge_parts(folder)
    assert caplog.messages == [
        f"merged 3 of 5 parts into {folder}: 2 rows are new",
        "missing parts (of 5): 4, 5",
        f"{NAME}: 2 rows have no answer: 1, 3",
    ]
    manifest = read_manifest(folder)
    assert manifest is not None
    parts = ["run.part1of5", "run.part2of5", "run.part3of5"]
    assert [entry | {"time": ""} for entry in manifest["log"]] == [
        {"time": "", "event": "merge", "parts": parts}
    ]
    before = (folder / "run.json").read_bytes()
    merge_parts(folder)  # nothing new: nothing is noted
    assert (folder / "run.json").read_bytes() == before
    first.rename(tmp_path / "elsewhere")
    part(folder, 2, 5, [1])
    caplog.clear()
    merge_parts(folder)
    assert "missing parts (of 5): 1, 4, 5" in caplog.messages
    (tmp_path / "elsewhere").rename(first)
    for number in (2, 3, 4):
        tmp_path.joinpath(f"run.part{number}of5").rename(tmp_path / f"{number}")
    first.rename(tmp_path / "run.part1of1")
    changed(tmp_path / "run.part1of1", part=[1, 1])
    caplog.clear()
    merge_parts(folder)
    assert f"merged 1 of 1 parts into {folder}: 0 rows are new" in caplog.messages
    assert not any("missing parts" in message for message in caplog.messages)


def test_rows_of_all_parts_and_files_are_counted_and_the_first_answer_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    counts = {NAME: 4, OTHER: 4}, {NAME: 197, OTHER: 200}
    with RunStore.open(folder, IDENTITY, *counts) as run:
        for index in (0, 1, 3):
            run.append(record(index, pred="the first"))
        run.append(record(0, pred="the first", dataset="factrecall_en"))
    one = part(folder, 1, 2, [0, 1])
    with RunStore.open(one, IDENTITY, *counts, part=(1, 2)) as run:
        run.append(record(0, dataset="factrecall_en"))
        run.append(record(1, dataset="factrecall_en"))
    part(folder, 2, 2, [2])
    caplog.clear()
    merge_parts(folder)
    assert caplog.messages == [
        f"{one}: 3 rows have another answer in {folder}",
        f"merged 2 of 2 parts into {folder}: 2 rows are new",
        f"{OTHER}: 2 rows have no answer: 2, 3",
    ]
    preds = [found["pred"] for found in lines(folder / f"{NAME}.jsonl")]
    assert preds == ["the first", "the first", "answer 2", "the first"]


def test_selections_of_parts_are_joined(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    part(folder, 1, 3, [0], sampled={NAME: [0, 2]}, left_out={NAME: [2]})
    part(folder, 2, 3, [1], sampled={NAME: [1, 3]})
    part(folder, 3, 3, [0], name=OTHER)
    changed(tmp_path / "run.part2of3", selection={NAME: 2})
    merge_parts(folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest["selection"], manifest["rows"]) == (
        {NAME: 4, OTHER: 4},
        {NAME: 197, OTHER: 197},
    )
    assert (manifest["sampled"], manifest["left_out"]) == ({NAME: [0, 1, 2, 3]}, {NAME: [2]})


def test_attempts_and_times_come_along_and_none_twice(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    times = [
        {"dataset": "lic_mixup", "level": "16k", "index": index, "seconds": 0.5}
        for index in range(3)
    ]
    source = tmp_path / "source"
    with opened(source) as run:
        for index in range(3):
            run.record_failure("lic_mixup", "16k", index, "error", f"failed {index}")
            run.append(record(index), times[index] if index else None)
    with opened(folder) as run:  # killed between the times of two rows and the rows themselves
        run._times.append(times[0])
        run._times.append(times[1])
    with opened(folder) as run:
        assert run.adopt(source) == (3, 0)
        assert run.adopt(source) == (0, 0)
    assert lines(folder / "times.jsonl") == times
    assert (folder / "attempts.jsonl").read_bytes() == (source / "attempts.jsonl").read_bytes()
    assert rows_file(folder).read_bytes() == rows_file(source).read_bytes()


def test_what_a_service_told_in_one_part_only_is_no_difference(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number, told in ((1, {"seed": 1}), (2, {"seed": 1, "served_model": "m"})):
        changed(part(folder, number, 2, [number]), identity={**IDENTITY, "effective": told})
    merge_parts(folder)
    manifest = read_manifest(folder)
    assert manifest and manifest["identity"]["effective"] == {"seed": 1, "served_model": "m"}


def test_what_cannot_be_joined_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for nowhere in (folder, tmp_path / "none/run"):
        with refusal(ExitCode.USAGE, f"{nowhere}: found no part of this run; expected folders"):
            merge_parts(nowhere)
    one = part(folder, 1, 2, [])
    with refusal(ExitCode.INCOMPLETE, f"{folder}: none of the 1 parts has an answer yet"):
        merge_parts(folder)
    part(folder, 1, 2, [0])
    two = part(folder, 2, 2, [0])
    with refusal(
        ExitCode.USAGE,
        f"{two}: row 0 of {NAME} is in {one}, too; expected each row in one part; were folders "
        "copied, or parts made by different versions?",
    ):
        merge_parts(folder)
    changed(two, part=None)
    with refusal(ExitCode.USAGE, f"{two}: by its run.json it is no part; expected part 2 of 2; "):
        merge_parts(folder)
    changed(two, part=[2, 2], row_version=1)
    with refusal(ExitCode.IDENTITY, f"{two}: ", "row_version: recorded 1, asked 2"):
        merge_parts(folder)
    part(folder, 1, 3, [0])
    with refusal(
        ExitCode.USAGE, "parts of 2 and of 3; expected those of one division; move the others else"
    ):
        merge_parts(folder)
    assert not folder.exists()


def test_a_parts_folder_is_not_gone_on_with_as_another(tmp_path: Path) -> None:
    path = part(tmp_path / "run", 1, 2, [0])
    with refusal(ExitCode.IDENTITY, f"{path}: ", "part: recorded [1, 2], asked [2, 2]"):
        RunStore.open(path, IDENTITY, {NAME: 4}, {NAME: 197}, part=(2, 2))


def test_folders_of_other_names_are_no_parts(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    for name in ("run.part0of2", "run.part1of2.old-1", "other.part1of2", "run.part01of2"):
        (tmp_path / name).mkdir()
    for name in ("run.part10of12", "run.part2of12"):
        (tmp_path / name).mkdir()
    assert [*find_parts(tmp_path / "run")] == [(2, 12), (10, 12)]
