"""Names in another's run folder, answers or options reach no file outside the folders named."""

import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from conftest import in_process
from support.run_folders import make_row, write_run

OUT = "../../outside"
NAMES = {
    "up": OUT,
    "absolute": f"{tempfile.gettempdir()}/outside-{{}}",
    "a link": "link",
    "a home": "~/outside",
    "a NUL": "a\x00/../outside",
    "long": "../" * 1500 + "outside",
    "separators of another system": "..\\..\\outside",
    "a leading dash": "--output-dir=/outside",
    "dots": "...",
    "a break": "a\n../outside",
    "bidi": "\u202e../outside",
    "reserved": "CON",
}


def everything(folder: Path) -> set[Path]:
    """All below a folder, links not followed."""
    return {Path(at, name) for at, *inner in os.walk(folder) for names in inner for name in names}


def another_run(folder: Path, name: str, *selects: str) -> None:
    """A run folder whose run.json and rows have a name wherever one can stand."""
    source = random.Random(0)
    rows = [make_row("hotpotwikiqa_mixup", "16k", number, source) for number in range(3)]
    write_run(folder, {"hotpotwikiqa_mixup_16k": rows}, model_name=name, backend=name)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["sampled"] = manifest["left_out"] = {f"{name}_16k": [0]}
    for field in selects:
        manifest[field][f"{name}_16k"] = 3
    manifest["identity"]["data"] = {f"{name}_16k": f"sha256:{'0' * 64}"}
    manifest["identity"]["prompts"] = {"name": name, "sha256": name, "official": False}
    (folder / "run.json").write_text(json.dumps(manifest))
    attempt = {"dataset": name, "level": "16k", "index": 0, "cause": "error", "message": name}
    (folder / "attempts.jsonl").write_text(json.dumps({"time": name, **attempt}) + "\n")


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_is_no_way_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = NAMES[kind].format(tmp_path.name)
    home, outside, place = tmp_path / "home", tmp_path / "outside", tmp_path / "a/b/outputs"
    for folder in (home, outside, place):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (place / "link").symlink_to(outside)
    another_run(place / "run", name)
    for parts in ("selection", "rows"), ("selection",), ("rows",), ():
        another_run(place / f"dry{len(parts)}{'-'.join(parts)}.part1of2", name, *parts)
    another_run(place / "selecting", name, "selection", "rows")
    answers = tmp_path / "a/answers.csv"
    answers.write_text(
        f"dataset,level,index,pred\n{json.dumps(name)},16k,0,x\n", "utf-8", "surrogateescape"
    )
    before = everything(tmp_path) - everything(place)
    run = place / "run"
    option = name.replace("\x00", ":")
    commands: list[list[str | Path]] = [
        ["evaluation.py", "--input-dir", run],
        ["evaluation.py", "--input-dir", run, "--allow-partial"],
        ["evaluation.py", "--merge", "--output-dir", place, "--model-name", "dry0"],
        ["evaluation.py", "--merge", "--output-dir", place, "--model-name", "dry1rows"],
        ["evaluation.py", "--output-dir", place, f"--model-name={option}"],
        [
            "evaluation.py",
            "--output-dir",
            place,
            f"--model-name={option}",
            "--import",
            "csv",
            answers,
        ],
        ["evaluation.py", "--output-dir", place, "--model-name", "x", "--import", "csv", answers],
        ["-m", "lveval", "report", "--input-dir", run, "--markdown", "--latex"],
        ["-m", "lveval", "verify", run],
        ["-m", "lveval", "verify", place / "selecting"],
        ["evaluation.py", "--input-dir", place / "selecting", "--allow-partial"],
        ["-m", "lveval", "verify", place / "dry1rows.part1of2"],
    ]
    for form in ("lm-eval", "every-eval-ever"):
        export: list[str | Path] = ["-m", "lveval", "export", run, "--format", form]
        commands += [[*export, "--allow-partial"]]
        commands += [[*export, "--allow-partial", f"--model-id={option}", "--output", place / form]]
    for words in commands:
        found = in_process(*words)
        assert found.returncode in (0, 2, 3, 4, 6), (words, found.stderr)
        assert "Traceback" not in found.stderr
    assert everything(tmp_path) - everything(place) == before
    assert not Path(NAMES["absolute"].format(tmp_path.name)).exists()
