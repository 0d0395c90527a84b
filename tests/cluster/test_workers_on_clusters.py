"""Who answers: this process or a Dask cluster, with workers that really die."""

from pathlib import Path

from support.processes import predict

# --- One path for both pools ------------------------------------------------------------------------------------------


def test_two_workers_equal_one_process_whatever_the_batch(data_path: Path, tmp_path: Path) -> None:
    variants: dict[str, tuple[str, ...]] = {
        "single": ("--single-process",),
        "one": ("--num-workers", "1"),
        "two": ("--num-workers", "2"),
        "batch": ("--num-workers", "2", "--batch-size", "3"),
    }
    seen = {}
    for name, options in variants.items():
        found = predict(
            data_path,
            tmp_path / name,
            "--datasets",
            "hotpotwikiqa_mixup",
            "cmrc_mixup",
            "--lengths",
            "1k",
            "2k",
            *options,
        )
        assert found.returncode == 0, found.stderr
        folder = tmp_path / name / "dry"
        seen[name] = {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}
    assert len(seen["single"]) == 4
    assert all(found == seen["single"] for found in seen.values())
