"""The documented commands from data to results, and runs that are killed on the way."""

from pathlib import Path

import pandas
import pytest
from conftest import ROOT
from support.end_to_end_parts import bash, built, three_ways

__all__ = ["built"]  # fixtures


def test_the_three_documented_ways_give_the_same_files_with_echo(
    built: Path, tmp_path: Path
) -> None:
    common = ["--backend", "echo", "--data-path", str(built), "--lengths", "1k", "--limit", "1"]
    ways = three_ways("unused/path", "dry", "700", tmp_path, common)
    assert len(ways[0]) == 11
    assert ways[0] == ways[1] == ways[2]
    table = pandas.read_csv(tmp_path / "single/dry/results.csv", index_col="dataset_name")
    assert list(table.columns) == ["1k", "16k", "32k", "64k", "128k", "256k"]
    assert table["1k"].notna().sum() == 11 and table["16k"].isna().all()


@pytest.mark.parametrize(
    "name", ["batch_eval_single.sh", "batch_eval_multiple.sh", "batch_eval_gpt_single.sh"]
)
def test_a_script_without_its_arguments_tells_its_usage(name: str) -> None:
    found = bash(name, "model")
    assert found.returncode == 2 and f"usage: bash {name} " in found.stderr


def test_a_script_passes_odd_arguments_through_untouched(built: Path, tmp_path: Path) -> None:
    name = "a model; touch $(pwd)/owned"
    common = ["--backend", "echo", "--data-path", str(built), "--lengths", "1k", "--limit", "1"]
    found = bash(
        "batch_eval_single.sh",
        "x",
        name,
        "700",
        *common,
        "--datasets",
        "lic_mixup",
        OUTPUT_DIR=str(tmp_path / "a b"),
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "a b" / name.replace("/", "__") / "results.json").is_file()
    assert not (ROOT / "owned").exists()


@pytest.mark.parametrize("option", ["--plan", "--check"])
def test_a_script_that_only_looks_ahead_scores_nothing(
    built: Path, tmp_path: Path, option: str
) -> None:
    found = bash(
        "batch_eval_single.sh", "x", "dry", "700", "--backend", "echo", "--data-path", built, "--lengths", "1k", option,
        OUTPUT_DIR=str(tmp_path),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert not list(tmp_path.glob("*/*"))


def test_a_script_ends_with_the_first_code_that_is_not_zero(built: Path, tmp_path: Path) -> None:
    found = bash(
        "batch_eval_single.sh", "x", "dry", "700", "--backend", "echo", "--data-path", built, "--lengths", "9k",
        OUTPUT_DIR=str(tmp_path),
    )  # fmt: skip
    assert found.returncode == 2 and not list(tmp_path.glob("*/results*"))


def test_the_same_command_again_resumes_and_asks_nothing_twice(built: Path, tmp_path: Path) -> None:
    common = ["--backend", "echo", "--data-path", str(built), "--lengths", "1k"]
    for _ in range(2):
        found = bash("batch_eval_single.sh", "x", "dry", "700", *common, OUTPUT_DIR=str(tmp_path))
        assert found.returncode == 0, found.stderr
    for path in (tmp_path / "dry/rows").iterdir():
        assert path.read_bytes().count(b"\n") == 2
