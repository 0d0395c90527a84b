"""What the terminal says of scores and comparisons: the answer last, one number everywhere."""

import csv
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import ROOT, in_process
from support.run_folders import LEVELS, full, make_row, write_run

from lveval.analysis import comparison
from lveval.analysis.run_analysis import analyze_run
from lveval.common.table import WIDTH, text_table
from lveval.evaluation import evaluate
from lveval.report import html
from lveval.report.data import build_report
from lveval.report.leaderboard import read_leaderboards
from lveval.report.tables import markdown
from lveval.results import mean, run_names, shortened

__all__ = ["full"]  # a fixture

SUBSETS = ("hotpotwikiqa_mixup", "factrecall_en", "lic_mixup")


def printed(*words: str | Path) -> list[str]:
    """The lines that evaluation.py prints."""
    found = in_process("evaluation.py", *words)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def wide(lines: list[str]) -> list[str]:
    """Lines over WIDTH, but for those that hold a path or command, which cannot be broken."""
    return [line for line in lines if len(line) > WIDTH and not line.startswith("run folder: ")]


def made_run(
    folder: Path, rows: int, better: float = 0.0, seed: int = 5, **identity: object
) -> Path:
    """Three subsets at all levels with some rows each, of which a share is right."""
    source = Random(seed)
    files: dict[str, list[dict[str, Any]]] = {}
    for subset in SUBSETS:
        for level in LEVELS:
            made = [make_row(subset, level, index, source) for index in range(rows)]
            for row in made:
                if source.random() < better:
                    row["pred"] = row["answers"][0]
            files[f"{subset}_{level}"] = made
    return write_run(folder, files, **identity)


# --- a wall of text ---------------------------------------------------------------------------------


def test_a_full_run_ends_with_its_scores(full: Path) -> None:
    lines = printed("--input-dir", full)
    assert len(lines) <= 40 and not wide(lines)
    last = "\n".join(lines[-10:])
    for protocol in ("released", "described", "recall"):
        numbers = r" +\d+\.\d\d" * 6
        assert re.search(rf"^mean, {protocol}{numbers} +\d+\.\d to \d+\.\d$", last, re.M)
    assert re.search(r"^full scores \d+\.\d\d \(", last, re.M)
    assert lines[-1].startswith(f"run folder: {full}; next: ")
    assert lines[-1].endswith(f"lveval report --input-dir {full} --leaderboard")
    more = printed("--input-dir", full, "-v")
    assert not wide(more) and more[-20:] == lines[-20:]
    for title in ("rows answered", "by task group", "what length costs", "points lost by cause"):
        assert any(line.startswith(title) for line in more)
        assert not any(line.startswith(title) for line in lines)
    assert "wording (right, not verbatim): right, if not in just the truth's words" in more


def test_many_partial_files_are_not_listed_one_by_one(tmp_path: Path) -> None:
    files = {
        f"lic_mixup_{level}": [make_row("lic_mixup", level, 0, Random(level))] for level in LEVELS
    }
    folder = write_run(tmp_path / "run", files)
    (folder / "run.json").unlink()  # then the published files' rows are what there could be
    lines = printed("--input-dir", folder)
    assert sum("scored on 1 of the 197 rows" in line for line in lines) == 3
    assert "2 more files are scored on a part of their rows." in lines


def test_unfinished_files_are_listed_until_there_are_many(tmp_path: Path) -> None:
    files: dict[str, list[dict[str, Any]]] = {f"lic_mixup_{number}k": [] for number in range(1, 14)}
    files["lic_mixup_1k"] = [make_row("lic_mixup", "1k", 0, Random(1))]
    folder = write_run(tmp_path / "run", {name: rows for name, rows in files.items() if rows})
    manifest = json.loads((folder / "run.json").read_text())
    selected = {**manifest, "selection": dict.fromkeys(files, 2)}
    (folder / "run.json").write_text(json.dumps(selected))
    lines = printed("--input-dir", folder, "--allow-partial")
    assert sum(bool(re.match(r"lic_mixup_\d+k +[01]/2", line)) for line in lines) == 10
    assert "3 more files are unfinished (-v lists them)." in lines
    assert any("; 25 rows have no answer yet and do not count." in line for line in lines)


def test_a_table_too_wide_goes_on_below() -> None:
    lines = [["subset", "aaaa", "bbbb", "cccc"], ["x", "1", "2", "3"]]
    assert text_table(lines, width=18).split("\n\n") == [
        "subset  aaaa  bbbb\nx          1     2",
        "subset  cccc\nx          3",
    ]
    assert text_table(lines, width=24) == text_table(lines)


