"""The benchmark for GPUs takes its steps on a CPU too: a worker, an out-of-memory row, a table."""

from pathlib import Path

from conftest import script

COLUMNS = 8


def test_the_gpu_benchmark_compares_and_a_row_without_memory_fails_alone(
    model_path: Path, tmp_path: Path
) -> None:
    page = tmp_path / "gpu.md"
    found = script("benchmarks/gpu.py", "--cpu", "--tokenizer", model_path, "--output", page)
    assert found.returncode == 0, found.stdout + found.stderr
    assert page.read_text() == found.stdout
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in found.stdout.splitlines()
        if line.startswith("|")
    )
    assert len(head) == COLUMNS and {len(row) for row in rows} == {COLUMNS}
    # Of four rows the first warms up and the second is the one without memory.
    assert [row[1] for row in rows] == ["whole"] * 2 + ["512"] * 2
    tokens = [int(row[0].replace(",", "")) for row in rows]
    assert all(1000 < short < long <= 2600 for short, long in (tokens[:2], tokens[2:]))
    for row in rows:
        assert all(float(cell) > 0 for cell in row[2:5]), row  # ratios, whatever they are here
        assert row[5:] == ["-", "-", "same"]  # no card, so no memory of one
    notes = [line for line in found.stdout.splitlines() if line.startswith("- ")]
    assert [line.split(":")[0] for line in notes] == ["- prefill whole", "- prefill 512"]
    for line in notes:
        assert "cpu, float32, sdpa; without memory error (out of memory at 1" in line
        assert line.endswith("), the next row length")


def test_without_a_gpu_the_benchmark_names_the_mode_that_needs_none() -> None:
    found = script("benchmarks/gpu.py", CUDA_VISIBLE_DEVICES="")
    assert found.returncode == 2 and "--cpu takes the same steps" in found.stderr
