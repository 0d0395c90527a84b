"""docs/tour.ipynb runs from top to bottom in a real kernel, and is kept without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

TOUR = ROOT / "docs" / "tour.ipynb"


def test_the_tour_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(TOUR, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell does
    shown = json.dumps(notebook, ensure_ascii=False)
    for part in (
        "scores of the released protocol, 0 to 100, 16/16 rows",
        "protocol:released|",
        "Where is the lever?",
        'did you mean \\"model_name\\"?',
    ):
        assert part in shown, part
    run = json.loads((tmp_path / "tour/outputs/dry-run-own/run.json").read_text())
    assert run["identity"]["subsets"]["my_qa"]["max_new_tokens"] == 32
    assert len(list((tmp_path / "tour/outputs/dry-run").glob("*_?k.jsonl"))) == 4


def test_the_tour_is_kept_without_outputs() -> None:
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