# --- comparisons ------------------------------------------------------------------------------------


def test_several_runs_stand_in_one_table_then_every_pair(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / name, 8, better, seed)
        for seed, (name, better) in enumerate({"weak": 0.0, "strong": 0.9, "twin": 0.9}.items())
    ]
    lines = printed("--input-dir", runs[0], "--compare", *runs[1:])
    assert not wide(lines) and len(lines) <= 45
    rows = [line.split() for line in lines if re.search(r"^\w+( +\d+\.\d\d[*<]?){6}$", line)]
    table = {name: cells for name, *cells in rows}
    assert list(table) == ["weak", "strong", "twin"]
    assert all(cell.endswith("<") for cell in table["weak"])  # shown to be lower than the best
    for of_strong, of_twin in zip(table["strong"], table["twin"], strict=True):
        assert sorted(cell[-1] for cell in (of_strong, of_twin))[0] == "*"
        assert "<" not in of_strong + of_twin
    text = " ".join(" ".join(lines).split())
    for first, second in (("strong", "weak"), ("twin", "weak")):
        assert re.search(
            rf"{first} is better than {second} by \d+\.\d\d \(\d+\.\d to \d+\.\d, p 0\.\d+, \d+ q",
            text,
        )
    assert "no difference shown between strong and twin: " in text
    assert re.search(r"^strong - twin( +[+-]\d+\.\d\d ?){6}$", "\n".join(lines), re.M)
    data = json.loads((runs[0] / "comparison.json").read_text())
    assert list(data["compared"]) == [str(run) for run in runs[1:]]
    (between,) = data["between_others"]
    assert (between["a"], between["b"]) == (str(runs[1]), str(runs[2]))
    parts = [
        *(data["compared"][str(run)]["overall"] for run in runs[1:]),
        between["released"]["overall"],
    ]
    # Holm over the three pairs: the least p-value counts three times, the largest once.
    least, _, largest = sorted(parts, key=lambda part: float(part["p"]))
    assert least["p_holm"] == pytest.approx(3 * least["p"], abs=2e-6)
    assert largest["p_holm"] == largest["p"]
    every = printed("--input-dir", runs[0], "--compare", *runs[1:], "-v")
    assert not wide(every) and sum(line.startswith("compared ") for line in every) == 3


def test_two_others_that_cannot_be_compared_are_left_out(tmp_path: Path) -> None:
    names = {"ours": {}, "one": {"lic_mixup_16k": "sha256:1"}, "two": {"lic_mixup_16k": "sha256:2"}}
    rows = [make_row("lic_mixup", "16k", index, Random(index)) for index in range(4)]
    runs = [
        write_run(tmp_path / name, {"lic_mixup_16k": rows}, data=data)
        for name, data in names.items()
    ]
    found = in_process("evaluation.py", "--input-dir", runs[0], "--compare", *runs[1:])
    assert found.returncode == 0
    assert (
        f"{runs[1]}: not compared with {runs[2]}: cannot be compared: the data of" in found.stderr
    )
    assert "between one and two" not in found.stdout
    assert "between ours and two" in found.stdout


def test_levels_of_other_files_are_not_set_against_each_other(tmp_path: Path) -> None:
    chance = Random(2)
    rows = {
        name: [make_row(name, "16k", index, chance) for index in range(5)]
        for name in ("lic_mixup", "cmrc_mixup")
    }
    runs = [
        write_run(tmp_path / str(number), {f"{name}_16k": rows[name] for name in names})
        for number, names in enumerate(
            (("lic_mixup",), ("lic_mixup", "cmrc_mixup"), ("lic_mixup",))
        )
    ]
    lines = printed("--input-dir", runs[0], "--compare", *runs[1:])
    said = "*: the best; <: shown to be lower than the best. No marks at 16k, mean, where the runs"
    assert any(line.startswith(said) for line in lines)
    assert not any(re.search(r"\d\*", line) for line in lines)


