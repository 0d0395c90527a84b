"""The store's promises: a recorded row survives, one record a row, the same bytes whatever happened before."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import IDENTITY, NAME, filled, opened, record, refusal, rows_file

from lveval.common.errors import ExitCode, LVEvalError
from lveval.runs.folder import answered_rows, read_manifest, read_records, run_files, run_folder
from lveval.runs.store import RunStore

# Line breaks that are none here, terminal codes, halves of pairs, pairs in halves, what a checksum looks like.
HOSTILE = [
    "\u2028\u2029\x85\x0b\x0c\r\n",
    "\x00\x1b[31m",
    "\ud800",
    "\udc80 tail",
    "\ud83d\ude00",
    "😀",
    '", "crc32": "0"}',
]
TEXTS = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=()), max_size=20)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example of a property."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "run"


# --- appending, resuming, deriving ------------------------------------------------------------------------------------


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    with opened(tmp_path / "deep/run", rows=2) as run:
        assert run.append(record(1)) and run.answered("lic_mixup", "16k") == {1}
        assert run.export_predictions("lic_mixup", "16k") is None
        assert not (tmp_path / "deep/run" / f"{NAME}.jsonl").exists()
    with opened(tmp_path / "deep/run", rows=2) as run:
        assert run.answered("lic_mixup", "16k") == {1}
        assert run.append(record(0, status="empty", pred=""))
        path = run.export_predictions("lic_mixup", "16k")
    assert path == tmp_path / "deep/run" / f"{NAME}.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [record(0, status="empty", pred=""), record(1)]
    assert list(lines[0])[:6] == ["pred", "answers", "gold_ans", "input", "all_classes", "length"]
    assert [item.record for item in read_records(path.parent, "lic_mixup", "16k")] == lines
    assert read_records(path.parent, "lic_mixup", "16k")[1].where == f"{path}:2"
    assert run_files(path.parent) == [("lic_mixup", "16k")]


def test_the_first_record_of_a_row_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert run.append(record(0, pred="first"))
        before = rows_file(tmp_path).read_bytes()
        assert not run.append(record(0, pred="late"))
    with opened(tmp_path) as run:
        assert not run.append(record(0, pred="later"))
    assert rows_file(tmp_path).read_bytes() == before
    # Two lines of one row can only come from outside; the first one counts then too.
    with opened(tmp_path / "other") as run:
        assert run.append(record(0, pred="second"))
    rows_file(tmp_path).write_bytes(before + rows_file(tmp_path / "other").read_bytes())
    assert [item.record["pred"] for item in read_records(tmp_path, "lic_mixup", "16k")] == ["first"]
    with opened(tmp_path) as run:
        assert (
            run.append(record(1))
            and run.append(record(2))
            and run.export_predictions("lic_mixup", "16k")
        )
    assert json.loads((tmp_path / f"{NAME}.jsonl").read_bytes().split(b"\n")[0])["pred"] == "first"


@pytest.mark.parametrize("changes", [{"status": "error"}, {"level": "32k"}, {"dataset": "../../x"}])
def test_what_is_no_final_record_of_the_run_is_a_bug(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with opened(tmp_path) as run:
        with pytest.raises(ValueError, match=r"attempt|not selected"):
            run.append(record(0, **changes))
        assert run.append(record(0))
    with refusal(ExitCode.STORAGE, f"{tmp_path}: nothing more is written: the run was closed"):
        run.append(record(1))


@given(st.lists(TEXTS, min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_the_derived_bytes_do_not_depend_on_order_or_restarts(
    texts: list[str], data: st.DataObject
) -> None:
    records = [record(index, pred=text, answers=[text, "x"]) for index, text in enumerate(texts)]
    order = data.draw(st.permutations(records))
    pauses = data.draw(st.sets(st.integers(0, len(order))))
    with scratch() as once, scratch() as often:
        with opened(once, len(records)) as run:
            for each in records:
                assert run.append(each)
            expected = run.export_predictions("lic_mixup", "16k")
        run = opened(often, len(records))
        for position, each in enumerate(order):
            if position in pauses:
                run.__exit__()
                run = opened(often, len(records))
            assert run.append(each)
        if len(order) in pauses:
            run.__exit__()
            run = opened(often, len(records))
        with run:
            found = run.export_predictions("lic_mixup", "16k")
        assert found and expected and found.read_bytes() == expected.read_bytes()
        assert found.read_bytes().count(b"\n") == len(records)
        # Nothing of a text is lost; JSON joins the two halves of a pair, whoever writes it.
        read = [item.record for item in read_records(often, "lic_mixup", "16k")]
        assert read == [json.loads(json.dumps(each)) for each in records]


@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "kill", "duplicate", "attempt"]), st.integers(0, 400)),
        max_size=25,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_acknowledged_row_is_lost_by_kills_in_mid_write(steps: list[tuple[str, int]]) -> None:
    acknowledged: dict[int, str] = {}
    with scratch() as folder:
        run = opened(folder, 40)
        for number, (step, size) in enumerate(steps):
            if step == "append":
                assert run.append(record(number, pred=HOSTILE[size % len(HOSTILE)]))
                acknowledged[number] = HOSTILE[size % len(HOSTILE)]
            elif step == "duplicate" and acknowledged:
                assert not run.append(record(min(acknowledged), pred="other"))
            elif step == "attempt":
                run.record_failure(
                    "lic_mixup", "16k", number, "error", HOSTILE[size % len(HOSTILE)]
                )
            elif step == "kill":
                # What a kill leaves: the lock free, and perhaps the first bytes of a line.
                run.__exit__()
                for path in (rows_file(folder), folder / "attempts.jsonl"):
                    if path.exists():
                        whole = path.read_bytes().split(b"\n")[0]
                        with path.open("ab") as file:
                            file.write(whole[: size % (len(whole) + 1)])
                run = opened(folder, 40)
            assert run.answered("lic_mixup", "16k") == set(acknowledged)
        run.__exit__()
        read = {
            item.record["index"]: item.record["pred"]
            for item in read_records(folder, "lic_mixup", "16k")
        }
        assert read == {index: json.loads(json.dumps(pred)) for index, pred in acknowledged.items()}


def test_an_edited_row_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    edited = rows_file(tmp_path).read_bytes().replace(b"answer 1", b"answer X")
    rows_file(tmp_path).write_bytes(edited)
    with refusal(ExitCode.STORAGE, f"{NAME}.jsonl:2", "edited", "found checksum", "expected"):
        opened(tmp_path)
    with refusal(ExitCode.STORAGE, f"{NAME}.jsonl:2"):
        read_records(tmp_path, "lic_mixup", "16k")
    assert rows_file(tmp_path).read_bytes() == edited
    # As the message says: without the line its row is simply missing.
    lines = edited.split(b"\n")
    rows_file(tmp_path).write_bytes(b"\n".join([lines[0], *lines[2:]]))
    with opened(tmp_path) as run:
        assert run.answered("lic_mixup", "16k") == {0, 2}


def test_an_edited_derived_file_is_named_and_derived_anew(tmp_path: Path) -> None:
    expected = filled(tmp_path)
    derived = tmp_path / f"{NAME}.jsonl"
    derived.write_bytes(expected.replace(b"answer 2", b"answer X"))
    with refusal(ExitCode.STORAGE, f"{derived}:3", f"{rows_file(tmp_path)}:3"):
        read_records(tmp_path, "lic_mixup", "16k")
    for _ in range(2):
        with opened(tmp_path) as run:
            run.export_predictions("lic_mixup", "16k")
    assert derived.read_bytes() == expected
    # Another spelling of the same records is no damage, and without rows/ the file stands for itself.
    derived.write_text(
        "".join(json.dumps(json.loads(line)) + "\n" for line in expected.splitlines())
    )
    assert len(read_records(tmp_path, "lic_mixup", "16k")) == 3
    rows_file(tmp_path).unlink()
    assert len(read_records(tmp_path, "lic_mixup", "16k")) == 3


def test_rows_of_another_file_are_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    rows_file(tmp_path).rename(tmp_path / "rows/lic_mixup_32k.jsonl")
    with refusal(ExitCode.USAGE, "lic_mixup_32k.jsonl:1", "another file"):
        opened(tmp_path)


SHAPE: dict[str, object] = {"format": 1, "identity": {}, "selection": {}, "rows": {}, "log": []}
WRONG_SHAPES: dict[str, list[object]] = {
    "sampled": [3, [], {"a_1k": 3}, {"a_1k": ["0"]}, {"a_1k": [[0]]}],
    "left_out": [3, [], {"a_1k": None}, {"a_1k": [True]}],
    "part": [3, [1], ["1", 2], {}],
    "unverified": [True, {}, [["a_1k"]]],
    "log": [{}, ["start"]],
    "identity": [{"data": 3}, {"given": 3}, {"effective": 3}, {"model_max_len": "3"}],
}
COUNTED = '{"format": 1, "identity": {}, "selection": {"a_1k": "3"}, "rows": {}, "log": []}'


@pytest.mark.parametrize("field", ["selection", "rows"])
def test_a_manifest_leads_to_no_file_outside(tmp_path: Path, field: str) -> None:
    named = {"lic_mixup_16k": 1, "../../x_1k": 1, "../y_1k": 1}
    (tmp_path / "run.json").write_text(json.dumps(SHAPE | {field: named}))
    with refusal(ExitCode.USAGE) as caught:
        read_manifest(tmp_path)
    assert caught.value.message == (
        f"{tmp_path / 'run.json'}: found rows of a file named '../../x_1k'; expected a name such as "
        "hotpotwikiqa_mixup_16k"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2}',
        '{"format": 1, "identity": []}',
        COUNTED,
        *(json.dumps(SHAPE | {name: one}) for name, some in WRONG_SHAPES.items() for one in some),
        "\xff",
        "[" * 100000,
    ],
)
def test_a_damaged_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    filled(tmp_path)
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with refusal(ExitCode.USAGE, "run.json"):
        read_manifest(tmp_path)
    with refusal(ExitCode.USAGE, "run.json"):
        opened(tmp_path)


def test_a_damaged_attempt_is_an_error_and_a_torn_one_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path) as run:
        run.record_failure("lic_mixup", "16k", 0, "context_overflow", "too long\u2028")
        run.record_failure("lic_mixup", "16k", 1, "context_overflow", "too long")
    path = tmp_path / "attempts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with opened(tmp_path) as run:
        assert run.failed() == {("lic_mixup", "16k", 0): "context_overflow"}
    assert "attempts.jsonl" in capsys.readouterr().err
    for line in (b"{}\n", b"\n", b'{"time": \n'):
        path.write_bytes(line + whole)
        with refusal(ExitCode.USAGE, "attempts.jsonl:1"):
            opened(tmp_path)


def test_failed_means_the_last_attempt_and_no_record_since(tmp_path: Path) -> None:
    with opened(tmp_path, 4) as run:
        for index in range(4):
            run.record_failure("lic_mixup", "16k", index, "context_overflow", "too long")
        run.record_failure("lic_mixup", "16k", 1, "worker_died", "killed")
        run.append(record(2))
        expected = {
            ("lic_mixup", "16k", 0): "context_overflow",
            ("lic_mixup", "16k", 1): "worker_died",
            ("lic_mixup", "16k", 3): "context_overflow",
        }
        assert run.failed() == expected
        with pytest.raises(ValueError, match="cause"):
            run.record_failure("lic_mixup", "16k", 0, "ok", "")
    with opened(tmp_path, 4) as run:
        assert run.failed() == expected
    entry = json.loads((tmp_path / "attempts.jsonl").read_text().splitlines()[0])
    assert list(entry) == ["time", "dataset", "level", "index", "cause", "message"]


# --- rows of other programs -------------------------------------------------------------------------------------------


def test_published_rows_are_read_in_their_order(tmp_path: Path) -> None:
    keys = ("pred", "answers", "gold_ans", "input", "all_classes", "length")
    kept = [dict(record(number, pred=f"{number}\u2028")) for number in (2, 0, 1)]
    rows = [{key: row[key] for key in keys} for row in kept]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / f"{NAME}.jsonl").write_bytes(text.encode())  # no line break at the end
    assert [item.record for item in read_records(tmp_path, "lic_mixup", "16k")] == rows
    assert run_files(tmp_path) == [("lic_mixup", "16k")] and read_manifest(tmp_path) is None
    assert read_records(tmp_path, "lic_mixup", "32k") == []
    with refusal(
        ExitCode.IDENTITY,
        f"{tmp_path}: holds predictions ({NAME}) but no run.json that says what made them; use ",
        "name, or --overwrite to move them aside",
    ):
        opened(tmp_path)
    assert (tmp_path / f"{NAME}.jsonl").read_bytes() == text.encode()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "1",
        '{"index": "0"}',
        '{"index": true}',
        '{"index": -1}',
        '{"index": [1]}',
        '{"pred": ""}',
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / f"{NAME}.jsonl").write_text(f'{{"index": 0}}\n{line}\n{{"index": 1}}\n')
    with refusal(ExitCode.USAGE, f"{NAME}.jsonl:2"):
        read_records(tmp_path, "lic_mixup", "16k")


def test_what_a_prediction_is_made_of_is_not_judged_here(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as run:
        run.append(record(0, pred=None, usage={"total": float("nan")}))
        run.export_predictions("lic_mixup", "16k")
    assert read_records(tmp_path, "lic_mixup", "16k")[0].record["pred"] is None


# --- identity, selection, overwrite -----------------------------------------------------------------------------------


def changed(path: str, value: object) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads(json.dumps(IDENTITY))
    *outer, last = path.split("/")
    inner = identity
    for name in outer:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return identity


@pytest.mark.parametrize(
    ("path", "value", "difference"),
    [
        ("backend", "hf", 'backend: recorded "echo", asked "hf"'),
        ("engine/version", "2", 'engine.version: recorded "1", asked "2"'),
        (
            "engine/settings/temperature",
            0.7,
            "engine.settings.temperature: recorded 0.0, asked 0.7",
        ),
        (
            "engine/settings/stop",
            ["b", "a"],
            'engine.settings.stop: recorded ["a", "b"], asked ["b", "a"]',
        ),
        ("engine/settings", None, "engine.settings.temperature: recorded 0.0, asked nothing"),
        ("engine/new", True, "engine.new: recorded nothing, asked true"),
        ("seed", 0, "seed: recorded null, asked 0"),
        ("seed", ..., "seed: recorded null, asked nothing"),
        (f"data/{NAME}", "sha256:2", f'data.{NAME}: recorded "sha256:1", asked "sha256:2"'),
        ("budgets/lic_mixup", 32, "budgets.lic_mixup: recorded 64, asked 32"),
        ("database", "x", 'database: recorded nothing, asked "x"'),
    ],
)
def test_other_settings_are_refused_field_by_field(
    tmp_path: Path, path: str, value: object, difference: str
) -> None:
    filled(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with refusal(ExitCode.IDENTITY, f"{tmp_path}: ", difference, "--output-dir", "--overwrite"):
        opened(tmp_path, identity=changed(path, value))
    assert (tmp_path / "run.json").read_bytes() == before
    opened(tmp_path).__exit__()


def test_a_start_without_answers_binds_nothing(tmp_path: Path) -> None:
    """What failed then is not held against the rows under other settings."""
    folder = tmp_path / "run"
    with opened(folder) as store:
        store.record_resolved({"attn": "sdpa"})
        store.record_failure("cmrc_mixup", "16k", 1, "context_overflow", "too long")
        store.log({"event": "start"})
    with opened(folder) as store:  # the same settings
        assert store.failed() == {("cmrc_mixup", "16k", 1): "context_overflow"}
    other = changed("seed", 0)
    assert answered_rows(folder, other, [("cmrc_mixup", "16k")]) == {("cmrc_mixup", "16k"): set()}
    with opened(folder, identity=other) as store:
        assert store.failed() == {}
        assert [entry["event"] for entry in store.manifest["log"]] == ["start"]
    assert (folder / "attempts.jsonl.old-1").exists() and not (folder / "attempts.jsonl").exists()


def test_the_selection_may_grow(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    more = changed("data/factrecall_en_16k", "sha256:3")
    del more["data"][NAME]
    with RunStore.open(
        tmp_path, more, {"factrecall_en_16k": 5, NAME: 1}, {"factrecall_en_16k": 200}
    ) as run:
        assert run.append(record(0, dataset="factrecall_en"))
    manifest = read_manifest(tmp_path)
    assert manifest and manifest["selection"] == {NAME: 2, "factrecall_en_16k": 5}
    assert manifest["rows"] == {NAME: 197, "factrecall_en_16k": 200}
    assert manifest["identity"]["data"] == {NAME: "sha256:1", "factrecall_en_16k": "sha256:3"}
    with refusal(ExitCode.IDENTITY, "data.factrecall_en_16k"):
        opened(tmp_path, identity=changed("data/factrecall_en_16k", "sha256:4"))
    with opened(tmp_path, 4) as run:
        assert run.append(record(3)) and run.export_predictions("lic_mixup", "16k") is None
        # The file of two rows is still there, and is not taken for the whole.
        assert (tmp_path / f"{NAME}.jsonl").read_bytes().count(b"\n") == 2
        assert [item.record["index"] for item in read_records(tmp_path, "lic_mixup", "16k")] == [
            0,
            1,
            3,
        ]
        assert run.append(record(2)) and run.export_predictions("lic_mixup", "16k")
    assert (tmp_path / f"{NAME}.jsonl").read_bytes().count(b"\n") == 4
    assert run_files(tmp_path) == [("factrecall_en", "16k"), ("lic_mixup", "16k")]


def test_files_without_the_published_rows_are_noted_for_good(tmp_path: Path) -> None:
    filled(tmp_path)
    for found, noted in (((), None), (("b", "a"), ["a", "b"]), (("c", "a"), ["a", "b", "c"])):
        RunStore.open(tmp_path, IDENTITY, {NAME: 3}, {NAME: 197}, unverified=found).__exit__()
        manifest = read_manifest(tmp_path)
        assert manifest and manifest.get("unverified") == noted


def test_overwrite_moves_aside_and_deletes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = changed("backend", "hf")
    filled(tmp_path / "run")
    (tmp_path / "run/notes.txt").write_text("mine")
    before = {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    }
    caplog.clear()
    with opened(tmp_path / "run", identity=other, overwrite=True) as run:
        assert run.answered("lic_mixup", "16k") == set()
    assert caplog.messages == [f"the earlier run was moved to {tmp_path / 'run.old-1'}"]
    aside = tmp_path / "run.old-1"
    assert {path.name: path.read_bytes() for path in aside.iterdir() if path.is_file()} == before
    assert len(read_records(aside, "lic_mixup", "16k")) == 3
    opened(tmp_path / "run", overwrite=True).__exit__()
    opened(tmp_path / "new", overwrite=True).__exit__()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new",
        "run",
        "run.old-1",
        "run.old-2",
    ]


def test_what_the_backend_decided_is_kept_and_compared(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.record_resolved({"attn": "sdpa", "eos": (1, 2)})
        run.record_resolved({"attn": "sdpa", "eos": [1, 2]})
        run.append(record(0))
    with opened(tmp_path) as run:
        with refusal(ExitCode.IDENTITY, 'effective.attn: recorded "sdpa", asked "eager"'):
            run.record_resolved({"attn": "eager", "eos": [1, 2]})
        with refusal(ExitCode.IDENTITY, "effective.eos: recorded [1, 2], asked nothing"):
            run.record_resolved({"attn": "sdpa"})
        run.record_resolved({"attn": "sdpa", "eos": [1, 2]})
        run.log({"workers": 2})
    manifest = read_manifest(tmp_path)
    assert manifest and manifest["identity"] == IDENTITY | {
        "effective": {"attn": "sdpa", "eos": [1, 2]}
    }
    assert manifest["log"][-1]["workers"] == 2 and set(manifest) == {
        "format",
        "row_version",
        "identity",
        "selection",
        "rows",
        "log",
    }


def test_what_a_service_tells_later_is_added_and_then_holds(tmp_path: Path) -> None:
    def on_disk() -> object:
        manifest = read_manifest(tmp_path)
        return manifest and manifest["identity"]["effective"]

    with opened(tmp_path) as run:
        run.record_resolved({"seed": 1})
        assert on_disk() == {"seed": 1}
        run.record_resolved({"seed": 1, "served_model": "m"})
        assert on_disk() == {"seed": 1, "served_model": "m"}
        before = (tmp_path / "run.json").stat()
        run.record_resolved({"seed": 1})  # of a start whose first answer is still to come
        assert (tmp_path / "run.json").stat() == before
        with refusal(ExitCode.IDENTITY, f"{tmp_path}: ", 'served_model: recorded "m", asked "n"'):
            run.record_resolved({"seed": 1, "served_model": "n"})


def test_an_entry_of_the_log_has_its_time_in_utc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC-9")
    time.tzset()
    try:
        with opened(tmp_path) as run:
            run.log({"event": "start"})
            (entry,) = run.manifest["log"]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [*entry] == ["time", "event"]
    when = datetime.strptime(entry["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - when) < timedelta(hours=1)


def test_a_row_whose_last_try_was_to_be_repeated_did_not_fail(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.record_failure("lic_mixup", "16k", 0, "transient", "busy")
        assert run.failed() == {}


def test_a_torn_line_is_cut_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    path = rows_file(tmp_path)
    whole = path.read_bytes()
    for torn in (b'{"torn', b"again"):
        with path.open("ab") as file:
            file.write(torn)
        caplog.clear()
        with opened(tmp_path):
            assert path.read_bytes() == whole
        assert caplog.messages == [
            f"warning: {path}: the last line was cut off in mid-write ({len(torn)} bytes, kept in "
            f"{path.name}.torn); its row is answered again"
        ]
    assert path.with_name(f"{path.name}.torn").read_bytes() == b'{"torn\nagain\n'


def test_rows_that_are_left_out_are_not_waited_for(tmp_path: Path) -> None:
    for left_out in ({NAME: [1]}, {}, {NAME: [0]}):  # what one start left out stays so
        with RunStore.open(tmp_path, IDENTITY, {NAME: 2}, {NAME: 197}, left_out=left_out) as run:
            run.append(record(0))
            assert run.export_predictions("lic_mixup", "16k") is not None
    assert run.manifest["left_out"] == {NAME: [0, 1]}


@pytest.mark.parametrize("name", [".lock", f"rows/{NAME}.jsonl", "attempts.jsonl"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    filled(tmp_path / "run")
    target, path = tmp_path / "target", tmp_path / "run" / name
    path.unlink(missing_ok=True)
    target.write_text("mine\n")
    path.symlink_to(target)
    with refusal(ExitCode.USAGE, f"{path}: found a link; expected a file"):
        opened(tmp_path / "run")
    assert target.read_text() == "mine\n"


def test_a_file_without_answers_and_one_with_some(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert run.export_predictions("lic_mixup", "16k") is None
        assert [*run.records()] == [] and run.append(record(2)) and run.append(record(0))
    with RunStore.open(tmp_path, IDENTITY, {NAME: 3}, {NAME: 197}, left_out={NAME: []}) as run:
        assert [*run.records()] == [record(2), record(0)] and "left_out" not in run.manifest


def test_rows_are_their_owners_alone_to_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        filled(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*")}
    assert modes.pop("rows") == 0o755 and {*modes.values()} == {0o644}


@pytest.mark.parametrize("name", ["run.json", f"{NAME}.jsonl"])
def test_the_write_that_failed_is_named_afterwards(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with opened(tmp_path, 1) as run:
        run.append(record(0))
        path.unlink(missing_ok=True)
        path.mkdir()
        with refusal(ExitCode.STORAGE, f"{path}: writing failed (Is a directory)"):
            run.export_predictions("lic_mixup", "16k")
            run.log({})
        with refusal(ExitCode.STORAGE, f"{tmp_path}: nothing more ", f"a write to {path} failed"):
            run.append(record(1))


def test_a_run_that_is_written_to_is_said_with_its_process(tmp_path: Path) -> None:
    lock, ours = tmp_path / ".lock", f"{os.getpid()}\n"
    with opened(tmp_path):
        assert lock.read_text() == ours
        for content, holder in (
            (ours, f" (pid {os.getpid()})"),
            ("", ""),
            ("\xff", " (pid \ufffd)"),
        ):
            lock.write_text(content, encoding="latin-1")
            with refusal(ExitCode.USAGE) as caught:
                opened(tmp_path)
            assert caught.value.message == (
                f"{tmp_path}: another process{holder} is writing to this run; wait for its end, "
                "stop it, or use another --output-dir or --model-name"
            )
    lock.write_text("of a process that was killed\n")
    with opened(tmp_path):
        assert lock.read_text() == ours


def test_a_write_that_is_cut_short_ends_all_writing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as run:
        assert run.append(record(0))
        size = rows_file(tmp_path).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
        try:
            full = (
                f"{rows_file(tmp_path)}: writing failed (only 5 of ",
                "written; is the disk full?",
            )
            with refusal(ExitCode.STORAGE, *full):
                run.append(record(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for write in (
            lambda: run.append(record(1)),
            lambda: run.log({}),
            lambda: run.export_predictions("lic_mixup", "16k"),
        ):
            with refusal(ExitCode.STORAGE, f"{tmp_path}: nothing more is written: a write to "):
                run._manifest["selection"][NAME] = 1  # so that the file counts as complete
                write()
    with opened(tmp_path) as run:
        assert run.answered("lic_mixup", "16k") == {0}


def test_folders_of_runs(tmp_path: Path) -> None:
    for name, folder in (
        ("gpt-4", "gpt-4"),
        ("a/b", "a__b"),
        ("../../x", "..__..__x"),
        ("模型 1", "模型 1"),
        ("-x", "-x"),
    ):
        assert run_folder(tmp_path, name) == tmp_path / folder
    for name in (
        "",
        ".",
        "..",
        "a\\b",
        "a\x00",
        "a\nb",
        "\x1b[0m",
        "\u202ex",
        "\ud800",
        "x" * 201,
        "模" * 70,
    ):
        with refusal(ExitCode.USAGE, "--model-name"):
            run_folder(tmp_path, name)
    outputs, outside = tmp_path / "outputs", tmp_path / "outside"
    outputs.mkdir()
    outside.mkdir()
    for name, target in (
        ("out", outside),
        ("up", tmp_path),
        ("self", outputs),
        ("loop", outputs / "loop"),
    ):
        (outputs / name).symlink_to(target)
    (outputs / "in").symlink_to("real")
    assert run_folder(outputs, "in") == outputs / "in"
    for name in ("out", "up", "self"):
        with refusal(ExitCode.USAGE, "link"):
            run_folder(outputs, name)
    with refusal(ExitCode.STORAGE):
        opened(run_folder(outputs, "loop"))


PARTS = st.lists(
    st.sampled_from(["..", ".", "/", "//", "a", "\\", "~", "\x00", " "]), max_size=8
).map("".join)


@given(PARTS | st.text(st.characters(exclude_categories=()), max_size=30))
@settings(max_examples=500, deadline=None)
def test_no_model_name_leaves_the_output_folder(name: str) -> None:
    base = Path("/nowhere/outputs")
    try:
        folder = run_folder(base, name)
    except LVEvalError as error:
        assert error.code == ExitCode.USAGE
    else:
        assert folder.parent == Path(os.path.abspath(folder)).parent == base


def test_importing_the_store_is_light() -> None:
    code = "import sys; from lveval.runs import store; print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    heavy = ["torch", "transformers", "datasets", "openai", "numpy", "jieba", "dask"]
    found = subprocess.run(
        [sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
