"""Runs in parts, beside the same run in one piece."""

import json
from pathlib import Path
from typing import Any

from conftest import in_process

RESULTS = ("results.json", "results.csv", "results_meta.json", "results_recall.json")


def predict(output: Path, *options: str | Path, code: int = 0) -> str:
    """Run prediction.py as a dry run, unless `options` say otherwise; what it said."""
    words = ("prediction.py", "--single-process", "--output-dir", output, *options)
    found = in_process(*words)
    assert found.returncode == code, found.stderr
    return found.stderr


def evaluate(folder: Path, *options: str | Path, code: int = 0) -> str:
    """Run evaluation.py; what it said."""
    found = in_process("evaluation.py", "--input-dir", folder, *options)
    assert found.returncode == code, found.stderr
    return found.stderr


def manifest(folder: Path) -> dict[str, Any]:
    """run.json without its log, which has times and command lines."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del found["log"]
    return found


def derived(folder: Path) -> dict[str, bytes]:
    """The files that are made of the rows, and the rows in their order."""
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}
    files |= {name: (folder / name).read_bytes() for name in RESULTS}
    for path in sorted(folder.glob("rows/*.jsonl")):
        files[f"rows/{path.name}"] = b"".join(sorted(path.read_bytes().splitlines(keepends=True)))
    return {name: content for name, content in files.items() if name != "times.jsonl"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, to see whether it was touched."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