def test_names_are_short_unlike_and_safe(tmp_path: Path) -> None:
    names = ["Qwen2.5-72B-Instruct", "Qwen2.5-14B-Instruct", "Qwen2.5-3B-Instruct", "yi"]
    short = shortened(names, 12)
    assert short[0] == "Qwen2.…truct" and short[3] == "yi"
    assert len(set(short)) == 4 and all(len(name) <= 12 for name in short)
    rows = {"lic_mixup_16k": [make_row("lic_mixup", "16k", 0, Random(1))]}
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c\x1b[31m\nd"]
    runs = [evaluate(write_run(folder, rows)) for folder in folders]
    assert run_names(runs) == [str(folders[0]), str(folders[1]), "c\\u001b[31m d"]
    lines = printed("--input-dir", folders[0], "--compare", *folders[1:], "-v")
    assert "\x1b" not in "\n".join(lines)


def test_the_best_is_bold_on_a_terminal_only(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, 1, seed=seed) for seed, name in enumerate("abc")]
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "evaluation.py"), "--input-dir", str(runs[0])]
    command += ["--compare", *map(str, runs[1:])]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 65536):
                text += piece
        except OSError:  # as Linux tells that the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"\x1b\[1m\d+\.\d\d\x1b\[0m ", text) and not re.search(rb"\d\*", text)


# --- one number a figure ----------------------------------------------------------------------------


def test_a_mean_is_the_same_number_wherever_it_stands(tmp_path: Path) -> None:
    ours = made_run(tmp_path / "ours", 7, 0.2, seed=3)
    other = made_run(tmp_path / "other", 7, 0.3, seed=4)
    third = made_run(tmp_path / "third", 7, 0.1, seed=5)
    evaluation, *others = map(evaluate, (ours, other, third))
    found = analyze_run(evaluation)
    # There is something to tell apart: the mean of scores that are not rounded is another.
    plain = found.intervals["released"]
    printed("--input-dir", ours)
    with (ours / "results.csv").open(newline="") as cells_of:
        header, *table = csv.reader(cells_of)
    assert header[1:] == list(LEVELS)
    columns = zip(*([float(cell) for cell in line[1:]] for line in table), strict=True)
    expected = {level: mean(column) for level, column in zip(LEVELS, columns, strict=True)}
    overall = mean([*expected.values()])
    assert any(f"{plain.levels[level].value:.2f}" != f"{expected[level]:.2f}" for level in LEVELS)
    shown = [f"{value:.2f}" for value in (*expected.values(), overall)]

    meta = json.loads((ours / "results_meta.json").read_text())
    assert meta["means"]["released"]["levels"] == expected
    lines = printed("--input-dir", ours)
    (means,) = (line.split() for line in lines if line.startswith("mean, released"))
    assert means[2:8] == shown
    assert f"ours scores {shown[-1]} (" in "\n".join(lines)
    more = printed("--input-dir", ours, "-v")
    at = more.index("means with 95 % intervals, by a bootstrap over questions")
    assert [line.split()[1] for line in more[at + 2 : at + 8]] == shown

    compared = printed("--input-dir", ours, "--compare", other, third, "-v")
    (row,) = (line for line in compared if line.startswith("ours  "))
    assert re.findall(r"\d+\.\d\d", row) == shown
    tables = "\n".join(compared).split("\ncompared ")
    for part, value in zip((*LEVELS, "all"), shown, strict=True):
        assert re.search(rf"^{part} +{re.escape(value)} ", tables[1], re.M)
    data = json.loads((ours / "comparison.json").read_text())["compared"][str(other)]
    assert {level: part["a"] for level, part in data["levels"].items()} == expected
    assert data["overall"]["a"] == overall

    page = build_report(
        evaluation,
        found,
        published=read_leaderboards(),
        rank=True,
        compared=comparison.compare_under_all(evaluation, {run.place: run for run in others}),
        others=others,
    )
    assert f"{page.headline.overall.value:.2f}" == shown[-1]
    assert page.sentence in " ".join(" ".join(lines).split())
    assert page.headline.standing is not None
    (line,) = (line for line in page.headline.standing.lines if line.this_run)
    assert [f"{value:.2f}" for value in (*line.levels, line.mean or 0)] == shown
    cells = [
        re.findall(r"\d+\.\d\d", row)
        for row in markdown(page).splitlines()
        if row.startswith("| mean |")
    ]
    assert cells[0] == shown
    text = html.render(page)
    row = re.findall(r"<th scope=\"row\">mean, released</th>(.*?)</tr>", text)[0]
    assert re.findall(r"\d+\.\d\d", re.sub(r"<[^>]*>", " ", row))[:5] == shown[:5]
    for other_run in page.headline.other_runs:
        told = [f"{other_run.level_mean(level, SUBSETS):.2f}" for level in LEVELS]
        (row,) = (line for line in compared if line.startswith(f"{other_run.name}  "))
        assert re.findall(r"\d+\.\d\d", row)[:5] == told
