"""A method at several strengths against the dense run: points, alarms, and the figure."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import in_process
from support.run_folders import make_row, write_run

from lveval.analysis import sweep
from lveval.common.errors import UsageError
from lveval.evaluation import evaluate
from lveval.report import charts, sweep_chart

LEVELS = ("16k", "64k")


def rows(share: float | None, level: str) -> list[dict[str, Any]]:
    """Thirty rows; of a method that keeps a share, so many answers are the dense run's."""
    source, made = random.Random(11), []
    for index in range(30):
        row = make_row("lic_mixup", level, index, source)
        row |= {"status": "ok", "pred": row["answers"][0], "prompt_tokens": 900 + 7 * index}
        if share is not None:
            held = int(share * row["prompt_tokens"])
            row["measures"] = {"kept": held / row["prompt_tokens"], "cache_tokens": held}
            if index >= 30 * share:
                row["pred"] = "错"
        made.append(row)
    return made


def run(folder: Path, share: float | None, **changes: object) -> Path:
    files = {f"lic_mixup_{level}": [r | changes for r in rows(share, level)] for level in LEVELS}
    plugin = {"sha256": "sha256:0", "identity": {"share": share}}
    given = {"given": {"plugins": {"Method": plugin}}} if share is not None else {}
    return write_run(folder, files, data=dict.fromkeys(files, "sha256:1"), **given)


def test_runs_are_placed_by_what_they_kept(tmp_path: Path) -> None:
    dense = evaluate(run(tmp_path / "dense", None))
    runs = {f"kept-{share}": evaluate(run(tmp_path / f"{share}", share)) for share in (0.5, 0.2)}
    found = sweep.sweep_runs(dense, runs)
    assert (found.measure, found.levels, found.alarms, found.notes) == ("kept", [*LEVELS], [], [])
    assert [(point.level, point.run) for point in found.points[:2]] == [
        ("16k", "kept-0.2"),
        ("16k", "kept-0.5"),
    ]
    half = found.points[1]
    assert half.measure == pytest.approx(0.5, abs=0.001) and half.dense == 100
    assert half.difference.value == pytest.approx(half.score - 100) == pytest.approx(-50)
    assert half.difference.low is not None and half.difference.low < -50
    by_tokens = sweep.sweep_runs(dense, runs, "cache_tokens")
    assert by_tokens.points[0].measure < by_tokens.points[1].measure


def test_a_method_that_is_off_raises_the_alarm(tmp_path: Path) -> None:
    dense = evaluate(run(tmp_path / "dense", None))
    disabled = evaluate(run(tmp_path / "off", 1.0))
    found = sweep.sweep_runs(dense, {"off": disabled})
    assert found.alarms == [
        "off: all 60 answers are those of the dense run; is the method on?",
        "off: kept is 1.0 in all 60 rows, long or short; is the method on?",
    ]
    stuck = evaluate(run(tmp_path / "stuck", 0.5, measures={"kept": 0.5}))
    assert sweep.sweep_runs(dense, {"stuck": stuck}).alarms == [
        "stuck: kept is 0.5 in all 60 rows, long or short; is the method on?"
    ]


def test_runs_are_placed_by_their_times(tmp_path: Path) -> None:
    dense, folder = evaluate(run(tmp_path / "dense", None)), run(tmp_path / "half", 0.5)
    times = [
        {"dataset": "lic_mixup", "level": level, "index": index, "seconds": 3.0, "new_tokens": 9}
        for level in LEVELS
        for index in range(30)
    ]
    (folder / "times.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))
    found = sweep.sweep_runs(dense, {"half": evaluate(folder)}, "seconds")
    assert [point.measure for point in found.points] == [3.0, 3.0] and not found.alarms


def test_what_cannot_be_swept_is_refused(tmp_path: Path) -> None:
    dense = evaluate(run(tmp_path / "dense", None))
    half = evaluate(run(tmp_path / "half", 0.5))
    with pytest.raises(UsageError, match=r'record no number "seconds"'):
        sweep.sweep_runs(dense, {"half": half}, "seconds")
    with pytest.raises(UsageError, match=r'record no number "density"; found kept, cache_tokens'):
        sweep.sweep_runs(dense, {"half": half}, "density")
    with pytest.raises(UsageError, match="--sweep-by is missing: all runs record no number"):
        sweep.sweep_runs(dense, {"dense": dense})


def test_the_figure_and_the_table_are_on_the_page(tmp_path: Path) -> None:
    dense, name = run(tmp_path / "dense", None), 'half <b>&"'
    half, off = run(tmp_path / name, 0.5), run(tmp_path / "off", 1.0)
    found = in_process("-m", "lveval", "report", "--input-dir", dense, "--sweep", half, off)
    assert found.returncode == 0, found.stderr
    assert "warning: off: all 60 answers are those of the dense run" in found.stderr
    assert re.search(r"16k, half .* 0\.49\d+ +50\.00 +100\.00 +-50\.00", found.stdout)
    page = (dense / "report.html").read_text(encoding="utf-8")
    assert "Score by kept, and of the dense run" in page and "is the method on?" in page
    assert "<b>" not in page


def test_the_figure_stays_within_its_frame(tmp_path: Path) -> None:
    dense = evaluate(run(tmp_path / "dense", None))
    runs = {name: evaluate(run(tmp_path / name, share)) for name, share in (("a", 0.3), ("b", 1.0))}
    found = sweep.sweep_runs(dense, runs)
    for width in charts.WIDTHS:
        drawn = sweep_chart.draw(found, width)
        assert drawn.count("<circle") == 4 and drawn.count('class="dense s') == 2
        for x in re.findall(r'c?x[12]?="([\d.-]+)"', drawn):
            assert 0 <= float(x) <= width
