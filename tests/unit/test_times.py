"""Times of rows: a file of their own that may be torn, wrong or gone, and what is shown of it."""

import json
import random
import resource
from pathlib import Path

import pytest
from conftest import in_process
from support.run_folders import make_row, write_run
from support.scores import every
from support.stores import opened, record

from lveval.analysis import run_analysis
from lveval.analysis.measures import Spread
from lveval.analysis.times import Times, times_by_level
from lveval.evaluation import evaluate
from lveval.report import html, tables
from lveval.report.data import build_report
from lveval.results import ScoredRow
from lveval.runs.times import FILE, TimesFile, read_times


def line(index: int, level: str = "16k", **told: object) -> dict[str, object]:
    return {"dataset": "lic_mixup", "level": level, "index": index, **told}


# --- the file ---


def test_a_line_for_each_answer_and_a_torn_one_costs_only_itself(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert run.append(record(0), line(0, seconds=1.5))
        assert not run.append(record(0), line(0, seconds=9.0))
        assert run.append(record(1), line(1, seconds=2.5))
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-9])  # as a kill in mid-write leaves it
    assert list(read_times(tmp_path)) == [("lic_mixup", "16k", 0)]
    with opened(tmp_path) as run:
        assert run.answered("lic_mixup", "16k") == {0, 1}
        assert run.append(record(2), line(2, seconds=3.5))
    found = read_times(tmp_path)
    assert {key[2]: told["seconds"] for key, told in found.items()} == {0: 1.5, 2: 3.5}


def test_of_a_row_that_is_asked_again_the_last_line_counts(tmp_path: Path) -> None:
    odd = (
        "[" * 100_000,
        "[]",
        '{"dataset": "x"}',
        '{"dataset": [], "level": "16k", "index": 0}',
        "",
        "\udcff",
    )
    text = "\n".join((json.dumps(line(0, seconds=1)), *odd, json.dumps(line(0, seconds=2))))
    (tmp_path / FILE).write_text(text, errors="surrogateescape")
    assert read_times(tmp_path) == {("lic_mixup", "16k", 0): line(0, seconds=2)}


def test_each_line_is_on_the_disk_at_once_and_a_torn_one_gets_its_break(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for before in (b"", b'{"torn', b'{"whole": 1}\n'):
        path.write_bytes(before)
        file = TimesFile(tmp_path)
        file.append(line(0))
        text = json.dumps(line(0)).encode() + b"\n"
        whole = before + (b"\n" if before[-1:] not in (b"", b"\n") else b"")
        assert path.read_bytes() == whole + text
        file.append(line(0))
        assert path.read_bytes() == whole + 2 * text
        file.close()
        file.append(line(0))
        assert path.read_bytes() == whole + 2 * text


def test_a_line_that_is_cut_short_ends_the_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / FILE).write_bytes(bytes(9999) + b"\n")  # longer than what is said here
    file = TimesFile(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_009, hard))
    try:
        file.append(line(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.append(line(1))
    file.close()
    size = len(json.dumps(line(0))) + 1
    assert caplog.messages == [
        f"warning: {tmp_path / FILE}: writing failed (only 9 of {size} bytes were written); no "
        "more times are kept"
    ]
    assert (tmp_path / FILE).stat().st_size == 10_009


def test_a_file_that_cannot_be_written_or_read_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_times(tmp_path) == {}
    (tmp_path / FILE).mkdir()
    with opened(tmp_path) as run:
        assert run.append(record(0), line(0)) and run.append(record(1), line(1))
        assert run.answered("lic_mixup", "16k") == {0, 1}
    assert read_times(tmp_path) == {}
    assert caplog.messages == [
        f"warning: {tmp_path / FILE}: writing failed (Is a directory); no more times are kept",
        f"warning: {tmp_path / FILE}: reading failed (Is a directory); no times are shown",
    ]


# --- what is shown ---


def test_times_are_summarized_by_level() -> None:
    rows = [ScoredRow("lic_mixup", "32k", index, every(1.0)) for index in range(3)]
    rows.append(ScoredRow("lic_mixup", "16k", 0, every(1.0)))
    told = [
        line(0, "32k", prefill_seconds=4.0, decode_seconds=1.0, new_tokens=11, device="H100"),
        line(1, "32k", prefill_seconds=6.0, decode_seconds=3.0, new_tokens=31, device="A100"),
        line(2, "16k", seconds=1.0),  # of a row that is not answered
    ]
    told[0]["peak_memory_bytes"], told[1]["peak_memory_bytes"] = 3 * 2**30, 2**30
    found = times_by_level(
        rows, {("lic_mixup", str(t["level"]), int(str(t["index"]))): t for t in told}
    )
    assert found == {
        "32k": Times(
            rows=2,
            seconds=None,
            prefill=Spread(2, 5.0, 4.2, 5.0, 5.8),
            decode=Spread(2, 2.0, 1.2, 2.0, 2.8),
            tokens_per_second=10.0,
            peak_memory=3.0,
            devices=("A100", "H100"),
        )
    }
    table = tables.times_table(found)
    head = ["", "rows", "prefill", "90 %", "decode", "90 %", "tokens/s", "peak (GiB)", "device"]
    assert table.head == head
    assert table.lines == [
        ["32k", "2", "5.00", "5.80", "2.00", "2.80", "10.0", "3.00", "A100, H100"]
    ]


def test_numbers_that_are_none_are_passed_over() -> None:
    rows = [ScoredRow("lic_mixup", "16k", index, every(1.0)) for index in range(6)]
    values = [2.0, True, "3", -1.0, float("nan"), 10**400]
    told = {
        ("lic_mixup", "16k", index): line(index, seconds=value, new_tokens=None, device=None)
        for index, value in enumerate(values)
    }
    (found,) = times_by_level(rows, told).values()
    assert found == Times(6, Spread(1, 2.0, 2.0, 2.0, 2.0), None, None, None, None, ())


def test_times_are_printed_and_on_the_page_and_in_no_result(tmp_path: Path) -> None:
    source = random.Random(3)
    files = {
        f"lic_mixup_{level}": [make_row("lic_mixup", level, index, source) for index in range(5)]
        for level in ("16k", "64k")
    }
    folder = write_run(tmp_path / "run", files)
    told = [line(index, "64k", seconds=index + 0.5, device="<b>GPU") for index in range(5)]
    (folder / FILE).write_text("".join(json.dumps(each) + "\n" for each in told))
    found = in_process("evaluation.py", "--input-dir", folder, "-v")
    assert found.returncode == 0, found.stderr
    table = found.stdout.partition("times and memory\n")[2].splitlines()
    assert table[0].split() == ["rows", "seconds", "90", "%", "device"]
    assert table[1].split() == ["64k", "5", "2.50", "4.10", "<b>GPU"]
    page = build_report(evaluate(folder), run_analysis.analyze_run(evaluate(folder)))
    shown = html.render(page)
    assert 'id="times"' in shown and "&lt;b&gt;GPU" in shown and "<b>GPU" not in shown
    assert "Times and memory" in tables.markdown(page) and "4.10" in tables.latex(page)
    results = {path.name: path.read_bytes() for path in folder.glob("results*")}
    assert len(results) == 7
    (folder / FILE).unlink()
    found = in_process("evaluation.py", "--input-dir", folder, "-v")
    assert "times and memory" not in found.stdout
    assert {path.name: path.read_bytes() for path in folder.glob("results*")} == results
