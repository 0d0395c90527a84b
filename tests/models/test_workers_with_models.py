"""Who answers: this process or a Dask cluster, with workers that really die."""

from pathlib import Path

from conftest import lines, row, script, write_data


def test_where_every_row_fails_the_run_ends_early(chat_model: Path, tmp_path: Path) -> None:
    rows = [row(number=number, input="INDEX") for number in range(30)]
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    found = script(
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--trust-remote-code", "--model-max-len", "400",
        "--model-path", chat_model, "--single-process",
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "none of the 20 rows that were tried has an answer" in found.stderr
    assert "IndexError: list index out of range" in found.stderr.splitlines()[-1]
    assert "same command again" not in found.stderr
    assert len(lines(tmp_path / "out/dry/attempts.jsonl")) == 20


def test_an_engine_that_breaks_in_a_single_process_ends_it_resumable(
    chat_model: Path, tmp_path: Path
) -> None:
    rows = [row(number=number) for number in range(6)]
    rows[2]["input"] = "FAULT"
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    command: tuple[str | Path, ...] = (
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--single-process", "--trust-remote-code",
        "--model-max-len", "400", "--model-path", chat_model,
    )  # fmt: skip
    for _ in range(2):  # the second time that row comes last
        found = script(*command)
        assert found.returncode == 3, found.stderr
        assert (
            "Traceback" not in found.stderr
            and "row 2" in found.stderr
            and "same command again" in found.stderr
        )
    done = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert sorted(int(str(record["index"])) for record in done) == [0, 1, 3, 4, 5]
    attempts = lines(tmp_path / "out/dry/attempts.jsonl")
    assert [(attempt["index"], attempt["cause"]) for attempt in attempts] == [(2, "error")] * 2
