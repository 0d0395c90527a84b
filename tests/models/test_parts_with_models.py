"""A run in parts with real weights, merged: the bytes of the run in one piece."""

from pathlib import Path

from conftest import in_process
from support.part_runs import derived, evaluate, manifest, predict


def test_merged_parts_of_a_real_model_are_the_bytes_of_one_run(
    model_path: Path, tmp_path: Path
) -> None:
    data, subsets = tmp_path / "data", ("factrecall_en", "factrecall_zh")
    built = in_process(
        "-m", "lveval", "construct", "--output-dir", data, "--datasets", *subsets,
        "--lengths", "1k", "--rows", "2",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    words: tuple[str | Path, ...] = (
        "--model-path",
        model_path,
        "--model-name",
        "smollm2",
        "--model-max-len",
        "700",
    )
    words += ("--data-path", data, "--datasets", *subsets, "--lengths", "1k")
    predict(tmp_path / "single", *words)
    evaluate(tmp_path / "single/smollm2")
    for which in ("1/2", "2/2"):
        predict(tmp_path, *words, "--part", which)
    evaluate(tmp_path / "smollm2", "--merge")
    assert derived(tmp_path / "smollm2") == derived(tmp_path / "single/smollm2")
    assert manifest(tmp_path / "smollm2") == manifest(tmp_path / "single/smollm2")
    assert (tmp_path / "smollm2/times.jsonl").read_bytes().count(b"\n") == 4
