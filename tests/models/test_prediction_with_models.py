"""rows → answers: options, selection, resuming, refusals. Run as a user runs it."""

import shutil
from pathlib import Path

from conftest import lines, script
from support.prediction_parts import SELECTION


def test_a_model_beyond_its_window_is_refused_before_loading(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    found = script(
        "prediction.py", "--model-path", tiny_model, "--data-path", data_path, "--output-dir", tmp_path / "out",
        *SELECTION, "--model-max-len", "4000",
    )  # fmt: skip
    assert found.returncode == 2 and "window is 2048" in found.stderr


def test_rows_beyond_the_window_wait_for_retry_failed(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "small"))
    options: tuple[str | Path, ...] = (
        "prediction.py", "--model-path", folder, "--data-path", data_path, "--output-dir", tmp_path / "out",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "2k", "--single-process", "--model-max-len", "150",
        "--limit", "2", "--backend-args", "window=220",  # the answer fits, the chat format as well does not
    )  # fmt: skip
    first = script(*options)
    assert first.returncode == 3 and "context_overflow: 2" in first.stderr
    second = script(*options)
    assert second.returncode == 3 and "skipped" in second.stderr
    assert script(*options, "--retry-failed").returncode == 3
    assert len(lines(tmp_path / "out/small/attempts.jsonl")) == 4
    assert not (tmp_path / "out/small/hotpotwikiqa_mixup_2k.jsonl").exists()
